"""Relationships through the client and the command line: what is refused first, then the walk and the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from knowledge_persistence import (
    ConflictError,
    InvalidArgumentError,
    NewKnowledge,
    NotFoundError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Deployment, Person
    from knowledge_persistence import KnowledgeClient

    Enter = Callable[..., KnowledgeClient]
    SignUp = Callable[..., Person]

NOBODY = UUID("00000000-0000-4000-8000-000000000000")


def record(client: KnowledgeClient, *titles: str) -> list[UUID]:
    pieces = [NewKnowledge(title=title, content=f"About {title}. {uuid4().hex}") for title in titles]
    return [one.knowledge_id for one in client.remember_many(pieces)]


def team(enter: Enter, owner: Person, **members: Person) -> UUID:
    client = enter(owner)
    workspace = client.create_workspace("team").workspace_id
    for role, person in members.items():
        client.add_workspace_member(workspace, person.id, role=role)
    return workspace


# Forbidden acts


def test_a_stranger_relates_sees_and_decides_nothing(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    mine, other = record(ana, "mine", "other")
    relationship = ana.relate(mine, other, "enhances").relationship_id
    eve = enter(sign_up("eve"))
    [hers] = record(eve, "hers")
    for foreign, unknown in (
        (lambda: eve.relate(hers, mine, "enhances"), lambda: eve.relate(hers, NOBODY, "enhances")),
        (lambda: eve.relate(mine, hers, "enhances"), lambda: eve.relate(NOBODY, hers, "enhances")),
        (lambda: eve.neighborhood(mine), lambda: eve.neighborhood(NOBODY)),
        (lambda: eve.graph(mine), lambda: eve.graph(NOBODY)),
        (lambda: eve.list_relationships(mine), lambda: eve.list_relationships(NOBODY)),
        (lambda: eve.discover_relationships(mine), lambda: eve.discover_relationships(NOBODY)),
        (
            lambda: eve.decide_relationship(relationship, accept=False),
            lambda: eve.decide_relationship(NOBODY, accept=False),
        ),
        (lambda: eve.remove_relationship(relationship), lambda: eve.remove_relationship(NOBODY)),
    ):
        with pytest.raises(NotFoundError) as first:
            foreign()
        with pytest.raises(NotFoundError) as second:
            unknown()
        assert str(first.value) == str(second.value)
    assert eve.list_relationships() == []
    assert eve.graph().items == []
    assert [one.status for one in ana.list_relationships()] == ["accepted"]


def test_a_reader_looks_and_touches_nothing(enter: Enter, sign_up: SignUp) -> None:
    owner, reader = sign_up("owner"), sign_up("reader")
    workspace = team(enter, owner, reader=reader)
    ana, ben = enter(owner, workspace=workspace), enter(reader, workspace=workspace)
    one, other = record(ana, "one", "other")
    hidden = ana.relate(one, other, "builds_upon").relationship_id
    assert ben.list_relationships() == [], "both ends are pending"
    for item in (one, other):
        ana.validate(item)
    assert [found.relationship_id for found in ben.list_relationships(one)] == [hidden]
    for act in (
        lambda: ben.relate(other, one, "enhances"),
        ben.discover_relationships,
        lambda: ben.decide_relationship(hidden, accept=False),
        lambda: ben.remove_relationship(hidden),
    ):
        with pytest.raises(PermissionDeniedError):
            act()


def test_a_cycle_is_refused_and_named(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    roof, walls, ground = record(ana, "roof", "walls", "ground")
    ana.relate(roof, walls, "depends_on")
    ana.relate(ground, walls, "required_for")
    with pytest.raises(ConflictError, match='"ground" needs "roof" needs "walls" needs "ground"'):
        ana.relate(ground, roof, "depends_on")
    with pytest.raises(InvalidArgumentError, match="no relationship with itself"):
        ana.relate(roof, roof, "enhances")
    with pytest.raises(InvalidArgumentError, match="no relationship type"):
        ana.relate(roof, walls, "loves")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="status"):
        ana.list_relationships(status="loved")  # type: ignore[arg-type]


# What is promised


def test_stating_deciding_and_taking_out(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    one, other = record(ana, "one", "other")
    stated = ana.relate(one, other, "depends_on", strength=0.5, relationship_context="since May")
    assert (stated.outcome, stated.status, stated.strength) == ("created", "accepted", 0.5)
    assert ana.relate(one, other, "depends_on", strength=0.5).outcome == "unchanged"
    again = ana.relate(one, other, "depends_on", strength=0.75)
    assert (again.outcome, again.strength, again.relationship_context) == ("updated", 0.75, "since May")
    [listed] = ana.list_relationships(other)
    assert (listed.source_title, listed.target_title, listed.reason) == ("one", "other", None)
    assert listed.created_at.tzinfo is not None
    ana.remove_relationship(stated.relationship_id)
    assert ana.list_relationships() == []


def test_what_is_found_is_proposed_and_decided(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    pieces = [
        NewKnowledge(title="Cache size", content="The cache holds 256 MB."),
        NewKnowledge(title="Cache size", content="The cache holds 512 MB."),
        NewKnowledge(title="Blue", content="Paint it blue.", retrieval_triggers=["colour", "paint"]),
        NewKnowledge(title="Green", content="A wall in green.", retrieval_triggers=["colour", "paint"]),
    ]
    ana.remember_many(pieces)
    found = ana.discover_relationships()
    assert [one.relationship_type for one in found] == ["contradicts", "similar_to"]
    assert "256" in found[0].reason
    assert "512" in found[0].reason
    assert "colour, paint" in found[1].reason
    assert ana.graph(found[0].source_knowledge_id).relationships == [], "a proposal is not applied by itself"
    waiting = ana.list_relationships(status="proposed")
    assert [one.relationship_id for one in waiting] == [one.relationship_id for one in found]
    assert ana.decide_relationship(found[0].relationship_id, accept=True).outcome == "accepted"
    assert ana.decide_relationship(found[1].relationship_id, accept=False).outcome == "rejected"
    assert ana.discover_relationships() == []
    assert [one.status for one in ana.list_relationships()] == ["accepted", "rejected"]


def test_a_neighbourhood_comes_with_its_paths(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    app, library, compiler, note = record(ana, "app", "library", "compiler", "note")
    ana.relate(app, library, "depends_on", strength=0.5)
    ana.relate(compiler, library, "required_for", strength=0.5)
    ana.relate(note, app, "enhances")
    found = ana.neighborhood(app)
    assert [(one.title, one.depth) for one in found] == [
        ("app", 0),
        ("note", 1),
        ("library", 1),
        ("compiler", 2),
    ]
    last = found[-1]
    assert last.path == [app, library, compiler]
    assert last.path_titles == ["app", "library", "compiler"]
    assert last.relationship_types == ["depends_on", "required_for"]
    assert last.directions == ["outgoing", "incoming"]
    assert last.strength == 0.25
    assert [one.title for one in ana.neighborhood(app, max_depth=1, relationship_types=["enhances"])] == [
        "app",
        "note",
    ]
    graph = ana.graph(app)
    assert [(item.title, item.depth) for item in graph.items] == [(one.title, one.depth) for one in found]
    assert {(one.source_knowledge_id, one.target_knowledge_id) for one in graph.relationships} == {
        (app, library),
        (compiler, library),
        (note, app),
    }
    assert graph.items[0].content.startswith("About app.")
    whole = ana.graph(max_items=2)
    assert {item.knowledge_id for item in whole.items} <= {app, library}
    assert [one.relationship_type for one in whole.relationships] == ["depends_on"]


def test_a_session_relates_within_itself(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    with ana.session("graph") as session:
        one, other = record(session, "one", "other")  # type: ignore[arg-type]
        assert session.relate(one, other, "similar_to").outcome == "created"
        assert [item.depth for item in session.graph(one).items] == [0, 1]


@pytest.mark.parametrize("door", ["http"])
def test_a_dense_graph_stays_within_its_limits(enter: Enter, sign_up: SignUp, deployment: Deployment) -> None:
    """200 items, each related to every other: 19,900 relationships, and more paths than atoms."""
    ana = enter(sign_up("ana"))
    ids = record(ana, *(f"item {number}" for number in range(200)))
    with psycopg.connect(deployment.database_url) as connection:
        connection.execute("set local role service_role")
        connection.execute("set local statement_timeout = 0")
        connection.execute(
            "insert into public.knowledge_relationships (source_knowledge_id, target_knowledge_id,"
            " relationship_type) select a, b, 'enhances' from unnest(%s::uuid[]) with ordinality x (a, i)"
            " join unnest(%s::uuid[]) with ordinality y (b, j) on i < j",
            [ids, ids],
        )
    found = ana.neighborhood(ids[0], max_depth=3)
    assert sorted(one.knowledge_id for one in found) == sorted(ids), "each once"
    assert {one.depth for one in found} == {0, 1}
    assert len(ana.neighborhood(ids[7], max_depth=3, max_items=50)) == 50
    graph = ana.graph(ids[0], max_depth=3, max_relationships=500)
    assert (len(graph.items), len(graph.relationships)) == (200, 500)
    assert graph.relationships_left_out == 19_900 - 500
    ends = {end for one in graph.relationships for end in (one.source_knowledge_id, one.target_knowledge_id)}
    assert ends == set(ids), "each keeps some of its own"
