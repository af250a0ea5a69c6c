"""Reading the log of events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from knowledge_persistence._values import RequestContext
from knowledge_persistence.models import KnowledgeEvent, from_rows

from .methods import AsyncMethods

if TYPE_CHECKING:
    from collections.abc import Sequence


class AsyncEventMethods(AsyncMethods):
    """Read what changed, from where one left off."""

    async def events_since(
        self,
        cursor: int | None = None,
        *,
        max_events: int = 100,
        project: str | None = None,
        types: Sequence[str] | None = None,
    ) -> list[KnowledgeEvent]:
        """Read what happened after an event, in an order in which nothing that commits later comes before.

        A client that names no workspace reads the events of all its workspaces.

        Args:
            cursor: the last event that was read; None: from the beginning of what is kept.
            max_events: so many at most, 1 to 1000. Fewer mean that there are no more just now.
            project: only of this project; what is gone is told all the same.
            types: only of these subjects (knowledge, session, relationship, validation_result), knowledge types
                or kinds of record (gotcha, command, …).

        Raises:
            CursorExpiredError: the log no longer holds the cursor: read anew what there is, then go on from
                `events_cursor`.
        """
        context = await self._core.context()
        rows = await self._core.call(
            "knowledge_events_since",
            {
                "after_event": cursor,
                "max_events": max_events,
                "project_context": project,
                "types": None if types is None else list(types),
                "workspace_id": context.workspace,
            },
            RequestContext(),
            mode="read",
        )
        return from_rows(KnowledgeEvent, rows)

    async def events_cursor(self) -> int:
        """Return the cursor of now: `events_since` gives from there what comes later."""
        rows = await self._core.call("knowledge_events_cursor", {}, RequestContext(), mode="read")
        return int(str(rows[0]["event_id"]))
