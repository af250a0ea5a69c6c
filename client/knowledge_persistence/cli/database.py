"""`kp migrate`: bring a database to the schema of this version."""

from __future__ import annotations

from typing import Annotated

import typer

from ..embedded import Stack
from ..errors import KnowledgePersistenceError, TransportError
from ..migrations import apply_migrations, migration_status
from ..resources import migrations_dir
from ..settings import Settings
from .output import emit_json, err, fail

_NOT_REACHABLE = 3


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("migrate")(migrate)


def migrate(
    *,
    database_url: Annotated[
        str | None,
        typer.Option(help="URL of the role postgres; otherwise KP_DATABASE_URL, otherwise the embedded stack."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is pending.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Apply the migrations that a database lacks.

    Works on any Supabase database: each migration in a transaction of its own, recorded as the official CLI
    records it, so that `supabase db push` and this can take turns. `kp up` does it for the embedded stack.
    """
    settings = Settings.load()
    try:
        url = database_url or settings.database_url or Stack(settings.home).info.admin_database_url
        applied = [] if dry_run else apply_migrations(url, migrations_dir(), progress=_say)
        status = migration_status(url, migrations_dir())
    except TransportError as error:
        fail(str(error), _NOT_REACHABLE)
    except KnowledgePersistenceError as error:
        fail(str(error), 1)
    if as_json:
        emit_json({"applied": applied, "pending": status.pending, "total": len(status.applied)})
    elif dry_run:
        for version in status.pending:
            typer.echo(version)
        err.print(f"{len(status.pending)} pending, {len(status.applied)} applied", highlight=False)
    elif applied:
        err.print(f"Applied {len(applied)} migrations.", highlight=False)
    else:
        err.print("Nothing to do: the database is up to date.", highlight=False)


def _say(message: str) -> None:
    err.print(message, highlight=False, markup=False)
