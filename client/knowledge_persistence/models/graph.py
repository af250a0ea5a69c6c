"""What the client returns for relationships."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from .knowledge import KnowledgeType, ValidationStatus

RelationshipType: TypeAlias = Literal[
    "depends_on", "enhances", "contradicts", "builds_upon", "required_for", "similar_to"
]
RelationshipStatus: TypeAlias = Literal["proposed", "accepted", "rejected"]
RelationshipOutcome: TypeAlias = Literal["created", "updated", "accepted", "rejected", "unchanged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelatedKnowledge:
    """A relationship after a call.

    Attributes:
        strength: 0 to 1.
        outcome: what the call did to it.
    """

    relationship_id: UUID
    source_knowledge_id: UUID
    target_knowledge_id: UUID
    relationship_type: RelationshipType
    strength: float
    status: RelationshipStatus
    outcome: RelationshipOutcome
    relationship_context: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedRelationship:
    """A relationship that was found and waits for a decision.

    Attributes:
        strength: 0 to 1, how sure it is.
        reason: in words, why it was proposed.
    """

    relationship_id: UUID
    source_knowledge_id: UUID
    source_title: str
    target_knowledge_id: UUID
    target_title: str
    relationship_type: RelationshipType
    strength: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Relationship:
    """A relationship with the titles of its ends.

    Attributes:
        strength: 0 to 1; for a proposal how sure it is.
        reason: in words, why it was proposed; None where somebody stated it.
        relationship_context: what people say about it.
    """

    relationship_id: UUID
    source_knowledge_id: UUID
    source_title: str
    target_knowledge_id: UUID
    target_title: str
    relationship_type: RelationshipType
    strength: float
    status: RelationshipStatus
    created_at: datetime
    reason: str | None = None
    relationship_context: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeNeighbor:
    """An item near another.

    Attributes:
        depth: how many steps away; 0 for the item itself.
        path: the items that lead to it, from the start.
        path_titles: their titles.
        relationship_types: the relationship of each step.
        directions: outgoing or incoming, for each step.
        strength: the product of the steps', 0 to 1.
    """

    knowledge_id: UUID
    title: str
    knowledge_type: KnowledgeType
    validation_status: ValidationStatus
    depth: int
    path: list[UUID]
    path_titles: list[str]
    relationship_types: list[RelationshipType]
    directions: list[Literal["outgoing", "incoming"]]
    strength: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphItem:
    """An item of a graph.

    Attributes:
        content: the beginning of its text, up to 4000 characters.
        depth: steps from the middle; None in the graph of a whole workspace.
    """

    knowledge_id: UUID
    title: str
    content: str
    knowledge_type: KnowledgeType
    category: str
    validation_status: ValidationStatus
    importance_score: int
    created_at: datetime
    project_context: str | None = None
    retrieval_triggers: list[str] | None = None
    depth: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRelationship:
    """A relationship of a graph: "source … target".

    Attributes:
        strength: 0 to 1.
    """

    relationship_id: UUID
    source_knowledge_id: UUID
    target_knowledge_id: UUID
    relationship_type: RelationshipType
    strength: float
    relationship_context: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeGraph:
    """A piece of the graph: items, and the accepted relationships between them.

    Attributes:
        relationships_left_out: how many more there are between these items.
    """

    items: list[GraphItem]
    relationships: list[GraphRelationship]
    relationships_left_out: int = 0
