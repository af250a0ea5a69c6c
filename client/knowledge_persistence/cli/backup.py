"""`kp backup|restore`: everything into one verified archive, and back."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import JsonOption, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_USAGE = 2

DatabaseUrlOption = Annotated[
    str | None,
    typer.Option(
        help="URL of the superuser (for a backup, postgres will do); otherwise --env-file, otherwise KP_DATABASE_URL,"
        " otherwise the embedded stack.",
        metavar="URL",
    ),
]
EnvFileOption = Annotated[
    Path | None,
    typer.Option(help="The .env of a docker compose deployment on this machine.", metavar="FILE"),
]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("backup", rich_help_panel="Operations")(backup)
    app.command("restore", rich_help_panel="Operations")(restore)


def backup(
    target: Annotated[
        Path | None,
        typer.Argument(help="The archive to write; left out, a name with the time, here.", metavar="FILE"),
    ] = None,
    *,
    database_url: DatabaseUrlOption = None,
    env_file: EnvFileOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be backed up.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Back up roles, schema, data and secrets: one consistent snapshot in one archive with a checksum.

    Nothing has to be stopped for it. The archive is as secret as what is in it.
    """
    from knowledge_persistence.operations.backup import back_up  # noqa: PLC0415

    url, secrets_files = _deployment(database_url, env_file)
    path = target or Path(f"memory-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.kpbackup")
    if dry_run:
        err.print(
            f"Would write {path}: the database at {_without_password(url)}"
            + "".join(f", {file}" for file in secrets_files),
            markup=False,
            soft_wrap=True,
        )
        return
    with _progress() as say:
        made = back_up(url, path.absolute(), secrets_files=secrets_files, progress=say)
    if as_json:
        emit_json(
            {
                "path": str(made.path),
                "bytes": made.size,
                "created_at": made.created_at,
                "rows": made.rows,
                "files": made.files,
            }
        )
        return
    out.print(str(path), soft_wrap=True)
    err.print(f"{made.rows} rows, {made.size / 1024 / 1024:.1f} MiB, read back and verified.")


def restore(
    archive: Annotated[Path, typer.Argument(help="The archive.", metavar="FILE")],
    *,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Restore into a throwaway database, compare, and take it away again."),
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Where there is data, rename that database and take its place."),
    ] = False,
    database: Annotated[
        str | None, typer.Option(help="Name of the restored database (as it was).", metavar="NAME")
    ] = None,
    database_url: DatabaseUrlOption = None,
    env_file: EnvFileOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the archive.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Restore an archive: into a new database, compared row by row, then in the old one's place.

    Until the comparison has passed, the data that is there stays in its place.
    """
    from knowledge_persistence.operations.backup import check  # noqa: PLC0415
    from knowledge_persistence.operations.backup import restore as bring_back  # noqa: PLC0415

    if dry_run:
        held = check(archive)
        if as_json:
            emit_json({"created_at": held.created_at, "database": held.database, "rows": held.rows})
        else:
            err.print(
                clean(f"The archive is whole: {held.rows} rows of {held.database}, from {held.created_at}."),
                markup=False,
            )
        return
    if verify and replace:
        fail("--verify replaces nothing: one or the other", _USAGE)
    url, _ = _deployment(database_url, env_file)
    with _progress() as say:
        done = bring_back(
            archive, url, database=database, verify_only=verify, replace_existing=replace, progress=say
        )
    if as_json:
        emit_json(
            {"database": done.database, "previous": done.previous, "tables": done.tables, "rows": done.rows}
        )
        return
    what = f"{done.rows} rows in {done.tables} tables, and every definition, are as they were."
    if done.database is None:
        err.print(f"Verified: {what}")
        return
    err.print(f"Restored: {what}")
    if done.previous is not None:
        err.print(
            f"What was there is closed and called {done.previous}; drop it when you are content.",
            markup=False,
        )


def _deployment(database_url: str | None, env_file: Path | None) -> tuple[str, list[Path]]:
    """Return the database's URL, and the files with its secrets."""
    from knowledge_persistence.settings import Settings  # noqa: PLC0415

    if env_file is not None:
        from knowledge_persistence.operations.deployment import superuser_url  # noqa: PLC0415

        return database_url or superuser_url(env_file), [env_file]
    settings = Settings.load()
    given = database_url or settings.database_url
    if given is not None:
        return given, []
    from knowledge_persistence.embedded.home import Home  # noqa: PLC0415
    from knowledge_persistence.errors import NotRunningError  # noqa: PLC0415

    home = Home(settings.home)
    config = home.load_config()
    if config is None:
        raise NotRunningError(
            f"there is no embedded stack in {settings.home}: name a database, or an --env-file"
        )
    kept = [path for path in (home.config_file, home.path / "credentials.json") if path.exists()]
    return config.database_url("supabase_admin"), kept


def _without_password(url: str) -> str:
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    parts = conninfo_to_dict(url)
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', 'postgres')}"


@contextmanager
def _progress() -> Generator[Callable[[str], None]]:
    if not err.is_terminal:
        yield lambda _: None
        return
    with err.status("") as status:
        yield status.update
