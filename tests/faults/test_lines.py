"""Lines between the parts of a deployment that break, tear, hang or are slow: between each of them and the database."""

from __future__ import annotations

import asyncio
import dataclasses
import resource
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psycopg
import pytest

from callers import SECRET, SECRET_KEY, bearer
from databases import free_port
from knowledge_persistence.edge.app import make_app
from knowledge_persistence.edge.identity import Doorkeeper
from knowledge_persistence.edge.limits import Limits
from knowledge_persistence.embedded import node
from knowledge_persistence.embedded.front import DatabaseAddress, Front
from knowledge_persistence.embedded.processes import wait_until
from proxy import Proxy
from stacks import Answer, RunningStack, request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from world import World


# The Data API


@dataclasses.dataclass
class Apart:
    """A front of its own whose line to the stack's database goes through a proxy."""

    stack: RunningStack
    url: str
    proxy: Proxy

    def record(self, text: str) -> Answer:
        body = {"title": "a line", "content": text}
        return request(f"{self.url}/rest/v1/rpc/record_knowledge", headers=self.stack.me, body=body)


@pytest.fixture(scope="module")
def started(shared_stack: RunningStack) -> Generator[Apart]:
    proxy = Proxy(shared_stack.config.database_port)
    config = dataclasses.replace(shared_stack.config, origin_port=free_port())
    runtime = node.install_front(progress=lambda _: None)
    address = DatabaseAddress("127.0.0.1", proxy.port)
    try:
        with Front(runtime, config, mode="serve", database=address, options={"homeId": "apart"}) as front:
            front.wait_for("prepared", timeout=60)
            front.command("listen")
            front.wait_for("listening", timeout=60)
            yield Apart(shared_stack, config.api_url, proxy)
    finally:
        proxy.close()


@pytest.fixture
def apart(started: Apart) -> Apart:
    """Give the front, sound."""
    assert wait_until(lambda: request(f"{started.url}/healthz").status == 200, timeout=60)
    return started


def times_kept(stack: RunningStack, text: str) -> int:
    with psycopg.connect(stack.config.database_url("postgres")) as connection:
        row = connection.execute(
            "select count(*) from public.knowledge_items where content = %s", [text]
        ).fetchone()
    assert row is not None
    return int(row[0])


# The driver doesn't always notice a reset: then the request ends by its own deadline, after 25 seconds.
@pytest.mark.parametrize(
    ("passing", "resetting"), [(0, False), (20, False), pytest.param(0, True, marks=pytest.mark.long)]
)
def test_an_answer_that_is_lost_on_the_way_to_the_data_api_is_a_503(
    apart: Apart, *, passing: int, resetting: bool
) -> None:
    text = f"line {uuid4().hex}"
    apart.proxy.cut_after(text.encode(), passing=passing, resetting=resetting)
    answer = apart.record(text)
    assert apart.proxy.has_cut
    assert (answer.status, answer.json["code"]) == (503, "PGRST001")
    # As it says, the same again; however far the first one came.
    answers: list[Answer] = []

    def recorded() -> bool:
        answers.append(apart.record(text))
        assert answers[-1].status in {200, 503}
        return answers[-1].status == 200

    assert wait_until(recorded, timeout=30)
    assert times_kept(apart.stack, text) == 1


def test_a_database_that_is_gone_and_comes_back_is_found_again(apart: Apart) -> None:
    text = f"back {uuid4().hex}"
    apart.proxy.refuse()
    try:
        assert apart.record(text).status == 503
    finally:
        apart.proxy.refuse(False)
    assert wait_until(lambda: apart.record(text).status == 200, timeout=30)
    assert times_kept(apart.stack, text) == 1


def test_a_line_that_hangs_for_a_while_makes_one_wait(apart: Apart) -> None:
    text = f"hanging {uuid4().hex}"
    apart.proxy.hold()
    timer = threading.Timer(2.0, apart.proxy.hold, [False])
    timer.start()
    try:
        assert apart.record(text).status == 200
    finally:
        timer.join()
    assert times_kept(apart.stack, text) == 1


@pytest.mark.long
def test_a_line_that_hangs_on_is_a_503(apart: Apart) -> None:
    text = f"hanging on {uuid4().hex}"
    apart.proxy.hold()
    try:
        # Longer than any statement may take; then whoever asks is told, and asks again.
        assert apart.record(text).status == 503
    finally:
        apart.proxy.hold(False)
    assert wait_until(lambda: apart.record(text).status == 200, timeout=60)
    assert times_kept(apart.stack, text) == 1


# The edge functions


