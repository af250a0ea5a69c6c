"""The direct transport: libpq, for trusted processes.

A request is one transaction: `begin`, one statement that sets role, claims and context, the call, `commit`,
sent together in a pipeline, so that it costs one round trip. The login is `authenticator`, whose password
lets its holder state any claims: this protects against mistakes, not against whoever has the DSN.
"""

from __future__ import annotations

import json
import time
from asyncio import CancelledError
from contextlib import asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING, Final, cast
from uuid import UUID

import psycopg
import psycopg_pool
from pgvector import Vector
from pgvector.psycopg.vector import register_vector_info
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row, tuple_row
from psycopg.types import TypeInfo
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from knowledge_persistence._silence import no_longer_than
from knowledge_persistence._values import JsonArgument, RequestContext, Row, VectorArgument
from knowledge_persistence._waiting import AsyncLock, async_cancellations
from knowledge_persistence.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    TransportError,
    error_from_sqlstate,
)
from knowledge_persistence.models import Identity

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from psycopg.abc import Params, QueryNoTemplate

    from knowledge_persistence._values import Argument, CallMode, Scalar

    from .transport import AsyncReader

_SETUP: Final = """
select set_config('role', %s, true), set_config('request.jwt.claims', %s, true),
       set_config('request.jwt.claim.sub', %s, true), set_config('app.current_workspace', %s, true),
       set_config('app.current_session', %s, true), set_config('statement_timeout', %s, true)
"""
_VECTOR_TYPE: Final = """
select t.oid, t.typarray from pg_catalog.pg_type t
  join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_type'::regclass and d.objid = t.oid and d.deptype
  = 'e' join pg_catalog.pg_extension e on e.oid = d.refobjid and e.extname = 'vector'
 where t.typname = 'vector'
"""
_LOG_POSITION: Final = "select pg_catalog.pg_current_wal_insert_lsn()::text as position"
# A server that is no replica has nothing to catch up with.
_HAS_REPLAYED: Final = """
select coalesce(pg_catalog.pg_last_wal_replay_lsn() >= %(position)s::pg_catalog.pg_lsn,
                not pg_catalog.pg_is_in_recovery()) as replayed
"""
#: Supabase's pooler in transaction mode: a prepared statement meets another connection next time.
_TRANSACTION_POOLER_PORT: Final = "6543"
_CONNECTION_DEFAULTS: Final[dict[str, str]] = {
    "connect_timeout": "10",
    "application_name": "knowledge-persistence",
    # A peer that vanished without a word is noticed within half a minute.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    # Probes wait as long as something sent is unacknowledged, which the kernel repeats for a quarter of an hour.
    "tcp_user_timeout": "30000",
}
#: Seconds beyond the statement's own limit until a server that says nothing is given up.
_GRACE: Final = 5.0


