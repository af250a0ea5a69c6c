"""Duplicates: proposed, never applied by themselves; merged with nothing lost, and taken apart again exactly."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from teams import NOBODY, Team
from world import call, refused

if TYPE_CHECKING:
    from world import Persona, World

DIMENSIONS = 384


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def shared(team: Team, title: str, content: str | None = None, **arguments: object) -> uuid.UUID:
    item = team.author.record(title, content, **arguments)
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    return item


def merge(persona: Persona, keep: uuid.UUID, duplicate: uuid.UUID) -> dict[str, object]:
    [row] = persona.rpc("merge_knowledge", keep_id=keep, duplicate_id=duplicate)
    return row


def unmerge(persona: Persona, duplicate: uuid.UUID) -> dict[str, object]:
    [row] = persona.rpc("unmerge_knowledge", duplicate_id=duplicate)
    return row


def direction(place: int, tilt: float = 0.0) -> list[float]:
    """Give a unit-like vector along one axis, tilted a little towards the next."""
    values = [0.0] * DIMENSIONS
    values[place], values[place + 1] = 1.0, tilt
    return values


def discover(persona: Persona, item: uuid.UUID | None = None) -> list[dict[str, object]]:
    return persona.rpc("discover_duplicates", knowledge_id=item)


def state(world: World, *items: uuid.UUID) -> dict[str, object]:
    """Read all that a merge may move."""
    ids = list(items)
    return {
        "items": world.superuser(
            "select id, validation_status, validated_at, superseded_by, valid_to, access_count, rating_sum,"
            " rating_count, success_count, failure_count, retrieval_triggers, content_hash"
            " from public.knowledge_items where id = any(%s) order by id",
            ids,
        ),
        "links": world.superuser(
            "select id, knowledge_id, session_id, interaction_type, notes from public.session_knowledge_links"
            " where knowledge_id = any(%s) order by id",
            ids,
        ),
        "relationships": world.superuser(
            "select id, source_knowledge_id, target_knowledge_id, relationship_type, status"
            " from public.knowledge_relationships"
            " where source_knowledge_id = any(%s) or target_knowledge_id = any(%s) order by id",
            ids,
            ids,
        ),
        "gotchas": world.superuser(
            "select knowledge_id, frequency_encountered, attempted_solutions, problem_description, working_solution"
            " from public.technical_gotchas where knowledge_id = any(%s) order by knowledge_id",
            ids,
        ),
        "patterns": world.superuser(
            "select knowledge_id, pattern_frequency, effectiveness_score, effectiveness_sum, effectiveness_count,"
            " examples from public.interaction_patterns where knowledge_id = any(%s) order by knowledge_id",
            ids,
        ),
    }


# -- what must fail --------------------------------------------------------------------------------------------


def test_anon_sees_and_calls_nothing(team: Team) -> None:
    one, other = shared(team, "one"), shared(team, "other")
    anon = team.world.anon()
    for act in (
        lambda: anon.sql("select 1 from public.knowledge_duplicates"),
        lambda: anon.rpc("discover_duplicates"),
        lambda: anon.rpc("duplicate_proposals"),
        lambda: merge(anon, one, other),
        lambda: unmerge(anon, other),
        lambda: anon.rpc("decide_duplicate", proposal_id=NOBODY, accept=True),
    ):
        with refused("42501"):
            act()


def test_a_foreign_item_and_no_item_answer_alike(team: Team) -> None:
    own, pending, seen = team.stranger.record("mine"), team.author.record("pending"), shared(team, "seen")
    for persona, foreign, mine in (
        (team.stranger, seen, own),
        (team.colleague, pending, seen),
        (team.reader, pending, seen),
    ):
        answers: set[str] = set()
        for item in (foreign, NOBODY):
            for act in (
                merge,
                lambda p, i, m: merge(p, m, i),
                lambda p, i, _: merge(p, i, i),
                lambda p, i, _: unmerge(p, i),
                lambda p, i, _: discover(p, i),
            ):
                with refused("PT404") as caught:
                    act(persona, item, mine)
                answers.add(str(caught.value).splitlines()[0])
            with refused("42501"):
                persona.sql(
                    "insert into public.knowledge_duplicates (keep_id, duplicate_id) values (%s, %s)",
                    mine,
                    item,
                )
            assert (
                persona.sql("select * from private.same_texts(%s)", [item])
                == persona.sql("select * from private.record_kinds(%s)", [item])
                == []
            )
        assert answers == {"no such knowledge item"}
    with refused("PT404", "no such proposal"):
        team.owner.rpc("decide_duplicate", proposal_id=NOBODY, accept=True)


def test_what_one_reads_one_may_not_merge(team: Team) -> None:
    keep, duplicate = shared(team, "Use port 1.", "Use port 1."), shared(team, "use port 1", "use port 1")
    [proposal] = discover(team.maintainer)
    for persona in (team.colleague, team.reader):
        with refused("PT403"):
            merge(persona, keep, duplicate)
        with refused("PT403"):
            persona.rpc("decide_duplicate", proposal_id=proposal["proposal_id"], accept=True)
        with refused("PT403"):
            persona.rpc("decide_duplicate", proposal_id=proposal["proposal_id"], accept=False)
    with refused("PT403"):
        discover(team.reader)
    with refused("PT403"):
        merge(team.author, keep, duplicate)  # the workspace trusts it: it is no longer its author's alone
    merge(team.maintainer, keep, duplicate)
    for persona in (team.colleague, team.reader, team.author):
        with refused("PT403"):
            unmerge(persona, duplicate)
    # A stranger has no proposal to see.
    assert team.stranger.rpc("duplicate_proposals", proposal_status="merged") == []
    with refused("PT404"):
        team.stranger.rpc("decide_duplicate", proposal_id=proposal["proposal_id"], accept=False)


def test_nothing_is_decided_by_writing_tables(team: Team) -> None:
    keep, duplicate = shared(team, "a thing", "said"), shared(team, "A thing", "said!")
    discover(team.maintainer)
    for persona in (team.owner, team.author):
        for query in (
            "update public.knowledge_duplicates set status = 'merged'",
            "update public.knowledge_duplicates set reason = 'x'",
            "delete from public.knowledge_duplicates",
            (
                "insert into public.knowledge_duplicates (keep_id, duplicate_id, status)"
                " select gen_random_uuid(), gen_random_uuid(), 'merged'"
            ),
            (
                "insert into public.knowledge_duplicates (keep_id, duplicate_id, owner_id)"
                " select gen_random_uuid(), gen_random_uuid(), gen_random_uuid()"
            ),
            "select * from private.merged_items",
        ):
            with refused("42501"):
                persona.sql(query)
        for query in (
            "select private.apply_merge(%s, %s, true)",
            "select private.lock_pair(%s, %s)",
            "select private.revert_merge(%s)",
        ):
            with refused("42501"):
                persona.sql(query, *([keep, duplicate][: query.count("%s")]))
        with refused("23505"):
            persona.sql(
                "insert into public.knowledge_duplicates (keep_id, duplicate_id) values (%s, %s)",
                duplicate,
                keep,
            )
    for persona in (team.reader, team.stranger):
        with refused("42501"):
            persona.sql(
                "insert into public.knowledge_duplicates (keep_id, duplicate_id) values (%s, %s)",
                keep,
                duplicate,
            )


def test_what_cannot_be_merged(team: Team) -> None:
    one, pending, gone = shared(team, "one"), team.author.record("pending"), shared(team, "gone")
    team.maintainer.rpc("validate_knowledge", knowledge_id=gone, validation_status="deprecated")
    with refused("PT400", "its own duplicate"):
        merge(team.maintainer, one, one)
    with refused("PT409", "can't see the item to keep"):
        merge(team.maintainer, pending, one)
    with refused("PT409", "out of retrieval already"):
        merge(team.maintainer, one, gone)
    with refused("PT409", "the item to keep is itself"):
        merge(team.maintainer, gone, one)
    with refused("PT400", "two workspaces"):
        merge(team.owner, one, team.owner.inside(None).record("in the owner's own workspace"))
    with refused("PT409", "not merged"):
        unmerge(team.maintainer, one)
    [gotcha] = team.author.rpc("record_gotcha", problem_description="refused the connection")
    with refused("PT409", "record of a kind"):
        merge(team.author, one, gotcha["knowledge_id"])
    for arguments in ({"accept": None}, {"accept": True, "keep_id": NOBODY}):
        proposal = team.author.value(
            "insert into public.knowledge_duplicates (keep_id, duplicate_id) values (%s, %s)"
            " on conflict do nothing returning id"
            if not arguments["accept"]
            else "select id from public.knowledge_duplicates where keep_id = %s and duplicate_id = %s",
            one,
            pending,
        )
        with refused("PT400"):
            team.author.rpc("decide_duplicate", proposal_id=proposal, **arguments)
    with refused("PT400"):
        team.author.rpc("duplicate_proposals", proposal_status="nonsense")


# -- proposals -------------------------------------------------------------------------------------------------


def test_what_is_proposed_and_what_is_not(team: Team) -> None:
    me = team.maintainer
    same = [
        me.record("Deploys", "We deploy on Tuesdays, at noon."),
        me.record("deploys", "We deploy on tuesdays at noon!"),
    ]
    near = [
        me.record(
            "Gateway", "Restart the gateway after each change of its routes.", content_embedding=direction(0)
        ),
        me.record(
            "Gateway",
            "After each change of its routes, restart the gateway.",
            content_embedding=direction(0, 0.1),
        ),
    ]
    worded = [
        me.record("Cache", "Clear the build cache with the prune command before a release."),
        me.record("Cache", "Clear the build cache with the prune command before every release."),
    ]
    # Alike, and not the same: another number, the opposite, another project, another subject.
    me.record("Port", "The origin listens on port 54321.")
    me.record("Port", "The origin listens on port 54322.")
    me.record("Sync", "Write-ahead sync is enabled here.", content_embedding=direction(8))
    me.record("Sync", "Write-ahead sync is disabled here.", content_embedding=direction(8, 0.01))
    me.record("Language", "The service is written in Go.", project_context="one")
    me.record("Language", "The service is written in Go!", project_context="two")
    me.record("Tea", "Tea is better than coffee in the afternoon.", content_embedding=direction(20))
    me.record("Backups", "Backups run every night and are kept.", content_embedding=direction(20, 0.01 * 60))
    found = {frozenset((row["keep_id"], row["duplicate_id"])): row for row in discover(me)}
    assert set(found) == {frozenset(same), frozenset(near), frozenset(worded)}
    assert found[frozenset(same)]["strength"] == 1
    assert "case, punctuation" in str(found[frozenset(same)]["reason"])
    assert "close in meaning" in str(found[frozenset(near)]["reason"])
    assert "of the words in common" in str(found[frozenset(worded)]["reason"])
    assert me.value("select count(*) from public.knowledge_items where superseded_by is not null") == 0
    assert discover(me) == [], "what waits is not proposed twice"
    listed = me.rpc("duplicate_proposals")
    assert {row["proposal_id"] for row in listed} == {row["proposal_id"] for row in found.values()}


def test_the_better_one_is_kept(team: Team) -> None:
    pending = team.author.record("Ports", "The port is open.")
    validated = shared(team, "ports", "the port is open")
    [row] = discover(team.maintainer, pending)
    assert (row["keep_id"], row["duplicate_id"]) == (validated, pending)
    older, rated = (
        team.author.record("Old", "the door is shut"),
        team.author.record("old", "The door is shut."),
    )
    team.author.rpc("rate_knowledge", knowledge_id=rated, effectiveness_rating=9)
    [row] = discover(team.author, older)
    assert (row["keep_id"], row["duplicate_id"]) == (rated, older)


def test_what_is_hidden_is_not_proposed(team: Team) -> None:
    team.author.record("Secret plan", "We move to the harbour.")
    mine = team.colleague.record("secret plan", "we move to the harbour")
    assert discover(team.colleague) == discover(team.colleague, mine) == []
    [row] = discover(team.maintainer)
    assert row["duplicate_id"] == mine
    assert team.colleague.rpc("duplicate_proposals") == []
    assert team.colleague.sql("select 1 from public.knowledge_duplicates") == []


def test_what_was_rejected_is_not_proposed_again(team: Team) -> None:
    shared(team, "One thing", "is said"), shared(team, "one thing", "is said!")
    [row] = discover(team.colleague)
    [done] = team.colleague.rpc("decide_duplicate", proposal_id=row["proposal_id"], accept=False)
    assert (done["status"], done["outcome"]) == ("rejected", "rejected")
    [done] = team.author.rpc("decide_duplicate", proposal_id=row["proposal_id"], accept=False)
    assert done["outcome"] == "unchanged"
    assert discover(team.maintainer) == []
    assert team.maintainer.rpc("duplicate_proposals") == []
    assert len(team.maintainer.rpc("duplicate_proposals", proposal_status="rejected")) == 1


# -- merging ---------------------------------------------------------------------------------------------------


def test_a_merge_loses_nothing_and_is_undone_exactly(team: Team) -> None:
    world = team.world
    keep = shared(team, "Gateway", "Restart the gateway.", retrieval_triggers=["gateway"])
    duplicate = shared(team, "gateway", "restart the gateway!", retrieval_triggers=["gateway", "restart"])
    third, needed = shared(team, "third"), shared(team, "needed")
    both, one = team.colleague.start_session("both"), team.reader.start_session("one")
    both.rpc("recall_knowledge", query_text="restart gateway")
    one.rpc("recall_knowledge", query_text="restart gateway", exclude_ids=[keep])
    both.rpc("rate_knowledge", knowledge_id=keep, effectiveness_rating=4, application_success=True)
    one.rpc(
        "rate_knowledge", knowledge_id=duplicate, effectiveness_rating=8, application_success=False, notes="n"
    )

    def relate(source: uuid.UUID, target: uuid.UUID, kind: str) -> None:
        team.author.rpc(
            "relate_knowledge", source_knowledge_id=source, target_knowledge_id=target, relationship_type=kind
        )

    relate(duplicate, third, "enhances")
    relate(third, duplicate, "builds_upon")
    relate(keep, duplicate, "similar_to")  # would be a loop: it stays
    relate(keep, third, "similar_to")
    relate(duplicate, third, "similar_to")  # is there already: it stays
    relate(needed, keep, "depends_on")
    relate(duplicate, needed, "depends_on")  # would close a cycle: it stays
    before = state(world, keep, duplicate)

    done = merge(team.maintainer, keep, duplicate)
    assert done == {
        "keep_id": keep,
        "duplicate_id": duplicate,
        "status": "merged",
        "outcome": "merged",
        "links_moved": 2,  # the session that recalled both keeps a link to each
        "relationships_moved": 2,
        "triggers_added": ["restart"],
    }
    assert merge(team.maintainer, keep, duplicate)["outcome"] == "unchanged"
    [row] = team.reader.sql("select * from public.knowledge_items where id = %s", keep)
    assert (row["access_count"], row["rating_sum"], row["rating_count"]) == (3, 12, 2)
    assert (row["success_count"], row["failure_count"]) == (1, 1)
    assert row["retrieval_triggers"] == ["gateway", "restart"]
    assert row["validation_status"] == "validated"
    # What is related to it may follow; its twin may not.
    found = [row["knowledge_id"] for row in team.reader.rpc("search_knowledge", query_text="restart")]
    assert found[0] == keep
    assert duplicate not in found
    [row] = team.reader.sql(
        "select superseded_by, content from public.knowledge_items where id = %s", duplicate
    )
    assert row == {"superseded_by": keep, "content": "restart the gateway!"}, "readable, as history"
    near = team.reader.rpc("knowledge_neighborhood", knowledge_id=keep, max_depth=1)
    assert {row["knowledge_id"] for row in near} == {keep, third, needed}
    for kind, there in (("enhances", keep), ("builds_upon", keep), ("depends_on", duplicate)):
        ends = team.author.sql(
            "select source_knowledge_id as s, target_knowledge_id as t from public.knowledge_relationships"
            " where relationship_type = %s",
            kind,
        )
        assert any(there in (end["s"], end["t"]) for end in ends)
    with refused("PT409", "unmerge_knowledge"):
        team.maintainer.rpc("supersede_knowledge", knowledge_id=duplicate, replacement_id=None)

    undone = unmerge(team.maintainer, duplicate)
    assert (undone["status"], undone["outcome"], undone["links_moved"]) == ("undone", "undone", 2)
    assert state(world, keep, duplicate) == before
    found = [row["knowledge_id"] for row in team.reader.rpc("search_knowledge", query_text="restart")]
    assert set(found[:2]) == {keep, duplicate}
    assert discover(team.maintainer, keep) == [], "what was undone is not proposed again"
    assert merge(team.maintainer, duplicate, keep)["outcome"] == "merged", "but it can be merged by hand"


def test_a_session_that_marked_both_keeps_both_marks(team: Team) -> None:
    me = team.maintainer.start_session("monday")
    keep, duplicate = me.record("keep"), me.record("duplicate")
    marks = (
        "select knowledge_id from public.session_knowledge_links"
        " where interaction_type = 'breakthrough' order by interaction_timestamp"
    )
    for item in (keep, duplicate):
        me.rpc("mark_breakthrough", knowledge_id=item)
    merge(me, keep, duplicate)
    assert [row["knowledge_id"] for row in me.sql(marks)] == [keep, duplicate]
    unmerge(me, duplicate)
    assert [row["knowledge_id"] for row in me.sql(marks)] == [keep, duplicate]


def test_a_mark_that_went_over_stays_where_the_duplicate_was_marked_since(team: Team) -> None:
    me = team.maintainer.start_session("monday")
    keep, duplicate = me.record("keep"), me.record("duplicate")
    me.rpc("mark_breakthrough", knowledge_id=duplicate)
    assert merge(me, keep, duplicate)["links_moved"] == 1
    me.rpc("mark_breakthrough", knowledge_id=duplicate)
    unmerge(me, duplicate)
    rows = me.sql(
        "select knowledge_id from public.session_knowledge_links where interaction_type = 'breakthrough'"
    )
    assert {row["knowledge_id"] for row in rows} == {keep, duplicate}


def test_undoing_leaves_what_came_since(team: Team) -> None:
    keep, duplicate = shared(team, "keep"), shared(team, "duplicate")
    team.author.rpc("rate_knowledge", knowledge_id=duplicate, effectiveness_rating=2)
    merge(team.maintainer, keep, duplicate)
    team.reader.rpc("rate_knowledge", knowledge_id=keep, effectiveness_rating=10)
    team.reader.rpc("rate_knowledge", knowledge_id=duplicate, effectiveness_rating=5)
    unmerge(team.maintainer, duplicate)
    rows = team.reader.sql("select id, rating_sum, rating_count from public.knowledge_items")
    assert {row["id"]: (row["rating_sum"], row["rating_count"]) for row in rows} == {
        keep: (10, 1),
        duplicate: (7, 2),
    }


def test_an_author_merges_a_pending_item_into_what_the_workspace_trusts(team: Team) -> None:
    """It adds counts, and no words: the trusted item is not the author's to edit."""
    keep = shared(team, "trusted")
    mine = team.colleague.record("mine", retrieval_triggers=["planted"])
    assert merge(team.colleague, keep, mine)["triggers_added"] == []
    assert (
        team.reader.value("select validation_status from public.knowledge_items where id = %s", keep)
        == "validated"
    )
    assert team.reader.rpc("search_knowledge", query_text="planted") == []
    assert unmerge(team.colleague, mine)["outcome"] == "undone"
    own = [team.colleague.record(title, retrieval_triggers=[title]) for title in ("first", "second")]
    assert merge(team.colleague, *own)["triggers_added"] == ["second"]


