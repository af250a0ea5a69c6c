"""Edits of JSON files that leave everything else as it was written.

Settings files have comments, trailing commas and somebody's own formatting, which reading and writing the data
would lose. So the text is parsed for where things stand, and a change cuts or inserts there. What is removed leaves
behind what had been there before it was inserted.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from knowledge_persistence.models import JSON

#: A way into a document: keys of objects and positions in arrays.
Path: TypeAlias = "tuple[str | int, ...]"

_TRIVIA: Final = re.compile(r"(?:[ \t\r\n\ufeff]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_SAME_LINE: Final = re.compile(r"(?:[ \t]*(?://[^\r\n]*|/\*[^\r\n]*?\*/))*")
_STRING: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_INDENT: Final = re.compile(r'^([ \t]+)["\[{]', re.MULTILINE)


class JsonSyntaxError(ValueError):
    """The text is not JSON, comments and trailing commas allowed."""


@dataclass(slots=True)
class _Node:
    """A value and where it stands: text[start:end]."""

    start: int
    end: int
    value: JSON
    #: Of an object or array: its values by key or position, and where each begins (with its key).
    children: dict[str | int, _Node] = field(default_factory=dict["str | int", "_Node"])
    begins: dict[str | int, int] = field(default_factory=dict["str | int", int])


class JsonDocument:
    """A JSON text that can be changed in places.

    Args:
        text: the text; a blank one is an empty object.

    Raises:
        JsonSyntaxError: it is not JSON.
    """

    def __init__(self, text: str) -> None:
        self.text = text if text.strip("\ufeff \t\r\n") else text + "{}\n"
        self._root = self._parse()

    @property
    def value(self) -> JSON:
        """The document as data."""
        return self._root.value

    def get(self, path: Path) -> JSON:
        """Return the value at a path; None where there is none."""
        node = self._find(path)
        return None if node is None else node.value

    def has(self, path: Path) -> bool:
        """Tell whether there is something at a path."""
        return self._find(path) is not None

    def set(self, path: Path, value: JSON) -> None:
        """Put a value at a path, after what is there; objects on the way are made.

        Raises:
            JsonSyntaxError: something on the way is not an object.
        """
        node = self._find(path)
        if node is not None:
            if node.value != value:
                column = self._indent_at(node.start)
                self._replace(node.start, node.end, self._render(value, column, one_line=False))
            return
        for depth in range(len(path)):
            if self._find(path[: depth + 1]) is None:
                rest = path[depth + 1 :]
                for key in reversed(rest):
                    value = {str(key): value}
                self._insert(path[:depth], value, key=str(path[depth]))
                return

    def append(self, path: Path, value: JSON) -> None:
        """Put a value at the end of the array at a path; the array and objects on the way are made.

        Raises:
            JsonSyntaxError: there is something else than an array.
        """
        if self._find(path) is None:
            self.set(path, [value])
        else:
            self._insert(path, value, key=None)

    def remove(self, path: Path) -> None:
        """Take out what is at a path, with its comma. Nothing there: nothing happens."""
        node, parent = self._find(path), self._find(path[:-1])
        if node is None or parent is None:
            return
        keys = list(parent.children)
        index = keys.index(path[-1])
        start = len(self.text[: parent.begins[path[-1]]].rstrip(" \t\r\n"))
        after = _skip(self.text, node.end)
        has_comma = self.text[after] == ","
        end = after + 1 if has_comma else node.end
        cuts = [(start, end)]
        if index and not has_comma:
            # It was the last: the comma before it goes too, and what is written between the two stays.
            comma = _skip(self.text, parent.children[keys[index - 1]].end)
            cuts.append((comma, comma + 1))
        if len(keys) == 1 and not self._inside(parent, cuts).strip():
            cuts = [(parent.start + 1, parent.end - 1)]
        text = self.text
        for cut_start, cut_end in sorted(cuts, reverse=True):
            text = text[:cut_start] + text[cut_end:]
        self._set_text(text)

    def _inside(self, node: _Node, cuts: list[tuple[int, int]]) -> str:
        text = self.text[: node.end - 1]
        for start, end in cuts:
            text = text[:start] + text[end:]
        return text[node.start + 1 :]

    def _find(self, path: Path) -> _Node | None:
        node = self._root
        for key in path:
            child = node.children.get(key)
            if child is None:
                return None
            node = child
        return node

    def _insert(self, path: Path, value: JSON, *, key: str | None) -> None:
        parent = self._find(path)
        wanted = dict if key is not None else list
        if parent is None or not isinstance(parent.value, wanted):
            where = ".".join(map(str, path)) or "the whole"
            kind = "an object" if key is not None else "an array"
            raise JsonSyntaxError(f"{where} is not {kind}")
        name = "" if key is None else json.dumps(key, ensure_ascii=False) + ": "
        inside = self.text[parent.start + 1 : parent.end - 1]
        outer = self._indent_at(parent.start)
        column = self._child_indent(parent, outer)
        if parent.children:
            last = next(reversed(parent.children.values()))
            comma = _skip(self.text, last.end)
            has_comma = self.text[comma] == ","
            if "\n" not in inside:
                piece = " " + name + self._render(value, column, one_line=True)
                at = comma + 1 if has_comma else last.end
                piece = piece + "," if has_comma else "," + piece
                self._replace(at, at, piece)
                return
            piece = self._newline + column + name + self._render(value, column, one_line=False)
            at = _SAME_LINE.match(self.text, comma + 1 if has_comma else last.end)
            assert at is not None  # noqa: S101 - it matches nothing, too
            text = self.text[: at.end()] + piece + ("," if has_comma else "") + self.text[at.end() :]
            if not has_comma:
                text = text[: last.end] + "," + text[last.end :]
            self._set_text(text)
            return
        piece = self._newline + column + name + self._render(value, column, one_line=False)
        if inside.strip():
            at = parent.start + 1 + len(inside.rstrip())
            tail = "" if "\n" in inside[len(inside.rstrip()) :] else self._newline + outer
            self._replace(at, at, piece + tail)
        else:
            self._replace(parent.start + 1, parent.end - 1, piece + self._newline + outer)

    @property
    def _newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    @property
    def _unit(self) -> str:
        found = _INDENT.search(self.text)
        return found.group(1) if found else "  "

    def _indent_at(self, position: int) -> str:
        """Return the blanks that the line of a position begins with."""
        begin = self.text.rfind("\n", 0, position) + 1
        line = self.text[begin:position].lstrip("\ufeff")
        return line[: len(line) - len(line.lstrip(" \t"))]

    def _child_indent(self, parent: _Node, outer: str) -> str:
        for begin in parent.begins.values():
            line = self.text[self.text.rfind("\n", 0, begin) + 1 : begin]
            if not line.strip(" \t") and "\n" in self.text[parent.start : begin]:
                return line
        return outer + self._unit

    def _render(self, value: JSON, column: str, *, one_line: bool) -> str:
        if one_line:
            return json.dumps(value, ensure_ascii=False)
        lines = json.dumps(value, ensure_ascii=False, indent=self._unit).split("\n")
        return (self._newline + column).join(lines)

    def _replace(self, start: int, end: int, piece: str) -> None:
        self._set_text(self.text[:start] + piece + self.text[end:])

    def _set_text(self, text: str) -> None:
        self.text = text
        self._root = self._parse()

    def _parse(self) -> _Node:
        try:
            root = _parse_value(self.text, _skip(self.text, 0))
        except RecursionError:
            raise JsonSyntaxError("it is nested too deeply") from None
        if (end := _skip(self.text, root.end)) != len(self.text):
            raise _error(self.text, end, "nothing should follow here")
        return root


def parse_jsonc(text: str) -> JSON:
    """Read JSON with comments and trailing commas.

    Raises:
        JsonSyntaxError: the text is something else.
    """
    return JsonDocument(text).value


def _skip(text: str, position: int) -> int:
    match = _TRIVIA.match(text, position)
    assert match is not None  # noqa: S101 - it matches nothing, too
    return match.end()


def _error(text: str, position: int, what: str) -> JsonSyntaxError:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return JsonSyntaxError(f"line {line}, column {column}: {what}")


def _parse_value(text: str, position: int) -> _Node:
    opening = text[position : position + 1]
    if opening in {"{", "["}:
        return _parse_container(text, position, is_object=opening == "{")
    match = _STRING.match(text, position) or _SCALAR.match(text, position)
    if match is None:
        raise _error(text, position, "a value should stand here")
    try:
        return _Node(position, match.end(), cast("JSON", json.loads(match.group())))
    except ValueError as error:
        raise _error(text, position, str(error)) from error


def _parse_container(text: str, start: int, *, is_object: bool) -> _Node:
    closing = "}" if is_object else "]"
    members: dict[str, JSON] = {}
    items: list[JSON] = []
    node = _Node(start, start, members if is_object else items)
    position = _skip(text, start + 1)
    while text[position : position + 1] != closing:
        begin = position
        key: str | int = len(items)
        if is_object:
            name = _STRING.match(text, position)
            if name is None:
                raise _error(text, position, "a name in double quotes should stand here")
            key = cast("str", json.loads(name.group()))
            if key in members:
                raise _error(text, position, f"{name.group()} is there twice")
            position = _skip(text, name.end())
            if text[position : position + 1] != ":":
                raise _error(text, position, "a colon should stand here")
            position = _skip(text, position + 1)
        child = _parse_value(text, position)
        node.children[key], node.begins[key] = child, begin
        if is_object:
            members[str(key)] = child.value
        else:
            items.append(child.value)
        position = _skip(text, child.end)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
        elif text[position : position + 1] != closing:
            raise _error(text, position, f"a comma or {closing} should stand here")
    node.end = position + 1
    return node


def paths_below(path: Sequence[str | int]) -> list[Path]:
    """Return the ways to what holds the end of a path, the outermost first; the whole is not among them."""
    return [tuple(path[:depth]) for depth in range(1, len(path))]
