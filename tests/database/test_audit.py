"""The audit: names what wants attention, under the caller's rights, and changes nothing."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from teams import NOBODY, Team
from world import refused

if TYPE_CHECKING:
    from world import Persona, World

ALL = {"contradictory", "duplicate", "expired", "failing", "junk", "unvalidated", "stale", "unused"}


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def shared(team: Team, title: str, content: str | None = None, **arguments: object) -> uuid.UUID:
    item = team.author.record(title, content, **arguments)
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    return item


def audit(persona: Persona, **arguments: object) -> set[tuple[str, uuid.UUID]]:
    return {(row["check_name"], row["knowledge_id"]) for row in persona.rpc("knowledge_audit", **arguments)}


def age(team: Team, item: uuid.UUID, days: int) -> None:
    team.world.superuser(
        "update public.knowledge_items set created_at = now() - %s * interval '1 day',"
        " updated_at = now() - %s * interval '1 day', last_accessed = now() - %s * interval '1 day' where id = %s",
        days, days, days, item,
    )  # fmt: skip


def test_anon_audits_nothing_and_arguments_are_checked(team: Team) -> None:
    with refused("42501"):
        audit(team.world.anon())
    for arguments in (
        {"checks": ["rumour"]}, {"checks": [None]}, {"max_findings": 0}, {"max_findings": 1001},
        {"stale_after_days": -1}, {"unused_after_days": None}, {"unvalidated_after_days": 40000},
    ):  # fmt: skip
        with refused("PT400"):
            audit(team.owner, **arguments)
    with refused("PT403"):
        audit(team.stranger.inside(team.id))
    with refused("PT403"):
        audit(team.stranger.inside(NOBODY))
    assert audit(team.world.sign_up("newcomer")) == set()


def test_nobody_is_told_of_what_they_may_not_see(team: Team) -> None:
    hidden = team.author.record("junk", "asdf asdf")
    seen = shared(team, "more junk", "test test")
    for persona, expected in (
        (team.author, {hidden, seen}),
        (team.maintainer, {hidden, seen}),
        (team.colleague, {seen}),
        (team.reader, {seen}),
        (team.stranger, set()),
    ):
        findings = persona.rpc("knowledge_audit", checks=["junk"])
        assert {row["knowledge_id"] for row in findings} == expected, persona.name
        assert all(row["total"] == len(expected) for row in findings), "a total would tell"
    team.author.rpc(
        "relate_knowledge",
        source_knowledge_id=hidden,
        target_knowledge_id=seen,
        relationship_type="contradicts",
    )
    assert audit(team.colleague, checks=["contradictory"]) == set()
    assert audit(team.author, checks=["contradictory"]) == {("contradictory", hidden)}


def test_each_check_finds_its_own_and_nothing_else(team: Team) -> None:
    me = team.maintainer
    good = shared(team, "Gateway", "Restart the gateway after each change of its routes.")
    me.rpc("recall_knowledge", query_text="gateway")
    expired = shared(team, "Old price", "Until 2024 the plan costs nine.", valid_to="2024-12-31")
    failing = shared(team, "Cure", "Turn it off, wait, and turn it on again.")
    me.rpc("rate_knowledge", knowledge_id=failing, application_success=False)
    junk = shared(team, "x", "lorem ipsum dolor sit amet")
    waiting = team.author.record("Waiting", "Somebody should look at this claim about ports.")
    age(team, waiting, 15)
    stale, doubtful = (
        shared(team, "Stale", "Nobody has looked here for a year."),
        shared(team, "Doubt", "Is this so still?"),
    )
    age(team, stale, 200)
    me.rpc("validate_knowledge", knowledge_id=doubtful, validation_status="needs_update")
    age(team, doubtful, 20)
    unused = shared(team, "Unused", "Nobody has ever asked about this one.")
    age(team, unused, 100)
    port, other_port = (
        shared(team, "Port", "The origin is 54321."),
        shared(team, "Port", "The origin is 54322."),
    )
    proposals = me.rpc("discover_relationships")
    twin, other_twin = (
        shared(team, "Twin", "said in the same words"),
        shared(team, "twin", "Said in the same words!"),
    )
    me.rpc("discover_duplicates")
    retired = shared(team, "Retired junk", "test", valid_to="2020-01-01")
    me.rpc("validate_knowledge", knowledge_id=retired, validation_status="deprecated")

    rows = me.rpc("knowledge_audit")
    assert [row["check_name"] for row in rows] == sorted(
        (row["check_name"] for row in rows),
        key=[
            "contradictory",
            "duplicate",
            "expired",
            "failing",
            "junk",
            "unvalidated",
            "stale",
            "unused",
        ].index,
    )
    found = {(row["check_name"], row["knowledge_id"]): row for row in rows}
    pair = {key for key in found if key[0] in ("contradictory", "duplicate")}
    assert set(found) - pair == {
        ("expired", expired),
        ("failing", failing),
        ("junk", junk),
        ("unvalidated", waiting),
        ("stale", stale),
        ("stale", doubtful),
        ("unused", stale),
        ("unused", unused),
    }
    assert {frozenset((item, found[check, item]["related_id"])) for check, item in pair} == {
        frozenset((port, other_port)),
        frozenset((twin, other_twin)),
    }
    assert {found[key]["proposal_id"] for key in pair} >= {proposals[0]["relationship_id"]}
    assert all(row["reason"] and row["suggestion"] and row["since"] for row in rows)
    assert good not in {row["knowledge_id"] for row in rows}
    assert "failed 1 of 1" in found["failing", failing]["reason"]
    assert "20 days" in found["stale", doubtful]["reason"]

    me.rpc("decide_relationship", relationship_id=proposals[0]["relationship_id"], accept=True)
    [row] = me.rpc("knowledge_audit", checks=["contradictory"])
    assert row["proposal_id"] is None
    me.rpc("supersede_knowledge", knowledge_id=row["knowledge_id"], replacement_id=row["related_id"])
    assert audit(me, checks=["contradictory"]) == set()


def test_findings_are_capped_and_counted_and_changed_by_nothing(team: Team) -> None:
    for number in range(5):
        team.author.record(
            f"junk {number}", f"test {number}", importance_score=10 + number, project_context="alpha"
        )
    before = team.world.superuser("select * from public.knowledge_items order by id")
    rows = team.author.rpc("knowledge_audit", max_findings=2)
    assert [(row["title"], row["total"]) for row in rows] == [("junk 4", 5), ("junk 3", 5)]
    assert len(audit(team.author, project_context="alpha")) == 5
    assert audit(team.author, project_context="beta") == set()
    assert team.world.superuser("select * from public.knowledge_items order by id") == before


def test_what_is_junk_and_what_is_not(world: World) -> None:
    junk = ["test", "Testing 123", "asdf", "foo bar baz", "hello world!", "todo", "n/a", "lorem ipsum dolor",
            "xxxxxxxxxxxx", "....", "---", "no no no no", "aaaa" * 200, "Lorem ipsum dolor sit amet, " * 20,
            "this is just a test", "ok"]  # fmt: skip
    fine = ["Use port 54321.", "重启网关后再试", "the tests pass on main only", "Hello world programs print too much",
            "todo lists belong in the tracker", "npm ci", "git gc --prune=now",
            "Content negotiation needs a Vary header", "42 is the limit", "Перезапустите шлюз",
            "a" + "b" * 200]  # fmt: skip
    rows = world.service().sql(
        "select t, private.junk_reason(t) as reason from unnest(%s::text[]) t", [*junk, *fine]
    )
    reasons = {row["t"]: row["reason"] for row in rows}
    assert [text for text in junk if reasons[text] is None] == []
    assert {text: reasons[text] for text in fine if reasons[text] is not None} == {
        "npm ci": "too short to say anything"
    }
