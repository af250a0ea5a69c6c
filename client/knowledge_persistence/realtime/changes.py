"""Changes of rows, for `postgres_changes`: logical decoding of the publication `supabase_realtime`.

The slot is temporary and lives as long as somebody subscribes: a gateway that is gone keeps no WAL.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import logging
import re
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, cast
from uuid import uuid4

import psycopg
import re2  # pyright: ignore[reportMissingTypeStubs]
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from .database import Relation, parse_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ..models import JSON, JSONObject
    from .database import Database

log = logging.getLogger("knowledge_persistence.realtime")

Kind: TypeAlias = Literal["INSERT", "UPDATE", "DELETE"]

PUBLICATION: Final = "supabase_realtime"
_POLL_SECONDS: Final = 0.1
_AT_ONCE: Final = 2000
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_NUMBERS: Final = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric", "oid"})
_TIMES: Final = frozenset({"timestamptz", "timestamp", "date"})
_OPERATORS: Final = frozenset(
    {"eq", "neq", "lt", "lte", "gt", "gte", "in", "like", "ilike", "is", "match", "imatch", "isdistinct"}
)
_MOST_VALUES: Final = 100
# An engine of linear time still multiplies by the size of the expression.
_EXPRESSION_MEMORY: Final = 1 << 16  # bytes
_LONGEST_EXPRESSION: Final = 500
_compile = cast("Callable[[str, object], _Expression]", re2.compile)  # pyright: ignore[reportUnknownMemberType]
_BadExpression = cast("type[Exception]", re2.error)  # pyright: ignore[reportUnknownMemberType]


class FilterError(ValueError):
    """A filter can't be read."""


# -- filters ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a column: `column=op.value`, or `column=not.op.value`."""

    column: str
    operator: str
    values: tuple[str, ...]
    negated: bool

    def holds(self, value: str | None, kind: str) -> bool:
        """Say whether a value meets it.

        Args:
            value: as PostgreSQL writes it, or None for null.
            kind: the column's type.
        """
        met = self._meets(value, kind)
        return False if met is None else met is not self.negated

    def _meets(self, value: str | None, kind: str) -> bool | None:  # noqa: PLR0911 - one way out an operator
        wanted = self.values[0]
        if self.operator == "is":
            return {"null": value is None, "true": value == "t", "false": value == "f"}.get(
                wanted.lower(), value is None
            )
        if self.operator == "isdistinct":
            return value is None or _compare(value, wanted, kind) != 0
        if value is None:
            return None  # as in SQL: neither true nor false
        match self.operator:
            case "in":
                return any(_compare(value, one, kind) == 0 for one in self.values)
            case "like" | "ilike":
                pattern = fnmatch.translate(_like_to_glob(wanted))
                flags = re.DOTALL | (re.IGNORECASE if self.operator == "ilike" else 0)
                return re.match(pattern, value, flags) is not None
            case "match" | "imatch":
                return _expression(wanted, self.operator == "imatch").search(value) is not None
            case _:
                order = _compare(value, wanted, kind)
                if order is None:
                    return None
                return {
                    "eq": order == 0,
                    "neq": order != 0,
                    "lt": order < 0,
                    "lte": order <= 0,
                    "gt": order > 0,
                    "gte": order >= 0,
                }[self.operator]


class _Expression(Protocol):
    def search(self, text: str) -> object | None: ...


@cache
def _options(*, case_sensitive: bool) -> object:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _EXPRESSION_MEMORY
    options.case_sensitive = case_sensitive
    return options


@lru_cache(100)
def _expression(pattern: str, ignore_case: bool) -> _Expression:
    """Compile a subscriber's regular expression, by an engine whose time is linear in the text."""
    if len(pattern) > _LONGEST_EXPRESSION:
        raise FilterError(f"a regular expression in a filter has at most {_LONGEST_EXPRESSION} characters")
    try:
        return _compile(pattern, _options(case_sensitive=not ignore_case))
    except (_BadExpression, UnicodeError) as error:
        raise FilterError(f"{pattern!r} is no regular expression that is understood here") from error


def _like_to_glob(pattern: str) -> str:
    escaped = re.sub(r"([\[\]*?])", r"[\1]", pattern)
    return escaped.replace("%", "*").replace("_", "?")


