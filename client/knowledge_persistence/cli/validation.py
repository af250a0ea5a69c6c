"""`kp validate`: the life cycle of items, and tests of what memory must answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from .connection import SessionOption, UrlOption, WorkspaceOption, load_settings, open_client
from .intervals import EveryOption, NeverOption, chosen_interval, in_words
from .knowledge import Kind, KnowledgeId, Status
from .output import FAILED, JsonOption, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from knowledge_persistence._sync.client import KnowledgeClient
    from knowledge_persistence.models import (
        ValidationReportLine,
        ValidationResult,
        ValidationRun,
        ValidationTest,
    )

_USAGE = 2
_STYLES = {"passed": "green", "failed": "red", "skipped": "yellow"}

TestNames = Annotated[
    list[str] | None, typer.Argument(help="Tests by name or id; left out: all.", metavar="[TEST]…")
]
CategoryOption = Annotated[str | None, typer.Option(help="Only of this category.")]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    group = typer.Typer(
        no_args_is_help=True, help="Decide on items, and test what memory must answer: kp validate run."
    )
    group.command("item")(item)
    group.command("add")(add)
    group.command("list")(list_tests)
    group.command("run")(run)
    group.command("schedule")(schedule)
    group.command("report")(report)
    group.command("remove")(remove)
    app.add_typer(group, name="validate", rich_help_panel="Knowledge")


def item(
    knowledge_id: KnowledgeId,
    *,
    status: Annotated[
        Status, typer.Option(help="The item's new status; deprecated takes it out of retrieval.")
    ] = Status.validated,
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
    unchanged_since: Annotated[
        str | None,
        typer.Option(
            help="The updated_at that you read (kp show --json): refused if the item was changed since.",
            metavar="TIMESTAMP",
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide on an item: validated shows it to the workspace. For its maintainers and owners."""
    with open_client(url=url, workspace=workspace) as client:
        decided = client.validate(knowledge_id, status.value, note=note, unchanged_since=unchanged_since)
    if as_json:
        emit_json(decided)
        return
    out.print(f"{decided.knowledge_id} {decided.validation_status}")
    if decided.merged_ids:
        err.print(f"It supersedes {len(decided.merged_ids)} of the same text.")


def add(
    name: Annotated[
        str, typer.Argument(help="What the test is called; the same name replaces it.", metavar="NAME")
    ],
    situation: Annotated[
        str,
        typer.Argument(help="What memory is asked: a question, an error, a situation.", metavar="SITUATION"),
    ],
    *,
    expect: Annotated[
        list[str] | None,
        typer.Option("--expect", help="An item that must be found; repeatable.", metavar="ID"),
    ] = None,
    forbid: Annotated[
        list[str] | None, typer.Option("--forbid", help="An item that must not be; repeatable.", metavar="ID")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="Among so many results.")] = 5,
    kind: Annotated[
        list[Kind] | None, typer.Option("--type", help="Search only this kind of knowledge; repeatable.")
    ] = None,
    criteria: Annotated[
        str | None, typer.Option(help="By what an answer is judged, where a model is configured.")
    ] = None,
    answer: Annotated[str | None, typer.Option(help="What an answer should say.")] = None,
    category: Annotated[str | None, typer.Option(help="A word to sort by.")] = None,
    difficulty: Annotated[int | None, typer.Option(min=1, max=10, help="How hard it is.")] = None,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a test of what memory must find, must not find, or must answer."""
    if not (expect or forbid or criteria or answer):
        fail("say what could fail: --expect, --forbid, --criteria or --answer", _USAGE)
    with open_client(url=url, workspace=workspace, session=session) as client:
        recorded = client.record_validation_test(
            name,
            situation,
            expected_knowledge_ids=expect,
            forbidden_knowledge_ids=forbid,
            within_top=top,
            knowledge_types_tested=[one.value for one in kind] if kind else None,
            pass_criteria=criteria,
            expected_response=answer,
            test_category=category,
            difficulty_level=difficulty,
        )
    if as_json:
        emit_json(recorded)
        return
    out.print(str(recorded.test_id))
    err.print("Added." if recorded.outcome == "created" else "Replaced.", "`kp validate run` runs it.")


def list_tests(
    *,
    category: CategoryOption = None,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the tests of the workspace."""
    with open_client(url=url, workspace=workspace, session=session) as client:
        found = client.list_validation_tests(test_category=category)
    if as_json:
        emit_json(found)
        return
    if not found:
        err.print("No tests yet: `kp validate add` adds one.")
        return
    table = Table("test", "category", "situation", "asks for", "runs", "id", box=None, pad_edge=False)
    for one in found:
        table.add_row(
            Text(clean(one.test_name), style="bold"),
            Text(clean(one.test_category or "")),
            Text(clean(one.test_scenario)),
            _asks(one),
            "" if one.run_every is None else in_words(one.run_every),
            Text(str(one.id), style="dim", overflow="fold"),
        )
    out.print(table)
    for one in found:
        if one.run_failure:
            err.print(
                Text(f"Could not be run by the worker: {clean(one.test_name)}: {clean(one.run_failure)}")
            )


