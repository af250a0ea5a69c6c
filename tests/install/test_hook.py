"""What coding agents' hooks say and record: the payloads are those of the tools' own documentation."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from databases import Database
from knowledge_persistence.cli import main
from knowledge_persistence.install.payloads import Payload
from world import Persona, World

Hook = Callable[..., Any]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "shop"
    (directory / ".git").mkdir(parents=True)
    (directory / "src").mkdir()
    return directory


@pytest.fixture
def person(world: World) -> Persona:
    return world.sign_up("ana")


@pytest.fixture
def hook(
    database: Database,
    person: Persona,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Hook:
    """Call `kp hook` as a tool does, in this process; return what it answers, None for nothing."""

    def call(event: str, tool: str = "claude-code", *, text: str | None = None, **payload: Any) -> Any:
        given = {"session_id": "s1", "cwd": str(project / "src"), **payload}
        with monkeypatch.context() as patch:
            patch.setenv("KP_HOME", str(tmp_path / "data"))
            patch.setenv("KP_URL", database.dsn("authenticator"))
            patch.setenv("KP_USER_ID", str(person.id))
            patch.setattr(sys, "argv", ["kp", "hook", event, "--tool", tool, "--timeout", "120"])
            patch.setattr(sys, "stdin", io.StringIO(json.dumps(given) if text is None else text))
            try:
                code: object = main()
            except SystemExit as ending:
                code = ending.code
        assert not code
        said = capsys.readouterr()
        assert said.err == ""
        return json.loads(said.out) if said.out else None

    return call


@pytest.fixture
def log(tmp_path: Path) -> Callable[[], str]:
    path = tmp_path / "data" / "logs" / "hooks.log"
    return lambda: path.read_text("utf-8") if path.exists() else ""


def failed(command: str, error: str, **more: Any) -> dict[str, Any]:
    return {
        "hook_event_name": "PostToolUseFailure",
        "tool_name": "Bash",
        "tool_input": {"command": command},
        "error": error,
        **more,
    }


def worked(command: str) -> dict[str, Any]:
    return {
        "hook_event_name": "PostToolUse",
        "tool_name": "Bash",
        "tool_input": {"command": command},
        "tool_response": {"stdout": "", "stderr": "", "interrupted": False},
    }


def commands(person: Persona) -> list[tuple[str, int, int]]:
    rows = person.sql("select command_signature, usage_count, success_count from command_patterns order by 1")
    return [(row["command_signature"], row["usage_count"], row["success_count"]) for row in rows]


# What must not happen


def test_nothing_that_looks_like_a_credential_is_recorded(
    hook: Hook, person: Persona, log: Callable[[], str]
) -> None:
    secret = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
    assert hook("command-succeeded", **worked(f"git push https://{secret}@github.com/a/b")) is None
    assert hook("command-failed", **failed(f"curl -H 'Authorization: token {secret}' x", "refused")) is None
    assert commands(person) == []
    assert log().count("not recorded") == 2
    assert secret not in log()


def test_a_payload_that_is_none_is_no_error(hook: Hook, person: Persona) -> None:
    for text in ("", "nonsense", "[]", '{"session_id": 5}', '{"cwd": null, "tool_input": []}'):
        for event in ("session-end", "command-failed", "command-succeeded"):
            assert hook(event, text=text) is None, (event, text)
    assert person.sql("select 1 from ai_sessions") == []


def test_unknown_events_and_options_are_no_error(hook: Hook, log: Callable[[], str]) -> None:
    # Several tools take exit code 2, which usage errors have, for "stop the agent".
    assert hook("session-paused") is None
    assert hook("session-start", "someone-else") is None
    assert log().count("not known") == 2


def test_a_repository_does_not_say_where_the_memory_is(
    hook: Hook, project: Path, monkeypatch: pytest.MonkeyPatch, person: Persona
) -> None:
    (project / ".env").write_text("KP_URL=http://127.0.0.1:9\nKP_WORKSPACE=theirs\n")
    monkeypatch.chdir(project)
    hook("command-succeeded", **worked("make test"))
    assert commands(person) == [("make test", 1, 1)]


def test_looking_around_is_not_recorded(hook: Hook, person: Persona) -> None:
    for command in (
        "ls -l",
        "cd src && grep -r x .",
        "PAGER=cat git log | cat",
        "cat <<E\nx\nE",
        "kp recall x",
    ):
        hook("command-succeeded", **worked(command))
    assert commands(person) == [("PAGER=cat git log | cat", 1, 1)]
    assert hook("command-failed", **failed("grep x y", "Exit code 1")) is None
    assert hook("command-failed", **failed("sleep 100", "interrupted", is_interrupt=True)) is None
    assert len(commands(person)) == 1


def test_nobody_waits_for_a_memory_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = subprocess.run(
            [
                *(
                    sys.executable,
                    "-c",
                    "import sys; from knowledge_persistence.cli import main; sys.exit(main())",
                ),
                *("hook", "session-start", "--tool", "claude-code", "--timeout", "0.5"),
            ],
            input=json.dumps({"session_id": "s1", "cwd": str(tmp_path)}),
            env={
                **os.environ,
                "KP_HOME": str(tmp_path / "data"),
                # It accepts, and never says a word.
                "KP_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
                "KP_API_KEY": "sb_publishable_x",
                "KP_ACCESS_TOKEN": "x.y.z",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "gave up after 0.5 s" in (tmp_path / "data" / "logs" / "hooks.log").read_text()


# What happens


def test_a_session_begins_with_what_earlier_ones_left(hook: Hook, person: Persona) -> None:
    first = hook("session-start", hook_event_name="SessionStart", source="startup")
    context = first["hookSpecificOutput"]["additionalContext"]
    assert "claude-code-s1" in context
    assert "earlier sessions" not in context, "there are none"

    person.rpc(
        "record_decision_stage",
        decision_topic="Where prices live",
        understanding="Prices live in the catalogue service.",
        project_context="shop",
    )
    answer = hook("session-start", hook_event_name="SessionStart", source="startup")
    assert answer["hookSpecificOutput"]["hookEventName"] == "SessionStart"
    context = answer["hookSpecificOutput"]["additionalContext"]
    assert "earlier sessions about shop" in context
    assert "Prices live in the catalogue service." in context

    resumed = hook("session-start", hook_event_name="SessionStart", source="resume")
    assert "catalogue" not in resumed["hookSpecificOutput"]["additionalContext"], (
        "the conversation has it already"
    )
    assert "catalogue" in hook("session-start", "cursor", source="startup")["additional_context"]
    assert person.sql("select 1 from ai_sessions") == [], "nothing was kept, so there was none"


def test_a_failed_command_is_recorded_and_looked_up(hook: Hook, person: Persona) -> None:
    error = "Exit code 1\npg_dump: error: aborting because of server version mismatch"
    assert hook("command-failed", **failed("pg_dump shop", error)) is None, "nobody knows it yet"
    person.rpc(
        "record_gotcha",
        problem_description=error,
        attempted_solution="reinstall pg_dump",
        attempt_outcome="failed",
        working_solution="call the pg_dump of the server's version by its path",
    )
    answer = hook("command-failed", **failed("pg_dump  shop", error))
    context = answer["hookSpecificOutput"]["additionalContext"]
    assert answer["hookSpecificOutput"]["hookEventName"] == "PostToolUseFailure"
    assert "What works: call the pg_dump of the server's version by its path" in context
    assert "What failed: reinstall pg_dump" in context
    # Output that a tool has cut in the middle of a character.
    halved = hook("command-failed", **failed("pg_dump shop", f"{error} \ud83d"))
    assert "What works: call the pg_dump" in halved["hookSpecificOutput"]["additionalContext"]
    hook("command-succeeded", **worked("pg_dump shop"))
    assert commands(person) == [("pg_dump shop", 4, 1)]
    [session] = person.sql("select session_identifier, project_context, end_time from ai_sessions")
    assert (session["session_identifier"], session["project_context"]) == ("claude-code-s1", "shop")
    assert session["end_time"] is None

    assert hook("session-end", hook_event_name="SessionEnd", reason="other") is None
    [session] = person.sql("select end_time, session_quality_score from ai_sessions")
    assert session["end_time"] is not None
    assert session["session_quality_score"] is not None


def test_a_session_without_anything_to_keep_ends_without_a_trace(
    hook: Hook, person: Persona, log: Callable[[], str]
) -> None:
    hook("session-end", reason="clear")
    assert person.sql("select 1 from ai_sessions") == []
    assert log() == ""


@pytest.mark.parametrize(
    ("tool", "values", "succeeded"),
    [
        ("claude-code", worked("make"), True),
        ("claude-code", failed("make", "Exit code 2"), False),
        ("codex", {"tool_input": {"command": "make"}, "tool_response": "all done"}, None),
        (
            "codex",
            {
                "tool_input": {"command": "make"},
                "tool_response": "Process exited with code 2\nFinal output:\nno",
            },
            False,
        ),
        (
            "codex",
            {
                "tool_input": {"command": ["bash", "-lc", "make"]},
                "tool_response": json.dumps({"output": "", "metadata": {"exit_code": 0}}),
            },
            True,
        ),
        (
            "cursor",
            {"tool_input": {"command": "make"}, "tool_output": json.dumps({"exitCode": 2, "stderr": "no"})},
            False,
        ),
        (
            "cursor",
            {"tool_input": {"command": "make"}, "error_message": "timed out", "failure_type": "timeout"},
            False,
        ),
        (
            "gemini",
            {"tool_input": {"command": "make"}, "tool_response": {"llmContent": "Output: no\nExit Code: 2"}},
            False,
        ),
        (
            "gemini",
            {"tool_input": {"command": "make"}, "tool_response": {"llmContent": "Output: x\nExit Code: 0"}},
            True,
        ),
        ("gemini", {"tool_input": {"command": "make"}, "tool_response": {"llmContent": "Output: x"}}, None),
    ],
)
def test_each_tool_says_in_its_way_how_a_command_went(
    tool: str, values: dict[str, Any], succeeded: bool | None
) -> None:
    run = Payload(tool, values).run()
    assert run is not None
    assert (run.command, run.succeeded) == ("make", succeeded)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"tool_input": {"file_path": "x"}},
        failed("make", "stopped", is_interrupt=True),
        {"tool_input": {"command": "make"}, "error_message": "no", "failure_type": "permission_denied"},
        {"tool_input": {"command": "make serve", "run_in_background": True}, "tool_response": {"stdout": ""}},
        {"tool_input": {"command": "make"}, "tool_response": {"stdout": "", "interrupted": True}},
    ],
)
def test_what_is_no_run_of_a_command_is_none(values: dict[str, Any]) -> None:
    assert Payload("cursor", values).run() is None
    assert Payload("claude-code", values).run() is None


def test_a_project_is_its_repository(project: Path) -> None:
    assert Payload("codex", {"cwd": str(project / "src")}).project == "shop"
    assert Payload("cursor", {"workspace_roots": [str(project)]}).project == "shop"
    assert Payload("codex", {}).project is None
