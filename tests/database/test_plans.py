"""The plans of hot queries, under row-level security and with many rows of other people: nobody reads them all."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from world import World

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from databases import Database, DatabaseServer
    from world import Persona

#: A few thousand rows a table, spread over workspaces and months. Made without triggers: only the plans matter.
SCENE = """
set session_replication_role = replica;
insert into auth.users (id, email)
  select private.uuid_floor('epoch'::timestamptz + make_interval(secs => n)), n || '@example.org'
    from generate_series(1, 60) n;
insert into public.workspaces (id, name) select u.id, 'team' from auth.users u;
insert into public.workspace_members (workspace_id, user_id, role) select u.id, u.id, 'contributor' from auth.users u;
select private.make_session_partition(m) from unnest(array['2026-01', '2026-02', '2026-03']) m;
insert into public.ai_sessions (id, start_time, workspace_id, owner_id, session_identifier, project_context)
  select private.uuid_v7(t.at), t.at, u.id, u.id, 'session ' || n, 'project ' || n % 5
    from auth.users u, generate_series(1, 40) n,
         lateral (select private.month_start('2026-01') + n * interval '2 days' as at) t;
insert into public.knowledge_items (title, content, workspace_id, owner_id, created_in_session, session_position,
    project_context, validation_status, content_hash)
  select 'Item ' || n, 'Content ' || n, s.workspace_id, s.owner_id, s.id, n, s.project_context,
         (array['pending', 'validated'])[1 + n % 2], md5(s.id::text || n)
    from public.ai_sessions s, generate_series(1, 3) n;
insert into public.session_knowledge_links (session_id, knowledge_id, owner_id, interaction_type)
  select k.created_in_session, k.id, k.owner_id, 'created' from public.knowledge_items k;
insert into public.technical_gotchas (workspace_id, owner_id, knowledge_id, problem_signature, problem_description)
  select k.workspace_id, k.owner_id, k.id, 'signature ' || k.id, 'problem' from public.knowledge_items k;
insert into public.command_patterns (workspace_id, owner_id, knowledge_id, command_signature, success_pattern)
  select k.workspace_id, k.owner_id, k.id, 'command ' || k.id, 'command' from public.knowledge_items k;
insert into public.interaction_patterns (workspace_id, owner_id, knowledge_id, pattern_name, situation_type)
  select k.workspace_id, k.owner_id, k.id, 'pattern ' || k.id, 'situation' from public.knowledge_items k;
insert into public.experiential_knowledge (workspace_id, owner_id, knowledge_id, insight_title, insight_description)
  select k.workspace_id, k.owner_id, k.id, 'insight ' || k.id, 'insight' from public.knowledge_items k;
insert into public.decision_evolution (workspace_id, owner_id, knowledge_id, decision_topic)
  select k.workspace_id, k.owner_id, k.id, 'topic ' || k.id from public.knowledge_items k;
insert into public.knowledge_status_history (knowledge_id, change, to_status)
  select k.id, 'status', 'validated' from public.knowledge_items k;
insert into public.knowledge_relationships (workspace_id, owner_id, source_knowledge_id, target_knowledge_id,
    relationship_type)
  select a.workspace_id, a.owner_id, a.id, b.id, 'enhances'
    from public.knowledge_items a
    join public.knowledge_items b
      on b.created_in_session = a.created_in_session and b.session_position = a.session_position + 1;
insert into public.knowledge_validation_tests (workspace_id, owner_id, test_name, test_category, test_scenario)
  select u.id, u.id, 'test ' || n, 'recall', 'scenario' from auth.users u, generate_series(1, 40) n;
insert into public.validation_test_results (workspace_id, owner_id, test_id, pass_status)
  select t.workspace_id, t.owner_id, t.id, n = 1 from public.knowledge_validation_tests t, generate_series(1, 2) n;
