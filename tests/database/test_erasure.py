"""Erasure: of an item, a workspace, an account. What is gone is gone from every column of every table."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.rows import dict_row

from teams import NOBODY, Team
from world import refused

if TYPE_CHECKING:
    from world import Persona, World

# A number that no other vector has; at half precision it begins alike.
COORDINATE = 0.12345


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def traces(world: World, *markers: str) -> set[str]:
    """Name every column, of whatever type, of every table of this project that holds one of the markers."""
    columns = world.superuser(
        "select c.oid::regclass::text as name, quote_ident(a.attname) as field,"
        " split_part(a.atttypid::regtype::text, '.', -1) as type"
        " from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
        " where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p')"
        " and not c.relispartition"
    )
    assert {"tsvector", "text", "jsonb", "text[]", "uuid", "uuid[]", "vector"} <= {
        row["type"] for row in columns
    }
    found = world.superuser(
        " union all ".join(
            f"select '{row['name']}.{row['field']}' as place where exists (select 1 from {row['name']}"
            f" where {row['field']}::text ilike any (%s::text[]))"
            for row in columns
        ),
        *([[f"%{marker}%" for marker in markers]] * len(columns)),
    )
    return {row["place"] for row in found}


def deposit(person: Persona, word: str) -> list[uuid.UUID]:
    """Let somebody leave a word behind in everything that there is, and return the items."""
    me = person.start_session(f"about {word}")
    vector = [COORDINATE] * 384
    items = [
        me.record(
            f"The {word} incident", f"The passphrase was {word}.", retrieval_triggers=[word], category=word,
            subcategory=word, context_data={"where": word}, project_context=word, content_embedding=vector,
        ),
        me.record(f"the {word} incident", f"the passphrase was {word}!", project_context=word),
        me.rpc("record_gotcha", problem_description=f"{word} refused", attempted_solution=f"restart {word}",
               attempt_outcome="worked", problem_context={"at": word}, prevention_guidance=word)[0]["knowledge_id"],
        me.rpc("record_command_run", command=f"restart {word}", succeeded=False,
               failure_output=word)[0]["knowledge_id"],
        me.rpc("record_interaction_pattern", pattern_name=word, situation_type=word,
               example={"said": word})[0]["knowledge_id"],
        me.rpc("record_insight", insight_title=word, insight_description=f"{word} is far",
               content_embedding=vector)[0]["knowledge_id"],
        me.rpc("record_decision_stage", decision_topic=word, understanding=f"{word} it is",
               breakthrough=word)[0]["knowledge_id"],
    ]  # fmt: skip
    me.rpc("relate_knowledge", source_knowledge_id=items[0], target_knowledge_id=items[2],
           relationship_type="enhances", relationship_context=word)  # fmt: skip
    me.rpc("rate_knowledge", knowledge_id=items[0], effectiveness_rating=9, notes=f"{word} helped")
    me.rpc("recall_knowledge", query_text=word)
    me.rpc("discover_duplicates")
    me.rpc("discover_relationships")
    return items


# -- an item ---------------------------------------------------------------------------------------------------


def test_what_is_forgotten_is_in_no_column_of_no_table(team: Team) -> None:
    world, author, maintainer = team.world, team.author, team.maintainer
    neighbour = author.record("Before", "We looked at the logs.")
    items = deposit(author, "zanzibar")
    for item in (neighbour, *items):
        maintainer.rpc(
            "validate_knowledge", knowledge_id=item, note="about zanzibar" if item != neighbour else None
        )
    test = author.value(
        "insert into public.knowledge_validation_tests (test_name, test_scenario, expected_knowledge_ids)"
        " values ('t', 'What happened?', %s) returning id",
        items,
    )
    author.rpc("run_retrieval_test", test_id=test)
    author.rpc("record_validation_result", test_id=test, pass_status=True, ai_response="It was zanzibar.",
               evaluator_notes="zanzibar indeed", improvement_needed="less zanzibar")  # fmt: skip
    maintainer.rpc("merge_knowledge", keep_id=items[0], duplicate_id=items[1])
    maintainer.rpc("supersede_knowledge", knowledge_id=items[3], replacement_id=items[4])
    team.colleague.start_session("r").rpc("recall_knowledge", query_text="zanzibar")
    world.superuser(
        "update private.embedding_jobs set last_error = 'zanzibar' where knowledge_id = any(%s)", items
    )
    before = traces(world, "zanzibar", "0.1234")
    assert {
        "knowledge_items.content",
        "private.search_documents.document",
        "private.embedding_jobs.last_error",
        "session_knowledge_links.notes",
        "knowledge_relationships.relationship_context",
        "knowledge_status_history.note",
        "technical_gotchas.attempted_solutions",
        "command_patterns.failure_patterns",
        "interaction_patterns.examples",
        "experiential_knowledge.insight_embedding",
        "decision_evolution.evolution_stages",
        "validation_test_results.ai_response",
    } <= before

    for item in items:
        maintainer.rpc("forget_knowledge", knowledge_id=item)
    # The session's own name and project are the author's to change, and say nothing of an item.
    assert traces(world, "zanzibar", "0.1234") <= {
        "ai_sessions.session_identifier",
        "private.session_keys.session_identifier",
    }
    # The event that it is gone names it, so that whoever has a copy can let it go.
    assert traces(world, *map(str, items)) <= {"knowledge_events.subject_id", "knowledge_events.knowledge_id"}
    assert author.sees(neighbour)
    counts = author.sql(
        "select knowledge_items_created, knowledge_items_accessed, breakthrough_moments from public.ai_sessions"
    )
    assert [tuple(row.values()) for row in counts] == [(0, 0, 0)]


def test_trying_it_out_erases_nothing(team: Team) -> None:
    item = team.author.record("zanzibar")
    for persona in (team.colleague, team.stranger):
        with refused("PT404"):
            persona.rpc("forget_knowledge", knowledge_id=item, dry_run=True)
    [going] = team.author.rpc("forget_knowledge", knowledge_id=item, dry_run=True)
    assert going["knowledge_id"] == item
    assert team.author.sees(item)
    assert team.author.rpc("forget_knowledge", knowledge_id=item) == [going]


# -- a workspace -----------------------------------------------------------------------------------------------


def test_a_deleted_workspace_is_in_no_column_of_no_table(team: Team) -> None:
    world = team.world
    for persona in (team.maintainer, team.author, team.colleague, team.reader):
        with refused("PT403"):
            persona.rpc("delete_workspace", workspace_id=team.id)
    for workspace in (team.id, NOBODY):
        with refused("PT404"):
            team.stranger.rpc("delete_workspace", workspace_id=workspace)
    items = deposit(team.author, "zanzibar")
    team.maintainer.rpc("validate_knowledge", knowledge_id=items[0], note="zanzibar")
    theirs = deposit(team.stranger, "elsewhere")
    kept = traces(world, "elsewhere")
    team.owner.rpc("delete_workspace", workspace_id=team.id)
    assert traces(world, "zanzibar") == set()
    assert traces(world, *map(str, items), str(team.id)) == set()
    assert traces(world, "elsewhere") == kept
    assert all(team.stranger.sees(item) for item in theirs)


# -- an account ------------------------------------------------------------------------------------------------


def delete_account(world: World, person: Persona) -> None:
    world.superuser("delete from auth.users where id = %s", person.id)


def test_a_deleted_account_takes_its_own_along_and_leaves_the_workspace_its_knowledge(team: Team) -> None:
    world = team.world
    private = team.author.inside(None)
    deposit(private, "zanzibar")
    shared, *_ = deposit(team.author, "harbour")
    team.maintainer.rpc("validate_knowledge", knowledge_id=shared)
    working = team.author.start_session("pemba")
    working.rpc("end_session", summary="pemba went well", user_feedback="pemba")
    [session] = team.author.sql("select id from public.ai_sessions where session_identifier = 'pemba'")
    team.reader.rpc("rate_knowledge", knowledge_id=shared, effectiveness_rating=7)
    rated = team.reader.value("select rating_count from public.knowledge_items where id = %s", shared)
    delete_account(world, team.author)
    assert traces(world, "zanzibar", "pemba") == set()
    assert traces(world, str(session["id"])) <= {"knowledge_events.subject_id", "knowledge_events.session_id"}
    assert traces(world, str(team.author.id)) == set()
    [row] = team.reader.sql("select * from public.knowledge_items where id = %s", shared)
    assert (row["owner_id"], row["created_by"], row["created_in_session"]) == (None, None, None)
    assert row["rating_count"] == rated, "what somebody found of it stays counted"
    assert [row["knowledge_id"] for row in team.reader.rpc("search_knowledge", query_text="harbour")] == [
        shared
    ]
    # What nobody has validated is the maintainers' to decide about.
    waiting = team.maintainer.rpc("knowledge_audit", checks=["unvalidated"])
    assert waiting
    assert {row["reason"] for row in waiting} == {"pending, and its author's account is gone"}
    team.maintainer.rpc("forget_knowledge", knowledge_id=shared)


def members(world: World, workspace: uuid.UUID) -> dict[uuid.UUID, str]:
    rows = world.superuser(
        "select user_id, role from public.workspace_members where workspace_id = %s", workspace
    )
    return {row["user_id"]: row["role"] for row in rows}


def test_the_highest_role_inherits_and_of_several_the_oldest_member(team: Team) -> None:
    world = team.world
    world.superuser(
        "update public.workspace_members set created_at = '2020-01-01' where user_id = any(%s)",
        [team.colleague.id, team.reader.id],
    )
    heirs = [team.maintainer, team.colleague, team.author, team.reader]
    leaving = team.owner
    for heir in heirs:
        delete_account(world, leaving)
        assert members(world, team.id)[heir.id] == "owner"
        assert list(members(world, team.id).values()).count("owner") == 1
        leaving = heir
    item = team.reader.record("still here")
    assert team.reader.sees(item)
    delete_account(world, team.reader)
    assert world.superuser("select 1 from public.workspaces where id = %s", team.id) == []
    assert traces(world, "still here", str(team.id)) == set()


def test_with_another_owner_left_nobody_is_raised(team: Team) -> None:
    team.owner.rpc("set_workspace_member_role", workspace_id=team.id, user_id=team.author.id, role="owner")
    delete_account(team.world, team.owner)
    assert members(team.world, team.id)[team.maintainer.id] == "maintainer"


def test_two_owners_who_go_at_once_leave_an_heir(team: Team) -> None:
    world = team.world
    team.owner.rpc("set_workspace_member_role", workspace_id=team.id, user_id=team.author.id, role="owner")
    delete = "delete from auth.users where id = %s"
    going = world.as_user(NOBODY, name="going")
    with ThreadPoolExecutor() as pool, psycopg.connect(world.dsn("supabase_admin")) as first:
        first.execute(delete, [team.owner.id])
        with psycopg.connect(world.dsn("supabase_admin"), row_factory=dict_row) as second:
            deleting = pool.submit(second.execute, delete, [team.author.id])
            world.wait_until_blocked(replace(going, _connection=second))
            first.commit()
            deleting.result(10)
    assert members(world, team.id)[team.maintainer.id] == "owner"


def test_an_operator_moves_members_without_losing_the_workspace(world: World) -> None:
    ana = world.sign_up("ana")
    workspace = world.workspace("alone", owner=ana)
    item = ana.inside(workspace).record("kept")
    service = world.service()
    with refused("PT409", "needs an owner"):
        service.sql("update public.workspace_members set role = 'reader' where workspace_id = %s", workspace)
    service.sql("delete from public.workspace_members where workspace_id = %s", workspace)
    assert world.superuser("select 1 from public.knowledge_items where id = %s", item)
    service.sql(
        "insert into public.workspace_members (workspace_id, user_id, role) values (%s, %s, 'owner')",
        workspace,
        ana.id,
    )
    assert ana.inside(workspace).sees(item)
