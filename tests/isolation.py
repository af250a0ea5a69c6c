"""Random worlds, and what each person in them may know: said once more, in Python, independently of the policies.

The model reads the raw rows as a superuser and applies the rules of docs/explanation/visibility.md. What somebody may
know is then the set of ids and marker words that stand in the rows that they may see; anything else in an answer, of
whatever function, view or error, is a leak.
"""

from __future__ import annotations

import dataclasses
import random
import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from tally import count
from world import vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from world import Persona, World

Row = dict[str, Any]

UUID_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
#: A word that stands in one record's text and nowhere else; letters alone, so that no parser takes it apart.
MARKER_PATTERN = re.compile(r"mark[a-p]{10}")
_SUBJECTS = ("ports", "certificates", "caches", "migrations", "queues", "timeouts")
_COMPANIES = (
    "technical_gotchas",
    "command_patterns",
    "interaction_patterns",
    "experiential_knowledge",
    "decision_evolution",
)
_STATUSES = ("validated", "validated", "needs_update", "deprecated", "pending")
_READABLE = frozenset({"validated", "needs_update"})
_VALIDATORS = frozenset({"owner", "maintainer"})
_WRITERS = _VALIDATORS | {"contributor"}
_STAMP = re.compile(r"\d{4}-\d\d-\d\d[ t]\d\d:\d\d:\d\d\S*")
#: The default model's; what is searched for matters little, that something is compared does.
SOME_VECTOR = vector([0.1] * 384)
#: What reads, asked in a way that finds as much as possible.
QUESTIONS = "what do ports certificates caches migrations queues timeouts do tool flag"
SECTIONS = ["session", "item", "history", "relationship", "link", "duplicate", "merge", "test", "result"]
STATUSES = ["pending", "validated", "needs_update", "deprecated"]
READS: list[tuple[str, dict[str, object]]] = [
    ("search_knowledge", {"query_text": QUESTIONS, "max_results": 100, "validation_statuses": STATUSES}),
    ("search_knowledge", {"query_embedding": SOME_VECTOR, "max_results": 100}),
    ("recall_knowledge", {"query_text": QUESTIONS, "query_embedding": SOME_VECTOR, "max_results": 100}),
    ("find_similar_knowledge", {"query_embedding": SOME_VECTOR, "limit_results": 100, "similarity_threshold": -1.0}),
    ("get_contextual_knowledge", {"current_situation": QUESTIONS, "project_context": "atlas", "max_results": 100}),
    ("find_gotchas", {"problem": QUESTIONS, "max_results": 50}),
    ("suggest_commands", {"task": "tool --flag", "max_results": 50}),
    ("match_interaction_patterns", {"situation": QUESTIONS, "max_results": 50}),
    ("decision_history", {}),
    ("resume_brief", {"project_context": "atlas", "max_tokens": 8000, "situation": QUESTIONS}),
    ("knowledge_graph", {}),
    ("list_relationships", {}),
    ("duplicate_proposals", {}),
    ("discover_relationships", {}),
    ("discover_duplicates", {}),
    ("knowledge_audit", {"stale_after_days": 1, "unused_after_days": 1, "unvalidated_after_days": 1}),
    ("list_validation_tests", {}),
    ("validation_report", {}),
    ("knowledge_events_since", {"max_events": 1000}),
    ("my_workspaces", {}),
    ("list_agent_tokens", {}),
    ("get_store_items", {"keys": [{"namespace": ["notes"], "key": "any"}]}),
    ("search_store_items", {"query_text": QUESTIONS, "max_results": 100}),
    ("list_store_namespaces", {}),
    ("get_agent_session_items", {"conversation": "a talk"}),
    ("export_header", {"with_embeddings": True}),
    *(("export_records", {"section": section, "with_embeddings": True}) for section in SECTIONS),
]  # fmt: skip


@dataclass
class Place:
    """Somebody as a member of a workspace, and the sessions that they have there."""

    person: Persona
    workspace: uuid.UUID
    role: str
    sessions: list[uuid.UUID] = field(default_factory=list[uuid.UUID])


