"""What somebody with a connection of their own might try: helpers called directly, side doors, side channels.

Everybody here is signed in and talks SQL, which is more than the Data API allows. Forbidden acts only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from teams import NOBODY, Team
from world import refused, vector

if TYPE_CHECKING:
    from world import Persona, World

ALL_STATUSES = ["pending", "validated", "needs_update", "deprecated"]
COUNTERS = (
    "select access_count, last_accessed, rating_sum, rating_count, success_count, failure_count"
    " from public.knowledge_items where id = %s"
)


RELATE = "knowledge_relationships (source_knowledge_id, target_knowledge_id, relationship_type) values "
MISTAKES = {"42601", "42703", "42725", "42804", "42883", "42P18", "54000"}  # of whoever wrote the call
# What the generic attacks pass for arguments that are no ids.
PLAUSIBLE = {
    "text": "'validated'",
    "boolean": "true",
    "integer": "1",
    "bigint": "1",
    "double precision": "0.5",
    "jsonb": "'[]'",
    "text[]": "'{owner}'",
    "timestamp with time zone": "now()",
    "interval": "'1 day'",
    "extensions.vector": f"'{vector([1.0] + [0.0] * 383)}'",
}


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def share(team: Team, item: uuid.UUID) -> None:
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)


def hide(team: Team, item: uuid.UUID) -> None:
    team.maintainer.rpc("validate_knowledge", knowledge_id=item, validation_status="pending")


def words_find(team: Team, persona: Persona, words: str) -> list[uuid.UUID]:
    found = persona.sql("select * from private.keyword_candidates(%s, %s, true, 100)", team.id, words)
    searched = persona.rpc("search_knowledge", query_text=words, validation_statuses=ALL_STATUSES)
    return [row["knowledge_id"] for row in found + searched]


# -- items that the caller may not see -------------------------------------------------------------------------


def test_a_hidden_item_is_not_counted_on_by_whoever_knows_its_id(team: Team) -> None:
    item = team.author.record("Hidden")
    before = team.world.superuser(COUNTERS, item)
    for persona in (team.colleague, team.stranger):
        inside = persona.start_session("feeling for it")
        for name in (item, NOBODY):
            inside.sql("select private.log_access(array[%s]::uuid[])", name)  # both do nothing, alike
            with refused("PT404", "no such knowledge item"):
                inside.sql("select private.add_rating(%s, 1, false, 'x')", name)
        [session] = inside.sql("select knowledge_items_accessed as n from public.ai_sessions")
        assert session["n"] == 0, persona.name
    assert team.world.superuser(COUNTERS, item) == before
    assert team.world.superuser("select 1 from public.session_knowledge_links") == []


def test_no_helper_tells_anything_of_a_foreign_workspace(team: Team) -> None:
    team.world.superuser(
        "update public.workspaces set embedding_model = 'text-embedding-3-small' where id = %s", team.id
    )
    team.world.superuser("insert into private.large_workspaces values (%s)", team.id)
    axis = vector([1.0] + [0.0] * 383)
    columns = "workspace_id, title, content, content_embedding"
    insert = f"insert into public.knowledge_items ({columns}) values (%s, 't', 'c', %s)"
    for query, parameters in (
        ("select private.model_of_workspace(%s) as answer", ()),
        ("select private.vector_scope(%s, null, %s)::text as answer", (axis,)),
        (insert, (axis,)),
    ):
        answers = [_answer(team.stranger, query, name, *parameters) for name in (team.id, NOBODY)]
        assert answers[0] == answers[1], query
    assert team.colleague.value("select private.model_of_workspace(%s)", team.id) == "text-embedding-3-small"


def test_what_is_hidden_does_not_move_the_scores(team: Team) -> None:
    share(team, team.author.record("Gateway", "The gateway restarts after a deploy."))
    share(team, team.author.record("Proxy", "The proxy caches."))
    query = "select keyword_score from private.keyword_candidates(%s, 'gateway restarts', false, 100)"
    before = team.colleague.sql(query, team.id)
    assert len(before) == 1
    for number in range(5):
        team.author.record(f"Hidden {number}", "Much longer than what everybody may see. " * 10)
    assert team.colleague.sql(query, team.id) == before


# -- words of what has been hidden again -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "importance_score = 77",
        "knowledge_type = 'procedural'",
        "context_data = '{}'",
        "valid_to = 'infinity'",
    ],
)
def test_an_item_that_its_author_edited_is_not_found_by_its_words(team: Team, change: str) -> None:
    author = team.author.start_session("edits")
    beside = author.record("Beside", "We restarted the gateway.")
    item = author.record("Trusted", "The passphrase was zanzibar.")
    for shared in (beside, item):
        share(team, shared)
    assert set(words_find(team, team.colleague, "zanzibar")) == {beside, item}
    author.sql(f"update public.knowledge_items set {change} where id = %s", item)
    assert not team.colleague.sees(item)
    assert words_find(team, team.colleague, "zanzibar") == []


def test_words_of_a_distant_neighbour_go_when_it_is_hidden_again(team: Team) -> None:
    author = team.author.start_session("long")
    first = author.record("First", "We restarted the gateway.")
    for number in range(3):
        author.record(f"Hidden {number}")
    last = author.record("Last", "The passphrase was zanzibar.")
    for shared in (last, first):
        share(team, shared)
    hide(team, last)
    assert words_find(team, team.colleague, "zanzibar") == []


def test_words_go_when_a_neighbour_between_is_hidden_too(team: Team) -> None:
    author = team.author.start_session("long")
    items = [author.record(f"Item {number}", f"word{number} and more") for number in range(6)]
    for shared in (items[5], items[0], items[2], items[4]):
        share(team, shared)
    assert items[0] in words_find(team, team.colleague, "word4"), "one other lies between"
    for hidden in (items[2], items[4]):
        hide(team, hidden)
    assert items[0] in words_find(team, team.colleague, "word5"), "it is the nearest now"
    for hidden in ("word1", "word2", "word3", "word4"):
        assert words_find(team, team.colleague, hidden) == []


def test_words_of_a_neighbour_go_after_the_session_is_gone(team: Team) -> None:
    author = team.author.start_session("short")
    first = author.record("First", "We restarted the gateway.")
    last = author.record("Last", "The passphrase was zanzibar.")
    for shared in (first, last):
        share(team, shared)
    team.world.superuser("delete from public.ai_sessions where id = %s", author.session)
    hide(team, last)
    assert words_find(team, team.colleague, "zanzibar") == []


# -- status, notes, vectors, sessions --------------------------------------------------------------------------


def test_an_author_does_not_speak_for_the_maintainer(team: Team) -> None:
    item = team.author.record("Checked")
    team.maintainer.rpc("validate_knowledge", knowledge_id=item, note="tried it on two machines")
    with refused("PT403"):
        team.author.sql(
            "update public.knowledge_items set validation_note = 'approved for production' where id = %s",
            item,
        )


def test_a_vector_of_the_authors_choice_is_not_trusted(team: Team) -> None:
    axis = vector([1.0] + [0.0] * 383)
    other = vector([0.0, 1.0] + [0.0] * 382)
    item = team.author.record("Trusted", content_embedding=axis)
    share(team, item)
    team.author.sql("update public.knowledge_items set content_embedding = %s where id = %s", axis, item)
    assert team.colleague.sees(item), "the same vector again changes nothing"
    with refused("PT403", "vector"):
        team.author.sql("update public.knowledge_items set content_embedding = %s where id = %s", other, item)
    with refused("PT403", "vector"):
        team.author.sql("update public.knowledge_items set embedding_model = 'm' where id = %s", item)


def test_a_deprecated_item_is_no_billboard(team: Team) -> None:
    item = team.author.record("Trusted", "Use the old gateway.")
    share(team, item)
    team.maintainer.rpc("validate_knowledge", knowledge_id=item, validation_status="deprecated")
    assert team.colleague.sees(item)
    team.author.sql("update public.knowledge_items set content = 'Call zanzibar.' where id = %s", item)
    assert not team.colleague.sees(item), "the workspace trusted the old text, not this one"
    assert words_find(team, team.colleague, "zanzibar") == []


def test_a_session_in_a_workspace_that_one_left_is_left_alone(team: Team) -> None:
    session = team.author.start_session("then").session
    team.owner.rpc("remove_workspace_member", workspace_id=team.id, user_id=team.author.id)
    author = team.author.inside(None)
    author.sql("select private.set_session_end(%s, now())", session)
    assert author.value("select private.reserve_session_positions(%s, 5)", session) is None
    [left] = team.world.superuser("select end_time from public.ai_sessions where id = %s", session)
    assert left["end_time"] is None


@pytest.mark.parametrize("how_many", [0, -3, None])
def test_positions_do_not_run_backwards(team: Team, how_many: int | None) -> None:
    author = team.author.start_session("mine")
    author.record("First")
    assert author.value("select private.reserve_session_positions(%s, %s)", author.session, how_many) is None
    assert author.value("select private.reserve_session_positions(%s, 1)", author.session) == 2


@pytest.mark.parametrize("position", [0, -5, 2, 2**63 - 1])
def test_a_position_is_given_not_chosen(team: Team, position: int) -> None:
    author = team.author.start_session("mine")
    author.record("First")
    with refused("PT403", "session_position"):
        author.sql(
            "insert into public.knowledge_items (title, content, session_position) values ('t', 'c', %s)",
            position,
        )


def test_a_role_that_inherits_from_authenticated_is_not_trusted(team: Team) -> None:
    item = team.author.record("Hidden", "The passphrase was zanzibar.")
    role = f"helpdesk_{uuid.uuid4().hex[:8]}"
    team.world.superuser(f"create role {role} in role authenticated")
    try:
        team.world.superuser(f"grant {role} to authenticator")
        colleague = dataclasses.replace(team.colleague.inside(team.id), role=role)
        assert words_find(team, colleague, "zanzibar") == []
        assert colleague.value("select private.is_trusted()") is False
        assert not colleague.sees(item)
        with refused("PT403"):
            colleague.sql(
                "insert into public.knowledge_items (title, content, validation_status)"
                " values ('t', 'c', 'validated')"
            )
    finally:
        team.world.superuser(f"drop role {role}")


# -- every function, with ids that are not the caller's --------------------------------------------------------


def hidden_things(team: Team) -> dict[str, uuid.UUID]:
    """Let the author make one of each kind, pending; return their ids."""
    author = team.author.start_session("hidden")
    items = [author.record(f"Hidden {n}", f"Nobody is told {n}.") for n in (1, 2)]
    [gotcha] = author.rpc("record_gotcha", problem_description="A hidden gotcha")
    [command] = author.rpc("record_command_run", command="hidden --command", succeeded=True)
    [pattern] = author.rpc("record_interaction_pattern", pattern_name="Hidden", situation_type="secret")
    [insight] = author.rpc("record_insight", insight_title="Hidden", insight_description="An insight.")
    [decision] = author.rpc("record_decision_stage", decision_topic="Hidden", understanding="A stage.")
    [relationship] = author.rpc(
        "relate_knowledge",
        source_knowledge_id=items[0],
        target_knowledge_id=items[1],
        relationship_type="enhances",
    )
    [duplicate] = author.sql(
        "insert into public.knowledge_duplicates (keep_id, duplicate_id) values (%s, %s) returning id", *items
    )
    return {
        "item": items[0],
        "gotcha": gotcha["gotcha_id"],
        "gotcha's item": gotcha["knowledge_id"],
        "command's item": command["knowledge_id"],
        "pattern's item": pattern["knowledge_id"],
        "insight": insight["insight_id"],
        "insight's item": insight["knowledge_id"],
        "decision's item": decision["knowledge_id"],
        "relationship": relationship["relationship_id"],
        "duplicate": duplicate["id"],
        "session": uuid.UUID(str(author.session)),
        "author": uuid.UUID(str(team.author.id)),
    }


def functions_with_ids(world: World) -> list[dict[str, Any]]:
    """Every function that a signed-in user may call and that takes an id, or several."""
    return world.superuser(
        """
        select p.oid::regproc::text as name, p.provolatile <> 'v' as reads,
               array(select format_type(t, null) from unnest(p.proargtypes) with ordinality x (t, n)
                      order by n) as types
          from pg_proc p
         where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
           and has_function_privilege('authenticated', p.oid, 'execute')
           and p.proargtypes::oid[] && array['uuid'::regtype::oid, 'uuid[]'::regtype::oid]
         order by 1
        """
    )


def state(team: Team) -> list[object]:
    """Everything that the author has, row by row; and what everybody shares."""
    tables = team.world.superuser(
        "select c.oid::regclass::text as name from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition"
        " and a.attname = 'owner_id' order by 1"
    )
    assert len(tables) > 8, "the tables of people's own rows"
    queries = [f"select t::text as row from public.{table['name']} t where owner_id = %s" for table in tables]
    rows = [row["row"] for query in queries for row in team.world.superuser(query, team.author.id)]
    members = team.world.superuser("select m::text as row from public.workspace_members m")
    return sorted([*rows, *(row["row"] for row in members)])


@pytest.mark.parametrize("who", ["colleague", "stranger", "reader"])
def test_no_function_does_or_tells_anything_with_a_hidden_id(team: Team, who: str) -> None:
    persona = getattr(team, who)
    ids = hidden_things(team)
    if who == "stranger":
        ids["workspace"] = team.id
    else:
        ids.pop("author")  # a fellow member
    own = team.stranger.record("Own") if who == "stranger" else team.colleague.record("Own")
    functions = functions_with_ids(team.world)
    assert len(functions) > 30, "there are such functions"
    before = state(team)
    differing: list[str] = []
    for function in functions:
        for query in calls(function, own):
            nothing = _answer(persona, query, NOBODY)
            assert not (isinstance(nothing, tuple) and nothing[0] in MISTAKES), f"{query}: {nothing}"
            differing += [
                f"{query} with the {kind}: {answer} rather than {nothing}"
                for kind, hidden in ids.items()
                if (answer := _answer(persona, query, hidden)) != nothing
            ]
    assert differing == []
    assert state(team) == before


def calls(function: dict[str, Any], own: uuid.UUID) -> list[str]:
    """Write calls of a function with the id in every place for one, and in each beside an item of the caller's."""
    places = [n for n, kind in enumerate(function["types"]) if kind in ("uuid", "uuid[]")]
    found: list[str] = []
    for chosen in [places, *([place] for place in places if len(places) > 1)]:
        arguments: list[str] = []
        for n, kind in enumerate(function["types"]):
            if n in places:
                value = "x.id" if n in chosen else f"'{own}'::uuid"
                arguments.append(f"array[{value}]" if kind == "uuid[]" else value)
            elif kind in PLAUSIBLE:
                arguments.append(f"{PLAUSIBLE[kind]}::{kind}")
            else:
                arguments.append(f"null::{kind}")
        found.append(
            f"select f::text as answer from (select %s::uuid as id) x,"
            f" lateral {function['name']}({', '.join(arguments)}) f"
        )
    return found


