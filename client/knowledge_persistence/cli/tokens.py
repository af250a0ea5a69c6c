"""`kp tokens create|list|revoke`: what agents show in place of your sign-in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from .connection import UrlOption, open_client
from .output import JsonOption, clean, emit_json, err, out

if TYPE_CHECKING:
    from knowledge_persistence.models import AgentToken


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    group = typer.Typer(no_args_is_help=True, help="Tokens for agents: they act for you, in one workspace.")
    group.command("create")(create)
    group.command("list")(list_tokens)
    group.command("revoke")(revoke)
    app.add_typer(group, name="tokens", rich_help_panel="Account")


def create(
    name: Annotated[str, typer.Argument(help="What it is for; the list shows it.")],
    *,
    workspace: Annotated[
        str | None, typer.Option(help="The one workspace it opens, by id or name; else yours at hand.")
    ] = None,
    days: Annotated[
        int, typer.Option(min=0, max=36500, help="It ends after so many days; 0: not by itself.")
    ] = 90,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token. It is printed this once and stored nowhere."""
    with open_client(url=url, session=False) as client:
        made = client.create_agent_token(
            name,
            workspace_id=None if workspace is None else client.core.find_workspace(workspace),
            expires_at=datetime.now(UTC) + timedelta(days=days) if days else None,
        )
    if as_json:
        emit_json(made)
        return
    out.print(made.token, soft_wrap=True)
    end = (
        "It ends when you revoke it" if made.expires_at is None else f"It ends on {made.expires_at:%Y-%m-%d}"
    )
    err.print(f"{end}: kp tokens revoke {made.token_id}", soft_wrap=True)


def list_tokens(
    *,
    workspace: Annotated[
        str | None, typer.Option(help="Only those of this workspace, by id or name.")
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your tokens, and all tokens of workspaces that you maintain."""
    with open_client(url=url, session=False) as client:
        found = client.list_agent_tokens(
            workspace_id=None if workspace is None else client.core.find_workspace(workspace)
        )
    if as_json:
        emit_json(found)
        return
    if not found:
        err.print("No tokens. `kp tokens create` makes one.")
        return
    table = Table("id", "name", "workspace", "user", "last used", "state", box=None, pad_edge=False)
    for one in found:
        used = "never" if one.last_used_at is None else f"{one.last_used_at:%Y-%m-%d %H:%M}"
        table.add_row(
            str(one.token_id),
            Text(clean(one.name)),
            str(one.workspace_id),
            str(one.user_id),
            used,
            _state(one),
        )
    out.print(table)


def revoke(
    token_id: Annotated[str, typer.Argument(help="The token's id, as the list shows it.", metavar="ID")],
    *,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a token at once: one of yours, or of a workspace that you maintain."""
    with open_client(url=url, session=False) as client:
        ended = client.revoke_agent_token(token_id)
    if as_json:
        emit_json(ended)
    else:
        err.print(f"Revoked: {clean(ended.name)}", markup=False)


def _state(token: AgentToken) -> str:
    if token.revoked_at is not None:
        return f"revoked {token.revoked_at:%Y-%m-%d}"
    if token.expires_at is None:
        return "good"
    if token.expires_at <= datetime.now(UTC):
        return f"expired {token.expires_at:%Y-%m-%d}"
    return f"good until {token.expires_at:%Y-%m-%d}"
