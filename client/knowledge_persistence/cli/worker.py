"""`kp worker`: embed what was recorded."""

from __future__ import annotations

from typing import Annotated

import typer

from .connection import load_settings
from .output import JsonOption, emit_json, err


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("worker", rich_help_panel="Operations")(worker)


def worker(
    *,
    once: Annotated[bool, typer.Option("--once", help="Embed what waits now, then end.")] = False,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="How many texts are taken at once.")] = 32,
    database_url: Annotated[
        str | None,
        typer.Option(help="The database, login authenticator (KP_DATABASE_URL; else the embedded stack's)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give recorded texts their vectors. `kp up` runs one by itself."""
    from knowledge_persistence.worker import Worker, log_to_stderr, run_until_stopped  # noqa: PLC0415

    log_to_stderr()
    made = Worker.from_settings(load_settings(), database_url=database_url, batch=batch)
    report = run_until_stopped(made, once=once)
    if as_json:
        emit_json({"stored": report.stored, "stale": report.stale, "failed": report.failed})
    else:
        err.print(f"{report.stored} stored, {report.stale} stale, {report.failed} failed.")
    if once and report.failed:
        raise typer.Exit(1)