@pytest.mark.parametrize("who", ["colleague", "stranger"])
def test_no_insert_tells_whether_a_hidden_id_exists(team: Team, who: str) -> None:
    persona = getattr(team, who)
    ids = hidden_things(team)
    own = persona.record("Own")
    test = team.author.value(
        "insert into public.knowledge_validation_tests (test_name, test_scenario) values ('t', 't') returning id"
    )
    ids["validation test"] = test if who == "stranger" else ids["item"]
    ids["foreign workspace"] = team.id if who == "stranger" else team.strangers_id
    for insert in (
        RELATE + "(x.id, {own}, 'enhances')",
        RELATE + "({own}, x.id, 'enhances')",
        RELATE + "(x.id, x.id, 'similar_to')",
        "knowledge_duplicates (keep_id, duplicate_id) values (x.id, {own})",
        "knowledge_duplicates (keep_id, duplicate_id) values ({own}, x.id)",
        "knowledge_validation_tests (test_name, test_scenario, expected_knowledge_ids) values ('t', 't', array[x.id])",
        "knowledge_validation_tests (test_name, test_scenario, forbidden_knowledge_ids) values ('t', 't', array[x.id])",
        "validation_test_results (test_id, pass_status) values (x.id, true)",
        "technical_gotchas (problem_description, related_gotchas) values ('p', array[x.id])",
        "knowledge_items (title, content, created_in_session) values ('t', 'c', x.id)",
        "knowledge_items (title, content, workspace_id) values ('t', 'c', x.id)",
        "ai_sessions (session_identifier, workspace_id) values ('s', x.id)",
    ):
        for ending in ("", " on conflict do nothing"):
            query = "insert into public." + insert.format(own=f"'{own}'").replace("x.id", "%s") + ending
            for kind, hidden in ids.items():
                times = query.count("%s")
                answers = [_answer(persona, query, *[name] * times) for name in (hidden, NOBODY)]
                assert answers[0] == answers[1], (query, kind)
                assert answers[0] != [], f"{query} is refused"