def _asks(test: ValidationTest) -> str:
    parts = [
        f"{len(test.expected_knowledge_ids)} in the top {test.within_top}"
        if test.expected_knowledge_ids
        else "",
        f"{len(test.forbidden_knowledge_ids)} not" if test.forbidden_knowledge_ids else "",
        "an answer" if test.wants_answer else "",
    ]
    return ", ".join(part for part in parts if part) or "nothing"


def run(
    tests: TestNames = None,
    *,
    category: CategoryOption = None,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Only search, though KP_CHAT_MODEL names a model.")
    ] = False,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the tests against memory as it is now, keep the results, and end with 1 if one failed.

    What must be found is searched for as you, so the result is what you would get. What an answer must be like is
    judged where KP_CHAT_MODEL names a model of an OpenAI-compatible server (OPENAI_BASE_URL, OPENAI_API_KEY); that
    server is sent what memory holds about the situation.
    """
    from knowledge_persistence.judges import make_judge  # noqa: PLC0415

    judge = None if no_model else make_judge(load_settings(url))
    began = datetime.now(UTC)
    with open_client(url=url, workspace=workspace, session=session, embeds=True) as client:
        with Progress(
            TextColumn("Testing"), BarColumn(), MofNCompleteColumn(), console=err, transient=True,
            disable=not err.is_terminal,
        ) as progress:  # fmt: skip
            task = progress.add_task("Testing", total=None)
            runs = client.run_validation_tests(
                tests, test_category=category, judge=judge, progress=lambda _: progress.advance(task)
            )
        worse = {line.test_id for line in client.validation_report(since=None) if line.got_worse}
    worse &= {one.test_id for one in runs}
    if as_json:
        emit_json([{**_plain(one), "got_worse": one.test_id in worse} for one in runs])
    else:
        for one in runs:
            _print_run(one, worse=one.test_id in worse)
        _print_sum(runs, worse=len(worse), seconds=(datetime.now(UTC) - began).total_seconds())
    if all(one.outcome == "skipped" for one in runs):
        fail(
            "nothing was tested: "
            + (
                "every test wants an answer, and KP_CHAT_MODEL names no model"
                if runs
                else "there are no tests"
            )
        )
    if any(one.outcome == "failed" for one in runs):
        raise typer.Exit(FAILED)


def _plain(one: ValidationRun) -> dict[str, object]:
    from dataclasses import fields  # noqa: PLC0415

    return {field.name: getattr(one, field.name) for field in fields(one)}


def _print_run(one: ValidationRun, *, worse: bool) -> None:
    line = Text(f"{one.outcome:8}", style=_STYLES[one.outcome])
    line.append(clean(one.test_name), style="bold")
    if one.performance_score is not None:
        line.append(f"  {one.performance_score} of 100, {one.response_time_seconds or 0:.2f} s", style="dim")
    if worse:
        line.append("  got worse", style="red")
    out.print(line, soft_wrap=True)
    if one.outcome == "passed":
        return
    if one.improvement_needed:
        out.print(Text(f"        {clean(one.improvement_needed)}"), soft_wrap=True)
    for what, ranks in (("expected", one.expected), ("forbidden", one.forbidden)):
        for found in ranks:
            where = "not found" if found.rank is None else f"rank {found.rank}"
            out.print(Text(f"        {what}  {found.knowledge_id}  {where}", style="dim"), soft_wrap=True)
    if one.evaluator_notes:
        out.print(Text(f"        judge: {clean(one.evaluator_notes)}", style="dim"), soft_wrap=True)


def _print_sum(runs: Sequence[ValidationRun], *, worse: int, seconds: float) -> None:
    counts = {name: sum(one.outcome == name for one in runs) for name in _STYLES}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no tests"
    err.print(f"{told} in {seconds:.1f} s" + (f"; {worse} got worse" if worse else ""))


def schedule(
    test: Annotated[str, typer.Argument(help="A test by name or id.", metavar="TEST")],
    *,
    every: EveryOption = None,
    never: NeverOption = False,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the worker run a test now and then. For who wrote it and for maintainers.

    It searches as whoever wrote the test, and judges no answers; `kp validate report` shows the results.
    """
    run_every = chosen_interval(every, never)
    with open_client(url=url, workspace=workspace) as client:
        scheduled = client.schedule_validation_test(_find(client, test), run_every)
    if as_json:
        emit_json(scheduled)
    elif scheduled.run_every is None or scheduled.next_run_at is None:
        err.print("The worker runs it no more.")
    else:
        err.print(
            f"The worker runs it {in_words(scheduled.run_every)}, next {scheduled.next_run_at:%Y-%m-%d %H:%M}."
        )


