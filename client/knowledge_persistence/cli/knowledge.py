"""`kp remember|recall|show|rate`: knowledge from the command line."""

from __future__ import annotations

import sys
from datetime import datetime  # noqa: TC003 - typer reads the annotations
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .connection import SessionOption, UrlOption, WorkspaceOption, open_client
from .output import JsonOption, bar, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from knowledge_persistence.models import JSON, JSONObject, RecalledKnowledge

_SHOWN_LINES = 4
_USAGE = 2


class Kind(StrEnum):
    """Knowledge types."""

    factual = "factual"
    procedural = "procedural"
    contextual = "contextual"
    relational = "relational"
    experiential = "experiential"
    technical_discovery = "technical_discovery"


class Status(StrEnum):
    """Validation statuses."""

    pending = "pending"
    validated = "validated"
    needs_update = "needs_update"
    deprecated = "deprecated"


_STYLES = {"validated": "green", "pending": "yellow", "needs_update": "magenta", "deprecated": "red"}

KnowledgeId = Annotated[str, typer.Argument(help="The item's id, as recall shows it.", metavar="ID")]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("remember", rich_help_panel="Knowledge")(remember)
    # A flag is a thing to look up: what is no option of ours is the query, as if `--` stood before it.
    app.command("recall", rich_help_panel="Knowledge", context_settings={"ignore_unknown_options": True})(
        recall
    )
    app.command("show", rich_help_panel="Knowledge")(show)
    app.command("rate", rich_help_panel="Knowledge")(rate)


def remember(
    content: Annotated[
        str, typer.Argument(help="What was learned; - reads it from standard input.", metavar="TEXT")
    ],
    *,
    title: Annotated[
        str | None, typer.Option(help="One line that says what it is about; else the first sentence.")
    ] = None,
    kind: Annotated[Kind, typer.Option("--type", help="What kind of knowledge it is.")] = Kind.factual,
    category: Annotated[str, typer.Option(help="A word to sort by.")] = "general",
    trigger: Annotated[
        list[str] | None,
        typer.Option("--trigger", "-t", help="A word, code or phrase that should bring it up; repeatable."),
    ] = None,
    importance: Annotated[int, typer.Option(min=1, max=100, help="How important it is.")] = 50,
    project: Annotated[str | None, typer.Option(help="The project it belongs to (KP_PROJECT).")] = None,
    language: Annotated[
        str | None,
        typer.Option(
            help="Its text search configuration (german, simple); else that of the language it is plainly "
            "written in, or the workspace's."
        ),
    ] = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="Make its vector now, instead of leaving that to the worker.")
    ] = False,
    allow_credentials: Annotated[
        bool, typer.Option("--allow-credentials", help="Take the text though it looks like it holds one.")
    ] = False,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record something that was learned. The same text is kept once."""
    text = sys.stdin.read() if content == "-" else content
    if not text.strip():
        fail("there is nothing to remember: the text is blank", _USAGE)
    with open_client(url=url, workspace=workspace, session=session, embeds=embed) as client:
        recorded = client.remember(
            text.strip(),
            title=title,
            knowledge_type=kind.value,
            category=category,
            retrieval_triggers=trigger,
            importance_score=importance,
            project_context=project,
            text_search_config=language,
            embed=embed,
            allow_credentials=allow_credentials,
        )
    if as_json:
        emit_json(recorded)
        return
    out.print(str(recorded.knowledge_id))
    if recorded.outcome == "duplicate":
        err.print("Known already.")
    elif recorded.validation_status == "pending":
        err.print(
            "Remembered. It is yours alone until it is validated: `kp validate item` shows it to the workspace.",
            soft_wrap=True,
        )
    else:
        err.print("Remembered.")


def recall(
    query: Annotated[
        str, typer.Argument(help="A question, keywords or an error message; - reads standard input.")
    ],
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="So many at most.")] = 5,
    kind: Annotated[
        list[Kind] | None, typer.Option("--type", help="Only this kind of knowledge; repeatable.")
    ] = None,
    category: Annotated[list[str] | None, typer.Option(help="Only this category; repeatable.")] = None,
    project: Annotated[str | None, typer.Option(help="The project at hand.")] = None,
    status: Annotated[list[Status] | None, typer.Option(help="Only this status; repeatable.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Only items with this trigger; repeatable.")
    ] = None,
    min_importance: Annotated[
        int | None, typer.Option(min=1, max=100, help="Only items at least this important.")
    ] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S"],
            help="Answer as it would have been then; without an offset in this machine's time zone.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Leave out what doesn't fit into so many tokens.")
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", help="Continue after the result with this cursor (see --json).")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show the whole texts.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each arm of the search says, as a table.")
    ] = False,
    no_log: Annotated[
        bool, typer.Option("--no-log", help="Only search: don't count it as an access.")
    ] = False,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what is known about something, the best first, with the reason why."""
    text = sys.stdin.read() if query == "-" else query
    if not text.strip():
        fail("there is nothing to look for: the query is blank", _USAGE)
    with open_client(url=url, workspace=workspace, session=session, embeds=True) as client:
        find = client.search if no_log else client.recall
        found = find(
            text.strip(),
            max_results=limit,
            knowledge_types=[one.value for one in kind] if kind else None,
            categories=category,
            project_context=project,
            validation_statuses=[one.value for one in status] if status else None,
            tags=tag,
            min_importance=min_importance,
            as_of=as_of.astimezone() if as_of else None,
            max_tokens=max_tokens,
            after_cursor=after,
            explain=explain,
        )
    if as_json:
        emit_json(found)
        return
    if explain and found:
        _print_explained(found)
    else:
        for item in found:
            _print_found(item, full=full)
    if not found:
        err.print("Nothing known about that.")