@dataclasses.dataclass
class Functions:
    """Edge functions in this process whose line to the database goes through a proxy."""

    client: httpx.AsyncClient
    proxy: Proxy
    headers: dict[str, str]

    async def remember(self, text: str) -> httpx.Response:
        body = {"content": text, "embed": False}
        return await self.client.post("/remember", json=body, headers=self.headers)


@pytest.fixture
async def functions(world: World) -> AsyncGenerator[Functions]:
    parts = urlsplit(world.dsn("authenticator"))
    assert parts.port is not None
    proxy = Proxy(parts.port)
    dsn = parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}")).geturl()
    keys: dict[str, Any] = {"secret_key": SECRET_KEY, "embedder": None, "timeout": 2.0, "connections": 2}
    doorkeeper = Doorkeeper(dsn, lambda: SECRET, **keys)
    transport = httpx.ASGITransport(make_app(doorkeeper, Limits(seconds=4.0)), raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
            yield Functions(client, proxy, bearer(world.sign_up("ana")))
    finally:
        await doorkeeper.close()
        proxy.close()


def kept(world: World, text: str) -> int:
    [row] = world.superuser("select count(*) as n from public.knowledge_items where content = %s", text)
    return int(row["n"])


@pytest.mark.parametrize("resetting", [False, True], ids=["ended", "reset"])
async def test_an_answer_that_is_lost_on_the_way_to_a_function_is_a_503(
    world: World, functions: Functions, *, resetting: bool
) -> None:
    assert (await functions.remember("at first")).status_code == 200
    functions.proxy.cut_after(b"lost on the way", resetting=resetting)
    answer = await functions.remember("lost on the way")
    assert functions.proxy.has_cut
    assert answer.status_code == 503, answer.text
    # As it says, the same again: the first had arrived.
    answer = await functions.remember("lost on the way")
    assert (answer.status_code, answer.json()["outcome"]) == (200, "duplicate")
    assert kept(world, "lost on the way") == 1


async def test_a_function_whose_line_hangs_says_so(world: World, functions: Functions) -> None:
    assert (await functions.remember("at first")).status_code == 200
    functions.proxy.hold()
    try:
        answer = await functions.remember("held")
    finally:
        functions.proxy.hold(False)
    assert answer.status_code in {503, 504}, answer.text
    async with asyncio.timeout(30):
        while (await functions.remember("held")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert kept(world, "held") == 1


async def test_a_function_without_its_database_says_so_and_finds_it_again(
    world: World, functions: Functions
) -> None:
    assert (await functions.remember("at first")).status_code == 200
    functions.proxy.refuse()
    answer = await functions.remember("gone")
    functions.proxy.refuse(False)
    assert answer.status_code in {503, 504}, answer.text
    async with asyncio.timeout(30):
        while (await functions.remember("gone")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert kept(world, "gone") == 1


# Crowds


@contextmanager
def crowd(port: int, size: int) -> Generator[int]:
    """Open connections that say nothing; give how many could be opened."""
    with_room: list[socket.socket] = []
    try:
        for _ in range(size):
            line = socket.socket()
            line.settimeout(5)
            try:
                line.connect(("127.0.0.1", port))
            except OSError:
                line.close()
                break
            with_room.append(line)
        yield len(with_room)
    finally:
        for line in with_room:
            line.close()


@pytest.mark.parametrize("size", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_crowd_that_says_nothing_keeps_nobody_out(shared_stack: RunningStack, size: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = {name: one.pid for name, one in shared_stack.stack.status().services.items()}
    try:
        with crowd(shared_stack.config.origin_port, min(size, hard - 500)) as opened:
            assert opened == min(size, hard - 500)
            for _ in range(5):
                assert shared_stack.call("/rest/v1/workspaces?limit=1", shared_stack.me).status == 200
            assert shared_stack.call("/functions/v1/health", shared_stack.me).status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {name: one.pid for name, one in shared_stack.stack.status().services.items()} == before


@pytest.mark.long  # it takes some time until every part has its connections again
def test_whoever_takes_all_of_the_databases_connections_is_told_there_are_no_more(
    shared_stack: RunningStack,
) -> None:
    url = shared_stack.config.database_url()
    taken: list[psycopg.Connection[Any]] = []
    try:
        with pytest.raises(psycopg.OperationalError, match="connection slots|too many clients"):
            taken.extend(psycopg.connect(url, connect_timeout=30) for _ in range(250))
        # Those who have theirs go on; where one had to be made anew, the answer says to try again.
        assert shared_stack.call("/rest/v1/workspaces?limit=1", shared_stack.me).status in {200, 503}
    finally:
        for connection in taken:
            connection.close()
    shared_stack.wait_whole()
    psycopg.connect(url, connect_timeout=30).close()
