"""The log of events: who sees what, nothing skipped, nothing told of what was erased."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from teams import NOBODY, Team
from world import Persona, World, call, refused

DAYS = "select private.prune_knowledge_events(%s::interval)"


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def cursor(persona: Persona) -> int:
    return persona.rpc("knowledge_events_cursor")[0]["event_id"]


def since(persona: Persona, after: int | None, **arguments: Any) -> list[dict[str, Any]]:
    return persona.rpc("knowledge_events_since", after_event=after, **arguments)


def told(persona: Persona, after: int | None, **arguments: Any) -> list[tuple[str, str]]:
    return [(row["subject"], row["what"]) for row in since(persona, after, **arguments)]


def test_nobody_writes_or_reads_what_is_not_theirs(world: World, team: Team) -> None:
    item = team.author.record("A pending thing")
    [event] = since(team.author, None, workspace_id=team.id)[-1:]
    assert event["subject_id"] == item
    for persona in (team.stranger, team.colleague, team.reader):
        assert item not in {row["subject_id"] for row in since(persona, None)}
        assert persona.sql("select 1 from public.knowledge_events where subject_id = %s", item) == []
    with refused("42501"):
        world.anon().rpc("knowledge_events_since")
    with refused("42501"):
        world.anon().sql("select 1 from public.knowledge_events")
    for persona in (team.owner, world.service()):
        for statement in (
            "insert into public.knowledge_events (era, audience, what) values (1, 'members', 'created')",
            "update public.knowledge_events set audience = 'members' where true",
            "delete from public.knowledge_events where true",
        ):
            with refused("42501"):
                persona.sql(statement)
    for workspace in (team.strangers_id, NOBODY):
        with refused("PT403", "workspace_id"):
            since(team.author, None, workspace_id=workspace)
    with refused("42501"):
        team.owner.sql(DAYS, "0 days")
    with refused("42501"):
        team.owner.sql("select private.event_era()")
    with refused("42501"):
        team.author.sql("select private.empty_events(array[%s]::uuid[])", item)


def test_validation_tells_the_workspace_and_its_end_takes_it_back(team: Team) -> None:
    start = cursor(team.owner)
    item = team.author.record("Ports", "Port 54321 is the origin.", project_context="atlas")
    everybody = (team.author, team.maintainer, team.colleague)
    assert [told(one, start) for one in everybody] == [
        [("knowledge", "created")],
        [("knowledge", "created")],
        [],
    ]

    start = cursor(team.owner)
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    [shared] = since(team.colleague, start)
    assert (shared["what"], shared["knowledge_id"]) == ("shared", item)
    assert (shared["project_context"], shared["knowledge_type"]) == ("atlas", "factual")
    assert shared["validation_status"] == "validated"

    start = cursor(team.owner)
    team.author.sql("update public.knowledge_items set content = 'Port 54400.' where id = %s", item)
    [gone] = since(team.colleague, start)
    assert gone["what"] == "gone"
    told_of_it = ("event_id", "subject", "what", "subject_id", "knowledge_id", "workspace_id", "happened_at")
    assert [name for name, value in gone.items() if value is not None] == list(told_of_it)
    assert told(team.author, start) == told(team.maintainer, start) == [("knowledge", "updated")]
    # The audience is that of the moment: the colleague is not told of the change that is not for them.
    assert told(team.colleague, start, types=["factual"]) == [("knowledge", "gone")]


def test_counters_and_vectors_tell_nothing(team: Team) -> None:
    ana = team.author.start_session("counting")
    item = ana.record("Counted")
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    start = cursor(team.owner)
    ana.rpc("recall_knowledge", query_text="counted")
    team.colleague.rpc("rate_knowledge", knowledge_id=item, effectiveness_rating=7)
    team.world.superuser(
        "update public.knowledge_items set content_embedding = %s::extensions.vector,"
        " embedding_model = 'all-MiniLM-L6-v2' where id = %s",
        "[" + ",".join(["1"] * 384) + "]",
        item,
    )
    assert ana.value("select access_count from public.knowledge_items where id = %s", item) == 1
    assert told(team.owner, start) == []
    assert cursor(team.owner) == start


def test_sessions_relationships_records_and_results_are_told(world: World, team: Team) -> None:
    start = cursor(team.owner)
    ana = team.author.start_session("monday", project_context="atlas")
    ana.rpc("end_session", summary="done")
    assert (
        told(ana, start) == told(team.owner, start) == [("session", "created"), *[("session", "updated")] * 2]
    )
    assert told(team.colleague, start) == []
    assert {row["session_id"] for row in since(ana, start)} == {ana.session}

    ana.rpc(
        "record_gotcha", problem_signature="E1", problem_description="It broke", working_solution="Mend it"
    )
    [gotcha] = since(team.author, start, types=["gotcha"])
    assert (gotcha["record_kind"], gotcha["session_id"]) == ("gotcha", ana.session)

    one, two = team.author.record("One"), team.author.record("Two")
    start = cursor(team.owner)
    relate = {"source_knowledge_id": one, "target_knowledge_id": two, "relationship_type": "builds_upon"}
    team.author.rpc("relate_knowledge", **relate)
    assert told(team.colleague, start) == []
    [related] = since(team.author, start)
    assert (related["knowledge_id"], related["related_id"]) == (one, two)
    assert (related["subject"], related["knowledge_type"]) == ("relationship", "builds_upon")

    for item in (one, two):
        team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    start = cursor(team.owner)
    team.author.sql(
        "update public.knowledge_relationships set strength = 0.5 where id = %s", related["subject_id"]
    )
    assert told(team.colleague, start) == [("relationship", "updated")]
    start = cursor(team.owner)
    team.author.sql(
        "update public.knowledge_relationships set strength = 0.5 where id = %s", related["subject_id"]
    )
    world.superuser("update public.knowledge_relationships set discovered_in_session = null where true")
    assert told(team.colleague, start) == []
    team.author.sql("delete from public.knowledge_relationships where id = %s", related["subject_id"])
    assert told(team.colleague, start) == [("relationship", "gone")]

    [test] = team.author.sql(
        "insert into public.knowledge_validation_tests (workspace_id, test_name, test_scenario)"
        " values (%s, 'one', 'what is one?') returning id",
        team.id,
    )
    start = cursor(team.owner)
    team.author.sql(
        "insert into public.validation_test_results (test_id, pass_status) values (%s, true)", test["id"]
    )
    [result] = since(team.colleague, start)
    assert (result["subject"], result["related_id"]) == ("validation_result", test["id"])


def test_what_commits_late_is_never_skipped(world: World, team: Team) -> None:
    """Three transactions, whose events' ids, transactions' numbers and commits are in three different orders."""
    reader = team.owner
    start = cursor(reader)
    first, second, third = (team.author.inside(team.id) for _ in range(3))

    def write(cursor: psycopg.Cursor[Any], title: str) -> uuid.UUID:
        return call(cursor, "record_knowledge", title=title, content=title)[0]["knowledge_id"]

    with first.transaction() as one:
        one.execute("select pg_current_xact_id()")  # the lowest number, and nothing written yet
        with second.transaction() as two:
            middle = write(two, "middle")
            late = write(one, "late")  # a higher id, a lower number
            with third.transaction() as three:
                early = write(three, "early")
            # The third has committed. Whoever read it now, and went on after it, would skip the others.
            assert since(reader, start) == []
            assert cursor(reader) == start
        assert since(reader, start) == []
        ids = [
            row["id"]
            for row in world.superuser("select id from public.knowledge_events order by id desc limit 2")
        ]
        assert ids == sorted(ids, reverse=True)
    seen = since(reader, start)
    assert [row["knowledge_id"] for row in seen] == [late, middle, early]
    assert [row["event_id"] for row in seen] != sorted(row["event_id"] for row in seen)
    # Page by page it is the same: a cursor is a place in the log, not a number that others are compared with.
    walked, place = [], start
    while page := since(reader, place, max_events=1):
        walked.append(page[0]["knowledge_id"])
        place = page[0]["event_id"]
    assert walked == [late, middle, early]
    assert cursor(reader) == place


def test_a_transaction_that_failed_holds_nothing_back(team: Team) -> None:
    start = cursor(team.owner)
    with team.author.inside(team.id).transaction() as one:
        call(one, "record_knowledge", title="never", content="never")
        raise psycopg.Rollback
    kept = team.author.record("kept")
    assert [row["knowledge_id"] for row in since(team.author, start)] == [kept]


def test_erasure_leaves_bare_events_and_cursors_stay(world: World, team: Team) -> None:
    item = team.author.record("A secret name", project_context="atlas")
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    place = cursor(team.owner)
    team.author.rpc("forget_knowledge", knowledge_id=item)
    [gone] = since(team.colleague, place)  # its cursor was one of the events that are empty now
    assert (gone["what"], gone["knowledge_id"], gone["project_context"]) == ("gone", item, None)
    rows = world.superuser(
        "select what, subject_id, project_context from public.knowledge_events order by id"
    )
    assert [row for row in rows if row["project_context"] == "atlas"] == []
    assert [row["what"] for row in rows if row["subject_id"] == item] == ["gone"]
    assert [row["what"] for row in rows].count("erased") == 2

    place = cursor(team.owner)
    hidden = team.author.record("Hidden")
    team.author.rpc("forget_knowledge", knowledge_id=hidden)
    assert told(team.colleague, place) == []
    assert told(team.maintainer, place) == [("knowledge", "gone")]


def test_a_deleted_workspace_and_a_deleted_user_leave_no_events(world: World, team: Team) -> None:
    session = team.author.start_session("last")
    session.record("Something")
    place = cursor(team.author)
    team.owner.rpc("delete_workspace", workspace_id=team.id)
    left = world.superuser(
        "select count(*)::int as n from public.knowledge_events where workspace_id = %s", team.id
    )
    assert left == [{"n": 0}]
    assert since(team.author.inside(), place) == []

    stranger = team.stranger.inside(team.strangers_id).start_session("strange")
    stranger.record("Mine")
    personal = team.stranger.inside().record("At home")
    world.superuser("delete from auth.users where id = %s", team.stranger.id)
    rows = world.superuser("select * from public.knowledge_events")
    assert rows
    assert not [row for row in rows if team.stranger.id in row.values() or personal in row.values()]
    assert not [row for row in rows if row["subject_id"] == stranger.session and row["what"] != "gone"]


def test_retention_takes_the_beginning_and_says_so(world: World, team: Team) -> None:
    service = world.service()
    items = [team.author.record(f"number {number}") for number in range(4)]
    events = [row["event_id"] for row in since(team.author, None) if row["knowledge_id"] in items]
    world.superuser(
        "update public.knowledge_events set happened_at = now() - interval '40 days' where id <= %s",
        events[2],
    )
    # One of those in the middle is young: nothing after it goes, for it lies after somebody's cursor.
    world.superuser("update public.knowledge_events set happened_at = now() where id = %s", events[1])
    assert service.value(DAYS, "30 days") > 0
    assert [row["event_id"] for row in since(team.author, None)] == events[1:]
    with refused("PT410", "not in the log any more"):
        since(team.author, events[0])
    with refused("PT410"):
        since(team.author, events[-1] + 1000)
    assert [row["event_id"] for row in since(team.author, events[1])] == events[2:]
    # The last one stays, whatever its age: whoever has read everything has a cursor still.
    assert service.value(DAYS, "0 days") == 2
    assert since(team.author, events[-1]) == []
    with refused("PT400"):
        service.sql(DAYS, None)


def test_maintenance_prunes_the_log(world: World, team: Team) -> None:
    team.author.record("old")
    young = team.author.record("young")
    world.superuser(
        "update public.knowledge_events set happened_at = now() - interval '31 days' where subject_id <> %s",
        young,
    )
    [told] = [row for row in world.service().rpc("run_maintenance") if row["task"] == "event_log"]
    assert (told["outcome"], told["detail"]) == ("done", "1 events older than 30 days deleted")
    assert [row["subject_id"] for row in since(team.author, None)] == [young]


@pytest.mark.parametrize("max_events", [0, -1, 1001, None])
def test_a_page_has_bounds(team: Team, max_events: int | None) -> None:
    with refused("PT400", "max_events"):
        team.author.rpc("knowledge_events_since", max_events=max_events)


def test_a_log_that_was_restored_elsewhere_goes_on(world: World, team: Team) -> None:
    team.author.record("Before")
    place = cursor(team.author)
    # What a restored log looks like: another cluster's name, and transactions of numbers that are yet to come here.
    world.superuser("update private.event_clock set system_identifier = 1 where true")
    world.superuser(
        "update public.knowledge_events set transaction_id = (pg_current_xact_id()::text::bigint + 1000000 + id)"
        "::text::xid8 where true"
    )
    assert cursor(team.author) == place
    assert since(team.author, None)
    after = team.author.record("After")
    assert [row["knowledge_id"] for row in since(team.author, place)] == [after]
    last = team.author.record("And after")
    assert [row["knowledge_id"] for row in since(team.author, place)] == [after, last]
    assert since(team.author, None)[-1]["knowledge_id"] == last


def test_reading_goes_by_index_however_much_others_write(world: World, team: Team) -> None:
    world.superuser(
        "insert into public.knowledge_events (era, workspace_id, audience, subject, what, subject_id)"
        " select 1, %s, 'members', 'knowledge', 'created', gen_random_uuid() from generate_series(1, 20000)",
        team.strangers_id,
    )
    world.superuser("analyze public.knowledge_events")
    mine = team.author.record("Mine")
    with team.author.transaction() as one:
        plan = one.execute(
            "explain (format text) select * from public.knowledge_events k"
            " where k.workspace_id = %s and (k.era, k.transaction_id, k.id) > (1, '3'::xid8, 7)"
            " order by k.era, k.transaction_id, k.id limit 10",
            [team.id],
        ).fetchall()
    text = "\n".join(str(line) for row in plan for line in row.values())
    assert "Index Scan using knowledge_events_workspace_id_idx" in text
    assert "ROW(era, transaction_id, id) > ROW(1, '3'::xid8, 7)" in text.split("Filter")[0]
    assert "Sort" not in text
    last = world.superuser(
        "explain select id from public.knowledge_events order by era + 0 desc, transaction_id desc, id desc limit 1"
    )
    assert "Index Scan Backward using knowledge_events_order_idx" in str(last)
    assert mine in {row["knowledge_id"] for row in since(team.author, None, max_events=5)}
