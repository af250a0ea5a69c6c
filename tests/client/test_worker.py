"""The embedding worker against a database of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from knowledge_persistence.embedders import BaseEmbedder
from knowledge_persistence.errors import (
    ConfigurationError,
    EmbeddingError,
    KnowledgePersistenceError,
    NotRunningError,
)
from knowledge_persistence.settings import Settings
from knowledge_persistence.worker import Worker
from proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from databases import Database
    from world import Persona, World


class Hashing(BaseEmbedder):
    """A model that is quick, and picky: it fails on texts with the word poison."""

    def __init__(self, dimensions: int = 384) -> None:
        super().__init__(name="all-MiniLM-L6-v2", dimensions=dimensions, cache_size=0)
        self.batches: list[int] = []

    def _embed(self, texts: Sequence[str]) -> Any:
        self.batches.append(len(texts))
        if any("poison" in text for text in texts):
            raise EmbeddingError("the model chokes on that")
        seeds = [sum(text.encode()) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=self.dimensions) for seed in seeds]).astype(
            np.float32
        )


@pytest.fixture
def ana(world: World) -> Persona:
    return world.sign_up("ana")


def waiting(world: World) -> int:
    [row] = world.superuser(
        "select count(*) as n from private.embedding_jobs where available_at < 'infinity'"
    )
    return int(row["n"])


def worker_for(database: Database, embedder: Hashing | None = None, **options: Any) -> Worker:
    return Worker(database_url=database.dsn("authenticator"), embedder=embedder or Hashing(), **options)


async def test_what_waits_is_embedded_in_batches(world: World, database: Database, ana: Persona) -> None:
    items = [ana.record(f"text {n}") for n in range(70)]
    embedder = Hashing()
    report = await worker_for(database, embedder).run_once()
    assert (report.stored, report.stale, report.failed) == (70, 0, 0)
    assert embedder.batches == [32, 32, 6]
    assert waiting(world) == 0
    rows = ana.sql(
        "select embedding_model, extensions.vector_dims(content_embedding) as d from public.knowledge_items"
    )
    assert {(row["embedding_model"], row["d"]) for row in rows} == {("all-MiniLM-L6-v2", 384)}
    assert len(items) == len(rows)
    assert (await worker_for(database).run_once()).stored == 0


async def test_one_bad_text_does_not_hold_up_the_others(
    world: World, database: Database, ana: Persona
) -> None:
    for n in range(5):
        ana.record(f"fine {n}")
    bad = ana.record("this is poison")
    report = await worker_for(database).run_once()
    assert (report.stored, report.failed) == (5, 1)
    [job] = world.superuser(
        "select knowledge_id, attempts, last_error, available_at > now() as later from private.embedding_jobs"
    )
    assert (job["knowledge_id"], job["attempts"], job["later"]) == (bad, 1, True)
    assert "chokes" in job["last_error"]


class Silent(Hashing):
    """A model that gives no answer to anything with the word silence."""

    def _embed(self, texts: Sequence[str]) -> Any:
        if any("silence" in text for text in texts):
            self.batches.append(len(texts))
            raise EmbeddingError("no answer", unanswered=True)
        return super()._embed(texts)


async def test_who_gives_no_answer_is_not_asked_for_each_text(
    world: World, database: Database, ana: Persona
) -> None:
    for n in range(6):
        ana.record(f"silence {n}")
    embedder = Silent()
    report = await worker_for(database, embedder).run_once()
    assert (report.stored, report.failed) == (0, 6)
    assert embedder.batches == [6, 1]
    assert waiting(world) == 6
    # Of texts that are answered those are stored whose turn came before one that isn't.
    world.superuser("update private.embedding_jobs set available_at = now()")
    ana.sql(
        "update public.knowledge_items set title = replace(title, 'silence', 'calm'), content = 'fine'"
        " where title <> 'silence 0'"
    )
    for _ in range(100):
        world.superuser("update private.embedding_jobs set available_at = now(), attempts = 0")
        await worker_for(database, Silent()).run_once()
        if waiting(world) == 1:
            break
    [left] = world.superuser(
        "select k.title from private.embedding_jobs j join knowledge_items k on k.id = j.knowledge_id"
    )
    assert left["title"] == "silence 0"


async def test_a_model_of_another_size_stores_nothing(world: World, database: Database, ana: Persona) -> None:
    ana.record("text")
    report = await worker_for(database, Hashing(dimensions=10)).run_once()
    assert (report.stored, report.failed) == (0, 1)
    [job] = world.superuser("select last_error from private.embedding_jobs")
    assert "10 dimensions" in job["last_error"]


async def test_two_workers_share_the_work(world: World, database: Database, ana: Persona) -> None:
    for n in range(60):
        ana.record(f"shared {n}")
    reports = await asyncio.gather(*(worker_for(database, batch=5).run_once() for _ in range(2)))
    assert sum(report.stored for report in reports) == 60
    assert sum(report.stale for report in reports) == 0
    assert waiting(world) == 0


async def test_a_text_recorded_while_it_runs_wakes_it(database: Database, ana: Persona) -> None:
    # It would look by itself only in an hour: what it does, the notification makes it do.
    worker = worker_for(database, poll=3600)
    running = asyncio.create_task(worker.run())
    try:
        for n in range(3):
            await asyncio.to_thread(ana.record, f"news {n}")
            async with asyncio.timeout(20):
                while worker.report.stored <= n:  # noqa: ASYNC110 - the report is a plain object
                    await asyncio.sleep(0.02)
    finally:
        worker.stop()
        await asyncio.wait_for(running, 10)


@pytest.fixture
def proxied(database: Database) -> Generator[tuple[Proxy, str]]:
    dsn = database.dsn("authenticator")
    parts = urlsplit(dsn)
    assert parts.port is not None
    proxy = Proxy(parts.port)
    yield proxy, parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}")).geturl()
    proxy.close()


async def test_a_database_that_goes_away_and_comes_back_is_served_again(
    ana: Persona, proxied: tuple[Proxy, str]
) -> None:
    proxy, dsn = proxied
    worker = Worker(database_url=dsn, embedder=Hashing(), poll=3600)
    running = asyncio.create_task(worker.run())
    try:
        await asyncio.to_thread(ana.record, "before")
        async with asyncio.timeout(30):
            while worker.report.stored < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        proxy.refuse()
        await asyncio.to_thread(ana.record, "while it is away")
        await asyncio.sleep(0.5)
        assert worker.report.stored == 1
        proxy.refuse(refusing=False)
        async with asyncio.timeout(60):
            while worker.report.stored < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        worker.stop()
        await asyncio.wait_for(running, 20)


async def test_a_wrong_password_ends_it_with_a_reason(database: Database) -> None:
    dsn = database.dsn("authenticator").replace("authenticator:", "authenticator:wrong")
    with pytest.raises(KnowledgePersistenceError, match="refused the login"):
        await Worker(database_url=dsn, embedder=Hashing()).run()


async def test_a_model_that_nobody_uses_is_told(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    unknown = Hashing()
    unknown._name = "unheard-of"
    with pytest.raises(ConfigurationError, match="not registered"):
        await worker_for(database, unknown).run()
    other = Hashing(dimensions=1536)
    other._name = "text-embedding-3-small"
    await worker_for(database, other).run_once()
    assert "not the default" in caplog.text


def test_it_needs_a_database_and_an_embedder(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="KP_DATABASE_URL"):
        Worker.from_settings(Settings(home=tmp_path))
    with pytest.raises(ConfigurationError, match="KP_EMBEDDER"):
        Worker.from_settings(Settings(home=tmp_path, embedder="none", database_url="postgresql://x"))


@pytest.mark.parametrize("end", ["sigterm", "stdin"])
def test_as_a_program_it_works_until_it_is_told_to_stop(
    world: World, database: Database, ana: Persona, end: str
) -> None:
    environment = {**os.environ, "KP_DATABASE_URL": database.dsn("authenticator")}
    process = subprocess.Popen(
        # As the stack runs it: tied to its supervisor by standard input.
        [sys.executable, "-m", "knowledge_persistence.embedded.tether", "knowledge_persistence.worker"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        item = ana.record("A worker reads this with the real model.")
        deadline = time.monotonic() + 60
        while waiting(world):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert ana.value("select embedding_model from public.knowledge_items where id = %s", item)
        if end == "sigterm":
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        else:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)
        assert process.returncode == 0
    finally:
        if process.poll() is None:
            process.kill()
        for pipe in (process.stdin, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait()


def test_as_a_program_it_says_what_is_wrong(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "knowledge_persistence.worker", "--once"],
        env={**os.environ, "KP_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "KP_DATABASE_URL" in result.stderr
    assert "Traceback" not in result.stderr
