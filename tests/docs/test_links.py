"""Links inside the repository lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"(?m)^#+ (.+)$")


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets: lower case, no punctuation, hyphens for blanks."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_every_link_to_a_file_or_heading_leads_there() -> None:
    names = subprocess.check_output(["git", "ls-files", "-z", "*.md"], cwd=ROOT, text=True).split("\0")
    pages = [ROOT / name for name in names if name]
    assert ROOT / "README.md" in pages
    broken = []
    for page in pages:
        for target in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, fragment = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            headings = HEADING.findall(file.read_text()) if fragment and file.suffix == ".md" else []
            if not file.exists() or (fragment and fragment not in map(anchor, headings)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