def _find(client: KnowledgeClient, test: str) -> UUID:
    found = next(
        (one.id for one in client.list_validation_tests() if test in {one.test_name, str(one.id)}), None
    )
    if found is None:
        fail(f"no validation test {test!r} here: `kp validate list`")
    return found


def report(
    test: Annotated[
        str | None,
        typer.Argument(help="A test by name or id: its history; left out: all tests.", metavar="[TEST]"),
    ] = None,
    *,
    days: Annotated[
        int | None,
        typer.Option("--days", min=1, max=36500, help="Count only the runs of the last so many days."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="So many results of one test.")
    ] = 20,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how the tests stand and what got worse, or the history of one."""
    from datetime import timedelta  # noqa: PLC0415

    since = None if days is None else datetime.now(UTC) - timedelta(days=days)
    with open_client(url=url, workspace=workspace, session=session) as client:
        if test is not None:
            _print_history(client.validation_history(_find(client, test), limit=limit), as_json=as_json)
            return
        lines = client.validation_report(since=since)
    if as_json:
        emit_json(lines)
        return
    if not lines:
        err.print("No tests yet: `kp validate add` adds one.")
        return
    table = Table("test", "last", "score", "before", "passed", "recent", "when", box=None, pad_edge=False)
    for line in lines:
        table.add_row(
            Text(clean(line.test_name), style="bold"),
            _verdict(line.last_pass),
            _score(line.last_score),
            _before(line),
            f"{line.pass_count} of {line.run_count}",
            _recent(line.recent),
            "" if line.last_executed_at is None else f"{line.last_executed_at:%Y-%m-%d %H:%M}",
        )
    out.print(table)
    for line in lines:
        if line.got_worse:
            err.print(
                Text(f"Got worse: {clean(line.test_name)}: {clean(line.last_improvement_needed or '')}")
            )


def _print_history(results: Sequence[ValidationResult], *, as_json: bool) -> None:
    if as_json:
        emit_json(results)
        return
    if not results:
        err.print("It was never run: `kp validate run` runs it.")
        return
    table = Table("when", "result", "score", "seconds", "what was wrong", box=None, pad_edge=False)
    for one in results:
        table.add_row(
            f"{one.test_executed_at:%Y-%m-%d %H:%M:%S}",
            _verdict(one.pass_status),
            _score(one.performance_score),
            "" if one.response_time_seconds is None else f"{one.response_time_seconds:.2f}",
            Text(clean(one.improvement_needed or one.evaluator_notes or "")),
        )
    out.print(table)


def _verdict(passed: bool | None) -> Text:
    if passed is None:
        return Text("never run", style="dim")
    return Text("passed", style="green") if passed else Text("failed", style="red")


def _score(score: int | None) -> str:
    return "" if score is None else str(score)


def _before(line: ValidationReportLine) -> Text:
    if line.previous_pass is None:
        return Text("")
    before = Text(f"{'passed' if line.previous_pass else 'failed'} {_score(line.previous_score)}".rstrip())
    if line.got_worse:
        before.append(" ↓", style="red")
    return before


def _recent(ended: Sequence[bool]) -> Text:
    marks = Text()
    for passed in ended:
        marks.append("✓" if passed else "✗", style="green" if passed else "red")
    return marks


def remove(
    test: Annotated[str, typer.Argument(help="The test's id.", metavar="ID")],
    *,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
) -> None:
    """Take a test out, with its results. For who wrote it and for maintainers."""
    with open_client(url=url, workspace=workspace) as client:
        client.remove_validation_test(test)
    err.print("Removed.")
