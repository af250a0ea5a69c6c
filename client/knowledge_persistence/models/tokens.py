"""What the client returns for agent tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedAgentToken:
    """A new agent token.

    Attributes:
        token_id: what it is listed and revoked by.
        token: the token itself. It is told this once, and stored nowhere.
        name: what it is called.
        workspace_id: the one workspace it opens.
        created_at: when it was made.
        expires_at: when it ends; None: not by itself.
    """

    token_id: UUID
    token: str = field(repr=False)
    name: str
    workspace_id: UUID
    created_at: datetime
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentToken:
    """An agent token, as its owner and the maintainers of its workspace see it.

    Attributes:
        token_id: what it is revoked by.
        name: what it is called.
        user_id: for whom its holder acts.
        workspace_id: the one workspace it opens.
        created_at: when it was made.
        last_used_at: when it was last used, to the minute; None: never.
        expires_at: when it ends; None: not by itself.
        revoked_at: when it was revoked; None: it wasn't.
    """

    token_id: UUID
    name: str
    user_id: UUID
    workspace_id: UUID
    created_at: datetime
    last_used_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTokenHolder:
    """Whom a valid agent token speaks for.

    Attributes:
        token_id: the token.
        name: what it is called.
        user_id: for whom its holder acts.
        workspace_id: the one workspace it opens.
        expires_at: when it ends; None: not by itself.
    """

    token_id: UUID
    name: str
    user_id: UUID
    workspace_id: UUID
    expires_at: datetime | None = None
