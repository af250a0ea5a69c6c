"""`kp mcp`: the memory as tools for an agent."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from .connection import UrlOption, WorkspaceOption, load_settings


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("mcp", rich_help_panel="Agents")(mcp)


def mcp(
    *,
    project: Annotated[
        str | None, typer.Option(help="The project, until the agent names one (KP_PROJECT).")
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Resume the session of this identifier, instead of starting one.")
    ] = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
) -> None:
    """Serve memory to an agent over standard input and output (Model Context Protocol). Agents start it."""
    from knowledge_persistence.mcp.stdio import serve  # noqa: PLC0415 - slow, and --help needs none of it

    settings = load_settings(url, dotenv=False)
    serve(
        replace(settings, project=project or settings.project, workspace=workspace or settings.workspace),
        session=session,
    )
