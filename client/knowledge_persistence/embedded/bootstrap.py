"""What a plain PostgreSQL lacks before the migrations: `supabase/bootstrap`, passwords, and Auth's own tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from ..errors import EmbeddedStackError
from ..resources import bootstrap_dir
from . import node
from .front import DatabaseAddress, Front

if TYPE_CHECKING:
    from collections.abc import Callable

    from .home import StackConfig
    from .postgres import Cluster


def bootstrap_database(cluster: Cluster, database: str = "postgres") -> None:
    """Give a database of the cluster what the Supabase image has; safe to repeat.

    Args:
        cluster: a running cluster.
        database: an existing database.

    Raises:
        EmbeddedStackError: one of the files fails.
    """
    with cluster.connect(database) as connection:
        for file in sorted(bootstrap_dir().glob("*.sql")):
            try:
                # One transaction a file: the simple protocol runs all statements of a string as one.
                connection.execute(file.read_bytes(), prepare=False)
            except psycopg.Error as error:
                raise EmbeddedStackError(f"the database can't be prepared: {file.name}: {error}") from error


def set_passwords(cluster: Cluster, passwords: dict[str, str]) -> None:
    """Set the passwords of the roles that log in, as verifiers: the server's log never sees them.

    Args:
        cluster: a running, bootstrapped cluster.
        passwords: role to password.
    """
    # All or none: a rotation that breaks off leaves the old ones or the new ones.
    with cluster.connect() as connection, connection.transaction():
        for role, password in passwords.items():
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
            connection.execute(
                sql.SQL("alter role {} password {}").format(
                    sql.Identifier(role), sql.Literal(verifier.decode())
                )
            )


def create_database(
    cluster: Cluster,
    name: str,
    config: StackConfig,
    *,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Make a database that is ready for the migrations: bootstrapped, and with Auth's tables in it.

    Args:
        cluster: a running cluster whose roles have their passwords (`set_passwords`).
        name: name of the new database.
        config: the passwords and secrets to reach it with.
        progress: told what takes long.

    Raises:
        EmbeddedStackError: a step fails.
    """
    with cluster.connect() as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    prepare_database(cluster, name, config, progress=progress)


def prepare_database(
    cluster: Cluster,
    name: str,
    config: StackConfig,
    *,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Make an empty database ready for the migrations; see `create_database`.

    Args:
        cluster: a running cluster whose roles have their passwords (`set_passwords`).
        name: name of the database.
        config: the passwords and secrets to reach it with.
        progress: told what takes long.

    Raises:
        EmbeddedStackError: a step fails.
    """
    bootstrap_database(cluster, name)
    runtime = node.install_front(progress=progress)
    front = Front(
        runtime,
        config,
        mode="prepare",
        database=DatabaseAddress(str(cluster.socket_directory), cluster.port, name),
    )
    with front:
        front.wait_for("prepared", timeout=60)
