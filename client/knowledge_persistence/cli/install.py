"""`kp install`, `kp uninstall`: give a coding agent this memory, and take it away again."""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer
from rich.table import Table
from rich.text import Text

from knowledge_persistence.errors import ConfigurationError
from knowledge_persistence.install import (
    TOOLS,
    Change,
    Launch,
    Records,
    Scope,
    Tool,
    apply,
    find_tool,
    is_installed,
    plan_install,
    plan_uninstall,
)

from .connection import UrlOption, load_settings
from .output import JsonOption, clean, emit_json, err, fail, out

if TYPE_CHECKING:
    from knowledge_persistence.settings import Settings

_USAGE: Final = 2
_COLOURS: Final = {"+": "green", "-": "red", "@": "cyan"}

ScopeOption = Annotated[
    str, typer.Option("--scope", help="Whose configuration: user (yours, in every project) or project.")
]
DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--project", help="The project's directory, instead of the working directory.", metavar="DIR"
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("install", rich_help_panel="Agents")(install)
    app.command("uninstall", rich_help_panel="Agents")(uninstall)


def install(
    tool: Annotated[
        str | None,
        typer.Argument(
            help=f"Which coding agent: {', '.join(tool.name for tool in TOOLS)}. None: list them."
        ),
    ] = None,
    *,
    scope: ScopeOption = "user",
    project: DirectoryOption = None,
    hooks: Annotated[
        bool, typer.Option("--hooks/--no-hooks", help="Also its hooks: session start and end, commands.")
    ] = True,
    command: Annotated[
        str | None,
        typer.Option(help="What starts kp there, instead of this one's path; for files that others share."),
    ] = None,
    workspace: Annotated[
        str | None, typer.Option("--workspace", "-w", help="Let it work in this workspace (id or name).")
    ] = None,
    url: UrlOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give a coding agent this memory: the MCP server, and where it has hooks, these. Shows what changes, and asks."""
    if tool is None:
        _list(project or Path.cwd(), as_json=as_json)
        return
    chosen = _tool(tool)
    where = _scope(chosen, scope)
    settings = load_settings(url)
    if workspace is not None:
        settings = replace(settings, workspace=workspace)
    launch = Launch(command=_command(command), environment=_environment(settings))
    records = Records(settings.home)
    directory = (project or Path.cwd()).absolute()
    changes = plan_install(
        chosen,
        launch,
        person=Path.home(),
        project=directory,
        scope=where,
        hooks=hooks,
        records=records,
    )
    if not _carry_out(changes, records, dry_run=dry_run, yes=yes, as_json=as_json):
        return
    if where == "project" and command is None:
        err.print(
            "These files are often shared: --command kp writes a name that works on other machines, too.",
            style="dim",
        )
    err.print(f"{chosen.title} has this memory now. {chosen.after}", markup=False, soft_wrap=True)


def uninstall(
    tool: Annotated[str, typer.Argument(help="Which coding agent; `kp install` lists them.")],
    *,
    scope: ScopeOption = "user",
    project: DirectoryOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take this memory out of a coding agent's configuration. What was in its files before is there again."""
    chosen = _tool(tool)
    where = _scope(chosen, scope)
    records = Records(load_settings().home)
    changes = plan_uninstall(
        chosen,
        person=Path.home(),
        project=(project or Path.cwd()).absolute(),
        scope=where,
        records=records,
    )
    if _carry_out(changes, records, dry_run=dry_run, yes=yes, as_json=as_json):
        err.print(f"{chosen.title} doesn't know of this memory any more.", markup=False)


def _tool(name: str) -> Tool:
    found = find_tool(name)
    if found is None:
        fail(f"{name!r} is not known; there are: {', '.join(tool.name for tool in TOOLS)}", _USAGE)
    return found


def _scope(tool: Tool, scope: str) -> Scope:
    if scope not in {"user", "project"}:
        fail(f"--scope is {scope!r}; it can be user or project", _USAGE)
    if scope not in tool.scopes:
        fail(f"{tool.title} has no configuration of a {scope}'s", _USAGE)
    return scope


def _command(given: str | None) -> tuple[str, ...]:
    if given is not None:
        words = tuple(shlex.split(given))
        if not words:
            fail("--command is blank", _USAGE)
        return words
    # The one that runs: of the environment that this Python is of, whatever PATH says.
    beside = Path(sys.executable).with_name("kp")
    return (str(beside if beside.exists() else Path(sys.argv[0]).absolute()),)


def _environment(settings: Settings) -> dict[str, str]:
    """Return what the tool has to tell us: it doesn't start us from the shell that this runs in. Nothing secret."""
    from knowledge_persistence.settings import default_home  # noqa: PLC0415

    environment: dict[str, str] = {}
    if settings.home != default_home():
        environment["KP_HOME"] = str(settings.home)
    if settings.url is not None:
        if urlsplit(settings.url).password is not None or urlsplit(settings.url).scheme not in {
            "http",
            "https",
        }:
            err.print(
                "KP_URL holds a credential, so it is not written: set it where the tool is started.",
                style="yellow",
            )
        else:
            environment["KP_URL"] = settings.url
            if settings.api_key is not None and settings.api_key.startswith("sb_publishable_"):
                environment["KP_API_KEY"] = settings.api_key
            elif settings.api_key is not None:
                err.print(
                    "KP_API_KEY is not a publishable key, so it is not written: set it where the tool is started.",
                    style="yellow",
                )
    if settings.workspace is not None:
        environment["KP_WORKSPACE"] = settings.workspace
    return environment


def _carry_out(changes: list[Change], records: Records, *, dry_run: bool, yes: bool, as_json: bool) -> bool:
    """Show what changes, ask, and do it. Tells whether anything was changed."""
    needed = [change for change in changes if change.is_needed]
    if as_json:
        emit_json(
            [{"path": str(change.path), "change": _kind(change), "diff": _diff(change)} for change in changes]
        )
    elif not needed:
        err.print("Nothing to change.")
    else:
        for change in needed:
            _show(change)
    if dry_run or not needed:
        return False
    if not yes:
        if not sys.stdin.isatty():
            fail("say --yes, where nobody can be asked", _USAGE)
        if not typer.confirm("Write this?", default=True, err=True):
            raise typer.Exit(1)
    apply(changes, records)
    return True


def _kind(change: Change) -> str:
    if not change.is_needed:
        return "none"
    return "create" if change.before is None else "remove" if change.after is None else "change"


def _diff(change: Change) -> str:
    before, after = (
        (content or b"").decode("utf-8", errors="replace").splitlines()
        for content in (change.before, change.after)
    )
    nothing = os.devnull
    return "\n".join(
        difflib.unified_diff(
            before,
            after,
            str(change.path) if change.before is not None else nothing,
            str(change.path) if change.after is not None else nothing,
            lineterm="",
        )
    )


def _show(change: Change) -> None:
    for line in _diff(change).splitlines():
        heading = line.startswith(("--- ", "+++ "))
        out.print(Text(clean(line), style="bold" if heading else _COLOURS.get(line[:1], "")), soft_wrap=True)


def _list(directory: Path, *, as_json: bool) -> None:
    rows: list[dict[str, object]] = []
    for tool in TOOLS:
        installed: dict[str, bool | str] = {}
        for scope in tool.scopes:
            try:
                installed[scope] = is_installed(tool, person=Path.home(), project=directory, scope=scope)
            except ConfigurationError as error:
                installed[scope] = str(error)
        rows.append({"tool": tool.name, "title": tool.title, "installed": installed})
    if as_json:
        emit_json(rows)
        return
    table = Table("tool", "", "for you", "for this project", box=None, pad_edge=False)
    for row, tool in zip(rows, TOOLS, strict=True):
        states = row["installed"]
        assert isinstance(states, dict)  # noqa: S101 - made above
        shown = [
            "-"
            if state is None
            else "installed"
            if state is True
            else "no"
            if state is False
            else "unreadable"
            for state in (states.get("user"), states.get("project"))  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        ]
        table.add_row(tool.name, Text(tool.title, style="dim"), *shown)
    out.print(table)
    err.print("`kp install TOOL` shows what it would write, and asks.", markup=False)
