"""The database server of the tests: one cluster a run, one migrated template, a clone for each test."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from psycopg import sql

from knowledge_persistence.embedded import Cluster, StackConfig, bootstrap_database, create_database
from knowledge_persistence.embedded.bootstrap import set_passwords

if TYPE_CHECKING:
    from collections.abc import Generator

# What a database server needs to survive a crash, and these don't: a lost test run is run again.
_FAST = """
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 128MB
max_wal_size = 1GB
"""


@dataclass(frozen=True, slots=True)
class Database:
    """One database of the tests' server.

    Attributes:
        server: the server.
        name: its name there.
    """

    server: DatabaseServer
    name: str

    def dsn(self, role: str = "postgres") -> str:
        """Return its URL for a role that logs in.

        Args:
            role: postgres (runs migrations), authenticator (the direct transport), supabase_auth_admin (the
                Data API), or supabase_admin (the superuser).
        """
        return self.server.dsn(self.name, role)


class DatabaseServer:
    """A cluster like the embedded stack's, in a temporary directory.

    Attributes:
        config: its passwords and ports.
        cluster: the cluster itself.
    """

    def __init__(self, directory: Path) -> None:
        """Choose passwords and ports.

        Args:
            directory: an existing directory for everything of it, short enough for a socket's path.
        """
        self._directory = directory
        self.config = StackConfig.generate(origin_port=free_port(), database_port=free_port())
        self.cluster = Cluster(
            directory / "postgres",
            socket_directory=directory / "socket",
            port=self.config.database_port,
            superuser_password=self.config.passwords["supabase_admin"],
        )
        self._numbers = itertools.count(1)

    @contextmanager
    def running(self, settings: str = "") -> Generator[Self]:
        """Make the cluster, start it, and stop it after the body.

        Args:
            settings: more of postgresql.conf; the last word on each counts.
        """
        self.cluster.create()
        with (self.cluster.directory / "postgresql.conf").open("a") as configuration:
            configuration.write(_FAST + settings)
        log_file = self._directory / "postgres.log"
        with log_file.open("ab") as log:
            process = self.cluster.start(log)
            try:
                if not self.cluster.wait_ready(process):
                    raise RuntimeError(log_file.read_text())
                bootstrap_database(self.cluster)
                words = {r: word for r, word in self.config.passwords.items() if r != "supabase_admin"}
                set_passwords(self.cluster, words)
                yield self
            finally:
                self.cluster.stop(process)

    def dsn(self, database: str, role: str) -> str:
        """Return the URL of a database for a role that logs in."""
        password = self.config.passwords[role]
        return f"postgresql://{role}:{password}@127.0.0.1:{self.config.database_port}/{database}"

    def prepare(self, name: str) -> Database:
        """Make a database that is ready for the migrations, and has none."""
        create_database(self.cluster, name, self.config)
        return Database(self, name)

    @contextmanager
    def clone(self, template: Database) -> Generator[Database]:
        """Lend a copy of a database that nobody is connected to."""
        name = f"{template.name}_{next(self._numbers)}"
        create = sql.SQL("create database {} template {} owner postgres")
        drop = sql.SQL("drop database {} with (force)")
        with self.cluster.connect() as connection:
            connection.execute(create.format(sql.Identifier(name), sql.Identifier(template.name)))
        try:
            yield Database(self, name)
        finally:
            with self.cluster.connect() as connection:
                connection.execute(drop.format(sql.Identifier(name)))


@contextmanager
def short_directory() -> Generator[Path]:
    """Lend a temporary directory whose path leaves room for a socket's name, open to the server's account."""
    directory = Path(tempfile.mkdtemp(prefix="kp-"))
    if os.geteuid() == 0:
        directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def caches() -> dict[str, str]:
    """Return the environment that leads to this account's caches from another home directory.

    What was fetched once need not be fetched again. Root's stacks have a cache outside of any home directory.
    """
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    found = {"PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", f"{cache}/pip")}
    if os.geteuid() != 0 or "XDG_CACHE_HOME" in os.environ:
        found["XDG_CACHE_HOME"] = cache
    return found


def free_port() -> int:
    """Return a port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
