"""The worker: gives recorded texts their vectors, and does what is due now and then.

It claims jobs as `service_role` over the direct transport, embeds them, stores the vectors. It is woken by
`knowledge_embeddings` and looks by itself now and then, so that a lost notification costs seconds, not a
vector. A worker that dies in the middle loses nothing: its claims are leases. It serves every registered model
whose embedder it can make, so that during a switch both models have one.

Once an hour it calls `run_maintenance`. Of several workers one does the work; what fails is logged as an error
and does not keep texts from being embedded. When nothing waits for a vector it does what is scheduled: it runs
validation tests and looks for relationships, as the person under whose eyes that has to be done.

Where a port was chosen it serves `/metrics` for Prometheus and `/health`.

`python -m knowledge_persistence.worker` is what the embedded stack runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import signal
import sys
import time
from collections import Counter as Tally
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Self, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ._async.client import AsyncKnowledgeClient
from ._async.direct import AsyncDirectTransport
from ._target import read_embedded_stack
from ._values import vector_text
from .embedders import BaseEmbedder, make_embedder, make_embedder_for
from .errors import (
    APIError,
    ConfigurationError,
    EmbeddingError,
    KnowledgePersistenceError,
    NotFoundError,
    NotRunningError,
    TransportError,
)
from .operations.metrics import DatabaseCollector, Health, serve_metrics
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence

    from .embedders import Embedder
    from .models import JSON, DueWork, EmbeddingJob, EmbeddingModel

#: Seconds after which the worker looks for jobs though nobody woke it.
_POLL: Final = 5.0
#: Seconds for which claimed jobs are the worker's. A batch takes a few at most.
_LEASE: Final = 120
#: Seconds between two runs of maintenance.
_MAINTENANCE: Final = 3600.0
#: Seconds before the first, second, … attempt to reach the database again.
_RECONNECT: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

#: Vectors that are looked up at once: half a second for which new texts wait.
_VECTORS: Final = 200

#: With so many relationships waiting for a decision, none are looked for: whoever decides has enough to do.
_UNDECIDED: Final = 100

#: Seconds without a word from the database after which a worker is not well. A slow provider takes two minutes.
_SILENCE: Final = 300.0

log = logging.getLogger("knowledge_persistence.worker")


@dataclass(slots=True)
class Report:
    """What a worker did: how many vectors were stored, stale, failed."""

    stored: int = 0
    stale: int = 0
    failed: int = 0


class Metrics:
    """What a worker counts, and what `/metrics` shows of it and of its database.

    Args:
        database_url: PostgreSQL URL, login authenticator.
    """

    def __init__(self, database_url: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(DatabaseCollector(database_url))
        self.embeddings = Counter(
            "kp_worker_embeddings",
            "Texts that this worker is done with, by model and outcome: stored, stale, failed.",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "kp_worker_batch_seconds",
            "Time to embed a batch.",
            ["model"],
            registry=self.registry,
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
        )
        self.maintenance = Counter(
            "kp_worker_maintenance",
            "Tasks of maintenance and scheduled work that this worker did, by outcome: done, failed, skipped.",
            ["task", "outcome"],
            registry=self.registry,
        )
        self.connected = Gauge(
            "kp_worker_last_contact_timestamp_seconds",
            "When the database last answered this worker.",
            registry=self.registry,
        )


@dataclass(slots=True)
class Worker:
    """Embed what waits for a vector.

    Attributes:
        database_url: PostgreSQL URL, login authenticator.
        embedder: the model that it was set up for.
        make: makes the embedder of another registered model, by name and dimensions; None: it can't. Without it
            only jobs of the embedder's model are taken.
        batch: how many texts are claimed at once.
        poll: seconds after which it looks though nobody woke it.
        lease: seconds for which claimed texts are its own.
        maintenance: seconds between two runs of maintenance.
        metrics_port: where `/metrics` and `/health` are served; 0: any free port; None: nowhere.
        metrics_host: the address that they are served on.
        report: what it did so far.
    """

    database_url: str = field(repr=False)
    embedder: Embedder
    make: Callable[[str, int], Embedder | None] | None = None
    batch: int = 32
    poll: float = _POLL
    lease: int = _LEASE
    maintenance: float = _MAINTENANCE
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    report: Report = field(default_factory=Report)
    metrics: Metrics = field(init=False, repr=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _maintained: float | None = None
    _heard: float = field(default_factory=time.monotonic)
    _models: dict[str, EmbeddingModel] = field(default_factory=dict[str, "EmbeddingModel"])
    _embedders: dict[str, Embedder | None] = field(default_factory=dict[str, "Embedder | None"])

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.database_url)

    @classmethod
    def from_settings(cls, settings: Settings, *, database_url: str | None = None, batch: int = 32) -> Self:
        """Make one of the settings, or of the embedded stack's database.

        Raises:
            ConfigurationError: the settings ask for no embedder.
            NotRunningError: no database is named, and there is no embedded stack.
        """
        url = database_url or settings.database_url
        if url is None:
            stack = read_embedded_stack(settings)
            if stack is None:
                raise NotRunningError(
                    f"there is no embedded stack in {settings.home}: name a database with KP_DATABASE_URL"
                )
            url = stack.database_url
        embedder = make_embedder(settings)
        if embedder is None:
            raise ConfigurationError("a worker needs an embedder, and KP_EMBEDDER is none")
        return cls(
            database_url=url,
            embedder=embedder,
            make=lambda name, dimensions: make_embedder_for(settings, name, dimensions=dimensions),
            batch=batch,
            metrics_port=settings.metrics_port,
            metrics_host=settings.metrics_host,
        )

    def stop(self) -> None:
        """Ask it to end after the batch at hand."""
        self._stopping.set()

    async def run_once(self) -> Report:
        """Embed what waits now, and return what was done.

        Raises:
            KnowledgePersistenceError: the database can't be reached, or refuses.
        """
        with self._embedding():
            async with self._client() as client:
                await self._look_up_models(client)
                while not self._stopping.is_set() and await self._work(client):
                    pass
        return self.report

    async def run(self) -> Report:
        """Embed until asked to stop, through restarts of the database; maintain what is due.

        Raises:
            APIError: the database refuses: wrong password, no schema, not the service.
            ConfigurationError: nothing can ever wait for it, or the port of its metrics is taken.
        """
        failures = 0
        with (
            self._embedding(),
            serve_metrics(
                self.metrics.registry, self.health, port=self.metrics_port, host=self.metrics_host
            ) as port,
        ):
            if port is not None:
                log.info("metrics on http://%s:%d/metrics", self.metrics_host, port)
            while not self._stopping.is_set():
                try:
                    async with self._client() as client, self._listening() as woken:
                        await self._look_up_models(client)
                        log.info("ready, embedding with %s", ", ".join(self._served()))
                        failures = 0
                        while not self._stopping.is_set():
                            woken.clear()
                            await self._maintain(client)
                            # A switch may have brought a model along.
                            await self._look_up_models(client)
                            while not self._stopping.is_set() and (
                                await self._work(client)
                                or await self._do_due_work(client)
                                or await client.check_vectors(max_vectors=_VECTORS)
                            ):
                                pass
                            await self._wait(woken)
                except TransportError as error:
                    delay = _RECONNECT[min(failures, len(_RECONNECT) - 1)]
                    failures += 1
                    log.warning("%s; trying again in %.1f s", error, delay)
                    await self._pause(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        return self.report

    @contextlib.contextmanager
    def _embedding(self) -> Generator[None]:
        """Close the embedders in the end."""
        try:
            yield
        finally:
            for embedder in (self.embedder, *self._embedders.values()):
                if isinstance(embedder, BaseEmbedder):
                    embedder.close()

    def health(self) -> Health:
        """Say whether the database has answered lately; may be asked from any thread."""
        silent = time.monotonic() - self._heard
        return Health(
            ok=silent < _SILENCE,
            detail={"seconds_since_contact": round(silent, 1), "models": self._served()},
        )

    def _noted(self) -> None:
        self._heard = time.monotonic()
        self.metrics.connected.set_to_current_time()

    async def _maintain(self, client: AsyncKnowledgeClient) -> None:
        """Run maintenance if it is due, and tell loudly what of it failed."""
        if self._maintained is not None and time.monotonic() - self._maintained < self.maintenance:
            return
        try:
            outcomes = await client.run_maintenance()
        except APIError as error:
            self.metrics.maintenance.labels("all", "failed").inc()
            log.error("maintenance failed: %s", error)  # noqa: TRY400 - what went wrong is in the database
        else:
            for one in outcomes:
                self.metrics.maintenance.labels(one.task, one.outcome).inc()
                if one.outcome == "failed":
                    log.error("maintenance: %s failed: %s", one.task, one.detail)
                else:
                    log.info("maintenance: %s %s: %s", one.task, one.outcome, one.detail)
        self._maintained = time.monotonic()

    def _client(self) -> AsyncKnowledgeClient:
        return AsyncKnowledgeClient(
            AsyncDirectTransport(self.database_url, role="service_role", claims={}, timeout=60, pool_size=1),
            embedder=self.embedder,
        )

    async def _look_up_models(self, client: AsyncKnowledgeClient) -> None:
        """Read which models there are, and make their embedders.

        Raises:
            ConfigurationError: none of them can be made: a worker that nothing waits for would wait for ever.
        """
        models = {model.name: model for model in await client.embedding_models()}
        self._noted()
        if models == self._models:
            return
        self._models = models
        for name, model in models.items():
            if name in self._embedders:
                continue
            if name == self.embedder.name:
                self._embedders[name] = self.embedder
            else:
                self._embedders[name] = None if self.make is None else self.make(name, model.dimensions)
        registered = ", ".join(sorted(models))
        if not self._served():
            raise ConfigurationError(
                f"the embedding model {self.embedder.name!r} is not registered, so nothing waits for it; "
                f"registered: {registered}; `kp embeddings switch` brings in another"
            )
        if self.embedder.name not in models:
            log.warning(
                "%s is not registered, so nothing waits for it; registered: %s",
                self.embedder.name,
                registered,
            )
        default = next((name for name, model in models.items() if model.is_default), None)
        if default is not None and default not in self._served():
            log.warning(
                "%s is not the default model, and the embedder of %s, which is, can't be made here: only workspaces "
                "that chose %s are served",
                self.embedder.name,
                default,
                self.embedder.name,
            )

    def _served(self) -> list[str]:
        return sorted(name for name in self._models if self._embedders.get(name) is not None)

    async def _work(self, client: AsyncKnowledgeClient) -> bool:
        """Do one batch, and say whether there may be more."""
        jobs = await client.claim_embedding_jobs(
            max_jobs=self.batch, lease_seconds=self.lease, embedding_models=self._served()
        )
        self._noted()
        for name in sorted({job.embedding_model for job in jobs}):
            await self._do(client, name, [job for job in jobs if job.embedding_model == name])
        return bool(jobs)

    async def _do(self, client: AsyncKnowledgeClient, name: str, jobs: Sequence[EmbeddingJob]) -> None:
        embedder = self._embedders[name]
        if embedder is None:  # never claimed
            raise AssertionError(name)
        started = time.monotonic()
        try:
            results = await self._embed(embedder, self._models[name], jobs)
        except ConfigurationError as error:
            if name == self.embedder.name:
                raise
            # The other models go on. The texts come back when their lease ends, for a worker that can.
            self._embedders[name] = None
            log.error("%s can't be served here: %s", name, error)  # noqa: TRY400
            return
        self.metrics.batch_seconds.labels(name).observe(time.monotonic() - started)
        tally = await self._store(client, results)
        self._noted()
        for outcome, count in tally.items():
            self.metrics.embeddings.labels(name, outcome).inc(count)
        self.report.stored += tally["stored"]
        self.report.stale += tally["stale"]
        self.report.failed += tally["failed"]
        log.info("%s: %d stored, %d stale, %d failed", name, tally["stored"], tally["stale"], tally["failed"])

    async def _do_due_work(self, client: AsyncKnowledgeClient) -> bool:
        """Do one piece of scheduled work, and say whether there may be more."""
        work = await client.claim_due_work(embedding_models=self._served())
        if work is None:
            return False
        failure: str | None = None
        try:
            done = await self._act(work)
        except TransportError:
            # Whoever finds the database again finds this due when the lease ends.
            raise
        except KnowledgePersistenceError as error:
            failure = str(error)
            log.error("%s in workspace %s: %s", work.task, work.workspace_id, error)  # noqa: TRY400
        else:
            log.info("%s in workspace %s: %s", work.task, work.workspace_id, done)
        await client.finish_due_work(work, failure=failure)
        self.metrics.maintenance.labels(work.task, "done" if failure is None else "failed").inc()
        return True

    async def _act(self, work: DueWork) -> str:
        """Do scheduled work as the person that it is done for, and say what came of it."""
        if work.user_id is None:
            raise NotFoundError(
                "whoever wrote it is no member of the workspace any more", code="PT404", status=404
            )
        claims = {
            "sub": str(work.user_id),
            "role": "authenticated",
            "aud": "authenticated",
            # As an agent's token: the database holds every statement to this one workspace.
            "kp_workspace": str(work.workspace_id),
        }
        transport = AsyncDirectTransport(
            self.database_url, role="authenticated", claims=claims, timeout=60, pool_size=1
        )
        embedder = None if work.embedding_model is None else self._embedders[work.embedding_model]
        async with AsyncKnowledgeClient(transport, embedder=embedder, workspace=work.workspace_id) as client:
            if work.test_id is not None:
                [run] = await client.run_validation_tests([work.test_id])
                return run.outcome
            waiting = await client.list_relationships(status="proposed", max_results=_UNDECIDED)
            if len(waiting) == _UNDECIDED:
                return f"{_UNDECIDED} proposals wait for a decision, and no more are looked for"
            return f"{len(await client.discover_relationships())} proposed"

    async def _store(self, client: AsyncKnowledgeClient, results: Sequence[dict[str, JSON]]) -> Tally[str]:
        try:
            return Tally(one.outcome for one in await client.store_embeddings(results))
        except APIError as error:
            # The database stores all of them or none: one that it refuses must not hold up the others.
            if len(results) > 1:
                log.warning("a batch of %d could not be stored (%s); one by one", len(results), error)
                tally: Tally[str] = Tally()
                for one in results:
                    tally += await self._store(client, [one])
                return tally
            if "error" in results[0]:
                raise
            refused = {name: value for name, value in results[0].items() if name != "embedding"}
            return await self._store(client, [{**refused, "error": str(error)}])

    async def _embed(
        self, embedder: Embedder, model: EmbeddingModel, jobs: Sequence[EmbeddingJob]
    ) -> list[dict[str, JSON]]:
        try:
            return await self._embed_all(embedder, model, jobs)
        except (EmbeddingError, APIError) as error:
            if len(jobs) == 1:
                return [_failure(jobs[0], error)]
            return await self._embed_each(embedder, model, jobs, error)

    async def _embed_all(
        self, embedder: Embedder, model: EmbeddingModel, jobs: Sequence[EmbeddingJob]
    ) -> list[dict[str, JSON]]:
        texts = [job.embedding_text for job in jobs]
        embed = partial(embedder.embed_documents, texts, prefix=model.document_prefix)
        vectors = await asyncio.to_thread(embed)
        # A provider is a stranger: what is not exactly a vector for each text is no answer.
        if vectors.shape != (len(jobs), model.dimensions):
            raise EmbeddingError(
                f"{model.name} answered {len(jobs)} texts with {vectors.shape[0]} vectors of "
                f"{vectors.shape[1]} dimensions, and is registered with {model.dimensions}"
            )
        return [
            {
                "knowledge_id": str(job.knowledge_id),
                "embedding_model": job.embedding_model,
                "content_hash": job.content_hash,
                "embedding": vector_text(vector),
            }
            for job, vector in zip(jobs, vectors, strict=True)
        ]

    async def _embed_each(
        self,
        embedder: Embedder,
        model: EmbeddingModel,
        jobs: Sequence[EmbeddingJob],
        why: KnowledgePersistenceError,
    ) -> list[dict[str, JSON]]:
        """Embed one by one what could not be embedded together: one bad text must not hold up the others.

        Where the provider doesn't answer to one text alone either, the rest is not tried. Which are tried first is
        left to chance, so that it isn't one and the same each time.
        """
        log.warning("a batch of %d could not be embedded (%s); one by one", len(jobs), why)
        results: list[dict[str, JSON]] = []
        given_up: KnowledgePersistenceError | None = None
        for job in random.sample(jobs, len(jobs)):
            if self._stopping.is_set():
                break  # the lease runs out, and they are claimed again
            if given_up is None:
                try:
                    results += await self._embed_all(embedder, model, [job])
                except (EmbeddingError, APIError) as error:
                    results.append(_failure(job, error))
                    if isinstance(error, EmbeddingError) and error.unanswered:
                        given_up = error
            else:
                results.append(_failure(job, given_up))
        return results

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncGenerator[asyncio.Event]:
        """Lend an event that is set when the database says that there is work, or has gone away."""
        import psycopg  # noqa: PLC0415

        woken = asyncio.Event()
        try:
            connection = await psycopg.AsyncConnection.connect(self.database_url, autocommit=True)
        except psycopg.OperationalError as error:
            raise TransportError(f"the database can't be reached: {error}") from error
        try:
            # LISTEN needs no role and no claims: the notification carries nothing.
            try:
                await connection.execute("listen knowledge_embeddings")
            except psycopg.OperationalError as error:
                raise TransportError(f"the database went away: {error}") from error

            async def listen() -> None:
                try:
                    async for _ in connection.notifies():
                        woken.set()
                except psycopg.Error as error:
                    log.info("the listening connection broke: %s", error)
                finally:
                    # Looking for work then finds out what has happened.
                    woken.set()

            task = asyncio.create_task(listen())
            try:
                yield woken
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        finally:
            await connection.close()

    async def _wait(self, woken: asyncio.Event) -> None:
        """Wait until somebody wakes the worker, it is time to look, or it is asked to stop."""
        waiting = [asyncio.create_task(woken.wait()), asyncio.create_task(self._stopping.wait())]
        try:
            await asyncio.wait(waiting, timeout=self.poll, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _pause(self, seconds: float) -> None:
        # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes together with the stop.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _failure(job: EmbeddingJob, error: KnowledgePersistenceError) -> dict[str, JSON]:
    return {
        "knowledge_id": str(job.knowledge_id),
        "embedding_model": job.embedding_model,
        "content_hash": job.content_hash,
        "error": str(error),
        "unanswered": isinstance(error, EmbeddingError) and error.unanswered,
    }


def log_to_stderr() -> None:
    """Write the worker's log to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("knowledge_persistence")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def run_until_stopped(worker: Worker, *, once: bool = False) -> Report:
    """Run a worker until it is done, or SIGTERM or SIGINT comes.

    Args:
        worker: the worker; a signal lets it finish the batch at hand.
        once: end when nothing waits any more.
    """

    async def run() -> Report:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, worker.stop)
        return await (worker.run_once() if once else worker.run())

    return asyncio.run(run())


def main() -> int:
    """Run the worker as a program and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m knowledge_persistence.worker", description="Give recorded texts their vectors."
    )
    parser.add_argument("--once", action="store_true", help="embed what waits now, then end")
    arguments = parser.parse_args()
    log_to_stderr()
    try:
        run_until_stopped(Worker.from_settings(Settings.load()), once=cast("bool", arguments.once))
    except KnowledgePersistenceError as error:
        log.error("%s", error)  # noqa: TRY400 - what to do about it, not where it happened
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