def _compare(value: str, wanted: str, kind: str) -> int | None:
    """Compare two values of a type: negative, 0, positive; None where they can't be compared."""
    left: object = value
    right: object = wanted
    try:
        if kind in _NUMBERS:
            left, right = Decimal(value), Decimal(wanted)
        elif kind in _TIMES:
            left, right = _moment(value), _moment(wanted)
        elif kind == "bool":
            left, right = value[:1] == "t", wanted.lower() in {"t", "true", "1", "yes", "on"}
        elif kind == "uuid":
            right = wanted.lower()
    except (InvalidOperation, ValueError):
        return None
    if isinstance(left, Decimal) and isinstance(right, Decimal) and (left.is_nan() or right.is_nan()):
        return left.is_nan() - right.is_nan()  # as PostgreSQL sorts them: equal, and after all numbers
    if left == right:
        return 0
    return -1 if cast("str", left) < cast("str", right) else 1


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_filter(text: str) -> tuple[Condition, ...]:
    """Read a filter: conditions with commas between them, all of which must hold.

    Raises:
        FilterError: it can't be read.
    """
    conditions: list[Condition] = []
    # A comma within parentheses belongs to a list of values.
    for part in re.split(r",(?![^()]*\))(?=[^,=]+=)", text):
        column, equals, rest = part.partition("=")
        negated = rest.startswith("not.")
        operator, dot, value = rest.removeprefix("not.").partition(".")
        if not column or not equals or not dot or operator not in _OPERATORS:
            raise FilterError(f"Error parsing `filter` params: {text!r}")
        values: tuple[str, ...] = (value,)
        if operator == "in":
            if not (value.startswith("(") and value.endswith(")")):
                raise FilterError(f"Error parsing `filter` params: {text!r}")
            values = tuple(one.strip().strip('"') for one in value[1:-1].split(","))
            if len(values) > _MOST_VALUES:
                raise FilterError(f"at most {_MOST_VALUES} values in a filter")
        if operator in {"match", "imatch"}:
            _expression(value, operator == "imatch")
        conditions.append(Condition(column.strip(), operator, values, negated))
    return tuple(conditions)


# -- pgoutput --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the stream describes it."""

    name: str
    type_oid: int
    is_key: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the stream describes it."""

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class RawChange:
    """One change as the stream has it: values as text, None for null, missing where they did not change."""

    kind: Kind
    table: Table
    committed_at: datetime
    new: Mapping[str, str | None]
    old: Mapping[str, str | None]


class Decoder:
    """Read messages of pgoutput, protocol version 1."""

    def __init__(self) -> None:
        self._tables: dict[int, Table] = {}
        self._committed_at = _EPOCH

    def feed(self, data: bytes) -> RawChange | None:
        """Read one message, and return the change that it is, if it is one."""
        kind, body = data[:1], data[1:]
        match kind:
            case b"B":
                _, microseconds, _ = struct.unpack_from("!qqI", body)
                self._committed_at = _EPOCH + timedelta(microseconds=microseconds)
            case b"R":
                table = _read_table(body)
                self._tables[table.oid] = table
            case b"I" | b"U" | b"D":
                return self._change(kind, body)
            case _:
                pass  # commits, types, truncations, origins
        return None

    def _change(self, kind: bytes, body: bytes) -> RawChange:
        (oid,) = struct.unpack_from("!I", body)
        table = self._tables[oid]
        offset = 4
        new: dict[str, str | None] = {}
        old: dict[str, str | None] = {}
        while offset < len(body):
            part = body[offset : offset + 1]
            values, offset = _read_row(body, offset + 1, table)
            if part == b"N":
                new = values
            else:  # K: the key alone; O: the whole old row
                old = values
        name: Kind = {b"I": "INSERT", b"U": "UPDATE", b"D": "DELETE"}[kind]  # type: ignore[assignment]
        return RawChange(name, table, self._committed_at, new, old)


def _read_text(body: bytes, offset: int) -> tuple[str, int]:
    end = body.index(b"\0", offset)
    return body[offset:end].decode(), end + 1


def _read_table(body: bytes) -> Table:
    (oid,) = struct.unpack_from("!I", body)
    schema, offset = _read_text(body, 4)
    name, offset = _read_text(body, offset)
    _, count = struct.unpack_from("!cH", body, offset)
    offset += 3
    columns: list[Column] = []
    for _ in range(count):
        flags = body[offset]
        column, offset = _read_text(body, offset + 1)
        type_oid, _ = struct.unpack_from("!Ii", body, offset)
        offset += 8
        columns.append(Column(column, type_oid, bool(flags & 1)))
    return Table(oid, schema or "pg_catalog", name, tuple(columns))


def _read_row(body: bytes, offset: int, table: Table) -> tuple[dict[str, str | None], int]:
    (count,) = struct.unpack_from("!H", body, offset)
    offset += 2
    values: dict[str, str | None] = {}
    for column in table.columns[:count]:
        kind = body[offset : offset + 1]
        offset += 1
        if kind == b"n":
            values[column.name] = None
        elif kind == b"t":
            (length,) = struct.unpack_from("!I", body, offset)
            offset += 4
            values[column.name] = body[offset : offset + length].decode()
            offset += length
        # u: a long value that did not change and was not read
    return values, offset


# -- following -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """One change, ready to be told.

    Attributes:
        kind: what happened.
        relation: the table, with its primary key.
        oid: the table's.
        committed_at: when.
        types: of the columns, by name.
        new: the row's values as text.
        old: those of its key, before an update or of a deletion.
        record: the row as JSON; {} for a deletion.
        old_record: the key as JSON, where it is known.
    """

    kind: Kind
    relation: Relation
    oid: int
    committed_at: datetime
    types: Mapping[str, str]
    new: Mapping[str, str | None]
    old: Mapping[str, str | None]
    record: JSONObject
    old_record: JSONObject

    def key(self) -> tuple[str, ...] | None:
        """Return the primary key's values of the row as it is now; None where there is none."""
        values = [self.new.get(name) for name, _ in self.relation.keys]
        return None if not values or None in values else tuple(cast("list[str]", values))


