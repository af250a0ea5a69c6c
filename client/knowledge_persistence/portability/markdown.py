"""Markdown with front matter: a folder that people edit in git, and that is taken in again.

One file an item. The front matter says which item it is and which state of it the file was written from, so that
an edit of the file is told from a change in the database, and neither is lost: where there are both, it is a
conflict, which is reported. A file without an id is a new item; it gets its id when it is taken in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, cast
from uuid import UUID

import frontmatter
import yaml

from knowledge_persistence.errors import APIError, CredentialError
from knowledge_persistence.models import NewKnowledge

from .report import Report, no_progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from knowledge_persistence import KnowledgeClient
    from knowledge_persistence.models import JSON, JSONObject, KnowledgeType, ValidationStatus

    from .report import Progress

#: Which items a folder holds, by id; what is deleted shows by it.
MANIFEST: Final = ".kp-export.json"
_MAX_BYTES: Final = 1_000_000

#: Front matter to column. What the file says of these is what the item becomes.
_COLUMNS: Final[Mapping[str, str]] = {
    "title": "title",
    "type": "knowledge_type",
    "category": "category",
    "subcategory": "subcategory",
    "project": "project_context",
    "importance": "importance_score",
    "triggers": "retrieval_triggers",
    "valid_from": "valid_from",
    "valid_to": "valid_to",
    "context": "context_data",
}
_DEFAULTS: Final[Mapping[str, JSON]] = {"type": "factual", "category": "general", "importance": 50}


@dataclass(frozen=True, slots=True)
class _Piece:
    """An item, as the database or as a file has it: columns, with the content stripped, and the status."""

    columns: JSONObject
    status: str

    @property
    def version(self) -> str:
        """A digest of what people edit."""
        told = json.dumps([self.columns, self.status], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Stored:
    """An item of the database."""

    id: str
    piece: _Piece
    record_kind: str | None
    is_superseded: bool
    updated_at: str
    created_at: str


@dataclass(slots=True)
class _File:
    """A file of the folder."""

    path: Path
    piece: _Piece
    id: str | None
    version: str | None
    record_kind: str | None


def export_markdown(
    client: KnowledgeClient, folder: Path, *, force: bool = False, progress: Progress = no_progress
) -> Report:
    """Write the items that the caller sees and that are in use into a folder, one file each.

    A file that was edited and not taken in is left alone, unless `force`. A file that was moved or renamed is
    written where it is. What is no longer in use, and whose file nobody has edited, is taken out.

    Args:
        client: a client of the workspace.
        folder: the folder; made if it isn't there.
        force: write over edits.
        progress: told how many items are done, and of how many.

    Returns:
        by outcome: written, unchanged, removed, conflict.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = Report()
    stored = {one.id: one for one in _read_items(client)}
    present = {file.id: file for file in _read_folder(folder, report) if file.id is not None}
    in_use = [one for one in stored.values() if not one.is_superseded and one.piece.status != "deprecated"]
    manifest: dict[str, str] = {}
    for done, one in enumerate(sorted(in_use, key=lambda each: (each.created_at, each.id)), 1):
        file = present.get(one.id)
        path = folder / _path_of(one) if file is None else file.path
        manifest[one.id] = path.relative_to(folder).as_posix()
        where = manifest[one.id]
        if file is not None and not force and file.piece.version not in {file.version, one.piece.version}:
            report.trouble("item", where, "conflict", "the file was edited and not imported", one.id)
        elif file is not None and file.piece.version == one.piece.version == file.version:
            report.count("item", "unchanged")
        else:
            _write(path, one)
            report.count("item", "written")
        progress(done, len(in_use))
    for identifier in _read_manifest(folder).keys() - manifest.keys():
        file = present.get(identifier)
        if file is None:
            continue
        if file.piece.version == file.version or force:
            file.path.unlink()
            report.count("item", "removed")
        else:
            where = file.path.relative_to(folder).as_posix()
            report.trouble("item", where, "conflict", "no longer in use, but the file was edited", identifier)
            manifest[identifier] = where
    _write_manifest(folder, manifest)
    return report


