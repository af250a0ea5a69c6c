"""The reference page of the client names what there is, and nothing else."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import knowledge_persistence
from knowledge_persistence import KnowledgeClient, connect, errors
from knowledge_persistence.settings import Settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "client.md").read_text()
SETTINGS = Path(inspect.getfile(Settings)).read_text()


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> set[str]:
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)", cell)}


def test_every_argument_and_variable_is_there() -> None:
    text = section("Connecting")
    arguments = set(inspect.signature(connect).parameters)
    variables = set(re.findall(r'get\("(\w+)"\)', SETTINGS))
    assert first_cells(text) == arguments | variables


def test_every_method_is_there() -> None:
    methods = {
        name
        for name, _ in inspect.getmembers(KnowledgeClient, inspect.isfunction)
        if not name.startswith("_")
    }
    assert first_cells(section("Methods")) == methods


def test_every_error_is_there() -> None:
    kinds = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert first_cells(section("Errors")) == kinds - {"KnowledgePersistenceError"}  # the base of all


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_every_example_uses_what_there_is(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            assert node.module == "knowledge_persistence"
            assert {alias.name for alias in node.names} <= set(knowledge_persistence.__all__)
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            method = getattr(KnowledgeClient, node.func.attr)
            known = set(inspect.signature(method).parameters)
            assert {keyword.arg for keyword in node.keywords} <= known
