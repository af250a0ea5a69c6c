"""The private channels of workspaces, joined and kept: what following events and showing presence share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from .errors import KnowledgePersistenceError, TransportError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from realtime import AsyncRealtimeChannel, AsyncRealtimeClient

    from ._async.client import AsyncKnowledgeClient
    from ._async.http import AsyncHttpTransport

log = logging.getLogger("knowledge_persistence.channels")

#: Seconds before the first, second, … attempt after a failure.
RETRY: Final = (0.1, 0.3, 1.0, 2.0, 5.0)
_JOIN_SECONDS: Final = 10.0


def jittered(seconds: float) -> float:
    """Spread a pause, so that many who lost the same thing don't come back in step."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


class WorkspaceChannels:
    """Hold the private channel of each workspace of a client, through restarts of the gateway.

    Args:
        client: whose workspaces: the one that it names, else all of its user's.
        transport: the client's; channels are there over HTTP only.
        prepare: called with each channel before it is joined: registers what to listen for.
        joined: awaited when all are joined, with the channels.
        parted: called when they are lost, or could not be joined.
    """

    def __init__(
        self,
        client: AsyncKnowledgeClient,
        transport: AsyncHttpTransport,
        *,
        prepare: Callable[[AsyncRealtimeChannel], None],
        joined: Callable[[list[AsyncRealtimeChannel]], Awaitable[None]],
        parted: Callable[[], None],
    ) -> None:
        self._client = client
        self._transport = transport
        self._prepare = prepare
        self._joined = joined
        self._parted = parted
        self._lost = False

    async def hold(self) -> None:
        """Join, stay, and join again, until cancelled."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._hold_once()
            except Exception as error:  # noqa: BLE001 - a push is a hint: whatever fails, its user goes on
                log.info("no channel: %s: %s", type(error).__name__, error)
            self._parted()
            failures = 0 if time.monotonic() - began > RETRY[-1] else failures + 1
            await asyncio.sleep(jittered(RETRY[min(failures, len(RETRY) - 1)]))

    async def _hold_once(self) -> None:
        from realtime import AsyncRealtimeClient  # noqa: PLC0415 - slow to import

        token = await self._token()
        context = await self._client.core.context()
        workspaces = (
            [context.workspace]
            if context.workspace is not None
            else [workspace.workspace_id for workspace in await self._client.workspaces()]
        )
        realtime = AsyncRealtimeClient(
            f"{self._transport.url}/realtime/v1",
            self._transport.api_key,
            auto_reconnect=False,
            max_retries=1,
        )
        self._lost = False
        try:
            async with asyncio.timeout(_JOIN_SECONDS):
                await realtime.connect()
                await realtime.set_auth(token)
                joined = [asyncio.Event() for _ in workspaces]
                channels = [
                    await self._join(realtime, f"workspace:{workspace}", event)
                    for workspace, event in zip(workspaces, joined, strict=True)
                ]
                for event in joined:
                    await event.wait()
            await self._joined(channels)
            while realtime.is_connected and not self._lost:
                await asyncio.sleep(1)
                fresh = await self._token()
                if fresh != token:
                    token = fresh
                    await realtime.set_auth(token)
        finally:
            with contextlib.suppress(Exception):
                await realtime.close()

    async def _join(
        self, realtime: AsyncRealtimeClient, topic: str, joined: asyncio.Event
    ) -> AsyncRealtimeChannel:
        def changed(state: object, error: Exception | None) -> None:
            if str(getattr(state, "value", state)) == "SUBSCRIBED":
                joined.set()
            else:
                log.info("the channel %s is %s: %s", topic, state, error)
                self._lost = True

        channel = realtime.channel(
            topic,
            {
                "config": {
                    "private": True,
                    "broadcast": {"ack": False, "self": False},
                    "presence": {"key": "", "enabled": False},
                }
            },
        )
        self._prepare(channel)
        await channel.subscribe(changed)
        return channel

    async def _token(self) -> str:
        if self._transport.sign_in is None:
            return self._transport.api_key
        try:
            return await self._transport.sign_in.token()
        except KnowledgePersistenceError as error:
            raise TransportError(f"no token for the channels: {error}") from error
