"""The tools: what an agent may do, and when it should.

Each is one call of the client and its presentation. What a model reads of a tool is its name, its description and
its arguments' descriptions, in every request: they say when to use it, and are kept short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, TypeVar, cast
from uuid import UUID  # noqa: TC003 - pydantic reads it

from mcp_types import Tool, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from knowledge_persistence.errors import EmbeddingError, KnowledgePersistenceError

from .answers import Answer, explained, found_gotchas, item_whole, one_line, recalled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from .seat import Seat

KnowledgeKind = Literal[
    "factual", "procedural", "contextual", "relational", "experiential", "technical_discovery"
]
Line = Annotated[str, Field(min_length=1, max_length=500)]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Tag = Annotated[str, Field(min_length=1, max_length=100)]


class Arguments(BaseModel):
    """What a tool takes. An argument that it does not know is an error: dropped, it would be lost in silence."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class Outcome(BaseModel):
    """What a tool that writes answers, for programs; `message` is what the text says."""

    message: str


class Recorded(Outcome):
    """What became of a record."""

    id: UUID
    outcome: Literal["created", "duplicate", "merged"]
    status: Literal["pending", "validated", "needs_update", "deprecated"]


class Rated(Outcome):
    """An item's ratings."""

    id: UUID
    ratings: int
    average: float | None
    worked: int
    failed: int


class Ended(Outcome):
    """How a session ended."""

    session: str
    recorded: int
    recalled: int
    quality: int | None


class WrongArgumentsError(Exception):
    """An argument is missing, unknown or outside its range; the message names it."""


A = TypeVar("A", bound=Arguments)

#: Tokens for what start_session says before the brief.
_HEADLINES: Final = 90


@dataclass(frozen=True, slots=True)
class ToolSpec(Generic[A]):
    """A tool.

    Attributes:
        arguments: what it takes.
        run: does it.
        outcome: what it answers for programs; None: text alone.
    """

    name: str
    title: str
    description: str
    arguments: type[A]
    run: Callable[[Seat, A], Awaitable[Answer]]
    annotations: ToolAnnotations
    outcome: type[Outcome] | None = None

    def described(self) -> Tool:
        """Return the tool as it is listed."""
        return Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=_bare(self.arguments.model_json_schema()),
            output_schema=None if self.outcome is None else _bare(self.outcome.model_json_schema()),
            annotations=self.annotations,
        )

    async def call(self, seat: Seat, given: Mapping[str, Any]) -> Answer:
        """Check the arguments, and do it.

        Raises:
            WrongArgumentsError: an argument is missing, unknown or outside its range.
        """
        try:
            arguments = self.arguments.model_validate(given)
        except ValidationError as error:
            raise WrongArgumentsError(_wrong(self.name, error)) from error
        return await self.run(seat, arguments)


def _bare(schema: dict[str, Any]) -> dict[str, Any]:
    """Take out of a schema what a model has no use for: generated titles, nulls beside what may be left out."""
    bare: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "description" and "properties" in schema:
            continue
        if key == "properties":
            bare[key] = {name: _bare(one) for name, one in cast("dict[str, dict[str, Any]]", value).items()}
        elif isinstance(value, dict):
            bare[key] = _bare(cast("dict[str, Any]", value))
        else:
            bare[key] = value
    choices = bare.get("anyOf")
    if bare.get("default", ...) is None and isinstance(choices, list):
        [only] = [_bare(one) for one in cast("list[dict[str, Any]]", choices) if one != {"type": "null"}]
        bare = {key: value for key, value in bare.items() if key not in {"anyOf", "default"}} | only
    return bare


def _wrong(tool: str, error: ValidationError) -> str:
    """Say what is wrong with the arguments, one line each, and what is to be done."""
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"])
        match problem["type"]:
            case "missing":
                lines.append(f"`{where}` is missing.")
            case "extra_forbidden":
                lines.append(f"there is no argument `{where}`.")
            case _:
                said = problem["msg"].removeprefix("Value error, ")
                lines.append(f"`{where}`: {said}." if where else f"{said}.")
    return f"{tool} was not called: {' '.join(lines)} Correct the arguments and call again."


# Sessions


class _StartSession(Arguments):
    task: Annotated[
        Line | None,
        Field(description="What you are about to do, in a sentence; what bears on it comes back."),
    ] = None
    project: Annotated[
        Annotated[str, Field(min_length=1, max_length=200)] | None,
        Field(description="The project, such as the repository's name. Use the same name each time."),
    ] = None
    resume: Annotated[
        Annotated[str, Field(min_length=1, max_length=200)] | None,
        Field(description="Only to go on with an earlier session: its name."),
    ] = None
    max_tokens: Annotated[int, Field(ge=200, le=8000, description="How long the answer may be.")] = 1500


