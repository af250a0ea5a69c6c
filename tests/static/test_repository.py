"""What may not be in a tracked file."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A lock file or script that names a registry's host works for those who reach that host, and nobody else.
REGISTRY = re.compile(r"\b(?:npmjs|pypi|pythonhosted|deb\.debian|yarnpkg)\.(?:org|com)\b")
# Where a checkout lay on somebody's machine. (Invented home directories, as in a recorded error message, are fine.)
MACHINE = re.compile(r"(?<![\w.$}/-])/(?:work|workspace|workspaces|builds)/[\w-]+")


def tracked_files() -> list[Path]:
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("pattern", [REGISTRY, MACHINE], ids=["registry", "machine"])
def test_no_tracked_file_names_a_place(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked_files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


def test_lock_files_name_no_host() -> None:
    locks = [path for path in tracked_files() if path.name == "package-lock.json"]
    assert locks
    for path in locks:
        packages = json.loads(path.read_text())["packages"]
        assert not [name for name, package in packages.items() if "resolved" in package], path
        # Without the host, the hash alone says which file is meant.
        assert not [name for name, package in packages.items() if name and "integrity" not in package], path


def test_no_secret_is_tracked() -> None:
    looks_real = re.compile(
        r"\bsb_secret_[A-Za-z0-9_-]{20,}|\bsk-[A-Za-z0-9_-]{32,}|-----BEGIN [A-Z ]*PRIVATE KEY"
    )
    found = [str(path.relative_to(ROOT)) for path in tracked_files() if looks_real.search(text_of(path))]
    assert found == []
