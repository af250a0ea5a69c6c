"""Weights on trial: who may try them, that trying changes nothing, and that it tells what a search would."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from world import call, refused, vector

if TYPE_CHECKING:
    from world import Persona, World

DIMENSIONS = 384


def axis(number: int) -> list[float]:
    return [float(place == number) for place in range(DIMENSIONS)]


@pytest.fixture
def owner(world: World) -> Persona:
    """Somebody whose memory holds an answer that has the words, and another that has the meaning."""
    owner = world.sign_up("owner")
    owner = owner.inside(world.workspace("team", owner=owner))
    words = owner.record("Words", "The zorb is calibrated by night.", content_embedding=vector(axis(9)))
    meaning = owner.record("Meaning", "Something else altogether.", content_embedding=vector(axis(1)))
    owner.record("Far", "Nothing of it.", content_embedding=vector(axis(2)))
    owner.rpc(
        "record_validation_test",
        test_name="zorb",
        test_scenario="calibrated glim frob bril torm",
        expected_knowledge_ids=[words],
        forbidden_knowledge_ids=[meaning],
        within_top=1,
    )
    return owner


def the_test(owner: Persona) -> uuid.UUID:
    return owner.value("select id from public.knowledge_validation_tests")


def tried(who: Persona, test: uuid.UUID, weights: dict[str, float] | None) -> dict[str, Any]:
    asked = [
        {"test_id": str(test), "query_embedding": vector(axis(1)), "embedding_model": "all-MiniLM-L6-v2"}
    ]
    [row] = who.rpc("try_retrieval_weights", tests=asked, retrieval_weights=weights)
    return row


def test_whoever_may_not_set_weights_may_not_try_them(world: World, owner: Persona) -> None:
    test, team = the_test(owner), owner.workspace
    for role in ("maintainer", "contributor", "reader"):
        member = world.sign_up(role)
        owner.rpc("add_workspace_member", workspace_id=team, user_id=member.id, role=role)
        with refused("PT403", "only an owner"):
            tried(member.inside(team), test, {"meaning": 0.1})
    stranger = world.sign_up("stranger")
    stranger.record("Mine")
    # Somebody else's test is as little there as one that isn't.
    for name in (test, uuid.uuid4()):
        with refused("PT404", "no such validation test"):
            tried(stranger, name, {"meaning": 0.1})
    for name in (team, uuid.uuid4()):
        with refused("PT403", "only an owner"):
            stranger.sql("select private.put_on_trial(%s, '{}')", name)
    with refused("42501"):
        tried(world.anon(), test, None)


@pytest.mark.parametrize(
    "weights", [{"meaning": 2}, {"meaning": -0.1}, {"meaning": "much"}, {"luck": 0.5}], ids=str
)
def test_what_are_no_weights_are_not_tried(owner: Persona, weights: dict[str, Any]) -> None:
    with refused("PT400", "no weights"):
        tried(owner, the_test(owner), weights)


@pytest.mark.parametrize("tests", [{}, [], [{}] * 201], ids=["object", "none", "too many"])
def test_tests_are_named_in_an_array(owner: Persona, tests: object) -> None:
    asked = "select * from public.try_retrieval_weights(%s)"
    with refused("PT400", "tests is an array"), owner.transaction() as cursor:
        from psycopg.types.json import Jsonb  # noqa: PLC0415 - the helper takes no empty array for JSON

        cursor.execute(asked, [Jsonb(tests)])


def test_the_ranks_are_those_that_a_search_gives_with_these_weights(owner: Persona) -> None:
    test = the_test(owner)
    for weights in ({"meaning": 0.0}, {"meaning": 1.0}, {"meaning": 0.6, "triggers": 0.1}):
        row = tried(owner, test, weights)
        owner.rpc("configure_retrieval", retrieval_weights=weights)
        [real] = owner.rpc("run_retrieval_test", test_id=test, query_embedding=axis(1))
        assert row["expected_ranks"] == [one["rank"] for one in real["expected"]], weights
        assert row["forbidden_ranks"] == [one["rank"] for one in real["forbidden"]], weights
        assert weights.items() <= row["effective_weights"].items()
        assert tried(owner, test, None) == row, "without weights those that are set"
    assert tried(owner, test, {"meaning": 0.0})["expected_ranks"] == [1]
    assert tried(owner, test, {"meaning": 1.0})["forbidden_ranks"] == [1]


def test_trying_changes_nothing(world: World, owner: Persona) -> None:
    owner.rpc("configure_retrieval", retrieval_weights={"meaning": 0.7})
    looked = "select w::text, xmin::text from public.workspaces w where id = %s"
    before = world.superuser(looked, owner.workspace)
    counters = world.superuser("select id, access_count from public.knowledge_items order by id")
    tried(owner, the_test(owner), {"meaning": 0.0})
    with refused("PT404"):
        tried(owner, uuid.uuid4(), {"meaning": 0.0})
    assert world.superuser(looked, owner.workspace) == before
    assert world.superuser("select id, access_count from public.knowledge_items order by id") == counters
    assert world.superuser("select 1 from public.validation_test_results") == []


def test_nobody_who_records_waits_for_a_trial(world: World, owner: Persona) -> None:
    colleague = world.sign_up("colleague")
    owner.rpc("add_workspace_member", workspace_id=owner.workspace, user_id=colleague.id, role="contributor")
    colleague = colleague.inside(owner.workspace)
    with owner.transaction() as trial:
        trial.execute("select private.put_on_trial(%s, '{}')", [owner.workspace])
        with colleague.transaction() as cursor:
            cursor.execute("set local lock_timeout = '10s'")
            [recorded] = call(cursor, "record_knowledge", title="Meanwhile", content="Recorded meanwhile.")
    assert colleague.sees(recorded["knowledge_id"])


# Counting what was chosen


def test_what_was_chosen_is_counted_for_whoever_sees_it(world: World, owner: Persona) -> None:
    inside = owner.start_session("choosing")
    chosen = inside.record("Chosen")
    stranger = world.sign_up("stranger").start_session("elsewhere")
    hidden = stranger.record("Hidden")
    before = world.superuser("select access_count from public.knowledge_items where id = %s", hidden)
    inside.rpc("log_recall", knowledge_ids=[chosen, hidden, uuid.uuid4()])
    counted = "select access_count from public.knowledge_items where id = %s"
    assert world.superuser(counted, chosen) == [{"access_count": 1}]
    assert world.superuser(counted, hidden) == before == [{"access_count": 0}]
    assert inside.value("select knowledge_items_accessed from public.ai_sessions") == 1
    with refused("PT400"):
        inside.rpc("log_recall", knowledge_ids=[uuid.uuid4() for _ in range(1001)])
    for nobody in (world.anon(), world.service()):
        with refused("42501"):
            nobody.rpc("log_recall", knowledge_ids=[chosen])
