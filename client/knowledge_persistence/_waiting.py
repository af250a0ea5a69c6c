"""Waiting, async and sync: the one place where the generated client differs by more than words."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

AsyncLock = asyncio.Lock
Lock = threading.Lock


async def async_sleep(seconds: float) -> None:
    """Wait without holding the event loop."""
    await asyncio.sleep(seconds)


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


async def async_run(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run something that computes or blocks in a thread of its own."""
    return await asyncio.to_thread(function, *args, **kwargs)


def run(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run something that computes or blocks."""
    return function(*args, **kwargs)


def async_cancellations() -> int:
    """Count the cancellations that the running task has been asked for."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def cancellations() -> int:
    """Count none: nobody cancels a thread."""
    return 0
