"""What coding agents tell their hooks, and how they want to be answered.

Each tool's own documentation is named in `tools`. Fields that a tool doesn't send are None: a hook has to make do
with what comes.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from knowledge_persistence.models import JSON, JSONObject

# How the shell tools of Codex and Gemini CLI word an exit code in what they tell the model, a line of its own.
_EXIT_CODE: Final = re.compile(r"^(?:Process exited with code|Exit [Cc]ode:?) (-?\d+)\s*$", re.MULTILINE)
#: Commands that look at something, or always work: how often they did helps nobody, and `grep` fails where it finds
#: nothing.
_LOOK: Final = (
    ". [ awk basename cat cd clear cmp cut date diff dirname du echo env exit export false fd file find "
    "grep head history jq kp less ls man more nl od printenv printf ps pwd read readlink realpath rg sed set sleep "
    "sort source stat tail tee test time touch tree true type uniq unset wc whereis which whoami xxd"
)
_LOOKING: Final = frozenset(_LOOK.split())
#: Longer ones are scripts, written for the occasion.
_MAX_COMMAND: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRun:
    """A command that the agent ran.

    Attributes:
        command: as it was run.
        succeeded: whether it worked; None: the tool doesn't say.
        output: what it said.
    """

    command: str
    succeeded: bool | None
    output: str

    @property
    def is_worth_recording(self) -> bool:
        """Whether anybody would want to know how reliably it works."""
        line = re.sub(r"^\s*cd\s+[^;&|\n]+(?:&&|;)\s*", "", self.command).strip()
        if not line or "\n" in line or len(line) > _MAX_COMMAND:
            return False
        words = line.split()
        while words and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=\S*", words[0]):
            words.pop(0)
        return bool(words) and Path(words[0]).name not in _LOOKING


class Payload:
    """What a tool told a hook.

    Args:
        tool: the tool's name.
        values: what it sent.
    """

    def __init__(self, tool: str, values: JSONObject) -> None:
        self.tool = tool
        self._values = values

    @property
    def session(self) -> str | None:
        """The session's identifier here: the tool's name and the tool's own id of it."""
        own = self._text("session_id", "sessionId", "conversation_id")
        return None if own is None else f"{self.tool}-{own}"

    @property
    def directory(self) -> Path | None:
        """Where the agent works."""
        roots = self._values.get("workspace_roots")
        first = roots[0] if isinstance(roots, list) and roots else None
        given = self._text("cwd") or (first if isinstance(first, str) else None)
        return None if given is None else Path(given)

    @property
    def project(self) -> str | None:
        """The project: the name of the repository's directory, or of the one that the agent works in."""
        directory = self.directory
        if directory is None:
            return None
        for one in (directory, *directory.parents):
            # A worktree has a file of this name.
            if (one / ".git").exists():
                return one.name or None
        return directory.name or None

    @property
    def source(self) -> str | None:
        """How the session came to be: startup, resume, clear, compact and the like."""
        return self._text("source")

    def run(self) -> CommandRun | None:
        """Return the command that was run; None where it is of none, or of one whose end isn't known."""
        command = self._command()
        if command is None or self._values.get("is_interrupt") is True:
            return None
        if self._text("failure_type") == "permission_denied" or self._went_on():
            return None
        failure = self._text("error", "error_message")
        if failure is not None or self._event == "PostToolUseFailure":
            return CommandRun(command=command, succeeded=False, output=failure or "")
        answer = next(
            (self._values[name] for name in ("tool_response", "tool_output") if name in self._values), None
        )
        output, code = _told(answer)
        # A tool that has an event for failures says with this one that it worked.
        if code is None and self.tool == "claude-code":
            code = 0
        return CommandRun(command=command, succeeded=None if code is None else code == 0, output=output)

    def _went_on(self) -> bool:
        """Say whether how the command ends isn't known yet: it was put into the background, or was interrupted."""
        told = self._values.get("tool_input")
        answer = self._values.get("tool_response")
        return (isinstance(told, dict) and cast("JSONObject", told).get("run_in_background") is True) or (
            isinstance(answer, dict) and cast("JSONObject", answer).get("interrupted") is True
        )

    def answer(self, context: str, default_event: str) -> JSONObject:
        """Return what makes the tool give a text to the agent.

        Args:
            context: the text.
            default_event: the event to name where the tool didn't name it.
        """
        if self.tool == "cursor":
            return {"additional_context": context}
        return {
            "hookSpecificOutput": {
                "hookEventName": self._event or default_event,
                "additionalContext": context,
            }
        }

    @property
    def _event(self) -> str | None:
        return self._text("hook_event_name", "hookEventName")

    def _text(self, *names: str) -> str | None:
        for name in names:
            value = self._values.get(name)
            if isinstance(value, str) and value.strip():
                return value
        return None

    def _command(self) -> str | None:
        given = self._values.get("tool_input")
        if isinstance(given, str):
            given = _json(given)
        if not isinstance(given, dict):
            return None
        command = given.get("command")
        if isinstance(command, list):
            words = [str(word) for word in command]
            # What a shell was given to run is the command, not the shell.
            command = words[2] if len(words) == 3 and words[1] in {"-c", "-lc"} else shlex.join(words)  # noqa: PLR2004
        return command if isinstance(command, str) and command.strip() else None


def _json(text: str) -> JSON:
    try:
        return cast("JSON", json.loads(text))
    except ValueError:
        return text


def _told(answer: JSON) -> tuple[str, int | None]:
    """Return what a tool's answer says in words, and the exit code that it names."""
    if isinstance(answer, str):
        parsed = _json(answer)
        if not isinstance(parsed, dict):
            found = _EXIT_CODE.findall(answer)
            return answer, int(found[-1]) if found else None
        answer = parsed
    if not isinstance(answer, dict):
        return "", None
    values = cast("dict[str, Any]", answer)
    for holder in (values, values.get("metadata")):
        if isinstance(holder, dict):
            for name in ("exit_code", "exitCode"):
                code = cast("dict[str, Any]", holder).get(name)
                if isinstance(code, int) and not isinstance(code, bool):
                    return _words(values), code
    output = _words(values)
    found = _EXIT_CODE.findall(output)
    if found:
        return output, int(found[-1])
    return output, 1 if values.get("error") else None


def _words(values: dict[str, Any]) -> str:
    parts = [values.get(name) for name in ("stderr", "error", "output", "stdout", "llmContent")]
    return "\n".join(
        part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for part in parts if part
    )