class RandomWorld:
    """People, workspaces and what they wrote, by a seed.

    Args:
        world: the empty stage.
        seed: the same seed makes the same world, except for ids.
        acts: how many things happen.
    """

    def __init__(self, world: World, seed: int, *, acts: int = 60) -> None:
        self.world = world
        self.random = random.Random(seed)  # noqa: S311 - the same world again
        self.people = [world.sign_up(f"person{number}") for number in range(self.random.randint(4, 6))]
        self.places: list[Place] = []
        for number in range(self.random.randint(2, 3)):
            self._make_workspace(f"workspace {number}")
        for _ in range(acts):
            self._act()
        for _ in range(3):
            self._rearrange()
        self.refresh()

    def refresh(self) -> None:
        """Read what there is now."""
        self.tables = self._read()
        self.known = frozenset(
            found
            for rows in self.tables.values()
            for row in rows
            for found in UUID_PATTERN.findall(_text(row))
        )
        self.markers = frozenset(
            found
            for rows in self.tables.values()
            for row in rows
            for found in MARKER_PATTERN.findall(_text(row))
        )

    # -- making it -----------------------------------------------------------------------------------------------

    def _make_workspace(self, name: str) -> None:
        owner, *others = self.random.sample(self.people, len(self.people))
        roles: dict[str, list[Persona]] = {}
        for person in others[: self.random.randint(2, len(others) - 1)]:
            roles.setdefault(
                self.random.choice(["maintainer", "contributor", "contributor", "reader"]), []
            ).append(person)
        workspace = self.world.workspace(name, owner=owner, **roles)
        self.places.append(Place(owner, workspace, "owner"))
        self.places += [Place(person, workspace, role) for role, people in roles.items() for person in people]

    @staticmethod
    def stand(
        person: Persona, workspace: uuid.UUID | None = None, session: uuid.UUID | None = None
    ) -> Persona:
        """Return the same person in another place, on the same connection: there are many places."""
        return dataclasses.replace(
            person, workspace=workspace, session=session, _connection=person.connection
        )

    def _inside(self, place: Place) -> Persona:
        return self.stand(place.person, place.workspace, self.random.choice([None, *place.sessions]))

    def marker(self) -> str:
        """Return a word that nobody has written yet."""
        return "mark" + "".join(self.random.choices("abcdefghijklmnop", k=10))

    def _text(self) -> str:
        subject, other = self.random.sample(_SUBJECTS, 2)
        return f"What {subject} do to {other} is told by {self.marker()}"

    def _act(self) -> None:
        place = self.random.choice([place for place in self.places if place.role in _WRITERS])
        if self.random.random() < 0.15:
            [started] = self.stand(place.person, place.workspace).rpc(
                "start_session", project_context="atlas"
            )
            place.sessions.append(started["session_id"])
        actor = self._inside(place)
        act = self.random.choice(
            [
                self._record,
                self._record,
                self._record,
                self._validate,
                self._validate,
                self._relate,
                self._other,
            ]
        )
        try:
            act(place, actor)
        except psycopg.Error as error:
            # What may not be done in this world is not done: a loop of relations, a state that it already has.
            if not (error.sqlstate or "").startswith("PT4"):
                raise

    def _record(self, _: Place, actor: Persona) -> None:
        text = self._text()
        match self.random.randrange(8):
            case 0:
                actor.rpc(
                    "record_gotcha",
                    problem_description=text,
                    attempted_solution="wait",
                    attempt_outcome="failed",
                )
            case 1:
                actor.rpc("record_command_run", command=f"tool --flag {self.marker()}", succeeded=True)
            case 2:
                actor.rpc("record_insight", insight_title=text[:40], insight_description=text)
            case 3:
                actor.rpc("record_decision_stage", decision_topic=text, understanding=text)
            case 4:
                actor.rpc("record_interaction_pattern", pattern_name=text, situation_type="review")
            case _:
                # Now and then what somebody else has written already: twins.
                again = self.world.superuser(
                    "select content from public.knowledge_items order by created_at, title"
                )
                content = (
                    self.random.choice(again)["content"] if again and self.random.random() < 0.2 else text
                )
                actor.record(content[:60], content, project_context=self.random.choice(["atlas", "borea"]))

    def _validate(self, place: Place, _: Persona) -> None:
        judges = [one for one in self.places if one.workspace == place.workspace and one.role in _VALIDATORS]
        item = self._some("knowledge_items", place.workspace)
        if item is not None:
            judge = self._inside(self.random.choice(judges))
            judge.rpc(
                "validate_knowledge", knowledge_id=item, validation_status=self.random.choice(_STATUSES)
            )

    def _relate(self, place: Place, actor: Persona) -> None:
        ends = [self._some("knowledge_items", place.workspace) for _ in range(2)]
        if None not in ends and ends[0] != ends[1]:
            kind = self.random.choice(["similar_to", "depends_on", "contradicts", "builds_on"])
            actor.rpc(
                "relate_knowledge",
                source_knowledge_id=ends[0],
                target_knowledge_id=ends[1],
                relationship_type=kind,
            )

    def _other(self, place: Place, actor: Persona) -> None:
        item = self._some("knowledge_items", place.workspace)
        if item is None:
            return
        match self.random.randrange(8):
            case 0:
                actor.rpc("rate_knowledge", knowledge_id=item, effectiveness_rating=8)
            case 1:
                actor.rpc(
                    "record_validation_test",
                    test_name=self._text(),
                    test_scenario=self._text(),
                    expected_knowledge_ids=[item],
                )
            case 2:
                actor.rpc("recall_knowledge", query_text=self.random.choice(_SUBJECTS))
            case 3:
                actor.rpc("forget_knowledge", knowledge_id=item)
            case 4:
                actor.rpc("add_agent_session_items", conversation="a talk", items=[{"content": self._text()}])
            case 5:
                stored = {"namespace": ["notes"], "key": self.marker(), "value": {"text": self._text()}}
                actor.rpc("put_store_items", items=[stored])
            case 6:
                actor.rpc("create_agent_token", name=self._text())
            case _:
                actor.rpc("discover_duplicates", knowledge_id=item)

    def _rearrange(self) -> None:
        """Let a member go, or change what they may do."""
        place = self.random.choice([place for place in self.places if place.role != "owner"] or self.places)
        if place.role == "owner":
            return
        [owner] = [one for one in self.places if one.workspace == place.workspace and one.role == "owner"]
        if self.random.random() < 0.5:
            owner.person.rpc("remove_workspace_member", workspace_id=place.workspace, user_id=place.person.id)
            self.places.remove(place)
        else:
            place.role = self.random.choice(["maintainer", "contributor", "reader"])
            owner.person.rpc(
                "set_workspace_member_role",
                workspace_id=place.workspace,
                user_id=place.person.id,
                role=place.role,
            )

    def _some(self, table: str, workspace: uuid.UUID) -> uuid.UUID | None:
        rows = self.world.superuser(
            f"select id from public.{table} where workspace_id = %s order by created_at, id", workspace
        )
        return self.random.choice(rows)["id"] if rows else None

    def _read(self) -> dict[str, list[Row]]:
        names = [
            row["relname"]
            for row in self.world.superuser(
                "select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace"
                " and c.relkind in ('r', 'p') and not c.relispartition"
                " and has_table_privilege('authenticated', c.oid, 'select') order by 1"
            )
        ]
        tables = {name: self.world.superuser(f"select * from public.{name}") for name in names}
        # Nobody reads this one, but functions tell of it.
        return {**tables, "agent_tokens": self.world.superuser("select * from private.agent_tokens")}

    # -- the model -----------------------------------------------------------------------------------------------

    def view(self, person: Persona) -> View:
        """Say what somebody may see, in the session that they name."""
        return View(self, person)


