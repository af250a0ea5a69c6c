"""`kp gotcha record|find|list`: problems met, what works against them, what doesn't."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from .connection import SessionOption, UrlOption, WorkspaceOption, open_client
from .output import JsonOption, clean, emit_json, err, fail, out
from .records import (
    AllowCredentialsOption,
    CategoryOption,
    LimitOption,
    ProjectOption,
    first_line,
    given_text,
    heading,
    print_indented,
    print_labelled,
    print_recorded,
    print_sure,
    times,
)

if TYPE_CHECKING:
    from knowledge_persistence.models import Attempt, FoundGotcha

_USAGE = 2
_TITLE_LENGTH = 160


class Outcome(StrEnum):
    """How an attempt went."""

    worked = "worked"
    failed = "failed"
    partial = "partial"


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    group = typer.Typer(
        no_args_is_help=True, help="Problems met: what works against them, what doesn't, how to prevent them."
    )
    group.command("record")(record)
    group.command("find")(find)
    group.command("list")(list_gotchas)
    app.add_typer(group, name="gotcha", rich_help_panel="Knowledge")


def record(
    problem: Annotated[
        str,
        typer.Argument(help="The error text as it is, or what went wrong; - reads it from standard input."),
    ],
    *,
    tried: Annotated[str | None, typer.Option(help="What was tried; --outcome says how it went.")] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="How what was tried went.")] = None,
    solution: Annotated[str | None, typer.Option(help="What works.")] = None,
    prevention: Annotated[str | None, typer.Option(help="How not to meet it again.")] = None,
    pattern: Annotated[
        list[str] | None, typer.Option("--pattern", help="Another way in which it shows; repeatable.")
    ] = None,
    signature: Annotated[
        str | None, typer.Option(help="What to know it by, instead of the error's own line.")
    ] = None,
    category: CategoryOption = None,
    severity: Annotated[int | None, typer.Option(min=1, max=10, help="How much it hurts.")] = None,
    minutes: Annotated[int | None, typer.Option(min=0, help="How many minutes it took to solve.")] = None,
    project: ProjectOption = None,
    allow_credentials: AllowCredentialsOption = False,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record that a problem was met. Met again, it is counted, and what was tried is added."""
    if (tried is None) != (outcome is None):
        fail("--tried and --outcome go together: what was tried, and how it went", _USAGE)
    text = given_text(problem, "the problem")
    with open_client(url=url, workspace=workspace, session=session) as client:
        recorded = client.record_gotcha(
            text,
            attempted_solution=tried,
            attempt_outcome=None if outcome is None else outcome.value,
            working_solution=solution,
            prevention_guidance=prevention,
            failure_patterns=pattern,
            problem_signature=signature,
            problem_category=category,
            severity_level=severity,
            resolution_time_minutes=minutes,
            project_context=project,
            allow_credentials=allow_credentials,
        )
    if as_json:
        emit_json(recorded)
        return
    created = recorded.outcome == "created"
    said = "Recorded." if created else f"Met {times(recorded.frequency_encountered)} now."
    print_recorded(recorded.knowledge_id, said, status=recorded.validation_status, created=created)
    if not created and recorded.working_solution is not None:
        err.print(f"What works: {clean(recorded.working_solution)}", markup=False, soft_wrap=True)


def find(
    problem: Annotated[
        str,
        typer.Argument(help="An error text, a stack trace, or what goes wrong; - reads standard input."),
    ],
    *,
    limit: LimitOption = 3,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find known problems like this one: what worked, what failed, how to prevent it, how sure that is."""
    text = given_text(problem, "the problem")
    with open_client(url=url, workspace=workspace, session=session, embeds=True) as client:
        found = client.find_gotchas(text, max_results=limit)
    if as_json:
        emit_json(found)
        return
    for one in found:
        _print_found(one)
    if not found:
        err.print(
            "Nothing like it is known. Once it is solved: `kp gotcha record - --solution …`", markup=False
        )


def _print_found(found: FoundGotcha) -> None:
    description = found.problem_description.strip()
    short = "\n" not in description and len(description) <= _TITLE_LENGTH
    out.print(
        heading(description if short else found.problem_signature, found.validation_status), soft_wrap=True
    )
    others = [one for one in found.worked if one.solution != found.working_solution]
    if found.working_solution is None and not others:
        print_indented(Text("No solution yet.", style="yellow"))
    print_labelled("What works", found.working_solution, style="green")
    print_labelled("Worked before" if found.working_solution else "What worked", _counted(others))
    print_labelled("What failed", _counted(found.failed), style="red")
    print_labelled("To prevent it", found.prevention_guidance)
    print_labelled("Also seen as", found.failure_patterns)
    print_sure(found.confidence, found.match_reason)
    print_indented(Text(f"id: {found.knowledge_id}", style="dim"))
    out.print()


def _counted(attempts: list[Attempt]) -> list[str]:
    """Write what was tried, each once, with how often."""
    tried = Counter((one.solution, one.outcome == "partial") for one in attempts)
    return [
        solution + (" (helped in part)" if partial else "") + (f" ({times(count)})" if count > 1 else "")
        for (solution, partial), count in tried.items()
    ]


def list_gotchas(
    *,
    category: Annotated[str | None, typer.Option(help="Only of this category.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="So many at most.")] = 20,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the problems that you may see, the one met last first."""
    with open_client(url=url, workspace=workspace, session=session) as client:
        found = client.list_gotchas(category=category, limit=limit)
    if as_json:
        emit_json(found)
        return
    if not found:
        err.print("No gotchas yet: `kp gotcha record` records one.")
        return
    table = Table("met", "last", "problem", "what works", box=None, pad_edge=False)
    for one in found:
        table.add_row(
            str(one.frequency_encountered),
            f"{one.last_encountered:%Y-%m-%d}",
            Text(first_line(one.problem_signature, 60)),
            Text(
                first_line(one.working_solution, 60) if one.working_solution else "not known",
                style="" if one.working_solution else "yellow",
            ),
        )
    out.print(table)
