"""Lessons marked as measured, measured again: what they say PostgreSQL and pgvector do is what they do here.

Each case names the lesson that it bears out. Scenes are played as the superuser in a transaction that is rolled
back, so that roles and settings made in one are gone in the next.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString, cast

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from databases import Database, DatabaseServer

PACK = Path(__file__).resolve().parents[2] / "examples" / "starter-pack.jsonl"
MEASURED = {
    lesson["title"]
    for lesson in map(json.loads, PACK.read_text(encoding="utf-8").splitlines())
    if lesson["context_data"]["evidence"] == "measured"
}


class Stage:
    """One connection in one transaction."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def run(self, statements: str) -> None:
        """Run statements that must succeed."""
        self.connection.execute(cast("LiteralString", statements))

    def rows(self, query: str) -> list[Any]:
        return self.connection.execute(cast("LiteralString", query)).fetchall()

    def value(self, query: str) -> Any:
        [[value]] = self.rows(query)
        return value

    def outcome(self, statement: str) -> str:
        """Return the SQLSTATE that a statement fails with, or the command tag; a failure undoes itself."""
        try:
            with self.connection.transaction():
                return self.connection.execute(cast("LiteralString", statement)).statusmessage or ""
        except psycopg.Error as error:
            return error.sqlstate or type(error).__name__

    def plan(self, query: str) -> str:
        return "\n".join(line for (line,) in self.rows("explain (costs off) " + query))


@pytest.fixture(scope="module")
def theatre(server: DatabaseServer, blank_template: Database) -> Generator[Database]:
    """Lend one database to all scenes: they leave nothing behind."""
    with server.clone(blank_template) as database:
        yield database


@pytest.fixture
def stage(theatre: Database) -> Generator[Stage]:
    with psycopg.connect(theatre.dsn("supabase_admin")) as connection:
        stage = Stage(connection)
        stage.run(
            "create schema play; grant all on schema play to public;"
            "set local search_path = play, extensions, public"
        )
        yield stage
        connection.rollback()


