"""An agent's place: its client, and the session that its calls belong to.

Invariants
  * A call that needs a session has one: it is started by the first such call, if the agent did not.
  * What the agent began ends, at the latest when the agent goes away; what it did is then told in the summary, if
    the agent told nothing.
  * A deployment that goes away takes nothing with it: the next call connects again and resumes the session.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from knowledge_persistence.errors import AuthenticationError, KnowledgePersistenceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from knowledge_persistence._async.client import AsyncKnowledgeClient
    from knowledge_persistence._async.session import AsyncSessionHandle
    from knowledge_persistence.models import EndedSession, JSONObject

#: Seconds in which a session is ended when its agent has gone. Clients close standard input, terminate the server two
#: seconds later, and kill it after two more.
_GOODBYE: Final = 3.5
#: So many of the things an agent recorded are named in the summary that it did not write.
_NAMED_DEEDS: Final = 8

log = logging.getLogger(__name__)


class Seat:
    """One agent's place at the memory.

    Args:
        connect: makes the client; called again after the sign-in ended.
        project: what the session is about, until the agent says.
        session: resume the session of this identifier; None: each start is a new one.
        metadata: what to keep with the session: which agent, through which door.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[AsyncKnowledgeClient]],
        *,
        project: str | None = None,
        session: str | None = None,
        metadata: JSONObject | None = None,
    ) -> None:
        self._connect = connect
        #: What the sessions are about.
        self.project = project
        self._fixed = session
        #: Kept with the session: which agent, through which door.
        self.metadata: JSONObject = dict(metadata or {})
        #: How many calls are under way, where somebody counts them.
        self.calls = 0
        self._client: AsyncKnowledgeClient | None = None
        self._session: AsyncSessionHandle | None = None
        #: What a call without a session resumes: the one that ended last, or whose sign-in was lost.
        self._last: str | None = session
        self._begun_by_agent = False
        self._may_sum_up = False
        self._deeds: list[str] = []
        self._lock = asyncio.Lock()

    async def client(self) -> AsyncKnowledgeClient:
        """Return the client, connected now if it is not.

        Raises:
            KnowledgePersistenceError: there is no deployment to connect to, or nobody is signed in.
        """
        async with self._lock:
            return await self._connected()

    async def session(self) -> AsyncSessionHandle:
        """Return the session, started now if there is none."""
        async with self._lock:
            if self._session is None:
                log.info("starting a session for an agent that did not")
                return await self._enter(self._last)
            return self._session

    async def begin(
        self, name: str | None = None, *, project: str | None = None
    ) -> tuple[AsyncSessionHandle, EndedSession | None]:
        """Start a session, or resume the one of this name; the one before it ends.

        A session that started by itself is the one that is meant, if no other is named.

        Args:
            name: of a session to resume.
            project: what it is about.

        Returns:
            the session, and how the one before it ended.
        """
        async with self._lock:
            self.project = project or self.project
            name = name or self._fixed
            current, before = self._session, None
            if name is None and current is not None and not self._begun_by_agent:
                name = current.identifier
            if current is not None and current.identifier != name:
                before = await self._end(current)
            session = await self._enter(name)
            self._begun_by_agent = True
            return session, before

    async def finish(
        self, summary: str, *, quality_score: int | None = None, user_feedback: str | None = None
    ) -> EndedSession:
        """End the session with what the agent says of it. A later call opens it again.

        Args:
            summary: what is to be remembered of it.
            quality_score: 1 to 100.
            user_feedback: what the user said of it.
        """
        async with self._lock:
            session = self._session or await self._enter(self._last)
            session.summary, session.quality_score, session.user_feedback = (
                summary,
                quality_score,
                user_feedback,
            )
            self._may_sum_up = False
            return await self._end(session)

    def did(self, deed: str) -> None:
        """Note what the agent did, for the summary of a session that nobody sums up."""
        self._deeds.append(deed.rstrip("."))

    async def lose(self, error: KnowledgePersistenceError) -> None:
        """Let go of a client whose sign-in has ended, so that the next call signs in anew."""
        if not isinstance(error, AuthenticationError):
            return
        async with self._lock:
            client, self._client, self._session = self._client, None, None
        if client is not None:
            await client.close()

    async def leave(self, *, unless_called: bool = False) -> None:
        """End the session, as the agent has gone, and close the client; never raises, never takes long.

        Args:
            unless_called: not if a call has come meanwhile: the agent was silent, and is no more.
        """
        try:
            async with asyncio.timeout(_GOODBYE), self._lock:
                if unless_called and self.calls:
                    return
                if self._session is not None:
                    await self._end(self._session)
        except (KnowledgePersistenceError, TimeoutError) as error:
            log.warning("the session could not be ended: %s", str(error) or "no answer in time")
            if unless_called:
                return  # its agent may come back, and if not, it is tried again
        client, self._client, self._session = self._client, None, None
        if client is not None:
            await client.close()

    async def _connected(self) -> AsyncKnowledgeClient:
        if self._client is None:
            client = await self._connect()
            try:
                await client.open()
            except BaseException:
                await client.close()
                raise
            self._client = client
        return self._client

    async def _enter(self, identifier: str | None) -> AsyncSessionHandle:
        client = await self._connected()
        # With a name of its own, starting it may be repeated when the answer is lost.
        identifier = identifier or f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}-{secrets.token_hex(4)}"
        session = client.session(identifier, project=self.project, metadata=self.metadata)
        await session.__aenter__()
        if not session.resumed:
            self._may_sum_up = True
            self._deeds.clear()
        elif identifier != self._last:
            # Somebody's summary may be there already: it stays.
            self._may_sum_up = False
        self._session, self._last = session, identifier
        return session

    async def _end(self, session: AsyncSessionHandle) -> EndedSession:
        if self._may_sum_up:
            session.summary = self._told_by_deeds()
        ended = await session.end()
        self._session = None
        self._begun_by_agent = False
        return ended

    def _told_by_deeds(self) -> str:
        if not self._deeds:
            return "The agent left without a summary, and recorded nothing."
        named = "; ".join(self._deeds[:_NAMED_DEEDS])
        more = len(self._deeds) - _NAMED_DEEDS
        return f"The agent left without a summary. It recorded: {named}" + (
            f"; and {more} more." if more > 0 else "."
        )
