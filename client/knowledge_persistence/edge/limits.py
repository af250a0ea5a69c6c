"""What one caller may take of the functions."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds.

    Attributes:
        requests_per_minute: of a user, all their agents together; so many may also come at once.
        body_bytes: the longest body.
        seconds: until a request is given up.
        connections: connections to the database, shared by all.
    """

    requests_per_minute: int = 600
    body_bytes: int = 1_000_000
    seconds: float = 30.0
    connections: int = 8


class RateLimit:
    """Count requests by caller: each has a bucket that is full at first and fills up over a minute.

    Args:
        per_minute: how many a bucket holds, and how many flow in a minute.
    """

    def __init__(self, per_minute: int) -> None:
        self._size = float(per_minute)
        self._per_second = per_minute / 60
        self._buckets: dict[str, tuple[float, float]] = {}
        self._swept = 0.0

    def take(self, key: str, *, now: float | None = None) -> float:
        """Take one from a caller's bucket.

        Args:
            key: the caller.
            now: seconds, of a clock that only goes forward; None: this machine's.

        Returns:
            0, or the seconds after which there is one again.
        """
        now = time.monotonic() if now is None else now
        if now - self._swept > 60:  # noqa: PLR2004 - by then every bucket is full that nobody took from
            self._swept = now
            self._buckets = {one: bucket for one, bucket in self._buckets.items() if now - bucket[1] < 60}  # noqa: PLR2004
        left, since = self._buckets.get(key, (self._size, now))
        left = min(self._size, left + (now - since) * self._per_second)
        if left < 1:
            self._buckets[key] = (left, now)
            return (1 - left) / self._per_second
        self._buckets[key] = (left - 1, now)
        return 0.0
