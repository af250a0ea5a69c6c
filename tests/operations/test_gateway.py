"""The gateway: its configuration against Envoy's own types, and what it does with a request.

There is no Envoy here. The route table is read as data by a small evaluator that does what Envoy documents (paths,
order of routes, order of filters, rewriting); the filter's code is run as it is, on the LuaJIT that Envoy has.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import os
import re
import subprocess
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from lupa.luajit21 import LuaRuntime

from knowledge_persistence.operations.keys import generate_secrets, opaque_key

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = ROOT / "supabase" / "gateway"
SECRETS = {**generate_secrets(), "SUPABASE_PUBLIC_URL": "https://memory.example.org"}
PUBLISHABLE, SECRET = SECRETS["SUPABASE_PUBLISHABLE_KEY"], SECRETS["SUPABASE_SECRET_KEY"]
ANON_TOKEN, SERVICE_TOKEN = SECRETS["ANON_KEY_ASYMMETRIC"], SECRETS["SERVICE_ROLE_KEY_ASYMMETRIC"]
USER = "eyJhbGciOiJFUzI1NiJ9.eyJyb2xlIjoiYXV0aGVudGljYXRlZCJ9.c2lnbmF0dXJl"
DASHBOARD = "Basic " + base64.b64encode(b"operator:" + SECRETS["DASHBOARD_PASSWORD"].encode()).decode()


def render(target: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **SECRETS, **changes}
    command = ["bash", GATEWAY / "entrypoint.sh", "--render", GATEWAY, target]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    target = tmp_path_factory.mktemp("gateway") / "envoy.yaml"
    done = render(target)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(target.read_text())


def manager(configuration: dict[str, Any]) -> dict[str, Any]:
    [listener] = configuration["static_resources"]["listeners"]
    [chain] = listener["filter_chains"]
    [filter_] = chain["filters"]
    return filter_["typed_config"]


def routes(configuration: dict[str, Any]) -> list[dict[str, Any]]:
    [host] = manager(configuration)["route_config"]["virtual_hosts"]
    return host["routes"]


@dataclass
class Outcome:
    """What came of a request: an answer of the gateway's own, or what it handed on."""

    status: int | None = None
    upstream: str | None = None
    path: str | None = None
    host: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Gateway:
    """Does with a request what Envoy documents for this configuration."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        self.manager = manager(configuration)
        [self.host] = self.manager["route_config"]["virtual_hosts"]
        self.filters = {f["name"].split(".")[-1]: f["typed_config"] for f in self.manager["http_filters"]}
        lua = LuaRuntime(unpack_returned_tuples=True)
        lua.execute(self.filters["lua"]["default_source_code"]["inline_string"])
        self.lua, self.on_request = lua, lua.globals().envoy_on_request

    def __call__(self, path: str, *, method: str = "GET", **headers: str) -> Outcome:
        sent = {name.replace("__", "-"): value for name, value in headers.items()}
        path = self._normalize(path)
        if path is None or any("_" in name for name in sent):
            return Outcome(status=400)
        route = self._route(path)
        sent[":path"] = path
        for name in self.filters:
            answer = getattr(self, f"_{name}")(route, method, sent)
            if answer is not None:
                return answer
        raise AssertionError("the router is the last filter")

    def _normalize(self, path: str) -> str | None:
        bare, mark, query = path.partition("?")
        assert self.manager["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
        if re.search(r"%2f|%5c", bare, re.IGNORECASE):
            return None
        assert self.manager["normalize_path"]
        assert self.manager["merge_slashes"]
        parts: list[str] = []
        pieces = re.sub(r"/+", "/", bare.replace("\\", "/")).split("/")[1:]
        for number, piece in enumerate(pieces):
            plain = piece.replace("%2e", ".").replace("%2E", ".")
            if plain == "..":
                parts[-1:] = []
            elif plain != ".":
                parts.append(piece)
                continue
            if number == len(pieces) - 1:
                parts.append("")
        return "/" + "/".join(parts) + mark + query

    def _route(self, path: str) -> dict[str, Any]:
        bare = path.partition("?")[0]
        for route in self.host["routes"]:
            match = route["match"]
            if (
                ("path" in match and bare == match["path"])
                or ("prefix" in match and bare.startswith(match["prefix"]))
                or ("safe_regex" in match and re.fullmatch(match["safe_regex"]["regex"], bare))
            ):
                return route
        raise AssertionError("the last route takes everything")

    def _cors(self, route: dict[str, Any], method: str, headers: dict[str, str]) -> Outcome | None:
        name = "envoy.filters.http.cors"
        policy = {**self.host["typed_per_filter_config"], **route.get("typed_per_filter_config", {})}[name]
        if method != "OPTIONS" or "origin" not in headers or "access-control-request-method" not in headers:
            return None
        allowed = any(
            headers["origin"] == rule.get("exact")
            or ("safe_regex" in rule and re.fullmatch(rule["safe_regex"]["regex"], headers["origin"]))
            for rule in policy["allow_origin_string_match"]
        )
        return Outcome(status=200) if allowed else None

    def _basic_auth(self, route: dict[str, Any], _: str, headers: dict[str, str]) -> Outcome | None:
        own = route.get("typed_per_filter_config", {}).get("envoy.filters.http.basic_auth", {})
        if own.get("disabled"):
            return None
        kind, _, text = headers.get("authorization", "").partition(" ")
        name, _, password = (
            base64.b64decode(text).decode().partition(":") if kind == "Basic" else ("", "", "")
        )
        digest = base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()  # noqa: S324 - htpasswd's
        known = self.filters["basic_auth"]["users"]["inline_string"]
        return None if f"{name}:{{SHA}}{digest}" == known else Outcome(status=401)

    def _lua(self, route: dict[str, Any], _: str, headers: dict[str, str]) -> Outcome | None:
        answers: list[Outcome] = []
        metadata = route.get("metadata", {}).get("filter_metadata", {}).get("envoy.filters.http.lua", {})
        table = self.lua.table_from
        header_map = {
            "get": lambda _, name: headers.get(name),
            "replace": lambda _, name, value: headers.__setitem__(name, value),
            "remove": lambda _, name: headers.pop(name, None) and None,
        }
        wanted = {"get": lambda _, name: metadata.get(name)}
        handle = {
            "headers": lambda _: table(header_map),
            "metadata": lambda _: table(wanted),
            "respond": lambda _, head, __: answers.append(Outcome(status=int(head[":status"]))),
        }
        self.on_request(table(handle))
        return answers[0] if answers else None

    def _router(self, route: dict[str, Any], _: str, headers: dict[str, str]) -> Outcome:
        if "direct_response" in route:
            return Outcome(status=route["direct_response"]["status"])
        action, path = route["route"], headers.pop(":path")
        bare, mark, query = path.partition("?")
        if "prefix_rewrite" in action:
            old = route["match"].get("prefix", route["match"].get("path"))
            bare = action["prefix_rewrite"] + bare.removeprefix(old)
        elif "regex_rewrite" in action:
            rewrite = action["regex_rewrite"]
            bare = re.sub(rewrite["pattern"]["regex"], rewrite["substitution"], bare)
        for name in route.get("request_headers_to_remove", []):
            headers.pop(name, None)
        return Outcome(
            upstream=action["cluster"],
            path=bare + mark + query,
            host=action.get("host_rewrite_literal"),
            headers=headers,
        )


@pytest.fixture(scope="module")
def gateway(configuration: dict[str, Any]) -> Gateway:
    return Gateway(configuration)


KEYS = {
    "no key": {},
    "empty key": {"apikey": ""},
    "wrong key": {"apikey": opaque_key("secret")},
    "internal token": {"apikey": SERVICE_TOKEN},
    "publishable key": {"apikey": PUBLISHABLE},
    "secret key": {"apikey": SECRET},
    "user token": {"apikey": PUBLISHABLE, "authorization": f"Bearer {USER}"},
    "user token alone": {"authorization": f"Bearer {USER}"},
    "legacy anon key": {"apikey": SECRETS["ANON_KEY"]},
    "legacy service key": {"apikey": SECRETS["SERVICE_ROLE_KEY"]},
    "dashboard password": {"authorization": DASHBOARD},
}
NO_KEY = {"no key", "empty key", "wrong key", "internal token", "user token alone", "dashboard password"}
SERVICE = {"secret key", "legacy service key"}
OPEN = {
    "/auth/v1/verify?token=t": ("auth", "/verify?token=t"),
    "/auth/v1/callback": ("auth", "/callback"),
    "/auth/v1/authorize?provider=x": ("auth", "/authorize?provider=x"),
    "/auth/v1/.well-known/jwks.json": ("auth", "/.well-known/jwks.json"),
    "/auth/v1/sso/saml/acs": ("auth", "/sso/saml/acs"),
    "/auth/v1/sso/saml/metadata": ("auth", "/sso/saml/metadata"),
    "/.well-known/oauth-authorization-server/auth/v1": ("auth", "/.well-known/oauth-authorization-server"),
}
KEYED = {
    "/auth/v1/token?grant_type=password": ("auth", "/token?grant_type=password"),
    "/auth/v1/admin/users": ("auth", "/admin/users"),
    "/auth/v1/verify/more": ("auth", "/verify/more"),
    "/rest/v1/knowledge_items?select=id": ("rest", "/knowledge_items?select=id"),
    "/rest/v1/rpc/recall_knowledge": ("rest", "/rpc/recall_knowledge"),
    "/realtime/v1/api/broadcast": ("realtime", "/api/broadcast"),
    "/realtime/v1/websocket": ("realtime", "/socket/websocket"),
}
SERVICE_ONLY = {"/rest/v1/": ("rest", "/"), "/pg/query": ("meta", "/query")}
REFUSED = {
    "/mcp": 403,
    "/mcp/": 403,
    "/mcp?x=1": 403,
    "/api/mcp": 403,
    "/api/mcp/sse": 403,
    "//mcp": 403,
    "/rest/v1/../../mcp": 403,
    "/realtime/v1/api/tenants": 403,
    "/realtime/v1/api/tenants/realtime-dev": 403,
    "/realtime/v1/api/openapi": 403,
    "/storage/v1/object/x": 404,
    "/graphql/v1": 404,
    "/rest/v1/%2e%2e%2fpg/query": 400,
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("path", REFUSED)
def test_what_nobody_may_have(gateway: Gateway, path: str, key: str) -> None:
    assert gateway(path, **KEYS[key]).status == REFUSED[path]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("path", SERVICE_ONLY)
def test_what_the_service_alone_may_have(gateway: Gateway, path: str, key: str) -> None:
    outcome = gateway(path, **KEYS[key])
    if key in NO_KEY:
        assert outcome.status == 401
    elif key not in SERVICE:
        assert outcome.status == 403
    else:
        assert (outcome.upstream, outcome.path) == SERVICE_ONLY[path]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("path", KEYED)
def test_what_takes_a_key(gateway: Gateway, path: str, key: str) -> None:
    outcome = gateway(path, **KEYS[key])
    if key in NO_KEY:
        assert outcome.status == 401
        return
    assert (outcome.upstream, outcome.path) == KEYED[path]
    legacy = {"legacy anon key": SECRETS["ANON_KEY"], "legacy service key": SECRETS["SERVICE_ROLE_KEY"]}
    token = legacy.get(key) or (SERVICE_TOKEN if key == "secret key" else ANON_TOKEN)
    # No key of a client goes further than the gateway.
    assert outcome.headers["apikey"] == token
    if outcome.path and outcome.path.startswith("/socket/"):
        assert outcome.headers["x-api-key"] == token
        assert outcome.host == "realtime-dev.supabase-realtime"
    else:
        assert outcome.headers["authorization"] == f"Bearer {USER if key == 'user token' else token}"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("path", OPEN)
def test_what_anybody_may_have(gateway: Gateway, path: str, key: str) -> None:
    outcome = gateway(path, **KEYS[key])
    assert (outcome.upstream, outcome.path) == OPEN[path]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("path", ["/", "/project/default", "/api/platform/profile", "/rest/v1", "/pg", "/x"])
def test_studio_asks_for_its_password(gateway: Gateway, path: str, key: str) -> None:
    outcome = gateway(path, **KEYS[key])
    if key != "dashboard password":
        assert outcome.status == 401
        return
    assert (outcome.upstream, outcome.path) == ("studio", path)
    assert "authorization" not in outcome.headers


def test_a_wrong_password_does_not_open_studio(gateway: Gateway) -> None:
    wrong = base64.b64encode(b"operator:" + b"x" * 24).decode()
    assert gateway("/", authorization=f"Basic {wrong}").status == 401
    assert gateway("/", authorization="Basic " + base64.b64encode(b":").decode()).status == 401


def test_functions_see_who_calls_them(gateway: Gateway) -> None:
    def call(**headers: str) -> Outcome:
        return gateway("/functions/v1/recall?limit=3", **headers)

    forged = {"sb__api__key": SERVICE_TOKEN}
    assert call(apikey=opaque_key("publishable")).status == 401
    assert call(authorization=f"Bearer {opaque_key('secret')}").status == 401
    assert call(apikey=PUBLISHABLE, authorization=f"Bearer {SECRET}").status == 401
    nobody = call(**forged)
    assert (nobody.upstream, nobody.path) == ("edge", "/recall?limit=3")
    assert "sb-api-key" not in nobody.headers
    user = call(apikey=PUBLISHABLE, authorization=f"Bearer {USER}", **forged)
    assert user.headers["sb-api-key"] == ANON_TOKEN
    assert user.headers["authorization"] == f"Bearer {USER}"
    assert call(apikey=SECRET).headers["sb-api-key"] == SERVICE_TOKEN
    assert call(authorization=f"Bearer {SECRET}").headers["sb-api-key"] == SERVICE_TOKEN
    # Our own tools are here, not where Studio's are refused.
    assert gateway("/functions/v1/mcp").upstream == "edge"


def test_a_websockets_key_is_in_its_query(gateway: Gateway) -> None:
    path = "/realtime/v1/websocket?vsn=1.0.0&apikey={}&log_level=info"
    assert gateway(path.format(opaque_key("publishable"))).status == 401
    assert gateway(path.format("")).status == 401
    outcome = gateway(path.format(PUBLISHABLE), x__api__key=SERVICE_TOKEN)
    assert outcome.path == f"/socket/websocket?vsn=1.0.0&apikey={ANON_TOKEN}&log_level=info"
    assert outcome.headers["x-api-key"] == ANON_TOKEN
    assert gateway(f"/realtime/v1/websocket?xapikey={SECRET}").status == 401
    # The header counts first: a good key in the query doesn't help a bad one.
    assert gateway(path.format(SECRET), apikey="sb_secret_wrong").status == 401


def test_an_opaque_key_is_no_bearer_token(gateway: Gateway) -> None:
    # Clients send their key as bearer, too, as long as nobody is signed in.
    outcome = gateway("/rest/v1/x", apikey=PUBLISHABLE, authorization=f"Bearer {PUBLISHABLE}")
    assert outcome.headers["authorization"] == f"Bearer {ANON_TOKEN}"
    both = gateway("/rest/v1/x", apikey=PUBLISHABLE, authorization=f"Bearer {SECRET}")
    assert both.headers["authorization"] == f"Bearer {ANON_TOKEN}"


def test_header_names_with_underscores_are_refused(gateway: Gateway) -> None:
    assert gateway.manager["common_http_protocol_options"] == {
        "headers_with_underscores_action": "REJECT_REQUEST"
    }
    assert gateway("/rest/v1/x", api_key=SECRET).status == 400


def test_pages_of_others_may_not_ask_for_sql(gateway: Gateway) -> None:
    def preflight(path: str, origin: str) -> Outcome:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        return gateway(path, method="OPTIONS", **asked)

    assert preflight("/pg/query", "https://evil.example").status == 401
    assert preflight("/pg/query", SECRETS["SUPABASE_PUBLIC_URL"]).status == 200
    assert preflight("/rest/v1/rpc/x", "https://app.example").status == 200


def test_a_route_that_says_nothing_is_refused(configuration: dict[str, Any]) -> None:
    careless = Gateway(configuration)
    careless.host = {**careless.host, "routes": [dict(route) for route in routes(configuration)]}
    for route in careless.host["routes"]:
        if route["name"] == "rest":
            del route["metadata"]
    assert careless("/rest/v1/x", apikey=SECRET).status == 403


def test_no_route_forgets_the_dashboards_password(configuration: dict[str, Any]) -> None:
    asks = [
        route["name"]
        for route in routes(configuration)
        if "envoy.filters.http.basic_auth" not in route.get("typed_per_filter_config", {})
    ]
    assert asks == ["studio"]
    access = {
        route["name"]: route["metadata"]["filter_metadata"]["envoy.filters.http.lua"]["access"]
        for route in routes(configuration)
    }
    # What is open goes to Auth, which asks for itself, or gets an answer of the gateway's own.
    for route in routes(configuration):
        if access[route["name"]] == "open":
            assert "direct_response" in route or route["route"]["cluster"] == "auth", route["name"]


def test_every_cluster_is_a_service_of_the_compose_file(configuration: dict[str, Any]) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    names = set(services) | {service.get("container_name") for service in services.values()}
    used = {route["route"]["cluster"] for route in routes(configuration) if "route" in route}
    found: dict[str, str] = {}
    for cluster in configuration["static_resources"]["clusters"]:
        [endpoints] = cluster["load_assignment"]["endpoints"]
        [endpoint] = endpoints["lb_endpoints"]
        found[cluster["name"]] = endpoint["endpoint"]["address"]["socket_address"]["address"]
    assert set(found) == used
    assert set(found.values()) <= names


def messages(value: object) -> list[str]:
    """Return the types that a configuration names."""
    if isinstance(value, dict):
        here = [value["@type"]] if "@type" in value else []
        return here + [name for part in value.values() for name in messages(part)]
    return [name for part in value for name in messages(part)] if isinstance(value, list) else []


def parse(configuration: dict[str, Any]) -> Any:
    """Read a configuration as Envoy's types; those that it names inside have to be imported first."""
    with warnings.catch_warnings():
        # Generated code: what pydantic thinks of it is not ours to mend.
        warnings.simplefilter("ignore")
        for name in messages(configuration):
            package = name.removeprefix("type.googleapis.com/").rpartition(".")[0]
            importlib.import_module(f"envoy_data_plane.{package}")
        bootstrap = importlib.import_module("envoy_data_plane.envoy.config.bootstrap.v3").Bootstrap
        return bootstrap.from_dict(configuration)


