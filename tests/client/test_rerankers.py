"""Rerankers: a cross-encoder of one's own and a server, and how a search goes on without them."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import onnx
import pytest
from onnx import TensorProto, helper

from knowledge_persistence import (
    ConfigurationError,
    InvalidArgumentError,
    Reranker,
    RerankError,
    connect,
    make_reranker,
)
from knowledge_persistence.rerankers import BoundedReranker
from knowledge_persistence.rerankers.api import RerankApi
from knowledge_persistence.rerankers.cross_encoder import CrossEncoder
from knowledge_persistence.settings import Settings
from rerank_server import Fault, RerankServer, rerank_server

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from conftest import Door, Person, Printed
    from knowledge_persistence import KnowledgeClient

    SignUp = Callable[..., Person]
    Enter = Callable[..., KnowledgeClient]

QUERY = "gateway restarts"
TEXTS = [
    "The proxy caches; nothing else is said here.",
    "Gateway restarts.",
    "The gateway is slow, and what restarts is the proxy behind it, by night.",
]
FAULTS: list[Fault] = [
    "refuses", "silent", "trickles", "gibberish", "too few", "misnumbered", "no number", "not finite",
]  # fmt: skip


@pytest.fixture
def server() -> Generator[RerankServer]:
    with rerank_server() as server:
        yield server


def save_model(
    path: Path, *, inputs: Sequence[str] = ("input_ids", "attention_mask", "token_type_ids")
) -> Path:
    """Write a cross-encoder that counts the pairs of equal tokens in query and text: rules in the place of a model."""
    names = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in inputs]
    constants = {"one": [1], "two": [2], "both": [1, 2]}
    steps = [
        # Tokens of the text: of the second kind, and no padding.
        ("Mul", ["token_type_ids", "attention_mask"], "text"),
        ("Sub", ["attention_mask", "text"], "query"),
        ("Unsqueeze", ["input_ids", "two"], "down"),
        ("Unsqueeze", ["input_ids", "one"], "across"),
        ("Equal", ["down", "across"], "same"),
        ("Unsqueeze", ["query", "two"], "of query"),
        ("Unsqueeze", ["text", "one"], "of text"),
        ("Mul", ["of query", "of text"], "pairs"),
    ]
    nodes = [helper.make_node(kind, given, [made]) for kind, given, made in steps]
    nodes += [
        helper.make_node("Cast", ["same"], ["same numbers"], to=TensorProto.INT64),
        helper.make_node("Mul", ["same numbers", "pairs"], ["shared"]),
        helper.make_node("ReduceSum", ["shared", "both"], ["count"], keepdims=0),
        helper.make_node("Unsqueeze", ["count", "one"], ["column"]),
        helper.make_node("Cast", ["column"], ["logits"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "counts",
        names,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 1])],
        [helper.make_tensor(name, TensorProto.INT64, [len(axes)], axes) for name, axes in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


# A cross-encoder of one's own


def test_a_cross_encoder_reads_query_and_text_together(tmp_path: Path) -> None:
    reranker = CrossEncoder(save_model(tmp_path / "model.onnx"))
    assert isinstance(reranker, Reranker)
    # The separator at the end of each is shared, too, and the ending of "restarts" and "caches".
    assert reranker.rerank(QUERY, TEXTS, timeout=60) == [2.0, 4.0, 4.0]
    # In batches by length, and back in order.
    many = [f"{'gateway ' * (number % 5)}{'padding ' * (number % 7)}" for number in range(40)]
    assert reranker.rerank(QUERY, many, timeout=60) == [1.0 + number % 5 for number in range(40)]
    # Both are cut, so that they fit into what the model reads.
    assert reranker.rerank("gateway " * 400, ["gateway " * 2000], timeout=60) == [126 * (512 - 128 - 1) + 1.0]


def test_a_cross_encoder_brings_its_own_vocabulary(tmp_path: Path) -> None:
    reranker = CrossEncoder(save_model(tmp_path / "model.onnx"))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ngateway\n")
    # All that it doesn't know is one and the same to it.
    assert reranker.rerank("gateway unheard", ["other words", "gateway"], timeout=60) == [3.0, 2.0]


def test_a_file_that_is_no_cross_encoder_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for path in (tmp_path / "missing.onnx", tmp_path / "broken.onnx"):
        with pytest.raises(ConfigurationError, match=f"{path.name} can't be loaded.*KP_RERANK_MODEL_PATH"):
            CrossEncoder(path).rerank(QUERY, TEXTS, timeout=60)
    identity = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["pixels"], ["same"])],
            "other",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["b", 1])],
            [helper.make_tensor_value_info("same", TensorProto.FLOAT, ["b", 1])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )
    onnx.save(identity, tmp_path / "other.onnx")
    with pytest.raises(ConfigurationError, match="takes \\['pixels'\\]"):
        CrossEncoder(tmp_path / "other.onnx").rerank(QUERY, TEXTS, timeout=60)


def test_a_cross_encoder_looks_at_the_clock(tmp_path: Path) -> None:
    reranker = CrossEncoder(save_model(tmp_path / "model.onnx"))
    with pytest.raises(RerankError, match="no answer within"):
        reranker.rerank(QUERY, TEXTS * 10, timeout=-1)


# A server


def test_a_server_is_asked_once_and_answers_by_index(server: RerankServer) -> None:
    reranker = RerankApi(server.url, model="small", api_key="k-1")
    assert isinstance(reranker, Reranker)
    scores = reranker.rerank(QUERY, TEXTS, timeout=60)
    assert sorted(range(3), key=lambda index: -scores[index]) == [1, 2, 0]
    [asked] = server.asked
    assert (asked["path"], asked["key"]) == ("/v2/rerank", "Bearer k-1")
    assert (asked["model"], asked["query"], asked["documents"], asked["top_n"]) == ("small", QUERY, TEXTS, 3)
    assert RerankApi(f"{server.url}/rerank/", model="small").rerank(QUERY, TEXTS, timeout=60) == scores
    assert (server.asked[1]["path"], server.asked[1]["key"]) == ("/v2/rerank", None)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("refuses", "answered 429: .*quota exhausted"),
        ("gibberish", "can't be read"),
        ("too few", "sent 3 texts and scored 2"),
        ("misnumbered", "numbered"),
        ("no number", "can't be read"),
    ],
)
def test_a_servers_wrong_answer_is_refused(server: RerankServer, fault: Fault, message: str) -> None:
    server.fault = fault
    with pytest.raises(RerankError, match=message) as caught:
        RerankApi(server.url, model="small", api_key="very-secret").rerank(QUERY, TEXTS, timeout=60)
    assert "very-secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named() -> None:
    for url in ("http://127.0.0.1:9", "not a url"):
        with pytest.raises(RerankError, match=f"{url}/rerank.*can't be reached"):
            RerankApi(url, model="small").rerank(QUERY, TEXTS, timeout=60)


# The bound


class Hanging:
    """A reranker that does nothing until it is let go."""

    name = "the hanging one"

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.asked = 0

    def rerank(self, query: str, documents: Sequence[str], *, timeout: float) -> list[float]:  # noqa: ARG002
        self.asked += 1
        self.let_go.wait(60)
        return [1.0] * len(documents)


class Odd:
    """A reranker that answers as it was made to."""

    name = "the odd one"

    def __init__(self, answer: Callable[[], list[float]]) -> None:
        self._answer = answer

    def rerank(self, query: str, documents: Sequence[str], *, timeout: float) -> list[float]:  # noqa: ARG002
        return self._answer()


def test_nobody_waits_longer_than_was_said_and_no_crowd_gathers(caplog: pytest.LogCaptureFixture) -> None:
    hanging = Hanging()
    bounded = BoundedReranker(hanging, seconds=0.05)
    for _ in range(6):
        assert bounded.scores(QUERY, TEXTS) is None
    assert hanging.asked == 4, "those that hang are not joined by more"
    assert "no answer within 0.05 s" in caplog.messages[0]
    assert "busy with 4 other queries" in caplog.messages[-1]
    hanging.let_go.set()
    deadline = time.monotonic() + 30
    patient = BoundedReranker(hanging, seconds=30)
    patient._free = bounded._free
    while (scores := patient.scores(QUERY, TEXTS)) is None:
        assert time.monotonic() < deadline, "they are let in again when the others have gone"
    assert scores == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: [1.0], "3 texts and answered with 1 scores"),
        (lambda: [1.0, float("nan"), 0.0], "no finite numbers"),
        (lambda: [1.0, float("inf"), 0.0], "no finite numbers"),
        (lambda: [1 / 0], "failed: ZeroDivisionError"),
    ],
)
def test_what_a_reranker_makes_of_it_ends_nobodys_search(
    caplog: pytest.LogCaptureFixture, answer: Callable[[], list[float]], message: str
) -> None:
    assert BoundedReranker(Odd(answer), seconds=30).scores(QUERY, TEXTS) is None
    assert message in caplog.text


# The choice


def test_none_is_used_unless_it_is_chosen(tmp_path: Path) -> None:
    def made(**values: Any) -> Reranker | None:
        return make_reranker(Settings(home=tmp_path, **values))

    assert made() is None
    assert made(rerank_url="http://127.0.0.1:9", rerank_model="m", rerank_api_key="k") is None, (
        "a key chooses nothing"
    )
    assert made(reranker="none") is None
    assert isinstance(made(reranker="local", rerank_model_path=tmp_path / "m.onnx"), CrossEncoder)
    assert isinstance(made(reranker="api", rerank_url="http://127.0.0.1:9", rerank_model="m"), RerankApi)
    for wrong in ({"reranker": "local"}, {"reranker": "api"}, {"reranker": "api", "rerank_url": "http://x"}):
        with pytest.raises(ConfigurationError, match="KP_RERANK"):
            made(**wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KP_RERANKER", "best"),
        ("KP_RERANK_SECONDS", "0"),
        ("KP_RERANK_SECONDS", "soon"),
        ("KP_RERANK_SECONDS", "61"),
    ],
)
def test_a_wrong_setting_is_told(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        Settings.load()


# A search


def ids(found: Sequence[Any]) -> list[UUID]:
    return [item.knowledge_id for item in found]


@pytest.fixture
def filled(enter: Enter, sign_up: SignUp, server: RerankServer) -> tuple[KnowledgeClient, list[UUID]]:
    """Somebody with a reranking client, and three items; by words alone the last comes first."""
    client = enter(sign_up("reader"), embedder=None, reranker=RerankApi(server.url, model="small"))
    items = [
        client.remember(text, title=title).knowledge_id
        for title, text in (
            ("gateway", "It restarts, and a lot more is said of what else it does by night and by day."),
            ("restarts", "gateway restarts"),
            ("gateway gateway restarts restarts", "The gateway: its restarts are a long story. " * 4),
        )
    ]
    return client, items


def test_what_is_found_is_put_in_the_rerankers_order(
    filled: tuple[KnowledgeClient, list[UUID]], server: RerankServer
) -> None:
    client, items = filled
    plain = client.search(QUERY, rerank=False)
    assert all(item.rerank_score is None and item.cursor for item in plain)
    assert server.asked == []

    found = client.search(QUERY)
    assert set(ids(found)) == set(items)
    assert ids(found)[0] == items[1] != ids(plain)[0]
    scores = [item.rerank_score for item in found]
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    assert [item.cursor for item in found] == ["", "", ""]
    assert min(server.asked[0]["documents"]).startswith("gateway\nIt restarts")
    # Also what the search alone would have cut off.
    assert ids(client.search(QUERY, max_results=1)) == [items[1]]
    assert client.search("unheardofword") == []


def test_only_what_is_handed_on_counts_as_recalled(filled: tuple[KnowledgeClient, list[UUID]]) -> None:
    client, items = filled
    with client.session("reading") as session:
        assert ids(session.recall(QUERY, max_results=1)) == [items[1]]
        session.search(QUERY)
    assert [client.get(item).access_count for item in items] == [0, 1, 0]
    assert session.ended is not None
    assert session.ended.knowledge_items_accessed == 1


def test_an_exact_trigger_keeps_its_place(
    filled: tuple[KnowledgeClient, list[UUID]], server: RerankServer
) -> None:
    client, items = filled
    code = client.remember(
        "Start it first.", title="Refused", retrieval_triggers=["ECONNREFUSED"]
    ).knowledge_id
    found = client.search("gateway restarts ECONNREFUSED gateway restarts")
    assert ids(found)[:2] == [code, items[1]]
    assert (found[0].rerank_score or 0) < (found[1].rerank_score or 0)
    assert server.asked


def test_a_reranker_orders_one_page(filled: tuple[KnowledgeClient, list[UUID]], server: RerankServer) -> None:
    client, _ = filled
    first = client.search(QUERY, max_results=2, rerank=False)
    rest = client.search(QUERY, max_results=2, after_cursor=first[-1].cursor)
    assert len({*ids(first), *ids(rest)}) == 3
    assert server.asked == [], "what comes after a cursor comes in the search's own order"
    with pytest.raises(InvalidArgumentError, match="no next page"):
        client.search(QUERY, after_cursor=first[-1].cursor, rerank=True)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("door", ["direct"])
def test_a_search_goes_on_without_its_reranker(
    enter: Enter, sign_up: SignUp, server: RerankServer, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    me = sign_up("reader")
    patient = enter(me, embedder=None)
    for text in TEXTS[1:]:
        patient.remember(text)
    settings = Settings(home=me.home, rerank_seconds=0.3 if fault in {"silent", "trickles"} else 30)
    client = enter(me, embedder=None, reranker=RerankApi(server.url, model="small"), settings=settings)
    server.fault = fault
    with caplog.at_level(logging.WARNING, logger="knowledge_persistence"):
        found = client.recall(QUERY)
    assert ids(found) == ids(patient.search(QUERY))
    assert [item.rerank_score for item in found] == [None, None]
    assert "not reranked" in caplog.text
    assert [client.get(item).access_count for item in ids(found)] == [1, 1], "counted all the same"


@pytest.mark.parametrize("door", ["direct"])
def test_without_a_reranker_none_can_be_asked_for(enter: Enter, sign_up: SignUp, door: Door) -> None:  # noqa: ARG001
    client = enter(sign_up("reader"), embedder=None)
    with pytest.raises(InvalidArgumentError, match="KP_RERANKER"):
        client.search(QUERY, rerank=True)


@pytest.mark.parametrize("door", ["direct"])
def test_settings_choose_one_for_the_client(enter: Enter, sign_up: SignUp, server: RerankServer) -> None:
    me = sign_up("reader")
    enter(me, embedder=None).remember(TEXTS[1])
    settings = Settings(
        home=me.home, reranker="api", rerank_url=server.url, rerank_model="small", rerank_seconds=30
    )
    with connect(**me.arguments("direct") | {"embedder": None, "settings": settings}) as client:
        assert client.search(QUERY)[0].rerank_score == 1.0
    with connect(
        **me.arguments("direct") | {"embedder": None, "reranker": None, "settings": settings}
    ) as client:
        assert client.search(QUERY)[0].rerank_score is None


def test_the_command_line_reranks_and_says_when_it_could_not(
    sign_up: SignUp, command: Callable[..., Printed], server: RerankServer
) -> None:
    me = sign_up("reader")
    for text in TEXTS[1:]:
        command(me, "remember", text)
    chosen = {
        "KP_RERANKER": "api",
        "KP_RERANK_URL": server.url,
        "KP_RERANK_MODEL": "small",
        "KP_RERANK_SECONDS": "30",
    }
    plain = command(me, "recall", QUERY, "--json").json
    assert [item["rerank_score"] for item in plain] == [None, None]
    reranked = command(me, "recall", QUERY, "--json", **chosen).json
    assert reranked[0]["content"] == TEXTS[1]
    assert reranked[0]["rerank_score"] == 1.0
    assert command(me, "recall", QUERY, "--no-rerank", "--json", **chosen).json[0]["rerank_score"] is None
    table = command(me, "recall", QUERY, "--explain", **chosen).out
    assert "reranked" in table
    assert "1.00" in table
    refused = command(me, "recall", QUERY, "--rerank")
    assert (refused.code, refused.out) == (1, "")
    assert "KP_RERANKER" in refused.err
