"""Backups: one verified archive of everything a deployment is, and the way back.

An archive is a tar file: roles, the secrets' file, the key of Vault where there is one, the database as pg_dump writes
it (in pieces, because its length isn't known beforehand), a manifest, and last a SHA-256 of all bytes before it. It
gets its name when it is complete and on the disk; what was interrupted never has it.

The dump and the manifest's inventory see the same snapshot, whatever is written meanwhile. A restore goes into a new
database, is compared with the inventory there, and only then takes the place of the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import IO, TYPE_CHECKING, Any, Final, LiteralString, cast

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..embedded.postgres import binaries
from ..errors import BackupError, TransportError
from ..migrations import split_statements
from .inventory import Inventory, compare, take_inventory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    Progress = Callable[[str], None]

_FORMAT: Final = 1
_PIECE: Final = 8 * 1024 * 1024
_VAULT_KEY: Final = "/etc/postgresql-custom/pgsodium_root.key"
_DIGEST: Final = "sha256"
_MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Backup:
    """What an archive holds.

    Attributes:
        path: the archive.
        size: its length in bytes.
        created_at: when the snapshot was taken.
        database: the database's name.
        server_version: of the server that it came from.
        rows: rows of all tables together.
        files: what is in it.
    """

    path: Path
    size: int
    created_at: datetime
    database: str
    server_version: str
    rows: int
    files: list[str]


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore came to.

    Attributes:
        database: the database that holds the data now; None where it was only verified.
        previous: what the database before is called now, or None.
        tables: how many tables were compared.
        rows: how many rows they have.
    """

    database: str | None
    previous: str | None
    tables: int
    rows: int