reset session_replication_role;
analyze;
"""


@pytest.fixture(scope="module")
def populated(server: DatabaseServer, template: Database) -> Generator[World]:
    with server.clone(template) as database:
        with psycopg.connect(database.dsn("supabase_admin"), autocommit=True) as connection:
            connection.execute(SCENE.encode())
        world = World(database.dsn)
        yield world
        world.close()


@pytest.fixture(scope="module")
def somebody(populated: World) -> Persona:
    [user] = populated.superuser("select id from auth.users order by id offset 7 limit 1")
    return populated.as_user(user["id"], user["id"])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def explain(persona: Persona, query: str, *parameters: object) -> list[dict[str, Any]]:
    """Return the nodes of the plan that this person gets."""
    [answer] = persona.value(f"explain (format json) {query}", *parameters)
    return list(nodes(answer["Plan"]))


def read(plan: list[dict[str, Any]], prefix: str) -> set[str]:
    """Name the tables of this prefix that a plan reads."""
    return {node["Relation Name"] for node in plan if node.get("Relation Name", "").startswith(prefix)}


def scanned_whole(plan: list[dict[str, Any]]) -> set[str]:
    """Name the tables that a plan reads from end to end."""
    return {node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"}


# -- sessions --------------------------------------------------------------------------------------------------


def a_session(populated: World, somebody: Persona, month: str = "2026-02") -> uuid.UUID:
    [row] = populated.superuser(
        "select id from public.ai_sessions where owner_id = %s "
        "and id >= private.uuid_floor(private.month_start(%s)) order by id limit 1",
        somebody.id,
        month,
    )
    return row["id"]


def test_a_lookup_by_id_reads_one_partition(populated: World, somebody: Persona) -> None:
    session = a_session(populated, somebody)
    for query in (
        "select * from public.ai_sessions where id = %s",
        "select * from public.session_timeline where session_id = %s",
    ):
        plan = explain(somebody, query, session)
        assert read(plan, "ai_sessions") == {"ai_sessions_202602"}, query
        assert scanned_whole(plan) == set(), query


def test_a_prepared_lookup_by_id_reads_one_partition(populated: World, somebody: Persona) -> None:
    """Also when the plan was made before the id was known: partitions are left out as it runs."""
    session = a_session(populated, somebody)
    with somebody.transaction() as cursor:
        cursor.execute("set local plan_cache_mode = force_generic_plan")
        cursor.execute("prepare lookup (uuid) as select * from public.ai_sessions where id = $1")
        cursor.execute(f"explain (analyze, costs off, format json) execute lookup ('{session}')")
        [row] = cursor.fetchall()
        [answer] = row["QUERY PLAN"]
        touched = [
            node["Relation Name"]
            for node in nodes(answer["Plan"])
            if node.get("Relation Name", "").startswith("ai_sessions") and node["Actual Loops"] > 0
        ]
        cursor.execute("deallocate lookup")
    assert touched == ["ai_sessions_202602"]


def test_a_month_as_a_range_of_ids_reads_one_partition(somebody: Persona) -> None:
    plan = explain(
        somebody,
        "select * from public.ai_sessions "
        "where id >= private.uuid_floor('2026-02-01Z') and id < private.uuid_floor('2026-03-01Z')",
    )
    assert read(plan, "ai_sessions") == {"ai_sessions_202602"}


def test_a_literal_start_time_reads_one_partition_and_the_default_one(somebody: Persona) -> None:
    plan = explain(
        somebody,
        "select * from public.ai_sessions where start_time >= '2026-02-03Z' and start_time < '2026-02-04Z'",
    )
    assert read(plan, "ai_sessions") == {"ai_sessions_202602", "ai_sessions_default"}


def test_everybodys_sessions_together_read_every_partition(somebody: Persona) -> None:
    """So that the tests above can fail."""
    plan = explain(somebody, "select * from public.ai_sessions")
    assert {"ai_sessions_202601", "ai_sessions_202602", "ai_sessions_202603"} <= read(plan, "ai_sessions")


# -- policies --------------------------------------------------------------------------------------------------

QUERIES = {
    "an item by id": "select * from knowledge_items where id = '{item}'",
    "all that I may see": "select * from knowledge_items",
    "my items": "select * from knowledge_items where owner_id = '{me}'",
    "items of a session": "select * from knowledge_items where created_in_session = '{session}'",
    "items of a project": "select * from knowledge_items where workspace_id = '{me}' and project_context = 'project 1'",
    "items by importance": """
        select * from knowledge_items where workspace_id = '{me}' and knowledge_type = 'factual'
         order by importance_score desc limit 10""",
    "my sessions of a month": """
        select * from ai_sessions
         where owner_id = '{me}'
           and id >= private.uuid_floor('2026-02-01Z') and id < private.uuid_floor('2026-03-01Z')""",
    "links of a session": "select * from session_knowledge_links where session_id = '{session}'",
    "links of an item": "select * from session_knowledge_links where knowledge_id = '{item}'",
    "my links": "select * from session_knowledge_links where owner_id = '{me}'",
    "a gotcha by item": "select * from technical_gotchas where knowledge_id = '{item}'",
    "a gotcha by signature": """
        select * from technical_gotchas where workspace_id = '{me}' and problem_signature = 'x'""",
    "a command by item": "select * from command_patterns where knowledge_id = '{item}'",
    "an interaction pattern by item": "select * from interaction_patterns where knowledge_id = '{item}'",
    "an insight by item": "select * from experiential_knowledge where knowledge_id = '{item}'",
    "a decision by item": "select * from decision_evolution where knowledge_id = '{item}'",
    "relationships of an item": "select * from knowledge_relationships where source_knowledge_id = '{item}'",
    "relationships to an item": "select * from knowledge_relationships where target_knowledge_id = '{item}'",
    "all relationships": "select * from knowledge_relationships",
    "what became of an item": "select * from knowledge_status_history where knowledge_id = '{item}'",
    "my validation tests": "select * from knowledge_validation_tests",
    "results of a test": "select * from validation_test_results where test_id = '{item}'",
    "all results": "select * from validation_test_results",
}


@pytest.mark.parametrize("name", QUERIES)
def test_row_level_security_goes_by_index(populated: World, somebody: Persona, name: str) -> None:
    item = somebody.value("select id from public.knowledge_items where title = 'Item 1' limit 1")
    query = QUERIES[name].format(item=item, me=somebody.id, session=a_session(populated, somebody))
    plan = explain(somebody, query)
    assert any("Index" in node["Node Type"] for node in plan)
    # A handful of rows is read whole, rightly.
    assert scanned_whole(plan) <= {"workspaces", "workspace_members"}, query


def test_a_query_that_no_index_serves_is_noticed(populated: World) -> None:
    """So that the test above can fail: above the policies, everything is everybody's."""
    plan = explain(populated.service(), "select * from public.knowledge_items where title = 'Item 1'")
    assert scanned_whole(plan) == {"knowledge_items"}


def test_every_big_table_has_its_query() -> None:
    """A table that comes to the scene gets a query, too."""
    filled = set(re.findall(r"insert into public\.(\w+)", SCENE)) - {"workspaces", "workspace_members"}
    assert filled == {re.search(r"from (\w+)", query)[1] for query in QUERIES.values()}
