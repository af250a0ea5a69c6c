"""The database that migrations find: what the Supabase image has, on a plain PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from knowledge_persistence.embedded import bootstrap_database
from knowledge_persistence.embedded.postgres import Memory

if TYPE_CHECKING:
    from databases import Database, DatabaseServer

GIB = 1024**3


@pytest.fixture
def fetch(blank_database: Database) -> Any:
    def run(statement: str, *parameters: object, role: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(blank_database.dsn(role), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description is not None else []

    return run


def refused(fetch: Any, statement: str, role: str = "postgres") -> bool:
    try:
        fetch(statement, role=role)
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def test_roles_have_the_images_attributes(fetch: Any) -> None:
    found = {
        row[0]: row[1:]
        for row in fetch(
            """
            select rolname, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolinherit
            from pg_roles
            where rolname in ('postgres', 'anon', 'authenticated', 'service_role', 'authenticator',
              'supabase_admin', 'supabase_auth_admin')
            """
        )
    }
    assert found == {
        #                       login  super  db     role   repl   bypass inherit
        "supabase_admin": (True, True, True, True, True, True, True),
        "postgres": (True, False, True, True, True, True, True),
        "anon": (False, False, False, False, False, False, False),
        "authenticated": (False, False, False, False, False, False, False),
        "service_role": (False, False, False, False, False, True, False),
        "authenticator": (True, False, False, False, False, False, False),
        "supabase_auth_admin": (True, False, False, False, False, False, False),
    }


def test_there_is_one_superuser(fetch: Any) -> None:
    assert fetch("select rolname from pg_roles where rolsuper") == [("supabase_admin",)]


def test_roles_have_the_images_timeouts(fetch: Any) -> None:
    settings = dict(fetch("select rolname, rolconfig from pg_roles where rolconfig is not null"))
    assert settings["anon"] == ["statement_timeout=3s"]
    assert settings["authenticated"] == ["statement_timeout=8s"]
    assert settings["authenticator"] == ["statement_timeout=8s", "lock_timeout=8s"]
    assert settings["postgres"] == ['search_path="$user", public, extensions']


def test_postgres_administers_the_api_roles(fetch: Any) -> None:
    for role in ("anon", "authenticated", "service_role"):
        assert fetch(f"set role {role}; select current_user") is not None
    fetch("alter role anon set statement_timeout = '4s'")
    fetch("alter role anon set statement_timeout = '3s'")
    assert fetch("show session_replication_role", role="authenticator") == [("origin",)]


def test_the_authenticator_is_nobody_until_it_becomes_somebody(fetch: Any) -> None:
    fetch("create table public.things (id int); grant select on public.things to authenticated")
    assert refused(fetch, "select * from public.things", "authenticator")
    with_role = "set role authenticated; select * from public.things"
    fetch(with_role, role="authenticator")
    for role in ("postgres", "supabase_admin", "supabase_auth_admin"):
        assert refused(fetch, f"set role {role}", "authenticator")


@pytest.mark.parametrize(
    "statement",
    [
        "alter system set work_mem = '1GB'",
        "create role evil superuser",
        "alter role postgres superuser",
        "set role supabase_admin",
        "set role supabase_realtime_admin",
        "create table auth.mine (id int)",
        "create table realtime.mine (id int)",
        "create or replace function auth.uid() returns uuid language sql as 'select null::uuid'",
        "copy (select 1) to '/tmp/kp-must-not-be-written'",
        "create event trigger mine on ddl_command_end execute function extensions.pgrst_ddl_watch()",
        "drop event trigger pgrst_ddl_watch",
    ],
)
def test_postgres_is_no_superuser(fetch: Any, statement: str) -> None:
    assert refused(fetch, statement)


@pytest.mark.parametrize("extension", ["vector", "pg_trgm", "btree_gin", "unaccent", "pg_stat_statements"])
def test_extensions_are_there(fetch: Any, extension: str) -> None:
    fetch(f"create extension if not exists {extension} with schema extensions")
    assert fetch(
        "select extnamespace::regnamespace::text from pg_extension where extname = %s", extension
    ) == [("extensions",)]


def test_migrations_may_do_what_they_need(fetch: Any) -> None:
    fetch(
        """
        select '[1]'::extensions.vector;
        create schema private;
        create table public.things (id int primary key, owner uuid references auth.users (id) on delete cascade);
        alter table public.things enable row level security;
        create policy things_own on public.things for select to authenticated using (owner = (select auth.uid()));
        create policy things_channel on realtime.messages for select to authenticated
          using (realtime.topic() = 'things');
        alter publication supabase_realtime add table public.things;
        create function public.nearest() returns int language sql set hnsw.ef_search = 80 as 'select 1';
        """
    )


def test_objects_in_public_start_with_the_images_grants(fetch: Any) -> None:
    fetch(
        "create table public.things (id int); create function public.f() returns int language sql as 'select 1'"
    )
    for role in ("anon", "authenticated", "service_role"):
        assert fetch(
            "select has_table_privilege(%s, 'public.things', 'select, insert, update, delete')", role
        ) == [(True,)]
    acl = fetch("select proacl::text from pg_proc where proname = 'f'")[0][0]
    assert "anon=X/postgres" in acl


def test_public_belongs_to_the_databases_owner(fetch: Any) -> None:
    assert fetch("select pg_get_userbyid(datdba) from pg_database where datname = current_database()") == [
        ("postgres",)
    ]
    assert refused(fetch, "create table public.mine (id int)", "supabase_auth_admin")


def test_a_broadcast_is_stored_with_its_topic(fetch: Any) -> None:
    fetch("""select realtime.send('{"a": 1}', 'made', 'things', true)""")
    topic, event, private, extension, payload = fetch(
        "select topic, event, private, extension, payload from realtime.messages"
    )[0]
    assert (topic, event, private, extension) == ("things", "made", True, "broadcast")
    assert payload["a"] == 1
    assert "id" in payload
    # Today has a partition of its own; nothing is in the default one.
    assert fetch("select count(*) from realtime.messages_default", role="supabase_admin") == [(0,)]


def test_a_failing_broadcast_warns_and_does_not_undo_the_write(blank_database: Database) -> None:
    with psycopg.connect(blank_database.dsn()) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute("create table public.things (id int)")
        connection.execute("grant insert on public.things to authenticated")
        connection.execute("set role authenticated")
        connection.execute("insert into public.things values (1)")
        # No INSERT policy on realtime.messages.
        connection.execute("select realtime.send('{}', 'made', 'things', true)")
        connection.execute("reset role")
        assert connection.execute("select count(*) from public.things").fetchone() == (1,)
        assert connection.execute("select count(*) from realtime.messages").fetchone() == (0,)
    assert [notice for notice in notices if notice.startswith("ErrorSendingBroadcastMessage: ")]


def test_a_rows_change_is_broadcast(fetch: Any) -> None:
    fetch(
        """
        create table public.things (id int, word text);
        create function public.announce() returns trigger language plpgsql security definer as $$
        begin
          perform realtime.broadcast_changes(
            'things:' || new.id, tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
          return null;
        end $$;
        create trigger announce after insert or update on public.things for each row execute function public.announce();
        insert into public.things values (7, 'first');
        update public.things set word = 'second' where id = 7;
        """
    )
    found = fetch("select topic, payload from realtime.messages order by inserted_at, event")
    assert [topic for topic, _ in found] == ["things:7", "things:7"]
    assert found[0][1]["record"] == {"id": 7, "word": "first"}
    assert found[1][1]["old_record"]["word"] == "first"
    assert (found[1][1]["operation"], found[1][1]["schema"], found[1][1]["table"]) == (
        "UPDATE",
        "public",
        "things",
    )


@pytest.mark.parametrize(
    ("statement", "announced"),
    [
        ("create table public.things (id int)", True),
        ("create function public.f() returns int language sql as 'select 1'", True),
        ("create temp table things (id int)", False),
        ("select 1", False),
    ],
)
def test_changes_of_the_schema_are_announced(
    blank_database: Database, statement: str, announced: bool
) -> None:
    with psycopg.connect(blank_database.dsn("authenticator"), autocommit=True) as listener:
        listener.execute("listen pgrst")
        with psycopg.connect(blank_database.dsn(), autocommit=True) as connection:
            connection.execute(statement.encode())
        heard = [
            notify.payload for notify in listener.notifies(timeout=5 if announced else 0.5, stop_after=1)
        ]
    assert heard == (["reload schema"] if announced else [])


def test_drops_are_announced(blank_database: Database) -> None:
    with psycopg.connect(blank_database.dsn(), autocommit=True) as connection:
        connection.execute("create table public.things (id int)")
        with psycopg.connect(blank_database.dsn("authenticator"), autocommit=True) as listener:
            listener.execute("listen pgrst")
            connection.execute("drop table public.things")
            assert [notify.payload for notify in listener.notifies(timeout=5, stop_after=1)] == [
                "reload schema"
            ]


def test_the_bootstrap_may_run_again(server: DatabaseServer, blank_database: Database, fetch: Any) -> None:
    def state() -> list[tuple[Any, ...]]:
        return fetch(
            """
            select 'role', rolname, row_to_json(r)::text from pg_roles r
            union all select 'class', relname, concat(relowner::regrole, relacl::text, relrowsecurity) from pg_class
              where relnamespace in ('auth'::regnamespace, 'realtime'::regnamespace, 'public'::regnamespace)
            union all select 'proc', oid::regprocedure::text, concat(proowner::regrole, proacl::text, prosrc)
              from pg_proc where pronamespace in ('auth'::regnamespace, 'realtime'::regnamespace)
            union all select 'member', concat(roleid::regrole, member::regrole),
              concat(admin_option, inherit_option, set_option) from pg_auth_members
            union all select 'default', concat(defaclrole::regrole, defaclobjtype), defaclacl::text from pg_default_acl
            order by 1, 2, 3
            """
        )

    before = state()
    bootstrap_database(server.cluster, blank_database.name)
    assert state() == before


def test_nothing_is_lost_on_a_power_cut(fetch: Any) -> None:
    # The tests' own server overrides fsync; what a stack's server is told is in the file that each start writes.
    told = dict(
        fetch(
            "select name, setting from pg_file_settings where sourcefile like '%knowledge_persistence.conf'",
            role="supabase_admin",
        )
    )
    assert (told["fsync"], told["full_page_writes"], told["synchronous_commit"]) == ("on", "on", "on")
    assert told["listen_addresses"] == "127.0.0.1"
    assert told["wal_level"] == "logical"
    assert fetch("show data_checksums") == [("on",)]


def test_every_connection_needs_a_password(blank_database: Database) -> None:
    for role in ("supabase_admin", "postgres", "authenticator", "supabase_auth_admin"):
        dsn = blank_database.dsn(role)
        password = dsn.split(":")[2].split("@")[0]
        for attempt in (dsn.replace(password, "wrong"), dsn.replace(f":{password}", "")):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(attempt)


def test_passwords_are_stored_as_scram_verifiers(fetch: Any) -> None:
    found = fetch(
        "select rolname, left(rolpassword, 13) from pg_authid where rolcanlogin", role="supabase_admin"
    )
    assert {prefix for _, prefix in found} == {"SCRAM-SHA-256"}
    assert {name for name, _ in found} == {
        "supabase_admin",
        "postgres",
        "authenticator",
        "supabase_auth_admin",
    }


@pytest.mark.parametrize(
    ("total", "shared_buffers", "work_mem"),
    [
        (1 * GIB, 128 * 1024**2, 4 * 1024**2),
        (16 * GIB, 2 * GIB, 21474836),
        (256 * GIB, 4 * GIB, 64 * 1024**2),
    ],
)
def test_memory_follows_the_machine(total: int, shared_buffers: int, work_mem: int) -> None:
    memory = Memory.for_machine(total)
    assert (memory.shared_buffers, memory.work_mem) == (shared_buffers, work_mem)
    assert memory.effective_cache_size >= 384 * 1024**2
    assert memory.maintenance_work_mem >= 64 * 1024**2
