"""Speed: what our functions cost beside bare SQL that does the same, in one run.

    python -m benchmarks.speed --items 100000 --json speed.json

One large workspace grows to so many items, and is measured at each power of ten on the way; then as many items again
come from a hundred tenants, and one of them asks. Every contestant does one transaction of the same shape (begin, role
and claims, one query, commit, sent as one pipeline) as the same user with the same index settings, on a connection of
its own, and is given vectors as arrays. The bare queries read a plain table of the same rows, without row-level
security, written as one would by hand: vectors by HNSW, words by GIN, fused by reciprocal rank. One has an index with
pgvector's default parameters, and walks it as far as it takes to find as many of the truly nearest as we do, give or
take half a point. They take turns, query by query and each time in another order, so that a machine whose speed drifts
drifts for all, and each finds the caches as the others left them. The stack starts anew before it is measured: in the
server's buffers an index that was just built lies in one piece and is walked faster than one that grew; after a start
both lie as they are read. The figures to trust are the ratios.

Queries come with their vectors: no model runs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import uuid4

import numpy as np
import psycopg
from pgvector.psycopg.vector import register_vector_info
from psycopg.types import TypeInfo
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.progress import track
from rich.table import Table

from knowledge_persistence import KnowledgeClient, Settings, connect
from knowledge_persistence.embedders.base import BaseEmbedder

from . import benchmark_stack, first_user
from .corpus import DIMENSIONS, MODEL, Corpus, as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from knowledge_persistence.embedded import Stack, StackInfo

TENANTS: Final = 100
CLIENTS: Final = 8
BATCH: Final = 100
WRITERS: Final = 2
_TALK: Final = Console(stderr=True)

BARE: Final = "bare pgvector SQL"
EQUAL: Final = "bare, default index, equal recall"
BARE_WORDS: Final = "bare full-text SQL"
BY_HAND: Final = "hybrid by hand"
SIMILAR: Final = "find_similar"
SEARCH: Final = "search"
RECALL: Final = "recall"
OVER_HTTP: Final = "search over HTTP"

_SETUP: Final = """
select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true),
       set_config('request.jwt.claim.sub', %s, true), set_config('hnsw.ef_search', '100', true),
       set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('statement_timeout', '30000', true),
       set_config('app.current_session', %s, true)
"""
# What a person would write by hand, with the same index settings and no policies.
_PLAIN: Final = """
drop table if exists public.plain_items, public.plain_defaults;
create table public.plain_items as
  select id, workspace_id, title::text, content, knowledge_type::text,
         content_embedding::extensions.halfvec(384) as embedding,
         to_tsvector('english', title || ' ' || content) as words
    from public.knowledge_items;
alter table public.plain_items add primary key (id);
set maintenance_work_mem = '1GB';
create index on public.plain_items using hnsw (embedding extensions.halfvec_cosine_ops)
  with (m = 16, ef_construction = 128);
create index on public.plain_items using gin (words);
create index on public.plain_items (workspace_id);
create table public.plain_defaults as
  select id, workspace_id, title, content, knowledge_type, embedding from public.plain_items;
create index on public.plain_defaults using hnsw (embedding extensions.halfvec_cosine_ops);
create index on public.plain_defaults (workspace_id);
grant select on public.plain_items, public.plain_defaults to authenticated;
vacuum analyze;
"""
# How far the index with the default parameters is walked until it finds as much: hnsw.ef_search.
_EFFORTS: Final = ("40", "70", "100", "150", "200", "300", "400", "600", "800", "1000")
# What counts as finding as many: this part of the ten nearest fewer at most.
_AS_MANY: Final = 0.005
_NEAREST: Final = "order by embedding operator(extensions.<=>) %(vector)s::extensions.halfvec"
_BARE: Final = """
select id, title, content, knowledge_type,
       1 - (embedding operator(extensions.<=>) %(vector)s::extensions.halfvec) as similarity
  from public.plain_items
 where true
 order by embedding operator(extensions.<=>) %(vector)s::extensions.halfvec
 limit 10
"""
_BARE_WORDS: Final = """
select id, title, content, ts_rank_cd(words, q) as rank
  from public.plain_items, (select replace(plainto_tsquery('english', %(words)s)::text, '&', '|')::tsquery as q) o
 where true and words @@ q
 order by rank desc limit 10
