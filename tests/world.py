"""The people of the tests.

A rule about who may see or do what is tested as a play: some people enter, somebody tries what is forbidden,
then what is allowed. ``World`` is the stage (one database, freshly cloned for the test), ``Persona`` one of
the people on it::

    def test_a_pending_item_is_its_authors_alone(world: World) -> None:
        ana, ben = world.sign_up("ana"), world.sign_up("ben")
        team = world.workspace("team", owner=ana, contributor=ben)
        ana, ben = ana.inside(team), ben.inside(team)

        [item] = ana.rpc("record_knowledge", title="Ports", content="Port 54321 is the origin.")

        assert ben.sql("select 1 from knowledge_items where id = %s", item["knowledge_id"]) == []
        with refused("PT404"):
            ben.rpc("rate_knowledge", knowledge_id=item["knowledge_id"], effectiveness_rating=9)

Everybody connects as a deployment's API does: login ``authenticator``, and in each transaction the role and
the claims of whoever is asking. Nothing is mocked, nothing runs with more rights than in production.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, LiteralString, cast

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

Row = dict[str, Any]

_CONTEXT = """
select set_config('role', %(role)s, true),
       set_config('request.jwt.claims', %(claims)s, true),
       set_config('request.jwt.claim.sub', %(sub)s, true),
       set_config('app.current_workspace', %(workspace)s, true),
       set_config('app.current_session', %(session)s, true)
"""


@contextmanager
def refused(sqlstate: str, match: str | None = None) -> Generator[pytest.ExceptionInfo[psycopg.Error]]:
    """Expect the database to refuse, with this SQLSTATE and, where given, a message that matches."""
    with pytest.raises(psycopg.Error) as caught:
        yield caught
    assert caught.value.sqlstate == sqlstate, f"refused with {caught.value.sqlstate}: {caught.value}"
    assert match is None or re.search(match, str(caught.value)), str(caught.value)


@dataclass
class Persona:
    """Somebody who talks to the database: a user, nobody in particular (anon), or the service.

    Attributes:
        name: what they are called in the test.
        id: their id in ``auth.users``; None for anon and service.
        role: the database role that they act as.
        workspace: the workspace they say they work in; None says nothing (their personal one).
        session: the session they say they are in; None says nothing.
    """

    name: str
    id: uuid.UUID | None
    role: str
    connect: Callable[[], psycopg.Connection[Row]] = field(repr=False)
    workspace: uuid.UUID | str | None = None
    session: uuid.UUID | str | None = None
    claims: Mapping[str, object] | None = None
    _connection: psycopg.Connection[Row] | None = field(default=None, repr=False)

    def inside(
        self, workspace: uuid.UUID | str | None = None, session: uuid.UUID | str | None = None
    ) -> Persona:
        """Return the same person, on a connection of their own, naming this workspace and session.

        The names are sent as they are: a foreign or malformed one is how a test forges a header.
        """
        return dataclasses.replace(self, workspace=workspace, session=session, _connection=None)

    @property
    def connection(self) -> psycopg.Connection[Row]:
        """This person's connection: login ``authenticator``, no role until a transaction sets it."""
        if self._connection is None or self._connection.closed:
            self._connection = self.connect()
        return self._connection

    @contextmanager
    def transaction(self) -> Generator[psycopg.Cursor[Row]]:
        """Open one transaction as this person, for what takes several statements or a second actor.

        For a race: open it in one persona, start the other in a thread, wait with `World.wait_until_blocked`.
        """
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.execute(
                _CONTEXT,
                {
                    "role": self.role,
                    "claims": json.dumps(self._claims()),
                    "sub": str(self.id or ""),
                    "workspace": str(self.workspace or ""),
                    "session": str(self.session or ""),
                },
            )
            yield cursor

    def _claims(self) -> dict[str, object]:
        claims: dict[str, object] = {"role": self.role}
        if self.id is not None:
            claims["sub"] = str(self.id)
        return {**claims, **(self.claims or {})}

    def sql(self, query: str, *parameters: object) -> list[Row]:
        """Run one statement in a transaction of its own and return its rows ([] where it returns none).

        Args:
            query: SQL with ``%s`` for the parameters, or none; ``public`` is on the search path.
            parameters: dicts go as jsonb.
        """
        with self.transaction() as cursor:
            values = [_adapt(value) for value in parameters]
            cursor.execute(cast("LiteralString", query), values or None)
            return cursor.fetchall() if cursor.description else []

    def rpc(self, function: str, /, **arguments: object) -> list[Row]:
        """Call a function of the RPC contract by name and return its rows.

        Args:
            function: its name in schema public.
            arguments: by name, as in JSON: dicts and lists of dicts go as jsonb, lists of floats as vectors.
        """
        with self.transaction() as cursor:
            return call(cursor, function, **arguments)

    def value(self, query: str, *parameters: object) -> Any:
        """Run one statement and return the only column of its only row."""
        [row] = self.sql(query, *parameters)
        [value] = row.values()
        return value

    def record(self, title: str, content: str | None = None, **arguments: object) -> uuid.UUID:
        """Record one item and return its id; the content is the title where none is given."""
        [row] = self.rpc("record_knowledge", title=title, content=content or title, **arguments)
        return row["knowledge_id"]

    def start_session(self, identifier: str | None = None, **arguments: object) -> Persona:
        """Start or resume a session, and return this person inside it."""
        [row] = self.rpc("start_session", session_identifier=identifier, **arguments)
        return self.inside(self.workspace or row["workspace_id"], row["session_id"])

    def sees(self, knowledge_id: uuid.UUID) -> bool:
        """Say whether the item is visible to this person by a plain select."""
        return bool(self.sql("select 1 from public.knowledge_items where id = %s", knowledge_id))


