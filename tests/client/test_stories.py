"""The story of each kind of knowledge, behind both doors.

Recorded in one session, merged on repeat from another and by somebody else, found in plain words from a third,
rated, and ranked above the rival that ranked above it before.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Person
    from knowledge_persistence import KnowledgeClient, SessionHandle

    Enter = Callable[..., KnowledgeClient]
    SignUp = Callable[..., Person]


class Team:
    """Ana and Ben, who record, and Olga, whose workspace it is and who validates."""

    def __init__(self, enter: Enter, sign_up: SignUp) -> None:
        olga, ana, ben = (sign_up(name) for name in ("olga", "ana", "ben"))
        first = enter(olga)
        self.workspace: UUID = first.create_workspace("team").workspace_id
        for person in (ana, ben):
            first.add_workspace_member(self.workspace, person.id, role="contributor")
        self.olga, self.ana, self.ben = (
            enter(person, workspace=self.workspace) for person in (olga, ana, ben)
        )

    def publish(self, *items: UUID) -> None:
        """Let the maintainer validate items, and wait until the worker has given each its vector."""
        for item in items:
            self.olga.validate(item)
        # Other tests' texts may be waiting before them.
        deadline = time.monotonic() + 120
        while any(self.olga.get(item).embedding_model is None for item in items):
            assert time.monotonic() < deadline, "no worker embedded them"
            time.sleep(0.05)

    def surroundings(self) -> list[UUID]:
        """Record what else a workspace knows: without it every score would be the best or the worst there is."""
        recorded = self.olga.remember_many(
            [
                "The canteen serves soup on Thursdays.",
                "Invoices are archived for ten years by law.",
                "The design review takes place in the small room.",
                "A gateway is restarted by the operator on duty.",
                "Questions about a release go to the release manager.",
                "The plan for the quarter is on the wiki.",
            ]
        )
        return [one.knowledge_id for one in recorded]

    def prefer(self, loved: UUID, rival: UUID) -> None:
        """Let two people say that the one helped and the other did not."""
        for person in (self.ana, self.ben):
            person.rate(loved, effectiveness_rating=10, application_success=True)
            person.rate(rival, effectiveness_rating=2, application_success=False)


@pytest.fixture
def team(enter: Enter, sign_up: SignUp) -> Team:
    return Team(enter, sign_up)


def order(session: SessionHandle, question: str, *items: UUID) -> list[UUID]:
    """Return these items in the order in which a question finds them; it must find all."""
    found = [one.knowledge_id for one in session.recall(question, max_results=20)]
    assert set(items) <= set(found), "not all are found"
    return [one for one in found if one in items]


TRACE = """Traceback (most recent call last):
  File "{path}", line {line}, in <module>
    upload(chunks)
  File "/usr/lib/python3.11/site-packages/shop/transfer.py", line 88, in upload
    raise TimeoutError(f"gateway timeout after {{seconds}} seconds while uploading the catalogue")
