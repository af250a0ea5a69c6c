"""Repeats: many writers meet the same problems, run the same commands, … at once, and every one has to count.

    python -m benchmarks.repeats --seconds 20 --writers 8 --signatures 50

Half of the records are a maintainer's, validated, and belong to everybody; the others are each user's own. Two writers
act for the same user, so that first sightings race as well. All five kinds are written in turns, by direct
connections; now and then a writer rates or recalls what it has just written. Afterwards each record is compared with
what the writers were told was written: counts, successes, and every single attempt, example, observation and stage.
Ends with 1 when anything is missing, is there twice, or a deadlock happened, also one that was survived by a retry.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table
from supabase import create_client

from knowledge_persistence import KnowledgeClient, Settings, connect

from . import benchmark_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from knowledge_persistence.embedded import StackInfo

Kind: TypeAlias = Literal["gotcha", "command", "interaction_pattern", "insight", "decision"]
KINDS: Final[tuple[Kind, ...]] = ("gotcha", "command", "interaction_pattern", "insight", "decision")
_EXAMPLES_OF_TEXT: Final = 3
_RATE_EVERY: Final = 10
_NAME: Final = re.compile(r"\b[a-j]{4}\b")


@dataclass(frozen=True)
class Stage:
    """Where the writers write.

    Attributes:
        database_url: for the login authenticator.
        admin_url: of somebody who may read everything.
        workspace: the writers' workspace.
        maintainer: owns the shared records.
        users: contributors of the workspace.
    """

    database_url: str
    admin_url: str
    workspace: UUID
    maintainer: UUID
    users: Sequence[UUID]

    def enter(self, user: UUID) -> KnowledgeClient:
        """Connect as a user, without an embedder."""
        return connect(
            self.database_url,
            user_id=str(user),
            workspace=str(self.workspace),
            embedder=None,
            settings=Settings(home=Path("/nonexistent")),
        )


@dataclass
class Written:
    """What was acknowledged for one record.

    Attributes:
        said: what each sighting said, as it is kept.
        successes: how many runs or applications worked.
        applied: how often an insight was applied.
        scores: sum of the effectiveness scores.
    """

    said: list[str] = field(default_factory=list[str])
    successes: int = 0
    applied: int = 0
    scores: int = 0

    def add(self, other: Written) -> None:
        """Take over what somebody else has written."""
        self.said += other.said
        self.successes += other.successes
        self.applied += other.applied
        self.scores += other.scores


#: By kind, signature's number, and owner.
Tally: TypeAlias = "dict[tuple[Kind, int, UUID], Written]"


@dataclass
class Report:
    """What came of it.

    Attributes:
        seconds: how long the writers wrote.
        writes: acknowledged writes by kind.
        milliseconds: p50, p95 and the longest of a write, by kind.
        deadlocks: how many the database counted.
        records: how many records there are.
        problems: what is wrong; empty when everything is exact.
    """

    seconds: float
    writes: dict[str, int]
    milliseconds: dict[str, tuple[float, float, float]]
    deadlocks: int
    records: int
    problems: list[str]


def write(client: KnowledgeClient, kind: Kind, number: int, written: Written) -> UUID:
    """Write one sighting and note it once it is acknowledged; returns the record's item."""
    said = uuid4().hex
    some = f"detail {random.randrange(_EXAMPLES_OF_TEXT)}"
    worked = random.random() < 0.5  # noqa: PLR2004 - a coin
    if kind == "gotcha":
        item = client.record_gotcha(
            f'Traceback (most recent call last):\n  File "/srv/{said}.py", line 7\nValueError: {_name(number)} is bad',
            attempted_solution=said,
            attempt_outcome="worked" if worked else "failed",
            failure_patterns=[some],
        ).knowledge_id
    elif kind == "command":
        item = client.record_command_run(
            f"make  target-{_name(number)}",
            succeeded=worked,
            failure_output=None if worked else f"make: error: {some}",
            context_requirements=[some],
        ).knowledge_id
        written.successes += worked
    elif kind == "interaction_pattern":
        score = random.randint(1, 100)
        item = client.record_interaction_pattern(
            f"Pattern {_name(number)}",
            situation_type="review",
            effectiveness_score=score,
            example=said,
            success_indicators=[some],
        ).knowledge_id
        written.scores += score
    elif kind == "insight":
        item = client.record_insight(f"Insight {_name(number)}", insight_description=said).knowledge_id
        client.apply_insight(item, success=worked)
        written.applied += 1
        written.successes += worked
    else:
        item = client.record_decision_stage(
            f"Decision {_name(number)}", understanding=said, influences=[some]
        ).knowledge_id
    written.said.append(said)
    return item


def _name(number: int) -> str:
    """Return a word for a number: numbers are taken out of signatures."""
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number:04}")


