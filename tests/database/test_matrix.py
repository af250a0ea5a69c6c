"""Who may do what, tried for real and written down: docs/reference/access.md.

The page holds two matrices. The first is what each kind of person can do with whose rows; every cell is tried, in a
transaction that is rolled back. The second is what the catalog grants. Both are compared with the page, which people
review: what opened or closed is a diff in it. To write the page anew after a change that is meant:

    KP_WRITE_ACCESS=1 python -m pytest tests/database/test_matrix.py
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from knowledge_persistence.operations.grants import FUNCTIONS, GRANTEES, RELATIONS, matrix
from teams import Team
from world import Persona, World, vector

if TYPE_CHECKING:
    from collections.abc import Generator

    from databases import Database, DatabaseServer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "access.md"
WRITE = "KP_WRITE_ACCESS" in os.environ  # read before the tests hide the environment

VERBS = ("select", "insert", "update", "delete")
ROLES = ("anon", "reader", "contributor", "maintainer", "owner", "stranger", "service_role")
OWN, PENDING, VALIDATED, OTHER = (
    "own",
    "colleague's, pending",
    "colleague's, validated",
    "another workspace's",
)
ITEM_SCOPES = (OWN, PENDING, VALIDATED, OTHER)
COLLEAGUES = "colleague's"
SCOPES = {
    # Rows that have no status of their own, nor an item's.
    "agent_session_items": (OWN, COLLEAGUES, OTHER),
    "ai_sessions": (OWN, COLLEAGUES, OTHER),
    "embedding_models": ("any",),
    "failed_embeddings": ("any",),
    "failed_validation_tests": (OWN, COLLEAGUES, OTHER),
    "knowledge_validation_tests": (OWN, COLLEAGUES, OTHER),
    "operations_metrics": ("any",),
    "session_timeline": (OWN, COLLEAGUES, OTHER),
    "validation_test_results": (OWN, COLLEAGUES, OTHER),
    "workspace_members": (OWN, COLLEAGUES, OTHER),
    "workspaces": (OWN, OTHER),
}
# What the holder of a table's privilege would change; elsewhere the key, which nobody but the service may.
CHANGED = {
    "ai_sessions": "user_feedback",
    "command_patterns": "command_description",
    "decision_evolution": "lessons_learned",
    "experiential_knowledge": "insight_description",
    "interaction_patterns": "ai_response_expected",
    "knowledge_items": "category",
    "knowledge_relationships": "relationship_context",
    "knowledge_validation_tests": "test_category",
    "technical_gotchas": "prevention_guidance",
}
# The columns of an honest insert, besides workspace and owner. Where a table is missing nobody but the service
# inserts, which a copy of the row shows.
INSERTED: dict[str, dict[str, str]] = {
    "agent_session_items": {"conversation": "new", "item": '{"role": "user"}'},
    "ai_sessions": {"session_identifier": "inserted"},
    "command_patterns": {"command_signature": "inserted", "success_pattern": "inserted"},
    "decision_evolution": {"decision_topic": "inserted", "initial_understanding": "inserted"},
    "experiential_knowledge": {"insight_title": "inserted", "insight_description": "inserted"},
    "interaction_patterns": {"pattern_name": "inserted", "situation_type": "inserted"},
    "knowledge_items": {"title": "inserted", "content": "inserted"},
    "knowledge_validation_tests": {"test_name": "inserted", "test_scenario": "inserted"},
    "technical_gotchas": {"problem_description": "inserted"},
}
AXIS = vector([1.0] + [0.0] * 383)
Rows = dict[str, str]  # by table: the condition that names the one row


class Stage:
    """Everybody with a row of every table, and the rows of their colleagues."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.team = Team(world)
        team = self.team
        team.owner.rpc(
            "set_workspace_member_role", workspace_id=team.id, user_id=team.reader.id, role="contributor"
        )
        people = {
            "reader": team.reader,
            "contributor": team.author,
            "maintainer": team.maintainer,
            "owner": team.owner,
            "stranger": team.stranger,
        }
        self.rows: dict[tuple[str, str], Rows] = {}
        for name, person in people.items():
            self.rows[name, OWN] = self._furnish(person, f"{name} own", validated=False)
        self.rows["", PENDING] = self._furnish(team.colleague, "colleague pending", validated=False)
        self.rows["", VALIDATED] = self._furnish(team.colleague, "colleague validated", validated=True)
        self.rows["", OTHER] = self._furnish(team.stranger, "stranger validated", validated=True)
        world.superuser(
            "insert into private.embedding_jobs (knowledge_id, last_error)"
            " select id, 'the provider said no' from public.knowledge_items order by id limit 1"
            " on conflict (knowledge_id, for_switch) do update set last_error = excluded.last_error"
        )
        # The reader recorded when still a contributor.
        team.owner.rpc(
            "set_workspace_member_role", workspace_id=team.id, user_id=team.reader.id, role="reader"
        )
        self.people: dict[str, Persona] = {"anon": world.anon(), **people, "service_role": world.service()}

    def row(self, role: str, scope: str, table: str) -> str:
        """The condition on the row of this scope, as seen by this role."""
        if scope in (OWN, "any"):
            name = role if (role, OWN) in self.rows else "contributor"
            rows = self.rows[name, OWN]
        elif scope == OTHER and role == "stranger":
            rows = self.rows["", VALIDATED]
        else:
            rows = self.rows["", PENDING if scope == COLLEAGUES else scope]
        assert table in rows, f"the stage has no row of {table} for the matrix: add one in Stage._furnish"
        return rows[table]

    def _furnish(self, person: Persona, words: str, *, validated: bool) -> Rows:
        """Let somebody make a row of every table, and return how to find each."""
        boss = self.team.stranger if person is self.team.stranger else self.team.maintainer
        me = person.start_session(words)
        items = [me.record(f"{words} {n}", content_embedding=AXIS) for n in (1, 2)]
        [relationship] = me.rpc(
            "relate_knowledge",
            source_knowledge_id=items[0],
            target_knowledge_id=items[1],
            relationship_type="enhances",
        )
        records = {
            "technical_gotchas": me.rpc("record_gotcha", problem_description=f"gotcha {words}"),
            "command_patterns": me.rpc("record_command_run", command=f"command {words}", succeeded=True),
            "interaction_patterns": me.rpc(
                "record_interaction_pattern", pattern_name=f"pattern {words}", situation_type="debugging"
            ),
            "experiential_knowledge": me.rpc(
                "record_insight", insight_title=f"insight {words}", insight_description=f"insight {words}"
            ),
            "decision_evolution": me.rpc(
                "record_decision_stage", decision_topic=f"topic {words}", understanding=f"understood {words}"
            ),
        }
        [test] = me.sql(
            "insert into public.knowledge_validation_tests (test_name, test_scenario, expected_knowledge_ids)"
            " values (%s, %s, %s) returning id",
            words,
            words,
            [items[0]],
        )
        [result] = me.rpc("record_validation_result", test_id=test["id"], pass_status=False)
        me.rpc("add_agent_session_items", conversation=words, items=[{"role": "user", "content": words}])
        # Also what is pending has a history.
        boss.rpc("validate_knowledge", knowledge_id=items[0])
        if validated:
            for [record] in records.values():
                boss.rpc("validate_knowledge", knowledge_id=record["knowledge_id"])
            boss.rpc("validate_knowledge", knowledge_id=items[1], validation_status="needs_update")
        else:
            boss.rpc("validate_knowledge", knowledge_id=items[0], validation_status="pending")
        self.world.superuser(
            "update public.knowledge_items set created_at = now() - interval '1 year' where id = any (%s)",
            items,
        )
        rows = {table: f"knowledge_id = '{row['knowledge_id']}'" for table, [row] in records.items()}
        [duplicate] = me.sql(
            "insert into public.knowledge_duplicates (keep_id, duplicate_id) values (%s, %s) returning id",
            *items,
        )
        # The event that tells the workspace, or only the author, of the item.
        event = "audience = 'members'" if validated else "what = 'created'"
        rows |= {
            "knowledge_duplicates": f"id = '{duplicate['id']}'",
            "knowledge_events": f"subject_id = '{items[0]}' and {event}",
            "agent_session_items": f"conversation = '{words}'",
            "ai_sessions": f"id = '{me.session}'",
            "embedding_models": "name = 'all-MiniLM-L6-v2'",
            "knowledge_items": f"id = '{items[0]}'",
            "knowledge_relationships": f"id = '{relationship['relationship_id']}'",
            "knowledge_status_history": f"knowledge_id = '{items[0]}' and to_status = 'validated'",
            "knowledge_validation_tests": f"id = '{test['id']}'",
            "session_knowledge_links": f"knowledge_id = '{items[0]}' and interaction_type = 'created'",
            "validation_test_results": f"id = '{result['result_id']}'",
            "workspace_members": f"workspace_id = '{person.workspace}' and user_id = '{person.id}'",
            "workspaces": f"id = '{person.workspace}'",
            # Views.
            "decision_overview": rows["decision_evolution"],
            "failed_embeddings": "last_error = 'the provider said no'",
            "failed_validation_tests": f"test_id = '{test['id']}'",
            "knowledge_to_validate": f"knowledge_id = '{items[1]}'",
            "operations_metrics": "metric = 'kp_items'",
            "session_timeline": f"session_id = '{me.session}' and event = 'started'",
            "top_gotchas": rows["technical_gotchas"],
            "unused_knowledge": f"knowledge_id = '{items[1]}'",
        }
        return rows


