"""What `kp install` writes for each coding agent, and that `kp uninstall` gives back what was there.

Each directory in golden/ is a person's home (user) or a project: before, and after installing. After a change that
is meant, KP_WRITE_GOLDEN=1 writes the second anew: read the difference.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tomllib
from pathlib import Path

import pytest

from knowledge_persistence.errors import ConfigurationError
from knowledge_persistence.install import (
    TOOLS,
    Launch,
    Records,
    Scope,
    apply,
    find_tool,
    is_installed,
    plan_install,
    plan_uninstall,
)
from knowledge_persistence.install.changes import write_atomically
from knowledge_persistence.install.jsonc import parse_jsonc

GOLDEN = Path(__file__).with_name("golden")
CASES = [(tool.name, scope) for tool in TOOLS for scope in tool.scopes]
# Read before the tests hide the environment.
WRITE_GOLDEN = "KP_WRITE_GOLDEN" in os.environ
LAUNCH = Launch(command=("/opt/kp/bin/kp",), environment={})


class Machine:
    """A person's home directory and a project, and the data directory."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.project = directory / "project"
        self.records = Records(directory / "data")
        self.home.mkdir()
        self.project.mkdir()

    def root(self, scope: Scope) -> Path:
        return self.home if scope == "user" else self.project

    def fill(self, scope: Scope, files: Path) -> None:
        shutil.copytree(files, self.root(scope), dirs_exist_ok=True)

    def install(
        self, tool: str, scope: Scope = "user", *, launch: Launch = LAUNCH, hooks: bool = True
    ) -> int:
        found = find_tool(tool)
        assert found is not None
        changes = plan_install(
            found,
            launch,
            person=self.home,
            project=self.project,
            scope=scope,
            hooks=hooks,
            records=self.records,
        )
        apply(changes, self.records)
        return sum(change.is_needed for change in changes)

    def uninstall(self, tool: str, scope: Scope = "user") -> int:
        found = find_tool(tool)
        assert found is not None
        changes = plan_uninstall(
            found, person=self.home, project=self.project, scope=scope, records=self.records
        )
        apply(changes, self.records)
        return sum(change.is_needed for change in changes)

    def installed(self, tool: str, scope: Scope = "user") -> bool:
        found = find_tool(tool)
        assert found is not None
        return is_installed(found, person=self.home, project=self.project, scope=scope)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("tool", "scope"), CASES)
def test_a_tool_is_configured_and_left_as_it_was(machine: Machine, tool: str, scope: Scope) -> None:
    golden = GOLDEN / tool / scope
    machine.fill(scope, golden / "before")
    before = contents(machine.root(scope))

    assert machine.install(tool, scope)
    if WRITE_GOLDEN:
        shutil.rmtree(golden / "after", ignore_errors=True)
        shutil.copytree(machine.root(scope), golden / "after")
    assert contents(machine.root(scope)) == contents(golden / "after")
    assert machine.installed(tool, scope)

    assert machine.install(tool, scope) == 0, "a second time changes nothing"
    assert contents(machine.root(scope)) == contents(golden / "after")

    assert machine.uninstall(tool, scope)
    assert contents(machine.root(scope)) == before
    assert machine.uninstall(tool, scope) == 0
    assert not machine.installed(tool, scope)


@pytest.mark.parametrize(("tool", "scope"), CASES)
def test_files_that_were_not_there_go_again(machine: Machine, tool: str, scope: Scope) -> None:
    assert machine.install(tool, scope)
    written = contents(machine.root(scope))
    for name, content in written.items():
        assert content.endswith(b"\n"), name
        assert tomllib.loads(content.decode()) if name.endswith(".toml") else json.loads(content), name
    assert machine.uninstall(tool, scope)
    assert contents(machine.root(scope)) == {}


@pytest.mark.parametrize(("tool", "scope"), CASES)
def test_what_somebody_wrote_since_stays(machine: Machine, tool: str, scope: Scope) -> None:
    machine.fill(scope, GOLDEN / tool / scope / "before")
    machine.install(tool, scope)
    edited: dict[Path, str] = {}
    for name in contents(machine.root(scope)):
        path = machine.root(scope) / name
        text = path.read_text("utf-8")
        if name.endswith(".toml"):
            path.write_text(text + '\n# mine\n[mine]\nlate = "yes"\n', "utf-8")
            edited[path] = "toml"
        elif name.endswith(".json"):
            path.write_text("// mine\n" + text.replace("{", '{ "late": "yes",', 1), "utf-8")
            edited[path] = "json"
    assert edited
    machine.uninstall(tool, scope)
    assert not machine.installed(tool, scope)
    for path, kind in edited.items():
        text = path.read_text("utf-8")
        assert "# mine" in text if kind == "toml" else "// mine" in text
        data = tomllib.loads(text)["mine"] if kind == "toml" else parse_jsonc(text)
        assert isinstance(data, dict)
        assert data["late"] == "yes"
        assert "knowledge-persistence" not in text
        assert "kp hook" not in text


