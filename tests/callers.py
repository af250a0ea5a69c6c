"""Those who call the edge functions, and what they show."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
from fastapi import FastAPI

from world import Persona

SECRET = "a secret that is long enough for HS256, as it says, and for HS512 too"
SECRET_KEY = "sb_secret_of_the_tests"
PUBLISHABLE = "sb_publishable_of_the_tests"


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Make a token of a signed-in user, with some claims different; None leaves one out."""
    given = {"sub": str(uuid.uuid4()), "role": "authenticated", "exp": int(time.time()) + 600, **claims}
    return jwt.encode({k: v for k, v in given.items() if v is not None}, secret, algorithm)


def bearer(persona: Persona, **headers: str) -> dict[str, str]:
    """Return the headers of somebody who is signed in."""
    return {
        "apikey": PUBLISHABLE,
        "authorization": f"Bearer {token(sub=str(persona.id))}",
        **{
            f"x-{name}-id": str(value)
            for name, value in (("workspace", persona.workspace), ("session", persona.session))
            if value is not None
        },
        **headers,
    }


@dataclass
class Edge:
    """The functions of one application."""

    app: FastAPI
    client: httpx.AsyncClient = field(repr=False)

    async def __call__(
        self, function: str, body: object = None, headers: dict[str, str] | None = None, **arguments: Any
    ) -> httpx.Response:
        """Call a function as its headers say."""
        return await self.client.post(f"/functions/v1/{function}", json=body, headers=headers, **arguments)

    async def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.client.get(path, headers=headers)
