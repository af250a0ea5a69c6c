"""Speed: what our functions cost beside the bare SQL that does the same, in one run.

    python -m benchmarks.speed --items 10000 --json speed.json

Every contestant does one transaction of the same shape (begin, role and claims, one query, commit, sent as one
pipeline) as the same user under row-level security. They take turns, query by query, so that a machine whose
speed drifts drifts for all. The figures to trust are the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psycopg
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.progress import track
from rich.table import Table

from knowledge_persistence import Settings, connect
from knowledge_persistence.embedded import Stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MODEL = "all-MiniLM-L6-v2"
DIMENSIONS = 384
_SETUP = """
select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true),
       set_config('request.jwt.claim.sub', %s, true), set_config('app.current_workspace', '', true),
       set_config('app.current_session', '', true), set_config('statement_timeout', '30000', true)
"""
_BARE = f"""
select id, title, content, knowledge_type,
       1 - ((content_embedding::extensions.halfvec({DIMENSIONS})) operator(extensions.<=>) %s::extensions.halfvec) as similarity
  from public.knowledge_items
 where embedding_model = '{MODEL}'
 order by (content_embedding::extensions.halfvec({DIMENSIONS})) operator(extensions.<=>) %s::extensions.halfvec
 limit 10
"""  # noqa: S608 - constants


def clustered_vectors(how_many: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return unit vectors, shape (how_many, 384), around 200 centres: texts cluster, uniform noise doesn't."""
    centres = generator.normal(size=(200, DIMENSIONS))
    vectors = centres[generator.integers(0, len(centres), how_many)] + generator.normal(
        scale=0.7, size=(how_many, DIMENSIONS)
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def as_text(vector: NDArray[np.float32]) -> str:
    """Write a vector as pgvector reads it."""
    return "[" + ",".join(f"{value:.7g}" for value in vector.tolist()) + "]"


def in_turns(
    contestants: dict[str, Callable[[int], object]], queries: int
) -> dict[str, list[float]]:
    """Let each contestant answer each query in turn; return milliseconds per query."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    for number in track(range(queries), description="queries"):
        for name, ask in order:
            started = time.perf_counter()
            ask(number)
            times[name].append((time.perf_counter() - started) * 1000)
        order = order[1:] + order[:1]
    return times


def main() -> None:
    """Measure, print the table last, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000, help="items in the workspace")
    parser.add_argument("--queries", type=int, default=300, help="queries for each contestant")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    generator = np.random.default_rng(20261122)
    vectors = clustered_vectors(arguments.items + arguments.queries, generator)
    queries = vectors[arguments.items :]
    words = [f"word{i}" for i in range(5000)]

    with tempfile.TemporaryDirectory(prefix="kp-bench-") as directory:
        if os.geteuid() == 0:
            Path(directory).chmod(0o711)
        with Stack(Path(directory) / "home", port=_free_port(), database_port=_free_port()) as stack:
            info = stack.status().info
            assert info is not None
            user = str(_first_user(info.admin_database_url))
            memory = connect(info.database_url, user_id=user, settings=Settings(home=stack.home.path, embedder="none"))
            setup = (json.dumps({"sub": user, "role": "authenticated"}), user)
            started = time.perf_counter()
            with psycopg.connect(info.database_url) as writer:
                for first in track(range(0, arguments.items, 500), description="recording", console=console):
                    items = [
                        {
                            "title": f"item {number}",
                            "content": " ".join(generator.choice(words, 40).tolist()),
                            "content_embedding": as_text(vectors[number]),
                            "embedding_model": MODEL,
                        }
                        for number in range(first, min(first + 500, arguments.items))
                    ]
                    writer.execute(_SETUP, setup)
                    writer.execute("select count(*) from public.record_knowledge_batch(%s)", (Jsonb(items),))
                    writer.commit()
            recording_rate = arguments.items / (time.perf_counter() - started)
            with psycopg.connect(info.admin_database_url, autocommit=True) as admin:
                admin.execute("vacuum analyze")
            with psycopg.connect(info.database_url, autocommit=True) as raw:
                raw.prepare_threshold = 0

                def bare(number: int) -> object:
                    text = as_text(queries[number])
                    with raw.pipeline():
                        raw.execute("begin read only")
                        raw.execute(_SETUP, setup)
                        cursor = raw.execute(_BARE, (text, text))
                        raw.execute("commit")
                    return cursor.fetchall()

                def ours(number: int) -> object:
                    return memory.find_similar(queries[number].tolist(), similarity_threshold=-1, embedding_model=MODEL)

                contestants = {"bare pgvector SQL": bare, "find_similar (direct)": ours}
                in_turns(contestants, min(50, arguments.queries))  # warm caches and connections
                times = in_turns(contestants, arguments.queries)
            memory.close()

    figures = {
        name: {"p50_ms": statistics.median(values), "p95_ms": float(np.percentile(values, 95))}
        for name, values in times.items()
    }
    base = figures["bare pgvector SQL"]
    report = {
        "items": arguments.items,
        "queries": arguments.queries,
        "recording_items_per_second": recording_rate,
        "contestants": {
            name: {**f, "p50_ratio": f["p50_ms"] / base["p50_ms"], "p95_ratio": f["p95_ms"] / base["p95_ms"]}
            for name, f in figures.items()
        },
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    table = Table("", "p50 ms", "p95 ms", "p50 ratio", "p95 ratio", title=f"{arguments.items} items, {recording_rate:.0f} recorded a second")
    for name, f in report["contestants"].items():
        table.add_row(name, *(f"{f[key]:.2f}" for key in ("p50_ms", "p95_ms", "p50_ratio", "p95_ratio")))
    Console().print(table)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_user(admin_database_url: str) -> object:
    with psycopg.connect(admin_database_url, autocommit=True) as admin:
        row = admin.execute("select id from auth.users order by created_at limit 1").fetchone()
        assert row is not None
        return row[0]


if __name__ == "__main__":
    main()
