"""Squawk's view of the migrations: what would lock, block or break a database that has data in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from node_tools import run_node_tool

ROOT = Path(__file__).resolve().parents[2]


def test_squawk_finds_nothing() -> None:
    migrations = sorted((ROOT / "supabase" / "migrations").glob("*.sql"))
    assert migrations
    result = run_node_tool("squawk", "--reporter", "gcc", *map(str, migrations), cwd=ROOT)
    if result.returncode != 0:
        pytest.fail(result.stdout + result.stderr, pytrace=False)


def test_squawk_is_configured_and_awake(tmp_path: Path) -> None:
    bad = tmp_path / "20260101000000_bad.sql"
    bad.write_text("set local lock_timeout = '5s';\nalter table public.knowledge_items drop column title;\n")
    result = run_node_tool("squawk", "--reporter", "gcc", str(bad), cwd=ROOT)
    assert result.returncode != 0
    assert "ban-drop-column" in result.stdout
