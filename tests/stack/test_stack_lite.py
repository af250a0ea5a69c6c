"""The two holes of Supabase Lite, proven harmless: with Lite as it comes, and behind the front.

Lite never switches roles while no table has row-level security, and grants all privileges on every table of a schema
in which some table has it. A new version of Lite has to pass these tests.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from databases import free_port
from knowledge_persistence.embedded import create_database, node
from knowledge_persistence.embedded.front import DatabaseAddress, Front
from stacks import request

if TYPE_CHECKING:
    from collections.abc import Generator

    from stacks import RunningStack

LITE_LOGIN = "supabase_auth_admin"


class Vault:
    """A database with two tables that nobody but their owner has privileges on."""

    def __init__(self, stack: RunningStack, name: str) -> None:
        self.stack = stack
        self.name = name
        self.cluster = stack.stack.home.cluster(stack.config)

    def sql(self, statement: str, role: str = "postgres") -> list[tuple[Any, ...]]:
        url = f"{self.stack.config.database_url(role).rsplit('/', 1)[0]}/{self.name}"
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def superuser(self, statement: str) -> None:
        with self.cluster.connect(self.name) as connection:
            connection.execute(statement.encode())

    def privileges(self) -> list[tuple[Any, ...]]:
        return self.sql(
            """
            -- A refused GRANT may still write the default privileges out.
            select n.nspname, c.relname,
              coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))::text,
              n.nspacl::text
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.relkind in ('r', 'p', 'S', 'v') and n.nspname in ('public', 'auth', 'realtime', 'private')
            union all
            select coalesce(d.defaclnamespace::regnamespace::text, ''), d.defaclrole::regrole::text,
              d.defaclacl::text, d.defaclobjtype::text
            from pg_default_acl d
            -- Lite sets defaults for tables that its login will make in public: it may make none.
            where d.defaclrole is distinct from 'supabase_auth_admin'::regrole
            order by 1, 2, 3, 4
            """
        )

    def ask_plain_lite(self, *requests: tuple[str, dict[str, str]]) -> list[Any]:
        """Send requests to an unmodified Lite, connected with the front's login."""
        runtime = node.install_front()
        script = runtime.script.with_name("plain_lite.mjs")
        shutil.copyfile(Path(__file__).with_name("plain_lite.mjs"), script)
        config = self.stack.config
        told = {
            "database": {
                "host": str(self.cluster.socket_directory),
                "port": self.cluster.port,
                "database": self.name,
                "username": LITE_LOGIN,
                "password": config.passwords[LITE_LOGIN],
            },
            "keys": {
                "jwt": config.jwt_secret,
                "publishable": config.publishable_key,
                "secret": config.secret_key,
            },
            "requests": [{"path": path, "headers": headers} for path, headers in requests],
        }
        answer = subprocess.run(
            [str(runtime.node), str(script)],
            input=json.dumps(told),
            capture_output=True,
            text=True,
            check=True,
            env=runtime.environment(),
            timeout=60,
        )
        return json.loads(answer.stdout)


@pytest.fixture
def vault(stack: RunningStack) -> Generator[Vault]:
    vault = Vault(stack, "vault")
    create_database(vault.cluster, vault.name, stack.config)
    vault.sql(
        """
        create table public.secrets (word text primary key);
        create table public.guarded_secrets (word text primary key);
        revoke all on public.secrets, public.guarded_secrets from anon, authenticated, service_role;
        insert into public.secrets values ('sesame');
        insert into public.guarded_secrets values ('sesame');
        """
    )
    yield vault
    with vault.cluster.connect() as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(vault.name)))


def test_the_first_request_is_not_the_superusers_when_no_table_of_ours_has_row_level_security(
    vault: Vault,
) -> None:
    assert vault.sql(
        "select count(*) from pg_class where relrowsecurity and relnamespace = 'public'::regnamespace"
    ) == [(0,)]
    for answer in vault.ask_plain_lite(*[("/rest/v1/secrets", vault.stack.anon)] * 2):
        assert answer["status"] == 401, answer
        assert "sesame" not in answer["body"]


