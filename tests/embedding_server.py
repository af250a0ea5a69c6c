"""An OpenAI-compatible embedding server of our own, which computes from the text, and misbehaves when it is told to."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Generator

Fault = Literal[
    "refuses",
    "wrong size",
    "not a number",
    "infinite",
    "too few",
    "gibberish",
    "silent",
    "nothing",
    "hangs up",
]
DIMENSIONS = 384


def vector_of(text: str, dimensions: int = DIMENSIONS) -> np.ndarray:
    """The vector of a text: another for every other text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    values = np.random.default_rng(seed).normal(size=dimensions)
    return (values / np.linalg.norm(values)).astype(np.float32)


class EmbeddingServer:
    """What the server is told and what it has seen.

    Attributes:
        url: its base URL.
        faults: what it may do instead of answering.
        share: how often it does, 0 to 1.
        asked: how often each text was sent.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.faults: list[Fault] = []
        self.share = 1.0
        self.asked: Counter[str] = Counter()
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._random = random.Random(7)  # noqa: S311

    def answer(self, texts: list[str]) -> tuple[int, str]:
        """Answer a request, or don't; a status of 0 ends the connection without a word."""
        with self._lock:
            self.asked.update(texts)
            misbehaves = self.faults and self._random.random() < self.share
            fault = self._random.choice(self.faults) if misbehaves else None
        vectors = [vector_of(text) for text in texts]
        if fault == "refuses":
            return 500, json.dumps({"error": {"message": "out of order", "type": "server_error"}})
        if fault == "gibberish":
            return 200, "<html>a proxy's login page</html>"
        if fault == "hangs up":
            return 0, ""
        if fault == "silent":
            self.released.wait(30)
        if fault == "wrong size":
            vectors = [vector[:100] for vector in vectors]
        if fault == "too few":
            vectors = vectors[:-1]
        rows: list[dict[str, Any]] = [
            {"object": "embedding", "index": index, "embedding": [float(value) for value in vector]}
            for index, vector in enumerate(vectors)
        ]
        if fault == "not a number":
            rows[0]["embedding"][3] = float("nan")
        if fault == "infinite":
            rows[0]["embedding"][3] = float("inf")
        if fault == "nothing":
            rows[0]["embedding"] = [0.0] * DIMENSIONS
        return 200, json.dumps({"object": "list", "data": rows, "model": "x", "usage": {}})


@contextmanager
def embedding_server() -> Generator[EmbeddingServer]:
    """Run one on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = server.answer(body["input"])
            if status == 0:
                self.close_connection = True
                return
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer.encode())))
                self.end_headers()
                self.wfile.write(answer.encode())
            except OSError:  # whoever asked was killed
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of callers that were killed in the middle."""

    listener = Server(("127.0.0.1", 0), Handler)
    server = EmbeddingServer(listener.server_port)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        listener.shutdown()
        listener.server_close()
        thread.join()