# Lesson, scene, act, what comes of it: a SQLSTATE, or a command tag where the point is that nothing is refused.
ACTS: list[tuple[str, str, dict[str, str]]] = [
    (
        "Row-level security with no policy denies without an error",
        """
        create table t (a int);
        insert into t values (1);
        alter table t enable row level security;
        grant all on t to authenticated;
        set local role authenticated;
        """,
        {
            "select a from t": "SELECT 0",
            "update t set a = 2": "UPDATE 0",
            "insert into t values (2)": "42501",
        },
    ),
    (
        "insert ... returning needs a select policy as well",
        """
        create table t (a int, owner text);
        alter table t enable row level security;
        create policy i on t for insert to authenticated with check (true);
        create policy s on t for select to authenticated using (owner = 'ana');
        grant all on t to authenticated;
        set local role authenticated;
        """,
        {
            "insert into t values (1, 'ben')": "INSERT 0 1",
            "insert into t values (1, 'ben') returning a": "42501",
        },
    ),
    (
        "Without WITH CHECK an update policy reuses its USING expression",
        """
        create table t (a int, owner text);
        insert into t values (1, 'ana');
        alter table t enable row level security;
        create policy s on t for select to authenticated using (true);
        create policy u on t for update to authenticated using (owner = 'ana');
        grant all on t to authenticated;
        set local role authenticated;
        """,
        {
            "update t set owner = 'ben'": "42501",
            "update t set a = 2": "UPDATE 1",
        },
    ),
    (
        "An update that policies filter away reports success with 0 rows",
        """
        create table t (a int, owner text);
        insert into t values (1, 'ana');
        alter table t enable row level security;
        create policy s on t for select to authenticated using (true);
        create policy u on t for update to authenticated using (owner = 'ben');
        grant all on t to authenticated;
        set local role authenticated;
        """,
        {
            "update t set a = 2 where a = 1": "UPDATE 0",
            "delete from t where a = 1": "DELETE 0",
        },
    ),
    (
        "Upserting onto a row you may not see or change raises 42501",
        """
        create table t (a int primary key, owner text);
        insert into t values (1, 'ana');
        alter table t enable row level security;
        create policy s on t for select to authenticated using (owner = 'ben');
        create policy i on t for insert to authenticated with check (owner = 'ben');
        create policy u on t for update to authenticated using (owner = 'ben');
        grant all on t to authenticated;
        set local role authenticated;
        """,
        {
            "insert into t values (1, 'ben') on conflict (a) do update set owner = excluded.owner": "42501",
            "insert into t values (1, 'ben') on conflict (a) do nothing": "INSERT 0 0",
        },
    ),
    (
        "Unique constraints reveal rows that policies hide",
        """
        create table t (a int primary key, owner text);
        insert into t values (1, 'ana');
        alter table t enable row level security;
        create policy s on t for select to authenticated using (owner = 'ben');
        create policy i on t for insert to authenticated with check (owner = 'ben');
        grant all on t to authenticated;
        set local role authenticated;
        """,
        {
            "select a from t": "SELECT 0",
            "insert into t values (1, 'ben')": "23505",
        },
    ),
    (
        "Restrictive policies grant nothing by themselves",
        """
        create table t (a int);
        insert into t values (1), (2);
        alter table t enable row level security;
        create policy r on t as restrictive for select to authenticated using (a = 1);
        grant select on t to authenticated;
        set local role authenticated;
        """,
        {
            "select a from t": "SELECT 0",
        },
    ),
    (
        "42P17 infinite recursion: a policy that reads its own table",
        """
        create table t (a int);
        alter table t enable row level security;
        create policy p on t for select to authenticated using (a in (select a from t));
        grant select on t to authenticated;
        set local role authenticated;
        """,
        {
            "select a from t": "42P17",
        },
    ),
    (
        "BYPASSRLS does not replace GRANT",
        """
        create table t (a int);
        revoke all on t from service_role;
        set local role service_role;
        """,
        {
            "select a from t": "42501",
        },
    ),
    (
        "TRUNCATE and REFERENCES are outside row-level security",
        """
        create table t (a int);
        alter table t enable row level security;
        grant all on t to authenticated;
        set local role authenticated;
        """,
        {
            "delete from t": "DELETE 0",
            "truncate t": "TRUNCATE TABLE",
        },
    ),
    (
        "Selecting from a partition directly ignores the parent's policies",
        """
        create table t (a int) partition by range (a);
        create table t1 partition of t for values from (0) to (10);
        insert into t values (1), (2);
        alter table t enable row level security;
        create policy p on t for select to authenticated using (a = 1);
        grant select on t, t1 to authenticated;
        set local role authenticated;
        """,
        {
            "select a from t": "SELECT 1",
            "select a from t1": "SELECT 2",
        },
    ),
    (
        "Materialized views cannot have row-level security",
        """
        create materialized view v as select 1 as a;
        """,
        {
            "alter materialized view v enable row level security": "42809",
        },
    ),
    (
        "Functions used in a policy need EXECUTE for the querying role",
        """
        create schema hidden;
        create function hidden.ok() returns boolean language sql as 'select true';
        create table t (a int);
        alter table t enable row level security;
        create policy p on t for insert to authenticated with check (hidden.ok());
        create table u (a int);
        alter table u enable row level security;
        create function hidden.no() returns boolean language sql as 'select true';
        create policy p on u for insert to authenticated with check (hidden.no());
        revoke execute on function hidden.no() from public, authenticated;
        grant insert on t, u to authenticated;
        set local role authenticated;
        """,
        {
            "insert into t values (1)": "INSERT 0 1",
            "insert into u values (1)": "42501",
        },
    ),
    (
        "select ... for update returns nothing without an update policy",
        """
        create table t (a int);
        insert into t values (1);
        alter table t enable row level security;
        create policy s on t for select to authenticated using (true);
        grant select, update on t to authenticated;
        set local role authenticated;
        """,
        {
            "select a from t": "SELECT 1",
            "select a from t for update": "SELECT 0",
        },
    ),
    (
        "Column grants make select * fail",
        """
        create table t (a int, b int, c int);
        revoke all on t from authenticated;
        grant select (a, b) on t to authenticated;
        create table u (a int, b int);
        grant select on u to authenticated;
        revoke select (b) on u from authenticated;
        set local role authenticated;
        """,
        {
            "select * from t": "42501",
            "select a from t": "SELECT 0",
            "select count(*) from t": "SELECT 1",
            "select b from u": "SELECT 0",
        },
    ),
    (
        "Revoking EXECUTE from anon changes nothing while PUBLIC has it",
        """
        create function f() returns int language sql as 'select 1';
        grant execute on function f() to public;
        revoke execute on function f() from anon;
        set local role anon;
        """,
        {
            "select f()": "SELECT 1",
        },
    ),
    (
        "SECURITY DEFINER changes current_user but not the request's claims",
        """
        create function f() returns void language plpgsql security definer
          as $$ begin set local role anon; end $$;
        """,
        {
            "select f()": "42501",
        },
    ),
    (
        "current_setting returns an empty string after a local custom setting",
        """
        select set_config('kp.tenant', '', false);
        """,
        {
            "select current_setting('kp.tenant', true)::uuid": "22P02",
            "select nullif(current_setting('kp.tenant', true), '')::uuid": "SELECT 1",
        },
    ),
    (
        "A null caller slips through guards written with <>",
        "",
        {
            "do $$ declare v text; begin if v <> 'a' then raise exception 'no'; end if; end $$": "DO",
            "do $$ declare v text; begin if v is distinct from 'a' then raise exception 'no'; end if; end $$": "P0001",
        },
    ),
    (
        "HNSW indexes end at 2000 dimensions for vector and 4000 for halfvec",
        """
        create table t (v vector(2001), h halfvec(4000), i halfvec(4001));
        """,
        {
            "create index on t using hnsw (v vector_cosine_ops)": "54000",
            "create index on t using hnsw ((v::halfvec(2001)) halfvec_cosine_ops)": "CREATE INDEX",
            "create index on t using hnsw (h halfvec_cosine_ops)": "CREATE INDEX",
            "create index on t using hnsw (i halfvec_cosine_ops)": "54000",
        },
    ),
    (
        "column does not have dimensions: index a cast of an unsized vector",
        """
        create table t (model text, v vector);
        create index on t using hnsw ((v::halfvec(3)) halfvec_cosine_ops) where model = 'm1';
        """,
        {
            "create index on t using hnsw (v vector_cosine_ops)": "22023",
            "insert into t values ('m1', '[1,2]')": "22000",
            "insert into t values ('m2', '[1,2]')": "INSERT 0 1",
        },
    ),
    (
        "different vector dimensions (22000): two models in one column",
        "",
        {
            "select '[1,2]'::vector <=> '[1,2,3]'::vector": "22000",
        },
    ),
    (
        "How much room embeddings take",
        "",
        {
            "select '[65504]'::halfvec": "SELECT 1",
            "select '[70000]'::halfvec": "22003",
        },
    ),
    (
        "generation expression is not immutable: name the text search configuration",
        "",
        {
            "create table a (b text, s tsvector generated always as (to_tsvector(b)) stored)": "42P17",
            "create table b (b text, s tsvector generated always as (to_tsvector('simple', b)) stored)": "CREATE TABLE",
            "create table c (t text[], s text generated always as (array_to_string(t, ' ')) stored)": "42P17",
        },
    ),
    (
        "Build an OR query from plain words",
        "",
        {
            "select to_tsquery('english', 'two words')": "42601",
            "select replace(plainto_tsquery('english', 'two | words & '':*')::text, ' & ', ' | ')::tsquery": "SELECT 1",
        },
    ),
    (
        "string is too long for tsvector: the limit is 1 MB",
        "",
        {
            "select to_tsvector('simple', string_agg(md5(i::text), ' ')) from generate_series(1, 40000) i": "54000",
        },
    ),
    (
        "STABLE functions run in read-only transactions through PostgREST",
        """
        create table t (a int);
        create function f() returns void language plpgsql stable as $$ begin insert into t values (1); end $$;
        """,
        {
            "select f()": "0A000",
        },
    ),
    (
        "cannot update table because it does not have a replica identity (55000)",
        """
        create table t (a int);
        insert into t values (1);
        create publication kp_play for table t;
        """,
        {
            "update t set a = 2": "55000",
            "delete from t": "55000",
            "insert into t values (2)": "INSERT 0 1",
        },
    ),
    (
        "NOTIFY payloads must stay below 8000 bytes",
        "",
        {
            "select pg_notify('kp_play', repeat('x', 7999))": "SELECT 1",
            "select pg_notify('kp_play', repeat('x', 8000))": "22023",
        },
    ),
    (
        "must be owner of table: run all DDL as one role",
        """
        create table t (a int);
        grant all on t to authenticated;
        set local role authenticated;
        """,
        {
            "alter table t add b int": "42501",
        },
    ),
    (
        "CREATE INDEX CONCURRENTLY cannot run inside a transaction",
        """
        create table t (a int);
        """,
        {
            "create index concurrently on t (a)": "25001",
        },
    ),
    (
        "Adding a defaulted parameter creates a second function",
        """
        create function f(a int) returns int language sql as 'select 1';
        """,
        {
            "create or replace function f(a int) returns text language sql as $$ select 'x' $$": "42P13",
            "create or replace function f(b int) returns int language sql as 'select 1'": "42P13",
            "create or replace function f(a int, b int = 1) returns int language sql as 'select 2'": "CREATE FUNCTION",
            "select f(1)": "42725",
        },
    ),
    (
        "create or replace view can only append columns",
        """
        create table t (a int, b int);
        create view v as select a, b from t;
        """,
        {
            "create or replace view v as select b, a from t": "42P16",
            "create or replace view v as select a, b, 1 as c from t": "CREATE VIEW",
            "alter table t drop column a": "2BP01",
            "alter table t alter a type bigint": "0A000",
        },
    ),
    (
        "A function parameter named like a column silently loses in SQL functions",
        """
        create table t (id int);
        insert into t values (1), (2);
        create function f(id int) returns setof t language sql as 'select * from t where id = id';
        create function g(id int) returns setof t language sql as 'select * from t where t.id = g.id';
        create function h(id int) returns setof t language plpgsql
          as $$ begin return query select * from t where id = id; end $$;
        """,
        {
            "select f(1)": "SELECT 2",
            "select g(1)": "SELECT 1",
            "select h(1)": "42702",
        },
    ),
    (
        "A unique key on a partitioned table must contain the partition key",
        """
        create table t (a int, b date, primary key (a, b)) partition by range (b);
        """,
        {
            "create table u (a int unique, b date) partition by range (b)": "0A000",
            "insert into t values (1, '2026-01-01')": "23514",
        },
    ),
    (
        "A foreign key to auth.users needs the REFERENCES privilege",
        """
        create table t (a int primary key);
        revoke all on t from service_role;
        grant select on t to service_role;
        set local role service_role;
        """,
        {
            "create table u (a int references t)": "42501",
        },
    ),
    (
        "on conflict do nothing returns no row for the existing record",
        """
        create table t (a int primary key);
        insert into t values (1);
        """,
        {
            "insert into t values (1) on conflict do nothing returning a": "INSERT 0 0",
            "insert into t values (1) on conflict (a) do update set a = excluded.a returning a": "INSERT 0 1",
        },
    ),
    (
        "ON CONFLICT must repeat the predicate of a partial unique index",
        """
        create table t (a int, live boolean);
        create unique index on t (a) where live;
        """,
        {
            "insert into t values (1, true) on conflict (a) do nothing": "42P10",
            "insert into t values (1, true) on conflict (a) where live do nothing": "INSERT 0 1",
        },
    ),
    (
        "One batch must not upsert the same key twice",
        """
        create table t (a int primary key, b int);
        """,
        {
            "insert into t values (1, 1), (1, 2) on conflict (a) do update set b = excluded.b": "21000",
        },
    ),
    (
        "pg_dump stops at tables with row-level security",
        """
        create table t (a int);
        alter table t enable row level security;
        grant select on t to authenticated;
        set local role authenticated;
        set local row_security = off;
        """,
        {
            "select a from t": "42501",
        },
    ),
    (
        "NOT IN with a null in the list matches nothing",
        "",
        {
            "select where 3 not in (1, null)": "SELECT 0",
        },
    ),
    (
        "Check and unique constraints let nulls through",
        """
        create table t (a int unique check (a > 0));
        create table u (a int unique nulls not distinct);
        insert into u values (null);
        """,
        {
            "insert into t values (null), (null)": "INSERT 0 2",
            "insert into u values (null)": "23505",
        },
    ),
    (
        "PostgreSQL text cannot hold a NUL character",
        "",
        {
            r"""select '{"a": "\u0000"}'::jsonb""": "22P05",
            r"select E'\x00'": "22021",
        },
    ),
    (
        "Index a hash when long texts must be unique",
        """
        create table t (a text unique);
        """,
        {
            "insert into t select string_agg(md5(i::text), '') from generate_series(1, 300) i": "54000",
        },
    ),
    (
        "A BEFORE trigger that returns null drops the row silently",
        """
        create table t (a int);
        create function f() returns trigger language plpgsql as $$ begin return null; end $$;
        create trigger f before insert on t for each row execute function f();
        """,
        {
            "insert into t values (1)": "INSERT 0 0",
        },
    ),
]


