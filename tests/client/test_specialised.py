"""Gotchas, commands, patterns, insights and decisions behind both doors: what is refused, then what arrives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from knowledge_persistence import (
    Attempt,
    CredentialError,
    Decision,
    FoundGotcha,
    Gotcha,
    InvalidArgumentError,
    MatchedInteractionPattern,
    NotFoundError,
    PermissionDeniedError,
    SuggestedCommand,
)
from knowledge_persistence._async.specialised import _telling

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Person
    from knowledge_persistence import AsyncKnowledgeClient, KnowledgeClient

    Enter = Callable[..., KnowledgeClient]
    SignUp = Callable[..., Person]

RECORD: list[Callable[[KnowledgeClient], Any]] = [
    lambda c: c.record_gotcha("It breaks"),
    lambda c: c.record_command_run("make", succeeded=True),
    lambda c: c.record_interaction_pattern("Wants a plan", situation_type="planning"),
    lambda c: c.record_insight("Small steps win", insight_description="Ship small."),
    lambda c: c.record_decision_stage("Queue", understanding="A table."),
]


# What is refused


def test_readers_and_strangers_record_nothing(enter: Enter, sign_up: SignUp) -> None:
    owner, reader, stranger = (sign_up(name) for name in ("owner", "reader", "stranger"))
    workspace = enter(owner).create_workspace("team").workspace_id
    enter(owner).add_workspace_member(workspace, reader.id, role="reader")
    for person in (reader, stranger):
        client = enter(person, workspace=workspace)
        for record in RECORD:
            with pytest.raises(PermissionDeniedError):
                record(client)
    assert enter(reader, workspace=workspace).list_gotchas() == []


def test_what_is_a_colleagues_alone_is_neither_found_nor_met(enter: Enter, sign_up: SignUp) -> None:
    owner, ana, ben = (sign_up(name) for name in ("owner", "ana", "ben"))
    first = enter(owner)
    workspace = first.create_workspace("team").workspace_id
    for person in (ana, ben):
        first.add_workspace_member(workspace, person.id, role="contributor")
    mine, other = enter(ana, workspace=workspace), enter(ben, workspace=workspace)
    for record in RECORD:
        assert record(mine).outcome == "created"
    insight = mine.record_insight("Small steps win", insight_description="Ship small.")
    assert other.find_gotchas("It breaks") == []
    assert other.list_gotchas() == []
    assert other.suggest_commands("make") == []
    assert other.match_interaction_patterns("planning: wants a plan") == []
    assert other.decision_history() == []
    for name in (insight.insight_id, insight.knowledge_id, uuid4()):
        with pytest.raises(NotFoundError) as caught:
            other.apply_insight(name)
        assert caught.value.message == "no such record"
    for record in RECORD:
        assert record(other).outcome == "created", "a pending record of somebody else's is not met"


REFUSED: list[Callable[[KnowledgeClient], object]] = [
    lambda c: c.record_gotcha(" "),
    lambda c: c.record_gotcha("It breaks", attempted_solution="Wait"),
    lambda c: c.record_gotcha("It breaks", severity_level=11),
    lambda c: c.find_gotchas(" "),
    lambda c: c.find_gotchas("It breaks", max_results=0),
    lambda c: c.record_command_run("", succeeded=True),
    lambda c: c.suggest_commands(""),
    lambda c: c.record_interaction_pattern("", situation_type="planning"),
    lambda c: c.record_interaction_pattern("x", situation_type="y", effectiveness_score=101),
    lambda c: c.match_interaction_patterns(" "),
    lambda c: c.record_insight("x", insight_description=" "),
    lambda c: c.record_insight("x", insight_description="y", confidence_level=0),
    lambda c: c.apply_insight("no id"),
    lambda c: c.record_decision_stage("x", understanding=" "),
    lambda c: c.decision_history(max_results=0),
]


def test_arguments_are_checked(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    client.remember("So that there is a workspace.")
    for act in REFUSED:
        with pytest.raises(InvalidArgumentError):
            act(client)


def test_credentials_are_refused_unless_meant(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    secret = "postgresql://shop:hunter2secret@db.example.org/shop"
    acts: list[Callable[..., Any]] = [
        lambda **more: client.record_gotcha(f"Can't connect to {secret}", **more),
        lambda **more: client.record_gotcha(
            "It breaks", attempted_solution=f"Use {secret}", attempt_outcome="failed", **more
        ),
        lambda **more: client.record_command_run(f"psql {secret}", succeeded=True, **more),
        lambda **more: client.record_interaction_pattern("p", situation_type="s", example=secret, **more),
        lambda **more: client.record_insight("i", insight_description=secret, **more),
        lambda **more: client.record_decision_stage("d", understanding=secret, **more),
    ]
    for act in acts:
        with pytest.raises(CredentialError):
            act()
    assert client.list_gotchas() == []
    for act in acts:
        assert act(allow_credentials=True).outcome == "created"


# What arrives


def test_everything_that_is_said_of_a_gotcha_arrives(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up(), project="shop")
    with client.session("monday") as session:
        recorded = session.record_gotcha(
            "ValueError: the catalogue is empty",
            attempted_solution="Import it again",
            attempt_outcome="partial",
            working_solution="Import it as its owner",
            prevention_guidance="Check the owner.",
            failure_patterns=["no rows in catalogue"],
            problem_context={"versions": {"shop": [1, 2]}},
            problem_category="import",
            severity_level=7,
            resolution_time_minutes=25,
            project_context="other",
        )
    [stored] = client.list_gotchas(category="import")
    assert client.list_gotchas(category="export") == []
    assert isinstance(stored, Gotcha)
    assert (stored.id, stored.knowledge_id) == (recorded.gotcha_id, recorded.knowledge_id)
    assert stored.problem_signature == recorded.problem_signature == "valueerror: the catalogue is empty"
    [attempt] = stored.attempted_solutions
    assert isinstance(attempt, Attempt)
    assert (attempt.solution, attempt.outcome, attempt.session) == (
        "Import it again",
        "partial",
        stored.discovery_session,
    )
    assert abs(attempt.at - datetime.now(UTC)) < timedelta(hours=1)
    assert stored.problem_context == {"versions": {"shop": [1, 2]}}
    assert (stored.severity_level, stored.resolution_time_minutes) == (7, 25)
    assert stored.project_context == "other"
    [found] = client.find_gotchas("no rows in catalogue", max_results=1)
    assert isinstance(found, FoundGotcha)
    assert (found.gotcha_id, found.exact_match) == (stored.id, False)
    assert (found.worked, found.failed) == ([], [attempt])
    assert found.failure_patterns == ["no rows in catalogue"]
    assert found.prevention_guidance == "Check the owner."
    assert 0 < found.confidence < 1
    again = client.record_gotcha(
        "something else entirely", problem_signature="ValueError: the catalogue is empty"
    )
    assert again.gotcha_id == stored.id
    better = client.record_gotcha("ValueError: the catalogue is empty", working_solution="Run kp import")
    assert better.working_solution == "Run kp import"
    [found] = client.find_gotchas("ValueError: the catalogue is empty")
    assert [(one.solution, one.replaced) for one in found.worked] == [("Import it as its owner", True)]


def test_everything_that_is_said_of_the_others_arrives(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up(), project="shop", embedder=None)
    ran = client.record_command_run(
        "kp import catalogue.json",
        succeeded=False,
        failure_output="Traceback (most recent call last):\nValueError: the file is empty",
        command_description="Import a catalogue",
        context_requirements=["a running stack"],
        parameter_notes={"FILE": "JSON lines"},
        command_category="import",
    )
    assert (ran.usage_count, ran.success_count, ran.success_rate) == (1, 0, 0.0)
    assert isinstance(ran.success_rate, float)
    [suggested] = client.suggest_commands("import a catalogue")
    assert isinstance(suggested, SuggestedCommand)
    assert suggested.command == "kp import catalogue.json"
    assert suggested.parameter_notes == {"FILE": "JSON lines"}
    assert suggested.failure_patterns == ["valueerror: the file is empty"]
    assert suggested.command_category == "import"
    assert isinstance(suggested.success_rate, float)

    client.record_interaction_pattern(
        "Wants examples",
        situation_type="review",
        user_behavior_description="Asks for examples",
        ai_response_expected="Three of them",
        success_indicators=["says thanks"],
        failure_indicators=["asks again"],
        pattern_metadata={"seen in": ["chat"]},
        example=["one", 2],
    )
    [matched] = client.match_interaction_patterns("asks for examples", situation_type=" Review ")
    assert isinstance(matched, MatchedInteractionPattern)
    assert [one.example for one in matched.examples] == [["one", 2]]
    assert (matched.success_indicators, matched.failure_indicators) == (["says thanks"], ["asks again"])
    assert matched.effectiveness_score is None

    client.record_insight(
        "Imports need owners",
        insight_description="What nobody owns nobody repairs.",
        discovery_moment="In the retrospective",
        project_impact_description="Each import names its owner",
        motivation_driver="Nights",
        emotional_context="Relief",
        validation_examples=["the catalogue"],
        retention_method="A line in the checklist",
        confidence_level=80,
        applicability_scope="imports",
        insight_metadata={"a": 1},
    )
    [item] = client.search("who repairs an import?", categories=["insight"])
    for words in ("retrospective", "names its owner", "Nights", "Relief", "checklist", "Applies to: imports"):
        assert words in item.content
    assert (item.importance_score, item.project_context) == (80, "shop")

    client.record_decision_stage(
        "Who owns imports",
        understanding="The team",
        rationale="Holidays",
        influences=["the retrospective"],
        alternatives={"one person": "ill in winter"},
        lessons_learned="Ask earlier",
        breakthrough="Teams don't go on holiday",
        is_final=True,
    )
    [decision] = client.decision_history(project_context="shop")
    assert isinstance(decision, Decision)
    assert (decision.is_final, decision.final_understanding) == (True, "The team")
    assert decision.alternative_approaches == {"one person": "ill in winter"}
    [stage] = decision.stages
    assert (stage.event, stage.rationale, stage.influences) == ("decided", "Holidays", ["the retrospective"])
    assert (stage.lessons, stage.breakthrough) == ("Ask earlier", "Teams don't go on holiday")
    assert decision.match_reason is None
    [asked] = client.decision_history("who owns imports", max_results=1)
    assert asked.match_reason == "this topic"


def test_each_is_deprecated_by_its_item_and_begins_anew(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up(), embedder=None)
    for record in RECORD:
        old = record(client)
        client.validate(old.knowledge_id, "deprecated")
        new = record(client)
        assert (new.outcome, new.knowledge_id != old.knowledge_id) == ("created", True)
    assert len(client.find_gotchas("It breaks")) == 1
    assert [one.is_in_force for one in client.decision_history("queue")].count(True) == 1


async def test_the_async_client_does_the_same(
    enter_async: Callable[..., AsyncKnowledgeClient], sign_up: SignUp
) -> None:
    async with enter_async(sign_up()) as client, client.session("work") as session:
        met = await session.record_gotcha("It breaks", attempted_solution="Wait", attempt_outcome="failed")
        [found] = await session.find_gotchas("It breaks")
        assert (found.gotcha_id, found.failed[0].session) == (met.gotcha_id, session.id)
        ran = await session.record_command_run("make", succeeded=True)
        assert [one.command_id for one in await session.suggest_commands("make")] == [ran.command_id]
        had = await session.record_insight("Small steps win", insight_description="Ship small.")
        assert (await session.apply_insight(had.insight_id)).applied_count == 1
        await session.record_decision_stage("Queue", understanding="A table.")
        assert [one.decision_topic for one in await session.decision_history("queue")] == ["Queue"]


def test_of_a_long_paste_the_telling_lines_are_embedded() -> None:
    frames = "".join(f'  File "/srv/app/m{n}.py", line {n}, in call\n    call()\n' for n in range(40))
    trace = f"Traceback (most recent call last):\n{frames}KeyError: 'catalogue'"
    assert _telling(trace) == "KeyError: 'catalogue'"
    assert _telling("short\n  text") == "short\n  text"
    indented = "  all of it is indented\n" * 60
    assert _telling(indented) == indented
