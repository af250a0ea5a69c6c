"""`kp decision record|history`: how decisions came to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.text import Text

from .connection import SessionOption, UrlOption, WorkspaceOption, open_client
from .output import JsonOption, clean, emit_json, err, out
from .records import (
    AllowCredentialsOption,
    ProjectOption,
    given_text,
    heading,
    print_indented,
    print_labelled,
    print_recorded,
)

if TYPE_CHECKING:
    from knowledge_persistence.models import JSON, Decision, DecisionStage


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    group = typer.Typer(no_args_is_help=True, help="Decisions: how they came to be, stage by stage, and why.")
    group.command("record")(record)
    group.command("history")(history)
    app.add_typer(group, name="decision", rich_help_panel="Knowledge")


def record(
    topic: Annotated[str, typer.Argument(help="What is to be decided: what the decision is known by.")],
    understanding: Annotated[
        str,
        typer.Argument(
            help="How it is understood now, or what is decided; - reads standard input.", metavar="TEXT"
        ),
    ],
    *,
    final: Annotated[bool, typer.Option("--final", help="This decides it.")] = False,
    because: Annotated[str | None, typer.Option(help="Why.")] = None,
    influence: Annotated[
        list[str] | None, typer.Option("--influence", help="What moved it; repeatable.")
    ] = None,
    alternative: Annotated[
        list[str] | None, typer.Option("--alternative", help="What else was considered; repeatable.")
    ] = None,
    lesson: Annotated[str | None, typer.Option(help="What to do otherwise next time.")] = None,
    breakthrough: Annotated[str | None, typer.Option(help="What was suddenly understood.")] = None,
    project: ProjectOption = None,
    allow_credentials: AllowCredentialsOption = False,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record how a decision is understood now; the first stage makes it, --final decides it."""
    text = given_text(understanding, "the understanding")
    with open_client(url=url, workspace=workspace, session=session) as client:
        recorded = client.record_decision_stage(
            topic,
            understanding=text,
            rationale=because,
            influences=influence,
            alternatives=cast("JSON", alternative),
            lessons_learned=lesson,
            breakthrough=breakthrough,
            is_final=final,
            project_context=project,
            allow_credentials=allow_credentials,
        )
    if as_json:
        emit_json(recorded)
        return
    if recorded.is_proposal:
        said = f"Proposed, as stage {recorded.stage}: the decision is not yours to change."
    else:
        said = f"{'Decided' if final else 'Recorded'}, as stage {recorded.stage}."
    created = recorded.outcome == "created"
    print_recorded(recorded.knowledge_id, said, status=recorded.validation_status, created=created)


def history(
    topic: Annotated[
        str | None, typer.Argument(help="A topic or a question; left out, all, the latest changed first.")
    ] = None,
    *,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="So many at most.")] = 5,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show decisions and how they came to be."""
    text = None if topic is None else given_text(topic, "the topic")
    with open_client(url=url, workspace=workspace, session=session, embeds=text is not None) as client:
        found = client.decision_history(text, project_context=project, max_results=limit)
    if as_json:
        emit_json(found)
        return
    for one in found:
        _print_decision(one)
    if not found:
        err.print("No decision on that yet: `kp decision record` records one.")


def _print_decision(one: Decision) -> None:
    title = one.decision_topic + (f" ({one.project_context})" if one.project_context else "")
    out.print(heading(title, one.validation_status), soft_wrap=True)
    if not one.is_in_force:
        print_indented(Text("No longer in force.", style="red"))
    if one.final_understanding is not None:
        print_labelled("Decided", one.final_understanding, style="green")
    if one.current_understanding != one.final_understanding:
        # A stage after the decision, or none yet.
        print_labelled(
            "Understood now" if one.is_final else "Open", one.current_understanding, style="yellow"
        )
    print_labelled("Because", one.decision_rationale)
    print_labelled("Alternatives", _listed(one.alternative_approaches))
    print_labelled("Lessons", one.lessons_learned)
    print_indented(Text("How it came about:", style="bold"))
    for stage in one.stages:
        _print_stage(stage)
    if one.match_reason is not None:
        print_indented(Text(f"why: {clean(one.match_reason)}", style="dim"))
    print_indented(Text(f"id:  {one.knowledge_id}", style="dim"))
    out.print()


def _print_stage(stage: DecisionStage) -> None:
    line = Text(f"{stage.stage}. {stage.at:%Y-%m-%d %H:%M} {stage.event}: ")
    line.append(clean(stage.understanding).strip())
    print_indented(line, by=4)
    for label, value in (
        ("because", stage.rationale),
        ("moved by", "; ".join(stage.influences or [])),
        ("breakthrough", stage.breakthrough),
    ):
        if value:
            print_indented(Text(f"{label}: {clean(value)}", style="dim"), by=7)


def _listed(value: JSON) -> list[str] | None:
    """Write alternatives, which are a list, an object by name, or a text, as lines."""
    if isinstance(value, dict):
        return [f"{name}: {why}" for name, why in value.items()]
    if isinstance(value, list):
        return [str(one) for one in value]
    return None if value is None else [str(value)]
