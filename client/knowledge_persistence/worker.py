"""The worker: gives recorded texts their vectors, and does what is due now and then.

It claims jobs as `service_role` over the direct transport, embeds them, stores the vectors. It is woken by
`knowledge_embeddings` and looks by itself now and then, so that a lost notification costs seconds, not a
vector. A worker that dies in the middle loses nothing: its claims are leases.

Once an hour it calls `run_maintenance`. Of several workers one does the work; what fails is logged as an error
and does not keep texts from being embedded.

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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from ._async.client import AsyncKnowledgeClient
from ._async.direct import AsyncDirectTransport
from ._target import read_embedded_stack
from ._values import vector_text
from .embedders import make_embedder
from .errors import (
    APIError,
    ConfigurationError,
    EmbeddingError,
    KnowledgePersistenceError,
    NotRunningError,
    TransportError,
)
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from .embedders import Embedder, Vectors
    from .models import JSON, EmbeddingJob

#: Seconds after which the worker looks for jobs though nobody woke it.
_POLL: Final = 5.0
#: Seconds for which claimed jobs are the worker's. A batch takes a few at most.
_LEASE: Final = 120
#: Seconds between two runs of maintenance.
_MAINTENANCE: Final = 3600.0
#: Seconds before the first, second, … attempt to reach the database again.
_RECONNECT: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

log = logging.getLogger("knowledge_persistence.worker")


@dataclass(slots=True)
class Report:
    """What a worker did: how many vectors were stored, stale, failed."""

    stored: int = 0
    stale: int = 0
    failed: int = 0


@dataclass(slots=True)
class Worker:
    """Embed what waits for a vector.

    Attributes:
        database_url: PostgreSQL URL, login authenticator.
        embedder: the model; only jobs of its model are taken.
        batch: how many texts are claimed at once.
        poll: seconds after which it looks though nobody woke it.
        maintenance: seconds between two runs of maintenance.
        report: what it did so far.
    """

    database_url: str = field(repr=False)
    embedder: Embedder
    batch: int = 32
    poll: float = _POLL
    maintenance: float = _MAINTENANCE
    report: Report = field(default_factory=Report)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _maintained: float | None = None

    @classmethod
    def from_settings(cls, settings: Settings, *, database_url: str | None = None, batch: int = 32) -> Worker:
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
        return cls(database_url=url, embedder=embedder, batch=batch)

    def stop(self) -> None:
        """Ask it to end after the batch at hand."""
        self._stopping.set()

    async def run_once(self) -> Report:
        """Embed what waits now, and return what was done.

        Raises:
            KnowledgePersistenceError: the database can't be reached, or refuses.
        """
        async with self._client() as client:
            await self._check_model(client)
            while not self._stopping.is_set() and await self._work(client):
                pass
        return self.report

    async def run(self) -> Report:
        """Embed until asked to stop, through restarts of the database; maintain what is due.

        Raises:
            APIError: the database refuses: wrong password, no schema, not the service.
        """
        failures = 0
        while not self._stopping.is_set():
            try:
                async with self._client() as client, self._listening() as woken:
                    await self._check_model(client)
                    log.info("ready, embedding with %s", self.embedder.name)
                    failures = 0
                    while not self._stopping.is_set():
                        woken.clear()
                        await self._maintain(client)
                        while not self._stopping.is_set() and await self._work(client):
                            pass
                        await self._wait(woken)
            except TransportError as error:
                delay = _RECONNECT[min(failures, len(_RECONNECT) - 1)]
                failures += 1
                log.warning("%s; trying again in %.1f s", error, delay)
                await self._pause(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        return self.report

    async def _maintain(self, client: AsyncKnowledgeClient) -> None:
        """Run maintenance if it is due, and tell loudly what of it failed."""
        if self._maintained is not None and time.monotonic() - self._maintained < self.maintenance:
            return
        try:
            outcomes = await client.run_maintenance()
        except APIError as error:
            log.error("maintenance failed: %s", error)  # noqa: TRY400 - what went wrong is in the database
        else:
            for one in outcomes:
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

    async def _check_model(self, client: AsyncKnowledgeClient) -> None:
        """Make sure that there can be work: a worker with a model that nobody uses would wait for ever.

        Raises:
            ConfigurationError: the embedder's model is not registered.
        """
        models = {model.name: model for model in await client.embedding_models()}
        model = models.get(self.embedder.name)
        if model is None:
            raise ConfigurationError(
                f"the embedding model {self.embedder.name!r} is not registered, so nothing waits for it; "
                f"registered: {', '.join(sorted(models))}; `kp model register` registers one"
            )
        if not model.is_default:
            log.warning(
                "%s is not the default model: only workspaces that chose it are served. `kp model register` "
                "with --default makes it so",
                model.name,
            )

    async def _work(self, client: AsyncKnowledgeClient) -> bool:
        """Do one batch, and say whether there may be more."""
        jobs = await client.claim_embedding_jobs(
            max_jobs=self.batch, lease_seconds=_LEASE, embedding_models=[self.embedder.name]
        )
        if not jobs:
            return False
        results = await self._embed(client, jobs)
        stored = await client.store_embeddings(results)
        counts = {
            outcome: sum(one.outcome == outcome for one in stored)
            for outcome in ("stored", "stale", "failed")
        }
        self.report.stored += counts["stored"]
        self.report.stale += counts["stale"]
        self.report.failed += counts["failed"]
        log.info("%d stored, %d stale, %d failed", counts["stored"], counts["stale"], counts["failed"])
        return True

    async def _embed(
        self, client: AsyncKnowledgeClient, jobs: Sequence[EmbeddingJob]
    ) -> list[dict[str, JSON]]:
        model = (await client.core.models()).get(self.embedder.name)
        if model is None:
            raise ConfigurationError(f"the embedding model {self.embedder.name!r} is not registered any more")
        texts = [job.embedding_text for job in jobs]
        try:
            vectors: Vectors | None = await asyncio.to_thread(
                self.embedder.embed_documents, texts, prefix=model.document_prefix
            )
        except (EmbeddingError, APIError) as error:
            if len(jobs) == 1:
                return [_failure(jobs[0], error)]
            # One bad text must not hold up the others.
            log.warning("a batch of %d could not be embedded (%s); one by one", len(jobs), error)
            vectors = None
        if vectors is None:
            return [(await self._embed(client, [job]))[0] for job in jobs]
        if vectors.shape[1] != model.dimensions:
            error = EmbeddingError(
                f"{self.embedder.name} gives {vectors.shape[1]} dimensions, and is registered with {model.dimensions}"
            )
            return [_failure(job, error) for job in jobs]
        return [
            {
                "knowledge_id": str(job.knowledge_id),
                "embedding_model": job.embedding_model,
                "content_hash": job.content_hash,
                "embedding": vector_text(vector),
            }
            for job, vector in zip(jobs, vectors, strict=True)
        ]

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
            await connection.execute("listen knowledge_embeddings")

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
