"""Maintenance, and how a month of sessions is put away and comes back."""

from __future__ import annotations

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from memories import exported, imported
from teams import Team
from world import call, refused

if TYPE_CHECKING:
    import uuid

    from world import Persona, Row, World

MONTH = "2026-01"

# Everything that archiving touches or could touch, in an order of its own.
TABLES = {
    "ai_sessions": "select to_jsonb(t) as row from public.ai_sessions t order by id",
    "session_keys": "select to_jsonb(t) as row from private.session_keys t order by session_id",
    "links": "select to_jsonb(t) as row from public.session_knowledge_links t order by id",
    "items": "select to_jsonb(t) as row from public.knowledge_items t order by id",
    "documents": "select to_jsonb(t) as row from private.search_documents t order by knowledge_id",
    "gotchas": "select to_jsonb(t) as row from public.technical_gotchas t order by id",
    "commands": "select to_jsonb(t) as row from public.command_patterns t order by id",
    "insights": "select to_jsonb(t) as row from public.experiential_knowledge t order by id",
    "decisions": "select to_jsonb(t) as row from public.decision_evolution t order by id",
    "relationships": "select to_jsonb(t) as row from public.knowledge_relationships t order by id",
    "history": "select to_jsonb(t) as row from public.knowledge_status_history t order by id",
}
FOREIGN_KEYS = """
select conname from pg_constraint join pg_class f on f.oid = confrelid join pg_class r on r.oid = conrelid
 where contype = 'f' and convalidated and not f.relispartition and not r.relispartition order by 1
"""
#: What refers to a session, and is null while that is archived.
SESSION_COLUMNS = ("created_in_session", "discovered_in_session", "discovery_session")


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def as_postgres(world: World, query: str, *parameters: object) -> list[tuple[object, ...]]:
    """Run one statement as the owner of the schema."""
    with psycopg.connect(world.dsn("postgres")) as connection:
        cursor = connection.execute(query.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def whole(world: World) -> dict[str, list[Row]]:
    return {name: [row["row"] for row in world.superuser(query)] for name, query in TABLES.items()}


def past_session(team: Team, persona: Persona, identifier: str, *, month: str = MONTH) -> Persona:
    """Let a session have begun in a month that is over."""
    [row] = team.world.superuser(
        """
        insert into public.ai_sessions (id, start_time, workspace_id, owner_id, session_identifier, project_context)
        select private.uuid_v7(m.begin), m.begin, %s, %s, %s, 'search'
          from (select private.month_start(%s) + interval '10 days' as begin) m returning id
        """,
        team.id,
        persona.id,
        identifier,
        month,
    )
    return persona.inside(team.id, row["id"])


def long_ago(team: Team, *sessions: Persona) -> None:
    """Let what happened in sessions have happened when they began."""
    for session in sessions:
        team.world.superuser(
            "update public.session_knowledge_links l set interaction_timestamp = s.start_time "
            "from public.ai_sessions s where s.id = l.session_id and s.id = %s",
            session.session,
        )


@pytest.fixture
def january(team: Team) -> Persona:
    """Let the author have had a session in January that left all kinds of traces."""
    as_postgres(team.world, "select private.make_session_partition(%s)", MONTH)
    author = past_session(team, team.author, "january")
    first = author.record("Iterative scans", "Set hnsw.iterative_scan under row-level security.")
    second = author.record("Halves", "Half vectors take half the room.")
    author.rpc("record_gotcha", problem_description="index build runs out of memory", working_solution="more")
    author.rpc("record_command_run", command="vacuum analyze", succeeded=True)
    author.rpc("record_insight", insight_title="Measure", insight_description="Measure before you tune.")
    author.rpc("record_decision_stage", decision_topic="Index", understanding="HNSW.", is_final=True)
    author.rpc(
        "relate_knowledge",
        source_knowledge_id=first,
        target_knowledge_id=second,
        relationship_type="enhances",
    )
    author.rpc("recall_knowledge", query_text="half vectors")
    author.rpc("rate_knowledge", knowledge_id=first, effectiveness_rating=9)
    author.rpc("mark_breakthrough", knowledge_id=first)
    long_ago(team, author)
    return author


# -- what must fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("run_maintenance", {}),
        ("archive_sessions", {"month": MONTH}),
        ("restore_sessions", {"month": MONTH}),
        ("create_session_partitions", {}),
    ],
)
def test_operations_are_the_operators(team: Team, function: str, arguments: dict[str, object]) -> None:
    for persona in (team.world.anon(), team.author, team.owner, team.stranger):
        with refused("42501"):
            persona.rpc(function, **arguments)


