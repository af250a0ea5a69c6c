"""A stack's life: up, status, down, up again; beside others; and what it leaves on the disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from databases import free_port, short_directory
from knowledge_persistence.embedded import Stack
from knowledge_persistence.embedded import supervisor as supervisor_module
from knowledge_persistence.embedded.home import Home
from knowledge_persistence.embedded.processes import wait_until
from knowledge_persistence.embedded.supervisor import Supervisor, is_port_free, is_stack
from knowledge_persistence.errors import EmbeddedStackError
from stacks import RunningStack, new_stack, processes_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


# The installed command may be another checkout's.
KP = [sys.executable, "-c", "import sys; from knowledge_persistence.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def own() -> Generator[RunningStack]:
    """A stack that this module's tests may stop and start; running when a test begins."""
    with short_directory() as directory, new_stack(directory / "home") as stack:
        yield RunningStack(stack)


@pytest.fixture
def running(own: RunningStack) -> RunningStack:
    own.stack.up()
    return RunningStack(own.stack)


def kp(home: Path, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KP, *arguments],
        check=False,
        env={**os.environ, "KP_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_up_status_down(running: RunningStack) -> None:
    running.stack.down()
    up = kp(running.home, "up", "--detach", "--json")
    assert up.returncode == 0, up.stderr
    status = kp(running.home, "status", "--json")
    assert status.returncode == 0
    for printed in (json.loads(up.stdout), json.loads(status.stdout)):
        assert printed["state"] == "running"
        assert printed["api_url"] == running.url
        assert printed["publishable_key"] == running.config.publishable_key
        assert printed["secret_key"] == running.config.secret_key
        assert printed["database_url"] == running.config.database_url("authenticator")
        assert printed["admin_database_url"] == running.config.database_url("postgres")
        assert printed["services"]["postgres"]["state"] == "running"
        assert printed["services"]["front"]["port"] == running.config.origin_port
        assert printed["migrations"]["pending"] == []
        assert len(printed["migrations"]["applied"]) > 0
    assert running.processes()
    down = kp(running.home, "down")
    assert down.returncode == 0
    assert running.processes() == []
    assert is_port_free(running.config.origin_port)
    assert is_port_free(running.config.database_port)
    stopped = kp(running.home, "status", "--json")
    assert (stopped.returncode, json.loads(stopped.stdout)["state"]) == (3, "stopped")


def test_what_people_read(running: RunningStack) -> None:
    shown = kp(running.home, "status")
    for telling in (running.url, running.config.publishable_key, running.config.database_url(), "kp studio"):
        # Whole, on one line, however narrow the terminal.
        assert telling in shown.stdout
    again = kp(running.home, "up")
    assert again.returncode == 0
    assert "running already" in again.stderr
    assert running.url in again.stdout


def test_data_and_keys_survive(running: RunningStack) -> None:
    running.sql("create table if not exists public.survivors (word text)")
    running.sql("insert into public.survivors values ('still here')")
    before = running.config
    running.stack.down()
    Stack(running.home).up()
    assert running.sql("select word from public.survivors") == [("still here",)]
    running.sql("drop table public.survivors")
    assert Home(running.home).load_config() == before
    answer = running.call("/auth/v1/token?grant_type=password", running.anon, body=_sign_in(running))
    assert answer.json["user"]["id"] == running.credential.user_id


def _sign_in(stack: RunningStack) -> dict[str, Any]:
    credential = stack.credential
    assert credential.password is not None
    return {"email": credential.email, "password": credential.password}


def test_secrets_are_for_the_owner_only(running: RunningStack) -> None:
    secret = [
        running.home / "stack.json",
        running.home / "credentials.json",
        running.home / "run" / "state.json",
        *(running.home / "logs").iterdir(),
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert stat.S_IMODE((running.home / "postgres").stat().st_mode) == 0o700
    assert stat.S_IMODE(running.home.stat().st_mode) & 0o066 == 0


def test_no_secret_is_in_arguments_or_environments(running: RunningStack) -> None:
    secrets = [running.config.secret_key, running.config.jwt_secret, *running.config.passwords.values()]
    for process in running.processes():
        seen = " ".join([*process.cmdline(), *process.environ().values()])
        assert not [secret for secret in secrets if secret in seen], process


def test_keys_have_the_format_of_self_hosted_supabase(running: RunningStack) -> None:
    assert len(running.config.publishable_key) == len("sb_publishable_") + 22 + 1 + 8
    assert running.config.secret_key.startswith("sb_secret_")
    assert len(running.config.jwt_secret) == 64


def test_two_stacks_side_by_side(running: RunningStack, home: Path) -> None:
    with new_stack(home) as other_stack:
        other = RunningStack(other_stack)
        assert other.config.publishable_key != running.config.publishable_key
        assert running.call("/auth/v1/settings", other.anon).status == 401
        assert other.call("/auth/v1/settings", other.anon).status == 200
        other.stack.down()
        assert running.call("/healthz").status == 200
        assert processes_of(home) == []
    assert running.processes()


def test_a_new_directory_gives_way_to_another_stack(
    running: RunningStack, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "DEFAULT_PORT", running.config.origin_port)
    said: list[str] = []
    supervisor = Supervisor(Home(home), report=lambda event: said.append(event["message"]))
    origin, database = supervisor._choose_ports()
    assert (origin - running.config.origin_port) % 10 == 0
    assert (origin > running.config.origin_port, database) == (True, origin + 1)
    assert str(origin) in said[0]
    # Only for a stack: any other program on the default port is an error.
    monkeypatch.setattr(supervisor_module, "DEFAULT_PORT", running.config.database_port)
    assert not is_stack(running.config.database_port)
    assert supervisor._choose_ports()[0] == running.config.database_port


def test_other_ports_are_kept_and_the_sign_in_moves_along(running: RunningStack) -> None:
    running.stack.down()
    user = running.credential.user_id
    old_url = running.url
    Stack(running.home, port=free_port()).up()
    moved = RunningStack(running.stack)
    assert moved.url != old_url
    assert moved.credential.user_id == user
    assert moved.call("/auth/v1/user", moved.me).status == 200
    moved.stack.down()
    Stack(running.home).up()
    assert RunningStack(running.stack).url == moved.url


def test_in_the_foreground_until_interrupted(running: RunningStack) -> None:
    running.stack.down()
    process = subprocess.Popen(
        [*KP, "up", "--json"],
        env={**os.environ, "KP_HOME": str(running.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert wait_until(lambda: running.stack.status().state == "running", timeout=30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out)["api_url"] == RunningStack(running.stack).url
    assert running.processes() == []


def test_two_starts_at_once_make_one_stack(running: RunningStack) -> None:
    running.stack.down()
    command = [*KP, "up", "--detach", "--json"]
    environment = {**os.environ, "KP_HOME": str(running.home)}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert json.loads(out)["state"] == "running"
    supervisors = [p for p in running.processes() if "knowledge_persistence.embedded" in p.cmdline()]
    assert len(supervisors) == 1


def test_down_without_a_stack(home: Path) -> None:
    done = kp(home, "down")
    assert done.returncode == 0
    status = kp(home, "status", "--json")
    assert (status.returncode, json.loads(status.stdout)["state"]) == (3, "absent")
    assert not home.exists()


def test_logs(running: RunningStack) -> None:
    everything = kp(running.home, "logs")
    assert "postgres" in everything.stdout
    one = kp(running.home, "logs", "postgres", "-n", "5")
    assert 0 < len(one.stdout.splitlines()) <= 5
    none = kp(running.home, "logs", "nonsense")
    assert none.returncode == 3


def test_logs_follow(running: RunningStack) -> None:
    process = subprocess.Popen(
        [*KP, "logs", "postgres", "-f", "-n", "0"],
        env={**os.environ, "KP_HOME": str(running.home)},
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        os.set_blocking(pipe, False)
        heard = b""

        def listen() -> bool:
            # It may not have looked at the file yet: say it until it is heard.
            nonlocal heard
            running.sql("do $$ begin raise log 'a line for the follower'; end $$")
            with contextlib.suppress(BlockingIOError):
                heard += os.read(pipe, 100_000)
            return b"a line for the follower" in heard

        assert wait_until(listen, timeout=20, interval=0.2)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)


def test_a_lost_configuration_is_not_replaced(running: RunningStack) -> None:
    running.stack.down()
    config_file = running.home / "stack.json"
    kept = config_file.read_text()
    config_file.unlink()
    try:
        with pytest.raises(EmbeddedStackError, match=r"stack\.json with its keys and passwords is missing"):
            Stack(running.home).up()
        assert (running.home / "postgres" / "PG_VERSION").exists()
        assert (running.home / "logs").is_dir()
    finally:
        config_file.touch(mode=0o600)
        config_file.write_text(kept)
    running.stack.up()


def test_a_lost_database_is_not_replaced_and_comes_back_from_a_backup(
    running: RunningStack, tmp_path: Path
) -> None:
    """What the guide says of another machine: the archive's secrets, an empty database, the restore."""
    archive, note = tmp_path / "memory.kpbackup", "The ferry to Pemba leaves at low tide."
    assert kp(running.home, "remember", note).returncode == 0
    made = kp(running.home, "backup", str(archive))
    assert made.returncode == 0, made.stderr
    running.stack.down()
    with short_directory() as directory:
        elsewhere = directory / "home"
        elsewhere.mkdir()
        with tarfile.open(archive) as opened:
            for member in opened.getmembers():
                if member.name.startswith("secrets/"):
                    content = opened.extractfile(member)
                    assert content is not None
                    (elsewhere / member.name.removeprefix("secrets/")).write_bytes(content.read())
        refused = kp(elsewhere, "up", "--detach")
        assert refused.returncode == 1
        assert "--new-database" in refused.stderr
        assert {path.name for path in elsewhere.iterdir()} >= {"stack.json", "credentials.json"}
        try:
            for command in (("up", "--detach", "--new-database"), ("restore", str(archive), "--replace")):
                done = kp(elsewhere, *command)
                assert done.returncode == 0, done.stderr
            recalled = kp(elsewhere, "recall", "when does the ferry to Pemba leave", "--json")
            assert json.loads(recalled.stdout)[0]["content"] == note
            assert RunningStack(Stack(elsewhere)).config == running.config
            Stack(elsewhere).down()
            again = kp(elsewhere, "up", "--new-database")
            assert again.returncode == 1
            assert "has a database" in again.stderr
        finally:
            Stack(elsewhere).down()


def test_keys_survive_a_new_database_that_can_t_be_made(
    running: RunningStack, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.stack.down()
    home.mkdir()
    for name in ("stack.json", "credentials.json"):
        (home / name).write_bytes((running.home / name).read_bytes())

    def fail(*_: object, **__: object) -> None:
        raise EmbeddedStackError("no such luck")

    monkeypatch.setattr(Supervisor, "_prepare_database", fail)
    with pytest.raises(EmbeddedStackError, match="no such luck"):
        Supervisor(Home(home), new_database=True, report=lambda _: None).run()
    assert {path.name for path in home.iterdir()} >= {"stack.json", "credentials.json"}
    assert not (home / "postgres").exists()
    assert (home / "credentials.json").read_bytes() == (running.home / "credentials.json").read_bytes()


def test_a_database_of_another_version_is_left_alone(running: RunningStack) -> None:
    running.stack.down()
    version = running.home / "postgres" / "PG_VERSION"
    kept = version.read_text()
    version.write_text("17\n")
    try:
        with pytest.raises(EmbeddedStackError, match="belongs to PostgreSQL 17; this installation has 18"):
            running.stack.up()
    finally:
        version.write_text(kept)
    running.stack.up()
