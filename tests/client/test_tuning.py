"""Tuning: what is chosen when, what is refused, and that nothing changes without a yes."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pytest

from knowledge_persistence import InvalidArgumentError, NewKnowledge, PermissionDeniedError, tuning
from knowledge_persistence._sync import client as sync_client
from knowledge_persistence.embedders import BaseEmbedder
from knowledge_persistence.models import ValidationTest, from_row
from knowledge_persistence.tuning import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conftest import Person, Printed
    from knowledge_persistence import KnowledgeClient

    Enter = Callable[..., KnowledgeClient]
    SignUp = Callable[..., Person]
    Command = Callable[..., Printed]

DEFAULTS = {"meaning": 0.8, "neighbours": 0.1, "triggers": 0.6}
TOPICS = 12


def some_tests(count: int) -> list[ValidationTest]:
    return [
        from_row(
            ValidationTest,
            {
                "id": UUID(int=number + 1),
                "workspace_id": UUID(int=0),
                "test_name": f"test {number}",
                "test_scenario": "?",
                "expected_knowledge_ids": [UUID(int=1000 + number)],
                "forbidden_knowledge_ids": [],
                "within_top": 3,
                "expected_response": "",
                "pass_criteria": "",
                "created_at": "2026-01-01T00:00:00+00:00",
            },
        )
        for number in range(count)
    ]


def ended(tests: Sequence[ValidationTest], rank: Callable[[int], int | None]) -> dict[UUID, Ranks]:
    return {test.id: Ranks([rank(number)], []) for number, test in enumerate(tests)}


# What a test's end is worth


def test_a_score_follows_the_ranks_and_says_who_passes() -> None:
    [test] = some_tests(1)
    scores = [tuning.score(test, Ranks([rank], [])) for rank in (1, 2, 3, 4, 50, None)]
    values = [value for value, _ in scores]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values), "each place counts"
    assert (values[0], values[-1]) == (1.0, 0.0)
    assert [passed for _, passed in scores] == [True, True, True, False, False, False]
    assert values[2] - values[3] > 0.4, "the line of the top counts most"


def test_what_must_not_be_found_is_worth_more_the_deeper_it_is() -> None:
    [test] = some_tests(1)
    scores = [tuning.score(test, Ranks([1], [rank])) for rank in (None, 50, 4, 3, 1)]
    values = [value for value, _ in scores]
    assert values == sorted(values, reverse=True)
    assert [passed for _, passed in scores] == [True, True, True, False, False]


# What is tried


def test_the_settings_that_are_tried_are_known_beforehand() -> None:
    current = {"meaning": 0.25, "neighbours": 0.1, "triggers": 0.6}
    tried = tuning.candidates(current, DEFAULTS, how_many=60, seed=3)
    assert tried[:2] == [current, DEFAULTS]
    assert len(tried) == 60
    assert len({tuple(sorted(one.items())) for one in tried}) == 60
    assert all(0 <= value <= 1 for one in tried for value in one.values())
    for name in DEFAULTS:
        alone = {one[name] for one in tried if all(one[n] == DEFAULTS[n] for n in DEFAULTS if n != name)}
        assert alone >= {step / 10 for step in range(11)}, name
    assert tuning.candidates(current, DEFAULTS, how_many=60, seed=3) == tried
    assert tuning.candidates(current, DEFAULTS, how_many=60, seed=4) != tried
    assert len(tuning.candidates(DEFAULTS, DEFAULTS, how_many=2, seed=0)) == 2


# What is chosen


def test_a_gain_that_holds_for_other_tests_is_proposed() -> None:
    tests = some_tests(30)
    settings = tuning.candidates(DEFAULTS, DEFAULTS, how_many=40, seed=0)
    outcomes = [ended(tests, lambda _, one=one: 1 if one["meaning"] < 0.5 else 6) for one in settings]
    report = tuning.report(tests, settings, outcomes, defaults=DEFAULTS)
    assert report.worth_it
    # Of all that serve as well, the one nearest to the defaults.
    assert report.proposed == {**DEFAULTS, "meaning": 0.4}
    assert report.retrieval_weights == {"meaning": 0.4}
    assert (report.passed_before, report.passed_after) == (0, 30)
    assert report.gain_low > 0
    assert report == tuning.report(tests[::-1], settings, outcomes, defaults=DEFAULTS), "the same by its seed"


def test_luck_is_not_proposed() -> None:
    """Among eighty settings that differ by chance alone, the best looks better; other tests don't show it."""
    naive: list[float] = []
    proposed = 0
    for seed in range(20):
        dice = random.Random(seed)  # noqa: S311
        tests = some_tests(12)
        settings = tuning.candidates(DEFAULTS, DEFAULTS, how_many=80, seed=seed)
        outcomes = [ended(tests, lambda _, dice=dice: dice.randint(1, 8)) for _ in settings]
        means = [np.mean([tuning.score(test, found[test.id])[0] for test in tests]) for found in outcomes]
        naive.append(float(max(means) - means[0]))
        proposed += tuning.report(tests, settings, outcomes, defaults=DEFAULTS, seed=seed).worth_it
    assert np.mean(naive) > 0.2, "fitted to all tests it looks like a gain, each time"
    assert proposed <= 2


