"""The client's models are the database's: compared field by field with what the official CLI generates from it.

A column or result that the client leaves out on purpose is listed; a new one is not, and fails here.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_origin

import psycopg
import pytest

from knowledge_persistence import models
from node_tools import run_node_tool

if TYPE_CHECKING:
    from collections.abc import Generator

    from databases import Database, DatabaseServer

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "client" / "knowledge_persistence"
Fields = dict[str, tuple[str, bool]]  # by name: the type, and whether it can be null

# Which rows each model is made of: a table, a composite type, or a function that returns a table.
MIRRORS = {
    "AgentToken": "agent_token_summary",
    "AgentTokenHolder": "agent_token_holder",
    "CreatedAgentToken": "created_agent_token",
    "AppliedInsight": "applied_insight",
    "ArchivedMonth": "archived_month",
    "AuditFinding": "audited_knowledge",
    "BriefEntry": "brief_entry",
    "ContextualKnowledge": "get_contextual_knowledge()",
    "Decision": "decision_trail",
    "DiscoverySchedule": "discovery_schedule",
    "DueWork": "due_work",
    "DuplicateProposal": "proposed_duplicate",
    "EmbeddingJob": "claim_embedding_jobs()",
    "EmbeddingModel": "embedding_models",
    "EditedKnowledge": "edited_knowledge",
    "ExportedHeader": "exported_header",
    "ExportedRecord": "exported_record",
    "ImportedLine": "imported_line",
    "EndedSession": "session_outcome",
    "ForgottenKnowledge": "forgotten_knowledge",
    "FoundGotcha": "found_gotcha",
    "Gotcha": "technical_gotchas",
    "HistoryEntry": "knowledge_status_history",
    "KnowledgeEvent": "knowledge_event",
    "KnowledgeItem": "knowledge_items",
    "KnowledgeNeighbor": "knowledge_neighbor",
    "MaintenanceOutcome": "maintenance_outcome",
    "MarkedBreakthrough": "marked_breakthrough",
    "MatchedInteractionPattern": "matched_interaction_pattern",
    "MergedKnowledge": "merged_knowledge",
    "ProposedRelationship": "proposed_relationship",
    "RatedKnowledge": "rated_knowledge",
    "RecalledKnowledge": "recalled_knowledge",
    "RecordedCommand": "recorded_command",
    "RecordedDecision": "recorded_decision",
    "RecordedGotcha": "recorded_gotcha",
    "RecordedInsight": "recorded_insight",
    "RecordedInteractionPattern": "recorded_interaction_pattern",
    "RecordedKnowledge": "recorded_knowledge",
    "RecordedTestResult": "recorded_test_result",
    "RecordedValidationTest": "recorded_validation_test",
    "RelatedKnowledge": "related_knowledge",
    "Relationship": "listed_relationship",
    "RetrievalSettings": "retrieval_settings",
    "Session": "ai_sessions",
    "SessionEvent": "session_timeline",
    "SimilarKnowledge": "find_similar_knowledge()",
    "StartedSession": "session_state",
    "StoredEmbedding": "store_embeddings()",
    "SuggestedCommand": "suggested_command",
    "SupersededKnowledge": "superseded_knowledge",
    "ValidatedKnowledge": "validated_knowledge",
    "ValidationReportLine": "validation_report()",
    "ValidationResult": "validation_test_results",
    "ValidationTest": "knowledge_validation_tests",
    "Workspace": "workspace_summary",
    "WorkspaceMember": "workspace_members",
}
# Made of JSON inside of a row.
WITHIN_JSON = {"GraphItem", "GraphRelationship", "ItemRank"}
LEFT_OUT = {
    "Decision": {"timeline", "breakthrough_moments"},  # said by the stages
    "EmbeddingModel": {"created_at"},
    "HistoryEntry": {"id"},  # orders the entries
    "KnowledgeItem": {"content_embedding", "content_hash", "created_by", "validated_by"},
    "Session": {"computed_quality_score", "given_quality_score"},  # session_quality_score is one of them
    "SessionEvent": {"session_id", "session_identifier", "workspace_id", "owner_id", "project_context"},
    "ValidationResult": {"workspace_id"},
}
# What the client adds to what the database says.
ADDED = {"RecalledKnowledge": {"rerank_score"}}


@pytest.fixture(scope="module")
def database(server: DatabaseServer, template: Database) -> Generator[Database]:
    with server.clone(template) as database:
        yield database


@pytest.fixture(scope="module")
def generated(database: Database, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fields]:
    """What the official CLI makes of the schema: the fields of each table, view and composite type."""
    project = tmp_path_factory.mktemp("project")
    (project / "supabase").mkdir()
    shutil.copy(ROOT / "supabase" / "config.toml", project / "supabase")
    remote = f"--remote={database.dsn()}?sslmode=disable"
    result = run_node_tool(
        "supabase", "--workdir", str(project), "gen", "types", "--lang", "python", remote, "--yes"
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Fields] = {}
    for node in ast.parse(result.stdout).body:
        if isinstance(node, ast.ClassDef) and ast.unparse(node.bases[0]) == "BaseModel":
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", node.name.removeprefix("Public")).lower()
            found[name] = {
                ast.unparse(field.target): _plain(ast.unparse(field.annotation))
                for field in node.body
                if isinstance(field, ast.AnnAssign)
            }
    assert len(found) > 40, "tables, views and types"
    return found


@pytest.fixture(scope="module")
def returned(database: Database) -> dict[str, Fields]:
    """The same of functions that return a table, which the CLI doesn't generate for Python."""
    kinds = {
        "uuid": "UUID",
        "text": "str",
        "integer": "int",
        "double precision": "float",
        "boolean": "bool",
        "boolean[]": "list[bool]",
        "timestamp with time zone": "datetime",
    }
    with psycopg.connect(database.dsn()) as connection:
        rows = connection.execute(
            "select p.proname || '()', n.name, format_type(t.type, null) from pg_proc p,"
            " lateral unnest(p.proallargtypes, p.proargmodes, p.proargnames) t (type, mode, name),"
            " lateral (select t.name::text) n (name)"
            " where p.pronamespace = 'public'::regnamespace and t.mode = 't'"
        ).fetchall()
    found: dict[str, Fields] = {}
    for function, name, kind in rows:
        found.setdefault(function, {})[name] = (kinds.get(kind, kind), True)
    return found