@pytest.mark.parametrize(("tool", "scope"), CASES)
def test_a_moved_kp_is_written_in_place_of_the_old_one(machine: Machine, tool: str, scope: Scope) -> None:
    machine.fill(scope, GOLDEN / tool / scope / "before")
    before = contents(machine.root(scope))
    machine.install(tool, scope)
    moved = Launch(command=("/home/a b/kp",), environment={"KP_HOME": "/data/k p"})
    assert machine.install(tool, scope, launch=moved)
    text = "".join(content.decode() for content in contents(machine.root(scope)).values())
    assert "/opt/kp" not in text
    assert "/home/a b/kp" in text
    assert machine.install(tool, scope, launch=moved) == 0
    machine.uninstall(tool, scope)
    assert contents(machine.root(scope)) == before


def test_without_hooks_only_the_server_is_written(machine: Machine) -> None:
    machine.install("claude-code", hooks=True)
    machine.install("claude-code", hooks=False)
    assert list(contents(machine.home)) == [".claude.json"]
    machine.install("gemini", hooks=True)
    machine.install("gemini", hooks=False)
    assert "kp hook" not in (machine.home / ".gemini" / "settings.json").read_text()
    assert machine.installed("gemini")


@pytest.mark.parametrize(
    ("tool", "name", "text"),
    [
        ("claude-code", ".claude/settings.json", '{"hooks": {'),
        ("claude-code", ".claude/settings.json", '{"hooks": []}'),
        ("claude-code", ".claude.json", "[]"),
        ("claude-code", ".claude.json", '{"a": 1, "a": 2}'),
        ("gemini", ".gemini/settings.json", '{"hooks": {"AfterTool": {}}}'),
        ("codex", ".codex/config.toml", "model = "),
        ("codex", ".codex/config.toml", "mcp_servers = { a = { command = 'x' } }\n"),
    ],
)
def test_a_file_that_is_not_understood_is_left_alone(
    machine: Machine, tool: str, name: str, text: str
) -> None:
    path = machine.home / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="can't be understood") as raised:
        machine.install(tool)
    assert str(path) in str(raised.value)
    assert contents(machine.home) == {name: text.encode()}, "neither it nor the tool's other files"


def test_a_file_that_is_not_utf8_is_left_alone(machine: Machine) -> None:
    (machine.home / ".claude.json").write_bytes(b'{"name": "\xff"}')
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        machine.install("claude-code")
    assert contents(machine.home) == {".claude.json": b'{"name": "\xff"}'}


def test_a_file_that_changed_since_it_was_shown_is_not_written(machine: Machine) -> None:
    tool = find_tool("cursor")
    assert tool is not None
    changes = plan_install(
        tool,
        LAUNCH,
        person=machine.home,
        project=machine.project,
        scope="user",
        hooks=True,
        records=machine.records,
    )
    (machine.home / ".cursor").mkdir()
    (machine.home / ".cursor" / "hooks.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="changed meanwhile"):
        apply(changes, machine.records)
    assert contents(machine.home) == {".cursor/hooks.json": b"{}"}


def test_modes_and_links_stay(machine: Machine, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles.json"
    kept.write_text("{}\n")
    kept.chmod(0o640)
    (machine.home / ".claude.json").symlink_to(kept)
    machine.install("claude-code")
    assert (machine.home / ".claude.json").is_symlink()
    assert "knowledge-persistence" in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    machine.uninstall("claude-code")
    assert kept.read_text() == "{}\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640


def test_records_are_for_the_owner_alone(machine: Machine, tmp_path: Path) -> None:
    machine.install("windsurf")
    assert stat.S_IMODE((tmp_path / "data" / "installations.json").stat().st_mode) == 0o600


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.mkdir()
    with pytest.raises(ConfigurationError, match="can't be written"):
        write_atomically(path, b"{}")
    assert [one.name for one in tmp_path.iterdir()] == ["settings.json"], "and no temporary one"


def test_hooks_that_somebody_moved_are_found(machine: Machine) -> None:
    machine.install("claude-code")
    path = machine.home / ".claude" / "settings.json"
    data = json.loads(path.read_text())
    ours = data["hooks"]["SessionStart"][0]["hooks"][0]
    data["hooks"]["SessionStart"] = [{"hooks": [{"type": "command", "command": "date"}, ours]}]
    path.write_text(json.dumps(data))
    machine.uninstall("claude-code")
    assert json.loads(path.read_text()) == {
        "hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": "date"}]}]}
    }