"""
_BY_HAND: Final = """
with near as (
  select id, row_number() over () as place from (
    select id from public.plain_items where true
     order by embedding operator(extensions.<=>) %(vector)s::extensions.halfvec limit 100) n
), worded as (
  select id, row_number() over (order by rank desc) as place from (
    select id, ts_rank_cd(words, q) as rank
      from public.plain_items, (select replace(plainto_tsquery('english', %(words)s)::text, '&', '|')::tsquery as q) o
     where true and words @@ q order by 2 desc limit 100) w
)
select p.id, p.title, p.content, coalesce(1.0 / (60 + n.place), 0) + coalesce(1.0 / (60 + w.place), 0) as score
  from near n full join worded w on w.id = n.id join public.plain_items p on p.id = coalesce(n.id, w.id)
 order by 4 desc limit 10
"""
_EVERYWHERE: Final = "where true"
_IN_WORKSPACE: Final = "where workspace_id = %(workspace)s"
# The bare table of writes: the columns and indexes of knowledge_items, its words and its vectors indexed, no triggers.
_PLAIN_WRITES: Final = """
create table public.plain_writes (like public.knowledge_items including defaults including indexes);
alter table public.plain_writes
  alter column content_hash drop not null,
  add column words tsvector generated always as (to_tsvector('english', title || ' ' || content)) stored;
insert into public.plain_writes select * from public.knowledge_items;
set maintenance_work_mem = '1GB';
create index on public.plain_writes using gin (words);
create index on public.plain_writes
  using hnsw ((content_embedding::extensions.halfvec(384)) extensions.halfvec_cosine_ops)
  with (m = 16, ef_construction = 128);
grant select, insert on public.plain_writes to authenticated;
vacuum analyze public.plain_writes;
"""
_INSERT: Final = """
insert into public.plain_writes (title, content, content_embedding, embedding_model, workspace_id, owner_id)
values (%s, %s, %s::extensions.vector, %s, %s, %s)
"""


class GivenVectors(BaseEmbedder):
    """An embedder that looks its vectors up: what is measured is the search.

    Args:
        vectors: of the questions that will be asked.
    """

    def __init__(self, vectors: dict[str, NDArray[np.float32]]) -> None:
        super().__init__(name=MODEL, dimensions=DIMENSIONS, cache_size=0)
        self._vectors = vectors

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self._vectors[text] for text in texts])


@dataclass(frozen=True, slots=True)
class Tenant:
    """Somebody who asks.

    Attributes:
        user: their id.
        workspace: where their items are.
    """

    user: str
    workspace: str


@dataclass(slots=True, kw_only=True)
class Figures:
    """What one question-and-answer run measured.

    Attributes:
        items: in the database, of the workspaces that this is about.
        contestants: by name p50_ms and p95_ms, and their ratios to the bare pgvector SQL's.
        recall_at_10: by name, the share of the ten nearest by exact comparison that was found.
        rows: by name, how many rows came, of ten.
        equal_recall_ef_search: with which hnsw.ef_search the default index finds as much as find_similar.
    """

    items: int
    contestants: dict[str, dict[str, float]]
    recall_at_10: dict[str, float]
    rows: dict[str, float]
    equal_recall_ef_search: int


@dataclass(slots=True, kw_only=True)
class Report:
    """The figures of one run.

    Attributes:
        items: in the large workspace at the end, and of the tenants together.
        queries: for each contestant.
        recorded_per_second: items a second by two writers in sessions, vectors given, at each size.
        single: the large workspace at each size.
        tenants: one of a hundred workspaces.
        together: eight clients at once in the large workspace: answers a second and milliseconds by contestant.
        growth: p95 at the end by p95 at a tenth of it, by contestant.
        writes: items a second in batches and milliseconds for one, ours and bare, and their ratios.
        hot_share: of the counter updates of recalls.
    """

    items: int
    queries: int
    recorded_per_second: dict[int, float] = field(default_factory=dict[int, float])
    single: list[Figures] = field(default_factory=list[Figures])
    tenants: Figures | None = None
    together: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    growth: dict[str, float] = field(default_factory=dict[str, float])
    writes: dict[str, float] = field(default_factory=dict[str, float])
    hot_share: float = 0.0


def in_turns(contestants: dict[str, Callable[[int], object]], queries: int) -> dict[str, list[float]]:
    """Let each contestant answer each query, in another order each time; return milliseconds per query."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    shuffler = random.Random(queries)
    for number in range(queries):
        shuffler.shuffle(order)  # who comes after a slow one finds its caches cold
        for name, ask in order:
            started = time.perf_counter()
            ask(number)
            times[name].append((time.perf_counter() - started) * 1000)
    return times


