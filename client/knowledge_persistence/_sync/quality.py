# Generated from _async/quality.py by scripts/generate-sync: edit that, not this.
"""Validation tests and what they found."""

from __future__ import annotations

from .methods import Methods


class QualityMethods(Methods):
    """Validation tests and what they found."""
