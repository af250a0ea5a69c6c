"""Nobody learns what they may not know, in random worlds, through every door: the Data API, the edge functions, MCP,
realtime, and export through a client.

What stands behind the doors is tried in test_isolation.py; here it is what each of them adds: filters, orders, counts
and embedded resources, headers, channels, texts made for models.

``KP_ISOLATION_SEED`` says which world comes first.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import socket
import tempfile
import time
import uuid
from collections import Counter
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import psycopg
import pytest

from databases import free_port
from isolation import QUESTIONS, READS, RandomWorld, masked, standpoints, tell
from knowledge_persistence import NotFoundError, connect
from knowledge_persistence.edge.app import make_app
from knowledge_persistence.edge.identity import Doorkeeper, key_source
from knowledge_persistence.edge.limits import Limits
from knowledge_persistence.embedded import node
from knowledge_persistence.embedded.front import DatabaseAddress, Front
from knowledge_persistence.portability import export_jsonl
from knowledge_persistence.realtime.app import Gateway, make_server
from knowledge_persistence.realtime.limits import Limits as RealtimeLimits
from knowledge_persistence.realtime.tokens import Verifier
from mcp import MCPError
from mcp_agents import over_http, serving
from talkers import Talker
from tally import count
from world import World

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from databases import Database, DatabaseServer
    from knowledge_persistence.embedded.home import StackConfig
    from world import Persona

FIRST_SEED = int(os.environ.get("KP_ISOLATION_SEED", "1"))
#: The keys of the tables that are not known by an id.
KEYS = {"embedding_models": ("name",), "workspace_members": ("workspace_id", "user_id")}
#: Ways to ask for some rows, by what they do with a column.
FILTERS = ("is.null", "not.is.null", "ilike.*mark*", "neq.x", "gt.a", "in.(a,b)", "cs.{a}", "fts.told", "eq.")


@dataclass
class Doors:
    """A deployment's doors, before a database of their own.

    Attributes:
        config: keys and secrets.
        origin: the Data API's address.
        edge: that of the edge functions and MCP.
        realtime: the realtime gateway's.
    """

    config: StackConfig
    origin: str
    edge: str
    realtime: str

    def token(self, persona: Persona) -> str:
        """Sign somebody in."""
        claims = {"sub": str(persona.id), "role": "authenticated", "aud": "authenticated"}
        return jwt.encode({**claims, "exp": int(time.time()) + 3600}, self.config.jwt_secret, "HS256")

    def headers(self, persona: Persona) -> dict[str, str]:
        """Return what somebody sends who says where they stand."""
        said = {"x-workspace-id": persona.workspace, "x-session-id": persona.session}
        return {
            "apikey": self.config.publishable_key,
            "authorization": f"Bearer {self.token(persona)}",
            **{name: str(value) for name, value in said.items() if value is not None},
        }


@asynccontextmanager
async def open_doors(database: Database) -> AsyncGenerator[Doors]:
    """Open all of them, as a deployment does, each in its own process or thread."""
    config = dataclasses.replace(database.server.config, origin_port=free_port())
    address = DatabaseAddress("127.0.0.1", config.database_port, database.name)
    doorkeeper = Doorkeeper(
        database.dsn("authenticator"), key_source(config.jwt_secret), secret_key=config.secret_key
    )
    gateway = Gateway(database.dsn("postgres"), Verifier.of(config), RealtimeLimits())
    with ExitStack() as stack:
        runtime = node.install_front(progress=lambda _: None)
        front = stack.enter_context(
            Front(runtime, config, mode="serve", database=address, options={"homeId": "doors"})
        )
        front.wait_for("prepared", timeout=60)
        front.command("listen")
        front.wait_for("listening", timeout=60)
        edge = stack.enter_context(serving(make_app(doorkeeper, Limits(requests_per_minute=1_000_000))))
        server = make_server(gateway, RealtimeLimits())
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        async with asyncio.timeout(30):
            await gateway.listening.wait()
            while not server.started:  # noqa: ASYNC110 - the server has a flag, and no event
                await asyncio.sleep(0.01)
        try:
            yield Doors(config, config.api_url, edge, f"ws://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            server.should_exit = True
            await task


def some(random_world: RandomWorld, size: int) -> list[Persona]:
    """Draw from those who may stand before a door."""
    everybody = standpoints(random_world)
    return random_world.random.sample(everybody, min(size, len(everybody)))


# -- the Data API ---------------------------------------------------------------------------------------------------


async def the_data_api_shows_what_the_rules_say(doors: Doors, random_world: RandomWorld) -> None:
    columns, links = _catalog(random_world.world)
    decisions = Counter[str]()
    for persona in some(random_world, 6):
        random_world.refresh()  # discoveries leave proposals behind
        view = random_world.view(persona)
        async with httpx.AsyncClient(
            base_url=f"{doors.origin}/rest/v1", headers=doors.headers(persona), timeout=60
        ) as http:
            for table, rows in view.rows.items():
                if table == "agent_tokens":
                    continue
                keys = KEYS.get(table, ("id",))
                size = len(random_world.tables[table])
                answer = await _get(http, table, {"select": ",".join(keys)}, prefer="count=exact")
                assert answer.status_code in {200, 206}, (table, answer.text)
                shown = {tuple(str(row[key]) for key in keys) for row in answer.json()}
                assert shown == {tuple(str(row[key]) for key in keys) for row in rows}, (persona.name, table)
                assert answer.headers["content-range"].split("/")[1] == str(len(rows)), (persona.name, table)
                decisions[table] += 2 * size
                for query in _questions(random_world.random, columns[table], links.get(table, [])):
                    answer = await _get(http, table, query)
                    assert answer.status_code < 500, (table, query, answer.text)
                    assert view.leaks(random_world, answer.text) == set(), (persona.name, table, query)
                    decisions[table] += size
            for function, arguments in READS:
                answer = await http.post(f"/rpc/{function}", json=arguments)
                count("isolation requests")
                assert answer.status_code in {200, 403, 404}, (function, answer.text)
                assert view.leaks(random_world, answer.text) == set(), (persona.name, function)
                decisions[function] += len(random_world.tables["knowledge_items"])
    tell(decisions)


async def _get(
    http: httpx.AsyncClient, table: str, query: dict[str, str], prefer: str = ""
) -> httpx.Response:
    count("isolation requests")
    return await http.get(f"/{table}", params=query, headers={"prefer": prefer} if prefer else None)


def _questions(chance: random.Random, columns: list[str], links: list[str]) -> list[dict[str, str]]:
    """Make up questions of a table: a filter, an order and a page, a choice, and what it is linked to."""
    one, other = chance.choice(columns), chance.choice(columns)
    return [
        {"select": "*", one: chance.choice(FILTERS)},
        {"select": f"a:{one},b:{other}", "order": f"{other}.desc", "limit": "7", "offset": "1"},
        {"select": "*", "or": f"({one}.not.is.null,{other}.is.null)", other: f"not.{chance.choice(FILTERS)}"},
        *({"select": f"*,linked:{link}(*)"} for link in links),
        *({"select": "*", f"{link}.id": "not.is.null"} for link in links[:1]),
    ]


def _catalog(world: World) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the columns of each table, and by which foreign keys it is linked to others, either way."""
    columns: dict[str, list[str]] = {}
    for row in world.superuser(
        "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0"
        "   and not a.attisdropped and has_column_privilege('authenticated', c.oid, a.attnum, 'select')"
    ):
        columns.setdefault(row["relname"], []).append(row["attname"])
    links: dict[str, list[str]] = {}
    for row in world.superuser(
        "select conname, conrelid::regclass::text as source, confrelid::regclass::text as target from pg_constraint"
        " where contype = 'f' and connamespace = 'public'::regnamespace and conparentid = 0"
    ):
        source, target = (row[end].removeprefix("public.") for end in ("source", "target"))
        for table, linked in ((source, target), (target, source)):
            if {source, target} <= columns.keys():
                links.setdefault(table, []).append(f"{linked}!{row['conname']}")
    return columns, links


