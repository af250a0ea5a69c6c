"""The database of every release, with data, comes up to today's with nothing lost and nothing shown to others.

Until there is a release, a release is made up: the migrations of today without the newest ones.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import psycopg
import pytest

from catalog import describe
from databases import Database, DatabaseServer
from knowledge_persistence.errors import MigrationError
from knowledge_persistence.migrations import apply_migrations
from knowledge_persistence.resources import migrations_dir
from releases import Memory, fill, lost, people, remember
from world import World, refused

ROOT = Path(__file__).resolve().parents[2]
# Columns ("schema.table.column") that an upgrade changes on purpose, and why. A new one says since which version.
CHANGED: dict[str, str] = {}
# How many of today's migrations a made-up release lacks; its data need the others.
NEWEST = 1


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["release"] = module
    spec.loader.exec_module(module)
    return module


release = _load()
TODAY = sorted(path.name for path in migrations_dir().glob("*.sql"))
RELEASES: dict[str, tuple[list[str], str]] = {
    one.version: (list(one.migrations), f"{one.version}.sql") for one in release.read_releases(ROOT)
} or {"made up": (TODAY[:-NEWEST], release.COMING)}


@dataclass
class Old:
    """A database of a release, and what it remembers.

    Attributes:
        database: to be cloned, never connected to.
        migrations: those that it has.
        memory: what it remembers.
    """

    database: Database
    migrations: Sequence[str]
    memory: Memory


@pytest.fixture(scope="module", params=list(RELEASES))
def old(
    request: pytest.FixtureRequest,
    server: DatabaseServer,
    blank_template: Database,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Old]:
    names, script = RELEASES[request.param]
    directory = tmp_path_factory.mktemp("released")
    for name in names:
        shutil.copy(migrations_dir() / name, directory)
    with server.clone(blank_template) as database:
        apply_migrations(database.dsn(), directory)
        fill(database, (ROOT / release.RELEASES / script).read_text())
        yield Old(database, names, remember(database))


@pytest.fixture
def database(old: Old, server: DatabaseServer) -> Generator[Database]:
    """Lend a database of the release, as it was left."""
    with server.clone(old.database) as database:
        yield database


@pytest.fixture(scope="module")
def upgraded_template(old: Old, server: DatabaseServer) -> Generator[Database]:
    """Give a database of the release, upgraded; to be cloned, never connected to."""
    with server.clone(old.database) as database:
        applied = apply_migrations(database.dsn(), migrations_dir())
        assert [f"{version}_" for version in applied] == [
            name[:15] for name in TODAY if name not in old.migrations
        ]
        yield database


@pytest.fixture
def upgraded(upgraded_template: Database, server: DatabaseServer) -> Generator[Database]:
    """Lend a database of the release, upgraded."""
    with server.clone(upgraded_template) as database:
        yield database


def with_one_more(directory: Path, text: str) -> Path:
    """Return today's migrations and another one, the newest."""
    shutil.copytree(migrations_dir(), directory)
    (directory / "29990101000000_next.sql").write_text(text)
    return directory


def test_an_upgrade_that_fails_on_data_keeps_the_database_as_it_was(
    old: Old, database: Database, tmp_path: Path
) -> None:
    directory = with_one_more(
        tmp_path / "migrations", "alter table public.knowledge_items add column rank integer not null;"
    )
    with pytest.raises(MigrationError, match="contains null values"):
        apply_migrations(database.dsn(), directory)
    assert lost(old.memory, remember(database), CHANGED) == []


@pytest.mark.parametrize(
    ("mistake", "notices"),
    [
        (
            "delete from public.knowledge_items where title = 'Crane A';",
            "public.knowledge_items lost or changed",
        ),
        (
            "update public.knowledge_items set access_count = 0 where true;",
            "public.knowledge_items lost or changed",
        ),
        (
            "alter table public.workspaces drop column description cascade;",
            "public.workspaces lost or changed",
        ),
        ("drop table private.maintenance_runs cascade;", "private.maintenance_runs is gone"),
        ("update private.search_documents set document = '' where true;", "ana asks tides.csv"),
        (
            "create policy items_all on public.knowledge_items for select to authenticated using (true);",
            "eve sees knowledge_items",
        ),
        (
            "update public.workspace_members set role = 'reader' where true;",
            "public.workspace_members lost or",
        ),
    ],
)
def test_an_upgrade_that_loses_something_is_noticed(
    old: Old, upgraded: Database, mistake: str, notices: str
) -> None:
    with psycopg.connect(upgraded.dsn("supabase_admin")) as connection:
        connection.execute("set local session_replication_role = replica")
        connection.execute(mistake.encode())
    found = lost(old.memory, remember(upgraded), CHANGED)
    assert [line for line in found if line.startswith(notices)], found


def test_what_people_had_is_there_after_an_upgrade(old: Old, upgraded: Database) -> None:
    assert old.memory.seen["ana asks Where is the tide table?"]
    assert old.memory.seen["eve sees knowledge_items"] == 1
    assert lost(old.memory, remember(upgraded), CHANGED) == []


def test_an_upgraded_database_is_what_a_new_one_is(
    upgraded: Database, server: DatabaseServer, template: Database
) -> None:
    with server.clone(template) as fresh:
        with psycopg.connect(upgraded.dsn(), autocommit=True) as connection:
            models = connection.execute(
                "select name, dimensions, similarity_threshold from public.embedding_models"
            ).fetchall()
        # Each model has an index of its own.
        world = World(fresh.dsn)
        service = world.service()
        known = {row["name"] for row in service.sql("select name from public.embedding_models")}
        for name, dimensions, threshold in models:
            if name not in known:
                service.rpc(
                    "register_embedding_model",
                    name=name,
                    dimensions=dimensions,
                    similarity_threshold=threshold,
                )
        world.close()
        theirs = describe(fresh.dsn())
    ours = describe(upgraded.dsn())
    for kind, objects in theirs.items():
        assert ours[kind] == objects, kind
    with psycopg.connect(upgraded.dsn(), autocommit=True) as connection:
        connection.execute("create index by_hand on public.knowledge_items (category)")
    assert describe(upgraded.dsn())["indexes"] != theirs["indexes"]


def test_life_goes_on_after_an_upgrade(upgraded: Database) -> None:
    world = World(upgraded.dsn)
    ana, ben, eve = people(world).values()
    with refused("PT403"):
        eve.inside(ana.workspace).record("Foreign", "Eve is no member.")
    item = ben.record("New light", "The lighthouse has a green light now.", retrieval_triggers=["Leuchtturm"])
    assert ana.sees(item)
    assert not eve.sees(item)
    found = ben.rpc("recall_knowledge", query_text="Leuchtturm")
    assert found[0]["knowledge_id"] == item
    assert ben.value("select access_count from public.knowledge_items where id = %s", item) == 1
    [again] = ana.rpc("record_gotcha", problem_description="Error: winch 4 jams at -5 degrees")
    assert (again["outcome"], again["frequency_encountered"]) == ("merged", 3)
    world.close()
