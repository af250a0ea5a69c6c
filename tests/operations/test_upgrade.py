"""Upgrades: what is refused is refused before anything changes, and what is done can be taken back."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from databases import Database, free_port, short_directory
from knowledge_persistence.cli.upgrade import way_back
from knowledge_persistence.embedded import Home, Stack, StackConfig
from knowledge_persistence.errors import ConfigurationError, EmbeddedStackError, TransportError
from knowledge_persistence.migrations import apply_migrations, migration_status
from knowledge_persistence.operations import upgrade as module
from knowledge_persistence.operations.backup import check
from knowledge_persistence.operations.keys import fill_in, generate_secrets, write_private_text
from knowledge_persistence.operations.upgrade import (
    image_major,
    upgrade_compose,
    upgrade_database,
    upgrade_stack,
)
from knowledge_persistence.resources import migrations_dir
from world import World

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def behind(blank_database: Database, tmp_path: Path) -> Database:
    """A database of the version before: it lacks the newest migration, and somebody has written in it."""
    older = tmp_path / "older"
    older.mkdir()
    for file in sorted(migrations_dir().glob("*.sql"))[:-1]:
        shutil.copy(file, older)
    apply_migrations(blank_database.dsn(), older)
    world = World(blank_database.dsn)
    world.sign_up("ana").rpc("record_knowledge", title="Before", content="the upgrade")
    world.close()
    return blank_database


def newest() -> str:
    return max(file.name for file in migrations_dir().glob("*.sql")).partition("_")[0]


def pending(database: Database) -> list[str]:
    return list(migration_status(database.dsn(), migrations_dir()).pending)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    write_private_text(path, fill_in((ROOT / ".env.example").read_text(), generate_secrets()))
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    return path


def test_what_is_refused(
    behind: Database, tmp_path: Path, env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "before.kpbackup"
    # The image in the compose file is 17, the tests' server isn't.
    with pytest.raises(ConfigurationError, match=r"this version's is 17.*docs/how-to/upgrade\.md"):
        upgrade_compose(env_file, archive, database_url=behind.dsn())
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1024))
        with pytest.raises(ConfigurationError, match="may not fit"):
            upgrade_database(behind.dsn(), archive)
    with psycopg.connect(behind.dsn(), autocommit=True) as connection:
        connection.execute(
            "insert into supabase_migrations.schema_migrations (version) values ('29990101000000')"
        )
        with pytest.raises(ConfigurationError, match="newer version"):
            upgrade_database(behind.dsn(), archive)
        connection.execute(
            "delete from supabase_migrations.schema_migrations where version = '29990101000000'"
        )
    with pytest.raises(TransportError):
        upgrade_database(f"postgresql://postgres:x@127.0.0.1:{free_port()}/postgres", archive)
    assert (pending(behind), archive.exists()) == ([newest()], False)


def test_data_of_another_major_version_are_refused_with_instructions(tmp_path: Path) -> None:
    with short_directory() as directory:
        home = Home(directory)
        home.prepare()
        home.save_config(StackConfig.generate(origin_port=free_port(), database_port=free_port()))
        home.cluster_directory.mkdir()
        (home.cluster_directory / "PG_VERSION").write_text("15\n")
        with pytest.raises(EmbeddedStackError, match=r"PostgreSQL 15.*kp backup.*kp restore"):
            upgrade_stack(Stack(directory), tmp_path / "archive")
        assert [path.name for path in home.cluster_directory.iterdir()] == ["PG_VERSION"]


def test_a_backup_needs_a_place(behind: Database, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no directory"):
        upgrade_database(behind.dsn(), tmp_path / "nowhere" / "before.kpbackup", dry_run=True)


def test_who_may_not_look_is_told(behind: Database, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be examined"):
        upgrade_database(behind.dsn("authenticator"), tmp_path / "before.kpbackup", dry_run=True)


def test_the_way_back_leads_to_where_it_came_from(tmp_path: Path) -> None:
    archive = tmp_path / "before it.kpbackup"
    url = "postgresql://postgres:hunter2@db.example:6543/memory?sslmode=require"
    assert way_back(archive, None, url) == (
        "kp restore --database-url postgresql://SUPERUSER:PASSWORD@db.example:6543/memory"
        f" '{archive}' --replace"
    )
    assert way_back(archive, Path(".env"), None) == f"kp restore --env-file .env '{archive}' --replace"
    assert way_back(archive, None, None) == f"kp restore '{archive}' --replace"


def test_a_dry_run_changes_nothing(behind: Database, tmp_path: Path) -> None:
    would = upgrade_database(behind.dsn(), tmp_path / "before.kpbackup", dry_run=True)
    assert (would.applied, would.backup) == ([newest()], None)
    assert (pending(behind), list(tmp_path.glob("*.kpbackup*"))) == ([newest()], [])


def test_an_upgrade_leaves_a_way_back(behind: Database, tmp_path: Path, env_file: Path) -> None:
    text = env_file.read_text()
    write_private_text(
        env_file, text.replace("# DB_IMAGE=supabase/postgres:17", "DB_IMAGE=example/postgres:18")
    )
    assert image_major(env_file) == 18
    archive = tmp_path / "before.kpbackup"
    said: list[str] = []
    done = upgrade_compose(env_file, archive, database_url=behind.dsn(), progress=said.append)
    assert (done.applied, done.backup, pending(behind)) == ([newest()], archive, [])
    assert done.is_sound, done.findings
    assert [step for step in done.steps if "up --detach" in step]
    assert said.index("Checking") < said.index("Backing up") < said.index("Migrating")
    # The archive is of the time before.
    assert check(archive).rows > 0
    with psycopg.connect(behind.dsn()) as connection:
        assert connection.execute("select title from public.knowledge_items").fetchall() == [("Before",)]

    again = upgrade_database(behind.dsn(), tmp_path / "again.kpbackup")
    assert (again.applied, again.backup) == ([], None)
    assert not (tmp_path / "again.kpbackup").exists()
