"""Clients of a realtime gateway that say what they are told to, and its tokens."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Self

import jwt
import websockets

from world import Persona

SECRET = secrets.token_hex(32)
PUBLISHABLE, SECRET_KEY = "sb_publishable_x", "sb_secret_x"


def token(persona: Persona | None = None, **claims: Any) -> str:
    """Sign somebody's token; claims of None are left out."""
    default = {
        "role": "authenticated",
        "exp": int(time.time()) + 600,
        "sub": str(persona.id) if persona else "",
    }
    return jwt.encode({k: v for k, v in {**default, **claims}.items() if v is not None}, SECRET, "HS256")


class Talker:
    """A client of protocol 1.0.0 that does as it is told."""

    def __init__(self, stream: websockets.ClientConnection) -> None:
        self.stream = stream
        self._refs = 0
        self._kept: list[dict[str, Any]] = []

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str, key: str = PUBLISHABLE) -> AsyncGenerator[Self]:
        async with websockets.connect(f"{url}/websocket?apikey={key}&vsn=1.0.0", proxy=None) as stream:
            yield cls(stream)

    async def say(self, topic: str, event: str, payload: object = None) -> str:
        self._refs += 1
        ref = str(self._refs)
        await self.stream.send(
            json.dumps({"topic": topic, "event": event, "payload": payload or {}, "ref": ref})
        )
        return ref

    async def hear(self, event: str, *, timeout: float = 10, **expected: Any) -> Any:  # noqa: ASYNC109
        """Wait for the next message of this kind, and return its payload; the others wait their turn."""
        async with asyncio.timeout(timeout):
            place = 0
            while True:
                while place < len(self._kept):
                    message = self._kept[place]
                    if message["event"] == event and all(message[k] == v for k, v in expected.items()):
                        return self._kept.pop(place)["payload"]
                    place += 1
                self._kept.append(json.loads(await self.stream.recv()))

    async def ask(self, topic: str, event: str, payload: object = None) -> Any:
        ref = await self.say(topic, event, payload)
        return await self.hear("phx_reply", ref=ref)

    async def join(self, name: str, access_token: str | None = None, **config: Any) -> Any:
        payload: dict[str, Any] = {"config": {"presence": {"key": "", "enabled": False}, **config}}
        if access_token is not None:
            payload["access_token"] = access_token
        return await self.ask(f"realtime:{name}", "phx_join", payload)

    def unheard(self, event: str) -> list[Any]:
        return [message["payload"] for message in self._kept if message["event"] == event]
