"""Agents of the tests: the official MCP client at the server's two doors."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import httpx2
import jwt
import pytest
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent
from starlette.types import ASGIApp

from knowledge_persistence.edge.__main__ import make_server
from knowledge_persistence.edge.identity import Doorkeeper, key_source
from mcp import Client, StdioServerParameters
from world import Persona, World

SECRET = "a secret that signs the tokens of these tests"
KP = ["-c", "import sys; from knowledge_persistence.cli import main; sys.exit(main())"]

#: The two doors, and the protocol's two eras at each.
Door: TypeAlias = Literal["stdio", "stdio 2026", "http", "http 2026"]
DOORS: tuple[Door, ...] = ("stdio", "stdio 2026", "http", "http 2026")


def token_of(person: Persona, **claims: Any) -> str:
    """A user's sign-in."""
    role = "authenticated"
    given = {"sub": str(person.id), "role": role, "aud": role, "exp": int(time.time()) + 3600}
    return jwt.encode({**given, **claims}, SECRET, "HS256")


@dataclass
class Agent:
    """An agent that is connected, and what it was answered."""

    client: Client
    called: set[str] = field(default_factory=set[str])

    async def ask(self, tool: str, **arguments: Any) -> CallToolResult:
        self.called.add(tool)
        return await self.client.call_tool(tool, arguments)

    async def say(self, tool: str, **arguments: Any) -> str:
        """Call a tool that succeeds, and return the text."""
        answer = await self.ask(tool, **arguments)
        assert not answer.is_error, answer
        return text_of(answer)

    async def refusal(self, tool: str, **arguments: Any) -> str:
        """Call a tool that fails, and return what the agent is told."""
        answer = await self.ask(tool, **arguments)
        assert answer.is_error, answer
        assert "Traceback" not in text_of(answer)
        return text_of(answer)

    async def record(self, tool: str, **arguments: Any) -> str:
        """Call a tool that records, and return the id."""
        answer = await self.ask(tool, **arguments)
        assert not answer.is_error, answer
        assert answer.structured_content["message"] == text_of(answer)
        return answer.structured_content["id"]


def text_of(answer: CallToolResult) -> str:
    [content] = answer.content
    assert isinstance(content, TextContent)
    return content.text


@contextmanager
def serving(app: ASGIApp) -> Generator[str]:
    """Serve an application from a thread, and give its address."""
    served = make_server(app)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: served.run(sockets=[listener]))
        thread.start()
        try:
            wait_for(lambda: served.started or not thread.is_alive())
            assert served.started
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            served.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def becomes(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the database has no event for it
            await asyncio.sleep(0.02)


def make_doorkeeper(world: World) -> Doorkeeper:
    return Doorkeeper(world.dsn("authenticator"), key_source(SECRET), secret_key="sb_secret_of_these_tests")


async def _tell_refusal(response: httpx2.Response) -> None:
    if response.is_error:
        await response.aread()
        print(response.request.method, response.status_code, response.text)  # noqa: T201 - shown where a test fails


@asynccontextmanager
async def over_http(
    url: str, token: str | None, *, mode: str = "legacy", headers: dict[str, str] | None = None
) -> AsyncGenerator[Agent]:
    sent = dict(headers or {})
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    # The SDK says of a refusal that there was one; what was said is for whoever reads of a failed test.
    hooks = {"response": [_tell_refusal]}
    async with httpx2.AsyncClient(headers=sent, timeout=60, event_hooks=hooks) as http:
        transport = streamable_http_client(f"{url}/functions/v1/mcp", http_client=http)
        async with Client(transport, mode=mode, read_timeout_seconds=60) as client:
            yield Agent(client)


def kp_mcp(dsn: str, token: str, *options: str) -> StdioServerParameters:
    """How an agent starts the server: through the direct transport, as whose token it is."""
    given = {"KP_URL": dsn, "KP_ACCESS_TOKEN": token, "KP_JWT_SECRET": SECRET, "KP_EMBEDDER": "none"}
    return StdioServerParameters(
        command=sys.executable, args=[*KP, "mcp", *options], env={**os.environ, **given}
    )


@asynccontextmanager
async def over_stdio(
    parameters: StdioServerParameters, log: Path, *, mode: str = "legacy"
) -> AsyncGenerator[Agent]:
    with log.open("a") as errors, pytest.MonkeyPatch.context() as patch:
        # How long it takes to leave depends on what else the machine does.
        patch.setattr("mcp.client.stdio.PROCESS_TERMINATION_TIMEOUT", 60)
        transport = stdio_client(parameters, errlog=errors)
        async with Client(transport, mode=mode, read_timeout_seconds=60) as client:
            yield Agent(client)
    assert "Traceback" not in log.read_text()  # noqa: ASYNC240 - a few lines, and nobody waits
