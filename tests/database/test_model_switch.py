"""Switching the embedding model, step by step: what serves when, what is stored where, who may."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest

from world import refused, vector

if TYPE_CHECKING:
    import uuid

    from world import Persona, Row, World

OLD = "all-MiniLM-L6-v2"
NEW = "tiny-4"
OLD_AXIS = [1.0] + [0.0] * 383
NEW_AXIS = [1.0, 0.0, 0.0, 0.0]


def embed(service: Persona, *models: str) -> int:
    """Embed all that waits for these models, each text to its model's axis, and return how many that were."""
    count = 0
    while jobs := service.rpc("claim_embedding_jobs", embedding_models=list(models)):
        count += len(jobs)
        stored = service.rpc(
            "store_embeddings",
            embeddings=[
                {
                    "knowledge_id": str(job["knowledge_id"]),
                    "embedding_model": job["embedding_model"],
                    "content_hash": job["content_hash"],
                    "embedding": vector(NEW_AXIS if job["embedding_model"] == NEW else OLD_AXIS),
                }
                for job in jobs
            ],
        )
        assert {row["outcome"] for row in stored} == {"stored"}
    return count


def status(service: Persona) -> Row:
    [row] = service.rpc("embedding_switch_status")
    return row


def build_index(world: World, service: Persona) -> None:
    with psycopg.connect(world.dsn("postgres"), autocommit=True) as connection:
        connection.execute(status(service)["index_statement"].encode())


def found(persona: Persona, model: str) -> set[str]:
    axis = NEW_AXIS if model == NEW else OLD_AXIS
    rows = persona.rpc(
        "find_similar_knowledge", query_embedding=axis, embedding_model=model, limit_results=100
    )
    return {row["title"] for row in rows}


def models_of(world: World, item: uuid.UUID) -> tuple[str | None, set[str]]:
    [row] = world.superuser(
        "select k.embedding_model, array(select v.embedding_model::text from private.item_vectors v"
        " where v.knowledge_id = k.id) as vectors from public.knowledge_items k where k.id = %s",
        item,
    )
    return row["embedding_model"], set(row["vectors"])


@pytest.fixture
def service(world: World) -> Persona:
    return world.service()


@pytest.fixture
def ana(world: World) -> Persona:
    return world.sign_up("ana")


@pytest.mark.parametrize(
    "call",
    [
        ("begin_embedding_switch", {"embedding_model": "text-embedding-3-small"}),
        ("swap_embedding_model", {}),
        ("settle_embedding_switch", {}),
        ("abort_embedding_switch", {}),
        ("embedding_switch_status", {}),
        ("retry_embeddings", {}),
    ],
    ids=lambda call: call[0],
)
def test_only_operators_switch(world: World, ana: Persona, call: tuple[str, dict[str, object]]) -> None:
    function, arguments = call
    for somebody in (ana, world.anon()):
        with refused("42501"):
            somebody.rpc(function, **arguments)


def test_a_workspace_that_chooses_its_model_meanwhile_keeps_it(
    world: World, ana: Persona, service: Persona
) -> None:
    ben = world.sign_up("ben")
    hers, his = ana.record("hers"), ben.record("his")
    embed(service, OLD)
    service.rpc("begin_embedding_switch", embedding_model=NEW, dimensions=4)
    assert embed(service, NEW) == 2
    service.rpc("register_embedding_model", name="chosen", dimensions=384)
    late = ana.record("late")  # waits for both models
    service.sql(
        "update public.workspaces set embedding_model = 'chosen' where id = %s",
        ana.value("select workspace_id from public.knowledge_items where id = %s", hers),
    )
    assert embed(service, "chosen", OLD, NEW) == 2
    build_index(world, service)
    assert service.rpc("swap_embedding_model") == [{"outcome": "swapped", "waiting": 0, "failed": 0}]
    while service.value("select public.settle_embedding_switch(10)"):
        pass
    assert models_of(world, his)[0] == NEW
    for item in (hers, late):
        assert models_of(world, item)[0] == "chosen"
    assert found(ana, "chosen") == {"hers", "late"}
    assert status(service)["state"] == "settled"


