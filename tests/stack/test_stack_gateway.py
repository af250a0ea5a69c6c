"""The origin as a gateway: who gets in, as whom, and what browsers and services find there."""

from __future__ import annotations

import base64
import http.server
import json
import socket
import struct
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from databases import free_port
from knowledge_persistence.embedded import node
from knowledge_persistence.embedded.front import DatabaseAddress, Front
from stacks import request

if TYPE_CHECKING:
    from collections.abc import Generator

    from stacks import RunningStack

DOORS = [
    ("GET", "/rest/v1/workspaces"),
    ("GET", "/rest/v1/"),
    ("POST", "/rest/v1/rpc/my_workspaces"),
    ("POST", "/rest/v1/workspaces"),
    ("POST", "/auth/v1/signup"),
    ("GET", "/auth/v1/user"),
    ("GET", "/auth/v1/settings"),
    ("POST", "/functions/v1/recall"),
    ("POST", "/realtime/v1/api/broadcast"),
]


@pytest.fixture(scope="session", autouse=True)
def context_function(stack: RunningStack) -> Generator[None]:
    """A function that says what the database sees of a request, and a table whose policy looks at a header."""
    stack.sql(
        """
        create function public.request_context() returns json language sql stable set search_path = '' as $$
          select json_build_object(
            'role', current_user, 'uid', auth.uid(), 'claims', auth.jwt(),
            'headers', nullif(current_setting('request.headers', true), '')::json,
            'path', current_setting('request.path', true),
            'method', current_setting('request.method', true),
            'statement_timeout', current_setting('statement_timeout'))
        $$;
        create function public.rest_until_timeout() returns void language sql volatile set search_path = ''
          as 'select pg_catalog.pg_sleep(30)';
        create table public.desks (id int primary key, session text not null);
        alter table public.desks enable row level security;
        revoke all on public.desks from anon, authenticated;
        grant select on public.desks to authenticated;
        create policy desks_select on public.desks for select to authenticated using (
          session = nullif(current_setting('request.headers', true), '')::json ->> 'x-session-id');
        insert into public.desks values (1, 'mine'), (2, 'yours');
        """
    )
    stack.call("/rest/v1/rpc/request_context", stack.anon, body={})
    yield
    stack.sql(
        "drop table public.desks; drop function public.request_context; drop function public.rest_until_timeout"
    )


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_a_keyless_request_gets_nothing(stack: RunningStack, method: str, path: str) -> None:
    answer = stack.call(path, method=method, body={} if method == "POST" else None)
    assert (answer.status, answer.json["code"]) == (401, "UNAUTHORIZED_MISSING_API_KEY")


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_a_made_up_key_gets_nothing(stack: RunningStack, method: str, path: str) -> None:
    for key in ("", "sb_publishable_made_up", stack.config.secret_key[:-1], stack.config.jwt_secret):
        answer = stack.call(path, {"apikey": key}, method=method, body={} if method == "POST" else None)
        assert answer.status == 401, key


def test_a_token_without_a_key_gets_nothing(stack: RunningStack) -> None:
    answer = stack.call("/rest/v1/workspaces", {"authorization": f"Bearer {stack.token()}"})
    assert answer.status == 401
    answer = stack.call("/rest/v1/workspaces", {"authorization": f"Bearer {stack.config.secret_key}"})
    assert answer.status == 401


@pytest.mark.parametrize(
    "path", ["/_system/info", "/_system/config", "/_system/introspect", "/storage/v1/bucket"]
)
def test_what_lite_serves_besides_is_not_there(stack: RunningStack, path: str) -> None:
    for headers in ({}, stack.anon, stack.service):
        answer = stack.call(path, headers)
        assert answer.status == 404
        assert stack.config.passwords["supabase_auth_admin"].encode() not in answer.body


def without_signature(token: str) -> str:
    return token.rsplit(".", 1)[0] + "."


def with_claims(token: str, **claims: str) -> str:
    head, body, signature = token.split(".")
    values = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    changed = base64.urlsafe_b64encode(json.dumps({**values, **claims}).encode()).decode().rstrip("=")
    return f"{head}.{changed}.{signature}"


def unsigned(token: str) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    return f"{head}.{token.split('.')[1]}."


