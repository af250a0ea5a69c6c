"""Fitting the weights of retrieval to the workspace's validation tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast
from uuid import UUID

from knowledge_persistence import tuning
from knowledge_persistence._values import JsonArgument, VectorArgument, invalid
from knowledge_persistence.models import ValidationTest, from_rows

from .methods import AsyncMethods

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from knowledge_persistence.models import JSON, TuningReport

# A call holds events back until it ends: it takes a second rather than a minute.
_TESTS_A_CALL: Final = 50


class AsyncTuningMethods(AsyncMethods):
    """Fit the weights of retrieval."""

    async def tune(
        self,
        *,
        candidates: int = 80,
        folds: int = 5,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> TuningReport:
        """Find out which retrieval weights serve the workspace's validation tests best, and change nothing.

        Every setting of the weights is tried with the workspace's own searches, and taken back. Whether the best one
        is better than what is set is told by tests that it was not fitted to. `configure_retrieval` sets what the
        report proposes: ``memory.configure_retrieval(retrieval_weights=report.retrieval_weights)``.

        Args:
            candidates: how many settings to try, 2 to 1000.
            folds: into how many parts the tests are dealt; each is judged with weights fitted to the others.
            seed: of what is drawn; the same gives the same report.
            progress: told how many settings have been tried, of how many.

        Raises:
            InvalidArgumentError: the workspace has too few tests that name items, or an argument is outside its range.
            PermissionDeniedError: the caller is not an owner of the workspace.
            EmbeddingError: a scenario can't be embedded.
        """
        if not 2 <= candidates <= 1000:  # noqa: PLR2004
            raise invalid("candidates is between 2 and 1000")
        if folds < 2:  # noqa: PLR2004
            raise invalid("folds is at least 2: what a setting is fitted to can't judge it")
        context = await self._request_context()
        rows = await self._core.call("list_validation_tests", {}, context, mode="read")
        found = from_rows(ValidationTest, rows)
        tests = [test for test in found if test.wants_items]
        if len(tests) < tuning.LEAST_TESTS:
            raise invalid(
                f"tuning wants at least {tuning.LEAST_TESTS} validation tests that say what has to be found, "
                f"and the workspace has {len(tests)}",
                "`kp validate add NAME SITUATION --expect ID` adds one",
            )
        asked = [await self._question(test) for test in tests]
        current, ranks = await self._try(asked, None)
        defaults, _ = await self._try(asked, {})
        if current is None or defaults is None:
            raise invalid("no test's situation finds anything here, so there is nothing to weigh")
        settings = tuning.candidates(current, defaults, how_many=candidates, seed=seed)
        ended = [ranks]
        for number, setting in enumerate(settings[1:], 1):
            if progress is not None:
                progress(number, len(settings))
            ended.append((await self._try(asked, setting))[1])
        if progress is not None:
            progress(len(settings), len(settings))
        return tuning.report(
            tests,
            settings,
            ended,
            defaults=defaults,
            left_out=len(found) - len(tests),
            folds=folds,
            seed=seed,
        )

    async def _question(self, test: ValidationTest) -> dict[str, JSON]:
        embedded = await self._core.embed_query(test.test_scenario)
        vector = embedded.get("query_embedding")
        return {
            "test_id": str(test.id),
            "query_embedding": vector.text() if isinstance(vector, VectorArgument) else None,
            "embedding_model": cast("str | None", embedded.get("embedding_model")),
        }

    async def _try(
        self, asked: Sequence[dict[str, JSON]], weights: Mapping[str, float] | None
    ) -> tuple[dict[str, float] | None, dict[UUID, tuning.Ranks]]:
        """Run the tests with these weights; return the weights as they were applied, and how the tests ended."""
        applied: dict[str, float] | None = None
        ranks: dict[UUID, tuning.Ranks] = {}
        for start in range(0, len(asked), _TESTS_A_CALL):
            rows = await self._core.call(
                "try_retrieval_weights",
                {
                    "tests": JsonArgument(cast("JSON", asked[start : start + _TESTS_A_CALL])),
                    "retrieval_weights": None if weights is None else JsonArgument(dict(weights)),
                },
                await self._request_context(),
                mode="repeatable",
            )
            for row in rows:
                if row["effective_weights"] is not None:
                    told = cast("Mapping[str, float]", row["effective_weights"])
                    applied = {name: float(value) for name, value in told.items()}
                ranks[UUID(str(row["test_id"]))] = tuning.Ranks(
                    cast("list[int | None]", row["expected_ranks"]),
                    cast("list[int | None]", row["forbidden_ranks"]),
                )
        return applied, ranks