def _plain(annotation: str) -> tuple[str, bool]:
    """Return a generated type as this package would write it, and whether it can be null."""
    inner = re.fullmatch(r"Optional\[(.*)\]", annotation)
    plain = inner[1] if inner else annotation
    return plain.replace("uuid.", "").replace("datetime.datetime", "datetime").replace(
        "List[", "list["
    ), bool(inner)


def _of_model(kind: type) -> Fields:
    """Return a model's fields in the same terms: a choice of words is text, an object of ours is JSON."""
    namespace = vars(sys.modules[kind.__module__])

    def simple(name: str) -> str:
        inner = re.fullmatch(r"list\[(.*)\]", name)
        if inner:
            element = simple(inner[1])
            return "JsonValue" if element == "JsonValue" else f"list[{element}]"
        known = namespace.get(name, getattr(models, name, None))
        if name.startswith("Literal[") or get_origin(known) is Literal:
            return "str"
        if name in ("JSON", "JSONObject") or name.startswith("dict[") or dataclasses.is_dataclass(known):
            return "JsonValue"
        return {"timedelta": "str"}.get(name, name)

    found: Fields = {}
    for field in dataclasses.fields(cast("Any", kind)):
        name = str(field.type)
        found[field.name] = simple(name.removesuffix(" | None")), name == "JSON" or name.endswith(" | None")
    return found


def test_every_model_that_is_made_of_rows_is_compared() -> None:
    made: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if "_sync" not in path.parts:
            made |= set(re.findall(r"from_row\(\s*([A-Z]\w+)", path.read_text()))
    assert made - set(MIRRORS) - WITHIN_JSON == set(), "add them to MIRRORS"


@pytest.mark.parametrize("model", MIRRORS)
def test_a_model_is_what_the_database_returns(
    generated: dict[str, Fields], returned: dict[str, Fields], model: str
) -> None:
    source = MIRRORS[model]
    expected = returned[source] if source.endswith("()") else generated[source]
    mine = _of_model(getattr(models, model))
    # Of a result, or a view, the database knows no better than that anything may be null.
    is_table = source != "session_timeline" and not all(may_be_null for _, may_be_null in expected.values())
    assert set(mine) - set(expected) == ADDED.get(model, set()), "the database has no such columns"
    assert set(expected) - set(mine) == LEFT_OUT.get(model, set()), "columns that the model doesn't know"
    for name in set(mine) & set(expected):
        kind, may_be_null = mine[name]
        assert kind == expected[name][0], name
        assert may_be_null or not expected[name][1] or not is_table, f"{name} can be null"
