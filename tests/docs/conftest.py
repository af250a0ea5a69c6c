"""Somebody new: a checkout, its .venv on the PATH, an empty home directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from databases import caches, free_port, short_directory


@pytest.fixture
def newcomer() -> Generator[dict[str, str]]:
    """Give the environment of somebody whose stack has been started once, on ports that nobody else has.

    ``ORIGIN_PORT`` in it is the origin's. The stack keeps its ports, so that what follows can be run as printed.
    """
    with short_directory() as home:
        environment = {
            **os.environ,
            **caches(),
            "HOME": str(home),
            "KP_HOME": str(home / "kp"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
            "ORIGIN_PORT": str(free_port()),
        }
        ports = ["--port", environment["ORIGIN_PORT"], "--db-port", str(free_port())]
        try:
            subprocess.run(
                ["kp", "up", "--detach", *ports],
                env=environment,
                check=True,
                capture_output=True,
                timeout=600,
            )
            yield environment
        finally:
            subprocess.run(["kp", "down"], env=environment, check=False, capture_output=True, timeout=120)
