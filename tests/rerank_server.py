"""A server that speaks the usual /rerank API: it scores by shared words, and misbehaves when it is told to."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal[
    "refuses", "silent", "trickles", "gibberish", "too few", "misnumbered", "no number", "not finite"
]


def overlap(query: str, document: str) -> float:
    """The share of a document's words that are the query's."""
    asked = set(re.findall(r"\w+", query.lower()))
    words = re.findall(r"\w+", document.lower())
    return sum(word in asked for word in words) / max(len(words), 1)


class RerankServer:
    """What the server is told and what it has seen.

    Attributes:
        url: its base URL.
        fault: what it does instead of answering.
        asked: the requests' bodies, each with its path and key.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v2"
        self.fault: Fault | None = None
        self.asked: list[dict[str, Any]] = []
        self.released = threading.Event()

    def answer(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Answer a request, or don't."""
        if self.fault == "refuses":
            return 429, b'{"message": "quota exhausted"}'
        if self.fault == "gibberish":
            return 200, b"<html>a proxy's login page</html>"
        if self.fault == "silent":
            self.released.wait(60)
        results: list[dict[str, Any]] = [
            {"index": index, "relevance_score": overlap(body["query"], document)}
            for index, document in enumerate(body["documents"])
        ]
        if self.fault == "too few":
            results.pop()
        if self.fault == "misnumbered":
            results[0]["index"] = 99
        if self.fault == "no number":
            results[0]["relevance_score"] = "high"
        if self.fault == "not finite":
            results[0]["relevance_score"] = float("nan")
        # In an order of its own: what counts is the index.
        return 200, json.dumps({"id": "1", "results": results[::-1]}).encode()


@contextmanager
def rerank_server() -> Generator[RerankServer]:
    """Run one on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.asked.append({**body, "path": self.path, "key": self.headers["authorization"]})
            status, said = server.answer(body)
            try:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                if server.fault == "trickles":
                    # Each byte comes soon enough for any timeout between two of them.
                    for byte in said:
                        self.wfile.write(bytes([byte]))
                        if server.released.wait(0.05):
                            return
                self.wfile.write(said)
            except OSError:  # whoever asked has given up
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of callers that have gone."""

    listener = Server(("127.0.0.1", 0), Handler)
    server = RerankServer(listener.server_port)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        listener.shutdown()
        listener.server_close()
        thread.join()