@dataclass(slots=True)
class ChangeFeed:
    """Follow the changes for as long as somebody wants them.

    Attributes:
        database: where.
        told: called with the changes of each look, in the order of commits.
    """

    database: Database
    told: Callable[[Sequence[Change]], Awaitable[None]]
    _keys: dict[int, tuple[tuple[str, str], ...]] = field(
        default_factory=dict[int, "tuple[tuple[str, str], ...]"]
    )
    _types: dict[int, str] = field(default_factory=dict[int, str])

    async def run(self, ready: Callable[[], None]) -> None:
        """Make a slot and tell what happens from then on, until cancelled.

        Args:
            ready: called once changes are followed.

        Raises:
            psycopg.Error: the connection can't be made, or was lost.
        """
        connection = await AsyncConnection.connect(
            self.database.dsn, autocommit=True, row_factory=tuple_row, application_name="realtime changes"
        )
        async with connection:
            await connection.execute("set statement_timeout = 0; set timezone = 'UTC'; set datestyle = 'ISO'")
            slot = f"realtime_{uuid4().hex[:12]}"
            # Waits for the transactions that are under way.
            await connection.execute(
                "select pg_create_logical_replication_slot(%s, 'pgoutput', temporary => true)", [slot]
            )
            ready()
            decoder = Decoder()
            while True:
                cursor = await connection.execute(
                    "select data from pg_logical_slot_get_binary_changes(%s, null, %s, 'proto_version', '1',"
                    " 'publication_names', %s)",
                    [slot, _AT_ONCE, PUBLICATION],
                )
                raw = [
                    change
                    for (data,) in await cursor.fetchall()
                    if (change := decoder.feed(cast("bytes", data))) is not None
                ]
                if raw:
                    await self.told(await self._prepare(raw))
                else:
                    await asyncio.sleep(_POLL_SECONDS)

    async def _prepare(self, raw: Sequence[RawChange]) -> list[Change]:
        tables = {change.table.oid: change.table for change in raw}
        prepared: dict[int, Change] = {}
        for oid, table in tables.items():
            if oid not in self._keys:
                self._keys[oid] = await self.database.primary_key(oid)
            missing = {column.type_oid for column in table.columns} - self._types.keys()
            if missing:
                self._types.update(await self.database.type_names(sorted(missing)))
            types = {column.name: self._types[column.type_oid] for column in table.columns}
            relation = Relation(table.schema, table.name, self._keys[oid])
            places = [place for place, change in enumerate(raw) if change.table.oid == oid]
            records = [_jsonable(raw[place].new, types) for place in places]
            olds = [_jsonable(_key_alone(raw[place], relation), types) for place in places]
            typed: Sequence[JSONObject] = []
            try:
                typed = await self.database.typed(relation, [*records, *olds])
            except psycopg.errors.UndefinedTable:
                continue  # dropped meanwhile
            for index, place in enumerate(places):
                change = raw[place]
                # populate_record gives all columns: those that the stream didn't tell are left out again.
                record = {name: typed[index][name] for name in change.new if name in typed[index]}
                old = {name: typed[len(places) + index][name] for name in olds[index]}
                prepared[place] = Change(
                    change.kind,
                    relation,
                    oid,
                    change.committed_at,
                    types,
                    change.new,
                    change.old,
                    record,
                    old,
                )
        return [prepared[place] for place in sorted(prepared)]


def _key_alone(change: RawChange, relation: Relation) -> dict[str, str | None]:
    source = change.old or (change.new if change.kind == "UPDATE" else {})
    return {name: source[name] for name, _ in relation.keys if name in source}


def _jsonable(values: Mapping[str, str | None], types: Mapping[str, str]) -> JSONObject:
    """Let what is JSON be JSON: anything else goes through its type's own input."""
    found: JSONObject = {}
    for name, value in values.items():
        if value is not None and types.get(name) in {"json", "jsonb"}:
            parsed: JSON = value
            with contextlib.suppress(ValueError):
                parsed = parse_json(value)
            found[name] = parsed
        else:
            found[name] = value
    return found
