"""The gateway's ASGI application, and the server that runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Final, cast

import psycopg
import psycopg_pool
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from .connection import RESTARTED, Connection
from .database import Database
from .hub import Hub
from .limits import Limits
from .tokens import TokenError

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.websockets import WebSocket

    from ..models import JSON, JSONObject
    from .tokens import Claims, Verifier
    from .wire import Version

log = logging.getLogger("knowledge_persistence.realtime")

_SWEEP_SECONDS: Final = 1.0
_RECONNECT_SECONDS: Final = 0.5
_FORGET_SECONDS: Final = 3600.0


class Gateway:
    """The gateway of one database.

    Args:
        dsn: PostgreSQL URL, see `Database`.
        verifier: of keys and tokens.
        limits: what one client may take.
    """

    def __init__(self, dsn: str, verifier: Verifier, limits: Limits | None = None) -> None:
        self.database = Database(dsn)
        self.hub = Hub(self.database)
        self._verifier = verifier
        self._limits = limits or Limits()
        self._connections: set[Connection] = set()
        self.listening = asyncio.Event()
        self.app = Starlette(
            routes=[
                WebSocketRoute("/websocket", self._websocket),
                Route("/api/broadcast", self._broadcast_many, methods=["POST"]),
                Route("/api/broadcast/{topic}/events/{event}", self._broadcast_one, methods=["POST"]),
                Route("/api/ping", self._ping),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncGenerator[None]:
        await self.database.open()
        tasks = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self.hub.follow_changes()),
            asyncio.create_task(self._sweep()),
            asyncio.create_task(self._forget()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.database.close()

    async def _listen(self) -> None:
        while True:
            try:
                await self.database.listen(self.hub.hear, self.listening.set)
            except* (psycopg.Error, psycopg_pool.PoolTimeout, OSError) as errors:
                log.warning("the database is away: %s", errors.exceptions[0])
            if self.listening.is_set():
                self.listening.clear()
                # What was sent meanwhile is lost here: clients that connect anew know that there was a gap.
                for connection in tuple(self._connections):
                    connection.end(RESTARTED, "the database was away")
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _forget(self) -> None:
        # A start drops old days by the partition; a stack that runs for weeks has none.
        while True:
            await asyncio.sleep(_FORGET_SECONDS)
            try:
                await self.database.forget_old_messages()
            except (psycopg.Error, psycopg_pool.PoolTimeout) as error:
                log.warning("old broadcasts can't be deleted: %s", error)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            for connection in tuple(self._connections):
                await connection.check()

    # -- websockets --------------------------------------------------------------------------------------------

    async def _websocket(self, websocket: WebSocket) -> None:
        try:
            claims, version = self._admit(websocket)
        except TokenError as error:
            await websocket.send_denial_response(JSONResponse({"error": str(error)}, 401))
            return
        except _HandshakeError as error:
            await websocket.send_denial_response(JSONResponse({"error": str(error)}, error.status))
            return
        await websocket.accept()
        connection = Connection(
            websocket,
            hub=self.hub,
            verifier=self._verifier,
            claims=claims,
            version=version,
            limits=self._limits,
        )
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)

    def _admit(self, websocket: WebSocket) -> tuple[Claims, Version]:
        key = websocket.headers.get("x-api-key") or websocket.query_params.get("apikey")
        version = websocket.query_params.get("vsn", "1.0.0")
        if not key:
            raise _HandshakeError(401, "API key is missing")
        if version not in {"1.0.0", "2.0.0"}:
            raise _HandshakeError(400, f"protocol version {version} is not spoken here")
        if len(self._connections) >= self._limits.connections:
            raise _HandshakeError(429, "Too many connected users")
        return self._verifier.verify(key), cast("Version", version)

    # -- HTTP --------------------------------------------------------------------------------------------------

    def _caller(self, request: Request) -> Claims:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        token = bearer.strip() if scheme.lower() == "bearer" else ""
        token = token or request.headers.get("x-api-key") or request.headers.get("apikey") or ""
        if not token:
            raise TokenError("InvalidJWTToken", "API key is missing")
        return self._verifier.verify(token)

    async def _ping(self, _: Request) -> Response:
        return JSONResponse({"message": "Success"} if self.listening.is_set() else {"message": "no database"})

    async def _body(self, request: Request) -> bytes | None:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._limits.frame_bytes:
                return None
        return bytes(body)

    async def _broadcast_many(self, request: Request) -> Response:
        try:
            claims = self._caller(request)
        except TokenError as error:
            return JSONResponse({"error": str(error)}, 401)
        body = await self._body(request)
        if body is None:
            return JSONResponse({"error": "Payload Too Large"}, 413)
        try:
            given = cast("object", json.loads(body))
        except (ValueError, RecursionError):
            return JSONResponse({"error": "the body is not JSON"}, 400)
        messages = _messages(given)
        if messages is None:
            return JSONResponse(
                {"errors": {"messages": ["an array of objects with topic, event and payload"]}}, 422
            )
        for message in messages:
            await self._send(claims, message)
        return Response(status_code=202)

    async def _broadcast_one(self, request: Request) -> Response:
        try:
            claims = self._caller(request)
        except TokenError as error:
            return JSONResponse({"error": str(error)}, 401)
        body = await self._body(request)
        if body is None:
            return JSONResponse({"error": "Payload Too Large"}, 413)
        message: JSONObject = {
            "topic": cast("str", request.path_params["topic"]),
            "event": cast("str", request.path_params["event"]),
            "private": request.query_params.get("private") == "true",
        }
        if request.headers.get("content-type", "").startswith("application/octet-stream"):
            await self._send(claims, message, body)
            return Response(status_code=202)
        try:
            message["payload"] = cast("JSON", json.loads(body))
        except (ValueError, RecursionError):
            return JSONResponse({"error": "the body is not JSON"}, 400)
        await self._send(claims, message)
        return Response(status_code=202)

    async def _send(self, claims: Claims, message: JSONObject, body: bytes | None = None) -> None:
        topic, private = str(message["topic"]), message.get("private") is True
        if private and not (await self.hub.database.permissions(topic, claims)).write_broadcast:
            log.info("a private broadcast was not permitted")
            return  # as the official server: accepted, and not delivered
        payload: JSONObject = {"type": "broadcast", "event": str(message["event"])}
        if body is None:
            payload["payload"] = message.get("payload")
        self.hub.broadcast((topic, private), payload, body=body)


class _HandshakeError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _messages(given: object) -> list[JSONObject] | None:
    found = cast("dict[str, object]", given).get("messages") if isinstance(given, dict) else None
    if not isinstance(found, list):
        return None
    messages = cast("list[JSONObject]", found)
    for message in messages:
        if not isinstance(message, dict) or not all(  # pyright: ignore[reportUnnecessaryIsInstance]
            isinstance(message.get(name), str) and message[name] for name in ("topic", "event")
        ):
            return None
    return messages


class _Protocol(WebSocketsSansIOProtocol):
    """The server's websocket protocol, with the way to end a connection that nothing can be written to."""

    async def run_asgi(self) -> None:
        cast("dict[str, object]", self.scope)["transport"] = self.transport
        await super().run_asgi()


def make_server(gateway: Gateway, limits: Limits | None = None) -> uvicorn.Server:
    """Make the server of a gateway; serve it on a socket.

    Args:
        gateway: the gateway.
        limits: as the gateway's.
    """
    return uvicorn.Server(
        uvicorn.Config(
            gateway.app,
            ws=_Protocol,
            ws_max_size=(limits or Limits()).frame_bytes,
            # Compression would cost each connection hundreds of kilobytes; this goes to the same machine.
            ws_per_message_deflate=False,
            ws_ping_interval=20,
            ws_ping_timeout=20,
            lifespan="on",
            # Its lines would hold keys: they are part of the address.
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=2,
        )
    )


async def serve(gateway: Gateway, listener: socket.socket) -> None:
    """Serve a gateway until SIGTERM or SIGINT comes.

    Args:
        gateway: the gateway.
        listener: a listening socket.
    """
    await make_server(gateway).serve(sockets=[listener])
