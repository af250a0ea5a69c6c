"""How often: what `--every` and `--never` mean."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final

import typer

from .output import fail

_USAGE: Final = 2
_UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}

EveryOption = Annotated[
    str | None, typer.Option("--every", help="How often: 12h, 1d, 2w.", metavar="INTERVAL")
]
NeverOption = Annotated[bool, typer.Option("--never", help="Not any more.")]


def chosen_interval(every: str | None, never: bool) -> timedelta | None:
    """Return what was asked for; None: never."""
    if (every is None) != never:
        fail("say how often (--every 1d) or --never", _USAGE)
    if every is None:
        return None
    given = re.fullmatch(r"(\d{1,4})([hdw])", every.strip())
    if given is None:
        fail(f"{every!r} is no interval: say it as 12h, 1d or 2w", _USAGE)
    return timedelta(**{_UNITS[given[2]]: int(given[1])})


def in_words(interval: timedelta) -> str:
    """Say an interval: every day, every 12 hours."""
    hours = round(interval.total_seconds() / 3600)
    count, unit = (hours // 24, "day") if hours % 24 == 0 else (hours, "hour")
    return f"every {unit}" if count == 1 else f"every {count} {unit}s"
