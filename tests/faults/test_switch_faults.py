"""A switch between two real models under live reads and writes, killed and resumed: search is never blind.

With `--long` it is done with 20,000 items as well.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

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
    from pathlib import Path

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
    recorded = []
    for start in range(0, len(items), 500):
        recorded += ana.rpc("record_knowledge_batch", items=items[start : start + 500])
    return [str(row["knowledge_id"]) for row in recorded[: len(LESSONS)]]


def recall_at_10(client: KnowledgeClient, ids: list[str]) -> float:
    found = 0
    for (_, question), expected in zip(LESSONS, ids, strict=True):
        found += expected in {str(row.knowledge_id) for row in client.search(question, max_results=10)}
    return found / len(LESSONS)


def number(world: World, query: str) -> int:
    [row] = world.superuser(query)
    [value] = row.values()
    return int(value)


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
    ana, service = world.sign_up("ana"), world.service()
    settings = Settings(home=tmp_path)
    service.rpc("register_embedding_model", name=OLD, dimensions=256, is_default=True)
    ids = fill(ana, items)
    asyncio.run(
        Worker(database_url=database.dsn("authenticator"), embedder=StaticEmbedder(), batch=200).run_once()
    )
    assert number(world, "select count(*) from private.item_vectors") == items

    command = [
        sys.executable,
        "-c",
        "import sys; from knowledge_persistence.cli import main; sys.exit(main())",
        "embeddings",
        "switch",
        NEW,
        "--json",
        "--database-url",
        database.dsn(),
    ]
    serving = f"select count(*) from public.embedding_models where is_default and name = '{OLD}'"
    blocked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    unfinished = (
        "select count(*) from public.knowledge_items k"
        " where not exists (select from private.next_embeddings n where n.knowledge_id = k.id)"
    )
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        writer = world.as_user(ana.id) if ana.id else ana
        for n in itertools.count(items):
            if stop.is_set():
                break
            written.append(str(writer.record(**filler(n))))
            stop.wait(0.5)

    def probe(moment: str) -> None:
        hybrid, words = recall_at_10(reader, ids), recall_at_10(plain, ids)
        assert hybrid >= words, f"{moment}: {hybrid} by meaning and words, {words} by words alone"
        assert words > 0, "the questions share no words with the lessons, so this says nothing"

    dsn = database.dsn("authenticator")
    with (
        # Made as `connect` makes it: it follows the deployment to the model that serves.
        connect(dsn, user_id=ana.id, settings=settings) as reader,
        connect(dsn, user_id=ana.id, settings=settings, embedder=None) as plain,
    ):
        before = recall_at_10(reader, ids)
        assert before > recall_at_10(plain, ids), "the questions share too many words with the lessons"
        live = threading.Thread(target=write)
        live.start()
        processes: list[subprocess.Popen[str]] = []
        try:
            # Somebody holds the last item, so that the switch can't be through before it is killed.
            with psycopg.connect(database.dsn()) as holder:
                holder.execute(
                    "select from public.knowledge_items order by id desc limit 1 for no key update"
                )
                first = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
                )
                processes.append(first)
                deadline = time.monotonic() + patience
                while not number(world, blocked):
                    assert first.poll() is None, first.stderr and first.stderr.read()
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                probe("filling")
                first.send_signal(signal.SIGKILL)
                first.wait()
                assert number(world, unfinished) > 0
                assert number(world, serving) == 1
            probe("interrupted")
            # What the killed one held comes back when its lease ends; here it ends now.
            world.superuser(
                "update private.embedding_jobs set available_at = now() where available_at < 'infinity'"
            )
            second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            processes.append(second)
            deadline = time.monotonic() + patience
            while second.poll() is None:
                assert time.monotonic() < deadline
                probe("resumed")
            out, said = second.communicate()
            assert second.returncode == 0, said
            assert json.loads(out)["state"] == "settled"
            probe("swapped")
        finally:
            stop.set()
            live.join()
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
                for pipe in (process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()
    # What was written in the last moment is embedded by the model that serves by then.
    made = make_embedder_for(settings, NEW)
    assert made is not None
    asyncio.run(Worker(database_url=dsn, embedder=made).run_once())
    assert (
        number(
            world,
            f"select count(*) from public.knowledge_items where embedding_model is distinct from '{NEW}'",
        )
        == 0
    )
    assert number(world, "select count(*) from public.knowledge_items") == items + len(written)
    assert number(world, "select count(*) from private.embedding_jobs") == 0
    with connect(dsn, user_id=ana.id, settings=settings) as reader:
        after = recall_at_10(reader, ids)
    assert after >= before
