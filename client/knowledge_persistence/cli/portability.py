"""`kp export|import|ingest`: a memory moved, kept beside a folder of files, or made of documents."""

from __future__ import annotations

import json
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .connection import UrlOption, WorkspaceOption, open_client
from .output import FAILED, JsonOption, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from knowledge_persistence.portability import Report

_USAGE = 2
#: Troubles that are told one by one; --json tells all.
_TOLD = 20


class Format(StrEnum):
    """Forms of a memory outside the database."""

    jsonl = "jsonl"
    markdown = "markdown"


class Source(StrEnum):
    """Forms of a memory that can be imported."""

    jsonl = "jsonl"
    markdown = "markdown"
    claude_code = "claude-code"


DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]
CredentialsOption = Annotated[
    bool, typer.Option("--allow-credentials", help="Take texts though they look like they hold one.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("export", rich_help_panel="Moving")(export)
    app.command("import", rich_help_panel="Moving")(import_)
    app.command("ingest", rich_help_panel="Moving")(ingest)


def export(
    target: Annotated[
        Path, typer.Argument(help="A file for JSON Lines, a folder for Markdown.", metavar="TARGET")
    ],
    *,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format", help="jsonl (everything) or markdown (to read and edit); told by the target."
        ),
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Take the vectors along; else they are made anew.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is there; in a folder, write over edits.")
    ] = False,
    restore: Annotated[
        bool,
        typer.Option(
            "--as-service", help="Export all of a workspace, as the service, not what you see of it."
        ),
    ] = False,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a workspace into a file, without loss, or its items into a folder of Markdown.

    Holds what you may see. The file is as secret as what is in it, and readable by you alone.
    """
    chosen = form or (Format.markdown if target.is_dir() else Format.jsonl)
    with open_client(url=url, workspace=workspace, session=False, service_role=restore) as client:
        if chosen is Format.markdown:
            from knowledge_persistence.portability.markdown import export_markdown  # noqa: PLC0415

            if embeddings:
                fail("Markdown holds no vectors: --embeddings goes with --format jsonl", _USAGE)
            if target.exists() and not target.is_dir():
                fail(f"{target} is a file; Markdown goes into a folder", _USAGE)
            with _progress("Writing") as say:
                report = export_markdown(client, target, force=force, progress=say)
            _tell(report, as_json)
            return
        from knowledge_persistence.portability import export_jsonl  # noqa: PLC0415

        if target.exists() and not force:
            fail(f"{target} is there already; --force replaces it", _USAGE)
        if not target.absolute().parent.is_dir():
            fail(f"{target.absolute().parent} is no directory", _USAGE)
        with _progress("Exporting") as say:
            summary = export_jsonl(client, target.absolute(), embeddings=embeddings, progress=say)
    if as_json:
        emit_json(
            {
                "path": str(target),
                "workspace": summary.workspace,
                "lines": summary.lines,
                "counts": dict(summary.counts),
                "sha256": summary.sha256,
            }
        )
        return
    out.print(str(target), soft_wrap=True)
    told = ", ".join(f"{count} {_plural(kind, count)}" for kind, count in summary.counts.items())
    err.print(f"{summary.workspace}: {told or 'nothing'}.", markup=False, soft_wrap=True)


def import_(
    source: Annotated[
        Path,
        typer.Argument(help="An export, a folder of Markdown, or one of Claude Code's.", metavar="SOURCE"),
    ],
    *,
    form: Annotated[
        Source | None,
        typer.Option("--format", help="jsonl, markdown or claude-code; a file is jsonl, a folder markdown."),
    ] = None,
    dry_run: DryRunOption = False,
    force: Annotated[
        bool, typer.Option("--force", help="Markdown: where both have changed, the file wins.")
    ] = False,
    deprecate_missing: Annotated[
        bool, typer.Option("--deprecate-missing", help="Markdown: deprecate items whose file was deleted.")
    ] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Take of a cut off or altered export what can be read.")
    ] = False,
    project: Annotated[str | None, typer.Option(help="Claude Code: the project it belongs to.")] = None,
    as_service: Annotated[
        bool,
        typer.Option(
            "--as-service",
            help="Restore a workspace: its id, its members, and who wrote what. For operators.",
        ),
    ] = False,
    people: Annotated[
        Path | None,
        typer.Option(help="With --as-service: a JSON object of ids in the file to ids here.", metavar="FILE"),
    ] = None,
    allow_credentials: CredentialsOption = False,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take an export, a folder of Markdown, or what Claude Code has kept into a workspace.

    Importing again changes nothing that is there. What can't be taken in is reported, and the rest goes in.
    """
    if not source.exists():
        fail(f"{source} isn't there", _USAGE)
    chosen = form or (Source.markdown if source.is_dir() else Source.jsonl)
    if (chosen is Source.jsonl) == source.is_dir():
        fail(f"{source} is {'a' if source.is_dir() else 'no'} folder; {chosen.value} is not", _USAGE)
    if people is not None and not as_service:
        fail("--people goes with --as-service: your own import is in your name", _USAGE)
    with open_client(url=url, workspace=workspace, session=False, service_role=as_service) as client:
        if chosen is Source.jsonl:
            from knowledge_persistence.portability.jsonl import check_jsonl, import_jsonl, read_header  # noqa: PLC0415

            map_of_people = None if people is None else _read_people(people)
            place = None
            if as_service and workspace is None:
                header = read_header(source) if damaged else check_jsonl(source)[0]
                if not dry_run:
                    place = client.restore_workspace(header, people=map_of_people)
                else:
                    fail("--dry-run with --as-service needs --workspace: a workspace that is there", _USAGE)
            with _progress("Importing") as say:
                report = import_jsonl(
                    client,
                    source,
                    dry_run=dry_run,
                    damaged=damaged,
                    allow_credentials=allow_credentials,
                    workspace=place,
                    people=map_of_people,
                    progress=say,
                )
        elif chosen is Source.markdown:
            from knowledge_persistence.portability.markdown import import_markdown  # noqa: PLC0415

            with _progress("Importing") as say:
                report = import_markdown(
                    client,
                    source,
                    force=force,
                    deprecate_missing=deprecate_missing,
                    dry_run=dry_run,
                    allow_credentials=allow_credentials,
                    progress=say,
                )
        else:
            from knowledge_persistence.portability.claude_code import import_claude_code  # noqa: PLC0415

            with _progress("Reading") as say:
                report = import_claude_code(
                    client,
                    source,
                    project=project,
                    dry_run=dry_run,
                    allow_credentials=allow_credentials,
                    progress=say,
                )
    _tell(report, as_json)


def ingest(
    paths: Annotated[
        list[Path], typer.Argument(help="Files and directories: Markdown, HTML, text.", metavar="PATH…")
    ],
    *,
    category: Annotated[str, typer.Option(help="Category of the items.")] = "document",
    project: Annotated[str | None, typer.Option(help="Their project.")] = None,
    root: Annotated[
        str | None,
        typer.Option(
            help="The name that the documents go by, instead of the directory's path.", metavar="NAME"
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=50, max=8000, help="Tokens of text in a part (what the embedder reads).")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, max=1000, help="Tokens repeated where a section is split.")
    ] = None,
    dry_run: DryRunOption = False,
    allow_credentials: CredentialsOption = False,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Split documents at their headings into items, or bring those up to date with the files.

    Unchanged parts are left alone, changed ones edited, vanished ones deprecated.
    """
    from knowledge_persistence.portability import documents  # noqa: PLC0415

    tokens = max_tokens or documents.PART_TOKENS
    repeated = documents.OVERLAP_TOKENS if overlap is None else overlap
    if repeated * 2 > tokens:
        fail("the overlap is at most half of a part", _USAGE)
    with (
        open_client(url=url, workspace=workspace, session=False) as client,
        _progress("Reading") as say,
    ):
        report = documents.ingest(
            client,
            paths,
            category=category,
            project=project,
            root=root,
            max_tokens=tokens,
            overlap_tokens=repeated,
            dry_run=dry_run,
            allow_credentials=allow_credentials,
            progress=say,
        )
    _tell(report, as_json)


def _read_people(path: Path) -> dict[str, str]:
    try:
        told: object = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        fail(f"{path} can't be read: {error}", _USAGE)
    if not isinstance(told, dict):
        fail(f"{path} is no JSON object of ids to ids", _USAGE)
    return {str(old): str(new) for old, new in cast("dict[str, object]", told).items()}


def _plural(kind: str, count: int) -> str:
    if count == 1:
        return kind
    return {"history": "histories"}.get(kind, f"{kind}s")


def _tell(report: Report, as_json: bool) -> None:
    """Print what happened, and end with an error where something failed."""
    if as_json:
        emit_json(report.to_json())
    else:
        for kind, by_outcome in report.counts.items():
            told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(by_outcome.items()))
            out.print(f"{_plural(kind, sum(by_outcome.values()))}: {told}", soft_wrap=True)
        for trouble in report.troubles[:_TOLD]:
            err.print(
                clean(f"{trouble.where}: {trouble.outcome}: {trouble.reason}"), markup=False, soft_wrap=True
            )
        if len(report.troubles) > _TOLD:
            err.print(f"… and {len(report.troubles) - _TOLD} more; --json tells all of them.", markup=False)
        if not report.counts:
            err.print("There was nothing to do.")
        if report.dry_run:
            err.print("A dry run: nothing has changed.")
    if report.failed:
        raise typer.Exit(FAILED)


@contextmanager
def _progress(what: str) -> Generator[Callable[[int, int], None]]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as progress:
        task = progress.add_task(what, total=None)

        def say(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of)

        yield say