async def _start_session(seat: Seat, given: _StartSession) -> Answer:
    session, before = await seat.begin(given.resume, project=given.project)
    room = given.max_tokens - _HEADLINES
    unsearched = None
    try:
        brief = await session.resume_brief(max_tokens=room, situation=given.task)
    except EmbeddingError as error:
        # The session has begun, and most of the brief needs no vector.
        unsearched = f"What bears on the task could not be looked for: {one_line(str(error))}"
        brief = await session.resume_brief(max_tokens=room)
    lines: list[str] = []
    if before is not None:
        lines.append(f'Session "{one_line(before.session_identifier, 60)}" ended.')
    project = session.started.project_context
    lines.append(
        f'Session "{one_line(session.identifier, 60)}" {"resumed" if session.resumed else "started"}'
        + (f" on {one_line(project, 60)}." if project else ".")
    )
    if unsearched is not None:
        lines.append(unsearched)
    lines.append(brief.text or "Nothing is known yet. Record what you learn with remember.")
    return Answer("\n".join(lines))


class _EndSession(Arguments):
    summary: Annotated[
        Annotated[str, Field(min_length=1, max_length=4000)],
        Field(
            description="For whoever goes on: what was done, what works, what is open. Two to five sentences."
        ),
    ]
    quality: Annotated[
        Annotated[int, Field(ge=1, le=100)] | None,
        Field(description="How well it went, if you can tell; else it is computed."),
    ] = None
    user_feedback: Annotated[
        Annotated[str, Field(min_length=1, max_length=2000)] | None,
        Field(description="What the user said of the result, in their words."),
    ] = None


async def _end_session(seat: Seat, given: _EndSession) -> Answer:
    ended = await seat.finish(given.summary, quality_score=given.quality, user_feedback=given.user_feedback)
    message = (
        f'Session "{one_line(ended.session_identifier)}" ended: {ended.knowledge_items_created} recorded, '
        f"{ended.knowledge_items_accessed} recalled. The summary is kept for the next one."
    )
    return _told(
        Ended(
            message=message,
            session=ended.session_identifier,
            recorded=ended.knowledge_items_created,
            recalled=ended.knowledge_items_accessed,
            quality=ended.session_quality_score,
        )
    )


# Finding


class _Recall(Arguments):
    query: Annotated[
        Annotated[str, Field(min_length=1, max_length=4000)],
        Field(description="A question or keywords; exact identifiers (settings, files, codes) help."),
    ]
    kind: Annotated[KnowledgeKind | None, Field(description="Only this type of knowledge.")] = None
    max_results: Annotated[int, Field(ge=1, le=30)] = 6
    max_tokens: Annotated[int, Field(ge=200, le=16_000, description="How long the answer may be.")] = 1200


async def _recall(seat: Seat, given: _Recall) -> Answer:
    session = await seat.session()
    found = await session.recall(
        given.query,
        max_results=given.max_results,
        knowledge_types=None if given.kind is None else [given.kind],
    )
    return Answer(recalled(found, given.max_tokens))


class _FindGotchas(Arguments):
    problem: Annotated[
        Text, Field(description="The error text or stack trace as it is; or what goes wrong, in words.")
    ]
    max_results: Annotated[int, Field(ge=1, le=10)] = 3
    max_tokens: Annotated[int, Field(ge=200, le=16_000, description="How long the answer may be.")] = 1000


async def _find_gotchas(seat: Seat, given: _FindGotchas) -> Answer:
    session = await seat.session()
    found = await session.find_gotchas(given.problem, max_results=given.max_results)
    return Answer(found_gotchas(found, given.max_tokens))


class _GetItem(Arguments):
    id: Annotated[UUID, Field(description="The item's id.")]
    max_tokens: Annotated[int, Field(ge=250, le=32_000, description="How long the answer may be.")] = 4000


async def _get_item(seat: Seat, given: _GetItem) -> Answer:
    client = await seat.client()
    return Answer(item_whole(await client.get(given.id), given.max_tokens))


# Recording


class _Remember(Arguments):
    content: Annotated[
        Text,
        Field(
            description="One thing, a few sentences that can be understood without this conversation: "
            "name the system, the version, the reason."
        ),
    ]
    title: Annotated[Line | None, Field(description="One line that says what it is about.")] = None
    kind: Annotated[
        KnowledgeKind,
        Field(
            description="factual: how something is. procedural: how to do it. contextual: the situation, the "
            "user's preferences. relational: how things hang together. experiential: a lesson. "
            "technical_discovery: found out by trying."
        ),
    ] = "factual"
    tags: Annotated[
        Annotated[list[Tag], Field(max_length=20)] | None,
        Field(description="Exact words that should bring it up: settings, error codes, file names."),
    ] = None
    importance: Annotated[
        int, Field(ge=1, le=100, description="Above 80 only for what must not be missed.")
    ] = 50
    replaces: Annotated[
        UUID | None, Field(description="The id of an item that is wrong or outdated by this.")
    ] = None


