"""`kp remember|recall|show|rate`: knowledge from the command line."""

from __future__ import annotations

import json
from datetime import datetime  # noqa: TC003 - typer reads the annotations
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .connection import SessionOption, UrlOption, WorkspaceOption, open_client
from .output import JsonOption, bar, clean, emit_json, err, fail, out
from .records import piped_text

if TYPE_CHECKING:
    from knowledge_persistence.models import JSON, JSONObject, RecalledKnowledge

_SHOWN_LINES = 4
#: The arms of a search, in the order in which they are explained; the last only where it had something to say.
_ARMS = ("meaning", "words", "triggers", "relationships")
_ALWAYS = frozenset(_ARMS[:3])
_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z"]
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
    text = piped_text(exact=True) if content == "-" else content
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
    created_after: Annotated[
        datetime | None, typer.Option(formats=_MOMENTS, help="Only what was recorded from then on.")
    ] = None,
    created_before: Annotated[
        datetime | None, typer.Option(formats=_MOMENTS, help="Only what was recorded before.")
    ] = None,
    updated_after: Annotated[
        datetime | None, typer.Option(formats=_MOMENTS, help="Only what changed from then on.")
    ] = None,
    updated_before: Annotated[
        datetime | None, typer.Option(formats=_MOMENTS, help="Only what changed before.")
    ] = None,
    author: Annotated[
        str | None, typer.Option(help="Only items of this user (id; `kp whoami` shows yours).", metavar="ID")
    ] = None,
    recorded_in: Annotated[
        str | None, typer.Option(help="Only items recorded in this session (id or identifier).")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(help="Only items whose context holds this JSON object.", metavar="JSON"),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Not this item; repeatable.", metavar="ID")
    ] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of",
            formats=_MOMENTS,
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
    rerank: Annotated[
        bool | None,
        typer.Option(
            "--rerank/--no-rerank", help="Let the reranker of KP_RERANKER order what is found, or not."
        ),
    ] = None,
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
    text = piped_text() if query == "-" else query
    if not text.strip():
        fail("there is nothing to look for: the query is blank", _USAGE)
    held = _json_object(context)
    with open_client(url=url, workspace=workspace, session=session, embeds=True) as client:
        find = client.search if no_log else client.recall
        in_session = None if recorded_in is None else client.get_session(recorded_in).id
        found = find(
            text.strip(),
            max_results=limit,
            knowledge_types=[one.value for one in kind] if kind else None,
            categories=category,
            project_context=project,
            validation_statuses=[one.value for one in status] if status else None,
            tags=tag,
            min_importance=min_importance,
            created_after=_moment(created_after),
            created_before=_moment(created_before),
            updated_after=_moment(updated_after),
            updated_before=_moment(updated_before),
            author=author,
            recorded_in=in_session,
            context_data=held,
            exclude_ids=exclude,
            as_of=_moment(as_of),
            max_tokens=max_tokens,
            after_cursor=after,
            rerank=rerank,
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


def _moment(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone()


def _json_object(text: str | None) -> JSONObject | None:
    if text is None:
        return None
    try:
        value: object = json.loads(text)
    except ValueError as error:
        fail(f"--context is not JSON: {error}", _USAGE)
    if not isinstance(value, dict):
        fail('--context is a JSON object, such as {"service": "api"}', _USAGE)
    return cast("JSONObject", value)


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
    told = [_parts(item.explanation) for item in found]
    arms = [arm for arm in _ARMS if arm in _ALWAYS or any(isinstance(one.get(arm), dict) for one in told)]
    reranked = any(item.rerank_score is not None for item in found)
    table = Table("", "title", *arms, "beside", "factor", "score", *(["reranked"] if reranked else []))
    for number, (item, parts) in enumerate(zip(found, told, strict=True), 1):
        cells = [_cell(_parts(parts.get(arm))) for arm in arms]
        cells += [_number(parts.get("neighbour")), _number(parts.get("factor")), f"{item.score:.2f}"]
        if reranked:
            cells.append(_number(item.rerank_score))
        table.add_row(str(number), clean(item.title), *cells)
    out.print(table)
    times = _parts(told[0].get("milliseconds"))
    known = [arm for arm in _ARMS if arm in times]
    spent = ", ".join(f"{arm} {times[arm]} ms" for arm in (*known, *(times.keys() - set(known))))
    out.print(Text(f"Each arm: its score, and the result's rank in it. Time: {spent}.", style="dim"))


def _number(value: JSON) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else ""


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
