"""The channels: who is in which, who is present, and who hears what."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import psycopg

from ..models import JSON
from .changes import ChangeFeed, Condition
from .wire import Message, dumps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..models import JSONObject
    from .changes import Change
    from .database import Broadcast, Database, Permissions
    from .tokens import Claims

log = logging.getLogger("knowledge_persistence.realtime")

#: A topic's name and whether it is private: of the same name there can be one of each.
Room: TypeAlias = tuple[str, bool]
_LARGE_RECORD = 1_000_000
_SMALL_VALUE = 64


class Peer(Protocol):
    """Whoever a channel's messages go to."""

    def send(self, message: Message) -> None:
        """Send, or drop the connection where it reads too slowly."""
        ...


@dataclass(slots=True, eq=False)
class Subscription:
    """What somebody wants to hear of changes."""

    id: int
    event: str
    schema: str
    table: str | None
    conditions: tuple[Condition, ...]
    columns: frozenset[str] | None

    def wants(self, change: Change) -> bool:
        """Say whether a change is one of those asked for."""
        return (
            self.event in {"*", change.kind}
            and self.schema in {"*", change.relation.schema}
            and self.table in {None, "*", change.relation.name}
            and all(self._meets(condition, change) for condition in self.conditions)
        )

    @staticmethod
    def _meets(condition: Condition, change: Change) -> bool:
        values = change.old if change.kind == "DELETE" else change.new
        return condition.column in values and condition.holds(
            values[condition.column], change.types[condition.column]
        )


@dataclass(slots=True, eq=False)
class Channel:
    """One joined channel of one connection."""

    peer: Peer
    topic: str
    name: str
    join_ref: str | None
    private: bool
    claims: Claims
    permissions: Permissions
    acknowledges: bool
    hears_itself: bool
    presence_key: str
    presence_enabled: bool
    subscriptions: list[Subscription] = field(default_factory=list["Subscription"])
    presence_ref: str | None = None
    #: Whether changes are followed for it; told once.
    told_ready: bool = False

    @property
    def room(self) -> Room:
        """Where it is."""
        return self.name, self.private

    def send(self, event: str, payload: JSONObject, *, body: bytes | None = None) -> None:
        """Send something of the channel's to its client."""
        self.peer.send(Message(self.topic, event, payload, join_ref=None, body=body))

    def tell_system(self, extension: str, status: str, message: str) -> None:
        """Send word of how the channel itself is doing."""
        self.send(
            "system", {"channel": self.name, "extension": extension, "status": status, "message": message}
        )


