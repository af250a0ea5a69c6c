"""The push: who is told what, and that it never gets in the way of a write."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from teams import NOBODY, Team
from world import Persona, World

READ = "select id from realtime.messages where topic = %s"


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def may(persona: Persona, topic: str, extension: str = "broadcast") -> tuple[bool, bool]:
    """Try, as a Realtime server does, whether somebody may receive and send in a topic."""
    with persona.transaction() as cursor, cursor.connection.transaction(force_rollback=True):
        cursor.execute("select set_config('realtime.topic', %s, true)", [topic])
        cursor.execute("reset role")
        cursor.execute("set local role service_role")
        cursor.execute(
            "insert into realtime.messages (topic, extension) values (%s, %s) returning id",
            [topic, extension],
        )
        [probe] = cursor.fetchall()
        cursor.execute("select set_config('role', %s, true)", [persona.role])
        cursor.execute("select id from realtime.messages where id = %s", [probe["id"]])
        reads = bool(cursor.fetchall())
        try:
            with cursor.connection.transaction(force_rollback=True):
                cursor.execute(
                    "insert into realtime.messages (topic, extension) values (%s, %s)", [topic, extension]
                )
                writes = True
        except psycopg.errors.InsufficientPrivilege:
            writes = False
        return reads, writes


def test_topics_are_for_members(world: World, team: Team) -> None:
    topic = f"workspace:{team.id}"
    session = team.author.start_session("one")
    nobody = world.as_user(NOBODY)
    for persona in (team.stranger, nobody, world.anon()):
        assert may(persona, topic) == may(persona, f"session:{session.session}") == (False, False)
    for forged in (
        "workspace:",
        "workspace:x",
        f"workspace:{NOBODY}",
        f"{topic}:x",
        f"x:{team.id}",
        f" {topic}",
    ):
        assert may(team.owner, forged) == (False, False)
    assert may(team.reader, topic) == (True, False)
    assert may(team.reader, topic, "presence") == (True, True)
    for persona in (team.owner, team.maintainer, team.author, team.colleague):
        assert may(persona, topic) == may(persona, topic, "presence") == (True, True)
    assert may(team.author, topic, "postgres_changes") == (False, False)

    topic = f"session:{session.session}"
    assert may(team.colleague, topic) == may(team.reader, topic) == (False, False)
    assert may(team.author, topic) == may(team.maintainer, topic) == (True, True)
    elsewhere = world.as_user(team.author.id, claims={"kp_workspace": str(team.strangers_id)})
    assert may(elsewhere, topic) == may(elsewhere, f"workspace:{team.id}") == (False, False)
    bound = world.as_user(team.author.id, claims={"kp_workspace": str(team.id)})
    assert may(bound, topic) == may(bound, f"workspace:{team.id}") == (True, True)
    team.owner.rpc("remove_workspace_member", workspace_id=team.id, user_id=team.author.id)
    assert may(team.author, topic) == may(team.author, f"workspace:{team.id}") == (False, False)


def broadcasts(world: World) -> list[dict[str, Any]]:
    return world.superuser(
        "select topic, event, private, payload from realtime.messages order by inserted_at, topic"
    )


def test_a_broadcast_says_what_all_receivers_may_know(world: World, team: Team) -> None:
    session = team.author.start_session("one")
    world.superuser("delete from realtime.messages where true")
    item = session.record("Secret plan", "Nobody knows yet.")
    told = {row["topic"]: row for row in broadcasts(world)}
    assert set(told) == {f"workspace:{team.id}", f"session:{session.session}"}
    wide, narrow = told[f"workspace:{team.id}"], told[f"session:{session.session}"]
    assert wide["private"] is narrow["private"] is True
    assert wide["event"] == "knowledge_event"
    [event] = world.superuser("select max(id) as id from public.knowledge_events")
    assert wide["payload"]["last_event"] == event["id"]
    assert (wide["payload"]["count"], wide["payload"]["events"]) == (1, [])
    assert str(item) not in json.dumps(wide["payload"])
    assert [one["knowledge_id"] for one in narrow["payload"]["events"]] == [str(item)]

    world.superuser("delete from realtime.messages where true")
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    told = {row["topic"]: row for row in broadcasts(world)}
    [event] = told[f"workspace:{team.id}"]["payload"]["events"]
    assert (event["what"], event["knowledge_id"]) == ("shared", str(item))
    assert "plan" not in json.dumps(broadcasts(world))


def test_a_batch_is_one_broadcast(world: World, team: Team) -> None:
    world.superuser("delete from realtime.messages where true")
    items = [{"title": f"number {n}", "content": f"number {n}"} for n in range(50)]
    team.author.rpc("record_knowledge_batch", items=items)
    [message] = broadcasts(world)
    assert message["payload"]["count"] == 50


def test_the_notification_has_its_documented_shape(world: World, team: Team) -> None:
    with psycopg.connect(world.dsn("postgres"), autocommit=True) as listener:
        listener.execute("listen knowledge_update")
        session = team.author.start_session("one")
        item = session.record("Ports")
        team.author.rpc("recall_knowledge", query_text="ports")
        team.maintainer.rpc("validate_knowledge", knowledge_id=item)
        heard = [json.loads(one.payload) for one in listener.notifies(timeout=10, stop_after=2)]
        heard += [json.loads(one.payload) for one in listener.notifies(timeout=0)]
    expected = {"knowledge_id": str(item), "knowledge_type": "factual", "session_id": str(session.session)}
    assert heard == [{"operation": "INSERT", **expected}, {"operation": "UPDATE", **expected}]


def test_a_push_that_fails_or_waits_does_not_touch_the_write(world: World, team: Team) -> None:
    with psycopg.connect(world.dsn("supabase_admin")) as other:
        # A Realtime server that is at work on its partitions.
        other.execute("lock table realtime.messages in access exclusive mode")
        waited = team.author.record("While the lock is held")
    world.superuser("alter function realtime.send(jsonb, text, text, boolean) rename to sent")
    failed = team.author.record("Where Realtime is not there")
    told = {row["knowledge_id"] for row in team.author.rpc("knowledge_events_since")}
    assert {waited, failed} <= told


def test_the_publication_has_the_tables(world: World) -> None:
    tables = world.superuser(
        "select tablename::text as name from pg_publication_tables where pubname = 'supabase_realtime'"
    )
    names = {row["name"] for row in tables}
    assert {"knowledge_items", "knowledge_relationships", "knowledge_events"} <= names
    assert not {name for name in names if name.startswith("ai_sessions")}
