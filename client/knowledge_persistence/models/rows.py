"""Rows become results and results become JSON.

Rows come as JSON over HTTP (ids, times and intervals as strings) and as Python values from a direct
connection; `from_row` makes the same object of both.
"""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from _typeshed import DataclassInstance

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"
JSONObject: TypeAlias = "dict[str, JSON]"

T = TypeVar("T")
_Convert: TypeAlias = "Callable[[object], object]"


def _to_uuid(value: object) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))


def _to_datetime(value: object) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))


_INTERVAL_PART = re.compile(r"([+-]?\d+) (year|mon|day)s?")
_INTERVAL_TIME = re.compile(r"([+-]?)(\d+):(\d\d):(\d\d(?:\.\d+)?)$")


def parse_interval(value: object) -> timedelta:
    """Turn an interval as PostgreSQL or a JSON gateway writes it into a timedelta.

    Args:
        value: a timedelta, text such as ``1 day 02:03:04.5``, or an object with days, hours, minutes,
            seconds, milliseconds.

    Raises:
        ValueError: it is none of them, or holds months (which have no fixed length).
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, dict):
        parts = cast("Mapping[str, float]", value)
        return timedelta(**{unit: float(amount) for unit, amount in parts.items()})
    text = str(value)
    result = timedelta()
    for amount, unit in _INTERVAL_PART.findall(text):
        if unit != "day":
            raise ValueError(f"{text!r} has no fixed length")
        result += timedelta(days=int(amount))
    rest = _INTERVAL_PART.sub("", text).strip()
    if rest:
        match = _INTERVAL_TIME.match(rest)
        if match is None:
            raise ValueError(f"{text!r} is not an interval")
        sign, hours, minutes, seconds = match.groups()
        clock = timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))
        result += -clock if sign == "-" else clock
    return result


def _to_uuids(value: object) -> list[UUID]:
    return [_to_uuid(one) for one in cast("list[object]", value)]


# By annotation, which is text here.
_CONVERTERS: dict[str, _Convert] = {
    "UUID": _to_uuid,
    "list[UUID]": _to_uuids,
    "datetime": _to_datetime,
    "timedelta": parse_interval,
    # Whole numbers come without a decimal point in JSON.
    "float": lambda value: float(cast("float", value)),
}


@cache
def _columns(kind: type, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[tuple[str, _Convert], ...]]:
    """Return which of a row's columns a class knows, and the converters of those that aren't taken as they are."""
    types = {
        field.name: str(field.type).removesuffix(" | None")
        for field in fields(cast("type[DataclassInstance]", kind))
    }
    known = tuple(name for name in names if name in types)
    return known, tuple((name, _CONVERTERS[types[name]]) for name in known if types[name] in _CONVERTERS)


def from_row(kind: type[T], row: Mapping[str, object]) -> T:
    """Make a result of a row; columns that the class doesn't know are left aside.

    Args:
        kind: a dataclass of this package.
        row: column names and values, as JSON or as Python values.
    """
    [result] = from_rows(kind, [row])
    return result


def from_rows(kind: type[T], rows: Sequence[Mapping[str, object]]) -> list[T]:
    """Make results of the rows of one answer, as `from_row` does.

    Args:
        kind: a dataclass of this package.
        rows: all with the same columns.
    """
    if not rows:
        return []
    known, converters = _columns(kind, tuple(rows[0]))
    results: list[T] = []
    for row in rows:
        values = {name: row[name] for name in known}
        for name, convert in converters:
            value = values[name]
            if value is not None:
                values[name] = convert(value)
        results.append(kind(**values))
    return results


def to_json(value: object) -> JSON:
    """Turn a result, or a list of them, into what `json.dumps` takes; durations become seconds.

    Args:
        value: an object of this package, a list or dict of them, or a plain value.
    """
    if isinstance(value, (UUID, datetime)):
        return str(value) if isinstance(value, UUID) else value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (list, tuple)):
        return [to_json(one) for one in cast("Sequence[object]", value)]
    if isinstance(value, dict):
        return {str(key): to_json(one) for key, one in cast("Mapping[object, object]", value).items()}
    if hasattr(value, "__dataclass_fields__"):
        return {
            field.name: to_json(getattr(value, field.name))
            for field in fields(cast("DataclassInstance", value))
        }
    return cast("JSON", value)


_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s|[。！？]|\n")  # noqa: RUF001 - full-width marks are meant
_TITLE_LENGTH = 120


def title_from(content: str) -> str:
    """Make a title of the first sentence of a text, 120 characters at most.

    Args:
        content: the text.

    Returns:
        '' for a blank text.
    """
    text = content.strip()
    match = _SENTENCE_END.search(text)
    sentence = text[: match.end()] if match else text
    sentence = " ".join(sentence.split()).rstrip(".。").lstrip("#*- ").strip() or " ".join(text.split())
    if len(sentence) <= _TITLE_LENGTH:
        return sentence
    cut = sentence[: _TITLE_LENGTH - 1]
    # At a word's end where there is one not too far back: a script without spaces is cut where it stands.
    head = cut.rsplit(" ", 1)[0] if " " in cut[_TITLE_LENGTH // 2 :] else cut
    return head.rstrip(" ,;:") + "…"
