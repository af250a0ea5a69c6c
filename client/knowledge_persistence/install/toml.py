"""One table of a TOML file, added or removed with all else left as it was written.

A table may stand at the end of any TOML file, so that is where it is put; whether the file still says the same
besides is checked by reading both.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEADER: Final = re.compile(r"^[ \t]*\[", re.MULTILINE)
_TAIL: Final = re.compile(r"(?<=\n)(?:[ \t]*(?:#[^\n]*)?(?:\n|\Z))+\Z")
_BLANK: Final = re.compile(r"(?:\n|\A)(\r?\n)\Z")


class TomlSyntaxError(ValueError):
    """The text is not TOML, or the table is written in a way that is not understood here."""


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        TomlSyntaxError: the text is something else.
    """
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise TomlSyntaxError(str(error)) from error


def get_table(text: str, path: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the table at a path as data, or None."""
    found: Any = parse_toml(text)
    for key in path:
        found = cast("dict[str, Any]", found).get(key) if isinstance(found, dict) else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def put_table(
    text: str, path: tuple[str, ...], table: Mapping[str, str | Sequence[str] | Mapping[str, str]]
) -> str:
    """Write a table of strings, lists of strings and tables of strings; one that is there is replaced.

    Raises:
        TomlSyntaxError: the text is not TOML, or doesn't let the table be added.
    """
    if get_table(text, path) == table:
        return text
    rest = remove_table(text, path)
    newline = "\r\n" if "\r\n" in rest else "\n"
    name = ".".join(_key(part) for part in path)
    lines = [f"[{name}]"]
    lines += [f"{_key(key)} = {_value(value)}" for key, value in table.items()]
    gap = "" if not rest.strip("\ufeff") else newline if rest.endswith("\n") else 2 * newline
    after = rest + gap + newline.join(lines) + newline
    expected = parse_toml(rest)
    _put(expected, path, dict(table))
    try:
        holds = parse_toml(after) == expected
    except TomlSyntaxError:
        holds = False
    if not holds:
        raise TomlSyntaxError(f"{'.'.join(path[:-1])} is written in a way that [{name}] can't be added to")
    return after


def remove_table(text: str, path: tuple[str, ...]) -> str:
    """Take out a table with what is below it. Not there: the text comes back as it is.

    Raises:
        TomlSyntaxError: the text is not TOML, or the table isn't under a header of its own.
    """
    data = parse_toml(text)
    if get_table(text, path) is None:
        return text
    name = r"[ \t]*\.[ \t]*".join(
        rf"""(?:{re.escape(part)}|"{re.escape(part)}"|'{re.escape(part)}')""" for part in path
    )
    header = re.compile(rf"^[ \t]*\[[ \t]*{name}[ \t]*(?:\.[^\]\n]*)?\]", re.MULTILINE)
    rest = text
    while (found := header.search(rest)) is not None:
        following = _HEADER.search(rest, found.end())
        block = rest[found.start() : following.start() if following else len(rest)]
        # Blank lines and comments at its end belong to what comes next; the blank line before it was put there with it.
        end = found.start() + len(_TAIL.sub("", block))
        begin = found.start()
        if blank := _BLANK.search(rest[:begin]):
            begin = blank.start(1)
        rest = rest[:begin] + rest[end:]
    _drop(data, path)
    expected = {key: value for key, value in data.items() if value != {}}
    try:
        left = {key: value for key, value in parse_toml(rest).items() if value != {}}
    except TomlSyntaxError:
        left = None
    if left != expected:
        raise TomlSyntaxError(
            f"{'.'.join(path)} is written in a way that can't be taken out: remove it by hand"
        )
    return rest


def _key(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part, ensure_ascii=False)


def _value(value: str | Sequence[str] | Mapping[str, str]) -> str:
    # A JSON string is a TOML string, but for DEL, which a path or a URL has no use for.
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(json.dumps(one, ensure_ascii=False) for one in value) + "]"
    members = cast("Mapping[str, str]", value)
    return "{ " + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in members.items()) + " }"


def _put(data: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for key in path[:-1]:
        data = data.setdefault(key, {})
    data[path[-1]] = value


def _drop(data: dict[str, Any], path: tuple[str, ...]) -> None:
    if len(path) == 1:
        del data[path[0]]
        return
    _drop(data[path[0]], path[1:])
    if not data[path[0]]:
        del data[path[0]]
