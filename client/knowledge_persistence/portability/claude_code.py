"""What Claude Code has kept: its memory files, and the transcripts of its sessions.

Memory files (CLAUDE.md, memory/*.md) are taken in as documents. Of a transcript there is one session, the commands
that were run with their outcome, and a gotcha where the evidence is clear: a command failed with an error text, and
the very same command worked soon after. All of it is pending; nothing is judged by a model.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from knowledge_persistence.errors import APIError, NotFoundError

from .documents import ingest
from .report import Report, no_progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from knowledge_persistence import KnowledgeClient
    from knowledge_persistence.models import JSON, JSONObject

    from .report import Progress

#: Commands that only look, or only wait: how often they work is nothing to remember.
_LOOKING: Final = frozenset(
    {
        "cat",
        "cd",
        "date",
        "echo",
        "env",
        "file",
        "find",
        "grep",
        "head",
        "history",
        "less",
        "ls",
        "man",
        "more",
    }
    | {"printf", "pwd", "rg", "sed", "sleep", "sort", "stat", "tail", "test", "top", "tree", "true", "type"}
    | {"uname", "wc", "whereis", "which", "whoami"}
)
_MAX_COMMAND: Final = 300
#: A repeat that comes after more commands than this is no answer to the failure.
_REACH: Final = 8
_MAX_ERROR: Final = 4000
_CLEAR_ERROR: Final = re.compile(
    r"(?i)\b(error|exception|fatal|panic|cannot|can't|could not|not found|no such|denied|refused|undefined|unable)\b"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A command that was run.

    Attributes:
        command: the command line.
        description: what it was said to be for.
        succeeded: whether it worked.
        output: what it printed.
    """

    command: str
    description: str | None
    succeeded: bool
    output: str


@dataclass(slots=True)
class Transcript:
    """A session of Claude Code.

    Attributes:
        session_id: its id there.
        began: when, ISO 8601.
        ended: when, ISO 8601.
        directory: where it worked.
        summary: what it was about, where it says so.
        runs: the commands that were run and ended, in order.
        unread: lines that can't be read, with the reason.
    """

    session_id: str
    began: str | None = None
    ended: str | None = None
    directory: str | None = None
    summary: str | None = None
    runs: list[Run] = field(default_factory=list[Run])
    unread: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


def project_folder(directory: Path) -> Path:
    """Return where Claude Code keeps the transcripts of a working directory."""
    base = Path.home() / ".claude" / "projects"
    return base / re.sub(r"[^A-Za-z0-9]", "-", str(directory.resolve()))


