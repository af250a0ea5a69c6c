"""Decisions: who may write what, stages that accumulate, a history that can be asked."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

from teams import NOBODY, Team, assert_seen_with_its_item, forbid_forgeries, race
from world import refused

if TYPE_CHECKING:
    from world import Persona, Row, World


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def stage(
    persona: Persona, understanding: str = "One row a session.", topic: str = "Partitioning", **more: object
) -> Row:
    [row] = persona.rpc("record_decision_stage", decision_topic=topic, understanding=understanding, **more)
    return row


def whole(team: Team, item: uuid.UUID) -> Row:
    [row] = team.world.superuser("select * from public.decision_evolution where knowledge_id = %s", item)
    return row


# -- what must fail --------------------------------------------------------------------------------------------


def test_nothing_can_be_forged(team: Team) -> None:
    mine = stage(team.author)
    forbid_forgeries(
        team,
        "decision_evolution",
        {"decision_topic": "Naming", "initial_understanding": "Any name will do."},
        own={
            "evolution_stages": [{"understanding": "forged"}],
            "evolution_timeline": [{"event": "decided"}],
            "breakthrough_moments": [{"breakthrough": "forged"}],
        },
        item=mine["knowledge_id"],
    )
    for column in ("decision_topic", "project_context"):
        with refused("42501"):
            team.author.sql(f"update public.decision_evolution set {column} = 'x' where true")
    with refused("PT403", "readers"):
        stage(team.reader)


def test_arguments_are_checked(team: Team) -> None:
    for topic, understanding in ((" ", "x"), ("x", " ")):
        with refused("PT400"):
            stage(team.author, understanding, topic)
    with refused("PT400"):
        team.author.rpc("decision_history", max_results=0)
    secret = "postgresql://kp:s3cr3t-w0rd@db.internal/kp"
    secrets: tuple[dict[str, Any], ...] = (
        {"rationale": secret},
        {"breakthrough": secret},
        {"alternatives": {"other": secret}},
    )
    for more in secrets:
        with refused("PT451"):
            stage(team.author, **more)
        stage(team.author, allow_credentials=True, **more)


def test_a_decision_is_visible_exactly_when_its_item_is(team: Team) -> None:
    assert_seen_with_its_item(team, "decision_evolution", stage(team.author)["knowledge_id"])


def test_a_merge_reveals_no_pending_decision(team: Team) -> None:
    secret = stage(team.author, "Zanzibar.")
    hers = stage(team.colleague)
    assert (hers["outcome"], hers["stage"]) == ("created", 1)
    assert [row["knowledge_id"] for row in team.colleague.rpc("decision_history")] == [hers["knowledge_id"]]
    for item in (secret["knowledge_id"], NOBODY):
        with refused("PT404", "no such record"):
            team.colleague.sql("select private.append_decision_stage(%s, '{}')", item)
    assert len(whole(team, secret["knowledge_id"])["evolution_stages"]) == 1


def test_a_stage_by_a_colleague_is_a_proposal(team: Team) -> None:
    item = stage(team.author, is_final=True, rationale="Simple.")["knowledge_id"]
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    before = whole(team, item)
    merged = stage(
        team.colleague, "A partition a month.", is_final=True, rationale="Fast.", influences=["size"]
    )
    assert (merged["outcome"], merged["stage"], merged["is_proposal"]) == ("merged", 2, True)
    after = whole(team, item)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"evolution_stages", "evolution_timeline"}
    assert after["evolution_stages"][1]["understanding"] == "A partition a month."
    assert after["evolution_stages"][1]["is_proposal"]
    assert [entry["event"] for entry in after["evolution_timeline"]] == ["decided", "proposed"]
    assert merged["validation_status"] == "validated"


# -- what must work --------------------------------------------------------------------------------------------


def test_the_companion_is_made_and_follows(team: Team) -> None:
    item = team.author.value(
        "insert into public.decision_evolution (decision_topic, initial_understanding)"
        " values ('Partitioning', 'One table.') returning knowledge_id"
    )
    row = whole(team, item)
    assert row["current_understanding"] == "One table."
    assert [s["understanding"] for s in row["evolution_stages"]] == ["One table."]
    assert [s["event"] for s in row["evolution_timeline"]] == ["initial"]
    [found] = team.world.superuser("select * from public.knowledge_items where id = %s", item)
    assert (found["knowledge_type"], found["category"]) == ("contextual", "decision")
    with refused("PT409", "already"):
        team.author.sql("insert into public.decision_evolution (decision_topic) values ('partitioning')")
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    team.author.sql("update public.decision_evolution set final_understanding = 'By month.' where true")
    [found] = team.world.superuser("select * from public.knowledge_items where id = %s", item)
    assert "Decided: By month." in found["content"]
    assert (found["validation_status"], found["context_data"]["is_final"]) == ("pending", True)


def test_stages_accumulate(team: Team) -> None:
    author = team.author.start_session("work", project_context="kp")
    first = stage(author, "One table.", influences=["habit"], alternatives=Jsonb(["two tables"]))
    stage(
        author,
        "Partitions.",
        influences=["size", "habit"],
        rationale="It grows.",
        breakthrough="Ids can carry time.",
    )
    last = stage(
        author,
        "Partitions by id, a month each.",
        is_final=True,
        alternatives=Jsonb(["by start_time"]),
        lessons_learned="Measure first.",
    )
    assert (last["decision_id"], last["stage"], last["is_final"]) == (first["decision_id"], 3, True)
    elsewhere = stage(author, "No.", project_context="other")
    assert elsewhere["outcome"] == "created", "the same topic of another project is another decision"
    row = whole(team, first["knowledge_id"])
    assert row["initial_understanding"] == "One table."
    assert row["current_understanding"] == row["final_understanding"] == "Partitions by id, a month each."
    assert row["key_influences"] == ["habit", "size"]
    assert row["alternative_approaches"] == ["two tables", "by start_time"]
    assert (row["decision_rationale"], row["lessons_learned"]) == ("It grows.", "Measure first.")
    assert [s["stage"] for s in row["evolution_stages"]] == [1, 2, 3]
    assert [s["event"] for s in row["evolution_timeline"]] == ["initial", "revised", "decided"]
    assert {s["session"] for s in row["evolution_timeline"]} == {str(author.session)}
    assert [b["breakthrough"] for b in row["breakthrough_moments"]] == ["Ids can carry time."]


def test_the_story_of_a_decision(team: Team) -> None:
    """Begun in one session, decided in another, found in words in a third, rated, ranked higher after."""
    monday = team.author.start_session("monday", project_context="kp")
    first = stage(monday, "Sessions lie in one table.", "How to partition the sessions table")
    tuesday = team.author.start_session("tuesday", project_context="kp")
    again = stage(
        tuesday,
        "Sessions are partitioned by month.",
        "how to partition the Sessions table",
        is_final=True,
        rationale="Old months can be detached.",
    )
    assert (again["decision_id"], again["outcome"], again["stage"]) == (first["decision_id"], "merged", 2)
    rival = stage(
        tuesday,
        "Links are partitioned by month.",
        "How to partition the links table of sessions",
        is_final=True,
        rationale="Old months can be detached.",
    )
    for row in (first, rival):
        team.maintainer.rpc("validate_knowledge", knowledge_id=row["knowledge_id"])

    wednesday = team.colleague.start_session("wednesday")
    question = "why is the sessions table partitioned by month?"
    found = wednesday.rpc("decision_history", decision_topic=question)
    assert {row["decision_id"] for row in found} == {first["decision_id"], rival["decision_id"]}
    [exact, *_] = wednesday.rpc("decision_history", decision_topic="How to partition the sessions table")
    assert (exact["decision_id"], exact["match_reason"]) == (first["decision_id"], "this topic")
    assert exact["initial_understanding"] == "Sessions lie in one table."
    assert exact["final_understanding"] == "Sessions are partitioned by month."
    assert len(exact["stages"]) == len(exact["timeline"]) == 2
    assert exact["is_in_force"]
    assert len(wednesday.rpc("decision_history", project_context="kp")) == 2
    assert wednesday.rpc("decision_history", project_context="other") == []

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


def test_a_vector_alone_finds_a_decision_and_what_ended_is_not_in_force(team: Team) -> None:
    vectors = {"Index": [1.0, *[0.0] * 383], "Port": [0.0, 1.0, *[0.0] * 382]}
    for topic, vector in vectors.items():
        [made] = team.author.rpc(
            "record_decision_stage", decision_topic=topic, understanding=f"{topic} is so."
        )
        team.author.sql(
            "update public.knowledge_items set content_embedding = %s::extensions.vector,"
            " embedding_model = 'all-MiniLM-L6-v2' where id = %s",
            str(vector),
            made["knowledge_id"],
        )
    found = team.author.rpc("decision_history", topic_embedding=str(vectors["Port"]))
    assert [row["decision_topic"] for row in found] == ["Port"]
    assert found[0]["is_in_force"]
    team.author.sql(
        "update public.knowledge_items set valid_to = '2020-01-01' where id = %s", found[0]["knowledge_id"]
    )
    force = {row["decision_topic"]: row["is_in_force"] for row in team.author.rpc("decision_history")}
    assert force == {"Index": True, "Port": False}


def test_stages_at_once_are_all_kept(team: Team) -> None:
    """Eight writers, twenty decisions: half of them of the writers' own, half shared by the workspace."""
    topics = [f"topic {i}" for i in range(20)]
    for topic in topics[:10]:
        item = stage(team.maintainer, "At first.", topic)["knowledge_id"]
        team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    people = [p.inside(team.id) for p in (team.author, team.colleague, team.author, team.colleague) * 2]
    rounds = 3
    said: list[str] = []

    def act(me: Persona, key: int) -> object:
        words = str(uuid.uuid4())
        said.append(words)
        return stage(me, words, topics[key])["outcome"]

    answers = race(people, act, keys=20, rounds=rounds)
    assert answers.count("created") == 20
    rows = team.world.superuser("select * from public.decision_evolution")
    assert len(rows) == 10 + 2 * 10
    kept: list[str] = []
    for row in rows:
        shared = row["owner_id"] == team.maintainer.id
        stages = row["evolution_stages"]
        assert len(stages) == (1 + 8 * rounds if shared else 4 * rounds)
        assert [s["stage"] for s in stages] == list(range(1, len(stages) + 1))
        assert [s["stage"] for s in row["evolution_timeline"]] == [s["stage"] for s in stages]
        assert row["current_understanding"] == ("At first." if shared else stages[-1]["understanding"])
        kept += [s["understanding"] for s in stages[shared:]]
    assert sorted(kept) == sorted(said)
