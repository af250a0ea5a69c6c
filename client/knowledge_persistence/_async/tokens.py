"""Agent tokens: what an agent shows in place of a person's sign-in."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from knowledge_persistence._values import RequestContext, to_id
from knowledge_persistence.models import AgentToken, AgentTokenHolder, CreatedAgentToken, from_row, from_rows

from .methods import AsyncMethods

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


class AsyncTokenMethods(AsyncMethods):
    """Make, list and revoke the tokens of agents."""

    async def create_agent_token(
        self, name: str, *, workspace_id: UUID | str | None = None, expires_at: datetime | None = None
    ) -> CreatedAgentToken:
        """Make a token with which an agent acts for the caller, in one workspace and no other.

        Args:
            name: what it is for: who finds it in the list knows whether it may go.
            workspace_id: the workspace; None: the client's, else the caller's personal one.
            expires_at: when it ends; None: when it is revoked, or its owner leaves the workspace.

        Returns:
            the token, which nobody is told again.

        Raises:
            InvalidArgumentError: the name is blank, or the end has passed.
            NotFoundError: there is no such workspace, or the caller is no member.
            PermissionDeniedError: the caller is an agent itself.
        """
        context = await self._request_context()
        rows = await self._core.call(
            "create_agent_token",
            {
                "name": name,
                "workspace_id": None if workspace_id is None else to_id(workspace_id, "workspace"),
                "expires_at": expires_at,
            },
            RequestContext(workspace=context.workspace if workspace_id is None else None),
            mode="once",
        )
        return from_row(CreatedAgentToken, rows[0])

    async def list_agent_tokens(self, *, workspace_id: UUID | str | None = None) -> list[AgentToken]:
        """Read the caller's tokens, and all tokens of workspaces that the caller maintains, the latest first.

        Args:
            workspace_id: only those of this workspace.
        """
        rows = await self._core.call(
            "list_agent_tokens",
            {"workspace_id": None if workspace_id is None else to_id(workspace_id, "workspace")},
            RequestContext(),
            mode="read",
        )
        return from_rows(AgentToken, rows)

    async def revoke_agent_token(self, token_id: UUID | str) -> AgentToken:
        """End a token at once, as its owner or a maintainer of its workspace. Once more changes nothing.

        Args:
            token_id: the token's id, not the token.

        Raises:
            NotFoundError: there is none, or none that the caller may end.
        """
        rows = await self._core.call(
            "revoke_agent_token", {"token_id": to_id(token_id, "token")}, RequestContext(), mode="repeatable"
        )
        return from_row(AgentToken, rows[0])

    async def authenticate_agent_token(self, token: str) -> AgentTokenHolder | None:
        """Find out whom a token speaks for, as the service.

        Args:
            token: the token, as its holder sent it. Only its hash goes to the database.

        Returns:
            None for a token that is unknown, revoked or expired, or whose owner has left its workspace.

        Raises:
            PermissionDeniedError: the caller is not the service.
        """
        rows = await self._core.call(
            "authenticate_agent_token",
            {"token_hash": sha256(token.encode()).hexdigest()},
            RequestContext(),
            mode="repeatable",
        )
        return from_row(AgentTokenHolder, rows[0]) if rows else None
