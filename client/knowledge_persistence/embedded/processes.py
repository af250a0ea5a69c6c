"""Processes of the stack, by id and start time: an id alone may belong to somebody else by now."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

# Where nothing better is known, a start is a time of day, which the clock's corrections can move a little.
_CLOCK_TOLERANCE = 2.0


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, for as long as it lives.

    Attributes:
        pid: the process id.
        started_at: when it started, in seconds since the boot; where there is none, since 1970.
        boot: the machine's boot that it started after; empty where the system doesn't name it.
    """

    pid: int
    started_at: float
    boot: str = ""

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the identity of the process that has this id now, or None."""
        try:
            boot = _boot()
            started_at = _since_boot(pid) if boot else psutil.Process(pid).create_time()
            return cls(pid, started_at, boot)
        except psutil.NoSuchProcess:
            return None

    @classmethod
    def from_json(cls, value: Any) -> ProcessId | None:  # noqa: ANN401
        """Read back what `as_json` made; None where it isn't that."""
        match value:
            case {"pid": int(pid), "started_at": float() | int() as started_at, "boot": str(boot)}:
                return cls(pid, float(started_at), boot)
            case {"pid": int(pid), "started_at": float() | int() as started_at}:
                return cls(pid, float(started_at))
            case _:
                return None

    def as_json(self) -> dict[str, float | str]:
        """Return it as JSON values."""
        return {"pid": self.pid, "started_at": self.started_at, "boot": self.boot}

    def process(self) -> psutil.Process | None:
        """Return the living process, or None when it is gone (or a zombie, or the id is somebody else's)."""
        try:
            process = psutil.Process(self.pid)
            if self.boot:
                is_same = self.boot == _boot() and self.started_at == _since_boot(self.pid)
            else:
                is_same = abs(process.create_time() - self.started_at) <= _CLOCK_TOLERANCE
            if not is_same:
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


def _boot() -> str:
    """Return the name of this machine's boot, or nothing where the system has none."""
    if sys.platform != "linux":
        return ""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def _since_boot(pid: int) -> float:
    """Return when a process started, by a clock that nobody sets.

    psutil's time of day comes from the boot's, and that moves as soon as somebody corrects the machine's clock.

    Raises:
        psutil.NoSuchProcess: there is none.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(pid) from error
    # The name, in parentheses, may hold anything; what is counted comes after it.
    return int(stat.rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


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