@pytest.mark.parametrize(("lesson", "scene", "acts"), ACTS, ids=[lesson for lesson, _, _ in ACTS])
def test_acts_end_as_the_lesson_says(stage: Stage, lesson: str, scene: str, acts: dict[str, str]) -> None:
    assert lesson in MEASURED
    if scene:
        stage.run(scene)
    assert {act: stage.outcome(act) for act in acts} == acts


# Lesson, scene, what queries answer.
ANSWERS: list[tuple[str, str, dict[str, object]]] = [
    (
        "Views bypass row-level security unless security_invoker is set",
        """
        create table t (a int);
        insert into t values (1), (2);
        alter table t enable row level security;
        create policy p on t for select to authenticated using (a = 1);
        create view v as select * from t;
        create view w with (security_invoker = true) as select * from t;
        grant select on t, v, w to authenticated;
        set local role authenticated;
        """,
        {
            "select count(*) from t": 1,
            "select count(*) from v": 2,
            "select count(*) from w": 1,
        },
    ),
    (
        "The table owner is exempt from its own policies until FORCE",
        """
        create role kp_play_owner;
        grant all on schema play to kp_play_owner;
        set local role kp_play_owner;
        create table t (a int);
        create table u (a int);
        insert into t values (1);
        insert into u values (1);
        alter table t enable row level security;
        alter table u enable row level security;
        alter table u force row level security;
        """,
        {
            "select count(*) from t": 1,
            "select count(*) from u": 0,
        },
    ),
    (
        "FORCE ROW LEVEL SECURITY blinds definer helpers owned by the table owner",
        """
        create role kp_play_owner;
        grant all on schema play to kp_play_owner;
        set local role kp_play_owner;
        create table t (a int);
        create table u (a int);
        insert into t values (1);
        insert into u values (1);
        alter table t enable row level security;
        alter table u enable row level security;
        alter table u force row level security;
        create function f() returns bigint language sql security definer as 'select count(*) from play.t';
        create function g() returns bigint language sql security definer as 'select count(*) from play.u';
        set local role authenticated;
        """,
        {
            "select f()": 1,
            "select g()": 0,
        },
    ),
    (
        "Temporary objects can hijack a SECURITY DEFINER function",
        """
        create table t (a text);
        insert into t values ('real');
        create function f() returns text language plpgsql security definer set search_path = play
          as $$ begin return (select a from t); end $$;
        create function g() returns text language plpgsql security definer set search_path = play, pg_temp
          as $$ begin return (select a from t); end $$;
        create function h() returns text language plpgsql security definer set search_path = ''
          as $$ begin return (select a from t); end $$;
        create temp table t (a text);
        insert into pg_temp.t values ('forged');
        """,
        {
            "select f()": "forged",
            "select g()": "real",
            "select h()": "forged",
        },
    ),
    (
        "A policy without TO applies to anon as well",
        """
        create table t (a int);
        insert into t values (1);
        alter table t enable row level security;
        create policy p on t for select using (true);
        grant select on t to anon;
        set local role anon;
        """,
        {
            "select count(*) from t": 1,
        },
    ),
    (
        "Foreign key cascades delete rows the caller cannot see",
        """
        create table t (a int primary key);
        create table u (a int references t on delete cascade);
        insert into t values (1);
        insert into u values (1);
        alter table u enable row level security;
        grant all on t, u to authenticated;
        set local role authenticated;
        delete from t where a = 1;
        reset role;
        """,
        {
            "select count(*) from u": 0,
        },
    ),
    (
        "SET ROLE does not load the new role's settings",
        """
        alter role authenticated set lock_timeout = '123ms';
        set local role authenticated;
        """,
        {
            "select current_setting('lock_timeout') = '123ms'": False,
        },
    ),
    (
        "<#> is the negative inner product",
        "",
        {
            "select '[1,2]'::vector <#> '[3,4]'": -11.0,
            "select '[1,2]'::vector <=> '[-1,-2]'": 2.0,
        },
    ),
    (
        "How much room embeddings take",
        "",
        {
            "select pg_column_size(array_fill(1, array[64])::vector)": 264,
            "select pg_column_size(array_fill(1, array[64])::vector::halfvec)": 136,
        },
    ),
    (
        "plainto_tsquery joins words with AND, so natural questions match nothing",
        "set local default_text_search_config = english",
        {
            "select to_tsvector('dead rows that updates leave') @@ plainto_tsquery('which rows stay')": False,
            "select to_tsvector('dead rows that updates leave') @@ websearch_to_tsquery('which rows stay')": False,
        },
    ),
    (
        "ts_rank does not know rare words from common ones",
        "",
        {
            "select ts_rank('common', 'common | rare') = ts_rank('rare', 'common | rare')": True,
        },
    ),
    (
        "A search for stop words alone is an empty query",
        "",
        {
            "select numnode(plainto_tsquery('english', 'what is it'))": 0,
        },
    ),
    (
        "The text search parser splits snake_case but keeps dotted names whole",
        "",
        {
            "select count(*) from unnest(to_tsvector('simple', 'idle_in_transaction_session_timeout'))": 5,
            "select to_tsvector('simple', 'auth.uid()') @@ to_tsquery('simple', 'uid')": False,
        },
    ),
    (
        "now() stands still inside a transaction",
        """
        select pg_sleep(0.01);
        """,
        {
            "select now() = transaction_timestamp()": True,
            "select clock_timestamp() > now()": True,
        },
    ),
    (
        "Default privileges in a schema cannot take EXECUTE away from PUBLIC",
        """
        alter default privileges in schema play revoke execute on functions from public, anon;
        create function f() returns int language sql as 'select 1';
        """,
        {
            "select has_function_privilege('public', 'f()', 'execute')": True,
        },
    ),
    (
        "Dropping and recreating a function resets its grants",
        """
        create function f() returns int language sql as 'select 1';
        revoke execute on function f() from public;
        create or replace function f() returns int language sql as 'select 2';
        create function g() returns int language sql as 'select 1';
        revoke execute on function g() from public;
        drop function g();
        create function g() returns int language sql as 'select 2';
        """,
        {
            "select has_function_privilege('public', 'f()', 'execute')": False,
            "select has_function_privilege('public', 'g()', 'execute')": True,
        },
    ),
]