async def _remember(seat: Seat, given: _Remember) -> Answer:
    session = await seat.session()
    kept = await session.remember(
        given.content,
        title=given.title,
        knowledge_type=given.kind,
        importance_score=given.importance,
        retrieval_triggers=given.tags,
    )
    message = (
        f"Recorded, id={kept.knowledge_id}."
        if kept.outcome == "created"
        else f"Known already, id={kept.knowledge_id}; nothing was added."
    )
    if kept.outcome == "created":
        seat.did(one_line(given.title or given.content, 80))
    if given.replaces is not None and given.replaces != kept.knowledge_id:
        try:
            await session.supersede(given.replaces, kept.knowledge_id)
        except KnowledgePersistenceError as error:
            # What was recorded stays recorded, so that is told, with what did not follow.
            message += f" But {given.replaces} still stands: {explained(error)}"
        else:
            message += f" It replaces {given.replaces}, which recall no longer returns."
    return _told(
        Recorded(message=message, id=kept.knowledge_id, outcome=kept.outcome, status=kept.validation_status)
    )


class _RecordGotcha(Arguments):
    problem: Annotated[
        Text,
        Field(description="The error text as it is, so that it is known again; or the problem in words."),
    ]
    solution: Annotated[Text | None, Field(description="What works, as soon as you know it.")] = None
    tried: Annotated[Text | None, Field(description="One thing that was tried.")] = None
    tried_outcome: Annotated[
        Literal["failed", "partial", "worked"] | None, Field(description="How that went. Goes with tried.")
    ] = None
    prevention: Annotated[Text | None, Field(description="How not to meet it again.")] = None
    severity: Annotated[Annotated[int, Field(ge=1, le=10)] | None, Field(description="10: work stops.")] = (
        None
    )

    @model_validator(mode="after")
    def _belong_together(self) -> _RecordGotcha:
        if (self.tried is None) != (self.tried_outcome is None):
            raise ValueError("`tried` and `tried_outcome` go together")
        return self


async def _record_gotcha(seat: Seat, given: _RecordGotcha) -> Answer:
    session = await seat.session()
    kept = await session.record_gotcha(
        given.problem,
        attempted_solution=given.tried,
        attempt_outcome=given.tried_outcome,
        working_solution=given.solution,
        prevention_guidance=given.prevention,
        severity_level=given.severity,
    )
    signature = one_line(kept.problem_signature, 120)
    if kept.outcome == "created":
        message = f'Recorded as "{signature}", id={kept.knowledge_id}.'
    else:
        message = (
            f'Added to "{signature}", met {kept.frequency_encountered} times now, id={kept.knowledge_id}.'
        )
    if kept.working_solution is None:
        message += " Call again with solution once you have it."
    elif given.solution is None:
        message += f" Known solution: {one_line(kept.working_solution, 400)}"
    seat.did(f"problem {signature}" + (" (solved)" if given.solution else ""))
    return _told(
        Recorded(message=message, id=kept.knowledge_id, outcome=kept.outcome, status=kept.validation_status)
    )


class _RecordDecision(Arguments):
    topic: Annotated[
        Line, Field(description="What was to be decided, worded the same each time: 'database for X'.")
    ]
    decision: Annotated[Text, Field(description="What was chosen; with final=false, where it stands.")]
    rationale: Annotated[Text | None, Field(description="Why; what would change it.")] = None
    alternatives: Annotated[
        Annotated[list[Line], Field(max_length=20)] | None, Field(description="What else was considered.")
    ] = None
    final: Annotated[bool, Field(description="False while it is open.")] = True


async def _record_decision(seat: Seat, given: _RecordDecision) -> Answer:
    session = await seat.session()
    kept = await session.record_decision_stage(
        given.topic,
        understanding=given.decision,
        rationale=given.rationale,
        alternatives=None if given.alternatives is None else list(given.alternatives),
        is_final=given.final,
    )
    if kept.outcome == "created":
        message = f"Recorded, id={kept.knowledge_id}."
    else:
        message = f"Added to the decision on this topic as stage {kept.stage}, id={kept.knowledge_id}."
    if kept.is_proposal:
        message += " It is a proposal: the decision is somebody else's to change."
    seat.did(f"{'decision' if given.final else 'considered'}: {one_line(given.topic, 80)}")
    return _told(
        Recorded(message=message, id=kept.knowledge_id, outcome=kept.outcome, status=kept.validation_status)
    )


