"""Edge functions in the tests' own process, before a database of its own, and those who call them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from callers import SECRET, SECRET_KEY, Edge
from knowledge_persistence.edge.app import make_app
from knowledge_persistence.edge.identity import Doorkeeper
from knowledge_persistence.edge.limits import Limits
from knowledge_persistence.embedders import Embedder
from knowledge_persistence.embedders.local import LocalEmbedder
from knowledge_persistence.rerankers import BoundedReranker
from world import World


@pytest.fixture(scope="session")
def embedder() -> LocalEmbedder:
    return LocalEmbedder()


@contextlib.asynccontextmanager
async def living(app: FastAPI) -> AsyncGenerator[None]:
    """Run an application's lifespan in a task of its own, as a server does."""
    up, down = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.router.lifespan_context(app):
            up.set()
            await down.wait()

    task = asyncio.create_task(live())
    waiting = asyncio.create_task(up.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield
    finally:
        down.set()
        await task


@pytest.fixture
async def make_edge(world: World, embedder: LocalEmbedder) -> AsyncGenerator[Callable[..., Any]]:
    """Make applications in front of the world's database."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(
            *,
            embedder: Embedder | None = embedder,
            keys: str = SECRET,
            secret_key: str | None = SECRET_KEY,
            url: str | None = None,
            reranker: BoundedReranker | None = None,
            **limits: Any,
        ) -> Edge:
            bounds = Limits(**limits)
            doorkeeper = Doorkeeper(
                url or world.dsn("authenticator"),
                lambda: keys,
                secret_key=secret_key,
                embedder=embedder,
                reranker=reranker,
                timeout=bounds.seconds,
                connections=bounds.connections,
            )
            app = make_app(doorkeeper, bounds)
            await stack.enter_async_context(living(app))
            # An exception that nobody expected is an answer, as behind a real server.
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://edge")
            return Edge(app, await stack.enter_async_context(client))

        yield make


@pytest.fixture
async def edge(make_edge: Callable[..., Any]) -> Edge:
    """Give the functions as they are by default."""
    return await make_edge()
