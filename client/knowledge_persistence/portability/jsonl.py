"""JSON Lines: everything that the caller sees of a workspace, without loss, and back.

A file is a header, one line for each thing, and a trailer with the number of lines and their digest. Lines are
passed on as the database wrote them: a number with more digits than Python's have stays what it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from knowledge_persistence.errors import ConflictError, KnowledgePersistenceError, ServerError
from knowledge_persistence.models import ExportedHeader

from .report import Report, no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from typing import IO
    from uuid import UUID

    from knowledge_persistence import KnowledgeClient
    from knowledge_persistence.models import ImportedLine, JSONObject

    from .report import Progress

#: The version of the format that this reads and writes.
FORMAT_VERSION: Final = 1
#: An export over HTTP that was overtaken by a change is begun again so many times.
_ATTEMPTS: Final = 3
#: Lines and bytes that are sent at once.
_LINES: Final = 25
_BYTES: Final = 2_000_000
#: The database gave a statement up: a busy machine, or a short statement_timeout.
_TIMED_OUT: Final = "57014"


class DamagedExportError(KnowledgePersistenceError):
    """The file is no export, was cut off, altered, or written by a later version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSummary:
    """What an export holds.

    Attributes:
        lines: things in it, header and trailer not counted.
        counts: by kind.
        sha256: digest of all lines before the trailer, in hex.
        workspace: the workspace's name.
    """

    lines: int
    counts: dict[str, int]
    sha256: str
    workspace: str


def export_jsonl(
    client: KnowledgeClient, target: Path, *, embeddings: bool = False, progress: Progress = no_progress
) -> ExportSummary:
    """Write what the caller sees of the workspace into a file.

    The file is there when it is whole: until then it is written beside its place. It can be read by its owner only.
    A direct connection reads as of one moment. Over HTTP, what changes meanwhile is noticed, and the export begun
    again.

    Args:
        client: a client of the workspace.
        target: the file; what is there is replaced.
        embeddings: take the vectors along; else they are made anew where the file is imported.
        progress: told how many lines are written, and of how many.

    Raises:
        ConflictError: over HTTP, the memory changed during each of three attempts.
        NotFoundError: there is nothing to export yet.
    """
    handle, scratch = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            attempts = 1
            while True:
                file.seek(0)
                file.truncate()
                try:
                    summary = _write(client, file, embeddings=embeddings, progress=progress)
                    break
                except ConflictError:
                    if attempts == _ATTEMPTS:
                        raise
                    attempts += 1
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(target)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    return summary


def _write(
    client: KnowledgeClient, file: IO[bytes], *, embeddings: bool, progress: Progress
) -> ExportSummary:
    digest = hashlib.sha256()
    counts: dict[str, int] = {}
    header: ExportedHeader | None = None
    total = lines = 0
    for one in client.export_lines(with_embeddings=embeddings):
        if isinstance(one, ExportedHeader):
            header = one
            text = json.dumps(one.header, ensure_ascii=False)
            rows = cast("Mapping[str, int]", one.header["counts"])
            total = sum(count for kind, count in rows.items() if kind not in {"record", "history"})
        else:
            text = one.line
            kind = str(cast("Mapping[str, object]", json.loads(text))["kind"])
            counts[kind] = counts.get(kind, 0) + 1
            lines += 1
            progress(min(lines, total), max(total, 1))
        data = text.encode() + b"\n"
        digest.update(data)
        file.write(data)
    if header is None:
        raise DamagedExportError("the deployment gave no header")
    trailer = {"kind": "trailer", "lines": lines, "counts": counts, "sha256": digest.hexdigest()}
    file.write(json.dumps(trailer).encode() + b"\n")
    workspace = cast("Mapping[str, str]", header.header["workspace"])
    return ExportSummary(lines=lines, counts=counts, sha256=digest.hexdigest(), workspace=workspace["name"])


def read_header(source: Path) -> JSONObject:
    """Read what a file begins with, whatever became of the rest of it.

    Args:
        source: the file.

    Raises:
        DamagedExportError: it is no export, or of a later version.
    """
    with source.open("rb") as file:
        return _header(source, file.readline())


def check_jsonl(source: Path) -> tuple[JSONObject, ExportSummary]:
    """Read a whole file and say what is in it.

    Args:
        source: the file.

    Returns:
        its header, and what it holds.

    Raises:
        DamagedExportError: it is no export, was cut off or altered, or is of a later version.
    """
    digest = hashlib.sha256()
    header: JSONObject | None = None
    trailer: JSONObject | None = None
    lines = 0
    with source.open("rb") as file:
        for number, data in enumerate(file, 1):
            if trailer is not None:
                raise DamagedExportError(f"{source}:{number}: there is more after the end")
            if number == 1:
                header = _header(source, data)
            elif data.startswith(b'{"kind": "trailer"'):
                trailer = _trailer(source, data)
                continue
            else:
                lines += 1
            digest.update(data)
    if header is None:
        raise DamagedExportError(f"{source} is empty")
    if trailer is None:
        raise DamagedExportError(f"{source} has no end: it was cut off after {lines} lines; export it again")
    if trailer.get("lines") != lines or trailer.get("sha256") != digest.hexdigest():
        raise DamagedExportError(
            f"{source} is not what was exported: {lines} lines of {trailer.get('lines')}, and another digest;"
            " --damaged takes in what can be read"
        )
    workspace = cast("Mapping[str, str]", header["workspace"])
    return header, ExportSummary(
        lines=lines,
        counts=cast("dict[str, int]", trailer["counts"]),
        sha256=digest.hexdigest(),
        workspace=workspace["name"],
    )