def _print_found(item: RecalledKnowledge, *, full: bool) -> None:
    head = Text()
    head.append(bar(item.score), style="cyan")
    head.append(f" {item.score:.2f}  ")
    head.append(clean(item.title), style="bold")
    head.append(f"  {item.validation_status}", style=_STYLES.get(item.validation_status, ""))
    out.print(head, soft_wrap=True)
    lines = clean(item.content).strip().splitlines()
    body = lines if full else lines[:_SHOWN_LINES]
    text = Text("\n".join(body))
    if not full and len(lines) > len(body):
        text.append(" …")
    out.print(Padding(text, (0, 0, 0, 2)))
    out.print(Text(f"  why: {clean(item.relevance_reason)}", style="dim"), soft_wrap=True)
    out.print(Text(f"  id:  {item.knowledge_id}", style="dim"))
    out.print()


def _print_explained(found: list[RecalledKnowledge]) -> None:
    arms = ("meaning", "words", "triggers")
    table = Table("", "title", *arms, "beside", "factor", "score")
    for number, item in enumerate(found, 1):
        told = _parts(item.explanation)
        cells = [_cell(_parts(told.get(arm))) for arm in arms]
        neighbour, factor = told.get("neighbour"), told.get("factor")
        numbers = [f"{x:.2f}" if isinstance(x, (int, float)) else "" for x in (neighbour, factor)]
        table.add_row(str(number), clean(item.title), *cells, *numbers, f"{item.score:.2f}")
    out.print(table)
    times = _parts(_parts(found[0].explanation).get("milliseconds"))
    spent = ", ".join(f"{arm} {times[arm]} ms" for arm in arms if arm in times)
    out.print(Text(f"Each arm: its score, and the result's rank in it. Time: {spent}.", style="dim"))


def _cell(arm: JSONObject) -> str:
    score = arm.get("similarity", arm.get("share", arm.get("score")))
    return f"{score:.2f} #{arm['rank']}" if isinstance(score, (int, float)) else ""


def _parts(value: JSON) -> JSONObject:
    return value if isinstance(value, dict) else {}


def show(
    knowledge_id: KnowledgeId,
    *,
    workspace: WorkspaceOption = None,
    session: SessionOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one item, whole."""
    with open_client(url=url, workspace=workspace, session=session) as client:
        item = client.get(knowledge_id)
    if as_json:
        emit_json(item)
        return
    out.print(Text(clean(item.title), style="bold"), soft_wrap=True)
    out.print(clean(item.content), soft_wrap=True)
    out.print()
    ratings = (
        f"{item.rating_sum / item.rating_count:.1f} of 10 ({item.rating_count})"
        if item.rating_count
        else "none"
    )
    for name, value in (
        ("id", item.id),
        ("status", item.validation_status),
        ("type", item.knowledge_type),
        ("category", item.category),
        ("project", item.project_context),
        ("triggers", ", ".join(item.retrieval_triggers or []) or None),
        ("importance", item.importance_score),
        ("recorded", f"{item.created_at:%Y-%m-%d %H:%M %Z}"),
        ("recalled", f"{item.access_count} times"),
        ("ratings", ratings),
        ("embedded by", item.embedding_model or "nobody yet"),
        ("superseded by", item.superseded_by),
    ):
        if value is not None:
            out.print(Text(f"{name + ':':14} {clean(str(value))}", style="dim"), soft_wrap=True)


def rate(
    knowledge_id: KnowledgeId,
    *,
    rating: Annotated[
        int | None, typer.Option("--rating", "-r", min=1, max=10, help="How much it helped, 1 to 10.")
    ] = None,
    worked: Annotated[
        bool | None, typer.Option("--worked/--failed", help="Whether applying it worked.")
    ] = None,
    notes: Annotated[str | None, typer.Option(help="What there is to add.")] = None,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how much an item helped; that moves its rank."""
    if rating is None and worked is None:
        fail("say how much it helped: --rating 1..10, --worked or --failed", _USAGE)
    with open_client(url=url, workspace=workspace, session=session) as client:
        rated = client.rate(
            knowledge_id, effectiveness_rating=rating, application_success=worked, notes=notes
        )
    if as_json:
        emit_json(rated)
        return
    average = "" if rated.average_rating is None else f"{rated.average_rating:.1f} of 10, "
    out.print(
        f"{average}{rated.rating_count} ratings; worked {rated.success_count} times, "
        f"failed {rated.failure_count} times"
    )