@pytest.mark.parametrize(("lesson", "scene", "answers"), ANSWERS, ids=[lesson for lesson, _, _ in ANSWERS])
def test_queries_answer_as_the_lesson_says(
    stage: Stage, lesson: str, scene: str, answers: dict[str, object]
) -> None:
    assert lesson in MEASURED
    if scene:
        stage.run(scene)
    assert {query: stage.value(query) for query in answers} == answers


# Lesson, scene, what stands in the plan of a query (after "not": what doesn't).
PLANS: list[tuple[str, str, dict[str, str]]] = [
    (
        "Wrap auth.uid() in a scalar subselect inside policies",
        """
        create function f() returns text language plpgsql stable as $$ begin return 'ana'; end $$;
        create table t (owner text);
        alter table t enable row level security;
        create policy p on t for select to authenticated using (owner = (select f()));
        create table u (owner text);
        alter table u enable row level security;
        create policy p on u for select to authenticated using (owner = f());
        grant select on t, u to authenticated;
        set local role authenticated;
        """,
        {
            "select * from t": "InitPlan",
            "select * from u": "not InitPlan",
        },
    ),
    (
        "Use = any (array(select ...)) in policies so that an index can serve them",
        """
        create function f() returns setof int language sql stable security definer as 'select 3';
        create table t as select i % 500 as w from generate_series(1, 50000) i;
        create index on t (w);
        analyze t;
        create table u as table t;
        create index on u (w);
        analyze u;
        alter table t enable row level security;
        alter table u enable row level security;
        create policy p on t for select to authenticated using (w = any (array(select f())));
        create policy p on u for select to authenticated using (w in (select f()));
        grant select on t, u to authenticated;
        set local role authenticated;
        """,
        {
            "select * from t": "Index Cond",
            "select * from u": "Seq Scan",
        },
    ),
    (
        "Row-level security disables GIN indexes for @@, && and @>",
        """
        create table t as select array['x' || i] as tags, 1 as w from generate_series(1, 20000) i;
        create index on t using gin (tags);
        analyze t;
        create table u as table t;
        create index on u using gin (tags);
        analyze u;
        alter table u enable row level security;
        create policy p on u for select to authenticated using (w = 1);
        grant select on t, u to authenticated;
        set local role authenticated;
        """,
        {
            "select * from t where tags @> array['x5']": "Bitmap Index Scan",
            "select * from u where tags @> array['x5']": "Seq Scan",
        },
    ),
    (
        "'x' = any(tags) cannot use a GIN index, tags @> array['x'] can",
        """
        create table t as select array['x' || i] as tags from generate_series(1, 20000) i;
        create index on t using gin (tags);
        analyze t;
        """,
        {
            "select * from t where tags @> array['x5']": "Bitmap Index Scan",
            "select * from t where tags && array['x5', 'x6']": "Bitmap Index Scan",
            "select * from t where 'x5' = any (tags)": "Seq Scan",
        },
    ),
    (
        "jsonb filters must use @> to reach a GIN index",
        """
        create table t as select jsonb_build_object('kind', i) as data from generate_series(1, 20000) i;
        create index on t using gin (data jsonb_path_ops);
        analyze t;
        """,
        {
            """select * from t where data @> '{"kind": 5}'""": "Bitmap Index Scan",
            "select * from t where data ->> 'kind' = '5'": "Seq Scan",
        },
    ),
    (
        "A full-text index is used only with the same configuration",
        """
        create table t as select 'word' || i as body from generate_series(1, 20000) i;
        create index on t using gin (to_tsvector('english', body));
        analyze t;
        """,
        {
            "select * from t where to_tsvector('english', body) @@ to_tsquery('word5')": "Bitmap Index Scan",
            "select * from t where to_tsvector('simple', body) @@ to_tsquery('word5')": "Seq Scan",
        },
    ),
]