def call(cursor: psycopg.Cursor[Row], function: str, /, **arguments: object) -> list[Row]:
    """Call a function of schema public in a transaction that is already open, and return its rows."""
    names = list(arguments)
    query = sql.SQL("select * from public.{}({})").format(
        sql.Identifier(function),
        sql.SQL(", ").join(sql.SQL("{} := {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in names),
    )
    cursor.execute(query, {name: _adapt(value) for name, value in arguments.items()})
    return cursor.fetchall()


def vector(values: Sequence[float]) -> str:
    """Write a vector the way the API takes it."""
    return "[" + ",".join(format(value, ".8g") for value in values) + "]"


def _adapt(value: object) -> object:
    if isinstance(value, dict):
        return Jsonb(cast("Row", value))
    items = cast("list[object]", value) if isinstance(value, list) else []
    if items:
        if all(isinstance(item, dict) for item in items):
            return Jsonb(items)
        if all(isinstance(item, float) for item in items):
            return vector(cast("list[float]", items))
    return value


class World:
    """One freshly cloned database and the people in it. Get one from the fixture ``world``."""

    def __init__(self, dsn: Callable[[str], str]) -> None:
        """Set the stage.

        Args:
            dsn: gives the database's URL for a login role.
        """
        self.dsn = dsn
        self._connections: list[psycopg.Connection[Row]] = []
        self._operator: psycopg.Connection[Row] | None = None

    # -- people ----------------------------------------------------------------------------------------------

    def sign_up(self, name: str) -> Persona:
        """Make a user and return them, naming no workspace: they start in their personal one."""
        user_id = uuid.uuid4()
        self.superuser(
            "insert into auth.users (id, email) values (%s, %s)",
            user_id,
            f"{name}-{user_id.hex[:8]}@example.org",
        )
        return self.as_user(user_id, name=name)

    def as_user(
        self,
        user_id: uuid.UUID,
        workspace: uuid.UUID | str | None = None,
        session: uuid.UUID | str | None = None,
        *,
        name: str = "somebody",
        claims: Mapping[str, object] | None = None,
    ) -> Persona:
        """Return a signed-in user by id, on a connection of their own.

        Args:
            user_id: need not exist.
            workspace: as for `Persona.inside`.
            session: as for `Persona.inside`.
            name: for messages.
            claims: added to, or instead of, those of an ordinary token.
        """
        return Persona(name, user_id, "authenticated", self._login, workspace, session, claims=claims)

    def anon(self) -> Persona:
        """Return somebody who has the publishable key and no account."""
        return Persona("anon", None, "anon", self._login)

    def service(self) -> Persona:
        """Return the holder of the secret key: the worker, an operator."""
        return Persona("service", None, "service_role", self._login)

    def workspace(self, name: str, *, owner: Persona, **members: Persona | Sequence[Persona]) -> uuid.UUID:
        """Let the owner make a workspace and add members, and return its id.

        Args:
            name: of the workspace.
            owner: makes it, by the RPC.
            members: by role: ``maintainer=cleo, contributor=[ben, dan], reader=eve``.
        """
        [made] = owner.rpc("create_workspace", name=name)
        for role, people in members.items():
            for person in [people] if isinstance(people, Persona) else people:
                owner.rpc(
                    "add_workspace_member", workspace_id=made["workspace_id"], user_id=person.id, role=role
                )
        return made["workspace_id"]

    # -- behind the stage ------------------------------------------------------------------------------------

    def superuser(self, query: str, *parameters: object) -> list[Row]:
        """Run one statement as the superuser: to arrange a scene, or to look at what nobody in it may see."""
        if self._operator is None:
            self._operator = self._login("supabase_admin")
        cursor = self._operator.execute(
            cast("LiteralString", query), [_adapt(value) for value in parameters] or None
        )
        return cursor.fetchall() if cursor.description else []

    def wait_until_blocked(self, persona: Persona, *, timeout: float = 10) -> None:
        """Wait until this person's connection waits for a lock: the barrier of a race, instead of a sleep."""
        pid = persona.connection.info.backend_pid
        deadline = time.monotonic() + timeout
        while not self.superuser("select 1 from unnest(pg_blocking_pids(%s))", pid):
            assert time.monotonic() < deadline, f"{persona.name} was not blocked within {timeout} s"
            time.sleep(0.01)

    def close(self) -> None:
        """Close every connection, so that the database can be dropped."""
        for connection in self._connections:
            connection.close()

    def _login(self, role: str = "authenticator") -> psycopg.Connection[Row]:
        connection = psycopg.Connection[Row].connect(self.dsn(role), autocommit=True, row_factory=dict_row)
        self._connections.append(connection)
        return connection
