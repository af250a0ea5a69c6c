"""Relationships through the client and the command line: what is refused first, then the walk and the picture."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from knowledge_persistence import (
    ConflictError,
    GraphItem,
    GraphRelationship,
    InvalidArgumentError,
    KnowledgeGraph,
    NewKnowledge,
    NotFoundError,
    PermissionDeniedError,
    connect,
)
from knowledge_persistence.graph_page import to_dot, to_html

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Deployment, Person, Printed
    from knowledge_persistence import KnowledgeClient

    Enter = Callable[..., KnowledgeClient]
    SignUp = Callable[..., Person]
    Command = Callable[..., Printed]

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
TYPES = ("depends_on", "enhances", "contradicts", "builds_upon", "required_for", "similar_to")
HOSTILE = '</script><script>document.documentElement.dataset.owned="yes"</script>'

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
    """100 items, each related to every other: 4,950 relationships, and more paths than atoms."""
    ana = enter(sign_up("ana"))
    ids = record(ana, *(f"item {number}" for number in range(100)))
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
    assert (len(graph.items), len(graph.relationships)) == (100, 500)
    assert graph.relationships_left_out == 4_950 - 500
    ends = {end for one in graph.relationships for end in (one.source_knowledge_id, one.target_knowledge_id)}
    assert ends == set(ids), "each keeps some of its own"


# The picture


def drawing(items: int, title: str = "The middle", content: str = "Told.") -> KnowledgeGraph:
    """Make a graph of hubs and spokes."""
    return KnowledgeGraph(
        items=[
            GraphItem(
                knowledge_id=UUID(int=number + 1),
                title=f"Item {number}, which has a title of some length" if number else title,
                content=content,
                knowledge_type="factual",
                category="general",
                validation_status="validated" if number % 4 else "pending",
                importance_score=1 + number * 37 % 100,
                created_at=datetime(2026, 11, 1, tzinfo=UTC),
                depth=min(number, 2),
            )
            for number in range(items)
        ],
        relationships=[
            GraphRelationship(
                relationship_id=UUID(int=10_000 + number),
                source_knowledge_id=UUID(int=number + 1),
                target_knowledge_id=UUID(int=number // 7 + 1),
                relationship_type=TYPES[number % 6],
                strength=0.5,
            )
            for number in range(1, items)
        ],
        relationships_left_out=3,
    )


class Page(HTMLParser):
    """Read a page as a browser's parser does: which elements it has, and what is in its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._open = ""
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag == self._open else self._open

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        else:
            self.words += data


@pytest.mark.parametrize(
    "title", [HOSTILE, "<!--", "{{scripts}} \\u003c &amp; \u2028'\"", "<img src=x onerror=alert(1)>"]
)
def test_no_text_of_an_item_becomes_part_of_the_page(title: str) -> None:
    page = Page(to_html(drawing(2, title, content=title * 2), title=f"Around: {title}"))
    data = [text for attributes, text in page.scripts if attributes.get("type") == "application/json"]
    code = [text for attributes, text in page.scripts if not attributes]
    assert (len(data), len(code), len(page.scripts)) == (1, 5, 6)
    told = json.loads(data[0])
    assert (told["items"][0]["title"], told["items"][0]["content"]) == (title, title * 2)
    assert f"Around: {title}" in page.words
    assert [tag for tag, _ in page.tags if tag in {"img", "iframe", "link", "object"}] == []


def test_the_page_fetches_nothing_and_runs_nothing_else() -> None:
    page = Page(to_html(drawing(3), title="Everything"))
    for _, attributes in page.tags:
        assert not attributes.keys() & {"src", "href", "action", "data", "srcset"}
        assert not [name for name in attributes if name.startswith("on")]
    [policy] = [
        attributes["content"]
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    allowed = {
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for attributes, text in page.scripts
        if not attributes
    }
    assert set(rules["script-src"].split()) == allowed
    assert all("Permission is hereby granted" in text for _, text in page.scripts[1:5]), "their licence"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_draws_200_items_and_shows_one(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    file = tmp_path / "graph.html"
    file.write_text(to_html(drawing(200, HOSTILE, content="A tale. " + HOSTILE), title=HOSTILE), "utf-8")
    shown = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=60000", "--dump-dom", f"{file.as_uri()}#{UUID(int=1)}",
        ],
        capture_output=True, text=True, check=True, timeout=240,
    ).stdout  # fmt: skip
    assert 'data-drawn="yes"' in shown
    assert "data-owned" not in shown
    assert "200 items, 199 relationships; 3 weaker ones are left out" in shown
    escaped = HOSTILE.replace("<", "&lt;").replace(">", "&gt;")
    assert f'<p class="text">A tale. {escaped}</p>' in shown, "the item that the address names is open"
    assert "Item 3, which has a title of some length" in shown, "with what is related to it"


