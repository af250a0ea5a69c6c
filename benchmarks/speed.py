"""Speed: what our functions cost beside the bare SQL that does the same, in one run.

    python -m benchmarks.speed --items 10000 --json speed.json

Every contestant does one transaction of the same shape (begin, role and claims, one query, commit, sent as one
pipeline) as the same user with the same index settings. The bare queries read a plain table of the same rows, without
row-level security. They take turns, query by query, so that a machine whose speed drifts drifts for all. The figures
to trust are the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, LiteralString

import numpy as np
import psycopg
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.progress import track
from rich.table import Table

from knowledge_persistence import KnowledgeClient, Settings, connect

from . import benchmark_stack, first_user

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from knowledge_persistence.embedded import StackInfo

MODEL: Final = "all-MiniLM-L6-v2"
DIMENSIONS: Final = 384
BATCH: Final = 500
_SETUP: Final = """
select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true),
       set_config('request.jwt.claim.sub', %s, true), set_config('hnsw.ef_search', '100', true),
       set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('statement_timeout', '30000', true)
"""
# The bare table: what a person would write by hand, with the same index settings and no policies.
_PLAIN: Final = """
create table public.plain_items as
  select id, title::text, content, knowledge_type::text, content_embedding as embedding,
         to_tsvector('english', title || ' ' || content) as words
    from public.knowledge_items;
create index on public.plain_items
  using hnsw ((embedding::extensions.halfvec(384)) extensions.halfvec_cosine_ops) with (m = 16, ef_construction = 64);
create index on public.plain_items using gin (words);
grant select on public.plain_items to authenticated;
"""
_BARE: Final = """
select id, title, content, knowledge_type,
       1 - ((embedding::extensions.halfvec(384)) operator(extensions.<=>) %s::extensions.halfvec) as similarity
  from public.plain_items
 order by (embedding::extensions.halfvec(384)) operator(extensions.<=>) %s::extensions.halfvec
 limit 10
"""
_BY_HAND: Final = """
with near as (
  select id, row_number() over () as place from (
    select id from public.plain_items
     order by (embedding::extensions.halfvec(384)) operator(extensions.<=>) %s::extensions.halfvec limit 100) n
), worded as (
  select id, row_number() over (order by rank desc) as place from (
    select id, ts_rank_cd(words, q) as rank
      from public.plain_items,
           lateral (select replace(plainto_tsquery('english', %s)::text, '&', '|')::tsquery as q) o
     where words @@ q order by 2 desc limit 100) w
)
select p.id, p.title, p.content, coalesce(1.0 / (60 + n.place), 0) + coalesce(1.0 / (60 + w.place), 0) as score
  from near n full join worded w on w.id = n.id join public.plain_items p on p.id = coalesce(n.id, w.id)
 order by 4 desc limit 10
