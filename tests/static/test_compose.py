"""The compose file, read by docker compose itself (no engine needed): what it accepts, and what it promises."""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import compose
import pytest
import yaml

from knowledge_persistence.operations.keys import fill_in, generate_secrets

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
# Not the command that pip installs: that one ends with 0 whatever happens.
COMPOSE = Path(compose.__file__).with_name("docker-compose")
PROFILES = ["pooler", "logs", "replica"]
# The newest release of self-hosted Supabase whose images were tested together: v0.8.3.
PINS = {
    "db": "supabase/postgres:17.6.1.136",
    "auth": "supabase/gotrue:v2.196.0",
    "rest": "postgrest/postgrest:v14.17",
    "realtime": "supabase/realtime:v2.134.10",
    "meta": "supabase/postgres-meta:v0.99.0",
    "studio": "supabase/studio:2026.09.07-sha-7996410",
    "api-gw": "envoyproxy/envoy:v1.39.1",
    "replica": "supabase/postgres:17.6.1.136",
    "pooler": "supabase/supavisor:2.9.12",
    "analytics": "supabase/logflare:1.42.0",
    "vector": "timberio/vector:0.53.0-alpine",
}
OURS = {"migrate", "worker", "edge"}


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compose") / "env"
    path.write_text(fill_in((ROOT / ".env.example").read_text(), generate_secrets()))
    return path


def config(env_file: Path, *profiles: str, **environment: str) -> subprocess.CompletedProcess[str]:
    chosen = [part for name in profiles for part in ("--profile", name)]
    command = [COMPOSE, "--file", FILE, "--env-file", env_file, *chosen, "config", "--format", "json"]
    # Nothing of whoever runs the tests, and no .env of the checkout.
    clean = {"PATH": os.environ["PATH"], "HOME": str(env_file.parent), **environment}
    return subprocess.run(
        command, cwd=env_file.parent, env=clean, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def everything(env_file: Path) -> dict[str, Any]:
    done = config(env_file, *PROFILES)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "profiles", [c for n in range(len(PROFILES) + 1) for c in itertools.combinations(PROFILES, n)], ids=str
)
def test_compose_accepts_every_combination_of_profiles(env_file: Path, profiles: tuple[str, ...]) -> None:
    done = config(env_file, *profiles)
    assert done.returncode == 0, done.stderr
    assert "variable is not set" not in done.stderr
    services = set(json.loads(done.stdout)["services"])
    extra = {"pooler": {"pooler"}, "logs": {"analytics", "vector"}, "replica": {"replica"}}
    optional = set().union(*extra.values())
    assert services & optional == set().union(*(extra[name] for name in profiles))
    assert services - optional == (set(PINS) | OURS) - optional


def test_no_secret_has_a_default(env_file: Path) -> None:
    text = FILE.read_text()
    required = set(re.findall(r"\$\{([A-Z0-9_]+):\?", text))
    assert required == set(generate_secrets())
    # Nowhere does one of them have another way in.
    assert not required & set(re.findall(r"\$\{([A-Z0-9_]+)(?!:\?)[^A-Z0-9_]", text))
    for missing in ("POSTGRES_PASSWORD", "JWT_KEYS", "DASHBOARD_PASSWORD"):
        text = re.sub(rf"(?m)^{missing}=.*$", f"{missing}=", env_file.read_text())
        without = env_file.with_name("without")
        without.write_text(text)
        done = config(without)
        assert done.returncode != 0, f"compose starts without {missing}"
        assert missing in done.stderr


def test_the_values_arrive_unharmed(env_file: Path, everything: dict[str, Any]) -> None:
    lines = env_file.read_text().splitlines()
    written = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]", line))
    services = everything["services"]
    keys = json.loads(services["auth"]["environment"]["GOTRUE_JWT_KEYS"])
    assert [key["kty"] for key in keys] == ["EC", "oct"]
    assert json.loads(services["rest"]["environment"]["PGRST_JWT_SECRET"])["keys"][0]["kid"] == keys[0]["kid"]
    assert services["db"]["environment"]["POSTGRES_PASSWORD"] == written["POSTGRES_PASSWORD"]


def test_images_are_pinned(everything: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in everything["services"].items()}
    assert {name: image for name, image in images.items() if name not in OURS} == PINS
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {images[name] for name in OURS} == {f"knowledge-persistence:{version}"}
    assert all(re.search(r":[^:/]*\d", image) and "latest" not in image for image in images.values())


def test_nothing_listens_outside_of_loopback(everything: dict[str, Any]) -> None:
    ports = {
        name: [port["host_ip"] for port in service["ports"]]
        for name, service in everything["services"].items()
        if service.get("ports")
    }
    assert ports == {
        "api-gw": ["127.0.0.1"],
        "db": ["127.0.0.1"],
        "replica": ["127.0.0.1"],
        "pooler": ["127.0.0.1"] * 2,
    }
    assert not [name for name, service in everything["services"].items() if "network_mode" in service]


