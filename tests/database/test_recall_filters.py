"""Every filter of a search, through every arm, beside a model of the same items in Python.

The items are made so that each arm alone nominates all of them: what is left out is left out by the filter.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from world import Persona, World, vector

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from databases import Database, DatabaseServer

DIMENSIONS = 384
ITEMS = 60
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
TYPES = ("factual", "procedural", "experiential")
CATEGORIES = ("ops", "build", "general")
PROJECTS = ("atlas", "borealis", None)
TAGS = ("alpha", "beta", "gamma")
STATUSES = ("pending", "validated", "needs_update", "deprecated")


@dataclass(frozen=True)
class Item:
    """An item as the model knows it."""

    id: UUID
    knowledge_type: str
    category: str
    project: str | None
    tags: frozenset[str]
    importance: int
    status: str
    created: datetime
    updated: datetime
    author: UUID | None
    session: UUID | None
    context: dict[str, Any]


@dataclass(frozen=True)
class Library:
    """The items, and who asks for them: an owner of the workspace, who sees them all."""

    asker: Persona
    colleague: Persona
    session: UUID
    items: list[Item]

    def ids(self, keeps: Callable[[Item], bool]) -> set[UUID]:
        return {item.id for item in self.items if keeps(item)}


def some_vector(dice: random.Random) -> list[float]:
    """A vector that is near the first axis, each in its own way."""
    values = [0.0] * DIMENSIONS
    values[0] = 1.0
    values[1 + dice.randrange(DIMENSIONS - 1)] = 0.2 + dice.random() / 2
    return values


@pytest.fixture(scope="module")
def library(server: DatabaseServer, template: Database) -> Generator[Library]:
    with server.clone(template) as database:
        world = World(database.dsn)
        try:
            yield fill(world)
        finally:
            world.close()


def fill(world: World) -> Library:
    dice = random.Random(7)  # noqa: S311
    asker, colleague = world.sign_up("asker"), world.sign_up("colleague")
    team = world.workspace("team", owner=asker, maintainer=colleague)
    asker, colleague = asker.inside(team), colleague.inside(team)
    in_session = asker.start_session("s")
    assert isinstance(in_session.session, UUID)
    for number in range(ITEMS):
        author = dice.choice([asker, colleague, in_session])
        context = {"service": {"name": dice.choice(["api", "web"]), "tier": dice.randrange(3)}, "n": number}
        author.record(
            f"Item {number}",
            f"shared words, number{number}",
            knowledge_type=dice.choice(TYPES),
            category=dice.choice(CATEGORIES),
            project_context=dice.choice(PROJECTS),
            retrieval_triggers=["hoist", *dice.sample(TAGS, dice.randrange(3))],
            importance_score=dice.randint(1, 100),
            context_data=context,
            content_embedding=vector(some_vector(dice)),
        )
    # Times and statuses are given here: nobody can wait for a year, nor should a trigger that keeps times be in it.
    world.superuser("set session_replication_role = replica")
    for row in world.superuser("select id from public.knowledge_items order by title"):
        created = EPOCH + timedelta(days=dice.randrange(100))
        world.superuser(
            "update public.knowledge_items set validation_status = %s, validated_at = now(), created_at = %s,"
            " updated_at = %s where id = %s",
            dice.choice(STATUSES),
            created,
            created + timedelta(days=dice.randrange(100)),
            row["id"],
        )
    world.superuser("set session_replication_role = origin")
    world.superuser("analyze")
    items = [
        Item(
            id=row["id"],
            knowledge_type=row["knowledge_type"],
            category=row["category"],
            project=row["project_context"],
            tags=frozenset(row["retrieval_triggers"]),
            importance=row["importance_score"],
            status=row["validation_status"],
            created=row["created_at"],
            updated=row["updated_at"],
            author=row["owner_id"],
            session=row["created_in_session"],
            context=row["context_data"],
        )
        for row in world.superuser("select * from public.knowledge_items")
    ]
    assert len(items) == ITEMS
    return Library(asker, colleague, in_session.session, items)


def current(item: Item) -> bool:
    return item.status != "deprecated"


def holds(whole: object, part: object) -> bool:
    """What `@>` says of JSON objects."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and holds(whole[key], value) for key, value in part.items()
        )
    return whole == part


