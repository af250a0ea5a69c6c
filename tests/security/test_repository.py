"""No tracked file holds a credential, by the same function that keeps them out of memory."""

from __future__ import annotations

import subprocess
from pathlib import Path

from world import World

ROOT = Path(__file__).resolve().parents[2]
# Tests of what is refused are full of invented ones; tests/static looks through them for keys of known makers.
LEFT_OUT = "tests/"
# Files that have what looks like a credential on purpose: examples of what is refused.
INVENTED = {"docs/how-to/keep-it-clean.md"}


def test_no_tracked_file_holds_a_credential(world: World) -> None:
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    texts = {
        name: _text(ROOT / name)
        for name in names
        if name and not name.startswith(LEFT_OUT) and (ROOT / name).is_file()
    }
    [row] = world.superuser("select private.find_credential(%s) as what", "API_KEY=7f3Kq9TzX2mVb8LrW4c1")
    assert row["what"] is not None, "it is awake"
    found = world.superuser(
        "select t.name, private.find_credential(t.words) as what"
        "  from unnest(%s::text[], %s::text[]) t (name, words)"
        " where private.find_credential(t.words) is not null order by 1",
        list(texts),
        list(texts.values()),
    )
    assert sorted({row["name"]: row["what"] for row in found if row["name"] not in INVENTED}.items()) == []
    # A file that has none any more is no longer an exception.
    assert {row["name"] for row in found} >= INVENTED


def _text(path: Path) -> str:
    try:
        # PostgreSQL's text can't hold NUL.
        return path.read_text().replace("\0", "")
    except UnicodeDecodeError:
        return ""