# -- helpers that write for others -----------------------------------------------------------------------------


def test_readers_count_and_append_nothing_by_way_of_the_helpers(team: Team) -> None:
    ids = hidden_things(team)
    for kind in ("gotcha's item", "command's item", "pattern's item", "insight's item", "decision's item"):
        share(team, ids[kind])
    before = state(team)
    for query in (
        f"""select private.count_gotcha('{ids["gotcha's item"]}', '[]', true)""",
        f"""select private.count_command_run('{ids["command's item"]}', false, 'it broke', false)""",
        f"""select private.count_interaction_pattern('{ids["pattern's item"]}', 1, '{{}}', true)""",
        f"""select private.count_insight('{ids["insight's item"]}', 'forged', null, true)""",
        f"""select private.append_decision_stage('{ids["decision's item"]}', '{{"understanding": "forged"}}')""",
    ):
        with refused("PT403", "readers"):
            team.reader.sql(query)
        with refused("PT404"):
            team.stranger.sql(query)
    assert state(team) == before


def test_an_attempt_that_is_none_is_refused(team: Team) -> None:
    [gotcha] = team.author.rpc("record_gotcha", problem_description="A gotcha")
    share(team, gotcha["knowledge_id"])
    for attempts in (
        '["forged"]',
        '[{"solution": "it"}]',
        '[{"outcome": "worked"}]',
        '[{"solution": {"a": 1}, "outcome": "worked"}]',
        '[{"solution": "it", "outcome": "always"}]',
        "[[]]",
        "null",
    ):
        for persona in (team.author, team.colleague):
            with refused("PT400", "attempt"):
                persona.sql(
                    "select private.count_gotcha(%s, %s::jsonb, true)", gotcha["knowledge_id"], attempts
                )