def test_dot_quotes_every_text() -> None:
    title = 'He said "C:\\new"];\nevil\x1b\u202e [label="x'
    lines = to_dot(drawing(3, title)).splitlines()
    assert lines[0] == "digraph knowledge {"
    assert lines[-1] == "}"
    assert lines[2] == (
        f'  "{UUID(int=1)}" [label="He said \\"C:\\\\new\\"]; evil [label=\\"x", knowledge_type="factual",'
        ' validation_status="pending"];'
    )
    assert (
        lines[5] == f'  "{UUID(int=2)}" -> "{UUID(int=1)}" [label="enhances", weight="0.5", penwidth="1.5"];'
    )
    assert lines[6].endswith('[label="contradicts", weight="0.5", penwidth="1.5", dir="none"];')


# The command line


def test_the_command_relates_walks_and_exports(
    sign_up: SignUp, command: Command, tmp_path: Path, opened: list[KnowledgeClient]
) -> None:
    ana, eve = sign_up("ana"), sign_up("eve")
    opened.append(connect(**ana.arguments("http"), embedder=None))
    roof, walls, cloud = record(opened[0], "roof", "walls [bold]", "cloud")
    foreign = command(eve, "relate", str(roof), str(walls), "--type", "depends_on")
    assert (foreign.code, foreign.out) == (1, "")
    assert "no such knowledge item" in foreign.err
    assert command(eve, "graph", "show", str(roof)).code == 1
    assert command(ana, "relate", str(roof), str(walls), "--type", "loves").code == 2
    assert command(ana, "graph", "export", "--dot", "--json").code == 2

    related = command(ana, "relate", str(roof), str(walls), "--type", "depends_on")
    assert (related.code, related.err.strip()) == (0, "Related.")
    circle = command(ana, "relate", str(walls), str(roof), "--type", "depends_on")
    assert (circle.code, circle.out) == (1, "")
    assert '"walls [bold]" needs "roof" needs "walls [bold]"' in circle.err
    assert command(ana, "relate", str(cloud), str(roof), "--type", "enhances", "--json").json["strength"] == 1

    shown = command(ana, "graph", "show", str(walls))
    assert [line.split("  0.")[0].rstrip() for line in shown.out.splitlines()] == [
        f"walls [bold]  {walls}",
        f"  ← depends on roof  {roof}",
        f"    ← enhances cloud  {cloud}",
    ]
    exported = command(ana, "graph", "export", str(roof), "--depth", "1").json
    assert {item["title"] for item in exported["items"]} == {"roof", "walls [bold]", "cloud"}
    assert f'"{roof}" -> "{walls}"' in command(ana, "graph", "export", "--dot").out
    page = tmp_path / "graph.html"
    drawn = command(ana, "graph", "export", str(roof), "--html", str(page))
    assert (drawn.code, drawn.out.strip()) == (0, str(page))
    assert "walls [bold]" in page.read_text()
    assert command(eve, "graph", "export", "--html", str(tmp_path / "hers.html")).code == 1
    assert not (tmp_path / "hers.html").exists()

    assert command(eve, "graph", "remove", related.out.strip()).code == 1
    assert command(ana, "graph", "remove", related.out.strip()).code == 0
    assert len(command(ana, "graph", "show", str(roof), "--json").json) == 2


def test_the_command_proposes_and_decides(
    sign_up: SignUp, command: Command, opened: list[KnowledgeClient]
) -> None:
    ana = sign_up("ana")
    opened.append(connect(**ana.arguments("http"), embedder=None))
    opened[0].remember_many(
        [
            NewKnowledge(title="Cache size", content="The cache holds 256 MB."),
            NewKnowledge(title="Cache size", content="The cache holds 512 MB."),
        ]
    )
    found = command(ana, "graph", "discover")
    assert "Cache size contradicts Cache size" in found.out
    assert "one says" in found.out
    [waiting] = command(ana, "graph", "proposals", "--json").json
    decided = command(ana, "graph", "reject", waiting["relationship_id"])
    assert decided.out.strip() == f"{waiting['relationship_id']} rejected"
    assert command(ana, "graph", "proposals").out == ""
    assert command(ana, "graph", "discover", "--json").json == []
    assert (
        command(ana, "graph", "accept", waiting["relationship_id"], "--json").json[0]["status"] == "accepted"
    )


def test_the_how_to_does_what_it_says(do_page: Callable[[Person, str], str], sign_up: SignUp) -> None:
    said = do_page(sign_up("ana"), "relate-knowledge")
    assert '"Connection limit" needs "The API\'s pool" needs "Connection limit"' in said
    assert "refused" in said
    assert "3 items and 2 relationships" in said
    assert "The API's pool contradicts The API's pool" in said
    assert "one says 50 where the other says 20" in said
    assert " accepted" in said
    assert "1 Connection limit > The API's pool" in said
