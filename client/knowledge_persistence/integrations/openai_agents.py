"""For the OpenAI Agents SDK: a session, and memory as tools. `pip install 'knowledge-persistence[openai-agents]'`.

    async with connect_async() as client:
        agent = Agent(name="Helper", tools=memory_tools(client))
        session = KnowledgeSession("conversation 7", client)
        result = await Runner.run(agent, "What did we decide on ports?", session=session)

A session keeps the conversation, word for word and for its owner alone; the tools let the agent ask and tell the
memory that outlives it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

try:
    from agents import Tool, TResponseInputItem, function_tool
    from agents.memory import SessionSettings
    from agents.memory.session import SessionABC
except ImportError as error:  # pragma: no cover - said where it is missing
    raise ImportError(
        "The OpenAI Agents SDK is not installed: pip install 'knowledge-persistence[openai-agents]'"
    ) from error

from knowledge_persistence._values import Argument, JsonArgument
from knowledge_persistence.errors import APIError, KnowledgePersistenceError
from knowledge_persistence.mcp.answers import indented, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from knowledge_persistence import AsyncKnowledgeClient
    from knowledge_persistence._values import CallMode, Row
    from knowledge_persistence.models import JSON


class KnowledgeSession(SessionABC):
    """A conversation's history in the workspace that a client works in, for the client's user.

    Args:
        session_id: the conversation's name.
        client: the client; it stays open for as long as the session is used, and isn't closed by it.
        session_settings: how many of the latest items are given back where `get_items` isn't told.
        allow_credentials: keep messages though they look like they hold a credential; else `add_items` raises
            CredentialError and keeps nothing.
    """

    def __init__(
        self,
        session_id: str,
        client: AsyncKnowledgeClient,
        *,
        session_settings: SessionSettings | None = None,
        allow_credentials: bool = False,
    ) -> None:
        self.session_id = session_id
        self.session_settings = session_settings or SessionSettings()
        self._client = client
        self._allow_credentials = allow_credentials

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the conversation's items in their order.

        Args:
            limit: the latest so many; None: what the settings say, else all.
        """
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        if limit is not None and limit <= 0:
            return []
        rows = await self._call("get_agent_session_items", {"max_results": limit}, "read")
        return [cast("TResponseInputItem", row["item"]) for row in rows]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items at the end, all or none.

        Raises:
            CredentialError: one looks like it holds a credential.
        """
        if not items:
            return
        await self._call(
            "add_agent_session_items",
            {
                "items": JsonArgument(cast("JSON", items)),
                "allow_credentials": True if self._allow_credentials else None,
            },
            "once",
        )

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the last item off and return it; None where there is none."""
        rows = await self._call("pop_agent_session_item", {}, "once")
        return cast("TResponseInputItem", rows[0]["item"]) if rows else None

    async def clear_session(self) -> None:
        """Erase all items."""
        await self._call("clear_agent_session", {}, "repeatable")

    async def _call(self, function: str, arguments: Mapping[str, Argument], mode: CallMode) -> list[Row]:
        core = self._client.core
        given: dict[str, Argument] = {"conversation": self.session_id, **arguments}
        return await core.call(function, given, await core.context(), mode=mode)


def memory_tools(client: AsyncKnowledgeClient, *, max_results: int = 5) -> list[Tool]:
    """Make the tools by which an agent asks and tells the memory.

    Args:
        client: the client; it stays open for as long as the agent runs.
        max_results: so many findings at most are given to the agent.
    """

    @function_tool
    async def recall(query: str) -> str:
        """Search what was learned in earlier sessions. Use it before solving what may have been solved.

        Args:
            query: what you want to know, in words, or an error message.
        """
        try:
            found = await client.recall(query, max_results=max_results)
        except KnowledgePersistenceError as error:
            return _told(error)
        if not found:
            return "The memory holds nothing on that."
        # Stored text is somebody's: indented, it can't pass for another finding, or for a word of ours.
        return "\n\n".join(
            f"{one_line(one.title)} ({one_line(one.relevance_reason)}; id {one.knowledge_id})\n{indented(one.content)}"
            for one in found
        )

    @function_tool
    async def remember(title: str, content: str) -> str:
        """Keep what a later session should know: a fact, a decision, what works. No secrets, no chatter.

        Args:
            title: what it is about, in a line.
            content: the knowledge itself, understandable on its own, in a few sentences.
        """
        try:
            recorded = await client.remember(content, title=title)
        except KnowledgePersistenceError as error:
            return _told(error)
        known = " It was known already." if recorded.outcome == "duplicate" else ""
        return f"Kept as {recorded.knowledge_id}.{known}"

    return [recall, remember]


def _told(error: KnowledgePersistenceError) -> str:
    """Write an error for the model that caused it."""
    if not isinstance(error, APIError):
        return f"That didn't work: {str(error).rstrip('.')}."
    return f"That didn't work: {error.message}." + (f" {error.hint}" if error.hint else "")
