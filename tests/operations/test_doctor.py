"""The doctor: quiet before a healthy deployment, and not before a planted fault.

Before a whole stack that is healthy it is quiet in test_rotation.py, where there is one.
"""

# ruff: noqa: ISC004 - a statement and what it leads to; nothing is missing between its lines
from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from websockets.sync.server import ServerConnection, serve

from databases import Database, free_port
from knowledge_persistence.operations import doctor
from knowledge_persistence.operations.deployment import host_of, superuser_url
from knowledge_persistence.operations.doctor import (
    Severity,
    examine_api,
    examine_database,
    examine_disk,
    examine_edge,
    examine_env_file,
    examine_home,
    examine_realtime,
    examine_versions,
)
from knowledge_persistence.operations.keys import generate_secrets
from world import World

# What is done to the database, as its superuser, and what the doctor has to say of it.
FAULTS = {
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
    "a grant that the matrix lacks": (
        "grant delete on public.workspaces to authenticated",
        "public.workspaces, authenticated: delete",
    ),
    "a grant that is missing": (
        "revoke execute on function public.search_knowledge from authenticated",
        "public.search_knowledge, callers: service_role as its caller; it should be: authenticated, service_role",
    ),
    "a function that anybody may call": (
        "create function private.planted() returns int language sql as 'select 1'",
        "private.planted, callers: public",
    ),
    "a table of dead rows": (
        "create table private.planted_rows (id int) with (autovacuum_enabled = false);"
        " alter table private.planted_rows enable row level security;"
        " insert into private.planted_rows select generate_series(1, 10100); delete from private.planted_rows;"
        " select pg_stat_force_next_flush()",
        "private.planted_rows has 10100 dead rows",
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
            # By itself: what another version grants is its own affair, and not compared.
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version) values ('29990101000000')"
            )
            newer = examine_database(url)
        finally:
            connection.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                " where slot_name = 'forgotten_by_doctor_test'"
            )
    messages = "\n".join(finding.message for finding in found)
    missed = {name: says for name, (_, says) in FAULTS.items() if says not in messages}
    assert missed == {}, messages
    assert "29990101000000" in "\n".join(finding.message for finding in newer)
    assert not any("should be" in finding.message for finding in newer)
    assert "no worker is listening" in messages
    assert all(finding.advice for finding in found)


def test_a_database_without_pgvector_is_said_first(database: Database) -> None:
    with psycopg.connect(database.dsn("supabase_admin"), autocommit=True) as connection:
        connection.execute("drop extension vector cascade")
    [missing] = examine_database(database.dsn("postgres"))
    assert (missing.check, missing.severity) == ("pgvector", Severity.error)
    assert "not installed" in missing.message


def test_a_queue_that_fills_up_is_found(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody listens, leaves a transaction open, and lets what others say pile up."""
    # The queue takes gigabytes; two megabytes of it are filled here.
    monkeypatch.setattr(doctor, "_NOTIFY_SHARE", 0.0001)
    with (
        psycopg.connect(database.dsn("postgres"), application_name="sleeper") as sleeper,
        psycopg.connect(database.dsn("postgres"), autocommit=True) as talker,
    ):
        sleeper.execute("listen planted")
        sleeper.commit()
        sleeper.execute("select 1")
        talker.execute("select pg_notify('planted', repeat('x', 7000) || n) from generate_series(1, 300) n")
        [full] = [f for f in examine_database(database.dsn("postgres")) if f.check == "notifications"]
    assert full.severity is Severity.warning
    assert "sleeper" in full.advice


def test_a_clock_that_is_off_is_found(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() - 300)
    [clock] = [f for f in examine_database(database.dsn("postgres")) if f.check == "clock"]
    assert (clock.severity, "300 s off" in clock.message or "299 s off" in clock.message) == (
        Severity.error,
        True,
    )


def test_a_disk_that_is_nearly_full_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, severity in ((100 * 1024**3, None), (2 * 1024**3, Severity.warning), (1024**2, Severity.error)):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert [finding.severity for finding in examine_disk(tmp_path)] == ([severity] if severity else [])


def test_secrets_that_others_can_read_are_found(tmp_path: Path) -> None:
    for name in ("stack.json", "credentials.json"):
        (tmp_path / name).touch(mode=0o600)
    assert examine_home(tmp_path) == []
    (tmp_path / "credentials.json").chmod(0o640)
    [readable] = examine_home(tmp_path)
    assert "mode 640" in readable.message


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


@pytest.mark.parametrize(
    ("bound", "host"),
    [(None, "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("10.0.0.5", "10.0.0.5")],  # noqa: S104
)
def test_a_deployment_is_asked_where_it_listens(tmp_path: Path, bound: str | None, host: str) -> None:
    values = generate_secrets() | ({} if bound is None else {"BIND_ADDRESS": bound})
    path = tmp_path / ".env"
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    assert host_of(values) == host
    assert f"@{host}:" in superuser_url(path)


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
    """An API that lets everybody read, of another version, whose edge is ill and whose realtime is none."""

    def do_GET(self) -> None:
        ill = self.path.startswith("/functions/v1")
        self.send_response(500 if ill else 200)
        self.end_headers()
        self.wfile.write(b"out of memory" if ill else b'{"version": "v1.2.3"}')

    def log_message(self, *_: object) -> None:
        pass

    def version_string(self) -> str:
        return "postgrest/9.0"


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


def test_services_that_are_ill_or_of_another_version_are_found(careless: str) -> None:
    [mute] = examine_realtime(careless, "sb_publishable_x")
    assert (mute.check, mute.severity) == ("realtime", Severity.error)
    [edge] = examine_edge(careless, "sb_publishable_x")
    assert "out of memory" in edge.message
    wanted = {"auth": "v2.0.0", "rest": "v14.17", "knowledge-persistence": "0.1"}
    told = [finding.message for finding in examine_versions(careless, "sb_publishable_x", wanted)]
    assert told == [
        "auth runs version v1.2.3, and v2.0.0 is installed",
        "rest runs version 9.0, and v14.17 is installed",
        "knowledge-persistence runs version v1.2.3, and 0.1 is installed",
    ]
    assert examine_versions(careless, "sb_publishable_x", {"auth": "1.2.3", "rest": "v9.0"}) == []


def test_a_channel_that_never_echoes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its websocket opens, and nothing is ever said."""
    monkeypatch.setattr(doctor, "_ECHO_SECONDS", 0.5)

    def silent(websocket: ServerConnection) -> None:
        for _ in websocket:
            pass

    with serve(silent, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        port = server.socket.getsockname()[1]
        [mute] = examine_realtime(f"http://127.0.0.1:{port}", "sb_publishable_x")
        server.shutdown()
        thread.join()
    assert "the join isn't answered" in mute.message