class Hub:
    """Everything that is shared between connections.

    Args:
        database: where permissions, broadcasts and changes come from.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._rooms: dict[Room, set[Channel]] = defaultdict(set)
        self._presence: dict[Room, dict[str, dict[str, JSONObject]]] = {}
        self._followers: set[Channel] = set()
        self._columns: dict[tuple[int, str], frozenset[str]] = {}
        self._wanted = asyncio.Event()
        self._following = False

    # -- coming and going --------------------------------------------------------------------------------------

    def enter(self, channel: Channel) -> None:
        """Add a channel."""
        self._rooms[channel.room].add(channel)
        if channel.subscriptions:
            self._followers.add(channel)
            self._wanted.set()
            if self._following:
                self._tell_ready(channel)

    def leave(self, channel: Channel) -> None:
        """Take a channel away, and whoever is present through it."""
        self.untrack(channel)
        members = self._rooms.get(channel.room)
        if members is not None:
            members.discard(channel)
            if not members:
                del self._rooms[channel.room]
        self._followers.discard(channel)
        if not self._followers:
            self._wanted.clear()

    # -- broadcast ---------------------------------------------------------------------------------------------

    def broadcast(
        self, room: Room, payload: JSONObject, *, body: bytes | None = None, sender: Channel | None = None
    ) -> None:
        """Hand a broadcast to everybody in a room."""
        for channel in tuple(self._rooms.get(room, ())):
            if channel is sender and not channel.hears_itself:
                continue
            if channel.private and not channel.permissions.read_broadcast:
                continue
            channel.send("broadcast", payload, body=body)

    async def hear(self, sent: Broadcast) -> None:
        """Hand on what SQL sent."""
        self.broadcast((sent.topic, sent.private), broadcast_payload(sent))

    # -- presence ----------------------------------------------------------------------------------------------

    def presence_state(self, room: Room) -> JSONObject:
        """Return who is present in a room."""
        present = self._presence.get(room, {})
        return {key: {"metas": list[JSON](metas.values())} for key, metas in present.items()}

    def track(self, channel: Channel, state: JSONObject) -> None:
        """Show somebody's state to the room."""
        reference = secrets.token_urlsafe(9)
        meta: JSONObject = {**state, "phx_ref": reference}
        metas = self._presence.setdefault(channel.room, {}).setdefault(channel.presence_key, {})
        leaves: JSONObject = {}
        if channel.presence_ref is not None and channel.presence_ref in metas:
            before = metas.pop(channel.presence_ref)
            meta["phx_ref_prev"] = channel.presence_ref
            leaves = {channel.presence_key: {"metas": [before]}}
        metas[reference] = meta
        channel.presence_ref = reference
        self._tell_presence(channel.room, {channel.presence_key: {"metas": [meta]}}, leaves)

    def untrack(self, channel: Channel) -> None:
        """Take somebody's state out of the room."""
        room, reference = channel.room, channel.presence_ref
        if reference is None:
            return
        channel.presence_ref = None
        metas = self._presence[room][channel.presence_key]
        before = metas.pop(reference)
        if not metas:
            del self._presence[room][channel.presence_key]
            if not self._presence[room]:
                del self._presence[room]
        self._tell_presence(room, {}, {channel.presence_key: {"metas": [before]}})

    def _tell_presence(self, room: Room, joins: JSONObject, leaves: JSONObject) -> None:
        for channel in tuple(self._rooms.get(room, ())):
            if channel.presence_enabled and (not channel.private or channel.permissions.read_presence):
                channel.send("presence_diff", {"joins": joins, "leaves": leaves})

    # -- changes of rows ---------------------------------------------------------------------------------------

    async def follow_changes(self) -> None:
        """Follow the changes whenever somebody wants them; for ever."""
        while True:
            await self._wanted.wait()
            feed = asyncio.create_task(ChangeFeed(self.database, self._tell_changes).run(self._ready))
            try:
                while self._wanted.is_set() and not feed.done():
                    await asyncio.wait([feed], timeout=0.5)
                if feed.done():
                    feed.result()
            except Exception as error:
                expected = isinstance(error, (psycopg.Error, OSError))
                log.warning("changes can't be followed: %s", error, exc_info=not expected)
                for channel in tuple(self._followers):
                    channel.told_ready = False
                    channel.tell_system("postgres_changes", "error", "Subscribing to PostgreSQL failed")
                await asyncio.sleep(1)
            finally:
                self._following = False
                feed.cancel()
                await asyncio.gather(feed, return_exceptions=True)

    def _ready(self) -> None:
        self._following = True
        for channel in tuple(self._followers):
            self._tell_ready(channel)

    @staticmethod
    def _tell_ready(channel: Channel) -> None:
        if not channel.told_ready:
            channel.told_ready = True
            channel.tell_system("postgres_changes", "ok", "Subscribed to PostgreSQL")

    async def _tell_changes(self, changes: Sequence[Change]) -> None:
        wanted: dict[str, list[tuple[Channel, Change, list[Subscription]]]] = defaultdict(list)
        claims: dict[str, Claims] = {}
        for change in changes:
            for channel in tuple(self._followers):
                matching = [one for one in channel.subscriptions if one.wants(change)]
                if matching:
                    wanted[channel.claims.text].append((channel, change, matching))
                    claims[channel.claims.text] = channel.claims
        for who, told in wanted.items():
            visible = await self._visible((change for _, change, _ in told), claims[who])
            for channel, change, matching in told:
                if id(change) in visible and channel in self._followers:
                    await self._tell(channel, change, matching)

    async def _visible(self, changes: Iterable[Change], claims: Claims) -> set[int]:
        """Return the ids of those changes that somebody may hear of."""
        by_table: dict[int, list[Change]] = defaultdict(list)
        visible: set[int] = set()
        for change in {id(change): change for change in changes}.values():
            if change.kind == "DELETE":
                visible.add(id(change))  # of what is gone the key alone is told
            else:
                by_table[change.oid].append(change)
        for found in by_table.values():
            keyed = [(change, key) for change in found if (key := change.key()) is not None]
            places = await self.database.visible(found[0].relation, [key for _, key in keyed], claims)
            visible |= {id(keyed[place][0]) for place in places}
        return visible

    async def _tell(self, channel: Channel, change: Change, matching: list[Subscription]) -> None:
        asked = (change.oid, channel.claims.role)
        if asked not in self._columns:
            self._columns[asked] = await self.database.readable_columns(*asked)
        readable = self._columns[asked]
        if not readable:
            return
        chosen = readable
        if all(one.columns is not None for one in matching):
            chosen = readable & frozenset[str]().union(*(one.columns or frozenset() for one in matching))
        record = {name: value for name, value in change.record.items() if name in chosen}
        errors: JSON = None
        if len(dumps(record)) > _LARGE_RECORD:
            record = {name: value for name, value in record.items() if len(dumps(value)) <= _SMALL_VALUE}
            errors = ["Error 413: Payload Too Large"]
        data: JSONObject = {
            "schema": change.relation.schema,
            "table": change.relation.name,
            "commit_timestamp": change.committed_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "type": change.kind,
            "columns": [
                {"name": name, "type": kind} for name, kind in change.types.items() if name in chosen
            ],
            "errors": errors,
        }
        if change.kind != "DELETE":
            data["record"] = record
        if change.kind != "INSERT":
            data["old_record"] = change.old_record
        channel.send("postgres_changes", {"ids": [one.id for one in matching], "data": data})


def broadcast_payload(sent: Broadcast, *, replayed: bool = False) -> JSONObject:
    """Return a broadcast of the database's as clients get it."""
    meta: JSONObject = {"id": sent.id}
    if replayed:
        meta["replayed"] = True
    return {"type": "broadcast", "event": sent.event, "payload": sent.payload, "meta": meta}
