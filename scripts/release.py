"""Release a version: freeze its migrations, remember what was in such a database, tag it.

From the first release on there are databases that nobody may rewrite, so a release leaves two files in
`supabase/releases`: `<version>.json`, the names and hashes of its migrations in order, and `<version>.sql`, which fills
a database of that release by its own functions. Tests hold the files to the record, and upgrade each release's database
to today's. Both work from what is checked in: a clone without tags is as good.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

ROOT = Path(__file__).resolve().parents[1]
RELEASES = Path("supabase/releases")
MIGRATIONS = Path("supabase/migrations")
COMING = "coming.sql"
"""What is in a database of the release to come; a release takes a copy."""

_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_HEADING = re.compile(r"^## +\[?([^\]\s]+)\]?(?: +- +(\d{4}-\d{2}-\d{2}))?[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Release:
    """One released version, as its record says.

    Attributes:
        version: like 1.2.3.
        migrations: SHA-256 (hex) of each migration by its file's name, in their order.
        data: SHA-256 (hex) of the script that fills a database of this release.
    """

    version: str
    migrations: dict[str, str]
    data: str

    @property
    def order(self) -> tuple[int, ...]:
        """What versions are sorted by."""
        return version_order(self.version)


class NotReady(Exception):  # noqa: N818 - it says of a state, not of a fault
    """What stands in the way of a release, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def main() -> None:
    """Release the version that the arguments name, or check what was released."""
    parser = argparse.ArgumentParser(
        prog="scripts/release",
        description="Freeze the migrations of a version by hash (supabase/releases), commit the record and tag it."
        " Checks first: the version in pyproject.toml, its section in CHANGELOG.md, earlier releases, the work tree."
        " Pushes nothing.",
    )
    parser.add_argument("version", nargs="?", help="like 1.2.3; left out: only hold the files to the records")
    parser.add_argument(
        "--dry-run", action="store_true", help="only check whether the version can be released"
    )
    options = parser.parse_args()
    try:
        if options.version is None:
            print(f"{check(ROOT)} releases, all as they were released", file=sys.stderr)
        else:
            release(ROOT, options.version, dry_run=options.dry_run)
    except NotReady as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)
    if options.version is not None and not options.dry_run:
        print(f"tagged v{options.version}; push it with: git push --follow-tags", file=sys.stderr)


def check(root: Path) -> int:
    """Return how many releases there are.

    Args:
        root: the checkout.

    Raises:
        NotReady: something of them is not as it was released.
    """
    problems = find_problems(root)
    if problems:
        raise NotReady(problems)
    return len(read_releases(root))


def version_order(version: str) -> tuple[int, ...]:
    """Return what versions are sorted by.

    Args:
        version: like 1.2.3.
    """
    return tuple(int(part) for part in version.split("."))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def migrations(root: Path) -> dict[str, str]:
    """Return the SHA-256 of each migration by its file's name, in their order."""
    return {path.name: digest(path) for path in sorted((root / MIGRATIONS).glob("*.sql"))}


