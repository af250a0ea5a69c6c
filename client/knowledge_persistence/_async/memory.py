"""Everything that the client and a session have in common."""

from __future__ import annotations

from .briefing import AsyncBriefingMethods
from .events import AsyncEventMethods
from .graph import AsyncGraphMethods
from .history import AsyncHistoryMethods
from .knowledge import AsyncKnowledgeMethods
from .portability import AsyncPortabilityMethods
from .quality import AsyncQualityMethods
from .specialised import AsyncSpecialisedMethods
from .tuning import AsyncTuningMethods


class AsyncMemory(
    AsyncKnowledgeMethods,
    AsyncSpecialisedMethods,
    AsyncGraphMethods,
    AsyncQualityMethods,
    AsyncTuningMethods,
    AsyncHistoryMethods,
    AsyncEventMethods,
    AsyncBriefingMethods,
    AsyncPortabilityMethods,
):
    """Record, recall, validate, relate: the same under the client and under one of its sessions."""
