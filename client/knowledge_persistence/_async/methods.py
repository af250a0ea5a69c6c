"""What every group of methods works with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knowledge_persistence._values import RequestContext

    from .core import AsyncCore


class AsyncMethods(ABC):
    """A group of methods that the client and a session have in common."""

    _core: AsyncCore
    _project: str | None = None

    @abstractmethod
    async def _request_context(self) -> RequestContext:
        """Return the workspace and session that requests name."""
