"""Vectors that an HNSW index has lost sight of are looked for, written down, and found all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from world import World, refused

if TYPE_CHECKING:
    from collections.abc import Generator

    from databases import Database, DatabaseServer
    from world import Persona

LOST = 20
#: Twenty items that are like nothing else, and then four thousand that are all alike. No triggers but the vectors'.
LIBRARY = """
select public.register_embedding_model('short', 24);
select setseed(0.5);
insert into auth.users (id, email) values (gen_random_uuid(), 'reader@example.org');
insert into public.workspaces (name, embedding_model) values ('crowd', 'short');
insert into public.workspace_members (workspace_id, user_id, role)
  select w.id, u.id, 'contributor' from public.workspaces w, auth.users u;
set session_replication_role = replica;
insert into public.knowledge_items (title, content, workspace_id, validation_status, content_hash, content_embedding,
    embedding_model)
  select n, 'text', w.id, 'validated', md5(n::text),
         case when n <= 20 then array(select random() - 0.5 from generate_series(1, 24) where n > 0)
              else array(select 1 + 0.05 * random() from generate_series(1, 24) where n > 0)
         end::extensions.vector, 'short'
    from public.workspaces w, generate_series(1, 4020) n order by n;
insert into private.item_vectors (knowledge_id, workspace_id, embedding_model, embedding)
  select k.id, k.workspace_id, k.embedding_model, k.content_embedding::extensions.halfvec
    from public.knowledge_items k order by k.title::integer;
insert into private.large_workspaces select w.id from public.workspaces w;
reset session_replication_role;
analyze public.knowledge_items, private.item_vectors;
"""


#: A minute's work finished an hour ago.
PAST = """
update private.vector_rounds
   set started_at = now() - interval '61 minutes', finished_at = now() - interval '1 hour',
       written = (select n_tup_ins + n_tup_upd from pg_stat_user_tables where relname = 'item_vectors')
"""
ONE = "select knowledge_id as id from private.stray_vectors order by 1 limit 1"


@pytest.fixture(scope="module")
def filled(server: DatabaseServer, template: Database) -> Generator[World]:
    with server.clone(template) as database:
        with psycopg.connect(database.dsn("supabase_admin"), autocommit=True) as connection:
            for statement in LIBRARY.split(";\n"):
                connection.execute(statement.encode())
        world = World(database.dsn)
        # Which it loses hangs on the levels that it draws, and now and then that is none.
        for _ in range(20):
            if missed(world, reader_of(world)):
                break
            world.superuser("reindex table private.item_vectors")
        yield world
        world.close()


@pytest.fixture
def library(filled: World) -> World:
    """Give the world as it is before anything was looked up."""
    filled.superuser("truncate private.vector_rounds, private.stray_vectors")
    return filled


@pytest.fixture
def reader(library: World) -> Persona:
    return reader_of(library)


def reader_of(library: World) -> Persona:
    [row] = library.superuser("select m.user_id, m.workspace_id from public.workspace_members m")
    return library.as_user(row["user_id"], row["workspace_id"])


def missed(library: World, reader: Persona, **arguments: object) -> int:
    """Return how many of those that are like nothing else aren't found by their own vectors."""
    lost = library.superuser(
        "select id, content_embedding::text as vector from public.knowledge_items where title::integer <= %s",
        LOST,
    )
    nearest = [
        reader.rpc(
            "find_similar_knowledge", query_embedding=row["vector"], similarity_threshold=-1, **arguments
        )[0]
        for row in lost
    ]
    return sum(row["id"] != one["id"] for row, one in zip(lost, nearest, strict=True))


def check_all(library: World, most: int = 1500) -> int:
    """Look all vectors up, and return how many calls that took."""
    calls = 1
    while library.service().rpc("check_vectors", max_vectors=most)[0]["check_vectors"]:
        calls += 1
        assert calls < 20
    return calls


def test_what_the_index_has_lost_is_found(library: World, reader: Persona) -> None:
    before = missed(library, reader)
    assert before > 0, "the index finds all of them: this world has nothing to show"
    # 4,020 in three calls, and one that finds nothing due.
    assert check_all(library) == 4
    assert missed(library, reader) == 0
    # Filters make another statement of it.
    assert missed(library, reader, knowledge_type_filter="factual") == 0
    [round_] = library.superuser(
        "select finished_at is not null as over, embedding_model from private.vector_rounds"
    )
    assert round_ == {"over": True, "embedding_model": "short"}
    strays = library.superuser(
        "select k.title from private.stray_vectors s join public.knowledge_items k on k.id = s.knowledge_id"
    )
    assert before <= len(strays) < 200


