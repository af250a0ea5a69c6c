"""Interaction patterns: who may write what, sightings that merge, matches that prefer what serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from teams import NOBODY, Team, assert_seen_with_its_item, forbid_forgeries, race
from world import refused

if TYPE_CHECKING:
    import uuid

    from world import Persona, Row, World


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def seen(persona: Persona, name: str = "Wants a plan", kind: str = "planning", **arguments: object) -> Row:
    [row] = persona.rpc("record_interaction_pattern", pattern_name=name, situation_type=kind, **arguments)
    return row


def whole(team: Team, item: uuid.UUID) -> Row:
    [row] = team.world.superuser("select * from public.interaction_patterns where knowledge_id = %s", item)
    return row


# -- what must fail --------------------------------------------------------------------------------------------


def test_nothing_can_be_forged(team: Team) -> None:
    mine = seen(team.author)
    forbid_forgeries(
        team,
        "interaction_patterns",
        {"pattern_name": "Asks twice", "situation_type": "review"},
        own={
            "pattern_frequency": 9,
            "last_observed": "2020-01-01",
            "effectiveness_sum": 900,
            "effectiveness_count": 9,
            "examples": [{"example": "forged"}],
        },
        item=mine["knowledge_id"],
    )
    for column, value in (("effectiveness_score", 100), ("pattern_name", "x"), ("situation_type", "x")):
        with refused("42501"):
            team.author.sql(f"update public.interaction_patterns set {column} = %s where true", value)
    with refused("PT403", "readers"):
        seen(team.reader)


def test_arguments_are_checked(team: Team) -> None:
    for name, kind in ((" ", "planning"), ("Wants a plan", " ")):
        with refused("PT400"):
            seen(team.author, name, kind)
    with refused("23514", "effectiveness_score_check"):
        seen(team.author, effectiveness_score=101)
    seen(team.author)
    with refused("PT400", "between 1 and 100"):
        seen(team.author, effectiveness_score=101)
    for arguments in ({"situation": " "}, {"situation": "x", "max_results": 0}):
        with refused("PT400"):
            team.author.rpc("match_interaction_patterns", **arguments)
    secret = {"example": "postgresql://kp:s3cr3t-w0rd@db.internal/kp"}
    secrets: tuple[dict[str, Any], ...] = ({"example": secret}, {"pattern_metadata": secret})
    for arguments in secrets:
        with refused("PT451"):
            seen(team.author, **arguments)
        assert seen(team.author, allow_credentials=True, **arguments)["outcome"] == "merged"


def test_a_pattern_is_visible_exactly_when_its_item_is(team: Team) -> None:
    assert_seen_with_its_item(team, "interaction_patterns", seen(team.author)["knowledge_id"])


def test_a_merge_reveals_no_pending_pattern(team: Team) -> None:
    secret = seen(team.author, user_behavior_description="Says zanzibar.")
    hers = seen(team.colleague)
    assert (hers["outcome"], hers["pattern_frequency"]) == ("created", 1)
    assert team.colleague.rpc("match_interaction_patterns", situation="zanzibar") == []
    for item in (secret["knowledge_id"], NOBODY):
        with refused("PT404", "no such record"):
            team.colleague.sql("select private.count_interaction_pattern(%s, 1, null, true)", item)
    assert whole(team, secret["knowledge_id"])["pattern_frequency"] == 1


def test_a_sighting_by_a_colleague_counts_and_changes_no_text(team: Team) -> None:
    item = seen(team.author, effectiveness_score=80)["knowledge_id"]
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    before = whole(team, item)
    merged = seen(
        team.colleague,
        effectiveness_score=41,
        example={"said": "plan first"},
        success_indicators=["nods"],
        ai_response_expected="Other",
    )
    assert (merged["outcome"], merged["effectiveness_score"], merged["example_count"]) == ("merged", 61, 1)
    after = whole(team, item)
    assert {name for name in after if after[name] != before[name]} == {
        "pattern_frequency",
        "last_observed",
        "effectiveness_score",
        "effectiveness_sum",
        "effectiveness_count",
        "examples",
    }
    assert merged["validation_status"] == "validated"


# -- what must work --------------------------------------------------------------------------------------------


def test_the_companion_is_made_and_follows_text_not_counts(team: Team) -> None:
    item = team.author.value(
        "insert into public.interaction_patterns (pattern_name, situation_type, effectiveness_score)"
        " values ('Wants a plan', 'planning', 50) returning knowledge_id"
    )
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    [before] = team.world.superuser("select xmin, * from public.knowledge_items where id = %s", item)
    assert before["knowledge_type"] == "contextual"
    assert (
        seen(team.author, " wants A  plan", "Planning", effectiveness_score=100)["effectiveness_score"] == 75
    )
    assert team.world.superuser("select xmin, * from public.knowledge_items where id = %s", item) == [before]
    seen(team.author, success_indicators=["nods"], failure_indicators=["sighs"], pattern_metadata={"a": 1})
    seen(team.author, success_indicators=["smiles", "nods"], pattern_metadata={"a": 2, "b": 3})
    row = whole(team, item)
    assert (row["success_indicators"], row["failure_indicators"]) == (["nods", "smiles"], ["sighs"])
    assert row["pattern_metadata"] == {"a": 1, "b": 3}
    [after] = team.world.superuser("select * from public.knowledge_items where id = %s", item)
    assert "Signs of success: nods; smiles" in after["content"]
    assert after["validation_status"] == "pending"


def test_the_story_of_a_pattern(team: Team) -> None:
    """Seen in one session, again in another, matched in words in a third, rated, ranked higher after."""
    monday = team.author.start_session("monday")
    first = seen(
        monday,
        "Shows the log first",
        "debugging",
        user_behavior_description="Pastes a long log and asks what is wrong.",
        ai_response_expected="Name the first failing line of the log before anything else.",
        effectiveness_score=90,
    )
    tuesday = team.author.start_session("tuesday")
    again = seen(
        tuesday, "shows the log first", "debugging", effectiveness_score=70, success_indicators=["thanks"]
    )
    assert (again["pattern_id"], again["outcome"], again["pattern_frequency"]) == (
        first["pattern_id"],
        "merged",
        2,
    )
    assert again["effectiveness_score"] == 80
    rival = seen(
        tuesday,
        "Shows the log and leaves",
        "support",
        user_behavior_description="Pastes a long log and asks what is wrong.",
        ai_response_expected="Name the last failing line of the log before anything else.",
        effectiveness_score=10,
    )
    for row in (first, rival):
        team.maintainer.rpc("validate_knowledge", knowledge_id=row["knowledge_id"])

    wednesday = team.colleague.start_session("wednesday")
    question = "somebody pasted a long log and asks what is wrong with it"
    found = wednesday.rpc("match_interaction_patterns", situation=question)
    assert [row["pattern_id"] for row in found] == [first["pattern_id"], rival["pattern_id"]]
    assert "seen 2 times" in found[0]["reason"]
    only = wednesday.rpc("match_interaction_patterns", situation=question, situation_type="Support")
    assert [row["pattern_id"] for row in only] == [rival["pattern_id"]]

    ranked = [row["knowledge_id"] for row in wednesday.rpc("search_knowledge", query_text=question)]
    for _ in range(8):
        for item, rating in ((ranked[1], 10), (ranked[0], 1)):
            wednesday.rpc(
                "rate_knowledge",
                knowledge_id=item,
                effectiveness_rating=rating,
                application_success=rating > 5,
            )
    after = [row["knowledge_id"] for row in wednesday.rpc("search_knowledge", query_text=question)]
    assert after == ranked[::-1]


def test_sightings_at_once_are_counted_exactly(team: Team) -> None:
    """Eight writers, twenty patterns: half of them of the writers' own, half shared by the workspace."""
    names = [f"pattern {i}" for i in range(20)]
    for name in names[:10]:
        team.maintainer.rpc("validate_knowledge", knowledge_id=seen(team.maintainer, name)["knowledge_id"])
    people = [p.inside(team.id) for p in (team.author, team.colleague, team.author, team.colleague) * 2]
    rounds = 4

    def act(me: Persona, key: int) -> object:
        return seen(
            me, names[key], effectiveness_score=key + 1, example={"key": key}, success_indicators=["a", "b"]
        )["outcome"]

    answers = race(people, act, keys=20, rounds=rounds)
    assert answers.count("created") == 20
    rows = team.world.superuser("select * from public.interaction_patterns")
    assert len(rows) == 10 + 2 * 10
    for row in rows:
        shared = row["owner_id"] == team.maintainer.id
        key = names.index(row["pattern_name"])
        times = 8 * rounds if shared else 4 * rounds
        assert row["pattern_frequency"] == times + shared
        assert (row["effectiveness_count"], row["effectiveness_sum"]) == (times, times * (key + 1))
        assert row["effectiveness_score"] == key + 1
        assert len(row["examples"]) == times
