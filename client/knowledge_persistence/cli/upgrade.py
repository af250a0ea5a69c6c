"""`kp upgrade`: check, back up, migrate, check."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from .backup import EnvFileOption  # noqa: TC001 - typer reads it
from .output import JsonOption, clean, emit_json, err, out


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("upgrade", rich_help_panel="Operations")(upgrade)


def upgrade(
    *,
    backup: Annotated[
        Path | None,
        typer.Option(
            help="The archive of what was before; left out, a name with the time, here.", metavar="FILE"
        ),
    ] = None,
    env_file: EnvFileOption = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="URL of the role postgres; otherwise --env-file, otherwise KP_DATABASE_URL, otherwise the embedded"
            " stack.",
            metavar="URL",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and say what is pending.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Upgrade a deployment's database to this version: check, back up, migrate, check.

    Refuses, before it changes anything, a server of another major version, a database of a newer version of this
    project, and a disk without room for the backup. The archive is the way back. Exit code 1: something doesn't
    work afterwards.
    """
    from knowledge_persistence.embedded import Stack  # noqa: PLC0415
    from knowledge_persistence.operations.deployment import superuser_url  # noqa: PLC0415
    from knowledge_persistence.operations.upgrade import (  # noqa: PLC0415
        upgrade_compose,
        upgrade_database,
        upgrade_stack,
    )
    from knowledge_persistence.settings import Settings  # noqa: PLC0415

    settings = Settings.load()
    path = (backup or Path(f"before-upgrade-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.kpbackup")).absolute()
    url = database_url or (None if env_file else settings.database_url)
    if env_file is not None:
        url = url or superuser_url(env_file, role="postgres")
        done = upgrade_compose(env_file.absolute(), path, database_url=url, dry_run=dry_run, progress=_say)
    elif url is not None:
        done = upgrade_database(url, path, dry_run=dry_run, progress=_say)
    else:
        done = upgrade_stack(Stack(settings.home), path, dry_run=dry_run, progress=_say)
    if as_json:
        emit_json(
            {
                "applied": done.applied,
                "backup": None if done.backup is None else str(done.backup),
                "findings": [
                    {"check": f.check, "severity": f.severity.value, "message": f.message, "advice": f.advice}
                    for f in done.findings
                ],
                "steps": done.steps,
                "dry_run": dry_run,
            }
        )
    else:
        for version in done.applied:
            out.print(version)
        what = "pending" if dry_run else "applied"
        err.print(f"{len(done.applied)} migrations {what}.")
        if done.backup is not None:
            err.print(f"The way back: {way_back(done.backup, env_file, url)}", markup=False, soft_wrap=True)
        for finding in done.findings:
            err.print(
                f"{finding.severity.value} {finding.check}: {clean(finding.message)}",
                markup=False,
                soft_wrap=True,
            )
        for number, step in enumerate(done.steps, 1):
            err.print(f"{number}. {step}", markup=False, soft_wrap=True)
    if not done.is_sound:
        raise typer.Exit(1)


def way_back(archive: Path, env_file: Path | None, url: str | None) -> str:
    """Write the command that restores a backup into where it came from.

    A restore needs the superuser, whose password isn't known here.
    """
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    command = ["kp", "restore"]
    if env_file is not None:
        command += ["--env-file", str(env_file)]
    elif url is not None:
        told = conninfo_to_dict(url)
        place = (
            f"{told.get('host') or 'localhost'}:{told.get('port') or 5432}/{told.get('dbname') or 'postgres'}"
        )
        command += ["--database-url", f"postgresql://SUPERUSER:PASSWORD@{place}"]
    return shlex.join([*command, str(archive), "--replace"])


def _say(message: str) -> None:
    err.print(message, markup=False)
