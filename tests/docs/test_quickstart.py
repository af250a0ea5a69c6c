"""The quickstart shows the right lessons, the first time and every time after."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def quickstart(environment: dict[str, str], cwd: Path) -> str:
    result = subprocess.run(
        [ROOT / "scripts" / "quickstart"],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.timeout(700)
def test_the_quickstart_shows_the_right_lessons_again_and_again(
    newcomer: dict[str, str], tmp_path: Path
) -> None:
    # Rich breaks lines at the width of the terminal that it thinks it has.
    environment = {**newcomer, "COLUMNS": "500"}
    questions = [
        json.loads(line) for line in (ROOT / "examples" / "questions.jsonl").read_text().splitlines()
    ]
    asked = [entry for entry in questions if entry["quickstart"]]
    assert len(asked) >= 4
    lessons = len((ROOT / "examples" / "starter-pack.jsonl").read_text().splitlines())

    for known in (0, lessons):
        said = quickstart(environment, tmp_path)
        assert f"{lessons} lessons: {lessons - known} recorded, {known} known already." in said
        assert "All of them have their vectors." in said
        for entry in asked:
            answer = said.partition(entry["question"])[2].partition("\n\n")[0]
            assert any(title in answer for title in entry["expected"]), f"{entry['question']}\n{answer}"

    status = subprocess.run(["kp", "status", "--json"], env=newcomer, check=True, capture_output=True)
    assert json.loads(status.stdout)["state"] == "running", "it is left running"


def test_the_quickstart_refuses_what_it_does_not_know() -> None:
    result = subprocess.run(
        [ROOT / "scripts" / "quickstart", "--frob"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stdout.startswith("usage: scripts/quickstart")