TimeoutError: gateway timeout after {seconds} seconds while uploading the catalogue"""


def test_a_gotcha(team: Team) -> None:
    with team.ana.session("monday") as monday:
        met = monday.record_gotcha(
            TRACE.format(path="/home/ana/shop/main.py", line=12, seconds=30),
            attempted_solution="Retry the upload",
            attempt_outcome="failed",
        )
        assert (met.outcome, met.frequency_encountered, met.attempt_count) == ("created", 1, 1)
        rival = monday.record_gotcha(
            "TimeoutError: gateway timeout while uploading a picture of the catalogue",
            working_solution="Ask the operator.",
            severity_level=9,
        )
        assert rival.gotcha_id != met.gotcha_id
    with team.ana.session("tuesday") as tuesday:
        again = tuesday.record_gotcha(
            TRACE.format(path="C:\\work\\shop\\main.py", line=99, seconds=60),
            attempted_solution="Upload in chunks of 5 MB",
            attempt_outcome="worked",
            prevention_guidance="Never upload a catalogue in one piece.",
        )
    assert (again.outcome, again.gotcha_id) == ("merged", met.gotcha_id)
    assert (again.frequency_encountered, again.attempt_count) == (2, 2)
    team.publish(met.knowledge_id, rival.knowledge_id, *team.surroundings())
    with team.ben.session("wednesday") as wednesday:
        by_ben = wednesday.record_gotcha(
            TRACE.format(path="/srv/shop/main.py", line=7, seconds=5),
            attempted_solution="Retry the upload",
            attempt_outcome="failed",
        )
    assert (by_ben.gotcha_id, by_ben.frequency_encountered, by_ben.attempt_count) == (met.gotcha_id, 3, 3)
    assert by_ben.working_solution == "Upload in chunks of 5 MB"
    assert by_ben.validation_status == "validated", "a sighting changes no text"

    question = "uploading the catalogue ends in a timeout of the gateway, what helps?"
    items = (met.knowledge_id, rival.knowledge_id)
    with team.ben.session("thursday") as thursday:
        [exact, *_] = thursday.find_gotchas(TRACE.format(path="/elsewhere/x.py", line=1, seconds=1))
        assert (exact.gotcha_id, exact.exact_match) == (met.gotcha_id, True)
        assert [one.solution for one in exact.worked] == ["Upload in chunks of 5 MB"]
        assert [one.solution for one in exact.failed] == ["Retry the upload"] * 2
        assert [one.session for one in exact.failed] == [monday.id, wednesday.id]
        assert exact.prevention_guidance == "Never upload a catalogue in one piece."
        assert "worked 1 of 1 times" in exact.match_reason
        told = thursday.find_gotchas(question)
        assert {one.knowledge_id for one in told} == set(items)
        assert not any(one.exact_match for one in told)
        before = {one.knowledge_id: one.confidence for one in told}

        assert order(thursday, question, *items) == [rival.knowledge_id, met.knowledge_id]
        team.prefer(*items)
        assert order(thursday, question, *items) == [met.knowledge_id, rival.knowledge_id]
        after = {one.knowledge_id: one.confidence for one in thursday.find_gotchas(question)}
        assert after[met.knowledge_id] > before[met.knowledge_id]
        assert after[rival.knowledge_id] < before[rival.knowledge_id]


def test_a_command(team: Team) -> None:
    command = "pg_ctl reload -D /srv/data"
    with team.ana.session("monday") as monday:
        ran = monday.record_command_run(
            command,
            succeeded=True,
            command_description="Let postgres read its configuration again",
            context_requirements=["a running server"],
        )
        assert (ran.outcome, ran.usage_count, ran.success_count) == ("created", 1, 1)
        rival = monday.record_command_run(
            "systemctl reload postgresql",
            succeeded=True,
            command_description="Let postgres read its configuration file again",
            context_requirements=["a running server"],
        )
    with team.ana.session("tuesday") as tuesday:
        again = tuesday.record_command_run(
            f"  {command.replace(' ', '  ')}\n",
            succeeded=False,
            failure_output="pg_ctl: PID file /srv/data/postmaster.pid does not exist",
        )
    assert (again.outcome, again.command_id, again.success_rate) == ("merged", ran.command_id, 50.0)
    team.publish(ran.knowledge_id, rival.knowledge_id, *team.surroundings())
    with team.ben.session("wednesday") as wednesday:
        by_ben = wednesday.record_command_run(command, succeeded=True)
    assert (by_ben.command_id, by_ben.usage_count, by_ben.success_count) == (ran.command_id, 3, 2)
    assert by_ben.success_rate == 66.67
    assert by_ben.validation_status == "validated", "a run changes no text"

    question = "how do I make postgres pick up a changed configuration?"
    items = (ran.knowledge_id, rival.knowledge_id)
    with team.ben.session("thursday") as thursday:
        assert order(thursday, question, *items) == [rival.knowledge_id, ran.knowledge_id]
        team.prefer(*items)
        assert order(thursday, question, *items) == [ran.knowledge_id, rival.knowledge_id]

        # Runs move what is suggested, as ratings move what is recalled.
        suggested = {one.knowledge_id: one for one in thursday.suggest_commands(question)}
        assert suggested[ran.knowledge_id].command == command
        assert suggested[ran.knowledge_id].context_requirements == ["a running server"]
        assert suggested[ran.knowledge_id].failure_patterns == [
            "pg_ctl: pid file postmaster.pid does not exist"
        ]
        assert "worked 2 of 3 times" in suggested[ran.knowledge_id].reason
        for _ in range(4):
            thursday.record_command_run("systemctl reload postgresql", succeeded=False)
        after = {one.knowledge_id: one for one in thursday.suggest_commands(question)}
        assert after[rival.knowledge_id].score < suggested[rival.knowledge_id].score
        assert after[rival.knowledge_id].success_rate == 20.0


def test_an_interaction_pattern(team: Team) -> None:
    with team.ana.session("monday") as monday:
        seen = monday.record_interaction_pattern(
            "Wants the plan first",
            situation_type="refactoring",
            user_behavior_description="Asks for the steps before any code is changed",
            ai_response_expected="A short plan with the risks",
            success_indicators=["says go"],
            effectiveness_score=90,
            example="the split of the billing module",
        )
        assert (seen.outcome, seen.pattern_frequency, seen.effectiveness_score) == ("created", 1, 90)
        rival = monday.record_interaction_pattern(
            "Wants a big refactoring explained",
            situation_type="refactoring",
            user_behavior_description="Asks for the steps of a big refactoring before any code is changed",
            ai_response_expected="A long explanation of everything",
            effectiveness_score=90,
        )
    with team.ana.session("tuesday") as tuesday:
        again = tuesday.record_interaction_pattern(
            "wants the PLAN first",
            situation_type="Refactoring",
            effectiveness_score=70,
            example={"ticket": 7},
        )
    assert (again.outcome, again.pattern_id) == ("merged", seen.pattern_id)
    assert (again.pattern_frequency, again.effectiveness_score, again.example_count) == (2, 80, 2)
    team.publish(seen.knowledge_id, rival.knowledge_id, *team.surroundings())
    with team.ben.session("wednesday") as wednesday:
        by_ben = wednesday.record_interaction_pattern(
            "Wants the plan first", situation_type="refactoring", effectiveness_score=95
        )
    assert (by_ben.pattern_id, by_ben.pattern_frequency) == (seen.pattern_id, 3)
    assert by_ben.effectiveness_score == 85
    assert by_ben.validation_status == "validated", "a sighting changes no text"

    question = "the user wants a big refactoring and asks for the steps"
    items = (seen.knowledge_id, rival.knowledge_id)
    with team.ben.session("thursday") as thursday:
        assert order(thursday, question, *items) == [rival.knowledge_id, seen.knowledge_id]
        team.prefer(*items)
        assert order(thursday, question, *items) == [seen.knowledge_id, rival.knowledge_id]

        # What observers see moves what is matched.
        matched = {one.knowledge_id: one for one in thursday.match_interaction_patterns(question)}
        assert set(matched) == set(items)
        assert matched[seen.knowledge_id].ai_response_expected == "A short plan with the risks"
        assert [one.example for one in matched[seen.knowledge_id].examples] == [
            "the split of the billing module",
            {"ticket": 7},
        ]
        assert [one.session for one in matched[seen.knowledge_id].examples] == [monday.id, tuesday.id]
        assert "effectiveness 85" in matched[seen.knowledge_id].reason
        thursday.record_interaction_pattern(
            "Wants a big refactoring explained", situation_type="refactoring", effectiveness_score=10
        )
        after = {one.knowledge_id: one for one in thursday.match_interaction_patterns(question)}
        assert after[rival.knowledge_id].score < matched[rival.knowledge_id].score
        assert after[rival.knowledge_id].effectiveness_score == 50
        assert thursday.match_interaction_patterns(question, situation_type="debugging") == []


def test_an_insight(team: Team) -> None:
    with team.ana.session("monday") as monday:
        had = monday.record_insight(
            "Small changes are reviewed better",
            insight_description="A reviewer reads fifty lines and waves a thousand through.",
            discovery_moment="After the third rollback",
            validation_examples=["release 12"],
            confidence_level=40,
        )
        assert (had.outcome, had.times_observed) == ("created", 1)
        rival = monday.record_insight(
            "Small changes are read better",
            insight_description="A reviewer reads fifty lines and waves a thousand through.",
            discovery_moment="After the third rollback",
            validation_examples=["release 12", "release 13"],
            confidence_level=90,
        )
    with team.ana.session("tuesday") as tuesday:
        again = tuesday.record_insight(
            "small changes ARE reviewed better",
            insight_description="Bugs hide in large diffs.",
            validation_examples=["release 13"],
        )
    assert (again.outcome, again.insight_id) == ("merged", had.insight_id)
    assert (again.times_observed, again.observation_count) == (2, 1)
    team.publish(had.knowledge_id, rival.knowledge_id, *team.surroundings())
    with team.ben.session("wednesday") as wednesday:
        by_ben = wednesday.record_insight(
            "Small changes are reviewed better", insight_description="I read small ones twice."
        )
    assert (by_ben.insight_id, by_ben.times_observed, by_ben.observation_count) == (had.insight_id, 3, 2)
    assert by_ben.validation_status == "validated", "a sighting changes no text"

    question = "does it matter for the reader how large a change is?"
    items = (had.knowledge_id, rival.knowledge_id)
    with team.ben.session("thursday") as thursday:
        assert order(thursday, question, *items) == [rival.knowledge_id, had.knowledge_id]
        # By its own id and by its item's.
        applied = thursday.apply_insight(had.insight_id, notes="split the migration")
        assert (applied.applied_count, applied.applied_successfully) == (1, 1)
        failed = thursday.apply_insight(rival.knowledge_id, success=False)
        assert (failed.insight_id, failed.applied_count, failed.applied_successfully) == (
            rival.insight_id,
            1,
            0,
        )
        team.prefer(*items)
        assert order(thursday, question, *items) == [had.knowledge_id, rival.knowledge_id]
    item = team.olga.get(had.knowledge_id)
    assert (item.success_count, item.failure_count) == (3, 0), "applications are ratings"


def test_a_decision(team: Team) -> None:
    with team.ana.session("monday", project="shop") as monday:
        first = monday.record_decision_stage(
            "Where pictures of the catalogue are kept",
            understanding="In the database, as large objects.",
            alternatives=["object storage"],
            influences=["one backup for all"],
        )
        assert (first.outcome, first.stage, first.is_final) == ("created", 1, False)
        rival = monday.record_decision_stage(
            "Where pictures of the catalogue are made smaller",
            understanding="In the database server, by a function.",
            is_final=True,
        )
        assert rival.is_final
    with team.ana.session("tuesday", project="shop") as tuesday:
        again = tuesday.record_decision_stage(
            "where PICTURES of the catalogue are kept",
            understanding="In object storage, with the key in the database.",
            rationale="Backups take too long.",
            breakthrough="Pictures never change.",
        )
    assert (again.outcome, again.decision_id, again.stage) == ("merged", first.decision_id, 2)
    team.publish(first.knowledge_id, rival.knowledge_id, *team.surroundings())
    with team.ben.session("wednesday", project="shop") as wednesday:
        proposed = wednesday.record_decision_stage(
            "Where pictures of the catalogue are kept", understanding="On the web servers.", is_final=True
        )
    assert (proposed.decision_id, proposed.stage) == (first.decision_id, 3)
    assert (proposed.is_proposal, proposed.is_final) == (True, False)
    assert proposed.validation_status == "validated", "a proposal changes no text"

    question = "what happens in the database with the pictures of our catalogue?"
    items = (first.knowledge_id, rival.knowledge_id)
    with team.ben.session("thursday") as thursday:
        [decision, *_] = thursday.decision_history("Where pictures of the catalogue are kept")
        assert decision.decision_id == first.decision_id
        assert [(one.stage, one.event, one.is_proposal) for one in decision.stages] == [
            (1, "initial", False),
            (2, "revised", False),
            (3, "proposed", True),
        ]
        assert [one.session for one in decision.stages] == [monday.id, tuesday.id, wednesday.id]
        assert decision.stages[0].alternatives == ["object storage"]
        assert decision.stages[1].breakthrough == "Pictures never change."
        assert decision.current_understanding == "In object storage, with the key in the database."
        assert decision.final_understanding is None
        assert decision.is_in_force
        asked = thursday.decision_history("storage of product images", project_context="shop")
        assert first.decision_id in {one.decision_id for one in asked}, (
            "by meaning: it shares one word at most"
        )
        assert thursday.decision_history(project_context="elsewhere") == []

        assert order(thursday, question, *items) == [rival.knowledge_id, first.knowledge_id]
        team.prefer(*items)
        assert order(thursday, question, *items) == [first.knowledge_id, rival.knowledge_id]
