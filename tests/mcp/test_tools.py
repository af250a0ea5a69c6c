"""What an agent does with the tools, through both doors and in both eras of the protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from uuid import uuid4

import jsonschema
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import TextContent, TextResourceContents

from knowledge_persistence.mcp.answers import estimate_tokens
from knowledge_persistence.mcp.server import INSTRUCTIONS
from knowledge_persistence.mcp.tools import TOOLS
from mcp_agents import Agent
from world import Persona, World

Enter = Callable[[Persona], AbstractAsyncContextManager[Agent]]

ERROR = """Traceback (most recent call last):
  File "/srv/app/search.py", line 41, in find
    cursor.execute(query)
psycopg.errors.UndefinedFunction: operator does not exist: extensions.vector <=> extensions.vector
LINE 1: select 1 - (a <=> b)"""


async def test_the_second_session_is_helped_by_the_first(stage: World, enter: Enter) -> None:
    ana = stage.sign_up("ana")
    async with enter(ana) as agent:
        started = await agent.say("start_session", task="Make vector search fast", project="search")
        assert "started on search" in started
        assert "Nothing is known yet" in started
        assert "Nothing is known" in await agent.say("recall", query="which vector index to take")

        assert "not known" in await agent.say("find_gotchas", problem=ERROR)
        gotcha = await agent.record(
            "record_gotcha", problem=ERROR, tried="grant usage", tried_outcome="failed"
        )
        again = await agent.ask(
            "record_gotcha",
            problem=ERROR,
            solution="Write operator(extensions.<=>).",
            prevention="Qualify operators where search_path is pinned.",
        )
        assert again.structured_content["id"] == gotcha
        assert again.structured_content["outcome"] == "merged"
        decision = await agent.record(
            "record_decision",
            topic="index for vectors",
            decision="HNSW on half vectors",
            rationale="Half the memory at the same recall.",
            alternatives=["ivfflat"],
        )
        old = await agent.record("remember", content="hnsw.ef_search is 40 by default.", kind="factual")
        new = await agent.record(
            "remember",
            content="For us hnsw.ef_search is 100: 40 lost every tenth neighbour.",
            title="ef_search for this project",
            kind="technical_discovery",
            tags=["hnsw.ef_search"],
            importance=80,
            replaces=old,
        )
        assert "quality" not in await agent.say("end_session", summary="Index made. Open: measure recall.")

    async with enter(ana) as agent:
        started = await agent.say("start_session", task="Measure vector recall", project="search")
        for told in ("Index made. Open: measure recall.", "HNSW on half vectors", "Half the memory"):
            assert told in started
        found = await agent.say("recall", query="hnsw.ef_search")
        assert f"id={new}" in found
        assert f"id={old}" not in found
        known = await agent.say("find_gotchas", problem=ERROR.replace("line 41", "line 977"))
        assert "SAME PROBLEM" in known
        assert "Solution: Write operator(extensions.<=>)." in known
        assert "Tried in vain: grant usage" in known
        assert f"id={gotcha}" in known
        rated = await agent.ask("rate", id=gotcha, worked=True, rating=9)
        assert rated.structured_content["worked"] == 1
        whole = await agent.say("get_item", id=old)
        assert f"REPLACED by id={new}" in whole
        assert "hnsw.ef_search is 40 by default." in whole
        assert "Half the memory" in await agent.say("get_item", id=decision)
        ended = await agent.ask(
            "end_session", summary="Recall measured.", quality=90, user_feedback="Just what I needed."
        )
        assert (ended.structured_content["recorded"], ended.structured_content["quality"]) == (0, 90)

        listed = (await agent.client.list_tools()).tools
    called = {"start_session", "recall", "find_gotchas", "get_item", "remember", "record_gotcha"}
    called |= {"record_decision", "rate", "end_session"}
    assert {tool.name for tool in listed} == called
    sessions = ana.sql(
        "select project_context::text, session_metadata, user_feedback, end_time from ai_sessions order by id"
    )
    assert [one["session_metadata"]["summary"] for one in sessions] == [
        "Index made. Open: measure recall.",
        "Recall measured.",
    ]
    assert all(one["end_time"] for one in sessions)
    assert {one["project_context"] for one in sessions} == {"search"}
    assert all("mcp" in one["session_metadata"]["agent"] for one in sessions)
    assert sessions[1]["user_feedback"] == "Just what I needed."


# What is said of errors and resources is the same at either door and in either era; so two doors do.
@pytest.mark.parametrize("door", ["stdio", "http 2026"])
async def test_what_goes_wrong_is_told_with_what_to_do(stage: World, enter: Enter) -> None:
    ana, ben = stage.sign_up("ana"), stage.sign_up("ben")
    his = ben.record("Ben's own", "Nobody else is told.")
    async with enter(ana) as agent:
        for foreign in (his, uuid4()):
            assert "copy one whole" in await agent.refusal("get_item", id=str(foreign))
            assert "copy one whole" in await agent.refusal("rate", id=str(foreign), worked=True)
        wrong = await agent.refusal("recall", query="", max_results=99, limit=3)
        for told in ("`query`", "`max_results`", "no argument `limit`", "call again"):
            assert told in wrong
        assert "`content` is missing" in await agent.refusal("remember")
        assert "`id`" in await agent.refusal("rate", id="the first one", worked=True)
        assert "give `worked` or `rating`" in await agent.refusal("rate", id=str(his))
        assert "go together" in await agent.refusal("record_gotcha", problem="it fails", tried="hope")
        secret = await agent.refusal("remember", content="The key is AKIAIOSFODNN7EXAMPLE.")
        assert "without the secret" in secret
        told = await agent.say("remember", content="Ana's word against Ben's.", replaces=str(his))
        assert told.startswith("Recorded, id=")
        assert f"But {his} still stands" in told
        with pytest.raises(MCPError, match="no tool 'forget'; there are start_session, recall"):
            await agent.ask("forget", id=str(his))
    assert ben.value("select superseded_by from knowledge_items where id = %s", his) is None
    assert ana.value("select count(*) from knowledge_items") == 1


@pytest.mark.parametrize("door", ["stdio", "http 2026"])
async def test_resources_and_the_prompt(stage: World, enter: Enter) -> None:
    ana, ben = stage.sign_up("ana"), stage.sign_up("ben")
    his = ben.record("Ben's own", "Nobody else is told.")
    async with enter(ana) as agent:
        client = agent.client
        assert [str(one.uri) for one in (await client.list_resources()).resources] == ["knowledge://brief"]
        templates = {one.uri_template for one in (await client.list_resource_templates()).resource_templates}
        assert templates == {"knowledge://items/{id}", "knowledge://sessions/{session}"}

        async def read(uri: str) -> str:
            [content] = (await client.read_resource(uri)).contents
            assert isinstance(content, TextResourceContents)
            return content.text

        for nothing in (f"knowledge://items/{his}", f"knowledge://items/{uuid4()}", "knowledge://sessions/x"):
            with pytest.raises(MCPError, match="no "):
                await read(nothing)
        for nonsense in ("knowledge://items/1", "knowledge://items/", "file:///etc/passwd"):
            with pytest.raises(MCPError, match="there is no resource"):
                await read(nonsense)
        assert await read("knowledge://brief") == "Nothing is known yet."
        await agent.say("start_session", project="a b")
        item = await agent.record("remember", content="Resources are read by address.")
        assert "Resources are read by address." in await read(f"knowledge://items/{item}")
        await agent.say("end_session", summary="Addresses tried.")
        assert "Resources are read by address." in await read("knowledge://brief")
        name = ana.value("select session_identifier::text from ai_sessions")
        session = await read(f"knowledge://sessions/{name}")
        assert "summary: Addresses tried." in session
        assert f"id={item}" in session

        [prompt] = (await client.list_prompts()).prompts
        assert (prompt.name, [one.name for one in prompt.arguments or []]) == ("begin", ["task", "project"])
        made = await client.get_prompt("begin", {"task": "Try the prompt", "project": "search"})
        [message] = made.messages
        assert isinstance(message.content, TextContent)
        assert message.content.text.startswith("Try the prompt\n")
        assert "start_session with task and project 'search'" in message.content.text
        with pytest.raises(MCPError, match="`task` is missing"):
            await client.get_prompt("begin", {"task": " "})
        with pytest.raises(MCPError, match="no prompt"):
            await client.get_prompt("end", {})


def test_every_tool_is_described_for_a_model() -> None:
    assert len(TOOLS) <= 10
    words = INSTRUCTIONS
    for name, spec in TOOLS.items():
        tool = spec.described()
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        assert tool.input_schema["type"] == "object"
        # What a tool doesn't know it refuses, and a model is told so before.
        assert tool.input_schema["additionalProperties"] is False
        for argument, schema in tool.input_schema["properties"].items():
            assert "description" in schema or argument == "max_results", f"{name}.{argument}"
            assert "anyOf" not in schema, f"{name}.{argument}"
            assert _is_bounded(schema), f"{name}.{argument}"
        if tool.output_schema is not None:
            jsonschema.Draft202012Validator.check_schema(tool.output_schema)
            assert tool.output_schema["type"] == "object"
        assert tool.description
        assert len(tool.description) < 350, name
        assert tool.annotations is not None
        assert tool.annotations.open_world_hint is False
        words += json.dumps(tool.model_dump(mode="json", by_alias=True, exclude_none=True))
    # In the context of every request that the agent's model reads.
    assert estimate_tokens(words) < 4000


def _is_bounded(schema: dict[str, object]) -> bool:
    match schema["type"]:
        case "string":
            return "maxLength" in schema or "enum" in schema or schema.get("format") == "uuid"
        case "integer":
            return "minimum" in schema and "maximum" in schema
        case "array":
            return "maxItems" in schema
        case other:
            return other == "boolean"
