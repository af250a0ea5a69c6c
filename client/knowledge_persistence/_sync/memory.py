# Generated from _async/memory.py by scripts/generate-sync: edit that, not this.
"""Everything that the client and a session have in common."""

from __future__ import annotations

from .briefing import BriefingMethods
from .events import EventMethods
from .graph import GraphMethods
from .history import HistoryMethods
from .knowledge import KnowledgeMethods
from .portability import PortabilityMethods
from .quality import QualityMethods
from .specialised import SpecialisedMethods
from .tuning import TuningMethods


class Memory(
    KnowledgeMethods,
    SpecialisedMethods,
    GraphMethods,
    QualityMethods,
    TuningMethods,
    HistoryMethods,
    EventMethods,
    BriefingMethods,
    PortabilityMethods,
):
    """Record, recall, validate, relate: the same under the client and under one of its sessions."""
