"""A database of their own, people, and the clients by which frameworks reach it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from databases import Database
from knowledge_persistence import AsyncKnowledgeClient, KnowledgeClient, connect, connect_async
from knowledge_persistence.embedders.local import LocalEmbedder
from knowledge_persistence.settings import Settings
from world import Persona


@pytest.fixture(scope="session")
def embedder() -> LocalEmbedder:
    return LocalEmbedder()


@pytest.fixture
def enter(database: Database, tmp_path: Path) -> Generator[Callable[..., KnowledgeClient]]:
    """Let a person in; without an embedder, unless one is given."""
    opened: list[KnowledgeClient] = []

    def make(person: Persona, **more: Any) -> KnowledgeClient:
        settings = Settings(home=tmp_path / "no-stack")
        given = {"user_id": person.id, "workspace": person.workspace, "embedder": None, "settings": settings}
        opened.append(connect(database.dsn("authenticator"), **(given | more)))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def enter_async(database: Database, tmp_path: Path) -> Callable[..., AsyncKnowledgeClient]:
    """Make an async client for a person; the test enters it."""

    def make(person: Persona, **more: Any) -> AsyncKnowledgeClient:
        settings = Settings(home=tmp_path / "no-stack")
        given = {"user_id": person.id, "workspace": person.workspace, "embedder": None, "settings": settings}
        return connect_async(database.dsn("authenticator"), **(given | more))

    return make
