"""`kp migrate` against the real thing: what the official CLI makes of the same files."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from catalog import describe
from databases import DatabaseServer, short_directory
from knowledge_persistence.errors import MigrationError, TransportError
from knowledge_persistence.migrations import apply_migrations, migration_status, split_statements
from knowledge_persistence.resources import migrations_dir
from node_tools import run_node_tool
from world import World

if TYPE_CHECKING:
    import subprocess

    from databases import Database

# Everything that a splitter gets wrong.
NASTY = r"""-- header; with semicolon and 'quote
/* block ; /* nested ; */ still ; */
create schema s; ;;
create table s.t (a text default 'x;y''z;', "b;c" int, d text default E'it\'s;');
create function s.f() returns text language plpgsql as $body$ begin return 'a;$$;b'; end $body$;
create function s.g() returns int language sql
begin atomic select 1; select case when true then 2 else 3 end; end;
create function s.h(x int) returns int language sql BEGIN  ATOMIC
  -- end; of
  select 1; /* end */
  select x;
END ; -- trailing of h
create rule r as on update to s.t do also (delete from s.t where a = ';'; delete from s.t where a = 'q');
do $$ begin perform 1; end $$;
select E'a\\'
  'b\';c';
select 'a' -- x
 ;
comment on table s.t is 'naïve ünïcode; 😀';
select 1 as a$b$c; select 'x' as "d"; select 5 /2; select 5 - 2 ; select 5 --2
;
select "A$b$"."x" from (select 1 as x) "A$b$";
select ((1), (2)), ((3)) ; select (select 'x;' from (select 1) q);

