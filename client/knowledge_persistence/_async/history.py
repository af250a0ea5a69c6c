"""Superseding, undoing, merging and forgetting."""

from __future__ import annotations

from .methods import AsyncMethods


class AsyncHistoryMethods(AsyncMethods):
    """Superseding, undoing, merging and forgetting."""
