"""The client of a command: settings, with what the command line says on top."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from knowledge_persistence._sync.client import KnowledgeClient
    from knowledge_persistence.settings import Settings

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="The deployment, instead of KP_URL or the embedded stack.", metavar="URL"),
]
WorkspaceOption = Annotated[
    str | None,
    typer.Option("--workspace", "-w", help="Work in this workspace (id or name; KP_WORKSPACE)."),
]
SessionOption = Annotated[
    str | None,
    typer.Option("--session", "-s", help="Work in this session (identifier or id; KP_SESSION)."),
]


def load_settings(url: str | None = None, *, dotenv: bool = True) -> Settings:
    """Read the settings, the URL of the command line first.

    Args:
        url: the deployment, instead of the settings' one.
        dotenv: also from the nearest `.env`. Not for what an agent starts in whatever directory it works in: a
            repository is somebody's, and doesn't decide where this person's memory is.
    """
    from knowledge_persistence.settings import Settings  # noqa: PLC0415

    settings = Settings.load(dotenv_path=None if dotenv else Path(os.devnull))
    return settings if url is None else replace(settings, url=url)


def open_client(
    *,
    url: str | None = None,
    workspace: str | None = None,
    session: str | Literal[False] | None = None,
    embeds: bool = False,
    service_role: bool = False,
) -> KnowledgeClient:
    """Make the client of a command.

    Args:
        url: the deployment, instead of the settings' one.
        workspace: workspace by id or name.
        session: session by id or identifier; False: none, whatever the settings say.
        embeds: whether the command turns text into vectors.
        service_role: act as the service.
    """
    from knowledge_persistence._sync.client import connect  # noqa: PLC0415 - slow, and --help needs none of it

    settings = load_settings(url)
    if session is False:
        settings, session = replace(settings, session=None), None
    return connect(
        workspace=workspace,
        session=session,
        settings=settings,
        embedder="default" if embeds else None,
        service_role=service_role,
    )