@pytest.mark.parametrize(("lesson", "scene", "plans"), PLANS, ids=[lesson for lesson, _, _ in PLANS])
def test_plans_are_as_the_lesson_says(stage: Stage, lesson: str, scene: str, plans: dict[str, str]) -> None:
    assert lesson in MEASURED
    stage.run(scene)
    for query, expected in plans.items():
        plan = stage.plan(query)
        if expected.startswith("not "):
            assert expected.removeprefix("not ") not in plan, plan
        else:
            assert expected in plan, plan


ONES = "'[" + ",".join("1" * 16) + "]'"
VECTORS = """
select setseed(0.5);
create table t (a int, w int, e vector(16));
insert into t
  select i, i % 50, x.e
    from generate_series(1, 5000) i
   cross join lateral (select array_agg(random() - 0.5)::vector as e from generate_series(1, 16 + 0 * i)) x;
set local maintenance_work_mem = '64MB';
create index t_e on t using hnsw (e vector_cosine_ops);
analyze t;
set local enable_seqscan = off;
"""
NEAREST = "order by e <=> (select e from t where a = 1)"


def test_vector_index_filters_late_and_has_its_limits(stage: Stage) -> None:
    late, cap, few = (
        "Filtered vector search returns too few rows: turn on hnsw.iterative_scan",
        "hnsw.ef_search caps how many rows an index scan can return",
        "Iterative scans stop at hnsw.max_scan_tuples",
    )
    assert {late, cap, few} <= MEASURED
    stage.run(VECTORS)

    def found(where: str, limit: int) -> int:
        query = f"select a from t {where} {NEAREST} limit {limit}"
        assert "t_e" in stage.plan(query)
        return len(stage.rows(query))

    assert found("", 100) == 40
    assert found("where w = 7", 20) < 20
    stage.run("set local hnsw.iterative_scan = strict_order")
    assert found("where w = 7", 20) == 20
    stage.run("set local hnsw.max_scan_tuples = 200")
    assert found("where w = 7", 20) < 20
    stage.run("reset hnsw.iterative_scan; set local hnsw.ef_search = 100")
    assert found("", 100) == 100