#: Each filter: its arguments, and what the model says of an item. Both may need to know the library.
Filter = tuple[dict[str, Any], "Callable[[Item], bool]"]
MIDDLE = EPOCH + timedelta(days=50)
FILTERS: dict[str, Callable[[Library], Filter]] = {
    "none": lambda _: ({}, lambda _: True),
    "a type": lambda _: (
        {"knowledge_types": ["procedural"]},
        lambda item: item.knowledge_type == "procedural",
    ),
    "several types": lambda _: (
        {"knowledge_types": ["factual", "experiential"]},
        lambda item: item.knowledge_type in {"factual", "experiential"},
    ),
    "categories": lambda _: (
        {"categories": ["ops", "build"]},
        lambda item: item.category in {"ops", "build"},
    ),
    "project": lambda _: ({"project_context": "atlas"}, lambda item: item.project == "atlas"),
    "one tag": lambda _: ({"tags": ["beta"]}, lambda item: "beta" in item.tags),
    "one of several tags": lambda _: (
        {"tags": ["alpha", "gamma"]},
        lambda item: bool(item.tags & {"alpha", "gamma"}),
    ),
    "importance": lambda _: ({"min_importance": 60}, lambda item: item.importance >= 60),
    "a status": lambda _: (
        {"validation_statuses": ["needs_update"]},
        lambda item: item.status == "needs_update",
    ),
    "retired, too": lambda _: ({"validation_statuses": list(STATUSES)}, lambda _: True),
    "only retired": lambda _: (
        {"validation_statuses": ["deprecated"]},
        lambda item: item.status == "deprecated",
    ),
    "created after": lambda _: ({"created_after": MIDDLE}, lambda item: item.created >= MIDDLE),
    "created before": lambda _: ({"created_before": MIDDLE}, lambda item: item.created < MIDDLE),
    "created between": lambda _: (
        {"created_after": EPOCH + timedelta(days=20), "created_before": EPOCH + timedelta(days=70)},
        lambda item: EPOCH + timedelta(days=20) <= item.created < EPOCH + timedelta(days=70),
    ),
    "updated after": lambda _: ({"updated_after": MIDDLE}, lambda item: item.updated >= MIDDLE),
    "updated before": lambda _: ({"updated_before": MIDDLE}, lambda item: item.updated < MIDDLE),
    "author": lambda library: (
        {"author_id": library.colleague.id},
        lambda item: item.author == library.colleague.id,
    ),
    "session": lambda library: (
        {"session_id": library.session},
        lambda item: item.session == library.session,
    ),
    "context": lambda _: (
        {"context_data": {"service": {"name": "api"}}},
        lambda item: holds(item.context, {"service": {"name": "api"}}),
    ),
    "context of several keys": lambda _: (
        {"context_data": {"service": {"name": "web", "tier": 1}}},
        lambda item: holds(item.context, {"service": {"name": "web", "tier": 1}}),
    ),
    "as of": lambda _: ({"as_of": MIDDLE}, lambda item: item.created <= MIDDLE),
    "excluded": lambda library: (
        {"exclude_ids": [item.id for item in library.items[::2]]},
        lambda item: item not in library.items[::2],
    ),
    "several at once": lambda library: (
        {
            "knowledge_types": ["factual", "procedural"],
            "min_importance": 20,
            "tags": ["alpha", "beta"],
            "author_id": library.asker.id,
            "created_after": EPOCH + timedelta(days=10),
        },
        lambda item: (
            item.knowledge_type in {"factual", "procedural"}
            and item.importance >= 20
            and bool(item.tags & {"alpha", "beta"})
            and item.author == library.asker.id
            and item.created >= EPOCH + timedelta(days=10)
        ),
    ),
    "nothing passes": lambda _: ({"categories": ["unheard-of"]}, lambda _: False),
}
ARMS: dict[str, dict[str, Any]] = {
    "words": {"query_text": "shared words"},
    "meaning": {"query_embedding": [1.0] + [0.0] * (DIMENSIONS - 1)},
    "both": {
        "query_text": "shared words",
        "query_embedding": [1.0] + [0.0] * (DIMENSIONS - 1),
    },
    "triggers": {"query_text": "hoist"},
}


def found(rows: Sequence[dict[str, Any]]) -> set[UUID]:
    ids = [row["knowledge_id"] for row in rows]
    assert len(ids) == len(set(ids)), "each once"
    return set(ids)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_lets_through_what_the_model_says(library: Library, name: str, arm: str) -> None:
    arguments, keeps = FILTERS[name](library)
    chosen = "validation_statuses" in arguments
    expected = library.ids(lambda item: keeps(item) and (chosen or current(item)))
    assert expected or name == "nothing passes", "a filter that keeps nothing shows nothing"
    assert name in {"none", "retired, too"} or expected != library.ids(current)
    rows = library.asker.rpc("search_knowledge", **ARMS[arm], **arguments, max_results=100)
    assert found(rows) == expected


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    "name", ["a type", "one of several tags", "created after", "author", "several at once"]
)
def test_pages_of_what_a_filter_lets_through(library: Library, name: str, arm: str) -> None:
    arguments, _ = FILTERS[name](library)
    whole = library.asker.rpc("search_knowledge", **ARMS[arm], **arguments, max_results=100)
    pages: list[dict[str, Any]] = []
    while page := library.asker.rpc(
        "search_knowledge",
        **ARMS[arm],
        **arguments,
        max_results=4,
        after_cursor=pages[-1]["cursor"] if pages else None,
    ):
        assert len(page) <= 4
        pages += page
    assert [row["knowledge_id"] for row in pages] == [row["knowledge_id"] for row in whole]
