"""What a run did, counted where it is done: each process keeps its own counts and writes them down when it ends.

    pytest --long --tally=DIRECTORY

leaves one file a process there; `scripts/long-run` adds them up. Nothing is estimated: a number is the sum of what the
code that compared, sent or broke something has counted at that moment.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_COUNTED: Counter[str] = Counter()


def count(what: str, number: int = 1) -> None:
    """Count something that was just done."""
    _COUNTED[what] += number


def write(directory: Path) -> None:
    """Write down what this process has counted."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{os.getpid()}.json").write_text(json.dumps(_COUNTED) + "\n", "utf-8")
