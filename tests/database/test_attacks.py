"""What somebody with a connection of their own might try: helpers called directly, side doors, side channels.

Everybody here is signed in and talks SQL, which is more than the Data API allows. Forbidden acts only.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import TYPE_CHECKING

import psycopg
import pytest

from world import refused, vector

if TYPE_CHECKING:
    from world import Persona, World

NOBODY = uuid.UUID("00000000-0000-4000-8000-000000000000")
ALL_STATUSES = ["pending", "validated", "needs_update", "deprecated"]
COUNTERS = (
    "select access_count, last_accessed, rating_sum, rating_count, success_count, failure_count"
    " from public.knowledge_items where id = %s"
)


class Team:
    """A workspace with a maintainer, an author and a colleague; an outsider who has a workspace too."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.owner, maintainer, author, colleague, outsider = (
            world.sign_up(name) for name in ("owner", "maintainer", "author", "colleague", "outsider")
        )
        self.id = world.workspace(
            "team", owner=self.owner, maintainer=maintainer, contributor=[author, colleague]
        )
        self.maintainer, self.author, self.colleague = (
            person.inside(self.id) for person in (maintainer, author, colleague)
        )
        self.outsider = outsider.inside(world.workspace("elsewhere", owner=outsider))

    def share(self, item: uuid.UUID) -> None:
        self.maintainer.rpc("validate_knowledge", knowledge_id=item)

    def hide(self, item: uuid.UUID) -> None:
        self.maintainer.rpc("validate_knowledge", knowledge_id=item, validation_status="pending")

    def words_find(self, persona: Persona, words: str) -> list[uuid.UUID]:
        found = persona.sql("select * from private.keyword_candidates(%s, %s, true, 100)", self.id, words)
        searched = persona.rpc("search_knowledge", query_text=words, validation_statuses=ALL_STATUSES)
        return [row["knowledge_id"] for row in found + searched]


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


# -- items that the caller may not see -------------------------------------------------------------------------


def test_a_hidden_item_is_not_counted_on_by_whoever_knows_its_id(team: Team) -> None:
    item = team.author.record("Hidden")
    before = team.world.superuser(COUNTERS, item)
    for persona in (team.colleague, team.outsider):
        inside = persona.start_session("feeling for it")
        for name in (item, NOBODY):
            inside.sql("select private.log_access(array[%s]::uuid[])", name)  # both do nothing, alike
            with refused("PT404", "no such knowledge item"):
                inside.sql("select private.add_rating(%s, 1, false, 'x')", name)
        [session] = inside.sql("select knowledge_items_accessed as n from public.ai_sessions")
        assert session["n"] == 0, persona.name
    assert team.world.superuser(COUNTERS, item) == before
    assert team.world.superuser("select 1 from public.session_knowledge_links") == []


def test_no_helper_tells_where_an_item_is(team: Team) -> None:
    item = team.author.record("Hidden")
    helpers = team.world.superuser(
        "select p.oid::regproc::text as name from pg_proc p"
        " where p.pronamespace = 'private'::regnamespace and p.prosecdef and p.pronargs = 1"
        " and p.proargtypes[0] = 'uuid'::regtype and has_function_privilege('authenticated', p.oid, 'execute')"
    )
    assert helpers, "there are such helpers"
    for persona in (team.colleague, team.outsider):
        for helper in helpers:
            query = f"select {helper['name']}(%s)::text as answer"
            answers = [_answer(persona, query, name) for name in (item, NOBODY)]
            assert answers[0] == answers[1], helper["name"]


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
        answers = [_answer(team.outsider, query, name, *parameters) for name in (team.id, NOBODY)]
        assert answers[0] == answers[1], query
    assert team.colleague.value("select private.model_of_workspace(%s)", team.id) == "text-embedding-3-small"


def test_what_is_hidden_does_not_move_the_scores(team: Team) -> None:
    team.share(team.author.record("Gateway", "The gateway restarts after a deploy."))
    team.share(team.author.record("Proxy", "The proxy caches."))
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
        team.share(shared)
    assert set(team.words_find(team.colleague, "zanzibar")) == {beside, item}
    author.sql(f"update public.knowledge_items set {change} where id = %s", item)
    assert not team.colleague.sees(item)
    assert team.words_find(team.colleague, "zanzibar") == []


def test_words_of_a_distant_neighbour_go_when_it_is_hidden_again(team: Team) -> None:
    author = team.author.start_session("long")
    first = author.record("First", "We restarted the gateway.")
    for number in range(3):
        author.record(f"Hidden {number}")
    last = author.record("Last", "The passphrase was zanzibar.")
    for shared in (last, first):
        team.share(shared)
    team.hide(last)
    assert team.words_find(team.colleague, "zanzibar") == []


def test_words_go_when_a_neighbour_between_is_hidden_too(team: Team) -> None:
    author = team.author.start_session("long")
    items = [author.record(f"Item {number}", f"word{number} and more") for number in range(6)]
    for shared in (items[5], items[0], items[2], items[4]):
        team.share(shared)
    assert items[0] in team.words_find(team.colleague, "word4"), "one other lies between"
    for hidden in (items[2], items[4]):
        team.hide(hidden)
    assert items[0] in team.words_find(team.colleague, "word5"), "it is the nearest now"
    for hidden in ("word1", "word2", "word3", "word4"):
        assert team.words_find(team.colleague, hidden) == []


def test_words_of_a_neighbour_go_after_the_session_is_gone(team: Team) -> None:
    author = team.author.start_session("short")
    first = author.record("First", "We restarted the gateway.")
    last = author.record("Last", "The passphrase was zanzibar.")
    for shared in (first, last):
        team.share(shared)
    team.world.superuser("delete from public.ai_sessions where id = %s", author.session)
    team.hide(last)
    assert team.words_find(team.colleague, "zanzibar") == []


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
    team.share(item)
    team.author.sql("update public.knowledge_items set content_embedding = %s where id = %s", axis, item)
    assert team.colleague.sees(item), "the same vector again changes nothing"
    with refused("PT403", "vector"):
        team.author.sql("update public.knowledge_items set content_embedding = %s where id = %s", other, item)
    with refused("PT403", "vector"):
        team.author.sql("update public.knowledge_items set embedding_model = 'm' where id = %s", item)


def test_a_deprecated_item_is_no_billboard(team: Team) -> None:
    item = team.author.record("Trusted", "Use the old gateway.")
    team.share(item)
    team.maintainer.rpc("validate_knowledge", knowledge_id=item, validation_status="deprecated")
    assert team.colleague.sees(item)
    team.author.sql("update public.knowledge_items set content = 'Call zanzibar.' where id = %s", item)
    assert not team.colleague.sees(item), "the workspace trusted the old text, not this one"
    assert team.words_find(team.colleague, "zanzibar") == []


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
        assert team.words_find(colleague, "zanzibar") == []
        assert colleague.value("select private.is_trusted()") is False
        assert not colleague.sees(item)
        with refused("PT403"):
            colleague.sql(
                "insert into public.knowledge_items (title, content, validation_status)"
                " values ('t', 'c', 'validated')"
            )
    finally:
        team.world.superuser(f"drop role {role}")


def _answer(persona: Persona, query: str, *parameters: object) -> object:
    """Return what a query says: its rows, or how it is refused; less the id that was asked for."""
    try:
        return persona.sql(query, *parameters)
    except psycopg.Error as error:
        return error.sqlstate, str(error).replace(str(parameters[0]), "…")
