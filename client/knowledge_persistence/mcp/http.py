"""The server over HTTP: `/functions/v1/mcp`, with the caller's own token.

Every request is admitted by its own token. A connection of the protocol's first era (handshake, `Mcp-Session-Id`)
belongs to the identity that opened it; to any other it does not exist. The era without connections (2026-07-28)
knows an agent by its identity and by what it calls itself.

Invariants
  * No request reaches a seat of another identity, whatever id it names.
  * An agent's session ends when the agent says so, or nothing was heard of it for a while; if it comes back, the
    session goes on.
  * What one user can hold here is bounded, and what all can hold together.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from knowledge_persistence._values import invalid
from knowledge_persistence.errors import PermissionDeniedError, RateLimitError

from .seat import Seat
from .server import agent_name, make_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

    from mcp.server.context import ServerRequestContext
    from starlette.types import Message, Receive, Scope, Send

    from knowledge_persistence._async.client import AsyncKnowledgeClient
    from knowledge_persistence.edge.identity import Caller

#: Where a request keeps the place that its call was led to.
_PLACE: Final = "knowledge_persistence.mcp.place"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What agents may hold.

    Attributes:
        agents_per_user: connections and agents of one user at once.
        connections: connections of all together.
        session_seconds: nothing heard for so long, and an agent's session ends.
        connection_seconds: nothing heard for so long, and its connection is forgotten.
    """

    agents_per_user: int = 32
    connections: int = 1000
    session_seconds: float = 30 * 60
    connection_seconds: float = 12 * 60 * 60


class _Place:
    """Where an agent sits, whom it acts for, whether it holds a connection, and when it was heard last."""

    def __init__(self, owner: str, caller: Caller, *, is_connection: bool) -> None:
        self.owner = owner
        self.user = caller.key
        self.client = caller.client
        self.is_connection = is_connection
        self.heard = time.monotonic()
        self.seat = Seat(self._connect, metadata={"via": "mcp http"})

    async def _connect(self) -> AsyncKnowledgeClient:
        return self.client