def test_the_other_one_can_be_kept(team: Team) -> None:
    shared(team, "One thing", "is said"), shared(team, "one thing", "is said!")
    [row] = discover(team.author)
    [done] = team.maintainer.rpc(
        "decide_duplicate", proposal_id=row["proposal_id"], accept=True, keep_id=row["duplicate_id"]
    )
    assert (done["keep_id"], done["duplicate_id"]) == (row["duplicate_id"], row["keep_id"])
    [merged] = team.author.rpc("duplicate_proposals", proposal_status="merged")
    assert (merged["proposal_id"], merged["keep_id"]) == (row["proposal_id"], row["duplicate_id"])
    with refused("PT409", "merged already"):
        team.maintainer.rpc("decide_duplicate", proposal_id=row["proposal_id"], accept=False)


def test_records_of_one_kind_become_one(team: Team) -> None:
    me, world = team.maintainer, team.world
    problems = ["the gateway refused the connection", "connection refused by the gateway"]
    gotchas = []
    for problem in problems:
        for outcome in ("failed", "worked"):
            [row] = me.rpc(
                "record_gotcha", problem_description=problem, attempted_solution=f"{problem} {outcome}",
                attempt_outcome=outcome,
            )  # fmt: skip
        gotchas.append(row["knowledge_id"])
    before = state(world, *gotchas)
    merge(me, *gotchas)
    [row] = me.sql("select * from public.technical_gotchas where knowledge_id = %s", gotchas[0])
    assert row["frequency_encountered"] == 4
    assert len(row["attempted_solutions"]) == 4
    [row] = me.rpc("record_gotcha", problem_description=problems[0])
    assert row["frequency_encountered"] == 5
    unmerge(me, gotchas[1])
    me_after = state(world, *gotchas)["gotchas"]
    assert [row["frequency_encountered"] for row in me_after] == [
        2 + (row["knowledge_id"] == gotchas[0]) for row in before["gotchas"]
    ]
    assert [row["attempted_solutions"] for row in me_after] == [
        row["attempted_solutions"] for row in before["gotchas"]
    ]

    patterns = []
    for name, score in (("greets", 40), ("says hello", 81)):
        [row] = me.rpc(
            "record_interaction_pattern", pattern_name=name, situation_type="start",
            ai_response_expected=f"{name} back", effectiveness_score=score, example={"said": "hello"},
        )  # fmt: skip
        patterns.append(row["knowledge_id"])
    before = state(world, *patterns)
    merge(me, *patterns)
    [row] = me.sql("select * from public.interaction_patterns where knowledge_id = %s", patterns[0])
    assert (row["pattern_frequency"], row["effectiveness_score"], len(row["examples"])) == (2, 61, 2)
    unmerge(me, patterns[1])
    assert state(world, *patterns) == before

    for function, texts, count in (
        (
            "record_command_run",
            ({"command": "make", "succeeded": True}, {"command": "gmake", "succeeded": True}),
            "usage_count",
        ),
        (
            "record_insight",
            (
                {"insight_title": "a", "insight_description": "alpha"},
                {"insight_title": "b", "insight_description": "beta"},
            ),
            "times_observed",
        ),
    ):
        items = []
        for text in texts:
            [row] = me.rpc(function, **text)
            items.append(row["knowledge_id"])
        merge(me, *items)
        table = "command_patterns" if count == "usage_count" else "experiential_knowledge"
        assert me.value(f"select {count} from public.{table} where knowledge_id = %s", items[0]) == 2
        unmerge(me, items[1])
        assert me.value(f"select {count} from public.{table} where knowledge_id = %s", items[0]) == 1


