"""The direct transport beside a read replica: reads go there, writes to the primary.

What this client wrote it reads back: after a write it reads from the primary until the replica has replayed the
log that far. What others wrote, the replica shows some milliseconds later.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from knowledge_persistence.errors import ServerError, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from knowledge_persistence._values import Argument, CallMode, RequestContext, Row, Scalar
    from knowledge_persistence.models import Identity

    from .direct import AsyncDirectTransport
    from .transport import AsyncReader

#: Seconds for which a replica that can't be reached is left alone.
_AWAY: Final = 15.0
#: The replica gave a query up because what it reads was changed on the primary; there it runs.
_CONFLICT_WITH_RECOVERY: Final = frozenset({"40001", "40P01"})

log = logging.getLogger("knowledge_persistence")


class AsyncReplicaTransport:
    """Read from a replica, write to the primary, and read from the primary what the replica can't give.

    Args:
        primary: takes everything that writes; `recall` is one of these, because it logs the access.
        replica: takes what only reads.
        away: seconds for which a replica that can't be reached is left alone.
    """

    def __init__(
        self, primary: AsyncDirectTransport, replica: AsyncDirectTransport, *, away: float = _AWAY
    ) -> None:
        self._primary = primary
        self._replica = replica
        self._away = away
        self._away_until = 0.0
        # How many writes there were, up to which of them the replica is known to be, and where the primary's log
        # stood after which of them.
        self._writes = 0
        self._replayed = 0
        self._position = (0, "")

    async def open(self) -> None:
        """Connect to the primary; the replica is connected to by the first read."""
        await self._primary.open()

    async def close(self) -> None:
        """Close the connections to both."""
        await self._replica.close()
        await self._primary.close()

    async def call(
        self, function: str, arguments: Mapping[str, Argument], context: RequestContext, *, mode: CallMode
    ) -> list[Row]:
        """Call a function; see `AsyncTransport.call`."""
        if mode == "read" and await self._may_ask_replica():
            try:
                return await self._replica.call(function, arguments, context, mode=mode)
            except (TransportError, ServerError) as error:
                self._note(error)
        try:
            return await self._primary.call(function, arguments, context, mode=mode)
        finally:
            if mode != "read":
                # An error may have come after the commit.
                self._writes += 1

    async def select(
        self,
        table: str,
        columns: Sequence[str],
        context: RequestContext,
        *,
        equal: Mapping[str, Scalar] | None = None,
        order: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Read rows of a table; see `AsyncTransport.select`."""
        if await self._may_ask_replica():
            try:
                return await self._replica.select(
                    table, columns, context, equal=equal, order=order, limit=limit
                )
            except (TransportError, ServerError) as error:
                self._note(error)
        return await self._primary.select(table, columns, context, equal=equal, order=order, limit=limit)

    def snapshot(self, context: RequestContext) -> AbstractAsyncContextManager[AsyncReader]:
        """Read from the primary as of one moment; see `AsyncTransport.snapshot`."""
        return self._primary.snapshot(context)

    async def identity(self) -> Identity:
        """Say whose claims are stated; the connection to the primary must work for that."""
        return await self._primary.identity()

    async def _may_ask_replica(self) -> bool:
        """Tell whether the replica is there and knows everything that was written here."""
        if time.monotonic() < self._away_until:
            return False
        writes = self._writes
        if self._replayed >= writes:
            return True
        if self._position[0] != writes:
            self._position = (writes, await self._primary.log_position())
        try:
            current = await self._replica.has_replayed(self._position[1])
        except (TransportError, ServerError) as error:
            self._note(error)
            return False
        if current:
            self._replayed = writes
        return current

    def _note(self, error: TransportError | ServerError) -> None:
        """Remember that the replica can't be reached; raise what it would be wrong to pass over."""
        if isinstance(error, ServerError):
            if error.code not in _CONFLICT_WITH_RECOVERY:
                raise error
            return
        log.warning("the read replica is away, the primary answers instead: %s", error)
        self._away_until = time.monotonic() + self._away
