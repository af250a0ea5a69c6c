"""What no sane caller sends, through every door: it is kept as it was, or refused in words; nothing falls over."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import sys
import uuid
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import pytest

from knowledge_persistence import InvalidArgumentError, KnowledgeClient, connect
from knowledge_persistence.cli import main
from knowledge_persistence.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from stacks import RunningStack

    Record: TypeAlias = Callable[[str], str | None]

DOORS = ["http", "direct", "rpc", "edge", "mcp", "cli"]
#: Kept to the letter.
KEPT = {
    "bidi": "open \u202efdp.exe\u202c and \u2066isolated\u2069",
    "four bytes": "the rocket \U0001f680, the family \U0001f468\u200d\U0001f469\u200d\U0001f467, \U0001d544ath",
    "combining": "cafe\u0301 and z" + "\u0301\u0323" * 100,
    "zero width": "zero\u200bwidth\u2060joined\ufeff word",
    "controls": "bell \x07, escape \x1b[31m, delete \x7f, next line \x85 and on",
    "lines": "one\r\ntwo\u2028three\u2029four",
    "no characters": "\ufffe and \uffff and \U0010ffff and \ufdd0",
    "from the right": "\u05d6\u05d9\u05db\u05e8\u05d5\u05df and \u0630\u0627\u0643\u0631\u0629",
    "no blanks": "\u77e5\u8b58\u306f\u6b8b\u308b" * 200,
    "a long word": "x" * 19_000,
    "a long word in blanks": "before " + "y\u00e9" * 9_000 + " after",
    "code": "'; drop table knowledge_items; -- \\u0000 \\x00 %s %(name)s {} ${x} <b>&amp;</b>",
}
REFUSED = {
    "NUL": "before\x00after",
    "half a character": "before\ud83dafter",
    "the other half": "before\ude80after",
    "empty": "",
    "blank": " \t\r\n ",
}


@pytest.fixture(autouse=True)
def unbroken(shared_stack: RunningStack) -> Generator[None]:
    """Whatever was sent: no part has fallen over it."""
    before = {name: one.pid for name, one in shared_stack.stack.status().services.items()}
    yield
    status = shared_stack.stack.status()
    assert status.state == "running"
    assert {name: one.pid for name, one in status.services.items()} == before
    assert shared_stack.call("/healthz").status == 200


def enter(stack: RunningStack, door: str, **arguments: Any) -> KnowledgeClient:
    config = stack.config
    where: dict[str, Any] = {"url": config.api_url, "api_key": config.publishable_key}
    if door == "direct":
        where = {"url": config.database_url(), "jwt_secret": config.jwt_secret}
    return connect(
        **where,
        access_token=stack.token(aud="authenticated"),
        embedder=None,
        settings=Settings(home=stack.home / "none"),
        **arguments,
    )


def escaped(body: object) -> bytes:
    """Write JSON in ASCII, which can say what UTF-8 can't."""
    return json.dumps(body).encode()


