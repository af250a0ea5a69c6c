"""`kp doctor`: what is wrong with a deployment, and what to do about it."""

from __future__ import annotations

import re
from importlib import metadata
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
    """Examine a deployment: its doors, its database, its disk, its secrets.

    Each finding says what to do. Exit code: 0 healthy, or warnings alone; 1 something doesn't work or isn't safe.
    """
    from knowledge_persistence.operations.doctor import (  # noqa: PLC0415
        Finding,
        Severity,
        examine_api,
        examine_database,
        examine_disk,
        examine_edge,
        examine_env_file,
        examine_home,
        examine_realtime,
        examine_versions,
    )

    findings: list[Finding] = []
    database, api = database_url, None
    versions: dict[str, str] = {}
    if env_file is not None:
        from knowledge_persistence.operations.deployment import host_of, read_env_file, superuser_url  # noqa: PLC0415

        values = read_env_file(env_file)
        compose = Path(env_file).with_name("docker-compose.yml")
        text = compose.read_text() if compose.exists() else ""
        findings += examine_env_file(env_file, values, set(re.findall(r"\$\{([A-Z0-9_]+):\?", text)))
        findings += examine_disk(Path(env_file).absolute().parent)
        versions = _image_versions(text, values)
        database = database or superuser_url(env_file)
        url = f"http://{host_of(values)}:{values.get('API_GW_HTTP_PORT', '8000')}"
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
            findings += [*examine_home(settings.home), *examine_disk(settings.home)]
            versions = {"knowledge-persistence": metadata.version("knowledge-persistence")}
    findings += examine_database(database)
    if api is not None:
        at_the_door = examine_api(*api)
        findings += at_the_door
        if not any("doesn't answer" in finding.message for finding in at_the_door):
            findings += [*examine_realtime(*api), *examine_edge(*api), *examine_versions(*api, versions)]

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


def _image_versions(compose: str, values: dict[str, str]) -> dict[str, str]:
    """Return the versions of the services that tell theirs, as the tags of their images say."""
    found: dict[str, str] = {}
    for service, variable in (("auth", "AUTH_IMAGE"), ("rest", "REST_IMAGE")):
        default = re.search(rf"\$\{{{variable}:-([^}}]+)\}}", compose)
        image = values.get(variable) or (default[1] if default else "")
        tag = image.rpartition(":")[2]
        if re.match(r"v?\d+\.", tag):
            found[service] = tag
    return found