def import_markdown(
    client: KnowledgeClient,
    folder: Path,
    *,
    force: bool = False,
    deprecate_missing: bool = False,
    dry_run: bool = False,
    allow_credentials: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Take a folder in: new files become items, edited files edit theirs, and nothing becomes two.

    Args:
        client: a client of the workspace.
        folder: the folder.
        force: where both the file and the database have changed, the file wins.
        deprecate_missing: an item whose file is gone is deprecated; otherwise it is only counted.
        dry_run: say what would happen.
        allow_credentials: take texts though they look like they hold credentials.
        progress: told how many files are done, and of how many.

    Returns:
        by outcome: created, edited, unchanged, duplicate, outdated (the database is newer), missing, deprecated,
        conflict, failed.
    """
    report = Report(dry_run=dry_run)
    stored = {one.id: one for one in _read_items(client)}
    manifest = _read_manifest(folder)
    # Of two files with one id the one that was exported is the item's, the other a copy.
    files = sorted(
        _read_folder(folder, report),
        key=lambda file: manifest.get(file.id or "") != file.path.relative_to(folder).as_posix(),
    )
    seen: dict[str, str] = {}
    troubled = {trouble.where for trouble in report.troubles}
    # What could not be read, or lies below what could not, isn't gone.
    unreadable = {
        path
        for path in manifest.values()
        if path in troubled
        or any(f"{above.as_posix()}/" in troubled for above in PurePosixPath(path).parents)
    }
    options = _Options(force, dry_run, allow_credentials)
    for done, file in enumerate(files, 1):
        where = file.path.relative_to(folder).as_posix()
        if file.id is not None and file.id in seen:
            reason = f"{seen[file.id]} has the same id; take it out of the copy"
            report.trouble("item", where, "failed", reason, file.id)
        else:
            _take_in(client, file, stored, report, where, options)
            if file.id is not None:
                seen[file.id] = where
        progress(done, len(files))
    for identifier, path in sorted(manifest.items(), key=lambda pair: pair[1]):
        one = stored.get(identifier)
        if identifier in seen or path in unreadable or one is None or one.piece.status == "deprecated":
            continue
        if not _let_go(client, one, path, report, deprecate=deprecate_missing, dry_run=dry_run):
            seen[identifier] = path
    if not dry_run:
        _write_manifest(folder, seen | {key: path for key, path in manifest.items() if path in unreadable})
    return report


@dataclass(frozen=True, slots=True)
class _Options:
    force: bool
    dry_run: bool
    allow_credentials: bool


def _take_in(
    client: KnowledgeClient,
    file: _File,
    stored: Mapping[str, _Stored],
    report: Report,
    where: str,
    options: _Options,
) -> None:
    known = None if file.id is None else stored.get(file.id)
    try:
        if known is None:
            file.id = _create(client, file, report, where, options)
        else:
            _bring_up(client, file, known, report, where, options)
    except (APIError, ValueError) as error:
        report.trouble("item", where, "failed", _words(error), file.id)


def _let_go(
    client: KnowledgeClient, one: _Stored, path: str, report: Report, *, deprecate: bool, dry_run: bool
) -> bool:
    """Deprecate an item whose file is gone, where that is wanted, and say whether it was done."""
    if not deprecate:
        report.trouble(
            "item", path, "missing", "the file is gone; --deprecate-missing deprecates its item", one.id
        )
        return False
    try:
        if not dry_run:
            client.validate(one.id, "deprecated", note=f"{path} was deleted")
    except APIError as error:
        report.trouble("item", path, "failed", _words(error), one.id)
        return False
    report.count("item", "deprecated")
    return True


def _create(
    client: KnowledgeClient, file: _File, report: Report, where: str, options: _Options
) -> str | None:
    columns = file.piece.columns
    if options.dry_run:
        report.count("item", "created")
        return file.id
    [recorded] = client.remember_many(
        [
            NewKnowledge(
                content=str(columns["content"]),
                title=str(columns["title"]),
                knowledge_type=cast("KnowledgeType", columns["knowledge_type"]),
                category=str(columns["category"]),
                subcategory=cast("str | None", columns["subcategory"]),
                context_data=cast("JSONObject | None", columns["context_data"]),
                importance_score=cast("int", columns["importance_score"]),
                retrieval_triggers=cast("list[str] | None", columns["retrieval_triggers"]),
                project_context=cast("str | None", columns["project_context"]),
                valid_from=_moment(columns["valid_from"]),
                valid_to=_moment(columns["valid_to"]),
            )
        ],
        allow_credentials=options.allow_credentials,
    )
    identifier = str(recorded.knowledge_id)
    report.count("item", recorded.outcome)
    if recorded.outcome == "created" and file.piece.status not in {"pending", recorded.validation_status}:
        try:
            client.validate(identifier, cast("ValidationStatus", file.piece.status))
        except APIError as error:
            report.note("item", where, "pending", _words(error), identifier)
    _refresh(client, file, identifier)
    return identifier


def _bring_up(
    client: KnowledgeClient, file: _File, known: _Stored, report: Report, where: str, options: _Options
) -> None:
    if file.piece.version == known.piece.version:
        if file.version != known.piece.version and not options.dry_run:
            _write(file.path, known)
        report.count("item", "unchanged")
        return
    if file.piece.version == file.version:
        report.trouble("item", where, "outdated", "it has changed here since; export again", known.id)
        return
    if file.version != known.piece.version and not options.force:
        report.trouble(
            "item",
            where,
            "conflict",
            "edited in the file and changed here since; export elsewhere and compare, or --force the file's words",
            known.id,
        )
        return
    changes: JSONObject = {
        name: value for name, value in file.piece.columns.items() if value != known.piece.columns[name]
    }
    if (
        changes
        and known.record_kind is not None
        and changes.keys() - {"importance_score", "context_data", "subcategory"}
    ):
        kind = known.record_kind.replace("_", " ")
        report.trouble("item", where, "failed", f"it is rendered from a {kind}: edit that", known.id)
        return
    if not options.dry_run:
        read = datetime.fromisoformat(known.updated_at)
        if changes:
            read = client.edit(
                known.id, changes, unchanged_since=read, allow_credentials=options.allow_credentials
            ).updated_at
        if file.piece.status != known.piece.status:
            client.validate(
                known.id,
                cast("ValidationStatus", file.piece.status),
                note=f"as {where} says",
                unchanged_since=read,
            )
        _refresh(client, file, known.id)
    report.count("item", "edited")


def _refresh(client: KnowledgeClient, file: _File, identifier: str) -> None:
    """Write a file anew from what the database has now, so that the next import compares with that."""
    item = client.get(identifier)
    columns: JSONObject = {
        "title": item.title,
        "content": item.content,
        "knowledge_type": item.knowledge_type,
        "category": item.category,
        "subcategory": item.subcategory,
        "project_context": item.project_context,
        "importance_score": item.importance_score,
        "retrieval_triggers": None if item.retrieval_triggers is None else list(item.retrieval_triggers),
        "valid_from": None if item.valid_from is None else item.valid_from.isoformat(),
        "valid_to": None if item.valid_to is None else item.valid_to.isoformat(),
        "context_data": item.context_data,
    }
    _write(
        file.path,
        _Stored(
            id=identifier,
            piece=_piece(columns, item.validation_status),
            record_kind=file.record_kind,
            is_superseded=False,
            updated_at=item.updated_at.isoformat(),
            created_at=item.created_at.isoformat(),
        ),
    )


def _read_items(client: KnowledgeClient) -> Iterator[_Stored]:
    for record in client.export_items():
        told = cast("JSONObject", json.loads(record.line))
        item = cast("JSONObject", told["item"])
        yield _Stored(
            id=str(told["id"]),
            piece=_piece(item, str(item["validation_status"])),
            record_kind=cast("str | None", told.get("record_kind")),
            is_superseded=item.get("superseded_by") is not None,
            updated_at=str(item["updated_at"]),
            created_at=str(item["created_at"]),
        )


def _piece(item: Mapping[str, JSON], status: str) -> _Piece:
    columns: JSONObject = {name: item.get(name) for name in _COLUMNS.values()}
    for name in ("valid_from", "valid_to"):
        columns[name] = _instant(columns[name])
    # Front matter keeps no white space around the text.
    columns["content"] = str(item.get("content", "")).strip()
    return _Piece(columns, status)


def _instant(value: JSON) -> str | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(str(value))
    return (moment if moment.tzinfo else moment.astimezone()).isoformat()


def _moment(value: JSON) -> datetime | None:
    return None if value is None else datetime.fromisoformat(str(value))


# -- files


def _read_folder(folder: Path, report: Report) -> Iterator[_File]:
    def fail(error: OSError) -> None:
        where = Path(error.filename).relative_to(folder).as_posix()
        report.trouble("item", f"{where}/", "failed", error.strerror or str(error))

    for directory, names, files in os.walk(folder, onerror=fail):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(directory) / name
            if name.startswith(".") or path.suffix.lower() != ".md":
                continue
            where = path.relative_to(folder).as_posix()
            try:
                yield _read_file(path)
            except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
                report.trouble("item", where, "failed", _words(error))


def _read_file(path: Path) -> _File:
    if path.is_symlink():
        raise ValueError("a symbolic link is not followed")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    post = frontmatter.loads(path.read_bytes().decode("utf-8-sig"))
    # YAML gives numbers, dates and truth where people write words.
    told = dict(post.metadata)
    identifier = told.get("id")
    if identifier is not None:
        identifier = str(UUID(str(identifier)))
    content = post.content
    title = told.get("title")
    if title is None:
        heading = re.match(r"#\s+(.+?)\s*#*\s*(?:\n|$)", content)
        title = heading[1] if heading else path.stem.replace("-", " ").replace("_", " ")
    columns: JSONObject = {"title": str(title).strip(), "content": content}
    for name, column in _COLUMNS.items():
        if name == "title":
            continue
        value = told.get(name)
        columns[column] = _DEFAULTS.get(name) if value is None else _column(name, value)
    version = told.get("version")
    record = told.get("record")
    return _File(
        path=path,
        piece=_piece(columns, str(told.get("status") or "pending")),
        id=identifier,
        version=None if version is None else str(version),
        record_kind=None if record is None else str(record),
    )


def _column(name: str, value: object) -> JSON:
    if name == "importance":
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"importance is a number from 1 to 100, not {value!r}")
        return value
    if name == "triggers":
        words = cast("list[object]", value) if isinstance(value, list) else [value]
        return [str(word) for word in words] or None
    if name == "context":
        if not isinstance(value, dict):
            raise ValueError("context is a mapping")
        return cast("JSON", json.loads(json.dumps(value, default=str)))
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, (dict, list)):
        raise ValueError(f"{name} is text")  # noqa: TRY004 - a file's fault, like the others
    return str(value)


def _write(path: Path, one: _Stored) -> None:
    columns = one.piece.columns
    told: dict[str, JSON] = {"id": one.id}
    for name, column in _COLUMNS.items():
        if columns[column] is not None:
            told[name] = columns[column]
    told["status"] = one.piece.status
    if one.record_kind is not None:
        told["record"] = one.record_kind
    told["version"] = one.piece.version
    post = frontmatter.Post(str(columns["content"]))
    post.metadata.update(told)
    text = frontmatter.dumps(post, sort_keys=False, allow_unicode=True, width=1000) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, text)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, and through no link that somebody has put there."""
    scratch = path.with_name(f".{secrets.token_hex(8)}.new")
    try:
        with scratch.open("xb") as file:
            file.write(text.encode())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _path_of(one: _Stored) -> Path:
    columns = one.piece.columns
    name = f"{_slug(str(columns['title']), 60)}-{one.id[:8]}.md"
    return Path(_slug(str(columns["category"]), 40)) / name


def _slug(text: str, length: int) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:length].rstrip("-") or "item"


def _read_manifest(folder: Path) -> dict[str, str]:
    try:
        told = cast("JSONObject", json.loads((folder / MANIFEST).read_text("utf-8")))
        return {str(key): str(path) for key, path in cast("JSONObject", told["items"]).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / MANIFEST} can't be read: {error}") from error


def _write_manifest(folder: Path, items: Mapping[str, str]) -> None:
    told = {"format": "knowledge-persistence markdown", "version": 1, "items": dict(sorted(items.items()))}
    _replace(folder / MANIFEST, json.dumps(told, indent=1) + "\n")


def _words(error: Exception) -> str:
    if isinstance(error, CredentialError):
        return f"{error.message}; --allow-credentials takes it all the same"
    return error.message if isinstance(error, APIError) else " ".join(str(error).split())
