"""Load: many clients read and write at once, for minutes; how fast, how evenly, and does any process grow?

    python -m benchmarks.load --seconds 300 --clients 64 --json load.json

First they go over HTTP, then over direct connections, each for so long, to a stack of their own in a temporary
directory. Each client is a thread with a client of its own, acts for one of eight users of one workspace, and does in
turn what an agent does: mostly recalls and searches, some records, now and then a rating. Each second the memory of
every process of the stack is read, the database's as what its processes have for themselves. Growth is the slope of a
straight line through the second half, when caches are warm and connections made. Ends with 1 when a call failed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from uuid import uuid4

import psutil
from rich.console import Console
from rich.table import Table

from knowledge_persistence import KnowledgeClient, KnowledgePersistenceError, Settings, connect
from knowledge_persistence._sync.http import HttpTransport

from . import benchmark_stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from knowledge_persistence.credentials import Credential
    from knowledge_persistence.embedded import Stack

Door: TypeAlias = Literal["http", "direct"]
DOORS: Final[tuple[Door, ...]] = ("http", "direct")
_USERS: Final = 8
_MIB: Final = 1024 * 1024
_SUBJECTS: Final = (
    "deploy",
    "cache",
    "queue",
    "index",
    "webhook",
    "login",
    "backup",
    "invoice",
    "timezone",
    "socket",
)
_EVENTS: Final = (
    "fails",
    "hangs",
    "retries",
    "leaks",
    "drifts",
    "overflows",
    "expires",
    "duplicates",
    "stalls",
)


@dataclass
class Run:
    """What was measured through one door.

    Attributes:
        door: the door.
        seconds: how long it took.
        calls: how many of each kind were answered.
        milliseconds: of each kind's calls: p50, p95, p99.
        errors: what failed, by its words.
        memory: of each process of the stack: MiB at the beginning and the end, MiB a minute in the second half.
    """

    door: Door
    seconds: float = 0.0
    calls: dict[str, int] = field(default_factory=dict[str, int])
    milliseconds: dict[str, tuple[float, float, float]] = field(
        default_factory=dict[str, tuple[float, float, float]]
    )
    errors: dict[str, int] = field(default_factory=dict[str, int])
    memory: dict[str, tuple[float, float, float]] = field(
        default_factory=dict[str, tuple[float, float, float]]
    )


def _phrase(dice: random.Random) -> str:
    first, second = dice.sample(_SUBJECTS, 2)
    return f"the {first} {dice.choice(_EVENTS)} after the {second} {dice.choice(_EVENTS)}"


def _work(
    client: KnowledgeClient, seed: int, until: float, start: threading.Barrier
) -> tuple[dict[str, list[float]], Counter[str]]:
    dice = random.Random(seed)
    took: dict[str, list[float]] = defaultdict(list)
    errors: Counter[str] = Counter()
    try:
        mine = [client.remember(f"{_phrase(dice)} {uuid4().hex}").knowledge_id]
    except BaseException:
        start.abort()  # nobody waits for one that can't
        raise
    deeds: list[tuple[str, Callable[[], object]]] = [
        ("recall", lambda: client.recall(_phrase(dice))),
        ("search", lambda: client.search(_phrase(dice))),
        ("remember", lambda: mine.append(client.remember(f"{_phrase(dice)} {uuid4().hex}").knowledge_id)),
        ("rate", lambda: client.rate(dice.choice(mine), effectiveness_rating=dice.randint(1, 10))),
    ]
    start.wait(120)
    ending = time.monotonic() + until
    while time.monotonic() < ending:
        [(name, deed)] = dice.choices(deeds, weights=(40, 30, 25, 5))
        began = time.perf_counter()
        try:
            deed()
        except KnowledgePersistenceError as error:
            errors[f"{name}: {type(error).__name__}: {error}"[:200]] += 1
        else:
            took[name].append((time.perf_counter() - began) * 1000)
    return took, errors


def _memory(stack: Stack) -> dict[str, float]:
    """Read what each part of the stack holds, in MiB: its own memory and its children's."""
    held: dict[str, float] = {}
    for name, service in stack.status().services.items():
        if service.pid is None:
            continue
        try:
            process = psutil.Process(service.pid)
            family = [process, *process.children(recursive=True)]
        except psutil.Error:
            continue
        total = 0
        for one in family:
            try:
                # What the database's processes share is counted once, by none: its size is set.
                total += one.memory_full_info().uss
            except psutil.Error:
                continue
        held[name] = total / _MIB
    return held


