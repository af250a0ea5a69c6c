"""Events of the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

EventSubject: TypeAlias = Literal["knowledge", "session", "relationship", "validation_result"]
EventKind: TypeAlias = Literal["created", "updated", "shared", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeEvent:
    """Something that happened in memory, as one that may know of it is told.

    Attributes:
        event_id: the event, and a cursor: what comes after it is asked for by this number. Numbers say nothing of
            the order; the order is that in which events are handed out.
        subject: of what kind the thing is.
        what: created, updated, shared (it became visible to the workspace), or gone (no longer there, or no longer
            visible: then nothing but the ids is told).
        subject_id: the thing: an item, session, relationship or validation result.
        workspace_id: the workspace.
        happened_at: when.
        knowledge_id: the item; of a relationship its source.
        related_id: of a relationship its target, of a validation result its test.
        session_id: the session in which it came to be.
        project_context: its project.
        knowledge_type: of an item its type, of a relationship its type.
        record_kind: of an item that is rendered from a record, the record's kind: gotcha, command,
            interaction_pattern, insight or decision.
        validation_status: of an item or a relationship its status.
    """

    event_id: int
    subject: EventSubject
    what: EventKind
    subject_id: UUID
    workspace_id: UUID
    happened_at: datetime
    knowledge_id: UUID | None = None
    related_id: UUID | None = None
    session_id: UUID | None = None
    project_context: str | None = None
    knowledge_type: str | None = None
    record_kind: str | None = None
    validation_status: str | None = None