def test_nobody_reads_the_archive(team: Team, january: Persona) -> None:
    service = team.world.service()
    service.rpc("archive_sessions", month=MONTH)
    for table in ("archived_sessions", "archived_session_links", "archived_session_references"):
        for persona in (team.world.anon(), january.inside(team.id), team.owner):
            with refused("42501"):
                persona.sql(f"select * from private.{table}")
        assert service.sql(f"select * from private.{table}")
        with refused("42501"):
            service.sql(f"delete from private.{table} where true")


def test_what_is_no_month_or_not_over_is_not_archived(team: Team) -> None:
    service = team.world.service()
    for month in ("2026", "2026-13", "2026-1", "January", "1969-12", "", None):
        with refused("PT400", "month"):
            service.rpc("archive_sessions", month=month)
        with refused("PT400", "month"):
            service.rpc("restore_sessions", month=month)
    now = dt.datetime.now(dt.UTC)
    for month in (f"{now:%Y-%m}", "2099-01"):
        with refused("PT409", "not over"):
            service.rpc("archive_sessions", month=month)
    with refused("PT404", "no sessions"):
        service.rpc("restore_sessions", month="2020-01")


def test_a_month_in_use_is_not_archived(team: Team, january: Persona) -> None:
    before = whole(team.world)
    january.rpc("recall_knowledge", query_text="iterative scans")
    team.world.superuser("update public.session_knowledge_links set interaction_timestamp = now()")
    with refused("PT409", "1 sessions of 2026-01 were in use"):
        team.world.service().rpc("archive_sessions", month=MONTH)
    assert len(whole(team.world)["ai_sessions"]) == len(before["ai_sessions"])


def test_a_session_that_is_archived_while_it_is_resumed_is_begun_anew(team: Team, january: Persona) -> None:
    service, author = team.world.service(), team.author.inside(team.id)
    with ThreadPoolExecutor() as pool:
        with service.transaction() as cursor:
            call(cursor, "archive_sessions", month=MONTH)
            assert author.connection
            started = pool.submit(author.rpc, "start_session", session_identifier="january")
            team.world.wait_until_blocked(author)
        [begun] = started.result(10)
    assert (begun["session_id"] == january.session, begun["resumed"]) == (False, False)


def test_a_session_that_was_resumed_is_in_use(team: Team, january: Persona) -> None:
    # It has no end: whoever worked in it never said so.
    [resumed] = team.author.rpc("start_session", session_identifier="january")
    assert resumed["session_id"] == january.session
    with refused("PT409", "1 sessions of 2026-01 were in use"):
        team.world.service().rpc("archive_sessions", month=MONTH)


def test_an_older_export_brings_no_session_back_beside_the_archive(team: Team, january: Persona) -> None:
    _, lines = exported(team.owner)
    service = team.world.service().inside(team.id)
    service.rpc("archive_sessions", month=MONTH)
    [session] = [line for line in lines if json.loads(line)["id"] == str(january.session)]
    [row] = imported(service, [session])
    assert (row["outcome"], "archive" in row["reason"]) == ("skipped", True)
    service.rpc("restore_sessions", month=MONTH)
    assert team.world.superuser("select id from public.ai_sessions where id = %s", january.session)


def test_a_reference_that_could_not_be_given_back_stops_the_archive(team: Team, january: Persona) -> None:
    as_postgres(
        team.world,
        "create table public.diaries (id int primary key, "
        "session_id uuid references public.ai_sessions on delete cascade)",
    )
    before = whole(team.world)
    with refused("PT409", "diaries.session_id"):
        team.world.service().rpc("archive_sessions", month=MONTH)
    assert whole(team.world) == before
    assert january.sql("select 1 from public.ai_sessions")


# -- archive and restore ---------------------------------------------------------------------------------------


def seen(persona: Persona) -> dict[str, list[Row]]:
    """What somebody sees of knowledge, but for the session it came from."""
    found = {
        table: persona.sql(
            f"select to_jsonb(t) - %s::text[] as row from public.{table} t order by id", list(SESSION_COLUMNS)
        )
        for table in (
            "knowledge_items",
            "technical_gotchas",
            "command_patterns",
            "experiential_knowledge",
            "decision_evolution",
            "knowledge_relationships",
        )
    }
    found["search"] = [
        {"id": row["knowledge_id"]}
        for query in ("iterative_scan", "half vectors", "vacuum analyze", "index build memory")
        for row in persona.rpc("search_knowledge", query_text=query, max_results=1)
    ]
    found["gotchas"] = persona.rpc("find_gotchas", problem="index build runs out of memory")
    return found


