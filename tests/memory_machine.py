"""Drives real clients and the model of `memory_model` through the same acts, and compares what they say.

A machine is one workspace with five members and a stranger, each with a client of their own, through whichever door the
stage opens. After every act everybody looks: at the items, their counters, relations and sessions that they see. What
nobody sees whole (attempts, stages, the trail) is read past the policies.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from knowledge_persistence import KnowledgeClient, NewKnowledge
from knowledge_persistence.errors import (
    ConflictError,
    InvalidArgumentError,
    KnowledgePersistenceError,
    NotFoundError,
    PermissionDeniedError,
)
from memory_model import Command, Decision, Gotcha, Item, Memory, Refused, Relation, Role, Sitting
from tally import count

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from datetime import datetime

    from knowledge_persistence import SessionHandle
    from world import World

T = TypeVar("T")
U = TypeVar("U")

PEOPLE: dict[str, Role] = {
    "olga": "owner",
    "max": "maintainer",
    "ana": "contributor",
    "ben": "contributor",
    "rita": "reader",
}
EVERYBODY = (*PEOPLE, "sam")
#: Words that no language stems and no other text has.
PLAIN = ("zorvex", "quilmar", "brastok", "fendwig")
PROBLEMS = ("grendok", "plashtim")
COMMANDS = ("vornabu", "kestrolo")
TOPICS = ("jandrik", "mulvoth")
SOLUTIONS = ("restart it", "wait a minute")
STATUSES = ("pending", "validated", "validated", "needs_update", "deprecated")
ITEM_COLUMNS = (
    "id",
    "validation_status",
    "superseded_by",
    "created_in_session",
    "session_position",
    "access_count",
    "rating_sum",
    "rating_count",
    "success_count",
    "failure_count",
)
_REFUSALS: dict[str, type[KnowledgePersistenceError]] = {
    "denied": PermissionDeniedError,
    "missing": NotFoundError,
    "conflict": ConflictError,
    "invalid": InvalidArgumentError,
}

#: Those who may do more act more often.
who = st.sampled_from(("olga", "max", "max", "ana", "ana", "ana", "ben", "ben", "rita", "sam"))
which = st.integers(0, 1_000)
members = st.sampled_from(("max", "ana", "ben", "rita", "olga"))


@dataclass
class Stage:
    """Where machines play: a database, its people, and a door for each of them.

    Attributes:
        world: to look past the policies.
        ids: of the people, by name.
        clients: of the people, by name; the same in every play.
        watchers: how many of the people look at everything after each act; the others' turn comes next.
    """

    world: World
    ids: dict[str, UUID]
    clients: dict[str, KnowledgeClient]
    watchers: int = 2


@contextmanager
def staged(world: World, enter: Callable[[UUID], KnowledgeClient]) -> Generator[Stage]:
    """Let everybody sign up, and in through a door; close all of it afterwards."""
    with ExitStack() as opened:
        opened.callback(world.close)
        ids = {name: UUID(str(world.sign_up(name).id)) for name in EVERYBODY}
        clients = {name: enter(user) for name, user in ids.items()}
        for client in clients.values():
            opened.callback(client.close)
        yield Stage(world, ids, clients)


@dataclass
class Player:
    """Somebody with a client, and the session that they are in."""

    name: str
    client: KnowledgeClient
    handles: dict[UUID, SessionHandle] = field(default_factory=dict["UUID", "SessionHandle"])
    sitting: Sitting | None = None

    @property
    def hand(self) -> KnowledgeClient | SessionHandle:
        return self.client if self.sitting is None else self.handles[self.sitting.id]


@dataclass(frozen=True)
class Moment:
    """A time, and what was in force then."""

    time: datetime
    in_force: frozenset[UUID]


class MemoryMachine(RuleBasedStateMachine):
    """A workspace, played through by its people."""

    stage: Stage

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(dict(PEOPLE))
        self.players: dict[str, Player] = {}
        self.moments: list[Moment] = []
        self._turn = 0

    @initialize()
    def gather(self) -> None:
        world, ids = self.stage.world, self.stage.ids
        owner = world.as_user(ids["olga"])
        [made] = owner.rpc("create_workspace", name="play")
        owner.connection.close()
        self.workspace = cast("UUID", made["workspace_id"])
        for name, role in PEOPLE.items():
            if name != "olga":
                world.superuser(
                    "insert into public.workspace_members (workspace_id, user_id, role) values (%s, %s, %s)",
                    self.workspace,
                    ids[name],
                    role,
                )
        # A client for this workspace, on the connections that they have.
        self.players = {
            name: Player(name, KnowledgeClient(client.core.transport, workspace=self.workspace))
            for name, client in self.stage.clients.items()
        }
        count("plays")
        # Something to begin with: private twins, and records that others may repeat.
        self.remember("ana", [0, 1])
        self.remember("ben", [0])
        self.meet_problem("ana", 0, (SOLUTIONS[0], "failed"), None)
        self.decide("ben", 0, "left", is_final=False)
        for item in (2, 3, 4):
            self.validate("max", item, "validated")

    # -- how acts are compared ---------------------------------------------------------------------------------------

    @contextmanager
    def _refused(self, refusal: Refused) -> Generator[None]:
        with pytest.raises(tuple(_REFUSALS[how] for how in refusal.how)):
            yield

    def act(self, modelled: Callable[[], T], done: Callable[[], U]) -> tuple[T, U] | None:
        """Do something in the model and in the database: refused in both, or in neither."""
        count("acts")
        try:
            expected = modelled()
        except Refused as refusal:
            count("acts refused")
            with self._refused(refusal):
                done()
            return None
        return expected, done()

    def pick(self, number: int) -> UUID:
        """Choose an item; when there is none, an id that names nothing."""
        ids = list(self.memory.items)
        return ids[number % len(ids)] if ids else UUID(int=number)

    # -- sessions ----------------------------------------------------------------------------------------------------

    @rule(name=who, identifier=st.sampled_from(("monday", "tuesday")))
    def sit_down(self, name: str, identifier: str) -> None:
        player = self.players[name]
        handle = player.client.session(identifier)
        outcome = self.act(lambda: self.memory.enter(name), handle.__enter__)
        if outcome is None:
            return
        known = next(
            (one for one in self.memory.sittings.values() if (one.owner, one.name) == (name, identifier)),
            None,
        )
        assert handle.resumed == (known is not None)
        if known is None:
            known = self.memory.sittings[handle.id] = Sitting(handle.id, name, identifier)
        assert handle.id == known.id
        known.ended = False
        player.handles[known.id] = handle
        player.sitting = known

    @rule(name=who)
    def stand_up(self, name: str) -> None:
        self.players[name].sitting = None

    @rule(name=who)
    def end_session(self, name: str) -> None:
        player = self.players[name]
        sitting = player.sitting
        if sitting is None:
            return
        outcome = self.act(lambda: self.memory.enter(name), player.handles[sitting.id].end)
        if outcome is not None:
            sitting.ended = True
            assert outcome[1].knowledge_items_created == len(sitting.created)
            assert outcome[1].knowledge_items_accessed == len(sitting.accessed)

    # -- recording ---------------------------------------------------------------------------------------------------

    @rule(name=who, numbers=st.lists(st.integers(0, len(PLAIN) - 1), min_size=1, max_size=3))
    def remember(self, name: str, numbers: list[int]) -> None:
        player, memory = self.players[name], self.memory
        sitting = player.sitting

        def modelled() -> dict[int, Item | None]:
            memory.enter(name)
            twins = {number: memory.twin(name, ("plain", number)) for number in numbers}
            if None in twins.values():
                memory.writer(name)
            return twins

        # White space and repetition are no difference.
        items = [
            NewKnowledge(
                title=f"On {PLAIN[number]}", content=f"The {PLAIN[number]}  valve opens to the left."
            )
            for number in numbers
        ]
        outcome = self.act(modelled, lambda: player.hand.remember_many(items))
        if outcome is None:
            return
        twins, answers = outcome
        first = 0
        if sitting is not None:
            first = sitting.last_position + 1
            sitting.last_position += len(numbers)
        for place, (number, answer) in enumerate(zip(numbers, answers, strict=True)):
            twin = twins[number]
            assert answer.outcome == ("created" if twin is None else "duplicate")
            if twin is None:
                twin = memory.record(name, sitting, answer.knowledge_id, ("plain", number), PLAIN[number])
                twin.position = None if sitting is None else first + place
                twins[number] = twin
            assert answer.knowledge_id == twin.id
            assert answer.validation_status == twin.status
            assert answer.session_position == twin.position

    def _merge(
        self, name: str, new: Gotcha | Command | Decision, word: str, done: Callable[[], Any]
    ) -> tuple[Item, Any] | None:
        """Record a sighting; return the item that it counts on, made where it is the first."""
        memory, sitting = self.memory, self.players[name].sitting
        outcome = self.act(lambda: memory.writer(name), done)
        if outcome is None:
            return None
        answer = outcome[1]
        item = memory.repeat_of(name, (type(new).__name__, new.number))
        assert answer.outcome == ("created" if item is None else "merged")
        if item is None:
            item = memory.record(name, sitting, answer.knowledge_id, (), word)
            item.record = new
            if sitting is not None:
                sitting.last_position += 1
                item.position = sitting.last_position
        assert answer.knowledge_id == item.id
        return item, answer

    @rule(
        name=who,
        number=st.integers(0, len(PROBLEMS) - 1),
        attempt=st.none()
        | st.tuples(st.sampled_from(SOLUTIONS), st.sampled_from(("worked", "failed", "partial"))),
        solution=st.none() | st.sampled_from(SOLUTIONS),
    )
    def meet_problem(
        self, name: str, number: int, attempt: tuple[str, str] | None, solution: str | None
    ) -> None:
        merged = self._merge(
            name,
            Gotcha(number),
            PROBLEMS[number],
            lambda: self.players[name].hand.record_gotcha(
                f"ValueError: {PROBLEMS[number]} is bad",
                attempted_solution=attempt[0] if attempt else None,
                attempt_outcome=cast("Any", attempt[1] if attempt else None),
                working_solution=solution,
            ),
        )
        if merged is None:
            return
        item, answer = merged
        self.memory.meet(item, name, attempt, solution)
        gotcha = item.record
        assert isinstance(gotcha, Gotcha)
        assert answer.frequency_encountered == gotcha.met
        assert answer.attempt_count == len(gotcha.attempts)
        assert answer.working_solution == gotcha.solution
        assert answer.validation_status == item.status

    @rule(name=who, number=st.integers(0, len(COMMANDS) - 1), succeeded=st.booleans())
    def run_command(self, name: str, number: int, *, succeeded: bool) -> None:
        merged = self._merge(
            name,
            Command(number),
            COMMANDS[number],
            lambda: self.players[name].hand.record_command_run(
                f"make   {COMMANDS[number]}", succeeded=succeeded
            ),
        )
        if merged is None:
            return
        item, answer = merged
        command = item.record
        assert isinstance(command, Command)
        item.text = command.text
        self.memory.run(item, succeeded=succeeded)
        assert (answer.usage_count, answer.success_count) == (command.runs, command.worked)

    @rule(
        name=who,
        number=st.integers(0, len(TOPICS) - 1),
        understanding=st.sampled_from(("left", "right")),
        is_final=st.booleans(),
    )
    def decide(self, name: str, number: int, understanding: str, *, is_final: bool) -> None:
        merged = self._merge(
            name,
            Decision(number),
            TOPICS[number],
            lambda: self.players[name].hand.record_decision_stage(
                f"Which way {TOPICS[number]} turns", understanding=understanding, is_final=is_final
            ),
        )
        if merged is None:
            return
        item, answer = merged
        self.memory.decide(item, name, understanding, is_final=is_final)
        decision = item.record
        assert isinstance(decision, Decision)
        assert answer.stage == len(decision.stages)
        assert answer.is_proposal == decision.stages[-1][1]
        assert answer.is_final == (decision.final is not None)
        assert answer.validation_status == item.status

    # -- what becomes of it ------------------------------------------------------------------------------------------

    @rule(name=who, item=which, status=st.sampled_from(STATUSES))
    def validate(self, name: str, item: int, status: str) -> None:
        chosen = self.pick(item)
        outcome = self.act(
            lambda: self.memory.validate(name, chosen, status),
            lambda: self.players[name].hand.validate(chosen, cast("Any", status)),
        )
        if outcome is not None:
            assert sorted(outcome[1].merged_ids) == outcome[0]

    @rule(name=who, item=which, other=which)
    def supersede(self, name: str, item: int, other: int) -> None:
        chosen, replacement = self.pick(item), self.pick(other)
        outcome = self.act(
            lambda: self.memory.supersede(name, chosen, replacement),
            lambda: self.players[name].hand.supersede(chosen, replacement),
        )
        if outcome is not None:
            assert outcome[1].outcome == outcome[0]

    @rule(name=who, item=which)
    def undo_supersede(self, name: str, item: int) -> None:
        retired = [one.id for one in self.memory.items.values() if one.superseded_by is not None]
        chosen = retired[item % len(retired)] if retired else self.pick(item)
        outcome = self.act(
            lambda: self.memory.undo(name, chosen), lambda: self.players[name].hand.undo_supersede(chosen)
        )
        if outcome is not None:
            assert outcome[1].outcome == outcome[0]
            assert outcome[1].valid_to is None, "nothing here had an end before"

    @rule(
        name=who,
        item=which,
        rating=st.none() | st.integers(1, 10),
        success=st.none() | st.booleans(),
    )
    def rate(self, name: str, item: int, rating: int | None, *, success: bool | None) -> None:
        if rating is None and success is None:
            return
        chosen = self.pick(item)
        outcome = self.act(
            lambda: self.memory.rate(name, chosen, rating, success=success),
            lambda: self.players[name].hand.rate(
                chosen, effectiveness_rating=rating, application_success=success
            ),
        )
        if outcome is not None:
            rated, answer = outcome
            assert (answer.rating_count, answer.success_count) == (rated.rating_count, rated.success_count)

    @rule(name=who, item=which)
    def forget(self, name: str, item: int) -> None:
        chosen = self.pick(item)
        outcome = self.act(
            lambda: self.memory.forget(name, chosen), lambda: self.players[name].hand.forget(chosen)
        )
        if outcome is not None:
            (relations, restored), answer = outcome
            assert answer.relationships_removed == relations
            assert set(answer.restored_ids) == restored

    # -- relations ---------------------------------------------------------------------------------------------------

    @rule(
        name=who,
        item=which,
        other=which,
        kind=st.sampled_from(("depends_on", "depends_on", "required_for", "similar_to", "builds_upon")),
    )
    def relate(self, name: str, item: int, other: int, kind: str) -> None:
        ends = self.pick(item), self.pick(other)
        outcome = self.act(
            lambda: self.memory.relate(name, *ends, kind),
            lambda: self.players[name].hand.relate(*ends, cast("Any", kind)),
        )
        if outcome is None:
            return
        known, answer = outcome
        if known is None:
            assert answer.outcome == "created"
            known = Relation(answer.relationship_id, *ends, kind, name)
            self.memory.relations[known.id] = known
        assert answer.relationship_id == known.id

    @rule(name=who, relation=which)
    def unrelate(self, name: str, relation: int) -> None:
        ids = list(self.memory.relations)
        chosen = ids[relation % len(ids)] if ids else UUID(int=relation)
        self.act(
            lambda: self.memory.unrelate(name, chosen),
            lambda: self.players[name].hand.remove_relationship(chosen),
        )

    # -- members -----------------------------------------------------------------------------------------------------

    @rule(
        name=st.sampled_from(("olga", "olga", "olga", "max", "ana", "sam")),
        whom=members,
        role=st.sampled_from(("maintainer", "contributor", "contributor", "reader")),
    )
    def rearrange(self, name: str, whom: str, role: Role) -> None:
        """Let somebody in, or give a member another role."""
        client, user = self.players[name].client, self.stage.ids[whom]
        if whom in self.memory.members:
            self.act(
                lambda: self.memory.set_role(name, whom, role),
                lambda: client.set_workspace_member_role(self.workspace, user, role=role),
            )
        else:
            self.act(
                lambda: self.memory.add_member(name, whom, role),
                lambda: client.add_workspace_member(self.workspace, user, role=role),
            )

    @rule(name=st.sampled_from(("olga", "max", "ana", "rita", "sam")), whom=members, really=st.integers(0, 3))
    def remove_member(self, name: str, whom: str, really: int) -> None:
        if really:
            return  # most of the time everybody stays
        client, user = self.players[name].client, self.stage.ids[whom]
        self.act(
            lambda: self.memory.remove_member(name, whom),
            lambda: client.remove_workspace_member(self.workspace, user),
        )

    # -- looking -----------------------------------------------------------------------------------------------------

    @rule(name=who, item=which, counted=st.booleans())
    def ask(self, name: str, item: int, *, counted: bool) -> None:
        """Search by a word that stands in an item; a recall counts what it answers."""
        player, memory = self.players[name], self.memory
        chosen = memory.items.get(self.pick(item))
        word = PLAIN[0] if chosen is None else chosen.word
        look = player.hand.recall if counted else player.hand.search
        outcome = self.act(lambda: memory.enter(name), lambda: look(word, max_results=100))
        if outcome is None:
            return
        found = {one.knowledge_id for one in outcome[1]}
        seen = memory.visible(name)
        assert memory.found_by(name, word) <= found
        assert found <= {one.id for one in seen.values() if one.lives}
        count("decisions", len(memory.items))
        if counted:
            memory.recalled(player.sitting, found)

    @rule()
    def remember_the_moment(self) -> None:
        [row] = self.stage.world.superuser("select clock_timestamp() as now")
        self.moments.append(Moment(row["now"], self.memory.in_force()))

    @rule(name=who, item=which, moment=which)
    def look_back(self, name: str, item: int, moment: int) -> None:
        """Ask what was in force then: among what is there, and may be seen, today."""
        player, memory = self.players[name], self.memory
        if not self.moments or not memory.items:
            return
        then = self.moments[moment % len(self.moments)]
        word = memory.items[self.pick(item)].word
        outcome = self.act(
            lambda: memory.enter(name), lambda: player.hand.search(word, as_of=then.time, max_results=100)
        )
        if outcome is None:
            return
        found = {one.knowledge_id for one in outcome[1]}
        possible = {one for one in memory.visible(name) if one in then.in_force}
        assert {one for one in possible if memory.items[one].word == word} <= found <= possible
        count("decisions", len(memory.items))

    @invariant()
    def everybody_sees_what_they_may(self) -> None:
        names = list(self.players)
        for place in range(min(self.stage.watchers, len(names))):
            self._compare_views(names[(self._turn + place) % len(names)])
        self._turn += self.stage.watchers

    def _compare_views(self, name: str) -> None:
        memory, client = self.memory, self.players[name].client
        if name not in memory.members:
            with pytest.raises((PermissionDeniedError, NotFoundError)):
                client.search(PLAIN[0])
            # Of an empty table nobody needs to ask whose the workspace is.
            with suppress(PermissionDeniedError):
                assert self._rows(name, "knowledge_items", ["id"]) == []
            return
        rows = self._rows(name, "knowledge_items", ITEM_COLUMNS)
        shown = {UUID(str(row["id"])): tuple(_plain(row[one]) for one in ITEM_COLUMNS[1:]) for row in rows}
        expected = {item.id: _columns(item) for item in memory.visible(name).values()}
        assert shown == expected, (
            f"{name}: shown {shown.items() - expected.items()}, not {expected.items() - shown.items()}"
        )
        relations = self._rows(name, "knowledge_relationships", ["id"])
        assert {UUID(str(row["id"])) for row in relations} == memory.related(name), name
        sessions = {one.id: one for one in client.list_sessions(limit=1000)}
        assert sessions.keys() == {
            one.id for one in memory.sittings.values() if one.owner == name or memory.maintains(name)
        }
        for session in sessions.values():
            sitting = memory.sittings[session.id]
            assert (session.end_time is not None) == sitting.ended
            assert session.knowledge_items_created == len(sitting.created)
            assert session.knowledge_items_accessed == len(sitting.accessed)
        count("decisions", len(memory.items) + len(memory.relations) + len(memory.sittings))

    def _rows(self, name: str, table: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        core = self.players[name].client.core
        return core.select(table, columns, core.context(), equal={"workspace_id": self.workspace})

    @invariant()
    def nothing_is_lost(self) -> None:
        if not self.players:
            return
        world = self.stage.world
        trail: dict[UUID, list[tuple[object, ...]]] = {}
        for row in world.superuser(
            "select h.knowledge_id, h.change, h.from_status, h.to_status from public.knowledge_status_history h"
            " join public.knowledge_items k on k.id = h.knowledge_id where k.workspace_id = %s order by h.id",
            self.workspace,
        ):
            trail.setdefault(row["knowledge_id"], []).append(
                (row["change"], row["from_status"], row["to_status"])
            )
        for item in self.memory.items.values():
            assert sorted(trail.get(item.id, []), key=str) == sorted(item.history, key=str), item
        records = {item.id: item.record for item in self.memory.items.values() if item.record is not None}
        kept: dict[UUID, object] = {}
        for row in world.superuser(
            "select * from public.technical_gotchas where workspace_id = %s", self.workspace
        ):
            attempts = [
                (one["solution"], one["outcome"], one.get("replaced", False))
                for one in row["attempted_solutions"]
            ]
            kept[row["knowledge_id"]] = (row["frequency_encountered"], attempts, row["working_solution"])
        for row in world.superuser(
            "select * from public.command_patterns where workspace_id = %s", self.workspace
        ):
            kept[row["knowledge_id"]] = (row["usage_count"], row["success_count"])
        for row in world.superuser(
            "select * from public.decision_evolution where workspace_id = %s", self.workspace
        ):
            stages = [
                (one["understanding"], one.get("is_proposal", False)) for one in row["evolution_stages"]
            ]
            kept[row["knowledge_id"]] = (
                stages,
                row["initial_understanding"],
                row["current_understanding"],
                row["final_understanding"],
            )
        assert kept == {item_id: _record(record) for item_id, record in records.items()}


def _columns(item: Item) -> tuple[object, ...]:
    return (
        item.status,
        item.superseded_by and str(item.superseded_by),
        item.sitting and str(item.sitting),
        item.position,
        item.access_count,
        item.rating_sum,
        item.rating_count,
        item.success_count,
        item.failure_count,
    )


def _plain(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


def _record(record: Gotcha | Command | Decision) -> object:
    if isinstance(record, Gotcha):
        return record.met, record.attempts, record.solution
    if isinstance(record, Command):
        return record.runs, record.worked
    return record.stages, record.initial, record.current, record.final


def how(*, examples: int, steps: int, repeatable: bool = True) -> settings:
    """How a machine is run: so many plays of so many acts, the same each time unless it is to look for new ones."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=repeatable,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )


def machine(stage: Stage) -> type[MemoryMachine]:
    """Make the machine of a stage."""
    return cast("type[MemoryMachine]", type("MemoryMachineOnStage", (MemoryMachine,), {"stage": stage}))


def without_shrinking(given: settings) -> settings:
    """The same, for where it is enough to know that something is wrong."""
    return settings(given, phases=[Phase.generate])