@pytest.mark.parametrize("path", ["/rest/v1/rpc/request_context", "/rest/v1/desks", "/auth/v1/user"])
def test_forged_and_altered_tokens_are_refused(stack: RunningStack, path: str) -> None:
    good = stack.token()
    forged = {
        "signed with another secret": stack.token(secret="x" * 64),
        "signed with the publishable key": stack.token(secret=stack.config.publishable_key),
        "another algorithm": stack.token(algorithm="HS384"),
        "another user": with_claims(good, sub="00000000-0000-4000-8000-000000000000"),
        "another role": with_claims(good, role="service_role"),
        "no signature": without_signature(good),
        "alg none": unsigned(good),
        "expired": stack.token(exp=1),
        "no token at all": "not.a.token",
        "one part": "nonsense",
        "a broken body": good.split(".")[0] + ".e30x." + good.split(".")[2],
    }
    for name, token in forged.items():
        answer = stack.call(path, stack.bearer(token))
        assert answer.status == 401, name
        assert b"headers" not in answer.body, name
    assert stack.call(path, stack.bearer(good)).status in {200, 403}


@pytest.mark.parametrize(
    "role",
    ["postgres", "supabase_admin", "supabase_auth_admin", "authenticator", "pg_read_all_data", "", None, 7],
)
def test_a_signed_token_of_any_other_role_is_refused(stack: RunningStack, role: object) -> None:
    for path in ("/rest/v1/rpc/request_context", "/rest/v1/desks", "/auth/v1/user"):
        answer = stack.call(path, stack.bearer(stack.token(role=role)))
        assert answer.status == 401, path


def test_the_key_decides_the_role_and_the_token_the_user(stack: RunningStack) -> None:
    def seen(headers: dict[str, str]) -> tuple[str, str | None]:
        answer = stack.call("/rest/v1/rpc/request_context", headers)
        assert answer.status == 200
        return answer.json["role"], answer.json["uid"]

    assert seen(stack.anon) == ("anon", None)
    assert seen(stack.service) == ("service_role", None)
    assert seen(stack.me) == ("authenticated", stack.credential.user_id)
    # supabase-js and supabase-py send the key as a bearer token as well, as long as nobody is signed in.
    assert seen({**stack.anon, "authorization": f"Bearer {stack.config.publishable_key}"}) == ("anon", None)
    # A secret key beside a user's token is that user.
    both = {**stack.service, "authorization": f"Bearer {stack.token()}"}
    assert seen(both) == ("authenticated", stack.credential.user_id)


def test_the_secret_key_is_refused_from_a_browser(stack: RunningStack) -> None:
    answer = stack.call("/rest/v1/rpc/request_context", {**stack.service, "user-agent": "Mozilla/5.0 (X11)"})
    assert answer.status == 401


def test_the_api_description_needs_the_secret_key(stack: RunningStack) -> None:
    for path in ("/rest/v1/", "/rest/v1"):
        assert stack.call(path, stack.anon).status == 403
        assert stack.call(path, stack.me).status == 403


def test_the_database_sees_the_request(stack: RunningStack) -> None:
    answer = stack.call(
        "/rest/v1/rpc/request_context", {**stack.me, "X-Session-Id": "S", "X-Workspace-Id": "W"}
    )
    seen = answer.json
    assert (seen["headers"]["x-session-id"], seen["headers"]["x-workspace-id"]) == ("S", "W")
    assert (seen["method"], seen["path"]) == ("GET", "/rpc/request_context")
    assert seen["claims"]["sub"] == stack.credential.user_id


def test_policies_on_tables_see_the_request_headers(stack: RunningStack) -> None:
    def ids(headers: dict[str, str]) -> list[int]:
        return [row["id"] for row in stack.call("/rest/v1/desks", {**stack.me, **headers}).json]

    assert ids({}) == []
    assert ids({"x-session-id": "mine"}) == [1]
    # Nothing of one request is left for the next on the same connection.
    assert ids({}) == []
    assert ids({"x-session-id": "yours"}) == [2]


def test_each_role_has_its_timeout(stack: RunningStack) -> None:
    def timeout(headers: dict[str, str]) -> str:
        return stack.call("/rest/v1/rpc/request_context", headers).json["statement_timeout"]

    assert (timeout(stack.anon), timeout(stack.me), timeout(stack.service)) == ("3s", "8s", "8s")
    answer = stack.call("/rest/v1/rpc/rest_until_timeout", stack.anon, body={})
    assert (answer.status, answer.json["code"]) == (500, "57014")