def test_a_stage_that_is_none_is_refused(team: Team) -> None:
    [decision] = team.author.rpc("record_decision_stage", decision_topic="Topic", understanding="First")
    append = "select private.append_decision_stage(%s, %s::jsonb)"
    for stage in ("[]", '"forged"', "{}", '{"understanding": 1}', "null"):
        with refused("PT400", "stage"):
            team.author.sql(append, decision["knowledge_id"], stage)


LONG = "An introduction that everybody agrees on. " * 400


# An honest row, and what its author makes of it once it is trusted.
TRUSTED: list[tuple[str, dict[str, object], str, object]] = [
    ("technical_gotchas", {"problem_description": LONG}, "problem_description", LONG + "Call zanzibar."),
    ("technical_gotchas", {"problem_description": "p"}, "prevention_guidance", "Call zanzibar."),
    (
        "command_patterns",
        {"command_signature": "c", "success_pattern": LONG},
        "success_pattern",
        LONG + "--x",
    ),
    ("interaction_patterns", {"pattern_name": "p", "situation_type": "s"}, "pattern_metadata", {"call": "x"}),
    (
        "experiential_knowledge",
        {"insight_title": "i", "insight_description": "d"},
        "insight_metadata",
        {"call": "x"},
    ),
    (
        "experiential_knowledge",
        {"insight_title": "j", "insight_description": LONG},
        "insight_description",
        LONG + "Call zanzibar.",
    ),
    (
        "decision_evolution",
        {"decision_topic": "t", "final_understanding": LONG},
        "final_understanding",
        LONG + "Call zanzibar.",
    ),
]


