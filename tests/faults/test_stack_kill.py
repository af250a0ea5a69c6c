"""Killed parts come back, a killed stack recovers, and what was acknowledged is there."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from databases import short_directory
from knowledge_persistence.embedded.processes import wait_until
from stacks import NO_ANSWER, RunningStack, new_stack

if TYPE_CHECKING:
    from collections.abc import Generator

PARTS = ["postgres", "front", "realtime", "edge", "worker"]


@pytest.fixture(scope="module")
def own() -> Generator[RunningStack]:
    with short_directory() as directory, new_stack(directory / "home") as stack:
        yield RunningStack(stack)


@pytest.fixture
def running(own: RunningStack) -> RunningStack:
    own.stack.up()
    assert wait_until(lambda: is_whole(own), timeout=60)
    return own


def is_whole(stack: RunningStack) -> bool:
    status = stack.stack.status()
    return status.state == "running" and all(service.pid is not None for service in status.services.values())


def restarts(stack: RunningStack, part: str) -> int:
    return stack.stack.status().services[part].restarts


def serves(stack: RunningStack) -> bool:
    try:
        return stack.call("/healthz").status == 200
    except NO_ANSWER:
        return False


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_is_started_again(running: RunningStack, part: str) -> None:
    pid = running.pid(part)
    before = restarts(running, part)
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: restarts(running, part) == before + 1 and is_whole(running), timeout=60)
    assert running.pid(part) != pid
    assert running.stack.status().services[part].last_failure == "killed by signal 9"
    assert wait_until(lambda: serves(running), timeout=30)
    assert running.call("/auth/v1/user", running.me).status == 200


def test_everything_but_the_supervisor_is_killed_at_once(running: RunningStack) -> None:
    before = {part: restarts(running, part) for part in PARTS}
    for part in PARTS:
        os.kill(running.pid(part), signal.SIGKILL)
    assert wait_until(lambda: all(restarts(running, part) > before[part] for part in PARTS), timeout=60)
    assert wait_until(lambda: is_whole(running) and serves(running), timeout=60)
    assert running.call("/auth/v1/user", running.me).status == 200


def test_the_schema_is_still_watched_after_the_database_was_killed(running: RunningStack) -> None:
    pid = running.pid("postgres")
    before = restarts(running, "postgres")
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: restarts(running, "postgres") == before + 1 and is_whole(running), timeout=60)
    assert wait_until(lambda: serves(running), timeout=30)
    running.sql("create function public.after_recovery() returns int language sql stable as 'select 7'")
    try:
        assert wait_until(
            lambda: running.call("/rest/v1/rpc/after_recovery", running.anon).status == 200,
            timeout=15,
            interval=0.1,
        )
    finally:
        running.sql("drop function public.after_recovery()")


def test_while_the_database_is_away_clients_are_told_to_try_again(running: RunningStack) -> None:
    paths = ["/rest/v1/workspaces", "/rest/v1/rpc/my_workspaces", "/auth/v1/user"]
    postgres = psutil.Process(running.pid("postgres"))
    os.kill(running.pid("supervisor"), signal.SIGSTOP)
    try:
        postgres.kill()
        answers = [running.call(path, running.me) for path in paths]
    finally:
        os.kill(running.pid("supervisor"), signal.SIGCONT)
    assert [answer.status for answer in answers] == [503, 503, 503]
    assert all(answer.json["code"] == "PGRST001" for answer in answers)
    assert not any(str(running.home).encode() in answer.body for answer in answers)
    assert wait_until(lambda: is_whole(running) and serves(running), timeout=60)


def test_a_killed_supervisor_takes_its_children_along(running: RunningStack) -> None:
    running.sql("drop table if exists public.witness; create table public.witness as select 1 as id")
    database = running.pid("postgres")
    os.kill(running.pid("supervisor"), signal.SIGKILL)
    # At most the database server is left, with its own children.
    family = {database, *(child.pid for child in psutil.Process(database).children(recursive=True))}
    assert wait_until(lambda: {process.pid for process in running.processes()} <= family, timeout=15)
    assert running.stack.status().state == "orphaned"
    running.stack.up()
    assert database not in {process.pid for process in running.processes()}
    assert running.sql("select id from public.witness") == [(1,)]
    running.sql("drop table public.witness")


def test_down_ends_what_a_killed_supervisor_left(running: RunningStack) -> None:
    os.kill(running.pid("supervisor"), signal.SIGKILL)
    assert wait_until(lambda: not running.stack.home.is_held(), timeout=15)
    assert running.stack.down()
    assert running.processes() == []
    assert running.stack.status().state == "stopped"


def test_the_whole_stack_is_killed(running: RunningStack) -> None:
    running.sql("drop table if exists public.witness; create table public.witness as select 2 as id")
    for process in running.processes():
        # The death of one ends others.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert wait_until(lambda: running.processes() == [], timeout=30)
    assert running.stack.status().state == "stopped"
    running.stack.up()
    assert running.sql("select id from public.witness") == [(2,)]
    running.sql("drop table public.witness")
    assert running.call("/auth/v1/user", running.me).status == 200


def test_a_stale_process_file_that_names_somebody_else(running: RunningStack) -> None:
    """A killed server's file may name a process id that another program has got since."""
    running.stack.down()
    stale = running.home / "postgres" / "postmaster.pid"
    # One that is not among the parents of the server to come, which PostgreSQL knows to pass over.
    somebody = subprocess.Popen(["sleep", "60"])
    stale.write_text(
        f"{somebody.pid}\n{running.home / 'postgres'}\n1\n{running.config.database_port}\n\n\n\nready\n"
    )
    stale.chmod(0o644)
    assert running.stack.home.cluster(running.config).find_server() is None
    running.stack.up()
    assert serves(running)
    assert somebody.poll() is None
    somebody.kill()
    somebody.wait()


