"""The generated reference pages are those of this code and this schema."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from databases import Database

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_is_documented(generator: ModuleType) -> None:
    page = (REFERENCE / "cli.md").read_text()
    assert page == generator.command_reference(), "run scripts/generate-docs"
    assert "`kp migrate`" in page


def test_every_table_and_function_is_documented(generator: ModuleType, database: Database) -> None:
    page = (REFERENCE / "database.md").read_text()
    assert page == generator.database_reference(database.dsn()), "run scripts/generate-docs"
    assert "### `knowledge_items`" in page
    assert "### `recall_knowledge`" in page
