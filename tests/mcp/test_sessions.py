"""An agent's session: it begins by itself, ends when the agent goes, and outlives what happens to the memory."""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import FastAPI
from mcp.shared.exceptions import MCPError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from knowledge_persistence.edge.app import make_app
from knowledge_persistence.edge.errors import of_error
from knowledge_persistence.edge.identity import Caller, Doorkeeper, key_source
from knowledge_persistence.embedders import BaseEmbedder
from knowledge_persistence.errors import EmbeddingError, KnowledgePersistenceError
from knowledge_persistence.mcp.http import Bounds, McpEndpoint
from mcp_agents import (
    SECRET,
    Agent,
    becomes,
    kp_mcp,
    make_doorkeeper,
    over_http,
    over_stdio,
    serving,
    token_of,
)
from proxy import Proxy
from world import Persona, World

SESSIONS = "select session_identifier::text as name, end_time, session_metadata ->> 'summary' as summary"


def sessions_of(person: Persona) -> list[dict[str, Any]]:
    return person.sql(f"{SESSIONS} from ai_sessions order by id")


@pytest.mark.parametrize("door", ["stdio", "stdio 2026", "http"])
async def test_it_begins_and_ends_by_itself(
    stage: World, enter: Callable[[Persona], AbstractAsyncContextManager[Agent]]
) -> None:
    ana = stage.sign_up("ana")
    async with enter(ana) as agent:
        # All at once, as a model may: that is one session, nevertheless.
        await asyncio.gather(
            agent.say("recall", query="anything"),
            agent.say("remember", content="Sessions begin by themselves."),
            agent.say("record_gotcha", problem="ValueError: no session"),
        )
        [began] = sessions_of(ana)
        assert began["end_time"] is None
        # The agent remembers itself: it is the session that has begun already.
        assert f'"{began["name"]}" resumed on late' in await agent.say("start_session", project="late")
    await becomes(lambda: sessions_of(ana)[0]["end_time"])
    [ended] = sessions_of(ana)
    assert ended["summary"].startswith("The agent left without a summary. It recorded: ")
    assert "Sessions begin by themselves" in ended["summary"]
    assert "valueerror: no session" in ended["summary"]


async def test_what_the_agent_said_at_the_end_stays(stage: World, origin: str) -> None:
    ana = stage.sign_up("ana")
    async with over_http(origin, token_of(ana)) as agent:
        await agent.say("start_session")
        item = await agent.record("remember", content="One more rating is no session of its own.")
        await agent.say("end_session", summary="All done.")
        await agent.say("rate", id=item, worked=True)
        assert len(sessions_of(ana)) == 1
        await agent.say("end_session", summary="All done, and rated.")
        await agent.say("rate", id=item, worked=True)
        name = sessions_of(ana)[0]["name"]
    await becomes(lambda: sessions_of(ana)[0]["end_time"])
    assert [one["summary"] for one in sessions_of(ana)] == ["All done, and rated."]
    async with over_http(origin, token_of(ana)) as agent:
        # Resumed by another agent that does nothing in it; the one after it is another session.
        assert "resumed" in await agent.say("start_session", resume=name)
        assert f'"{name}" ended' in await agent.say("start_session", project="next")
        await agent.say("remember", content="Next.")
    await becomes(lambda: all(one["end_time"] for one in sessions_of(ana)))
    first, second = sessions_of(ana)
    assert first["summary"] == "All done, and rated."
    assert second["summary"] == "The agent left without a summary. It recorded: Next."


# By hand, over pipes: what a client of the SDK would hide.