def test_a_workspace_that_gives_up_its_choice_meanwhile_is_never_blind(
    world: World, ana: Persona, service: Persona
) -> None:
    item = ana.record("hers")
    service.rpc("register_embedding_model", name=NEW, dimensions=4)
    service.sql("update public.workspaces set embedding_model = %s where true", NEW)
    embed(service, NEW)
    service.rpc("begin_embedding_switch", embedding_model=NEW)
    service.sql("update public.workspaces set embedding_model = null where true")
    embed(service, OLD, NEW)
    assert found(ana, OLD) == {"hers"}
    build_index(world, service)
    assert service.rpc("swap_embedding_model") == [{"outcome": "swapped", "waiting": 0, "failed": 0}]
    while service.value("select public.settle_embedding_switch(10)"):
        assert found(ana, NEW) == {"hers"}
    assert models_of(world, item)[0] == NEW
    assert found(ana, NEW) == {"hers"}


def test_the_old_model_serves_until_the_new_one_can(world: World, ana: Persona, service: Persona) -> None:
    first = ana.record("first")
    assert embed(service, OLD) == 1
    with refused("PT422", "how many dimensions|not registered"):
        service.rpc("begin_embedding_switch", embedding_model=NEW)
    [begun] = service.rpc("begin_embedding_switch", embedding_model=NEW, dimensions=4)
    assert (begun["state"], begun["items"], begun["embedded"], begun["waiting"]) == ("filling", 1, 0, 1)
    assert not begun["index_valid"]
    # Beginning again goes on; another model has to wait.
    assert service.rpc("begin_embedding_switch", embedding_model=NEW)[0]["waiting"] == 1
    with refused("PT409", "under way"):
        service.rpc("begin_embedding_switch", embedding_model="text-embedding-3-small")

    # What is written meanwhile is embedded by both models, the serving one first.
    second = ana.record("second")
    claimed = service.rpc("claim_embedding_jobs", max_jobs=1, lease_seconds=1)
    assert [job["embedding_model"] for job in claimed] == [OLD]
    world.superuser("update private.embedding_jobs set available_at = now() where available_at < 'infinity'")
    assert service.rpc("swap_embedding_model") == [{"outcome": "waiting", "waiting": 1, "failed": 0}]
    assert embed(service, OLD, NEW) == 3
    for item in (first, second):
        assert models_of(world, item) == (OLD, {OLD, NEW})
    assert found(ana, OLD) == {"first", "second"}
    assert ana.value("select name from public.embedding_models where is_default") == OLD

    with refused("PT409", "index"):
        service.rpc("swap_embedding_model")
    build_index(world, service)
    assert status(service)["index_valid"]
    assert service.rpc("swap_embedding_model") == [{"outcome": "swapped", "waiting": 0, "failed": 0}]
    assert ana.value("select name from public.embedding_models where is_default") == NEW
    with refused("PT409"):
        service.rpc("abort_embedding_switch")

    # Both are searched, each by its own, before the vectors have moved and after.
    assert found(ana, NEW) == found(ana, OLD) == {"first", "second"}
    assert service.value("select public.settle_embedding_switch(1)") == 1
    assert status(service)["state"] == "settling"
    assert service.value("select public.settle_embedding_switch(10)") == 0
    assert status(service)["state"] == "settled"
    assert models_of(world, first) == (NEW, {OLD, NEW})
    [row] = ana.sql("select content_embedding::text as v from public.knowledge_items where id = %s", first)
    assert json.loads(row["v"]) == NEW_AXIS
    assert found(ana, NEW) == found(ana, OLD) == {"first", "second"}
    ana.record("third")
    assert embed(service, OLD, NEW) == 1
    assert found(ana, NEW) == {"first", "second", "third"}

    # An hour later maintenance removes what nobody asks for any more.
    service.rpc("run_maintenance")
    assert models_of(world, first) == (NEW, {OLD, NEW})
    world.superuser("update private.embedding_switches set settled_at = now() - interval '2 hours'")
    outcomes = {row["task"]: row for row in service.rpc("run_maintenance")}
    assert outcomes["embedding_switch"]["outcome"] == "done"
    assert models_of(world, first) == (NEW, {NEW})
    assert service.rpc("embedding_switch_status") == []


