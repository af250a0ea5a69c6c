"""The gateway's protocol, frame by frame: what it refuses first."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import websockets

from databases import Database
from knowledge_persistence.realtime.database import Database as Service
from knowledge_persistence.realtime.limits import Limits
from talkers import PUBLISHABLE, SECRET_KEY, token
from teams import Team
from world import World

Talkers = Callable[..., Any]


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("", 401, "API key is missing"),
        ("?apikey=x", 401, "The token provided is not a valid JWT"),
        (f"?apikey={PUBLISHABLE}&vsn=9", 400, "protocol version"),
        ("?apikey=EXPIRED", 401, "Token has expired"),
        ("?apikey=ROLELESS", 401, "Fields `role` and `exp` are required in JWT"),
    ],
)
async def test_a_handshake_is_refused_in_words(gateway: str, query: str, status: int, message: str) -> None:
    query = query.replace("EXPIRED", token(exp=1)).replace("ROLELESS", token(role=None))
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(f"{gateway}/websocket{query}", proxy=None)
    assert caught.value.response.status_code == status
    assert message in json.loads(caught.value.response.body)["error"]


async def test_who_may_not_join_hears_why(talker: Talkers, team: Team) -> None:
    topic = f"workspace:{team.id}"
    async with talker() as mallory:
        for access_token, reason in (
            (None, "Unauthorized: You do not have permissions to read from this Channel topic"),
            (token(team.stranger), "Unauthorized"),
            (token(team.owner, exp=1), "InvalidJWTToken: Token has expired"),
            (token(team.owner) + "x", "JwtSignatureError|MalformedJWT"),
            ("nonsense", "MalformedJWT"),
            (token(team.owner, role="postgres"), "InvalidJWTToken"),
            (token(team.owner, role=None), "InvalidJWTToken: Fields `role` and `exp`"),
        ):
            reply = await mallory.join(topic, access_token, private=True)
            assert reply["status"] == "error"
            assert any(part in reply["response"]["reason"] for part in reason.split("|"))
        assert (await mallory.join("", private=True))["response"]["reason"].startswith("TopicNameRequired")
        for topic, event in (
            ("x", "phx_join"),
            ("realtime:never", "broadcast"),
            ("realtime:never", "phx_leave"),
        ):
            assert (await mallory.ask(topic, event))["response"]["reason"] == "unmatched topic"
        # Whom nobody let in hears nothing, and can say nothing.
        async with talker() as ana:
            assert (await ana.join(f"workspace:{team.id}", token(team.owner), private=True))["status"] == "ok"
            await mallory.say(f"realtime:workspace:{team.id}", "broadcast", {"event": "x", "payload": {}})
            assert (await mallory.ask("phoenix", "heartbeat"))["status"] == "ok"
            assert (await ana.ask("phoenix", "heartbeat"))["status"] == "ok"
            assert ana.unheard("broadcast") == []


async def test_a_private_room_and_a_public_one_of_the_same_name_are_two(talker: Talkers, team: Team) -> None:
    name = f"workspace:{team.id}"
    async with talker() as mallory, talker() as ana:
        assert (await mallory.join(name))["status"] == "ok"
        await ana.join(name, token(team.author), private=True, broadcast={"ack": True})
        said = {"type": "broadcast", "event": "x", "payload": {"n": 1}}
        assert (await ana.ask(f"realtime:{name}", "broadcast", said))["status"] == "ok"
        await ana.ask("phoenix", "heartbeat")
        await mallory.ask("phoenix", "heartbeat")
        assert mallory.unheard("broadcast") == []


async def test_readers_hear_and_do_not_speak(talker: Talkers, team: Team) -> None:
    name = f"workspace:{team.id}"
    async with talker() as eve, talker() as ana:
        await eve.join(name, token(team.reader), private=True, broadcast={"ack": True})
        await ana.join(name, token(team.author), private=True, broadcast={"self": True})
        await eve.say(
            f"realtime:{name}", "broadcast", {"type": "broadcast", "event": "forged", "payload": {}}
        )
        await eve.ask("phoenix", "heartbeat")
        await ana.say(
            f"realtime:{name}", "broadcast", {"type": "broadcast", "event": "real", "payload": {"n": 1}}
        )
        assert (await ana.hear("broadcast"))["event"] == "real"
        assert await eve.hear("broadcast") == {"type": "broadcast", "event": "real", "payload": {"n": 1}}
        assert ana.unheard("broadcast") == eve.unheard("phx_reply") == []


async def test_what_the_database_sends_arrives_with_its_id(talker: Talkers, team: Team) -> None:
    name = f"workspace:{team.id}"
    async with talker() as ben:
        await ben.join(name, token(team.colleague), private=True)
        item = team.author.record("Pending")
        hidden = await ben.hear("broadcast")
        assert (hidden["event"], hidden["payload"]["events"]) == ("knowledge_event", [])
        team.maintainer.rpc("validate_knowledge", knowledge_id=item)
        shared = await ben.hear("broadcast")
        assert shared["payload"]["events"][0]["knowledge_id"] == str(item)
        assert shared["meta"]["id"]
    async with talker() as late:
        replay = {"since": 1, "limit": 1}
        await late.join(name, token(team.colleague), private=True, broadcast={"replay": replay})
        again = await late.hear("broadcast")
        assert again["meta"] == {"id": shared["meta"]["id"], "replayed": True}
        refused = await late.join("public", broadcast={"replay": replay})
        assert refused["response"]["reason"].startswith("UnableToReplayMessages")


async def test_who_is_removed_is_shown_out(talker: Talkers, team: Team) -> None:
    name = f"workspace:{team.id}"
    async with talker() as ben, talker() as ana:
        await ben.join(name, token(team.colleague), private=True)
        await ana.join(name, token(team.author), private=True)
        team.owner.rpc("remove_workspace_member", workspace_id=team.id, user_id=team.colleague.id)
        assert (await ben.hear("system"))["status"] == "error"
        await ben.hear("phx_close")
        team.author.record("Not for Ben")
        assert (await ana.hear("broadcast"))["event"] == "knowledge_event"
        await ben.ask("phoenix", "heartbeat")
        assert ben.unheard("broadcast") == []


async def test_a_token_ends_and_is_renewed(talker: Talkers, team: Team) -> None:
    name = f"workspace:{team.id}"
    async with talker() as ana:
        await ana.join(name, token(team.author, exp=int(time.time()) + 2), private=True)
        assert "Token has expired" in (await ana.hear("system"))["message"]
        await ana.hear("phx_close")
        await ana.join(name, token(team.author, exp=int(time.time()) + 2), private=True)
        await ana.say(f"realtime:{name}", "access_token", {"access_token": token(team.author)})
        await ana.say(f"realtime:{name}", "access_token", {"access_token": None})
        await ana.say(f"realtime:{name}", "access_token", {"access_token": token(team.stranger)})
        assert "permissions" in (await ana.hear("system"))["message"]
        await ana.join(name, token(team.author), private=True)
        await ana.say(f"realtime:{name}", "access_token", {"access_token": "nonsense"})
        assert "not a valid JWT" in (await ana.hear("system"))["message"]


@pytest.mark.parametrize(
    "frame", ["", "{", "[]", "7", '{"topic": 1, "event": "x"}', '{"topic":"x"}', b"\x03", "[" * 5000]
)
async def test_a_malformed_frame_ends_the_connection(talker: Talkers, frame: str | bytes) -> None:
    async with talker() as mallory:
        await mallory.stream.send(frame)
        with pytest.raises(websockets.ConnectionClosedError) as caught:
            await mallory.stream.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1007
    async with talker() as ana:
        assert (await ana.ask("phoenix", "heartbeat"))["status"] == "ok"


async def write_until_refused(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(bytes([0x81, 0x80, 0, 0, 0, 0]))
        await writer.drain()
        await asyncio.sleep(0.05)


class TestLimits:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(
            connections=2,
            frame_bytes=2000,
            channels=2,
            joins_per_second=50,
            events_per_second=5,
            waiting_bytes=200_000,
            presence_bytes=100,
        )

    async def test_each_holds(self, gateway: str, talker: Talkers) -> None:
        async with talker() as ana, talker() as ben:
            with pytest.raises(websockets.InvalidStatus) as caught:
                await websockets.connect(f"{gateway}/websocket?apikey={PUBLISHABLE}", proxy=None)
            assert caught.value.response.status_code == 429
            assert (await ana.join("one", broadcast={"ack": True}))["status"] == "ok"
            assert (await ana.join("two"))["status"] == "ok"
            third = await ana.join("three")
            assert third["response"]["reason"].startswith("ChannelRateLimitReached")
            large = {"type": "presence", "event": "track", "payload": {"x": "y" * 200}}
            assert (await ana.ask("realtime:two", "presence", large))["status"] == "error"
            for _ in range(6):
                await ana.say("realtime:one", "broadcast", {"type": "broadcast", "event": "x", "payload": {}})
            assert (await ana.hear("system"))["message"] == "Too many messages per second"
            await ana.hear("phx_close")
            await ben.stream.send("x" * 3000)
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                await ben.stream.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009

    async def test_who_stops_reading_is_dropped(self, gateway: str, talker: Talkers, world: World) -> None:
        async with talker() as ana:
            address, port = gateway.removeprefix("ws://").split(":")
            reader, writer = await asyncio.open_connection(address, int(port), limit=1024)
            writer.write(
                f"GET /websocket?apikey={PUBLISHABLE} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            await reader.readuntil(b"\r\n\r\n")
            join = json.dumps(
                {"topic": "realtime:flood", "event": "phx_join", "payload": {}, "ref": "1"}
            ).encode()
            assert len(join) < 126
            writer.write(bytes([0x81, 0x80 | len(join), 0, 0, 0, 0]) + join)
            await reader.readuntil(b"presence_state")
            await ana.join("flood")
            # From here on it reads nothing. What SQL sends has no limit of rate.
            async with asyncio.timeout(30):
                for _ in range(100):
                    world.superuser(
                        "select realtime.send(jsonb_build_object('x', repeat('y', 30000)), 'e', 'flood', false)"
                        " from generate_series(1, 4)"
                    )
                    for _ in range(4):
                        await ana.hear("broadcast")
                with pytest.raises(ConnectionError):
                    await write_until_refused(writer)
            writer.transport.abort()


async def test_presence_comes_and_goes(talker: Talkers) -> None:
    presence = {"enabled": True}
    async with talker() as ana:
        await ana.join("room", presence={**presence, "key": "ana"})
        assert await ana.hear("presence_state") == {}
        async with talker() as ben:
            await ben.join("room", presence={**presence, "key": "ben"})
            track = {"type": "presence", "event": "track", "payload": {"doing": "reading"}}
            assert (await ben.ask("realtime:room", "presence", track))["status"] == "ok"
            joined = await ana.hear("presence_diff")
            assert joined["joins"]["ben"]["metas"][0]["doing"] == "reading"
            track["payload"] = {"doing": "writing"}
            await ben.ask("realtime:room", "presence", track)
            changed = await ana.hear("presence_diff")
            assert changed["leaves"] == joined["joins"]
            async with talker() as cleo:
                await cleo.join("room", presence=presence)
                state = await cleo.hear("presence_state")
                assert [meta["doing"] for meta in state["ben"]["metas"]] == ["writing"]
        assert "ben" in (await ana.hear("presence_diff"))["leaves"]


async def test_changes_are_told_to_those_who_may_see_them(talker: Talkers, team: Team, world: World) -> None:
    def wanted(**binding: str) -> list[dict[str, str]]:
        return [{"event": "*", "schema": "public", "table": "knowledge_items", **binding}]

    async with talker() as ben, talker() as ana, talker() as eve:
        people = ((ben, team.colleague), (ana, team.author), (eve, team.stranger))
        for who, persona in people:
            reply = await who.join("db", token(persona), postgres_changes=wanted())
            assert reply["response"]["postgres_changes"][0]["id"] > 0
            assert (await who.hear("system"))["message"] == "Subscribed to PostgreSQL"
        item = team.author.record(
            "Pending", context_data={"a": [1, {"b": None}]}, retrieval_triggers=["x", "y"]
        )
        inserted = await ana.hear("postgres_changes")
        assert inserted["data"]["type"] == "INSERT"
        record = inserted["data"]["record"]
        assert (record["id"], record["context_data"]) == (str(item), {"a": [1, {"b": None}]})
        assert (record["retrieval_triggers"], record["importance_score"]) == (["x", "y"], 50)
        hidden, item = item, team.author.record("To be validated")
        team.maintainer.rpc("validate_knowledge", knowledge_id=item)
        # Who may see a row is asked when its change is told: by then the item may be Ben's to see from the start.
        told = [await ben.hear("postgres_changes")]
        while told[-1]["data"]["type"] != "UPDATE":
            told.append(await ben.hear("postgres_changes"))
        assert str(hidden) not in {one["data"]["record"]["id"] for one in told}
        assert told[-1]["data"]["old_record"] == {"id": str(item)}
        assert told[-1]["data"]["record"]["validation_status"] == "validated"
        team.author.rpc("forget_knowledge", knowledge_id=item)
        deleted = (await ben.hear("postgres_changes"))["data"]
        assert (deleted["type"], deleted["old_record"], deleted.get("record")) == (
            "DELETE",
            {"id": str(item)},
            None,
        )
        # As the official server: of what is gone everybody hears the key, and nobody more.
        assert (await eve.hear("postgres_changes"))["data"]["old_record"] == {"id": str(item)}
        assert eve.unheard("postgres_changes") == []

        for name, filter_, expected in (
            ("by-eq", "title=eq.Yes", ["Yes"]),
            ("by-in", "importance_score=in.(70,80)", ["Yes"]),
            ("by-and", "importance_score=gte.70,title=like.N%", ["No"]),
            ("by-not", "title=not.eq.Yes", ["No"]),
        ):
            async with talker() as dan:
                binding = wanted(filter=filter_, event="INSERT")
                await dan.join(name, token(team.author), postgres_changes=binding)
                await dan.hear("system")
                team.author.record("No", f"{name} no", importance_score=71)
                team.author.record("Yes", f"{name} yes", importance_score=80)
                told = [(await dan.hear("postgres_changes"))["data"]["record"]["title"] for _ in expected]
                assert told == expected

        for binding in (wanted(table="ai_sessions"), wanted(filter="nonsense"), wanted(table="nothing")):
            async with talker() as dan:
                await dan.join("wrong", token(team.author), postgres_changes=binding)
                assert (await dan.hear("system"))["status"] == "error"
    async with asyncio.timeout(20):
        # Nobody wants them any more: no slot keeps WAL.
        while world.superuser("select 1 from pg_replication_slots where slot_name like 'realtime%'"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_broadcast_over_http(gateway: str, talker: Talkers, team: Team) -> None:
    url = gateway.replace("ws:", "http:") + "/api/broadcast"
    name = f"workspace:{team.id}"
    message = {"topic": name, "event": "x", "payload": {"n": 1}, "private": True}
    async with talker() as ana, httpx.AsyncClient(trust_env=False) as http:
        await ana.join(name, token(team.author), private=True)
        for headers, status in (({}, 401), ({"apikey": "x"}, 401)):
            assert (await http.post(url, json={"messages": [message]}, headers=headers)).status_code == status
        for body, status in ((b"{", 400), (b"{}", 422), (b'{"messages":[{"topic":"x"}]}', 422)):
            answer = await http.post(url, content=body, headers={"apikey": PUBLISHABLE})
            assert answer.status_code == status
        # Accepted, as by the official server, and not delivered.
        for bearer in (PUBLISHABLE, token(team.stranger), token(team.reader)):
            forged = {**message, "event": "forged"}
            answer = await http.post(
                url,
                json={"messages": [forged]},
                headers={"apikey": PUBLISHABLE, "authorization": f"Bearer {bearer}"},
            )
            assert answer.status_code == 202
        mine = {"apikey": PUBLISHABLE, "authorization": f"Bearer {token(team.author)}"}
        assert (await http.post(url, json={"messages": [message]}, headers=mine)).status_code == 202
        assert (
            await http.post(f"{url}/{name}/events/y?private=true", json=[2], headers=mine)
        ).status_code == 202
        service = {"apikey": SECRET_KEY}
        assert (await http.post(url, json={"messages": [message]}, headers=service)).status_code == 202
        heard = [await ana.hear("broadcast") for _ in range(3)]
        assert [(one["event"], one["payload"]) for one in heard] == [
            ("x", {"n": 1}),
            ("y", [2]),
            ("x", {"n": 1}),
        ]


async def test_a_database_that_was_away_is_a_gap_that_clients_see(
    talker: Talkers, team: Team, world: World
) -> None:
    name = f"workspace:{team.id}"
    async with talker() as ana:
        await ana.join(name, token(team.author), private=True)
        world.superuser(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'realtime%'"
        )
        with pytest.raises(websockets.ConnectionClosed) as caught:
            await ana.hear("never")
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
    async with asyncio.timeout(20):
        heard = False
        while not heard:
            async with talker() as ana:
                reply = await ana.join(name, token(team.author), private=True)
                if reply["status"] == "ok":
                    team.author.record(f"after {id(ana)}")
                    try:
                        heard = bool(await ana.hear("broadcast", timeout=1))
                    except (TimeoutError, websockets.ConnectionClosed):
                        continue


async def test_old_broadcasts_are_forgotten(database: Database, world: World) -> None:
    world.superuser("select realtime.send('{}', 'old', 'x', false), realtime.send('{}', 'young', 'x', false)")
    world.superuser(
        "update realtime.messages set inserted_at = localtimestamp - interval '73 hours' where event = 'old'"
    )
    service = Service(database.dsn("postgres"))
    await service.open()
    try:
        assert await service.forget_old_messages() == 1
    finally:
        await service.close()
    assert world.superuser("select event from realtime.messages") == [{"event": "young"}]
