"""A workspace with one person in each role, and the races and forgeries that every kind of record must stand."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from world import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from world import Persona, World

NOBODY = uuid.UUID("00000000-0000-4000-8000-000000000000")


class Team:
    """A workspace with one person in each role, and a stranger with a workspace of their own."""

    def __init__(self, world: World) -> None:
        """Let everybody sign up and the owner make the workspace."""
        self.world = world
        people = {
            name: world.sign_up(name)
            for name in ("owner", "maintainer", "author", "colleague", "reader", "stranger")
        }
        self.id = world.workspace(
            "team",
            owner=people["owner"],
            maintainer=people["maintainer"],
            contributor=[people["author"], people["colleague"]],
            reader=people["reader"],
        )
        self.strangers_id = world.workspace("elsewhere", owner=people["stranger"])
        self.owner, self.maintainer, self.author, self.colleague, self.reader = (
            people[name].inside(self.id) for name in ("owner", "maintainer", "author", "colleague", "reader")
        )
        self.stranger = people["stranger"].inside(self.strangers_id)

    def shared(self, title: str, content: str | None = None, **arguments: object) -> uuid.UUID:
        """Let the author record an item and the maintainer validate it."""
        item = self.author.record(title, content, **arguments)
        self.maintainer.rpc("validate_knowledge", knowledge_id=item)
        return item

    def everybody(self) -> list[Persona]:
        """Return all six, and a user who is nobody's member."""
        nobody = self.world.as_user(uuid.uuid4(), name="nobody")
        return [
            self.owner,
            self.maintainer,
            self.author,
            self.colleague,
            self.reader,
            self.stranger,
            nobody,
        ]


def forbid_forgeries(
    team: Team, table: str, row: Mapping[str, object], *, own: Mapping[str, object], item: uuid.UUID
) -> None:
    """Try to write what isn't a member's to write, straight through the table.

    Args:
        team: the stage; the author tries.
        table: the table of records.
        row: columns and values of an honest insert that is not a repeat.
        own: columns that only functions and triggers write, with the value to forge.
        item: the companion of a record of the author's.
    """
    foreign = {
        "owner_id": team.colleague.id,
        "workspace_id": team.strangers_id,
        "knowledge_id": item,
        "id": NOBODY,
        "created_at": "2020-01-01",
        "updated_at": "2020-01-01",
        **own,
    }
    for column, value in foreign.items():
        columns = {**row, column: value}
        names = ", ".join(columns)
        places = ", ".join(["%s"] * len(columns))
        with refused("42501"):
            team.author.sql(f"insert into public.{table} ({names}) values ({places})", *columns.values())
        with refused("42501"):
            team.author.sql(f"update public.{table} set {column} = %s where knowledge_id = %s", value, item)
    names, places = ", ".join(row), ", ".join(["%s"] * len(row))
    insert = f"insert into public.{table} ({names}) values ({places}) returning id"
    for persona in (team.reader, team.world.anon()):
        with refused("42501"):
            persona.sql(insert, *row.values())
    with refused("42501"):
        team.author.sql(f"delete from public.{table} where knowledge_id = %s", item)
    with refused("42501"):
        team.author.sql("delete from public.knowledge_items where id = %s", item)
    with refused("PT409", "goes|deleted by itself"):
        team.world.superuser(f"delete from public.{table} where knowledge_id = %s", item)
    with refused("PT409", "edit the record"):
        team.author.sql("update public.knowledge_items set content = 'forged' where id = %s", item)
    with refused("PT403"):
        team.author.sql("select private.register_companion(%s, 'gotcha', %s, null, 'x')", item, team.id)
    team.author.sql("update public.knowledge_items set importance_score = 51 where id = %s", item)


def assert_seen_with_its_item(team: Team, table: str, item: uuid.UUID) -> None:
    """Check for everybody that the record is visible exactly when its item is, through every status."""
    statuses = ("pending", "validated", "needs_update", "pending", "deprecated")
    seen: set[tuple[str, bool]] = set()
    for status in statuses:
        team.maintainer.rpc("validate_knowledge", knowledge_id=item, validation_status=status)
        for persona in team.everybody():
            record = bool(persona.sql(f"select 1 from public.{table} where knowledge_id = %s", item))
            access = persona.sql("select * from private.item_access(%s)", item)[0]
            edited = persona.sql(
                "update public.knowledge_items set subcategory = subcategory where id = %s returning id", item
            )
            assert record == persona.sees(item) == access["is_visible"], (persona.name, status)
            assert access["is_editable"] == bool(edited), (persona.name, status)
            seen.add((persona.name, record))
    assert ("colleague", True) in seen
    assert ("stranger", True) not in seen


def race(
    people: list[Persona], act: Callable[[Persona, int], object], *, keys: int, rounds: int
) -> list[object]:
    """Let everybody do the same things at once, each in a session and an order of their own.

    Args:
        people: one thread each.
        act: what to do with which key; runs ``rounds`` times for each person and key.
        keys: how many keys.
        rounds: how often.
    """
    barrier = threading.Barrier(len(people))

    def run(place: int) -> list[object]:
        me = people[place].start_session(f"race {place}")
        barrier.wait(30)
        answers: list[object] = []
        for turn in range(rounds):
            order = list(range(keys))
            shift = (place * 7 + turn) % keys
            order = order[shift:] + order[:shift]
            answers += [act(me, key) for key in (order if place % 2 else reversed(order))]
        return answers

    with ThreadPoolExecutor(len(people)) as pool:
        return [answer for answers in pool.map(run, range(len(people))) for answer in answers]
