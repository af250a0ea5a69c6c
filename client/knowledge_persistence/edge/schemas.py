"""What the functions take and give: the OpenAPI description is made of these."""

from __future__ import annotations

import re
from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import Annotated, Any, Literal, cast
from uuid import UUID  # noqa: TC003 - likewise

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from ..models import KnowledgeType, ValidationStatus  # noqa: TC001 - likewise

#: Text as the database takes it: anything but NUL.
_TEXT = r"^[^\x00]*$"
#: The beginning of a date and time, RFC 3339.
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")
#: JSON that is nested deeper than this is nobody's context.
_DEPTH = 50


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    level: list[object] = [value]
    for _ in range(_DEPTH):
        inner: list[object] = []
        for one in level:
            if isinstance(one, dict):
                inner.extend(cast("dict[str, object]", one).values())
            elif isinstance(one, list):
                inner.extend(cast("list[object]", one))
        level = inner
        if not level:
            return value
    raise ValueError(f"nested deeper than {_DEPTH} levels")


def _written(value: object) -> object:
    if isinstance(value, str) and _MOMENT.match(value):
        return value
    raise ValueError("not a date and time with its zone, as in 2026-01-31T12:00:00Z")


#: What is described as this is this: a number or a word is taken for no flag, a number for no time.
Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Moment = Annotated[AwareDatetime, BeforeValidator(_written)]
LongText = Annotated[str, Field(min_length=1, max_length=65536, pattern=_TEXT)]
Line = Annotated[str, Field(min_length=1, max_length=500, pattern=_TEXT)]
Word = Annotated[str, Field(min_length=1, max_length=100, pattern=_TEXT)]
Project = Annotated[str, Field(min_length=1, max_length=200, pattern=_TEXT)]
Words = Annotated[list[Line], Field(max_length=100)]
Object = Annotated[dict[str, Any], AfterValidator(_shallow)]


class _Request(BaseModel):
    # A misspelt name would otherwise be a filter that silently isn't there.
    model_config = ConfigDict(extra="forbid")


class RememberRequest(_Request):
    """A piece of knowledge to record."""

    content: LongText = Field(description="The knowledge itself; a few sentences are found best.")
    title: Line | None = Field(None, description="What it is about, in a line; else its first sentence.")
    knowledge_type: KnowledgeType = Field("factual", description="What kind of knowledge it is.")
    category: Word = Field("general", description="A word to sort by.")
    subcategory: Word | None = Field(None, description="A finer one.")
    context_data: Object | None = Field(None, description="Structured context.")
    importance_score: Whole = Field(50, ge=1, le=100, description="How much it matters.")
    retrieval_triggers: Words | None = Field(None, description="Words or phrases that should bring it up.")
    project_context: Project | None = Field(
        None, description="The project it belongs to; else the session's."
    )
    valid_from: Moment | None = Field(None, description="From when it holds.")
    valid_to: Moment | None = Field(None, description="Until when it held.")
    embed: Flag = Field(
        default=True,
        description="Make the vector at once. It follows from the worker otherwise, and where no model answers.",
    )
    allow_credentials: Flag = Field(
        default=False, description="Take the text though it looks like it holds a credential."
    )


class Remembered(BaseModel):
    """What became of a recorded piece."""

    knowledge_id: UUID
    outcome: Literal["created", "duplicate"] = Field(description="duplicate: it was there already.")
    validation_status: ValidationStatus
    workspace_id: UUID
    created_in_session: UUID | None
    session_position: int | None


class RecallRequest(_Request):
    """A question to the memory."""

    query: LongText = Field(description="A question, keywords, an error message.")
    max_results: Whole = Field(10, ge=1, le=100, description="So many at most.")
    knowledge_types: list[KnowledgeType] | None = Field(None, max_length=10, description="Only these types.")
    categories: list[Word] | None = Field(None, max_length=100, description="Only these categories.")
    project_context: Project | None = Field(None, description="The project at hand.")
    tags: Words | None = Field(None, description="Only items with one of these triggers.")
    min_importance: Whole | None = Field(
        None, ge=1, le=100, description="Only items at least this important."
    )
    validation_statuses: list[ValidationStatus] | None = Field(
        None, max_length=4, description="Only these; else all that are not deprecated."
    )
    created_after: Moment | None = Field(None, description="Only what was recorded after.")
    created_before: Moment | None = Field(None, description="Only what was recorded before.")
    updated_after: Moment | None = Field(None, description="Only what changed after.")
    updated_before: Moment | None = Field(None, description="Only what changed before.")
    author: UUID | None = Field(None, description="Only items of this user.")
    recorded_in: UUID | None = Field(None, description="Only items recorded in this session.")
    context_data: Object | None = Field(None, description="Only items whose context holds this.")
    as_of: Moment | None = Field(None, description="Answer as it would have been then.")
    exclude_ids: list[UUID] | None = Field(None, max_length=1000, description="Not these items.")
    after_cursor: Line | None = Field(
        None, description="Continue after the result with this cursor, with all else the same."
    )
    max_tokens: Whole | None = Field(None, ge=1, le=1_000_000, description="Leave out what doesn't fit.")
    rerank: Flag | None = Field(
        None,
        description="Let the deployment's reranker order the best; else where there is one, on the first page.",
    )
    explain: Flag = Field(default=False, description="Tell every arm's rank, score and milliseconds.")
    log: Flag = Field(default=True, description="Count this as a use of what is found.")


