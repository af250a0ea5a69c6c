"""Every write function against every other, sixteen writers at once: no deadlock, nothing lost, nothing twice."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from contention import ACTS, APART, Crowd, scenes, write_functions
from world import World

if TYPE_CHECKING:
    from databases import Database, DatabaseServer

FIRST_SEED = 1


def test_every_write_function_has_an_act(world: World) -> None:
    assert write_functions(world) <= ACTS.keys() | APART


def test_every_two_functions_meet() -> None:
    found = scenes(ACTS, random.Random(FIRST_SEED))  # noqa: S311 - an order
    met = {(one, other) for scene in found for one in scene for other in scene}
    assert met >= {(one, other) for one in ACTS for other in ACTS if one != other}
    assert all(any(scene.count(one) > 1 for scene in found) for one in ACTS)


@pytest.mark.long  # what it finds depends on the moment
def test_nothing_is_lost_by_sixteen_writers(world: World) -> None:
    """The first scenes, in which most functions meet; all pairs take a long run."""
    crowd = Crowd(world, FIRST_SEED)
    crowd.round(at_most=5)
    assert crowd.problems() == []


@pytest.mark.long
@pytest.mark.timeout(0)
def test_nothing_is_lost_between_any_two_for_long(
    server: DatabaseServer, template: Database, long_seconds: float
) -> None:
    until, seed = time.monotonic() + long_seconds * 0.45, FIRST_SEED
    while time.monotonic() < until:
        seed += 1
        with server.clone(template) as database:
            world = World(database.dsn)
            try:
                crowd = Crowd(world, seed)
                crowd.round()
                assert crowd.problems() == [], f"seed {seed}"
            finally:
                world.close()
