"""The gateway's dealings with the database: permissions, broadcasts that SQL sends, what subscribers may see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, LiteralString, cast
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from ..models import JSON, JSONObject
    from .tokens import Claims

log = logging.getLogger("knowledge_persistence.realtime")

Row = dict[str, object]

_ACT_AS: Final = """
select set_config('role', %(role)s, true), set_config('request.jwt.claims', %(claims)s, true),
       set_config('request.jwt.claim.sub', %(sub)s, true), set_config('request.jwt.claim.role', %(role)s, true),
       set_config('realtime.topic', %(topic)s, true), set_config('app.current_workspace', '', true),
       set_config('app.current_session', '', true), set_config('request.headers', '', true),
       set_config('statement_timeout', '8s', true)
"""
_CHANNEL: Final = "realtime_messages"
_MESSAGES: Final = """
select id, topic, event, payload, private from realtime.messages
 where id = any(%s) and extension = 'broadcast' and inserted_at > localtimestamp - interval '1 day'
"""
_REPLAY: Final = """
select id, topic, event, payload, private from realtime.messages
 where topic = %s and private and extension = 'broadcast' and inserted_at >= %s
 order by inserted_at desc limit %s
"""


@dataclass(frozen=True, slots=True)
class Permissions:
    """What somebody may do in a private topic."""

    read_broadcast: bool = False
    write_broadcast: bool = False
    read_presence: bool = False
    write_presence: bool = False


@dataclass(frozen=True, slots=True)
class Broadcast:
    """A broadcast that the database sends."""

    id: str
    topic: str
    event: str
    payload: JSONObject
    private: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as its rows are looked up in it."""

    schema: str
    name: str
    keys: tuple[tuple[str, str], ...]


