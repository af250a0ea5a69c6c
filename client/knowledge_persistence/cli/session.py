"""`kp session start|end|list|show`: working sessions."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from .connection import UrlOption, WorkspaceOption, load_settings, open_client
from .output import JsonOption, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from datetime import timedelta

    from knowledge_persistence.models import Session

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
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="How well it went.")] = None,
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
        f"{ended.knowledge_items_created} recorded, {ended.knowledge_items_accessed} recalled",
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
    table = Table("session", "project", "started", "lasted", "recorded", "recalled", box=None, pad_edge=False)
    for one in found:
        table.add_row(
            Text(clean(one.session_identifier)),
            Text(clean(one.project_context or "")),
            f"{one.start_time:%Y-%m-%d %H:%M}",
            _lasted(one),
            str(one.knowledge_items_created),
            str(one.knowledge_items_accessed),
        )
    out.print(table)


def show(
    session: Annotated[str, typer.Argument(help="Its identifier or id.")],
    *,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one session."""
    with open_client(url=url, workspace=workspace, session=False) as client:
        one = client.get_session(session)
    if as_json:
        emit_json(one)
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
        ("quality", one.session_quality_score),
        ("summary", one.summary),
        ("feedback", one.user_feedback),
    ):
        if value is not None:
            out.print(Text(f"{name + ':':10} {clean(str(value))}"), soft_wrap=True)


def _lasted(session: Session) -> str:
    return "running" if session.session_duration is None else _duration(session.session_duration)


def _duration(value: timedelta) -> str:
    seconds = round(value.total_seconds())
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
