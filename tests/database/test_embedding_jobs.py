"""Embedding jobs: leased, stored for the right text only, set aside when they keep failing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from world import refused, vector

if TYPE_CHECKING:
    from world import World

AXIS = [1.0] + [0.0] * 383


def answer(job: dict[str, object], **changes: object) -> dict[str, object]:
    kept = {name: str(job[name]) for name in ("knowledge_id", "embedding_model", "content_hash")}
    return {**kept, "embedding": vector(AXIS), **changes}


def test_a_plain_insert_gets_its_vector(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    ana.sql("insert into public.knowledge_items (title, content) values ('Ports', 'The origin is 54321.')")
    [job] = service.rpc("claim_embedding_jobs")
    assert job["embedding_text"] == "Ports\nThe origin is 54321."
    assert service.rpc("claim_embedding_jobs") == [], "a claim is a lease"
    [stored] = service.rpc("store_embeddings", embeddings=[answer(job)])
    assert stored["outcome"] == "stored"
    [found] = ana.rpc("find_similar_knowledge", query_embedding=AXIS)
    assert found["similarity_score"] == pytest.approx(1)
    assert world.superuser("select 1 from private.embedding_jobs") == []


def test_a_vector_of_an_older_text_is_stale(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    item = ana.record("Ports", "The origin is 54321.")
    [job] = service.rpc("claim_embedding_jobs")
    ana.sql("update public.knowledge_items set content = 'The origin is 8000.' where id = %s", item)
    [stored] = service.rpc("store_embeddings", embeddings=[answer(job)])
    assert stored["outcome"] == "stale"
    assert ana.rpc("find_similar_knowledge", query_embedding=AXIS) == []
    [job] = service.rpc("claim_embedding_jobs")
    assert job["embedding_text"] == "Ports\nThe origin is 8000."


def test_a_wrong_vector_is_refused(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    item = ana.record("Ports")
    [job] = service.rpc("claim_embedding_jobs")
    with refused("PT422", "3 dimensions"):
        service.rpc("store_embeddings", embeddings=[answer(job, embedding="[1,2,3]")])
    [stored] = service.rpc(
        "store_embeddings", embeddings=[answer(job, embedding_model="text-embedding-3-small")]
    )
    assert stored["outcome"] == "stale", "the workspace uses another model"
    with refused("PT422", "3 dimensions"):
        ana.rpc("find_similar_knowledge", query_embedding=[1.0, 2.0, 3.0])
    with refused("PT422", "not registered"):
        ana.rpc("find_similar_knowledge", query_embedding=AXIS, embedding_model="unheard-of")
    with refused("PT422", "3 dimensions"):
        ana.sql("update public.knowledge_items set content_embedding = '[1,2,3]' where id = %s", item)


def test_a_dead_workers_jobs_come_back(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    ana.record("Ports")
    [job] = service.rpc("claim_embedding_jobs", lease_seconds=60)
    world.superuser("update private.embedding_jobs set available_at = available_at - interval '61 seconds'")
    [again] = service.rpc("claim_embedding_jobs")
    assert again["knowledge_id"] == job["knowledge_id"]
    assert again["attempts"] == 2


def test_what_keeps_failing_is_set_aside_with_its_error(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    item = ana.record("Poison")
    for attempt in range(1, 9):
        [job] = service.rpc("claim_embedding_jobs")
        assert job["attempts"] == attempt
        [failed] = service.rpc(
            "store_embeddings", embeddings=[{"knowledge_id": str(item), "error": "the provider said no"}]
        )
        assert failed["outcome"] == "failed"
        world.superuser(
            "update private.embedding_jobs set available_at = now() where available_at < 'infinity'"
        )
    assert service.rpc("claim_embedding_jobs") == []
    [kept] = service.sql("select last_error, available_at = 'infinity' as aside from private.embedding_jobs")
    assert kept == {"last_error": "the provider said no", "aside": True}
    ana.sql("update public.knowledge_items set content = 'Wholesome' where id = %s", item)
    assert service.rpc("claim_embedding_jobs"), "a new text is a new chance"


def test_no_answer_sets_no_text_aside(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    item = ana.record("Whatever")
    silence = {"knowledge_id": str(item), "error": "no answer within 30 s", "unanswered": True}
    for attempts in (7, 8, 60, 2_000_000_000):
        world.superuser("update private.embedding_jobs set available_at = now(), attempts = %s", attempts)
        [job] = service.rpc("claim_embedding_jobs")
        assert job["attempts"] == attempts + 1
        service.rpc("store_embeddings", embeddings=[silence])
        [kept] = service.sql("select available_at - now() as rest, last_error from private.embedding_jobs")
        assert kept["rest"] <= timedelta(hours=1, minutes=1)
        assert kept["last_error"] == "no answer within 30 s"


def test_workers_share_the_jobs(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    other = world.service()
    for i in range(6):
        ana.record(f"item {i}")
    with service.transaction() as cursor:
        cursor.execute("select knowledge_id from public.claim_embedding_jobs(3)")
        mine = {row["knowledge_id"] for row in cursor.fetchall()}
        theirs = {row["knowledge_id"] for row in other.rpc("claim_embedding_jobs", max_jobs=100)}
    assert len(mine) == 3
    assert len(theirs) == 3
    assert not mine & theirs


def test_models_of_one_size_are_never_compared(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    [model] = service.rpc("register_embedding_model", name="another-384", dimensions=384)
    assert model["similarity_threshold"] == pytest.approx(0.3)
    ana.record("Default model", content_embedding=vector(AXIS))
    ana.record("Other model", content_embedding=vector(AXIS), embedding_model="another-384")
    for name, title in (("all-MiniLM-L6-v2", "Default model"), ("another-384", "Other model")):
        found = ana.rpc("find_similar_knowledge", query_embedding=AXIS, embedding_model=name)
        assert [row["title"] for row in found] == [title]
    with refused("PT409", "384 dimensions"):
        service.rpc("register_embedding_model", name="another-384", dimensions=512)


def test_a_model_becomes_the_default_at_once_only_where_nothing_is_lost(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    serving = "select name from public.embedding_models where is_default"
    service.rpc("register_embedding_model", name="first", dimensions=3, is_default=True)
    assert service.value(serving) == "first"
    ana.record("something")
    with refused("PT409", "kp embeddings switch second"):
        service.rpc("register_embedding_model", name="second", dimensions=3, is_default=True)
    assert service.value(serving) == "first"
    [again] = service.rpc(
        "register_embedding_model", name="first", dimensions=3, is_default=True, query_prefix="q: "
    )
    assert (again["is_default"], again["query_prefix"]) == (True, "q: ")


def test_registering_again_changes_only_what_is_said(world: World) -> None:
    service = world.service()
    service.rpc(
        "register_embedding_model",
        name="e5",
        dimensions=3,
        query_prefix="query: ",
        document_prefix="passage: ",
    )
    [again] = service.rpc("register_embedding_model", name="e5", dimensions=3, similarity_threshold=0.5)
    assert (again["similarity_threshold"], again["query_prefix"], again["document_prefix"]) == (
        0.5,
        "query: ",
        "passage: ",
    )
    [again] = service.rpc("register_embedding_model", name="e5", dimensions=3, query_prefix="")
    assert (again["query_prefix"], again["document_prefix"]) == ("", "passage: ")


def test_a_workspace_that_gets_another_model_is_embedded_anew(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    item = ana.record("Ports", "The origin is 54321.", content_embedding=vector(AXIS))
    service.rpc("register_embedding_model", name="other", dimensions=3)
    service.sql("update public.workspaces set embedding_model = 'other' where true")
    [job] = service.rpc("claim_embedding_jobs", embedding_models=["other"])
    assert (job["knowledge_id"], job["embedding_model"]) == (item, "other")
    stored = {
        "knowledge_id": str(item),
        "embedding_model": "other",
        "content_hash": job["content_hash"],
        "embedding": "[1,0,0]",
    }
    assert service.rpc("store_embeddings", embeddings=[stored])[0]["outcome"] == "stored"
    [found] = ana.rpc("find_similar_knowledge", query_embedding="[1,0,0]")
    assert found["id"] == item
    assert service.rpc("claim_embedding_jobs") == []


def test_a_vector_that_comes_while_the_workspace_gets_another_model_leaves_its_job(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    item = ana.record("Ports", "The origin is 54321.")
    service.rpc("register_embedding_model", name="other", dimensions=3)
    [job] = service.rpc("claim_embedding_jobs")
    operator, worker = world.service(), world.service()
    with ThreadPoolExecutor() as pool:
        with operator.transaction() as cursor:
            cursor.execute("update public.workspaces set embedding_model = 'other' where true")
            assert worker.connection
            stored = pool.submit(worker.rpc, "store_embeddings", embeddings=[answer(job)])
            world.wait_until_blocked(worker)
        stored.result(10)
    world.superuser("update private.embedding_jobs set available_at = now()")
    [again] = service.rpc("claim_embedding_jobs", embedding_models=["other"])
    assert (again["knowledge_id"], again["embedding_model"]) == (item, "other")


def test_vectors_of_384_to_3072_dimensions(world: World) -> None:
    ana, service = world.sign_up("ana"), world.service()
    for dimensions in (384, 768, 1536, 3072):
        service.rpc("register_embedding_model", name=f"test-{dimensions}", dimensions=dimensions)
        axis = [1.0] + [0.0] * (dimensions - 1)
        item = ana.record(
            f"{dimensions} dimensions", content_embedding=vector(axis), embedding_model=f"test-{dimensions}"
        )
        [found] = ana.rpc(
            "find_similar_knowledge", query_embedding=axis, embedding_model=f"test-{dimensions}"
        )
        assert found["id"] == item
