"""Breaking off with a server that keeps the line open and says nothing.

A server that died is noticed: its machine refuses, or TCP's own probes fail. One that hangs, or whose pooler does,
is not: its machine acknowledges everything, and libpq waits for ever, in threads as well as in event loops. So one
thread of the process looks every second at the connections that wait, and shuts down the sockets of those that have
waited for too long; whoever waits then sees a broken connection.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

_TICK: Final = 1.0
# With nothing to look at for so long, the thread ends; the next call starts another.
_IDLE_TICKS: Final = 30

_lock: Final = threading.Lock()
_waiting: Final[dict[int, tuple[float, socket.socket]]] = {}
_numbers: Final = itertools.count()
_thread: threading.Thread | None = None


@contextmanager
def no_longer_than(seconds: float, descriptor: int) -> Generator[None]:
    """Shut a socket down when the body takes longer.

    Args:
        seconds: how long it may take, a second more or less.
        descriptor: the socket's file descriptor, open when the body begins.
    """
    global _thread  # noqa: PLW0603 - one thread a process
    # A duplicate: the body may close its own, and the number then be somebody else's.
    line = socket.socket(fileno=os.dup(descriptor))
    number = next(_numbers)
    with _lock:
        _waiting[number] = (time.monotonic() + seconds, line)
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_look, daemon=True, name="kp-silence")
            _thread.start()
    try:
        yield
    finally:
        with _lock:
            _waiting.pop(number, None)
        line.close()


def _look() -> None:
    global _thread  # noqa: PLW0603 - likewise
    idle = 0
    while True:
        time.sleep(_TICK)
        now = time.monotonic()
        with _lock:
            for number, (due, line) in list(_waiting.items()):
                if due <= now:
                    del _waiting[number]
                    with contextlib.suppress(OSError):
                        line.shutdown(socket.SHUT_RDWR)
            idle = 0 if _waiting else idle + 1
            if idle > _IDLE_TICKS:
                _thread = None
                return
