"""The scripts that run before there is anything else say what they miss."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / "scripts" / "setup"


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """Make a PATH with what every machine has, and no Python."""
    for tool in ("sh", "dirname", "env"):
        (tmp_path / tool).symlink_to(
            Path("/usr/bin") / tool if (Path("/usr/bin") / tool).exists() else f"/bin/{tool}"
        )
    return tmp_path


def setup(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SETUP, "--help"], env=environment, capture_output=True, text=True, check=False)


def test_no_python_is_an_error_that_says_what_to_do(bare_path: Path) -> None:
    result = setup(PATH=str(bare_path))
    assert result.returncode == 1
    assert "no Python 3.11 or later on PATH" in result.stderr
    assert "PYTHON=" in result.stderr


def test_an_old_python_is_passed_over(bare_path: Path) -> None:
    old = bare_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    assert setup(PATH=str(bare_path)).returncode == 1
    named = setup(PATH=str(bare_path), PYTHON=str(old))
    assert named.returncode == 1
    assert f"PYTHON={old} is not a Python 3.11 or later" in named.stderr


def test_a_named_python_is_taken(bare_path: Path) -> None:
    result = setup(PATH=str(bare_path), PYTHON=sys.executable)
    assert result.returncode == 0
    assert result.stdout.startswith("usage: scripts/setup")
