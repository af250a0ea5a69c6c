"""The drill: back up under load, be killed, be damaged, come back elsewhere as it was."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

import catalog
from databases import Database, DatabaseServer, short_directory
from knowledge_persistence.errors import BackupError
from knowledge_persistence.operations.backup import back_up, check, restore
from knowledge_persistence.operations.inventory import plain
from world import World

ITEMS = 50_000
EMBEDDED = 400
SUPERUSER = "supabase_admin"

SEARCHABLE = 1_500

_FILL = """
insert into public.knowledge_items
  (workspace_id, owner_id, title, content, content_hash, validation_status)
select %(workspace)s, %(owner)s, 'Lesson ' || n,
       'Note ' || n || ': ' || (array['deadlocks end in one order of locks', 'an index that is not valid',
         'a port that is taken', 'the cache forgets after a restart'])[1 + n %% 4] || ' (' || md5(n::text) || ')',
       md5(n::text), 'validated'
  from generate_series(%(first)s::int, %(last)s::int) as n
"""


@pytest.fixture(scope="module")
def source(server: DatabaseServer, template: Database) -> Generator[Database]:
    """Give a database with many items, people with secrets from each other, and settings of its own."""
    with server.clone(template) as database:
        world = World(database.dsn)
        ana, ben = world.sign_up("ana"), world.sign_up("ben")
        team = world.workspace("team", owner=ana, contributor=ben)
        ben.inside(team).rpc("record_knowledge", title="Ben's own", content="A pending note of Ben's.")
        random = np.random.default_rng(7)
        items = [
            {
                "title": f"Vector {n}",
                "content": f"A text with a vector, number {n}.",
                "content_embedding": [round(float(x), 6) for x in random.standard_normal(384)],
                "embedding_model": "all-MiniLM-L6-v2",
            }
            for n in range(EMBEDDED)
        ]
        ana.inside(team).rpc("record_knowledge_batch", items=items)
        with psycopg.connect(database.dsn(SUPERUSER), autocommit=True) as connection:
            # Some as people write them, with search documents and jobs; the bulk without triggers, for speed.
            whose = {"workspace": team, "owner": ana.id}
            connection.execute(_FILL, {**whose, "first": 1, "last": SEARCHABLE})
            connection.execute("set session_replication_role = replica")
            connection.execute(_FILL, {**whose, "first": SEARCHABLE + 1, "last": ITEMS})
            connection.execute("reset session_replication_role")
            name = sql.Identifier(database.name)
            connection.execute(sql.SQL("alter database {} set app.settings.jwt_exp = '1234'").format(name))
            connection.execute(
                sql.SQL("alter role anon in database {} set search_path = {}").format(
                    name, sql.SQL("'$user', 'a b', public")
                )
            )
        world.close()
        yield database


@pytest.fixture(scope="module")
def archive(source: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the backup that the tests use, while somebody keeps writing."""
    directory = tmp_path_factory.mktemp("backups")
    secret = directory / ".env"
    secret.write_text("POSTGRES_PASSWORD=not-for-everybody\n")
    stop = threading.Event()
    wrote = threading.Event()

    def write() -> None:
        # Two rows that only ever exist together: a torn copy would have one of them.
        with psycopg.connect(source.dsn(SUPERUSER), autocommit=True) as connection:
            connection.execute("create table public.pairs (id int, side text)")
            number = 0
            while not stop.is_set():
                number += 1
                with connection.transaction():
                    connection.execute("insert into public.pairs values (%s, 'left')", (number,))
                    connection.execute("insert into public.pairs values (%s, 'right')", (number,))
                wrote.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert wrote.wait(30)
        made = back_up(source.dsn(SUPERUSER), directory / "memory.kpbackup", secrets_files=[secret])
    finally:
        stop.set()
        writer.join()
    with psycopg.connect(source.dsn(SUPERUSER), autocommit=True) as connection:
        [(after,)] = connection.execute("select count(*) from public.pairs").fetchall()
        [(then,)] = [(int(_tables(made.path)["public.pairs"].split()[0]),)]
        assert then % 2 == 0, "half a transaction is in the backup"
        assert 0 < then < after, "nobody wrote while the backup was made"
    return made.path