def test_merges_are_undone_from_the_end(team: Team) -> None:
    a, b, c = (shared(team, title) for title in "abc")
    for item in (a, b, c):
        team.reader.rpc("rate_knowledge", knowledge_id=item, effectiveness_rating=1)
    before = state(team.world, a, b, c)
    merge(team.maintainer, b, a)
    merge(team.maintainer, c, b)
    assert team.reader.value("select rating_count from public.knowledge_items where id = %s", c) == 3
    with refused("PT409", "undo that merge first"):
        unmerge(team.maintainer, a)
    unmerge(team.maintainer, b)
    unmerge(team.maintainer, a)
    assert state(team.world, a, b, c) == before


def test_undo_is_refused_where_the_same_text_lives(world: World) -> None:
    ana = world.sign_up("ana")
    keep, duplicate = ana.record("keep"), ana.record("duplicate")
    merge(ana, keep, duplicate)
    again = ana.record("duplicate")
    with refused("PT409", "recorded the same text anew"):
        unmerge(ana, duplicate)
    ana.rpc("forget_knowledge", knowledge_id=again)
    assert unmerge(ana, duplicate)["outcome"] == "undone"


# -- erasure ---------------------------------------------------------------------------------------------------


def test_what_is_erased_takes_its_part_of_a_merge_along(team: Team) -> None:
    keep = shared(team, "keep")
    duplicate = shared(team, "zanzibar", retrieval_triggers=["zanzibar"])
    for item, rating in ((keep, 3), (duplicate, 9)):
        team.reader.rpc(
            "rate_knowledge", knowledge_id=item, effectiveness_rating=rating, notes=f"about {rating}"
        )
    before = state(team.world, keep)
    merge(team.maintainer, keep, duplicate)
    team.maintainer.rpc("forget_knowledge", knowledge_id=duplicate)
    assert state(team.world, keep) == before
    assert team.reader.rpc("search_knowledge", query_text="zanzibar") == []


