"""The same problems, commands, patterns, insights and decisions, met by many at once: everything counts, once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest
from benchmarks.repeats import KINDS, Stage, Writer, Written, check, compare, repeat

if TYPE_CHECKING:
    from databases import Database
    from world import World

TABLES = {
    "gotcha": ("technical_gotchas", "frequency_encountered", "jsonb_array_length(attempted_solutions)"),
    "command": ("command_patterns", "usage_count", "usage_count"),
    "interaction_pattern": ("interaction_patterns", "pattern_frequency", "jsonb_array_length(examples)"),
    "insight": ("experiential_knowledge", "times_observed", "jsonb_array_length(observations) + 1"),
    "decision": (
        "decision_evolution",
        "jsonb_array_length(evolution_timeline)",
        "jsonb_array_length(evolution_stages)",
    ),
}


@pytest.fixture
def stage(world: World, database: Database) -> Stage:
    """Set the stage: a maintainer and four contributors of one workspace."""
    maintainer, *users = [world.sign_up(name) for name in ("maintainer", "ana", "ben", "cleo", "dan")]
    workspace = world.workspace("team", owner=maintainer, contributor=users)
    return Stage(
        database.dsn("authenticator"),
        database.dsn("postgres"),
        workspace,
        UUID(str(maintainer.id)),
        [UUID(str(user.id)) for user in users],
    )


# The comparison itself has to notice


@pytest.mark.parametrize(
    "wrong",
    [
        {"sightings": 1},
        {"sightings": 3},
        {"successes": 2},
        {"applied": 0},
        {"scores": 9},
        {"said": ["a"]},
        {"said": ["a", "a", "b"]},
        {"said": ["a", "c"]},
    ],
)
def test_what_is_missing_or_too_much_is_noticed(wrong: dict[str, object]) -> None:
    written = Written(said=["a", "b"], successes=1, applied=1, scores=7)
    right = {"sightings": 2, "successes": 1, "applied": 1, "scores": 7, "said": ["b", "a"]}
    assert compare("it", right, written) == []
    assert len(compare("it", right | wrong, written)) == 1


def test_a_record_without_its_item_or_that_nobody_wrote_is_noticed(world: World, stage: Stage) -> None:
    with stage.enter(stage.users[0]) as ana:
        met = ana.record_gotcha("ValueError: aaab is bad", attempted_solution="x", attempt_outcome="failed")
    tally = {("gotcha", 1, stage.users[0]): Written(said=["x"])}
    with psycopg.connect(stage.admin_url, autocommit=True) as admin:
        assert check(admin, stage.workspace, tally) == []
        assert len(check(admin, stage.workspace, {})) == 2, "nobody wrote it, nobody said x"
        assert check(admin, stage.workspace, {**tally, ("gotcha", 2, stage.users[0]): Written(said=["y"])})
        world.superuser("delete from private.companions where knowledge_id = %s", met.knowledge_id)
        [problem] = check(admin, stage.workspace, tally)
    assert "0 records" in problem


# The races


def test_repeats_by_many_lose_nothing(stage: Stage) -> None:
    """Eight writers, two for each of four users, on records of their own and on records that all share."""
    report = repeat(stage, seconds=2.5, writers=8, signatures=8)
    assert report.problems == []
    assert report.deadlocks == 0
    assert all(report.writes[kind] for kind in KINDS)
    assert sum(report.writes.values()) > report.records, "hardly anything was repeated"


def test_repeats_while_records_are_validated_lose_nothing(world: World, stage: Stage) -> None:
    """What is validated becomes everybody's in the middle of it: repeats go on, here or there, and none is lost."""
    barrier = threading.Barrier(9)
    dice = [random.Random(place) for place in range(8)]  # noqa: S311 - orders, not secrets
    writers = [Writer(stage, stage.users[place % 4], one) for place, one in enumerate(dice)]
    ended = threading.Event()

    def validate() -> int:
        decided = 0
        with stage.enter(stage.maintainer) as maintainer:
            barrier.wait(60)
            while not ended.is_set():
                for item in world.superuser(
                    "select id from public.knowledge_items where validation_status = 'pending' and"
                    " superseded_by is null order by random() limit 5"
                ):
                    maintainer.validate(item["id"])
                    decided += 1
        return decided

    [before] = world.superuser("select deadlocks from pg_stat_database where datname = current_database()")
    with ThreadPoolExecutor(9) as pool:
        validating = pool.submit(validate)
        try:
            # No record is the maintainer's here: all signatures are from the half that are the users' own.
            working = [
                pool.submit(writer.work, barrier, seconds=1.5, signatures=4, shared=0) for writer in writers
            ]
            for done in working:
                done.result()
        finally:
            ended.set()
        assert validating.result() > 0
    written: Counter[str] = Counter()
    for writer in writers:
        for (kind, _, _), one in writer.tally.items():
            written[kind] += len(one.said)
    for kind, (table, counter, kept) in TABLES.items():
        [row] = world.superuser(f"select sum({counter}) as counted, sum({kept}) as kept from public.{table}")
        assert (kind, row["counted"], row["kept"]) == (kind, written[kind], written[kind])
    [after] = world.superuser("select deadlocks from pg_stat_database where datname = current_database()")
    assert after == before