class View:
    """What one person may see of a world, by the rules as they are written down."""

    def __init__(self, world: RandomWorld, person: Persona) -> None:
        tables = world.tables
        self._me = person.id
        self._session = person.session
        roles = {
            row["workspace_id"]: row["role"]
            for row in tables["workspace_members"]
            if row["user_id"] == self._me
        }
        self._mine = frozenset(roles)
        self._maintained = frozenset(workspace for workspace, role in roles.items() if role in _VALIDATORS)
        self._items = {row["id"]: row for row in tables["knowledge_items"] if self._sees_item(row)}
        rules: dict[str, Callable[[Row], bool]] = {
            "knowledge_items": lambda row: row["id"] in self._items,
            "ai_sessions": self._sees_session,
            "session_knowledge_links": lambda row: (
                row["knowledge_id"] in self._items
                and (
                    row["owner_id"] == self._me
                    or self._items[row["knowledge_id"]]["workspace_id"] in self._maintained
                )
            ),
            "knowledge_relationships": lambda row: (
                {row["source_knowledge_id"], row["target_knowledge_id"]} <= self._items.keys()
            ),
            "knowledge_duplicates": lambda row: {row["keep_id"], row["duplicate_id"]} <= self._items.keys(),
            "knowledge_status_history": lambda row: row["knowledge_id"] in self._items,
            "knowledge_validation_tests": self._is_member,
            "validation_test_results": self._is_member,
            "knowledge_events": self._hears,
            "workspaces": lambda row: row["id"] in self._mine,
            "workspace_members": self._is_member,
            "embedding_models": lambda _: True,
            "agent_session_items": lambda row: self._is_member(row) and row["owner_id"] == self._me,
            "agent_tokens": lambda row: (
                self._is_member(row)
                and (row["user_id"] == self._me or row["workspace_id"] in self._maintained)
            ),
            **dict.fromkeys(_COMPANIES, lambda row: row["knowledge_id"] in self._items),
        }
        self.rows = {
            table: [row for row in rows if rules[table](row)]
            for table, rows in tables.items()
            if table in rules
        }
        self.unruled = tables.keys() - rules.keys()
        self.ids = frozenset(
            {str(self._me)}
            | {
                found
                for rows in self.rows.values()
                for row in rows
                for found in UUID_PATTERN.findall(_text(row))
            }
        )
        self.markers = frozenset(
            found
            for rows in self.rows.values()
            for row in rows
            for found in MARKER_PATTERN.findall(_text(row))
        )

    def _is_member(self, row: Row) -> bool:
        return row["workspace_id"] in self._mine

    def _sees_item(self, row: Row) -> bool:
        return self._is_member(row) and (
            row["validation_status"] in _READABLE
            or (row["validation_status"] == "deprecated" and row["validated_at"] is not None)
            or row["owner_id"] == self._me
            or (self._session is not None and row["created_in_session"] == self._session)
            or row["workspace_id"] in self._maintained
        )

    def _sees_session(self, row: Row) -> bool:
        return self._is_member(row) and (
            row["owner_id"] == self._me or row["workspace_id"] in self._maintained
        )

    def _hears(self, row: Row) -> bool:
        if not self._is_member(row):
            return False
        insider = row["owner_id"] == self._me or row["workspace_id"] in self._maintained
        return {"members": True, "owner": insider, "others": not insider}.get(row["audience"], False)

    def leaks(self, world: RandomWorld, answer: object) -> set[str]:
        """Return what an answer says that this person may not know."""
        text = _text(answer)
        ids = (set(UUID_PATTERN.findall(text)) & world.known) - self.ids
        return ids | ((set(MARKER_PATTERN.findall(text)) & world.markers) - self.markers)


