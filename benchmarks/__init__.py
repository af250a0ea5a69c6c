"""Benchmarks that a reader can run: each starts a stack of its own in a temporary directory and prints a table."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import psycopg

from knowledge_persistence.embedded import Stack

if TYPE_CHECKING:
    from pathlib import Path

    from knowledge_persistence.embedded import StackInfo


def benchmark_stack(directory: Path) -> Stack:
    """Return a stack below a temporary directory, on free ports, to be entered as a context manager."""
    if os.geteuid() == 0:
        directory.chmod(0o711)  # the database server's account has to get through
    return Stack(directory / "home", port=_free_port(), database_port=_free_port())


def first_user(info: StackInfo) -> str:
    """Return the id of the stack's local user."""
    with psycopg.connect(info.admin_database_url) as admin:
        row = admin.execute("select id::text from auth.users order by created_at limit 1").fetchone()
    if row is None:
        raise RuntimeError("the stack has no user")
    return str(row[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
