"""Insights: who may write what, sightings and applications that count, a vector that follows its item's."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from teams import NOBODY, Team, assert_seen_with_its_item, forbid_forgeries, race
from world import call, refused, vector

if TYPE_CHECKING:
    import uuid

    from world import Persona, Row, World

AXIS = vector([1.0] + [0.0] * 383)


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def insight(
    persona: Persona, title: str = "Small steps win", description: str = "Ship small.", **more: object
) -> Row:
    [row] = persona.rpc("record_insight", insight_title=title, insight_description=description, **more)
    return row


def whole(team: Team, item: uuid.UUID) -> Row:
    [row] = team.world.superuser("select * from public.experiential_knowledge where knowledge_id = %s", item)
    return row


def mirrored(team: Team, item: uuid.UUID) -> bool:
    """Say whether the insight has a vector; fail unless it is that of its item."""
    [row] = team.world.superuser(
        "select e.insight_embedding::text as mine, k.content_embedding::text as its"
        " from public.experiential_knowledge e join public.knowledge_items k on k.id = e.knowledge_id"
        " where k.id = %s",
        item,
    )
    assert row["mine"] == row["its"]
    return row["mine"] is not None


# -- what must fail --------------------------------------------------------------------------------------------


def test_nothing_can_be_forged(team: Team) -> None:
    mine = insight(team.author)
    session = team.colleague.start_session("hers").session
    forbid_forgeries(
        team,
        "experiential_knowledge",
        {"insight_title": "Another", "insight_description": "Another."},
        own={
            "created_in_session": session,
            "applied_successfully": 9,
            "applied_count": 9,
            "times_observed": 9,
            "last_observed": "2020-01-01",
            "observations": [{"description": "forged"}],
            "insight_embedding": AXIS,
        },
        item=mine["knowledge_id"],
    )
    with refused("42501"):
        team.author.sql("update public.experiential_knowledge set insight_title = 'x' where true")
    with refused("PT403", "readers"):
        insight(team.reader)


def test_arguments_are_checked(team: Team) -> None:
    for title, description in ((" ", "x"), ("x", " ")):
        with refused("PT400"):
            insight(team.author, title, description)
    with refused("23514", "confidence_level_check|importance_score_check"):
        insight(team.author, confidence_level=101)
    mine = insight(team.author)["insight_id"]
    with refused("PT400"):
        team.author.rpc("apply_insight", insight_id=mine, success=None)
    secret = "postgresql://kp:s3cr3t-w0rd@db.internal/kp"
    metadata: dict[str, Any] = {"insight_metadata": {"a": secret}}
    for description, more in ((secret, dict[str, Any]()), ("Ship small.", metadata)):
        with refused("PT451"):
            insight(team.author, description=description, **more)
        insight(team.author, description=description, allow_credentials=True, **more)


def test_an_insight_is_visible_exactly_when_its_item_is(team: Team) -> None:
    assert_seen_with_its_item(team, "experiential_knowledge", insight(team.author)["knowledge_id"])


def test_neither_merge_nor_application_reveals_a_pending_insight(team: Team) -> None:
    secret = insight(team.author, description="Zanzibar.")
    assert insight(team.colleague)["outcome"] == "created"
    for named in (secret["insight_id"], secret["knowledge_id"], NOBODY):
        for persona in (team.colleague, team.stranger, team.reader):
            with refused("PT404", "no such record"):
                persona.rpc("apply_insight", insight_id=named)
    with refused("PT404", "no such record"):
        team.colleague.sql("select private.count_insight(%s, 'x', null, true)", secret["knowledge_id"])
    row = whole(team, secret["knowledge_id"])
    assert (row["times_observed"], row["applied_count"], row["observations"]) == (1, 0, [])


def test_a_sighting_by_a_colleague_counts_and_changes_no_text(team: Team) -> None:
    item = insight(team.author)["knowledge_id"]
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    before = whole(team, item)
    merged = insight(
        team.colleague, "small  STEPS win", "Ship often.", motivation_driver="x", validation_examples=["y"]
    )
    assert (merged["outcome"], merged["times_observed"], merged["observation_count"]) == ("merged", 2, 1)
    after = whole(team, item)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"times_observed", "last_observed", "observations"}
    [said] = after["observations"]
    assert (said["description"], said["examples"]) == ("Ship often.", ["y"])
    assert merged["validation_status"] == "validated"


# -- what must work --------------------------------------------------------------------------------------------


def test_the_companion_is_made_and_follows_text_not_counts(team: Team) -> None:
    item = team.author.value(
        "insert into public.experiential_knowledge (insight_title, insight_description, confidence_level)"
        " values ('Small steps win', 'Ship small.', 70) returning knowledge_id"
    )
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    [before] = team.world.superuser("select xmin, * from public.knowledge_items where id = %s", item)
    assert (before["knowledge_type"], before["importance_score"]) == ("experiential", 70)
    assert insight(team.author)["outcome"] == "merged"
    assert team.world.superuser("select xmin, * from public.knowledge_items where id = %s", item) == [before]
    insight(team.author, validation_examples=["release 1"], motivation_driver="fear")
    insight(team.author, validation_examples=["release 2"], motivation_driver="joy")
    row = whole(team, item)
    assert (row["validation_examples"], row["motivation_driver"]) == (["release 1", "release 2"], "fear")
    [after] = team.world.superuser("select * from public.knowledge_items where id = %s", item)
    assert "Borne out by: release 1; release 2" in after["content"]
    assert after["validation_status"] == "pending"


def test_the_vector_follows_the_items(team: Team) -> None:
    mine = insight(team.author, content_embedding=AXIS)
    item = mine["knowledge_id"]
    assert mirrored(team, item)
    insight(team.author)
    assert mirrored(team, item), "a sighting changes no vector"
    team.author.sql("update public.experiential_knowledge set insight_description = 'Other.' where true")
    assert not mirrored(team, item), "a new text has no vector yet"
    service = team.world.service()
    [job] = [row for row in service.rpc("claim_embedding_jobs") if row["knowledge_id"] == item]
    stored = {**job, "knowledge_id": str(item), "embedding": AXIS}
    assert service.rpc("store_embeddings", embeddings=[stored])[0]["outcome"] == "stored"
    assert mirrored(team, item)


def test_a_vector_stored_while_the_insight_is_held_is_not_lost(team: Team) -> None:
    """The worker holds the item and leaves a held record alone; whoever holds that waits and takes the vector."""
    item = insight(team.author)["knowledge_id"]
    service = team.world.service()
    [job] = service.rpc("claim_embedding_jobs")
    stored = {**job, "knowledge_id": str(item), "embedding": AXIS}
    applying = team.author.inside(team.id)
    assert applying.connection
    with ThreadPoolExecutor() as pool, applying.transaction() as holder:
        # Holds the record, and not yet the item.
        holder.execute(
            "select 1 from public.experiential_knowledge where knowledge_id = %s for update", [item]
        )
        with service.transaction() as worker:
            [row] = call(worker, "store_embeddings", embeddings=[stored])
            assert row["outcome"] == "stored"
            applied = pool.submit(call, holder, "apply_insight", insight_id=item)
            team.world.wait_until_blocked(applying)
        assert applied.result(10)[0]["applied_count"] == 1
    assert mirrored(team, item)


def test_the_story_of_an_insight(team: Team) -> None:
    """Had in one session, again in another, found in words in a third, applied, rated, ranked higher after."""
    monday = team.author.start_session("monday")
    first = insight(
        monday,
        "Read the plan before tuning",
        "A slow query is explained by its plan, not by guesses.",
        emotional_context="A day lost to guesses.",
        confidence_level=60,
    )
    tuesday = team.author.start_session("tuesday")
    again = insight(
        tuesday, "read the plan before tuning", "A slow query is explained by its plan, not by guesses."
    )
    assert (again["insight_id"], again["outcome"], again["times_observed"]) == (
        first["insight_id"],
        "merged",
        2,
    )
    rival = insight(
        tuesday,
        "Guess before tuning",
        "A slow query is explained by guesses, not by its plan.",
        confidence_level=60,
    )
    for row in (first, rival):
        team.maintainer.rpc("validate_knowledge", knowledge_id=row["knowledge_id"])

    wednesday = team.colleague.start_session("wednesday")
    question = "how do I find out why a query is slow before I start tuning?"
    ranked = [row["knowledge_id"] for row in wednesday.rpc("search_knowledge", query_text=question)]
    assert set(ranked) == {first["knowledge_id"], rival["knowledge_id"]}
    for _ in range(8):
        for item, success in ((ranked[1], True), (ranked[0], False)):
            wednesday.rpc("apply_insight", insight_id=item, success=success, notes="tried it")
            wednesday.rpc("rate_knowledge", knowledge_id=item, effectiveness_rating=10 if success else 1)
    for item, successes in zip(ranked, (0, 8), strict=True):
        row = whole(team, item)
        assert (row["applied_count"], row["applied_successfully"]) == (8, successes)
    found = wednesday.rpc("search_knowledge", query_text=question)
    assert [row["knowledge_id"] for row in found] == ranked[::-1]
    assert "worked 8 of 8 times" in found[0]["relevance_reason"]


def test_sightings_and_applications_at_once_are_counted_exactly(team: Team) -> None:
    """Eight writers, twenty insights, and a worker that stores vectors all the while."""
    titles = [f"insight {i}" for i in range(20)]
    for title in titles[:10]:
        team.maintainer.rpc(
            "validate_knowledge", knowledge_id=insight(team.maintainer, title)["knowledge_id"]
        )
    people = [p.inside(team.id) for p in (team.author, team.colleague, team.author, team.colleague) * 2]
    rounds = 4
    done = threading.Event()

    def work() -> None:
        service = team.world.service()
        while not done.is_set():
            for job in service.rpc("claim_embedding_jobs"):
                stored = {**job, "knowledge_id": str(job["knowledge_id"]), "embedding": AXIS}
                service.rpc("store_embeddings", embeddings=[stored])

    def act(me: Persona, key: int) -> object:
        row = insight(me, titles[key], validation_examples=[f"example {key}"])
        me.rpc("apply_insight", insight_id=row["insight_id"], success=key % 2 == 0)
        return row["outcome"]

    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(work)
        try:
            answers = race(people, act, keys=20, rounds=rounds)
        finally:
            done.set()
        worker.result(30)
    assert answers.count("created") == 20
    rows = team.world.superuser("select * from public.experiential_knowledge")
    assert len(rows) == 10 + 2 * 10
    for row in rows:
        shared = row["owner_id"] == team.maintainer.id
        key = titles.index(row["insight_title"])
        times = 8 * rounds if shared else 4 * rounds
        assert row["times_observed"] == times + shared
        assert row["applied_count"] == times
        assert row["applied_successfully"] == (times if key % 2 == 0 else 0)
        mirrored(team, row["knowledge_id"])
