"""Who gets in over HTTP, and where to: nobody without a token, nobody into another's place."""

from __future__ import annotations

import json
from collections.abc import Generator
from uuid import uuid4

import httpx2
import pytest

from knowledge_persistence.edge.app import make_app
from mcp_agents import make_doorkeeper, over_http, serving, token_of
from world import Persona, World

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "by hand", "version": "1"},
    },
}


class Hand:
    """Somebody who sends requests by hand, and forges what headers they like."""

    def __init__(self, http: httpx2.AsyncClient, token: str | None, **headers: str) -> None:
        self.http = http
        self.headers = {"accept": "application/json, text/event-stream"}
        if token is not None:
            self.headers["authorization"] = f"Bearer {token}"
        self.headers |= {name.replace("_", "-"): value for name, value in headers.items()}

    async def post(self, body: object, **headers: str) -> httpx2.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post("/functions/v1/mcp", json=body, headers={**self.headers, **given})

    async def open(self) -> str:
        """Open a connection and return its id."""
        answer = await self.post(INITIALIZE)
        assert answer.status_code == 200, answer.text
        return answer.headers["mcp-session-id"]

    async def call(self, tool: str, session: str, /, **arguments: object) -> httpx2.Response:
        body = {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": tool, "arguments": arguments},
        }
        return await self.post(body, mcp_session_id=session, mcp_protocol_version="2025-11-25")

    async def call_without_connection(
        self, tool: str, session: str, /, **arguments: object
    ) -> httpx2.Response:
        """Call as the era without connections does, and name one all the same."""
        prefix = "io.modelcontextprotocol/"
        meta = {f"{prefix}protocolVersion": "2026-07-28", f"{prefix}clientCapabilities": {}}
        body = {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": tool, "arguments": arguments, "_meta": meta},
        }
        return await self.post(
            body,
            mcp_session_id=session,
            mcp_protocol_version="2026-07-28",
            mcp_method="tools/call",
            mcp_name=tool,
        )


def said(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text)["result"]["content"][0]["text"]


@pytest.fixture
async def http(origin: str) -> httpx2.AsyncClient:
    async with httpx2.AsyncClient(base_url=origin, timeout=60) as client:
        yield client


def agent_token(person: Persona, **arguments: object) -> tuple[str, str]:
    [made] = person.rpc("create_agent_token", name="an agent", **arguments)
    return made["token"], str(made["token_id"])


async def test_without_a_token_of_a_user_nothing_is_told(stage: World, http: httpx2.AsyncClient) -> None:
    ana = stage.sign_up("ana")
    expired = token_of(ana, exp=1)
    forged = token_of(ana)[:-4] + "AAAA"
    for token in (None, "nonsense", expired, forged, "kpt_" + "0" * 43, token_of(ana, role="anon")):
        for body in (INITIALIZE, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, {}):
            refused = await Hand(http, token).post(body)
            assert refused.status_code == 401, (token, refused.text)
            assert refused.headers["www-authenticate"].startswith("Bearer")
            assert "recall" not in refused.text
    for token in (token_of(ana, role="service_role"), "sb_secret_of_these_tests"):
        refused = await Hand(http, token).post(INITIALIZE)
        assert (refused.status_code, refused.json()["message"]) == (403, "an agent acts for a user")


async def test_a_connection_belongs_to_who_opened_it(stage: World, http: httpx2.AsyncClient) -> None:
    ana, ben = stage.sign_up("ana"), stage.sign_up("ben")
    hers, ben_by_hand = Hand(http, token_of(ana)), Hand(http, token_of(ben))
    session = await hers.open()
    assert "Recorded" in said(await hers.call("remember", session, content="Ana was here."))

    team = stage.workspace("team", owner=ana)
    (first, _), (second, _) = agent_token(ana), agent_token(ana)
    others = [
        ben_by_hand,
        Hand(http, first),
        Hand(http, second),
        # She herself, but somewhere else.
        Hand(http, token_of(ana), x_workspace_id=str(team)),
    ]
    for other in others:
        answer = await other.call("remember", session, content="Somebody else was here.")
        nothing = await other.call("remember", uuid4().hex, content="Somebody else was here.")
        assert answer.status_code == nothing.status_code == 404
        assert answer.json() == nothing.json()
        given = {**other.headers, "mcp-session-id": session}
        ended = await other.http.delete("/functions/v1/mcp", headers=given)
        assert ended.status_code == 404
    # The era without connections looks at no id of one: whoever names hers is in a place of their own.
    answer = await ben_by_hand.call_without_connection("remember", session, content="Ben was elsewhere.")
    assert "Recorded" in said(answer)
    assert ben.value("select count(*) from ai_sessions") == 1
    assert ana.sql("select content from knowledge_items") == [{"content": "Ana was here."}]
    assert ana.value("select end_time from ai_sessions") is None

    # A sign-in that was renewed is the same user's.
    renewed = Hand(http, token_of(ana, renewed=True))
    assert "Ana was here" in said(await renewed.call("recall", session, query="what Ana did"))
    ended = await http.delete("/functions/v1/mcp", headers={**renewed.headers, "mcp-session-id": session})
    assert ended.status_code == 200
    assert ana.value("select end_time from ai_sessions") is not None
    assert (await hers.call("recall", session, query="what Ana did")).status_code == 404


