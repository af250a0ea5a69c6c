"""Following what happens: the log of events is what is told, the push only says when to look.

Asynchronous only: there is no synchronous counterpart, whose reader would have to be a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final, cast

from ._async.http import AsyncHttpTransport
from ._channels import RETRY, WorkspaceChannels, jittered
from .errors import RateLimitError, ServerError, TransportError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from types import AsyncGeneratorType, TracebackType
    from typing import Self

    from realtime import AsyncRealtimeChannel

    from ._async.client import AsyncKnowledgeClient
    from .models import KnowledgeEvent

log = logging.getLogger("knowledge_persistence.subscriptions")

_PAGE: Final = 500
#: Seconds between two looks: with the push at work, without it, and where there is none.
_PUSHED_POLL: Final = 5.0
_UNPUSHED_POLL: Final = 1.0
_DIRECT_POLL: Final = 0.25
#: Seconds after a push at which to look again: an event is handed out once no earlier transaction runs any more.
_LOOK_AGAIN: Final = (0.03, 0.1, 0.3, 1.0, 2.5)
#: Seconds after which an idle subscription moves its cursor on, so that it does not grow too old.
_ADVANCE: Final = 300.0


class Subscription:
    """The events from some point on, as they happen. Made by `AsyncKnowledgeClient.subscribe`.

    Iterate over it with ``async for``. Each event is told at least once, in the order of the log; after an
    interruption of any kind it goes on from its cursor. Where the deployment has Realtime, a push tells when to look,
    so that an event arrives within milliseconds of its commit; where it has none, or on a direct connection,
    it looks by itself.

    Args:
        client: whose events.
        after: the event after which to begin; None: what happens from now on.
        project: see `subscribe`.
        types: see `subscribe`.
    """

    def __init__(
        self,
        client: AsyncKnowledgeClient,
        *,
        after: int | None = None,
        project: str | None = None,
        types: Sequence[str] | None = None,
    ) -> None:
        self._client = client
        self._cursor = after
        self._project = project
        self._types = types
        self._woken = asyncio.Event()
        self._hinted: int | None = None
        self._pushed = False
        self._closing = False
        self._advanced_at = time.monotonic()
        self._events: AsyncGeneratorType[KnowledgeEvent, None] | None = None

    @property
    def cursor(self) -> int | None:
        """The last event that is done with: the one before that which the loop's body has at hand.

        Stored, and passed as `after`, it lets another process go on. None before the first look.
        """
        return self._cursor

    async def start(self) -> int:
        """Fix the point from which events are told, and return it; the first step of the loop does it otherwise.

        Raises:
            TransportError: the deployment can't be reached.
        """
        if self._cursor is None:
            self._cursor = await self._client.events_cursor()
        return self._cursor

    def __aiter__(self) -> AsyncIterator[KnowledgeEvent]:
        if self._events is None:
            self._events = cast("AsyncGeneratorType[KnowledgeEvent, None]", self._follow())
        return self._events

    async def aclose(self) -> None:
        """End it, and let go of the connection; a loop in another task ends with its next look."""
        self._closing = True
        self._woken.set()
        if self._events is not None and not self._events.ag_running:
            await self._events.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _follow(self) -> AsyncGenerator[KnowledgeEvent]:
        await self.start()
        push = self._start_push()
        failures = 0
        looks = iter(_LOOK_AGAIN)
        try:
            while not self._closing:
                self._woken.clear()
                hinted = self._hinted
                try:
                    page = await self._look()
                except (TransportError, ServerError, RateLimitError) as error:
                    log.info("%s; looking again", error)
                    await asyncio.sleep(jittered(RETRY[min(failures, len(RETRY) - 1)]))
                    failures += 1
                    continue
                failures = 0
                for event in page:
                    if event.event_id == hinted:
                        self._hinted = hinted = None
                    yield event
                    self._cursor = event.event_id
                if len(page) == _PAGE:
                    continue
                pause = self._poll(push)
                if hinted is not None:
                    pause = next(looks, None) or pause
                if await self._wait(pause):
                    looks = iter(_LOOK_AGAIN)
                elif hinted is not None and pause >= _LOOK_AGAIN[-1]:
                    # It is not for this reader, or the regular look will find it.
                    self._hinted = None
        finally:
            if push is not None:
                push.cancel()
                await asyncio.gather(push, return_exceptions=True)

    def _poll(self, push: asyncio.Task[None] | None) -> float:
        if push is None:
            return _DIRECT_POLL
        return _PUSHED_POLL if self._pushed else _UNPUSHED_POLL

    async def _look(self) -> list[KnowledgeEvent]:
        head: int | None = None
        if time.monotonic() - self._advanced_at > _ADVANCE:
            # Before the look, so that the look has seen all that the new cursor leaves behind.
            head = await self._client.events_cursor()
            self._advanced_at = time.monotonic()
        page = await self._client.events_since(
            self._cursor, max_events=_PAGE, project=self._project, types=self._types
        )
        if head and not page:
            self._cursor = head
        return page

    async def _wait(self, seconds: float) -> bool:
        """Wait for a push, no longer than this, and say whether one came."""
        if not self._closing:
            # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes together with the push.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
        return self._woken.is_set()

    # -- the push ----------------------------------------------------------------------------------------------

    def _start_push(self) -> asyncio.Task[None] | None:
        transport = self._client.core.transport
        if not isinstance(transport, AsyncHttpTransport):
            return None
        channels = WorkspaceChannels(
            self._client, transport, prepare=self._prepare, joined=self._arrive, parted=self._part
        )
        return asyncio.create_task(channels.hold())

    def _prepare(self, channel: AsyncRealtimeChannel) -> None:
        def heard(message: object) -> None:
            payload = cast("dict[str, dict[str, object]]", message).get("payload", {})
            last = payload.get("last_event")
            if isinstance(last, int):
                self._hinted = last
            self._woken.set()

        channel.on_broadcast("knowledge_event", heard)

    async def _arrive(self, _: list[AsyncRealtimeChannel]) -> None:
        self._pushed = True
        self._woken.set()  # what happened before the join was heard by nobody

    def _part(self) -> None:
        self._pushed = False
        self._woken.set()
