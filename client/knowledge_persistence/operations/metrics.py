"""Metrics for Prometheus, and whether a process is well: a small HTTP server that a process runs beside its work.

`/metrics` is what Prometheus reads, `/health` answers 200 or 503. The server listens on loopback unless told
otherwise, and only where a port was chosen. What the numbers of the database are is the business of the view
`operations_metrics`.
"""

from __future__ import annotations

import json
import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Final, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import psycopg
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from psycopg.rows import dict_row

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    from prometheus_client.core import Metric

#: Seconds that a scrape waits for the database at most.
_PATIENCE: Final = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """How a process is.

    Attributes:
        ok: whether it does its work.
        detail: what it says of itself, for people.
    """

    ok: bool
    detail: Mapping[str, object]


class DatabaseCollector(Collector):
    """Read the view `operations_metrics` at each scrape.

    Args:
        database_url: PostgreSQL URL, login authenticator.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    def describe(self) -> Iterable[Metric]:
        """Name nothing ahead: which metrics there are is for the database to say, when it is asked."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return the database's gauges, and `kp_database_up`, which is 0 where it can't be asked."""
        families: dict[str, GaugeMetricFamily] = {}
        up = 1.0
        try:
            for row in self._rows():
                name, labels = cast("str", row["metric"]), cast("dict[str, str]", row["labels"])
                family = families.get(name)
                if family is None:
                    family = GaugeMetricFamily(name, cast("str", row["help"]), labels=sorted(labels))
                    families[name] = family
                family.add_metric([labels[key] for key in sorted(labels)], cast("float", row["value"]))
        except psycopg.Error as error:
            log.warning("the database's metrics can't be read: %s", error)
            families, up = {}, 0.0
        yield GaugeMetricFamily("kp_database_up", "Whether the database could be asked.", value=up)
        yield from families.values()

    def _rows(self) -> list[dict[str, object]]:
        with (
            psycopg.connect(
                self._database_url, connect_timeout=_PATIENCE, application_name="kp metrics"
            ) as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            cursor.execute("select set_config('role', 'service_role', true)")
            cursor.execute("select set_config('statement_timeout', %s, true)", [f"{_PATIENCE}s"])
            return cursor.execute(
                "select metric, labels, help, value from public.operations_metrics"
            ).fetchall()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: a scrape every few seconds is no news."""


@contextmanager
def serve_metrics(
    registry: CollectorRegistry, health: Callable[[], Health], *, port: int | None, host: str = "127.0.0.1"
) -> Generator[int | None]:
    """Serve `/metrics` and `/health` for as long as the context lasts, and lend the port.

    Args:
        registry: the metrics.
        health: asked at each `/health`, from another thread.
        port: where to listen; 0: any free one; None: nowhere.
        host: the address to listen on.

    Raises:
        ConfigurationError: the port is taken, or the address is none of this machine's.
    """
    if port is None:
        yield None
        return

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if environ.get("REQUEST_METHOD") not in {"GET", "HEAD"}:
            status, kind, body = "405 Method Not Allowed", "text/plain", b"GET only\n"
        elif path == "/metrics":
            status, kind, body = "200 OK", CONTENT_TYPE_LATEST, generate_latest(registry)
        elif path == "/health":
            state = health()
            status = "200 OK" if state.ok else "503 Service Unavailable"
            kind, body = "application/json", json.dumps({"ok": state.ok, **state.detail}).encode() + b"\n"
        else:
            status, kind, body = "404 Not Found", "text/plain", b"/metrics or /health\n"
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    try:
        server = make_server(host, port, application, _Server, _QuietHandler)
    except OSError as error:
        raise ConfigurationError(
            f"metrics can't be served on {host}:{port}: {error.strerror}; KP_METRICS_PORT chooses another port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