# -- edge functions, MCP, export ------------------------------------------------------------------------------------


async def the_functions_tell_what_the_rules_allow(doors: Doors, random_world: RandomWorld) -> None:
    bodies = {
        "recall": {"query": QUESTIONS, "max_results": 100, "explain": True},
        "context": {"situation": QUESTIONS, "project_context": "atlas", "max_results": 100},
        "gotchas": {"problem": QUESTIONS, "max_results": 50},
    }
    decisions = Counter[str]()
    random_world.refresh()
    for persona in some(random_world, 6):
        view = random_world.view(persona)
        async with httpx.AsyncClient(
            base_url=f"{doors.edge}/functions/v1", headers=doors.headers(persona), timeout=60
        ) as http:
            for name, body in bodies.items():
                answer = await http.post(f"/{name}", json=body)
                count("isolation requests")
                assert answer.status_code == 200, (name, answer.text)
                assert view.leaks(random_world, answer.text) == set(), (persona.name, name)
                decisions[name] += len(random_world.tables["knowledge_items"])
    tell(decisions)


async def agents_are_told_what_the_rules_allow(doors: Doors, random_world: RandomWorld) -> None:
    decisions = Counter[str]()
    random_world.refresh()
    for somebody in some(random_world, 3):
        # An agent's sessions are its own to start.
        persona = dataclasses.replace(somebody, session=None)
        view = random_world.view(persona)
        headers = {name: value for name, value in doors.headers(persona).items() if name != "authorization"}
        async with over_http(doors.edge, doors.token(persona), headers=headers) as agent:
            asked: list[tuple[str, dict[str, Any]]] = [
                ("recall", {"query": QUESTIONS}),
                ("find_gotchas", {"problem": QUESTIONS}),
                ("start_session", {"project": "atlas", "task": QUESTIONS}),
            ]
            for tool, arguments in asked:
                answer = await agent.ask(tool, **arguments)
                count("isolation requests")
                assert view.leaks(random_world, answer) == set(), (persona.name, tool)
                decisions[tool] += len(random_world.tables["knowledge_items"])
            for kind, table in (("items", "knowledge_items"), ("sessions", "ai_sessions")):
                seen = {row["id"] for row in view.rows[table]}
                hidden = [row["id"] for row in random_world.tables[table] if row["id"] not in seen]
                for one in random_world.random.sample(hidden, min(3, len(hidden))):
                    told = {
                        await _resource(agent.client, f"knowledge://{kind}/{tried}")
                        for tried in (one, uuid.uuid4())
                    }
                    assert len(told) == 1, (persona.name, kind, told)
                    assert told.pop().startswith("refused")
                    decisions[kind] += 1
    tell(decisions)