def _slope(points: list[tuple[float, float]]) -> float:
    """Return the growth a minute of a straight line through points of seconds and MiB."""
    half = points[len(points) // 2 :]
    if len(half) < 3:  # noqa: PLR2004 - a line through two points says nothing
        return 0.0
    return 60 * statistics.linear_regression([x for x, _ in half], [y for _, y in half]).slope


def measure(
    stack: Stack, door: Door, people: list[Credential], workspace: str, *, clients: int, seconds: float
) -> Run:
    """Let clients work through one door.

    Args:
        stack: where.
        door: "http" or "direct".
        people: who works.
        workspace: in which workspace, by id.
        clients: how many at once.
        seconds: for how long.
    """
    info, settings = stack.info, Settings(home=stack.home.path / "none")
    config = stack.home.load_config()
    if config is None:
        raise RuntimeError("the stack has no configuration")
    opened: list[KnowledgeClient] = []
    for number in range(clients):
        person = people[number % len(people)]
        if door == "http":
            client = connect(
                info.api_url,
                api_key=info.publishable_key,
                access_token=person.access_token,
                workspace=workspace,
                embedder=None,
                settings=settings,
            )
        else:
            client = connect(
                info.database_url,
                user_id=person.user_id,
                workspace=workspace,
                embedder=None,
                settings=settings,
            )
        opened.append(client)
    run = Run(door)
    start = threading.Barrier(clients + 1)
    readings: dict[str, list[tuple[float, float]]] = defaultdict(list)
    try:
        with ThreadPoolExecutor(clients) as pool:
            working = [
                pool.submit(_work, client, number, seconds, start) for number, client in enumerate(opened)
            ]
            start.wait(120)
            began = time.monotonic()
            while not all(one.done() for one in working):
                for name, held in _memory(stack).items():
                    readings[name].append((time.monotonic() - began, held))
                time.sleep(1)
            run.seconds = time.monotonic() - began
            took: dict[str, list[float]] = defaultdict(list)
            errors: Counter[str] = Counter()
            for one in working:
                times, failed = one.result()
                errors += failed
                for name, milliseconds in times.items():
                    took[name] += milliseconds
    finally:
        for client in opened:
            client.close()
    for name, milliseconds in sorted(took.items()):
        cuts = statistics.quantiles(milliseconds, n=100) if len(milliseconds) > 1 else milliseconds * 99
        run.calls[name] = len(milliseconds)
        run.milliseconds[name] = (cuts[49], cuts[94], cuts[98])
    run.errors = dict(errors)
    run.memory = {name: (points[0][1], points[-1][1], _slope(points)) for name, points in readings.items()}
    return run


def sign_up(stack: Stack) -> tuple[list[Credential], str]:
    """Sign up who works, and give them a workspace."""
    info = stack.info
    people: list[Credential] = []
    for number in range(_USERS):
        transport = HttpTransport(info.api_url, info.publishable_key)
        try:
            if transport.sign_in is None:
                raise RuntimeError("nobody can sign up here")
            person = transport.sign_in.sign_up(f"user{number}-{uuid4().hex}@example.org", uuid4().hex)
        finally:
            transport.close()
        if person is None:
            raise RuntimeError("the deployment wants addresses confirmed")
        people.append(person)
    with connect(
        info.database_url,
        user_id=people[0].user_id,
        embedder=None,
        settings=Settings(home=stack.home.path / "none"),
    ) as owner:
        workspace = str(owner.create_workspace("load").workspace_id)
        for person in people[1:]:
            owner.add_workspace_member(workspace, person.user_id, role="contributor")
    return people, workspace


def show(runs: list[Run], console: Console) -> None:
    """Print what was measured."""
    calls = Table("door", "call", "answered", "a second", "p50 ms", "p95 ms", "p99 ms", title="Calls")
    memory = Table("door", "process", "MiB first", "MiB last", "MiB a minute", title="Memory")
    for run in runs:
        for name, number in run.calls.items():
            times = [f"{value:.1f}" for value in run.milliseconds[name]]
            calls.add_row(run.door, name, f"{number:,}", f"{number / run.seconds:.1f}", *times)
        total = sum(run.calls.values())
        calls.add_row(
            run.door, "all", f"{total:,}", f"{total / run.seconds:.1f}", "", "", "", end_section=True
        )
        for name, (first, last, slope) in run.memory.items():
            memory.add_row(run.door, name, f"{first:.0f}", f"{last:.0f}", f"{slope:+.2f}")
    console.print(calls, memory)
    for run in runs:
        console.print(f"{run.door}: {sum(run.errors.values())} errors")
        for words, number in run.errors.items():
            console.print(f"  {number} x {words}")


def main() -> int:
    """Run it, and return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="for how long through each door")
    parser.add_argument("--clients", type=int, default=64, help="how many at once")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    asked = parser.parse_args()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="kp-load-") as directory,
        benchmark_stack(Path(directory)) as stack,
    ):
        people, workspace = sign_up(stack)
        runs = [
            measure(stack, door, people, workspace, clients=asked.clients, seconds=asked.seconds)
            for door in DOORS
        ]
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(run) for run in runs], indent=2) + "\n")
    show(runs, console)
    return 1 if any(run.errors for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