@asynccontextmanager
async def started(dsn: str, person: Persona, *options: str) -> AsyncGenerator[Process]:
    given = kp_mcp(dsn, token_of(person), *options)
    process = await asyncio.create_subprocess_exec(
        given.command, *given.args, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=given.env
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def exchange(process: Process, method: str, **params: object) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    line = json.dumps({"jsonrpc": "2.0", "id": method, "method": method, "params": params})
    process.stdin.write(f"{line}\n".encode())
    async with asyncio.timeout(60):
        answer = json.loads(await process.stdout.readline())
    assert answer["id"] == method
    return answer["result"]


async def shake_hands(process: Process) -> None:
    client = {"name": "by hand", "version": "1"}
    answer = await exchange(
        process, "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client
    )
    assert answer["serverInfo"]["name"] == "knowledge-persistence"
    assert "start_session" in answer["instructions"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_session_and_the_server(stage: World, number: signal.Signals) -> None:
    ana = stage.sign_up("ana")
    async with started(stage.dsn("authenticator"), ana, "--project", "signals") as process:
        await shake_hands(process)
        await exchange(process, "tools/call", name="remember", arguments={"content": "Signals come."})
        # Its standard input is open, and stays so.
        process.send_signal(number)
        async with asyncio.timeout(60):
            await process.wait()
    [ended] = sessions_of(ana)
    assert ended["end_time"] is not None
    assert ended["summary"] == "The agent left without a summary. It recorded: Signals come."
    assert ana.value("select project_context::text from ai_sessions") == "signals"


async def test_nothing_but_the_protocol_is_printed(stage: World) -> None:
    ana = stage.sign_up("ana")
    async with started(stage.dsn("authenticator"), ana, "--session", "mine") as process:
        assert process.stdin is not None
        process.stdin.write(b"this is no JSON\n\n")
        await shake_hands(process)
        await exchange(process, "tools/call", name="recall", arguments={"query": "anything"})
        failed = await exchange(process, "tools/call", name="get_item", arguments={"id": "1"})
        assert failed["isError"] is True
        process.stdin.close()
        async with asyncio.timeout(60):
            printed, told = await process.communicate()
    assert process.returncode == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in printed.splitlines())
    assert b"Traceback" not in told
    assert [one["name"] for one in sessions_of(ana)] == ["mine"]


async def test_without_a_memory_the_agent_is_told_so(tmp_path: Path) -> None:
    # Whoever's repository the agent works in doesn't decide where its user's memory is.
    (tmp_path / ".env").write_text("KP_URL=http://127.0.0.1:9\nKP_API_KEY=theirs\n")
    given = kp_mcp("", "")
    assert given.env is not None
    environment = {name: value for name, value in given.env.items() if not name.startswith("KP_")}
    given.env = {**environment, "KP_HOME": str(tmp_path / "none")}
    async with over_stdio(given, tmp_path / "log") as agent:
        assert len((await agent.client.list_tools()).tools) == 9
        for told in (await agent.refusal("start_session"), await agent.refusal("recall", query="anything")):
            assert "there is no embedded stack" in told
            assert "Go on without it, tell the user" in told
        with pytest.raises(MCPError, match="kp up"):
            await agent.client.read_resource("knowledge://brief")


async def test_it_works_again_when_the_memory_is_back(stage: World, tmp_path: Path) -> None:
    ana = stage.sign_up("ana")
    dsn = stage.dsn("authenticator")
    port = urlsplit(dsn).port
    assert port is not None
    proxy = Proxy(port)
    try:
        given = kp_mcp(dsn.replace(f":{port}/", f":{proxy.port}/"), token_of(ana))
        proxy.refuse()
        async with over_stdio(given, tmp_path / "log") as agent:
            told = await agent.refusal("remember", content="Nobody hears it.")
            assert "Go on without it, tell the user" in told
            proxy.refuse(False)
            await agent.say("remember", content="The memory is back.")
            proxy.cut()
            await agent.say("remember", content="It was away for a moment.")
    finally:
        proxy.close()
    assert len(ana.sql("select 1 from knowledge_items")) == 2
    [ended] = sessions_of(ana)
    assert ended["end_time"] is not None


# What agents may hold over HTTP.


@asynccontextmanager
async def endpoint(stage: World, bounds: Bounds) -> AsyncGenerator[str]:
    """Run the endpoint alone, with bounds that a test can reach."""
    doorkeeper: Doorkeeper = make_doorkeeper(stage)

    async def admit(request: Request) -> Caller:
        return await doorkeeper.admit(request.headers)

    made = McpEndpoint(admit, bounds=bounds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with made.open():
            yield
        await doorkeeper.close()

    async def tell(_: Request, error: Exception) -> Response:
        assert isinstance(error, KnowledgePersistenceError)
        return of_error(error)

    app = FastAPI(lifespan=lifespan, exception_handlers={KnowledgePersistenceError: tell})
    app.router.routes.append(Route("/functions/v1/mcp", made))
    with serving(app) as url:
        yield url


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_silent_agents_session_ends_and_goes_on_when_it_speaks(stage: World, mode: str) -> None:
    ana = stage.sign_up("ana")
    async with (
        endpoint(stage, Bounds(session_seconds=0.1)) as url,
        over_http(url, token_of(ana), mode=mode) as agent,
    ):
        # Now and then a call comes just when the session is about to end.
        for round_ in range(6):
            await agent.say("remember", content=f"Round {round_}.")
            await becomes(lambda: all(one["end_time"] for one in sessions_of(ana)))
        [one] = sessions_of(ana)
        assert (
            one["summary"]
            == "The agent left without a summary. It recorded: "
            + "; ".join(f"Round {round_}" for round_ in range(6))
            + "."
        )


async def test_sessions_end_with_the_server(stage: World) -> None:
    ana = stage.sign_up("ana")
    async with endpoint(stage, Bounds()) as url, over_http(url, token_of(ana), mode="2026-07-28") as agent:
        await agent.say("remember", content="The server goes first.")
        assert sessions_of(ana)[0]["end_time"] is None
    assert sessions_of(ana)[0]["end_time"] is not None


async def test_one_user_holds_only_so_much(stage: World) -> None:
    ana, ben = stage.sign_up("ana"), stage.sign_up("ben")
    async with endpoint(stage, Bounds(agents_per_user=1)) as url, over_http(url, token_of(ana)) as agent:
        await agent.say("recall", query="anything")
        with pytest.raises((MCPError, httpx2.HTTPStatusError, ExceptionGroup)):
            async with over_http(url, token_of(ana)):
                pass
        async with over_http(url, token_of(ana), mode="2026-07-28") as second:
            assert "too many agents" in await second.refusal("recall", query="anything")
        async with over_http(url, token_of(ben)) as other:
            await other.say("recall", query="anything")
        await agent.say("recall", query="anything")


async def test_an_idle_agent_makes_room(stage: World) -> None:
    ana = stage.sign_up("ana")
    bounds = Bounds(agents_per_user=1, session_seconds=0.1)
    async with endpoint(stage, bounds) as url, over_http(url, token_of(ana)) as idle:
        await idle.say("remember", content="I was here first.")
        await becomes(lambda: sessions_of(ana)[0]["end_time"])
        async with over_http(url, token_of(ana)) as agent:
            await agent.say("recall", query="first")
        # Its connection is gone, and so it is told.
        with pytest.raises(MCPError, match="[Ss]ession"):
            await idle.say("recall", query="first")


class Away(BaseEmbedder):
    """A model whose server doesn't answer."""

    def _embed(self, texts: Sequence[str]) -> Any:
        raise EmbeddingError(f"no answer to {len(texts)} texts", unanswered=True)


async def test_a_session_begins_without_the_model_too(stage: World) -> None:
    ana = stage.sign_up("ana")
    ana.rpc("record_decision_stage", decision_topic="Valve", understanding="Brass.", is_final=True)
    keeper = Doorkeeper(
        stage.dsn("authenticator"),
        key_source(SECRET),
        secret_key="sb_secret_of_these_tests",
        embedder=Away(name="all-MiniLM-L6-v2", dimensions=384, cache_size=0),
    )
    with serving(make_app(keeper)) as url:
        async with over_http(url, token_of(ana)) as agent:
            told = await agent.say("start_session", task="choose a valve")
    assert "started" in told
    assert "could not be looked for: no answer" in told
    assert "Brass." in told