def post(stack: RunningStack, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    """Send bytes as JSON, as the local user."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.config.origin_port, timeout=60)
    try:
        connection.request("POST", path, body, {**stack.me, "content-type": "application/json", **headers})
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, json.loads(text) if text else None
    finally:
        connection.close()


@pytest.fixture
def record(
    request: pytest.FixtureRequest,
    shared_stack: RunningStack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Record]:
    """Record a text through a door; the answer is its id, or None where it was refused in words."""
    stack, door = shared_stack, request.param

    def by_client(text: str) -> str | None:
        try:
            return str(client.remember(text, title="a text").knowledge_id)
        except InvalidArgumentError:
            return None

    def by_rpc(text: str) -> str | None:
        status, told = post(
            stack, "/rest/v1/rpc/record_knowledge", escaped({"title": "a text", "content": text})
        )
        assert status in {200, 400}, told
        return told[0]["knowledge_id"] if status == 200 else None

    def by_edge(text: str) -> str | None:
        status, told = post(stack, "/functions/v1/remember", escaped({"title": "a text", "content": text}))
        assert status in {200, 400}, told
        return told["knowledge_id"] if status == 200 else None

    def by_mcp(text: str) -> str | None:
        status, told = call_tool(stack, "remember", {"title": "a text", "content": text})
        if status == 400:
            return None
        assert status == 200, told
        result = told["result"]
        return None if result.get("isError") else result["structuredContent"]["id"]

    def by_cli(text: str) -> str | None:
        with monkeypatch.context() as patch:
            patch.setenv("KP_HOME", str(stack.home))
            patch.setenv("KP_EMBEDDER", "none")
            patch.setattr(sys, "argv", ["kp", "remember", "--json", "--title", "a text", "-"])
            raw = io.BytesIO(text.encode("utf-8", "surrogatepass"))
            patch.setattr(sys, "stdin", io.TextIOWrapper(raw, "utf-8", "surrogatepass", newline=""))
            try:
                code = main()
            except SystemExit as ending:
                code = ending.code
        said = capsys.readouterr()
        if code != 0:
            assert code in {1, 2}, said
            assert said.err
            assert "Traceback" not in said.err
            return None
        return str(json.loads(said.out)["knowledge_id"])

    if door in {"http", "direct"}:
        with enter(stack, door) as client:
            yield by_client
    else:
        yield {"rpc": by_rpc, "edge": by_edge, "mcp": by_mcp, "cli": by_cli}[door]


def call_tool(stack: RunningStack, tool: str, arguments: object) -> tuple[int, Any]:
    """Call an agent's tool over HTTP, without a connection."""
    prefix = "io.modelcontextprotocol/"
    meta = {f"{prefix}protocolVersion": "2026-07-28", f"{prefix}clientCapabilities": {}}
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments, "_meta": meta},
    }
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": tool,
    }
    return post(stack, "/functions/v1/mcp", escaped(body), **headers)


def kept(stack: RunningStack, knowledge_id: str) -> str:
    [(content,)] = stack.sql(f"select content from knowledge_items where id = '{uuid.UUID(knowledge_id)}'")
    return str(content)


@pytest.mark.parametrize("record", DOORS, indirect=True)
def test_no_text_is_changed_and_what_cannot_be_kept_is_refused(
    shared_stack: RunningStack, record: Record
) -> None:
    for name, text in REFUSED.items():
        assert record(text) is None, name
    with enter(shared_stack, "direct") as reader:
        for name, text in KEPT.items():
            mark = f"mark{uuid.uuid4().hex}"
            knowledge_id = record(f"{mark} {text}")
            assert knowledge_id is not None, name
            assert kept(shared_stack, knowledge_id) == f"{mark} {text}", name
            # Once more is a duplicate, however strange it is.
            assert record(f"{mark} {text}") == knowledge_id, name
            assert str(reader.search(mark)[0].knowledge_id) == knowledge_id, name


@pytest.mark.parametrize("door", ["http", "direct"])
def test_any_text_can_be_asked_for(shared_stack: RunningStack, door: str) -> None:
    with enter(shared_stack, door) as client:
        for name in ("NUL", "half a character", "the other half"):
            with pytest.raises(InvalidArgumentError):
                client.search(REFUSED[name])
        with pytest.raises(InvalidArgumentError, match="nothing to search for"):
            client.search("")
        for text in (*KEPT.values(), "\t\n", "a " * 5_000, "& | ! ( ) <-> :* '' \\", "x" * 60_000):
            assert isinstance(client.search(text), list)


# JSON


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("depth", [60, 900, 8_000, 100_000])
def test_json_of_many_levels_is_kept_or_refused(shared_stack: RunningStack, depth: int) -> None:
    stack = shared_stack
    content = f"deep {uuid.uuid4().hex}"
    bodies = {
        "/rest/v1/rpc/record_knowledge": b'{"title":"deep","content":"%s","context_data":%s}',
        "/rest/v1/rpc/record_knowledge_batch": b'{"items":[{"title":"deep","content":"%s","context_data":%s}]}',
        "/rest/v1/workspaces": b'{"name":"%s","description":%s}',
        "/auth/v1/signup": b'{"email":"%s@example.org","password":"long enough it is","data":%s}',
        "/functions/v1/remember": b'{"content":"%s","context_data":%s}',
        "/functions/v1/mcp": b'{"jsonrpc":"2.0","id":"%s","method":"tools/call","params":%s}',
        "/realtime/v1/api/broadcast": b'{"messages":[{"topic":"t","event":"%s","payload":%s}]}',
    }
    for path, body in bodies.items():
        given = body % (content.replace(" ", "-").encode(), nested(depth))
        status, told = post(stack, path, given, accept="application/json, text/event-stream")
        assert status < 500, (path, told)
        if depth > 1_000:
            assert status >= 400, (path, told)


