"""A part that hangs runs and answers nobody: it is ended after a while, and started again like any that died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from databases import free_port, short_directory
from knowledge_persistence.embedded import Stack
from knowledge_persistence.embedded.processes import wait_until
from stacks import RunningStack

if TYPE_CHECKING:
    from collections.abc import Generator

#: As `kp up`, but with little patience.
PROGRAM = """
import json, sys
from pathlib import Path
from knowledge_persistence.embedded import Home
from knowledge_persistence.embedded.supervisor import Supervisor, run_reporting
report = lambda event: print(json.dumps(event), flush=True)
home, port, database_port = sys.argv[1:]
supervisor = Supervisor(
    Home(Path(home)), port=int(port), database_port=int(database_port), report=report, patience=5
)
sys.exit(run_reporting(supervisor, report))
"""
ASKED = ["front", "realtime", "edge"]
NOT_ASKED = ["postgres", "worker"]


@pytest.fixture
def impatient() -> Generator[RunningStack]:
    """Run a stack whose supervisor waits five seconds for an answer."""
    with short_directory() as directory:
        home = directory / "home"
        ports = str(free_port()), str(free_port())
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(home), *ports],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                event = {"event": "progress"}
                while event["event"] == "progress":
                    event = json.loads(process.stdout.readline())
                assert event["event"] == "ready", event
                yield RunningStack(Stack(home))
            finally:
                process.terminate()
                process.wait(60)


def test_parts_that_hang_are_started_again(impatient: RunningStack) -> None:
    paths = {"front": "/", "realtime": "/realtime/v1/api/ping", "edge": "/functions/v1/health"}
    for path in paths.values():
        assert wait_until(lambda path=path: impatient.call(path, impatient.me).status == 200, timeout=60)
    before = {part: impatient.pid(part) for part in ASKED + NOT_ASKED}
    for part in ASKED:
        os.kill(before[part], signal.SIGSTOP)

    def is_whole() -> bool:
        services = impatient.stack.status().services
        return all(services[part].pid not in {None, before[part]} for part in ASKED)

    assert wait_until(is_whole, timeout=90)
    services = impatient.stack.status().services
    for part in ASKED:
        assert services[part].restarts >= 1
        assert services[part].last_failure == "gave no answer for 5 seconds"
    for path in paths.values():
        assert wait_until(lambda path=path: impatient.call(path, impatient.me).status == 200, timeout=60)
    # Whatever the others went through, these weren't touched.
    assert {part: impatient.pid(part) for part in NOT_ASKED} == {part: before[part] for part in NOT_ASKED}
