"""Writing the tables through the Data API, around the functions: no invariant breaks, and each attempt has its error.

Two kinds of attempts. The columns that are nobody's to write are taken from the catalog, so that a new one is tried
without being listed here. What is wrong with a column that may be written is listed, with the error. After each
table's attempts every row of every table is as before.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from knowledge_persistence.embedded.processes import wait_until

if TYPE_CHECKING:
    from stacks import RunningStack

NOBODY = "00000000-0000-4000-8000-000000000000"
Row = dict[str, Any]
DENIED = (403, "42501")

# An honest row of each table that a contributor may add to.
HONEST: dict[str, Row] = {
    "ai_sessions": {"session_identifier": "forged"},
    "command_patterns": {"command_signature": "forged", "success_pattern": "forged"},
    "decision_evolution": {"decision_topic": "forged"},
    "experiential_knowledge": {"insight_title": "forged", "insight_description": "forged"},
    "interaction_patterns": {"pattern_name": "forged", "situation_type": "forged"},
    "knowledge_duplicates": {"keep_id": "{item}", "duplicate_id": "{other}"},
    "knowledge_items": {"title": "forged", "content": "forged"},
    "knowledge_relationships": {
        "source_knowledge_id": "{item}",
        "target_knowledge_id": "{other}",
        "relationship_type": "builds_upon",
    },
    "knowledge_validation_tests": {"test_name": "forged", "test_scenario": "forged"},
    "technical_gotchas": {"problem_description": "forged"},
    "validation_test_results": {"test_id": "{test}", "pass_status": True},
}
FORGED: Row = {
    "uuid": "{colleague}",
    "uuid[]": ["{hidden}"],
    "integer": 999,
    "bigint": 999,
    "xid8": "999",
    "numeric": 1,
    "interval": "1 day",
    "double precision": 1,
    "boolean": True,
    "timestamp with time zone": "2020-01-01T00:00:00Z",
    "jsonb": {"forged": True},
    "vector": "[1]",
    "text": "forged",
    "text[]": ["forged"],
    "character varying": "pending",
    "character varying[]": ["forged"],
}

# What is refused of what may be written: table, method, the row's id, body, status, SQLSTATE.
ITEM = "knowledge_items"
REFUSED: list[tuple[str, str, str, Row, int, str]] = [
    (ITEM, "POST", "", {"owner_id": "{colleague}"}, *DENIED),
    (ITEM, "POST", "", {"workspace_id": "{elsewhere}"}, *DENIED),
    (ITEM, "POST", "", {"workspace_id": NOBODY}, *DENIED),
    (ITEM, "POST", "", {"validation_status": "validated"}, 403, "PT403"),
    (ITEM, "POST", "", {"validation_status": "needs_update"}, 403, "PT403"),
    (ITEM, "POST", "", {"validation_status": "deprecated"}, 403, "PT403"),
    (ITEM, "POST", "", {"validation_status": "trusted"}, 403, "PT403"),
    (ITEM, "POST", "", {"created_in_session": "{her session}"}, 403, "PT403"),
    (ITEM, "POST", "", {"created_in_session": NOBODY}, 403, "PT403"),
    (ITEM, "POST", "", {"created_in_session": "{session}", "session_position": 999}, 403, "PT403"),
    (ITEM, "POST", "", {"created_in_session": "{session}", "session_position": -1}, 403, "PT403"),
    (ITEM, "POST", "", {"content_embedding": "[1,2,3]"}, 422, "PT422"),
    (ITEM, "POST", "", {"content_embedding": "[1,2,3]", "embedding_model": "no such"}, 422, "PT422"),
    (ITEM, "POST", "", {"importance_score": 101}, 400, "23514"),
    (ITEM, "POST", "", {"knowledge_type": "gossip"}, 400, "23514"),
    (ITEM, "POST", "", {"title": " "}, 400, "23514"),
    (ITEM, "POST", "", {"content": "x" * 65537}, 400, "23514"),
    (ITEM, "POST", "", {"valid_from": "2021-01-01", "valid_to": "2020-01-01"}, 400, "23514"),
    (ITEM, "POST", "", {"content": "AKIA" + "Q" * 16}, 451, "PT451"),
    (ITEM, "POST", "", {"title": "Item", "content": "An item of the author's."}, 409, "23505"),
    (ITEM, "PATCH", "{item}", {"validation_status": "validated"}, 403, "PT403"),
    (ITEM, "PATCH", "{item}", {"validation_status": "deprecated"}, 403, "PT403"),
    (ITEM, "PATCH", "{item}", {"validation_note": "checked"}, 403, "PT403"),
    (ITEM, "PATCH", "{item}", {"content_embedding": "[1,2,3]"}, 422, "PT422"),
    (ITEM, "PATCH", "{gotcha's item}", {"content": "forged"}, 409, "PT409"),
    (ITEM, "PATCH", "{gotcha's item}", {"knowledge_type": "factual"}, 409, "PT409"),
    (ITEM, "PATCH", "{gotcha's item}", {"project_context": "forged"}, 409, "PT409"),
    ("ai_sessions", "POST", "", {"session_identifier": "work"}, 409, "PT409"),
    ("ai_sessions", "POST", "", {"session_identifier": " "}, 400, "23514"),
    ("ai_sessions", "POST", "", {"workspace_id": "{elsewhere}"}, *DENIED),
    ("ai_sessions", "POST", "", {"workspace_id": NOBODY}, *DENIED),
    ("technical_gotchas", "POST", "", {"owner_id": "{colleague}"}, *DENIED),
    ("technical_gotchas", "POST", "", {"workspace_id": "{elsewhere}"}, *DENIED),
    ("technical_gotchas", "POST", "", {"problem_description": " "}, 400, "PT400"),
    ("technical_gotchas", "POST", "", {"problem_description": "A gotcha"}, 409, "PT409"),
    ("technical_gotchas", "POST", "", {"severity_level": 11}, 400, "23514"),
    ("technical_gotchas", "POST", "", {"related_gotchas": ["{her gotcha}"]}, 404, "PT404"),
    ("technical_gotchas", "POST", "", {"related_gotchas": [NOBODY]}, 404, "PT404"),
    ("technical_gotchas", "PATCH", "{gotcha}", {"related_gotchas": ["{her gotcha}"]}, 404, "PT404"),
    ("technical_gotchas", "PATCH", "{gotcha}", {"related_gotchas": ["{gotcha}"]}, 404, "PT404"),
    ("technical_gotchas", "PATCH", "{gotcha}", {"problem_description": ""}, 400, "23514"),
    ("technical_gotchas", "PATCH", "{gotcha}", {"working_solution": "AKIA" + "Q" * 16}, 451, "PT451"),
    ("command_patterns", "POST", "", {"owner_id": "{colleague}"}, *DENIED),
    ("command_patterns", "POST", "", {"workspace_id": "{elsewhere}"}, *DENIED),
    ("command_patterns", "POST", "", {"command_signature": "make"}, 409, "PT409"),
    ("interaction_patterns", "POST", "", {"owner_id": "{colleague}"}, *DENIED),
    ("interaction_patterns", "POST", "", {"workspace_id": "{elsewhere}"}, *DENIED),
    ("interaction_patterns", "POST", "", {"effectiveness_score": 101}, 400, "23514"),
    ("experiential_knowledge", "POST", "", {"owner_id": "{colleague}"}, *DENIED),
    ("experiential_knowledge", "POST", "", {"workspace_id": "{elsewhere}"}, *DENIED),
    ("experiential_knowledge", "POST", "", {"insight_title": "AN  INSIGHT"}, 409, "PT409"),
    ("experiential_knowledge", "PATCH", "{insight}", {"confidence_level": 0}, 400, "23514"),
    ("decision_evolution", "POST", "", {"owner_id": "{colleague}"}, *DENIED),
    ("decision_evolution", "POST", "", {"workspace_id": "{elsewhere}"}, *DENIED),
    ("decision_evolution", "POST", "", {"decision_topic": "topic"}, 409, "PT409"),
    ("knowledge_relationships", "POST", "", {"target_knowledge_id": "{hidden}"}, *DENIED),
    ("knowledge_relationships", "POST", "", {"source_knowledge_id": "{hidden}"}, *DENIED),
    ("knowledge_relationships", "POST", "", {"target_knowledge_id": "{foreign}"}, *DENIED),
    ("knowledge_relationships", "POST", "", {"target_knowledge_id": NOBODY}, *DENIED),
    ("knowledge_relationships", "POST", "", {"status": "rejected"}, *DENIED),
    ("knowledge_relationships", "POST", "", {"target_knowledge_id": "{item}"}, 400, "23514"),
    ("knowledge_relationships", "POST", "", {"relationship_type": "likes"}, 400, "23514"),
    ("knowledge_relationships", "POST", "", {"strength": 1.5}, 400, "23514"),
    ("knowledge_relationships", "POST", "", {"relationship_type": "depends_on"}, 409, "23505"),
    ("knowledge_relationships", "POST", "", {"relationship_type": "required_for"}, 409, "PT409"),
    ("knowledge_duplicates", "POST", "", {"duplicate_id": "{hidden}"}, *DENIED),
    ("knowledge_duplicates", "POST", "", {"keep_id": "{hidden}"}, *DENIED),
    ("knowledge_duplicates", "POST", "", {"duplicate_id": "{foreign}"}, *DENIED),
    ("knowledge_duplicates", "POST", "", {"duplicate_id": "{item}"}, 400, "23514"),
    ("knowledge_validation_tests", "POST", "", {"workspace_id": "{elsewhere}"}, *DENIED),
    ("knowledge_validation_tests", "POST", "", {"expected_knowledge_ids": ["{hidden}"]}, 404, "PT404"),
    ("knowledge_validation_tests", "POST", "", {"forbidden_knowledge_ids": [NOBODY]}, 404, "PT404"),
    ("knowledge_validation_tests", "POST", "", {"expected_knowledge_ids": ["{foreign}"]}, 404, "PT404"),
    ("knowledge_validation_tests", "POST", "", {"within_top": 0}, 400, "23514"),
    ("knowledge_validation_tests", "PATCH", "{test}", {"expected_knowledge_ids": ["{hidden}"]}, 404, "PT404"),
    ("validation_test_results", "POST", "", {"test_id": "{foreign test}"}, *DENIED),
    ("validation_test_results", "POST", "", {"test_id": NOBODY}, *DENIED),
    ("validation_test_results", "POST", "", {"performance_score": 101}, 400, "23514"),
    ("validation_test_results", "POST", "", {"retrieved": {"top": "all"}}, 400, "23514"),
]
# Rows of others that are seen, or not, and in either case neither changed nor deleted: table, id, body.
UNTOUCHED: list[tuple[str, str, Row]] = [
    (ITEM, "{hers}", {"content": "forged"}),
    (ITEM, "{hidden}", {"content": "forged"}),
    (ITEM, "{foreign}", {"content": "forged"}),
    ("ai_sessions", "{her session}", {"user_feedback": "forged"}),
    ("technical_gotchas", "{her gotcha}", {"working_solution": "forged"}),
    ("knowledge_relationships", "{her relationship}", {"strength": 0}),
    ("knowledge_validation_tests", "{her test}", {"test_scenario": "forged"}),
    ("knowledge_validation_tests", "{foreign test}", {"test_scenario": "forged"}),
]


@dataclass
class Company:
    """The author and the rows at hand, by name."""

    stack: RunningStack
    headers: dict[str, str]
    ids: dict[str, str]

    def fill(self, value: Any) -> Any:
        """Put the ids in for their names."""
        if isinstance(value, dict):
            return {key: self.fill(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.fill(one) for one in value]
        if isinstance(value, str) and value.startswith("{") and value.endswith("}"):
            return self.ids[value[1:-1]]
        return value

    def send(self, method: str, path: str, body: object = None, *, prefer: str = "") -> tuple[int, Any]:
        """Send a request as the author; return status and SQLSTATE, or the rows where it was taken."""
        headers = self.headers | {"prefer": f"return=representation{prefer}"}
        answer = self.stack.call(f"/rest/v1/{path}", headers, method=method, body=self.fill(body))
        return answer.status, (answer.json if answer.status < 300 else answer.json.get("code"))

    def everything(self) -> dict[str, list[tuple[str]]]:
        """Every row of every table."""
        return {
            table: self.stack.sql(f"select t::text from public.{table} t order by 1")
            for table in tables(self.stack)
        }


def tables(stack: RunningStack) -> list[str]:
    rows = stack.sql(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace"
        " and relkind in ('r', 'p') and not relispartition order by 1"
    )
    return [name for (name,) in rows if not name.startswith("supabase_")]


@pytest.fixture(scope="module")
def company(stack: RunningStack) -> Company:
    """Let an author, a colleague and a stranger record something each."""

    def person(name: str) -> tuple[str, dict[str, str]]:
        address = f"{name}-{uuid.uuid4()}@example.org"
        answer = stack.call("/auth/v1/signup", stack.anon, body={"email": address, "password": "long enough"})
        assert answer.status == 200, answer.body
        return answer.json["user"]["id"], stack.bearer(answer.json["access_token"])

    def rpc(headers: dict[str, str], function: str, /, **arguments: object) -> Row:
        answer = stack.call(f"/rest/v1/rpc/{function}", headers, body=arguments)
        assert answer.status == 200, answer.body
        return answer.json[0] if isinstance(answer.json, list) else answer.json

    def add(headers: dict[str, str], table: str, row: Row) -> str:
        answer = stack.call(f"/rest/v1/{table}", headers | {"prefer": "return=representation"}, body=row)
        assert answer.status == 201, answer.body
        return answer.json[0]["id"]

    (_, owner), (author_id, author), (colleague_id, colleague), (_, stranger) = map(
        person, ("owner", "author", "colleague", "stranger")
    )
    team = rpc(owner, "create_workspace", name="team")["workspace_id"]
    for member in (author_id, colleague_id):
        rpc(owner, "add_workspace_member", workspace_id=team, user_id=member)
    for headers in (owner, author, colleague):
        headers["x-workspace-id"] = team

    ids = {"author": author_id, "colleague": colleague_id, "team": team}
    ids["session"] = rpc(author, "start_session", session_identifier="work")["session_id"]
    ids["her session"] = rpc(colleague, "start_session", session_identifier="work")["session_id"]

    def record(headers: dict[str, str], title: str, content: str) -> str:
        return rpc(headers, "record_knowledge", title=title, content=content)["knowledge_id"]

    ids["item"] = record(author, "Item", "An item of the author's.")
    ids["other"] = record(author, "Other", "Another item of the author's.")
    ids["hers"] = record(colleague, "Hers", "An item of the colleague's.")
    ids["hidden"] = record(colleague, "Hidden", "A pending item of the colleague's.")
    rpc(owner, "validate_knowledge", knowledge_id=ids["hers"])
    ids["foreign"] = record(stranger, "Foreign", "An item of the stranger's.")
    ids["elsewhere"] = stack.sql(
        f"select workspace_id from public.knowledge_items where id = '{ids['foreign']}'"
    )[0][0]
    gotcha = rpc(author, "record_gotcha", problem_description="A gotcha")
    ids["gotcha"], ids["gotcha's item"] = gotcha["gotcha_id"], gotcha["knowledge_id"]
    ids["her gotcha"] = rpc(colleague, "record_gotcha", problem_description="Her gotcha")["gotcha_id"]
    rpc(author, "record_command_run", command="make", succeeded=True)
    rpc(author, "record_interaction_pattern", pattern_name="A pattern", situation_type="debugging")
    ids["insight"] = rpc(author, "record_insight", insight_title="An insight", insight_description="d")[
        "insight_id"
    ]
    rpc(author, "record_decision_stage", decision_topic="Topic", understanding="First")
    ends = {"source_knowledge_id": ids["item"], "target_knowledge_id": ids["other"]}
    rpc(author, "relate_knowledge", **ends, relationship_type="depends_on")
    hers = {"source_knowledge_id": ids["hers"], "target_knowledge_id": ids["hidden"]}
    ids["her relationship"] = rpc(colleague, "relate_knowledge", **hers, relationship_type="enhances")[
        "relationship_id"
    ]
    test = {"test_name": "t", "test_scenario": "t"}
    ids["test"] = add(author, "knowledge_validation_tests", test)
    ids["her test"] = add(colleague, "knowledge_validation_tests", test)
    ids["foreign test"] = add(stranger, "knowledge_validation_tests", test)
    add(author, "validation_test_results", {"test_id": ids["test"], "pass_status": True})
    add(author, "knowledge_duplicates", {"keep_id": ids["item"], "duplicate_id": ids["other"]})
    # The worker writes vectors, which are no author's doing.
    assert wait_until(lambda: stack.sql("select count(*) from private.embedding_jobs") == [(0,)], timeout=60)
    return Company(stack, author, {name: str(value) for name, value in ids.items()})


def unwritable(stack: RunningStack, table: str, privilege: str) -> dict[str, str]:
    """The columns that a signed-in user has no privilege on, with their types."""
    rows = stack.sql(
        "select a.attname::text, regexp_replace(format_type(a.atttypid, null), '^extensions[.]', '')"
        f" from pg_attribute a where a.attrelid = 'public.{table}'::regclass and a.attnum > 0 and not a.attisdropped"
        f" and not has_column_privilege('authenticated', a.attrelid, a.attnum, '{privilege}')"
    )
    return dict(rows)


def first_column(stack: RunningStack, table: str) -> str:
    [(name,)] = stack.sql(
        f"select a.attname::text from pg_attribute a where a.attrelid = 'public.{table}'::regclass"
        " and a.attnum > 0 and not a.attisdropped order by a.attnum limit 1"
    )
    return name


def test_what_is_nobodys_to_write_is_refused_column_by_column(company: Company) -> None:
    before = company.everything()
    tried = 0
    for table in before:
        where = f"{table}?{first_column(company.stack, table)}=not.is.null"  # every row that the author sees
        for column, kind in unwritable(company.stack, table, "insert").items():
            row = {**HONEST.get(table, {}), column: FORGED[kind]}
            answer = company.send("POST", table, row)
            assert answer in (DENIED, (400, "428C9")), f"POST {table} {column}: {answer}"
            tried += 1
        for column, kind in unwritable(company.stack, table, "update").items():
            answer = company.send("PATCH", where, {column: FORGED[kind]})
            assert answer in (DENIED, (400, "428C9")), f"PATCH {table} {column}: {answer}"
            tried += 1
    assert tried > 200, "the columns were found"
    assert company.everything() == before


@pytest.mark.parametrize("table", sorted({one[0] for one in REFUSED}))
def test_what_is_wrong_is_refused_with_its_error(company: Company, table: str) -> None:
    before = company.everything()
    for _, method, row, body, status, code in [one for one in REFUSED if one[0] == table]:
        path = table if method == "POST" else f"{table}?id=eq.{company.fill(row)}"
        sent = {**HONEST[table], **body} if method == "POST" else body
        answer = company.send(method, path, sent)
        assert answer == (status, code), f"{method} {path} {body}: {answer}"
    assert company.everything() == before


def test_rows_of_others_stay_as_they_are(company: Company) -> None:
    before = company.everything()
    for table, row, body in UNTOUCHED:
        where = f"{table}?id=eq.{company.fill(row)}"
        assert company.send("PATCH", where, body) == (200, []), where
        answer = company.send("DELETE", where)
        assert answer in (DENIED, (200, [])), f"DELETE {where}: {answer}"
    assert company.everything() == before


def test_only_what_may_be_deleted_is(company: Company) -> None:
    # A conversation is its owner's to erase, and none of these is the sender's.
    deletable = {"knowledge_relationships", "knowledge_validation_tests", "agent_session_items"}
    before = company.everything()
    for table in before:
        if table not in deletable:
            key = first_column(company.stack, table)
            assert company.send("DELETE", f"{table}?{key}=not.is.null") == DENIED, table
    assert company.everything() == before


def test_an_upsert_is_no_way_around(company: Company) -> None:
    before = company.everything()
    item = {"title": "forged", "content": "forged"}
    for table, target, row in (
        (ITEM, "id", {"id": "{hers}", **item}),
        (ITEM, "id", {"id": "{item}", **item}),
        ("ai_sessions", "id", {"id": "{her session}", "session_identifier": "work"}),
        ("technical_gotchas", "knowledge_id", {"knowledge_id": "{item}", "problem_description": "forged"}),
        ("technical_gotchas", "id", {"id": "{her gotcha}", "problem_description": "forged"}),
        (
            "knowledge_relationships",
            "source_knowledge_id,target_knowledge_id,relationship_type",
            {**HONEST["knowledge_relationships"], "relationship_type": "depends_on", "status": "accepted"},
        ),
        (
            "workspace_members",
            "workspace_id,user_id",
            {"workspace_id": "{team}", "user_id": "{author}", "role": "owner"},
        ),
    ):
        answer = company.send(
            "POST", f"{table}?on_conflict={target}", row, prefer=",resolution=merge-duplicates"
        )
        assert answer == DENIED, f"{table} on {target}: {answer}"
        key = next(iter(row))
        answer = company.send("PUT", f"{table}?{key}=eq.{company.fill(row[key])}", row)
        assert answer[0] >= 400, f"PUT {table}: {answer}"
    # An index on some of the rows decides nothing.
    hashed = {"content_hash": "0", "owner_id": "{colleague}", **item}
    path = f"{ITEM}?on_conflict=workspace_id,content_hash,owner_id"
    assert company.send("POST", path, hashed, prefer=",resolution=merge-duplicates") == (400, "42P10")
    assert company.everything() == before


def test_what_is_private_has_no_address(company: Company) -> None:
    stack, before = company.stack, company.everything()
    for path, headers in (
        ("session_keys", {}),
        ("companions", {}),
        ("ai_sessions_default", {}),
        ("session_keys", {"accept-profile": "private", "content-profile": "private"}),
        ("rpc/write_supersession", {"content-profile": "private"}),
        ("rpc/is_trusted", {}),
        ("rpc/set_config", {}),
        ("rpc/setval", {}),
    ):
        answer = stack.call(f"/rest/v1/{path}", company.headers | headers, body={})
        assert answer.status in (401, 403, 404, 406), f"{path}: {answer.status} {answer.body}"
    for path in ("claim_embedding_jobs", "create_session_partitions", "run_maintenance"):
        assert company.send("POST", f"rpc/{path}", {}) == DENIED, path
    assert company.everything() == before
