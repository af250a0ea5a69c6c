"""Fitting a workspace's retrieval weights to its validation tests, without fooling oneself.

Which settings are tried, how well a test ends with each, which setting is best, and whether that is more than luck.
The searches are the database's; nothing here knows how they weigh.

Overfitting is held off in four ways. The settings that are tried don't depend on how the tests end. What is far from
the defaults pays for it. Each test is judged by weights that were fitted without it (cross-validation). And a gain
counts only when its whole bootstrap interval is above zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING, Final

from .models.tuning import TunedTest, TuningReport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    import numpy as np
    from numpy.typing import NDArray

    from .models import ValidationTest

#: With fewer tests no split says anything.
LEAST_TESTS: Final = 10
#: What each step of 1 away from a default costs, in the mean score.
_PENALTY: Final = 0.02
_STEPS: Final = 10
_BOOTSTRAPS: Final = 4000


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where a search found what a test names; None: not among the first hundred.

    Attributes:
        expected: ranks of the expected items, from 1.
        forbidden: ranks of the forbidden ones.
    """

    expected: Sequence[int | None]
    forbidden: Sequence[int | None]


def score(test: ValidationTest, ranks: Ranks) -> tuple[float, bool]:
    """Say how well a test ended, 0 to 1, and whether it passed.

    Half of the score is the share of what it asks that holds, as `kp validate run` counts it. That alone moves only
    when an item crosses the line of the top; the other half follows the ranks: the discounted gain of the expected
    items over the best possible one (Järvelin and Kekäläinen, 2002), and how far down the forbidden ones are.
    """
    inside = [rank is not None and rank <= test.within_top for rank in ranks.expected]
    outside = [rank is None or rank > test.within_top for rank in ranks.forbidden]
    asked = len(inside) + len(outside)
    gained = sum(1 / log2(1 + rank) for rank in ranks.expected if rank is not None)
    ideal = sum(1 / log2(2 + place) for place in range(len(ranks.expected)))
    graded = len(inside) * gained / ideal if ideal else 0.0
    graded += sum(1.0 if rank is None else 1 - 1 / log2(1 + rank) for rank in ranks.forbidden)
    held = sum(inside) + sum(outside)
    return (held + graded) / (2 * asked), held == asked


def candidates(
    current: Mapping[str, float], defaults: Mapping[str, float], *, how_many: int, seed: int
) -> list[dict[str, float]]:
    """Choose the settings to try: the first is what is set now, the second the defaults.

    Then each weight alone takes every tenth from 0 to 1, and the rest are drawn: each weight its default or any tenth.

    Args:
        current: the weights as they are.
        defaults: the same weights' defaults.
        how_many: so many at most.
        seed: of what is drawn.
    """
    import numpy as np  # noqa: PLC0415 - not needed by commands that tune nothing

    names = sorted(defaults)
    ladder = [step / _STEPS for step in range(_STEPS + 1)]
    chosen: dict[tuple[float, ...], None] = {}

    def add(weights: Mapping[str, float]) -> None:
        if len(chosen) < how_many:
            chosen.setdefault(tuple(weights[name] for name in names))

    add({name: current.get(name, defaults[name]) for name in names})
    add(defaults)
    for step in ladder:
        for name in names:
            add({**defaults, name: step})
    generator = np.random.default_rng(seed)
    for _ in range(10 * how_many):
        drawn = {name: ladder[int(generator.integers(len(ladder)))] for name in names}
        kept = generator.random(len(names)) < 1 / 2
        add({name: defaults[name] if keep else drawn[name] for name, keep in zip(names, kept, strict=True)})
    return [dict(zip(names, weights, strict=True)) for weights in chosen]


def report(
    tests: Sequence[ValidationTest],
    settings: Sequence[Mapping[str, float]],
    ended: Sequence[Mapping[UUID, Ranks]],
    *,
    defaults: Mapping[str, float],
    left_out: int = 0,
    folds: int = 5,
    seed: int = 0,
) -> TuningReport:
    """Choose the best of the settings that were tried, and say whether it is better than the first.

    Args:
        tests: those that were run.
        settings: as they were tried; the first is what is set now.
        ended: for each setting, how each test ended.
        defaults: the weights that a workspace has that sets none.
        left_out: how many tests were not run.
        folds: into how many parts the tests are dealt.
        seed: of the deal and of the bootstrap.
    """
    import numpy as np  # noqa: PLC0415 - see above

    # By id: the same tests in another order are the same tests.
    tests = sorted(tests, key=lambda test: test.id)
    outcomes = [[score(test, found[test.id]) for test in tests] for found in ended]
    scores = np.array([[value for value, _ in line] for line in outcomes])
    names = list(defaults)
    distance = np.array([sum(abs(one[name] - defaults[name]) for name in names) for one in settings])

    def best(which: NDArray[np.intp]) -> int:
        # Of equals the first, which is what is set.
        return int(np.argmax(scores[:, which].mean(axis=1) - _PENALTY * distance))

    generator = np.random.default_rng(seed)
    parts = np.array_split(generator.permutation(len(tests)), min(folds, len(tests)))
    fitted = np.zeros(len(tests), dtype=np.intp)
    for part in parts:
        fitted[part] = best(np.setdiff1d(np.arange(len(tests)), part))
    before = scores[0]
    after = scores[fitted, np.arange(len(tests))]
    gains = after - before
    drawn = generator.integers(0, len(gains), (_BOOTSTRAPS, len(gains)))
    low, high = np.percentile(gains[drawn].mean(axis=1), [2.5, 97.5])
    proposal = best(np.arange(len(tests)))
    lines = [
        TunedTest(
            test_id=test.id,
            test_name=test.test_name,
            score_before=float(before[place]),
            score_after=float(after[place]),
            passed_before=outcomes[0][place][1],
            passed_after=outcomes[int(fitted[place])][place][1],
        )
        for place, test in enumerate(tests)
    ]
    return TuningReport(
        current=dict(settings[0]),
        proposed=dict(settings[proposal]),
        defaults=dict(defaults),
        score_before=float(before.mean()),
        score_after=float(after.mean()),
        gain=float(gains.mean()),
        gain_low=float(low),
        gain_high=float(high),
        passed_before=sum(line.passed_before for line in lines),
        passed_after=sum(line.passed_after for line in lines),
        worth_it=proposal != 0 and bool(low > 0),
        tests=sorted(lines, key=lambda line: -abs(line.score_after - line.score_before)),
        left_out=left_out,
        candidates=len(settings),
        folds=len(parts),
        seed=seed,
    )
