"""Who is here: the agents and people that work in a workspace just now, as each says of itself.

Asynchronous only, like following events.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Self, cast
from uuid import UUID

from ._async.http import AsyncHttpTransport
from ._channels import WorkspaceChannels
from .errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from types import TracebackType

    from realtime import AsyncRealtimeChannel

    from ._async.client import AsyncKnowledgeClient


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentAgent:
    """Somebody who is here, in their own words: nothing but the membership in the workspace is verified.

    Attributes:
        since: when they came.
        name: what they call themselves.
        project: the project that they work on.
        doing: what they are doing.
        user_id: as whom they are signed in.
        session_id: the session that they work in.
    """

    since: datetime
    name: str | None = None
    project: str | None = None
    doing: str | None = None
    user_id: UUID | None = None
    session_id: UUID | None = None


class Presence:
    """Who is here, kept up to date. Made by `AsyncKnowledgeClient.presence`, and entered with ``async with``.

    Iterate with ``async for`` to be given everybody who is here, now and after each change.

    Args:
        client: whose workspaces.
        shown: what to show of oneself; None: only look.
        project: only those who work on this project; None: everybody.
    """

    def __init__(
        self, client: AsyncKnowledgeClient, *, shown: PresentAgent | None = None, project: str | None = None
    ) -> None:
        self._client = client
        self._shown = shown
        self._project = project
        self._channels: list[AsyncRealtimeChannel] | None = None
        self._known: set[str] = set()
        self._changed = asyncio.Event()
        self._ready = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        transport = self._client.core.transport
        if not isinstance(transport, AsyncHttpTransport):
            raise ConfigurationError("presence needs a deployment's URL: a database connection shows nobody")
        if self._shown is not None:
            context = await self._client.core.context()
            identity = await self._client.whoami()
            self._shown = replace(
                self._shown,
                user_id=identity.user_id,
                session_id=self._shown.session_id or context.session,
            )
        held = WorkspaceChannels(
            self._client, transport, prepare=self._prepare, joined=self._arrive, parted=self._part
        )
        self._holding = asyncio.create_task(held.hold())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.gather(self._holding, return_exceptions=True)

    @property
    def agents(self) -> tuple[PresentAgent, ...]:
        """Everybody who is here, by the time they came; empty while the gateway can't be reached."""
        found = [
            agent
            for channel in self._channels or ()
            for shown in channel.presence_state().values()
            for one in shown
            if (agent := _read(cast("Mapping[str, object]", one))) is not None
            and (self._project is None or agent.project == self._project)
        ]
        return tuple(sorted(found, key=lambda agent: agent.since))

    async def wait(self, seconds: float = 10.0) -> bool:
        """Wait until it is known who is here, and say whether it is.

        Args:
            seconds: how long at most.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        return self._ready.is_set()

    async def __aiter__(self) -> AsyncGenerator[tuple[PresentAgent, ...]]:
        before: tuple[PresentAgent, ...] | None = None
        while True:
            await self._ready.wait()
            self._changed.clear()
            if (now := self.agents) != before:
                before = now
                yield now
            await self._changed.wait()

    def _prepare(self, channel: AsyncRealtimeChannel) -> None:
        self._known.discard(channel.topic)

        def synchronised() -> None:
            self._known.add(channel.topic)
            self._see()

        channel.on_presence_sync(synchronised)

    async def _arrive(self, channels: list[AsyncRealtimeChannel]) -> None:
        self._channels = channels
        self._see()
        if self._shown is not None:
            state = {name: str(value) for name, value in asdict(self._shown).items() if value is not None}
            for channel in channels:
                await channel.track(state)

    def _part(self) -> None:
        self._channels = None
        self._known.clear()
        self._ready.clear()
        self._changed.set()

    def _see(self) -> None:
        self._changed.set()
        if self._channels is not None and all(channel.topic in self._known for channel in self._channels):
            self._ready.set()


def _read(state: Mapping[str, object]) -> PresentAgent | None:
    """Read what somebody shows; None for what is no agent's: the topic is open to all its members."""

    def text(name: str) -> str | None:
        value = state.get(name)
        return value if isinstance(value, str) else None

    try:
        return PresentAgent(
            since=datetime.fromisoformat(text("since") or ""),
            name=text("name"),
            project=text("project"),
            doing=text("doing"),
            user_id=None if (user := text("user_id")) is None else UUID(user),
            session_id=None if (session := text("session_id")) is None else UUID(session),
        )
    except ValueError:
        return None