class Speed:
    """One run.

    Args:
        stack: running, and the run's own.
        items: how many items in the large workspace, and of all tenants together.
        queries: how many for each contestant.
    """

    def __init__(self, stack: Stack, items: int, queries: int) -> None:
        self.stack = stack
        self.info: StackInfo = stack.info
        self.settings = Settings(home=stack.home.path)
        self.queries = queries
        self.report = Report(items=items, queries=queries)
        self.large = Tenant(first_user(self.info), self._workspace(first_user(self.info)))

    def run(self) -> Report:
        """Measure all of it."""
        items = self.report.items
        corpus = Corpus(items, seed=20261122)
        sizes = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size < items] + [items]
        filled = 0
        for size in sizes:
            self.report.recorded_per_second[size] = self._fill([self.large], corpus, range(filled, size))
            filled = size
            self._prepare(_PLAIN)
            self.report.single.append(
                self._ask(self.large, None, corpus.questions(self.queries, below=size), size)
            )
        self.report.together = self._together(corpus.questions(self.queries, below=items))
        self.report.hot_share = self._count_hot(corpus.questions(self.queries, below=items))
        if len(sizes) > 1:
            before, after = (figures.contestants for figures in self.report.single[-2:])
            self.report.growth = {name: after[name]["p95_ms"] / before[name]["p95_ms"] for name in after}
        self._prepare(_PLAIN_WRITES)
        self.report.writes = self._write(Corpus(60 * BATCH, seed=7))

        tenants = [self._tenant() for _ in range(TENANTS)]
        others = Corpus(items, seed=20261123)
        self._fill(tenants, others, range(items))
        self._prepare(_PLAIN)
        # Texts go to the tenants in turns of a batch: the first tenant's first batch is the first of all.
        asked = others.questions(self.queries, below=min(BATCH, items // TENANTS))
        self.report.tenants = self._ask(tenants[0], tenants[0].workspace, asked, items)
        return self.report

    def _prepare(self, statements: LiteralString) -> None:
        """Make bare tables, and start the stack anew."""
        with psycopg.connect(self.info.admin_database_url, autocommit=True) as admin:
            for statement in statements.split(";\n"):
                if statement.strip():
                    admin.execute(statement)
        self.stack.down()
        self.stack.up()

    def _workspace(self, user: str) -> str:
        with connect(self.info.database_url, user_id=user, embedder=None, settings=self.settings) as memory:
            return str(memory.remember("The benchmark begins.").workspace_id)

    def _tenant(self) -> Tenant:
        user = str(uuid4())
        with psycopg.connect(self.info.admin_database_url) as admin:
            admin.execute("insert into auth.users (id, email) values (%s, %s)", (user, f"{user}@example.org"))
        return Tenant(user, self._workspace(user))

    def _fill(self, tenants: list[Tenant], corpus: Corpus, numbers: range) -> float:
        """Record texts in batches, each batch in a session of its own; return items per second."""
        starts = iter(track(numbers[::BATCH], description=f"recording {len(numbers)}", console=_TALK))
        lock = threading.Lock()
        failures: list[BaseException] = []

        def write() -> None:
            try:
                with psycopg.connect(self.info.database_url) as writer:
                    while True:
                        with lock:
                            start = next(starts, None)
                        if start is None:
                            return
                        tenant = tenants[start // BATCH % len(tenants)]
                        batch = range(start, min(start + BATCH, numbers.stop))
                        self._record(writer, tenant, [_item(corpus, number) for number in batch])
            except BaseException as error:  # noqa: BLE001 - told by the caller's thread
                failures.append(error)

        started = time.perf_counter()
        threads = [threading.Thread(target=write) for _ in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return len(numbers) / (time.perf_counter() - started)

    def _record(
        self, writer: psycopg.Connection, tenant: Tenant, items: list[dict[str, str]], session: str = ""
    ) -> None:
        writer.execute(_SETUP, _claims(tenant.user, session))
        if not session:
            row = writer.execute("select session_id::text from public.start_session()").fetchone()
            assert row is not None
            writer.execute("select set_config('app.current_session', %s, true)", row)
        writer.execute("select count(*) from public.record_knowledge_batch(%s)", (Jsonb(items),))
        writer.commit()

    def _ask(
        self, tenant: Tenant, workspace: str | None, asked: dict[str, NDArray[np.float32]], items: int
    ) -> Figures:
        """Time everybody on these questions and compare what they find with an exact comparison."""
        recall, rows, effort = self._found(tenant, workspace, asked)
        with ExitStack() as stack:
            contestants = self._contestants(stack, tenant, workspace, asked, effort)
            in_turns(contestants, min(50, self.queries))  # warms caches and connections
            with _TALK.status(f"asking {self.queries} questions of {items} items"):
                times = in_turns(contestants, self.queries)
        figures = {
            name: {"p50_ms": statistics.median(values), "p95_ms": float(np.percentile(values, 95))}
            for name, values in times.items()
        }
        base = figures[BARE]
        for figure in figures.values():
            figure |= {f"{p}_ratio": figure[f"{p}_ms"] / base[f"{p}_ms"] for p in ("p50", "p95")}
        return Figures(
            items=items,
            contestants=figures,
            recall_at_10=recall,
            rows=rows,
            equal_recall_ef_search=int(effort),
        )

    def _contestants(
        self,
        stack: ExitStack,
        tenant: Tenant,
        workspace: str | None,
        asked: dict[str, NDArray[np.float32]],
        effort: LiteralString | None = None,
    ) -> dict[str, Callable[[int], object]]:
        questions = list(asked)
        arrays = list(asked.values())
        where = _IN_WORKSPACE if workspace else _EVERYWHERE
        with psycopg.connect(self.info.admin_database_url) as admin:
            vector_type = TypeInfo.fetch(admin, "extensions.vector")

        def bare(query: LiteralString, effort: LiteralString = "100") -> Callable[[int], object]:
            query = query.replace(_EVERYWHERE, where)
            setup = _SETUP.replace("'100'", f"'{effort}'")
            raw = stack.enter_context(psycopg.connect(self.info.database_url, autocommit=True))
            raw.prepare_threshold = 0
            register_vector_info(raw, vector_type)

            def ask(number: int) -> object:
                with raw.pipeline():
                    raw.execute("begin read only")
                    raw.execute(setup, _claims(tenant.user))
                    cursor = raw.execute(
                        query, {"vector": arrays[number], "words": questions[number], "workspace": workspace}
                    )
                    raw.execute("commit")
                return cursor.fetchall()

            return ask

        similar, search, recall = (stack.enter_context(self._client(tenant, asked)) for _ in range(3))
        contestants: dict[str, Callable[[int], object]] = {BARE: bare(_BARE)}
        if effort is not None:
            contestants[EQUAL] = bare(_BARE.replace("plain_items", "plain_defaults"), effort)
        contestants |= {
            BARE_WORDS: bare(_BARE_WORDS),
            BY_HAND: bare(_BY_HAND),
            SIMILAR: lambda number: similar.find_similar(arrays[number], similarity_threshold=-1),
            SEARCH: lambda number: search.search(questions[number]),
            RECALL: lambda number: recall.recall(questions[number]),
        }
        if tenant is self.large:
            web = stack.enter_context(connect(embedder=GivenVectors(asked), settings=self.settings))
            contestants[OVER_HTTP] = lambda number: web.search(questions[number])
        return contestants

    def _client(self, tenant: Tenant, asked: dict[str, NDArray[np.float32]]) -> KnowledgeClient:
        return connect(
            self.info.database_url, user_id=tenant.user, embedder=GivenVectors(asked), settings=self.settings
        )

    def _found(
        self, tenant: Tenant, workspace: str | None, asked: dict[str, NDArray[np.float32]]
    ) -> tuple[dict[str, float], dict[str, float], LiteralString]:
        """Compare what each vector search finds with the ten truly nearest.

        Returns:
            By name the share that it finds, and how many rows it gives; the effort at which the index with the default
            parameters finds as much as find_similar.
        """
        query = _BARE.replace(_EVERYWHERE, _IN_WORKSPACE) if workspace else _BARE
        defaults = query.replace("plain_items", "plain_defaults")
        with psycopg.connect(self.info.database_url, autocommit=True) as raw:
            raw.prepare_threshold = None  # a plan that is kept doesn't hear of settings
            raw.execute("set role authenticated")

            def answers(query: LiteralString, effort: LiteralString = "100") -> list[set[str]]:
                raw.execute(f"set hnsw.ef_search = {effort}")
                values = [
                    {"vector": as_text(vector), "words": question, "workspace": workspace}
                    for question, vector in asked.items()
                ]
                return [{str(row[0]) for row in raw.execute(query, value)} for value in values]

            found = {f"{BARE}, default settings": answers(defaults, "40")}
            # No index is sorted by the similarity: everything is compared.
            exact = answers(query.replace(_NEAREST, "order by similarity desc nulls last"))
            raw.execute("set hnsw.iterative_scan = relaxed_order")
            found[BARE] = answers(query)
            with self._client(tenant, asked) as memory:
                found[SIMILAR] = [
                    {str(item.id) for item in memory.find_similar(question, similarity_threshold=-1)}
                    for question in asked
                ]
            effort: LiteralString = _EFFORTS[0]
            for effort in _EFFORTS:
                found[EQUAL] = answers(defaults, effort)
                if _share(found[EQUAL], exact) >= _share(found[SIMILAR], exact) - _AS_MANY:
                    break
        recall = {name: _share(sets, exact) for name, sets in found.items()}
        rows = {name: statistics.fmean(len(one) for one in sets) for name, sets in found.items()}
        return recall, rows, effort

    def _together(self, asked: dict[str, NDArray[np.float32]]) -> dict[str, dict[str, float]]:
        """Let eight clients ask at once, one contestant after the other."""
        figures: dict[str, dict[str, float]] = {}
        with ExitStack() as stack:
            seats = [self._contestants(stack, self.large, None, asked) for _ in range(CLIENTS)]
            for name in seats[0]:
                times: list[list[float]] = [[] for _ in seats]
                share = max(self.queries // CLIENTS, 5)

                def ask(
                    place: int, name: str = name, times: list[list[float]] = times, share: int = share
                ) -> None:
                    for number in range(place * share, (place + 1) * share):
                        began = time.perf_counter()
                        seats[place][name](number % len(asked))
                        times[place].append((time.perf_counter() - began) * 1000)

                for seat in seats:
                    seat[name](0)
                threads = [threading.Thread(target=ask, args=(place,)) for place in range(CLIENTS)]
                started = time.perf_counter()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                seconds = time.perf_counter() - started
                together = [value for one in times for value in one]
                if len(together) != share * CLIENTS:
                    raise RuntimeError(f"a client of {name} failed")
                figures[name] = {
                    "per_second": len(together) / seconds,
                    "p50_ms": statistics.median(together),
                    "p95_ms": float(np.percentile(together, 95)),
                }
        return figures

    def _count_hot(self, asked: dict[str, NDArray[np.float32]]) -> float:
        """Recall, and return the share of the updates of knowledge_items that no index had to hear of."""
        counters = (
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'knowledge_items'"
        )
        with psycopg.connect(self.info.admin_database_url, autocommit=True) as admin:
            [before] = admin.execute(counters).fetchall()
            with self._client(self.large, asked) as memory:
                expected = sum(len(memory.recall(question)) for question in asked)
            deadline = time.monotonic() + 30
            while True:  # the statistics of a connection arrive when it ends
                [after] = admin.execute(counters).fetchall()
                if after[0] - before[0] >= expected:
                    return (after[1] - before[1]) / (after[0] - before[0])
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{after[0] - before[0]} of {expected} counter updates were reported")
                time.sleep(0.1)

    def _write(self, corpus: Corpus) -> dict[str, float]:
        """Write the same rows in turns to ours and to the bare table; both commit durably."""
        seconds: dict[str, list[float]] = {"ours": [], "bare": []}
        single: dict[str, list[float]] = {"ours": [], "bare": []}
        numbers = iter(range(len(corpus)))
        user, workspace = self.large.user, self.large.workspace
        with psycopg.connect(self.info.database_url) as ours, psycopg.connect(self.info.database_url) as bare:
            bare.prepare_threshold = ours.prepare_threshold = 0

            def insert(items: list[dict[str, str]]) -> None:
                with bare.pipeline():
                    bare.execute(_SETUP, _claims(user))
                    rows = [(*item.values(), workspace, user) for item in items]
                    bare.cursor().executemany(_INSERT, rows)
                    bare.commit()

            def record(items: list[dict[str, str]]) -> None:
                with ours.pipeline():
                    ours.execute(_SETUP, _claims(user, session))
                    if len(items) == 1:
                        ours.execute(_RECORD, tuple(items[0].values()))
                    else:
                        ours.execute(
                            "select count(*) from public.record_knowledge_batch(%s)", (Jsonb(items),)
                        )
                    ours.commit()

            ours.execute(_SETUP, _claims(user))
            row = ours.execute("select session_id::text from public.start_session()").fetchone()
            assert row is not None
            session = str(row[0])
            ours.commit()
            for size, times in ((BATCH, seconds), (1, single)):
                for turn in track(range(20 if size > 1 else 200), description="writing", console=_TALK):
                    items = [_item(corpus, next(numbers)) for _ in range(size)]
                    contestants = [("ours", record), ("bare", insert)]
                    for name, write in contestants if turn % 2 else contestants[::-1]:
                        began = time.perf_counter()
                        write(items)
                        times[name].append(time.perf_counter() - began)
        rates = {name: BATCH * len(values) / sum(values) for name, values in seconds.items()}
        p50 = {name: 1000 * statistics.median(values) for name, values in single.items()}
        return {
            "batch_per_second": rates["ours"],
            "bare_batch_per_second": rates["bare"],
            "batch_ratio": rates["ours"] / rates["bare"],
            "single_p50_ms": p50["ours"],
            "bare_single_p50_ms": p50["bare"],
            "single_ratio": p50["ours"] / p50["bare"],
        }


_RECORD: Final = """
select * from public.record_knowledge(
  title => %s, content => %s, content_embedding => %s::extensions.vector, embedding_model => %s)
"""


def show(report: Report) -> None:
    """Print the tables."""
    console = Console()
    places = [("one workspace", figures) for figures in report.single]
    if report.tenants:
        places.append((f"one of {TENANTS} workspaces", report.tenants))
    writes = report.writes
    console.print(
        f"written: in batches {writes['batch_per_second']:.0f} items/s, bare {writes['bare_batch_per_second']:.0f} "
        f"(ratio {writes['batch_ratio']:.2f}); one: {writes['single_p50_ms']:.2f} ms, bare "
        f"{writes['bare_single_p50_ms']:.2f} (ratio {writes['single_ratio']:.2f}); counters updated in place: "
        f"{report.hot_share:.1%}"
    )
    clients = Table(
        "", "answers/s", "p50 ms", "p95 ms", title=f"{CLIENTS} clients at once, {report.items} items"
    )
    for name, figure in report.together.items():
        clients.add_row(name, *(f"{value:.1f}" for value in figure.values()))
    console.print(clients)
    table = Table("where", "items", "", "p50 ms", "p95 ms", "p50 ratio", "p95 ratio", "recall@10", "rows")
    for where, figures in places:
        for name, figure in figures.contestants.items():
            extra = [f"{of[name]:.3f}" if name in of else "" for of in (figures.recall_at_10, figures.rows)]
            table.add_row(
                where, str(figures.items), name, *(f"{value:.2f}" for value in figure.values()), *extra
            )
        for name in figures.recall_at_10.keys() - figures.contestants.keys():
            extra = [f"{of[name]:.3f}" for of in (figures.recall_at_10, figures.rows)]
            table.add_row(where, str(figures.items), name, "", "", "", "", *extra)
        table.add_section()
    console.print(table)


def main() -> None:
    """Measure, write the figures as JSON where asked, and print the tables last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--items", type=int, default=10_000, help="items in the workspace, and of the tenants"
    )
    parser.add_argument("--queries", type=int, default=300, help="queries for each contestant")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="kp-bench-") as directory,
        benchmark_stack(Path(directory)) as stack,
    ):
        speed = Speed(stack, arguments.items, arguments.queries)
        try:
            report = speed.run()
        finally:  # what was measured until something failed is worth something
            if arguments.json:
                arguments.json.write_text(json.dumps(asdict(speed.report), indent=2) + "\n")
    show(report)


def _item(corpus: Corpus, number: int) -> dict[str, str]:
    return {
        "title": corpus.title(number),
        "content": corpus.text(number),
        "content_embedding": as_text(corpus.vectors[number]),
        "embedding_model": MODEL,
    }


def _share(found: list[set[str]], exact: list[set[str]]) -> float:
    return statistics.fmean(len(a & b) / len(b) for a, b in zip(found, exact, strict=True))


def _claims(user: str, session: str = "") -> tuple[str, str, str]:
    return json.dumps({"sub": user, "role": "authenticated"}), user, session


if __name__ == "__main__":
    main()