-- last comment; no statement"""


def write(directory: Path, **files: str) -> Path:
    """Write migrations, one a keyword: ``_1_tables`` becomes ``20260101000001_tables.sql``."""
    directory.mkdir(exist_ok=True, parents=True)
    for name, text in files.items():
        number, _, noun = name.lstrip("_").partition("_")
        (directory / f"{20260101000000 + int(number)}_{noun}.sql").write_text(text)
    return directory


def supabase(project: Path, *arguments: str, dsn: str) -> subprocess.CompletedProcess[str]:
    """Run the official CLI on a database that has no TLS."""
    return run_node_tool(
        "supabase", "--workdir", str(project), *arguments, f"--remote={dsn}?sslmode=disable", "--yes"
    )


def push(migrations: Path, tmp_path: Path, dsn: str) -> str:
    """Migrate a database with the official CLI, and return what it said."""
    project = tmp_path / "project"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(migrations, project / "supabase" / "migrations")
    result = supabase(project, "db", "push", dsn=dsn)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def history(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "select version, name, statements from supabase_migrations.schema_migrations order by version"
        ).fetchall()


@pytest.fixture
def other_database(server, blank_template):
    with server.clone(blank_template) as database:
        yield database


# -- the same as the official CLI ----------------------------------------------------------------------------


def test_both_record_a_nasty_file_alike(
    blank_database: Database, other_database: Database, tmp_path: Path
) -> None:
    files = write(
        tmp_path / "files", _1_nasty=NASTY, _2_empty="-- nothing\n", _3_crlf="select 1;\r\nselect 2;\r\n"
    )
    push(files, tmp_path, blank_database.dsn())
    assert apply_migrations(other_database.dsn(), files) == [
        "20260101000001",
        "20260101000002",
        "20260101000003",
    ]
    assert history(other_database.dsn()) == history(blank_database.dsn())
    assert describe(other_database.dsn()) == describe(blank_database.dsn())


def test_both_build_the_same_database(
    blank_database: Database, other_database: Database, tmp_path: Path
) -> None:
    push(migrations_dir(), tmp_path, blank_database.dsn())
    apply_migrations(other_database.dsn(), migrations_dir())
    ours, theirs = describe(other_database.dsn()), describe(blank_database.dsn())
    for kind, objects in theirs.items():
        assert ours[kind] == objects, kind
    assert any("knowledge_items" in line for line in ours["policies"])
    assert history(other_database.dsn()) == history(blank_database.dsn())


def test_the_comparison_notices_a_grant(blank_database: Database) -> None:
    before = describe(blank_database.dsn())
    with psycopg.connect(blank_database.dsn(), autocommit=True) as connection:
        connection.execute("create table public.noticed (id int primary key)")
        made = describe(blank_database.dsn())
        connection.execute("revoke select on public.noticed from anon")
        revoked = describe(blank_database.dsn())
    assert before["relations"] != made["relations"] != revoked["relations"]
    assert made["columns"] == revoked["columns"]


def test_each_takes_the_others_work_for_its_own(
    blank_database: Database, other_database: Database, tmp_path: Path
) -> None:
    first = write(tmp_path / "first", _1_one="create table public.one (id int primary key);")
    both = write(
        tmp_path / "both",
        _1_one="create table public.one (id int primary key);",
        _2_two="create table public.two (id int primary key);",
    )
    push(first, tmp_path, blank_database.dsn())
    assert migration_status(blank_database.dsn(), both).pending == ["20260101000002"]
    assert apply_migrations(blank_database.dsn(), both) == ["20260101000002"]
    assert "up to date" in push(both, tmp_path, blank_database.dsn())

    apply_migrations(other_database.dsn(), first)
    assert "20260101000002_two.sql" in push(both, tmp_path, other_database.dsn())
    assert apply_migrations(other_database.dsn(), both) == []
    assert history(other_database.dsn()) == history(blank_database.dsn())

    project = tmp_path / "project"
    listed = supabase(project, "migration", "list", dsn=blank_database.dsn())
    assert listed.returncode == 0, listed.stderr
    for version in ("20260101000001", "20260101000002"):
        [line] = [line for line in listed.stdout.splitlines() if version in line]
        assert line.count(version) == 2, "in the files and in the database"


def test_a_database_without_any_history_gets_the_clis(blank_database: Database, tmp_path: Path) -> None:
    files = write(tmp_path / "files", _1_one="select 1;")
    with psycopg.connect(blank_database.dsn("supabase_admin")) as connection:
        connection.execute("drop schema if exists supabase_migrations cascade")
    apply_migrations(blank_database.dsn(), files)
    columns = (
        "select attname, atttypid::regtype::text, attnotnull from pg_attribute where attnum > 0 and attrelid"
    )
    with psycopg.connect(blank_database.dsn()) as connection:
        found = connection.execute(
            f"{columns} = 'supabase_migrations.schema_migrations'::regclass order by attnum"
        ).fetchall()
    assert found == [("version", "text", True), ("statements", "text[]", False), ("name", "text", False)]
    assert "up to date" in push(files, tmp_path, blank_database.dsn())


# -- what is refused -----------------------------------------------------------------------------------------


def test_a_failed_migration_leaves_nothing_and_says_where(blank_database: Database, tmp_path: Path) -> None:
    files = write(
        tmp_path / "files",
        _1_good="create table public.good (id int primary key);",
        _2_bad="-- a file\ncreate table public.half (id int);\n\n"
        "-- why\ncreate table public.rest (\n  id nonsense\n);\n",
        _3_never="create table public.never (id int);",
    )
    with pytest.raises(MigrationError) as caught:
        apply_migrations(blank_database.dsn(), files)
    message = str(caught.value)
    assert f"{files / '20260101000002_bad.sql'}:6: " in message
    assert 'type "nonsense" does not exist' in message
    assert "statement 2 of 2: create table public.rest (" in message
    assert migration_status(blank_database.dsn(), files).applied == ["20260101000001"]
    with psycopg.connect(blank_database.dsn()) as connection:
        assert connection.execute(
            "select to_regclass('public.half'), to_regclass('public.never')"
        ).fetchone() == (
            None,
            None,
        )
    write(files, _2_bad="create table public.half (id int);")
    assert apply_migrations(blank_database.dsn(), files) == ["20260101000002", "20260101000003"]


def test_a_failure_at_commit_is_a_failure_of_its_file(blank_database: Database, tmp_path: Path) -> None:
    files = write(
        tmp_path / "files",
        _1_deferred="create table public.a (id int primary key);"
        "create table public.b (a int references public.a deferrable initially deferred);"
        "insert into public.b values (1);",
    )
    with pytest.raises(MigrationError, match="_deferred.sql: .*violates foreign key"):
        apply_migrations(blank_database.dsn(), files)
    assert migration_status(blank_database.dsn(), files).applied == []


def test_a_broken_connection_leaves_nothing(blank_database: Database, tmp_path: Path) -> None:
    files = write(
        tmp_path / "files",
        _1_cut="create table public.half (id int); select pg_terminate_backend(pg_backend_pid());",
    )
    with pytest.raises(TransportError):
        apply_migrations(blank_database.dsn(), files)
    assert migration_status(blank_database.dsn(), files).applied == []
    with psycopg.connect(blank_database.dsn()) as connection:
        assert connection.execute("select to_regclass('public.half')").fetchone() == (None,)


def test_versions_that_nobody_knows_stop_everything(blank_database: Database, tmp_path: Path) -> None:
    newer = write(tmp_path / "newer", _1_one="select 1;", _2_two="select 2;")
    older = write(tmp_path / "older", _1_one="select 1;", _3_three="create table public.three (id int);")
    apply_migrations(blank_database.dsn(), newer)
    with pytest.raises(MigrationError, match="doesn't know: 20260101000002"):
        apply_migrations(blank_database.dsn(), older)
    assert migration_status(blank_database.dsn(), older).applied == ["20260101000001", "20260101000002"]


def test_an_edited_file_stops_everything(blank_database: Database, tmp_path: Path) -> None:
    files = write(tmp_path / "files", _1_one="select 1;")
    apply_migrations(blank_database.dsn(), files)
    write(files, _1_one="select 2;", _2_two="select 2;")
    with pytest.raises(MigrationError, match="edited since: 20260101000001_one.sql"):
        apply_migrations(blank_database.dsn(), files)
    assert migration_status(blank_database.dsn(), files).pending == ["20260101000002"]


def test_a_file_older_than_the_history_is_refused(blank_database: Database, tmp_path: Path) -> None:
    files = write(tmp_path / "files", _2_two="select 2;")
    apply_migrations(blank_database.dsn(), files)
    write(files, _1_late="select 1;")
    with pytest.raises(MigrationError, match="20260101000001_late.sql"):
        apply_migrations(blank_database.dsn(), files)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notes.sql", "", "14-digit version"),
        ("2026_short.sql", "", "14-digit version"),
        ("20260101000001_twin.sql", "select 1;", "two files have version 20260101000001"),
        ("20260101000002_own.sql", "-- why\n\nbegin;\nselect 1;\ncommit;", r"_own.sql:3: .*one transaction"),
        ("20260101000002_none.sql", "-- pg-delta: transaction=false\nselect 1;", "asks for none"),
        ("20260101000002_latin.sql", b"-- \xe9\nselect 1;", "UTF-8"),
    ],
)
def test_a_directory_that_is_not_in_order_is_refused(
    blank_database: Database, tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    files = write(tmp_path / "files", _1_one="create table public.one (id int);")
    (files / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(MigrationError, match=message):
        apply_migrations(blank_database.dsn(), files)
    with psycopg.connect(blank_database.dsn()) as connection:
        assert connection.execute("select to_regclass('public.one')").fetchone() == (None,)


def test_no_files_are_an_error(blank_database: Database, tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="not a directory"):
        apply_migrations(blank_database.dsn(), tmp_path / "missing")
    with pytest.raises(MigrationError, match="no migrations in"):
        apply_migrations(blank_database.dsn(), write(tmp_path / "empty"))


def test_a_server_that_has_not_loaded_pgvector_is_migrated_in_any_number_of_runs(tmp_path: Path) -> None:
    """As hosted Supabase is: pgvector is there, and loaded by the first who uses it."""
    with short_directory() as directory:
        server = DatabaseServer(directory)
        with server.running("shared_preload_libraries = 'pg_stat_statements'\n"):
            database = server.prepare("bare")
            for migration in sorted(migrations_dir().glob("*.sql")):
                shutil.copy(migration, tmp_path)
                apply_migrations(database.dsn(), tmp_path)
            world = World(database.dsn)
            try:
                world.service().rpc("register_embedding_model", name="short", dimensions=3, is_default=True)
                ana = world.sign_up("ana")
                item = ana.record("Ports", "The origin is 54321.", content_embedding="[1,0,0]")
                [found] = ana.rpc("find_similar_knowledge", query_embedding="[1,0,0]")
                assert found["id"] == item
            finally:
                world.close()


@pytest.mark.parametrize("role", ["supabase_admin", "supabase_auth_admin", "authenticator"])
def test_nobody_but_postgres_migrates(blank_database: Database, tmp_path: Path, role: str) -> None:
    files = write(tmp_path / "files", _1_one="select 1;")
    with pytest.raises(MigrationError, match=f"connected as {role}"):
        apply_migrations(blank_database.dsn(role), files)


def test_a_database_that_does_not_answer_is_a_transport_error(tmp_path: Path) -> None:
    files = write(tmp_path / "files", _1_one="select 1;")
    with pytest.raises(TransportError):
        apply_migrations("postgresql://postgres@127.0.0.1:1/postgres", files)
    with pytest.raises(MigrationError, match="malformed"):
        apply_migrations("postgresql://[", files)


# -- one at a time -------------------------------------------------------------------------------------------


def test_two_runs_at_a_time_take_turns(blank_database: Database, tmp_path: Path) -> None:
    files = write(
        tmp_path / "files",
        _1_one="create table public.one (id int); select pg_sleep(0.3);",
        _2_two="select 2;",
    )
    applied: list[list[str]] = []
    said: list[str] = []

    def run() -> None:
        applied.append(apply_migrations(blank_database.dsn(), files, progress=said.append))

    runs = [threading.Thread(target=run) for _ in range(2)]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()
    assert sorted(applied) == [[], ["20260101000001", "20260101000002"]]
    assert any("another run" in line for line in said)


def test_waiting_has_an_end(blank_database: Database, tmp_path: Path) -> None:
    slow = write(tmp_path / "slow", _1_one="select pg_sleep(3);")
    holder = threading.Thread(target=apply_migrations, args=(blank_database.dsn(), slow))
    holder.start()
    with psycopg.connect(blank_database.dsn("supabase_admin"), autocommit=True) as connection:
        deadline = time.monotonic() + 5
        while not connection.execute(
            "select from pg_locks where locktype = 'advisory' and granted"
        ).fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with pytest.raises(MigrationError, match="still migrating"):
        apply_migrations(blank_database.dsn(), slow, lock_wait=0.2)
    holder.join()


# -- details -------------------------------------------------------------------------------------------------


def test_a_setting_does_not_outlive_its_file(blank_database: Database, tmp_path: Path) -> None:
    files = write(
        tmp_path / "files",
        _1_sets="set search_path = pg_catalog;",
        _2_uses="create table here (id int);"
        "do $$ begin assert to_regclass('public.here') is not null; end $$;",
    )
    assert len(apply_migrations(blank_database.dsn(), files)) == 2


def test_progress_names_files_and_passes_warnings_on(blank_database: Database, tmp_path: Path) -> None:
    files = write(
        tmp_path / "files", _1_one="do $$ begin raise warning 'look out'; raise notice 'fine'; end $$;"
    )
    said: list[str] = []
    apply_migrations(blank_database.dsn(), files, progress=said.append)
    assert said == ["applying 20260101000001_one.sql", "warning: look out"]


def test_listeners_hear_that_the_schema_changed(blank_database: Database, tmp_path: Path) -> None:
    # The first makes the history's table, which the database itself tells of.
    apply_migrations(blank_database.dsn(), write(tmp_path / "files", _1_one="select 1;"))
    with psycopg.connect(blank_database.dsn(), autocommit=True) as connection:
        connection.execute("listen pgrst")
        apply_migrations(blank_database.dsn(), write(tmp_path / "files", _2_two="select 2;"))
        [notice] = connection.notifies(timeout=5, stop_after=1)
        assert (notice.channel, notice.payload) == ("pgrst", "reload schema")


def test_splitting_is_linear() -> None:
    # Comments that could be read in two ways would take a backtracking splitter until tomorrow.
    source = "begin atomic " + "-- a -- b \n" * 2000 + ";" + "/* * */ " * 2000 + "x" + "; select (1" * 2000
    started = time.monotonic()
    split_statements(source)
    assert time.monotonic() - started < 2


def test_offsets_point_at_the_text() -> None:
    for statement in split_statements(NASTY):
        assert NASTY[statement.offset :].startswith(statement.text)


def test_the_link_for_readers_leads_to_the_migrations() -> None:
    link = Path(__file__).resolve().parents[2] / "migrations"
    assert link.readlink() == Path("supabase/migrations")
    assert link.resolve() == migrations_dir()