def test_preflights_allow_what_clients_send(stack: RunningStack) -> None:
    for path in (
        "/rest/v1/desks",
        "/rest/v1/rpc/x",
        "/auth/v1/signup",
        "/functions/v1/recall",
        "/realtime/v1/api",
    ):
        answer = stack.call(
            path,
            {
                "origin": "http://example.test",
                "access-control-request-method": "POST",
                "access-control-request-headers": "apikey,x-session-id,x-workspace-id,x-of-tomorrow",
            },
            method="OPTIONS",
        )
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "*"
        allowed = set(answer.headers["access-control-allow-headers"].split(", "))
        assert allowed >= {"apikey", "authorization", "content-type", "prefer", "x-client-info"}
        assert allowed >= {"x-session-id", "x-workspace-id", "x-of-tomorrow"}
        assert "PATCH" in answer.headers["access-control-allow-methods"]


def test_browsers_may_read_every_answer(stack: RunningStack) -> None:
    for path, headers in [
        ("/rest/v1/desks", stack.me),
        ("/rest/v1/desks", {}),
        ("/rest/v1/desks", stack.bearer("a.b.c")),
        ("/auth/v1/user", stack.me),
        ("/functions/v1/x", stack.anon),
    ]:
        answer = stack.call(path, headers)
        assert answer.headers["access-control-allow-origin"] == "*", path
        assert "content-range" in answer.headers["access-control-expose-headers"]


def test_overlong_context_headers_are_refused(stack: RunningStack) -> None:
    for name in ("x-session-id", "x-workspace-id"):
        answer = stack.call("/rest/v1/desks", {**stack.me, name: "x" * 257})
        assert (answer.status, name in answer.json["message"]) == (431, True)
    assert stack.call("/rest/v1/desks", {**stack.me, "x-anything": "x" * 64_000}).status == 431


