"""What happens when connections break: reads come through, no write is doubled, nothing is silently lost."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from knowledge_persistence import TransportError, connect, connect_async
from knowledge_persistence._sync import core
from knowledge_persistence._sync.direct import DirectTransport
from knowledge_persistence._values import RequestContext
from knowledge_persistence.embedded.processes import wait_until
from proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from conftest import Deployment, Door, Person
    from knowledge_persistence import KnowledgeClient
    from stacks import RunningStack
    from world import World

    SignUp = Callable[..., Person]

#: What a request for each function carries on the wire, through either door.
WORDS = {"remember": b"record_knowledge_batch", "rate": b"rate_knowledge", "recall": b"recall_knowledge"}


@pytest.fixture
def proxy(deployment: Deployment, door: Door) -> Generator[Proxy]:
    port = urlsplit(deployment.door(door)).port
    assert port is not None
    proxy = Proxy(port)
    yield proxy
    proxy.close()


@pytest.fixture
def ana(sign_up: SignUp) -> Person:
    return sign_up("ana")


@pytest.fixture
def client(ana: Person, door: Door, proxy: Proxy) -> Generator[KnowledgeClient]:
    """Reach the deployment through the proxy."""
    with connect(**through(proxy, ana.arguments(door)), embedder=None) as client:
        yield client


def through(proxy: Proxy, arguments: dict[str, Any]) -> dict[str, Any]:
    """What `connect` takes to go by the proxy."""
    parts = urlsplit(arguments["url"])
    netloc = parts.netloc.replace(f":{parts.port}", f":{proxy.port}")
    return arguments | {"url": parts._replace(netloc=netloc).geturl()}


def test_a_write_whose_answer_is_lost_is_repeated_and_kept_once(
    client: KnowledgeClient, proxy: Proxy
) -> None:
    client.workspaces()
    text = f"kept once {uuid4().hex}"
    proxy.cut_after(WORDS["remember"])
    recorded = client.remember(text)
    assert proxy.has_cut
    # The first attempt was carried out: the second finds it there.
    assert recorded.outcome == "duplicate"
    assert [item.knowledge_id for item in client.search(text)] == [recorded.knowledge_id]


@pytest.mark.parametrize(("passing", "resetting"), [(20, False), (0, True), (20, True)])
def test_a_write_whose_answer_is_torn_or_reset_is_repeated_and_kept_once(
    client: KnowledgeClient, proxy: Proxy, *, passing: int, resetting: bool
) -> None:
    client.workspaces()
    text = f"kept once {uuid4().hex}"
    proxy.cut_after(WORDS["remember"], passing=passing, resetting=resetting)
    recorded = client.remember(text)
    assert proxy.has_cut
    assert recorded.outcome == "duplicate"
    assert [item.knowledge_id for item in client.search(text)] == [recorded.knowledge_id]


def test_a_line_that_was_reset_is_replaced(client: KnowledgeClient, proxy: Proxy) -> None:
    client.workspaces()
    proxy.reset()
    assert client.remember(f"after a reset {uuid4().hex}").outcome == "created"


def test_no_request_is_sent_to_a_server_that_hung_up_with_a_parting_word(world: World) -> None:
    transport = DirectTransport(world.dsn("authenticator"), role="service_role", claims={}, pool_size=3)
    try:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(transport.snapshot(RequestContext()))
        ended = world.superuser(
            "select pg_terminate_backend(pid, 10000) as ended from pg_stat_activity"
            " where datname = current_database() and usename = 'authenticator'"
        )
        assert ended == [{"ended": True}] * 3
        # One attempt, not a connection tried after the other.
        assert transport.select("embedding_models", ["name"], RequestContext())
    finally:
        transport.close()


def test_a_slow_line_is_slow_and_nothing_else(client: KnowledgeClient, proxy: Proxy) -> None:
    client.workspaces()
    proxy.delay(0.15)
    text = f"slowly {uuid4().hex}"
    assert client.remember(text).outcome == "created"
    assert len(client.search(text)) == 1


@pytest.fixture
def impatient(ana: Person, door: Door, proxy: Proxy) -> Generator[KnowledgeClient]:
    """As `client`, but a call is given up after a second."""
    with connect(**through(proxy, ana.arguments(door)), embedder=None, timeout=1.0) as client:
        yield client


def test_a_silent_line_is_given_up(impatient: KnowledgeClient, proxy: Proxy) -> None:
    item = impatient.remember(f"silence {uuid4().hex}").knowledge_id
    proxy.hold()
    try:
        with pytest.raises(TransportError) as caught:
            impatient.rate(item, effectiveness_rating=9)
    finally:
        proxy.hold(False)
    assert caught.value.may_have_arrived
    # The line was given up, not the deployment.
    assert impatient.get(item).rating_count <= 1


def test_a_line_that_was_silent_for_a_while_keeps_once(impatient: KnowledgeClient, proxy: Proxy) -> None:
    impatient.workspaces()
    text = f"patience {uuid4().hex}"
    proxy.hold()
    threading.Timer(2.5, proxy.hold, [False]).start()
    # What was held arrives after all, and so does the repetition.
    recorded = impatient.remember(text)
    assert [item.knowledge_id for item in impatient.search(text)] == [recorded.knowledge_id]


def test_a_rating_whose_answer_is_lost_is_not_repeated(client: KnowledgeClient, proxy: Proxy) -> None:
    item = client.remember(f"rated {uuid4().hex}").knowledge_id
    proxy.cut_after(WORDS["rate"])
    with pytest.raises(TransportError) as caught:
        client.rate(item, effectiveness_rating=10)
    assert caught.value.may_have_arrived
    assert caught.value.__cause__ is not None
    assert proxy.has_cut
    deadline = time.monotonic() + 10
    while client.get(item).rating_count == 0:
        assert time.monotonic() < deadline, "the rating had arrived, and was to be carried out"
    assert client.rate(item, effectiveness_rating=10).rating_count == 2


def test_a_recall_whose_answer_is_lost_is_not_logged_twice(client: KnowledgeClient, proxy: Proxy) -> None:
    word = f"word{uuid4().hex}"
    item = client.remember(word).knowledge_id
    proxy.cut_after(WORDS["recall"])
    with pytest.raises(TransportError):
        client.recall(word)
    deadline = time.monotonic() + 10
    while client.get(item).access_count == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert client.get(item).access_count == 1


def test_connections_that_died_idle_are_not_used(client: KnowledgeClient, proxy: Proxy) -> None:
    item = client.remember(f"steady {uuid4().hex}").knowledge_id
    for _ in range(3):
        proxy.cut()
        time.sleep(0.2)
        # A rating is never repeated once sent: that it works shows that no dead connection was picked.
        client.rate(item, effectiveness_rating=5)
    assert client.get(item).rating_count == 3


def test_a_deployment_that_comes_back_is_waited_for(client: KnowledgeClient, proxy: Proxy) -> None:
    client.workspaces()
    proxy.refuse()
    threading.Timer(1.0, proxy.refuse, [False]).start()
    assert client.remember(f"patient {uuid4().hex}").outcome == "created"


def test_a_deployment_that_stays_away_is_told(
    client: KnowledgeClient, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Less than it has for a stack that starts again: what happens when it ends is the same.
    monkeypatch.setattr(core, "_PATIENCE", 2.0)
    client.workspaces()
    proxy.refuse()
    with pytest.raises(TransportError, match=r"127\.0\.0\.1"):
        client.remember("never")


def test_nothing_there_is_told_at_once(ana: Person, door: Door) -> None:
    arguments = ana.arguments(door)
    parts = urlsplit(arguments["url"])
    arguments["url"] = parts._replace(netloc=parts.netloc.replace(f":{parts.port}", ":9")).geturl()
    client = connect(**arguments, embedder=None)
    with pytest.raises(TransportError, match="can't be reached"):
        client.workspaces()
    client.close()


async def test_a_cancelled_call_leaves_the_client_usable(ana: Person, door: Door) -> None:
    async with connect_async(**ana.arguments(door), embedder=None) as client:
        await client.workspaces()
        for milliseconds in (0, 2, 4, 8, 12, 16):
            task = asyncio.create_task(client.remember_many([f"{uuid4().hex} {n}" for n in range(300)]))
            await asyncio.sleep(milliseconds / 1000)
            # Where the machine stood still for so long that the call is through, there is nothing to cancel.
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
        recorded = await client.remember(f"after all {uuid4().hex}")
        assert (await client.get(recorded.knowledge_id)).rating_count == 0


async def test_many_calls_at_once_share_the_connections(ana: Person, door: Door) -> None:
    async with connect_async(**ana.arguments(door), embedder=None) as client:
        recorded = await asyncio.gather(*(client.remember(f"{uuid4().hex} {n}") for n in range(40)))
        assert len({one.knowledge_id for one in recorded}) == 40


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT], ids=["killed", "stopped"])
def test_a_database_that_ends_loses_no_acknowledged_write(
    running_stack: RunningStack, deployment: Deployment, ana: Person, door: Door, ending: signal.Signals
) -> None:
    assert deployment.url == running_stack.url
    acknowledged: list[str] = []
    with connect(**ana.arguments(door), embedder=None) as client:
        for number in range(30):
            if number in {8, 20}:
                os.kill(running_stack.pid("postgres"), ending)
            recorded = client.remember(f"survivor {number} {uuid4().hex}")
            acknowledged.append(str(recorded.knowledge_id))
        assert all(client.get(knowledge_id) for knowledge_id in acknowledged)
    assert len(set(acknowledged)) == 30
    running_stack.wait_whole()


def breaks(connection: psycopg.Connection[Any]) -> bool:
    try:
        connection.execute("select 1")
    except psycopg.OperationalError:
        return True
    return False


def test_a_transaction_that_a_restart_broke_off_never_was(
    running_stack: RunningStack, deployment: Deployment, ana: Person
) -> None:
    assert deployment.url == running_stack.url
    with connect(**ana.arguments("direct"), embedder=None) as client:
        kept = client.remember(f"before the restart {uuid4().hex}").knowledge_id
        with psycopg.connect(running_stack.config.database_url("postgres")) as connection:
            connection.execute("update public.knowledge_items set importance_score = 7 where id = %s", [kept])
            os.kill(running_stack.pid("postgres"), signal.SIGINT)
            assert wait_until(lambda: breaks(connection), timeout=30)
        running_stack.wait_whole()
        assert client.get(kept).importance_score == 50
