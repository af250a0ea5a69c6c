"""What the client returns of sessions: briefs, timelines, breakthroughs, and what operators do with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from .rows import JSONObject

BriefSection: TypeAlias = Literal["sessions", "decisions", "gotchas", "knowledge", "left_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BriefEntry:
    """A line of a brief.

    Attributes:
        section: what it is about.
        position: its place in the section; 0 is the heading.
        tokens: the estimate for the line with its line break.
        source_id: the session, or the knowledge item, that it tells of.
        content: the line.
        left_out: in the last entry, what did not fit, counted by section.
    """

    section: BriefSection
    position: int
    tokens: int
    source_id: UUID | None = None
    content: str | None = None
    left_out: JSONObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """What the next session needs to know.

    Attributes:
        text: ready for a prompt; empty where nothing is known yet.
        tokens: the estimate of its length, at most what was asked for.
        entries: its lines one by one, without headings.
        left_out: how much did not fit, by section: sessions, decisions, gotchas, knowledge.
    """

    text: str
    tokens: int
    entries: tuple[BriefEntry, ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEvent:
    """A moment of a session.

    Attributes:
        event: started, created, accessed, updated, validated, applied, breakthrough or ended.
        happened_at: when.
        knowledge_id: the item that it was about.
        title: that item's title.
        detail: what was said of it: context, rating, notes; of the end the summary.
    """

    event: str
    happened_at: datetime
    knowledge_id: UUID | None = None
    title: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedBreakthrough:
    """A breakthrough after it was marked.

    Attributes:
        outcome: marked, or unchanged where the session had one about the item.
        breakthrough_moments: how many the session has now.
    """

    knowledge_id: UUID
    session_id: UUID
    outcome: Literal["marked", "unchanged"]
    breakthrough_moments: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedMonth:
    """What became of a month's sessions.

    Attributes:
        month: like 2026-01.
        sessions: how many sessions.
        links: how many of their links to knowledge.
        references: how many rows of other tables referred to them.
        partition_dropped: whether their partition is gone; if not, `run_maintenance` drops it later.
    """

    month: str
    outcome: Literal["archived", "would be archived", "restored"]
    sessions: int
    links: int
    references: int
    partition_dropped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceOutcome:
    """How a task of maintenance went.

    Attributes:
        task: its name.
        outcome: done, failed, or skipped because another run is at work.
        detail: what it did, or why it failed.
    """

    task: str
    outcome: Literal["done", "failed", "skipped"]
    detail: str