def test_the_author_of_a_merged_item_takes_nothing_from_the_workspace(team: Team) -> None:
    keep = team.maintainer.record("keep", retrieval_triggers=["kept"])
    team.maintainer.rpc("validate_knowledge", knowledge_id=keep)
    middle = shared(team, "middle", retrieval_triggers=["middle"])
    duplicate = team.colleague.record("zanzibar", retrieval_triggers=["zanzibar"])
    team.maintainer.rpc("validate_knowledge", knowledge_id=duplicate)
    before = state(team.world, keep)
    merge(team.maintainer, middle, duplicate)
    merge(team.maintainer, keep, middle)
    status = "select validation_status from public.knowledge_items where id = %s"
    team.colleague.rpc("forget_knowledge", knowledge_id=duplicate)
    assert team.reader.value(status, keep) == "validated"
    team.author.rpc("forget_knowledge", knowledge_id=middle)
    assert team.reader.value(status, keep) == "validated"
    assert state(team.world, keep) == before
    # The setting that spares it is the merge's, not a caller's.
    item = shared(team, "edited", retrieval_triggers=["one"])
    with team.author.transaction() as cursor:
        cursor.execute("select set_config('app.merging', 'on', true)")
        cursor.execute(
            "update public.knowledge_items set retrieval_triggers = '{other}' where id = %s", (item,)
        )
    assert team.author.value(status, item) == "pending"


