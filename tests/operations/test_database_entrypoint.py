"""The entry point of the compose file's database, run against a real PostgreSQL instead of the image's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from databases import DatabaseServer
from knowledge_persistence.embedded.accounts import server_account
from knowledge_persistence.embedded.postgres import binaries

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docker" / "db" / "entrypoint.sh"


@pytest.fixture
def image(tmp_path: Path) -> dict[str, str]:
    """Stand in for the image: its configuration, and an entry point that says what it was asked to run."""
    programs = tmp_path / "bin"
    programs.mkdir()
    handed_on = programs / "docker-entrypoint.sh"
    handed_on.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    handed_on.chmod(0o755)
    configuration = tmp_path / "postgresql.conf"
    configuration.write_text("shared_preload_libraries = 'pg_stat_statements, auto_explain, pg_cron'\n")
    data = tmp_path / "data"
    data.mkdir()
    return {
        "PATH": f"{programs}:{binaries()}:{os.environ['PATH']}",
        "PGDATA": str(data),
        "KP_POSTGRES_CONFIG": str(configuration),
    }


def start(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_data_of_another_version_is_refused_and_left_alone(image: dict[str, str]) -> None:
    version = Path(image["PGDATA"]) / "PG_VERSION"
    version.write_text("15\n")
    done = start(image)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "belongs to PostgreSQL 15; this image is PostgreSQL 18" in done.stderr
    assert "docs/how-to/upgrade.md" in done.stderr
    assert version.read_text() == "15\n"
    assert (ROOT / "docs/how-to/upgrade.md").exists()


def test_the_images_libraries_are_extended(image: dict[str, str]) -> None:
    (Path(image["PGDATA"]) / "PG_VERSION").write_text("18\n")
    done = start(image, "-c", "max_connections=7")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "postgres",
        "-c",
        f"config_file={image['KP_POSTGRES_CONFIG']}",
        "-c",
        "shared_preload_libraries=pg_stat_statements, auto_explain, pg_cron, pg_prewarm, vector",
        "-c",
        "max_connections=7",
    ]


def test_a_library_that_the_image_lacks_does_not_keep_it_from_starting(
    image: dict[str, str], tmp_path: Path
) -> None:
    pretend = tmp_path / "bin" / "pg_config"
    pretend.write_text(f"#!/bin/sh\necho {tmp_path}\n")
    pretend.chmod(0o755)
    done = start(image)
    assert "no library vector" in done.stderr
    assert "shared_preload_libraries=pg_stat_statements, auto_explain, pg_cron\n" in done.stdout


def test_replicas_may_log_in(image: dict[str, str]) -> None:
    rules = Path(image["PGDATA"]) / "pg_hba.conf"
    rules.write_text("host all all 0.0.0.0/0 scram-sha-256\n")
    for _ in range(2):
        assert start(image).returncode == 0
    assert rules.read_text().splitlines() == [
        "host all all 0.0.0.0/0 scram-sha-256",
        "",
        "host replication postgres all scram-sha-256",
    ]


def test_a_replica_copies_its_primary_once_and_follows_it(
    image: dict[str, str], tmp_path: Path, server: DatabaseServer
) -> None:
    slot = "kp_entrypoint_test"
    # The image steps down from root with it.
    step_down = tmp_path / "bin" / "gosu"
    step_down.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    step_down.chmod(0o755)
    (tmp_path / "bin" / "chown").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "chown").chmod(0o755)
    environment = image | {
        "PGDATA": str(tmp_path / "replica"),
        "PRIMARY_HOST": "127.0.0.1",
        "PRIMARY_PORT": str(server.config.database_port),
        "REPLICA_SLOT": slot,
        "PGPASSWORD": server.config.passwords["postgres"],
        "KP_DATABASE_ENTRYPOINT": str(SCRIPT),
    }

    def follow(**changed: str) -> subprocess.CompletedProcess[str]:
        script = ROOT / "docker" / "db" / "replica.sh"
        return subprocess.run(
            ["bash", script, "-c", "max_connections=7"],
            env=environment | changed,
            capture_output=True,
            text=True,
            check=False,
        )

    with server.cluster.connect() as connection:
        try:
            refused = follow(PGPASSWORD="wrong")
            assert refused.returncode != 0
            assert "password authentication failed" in refused.stderr
            # A copy that was broken off, and its slot.
            (tmp_path / "replica" / "incoming").mkdir()
            connection.execute("select pg_create_physical_replication_slot(%s)", (slot,))
            done = follow()
            assert done.returncode == 0, done.stderr
            data = tmp_path / "replica" / "standby"
            assert (data / "standby.signal").exists()
            assert not data.with_name("incoming").exists()
            arguments = done.stdout.splitlines()
            assert f"data_directory={data}" in arguments
            assert f"primary_slot_name={slot}" in arguments
            assert environment["PGPASSWORD"] not in done.stdout
            # Another start copies nothing.
            (data / "kept").touch()
            again = follow(PRIMARY_HOST="127.0.0.2")
            assert again.returncode == 0, again.stderr
            assert (data / "kept").exists()
        finally:
            connection.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
                (slot,),
            )


def test_the_server_starts_with_that_list(server: DatabaseServer) -> None:
    # The embedded cluster's configuration stands in for the image's; the list comes out as the server takes it.
    command = [binaries() / "postgres", "-C", "shared_preload_libraries", "-D", server.cluster.directory]
    account = server_account()
    listed = subprocess.run(command, capture_output=True, text=True, check=True, **account.arguments).stdout
    assert listed.strip() == "pg_stat_statements,pg_prewarm,vector"