@pytest.mark.parametrize("door", ["http", "direct"])
def test_the_client_refuses_json_without_a_bottom(shared_stack: RunningStack, door: str) -> None:
    deep: Any = {}
    for _ in range(50_000):
        deep = {"a": deep}
    endless: dict[str, Any] = {}
    endless["again"] = endless
    with enter(shared_stack, door) as client:
        for context in (deep, endless):
            with pytest.raises(InvalidArgumentError, match="nested"):
                client.remember("deep", context_data=context)
            with pytest.raises(InvalidArgumentError, match="nested"):
                client.search("deep", context_data=context)
        for wrong in ("a\0b", "\ud83d"):
            with pytest.raises(InvalidArgumentError):
                client.remember("fine", context_data={wrong: 1})
            with pytest.raises(InvalidArgumentError):
                client.remember("fine", context_data={"a": [wrong]})
        assert client.remember("deep, to a degree", context_data={"a": [{"b": [{"c": "\U0001f680"}]}]})
    # Taking it apart the usual way would run out of stack.
    while deep:
        deep = deep["a"]


# Bodies

PATHS = [
    "/rest/v1/rpc/record_knowledge",
    "/rest/v1/workspaces",
    "/auth/v1/signup",
    "/functions/v1/remember",
    "/functions/v1/mcp",
    "/realtime/v1/api/broadcast",
]
MEGABYTE = b" " * 1_000_000


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
@pytest.mark.parametrize("path", PATHS)
def test_a_hundred_megabytes_are_refused(shared_stack: RunningStack, path: str, *, declared: bool) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared_stack.config.origin_port, timeout=60)
    headers = {
        **shared_stack.me,
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
    }
    if declared:
        headers["content-length"] = str(100 * len(MEGABYTE))
    try:
        # It needn't read what it has refused; its answer is there all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(
                "POST", path, (MEGABYTE for _ in range(100)), headers, encode_chunked=not declared
            )
        answer = connection.getresponse()
        told = json.loads(answer.read())
        assert (answer.status, told.get("code") or told.get("error")) in {
            (413, "KP413"),
            (413, "Payload Too Large"),
        }
    finally:
        connection.close()


def test_a_body_of_undeclared_length_is_as_good_as_another(shared_stack: RunningStack) -> None:
    text = f"in pieces {uuid.uuid4().hex} \U0001f680"
    body = json.dumps({"title": "pieces", "content": text}, ensure_ascii=False).encode()
    for path in ("/rest/v1/rpc/record_knowledge", "/functions/v1/remember"):
        connection = http.client.HTTPConnection("127.0.0.1", shared_stack.config.origin_port, timeout=60)
        try:
            pieces = (body[at : at + 7] for at in range(0, len(body), 7))
            connection.request(
                "POST",
                path,
                pieces,
                {**shared_stack.me, "content-type": "application/json"},
                encode_chunked=True,
            )
            answer = connection.getresponse()
            told = json.loads(answer.read())
        finally:
            connection.close()
        assert answer.status == 200, told
    found = shared_stack.call(
        f"/rest/v1/knowledge_items?select=content&content=eq.{quote(text)}", shared_stack.me
    )
    assert found.json == [{"content": text}]


def test_whoever_leaves_in_the_middle_of_a_body_is_missed_by_nobody(shared_stack: RunningStack) -> None:
    for end in (b'transfer-encoding: chunked\r\n\r\n5\r\n{"a":', b'content-length: 5000\r\n\r\n{"a":'):
        for path in PATHS:
            connection = http.client.HTTPConnection("127.0.0.1", shared_stack.config.origin_port, timeout=60)
            connection.connect()
            assert connection.sock is not None
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in shared_stack.me.items())
            connection.sock.sendall(head.encode() + end)
            connection.close()
    assert shared_stack.call("/rest/v1/workspaces?limit=1", shared_stack.me).status == 200