def test_of_too_many_the_most_remote_stay(library: World) -> None:
    # Five hundred of the crowd are strays already, the last by id, which the call below doesn't come to.
    library.superuser(
        "insert into private.stray_vectors (knowledge_id, embedding_model, workspace_id, embedding, remoteness)"
        " select v.knowledge_id, v.embedding_model, v.workspace_id, v.embedding, 0.0001 from private.item_vectors v"
        " join public.knowledge_items k on k.id = v.knowledge_id where k.title::integer > %s"
        " order by v.knowledge_id desc limit 500",
        LOST,
    )
    assert library.service().rpc("check_vectors", max_vectors=3500)[0]["check_vectors"] == 3500
    strays = library.superuser(
        "select k.title::integer <= %s as is_lone, s.remoteness from private.stray_vectors s"
        " join public.knowledge_items k on k.id = s.knowledge_id",
        LOST,
    )
    assert len(strays) == 500
    assert any(row["is_lone"] for row in strays)
    assert all(row["remoteness"] > 0.1 for row in strays if row["is_lone"])


def test_search_finds_it_by_meaning_too(library: World, reader: Persona) -> None:
    check_all(library)
    [stray] = library.superuser(
        "select k.id, k.content_embedding::text as vector from private.stray_vectors s"
        " join public.knowledge_items k on k.id = s.knowledge_id where k.title::integer <= %s order by k.id limit 1",
        LOST,
    )
    for filters in ({}, {"min_importance": 1}):
        best = reader.rpc("search_knowledge", query_embedding=stray["vector"], max_results=1, **filters)
        assert [row["knowledge_id"] for row in best] == [stray["id"]]


def test_who_may_not_see_a_stray_does_not(library: World, reader: Persona) -> None:
    check_all(library)
    [stray] = library.superuser(
        "select s.knowledge_id as id, k.content_embedding::text as vector from private.stray_vectors s"
        " join public.knowledge_items k on k.id = s.knowledge_id order by 1 limit 1"
    )
    library.superuser(
        "update public.knowledge_items set validation_status = 'pending' where id = %s", stray["id"]
    )
    try:
        for arguments in ({}, {"knowledge_type_filter": "factual"}):
            seen = reader.rpc(
                "find_similar_knowledge",
                query_embedding=stray["vector"],
                similarity_threshold=-1,
                limit_results=100,
                **arguments,
            )
            assert stray["id"] not in {row["id"] for row in seen}
            assert len(seen) == 100
    finally:
        library.superuser(
            "update public.knowledge_items set validation_status = 'validated' where id = %s", stray["id"]
        )


def test_rounds_come_again_when_something_was_written(library: World) -> None:
    check_all(library)
    library.superuser(PAST)
    assert check_all(library) == 1, "nothing was written"
    [stray] = library.superuser(ONE)
    [own] = library.superuser(
        "select content_embedding::text as vector from public.knowledge_items where id = %s", stray["id"]
    )
    move = "update public.knowledge_items set content_embedding = %s::extensions.vector where id = %s"
    # In the midst of the crowd it is within reach again.
    library.superuser(move, str([1.02] * 12 + [1.03] * 12), stray["id"])
    try:
        assert stray not in library.superuser("select knowledge_id as id from private.stray_vectors")
        library.superuser("update private.vector_rounds set written = -1")
        assert check_all(library) == 4
        strays = library.superuser("select knowledge_id as id from private.stray_vectors")
        assert strays
        assert stray not in strays
        library.superuser(
            "update private.vector_rounds set written = -1, finished_at = now() - interval '9 minutes'"
        )
        assert check_all(library) == 1, "too early"
    finally:
        library.superuser(move, own["vector"], stray["id"])


def test_an_erased_item_is_no_stray(library: World) -> None:
    check_all(library)
    [stray] = library.superuser(ONE)
    library.superuser("delete from public.knowledge_items where id = %s", stray["id"])
    assert library.superuser("select from private.stray_vectors where knowledge_id = %s", stray["id"]) == []


def test_small_workspaces_and_models_without_index_are_none_of_it(library: World) -> None:
    [large] = library.superuser("delete from private.large_workspaces returning workspace_id")
    assert check_all(library) == 1
    library.superuser("insert into private.large_workspaces values (%s)", large["workspace_id"])
    assert library.service().rpc("check_vectors", embedding_model="all-MiniLM-L6-v2")[0]["check_vectors"] == 0


def test_only_the_service_checks_and_only_so_many(library: World, reader: Persona) -> None:
    with refused("42501"):
        reader.rpc("check_vectors")
    for wrong in (0, 10001, None):
        with refused("PT400", "between 1 and 10000"):
            library.service().rpc("check_vectors", max_vectors=wrong)