def test_a_month_goes_and_comes_back_whole(team: Team, january: Persona) -> None:
    service = team.world.service()
    present = team.author.start_session("today")
    present.rpc("recall_knowledge", query_text="half vectors")
    before = whole(team.world)
    everybody = [team.owner, team.maintainer, team.author, team.colleague, team.reader, team.stranger]
    views = [seen(persona) for persona in everybody]
    keys = team.world.superuser(FOREIGN_KEYS)

    [dry] = service.rpc("archive_sessions", month=MONTH, dry_run=True)
    assert whole(team.world) == before, "a dry run changes nothing"
    mine = [row for row in before["links"] if row["session_id"] == str(january.session)]
    [done] = service.rpc("archive_sessions", month=MONTH)
    assert (dry["outcome"], done["outcome"]) == ("would be archived", "archived")
    assert (dry["sessions"], dry["links"], dry["references"]) == (1, len(mine), 6 + 3 + 1)
    assert {**dry, "outcome": "archived", "partition_dropped": True} == done

    assert team.world.superuser("select to_regclass('private.ai_sessions_202601') as name") == [
        {"name": None}
    ]
    after = whole(team.world)
    assert [row["session_identifier"] for row in after["ai_sessions"]] == ["today"]
    assert [row for row in after["links"] if row["session_id"] == str(january.session)] == []
    assert [row for row in before["links"] if row not in mine] == after["links"], "other sessions keep theirs"
    items = [row for row in after["items"] if row["created_by"] == str(january.session)]
    assert len(items) == 6, "an item still says where it came from"
    assert {row["created_in_session"] for row in items} == {None}
    assert [seen(persona) for persona in everybody] == views, "to nobody anything else is different"
    assert team.world.superuser(FOREIGN_KEYS) == keys
    with refused("PT403", "does not name a session of yours"):
        january.rpc("search_knowledge", query_text="half vectors")

    [restored] = service.rpc("restore_sessions", month=MONTH)
    assert (restored["outcome"], restored["sessions"], restored["links"]) == ("restored", 1, len(mine))
    assert whole(team.world) == before
    [where] = team.world.superuser(
        "select tableoid::regclass::text as name from public.ai_sessions where id = %s", january.session
    )
    assert where["name"] == "private.ai_sessions_202601"
    for table in ("archived_sessions", "archived_session_links", "archived_session_references"):
        assert service.sql(f"select * from private.{table}") == []
    assert january.rpc("search_knowledge", query_text="half vectors")


def test_erasure_reaches_the_archive_and_a_name_that_is_taken_stays_taken(
    team: Team, january: Persona
) -> None:
    service = team.world.service()
    item: uuid.UUID = january.value("select id from public.knowledge_items where title = 'Iterative scans'")
    secret = past_session(team, team.colleague, "colleagues")
    secret.record("Colleagues", "A colleague's item.")
    long_ago(team, secret)
    service.rpc("archive_sessions", month=MONTH)

    team.author.rpc("forget_knowledge", knowledge_id=item)
    assert service.sql("select * from private.archived_session_links where knowledge_id = %s", item) == []
    team.world.superuser("delete from auth.users where id = %s", team.colleague.id)
    [left] = service.sql("select owner_id, session from private.archived_sessions")
    assert left["owner_id"] == team.author.id
    again = team.author.start_session("january")
    assert again.session != january.session, "the name was free"

    service.rpc("restore_sessions", month=MONTH)
    [restored] = january.sql("select * from public.ai_sessions where id = %s", january.session)
    assert restored["session_identifier"].startswith("january (2026-01 ")
    assert (restored["knowledge_items_created"], restored["breakthrough_moments"]) == (5, 0)
    [counted] = january.sql(
        "select count(*) as links from public.session_knowledge_links "
        "where session_id = %s and interaction_type = 'created'",
        january.session,
    )
    assert counted["links"] == 5
    assert (
        team.author.inside(team.id).rpc("start_session", session_identifier="january")[0]["session_id"]
        == again.session
    )


# -- partitions ------------------------------------------------------------------------------------------------