@pytest.fixture(scope="module")
def database(server: DatabaseServer, template: Database) -> Generator[Database]:
    with server.clone(template) as database:
        yield database


@pytest.fixture(scope="module")
def stage(database: Database) -> Generator[Stage]:
    world = World(database.dsn)
    yield Stage(world)
    world.close()


# -- what happens ----------------------------------------------------------------------------------------------


def tables(world: World) -> dict[str, tuple[str, ...]]:
    """Every table and view of public, with the verbs to try: nothing is written through a view."""
    found = world.superuser(
        "select relname::text as name, relkind = 'v' as is_view from pg_class"
        " where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')"
        " and not relispartition order by 1"
    )
    return {row["name"]: VERBS[:1] if row["is_view"] else VERBS for row in found}


def columns(world: World, table: str) -> list[str]:
    """The columns that can be written at all, what the database counts itself last."""
    found = world.superuser(
        "select attname::text as name from pg_attribute where attrelid = %s::regclass and attnum > 0"
        " and not attisdropped and attgenerated = '' order by attidentity, attnum",
        f"public.{table}",
    )
    return [row["name"] for row in found]


def statement(stage: Stage, role: str, verb: str, table: str, scope: str) -> str:
    """Write what somebody with this role tries on a row of this scope."""
    row = stage.row(role, scope, table)
    if verb == "select":
        return f"select 1 from public.{table} where {row}"
    if verb == "delete":
        return f"delete from public.{table} where {row}"
    if verb == "update":
        column = CHANGED.get(table) or columns(stage.world, table)[0]
        return f"update public.{table} set {column} = {column} where {row}"
    if role == "service_role":
        return copy(stage.world, table, row)
    return insert(stage, role, table, scope) or copy(stage.world, table, row)