async def _resource(client: Any, uri: str) -> str:
    count("isolation requests")
    try:
        return masked(await client.read_resource(uri))
    except MCPError as error:
        return "refused: " + masked(error)


async def an_export_holds_what_the_rules_allow(doors: Doors, random_world: RandomWorld) -> None:
    decisions = Counter[str]()
    random_world.refresh()
    for persona in some(random_world, 4):
        view = random_world.view(persona)
        written = await asyncio.to_thread(_export, doors, persona)
        count("isolation requests")
        assert view.leaks(random_world, written) == set(), persona.name
        decisions["export"] += sum(len(rows) for rows in random_world.tables.values())
    tell(decisions)


def _export(doors: Doors, persona: Persona) -> str:
    with (
        tempfile.TemporaryDirectory() as directory,
        connect(
            doors.origin,
            api_key=doors.config.publishable_key,
            access_token=doors.token(persona),
            workspace=persona.workspace,
            session=persona.session,
            embedder=None,
        ) as client,
    ):
        target = Path(directory) / "memory.jsonl"
        try:
            export_jsonl(client, target, embeddings=True)
        except NotFoundError as error:  # who has no workspace yet has nothing to take along
            return str(error)
        return target.read_text("utf-8")


# -- realtime -------------------------------------------------------------------------------------------------------


