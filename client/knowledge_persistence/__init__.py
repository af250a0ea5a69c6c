"""Memory for AI agents that outlives the session.

    from knowledge_persistence import connect

    with connect() as memory, memory.session("monday") as session:
        session.remember("HNSW is filtered after the scan: set hnsw.iterative_scan for small tenants.")
        for item in session.recall("vector search finds nothing for a small customer"):
            print(item.score, item.title, item.relevance_reason)

`connect` and `connect_async` make a client; everything else is what they take and return. What needs a
package that is slow to import is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import (
    APIError,
    AuthenticationError,
    BackupError,
    ConfigurationError,
    ConflictError,
    CredentialError,
    CursorExpiredError,
    EmbeddedStackError,
    EmbeddingDimensionError,
    EmbeddingError,
    InvalidArgumentError,
    KnowledgePersistenceError,
    MigrationError,
    ModelError,
    NotFoundError,
    NotRunningError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    TransportError,
)
from .models import (
    JSON,
    AgentToken,
    AgentTokenHolder,
    AppliedInsight,
    ArchivedMonth,
    Attempt,
    AttemptOutcome,
    AuditFinding,
    Brief,
    BriefEntry,
    ContextualKnowledge,
    CreatedAgentToken,
    Decision,
    DecisionEvent,
    DecisionStage,
    DuplicateProposal,
    EmbeddingJob,
    EmbeddingModel,
    EndedSession,
    ForgottenKnowledge,
    FoundGotcha,
    Gotcha,
    GraphItem,
    GraphRelationship,
    HistoryEntry,
    Identity,
    ItemRank,
    JSONObject,
    Judgement,
    KnowledgeEvent,
    KnowledgeGraph,
    KnowledgeItem,
    KnowledgeNeighbor,
    KnowledgeType,
    MaintenanceOutcome,
    MarkedBreakthrough,
    MatchedInteractionPattern,
    MergedKnowledge,
    MergeOutcome,
    NewKnowledge,
    PatternExample,
    ProposedRelationship,
    RatedKnowledge,
    RecalledKnowledge,
    RecordedCommand,
    RecordedDecision,
    RecordedGotcha,
    RecordedInsight,
    RecordedInteractionPattern,
    RecordedKnowledge,
    RecordedTestResult,
    RecordedValidationTest,
    RelatedKnowledge,
    Relationship,
    RelationshipStatus,
    RelationshipType,
    Session,
    SessionEvent,
    SimilarKnowledge,
    StartedSession,
    StoredEmbedding,
    SuggestedCommand,
    SupersededKnowledge,
    ValidatedKnowledge,
    ValidationReportLine,
    ValidationResult,
    ValidationRun,
    ValidationStatus,
    ValidationTest,
    Workspace,
    WorkspaceMember,
    WorkspaceRole,
)

if TYPE_CHECKING:
    from ._async.client import AsyncKnowledgeClient, connect_async
    from ._async.session import AsyncSessionHandle
    from ._sync.client import KnowledgeClient, connect
    from ._sync.session import SessionHandle
    from .embedders import Embedder, make_embedder
    from .judges import AnswerJudge, make_judge
    from .presence import Presence, PresentAgent
    from .settings import Settings
    from .subscriptions import Subscription

__all__ = [
    "JSON",
    "APIError",
    "AgentToken",
    "AgentTokenHolder",
    "AnswerJudge",
    "AppliedInsight",
    "ArchivedMonth",
    "AsyncKnowledgeClient",
    "AsyncSessionHandle",
    "Attempt",
    "AttemptOutcome",
    "AuditFinding",
    "AuthenticationError",
    "BackupError",
    "Brief",
    "BriefEntry",
    "ConfigurationError",
    "ConflictError",
    "ContextualKnowledge",
    "CreatedAgentToken",
    "CredentialError",
    "CursorExpiredError",
    "Decision",
    "DecisionEvent",
    "DecisionStage",
    "DuplicateProposal",
    "EmbeddedStackError",
    "Embedder",
    "EmbeddingDimensionError",
    "EmbeddingError",
    "EmbeddingJob",
    "EmbeddingModel",
    "EndedSession",
    "ForgottenKnowledge",
    "FoundGotcha",
    "Gotcha",
    "GraphItem",
    "GraphRelationship",
    "HistoryEntry",
    "Identity",
    "InvalidArgumentError",
    "ItemRank",
    "JSONObject",
    "Judgement",
    "KnowledgeClient",
    "KnowledgeEvent",
    "KnowledgeGraph",
    "KnowledgeItem",
    "KnowledgeNeighbor",
    "KnowledgePersistenceError",
    "KnowledgeType",
    "MaintenanceOutcome",
    "MarkedBreakthrough",
    "MatchedInteractionPattern",
    "MergeOutcome",
    "MergedKnowledge",
    "MigrationError",
    "ModelError",
    "NewKnowledge",
    "NotFoundError",
    "NotRunningError",
    "PatternExample",
    "PermissionDeniedError",
    "Presence",
    "PresentAgent",
    "ProposedRelationship",
    "RateLimitError",
    "RatedKnowledge",
    "RecalledKnowledge",
    "RecordedCommand",
    "RecordedDecision",
    "RecordedGotcha",
    "RecordedInsight",
    "RecordedInteractionPattern",
    "RecordedKnowledge",
    "RecordedTestResult",
    "RecordedValidationTest",
    "RelatedKnowledge",
    "Relationship",
    "RelationshipStatus",
    "RelationshipType",
    "ServerError",
    "Session",
    "SessionEvent",
    "SessionHandle",
    "Settings",
    "SimilarKnowledge",
    "StartedSession",
    "StoredEmbedding",
    "Subscription",
    "SuggestedCommand",
    "SupersededKnowledge",
    "TransportError",
    "ValidatedKnowledge",
    "ValidationReportLine",
    "ValidationResult",
    "ValidationRun",
    "ValidationStatus",
    "ValidationTest",
    "Workspace",
    "WorkspaceMember",
    "WorkspaceRole",
    "connect",
    "connect_async",
    "make_embedder",
    "make_judge",
]

_LAZY = {
    "AnswerJudge": ".judges",
    "make_judge": ".judges",
    "AsyncKnowledgeClient": "._async.client",
    "AsyncSessionHandle": "._async.session",
    "Embedder": ".embedders",
    "KnowledgeClient": "._sync.client",
    "SessionHandle": "._sync.session",
    "Settings": ".settings",
    "Presence": ".presence",
    "PresentAgent": ".presence",
    "Subscription": ".subscriptions",
    "connect": "._sync.client",
    "connect_async": "._async.client",
    "make_embedder": ".embedders",
}


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
