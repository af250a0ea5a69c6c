"""The tutorial, done as it is written: every block, in order, in one shell and against one stack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from databases import free_port, short_directory

if TYPE_CHECKING:
    from collections.abc import Generator

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "first-memory.md"
BLOCKS = re.findall(
    r"^```(bash|python)\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
MARK = "-- end of block --"


@pytest.fixture(scope="module")
def answers() -> Generator[list[str]]:
    """Do the whole tutorial once and give what each block printed, standard error included."""
    with short_directory() as directory:
        environment = {
            **os.environ,
            "KP_HOME": str(directory / "home"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        script = directory / "tutorial.sh"
        script.write_text("set -euo pipefail\nexec 2>&1\n" + "".join(map(as_shell, BLOCKS)))
        try:
            done = subprocess.run(
                ["bash", script],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-4000:]
            yield done.stdout.split(MARK + "\n")[:-1]
        finally:
            kp = shutil.which("kp", path=environment["PATH"])
            assert kp is not None
            subprocess.run([kp, "down"], env=environment, capture_output=True, check=True)


def as_shell(block: tuple[str, str]) -> str:
    language, text = block
    if language == "python":
        text = f"python - <<'PYTHON'\n{text}PYTHON\n"
    elif "scripts/setup" in text:
        # The environment is there: it runs this test. The stack gets ports that nobody uses.
        text = f"kp up --detach --port {free_port()} --db-port {free_port()}\n"
    return f"{text}echo '{MARK}'\n"


def answer_to(answers: list[str], command: str) -> str:
    """Return what the one block that holds this text printed."""
    [number] = [number for number, (_, text) in enumerate(BLOCKS) if command in text]
    return answers[number]


def test_first_block_sets_up_and_starts() -> None:
    assert BLOCKS[0] == ("bash", "./scripts/setup\n. .venv/bin/activate\nkp up --detach\n")


def test_every_block_was_run(answers: list[str]) -> None:
    assert len(answers) == len(BLOCKS)
    assert re.search(r"^State +running$", answer_to(answers, "kp status\n"), re.MULTILINE)


def test_same_text_is_kept_once(answers: list[str]) -> None:
    first, again = (output.splitlines() for output in answers[3:5])
    assert first[0] == again[0]
    assert "Known already." in again


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("the test database hangs up", "Staging drops idle connections"),
        ('kp recall "result_code"', "Sandbox payments fail with status 200"),
        ("the import job crashed last night", "Supplier prices with a comma break the import"),
    ],
)
def test_questions_find_what_the_text_says(answers: list[str], question: str, title: str) -> None:
    heads = re.findall(r"^[█░]{10} [01]\.\d\d  (.*?)  \w+$", answer_to(answers, question), re.MULTILINE)
    assert heads[:1] == [title]


def test_session_says_what_it_did(answers: list[str]) -> None:
    assert "1 recorded" in answer_to(answers, "kp session end")
    assert "Found out why the nightly import fails." in answer_to(answers, "kp session show tuesday")


def test_colleague_finds_only_what_was_validated(answers: list[str]) -> None:
    assert "Nothing known about that." in answer_to(answers, "ben login")
    assert "Nothing known about that." in answer_to(answers, "kp workspace add")
    assert "No deploys on the last Friday" in answer_to(answers, "kp validate")


def test_program_finds_what_it_recorded(answers: list[str]) -> None:
    assert re.match(
        r"[01]\.\d\d Thumbnails are made on upload - \w", answer_to(answers, "from knowledge_persistence")
    )


def test_nothing_runs_afterwards(answers: list[str]) -> None:
    assert "Stopped." in answer_to(answers, "kp down")