def test_the_configuration_is_one_of_envoys(configuration: dict[str, Any]) -> None:
    parsed = parse(configuration)
    assert [cluster.name for cluster in parsed.static_resources.clusters] == [
        "auth", "rest", "realtime", "edge", "meta", "studio",
    ]  # fmt: skip
    # It is the same configuration still: nothing was dropped on the way.
    assert type(parsed).parse(bytes(parsed)) == parsed


@pytest.mark.parametrize(
    "field_name", ["prefix_rewrite", "default_source_code", "merge_slashes", "lb_endpoints"]
)
def test_a_misspelt_field_would_be_found(configuration: dict[str, Any], field_name: str) -> None:
    text = yaml.safe_dump(configuration)
    assert field_name in text
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        parse(yaml.safe_load(text.replace(field_name, field_name + "x")))


@pytest.mark.parametrize(
    "change",
    [
        {"SUPABASE_SECRET_KEY": ""},
        {"SUPABASE_SECRET_KEY": 'x"] = {role = "service_role"} --' + "x" * 20},
        {"ANON_KEY": "a|b" * 10},
        {"SUPABASE_PUBLIC_URL": 'https://x"'},
        {"DASHBOARD_PASSWORD": ""},
        {"DASHBOARD_USERNAME": "a:b"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_nothing_but_keys_gets_into_the_configuration(tmp_path: Path, change: dict[str, str]) -> None:
    done = render(tmp_path / "envoy.yaml", **change)
    assert done.returncode == 1
    assert next(iter(change)) in done.stderr
    assert not (tmp_path / "envoy.yaml").exists()


def test_the_rendered_file_has_no_gaps_and_is_private(tmp_path: Path) -> None:
    target = tmp_path / "envoy.yaml"
    assert render(target, DASHBOARD_PASSWORD='any |&\\ " character').returncode == 0
    assert not re.search(r"@[A-Z_]+@", target.read_text())
    assert target.stat().st_mode & 0o077 == 0


def test_the_admin_interface_is_for_the_container_alone(configuration: dict[str, Any]) -> None:
    assert configuration["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    assert urlsplit(SECRETS["SUPABASE_PUBLIC_URL"]).scheme == "https"
