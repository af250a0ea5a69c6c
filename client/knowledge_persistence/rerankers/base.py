"""What all rerankers share: the interface, and the bound on how long anybody waits for one."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from knowledge_persistence.errors import KnowledgePersistenceError, RerankError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: So many may be at work at once; one that hangs must not gather others behind it.
_AT_ONCE: Final = 4

log = logging.getLogger("knowledge_persistence")


@runtime_checkable
class Reranker(Protocol):
    """Says how well each of a few texts answers a query, reading both together.

    The method may block (it computes, or waits for a server) and may be called from several threads.
    """

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    def rerank(self, query: str, documents: Sequence[str], *, timeout: float) -> list[float]:
        """Score texts.

        Args:
            query: the question.
            documents: n texts, n at least 1.
            timeout: seconds after which nobody waits for the answer any more.

        Returns:
            n finite scores in the order of the texts, higher is better; of no scale in particular.

        Raises:
            RerankError: there is no answer, or not in time.
            ConfigurationError: the model can't be loaded.
        """
        ...


class BoundedReranker:
    """Ask a reranker, and have an end to the wait whatever it does.

    Args:
        reranker: who is asked.
        seconds: how long is waited for it.
    """

    def __init__(self, reranker: Reranker, *, seconds: float) -> None:
        self.reranker = reranker
        self.seconds = seconds
        self._free = threading.BoundedSemaphore(_AT_ONCE)

    def scores(self, query: str, documents: Sequence[str]) -> list[float] | None:
        """Return the texts' scores; None, with a warning in the log, where there are none in time.

        Args:
            query: the question.
            documents: the texts.
        """
        try:
            return self._scores(query, list(documents))
        except KnowledgePersistenceError as error:
            log.warning("not reranked: %s", error)
            return None

    def _scores(self, query: str, documents: list[str]) -> list[float]:
        if not self._free.acquire(blocking=False):
            raise RerankError(f"{self.reranker.name} is still busy with {_AT_ONCE} other queries")
        scores: list[float] = []
        failures: list[KnowledgePersistenceError] = []

        def work() -> None:
            try:
                scores.extend(self.reranker.rerank(query, documents, timeout=self.seconds))
            except KnowledgePersistenceError as error:
                failures.append(error)
            except Exception as error:  # noqa: BLE001 - somebody else's code; what it raises ends nobody's search
                failures.append(RerankError(f"{self.reranker.name} failed: {error!r}"))
            finally:
                self._free.release()

        # A thread that nobody waits for at the end: neither a server that trickles nor a model that computes for
        # minutes can hold up the query, or the end of the program.
        thread = threading.Thread(target=work, name="rerank", daemon=True)
        started = time.monotonic()
        thread.start()
        thread.join(self.seconds)
        if thread.is_alive():
            raise RerankError(f"{self.reranker.name} gave no answer within {self.seconds:g} s")
        if failures:
            raise failures[0]
        if len(scores) != len(documents):
            raise RerankError(
                f"{self.reranker.name} was given {len(documents)} texts and answered with {len(scores)} scores"
            )
        if not all(-1e300 < score < 1e300 for score in scores):  # noqa: PLR2004 - also false for what is no number
            raise RerankError(f"{self.reranker.name} answered with scores that are no finite numbers")
        log.info("%s: %d texts in %.2f s", self.reranker.name, len(documents), time.monotonic() - started)
        return scores
