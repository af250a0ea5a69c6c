"""`kp tune`: fit the weights of retrieval to the workspace's validation tests."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from .connection import UrlOption, WorkspaceOption, open_client
from .output import JsonOption, clean, emit_json, err, out

if TYPE_CHECKING:
    from knowledge_persistence.models import TuningReport

_SHOWN_TESTS = 10


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("tune", rich_help_panel="Knowledge")(tune)


def tune(
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="Set what is proposed without asking, if the gain is real.")
    ] = False,
    candidates: Annotated[int, typer.Option(min=2, max=1000, help="So many settings are tried.")] = 80,
    folds: Annotated[int, typer.Option(min=2, max=100, help="The tests are dealt into so many parts.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn; the same gives the same.")] = 0,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit the weights of retrieval to the workspace's validation tests. For its owners.

    Many settings are tried with the workspace's own searches, without anybody noticing. Whether the best one is better
    than what is set is told by tests that it was not fitted to. Nothing is changed unless you say yes, or --apply.
    """
    with open_client(url=url, workspace=workspace, embeds=True) as client:
        with Progress(
            TextColumn("Trying"), BarColumn(), MofNCompleteColumn(), console=err, transient=True,
            disable=not err.is_terminal,
        ) as progress:  # fmt: skip
            task = progress.add_task("Trying", total=None)
            report = client.tune(
                candidates=candidates,
                folds=folds,
                seed=seed,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
        if not as_json:
            _print_report(report)
        wanted = report.worth_it and (
            apply or (not as_json and sys.stdin.isatty() and typer.confirm("Set these weights?", err=True))
        )
        if wanted:
            client.configure_retrieval(retrieval_weights=report.retrieval_weights)
    if as_json:
        told = {field.name: getattr(report, field.name) for field in fields(report)}
        emit_json({**told, "retrieval_weights": report.retrieval_weights, "applied": wanted})
        return
    if wanted:
        err.print("Set.")
    elif report.worth_it:
        err.print("Nothing was changed: `kp tune --apply` sets them.")
    else:
        err.print("Nothing was changed: the gain is not real." if apply else "Nothing was changed.")


def _print_report(report: TuningReport) -> None:
    weights = Table("weight", "now", "proposed", "default", box=None, pad_edge=False)
    for name, now in report.current.items():
        proposed = report.proposed[name]
        weights.add_row(
            name,
            f"{now:g}",
            Text(f"{proposed:g}", style="" if proposed == now else "bold"),
            Text(f"{report.defaults[name]:g}", style="dim"),
        )
    out.print(weights)
    out.print()
    judged = Table("judged by held-out tests", "now", "fitted", box=None, pad_edge=False)
    judged.add_row("score, 0 to 1", f"{report.score_before:.3f}", f"{report.score_after:.3f}")
    total = len(report.tests)
    judged.add_row("passed", f"{report.passed_before} of {total}", f"{report.passed_after} of {total}")
    out.print(judged)
    out.print(
        f"gain {report.gain:+.3f}, with 95 % confidence between {report.gain_low:+.3f} and {report.gain_high:+.3f}"
    )
    changed = [test for test in report.tests if test.score_before != test.score_after]
    if changed:
        out.print()
        table = Table("test", "now", "fitted", box=None, pad_edge=False)
        for test in changed[:_SHOWN_TESTS]:
            table.add_row(
                Text(clean(test.test_name), style="bold"),
                _outcome(test.score_before, passed=test.passed_before),
                _outcome(test.score_after, passed=test.passed_after),
            )
        out.print(table)
        if len(changed) > _SHOWN_TESTS:
            out.print(Text(f"and {len(changed) - _SHOWN_TESTS} more", style="dim"))
    tried = f"{report.candidates} settings tried on {total} tests in {report.folds} folds, seed {report.seed}"
    if report.left_out:
        tried += f"; {report.left_out} tests name no items and were left out"
    err.print(Text(tried + ".", style="dim"))
    if report.proposed == report.current:
        err.print("No other weights serve the tests better than these.")
    elif report.worth_it:
        err.print("The gain is real: it holds for tests that the weights were not fitted to.")
    else:
        err.print("The gain may be luck: held-out tests don't show it. More tests may tell.")


def _outcome(score: float, *, passed: bool) -> Text:
    return Text(f"{score:.2f} ").append("passed" if passed else "failed", style="green" if passed else "red")
