"""The gateway's parts: the wire format, filters, the stream of changes."""

from __future__ import annotations

import json

import pytest

from knowledge_persistence.realtime.changes import FilterError, parse_filter
from knowledge_persistence.realtime.wire import MalformedFrameError, Message, decode, encode


def push(topic: str, event: str, body: bytes, *, encoding: int, cut: int | None = None) -> bytes:
    texts = [b"1", b"2", topic.encode(), event.encode(), b""]
    return (bytes([3, *map(len, texts), encoding]) + b"".join(texts) + body)[:cut]


def test_both_versions_say_the_same() -> None:
    message = Message("realtime:x", "broadcast", {"a": "ü"}, ref="2", join_ref="1")
    first, second = encode(message, "1.0.0"), encode(message, "2.0.0")
    assert json.loads(str(first)) == {
        "topic": "realtime:x",
        "event": "broadcast",
        "payload": {"a": "ü"},
        "ref": "2",
    }
    assert json.loads(str(second)) == ["1", "2", "realtime:x", "broadcast", {"a": "ü"}]
    assert decode(str(second), "2.0.0") == message
    assert decode('{"topic":"t","event":"e","payload":null,"ref":null}', "1.0.0") == Message("t", "e", {})


def test_binary_broadcasts_come_and_go() -> None:
    text = decode(push("t", "e", b'{"n":1}', encoding=1), "2.0.0")
    assert text.payload == {"type": "broadcast", "event": "e", "payload": {"n": 1}}
    assert (text.join_ref, text.ref, text.body) == ("1", "2", None)
    raw = decode(push("t", "e", b"\x00\xff", encoding=0), "2.0.0")
    assert raw.body == b"\x00\xff"
    assert encode(raw, "1.0.0") is None
    assert encode(raw, "2.0.0") == bytes([4, 1, 1, 0, 0]) + b"te\x00\xff"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x04aaaaaaa",
        push("t", "e", b"{", encoding=1),
        push("t", "e", b"", encoding=7),
        push("topic", "e", b"", encoding=0, cut=9),
        "{}",
        "[1,2,3,4]",
        "[null,null,1,2,{}]",
        '[null,null,"t","e",[]]',
        '[null,[],"t","e",{}]',
        "nonsense",
    ],
)
def test_what_is_no_message_is_refused(frame: str | bytes) -> None:
    with pytest.raises(MalformedFrameError):
        decode(frame, "2.0.0")
    with pytest.raises(MalformedFrameError):
        decode(frame if isinstance(frame, bytes) else f"[{frame}]", "1.0.0")


@pytest.mark.parametrize(
    ("text", "kind", "holding", "failing"),
    [
        ("n=eq.10", "int4", ["10"], ["1", "100", None]),
        ("n=neq.10", "int8", ["9"], ["10", None]),
        ("n=lt.9", "numeric", ["8.5", "-1"], ["9", "10"]),  # as numbers, not as text
        ("n=gte.9", "float8", ["9", "10"], ["8.99"]),
        ("s=in.(a,b)", "text", ["a", "b"], ["c", "a,b"]),
        ("s=not.in.(a,b)", "text", ["c"], ["a", None]),
        ("s=like.a%_c", "text", ["abc", "aXXbc"], ["ac", "Abc", "a"]),
        ("s=ilike.a*%", "text", ["A*", "a*b"], ["ab"]),
        ("s=match.^a+$", "text", ["aa"], ["ab"]),
        ("s=imatch.^a+$", "text", ["AA"], ["ab"]),
        ("s=is.null", "text", [None], ["", "x"]),
        ("s=not.is.null", "text", ["x"], [None]),
        ("b=is.true", "bool", ["t"], ["f", None]),
        ("b=eq.true", "bool", ["t"], ["f", None]),
        ("s=isdistinct.a", "text", ["b", None], ["a"]),
        ("t=gt.2026-01-01T00:00:00Z", "timestamptz", ["2026-01-01 01:00:00+00"], ["2025-12-31 23:00:00+00"]),
        ("u=eq.AB00", "uuid", ["ab00"], ["ab01"]),
        ("n=gt.x", "int4", [], ["1", None]),
        ("n=gt.NaN", "float8", [], ["1", "NaN", None]),
        ("n=gte.NaN", "numeric", ["NaN"], ["1", "Infinity", None]),
        ("n=gt.1", "float8", ["NaN", "Infinity"], ["1", "-Infinity", None]),
        ("s=match.^(.|\\w)*!$", "text", ["a!"], ["a" * 10_000]),  # with backtracking it would never end
    ],
)
def test_a_filter_holds(text: str, kind: str, holding: list[str | None], failing: list[str | None]) -> None:
    [condition] = parse_filter(text)
    assert [value for value in holding if not condition.holds(value, kind)] == []
    assert [value for value in failing if condition.holds(value, kind)] == []


def test_filters_are_joined_by_commas() -> None:
    found = parse_filter("a=in.(1,2),b=like.x,y%,c=not.eq.3")
    assert [(one.column, one.operator, one.values, one.negated) for one in found] == [
        ("a", "in", ("1", "2"), False),
        ("b", "like", ("x,y%",), False),
        ("c", "eq", ("3",), True),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a=",
        "a=eq",
        "a=what.1",
        "=eq.1",
        "a=in.1",
        "a=match.(",
        "a=match.(?=x)",
        f"a=in.({','.join('x' * 101)})",
    ],
)
def test_a_filter_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(FilterError):
        parse_filter(text)
