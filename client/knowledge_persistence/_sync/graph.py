# Generated from _async/graph.py by scripts/generate-sync: edit that, not this.
"""Relationships between items."""

from __future__ import annotations

from .methods import Methods


class GraphMethods(Methods):
    """Relationships between items."""