class _Rate(Arguments):
    id: Annotated[UUID, Field(description="The item's id.")]
    worked: Annotated[bool | None, Field(description="Whether applying it worked.")] = None
    rating: Annotated[
        Annotated[int, Field(ge=1, le=10)] | None, Field(description="How useful it was, 10 is best.")
    ] = None
    notes: Annotated[
        Annotated[str, Field(min_length=1, max_length=2000)] | None, Field(description="Why.")
    ] = None

    @model_validator(mode="after")
    def _says_something(self) -> _Rate:
        if self.worked is None and self.rating is None:
            raise ValueError("give `worked` or `rating`, or both")
        return self


async def _rate(seat: Seat, given: _Rate) -> Answer:
    session = await seat.session()
    kept = await session.rate(
        given.id,
        effectiveness_rating=given.rating,
        application_success=given.worked,
        notes=given.notes,
    )
    message = f"Noted: worked {kept.success_count}, failed {kept.failure_count}." + (
        "" if kept.average_rating is None else f" Average rating {kept.average_rating:.1f}."
    )
    if given.worked is False:
        message += " If you know better, remember it with replaces."
    return _told(
        Rated(
            message=message,
            id=kept.knowledge_id,
            ratings=kept.rating_count,
            average=kept.average_rating,
            worked=kept.success_count,
            failed=kept.failure_count,
        )
    )


def _told(outcome: Outcome) -> Answer:
    return Answer(outcome.message, outcome.model_dump(mode="json"))


def _hints(*, reads: bool = False, repeatable: bool = False, destroys: bool = False) -> ToolAnnotations:
    if reads:
        return ToolAnnotations(read_only_hint=True, open_world_hint=False)
    return ToolAnnotations(
        read_only_hint=False, destructive_hint=destroys, idempotent_hint=repeatable, open_world_hint=False
    )


TOOLS: Final[dict[str, ToolSpec[Any]]] = {
    one.name: one
    for one in (
        ToolSpec(
            "start_session",
            "Start a session",
            "Call once, before you begin a task. Returns what earlier sessions left: how they ended, decisions in "
            "force, open problems, what is known about the task.",
            _StartSession,
            _start_session,
            _hints(),
        ),
        ToolSpec(
            "recall",
            "Recall knowledge",
            "Search memory. Use it before you choose an approach, when you would otherwise guess or ask, and when "
            "the user refers to something earlier. For an error use find_gotchas.",
            _Recall,
            _recall,
            _hints(reads=True),
        ),
        ToolSpec(
            "find_gotchas",
            "Look up a problem",
            "Look up an error or problem: what solved it, what was tried in vain. Use it first when a command, test "
            "or call fails, before you try anything.",
            _FindGotchas,
            _find_gotchas,
            _hints(reads=True),
        ),
        ToolSpec(
            "get_item",
            "Read an item",
            "Read one item whole, by its id, when an answer cut it short or names it.",
            _GetItem,
            _get_item,
            _hints(reads=True),
        ),
        ToolSpec(
            "remember",
            "Remember knowledge",
            "Record one thing that a later session should know, as soon as you learn it: a fact, how something is "
            "done, what the user prefers, what you found out. Problems go to record_gotcha, choices to "
            "record_decision. Never secrets, nor what the code itself says.",
            _Remember,
            _remember,
            _hints(repeatable=True),
            Recorded,
        ),
        ToolSpec(
            "record_gotcha",
            "Record a problem",
            "Record a problem that cost time: what was tried, and the solution once it is found. Call it again with "
            "the same problem when you learn more: it is merged.",
            _RecordGotcha,
            _record_gotcha,
            _hints(),
            Recorded,
        ),
        ToolSpec(
            "record_decision",
            "Record a decision",
            "Record a choice with its reasons when it is made: architecture, dependency, convention, scope; what a "
            "later session might question or undo. The same topic again adds a stage.",
            _RecordDecision,
            _record_decision,
            _hints(),
            Recorded,
        ),
        ToolSpec(
            "rate",
            "Rate an item",
            "Say whether a recalled item helped, right after you applied it. It moves the item's rank.",
            _Rate,
            _rate,
            _hints(),
            Rated,
        ),
        ToolSpec(
            "end_session",
            "End the session",
            "Call once, when the task is done or the user stops: the summary is what the next session begins with.",
            _EndSession,
            _end_session,
            _hints(repeatable=True),
            Ended,
        ),
    )
}