class Writer:
    """Somebody who writes, and notes what was acknowledged.

    Attributes:
        tally: what was acknowledged.
        milliseconds: how long each write took, by kind.
        seconds: how long all of it took.
    """

    def __init__(self, stage: Stage, user: UUID, dice: random.Random) -> None:
        """Take a place; `dice` decides on the order."""
        self._stage = stage
        self._user = user
        self._dice = dice
        self.tally: Tally = defaultdict(Written)
        self.milliseconds: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
        self.seconds = 0.0

    def work(self, barrier: threading.Barrier, *, seconds: float, signatures: int, shared: int) -> None:
        """Write until the time is over, all records in turns, each time in another order; the first are shared."""
        keys: list[tuple[Kind, int]] = [(kind, number) for number in range(signatures) for kind in KINDS]
        with self._stage.enter(self._user) as client:
            client.workspaces()
            barrier.wait(60)
            started = time.monotonic()
            for kind, number in _for_ever(keys, self._dice):
                self.seconds = time.monotonic() - started
                if self.seconds >= seconds:
                    break
                owner = self._stage.maintainer if number < shared else self._user
                before = time.perf_counter()
                item = write(client, kind, number, self.tally[kind, number, owner])
                self.milliseconds[kind].append((time.perf_counter() - before) * 1000)
                if self._dice.randrange(_RATE_EVERY) == 0:
                    client.rate(item, effectiveness_rating=self._dice.randint(1, 10))
                    client.recall(f"{kind.replace('_', ' ')} {_name(number)}", max_results=5)


def _for_ever(keys: list[tuple[Kind, int]], dice: random.Random) -> Iterator[tuple[Kind, int]]:
    while True:
        dice.shuffle(keys)
        yield from keys