def test_vector_index_serves_few_forms_of_order_by(stage: Stage) -> None:
    forms, expression = (
        "Which ORDER BY forms can use a vector index",
        "A query must repeat the indexed expression to use a halfvec index",
    )
    assert {forms, expression} <= MEASURED
    stage.run(VECTORS + "set local enable_seqscan = on")
    assert "t_e" in stage.plan(f"select a from t order by e <=> {ONES} limit 5")
    for other in (
        f"order by e <-> {ONES} limit 5",
        f"order by 1 - (e <=> {ONES}) desc limit 5",
        f"order by e <=> {ONES} desc limit 5",
        f"order by e <=> {ONES}",
        f"where e <=> {ONES} < 0.3",
    ):
        assert "t_e" not in stage.plan(f"select a from t {other}"), other
    stage.run("drop index t_e; create index t_h on t using hnsw ((e::halfvec(16)) halfvec_cosine_ops)")
    assert "t_h" in stage.plan(f"select a from t order by e::halfvec(16) <=> {ONES} limit 5")
    assert "t_h" not in stage.plan(f"select a from t order by e <=> {ONES} limit 5")


def test_zero_vectors_and_nulls_are_not_in_a_cosine_index(stage: Stage) -> None:
    assert "Zero vectors and nulls are missing from a cosine index" in MEASURED
    stage.run(
        "create table t (a int, e vector(2)); insert into t values (1, '[1,0]'), (2, '[0,0]'), (3, null);"
        "create index t_e on t using hnsw (e vector_cosine_ops); set local enable_seqscan = off"
    )
    query = "select a from t order by e <=> '[1,1]' limit 10"
    assert "t_e" in stage.plan(query)
    assert stage.rows(query) == [(1,)]
    stage.run("set local enable_indexscan = off")
    assert len(stage.rows(query)) == 3