def test_two_hundred_acknowledged_writes_survive_the_killing(running: RunningStack) -> None:
    """Writers record knowledge, and try again what wasn't acknowledged, while parts are killed around them."""
    wanted, kills_wanted = 200, 9
    acknowledged: dict[str, str] = {}
    numbers = itertools.count()
    enough = threading.Event()
    kills: list[str] = []
    headers = running.bearer(running.token(exp=2**31))

    def write() -> None:
        while not enough.is_set():
            title = f"Lesson {next(numbers)}"
            content = f"What was learnt in lesson {title}."
            while not enough.is_set():
                try:
                    answer = running.call(
                        "/rest/v1/rpc/record_knowledge", headers, body={"title": title, "content": content}
                    )
                except NO_ANSWER:
                    enough.wait(0.05)
                    continue
                if answer.status == 200:
                    acknowledged[answer.json[0]["knowledge_id"]] = title
                    break
                # Nothing but "not now" is an excuse.
                assert answer.status == 503, answer.body
                enough.wait(0.05)

    def kill() -> None:
        for part in itertools.cycle(PARTS):
            if enough.is_set():
                return
            if len(kills) >= kills_wanted and len(acknowledged) >= wanted:
                enough.set()
                return
            before = len(acknowledged)
            # In the middle of the writing, not of the last recovery.
            wait_until(lambda: enough.is_set() or len(acknowledged) > before + 10, timeout=60)  # noqa: B023
            if not wait_until(lambda: is_whole(running), timeout=60):
                enough.set()
                return
            os.kill(running.pid(part), signal.SIGKILL)
            kills.append(part)

    failures: list[BaseException] = []

    def guarded(work: object) -> None:
        try:
            work()  # type: ignore[operator] # pyright: ignore[reportCallIssue]
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)
            enough.set()

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (write, write, write, kill)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    assert failures == []
    assert len(acknowledged) >= wanted
    assert len(kills) >= kills_wanted
    assert wait_until(lambda: is_whole(running) and serves(running), timeout=60)
    with psycopg.connect(running.config.database_url("postgres")) as connection:
        stored = dict(connection.execute("select id::text, title from public.knowledge_items").fetchall())
    assert {key: title for key, title in acknowledged.items() if stored.get(key) != title} == {}
    # Trying again made no second copy of anything.
    assert len(set(stored.values())) == len(stored)