class _Hashing:
    """A file being written, with the digest of what was."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> int:
        """Write and remember."""
        self._file.write(data)
        self.digest.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        """Return how much was written."""
        return self._size


def back_up(
    database_url: str,
    target: Path,
    *,
    secrets_files: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Backup:
    """Write a backup of a database.

    Args:
        database_url: PostgreSQL URL of a role that may read everything (supabase_admin, or postgres), on a session
            connection.
        target: the archive to write; it must not exist.
        secrets_files: files to put into it, such as `.env` or `stack.json`.
        progress: told what is being done.

    Raises:
        BackupError: the archive can't be written, or the database can't be dumped; then there is no archive.
        TransportError: the database can't be reached.
    """
    if target.exists():
        raise BackupError(f"{target} exists; a backup replaces nothing")
    # A name of its own: a second backup to the same target must not write into this one.
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _write(file, database_url, secrets_files, progress or _silent)
                file.flush()
                os.fsync(file.fileno())
            # Read back before it counts: a disk may not keep what it was given.
            made = check(partial)
            # Not a rename: that would replace what has come to be there meanwhile.
            os.link(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        _sync(target.parent)
    except FileExistsError as error:
        raise BackupError(f"{target} exists; a backup replaces nothing") from error
    except OSError as error:
        raise BackupError(f"the archive can't be written: {error}") from error
    return replace(made, path=target)


def _write(file: IO[bytes], database_url: str, secrets_files: Sequence[Path], say: Progress) -> None:
    writer = _Hashing(file)
    names: list[str] = []
    with tarfile.open(fileobj=cast("IO[bytes]", writer), mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(data))
            names.append(name)

        with _connect(database_url) as connection, _translated(), connection.transaction():
            connection.execute("set transaction isolation level repeatable read, read only")
            for setting in (
                "statement_timeout",
                "idle_in_transaction_session_timeout",
                "transaction_timeout",
            ):
                connection.execute("select set_config(%s, '0', true)", (setting,))
            row = connection.execute("select pg_export_snapshot(), now()").fetchone()
            assert row is not None  # noqa: S101 - a select without FROM has one row
            snapshot, created_at = row
            say("dumping roles")
            with _program("pg_dumpall", database_url, "--globals-only", "--no-role-passwords") as roles:
                add("roles.sql", roles.read())
            for path in secrets_files:
                add(f"secrets/{path.name}", path.read_bytes())
            key = _vault_key(connection)
            if key is not None:
                add("vault.key", key)
            with _program(
                "pg_dump",
                database_url,
                "--format=custom",
                # The quickest there is: the text and vectors of a memory hardly get smaller with more.
                "--compress=gzip:1",
                "--lock-wait-timeout=60000",
                f"--snapshot={snapshot}",
            ) as dump:
                number = 0
                while piece := dump.read(_PIECE):
                    number += 1
                    add(f"database/{number:06}", piece)
                    say(f"dumping the database: {writer.tell() / 1024 / 1024:.0f} MiB")
            say("counting and hashing")
            inventory = take_inventory(connection, progress=lambda name: say(f"counting and hashing {name}"))
            manifest = {
                "format": _FORMAT,
                "created_at": created_at.isoformat(),
                "software": _software(),
                "server_version": connection.info.parameter_status("server_version"),
                "database": connection.info.dbname,
                "owner": _one(
                    connection,
                    "select pg_get_userbyid(datdba) from pg_database where datname = current_database()",
                ),
                "settings": _settings(connection),
                "inventory": inventory,
                "files": list(names),
            }
        add(_MANIFEST, json.dumps(manifest, indent=1).encode())
        add(_DIGEST, writer.digest.hexdigest().encode())


def check(path: Path) -> Backup:
    """Read an archive whole and say what it holds.

    Args:
        path: the archive.

    Raises:
        BackupError: it isn't one, isn't complete, or isn't as it was written, be it by one byte.
    """
    try:
        with path.open("rb") as file:
            manifest = _verify(file)
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError as error:
        raise BackupError(f"there is no archive {path}") from error
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{path} is no complete backup: {error}") from error
    tables: dict[str, str] = manifest["inventory"]["tables"]
    return Backup(
        path=path,
        size=size,
        created_at=datetime.fromisoformat(manifest["created_at"]),
        database=manifest["database"],
        server_version=manifest["server_version"],
        rows=_rows(tables),
        files=manifest["files"],
    )


def _verify(file: IO[bytes]) -> dict[str, Any]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        members = archive.getmembers()
        if [member.name for member in members[-2:]] != [_MANIFEST, _DIGEST]:
            raise ValueError("its end is missing")
        seal = members[-1]
        file.seek(0)
        digest, left = hashlib.sha256(), seal.offset
        while left:
            piece = file.read(min(_PIECE, left))
            if not piece:
                raise ValueError("its end is missing")
            digest.update(piece)
            left -= len(piece)
        header = file.read(seal.offset_data - seal.offset)
        end = file.read()
        # The digest's own block and two blocks of zeros, filled up to a record: so tarfile closes an archive.
        closed = seal.offset_data + 3 * tarfile.BLOCKSIZE
        if seal.offset_data + len(end) != closed + -closed % tarfile.RECORDSIZE:
            raise ValueError("its end is missing")
        # All that isn't covered by the digest: one header, the digest itself, and zeros.
        expected = tarfile.TarInfo(_DIGEST)
        expected.size, expected.mode, expected.mtime = seal.size, 0o600, seal.mtime
        if (
            seal.size != digest.digest_size * 2
            or end[: seal.size] != digest.hexdigest().encode()
            or header != expected.tobuf(tarfile.PAX_FORMAT)
            or end[seal.size :].strip(b"\0")
        ):
            raise ValueError("it was altered or damaged: its checksum is not that of its content")
        manifest = json.loads(_read(archive, members[-2]))
    if manifest["format"] != _FORMAT:
        raise ValueError(f"its format is {manifest['format']}; this version reads {_FORMAT}")
    return manifest


def restore(
    path: Path,
    database_url: str,
    *,
    database: str | None = None,
    verify_only: bool = False,
    replace_existing: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Restore a backup into a new database, compare the two, and put the new one in the old one's place.

    Args:
        path: the archive.
        database_url: PostgreSQL URL of the target cluster's superuser (supabase_admin), any database.
        database: what the restored database is called; None: as it was called.
        verify_only: drop it again once it was compared.
        replace_existing: rename a database of that name that has items in it; otherwise that is an error.
        progress: told what is being done.

    Raises:
        BackupError: the archive is damaged, the target holds data already, a statement fails, or what was
            restored differs from what was backed up; the target's data is as it was.
        TransportError: the cluster can't be reached.
    """
    say = progress or _silent
    say("checking the archive")
    source = check(path)
    name = database or source.database
    # Created from another database than the one it is to replace.
    hub = make_conninfo(database_url, dbname="template1")
    scratch = f"restore_{secrets.token_hex(6)}"
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
        manifest = json.loads(_read(archive, archive.getmember(_MANIFEST)))
        with _connect(hub) as connection, _translated():
            _check_superuser(connection)
            if not verify_only and not replace_existing and _is_used(connection, database_url, name):
                raise BackupError(
                    f"the database {name} holds data already: --replace renames it and restores beside it"
                )
            say("restoring roles")
            _restore_roles(connection, _read(archive, archive.getmember("roles.sql")).decode())
            owner = sql.Identifier(manifest["owner"])
            connection.execute(
                sql.SQL("create database {} owner {} template template0").format(
                    sql.Identifier(scratch), owner
                )
            )
        try:
            url = make_conninfo(database_url, dbname=scratch)
            _restore_database(archive, url, say)
            with _connect(hub) as connection, _translated():
                _restore_settings(connection, scratch, manifest["settings"])
            say("comparing with the original")
            with _connect(url) as connection, _translated(), connection.transaction():
                found = take_inventory(connection)
            differences = compare(cast("Inventory", manifest["inventory"]), found)
            if differences:
                shown = "\n".join(f"  {line}" for line in differences[:20])
                more = f"\n  and {len(differences) - 20} more" if len(differences) > 20 else ""  # noqa: PLR2004
                raise BackupError(f"what was restored is not what was backed up:\n{shown}{more}")
            with _connect(hub) as connection, _translated():
                previous = None if verify_only else _take_place(connection, scratch, name)
        finally:
            with contextlib.suppress(TransportError, BackupError), _connect(hub) as connection:
                connection.execute(
                    sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(scratch))
                )
    tables = found["tables"]
    return Restored(
        database=None if verify_only else name, previous=previous, tables=len(tables), rows=_rows(tables)
    )


