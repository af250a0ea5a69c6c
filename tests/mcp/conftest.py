"""Agents at both doors of the MCP server, over a database of their own."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from databases import Database, DatabaseServer
from knowledge_persistence.edge.app import make_app
from mcp_agents import DOORS, Agent, Door, kp_mcp, make_doorkeeper, over_http, over_stdio, serving, token_of
from world import Persona, World


@pytest.fixture(scope="module")
def stage(server: DatabaseServer, template: Database) -> Generator[World]:
    """Set a stage that the tests of a file share; each has people of its own."""
    with server.clone(template) as database:
        world = World(database.dsn)
        yield world
        world.close()


@pytest.fixture(scope="module")
def origin(stage: World) -> Generator[str]:
    """Run the edge functions, and give their address."""
    with serving(make_app(make_doorkeeper(stage))) as url:
        yield url


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return request.param


@pytest.fixture
def enter(
    door: Door, stage: World, request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[Persona], AbstractAsyncContextManager[Agent]]:
    """Let an agent of somebody's in through the door at hand."""
    mode = "2026-07-28" if door.endswith("2026") else "legacy"
    if door.startswith("http"):
        url = request.getfixturevalue("origin")
        return lambda person: over_http(url, token_of(person), mode=mode)
    dsn = stage.dsn("authenticator")
    return lambda person: over_stdio(kp_mcp(dsn, token_of(person)), tmp_path / "log", mode=mode)
