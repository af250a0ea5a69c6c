"""The edge functions: who comes in, what they do, what they say when they don't."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import jwt
import numpy as np
import pytest

from callers import PUBLISHABLE, SECRET, SECRET_KEY, Edge, bearer, token
from knowledge_persistence import models
from knowledge_persistence.edge import schemas
from knowledge_persistence.edge.identity import key_source
from knowledge_persistence.edge.limits import RateLimit
from knowledge_persistence.edge.observe import JsonLines
from knowledge_persistence.embedders import BaseEmbedder
from knowledge_persistence.errors import ConfigurationError, EmbeddingError
from knowledge_persistence.operations.keys import generate_secrets
from teams import Team
from world import World

BODIES: dict[str, dict[str, Any]] = {
    "remember": {"content": "Lock rows in one order."},
    "recall": {"query": "in which order do I lock?"},
    "context": {"situation": "two transactions wait for each other"},
    "embed": {"texts": ["a text"]},
    "gotchas": {"problem": "ERROR: deadlock detected"},
}


class Model(BaseEmbedder):
    """A model that does what a test says."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__(name="all-MiniLM-L6-v2", dimensions=384, cache_size=0)
        self._act = act

    def _embed(self, texts: Any) -> Any:
        self._act()
        return np.eye(384, dtype=np.float32)[: len(texts)]


