"""`.env.example` is the list of what can be set: all of it, and nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from knowledge_persistence import settings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = (ROOT / ".env.example").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()


def read_by_settings() -> set[str]:
    """Return the names that settings.py asks the environment for."""
    tree = ast.parse(Path(settings.__file__).read_text())
    return {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "get"
        and isinstance(node.args[0], ast.Constant)
    }


def read_by_compose() -> dict[str, set[str]]:
    """Return the variables of docker-compose.yml, each with its defaults; None stands for "required"."""
    found: dict[str, set[str]] = {}
    for name, default in re.findall(r"\$\{([A-Z][A-Z0-9_]*)(:[-?][^}]*)?\}", COMPOSE):
        found.setdefault(name, set()).add(default)
    return found


def test_the_example_lists_what_is_read() -> None:
    listed = re.findall(r"(?m)^#? ?([A-Z][A-Z0-9_]*)=", EXAMPLE)
    assert len(listed) == len(set(listed))
    assert set(listed) == read_by_settings() | set(read_by_compose())


def test_each_variable_has_one_comment() -> None:
    for block in EXAMPLE.strip().split("\n\n")[1:]:
        if block.startswith("# ---- "):
            continue
        *comment, variable = block.splitlines()
        assert comment, block
        assert all(line.startswith("# ") for line in comment), block
        assert re.fullmatch(r"(# ?)?[A-Z0-9_]+=.*", variable), f"no variable: {variable}"


def test_the_example_says_the_defaults_and_leaves_secrets_empty() -> None:
    said = {
        name: (not off, value) for off, name, value in re.findall(r"(?m)^(# )?([A-Z0-9_]+)=(.*)$", EXAMPLE)
    }
    settings = read_by_settings()
    for name, ways in read_by_compose().items():
        assert len(ways) == 1, f"{name} has several defaults: {ways}"
        [way] = ways
        required = way.startswith(":?")
        # What is required has to be filled in; everything else may stay as it is.
        assert said[name] == ((True, "") if required else (False, way[2:])) or name in settings, name


def test_only_settings_reads_the_environment() -> None:
    package = Path(settings.__file__).parent
    reads = re.compile(r"os\.getenv|os\.environ\.get\(\s*[\"'](?:KP_|OPENAI_)|environ\[[\"'](?:KP_|OPENAI_)")
    found = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.name != "settings.py" and reads.search(path.read_text())
    ]
    assert found == []
