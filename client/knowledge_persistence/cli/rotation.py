"""`kp rotate-keys`: new secrets for a deployment that runs."""

from __future__ import annotations

from typing import Annotated

import typer

from .backup import EnvFileOption  # noqa: TC001 - typer reads it
from .output import JsonOption, emit_json, err, out

_HOUR = 3600


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("rotate-keys", rich_help_panel="Operations")(rotate_keys)


def rotate_keys(
    *,
    tokens: Annotated[
        bool,
        typer.Option(
            "--tokens", help="What access tokens are signed with; the old key stays good meanwhile."
        ),
    ] = False,
    api_keys: Annotated[
        bool, typer.Option("--api-keys", help="The publishable and the secret key; the old ones end at once.")
    ] = False,
    passwords: Annotated[
        bool, typer.Option("--passwords", help="Those of all database roles; the old ones end at once.")
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Stop accepting tokens of earlier keys now.")
    ] = False,
    overlap: Annotated[
        float,
        typer.Option(
            help="Hours for which tokens of the old key stay good. With docker compose they do until --finish; 0 ends"
            " them at once.",
            min=0,
            metavar="HOURS",
        ),
    ] = 24,
    env_file: EnvFileOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rotate secrets: of the embedded stack, which starts again with them, or of a docker compose deployment.

    Killed half-way, it leaves a deployment that starts: the same command again finishes what was begun.
    """
    from knowledge_persistence.operations.rotation import Wanted, rotate_env_file, rotate_stack  # noqa: PLC0415

    wanted = Wanted(
        tokens=tokens, api_keys=api_keys, passwords=passwords, finish=finish, overlap=overlap * _HOUR
    )
    if env_file is not None:
        import psycopg  # noqa: PLC0415

        from knowledge_persistence.errors import TransportError  # noqa: PLC0415

        try:
            done = rotate_env_file(env_file.absolute(), wanted, dry_run=dry_run)
        except psycopg.Error as error:
            raise TransportError(f"the database can't be asked: {error}") from error
    else:
        from knowledge_persistence.embedded import Stack  # noqa: PLC0415
        from knowledge_persistence.settings import Settings  # noqa: PLC0415

        done = rotate_stack(
            Stack(Settings.load().home),
            wanted,
            dry_run=dry_run,
            progress=lambda message: err.print(message, markup=False),
        )
    if as_json:
        emit_json(
            {
                "changed": done.changed,
                "steps": done.steps,
                "backup": None if done.backup is None else str(done.backup),
                "dry_run": dry_run,
            }
        )
        return
    err.print("Would change:" if dry_run else "Changed:")
    for name in done.changed:
        out.print(name)
    if done.backup is not None and not dry_run:
        err.print(
            f"The file as it was: {done.backup}. Delete it once everything works.",
            markup=False,
            soft_wrap=True,
        )
    if done.steps:
        err.print("Then:")
        for number, step in enumerate(done.steps, 1):
            err.print(f"{number}. {step}", markup=False, soft_wrap=True)
