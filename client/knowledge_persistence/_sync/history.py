# Generated from _async/history.py by scripts/generate-sync: edit that, not this.
"""Superseding, undoing, merging and forgetting."""

from __future__ import annotations

from .methods import Methods


class HistoryMethods(Methods):
    """Superseding, undoing, merging and forgetting."""
