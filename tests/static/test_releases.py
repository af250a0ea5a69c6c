"""What was released stays as it was released, and is released only when it is ready."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND = "20260101000001_first.sql", "20260101000002_second.sql"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules["release"] = module
    spec.loader.exec_module(module)
    return module


release = load()


class Project:
    """A checkout small enough to release."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.migrations = root / "supabase" / "migrations"
        self.releases = root / "supabase" / "releases"

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def say(self, version: str) -> None:
        """State the version where it is stated, and what is in it."""
        self.write("pyproject.toml", f'[project]\nname = "x"\nversion = "{version}"\n')
        self.write("docker-compose.yml", f"image: ${{KP_IMAGE:-knowledge-persistence:{version}}}\n")
        log = self.root / "CHANGELOG.md"
        before = log.read_text().partition("## ")[2] if log.exists() else ""
        older = f"## {before}" if before else ""
        self.write(
            "CHANGELOG.md", f"# Changelog\n\n## {version} - 2026-01-01\n\n### Added\n\n- Much.\n\n{older}"
        )

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "Work")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, self.root / "scripts" / "release.py", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    def problems(self) -> list[str]:
        return release.find_problems(self.root)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make a project that is ready for its first release."""
    for key, value in {"NAME": "Ana", "EMAIL": "ana@example.org"}.items():
        monkeypatch.setenv(f"GIT_AUTHOR_{key}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{key}", value)
    # Nobody's hooks and signatures.
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    made = Project(tmp_path / "project")
    made.write(f"supabase/migrations/{FIRST}", "select 1;\n")
    made.write(f"supabase/migrations/{SECOND}", "select 2;\n")
    made.write("supabase/releases/coming.sql", "select 'data';\n")
    made.say("0.1.0")
    (made.root / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "release.py", made.root / "scripts")
    made.git("init", "--quiet", "--initial-branch=main")
    made.commit()
    return made


@pytest.fixture
def released(project: Project) -> Project:
    """Make a project that has released 0.1.0."""
    release.release(project.root, "0.1.0")
    return project


# -- this project --------------------------------------------------------------------------------------------


def test_what_was_released_is_unchanged() -> None:
    assert release.find_problems(ROOT) == []


def test_the_release_to_come_has_its_data() -> None:
    assert (ROOT / release.RELEASES / release.COMING).is_file()


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.write(f"supabase/migrations/{FIRST}", "select 3;\n"), f"{FIRST} .* changed since"),
        (lambda p: (p.migrations / SECOND).unlink(), f"{SECOND} .* gone"),
        (
            lambda p: (p.migrations / FIRST).rename(p.migrations / "20260101000003_first.sql"),
            f"{FIRST} .* gone",
        ),
        (
            lambda p: p.write("supabase/migrations/20260101000000_late.sql", "select 0;\n"),
            "20260101000000_late.sql is new, and would run before",
        ),
        (
            lambda p: p.write("supabase/releases/0.1.0.sql", "select 'other';\n"),
            r"0\.1\.0\.sql is not what it was",
        ),
        (lambda p: (p.releases / "0.1.0.sql").unlink(), r"0\.1\.0\.sql is not what it was"),
        (lambda p: p.write("supabase/releases/0.1.0.json", "{}"), "no record of a release"),
        (
            lambda p: (p.releases / "0.1.0.json").rename(p.releases / "0.3.0.json"),
            r"no record of the release 0\.3\.0",
        ),
        (lambda p: (p.releases / "0.1.0.json").unlink(), r"v0\.1\.0 is tagged, and has no record"),
    ],
    ids=["changed", "removed", "renamed", "before", "data", "no data", "nonsense", "misnamed", "forgotten"],
)
def test_what_was_released_does_not_change(
    released: Project, change: Callable[[Project], object], says: str
) -> None:
    assert released.problems() == []
    change(released)
    assert [problem for problem in released.problems() if release.re.search(says, problem)], (
        released.problems()
    )


def test_a_record_rewritten_with_its_migration_differs_from_its_tag(released: Project) -> None:
    released.write(f"supabase/migrations/{FIRST}", "select 3;\n")
    record = released.releases / "0.1.0.json"
    old, new = (release.hashlib.sha256(text).hexdigest() for text in (b"select 1;\n", b"select 3;\n"))
    record.write_text(record.read_text().replace(old, new))
    assert released.problems() == ["supabase/releases/0.1.0.json is not what v0.1.0 has: restore it"]


def test_a_later_record_holds_the_earlier_one(released: Project) -> None:
    released.write("supabase/migrations/20260101000003_third.sql", "select 3;\n")
    released.say("0.2.0")
    released.commit()
    assert released.run("0.2.0").returncode == 0
    assert released.problems() == []
    record = release.json.loads((released.releases / "0.2.0.json").read_text())
    record["migrations"] = record["migrations"][1:]
    released.write("supabase/releases/0.2.0.json", release.json.dumps(record))
    assert any("doesn't begin with the migrations of 0.1.0" in problem for problem in released.problems())


def test_a_clone_without_tags_notices_too(released: Project, tmp_path: Path) -> None:
    subprocess.run(
        ["git", "clone", "--quiet", "--no-tags", "--depth=1", released.root.as_uri(), tmp_path / "clone"],
        check=True,
    )
    clone = Project(tmp_path / "clone")
    assert clone.git("tag") == ""
    assert clone.problems() == []
    clone.write(f"supabase/migrations/{FIRST}", "select 3;\n")
    assert any("changed since" in problem for problem in clone.problems())


def _unreleased(project: Project) -> None:
    text = (project.root / "CHANGELOG.md").read_text()
    project.write("CHANGELOG.md", text.replace("## ", "## Unreleased\n\n- More.\n\n## ", 1))


@pytest.mark.parametrize(
    ("version", "prepare", "says"),
    [
        ("0.1", lambda _: None, "no version to release"),
        ("0.1.0.dev0", lambda _: None, "no version to release"),
        ("0.2.0", lambda _: None, "pyproject.toml says version 0.1.0"),
        ("0.2.0", lambda _: None, "no section `## 0.2.0 - <date>`"),
        ("0.1.0", lambda p: p.write("CHANGELOG.md", "## 0.1.0\n\n- Much.\n"), "doesn't say when"),
        (
            "0.1.0",
            lambda p: p.write("CHANGELOG.md", "## 0.1.0 - 2026-01-01\n\n## 0.0.9\n\n- Less.\n"),
            "says nothing",
        ),
        ("0.1.0", _unreleased, "unreleased changes"),
        (
            "0.1.0",
            lambda p: p.write("docker-compose.yml", "image: knowledge-persistence:0.0.9\n"),
            "the image 0.0.9",
        ),
        ("0.1.0", lambda p: (p.releases / "coming.sql").unlink(), "coming.sql is missing"),
        ("0.1.0", lambda p: p.write("left-over", ""), "the work tree has changes"),
    ],
)
def test_what_is_not_ready_is_not_released(
    project: Project, version: str, prepare: Callable[[Project], object], says: str
) -> None:
    prepare(project)
    if says != "the work tree has changes" and project.git("status", "--porcelain"):
        project.commit()
    assert says in "\n".join(release.obstacles(project.root, version))


def test_a_version_is_released_once(released: Project) -> None:
    done = released.run("0.1.0")
    assert done.returncode == 1
    assert "released already" in done.stderr
    assert released.git("tag").split() == ["v0.1.0"]
    # Nor behind the back of the record.
    released.git("tag", "v0.2.0")
    assert any("v0.2.0 is tagged, and has no record" in problem for problem in released.problems())


# -- what is released ----------------------------------------------------------------------------------------


def test_a_dry_run_leaves_nothing(project: Project) -> None:
    done = project.run("0.1.0", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert project.git("tag") == ""
    assert project.git("status", "--porcelain") == ""


def test_a_release_is_a_record_a_commit_and_a_tag(project: Project) -> None:
    released = project
    done = released.run("0.1.0")
    assert (done.returncode, "tagged v0.1.0" in done.stderr) == (0, True), done.stderr
    [one] = release.read_releases(released.root)
    assert (one.version, list(one.migrations)) == ("0.1.0", [FIRST, SECOND])
    assert (released.releases / "0.1.0.sql").read_text() == "select 'data';\n"
    assert released.git("status", "--porcelain") == ""
    assert released.git("rev-parse", "v0.1.0^{commit}") == released.git("rev-parse", "HEAD")
    # What comes afterwards is free.
    released.write("supabase/migrations/20260101000003_third.sql", "select 3;\n")
    released.write("supabase/releases/coming.sql", "select 'more data';\n")
    assert released.run().returncode == 0
    (released.migrations / FIRST).unlink()
    refused = released.run()
    assert (refused.returncode, refused.stderr.count("error: ")) == (1, 1)
