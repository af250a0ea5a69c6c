"""`kp doctor`: what is wrong with a deployment, and what to do about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from .backup import EnvFileOption  # noqa: TC001 - typer reads it
from .output import JsonOption, clean, emit_json, err, out


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("doctor", rich_help_panel="Operations")(doctor)


def doctor(
    *,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="URL of the role postgres; otherwise --env-file, otherwise KP_DATABASE_URL, otherwise the"
            " embedded stack.",
            metavar="URL",
        ),
    ] = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Examine a deployment: its doors, its database, its secrets.

    Each finding says what to do. Exit code: 0 healthy, or warnings alone; 1 something doesn't work or isn't safe.
    """
    from knowledge_persistence.operations.doctor import (  # noqa: PLC0415
        Finding,
        Severity,
        examine_api,
        examine_database,
        examine_env_file,
    )

    findings: list[Finding] = []
    database, api = database_url, None
    if env_file is not None:
        from knowledge_persistence.operations.deployment import read_env_file, superuser_url  # noqa: PLC0415

        values = read_env_file(env_file)
        compose = Path(env_file).with_name("docker-compose.yml")
        text = compose.read_text() if compose.exists() else ""
        findings += examine_env_file(env_file, values, set(re.findall(r"\$\{([A-Z0-9_]+):\?", text)))
        database = database or superuser_url(env_file)
        url = f"http://127.0.0.1:{values.get('API_GW_HTTP_PORT', '8000')}"
        api = (url, values.get("SUPABASE_PUBLISHABLE_KEY", ""))
    else:
        from knowledge_persistence.embedded.home import Home  # noqa: PLC0415
        from knowledge_persistence.errors import NotRunningError  # noqa: PLC0415
        from knowledge_persistence.settings import Settings  # noqa: PLC0415

        settings = Settings.load()
        database = database or settings.database_url
        if database is None:
            config = Home(settings.home).load_config()
            if config is None:
                raise NotRunningError(
                    f"there is no embedded stack in {settings.home}: name a database, or an --env-file"
                )
            database, api = config.database_url("postgres"), (config.api_url, config.publishable_key)
    findings += examine_database(database)
    if api is not None:
        findings += examine_api(*api)

    if as_json:
        emit_json([{"check": f.check, "severity": f.severity.value, "message": f.message, "advice": f.advice}
                   for f in findings])  # fmt: skip
    for finding in [] if as_json else findings:
        out.print(f"{finding.severity.value:8} {finding.check}: {clean(finding.message)}", soft_wrap=True)
        out.print(f"         → {clean(finding.advice)}", soft_wrap=True)
    if not findings:
        err.print("Healthy.")
    if any(finding.severity is Severity.error for finding in findings):
        raise typer.Exit(1)