def test_an_overlong_body_is_refused_before_it_is_read(stack: RunningStack) -> None:
    host, port = "127.0.0.1", stack.config.origin_port
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(
            b"POST /rest/v1/rpc/request_context HTTP/1.1\r\nhost: x\r\ncontent-length: 70000000\r\n"
            + f"apikey: {stack.config.publishable_key}\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_new_functions_and_columns_are_seen_at_once(stack: RunningStack) -> None:
    assert stack.call("/rest/v1/rpc/arrived", stack.anon, body={}).status == 404
    stack.sql(
        "create function public.arrived() returns int language sql stable set search_path = '' as 'select 42'"
    )
    try:
        deadline = threading.Event()
        for _ in range(100):
            answer = stack.call("/rest/v1/rpc/arrived", stack.anon, body={})
            if answer.status == 200:
                break
            deadline.wait(0.05)
        assert (answer.status, answer.json) == (200, 42)
    finally:
        stack.sql("drop function public.arrived()")


def test_the_root_says_what_this_is(stack: RunningStack) -> None:
    answer = stack.call("/")
    assert (answer.status, answer.json["name"]) == (200, "knowledge-persistence")
    assert stack.config.publishable_key.encode() not in answer.body
    assert stack.call("/healthz").json == {"status": "ok", "database": True}


def test_it_listens_on_loopback_only(stack: RunningStack) -> None:
    ports = {stack.config.origin_port, stack.config.database_port}
    listening = {
        connection.laddr.ip
        for process in stack.processes()
        for connection in process.net_connections(kind="tcp")
        if connection.status == "LISTEN" and connection.laddr.port in ports
    }
    assert listening == {"127.0.0.1"}


class _Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked; takes any upgrade and echoes its bytes."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.dumps(
            {
                "path": self.path,
                "method": self.command,
                "apikey": self.headers.get("apikey"),
                "body": self.rfile.read(length).decode(),
            }
        ).encode()
        self.send_response(207)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.headers.get("upgrade") == "websocket":
            self.send_response(101)
            self.send_header("upgrade", "websocket")
            self.send_header("connection", "Upgrade")
            self.send_header("x-path", self.path)
            self.end_headers()
            self.wfile.flush()
            while data := self.connection.recv(1024):
                self.connection.sendall(data.upper())
            self.close_connection = True
        elif self.path.endswith("/dies"):
            self.send_response(200)
            self.send_header("content-length", "1000000")
            self.end_headers()
            self.wfile.write(b"half of ")
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        else:
            self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxied(stack: RunningStack) -> Generator[str]:
    """A front of its own on the same database, with one local service behind both proxied paths."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = free_port()
    cluster = stack.stack.home.cluster(stack.config)
    front = Front(
        node.install_front(),
        stack.config,
        mode="serve",
        database=DatabaseAddress(str(cluster.socket_directory), cluster.port),
        options={"port": port, "functionsPort": server.server_port, "realtimePort": server.server_port},
    )
    with front:
        front.wait_for("prepared", timeout=30)
        front.command("listen")
        front.wait_for("listening", timeout=10)
        yield f"http://127.0.0.1:{port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_functions_and_realtime_are_passed_on(stack: RunningStack, proxied: str) -> None:
    answer = request(f"{proxied}/functions/v1/recall?x=1", headers=stack.anon, body={"query": "é"})
    assert answer.status == 207
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.json == {
        "path": "/functions/v1/recall?x=1",
        "method": "POST",
        "apikey": stack.config.publishable_key,
        "body": json.dumps({"query": "é"}),
    }
    answer = request(f"{proxied}/realtime/v1/api/broadcast", headers=stack.anon, body=[])
    assert answer.json["path"] == "/api/broadcast"
    assert request(f"{proxied}/functions/v1/recall", body={}).status == 401


def test_agents_tokens_are_passed_to_functions_and_nowhere_else(stack: RunningStack, proxied: str) -> None:
    agent = {"authorization": "Bearer kpt_0123"}
    for path in ("/rest/v1/workspaces", "/auth/v1/user", "/functions/v10/recall"):
        answer = request(proxied + path, headers=agent)
        assert answer.status in {401, 404}, path
        assert request(proxied + path, headers={**agent, **stack.anon}).status in {401, 404}, path
    assert (
        request(f"{proxied}/functions/v1/recall", headers={**agent, "apikey": "sb_no"}, body={}).status == 401
    )
    assert request(f"{proxied}/functions/v1/recall", headers=agent, body={}).status == 207
    assert request(f"{proxied}/functions/v1/recall", headers={**agent, **stack.anon}, body={}).status == 207


def _upgrade(url: str, path: str) -> socket.socket:
    port = int(url.rsplit(":", 1)[1])
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    return connection


def test_websockets_are_piped_through(stack: RunningStack, proxied: str) -> None:
    key = quote(stack.config.publishable_key)
    with _upgrade(proxied, f"/realtime/v1/websocket?apikey={key}&vsn=1.0.0") as connection:
        head = connection.recv(4096).decode()
        assert head.startswith("HTTP/1.1 101")
        assert "x-path: /websocket?apikey=" in head
        for word in (b"one", b"two"):
            connection.sendall(word)
            assert connection.recv(100) == word.upper()


def test_an_answer_that_breaks_off_breaks_off_here_too(stack: RunningStack, proxied: str) -> None:
    port = int(proxied.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            f"GET /functions/v1/dies HTTP/1.1\r\nhost: x\r\napikey: {stack.config.publishable_key}\r\n\r\n".encode()
        )
        told = b""
        try:
            while data := connection.recv(4096):
                told += data
        except ConnectionResetError:
            pass
    assert told.startswith(b"HTTP/1.1 200")
    assert told.endswith(b"half of ")


def test_no_upgrade_ends_the_front(stack: RunningStack, proxied: str) -> None:
    for path in ("//", "http://", "/%", "/realtime/v1/websocket"):
        with _upgrade(proxied, path) as connection:
            assert connection.recv(4096).decode().split()[1] in {"400", "401", "404"}, path
    for _ in range(20):  # and those who don't wait for the refusal
        with _upgrade(proxied, "/realtime/v1/websocket") as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert request(f"{proxied}/functions/v1/recall", headers=stack.anon, body={}).status == 207


def test_websockets_need_a_key(stack: RunningStack, proxied: str) -> None:
    for path, status in [
        ("/realtime/v1/websocket", "401"),
        ("/realtime/v1/websocket?apikey=made-up", "401"),
        (f"/elsewhere?apikey={stack.config.publishable_key}", "404"),
    ]:
        with _upgrade(proxied, path) as connection:
            assert connection.recv(4096).decode().split()[1] == status
    with _upgrade(stack.url, f"/realtime/v1/websocket?apikey={stack.config.publishable_key}") as connection:
        assert connection.recv(4096).decode().split()[1] == "101"
