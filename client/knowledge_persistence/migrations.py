"""Apply the migrations, in a way that the official Supabase CLI takes for its own.

Both keep their history in ``supabase_migrations.schema_migrations``: version, name, and the file's
statements, split and trimmed. Either may therefore go on where the other stopped. What is stricter here: one
file is one transaction, whatever it says; two runs at a time wait for each other; a history that has versions
we don't know, or whose statements differ from the file's, stops everything before the first change.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from .errors import MigrationError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

_OWNER = "postgres"
"""The role that runs migrations: what it makes must belong to it in every deployment."""

_LOCK_KEY = 0x6B705F6D69677261
"""One advisory lock a database, held while migrating ("kp_migra" in ASCII)."""

_FILE_NAME = re.compile(r"([0-9]{14})_(.+)\.sql")

# Definitions and order of the columns are the CLI's, or `supabase db push` would not read what we write.
_CREATE_HISTORY = (
    "create schema if not exists supabase_migrations",
    "create table if not exists supabase_migrations.schema_migrations (version text not null primary key)",
    "alter table supabase_migrations.schema_migrations add column if not exists statements text[]",
    "alter table supabase_migrations.schema_migrations add column if not exists name text",
)

_HISTORY_COLUMNS = """
select count(*)
from pg_catalog.pg_attribute
where attrelid = pg_catalog.to_regclass('supabase_migrations.schema_migrations')
  and not attisdropped
  and attname in ('version', 'name', 'statements')