def test_a_trusted_record_is_trusted_to_its_end(team: Team) -> None:
    for table, row, column, value in TRUSTED:
        places = ", ".join(["%s"] * len(row))
        item = team.author.value(
            f"insert into public.{table} ({', '.join(row)}) values ({places}) returning knowledge_id",
            *row.values(),
        )
        share(team, item)
        assert team.colleague.sees(item)
        team.author.sql(f"update public.{table} set {column} = %s where knowledge_id = %s", value, item)
        assert not team.colleague.sees(item), f"{table}.{column}: the workspace trusted what was there"
        assert team.colleague.sql(f"select 1 from public.{table} where knowledge_id = %s", item) == []


def test_only_who_may_supersedes_an_item_by_way_of_the_helper(team: Team) -> None:
    hidden, own, shared = team.author.record("Hidden"), team.colleague.record("Own"), team.shared("Shared")
    before = state(team)
    for item, replacement in ((hidden, own), (own, hidden), (hidden, None), (hidden, shared)):
        with refused("PT404", "no such knowledge item"):
            team.colleague.sql("select private.write_supersession(%s, %s)", item, replacement)
    for item, replacement in ((shared, own), (shared, None)):
        with refused("PT403", "not yours to supersede"):
            team.colleague.sql("select private.write_supersession(%s, %s)", item, replacement)
        with refused("PT404", "no such knowledge item"):
            team.stranger.sql("select private.write_supersession(%s, %s)", item, replacement)
    with refused("PT403", "not yours to supersede"):
        team.author.sql("select private.write_supersession(%s, %s)", shared, hidden)
    assert state(team) == before


