"""The official clients, unmodified, against the embedded origin."""

from __future__ import annotations

import json
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from postgrest.exceptions import APIError
from supabase import Client, ClientOptions, create_client
from supabase_functions.errors import FunctionsHttpError

from node_tools import DIRECTORY, node

if TYPE_CHECKING:
    from collections.abc import Generator

    from stacks import RunningStack

PASSWORD = "a long enough password"
AXIS = [0.0] * 3 + [1.0] + [0.0] * 380


@pytest.fixture
def http() -> Generator[httpx.Client]:
    with httpx.Client(timeout=30) as http:
        yield http


def python_client(
    stack: RunningStack, http: httpx.Client, name: str, headers: dict[str, str] | None = None
) -> Client:
    options = ClientOptions(
        headers=headers or {}, auto_refresh_token=False, persist_session=False, httpx_client=http
    )
    client = create_client(stack.url, stack.config.publishable_key, options)
    client.auth.sign_up({"email": f"{name}-{uuid.uuid4()}@example.org", "password": PASSWORD})
    return client


def refusal(request: Any) -> str | None:
    with pytest.raises(APIError) as caught:
        request.execute()
    return caught.value.code


def test_supabase_py(stack: RunningStack, http: httpx.Client) -> None:
    ada, mallory = python_client(stack, http, "ada"), python_client(stack, http, "mallory")
    [inserted] = (
        ada.table("knowledge_items")
        .insert({"title": "Deadlocks", "content": "Lock rows in one order.", "content_embedding": str(AXIS)})
        .execute()
        .data
    )
    assert inserted["validation_status"] == "pending"

    assert mallory.table("knowledge_items").select("id").execute().data == []
    assert mallory.rpc("find_similar_knowledge", {"query_embedding": str(AXIS)}).execute().data == []
    rating = {"knowledge_id": inserted["id"], "effectiveness_rating": 1}
    assert refusal(mallory.rpc("rate_knowledge", rating)) == "PT404"
    [session] = ada.rpc("start_session", {"session_identifier": "py"}).execute().data
    mallory.rpc("record_knowledge", {"title": "mine", "content": "mine"}).execute()
    for header, value in (
        ("x-session-id", session["session_id"]),
        ("x-workspace-id", inserted["workspace_id"]),
    ):
        forger = python_client(stack, http, "forger", {header: value})
        assert refusal(forger.table("knowledge_items").insert({"title": "x", "content": "x"})) == "PT403"
        assert refusal(forger.rpc("search_knowledge", {"query_text": "lock"})) == "PT403"
        assert refusal(forger.rpc("start_session", {})) == "PT403"
    options = ClientOptions(httpx_client=http)
    anonymous = create_client(stack.url, stack.config.publishable_key, options)
    assert refusal(anonymous.table("knowledge_items").select("id")) == "42501"

    selected = ada.table("knowledge_items").select("title").eq("id", inserted["id"]).execute().data
    assert selected == [{"title": "Deadlocks"}]
    [similar] = ada.rpc("find_similar_knowledge", {"query_embedding": str(AXIS)}).execute().data
    assert similar["id"] == inserted["id"]
    assert similar["similarity_score"] == pytest.approx(1, abs=1e-3)
    [found] = ada.rpc("search_knowledge", {"query_text": "in which order do I lock?"}).execute().data
    assert found["title"] == "Deadlocks"


def invoked(client: Client, function: str, **body: Any) -> Any:
    return client.functions.invoke(function, {"body": body, "responseType": "json"})


def test_supabase_py_invokes_functions(stack: RunningStack, http: httpx.Client) -> None:
    ada, mallory = python_client(stack, http, "ada"), python_client(stack, http, "mallory")
    recorded = invoked(ada, "remember", content="Lock rows in one order.")
    question = "two transactions wait for each other"

    assert invoked(mallory, "recall", query=question) == []
    forger = python_client(stack, http, "forger", {"x-workspace-id": recorded["workspace_id"]})
    anonymous = create_client(stack.url, stack.config.publishable_key, ClientOptions(httpx_client=http))
    for client, status in ((forger, 403), (anonymous, 401)):
        with pytest.raises(FunctionsHttpError) as caught:
            invoked(client, "recall", query=question)
        assert caught.value.status == status

    [found] = invoked(ada, "recall", query=question)
    assert found["knowledge_id"] == recorded["knowledge_id"]
    # Not a word of the question is in it.
    assert (found["keyword_score"], found["vector_score"] > 0) == (None, True)
    assert invoked(ada, "context", situation=question)[0]["knowledge_id"] == recorded["knowledge_id"]
    assert invoked(ada, "gotchas", problem=question) == []
    embedded = invoked(ada, "embed", texts=[question], purpose="query")
    arguments = {
        "query_embedding": str(embedded["embeddings"][0]),
        "embedding_model": embedded["embedding_model"],
        "similarity_threshold": 0.0,
    }
    [similar] = ada.rpc("find_similar_knowledge", arguments).execute().data
    assert similar["id"] == recorded["knowledge_id"]


def test_supabase_js_invokes_functions(stack: RunningStack) -> None:
    result = subprocess.run(
        [node(), str(DIRECTORY / "functions_client.mjs"), stack.url, stack.config.publishable_key],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["foreign"] == []
    assert answer["forged"]["status"] == 403
    assert answer["forged"]["body"]["code"] == "PT403"
    assert answer["anonymous"]["status"] == 401
    assert answer["invalid"]["status"] == 400
    assert "max_results" in answer["invalid"]["body"]["message"]
    assert answer["recorded"]["outcome"] == "created"
    assert [row["knowledge_id"] for row in answer["recalled"]] == [answer["recorded"]["knowledge_id"]]
    assert [row["knowledge_id"] for row in answer["context"]] == [answer["recorded"]["knowledge_id"]]
    assert (answer["gotchas"], answer["dimensions"]) == ([], 384)


def test_supabase_js(stack: RunningStack) -> None:
    script = DIRECTORY / "official_client.mjs"
    result = subprocess.run(
        [node(), str(script), stack.url, stack.config.publishable_key],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["foreign"] == []
    assert answer["rated"] == {"code": "PT404", "status": 404}
    assert answer["forged"] == {"code": "PT403", "status": 403}
    assert answer["anonymous"] == {"code": "42501", "status": 401}
    assert answer["inserted"]["validation_status"] == "pending"
    assert answer["selected"] == [{"title": "Deadlocks"}]
    assert [row["title"] for row in answer["similar"]] == ["Deadlocks"]
    assert [row["title"] for row in answer["searched"]] == ["Deadlocks"]
