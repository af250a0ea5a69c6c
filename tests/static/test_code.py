"""What the linters and generators say of the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON_TREES = ["client", "scripts", "tests", "benchmarks", "examples"]


def run(*command: str | Path) -> None:
    """Run a check in the checkout, and fail with all that it says."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}", pytrace=False)


def module(name: str, *arguments: str) -> None:
    run(sys.executable, "-m", name, *arguments)


def test_ruff_finds_nothing() -> None:
    module("ruff", "check", *PYTHON_TREES)


def test_code_is_formatted() -> None:
    module("ruff", "format", "--check", *PYTHON_TREES)


def test_types_hold() -> None:
    # The interpreter is named so that the check also works where the environment is not .venv.
    module("pyright", "--pythonpath", sys.executable)


def test_sync_client_is_generated_from_the_async_one() -> None:
    run(ROOT / "scripts" / "generate-sync", "--check")


SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_explains_itself(script: str) -> None:
    path = ROOT / "scripts" / script
    assert path.stat().st_mode & 0o111, f"{path} is not executable"
    result = subprocess.run([path, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.lower().startswith("usage"), result.stdout
