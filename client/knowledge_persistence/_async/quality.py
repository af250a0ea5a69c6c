"""Validation tests and what they found."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import TYPE_CHECKING, cast
from uuid import UUID

from knowledge_persistence._values import JsonArgument, interval_text, invalid, is_id, to_id
from knowledge_persistence._waiting import async_run
from knowledge_persistence.errors import NotFoundError
from knowledge_persistence.models import (
    ItemRank,
    RecordedTestResult,
    RecordedValidationTest,
    ValidationReportLine,
    ValidationResult,
    ValidationRun,
    ValidationTest,
    from_row,
    from_rows,
)

from .methods import AsyncMethods

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from knowledge_persistence._values import Argument, Row
    from knowledge_persistence.judges import AnswerJudge
    from knowledge_persistence.models import JSONObject, KnowledgeType


class AsyncQualityMethods(AsyncMethods):
    """Write validation tests, run them, read how they stand."""

    async def record_validation_test(
        self,
        test_name: str,
        test_scenario: str,
        *,
        expected_knowledge_ids: Sequence[UUID | str] | None = None,
        forbidden_knowledge_ids: Sequence[UUID | str] | None = None,
        within_top: int = 5,
        expected_response: str | None = None,
        pass_criteria: str | None = None,
        knowledge_types_tested: Sequence[KnowledgeType] | None = None,
        test_category: str | None = None,
        difficulty_level: int | None = None,
        test_metadata: JSONObject | None = None,
        test_id: UUID | str | None = None,
    ) -> RecordedValidationTest:
        """Keep a validation test in the workspace.

        Recorded again under the same name, or with its id, it is replaced whole; its results stay.

        Args:
            test_name: what people call it.
            test_scenario: the situation that memory has to help in, in words.
            expected_knowledge_ids: items that must be found.
            forbidden_knowledge_ids: items that must not be.
            within_top: among so many results, 1 to 100.
            expected_response: what an answer should say.
            pass_criteria: by what an answer is judged.
            knowledge_types_tested: search only these kinds.
            test_category: a word to sort by.
            difficulty_level: 1 to 10.
            test_metadata: what is to be kept with it.
            test_id: the test to replace, whatever it is called now.

        Raises:
            InvalidArgumentError: nothing could make it fail, or an argument is outside its range.
            NotFoundError: an item, or the test, is not there, or not for the caller to see.
            PermissionDeniedError: the caller may not write tests here, or not change this one.
        """
        rows = await self._core.call(
            "record_validation_test",
            {
                "test_name": test_name,
                "test_scenario": test_scenario,
                "expected_knowledge_ids": _items(expected_knowledge_ids),
                "forbidden_knowledge_ids": _items(forbidden_knowledge_ids),
                "within_top": within_top,
                "expected_response": expected_response,
                "pass_criteria": pass_criteria,
                "knowledge_types_tested": knowledge_types_tested,
                "test_category": test_category,
                "difficulty_level": difficulty_level,
                "test_metadata": None if test_metadata is None else JsonArgument(test_metadata),
                "test_id": None if test_id is None else to_id(test_id, "validation test"),
            },
            await self._request_context(),
            mode="repeatable",
        )
        return from_row(RecordedValidationTest, rows[0])

    async def list_validation_tests(self, *, test_category: str | None = None) -> list[ValidationTest]:
        """Read the validation tests of the workspace, by name.

        Args:
            test_category: only of this category.
        """
        rows = await self._core.call(
            "list_validation_tests",
            {"test_category": test_category},
            await self._request_context(),
            mode="read",
        )
        return from_rows(ValidationTest, rows)

    async def remove_validation_test(self, test_id: UUID | str) -> None:
        """Take a validation test out, with its results, as who wrote it or a maintainer.

        Args:
            test_id: the test.

        Raises:
            NotFoundError: there is no such test, or none that the caller may see.
            PermissionDeniedError: the caller neither wrote it nor maintains the workspace.
        """
        await self._core.call(
            "remove_validation_test",
            {"test_id": to_id(test_id, "validation test")},
            await self._request_context(),
            mode="once",
        )

    async def schedule_validation_test(
        self, test_id: UUID | str, run_every: timedelta | None
    ) -> ValidationTest:
        """Let the worker run a validation test now and then, as whoever wrote it.

        It searches, and judges no answers. Its results are kept like those of any other run.

        Args:
            test_id: the test.
            run_every: how often, 1 hour to 366 days; None: never.

        Raises:
            InvalidArgumentError: the interval is outside its range, or the test names no items.
            NotFoundError: there is no such test, or none that the caller may see.
            PermissionDeniedError: the caller neither wrote it nor maintains the workspace.
        """
        rows = await self._core.call(
            "schedule_validation_test",
            {"test_id": to_id(test_id, "validation test"), "run_every": interval_text(run_every)},
            await self._request_context(),
            mode="repeatable",
        )
        return from_row(ValidationTest, rows[0])

    async def run_validation_tests(
        self,
        tests: Sequence[UUID | str] | None = None,
        *,
        test_category: str | None = None,
        judge: AnswerJudge | None = None,
        progress: Callable[[ValidationRun], None] | None = None,
    ) -> list[ValidationRun]:
        """Run validation tests of the workspace against its memory as it is now, and keep the results.

        What must be found and what must not needs no model. What an answer must be like is judged where there
        is a judge; without one a test that asks for nothing else is skipped.

        Args:
            tests: these, by id or name; None: all.
            test_category: only of this category.
            judge: what answers and judges.
            progress: told each result as it comes.

        Raises:
            NotFoundError: there is no such test in the workspace.
            PermissionDeniedError: readers of a workspace keep no results.
            EmbeddingError: a scenario can't be embedded.
            ModelError: the judge's model fails.
        """
        chosen = _chosen(await self.list_validation_tests(test_category=test_category), tests)
        runs: list[ValidationRun] = []
        for test in chosen:
            runs.append(await self._run(test, judge))
            if progress is not None:
                progress(runs[-1])
        return runs

    async def _run(self, test: ValidationTest, judge: AnswerJudge | None) -> ValidationRun:
        if not test.wants_items and (judge is None or not test.wants_answer):
            return ValidationRun(
                test_id=test.id,
                test_name=test.test_name,
                outcome="skipped",
                expected=[],
                forbidden=[],
                retrieved_ids=[],
                improvement_needed="its answer was not judged: there is no model",
            )
        embedded = await self._core.embed_query(test.test_scenario)
        judged: dict[str, Argument] = {}
        seconds: float | None = None
        if judge is not None and test.wants_answer:
            judged, seconds = await self._judged(test, judge, embedded)
        # Also where nothing has to be found: a result knows what its answer was made from.
        [row] = await self._core.call(
            "run_retrieval_test",
            {"test_id": test.id, **embedded, **judged, "answer_seconds": seconds},
            await self._request_context(),
            mode="once",
        )
        result = from_row(RecordedTestResult, row)
        return ValidationRun(
            test_id=test.id,
            test_name=test.test_name,
            outcome="passed" if result.pass_status else "failed",
            result_id=result.result_id,
            performance_score=result.performance_score,
            response_time_seconds=result.response_time_seconds,
            expected=_ranks(row["expected"]),
            forbidden=_ranks(row["forbidden"]),
            retrieved_ids=[UUID(str(one)) for one in cast("list[object]", row["retrieved_ids"])],
            ai_response=cast("str | None", judged.get("ai_response")),
            evaluator_notes=cast("str | None", judged.get("evaluator_notes")),
            improvement_needed=cast("str | None", row["improvement_needed"]),
        )

    async def _judged(
        self, test: ValidationTest, judge: AnswerJudge, embedded: dict[str, Argument]
    ) -> tuple[dict[str, Argument], float]:
        """Have the scenario answered from what a search finds, and the answer judged."""
        started = time.monotonic()
        found = await self._core.call(
            "search_knowledge",
            {
                "query_text": test.test_scenario,
                **embedded,
                "knowledge_types": test.knowledge_types_tested,
                "max_results": test.within_top,
            },
            await self._request_context(),
            mode="read",
        )
        knowledge = [f"{row['title']}\n{row['content']}" for row in found]
        answer = await async_run(judge.answer, test.test_scenario, knowledge)
        seconds = round(time.monotonic() - started, 3)
        judgement = await async_run(judge.judge, test, answer)
        judged: dict[str, Argument] = {
            "ai_response": answer,
            "answer_passed": judgement.passed,
            "answer_score": judgement.score,
            "evaluator_notes": judgement.notes,
            "improvement_needed": judgement.improvement,
        }
        return judged, seconds

    async def record_validation_result(
        self,
        test_id: UUID | str,
        pass_status: bool,
        *,
        performance_score: int | None = None,
        ai_response: str | None = None,
        response_time_seconds: float | None = None,
        evaluator_notes: str | None = None,
        improvement_needed: str | None = None,
    ) -> RecordedTestResult:
        """Keep the result of a validation test that somebody else has run and judged.

        Args:
            test_id: the test.
            pass_status: whether it passed.
            performance_score: 0 to 100.
            ai_response: what was answered.
            response_time_seconds: how long that took.
            evaluator_notes: what the judge says.
            improvement_needed: what would have to be better.

        Raises:
            NotFoundError: there is no such test, or none that the caller may see.
            PermissionDeniedError: readers of a workspace keep no results.
        """
        rows = await self._core.call(
            "record_validation_result",
            {
                "test_id": to_id(test_id, "validation test"),
                "pass_status": pass_status,
                "performance_score": performance_score,
                "ai_response": ai_response,
                "response_time_seconds": response_time_seconds,
                "evaluator_notes": evaluator_notes,
                "improvement_needed": improvement_needed,
            },
            await self._request_context(),
            mode="once",
        )
        return from_row(RecordedTestResult, rows[0])

    async def validation_report(self, *, since: datetime | None = None) -> list[ValidationReportLine]:
        """Read how the validation tests of the workspace stand, what got worse first.

        Args:
            since: count only runs from then on.
        """
        rows = await self._core.call(
            "validation_report", {"since": since}, await self._request_context(), mode="read"
        )
        return from_rows(ValidationReportLine, rows)

    async def validation_history(self, test_id: UUID | str, *, limit: int = 20) -> list[ValidationResult]:
        """Read the results of a validation test, the latest first.

        Args:
            test_id: the test; of one that the caller may not see there are none.
            limit: so many at most.
        """
        rows = await self._core.select(
            "validation_test_results",
            [field.name for field in fields(ValidationResult)],
            await self._request_context(),
            equal={"test_id": to_id(test_id, "validation test")},
            order="test_executed_at",
            limit=limit,
        )
        return from_rows(ValidationResult, rows)


def _items(ids: Sequence[UUID | str] | None) -> list[UUID] | None:
    return None if ids is None else [to_id(one, "knowledge item") for one in ids]


def _chosen(tests: list[ValidationTest], wanted: Sequence[UUID | str] | None) -> list[ValidationTest]:
    """Pick tests by id or name, each once, in the order of the tests."""
    if wanted is None:
        return tests
    ids: set[UUID] = set()
    for one in wanted:
        named = [
            test.id
            for test in tests
            if test.test_name == str(one) or (is_id(one) and test.id == to_id(one, "validation test"))
        ]
        if not named:
            raise NotFoundError(
                f"no validation test {str(one)!r} here", code="PT404", status=404, hint="`kp validate list`"
            )
        if len(named) > 1:
            raise invalid(f"{len(named)} validation tests are called {str(one)!r}", "name it by its id")
        ids.update(named)
    return [test for test in tests if test.id in ids]


def _ranks(value: object) -> list[ItemRank]:
    return [from_row(ItemRank, row) for row in cast("list[Row]", value)]
