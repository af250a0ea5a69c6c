"""Realtime: does everybody hear what they may, through kills, how soon, and at what cost?

    python -m benchmarks.realtime --json realtime.json
    python -m benchmarks.realtime --subscribers 20 --workspaces 4 --writers 2 --seconds 15   # a small one

Subscribers follow their workspaces with the ordinary client over HTTP and the push; writers record items and validate
every other one over direct connections, while the gateway is killed twice and the database once. In the end each
subscriber's set of events is compared with the log's, as that user sees it. Then idle connections are held open, and
the gateway's memory is read before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from uuid import uuid4

import psutil
import websockets
from rich.console import Console

from knowledge_persistence import (
    AsyncKnowledgeClient,
    KnowledgeEvent,
    Settings,
    TransportError,
    connect_async,
)

from . import benchmark_stack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from knowledge_persistence.embedded import Stack, StackInfo

SETTLE_SECONDS = 120

T = TypeVar("T")


@dataclass(slots=True)
class Report:
    """What was measured.

    Attributes:
        subscribers: how many.
        events: how many different ones were written.
        deliveries: how many were told, to all subscribers together, each once.
        repeated: how many were told again, and recognised by their ids.
        missing: how many of those that somebody may see never came. Must be 0.
        foreign: how many came to somebody who may not see them. Must be 0.
        events_per_second: written.
        deliveries_per_second: told.
        p50_milliseconds: from commit (as the writer sees it) to receipt, while nothing is down.
        p95_milliseconds: the same.
        idle: how many idle connections were held.
        idle_bytes_each: of the gateway's memory.
    """

    subscribers: int
    events: int = 0
    deliveries: int = 0
    repeated: int = 0
    missing: int = 0
    foreign: int = 0
    events_per_second: float = 0.0
    deliveries_per_second: float = 0.0
    p50_milliseconds: float = 0.0
    p95_milliseconds: float = 0.0
    idle: int = 0
    idle_bytes_each: int = 0


@dataclass(slots=True)
class Subscriber:
    """Somebody who follows, and what they were told."""

    user_id: UUID
    workspace: UUID
    told: Counter[int] = field(default_factory=Counter[int])
    received_at: dict[UUID, float] = field(default_factory=dict["UUID", float])


class Soak:
    """One run.

    Args:
        stack: running, and the run's own.
        arguments: of the command line.
    """

    def __init__(self, stack: Stack, arguments: argparse.Namespace) -> None:
        self.stack = stack
        self.info: StackInfo = stack.info
        self.arguments = arguments
        self.report = Report(cast("int", arguments.subscribers))
        self.subscribers: list[Subscriber] = []
        self.committed_at: dict[UUID, float] = {}
        self.quiet = True
        self.stopping = False

    def direct(self, user_id: UUID, workspace: UUID | None = None) -> AsyncKnowledgeClient:
        """Make a client on a direct connection, for one user."""
        return connect_async(
            self.info.database_url,
            user_id=user_id,
            workspace=workspace,
            embedder=None,
            settings=self.settings,
        )

    @property
    def settings(self) -> Settings:
        """Nobody's settings but the stack's directory."""
        return Settings(home=self.stack.home.path)

    def token(self, user_id: UUID) -> str:
        """Sign an access token for a user of the run."""
        import jwt  # noqa: PLC0415

        config = self.stack.home.load_config()
        assert config is not None
        claims = {"sub": str(user_id), "role": "authenticated", "aud": "authenticated"}
        return jwt.encode({**claims, "exp": int(time.time()) + 3600}, config.jwt_secret, "HS256")

    async def sign_up(self, how_many: int) -> list[UUID]:
        """Make accounts."""
        import psycopg  # noqa: PLC0415

        ids = [uuid4() for _ in range(how_many)]
        config = self.stack.home.load_config()
        assert config is not None
        async with await psycopg.AsyncConnection.connect(config.database_url("supabase_admin")) as connection:
            for user_id in ids:
                await connection.execute(
                    "insert into auth.users (id, email) values (%s, %s)", [user_id, f"{user_id}@example.org"]
                )
        return ids

    async def run(self) -> Report:
        """Do all of it."""
        arguments = self.arguments
        owners = await self.sign_up(arguments.workspaces)
        members = await self.sign_up(arguments.subscribers)
        workspaces: list[UUID] = []
        for number, owner in enumerate(owners):
            async with self.direct(owner) as client:
                workspaces.append((await client.create_workspace(f"workspace {number}")).workspace_id)
        for member, place in zip(members, cycle(range(len(workspaces))), strict=False):
            async with self.direct(owners[place]) as client:
                await client.add_workspace_member(workspaces[place], member, role="reader")
            self.subscribers.append(Subscriber(member, workspaces[place]))
        async with self.direct(owners[0]) as client:
            start = await client.events_cursor()

        following = [asyncio.create_task(self.follow(one, start)) for one in self.subscribers]
        await asyncio.sleep(arguments.warm_up)
        logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # the database is away on purpose
        began = time.monotonic()
        killing = asyncio.create_task(self.kill_parts())
        writing = [
            self.write(list(zip(owners, workspaces, strict=True))[number :: arguments.writers])
            for number in range(arguments.writers)
        ]
        await asyncio.gather(*writing)
        elapsed = time.monotonic() - began
        await killing
        expected: dict[UUID, set[int]] = {}
        for one in self.subscribers:
            expected[one.user_id] = await _again(lambda one=one: self.expected(one, start))
        Console(stderr=True).print(f"written in {elapsed:.0f} s; waiting for the last subscriber")
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline and any(  # noqa: ASYNC110 - the subscribers are many
            expected[one.user_id] - one.told.keys() for one in self.subscribers
        ):
            await asyncio.sleep(0.2)
        self.stopping = True
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        self.judge(expected, elapsed)
        return self.report

    async def expected(self, subscriber: Subscriber, start: int) -> set[int]:
        """Ask the log what somebody may see."""
        found: set[int] = set()
        async with self.direct(subscriber.user_id, subscriber.workspace) as client:

            async def read(after: int) -> list[KnowledgeEvent]:
                return await _again(lambda: client.events_since(after, max_events=1000))

            place = start
            while page := await read(place):
                found |= {event.event_id for event in page}
                place = page[-1].event_id
        return found

    async def follow(self, subscriber: Subscriber, start: int) -> None:
        """Follow for as long as the run lasts."""
        client = connect_async(
            self.info.api_url,
            api_key=self.info.publishable_key,
            access_token=self.token(subscriber.user_id),
            workspace=subscriber.workspace,
            embedder=None,
            settings=self.settings,
        )
        async with client:
            async for event in client.subscribe(after=start):
                subscriber.told[event.event_id] += 1
                if self.quiet and event.what == "shared":
                    subscriber.received_at.setdefault(event.subject_id, time.time())

    async def write(self, places: list[tuple[UUID, UUID]]) -> None:
        """Record, and validate every other item, in turn in each workspace."""
        deadline = time.monotonic() + self.arguments.seconds
        clients = [self.direct(owner, workspace) for owner, workspace in places]
        try:
            for number, client in enumerate(cycle(clients)):
                if time.monotonic() > deadline:
                    return
                began = time.monotonic()
                text = f"item {uuid4()}"
                recorded = await _again(lambda client=client, text=text: client.remember(text))
                if number % 2:
                    item = recorded.knowledge_id
                    await _again(lambda client=client, item=item: client.validate(item))
                    if self.quiet:
                        self.committed_at[item] = time.time()
                pause = 1 / self.arguments.rate - (time.monotonic() - began)
                await asyncio.sleep(max(0.0, pause) * random.uniform(0.5, 1.5))
        finally:
            for client in clients:
                await client.close()

    async def kill_parts(self) -> None:
        """Kill the gateway, the database, the gateway, evenly spread; wait for each to be back."""
        gap = self.arguments.seconds / 4
        for part in ("realtime", "postgres", "realtime"):
            await asyncio.sleep(gap * 0.5)
            self.quiet = False
            await asyncio.sleep(1)
            service = self.stack.status().services[part]
            assert service.pid is not None, f"{part} is not there to be killed"
            os.kill(service.pid, signal.SIGKILL)
            await asyncio.sleep(gap * 0.5)
            self.quiet = True

    def judge(self, expected: dict[UUID, set[int]], elapsed: float) -> None:
        """Compare what was told with what is there."""
        report = self.report
        delays: list[float] = []
        for one in self.subscribers:
            report.missing += len(expected[one.user_id] - one.told.keys())
            report.foreign += len(one.told.keys() - expected[one.user_id])
            report.repeated += sum(one.told.values()) - len(one.told)
            report.deliveries += len(one.told)
            delays += [
                (received - self.committed_at[item]) * 1000
                for item, received in one.received_at.items()
                if item in self.committed_at
            ]
        report.events = len(set[int]().union(*expected.values()))
        report.events_per_second = report.events / elapsed
        report.deliveries_per_second = report.deliveries / elapsed
        delays.sort()
        if delays:
            report.p50_milliseconds = delays[len(delays) // 2]
            report.p95_milliseconds = delays[int(len(delays) * 0.95)]

    async def hold_idle(self, how_many: int) -> None:
        """Hold idle connections, each in one private channel, and read the gateway's memory."""
        config = self.stack.home.load_config()
        assert config is not None
        service = self.stack.status().services["realtime"]
        assert service.pid is not None
        # The child of the tether is the gateway itself: the tether runs it in its own process.
        gateway = psutil.Process(service.pid)
        one = self.subscribers[0]
        address = f"ws://127.0.0.1:{service.port}/websocket?vsn=1.0.0&apikey={config.publishable_key}"
        join = {
            "topic": f"realtime:workspace:{one.workspace}",
            "event": "phx_join",
            "ref": "1",
            "payload": {"access_token": self.token(one.user_id), "config": {"private": True}},
        }
        held: list[websockets.ClientConnection] = []

        async def hold() -> None:
            connection = await websockets.connect(address, proxy=None, ping_interval=None, compression=None)
            await connection.send(json.dumps(join))
            assert json.loads(await connection.recv())["payload"]["status"] == "ok"
            held.append(connection)

        for _ in range(20):  # what the first ones cost is not theirs
            await hold()
        before = gateway.memory_info().rss
        for _ in range(how_many // 20):
            await asyncio.gather(*(hold() for _ in range(20)))
        self.report.idle = len(held) - 20
        self.report.idle_bytes_each = (gateway.memory_info().rss - before) // max(self.report.idle, 1)
        await asyncio.gather(*(connection.close() for connection in held))


async def _again(act: Callable[[], Awaitable[T]]) -> T:
    """Do something until the database is there: recording and validating may be repeated."""
    while True:
        try:
            return await act()
        except TransportError:
            await asyncio.sleep(0.2)


async def measure(stack: Stack, arguments: argparse.Namespace) -> Report:
    """Run the soak, then hold idle connections."""
    soak = Soak(stack, arguments)
    await soak.run()
    if arguments.idle:
        await soak.hold_idle(arguments.idle)
    return soak.report


def main() -> int:
    """Measure, write the figures as JSON where asked, print them, and fail where an event is missing or foreign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--workspaces", type=int, default=20)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1.0, help="items a second of each writer")
    parser.add_argument("--warm-up", type=float, default=10, help="seconds until the writers begin")
    parser.add_argument("--idle", type=int, default=1000, help="idle connections to hold; 0: none")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kp-") as directory, benchmark_stack(Path(directory)) as stack:
        report = asyncio.run(measure(stack, arguments))
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(report), indent=2) + "\n")
    Console().print_json(data=asdict(report))
    return 1 if report.missing or report.foreign else 0


if __name__ == "__main__":
    raise SystemExit(main())
