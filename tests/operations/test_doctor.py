"""The doctor: quiet before a healthy deployment, and not before a planted fault."""

# ruff: noqa: ISC004 - a statement and what it leads to; nothing is missing between its lines
from __future__ import annotations

import http.server
import threading
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest

from databases import Database, free_port
from knowledge_persistence.operations.doctor import (
    Severity,
    examine_api,
    examine_database,
    examine_env_file,
)
from knowledge_persistence.operations.keys import generate_secrets
from world import World

# What is done to the database, as its superuser, and what the doctor has to say of it.
FAULTS = {
    "an unknown migration": (
        "insert into supabase_migrations.schema_migrations (version) values ('29990101000000')",
        "29990101000000",
    ),
    "row security off": (
        "alter table public.knowledge_items disable row level security",
        "row-level security is off on knowledge_items",
    ),
    "a grant to strangers": (
        "grant select on public.workspaces to anon",
        "privileges on workspaces (SELECT)",
    ),
    "an old pgvector": (
        "update pg_extension set extversion = '0.8.0' where extname = 'vector'",
        "pgvector 0.8.0",
    ),
    "an index that isn't valid": (
        "update pg_index set indisvalid = false where indexrelid = 'private.embedding_jobs_available_at_idx'::regclass",
        "private.embedding_jobs_available_at_idx is not valid",
    ),
    "a model without an index": (
        "do $$ begin execute (select format('drop index %s', i.indexrelid::regclass) from pg_index i"
        " join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam where a.amname = 'hnsw'"
        " and pg_get_expr(i.indpred, i.indrelid) like '%all-MiniLM-L6-v2%' limit 1); end $$",
        "no index serves the vectors of the model all-MiniLM-L6-v2",
    ),
    "a forgotten vector": (
        "delete from private.embedding_jobs j using public.knowledge_items k"
        " where k.id = j.knowledge_id and k.title = 'Forgotten'",
        "1 items have no vector",
    ),
    "vectors of two models": (
        "update public.knowledge_items set embedding_model = case title when 'One' then 'all-MiniLM-L6-v2'"
        " else 'text-embedding-3-small' end, content_embedding = array_fill(1::real, array["
        " case title when 'One' then 384 else 1536 end])::extensions.vector where title in ('One', 'Two')",
        "vectors of several models",
    ),
    "a text that can't be embedded": (
        "update private.embedding_jobs j set available_at = 'infinity', last_error = 'too long'"
        " from public.knowledge_items k where k.id = j.knowledge_id and k.title = 'Stubborn'",
        "1 texts could not be embedded: too long",
    ),
    "texts that wait": (
        "update private.embedding_jobs j set created_at = now() - interval '1 hour'"
        " from public.knowledge_items k where k.id = j.knowledge_id and k.title = 'Waiting'",
        "waited for their vectors for 60 minutes",
    ),
    "no partition ahead": (
        "do $$ begin execute format('alter table private.ai_sessions_%s rename to gone',"
        " to_char(now() at time zone 'UTC' + interval '1 month', 'YYYYMM')); end $$",
        "next month's sessions have no partition",
    ),
    "a slot that nobody reads": (
        "select pg_create_logical_replication_slot('forgotten_by_doctor_test', 'pgoutput')",
        "slot forgotten_by_doctor_test",
    ),
}


@pytest.fixture
def written(database: Database) -> Database:
    world = World(database.dsn)
    ana = world.sign_up("ana")
    for title in ("Forgotten", "One", "Two", "Stubborn", "Waiting"):
        ana.rpc("record_knowledge", title=title, content=f"{title} content.")
    world.close()
    with psycopg.connect(database.dsn("supabase_admin"), autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "update public.knowledge_items set created_at = now() - interval '1 hour' where title = 'Forgotten'"
        )
    return database


def test_planted_faults_are_found_and_health_is_quiet(written: Database) -> None:
    url = written.dsn("postgres")
    listening = psycopg.connect(written.dsn("authenticator"), autocommit=True)
    with listening, psycopg.connect(written.dsn("supabase_admin"), autocommit=True) as connection:
        # As the worker does for as long as it works.
        listening.execute("listen knowledge_embeddings")
        quiet = examine_database(url)
        assert [f for f in quiet if "(CVE" not in f.message] == []

        listening.close()
        connection.execute("set allow_system_table_mods = on")
        connection.execute("set session_replication_role = replica")
        try:
            for name, (statement, _) in FAULTS.items():
                try:
                    connection.execute(statement.encode())
                except psycopg.Error as error:
                    pytest.fail(f"{name} can't be planted: {error}")
            found = examine_database(url)
        finally:
            connection.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                " where slot_name = 'forgotten_by_doctor_test'"
            )
    messages = "\n".join(finding.message for finding in found)
    missed = {name: says for name, (_, says) in FAULTS.items() if says not in messages}
    assert missed == {}, messages
    assert "no worker is listening" in messages
    assert all(finding.advice for finding in found)


def test_a_database_behind_or_away_is_said_first(blank_database: Database) -> None:
    [behind] = examine_database(blank_database.dsn("postgres"))
    assert (behind.check, behind.severity, behind.advice) == ("migrations", Severity.error, "kp migrate")
    [away] = examine_database(f"postgresql://postgres:x@127.0.0.1:{free_port()}/postgres")
    assert (away.check, away.severity) == ("database", Severity.error)


ENV_FAULTS = {
    "empty": ({"JWT_SECRET": ""}, "JWT_SECRET is empty"),
    "a placeholder": (
        {"DASHBOARD_PASSWORD": "change-me-please"},
        "DASHBOARD_PASSWORD looks like a placeholder",
    ),
    "a password that breaks URLs": ({"POSTGRES_PASSWORD": "p@ss/word"}, "characters that break URLs"),
    "a key of the wrong length": ({"REALTIME_DB_ENC_KEY": "short"}, "is not 16 characters long"),
    "a mistyped key": ({"SUPABASE_SECRET_KEY": "sb_secret_" + "a" * 22 + "_AAAAAAAA"}, "checksum is wrong"),
    "no key set": ({"JWT_JWKS": "{}"}, "JWT_JWKS is no key set"),
    "an overlap that nobody ended": (
        {"JWT_SECRET": "0" * 64},
        "tokens of 1 keys that were rotated away are still accepted",
    ),
    "ports in the open": ({"BIND_ADDRESS": "0.0.0.0"}, "the ports are bound to 0.0.0.0"),  # noqa: S104
}


@pytest.mark.parametrize("fault", ENV_FAULTS)
def test_faults_of_the_env_file_are_found(tmp_path: Path, fault: str) -> None:
    path = tmp_path / ".env"
    path.touch(mode=0o600)
    values = generate_secrets()
    assert examine_env_file(path, values, set(values)) == []
    changed, says = ENV_FAULTS[fault]
    found = examine_env_file(path, {**values, **changed}, set(values))
    assert [says in finding.message for finding in found] == [True]
    path.chmod(0o644)
    [readable] = examine_env_file(path, values, set(values))
    assert "can be read by others" in readable.message


class _Careless(http.server.BaseHTTPRequestHandler):
    """An API that lets everybody read."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def careless() -> Generator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Careless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_open_door_and_a_closed_one_are_found(careless: str) -> None:
    found = examine_api(careless, "sb_publishable_x")
    assert [finding.message for finding in found] == ["/rest/v1/knowledge_items?limit=1 answers 200"] * 2
    [closed] = examine_api(f"http://127.0.0.1:{free_port()}", "sb_publishable_x")
    assert "doesn't answer" in closed.message
