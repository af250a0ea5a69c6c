"""One client's connection: its channels, its limits, what it is told."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final, cast
from uuid import uuid4

import psycopg
import psycopg_pool
from starlette.websockets import WebSocketDisconnect

from .changes import FilterError, parse_filter
from .database import Permissions
from .hub import Channel, Subscription, broadcast_payload
from .limits import Limits, Rate
from .tokens import TokenError
from .wire import MalformedFrameError, Message, decode, dumps, encode

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from ..models import JSON, JSONObject
    from .hub import Hub
    from .tokens import Claims, Verifier
    from .wire import Frame, Version

log = logging.getLogger("knowledge_persistence.realtime")

_PREFIX: Final = "realtime:"
_MOST_REPLAYED: Final = 25
_CLOSE_SECONDS: Final = 2.0
_ids = itertools.count(1)

TOO_SLOW: Final = 1008
MALFORMED: Final = 1007
RESTARTED: Final = 1012


class _RefusedError(Exception):
    """A join is refused; the text is its reason."""


class Connection:
    """Serve one websocket.

    Args:
        websocket: accepted.
        hub: the channels.
        verifier: of tokens.
        claims: of the key that the connection was made with.
        version: of the protocol.
        limits: what the client may take.
    """

    def __init__(
        self,
        websocket: WebSocket,
        *,
        hub: Hub,
        verifier: Verifier,
        claims: Claims,
        version: Version,
        limits: Limits,
    ) -> None:
        self._websocket = websocket
        self._hub = hub
        self._verifier = verifier
        self._claims = claims
        self._version: Version = version
        self._limits = limits
        self._channels: dict[str, Channel] = {}
        self._waiting: deque[Frame] = deque()
        self._waiting_bytes = 0
        self._sending = False
        self._sender: asyncio.Task[None] | None = None
        self._ended: tuple[int, str] | None = None
        self._ending = asyncio.Event()
        self._joins = Rate(limits.joins_per_second)
        self._events = Rate(limits.events_per_second)
        self._checked_at = time.monotonic()

    # -- the stream --------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Read until the client goes or is dropped."""
        reading = asyncio.create_task(self._read())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait([reading, ending], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for channel in self._channels.values():
                self._hub.leave(channel)
            self._channels.clear()
            for task in (reading, ending, self._sender):
                if task is not None:
                    task.cancel()
            await asyncio.gather(reading, ending, return_exceptions=True)
            self._waiting.clear()
            if self._ended is not None:
                await self._close(*self._ended)

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._websocket.close(code, reason)
        except (TimeoutError, RuntimeError, WebSocketDisconnect, OSError):
            # Whoever reads nothing reads no goodbye either.
            transport = cast("asyncio.Transport | None", self._websocket.scope.get("transport"))
            if transport is not None:
                transport.abort()

    def end(self, code: int, reason: str) -> None:
        """Close the connection soon."""
        if self._ended is None:
            self._ended = (code, reason)
            self._ending.set()

    def send(self, message: Message) -> None:
        """Send, or drop the connection where it reads too slowly."""
        frame = encode(message, self._version)
        if frame is None or self._ended is not None:
            return
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        if self._waiting_bytes > self._limits.waiting_bytes:
            self._waiting.clear()
            self.end(TOO_SLOW, "reads too slowly")
        elif not self._sending:
            self._sending = True
            self._sender = asyncio.create_task(self._send_waiting())

    async def _send_waiting(self) -> None:
        # A task for as long as something waits: an idle connection costs none.
        try:
            while self._waiting:
                frame = self._waiting.popleft()
                if isinstance(frame, bytes):
                    await self._websocket.send_bytes(frame)
                else:
                    await self._websocket.send_text(frame)
                self._waiting_bytes -= len(frame)
        except (WebSocketDisconnect, RuntimeError, OSError):
            self.end(1006, "")
        finally:
            self._sending = False

    async def _read(self) -> None:
        while True:
            received = await self._websocket.receive()
            if received["type"] == "websocket.disconnect":
                return
            text = received.get("text")
            frame = cast("Frame", text if text is not None else received.get("bytes") or b"")
            try:
                message = decode(frame, self._version)
            except MalformedFrameError as error:
                self.end(MALFORMED, f"malformed frame: {error}"[:120])
                return
            await self._take(message)

    def _reply(self, message: Message, status: str, response: JSONObject) -> None:
        if message.ref is None and message.event != "heartbeat":
            return
        payload: JSONObject = {"status": status, "response": response}
        self.send(Message(message.topic, "phx_reply", payload, ref=message.ref, join_ref=message.join_ref))

    # -- messages ----------------------------------------------------------------------------------------------

    async def _take(self, message: Message) -> None:
        if message.topic == "phoenix":
            if message.event == "heartbeat":
                self._reply(message, "ok", {})
            return
        if message.event == "phx_join":
            await self._try_to_join(message)
            return
        channel = self._channels.get(message.topic)
        if channel is None:
            self._reply(message, "error", {"reason": "unmatched topic"})
            return
        await self._take_in(channel, message)

    async def _take_in(self, channel: Channel, message: Message) -> None:
        match message.event:
            case "phx_leave":
                self._reply(message, "ok", {})
                self._remove(channel)
            case "access_token":
                await self._renew(channel, message.payload.get("access_token"))
            case "broadcast" | "presence":
                if self._events.exceeded():
                    channel.tell_system("system", "error", "Too many messages per second")
                    self._remove(channel)
                elif message.event == "broadcast":
                    self._broadcast(channel, message)
                else:
                    self._show(channel, message)
            case _:
                log.info("an unknown event %r was left aside", message.event)

    async def _try_to_join(self, message: Message) -> None:
        try:
            await self._join(message)
        except _RefusedError as error:
            self._reply(message, "error", {"reason": str(error)})
        except (psycopg.Error, psycopg_pool.PoolTimeout, OSError) as error:
            log.warning("a join failed: %s", error)
            reason = "InitializingProjectConnection: Realtime is initializing the project connection"
            self._reply(message, "error", {"reason": reason})

    def _claims_of(self, token: JSON) -> Claims:
        if not isinstance(token, str) or not token or token.startswith("sb_"):
            left = self._claims.seconds_left()
            if left is not None and left <= 0:
                raise TokenError("InvalidJWTToken", f"Token has expired {int(-left)} seconds ago")
            return self._claims
        return self._verifier.verify(token)

    def _make_room(self, topic: str) -> str:
        """Return the name of the channel that may be joined."""
        if self._joins.exceeded():
            raise _RefusedError("ClientJoinRateLimitReached: Too many joins per second")
        name = topic.removeprefix(_PREFIX)
        if name == topic:
            raise _RefusedError("unmatched topic")
        if not name:
            raise _RefusedError("TopicNameRequired: You must provide a topic name")
        before = self._channels.pop(topic, None)
        if before is not None:
            # A client that joins anew has forgotten the earlier join.
            self._hub.leave(before)
        if len(self._channels) >= self._limits.channels:
            raise _RefusedError("ChannelRateLimitReached: Too many channels")
        return name

    async def _join(self, message: Message) -> None:
        name = self._make_room(message.topic)
        config = _object(message.payload.get("config"))
        broadcast, presence = _object(config.get("broadcast")), _object(config.get("presence"))
        try:
            claims = self._claims_of(message.payload.get("access_token") or message.payload.get("user_token"))
        except TokenError as error:
            raise _RefusedError(error.reason) from error
        private = config.get("private") is True
        permissions = Permissions(True, True, True, True)
        if private:
            permissions = await self._hub.database.permissions(name, claims)
            if not permissions.read_broadcast:
                raise _RefusedError(
                    f"Unauthorized: You do not have permissions to read from this Channel topic: {name}"
                )
        channel = Channel(
            peer=self,
            topic=message.topic,
            name=name,
            join_ref=message.join_ref or message.ref,
            private=private,
            claims=claims,
            permissions=permissions,
            acknowledges=broadcast.get("ack") is True,
            hears_itself=broadcast.get("self") is True,
            presence_key=str(presence.get("key") or "") or str(uuid4()),
            presence_enabled=presence.get("enabled", True) is not False,
        )
        bindings, problem = await self._subscribe(channel, config.get("postgres_changes"))
        replayed = await self._replay(channel, broadcast.get("replay"))
        self._channels[message.topic] = channel
        self._reply(message, "ok", {"postgres_changes": cast("JSON", bindings)})
        if channel.presence_enabled and permissions.read_presence:
            channel.send("presence_state", self._hub.presence_state(channel.room))
        for payload in replayed:
            channel.send("broadcast", payload)
        if broadcast.get("replication_ready") is True:
            channel.tell_system("system", "ok", "Replication connection established")
        if problem is not None:
            channel.subscriptions.clear()
            channel.tell_system("postgres_changes", "error", problem)
        self._hub.enter(channel)

    async def _subscribe(self, channel: Channel, asked: JSON) -> tuple[list[JSONObject], str | None]:
        """Note what changes a channel wants, and return that with ids, or what is wrong with it."""
        bindings: list[JSONObject] = []
        problem: str | None = None
        for one in asked if isinstance(asked, list) else []:
            binding = _object(one)
            number = next(_ids)
            bindings.append({**binding, "id": number})
            schema, table = str(binding.get("schema") or "public"), binding.get("table")
            given, columns = binding.get("filter"), binding.get("select")
            try:
                conditions = parse_filter(given) if isinstance(given, str) and given else ()
            except FilterError as error:
                problem = str(error)
                continue
            if (
                isinstance(table, str)
                and table != "*"
                and not await self._hub.database.is_published(schema, table)
            ):
                told = dumps({name: value for name, value in binding.items() if value is not None})
                problem = (
                    "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for "
                    f"the given connect parameters: {told}"
                )
                continue
            channel.subscriptions.append(
                Subscription(
                    number,
                    str(binding.get("event") or "*").upper(),
                    schema,
                    table if isinstance(table, str) else None,
                    conditions,
                    frozenset(map(str, columns)) if isinstance(columns, list) and columns else None,
                )
            )
        return bindings, problem

    async def _replay(self, channel: Channel, asked: JSON) -> list[JSONObject]:
        if not isinstance(asked, dict):
            return []
        since, limit = asked.get("since"), asked.get("limit", _MOST_REPLAYED)
        if (
            not channel.private
            or not isinstance(since, (int, float))
            or not isinstance(limit, int)
            or limit < 1
        ):
            raise _RefusedError(
                "UnableToReplayMessages: Replay is only available for private channels, since a time"
            )
        sent = await self._hub.database.replay(channel.name, since, min(limit, _MOST_REPLAYED))
        return [broadcast_payload(one, replayed=True) for one in sent]

    def _broadcast(self, channel: Channel, message: Message) -> None:
        if not channel.permissions.write_broadcast:
            return  # as the official server: no answer
        self._hub.broadcast(channel.room, message.payload, body=message.body, sender=channel)
        if channel.acknowledges:
            self._reply(message, "ok", {})

    def _show(self, channel: Channel, message: Message) -> None:
        if not channel.permissions.write_presence:
            self._reply(
                message, "error", {"reason": "Unauthorized: You do not have permissions to show presence"}
            )
            return
        state = _object(message.payload.get("payload"))
        match str(message.payload.get("event", "")).lower():
            case "track":
                if len(dumps(state)) > self._limits.presence_bytes:
                    self._reply(message, "error", {"reason": "Presence state is too large"})
                    return
                channel.presence_enabled = True
                self._reply(message, "ok", {})
                self._hub.track(channel, state)
            case "untrack":
                self._reply(message, "ok", {})
                self._hub.untrack(channel)
            case _:
                self._reply(message, "error", {"reason": "unknown presence event"})

    # -- tokens ------------------------------------------------------------------------------------------------

    async def _renew(self, channel: Channel, token: JSON) -> None:
        if not isinstance(token, str) or not token:
            return
        try:
            channel.claims = self._claims_of(token)
        except TokenError as error:
            self._expel(channel, str(error))
            return
        await self._check(channel)

    async def _check(self, channel: Channel) -> None:
        """Look again at what a private channel may do, and close it where that is nothing."""
        if not channel.private:
            return
        try:
            channel.permissions = await self._hub.database.permissions(channel.name, channel.claims)
        except (psycopg.Error, psycopg_pool.PoolTimeout, OSError) as error:
            log.warning("permissions can't be looked at: %s", error)
            return
        if not channel.permissions.read_broadcast:
            self._expel(
                channel, f"You do not have permissions to read from this Channel topic: {channel.name}"
            )

    def _expel(self, channel: Channel, reason: str) -> None:
        channel.tell_system("system", "error", reason)
        self._remove(channel)

    def _remove(self, channel: Channel) -> None:
        self._hub.leave(channel)
        if self._channels.get(channel.topic) is channel:
            del self._channels[channel.topic]
        self.send(Message(channel.topic, "phx_close", {}, ref=channel.join_ref, join_ref=channel.join_ref))

    async def check(self) -> None:
        """Close what has expired; now and then look at permissions again."""
        now = time.monotonic()
        due = now - self._checked_at >= self._limits.recheck_seconds
        if due:
            self._checked_at = now
        for channel in tuple(self._channels.values()):
            left = channel.claims.seconds_left()
            if left is not None and left <= 0:
                self._expel(channel, f"Token has expired {int(-left)} seconds ago")
            elif due:
                await self._check(channel)


def _object(value: JSON) -> JSONObject:
    return value if isinstance(value, dict) else {}
