"""History: who changed what of an item, what takes whose place, and erasure that leaves nothing behind."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from teams import NOBODY, Team
from world import call, refused, vector

if TYPE_CHECKING:
    from world import Persona, World


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def supersede(persona: Persona, item: uuid.UUID, replacement: uuid.UUID | None) -> dict[str, object]:
    [row] = persona.rpc("supersede_knowledge", knowledge_id=item, replacement_id=replacement)
    return row


def traces(world: World, word: str) -> list[str]:
    """Every column of a table of this project that holds the word, or a stem of it."""
    columns = world.superuser(
        "select c.oid::regclass::text as name, quote_ident(a.attname) as field, a.atttypid::regtype::text as type"
        " from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
        " where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p')"
        " and not c.relispartition"
    )
    assert {"tsvector", "text", "jsonb", "text[]", "character varying"} <= {row["type"] for row in columns}
    return [
        f"{row['name']}.{row['field']}"
        for row in columns
        if world.superuser(
            f"select 1 from {row['name']} where {row['field']}::text ilike '%%' || %s || '%%' limit 1", word
        )
    ]


# What is left of an erased item: the event that says that this id is gone.
BARE_EVENT = {"knowledge_events.subject_id", "knowledge_events.knowledge_id"}


# -- what must fail --------------------------------------------------------------------------------------------


def test_anon_sees_and_calls_nothing(team: Team) -> None:
    item = team.shared("a")
    anon = team.world.anon()
    for act in (
        lambda: anon.sql("select * from public.knowledge_status_history"),
        lambda: supersede(anon, item, None),
        lambda: anon.rpc("forget_knowledge", knowledge_id=item),
    ):
        with refused("42501"):
            act()


def test_a_foreign_item_and_no_item_answer_alike(team: Team) -> None:
    own = team.stranger.record("mine")
    pending, shared = team.author.record("pending"), team.shared("shared")
    for persona, foreign in (
        (team.stranger, shared),
        (team.stranger, pending),
        (team.colleague, pending),
        (team.reader, pending),
    ):
        answers = set()
        for item in (foreign, NOBODY):
            for act in (
                lambda p, i: p.rpc("forget_knowledge", knowledge_id=i),
                lambda p, i: supersede(p, i, None),
                lambda p, i: supersede(p, i, i),
                lambda p, i: supersede(p, i, own if p is team.stranger else shared),
                lambda p, i: supersede(p, own if p is team.stranger else shared, i),
            ):
                with refused("PT404") as caught:
                    act(persona, item)
                answers.add(str(caught.value).splitlines()[0])
            assert (
                persona.sql("select 1 from public.knowledge_status_history where knowledge_id = %s", item)
                == []
            )
        assert answers == {"no such knowledge item"}
    assert team.author.sees(pending)
    assert team.author.sees(shared)


def test_what_one_reads_one_may_not_erase_or_supersede(team: Team) -> None:
    item, other = team.shared("shared"), team.shared("other")
    for persona in (team.colleague, team.reader):
        with refused("PT403"):
            persona.rpc("forget_knowledge", knowledge_id=item)
        with refused("PT403"):
            supersede(persona, item, other)
        with refused("PT403"):
            supersede(persona, item, None)
        with refused("42501"):
            persona.sql("delete from public.knowledge_items where id = %s", item)
        with refused("42501"):
            persona.sql("update public.knowledge_items set superseded_by = %s where id = %s", other, item)
    with refused("PT403"):
        supersede(team.author, item, other)  # the workspace trusts it: it is no longer its author's alone
    assert team.author.value("select count(*) from public.knowledge_items where superseded_by is null") == 2


def test_the_trail_is_written_by_nobody(team: Team) -> None:
    item = team.shared("a")
    for persona in (team.owner, team.author, team.world.service()):
        for query in (
            "insert into public.knowledge_status_history (knowledge_id, change, to_status) values (%s, 'status', 'x')",
            "update public.knowledge_status_history set note = 'x' where knowledge_id = %s",
            "delete from public.knowledge_status_history where knowledge_id = %s",
        ):
            with refused("42501"):
                persona.sql(query, item)


def test_what_cannot_take_a_place(team: Team) -> None:
    shared, pending, gone = team.shared("shared"), team.author.record("pending"), team.shared("gone")
    team.maintainer.rpc("validate_knowledge", knowledge_id=gone, validation_status="deprecated")
    with refused("PT400", "itself"):
        supersede(team.maintainer, shared, shared)
    with refused("PT409", "validate the replacement"):
        supersede(team.maintainer, shared, pending)
    with refused("PT409", "deprecated"):
        supersede(team.maintainer, shared, gone)
    elsewhere = team.owner.inside(None).record("in the owner's own workspace")
    with refused("PT400", "two workspaces"):
        supersede(team.owner, shared, elsewhere)


def test_what_holds_is_not_replaced_by_what_does_not(team: Team) -> None:
    item, coming = team.shared("now"), team.shared("coming", valid_from="2100-01-01")
    with refused("PT409", "does not hold now"):
        team.maintainer.rpc("supersede_knowledge", knowledge_id=item, replacement_id=coming)
    item = team.author.record("said twice", valid_to="2020-01-01")
    twin = team.colleague.record("said twice")
    [done] = team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    assert done["merged_ids"] == []
    [done] = team.maintainer.rpc("validate_knowledge", knowledge_id=twin)
    assert done["merged_ids"] == [item]


def test_what_was_erased_meanwhile_is_not_decided_on(team: Team) -> None:
    for function, arguments in (
        ("validate_knowledge", {}),
        ("edit_knowledge", {"changes": {"content": "other"}}),
    ):
        item = team.owner.record(f"for {function}")
        with ThreadPoolExecutor() as pool:
            with team.owner.transaction() as cursor:
                call(cursor, "forget_knowledge", knowledge_id=item)
                assert team.maintainer.connection
                asked = pool.submit(team.maintainer.rpc, function, knowledge_id=item, **arguments)
                team.world.wait_until_blocked(team.maintainer)
            with refused("PT404"):
                asked.result(10)


def test_no_circle_of_supersessions(world: World) -> None:
    ana = world.sign_up("ana")
    a, b, c = (ana.record(title) for title in ("alpha", "beta", "gamma"))
    supersede(ana, a, b)
    supersede(ana, b, c)
    for first, second in ((b, a), (c, a), (c, b)):
        with refused("PT409", "itself superseded"):
            supersede(ana, first, second)


def test_two_supersessions_at_once_make_no_circle(world: World) -> None:
    ana = world.sign_up("ana")
    a, b, c, d = (ana.record(title) for title in "abcd")
    supersede(ana, b, c)
    supersede(ana, d, a)
    other = ana.inside()
    assert other.connection
    with ThreadPoolExecutor() as pool:
        with ana.transaction() as cursor:
            call(cursor, "supersede_knowledge", knowledge_id=a, replacement_id=b)
            second = pool.submit(supersede, other, c, d)
            world.wait_until_blocked(other)
        with refused("PT409", "itself superseded"):
            second.result(10)


def test_validating_what_is_superseded_by_its_twin_makes_no_circle(team: Team) -> None:
    mine, hers = team.author.record("Same", "text"), team.colleague.record("Same", "text")
    supersede(team.maintainer, mine, hers)
    [done] = team.maintainer.rpc("validate_knowledge", knowledge_id=mine)
    assert done["merged_ids"] == []
    assert (
        team.maintainer.value("select superseded_by from public.knowledge_items where id = %s", hers) is None
    )


# -- the trail -------------------------------------------------------------------------------------------------


def test_every_change_of_status_is_written_down(team: Team) -> None:
    item = team.author.record("Ports", "The port is 1.")
    team.maintainer.rpc("validate_knowledge", knowledge_id=item, note="checked")
    team.owner.rpc("validate_knowledge", knowledge_id=item, validation_status="needs_update", note="moved")
    team.author.sql("update public.knowledge_items set content = 'The port is 2.' where id = %s", item)
    team.maintainer.sql(
        "update public.knowledge_items set validation_status = 'validated', validation_note = 'by hand' where id = %s",
        item,
    )
    team.colleague.rpc("recall_knowledge", query_text="port")
    team.maintainer.sql("update public.knowledge_items set importance_score = 9 where id = %s", item)
    rows = team.reader.sql(
        "select change, from_status, to_status, note, changed_by from public.knowledge_status_history"
        " where knowledge_id = %s order by id",
        item,
    )
    assert [tuple(row.values()) for row in rows] == [
        ("status", "pending", "validated", "checked", team.maintainer.id),
        ("status", "validated", "needs_update", "moved", team.owner.id),
        ("status", "needs_update", "pending", "edited", team.author.id),
        ("status", "pending", "validated", "by hand", team.maintainer.id),
    ]
    assert team.stranger.sql("select 1 from public.knowledge_status_history") == []


def test_every_column_that_can_end_trust_tells_of_it(team: Team) -> None:
    item = team.shared("Stemmed")
    cursor = team.colleague.value("select max(id) from public.knowledge_events")
    team.author.sql("update public.knowledge_items set text_search_config = 'simple' where id = %s", item)
    assert not team.colleague.sees(item)
    [last] = team.author.sql(
        "select to_status from public.knowledge_status_history where knowledge_id = %s order by id desc limit 1",
        item,
    )
    assert last["to_status"] == "pending"
    gone = "select what from public.knowledge_events where id > %s and subject_id = %s order by id"
    assert [row["what"] for row in team.colleague.sql(gone, cursor, item)] == ["gone"]


def test_what_is_recorded_as_validated_is_written_down_too(team: Team) -> None:
    team.owner.sql(
        "insert into public.knowledge_items (title, content, validation_status) values ('t', 'c', 'validated')"
    )
    [row] = team.reader.sql("select from_status, to_status, changed_by from public.knowledge_status_history")
    assert row == {"from_status": None, "to_status": "validated", "changed_by": team.owner.id}


def test_the_trail_outlives_who_made_it(team: Team) -> None:
    item = team.shared("a")
    team.world.superuser("delete from auth.users where id = %s", team.maintainer.id)
    [row] = team.author.sql(
        "select to_status, changed_by from public.knowledge_status_history where knowledge_id = %s", item
    )
    assert row == {"to_status": "validated", "changed_by": None}


# -- what it was at a moment -----------------------------------------------------------------------------------


def at(persona: Persona, moment: object, *items: uuid.UUID) -> dict[uuid.UUID, dict[str, object]]:
    rows = persona.sql("select * from private.status_at(%s, %s)", moment, list(items))
    return {row.pop("knowledge_id"): row for row in rows}


def test_what_one_may_not_see_was_nothing_at_any_moment(team: Team) -> None:
    item = team.author.record("pending")
    for persona in (team.colleague, team.reader, team.stranger):
        assert at(persona, "2100-01-01", item, NOBODY) == {}
    with refused("42501"):
        at(team.world.anon(), "2100-01-01", item)


def test_an_item_is_at_each_moment_what_it_was_then(team: Team) -> None:
    def moment() -> object:
        return team.world.superuser("select clock_timestamp() as now")[0]["now"]

    before = moment()
    old = team.author.record("old", valid_to="2100-01-01")
    new = team.author.record("new", valid_from="2020-01-01")
    recorded = moment()
    for item in (old, new):
        team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    validated = moment()
    supersede(team.maintainer, old, new)
    superseded = moment()
    supersede(team.maintainer, old, None)
    team.maintainer.rpc("validate_knowledge", knowledge_id=old, validation_status="deprecated")
    deprecated = moment()

    def was(when: object) -> tuple[object, ...]:
        row = at(team.reader, when, old, new)[old]
        return (row["existed"], row["validation_status"], row["superseded_by"], row["in_force"])

    assert was(before)[0] is False
    assert was(before)[3] is False
    assert was(recorded) == (True, "pending", None, True)
    assert was(validated) == (True, "validated", None, True)
    assert was(superseded) == (True, "validated", new, False)
    assert was(deprecated) == (True, "deprecated", None, False)
    # The replacement's validity began long before it was recorded: so did the end of the old one's, once known.
    assert str(at(team.reader, validated, old)[old]["valid_to"]).startswith("2100")
    assert str(at(team.reader, superseded, old)[old]["valid_to"]).startswith("2020")
    assert at(team.reader, "2101-01-01", new)[new]["in_force"] is True
    assert at(team.reader, "2019-01-01", new)[new]["in_force"] is False


# -- supersession ----------------------------------------------------------------------------------------------


def test_a_superseded_item_leaves_retrieval_and_comes_back(team: Team) -> None:
    old, new = team.shared("Old gateway", "Use gateway one."), team.shared("New gateway", "Use gateway two.")
    done = supersede(team.maintainer, old, new)
    assert (done["outcome"], done["superseded_by"]) == ("superseded", new)
    assert done["valid_to"] is not None
    assert supersede(team.maintainer, old, new)["outcome"] == "unchanged"
    found = team.colleague.rpc("search_knowledge", query_text="gateway")
    assert [row["knowledge_id"] for row in found] == [new]
    assert team.colleague.sees(old), "readable, as history"
    undone = supersede(team.maintainer, old, None)
    assert (undone["outcome"], undone["superseded_by"], undone["valid_to"]) == ("restored", None, None)
    assert supersede(team.maintainer, old, None)["outcome"] == "unchanged"
    assert len(team.colleague.rpc("search_knowledge", query_text="gateway")) == 2
    assert (
        team.colleague.value("select validation_status from public.knowledge_items where id = %s", old)
        == "validated"
    )
    trail = team.reader.sql(
        "select change, superseded_by from public.knowledge_status_history where change <> 'status' order by id"
    )
    assert [tuple(row.values()) for row in trail] == [("superseded", new), ("restored", None)]


def test_undo_restores_the_validity_from_before_the_first_of_several(world: World) -> None:
    ana = world.sign_up("ana")
    old = ana.record("old", valid_from="2020-01-01", valid_to="2100-01-01")
    first = ana.record("first", valid_from="2021-01-01")
    second = ana.record("second", valid_from="2022-01-01")
    assert str(supersede(ana, old, first)["valid_to"]).startswith("2021-01-01")
    assert str(supersede(ana, old, second)["valid_to"]).startswith("2021-01-01")
    assert str(supersede(ana, old, None)["valid_to"]).startswith("2100-01-01")
    supersede(ana, old, first)
    ana.sql("update public.knowledge_items set valid_to = '2020-06-01' where id = %s", old)
    assert str(supersede(ana, old, None)["valid_to"]).startswith("2020-06-01"), (
        "what somebody set since stays"
    )


def test_an_item_that_had_not_begun_keeps_its_validity(world: World) -> None:
    ana = world.sign_up("ana")
    future, new = ana.record("future", valid_from="2100-01-01"), ana.record("new")
    assert supersede(ana, future, new)["valid_to"] is None


def test_undo_is_refused_where_the_same_text_lives(world: World) -> None:
    ana = world.sign_up("ana")
    old, new = ana.record("old"), ana.record("new")
    supersede(ana, old, new)
    assert ana.record("old") != old
    with refused("PT409", "recorded the same text anew"):
        supersede(ana, old, None)


def test_an_author_supersedes_what_is_pending(team: Team) -> None:
    old, new = team.author.record("old"), team.author.record("new")
    assert supersede(team.author, old, new)["outcome"] == "superseded"
    assert supersede(team.author, old, None)["outcome"] == "restored"


# -- erasure ---------------------------------------------------------------------------------------------------


def test_erasure_leaves_no_trace(team: Team) -> None:
    world = team.world
    author = team.author.start_session("s")
    before = author.record("Before", "We looked at the logs.")
    item = author.record(
        "The zanzibar incident",
        "The passphrase was zanzibar-42.",
        retrieval_triggers=["zanzibar"],
        category="zanzibars",
        context_data={"where": "zanzibar"},
        project_context="zanzibar",
    )
    # What stands between is deprecated, so documents further on are widened past it.
    retired = [author.record(f"step {i}", f"Between {i}.") for i in range(2)]
    after = author.record("After", "We went home.")
    for known in (before, item, after, *retired):
        team.maintainer.rpc(
            "validate_knowledge", knowledge_id=known, note="about zanzibar" if known == item else None
        )
    for known in retired:
        team.maintainer.rpc("validate_knowledge", knowledge_id=known, validation_status="deprecated")
    reading = team.colleague.start_session("r")
    assert {row["knowledge_id"] for row in reading.rpc("recall_knowledge", query_text="zanzibar")} == {
        before,
        item,
        after,
    }
    reading.rpc("rate_knowledge", knowledge_id=item, effectiveness_rating=9, notes="zanzibar helped")
    author.rpc(
        "relate_knowledge",
        source_knowledge_id=before,
        target_knowledge_id=item,
        relationship_type="enhances",
        relationship_context="of zanzibar",
    )
    world.superuser("update private.embedding_jobs set last_error = 'zanzibar' where knowledge_id = %s", item)
    found = traces(world, "zanzibar")
    assert {
        "knowledge_items.content",
        "private.search_documents.document",
        "private.embedding_jobs.last_error",
        "session_knowledge_links.notes",
        "knowledge_relationships.relationship_context",
        "knowledge_status_history.note",
    } <= set(found)

    [done] = author.rpc("forget_knowledge", knowledge_id=item)
    assert done == {
        "knowledge_id": item,
        "links_removed": 3,
        "relationships_removed": 1,
        "restored_ids": [],
    }
    assert traces(world, "zanzibar") == []
    assert set(traces(world, str(item))) == BARE_EVENT
    assert team.colleague.rpc("search_knowledge", query_text="zanzibar") == []
    assert {
        row["knowledge_id"] for row in team.colleague.rpc("search_knowledge", query_text="logs home")
    } == {before, after}
    [created] = author.rpc("end_session")
    assert created["knowledge_items_created"] == 4
    [accessed] = reading.rpc("end_session")
    assert accessed["knowledge_items_accessed"] == 2
    with refused("PT404"):
        author.rpc("forget_knowledge", knowledge_id=item)


def test_a_document_that_was_widened_far_away_is_built_anew(team: Team) -> None:
    """Pending items are no neighbours of validated ones: thirty of them stand between the two."""
    author = team.author.start_session("s")
    item = author.record("Secret", "zanzibar")
    pending = [author.record(f"pending {i}") for i in range(30)]
    far = author.record("Far", "away")
    for known in (item, far):
        team.maintainer.rpc("validate_knowledge", knowledge_id=known)
    assert far in {
        row["knowledge_id"] for row in team.colleague.rpc("search_knowledge", query_text="zanzibar")
    }
    author.rpc("forget_knowledge", knowledge_id=item)
    assert traces(team.world, "zanzibar") == []
    assert all(author.sees(known) for known in pending)


def test_a_maintainer_erases_and_the_service_too(team: Team) -> None:
    for persona in (team.maintainer, team.owner, team.world.service()):
        item = team.shared("something")
        persona.rpc("forget_knowledge", knowledge_id=item)
        assert not team.maintainer.sees(item)


def test_what_it_superseded_passes_on_or_comes_back(world: World) -> None:
    ana = world.sign_up("ana")
    a, b, c = (ana.record(title) for title in ("alpha", "beta", "gamma"))
    supersede(ana, a, b)
    supersede(ana, b, c)
    [done] = ana.rpc("forget_knowledge", knowledge_id=b)
    assert done["restored_ids"] == []
    assert ana.value("select superseded_by from public.knowledge_items where id = %s", a) == c
    [done] = ana.rpc("forget_knowledge", knowledge_id=c)
    assert done["restored_ids"] == [a]
    assert ana.value("select superseded_by from public.knowledge_items where id = %s", a) is None
    assert ana.value("select valid_to from public.knowledge_items where id = %s", a) is None, "it holds again"
    assert [row["knowledge_id"] for row in ana.rpc("search_knowledge", query_text="alpha beta gamma")] == [a]


def test_what_comes_back_does_not_collide_with_what_was_recorded_anew(world: World) -> None:
    ana = world.sign_up("ana")
    b, other = ana.record("b"), ana.record("other")
    retired = []
    for _ in range(2):
        retired.append(ana.record("a"))
        supersede(ana, retired[-1], b)
    living = ana.record("a")
    ana.rpc("forget_knowledge", knowledge_id=b)
    assert (
        ana.value("select array_agg(superseded_by) from public.knowledge_items where id = any(%s)", retired)
        == [living] * 2
    )
    supersede(ana, living, other)
    ana.rpc("forget_knowledge", knowledge_id=other)  # the youngest comes back, what it supersedes does not
    assert ana.value("select count(*) from public.knowledge_items where superseded_by is null") == 1

    c = ana.record("c")
    twins = []
    for _ in range(2):
        twins.append(ana.record("d"))
        supersede(ana, twins[-1], c)
    [done] = ana.rpc("forget_knowledge", knowledge_id=c)
    assert done["restored_ids"] == [min(twins)], "one of two with the same text"


def test_erasing_what_a_merge_kept_gives_the_twin_back(team: Team) -> None:
    mine, hers = team.author.record("Same", "text"), team.colleague.record("Same", "text")
    team.maintainer.rpc("validate_knowledge", knowledge_id=mine)
    [done] = team.author.rpc("forget_knowledge", knowledge_id=mine)
    assert done["restored_ids"] == [hers]
    assert team.colleague.sees(hers)
    assert not team.reader.sees(hers)


def test_erasing_and_editing_at_once_do_not_deadlock(world: World) -> None:
    ana = world.sign_up("ana").start_session("s")
    item = ana.record("one")
    ana.record("two")
    eraser = ana.inside(ana.workspace, ana.session)
    assert eraser.connection
    with ThreadPoolExecutor() as pool:
        with ana.transaction() as cursor:
            # The item first, as an edit takes it; the session's key by the trigger, while the eraser waits.
            cursor.execute("select 1 from public.knowledge_items where id = %s for no key update", [item])
            erasing = pool.submit(eraser.rpc, "forget_knowledge", knowledge_id=item)
            world.wait_until_blocked(eraser)
            cursor.execute("update public.knowledge_items set content = 'edited' where id = %s", [item])
        assert len(erasing.result(10)) == 1
    assert not ana.sees(item)


def test_an_erased_item_takes_its_record_along(world: World) -> None:
    ana = world.sign_up("ana").start_session("s")
    [gotcha] = ana.rpc(
        "record_gotcha",
        problem_description="zanzibar refused the connection",
        attempted_solution="restarted zanzibar",
        attempt_outcome="failed",
    )
    assert "technical_gotchas.problem_description" in traces(world, "zanzibar")
    ana.rpc("forget_knowledge", knowledge_id=gotcha["knowledge_id"])
    assert traces(world, "zanzibar") == []


def test_erasing_and_recording_a_repeat_at_once_do_not_deadlock(world: World) -> None:
    """A repeat takes the record and then its item, so an erasure does too."""
    ana = world.sign_up("ana")
    [gotcha] = ana.rpc("record_gotcha", problem_description="zanzibar refused the connection")
    item = gotcha["knowledge_id"]
    eraser = ana.inside()
    assert eraser.connection
    with ThreadPoolExecutor() as pool:
        with ana.transaction() as cursor:
            cursor.execute(
                "select 1 from public.technical_gotchas where knowledge_id = %s for no key update", [item]
            )
            erasing = pool.submit(eraser.rpc, "forget_knowledge", knowledge_id=item)
            world.wait_until_blocked(eraser)
            [again] = call(cursor, "record_gotcha", problem_description="zanzibar refused the connection")
            assert again["frequency_encountered"] == 2
        assert len(erasing.result(10)) == 1
    assert traces(world, "zanzibar") == []


def test_erasing_twice_at_once_erases_once(world: World) -> None:
    ana = world.sign_up("ana")
    item = ana.record("one")
    other = ana.inside()
    assert other.connection
    with ThreadPoolExecutor() as pool:
        with ana.transaction() as cursor:
            call(cursor, "forget_knowledge", knowledge_id=item)
            second = pool.submit(other.rpc, "forget_knowledge", knowledge_id=item)
            world.wait_until_blocked(other)
        with refused("PT404"):
            second.result(10)


def test_a_vector_that_comes_after_the_erasure_is_stale(world: World) -> None:
    ana = world.sign_up("ana")
    item = ana.record("one")
    [job] = world.service().rpc("claim_embedding_jobs")
    ana.rpc("forget_knowledge", knowledge_id=item)
    rows = world.service().rpc(
        "store_embeddings",
        embeddings=[
            {
                "knowledge_id": str(item),
                "embedding_model": job["embedding_model"],
                "content_hash": job["content_hash"],
                "embedding": vector([1.0] + [0.0] * 383),
            }
        ],
    )
    assert [row["outcome"] for row in rows] == ["stale"]
    assert set(traces(world, str(item))) == BARE_EVENT


def test_deleting_a_workspace_still_works(team: Team) -> None:
    author = team.author.start_session("s")
    items = [author.record(f"zanzibar {i}") for i in range(5)]
    author.rpc("supersede_knowledge", knowledge_id=items[0], replacement_id=items[1])
    author.rpc(
        "relate_knowledge",
        source_knowledge_id=items[1],
        target_knowledge_id=items[2],
        relationship_type="depends_on",
    )
    team.owner.inside(None).rpc("delete_workspace", workspace_id=team.id)
    assert traces(team.world, "zanzibar") == []
