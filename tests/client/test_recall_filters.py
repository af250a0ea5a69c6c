"""Every filter that a search knows: in the client through both doors, and as an option of `kp recall`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from filter_scene import QUERY, set_scene
from knowledge_persistence import KnowledgeClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Person, Printed

    Enter = Callable[..., KnowledgeClient]

#: What is no filter, and shown elsewhere.
OTHERS = {"self", "query", "max_results", "after_cursor", "rerank", "explain"}


@pytest.fixture
def people(sign_up: Callable[..., Person], enter: Enter) -> tuple[Person, Person, UUID]:
    """Two maintainers and their workspace."""
    author, other = sign_up("author"), sign_up("other")
    client = enter(author, embedder=None)
    workspace = client.create_workspace("team").workspace_id
    client.add_workspace_member(workspace, other.id, role="maintainer")
    return author, other, workspace


def test_the_client_has_them_all(people: tuple[Person, Person, UUID], enter: Enter) -> None:
    author, other, workspace = people
    client = enter(author, embedder=None, workspace=workspace)
    scene = set_scene(client, enter(other, embedder=None, workspace=workspace))
    assert {item.title for item in client.search(QUERY)} == {"first", "second"}
    for name, case in scene.cases.items():
        for find in (client.search, client.recall):
            assert {item.title for item in find(QUERY, **case.arguments)} == case.titles, name
    shown = {argument for case in scene.cases.values() for argument in case.arguments}
    assert shown == set(inspect.signature(KnowledgeClient.search).parameters) - OTHERS


@pytest.mark.parametrize("door", ["direct"])
def test_the_command_line_has_them_all(
    people: tuple[Person, Person, UUID], enter: Enter, command: Callable[..., Printed]
) -> None:
    author, other, workspace = people
    scene = set_scene(
        enter(author, embedder=None, workspace=workspace), enter(other, embedder=None, workspace=workspace)
    )

    def recall(*flags: str) -> set[str]:
        found = command(author, "recall", QUERY, "--workspace", str(workspace), "--json", *flags).json
        return {item["title"] for item in found}

    assert recall() == {"first", "second"}
    for name, case in scene.cases.items():
        assert recall(*case.flags) == case.titles, name
    assert recall("--recorded-in", "the first's session") == {"first"}, "by its identifier, too"
    for wrong in ('{"broken"', "[]", "api"):
        printed = command(author, "recall", QUERY, "--context", wrong)
        assert (printed.code, printed.out) == (2, ""), wrong
        assert "--context" in printed.err
    assert command(author, "recall", QUERY, "--created-after", "yesterday").code == 2
