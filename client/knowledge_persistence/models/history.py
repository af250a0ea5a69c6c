"""What the client returns for history, duplicates and the audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from .knowledge import ValidationStatus

SupersessionOutcome: TypeAlias = Literal["superseded", "restored", "unchanged"]
HistoryChange: TypeAlias = Literal["status", "superseded", "restored"]
DuplicateStatus: TypeAlias = Literal["proposed", "merged", "rejected", "undone"]
DuplicateOutcome: TypeAlias = Literal["merged", "rejected", "undone", "unchanged"]
AuditCheck: TypeAlias = Literal[
    "contradictory", "duplicate", "expired", "failing", "junk", "unvalidated", "stale", "unused"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupersededKnowledge:
    """What takes an item's place after a call.

    Attributes:
        superseded_by: what does; None: nothing.
        valid_to: until when the item held.
    """

    knowledge_id: UUID
    outcome: SupersessionOutcome
    superseded_by: UUID | None = None
    valid_to: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One change of an item's status, or of what takes its place.

    Attributes:
        change: status, superseded, or restored (no longer superseded).
        from_status: None: it was recorded like this.
        superseded_by: what took its place; None also where that was erased since.
        note: why.
        changed_by: who; None: an operator, or somebody whose account is deleted.
    """

    knowledge_id: UUID
    change: HistoryChange
    to_status: ValidationStatus
    changed_at: datetime
    from_status: ValidationStatus | None = None
    superseded_by: UUID | None = None
    valid_to_before: datetime | None = None
    valid_to_after: datetime | None = None
    note: str | None = None
    changed_by: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenKnowledge:
    """What went with an erased item, or would go.

    Attributes:
        links_removed: how often sessions had created, recalled or rated it.
        relationships_removed: how many relationships it had.
        restored_ids: items that it had superseded, or that were merged into it, and that are in force again.
    """

    knowledge_id: UUID
    links_removed: int
    relationships_removed: int
    restored_ids: list[UUID]


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateProposal:
    """Two items that seem to say the same.

    Attributes:
        keep_id: the one that is to be kept.
        duplicate_id: the one that would be superseded.
        strength: 0 to 1, how sure it is.
        reason: why, in words.
    """

    proposal_id: UUID
    keep_id: UUID
    keep_title: str
    keep_content: str
    duplicate_id: UUID
    duplicate_title: str
    duplicate_content: str
    strength: float
    status: DuplicateStatus
    created_at: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedKnowledge:
    """A pair after a decision.

    Attributes:
        outcome: what the call did.
        links_moved: how many links went over to the kept item, or came back.
        relationships_moved: how many relationships did.
        triggers_added: the triggers that the kept item got, or gave back.
    """

    keep_id: UUID
    duplicate_id: UUID
    status: DuplicateStatus
    outcome: DuplicateOutcome
    links_moved: int
    relationships_moved: int
    triggers_added: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFinding:
    """Something that wants a person's attention.

    Attributes:
        check_name: the check that found it.
        reason: why, in words.
        suggestion: what could be done.
        since: since when it is so.
        related_id: the other item of a pair.
        proposal_id: the proposal to decide, where the pair was only proposed.
        total: how many findings the check has in all.
    """

    check_name: AuditCheck
    knowledge_id: UUID
    title: str
    validation_status: ValidationStatus
    reason: str
    suggestion: str
    since: datetime
    total: int
    project_context: str | None = None
    related_id: UUID | None = None
    related_title: str | None = None
    proposal_id: UUID | None = None
