"""The OpenAPI description is true: a machine sends what it allows, and what it forbids.

With `--long` it sends 2,000 requests and more, and tries the boundaries of every field as well: long texts, long lists.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import numpy as np
import pytest

from callers import PUBLISHABLE, SECRET, SECRET_KEY, bearer
from knowledge_persistence.edge.__main__ import make_server
from knowledge_persistence.edge.app import make_app
from knowledge_persistence.edge.identity import Doorkeeper
from knowledge_persistence.edge.limits import Limits
from knowledge_persistence.edge.schemas import _TEXT
from knowledge_persistence.embedders import BaseEmbedder
from knowledge_persistence.embedders.local import LocalEmbedder
from world import World

# What a machine finds: no failure of ours, and nothing that the description doesn't say.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
    "negative_data_rejection",
]


class Hashed(BaseEmbedder):
    """A model that answers at once: what is tested is all around it."""

    def __init__(self) -> None:
        super().__init__(name="all-MiniLM-L6-v2", dimensions=384, cache_size=0)

    def _embed(self, texts: Any) -> Any:
        return np.stack([np.random.default_rng(crc32(text.encode())).normal(size=384) for text in texts])


def without(pattern: str, described: Any) -> Any:
    """Leave a pattern out of a description."""
    if isinstance(described, dict):
        return {
            name: without(pattern, value)
            for name, value in described.items()
            if (name, value) != ("pattern", pattern)
        }
    return [without(pattern, one) for one in described] if isinstance(described, list) else described


@contextlib.contextmanager
def serving(doorkeeper: Callable[[], Doorkeeper], limits: Limits) -> Generator[tuple[str, Any]]:
    """Run the functions' own server in a thread; give its address and itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made: dict[str, Any] = {}
        started = threading.Event()

        async def serve() -> None:
            server = make_server(make_app(doorkeeper(), limits))
            made["server"] = server
            running = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not running.done():  # noqa: ASYNC110 - a flag, and no event
                await asyncio.sleep(0.01)
            started.set()
            await running

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        try:
            assert started.wait(60)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", made["server"]
        finally:
            made["server"].should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("requests", "phases"),
    [(100, ["fuzzing"]), pytest.param(2000, ["coverage", "fuzzing"], marks=pytest.mark.long)],
)
def test_a_machine_finds_no_failure_and_no_lie(
    world: World, tmp_path: Path, requests: int, phases: list[str]
) -> None:
    person = world.sign_up("machine")
    person.record("A thing to find")
    headers = bearer(person)
    limits = Limits(requests_per_minute=1_000_000)
    dsn = world.dsn("authenticator")

    def doorkeeper() -> Doorkeeper:
        return Doorkeeper(dsn, lambda: SECRET, secret_key=SECRET_KEY, embedder=Hashed())

    with serving(doorkeeper, limits) as (url, _), httpx.Client(base_url=f"{url}/functions/v1") as client:

        def sent() -> int:
            text = client.get("/metrics", headers={"apikey": SECRET_KEY}).text
            counted = re.findall(r'kp_edge_requests_total\{function="([^"]+)",.*\} ([0-9.]+)', text)
            return int(sum(float(number) for name, number in counted if name != "metrics"))

        described = client.get("/openapi.json").json()
        assert described["openapi"].startswith("3.1")
        assert set(described["paths"]) == {
            "/remember",
            "/recall",
            "/context",
            "/embed",
            "/gotchas",
            "/health",
        }
        # That a text holds no NUL, beside how long it may be, makes the machine think for most of a second about each.
        description = tmp_path / "openapi.json"
        description.write_text(json.dumps(without(_TEXT, described)))
        # Not as a header of the command line: that goes along with what is sent without a sign-in on purpose, too.
        token = headers.pop("authorization").removeprefix("Bearer ")
        # What is too long to be a text may be too long to be read at all: 413 refuses, too.
        (tmp_path / "schemathesis.toml").write_text(
            f'[auth.openapi.bearer]\nbearer = "{token}"\n'
            "[checks.negative_data_rejection]\n"
            'expected-statuses = ["400", "401", "403", "404", "413", "422"]\n'
        )
        # Mostly in a workspace of one's own: in any other, nothing is read but the header.
        inside = {
            **headers,
            "x-workspace-id": str(person.rpc("my_workspaces")[0]["workspace_id"]),
            "x-session-id": "",
        }
        seed = 0
        while sent() < requests:
            seed += 1
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "schemathesis.cli", "run", str(description)),
                    *("--url", f"{url}/functions/v1", "--checks", ",".join(CHECKS), "--seed", str(seed)),
                    *("--phases", phases[min(seed, len(phases)) - 1], "--mode", "all"),
                    *("--max-examples", str(min(100, requests // 6 + 1)), "--generation-database", "none"),
                    *("--no-color", "--request-timeout", "60", "--suppress-health-check", "all"),
                    *(
                        part
                        for name, value in (headers if seed == 1 else inside).items()
                        for part in ("--header", f"{name}: {value}")
                    ),
                ],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            # Long texts of one letter are told in short.
            assert done.returncode == 0, re.sub(r"(.)\1{50,}", r"\1…\1", done.stdout)[-20_000:] + done.stderr
        print(f"{sent()} requests")  # noqa: T201 - what the long run is for
    # It wasn't refused at the door: things were recorded, and found.
    assert person.value("select count(*) from public.knowledge_items") > 1


def test_a_request_under_way_is_answered_before_the_end(world: World, embedder: LocalEmbedder) -> None:
    person = world.sign_up("late")
    dsn = world.dsn("authenticator")
    entered, release = threading.Event(), threading.Event()

    class Slow(LocalEmbedder):
        def _embed(self, texts: Any) -> Any:
            entered.set()
            assert release.wait(60)
            return embedder._embed(texts)

    def doorkeeper() -> Doorkeeper:
        return Doorkeeper(dsn, lambda: SECRET, secret_key=SECRET_KEY, embedder=Slow())

    answers: list[httpx.Response] = []
    with serving(doorkeeper, Limits()) as (url, server):

        def ask() -> None:
            body = {"content": "Said at the last moment."}
            answers.append(
                httpx.post(f"{url}/functions/v1/remember", json=body, headers=bearer(person), timeout=60)
            )

        asking = threading.Thread(target=ask)
        asking.start()
        assert entered.wait(60)
        server.should_exit = True
        release.set()
        asking.join(60)
    assert [answer.status_code for answer in answers] == [200]
    assert person.value("select count(*) from public.knowledge_items") == 1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", headers={"apikey": PUBLISHABLE})
