# Generated from _async/specialised.py by scripts/generate-sync: edit that, not this.
"""Gotchas, commands, interaction patterns, insights and decisions."""

from __future__ import annotations

from .methods import Methods


class SpecialisedMethods(Methods):
    """Gotchas, commands, interaction patterns, insights and decisions."""
