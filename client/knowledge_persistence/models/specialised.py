"""What the client returns for gotchas, commands, interaction patterns, insights and decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, cast

from .rows import from_row

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from .knowledge import ValidationStatus
    from .rows import JSON, JSONObject

AttemptOutcome: TypeAlias = Literal["worked", "failed", "partial"]
MergeOutcome: TypeAlias = Literal["created", "merged"]
DecisionEvent: TypeAlias = Literal["initial", "revised", "decided", "proposed"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt at a problem.

    Attributes:
        solution: what was tried.
        outcome: worked, failed or partial.
        at: when.
        session: the session it was made in, if any.
        replaced: whether it worked until a better solution took its place.
    """

    solution: str
    outcome: AttemptOutcome
    at: datetime
    session: UUID | None = None
    replaced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedGotcha:
    """What became of a problem that was met.

    Attributes:
        gotcha_id: the gotcha.
        knowledge_id: its knowledge item.
        outcome: created, or merged into one that was met before.
        problem_signature: what its sightings have in common.
        frequency_encountered: how often it was met, this time included.
        attempt_count: how many attempts are known.
        working_solution: what works, where that is known.
        validation_status: the item's status.
    """

    gotcha_id: UUID
    knowledge_id: UUID
    outcome: MergeOutcome
    problem_signature: str
    frequency_encountered: int
    attempt_count: int
    validation_status: ValidationStatus
    working_solution: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundGotcha:
    """A known problem, with what is known against it.

    Attributes:
        gotcha_id: the gotcha.
        knowledge_id: its knowledge item: what to rate and validate.
        problem_signature: what its sightings have in common.
        working_solution: what works, where that is known.
        worked: attempts that worked, in order.
        failed: attempts that failed or helped in part, in order.
        failure_patterns: other ways in which it shows.
        prevention_guidance: how not to meet it again.
        severity_level: 1 to 10.
        frequency_encountered: how often it was met.
        resolution_time_minutes: how long it took to solve, in minutes.
        exact_match: whether it is the same problem by its signature.
        confidence: 0 to 1, how well it matches times how well its solution is borne out.
        match_reason: both in words.
    """

    gotcha_id: UUID
    knowledge_id: UUID
    problem_signature: str
    problem_description: str
    worked: list[Attempt]
    failed: list[Attempt]
    frequency_encountered: int
    last_encountered: datetime
    validation_status: ValidationStatus
    exact_match: bool
    confidence: float
    match_reason: str
    working_solution: str | None = None
    failure_patterns: list[str] | None = None
    prevention_guidance: str | None = None
    problem_category: str | None = None
    severity_level: int | None = None
    resolution_time_minutes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gotcha:
    """A gotcha, as it is stored.

    Attributes:
        id: the gotcha.
        knowledge_id: its knowledge item.
        attempted_solutions: attempts, in order.
        severity_level: 1 to 10.
        resolution_time_minutes: how long it took to solve, in minutes.
        related_gotchas: gotchas that belong to it.
    """

    id: UUID
    knowledge_id: UUID
    workspace_id: UUID
    problem_signature: str
    problem_description: str
    attempted_solutions: list[Attempt]
    frequency_encountered: int
    last_encountered: datetime
    created_at: datetime
    updated_at: datetime
    owner_id: UUID | None = None
    working_solution: str | None = None
    failure_patterns: list[str] | None = None
    prevention_guidance: str | None = None
    problem_category: str | None = None
    problem_context: JSON = None
    severity_level: int | None = None
    resolution_time_minutes: int | None = None
    related_gotchas: list[UUID] | None = None
    project_context: str | None = None
    discovery_session: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCommand:
    """What became of a command's run.

    Attributes:
        command_id: the command.
        knowledge_id: its knowledge item.
        outcome: created, or merged into the runs before.
        usage_count: how often it was run, this time included.
        success_count: how often it worked.
        success_rate: the one of the other, in percent.
    """

    command_id: UUID
    knowledge_id: UUID
    outcome: MergeOutcome
    command_signature: str
    usage_count: int
    success_count: int
    success_rate: float
    validation_status: ValidationStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestedCommand:
    """A command for a task.

    Attributes:
        command: the command as it works.
        context_requirements: what must hold for it to work.
        parameter_notes: notes by parameter.
        failure_patterns: the signatures of errors with which it failed.
        success_rate: success_count of usage_count, in percent.
        score: 0 to 1, relevance times how reliably it works.
        reason: in words, why it is suggested.
    """

    command_id: UUID
    knowledge_id: UUID
    command: str
    usage_count: int
    success_count: int
    success_rate: float
    last_used: datetime
    validation_status: ValidationStatus
    score: float
    reason: str
    failure_patterns: list[str]
    command_description: str | None = None
    context_requirements: list[str] | None = None
    parameter_notes: JSON = None
    command_category: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedInteractionPattern:
    """What became of an interaction pattern that was seen.

    Attributes:
        outcome: created, or merged into one seen before.
        pattern_frequency: how often it was seen, this time included.
        effectiveness_score: 1 to 100, the mean of what observers gave.
        example_count: how many examples are known.
    """

    pattern_id: UUID
    knowledge_id: UUID
    outcome: MergeOutcome
    pattern_frequency: int
    example_count: int
    validation_status: ValidationStatus
    effectiveness_score: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternExample:
    """A case in which a pattern was seen.

    Attributes:
        example: what was noted of it.
        at: when.
        session: the session it was seen in, if any.
    """

    example: JSON
    at: datetime
    session: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedInteractionPattern:
    """An interaction pattern for a situation.

    Attributes:
        effectiveness_score: 1 to 100, the mean of what observers gave.
        pattern_frequency: how often it was seen.
        score: 0 to 1, relevance moved by effectiveness.
        reason: in words, why it was found.
    """

    pattern_id: UUID
    knowledge_id: UUID
    pattern_name: str
    situation_type: str
    pattern_frequency: int
    last_observed: datetime
    examples: list[PatternExample]
    validation_status: ValidationStatus
    score: float
    reason: str
    user_behavior_description: str | None = None
    ai_response_expected: str | None = None
    success_indicators: list[str] | None = None
    failure_indicators: list[str] | None = None
    effectiveness_score: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedInsight:
    """What became of an insight.

    Attributes:
        insight_id: the insight.
        knowledge_id: its knowledge item.
        outcome: created, or merged into one had before.
        times_observed: how often somebody came to it, this time included.
        observation_count: how many of them said something new.
    """

    insight_id: UUID
    knowledge_id: UUID
    outcome: MergeOutcome
    times_observed: int
    observation_count: int
    validation_status: ValidationStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedInsight:
    """An insight after it was applied once more.

    Attributes:
        applied_count: how often it was applied.
        applied_successfully: how often that worked.
    """

    insight_id: UUID
    knowledge_id: UUID
    applied_count: int
    applied_successfully: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDecision:
    """What became of a decision's stage.

    Attributes:
        outcome: created (the first stage), or merged into the decision.
        stage: the number of this stage, from 1.
        is_proposal: whether the stage only proposes, because the caller may not edit the decision.
        is_final: whether the decision is decided.
    """

    decision_id: UUID
    knowledge_id: UUID
    outcome: MergeOutcome
    stage: int
    is_proposal: bool
    is_final: bool
    validation_status: ValidationStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionStage:
    """A stage of a decision.

    Attributes:
        stage: its number, from 1.
        event: initial, revised, decided, or proposed.
        understanding: how the matter was understood.
        influences: what moved it.
        alternatives: what else was considered.
        breakthrough: what was suddenly understood.
        is_final: whether it decides.
        is_proposal: whether it only proposes.
        at: when.
        session: the session it was recorded in, if any.
    """

    stage: int
    event: DecisionEvent
    understanding: str
    at: datetime
    is_final: bool = False
    is_proposal: bool = False
    influences: list[str] | None = None
    rationale: str | None = None
    alternatives: JSON = None
    lessons: str | None = None
    breakthrough: str | None = None
    session: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A decision with all its stages.

    Attributes:
        is_final: whether it is decided.
        is_in_force: whether it is neither deprecated nor superseded.
        stages: in order.
        match_reason: in words, why it was found; None when no topic was asked for.
    """

    decision_id: UUID
    knowledge_id: UUID
    decision_topic: str
    is_final: bool
    is_in_force: bool
    stages: list[DecisionStage]
    validation_status: ValidationStatus
    created_at: datetime
    updated_at: datetime
    project_context: str | None = None
    initial_understanding: str | None = None
    current_understanding: str | None = None
    final_understanding: str | None = None
    key_influences: list[str] | None = None
    decision_rationale: str | None = None
    alternative_approaches: JSON = None
    lessons_learned: str | None = None
    match_reason: str | None = None


def found_gotcha(row: Mapping[str, object]) -> FoundGotcha:
    """Make a `FoundGotcha` of a row of find_gotchas.

    Args:
        row: column names and values.
    """
    return from_row(
        FoundGotcha,
        {**row, "worked": _each(Attempt, row["worked"]), "failed": _each(Attempt, row["failed"])},
    )


def stored_gotcha(row: Mapping[str, object]) -> Gotcha:
    """Make a `Gotcha` of a row of technical_gotchas.

    Args:
        row: column names and values.
    """
    return from_row(Gotcha, {**row, "attempted_solutions": _each(Attempt, row["attempted_solutions"])})


def matched_pattern(row: Mapping[str, object]) -> MatchedInteractionPattern:
    """Make a `MatchedInteractionPattern` of a row of match_interaction_patterns.

    Args:
        row: column names and values.
    """
    return from_row(MatchedInteractionPattern, {**row, "examples": _each(PatternExample, row["examples"])})


def decision(row: Mapping[str, object]) -> Decision:
    """Make a `Decision` of a row of decision_history, whose timeline says what each stage was.

    Args:
        row: column names and values.
    """
    stages = cast("list[JSONObject]", row["stages"])
    timeline = cast("list[JSONObject]", row["timeline"])
    events = [{**stage, "event": entry["event"]} for stage, entry in zip(stages, timeline, strict=True)]
    return from_row(Decision, {**row, "stages": _each(DecisionStage, events)})


def _each(kind: type[T], rows: object) -> list[T]:
    return [
        from_row(kind, row) for row in cast("list[JSONObject]", rows)
    ]  # keys without a value may be missing
