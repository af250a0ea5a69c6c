"""Results of exports, imports and edits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from .knowledge import ValidationStatus
    from .rows import JSONObject

ImportOutcome: TypeAlias = Literal["created", "duplicate", "unchanged", "skipped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedHeader:
    """What an export begins with.

    Attributes:
        header: format and version, the workspace, its members, and how many rows of each kind the caller sees.
        state: a digest of what the export will hold; the same before and after means that nothing changed.
    """

    header: JSONObject
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedRecord:
    """One line of an export.

    Attributes:
        key: the key after which the next page begins.
        line: a JSON object, as the database wrote it.
    """

    key: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedLine:
    """What became of one line of an import.

    Attributes:
        line_index: its place among those that were sent, from 0.
        kind: what it is about; None where it can't be read.
        source_id: its id in the file.
        outcome: created, duplicate (something says the same already), unchanged (it is here), skipped (not the
            caller's to import) or failed.
        target_id: what it is here.
        reason: why, where there is something to say.
    """

    line_index: int
    outcome: ImportOutcome
    kind: str | None = None
    source_id: str | None = None
    target_id: UUID | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedKnowledge:
    """An item after an edit.

    Attributes:
        knowledge_id: the item.
        outcome: edited or unchanged.
        validation_status: its status; an edit of a validated item by its author makes it pending again.
        updated_at: when its text or status last changed.
    """

    knowledge_id: UUID
    outcome: Literal["edited", "unchanged"]
    validation_status: ValidationStatus
    updated_at: datetime
