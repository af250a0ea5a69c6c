"""What the client returns and takes for knowledge, sessions, workspaces and embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from .rows import JSONObject

KnowledgeType: TypeAlias = Literal[
    "factual", "procedural", "contextual", "relational", "experiential", "technical_discovery"
]
ValidationStatus: TypeAlias = Literal["pending", "validated", "needs_update", "deprecated"]
WorkspaceRole: TypeAlias = Literal["owner", "maintainer", "contributor", "reader"]
RecordOutcome: TypeAlias = Literal["created", "duplicate"]
StoreOutcome: TypeAlias = Literal["stored", "stale", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKnowledge:
    """A piece of knowledge to record.

    Attributes:
        content: the knowledge itself, up to 64 KiB; a few sentences are found best.
        title: one line that says what it is about; None: the first sentence of the content.
        knowledge_type: what kind of knowledge it is.
        category: a word to sort by.
        subcategory: a finer one.
        context_data: structured context.
        importance_score: 1 to 100.
        retrieval_triggers: words, codes or phrases that should bring it up.
        project_context: the project it belongs to; None: the session's.
        valid_from: from when it holds.
        valid_to: until when it held.
        text_search_config: how PostgreSQL stems its words (german, simple); None: by the language that it is
            plainly written in, else as its workspace's.
    """

    content: str
    title: str | None = None
    knowledge_type: KnowledgeType = "factual"
    category: str = "general"
    subcategory: str | None = None
    context_data: JSONObject | None = None
    importance_score: int = 50
    retrieval_triggers: Sequence[str] | None = None
    project_context: str | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    text_search_config: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedKnowledge:
    """What became of a recorded piece.

    Attributes:
        knowledge_id: the item.
        outcome: created, or duplicate of an item that the caller may see.
        validation_status: the item's status.
        workspace_id: where it is.
        created_in_session: the session that recorded it, if any.
        session_position: its place in that session.
        item_index: its position among the items sent, from 0.
    """

    knowledge_id: UUID
    outcome: RecordOutcome
    validation_status: ValidationStatus
    workspace_id: UUID
    created_in_session: UUID | None = None
    session_position: int | None = None
    item_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecalledKnowledge:
    """An item found by `recall` or `search`.

    Attributes:
        score: 0 to 1, what the results are ordered by.
        vector_score: 0 to 1, or None when the meaning had no vote.
        keyword_score: 0 to 1, or None when the words had no vote.
        trigger_score: 0 to 1, or None when no trigger had a vote.
        relevance_reason: in words, why it was found.
        cursor: asks, as `after_cursor`, for what comes after this result.
        explanation: where it was asked for: each arm's rank and score, the weights, the milliseconds.
        rerank_score: the reranker's score, which then orders the results, after those that lead by a trigger; None:
            it was not reranked.
    """

    knowledge_id: UUID
    title: str
    content: str
    knowledge_type: KnowledgeType
    category: str
    validation_status: ValidationStatus
    importance_score: int
    created_at: datetime
    score: float
    relevance_reason: str
    cursor: str = ""
    explanation: JSONObject | None = None
    project_context: str | None = None
    retrieval_triggers: list[str] | None = None
    context_data: JSONObject | None = None
    vector_score: float | None = None
    keyword_score: float | None = None
    trigger_score: float | None = None
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarKnowledge:
    """An item near a vector.

    Attributes:
        similarity_score: cosine similarity, -1 to 1.
    """

    id: UUID
    title: str
    content: str
    similarity_score: float
    knowledge_type: KnowledgeType


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextualKnowledge:
    """An item that bears on a situation.

    Attributes:
        relevance_reason: in words, why.
        score: 0 to 1.
    """

    knowledge_id: UUID
    title: str
    content: str
    relevance_reason: str
    knowledge_type: KnowledgeType
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeItem:
    """A stored item, whole but for its vector.

    Attributes:
        embedding_model: the model of its vector; None while it waits for one.
        rating_sum: sum of its ratings of 1 to 10.
    """

    id: UUID
    workspace_id: UUID
    title: str
    content: str
    knowledge_type: KnowledgeType
    category: str
    importance_score: int
    validation_status: ValidationStatus
    created_at: datetime
    updated_at: datetime
    access_count: int
    rating_sum: int
    rating_count: int
    success_count: int
    failure_count: int
    owner_id: UUID | None = None
    subcategory: str | None = None
    context_data: JSONObject | None = None
    retrieval_triggers: list[str] | None = None
    project_context: str | None = None
    validated_at: datetime | None = None
    validation_note: str | None = None
    created_in_session: UUID | None = None
    session_position: int | None = None
    embedding_model: str | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    superseded_by: UUID | None = None
    text_search_config: str | None = None
    last_accessed: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSettings:
    """How a workspace's searches read and weigh.

    Attributes:
        workspace_id: the workspace.
        text_search_config: how PostgreSQL stems the words of items that have no language of their own.
        retrieval_weights: meaning, triggers, neighbours and relationships, 0 to 1 each; what is missing has its
            default.
    """

    workspace_id: UUID
    text_search_config: str
    retrieval_weights: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedKnowledge:
    """An item's new status.

    Attributes:
        merged_ids: items of the same text that it now supersedes.
    """

    knowledge_id: UUID
    validation_status: ValidationStatus
    merged_ids: list[UUID]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedKnowledge:
    """An item's ratings after one more.

    Attributes:
        average_rating: 1 to 10; None while nobody rated it.
        success_count: how often applying it worked.
        failure_count: how often it did not.
    """

    knowledge_id: UUID
    rating_count: int
    success_count: int
    failure_count: int
    average_rating: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedSession:
    """A session that was started or resumed.

    Attributes:
        resumed: whether it was there before.
    """

    session_id: UUID
    session_identifier: str
    workspace_id: UUID
    start_time: datetime
    resumed: bool
    project_context: str | None = None
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedSession:
    """A session that was ended, and what it did.

    Attributes:
        knowledge_items_accessed: how many different items it recalled.
        knowledge_items_created: how many it recorded.
    """

    session_id: UUID
    session_identifier: str
    start_time: datetime
    end_time: datetime
    session_duration: timedelta
    knowledge_items_accessed: int
    knowledge_items_created: int
    breakthrough_moments: int
    project_context: str | None = None
    session_quality_score: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as it is stored."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    session_identifier: str
    start_time: datetime
    knowledge_items_accessed: int
    knowledge_items_created: int
    breakthrough_moments: int
    project_context: str | None = None
    end_time: datetime | None = None
    session_duration: timedelta | None = None
    session_quality_score: int | None = None
    session_metadata: JSONObject | None = None
    user_feedback: str | None = None

    @property
    def summary(self) -> str | None:
        """What was said of it when it ended."""
        value = (self.session_metadata or {}).get("summary")
        return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A workspace with the caller's role in it."""

    workspace_id: UUID
    name: str
    role: WorkspaceRole
    is_personal: bool = False
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceMember:
    """Somebody's membership."""

    workspace_id: UUID
    user_id: UUID
    role: WorkspaceRole
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingModel:
    """A registered embedding model.

    Attributes:
        dimensions: length of its vectors.
        similarity_threshold: cosine similarity from which two texts count as related.
        is_default: whether it serves workspaces that chose none.
        query_prefix: what goes before a question that is embedded.
        document_prefix: what goes before a document that is embedded.
    """

    name: str
    dimensions: int
    similarity_threshold: float
    is_default: bool
    query_prefix: str = ""
    document_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingJob:
    """A text that waits for its vector.

    Attributes:
        content_hash: of the text; goes back with the vector, so that it is stored only for this text.
        embedding_text: what to embed.
        attempts: how often it was claimed, this time included.
    """

    knowledge_id: UUID
    embedding_model: str
    content_hash: str
    embedding_text: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEmbedding:
    """What became of a vector: stored, stale (the text changed meanwhile) or failed."""

    knowledge_id: UUID
    outcome: StoreOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a client acts as.

    Attributes:
        role: authenticated, service_role or anon.
        user_id: the user; None for the service.
        email: the user's address, where it is known.
    """

    role: str
    user_id: UUID | None = None
    email: str | None = None