def test_sessions_that_came_before_their_partition_move_into_it(team: Team) -> None:
    later = f"{dt.datetime.now(dt.UTC).year + 1}-12"
    author = past_session(team, team.author, "early", month=later)
    author.record("Kept", "Recorded before the partition was there.")
    lies = "select tableoid::regclass::text as name from public.ai_sessions"
    assert team.world.superuser(lies) == [{"name": "private.ai_sessions_default"}]
    before = whole(team.world)
    made = team.world.service().rpc("create_session_partitions", months_ahead=24)
    name = f"ai_sessions_{later.replace('-', '')}"
    assert name in [row["partition_name"] for row in made]
    assert team.world.superuser(lies) == [{"name": f"private.{name}"}]
    assert whole(team.world) == before
    assert team.world.service().rpc("create_session_partitions", months_ahead=24) == []


def test_maintenance_makes_what_is_missing_and_drops_what_is_empty(team: Team) -> None:
    as_postgres(
        team.world, "select private.make_session_partition(m) from unnest(array['2025-11', '2025-12']) m"
    )
    kept = past_session(team, team.author, "december", month="2025-12")
    partitions = (
        "select inhrelid::regclass::text as name from pg_inherits "
        "where inhparent = 'public.ai_sessions'::regclass order by 1"
    )
    last = [row["name"] for row in team.world.superuser(partitions)][-2]  # the very last is the default one
    as_postgres(team.world, f"alter table public.ai_sessions detach partition {last}")
    as_postgres(team.world, f"drop table {last}")
    answers = {row["task"]: row for row in team.world.service().rpc("run_maintenance")}
    assert {row["outcome"] for row in answers.values()} == {"done"}
    assert answers["session_partitions"]["detail"] == f"made {last.removeprefix('private.')}"
    assert answers["empty_partitions"]["detail"] == "dropped 2025-11"
    names = [row["name"] for row in team.world.superuser(partitions)]
    assert last in names
    assert "private.ai_sessions_202512" in names
    assert kept.sql("select 1 from public.ai_sessions")
    [run] = team.world.service().sql("select * from private.maintenance_runs where task = 'empty_partitions'")
    assert (run["outcome"], run["detail"]) == ("done", "dropped 2025-11")


def test_a_partition_that_somebody_reads_is_dropped_another_time(team: Team) -> None:
    as_postgres(team.world, "select private.make_session_partition('2025-11')")
    with team.author.transaction() as cursor:
        cursor.execute("select * from public.ai_sessions")
        answers = {row["task"]: row for row in team.world.service().rpc("run_maintenance")}
    assert answers["empty_partitions"] == {
        "task": "empty_partitions",
        "outcome": "done",
        "detail": "nothing to drop",
    }


# -- the run ---------------------------------------------------------------------------------------------------


def test_two_runs_at_once_are_one(world: World) -> None:
    with world.service().transaction() as cursor:
        cursor.execute("select * from public.run_maintenance()")
        assert [row["outcome"] for row in cursor.fetchall()] == ["done"] * 6
        [second] = world.service().rpc("run_maintenance")
    assert (second["task"], second["outcome"]) == ("all", "skipped")
    assert len(world.service().rpc("run_maintenance")) == 6


def test_a_task_that_fails_is_told_and_keeps_none_from_running(world: World) -> None:
    as_postgres(world, "alter function private.maintain_proposals() rename to somewhere_else")
    answers = {row["task"]: row for row in world.service().rpc("run_maintenance")}
    assert answers.pop("proposals")["outcome"] == "failed"
    assert {row["outcome"] for row in answers.values()} == {"done"}
    [run] = world.service().sql("select * from private.maintenance_runs where outcome = 'failed'")
    assert run["task"] == "proposals"
    assert "42883" in run["detail"]


def test_making_partitions_gives_way_and_says_so(world: World) -> None:
    """A reader of sessions who takes long keeps nobody else waiting for long."""
    partitions = (
        "select inhrelid::regclass::text as name from pg_inherits "
        "where inhparent = 'public.ai_sessions'::regclass order by 1"
    )
    last = world.superuser(partitions)[-2]["name"]
    as_postgres(world, f"alter table public.ai_sessions detach partition {last}")
    as_postgres(world, f"drop table {last}")
    ana = world.sign_up("ana")
    with ana.transaction() as cursor:
        cursor.execute("select * from public.ai_sessions")
        answers = {row["task"]: row for row in world.service().rpc("run_maintenance")}
    assert answers["session_partitions"]["outcome"] == "failed"
    assert "55P03" in answers["session_partitions"]["detail"]
    answers = {row["task"]: row for row in world.service().rpc("run_maintenance")}
    assert answers["session_partitions"]["detail"] == f"made {last.removeprefix('private.')}"


