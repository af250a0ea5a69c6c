"""The plans of hot queries, under row-level security and with many rows of other people: nobody reads them all."""

from __future__ import annotations

import random
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


# -- retrieval -------------------------------------------------------------------------------------------------

#: Three workspaces of 10, 1,000 and 50,000 items around which searches are made. A tenth is pending and nobody's
#: whom the tests ask as. Vectors are short, so that there can be many; everything is made without triggers.
LIBRARY = """
select public.register_embedding_model('short', 32);
select setseed(0.5);
set session_replication_role = replica;
insert into auth.users (id, email) values (gen_random_uuid(), 'reader@example.org');
insert into public.workspaces (name, embedding_model)
  select s, 'short' from unnest(array['ten', 'thousand', 'crowd']) s;
insert into public.workspace_members (workspace_id, user_id, role)
  select w.id, u.id, 'contributor' from public.workspaces w, auth.users u;
insert into public.knowledge_items (title, content, workspace_id, validation_status, content_hash, retrieval_triggers,
    content_embedding, embedding_model)
  select 'Item ' || n, 'common word' || n % 1000, w.id, case n % 10 when 0 then 'pending' else 'validated' end,
         md5(w.id::text || n), array['code' || n],
         array(select random() - 0.5 from generate_series(1, 32) where n > 0)::extensions.vector, 'short'
    from public.workspaces w,
         generate_series(1, case w.name when 'ten' then 10 when 'thousand' then 1000 else 50000 end) n;
drop index private.{index};
insert into private.item_vectors (knowledge_id, workspace_id, embedding_model, embedding)
  select k.id, k.workspace_id, k.embedding_model, k.content_embedding::extensions.halfvec from public.knowledge_items k;
set maintenance_work_mem = '128MB';
{definition};
insert into private.search_documents (knowledge_id, workspace_id, is_shared, is_live, config, triggers, document,
    document_length)
  select k.id, k.workspace_id, k.validation_status = 'validated', true, 'english', k.retrieval_triggers,
         to_tsvector('english', k.title || ' ' || k.content), 4
    from public.knowledge_items k;
insert into private.large_workspaces select w.id from public.workspaces w where w.name = 'crowd';
reset session_replication_role;
analyze public.knowledge_items, private.item_vectors, private.search_documents;
"""
VECTOR_INDEX = """
select c.relname, pg_get_indexdef(c.oid) from pg_index i join pg_class c on c.oid = i.indexrelid
 where i.indrelid = 'private.item_vectors'::regclass and pg_get_indexdef(c.oid) like '%halfvec(32)%'
"""


@pytest.fixture(scope="module")
def library(server: DatabaseServer, template: Database) -> Generator[World]:
    with server.clone(template) as database:
        with psycopg.connect(database.dsn("supabase_admin"), autocommit=True) as connection:
            first, *rest = [part for part in LIBRARY.split(";\n") if part.strip()]
            connection.execute(first.encode())
            [(index, definition)] = connection.execute(VECTOR_INDEX).fetchall()
            for part in rest:
                connection.execute(part.format(index=index, definition=definition).encode())
        world = World(database.dsn)
        yield world
        world.close()


def reader(library: World, workspace: str) -> Persona:
    [user] = library.superuser("select id from auth.users")
    [row] = library.superuser("select id from public.workspaces where name = %s", workspace)
    return library.as_user(user["id"], row["id"])


def used(persona: Persona, query: str, *parameters: object) -> tuple[set[str], set[str]]:
    """Name the big tables that a query reads from end to end, and the indexes that it uses."""
    with persona.transaction() as cursor:
        cursor.execute(query, parameters)
        assert cursor.fetchall()
        cursor.execute(
            "select c.relname, c.relkind = 'i' as is_index from pg_class c"
            " where c.relkind in ('r', 'i') and pg_stat_get_xact_numscans(c.oid) > 0"
            " and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)"
        )
        rows = cursor.fetchall()
    big = {"knowledge_items", "item_vectors", "search_documents"}
    return (
        {row["relname"] for row in rows if not row["is_index"]} & big,
        {row["relname"] for row in rows if row["is_index"]},
    )


def random_vector(seed: int) -> str:
    generator = random.Random(seed)  # noqa: S311
    return str([generator.uniform(-1, 1) for _ in range(32)])


@pytest.mark.parametrize("workspace", ["ten", "thousand", "crowd"])
def test_each_arm_goes_by_its_index(library: World, workspace: str) -> None:
    [(index, _)] = [tuple(row.values()) for row in library.superuser(VECTOR_INDEX.replace("%", "%%"))]
    persona = reader(library, workspace)
    scanned, indexes = used(persona, "select * from public.search_knowledge(query_text => 'what is word7?')")
    assert scanned == set(), "words"
    assert {"search_documents_terms_idx", "search_documents_triggers_idx"} <= indexes
    # What was nominated is looked up by its id, never by reading off a whole workspace.
    assert {name for name in indexes if name.startswith("knowledge_items")} == {"knowledge_items_pkey"}
    scanned, indexes = used(
        persona,
        "select * from public.find_similar_knowledge(%s::extensions.vector, similarity_threshold => -1)",
        random_vector(1),
    )
    # Comparing all of a workspace that is nearly the whole table may read the table; a small one never does.
    assert scanned == set(), "meaning"
    assert (index in indexes) == (workspace == "crowd")
    assert ("item_vectors_workspace_id_idx" in indexes) == (workspace != "crowd")


def test_a_scan_from_end_to_end_is_noticed(library: World) -> None:
    """So that the test above can fail."""
    scanned, _ = used(
        library.service(), "select count(*) from public.knowledge_items where content like '%%7'"
    )
    assert scanned == {"knowledge_items"}


@pytest.mark.parametrize(("workspace", "least"), [("ten", 1.0), ("thousand", 0.99), ("crowd", 0.95)])
def test_under_row_security_the_nearest_are_found(library: World, workspace: str, least: float) -> None:
    persona = reader(library, workspace)
    found = wanted = 0
    # Half precision may swap the tenth and the eleventh.
    for seed in range(20):
        query = random_vector(seed)
        exact = persona.sql(
            "select id from public.knowledge_items where workspace_id = %s"
            " order by content_embedding operator(extensions.<=>) %s::extensions.vector limit 10",
            persona.workspace,
            query,
        )
        ours = persona.sql(
            "select id from public.find_similar_knowledge(%s::extensions.vector, similarity_threshold => -1)",
            query,
        )
        assert len(ours) == len(exact)
        wanted += len(exact)
        found += len({row["id"] for row in exact} & {row["id"] for row in ours})
    assert wanted == 20 * (9 if workspace == "ten" else 10)
    assert found >= least * wanted
