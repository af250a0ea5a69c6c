"""What installing and uninstalling changes in a tool's files: planned first, shown, then written.

Ours in a file are the server's entry, by its name, and the hooks whose command is `… hook <event> --tool <tool>`.
Installing adds or renews exactly these, uninstalling takes exactly these out. What else the file says is compared
before and after; where it would differ, nothing is written.

A record of each file in the data directory lets uninstalling give back the very bytes: it knows whether the file was
there, which objects in it were, and, where taking ours out doesn't lead back to them, the bytes themselves.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import shlex
import stat
import tempfile
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from knowledge_persistence.errors import ConfigurationError

from .jsonc import JsonDocument, JsonSyntaxError, parse_jsonc, paths_below
from .toml import TomlSyntaxError, get_table, put_table, remove_table
from .tools import HOOK_EVENTS, HOOK_TIMEOUT, SERVER_NAME, ConfigFile, Hook, Launch, Scope, Tool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path as FilePath

    from knowledge_persistence.models import JSON, JSONObject

    from .jsonc import Path

_RECORDS: Final = "installations.json"


@dataclass(frozen=True, slots=True)
class Change:
    """One file, before and after. None: there is no file.

    Attributes:
        path: the file; where that is a link, it is followed.
        before: its bytes now.
        after: its bytes then.
        record: what uninstalling will need to know; None: forget the record.
    """

    path: FilePath
    before: bytes | None
    after: bytes | None
    record: Record | None

    @property
    def is_needed(self) -> bool:
        """Whether anything changes."""
        return self.before != self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a file was before we came.

    Attributes:
        tool: the tool.
        existed: whether the file did.
        directory_existed: whether the directory did.
        digest: SHA-256 of the file as we left it.
        made: the objects and arrays that were made for ours.
        original: its bytes, where taking ours out doesn't lead back to them.
    """

    tool: str
    existed: bool
    directory_existed: bool
    digest: str
    made: tuple[Path, ...] = ()
    original: bytes | None = field(default=None, repr=False)