"""
_OURS: Final = (
    "select * from public.search_knowledge(query_embedding => %s::extensions.vector, query_text => %s)"
)


def clustered_vectors(how_many: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return unit vectors, shape (how_many, 384), around 200 centres: texts cluster, uniform noise doesn't."""
    centres = generator.normal(size=(200, DIMENSIONS))
    chosen = centres[generator.integers(0, len(centres), how_many)]
    vectors = chosen + generator.normal(scale=0.7, size=(how_many, DIMENSIONS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def as_text(vector: NDArray[np.float32]) -> str:
    """Write a vector as pgvector reads it."""
    return "[" + ",".join(f"{value:.7g}" for value in vector.tolist()) + "]"


def in_turns(contestants: dict[str, Callable[[int], object]], queries: int) -> dict[str, list[float]]:
    """Let each contestant answer each query in turn; return milliseconds per query."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    for number in range(queries):
        for name, ask in order:
            started = time.perf_counter()
            ask(number)
            times[name].append((time.perf_counter() - started) * 1000)
        order = order[1:] + order[:1]
    return times


def record(info: StackInfo, user: str, vectors: NDArray[np.float32], generator: np.random.Generator) -> float:
    """Record an item for each vector through record_knowledge_batch; return items per second."""
    words = [f"word{number}" for number in range(5000)]
    started = time.perf_counter()
    with psycopg.connect(info.database_url) as writer:
        starts = range(0, len(vectors), BATCH)
        for start in track(starts, description="recording", console=Console(stderr=True)):
            items = [
                {
                    "title": f"item {start + number}",
                    "content": " ".join(generator.choice(words, 40).tolist()),
                    "content_embedding": as_text(vector),
                    "embedding_model": MODEL,
                }
                for number, vector in enumerate(vectors[start : start + BATCH])
            ]
            writer.execute(_SETUP, _claims(user))
            writer.execute("select count(*) from public.record_knowledge_batch(%s)", (Jsonb(items),))
            writer.commit()
    return len(vectors) / (time.perf_counter() - started)


def compare(
    info: StackInfo, user: str, memory: KnowledgeClient, queries: NDArray[np.float32]
) -> dict[str, list[float]]:
    """Time the bare queries and ours; return milliseconds per query of each."""
    generator = np.random.default_rng(7)
    words = [f"word{number}" for number in range(5000)]
    asked = [" ".join(generator.choice(words, 6).tolist()) for _ in queries]
    with psycopg.connect(info.database_url, autocommit=True) as raw:
        raw.prepare_threshold = 0

        def in_transaction(query: LiteralString, parameters: tuple[str, ...]) -> object:
            with raw.pipeline():
                raw.execute("begin read only")
                raw.execute(_SETUP, _claims(user))
                cursor = raw.execute(query, parameters)
                raw.execute("commit")
            return cursor.fetchall()

        def bare(number: int) -> object:
            text = as_text(queries[number])
            return in_transaction(_BARE, (text, text))

        def by_hand(number: int) -> object:
            return in_transaction(_BY_HAND, (as_text(queries[number]), asked[number]))

        def hybrid(number: int) -> object:
            return in_transaction(_OURS, (as_text(queries[number]), asked[number]))

        def ours(number: int) -> object:
            return memory.find_similar(
                queries[number].tolist(), similarity_threshold=-1, embedding_model=MODEL
            )

        contestants = {
            "bare pgvector SQL": bare,
            "find_similar (direct)": ours,
            "hybrid by hand": by_hand,
            "search_knowledge": hybrid,
        }
        in_turns(contestants, min(50, len(queries)))  # warms caches and connections
        return in_turns(contestants, len(queries))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of one run.

    Attributes:
        items: items in the workspace.
        queries: queries for each contestant.
        recorded_per_second: items recorded a second, vectors given.
        contestants: milliseconds (p50_ms, p95_ms) of each, and their ratios to the bare SQL's.
    """

    items: int
    queries: int
    recorded_per_second: float
    contestants: dict[str, dict[str, float]]


def run(items: int, queries: int) -> Report:
    """Start a stack, fill it, measure, and return the figures."""
    generator = np.random.default_rng(20261122)
    vectors = clustered_vectors(items + queries, generator)
    with (
        tempfile.TemporaryDirectory(prefix="kp-bench-") as directory,
        benchmark_stack(Path(directory)) as stack,
    ):
        info = stack.status().info
        if info is None:
            raise RuntimeError("the stack is up and has no description")
        user = first_user(info)
        rate = record(info, user, vectors[:items], generator)
        with psycopg.connect(info.admin_database_url, autocommit=True) as admin:
            admin.execute(_PLAIN)
            admin.execute("vacuum analyze")
        settings = Settings(home=stack.home.path, embedder="none")
        with connect(info.database_url, user_id=user, settings=settings) as memory:
            times = compare(info, user, memory, vectors[items:])
    figures = {
        name: {"p50_ms": statistics.median(values), "p95_ms": float(np.percentile(values, 95))}
        for name, values in times.items()
    }
    base = figures["bare pgvector SQL"]
    for figure in figures.values():
        figure["p50_ratio"] = figure["p50_ms"] / base["p50_ms"]
        figure["p95_ratio"] = figure["p95_ms"] / base["p95_ms"]
    return Report(items=items, queries=queries, recorded_per_second=rate, contestants=figures)


def main() -> None:
    """Measure, write the figures as JSON where asked, and print the table last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=10_000, help="items in the workspace")
    parser.add_argument("--queries", type=int, default=300, help="queries for each contestant")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    report = run(arguments.items, arguments.queries)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(report), indent=2) + "\n")
    table = Table("", "p50 ms", "p95 ms", "p50 ratio", "p95 ratio")
    table.title = f"{report.items} items, recorded at {report.recorded_per_second:.0f} a second"
    for name, figure in report.contestants.items():
        table.add_row(name, *(f"{value:.2f}" for value in figure.values()))
    Console().print(table)


def _claims(user: str) -> tuple[str, str]:
    return json.dumps({"sub": user, "role": "authenticated"}), user


if __name__ == "__main__":
    main()
