"""`kp migrate` as an operator runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from databases import Database
from knowledge_persistence.resources import migrations_dir

VERSIONS = [path.name.partition("_")[0] for path in sorted(migrations_dir().glob("*.sql"))]


def kp(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "kp", *arguments],
        env={**os.environ, "COLUMNS": "500", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_database_gets_what_it_lacks_and_says_so(blank_database: Database) -> None:
    url = f"--database-url={blank_database.dsn()}"
    looked = kp("migrate", url, "--dry-run")
    assert (looked.returncode, looked.stdout.split()) == (0, VERSIONS)
    assert json.loads(kp("migrate", url, "--dry-run", "--json").stdout) == {
        "applied": [],
        "pending": VERSIONS,
        "total": 0,
    }
    done = kp("migrate", url, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"applied": VERSIONS, "pending": [], "total": len(VERSIONS)}
    assert f"applying {next(migrations_dir().glob(VERSIONS[0] + '*')).name}" in done.stderr
    again = kp("migrate", url)
    assert (again.returncode, again.stdout) == (0, "")
    assert "up to date" in again.stderr


def test_the_environment_names_the_database(blank_database: Database) -> None:
    looked = kp("migrate", "--dry-run", KP_DATABASE_URL=blank_database.dsn())
    assert looked.stdout.split() == VERSIONS


def test_what_goes_wrong_is_said_without_a_traceback(blank_database: Database, tmp_path: Path) -> None:
    nobody = kp("migrate", "--database-url=postgresql://postgres@127.0.0.1:1/postgres")
    assert nobody.returncode == 3
    assert "can't be reached" in nobody.stderr
    wrong = kp("migrate", f"--database-url={blank_database.dsn('supabase_admin')}")
    assert wrong.returncode == 1
    assert "connected as supabase_admin" in wrong.stderr
    absent = kp("migrate", KP_HOME=str(tmp_path / "none"))
    assert absent.returncode != 0
    assert "kp up" in absent.stderr
    for result in (nobody, wrong, absent):
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
