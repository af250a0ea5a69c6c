"""The official clients, unmodified, in one contract of realtime.

Against the embedded gateway; and against official Realtime where a deployment is named (KP_STACK_URL, KP_STACK_API_KEY,
KP_STACK_JWT_SECRET), with ``-m stack``.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import pytest
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from node_tools import DIRECTORY, node

PASSWORD = "a long enough password"
_NAMED = [os.environ.get(f"KP_STACK_{name}") for name in ("URL", "API_KEY", "JWT_SECRET")]


@dataclass(frozen=True)
class Target:
    url: str
    key: str
    jwt_secret: str

    def expired_token(self) -> str:
        claims = {"sub": str(uuid.uuid4()), "role": "authenticated", "exp": int(time.time()) - 60}
        return jwt.encode(claims, self.jwt_secret, "HS256")


@pytest.fixture(params=["embedded", pytest.param("named", marks=pytest.mark.stack)])
def target(request: pytest.FixtureRequest) -> Target:
    if request.param == "named":
        if not all(_NAMED):
            pytest.skip("no deployment of the official images is named")
        return Target(*(str(value) for value in _NAMED))
    stack = request.getfixturevalue("stack")
    return Target(stack.url, stack.config.publishable_key, stack.config.jwt_secret)


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_supabase_js(target: Target, version: str) -> None:
    result = subprocess.run(
        [
            node(),
            str(DIRECTORY / "realtime_client.mjs"),
            target.url,
            target.key,
            version,
            target.expired_token(),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    check_contract(json.loads(result.stdout))


def check_contract(seen: dict[str, Any]) -> None:
    assert seen["denied"]["status"] == "CHANNEL_ERROR"
    assert "permissions to read" in seen["denied"]["message"]
    assert seen["expired"]["status"] == "CHANNEL_ERROR"
    assert "expired" in seen["expired"]["message"]
    assert [one["status"] for one in seen["allowed"]] == ["SUBSCRIBED", "SUBSCRIBED"]
    assert seen["acknowledged"] == "ok"
    assert seen["hello"] == [["hello", {"from": "ada", "text": "grüße"}]]  # and not what he said himself
    assert seen["answer"] == {"from": "ben"}
    assert seen["presence"] == {"join": "ben", "doing": "reading"}
    assert seen["inserted"] == ["Ports", 80, {"n": [1]}, True]
    assert seen["updated"] == ["validated", True]
    assert seen["pushed"] is True
    assert seen["deleted"] == [True, ["id"]]
    assert seen["titles"] == {"ada": ["Hidden", "Ports"], "ben": ["Ports"], "mallory": []}
    assert seen["removed"] == "error"


class Ear:
    """What was heard, and a way to wait for more of it."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self._more = asyncio.Event()

    def put(self, value: object) -> None:
        self.heard.append(value)
        self._more.set()

    async def until(self, condition: Callable[[Any], bool], what: str) -> Any:
        try:
            async with asyncio.timeout(10):
                while not (found := [one for one in self.heard if condition(one)]):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            pytest.fail(f"never heard: {what}; heard {self.heard}")
        return found[0]


async def opened(target: Target, http: httpx.AsyncClient) -> AsyncClient:
    options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
    return await acreate_client(target.url, target.key, options)


async def signed_up(target: Target, name: str, http: httpx.AsyncClient) -> AsyncClient:
    client = await opened(target, http)
    email = f"{name}-{uuid.uuid4()}@example.org"
    answer = await client.auth.sign_up({"email": email, "password": PASSWORD})
    assert answer.session is not None
    await client.realtime.set_auth(answer.session.access_token)
    return client


def config(*, private: bool = True, key: str = "", **broadcast: bool) -> Any:
    presence = {"key": key, "enabled": bool(key)}
    return {
        "config": {
            "private": private,
            "broadcast": {"ack": False, "self": False, **broadcast},
            "presence": presence,
        }
    }


async def subscribed(channel: Any) -> dict[str, Any]:
    ear = Ear()
    try:
        await channel.subscribe(
            lambda state, error: ear.put({"status": state.value, "message": str(error) if error else None})
        )
    except Exception as error:  # noqa: BLE001 - the client raises what it is told
        return {"status": "CHANNEL_ERROR", "message": str(error)}
    return await ear.until(lambda one: one["status"] != "CLOSED", "a state")


@pytest.fixture
async def http() -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as http:
        yield http