class Records:
    """The records of a data directory.

    Args:
        home: the data directory; made when the first record is saved.
    """

    def __init__(self, home: FilePath) -> None:
        self._path = home / _RECORDS

    def get(self, path: FilePath) -> Record | None:
        """Return the record of a file, or None."""
        entry = self._load().get(str(path))
        if entry is None:
            return None
        try:
            original = entry.get("original")
            return Record(
                tool=str(entry["tool"]),
                existed=bool(entry["existed"]),
                directory_existed=bool(entry["directory_existed"]),
                digest=str(entry["digest"]),
                made=tuple(tuple(one) for one in entry["made"]),
                original=None if original is None else base64.b64decode(original, validate=True),
            )
        except (KeyError, TypeError, binascii.Error) as error:
            raise ConfigurationError(f"{self._path} has an unreadable entry for {path}: {error!r}") from error

    def save(self, changes: Sequence[Change]) -> None:
        """Keep the records of changes that were made."""
        entries = self._load()
        for change in changes:
            if change.record is None:
                entries.pop(str(change.path), None)
                continue
            record = change.record
            entries[str(change.path)] = {
                "tool": record.tool,
                "existed": record.existed,
                "directory_existed": record.directory_existed,
                "digest": record.digest,
                "made": [list(one) for one in record.made],
                "original": None if record.original is None else base64.b64encode(record.original).decode(),
            }
        if entries or self._path.exists():
            # For the owner alone: what was in a tool's settings may be secret.
            text = json.dumps(entries, indent=2, sort_keys=True) + "\n"
            write_atomically(self._path, text.encode(), mode=0o600)

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            return cast("dict[str, dict[str, Any]]", json.loads(self._path.read_text("utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{self._path} can't be read: {error}") from error


def plan_install(
    tool: Tool,
    launch: Launch,
    *,
    person: FilePath,
    project: FilePath,
    scope: Scope,
    hooks: bool,
    records: Records,
) -> list[Change]:
    """Work out what installing changes.

    Args:
        tool: the coding agent.
        launch: how it starts us.
        person: the person's home directory.
        project: the project's directory.
        scope: the person's configuration, or the project's.
        hooks: whether hooks are installed; else they are taken out.
        records: the records.

    Raises:
        ConfigurationError: a file can't be read, or isn't understood.
    """
    return [
        _planned(
            tool,
            file,
            file.locate(person, project, scope),
            records,
            # Without hooks, nothing of ours is left in a file that is for hooks alone.
            launch=launch if hooks or file.server is not None else None,
            hooks=hooks,
        )
        for file in tool.files
    ]


def plan_uninstall(
    tool: Tool, *, person: FilePath, project: FilePath, scope: Scope, records: Records
) -> list[Change]:
    """Work out what uninstalling changes; see `plan_install`."""
    return [
        _planned(tool, file, file.locate(person, project, scope), records, launch=None, hooks=False)
        for file in tool.files
    ]


def apply(changes: Sequence[Change], records: Records) -> None:
    """Write what was planned: each file whole or not at all, with its mode.

    Raises:
        ConfigurationError: a file changed since the plan, or can't be written.
    """
    for change in changes:
        if change.is_needed and _read(change.path) != change.before:
            raise ConfigurationError(
                f"{change.path} was changed meanwhile; nothing was written to it. Try again."
            )
    # A record first: a file without one can't be given back, a record without a change does no harm.
    records.save([change for change in changes if change.record is not None])
    for change in changes:
        if not change.is_needed:
            continue
        if change.after is None:
            try:
                change.path.unlink()
            except OSError as error:
                raise ConfigurationError(f"{change.path} can't be removed: {error.strerror}") from error
            known = records.get(change.path)
            if known is not None and not known.directory_existed:
                # One that holds more by now stays.
                with contextlib.suppress(OSError):
                    change.path.parent.rmdir()
        else:
            write_atomically(change.path, change.after)
    records.save([change for change in changes if change.record is None])


def write_atomically(path: FilePath, content: bytes, *, mode: int | None = None) -> None:
    """Write a file whole or not at all, keeping its mode.

    Args:
        path: the file.
        content: what it is to hold.
        mode: its mode; None: the one it has, or what is usual for a new file.

    Raises:
        ConfigurationError: it can't be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        owner: os.stat_result | None = None
        with contextlib.suppress(FileNotFoundError):
            owner = path.stat()
        if mode is None:
            mode = stat.S_IMODE(owner.st_mode) if owner else 0o666 & ~_umask()
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
            if owner is not None and (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        os.replace(temporary, path)  # noqa: PTH105 - one call, and the name is already a string
        temporary = None
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            os.unlink(temporary)  # noqa: PTH108


def _umask() -> int:
    # There is no way to ask for it but to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _read(path: FilePath) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from error


def _planned(
    tool: Tool, file: ConfigFile, path: FilePath, records: Records, *, launch: Launch | None, hooks: bool
) -> Change:
    # A link stays a link: what it leads to is written.
    path = path.resolve()
    before = _read(path)
    record = records.get(path)
    try:
        text = (before or b"").decode("utf-8")
        if launch is None:
            if before is None:
                return Change(path, None, None, None)
            return Change(path, before, _without(tool, file, before, text, record), None)
        after, made = _with(tool, file, text, launch, hooks=hooks)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8; nothing was changed") from error
    except (JsonSyntaxError, TomlSyntaxError) as error:
        raise ConfigurationError(
            f"{path} can't be understood: {error}. Nothing was changed; mend it, and try again."
        ) from error
    written = after.encode()
    untouched = record is not None and before is not None and record.digest == _digest(before)
    kept = record if untouched else None
    made = tuple(dict.fromkeys((*(kept.made if kept else ()), *made)))
    existed = kept.existed if kept else before is not None
    # What the file was without ours: that is what uninstalling has to lead back to.
    base = kept.original if kept and kept.original is not None else _taken_out(tool, file, text, made)
    leads_back = _taken_out(tool, file, after, made) == base
    return Change(
        path,
        before,
        written,
        Record(
            tool=tool.name,
            existed=existed,
            directory_existed=kept.directory_existed if kept else path.parent.exists(),
            digest=_digest(written),
            made=made,
            original=None if leads_back or not existed else base,
        ),
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _without(tool: Tool, file: ConfigFile, before: bytes, text: str, record: Record | None) -> bytes | None:
    if record is not None and record.digest == _digest(before):
        if not record.existed:
            return None
        if record.original is not None:
            return record.original
    after = _taken_out(tool, file, text, record.made if record else None)
    if record is not None and not record.existed and _is_bare(file, after):
        return None
    return after


def _is_bare(file: ConfigFile, content: bytes) -> bool:
    """Tell whether nothing but what we put there by default is left in a file."""
    text = content.decode()
    if file.toml:
        return not text.strip()
    return parse_jsonc(text) in ({}, dict(file.defaults or {}))


def _with(
    tool: Tool, file: ConfigFile, text: str, launch: Launch, *, hooks: bool
) -> tuple[str, tuple[Path, ...]]:
    """Return a file's text with ours, and what was made for ours."""
    if file.toml:
        return put_table(text, _server_path(file), _entry(file, launch)), ()
    document = JsonDocument(text)
    if not isinstance(document.value, dict):
        raise JsonSyntaxError("the whole is not an object")
    others = _others(tool, file, document.value)
    made: list[Path] = []

    def note(path: Path) -> None:
        made.extend(one for one in paths_below(path) if not document.has(one) and one not in made)

    for key, value in (file.defaults or {}).items():
        if not document.has((key,)):
            document.set((key,), value)
    if file.server is not None:
        note(_server_path(file))
        document.set(_server_path(file), _entry(file, launch))
    for event in dict.fromkeys(hook.event for hook in file.hooks):
        path: Path = ("hooks", event)
        wanted: list[JSON] = [
            _hook_entry(tool, file, hook, launch) for hook in file.hooks if hooks and hook.event == event
        ]
        if wanted:
            note((*path, 0))
        _put_hooks(tool, document, path, wanted)
    if _others(tool, file, document.value) != others:
        raise JsonSyntaxError("it is written in a way that changes would spoil")
    return document.text, tuple(made)


def _put_hooks(tool: Tool, document: JsonDocument, path: Path, wanted: list[JSON]) -> None:
    """Make our hooks of an event these, where they aren't already."""
    if _ours(tool, document.get(path)) == wanted:
        return
    _take_out_hooks(tool, document, path)
    for entry in wanted:
        document.append(path, entry)


def _taken_out(tool: Tool, file: ConfigFile, text: str, made: Sequence[Path] | None) -> bytes:
    """Return a file's content without ours.

    Args:
        tool: the tool.
        file: which of its files.
        text: the file's text.
        made: the objects and arrays to take along where they are empty then; None: all that lead to ours.
    """
    if file.toml:
        return remove_table(text, _server_path(file)).encode()
    if not text.strip():
        return text.encode()
    document = JsonDocument(text)
    if not isinstance(document.value, dict):
        raise JsonSyntaxError("the whole is not an object")
    others = _others(tool, file, document.value)
    emptied: list[Path] = []
    if file.server is not None and document.has(_server_path(file)):
        document.remove(_server_path(file))
        emptied.append((file.server,))
    for event in dict.fromkeys(hook.event for hook in file.hooks):
        if _take_out_hooks(tool, document, ("hooks", event)):
            emptied += [("hooks", event), ("hooks",)]
    for path in emptied:
        if document.get(path) in ({}, []) and (made is None or path in made):
            document.remove(path)
    if _others(tool, file, document.value) != others:
        raise JsonSyntaxError("it is written in a way that changes would spoil: take it out by hand")
    return document.text.encode()


def _server_path(file: ConfigFile) -> tuple[str, str]:
    return (str(file.server), SERVER_NAME)


def _entry(file: ConfigFile, launch: Launch) -> dict[str, Any]:
    assert file.entry is not None  # noqa: S101 - it comes with the server
    return file.entry(launch)


def _hook_entry(tool: Tool, file: ConfigFile, hook: Hook, launch: Launch) -> JSONObject:
    words = [*launch.command, "hook", hook.runs, "--tool", tool.name]
    if launch.environment:
        words = ["env", *(f"{name}={value}" for name, value in launch.environment.items()), *words]
    command: JSONObject = {"command": shlex.join(words), "timeout": HOOK_TIMEOUT * file.timeout_unit}
    if not file.grouped:
        return command if hook.matcher is None else {**command, "matcher": hook.matcher}
    command = {"type": "command", **command, **(hook.extra or {})}
    group: JSONObject = {"hooks": [command]}
    return group if hook.matcher is None else {"matcher": hook.matcher, **group}


def _is_ours(tool: Tool, value: JSON) -> bool:
    """Tell whether a hook's entry, or a group of hooks, is one that we made."""
    if not isinstance(value, dict):
        return False
    inner = value.get("hooks")
    if isinstance(inner, list):
        return bool(inner) and all(_is_ours(tool, one) for one in inner)
    command = value.get("command")
    if not isinstance(command, str):
        return False
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    return any(words[-4:] == ["hook", event, "--tool", tool.name] for event in HOOK_EVENTS)


def _ours(tool: Tool, values: JSON) -> list[JSON]:
    return [value for value in values if _is_ours(tool, value)] if isinstance(values, list) else []


def _take_out_hooks(tool: Tool, document: JsonDocument, path: Path) -> bool:
    """Take our hooks out of an event's array, also where somebody moved them into a group of their own."""
    found = False
    values = document.get(path)
    for index in reversed(range(len(values) if isinstance(values, list) else 0)):
        here: Path = (*path, index)
        if _is_ours(tool, document.get(here)):
            document.remove(here)
            found = True
            continue
        inner = document.get((*here, "hooks"))
        for position in reversed(range(len(inner) if isinstance(inner, list) else 0)):
            if _is_ours(tool, document.get((*here, "hooks", position))):
                document.remove((*here, "hooks", position))
                found = True
    return found


def _others(tool: Tool, file: ConfigFile, value: JSON) -> JSON:
    """Return what a file says besides ours, without what is empty: that must not change."""
    data = cast("dict[str, Any]", deepcopy(value))
    servers = data.get(file.server) if file.server else None
    if isinstance(servers, dict):
        cast("dict[str, Any]", servers).pop(SERVER_NAME, None)
    for key, default in (file.defaults or {}).items():
        if data.get(key) == default:
            del data[key]
    if not file.hooks:
        return _not_empty(data)
    hooks = data.get("hooks")
    for entries in cast("dict[str, Any]", hooks).values() if isinstance(hooks, dict) else ():
        if not isinstance(entries, list):
            continue
        entries = cast("list[Any]", entries)
        entries[:] = [one for one in entries if not _is_ours(tool, one)]
        for one in entries:
            if isinstance(one, dict) and isinstance(inner := cast("dict[str, Any]", one).get("hooks"), list):
                inner = cast("list[Any]", inner)
                inner[:] = [hook for hook in inner if not _is_ours(tool, hook)]
    return _not_empty(data)


def _not_empty(data: dict[str, Any]) -> dict[str, Any]:
    result = dict(data)
    if isinstance(hooks := result.get("hooks"), dict):
        result["hooks"] = {
            name: entries for name, entries in cast("dict[str, Any]", hooks).items() if entries != []
        }
    return {key: value for key, value in result.items() if value not in ({}, [])}


def is_installed(tool: Tool, *, person: FilePath, project: FilePath, scope: Scope) -> bool:
    """Tell whether a tool's configuration names our server.

    Raises:
        ConfigurationError: a file can't be read, or isn't understood.
    """
    for file in tool.files:
        if file.server is None:
            continue
        path = file.locate(person, project, scope)
        text = (_read(path) or b"").decode("utf-8", errors="replace")
        try:
            if file.toml:
                return get_table(text, _server_path(file)) is not None
            return JsonDocument(text).has(_server_path(file))
        except (JsonSyntaxError, TomlSyntaxError) as error:
            raise ConfigurationError(f"{path} can't be understood: {error}") from error
    return False