class AsyncDirectTransport:
    """Call the functions over libpq, as one user or as the service.

    Args:
        dsn: PostgreSQL URL whose login may set the roles (`authenticator`).
        role: authenticated or service_role.
        claims: the claims of the user's token, verified by the caller; empty for the service.
        timeout: seconds until the database gives a statement up.
        pool_size: connections at most.
        patience: seconds to wait for a connection while the database is away.
    """

    def __init__(
        self,
        dsn: str,
        *,
        role: str,
        claims: Mapping[str, object],
        timeout: float = 30.0,
        pool_size: int = 4,
        patience: float = 10.0,
    ) -> None:
        try:
            given = conninfo_to_dict(dsn)
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(f"the database URL can't be read: {error}") from error
        options = {name: value for name, value in _CONNECTION_DEFAULTS.items() if name not in given}
        self._dsn = make_conninfo(dsn, **options)
        self._prepare = str(given.get("port")) != _TRANSACTION_POOLER_PORT
        self._where = f"{given.get('host') or 'the local socket'}:{given.get('port') or 5432}"
        self._timeout = str(int(timeout * 1000))
        self._silence = timeout + min(timeout, _GRACE)
        self._pool_size = pool_size
        self._patience = min(timeout, patience)
        self._opening = AsyncLock()
        self._pool: AsyncConnectionPool[AsyncConnection[Row]] | None = None
        self._lender: AsyncDirectTransport | None = None
        self._state(role, claims)

    def _state(self, role: str, claims: Mapping[str, object]) -> None:
        self._role = role
        self._claims = claims
        self._claims_text = json.dumps({**claims, "role": role})
        self._subject = str(claims.get("sub") or "")

    def acting_as(self, role: str, claims: Mapping[str, object]) -> AsyncDirectTransport:
        """Return a transport for somebody else over the same connections; closing it closes none of them.

        For a server that takes the requests of many.

        Args:
            role: authenticated or service_role.
            claims: as for a transport of one's own: verified by the caller.
        """
        other = copy(self)
        other._lender = self._lender or self  # noqa: SLF001 - a copy of this
        other._state(role, claims)  # noqa: SLF001 - likewise
        return other

    async def open(self) -> None:
        """Connect, so that a wrong URL or password shows now."""
        await self._opened()

    async def _opened(self) -> AsyncConnectionPool[AsyncConnection[Row]]:
        if self._lender is not None:
            return await self._lender._opened()  # noqa: SLF001 - what this is a copy of
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await self._open_pool()
        return self._pool

    async def _open_pool(self) -> AsyncConnectionPool[AsyncConnection[Row]]:
        await self._try_connect()
        pool = AsyncConnectionPool[AsyncConnection[Row]](
            self._dsn,
            connection_class=AsyncConnection[Row],
            kwargs={"autocommit": True, "row_factory": dict_row},
            configure=self._configure,
            check=_check,
            min_size=1,
            max_size=self._pool_size,
            # A database that restarts is back in seconds; whoever asks meanwhile waits for it.
            timeout=self._patience,
            open=False,
            name="knowledge-persistence",
        )
        try:
            # Asked before its first connection is there, the pool would make another.
            await pool.open(wait=True, timeout=self._patience)
        except psycopg_pool.PoolTimeout as error:
            raise _pool_error(error, self._where) from error
        return pool

    async def close(self) -> None:
        """Close the connections, unless they are another's."""
        if self._pool is not None and self._lender is None:
            pool, self._pool = self._pool, None
            await pool.close()

    async def _try_connect(self) -> None:
        # The pool repeats a failing connection in the background and tells only that it took too long.
        try:
            connection = await AsyncConnection[Row].connect(self._dsn, autocommit=True, row_factory=dict_row)
            try:
                await self._configure(connection)
            finally:
                await connection.close()
        except psycopg.OperationalError as error:
            raise _connection_error(error, self._where) from error
        except psycopg.Error as error:
            raise _error(error, self._where, sent=False) from error

    async def _configure(self, connection: AsyncConnection[Row]) -> None:
        connection.prepare_threshold = 0 if self._prepare else None
        # From the catalog, since the login itself may not use the schema that the type lives in.
        cursor = await connection.execute(_VECTOR_TYPE)
        found = await cursor.fetchone()
        if found is None:
            raise ConfigurationError(
                "the database has no type vector: is pgvector installed, and `kp migrate` run?"
            )
        info = TypeInfo("vector", cast("int", found["oid"]), cast("int", found["typarray"]))
        register_vector_info(connection, info)

    async def call(
        self, function: str, arguments: Mapping[str, Argument], context: RequestContext, *, mode: CallMode
    ) -> list[Row]:
        """Call a function; see `AsyncTransport.call`."""
        query = _call_query(function, tuple(arguments))
        values = {name: _adapt(value) for name, value in arguments.items()}
        return await self._transaction(query, values, context, read_only=mode == "read")

    async def select(
        self,
        table: str,
        columns: Sequence[str],
        context: RequestContext,
        *,
        equal: Mapping[str, Scalar] | None = None,
        order: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Read rows of a table; see `AsyncTransport.select`."""
        query = sql.SQL("select {} from public.{}").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table)
        )
        if equal:
            query += sql.SQL(" where ") + sql.SQL(" and ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in equal
            )
        if order is not None:
            query += sql.SQL(" order by {} desc").format(sql.Identifier(order))
        if limit is not None:
            query += sql.SQL(" limit {}").format(sql.Literal(limit))
        return await self._transaction(query, dict(equal or {}), context, read_only=True)

    async def log_position(self) -> str:
        """Return where the primary's log stands: what was committed until now lies before it."""
        rows = await self._transaction(_LOG_POSITION, {}, RequestContext(), read_only=True)
        return str(rows[0]["position"])

    async def has_replayed(self, position: str) -> bool:
        """Tell whether a replica has replayed the log up to a position of the primary's.

        Args:
            position: from the primary's `log_position`.
        """
        rows = await self._transaction(
            _HAS_REPLAYED, {"position": position}, RequestContext(), read_only=True
        )
        return rows[0]["replayed"] is True

    @asynccontextmanager
    async def snapshot(self, context: RequestContext) -> AsyncGenerator[AsyncReader]:
        """Read as of one moment, by as many calls as it takes; see `AsyncTransport.snapshot`."""
        pool = await self._opened()
        connection = await self._borrow(pool)

        async def read(function: str, arguments: Mapping[str, Argument]) -> list[Row]:
            values = {name: _adapt(value) for name, value in arguments.items()}
            try:
                cursor = await connection.execute(_call_query(function, tuple(arguments)), values)
                return await cursor.fetchall()
            except psycopg.Error as error:
                raise _error(error, self._where, sent=True) from error

        try:
            try:
                await connection.execute("begin isolation level repeatable read read only")
                await connection.execute(_SETUP, self._setup(context))
            except psycopg.Error as error:
                raise _error(error, self._where, sent=True) from error
            yield read
            await connection.execute("commit")
        except BaseException:
            await connection.close()
            raise
        finally:
            await pool.putconn(connection)

    async def identity(self) -> Identity:
        """Say whose claims are stated; the connection must work for that."""
        await self.open()
        if self._role != "authenticated":
            return Identity(role=self._role)
        email = self._claims.get("email")
        return Identity(
            role=self._role, user_id=UUID(self._subject), email=email if isinstance(email, str) else None
        )

    async def _transaction(
        self, query: QueryNoTemplate, values: Params, context: RequestContext, *, read_only: bool
    ) -> list[Row]:
        expires = self._claims.get("exp")
        if isinstance(expires, (int, float)) and expires <= time.time():
            raise AuthenticationError(
                "the access token has expired", code="PT401", status=401, hint="sign in again"
            )
        pool = await self._opened()
        setup = self._setup(context)
        connection = await self._borrow(pool)
        sent = False
        try:
            cursor, frame = connection.cursor(), connection.cursor(row_factory=tuple_row)
            with no_longer_than(self._silence, connection.fileno()):
                sent = True
                async with connection.pipeline():
                    await frame.execute("begin read only" if read_only else "begin")
                    await frame.execute(_SETUP, setup)
                    await cursor.execute(query, values)
                    await frame.execute("commit")
            rows = await cursor.fetchall()
        except psycopg.Error as error:
            await self._roll_back(connection)
            interruption = _interruption(error)
            if interruption is not None:
                raise interruption from error
            raise _error(error, self._where, sent=sent) from error
        except BaseException:
            # Cancelled in the middle: what the connection still has to say is nobody's business any more.
            await connection.close()
            raise
        finally:
            await pool.putconn(connection)
        if frame.statusmessage != "COMMIT":
            raise TransportError(f"the database answered commit with {frame.statusmessage}")
        return rows

    def _setup(self, context: RequestContext) -> tuple[str, ...]:
        return (
            self._role,
            self._claims_text,
            self._subject,
            str(context.workspace or ""),
            str(context.session or ""),
            self._timeout,
        )

    async def _borrow(self, pool: AsyncConnectionPool[AsyncConnection[Row]]) -> AsyncConnection[Row]:
        before = async_cancellations()
        try:
            connection = await pool.getconn()
        except psycopg_pool.PoolTimeout as error:
            raise _pool_error(error, self._where) from error
        if async_cancellations() > before:
            # The pool waits with asyncio.wait_for, which before Python 3.12 loses a cancellation that arrives in
            # the same moment as the connection.
            await pool.putconn(connection)
            raise CancelledError
        return connection

    async def _roll_back(self, connection: AsyncConnection[Row]) -> None:
        try:
            if not connection.closed:
                await connection.rollback()
        except psycopg.Error:
            await connection.close()


async def _check(connection: AsyncConnection[Row]) -> None:
    """Find out without a round trip whether the server has closed a pooled connection.

    A connection that died while it lay idle then never carries a request of which nobody could say afterwards
    whether it arrived.
    """
    # A server that restarts says so before it hangs up: the first read gets its parting word, the second the end.
    for _ in range(2):
        connection.pgconn.consume_input()
    if connection.broken:
        raise psycopg.OperationalError("the server closed the connection")


_queries: dict[tuple[str, tuple[str, ...]], bytes] = {}


def _call_query(function: str, names: tuple[str, ...]) -> bytes:
    """Compose a call in named notation, once for each set of names."""
    query = _queries.get((function, names))
    if query is None:
        composed = sql.SQL("select * from public.{}({})").format(
            sql.Identifier(function),
            sql.SQL(", ").join(
                sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in names
            ),
        )
        query = _queries[function, names] = composed.as_bytes(None)
    return query


def _adapt(argument: Argument) -> object:
    if isinstance(argument, JsonArgument):
        return Jsonb(argument.value)
    if isinstance(argument, VectorArgument):
        return Vector(argument.values)
    if isinstance(argument, (list, tuple)):
        return list(cast("Sequence[object]", argument))
    return argument


def _interruption(error: BaseException) -> BaseException | None:
    """Return the cancellation or interrupt that an error covers up.

    Leaving a pipeline in the middle of a cancellation raises the pipeline's own error in its place. Taken for
    a lost connection, that would have the call repeated by a task that was told to stop.
    """
    cause = error.__context__
    while cause is not None and isinstance(cause, Exception):
        cause = cause.__context__
    return cause


def _is_connection_loss(error: psycopg.Error) -> bool:
    state = error.sqlstate
    if state is None:
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    # 08: connection exceptions; 57P01 to 57P03: the server stops, crashed, or starts; 53300: no room.
    return state.startswith("08") or state in {"57P01", "57P02", "57P03", "57P05", "53300"}


def _pool_error(error: psycopg_pool.PoolTimeout, where: str) -> TransportError:
    return TransportError(f"the database at {where} can't be reached: {error}")


def _connection_error(error: psycopg.Error, where: str) -> TransportError | APIError:
    text = " ".join(str(error).split())
    if error.sqlstate in {"28P01", "28000"} or "authentication failed" in text:
        return AuthenticationError(
            f"the database at {where} refused the login: {text}",
            code=error.sqlstate or "28P01",
            status=401,
            hint="the login is authenticator; `kp status --json` tells the embedded stack's database_url",
        )
    return TransportError(f"the database at {where} can't be reached: {text}")


def _error(error: psycopg.Error, where: str, *, sent: bool) -> TransportError | APIError:
    """Make the package's exception of psycopg's."""
    if _is_connection_loss(error):
        # A server that refuses to begin (starting, full) has done nothing; one that broke off may have.
        arrived = sent and error.sqlstate not in {"57P03", "53300"}
        text = " ".join(str(error).split())
        return TransportError(
            f"the connection to the database at {where} broke: {text}", may_have_arrived=arrived
        )
    diagnostic = error.diag
    return error_from_sqlstate(
        error.sqlstate or "",
        diagnostic.message_primary or str(error),
        detail=diagnostic.message_detail,
        hint=diagnostic.message_hint,
    )
