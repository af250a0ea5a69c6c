"""`supabase/config.toml`, as the official CLI reads it."""

from __future__ import annotations

from pathlib import Path

from node_tools import run_node_tool

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "postgresql://postgres:x@127.0.0.1:1/postgres"


def what_the_cli_says(project: Path, text: str) -> str:
    """Let the CLI read a configuration, on the way to a database that isn't there."""
    directory = project / "supabase"
    directory.mkdir(exist_ok=True)
    (directory / "config.toml").write_text(text)
    done = run_node_tool("supabase", "gen", "types", "--lang", "python", "--remote", NOWHERE, cwd=project)
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_the_official_cli_accepts_the_configuration(tmp_path: Path) -> None:
    text = (ROOT / "supabase" / "config.toml").read_text()
    assert "major_version = 17" in text
    wrong = what_the_cli_says(tmp_path, text.replace("major_version = 17", 'major_version = "x"'))
    assert "db.major_version in supabase/config.toml" in wrong
    # Now it is the database that it complains of.
    assert "config.toml" not in what_the_cli_says(tmp_path, text)
