"""What the client returns for tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedTest:
    """How a validation test ends with the weights as they are, and with weights fitted without it.

    Attributes:
        score_before: 0 to 1: half for what holds of what it asks, half for the ranks.
        score_after: the same, with the fitted weights.
        passed_before: whether all that it asks holds.
        passed_after: the same, with the fitted weights.
    """

    test_id: UUID
    test_name: str
    score_before: float
    score_after: float
    passed_before: bool
    passed_after: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningReport:
    """What other weights would do for the validation tests. Nothing has been changed.

    What is said of "after" is held out: each test was judged with weights that were fitted to the other folds' tests.

    Attributes:
        current: the weights as they are, defaults included.
        proposed: the weights fitted to all tests; `current` where nothing is better.
        defaults: the weights of a workspace that sets none.
        score_before: mean of the tests' scores with the weights as they are.
        score_after: the same, held out.
        gain: the difference of the two.
        gain_low: lower bound of the gain's 95 % interval, by bootstrap over the tests.
        gain_high: its upper bound.
        passed_before: how many tests pass with the weights as they are.
        passed_after: how many pass, held out.
        worth_it: whether the proposal differs and the whole interval of the gain lies above 0.
        tests: the tests, what changes most first.
        left_out: how many tests name no items, so that no search can fail them.
        candidates: how many settings of the weights were tried.
        folds: into how many parts the tests were dealt.
        seed: of the deal and of the candidates; the same seed gives the same report.
    """

    current: dict[str, float]
    proposed: dict[str, float]
    defaults: dict[str, float]
    score_before: float
    score_after: float
    gain: float
    gain_low: float
    gain_high: float
    passed_before: int
    passed_after: int
    worth_it: bool
    tests: list[TunedTest]
    left_out: int
    candidates: int
    folds: int
    seed: int

    @property
    def retrieval_weights(self) -> dict[str, float]:
        """What `configure_retrieval` is to be given: the proposed weights, without those that are the defaults."""
        return {name: value for name, value in self.proposed.items() if value != self.defaults.get(name)}