def insert(stage: Stage, role: str, table: str, scope: str) -> str | None:
    """Write an honest insert of one's own, or with a colleague's name or another workspace in it."""
    row, team = stage.row(role, scope, table), stage.team
    if table == "knowledge_relationships":
        ends = (
            f"select target_knowledge_id, source_knowledge_id, 'builds_upon' from public.{table} where {row}"
        )
        [values] = stage.world.superuser(ends)
        names = "source_knowledge_id, target_knowledge_id, relationship_type"
    elif table == "knowledge_duplicates":
        [values] = stage.world.superuser(f"select keep_id, duplicate_id from public.{table} where {row}")
        names = "keep_id, duplicate_id"
    elif table == "validation_test_results":
        [values] = stage.world.superuser(f"select test_id, 'true' from public.{table} where {row}")
        names = "test_id, pass_status"
    elif table in INSERTED:
        here, there = team.id, team.strangers_id
        if role == "stranger":
            here, there = there, here
        values = {**INSERTED[table], "workspace_id": there if scope == OTHER else here}
        if table == "knowledge_items" and scope == VALIDATED:
            values["validation_status"] = "validated"
        elif "colleague" in scope:
            values["owner_id"] = team.colleague.id
        names = ", ".join(values)
    else:
        return None
    return f"insert into public.{table} ({names}) values ({', '.join(map(literal, values.values()))})"


