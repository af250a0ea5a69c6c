"""The client against a model of memory, as in tests/properties/test_memory.py, through the Data API."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis.stateful import run_state_machine_as_test

from knowledge_persistence import KnowledgeClient, Settings, connect
from memory_machine import Stage, how, machine, staged
from world import World

if TYPE_CHECKING:
    from collections.abc import Generator

    from stacks import RunningStack


@pytest.fixture
def stage(stack: RunningStack) -> Generator[Stage]:
    """Set a stage behind the Data API."""

    def enter(user: UUID) -> KnowledgeClient:
        return connect(
            stack.url,
            api_key=stack.config.publishable_key,
            access_token=stack.token(sub=str(user), exp=int(time.time()) + 24 * 3600),
            embedder=None,
            settings=Settings(home=Path("/nonexistent")),
        )

    with staged(World(stack.config.database_url), enter) as stage:
        yield stage


def test_memory_is_what_the_model_says(stage: Stage) -> None:
    run_state_machine_as_test(machine(stage), settings=how(examples=3, steps=50))


@pytest.mark.long
@pytest.mark.timeout(0)
def test_memory_is_what_the_model_says_in_many_plays(stage: Stage, long_seconds: float) -> None:
    until = time.monotonic() + long_seconds * 0.2
    while time.monotonic() < until:
        run_state_machine_as_test(machine(stage), settings=how(examples=10, steps=100, repeatable=False))
