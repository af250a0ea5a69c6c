"""Who may see and change what, by table and by function: forbidden acts first."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from teams import NOBODY, Team
from world import call, refused, vector

if TYPE_CHECKING:
    from world import Persona, World


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


# -- what must fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        "knowledge_items",
        "ai_sessions",
        "session_knowledge_links",
        "workspaces",
        "workspace_members",
        "embedding_models",
    ],
)
def test_anon_reads_nothing(team: Team, table: str) -> None:
    team.author.record("A fact")
    with refused("42501"):
        team.world.anon().sql(f"select * from public.{table}")


def test_anon_calls_nothing(team: Team) -> None:
    callable_by_anon = team.world.superuser(
        "select p.oid::regprocedure from pg_proc p where pronamespace in ('public'::regnamespace,"
        " 'private'::regnamespace) and has_function_privilege('anon', p.oid, 'execute')"
    )
    assert callable_by_anon == []


def test_pending_items_are_hidden_from_colleagues_and_strangers(team: Team) -> None:
    item = team.author.record("Gateway timeouts", "Raise the gateway timeout to 60 seconds.")
    for persona in (team.colleague, team.reader, team.stranger, team.world.as_user(uuid.uuid4())):
        assert not persona.sees(item), persona.name
        assert persona.rpc("search_knowledge", query_text="gateway timeouts") == []
        assert persona.rpc("get_contextual_knowledge", current_situation="gateway timeouts") == []
        with refused("PT404"):
            persona.rpc("rate_knowledge", knowledge_id=item, effectiveness_rating=5)
        with refused("PT404"):
            persona.rpc("validate_knowledge", knowledge_id=item)
    for persona in (team.author, team.maintainer, team.owner):
        assert persona.sees(item), persona.name
        assert persona.rpc("search_knowledge", query_text="gateway timeouts"), persona.name


def test_a_session_shows_its_items_only_to_its_owner(team: Team) -> None:
    author = team.author.start_session("night shift")
    item = author.record("A finding")
    assert author.sees(item)
    with refused("PT403"):
        team.colleague.inside(team.id, author.session).sees(item)


@pytest.mark.parametrize("which", ["foreign", "nonexistent"])
def test_forged_context_fails_every_door_alike(team: Team, which: str) -> None:
    team.stranger.record("What the stranger would see, were the context merely ignored")
    team.stranger.start_session("the stranger's")
    session = team.author.start_session("mine").session if which == "foreign" else NOBODY
    workspace = team.id if which == "foreign" else NOBODY
    for forged in (team.stranger.inside(None, session), team.stranger.inside(workspace, None)):
        for act in (
            lambda p: p.sql("select * from public.knowledge_items"),
            lambda p: p.sql("select * from public.ai_sessions"),
            lambda p: p.rpc("search_knowledge", query_text="x"),
            lambda p: p.rpc("recall_knowledge", query_text="x"),
            lambda p: p.rpc("record_knowledge", title="x", content="x"),
            lambda p: p.rpc("start_session"),
        ):
            with refused("PT403"):
                act(forged)


@pytest.mark.parametrize("value", ["not-a-uuid", "1", "' or true --"])
def test_a_context_that_is_no_uuid_is_an_error(team: Team, value: str) -> None:
    team.author.record("Something to see")
    for forged in (team.author.inside(value), team.author.inside(None, value)):
        with refused("PT400"):
            forged.sql("select * from public.knowledge_items")


def test_a_session_of_another_workspace_is_refused(team: Team) -> None:
    session = team.owner.start_session("here").session
    other = team.world.workspace("other", owner=team.owner.inside(None))
    team.owner.inside(other).record("Something to see")
    with refused("PT403", "another workspace"):
        team.owner.inside(other, session).sql("select 1 from public.knowledge_items")


def test_direct_inserts_cannot_forge(team: Team) -> None:
    mine = "insert into public.knowledge_items (title, content, {column}) values ('t', 'c', %s)"
    foreign_session = team.colleague.start_session("hers").session
    for column, value, sqlstate in (
        ("owner_id", team.colleague.id, "42501"),
        ("workspace_id", team.strangers_id, "42501"),
        ("workspace_id", NOBODY, "42501"),
        ("validation_status", "validated", "PT403"),
        ("created_in_session", foreign_session, "PT403"),
        ("created_in_session", NOBODY, "PT403"),
        ("access_count", 9, "42501"),
        ("rating_sum", 9, "42501"),
        ("success_count", 9, "42501"),
        ("created_at", "2020-01-01", "42501"),
        ("created_by", "somebody", "42501"),
        ("content_hash", "00", "42501"),
        ("superseded_by", NOBODY, "42501"),
        ("validated_by", team.owner.id, "42501"),
        ("id", NOBODY, "42501"),
        ("embedding_model", "no such model", None),
    ):
        query = mine.format(column=column)
        if sqlstate is None:
            team.author.sql(query, value)  # a model without a vector says nothing: it is not kept
            assert (
                team.author.sql("select 1 from public.knowledge_items where embedding_model is not null")
                == []
            )
            continue
        with refused(sqlstate):
            team.author.sql(query, value)


def test_direct_updates_cannot_break_a_rule(team: Team) -> None:
    item = team.author.record("Mine")
    hers = team.colleague.record("Hers, shared")
    team.maintainer.rpc("validate_knowledge", knowledge_id=hers)
    for column, value, sqlstate in (
        ("owner_id", team.colleague.id, "42501"),
        ("workspace_id", team.strangers_id, "42501"),
        ("access_count", 9, "42501"),
        ("validation_status", "validated", "PT403"),
        ("superseded_by", hers, "42501"),
        ("created_in_session", NOBODY, "42501"),
    ):
        with refused(sqlstate):
            team.author.sql(f"update public.knowledge_items set {column} = %s where id = %s", value, item)
    changed = team.author.sql(
        "update public.knowledge_items set content = 'mine now' where id = %s returning id", hers
    )
    assert changed == [], "a colleague's validated item is read, not edited"
    with refused("42501"):
        team.author.sql("delete from public.knowledge_items where id = %s", item)


def test_readers_record_nothing(team: Team) -> None:
    with refused("42501"):
        team.reader.rpc("record_knowledge", title="t", content="c")
    assert team.reader.start_session("reading").session


def test_membership_is_managed_by_owners_only(team: Team) -> None:
    for persona in (team.maintainer, team.author, team.reader):
        with refused("PT403"):
            persona.rpc("add_workspace_member", workspace_id=team.id, user_id=team.stranger.id)
        with refused("PT403"):
            persona.rpc("set_workspace_member_role", workspace_id=team.id, user_id=persona.id, role="owner")
        with refused("PT403"):
            persona.rpc("delete_workspace", workspace_id=team.id)
    for workspace in (team.id, NOBODY):
        with refused("PT404", "no such workspace"):
            team.stranger.rpc("add_workspace_member", workspace_id=workspace, user_id=team.stranger.id)
        with refused("PT404", "no such workspace"):
            team.stranger.rpc("delete_workspace", workspace_id=workspace)
    with refused("PT409", "needs an owner"):
        team.owner.rpc("remove_workspace_member", workspace_id=team.id, user_id=team.owner.id)
    with refused("PT409", "needs an owner"):
        team.owner.rpc(
            "set_workspace_member_role", workspace_id=team.id, user_id=team.owner.id, role="reader"
        )
    for table in ("workspaces", "workspace_members"):
        with refused("42501"):
            team.owner.sql(f"delete from public.{table} where true")


def test_strangers_see_no_workspace_member_or_session(team: Team) -> None:
    team.author.start_session("work").record("Something")
    assert team.stranger.value("select count(*) from public.workspaces where id = %s", team.id) == 0
    assert (
        team.stranger.value("select count(*) from public.workspace_members where workspace_id = %s", team.id)
        == 0
    )
    assert team.stranger.value("select count(*) from public.ai_sessions") == 0
    assert team.stranger.value("select count(*) from public.session_knowledge_links") == 0
    assert team.colleague.value("select count(*) from public.ai_sessions") == 0
    assert team.maintainer.value("select count(*) from public.ai_sessions") == 1


def test_a_removed_member_sees_nothing_more(team: Team) -> None:
    item = team.author.record("Shared")
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    assert team.colleague.sees(item)
    team.owner.rpc("remove_workspace_member", workspace_id=team.id, user_id=team.colleague.id)
    assert not team.colleague.inside(None).sees(item)
    with refused("PT403"):
        team.colleague.sees(item)


def test_the_workers_functions_are_the_services_alone(team: Team) -> None:
    for asked in (
        {"function": "claim_embedding_jobs"},
        {"function": "store_embeddings", "embeddings": [{"knowledge_id": str(NOBODY)}]},
        {"function": "register_embedding_model", "name": "m", "dimensions": 3},
        {"function": "create_session_partitions"},
    ):
        arguments = dict(asked)
        with refused("42501"):
            team.owner.rpc(str(arguments.pop("function")), **arguments)


def test_identity_does_not_leak_through_duplicates(team: Team) -> None:
    secret = team.author.record("The secret title", "The secret content")
    [hers] = team.colleague.rpc("record_knowledge", title="The secret title", content="The secret content")
    assert hers["outcome"] == "created", "a colleague can't learn that the text is there already"
    assert hers["knowledge_id"] != secret


def test_a_session_identifier_is_the_owners_own(team: Team) -> None:
    first = team.author.start_session("monday").session
    second = team.colleague.start_session("monday").session
    assert first != second


# -- what must work --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("delete_workspace", {}),
        ("add_workspace_member", {"user_id": "stranger", "role": "owner"}),
        ("set_workspace_member_role", {"user_id": "maintainer", "role": "owner"}),
    ],
)
def test_an_owner_who_is_removed_while_waiting_owns_nothing(
    team: Team, function: str, arguments: dict[str, str]
) -> None:
    team.owner.rpc(
        "set_workspace_member_role", workspace_id=team.id, user_id=team.maintainer.id, role="owner"
    )
    given = {
        name: getattr(team, value).id if name == "user_id" else value for name, value in arguments.items()
    }
    with ThreadPoolExecutor() as pool:
        with team.owner.transaction() as cursor:
            call(cursor, "remove_workspace_member", workspace_id=team.id, user_id=team.maintainer.id)
            removed = team.maintainer.inside()
            assert removed.connection
            asked = pool.submit(removed.rpc, function, workspace_id=team.id, **given)
            team.world.wait_until_blocked(removed)
        with refused("PT404", "no such workspace"):
            asked.result(10)


def test_validation_shows_an_item_to_the_workspace_and_nobody_else(team: Team) -> None:
    item = team.author.record("Shared", "Everybody should know this.")
    [done] = team.maintainer.rpc("validate_knowledge", knowledge_id=item, note="checked")
    assert done["validation_status"] == "validated"
    for persona in (team.colleague, team.reader, team.owner):
        assert persona.sees(item), persona.name
        assert persona.rpc("search_knowledge", query_text="everybody should know")
    assert not team.stranger.sees(item)


def test_nothing_is_decided_on_a_text_that_was_not_read(team: Team) -> None:
    item = team.author.record("Shared", "As it was read.")
    read = team.maintainer.value("select updated_at from public.knowledge_items where id = %s", item)
    team.author.rpc("edit_knowledge", knowledge_id=item, changes={"content": "As it is now."})
    with refused("PT409", "changed since"):
        team.maintainer.rpc("validate_knowledge", knowledge_id=item, unchanged_since=read)
    assert not team.colleague.sees(item)
    read = team.maintainer.value("select updated_at from public.knowledge_items where id = %s", item)
    team.maintainer.rpc("validate_knowledge", knowledge_id=item, unchanged_since=read)
    assert team.colleague.sees(item)


def test_an_edit_by_the_author_makes_a_validated_item_pending_again(team: Team) -> None:
    item = team.author.record("Shared", "True.")
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    team.author.sql("update public.knowledge_items set content = 'Changed.' where id = %s", item)
    assert not team.colleague.sees(item)
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    team.maintainer.sql("update public.knowledge_items set content = 'Corrected.' where id = %s", item)
    assert team.colleague.sees(item), "a maintainer's edit stays validated"


def test_a_deprecated_item_stays_readable_and_is_not_retrieved(team: Team) -> None:
    item = team.author.record("Old way", "Use the old gateway.")
    rejected = team.author.record("Never shown", "Use nothing.")
    for known in (item,):
        team.maintainer.rpc("validate_knowledge", knowledge_id=known)
    for known in (item, rejected):
        team.maintainer.rpc(
            "validate_knowledge", knowledge_id=known, validation_status="deprecated", note="gone"
        )
    assert team.colleague.sees(item)
    assert not team.colleague.sees(rejected), "what was never validated is not shown by deprecating it"
    assert team.colleague.rpc("search_knowledge", query_text="old gateway") == []
    [found] = team.colleague.rpc(
        "search_knowledge", query_text="old gateway", validation_statuses=["deprecated"]
    )
    assert found["knowledge_id"] == item


def test_validation_merges_twins(team: Team) -> None:
    mine = team.author.record("Same", "The same text.")
    hers = team.colleague.record("Same", "The  same text.")
    assert mine != hers
    [done] = team.maintainer.rpc("validate_knowledge", knowledge_id=mine)
    assert done["merged_ids"] == [hers]
    found = team.colleague.rpc("search_knowledge", query_text="same text")
    assert [row["knowledge_id"] for row in found] == [mine]
    [again] = team.colleague.rpc("record_knowledge", title="Same", content="The same text.")
    assert (again["outcome"], again["knowledge_id"]) == ("duplicate", mine)


def test_hidden_words_of_a_neighbour_do_not_find_an_item(team: Team) -> None:
    author = team.author.start_session("mixed")
    shared = author.record("Public step", "We restarted the gateway.")
    author.record("Private step", "The passphrase was zanzibar.")
    assert [r["knowledge_id"] for r in author.rpc("search_knowledge", query_text="zanzibar")].count(
        shared
    ) == 1
    team.maintainer.rpc("validate_knowledge", knowledge_id=shared)
    assert team.colleague.rpc("search_knowledge", query_text="gateway")
    assert team.colleague.rpc("search_knowledge", query_text="zanzibar") == []
    assert (
        team.colleague.value(
            "select count(*) from private.keyword_candidates(%s, 'zanzibar', true, 100)", team.id
        )
        == 0
    )


def test_definer_helpers_refuse_another_workspace(team: Team) -> None:
    item = team.author.record("Shared", "Everybody should know this.", retrieval_triggers=["know"])
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    for helper in ("keyword_candidates", "trigger_candidates"):
        query = f"select count(*) from private.{helper}(%s, 'everybody should know', true, 100)"
        assert team.colleague.value(query, team.id) == 1
        assert team.stranger.value(query, team.id) == 0


def test_the_policies_hold_for_vectors_too(team: Team) -> None:
    axis = [1.0] + [0.0] * 383
    item = team.author.record("Vector", "With a vector", content_embedding=vector(axis))
    assert team.author.rpc("find_similar_knowledge", query_embedding=axis)[0]["id"] == item
    for persona in (team.colleague, team.stranger):
        assert persona.rpc("find_similar_knowledge", query_embedding=axis) == []


def test_deleting_a_user_keeps_what_the_workspace_validated(team: Team) -> None:
    item = team.author.record("Shared", "Everybody should know this.")
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    team.world.superuser("delete from auth.users where id = %s", team.author.id)
    assert team.colleague.sees(item)


def test_everybody_has_one_personal_workspace(world: World) -> None:
    ana: Persona = world.sign_up("ana")
    assert ana.rpc("my_workspaces") == []
    ana.record("First")
    ana.record("Second")
    [workspace] = ana.rpc("my_workspaces")
    assert workspace["is_personal"]
    assert workspace["role"] == "owner"
    with refused("PT409", "personal"):
        ana.rpc("delete_workspace", workspace_id=workspace["workspace_id"])
    with refused("PT409", "needs an owner"):
        ana.rpc("remove_workspace_member", workspace_id=workspace["workspace_id"], user_id=ana.id)
