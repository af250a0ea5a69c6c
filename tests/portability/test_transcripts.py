"""Claude Code's transcripts: which commands count, and what is clear evidence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from knowledge_persistence.portability.claude_code import read_transcript

if TYPE_CHECKING:
    from pathlib import Path


def step(number: int, command: str, *, error: str | None = None, **more: Any) -> list[str]:
    """Write the two lines of a command and its result as Claude Code does."""
    base = {"sessionId": "5f0c", "cwd": "/home/me/apollo", "timestamp": f"2026-11-20T10:{number:02}:00.000Z"}
    asked = {"type": "tool_use", "id": f"t{number}", "name": "Bash", "input": {"command": command, **more}}
    told = {
        "type": "tool_result",
        "tool_use_id": f"t{number}",
        "is_error": error is not None,
        "content": error or [{"type": "text", "text": "fine"}],
    }
    return [
        json.dumps({"type": "assistant", "message": {"role": "assistant", "content": [asked]}, **base}),
        json.dumps({"type": "user", "message": {"role": "user", "content": [told]}, **base}),
    ]


def test_a_transcript_is_its_commands(tmp_path: Path) -> None:
    path = tmp_path / "5f0c.jsonl"
    lines = [
        json.dumps({"type": "summary", "summary": "Ports again"}),
        "{ cut off",
        "[1, 2]",
        json.dumps({"type": "user", "message": {"role": "user", "content": "please deploy"}}),
        *step(1, "ls -la"),
        *step(2, "cd sub && cat x"),
        *step(3, "make deploy", error="Error: port 80 denied", description="Deploy it"),
        *step(4, "sudo setcap cap_net_bind_service=+ep app"),
        *step(5, "make   deploy"),
        *step(6, "python - <<'X'\nprint(1)\nX"),
        *step(7, "x" * 500),
        *step(8, "npm start", run_in_background=True),
        step(9, "never ended")[0],
        *step(10, "rm -rf /", error="The user doesn't want to proceed with this tool use."),
    ]
    path.write_text("\n".join(lines) + "\n")
    transcript = read_transcript(path)
    assert [(run.command, run.succeeded) for run in transcript.runs] == [
        ("make deploy", False),
        ("sudo setcap cap_net_bind_service=+ep app", True),
        ("make   deploy", True),
    ]
    assert transcript.runs[0].description == "Deploy it"
    assert transcript.runs[0].output == "Error: port 80 denied"
    assert (transcript.session_id, transcript.directory, transcript.summary) == (
        "5f0c",
        "/home/me/apollo",
        "Ports again",
    )
    assert (transcript.began, transcript.ended) == ("2026-11-20T10:01:00.000Z", "2026-11-20T10:10:00.000Z")
    assert transcript.unread == [(2, "it is no JSON")]
