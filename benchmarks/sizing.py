"""Sizing: what a number of items takes on the disk, and of that what should fit into memory.

    python -m benchmarks.sizing --items 10000 --items 50000 --json sizing.json

Each run records items of about 750 characters with random vectors, through the functions that everybody records
through, into a stack of its own, and reads the sizes from the catalog after a vacuum. No model runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import psycopg
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.progress import track
from rich.table import Table

from . import benchmark_stack, first_user

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from knowledge_persistence.embedded import StackInfo

MODELS: Final = {384: "all-MiniLM-L6-v2", 1536: "text-embedding-3-small"}
BATCH: Final = 500
WORDS: Final = 80
_MIB: Final = 1024 * 1024

_ACT_AS: Final = """
select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true),
       set_config('request.jwt.claim.sub', %s, true), set_config('statement_timeout', '300000', true)
"""
# An index with HNSW or without; everything else is a table with its overflow, or another index.
_SIZES: Final = """
select case when a.amname = 'hnsw' then 'vector index'
            when c.relkind = 'i' and t.relname in ('search_documents') then 'keyword index'
            when c.relkind = 'i' then 'other indexes'
            when c.relname in ('knowledge_items', 'search_documents') then c.relname::text
            else 'other tables' end as part,
       sum(case when c.relkind = 'i' then pg_relation_size(c.oid) else pg_table_size(c.oid) end)::bigint as bytes
  from pg_class c
  left join pg_am a on a.oid = c.relam and c.relkind = 'i'
  left join pg_index i on i.indexrelid = c.oid
  left join pg_class t on t.oid = i.indrelid
 where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'i')
 group by 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one run measured.

    Attributes:
        items: items recorded.
        dimensions: of their vectors.
        recorded_per_second: items recorded a second.
        database_mib: the whole database, in MiB.
        parts_mib: by part: tables with their overflow, indexes.
        bytes_per_item: what the items added to the empty database, divided by their number.
    """

    items: int
    dimensions: int
    recorded_per_second: float
    database_mib: float
    parts_mib: dict[str, float]
    bytes_per_item: float


def random_vectors(how_many: int, dimensions: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return unit vectors, shape (how_many, dimensions)."""
    vectors = generator.normal(size=(how_many, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def measure(items: int, dimensions: int) -> Size:
    """Start a stack, record, and read the sizes."""
    with (
        tempfile.TemporaryDirectory(prefix="kp-bench-") as directory,
        benchmark_stack(Path(directory)) as stack,
    ):
        info = stack.info
        with psycopg.connect(info.database_url) as service:
            service.execute("select set_config('role', 'service_role', true)")
            service.execute(
                "select public.register_embedding_model(%s, %s, is_default => true)",
                (MODELS[dimensions], dimensions),
            )
        with psycopg.connect(info.admin_database_url, autocommit=True) as admin:
            before = _database_size(admin)
            rate = _record(info, items, dimensions)
            admin.execute("vacuum (analyze)")
            after = _database_size(admin)
            parts = {str(part): int(size) / _MIB for part, size in admin.execute(_SIZES)}
    return Size(
        items=items,
        dimensions=dimensions,
        recorded_per_second=rate,
        database_mib=after / _MIB,
        parts_mib=dict(sorted(parts.items())),
        bytes_per_item=(after - before) / items,
    )


def _record(info: StackInfo, items: int, dimensions: int) -> float:
    user = first_user(info)
    generator = np.random.default_rng(20261123)
    vocabulary = [f"word{number}" for number in range(20_000)]
    started = time.perf_counter()
    with psycopg.connect(info.database_url) as writer:
        starts = range(0, items, BATCH)
        for start in track(starts, description=f"{items} of {dimensions}", console=Console(stderr=True)):
            vectors = random_vectors(min(BATCH, items - start), dimensions, generator)
            batch = [
                {
                    "title": f"item {start + number}",
                    "content": " ".join(generator.choice(vocabulary, WORDS).tolist()),
                    "content_embedding": "[" + ",".join(f"{value:.7g}" for value in vector.tolist()) + "]",
                    "embedding_model": MODELS[dimensions],
                }
                for number, vector in enumerate(vectors)
            ]
            writer.execute(_ACT_AS, (json.dumps({"sub": user, "role": "authenticated"}), user))
            writer.execute("select count(*) from public.record_knowledge_batch(%s)", (Jsonb(batch),))
            writer.commit()
    return items / (time.perf_counter() - started)


def _database_size(connection: psycopg.Connection) -> int:
    row = connection.execute("select pg_database_size(current_database())").fetchone()
    if row is None:
        raise RuntimeError("the database doesn't know its size")
    return int(row[0])


def main() -> None:
    """Measure, write the figures as JSON where asked, and print the table last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, action="append", help="how many; may be repeated (10000)")
    parser.add_argument(
        "--dimensions", type=int, action="append", choices=sorted(MODELS), help="may be repeated (all)"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    sizes = [
        measure(items, dimensions)
        for dimensions in arguments.dimensions or sorted(MODELS)
        for items in arguments.items or [10_000]
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(size) for size in sizes], indent=2) + "\n")
    names = sorted({name for size in sizes for name in size.parts_mib})
    table = Table("items", "dimensions", "KiB an item", "database MiB", *(f"{name} MiB" for name in names))
    for size in sizes:
        table.add_row(
            str(size.items),
            str(size.dimensions),
            f"{size.bytes_per_item / 1024:.1f}",
            f"{size.database_mib:.0f}",
            *(f"{size.parts_mib.get(name, 0):.0f}" for name in names),
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
