"""`kp relate` and `kp graph`: how items stand to each other."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from .connection import SessionOption, UrlOption, WorkspaceOption, open_client
from .intervals import EveryOption, NeverOption, chosen_interval, in_words
from .output import JsonOption, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from knowledge_persistence.models import KnowledgeGraph, KnowledgeNeighbor, RelationshipType

_USAGE = 2


class Relation(StrEnum):
    """Relationship types."""

    depends_on = "depends_on"
    enhances = "enhances"
    contradicts = "contradicts"
    builds_upon = "builds_upon"
    required_for = "required_for"
    similar_to = "similar_to"


ItemId = Annotated[str, typer.Argument(help="The item's id, as recall shows it.", metavar="ID")]
AroundId = Annotated[
    str | None, typer.Argument(help="An item's id; left out: the whole workspace.", metavar="[ID]")
]
RelationshipIds = Annotated[
    list[str], typer.Argument(help="Relationships, as proposals shows them.", metavar="RELATIONSHIP…")
]
TypeOption = Annotated[
    list[Relation] | None, typer.Option("--type", help="Only over this type of relationship; repeatable.")
]
DepthOption = Annotated[int, typer.Option("--depth", "-d", min=1, max=20, help="So many steps at most.")]
ItemsOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="So many items at most.")]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("relate", rich_help_panel="Knowledge")(relate)
    group = typer.Typer(
        no_args_is_help=True, help="How items stand to each other: walk it, draw it, decide it."
    )
    group.command("show")(show)
    group.command("export")(export)
    group.command("discover")(discover)
    group.command("schedule")(schedule)
    group.command("proposals")(proposals)
    group.command("accept")(accept)
    group.command("reject")(reject)
    group.command("remove")(remove)
    app.add_typer(group, name="graph", rich_help_panel="Knowledge")


def relate(
    source: Annotated[str, typer.Argument(help="The item that it is said of.", metavar="SOURCE")],
    target: Annotated[str, typer.Argument(help="The item that it points at.", metavar="TARGET")],
    *,
    kind: Annotated[Relation, typer.Option("--type", help='How: "SOURCE depends_on TARGET".')],
    strength: Annotated[float, typer.Option(min=0, max=1, help="How strong it is, 0 to 1.")] = 1.0,
    context: Annotated[str | None, typer.Option(help="What there is to say about it.")] = None,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how one item stands to another. Dependencies in a circle are refused."""
    with open_client(url=url, workspace=workspace, session=session) as client:
        related = client.relate(source, target, kind.value, strength=strength, relationship_context=context)
    if as_json:
        emit_json(related)
        return
    out.print(str(related.relationship_id))
    err.print(
        {
            "created": "Related.",
            "updated": "It was there already, and is updated.",
            "accepted": "It was proposed already, and is accepted.",
        }.get(related.outcome, "It was there already.")
    )