def test_nobody_registers_a_companion_that_is_none(team: Team) -> None:
    hidden, shared, own = team.author.record("Hidden"), team.shared("Shared"), team.colleague.record("Own")
    register = "private.register_companion(%s, 'gotcha', %s, %s, 'forged')"
    with refused("PT403", "by triggers"):
        team.colleague.sql(f"select {register}", own, team.id, team.colleague.id)
    # A caller can make a trigger, too.
    with team.colleague.transaction() as cursor:
        cursor.execute("create temporary table lever (item uuid, workspace uuid, owner uuid) on commit drop")
        cursor.execute(
            "create function pg_temp.pull() returns trigger language plpgsql as $$ begin"
            f" perform {register.replace('%s', '{}').format('new.item', 'new.workspace', 'new.owner')};"
            " return new; end $$"
        )
        cursor.execute(
            "create trigger pull before insert on lever for each row execute function pg_temp.pull()"
        )
        for item, workspace, owner in (
            (hidden, team.id, team.author.id),
            (shared, team.id, team.author.id),
            (shared, team.id, team.colleague.id),
            (own, team.id, team.author.id),
            (own, team.strangers_id, team.colleague.id),
            (own, team.id, None),
            (NOBODY, team.id, team.colleague.id),
        ):
            cursor.execute("savepoint before")
            with refused("PT404", "no such knowledge item"):
                cursor.execute("insert into lever values (%s, %s, %s)", (item, workspace, owner))
            cursor.execute("rollback to savepoint before")
    assert team.world.superuser("select 1 from private.companions") == []


def test_a_session_does_not_end_in_the_future(team: Team) -> None:
    author = team.author.start_session("mine")
    author.sql("select private.set_session_end(%s, 'infinity')", author.session)
    assert author.value("select end_time <= clock_timestamp() from public.ai_sessions"), "not typed in"


def test_the_middle_of_a_huge_pasted_error_is_not_read(team: Team) -> None:
    head = "Traceback (most recent call last):\n" + '  File "a.py", line 1, in f\n' * 400
    tail = '  File "b.py", line 2, in g\n' * 400 + "ValueError: the port is taken"
    signatures = {
        team.author.value("select private.problem_signature(%s)", head + middle + tail)
        for middle in ("", "x" * 5_000_000, "KeyError: something else\n" * 200_000)
    }
    assert signatures == {"valueerror: the port is taken"}
    for shape in ("x" * 1_000_000, "/a" * 500_000, "'" * 500_000, "1." * 500_000, "word " * 200_000):
        signature = team.author.value("select private.problem_signature(%s)", shape)
        assert 0 < len(signature) <= 500


# -- the caller's own settings ---------------------------------------------------------------------------------


def test_headers_that_are_none_open_nothing(team: Team) -> None:
    item = team.author.record("Hidden")
    forged = {"[]": None, "1": None, '"x"': None, "null": None, "no json": "22P02", "{": "22P02"} | {
        f'{{"{header}": {value}}}': "PT400"
        for header in ("x-workspace-id", "x-session-id")
        for value in ('{"a": 1}', '["a"]', "1", "true")
    }
    for persona in (team.colleague, team.stranger):
        persona.record("Something to see")
        someone = persona.inside()
        for headers, sqlstate in forged.items():
            with refused(sqlstate) if sqlstate else contextlib.nullcontext(), someone.transaction() as cursor:
                cursor.execute("select set_config('request.headers', %s, true)", (headers,))
                cursor.execute("select id from public.knowledge_items where id = %s", (item,))
                assert cursor.fetchall() == [], headers


