"""Gotchas, commands, interaction patterns, insights and decisions."""

from __future__ import annotations

from .methods import AsyncMethods


class AsyncSpecialisedMethods(AsyncMethods):
    """Gotchas, commands, interaction patterns, insights and decisions."""
