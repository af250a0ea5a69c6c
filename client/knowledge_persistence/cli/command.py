"""`kp command run|record|suggest`: commands, and how reliably they work."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer
from rich.text import Text

from knowledge_persistence.errors import KnowledgePersistenceError

from .connection import SessionOption, UrlOption, WorkspaceOption, open_client
from .output import JsonOption, clean, emit_json, err, fail, out, print_error
from .records import (
    AllowCredentialsOption,
    CategoryOption,
    LimitOption,
    ProjectOption,
    given_text,
    heading,
    print_indented,
    print_labelled,
    print_recorded,
    print_sure,
)

if TYPE_CHECKING:
    from knowledge_persistence.models import RecordedCommand, SuggestedCommand

_USAGE = 2
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
#: So many bytes of what a command said last are looked through for its error.
_KEPT: Final = 64 * 1024
#: Seconds that the rest of a finished command's output is waited for: a daemon that it left behind may hold
#: its standard error for ever.
_REST: Final = 1.0

PurposeOption = Annotated[str | None, typer.Option("--for", help="What the command is for.")]
NeedsOption = Annotated[
    list[str] | None, typer.Option("--needs", help="What must hold for it to work; repeatable.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    group = typer.Typer(no_args_is_help=True, help="Commands, what they are for, how reliably they work.")
    # What follows the command's name is the command's, options too.
    group.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(
        run
    )
    group.command("record")(record)
    group.command("suggest")(suggest)
    app.add_typer(group, name="command", rich_help_panel="Knowledge")


def run(
    command: Annotated[
        list[str],
        typer.Argument(help="The command with its arguments; a single argument is a line for the shell."),
    ],
    *,
    purpose: PurposeOption = None,
    needs: NeedsOption = None,
    category: CategoryOption = None,
    project: ProjectOption = None,
    allow_credentials: AllowCredentialsOption = False,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a command and record whether it worked. Ends with the command's own exit code, whatever is recorded.

    Its options come before the command: `kp command run --for "reload" -- pg_ctl reload -D data`. With --json the
    command's standard output goes to standard error.
    """
    is_line = len(command) == 1
    written = command[0] if is_line else shlex.join(command)
    if not written.strip():
        fail("the command is blank", _USAGE)
    code, said = _run(command[0] if is_line else command, quiet=as_json)
    try:
        with open_client(url=url, workspace=workspace, session=session) as client:
            recorded = client.record_command_run(
                written,
                succeeded=code == 0,
                # The end of a line's output names its error; nothing of what a command says is kept but that.
                failure_output=said if code else None,
                command_description=purpose,
                context_requirements=needs,
                command_category=category,
                project_context=project,
                allow_credentials=allow_credentials,
            )
    except KnowledgePersistenceError as error:
        err.print("The run was not recorded.", style="yellow")
        print_error(error)
        _end(code)
    if as_json:
        emit_json(recorded)
    else:
        err.print(f"Recorded: {_rate(recorded)}.", style="dim")
    _end(code)


def _end(code: int) -> NoReturn:
    raise typer.Exit(code)


def _run(command: str | list[str], *, quiet: bool) -> tuple[int, str]:
    """Run a command; return its exit code as a shell tells it, and the end of what it said on standard error."""
    sys.stdout.flush()
    sys.stderr.flush()
    said, saying = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - running it is what was asked for
            command, shell=isinstance(command, str), stdout=sys.stderr if quiet else None, stderr=saying
        )
    except OSError as error:
        os.close(said)
        # A directory on the path that may not be looked into says "permission denied" of whatever isn't there.
        missing = shutil.which(command[0], mode=os.F_OK) is None
        message = f"{command[0]}: {'command not found' if missing else error.strerror}"
        err.print(clean(message), markup=False)
        return (_NOT_FOUND if missing else _NOT_EXECUTABLE), message
    finally:
        os.close(saying)
    kept = bytearray()

    def pass_on() -> None:
        heard = True
        while chunk := os.read(said, _KEPT):
            kept.extend(chunk)
            del kept[:-_KEPT]
            try:
                while chunk and heard:
                    chunk = chunk[os.write(sys.stderr.fileno(), chunk) :]
            except OSError:
                heard = False  # nobody reads any more; the command must not wait for us

    listener = threading.Thread(target=pass_on, daemon=True)
    listener.start()
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            # ^C goes to the command as well: it decides, and what it ends with is recorded.
            continue
    listener.join(_REST)
    return (code if code >= 0 else 128 - code), bytes(kept).decode(errors="replace").replace("\0", "")


def record(
    command: Annotated[str, typer.Argument(help="The command as it was run; - reads standard input.")],
    *,
    worked: Annotated[bool | None, typer.Option("--worked/--failed", help="Whether it worked.")] = None,
    output: Annotated[
        str | None, typer.Option(help="What it said when it failed; - reads standard input.")
    ] = None,
    purpose: PurposeOption = None,
    needs: NeedsOption = None,
    category: CategoryOption = None,
    project: ProjectOption = None,
    allow_credentials: AllowCredentialsOption = False,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record that a command was run elsewhere, and whether it worked."""
    if worked is None:
        fail("say how it went: --worked or --failed", _USAGE)
    if command == "-" and output == "-":
        fail("only one of the command and its output can come from standard input", _USAGE)
    text = given_text(command, "the command")
    with open_client(url=url, workspace=workspace, session=session) as client:
        recorded = client.record_command_run(
            text,
            succeeded=worked,
            failure_output=None if output is None else given_text(output, "the output"),
            command_description=purpose,
            context_requirements=needs,
            command_category=category,
            project_context=project,
            allow_credentials=allow_credentials,
        )
    if as_json:
        emit_json(recorded)
        return
    created = recorded.outcome == "created"
    print_recorded(
        recorded.knowledge_id,
        f"{_rate(recorded).capitalize()}.",
        status=recorded.validation_status,
        created=created,
    )


def _rate(command: RecordedCommand | SuggestedCommand) -> str:
    runs = "run" if command.usage_count == 1 else "runs"
    return f"worked in {command.success_count} of {command.usage_count} {runs}"


def suggest(
    task: Annotated[str, typer.Argument(help="What is to be done; - reads standard input.")],
    *,
    limit: LimitOption = 3,
    session: SessionOption = None,
    workspace: WorkspaceOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Suggest commands for a task, by relevance and by how reliably they worked."""
    text = given_text(task, "the task")
    with open_client(url=url, workspace=workspace, session=session, embeds=True) as client:
        found = client.suggest_commands(text, max_results=limit)
    if as_json:
        emit_json(found)
        return
    for one in found:
        _print_suggested(one)
    if not found:
        err.print(
            "No command is known for that: `kp command run -- …` runs one and records it.", markup=False
        )


def _print_suggested(one: SuggestedCommand) -> None:
    out.print(heading(one.command, one.validation_status), soft_wrap=True)
    if one.command_description:
        print_indented(one.command_description)
    print_labelled("Needs", one.context_requirements)
    if isinstance(one.parameter_notes, dict):
        print_labelled("Parameters", [f"{name}: {note}" for name, note in one.parameter_notes.items()])
    print_labelled("How it failed", one.failure_patterns, style="red")
    print_sure(one.score, one.reason)
    print_indented(Text(f"id: {one.knowledge_id}", style="dim"))
    out.print()
