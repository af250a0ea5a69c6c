"""What one client may take of the gateway."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds, by default those of the official server where it has one.

    Attributes:
        connections: clients at once.
        frame_bytes: the longest frame a client may send.
        channels: channels of a client.
        joins_per_second: of a client.
        events_per_second: broadcasts and presence calls of a client.
        waiting_bytes: what may wait to be sent to a client that reads slowly; more ends the connection.
        recheck_seconds: how often a private channel's permission is looked at again.
        presence_bytes: the longest state that a client may show of itself.
    """

    connections: int = 2000
    frame_bytes: int = 3_000_000
    channels: int = 100
    joins_per_second: int = 100
    events_per_second: int = 100
    waiting_bytes: int = 4_000_000
    recheck_seconds: float = 30.0
    presence_bytes: int = 64_000


class Rate:
    """Count events in windows of a second.

    Args:
        limit: how many a second.
    """

    __slots__ = ("_count", "_limit", "_window")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._window = 0.0

    def exceeded(self) -> bool:
        """Count one more, and say whether it is one too many."""
        now = time.monotonic()
        if now - self._window >= 1:
            self._window, self._count = now, 0
        self._count += 1
        return self._count > self._limit