async def realtime_tells_what_the_rules_allow(doors: Doors, random_world: RandomWorld) -> None:
    tables = ("knowledge_items", "knowledge_relationships", "knowledge_events", "technical_gotchas")
    changes = [{"event": "*", "schema": "public", "table": table} for table in tables]
    decisions = Counter[str]()
    random_world.refresh()
    people = [*random_world.people, random_world.world.sign_up("stranger")]
    async with AsyncExitStack() as stack:
        talkers: list[tuple[Persona, Talker]] = []
        for person in people:
            view = random_world.view(person)
            talker = await stack.enter_async_context(Talker.at(doors.realtime, doors.config.publishable_key))
            talkers.append((person, talker))
            mine = {row["id"] for row in view.rows["workspaces"]}
            seen = {row["id"] for row in view.rows["ai_sessions"]}
            for kind, table, allowed in (("workspace", "workspaces", mine), ("session", "ai_sessions", seen)):
                for one in [*(row["id"] for row in random_world.tables[table]), uuid.uuid4()]:
                    reply = await talker.join(f"{kind}:{one}", doors.token(person), private=True)
                    assert (reply["status"] == "ok") == (one in allowed), (person.name, kind, reply)
                    count("isolation requests")
                    decisions[kind] += 1
            await talker.join("changes", doors.token(person), postgres_changes=changes)
            assert (await talker.hear("system"))["status"] == "ok"

        # Only what is shown to more and more people, so that whoever was told may see it still.
        made = {item for item in (_write_something(random_world) for _ in range(8)) if item is not None}
        assert made
        last = {person.id: str(person.record("the last")) for person in people}
        random_world.refresh()
        for person, talker in talkers:
            view = random_world.view(person)
            heard: list[Any] = []
            items = set[str]()
            # Changes come in the order in which they were made: with one's own last one, all have come.
            while last[person.id] not in items:
                heard.append(await talker.hear("postgres_changes", timeout=60))
                if heard[-1]["data"]["table"] == "knowledge_items":
                    items.add(heard[-1]["data"]["record"]["id"])
            heard += talker.unheard("broadcast")
            assert view.leaks(random_world, heard) == set(), person.name
            assert items & made == {str(row["id"]) for row in view.rows["knowledge_items"]} & made, (
                person.name
            )
            decisions["changes"] += len(random_world.tables["knowledge_items"])
    tell(decisions)


def _write_something(random_world: RandomWorld) -> str | None:
    """Let somebody record an item, and now and then the owner validate it; None where a reader tried."""
    place = random_world.random.choice(random_world.places)
    text = f"What ports do is told by {random_world.marker()}"
    try:
        item = random_world.stand(place.person, place.workspace).record(text[:40], text)
    except psycopg.errors.InsufficientPrivilege:
        return None
    if random_world.random.random() < 0.5:
        [owner] = [
            one for one in random_world.places if (one.workspace, one.role) == (place.workspace, "owner")
        ]
        random_world.stand(owner.person, place.workspace).rpc("validate_knowledge", knowledge_id=item)
    return str(item)


CHECKS: tuple[Callable[[Doors, RandomWorld], Coroutine[Any, Any, None]], ...] = (
    the_data_api_shows_what_the_rules_say,
    the_functions_tell_what_the_rules_allow,
    agents_are_told_what_the_rules_allow,
    an_export_holds_what_the_rules_allow,
    realtime_tells_what_the_rules_allow,
)


async def try_all(
    server: DatabaseServer,
    template: Database,
    seed: int,
    checks: tuple[Callable[[Doors, RandomWorld], Coroutine[Any, Any, None]], ...] = CHECKS,
    planted: str = "",
) -> None:
    """Try doors in the world of a seed."""
    with server.clone(template) as database:
        world = World(database.dsn)
        try:
            random_world = RandomWorld(world, seed)
            count("isolation worlds")
            if planted:
                world.superuser(planted)
            async with open_doors(database) as doors:
                for check in checks:
                    try:
                        await check(doors, random_world)
                    except AssertionError as error:
                        error.add_note(f"{check.__name__}, in the world of seed {seed}")
                        raise
        finally:
            world.close()


async def test_no_door_tells_what_is_hidden(server: DatabaseServer, template: Database) -> None:
    await try_all(server, template, FIRST_SEED)


@pytest.mark.long
@pytest.mark.timeout(0)
async def test_no_door_tells_what_is_hidden_in_many_worlds(
    server: DatabaseServer, template: Database, long_seconds: float
) -> None:
    until, seed = time.monotonic() + long_seconds * 0.3, FIRST_SEED + 1
    while time.monotonic() < until:
        await try_all(server, template, seed)
        seed += 1


PLANTED = {
    "a policy that forgets pending items": (
        """
        alter policy knowledge_items_select_visible on public.knowledge_items
          using (workspace_id = any (array(select private.my_workspaces())))
        """,
        (the_data_api_shows_what_the_rules_say,),
    ),
    "channels that are everybody's": (
        "alter policy knowledge_topics_receive on realtime.messages using (true)",
        (realtime_tells_what_the_rules_allow,),
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_planted_bugs_are_found(planted: str, server: DatabaseServer, template: Database) -> None:
    statement, checks = PLANTED[planted]
    with pytest.raises(AssertionError):
        await try_all(server, template, FIRST_SEED, checks, statement)
