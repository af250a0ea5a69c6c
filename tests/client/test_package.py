"""The package as a whole: what it exports, what importing it costs, that the sync client is the async one."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import knowledge_persistence
from knowledge_persistence._async.client import AsyncKnowledgeClient
from knowledge_persistence._async.session import AsyncSessionHandle
from knowledge_persistence._sync.client import KnowledgeClient
from knowledge_persistence._sync.session import SessionHandle

SLOW = ("supabase", "postgrest", "psycopg", "numpy", "onnxruntime", "openai", "httpx", "jwt")


@pytest.mark.parametrize("name", knowledge_persistence.__all__)
def test_everything_exported_is_there(name: str) -> None:
    assert getattr(knowledge_persistence, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="recal"):
        knowledge_persistence.recal  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import knowledge_persistence",
        "from knowledge_persistence import connect, connect_async",
        "from knowledge_persistence.cli import make_app; make_app(['recall'])",
    ],
)
def test_importing_loads_nothing_slow(code: str) -> None:
    loaded = subprocess.check_output(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], text=True
    ).split()
    assert "knowledge_persistence" in loaded
    assert [name for name in SLOW if name in loaded] == []


# Following events is for those who can wait: it has no synchronous form.
ASYNC_ONLY = {"subscribe", "presence"}


@pytest.mark.parametrize(
    ("written", "generated"), [(AsyncKnowledgeClient, KnowledgeClient), (AsyncSessionHandle, SessionHandle)]
)
def test_the_sync_client_has_the_same_methods(written: type, generated: type) -> None:
    def shape(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert {name: took for name, took in shape(written).items() if name not in ASYNC_ONLY} == shape(generated)
    asynchronous = [n for n, m in inspect.getmembers(generated, inspect.iscoroutinefunction)]
    assert asynchronous == []
