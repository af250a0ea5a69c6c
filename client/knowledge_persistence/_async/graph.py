"""Relationships between items."""

from __future__ import annotations

from .methods import AsyncMethods


class AsyncGraphMethods(AsyncMethods):
    """Relationships between items."""
