"""The wire format: Phoenix channels, protocol 1.0.0 (JSON objects) and 2.0.0 (JSON arrays and binary broadcasts)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

if TYPE_CHECKING:
    from ..models import JSON, JSONObject

Version: TypeAlias = Literal["1.0.0", "2.0.0"]
Frame: TypeAlias = "str | bytes"

_PUSH: Final = 3
_BROADCAST: Final = 4
_BINARY: Final = 0
_JSON: Final = 1


class MalformedFrameError(ValueError):
    """What came is no message of the protocol."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, in either version.

    Attributes:
        topic: the channel's topic, `realtime:` and all; or `phoenix`.
        event: what it is.
        payload: what it says.
        ref: the client's number for it, which the reply repeats.
        join_ref: the number of the join that it belongs to.
        body: a broadcast's payload, where that is bytes.
    """

    topic: str
    event: str
    payload: JSONObject
    ref: str | None = None
    join_ref: str | None = None
    body: bytes | None = None


def decode(frame: Frame, version: Version) -> Message:
    """Read a frame.

    Raises:
        MalformedFrameError: it is no message.
    """
    if isinstance(frame, bytes):
        if version == "1.0.0":
            raise MalformedFrameError("protocol 1.0.0 has no binary frames")
        return _decode_push(frame)
    try:
        value = cast("object", json.loads(frame))
    except (ValueError, RecursionError) as error:
        raise MalformedFrameError("not JSON") from error
    if version == "1.0.0":
        if not isinstance(value, dict):
            raise MalformedFrameError("not an object")
        fields = cast("dict[str, object]", value)
        parts = [fields.get(name) for name in ("join_ref", "ref", "topic", "event", "payload")]
    else:
        parts = cast("list[object]", value) if isinstance(value, list) else []
        if len(parts) != 5:  # noqa: PLR2004
            raise MalformedFrameError("not an array of five")
    join_ref, ref, topic, event, payload = parts
    if not isinstance(topic, str) or not isinstance(event, str) or not isinstance(payload, dict | None):
        raise MalformedFrameError("topic, event or payload is missing")
    return Message(
        topic, event, cast("JSONObject", payload or {}), ref=_reference(ref), join_ref=_reference(join_ref)
    )


def _reference(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    raise MalformedFrameError("a ref is text")


def _decode_push(frame: bytes) -> Message:
    """Read a broadcast as clients of 2.0.0 send it: lengths, then join_ref, ref, topic, event, metadata, payload."""
    if len(frame) < 7 or frame[0] != _PUSH:  # noqa: PLR2004
        raise MalformedFrameError("not a binary broadcast")
    lengths, encoding, offset = frame[1:6], frame[6], 7
    texts: list[str] = []
    try:
        for length in lengths:
            if offset + length > len(frame):
                raise MalformedFrameError("the frame is cut off")
            texts.append(frame[offset : offset + length].decode())
            offset += length
        join_ref, ref, topic, event, _ = texts
        body = frame[offset:]
        payload: JSONObject = {"type": "broadcast", "event": event}
        if encoding == _JSON:
            payload["payload"] = cast("JSON", json.loads(body))
        elif encoding != _BINARY:
            raise MalformedFrameError("the payload's encoding is unknown")
    except (ValueError, RecursionError) as error:
        raise MalformedFrameError(str(error)) from error
    return Message(
        topic,
        "broadcast",
        payload,
        ref=ref or None,
        join_ref=join_ref or None,
        body=body if encoding == _BINARY else None,
    )


def encode(message: Message, version: Version) -> Frame | None:
    """Write a frame; None where the version has no way to say it."""
    if message.body is not None:
        return None if version == "1.0.0" else _encode_broadcast(message, message.body)
    if version == "1.0.0":
        return dumps(
            {"topic": message.topic, "event": message.event, "payload": message.payload, "ref": message.ref}
        )
    return dumps([message.join_ref, message.ref, message.topic, message.event, message.payload])


def _encode_broadcast(message: Message, body: bytes) -> bytes:
    meta = message.payload.get("meta")
    texts = [
        message.topic.encode(),
        str(message.payload.get("event", "")).encode(),
        dumps(meta).encode() if meta is not None else b"",
    ]
    return bytes([_BROADCAST, *map(len, texts), _BINARY]) + b"".join(texts) + body


def dumps(value: JSON) -> str:
    """Write JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