def test_nothing_is_merged_into_what_does_not_hold(team: Team) -> None:
    keep, duplicate = shared(team, "keep", valid_to="2100-01-01"), shared(team, "duplicate")
    team.maintainer.sql("update public.knowledge_items set valid_to = '2020-01-01' where id = %s", keep)
    with refused("PT409", "does not hold now"):
        merge(team.maintainer, keep, duplicate)
    assert merge(team.maintainer, duplicate, keep)["outcome"] == "merged"


def test_erasing_what_was_kept_gives_the_duplicate_back_whole(team: Team) -> None:
    keep, duplicate = shared(team, "keep"), shared(team, "duplicate")
    team.reader.rpc("rate_knowledge", knowledge_id=duplicate, effectiveness_rating=9, notes="good")
    before = state(team.world, duplicate)
    merge(team.maintainer, keep, duplicate)
    [done] = team.author.rpc("forget_knowledge", knowledge_id=keep)
    assert done["restored_ids"] == [duplicate]
    assert state(team.world, duplicate) == before


@pytest.mark.parametrize("which", [0, 1, 2])
def test_erasing_one_of_a_chain_leaves_the_others_what_is_theirs(team: Team, which: int) -> None:
    items = [shared(team, title, retrieval_triggers=[title * 4]) for title in "abc"]
    for rating, item in enumerate(items, start=1):
        team.reader.rpc("rate_knowledge", knowledge_id=item, effectiveness_rating=rating)
    merge(team.maintainer, items[1], items[0])
    merge(team.maintainer, items[2], items[1])
    team.maintainer.rpc("forget_knowledge", knowledge_id=items[which])
    rows = {
        row["id"]: row
        for row in team.reader.sql("select * from public.knowledge_items where id = any(%s)", items)
    }
    assert items[which] not in rows
    living = [row for row in rows.values() if row["superseded_by"] is None]
    # Without the middle one nothing joins the other two but that one took the place of both.
    expected = {0: {2: (5, 2)}, 1: {2: (3, 1), 0: (1, 1)}, 2: {1: (3, 2)}}[which]
    for place, totals in expected.items():
        row = rows[items[place]]
        assert (row["rating_sum"], row["rating_count"]) == totals
    assert len(living) == 1
    words = {0: {"bbbb", "cccc"}, 1: {"cccc"}, 2: {"aaaa", "bbbb"}}[which]
    assert set(living[0]["retrieval_triggers"]) == words


