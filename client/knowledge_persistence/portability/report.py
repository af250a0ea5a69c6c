"""What happened: counts by kind and outcome, and what went wrong where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from knowledge_persistence.models import JSONObject

#: Told how far a long work has come: units done, and of how many.
Progress: TypeAlias = "Callable[[int, int], None]"


def no_progress(done: int, of: int) -> None:
    """Tell nobody."""
    del done, of


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something that was not taken in, or not as it is.

    Attributes:
        where: the file, with its line or part.
        outcome: failed, skipped, conflict, or what was done all the same.
        reason: why.
        kind: what it is.
        source_id: its id in the file.
    """

    where: str
    outcome: str
    reason: str
    kind: str | None = None
    source_id: str | None = None


@dataclass(slots=True)
class Report:
    """What an import has done, or with dry_run would have.

    Attributes:
        dry_run: nothing was kept.
        counts: by kind, by outcome.
        troubles: what there is to say about single things.
    """

    dry_run: bool = False
    counts: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    troubles: list[Trouble] = field(default_factory=list[Trouble])

    def count(self, kind: str, outcome: str, how_many: int = 1) -> None:
        """Count what became of something."""
        by_outcome = self.counts.setdefault(kind, {})
        by_outcome[outcome] = by_outcome.get(outcome, 0) + how_many

    def trouble(self, kind: str, where: str, outcome: str, reason: str, source_id: str | None = None) -> None:
        """Count something that did not go in as it is, and say why."""
        self.count(kind, outcome)
        self.note(kind, where, outcome, reason, source_id)

    def note(self, kind: str, where: str, outcome: str, reason: str, source_id: str | None = None) -> None:
        """Say something about what is counted elsewhere."""
        self.troubles.append(
            Trouble(kind=kind, where=where, outcome=outcome, reason=reason, source_id=source_id)
        )

    @property
    def failed(self) -> int:
        """How many things failed, conflicts among them."""
        return sum(
            how_many
            for by_outcome in self.counts.values()
            for outcome, how_many in by_outcome.items()
            if outcome in {"failed", "conflict"}
        )

    def total(self, outcome: str) -> int:
        """Return how many things of all kinds ended like this."""
        return sum(by_outcome.get(outcome, 0) for by_outcome in self.counts.values())

    def to_json(self) -> JSONObject:
        """Return it as JSON."""
        return {
            "dry_run": self.dry_run,
            "counts": {kind: dict(by_outcome) for kind, by_outcome in self.counts.items()},
            "failed": self.failed,
            "troubles": [
                {
                    "where": one.where,
                    "kind": one.kind,
                    "source_id": one.source_id,
                    "outcome": one.outcome,
                    "reason": one.reason,
                }
                for one in self.troubles
            ],
        }
