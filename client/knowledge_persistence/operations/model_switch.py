"""Switch the embedding model of a running deployment: embed anew, build the index, swap, settle.

All of the state is in the database (see the migration of the embedding switch), so that whoever runs this again after
an interruption goes on where it was. This drives the steps, embeds along with the workers, and builds the index, which
only the owner of the table may do, concurrently.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from ..errors import ConflictError, KnowledgePersistenceError, TransportError, error_from_sqlstate

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import AsyncGenerator, Callable, Generator
    from typing import LiteralString

    from ..embedders import Embedder

#: Seconds between two looks at how far the embedding is.
_LOOK: Final = 1.0
#: Items that move at once after the swap.
_SETTLE: Final = 500
#: Some seconds' worth of looking vectors up.
_CHECK: Final = "select public.check_vectors(2000, %s) as checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchStatus:
    """How far a switch is.

    Attributes:
        from_model: the model that served when it began.
        to_model: the model that is to serve.
        state: filling (the old model serves), settling (the new one does, its vectors move into the items), settled
            (the old vectors are kept for an hour, for clients that still ask with the old model).
        items: how many items it is about.
        embedded: how many of them have a vector of the new model.
        waiting: how many wait for one.
        failed: how many could not be embedded, and were set aside.
        unsettled: how many still have another vector in their own row.
        index_name: the new model's index.
        index_valid: whether it is built.
        index_statement: what builds it.
        started_at: when it began.
        swapped_at: from when the new model served.
    """

    from_model: str | None
    to_model: str
    state: str
    items: int
    embedded: int
    waiting: int
    failed: int
    unsettled: int
    index_name: str
    index_valid: bool
    index_statement: str
    started_at: dt.datetime
    swapped_at: dt.datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewModel:
    """What a model is registered with, where it isn't yet.

    Attributes:
        name: the model's name, as its embedder reports it.
        dimensions: length of its vectors.
        similarity_threshold: cosine similarity from which two texts count as related.
        query_prefix: what goes before a question.
        document_prefix: what goes before a document.
    """

    name: str
    dimensions: int | None = None
    similarity_threshold: float | None = None
    query_prefix: str = ""
    document_prefix: str = ""


async def switch_embedding_model(
    database_url: str,
    model: NewModel,
    *,
    embedder: Embedder | None,
    accept_failed: bool = False,
    progress: Callable[[str, SwitchStatus], None],
) -> SwitchStatus | None:
    """Switch the default embedding model, or go on with the switch to it that was interrupted.

    Args:
        database_url: PostgreSQL URL of the owner of the tables (postgres).
        model: the new model.
        embedder: embeds with it, beside the workers that can; None: they do all of it.
        accept_failed: swap although some items can't be embedded: they are found by their words, and tried again.
        progress: told the step (embed, index, check, swap, settle) and how far it is.

    Returns:
        how it was when the new model served every item; None when it did so already.

    Raises:
        ConflictError: another switch is under way, or items can't be embedded with the new model.
        InvalidArgumentError: the model is not registered, and its dimensions are unknown.
        TransportError: the database can't be reached. What was done is kept.
    """
    async with _operator(database_url) as connection:
        if await _serves_all(connection, model.name):
            return None
        status = await _begin(connection, model)
        if status.state == "filling":
            await _fill_and_swap(
                connection, database_url, embedder, accept_failed=accept_failed, progress=progress
            )
        while True:
            status = await _status(connection)
            progress("settle", status)
            if status.state == "settled":
                return status
            await _call(connection, "select public.settle_embedding_switch(%s)", [_SETTLE])


async def switch_status(database_url: str) -> SwitchStatus | None:
    """Say how far the switch that is under way is; None: none is.

    Args:
        database_url: PostgreSQL URL of an operator (postgres).

    Raises:
        TransportError: the database can't be reached.
        PermissionDeniedError: the login is no operator's.
    """
    async with _operator(database_url, driving=False) as connection:
        rows = await _call(connection, "select * from public.embedding_switch_status()")
        return _to_status(rows[0]) if rows else None


async def abort_switch(database_url: str) -> SwitchStatus:
    """Give a switch up that has not swapped yet, and say how far it was.

    Args:
        database_url: PostgreSQL URL of an operator (postgres).

    Raises:
        ConflictError: there is none, or it has swapped.
        TransportError: the database can't be reached.
    """
    async with _operator(database_url) as connection:
        return _to_status((await _call(connection, "select * from public.abort_embedding_switch()"))[0])


async def read_operations(database_url: str, view: LiteralString) -> list[dict[str, object]]:
    """Read all rows of an operations view.

    Args:
        database_url: PostgreSQL URL of an operator (postgres).
        view: its name in schema public.
    """
    async with _operator(database_url, driving=False) as connection:
        return await _call(connection, sql.SQL("select * from public.{}").format(sql.Identifier(view)))


async def retry_failed(database_url: str, knowledge_ids: list[str] | None = None) -> int:
    """Give texts that were set aside a new chance, and say how many jobs that is.

    Args:
        database_url: PostgreSQL URL of an operator (postgres).
        knowledge_ids: only these items'; None: all.
    """
    async with _operator(database_url, driving=False) as connection:
        rows = await _call(
            connection, "select public.retry_embeddings(%s::uuid[]) as retried", [knowledge_ids]
        )
        return cast("int", rows[0]["retried"])


async def _fill_and_swap(
    connection: psycopg.AsyncConnection,
    database_url: str,
    embedder: Embedder | None,
    *,
    accept_failed: bool,
    progress: Callable[[str, SwitchStatus], None],
) -> None:
    while True:
        await _fill(connection, database_url, embedder, progress)
        status = await _status(connection)
        if not status.index_valid:
            progress("index", status)
            await _build_index(connection, status)
        # What the new index does not find is to be known before it serves.
        progress("check", status)
        while (await _call(connection, _CHECK, [status.to_model]))[0]["checked"]:
            pass
        progress("swap", status)
        [swap] = await _call(connection, "select * from public.swap_embedding_model(%s)", [accept_failed])
        if swap["outcome"] == "swapped":
            return
        if swap["outcome"] == "failed":
            raise ConflictError(
                f"{swap['failed']} items can't be embedded with {status.to_model}, so it does not serve yet",
                code="PT409",
                status=409,
                hint="`kp embeddings failed` says why, `kp embeddings retry` tries again; with --accept-failed they "
                "are found by their words only",
            )


async def _fill(
    connection: psycopg.AsyncConnection,
    database_url: str,
    embedder: Embedder | None,
    progress: Callable[[str, SwitchStatus], None],
) -> None:
    """Wait until everything has its vector, embedding along."""
    from ..worker import Worker  # noqa: PLC0415 - it needs the client, and the status does not

    worker = None if embedder is None else Worker(database_url=database_url, embedder=embedder)
    working: asyncio.Task[object] | None = None
    try:
        while True:
            status = await _status(connection)
            progress("embed", status)
            if status.waiting == 0:
                return
            if worker is not None and (working is None or working.done()):
                if working is not None:
                    working.result()
                working = asyncio.create_task(worker.run_once())
            if working is not None:
                await asyncio.wait([working], timeout=_LOOK)
                if not working.done() or (await _status(connection)).waiting == 0:
                    continue
            await asyncio.sleep(_LOOK)
    finally:
        if worker is not None and working is not None:
            worker.stop()
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError, KnowledgePersistenceError):
                await working


async def _build_index(connection: psycopg.AsyncConnection, status: SwitchStatus) -> None:
    # What an interrupted building leaves behind is not valid, and in the way.
    await _call(
        connection,
        sql.SQL("drop index concurrently if exists private.{}").format(sql.Identifier(status.index_name)),
    )
    await _call(connection, cast("LiteralString", status.index_statement))


async def _serves_all(connection: psycopg.AsyncConnection, name: str) -> bool:
    [row] = await _call(
        connection,
        "select exists (select from public.embedding_models m where m.is_default and m.name = %s)"
        " and not exists (select from private.embedding_switches s where s.ended_at is null and s.settled_at is null)"
        " and not exists (select from public.knowledge_items k join public.workspaces w on w.id = k.workspace_id"
        "  where w.embedding_model is null and k.embedding_model <> %s) as yes",
        [name, name],
    )
    return bool(row["yes"])


async def _begin(connection: psycopg.AsyncConnection, model: NewModel) -> SwitchStatus:
    rows = await _call(
        connection,
        "select * from public.begin_embedding_switch(%s, %s, %s, %s, %s)",
        [
            model.name,
            model.dimensions,
            model.similarity_threshold,
            model.query_prefix,
            model.document_prefix,
        ],
    )
    return _to_status(rows[0])


async def _status(connection: psycopg.AsyncConnection) -> SwitchStatus:
    rows = await _call(connection, "select * from public.embedding_switch_status()")
    if not rows:
        raise ConflictError("the switch was given up meanwhile", code="PT409", status=409)
    return _to_status(rows[0])


def _to_status(row: dict[str, object]) -> SwitchStatus:
    return SwitchStatus(**row)  # pyright: ignore[reportArgumentType] - the columns of embedding_switch_report


@contextlib.asynccontextmanager
async def _operator(database_url: str, *, driving: bool = True) -> AsyncGenerator[psycopg.AsyncConnection]:
    with _translated():
        connection = await psycopg.AsyncConnection.connect(
            database_url, autocommit=True, connect_timeout=10, application_name="kp embeddings"
        )
    try:
        # Building an index takes as long as it takes.
        await _call(connection, "select set_config('statement_timeout', '0', false)")
        if driving:
            [row] = await _call(
                connection,
                "select pg_try_advisory_lock(hashtextextended('knowledge-persistence: kp embeddings', 0)) as mine",
            )
            if not row["mine"]:
                raise ConflictError(
                    "another `kp embeddings switch` is at work on this database",
                    code="PT409",
                    status=409,
                    hint="`kp embeddings status` says how far it is",
                )
        yield connection
    finally:
        await connection.close()


async def _call(
    connection: psycopg.AsyncConnection,
    statement: LiteralString | sql.Composed,
    parameters: list[object] | None = None,
) -> list[dict[str, object]]:
    with _translated():
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement, parameters)
            return await cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
            raise TransportError(f"the database can't be reached: {error}") from error
        diagnostic = error.diag
        raise error_from_sqlstate(
            error.sqlstate,
            diagnostic.message_primary or str(error),
            detail=diagnostic.message_detail,
            hint=diagnostic.message_hint,
        ) from error