def _restore_database(archive: tarfile.TarFile, url: str, say: Progress) -> None:
    pieces = [member for member in archive.getmembers() if member.name.startswith("database/")]
    with _program("pg_restore", url, "--exit-on-error", "--dbname", takes_input=True) as target:
        for number, member in enumerate(pieces, start=1):
            say(f"restoring the database: part {number} of {len(pieces)}")
            try:
                target.write(_read(archive, member))
            except BrokenPipeError:
                return  # it has ended; what it said is raised where its exit code is looked at


def _is_used(connection: psycopg.Connection, database_url: str, name: str) -> bool:
    """Tell whether a database of that name has our schema with anybody's items in it."""
    if not _one(connection, "select exists (select from pg_database where datname = %s)", name):
        return False
    with _connect(make_conninfo(database_url, dbname=name)) as inside:
        if _one(inside, "select to_regclass('public.knowledge_items') is null"):
            return False
        return bool(_one(inside, "select exists (select from public.knowledge_items)"))


def _take_place(connection: psycopg.Connection, scratch: str, name: str) -> str | None:
    previous = f"{name}_before_{datetime.now(UTC):%Y%m%d%H%M%S}"
    there = bool(_one(connection, "select exists (select from pg_database where datname = %s)", name))
    rename = sql.SQL("alter database {} rename to {}")
    if there:
        # Nobody can connect while it is moved; whoever is connected reconnects to the new one.
        connection.execute(
            sql.SQL("alter database {} with allow_connections false").format(sql.Identifier(name))
        )
    try:
        with connection.transaction():
            connection.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = any(%s)",
                ([name, scratch],),
            )
            if there:
                connection.execute(rename.format(sql.Identifier(name), sql.Identifier(previous)))
            connection.execute(rename.format(sql.Identifier(scratch), sql.Identifier(name)))
    except BaseException:  # ^C, too
        if there:
            connection.execute(
                sql.SQL("alter database {} with allow_connections true").format(sql.Identifier(name))
            )
        raise
    return previous if there else None


def _restore_roles(connection: psycopg.Connection, source: str) -> None:
    """Make the roles that are missing, and give all of them their settings and memberships.

    A role that is there keeps its attributes and its password: they are the target's.
    """
    # psql's own commands have no meaning here.
    text = re.sub(r"(?m)^\\.*$", "", source)
    have = {name for (name,) in connection.execute("select rolname::text from pg_roles")}
    made: set[str] = set()
    for statement in split_statements(text):
        command = re.sub(r"(?m)^--.*\n?", "", statement.text).strip()
        found = re.match(r'(CREATE|ALTER) ROLE (?:"((?:[^"]|"")+)"|([^\s;]+))\s*(WITH)?', command)
        if found is not None:
            role = (found[2] or found[3]).replace('""', '"')
            if found[1] == "CREATE":
                if role in have:
                    continue
                made.add(role)
            elif found[4] is not None and role not in made:
                continue
        elif not command.startswith("GRANT "):
            continue
        connection.execute(command.encode())


