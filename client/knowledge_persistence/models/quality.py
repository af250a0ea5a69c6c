"""What the client returns for validation tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from uuid import UUID

    from .knowledge import KnowledgeType
    from .rows import JSONObject

RunOutcome: TypeAlias = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedValidationTest:
    """A validation test as it was kept."""

    test_id: UUID
    test_name: str
    workspace_id: UUID
    outcome: Literal["created", "updated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationTest:
    """What a workspace's memory must answer.

    Attributes:
        test_scenario: the situation, in words.
        expected_knowledge_ids: items that must be among the first `within_top` found.
        forbidden_knowledge_ids: items that must not be.
        within_top: how many results count.
        expected_response: what an answer should say; '' where only retrieval is tested.
        pass_criteria: by what an answer is judged.
        knowledge_types_tested: what the search is limited to; None: all kinds.
        difficulty_level: 1 to 10.
        run_every: how often the worker runs it, as whoever wrote it; None: it is run by hand.
        next_run_at: when it is run next.
        run_failure: why the worker could not run it the last time; None: it could.
    """

    id: UUID
    workspace_id: UUID
    test_name: str
    test_scenario: str
    expected_knowledge_ids: list[UUID]
    forbidden_knowledge_ids: list[UUID]
    within_top: int
    expected_response: str
    pass_criteria: str
    created_at: datetime
    owner_id: UUID | None = None
    knowledge_types_tested: list[KnowledgeType] | None = None
    test_category: str | None = None
    difficulty_level: int | None = None
    test_metadata: JSONObject | None = None
    run_every: timedelta | None = None
    next_run_at: datetime | None = None
    run_failure: str | None = None

    @property
    def wants_answer(self) -> bool:
        """Whether it says what an answer must be like."""
        return bool(self.expected_response.strip() or self.pass_criteria.strip())

    @property
    def wants_items(self) -> bool:
        """Whether it says what a search must, or must not, find."""
        return bool(self.expected_knowledge_ids or self.forbidden_knowledge_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRank:
    """Where a search found an item.

    Attributes:
        rank: from 1; None where it was not among the first 100.
    """

    knowledge_id: UUID
    rank: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRun:
    """What running a validation test gave.

    Attributes:
        outcome: skipped where only an answer was to be judged, and nobody was there to judge.
        result_id: under which it is kept; None where it was skipped.
        performance_score: 0 to 100, how much of what was asked held.
        response_time_seconds: how long searching and answering took; judging is not counted.
        expected: where the items were found that must be.
        forbidden: where those were that must not.
        retrieved_ids: what was found within the top, the best first.
        ai_response: the answer that was judged; None where none was asked for.
        evaluator_notes: what the judge said of it.
        improvement_needed: what would have to be better.
    """

    test_id: UUID
    test_name: str
    outcome: RunOutcome
    result_id: UUID | None = None
    performance_score: int | None = None
    response_time_seconds: float | None = None
    expected: list[ItemRank]
    forbidden: list[ItemRank]
    retrieved_ids: list[UUID]
    ai_response: str | None = None
    evaluator_notes: str | None = None
    improvement_needed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTestResult:
    """A result as it was kept."""

    result_id: UUID
    test_id: UUID
    test_name: str
    pass_status: bool
    test_executed_at: datetime
    performance_score: int | None = None
    response_time_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """A result of a validation test, from its history.

    Attributes:
        owner_id: who ran it; None once that account is deleted.
        retrieved: what a search found: ids and ranks under expected and forbidden, ids under top.
    """

    id: UUID
    test_id: UUID
    test_executed_at: datetime
    owner_id: UUID | None = None
    session_id: UUID | None = None
    pass_status: bool | None = None
    performance_score: int | None = None
    response_time_seconds: float | None = None
    ai_response: str | None = None
    retrieved: JSONObject | None = None
    evaluator_notes: str | None = None
    improvement_needed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReportLine:
    """How a validation test stands.

    Attributes:
        answer_judged: whether the last run had an answer judged.
        previous_pass: how the run before that asked for the same (with or without an answer) ended.
        run_count: how often it was run.
        pass_rate: 0 to 1; None where it never was.
        recent: how the last ten runs ended, the oldest first.
        got_worse: it failed where it passed before, or its score fell.
    """

    test_id: UUID
    test_name: str
    run_count: int
    pass_count: int
    recent: list[bool]
    got_worse: bool
    answer_judged: bool = False
    test_category: str | None = None
    last_executed_at: datetime | None = None
    last_pass: bool | None = None
    last_score: int | None = None
    last_seconds: float | None = None
    last_improvement_needed: str | None = None
    previous_executed_at: datetime | None = None
    previous_pass: bool | None = None
    previous_score: int | None = None
    pass_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a judge says of an answer.

    Attributes:
        score: 0 to 100.
        notes: why.
        improvement: what would have to be better.
    """

    passed: bool
    score: int
    notes: str
    improvement: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverySchedule:
    """When the worker looks for relationships in a workspace.

    Attributes:
        run_every: how often; None: never.
        next_run_at: when next.
    """

    workspace_id: UUID
    run_every: timedelta | None = None
    next_run_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DueWork:
    """What a worker is to do now.

    Attributes:
        test_id: the test to run; None where relationships are to be looked for.
        user_id: as whom; None where nobody is left whose eyes it could be done under.
        embedding_model: the workspace's; None where no model is needed, or it has none.
    """

    task: Literal["validation_test", "discover_relationships"]
    workspace_id: UUID
    test_id: UUID | None = None
    user_id: UUID | None = None
    embedding_model: str | None = None