def test_a_text_that_changes_takes_its_vectors_along(world: World, ana: Persona, service: Persona) -> None:
    item = ana.record("first draft")
    embed(service, OLD)
    service.rpc("begin_embedding_switch", embedding_model=NEW, dimensions=4)
    [stale] = service.rpc("claim_embedding_jobs", embedding_models=[NEW])
    ana.sql("update public.knowledge_items set content = 'second draft' where id = %s", item)
    answer = {name: str(stale[name]) for name in ("knowledge_id", "embedding_model", "content_hash")}
    [outcome] = service.rpc("store_embeddings", embeddings=[{**answer, "embedding": vector(NEW_AXIS)}])
    assert outcome["outcome"] == "stale"
    assert models_of(world, item) == (None, set())
    # The new model is quicker than the old one, whose server is away; then the text changes once more.
    assert embed(service, NEW) == 1
    assert models_of(world, item) == (None, {NEW})
    ana.sql("update public.knowledge_items set content = 'third draft' where id = %s", item)
    assert models_of(world, item) == (None, set())
    assert world.superuser("select 1 from private.next_embeddings") == []
    assert embed(service, OLD, NEW) == 2
    # After the swap, too: what has not moved yet is not of the new text.
    build_index(world, service)
    assert service.rpc("swap_embedding_model")[0]["outcome"] == "swapped"
    ana.sql("update public.knowledge_items set content = 'fourth draft' where id = %s", item)
    assert service.value("select public.settle_embedding_switch()") == 0
    assert models_of(world, item) == (None, set())
    assert embed(service, OLD, NEW) == 1
    assert models_of(world, item) == (NEW, {NEW})


def test_given_up_it_leaves_nothing_behind(world: World, ana: Persona, service: Persona) -> None:
    mine = ana.record("mine")
    embed(service, OLD)
    service.rpc("begin_embedding_switch", embedding_model=NEW, dimensions=4)
    given = ana.record("given", content_embedding=vector(NEW_AXIS), embedding_model=NEW)
    embed(service, OLD, NEW)
    assert models_of(world, mine) == (OLD, {OLD, NEW})
    assert service.rpc("abort_embedding_switch")[0]["embedded"] == 2
    assert models_of(world, mine) == (OLD, {OLD})
    assert models_of(world, given) == (NEW, {NEW}), "it came with that vector"
    assert service.rpc("embedding_switch_status") == []
    assert world.superuser("select 1 from private.embedding_jobs") == []
    with refused("PT409"):
        service.rpc("abort_embedding_switch")


def test_a_workspace_with_a_model_of_its_own_keeps_it(world: World, ana: Persona, service: Persona) -> None:
    service.rpc("register_embedding_model", name="own-3", dimensions=3)
    team = world.workspace("team", owner=ana)
    world.superuser("update public.workspaces set embedding_model = 'own-3' where id = %s", team)
    theirs = ana.inside(team).record("theirs", content_embedding="[1,0,0]")
    [begun] = service.rpc("begin_embedding_switch", embedding_model=NEW, dimensions=4)
    assert begun["items"] == 0
    build_index(world, service)
    service.rpc("swap_embedding_model")
    assert service.value("select public.settle_embedding_switch()") == 0
    assert models_of(world, theirs) == ("own-3", {"own-3"})