def _settings(connection: psycopg.Connection) -> list[list[str | None]]:
    """Return what ALTER DATABASE … SET has set: role or None, name, value."""
    rows = connection.execute(
        "select case when s.setrole <> 0 then pg_get_userbyid(s.setrole)::text end,"
        " split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)"
        " from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase, unnest(s.setconfig) c"
        " where d.datname = current_database() order by 1, 2"
    )
    return [list(row) for row in rows]


def _restore_settings(
    connection: psycopg.Connection, database: str, settings: list[list[str | None]]
) -> None:
    name = sql.Identifier(database)
    for role, setting, value in settings:
        # Set here and taken from here: whatever the setting's own way of writing lists is.
        connection.execute("select set_config(%s, %s, false)", (setting, value))
        target = (
            sql.SQL("database {}").format(name)
            if role is None
            else sql.SQL("role {} in database {}").format(sql.Identifier(role), name)
        )
        parts = sql.SQL(".").join(sql.Identifier(part) for part in str(setting).split("."))
        connection.execute(sql.SQL("alter {} set {} from current").format(target, parts))


def _vault_key(connection: psycopg.Connection) -> bytes | None:
    """Read Vault's root key where the server has one and we may; secrets in Vault are lost without it."""
    if not _one(connection, "select exists (select from pg_extension where extname = 'supabase_vault')"):
        return None
    if not _one(connection, "select rolsuper from pg_roles where rolname = current_user"):
        return None
    found = _one(connection, "select pg_read_binary_file(%s, 0, 4096, true)", _VAULT_KEY)
    return bytes(cast("bytes", found)) if found is not None else None


def _check_superuser(connection: psycopg.Connection) -> None:
    if not _one(connection, "select rolsuper from pg_roles where rolname = current_user"):
        raise BackupError(
            f"restoring needs the superuser (supabase_admin); connected as {connection.info.user}"
        )


def _one(connection: psycopg.Connection, query: LiteralString, *parameters: object) -> object:
    row = connection.execute(query, parameters or None).fetchone()
    assert row is not None  # noqa: S101 - each of these queries has one row
    return row[0]


def _rows(tables: dict[str, str]) -> int:
    return sum(int(text.split()[0]) for text in tables.values())


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise BackupError(f"{member.name} in the archive is no file")
    return file.read()


@contextlib.contextmanager
def _program(
    program: str, database_url: str, *arguments: str, takes_input: bool = False
) -> Generator[IO[bytes]]:
    """Run one of PostgreSQL's programs, and lend its output, or its input.

    Raises:
        BackupError: it fails.
    """
    given = conninfo_to_dict(database_url)
    password = str(given.pop("password", "") or "")
    # The password goes through the environment: arguments are anybody's to read.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "PGPASSWORD": password}
    dsn = make_conninfo("", **given)
    options = [*arguments, dsn] if arguments[-1:] == ("--dbname",) else [*arguments, "--dbname", dsn]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603
            [str(binaries() / program), *options],
            stdin=subprocess.PIPE if takes_input else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if takes_input else subprocess.PIPE,
            stderr=said,
            env=environment,
        )
        stream = process.stdin if takes_input else process.stdout
        assert stream is not None  # noqa: S101 - it is a pipe
        try:
            yield stream
            with contextlib.suppress(BrokenPipeError):
                stream.close()
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        if code != 0:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise BackupError(f"{program} failed: " + "; ".join(lines[-5:]))


@contextlib.contextmanager
def _connect(database_url: str) -> Generator[psycopg.Connection]:
    try:
        connection = psycopg.connect(
            database_url,
            autocommit=True,
            connect_timeout=10,
            application_name="kp backup",
            prepare_threshold=None,
        )
    except psycopg.ProgrammingError as error:
        raise BackupError(f"the database URL is malformed: {error}") from error
    except psycopg.OperationalError as error:
        raise TransportError(f"the database can't be reached: {error}") from error
    with connection:
        yield connection


@contextlib.contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise BackupError(f"the database refused: {error}") from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _software() -> str:
    try:
        return version("knowledge-persistence")
    except PackageNotFoundError:
        return "unknown"


def _silent(_: str) -> None:
    pass
