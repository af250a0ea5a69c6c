"""What a session was worth is worked out, never typed in."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from teams import NOBODY, Team
from world import refused

if TYPE_CHECKING:
    from world import Persona, Row, World


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def end(persona: Persona, **arguments: object) -> Row:
    [ended] = persona.rpc("end_session", **arguments)
    return ended


# -- what must fail --------------------------------------------------------------------------------------------


COMPUTED = (
    "end_time",
    "knowledge_items_accessed",
    "knowledge_items_created",
    "breakthrough_moments",
    "computed_quality_score",
    "session_quality_score",
    "session_duration",
    "start_time",
    "owner_id",
    "workspace_id",
    "session_identifier",
)


def test_what_is_computed_is_not_typed_in(team: Team) -> None:
    author = team.author.start_session("mine")
    for column in COMPUTED:
        with refused("42501"):
            author.sql(f"update public.ai_sessions set {column} = default where id = %s", author.session)
    with refused("42501"):
        author.sql(
            "insert into public.session_knowledge_links (session_id, knowledge_id, interaction_type) "
            "values (%s, %s, 'breakthrough')",
            author.session,
            NOBODY,
        )


def test_a_breakthrough_is_marked_in_a_session_about_something_seen(team: Team) -> None:
    colleagues = team.colleague.record("Pending", "Nobody else sees this yet.")
    author = team.author.start_session("mine")
    with refused("42501"):
        team.world.anon().rpc("mark_breakthrough", knowledge_id=colleagues)
    with refused("PT400", "one of a session"):
        team.author.rpc("mark_breakthrough", knowledge_id=team.author.record("Mine", "Seen by me."))
    for hidden in (colleagues, NOBODY):
        with refused("PT404", "no such knowledge item"):
            author.rpc("mark_breakthrough", knowledge_id=hidden)
    with refused("PT403"):
        team.colleague.inside(team.id, author.session).rpc("mark_breakthrough", knowledge_id=colleagues)
    with refused("PT451"):
        author.rpc(
            "mark_breakthrough",
            knowledge_id=author.record("Seen", "Seen."),
            learning_context="postgresql://kp:s3cr3t-w0rd@db.internal/kp",
        )
    assert end(author)["breakthrough_moments"] == 0


def test_a_score_has_its_range(team: Team) -> None:
    author = team.author.start_session("mine")
    for score in (0, 101):
        with refused("23514"):
            author.rpc("end_session", session_quality_score=score)


# -- what it comes to ------------------------------------------------------------------------------------------


def test_the_story_of_a_session(team: Team) -> None:
    trusted = team.maintainer.record("Gateway", "Raise the gateway timeout to thirty seconds.")
    team.maintainer.rpc("validate_knowledge", knowledge_id=trusted)
    team.colleague.rpc(
        "record_gotcha",
        problem_description="gateway closes idle connections",
        attempted_solution="restart it",
        attempt_outcome="failed",
    )
    [gotcha] = team.colleague.sql("select knowledge_id from public.technical_gotchas")
    team.maintainer.rpc("validate_knowledge", knowledge_id=gotcha["knowledge_id"])

    author = team.author.start_session("monday", project_context="gateway")
    assert author.rpc("recall_knowledge", query_text="gateway timeout")
    author.rpc("rate_knowledge", knowledge_id=trusted, effectiveness_rating=10, application_success=True)
    mine = author.record("Keepalive", "Keepalive probes have to come more often than the idle timeout.")
    [marked] = author.rpc("mark_breakthrough", knowledge_id=mine, learning_context="watching packets")
    assert (marked["outcome"], marked["breakthrough_moments"]) == ("marked", 1)
    [again] = author.rpc("mark_breakthrough", knowledge_id=mine)
    assert (again["outcome"], again["breakthrough_moments"]) == ("unchanged", 1)
    author.rpc(
        "record_decision_stage",
        decision_topic="Keepalive",
        understanding="Every ten seconds.",
        is_final=True,
        breakthrough="The proxy counts from the last byte, not from the last request.",
    )

    [running] = author.sql("select * from public.ai_sessions where id = %s", author.session)
    assert (running["computed_quality_score"], running["session_duration"]) == (None, None)
    ended = end(author, summary="Found the idle timeout.")
    assert ended["session_duration"] == ended["end_time"] - ended["start_time"]
    assert (
        ended["knowledge_items_created"],
        ended["knowledge_items_accessed"],
        ended["breakthrough_moments"],
    ) == (2, 2, 2)
    # 40 + 20·2/4 + 5·2/5 + 15·1/3 + 10·4.5/4.5 + 10·2/3, rounded
    assert ended["session_quality_score"] == 74

    assert end(author.inside(team.id), session_identifier="monday") == ended, "ended again, it is the same"
    given = end(author.inside(team.id), session_identifier="monday", session_quality_score=12)
    assert given["session_quality_score"] == 12, "who was there has the last word"
    kept = end(author.inside(team.id), session_identifier="monday")
    assert kept["session_quality_score"] == 12
    [stored] = author.sql("select * from public.ai_sessions where id = %s", author.session)
    assert (stored["given_quality_score"], stored["computed_quality_score"]) == (12, 74)

    team.author.rpc("start_session", session_identifier="monday")
    [resumed] = author.sql("select * from public.ai_sessions where id = %s", author.session)
    assert (resumed["end_time"], resumed["computed_quality_score"], resumed["breakthrough_moments"]) == (
        None,
        None,
        2,
    )
    author.rpc("forget_knowledge", knowledge_id=mine)
    after = end(author)
    assert (after["knowledge_items_created"], after["breakthrough_moments"]) == (1, 1), (
        "what is gone is not counted"
    )


def test_a_session_that_did_nothing_has_no_quality(team: Team) -> None:
    ended = end(team.author.start_session("idle"))
    assert (ended["session_quality_score"], ended["breakthrough_moments"]) == (None, 0)


def test_solving_what_had_resisted_is_a_breakthrough_and_solving_at_once_is_none(team: Team) -> None:
    author = team.author.start_session("tuesday")
    author.rpc("record_gotcha", problem_description="easy: port is taken", working_solution="another port")
    hard = {"problem_description": "hard: replication slot is lost"}
    author.rpc("record_gotcha", **hard, attempted_solution="restart", attempt_outcome="failed")
    assert end(author)["breakthrough_moments"] == 0
    later = team.author.start_session("wednesday")
    later.rpc("record_gotcha", **hard, attempted_solution="recreate the slot", attempt_outcome="worked")
    assert end(later)["breakthrough_moments"] == 1
    [link] = later.sql("select * from public.session_knowledge_links where interaction_type = 'breakthrough'")
    assert (link["session_id"], link["breakthrough_indicator"]) == (later.session, True)


def test_the_bounds_of_quality(world: World) -> None:
    for numbers, quality in (
        ("0, 0, 0, 0, null, 0", None),
        ("0, 1, 0, 0, null, 0", 41),
        ("0, 0, 0, 100000, 1, 0", 15),
        ("100000, 100000, 100000, 0, 10, 100000", 100),
    ):
        [row] = world.superuser(f"select private.session_quality({numbers}) as quality")
        assert row["quality"] == quality, numbers


def test_edits_and_validations_are_linked_to_their_session(team: Team) -> None:
    author = team.author.start_session("writing")
    item = author.record("Draft", "First wording.")
    author.sql("update public.knowledge_items set content = 'Second wording.' where id = %s", item)
    author.sql("update public.knowledge_items set importance_score = 60 where id = %s", item)
    maintainer = team.maintainer.start_session("reviewing")
    maintainer.rpc("validate_knowledge", knowledge_id=item, note="checked")
    # An edit by its author makes it pending again: that is an edit, not a validation.
    author.sql("update public.knowledge_items set content = 'Third wording.' where id = %s", item)
    links = team.world.superuser(
        "select session_id, interaction_type, learning_context, notes from public.session_knowledge_links "
        "where knowledge_id = %s order by interaction_timestamp, interaction_type",
        item,
    )
    assert [(link["interaction_type"], link["session_id"]) for link in links] == [
        ("created", author.session),
        ("updated", author.session),
        ("validated", maintainer.session),
        ("updated", author.session),
    ]
    assert (links[2]["learning_context"], links[2]["notes"]) == ("validated", "checked")
    assert isinstance(author.session, uuid.UUID)
