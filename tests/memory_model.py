"""What a workspace remembers, said once more in Python: in dictionaries, one act at a time, without a database.

The rules are those of docs/explanation (knowledge, visibility) and of the migrations' headers, written down again
rather than translated: a state machine drives both and compares them. Ids are the database's, told to the model as they
are given; times are ticks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

Role: TypeAlias = Literal["owner", "maintainer", "contributor", "reader"]
#: What an act may be refused with.
Refusal: TypeAlias = Literal["denied", "missing", "conflict", "invalid"]
#: change, from, to: as in knowledge_status_history.
Change: TypeAlias = tuple[str, str | None, str]

VALIDATORS = frozenset({"owner", "maintainer"})
WRITERS = VALIDATORS | {"contributor"}
READABLE = frozenset({"validated", "needs_update"})
SYMMETRIC = frozenset({"similar_to", "contradicts"})


class Refused(Exception):  # noqa: N818 - said of an act, not an error of the model's
    """The act must be refused, in one of these ways."""

    def __init__(self, *how: Refusal) -> None:
        super().__init__(", ".join(how))
        self.how = frozenset(how)


@dataclass
class Gotcha:
    """A problem that was met: how often, what was tried, and what works."""

    number: int
    met: int = 0
    attempts: list[tuple[str, str, bool]] = field(default_factory=list[tuple[str, str, bool]])
    solution: str | None = None

    @property
    def text(self) -> tuple[object, ...]:
        return ("gotcha", self.number, self.solution)


@dataclass
class Command:
    """A command that was run: how often, and how often it worked."""

    number: int
    runs: int = 0
    worked: int = 0

    @property
    def text(self) -> tuple[object, ...]:
        return ("command", self.number)


@dataclass
class Decision:
    """A decision: how it was, is and ends up understood; each stage's words, and whether it only proposes."""

    number: int
    stages: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    initial: str | None = None
    current: str | None = None
    final: str | None = None

    @property
    def text(self) -> tuple[object, ...]:
        return ("decision", self.number, self.initial, self.current, self.final)


Record: TypeAlias = Gotcha | Command | Decision


@dataclass
class Item:
    """A knowledge item.

    Attributes:
        text: what it says, as a key: two items with the same one are twins.
        born: the tick at which it was recorded.
        validated: the tick at which it was last validated, kept when it is deprecated.
    """

    id: UUID
    owner: str
    text: tuple[object, ...]
    word: str
    born: int
    record: Record | None = None
    status: str = "pending"
    validated: int | None = None
    superseded_by: UUID | None = None
    sitting: UUID | None = None
    position: int | None = None
    access_count: int = 0
    rating_sum: int = 0
    rating_count: int = 0
    success_count: int = 0
    failure_count: int = 0
    history: list[Change] = field(default_factory=list[Change])

    @property
    def lives(self) -> bool:
        return self.status != "deprecated" and self.superseded_by is None

    @property
    def signature(self) -> tuple[str, int] | None:
        return None if self.record is None else (type(self.record).__name__, self.record.number)

    def put(self, status: str) -> None:
        """Give it a status, and write that down where it is another."""
        if status != self.status:
            self.history.append(("status", self.status, status))
            self.status = status

    def supersede(self, by: UUID | None) -> None:
        """Let another take its place, or none, and write that down."""
        if by != self.superseded_by:
            self.history.append(("restored" if by is None else "superseded", self.status, self.status))
            self.superseded_by = by


@dataclass
class Sitting:
    """A session: whose, what it recorded and what it recalled."""

    id: UUID
    owner: str
    name: str
    ended: bool = False
    last_position: int = 0
    created: set[UUID] = field(default_factory=set[UUID])
    accessed: set[UUID] = field(default_factory=set[UUID])


@dataclass(frozen=True)
class Relation:
    """How one item stands to another."""

    id: UUID
    source: UUID
    target: UUID
    kind: str
    owner: str

    @property
    def need(self) -> tuple[UUID, UUID] | None:
        """Which item needs which, where it says so."""
        if self.kind == "depends_on":
            return self.source, self.target
        return (self.target, self.source) if self.kind == "required_for" else None