@pytest.mark.parametrize("role", ["postgres", "supabase_admin", "supabase_auth_admin"])
def test_nobody_becomes_an_operator(team: Team, role: str) -> None:
    for change in (f"set role {role}", f"set local role {role}", f"set session authorization {role}"):
        with refused("42501"):
            team.author.sql(change)
    with refused("42501"):
        team.author.sql("select set_config('role', %s, true)", role)


def test_tables_of_the_callers_own_are_not_taken_for_ours(team: Team) -> None:
    item = team.author.record("Hidden", "The passphrase was zanzibar.")
    me = team.colleague
    with me.transaction() as cursor:
        for schema in ("public", "private"):
            tables = team.world.superuser(
                "select c.relname::text as name from pg_class c where c.relkind in ('r', 'p')"
                f" and c.relnamespace = '{schema}'::regnamespace and not c.relispartition"
            )
            for table in tables:
                cursor.execute(
                    f"create temporary table if not exists {table['name']} (workspace_id uuid, user_id uuid,"
                    " role text, id uuid, owner_id uuid) on commit drop".encode()
                )
                cursor.execute(
                    f"insert into pg_temp.{table['name']} values (%s, %s, 'owner', %s, %s)".encode(),
                    (team.id, me.id, item, me.id),
                )
        cursor.execute("create function pg_temp.uid() returns uuid language sql as $$ select null::uuid $$")
        cursor.execute("create domain pg_temp.uuid as text")
        cursor.execute("set local search_path = pg_temp, public, private")
        cursor.execute("select private.visible_items(array[%s]::pg_catalog.uuid[])", (item,))
        assert cursor.fetchall() == []
        cursor.execute("select * from private.item_access(%s::pg_catalog.uuid)", (item,))
        assert cursor.fetchone() == {"is_visible": False, "is_editable": False}
        cursor.execute("select 1 from public.search_knowledge('zanzibar')")
        assert cursor.fetchall() == []
        cursor.execute("select private.maintained_workspaces()")
        assert cursor.fetchall() == []


def test_sequences_are_nobodys_to_move(team: Team) -> None:
    sequences = team.world.superuser(
        "select c.oid::regclass::text as name from pg_class c where c.relkind = 'S'"
        " and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)"
    )
    assert sequences
    for sequence in sequences:
        for act in ("setval(%s, 1)", "nextval(%s)", "currval(%s)"):
            with refused("42501"):
                team.author.sql(f"select {act}", sequence["name"])
        with refused("42501"):
            team.author.sql(f"select last_value from {sequence['name']}")


def _answer(persona: Persona, query: str, *parameters: object) -> object:
    """Return what a query says: its rows, or how it is refused; less the id that was asked for."""
    try:
        return persona.sql(query, *parameters)
    except psycopg.Error as error:
        text = str(error.diag.message_primary)
        for parameter in parameters:
            text = text.replace(str(parameter), "…")
        return error.sqlstate, text, error.diag.message_detail, error.diag.message_hint


@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_a_vector_without_direction_is_refused(team: Team, value: float) -> None:
    """Its cosine with anything would be no number, and spoil the order of all else."""
    nothing = vector([value] * 384)
    item = team.author.record("something", "to be found")
    with refused("PT422", "zero"):
        team.author.record("nothing", content_embedding=nothing, embedding_model="all-MiniLM-L6-v2")
    for function in ("find_similar_knowledge", "search_knowledge", "recall_knowledge"):
        with refused("PT422", "zero"):
            team.author.rpc(function, query_embedding=nothing)
    with refused("PT422", "zero"):
        team.author.sql(
            "update public.knowledge_items set content_embedding = %s::extensions.vector,"
            " embedding_model = 'all-MiniLM-L6-v2' where id = %s",
            nothing,
            item,
        )


def test_the_name_of_a_model_is_no_sql(team: Team) -> None:
    name = "a$body$ $function$ $branch$ 'b' \\ c"
    service = team.world.service()
    service.rpc("register_embedding_model", name=name, dimensions=3)
    item = team.author.record("something", content_embedding="[1,0,0]", embedding_model=name)
    [found] = team.author.rpc("find_similar_knowledge", query_embedding="[1,0,0]", embedding_model=name)
    assert found["id"] == item
