"""The wheel works alone: no checkout, an empty virtual environment, somebody else's directory.

With `--long` what it needs is installed as well, as its own metadata name it; else it is lent by this environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Generator
from pathlib import Path

import pytest

from databases import caches, free_port, short_directory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from what git would give to somebody who clones."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(directory), str(source)]
    result = subprocess.run(build, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    [made] = directory.glob("*.whl")
    return made


def test_what_runs_without_a_checkout_travels_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("knowledge_persistence/") for name in archive.namelist()}
    migrations = {f"_resources/migrations/{p.name}" for p in (ROOT / "supabase" / "migrations").glob("*.sql")}
    bootstrap = {f"_resources/bootstrap/{p.name}" for p in (ROOT / "supabase" / "bootstrap").glob("*.sql")}
    front = {f"embedded/front/{name}" for name in ("front.mjs", "package.json", "package-lock.json")}
    assert migrations | bootstrap | front | {"py.typed", "_resources/access.md"} <= names
    assert not [name for name in names if {"__pycache__", "node_modules", "tests"} & set(name.split("/"))]


@pytest.fixture(params=["lent", pytest.param("installed", marks=pytest.mark.long)])
def stranger(request: pytest.FixtureRequest, wheel: Path) -> Generator[dict[str, str]]:
    """Install the wheel into an empty environment, and give the environment of whoever works with it."""
    with short_directory() as home:
        environment = {
            **os.environ,
            **caches(),
            "HOME": str(home),
            "KP_HOME": str(home / "kp"),
            "PATH": f"{home / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
        }
        # Not in pytest's own directories: another run takes back the search permission that the server has there.
        subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
        # Where the machine has no Node.js, this is how one gets it.
        target = str(wheel) if shutil.which("node") else f"{wheel}[node]"
        install = ["pip", "install", "--quiet", "--disable-pip-version-check", target]
        if request.param == "lent":
            install.append("--no-deps")
            [packages] = home.glob("venv/lib/python*/site-packages")
            # Behind its own: of this package the environment has what the wheel brought.
            (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run(install, env=environment, cwd=home, check=True)
        try:
            yield environment
        finally:
            subprocess.run(["kp", "down"], env=environment, cwd=home, check=False, capture_output=True)


@pytest.mark.timeout(900)
def test_the_wheel_works_alone(stranger: dict[str, str], tmp_path: Path) -> None:
    def run(*command: str) -> str:
        result = subprocess.run(
            command, env=stranger, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    where = run("python", "-c", "import knowledge_persistence; print(knowledge_persistence.__file__)")
    assert where.startswith(str(Path(stranger["HOME"]).resolve() / "venv"))

    run("kp", "up", "--detach", "--port", str(free_port()), "--db-port", str(free_port()))
    migrations = json.loads(run("kp", "status", "--json"))["migrations"]
    assert len(migrations["applied"]) == len(list((ROOT / "supabase" / "migrations").glob("*.sql")))
    assert migrations["pending"] == []

    lesson = "A wheel carries its migrations with it, or it can't make a database."
    run("kp", "remember", lesson)
    found = json.loads(run("kp", "recall", "what does a wheel need to make a database?", "--json"))
    assert lesson in {item["content"] for item in found}

    run("kp", "down")
    after = subprocess.run(["kp", "status"], env=stranger, cwd=tmp_path, capture_output=True, check=False)
    assert after.returncode == 3
