"""Stacks of the tests: in directories of their own, on ports of their own, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt
import psutil
import psycopg

from databases import free_port
from knowledge_persistence.credentials import Credential, CredentialStore
from knowledge_persistence.embedded import Stack, StackConfig
from knowledge_persistence.embedded.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """What came back from an HTTP request."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


#: How a request ends that gets no answer, or half of one.
NO_ANSWER = (OSError, http.client.HTTPException)


def request(
    url: str, *, method: str | None = None, headers: dict[str, str] | None = None, body: object = None
) -> Answer:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data=data, method=method, headers=headers or {})  # noqa: S310
    if data is not None:
        asked.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            return Answer(answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()})
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(), {k.lower(): v for k, v in error.headers.items()})


class RunningStack:
    """A stack under test, and its people."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.home = stack.home.path
        config = stack.home.load_config()
        assert config is not None
        self.config: StackConfig = config

    @property
    def url(self) -> str:
        return self.config.api_url

    @property
    def anon(self) -> dict[str, str]:
        """Headers of somebody who has the publishable key and nothing else."""
        return {"apikey": self.config.publishable_key}

    @property
    def service(self) -> dict[str, str]:
        return {"apikey": self.config.secret_key}

    @property
    def credential(self) -> Credential:
        """The sign-in that the first start stored."""
        credential = CredentialStore(self.home).load(self.url)
        assert credential is not None
        return credential

    @property
    def me(self) -> dict[str, str]:
        """Headers of the local user."""
        return self.bearer(self.token())

    def bearer(self, token: str) -> dict[str, str]:
        return {**self.anon, "authorization": f"Bearer {token}"}

    def token(self, *, secret: str | None = None, algorithm: str = "HS256", **claims: Any) -> str:
        """A token for the local user, with some claims different."""
        default = {"sub": self.credential.user_id, "role": "authenticated", "exp": int(time.time()) + 600}
        return jwt.encode({**default, **claims}, secret or self.config.jwt_secret, algorithm)

    def call(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        *,
        method: str | None = None,
        body: object = None,
    ) -> Answer:
        return request(self.url + path, method=method, headers=headers, body=body)

    def sql(self, statement: str, *, role: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.config.database_url(role), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def pid(self, name: str) -> int:
        """The process of a service, or of the supervisor."""
        state = self.stack.home.load_state()
        process = state["supervisor"] if name == "supervisor" else state["services"][name]["process"]
        return int(process["pid"])

    def is_whole(self) -> bool:
        """Whether every part runs and the origin serves."""
        status = self.stack.status()
        if status.state != "running" or any(one.pid is None for one in status.services.values()):
            return False
        try:
            return self.call("/healthz").status == 200
        except NO_ANSWER:
            return False

    def wait_whole(self) -> None:
        """Wait until the stack has recovered from what was done to it."""
        assert wait_until(self.is_whole, timeout=60), self.stack.status()

    def processes(self) -> list[psutil.Process]:
        return processes_of(self.home)


def new_stack(home: Path) -> Stack:
    """A stack that was never started, on ports that nothing uses."""
    return Stack(home, port=free_port(), database_port=free_port())


def processes_of(home: Path) -> list[psutil.Process]:
    """Every process that works for a data directory: by its arguments, environment, directory or open files."""
    own = psutil.Process().pid
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            traces = [
                *process.cmdline(),
                process.environ().get("KP_HOME", ""),
                process.cwd(),
                *(file.path for file in process.open_files()),
            ]
        except psutil.Error:
            continue
        if process.pid != own and any(trace.startswith(str(home)) for trace in traces):
            found.append(process)
    return found
