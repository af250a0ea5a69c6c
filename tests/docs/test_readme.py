"""The README's blocks, run as they are printed, one after the other, by somebody who has never run anything.

A comment above a block says how, where that isn't plain:

    <!-- not run: why -->
    <!-- prints: text that the output has to contain -->

Shell blocks share one shell, so that a variable set in one is there in the next; Python blocks are scripts of their
own. The stack's port, where a block names it, is the port that the stack of the test got.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RUN = {"bash", "sh", "python"}
SHOWN = {"", "text", "console", "json", "sql", "mermaid", "js", "javascript", "html", "toml", "yaml"}

_BLOCK = re.compile(
    r"(?P<notes>(?:^<!--[^\n]*-->\n+)*)^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_NOTE = re.compile(r"<!-- (not run|prints): (.+?) -->")


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    not_run: str | None
    prints: list[str]


def blocks() -> list[Block]:
    text = README.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        notes = _NOTE.findall(match["notes"])
        found.append(
            Block(
                language=match["language"],
                code=match["code"],
                line=text.count("\n", 0, match.start("code")) + 1,
                not_run=next((why for kind, why in notes if kind == "not run"), None),
                prints=[what for kind, what in notes if kind == "prints"],
            )
        )
    return found


def script(port: int) -> str:
    """Write all blocks as one shell script that says before each which it is."""
    lines = ["set -euo pipefail"]
    for block in blocks():
        if block.language not in RUN or block.not_run is not None:
            continue
        code = block.code.replace("54321", str(port))
        lines.append(f"echo '::block {block.line}'; echo '::block {block.line}' >&2")
        if block.language == "python":
            lines.append(f"python - <<'README_BLOCK'\n{code}README_BLOCK")
        else:
            lines.append(code)
    return "\n".join(lines) + "\n"


def test_every_block_is_of_a_known_language() -> None:
    unknown = [f"README.md:{b.line}: {b.language}" for b in blocks() if b.language not in RUN | SHOWN]
    assert unknown == []
    assert any(block.language in RUN and block.not_run is None for block in blocks())


@pytest.mark.timeout(900)
def test_the_readme_works_as_printed(newcomer: dict[str, str]) -> None:
    result = subprocess.run(
        ["bash", "-c", script(int(newcomer["ORIGIN_PORT"]))],
        cwd=ROOT,
        env=newcomer,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    if result.returncode != 0:
        line = result.stderr.rpartition("::block ")[2].partition("\n")[0]
        out, err = (said.rpartition(f"::block {line}\n")[2] for said in (result.stdout, result.stderr))
        pytest.fail(f"README.md:{line} failed\n{out}\n{err}", pytrace=False)
    printed = dict(re.findall(r"::block (\d+)\n(.*?)(?=::block |\Z)", result.stdout, re.DOTALL))
    for block in blocks():
        for text in block.prints:
            assert text in printed[str(block.line)], f"README.md:{block.line} does not print {text!r}"
