"""Write docs/reference/long-run.md: what a long run has done, added up from what its processes have counted."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "reference" / "long-run.md"
#: What is counted, as the page says it; in this order, and others after them.
NAMES: Final = {
    "isolation worlds": "random worlds for isolation",
    "isolation requests": "requests made in them",
    "isolation decisions": "isolation decisions (principal, door, row) compared with the model",
    "plays": "plays of the state machine",
    "acts": "acts in them, through clients",
    "acts refused": "of these, refused by both model and database",
    "decisions": "rows that somebody could have seen or not, compared after acts",
    "scenes of sixteen writers": "scenes of sixteen writers at once",
    "writes acknowledged or refused": "calls made in them",
    "faults injected": "faults injected",
}

ABOUT: Final = (
    "An ordinary run of the tests takes a bounded slice of what can be tried at random: worlds in which nobody may "
    "learn what is hidden from them, plays of a state machine against a model of memory, every write function against "
    "every other. The long run goes on with each of these, with further seeds, for as long as it is given. A "
    "difference, a deadlock, a write that is lost or done twice fails it, and then this page is not written."
)
COUNTED: Final = (
    "Each number is the sum of what the code that sent, compared or broke something counted at that moment "
    "(`tests/tally.py`); none is an estimate. An isolation decision is one row that one person, asking at one door, "
    "may or may not be told: whether it is in the answer is compared with what the rules, written down a second time "
    "in Python (`tests/isolation.py`), say of it."
)


def add_up(directory: Path) -> Counter[str]:
    """Add up what the processes have counted.

    Args:
        directory: where each left a file.
    """
    total: Counter[str] = Counter()
    for file in sorted(directory.glob("*.json")):
        total.update(json.loads(file.read_text("utf-8")))
    return total


def page(counted: Counter[str], *, seconds: int, arguments: list[str], commit: str, when: datetime) -> str:
    """Say in Markdown what a run has done.

    Args:
        counted: what it counted.
        seconds: how long it took.
        arguments: of `scripts/test`.
        commit: what it ran on.
        when: when it ended.
    """
    names = [*(name for name in NAMES if counted[name]), *sorted(counted.keys() - NAMES.keys())]
    rows = [f"| {NAMES.get(name, name)} | {counted[name]:,} |" for name in names]
    command = shlex.join(["./scripts/test", *arguments])
    table = "\n".join(["| what | how many |", "|---|---:|", *rows])
    machine = f"{os.cpu_count()} cores ({platform.system()} {platform.machine()}, Python {platform.python_version()})"
    return f"""\
# The long run

{ABOUT}

```bash
{command}
```

did the following in {seconds:,} seconds, until {when:%Y-%m-%d %H:%M} UTC, at commit {commit}, on {machine}:

{table}

{COUNTED}

What such runs have found, and what was done about it: [what trying to break it has found](../explanation/findings.md).
"""


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tally", type=Path, help="where the processes of the run left what they counted")
    parser.add_argument("--seconds", type=int, required=True, help="how long the run took")
    parser.add_argument("arguments", nargs="*", help="of scripts/test, after --")
    given = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    counted = add_up(given.tally)
    PAGE.write_text(
        page(
            counted,
            seconds=given.seconds,
            arguments=given.arguments,
            commit=commit or "unknown",
            when=datetime.now(UTC),
        ),
        "utf-8",
    )
    print(f"{PAGE.relative_to(ROOT)}: {counted['isolation decisions']:,} isolation decisions")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