class McpEndpoint:
    """The ASGI application that agents connect to.

    Args:
        admit: finds out who sends a request; a response is for whoever sends too many.
        origins: where agents reach this, beside loopback, such as ``https://memory.example.org``; None: any name
            will do, behind a gateway that answers to its own names alone.
        bounds: what agents may hold.
    """

    def __init__(
        self,
        admit: Callable[[Request], Awaitable[Caller | Response]],
        *,
        origins: Sequence[str] | None = (),
        bounds: Bounds | None = None,
    ) -> None:
        self._admit = admit
        self._bounds = bounds or Bounds()
        self._security = _security(origins)
        self._server = make_server(self._find_seat)
        self._manager: StreamableHTTPSessionManager | None = None
        self._places: dict[str, _Place] = {}

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Serve while this is entered; on the way out every agent's session ends."""
        self._manager = StreamableHTTPSessionManager(
            self._server,
            # Nothing is ever sent but answers, and those are short.
            json_response=True,
            security_settings=self._security,
            session_idle_timeout=self._bounds.connection_seconds,
            max_sessions=self._bounds.connections,
        )
        async with self._manager.run():
            sweeping = asyncio.create_task(self._sweep())
            try:
                yield
            finally:
                sweeping.cancel()
                await asyncio.gather(sweeping, return_exceptions=True)
                await self._let_go(list(self._places))
                self._manager = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            KnowledgePersistenceError: nobody may come in with it.
        """
        request = Request(scope, receive)
        if request.method not in {"POST", "DELETE"}:
            # There is no stream to listen to.
            await Response(status_code=405, headers={"allow": "POST, DELETE"})(scope, receive, send)
            return
        caller = await self._admit(request)
        if isinstance(caller, Response):
            await caller(scope, receive, send)
            return
        request.state.caller = caller
        owner = _owner(caller, request.headers)
        scope["user"] = _user(owner)
        named = request.headers.get(MCP_SESSION_ID_HEADER)
        if request.method == "DELETE" and named is not None and (place := self._place(named, owner)):
            # It is over when the answer says so.
            await place.seat.leave()
            self._places.pop(named, None)
        opens = named is None and not _is_modern(request.headers)
        if opens and not await self._has_room(caller):
            await _too_many()(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if opens and message["type"] == "http.response.start":
                given = Headers(raw=message["headers"]).get(MCP_SESSION_ID_HEADER)
                if given is not None and message["status"] < 400:  # noqa: PLR2004 - answers from there on are errors
                    self._places[given] = _Place(owner, caller, is_connection=True)
            await send(message)

        try:
            await self._opened().handle_request(scope, receive, told)
        finally:
            called: _Place | None = scope.get(_PLACE)
            if called is not None:
                called.seat.calls -= 1
                called.heard = time.monotonic()

    async def _find_seat(self, context: ServerRequestContext[Any, Any]) -> Seat:
        request = cast("Request", context.request)
        caller = cast("Caller", request.state.caller)
        owner = _owner(caller, request.headers)
        agent = agent_name(context)
        key = request.headers.get(MCP_SESSION_ID_HEADER, "")
        if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
            # There an id of a connection means nothing, and nobody has looked whose it is.
            key = f"{owner} {agent or ''}"
        place = self._place(key, owner)
        if place is None:
            if not await self._has_room(caller):
                raise RateLimitError(
                    "too many agents of this user are at work",
                    code="PT429",
                    status=429,
                    hint="let one of them end its session, or go on without memory",
                )
            place = self._places[key] = _Place(owner, caller, is_connection=False)
        place.client = caller.client
        place.heard = time.monotonic()
        # Until this request is answered, nobody takes the place for silent.
        place.seat.calls += 1
        request.scope[_PLACE] = place
        if agent is not None:
            place.seat.metadata["agent"] = agent
        return place.seat

    def _place(self, key: str, owner: str) -> _Place | None:
        place = self._places.get(key)
        return place if place is not None and place.owner == owner else None

    async def _has_room(self, caller: Caller) -> bool:
        """Tell whether a user may have one agent more; the one not heard of for longest makes room, if it is idle."""
        held = [(place.heard, key) for key, place in self._places.items() if place.user == caller.key]
        if len(held) < self._bounds.agents_per_user:
            return True
        silent_since = time.monotonic() - self._bounds.session_seconds
        idle = [
            (heard, key) for heard, key in held if heard < silent_since and not self._places[key].seat.calls
        ]
        if not idle:
            return False
        await self._let_go([min(idle)[1]])
        return True

    def _opened(self) -> StreamableHTTPSessionManager:
        if self._manager is None:
            raise RuntimeError("the endpoint has not been opened")
        return self._manager

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self._bounds.session_seconds / 4, 60))
            try:
                await self._let_go_of_the_silent()
            except Exception:
                # The next one goes on: else nobody's session would end any more.
                log.exception("the silent agents' sessions could not be ended")

    async def _let_go_of_the_silent(self) -> None:
        now = time.monotonic()
        silent = {key: now - place.heard for key, place in self._places.items() if not place.seat.calls}
        await self._let_go([key for key, since in silent.items() if since > self._bounds.connection_seconds])
        # Their sessions end; should they come back, these go on.
        quiet = [key for key, since in silent.items() if since > self._bounds.session_seconds]
        await asyncio.gather(
            *(self._places[key].seat.leave(unless_called=True) for key in quiet if key in self._places)
        )

    async def _let_go(self, keys: Iterable[str]) -> None:
        gone = {key: place for key in keys if (place := self._places.pop(key, None)) is not None}
        await asyncio.gather(*(place.seat.leave() for place in gone.values()))
        for key, place in gone.items():
            if place.is_connection:
                await self._disconnect(key, place.owner)

    async def _disconnect(self, key: str, owner: str) -> None:
        """End a connection as its client would: the manager has no other way to be told."""
        scope: Scope = {
            "type": "http",
            "method": "DELETE",
            "path": "/",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (MCP_SESSION_ID_HEADER.encode(), key.encode())],
            "user": _user(owner),
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(_: Message) -> None:
            pass

        await self._opened().handle_request(scope, receive, send)


def _owner(caller: Caller, headers: Headers) -> str:
    """Return whom a connection belongs to: a user, an agent's token, and the workspace that was asked for.

    Raises:
        PermissionDeniedError: the service is nobody who learns.
        InvalidArgumentError: the request names a session.
    """
    if caller.user_id is None:
        raise PermissionDeniedError(
            "an agent acts for a user", code="PT403", status=403, hint="`kp tokens create` makes it a token"
        )
    if headers.get("x-session-id"):
        raise invalid(
            "x-session-id names a session, and an agent's own are its to start",
            "leave the header out; start_session resumes one by its name",
        )
    workspace = caller.workspace_id or headers.get("x-workspace-id", "").lower()
    return f"{caller.user_id} {caller.token_id or ''} {workspace}"


def _user(owner: str) -> AuthenticatedUser:
    """Return the owner as the manager knows one: it lets nobody else use a connection."""
    return AuthenticatedUser(AccessToken(token="", client_id=owner, scopes=[]))


def _is_modern(headers: Headers) -> bool:
    return headers.get(MCP_PROTOCOL_VERSION_HEADER) in MODERN_PROTOCOL_VERSIONS


def _too_many() -> Response:
    return JSONResponse(
        {
            "jsonrpc": "2.0",
            "id": None,
            "error": {"code": -32000, "message": "too many connections of this user are open; close one"},
        },
        status_code=429,
    )


def _security(origins: Sequence[str] | None) -> TransportSecuritySettings:
    """Say which names this answers to, so that no web page reaches it by a name of its own (DNS rebinding)."""
    if origins is None:
        return TransportSecuritySettings(enable_dns_rebinding_protection=False)
    hosts = [name for host in _LOOPBACK for name in (host, f"{host}:*")]
    pages = [f"http://{host}" for host in hosts]
    for origin in origins:
        hosts.append(urlsplit(origin).netloc)
        pages.append(origin.rstrip("/"))
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=pages)