# -- races -----------------------------------------------------------------------------------------------------


def test_two_merges_that_cross_make_one(team: Team) -> None:
    one, other = shared(team, "one"), shared(team, "other")
    with ThreadPoolExecutor() as pool:
        with team.maintainer.transaction() as cursor:
            call(cursor, "merge_knowledge", keep_id=one, duplicate_id=other)
            assert team.owner.connection
            second = pool.submit(merge, team.owner, other, one)
            team.world.wait_until_blocked(team.owner)
        with refused("PT409", "merged"):
            second.result(10)
    rows = team.reader.sql(
        "select id, superseded_by from public.knowledge_items order by superseded_by nulls first"
    )
    assert [tuple(row.values()) for row in rows] == [(one, None), (other, one)]


def test_one_proposal_accepted_twice_at_once_is_merged_once(team: Team) -> None:
    shared(team, "One thing", "is said"), shared(team, "one thing", "is said!")
    [row] = discover(team.maintainer)
    team.reader.rpc("rate_knowledge", knowledge_id=row["duplicate_id"], effectiveness_rating=7)
    with ThreadPoolExecutor() as pool:
        with team.maintainer.transaction() as cursor:
            call(cursor, "decide_duplicate", proposal_id=row["proposal_id"], accept=True)
            assert team.owner.connection
            second = pool.submit(
                team.owner.rpc, "decide_duplicate", proposal_id=row["proposal_id"], accept=True
            )
            team.world.wait_until_blocked(team.owner)
        assert second.result(10)[0]["outcome"] == "unchanged"
    assert (
        team.reader.value("select rating_sum from public.knowledge_items where id = %s", row["keep_id"]) == 7
    )


