"""An agent at the whole stack: over HTTP through its origin, and on standard input as whoever is signed in."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx2
from mcp.client.streamable_http import streamable_http_client

from knowledge_persistence.embedded.processes import wait_until
from mcp import Client, StdioServerParameters
from mcp_agents import KP, over_http, over_stdio
from stacks import RunningStack


async def test_what_one_agent_records_the_other_recalls(stack: RunningStack, tmp_path: Path) -> None:
    open_sessions = (
        "select id from ai_sessions where session_metadata ->> 'via' like 'mcp%' and end_time is null"
    )
    before = stack.sql(open_sessions)
    made = stack.call("/rest/v1/rpc/create_agent_token", stack.me, body={"name": "elsewhere"})
    [token] = made.json
    async with over_http(stack.url, token["token"]) as agent:
        item = await agent.record("remember", content="Written over HTTP, through the origin.")
    # The worker makes the vector; other tests' texts may be waiting before it.
    has_vector = f"select 1 from knowledge_items where id = '{item}' and content_embedding is not null"
    assert await asyncio.to_thread(wait_until, lambda: bool(stack.sql(has_vector)), timeout=120)
    given = StdioServerParameters(
        command=sys.executable, args=[*KP, "mcp"], env={**os.environ, "KP_HOME": str(stack.home)}
    )
    async with over_stdio(given, tmp_path / "log", mode="auto") as agent:
        # By meaning: the words are others.
        found = await agent.say("recall", query="what was noted through the web server")
        assert f"id={item}" in found
    # A user's own sign-in brings the publishable key along.
    async with (
        httpx2.AsyncClient(headers=stack.me, timeout=60) as http,
        Client(streamable_http_client(f"{stack.url}/functions/v1/mcp", http_client=http)) as client,
    ):
        assert (await client.call_tool("get_item", {"id": item})).is_error is False
    assert [row for row in stack.sql(open_sessions) if row not in before] == []
