"""What an agent, or its user, may read by address; and the prompt that starts a session well."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from mcp_types import (
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    Resource,
    ResourceTemplate,
    TextContent,
)

from knowledge_persistence._values import is_id

from .answers import item_whole, one_line, session_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .seat import Seat

BRIEF: Final = "knowledge://brief"
_ITEM: Final = re.compile(r"knowledge://items/([^/?#]+)")
_SESSION: Final = re.compile(r"knowledge://sessions/([^/?#]+)")

RESOURCES: Final = [
    Resource(
        uri=BRIEF,
        name="brief",
        title="Resume brief",
        description="What the last sessions came to, decisions in force, open problems, the best knowledge.",
        mime_type="text/plain",
    )
]
TEMPLATES: Final = [
    ResourceTemplate(
        uri_template="knowledge://items/{id}",
        name="item",
        title="Knowledge item",
        description="One item whole, by its id.",
        mime_type="text/plain",
    ),
    ResourceTemplate(
        uri_template="knowledge://sessions/{session}",
        name="session",
        title="Session",
        description="A session and what happened in it, by its id or name.",
        mime_type="text/plain",
    ),
]

PROMPTS: Final = [
    Prompt(
        name="begin",
        title="Begin with memory",
        description="Start a session well: read what is known before the work, record what is learned in it.",
        arguments=[
            PromptArgument(name="task", description="What is to be done.", required=True),
            PromptArgument(name="project", description="The project it is about.", required=False),
        ],
    )
]


async def read(seat: Seat, uri: str) -> str:
    """Read a resource as text.

    Raises:
        LookupError: there is nothing of this address.
        KnowledgePersistenceError: the item or session can't be read.
    """
    client = await seat.client()
    if uri == BRIEF:
        brief = await client.resume_brief(seat.project)
        return brief.text or "Nothing is known yet."
    if (item := _ITEM.fullmatch(uri)) and is_id(item[1]):
        return item_whole(await client.get(item[1]))
    if session := _SESSION.fullmatch(uri):
        found = await client.get_session(unquote(session[1]))
        return session_whole(found, await client.session_timeline(found.id))
    raise LookupError(f"there is no resource {one_line(uri)}")


def prompt(name: str, arguments: Mapping[str, str]) -> GetPromptResult:
    """Make a prompt.

    Raises:
        LookupError: there is none of this name.
        ValueError: an argument is missing.
    """
    if name != "begin":
        raise LookupError(f"there is no prompt {one_line(name)}")
    task = arguments.get("task", "").strip()
    if not task:
        raise ValueError("`task` is missing: what is to be done")
    project = arguments.get("project", "").strip()
    call = (
        f"start_session with task and {f'project {project!r}' if project else 'the project, if you know it'}"
    )
    text = (
        f"{task}\n\n"
        f"First call {call}, and read what it returns. Before you choose an approach, recall what is known. When "
        "something fails, find_gotchas before you try anything, and record_gotcha what you tried and what solved it. "
        "Remember what a later session should know, record_decision what was chosen and why, rate what you applied. "
        "At the end call end_session with a summary for whoever goes on."
    )
    return GetPromptResult(
        description="Work with memory.",
        messages=[PromptMessage(role="user", content=TextContent(type="text", text=text))],
    )
