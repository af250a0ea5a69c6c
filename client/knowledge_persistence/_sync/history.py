# Generated from _async/history.py by scripts/generate-sync: edit that, not this.
"""Superseding, undoing, merging, forgetting, and what wants attention."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from knowledge_persistence._values import to_id
from knowledge_persistence.models import (
    AuditFinding,
    DuplicateProposal,
    ForgottenKnowledge,
    HistoryEntry,
    MergedKnowledge,
    SupersededKnowledge,
    from_row,
    from_rows,
)

from .methods import Methods

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from knowledge_persistence.models import AuditCheck, DuplicateStatus


class HistoryMethods(Methods):
    """Superseding, undoing, merging, forgetting, and what wants attention."""

    def supersede(self, knowledge_id: UUID | str, replacement_id: UUID | str) -> SupersededKnowledge:
        """Let another item take the place of this one.

        It leaves retrieval and stays readable. Its author may do that while it is pending, maintainers and
        owners of the workspace at any time.

        Args:
            knowledge_id: the item that no longer holds.
            replacement_id: the one that holds instead.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
            PermissionDeniedError: it is not the caller's to supersede.
            ConflictError: the replacement is itself superseded by this item, deprecated, or not yet visible to
                the workspace that sees this one.
        """
        rows = self._core.call(
            "supersede_knowledge",
            {
                "knowledge_id": to_id(knowledge_id, "knowledge item"),
                "replacement_id": to_id(replacement_id, "knowledge item"),
            },
            self._request_context(),
            mode="repeatable",
        )
        return from_row(SupersededKnowledge, rows[0])

    def undo_supersede(self, knowledge_id: UUID | str) -> SupersededKnowledge:
        """Give an item its place back, with the validity that it had.

        Args:
            knowledge_id: the superseded item.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
            PermissionDeniedError: it is not the caller's to supersede.
            ConflictError: the same text has been recorded anew, or the item is merged (`undo_merge`).
        """
        rows = self._core.call(
            "supersede_knowledge",
            {"knowledge_id": to_id(knowledge_id, "knowledge item"), "replacement_id": None},
            self._request_context(),
            mode="repeatable",
        )
        return from_row(SupersededKnowledge, rows[0])

    def history(self, knowledge_id: UUID | str) -> list[HistoryEntry]:
        """Read who changed an item's status or place, when and why; the first change first.

        Args:
            knowledge_id: the item. One that was recorded as pending and left so has no history.

        Returns:
            nothing for an item that the caller may not see.
        """
        rows = self._core.select(
            "knowledge_status_history",
            [field.name for field in fields(HistoryEntry)],
            self._request_context(),
            equal={"knowledge_id": to_id(knowledge_id, "knowledge item")},
            order="id",
        )
        return from_rows(HistoryEntry, rows[::-1])

    def forget(self, knowledge_id: UUID | str, *, dry_run: bool = False) -> ForgottenKnowledge:
        """Erase an item for good, with its record, links, relationships, history, search text and embedding.

        There is no undo. `supersede`, or `validate` with deprecated, takes an item out of retrieval only.

        Args:
            knowledge_id: the item; its owner and maintainers of the workspace may erase it.
            dry_run: say what would go, and let nothing go.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
            PermissionDeniedError: it is not the caller's to erase.
        """
        rows = self._core.call(
            "forget_knowledge",
            {"knowledge_id": to_id(knowledge_id, "knowledge item"), "dry_run": dry_run or None},
            self._request_context(),
            mode="repeatable" if dry_run else "once",
        )
        return from_row(ForgottenKnowledge, rows[0])

    def discover_duplicates(
        self, knowledge_id: UUID | str | None = None, *, max_proposals: int = 20
    ) -> list[DuplicateProposal]:
        """Propose pairs of items that seem to say the same. Nothing is merged.

        Args:
            knowledge_id: look for duplicates of this item; None: in the workspace, of a large one a part a call.
            max_proposals: so many at most, 1 to 200.

        Returns:
            what is newly proposed, the surest first.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
            PermissionDeniedError: the caller only reads the workspace.
        """
        rows = self._core.call(
            "discover_duplicates",
            {
                "knowledge_id": None if knowledge_id is None else to_id(knowledge_id, "knowledge item"),
                "max_proposals": max_proposals,
            },
            self._request_context(),
            mode="once",
        )
        return from_rows(DuplicateProposal, rows)

    def list_duplicates(
        self, *, status: DuplicateStatus = "proposed", max_results: int = 50
    ) -> list[DuplicateProposal]:
        """List the pairs of the workspace that wait for a decision, or that were decided.

        Args:
            status: of the pairs.
            max_results: so many at most, 1 to 1000.
        """
        rows = self._core.call(
            "duplicate_proposals",
            {"proposal_status": status, "max_results": max_results},
            self._request_context(),
            mode="read",
        )
        return from_rows(DuplicateProposal, rows)

    def decide_duplicate(
        self, proposal_id: UUID | str, *, accept: bool, keep_id: UUID | str | None = None
    ) -> MergedKnowledge:
        """Merge a proposed pair, or reject the proposal, so that it is not made again.

        Args:
            proposal_id: the proposal.
            accept: merge the two.
            keep_id: the item to keep; None: the one that the proposal names.

        Raises:
            NotFoundError: there is no such proposal, or none that the caller may see.
            PermissionDeniedError: it is not the caller's to decide.
            ConflictError: one of the two is out of retrieval already.
        """
        rows = self._core.call(
            "decide_duplicate",
            {
                "proposal_id": to_id(proposal_id, "proposal"),
                "accept": accept,
                "keep_id": None if keep_id is None else to_id(keep_id, "knowledge item"),
            },
            self._request_context(),
            mode="repeatable",
        )
        return from_row(MergedKnowledge, rows[0])

    def merge(self, keep_id: UUID | str, duplicate_id: UUID | str) -> MergedKnowledge:
        """Make two items one.

        The duplicate is superseded and stays readable; its links, ratings, counts, relationships and triggers
        go over to the kept item. `undo_merge` takes exactly that back.

        Args:
            keep_id: the item to keep.
            duplicate_id: the other one; its author may merge it while it is pending, maintainers at any time.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
            PermissionDeniedError: the duplicate is not the caller's to merge.
            ConflictError: one of the two is out of retrieval already, or they are of different kinds.
        """
        rows = self._core.call(
            "merge_knowledge",
            {
                "keep_id": to_id(keep_id, "knowledge item"),
                "duplicate_id": to_id(duplicate_id, "knowledge item"),
            },
            self._request_context(),
            mode="repeatable",
        )
        return from_row(MergedKnowledge, rows[0])

    def undo_merge(self, duplicate_id: UUID | str) -> MergedKnowledge:
        """Take a merge back: the duplicate is in force again, with what had gone over to the kept item.

        Args:
            duplicate_id: the item that was merged.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
            PermissionDeniedError: the caller neither made the merge nor maintains the workspace.
            ConflictError: it is not merged, or the kept item has itself been merged since.
        """
        rows = self._core.call(
            "unmerge_knowledge",
            {"duplicate_id": to_id(duplicate_id, "knowledge item")},
            self._request_context(),
            mode="once",
        )
        return from_row(MergedKnowledge, rows[0])

    def audit(
        self,
        *,
        checks: Sequence[AuditCheck] | None = None,
        project_context: str | None = None,
        max_findings: int = 50,
        stale_after_days: int = 180,
        unused_after_days: int = 90,
        unvalidated_after_days: int = 14,
    ) -> list[AuditFinding]:
        """Find what in the workspace wants attention, of what the caller may see. Nothing is changed.

        Args:
            checks: only these; None: all.
            project_context: only this project.
            max_findings: so many at most of each check, 1 to 1000; each finding has the total.
            stale_after_days: after so many days without change or recall an item is stale.
            unused_after_days: after so many days without a recall a new item is unused.
            unvalidated_after_days: so many days an item may wait for validation, or for an update.

        Returns:
            the gravest first: contradictory and duplicate pairs, then expired, failing, junk, unvalidated,
            stale and unused items.

        Raises:
            InvalidArgumentError: a check is unknown, or a number outside its range.
        """
        rows = self._core.call(
            "knowledge_audit",
            {
                "checks": checks,
                "project_context": project_context,
                "max_findings": max_findings,
                "stale_after_days": stale_after_days,
                "unused_after_days": unused_after_days,
                "unvalidated_after_days": unvalidated_after_days,
            },
            self._request_context(),
            mode="read",
        )
        return from_rows(AuditFinding, rows)
