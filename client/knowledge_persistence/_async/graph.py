"""Relationships between items."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from knowledge_persistence._values import interval_text, to_id
from knowledge_persistence.models import (
    DiscoverySchedule,
    GraphItem,
    GraphRelationship,
    KnowledgeGraph,
    KnowledgeNeighbor,
    ProposedRelationship,
    RelatedKnowledge,
    Relationship,
    from_row,
    from_rows,
)

from .methods import AsyncMethods

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from uuid import UUID

    from knowledge_persistence._values import Row
    from knowledge_persistence.models import RelationshipStatus, RelationshipType


class AsyncGraphMethods(AsyncMethods):
    """Relate, propose, decide, walk."""

    async def relate(
        self,
        source_knowledge_id: UUID | str,
        target_knowledge_id: UUID | str,
        relationship_type: RelationshipType,
        *,
        strength: float = 1.0,
        relationship_context: str | None = None,
    ) -> RelatedKnowledge:
        """Say how one item stands to another.

        Said again, it updates strength and context; what was only proposed, it accepts.

        Args:
            source_knowledge_id: the item that it is said of.
            target_knowledge_id: the item that it points at.
            relationship_type: "source … target"; similar_to and contradicts read the same both ways.
            strength: 0 to 1.
            relationship_context: what there is to say about it.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
            InvalidArgumentError: the ends are the same item, or lie in two workspaces.
            ConflictError: depends_on or required_for would close a cycle; the message names it.
        """
        rows = await self._core.call(
            "relate_knowledge",
            {
                "source_knowledge_id": to_id(source_knowledge_id, "knowledge item"),
                "target_knowledge_id": to_id(target_knowledge_id, "knowledge item"),
                "relationship_type": relationship_type,
                "strength": strength,
                "relationship_context": relationship_context,
            },
            await self._request_context(),
            mode="repeatable",
        )
        return from_row(RelatedKnowledge, rows[0])

    async def remove_relationship(self, relationship_id: UUID | str) -> None:
        """Take a relationship out, as who stated it or a maintainer.

        Args:
            relationship_id: the relationship.

        Raises:
            NotFoundError: there is no such relationship, or none that the caller may see.
            PermissionDeniedError: the caller neither stated it nor maintains the workspace.
        """
        await self._core.call(
            "remove_relationship",
            {"relationship_id": to_id(relationship_id, "relationship")},
            await self._request_context(),
            mode="once",
        )

    async def decide_relationship(self, relationship_id: UUID | str, *, accept: bool) -> RelatedKnowledge:
        """Accept or reject what was proposed. What is rejected is not proposed again.

        Args:
            relationship_id: the relationship.
            accept: whether it stands.

        Raises:
            NotFoundError: there is no such relationship, or none that the caller may see.
            PermissionDeniedError: it is decided by who had it proposed, its items' authors and maintainers.
            ConflictError: accepted, it would close a cycle; the message names it.
        """
        rows = await self._core.call(
            "decide_relationship",
            {"relationship_id": to_id(relationship_id, "relationship"), "accept": accept},
            await self._request_context(),
            mode="repeatable",
        )
        return from_row(RelatedKnowledge, rows[0])

    async def discover_relationships(
        self, knowledge_id: UUID | str | None = None, *, max_proposals: int = 20
    ) -> list[ProposedRelationship]:
        """Look for items that are alike or contradict each other, and propose what is found.

        Nothing stands before `decide_relationship`.

        Args:
            knowledge_id: look around this item; None: in the workspace.
            max_proposals: so many at most.

        Returns:
            what is newly proposed, contradictions first.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
            PermissionDeniedError: readers of a workspace propose nothing.
        """
        rows = await self._core.call(
            "discover_relationships",
            {"knowledge_id": _item(knowledge_id), "max_proposals": max_proposals},
            await self._request_context(),
            mode="once",
        )
        return from_rows(ProposedRelationship, rows)

    async def schedule_discovery(self, run_every: timedelta | None) -> DiscoverySchedule:
        """Let the worker look for relationships in the workspace now and then, as one of its owners.

        It does so once a day unless it was told otherwise, and no more while a hundred proposals are undecided.

        Args:
            run_every: how often, 1 hour to 366 days; None: never.

        Raises:
            InvalidArgumentError: the interval is outside its range.
            PermissionDeniedError: the caller doesn't maintain the workspace, or is an agent.
        """
        rows = await self._core.call(
            "schedule_discovery",
            {"run_every": interval_text(run_every)},
            await self._request_context(),
            mode="repeatable",
        )
        return from_row(DiscoverySchedule, rows[0])

    async def list_relationships(
        self,
        knowledge_id: UUID | str | None = None,
        *,
        status: RelationshipStatus | None = None,
        max_results: int = 50,
    ) -> list[Relationship]:
        """Read the relationships of an item, or of the workspace, contradictions and the strongest first.

        Args:
            knowledge_id: the item; None: the workspace.
            status: only of this status; proposed is what waits for a decision.
            max_results: so many at most.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
        """
        rows = await self._core.call(
            "list_relationships",
            {"knowledge_id": _item(knowledge_id), "status": status, "max_results": max_results},
            await self._request_context(),
            mode="read",
        )
        return from_rows(Relationship, rows)

    async def neighborhood(
        self,
        knowledge_id: UUID | str,
        *,
        max_depth: int = 2,
        relationship_types: Sequence[RelationshipType] | None = None,
        max_items: int = 200,
    ) -> list[KnowledgeNeighbor]:
        """Walk the accepted relationships around an item, in both directions.

        Args:
            knowledge_id: where to start.
            max_depth: so many steps at most, up to 20.
            relationship_types: only over these.
            max_items: so many items at most, up to 1000.

        Returns:
            the item itself, then the nearest first, each once with the path that leads to it.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
        """
        rows = await self._core.call(
            "knowledge_neighborhood",
            {
                "knowledge_id": to_id(knowledge_id, "knowledge item"),
                "max_depth": max_depth,
                "relationship_types": relationship_types,
                "max_items": max_items,
            },
            await self._request_context(),
            mode="read",
        )
        return from_rows(KnowledgeNeighbor, rows)

    async def graph(
        self,
        knowledge_id: UUID | str | None = None,
        *,
        max_depth: int = 2,
        relationship_types: Sequence[RelationshipType] | None = None,
        max_items: int = 200,
        max_relationships: int = 2000,
    ) -> KnowledgeGraph:
        """Read a neighbourhood with everything that a picture of it is drawn from.

        Args:
            knowledge_id: the middle; None: the most related items of the workspace.
            max_depth: so many steps at most, up to 20.
            relationship_types: only these.
            max_items: so many items at most, up to 1000.
            max_relationships: so many relationships at most, up to 10000; each item's strongest first.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
        """
        [row] = await self._core.call(
            "knowledge_graph",
            {
                "knowledge_id": _item(knowledge_id),
                "max_depth": max_depth,
                "relationship_types": relationship_types,
                "max_items": max_items,
                "max_relationships": max_relationships,
            },
            await self._request_context(),
            mode="read",
        )
        return KnowledgeGraph(
            items=[from_row(GraphItem, item) for item in cast("list[Row]", row["items"])],
            relationships=[
                from_row(GraphRelationship, one) for one in cast("list[Row]", row["relationships"])
            ],
            relationships_left_out=cast("int", row["relationships_left_out"]),
        )


def _item(knowledge_id: UUID | str | None) -> UUID | None:
    return None if knowledge_id is None else to_id(knowledge_id, "knowledge item")
