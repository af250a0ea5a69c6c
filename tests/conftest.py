"""Fixtures for all tests: an environment that is nobody's, and databases.

``world`` is what most tests of the database want (see ``world.py``): people in a fresh clone of the migrated
template. ``database`` is that clone alone, ``blank_database`` one that waits for its migrations.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

import tally
from databases import Database, DatabaseServer, short_directory
from knowledge_persistence.migrations import apply_migrations
from knowledge_persistence.resources import migrations_dir
from stacks import RunningStack, new_stack
from world import World

if TYPE_CHECKING:
    from collections.abc import Generator

_TESTS = Path(__file__).parent
#: What the longest files take, roughly: more than half a minute, on two cores.
_SECONDS = {
    "edge/test_openapi.py": 310,
    "faults/test_stack_start.py": 90,
    "faults/test_inputs.py": 90,
    "client/test_connection_loss.py": 90,
    "docs/test_quickstart.py": 90,
    "client/test_contract.py": 80,
    "client/test_cli.py": 70,
    "client/test_cli_specialised.py": 70,
    "docs/test_readme.py": 70,
    "operations/test_backup.py": 70,
    "database/test_plans.py": 70,
    "faults/test_stack_kill.py": 60,
    "stack/test_stack_life.py": 60,
    "realtime/test_subscribe.py": 60,
    "examples/test_tutorial.py": 60,
    "static/test_code.py": 50,
    "stack/test_wheel.py": 50,
    "faults/test_switch_faults.py": 40,
    "faults/test_worker_faults.py": 40,
    "faults/test_hung_parts.py": 40,
    "operations/test_rotation.py": 30,
    "operations/test_image.py": 30,
}

_PERSONAL = ("KP_", "OPENAI_", "SUPABASE_", "PG")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what only this project's tests know."""
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes, marked long")
    parser.addoption(
        "--long-seconds",
        type=float,
        default=3600,
        help="how long those may take that go on for as long as they may",
    )
    parser.addoption("--tally", help="a directory: each process leaves there what it has counted")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first, and leave out the long tests, unless they are asked for."""
    # After their order was drawn: a file of minutes that begins last has all other processes wait for it.
    items.sort(key=lambda item: -_SECONDS.get(item.path.relative_to(_TESTS).as_posix(), 0))
    if config.getoption("--long"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: --long runs it"))


def pytest_configure() -> None:
    """End on a termination as on ^C, so that what the fixtures started is stopped.

    ^C may be ignored, where the tests run in the background of a script; what they start would inherit that.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave behind what was counted."""
    directory = session.config.getoption("--tally")
    if directory is not None:
        tally.write(Path(directory))


@pytest.fixture
def long_seconds(pytestconfig: pytest.Config) -> float:
    """Say how many seconds a long run has, of which each of its tests takes a part."""
    return pytestconfig.getoption("--long-seconds")


@pytest.fixture(scope="session", autouse=True)
def nobodys_environment() -> Generator[None]:
    """Hide the settings and the stack of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch, short_directory() as home:
        for name in [name for name in os.environ if name.startswith(_PERSONAL)]:
            patch.delenv(name)
        # No stack is there. A test that starts one names a directory of its own.
        patch.setenv("KP_HOME", str(home / "none"))
        yield


@pytest.fixture(autouse=True)
def nobodys_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where no `.env` is found and nothing is left behind."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Generator[None]:
    """Have what a file's tests leave open found in that file, and not wherever memory is next swept."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def server() -> Generator[DatabaseServer]:
    """Give the database server of this run."""
    with short_directory() as directory, DatabaseServer(directory).running() as server:
        yield server


@pytest.fixture(scope="session")
def shared_stack() -> Generator[RunningStack]:
    """Give the stack of this run; who disturbs it leaves it whole, and nobody changes its schema for good."""
    with short_directory() as directory, new_stack(directory / "home") as stack:
        yield RunningStack(stack)


@pytest.fixture(scope="session")
def blank_template(server: DatabaseServer) -> Database:
    """Give a database that has all but the migrations; to be cloned, never connected to."""
    return server.prepare("blank")


@pytest.fixture(scope="session")
def template(server: DatabaseServer, blank_template: Database) -> Database:
    """Give the migrated database; to be cloned, never connected to."""
    with server.cluster.connect() as connection:
        create = sql.SQL("create database migrated template {} owner postgres")
        connection.execute(create.format(sql.Identifier(blank_template.name)))
    migrated = Database(server, "migrated")
    apply_migrations(migrated.dsn(), migrations_dir())
    return migrated


@pytest.fixture
def blank_database(server: DatabaseServer, blank_template: Database) -> Generator[Database]:
    """Lend a database that is ready for the migrations."""
    with server.clone(blank_template) as database:
        yield database


@pytest.fixture
def database(server: DatabaseServer, template: Database) -> Generator[Database]:
    """Lend a freshly cloned, migrated, empty database."""
    with server.clone(template) as database:
        yield database


@pytest.fixture
def world(database: Database) -> Generator[World]:
    """Set the stage: people in a database of their own."""
    world = World(database.dsn)
    yield world
    world.close()
