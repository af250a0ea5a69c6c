"""`kp migrate`: bring a database to the schema of this version."""

from __future__ import annotations

from typing import Annotated

import typer

from knowledge_persistence.cli.output import JsonOption, emit_json, err


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("migrate")(migrate)


def migrate(
    *,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="URL of the role postgres; otherwise KP_DATABASE_URL, otherwise the embedded stack."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is pending.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Apply the migrations that a database lacks.

    Works on any Supabase database: each migration in a transaction of its own, recorded as the official CLI
    records it, so that `supabase db push` and this can take turns. `kp up` does it for the embedded stack.
    """
    from knowledge_persistence.embedded import Stack  # noqa: PLC0415 - slow to import
    from knowledge_persistence.migrations import apply_migrations, migration_status  # noqa: PLC0415
    from knowledge_persistence.resources import migrations_dir  # noqa: PLC0415
    from knowledge_persistence.settings import Settings  # noqa: PLC0415

    settings = Settings.load()
    url = database_url or settings.database_url or Stack(settings.home).info.admin_database_url
    applied = [] if dry_run else apply_migrations(url, migrations_dir(), progress=_say)
    status = migration_status(url, migrations_dir())
    if as_json:
        emit_json({"applied": applied, "pending": status.pending, "total": len(status.applied)})
    elif dry_run:
        for version in status.pending:
            typer.echo(version)
        err.print(f"{len(status.pending)} pending, {len(status.applied)} applied")
    elif applied:
        err.print(f"Applied {len(applied)} migrations.")
    else:
        err.print("Nothing to do: the database is up to date.")


def _say(message: str) -> None:
    err.print(message, markup=False)
