"""Two items that differ in all that a search can be limited by, and which of them each filter lets through."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from knowledge_persistence import KnowledgeClient

QUERY = "shared words"


@dataclass(frozen=True)
class Case:
    """A filter as the client takes it, as `kp recall` does, and the titles that it lets through."""

    arguments: dict[str, Any]
    flags: list[str]
    titles: set[str]


@dataclass(frozen=True)
class Scene:
    """What was recorded: `first` by its author in a session, then `second` by somebody else."""

    first: UUID
    second: UUID
    cases: dict[str, Case]


def set_scene(author: KnowledgeClient, other: KnowledgeClient) -> Scene:
    """Record the two.

    Args:
        author: a maintainer of a workspace.
        other: another maintainer, in the same workspace.
    """
    with author.session("the first's session") as session:
        first = session.remember(
            f"{QUERY}: the first",
            title="first",
            knowledge_type="procedural",
            category="ops",
            importance_score=90,
            retrieval_triggers=["tagged"],
            project_context="atlas",
            context_data={"service": {"name": "api"}, "tier": 1},
        ).knowledge_id
    second = other.remember(f"{QUERY}: the second", title="second").knowledge_id
    author.validate(first)
    return Scene(first, second, _cases(author, first, second, session.id))


def _cases(client: KnowledgeClient, first: UUID, second: UUID, session: UUID) -> dict[str, Case]:
    one, two = client.get(first), client.get(second)
    assert one.created_at < two.created_at < one.updated_at
    assert one.owner_id is not None

    def at(moment: datetime) -> str:
        return moment.isoformat(timespec="microseconds")

    context = {"service": {"name": "api"}}
    return {
        "types": Case({"knowledge_types": ["procedural"]}, ["--type", "procedural"], {"first"}),
        "categories": Case(
            {"categories": ["ops", "build"]}, ["--category", "ops", "--category", "build"], {"first"}
        ),
        "project": Case({"project_context": "atlas"}, ["--project", "atlas"], {"first"}),
        "tags": Case({"tags": ["tagged", "other"]}, ["--tag", "tagged", "--tag", "other"], {"first"}),
        "importance": Case({"min_importance": 60}, ["--min-importance", "60"], {"first"}),
        "status": Case({"validation_statuses": ["pending"]}, ["--status", "pending"], {"second"}),
        "created after": Case(
            {"created_after": two.created_at}, ["--created-after", at(two.created_at)], {"second"}
        ),
        "created before": Case(
            {"created_before": two.created_at}, ["--created-before", at(two.created_at)], {"first"}
        ),
        "updated after": Case(
            {"updated_after": one.updated_at}, ["--updated-after", at(one.updated_at)], {"first"}
        ),
        "updated before": Case(
            {"updated_before": one.updated_at}, ["--updated-before", at(one.updated_at)], {"second"}
        ),
        "author": Case({"author": one.owner_id}, ["--author", str(one.owner_id)], {"first"}),
        "session": Case({"recorded_in": session}, ["--recorded-in", str(session)], {"first"}),
        "context": Case({"context_data": context}, ["--context", '{"service": {"name": "api"}}'], {"first"}),
        "as of": Case(
            {
                "as_of": one.created_at + (two.created_at - one.created_at) / 2,
                "validation_statuses": ["pending"],
            },
            ["--as-of", at(one.created_at + (two.created_at - one.created_at) / 2), "--status", "pending"],
            {"first"},
        ),
        "excluded": Case({"exclude_ids": [first]}, ["--exclude", str(first)], {"second"}),
        "tokens": Case({"max_tokens": 7}, ["--max-tokens", "7"], {"first"}),
    }