def read_releases(root: Path) -> list[Release]:
    """Read the records, oldest release first.

    Args:
        root: the checkout.

    Raises:
        NotReady: a record isn't one.
    """
    found: list[Release] = []
    for path in (root / RELEASES).glob("*.json"):
        try:
            record = cast("dict[str, object]", json.loads(path.read_text()))
            files = cast("list[dict[str, str]]", record["migrations"])
            one = Release(
                str(record["version"]),
                {file["file"]: file["sha256"] for file in files},
                str(record["data_sha256"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise NotReady([f"{RELEASES / path.name} is no record of a release: {error!r}"]) from error
        if (
            one.version != path.stem
            or not _VERSION.fullmatch(one.version)
            or len(one.migrations) != len(files)
        ):
            raise NotReady([f"{RELEASES / path.name} is no record of the release {path.stem}"])
        found.append(one)
    return sorted(found, key=lambda release: release.order)


def find_problems(root: Path) -> list[str]:
    """Say what of the files is not as it was released.

    Args:
        root: the checkout; tags are compared with as far as it has them.
    """
    try:
        releases = read_releases(root)
    except NotReady as error:
        return error.problems
    files = migrations(root)
    problems: list[str] = []
    for release in releases:
        problems += _thawed(release, files)
        if list(release.migrations) != sorted(release.migrations):
            problems.append(f"the record of {release.version} is not in the order in which migrations run")
        script = root / RELEASES / f"{release.version}.sql"
        if not script.is_file() or digest(script) != release.data:
            problems.append(
                f"{RELEASES / script.name} is not what it was when {release.version} was released"
            )
    for earlier, later in pairwise(releases):
        before = list(earlier.migrations.items())
        if list(later.migrations.items())[: len(before)] != before:
            problems.append(
                f"the record of {later.version} doesn't begin with the migrations of {earlier.version}"
            )
    if releases:
        released = releases[-1].migrations
        problems += [
            f"{name} is new, and would run before {max(released)}, which databases have: give it a newer version"
            for name in files
            if name not in released and name < max(released)
        ]
    return problems + _differences_from_tags(root, {release.version for release in releases})


def _thawed(release: Release, files: dict[str, str]) -> list[str]:
    problems: list[str] = []
    for name, frozen in release.migrations.items():
        if name not in files:
            problems.append(f"{name} was released in {release.version}, and is gone: restore it")
        elif files[name] != frozen:
            problems.append(
                f"{name} was released in {release.version}, and was changed since: restore it; a change is a new"
                " migration"
            )
    return problems


def _differences_from_tags(root: Path, recorded: set[str]) -> list[str]:
    if not (root / ".git").exists():
        return []
    problems: list[str] = []
    for tag in _git(root, "tag", "--list", "v*").split():
        version = tag.removeprefix("v")
        if not _VERSION.fullmatch(version):
            continue
        if version not in recorded:
            problems.append(f"{tag} is tagged, and has no record: restore {RELEASES / version}.json")
            continue
        for name in (f"{version}.json", f"{version}.sql"):
            path = RELEASES / name
            text = (root / path).read_text() if (root / path).is_file() else None
            if _git(root, "show", f"{tag}:{path.as_posix()}") != text:
                problems.append(f"{path} is not what {tag} has: restore it")
    return problems


def obstacles(root: Path, version: str) -> list[str]:
    """Say what stands in the way of releasing a version.

    Args:
        root: the checkout.
        version: like 1.2.3.
    """
    if not _VERSION.fullmatch(version):
        return [f"{version} is no version to release: it looks like 1.2.3"]
    problems = find_problems(root)
    if problems:
        return problems
    releases = read_releases(root)
    if releases and releases[-1].order >= version_order(version):
        problems.append(f"{releases[-1].version} is released already: the next one is newer")
    stated = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    if stated != version:
        problems.append(f"pyproject.toml says version {stated}: make it {version}")
    problems += _stale_images(root, version)
    problems += _changelog_problems((root / "CHANGELOG.md").read_text(), version)
    if not (root / RELEASES / COMING).is_file():
        problems.append(f"{RELEASES / COMING} is missing: it fills a database of this release")
    if _git(root, "tag", "--list", f"v{version}").strip():
        problems.append(f"v{version} is tagged already")
    if _git(root, "status", "--porcelain").strip():
        problems.append("the work tree has changes: commit them first")
    return problems


def _stale_images(root: Path, version: str) -> list[str]:
    """Say where the image that compose runs has another version than its package."""
    problems: list[str] = []
    for name in ("docker-compose.yml", "docker/Dockerfile", ".env.example"):
        path = root / name
        found = re.findall(r"knowledge-persistence:(\d[\w.+-]*)", path.read_text()) if path.is_file() else []
        problems += [
            f"{name} names the image {one}: make it {version}" for one in set(found) if one != version
        ]
    return problems


def _changelog_problems(text: str, version: str) -> list[str]:
    headings = list(_HEADING.finditer(text))
    sections = {
        heading[1]: (heading[2], text[heading.end() : following.start() if following else len(text)])
        for heading, following in zip(headings, [*headings[1:], None], strict=True)
    }
    if version not in sections:
        return [f"CHANGELOG.md has no section `## {version} - <date>`"]
    date, body = sections[version]
    problems: list[str] = []
    if date is None:
        problems.append(f"CHANGELOG.md doesn't say when {version} was released: `## {version} - <date>`")
    if "\n- " not in body:
        problems.append(f"CHANGELOG.md says nothing of {version}")
    if "\n- " in sections.get("Unreleased", (None, ""))[1]:
        problems.append(f"CHANGELOG.md has unreleased changes: what is released belongs to {version}")
    return problems


def release(root: Path, version: str, *, dry_run: bool = False) -> None:
    """Write the record of a version, commit it, tag it.

    Args:
        root: the checkout.
        version: like 1.2.3.
        dry_run: only check.

    Raises:
        NotReady: something stands in the way; nothing was changed.
    """
    problems = obstacles(root, version)
    if problems:
        raise NotReady(problems)
    if dry_run:
        return
    directory = root / RELEASES
    data = (directory / COMING).read_bytes()
    (directory / f"{version}.sql").write_bytes(data)
    record = {
        "version": version,
        "data_sha256": hashlib.sha256(data).hexdigest(),
        "migrations": [{"file": name, "sha256": frozen} for name, frozen in migrations(root).items()],
    }
    (directory / f"{version}.json").write_text(json.dumps(record, indent=2) + "\n")
    paths = [str(RELEASES / f"{version}.json"), str(RELEASES / f"{version}.sql")]
    _git(root, "add", "--", *paths)
    _git(root, "commit", "--quiet", "--message", f"Release {version}", "--", *paths)
    _git(root, "tag", "--annotate", f"v{version}", "--message", f"Version {version}")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotReady([f"git {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}"])
    return done.stdout


if __name__ == "__main__":
    main()
