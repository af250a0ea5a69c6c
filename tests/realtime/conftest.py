"""A gateway in the tests' own process, before a database of its own, and those who talk to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from databases import Database
from knowledge_persistence.realtime.app import Gateway, make_server
from knowledge_persistence.realtime.limits import Limits
from knowledge_persistence.realtime.tokens import Verifier
from talkers import PUBLISHABLE, SECRET, SECRET_KEY, Talker


@pytest.fixture
def limits() -> Limits:
    """What clients may take, where a test says nothing else."""
    return Limits(recheck_seconds=0)


@pytest.fixture
async def gateway(database: Database, limits: Limits) -> AsyncGenerator[str]:
    """Run a gateway and give its address."""
    made = Gateway(database.dsn("postgres"), Verifier(PUBLISHABLE, SECRET_KEY, lambda: (SECRET,)), limits)
    server = make_server(made, limits)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        async with asyncio.timeout(20):
            await made.listening.wait()
            while not server.started:  # noqa: ASYNC110 - the server has a flag, and no event
                await asyncio.sleep(0.01)
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving


@pytest.fixture
def talker(gateway: str) -> Callable[..., Any]:
    """Make clients."""
    return lambda key=PUBLISHABLE: Talker.at(gateway, key)
