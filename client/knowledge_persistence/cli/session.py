"""`kp session …`: working sessions, what one tells the next, and where old ones go."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table
from rich.text import Text

from knowledge_persistence.models import to_json

from .connection import SessionOption, UrlOption, WorkspaceOption, load_settings, open_client
from .output import JsonOption, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from datetime import timedelta

    from knowledge_persistence.models import ArchivedMonth, Session

_USAGE = 2


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    group = typer.Typer(
        no_args_is_help=True, help="Working sessions: what is recorded in one belongs together."
    )
    group.command("start")(start)
    group.command("end")(end)
    group.command("list")(list_sessions)
    group.command("show")(show)
    group.command("brief")(brief)
    group.command("breakthrough")(breakthrough)
    group.command("archive")(archive)
    group.command("restore")(restore)
    app.add_typer(group, name="session", rich_help_panel="Knowledge")


def start(
    identifier: Annotated[
        str | None, typer.Argument(help="Its name, by which it is resumed; left out, one is made.")
    ] = None,
    *,
    project: Annotated[str | None, typer.Option(help="The project it is about (KP_PROJECT).")] = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a session, or resume the one of this name. Nothing is kept here: name it with --session or KP_SESSION."""
    with open_client(url=url, workspace=workspace, session=False) as client:
        started = client.start_session(identifier, project=project)
    if as_json:
        emit_json(started)
        return
    out.print(clean(started.session_identifier), soft_wrap=True)
    err.print("Resumed." if started.resumed else "Started.", end=" ")
    export = f"export KP_SESSION={shlex.quote(clean(started.session_identifier))}"
    err.print(f"Work in it with: {export}", markup=False, soft_wrap=True)


def end(
    session: Annotated[
        str | None, typer.Argument(help="Its identifier or id; left out, KP_SESSION says.")
    ] = None,
    *,
    summary: Annotated[str | None, typer.Option(help="What is to be remembered of it.")] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="How well it went; else computed.")
    ] = None,
    feedback: Annotated[str | None, typer.Option(help="What the user said of it.")] = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a session and say what it did."""
    name = session or load_settings(url).session
    if name is None:
        fail("which session? Name it, or set KP_SESSION", _USAGE)
    with open_client(url=url, workspace=workspace, session=False) as client:
        ended = client.end_session(name, quality_score=quality, user_feedback=feedback, summary=summary)
    if as_json:
        emit_json(ended)
        return
    out.print(
        f"{clean(ended.session_identifier)}: {_duration(ended.session_duration)}, "
        f"{ended.knowledge_items_created} recorded, {ended.knowledge_items_accessed} recalled, "
        f"{ended.breakthrough_moments} breakthrough{'' if ended.breakthrough_moments == 1 else 's'}"
        + ("" if ended.session_quality_score is None else f", quality {ended.session_quality_score}"),
        soft_wrap=True,
    )


def list_sessions(
    *,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="So many at most.")] = 20,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the sessions that you may see, the latest first."""
    with open_client(url=url, workspace=workspace, session=False) as client:
        found = client.list_sessions(project=project, limit=limit)
    if as_json:
        emit_json(found)
        return
    if not found:
        err.print("No sessions yet: `kp session start` starts one.")
        return
    table = Table(
        *("session", "project", "started", "lasted", "recorded", "recalled", "quality"),
        box=None,
        pad_edge=False,
    )
    for one in found:
        table.add_row(
            Text(clean(one.session_identifier)),
            Text(clean(one.project_context or "")),
            f"{one.start_time:%Y-%m-%d %H:%M}",
            _lasted(one),
            str(one.knowledge_items_created),
            str(one.knowledge_items_accessed),
            "" if one.session_quality_score is None else str(one.session_quality_score),
        )
    out.print(table)