# It says so itself when it reconnects.
@pytest.mark.filterwarnings(r"ignore:ConnectionClosed\.\w+ is deprecated")
async def test_supabase_py(target: Target, http: httpx.AsyncClient) -> None:
    seen: dict[str, Any] = {}
    ada, ben, mallory = [await signed_up(target, name, http) for name in ("ada", "ben", "mallory")]
    [made] = (await ada.rpc("create_workspace", {"name": "team"}).execute()).data
    team = made["workspace_id"]
    ben_id = (await ben.auth.get_user()).user.id
    await ada.rpc("add_workspace_member", {"workspace_id": team, "user_id": ben_id}).execute()
    topic = f"workspace:{team}"

    seen["denied"] = await subscribed(mallory.channel(topic, config()))
    late = await opened(target, http)
    await late.realtime.set_auth(target.expired_token())
    seen["expired"] = await subscribed(late.channel(topic, config()))

    hears = {"ada": Ear(), "ben": Ear()}
    adas = ada.channel(topic, config(key="ada", ack=True, self=True))
    bens = ben.channel(topic, config(key="ben"))
    adas.on_broadcast("*", hears["ada"].put)
    bens.on_broadcast("*", hears["ben"].put)
    presence = Ear()
    adas.on_presence_sync(lambda: presence.put({"sync": sorted(adas.presence_state())}))
    adas.on_presence_join(lambda key, _, new: presence.put({"join": key, "doing": new[0].get("doing")}))
    adas.on_presence_leave(lambda key, _, __: presence.put({"leave": key}))
    seen["allowed"] = [await subscribed(adas), await subscribed(bens)]
    acknowledged = Ear()
    push = await adas.push(
        "broadcast", {"type": "broadcast", "event": "hello", "payload": {"from": "ada", "text": "grüße"}}
    )
    push.receive("ok", lambda _: acknowledged.put("ok"))
    seen["acknowledged"] = await acknowledged.until(bool, "the acknowledgement")
    await hears["ben"].until(lambda one: one["event"] == "hello", "hello by ben")
    await hears["ada"].until(lambda one: one["event"] == "hello", "hello by ada herself")
    await bens.send_broadcast("answer", {"from": "ben"})
    seen["answer"] = (await hears["ada"].until(lambda one: one["event"] == "answer", "answer"))["payload"]
    seen["hello"] = [[one["event"], one["payload"]] for one in hears["ben"].heard]

    await bens.track({"doing": "reading"})
    seen["presence"] = await presence.until(lambda one: one.get("join") == "ben", "ben joins")
    await presence.until(lambda one: "ben" in one.get("sync", []), "sync with ben")
    await bens.untrack()
    await presence.until(lambda one: one.get("leave") == "ben", "ben leaves")

    changes = {"ada": Ear(), "ben": Ear(), "mallory": Ear()}
    for (name, ear), client in zip(changes.items(), (ada, ben, mallory), strict=True):
        channel, system = client.channel(f"changes of {name}"), Ear()
        told = lambda payload, ear=ear: ear.put(payload["data"])  # noqa: E731
        channel.on_postgres_changes("*", told, table="knowledge_items", filter="importance_score=gte.60")
        channel.on_postgres_changes("DELETE", told, table="knowledge_items")
        channel.on_system(system.put)
        await subscribed(channel)
        await system.until(lambda one: "Subscribed to PostgreSQL" in str(one), "Subscribed to PostgreSQL")

    async def rpc(name: str, **arguments: Any) -> Any:
        request = ada.rpc(name, arguments)
        request.request.headers["x-workspace-id"] = team
        return (await request.execute()).data

    async def record(title: str, importance: int) -> str:
        given = {"title": title, "content": title, "importance_score": importance, "context_data": {"n": [1]}}
        return (await rpc("record_knowledge", **given))[0]["knowledge_id"]

    await record("left out by the filter", 10)
    await record("Hidden", 80)
    item = await record("Ports", 80)
    told = await changes["ada"].until(lambda one: one.get("record", {}).get("title") == "Ports", "insert")
    new = told["record"]
    seen["inserted"] = [new["title"], new["importance_score"], new["context_data"], new["id"] == item]
    await rpc("validate_knowledge", knowledge_id=item)
    # The worker changes the row as well, when it stores the vector: before, or after.
    updated = await changes["ben"].until(
        lambda one: one["type"] == "UPDATE" and one["record"]["validation_status"] == "validated", "update"
    )
    seen["updated"] = [updated["record"]["validation_status"], updated["old_record"]["id"] == item]

    def is_shared(one: Any) -> bool:
        events = one["payload"].get("events")
        return bool(events) and events[0]["what"] == "shared"

    pushed = await hears["ben"].until(is_shared, "the push")
    seen["pushed"] = pushed["payload"]["events"][0]["knowledge_id"] == item
    await rpc("forget_knowledge", knowledge_id=item)
    deleted = await changes["mallory"].until(lambda one: one["type"] == "DELETE", "delete")
    seen["deleted"] = [deleted["old_record"]["id"] == item, list(deleted["old_record"])]
    seen["titles"] = {
        name: sorted({one["record"]["title"] for one in ear.heard if "record" in one})
        for name, ear in changes.items()
    }

    refreshed = await ben.auth.refresh_session()
    assert refreshed.session is not None
    await ben.realtime.set_auth(refreshed.session.access_token)
    await adas.send_broadcast("after the refresh", {})
    await hears["ben"].until(lambda one: one["event"] == "after the refresh", "a broadcast after the refresh")

    # A lost connection is made again by the client, and the channels with it.
    states, again = Ear(), ada.channel("again", config(private=False, self=True))
    again.on_broadcast("x", states.put)
    await again.subscribe(lambda state, _: states.put({"event": state.value}))
    await states.until(lambda one: one["event"] == "SUBSCRIBED", "the first join")
    states.heard.clear()
    connection = ada.realtime._ws_connection
    assert connection is not None
    connection.transport.abort()
    await states.until(lambda one: one["event"] == "SUBSCRIBED", "the second join")
    await again.send_broadcast("x", {})
    await states.until(lambda one: one["event"] == "x", "a broadcast after the reconnection")

    closed = Ear()
    await rpc("remove_workspace_member", workspace_id=team, user_id=ben_id)
    bens.on_close = lambda: closed.put("error")  # type: ignore[method-assign]
    refreshed = await ben.auth.refresh_session()
    assert refreshed.session is not None
    await ben.realtime.set_auth(refreshed.session.access_token)
    seen["removed"] = await closed.until(bool, "the refusal")

    for client in (ada, ben, mallory, late):
        await client.realtime.close()
    check_contract(seen)
