"""A deployment for the client's tests, its people, and its two doors.

Normally that is an embedded stack, started once. A deployment made of other parts is tested by naming it:
KP_STACK_URL, KP_STACK_API_KEY, KP_STACK_SECRET_KEY, KP_STACK_DATABASE_URL (login authenticator) and
KP_STACK_JWT_SECRET.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import UUID, uuid4

import pytest

from knowledge_persistence import KnowledgeClient, connect, connect_async
from knowledge_persistence._sync.http import HttpTransport
from knowledge_persistence.cli import main, output
from knowledge_persistence.credentials import CredentialStore
from knowledge_persistence.embedders.local import LocalEmbedder
from knowledge_persistence.settings import Settings
from stacks import RunningStack

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from knowledge_persistence import AsyncKnowledgeClient
    from knowledge_persistence.credentials import Credential

Door: TypeAlias = Literal["http", "direct"]
# Read before the tests hide the environment.
_NAMED = {
    name: os.environ.get(f"KP_STACK_{name}")
    for name in ("URL", "API_KEY", "SECRET_KEY", "DATABASE_URL", "JWT_SECRET")
}


@dataclass(frozen=True)
class Deployment:
    """Where the tests connect."""

    url: str
    api_key: str
    secret_key: str
    database_url: str
    jwt_secret: str

    def door(self, door: Door) -> str:
        return self.url if door == "http" else self.database_url


@dataclass(frozen=True)
class Person:
    """Somebody with an account."""

    deployment: Deployment
    credential: Credential
    password: str
    home: Path

    @property
    def id(self) -> UUID:
        return UUID(self.credential.user_id)

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home)

    def arguments(self, door: Door) -> dict[str, Any]:
        """What `connect` takes to let this person in through a door."""
        common: dict[str, Any] = {
            "url": self.deployment.door(door),
            "access_token": self.credential.access_token,
            "settings": self.settings,
        }
        if door == "http":
            return common | {"api_key": self.deployment.api_key}
        return common | {"jwt_secret": self.deployment.jwt_secret}


@pytest.fixture(scope="session")
def running_stack(request: pytest.FixtureRequest) -> RunningStack:
    """Give the run's own stack; whoever disturbs it waits until it has recovered."""
    if all(_NAMED.values()):
        pytest.skip("the deployment under test is not ours to disturb")
    return request.getfixturevalue("shared_stack")


@pytest.fixture(scope="session")
def deployment(request: pytest.FixtureRequest) -> Deployment:
    if all(_NAMED.values()):
        return Deployment(**{name.lower(): value for name, value in _NAMED.items() if value})
    config = request.getfixturevalue("running_stack").config
    return Deployment(
        url=config.api_url,
        api_key=config.publishable_key,
        secret_key=config.secret_key,
        database_url=config.database_url(),
        jwt_secret=config.jwt_secret,
    )


@pytest.fixture(scope="session")
def embedder() -> LocalEmbedder:
    return LocalEmbedder()


@pytest.fixture
def sign_up(deployment: Deployment, tmp_path: Path) -> Callable[..., Person]:
    """Make people who have never been here before."""

    def make(name: str = "somebody") -> Person:
        password = f"pw-{uuid4().hex}"
        transport = HttpTransport(deployment.url, deployment.api_key)
        try:
            assert transport.sign_in is not None
            credential = transport.sign_in.sign_up(f"{name}-{uuid4().hex[:12]}@example.org", password)
        finally:
            transport.close()
        assert credential is not None, "the deployment wants addresses confirmed"
        return Person(deployment, credential, password, tmp_path / "no-stack")

    return make


@pytest.fixture
def opened() -> Generator[list[KnowledgeClient]]:
    clients: list[KnowledgeClient] = []
    yield clients
    for client in clients:
        client.close()


@pytest.fixture(params=["http", "direct"])
def door(request: pytest.FixtureRequest) -> Door:
    """Name each door in turn: what the contract says holds behind both."""
    return request.param


@pytest.fixture
def enter(
    door: Door, opened: list[KnowledgeClient], embedder: LocalEmbedder
) -> Callable[..., KnowledgeClient]:
    """Let a person in through the door at hand."""

    def make(person: Person, **arguments: Any) -> KnowledgeClient:
        given = person.arguments(door) | {"embedder": embedder} | arguments
        opened.append(connect(**given))
        return opened[-1]

    return make


@pytest.fixture
def enter_async(door: Door, embedder: LocalEmbedder) -> Callable[..., AsyncKnowledgeClient]:
    """Make an async client for a person; the test enters it."""

    def make(person: Person, **arguments: Any) -> AsyncKnowledgeClient:
        return connect_async(**(person.arguments(door) | {"embedder": embedder} | arguments))

    return make


@pytest.fixture
def service(
    door: Door, deployment: Deployment, opened: list[KnowledgeClient], tmp_path: Path
) -> KnowledgeClient:
    """Act as the service through the door at hand."""
    arguments: dict[str, Any] = {"api_key": deployment.secret_key} if door == "http" else {}
    client = connect(
        deployment.door(door),
        service_role=True,
        embedder=None,
        settings=Settings(home=tmp_path / "no-stack"),
        **arguments,
    )
    opened.append(client)
    return client


@dataclass(frozen=True)
class Printed:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Printed]:
    """Run `kp` as a person, in this process."""

    def run(person: Person, *arguments: str, **environment: str) -> Printed:
        home = tmp_path / f"home-{person.id}"
        CredentialStore(home).save(person.deployment.url, person.credential)
        given = {
            "KP_HOME": str(home),
            "KP_URL": person.deployment.url,
            "KP_API_KEY": person.deployment.api_key,
            "KP_EMBEDDER": "none",
            "COLUMNS": "200",
            **environment,
        }
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            # A console reads its width once, when it is made.
            for console in (output.out, output.err):
                patch.setattr(console, "_width", int(given["COLUMNS"]))
            patch.setattr(sys, "argv", ["kp", *arguments])
            try:
                code = main()
            except SystemExit as ending:
                code = ending.code if isinstance(ending.code, int) else 0
        said = capsys.readouterr()
        return Printed(code, said.out, said.err)

    return run


@pytest.fixture
def do_page(tmp_path: Path) -> Callable[[Person, str], str]:
    """Do a how-to page as it is written, as a person, in one shell; return all that was printed."""

    def do(person: Person, name: str) -> str:
        page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / f"{name}.md"
        blocks = re.findall(
            r"^```(bash|python)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
        )
        home = tmp_path / "home"
        CredentialStore(home).save(person.deployment.url, person.credential)
        kp = f'{sys.executable} -c "import sys; from knowledge_persistence.cli import main; sys.exit(main())"'
        script = ["set -euo pipefail", "exec 2>&1", f'kp() {{ {kp} "$@"; }}']
        script += [
            text if language == "bash" else f"{sys.executable} - <<'PYTHON'\n{text}PYTHON\n"
            for language, text in blocks
        ]
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=tmp_path,
            env={
                **os.environ,
                "KP_HOME": str(home),
                "KP_URL": person.deployment.url,
                "KP_API_KEY": person.deployment.api_key,
                "COLUMNS": "200",
                "NO_COLOR": "1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return do