def forged(key_id: str, secret: str) -> str:
    """Make what no library makes: a token that names a public key and was signed with it as if it were a secret."""
    parts = [{"alg": "HS256", "typ": "JWT", "kid": key_id}, {"role": "service_role", "exp": 2**31}]
    text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = hmac.digest(secret.encode(), text, "sha256")
    return b".".join([text, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def fail() -> None:
    raise EmbeddingError("the provider is down")


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def agent(team: Team, **arguments: Any) -> tuple[dict[str, str], Any]:
    [made] = team.author.rpc("create_agent_token", name="agent", workspace_id=team.id, **arguments)
    return {"authorization": f"Bearer {made['token']}"}, made["token_id"]


async def test_nobody_comes_in_without_being_somebody(edge: Edge, team: Team) -> None:
    revoked, token_id = agent(team)
    team.author.rpc("revoke_agent_token", token_id=token_id)
    now = int(time.time())
    bad = [
        {},
        {"apikey": PUBLISHABLE},
        {"apikey": PUBLISHABLE, "authorization": f"Bearer {PUBLISHABLE}"},
        {"apikey": SECRET_KEY + "x"},
        {"authorization": "Bearer sb_secret_"},
        {"authorization": f"Basic {SECRET_KEY}"},
        {"authorization": "Bearer kpt_" + "0" * 64},
        {"authorization": "Bearer kpt_"},
        revoked,
        *(
            {"apikey": PUBLISHABLE, "authorization": f"Bearer {one}"}
            for one in (
                "a.b.c",
                "ä",
                token("another secret, which is long enough as well"),
                token(exp=now - 60),
                token(exp=None),
                token(role="anon"),
                token(role="postgres"),
                token(role=None),
                token(sub="root"),
                token(sub=None),
                token(algorithm="HS512"),
                jwt.encode({"sub": "x", "role": "service_role", "exp": now + 60}, None, "none"),
            )
        ),
    ]
    for headers in bad:
        encoded = {name: value.encode() for name, value in headers.items()}
        # Before anything of the body is looked at.
        answer = await edge.client.post("/functions/v1/recall", content=b"{", headers=encoded)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"].startswith("Bearer")
        told = answer.json()
        assert set(told) == {"code", "message", "details", "hint"}
        assert told["code"] == "PT401"
        assert not any(value.split()[-1] in answer.text for value in headers.values() if len(value) > 20)
    for name, body in BODIES.items():
        assert (await edge(name, body)).status_code == 401


async def test_figures_are_for_the_service(edge: Edge, team: Team) -> None:
    for path in ("/metrics", "/functions/v1/metrics"):
        assert (await edge.get(path)).status_code == 401
        assert (await edge.get(path, {"apikey": PUBLISHABLE})).status_code == 401
        assert (await edge.get(path, bearer(team.owner))).status_code == 403
        assert (await edge.get(path, agent(team)[0])).status_code == 403
    assert (await edge("recall", BODIES["recall"], bearer(team.author))).status_code == 200
    text = (await edge.get("/functions/v1/metrics", {"apikey": SECRET_KEY})).text
    assert 'kp_edge_requests_total{function="recall",status="200"} 1.0' in text
    assert 'kp_edge_requests_total{function="metrics",status="403"} 4.0' in text
    assert 'kp_edge_request_seconds_count{function="recall"} 1.0' in text
    await edge.get("/functions/v1/a-name-that-somebody-made-up")
    text = (await edge.get("/metrics", {"authorization": f"Bearer {SECRET_KEY}"})).text
    assert "made-up" not in text
    assert 'function="other",status="404"' in text


async def test_the_service_is_told_what_the_database_tells_it(edge: Edge) -> None:
    answer = await edge("recall", BODIES["recall"], {"apikey": SECRET_KEY})
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")
    assert (await edge("embed", BODIES["embed"], {"apikey": SECRET_KEY})).status_code == 200


async def test_a_context_that_is_not_the_callers_is_refused(edge: Edge, team: Team) -> None:
    foreign = team.stranger.start_session("theirs")
    own = team.author.inside(None).start_session("mine")
    item = team.author.inside(None).record("A private plan", "Nobody's business.")
    with_token = agent(team)[0]
    for function in ("remember", "recall", "context", "gotchas"):
        for headers, code in (
            (bearer(team.author.inside(team.strangers_id)), "PT403"),
            (bearer(team.author.inside(None, foreign.session)), "PT403"),
            (bearer(team.author.inside("team")), "PT400"),
            (bearer(team.author.inside(None, "mine")), "PT400"),
            ({**with_token, "x-workspace-id": str(team.strangers_id)}, "PT403"),
            ({**with_token, "x-workspace-id": str(own.workspace)}, "PT403"),
            ({**with_token, "x-session-id": str(own.session)}, "PT403"),
        ):
            answer = await edge(function, BODIES[function], headers)
            told = answer.json()
            assert (answer.status_code, told["code"]) == (int(code[2:]), code), (function, headers)
            assert told["message"]
    found = await edge("recall", {"query": "private plan"}, with_token)
    assert found.json() == []
    found = await edge("recall", {"query": "private plan"}, bearer(team.author.inside(None)))
    assert [one["knowledge_id"] for one in found.json()] == [str(item)]


@pytest.mark.parametrize("prefix", ["/functions/v1", ""])
async def test_what_one_remembers_the_other_recalls(edge: Edge, team: Team, prefix: str) -> None:
    async def call(function: str, body: object, headers: dict[str, str]) -> Any:
        answer = await edge.client.post(f"{prefix}/{function}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    session = team.author.start_session("s")
    body = {
        "content": "Always lock rows in one order.",
        "project_context": "atlas",
        "context_data": {"a": [1]},
    }
    recorded = await call("remember", body, bearer(session))
    assert recorded["outcome"] == "created"
    assert recorded["created_in_session"] == str(session.session)
    assert (await call("remember", body, bearer(session)))["outcome"] == "duplicate"
    [row] = team.author.sql(
        "select content_embedding is not null as embedded, embedding_model, title from public.knowledge_items"
    )
    assert row == {
        "embedded": True,
        "embedding_model": "all-MiniLM-L6-v2",
        "title": "Always lock rows in one order",
    }

    # Pending, it is its author's alone; the agent that acts for the author is the author.
    question = {"query": "two transactions wait for each other", "project_context": "atlas"}
    assert await call("recall", question, bearer(team.colleague)) == []
    for headers in (bearer(team.author), agent(team)[0]):
        [found] = await call("recall", question, headers)
        assert found["knowledge_id"] == recorded["knowledge_id"]
        assert found["vector_score"] > 0
        assert found["context_data"] == {"a": [1]}
        assert found["relevance_reason"]
        [met] = await call("context", {"situation": question["query"]}, headers)
        assert met["knowledge_id"] == recorded["knowledge_id"]
    assert (
        await call("recall", {**question, "project_context": "other", "min_importance": 90}, bearer(session))
        == []
    )
    uses = "select access_count from public.knowledge_items"
    counted = team.author.value(uses)
    await call("recall", {**question, "log": False}, bearer(session))
    assert team.author.value(uses) == counted
    await call("recall", question, bearer(session))
    assert team.author.value(uses) == counted + 1


async def test_known_problems_are_found(edge: Edge, team: Team) -> None:
    team.author.rpc(
        "record_gotcha",
        problem_description="ERROR: deadlock detected",
        attempted_solution="lock in one order",
        attempt_outcome="worked",
    )
    [found] = (await edge("gotchas", BODIES["gotchas"], bearer(team.author))).json()
    assert found["worked"][0]["solution"] == "lock in one order"
    assert found["exact_match"] is True


async def test_texts_are_embedded_for_their_purpose(
    make_edge: Any, edge: Edge, team: Team, world: World
) -> None:
    world.superuser(
        "update public.embedding_models set query_prefix = 'query: ' where name = 'all-MiniLM-L6-v2' returning 1"
    )
    texts = ["first", "second"]
    answers = {
        purpose: (await edge("embed", {"texts": texts, "purpose": purpose}, bearer(team.author))).json()
        for purpose in ("query", "document")
    }
    for answer in answers.values():
        assert (answer["embedding_model"], answer["dimensions"]) == ("all-MiniLM-L6-v2", 384)
        assert [len(one) for one in answer["embeddings"]] == [384, 384]
    assert answers["query"]["embeddings"] != answers["document"]["embeddings"]
    plain = await edge("embed", {"texts": ["query: first"]}, bearer(team.author))
    assert plain.json()["embeddings"][0] == pytest.approx(answers["query"]["embeddings"][0], abs=1e-6)
    without = await make_edge(embedder=None)
    answer = await without("embed", {"texts": texts}, bearer(team.author))
    assert (answer.status_code, answer.json()["code"]) == (503, "KP503")


async def test_a_wrong_argument_is_named(edge: Edge) -> None:
    headers = {"authorization": f"Bearer {token()}"}
    for function, body in [
        ("recall", None),
        ("recall", []),
        ("recall", {}),
        ("recall", {"query": ""}),
        ("recall", {"query": "a\0b"}),
        ("recall", {"query": 7}),
        ("recall", {"query": "x", "max_results": 0}),
        ("recall", {"query": "x", "max_result": 5}),
        ("recall", {"query": "x", "exclude_ids": ["x"]}),
        ("recall", {"query": "x", "created_after": "yesterday"}),
        ("recall", {"query": "x", "created_after": "2026-01-01T00:00:00"}),
        ("recall", {"query": "x" * 65537}),
        ("remember", {"content": "  "}),
        ("remember", {"content": "x", "importance_score": 101}),
        ("remember", {"content": "x", "context_data": {"a": {"b": "\0"}}}),
        ("remember", {"content": "x", "knowledge_type": "gossip"}),
        ("embed", {"texts": []}),
        ("embed", {"texts": [" "]}),
        ("embed", {"texts": ["x"] * 65}),
        ("gotchas", {"problem": " "}),
    ]:
        answer = await edge(function, body, headers)
        assert answer.status_code == 400, (function, body, answer.text)
        told = answer.json()
        assert set(told) == {"code", "message", "details", "hint"}
        assert told["message"]


async def test_a_body_that_is_no_json_is_refused(edge: Edge, team: Team) -> None:
    kind = {"content-type": "application/json"}
    deep = b'{"content": "x", "context_data": ' + b'{"a":' * 60 + b"1" + b"}" * 61
    for content, headers in (
        (b"{", kind),
        (b"", kind),
        (b'{"query": "x"}', {"content-type": "text/plain"}),
        (b'{"query": "\\ud800"}', kind),
        (b'\xff\xfe{"query": "x"}', kind),
        (b'{"query": "x", "context_data": {"a": NaN}}', kind),
        (b"[" * 100_000, kind),
    ):
        answer = await edge.client.post(
            "/functions/v1/recall", content=content, headers={**bearer(team.author), **headers}
        )
        assert answer.status_code == 400, content[:50]
        assert answer.json()["code"].startswith(("PT400", "KP400", "22P0")), answer.text
    answer = await edge.client.post(
        "/functions/v1/remember", content=deep, headers={**bearer(team.author), **kind}
    )
    assert answer.status_code == 400


async def test_what_is_not_there(edge: Edge) -> None:
    for method, path, status in (
        ("GET", "/recall", 405),
        ("POST", "/health", 405),
        ("POST", "/nothing", 404),
    ):
        answer = await edge.client.request(method, f"/functions/v1{path}")
        assert (answer.status_code, answer.json()["code"]) == (status, f"KP{status}")
    assert (await edge.get("/functions/v1/docs")).status_code == 404


async def test_a_body_that_is_too_long_is_not_read(make_edge: Any, team: Team) -> None:
    edge = await make_edge(body_bytes=1000)
    headers = {**bearer(team.author), "content-type": "application/json"}
    sent = 0

    async def parts() -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 100
            yield b" " * 100

    for content in (b" " * 1001, parts()):
        answer = await edge.client.post("/functions/v1/recall", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "KP413")
        assert "1000 bytes" in answer.json()["message"]
    assert sent < 2000


async def test_what_takes_too_long_is_given_up(make_edge: Any, team: Team) -> None:
    over = threading.Event()
    edge = await make_edge(embedder=Model(lambda: over.wait(60) and None), seconds=0.2)
    try:
        answer = await edge("recall", BODIES["recall"], bearer(team.author))
        assert (answer.status_code, answer.json()["code"]) == (504, "KP504")
    finally:
        over.set()


async def test_a_statement_that_takes_too_long_is_given_up(make_edge: Any, team: Team, world: World) -> None:
    edge = await make_edge(embedder=None)
    assert (await edge("remember", BODIES["remember"], bearer(team.author))).status_code == 200
    # Somebody holds the table: a setting of the role ends the waiting, as statement_timeout would. It is one of
    # this database alone: the role is the whole server's, and has a lock_timeout there that others look at.
    [here] = world.superuser("select quote_ident(current_database()) as name")
    world.superuser(f"alter role authenticator in database {here['name']} set lock_timeout = '50ms'")
    try:
        slow = await make_edge(embedder=None)
        world.superuser("begin")
        world.superuser("lock table public.knowledge_items in access exclusive mode")
        answer = await slow("remember", BODIES["remember"], bearer(team.author))
    finally:
        world.superuser("rollback")
        world.superuser(f"alter role authenticator in database {here['name']} reset lock_timeout")
    assert (answer.status_code, answer.json()["code"]) == (504, "55P03")


async def test_who_asks_too_often_is_told_when_to_come_back(make_edge: Any, team: Team) -> None:
    edge = await make_edge(requests_per_minute=3)
    # A user's agents and the user are one.
    mine = [bearer(team.author), agent(team)[0], bearer(team.author)]
    for headers in mine:
        assert (await edge("embed", {}, headers)).status_code == 400
    for headers in mine:
        answer = await edge("embed", {}, headers)
        assert (answer.status_code, answer.json()["code"]) == (429, "PT429")
        assert 1 <= int(answer.headers["retry-after"]) <= 20
    assert (await edge("embed", {}, bearer(team.colleague))).status_code == 400


def test_a_bucket_fills_up_again() -> None:
    rate = RateLimit(60)
    assert [rate.take("a", now=0) for _ in range(61)] == [0.0] * 60 + [1.0]
    assert rate.take("b", now=0) == 0
    assert rate.take("a", now=0.5) == pytest.approx(0.5)
    assert rate.take("a", now=1.0) == 0
    assert rate.take("a", now=1.0) == pytest.approx(1.0)
    # Who hasn't been here for a minute is forgotten, and loses nothing by it.
    assert [rate.take("a", now=1000) for _ in range(61)][-2:] == [0.0, 1.0]
    assert len(rate._buckets) == 1


async def test_text_is_accepted_though_no_model_answers(make_edge: Any, team: Team) -> None:
    edge = await make_edge(embedder=Model(fail))
    assert (await edge("remember", BODIES["remember"], bearer(team.author))).json()["outcome"] == "created"
    [row] = team.author.sql("select content_embedding is null as waits from public.knowledge_items")
    assert row["waits"]
    answer = await edge("recall", BODIES["recall"], bearer(team.author))
    assert (answer.status_code, answer.json()["code"]) == (503, "KP503")
    assert answer.headers["retry-after"]
    assert "kp_edge_unembedded_total 1.0" in (await edge.get("/metrics", {"apikey": SECRET_KEY})).text
    without = await make_edge(embedder=None)
    [found] = (await without("recall", BODIES["recall"], bearer(team.author))).json()
    assert found["vector_score"] is None


async def test_without_a_database_it_says_so(make_edge: Any, team: Team) -> None:
    edge = await make_edge(url="postgresql://authenticator:x@127.0.0.1:1/postgres")
    for answer in (
        await edge("recall", BODIES["recall"], bearer(team.author)),
        await edge("recall", BODIES["recall"], {"authorization": "Bearer kpt_" + "0" * 64}),
        await edge.get("/health"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "PGRST001")
        assert "127.0.0.1" not in answer.text
        assert answer.headers["retry-after"]


async def test_it_is_healthy(edge: Edge) -> None:
    for path in ("/health", "/functions/v1/health"):
        answer = await edge.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_each_request_has_an_id_and_a_line_that_gives_nothing_away(
    edge: Edge, team: Team, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "knowledge_persistence.edge")
    headers = bearer(team.author, **{"x-request-id": "trace-1"})
    answer = await edge("remember", {"content": "the cat is called Moritz"}, headers)
    assert answer.headers["x-request-id"] == "trace-1"
    for forged in ("a b", "x" * 129, "<script>"):
        answer = await edge("recall", BODIES["recall"], {**headers, "x-request-id": forged})
        assert answer.headers["x-request-id"] not in {forged, ""}
    refused = await edge("recall", {"query": "Moritz", "x": "Moritz"}, headers)
    assert refused.status_code == 400
    lines = [JsonLines().format(record) for record in caplog.records]
    first = json.loads(lines[0])
    assert first["request_id"] == "trace-1"
    assert (first["function"], first["status"], first["user_id"]) == ("remember", 200, str(team.author.id))
    assert first["milliseconds"] > 0
    said = "\n".join(lines)
    assert "Moritz" not in said
    assert headers["authorization"].split()[1] not in said
    agents, token_id = agent(team)
    caplog.clear()
    await edge("recall", BODIES["recall"], agents)
    [line] = [json.loads(JsonLines().format(record)) for record in caplog.records]
    assert line["token_id"] == str(token_id)
    assert agents["authorization"].split()[1] not in str(line)


async def test_a_bug_is_an_answer_and_its_text_stays_here(
    edge: Edge, team: Team, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("the text of Moritz")

    monkeypatch.setattr("knowledge_persistence.edge.identity.AsyncKnowledgeClient.find_gotchas", broken)
    answer = await edge("gotchas", BODIES["gotchas"], bearer(team.author))
    assert (answer.status_code, answer.json()["code"]) == (500, "KP500")
    assert answer.headers["x-request-id"]
    [line] = [JsonLines().format(one) for one in caplog.records if one.levelno == logging.ERROR]
    assert json.loads(line)["error"] == "ZeroDivisionError"
    assert "Moritz" not in line + answer.text


async def test_keys_of_a_self_hosted_deployment(make_edge: Any, team: Team) -> None:
    """The gateway hands a key on as a token, signed by another algorithm than the legacy ones."""
    secrets = generate_secrets()
    edge = await make_edge(keys=secrets["JWT_JWKS"], secret_key=None)
    signing = jwt.PyJWK(json.loads(secrets["JWT_KEYS"])[0])
    claims = {"sub": str(team.author.id), "role": "authenticated", "exp": int(time.time()) + 60}
    user = jwt.encode(claims, signing.key, "ES256", headers={"kid": str(signing.key_id)})
    public = {"sb-api-key": secrets["ANON_KEY_ASYMMETRIC"], "apikey": secrets["SUPABASE_PUBLISHABLE_KEY"]}

    for headers in (
        public,
        {"apikey": secrets["ANON_KEY"], "authorization": f"Bearer {secrets['ANON_KEY']}"},
        {"apikey": secrets["SUPABASE_SECRET_KEY"]},
        {**public, "authorization": f"Bearer {token()}"},
        # The public key as a shared secret: the key says its algorithm, not the token.
        {**public, "authorization": f"Bearer {forged(str(signing.key_id), secrets['JWT_JWKS'])}"},
    ):
        assert (await edge("recall", BODIES["recall"], headers)).status_code == 401, headers
        assert (await edge.get("/metrics", headers)).status_code == 401, headers
    for headers in (
        {**public, "authorization": f"Bearer {user}"},
        {**public, "authorization": f"Bearer {token(secrets['JWT_SECRET'], sub=claims['sub'])}"},
    ):
        assert (await edge("recall", BODIES["recall"], headers)).status_code == 200, headers
    for headers in (
        {"sb-api-key": secrets["SERVICE_ROLE_KEY_ASYMMETRIC"], "apikey": secrets["SUPABASE_SECRET_KEY"]},
        {"apikey": secrets["SERVICE_ROLE_KEY"], "authorization": f"Bearer {secrets['SERVICE_ROLE_KEY']}"},
    ):
        assert (await edge.get("/metrics", headers)).status_code == 200, headers
    for text in ("{", '{"keys": []}', "{}"):
        with pytest.raises(ConfigurationError):
            key_source(text)
    assert key_source(SECRET)() == SECRET


async def test_the_database_is_asked_in_the_callers_name_by_all_at_once(make_edge: Any, world: World) -> None:
    """Many callers share few connections; none is ever taken for another."""
    edge = await make_edge(embedder=None, connections=2)
    people = [world.sign_up(f"person {number}") for number in range(4)]
    for number, person in enumerate(people):
        person.record(f"Plan {number}", f"the plan of person {number}")

    async def ask(number: int) -> list[str]:
        answer = await edge("recall", {"query": "plan person"}, bearer(people[number]))
        return [one["title"] for one in answer.json()]

    numbers = [number % 4 for number in range(40)]
    assert await asyncio.gather(*map(ask, numbers)) == [[f"Plan {number}"] for number in numbers]


@pytest.mark.parametrize(
    ("schema", "result", "without"),
    [
        (schemas.Remembered, models.RecordedKnowledge, {"item_index"}),
        (schemas.Recalled, models.RecalledKnowledge, set[str]()),
        (schemas.Contextual, models.ContextualKnowledge, set[str]()),
        (schemas.Gotcha, models.FoundGotcha, set[str]()),
        (schemas.AttemptMade, models.Attempt, set[str]()),
    ],
)
def test_answers_are_what_the_client_returns(schema: Any, result: Any, without: set[str]) -> None:
    assert set(schema.model_fields) == {one.name for one in dataclasses.fields(result)} - without