def import_claude_code(
    client: KnowledgeClient,
    folder: Path,
    *,
    project: str | None = None,
    dry_run: bool = False,
    allow_credentials: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Take in what Claude Code has kept in a folder.

    Done again it goes on where the transcripts have grown. A process that is killed in the middle may count the
    command at hand twice, and no other.

    Args:
        client: a client of the workspace.
        folder: a working directory (CLAUDE.md, memory/*.md), a folder of transcripts (~/.claude/projects/…), or both.
        project: the project that all of it belongs to; None: the name of the directory that the session worked in.
        dry_run: say what would happen.
        allow_credentials: take texts though they look like they hold credentials.
        progress: told how many files are done, and of how many.
    """
    memories = [path for path in (folder / "CLAUDE.md", folder / "CLAUDE.local.md") if path.is_file()]
    memory = folder / "memory"
    transcripts = sorted(path for path in folder.glob("*.jsonl") if path.is_file() and not path.is_symlink())
    total = len(transcripts) + 1
    report = Report(dry_run=dry_run)
    for paths, name in ((memories, ""), ([memory] if memory.is_dir() else [], "/memory")):
        if paths:
            taken = ingest(
                client,
                paths,
                category="agent-memory",
                project=project,
                root=f"claude-code:{folder.resolve()}{name}",
                dry_run=dry_run,
                allow_credentials=allow_credentials,
            )
            for kind, by_outcome in taken.counts.items():
                for outcome, how_many in by_outcome.items():
                    report.count(kind, outcome, how_many)
            report.troubles.extend(taken.troubles)
    progress(1, total)
    for done, path in enumerate(transcripts, 2):
        try:
            _import_transcript(client, path, report, project, dry_run, allow_credentials)
        except OSError as error:
            report.trouble("transcript", path.name, "failed", error.strerror or str(error))
        progress(done, total)
    return report


def _import_transcript(
    client: KnowledgeClient,
    path: Path,
    report: Report,
    project: str | None,
    dry_run: bool,
    allow_credentials: bool,
) -> None:
    transcript = read_transcript(path)
    for number, reason in transcript.unread:
        report.trouble("line", f"{path.name}:{number}", "failed", reason)
    if not transcript.runs:
        report.trouble(
            "transcript", path.name, "skipped", "it ran no command that would be worth remembering"
        )
        return
    identifier = f"claude-code:{transcript.session_id}"
    through = _through(client, identifier)
    runs = transcript.runs
    if through >= len(runs):
        report.count("transcript", "unchanged")
        return
    belongs = project or (Path(transcript.directory).name if transcript.directory else None)
    report.count("transcript", "created" if through == 0 else "continued")
    if dry_run:
        report.count("command", "recorded", len(runs) - through)
        report.count("gotcha", "recorded", sum(1 for at in range(through, len(runs)) if _answer_to(runs, at)))
        return
    told: JSONObject = {
        "session_id": transcript.session_id,
        "began": transcript.began,
        "ended": transcript.ended,
        "directory": transcript.directory,
        "through": through,
    }
    with client.session(identifier, project=belongs, metadata={"claude_code": told}) as session:
        for at in range(through, len(runs)):
            run = runs[at]
            where = f"{path.name}, command {at + 1}"
            try:
                session.record_command_run(
                    run.command,
                    succeeded=run.succeeded,
                    failure_output=None if run.succeeded else run.output[-_MAX_ERROR:] or None,
                    command_description=run.description,
                    allow_credentials=allow_credentials,
                )
                report.count("command", "recorded")
            except APIError as error:
                report.trouble("command", where, "failed", error.message)
            failure = _answer_to(runs, at)
            if failure is not None:
                between = [one.command for one in runs[failure + 1 : at] if one.succeeded]
                try:
                    session.record_gotcha(
                        f"{run.command}\n{runs[failure].output[-_MAX_ERROR:]}",
                        attempted_solution=f"After this, `{run.command}` worked: "
                        + "; ".join(f"`{one}`" for one in between),
                        attempt_outcome="partial",
                        problem_category="claude-code",
                        allow_credentials=allow_credentials,
                    )
                    report.count("gotcha", "recorded")
                except APIError as error:
                    report.trouble("gotcha", where, "failed", error.message)
            client.start_session(identifier, metadata={"claude_code": {**told, "through": at + 1}})
        session.summary = transcript.summary


def _through(client: KnowledgeClient, identifier: str) -> int:
    """Return how many commands of a transcript have been taken in."""
    try:
        metadata = client.get_session(identifier).session_metadata or {}
    except NotFoundError:
        return 0
    told = metadata.get("claude_code")
    through = told.get("through") if isinstance(told, dict) else None
    return through if isinstance(through, int) else 0


def _answer_to(runs: Sequence[Run], at: int) -> int | None:
    """Return the failure that a run answers: the same command, soon before, with an error that says what it is.

    Something else must have worked in between: else it was luck, and nothing was learned.
    """
    if not runs[at].succeeded:
        return None
    same = " ".join(runs[at].command.split())
    for place in range(at - 1, max(-1, at - 1 - _REACH), -1):
        if " ".join(runs[place].command.split()) != same:
            continue
        failed = not runs[place].succeeded and _CLEAR_ERROR.search(runs[place].output) is not None
        return place if failed and any(one.succeeded for one in runs[place + 1 : at]) else None
    return None


def read_transcript(path: Path) -> Transcript:
    """Read a transcript; lines that can't be read are listed, and the others count.

    Args:
        path: a file of JSON Lines as Claude Code writes them.

    Raises:
        OSError: it can't be read.
    """
    transcript = Transcript(session_id=path.stem)
    asked: dict[str, JSONObject] = {}
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            if not data.strip():
                continue
            try:
                told: object = json.loads(data)
            except ValueError:
                transcript.unread.append((number, "it is no JSON"))
                continue
            if isinstance(told, dict):
                _read_entry(cast("JSONObject", told), transcript, asked)
    return transcript


def _read_entry(entry: JSONObject, transcript: Transcript, asked: dict[str, JSONObject]) -> None:
    if entry.get("type") == "summary" and isinstance(entry.get("summary"), str):
        transcript.summary = str(entry["summary"])
        return
    for name, value in (("session_id", entry.get("sessionId")), ("directory", entry.get("cwd"))):
        if isinstance(value, str) and value:
            setattr(transcript, name, value)
    moment = entry.get("timestamp")
    if isinstance(moment, str):
        transcript.began = transcript.began or moment
        transcript.ended = moment
    message = entry.get("message")
    for block in _blocks(message.get("content") if isinstance(message, dict) else None):
        if (
            block.get("type") == "tool_use"
            and block.get("name") == "Bash"
            and isinstance(block.get("input"), dict)
        ):
            asked[str(block.get("id"))] = cast("JSONObject", block["input"])
        elif block.get("type") == "tool_result":
            given = asked.pop(str(block.get("tool_use_id")), None)
            run = None if given is None else _run(given, block, entry.get("toolUseResult"))
            if run is not None:
                transcript.runs.append(run)


def _blocks(content: JSON) -> Iterator[Mapping[str, JSON]]:
    if isinstance(content, list):
        yield from (block for block in content if isinstance(block, dict))


def _run(given: JSONObject, block: Mapping[str, JSON], result: JSON) -> Run | None:
    command, description = given.get("command"), given.get("description")
    if not isinstance(command, str) or given.get("run_in_background") is True:
        return None
    command = command.strip()
    if not command or "\n" in command or len(command) > _MAX_COMMAND:
        return None
    # `cd there && make` is make; what only looks is left out.
    words = re.split(r"\s+", re.sub(r"^(?:cd\s+\S+\s*&&\s*)+", "", command))
    if Path(words[0]).name in _LOOKING:
        return None
    if isinstance(result, dict) and result.get("interrupted") is True:
        return None
    output = "\n".join(str(part.get("text", "")) for part in _blocks(block.get("content"))) or (
        str(block["content"]) if isinstance(block.get("content"), str) else ""
    )
    if "doesn't want to proceed with this tool use" in output:
        return None  # nobody ran it
    return Run(
        command=command,
        description=description if isinstance(description, str) and description else None,
        succeeded=block.get("is_error") is not True,
        output=output.replace("\x00", "\ufffd"),
    )
