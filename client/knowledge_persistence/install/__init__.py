"""Configure coding agents: the MCP server, and hooks where a tool has them."""

from __future__ import annotations

from .changes import Change, Records, apply, is_installed, plan_install, plan_uninstall
from .tools import HOOK_EVENTS, TOOLS, HookEvent, Launch, Scope, Tool, find_tool

__all__ = [
    "HOOK_EVENTS",
    "TOOLS",
    "Change",
    "HookEvent",
    "Launch",
    "Records",
    "Scope",
    "Tool",
    "apply",
    "find_tool",
    "is_installed",
    "plan_install",
    "plan_uninstall",
]
