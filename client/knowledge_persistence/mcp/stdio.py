"""The server over standard input and output: what `kp mcp` runs.

Nothing but the protocol goes to standard output; talk goes to standard error. What takes time (the HTTP client, the
embedder) is loaded beside the handshake, which waits for none of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server.stdio import stdio_server

from .seat import Seat
from .server import agent_name, make_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.server.lowlevel.server import Server

    from knowledge_persistence._async.client import AsyncKnowledgeClient
    from knowledge_persistence.embedders import Embedder
    from knowledge_persistence.settings import Settings

log = logging.getLogger(__name__)


def serve(settings: Settings, *, session: str | None = None) -> None:
    """Serve one agent until it closes standard input, or a signal says so; then its session ends.

    Args:
        settings: where the memory is; nothing is connected before the first call.
        session: resume the session of this identifier, instead of starting one.
    """
    asyncio.run(_serve(settings, session))


async def _serve(settings: Settings, session: str | None) -> None:
    agent = _Agent(settings, session)
    server = make_server(agent.find_seat, agent.presence)
    server.middleware.append(agent.prepare_after_the_handshake)
    stopping = asyncio.create_task(_leave_on_signal(agent.seat))
    try:
        async with stdio_server() as (read_stream, write_stream):
            await server.run(read_stream, write_stream, server.create_initialization_options())
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, *agent.preparations, return_exceptions=True)


class _Agent:
    """The one agent at the other end."""

    def __init__(self, settings: Settings, session: str | None) -> None:
        # A session that the environment names is the command line's; an agent has its own.
        self._settings = replace(settings, session=None)
        self.preparations: list[asyncio.Task[Embedder | None]] = []
        self.seat = Seat(
            self._connect, project=settings.project, session=session, metadata={"via": "mcp stdio"}
        )

    async def find_seat(self, context: ServerRequestContext[Any, Any]) -> Seat:
        if (name := agent_name(context)) is not None:
            self.seat.metadata["agent"] = name
        return self.seat

    async def prepare_after_the_handshake(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        answer = await call_next(ctx)
        self._prepared()
        return answer

    @asynccontextmanager
    async def presence(self, _server: Server[Any]) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self.seat.leave()

    async def _connect(self) -> AsyncKnowledgeClient:
        embedder = await asyncio.shield(self._prepared())
        from knowledge_persistence._async.client import connect_async  # noqa: PLC0415 - loaded by now

        return connect_async(settings=self._settings, embedder=embedder)

    def _prepared(self) -> asyncio.Task[Embedder | None]:
        if not self.preparations:
            self.preparations.append(asyncio.create_task(asyncio.to_thread(_prepare, self._settings)))
        return self.preparations[0]


def _prepare(settings: Settings) -> Embedder | None:
    """Load what the first call needs, in a thread of its own; return the embedder."""
    door = "direct" if (settings.url or "").startswith("postgres") else "http"
    for module in ("client", door):
        import_module(f"knowledge_persistence._async.{module}")
    from knowledge_persistence.embedders import make_embedder  # noqa: PLC0415
    from knowledge_persistence.errors import KnowledgePersistenceError  # noqa: PLC0415

    embedder = make_embedder(settings)
    if embedder is not None and settings.embedder != "openai":  # that one would be asked over the network
        try:
            embedder.embed_query("warm up")
        except KnowledgePersistenceError as error:
            # The call that needs it says so to the agent.
            log.warning("the embedder does not load: %s", error)
    return embedder


async def _leave_on_signal(seat: Seat) -> None:
    """On a signal, end the session and then the process."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    await told.wait()
    await seat.leave()
    sys.stderr.flush()
    # The thread that reads standard input waits for a line that may never come, and can't be interrupted.
    os._exit(128 + signal.SIGTERM)