def test_partial_vector_index_needs_a_custom_plan(stage: Stage) -> None:
    assert "Partial vector indexes need a plan that knows the value" in MEASURED
    stage.run(VECTORS)
    stage.run(
        f"""
        alter table t add model text;
        update t set model = 'm' || a % 2;
        drop index t_e;
        create index t_m on t using hnsw (e vector_cosine_ops) where model = 'm1';
        analyze t;
        prepare nearest (text) as select a from t where model = $1 order by e <=> {ONES} limit 5;
        """
    )
    assert "t_m" in stage.plan("execute nearest('m1')")
    stage.run("set local plan_cache_mode = force_generic_plan")
    assert "t_m" not in stage.plan("execute nearest('m1')")
    stage.run("deallocate nearest")


@pytest.mark.parametrize(
    ("lesson", "change", "rewritten"),
    [
        ("Which column defaults rewrite the table", "add b int default 5", False),
        ("Which column defaults rewrite the table", "add b timestamptz default now()", False),
        ("Which column defaults rewrite the table", "add b uuid default gen_random_uuid()", True),
        ("Widening varchar is free, int to bigint rewrites", "alter v type varchar(50)", False),
        ("Widening varchar is free, int to bigint rewrites", "alter v type text", False),
        ("Widening varchar is free, int to bigint rewrites", "alter v type varchar(5)", True),
        ("Widening varchar is free, int to bigint rewrites", "alter a type bigint", True),
    ],
)
def test_which_changes_rewrite_a_table(stage: Stage, lesson: str, change: str, rewritten: bool) -> None:
    assert lesson in MEASURED
    stage.run("create table t (a int, v varchar(10)); insert into t values (1, 'x')")
    before = stage.value("select pg_relation_filenode('t')")
    stage.run(f"alter table t {change}")
    assert (stage.value("select pg_relation_filenode('t')") != before) is rewritten


def test_new_enum_value_waits_for_the_commit(stage: Stage) -> None:
    assert "A new enum value cannot be used in the transaction that adds it" in MEASURED
    stage.run("create type public.kp_mood as enum ('calm')")
    stage.connection.commit()
    try:
        stage.run("alter type public.kp_mood add value 'glad'")
        assert stage.outcome("select 'glad'::public.kp_mood") == "55P04"
        stage.connection.rollback()
    finally:
        stage.run("drop schema play; drop type public.kp_mood")
        stage.connection.commit()
