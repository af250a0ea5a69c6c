"""What the official CLI's advisors say of the schema: security and performance lints (splinter)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from node_tools import run_node_tool

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from databases import Database


def advise(database: Database, workdir: Path) -> subprocess.CompletedProcess[str]:
    remote = f"--remote={database.dsn()}?sslmode=disable"
    return run_node_tool(
        "supabase",
        "--workdir",
        str(workdir),
        "db",
        "advisors",
        remote,
        "--level=warn",
        "--fail-on=warn",
        "--yes",
    )


def test_the_advisors_have_nothing_to_say(database: Database, tmp_path: Path) -> None:
    result = advise(database, tmp_path)
    if result.returncode != 0:
        pytest.fail(result.stdout + result.stderr, pytrace=False)


def test_the_advisors_are_awake(database: Database, tmp_path: Path) -> None:
    with psycopg.connect(database.dsn()) as connection:
        connection.execute("create table public.open_to_all (id int)")
    result = advise(database, tmp_path)
    assert result.returncode != 0
    assert "open_to_all" in result.stdout + result.stderr
