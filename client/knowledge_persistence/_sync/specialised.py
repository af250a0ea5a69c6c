# Generated from _async/specialised.py by scripts/generate-sync: edit that, not this.
"""Gotchas, commands, interaction patterns, insights and decisions."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final

from knowledge_persistence._values import JsonArgument, to_id
from knowledge_persistence.models import (
    AppliedInsight,
    Gotcha,
    RecordedCommand,
    RecordedDecision,
    RecordedGotcha,
    RecordedInsight,
    RecordedInteractionPattern,
    SuggestedCommand,
    from_row,
    from_rows,
)
from knowledge_persistence.models.specialised import decision, found_gotcha, matched_pattern, stored_gotcha

from .methods import Methods

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from knowledge_persistence._values import Argument, Row, Scalar
    from knowledge_persistence.models import (
        JSON,
        AttemptOutcome,
        Decision,
        FoundGotcha,
        JSONObject,
        MatchedInteractionPattern,
    )

#: Characters from which a pasted text is mostly frames, of which an embedder would read nothing else.
_LONG: Final = 600


class SpecialisedMethods(Methods):
    """Gotchas, commands, interaction patterns, insights and decisions.

    Each record has a knowledge item, which `recall` finds and `validate` and `rate` take. What is recorded
    again is counted on what is there, the caller's own first, else what the caller may see. Each call counts
    once: it is not repeated when no answer came and it may have arrived.
    """

    # Gotchas

    def record_gotcha(
        self,
        problem: str,
        *,
        attempted_solution: str | None = None,
        attempt_outcome: AttemptOutcome | None = None,
        working_solution: str | None = None,
        prevention_guidance: str | None = None,
        failure_patterns: Sequence[str] | None = None,
        problem_signature: str | None = None,
        problem_context: JSONObject | None = None,
        problem_category: str | None = None,
        severity_level: int | None = None,
        resolution_time_minutes: int | None = None,
        project_context: str | None = None,
        allow_credentials: bool = False,
    ) -> RecordedGotcha:
        """Record that a problem was met, and what was tried.

        The same problem is known by its signature: the line of the error text that names it, without times,
        addresses, directories, line numbers and values. Met again, its frequency rises and the attempt is
        appended.

        Args:
            problem: the error text or stack trace as it is, or what went wrong in words.
            attempted_solution: what was tried.
            attempt_outcome: how that went; goes with attempted_solution.
            working_solution: what works.
            prevention_guidance: how not to meet it again.
            failure_patterns: other ways in which it shows.
            problem_signature: what to know it by, instead of the problem's text; up to 500 characters.
            problem_context: structured context: versions, platform, settings.
            problem_category: a word to sort by.
            severity_level: 1 to 10.
            resolution_time_minutes: how long it took to solve, in minutes.
            project_context: the project it was met in; None: the session's.
            allow_credentials: take the text though it looks like it holds a credential.

        Raises:
            InvalidArgumentError: the problem is blank, an attempt has no outcome, or an argument is outside
                its range.
            CredentialError: the text looks like it holds a credential.
            PermissionDeniedError: the caller only reads in this workspace.
        """
        row = self._record(
            "record_gotcha",
            {
                "problem_description": problem,
                "problem_signature": problem_signature,
                "attempted_solution": attempted_solution,
                "attempt_outcome": attempt_outcome,
                "working_solution": working_solution,
                "failure_patterns": failure_patterns,
                "problem_context": _json(problem_context),
                "problem_category": problem_category,
                "severity_level": severity_level,
                "resolution_time_minutes": resolution_time_minutes,
                "prevention_guidance": prevention_guidance,
            },
            project_context,
            allow_credentials=allow_credentials,
        )
        return from_row(RecordedGotcha, row)

    def find_gotchas(self, problem: str, *, max_results: int = 5) -> list[FoundGotcha]:
        """Find known problems like this one: what worked, what failed, how to prevent it, how sure that is.

        Args:
            problem: the error text or stack trace as it is, or what goes wrong in words.
            max_results: so many at most, 1 to 100.

        Returns:
            the same problem by its signature first, then by likeness.

        Raises:
            InvalidArgumentError: the problem is blank.
            EmbeddingError: the problem can't be embedded.
        """
        rows = self._core.call(
            "find_gotchas",
            {
                "problem": problem,
                "max_results": max_results,
                **self._embedded("problem_embedding", _telling(problem)),
            },
            self._request_context(),
            mode="read",
        )
        return [found_gotcha(row) for row in rows]

    def list_gotchas(self, *, category: str | None = None, limit: int = 50) -> list[Gotcha]:
        """Read the gotchas that the caller may see, the one met last first.

        Args:
            category: only of this category.
            limit: so many at most.
        """
        context = self._request_context()
        equal: dict[str, Scalar] = {}
        if context.workspace is not None:
            equal["workspace_id"] = context.workspace
        if category is not None:
            equal["problem_category"] = category
        rows = self._core.select(
            "technical_gotchas",
            [field.name for field in fields(Gotcha)],
            context,
            equal=equal,
            order="last_encountered",
            limit=limit,
        )
        return [stored_gotcha(row) for row in rows]

    # Commands

    def record_command_run(
        self,
        command: str,
        *,
        succeeded: bool,
        failure_output: str | None = None,
        command_description: str | None = None,
        context_requirements: Sequence[str] | None = None,
        parameter_notes: JSONObject | None = None,
        command_category: str | None = None,
        project_context: str | None = None,
        allow_credentials: bool = False,
    ) -> RecordedCommand:
        """Record that a command was run, and whether it worked.

        The same command is known by its text, however it is spaced. Runs are counted, so that its success rate
        is exact.

        Args:
            command: the command as it was run.
            succeeded: whether it worked.
            failure_output: what it said when it failed; its signature is kept.
            command_description: what it is for.
            context_requirements: what must hold for it to work.
            parameter_notes: notes by parameter.
            command_category: a word to sort by.
            project_context: the project it belongs to; None: the session's.
            allow_credentials: take the text though it looks like it holds a credential.

        Raises:
            InvalidArgumentError: the command is blank.
            CredentialError: the text looks like it holds a credential.
            PermissionDeniedError: the caller only reads in this workspace.
        """
        row = self._record(
            "record_command_run",
            {
                "command": command,
                "succeeded": succeeded,
                "failure_output": failure_output,
                "command_description": command_description,
                "context_requirements": context_requirements,
                "parameter_notes": _json(parameter_notes),
                "command_category": command_category,
            },
            project_context,
            allow_credentials=allow_credentials,
        )
        return from_row(RecordedCommand, row)

    def suggest_commands(self, task: str, *, max_results: int = 5) -> list[SuggestedCommand]:
        """Find commands for a task, by relevance and by how reliably they worked.

        Args:
            task: what is to be done, in words.
            max_results: so many at most, 1 to 100.

        Raises:
            InvalidArgumentError: the task is blank.
            EmbeddingError: the task can't be embedded.
        """
        rows = self._core.call(
            "suggest_commands",
            {"task": task, "max_results": max_results, **self._embedded("task_embedding", task)},
            self._request_context(),
            mode="read",
        )
        return from_rows(SuggestedCommand, rows)

    # Interaction patterns

    def record_interaction_pattern(
        self,
        pattern_name: str,
        *,
        situation_type: str,
        user_behavior_description: str | None = None,
        ai_response_expected: str | None = None,
        success_indicators: Sequence[str] | None = None,
        failure_indicators: Sequence[str] | None = None,
        effectiveness_score: int | None = None,
        example: JSON = None,
        pattern_metadata: JSONObject | None = None,
        project_context: str | None = None,
        allow_credentials: bool = False,
    ) -> RecordedInteractionPattern:
        """Record that an interaction pattern was seen.

        The same pattern is known by its name and situation type. Seen again, its frequency rises, the example is
        appended, and its effectiveness becomes the mean of what observers gave.

        Args:
            pattern_name: what to call it.
            situation_type: in what kind of situation it shows: debugging, planning, review, …
            user_behavior_description: what the user does.
            ai_response_expected: what the user expects of the agent.
            success_indicators: signs that it went well.
            failure_indicators: signs that it did not.
            effectiveness_score: 1 to 100, how well the expected response served this time.
            example: what was seen this time.
            pattern_metadata: what else belongs to it.
            project_context: the project it belongs to; None: the session's.
            allow_credentials: take the text though it looks like it holds a credential.

        Raises:
            InvalidArgumentError: the name or situation type is blank, or the score outside its range.
            CredentialError: the text looks like it holds a credential.
            PermissionDeniedError: the caller only reads in this workspace.
        """
        row = self._record(
            "record_interaction_pattern",
            {
                "pattern_name": pattern_name,
                "situation_type": situation_type,
                "user_behavior_description": user_behavior_description,
                "ai_response_expected": ai_response_expected,
                "success_indicators": success_indicators,
                "failure_indicators": failure_indicators,
                "effectiveness_score": effectiveness_score,
                "example": _json(example),
                "pattern_metadata": _json(pattern_metadata),
            },
            project_context,
            allow_credentials=allow_credentials,
        )
        return from_row(RecordedInteractionPattern, row)

    def match_interaction_patterns(
        self, situation: str, *, situation_type: str | None = None, max_results: int = 5
    ) -> list[MatchedInteractionPattern]:
        """Find the interaction patterns that fit a situation, by relevance and effectiveness.

        Args:
            situation: what is going on, in words.
            situation_type: only patterns of this type.
            max_results: so many at most, 1 to 100.

        Raises:
            InvalidArgumentError: the situation is blank.
            EmbeddingError: the situation can't be embedded.
        """
        rows = self._core.call(
            "match_interaction_patterns",
            {
                "situation": situation,
                "situation_type": situation_type,
                "max_results": max_results,
                **self._embedded("situation_embedding", situation),
            },
            self._request_context(),
            mode="read",
        )
        return [matched_pattern(row) for row in rows]

    # Insights

    def record_insight(
        self,
        insight_title: str,
        *,
        insight_description: str,
        discovery_moment: str | None = None,
        project_impact_description: str | None = None,
        motivation_driver: str | None = None,
        emotional_context: str | None = None,
        validation_examples: Sequence[str] | None = None,
        retention_method: str | None = None,
        confidence_level: int | None = None,
        applicability_scope: str | None = None,
        insight_metadata: JSONObject | None = None,
        project_context: str | None = None,
        allow_credentials: bool = False,
    ) -> RecordedInsight:
        """Record an insight.

        The same insight is known by its title. Come to again, it is counted, and what is described differently is
        kept among its observations.

        Args:
            insight_title: the insight in one line.
            insight_description: the insight itself.
            discovery_moment: how it came about.
            project_impact_description: what it changes for the project.
            motivation_driver: what drove towards it.
            emotional_context: how it felt: what makes it stick.
            validation_examples: cases that bear it out.
            retention_method: how to keep it in mind.
            confidence_level: 1 to 100, how sure; also its importance.
            applicability_scope: where it applies.
            insight_metadata: what else belongs to it.
            project_context: the project it belongs to; None: the session's.
            allow_credentials: take the text though it looks like it holds a credential.

        Raises:
            InvalidArgumentError: the title or description is blank, or the confidence outside its range.
            CredentialError: the text looks like it holds a credential.
            PermissionDeniedError: the caller only reads in this workspace.
        """
        row = self._record(
            "record_insight",
            {
                "insight_title": insight_title,
                "insight_description": insight_description,
                "emotional_context": emotional_context,
                "motivation_driver": motivation_driver,
                "project_impact_description": project_impact_description,
                "discovery_moment": discovery_moment,
                "validation_examples": validation_examples,
                "retention_method": retention_method,
                "confidence_level": confidence_level,
                "applicability_scope": applicability_scope,
                "insight_metadata": _json(insight_metadata),
            },
            project_context,
            allow_credentials=allow_credentials,
        )
        return from_row(RecordedInsight, row)

    def apply_insight(
        self, insight_id: UUID | str, *, success: bool = True, notes: str | None = None
    ) -> AppliedInsight:
        """Say that an insight was applied, and whether that worked; it moves the insight's rank.

        Args:
            insight_id: the insight, or its knowledge item.
            success: whether it worked.
            notes: what there is to add.

        Raises:
            NotFoundError: there is no such insight, or none that the caller may see.
        """
        rows = self._core.call(
            "apply_insight",
            {"insight_id": to_id(insight_id, "insight"), "success": success, "notes": notes},
            self._request_context(),
            mode="once",
        )
        return from_row(AppliedInsight, rows[0])

    # Decisions

    def record_decision_stage(
        self,
        decision_topic: str,
        *,
        understanding: str,
        rationale: str | None = None,
        influences: Sequence[str] | None = None,
        alternatives: JSON = None,
        lessons_learned: str | None = None,
        breakthrough: str | None = None,
        is_final: bool = False,
        project_context: str | None = None,
        allow_credentials: bool = False,
    ) -> RecordedDecision:
        """Record how a decision is understood now; the first stage makes it, a final one decides it.

        The same decision is known by its topic and project. On a decision that the caller may see and not edit,
        the stage is kept as a proposal.

        Args:
            decision_topic: what is to be decided.
            understanding: how it is understood now; with is_final: what is decided.
            rationale: why.
            influences: what moved it.
            alternatives: what else was considered: a list, or an object by name.
            lessons_learned: what to do otherwise next time.
            breakthrough: what was suddenly understood.
            is_final: whether this decides it.
            project_context: the project it belongs to; None: the session's.
            allow_credentials: take the text though it looks like it holds a credential.

        Raises:
            InvalidArgumentError: the topic or the understanding is blank.
            CredentialError: the text looks like it holds a credential.
            PermissionDeniedError: the caller only reads in this workspace.
        """
        row = self._record(
            "record_decision_stage",
            {
                "decision_topic": decision_topic,
                "understanding": understanding,
                "influences": influences,
                "rationale": rationale,
                "alternatives": _json(alternatives),
                "is_final": is_final,
                "lessons_learned": lessons_learned,
                "breakthrough": breakthrough,
            },
            project_context,
            allow_credentials=allow_credentials,
        )
        return from_row(RecordedDecision, row)

    def decision_history(
        self, decision_topic: str | None = None, *, project_context: str | None = None, max_results: int = 50
    ) -> list[Decision]:
        """Read decisions with their stages.

        Args:
            decision_topic: a topic, or a question: the decision of this topic first, then what search finds;
                None: all, the latest changed first.
            project_context: only of this project.
            max_results: so many at most, 1 to 1000.

        Raises:
            EmbeddingError: the topic can't be embedded.
        """
        rows = self._core.call(
            "decision_history",
            {
                "decision_topic": decision_topic,
                "project_context": project_context,
                "max_results": max_results,
                **self._embedded("topic_embedding", decision_topic or ""),
            },
            self._request_context(),
            mode="read",
        )
        return [decision(row) for row in rows]

    def _record(
        self,
        function: str,
        arguments: dict[str, Argument],
        project_context: str | None,
        *,
        allow_credentials: bool,
    ) -> Row:
        [row] = self._core.call(
            function,
            {
                **arguments,
                "project_context": self._project if project_context is None else project_context,
                "allow_credentials": allow_credentials or None,
            },
            self._request_context(),
            mode="once",
        )
        return row

    def _embedded(self, name: str, text: str) -> dict[str, Argument]:
        """Embed a question; without an embedder words do alone."""
        embedded = self._core.embed_query(text)
        return (
            {name: embedded["query_embedding"], "embedding_model": embedded["embedding_model"]}
            if embedded
            else {}
        )


def _json(value: JSON) -> JsonArgument | None:
    return None if value is None else JsonArgument(value)


def _telling(problem: str) -> str:
    """Return what of a pasted text tells what went wrong: of a long one the lines that are not frames."""
    if len(problem) <= _LONG:
        return problem
    lines = [line for line in problem.splitlines() if line[:1].strip()]
    return "\n".join(line for line in lines if not line.startswith("Traceback ")) or problem
