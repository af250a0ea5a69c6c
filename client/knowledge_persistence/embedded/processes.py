"""Processes of the stack, by id and start time: an id alone may belong to somebody else by now."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

# psutil derives start times from the boot time, which the clock's corrections can move a little.
_CLOCK_TOLERANCE = 2.0


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, for as long as it lives.

    Attributes:
        pid: the process id.
        started_at: when it started, in seconds since 1970.
    """

    pid: int
    started_at: float

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the identity of the process that has this id now, or None."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    @classmethod
    def from_json(cls, value: Any) -> ProcessId | None:  # noqa: ANN401
        """Read back what `as_json` made; None where it isn't that."""
        match value:
            case {"pid": int(pid), "started_at": float() | int() as started_at}:
                return cls(pid, float(started_at))
            case _:
                return None

    def as_json(self) -> dict[str, float]:
        """Return it as JSON values."""
        return {"pid": self.pid, "started_at": self.started_at}

    def process(self) -> psutil.Process | None:
        """Return the living process, or None when it is gone (or a zombie, or the id is somebody else's)."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started_at) > _CLOCK_TOLERANCE:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.NoSuchProcess:
            return None

    def is_alive(self) -> bool:
        """Tell whether it still runs."""
        return self.process() is not None

    def stop(self, *, signals: tuple[tuple[int, float], ...]) -> bool:
        """Send each signal in turn, each time waiting for the process to end.

        Args:
            signals: pairs of a signal and the seconds to wait after it.

        Returns:
            Whether it has ended.
        """
        for number, patience in signals:
            process = self.process()
            if process is None:
                return True
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                return True
            if wait_until(lambda: not self.is_alive(), timeout=patience):
                return True
        return not self.is_alive()


TERMINATE: tuple[tuple[int, float], ...] = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
"""For processes that may be killed."""


def wait_until(condition: Callable[[], bool], *, timeout: float, interval: float = 0.02) -> bool:
    """Wait for a condition.

    Args:
        condition: what to wait for; called often.
        timeout: at most so many seconds.
        interval: seconds between two looks.

    Returns:
        Whether it came true.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True
