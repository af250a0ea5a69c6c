"""Validation tests and what they found."""

from __future__ import annotations

from .methods import AsyncMethods


class AsyncQualityMethods(AsyncMethods):
    """Validation tests and what they found."""
