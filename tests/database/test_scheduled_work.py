"""Scheduled work: who schedules what, what is handed to the worker, and under whose eyes it does it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from teams import NOBODY, Team
from world import refused

if TYPE_CHECKING:
    import uuid

    from world import Persona, World

DAY = dt.timedelta(days=1)


@pytest.fixture
def team(world: World) -> Team:
    team = Team(world)
    # Nothing but what a test schedules itself.
    world.superuser("update private.discovery_schedules set run_every = null, next_run_at = null where true")
    return team


def write_test(persona: Persona, *expected: uuid.UUID, criteria: str | None = None) -> uuid.UUID:
    [row] = persona.rpc(
        "record_validation_test",
        test_name="a test",
        test_scenario="what about the gateway?",
        expected_knowledge_ids=list(expected) or None,
        pass_criteria=criteria,
    )
    return row["test_id"]


def schedule(persona: Persona, test: uuid.UUID, every: dt.timedelta | None = DAY) -> dict[str, Any]:
    [row] = persona.rpc("schedule_validation_test", test_id=test, run_every=every)
    return row


def let_time_pass(world: World) -> None:
    for table in ("public.knowledge_validation_tests", "private.discovery_schedules"):
        world.superuser(
            f"update {table} set next_run_at = now() - interval '1 second' where next_run_at is not null"
        )


def claim(world: World, **arguments: object) -> list[dict[str, Any]]:
    return world.service().rpc("claim_due_work", **arguments)


# -- what must fail --------------------------------------------------------------------------------------------


def test_only_the_service_takes_and_ends_scheduled_work(team: Team) -> None:
    schedule(team.author, write_test(team.author, team.shared("Gateway")))
    let_time_pass(team.world)
    for persona in [team.world.anon(), *team.everybody()]:
        with refused("42501"):
            persona.rpc("claim_due_work")
        with refused("42501"):
            persona.rpc("finish_due_work", workspace_id=team.id)
    assert len(claim(team.world)) == 1


def test_a_schedule_is_written_by_who_may_edit_the_test(team: Team) -> None:
    test = write_test(team.author, team.shared("Gateway"))
    for persona in (team.colleague, team.reader):
        with refused("PT403"):
            schedule(persona, test)
    answers = set()
    for persona, named in ((team.stranger, test), (team.stranger, NOBODY), (team.author, NOBODY)):
        with refused("PT404") as caught:
            schedule(persona, named)
        answers.add(str(caught.value).splitlines()[0])
    assert answers == {"no such validation test"}
    for column, value in (("next_run_at", "2020-01-01"), ("run_failure", "none of it")):
        with refused("42501"):
            team.author.sql(
                f"update public.knowledge_validation_tests set {column} = %s where id = %s", value, test
            )
    assert schedule(team.maintainer, test)["run_every"] == DAY


@pytest.mark.parametrize("every", ["59 minutes", "367 days", "1 month", "-1 day"])
def test_an_interval_has_bounds_and_a_length(team: Team, every: str) -> None:
    test = write_test(team.author, team.shared("Gateway"))
    with refused("PT400", "run_every"):
        team.author.rpc("schedule_validation_test", test_id=test, run_every=every)
    with refused("23514", "run_every_check"):
        team.author.sql(
            "update public.knowledge_validation_tests set run_every = %s where id = %s", every, test
        )
    with refused("PT400", "run_every"):
        team.maintainer.rpc("schedule_discovery", run_every=every)


def test_what_only_a_model_could_judge_is_not_scheduled(team: Team) -> None:
    test = write_test(team.author, criteria="It rhymes.")
    with refused("PT400", "names no items"):
        schedule(team.author, test)
    schedule(team.author, test, None)


def test_looking_for_relationships_is_scheduled_by_maintainers(team: Team) -> None:
    for persona in (team.author, team.reader):
        with refused("PT403", "only maintainers"):
            persona.rpc("schedule_discovery", run_every=DAY)
    with refused("PT403"):
        team.stranger.inside(team.id).rpc("schedule_discovery", run_every=DAY)
    agent = team.world.as_user(team.owner.id, claims={"kp_workspace": str(team.id)})
    with refused("PT403", "no administration"):
        agent.rpc("schedule_discovery", run_every=DAY)
    with refused("42501"):
        team.owner.sql("select 1 from private.discovery_schedules")
    [row] = team.maintainer.rpc("schedule_discovery", run_every=dt.timedelta(hours=36))
    assert (row["workspace_id"], row["run_every"]) == (team.id, dt.timedelta(hours=36))
    assert team.maintainer.rpc("schedule_discovery")[0]["next_run_at"] is None


# -- what is due -----------------------------------------------------------------------------------------------


def test_a_scheduled_test_is_due_after_its_interval_and_again(team: Team) -> None:
    test = write_test(team.author, team.shared("Gateway"))
    planned = schedule(team.author, test)
    assert claim(team.world) == [], "not yet"
    let_time_pass(team.world)
    [work] = claim(team.world)
    assert work == {
        "task": "validation_test",
        "workspace_id": team.id,
        "test_id": test,
        "user_id": team.author.id,
        "embedding_model": "all-MiniLM-L6-v2",
    }
    assert claim(team.world) == [], "it is leased"
    let_time_pass(team.world)
    assert len(claim(team.world)) == 1, "whoever had it is gone"
    team.world.service().rpc("finish_due_work", workspace_id=team.id, test_id=test)
    [kept] = team.reader.rpc("list_validation_tests")
    assert kept["next_run_at"] >= planned["next_run_at"]
    assert claim(team.world) == []


def test_what_could_not_be_done_is_told_and_tried_again_within_the_hour(team: Team) -> None:
    test = write_test(team.author, team.shared("Gateway"))
    before = schedule(team.author, test)["next_run_at"]
    let_time_pass(team.world)
    claim(team.world)
    service = team.world.service()
    service.rpc("finish_due_work", workspace_id=team.id, test_id=test, failure="the model is away")
    [kept] = team.reader.rpc("list_validation_tests")
    assert kept["run_failure"] == "the model is away"
    assert kept["next_run_at"] < before - dt.timedelta(hours=22)
    numbers = {
        (row["metric"], row["labels"]["task"]): row["value"]
        for row in service.sql(
            "select metric, labels, value from public.operations_metrics where metric like 'kp_scheduled%'"
        )
    }
    assert numbers["kp_scheduled_work", "validation_test"] == 1
    assert numbers["kp_scheduled_work_failed", "validation_test"] == 1
    assert numbers["kp_scheduled_work_late_seconds", "validation_test"] == 0
    schedule(team.author, test, None)
    [kept] = team.reader.rpc("list_validation_tests")
    assert (kept["next_run_at"], kept["run_failure"]) == (None, None)
    service.rpc("finish_due_work", workspace_id=team.id, test_id=test)
    let_time_pass(team.world)
    assert claim(team.world) == [], "who ends it late schedules nothing"


def test_a_test_waits_for_a_worker_with_its_model(team: Team) -> None:
    schedule(team.author, write_test(team.author, team.shared("Gateway")))
    let_time_pass(team.world)
    assert claim(team.world, embedding_models=["another"]) == []
    [late] = team.world.service().sql(
        "select value from public.operations_metrics"
        " where metric = 'kp_scheduled_work_late_seconds' and labels ->> 'task' = 'validation_test'"
    )
    assert late["value"] > 0
    assert len(claim(team.world, embedding_models=["another", "all-MiniLM-L6-v2"])) == 1


def test_who_has_left_lends_no_eyes(team: Team) -> None:
    schedule(team.author, write_test(team.author, team.shared("Gateway")))
    let_time_pass(team.world)
    team.owner.rpc("remove_workspace_member", workspace_id=team.id, user_id=team.author.id)
    assert claim(team.world)[0]["user_id"] is None


def test_two_workers_take_two_pieces(team: Team) -> None:
    first, second = (team.world.service().inside() for _ in range(2))
    schedule(team.author, write_test(team.author, team.shared("Gateway")))
    schedule(team.colleague, write_test(team.colleague, team.shared("Proxy")))
    let_time_pass(team.world)
    with first.transaction() as cursor:
        cursor.execute("select test_id from public.claim_due_work()")
        [held] = cursor.fetchall()
        [other] = second.rpc("claim_due_work")
        assert other["test_id"] != held["test_id"]
        assert second.rpc("claim_due_work") == []


def test_relationships_are_looked_for_daily_in_every_workspace_as_an_owner(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("first write, which makes the workspace")
    shared = world.workspace("team", owner=world.sign_up("ben"), contributor=[ana])
    rows = world.superuser(
        "select run_every, next_run_at - now() between interval '23 hours' and interval '1 day' as tomorrow"
        " from private.discovery_schedules"
    )
    assert rows == [{"run_every": DAY, "tomorrow": True}] * 2
    let_time_pass(world)
    found = {work["workspace_id"]: work["user_id"] for _ in range(2) for work in claim(world)}
    personal = ana.value("select workspace_id from public.my_workspaces() where is_personal")
    assert found.keys() == {personal, shared}
    assert (found[personal], found[shared] != ana.id) == (ana.id, True)
    for workspace in found:
        world.service().rpc("finish_due_work", workspace_id=workspace)
    assert claim(world) == []
    assert (
        world.superuser(
            "select 1 from private.discovery_schedules where next_run_at < now() + interval '23 hours'"
        )
        == []
    )
