"""What each coding agent's configuration files look like, and where they are.

The formats were read in each tool's own documentation, named with it below and, with the date, in
docs/how-to/use-with-coding-agents.md. What isn't documented is not written.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from knowledge_persistence.models import JSON, JSONObject

Scope: TypeAlias = Literal["user", "project"]
HookEvent: TypeAlias = Literal["session-start", "session-end", "command-failed", "command-succeeded"]

#: The name of the server in every tool's configuration; its tools are shown below it.
SERVER_NAME: Final = "knowledge-persistence"
HOOK_EVENTS: Final[tuple[HookEvent, ...]] = (
    "session-start",
    "session-end",
    "command-failed",
    "command-succeeded",
)
#: Seconds after which a tool gives a hook up. The hook itself gives up sooner.
HOOK_TIMEOUT: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How the tool starts us.

    Attributes:
        command: the program and its first arguments: this `kp`, or what runs it.
        environment: what it is told by environment variables; nothing secret.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A hook of a tool's: under `event`, for what `matcher` says, the command `kp hook <runs>` is called."""

    event: str
    runs: HookEvent
    matcher: str | None = None
    #: Further members of the command's entry.
    extra: Mapping[str, JSON] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """One file of a tool's configuration, and what of it is ours.

    Attributes:
        locate: where it is, by the person's home directory and the project's.
        server: below which keys the server's entry stands; None: the file has no servers.
        entry: the server's entry.
        hooks: the hooks; empty: the file has none.
        grouped: whether hooks stand in groups that share a matcher (`{"matcher": …, "hooks": […]}`).
        defaults: what the file has to say besides, where it doesn't.
        toml: the file is TOML, else JSON, comments allowed.
    """

    locate: Callable[[Path, Path, Scope], Path]
    server: str | None = None
    entry: Callable[[Launch], JSONObject] | None = None
    hooks: tuple[Hook, ...] = ()
    grouped: bool = True
    defaults: Mapping[str, JSON] | None = None
    #: How many of the tool's units of time a second has.
    timeout_unit: int = 1
    toml: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A coding agent.

    Attributes:
        name: what `kp install` calls it.
        title: what people call it.
        files: its configuration.
        scopes: where it can be configured.
        after: what a person does then.
        shared: whether the project's files are meant to be committed.
    """

    name: str
    title: str
    files: tuple[ConfigFile, ...]
    scopes: tuple[Scope, ...] = ("user", "project")
    after: str


def _server(launch: Launch) -> JSONObject:
    entry: JSONObject = {"command": launch.command[0], "args": [*launch.command[1:], "mcp"]}
    if launch.environment:
        entry["env"] = dict(launch.environment)
    return entry


def _typed_server(launch: Launch) -> JSONObject:
    return {"type": "stdio", **_server(launch)}


def _below(user: str, project: str | None = None) -> Callable[[Path, Path, Scope], Path]:
    def locate(home: Path, directory: Path, scope: Scope) -> Path:
        return home / user if scope == "user" or project is None else directory / project

    return locate


def _vscode(home: Path, directory: Path, scope: Scope) -> Path:
    if scope == "project":
        return directory / ".vscode" / "mcp.json"
    # Below XDG_CONFIG_HOME, where that is set; on a Mac ~/Library/Application Support.
    default = platformdirs.user_config_path("Code", roaming=True) / "User" / "mcp.json"
    if home == Path.home():
        return default
    beside = home / "Library" / "Application Support" if sys.platform == "darwin" else home / ".config"
    return beside / "Code" / "User" / "mcp.json"


TOOLS: Final[tuple[Tool, ...]] = (
    # https://code.claude.com/docs/en/mcp and /hooks. A command that fails comes to PostToolUseFailure, never to
    # PostToolUse; SessionEnd hooks get a second and a half unless they name a timeout; what worked is recorded in the
    # background (async), because nobody waits for it.
    Tool(
        name="claude-code",
        title="Claude Code",
        files=(
            ConfigFile(locate=_below(".claude.json", ".mcp.json"), server="mcpServers", entry=_typed_server),
            ConfigFile(
                locate=_below(".claude/settings.json", ".claude/settings.json"),
                hooks=(
                    Hook(event="SessionStart", runs="session-start"),
                    Hook(event="SessionEnd", runs="session-end"),
                    Hook(event="PostToolUseFailure", matcher="Bash", runs="command-failed"),
                    Hook(
                        event="PostToolUse", matcher="Bash", runs="command-succeeded", extra={"async": True}
                    ),
                ),
            ),
        ),
        after="Start a new session; /mcp and /hooks show what is configured.",
    ),
    # https://developers.openai.com/codex/mcp and /hooks. There is no end of a session, so the end of each turn
    # (Stop) is taken. PostToolUse comes for commands that failed and that worked alike.
    Tool(
        name="codex",
        title="Codex",
        files=(
            ConfigFile(
                locate=_below(".codex/config.toml", ".codex/config.toml"),
                server="mcp_servers",
                entry=_server,
                toml=True,
            ),
            ConfigFile(
                locate=_below(".codex/hooks.json", ".codex/hooks.json"),
                hooks=(
                    Hook(event="SessionStart", runs="session-start"),
                    Hook(event="Stop", runs="session-end"),
                    Hook(event="PostToolUse", matcher="Bash", runs="command-failed"),
                ),
            ),
        ),
        after="Start Codex, and trust the hooks with /hooks: until then it doesn't run them.",
    ),
    # https://cursor.com/docs/context/mcp and https://cursor.com/docs/hooks. Only postToolUse takes context back.
    Tool(
        name="cursor",
        title="Cursor",
        files=(
            ConfigFile(
                locate=_below(".cursor/mcp.json", ".cursor/mcp.json"), server="mcpServers", entry=_server
            ),
            ConfigFile(
                locate=_below(".cursor/hooks.json", ".cursor/hooks.json"),
                hooks=(
                    Hook(event="sessionStart", runs="session-start"),
                    Hook(event="sessionEnd", runs="session-end"),
                    Hook(event="postToolUse", matcher="Shell", runs="command-failed"),
                    Hook(event="postToolUseFailure", matcher="Shell", runs="command-failed"),
                ),
                grouped=False,
                defaults={"version": 1},
            ),
        ),
        after="Restart Cursor; Settings shows the server under MCP and the hooks under Hooks.",
    ),
    # https://code.visualstudio.com/docs/agents/reference/mcp-configuration. Its hooks are a preview whose files and
    # payloads differ by harness; it runs Claude Code's besides.
    Tool(
        name="vscode",
        title="Visual Studio Code",
        files=(ConfigFile(locate=_vscode, server="servers", entry=_typed_server),),
        after="Run “MCP: List Servers” and start it.",
    ),
    # https://geminicli.com/docs/tools/mcp-server and /hooks/reference. Times are in milliseconds.
    Tool(
        name="gemini",
        title="Gemini CLI",
        files=(
            ConfigFile(
                locate=_below(".gemini/settings.json", ".gemini/settings.json"),
                server="mcpServers",
                entry=_server,
                hooks=(
                    Hook(event="SessionStart", runs="session-start"),
                    Hook(event="SessionEnd", runs="session-end"),
                    Hook(event="AfterTool", matcher="run_shell_command", runs="command-failed"),
                ),
                timeout_unit=1000,
            ),
        ),
        after="Restart Gemini CLI; /mcp and /hooks show what is configured.",
    ),
    # https://docs.windsurf.com/windsurf/cascade/mcp. Its hooks can't give the agent anything to read.
    Tool(
        name="windsurf",
        title="Windsurf",
        files=(
            ConfigFile(
                locate=_below(".codeium/windsurf/mcp_config.json"), server="mcpServers", entry=_server
            ),
        ),
        scopes=("user",),
        after="Press refresh under Cascade's MCP servers.",
    ),
)


def find_tool(name: str) -> Tool | None:
    """Return the tool of a name; None where it isn't known."""
    return next((tool for tool in TOOLS if tool.name == name), None)
