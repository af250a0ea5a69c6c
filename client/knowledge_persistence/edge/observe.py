"""What is known of each request afterwards: its id, a line of log, figures. Never its text, never a token."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from fastapi import HTTPException
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders

from .errors import answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .limits import Limits

log = logging.getLogger("knowledge_persistence.edge")

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


#: Asked every few seconds by whoever runs the functions, for a sign of life: neither logged nor counted.
PING: Final = "/ping"


class Figures:
    """What is counted, for Prometheus.

    Attributes:
        requests: requests that were answered, by function and status.
        seconds: how long they took.
        under_way: requests that aren't answered yet.
        unembedded: texts that were recorded without a vector, since no model answered.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "kp_edge_requests", "Requests answered.", ["function", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "kp_edge_request_seconds",
            "Seconds until a request was answered.",
            ["function"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self.under_way = Gauge(
            "kp_edge_requests_under_way", "Requests not answered yet.", registry=self._registry
        )
        self.unembedded = Counter(
            "kp_edge_unembedded",
            "Texts recorded without a vector, which the worker makes later.",
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return them as Prometheus reads them."""
        return generate_latest(self._registry)


class Observer:
    """Give each request an id, hold its body to the limit, log and count its end.

    Args:
        app: what answers.
        figures: where it is counted.
        limits: how long a body may be.
        prefix: what the functions' paths may begin with.
        functions: paths that are counted by name; all others are one.
    """

    def __init__(
        self, app: ASGIApp, *, figures: Figures, limits: Limits, prefix: str, functions: frozenset[str]
    ) -> None:
        self._app = app
        self._figures = figures
        self._limits = limits
        self._prefix = prefix
        self._functions = functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] == PING:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        state: dict[str, object] = scope.setdefault("state", {})
        state["request_id"] = request_id
        if scope["path"].startswith(f"{self._prefix}/"):
            # Routes are told without it: one gateway takes it away, the other doesn't.
            scope["root_path"] = self._prefix
        function = self._function(scope["path"])
        status = 500
        started = time.perf_counter()

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        self._figures.under_way.inc()
        try:
            declared = headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > self._limits.body_bytes:
                await _too_long(self._limits)(scope, receive, told)
            else:
                await self._app(scope, self._bounded(receive), told)
        finally:
            seconds = time.perf_counter() - started
            self._figures.under_way.dec()
            self._figures.requests.labels(function, str(status)).inc()
            self._figures.seconds.labels(function).observe(seconds)
            log.info(
                "request",
                extra={
                    "fields": {
                        "request_id": request_id,
                        "method": scope["method"],
                        "function": function,
                        "status": status,
                        "milliseconds": round(seconds * 1000, 1),
                        **{name: state[name] for name in ("user_id", "token_id", "role") if name in state},
                    }
                },
            )

    def _function(self, path: str) -> str:
        name = path.removeprefix(self._prefix).lstrip("/").partition("/")[0]
        return name if name in self._functions else "other"

    def _bounded(self, receive: Receive) -> Receive:
        left = self._limits.body_bytes

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, _long(self._limits))
            return message

        return bounded


def _long(limits: Limits) -> str:
    return f"a request's body may have at most {limits.body_bytes} bytes"


def _too_long(limits: Limits) -> ASGIApp:
    return answer(413, "KP413", _long(limits))


class JsonLines(logging.Formatter):
    """Write each record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            # Its class and place; its text may quote what was sent.
            error = record.exc_info[1]
            line["error"] = type(error).__name__
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                line["at"] = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        return json.dumps(line, ensure_ascii=False)


def log_as_json() -> None:
    """Write the package's log to standard error, a line of JSON each."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name, level in (("knowledge_persistence", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
