"""Validation tests: who writes and runs them, what a search has to find, what got worse."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from teams import NOBODY, Team
from world import refused, vector

if TYPE_CHECKING:
    from world import Persona, World

WRITE = (
    "insert into public.knowledge_validation_tests (test_name, test_scenario, expected_knowledge_ids,"
    " forbidden_knowledge_ids, within_top, knowledge_types_tested) values (%s, %s, %s, %s, %s, %s) returning id"
)


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def write_test(
    persona: Persona,
    scenario: str,
    *,
    name: str = "a test",
    expected: list[uuid.UUID] | None = None,
    forbidden: list[uuid.UUID] | None = None,
    within_top: int = 5,
    types: list[str] | None = None,
) -> uuid.UUID:
    [row] = persona.sql(WRITE, name, scenario, expected or [], forbidden or [], within_top, types)
    return row["id"]


def run(persona: Persona, test: uuid.UUID, **arguments: object) -> dict[str, Any]:
    [row] = persona.rpc("run_retrieval_test", test_id=test, **arguments)
    return row


def towards(axis: int) -> list[float]:
    values = [0.0] * 384
    values[axis] = 1.0
    return values


# -- what must fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["knowledge_validation_tests", "validation_test_results"])
def test_anon_sees_nothing(team: Team, table: str) -> None:
    test = write_test(team.author, "what?", expected=[team.shared("a")])
    run(team.author, test)
    with refused("42501"):
        team.world.anon().sql(f"select * from public.{table}")
    with refused("42501"):
        run(team.world.anon(), test)
    with refused("42501"):
        team.world.anon().rpc("record_validation_result", test_id=test, pass_status=True)
    with refused("42501"):
        team.world.anon().rpc("validation_report")


def test_a_foreign_test_and_no_test_answer_alike(team: Team) -> None:
    test = write_test(team.author, "what?", expected=[team.shared("a")])
    run(team.author, test)
    assert team.stranger.sql("select 1 from public.knowledge_validation_tests") == []
    assert team.stranger.sql("select 1 from public.validation_test_results") == []
    assert team.stranger.rpc("validation_report") == []
    answers = set()
    for named in (test, NOBODY):
        with refused("PT404") as caught:
            run(team.stranger, named)
        answers.add(str(caught.value))
        with refused("PT404") as caught:
            team.stranger.rpc("record_validation_result", test_id=named, pass_status=True)
        answers.add(str(caught.value).split("CONTEXT")[0])
        with refused("42501") as caught:
            team.stranger.sql("insert into public.validation_test_results (test_id) values (%s)", named)
        answers.add(str(caught.value))
    assert {answer.splitlines()[0] for answer in answers} == {
        "no such validation test",
        'new row violates row-level security policy for table "validation_test_results"',
    }


def test_a_test_names_only_what_its_writer_sees(team: Team) -> None:
    pending = team.author.record("pending")
    foreign = team.stranger.record("foreign")
    for persona, item in (
        (team.colleague, pending),
        (team.colleague, foreign),
        (team.colleague, NOBODY),
        (team.author, foreign),
    ):
        with refused("PT404", "no such knowledge item"):
            write_test(persona, "what?", expected=[item])
        with refused("PT404", "no such knowledge item"):
            write_test(persona, "what?", forbidden=[item])
    test = write_test(team.colleague, "what?")
    with refused("PT404", "no such knowledge item"):
        team.colleague.sql(
            "update public.knowledge_validation_tests set expected_knowledge_ids = %s where id = %s",
            [pending],
            test,
        )
    assert write_test(team.author, "what?", expected=[pending])
    in_her_own = team.author.inside(None)
    with refused("PT404", "no such knowledge item"):
        write_test(in_her_own, "what?", expected=[pending])


def test_direct_writes_cannot_forge(team: Team) -> None:
    item = team.shared("a")
    test = write_test(team.author, "what?", expected=[item])
    for column, value in (
        ("owner_id", team.colleague.id),
        ("workspace_id", team.strangers_id),
        ("workspace_id", NOBODY),
        ("created_at", "2020-01-01"),
        ("id", NOBODY),
    ):
        with refused("42501"):
            team.author.sql(
                f"insert into public.knowledge_validation_tests (test_name, test_scenario, {column})"
                " values ('n', 's', %s)",
                value,
            )
        if column != "workspace_id":
            with refused("42501"):
                team.author.sql(
                    f"update public.knowledge_validation_tests set {column} = %s where id = %s", value, test
                )
    with refused("42501"):
        team.author.sql(
            "update public.knowledge_validation_tests set workspace_id = %s where id = %s",
            team.strangers_id,
            test,
        )
    for column, value in (
        ("owner_id", team.colleague.id),
        ("workspace_id", team.strangers_id),
        ("session_id", team.author.start_session("s").session),
        ("test_executed_at", "2020-01-01"),
        ("id", NOBODY),
    ):
        with refused("42501"):
            team.author.sql(
                f"insert into public.validation_test_results (test_id, {column}) values (%s, %s)", test, value
            )
    run(team.author, test)
    for persona in (team.owner, team.author):
        with refused("42501"):
            persona.sql(
                "update public.validation_test_results set pass_status = true where test_id = %s", test
            )
        with refused("42501"):
            persona.sql("delete from public.validation_test_results where test_id = %s", test)


@pytest.mark.parametrize(
    ("column", "value", "constraint"),
    [
        ("test_name", " ", "test_name_check"),
        ("test_scenario", " ", "test_scenario_check"),
        ("difficulty_level", 0, "difficulty_level_check"),
        ("difficulty_level", 11, "difficulty_level_check"),
        ("knowledge_types_tested", ["factual", "gossip"], "types_check"),
        ("within_top", 0, "within_top_check"),
        ("within_top", 101, "within_top_check"),
    ],
)
def test_tests_are_checked(world: World, column: str, value: object, constraint: str) -> None:
    ana = world.sign_up("ana")
    test = write_test(ana, "what?")
    with refused("23514", constraint):
        ana.sql(f"update public.knowledge_validation_tests set {column} = %s where id = %s", value, test)


def test_an_item_is_not_both_expected_and_forbidden(world: World) -> None:
    ana = world.sign_up("ana")
    item = ana.record("a")
    with refused("23514", "ids_check"):
        write_test(ana, "what?", expected=[item], forbidden=[item])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pass_status": None}, "pass_status"),
        ({"performance_score": 101}, "performance_score"),
        ({"performance_score": -1}, "performance_score"),
        ({"response_time_seconds": -0.1}, "response_time_seconds"),
        ({"response_time_seconds": 1e9}, "response_time_seconds"),
    ],
)
def test_results_are_checked(world: World, arguments: dict[str, object], message: str) -> None:
    ana = world.sign_up("ana")
    given: dict[str, object] = {"test_id": write_test(ana, "what?"), "pass_status": True}
    with refused("PT400", message):
        ana.rpc("record_validation_result", **{**given, **arguments})
    for retrieved in ({}, {"expected": 1, "forbidden": [], "top": []}):
        with refused("23514", "retrieved_check"):
            ana.sql(
                "insert into public.validation_test_results (test_id, retrieved) values (%s, %s)",
                given["test_id"],
                retrieved,
            )


def test_readers_look_and_touch_nothing(team: Team) -> None:
    test = write_test(team.author, "what?", expected=[team.shared("a")])
    run(team.author, test)
    assert len(team.reader.sql("select 1 from public.knowledge_validation_tests")) == 1
    assert len(team.reader.sql("select 1 from public.validation_test_results")) == 1
    assert len(team.reader.rpc("validation_report")) == 1
    with refused("42501"):
        write_test(team.reader, "what?")
    with refused("42501"):
        run(team.reader, test)
    with refused("42501"):
        team.reader.rpc("record_validation_result", test_id=test, pass_status=True)
    for persona in (team.reader, team.colleague, team.stranger):
        changed = persona.sql(
            "update public.knowledge_validation_tests set within_top = 1 where true returning id"
        )
        gone = persona.sql("delete from public.knowledge_validation_tests where true returning id")
        assert changed == gone == [], persona.name


def test_a_test_that_names_nothing_or_lies_elsewhere_is_not_run(world: World) -> None:
    ana = world.sign_up("ana")
    team = world.workspace("team", owner=ana)
    test = write_test(ana, "what?")
    with refused("PT400", "names no items"):
        run(ana, test)
    here = write_test(ana, "what?", expected=[ana.record("a")])
    with refused("PT400", "another workspace"):
        run(ana.inside(team), here)


# -- running ---------------------------------------------------------------------------------------------------


def test_a_search_passes_when_all_is_found_and_nothing_intrudes(team: Team) -> None:
    good = team.shared("Gateway timeout", "Raise the gateway timeout to 60 seconds.")
    bad = team.shared("Lunch", "Soup on Mondays.")
    test = write_test(team.author, "gateway timeout", expected=[good], forbidden=[bad])
    session = team.colleague.start_session("s")
    row = run(session, test)
    assert row["pass_status"] is True
    assert row["performance_score"] == 100
    assert row["expected"] == [{"knowledge_id": str(good), "rank": 1}]
    assert row["forbidden"] == [{"knowledge_id": str(bad), "rank": None}]
    assert row["retrieved_ids"] == [good]
    assert row["improvement_needed"] is None
    [kept] = team.reader.sql("select * from public.validation_test_results")
    assert kept["id"] == row["result_id"]
    assert (kept["owner_id"], kept["session_id"], kept["workspace_id"]) == (
        team.colleague.id,
        session.session,
        team.id,
    )
    assert kept["retrieved"] == {
        "expected": row["expected"],
        "forbidden": row["forbidden"],
        "top": [str(good)],
    }
    assert float(kept["response_time_seconds"]) >= 0


def test_a_search_fails_by_rank_and_by_intruder_and_says_so(world: World) -> None:
    ana = world.sign_up("ana")
    first = ana.record("gateway timeout gateway timeout", "gateway timeout", importance_score=100)
    second = ana.record(
        "A timeout", "of the gateway, among many other words about it and whatever else there is"
    )
    missing = ana.record("Lunch", "Soup.")
    test = write_test(ana, "gateway timeout", expected=[second, missing], within_top=1)
    row = run(ana, test)
    assert (row["pass_status"], row["performance_score"]) == (False, 0)
    assert [e["rank"] for e in row["expected"]] == [2, None]
    assert row["improvement_needed"] == "2 of 2 expected items are not in the top 1"
    wider = write_test(ana, "gateway timeout", expected=[second, missing], forbidden=[first], within_top=2)
    row = run(ana, wider)
    assert (row["pass_status"], row["performance_score"]) == (False, 33)
    assert row["improvement_needed"] == (
        "1 of 2 expected items are not in the top 2; 1 of 1 forbidden items are in the top 2"
    )
    narrow = write_test(ana, "gateway timeout", forbidden=[second], within_top=1)
    assert run(ana, narrow)["pass_status"] is True, "second is not first"


def test_the_kinds_tested_are_honoured(world: World) -> None:
    ana = world.sign_up("ana")
    how = ana.record("Gateway", "Restart the gateway.", knowledge_type="procedural")
    what = ana.record("Gateway", "The gateway is a proxy.", knowledge_type="factual")
    test = write_test(ana, "gateway", expected=[how], forbidden=[what], types=["procedural"])
    assert run(ana, test)["pass_status"] is True
    ana.sql("update public.knowledge_validation_tests set knowledge_types_tested = null where id = %s", test)
    assert run(ana, test)["pass_status"] is False


def test_the_vector_of_a_scenario_searches_too(world: World) -> None:
    ana = world.sign_up("ana")
    item = ana.record("Other words", "entirely", content_embedding=vector(towards(3)))
    test = write_test(ana, "unheard-of vocabulary", expected=[item])
    assert run(ana, test)["pass_status"] is False
    assert run(ana, test, query_embedding=towards(3))["pass_status"] is True
    with refused("PT422"):
        ana.rpc("run_retrieval_test", test_id=test, query_embedding=[1.0, 2.0])


def test_a_run_sees_what_its_runner_sees(team: Team) -> None:
    pending = team.author.record("Gateway", "Restart the gateway.")
    test = write_test(team.author, "gateway", expected=[pending])
    assert run(team.author, test)["pass_status"] is True
    row = run(team.colleague, test)
    assert row["pass_status"] is False
    assert row["retrieved_ids"] == []


# -- the report ------------------------------------------------------------------------------------------------


def test_the_report_says_what_got_worse(team: Team) -> None:
    item = team.shared("Gateway", "Restart the gateway.")
    breaks = write_test(team.author, "gateway", name="breaks", expected=[item])
    holds = write_test(team.author, "gateway", name="holds", expected=[item])
    never_run = write_test(team.author, "gateway", name="never run", expected=[item])
    for test in (breaks, holds):
        run(team.author, test)
    team.author.rpc("record_validation_result", test_id=holds, pass_status=True, performance_score=100)
    team.maintainer.rpc("validate_knowledge", knowledge_id=item, validation_status="deprecated")
    run(team.author, breaks)
    rows = team.reader.rpc("validation_report")
    assert [row["test_name"] for row in rows] == ["breaks", "holds", "never run"]
    first, second, third = rows
    assert (first["got_worse"], first["last_pass"], first["previous_pass"]) == (True, False, True)
    assert (first["last_score"], first["previous_score"]) == (0, 100)
    assert (first["run_count"], first["pass_count"], first["pass_rate"]) == (2, 1, 0.5)
    assert first["last_improvement_needed"] == "1 of 1 expected items are not in the top 5"
    assert (second["got_worse"], second["pass_rate"]) == (False, 1)
    assert third["test_id"] == never_run
    assert (third["run_count"], third["pass_rate"], third["last_pass"], third["got_worse"]) == (
        0,
        None,
        None,
        False,
    )


def test_a_falling_score_is_worse_and_a_better_one_is_not(world: World) -> None:
    ana = world.sign_up("ana")
    test = write_test(ana, "what?")
    for passed, score, worse in (
        (True, 90, False),
        (True, 80, True),
        (True, 85, False),
        (False, 85, True),
        (True, 10, False),
    ):
        ana.rpc("record_validation_result", test_id=test, pass_status=passed, performance_score=score)
        [row] = ana.rpc("validation_report")
        assert row["got_worse"] is worse, (passed, score)


def test_a_report_since_counts_only_what_came_since(world: World) -> None:
    ana = world.sign_up("ana")
    test, old = write_test(ana, "what?", name="a"), write_test(ana, "what?", name="b")
    for named in (test, old):
        ana.rpc("record_validation_result", test_id=named, pass_status=True)
    moment = ana.value("select clock_timestamp()")
    ana.rpc("record_validation_result", test_id=test, pass_status=False)
    first, second = ana.rpc("validation_report", since=moment)
    assert (first["run_count"], first["pass_rate"], first["previous_pass"], first["got_worse"]) == (
        1,
        0,
        True,
        True,
    )
    assert (second["run_count"], second["last_pass"]) == (0, None)


def test_a_recorded_answer_is_kept_whole(world: World) -> None:
    ana = world.sign_up("ana").start_session("s")
    test = write_test(ana, "what?")
    [row] = ana.rpc(
        "record_validation_result",
        test_id=test,
        pass_status=False,
        performance_score=40,
        ai_response="An answer.",
        response_time_seconds=1.2345,
        evaluator_notes="vague",
        improvement_needed="numbers",
    )
    assert (row["test_name"], row["performance_score"], row["response_time_seconds"]) == ("a test", 40, 1.235)
    [kept] = ana.sql("select * from public.validation_test_results where id = %s", row["result_id"])
    assert (kept["ai_response"], kept["evaluator_notes"], kept["improvement_needed"], kept["session_id"]) == (
        "An answer.",
        "vague",
        "numbers",
        ana.session,
    )


# -- what goes, and what stays ---------------------------------------------------------------------------------


def test_an_erased_item_leaves_the_tests_and_results(team: Team) -> None:
    kept, erased = team.shared("Gateway", "Restart it."), team.shared("Gateway again", "Restart the gateway.")
    test = write_test(team.maintainer, "gateway", expected=[erased, kept])
    other = write_test(team.maintainer, "gateway", forbidden=[erased])
    before = [run(team.maintainer, named) for named in (test, other)]
    assert all(str(erased) in str(row) for row in before)
    team.author.rpc("forget_knowledge", knowledge_id=erased)
    [row] = team.author.sql(
        "select expected_knowledge_ids as ids from public.knowledge_validation_tests where id = %s", test
    )
    assert row["ids"] == [kept]
    after = team.author.sql("select retrieved from public.validation_test_results order by test_executed_at")
    assert [row["retrieved"] for row in after] == [
        {"expected": [before[0]["expected"][1]], "forbidden": [], "top": [str(kept)]},
        {"expected": [], "forbidden": [], "top": [str(kept)]},
    ]
    with refused("PT400", "names no items"):
        run(team.maintainer, other)


def test_results_outlive_session_and_account_and_go_with_their_test(team: Team) -> None:
    session = team.author.start_session("s")
    test = write_test(team.author, "gateway", expected=[team.shared("Gateway")])
    run(session, test)
    team.world.superuser("delete from public.ai_sessions where id = %s", session.session)
    team.world.superuser("delete from auth.users where id = %s", team.author.id)
    [row] = team.colleague.sql("select owner_id, session_id from public.validation_test_results")
    assert row == {"owner_id": None, "session_id": None}
    team.maintainer.sql("delete from public.knowledge_validation_tests where id = %s", test)
    assert team.world.superuser("select 1 from public.validation_test_results") == []


def test_two_who_record_the_same_name_at_once_record_one_test(world: World) -> None:
    ana = world.sign_up("ana")
    item = ana.record("a")
    arguments = {"test_name": "twin", "test_scenario": "what?", "expected_knowledge_ids": [item]}
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda _: ana.inside().rpc("record_validation_test", **arguments)[0], range(8)))
    assert len({row["test_id"] for row in rows}) == 1
    assert [row["outcome"] for row in rows].count("created") == 1


def test_an_answer_counts_half_and_alone_wholly(world: World) -> None:
    ana = world.sign_up("ana")
    item = ana.record("samovar", "The samovar boils at eight.")
    both = write_test(ana, "samovar", expected=[item])
    alone = write_test(ana, "samovar")
    with refused("PT400", "ai_response and answer_passed go together"):
        run(ana, both, ai_response="eight")
    with refused("PT400", "names no items"):
        run(ana, alone)
    for passed, given, of_both, of_alone in (
        (True, 80, 90, 80),
        (False, 51, 75, 51),
        (True, None, 100, 100),
        (False, 100, 99, 99),
    ):
        answer = {"ai_response": "eight", "answer_passed": passed, "answer_score": given}
        first, second = run(ana, both, **answer), run(ana, alone, **answer)
        assert (first["pass_status"], first["performance_score"]) == (passed, of_both)
        assert (second["pass_status"], second["performance_score"]) == (passed, of_alone)
        assert second["retrieved_ids"] == [item], "kept, so that an erased item takes the answer with it"


def test_two_items_of_one_test_are_deleted_at_once(team: Team) -> None:
    items = [team.owner.record(title) for title in ("one", "two", "three")]
    test = write_test(team.owner, "which one", expected=items)
    team.world.service().sql("delete from public.knowledge_items where id = any(%s)", items[:2])
    [left] = team.owner.sql(
        "select expected_knowledge_ids as ids from public.knowledge_validation_tests where id = %s", test
    )
    assert left["ids"] == items[2:]


def test_erasing_an_item_waits_for_the_tests_before_their_results(team: Team) -> None:
    found, item = (
        team.owner.record("found", "the valve opens"),
        team.owner.record("asked", "which valve opens"),
    )
    test = write_test(team.owner, "which valve opens", expected=[item])
    run(team.owner, test)
    results = "select id from public.validation_test_results where strpos(retrieved::text, %s) > 0"
    assert team.world.superuser(results, str(found))
    with ThreadPoolExecutor() as pool:
        with team.maintainer.transaction() as cursor:
            cursor.execute(
                "select from public.knowledge_validation_tests where id = %s for update", (str(test),)
            )
            assert team.owner.connection
            erasing = pool.submit(team.owner.rpc, "forget_knowledge", knowledge_id=found)
            team.world.wait_until_blocked(team.owner)
            assert team.world.superuser(results + " for update nowait", str(found))
        erasing.result(10)
    assert not team.world.superuser(results, str(found))