class Database:
    """Ask the database, as the operator's role and as the clients.

    Args:
        dsn: PostgreSQL URL of a role that may become the API roles, read realtime.messages, and replicate.
        pool_size: connections at most, besides the two that listen.
    """

    def __init__(self, dsn: str, *, pool_size: int = 6) -> None:
        self.dsn = dsn
        self._pool = AsyncConnectionPool[AsyncConnection[Row]](
            dsn,
            connection_class=AsyncConnection[Row],
            kwargs={"autocommit": True, "row_factory": dict_row, "application_name": "realtime"},
            check=_check,
            min_size=1,
            max_size=pool_size,
            timeout=10,
            open=False,
            name="realtime",
        )

    async def open(self) -> None:
        """Open the pool; a database that is away is waited for when it is needed."""
        await self._pool.open()

    async def close(self) -> None:
        """Let go of all connections."""
        await self._pool.close()

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[AsyncConnection[Row]]:
        """Lend a transaction that is rolled back."""
        async with self._pool.connection() as connection, connection.transaction(force_rollback=True):
            yield connection

    async def permissions(self, topic: str, claims: Claims) -> Permissions:
        """Ask the policies on realtime.messages, as the official server does: with probes that are rolled back.

        Args:
            topic: without the prefix `realtime:`.
            claims: whose permissions.
        """
        if claims.role == "service_role":
            return Permissions(True, True, True, True)
        async with self._transaction() as connection:
            cursor = await connection.execute(
                "insert into realtime.messages (topic, extension, inserted_at)"
                " values (%(topic)s, 'broadcast', localtimestamp), (%(topic)s, 'presence', localtimestamp)"
                " returning id, extension",
                {"topic": topic},
            )
            probes = {cast("str", row["extension"]): row["id"] for row in await cursor.fetchall()}
            await self._act_as(connection, claims, topic)
            allowed: dict[str, tuple[bool, bool]] = {}
            try:
                cursor = await connection.execute(
                    "select extension from realtime.messages where id = any(%s)", [list(probes.values())]
                )
                readable = {cast("str", row["extension"]) for row in await cursor.fetchall()}
            except psycopg.errors.InsufficientPrivilege:
                return Permissions()
            for kind in probes:
                writable = True
                try:
                    async with connection.transaction(force_rollback=True):
                        await connection.execute(
                            "insert into realtime.messages (topic, extension, inserted_at)"
                            " values (%s, %s, localtimestamp)",
                            [topic, kind],
                        )
                except psycopg.errors.InsufficientPrivilege:
                    writable = False
                allowed[kind] = (kind in readable, writable)
        return Permissions(*allowed["broadcast"], *allowed["presence"])

    async def _act_as(self, connection: AsyncConnection[Row], claims: Claims, topic: str = "") -> None:
        await connection.execute(
            _ACT_AS, {"role": claims.role, "claims": claims.text, "sub": claims.subject, "topic": topic}
        )

    async def forget_old_messages(self) -> int:
        """Delete the broadcasts that are older than three days, and say how many."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "delete from realtime.messages where inserted_at < localtimestamp - interval '3 days'"
            )
            return cursor.rowcount

    async def replay(self, topic: str, since_milliseconds: float, limit: int) -> list[Broadcast]:
        """Return the latest private broadcasts of a topic since a moment, the oldest first."""
        async with self._transaction() as connection:
            cursor = await connection.execute(
                "select to_timestamp(%s) at time zone current_setting('TimeZone') as moment",
                [since_milliseconds / 1000],
            )
            [row] = await cursor.fetchall()
            cursor = await connection.execute(_REPLAY, [topic, row["moment"], limit])
            return [_broadcast(one) for one in reversed(await cursor.fetchall())]

    async def visible(self, relation: Relation, keys: Sequence[Sequence[str]], claims: Claims) -> set[int]:
        """Return the places of those keys whose rows somebody may see.

        Args:
            relation: the table.
            keys: one key a row: the primary key's columns, as text.
            claims: who looks.
        """
        async with self._transaction() as connection:
            await self._act_as(connection, claims)
            arrays = [[key[place] for key in keys] for place in range(len(relation.keys))]
            names = [sql.Identifier(f"k{place}") for place in range(len(relation.keys))]
            query = sql.SQL(
                "select n.place::int as place from unnest({arrays}) with ordinality n ({names}, place)"
                " join {table} t on {match}"
            ).format(
                arrays=sql.SQL(", ").join(
                    sql.SQL("%s::text[]::{}[]").format(sql.SQL(cast("LiteralString", kind)))
                    for _, kind in relation.keys
                ),
                names=sql.SQL(", ").join(names),
                table=sql.Identifier(relation.schema, relation.name),
                match=sql.SQL(" and ").join(
                    sql.SQL("t.{} = n.{}").format(sql.Identifier(column), name)
                    for (column, _), name in zip(relation.keys, names, strict=True)
                ),
            )
            try:
                cursor = await connection.execute(query, arrays)
                return {cast("int", row["place"]) - 1 for row in await cursor.fetchall()}
            except psycopg.errors.InsufficientPrivilege:
                return set()
            except psycopg.Error as error:
                # A policy that fails for this person hides everything from them.
                if error.sqlstate is None or error.sqlstate.startswith(("08", "57")):
                    raise
                return set()

    async def readable_columns(self, oid: int, role: str) -> frozenset[str]:
        """Return the columns of a table that a role may select."""
        async with self._transaction() as connection:
            cursor = await connection.execute(
                "select attname::text as name from pg_catalog.pg_attribute where attrelid = %s and attnum > 0"
                " and not attisdropped and has_column_privilege(%s, attrelid, attnum, 'select')",
                [oid, role],
            )
            return frozenset(cast("str", row["name"]) for row in await cursor.fetchall())

    async def typed(self, relation: Relation, records: Sequence[JSONObject]) -> list[JSONObject]:
        """Give the text values of rows their JSON types, by the types of the table's columns."""
        async with self._transaction() as connection:
            cursor = await connection.execute(
                sql.SQL(
                    "select to_jsonb(jsonb_populate_record(null::{table}, r.record)) as record"
                    " from unnest(%s::jsonb[]) with ordinality r (record, place) order by r.place"
                ).format(table=sql.Identifier(relation.schema, relation.name)),
                [[Jsonb(record) for record in records]],
            )
            return [cast("JSONObject", row["record"]) for row in await cursor.fetchall()]

    async def is_published(self, schema: str, table: str) -> bool:
        """Tell whether a table's changes are told at all."""
        async with self._transaction() as connection:
            cursor = await connection.execute(
                "select 1 from pg_catalog.pg_publication_tables"
                " where pubname = 'supabase_realtime' and schemaname = %s and tablename = %s",
                [schema, table],
            )
            return bool(await cursor.fetchall())

    async def primary_key(self, oid: int) -> tuple[tuple[str, str], ...]:
        """Return a table's primary key: columns and their types."""
        async with self._transaction() as connection:
            cursor = await connection.execute(
                "select a.attname::text as name, format_type(a.atttypid, a.atttypmod) as type"
                " from pg_catalog.pg_index i join lateral unnest(i.indkey) with ordinality k (attnum, place) on true"
                " join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum"
                " where i.indrelid = %s and i.indisprimary order by k.place",
                [oid],
            )
            return tuple(
                (cast("str", row["name"]), cast("str", row["type"])) for row in await cursor.fetchall()
            )

    async def type_names(self, oids: Sequence[int]) -> dict[int, str]:
        """Return the names of types."""
        async with self._transaction() as connection:
            cursor = await connection.execute(
                "select oid::int8 as oid, typname::text as name from pg_catalog.pg_type where oid = any(%s::oid[])",
                [list(oids)],
            )
            return {cast("int", row["oid"]): cast("str", row["name"]) for row in await cursor.fetchall()}

    async def listen(self, heard: Callable[[Broadcast], Awaitable[None]], ready: Callable[[], None]) -> None:
        """Hand on what SQL broadcasts, until the connection is lost.

        Args:
            heard: called with each broadcast, in the order of commits.
            ready: called once nothing is missed any more.

        Raises:
            psycopg.Error: the connection can't be made, or was lost.
        """
        connection = await AsyncConnection[Row].connect(
            self.dsn, autocommit=True, row_factory=dict_row, application_name="realtime"
        )
        async with connection:
            await connection.execute(sql.SQL("listen {}").format(sql.Identifier(_CHANNEL)))
            ready()
            waiting: OrderedDict[str, None] = OrderedDict()
            arrived = asyncio.Event()

            async def fetch() -> None:
                while True:
                    await arrived.wait()
                    arrived.clear()
                    while waiting:
                        ids = [waiting.popitem(last=False)[0] for _ in range(min(len(waiting), 500))]
                        async with self._transaction() as other:
                            cursor = await other.execute(_MESSAGES, [[UUID(one) for one in ids]])
                            found = {str(row["id"]): _broadcast(row) for row in await cursor.fetchall()}
                        for one in ids:
                            if one in found:
                                await heard(found[one])

            async def receive() -> None:
                async for notification in connection.notifies():
                    waiting[notification.payload] = None
                    arrived.set()
                raise psycopg.OperationalError("the listening connection has ended")

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fetch())
                tasks.create_task(receive())


async def _check(connection: AsyncConnection[Row]) -> None:
    """Find out without a round trip whether the server has closed a pooled connection."""
    connection.pgconn.consume_input()
    if connection.broken:
        raise psycopg.OperationalError("the server closed the connection")


def _broadcast(row: Row) -> Broadcast:
    payload = row["payload"]
    return Broadcast(
        id=str(row["id"]),
        topic=str(row["topic"]),
        event=str(row["event"] or ""),
        payload=cast("JSONObject", payload)
        if isinstance(payload, dict)
        else {"payload": cast("JSON", payload)},
        private=bool(row["private"]),
    )


def parse_json(text: str) -> JSON:
    """Read JSON that the database wrote."""
    return cast("JSON", json.loads(text))