async def test_a_foreign_workspace_stays_closed(stage: World, http: httpx2.AsyncClient, origin: str) -> None:
    ana, ben = stage.sign_up("ana"), stage.sign_up("ben")
    team = stage.workspace("team", owner=ana)
    ana.inside(team).record("Of the team", "Ben is not told.")
    for foreign in (team, uuid4()):
        async with over_http(origin, token_of(ben), headers={"x-workspace-id": str(foreign)}) as agent:
            for tool, arguments in (
                ("start_session", {}),
                ("recall", {"query": "team"}),
                ("remember", {"content": "Let me in."}),
                ("find_gotchas", {"problem": "it fails"}),
            ):
                told = await agent.refusal(tool, **arguments)
                assert "Ben is not told" not in told
                assert "workspace" in told
    token, _ = agent_token(ben)
    refused = await Hand(http, token, x_workspace_id=str(team)).post(INITIALIZE)
    assert (refused.status_code, refused.json()["message"]) == (
        403,
        "the token is bound to another workspace",
    )
    malformed = await Hand(http, token_of(ben), x_workspace_id="team").post(INITIALIZE)
    assert malformed.status_code == 400
    named = await Hand(http, token_of(ben), x_session_id=str(uuid4())).post(INITIALIZE)
    assert (named.status_code, "start_session" in named.json()["hint"]) == (400, True)
    assert stage.superuser("select 1 from knowledge_items where content = 'Let me in.'") == []


async def test_a_revoked_token_opens_nothing_more(stage: World, http: httpx2.AsyncClient) -> None:
    ana = stage.sign_up("ana")
    token, token_id = agent_token(ana)
    by_hand = Hand(http, token)
    session = await by_hand.open()
    assert "Recorded" in said(await by_hand.call("remember", session, content="While it was good."))
    ana.rpc("revoke_agent_token", token_id=token_id)
    for answer in (
        await by_hand.call("remember", session, content="When it was not."),
        await by_hand.post(INITIALIZE),
        await by_hand.call_without_connection("recall", session, query="good"),
    ):
        assert answer.status_code == 401
        assert "revoked" in answer.json()["message"]
    assert ana.sql("select content from knowledge_items") == [{"content": "While it was good."}]


async def test_an_agents_token_works_in_its_workspace(stage: World, origin: str) -> None:
    ana = stage.sign_up("ana")
    team = stage.workspace("team", owner=ana)
    token, _ = agent_token(ana, workspace_id=str(team))
    async with over_http(origin, token, mode="2026-07-28") as agent:
        item = await agent.record("remember", content="It belongs to the team.")
    assert ana.value("select workspace_id from knowledge_items where id = %s", item) == team


async def test_web_pages_of_others_are_turned_away(stage: World, http: httpx2.AsyncClient) -> None:
    ana = stage.sign_up("ana")
    # A name of theirs that points to this machine, and a page of theirs that knows the address.
    rebound = await Hand(http, token_of(ana), host="evil.example:80").post(INITIALIZE)
    assert rebound.status_code == 421
    page = await Hand(http, token_of(ana), origin="https://evil.example").post(INITIALIZE)
    assert page.status_code == 403
    own = await Hand(http, token_of(ana), host="localhost:54321", origin="http://localhost:54321").post(
        INITIALIZE
    )
    assert own.status_code == 200


@pytest.fixture
def proxied(stage: World) -> Generator[str]:
    """Run the functions behind a name of their own."""
    with serving(make_app(make_doorkeeper(stage), origins=["https://memory.example.org"])) as url:
        yield url


async def test_a_proxied_origin_is_known_by_its_name(stage: World, proxied: str) -> None:
    ana = stage.sign_up("ana")
    async with httpx2.AsyncClient(base_url=proxied, timeout=60) as http:
        for host, origin, status in (
            ("memory.example.org", "https://memory.example.org", 200),
            ("evil.example", "https://memory.example.org", 421),
            ("memory.example.org", "https://evil.example", 403),
        ):
            answer = await Hand(http, token_of(ana), host=host, origin=origin).post(INITIALIZE)
            assert answer.status_code == status, answer.text


async def test_there_is_no_stream_and_no_nonsense(stage: World, http: httpx2.AsyncClient) -> None:
    ana = stage.sign_up("ana")
    by_hand = Hand(http, token_of(ana))
    listening = await http.get("/functions/v1/mcp", headers=by_hand.headers)
    assert (listening.status_code, listening.headers["allow"]) == (405, "POST, DELETE")
    session = await by_hand.open()
    for body in (
        [],
        {},
        {"jsonrpc": "2.0"},
        {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": 1},
    ):
        answer = await by_hand.post(body, mcp_session_id=session, mcp_protocol_version="2025-11-25")
        assert answer.status_code in {200, 400}, answer.text
        assert "error" in answer.json()
        assert "Traceback" not in answer.text
    long = await by_hand.call("remember", session, content="x" * 1_000_001)
    assert long.status_code == 413
