"""The views and snippets for Studio: they show to each what each may see, and they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from teams import Team
from world import refused

if TYPE_CHECKING:
    from world import Persona, World

VIEWS = (
    "session_timeline",
    "top_gotchas",
    "decision_overview",
    "unused_knowledge",
    "failed_validation_tests",
    "knowledge_to_validate",
)
SNIPPETS = sorted((Path(__file__).resolve().parents[2] / "supabase" / "snippets").glob("*.sql"))


@pytest.fixture
def team(world: World) -> Team:
    """Give a workspace in which something shows in every view."""
    team = Team(world)
    author = team.author.start_session("monday", project_context="search")
    old = author.record("Old", "Recorded long ago, never used.")
    world.superuser(
        "update public.knowledge_items set created_at = now() - interval '40 days' where id = %s", old
    )
    for _ in range(3):
        author.rpc("record_gotcha", problem_description="deadlock detected", severity_level=4)
    author.rpc(
        "record_gotcha", problem_description="disk is full", severity_level=10, working_solution="grow it"
    )
    author.rpc("record_decision_stage", decision_topic="Index", understanding="HNSW or IVFFlat.")
    author.rpc("record_decision_stage", decision_topic="Index", understanding="HNSW.", is_final=True)
    author.rpc("rate_knowledge", knowledge_id=author.record("Good", "Applied."), application_success=True)
    for name in ("always fails", "passes again"):
        [test] = author.sql(
            "insert into public.knowledge_validation_tests "
            "(test_name, test_category, test_scenario, expected_knowledge_ids) "
            "values (%s, 'recall', 'nothing like it', %s) returning id",
            name,
            [old],
        )
        author.rpc(
            "record_validation_result", test_id=test["id"], pass_status=False, improvement_needed="all of it"
        )
        if name == "passes again":
            world.superuser(
                "update public.validation_test_results set test_executed_at = now() - interval '1 day' "
                "where test_id = %s",
                test["id"],
            )
            author.rpc("record_validation_result", test_id=test["id"], pass_status=True)
    author.rpc("end_session", summary="Done.")
    return team


def rows(persona: Persona, view: str) -> list[dict[str, object]]:
    return persona.sql(f"select * from public.{view}")


# -- what must not be seen -------------------------------------------------------------------------------------


def test_a_view_shows_nobody_more_than_its_tables(team: Team) -> None:
    newcomer = team.world.sign_up("newcomer")
    for view in VIEWS:
        with refused("42501"):
            rows(team.world.anon(), view)
        for privilege in ("insert", "update", "delete"):
            assert not team.owner.value("select has_table_privilege(%s, %s)", f"public.{view}", privilege)
        for outsider in (team.stranger, newcomer):
            assert rows(outsider, view) == []
        if view != "failed_validation_tests":  # tests and their results are every member's to see
            assert rows(team.colleague, view) == []
            assert rows(team.reader, view) == []
        assert rows(team.author, view)
        assert len(rows(team.maintainer, view)) == len(rows(team.author, view))


def test_every_view_runs_as_who_asks(world: World) -> None:
    views = world.superuser(
        "select relname, coalesce('security_invoker=true' = any (reloptions), false) as invoker from pg_class "
        "where relnamespace = 'public'::regnamespace and relkind = 'v' order by relname"
    )
    assert {row["relname"] for row in views} >= set(VIEWS)
    assert [row["relname"] for row in views if not row["invoker"]] == []


# -- what is seen ----------------------------------------------------------------------------------------------


def test_a_timeline_tells_a_session_in_order(team: Team) -> None:
    events = team.author.sql(
        "select event, title, detail from public.session_timeline where session_identifier = 'monday' "
        "order by happened_at, event = 'ended'"
    )
    assert (events[0]["event"], events[-1]["event"], events[-1]["detail"]) == ("started", "ended", "Done.")
    assert {row["event"] for row in events} == {"started", "created", "updated", "applied", "ended"}
    assert [row["detail"] for row in events if row["event"] == "applied"] == ["it worked"]


def test_gotchas_are_weighed(team: Team) -> None:
    found = rows(team.author, "top_gotchas")
    assert [(row["problem_description"], row["weight"], row["is_solved"]) for row in found] == [
        ("deadlock detected", 12, False),
        ("disk is full", 10, True),
    ]


def test_decisions_show_their_latest_stage(team: Team) -> None:
    [decision] = rows(team.author, "decision_overview")
    assert (decision["stage_count"], decision["is_decided"], decision["latest_understanding"]) == (
        2,
        True,
        "HNSW.",
    )
    assert decision["latest_stage_at"] is not None
    assert not decision["latest_is_proposal"]
    team.maintainer.rpc("validate_knowledge", knowledge_id=decision["knowledge_id"])
    team.colleague.rpc(
        "record_decision_stage", decision_topic="Index", understanding="IVFFlat?", project_context="search"
    )
    [decision] = rows(team.author, "decision_overview")
    assert (decision["latest_is_proposal"], decision["latest_understanding"]) == (True, "HNSW.")


def test_unused_failed_and_waiting_are_what_they_say(team: Team) -> None:
    [unused] = rows(team.author, "unused_knowledge")
    assert unused["title"] == "Old"
    [failed] = rows(team.author, "failed_validation_tests")
    assert (failed["test_name"], failed["improvement_needed"], failed["last_passed_at"]) == (
        "always fails",
        "all of it",
        None,
    )
    waiting = rows(team.maintainer, "knowledge_to_validate")
    assert len(waiting) == 5
    for item in waiting:
        team.maintainer.rpc("validate_knowledge", knowledge_id=item["knowledge_id"])
    assert rows(team.maintainer, "knowledge_to_validate") == []
    team.author.rpc("recall_knowledge", query_text="recorded long ago")
    assert rows(team.author, "unused_knowledge") == []


# -- snippets --------------------------------------------------------------------------------------------------


def test_snippets_run_as_they_would_in_studio(team: Team) -> None:
    """Studio runs them as postgres; each says first what it is for."""
    assert len(SNIPPETS) >= 8
    team.world.service().rpc("run_maintenance")
    with psycopg.connect(team.world.dsn("postgres"), autocommit=True) as connection:
        empty: list[str] = []
        for snippet in SNIPPETS:
            text = snippet.read_text("utf-8")
            assert text.startswith("-- "), snippet.name
            answer = connection.execute(text.encode()).fetchall()
            if not answer:
                empty.append(snippet.name)
    assert empty == ["knowledge_that_fails.sql"], "every other one has something to show of this workspace"


def test_no_number_or_stage_breaks_a_view(team: Team) -> None:
    """What was imported may be anything."""
    team.world.superuser(
        "update public.technical_gotchas set frequency_encountered = 2147483647, severity_level = 10"
    )
    team.world.superuser(
        "update public.decision_evolution set evolution_stages = jsonb_set(jsonb_set(evolution_stages,"
        """ '{-1,at}', '"x"'), '{-1,is_proposal}', '"y"')"""
    )
    assert {row["weight"] for row in rows(team.author, "top_gotchas")} == {21474836470}
    decisions = rows(team.author, "decision_overview")
    assert {(row["latest_stage_at"], row["latest_is_proposal"]) for row in decisions} == {(None, False)}