def test_merging_and_rating_at_once_lose_nothing(team: Team) -> None:
    keep, duplicate = shared(team, "keep"), shared(team, "duplicate")
    with ThreadPoolExecutor() as pool:
        with team.reader.transaction() as cursor:
            call(cursor, "rate_knowledge", knowledge_id=duplicate, effectiveness_rating=6)
            assert team.maintainer.connection
            merging = pool.submit(merge, team.maintainer, keep, duplicate)
            team.world.wait_until_blocked(team.maintainer)
        assert merging.result(10)["links_moved"] == 1
    assert team.reader.value("select rating_sum from public.knowledge_items where id = %s", keep) == 6


def test_erasing_and_merging_at_once_do_not_deadlock(team: Team) -> None:
    keep, duplicate = shared(team, "keep"), shared(team, "duplicate")
    with ThreadPoolExecutor() as pool:
        with team.maintainer.transaction() as cursor:
            call(cursor, "forget_knowledge", knowledge_id=keep)
            assert team.owner.connection
            merging = pool.submit(merge, team.owner, keep, duplicate)
            team.world.wait_until_blocked(team.owner)
        with refused("PT404"):
            merging.result(10)
    assert team.reader.sees(duplicate)


def test_erasing_what_was_merged_into_a_record_takes_the_record_before_its_item(team: Team) -> None:
    me = team.maintainer
    plain = me.record("make it again")
    records = [
        me.rpc("record_command_run", command=f"make {name}", succeeded=True)[0]["knowledge_id"]
        for name in ("one", "other")
    ]
    merge(me, records[0], plain)
    merge(me, records[1], records[0])
    with ThreadPoolExecutor() as pool:
        with team.owner.transaction() as cursor:
            cursor.execute(
                "select from public.command_patterns where knowledge_id = %s for update", (records[1],)
            )
            assert me.connection
            erasing = pool.submit(me.rpc, "forget_knowledge", knowledge_id=plain)
            team.world.wait_until_blocked(me)
            team.world.superuser(
                "select from public.knowledge_items where id = any(%s) for update nowait", [plain, *records]
            )
        erasing.result(10)
    [row] = me.sql("select usage_count from public.command_patterns where knowledge_id = %s", records[1])
    assert row["usage_count"] == 2
