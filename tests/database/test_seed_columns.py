"""Every column that the seed of the schema has carries what it is for: recorded, and read back from the table.

What the columns do (merging, counting, ranking, erasing) is tested beside each kind of knowledge; here none is
forgotten.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from teams import Team
from world import World, vector

if TYPE_CHECKING:
    import uuid
    from collections.abc import Generator

    from databases import Database, DatabaseServer

AXIS = vector([1.0] + [0.0] * 383)
JUST_NOW = object()


@pytest.fixture(scope="module")
def team(server: DatabaseServer, template: Database) -> Generator[Team]:
    with server.clone(template) as database:
        world = World(database.dsn)
        yield Team(world)
        world.close()


def check(team: Team, table: str, key: str, value: object, expected: dict[str, Any]) -> None:
    """Compare the columns of a row with what is expected, as the superuser reads it."""
    [row] = team.world.superuser(f"select * from public.{table} where {key} = %s", value)
    found = {column: row[column] for column in expected}
    now = dt.datetime.now(dt.UTC)
    for column, wanted in expected.items():
        if wanted is JUST_NOW:
            assert now - dt.timedelta(minutes=5) < found.pop(column) <= now, column
    assert found == {column: wanted for column, wanted in expected.items() if wanted is not JUST_NOW}


def test_knowledge_items(team: Team) -> None:
    me = team.author.start_session("items")
    item = me.record(
        "A title",
        "Some content.",
        knowledge_type="procedural",
        category="deployment",
        subcategory="gateway",
        importance_score=77,
        retrieval_triggers=["gateway"],
        context_data={"port": 54321},
        content_embedding=AXIS,
    )
    team.maintainer.rpc("validate_knowledge", knowledge_id=item, validation_status="needs_update")
    me.rpc("recall_knowledge", query_text="gateway")
    expected = {
        "id": item,
        "knowledge_type": "procedural",
        "category": "deployment",
        "subcategory": "gateway",
        "title": "A title",
        "content": "Some content.",
        "content_embedding": AXIS,
        "context_data": {"port": 54321},
        "importance_score": 77,
        "retrieval_triggers": ["gateway"],
        "validation_status": "needs_update",
        "created_at": JUST_NOW,
        "last_accessed": JUST_NOW,
        "access_count": 1,
        "created_by": str(me.session),
        "updated_at": JUST_NOW,
    }
    check(team, "knowledge_items", "id", item, expected)


def test_ai_sessions_and_session_knowledge_links(team: Team) -> None:
    me = team.author.start_session("monday", project_context="atlas", session_metadata={"agent": "a"})
    item = me.record("Recorded in the session")
    me.rpc("recall_knowledge", query_text="recorded session")
    me.rpc("mark_breakthrough", knowledge_id=item, learning_context="while deploying")
    me.rpc(
        "rate_knowledge", knowledge_id=item, effectiveness_rating=9, application_success=True, notes="it held"
    )
    [ended] = me.rpc("end_session", session_quality_score=80, user_feedback="fine")
    expected = {
        "id": me.session,
        "session_identifier": "monday",
        "project_context": "atlas",
        "start_time": JUST_NOW,
        "end_time": JUST_NOW,
        "session_duration": ended["session_duration"],
        "knowledge_items_accessed": 1,
        "knowledge_items_created": 1,
        "breakthrough_moments": 1,
        "session_quality_score": 80,
        "session_metadata": {"agent": "a"},
        "user_feedback": "fine",
    }
    check(team, "ai_sessions", "id", me.session, expected)
    links = team.world.superuser("select * from public.session_knowledge_links where knowledge_id = %s", item)
    by_type = {link["interaction_type"]: link for link in links}
    assert {"created", "accessed", "breakthrough", "applied"} == set(by_type)
    assert {link["session_id"] for link in links} == {me.session}
    assert by_type["breakthrough"]["breakthrough_indicator"] is True
    assert by_type["breakthrough"]["learning_context"] == "while deploying"
    expected = {
        "id": by_type["applied"]["id"],
        "session_id": me.session,
        "knowledge_id": item,
        "interaction_type": "applied",
        "interaction_timestamp": JUST_NOW,
        "effectiveness_rating": 9,
        "breakthrough_indicator": False,
        "application_success": True,
        "notes": "it held",
    }
    check(team, "session_knowledge_links", "id", by_type["applied"]["id"], expected)


def test_interaction_patterns(team: Team) -> None:
    given: dict[str, Any] = {
        "pattern_name": "Asks twice",
        "situation_type": "debugging",
        "user_behavior_description": "repeats the question",
        "ai_response_expected": "says what is different now",
        "success_indicators": ["moves on"],
        "failure_indicators": ["asks again"],
        "effectiveness_score": 60,
        "pattern_metadata": {"seen": "often"},
    }
    [made] = team.author.rpc("record_interaction_pattern", **given, example={"said": "again?"})
    expected = {"id": made["pattern_id"], **given, "pattern_frequency": 1, "last_observed": JUST_NOW}
    check(team, "interaction_patterns", "id", made["pattern_id"], expected)
    examples = team.author.value(
        "select examples from public.interaction_patterns where id = %s", made["pattern_id"]
    )
    assert [example["example"] for example in examples] == [{"said": "again?"}]


def test_knowledge_relationships(team: Team) -> None:
    me = team.author.start_session("relating")
    source, target = me.record("A source"), me.record("A target")
    given: dict[str, Any] = {
        "source_knowledge_id": source,
        "target_knowledge_id": target,
        "relationship_type": "builds_upon",
        "strength": 0.75,
        "relationship_context": "as seen in the deploy",
    }
    [made] = me.rpc("relate_knowledge", **given)
    expected = {
        "id": made["relationship_id"],
        **given,
        "discovered_in_session": me.session,
        "created_at": JUST_NOW,
    }
    expected["strength"] = made["strength"]
    assert made["strength"] == 0.75
    check(team, "knowledge_relationships", "id", made["relationship_id"], expected)


def test_technical_gotchas(team: Team) -> None:
    me = team.author.start_session("gotchas")
    [other] = me.rpc("record_gotcha", problem_description="Another problem altogether")
    given: dict[str, Any] = {
        "problem_description": "The port is taken",
        "problem_context": {"os": "linux"},
        "working_solution": "Stop the other one",
        "failure_patterns": ["address in use"],
        "problem_category": "network",
        "severity_level": 4,
        "resolution_time_minutes": 15,
        "prevention_guidance": "Ask for a free port",
    }
    [made] = me.rpc("record_gotcha", **given, attempted_solution="Wait", attempt_outcome="failed")
    me.sql(
        "update public.technical_gotchas set related_gotchas = array[%s]::uuid[] where id = %s",
        other["gotcha_id"],
        made["gotcha_id"],
    )
    expected = {
        "id": made["gotcha_id"],
        "problem_signature": "the port is taken",
        **given,
        "discovery_session": me.session,
        "frequency_encountered": 1,
        "last_encountered": JUST_NOW,
        "related_gotchas": [other["gotcha_id"]],
    }
    check(team, "technical_gotchas", "id", made["gotcha_id"], expected)
    attempts = me.value(
        "select attempted_solutions from public.technical_gotchas where id = %s", made["gotcha_id"]
    )
    assert [(attempt["solution"], attempt["outcome"]) for attempt in attempts] == [("Wait", "failed")]


def test_command_patterns(team: Team) -> None:
    me = team.author.start_session("commands")
    given: dict[str, Any] = {
        "command_description": "Lists what listens",
        "context_requirements": ["iproute2"],
        "parameter_notes": {"-l": "listening"},
        "command_category": "network",
    }
    [made] = me.rpc("record_command_run", command="ss  -ltn", succeeded=True, **given)
    me.rpc("record_command_run", command="ss -ltn", succeeded=False, failure_output="ss: not found")
    expected = {
        "id": made["command_id"],
        "command_signature": "ss -ltn",
        **given,
        "success_pattern": "ss  -ltn",
        "failure_patterns": ["ss: not found"],
        "discovered_in_session": me.session,
        "usage_count": 2,
        "success_rate": 50,
        "last_used": JUST_NOW,
    }
    check(team, "command_patterns", "id", made["command_id"], expected)


def test_experiential_knowledge(team: Team) -> None:
    me = team.author.start_session("insights")
    given: dict[str, Any] = {
        "insight_title": "Small steps",
        "insight_description": "Small steps are faster.",
        "emotional_context": "relief",
        "motivation_driver": "a late night",
        "project_impact_description": "deploys are daily now",
        "discovery_moment": "after the third rollback",
        "validation_examples": ["the March release"],
        "retention_method": "a note on the board",
        "confidence_level": 80,
        "applicability_scope": "deployments",
        "insight_metadata": {"since": "March"},
    }
    [made] = me.rpc("record_insight", **given, content_embedding=AXIS)
    me.rpc("apply_insight", insight_id=made["insight_id"])
    expected = {
        "id": made["insight_id"],
        **given,
        "insight_embedding": AXIS,
        "created_in_session": me.session,
        "applied_successfully": 1,
        "created_at": JUST_NOW,
    }
    check(team, "experiential_knowledge", "id", made["insight_id"], expected)


def test_decision_evolution(team: Team) -> None:
    me = team.author.start_session("decisions")
    stage: dict[str, Any] = {"decision_topic": "Which queue", "project_context": "atlas"}
    me.rpc("record_decision_stage", **stage, understanding="A broker", influences=["habit"])
    [made] = me.rpc(
        "record_decision_stage",
        **stage,
        understanding="A table",
        influences=["measurements"],
        rationale="one thing less to run",
        alternatives={"a broker": "habit"},
        lessons_learned="measure first",
        breakthrough="skip locked",
        is_final=True,
    )
    expected = {
        "id": made["decision_id"],
        "decision_topic": "Which queue",
        "initial_understanding": "A broker",
        "final_understanding": "A table",
        "key_influences": ["habit", "measurements"],
        "decision_rationale": "one thing less to run",
        "alternative_approaches": {"a broker": "habit"},
        "lessons_learned": "measure first",
        "project_context": "atlas",
        "created_at": JUST_NOW,
    }
    check(team, "decision_evolution", "id", made["decision_id"], expected)
    [grown] = me.sql(
        "select evolution_stages, breakthrough_moments, evolution_timeline from public.decision_evolution"
        " where id = %s",
        made["decision_id"],
    )
    assert [stage["understanding"] for stage in grown["evolution_stages"]] == ["A broker", "A table"]
    assert [moment["breakthrough"] for moment in grown["breakthrough_moments"]] == ["skip locked"]
    assert [entry["event"] for entry in grown["evolution_timeline"]] == ["initial", "decided"]


def test_knowledge_validation_tests_and_validation_test_results(team: Team) -> None:
    me = team.author.start_session("testing")
    given: dict[str, Any] = {
        "test_name": "Ports",
        "test_category": "network",
        "test_scenario": "Which port is the origin's?",
        "expected_response": "54321",
        "pass_criteria": "names the port",
        "difficulty_level": 3,
        "knowledge_types_tested": ["factual"],
        "test_metadata": {"by": "hand"},
    }
    names, places = ", ".join(given), ", ".join(["%s"] * len(given))
    test: uuid.UUID = me.value(
        f"insert into public.knowledge_validation_tests ({names}) values ({places}) returning id",
        *given.values(),
    )
    check(team, "knowledge_validation_tests", "id", test, {"id": test, **given, "created_at": JUST_NOW})
    result: dict[str, Any] = {
        "pass_status": False,
        "performance_score": 40,
        "ai_response": "80",
        "evaluator_notes": "another port",
        "improvement_needed": "record the port",
    }
    [made] = me.rpc("record_validation_result", test_id=test, **result, response_time_seconds=1.5)
    expected = {
        "id": made["result_id"],
        "test_id": test,
        "session_id": me.session,
        "test_executed_at": JUST_NOW,
        **result,
        "response_time_seconds": 1.5,
    }
    check(team, "validation_test_results", "id", made["result_id"], expected)