def test_its_grants_change_nothing(vault: Vault) -> None:
    vault.sql("alter table public.guarded_secrets enable row level security")
    before = vault.privileges()
    answers = vault.ask_plain_lite(
        ("/rest/v1/guarded_secrets", vault.stack.anon),
        ("/rest/v1/secrets", vault.stack.anon),
        ("/rest/v1/secrets", vault.stack.me),
        ("/rest/v1/secrets", vault.stack.service),
    )
    assert all("sesame" not in answer["body"] for answer in answers)
    assert {answer["status"] for answer in answers} <= {401, 403, 500}
    assert vault.privileges() == before


@pytest.mark.parametrize(
    "statement",
    [
        "grant all on all tables in schema public to anon",
        "grant all on public.secrets to anon, authenticated, service_role",
        "grant usage on schema private_things to anon",
        "grant supabase_admin to anon",
        "grant pg_read_all_data to anon",
        "alter role anon bypassrls",
        "alter role supabase_auth_admin superuser",
        "set role postgres",
        "set role supabase_admin",
        "create table public.mine (id int)",
        "create schema mine",
        "create role mine",
        "alter table public.guarded_secrets disable row level security",
        "create policy open on public.guarded_secrets using (true)",
        "insert into public.secrets values ('x')",
        "create or replace function auth.uid() returns uuid language sql as 'select null::uuid'",
    ],
)
def test_its_login_may_not(vault: Vault, statement: str) -> None:
    vault.sql("create schema private_things; alter table public.guarded_secrets enable row level security")
    before = vault.privileges()
    try:
        vault.sql(statement, LITE_LOGIN)
        refused = False
    except psycopg.errors.InsufficientPrivilege:
        refused = True
    # A grant without the right to grant can be a mere warning; it must change nothing.
    assert refused or vault.privileges() == before
    if not statement.startswith("grant"):
        assert refused


def test_its_login_does_not_see_past_row_level_security(vault: Vault) -> None:
    vault.sql("alter table public.guarded_secrets enable row level security")
    assert vault.sql("select word from public.guarded_secrets", LITE_LOGIN) == []


def test_the_front_switches_roles_even_where_nothing_has_row_level_security(vault: Vault) -> None:
    vault.superuser("alter table realtime.messages disable row level security")
    assert vault.sql("select count(*) from pg_class where relrowsecurity") == [(0,)]
    before = vault.privileges()
    port = free_port()
    front = Front(
        node.install_front(),
        vault.stack.config,
        mode="serve",
        database=DatabaseAddress(str(vault.cluster.socket_directory), vault.cluster.port, vault.name),
        options={"port": port},
    )
    with front:
        front.wait_for("prepared", timeout=30)
        front.command("listen")
        front.wait_for("listening", timeout=10)
        url = f"http://127.0.0.1:{port}/rest/v1/secrets"
        for headers in (vault.stack.anon, vault.stack.me, vault.stack.service):
            answer = request(url, headers=headers)
            assert answer.status in {401, 403}
            assert b"sesame" not in answer.body
    assert vault.privileges() == before


def test_auth_functions_read_all_claims_after_a_start_of_lite(stack: RunningStack) -> None:
    claims = json.dumps({"sub": stack.credential.user_id, "role": "authenticated", "email": "a@b.test"})
    with psycopg.connect(stack.config.database_url("postgres")) as connection:
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        row = connection.execute(
            "select auth.uid()::text, auth.role(), auth.email(), auth.jwt() ->> 'sub'"
        ).fetchone()
    assert row == (stack.credential.user_id, "authenticated", "a@b.test", stack.credential.user_id)


def test_nothing_of_auth_is_open_to_the_api_roles(stack: RunningStack) -> None:
    found = stack.sql(
        """
        select r.role, c.relname, p.privilege
        from pg_class c
        cross join unnest(array['anon', 'authenticated', 'service_role']) as r(role)
        cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate']) as p(privilege)
        where c.relnamespace = 'auth'::regnamespace and c.relkind in ('r', 'p', 'v')
          and has_table_privilege(r.role, c.oid, p.privilege)
        """
    )
    assert found == []
    assert (
        stack.sql("select relname from pg_class where relnamespace = 'auth'::regnamespace and relrowsecurity")
        == []
    )
