"""What the worker does now and then, as the person under whose eyes it has to be done."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from knowledge_persistence.embedders import BaseEmbedder
from knowledge_persistence.errors import EmbeddingError
from knowledge_persistence.worker import Worker
from teams import Team

if TYPE_CHECKING:
    import uuid
    from collections.abc import AsyncGenerator, Callable, Sequence

    from databases import Database
    from world import Persona, World


class Towards(BaseEmbedder):
    """A model to which all texts mean the same; once broken, it fails."""

    def __init__(self) -> None:
        super().__init__(name="all-MiniLM-L6-v2", dimensions=384, cache_size=0)
        self.broken = False

    def _embed(self, texts: Sequence[str]) -> Any:
        if self.broken:
            raise EmbeddingError("the model is away")
        return np.ones((len(texts), self.dimensions), dtype=np.float32)


@pytest.fixture
def team(world: World) -> Team:
    team = Team(world)
    world.superuser("update private.discovery_schedules set run_every = null, next_run_at = null where true")
    return team


@pytest.fixture
def embedder() -> Towards:
    return Towards()


@contextlib.asynccontextmanager
async def at_work(database: Database, embedder: Towards) -> AsyncGenerator[Callable[..., Any]]:
    """Lend a way to wait for what a running worker does."""
    worker = Worker(database_url=database.dsn("authenticator"), embedder=embedder, poll=0.05)
    running = asyncio.create_task(worker.run())

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(condition):
                assert not running.done()
                await asyncio.sleep(0.05)

    try:
        yield until
    finally:
        worker.stop()
        async with asyncio.timeout(60):
            await running


def schedule(team: Team, persona: Persona, item: uuid.UUID) -> uuid.UUID:
    """Let somebody write a test that expects an item, and let it be due."""
    [row] = persona.rpc(
        "record_validation_test",
        test_name="finds it",
        test_scenario="what about the gateway?",
        expected_knowledge_ids=[item],
    )
    persona.rpc("schedule_validation_test", test_id=row["test_id"], run_every=dt.timedelta(days=1))
    be_due(team.world)
    return row["test_id"]


def be_due(world: World) -> None:
    world.superuser(
        "update public.knowledge_validation_tests set next_run_at = now() where next_run_at is not null"
    )


def results(team: Team) -> list[dict[str, Any]]:
    return team.maintainer.sql("select * from public.validation_test_results order by test_executed_at")


async def test_a_test_finds_what_its_writer_finds_and_nothing_else(
    team: Team, database: Database, embedder: Towards
) -> None:
    pending = team.author.record("Gateway", "Restart the gateway.")
    test = schedule(team, team.author, pending)
    team.maintainer.rpc("validate_knowledge", knowledge_id=pending)
    theirs = schedule(team, team.colleague, pending)
    # Pending again: the writer of the second test sees it no more.
    team.maintainer.rpc("validate_knowledge", knowledge_id=pending, validation_status="pending")
    async with at_work(database, embedder) as until:
        await until(lambda: len(results(team)) == 2)
    told = {row["test_id"]: row for row in results(team)}
    assert (told[test]["pass_status"], told[test]["owner_id"]) == (True, team.author.id)
    assert (told[theirs]["pass_status"], told[theirs]["owner_id"]) == (False, team.colleague.id)
    assert told[theirs]["retrieved"]["top"] == []
    # Kept as if they had been run by hand.
    [by_hand] = team.author.rpc("run_retrieval_test", test_id=test, query_embedding=[1.0] * 384)
    [kept] = team.author.sql(
        "select * from public.validation_test_results where id = %s", by_hand["result_id"]
    )
    differing = {"id", "test_executed_at", "response_time_seconds"}
    assert {name for name, value in kept.items() if told[test][name] != value} <= differing
    assert [row["run_failure"] for row in team.reader.rpc("list_validation_tests")] == [None, None]


async def test_what_cannot_be_run_says_why_and_runs_when_it_can(
    team: Team, database: Database, embedder: Towards
) -> None:
    item = team.shared("Gateway", "Restart the gateway.")
    async with at_work(database, embedder) as until:
        await until(
            lambda: team.author.value("select count(content_embedding) from public.knowledge_items") == 1
        )

        def failure() -> str | None:
            return team.author.value("select run_failure from public.knowledge_validation_tests")

        embedder.broken = True
        schedule(team, team.author, item)
        await until(lambda: failure() is not None)
        assert failure() == "the model is away"
        assert results(team) == []
        embedder.broken = False
        be_due(team.world)
        await until(lambda: len(results(team)) == 1)
        await until(lambda: failure() is None)
        team.owner.rpc("remove_workspace_member", workspace_id=team.id, user_id=team.author.id)
        be_due(team.world)
        told = "select run_failure from public.knowledge_validation_tests"
        await until(lambda: "no member" in (team.maintainer.value(told) or ""))
    assert len(results(team)) == 1


async def test_what_a_worker_had_that_died_is_run_by_another(
    team: Team, database: Database, embedder: Towards
) -> None:
    schedule(team, team.author, team.shared("Gateway", "Restart the gateway."))
    assert len(team.world.service().rpc("claim_due_work")) == 1
    async with at_work(database, embedder) as until:
        # Its claim is a lease, which ends now.
        be_due(team.world)
        await until(lambda: len(results(team)) == 1)


async def test_relationships_are_proposed_as_an_owner_until_there_are_enough(
    team: Team, database: Database, embedder: Towards, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (team.author.record(f"{n} gateway", f"Restart it {n} times.") for n in (3, 5))
    team.colleague.record("of nobody else", "Restart it 7 times.")
    proposed = "select source_knowledge_id, target_knowledge_id, owner_id, status from public.knowledge_relationships"

    def look() -> None:
        team.maintainer.rpc("schedule_discovery", run_every=dt.timedelta(days=1))
        team.world.superuser(
            "update private.discovery_schedules set next_run_at = now() where next_run_at is not null"
        )

    async with at_work(database, embedder) as until:
        await until(
            lambda: team.owner.value("select count(content_embedding) from public.knowledge_items") == 3
        )
        look()
        await until(lambda: len(team.owner.sql(proposed)) == 3)
        assert {row["owner_id"] for row in team.owner.sql(proposed)} == {team.owner.id}
        assert {row["status"] for row in team.owner.sql(proposed)} == {"proposed"}
        [seen] = team.author.sql(proposed)
        assert {seen["source_knowledge_id"], seen["target_knowledge_id"]} == {first, second}, (
            "who sees both ends"
        )
        assert team.stranger.sql(proposed) == []
        # With so many undecided, no more are looked for.
        monkeypatch.setattr("knowledge_persistence.worker._UNDECIDED", 3)
        team.author.record("Gateway again", "Restart it 9 times.")
        await until(
            lambda: team.owner.value("select count(content_embedding) from public.knowledge_items") == 4
        )
        look()
        due = "select count(*) as n from private.discovery_schedules where next_run_at < now() + interval '1 hour'"
        await until(lambda: team.world.superuser(due)[0]["n"] == 0)
        assert len(team.owner.sql(proposed)) == 3
