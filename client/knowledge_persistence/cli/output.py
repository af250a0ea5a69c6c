"""How commands speak: data to standard output, talk to standard error, one way to fail."""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console

from knowledge_persistence.errors import (
    APIError,
    AuthenticationError,
    KnowledgePersistenceError,
    PermissionDeniedError,
    TransportError,
)
from knowledge_persistence.models import to_json

FAILED: Final = 1
NOT_REACHABLE: Final = 3
NOT_PERMITTED: Final = 4

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]

#: For people's data. Nothing in it is markup, and numbers are not coloured.
out = Console(highlight=False, markup=False, emoji=False)
#: For talk.
err = Console(stderr=True, highlight=False)

# What a terminal would obey rather than show. Stored text is other people's, too.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Return a text without what a terminal would obey: control characters and changes of direction."""
    return _CONTROL.sub("", text)


def emit_json(value: object) -> None:
    """Print a result as JSON; indented where a person looks on.

    Args:
        value: a result of the client, a list or dict of them, or plain data.
    """
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(to_json(value), ensure_ascii=False, indent=indent) + "\n")
    sys.stdout.flush()


def exit_code(error: KnowledgePersistenceError) -> int:
    """Return the documented exit code for an error."""
    if isinstance(error, TransportError):
        return NOT_REACHABLE
    if isinstance(error, (AuthenticationError, PermissionDeniedError)):
        return NOT_PERMITTED
    return FAILED


def print_error(error: KnowledgePersistenceError) -> None:
    """Print what went wrong, and what to do about it."""
    message = error.message if isinstance(error, APIError) else str(error)
    err.print("Error:", style="bold red", end=" ")
    err.print(clean(message), markup=False, soft_wrap=True)
    if isinstance(error, APIError):
        if error.detail:
            err.print(clean(error.detail), markup=False, style="dim", soft_wrap=True)
        if error.hint:
            err.print(f"Hint: {clean(error.hint)}", markup=False, soft_wrap=True)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print a message on standard error and end with an exit code."""
    err.print("Error:", style="bold red", end=" ")
    err.print(clean(message), markup=False, soft_wrap=True)
    raise typer.Exit(code)


def bar(score: float, width: int = 10) -> str:
    """Draw a score of 0 to 1 as a bar."""
    filled = round(max(0.0, min(1.0, score)) * width)
    return "█" * filled + "░" * (width - filled)