def copy(world: World, table: str, row: str) -> str:
    """Write an insert of a second copy of a row: who may insert at all is told that it is there already."""
    names = columns(world, table)
    quoted = ", ".join(f"quote_nullable({name}::text) as {name}" for name in names)
    values = ", ".join(
        world.superuser(f"select {quoted} from public.{table} where {row} limit 1")[0].values()
    )
    return f"insert into public.{table} ({', '.join(names)}) overriding system value values ({values})"


def literal(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def outcome(cursor: psycopg.Cursor[dict[str, Any]], tried: str) -> str:
    """Run a statement for nothing, and say what it did."""
    cursor.execute("savepoint attempt")
    try:
        cursor.execute(tried.encode())
        answer = "yes" if cursor.rowcount else "none"
    except psycopg.Error as error:
        # A copy that is refused for being one got past everything else.
        answer = {"42501": "denied", "23505": "yes"}.get(error.sqlstate or "", str(error.sqlstate))
    cursor.execute("rollback to savepoint attempt")
    return answer


def visible_rows(stage: Stage) -> list[str]:
    """Try every verb on every row as everybody, and write the first matrix."""
    lines: list[str] = []
    found: dict[tuple[str, str, str, str], str] = {}
    cells = [
        (table, verb, scope)
        for table, verbs in tables(stage.world).items()
        for verb in verbs
        for scope in SCOPES.get(table, ITEM_SCOPES)
    ]
    for role, person in stage.people.items():
        tried = {cell: statement(stage, role, cell[1], cell[0], cell[2]) for cell in cells}
        with person.transaction() as cursor:
            for cell, text in tried.items():
                found[(role, *cell)] = outcome(cursor, text)
    for table in tables(stage.world):
        lines += ["", f"### {table}", "", "| | " + " | ".join(ROLES) + " |", "|---" * (len(ROLES) + 1) + "|"]
        for name, verb, scope in cells:
            if name == table:
                answers = [found[role, table, verb, scope] for role in ROLES]
                lines.append(f"| {verb}: {scope} | " + " | ".join(answers) + " |")
    return lines


# -- what is granted -------------------------------------------------------------------------------------------


def grants(world: World) -> list[str]:
    """Write the second matrix."""
    with psycopg.connect(world.dsn("supabase_admin")) as connection:
        return matrix(connection)


# -- the page --------------------------------------------------------------------------------------------------

SECTIONS = {"What happens": visible_rows, "What is granted": lambda stage: grants(stage.world)}


def split(page: str) -> dict[str, list[str]]:
    """Return the lines under each second-level heading."""
    sections: dict[str, list[str]] = defaultdict(list)
    heading = ""
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        sections[heading].append(line)
    return sections


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_says_what_is_so(stage: Stage, heading: str) -> None:
    written = split(PAGE.read_text())
    found = [line for line in SECTIONS[heading](stage) if line.startswith(("|", "###"))]
    if WRITE:
        prose = [line for line in written[heading] if not line.startswith(("|", "###"))]
        while prose and not prose[-1].strip():
            prose.pop()
        table: list[str] = []
        for line in found:
            table += ["", line, ""] if line.startswith("###") else [line]
        written[heading] = [*prose, *table, ""]
        PAGE.write_text("\n".join(line for section in written.values() for line in section).rstrip() + "\n")
        return
    expected = [line for line in written[heading] if line.startswith(("|", "###"))]
    missing = [line for line in expected if line not in found]
    unexpected = [line for line in found if line not in expected]
    assert expected == found, (
        f"{PAGE.name} and the database differ. If the change is meant, review it and write the page anew"
        " (see the head of this file).\nthe page says:\n  "
        + "\n  ".join(missing)
        + "\nthe database says:\n  "
        + "\n  ".join(unexpected)
    )


# -- what must hold whatever the page says ---------------------------------------------------------------------


def test_anon_and_public_are_granted_nothing(stage: Stage) -> None:
    everybody = ["public", "anon"]
    relations = stage.world.superuser(RELATIONS, everybody, everybody)
    functions = stage.world.superuser(FUNCTIONS, everybody, everybody)
    assert [row for row in relations if row["whole"] or row["parts"]] == []
    assert [row for row in functions if row["callers"]] == []
    schemas = stage.world.superuser(
        "select r.role from unnest(array['anon', 'public']) r (role)"
        " where has_schema_privilege(r.role, 'private', 'usage')"
    )
    assert schemas == []


def test_every_table_and_partition_has_row_level_security(stage: Stage) -> None:
    open_tables = stage.world.superuser(
        "select c.oid::regclass::text as name from pg_class c where c.relkind in ('r', 'p')"
        " and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and not c.relrowsecurity"
    )
    assert open_tables == []


def test_a_partition_is_reached_through_its_parent_only(stage: Stage) -> None:
    granted = stage.world.superuser(
        "select c.oid::regclass::text as name from pg_class c, aclexplode(c.relacl) a"
        " where c.relispartition and a.grantee <> c.relowner"
    )
    assert granted == []


def test_every_view_runs_with_the_rights_of_who_looks(stage: Stage) -> None:
    everybody = list(GRANTEES)
    relations = stage.world.superuser(RELATIONS, everybody, everybody)
    assert {row["object"] for row in relations if row["is_open_view"]} == set()


def test_every_function_has_one_signature_and_a_search_path(stage: Stage) -> None:
    found = stage.world.superuser(
        "select format('%s.%s', p.pronamespace::regnamespace, p.proname) as name, count(*) as signatures,"
        " bool_and(exists (select from unnest(p.proconfig) c where c like 'search_path=%')) as is_pinned"
        " from pg_proc p where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)"
        " and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')"
        " group by p.pronamespace, p.proname"
    )
    assert [row["name"] for row in found if row["signatures"] > 1] == [], "the contract has no overloads"
    assert [row["name"] for row in found if not row["is_pinned"]] == []


def test_every_definer_function_says_why(stage: Stage) -> None:
    definers = stage.world.superuser(
        "select p.proname::text as name from pg_proc p"
        " where p.prosecdef and p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)"
    )
    migrations = PAGE.parents[2] / "supabase" / "migrations"
    source = "\n".join(path.read_text() for path in sorted(migrations.glob("*.sql")))
    unexplained = [row["name"] for row in definers if not _explained(source, row["name"])]
    assert unexplained == []


def _explained(source: str, function: str) -> bool:
    """Whether "definer because …" (or "for the same reason") stands in the comment above a function, or in its head."""
    for schema in ("private", "public"):
        before, found, after = source.partition(f"create function {schema}.{function}(")
        if found:
            comment: list[str] = []
            for line in reversed(before.rstrip().splitlines()):
                if not line.startswith("--"):
                    break
                comment.append(line)
            head = after[: after.index("$$")] if "$$" in after else after
            text = "\n".join(comment) + head
            return "definer because" in text or "definer for" in text
    return False