class Memory:
    """One workspace.

    Args:
        members: who is in it, with their roles.
    """

    def __init__(self, members: dict[str, Role]) -> None:
        self.members = members
        self.items: dict[UUID, Item] = {}
        self.sittings: dict[UUID, Sitting] = {}
        self.relations: dict[UUID, Relation] = {}
        self._ticks = itertools.count(1)

    # -- who may what ------------------------------------------------------------------------------------------------

    def maintains(self, who: str) -> bool:
        return self.members.get(who) in VALIDATORS

    def writes(self, who: str) -> bool:
        return self.members.get(who) in WRITERS

    def sees(self, who: str, item: Item) -> bool:
        """The visibility rule. A session's items are its owner's own here, so they need no line."""
        return who in self.members and (
            item.status in READABLE
            or (item.status == "deprecated" and item.validated is not None)
            or item.owner == who
            or self.maintains(who)
        )

    def visible(self, who: str) -> dict[UUID, Item]:
        return {item.id: item for item in self.items.values() if self.sees(who, item)}

    def found_by(self, who: str, word: str) -> set[UUID]:
        """What a search for a word that stands in them must find."""
        return {item.id for item in self.visible(who).values() if item.lives and item.word == word}

    def edits(self, who: str, item: Item) -> bool:
        return self.maintains(who) or (self.writes(who) and item.owner == who)

    def related(self, who: str) -> set[UUID]:
        seen = self.visible(who)
        return {one.id for one in self.relations.values() if one.source in seen and one.target in seen}

    def enter(self, who: str) -> None:
        """Refuse whoever names a workspace that is not theirs, whatever they ask for."""
        if who not in self.members:
            raise Refused("denied", "missing")

    def _item(self, who: str, item_id: UUID) -> Item:
        self.enter(who)
        item = self.items.get(item_id)
        if item is None or not self.sees(who, item):
            raise Refused("missing")
        return item

    # -- recording ---------------------------------------------------------------------------------------------------

    def twin(self, who: str, text: tuple[object, ...]) -> Item | None:
        """What is there already of a text, for whoever records it: their own, else what was validated last."""
        found = [item for item in self.visible(who).values() if item.lives and item.text == text]
        return min(
            found, key=lambda item: (item.owner != who, -(item.validated or 0), str(item.id)), default=None
        )

    def record(
        self, who: str, sitting: Sitting | None, item_id: UUID, text: tuple[object, ...], word: str
    ) -> Item:
        """Take in a new item under the id that it was given."""
        assert item_id not in self.items, "made anew, it has an id of its own"
        item = Item(item_id, who, text, word, next(self._ticks))
        self.items[item_id] = item
        if sitting is not None:
            item.sitting = sitting.id
            sitting.created.add(item_id)
        return item

    def writer(self, who: str) -> None:
        self.enter(who)
        if not self.writes(who):
            raise Refused("denied")

    def repeat_of(self, who: str, signature: tuple[str, int]) -> Item | None:
        """The record that a repeat counts on: the caller's own, else a validated one, else the oldest they see."""
        found = [item for item in self.visible(who).values() if item.lives and item.signature == signature]
        return min(
            found,
            key=lambda item: (item.owner != who, item.status != "validated", item.born),
            default=None,
        )

    def meet(self, item: Item, who: str, attempt: tuple[str, str] | None, given: str | None) -> None:
        """Count one sighting of a gotcha."""
        gotcha = item.record
        assert isinstance(gotcha, Gotcha)
        solution = given or (attempt[0] if attempt is not None and attempt[1] == "worked" else None)
        attempts = [] if attempt is None else [(*attempt, False)]
        is_first = gotcha.met == 0
        edits = is_first or self.edits(who, item)
        if not edits and solution is not None and (attempt is None or attempt[0] != solution):
            # Not their text to change, nor anything to lose.
            attempts.append((solution, "worked", False))
        if not is_first and edits and gotcha.solution and given and gotcha.solution != given:
            attempts.append((gotcha.solution, "worked", True))
        gotcha.met += 1
        gotcha.attempts += attempts
        if edits:
            gotcha.solution = solution if is_first else given or gotcha.solution or solution
        self._follow_record(item, who)

    def run(self, item: Item, *, succeeded: bool) -> None:
        """Count one run of a command."""
        assert isinstance(item.record, Command)
        item.record.runs += 1
        item.record.worked += succeeded

    def decide(self, item: Item, who: str, understanding: str, *, is_final: bool) -> None:
        """Add a stage to a decision; who may not edit it only proposes."""
        decision = item.record
        assert isinstance(decision, Decision)
        edits = not decision.stages or self.edits(who, item)
        decision.stages.append((understanding, not edits))
        if edits:
            decision.initial = decision.initial or understanding
            decision.current = understanding
            decision.final = understanding if is_final else decision.final
        self._follow_record(item, who)

    def _follow_record(self, item: Item, who: str) -> None:
        """Say in the item what its record says; what the workspace trusted was the old text."""
        if item.record is None or item.text == item.record.text:
            return
        item.text = item.record.text
        if not self.maintains(who) and item.status != "pending":
            item.validated = None
            item.put("pending")

    # -- what becomes of an item -------------------------------------------------------------------------------------

    def validate(self, who: str, item_id: UUID, status: str) -> list[UUID]:
        """Decide on an item; return the twins that it now supersedes."""
        item = self._item(who, item_id)
        if not self.maintains(who):
            raise Refused("denied")
        if item.status == "deprecated" != status and item.superseded_by is None:
            self._refuse_second(item)
        if status == "validated" and item.status != status:
            item.validated = next(self._ticks)
        item.put(status)
        if status != "validated" or item.superseded_by is not None:
            return []
        twins = [
            one for one in self.items.values() if one.lives and one.text == item.text and one is not item
        ]
        for twin in twins:
            twin.supersede(item.id)
        return sorted(twin.id for twin in twins)

    def _refuse_second(self, item: Item) -> None:
        """An owner has a text, and a record of a signature, alive once."""
        if any(self._takes_its_place(one, item) for one in self.items.values()):
            raise Refused("conflict")

    @staticmethod
    def _takes_its_place(one: Item, item: Item) -> bool:
        return (
            one is not item
            and one.lives
            and one.owner == item.owner
            and (one.text == item.text or (one.signature is not None and one.signature == item.signature))
        )

    def _decides_supersession(self, who: str, item: Item) -> None:
        if not self.maintains(who) and not (
            item.owner == who and item.status == "pending" and self.writes(who)
        ):
            raise Refused("denied")

    def supersede(self, who: str, item_id: UUID, by: UUID) -> str:
        item = self._item(who, item_id)
        replacement = self._item(who, by)
        self._decides_supersession(who, item)
        if item is replacement:
            raise Refused("invalid")
        if replacement.status == "deprecated":
            raise Refused("conflict")
        if item.status in READABLE and replacement.status not in READABLE:
            raise Refused("conflict")
        if item.superseded_by == by:
            return "unchanged"
        following = replacement.superseded_by
        while following is not None:
            if following == item_id:
                raise Refused("conflict")
            following = self.items[following].superseded_by
        item.supersede(by)
        return "superseded"

    def undo(self, who: str, item_id: UUID) -> str:
        item = self._item(who, item_id)
        self._decides_supersession(who, item)
        if item.superseded_by is None:
            return "unchanged"
        if item.status != "deprecated":
            self._refuse_second(item)
        item.supersede(None)
        return "restored"

    def rate(self, who: str, item_id: UUID, rating: int | None, *, success: bool | None) -> Item:
        item = self._item(who, item_id)
        item.rating_sum += rating or 0
        item.rating_count += rating is not None
        item.success_count += success is True
        item.failure_count += success is False
        return item

    def recalled(self, sitting: Sitting | None, found: Iterable[UUID]) -> None:
        """Count what a recall has answered."""
        for item_id in found:
            self.items[item_id].access_count += 1
            if sitting is not None:
                sitting.accessed.add(item_id)

    # -- relations ---------------------------------------------------------------------------------------------------

    def relate(self, who: str, source: UUID, target: UUID, kind: str) -> Relation | None:
        """Return what is there already; None where a new one is to be made."""
        self._item(who, source)
        self._item(who, target)
        if source == target:
            raise Refused("invalid")
        ends = {(source, target)} | ({(target, source)} if kind in SYMMETRIC else set())
        for one in self.relations.values():
            if one.kind == kind and (one.source, one.target) in ends:
                return one
        if not self.writes(who):
            raise Refused("denied")
        need = replace(Relation(UUID(int=0), source, target, kind, who)).need
        if need is not None and need[0] in self._needed_by(need[1]):
            raise Refused("conflict")
        return None

    def _needed_by(self, item: UUID) -> set[UUID]:
        """An item and all that it needs, directly or through others."""
        reached, waiting = {item}, [item]
        while waiting:
            last = waiting.pop()
            for one in self.relations.values():
                need = one.need
                if need is not None and need[0] == last and need[1] not in reached:
                    reached.add(need[1])
                    waiting.append(need[1])
        return reached

    def unrelate(self, who: str, relation_id: UUID) -> None:
        self.enter(who)
        relation = self.relations.get(relation_id)
        if relation is None or relation_id not in self.related(who):
            raise Refused("missing")
        if not self.maintains(who) and not (relation.owner == who and self.writes(who)):
            raise Refused("denied")
        del self.relations[relation_id]

    # -- erasing -----------------------------------------------------------------------------------------------------

    def forget(self, who: str, item_id: UUID) -> tuple[int, set[UUID]]:
        """Erase an item; return how many relations went with it, and what is in force again."""
        item = self._item(who, item_id)
        if item.owner != who and not self.maintains(who):
            raise Refused("denied")
        retired = [one for one in self.items.values() if one.superseded_by == item_id]
        heirs = {one.id: self._heir(one, item, retired) for one in retired if one.status != "deprecated"}
        for one in retired:
            one.supersede(heirs.get(one.id))
        del self.items[item_id]
        gone = [one.id for one in self.relations.values() if item_id in (one.source, one.target)]
        for relation_id in gone:
            del self.relations[relation_id]
        for sitting in self.sittings.values():
            sitting.created.discard(item_id)
            sitting.accessed.discard(item_id)
        return len(gone), {one.id for one in retired if one.superseded_by is None}

    def _heir(self, one: Item, erased: Item, retired: Collection[Item]) -> UUID | None:
        """What supersedes an item whose successor is erased: that one's own, else what is alive in its place."""
        if erased.superseded_by is not None:
            return erased.superseded_by

        def living(alike: Callable[[Item], bool]) -> UUID | None:
            return next(
                (
                    other.id
                    for other in self.items.values()
                    if other.lives and other.id != erased.id and other.owner == one.owner and alike(other)
                ),
                None,
            )

        def first(alike: Callable[[Item], bool]) -> UUID | None:
            ids = [
                other.id
                for other in retired
                if other.status != "deprecated" and other.owner == one.owner and alike(other)
            ]
            return None if min(ids) == one.id else min(ids)

        def same_text(other: Item) -> bool:
            return other.text == one.text

        def same_record(other: Item) -> bool:
            return other.signature == one.signature

        is_record = one.signature is not None
        return (
            living(same_text)
            or (living(same_record) if is_record else None)
            or first(same_text)
            or (first(same_record) if is_record else None)
        )

    # -- members -----------------------------------------------------------------------------------------------------

    def _manage(self, who: str) -> None:
        if who not in self.members:
            raise Refused("missing")
        if self.members[who] != "owner":
            raise Refused("denied")

    def _keep_an_owner(self, whom: str) -> None:
        if [name for name, role in self.members.items() if role == "owner"] == [whom]:
            raise Refused("conflict")

    def add_member(self, who: str, whom: str, role: Role) -> None:
        self._manage(who)
        if whom in self.members:
            raise Refused("conflict")
        self.members[whom] = role

    def set_role(self, who: str, whom: str, role: Role) -> None:
        self._manage(who)
        if role != "owner":
            self._keep_an_owner(whom)
        if whom not in self.members:
            raise Refused("missing")
        self.members[whom] = role

    def remove_member(self, who: str, whom: str) -> None:
        if who != whom:
            self._manage(who)
        self._keep_an_owner(whom)
        if whom not in self.members:
            raise Refused("missing")
        del self.members[whom]

    # -- time --------------------------------------------------------------------------------------------------------

    def in_force(self) -> frozenset[UUID]:
        """What a search would find at this moment, if everything were visible."""
        return frozenset(item.id for item in self.items.values() if item.lives)