def show(
    session: Annotated[str, typer.Argument(help="Its identifier or id.")],
    *,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one session, and what happened in it."""
    with open_client(url=url, workspace=workspace, session=False) as client:
        one = client.get_session(session)
        events = client.session_timeline(one.id)
    if as_json:
        emit_json({**cast("dict[str, object]", to_json(one)), "timeline": events})
        return
    out.print(Text(clean(one.session_identifier), style="bold"), soft_wrap=True)
    for name, value in (
        ("id", one.id),
        ("workspace", one.workspace_id),
        ("project", one.project_context),
        ("started", f"{one.start_time:%Y-%m-%d %H:%M:%S %Z}"),
        ("lasted", _lasted(one)),
        ("recorded", one.knowledge_items_created),
        ("recalled", one.knowledge_items_accessed),
        ("breakthroughs", one.breakthrough_moments),
        ("quality", one.session_quality_score),
        ("summary", one.summary),
        ("feedback", one.user_feedback),
    ):
        if value is not None:
            out.print(Text(f"{name + ':':14} {clean(str(value))}"), soft_wrap=True)
    out.print()
    for event in events:
        said = " - ".join(clean(" ".join(part.split())) for part in (event.title, event.detail) if part)
        out.print(
            Text(f"{event.happened_at:%Y-%m-%d %H:%M:%S}  {event.event:12} {said}".rstrip()), soft_wrap=True
        )


def brief(
    *,
    project: Annotated[str | None, typer.Option(help="What is of this project (KP_PROJECT).")] = None,
    situation: Annotated[
        str | None, typer.Option(help="What is about to be done: then what bears on that comes first.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=100, max=1_000_000, help="So long at most, estimated.")
    ] = 2000,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what the next session needs: last outcomes, decisions, open problems, the best knowledge. For a prompt."""
    with open_client(url=url, workspace=workspace, session=session, embeds=situation is not None) as client:
        made = client.resume_brief(project, max_tokens=max_tokens, situation=situation)
    if as_json:
        emit_json(made)
        return
    if not made.text:
        err.print("Nothing is known yet: `kp remember` records something.")
        return
    out.print(Text(clean(made.text)), soft_wrap=True)
    err.print(f"About {made.tokens} of {max_tokens} tokens.")


def breakthrough(
    knowledge_id: Annotated[str, typer.Argument(help="The item's id.")],
    *,
    context: Annotated[str | None, typer.Option(help="What was being done.")] = None,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mark an item as a breakthrough of the session."""
    with open_client(url=url, workspace=workspace, session=session) as client:
        marked = client.mark_breakthrough(knowledge_id, learning_context=context)
    if as_json:
        emit_json(marked)
        return
    out.print(f"{marked.outcome}: {marked.breakthrough_moments} in this session")


MonthArgument = Annotated[str, typer.Argument(help="A month, like 2026-01 (UTC).")]


def archive(
    month: MonthArgument,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much that is.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a month's sessions and their links out of the live tables. Knowledge stays. Needs the secret key."""
    with open_client(url=url, session=False, service_role=True) as client:
        done = client.archive_sessions(month, dry_run=dry_run)
    _tell_month(done, as_json=as_json)
    if not as_json and done.outcome == "archived":
        err.print(f"`kp session restore {done.month}` puts them back.")


def restore(month: MonthArgument, *, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Put the archived sessions of a month back. Needs the secret key."""
    with open_client(url=url, session=False, service_role=True) as client:
        done = client.restore_sessions(month)
    _tell_month(done, as_json=as_json)


def _tell_month(done: ArchivedMonth, *, as_json: bool) -> None:
    if as_json:
        emit_json(done)
        return
    out.print(
        f"{done.month} {done.outcome}: {done.sessions} sessions, {done.links} links, {done.references} references",
        soft_wrap=True,
    )


def _lasted(session: Session) -> str:
    return "running" if session.session_duration is None else _duration(session.session_duration)


def _duration(value: timedelta) -> str:
    seconds = round(value.total_seconds())
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