def test_where_nothing_is_better_what_is_set_stays() -> None:
    tests = some_tests(15)
    settings = tuning.candidates(DEFAULTS, DEFAULTS, how_many=20, seed=0)
    report = tuning.report(tests, settings, [ended(tests, lambda _: 2)] * 20, defaults=DEFAULTS)
    assert report.proposed == report.current == DEFAULTS
    assert (report.worth_it, report.gain, report.gain_low, report.gain_high) == (False, 0, 0, 0)


def test_one_test_that_gains_much_is_no_gain_for_the_others() -> None:
    tests = some_tests(15)
    settings = tuning.candidates(DEFAULTS, DEFAULTS, how_many=40, seed=0)
    outcomes = [ended(tests, lambda n, one=one: 1 if n or one["meaning"] < 0.5 else None) for one in settings]
    assert not tuning.report(tests, settings, outcomes, defaults=DEFAULTS).worth_it


# On a deployment


class Misled(BaseEmbedder):
    """A model that finds every question about a topic nearest to what has nothing to do with it."""

    def __init__(self) -> None:
        super().__init__(name="all-MiniLM-L6-v2", dimensions=384, cache_size=100)

    def _embed(self, texts: Sequence[str]) -> Any:
        vectors = np.zeros((len(texts), 384), dtype=np.float32)
        for row, text in enumerate(texts):
            number = int(re.findall(r"\d+", text)[0])
            vectors[row, number + (200 if "answers" in text else 0)] = 1
            vectors[row, 383] = 0.3
        return vectors


def fill(client: KnowledgeClient, *, tests: int = TOPICS) -> list[UUID]:
    """Record answers, and decoys that only the misled model takes for answers; add tests that want the answers."""
    numbers = range(1, TOPICS + 1)
    answers = client.remember_many(
        [NewKnowledge(title=f"zorb{n}", content=f"this answers zorb{n}") for n in numbers], embed=True
    )
    client.remember_many(
        [NewKnowledge(title=f"plain{n}", content=f"has nothing to do with it, plain{n}") for n in numbers],
        embed=True,
    )
    for n, answer in zip(numbers[:tests], answers, strict=False):
        client.record_validation_test(
            f"topic {n:02}",
            f"glim{n} frob{n} zorb{n} bril{n} torm{n}",
            expected_knowledge_ids=[answer.knowledge_id],
            within_top=1,
        )
    return [answer.knowledge_id for answer in answers]


def test_only_an_owner_tunes(enter: Enter, sign_up: SignUp) -> None:
    people = {role: sign_up(role) for role in ("owner", "maintainer", "contributor", "reader")}
    owner = enter(people["owner"], embedder=None)
    workspace = owner.create_workspace("team").workspace_id
    for role, person in people.items():
        if role != "owner":
            owner.add_workspace_member(workspace, person.id, role=role)
    inside = enter(people["owner"], embedder=None, workspace=workspace)
    item = inside.remember("Something is known.").knowledge_id
    for number in range(tuning.LEAST_TESTS):
        inside.record_validation_test(f"test {number}", "what is known?", expected_knowledge_ids=[item])
    for role in ("maintainer", "contributor", "reader"):
        with pytest.raises(PermissionDeniedError, match="only an owner"):
            enter(people[role], embedder=None, workspace=workspace).tune()


