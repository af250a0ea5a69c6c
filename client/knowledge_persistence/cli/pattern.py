"""`kp pattern record|match`: how people work with an agent, and what they expect of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from .connection import SessionOption, UrlOption, WorkspaceOption, open_client
from .output import JsonOption, emit_json, err, out
from .records import (
    AllowCredentialsOption,
    LimitOption,
    ProjectOption,
    given_text,
    heading,
    print_indented,
    print_labelled,
    print_recorded,
    print_sure,
    times,
)

if TYPE_CHECKING:
    from knowledge_persistence.models import MatchedInteractionPattern


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    group = typer.Typer(
        no_args_is_help=True, help="Interaction patterns: how people work with an agent, what they expect."
    )
    group.command("record")(record)
    group.command("match")(match)
    app.add_typer(group, name="pattern", rich_help_panel="Knowledge")


def record(
    name: Annotated[str, typer.Argument(help="What to call it; known by name and situation.")],
    *,
    situation: Annotated[
        str, typer.Option("--situation", "-t", help="The type of situation: debugging, planning, review, …")
    ],
    behavior: Annotated[str | None, typer.Option(help="What the user does.")] = None,
    expected: Annotated[str | None, typer.Option(help="What the user expects of the agent.")] = None,
    success_sign: Annotated[
        list[str] | None, typer.Option("--success-sign", help="A sign that it went well; repeatable.")
    ] = None,
    failure_sign: Annotated[
        list[str] | None, typer.Option("--failure-sign", help="A sign that it did not; repeatable.")
    ] = None,
    effectiveness: Annotated[
        int | None, typer.Option(min=1, max=100, help="How well the expected response served this time.")
    ] = None,
    example: Annotated[str | None, typer.Option(help="What was seen this time.")] = None,
    project: ProjectOption = None,
    allow_credentials: AllowCredentialsOption = False,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record that an interaction pattern was seen. Seen again, it is counted."""
    with open_client(url=url, workspace=workspace, session=session) as client:
        recorded = client.record_interaction_pattern(
            name,
            situation_type=situation,
            user_behavior_description=behavior,
            ai_response_expected=expected,
            success_indicators=success_sign,
            failure_indicators=failure_sign,
            effectiveness_score=effectiveness,
            example=example,
            project_context=project,
            allow_credentials=allow_credentials,
        )
    if as_json:
        emit_json(recorded)
        return
    created = recorded.outcome == "created"
    said = "Recorded." if created else f"Seen {times(recorded.pattern_frequency)} now."
    print_recorded(recorded.knowledge_id, said, status=recorded.validation_status, created=created)


def match(
    situation: Annotated[str, typer.Argument(help="What is going on; - reads standard input.")],
    *,
    kind: Annotated[str | None, typer.Option("--type", "-t", help="Only patterns of this type.")] = None,
    limit: LimitOption = 3,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the patterns that fit a situation: what the user does, and what is expected of the agent."""
    text = given_text(situation, "the situation")
    with open_client(url=url, workspace=workspace, session=session, embeds=True) as client:
        found = client.match_interaction_patterns(text, situation_type=kind, max_results=limit)
    if as_json:
        emit_json(found)
        return
    for one in found:
        _print_matched(one)
    if not found:
        err.print("No pattern fits that: `kp pattern record` records one.")


def _print_matched(one: MatchedInteractionPattern) -> None:
    out.print(heading(f"{one.pattern_name} ({one.situation_type})", one.validation_status), soft_wrap=True)
    print_labelled("Expected of you", one.ai_response_expected, style="green")
    print_labelled("The user", one.user_behavior_description)
    print_labelled("Signs of success", one.success_indicators)
    print_labelled("Signs of failure", one.failure_indicators, style="red")
    print_sure(one.score, one.reason)
    print_indented(Text(f"id: {one.knowledge_id}", style="dim"))
    out.print()
