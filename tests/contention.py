"""Every write function against every other: sixteen people at once, on the same few things, with pauses from a seed.

The functions come from the catalog; one without an act here is an error. Acts are grouped into scenes of sixteen so
that each pair of functions meets in at least one. Whoever acts notes what was acknowledged; afterwards the database
must hold exactly that: nothing less, nothing twice.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
import uuid
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg

from isolation import RandomWorld
from tally import count
from world import vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from world import Persona, World

Row: TypeAlias = dict[str, Any]

WORKERS = 16
#: How often each act of a scene is done.
TIMES = 3
LONGEST_PAUSE = 0.004
#: What an act may be refused with. Anything else is a finding: above all a deadlock or a raw constraint.
ALLOWED = frozenset({"PT400", "PT403", "PT404", "PT409", "42501"})
#: A scene is over when all have done their acts; the statement timeout is far below this.
PATIENCE = 120
TEXTS = [f"The {word} valve opens to the left." for word in ("zorvex", "quilmar", "brastok", "fendwig")]


@dataclass
class Noted:
    """What one worker was told."""

    created: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    forgotten: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    imported: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    ratings: list[tuple[uuid.UUID, int | None, bool]] = field(
        default_factory=list[tuple[uuid.UUID, "int | None", bool]]
    )
    recalled: Counter[uuid.UUID] = field(default_factory=Counter[uuid.UUID])
    #: What was said of a record: attempts, examples, observations, stages; of a command, how it ended.
    said: dict[uuid.UUID, list[str]] = field(default_factory=lambda: defaultdict(list))
    talk: int = 0
    calls: int = 0
    findings: list[str] = field(default_factory=list[str])


@dataclass
class Set:
    """What the acts of a scene are about: few things, so that they meet."""

    items: list[uuid.UUID]
    relationships: list[uuid.UUID]
    proposals: list[uuid.UUID]
    tests: list[uuid.UUID]
    insights: list[tuple[uuid.UUID, uuid.UUID]]
    tokens: list[uuid.UUID]
    months: list[str]
    workspace: uuid.UUID
    doomed: uuid.UUID
    guest: uuid.UUID
    lines: list[str]


class Worker:
    """Somebody at work: a user on a connection of their own, in a session or in none."""

    def __init__(self, persona: Persona, service: Persona, dice: random.Random, *, maintains: bool) -> None:
        self.persona = persona
        self.service = service
        self.dice = dice
        self.maintains = maintains
        self.noted = Noted()
        self.stage: Set

    def rpc(self, function: str, /, **arguments: object) -> list[Row]:
        self.noted.calls += 1
        return self.persona.rpc(function, **arguments)

    def some(self, things: Sequence[Any]) -> Any:
        """Choose one; of nothing, an id that names nothing."""
        return self.dice.choice(things) if things else uuid.uuid4()

    def work(self, act: Act, barrier: threading.Barrier) -> None:
        barrier.wait(PATIENCE)
        for _ in range(TIMES):
            time.sleep(self.dice.uniform(0, LONGEST_PAUSE))
            try:
                act(self)
            except psycopg.Error as error:
                if error.sqlstate not in ALLOWED:
                    self.noted.findings.append(f"{act.__name__}: {error.sqlstate} {error}")


Act: TypeAlias = "Callable[[Worker], object]"
ACTS: dict[str, Act] = {}


def act(function: Act) -> Act:
    """Register an act under the name of the function that it calls."""
    ACTS[function.__name__] = function
    return function


# -- recording ---------------------------------------------------------------------------------------------------------


def _record(worker: Worker, rows: Iterable[Row]) -> None:
    worker.noted.created |= {row["knowledge_id"] for row in rows if row["outcome"] == "created"}


@act
def record_knowledge(worker: Worker) -> None:
    text = worker.some(TEXTS)
    _record(worker, worker.rpc("record_knowledge", title=text[:12], content=text))


@act
def record_knowledge_batch(worker: Worker) -> None:
    texts = worker.dice.sample(TEXTS, 3)
    items = [{"title": text[:12], "content": text} for text in texts]
    rows = worker.rpc("record_knowledge_batch", items=items)
    if [row["item_index"] for row in rows] != [0, 1, 2]:
        worker.noted.findings.append(f"record_knowledge_batch answered {len(rows)} of 3 items")
    _record(worker, rows)


def _say(worker: Worker, row: Row, said: str) -> None:
    worker.noted.said[row["knowledge_id"]].append(said)
    _record(worker, [row])


@act
def record_gotcha(worker: Worker) -> None:
    said = uuid.uuid4().hex
    [row] = worker.rpc(
        "record_gotcha",
        problem_description="ValueError: grendok is bad",
        attempted_solution=said,
        attempt_outcome=worker.some(["worked", "failed"]),
    )
    _say(worker, row, said)


@act
def record_command_run(worker: Worker) -> None:
    worked = worker.dice.random() < 0.5
    [row] = worker.rpc("record_command_run", command="make vornabu", succeeded=worked)
    _say(worker, row, "worked" if worked else "failed")


@act
def record_interaction_pattern(worker: Worker) -> None:
    said = uuid.uuid4().hex
    [row] = worker.rpc(
        "record_interaction_pattern",
        pattern_name="kestrolo",
        situation_type="review",
        example={"said": said},
        effectiveness_score=7,
    )
    _say(worker, row, said)


@act
def record_insight(worker: Worker) -> None:
    said = uuid.uuid4().hex
    [row] = worker.rpc("record_insight", insight_title="plashtim", insight_description=said)
    _say(worker, row, said)


@act
def record_decision_stage(worker: Worker) -> None:
    said = uuid.uuid4().hex
    [row] = worker.rpc("record_decision_stage", decision_topic="jandrik", understanding=said)
    _say(worker, row, said)


@act
def apply_insight(worker: Worker) -> None:
    if not worker.stage.insights:
        return
    insight, item = worker.some(worker.stage.insights)
    worker.rpc("apply_insight", insight_id=insight, success=True)
    worker.noted.ratings.append((item, None, True))


@act
def put_store_items(worker: Worker) -> None:
    keys = worker.dice.sample(["one", "two", "three"], 2)
    items = [{"namespace": ["notes"], "key": key, "value": {"at": uuid.uuid4().hex}} for key in keys]
    worker.rpc("put_store_items", items=items)


@act
def add_agent_session_items(worker: Worker) -> None:
    [row] = worker.rpc("add_agent_session_items", conversation="talk", items=[{"say": 1}, {"say": 2}])
    worker.noted.talk += row["added"]


@act
def pop_agent_session_item(worker: Worker) -> None:
    worker.noted.talk -= len(worker.rpc("pop_agent_session_item", conversation="talk"))


@act
def clear_agent_session(worker: Worker) -> None:
    [row] = worker.rpc("clear_agent_session", conversation="talk")
    worker.noted.talk -= row["erased"]


@act
def edit_knowledge(worker: Worker) -> None:
    changes: Row = {"importance_score": worker.dice.randint(1, 100)}
    if worker.dice.random() < 0.5:
        changes = {"content": worker.some(TEXTS)}
    worker.rpc("edit_knowledge", knowledge_id=worker.some(worker.stage.items), changes=changes)


@act
def import_records(worker: Worker) -> None:
    rows = worker.rpc("import_records", lines=worker.stage.lines)
    worker.noted.imported |= {row["target_id"] for row in rows if row["outcome"] == "created"}


# -- what becomes of it ------------------------------------------------------------------------------------------------


@act
def validate_knowledge(worker: Worker) -> None:
    status = worker.some(["pending", "validated", "validated", "needs_update", "deprecated"])
    worker.rpc("validate_knowledge", knowledge_id=worker.some(worker.stage.items), validation_status=status)


@act
def rate_knowledge(worker: Worker) -> None:
    item, rating, success = (
        worker.some(worker.stage.items),
        worker.dice.randint(1, 10),
        worker.dice.random() < 0.5,
    )
    worker.rpc("rate_knowledge", knowledge_id=item, effectiveness_rating=rating, application_success=success)
    worker.noted.ratings.append((item, rating, success))


@act
def recall_knowledge(worker: Worker) -> None:
    rows = worker.rpc("recall_knowledge", query_text="valve left grendok vornabu jandrik", max_results=20)
    # Whoever sees all of the workspace still sees, when it is counted, what was found a moment before.
    if worker.maintains:
        worker.noted.recalled.update(row["knowledge_id"] for row in rows)
    else:
        worker.noted.recalled.update({row["knowledge_id"]: 0 for row in rows})


@act
def log_recall(worker: Worker) -> None:
    items = worker.stage.items[:3]
    worker.rpc("log_recall", knowledge_ids=items)
    worker.noted.recalled.update(dict.fromkeys(items, int(worker.maintains)))


@act
def supersede_knowledge(worker: Worker) -> None:
    replacement = worker.some([None, *worker.stage.items])
    worker.rpc(
        "supersede_knowledge", knowledge_id=worker.some(worker.stage.items), replacement_id=replacement
    )


@act
def forget_knowledge(worker: Worker) -> None:
    [row] = worker.rpc("forget_knowledge", knowledge_id=worker.some(worker.stage.items))
    worker.noted.forgotten.add(row["knowledge_id"])


@act
def merge_knowledge(worker: Worker) -> None:
    worker.rpc(
        "merge_knowledge",
        keep_id=worker.some(worker.stage.items),
        duplicate_id=worker.some(worker.stage.items),
    )


@act
def unmerge_knowledge(worker: Worker) -> None:
    worker.rpc("unmerge_knowledge", duplicate_id=worker.some(worker.stage.items))


@act
def discover_duplicates(worker: Worker) -> None:
    worker.rpc("discover_duplicates", knowledge_id=worker.some(worker.stage.items))


@act
def decide_duplicate(worker: Worker) -> None:
    accept = worker.dice.random() < 0.7
    worker.rpc("decide_duplicate", proposal_id=worker.some(worker.stage.proposals), accept=accept)


@act
def mark_breakthrough(worker: Worker) -> None:
    worker.rpc("mark_breakthrough", knowledge_id=worker.some(worker.stage.items))


# -- relations, tests, sessions, people ------------------------------------------------------------------------------


@act
def relate_knowledge(worker: Worker) -> None:
    worker.rpc(
        "relate_knowledge",
        source_knowledge_id=worker.some(worker.stage.items),
        target_knowledge_id=worker.some(worker.stage.items),
        relationship_type=worker.some(["depends_on", "depends_on", "required_for", "similar_to"]),
        strength=worker.some([0.5, 1.0]),
    )


@act
def remove_relationship(worker: Worker) -> None:
    worker.rpc("remove_relationship", relationship_id=worker.some(worker.stage.relationships))


@act
def decide_relationship(worker: Worker) -> None:
    accept = worker.dice.random() < 0.7
    worker.rpc("decide_relationship", relationship_id=worker.some(worker.stage.relationships), accept=accept)


@act
def discover_relationships(worker: Worker) -> None:
    worker.rpc("discover_relationships", knowledge_id=worker.some(worker.stage.items))


@act
def record_validation_test(worker: Worker) -> None:
    worker.rpc(
        "record_validation_test",
        test_name=worker.some(["one", "two"]),
        test_scenario="which valve opens",
        expected_knowledge_ids=[worker.some(worker.stage.items)],
    )


@act
def remove_validation_test(worker: Worker) -> None:
    worker.rpc("remove_validation_test", test_id=worker.some(worker.stage.tests))


@act
def record_validation_result(worker: Worker) -> None:
    worker.rpc("record_validation_result", test_id=worker.some(worker.stage.tests), pass_status=True)


@act
def run_retrieval_test(worker: Worker) -> None:
    worker.rpc("run_retrieval_test", test_id=worker.some(worker.stage.tests))


@act
def schedule_validation_test(worker: Worker) -> None:
    worker.rpc("schedule_validation_test", test_id=worker.some(worker.stage.tests), run_every="1 hour")


@act
def schedule_discovery(worker: Worker) -> None:
    worker.rpc("schedule_discovery", run_every=worker.some([None, "1 day"]))


@act
def try_retrieval_weights(worker: Worker) -> None:
    worker.rpc("try_retrieval_weights", tests=[{"test_id": str(one)} for one in worker.stage.tests])


@act
def start_session(worker: Worker) -> None:
    worker.rpc("start_session", session_identifier=worker.some(["monday", "tuesday"]))


@act
def end_session(worker: Worker) -> None:
    worker.rpc("end_session", session_identifier=worker.some(["monday", "tuesday"]), summary="done")


@act
def create_agent_token(worker: Worker) -> None:
    worker.rpc("create_agent_token", name="agent")


@act
def revoke_agent_token(worker: Worker) -> None:
    worker.rpc("revoke_agent_token", token_id=worker.some(worker.stage.tokens))


@act
def create_workspace(worker: Worker) -> None:
    worker.rpc("create_workspace", name="another")


@act
def add_workspace_member(worker: Worker) -> None:
    workspace = worker.some([worker.stage.workspace, worker.stage.doomed])
    worker.rpc("add_workspace_member", workspace_id=workspace, user_id=worker.stage.guest)


@act
def set_workspace_member_role(worker: Worker) -> None:
    role = worker.some(["contributor", "reader", "maintainer"])
    worker.rpc(
        "set_workspace_member_role",
        workspace_id=worker.stage.workspace,
        user_id=worker.stage.guest,
        role=role,
    )


@act
def remove_workspace_member(worker: Worker) -> None:
    workspace = worker.some([worker.stage.workspace, worker.stage.doomed])
    worker.rpc("remove_workspace_member", workspace_id=workspace, user_id=worker.stage.guest)


@act
def delete_workspace(worker: Worker) -> None:
    inside = RandomWorld.stand(worker.persona, worker.stage.doomed)
    text = worker.some(TEXTS)
    if worker.dice.random() < 0.8:
        inside.rpc("record_knowledge", title=text[:12], content=text)
    else:
        worker.rpc("delete_workspace", workspace_id=worker.stage.doomed)


# -- the service -----------------------------------------------------------------------------------------------------


def _serve(worker: Worker, function: str, /, **arguments: object) -> list[Row]:
    worker.noted.calls += 1
    return worker.service.rpc(function, **arguments)


@act
def claim_embedding_jobs(worker: Worker) -> None:
    _serve(worker, "claim_embedding_jobs", max_jobs=8)


@act
def store_embeddings(worker: Worker) -> None:
    jobs = _serve(worker, "claim_embedding_jobs", max_jobs=8)
    embeddings: list[Row] = [
        {
            "knowledge_id": str(job["knowledge_id"]),
            "embedding_model": job["embedding_model"],
            "content_hash": job["content_hash"],
            "embedding": vector([worker.dice.random() for _ in range(384)]),
        }
        for job in jobs
        if job["embedding_model"] == "all-MiniLM-L6-v2"
    ]
    if embeddings:
        _serve(worker, "store_embeddings", embeddings=embeddings)


@act
def retry_embeddings(worker: Worker) -> None:
    _serve(worker, "retry_embeddings", knowledge_ids=worker.stage.items)


@act
def claim_due_work(worker: Worker) -> None:
    _serve(worker, "claim_due_work")


@act
def finish_due_work(worker: Worker) -> None:
    _serve(
        worker,
        "finish_due_work",
        workspace_id=worker.stage.workspace,
        test_id=worker.some([None, *worker.stage.tests]),
    )


@act
def register_embedding_model(worker: Worker) -> None:
    _serve(worker, "register_embedding_model", name="all-MiniLM-L6-v2", dimensions=384, is_default=True)


@act
def run_maintenance(worker: Worker) -> None:
    _serve(worker, "run_maintenance")


@act
def check_vectors(worker: Worker) -> None:
    _serve(worker, "check_vectors", max_vectors=worker.dice.choice((5, 500)))


@act
def create_session_partitions(worker: Worker) -> None:
    _serve(worker, "create_session_partitions", months_ahead=3)


@act
def archive_sessions(worker: Worker) -> None:
    _serve(worker, "archive_sessions", month=worker.some(worker.stage.months))


@act
def restore_sessions(worker: Worker) -> None:
    _serve(worker, "restore_sessions", month=worker.some(worker.stage.months))


@act
def configure_retrieval(worker: Worker) -> None:
    worker.rpc(
        "configure_retrieval",
        text_search_config=worker.some(["english", "german", "simple"]),
        retrieval_weights={"meaning": worker.dice.random()},
    )


@act
def authenticate_agent_token(worker: Worker) -> None:
    _serve(worker, "authenticate_agent_token", token_hash=hashlib.sha256(b"nobody's").hexdigest())


#: What somebody does once in a while, alone, is no part of the crowd: these change which model the whole deployment
#: uses (tests/faults/test_switch_faults.py), or fill a new workspace.
APART = frozenset(
    {
        "begin_embedding_switch",
        "swap_embedding_model",
        "settle_embedding_switch",
        "abort_embedding_switch",
        "import_workspace",
    }
)


def write_functions(world: World) -> set[str]:
    """Every function of the contract that writes."""
    rows = world.superuser(
        "select p.proname from pg_proc p where p.pronamespace = 'public'::regnamespace and p.provolatile = 'v'"
        " and p.prorettype <> 'trigger'::regtype"
        " and (has_function_privilege('authenticated', p.oid, 'execute')"
        "      or has_function_privilege('service_role', p.oid, 'execute'))"
    )
    return {row["proname"] for row in rows}


def scenes(names: Iterable[str], dice: random.Random) -> list[list[str]]:
    """Group acts into scenes of sixteen, until each two of them, and each with itself, have met."""
    every = sorted(names)
    missing = {frozenset((one, other)) for one in every for other in every}
    found: list[list[str]] = []
    while missing:
        scene = [min(min(pair) for pair in missing)]
        while len(scene) < WORKERS:
            # Whoever meets most of those that they have not met.
            gains = {
                name: (len({frozenset((name, other)) for other in scene} & missing), dice.random())
                for name in every
            }
            chosen = max(every, key=gains.__getitem__)
            missing -= {frozenset((chosen, other)) for other in scene}
            scene.append(chosen)
        found.append(scene)
    return found


class Crowd:
    """A workspace, and sixteen connections of four of its members; a fifth comes and goes.

    Args:
        world: the stage, empty.
        seed: decides on who does what to what, and on the pauses.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.dice = random.Random(seed)  # noqa: S311 - the same again
        olga, max_, ana, ben, dan = [world.sign_up(name) for name in ("olga", "max", "ana", "ben", "dan")]
        self.guest = dan
        self.owner = olga
        self.workspace = world.workspace("crowd", owner=olga, maintainer=max_, contributor=[ana, ben, dan])
        self.workers: list[Worker] = []
        for place in range(WORKERS):
            person = [olga, max_, ana, ben][place % 4]
            persona = person.inside(self.workspace)
            if place % 8 < 4:
                persona = persona.start_session("monday")
            self.workers.append(
                Worker(
                    persona,
                    world.service(),
                    random.Random(self.dice.random()),  # noqa: S311
                    maintains=person in (olga, max_),
                )
            )
        [self.admin] = [worker.persona for worker in self.workers[:1]]
        self._deadlocks = self._count_deadlocks()

    def _count_deadlocks(self) -> int:
        self.world.superuser("select pg_stat_clear_snapshot()")
        [row] = self.world.superuser(
            "select deadlocks from pg_stat_database where datname = current_database()"
        )
        return row["deadlocks"]

    def _set(self) -> Set:
        """Choose what the next scene is about."""

        def ids(query: str, limit: int) -> list[uuid.UUID]:
            rows = self.world.superuser(f"{query} order by created_at, id", self.workspace)
            return self.dice.sample([row["id"] for row in rows], min(limit, len(rows)))

        for text in TEXTS:
            noted = self.admin.rpc(
                "record_knowledge", title=text[:12], content=f"{text} {self.dice.random()}"
            )
            self.workers[0].noted.created |= {row["knowledge_id"] for row in noted}
        [doomed] = self.owner.rpc("create_workspace", name="doomed")
        for worker in self.workers:
            if worker.persona.id != self.owner.id:
                self.world.superuser(
                    "insert into public.workspace_members (workspace_id, user_id, role) values (%s, %s, 'owner')"
                    " on conflict do nothing",
                    doomed["workspace_id"],
                    worker.persona.id,
                )
        # Small as it is, its vectors are looked up as a large one's.
        self.world.superuser(
            "insert into private.large_workspaces values (%s) on conflict do nothing", self.workspace
        )
        self.world.superuser("update private.vector_rounds set reached = null, finished_at = null")
        exported = self.admin.rpc("export_records", section="item", max_rows=3)
        return Set(
            items=ids("select id, created_at from public.knowledge_items where workspace_id = %s", 6),
            relationships=ids(
                "select id, created_at from public.knowledge_relationships where workspace_id = %s", 6
            ),
            proposals=ids(
                "select id, created_at from public.knowledge_duplicates where workspace_id = %s", 4
            ),
            tests=ids(
                "select id, created_at from public.knowledge_validation_tests where workspace_id = %s", 2
            ),
            insights=[
                (row["id"], row["knowledge_id"])
                for row in self.world.superuser(
                    "select id, knowledge_id from public.experiential_knowledge where workspace_id = %s",
                    self.workspace,
                )
            ],
            tokens=ids("select id, created_at from private.agent_tokens where workspace_id = %s", 2),
            months=["2026-01", "2026-02"],
            workspace=self.workspace,
            doomed=doomed["workspace_id"],
            guest=uuid.UUID(str(self.guest.id)),
            lines=[row["line"] for row in exported],
        )

    def play(self, scene: Sequence[str], pool: ThreadPoolExecutor) -> None:
        """Let everybody do their act at once, each a few times."""
        stage = self._set()
        for worker in self.workers:
            worker.stage = stage
        barrier = threading.Barrier(WORKERS)
        working = [
            pool.submit(worker.work, ACTS[name], barrier)
            for worker, name in zip(self.workers, scene, strict=True)
        ]
        for done in working:
            done.result()
        count("scenes of sixteen writers")

    def round(self, at_most: int | None = None) -> None:
        """Let every function meet every other once, or play only so many of the scenes."""
        there = write_functions(self.world)
        with ThreadPoolExecutor(WORKERS) as pool:
            for scene in scenes(ACTS.keys() & there, self.dice)[:at_most]:
                self.play(scene, pool)

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Compare what is there with what was acknowledged; say what is wrong."""
        found = [one for worker in self.workers for one in worker.noted.findings]
        happened = self._count_deadlocks() - self._deadlocks
        if happened:
            found.append(f"{happened} deadlocks")
        count("writes acknowledged or refused", sum(worker.noted.calls for worker in self.workers))
        # What merges have moved goes back, so that each item has its own again.
        while rows := self.world.superuser(
            "select m.duplicate_id from private.merged_items m where not exists ("
            " select from private.merged_items o where o.duplicate_id = m.keep_id) limit 1"
        ):
            self.world.superuser("select private.revert_merge(%s)", rows[0]["duplicate_id"])
        return found + self._items() + self._records() + self._invariants()

    def _items(self) -> list[str]:
        items = {
            row["id"]: row
            for row in self.world.superuser(
                "select * from public.knowledge_items where workspace_id = %s", self.workspace
            )
        }
        created: Counter[uuid.UUID] = Counter()
        forgotten: Counter[uuid.UUID] = Counter()
        rated: dict[uuid.UUID, list[tuple[int | None, bool]]] = defaultdict(list)
        recalled: Counter[uuid.UUID] = Counter()
        uncertain: set[uuid.UUID] = set()
        for worker in self.workers:
            created.update(worker.noted.created)
            forgotten.update(worker.noted.forgotten)
            for item, rating, success in worker.noted.ratings:
                rated[item].append((rating, success))
            for item, times in worker.noted.recalled.items():
                recalled[item] += times
                if not worker.maintains:
                    uncertain.add(item)
        found = [f"{item} was created {times} times" for item, times in created.items() if times > 1]
        found += [f"{item} was forgotten {times} times" for item, times in forgotten.items() if times > 1]
        found += [f"{item} was acknowledged and is gone" for item in created - forgotten if item not in items]
        found += [f"{item} was forgotten and is there" for item in forgotten if item in items]
        for item, row in items.items():
            expected = (
                sum(rating or 0 for rating, _ in rated[item]),
                sum(rating is not None for rating, _ in rated[item]),
                sum(success for _, success in rated[item]),
                sum(not success for _, success in rated[item]),
            )
            counted = (row["rating_sum"], row["rating_count"], row["success_count"], row["failure_count"])
            if counted != expected:
                found.append(f"{item}: ratings {counted}, acknowledged {expected}")
            if row["access_count"] < recalled[item] or (
                item not in uncertain and row["access_count"] != recalled[item]
            ):
                found.append(f"{item}: recalled {row['access_count']} times, acknowledged {recalled[item]}")
        return found

    def _records(self) -> list[str]:
        said: dict[uuid.UUID, Counter[str]] = defaultdict(Counter)
        for worker in self.workers:
            for item, words in worker.noted.said.items():
                said[item].update(words)
        kept: dict[uuid.UUID, tuple[int, Counter[str]]] = {}
        for query in RECORDS:
            for row in self.world.superuser(f"{query} where workspace_id = %s", self.workspace):
                kept[row["knowledge_id"]] = (row["times"], Counter(row["said"]))
        imported = {item for worker in self.workers for item in worker.noted.imported}
        found: list[str] = []
        for item, (times, words) in kept.items():
            # What was imported came with words of its own.
            if (
                said[item] - words
                if item in imported
                else (times != said[item].total() or words != said[item])
            ):
                found.append(
                    f"record {item}: counted {times} of {said[item].total()}, lost {said[item] - words},"
                    f" more than was said {words - said[item]}"
                )
        return found

    def _invariants(self) -> list[str]:
        talk = sum(worker.noted.talk for worker in self.workers)
        [row] = self.world.superuser(
            "select count(*) as n from public.agent_session_items where workspace_id = %s", self.workspace
        )
        found = [] if row["n"] == talk else [f"{row['n']} items of conversations, acknowledged {talk}"]
        for what, query in INVARIANTS.items():
            found += [f"{what}: {row}" for row in self.world.superuser(query)]
        return found


#: How often each record was written, and what was said then.
RECORDS = (
    """
    select knowledge_id, frequency_encountered as times,
           array(select a ->> 'solution' from jsonb_array_elements(attempted_solutions) a
                  where a -> 'replaced' is null) as said
      from public.technical_gotchas""",
    """
    select knowledge_id, usage_count as times,
           array_fill('worked'::text, array[success_count])
             || array_fill('failed'::text, array[usage_count - success_count]) as said
      from public.command_patterns""",
    """
    select knowledge_id, pattern_frequency as times,
           array(select a -> 'example' ->> 'said' from jsonb_array_elements(examples) a) as said
      from public.interaction_patterns""",
    """
    select knowledge_id, times_observed as times,
           array(select a ->> 'description' from jsonb_array_elements(observations) a) || insight_description as said
      from public.experiential_knowledge""",
    """
    select knowledge_id, jsonb_array_length(evolution_timeline) as times,
           array(select a ->> 'understanding' from jsonb_array_elements(evolution_stages) a) as said
      from public.decision_evolution""",
)

#: What must hold of any database, as queries that find where it doesn't.
INVARIANTS = {
    "a session counts other than its links": """
        select s.id, s.knowledge_items_created, s.knowledge_items_accessed, l.created, l.accessed
          from public.ai_sessions s
          cross join lateral (
            select count(*) filter (where interaction_type = 'created') as created,
                   count(*) filter (where interaction_type = 'accessed') as accessed
              from public.session_knowledge_links where session_id = s.id) l
         where (s.knowledge_items_created, s.knowledge_items_accessed) is distinct from (l.created, l.accessed)""",
    "a place in a session is taken twice": """
        select created_in_session, session_position, count(*) from public.knowledge_items
         where created_in_session is not null group by 1, 2 having count(*) > 1""",
    "two living items of one owner say the same": """
        select workspace_id, owner_id, content_hash from public.knowledge_items
         where validation_status <> 'deprecated' and superseded_by is null and owner_id is not null
         group by 1, 2, 3 having count(*) > 1""",
    "items supersede each other": """
        with recursive chain as (
          select id as start, superseded_by as id, 1 as step from public.knowledge_items where superseded_by is not null
          union all
          select c.start, k.superseded_by, c.step + 1 from chain c join public.knowledge_items k on k.id = c.id
           where k.superseded_by is not null and c.step < 1000)
        select start from chain where id = start limit 1""",
    "items need each other": """
        with recursive edge as (
          select source_knowledge_id as needs, target_knowledge_id as needed
            from public.knowledge_relationships where status = 'accepted' and relationship_type = 'depends_on'
          union
          select target_knowledge_id, source_knowledge_id
            from public.knowledge_relationships where status = 'accepted' and relationship_type = 'required_for'
        ), reach as (
          select needs, needed from edge
          union
          select r.needs, e.needed from reach r join edge e on e.needs = r.needed)
        select needs from reach where needs = needed limit 1""",
    "a trail that does not lead to the status": """
        select k.id, k.validation_status, h.to_status from public.knowledge_items k
          cross join lateral (select to_status from public.knowledge_status_history
                               where knowledge_id = k.id order by id desc limit 1) h
         where h.to_status <> k.validation_status""",
    "a trail with a gap": """
        select h.knowledge_id, h.id from (
          select *, lag(to_status) over (partition by knowledge_id order by id) as before
            from public.knowledge_status_history) h
         where h.change = 'status' and h.before is not null and h.from_status is distinct from h.before""",
    "a companion that lives otherwise than its item": """
        select c.knowledge_id from private.companions c join public.knowledge_items k on k.id = c.knowledge_id
         where c.is_live <> (k.validation_status <> 'deprecated' and k.superseded_by is null)""",
    "an item without its search document": """
        select k.id from public.knowledge_items k
         where not exists (select from private.search_documents d where d.knowledge_id = k.id)""",
    "a key of the store that lives twice": """
        select workspace_id, owner_id, title from public.knowledge_items
         where category = 'store' and validation_status <> 'deprecated' and superseded_by is null
         group by 1, 2, 3 having count(*) > 1""",
    "a workspace without an owner": """
        select w.id from public.workspaces w
         where not exists (select from public.workspace_members m where m.workspace_id = w.id and m.role = 'owner')""",
}
