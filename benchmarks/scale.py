"""Scale: what the vector arm takes and gives at a million vectors.

    python -m benchmarks.scale --items 1000000 --json scale.json

Items are copied in as a restored backup brings them (rows and vectors at once, no triggers, no words), the model's HNSW
index is built by the statement that the product builds it with, and `find_similar_knowledge` asks through the
client, over a direct connection, under row-level security, in a workspace that holds all of it. No model runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from uuid import UUID, uuid4

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from rich.console import Console
from rich.progress import track
from rich.table import Table

from knowledge_persistence import Settings, connect

from . import benchmark_stack, first_user
from .corpus import MODEL, Corpus, as_text

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

    from knowledge_persistence.embedded import Stack

_TALK: Final = Console(stderr=True)
_CHUNK: Final = 50_000
_GIB: Final = 1024**3
_INDEX: Final = "select private.embedding_index_name(%s)"
_EXACT: Final = """
select v.knowledge_id::text from private.item_vectors v
 order by (v.embedding operator(extensions.<=>) %s::extensions.halfvec) limit 10
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of one run.

    Attributes:
        items: vectors in the workspace, of 384 dimensions.
        copied_per_second: items copied a second.
        build_seconds: for the HNSW index.
        maintenance_work_mem: what the build was given.
        build_peak_gib: the most memory that the build's processes held together, private and shared once.
        items_gib: knowledge_items with its overflow and indexes.
        vectors_gib: the narrow table of half vectors with its other indexes.
        index_gib: the HNSW index.
        p50_ms: of find_similar_knowledge through the client.
        p95_ms: the same.
        recall_at_10: share of the ten nearest by exact comparison.
    """

    items: int
    copied_per_second: float
    build_seconds: float
    maintenance_work_mem: str
    build_peak_gib: float
    items_gib: float
    vectors_gib: float
    index_gib: float
    p50_ms: float
    p95_ms: float
    recall_at_10: float


def measure(stack: Stack, items: int, queries: int, memory: str) -> Report:
    """Copy, build, ask."""
    info = stack.info
    settings = Settings(home=stack.home.path)
    user = first_user(info)
    config = stack.home.load_config()
    if config is None:
        raise RuntimeError("the stack has no configuration")
    with connect(info.database_url, user_id=user, embedder=None, settings=settings) as client:
        workspace = str(client.remember("The benchmark begins.").workspace_id)
    with psycopg.connect(config.database_url("supabase_admin"), autocommit=True) as admin:
        admin.execute("set search_path = public, extensions")
        register_vector(admin)
        row = admin.execute(_INDEX, (MODEL,)).fetchone()
        assert row is not None
        index = f"private.{row[0]}"
        admin.execute(f"drop index {index}".encode())
        started = time.perf_counter()
        asked = _copy(admin, user, workspace, items, queries)
        copied = items / (time.perf_counter() - started)
        admin.execute("insert into private.large_workspaces values (%s)", (workspace,))
        admin.execute("vacuum analyze public.knowledge_items")
        admin.execute("vacuum analyze private.item_vectors")
        admin.execute(f"set maintenance_work_mem = '{memory}'".encode())
        with _TALK.status("building the index"), _Peak() as peak:
            started = time.perf_counter()
            admin.execute(
                "do $$ begin execute private.embedding_index_statement(m, false) from public.embedding_models m "
                f"where m.name = '{MODEL}'; end $$".encode()
            )
            built = time.perf_counter() - started
        sizes = [
            _one(admin, f"select {what}")
            for what in (
                "pg_total_relation_size('public.knowledge_items')",
                f"pg_total_relation_size('private.item_vectors') - pg_relation_size('{index}')",
                f"pg_relation_size('{index}')",
            )
        ]
        times: list[float] = []
        shares: list[float] = []
        with connect(info.database_url, user_id=user, embedder=None, settings=settings) as client:
            for number, vector in enumerate(track(asked, description="asking", console=_TALK)):
                began = time.perf_counter()
                found = client.find_similar(vector.tolist(), similarity_threshold=-1, embedding_model=MODEL)
                if number >= len(asked) // 5:  # the first warm the cache
                    times.append((time.perf_counter() - began) * 1000)
                if number % 10 == 0:
                    exact = {str(row[0]) for row in admin.execute(_EXACT, (as_text(vector),))}
                    shares.append(len(exact & {str(item.id) for item in found}) / 10)
    return Report(
        items=items,
        copied_per_second=copied,
        build_seconds=built,
        maintenance_work_mem=memory,
        build_peak_gib=peak.bytes / _GIB,
        items_gib=sizes[0] / _GIB,
        vectors_gib=sizes[1] / _GIB,
        index_gib=sizes[2] / _GIB,
        p50_ms=statistics.median(times),
        p95_ms=float(np.percentile(times, 95)),
        recall_at_10=statistics.fmean(shares),
    )


def _copy(
    admin: psycopg.Connection, user: str, workspace: str, items: int, queries: int
) -> list[NDArray[np.float32]]:
    asked: list[NDArray[np.float32]] = []
    admin.execute("set session_replication_role = replica")  # as a restore: no triggers
    chunks = range(0, items, _CHUNK)
    for start in track(chunks, description="copying", console=_TALK):
        corpus = Corpus(min(_CHUNK, items - start), seed=start)
        asked.extend(corpus.questions(-(-queries // len(chunks)), below=len(corpus)).values())
        with (
            admin.cursor() as cursor,
            cursor.copy(
                "copy public.knowledge_items (id, workspace_id, owner_id, title, content, content_hash, "
                "knowledge_type, category, validation_status, embedding_model, content_embedding) "
                "from stdin with (format binary)"
            ) as copy,
        ):
            copy.set_types([*["uuid"] * 3, "varchar", "text", "text", *["varchar"] * 4, "vector"])
            for number in range(len(corpus)):
                copy.write_row(
                    (
                        uuid4(),
                        UUID(workspace),
                        UUID(user),
                        corpus.title(number),
                        corpus.text(number),
                        f"{start + number:064x}",
                        "factual",
                        "general",
                        "pending",
                        MODEL,
                        corpus.vectors[number],
                    )
                )
    admin.execute(
        "insert into private.item_vectors (knowledge_id, workspace_id, embedding_model, embedding) "
        "select id, workspace_id, embedding_model, content_embedding::extensions.halfvec from public.knowledge_items "
        "where content_embedding is not null on conflict do nothing"  # the worker embeds the first item itself
    )
    admin.execute("set session_replication_role = origin")
    return asked


class _Peak:
    """Watches what the processes of the database server hold (proportional set size, Linux).

    Attributes:
        bytes: the most that they held together.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(2):
            self.bytes = max(self.bytes, sum(_held()))


def _held() -> Generator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if not (process / "comm").read_text().startswith("postgres"):
                continue
            for line in (process / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    yield int(line.split()[1]) * 1024
        except OSError:  # ended meanwhile
            continue


def _one(admin: psycopg.Connection, query: str) -> int:
    row = admin.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def main() -> None:
    """Measure, write the figures as JSON where asked, and print the table last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000, help="vectors of 384 dimensions")
    parser.add_argument("--queries", type=int, default=500, help="how many are asked")
    parser.add_argument("--maintenance-work-mem", default="4GB", help="memory for building the index")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="kp-bench-") as directory,
        benchmark_stack(Path(directory)) as stack,
    ):
        report = measure(stack, arguments.items, arguments.queries, arguments.maintenance_work_mem)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(report), indent=2) + "\n")
    table = Table("", "", title=f"{report.items} vectors of 384 dimensions")
    for name, value in asdict(report).items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