def test_too_few_tests_tell_nothing(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up("tuner"), embedder=None)
    item = client.remember("Something is known.").knowledge_id
    for number in range(tuning.LEAST_TESTS - 1):
        client.record_validation_test(f"test {number}", "what is known?", expected_knowledge_ids=[item])
    # One that names no items can't be failed by a search, and doesn't count.
    client.record_validation_test("an answer", "what is known?", pass_criteria="says it")
    with pytest.raises(InvalidArgumentError, match="at least 10 validation tests .* has 9"):
        client.tune()
    for wrong in ({"candidates": 1}, {"candidates": 1001}, {"folds": 1}):
        with pytest.raises(InvalidArgumentError):
            client.tune(**wrong)


def test_where_no_test_finds_anything_there_is_nothing_to_weigh(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up("tuner"), embedder=None)
    item = client.remember("Something is known.").knowledge_id
    for number in range(tuning.LEAST_TESTS):
        client.record_validation_test(f"test {number}", f"xyzzy{number}", expected_knowledge_ids=[item])
    with pytest.raises(InvalidArgumentError, match="nothing to weigh"):
        client.tune()


def test_weights_are_fitted_to_the_workspace_and_nothing_changes_by_itself(
    enter: Enter, sign_up: SignUp
) -> None:
    client = enter(sign_up("tuner"), embedder=Misled())
    answers = fill(client)
    question = "glim3 frob3 zorb3 bril3 torm3"
    assert client.search(question)[0].knowledge_id != answers[2]
    seen: list[tuple[int, int]] = []
    report = client.tune(candidates=8, seed=5, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (8, 8)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert report.worth_it
    assert report.proposed["meaning"] < report.current["meaning"]
    assert report.current == report.defaults
    assert (report.passed_before, report.passed_after) == (0, TOPICS)
    assert client.configure_retrieval().retrieval_weights == {}, "nobody said yes"
    assert all(not line.run_count for line in client.validation_report()), "trials are no results"

    client.configure_retrieval(retrieval_weights=report.retrieval_weights)
    assert client.search(question)[0].knowledge_id == answers[2]
    again = client.tune(candidates=8, seed=5)
    assert again.current == report.proposed
    assert not again.worth_it, "there is nothing left to gain"


@pytest.fixture
def misled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `kp` embed with the misled model."""
    monkeypatch.setattr(sync_client, "make_embedder", lambda _settings: Misled())


@pytest.mark.usefixtures("misled")
@pytest.mark.parametrize("door", ["http"])
def test_the_command_shows_what_it_found_and_waits_for_a_yes(
    enter: Enter, sign_up: SignUp, command: Command
) -> None:
    me = sign_up("tuner")
    client = enter(me, embedder=Misled())
    fill(client)

    def weights() -> dict[str, float]:
        return client.configure_retrieval().retrieval_weights

    shown = command(me, "tune", "--candidates", "8")
    assert shown.code == 0, shown.err
    assert re.search(r"(?m)^meaning\s+0\.8\s+0\.\d\s+0\.8\s*$", shown.out)
    assert re.search(rf"(?m)^passed\s+0 of {TOPICS}\s+{TOPICS} of {TOPICS}\s*$", shown.out)
    assert re.search(r"(?m)^gain \+0\.\d+, with 95 % confidence between \+0\.\d+ and \+0\.\d+$", shown.out)
    assert re.search(r"(?m)^topic 0\d\s+0\.\d\d failed\s+1\.00 passed$", shown.out)
    assert "kp tune --apply" in shown.err
    assert weights() == {}

    told = command(me, "tune", "--candidates", "8", "--json").json
    assert (told["worth_it"], told["applied"]) == (True, False)
    assert weights() == {}

    applied = command(me, "tune", "--candidates", "8", "--apply", "--json").json
    assert applied["applied"]
    assert weights() == applied["retrieval_weights"] == told["retrieval_weights"]

    nothing = command(me, "tune", "--candidates", "8", "--apply")
    assert nothing.code == 0
    assert "Nothing was changed" in nothing.err
    assert weights() == told["retrieval_weights"]


@pytest.mark.parametrize("door", ["http"])
def test_the_command_says_what_is_missing(enter: Enter, sign_up: SignUp, command: Command) -> None:
    me = sign_up("tuner")
    enter(me, embedder=None).remember("Something is known.")
    printed = command(me, "tune")
    assert (printed.code, printed.out) == (1, "")
    assert "at least 10 validation tests" in printed.err
    assert "kp validate add" in printed.err
    assert json.loads(command(me, "validate", "list", "--json").out) == []