class Recalled(BaseModel):
    """An item that was found, with its scores and the reason in words."""

    knowledge_id: UUID
    title: str
    content: str
    knowledge_type: KnowledgeType
    category: str
    project_context: str | None
    validation_status: ValidationStatus
    importance_score: int
    retrieval_triggers: list[str] | None
    context_data: dict[str, Any] | None
    created_at: datetime
    score: float = Field(description="0 to 1, what the results are ordered by.")
    vector_score: float | None = Field(description="0 to 1; null: the meaning had no vote.")
    keyword_score: float | None = Field(description="0 to 1; null: the words had no vote.")
    trigger_score: float | None = Field(description="0 to 1; null: no trigger had a vote.")
    relevance_reason: str = Field(description="Why it was found, in words.")
    cursor: str = Field(description="As after_cursor it asks for what comes next; empty after a reranker.")
    explanation: dict[str, Any] | None = Field(description="Where it was asked for: what each arm says.")
    rerank_score: float | None = Field(
        description="The reranker's score, which then orders; null: it was not reranked."
    )


class ContextRequest(_Request):
    """A situation that something may be known about."""

    situation: LongText = Field(description="What is going on, in words.")
    project_context: Project | None = Field(None, description="The project at hand.")
    max_results: Whole = Field(20, ge=1, le=100, description="So many at most.")


class Contextual(BaseModel):
    """An item that bears on a situation."""

    knowledge_id: UUID
    title: str
    content: str
    relevance_reason: str = Field(description="Why, in words.")
    knowledge_type: KnowledgeType
    score: float = Field(description="0 to 1.")


class EmbedRequest(_Request):
    """Texts to embed with the deployment's model."""

    texts: list[LongText] = Field(min_length=1, max_length=64, description="The texts.")
    purpose: Literal["document", "query"] = Field(
        "document", description="What they are for: some models embed questions otherwise than documents."
    )


class Embedded(BaseModel):
    """The texts' vectors."""

    embedding_model: str = Field(description="To be sent along wherever one of the vectors is.")
    dimensions: int
    embeddings: list[list[float]] = Field(description="One a text, in the order of the texts.")


class GotchasRequest(_Request):
    """A problem that was met before, perhaps."""

    problem: LongText = Field(description="The error text as it is, or what goes wrong in words.")
    max_results: Whole = Field(5, ge=1, le=100, description="So many at most.")


class AttemptMade(BaseModel):
    """An attempt at a problem."""

    solution: str
    outcome: Literal["worked", "failed", "partial"]
    at: datetime
    session: UUID | None
    replaced: bool = Field(description="It worked until a better solution took its place.")


class Gotcha(BaseModel):
    """A known problem, with what is known against it."""

    gotcha_id: UUID
    knowledge_id: UUID = Field(description="What to rate and validate.")
    problem_signature: str
    problem_description: str
    working_solution: str | None
    worked: list[AttemptMade]
    failed: list[AttemptMade]
    failure_patterns: list[str] | None
    prevention_guidance: str | None
    problem_category: str | None
    severity_level: int | None
    frequency_encountered: int
    resolution_time_minutes: int | None
    last_encountered: datetime
    validation_status: ValidationStatus
    exact_match: bool = Field(description="It is the same problem by its signature.")
    confidence: float = Field(description="0 to 1.")
    match_reason: str = Field(description="Why it is here, and how sure that is.")


class Problem(BaseModel):
    """What went wrong: the same as the Data API says it."""

    code: str = Field(description="The SQLSTATE, or the code of what stands in front of the database.")
    message: str
    details: str | None
    hint: str | None = Field(description="What to do about it.")


class Health(BaseModel):
    """Whether the functions can do their work."""

    status: Literal["ok"]
