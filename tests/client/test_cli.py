"""The command line: what it prints where, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from knowledge_persistence.credentials import CredentialStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Deployment, Person
    from stacks import RunningStack

    SignUp = Callable[..., Person]

RUN = "import sys; from knowledge_persistence.cli import main; sys.exit(main())"


class Result:
    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


def kp(*arguments: str, stdin: str | None = None, **environment: str) -> Result:
    process = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env={**os.environ, "COLUMNS": "100", **environment},
        input=stdin or "",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in process.stderr, process.stderr
    return Result(process)


@pytest.fixture
def me(deployment: Deployment, sign_up: SignUp, tmp_path: Path) -> dict[str, str]:
    """Sign somebody in, with a data directory of their own."""
    person = sign_up("cli")
    home = tmp_path / "home"
    CredentialStore(home).save(deployment.url, person.credential)
    return {
        "KP_HOME": str(home),
        "KP_URL": deployment.url,
        "KP_API_KEY": deployment.api_key,
        "KP_EMBEDDER": "none",
    }


# What goes wrong


@pytest.mark.parametrize(
    "command", [("recall", "x"), ("remember", "x"), ("session", "list"), ("workspace", "list"), ("whoami",)]
)
def test_without_a_stack_it_says_how_to_start_one(command: tuple[str, ...], tmp_path: Path) -> None:
    result = kp(*command, KP_HOME=str(tmp_path))
    assert (result.code, result.out) == (3, "")
    assert "kp up" in result.err


def test_a_deployment_that_does_not_answer_is_told_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    result = kp(
        "recall",
        "x",
        KP_HOME=str(tmp_path),
        KP_URL="http://127.0.0.1:9",
        KP_API_KEY="k",
        KP_ACCESS_TOKEN="t",
        KP_EMBEDDER="none",
    )
    assert result.code == 3
    assert "127.0.0.1:9" in result.err
    assert time.monotonic() - started < 10


def test_nobody_signed_in_is_told(deployment: Deployment, tmp_path: Path) -> None:
    result = kp("recall", "x", KP_HOME=str(tmp_path), KP_URL=deployment.url, KP_API_KEY=deployment.api_key)
    assert result.code == 4
    assert "kp login" in result.err


@pytest.mark.parametrize(
    "command",
    [
        ("recall",),
        ("recall", " "),
        ("remember", ""),
        ("remember", "x", "--importance", "0"),
        ("remember", "x", "--type", "rumour"),
        ("rate", str(uuid4())),
        ("session", "end"),
        ("unheard-of",),
        ("recall", "x", "--nonsense"),
    ],
)
def test_wrong_usage_is_2(command: tuple[str, ...], tmp_path: Path) -> None:
    result = kp(*command, KP_HOME=str(tmp_path))
    assert (result.code, result.out) == (2, "")
    assert result.err


def test_what_is_not_there_and_not_allowed(me: dict[str, str]) -> None:
    missing = kp("show", str(uuid4()), **me)
    assert (missing.code, missing.out) == (1, "")
    assert "no such knowledge item" in missing.err
    foreign = kp("recall", "x", "--workspace", str(uuid4()), **me)
    assert foreign.code == 4


def test_a_wrong_password_is_4(deployment: Deployment, sign_up: SignUp, tmp_path: Path) -> None:
    person = sign_up("cli")
    result = kp(
        "login", str(person.credential.email), "--password-stdin",
        stdin="wrong\n", KP_HOME=str(tmp_path), KP_URL=deployment.url, KP_API_KEY=deployment.api_key,
    )  # fmt: skip
    assert result.code == 4
    assert not (tmp_path / "credentials.json").exists()


# What works


def test_remember_and_recall(me: dict[str, str]) -> None:
    text = f"Zebra crossings are white {uuid4().hex}.\nSecond line \x1b[31mred\x1b[0m."
    first = kp("remember", text, "-t", "zebra", **me)
    assert first.code == 0
    knowledge_id = first.out.strip()
    assert "Remembered" in first.err
    assert "Known already" in kp("remember", text, **me).err

    shown = kp("recall", "zebra crossings", **me)
    assert knowledge_id in shown.out
    assert "why:" in shown.out
    assert "█" in shown.out
    assert "pending" in shown.out
    # What a terminal would obey is not printed.
    assert "\x1b" not in shown.out
    assert shown.err == ""

    [found] = kp("recall", "zebra crossings", "--json", **me).json
    assert found["knowledge_id"] == knowledge_id
    assert found["content"].startswith("Zebra crossings")
    nothing = kp("recall", "giraffe", **me)
    assert (nothing.code, nothing.out) == (0, "")
    assert "Nothing known" in nothing.err

    assert kp("validate", "item", knowledge_id, "--json", **me).json["validation_status"] == "validated"
    rated = kp("rate", knowledge_id, "-r", "8", "--worked", "--json", **me).json
    assert (rated["average_rating"], rated["success_count"]) == (8, 1)
    item = kp("show", knowledge_id, "--json", **me).json
    assert item["access_count"] == 2
    assert "validated" in kp("show", knowledge_id, **me).out


def test_text_comes_from_standard_input(me: dict[str, str]) -> None:
    made = kp("remember", "-", "--title", "From a pipe", "--json", stdin="piped text\n", **me).json
    item = kp("show", made["knowledge_id"], "--json", **me).json
    assert (item["title"], item["content"]) == ("From a pipe", "piped text")


def test_sessions(me: dict[str, str]) -> None:
    started = kp("session", "start", "monday's", "--project", "p", **me)
    assert started.out == "monday's\n"
    assert "export KP_SESSION='monday'\"'\"'s'" in started.err
    recorded = kp("remember", f"in a session {uuid4().hex}", "--json", **me, KP_SESSION="monday's").json
    assert recorded["session_position"] is not None
    ended = kp("session", "end", "--summary", "all done", "--json", **me, KP_SESSION="monday's").json
    assert (ended["knowledge_items_created"], ended["project_context"]) == (1, "p")
    assert "monday's" in kp("session", "list", **me).out
    assert "all done" in kp("session", "show", "monday's", **me).out
    assert kp("session", "show", "tuesday", **me).code == 1


def test_workspaces(me: dict[str, str], sign_up: SignUp) -> None:
    friend = sign_up("friend")
    made = kp("workspace", "create", "crew", "--json", **me).json["workspace_id"]
    assert kp("workspace", "add", "crew", str(friend.id), "--role", "reader", **me).code == 0
    assert (
        kp("workspace", "role", "crew", str(friend.id), "maintainer", "--json", **me).json["role"]
        == "maintainer"
    )
    assert {member["role"] for member in kp("workspace", "members", made, "--json", **me).json} == {
        "owner",
        "maintainer",
    }
    assert "crew" in kp("workspace", "list", **me).out
    assert kp("workspace", "remove", "crew", str(friend.id), **me).code == 0
    refused = kp("workspace", "delete", "crew", **me)
    assert refused.code == 2
    assert kp("workspace", "delete", "crew", "--yes", **me).code == 0
    assert "crew" not in kp("workspace", "list", **me).out


def test_login_whoami_logout(deployment: Deployment, tmp_path: Path) -> None:
    where = {"KP_HOME": str(tmp_path), "KP_URL": deployment.url, "KP_API_KEY": deployment.api_key}
    email = f"new-{uuid4().hex[:10]}@example.org"
    made = kp("login", email, "--sign-up", "--password-stdin", stdin="a-long-password\n", **where)
    assert made.code == 0, made.err
    assert "a-long-password" not in (tmp_path / "credentials.json").read_text()
    assert kp("whoami", "--json", **where).json["email"] == email
    assert kp("whoami", **where).out == f"{email}\n"
    assert kp("logout", **where).code == 0
    assert kp("whoami", **where).code == 4
    assert kp("login", email, "--password-stdin", stdin="a-long-password\n", **where).code == 0
    assert kp("whoami", **where).code == 0


def test_an_ending_token_is_renewed_and_kept(deployment: Deployment, me: dict[str, str]) -> None:
    store = CredentialStore(Path(me["KP_HOME"]))
    before = store.load(deployment.url)
    assert before is not None
    entry = {**json.loads(store.path.read_text())[deployment.url], "expires_at": int(time.time()) - 5}
    store.path.write_text(json.dumps({deployment.url: entry}))
    assert kp("whoami", **me).code == 0
    after = store.load(deployment.url)
    assert after is not None
    assert after.refresh_token != before.refresh_token
    assert after.expires_at > time.time()
    assert kp("whoami", **me).code == 0


def test_the_embedded_stack_is_found_by_itself(running_stack: RunningStack) -> None:
    home = {"KP_HOME": str(running_stack.home)}
    assert kp("whoami", "--json", **home).json["user_id"] == running_stack.credential.user_id
    assert kp("worker", "--once", "--json", **home).json["failed"] == 0


def test_models(me: dict[str, str], deployment: Deployment) -> None:
    name = f"tiny-{uuid4().hex[:8]}"
    assert kp("model", "register", name, "3", **me).code != 0, "users register no models"
    service = me | {"KP_API_KEY": deployment.secret_key}
    made = kp("model", "register", name, "3", "--query-prefix", "q: ", "--json", **service).json
    assert (made["dimensions"], made["query_prefix"], made["is_default"]) == (3, "q: ", False)
    assert kp("model", "register", name, "4", **service).code == 1
    assert name in kp("model", "list", **me).out


def test_help_is_quick_and_whole() -> None:
    slowest = min(_seconds("recall", "--help") for _ in range(3))
    assert slowest < 1.5, "the command line has begun to import something slow"
    page = kp("--help").out
    for command in ("up", "remember", "recall", "session", "workspace", "login", "worker", "migrate"):
        assert f" {command} " in page


def _seconds(*arguments: str) -> float:
    started = time.monotonic()
    assert kp(*arguments).code == 0
    return time.monotonic() - started