def test_every_service_is_looked_after(everything: dict[str, Any]) -> None:
    for name, service in everything["services"].items():
        assert "mem_limit" in service, name
        if name == "migrate":
            assert service["restart"] == "on-failure:5"
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["logging"]["options"]["max-size"] == "10m", name
        check = service["healthcheck"]
        assert {"test", "interval", "timeout", "retries", "start_period"} <= set(check), name


def test_services_start_in_an_order_that_works(everything: dict[str, Any]) -> None:
    needs = {
        name: {other: how["condition"] for other, how in (service.get("depends_on") or {}).items()}
        for name, service in everything["services"].items()
    }
    healthy = "service_healthy"
    # The schema refers to tables of Auth and Realtime, which they make when they first start.
    assert needs["migrate"] == {"db": healthy, "auth": healthy, "realtime": healthy}
    for ours in ("worker", "edge"):
        assert needs[ours] == {"db": healthy, "migrate": "service_completed_successfully"}
    # A Studio that doesn't come up must not take the API down.
    assert needs["api-gw"] == {"auth": healthy, "rest": healthy}
    assert needs["db"] == {}
    # Nothing of the default stack waits for a service of a profile.
    optional = {"pooler", "analytics", "vector", "replica"}
    assert not {name: n for name, n in needs.items() if name not in optional and optional & set(n)}

    def reach(name: str, seen: tuple[str, ...] = ()) -> None:
        assert name not in seen, f"a circle: {seen}"
        for other in needs[name]:
            reach(other, (*seen, name))

    for name in needs:
        reach(name)


def test_realtime_keeps_the_name_that_it_takes_its_tenant_from(everything: dict[str, Any]) -> None:
    name = "realtime-dev.supabase-realtime"
    assert everything["services"]["realtime"]["container_name"] == name
    assert f"address: {name}" in (ROOT / "supabase/gateway/envoy.template.yaml").read_text()
    assert "/api/tenants/realtime-dev/health" in str(everything["services"]["realtime"]["healthcheck"])


def test_data_outlives_the_containers(everything: dict[str, Any]) -> None:
    mounts = {
        volume["target"]: volume["source"]
        for volume in everything["services"]["db"]["volumes"]
        if volume["type"] == "volume"
    }
    # The second holds the root key of Vault.
    assert mounts == {"/var/lib/postgresql/data": "db-data", "/etc/postgresql-custom": "db-config"}


def test_what_is_mounted_exists_and_is_read_only(everything: dict[str, Any]) -> None:
    for name, service in everything["services"].items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and not volume["source"].endswith("docker.sock"):
                assert Path(volume["source"]).exists(), f"{name}: {volume['source']}"
                assert volume["read_only"], f"{name}: {volume['source']}"


def test_the_sizes_are_the_seeds_and_can_be_changed(env_file: Path, everything: dict[str, Any]) -> None:
    def settings(command: list[str]) -> dict[str, str]:
        return dict(text.split("=", 1) for text in command if text != "-c")

    found = settings(everything["services"]["db"]["command"])
    seed = {
        "max_connections": "200",
        "shared_buffers": "2GB",
        "effective_cache_size": "6GB",
        "maintenance_work_mem": "512MB",
        "checkpoint_completion_target": "0.9",
        "wal_buffers": "16MB",
        "default_statistics_target": "100",
    }
    assert {name: found[name] for name in seed} == seed
    # A replica with fewer connections than its primary stops.
    assert settings(everything["services"]["replica"]["command"]) == found
    bigger = json.loads(config(env_file, DB_SHARED_BUFFERS="16GB", DB_MEMORY_LIMIT="64g").stdout)
    assert settings(bigger["services"]["db"]["command"])["shared_buffers"] == "16GB"
    assert int(bigger["services"]["db"]["mem_limit"]) == 64 * 1024**3
    explained = (ROOT / "docs/reference/compose.md").read_text()
    assert [name for name in [*found, "shared_preload_libraries"] if f"`{name}`" not in explained] == []


def test_only_what_needs_it_has_the_superusers_password(everything: dict[str, Any], env_file: Path) -> None:
    [password] = re.findall(r"(?m)^POSTGRES_PASSWORD=(.+)$", env_file.read_text())
    holders = {
        name
        for name, service in everything["services"].items()
        if password in json.dumps(service.get("environment", {}))
    }
    assert holders == {
        "db",
        "auth",
        "realtime",
        "meta",
        "studio",
        "migrate",
        "replica",
        "pooler",
        "analytics",
    }


def test_no_scripts_of_the_images_are_left_unexecutable() -> None:
    for script in ("docker/db/entrypoint.sh", "supabase/gateway/entrypoint.sh"):
        assert (ROOT / script).stat().st_mode & stat.S_IXUSR
        subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_the_log_collector_knows_the_services() -> None:
    collector = yaml.safe_load((ROOT / "docker/logs/vector.yml").read_text())
    routes = collector["transforms"]["by_service"]["route"]
    services = set(yaml.safe_load(FILE.read_text())["services"])
    assert {re.search(r'"-(.*)-"', rule)[1] for rule in routes.values() if "contains" in rule} <= services
    assert {sink["inputs"][0] for sink in collector["sinks"].values()} == {f"by_service.{r}" for r in routes}
    assert f"project={yaml.safe_load(FILE.read_text())['name']}" in str(collector["sources"])