def _trailer(source: Path, data: bytes) -> JSONObject:
    try:
        return cast("JSONObject", json.loads(data))
    except ValueError as error:
        raise DamagedExportError(f"{source} was cut off in its last line; export it again") from error


def _header(source: Path, data: bytes) -> JSONObject:
    try:
        header: object = json.loads(data)
    except ValueError:
        header = None
    if not isinstance(header, dict) or cast("JSONObject", header).get("format") != "knowledge-persistence":
        raise DamagedExportError(f"{source} is no export of this package: its first line is no header")
    known = cast("JSONObject", header)
    version = known.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise DamagedExportError(
            f"{source} is of version {version} of the format, this reads up to {FORMAT_VERSION}"
        )
    if not isinstance(known.get("workspace"), dict):
        raise DamagedExportError(f"{source}: the header names no workspace")
    return known


def import_jsonl(
    client: KnowledgeClient,
    source: Path,
    *,
    dry_run: bool = False,
    damaged: bool = False,
    allow_credentials: bool = False,
    workspace: UUID | None = None,
    people: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Take a file into the workspace.

    Done again it changes nothing, so an import that was interrupted is simply repeated. A line that can't be taken
    in is reported, and the rest goes in. The import is in the caller's name; the service keeps authors.

    Args:
        client: a client of the workspace.
        source: the file.
        dry_run: say what would happen. Lines are tried some at a time: what refers to an item of the file is
            counted as it would be with that item there.
        damaged: take a file that was cut off or altered for what it is, and what can be read of it.
        allow_credentials: take texts though they look like they hold credentials.
        workspace: for the service: where to.
        people: for the service: ids of people in the file, and who they are here.
        progress: told how many lines are done, and of how many.

    Raises:
        DamagedExportError: the file is no export, or was cut off or altered.
        PermissionDeniedError: the caller may record nothing in the workspace.
    """
    if damaged:
        with source.open("rb") as file:
            header = _header(source, file.readline())
        total = 1
    else:
        header, summary = check_jsonl(source)
        total = max(summary.lines, 1)
    exported_by = header.get("exported_by")
    report = Report(dry_run=dry_run)
    waiting: dict[str, set[str]] = {}
    done = 0
    for first, lines in _batches(source):
        send = partial(
            client.import_lines,
            exported_by=exported_by if isinstance(exported_by, str) else None,
            people=people,
            workspace=workspace,
            dry_run=dry_run,
            allow_credentials=allow_credentials,
        )
        for answer in _patiently(send, lines):
            where = f"{source.name}:{first + answer.line_index}"
            kind = answer.kind or "line"
            outcome, reason = answer.outcome, answer.reason
            if dry_run:
                if outcome == "created" and kind in {"item", "session", "test"} and answer.source_id:
                    waiting.setdefault(kind, set()).add(answer.source_id)
                elif outcome in {"failed", "skipped"} and _would_be_there(lines[answer.line_index], waiting):
                    outcome, reason = "created", None
            if outcome in {"failed", "skipped"} or reason is not None:
                report.trouble(kind, where, outcome, reason or "", answer.source_id)
            else:
                report.count(kind, outcome)
        done += len(lines)
        progress(min(done, total), total)
    return report


def _patiently(send: Callable[[list[str]], list[ImportedLine]], lines: list[str]) -> list[ImportedLine]:
    """Send lines; where the database has no time for all of them, in halves."""
    try:
        return send(lines)
    except ServerError as error:
        if error.code != _TIMED_OUT or len(lines) == 1:
            raise
    half = len(lines) // 2
    first = _patiently(send, lines[:half])
    return first + [replace(one, line_index=one.line_index + half) for one in _patiently(send, lines[half:])]


def _batches(source: Path) -> Generator[tuple[int, list[str]]]:
    """Read lines in portions; each comes with the number of its first line. Header and trailer stay out."""
    first, lines, size = 2, list[str](), 0
    number = 1
    with source.open("rb") as file:
        file.readline()
        for number, data in enumerate(file, 2):
            if data.startswith(b'{"kind": "trailer"'):
                continue
            if lines and (len(lines) >= _LINES or size + len(data) > _BYTES):
                yield first, lines
                first, lines, size = number, [], 0
            # PostgreSQL's text holds no zero byte, and what is no UTF-8 is no line of ours: both fail by themselves.
            lines.append(data.decode("utf-8", errors="replace").replace("\x00", "\ufffd").rstrip("\n"))
            size += len(data)
    if lines:
        yield first, lines


_REFERENCES: Final[Mapping[str, tuple[str, ...]]] = {
    "history": ("id",),
    "relationship": ("source_knowledge_id", "target_knowledge_id"),
    "link": ("knowledge_id",),
    "duplicate": ("keep_id", "duplicate_id"),
    "merge": ("keep_id", "duplicate_id"),
}


def _would_be_there(line: str, waiting: Mapping[str, set[str]]) -> bool:
    """Say whether a line fails in a dry run only because what it refers to was not kept."""
    try:
        told = cast("dict[str, object]", json.loads(line))
        kind = str(told["kind"])
        body = cast("dict[str, object]", told if kind == "history" else told[kind])
    except (ValueError, KeyError, TypeError):
        return False
    if kind == "result":
        return str(body.get("test_id")) in waiting.get("test", set())
    if kind == "link" and str(body.get("session_id")) in waiting.get("session", set()):
        return True
    names = _REFERENCES.get(kind, ())
    return bool(names) and any(str(body.get(name)) in waiting.get("item", set()) for name in names)
