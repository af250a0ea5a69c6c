"""`kp insight record|apply`: what was understood, and whether it serves."""

from __future__ import annotations

from typing import Annotated

import typer

from .connection import SessionOption, UrlOption, WorkspaceOption, open_client
from .output import JsonOption, emit_json, out
from .records import AllowCredentialsOption, ProjectOption, given_text, print_recorded, times


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    group = typer.Typer(no_args_is_help=True, help="Insights: what was understood, and whether it serves.")
    group.command("record")(record)
    group.command("apply")(apply)
    app.add_typer(group, name="insight", rich_help_panel="Knowledge")


def record(
    title: Annotated[str, typer.Argument(help="The insight in one line: what it is known by.")],
    description: Annotated[
        str, typer.Argument(help="The insight itself; - reads standard input.", metavar="TEXT")
    ],
    *,
    moment: Annotated[str | None, typer.Option(help="How it came about.")] = None,
    impact: Annotated[str | None, typer.Option(help="What it changes for the project.")] = None,
    driver: Annotated[str | None, typer.Option(help="What drove towards it.")] = None,
    feeling: Annotated[str | None, typer.Option(help="How it felt: what makes it stick.")] = None,
    example: Annotated[
        list[str] | None, typer.Option("--example", help="A case that bears it out; repeatable.")
    ] = None,
    reminder: Annotated[str | None, typer.Option(help="How to keep it in mind.")] = None,
    confidence: Annotated[int | None, typer.Option(min=1, max=100, help="How sure it is.")] = None,
    scope: Annotated[str | None, typer.Option(help="Where it applies.")] = None,
    project: ProjectOption = None,
    allow_credentials: AllowCredentialsOption = False,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record an insight. Come to again, it is counted, and what is said differently is kept."""
    text = given_text(description, "the insight")
    with open_client(url=url, workspace=workspace, session=session) as client:
        recorded = client.record_insight(
            title,
            insight_description=text,
            discovery_moment=moment,
            project_impact_description=impact,
            motivation_driver=driver,
            emotional_context=feeling,
            validation_examples=example,
            retention_method=reminder,
            confidence_level=confidence,
            applicability_scope=scope,
            project_context=project,
            allow_credentials=allow_credentials,
        )
    if as_json:
        emit_json(recorded)
        return
    created = recorded.outcome == "created"
    said = "Recorded." if created else f"Come to {times(recorded.times_observed)} now."
    print_recorded(recorded.knowledge_id, said, status=recorded.validation_status, created=created)


def apply(
    insight: Annotated[
        str, typer.Argument(help="The insight's id, as recall or record shows it.", metavar="ID")
    ],
    *,
    worked: Annotated[bool, typer.Option("--worked/--failed", help="Whether applying it worked.")] = True,
    notes: Annotated[str | None, typer.Option(help="What there is to add.")] = None,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that an insight was applied, and whether that worked; it moves its rank."""
    with open_client(url=url, workspace=workspace, session=session) as client:
        applied = client.apply_insight(insight, success=worked, notes=notes)
    if as_json:
        emit_json(applied)
        return
    out.print(f"applied {times(applied.applied_count)}, worked {times(applied.applied_successfully)}")
