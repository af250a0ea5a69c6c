"""What the commands for gotchas, commands, insights, decisions and patterns have in common."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.padding import Padding
from rich.text import Text

from .output import bar, clean, err, fail, out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

_USAGE: Final = 2

STATUS_STYLES: Final = {
    "validated": "green",
    "pending": "yellow",
    "needs_update": "magenta",
    "deprecated": "red",
}

ProjectOption = Annotated[str | None, typer.Option(help="The project it belongs to (KP_PROJECT).")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="So many at most.")]
CategoryOption = Annotated[str | None, typer.Option(help="A word to sort by.")]
AllowCredentialsOption = Annotated[
    bool, typer.Option("--allow-credentials", help="Take the text though it looks like it holds one.")
]


def piped_text(*, exact: bool = False) -> str:
    """Return standard input. Logs hold what is no text (another encoding's bytes, NUL): that is replaced.

    Args:
        exact: nothing is replaced; what isn't UTF-8 is wrong usage.
    """
    data = sys.stdin.buffer.read()
    if not exact:
        return data.decode("utf-8", "replace").replace("\0", "\ufffd")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        fail(f"standard input is no UTF-8: byte {error.start} can't be read", _USAGE)


def given_text(argument: str, what: str) -> str:
    """Return a text, read from standard input where the argument is ``-``; a blank one is wrong usage.

    Args:
        argument: the text, or ``-``.
        what: what it is, for the message.
    """
    text = (piped_text() if argument == "-" else argument).strip()
    if not text:
        fail(f"{what} is blank", _USAGE)
    return text


def print_recorded(knowledge_id: UUID, said: str, *, status: str, created: bool) -> None:
    """Print a record's item on standard output, and on standard error what became of it.

    Args:
        knowledge_id: the item: what `validate`, `rate` and `show` take.
        said: what became of it.
        status: the item's validation status.
        created: whether it is new.
    """
    out.print(str(knowledge_id))
    if created and status == "pending":
        said += " It is yours alone until it is validated: `kp validate item` shows it to the workspace."
    err.print(clean(said), markup=False, soft_wrap=True)


def heading(title: str, status: str) -> Text:
    """Write the line that a found record begins with."""
    line = Text(clean(title), style="bold")
    line.append(f"  {status}", style=f"not bold {STATUS_STYLES.get(status, '')}")
    return line


def print_indented(text: str | Text, *, by: int = 2, style: str = "") -> None:
    """Print a text with all its lines indented; other people's text comes as `str` and is cleaned."""
    shown = Text(clean(text).strip(), style=style) if isinstance(text, str) else text
    out.print(Padding(shown, (0, 0, 0, by)))


def print_labelled(label: str, value: str | Sequence[str] | None, *, style: str = "") -> None:
    """Print a label and one text, or a label and a list; nothing where there is none."""
    if not value:
        return
    texts = [value] if isinstance(value, str) else [one for one in value if one.strip()]
    if len(texts) == 1 and "\n" not in texts[0].strip():
        line = Text(f"{label}: ", style="bold")
        line.append(clean(texts[0]).strip(), style=f"not bold {style}")
        print_indented(line)
        return
    print_indented(Text(f"{label}:", style="bold"))
    for text in texts:
        # A list's items are marked; a single text of several lines is just shown.
        print_indented(f"- {clean(text).strip()}" if len(texts) > 1 else text, by=4, style=style)


def print_sure(score: float, reason: str) -> None:
    """Print how sure a finding is, 0 to 1, and why."""
    line = Text("How sure: ", style="bold")
    line.append(f"{bar(score)} {score:.2f}", style="not bold cyan")
    line.append(f"  {clean(reason)}", style="not bold")
    print_indented(line)


def times(count: int) -> str:
    """Say how often."""
    return "once" if count == 1 else "twice" if count == 2 else f"{count} times"  # noqa: PLR2004


def first_line(text: str, length: int = 100) -> str:
    """Return the first line of a text that is not blank, cut to a length in characters."""
    line = next((line.strip() for line in clean(text).splitlines() if line.strip()), "")
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"