def test_proposals_nobody_decided_go_and_decisions_stay(team: Team) -> None:
    items = [team.author.record(f"Item {n}", f"Content {n}.") for n in range(5)]
    team.maintainer.rpc("validate_knowledge", knowledge_id=items[4], validation_status="deprecated")
    edges = [
        (0, 1, "proposed", 91),
        (0, 2, "proposed", 89),
        (0, 4, "proposed", 1),
        (1, 2, "accepted", 400),
        (1, 3, "rejected", 400),
    ]
    for source, target, status, age in edges:
        team.world.superuser(
            "insert into public.knowledge_relationships (source_knowledge_id, target_knowledge_id, relationship_type, "
            "status, owner_id, created_at) values (%s, %s, 'enhances', %s, %s, now() - make_interval(days => %s))",
            items[source],
            items[target],
            status,
            team.author.id,
            age,
        )
    answers = {row["task"]: row["detail"] for row in team.world.service().rpc("run_maintenance")}
    assert answers["proposals"] == "2 proposals removed"
    left = team.world.superuser("select status from public.knowledge_relationships order by status")
    assert [row["status"] for row in left] == ["accepted", "proposed", "rejected"]


def test_workspaces_that_have_shrunk_are_small_again(team: Team) -> None:
    team.world.superuser("insert into private.large_workspaces values (%s), (%s)", team.id, team.strangers_id)
    team.world.superuser("set session_replication_role = replica")
    team.world.superuser(
        "insert into private.search_documents "
        "select gen_random_uuid(), %s, null, null, true, true, 'simple', '{}', '', 0 from generate_series(1, 4001)",
        team.id,
    )
    team.world.superuser("reset session_replication_role")
    team.world.service().rpc("run_maintenance")
    assert team.world.superuser("select workspace_id from private.large_workspaces") == [
        {"workspace_id": team.id}
    ]


def test_pg_cron_gets_the_job_where_it_is(world: World) -> None:
    """With a stand-in of its interface: the extension itself is not among what the tests can install."""
    schedule = "select private.schedule_maintenance()"
    assert as_postgres(world, schedule) == [("pg_cron is not installed here: the worker runs maintenance",)]
    as_postgres(world, "create schema cron")
    as_postgres(world, "create table cron.job (jobname text primary key, schedule text, command text)")
    as_postgres(
        world,
        "create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql "
        "as 'insert into cron.job values ($1, $2, $3) on conflict (jobname) do update set schedule = $2, command = $3 "
        "returning 1'",
    )
    assert (
        as_postgres(world, schedule)
        == as_postgres(world, schedule)
        == [("pg_cron runs maintenance every hour",)]
    )
    [(name, when, command)] = as_postgres(world, "select * from cron.job")
    assert (name, when) == ("knowledge-persistence-maintenance", "17 * * * *")
    assert len(as_postgres(world, str(command))) == 6, "what it would run, as it would run it"


@pytest.mark.usefixtures("january")
def test_maintenance_keeps_nobody_from_sessions(team: Team) -> None:
    with psycopg.connect(team.world.dsn("postgres")) as connection:
        outcomes = connection.execute("select outcome from public.run_maintenance()").fetchall()
        assert set(outcomes) == {("done",)}
        locks = connection.execute(
            "select mode from pg_locks where pid = pg_backend_pid() and relation = 'public.ai_sessions'::regclass"
        ).fetchall()
    assert ("AccessExclusiveLock",) not in locks


@pytest.mark.usefixtures("january")
def test_what_was_meant_to_be_kept_comes_back_too(team: Team) -> None:
    """A text that looks like a credential, and was let in as it was meant."""
    world, key = team.world, "ghp_" + "a1B2c3D4e5F6" * 3
    mark = "update public.session_knowledge_links set learning_context = %s where interaction_type = 'breakthrough'"
    with refused("PT451"):
        world.superuser(mark, key)
    with psycopg.connect(world.dsn("postgres")) as connection:
        connection.execute("select set_config('app.allow_credentials', 'on', true)")
        connection.execute(mark.encode(), (key,))
    service = world.service()
    service.rpc("archive_sessions", month=MONTH)
    [row] = service.rpc("restore_sessions", month=MONTH)
    assert row["outcome"] == "restored"
    [kept] = world.superuser(
        "select learning_context from public.session_knowledge_links where interaction_type = 'breakthrough'"
    )
    assert kept["learning_context"] == key
