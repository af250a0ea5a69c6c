# Generated from _async/briefing.py by scripts/generate-sync: edit that, not this.
"""What one session tells the next: briefs and breakthroughs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from knowledge_persistence._values import to_id
from knowledge_persistence.models import Brief, BriefEntry, MarkedBreakthrough, from_row, from_rows

from .methods import Methods

if TYPE_CHECKING:
    from uuid import UUID

    from knowledge_persistence._values import Argument


class BriefingMethods(Methods):
    """What one session tells the next."""

    def resume_brief(
        self, project: str | None = None, *, max_tokens: int = 2000, situation: str | None = None
    ) -> Brief:
        """Pack what the next session needs: the last ones' outcome, decisions, open problems, the best knowledge.

        Args:
            project: only what is of this project, or of none; None: the session's, else the client's.
            max_tokens: so long at most, 100 to 1000000 tokens; estimated, rather too many than too few.
            situation: what is about to be done; then the knowledge is what bears on that.

        Raises:
            InvalidArgumentError: max_tokens is outside its range.
            EmbeddingError: the situation can't be embedded.
        """
        embedded = self._core.embed_query(situation) if situation else {}
        arguments: dict[str, Argument] = {
            "project_context": project or self._project,
            "max_tokens": max_tokens,
            "situation": situation,
            "situation_embedding": embedded.get("query_embedding"),
            "embedding_model": embedded.get("embedding_model"),
        }
        rows = self._core.call("resume_brief", arguments, self._request_context(), mode="read")
        entries = from_rows(BriefEntry, rows)
        counts = entries[-1].left_out or {}
        return Brief(
            text="\n".join(entry.content for entry in entries if entry.content),
            tokens=sum(entry.tokens for entry in entries),
            entries=tuple(entry for entry in entries if entry.position and entry.section != "left_out"),
            left_out={name: count for name, count in counts.items() if isinstance(count, int)},
        )

    def mark_breakthrough(
        self, knowledge_id: UUID | str, *, learning_context: str | None = None
    ) -> MarkedBreakthrough:
        """Mark an item as a breakthrough of the session. Marked again, nothing changes.

        Args:
            knowledge_id: the item.
            learning_context: what was being done.

        Raises:
            InvalidArgumentError: the client works in no session.
            NotFoundError: there is no such item, or none that the caller may see.
        """
        rows = self._core.call(
            "mark_breakthrough",
            {"knowledge_id": to_id(knowledge_id, "knowledge item"), "learning_context": learning_context},
            self._request_context(),
            mode="repeatable",
        )
        return from_row(MarkedBreakthrough, rows[0])
