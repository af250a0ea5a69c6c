"""`kp audit`: what in memory wants attention."""

from __future__ import annotations

from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from .connection import UrlOption, WorkspaceOption, open_client
from .output import FAILED, JsonOption, clean, emit_json, err, out

if TYPE_CHECKING:
    from knowledge_persistence.models import AuditFinding


class Check(StrEnum):
    """What is looked for."""

    contradictory = "contradictory"
    duplicate = "duplicate"
    expired = "expired"
    failing = "failing"
    junk = "junk"
    unvalidated = "unvalidated"
    stale = "stale"
    unused = "unused"


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("audit", rich_help_panel="Upkeep")(audit)


def audit(
    *,
    check: Annotated[list[Check] | None, typer.Option("--check", help="Only this check; repeatable.")] = None,
    fail_on: Annotated[
        list[Check] | None,
        typer.Option("--fail-on", help="End with exit code 1 where this check finds something; repeatable."),
    ] = None,
    project: Annotated[str | None, typer.Option(help="Only this project.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="So many of each check at most.")
    ] = 10,
    stale_after: Annotated[
        int, typer.Option(min=0, max=36500, help="Days without change or recall.", metavar="DAYS")
    ] = 180,
    unused_after: Annotated[
        int, typer.Option(min=0, max=36500, help="Days without a first recall.", metavar="DAYS")
    ] = 90,
    unvalidated_after: Annotated[
        int, typer.Option(min=0, max=36500, help="Days of waiting for a decision.", metavar="DAYS")
    ] = 14,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what wants attention, each with the reason and what could be done. Nothing is changed."""
    wanted = {*check, *(fail_on or [])} if check else set(Check)
    with open_client(url=url, workspace=workspace) as client:
        findings = client.audit(
            checks=[one.value for one in Check if one in wanted],
            project_context=project,
            max_findings=limit,
            stale_after_days=stale_after,
            unused_after_days=unused_after,
            unvalidated_after_days=unvalidated_after,
        )
    if as_json:
        emit_json(findings)
    else:
        for name, group in groupby(findings, key=lambda finding: finding.check_name):
            _print_group(name, list(group))
        if not findings:
            err.print("Nothing wants attention.")
    if {finding.check_name for finding in findings} & {one.value for one in fail_on or []}:
        raise typer.Exit(FAILED)


def _print_group(name: str, group: list[AuditFinding]) -> None:
    total = group[0].total
    shown = "" if total == len(group) else f", {len(group)} shown"
    head = Text(name, style="bold cyan")
    head.append(f"  {total}{shown}", style="dim")
    out.print(head)
    for finding in group:
        out.print(Text(f"  {clean(finding.title)}", style="bold"), soft_wrap=True)
        if finding.related_id is not None:
            out.print(
                f"    with  {clean(finding.related_title or '')}  ({finding.related_id})", soft_wrap=True
            )
        out.print(f"    why:  {clean(finding.reason)}", soft_wrap=True)
        out.print(f"    do:   {clean(finding.suggestion)}", soft_wrap=True)
        out.print(Text(f"    id:   {finding.knowledge_id}", style="dim"), soft_wrap=True)
        if finding.proposal_id is not None:
            out.print(Text(f"    proposal: {finding.proposal_id}", style="dim"), soft_wrap=True)
    out.print()
