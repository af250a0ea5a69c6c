"""`kp watch` and `kp who`: what happens, as it happens, and who is here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from .connection import UrlOption, WorkspaceOption, load_settings
from .output import JsonOption, clean, emit_json, err, out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from knowledge_persistence import AsyncKnowledgeClient, KnowledgeEvent, PresentAgent

_STYLES = {"created": "cyan", "updated": "yellow", "shared": "green", "gone": "red"}


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("watch", rich_help_panel="Knowledge")(watch)
    app.command("who", rich_help_panel="Knowledge")(who)


def watch(
    *,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only of this project.")] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            "-t",
            help="Only these: knowledge, session, relationship, validation_result, a knowledge type, or a kind of "
            "record (gotcha, command, …). May be given several times.",
        ),
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(
            min=0, help="Go on after this event; 0: from the beginning of the log. Else: from now on."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
    url: UrlOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happens in memory as it happens, until interrupted. With --json, one object a line."""
    asyncio.run(_watch(project, types, since, limit, url, workspace, as_json=as_json))


async def _watch(
    project: str | None,
    types: list[str] | None,
    since: int | None,
    limit: int | None,
    url: str | None,
    workspace: str | None,
    *,
    as_json: bool,
) -> None:
    from knowledge_persistence import connect_async  # noqa: PLC0415 - slow, and --help needs none of it

    async with (
        connect_async(workspace=workspace, settings=load_settings(url), embedder=None) as client,
        client.subscribe(project=project, types=types, after=since) as events,
    ):
        if not as_json:
            err.print(f"Watching from event {await events.start()}; ^C ends it.", style="dim")
        shown = 0
        async for event in events:
            if as_json:
                emit_json(event)
            else:
                out.print(await _line(client, event))
            shown += 1
            if shown == limit:
                return


async def _line(client: AsyncKnowledgeClient, event: KnowledgeEvent) -> Text:
    from knowledge_persistence import NotFoundError  # noqa: PLC0415

    kind = event.record_kind or event.knowledge_type or ""
    about = str(event.subject_id)
    if event.subject == "knowledge" and event.what != "gone":
        try:
            about = (await client.get(event.subject_id)).title
        except NotFoundError:
            about = f"{event.subject_id} (gone meanwhile)"
    line = Text()
    line.append(event.happened_at.astimezone().strftime("%H:%M:%S "), style="dim")
    line.append(f"{event.what:<8}", style=_STYLES.get(event.what, ""))
    line.append(f"{clean(' '.join(filter(None, [event.subject, kind]))):<28} ")
    line.append(clean(about))
    if event.project_context:
        line.append(f"  [{clean(event.project_context)}]", style="dim")
    line.append(f"  #{event.event_id}", style="dim")
    return line


def who(
    *,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only who works on this.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show each change, until interrupted.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Be seen under this name, for as long as the command runs.")
    ] = None,
    doing: Annotated[str | None, typer.Option(help="What to be seen doing.")] = None,
    url: UrlOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who works here just now: the agents and people that show themselves in the workspace."""
    asyncio.run(_who(project, name, doing, url, workspace, follow=follow, as_json=as_json))


async def _who(
    project: str | None,
    name: str | None,
    doing: str | None,
    url: str | None,
    workspace: str | None,
    *,
    follow: bool,
    as_json: bool,
) -> None:
    from knowledge_persistence import TransportError, connect_async  # noqa: PLC0415

    async with (
        connect_async(workspace=workspace, settings=load_settings(url), embedder=None) as client,
        client.presence(project=project, name=name, doing=doing, show=bool(name or doing)) as present,
    ):
        if not await present.wait():
            raise TransportError("Realtime doesn't answer: who is here can't be told")
        async for agents in present:
            if as_json:
                emit_json(agents)
            else:
                _show_agents(agents)
            if not follow:
                return


def _show_agents(agents: Sequence[PresentAgent]) -> None:
    if not agents:
        err.print("Nobody shows themselves just now.", style="dim")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("since", "who", "project", "doing", "session"):
        table.add_column(column, style="dim" if column == "since" else "")
    for agent in agents:
        table.add_row(
            agent.since.astimezone().strftime("%H:%M:%S"),
            clean(agent.name or str(agent.user_id or "")),
            clean(agent.project or ""),
            clean(agent.doing or ""),
            str(agent.session_id or ""),
        )
    out.print(table)
