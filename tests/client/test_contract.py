"""The contract, behind both doors: what is refused first, then what is promised."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import jwt
import numpy as np
import pytest

from knowledge_persistence import (
    AuthenticationError,
    CredentialError,
    EmbeddingDimensionError,
    EmbeddingError,
    InvalidArgumentError,
    KnowledgePersistenceError,
    NewKnowledge,
    NotFoundError,
    PermissionDeniedError,
    connect,
    connect_async,
)
from knowledge_persistence._values import JsonArgument, RequestContext, to_vector
from knowledge_persistence.credentials import CredentialStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Deployment, Door, Person
    from knowledge_persistence import AsyncKnowledgeClient, KnowledgeClient

    Enter = Callable[..., KnowledgeClient]
    SignUp = Callable[..., Person]


def unique(text: str) -> str:
    return f"{text} {uuid4().hex}"


def team(enter: Enter, owner: Person, **members: Person) -> UUID:
    """Let the owner make a workspace with one member of each role that is named."""
    client = enter(owner)
    workspace = client.create_workspace("team").workspace_id
    for role, person in members.items():
        client.add_workspace_member(workspace, person.id, role=role)
    return workspace


# Forbidden acts


def test_a_direct_client_of_somebody_else_sees_nothing_of_mine(enter: Enter, sign_up: SignUp) -> None:
    ana, eve = sign_up("ana"), sign_up("eve")
    secret = enter(ana).remember(unique("The vault opens with a paper clip"))
    stranger = enter(eve)
    assert stranger.recall("how does the vault open?") == []
    assert stranger.search("vault paper clip") == []
    assert stranger.find_similar("The vault opens with a paper clip", similarity_threshold=-1) == []
    assert stranger.context("I stand before the vault") == []
    for act in (
        lambda: stranger.get(secret.knowledge_id),
        lambda: stranger.validate(secret.knowledge_id),
        lambda: stranger.rate(secret.knowledge_id, effectiveness_rating=1),
    ):
        with pytest.raises(NotFoundError) as foreign:
            act()
        assert foreign.value.status == 404


def test_a_foreign_id_and_one_that_never_was_get_the_same_answer(enter: Enter, sign_up: SignUp) -> None:
    mine = enter(sign_up("ana")).remember(unique("mine")).knowledge_id
    eve = enter(sign_up("eve"))

    def answers(knowledge_id: UUID) -> list[tuple[object, ...]]:
        result: list[tuple[object, ...]] = []
        for act in (eve.get, eve.validate, lambda one: eve.rate(one, effectiveness_rating=5)):
            with pytest.raises(KnowledgePersistenceError) as caught:
                act(knowledge_id)
            result.append((type(caught.value), str(caught.value).replace(str(knowledge_id), "ID")))
        return result

    assert answers(mine) == answers(uuid4())


def test_somebody_elses_session_is_refused(enter: Enter, sign_up: SignUp) -> None:
    ana, eve = sign_up("ana"), sign_up("eve")
    session = enter(ana).start_session(unique("private")).session_id
    forged = enter(eve, session=session)
    for act in (
        lambda: forged.remember(unique("planted")),
        lambda: forged.recall("anything"),
        forged.end_session,
    ):
        with pytest.raises(PermissionDeniedError):
            act()
    with pytest.raises(NotFoundError):
        enter(eve).get_session(session)
    with pytest.raises(PermissionDeniedError):
        enter(eve).end_session(session)
    assert enter(ana).get_session(session).end_time is None


def test_a_workspace_that_is_not_mine_is_refused(enter: Enter, sign_up: SignUp) -> None:
    ana, eve = sign_up("ana"), sign_up("eve")
    workspace = team(enter, ana)
    enter(ana, workspace=workspace).remember(unique("internal"))
    for foreign in (workspace, uuid4()):
        forged = enter(eve, workspace=foreign)
        with pytest.raises(PermissionDeniedError):
            forged.remember(unique("planted"))
        with pytest.raises(PermissionDeniedError):
            forged.recall("internal")
    outsider = enter(eve)
    assert outsider.workspace_members(workspace) == []
    with pytest.raises((NotFoundError, PermissionDeniedError)):
        outsider.add_workspace_member(workspace, eve.id, role="owner")
    with pytest.raises((NotFoundError, PermissionDeniedError)):
        outsider.delete_workspace(workspace)
    with pytest.raises(NotFoundError, match="team"):
        enter(eve, workspace="team").recall("x")


def test_a_pending_item_is_hidden_from_colleagues(enter: Enter, sign_up: SignUp) -> None:
    ana, ben, cleo = sign_up("ana"), sign_up("ben"), sign_up("cleo")
    workspace = team(enter, ana, contributor=ben, reader=cleo)
    item = enter(ben, workspace=workspace).remember(unique("Deploys happen on Tuesdays"))
    reader = enter(cleo, workspace=workspace)
    assert reader.recall("when are deploys?") == []
    with pytest.raises(NotFoundError):
        reader.get(item.knowledge_id)
    with pytest.raises(PermissionDeniedError):
        reader.remember(unique("readers record nothing"))
    with pytest.raises(PermissionDeniedError):
        enter(ben, workspace=workspace).validate(item.knowledge_id)

    enter(ana, workspace=workspace).validate(item.knowledge_id)
    assert [found.knowledge_id for found in reader.recall("when are deploys?")] == [item.knowledge_id]


@pytest.mark.parametrize("change", ["sub", "role", "signature"])
def test_an_altered_token_is_refused(
    deployment: Deployment,
    sign_up: SignUp,
    enter: Enter,
    door: Door,
    change: str,
) -> None:
    ana, eve = sign_up("ana"), sign_up("eve")
    enter(ana).remember(unique("mine"))
    claims = jwt.decode(eve.credential.access_token, options={"verify_signature": False})
    key = deployment.jwt_secret
    if change == "sub":
        claims["sub"], key = str(ana.id), "x" * 64
    elif change == "role":
        claims["role"], key = "service_role", "x" * 64
    else:
        key = "y" * 64
    forged = jwt.encode(claims, key, "HS256")
    arguments = eve.arguments(door) | {"access_token": forged, "embedder": None}
    with pytest.raises(AuthenticationError), connect(**arguments) as client:
        client.workspaces()


def test_an_expired_token_is_refused(deployment: Deployment, sign_up: SignUp, door: Door) -> None:
    ana = sign_up("ana")
    claims = jwt.decode(ana.credential.access_token, options={"verify_signature": False})
    expired = jwt.encode(claims | {"exp": int(time.time()) - 60}, deployment.jwt_secret, "HS256")
    arguments = ana.arguments(door) | {"access_token": expired, "embedder": None}
    with pytest.raises(AuthenticationError), connect(**arguments) as client:
        client.workspaces()


def test_a_user_is_not_the_service(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    with pytest.raises(PermissionDeniedError):
        client.claim_embedding_jobs()
    with pytest.raises(PermissionDeniedError):
        client.store_embeddings([])
    with pytest.raises(PermissionDeniedError):
        client.register_embedding_model("mine", 3)


def test_vectors_of_a_wrong_size_are_refused_before_they_are_sent(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    with pytest.raises(EmbeddingDimensionError, match="3 dimensions"):
        client.find_similar([1.0, 2.0, 3.0])
    with pytest.raises(EmbeddingDimensionError, match="1536"):
        client.find_similar([0.1] * 384, embedding_model="text-embedding-3-small")
    with pytest.raises(EmbeddingDimensionError, match="not registered"):
        client.find_similar([0.1] * 384, embedding_model="unheard-of")
    for wrong in ([float("nan")] * 384, [], [[0.1] * 384]):
        with pytest.raises(InvalidArgumentError):
            client.find_similar(wrong)  # pyright: ignore[reportArgumentType]


def test_vectors_of_a_wrong_size_are_refused_by_the_database_too(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    with pytest.raises(EmbeddingDimensionError) as caught:
        client.core.call(
            "find_similar_knowledge", {"query_embedding": to_vector([1, 2, 3])}, RequestContext(), mode="read"
        )
    assert caught.value.code == "PT422"
    item = {
        "title": "t",
        "content": unique("c"),
        "content_embedding": "[1,2,3]",
        "embedding_model": "all-MiniLM-L6-v2",
    }
    with pytest.raises(EmbeddingDimensionError):
        client.core.call(
            "record_knowledge_batch", {"items": JsonArgument([item])}, RequestContext(), mode="repeatable"
        )


@pytest.mark.parametrize(
    "act",
    [
        lambda client: client.remember("   "),
        lambda client: client.remember("fine", importance_score=101),
        lambda client: client.remember("fine", knowledge_type="rumour"),
        lambda client: client.recall("x", max_results=0),
        lambda client: client.get("not an id"),
        lambda client: client.find_similar(" "),
        lambda client: client.session(" ").__enter__(),
    ],
)
def test_wrong_arguments_are_told(
    enter: Enter, sign_up: SignUp, act: Callable[[KnowledgeClient], Any]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        act(enter(sign_up()))
    assert caught.value.status == 400
    assert caught.value.message


def test_a_credential_is_not_taken_in_by_accident(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    text = f"The database is postgresql://admin:{uuid4().hex}@db.internal/prod"
    with pytest.raises(CredentialError) as caught:
        client.remember(text)
    assert caught.value.code == "PT451"
    assert "postgresql://admin" not in str(caught.value)
    assert client.search("database prod") == []
    assert client.remember(text, allow_credentials=True).outcome == "created"


def test_without_an_embedder_it_says_so_and_searches_by_words(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up(), embedder=None)
    item = client.remember(unique("Zirconium melts at 1855 degrees"))
    assert [found.knowledge_id for found in client.recall("zirconium")] == [item.knowledge_id]
    with pytest.raises(EmbeddingError, match="embedder"):
        client.find_similar("zirconium")
    with pytest.raises(EmbeddingError, match="embedder"):
        client.remember("more", embed=True)


# What is promised


def test_a_refused_token_is_renewed_once(sign_up: SignUp) -> None:
    ana = sign_up("ana")
    arguments = ana.arguments("http") | {"embedder": None, "access_token": None}
    store = CredentialStore(ana.home)
    # It looks good for years, and the deployment won't have it.
    stale = replace(ana.credential, access_token=ana.credential.access_token[:-4] + "AAAA", expires_at=2**31)
    store.save(ana.deployment.url, stale)
    with connect(**arguments) as client:
        assert client.whoami().user_id == ana.id
        client.workspaces()
    renewed = store.load(ana.deployment.url)
    assert renewed is not None
    assert renewed.refresh_token != stale.refresh_token

    store.save(ana.deployment.url, replace(stale, refresh_token="used-up"))
    with connect(**arguments) as client, pytest.raises(AuthenticationError):
        client.workspaces()


def test_a_password_signs_in(sign_up: SignUp) -> None:
    ana = sign_up("ana")
    arguments = ana.arguments("http") | {
        "embedder": None,
        "access_token": None,
        "email": ana.credential.email,
    }
    with connect(**arguments, password=ana.password) as client:
        assert client.whoami().user_id == ana.id
    with pytest.raises(AuthenticationError), connect(**arguments, password="wrong"):
        pass


async def test_one_renewal_serves_many_calls_at_once(sign_up: SignUp) -> None:
    ana = sign_up("ana")
    store = CredentialStore(ana.home)
    store.save(ana.deployment.url, replace(ana.credential, expires_at=1))
    arguments = ana.arguments("http") | {"embedder": None, "access_token": None}
    async with connect_async(**arguments) as one, connect_async(**arguments) as two:
        await asyncio.gather(*(client.workspaces() for client in (one, two) for _ in range(5)))


def test_a_memory_survives_its_session(enter: Enter, sign_up: SignUp) -> None:
    ana = sign_up("ana")
    with enter(ana) as client, client.session("monday", project="search") as monday:
        recorded = monday.remember(
            "HNSW is filtered after the scan. A small tenant gets no rows: set hnsw.iterative_scan.",
            category="pgvector",
            retrieval_triggers=["hnsw", "iterative_scan"],
            context_data={"seen": [1, 2.5, None, {"deep": "ünïcode"}], "empty": {}},
            importance_score=80,
            embed=True,
        )
        assert (recorded.outcome, recorded.created_in_session) == ("created", monday.id)
    assert monday.ended is not None
    assert (monday.ended.knowledge_items_created, monday.ended.project_context) == (1, "search")
    assert monday.ended.session_duration >= timedelta(0)

    with enter(ana) as client, client.session("tuesday", project="search") as tuesday:
        [found] = tuesday.recall("why does vector search find nothing for a small customer?")
        assert found.knowledge_id == recorded.knowledge_id
        assert found.title == "HNSW is filtered after the scan"
        assert found.vector_score is not None
        assert found.relevance_reason
        assert found.context_data == {"seen": [1, 2.5, None, {"deep": "ünïcode"}], "empty": {}}
        assert found.retrieval_triggers == ["hnsw", "iterative_scan"]
        assert found.project_context == "search"
        assert found.created_at.tzinfo is not None
        assert abs(datetime.now(UTC) - found.created_at) < timedelta(minutes=5)
    assert tuesday.ended is not None
    assert (tuesday.ended.knowledge_items_accessed, tuesday.ended.knowledge_items_created) == (1, 0)
    assert enter(ana).get(recorded.knowledge_id).access_count == 1


def test_a_session_ends_though_its_body_raises_and_lets_the_error_through(
    enter: Enter, sign_up: SignUp
) -> None:
    client = enter(sign_up())
    with pytest.raises(ZeroDivisionError), client.session("broken") as session:  # noqa: PT012
        session.summary = "Half done."
        session.remember(unique("kept"))
        _ = 1 / 0
    stored = client.get_session("broken")
    assert stored.end_time is not None
    assert stored.knowledge_items_created == 1
    assert stored.summary == "Half done.\nEnded early by ZeroDivisionError: division by zero"


def test_a_session_that_cannot_be_ended_does_not_hide_the_bodys_error(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    session = client.session("lost")
    with pytest.raises(ZeroDivisionError) as caught, session:  # noqa: PT012
        session.quality_score = 1000  # the database takes 1 to 100
        _ = 1 / 0
    assert "could not be ended" in "".join(caught.value.__notes__)


def test_a_session_resumes_by_its_name(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    with client.session("long", metadata={"agent": "a"}) as first:
        first.remember(unique("one"))
    with client.session("long") as second:
        assert (second.id, second.resumed, first.resumed) == (first.id, True, False)
        second.remember(unique("two"))
        second.summary, second.quality_score, second.user_feedback = "Done.", 90, "Well."
    stored = client.get_session(first.id)
    assert (stored.knowledge_items_created, stored.session_quality_score, stored.user_feedback) == (
        2,
        90,
        "Well.",
    )
    assert (stored.summary, (stored.session_metadata or {}).get("agent")) == ("Done.", "a")
    assert second.end().session_id == first.id, "ending again is harmless"
    assert [one.session_identifier for one in client.list_sessions()] == ["long"]


def test_a_client_can_live_in_a_session(enter: Enter, sign_up: SignUp) -> None:
    ana = sign_up()
    recorded = enter(ana, session="by name").remember(unique("inside"))
    session = enter(ana).get_session("by name")
    assert recorded.created_in_session == session.id
    again = enter(ana, session=session.id).remember(unique("inside too"))
    assert (again.created_in_session, again.session_position) == (
        session.id,
        (recorded.session_position or 0) + 1,
    )
    assert enter(ana, session="by name").end_session().knowledge_items_created == 2
    with pytest.raises(NotFoundError):
        enter(ana).end_session("never started")


def test_the_same_text_is_kept_once(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    text = unique("once")
    first, second = client.remember(text), client.remember(text)
    assert (first.outcome, second.outcome) == ("created", "duplicate")
    assert first.knowledge_id == second.knowledge_id


def test_many_are_recorded_in_order_and_all_or_none(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    mark = uuid4().hex
    texts = [f"{mark} number {n}" for n in range(1003)]
    recorded = client.remember_many([*texts, texts[0]])
    assert [one.item_index for one in recorded] == list(range(1004))
    assert {one.outcome for one in recorded[:1003]} == {"created"}
    assert (recorded[1003].outcome, recorded[1003].knowledge_id) == ("duplicate", recorded[0].knowledge_id)
    assert client.get(recorded[1002].knowledge_id).content == texts[1002]

    with pytest.raises(InvalidArgumentError):
        client.remember_many([unique("good"), NewKnowledge(content=f"{mark} bad", importance_score=0)])
    assert client.search("good", max_results=5) == []
    assert client.remember_many([]) == []


def test_the_worker_makes_the_vector(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    recorded = client.remember(unique("A kettle switches itself off when the water boils."))
    # Other tests' texts may be waiting before it.
    deadline = time.monotonic() + 120
    while client.get(recorded.knowledge_id).embedding_model is None:
        assert time.monotonic() < deadline, "no worker embedded it"
        time.sleep(0.1)
    [similar] = client.find_similar(
        "what stops the tea water from cooking forever?", similarity_threshold=0.1
    )
    assert similar.id == recorded.knowledge_id
    assert 0.1 < similar.similarity_score <= 1
    assert client.find_similar("tea water", knowledge_type="procedural", similarity_threshold=0.0) == []


def test_similarity_takes_a_vector(enter: Enter, sign_up: SignUp, embedder: Any) -> None:
    client = enter(sign_up())
    recorded = client.remember("Tides follow the moon.", embed=True)
    vector = embedder.embed_query("Tides follow the moon.\nTides follow the moon.")
    for form in (vector, vector.tolist(), np.asarray(vector, dtype=np.float64)):
        [found] = client.find_similar(form, max_results=1)
        assert found.id == recorded.knowledge_id
        assert found.similarity_score > 0.95


def test_filters_narrow_a_search(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up(), project="p-default")
    mark = "quokka"
    one = client.remember(f"{mark} one", category="a", importance_score=90, retrieval_triggers=["tag-x"])
    two = client.remember(f"{mark} two", category="b", knowledge_type="procedural", importance_score=10)

    def found(**filters: Any) -> set[UUID]:
        return {item.knowledge_id for item in client.search(mark, **filters)}

    both = {one.knowledge_id, two.knowledge_id}
    assert found() == both
    assert found(categories=["a"]) == {one.knowledge_id}
    assert found(knowledge_types=["procedural"]) == {two.knowledge_id}
    assert found(min_importance=50) == {one.knowledge_id}
    assert found(tags=["tag-x"]) == {one.knowledge_id}
    assert found(exclude_ids=[one.knowledge_id]) == {two.knowledge_id}
    assert found(exclude_ids=[str(one.knowledge_id)]) == {two.knowledge_id}
    assert found(validation_statuses=["validated"]) == set()
    assert found(created_after=datetime.now(UTC) + timedelta(hours=1)) == set()
    assert found(created_before=datetime.now(UTC) + timedelta(hours=1)) == both
    assert len(found(max_results=1)) == 1
    assert client.get(one.knowledge_id).project_context == "p-default"


def test_context_says_why(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    client.remember("Restart the exporter after rotating its certificate.", embed=True)
    [found] = client.context("we are rotating the exporter's certificate")
    assert found.relevance_reason
    assert found.knowledge_type == "factual"


def test_ratings_add_up(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    item = client.remember(unique("rated")).knowledge_id
    client.rate(item, effectiveness_rating=10, application_success=True, notes="it worked")
    rated = client.rate(item, effectiveness_rating=5, application_success=False)
    assert (rated.rating_count, rated.average_rating, rated.success_count, rated.failure_count) == (
        2,
        7.5,
        1,
        1,
    )


def test_validation_and_deprecation(enter: Enter, sign_up: SignUp) -> None:
    client = enter(sign_up())
    item = client.remember(unique("wombat")).knowledge_id
    assert client.validate(item, note="checked").validation_status == "validated"
    assert client.get(item).validation_note == "checked"
    client.validate(item, "deprecated")
    assert client.recall("wombat") == []
    assert [found.knowledge_id for found in client.search("wombat", validation_statuses=["deprecated"])] == [
        item
    ]


def test_members_come_and_go(enter: Enter, sign_up: SignUp) -> None:
    ana, ben = sign_up("ana"), sign_up("ben")
    owner = enter(ana)
    made = owner.create_workspace("lab", description="where things are tried")
    assert (made.name, made.role) == ("lab", "owner")
    member = owner.add_workspace_member(made.workspace_id, ben.id, role="reader")
    assert (member.user_id, member.role) == (ben.id, "reader")
    assert owner.set_workspace_member_role(made.workspace_id, ben.id, role="maintainer").role == "maintainer"
    assert {(one.user_id, one.role) for one in owner.workspace_members(made.workspace_id)} == {
        (ana.id, "owner"),
        (ben.id, "maintainer"),
    }
    assert "lab" in [one.name for one in enter(ben).workspaces()]
    assert enter(ben, workspace="lab").remember(unique("by name")).workspace_id == made.workspace_id
    owner.remove_workspace_member(made.workspace_id, ben.id)
    assert "lab" not in [one.name for one in enter(ben).workspaces()]
    owner.delete_workspace(made.workspace_id)
    assert "lab" not in [one.name for one in owner.workspaces()]


def test_whoami_is_what_the_deployment_says(enter: Enter, sign_up: SignUp) -> None:
    ana = sign_up("ana")
    identity = enter(ana).whoami()
    assert (identity.role, identity.user_id, identity.email) == (
        "authenticated",
        ana.id,
        ana.credential.email,
    )


def test_the_service_registers_models_and_serves_jobs(service: KnowledgeClient) -> None:
    name = f"tiny-{uuid4().hex[:8]}"
    made = service.register_embedding_model(name, 3, similarity_threshold=0.2, query_prefix="q: ")
    assert (made.name, made.dimensions, made.similarity_threshold, made.query_prefix) == (name, 3, 0.2, "q: ")
    assert name in {model.name for model in service.embedding_models()}
    assert service.claim_embedding_jobs(embedding_models=[name]) == []
    assert service.store_embeddings([]) == []
    assert service.whoami().role == "service_role"
    with pytest.raises(KnowledgePersistenceError) as caught:
        service.register_embedding_model(name, 4)
    assert type(caught.value).__name__ == "ConflictError"


async def test_the_async_client_does_the_same(
    enter_async: Callable[..., AsyncKnowledgeClient], sign_up: SignUp
) -> None:
    ana = sign_up("ana")
    async with enter_async(ana) as client:
        async with client.session("async") as session:
            recorded = await session.remember("Coroutines share one thread.", embed=True)
            [found] = await session.recall("do coroutines run in parallel?")
            assert found.knowledge_id == recorded.knowledge_id
        assert session.ended is not None
        assert session.ended.knowledge_items_accessed == 1
        with pytest.raises(RuntimeError):
            async with client.session("async broken"):
                raise RuntimeError("stop")
        assert (await client.get_session("async broken")).end_time is not None
        assert (await client.whoami()).user_id == ana.id
        with pytest.raises(NotFoundError):
            await client.get(uuid4())
