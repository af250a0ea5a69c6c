"""What an agent is told: compact text, within a number of tokens.

Stored text is somebody's, not ours: it is indented, and control characters are taken out, so that no item can pass
for another one, or for a word of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from knowledge_persistence.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    CredentialError,
    EmbeddingError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from knowledge_persistence.errors import KnowledgePersistenceError
    from knowledge_persistence.models import (
        Attempt,
        FoundGotcha,
        JSONObject,
        KnowledgeItem,
        RecalledKnowledge,
        Session,
        SessionEvent,
    )

#: Tokens below which a part of a text tells too little to be shown.
_WORTH_SHOWING: Final = 60

#: What stands where a text was cut.
_CUT: Final = " […cut; get_item has it whole]"

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_PLAIN = re.compile(r"[A-Za-z\s]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool answers.

    Attributes:
        text: for the model.
        structured: the same for a program, where the tool promises it.
    """

    text: str
    structured: JSONObject | None = None


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens a model makes of a text, rather too many, by the rule of the resume brief."""
    plain = len(_PLAIN.findall(text))
    ascii_characters = sum(character.isascii() for character in text)
    wide = len(text.encode("utf-8", "replace")) - ascii_characters
    return -(-(4 * plain + 7 * (ascii_characters - plain) + 7 * wide) // 14)


def shown(text: str) -> str:
    """Return a text without what is not meant to be seen."""
    return _UNSEEN.sub("", text.replace("\r\n", "\n")).strip()


def one_line(text: str, length: int = 200) -> str:
    """Return a text on one line, at most so many characters long."""
    line = " ".join(shown(text).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def indented(text: str) -> str:
    """Return a text whose every line begins with blanks."""
    return "\n".join(f"   {line}".rstrip() for line in shown(text).split("\n"))


def cut(text: str, tokens: int) -> tuple[str, bool]:
    """Return as much of a text as so many tokens hold, and whether something is missing."""
    if estimate_tokens(text) <= tokens:
        return text, False
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if estimate_tokens(text[:middle]) <= tokens else (low, middle - 1)
    kept = text[:low]
    # At a word's end, where one is near.
    space = kept.rfind(" ", max(0, low - 40))
    return kept[:space] if space > 0 else kept, True


def pack(entries: Sequence[tuple[str, str]], max_tokens: int, more: str) -> str:
    """Put entries into as many tokens as there are, the first ones first.

    A long body is cut rather than left out, and takes no more than half of what is left while others wait.

    Args:
        entries: a heading and a body each.
        max_tokens: how long the whole may be.
        more: what to say about those that are left out; ``{}`` is how many.
    """
    lines: list[str] = []
    left = max_tokens - estimate_tokens(more)
    for number, (heading, body) in enumerate(entries):
        head = f"{number + 1}. {heading}"
        text = indented(body)
        whole = estimate_tokens(text)
        room = left - estimate_tokens(head) - estimate_tokens(_CUT) - 2
        share = room if number == len(entries) - 1 else max(room // 2, min(room, 2 * _WORTH_SHOWING))
        allowed = max(min(whole, share), 0)
        if lines and (room < 0 or allowed < min(whole, _WORTH_SHOWING)):
            lines.append(more.format(len(entries) - number))
            break
        kept, is_cut = cut(text, allowed)
        entry = "\n".join(filter(None, (head, kept))) + (_CUT if is_cut else "")
        lines.append(entry)
        left -= estimate_tokens(entry) + 1
    return "\n".join(lines)


def recalled(found: Sequence[RecalledKnowledge], max_tokens: int) -> str:
    """Tell what was found."""
    if not found:
        return "Nothing is known about this. Try other words; what you find out, record with remember."
    entries: list[tuple[str, str]] = []
    for item in found:
        # A title that was made of the content says nothing more.
        made = item.content.lstrip().startswith(item.title.rstrip("…"))
        title = "" if made else f"{_short(item.title, 40)} "
        entries.append((f"{title}({_marks(item)}) id={item.knowledge_id}", item.content))
    return pack(entries, max_tokens, "{} more found; a larger max_tokens shows them.")


def _marks(item: RecalledKnowledge) -> str:
    marks = [
        _short(item.category, 15) if item.category != "general" else item.knowledge_type,
        "not validated" if item.validation_status == "pending" else item.validation_status,
        None if item.project_context is None else _short(item.project_context, 20),
        f"{item.created_at:%Y-%m-%d}",
    ]
    return ", ".join(mark for mark in marks if mark)


def _short(text: str, tokens: int) -> str:
    """Return a text on one line, of so many tokens at most."""
    kept, is_cut = cut(one_line(text), tokens - 1)
    return f"{kept}…" if is_cut else kept


def found_gotchas(found: Sequence[FoundGotcha], max_tokens: int) -> str:
    """Tell what is known against a problem."""
    if not found:
        return "This problem is not known. Solve it, then record it with record_gotcha: what was tried in vain, too."
    entries: list[tuple[str, str]] = []
    for one in found:
        match = "SAME PROBLEM" if one.exact_match else "similar"
        met = f"met {_times(one.frequency_encountered)}, confidence {one.confidence:.2f}"
        heading = f"{match}: {_short(one.problem_signature, 60)} ({met}) id={one.knowledge_id}"
        entries.append((heading, "\n".join(_known_against(one))))
    return pack(entries, max_tokens, "{} more; a larger max_tokens shows them.")


def _known_against(one: FoundGotcha) -> Iterable[str]:
    if one.working_solution:
        yield f"Solution: {one.working_solution}"
    else:
        yield "No solution is known yet."
    if one.failed:
        yield "Tried in vain: " + "; ".join(_attempt(attempt) for attempt in one.failed[-4:])
    if one.prevention_guidance:
        yield f"Prevention: {one.prevention_guidance}"


def _attempt(attempt: Attempt) -> str:
    return one_line(attempt.solution, 160) + (" (helped in part)" if attempt.outcome == "partial" else "")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def item_whole(item: KnowledgeItem, max_tokens: int | None = None) -> str:
    """Tell one item whole, or as much of it as there is room for."""
    facts = [_short(item.title, 60), f"id={item.id}"]
    if item.superseded_by:
        facts.append(f"REPLACED by id={item.superseded_by}: read that one instead")
    facts += [
        f"type: {item.knowledge_type}, category: {_short(item.category, 15)}",
        f"status: {item.validation_status}",
        f"recorded: {item.created_at:%Y-%m-%d}",
    ]
    if item.project_context:
        facts.append(f"project: {_short(item.project_context, 20)}")
    if item.success_count or item.failure_count:
        facts.append(f"applied: worked {_times(item.success_count)}, failed {_times(item.failure_count)}")
    if item.retrieval_triggers:
        tags = ", ".join(item.retrieval_triggers)
        facts.append(
            f"tags: {one_line(tags, len(tags) + 1) if max_tokens is None else _short(tags, max_tokens // 5)}"
        )
    head = "\n".join(facts)
    body, is_cut = indented(item.content), False
    if max_tokens is not None:
        body, is_cut = cut(body, max(max_tokens - estimate_tokens(head) - 15, 0))
    return f"{head}\n\n{body}" + (f"\n[…cut at {max_tokens} tokens]" if is_cut else "")


def session_whole(session: Session, events: Sequence[SessionEvent]) -> str:
    """Tell a session and what happened in it."""
    ended = "running" if session.end_time is None else f"ended {session.end_time:%Y-%m-%d %H:%M}"
    lines = [
        f'Session "{one_line(session.session_identifier)}", started {session.start_time:%Y-%m-%d %H:%M} UTC, {ended}',
        f"recorded {session.knowledge_items_created}, recalled {session.knowledge_items_accessed}, "
        f"breakthroughs {session.breakthrough_moments}"
        + (
            ""
            if session.session_quality_score is None
            else f", quality {session.session_quality_score} of 100"
        ),
    ]
    if session.project_context:
        lines.append(f"project: {one_line(session.project_context, 60)}")
    if session.summary:
        lines.append(f"summary: {one_line(session.summary, 2000)}")
    lines.extend(
        f"- {event.happened_at:%H:%M:%S} {event.event}"
        + "".join(f" {one_line(part)}" for part in (event.title, event.detail) if part)
        + (f" id={event.knowledge_id}" if event.knowledge_id else "")
        for event in events
    )
    return "\n".join(lines)


def explained(error: KnowledgePersistenceError) -> str:
    """Tell what went wrong, and what to do next."""
    said = error.message if isinstance(error, APIError) else str(error)
    hint = error.hint if isinstance(error, APIError) else None
    return f"{shown(said).rstrip('.')}. {_next_step(error, hint)}"


def _next_step(error: KnowledgePersistenceError, hint: str | None) -> str:
    if isinstance(error, TransportError) and error.may_have_arrived:
        return (
            "The memory went away before it answered, so this may have been done all the same. "
            "Look (recall, get_item) before you repeat it."
        )
    for kind, step in _NEXT_STEPS:
        if isinstance(error, kind):
            return step
    if hint:
        return f"{hint[0].upper()}{hint[1:].rstrip('.')}."
    for kind, step in _WITHOUT_A_HINT:
        if isinstance(error, kind):
            return step
    return "That is no fault of yours; go on without it, and tell the user."


# Where the deployment's own hint would not help an agent.
_NEXT_STEPS: Final = (
    (
        TransportError,
        (
            "The memory can't be reached; nothing was done. Go on without it, tell the user "
            "(`kp up` starts it, `kp doctor` examines it), and try again later."
        ),
    ),
    (
        AuthenticationError,
        "Ask the user to sign in again (`kp login`), or to give you a new token; then repeat the call.",
    ),
    (
        CredentialError,
        "Nothing was recorded. Record it again without the secret: say where it is kept, not what it is.",
    ),
    (NotFoundError, "Ids are those that recall, find_gotchas and the recording tools give; copy one whole."),
    (EmbeddingError, "Search by meaning does not work now; tell the user (`kp doctor` examines it)."),
    (ConfigurationError, "Only the user can change that; tell the user."),
)
_WITHOUT_A_HINT: Final = (
    (PermissionDeniedError, "It takes a role that you do not have here; tell the user."),
    (RateLimitError, "Wait a few seconds, then repeat the call."),
    (InvalidArgumentError, "Change the arguments and call again."),
    (ConflictError, "Change the arguments and call again."),
)