@pytest.fixture(scope="module")
def small(
    server: DatabaseServer, template: Database, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[Database, Path]]:
    """Give a database with one item, and a backup of it."""
    with server.clone(template) as database:
        world = World(database.dsn)
        world.sign_up("ana").rpc("record_knowledge", title="Lesson 7", content="One item is enough.")
        world.close()
        target = tmp_path_factory.mktemp("small") / "small.kpbackup"
        yield database, back_up(database.dsn(SUPERUSER), target).path


def _tables(path: Path) -> dict[str, str]:
    with tarfile.open(path) as file:
        member = file.extractfile("manifest.json")
        assert member is not None
        return json.loads(member.read())["inventory"]["tables"]


@pytest.fixture(scope="module")
def elsewhere() -> Generator[DatabaseServer]:
    """Give a cluster in which nothing is but its superuser."""
    with short_directory() as directory:
        other = DatabaseServer(directory)
        other.cluster.create()
        with (directory / "log").open("wb") as log:
            process = other.cluster.start(log)
            try:
                assert other.cluster.wait_ready(process)
                yield other
            finally:
                other.cluster.stop(process)


def test_one_damaged_byte_is_found_wherever_it_is(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    damaged = tmp_path / "damaged.kpbackup"
    places = {0, 1, 100, 148, 257, 511, 600, len(whole) // 3, len(whole) // 2, len(whole) - 1}
    # Near the end are the manifest, its padding, the seal and the zeros behind it.
    places |= set(range(len(whole) - 12_000, len(whole), 997))
    for place in sorted(places):
        altered = bytearray(whole)
        altered[place] ^= 0x01
        damaged.write_bytes(altered)
        with pytest.raises(BackupError):
            check(damaged)


def test_a_part_of_an_archive_is_none(archive: Path, tmp_path: Path, elsewhere: DatabaseServer) -> None:
    whole = archive.read_bytes()
    part = tmp_path / "part.kpbackup"
    for length in (0, 100, 512, len(whole) // 2, len(whole) - 12_000, len(whole) - 10_240):
        part.write_bytes(whole[:length])
        with pytest.raises(BackupError):
            check(part)
    with pytest.raises(BackupError, match="no complete backup"):
        restore(part, elsewhere.dsn("postgres", SUPERUSER))


def test_a_killed_backup_leaves_no_archive(source: Database, tmp_path: Path) -> None:
    target = tmp_path / "memory.kpbackup"
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from knowledge_persistence.operations.backup import back_up\n"
        "def say(text):\n"
        "    if text.startswith('counting and hashing public.knowledge_items'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "back_up(sys.argv[1], Path(sys.argv[2]), progress=say)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, source.dsn(SUPERUSER), target], check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not target.exists()
    [left] = tmp_path.iterdir()
    assert left.name.endswith(".partial")
    assert left.stat().st_size > 1_000_000, "it was killed before there was anything"
    with pytest.raises(BackupError):
        check(left)


def test_a_backup_replaces_nothing_and_a_failed_one_leaves_nothing(source: Database, tmp_path: Path) -> None:
    target = tmp_path / "memory.kpbackup"
    target.write_text("precious")
    with pytest.raises(BackupError, match="replaces nothing"):
        back_up(source.dsn(SUPERUSER), target)
    assert target.read_text() == "precious"
    other = tmp_path / "other.kpbackup"
    with pytest.raises(BackupError, match=r"pg_dump|refused|permission"):
        back_up(source.dsn("authenticator"), other)
    assert list(tmp_path.iterdir()) == [target]


def test_an_archive_is_its_owners_alone(archive: Path) -> None:
    assert archive.stat().st_mode & 0o077 == 0
    made = check(archive)
    assert made.rows > ITEMS
    assert {"roles.sql", "secrets/.env", "database/000001"} <= set(made.files)


def test_restoring_needs_the_superuser(archive: Path, server: DatabaseServer) -> None:
    with pytest.raises(BackupError, match="superuser"):
        restore(archive, server.dsn("postgres", "postgres"))


def test_verifying_leaves_nothing_behind(small: tuple[Database, Path], server: DatabaseServer) -> None:
    database, path = small

    def databases() -> list[tuple[Any, ...]]:
        with server.cluster.connect() as connection:
            return connection.execute("select datname from pg_database order by 1").fetchall()

    before = databases()
    verified = restore(path, database.dsn(SUPERUSER), verify_only=True)
    assert (verified.database, verified.previous) == (None, None)
    assert verified.rows == check(path).rows
    assert databases() == before


def test_what_is_there_is_never_lost(small: tuple[Database, Path]) -> None:
    database, path = small
    url = database.dsn(SUPERUSER)
    with pytest.raises(BackupError, match="--replace"):
        restore(path, url, database=database.name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table public.newer ()")
        # Somebody is connected, as somebody will be.
        restored = restore(path, url, database=database.name, replace_existing=True)
    assert restored.previous is not None
    old = sql.Identifier(restored.previous)
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("select to_regclass('public.newer')").fetchone() == (None,)
        connection.execute(sql.SQL("alter database {} with allow_connections true").format(old))
    with psycopg.connect(database.server.dsn(restored.previous, SUPERUSER)) as connection:
        assert connection.execute("select to_regclass('public.newer') is not null").fetchone() == (True,)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {}").format(old))


def test_it_comes_back_elsewhere_as_it_was(
    archive: Path, source: Database, elsewhere: DatabaseServer
) -> None:
    superuser = elsewhere.dsn("postgres", SUPERUSER)
    restored = restore(archive, superuser, database="memory")
    assert restored.rows == check(archive).rows
    assert restored.database == "memory"
    copy = elsewhere.dsn("memory", SUPERUSER)

    # The restore compared everything with its own inventory; this is somebody else's eye on what matters most.
    described, original = catalog.describe(copy), catalog.describe(source.dsn(SUPERUSER))
    assert described.keys() == original.keys()

    def alike(line: str) -> str:
        # A union's constant is named after its type once it has been written out and read again.
        return re.sub(r" AS (?:text|uuid|integer|bigint|numeric)\b", "", plain(line))

    for kind in original:
        assert sorted(map(alike, described[kind])) == sorted(map(alike, original[kind])), kind

    def asked(dsn: str, who: str, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn) as connection, connection.transaction():
            [(person, team)] = connection.execute(
                "select u.id, w.id from auth.users u, public.workspaces w"
                " where u.email like %s and w.name = 'team'",
                (f"{who}%",),
            ).fetchall()
            context = {"request.jwt.claims": json.dumps({"sub": str(person), "role": "authenticated"})}
            for name, value in {
                **context,
                "app.current_workspace": str(team),
                "role": "authenticated",
            }.items():
                connection.execute("select set_config(%s, %s, true)", (name, value))
            return connection.execute(query.encode()).fetchall()

    # Scores to four digits: how recent an item is changes from one question to the next.
    questions = [
        "select title, round(score::numeric, 4), relevance_reason from public.search_knowledge('what ends deadlocks?')",
        "select title, round(score::numeric, 4) from public.search_knowledge('a pending note')",
        """select title, similarity_score from public.find_similar_knowledge(
             (select array_agg(sin(n)::real order by n)::extensions.vector from generate_series(1, 384) n),
             limit_results => 5, similarity_threshold => -1)""",
        "select count(*) from public.knowledge_items",
    ]
    for who in ("ana", "ben"):
        for question in questions:
            here, there = asked(source.dsn(SUPERUSER), who, question), asked(copy, who, question)
            # Ben sees none of Ana's pending items: here or there.
            assert here or who == "ben", question
            assert there == here, (who, question)
    with psycopg.connect(copy) as connection:
        assert connection.execute("show app.settings.jwt_exp").fetchone() == ("1234",)
        assert connection.execute(
            "select s.setconfig from pg_db_role_setting s join pg_roles r on r.oid = s.setrole"
            " join pg_database d on d.oid = s.setdatabase where d.datname = 'memory' and r.rolname = 'anon'"
        ).fetchone() == (['search_path="$user", "a b", public'],)


def test_a_difference_would_be_found(small: tuple[Database, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    database, path = small
    from knowledge_persistence.operations import backup  # noqa: PLC0415

    genuine = backup.take_inventory

    def tampered(connection: psycopg.Connection, **options: Any) -> Any:
        # As if a restore had lost a row and a policy.
        connection.execute("delete from public.knowledge_items where title = 'Lesson 7'")
        connection.execute("drop policy knowledge_items_select_visible on public.knowledge_items")
        return genuine(connection, **options)

    monkeypatch.setattr(backup, "take_inventory", tampered)
    with pytest.raises(BackupError) as caught:
        restore(path, database.dsn(SUPERUSER), verify_only=True)
    message = str(caught.value)
    assert "policies: missing: knowledge_items_select_visible" in message
    assert "public.knowledge_items: 1 rows" in message
    with database.server.cluster.connect("template1") as connection:
        assert connection.execute("select from pg_database where datname like 'restore%'").fetchall() == []
