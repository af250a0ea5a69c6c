"""Relationships: who may state, see and decide them; no cycles; proposals; walks that stay bounded."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from teams import NOBODY, Team
from world import call, refused, vector

if TYPE_CHECKING:
    from world import Persona, World

INSERT = (
    "insert into public.knowledge_relationships (source_knowledge_id, target_knowledge_id, relationship_type)"
    " values (%s, %s, %s) returning id"
)


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def relate(
    persona: Persona, source: uuid.UUID, target: uuid.UUID, kind: str, **more: object
) -> dict[str, object]:
    [row] = persona.rpc(
        "relate_knowledge",
        source_knowledge_id=source,
        target_knowledge_id=target,
        relationship_type=kind,
        **more,
    )
    return row


def towards(axis: int, share: float = 1.0) -> list[float]:
    values = [0.0] * 384
    values[axis] = share
    values[-1] = (1 - share**2) ** 0.5
    return values


# -- what must fail --------------------------------------------------------------------------------------------


def test_anon_sees_and_calls_nothing(team: Team) -> None:
    a, b = team.shared("a"), team.shared("b")
    relate(team.author, a, b, "enhances")
    anon = team.world.anon()
    with refused("42501"):
        anon.sql("select * from public.knowledge_relationships")
    with refused("42501"):
        relate(anon, a, b, "similar_to")
    with refused("42501"):
        anon.rpc("knowledge_neighborhood", knowledge_id=a)


def test_a_foreign_item_and_no_item_answer_alike(team: Team) -> None:
    mine = team.stranger.record("mine")
    hidden = team.author.record("hidden from all but its author and maintainers")
    shared = team.shared("shared")
    for persona, own, foreign in ((team.stranger, mine, shared), (team.colleague, shared, hidden)):
        answers = set()
        for other in (foreign, NOBODY):
            for source, target in ((own, other), (other, own), (other, other)):
                with refused("PT404") as caught:
                    relate(persona, source, target, "enhances")
                answers.add(str(caught.value))
                if source != target:
                    with refused("42501") as caught:
                        persona.sql(INSERT, source, target, "enhances")
                    answers.add(str(caught.value))
            for function in ("knowledge_neighborhood", "discover_relationships"):
                with refused("PT404") as caught:
                    persona.rpc(function, knowledge_id=other)
                answers.add(str(caught.value).splitlines()[0])
        assert {answer.splitlines()[0] for answer in answers} == {
            "no such knowledge item",
            'new row violates row-level security policy for table "knowledge_relationships"',
        }


def test_a_relationship_with_a_hidden_end_is_hidden_and_answers_as_none(team: Team) -> None:
    hidden, shared = team.author.record("hidden"), team.shared("shared")
    stated = relate(team.author, shared, hidden, "builds_upon")["relationship_id"]
    for persona in (team.colleague, team.reader, team.stranger):
        assert persona.sql("select 1 from public.knowledge_relationships") == [], persona.name
        for relationship in (stated, NOBODY):
            with refused("PT404", "no such relationship"):
                persona.rpc("remove_relationship", relationship_id=relationship)
            with refused("PT404", "no such relationship"):
                persona.rpc("decide_relationship", relationship_id=relationship, accept=True)
            assert (
                persona.value("select private.settle_relationship(%s, false, null, null)", relationship)
                is False
            )
    found = team.colleague.rpc("knowledge_neighborhood", knowledge_id=shared)
    assert [row["knowledge_id"] for row in found] == [shared]
    assert len(team.maintainer.rpc("knowledge_neighborhood", knowledge_id=shared)) == 2


def test_direct_writes_cannot_forge(team: Team) -> None:
    a, b = team.shared("a"), team.shared("b")
    for column, value in (
        ("owner_id", team.colleague.id),
        ("workspace_id", team.strangers_id),
        ("discovered_in_session", NOBODY),
        ("decided_by", team.owner.id),
        ("decided_at", "2020-01-01"),
        ("created_at", "2020-01-01"),
        ("id", NOBODY),
        ("status", "rejected"),
    ):
        with refused("42501"):
            team.author.sql(
                f"insert into public.knowledge_relationships (source_knowledge_id, target_knowledge_id,"
                f" relationship_type, {column}) values (%s, %s, 'enhances', %s)",
                a,
                b,
                value,
            )
    [made] = team.author.sql(INSERT, a, b, "enhances")
    [row] = team.author.sql("select owner_id, workspace_id, decided_by from public.knowledge_relationships")
    assert row == {"owner_id": team.author.id, "workspace_id": team.id, "decided_by": team.author.id}
    for column, value in (
        ("status", "rejected"),
        ("source_knowledge_id", b),
        ("owner_id", team.colleague.id),
        ("workspace_id", team.strangers_id),
        ("relationship_type", "depends_on"),
        ("reason", "because"),
    ):
        with refused("42501"):
            team.author.sql(f"update public.knowledge_relationships set {column} = %s where true", value)
    for persona in (team.colleague, team.reader, team.stranger):
        changed = persona.sql(
            "update public.knowledge_relationships set strength = 0 where true returning id"
        )
        gone = persona.sql("delete from public.knowledge_relationships where true returning id")
        assert changed == gone == [], persona.name
    with refused("23505"):
        team.author.sql(INSERT, a, b, "enhances")
    with refused("23514", "knowledge_relationships_self_check"):
        team.author.sql(INSERT, a, a, "enhances")
    with refused("23514", "knowledge_relationships_type_check"):
        team.author.sql(INSERT, a, b, "hates")
    with refused("23514", "knowledge_relationships_strength_check"):
        team.author.sql("update public.knowledge_relationships set strength = 1.5 where id = %s", made["id"])


def test_readers_state_propose_and_decide_nothing(team: Team) -> None:
    a, b = team.shared("Port", "The port is 1."), team.shared("Port", "The port is 2.")
    with refused("42501"):
        relate(team.reader, a, b, "enhances")
    with refused("PT403"):
        team.reader.rpc("discover_relationships")
    [proposal] = team.author.rpc("discover_relationships")
    with refused("PT403"):
        team.reader.rpc("decide_relationship", relationship_id=proposal["relationship_id"], accept=True)
    with refused("PT403"):
        team.reader.rpc("remove_relationship", relationship_id=proposal["relationship_id"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relationship_type": "hates"}, "no relationship type"),
        ({"relationship_type": None}, "no relationship type"),
        ({"strength": 1.1}, "strength is between"),
        ({"strength": -0.1}, "strength is between"),
        ({"strength": None}, "strength is between"),
    ],
)
def test_arguments_are_checked(world: World, arguments: dict[str, object], message: str) -> None:
    ana = world.sign_up("ana")
    given: dict[str, object] = {
        "source_knowledge_id": ana.record("a"),
        "target_knowledge_id": ana.record("b"),
        "relationship_type": "enhances",
    }
    with refused("PT400", message):
        ana.rpc("relate_knowledge", **{**given, **arguments})


def test_the_two_ends_are_two_and_of_one_workspace(world: World) -> None:
    ana = world.sign_up("ana")
    team = world.workspace("team", owner=ana)
    here, there = ana.record("here"), ana.inside(team).record("there")
    with refused("PT400", "with itself"):
        relate(ana, here, here, "similar_to")
    with refused("PT400", "two workspaces"):
        relate(ana, here, there, "similar_to")
    with refused("42501"):
        ana.sql(INSERT, here, there, "similar_to")
    with refused("PT400", "two workspaces"):
        world.service().sql(INSERT, here, there, "similar_to")


def test_a_cycle_is_refused_and_named(world: World) -> None:
    ana = world.sign_up("ana")
    a, b, c, d = (ana.record(title) for title in ("Alpha", "Beta", "Gamma", "Delta"))
    relate(ana, a, b, "depends_on")
    relate(ana, c, b, "required_for")  # Beta needs Gamma
    relate(ana, d, c, "required_for")
    for act in (
        lambda: relate(ana, c, a, "depends_on"),
        lambda: relate(ana, a, c, "required_for"),
        lambda: ana.sql(INSERT, c, a, "depends_on"),
        lambda: world.service().sql(INSERT, c, a, "depends_on"),
    ):
        with refused("PT409", 'cycle: "Gamma" needs "Alpha" needs "Beta" needs "Gamma"'):
            act()
    with refused("PT409", 'cycle: "Beta" needs "Alpha" needs "Beta"'):
        relate(ana, a, b, "required_for")
    relate(ana, a, d, "depends_on")  # a second way is no cycle
    relate(ana, c, a, "enhances")  # nor is another type
    relate(ana, b, a, "required_for")  # nor the same said from the other side


def test_a_cycle_names_only_what_the_caller_may_see(team: Team) -> None:
    a, b = team.shared("Alpha"), team.shared("Beta")
    hidden = team.author.record("Secret plan")
    relate(team.author, a, hidden, "depends_on")
    relate(team.author, hidden, b, "depends_on")
    with refused("PT409") as caught:
        relate(team.colleague, b, a, "depends_on")
    assert '"Beta" needs "Alpha" needs an item that you may not see needs "Beta"' in str(caught.value)
    assert "Secret" not in str(caught.value)
    with refused("PT409", '"Beta" needs "Alpha" needs "Secret plan" needs "Beta"'):
        relate(team.maintainer, b, a, "depends_on")


def test_opposite_edges_at_once_make_no_cycle(world: World) -> None:
    ana = world.sign_up("ana")
    a, b, c = (ana.record(title) for title in ("Alpha", "Beta", "Gamma"))
    relate(ana, b, c, "depends_on")
    other = ana.inside()
    assert other.connection
    with ThreadPoolExecutor() as pool:
        with ana.transaction() as cursor:
            call(
                cursor,
                "relate_knowledge",
                source_knowledge_id=a,
                target_knowledge_id=b,
                relationship_type="depends_on",
            )
            second = pool.submit(relate, other, c, a, "depends_on")
            world.wait_until_blocked(other)
        with refused("PT409", "cycle"):
            second.result(10)
    assert ana.value("select count(*) from public.knowledge_relationships") == 2


def test_the_helper_for_visibility_says_what_the_policy_says(team: Team) -> None:
    session = team.author.start_session("s")
    items = [
        team.shared("shared"),
        team.author.record("pending"),
        session.record("of a session"),
        team.colleague.record("the colleague's"),
        team.stranger.record("the stranger's"),
        team.shared("retired"),
        team.author.record("rejected"),
    ]
    for retired in items[-2:]:
        team.maintainer.rpc("validate_knowledge", knowledge_id=retired, validation_status="deprecated")
    for persona in (
        team.owner,
        team.maintainer,
        team.author,
        session,
        team.colleague,
        team.reader,
        team.stranger,
    ):
        by_policy = persona.sql("select id from public.knowledge_items order by id")
        by_helper = persona.sql("select v as id from private.visible_items(%s) v order by v", items)
        assert by_policy == by_helper, persona.name


# -- what must work --------------------------------------------------------------------------------------------


def test_stating_it_again_updates_it(team: Team) -> None:
    a, b = team.shared("a"), team.shared("b")
    first = relate(team.author, a, b, "enhances", strength=0.5, relationship_context="why")
    assert (first["outcome"], first["status"], first["strength"]) == ("created", "accepted", 0.5)
    again = relate(team.author, a, b, "enhances", strength=0.5)
    assert (again["outcome"], again["relationship_context"]) == ("unchanged", "why")
    stronger = relate(team.maintainer, a, b, "enhances", strength=0.8, relationship_context="tried")
    assert (stronger["outcome"], stronger["strength"]) == ("updated", 0.8)
    hers = relate(team.colleague, a, b, "enhances", strength=0.1)
    assert (hers["outcome"], hers["strength"], hers["relationship_context"]) == ("unchanged", 0.8, "tried")
    assert {row["relationship_id"] for row in (first, again, stronger, hers)} == {first["relationship_id"]}


def test_what_reads_both_ways_is_kept_once(world: World) -> None:
    ana = world.sign_up("ana")
    a, b = ana.record("a"), ana.record("b")
    first = relate(ana, a, b, "similar_to")
    assert relate(ana, b, a, "similar_to")["relationship_id"] == first["relationship_id"]
    with refused("23505"):
        ana.sql(INSERT, b, a, "similar_to")
    assert relate(ana, b, a, "enhances")["outcome"] == "created"
    assert relate(ana, a, b, "enhances")["outcome"] == "created"


def test_two_who_state_the_same_at_once_state_it_once(world: World) -> None:
    ana = world.sign_up("ana")
    a, b = ana.record("a"), ana.record("b")
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda _: relate(ana.inside(), a, b, "depends_on"), range(8)))
    assert len({row["relationship_id"] for row in rows}) == 1
    assert [row["outcome"] for row in rows].count("created") == 1


def test_a_relationship_is_removed_by_its_author_and_maintainers(team: Team) -> None:
    a, b = team.shared("a"), team.shared("b")
    for persona in (team.author, team.maintainer, team.owner):
        stated = relate(team.author, a, b, "enhances")["relationship_id"]
        with refused("PT403"):
            team.colleague.rpc("remove_relationship", relationship_id=stated)
        persona.rpc("remove_relationship", relationship_id=stated)
        assert team.author.value("select count(*) from public.knowledge_relationships") == 0


def test_it_keeps_its_session_and_survives_its_authors_account(team: Team) -> None:
    session = team.author.start_session("s")
    a, b = team.shared("a"), team.shared("b")
    relate(session, a, b, "enhances")
    assert (
        team.author.value("select discovered_in_session from public.knowledge_relationships")
        == session.session
    )
    team.world.superuser("delete from auth.users where id = %s", team.author.id)
    assert team.colleague.value("select owner_id from public.knowledge_relationships") is None


def test_discovery_proposes_and_applies_nothing(world: World) -> None:
    ana = world.sign_up("ana")
    a = ana.record("Gateway", "Restart the gateway after a deploy.", content_embedding=vector(towards(1)))
    b = ana.record("Proxy", "The proxy caches responses.", content_embedding=vector(towards(1, 0.75)))
    ana.record("Lunch", "Soup on Mondays.", content_embedding=vector(towards(2)))
    [proposal] = ana.rpc("discover_relationships")
    assert {proposal["source_knowledge_id"], proposal["target_knowledge_id"]} == {a, b}
    assert proposal["relationship_type"] == "similar_to"
    assert proposal["strength"] == pytest.approx(0.75)
    assert "close in meaning (0.75)" in proposal["reason"]
    assert ana.value("select status from public.knowledge_relationships") == "proposed"
    assert len(ana.rpc("knowledge_neighborhood", knowledge_id=a)) == 1, "a proposal is not walked"
    assert ana.rpc("discover_relationships") == [], "and is made once"
    [done] = ana.rpc("decide_relationship", relationship_id=proposal["relationship_id"], accept=True)
    assert (done["status"], done["outcome"]) == ("accepted", "accepted")
    assert len(ana.rpc("knowledge_neighborhood", knowledge_id=a)) == 2


def test_vectors_of_two_models_are_never_compared(world: World) -> None:
    ana = world.sign_up("ana")
    world.service().rpc("register_embedding_model", name="another", dimensions=384)
    ana.record("a", content_embedding=vector(towards(1)))
    ana.record("b", content_embedding=vector(towards(1)), embedding_model="another")
    assert ana.rpc("discover_relationships") == []


def test_shared_triggers_propose_unless_everything_has_them(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("a", retrieval_triggers=["40P01", "Deadlock"])
    ana.record("b", retrieval_triggers=["deadlock", "40p01"])
    for i in range(8):
        ana.record(f"other {i}", retrieval_triggers=["postgres"])
    [proposal] = ana.rpc("discover_relationships")
    assert proposal["strength"] == pytest.approx(0.75)
    assert proposal["reason"] == "shares the triggers 40p01, deadlock"


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (
            "The origin listens on port 54321.",
            "The origin listens on port 54322.",
            "one says 54322 where the other says 54321",
        ),
        (
            "Row security uses the index.",
            "Row security does not use the index.",
            "one denies what the other says",
        ),
        (
            "The cache is enabled by default.",
            "The cache is disabled by default.",
            '"disabled" where the other says "enabled"',
        ),
        ("You can restart it safely.", "You can\u2019t restart it safely.", "one denies"),
    ],
)
def test_contradictions_are_candidates_with_a_reason(world: World, one: str, other: str, reason: str) -> None:
    ana = world.sign_up("ana")
    ana.record("First note", one, content_embedding=vector(towards(1)))
    ana.record("Second note", other, content_embedding=vector(towards(1, 0.95)))
    [proposal] = ana.rpc("discover_relationships")
    assert proposal["relationship_type"] == "contradicts"
    assert reason in proposal["reason"]
    assert proposal["strength"] == pytest.approx(0.95)


def test_the_same_title_is_the_same_subject_without_any_vector(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("Gateway timeout", "Set it to 60 seconds.")
    ana.record("gateway  timeout", "Thirty was too short: use 90.")
    ana.record("Gateway timeout", "Ask the gateway's team.")
    proposals = ana.rpc("discover_relationships")
    assert [p["relationship_type"] for p in proposals] == ["contradicts"]
    assert "the same title" in proposals[0]["reason"]
    assert "one says 90 where the other says 60" in proposals[0]["reason"]


def test_alike_texts_that_agree_are_no_contradiction(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("a", "Do not restart the gateway.", content_embedding=vector(towards(1)))
    ana.record("b", "Never restart the gateway.", content_embedding=vector(towards(1, 0.95)))
    ana.record("c", "Completely other words, and 7 of them.", content_embedding=vector(towards(1, 0.94)))
    assert {p["relationship_type"] for p in ana.rpc("discover_relationships")} == {"similar_to"}


def test_what_was_rejected_is_not_proposed_again(team: Team) -> None:
    a, b = team.shared("Port", "The port is 1."), team.shared("Port", "The port is 2.")
    [proposal] = team.colleague.rpc("discover_relationships", knowledge_id=a)
    relationship = proposal["relationship_id"]
    [done] = team.maintainer.rpc("decide_relationship", relationship_id=relationship, accept=False)
    assert done["status"] == "rejected"
    assert team.author.rpc("discover_relationships") == []
    with refused("PT403"):
        team.colleague.rpc("decide_relationship", relationship_id=relationship, accept=True)
    [row] = team.colleague.sql("select decided_by, status from public.knowledge_relationships")
    assert row == {"decided_by": team.maintainer.id, "status": "rejected"}
    assert relate(team.colleague, a, b, "contradicts")["outcome"] == "unchanged"
    overruled = relate(team.owner, b, a, "contradicts", relationship_context="It is one.")
    assert (overruled["outcome"], overruled["relationship_id"]) == ("accepted", relationship)


def test_a_proposal_is_decided_by_whom_it_concerns(team: Team) -> None:
    a = team.shared("Port", "The port is 1.")
    team.shared("Port", "The port is 2.")
    other = team.world.sign_up("third")
    team.owner.rpc("add_workspace_member", workspace_id=team.id, user_id=other.id)
    [proposal] = team.colleague.rpc("discover_relationships", knowledge_id=a)
    arguments = {"relationship_id": proposal["relationship_id"], "accept": False}
    with refused("PT403"):
        other.inside(team.id).rpc("decide_relationship", **arguments)
    with refused("PT400"):
        team.author.rpc("decide_relationship", relationship_id=proposal["relationship_id"], accept=None)
    [done] = team.author.rpc("decide_relationship", **arguments)
    assert done["outcome"] == "rejected"
    [again] = team.author.rpc("decide_relationship", **arguments)
    assert again["outcome"] == "unchanged"


def test_discovery_sees_no_hidden_item(team: Team) -> None:
    team.author.record("Port", "The port is 1.")
    mine = team.colleague.record("Port", "The port is 2.")
    assert team.colleague.rpc("discover_relationships") == []
    assert team.colleague.rpc("discover_relationships", knowledge_id=mine) == []
    assert len(team.maintainer.rpc("discover_relationships")) == 1
    for wrong in (0, 201, None):
        with refused("PT400"):
            team.author.rpc("discover_relationships", max_proposals=wrong)
    assert team.world.sign_up("newcomer").rpc("discover_relationships") == []


# -- walks -----------------------------------------------------------------------------------------------------


def test_a_neighbourhood_comes_nearest_first_with_its_paths(world: World) -> None:
    ana = world.sign_up("ana")
    a, b, c, d, e = (ana.record(title) for title in "abcde")
    relate(ana, a, b, "depends_on", strength=0.5)
    relate(ana, c, b, "builds_upon", strength=0.8)
    relate(ana, a, d, "enhances", strength=0.9)
    relate(ana, d, c, "similar_to")
    relate(ana, c, e, "enhances")
    rows = ana.rpc("knowledge_neighborhood", knowledge_id=a)
    assert [(row["title"], row["depth"]) for row in rows] == [("a", 0), ("d", 1), ("b", 1), ("c", 2)]
    assert rows[3]["path"] == [a, d, c], "of two shortest paths the stronger"
    assert rows[3]["path_titles"] == ["a", "d", "c"]
    assert rows[3]["relationship_types"] == ["enhances", "similar_to"]
    assert rows[3]["directions"] == ["outgoing", "outgoing"]
    assert rows[3]["strength"] == pytest.approx(0.9)
    assert [row["title"] for row in ana.rpc("knowledge_neighborhood", knowledge_id=b, max_depth=1)] == [
        "b",
        "c",
        "a",
    ]
    deep = ana.rpc("knowledge_neighborhood", knowledge_id=a, max_depth=20)
    assert [row["title"] for row in deep] == ["a", "d", "b", "c", "e"]
    some = ana.rpc(
        "knowledge_neighborhood",
        knowledge_id=a,
        max_depth=9,
        relationship_types=["depends_on", "builds_upon"],
    )
    assert [(row["title"], row["directions"]) for row in some] == [
        ("a", []),
        ("b", ["outgoing"]),
        ("c", ["outgoing", "incoming"]),
    ]
    assert [row["title"] for row in ana.rpc("knowledge_neighborhood", knowledge_id=a, max_items=2)] == [
        "a",
        "d",
    ]
    for wrong in (
        {"max_depth": 0},
        {"max_depth": 21},
        {"max_items": 0},
        {"max_items": 1001},
        {"relationship_types": ["x"]},
    ):
        with refused("PT400"):
            ana.rpc("knowledge_neighborhood", knowledge_id=a, **wrong)


def test_the_graph_tells_what_is_in_force(world: World) -> None:
    ana = world.sign_up("ana")
    start, middle, end, later = (ana.record(title) for title in ("start", "middle", "end", "later"))
    for one, other in ((start, middle), (middle, end), (start, later)):
        ana.rpc(
            "relate_knowledge",
            source_knowledge_id=one,
            target_knowledge_id=other,
            relationship_type="enhances",
        )
    ana.sql("update public.knowledge_items set valid_from = '2100-01-01' where id = %s", later)
    ana.rpc("validate_knowledge", knowledge_id=middle, validation_status="deprecated")
    near = ana.rpc("knowledge_neighborhood", knowledge_id=start, max_depth=3)
    assert [row["title"] for row in near] == ["start"]
    [graph] = ana.rpc("knowledge_graph")
    assert {item["title"] for item in graph["items"]} == {"start", "end"}
    from_middle = ana.rpc("knowledge_neighborhood", knowledge_id=middle)
    assert {row["title"] for row in from_middle} == {"middle", "end", "start"}, "it was asked for"


@pytest.mark.parametrize("function", ["start_session", "relate_knowledge"])
def test_a_transaction_that_will_never_see_the_other_ends(world: World, function: str) -> None:
    ana = world.sign_up("ana")
    one, other = ana.record("one"), ana.record("other")
    arguments: dict[str, object] = {
        "start_session": {"session_identifier": "monday"},
        "relate_knowledge": {
            "source_knowledge_id": one,
            "target_knowledge_id": other,
            "relationship_type": "enhances",
        },
    }[function]
    late = ana.inside()
    late.connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with refused("40001"), late.transaction() as cursor:
        cursor.execute("select 1 from public.knowledge_items")
        ana.rpc(function, **arguments)
        call(cursor, function, **arguments)


def test_what_is_retired_takes_nobodys_room_in_the_graph(world: World) -> None:
    ana = world.sign_up("ana")
    hub, living = ana.record("hub"), ana.record("living")
    for number in range(12):
        retired = ana.record(f"retired {number}")
        ana.rpc(
            "relate_knowledge",
            source_knowledge_id=hub,
            target_knowledge_id=retired,
            relationship_type="enhances",
            strength=1,
        )
        ana.rpc("supersede_knowledge", knowledge_id=retired, replacement_id=living)
    ana.rpc(
        "relate_knowledge",
        source_knowledge_id=hub,
        target_knowledge_id=living,
        relationship_type="enhances",
        strength=0.1,
    )
    near = ana.rpc("knowledge_neighborhood", knowledge_id=hub, max_items=2)
    assert [row["title"] for row in near] == ["hub", "living"]


def test_a_dense_graph_stays_bounded(world: World) -> None:
    """300 items with 20 edges each have 20^n paths of n steps: a walk along paths would never end."""
    ana = world.sign_up("ana")
    rows = ana.rpc(
        "record_knowledge_batch", items=[{"title": f"item {i}", "content": f"item {i}"} for i in range(300)]
    )
    ids = [row["knowledge_id"] for row in rows]
    for step in range(20):
        ana.sql(
            "insert into public.knowledge_relationships (source_knowledge_id, target_knowledge_id,"
            " relationship_type) select a, b, 'enhances' from unnest(%s::uuid[], %s::uuid[]) u (a, b)",
            ids,
            [ids[(i + step * step + 1) % 300] for i in range(300)],
        )
    assert ana.value("select count(*) from public.knowledge_relationships") == 6000
    found = ana.rpc("knowledge_neighborhood", knowledge_id=ids[0], max_depth=20, max_items=1000)
    assert sorted(row["knowledge_id"] for row in found) == sorted(ids), "each once"
    assert [row["depth"] for row in found] == sorted(row["depth"] for row in found)
    assert all(len(row["path"]) == row["depth"] + 1 for row in found)
    assert all(len(set(row["path"])) == len(row["path"]) for row in found)
    assert len(ana.rpc("knowledge_neighborhood", knowledge_id=ids[0], max_depth=20, max_items=50)) == 50


def test_a_deep_ladder_of_dependencies_is_checked_by_its_edges(world: World) -> None:
    """A ladder of 60 rungs has 2^60 ways down; the check for cycles takes each rung once."""
    ana = world.sign_up("ana")
    rows = ana.rpc(
        "record_knowledge_batch", items=[{"title": f"rung {i}", "content": f"rung {i}"} for i in range(122)]
    )
    ids = [row["knowledge_id"] for row in rows]
    for rung in range(60):
        ends = [(ids[2 * rung + a], ids[2 * rung + 2 + b]) for a in (0, 1) for b in (0, 1)]
        ana.sql(
            "insert into public.knowledge_relationships (source_knowledge_id, target_knowledge_id, relationship_type)"
            " select a, b, 'depends_on' from unnest(%s::uuid[], %s::uuid[]) u (a, b)",
            [a for a, _ in ends],
            [b for _, b in ends],
        )
    with refused("PT409", '"rung 121" needs "rung 0" needs "rung [23]" needs'):
        relate(ana, ids[121], ids[0], "depends_on")