def test_what_cannot_be_embedded_is_said_and_does_not_block_for_ever(
    world: World, ana: Persona, service: Persona
) -> None:
    fine, poison = ana.record("fine"), ana.record("poison")
    embed(service, OLD)
    service.rpc("begin_embedding_switch", embedding_model=NEW, dimensions=4)
    world.superuser(
        "update private.embedding_jobs set attempts = 7, last_error = 'no' where knowledge_id = %s", poison
    )
    jobs = service.rpc("claim_embedding_jobs")
    service.rpc(
        "store_embeddings",
        embeddings=[
            {
                "knowledge_id": str(job["knowledge_id"]),
                "embedding_model": NEW,
                "content_hash": job["content_hash"],
                **({"error": "no"} if job["knowledge_id"] == poison else {"embedding": vector(NEW_AXIS)}),
            }
            for job in jobs
        ],
    )
    build_index(world, service)
    assert service.rpc("swap_embedding_model") == [{"outcome": "failed", "waiting": 0, "failed": 1}]
    [failed] = service.sql("select * from public.failed_embeddings")
    assert (failed["knowledge_id"], failed["embedding_model"], failed["last_error"]) == (poison, NEW, "no")
    assert failed["tried_again_at"] is None
    assert service.value("select public.retry_embeddings()") == 1
    assert service.rpc("swap_embedding_model")[0]["outcome"] == "waiting"
    world.superuser("update private.embedding_jobs set available_at = 'infinity', last_error = 'no'")
    assert service.rpc("swap_embedding_model", accept_failed=True)[0]["outcome"] == "swapped"
    while service.value("select public.settle_embedding_switch()"):
        pass
    assert models_of(world, fine) == (NEW, {OLD, NEW})
    # It is tried again, and until then found by its words, never by the old vector.
    assert models_of(world, poison) == (None, set())
    assert embed(service, NEW) == 1
    assert found(ana, NEW) == {"fine", "poison"}


def test_what_ends_every_worker_is_handed_out_alone(world: World, ana: Persona, service: Persona) -> None:
    items = [ana.record(f"item {n}") for n in range(3)]
    world.superuser("update private.embedding_jobs set attempts = 3 where knowledge_id <> %s", items[0])
    assert [job["knowledge_id"] for job in service.rpc("claim_embedding_jobs")] == [items[0]]
    assert len(service.rpc("claim_embedding_jobs")) == 1
    assert len(service.rpc("claim_embedding_jobs")) == 1
    world.superuser("update private.embedding_jobs set attempts = 10, available_at = now()")
    assert service.rpc("claim_embedding_jobs") == []
    rows = service.sql("select last_error, tried_again_at from public.failed_embeddings")
    assert len(rows) == 3
    assert all("never answered" in row["last_error"] and row["tried_again_at"] is None for row in rows)


def test_operators_see_numbers_and_others_nothing(world: World, ana: Persona, service: Persona) -> None:
    for view in ("failed_embeddings", "operations_metrics"):
        for somebody in (ana, world.anon()):
            with refused("42501"):
                somebody.sql(f"select 1 from public.{view}")
    ana.record("waits")
    numbers = {
        (row["metric"], json.dumps(row["labels"], sort_keys=True)): row["value"]
        for row in service.sql("select * from public.operations_metrics")
    }
    assert numbers["kp_embedding_jobs", json.dumps({"model": OLD, "state": "pending"})] == 1
    assert numbers["kp_embedding_jobs", json.dumps({"model": OLD, "state": "failed"})] == 0
    assert numbers["kp_embedding_oldest_job_seconds", json.dumps({"model": OLD})] >= 0
    assert numbers["kp_session_partitions_ahead", "{}"] >= 1
    assert numbers["kp_notify_queue_usage", "{}"] < 1
    assert numbers["kp_event_log_bytes", "{}"] > 0