def repeat(
    stage: Stage,
    *,
    seconds: float,
    writers: int,
    signatures: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Let writers write for a while, and compare what is there with what they were told.

    Args:
        stage: where.
        seconds: how long.
        writers: how many at once; they share the users.
        signatures: how many of each kind.
        tell: told what is being done.
    """
    tell("the maintainer records what is shared")
    tally: Tally = defaultdict(Written)
    with stage.enter(stage.maintainer) as maintainer:
        for kind in KINDS:
            for number in range(signatures // 2):
                maintainer.validate(write(maintainer, kind, number, tally[kind, number, stage.maintainer]))
    with psycopg.connect(stage.admin_url, autocommit=True) as admin:
        deadlocks = _deadlocks(admin)

    tell(f"{writers} writers write for {seconds:g} s")
    barrier = threading.Barrier(writers)
    everybody = [
        Writer(stage, stage.users[place % len(stage.users)], random.Random(place)) for place in range(writers)
    ]
    with ThreadPoolExecutor(writers) as pool:
        working = [
            pool.submit(writer.work, barrier, seconds=seconds, signatures=signatures, shared=signatures // 2)
            for writer in everybody
        ]
        for done in working:
            done.result()
    for writer in everybody:
        for key, written in writer.tally.items():
            tally[key].add(written)
    times = {kind: [one for writer in everybody for one in writer.milliseconds[kind]] for kind in KINDS}

    tell("every record is compared with what its writers were told")
    with psycopg.connect(stage.admin_url, autocommit=True) as admin:
        problems = check(admin, stage.workspace, tally)
        happened = _deadlocks(admin) - deadlocks
    if happened:
        problems.append(f"{happened} deadlocks")
    return Report(
        seconds=max(writer.seconds for writer in everybody),
        writes={kind: len(values) for kind, values in times.items()},
        milliseconds={
            kind: (statistics.median(values), statistics.quantiles(values, n=20)[-1], max(values))
            for kind, values in times.items()
            if len(values) > 1
        },
        deadlocks=happened,
        records=len(tally),
        problems=problems,
    )


def _deadlocks(admin: psycopg.Connection[tuple[object, ...]]) -> int:
    # Backends report what they counted when they are idle, at the latest when they end.
    admin.execute("select pg_stat_clear_snapshot()")
    row = admin.execute(
        "select deadlocks from pg_stat_database where datname = current_database()"
    ).fetchone()
    return cast("int", row[0]) if row else 0


#: Of each kind: what names a record, what it counted, and what it kept.
_RECORDED: Final[dict[Kind, str]] = {
    "gotcha": """
select r.problem_signature as name, r.frequency_encountered as sightings, null as successes, null as applied,
       null as scores, array(select a ->> 'solution' from jsonb_array_elements(r.attempted_solutions) a) as said,
       r.owner_id
  from public.technical_gotchas r""",
    "command": """
select r.command_signature as name, r.usage_count as sightings, r.success_count as successes, null as applied,
       null as scores, null::text[] as said,
       r.owner_id
  from public.command_patterns r""",
    "interaction_pattern": """
select r.pattern_name as name, r.pattern_frequency as sightings, null as successes, null as applied,
       r.effectiveness_sum as scores, array(select a ->> 'example' from jsonb_array_elements(r.examples) a) as said,
       r.owner_id
  from public.interaction_patterns r""",
    "insight": """
select r.insight_title as name, r.times_observed as sightings, r.applied_successfully as successes,
       r.applied_count as applied, null as scores,
       array(select a ->> 'description' from jsonb_array_elements(r.observations) a) || r.insight_description as said,
       r.owner_id
  from public.experiential_knowledge r""",
    "decision": """
select r.decision_topic as name, jsonb_array_length(r.evolution_timeline) as sightings, null as successes,
       null as applied, null as scores,
       array(select s.a ->> 'understanding'
               from jsonb_array_elements(r.evolution_stages) with ordinality s (a, place)
              where (s.a ->> 'stage')::integer = s.place) as said,
       r.owner_id
  from public.decision_evolution r""",
}
#: A record without its living item is none.
_WITH_ITEM: Final = """
  join public.knowledge_items k on k.id = r.knowledge_id and k.owner_id = r.owner_id
  join private.companions c on c.knowledge_id = k.id and c.is_live
 where r.workspace_id = %s"""


def check(admin: psycopg.Connection[tuple[object, ...]], workspace: UUID, tally: Tally) -> list[str]:
    """Compare every record with what was acknowledged.

    Args:
        admin: a connection that may read everything.
        workspace: where it was written.
        tally: what was acknowledged.

    Returns:
        What is wrong, in words.
    """
    problems: list[str] = []
    there: Counter[tuple[str, str, UUID]] = Counter()
    expected: dict[tuple[str, str, UUID], Written] = {
        (kind, _name(number), owner): written for (kind, number, owner), written in tally.items()
    }
    for kind, query in _RECORDED.items():
        with admin.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute((query + _WITH_ITEM).encode(), [workspace])
            for row in rows:
                key = (kind, _NAME.findall(row["name"])[-1], row["owner_id"])
                there[key] += 1
                problems += compare(" ".join(map(str, key)), row, expected.get(key, Written()))
    problems += [f"{key}: {there[key]} records" for key in expected.keys() | there if there[key] != 1]
    return problems


def compare(where: str, row: dict[str, Any], written: Written) -> list[str]:
    """Compare one record with what was acknowledged for it, and say what is wrong."""
    problems: list[str] = []
    if row["sightings"] != len(written.said):
        problems.append(f"{where}: counted {row['sightings']} of {len(written.said)}")
    problems += [
        f"{where}: {what} is {row[what]}, not {getattr(written, what)}"
        for what in ("successes", "applied", "scores")
        if row[what] is not None and row[what] != getattr(written, what)
    ]
    if row["said"] is not None:
        told, kept = Counter(written.said), Counter(cast("list[str]", row["said"]))
        lost, more = told - kept, kept - told
        if lost or more:
            problems.append(f"{where}: {lost.total()} lost, {more.total()} that nobody wrote")
    return problems


def prepare(info: StackInfo, users: int) -> Stage:
    """Make a workspace with a maintainer and so many contributors in a stack."""
    people = [_sign_up(info) for _ in range(users + 1)]
    maintainer, *others = people
    with connect(
        info.database_url,
        user_id=str(maintainer),
        embedder=None,
        settings=Settings(home=Path("/nonexistent")),
    ) as owner:
        workspace = owner.create_workspace("repeats").workspace_id
        for other in others:
            owner.add_workspace_member(workspace, other, role="contributor")
    return Stage(info.database_url, info.admin_database_url, workspace, maintainer, others)


def _sign_up(info: StackInfo) -> UUID:
    name = uuid4().hex
    answer = create_client(info.api_url, info.publishable_key).auth.sign_up(
        {"email": f"{name}@example.org", "password": name}
    )
    if answer.user is None:
        raise RuntimeError("the stack signs nobody up")
    return UUID(answer.user.id)


def main() -> int:
    """Write, compare, print the table; return 1 when anything is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20, help="how long the writers write")
    parser.add_argument("--writers", type=int, default=8, help="how many write at once")
    parser.add_argument("--signatures", type=int, default=50, help="of each kind")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    talk = Console(stderr=True)
    with tempfile.TemporaryDirectory() as directory, benchmark_stack(Path(directory)) as stack:
        info = stack.status().info
        if info is None:
            raise RuntimeError("the stack is up and has no description")
        report = repeat(
            prepare(info, max(arguments.writers // 2, 1)),
            seconds=arguments.seconds,
            writers=arguments.writers,
            signatures=arguments.signatures,
            tell=talk.print,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(report), indent=2) + "\n")
    table = Table("", "writes", "a second", "p50 ms", "p95 ms", "longest ms")
    total = sum(report.writes.values())
    table.title = (
        f"{arguments.writers} writers, {report.records} records, {total} writes in {report.seconds:.1f} s "
        f"({total / report.seconds:.0f} a second), {report.deadlocks} deadlocks"
    )
    for kind, writes in report.writes.items():
        figures = (f"{value:.1f}" for value in report.milliseconds.get(kind, ()))
        table.add_row(kind.replace("_", " "), str(writes), f"{writes / report.seconds:.0f}", *figures)
    Console().print(table)
    for problem in report.problems:
        talk.print(problem, style="red", markup=False)
    talk.print("Nothing was lost." if not report.problems else f"{len(report.problems)} problems.")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
