"""Nobody learns what they may not know through the Data API: filters, embedded rows, counts, upserts, context."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from isolation import RandomWorld, View
from tally import count
from world import World

if TYPE_CHECKING:
    from collections.abc import Generator

    from stacks import Answer, RunningStack
    from world import Persona

QUESTION = "what do ports certificates caches migrations queues timeouts do"
EMBEDS = [
    "knowledge_items?select=id,title,technical_gotchas(*),command_patterns(*),session_knowledge_links(*)",
    "technical_gotchas?select=*,knowledge_items(*)",
    "experiential_knowledge?select=*,knowledge_items!inner(content,validation_status)",
    "knowledge_relationships?select=*,source:knowledge_items!source_knowledge_id(*),target:knowledge_items!target_knowledge_id(*)",
    "ai_sessions?select=*,session_knowledge_links(*)",
    "workspaces?select=*,workspace_members(*),knowledge_items(title)",
]


@pytest.fixture(scope="module")
def random_world(stack: RunningStack) -> Generator[RandomWorld]:
    world = World(stack.config.database_url)
    try:
        yield RandomWorld(world, 7)
    finally:
        world.close()


class Caller:
    """Somebody who asks over HTTP, in a workspace or in none."""

    def __init__(self, stack: RunningStack, random_world: RandomWorld, persona: Persona) -> None:
        self.stack = stack
        self.view = View(random_world, persona)
        self.headers = stack.bearer(stack.token(sub=str(persona.id)))
        if persona.workspace is not None:
            self.headers["x-workspace-id"] = str(persona.workspace)

    def ask(self, path: str, *, method: str = "GET", body: object = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        count("isolation requests")
        return self.stack.call(f"/rest/v1/{path}", {**self.headers, **named}, method=method, body=body)


@pytest.fixture(scope="module")
def callers(stack: RunningStack, random_world: RandomWorld) -> list[Caller]:
    people = list(random_world.people)
    inside = [random_world.stand(place.person, place.workspace) for place in random_world.places[:4]]
    return [Caller(stack, random_world, persona) for persona in [*people, *inside]]


def test_tables_counts_and_ranges(callers: list[Caller], random_world: RandomWorld) -> None:
    for caller in callers:
        for table, allowed in caller.view.rows.items():
            if table in {"embedding_models", "agent_tokens"}:
                continue
            answer = caller.ask(f"{table}?select=*&limit=1000", prefer="count=exact")
            assert answer.status in {200, 206}, (table, answer.body)
            assert len(answer.json) == len(allowed), table
            assert answer.headers["content-range"].endswith(f"/{len(allowed)}"), table
            count("isolation decisions", 2 * len(random_world.tables[table]))
        past_the_end = caller.ask(
            f"knowledge_items?select=id&offset={len(caller.view.rows['knowledge_items'])}"
        )
        assert past_the_end.json == []


def test_filters_orders_and_embedded_rows(callers: list[Caller], random_world: RandomWorld) -> None:
    for caller in callers:
        visible = {str(row["id"]) for row in caller.view.rows["knowledge_items"]}
        hidden = [row for row in random_world.tables["knowledge_items"] if str(row["id"]) not in visible]
        for row in hidden[:3]:
            for filtered in (
                f"id=eq.{row['id']}",
                f"or=(id.eq.{row['id']},content_hash.eq.{quote(str(row['content_hash']))})&id=eq.{row['id']}",
                f"id=in.({row['id']})&order=validation_status.desc",
                f"id=not.neq.{row['id']}",
            ):
                answer = caller.ask(f"knowledge_items?select=*&{filtered}", prefer="count=exact")
                assert (answer.status, answer.json) == (200, []), (filtered, answer.body)
                count("isolation decisions")
        marked = caller.ask(
            "knowledge_items?select=id&content=ilike.*mark*&order=content.asc&limit=1000"
        ).json
        assert {row["id"] for row in marked} <= visible
        for path in EMBEDS:
            answer = caller.ask(path)
            assert answer.status == 200, (path, answer.body)
            assert caller.view.leaks(random_world, answer.body.decode()) == set(), path
            count("isolation decisions", len(random_world.tables["knowledge_items"]))


def test_functions(callers: list[Caller], random_world: RandomWorld) -> None:
    for caller in callers:
        for path in (
            f"rpc/search_knowledge?query_text={quote(QUESTION)}&max_results=100",
            f"rpc/search_knowledge?query_text={quote(QUESTION)}&max_results=100&select=knowledge_id,title&order=title",
            f"rpc/get_contextual_knowledge?current_situation={quote(QUESTION)}",
            "rpc/knowledge_events_since?max_events=1000",
            "rpc/knowledge_graph",
        ):
            answer = caller.ask(path)
            assert answer.status in {200, 403, 404}, (path, answer.body)
            assert caller.view.leaks(random_world, answer.body.decode()) == set(), path
            count("isolation decisions", len(random_world.tables["knowledge_items"]))


def test_hidden_rows_can_be_neither_overwritten_nor_told_from_none(
    callers: list[Caller], random_world: RandomWorld
) -> None:
    for caller in callers:
        visible = {row["id"] for row in caller.view.rows["knowledge_items"]}
        hidden = [row["id"] for row in random_world.tables["knowledge_items"] if row["id"] not in visible][:2]
        for one in hidden:
            for method, path, body in (
                ("PATCH", "knowledge_items?id=eq.{}", {"title": "taken"}),
                ("DELETE", "knowledge_items?id=eq.{}", None),
                (
                    "POST",
                    "knowledge_items?on_conflict=id",
                    {"id": "{}", "title": "taken", "content": "taken"},
                ),
                ("POST", "rpc/validate_knowledge", {"knowledge_id": "{}"}),
                ("POST", "rpc/forget_knowledge", {"knowledge_id": "{}"}),
            ):
                answers = set[tuple[int, str]]()
                for tried in (one, uuid.uuid4()):
                    filled = body and {name: value.format(tried) for name, value in body.items()}
                    answer = caller.ask(
                        path.format(tried),
                        method=method,
                        body=filled,
                        prefer="return=representation,resolution=merge-duplicates",
                    )
                    answers.add((answer.status, answer.body.decode().replace(str(tried), "ID")))
                assert len(answers) == 1, (method, path, answers)
                count("isolation decisions")
    untouched = random_world.world.superuser(
        "select count(*) as n from public.knowledge_items where title = 'taken'"
    )
    assert untouched == [{"n": 0}]


def test_a_forged_context_opens_nothing(callers: list[Caller], random_world: RandomWorld) -> None:
    for caller in callers:
        mine = {row["id"] for row in caller.view.rows["workspaces"]}
        for forged in [row["id"] for row in random_world.tables["workspaces"] if row["id"] not in mine][:2]:
            answer = caller.ask("rpc/search_knowledge?query_text=ports", x_workspace_id=str(forged))
            unknown = caller.ask("rpc/search_knowledge?query_text=ports", x_workspace_id=str(uuid.uuid4()))
            assert (answer.status, answer.body) == (unknown.status, unknown.body)
            assert answer.status == 403
