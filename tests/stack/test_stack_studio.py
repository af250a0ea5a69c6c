"""Studio: admin rights for whoever has its address, for as long as it is open, and nowhere else."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from databases import free_port
from knowledge_persistence.embedded.processes import wait_until
from knowledge_persistence.embedded.studio import Studio
from knowledge_persistence.embedded.supervisor import is_port_free
from knowledge_persistence.errors import EmbeddedStackError
from stacks import new_stack, request

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from stacks import RunningStack

CHROMIUM = next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def exhibits(stack: RunningStack) -> Generator[None]:
    """A table that the API shows nobody but the service role."""
    stack.sql(
        """
        create table public.exhibits (id int primary key, name text);
        alter table public.exhibits enable row level security;
        revoke all on public.exhibits from anon, authenticated;
        insert into public.exhibits values (1, 'amphora of Exekias'), (2, 'lion gate');
        """
    )
    yield
    stack.sql("drop table public.exhibits")


@contextmanager
def opened(stack: RunningStack) -> Generator[Studio]:
    with Studio(stack.stack, port=free_port()) as studio:
        yield studio


def base(studio: Studio) -> str:
    return f"http://127.0.0.1:{studio.port}"


def cookie(studio: Studio) -> dict[str, str]:
    """Exchange the token for the cookie, as a browser does that opens the address."""
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=10)
    address = urlsplit(studio.url)
    connection.request("GET", f"{address.path}?{address.query}")
    answer = connection.getresponse()
    connection.close()
    assert (answer.status, answer.getheader("location")) == (303, "/")
    made = answer.getheader("set-cookie") or ""
    assert "HttpOnly" in made
    assert "SameSite=Strict" in made
    return {"cookie": made.split(";")[0]}


@pytest.mark.usefixtures("exhibits")
def test_nothing_without_the_token(stack: RunningStack) -> None:
    with opened(stack) as studio:
        wrong = [
            {},
            {"cookie": f"kp_studio_{studio.port}=guess"},
            {"cookie": "x"},
            stack.service,
            {"authorization": f"Bearer {stack.token(role='service_role')}"},
        ]
        for path in ("/", "/rest/v1/exhibits", "/_system/info", "/static/assets/x.js", "/auth/v1/settings"):
            for headers in wrong:
                answer = request(base(studio) + path, headers=headers)
                assert answer.status == 401, (path, headers)
                assert b"amphora" not in answer.body
        assert request(f"{base(studio)}/?token=guess").status == 401


@pytest.mark.usefixtures("exhibits")
def test_a_page_from_elsewhere_gets_nothing(stack: RunningStack) -> None:
    with opened(stack) as studio:
        mine = cookie(studio)
        # A name that resolves to this machine (DNS rebinding), and another page's script.
        for headers in (
            {"host": "evil.test"},
            {"host": f"evil.test:{studio.port}"},
            {"origin": "http://evil.test"},
        ):
            answer = request(f"{base(studio)}/rest/v1/exhibits", headers={**mine, **headers})
            assert answer.status in {401, 403}, headers
            assert b"amphora" not in answer.body


@pytest.mark.usefixtures("exhibits")
def test_its_api_is_the_service_role_and_tells_no_secret(stack: RunningStack) -> None:
    with opened(stack) as studio:
        mine = cookie(studio)
        rows = request(f"{base(studio)}/rest/v1/exhibits?order=id", headers=mine).json
        assert [row["name"] for row in rows] == ["amphora of Exekias", "lion gate"]
        info = request(f"{base(studio)}/_system/info", headers=mine)
        assert info.json["admin"] is True
        for secret in (stack.config.secret_key, stack.config.jwt_secret, *stack.config.passwords.values()):
            assert secret.encode() not in info.body
        answer = request(f"{base(studio)}/static/..%2f..%2fpackage.json", headers=mine)
        assert (answer.status, b"version" in answer.body) == (404, False)


@pytest.mark.usefixtures("exhibits")
def test_the_origin_stays_as_it_is(stack: RunningStack) -> None:
    with opened(stack):
        assert stack.call("/rest/v1/exhibits").status == 401
        assert stack.call("/rest/v1/exhibits", stack.anon).status == 401
        assert stack.call("/_system/info").status == 404


def test_it_is_gone_when_closed(stack: RunningStack) -> None:
    with opened(stack) as studio:
        assert studio.is_open
        assert not is_port_free(studio.port)
    assert is_port_free(studio.port)
    assert not studio.is_open


def test_it_needs_a_running_stack_and_a_free_port(stack: RunningStack, home: Path) -> None:
    with pytest.raises(EmbeddedStackError, match="isn't running"):
        Studio(new_stack(home)).open()
    with pytest.raises(EmbeddedStackError, match=f"port {stack.config.origin_port}, for Studio, is taken"):
        Studio(stack.stack, port=stack.config.origin_port).open()


def test_the_command_says_how_dangerous_it_is_and_ends_with_its_terminal(stack: RunningStack) -> None:
    code = "import sys; from knowledge_persistence.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "studio", "--json", "--port", str(free_port())],
        env={**os.environ, "KP_HOME": str(stack.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert urlsplit(told["url"]).hostname == "127.0.0.1"
        assert request(f"http://127.0.0.1:{told['port']}/").status == 401
        # Not even a chance to clean up.
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    assert wait_until(lambda: is_port_free(told["port"]), timeout=10)
    shown = subprocess.run(
        [sys.executable, "-c", code, "studio", "--help"], capture_output=True, text=True, check=True
    )
    assert "read and change everything" in " ".join(shown.stdout.replace("│", " ").split())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.usefixtures("exhibits")
def test_a_browser_shows_tables_and_rows(stack: RunningStack, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    with opened(stack) as studio:
        shown = subprocess.run(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--virtual-time-budget=20000",
                "--dump-dom",
                studio.url.replace("/?", "/editor/exhibits?"),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
    for telling in ("Table Editor", "exhibits", "amphora of Exekias", "lion gate"):
        assert telling in shown.stdout
