"""A switch between two real models under live reads and writes, interrupted and resumed: search is never blind.

With `--long` it is done with 20,000 items as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest

from knowledge_persistence import connect
from knowledge_persistence.embedders import make_embedder_for
from knowledge_persistence.embedders.local import MODEL_NAME as NEW
from knowledge_persistence.embedders.static import MODEL_NAME as OLD
from knowledge_persistence.embedders.static import StaticEmbedder
from knowledge_persistence.settings import Settings
from knowledge_persistence.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from databases import Database
    from knowledge_persistence import KnowledgeClient
    from world import Persona, World

# What was learned, and what somebody asks who remembers other words for it.
LESSONS = [
    (
        "The nightly backup fails when the disk is full",
        "what goes wrong with the backup overnight",
    ),
    ("Customers are billed twice if the payment webhook is retried", "somebody was charged two times"),
    (
        "The login page rejects passwords with spaces",
        "login is refused with a blank in the secret phrase",
    ),
    ("Deploys roll back by themselves when the health check times out", "new release reverted automatically"),
    ("Emails to large lists are throttled by the mail provider", "emails and newsletters go out slowly"),
    (
        "The search index has to be rebuilt after renaming a column",
        "find nothing after a field got a new name",
    ),
    ("Docker images grow because the build cache is copied in", "why are our docker containers so big"),
    ("Time zones break the weekly report in March", "figures are wrong around daylight saving"),
    ("The mobile app crashes on old Android phones without a camera", "application ends on ancient handsets"),
    ("Uploads of huge pictures exhaust the memory of the resize service", "big photos kill the thumbnailer"),
    ("The cache serves stale prices for an hour after a sale ends", "outdated prices are shown in the shop"),
    ("Database connections leak when a request is cancelled", "we run out of connections to postgres"),
]


def filler(n: int) -> dict[str, str]:
    places = ["Lisbon", "Oslo", "Quito", "Hanoi", "Perth", "Accra", "Turin", "Osaka"]
    things = ["ferry", "market", "museum", "library", "bakery", "harbour", "garden", "station"]
    place, thing = places[n % 8], things[n // 8 % 8]
    return {"title": f"Note {n} on the {thing}", "content": f"The {thing} of {place} was visited on day {n}."}


def fill(ana: Persona, count: int) -> list[str]:
    """Record the lessons among much else, and return the lessons' ids."""
    items = [{"title": text, "content": f"{text}; look there first."} for text, _ in LESSONS]
    items += [filler(n) for n in range(count - len(items))]
    recorded: list[dict[str, Any]] = []
    for start in range(0, len(items), 500):
        recorded += ana.rpc("record_knowledge_batch", items=items[start : start + 500])
    return [str(row["knowledge_id"]) for row in recorded[: len(LESSONS)]]


def recall_at_10(client: KnowledgeClient, ids: list[str]) -> float:
    found = 0
    for (_, question), expected in zip(LESSONS, ids, strict=True):
        found += expected in {str(row.knowledge_id) for row in client.search(question, max_results=10)}
    return found / len(LESSONS)


class Operator:
    """Looks at the database as its superuser, also after it has crashed."""

    def __init__(self, database: Database) -> None:
        self._dsn = database.dsn("supabase_admin")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        deadline = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(self._dsn) as connection:
                    cursor = connection.execute(query.encode())
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                # It recovers from a crash.
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def number(self, query: str) -> int:
        [(value,)] = self.rows(query)
        return int(value)


def recall_by_meaning(
    client: KnowledgeClient, operator: Operator, questions: list[NDArray[np.float32]], ids: list[str]
) -> tuple[float, float]:
    """The share of the lessons that the new model's vectors find among ten: by its index, and by comparing all.

    Args:
        client: searches by the index.
        operator: compares all.
        questions: their vectors.
        ids: the lessons.
    """
    by_index = by_comparing = 0
    for asked, expected in zip(questions, ids, strict=True):
        similar = client.find_similar(asked, max_results=10, similarity_threshold=-1, embedding_model=NEW)
        by_index += expected in {str(row.id) for row in similar}
        by_comparing += operator.number(
            "select count(*) from (select knowledge_id from private.item_vectors"
            f" where embedding_model = '{NEW}'"
            f" order by embedding operator(extensions.<=>) '{json.dumps(asked.tolist())}'::extensions.halfvec"
            f" limit 10) n where knowledge_id = '{expected}'"
        )
    return by_index / len(ids), by_comparing / len(ids)


SWITCH = [
    "-c",
    "import sys; from knowledge_persistence.cli import main; sys.exit(main())",
    "embeddings",
    "switch",
    NEW,
]
SERVING = f"select count(*) from public.embedding_models where is_default and name = '{OLD}'"
# Waiting for a lock of ours, not of the indexes.
BLOCKED = "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
UNFINISHED = (
    "select count(*) from public.knowledge_items k"
    " where not exists (select from private.next_embeddings n where n.knowledge_id = k.id)"
)


def kill(process: subprocess.Popen[str], _: Operator) -> int:
    process.kill()
    return -signal.SIGKILL


def press_ctrl_c(process: subprocess.Popen[str], _: Operator) -> int:
    process.send_signal(signal.SIGINT)
    return 130


