"""The client against a model of memory: random acts of several people, the same said by both after each of them.

Here through the direct door; tests/stack/test_memory_http.py plays the same through the Data API. What the machine
plays is fixed in an ordinary run; ``--long`` looks for new plays. Bugs planted on purpose show that it notices.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis.stateful import run_state_machine_as_test

from knowledge_persistence import KnowledgeClient, Settings, connect
from memory_machine import Stage, how, machine, staged, without_shrinking
from world import World

if TYPE_CHECKING:
    from collections.abc import Generator

    from databases import Database


@pytest.fixture
def stage(database: Database) -> Generator[Stage]:
    """Set a stage behind the direct door."""

    def enter(user: UUID) -> KnowledgeClient:
        return connect(
            database.dsn("authenticator"),
            user_id=str(user),
            embedder=None,
            settings=Settings(home=Path("/nonexistent")),
        )

    with staged(World(database.dsn), enter) as stage:
        yield stage


def test_memory_is_what_the_model_says(stage: Stage) -> None:
    run_state_machine_as_test(machine(stage), settings=how(examples=6, steps=80))


@pytest.mark.long
@pytest.mark.timeout(0)
def test_memory_is_what_the_model_says_in_many_plays(stage: Stage, long_seconds: float) -> None:
    until = time.monotonic() + long_seconds * 0.45
    while time.monotonic() < until:
        run_state_machine_as_test(machine(stage), settings=how(examples=20, steps=100, repeatable=False))


# -- the machine can fail: bugs planted on purpose ----------------------------------------------------------------

PLANTED = {
    "a merge that loses an attempt": (
        "private.count_gotcha(uuid, jsonb, boolean)",
        "attempted_solutions = g.attempted_solutions || (",
        "attempted_solutions = (",
    ),
    "a twin that is left alive": (
        "private.merge_twins(uuid)",
        "twin.content_hash = item.content_hash",
        "twin.content_hash = item.content_hash and twin.owner_id = item.owner_id",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_planted_bugs_are_found(planted: str, stage: Stage) -> None:
    function, right, wrong = PLANTED[planted]
    [made] = stage.world.superuser("select pg_get_functiondef(%s::regprocedure) as text", function)
    assert made["text"].count(right) == 1, "the function reads otherwise by now"
    stage.world.superuser(made["text"].replace(right, wrong))
    stage.watchers = 0  # what each act answers, and what is kept, is enough
    with pytest.raises((AssertionError, pytest.fail.Exception, BaseExceptionGroup)):
        run_state_machine_as_test(machine(stage), settings=without_shrinking(how(examples=20, steps=100)))
