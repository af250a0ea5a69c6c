"""Clocks that jump: who reads one, and what comes of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import psutil
import pytest

from knowledge_persistence import connect
from knowledge_persistence._sync import signin
from knowledge_persistence._sync.http import HttpTransport
from knowledge_persistence.credentials import CredentialStore
from knowledge_persistence.embedded.processes import ProcessId
from knowledge_persistence.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stacks import RunningStack

HOUR = 3600.0


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a start is a time of day, and a jump makes a stranger"
)
def test_a_process_is_itself_after_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ProcessId.of(os.getpid())
    assert mine is not None
    stored = ProcessId.from_json(mine.as_json())
    assert stored == mine
    create_time = psutil.Process.create_time
    # As it looks to a command that starts after the clock was put forward: the boot seems to have been later.
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: create_time(self) + HOUR)
    assert stored.is_alive()
    assert ProcessId.of(os.getpid()) == stored


def test_a_process_of_another_start_or_boot_is_somebody_else() -> None:
    mine = ProcessId.of(os.getpid())
    assert mine is not None
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            assert not ProcessId(other.pid, mine.started_at, mine.boot).is_alive()
        finally:
            other.kill()
    if mine.boot:
        assert not ProcessId(mine.pid, mine.started_at, "another boot").is_alive()
    # What an earlier version stored.
    assert ProcessId(mine.pid, psutil.Process().create_time()).is_alive()
    assert not ProcessId(mine.pid, psutil.Process().create_time() - HOUR).is_alive()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Put the clock that sign-ins are compared with forward or back."""

    def put(seconds: float) -> None:
        monkeypatch.setattr(signin, "time", SimpleNamespace(time=lambda: time.time() + seconds))

    return put


@pytest.mark.parametrize("stored", [True, False], ids=["stored sign-in", "password"])
def test_a_client_whose_clock_is_wrong_or_jumps_stays_signed_in(
    shared_stack: RunningStack, clock: Callable[[float], None], tmp_path: Path, *, stored: bool
) -> None:
    stack = shared_stack
    email, password = f"clock-{uuid4().hex}@example.org", f"pw-{uuid4().hex}"
    transport = HttpTransport(stack.url, stack.config.publishable_key)
    try:
        assert transport.sign_in is not None
        credential = transport.sign_in.sign_up(email, password)
    finally:
        transport.close()
    assert credential is not None
    settings = Settings(home=tmp_path)
    arguments = {"email": email, "password": password}
    if stored:
        CredentialStore(tmp_path).save(stack.url, credential)
        arguments = {}
    with connect(
        stack.url, api_key=stack.config.publishable_key, embedder=None, settings=settings, **arguments
    ) as client:
        signed_in = cast("HttpTransport", client.core.transport).sign_in
        assert signed_in is not None
        for jump in (0, 30 * 24 * HOUR, -30 * 24 * HOUR, 0):
            clock(jump)
            assert client.whoami().user_id is not None
            token = signed_in.token()
            client.workspaces()
            # A wrong clock is the clock that it is compared with: no new sign-in for each call.
            assert signed_in.token() == token
