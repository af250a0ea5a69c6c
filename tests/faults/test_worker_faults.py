"""Workers that are killed, and providers that fail: every text gets its own vector in the end, and nothing is hidden.

With `--long` the numbers are those of the promise as well: 5,000 texts and 50 kills.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import numpy as np
import pytest

from embedding_server import DIMENSIONS, EmbeddingServer, Fault, embedding_server, vector_of
from knowledge_persistence.embedders.openai_compatible import OpenAICompatibleEmbedder
from knowledge_persistence.errors import TransportError
from knowledge_persistence.operations.metrics import serve_metrics
from knowledge_persistence.worker import Worker
from proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from databases import Database
    from world import Persona, World

MODEL = "all-MiniLM-L6-v2"
BATCH, WORKERS = 8, 2
# As `kp worker`, but what a killed worker held comes back within seconds.
PROGRAM = f"""
from knowledge_persistence.settings import Settings
from knowledge_persistence.worker import Worker, run_until_stopped
worker = Worker.from_settings(Settings.load(), batch={BATCH})
worker.lease, worker.poll = 3, 0.5
run_until_stopped(worker)
"""


@pytest.fixture
def provider() -> Generator[EmbeddingServer]:
    with embedding_server() as server:
        yield server


@pytest.fixture
def ana(world: World) -> Persona:
    return world.sign_up("ana")


def record(ana: Persona, count: int) -> None:
    for start in range(0, count, 500):
        items = [
            {"title": f"Text {n}", "content": f"What was learned the {n}th time, and no other."}
            for n in range(start, min(start + 500, count))
        ]
        ana.rpc("record_knowledge_batch", items=items)


def number(world: World, query: str) -> int:
    [row] = world.superuser(query)
    [value] = row.values()
    return int(value)


def stored(world: World) -> int:
    return number(world, "select count(*) from public.knowledge_items where content_embedding is not null")


def wrong_vectors(world: World) -> list[str]:
    """The titles of items whose vector is not their text's own, in either place where it lies."""
    rows = world.superuser(
        "select k.title, k.title || e'\\n' || k.content as text, k.content_embedding::text as full,"
        " v.embedding::text as half from public.knowledge_items k"
        " left join private.item_vectors v on v.knowledge_id = k.id"
        " where k.content_embedding is not null or v.knowledge_id is not null"
    )
    return [
        row["title"]
        for row in rows
        if row["full"] is None
        or row["half"] is None
        or not np.allclose(json.loads(row["full"]), vector_of(row["text"]), atol=1e-6)
        or not np.allclose(json.loads(row["half"]), vector_of(row["text"]), atol=1e-3)
    ]


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("texts", "kills"),
    [(400, 6), pytest.param(5000, 50, marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
)
def test_workers_killed_at_random_lose_and_mix_up_nothing(
    world: World, database: Database, ana: Persona, provider: EmbeddingServer, texts: int, kills: int
) -> None:
    record(ana, texts)
    environment = {
        **os.environ,
        "KP_DATABASE_URL": database.dsn("authenticator"),
        "KP_EMBEDDER": "openai",
        "KP_EMBEDDING_MODEL": MODEL,
        "OPENAI_BASE_URL": provider.url,
    }
    chance = random.Random(5)  # noqa: S311
    workers: list[subprocess.Popen[bytes]] = []

    def hire() -> None:
        workers.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    try:
        for _ in range(WORKERS):
            hire()
        for killed in range(kills):
            # Somewhere on the way to the next mark; never after the last text.
            mark = (killed + chance.random()) * (texts - 10 * BATCH) / kills
            until(lambda mark=mark: stored(world) >= mark, 120, f"stuck before kill {killed}")
            victim = workers.pop(chance.randrange(len(workers)))
            assert victim.poll() is None, "it ended by itself"
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            hire()
        assert stored(world) < texts, "the kills came too late to matter"
        until(lambda: stored(world) == texts, 240, "not everything was embedded")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert number(world, "select count(*) from private.embedding_jobs") == 0
    assert number(world, "select count(*) from private.item_vectors") == texts
    assert wrong_vectors(world) == []
    assert len(provider.asked) == texts
    # A text is sent again only when the worker that had it was killed, or had lost its lease to slowness.
    repeated = sum(provider.asked.values()) - texts
    assert repeated <= (kills + WORKERS) * BATCH * 4, f"{repeated} texts were sent again"


def worker_for(database: Database, provider: EmbeddingServer, *, through: Proxy | None = None) -> Worker:
    embedder = OpenAICompatibleEmbedder(
        model=MODEL, base_url=provider.url, expected_dimensions=DIMENSIONS, timeout=1, max_retries=0
    )
    dsn = database.dsn("authenticator")
    if through is not None:
        parts = urlsplit(dsn)
        dsn = parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{through.port}")).geturl()
    return Worker(database_url=dsn, embedder=embedder, batch=16)


def hurry(world: World) -> None:
    """Let what waits for its next attempt be due."""
    world.superuser("update private.embedding_jobs set available_at = now() where available_at < 'infinity'")


FAULTS: list[Fault] = [
    "refuses",
    "wrong size",
    "not a number",
    "infinite",
    "too few",
    "gibberish",
    "silent",
    "nothing",
    "hangs up",
]


async def test_a_provider_that_misbehaves_stores_nothing_and_is_seen(
    world: World, database: Database, ana: Persona, provider: EmbeddingServer
) -> None:
    record(ana, 2)
    service = world.service()
    for fault in FAULTS:
        provider.faults = [fault]
        report = await worker_for(database, provider).run_once()
        assert (report.stored, report.failed) == (0, 2), fault
        assert stored(world) == number(world, "select count(*) from private.item_vectors") == 0
        failures = service.sql("select last_error, tried_again_at from public.failed_embeddings")
        assert len(failures) == 2, fault
        assert all(row["last_error"] and row["tried_again_at"] is not None for row in failures), fault
        # It isn't tried for ever: each fault gets attempts of its own.
        hurry(world)
        world.superuser("update private.embedding_jobs set attempts = 0 where attempts > 0")
        provider.released.set()
        provider.released.clear()
    provider.faults = []
    report = await worker_for(database, provider).run_once()
    assert (report.stored, report.failed) == (2, 0)
    assert wrong_vectors(world) == []
    assert service.sql("select 1 from public.failed_embeddings") == []


async def test_a_provider_that_fails_now_and_then_is_got_through(
    world: World, database: Database, ana: Persona, provider: EmbeddingServer
) -> None:
    record(ana, 120)
    service = world.service()
    provider.faults = cast("list[Fault]", [fault for fault in FAULTS if fault != "silent"])
    provider.share = 0.3
    worker = worker_for(database, provider)
    seen = 0
    for _ in range(60):
        await worker.run_once()
        assert wrong_vectors(world) == []
        seen = max(seen, len(service.sql("select 1 from public.failed_embeddings")))
        if stored(world) == 120:
            break
        hurry(world)
        service.rpc("retry_embeddings")
    assert stored(world) == 120
    assert seen > 0, "what failed on the way was to be seen"
    assert worker.report.failed >= seen
    assert worker.report.stored == 120
    assert number(world, "select count(*) from private.embedding_jobs") == 0


async def test_what_the_worker_counts_is_served(
    database: Database, ana: Persona, provider: EmbeddingServer
) -> None:
    def get(port: Any, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    record(ana, 3)
    worker = worker_for(database, provider)
    with serve_metrics(worker.metrics.registry, worker.health, port=0) as port:
        status, before = get(port, "/metrics")
        assert status == 200
        assert "kp_database_up 1.0" in before
        assert f'kp_embedding_jobs{{model="{MODEL}",state="pending"}} 3.0' in before
        await worker.run_once()
        _, after = get(port, "/metrics")
        assert f'kp_worker_embeddings_total{{model="{MODEL}",outcome="stored"}} 3.0' in after
        assert f'kp_embedding_jobs{{model="{MODEL}",state="pending"}} 0.0' in after
        assert f'kp_worker_batch_seconds_count{{model="{MODEL}"}} 1.0' in after
        status, health = get(port, "/health")
        assert (status, json.loads(health)["models"]) == (200, [MODEL])
        worker._heard -= 3600
        assert get(port, "/health")[0] == 503
        assert get(port, "/anything")[0] == 404


@pytest.mark.parametrize("resetting", [False, True], ids=["ended", "reset"])
async def test_vectors_whose_receipt_is_lost_are_stored_once(
    world: World, database: Database, ana: Persona, provider: EmbeddingServer, *, resetting: bool
) -> None:
    record(ana, 5)
    port = urlsplit(database.dsn("authenticator")).port
    assert port is not None
    proxy = Proxy(port)
    try:
        worker = worker_for(database, provider, through=proxy)
        proxy.cut_after(b"store_embeddings", resetting=resetting)
        with pytest.raises(TransportError):
            await worker.run_once()
        assert proxy.has_cut
        # The same worker goes on, over another connection.
        hurry(world)
        await worker.run_once()
    finally:
        proxy.close()
    assert stored(world) == 5
    assert wrong_vectors(world) == []
    assert number(world, "select count(*) from private.embedding_jobs") == 0
    assert number(world, "select count(*) from private.item_vectors") == 5