def standpoints(random_world: RandomWorld) -> list[Persona]:
    """Everybody, in each of their workspaces, now and then in a session, and a stranger to all."""
    found = list(random_world.people)
    for place in random_world.places:
        found += [
            random_world.stand(place.person, place.workspace, session)
            for session in [None, *place.sessions[:1]]
        ]
    return [*found, random_world.world.sign_up("stranger")]


def functions(world: World) -> Iterator[tuple[str, dict[str, str], list[str]]]:
    """Every function that users may call: its name, its parameters with their types, and those that must be given."""
    for row in world.superuser(
        "select p.proname, p.proargnames[1:p.pronargs] as names, p.pronargs - p.pronargdefaults as required,"
        "       array(select format_type(t, null) from unnest(p.proargtypes) t) as types"
        "  from pg_proc p where p.pronamespace = 'public'::regnamespace"
        "   and has_function_privilege('authenticated', p.oid, 'execute') order by 1"
    ):
        kinds = dict(zip(row["names"] or [], row["types"], strict=True))
        yield row["proname"], kinds, list(kinds)[: row["required"]]


def tell(decisions: Counter[str]) -> None:
    """Count what was compared: for each principal and each door, each row that could have been told."""
    assert decisions.total() > 0
    count("isolation decisions", decisions.total())


def masked(answer: object) -> str:
    """Leave of an answer what must be the same whichever id was asked for."""
    return _STAMP.sub("WHEN", UUID_PATTERN.sub("ID", str(answer).lower()))


def _text(value: object) -> str:
    return str(value).lower()