def show(
    knowledge_id: ItemId,
    *,
    depth: DepthOption = 2,
    kind: TypeOption = None,
    limit: ItemsOption = 50,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is around an item, as a tree of shortest paths."""
    with open_client(url=url, workspace=workspace, session=session) as client:
        found = client.neighborhood(
            knowledge_id, max_depth=depth, relationship_types=_types(kind), max_items=limit
        )
    if as_json:
        emit_json(found)
        return
    _print_tree(found)
    if len(found) == 1:
        err.print("Nothing is related to it yet: `kp relate` relates, `kp graph discover` proposes.")
    elif len(found) == limit:
        err.print(f"These are {limit} items; there may be more: --limit shows more.")


def _print_tree(found: Sequence[KnowledgeNeighbor]) -> None:
    below: dict[str, list[KnowledgeNeighbor]] = {}
    for one in found[1:]:
        below.setdefault(str(one.path[-2]), []).append(one)

    def draw(one: KnowledgeNeighbor, indent: int) -> None:
        line = Text("  " * indent)
        if one.relationship_types:
            word = one.relationship_types[-1].replace("_", " ")
            line.append(f"{word} → " if one.directions[-1] == "outgoing" else f"← {word} ", style="cyan")
        line.append(clean(one.title), style="bold" if indent == 0 else "")
        line.append(f"  {one.knowledge_id}", style="dim")
        out.print(line, soft_wrap=True)
        for child in below.get(str(one.knowledge_id), []):
            draw(child, indent + 1)

    draw(found[0], 0)


def export(
    knowledge_id: AroundId = None,
    *,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", help="Write a picture to explore into this file.", dir_okay=False, metavar="FILE"
        ),
    ] = None,
    dot: Annotated[bool, typer.Option("--dot", help="Print DOT, Graphviz' language.")] = False,
    depth: DepthOption = 2,
    kind: TypeOption = None,
    limit: ItemsOption = 200,
    relationships: Annotated[
        int, typer.Option("--relationships", min=1, max=10000, help="So many relationships at most.")
    ] = 2000,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output (the default).")
    ] = False,
) -> None:
    """Export items and the relationships between them: as JSON, as DOT, or as one HTML page to explore.

    The page holds everything it needs and fetches nothing. The library that draws it is fetched once, with npm.
    """
    if (html is not None) + dot + as_json > 1:
        fail("choose one of --html, --dot and --json", _USAGE)
    with open_client(url=url, workspace=workspace, session=session) as client:
        graph = client.graph(
            knowledge_id,
            max_depth=depth,
            relationship_types=_types(kind),
            max_items=limit,
            max_relationships=relationships,
        )
    if html is not None:
        _write_page(graph, html, around=knowledge_id)
    elif dot:
        from knowledge_persistence.graph_page import to_dot  # noqa: PLC0415

        out.file.write(to_dot(graph))
    else:
        emit_json(graph)
    if graph.relationships_left_out:
        err.print(
            f"{graph.relationships_left_out} weaker relationships are left out: --relationships takes more."
        )


def _write_page(graph: KnowledgeGraph, file: Path, *, around: str | None) -> None:
    from knowledge_persistence.graph_page import to_html  # noqa: PLC0415

    if not graph.items:
        fail("there is nothing to draw: no items are related yet")
    title = f"Around: {graph.items[0].title}" if around else "How everything is related"
    with err.status("Drawing") as status:
        page = to_html(graph, title=title, progress=status.update)
    try:
        file.write_text(page, "utf-8")
    except OSError as error:
        fail(f"{file} can't be written: {error}")
    out.print(str(file), soft_wrap=True)
    err.print(f"{len(graph.items)} items and {len(graph.relationships)} relationships: open it in a browser.")


def discover(
    knowledge_id: AroundId = None,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="So many at most.")] = 20,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for items that are alike or contradict each other. What is found is proposed, not applied."""
    with open_client(url=url, workspace=workspace, session=session) as client:
        found = client.discover_relationships(knowledge_id, max_proposals=limit)
    if as_json:
        emit_json(found)
        return
    for one in found:
        _print_proposal(
            str(one.relationship_id),
            one.source_title,
            one.relationship_type,
            one.target_title,
            one.strength,
            one.reason,
        )
    if not found:
        err.print("Nothing new was found.")


def schedule(
    *,
    every: EveryOption = None,
    never: NeverOption = False,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the worker look for relationships now and then: every day, unless you say otherwise. For maintainers."""
    run_every = chosen_interval(every, never)
    with open_client(url=url, workspace=workspace) as client:
        scheduled = client.schedule_discovery(run_every)
    if as_json:
        emit_json(scheduled)
    elif scheduled.run_every is None or scheduled.next_run_at is None:
        err.print("The worker looks for none any more.")
    else:
        err.print(
            f"The worker looks {in_words(scheduled.run_every)}, next {scheduled.next_run_at:%Y-%m-%d %H:%M}."
        )


def proposals(
    knowledge_id: AroundId = None,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="So many at most.")] = 50,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the relationships that wait for somebody to accept or reject them."""
    with open_client(url=url, workspace=workspace, session=session) as client:
        found = client.list_relationships(knowledge_id, status="proposed", max_results=limit)
    if as_json:
        emit_json(found)
        return
    for one in found:
        _print_proposal(
            str(one.relationship_id), one.source_title, one.relationship_type, one.target_title, one.strength,
            one.reason or one.relationship_context or "",
        )  # fmt: skip
    if not found:
        err.print("Nothing waits for a decision: `kp graph discover` looks for more.")


def _print_proposal(
    relationship: str, source: str, kind: str, target: str, strength: float, reason: str
) -> None:
    line = Text(clean(source), style="bold")
    line.append(f" {kind.replace('_', ' ')} ", style="red" if kind == "contradicts" else "cyan")
    line.append(clean(target))
    line.append(f"  {strength:.2f}", style="dim")
    out.print(line, soft_wrap=True)
    if reason:
        out.print(Text(f"  why: {clean(reason)}", style="dim"), soft_wrap=True)
    out.print(Text(f"  id:  {relationship}", style="dim"))
    out.print()


def accept(
    relationships: RelationshipIds,
    *,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Accept what was proposed: from then on it is a relationship."""
    _decide(relationships, accept=True, workspace=workspace, url=url, as_json=as_json)


def reject(
    relationships: RelationshipIds,
    *,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reject what was proposed. It is not proposed again."""
    _decide(relationships, accept=False, workspace=workspace, url=url, as_json=as_json)


def _decide(
    relationships: list[str], *, accept: bool, workspace: str | None, url: str | None, as_json: bool
) -> None:
    with open_client(url=url, workspace=workspace) as client:
        decided = [client.decide_relationship(one, accept=accept) for one in relationships]
    if as_json:
        emit_json(decided)
        return
    for one in decided:
        out.print(f"{one.relationship_id} {one.status}")


def remove(
    relationship: Annotated[str, typer.Argument(help="The relationship, as relate printed it.")],
    *,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
) -> None:
    """Take a relationship out. For who stated it and for maintainers."""
    with open_client(url=url, workspace=workspace) as client:
        client.remove_relationship(relationship)
    err.print("Removed.")


def _types(kinds: list[Relation] | None) -> list[RelationshipType] | None:
    return [one.value for one in kinds] if kinds else None
