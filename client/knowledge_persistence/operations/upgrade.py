"""An upgrade in the order that can be taken back: check, back up, migrate, check."""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg

from ..errors import ConfigurationError, EmbeddedStackError, TransportError
from ..migrations import apply_migrations, migration_status, read_migrations
from ..resources import migrations_dir
from .backup import back_up
from .deployment import read_env_file
from .doctor import Finding, Severity, examine_database

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from ..embedded import Stack

_MIB = 1024 * 1024
_GUIDE = "docs/how-to/upgrade.md says how to change over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """What an upgrade did, or would do.

    Attributes:
        applied: versions of the migrations that it applied; in a dry run, those that are pending.
        backup: the archive that leads back; None where nothing was pending, or nothing was done.
        findings: what the doctor says of the database afterwards.
        steps: what is left to do, in order.
    """

    applied: list[str]
    backup: Path | None
    findings: list[Finding]
    steps: list[str]

    @property
    def is_sound(self) -> bool:
        """Whether the doctor found nothing that doesn't work."""
        return not any(finding.severity is Severity.error for finding in self.findings)


def upgrade_database(
    database_url: str,
    backup: Path,
    *,
    secrets_files: Sequence[Path] = (),
    expected_major: int | None = None,
    dry_run: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Upgrade:
    """Upgrade a database to the schema of this version, with an archive of what was before.

    Args:
        database_url: PostgreSQL URL of the role postgres.
        backup: the archive to write; it must not be there yet.
        secrets_files: files that go into the archive.
        expected_major: the server's major version as it is to be; None: whatever it is.
        dry_run: change nothing, and say what is pending.
        progress: told what happens.

    Raises:
        ConfigurationError: the server's version, the database's history or the disk forbid it; nothing was changed.
        TransportError: the database can't be reached.
        KnowledgePersistenceError: the backup or a migration failed.
    """
    if not backup.parent.is_dir():
        raise ConfigurationError(
            f"{backup.parent} is no directory: the backup has no place. Nothing was changed"
        )
    progress("Checking")
    size = _check(database_url, expected_major)
    pending = list(migration_status(database_url, migrations_dir()).pending)
    free = shutil.disk_usage(backup.parent).free
    if pending and free < size:
        raise ConfigurationError(
            f"a backup of {size // _MIB} MiB may not fit beside {backup.parent}: {free // _MIB} MiB are free. "
            "Nothing was changed; name another place for it"
        )
    if dry_run:
        return Upgrade(applied=pending, backup=None, findings=[], steps=[])
    made: Path | None = None
    if pending:
        progress("Backing up")
        made = back_up(database_url, backup, secrets_files=secrets_files, progress=progress).path
        progress("Migrating")
        apply_migrations(database_url, migrations_dir(), progress=progress)
    progress("Checking again")
    return Upgrade(applied=pending, backup=made, findings=examine_database(database_url), steps=[])


def _check(database_url: str, expected_major: int | None) -> int:
    """Check what would make an upgrade go wrong, and return the database's size in bytes."""
    try:
        with psycopg.connect(database_url, autocommit=True, connect_timeout=10) as connection:
            row = connection.execute(
                "select current_setting('server_version_num')::int / 10000,"
                " pg_database_size(current_database()),"
                " to_regclass('supabase_migrations.schema_migrations') is not null, pg_is_in_recovery()"
            ).fetchone()
            assert row is not None  # noqa: S101 - a select without FROM has one row
            major, size, has_history, is_replica = row
            applied: set[str] = set()
            if has_history:
                history = connection.execute("select version from supabase_migrations.schema_migrations")
                applied = {str(version) for (version,) in history}
    except psycopg.OperationalError as error:
        raise TransportError(f"the database can't be reached: {error}") from error
    except psycopg.Error as error:
        raise ConfigurationError(f"the database can't be examined as who this URL names: {error}") from error
    if expected_major is not None and major != expected_major:
        raise ConfigurationError(
            f"the database is PostgreSQL {major}, and this version's is {expected_major}: a server can't read the"
            f" files of another. Nothing was changed; {_GUIDE}"
        )
    if is_replica:
        raise ConfigurationError("this is a read replica: upgrade its primary, and it follows")
    newest = max(migration.version for migration in read_migrations(migrations_dir()))
    newer = sorted(version for version in applied if version > newest)
    if newer:
        raise ConfigurationError(
            f"the database has the migration {newer[-1]}, which this version doesn't know: this is no upgrade. "
            "Nothing was changed; install the newer version"
        )
    return int(size)


def upgrade_stack(
    stack: Stack, backup: Path, *, dry_run: bool = False, progress: Callable[[str], None] = lambda _: None
) -> Upgrade:
    """Upgrade an embedded stack; one that runs is started again with this version, one that doesn't stays down.

    Args:
        stack: the stack.
        backup: the archive to write.
        dry_run: change nothing, and say what is pending.
        progress: told what happens.

    Raises:
        EmbeddedStackError: there is no stack, or its data are of another major version of PostgreSQL.
        ConfigurationError: see `upgrade_database`.
    """
    home = stack.home
    config = home.load_config()
    if config is None:
        raise EmbeddedStackError(f"there is no stack in {home.path}; `kp up` makes one")
    home.cluster(config).check_version()
    files = [path for path in (home.config_file, home.path / "credentials.json") if path.exists()]
    was_running = home.is_held()
    with contextlib.nullcontext() if was_running else _database_alone(stack):
        done = upgrade_database(
            config.database_url("postgres"), backup, secrets_files=files, dry_run=dry_run, progress=progress
        )
    if not was_running:
        # The database ran alone: nobody missed a worker.
        return replace(done, findings=[finding for finding in done.findings if finding.check != "worker"])
    if not dry_run:
        # What runs may be of the version before.
        stack.down()
        stack.up(progress=progress)
    return done


@contextlib.contextmanager
def _database_alone(stack: Stack) -> Generator[None]:
    """Run the database of a stack that is down, and nothing else of it."""
    home = stack.home
    home.prepare()
    with home.lock() as free:
        config = home.load_config()
        if not free or config is None:
            raise EmbeddedStackError(f"another command is starting the stack in {home.path}; try again")
        if config.next_passwords:
            raise EmbeddedStackError(
                "a rotation of the passwords waits for the next start: `kp up` first, then upgrade"
            )
        cluster = home.cluster(config)
        with (home.log_directory / "postgres.log").open("ab") as log:
            cluster.stop()
            process = cluster.start(log)
            try:
                if not cluster.wait_ready(process):
                    raise EmbeddedStackError("PostgreSQL wasn't ready in time; `kp logs postgres` says why")
                yield
            finally:
                cluster.stop(process)


def upgrade_compose(
    env_file: Path,
    backup: Path,
    *,
    database_url: str,
    dry_run: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Upgrade:
    """Upgrade the database of a docker compose deployment; its containers are the operator's to recreate.

    Args:
        env_file: the deployment's `.env`, beside its docker-compose.yml.
        backup: the archive to write.
        database_url: PostgreSQL URL of the role postgres.
        dry_run: change nothing, and say what is pending.
        progress: told what happens.

    Raises:
        ConfigurationError: see `upgrade_database`.
    """
    done = upgrade_database(
        database_url,
        backup,
        secrets_files=[env_file],
        expected_major=image_major(env_file),
        dry_run=dry_run,
        progress=progress,
    )
    steps = ["docker compose build", "docker compose up --detach --wait"]
    return Upgrade(applied=done.applied, backup=done.backup, findings=done.findings, steps=steps)


def image_major(env_file: Path) -> int | None:
    """Return the major version of PostgreSQL that a deployment's database image has, as far as its tag says.

    Args:
        env_file: the `.env`, beside docker-compose.yml.
    """
    image = read_env_file(env_file).get("DB_IMAGE", "")
    compose_file = env_file.with_name("docker-compose.yml")
    if not image and compose_file.is_file():
        found = re.search(r"\$\{DB_IMAGE:-([^}]+)\}", compose_file.read_text())
        image = found[1] if found else ""
    tag = re.search(r":(\d+)(?:\.|$)", image)
    return int(tag[1]) if tag else None