def crash_the_database(_: subprocess.Popen[str], operator: Operator) -> int:
    # Whoever loses one server process without a word starts all of them anew, and recovers from the log.
    os.kill(operator.number(BLOCKED), signal.SIGKILL)
    return 3


@pytest.mark.parametrize(
    ("items", "patience"),
    [
        pytest.param(120, 240, marks=pytest.mark.timeout(600)),
        pytest.param(20_000, 3600, marks=[pytest.mark.long, pytest.mark.timeout(7200)]),
    ],
)
def test_search_is_never_blind_while_the_model_is_switched(
    world: World, database: Database, tmp_path: Path, items: int, patience: int
) -> None:
    ana, service, operator = world.sign_up("ana"), world.service(), Operator(database)
    settings = Settings(home=tmp_path)
    service.rpc("register_embedding_model", name=OLD, dimensions=256, is_default=True)
    ids = fill(ana, items)
    asyncio.run(
        Worker(database_url=database.dsn("authenticator"), embedder=StaticEmbedder(), batch=200).run_once()
    )
    assert operator.number("select count(*) from private.item_vectors") == items
    operator.rows("analyze public.knowledge_items")
    # The tests' server forgets the last moment when it crashes; what is acknowledged from here on must not be lost.
    operator.rows(f"alter database {database.name} set synchronous_commit = on")

    dsn = database.dsn("authenticator")
    stop = threading.Event()
    written: list[str] = []
    probes: list[float] = []

    def write() -> None:
        with connect(dsn, user_id=ana.id, settings=settings, embedder=None) as writer:
            for n in itertools.count(items):
                if stop.is_set():
                    break
                note = filler(n)
                written.append(str(writer.remember(note["content"], title=note["title"]).knowledge_id))
                stop.wait(0.5)

    def probe(moment: str) -> None:
        hybrid, words = recall_at_10(reader, ids), recall_at_10(plain, ids)
        assert hybrid >= words, f"{moment}: {hybrid} by meaning and words, {words} by words alone"
        assert words > 0, "the questions share no words with the lessons, so this says nothing"
        probes.append(hybrid)

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *SWITCH, "--json", "--database-url", database.dsn()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def interrupt(how: Callable[[subprocess.Popen[str], Operator], int]) -> None:
        """Stop the switch on its way, when it is an eighth further."""
        with contextlib.closing(psycopg.connect(database.dsn())) as holder:
            # Somebody holds an item on the way, so that the switch can't pass before it is stopped.
            holder.execute(
                "select from public.knowledge_items where id = (select id from public.knowledge_items"
                " where not exists (select from private.next_embeddings n where n.knowledge_id = id)"
                " order by id offset %s limit 1) for no key update",
                [items // 8],
            )
            process = begin()
            processes.append(process)
            deadline = time.monotonic() + patience
            while not operator.rows(BLOCKED):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            probe("filling")
            expected = how(process, operator)
            _, said = process.communicate(timeout=120)
            assert process.returncode == expected, said
        assert operator.number(UNFINISHED) > 0
        assert operator.number(SERVING) == 1
        probe(f"after {how.__name__}")
        # What it held comes back when its lease ends; here it ends now.
        operator.rows(
            "update private.embedding_jobs set available_at = now() where available_at < 'infinity'"
        )

    with (
        # Made as `connect` makes it: it follows the deployment to the model that serves.
        connect(dsn, user_id=ana.id, settings=settings) as reader,
        connect(dsn, user_id=ana.id, settings=settings, embedder=None) as plain,
    ):
        before = recall_at_10(reader, ids)
        words = recall_at_10(plain, ids)
        assert before >= words
        live = threading.Thread(target=write)
        live.start()
        processes: list[subprocess.Popen[str]] = []
        try:
            for how in (kill, press_ctrl_c, crash_the_database):
                interrupt(how)
            last = begin()
            processes.append(last)
            deadline = time.monotonic() + patience
            while last.poll() is None:
                assert time.monotonic() < deadline
                probe("resumed")
            out, said = last.communicate()
            assert last.returncode == 0, said
            assert json.loads(out)["state"] == "settled"
            probe("swapped")
        finally:
            stop.set()
            live.join()
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.communicate()
    # What was written in the last moment is embedded by the model that serves by then.
    made = make_embedder_for(settings, NEW)
    assert made is not None
    asyncio.run(Worker(database_url=dsn, embedder=made).run_once())
    assert (
        operator.number(
            f"select count(*) from public.knowledge_items where embedding_model is distinct from '{NEW}'"
        )
        == 0
    )
    assert written
    assert operator.number("select count(*) from public.knowledge_items") == items + len(set(written))
    assert operator.number("select count(*) from private.embedding_jobs") == 0
    with connect(dsn, user_id=ana.id, settings=settings) as reader:
        after = recall_at_10(reader, ids)
        by_index, by_comparing = recall_by_meaning(
            reader, operator, [made.embed_query(question) for _, question in LESSONS], ids
        )
    assert after >= before
    assert after > words, "the questions share too many words with the lessons"
    assert by_index >= by_comparing > 0, "the index has lost lessons, and nobody looked for them"
    print(  # noqa: T201 - what the long run is for
        f"{len(written)} written meanwhile, {len(probes)} probes; recall@10 {before:.2f} before, never below"
        f" {min(probes):.2f} on the way, {after:.2f} after; by meaning"
        f" alone {by_index:.2f}, and {by_comparing:.2f} by comparing all"
    )