"""

# What the CLI trims from both ends of a statement: JavaScript's white space, which is not quite Python's.
_WHITE = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)

# White space and comments; possessive, or two ways to read a comment would multiply.
_BLANK = r"(?:[ \t\r\n\f\v]++|--[^\r\n]*+|/\*(?:[^*]|\*(?!/))*+\*/)*+"
_WORD = r"[\w$\u0080-\U0010ffff]"
_TOKEN = re.compile(
    rf"""
      --[^\r\n]*
    | (?P<block>   /\* )
    | (?<!{_WORD}) e' (?:[^'\\] | \\. | '')* (?: ' \s* [\r\n] \s* ' (?:[^'\\] | \\. | '')* )* (?:'|$)
    | '[^']*' | "[^"]*"
    | (?<!{_WORD}) (?P<dollar> \$ \w* \$ )
    | (?<!{_WORD}) (?P<atomic> begin \s+ atomic ) (?!{_WORD})
    | \\.
    | (?P<open>    \( )
    | (?P<close>   \) )
    | (?P<stop>    ; )
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_BLOCK_MARK = re.compile(r"/\*|\*/")
_END = re.compile(rf"{_BLANK}end(?!{_WORD})", re.IGNORECASE)
_TRANSACTION_CONTROL = re.compile(
    rf"{_BLANK}(?:begin|start\s+transaction|commit|end|rollback|abort|savepoint|release"
    rf"|prepare\s+transaction)(?!{_WORD})",
    re.IGNORECASE,
)
# The CLI runs a file that opens with this outside any transaction; a failure half way would leave half of it.
_NO_TRANSACTION = "-- pg-delta: transaction=false"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a migration file.

    Attributes:
        text: what is executed and recorded, without the semicolon and outer white space.
        offset: where the text starts in the file, in characters.
    """

    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file.

    Attributes:
        version: the 14 digits that order it.
        name: what follows them in the file's name.
        path: the file.
        source: its text.
        statements: its statements, in order.
    """

    version: str
    name: str
    path: Path
    source: str
    statements: list[Statement]


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """How far a database is.

    Attributes:
        applied: versions in its history, oldest first.
        pending: versions of files that are not in its history, oldest first.
    """

    applied: list[str]
    pending: list[str]


def split_statements(source: str) -> list[Statement]:
    """Split SQL at the semicolons that end statements, as the official CLI splits it.

    Comments stay with the statement they precede. Semicolons in strings, quoted names, dollar quotes,
    comments, parentheses and the bodies of SQL-standard functions (``begin atomic … end``) end nothing.

    Args:
        source: SQL text.
    """
    statements: list[Statement] = []
    start = 0
    for end in (*_ends(source), len(source)):
        raw = source[start:end].rstrip(";")
        text = raw.strip(_WHITE)
        if text:
            statements.append(Statement(text, start + len(raw) - len(raw.lstrip(_WHITE))))
        start = end
    return statements


def _ends(source: str) -> Iterator[int]:
    """Yield where each terminated statement ends, behind its semicolon."""
    position = 0
    # The CLI counts no parentheses: the first that closes ends them all. Semicolons between parentheses occur
    # in CREATE RULE alone, and what matters is to split where it splits.
    parenthesis = atomic = False
    while (token := _TOKEN.search(source, position)) is not None:
        position = token.end()
        kind = token.lastgroup
        if kind == "block":
            position = _end_of_block_comment(source, position)
        elif kind == "dollar":
            close = source.find(token[kind], position)
            position = len(source) if close < 0 else close + len(token[kind])
        elif kind in {"open", "close"}:
            parenthesis = kind == "open"
        elif kind == "atomic" or (kind == "stop" and atomic and not parenthesis):
            # Only an END where a statement would begin ends the body: CASE has an END too.
            end = _END.match(source, position)
            atomic = end is None
            position = position if end is None else end.end()
        elif kind == "stop" and not parenthesis:
            yield position


def _end_of_block_comment(source: str, position: int) -> int:
    depth = 1
    for mark in _BLOCK_MARK.finditer(source, position):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(source)


def read_migrations(directory: Path) -> list[Migration]:
    """Read all migration files of a directory, oldest first.

    Args:
        directory: holds files named ``<14-digit version>_<name>.sql``, and no other ``.sql`` files.

    Raises:
        MigrationError: the directory is missing or empty, a name is malformed, two files share a version, or
            a file wants to run without a transaction.
    """
    if not directory.is_dir():
        raise MigrationError(f"no migrations: {directory} is not a directory")
    migrations: list[Migration] = []
    for path in sorted(directory.glob("*.sql")):
        name = _FILE_NAME.fullmatch(path.name)
        if name is None:
            raise MigrationError(f"{path}: a migration's name is <14-digit version>_<name>.sql")
        try:
            source = path.read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise MigrationError(f"{path}: can't be read as UTF-8 text: {error}") from error
        if source.partition("\n")[0].rstrip("\r") == _NO_TRANSACTION:
            raise MigrationError(f"{path}: migrations run in a transaction; this one asks for none")
        statements = split_statements(source)
        for statement in statements:
            if _TRANSACTION_CONTROL.match(statement.text):
                line = _line_of(source, statement.offset + _length_of_blank(statement.text))
                raise MigrationError(f"{path}:{line}: a migration is one transaction and can't control it")
        migrations.append(Migration(name[1], name[2], path, source, statements))
    if not migrations:
        raise MigrationError(f"no migrations in {directory}")
    repeated = [version for version, count in Counter(m.version for m in migrations).items() if count > 1]
    if repeated:
        raise MigrationError(f"{directory}: two files have version {', '.join(repeated)}")
    return migrations


def _say_nothing(_: str) -> None:
    pass


def _line_of(source: str, offset: int) -> int:
    return source.count("\n", 0, offset) + 1


def _length_of_blank(text: str) -> int:
    blank = re.match(_BLANK, text)
    return blank.end() if blank else 0


def migration_status(dsn: str, directory: Path) -> MigrationStatus:
    """Say which migrations a database has and which of the files it lacks.

    Args:
        dsn: PostgreSQL URL or keyword string; any role that may read the history.
        directory: the migration files.

    Raises:
        MigrationError: the files can't be read, or the history can't.
        TransportError: the database can't be reached.
    """
    migrations = read_migrations(directory)
    with _connect(dsn) as connection:
        history = _read_history(connection)
    return MigrationStatus(
        applied=sorted(history),
        pending=[migration.version for migration in migrations if migration.version not in history],
    )


def apply_migrations(
    dsn: str,
    directory: Path,
    *,
    progress: Callable[[str], None] | None = None,
    lock_wait: float = 60.0,
) -> list[str]:
    """Bring a database up to date and return the versions that were applied, oldest first.

    Args:
        dsn: PostgreSQL URL or keyword string of the role ``postgres``, on a session connection (a transaction
            pooler can't hold the lock).
        directory: the migration files.
        progress: called with one line of text for each file, and for each warning of the server.
        lock_wait: how long to wait for another run on the same database, in seconds.

    Raises:
        MigrationError: the files or the history are not as they should be, another run doesn't end, or a
            statement fails; then nothing of its file stays.
        TransportError: the database can't be reached.
    """
    report = progress or _say_nothing
    migrations = read_migrations(directory)
    with _connect(dsn) as connection:
        _check_role(connection)
        with _locked(connection, lock_wait, report):
            history = _read_history(connection)
            pending = _pending(migrations, history)
            if pending:
                _create_history(connection)
            connection.add_notice_handler(partial(_pass_on_warning, report))
            for migration in pending:
                report(f"applying {migration.path.name}")
                _apply(connection, migration)
            if pending:
                # PostgREST, and the embedded Data API, keep a picture of the schema; this renews it.
                connection.execute("notify pgrst, 'reload schema'")
    return [migration.version for migration in pending]


def _pass_on_warning(report: Callable[[str], None], diagnostic: psycopg.errors.Diagnostic) -> None:
    if diagnostic.severity_nonlocalized == "WARNING":
        report(f"warning: {diagnostic.message_primary}")


@contextmanager
def _connect(dsn: str) -> Generator[psycopg.Connection]:
    try:
        connection = psycopg.connect(
            dsn, autocommit=True, connect_timeout=10, application_name="kp migrate", prepare_threshold=None
        )
    except psycopg.ProgrammingError as error:
        raise MigrationError(f"the database URL is malformed: {error}") from error
    except psycopg.OperationalError as error:
        raise TransportError(f"the database can't be reached: {error}") from error
    with connection:
        try:
            yield connection
        except psycopg.Error as error:
            if connection.broken:
                raise TransportError(f"the connection to the database broke: {error}") from error
            raise MigrationError(str(error)) from error


def _check_role(connection: psycopg.Connection) -> None:
    row = connection.execute("select current_user::text").fetchone()
    assert row is not None  # noqa: S101 - a select without FROM has one row
    if row[0] != _OWNER:
        raise MigrationError(
            f"connected as {row[0]}, but everything must belong to {_OWNER}: use that role's database URL"
        )


@contextmanager
def _locked(connection: psycopg.Connection, wait: float, report: Callable[[str], None]) -> Generator[None]:
    row = connection.execute("select pg_catalog.pg_try_advisory_lock(%s)", (_LOCK_KEY,)).fetchone()
    if row is None or not row[0]:
        report(f"another run is migrating this database; waiting up to {wait:g} s")
        connection.execute(
            "select pg_catalog.set_config('lock_timeout', %s, false)", (f"{wait * 1000:.0f}ms",)
        )
        try:
            connection.execute("select pg_catalog.pg_advisory_lock(%s)", (_LOCK_KEY,))
        except psycopg.errors.LockNotAvailable as error:
            raise MigrationError(
                f"another run is still migrating this database after {wait:g} s: let it end, then try again"
            ) from error
        connection.execute("reset lock_timeout")
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute("select pg_catalog.pg_advisory_unlock(%s)", (_LOCK_KEY,))


def _read_history(connection: psycopg.Connection) -> dict[str, list[str] | None]:
    """Return the statements of each applied version; None where whoever recorded it kept none."""
    if connection.execute(_HISTORY_COLUMNS).fetchone() != (3,):
        return {}
    rows = connection.execute(
        "select version, statements from supabase_migrations.schema_migrations"
    ).fetchall()
    return dict(rows)


def _create_history(connection: psycopg.Connection) -> None:
    if connection.execute(_HISTORY_COLUMNS).fetchone() == (3,):
        return
    with connection.transaction():
        connection.execute("set local lock_timeout = '4s'")
        for statement in _CREATE_HISTORY:
            connection.execute(sql.SQL(statement))


def _pending(migrations: list[Migration], history: dict[str, list[str] | None]) -> list[Migration]:
    known = {migration.version for migration in migrations}
    foreign = sorted(set(history) - known)
    if foreign:
        raise MigrationError(
            f"the database has migrations that this version doesn't know: {', '.join(foreign)}."
            " It was migrated by a newer version, or by another project"
        )
    edited = [
        migration.path.name
        for migration in migrations
        if (recorded := history.get(migration.version)) is not None
        and recorded != [statement.text for statement in migration.statements]
    ]
    if edited:
        raise MigrationError(
            f"applied migrations were edited since: {', '.join(edited)}."
            " Restore them; a change is a new migration"
        )
    pending = [migration for migration in migrations if migration.version not in history]
    late = [migration.path.name for migration in pending if history and migration.version < max(history)]
    if late:
        raise MigrationError(
            f"older than the last applied migration ({max(history)}), yet not applied: {', '.join(late)}."
            " Give them a newer version"
        )
    return pending


def _apply(connection: psycopg.Connection, migration: Migration) -> None:
    # A plain SET of the file before must not reach this one.
    connection.execute("reset all")
    running: tuple[int, Statement] | None = None
    try:
        with connection.transaction():
            for running in enumerate(migration.statements, start=1):
                connection.execute(running[1].text.encode())
            running = None
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version, name, statements)"
                " values (%s, %s, %s)",
                (migration.version, migration.name, [statement.text for statement in migration.statements]),
            )
    except psycopg.Error as error:
        if connection.broken:
            raise
        if running is None:
            raise MigrationError(f"{migration.path}: {error}\nnothing of this file was kept") from error
        raise MigrationError(_describe(migration, *running, error)) from error


def _describe(migration: Migration, number: int, statement: Statement, error: psycopg.Error) -> str:
    position = error.diag.statement_position
    inside = int(position) - 1 if position else _length_of_blank(statement.text)
    line = _line_of(migration.source, statement.offset + inside)
    parts = [
        f"{migration.path}:{line}: {error.diag.message_primary or error} (SQLSTATE {error.sqlstate})",
        *(f"{label}: {text}" for label, text in _details(error)),
        f"in statement {number} of {len(migration.statements)}: {_head(statement.text)}",
        "nothing of this file was kept",
    ]
    return "\n".join(parts)


def _details(error: psycopg.Error) -> list[tuple[str, str]]:
    diagnostic = error.diag
    found = [
        ("detail", diagnostic.message_detail),
        ("hint", diagnostic.message_hint),
        ("context", diagnostic.context),
    ]
    return [(label, text) for label, text in found if text]


def _head(text: str) -> str:
    first = text[_length_of_blank(text) :].partition("\n")[0]
    return first if len(first) <= 100 else first[:99] + "…"  # noqa: PLR2004
