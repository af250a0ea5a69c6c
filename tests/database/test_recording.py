"""Recording: idempotent, ordered, counted, all or nothing."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from teams import Team
from world import call, refused, vector

if TYPE_CHECKING:
    from world import World


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"title": "t"}, "item 1: content is missing"),
        ({"title": " ", "content": "c"}, "item 1: title is missing"),
        ({"title": "t", "content": "c", "owner_id": "x"}, "item 1: unknown key owner_id"),
        ({"title": "t", "content": "c", "knowledge_type": "gossip"}, "knowledge_items_type_check"),
        ({"title": "t", "content": "c", "importance_score": 0}, "importance_score_check"),
        ({"title": "t", "content": "c", "content_embedding": "[1,2,3]"}, "3 dimensions"),
    ],
)
def test_a_batch_with_one_bad_item_keeps_none(world: World, item: dict[str, object], message: str) -> None:
    ana = world.sign_up("ana")
    with pytest.raises(Exception, match=message):
        ana.rpc("record_knowledge_batch", items=[{"title": "good", "content": "good"}, item])
    assert ana.value("select count(*) from public.knowledge_items") == 0


def test_a_batch_has_a_limit(world: World) -> None:
    ana = world.sign_up("ana")
    with refused("PT400", "at most 1000"):
        ana.rpc("record_knowledge_batch", items=[{"title": str(i), "content": "c"} for i in range(1001)])


def test_recording_twice_keeps_one(world: World) -> None:
    ana = world.sign_up("ana")
    [first] = ana.rpc("record_knowledge", title="Ports", content="The origin is 54321.")
    [second] = ana.rpc("record_knowledge", title="Ports", content="  The origin\nis 54321. ")
    assert (first["outcome"], second["outcome"]) == ("created", "duplicate")
    assert first["knowledge_id"] == second["knowledge_id"]
    [elsewhere] = ana.rpc(
        "record_knowledge", title="Ports", content="The origin is 54321.", project_context="other"
    )
    assert elsewhere["outcome"] == "created", "the same words about another project are other knowledge"


def test_a_batch_answers_in_order_and_names_its_own_twins(world: World) -> None:
    ana = world.sign_up("ana").start_session("s")
    ana.record("known", "known")
    rows = ana.rpc(
        "record_knowledge_batch",
        items=[{"title": t, "content": t} for t in ("zebra", "known", "apple", "zebra")],
    )
    assert [row["item_index"] for row in rows] == [0, 1, 2, 3]
    assert [row["outcome"] for row in rows] == ["created", "duplicate", "created", "duplicate"]
    assert rows[0]["knowledge_id"] == rows[3]["knowledge_id"]
    order = ana.sql(
        "select title from public.knowledge_items where created_in_session = %s order by session_position",
        ana.session,
    )
    assert [row["title"] for row in order] == ["known", "zebra", "apple"], (
        "the order told, not that of the hashes"
    )


def test_deprecated_text_can_be_recorded_anew(world: World) -> None:
    ana = world.sign_up("ana")
    old = ana.record("Ports", "The origin is 54321.")
    ana.rpc("validate_knowledge", knowledge_id=old, validation_status="deprecated")
    assert ana.record("Ports", "The origin is 54321.") != old


def test_two_at_once_record_one(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("make the workspace")
    other = ana.inside()
    with ThreadPoolExecutor() as pool:
        with ana.transaction() as cursor:
            [first] = call(cursor, "record_knowledge", title="Same", content="Same")
            assert other.connection
            second = pool.submit(other.rpc, "record_knowledge", title="Same", content="Same")
            world.wait_until_blocked(other)
        [row] = second.result(10)
    assert (first["outcome"], row["outcome"]) == ("created", "duplicate")
    assert row["knowledge_id"] == first["knowledge_id"]


def test_a_text_that_is_erased_while_it_is_looked_up_is_recorded(world: World) -> None:
    ana, ben = world.sign_up("ana"), world.sign_up("ben")
    team = world.workspace("team", owner=ana, contributor=ben)
    shared = ana.inside(team).record("Shared", "said")
    ana.inside(team).rpc("validate_knowledge", knowledge_id=shared)
    writer, meanwhile = ben.inside(team), ben.inside(team)
    items: list[object] = [{"title": "Shared", "content": "said"}, {"title": "New", "content": "said"}]
    with ThreadPoolExecutor() as pool:
        with meanwhile.transaction() as cursor:
            call(cursor, "record_knowledge", title="New", content="said")
            assert writer.connection
            written = pool.submit(writer.rpc, "record_knowledge_batch", items=items)
            world.wait_until_blocked(writer)
            ana.inside(team).rpc("forget_knowledge", knowledge_id=shared)
        rows = written.result(10)
    assert [(row["item_index"], row["outcome"]) for row in rows] == [(0, "created"), (1, "duplicate")]
    assert all(ben.inside(team).sees(row["knowledge_id"]) for row in rows)


def test_what_had_ended_holds_again_when_it_is_recorded_again(team: Team) -> None:
    mine = team.author.record("Port", "The port is 54321.", valid_to="2020-01-01")
    theirs = team.shared("Host", "The host is atlas.", valid_to="2020-01-01")
    items: list[object] = [
        {"title": "Port", "content": "The port is 54321.", "valid_to": "2100-01-01"},
        {"title": "Host", "content": "The host is atlas."},
    ]
    rows = team.author.rpc("record_knowledge_batch", items=items)
    assert [(row["knowledge_id"], row["outcome"]) for row in rows] == [
        (mine, "duplicate"),
        (theirs, "duplicate"),
    ]
    assert rows[1]["validation_status"] == "pending", "its author is no maintainer"
    for question in ("port", "host"):
        assert team.author.rpc("search_knowledge", query_text=question)
    assert (
        team.author.value("select valid_to::date::text from knowledge_items where id = %s", mine)
        == "2100-01-01"
    )
    # What is recorded of a time that is over stays over.
    old = team.author.record("Old", "Was so.", valid_to="2020-01-01")
    assert team.author.record("Old", "Was so.", valid_to="2021-01-01") == old
    assert (
        team.author.value("select valid_to::date::text from knowledge_items where id = %s", old)
        == "2020-01-01"
    )
    # Somebody else's that has ended is theirs.
    ended = team.shared("Ended", "Somebody said so.", valid_to="2020-01-01")
    [row] = team.colleague.rpc("record_knowledge", title="Ended", content="Somebody said so.")
    assert (row["outcome"], row["knowledge_id"] == ended) == ("created", False)


def test_renewing_waits_for_the_item_before_it_holds_its_session(team: Team) -> None:
    session = team.author.start_session("a day")
    ended = session.record("Port", "The port is 54321.", valid_to="2020-01-01")
    other = session.record("Host", "The host is atlas.")
    with ThreadPoolExecutor() as pool:
        with team.maintainer.transaction() as cursor:
            cursor.execute("select from public.knowledge_items where id = %s for no key update", (ended,))
            assert session.connection
            renewed = pool.submit(session.rpc, "record_knowledge", title="Port", content="The port is 54321.")
            team.world.wait_until_blocked(session)
            call(cursor, "validate_knowledge", knowledge_id=other)  # takes the session's key
        [row] = renewed.result(10)
    assert (row["knowledge_id"], row["outcome"]) == (ended, "duplicate")
    assert team.author.value("select valid_to from public.knowledge_items where id = %s", ended) is None


def test_resuming_a_session_and_recording_in_it_wait_for_each_other_in_one_order(team: Team) -> None:
    session = team.author.start_session("a day")
    session.rpc("end_session")
    again = team.author.inside(team.id)
    with ThreadPoolExecutor() as pool:
        with session.transaction() as cursor:
            cursor.execute("select private.reserve_session_positions(private.current_session(), 1)")
            assert again.connection
            resumed = pool.submit(again.rpc, "start_session", session_identifier="a day")
            team.world.wait_until_blocked(again)
            call(cursor, "record_knowledge", title="Port", content="The port is 54321.")
        [row] = resumed.result(10)
    assert row["session_id"] == session.session


def test_what_was_to_hold_later_holds_when_it_is_recorded_as_holding(team: Team) -> None:
    mine = team.author.record("Port", "The port is 54321.", valid_from="2100-01-01")
    assert team.author.record("Port", "The port is 54321.", valid_from="2100-01-01") == mine
    assert team.author.rpc("search_knowledge", query_text="port") == []
    assert team.author.record("Port", "The port is 54321.") == mine
    assert len(team.author.rpc("search_knowledge", query_text="port")) == 1
    coming = team.shared("Host", "The host is atlas.", valid_from="2100-01-01")
    assert team.colleague.record("Host", "The host is atlas.") != coming


def test_batches_in_opposite_orders_do_not_deadlock(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("make the workspace")
    items: list[object] = [{"title": f"item {i}", "content": f"item {i}"} for i in range(200)]
    barrier = threading.Barrier(4)

    def write(backwards: bool) -> list[str]:
        me = ana.inside().start_session(str(uuid.uuid4()))
        barrier.wait(10)
        rows = me.rpc("record_knowledge_batch", items=items[::-1] if backwards else items)
        return [row["outcome"] for row in rows]

    with ThreadPoolExecutor(4) as pool:
        outcomes = [o for answer in pool.map(write, [True, False, True, False]) for o in answer]
    assert outcomes.count("created") == 200
    assert ana.value("select count(*) from public.knowledge_items") == 201


def test_a_session_counts_and_orders_what_it_records(world: World) -> None:
    ana = world.sign_up("ana").start_session("s", project_context="kp")
    ana.record("one")
    ana.rpc("record_knowledge_batch", items=[{"title": t, "content": t} for t in ("two", "three")])
    ana.sql("insert into public.knowledge_items (title, content) values ('four', 'four')")
    rows = ana.sql(
        "select title, project_context, created_by from public.knowledge_items order by session_position"
    )
    assert [row["title"] for row in rows] == ["one", "two", "three", "four"]
    assert {row["project_context"] for row in rows} == {"kp"}
    assert {row["created_by"] for row in rows} == {str(ana.session)}
    [done] = ana.rpc("end_session", summary="all recorded")
    assert done["knowledge_items_created"] == 4
    assert (
        ana.value("select count(*) from public.session_knowledge_links where interaction_type = 'created'")
        == 4
    )


def test_a_changed_text_loses_its_vector_and_is_queued(world: World) -> None:
    ana = world.sign_up("ana")
    item = ana.record("One", "One", content_embedding=vector([1.0] + [0.0] * 383))
    assert world.superuser("select 1 from private.embedding_jobs") == []
    ana.sql("update public.knowledge_items set importance_score = 80 where id = %s", item)
    assert ana.value("select content_embedding is not null from public.knowledge_items where id = %s", item)
    ana.sql("update public.knowledge_items set content = 'Two' where id = %s", item)
    row = ana.sql(
        "select content_embedding, embedding_model from public.knowledge_items where id = %s", item
    )[0]
    assert row == {"content_embedding": None, "embedding_model": None}
    assert len(world.superuser("select 1 from private.embedding_jobs where knowledge_id = %s", item)) == 1


def test_sessions_resume_reopen_and_refuse_another_ones_name(world: World) -> None:
    ana = world.sign_up("ana")
    [first] = ana.rpc("start_session", session_identifier="monday", session_metadata={"a": 1})
    [ended] = ana.rpc("end_session", session_identifier="monday", session_quality_score=80, summary="done")
    assert ended["session_duration"].total_seconds() >= 0
    [again] = ana.rpc("end_session", session_identifier="monday")
    assert again["end_time"] == ended["end_time"], "ending is idempotent"
    [resumed] = ana.rpc("start_session", session_identifier="monday", session_metadata={"b": 2})
    assert resumed["resumed"]
    assert resumed["session_id"] == first["session_id"]
    assert resumed["end_time"] is None
    metadata = ana.value("select session_metadata from public.ai_sessions")
    assert metadata == {"a": 1, "b": 2, "summary": "done"}
    with refused("PT404"):
        ana.rpc("end_session", session_identifier="tuesday")
    with refused("PT400", "which session"):
        ana.rpc("end_session")


def test_starting_one_session_twice_at_once_gives_one(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("make the workspace")
    with ThreadPoolExecutor(8) as pool:
        rows = list(
            pool.map(lambda _: ana.inside().rpc("start_session", session_identifier="same")[0], range(8))
        )
    assert len({row["session_id"] for row in rows}) == 1
    assert [row["resumed"] for row in rows].count(False) == 1


def test_first_writes_at_once_make_one_personal_workspace(world: World) -> None:
    ana = world.sign_up("ana")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: ana.inside().record(f"item {i}"), range(8)))
    assert len(ana.rpc("my_workspaces")) == 1


def test_sessions_lie_in_their_month_and_ids_are_not_the_callers(world: World) -> None:
    ana = world.sign_up("ana").start_session("s")
    partition = world.superuser("select tableoid::regclass::text as name from public.ai_sessions")[0]["name"]
    month = world.superuser("select to_char(now() at time zone 'UTC', 'YYYYMM') as m")[0]["m"]
    assert partition == f"private.ai_sessions_{month}"
    with refused("42501"):
        ana.sql("insert into public.ai_sessions (id, session_identifier) values (gen_random_uuid(), 'x')")
    with refused("PT409"):
        ana.inside(None).sql("insert into public.ai_sessions (session_identifier) values ('s')")


def test_a_lookup_by_id_touches_one_partition(world: World) -> None:
    ana = world.sign_up("ana").start_session("s")
    plan = world.superuser(f"explain (costs off) select * from public.ai_sessions where id = '{ana.session}'")
    scanned = [
        row["QUERY PLAN"]
        for row in plan
        if "ai_sessions_" in row["QUERY PLAN"] and " on " in row["QUERY PLAN"]
    ]
    assert len(scanned) == 1, plan


def test_ratings_and_recalls_are_counted_for_everybody(world: World) -> None:
    ana, ben = world.sign_up("ana"), world.sign_up("ben")
    team = world.workspace("team", owner=ana, contributor=ben)
    ana, ben = ana.inside(team), ben.inside(team)
    item = ana.record("Gateway", "Raise the gateway timeout.")
    ana.rpc("validate_knowledge", knowledge_id=item)
    ben = ben.start_session("work")
    for _ in range(3):
        assert ben.rpc("recall_knowledge", query_text="gateway timeout")
    ben.rpc("search_knowledge", query_text="gateway timeout")
    [rated] = ben.rpc("rate_knowledge", knowledge_id=item, effectiveness_rating=9, application_success=True)
    [rated] = ben.rpc("rate_knowledge", knowledge_id=item, effectiveness_rating=6, application_success=False)
    assert rated == {
        "knowledge_id": item,
        "rating_count": 2,
        "average_rating": 7.5,
        "success_count": 1,
        "failure_count": 1,
    }
    assert ana.value("select access_count from public.knowledge_items where id = %s", item) == 3
    [done] = ben.rpc("end_session", session_identifier="work")
    assert done["knowledge_items_accessed"] == 1, "each item once"
    with refused("PT400"):
        ben.rpc("rate_knowledge", knowledge_id=item)
    with refused("PT400"):
        ben.rpc("rate_knowledge", knowledge_id=item, effectiveness_rating=11)


def test_counters_do_not_touch_the_indexes(world: World) -> None:
    """Most updates of counters are HOT: no index, the vectors' among them, gets a new entry."""
    ana = world.sign_up("ana")
    ana.rpc(
        "record_knowledge_batch",
        items=[
            {
                "title": f"lesson {i}",
                "content": f"timeout lesson {i} " + "words " * 40,
                "content_embedding": vector([float(i == j) + 0.01 for j in range(384)]),
            }
            for i in range(200)
        ],
    )
    world.superuser("vacuum full public.knowledge_items")
    for i in range(40):
        ana.rpc("recall_knowledge", query_text=f"timeout lesson {i}", max_results=5)
    ana.sql("select pg_stat_force_next_flush()")
    ana.sql("select 1")  # statistics are flushed between transactions
    [stats] = world.superuser(
        "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'knowledge_items'"
    )
    assert stats["n_tup_upd"] >= 200
    assert stats["n_tup_hot_upd"] >= 0.95 * stats["n_tup_upd"], stats
