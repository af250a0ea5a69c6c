"""Rotation: the old ends when it should, the new works everywhere, and a kill half-way breaks nothing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import psycopg
import pytest
import yaml

from databases import DatabaseServer, free_port, short_directory
from knowledge_persistence import connect
from knowledge_persistence._target import verify_token
from knowledge_persistence.embedded import RetiredSecret, StackConfig
from knowledge_persistence.embedded.bootstrap import set_passwords
from knowledge_persistence.embedded.processes import wait_until
from knowledge_persistence.errors import AuthenticationError, ConfigurationError, EmbeddedStackError
from knowledge_persistence.operations.deployment import read_env_file
from knowledge_persistence.operations.keys import fill_in, generate_secrets, is_opaque_key, write_private_text
from knowledge_persistence.operations.rotation import (
    Wanted,
    retired_keys,
    rotate_env_file,
    rotate_stack,
    services_using,
)
from knowledge_persistence.realtime.tokens import TokenError, Verifier
from stacks import RunningStack, new_stack

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).resolve().parents[2]
# The installed command may be another checkout's.
KP = [sys.executable, "-c", "import sys; from knowledge_persistence.cli import main; sys.exit(main())"]
DOORS = ("data API", "auth", "realtime", "edge", "direct")
ALL_OPEN, ALL_CLOSED = dict.fromkeys(DOORS, True), dict.fromkeys(DOORS, False)
SUBJECT = "5b0f3f0e-6c0b-4c53-8d58-31b0cf1b9f11"


# -- the embedded stack ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own() -> Generator[RunningStack]:
    with short_directory() as directory, new_stack(directory / "home") as stack:
        yield RunningStack(stack)


def doors(stack: RunningStack, token: str) -> dict[str, bool]:
    """Which doors let somebody with this token in."""
    rest = stack.call("/rest/v1/rpc/my_workspaces", stack.bearer(token), body={})
    auth = stack.call("/auth/v1/user", stack.bearer(token))
    broadcast = stack.call(
        "/realtime/v1/api/broadcast", stack.bearer(token), body={"messages": [{"topic": "t", "event": "e"}]}
    )
    # It finds out who is there before it finds out that nothing is asked; asking would load a model.
    edge = stack.call("/functions/v1/recall", stack.bearer(token), body={})
    assert {rest.status, auth.status, broadcast.status} <= {200, 202, 401}
    assert edge.status in {400, 401}, edge.body
    direct = True
    try:
        with connect(
            stack.config.database_url(),
            access_token=token,
            jwt_secret=stack.config.verification_keys(),
            embedder=None,
        ) as client:
            client.workspaces()
    except AuthenticationError:
        direct = False
    return {
        "data API": rest.status == 200,
        "auth": auth.status == 200,
        "realtime": broadcast.status == 202,
        "edge": edge.status == 400,
        "direct": direct,
    }


def logs_in(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=10).close()
    except psycopg.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
        return False
    return True


def test_the_drill(own: RunningStack) -> None:
    """Tokens, keys and passwords at once; then the end of the overlap."""
    own = RunningStack(own.stack)  # another test may have rotated before
    before = own.config
    claims = {"aud": "authenticated", "exp": int(time.time()) + 3600}
    forged, old = own.token(secret="x" * 64, **claims), own.token(**claims)
    assert doors(own, forged) == ALL_CLOSED
    assert doors(own, old) == ALL_OPEN

    rotate_stack(own.stack, Wanted(tokens=True, api_keys=True, passwords=True))
    now = RunningStack(own.stack)
    assert doors(now, forged) == ALL_CLOSED
    assert doors(now, old) == ALL_OPEN
    assert doors(now, now.token(**claims)) == ALL_OPEN
    assert now.config.jwt_secret != before.jwt_secret
    # What was replaced without an overlap is over.
    assert now.call("/auth/v1/settings", {"apikey": before.publishable_key}).status == 401
    assert now.call("/auth/v1/settings", now.anon).status == 200
    assert [logs_in(before.database_url(role)) for role in before.passwords] == [False] * 4
    assert [logs_in(now.config.database_url(role)) for role in before.passwords] == [True] * 4
    # The worker logs in anew, too: what is recorded through the front gets its vector.
    answer = now.call(
        "/rest/v1/rpc/record_knowledge",
        now.bearer(old),
        body={"title": "After", "content": "the rotation"},
    )
    assert answer.status == 200, answer.body
    assert wait_until(
        lambda: (
            now.sql("select count(*) from public.knowledge_items where content_embedding is not null")
            == [(1,)]
        ),
        timeout=60,
    )

    rotate_stack(now.stack, Wanted(finish=True))
    finished = RunningStack(own.stack)
    assert doors(finished, old) == ALL_CLOSED
    assert doors(finished, finished.token(**claims)) == ALL_OPEN


def test_a_rotation_that_was_killed_is_finished_by_the_next_start(own: RunningStack) -> None:
    """Killed after the database took the new passwords and before the file says so."""
    own.stack.down()
    home = own.stack.home
    config = home.load_config()
    assert config is not None
    # And an overlap that ran out while nothing was running.
    late = RetiredSecret("o" * 64, time.time() - 1)
    begun = StackConfig.with_new_passwords(config)
    assert begun.with_new_passwords() == begun, "the database may have them already: they are known only here"
    home.save_config(
        StackConfig(
            **{**{name: getattr(begun, name) for name in StackConfig.__slots__}, "retired_secrets": (late,)}
        )
    )
    cluster = home.cluster(config)
    with (home.log_directory / "postgres.log").open("ab") as log:
        process = cluster.start(log)
        try:
            assert cluster.wait_ready(process)
            set_passwords(cluster, begun.next_passwords)
            with pytest.raises(EmbeddedStackError):
                cluster.connect()
        finally:
            cluster.stop(process)
    own.stack.up()
    now = RunningStack(own.stack)
    assert (now.config.passwords, now.config.next_passwords) == (begun.next_passwords, {})
    assert [logs_in(now.config.database_url(role)) for role in config.passwords] == [True] * 4
    claims = {"aud": "authenticated", "exp": int(time.time()) + 3600}
    expired = now.token(secret=late.secret, **claims)
    assert doors(now, expired) == ALL_CLOSED
    assert doors(now, now.token(**claims)) == ALL_OPEN


def test_a_dry_run_changes_nothing(own: RunningStack) -> None:
    before, pid = own.stack.home.config_file.read_bytes(), own.pid("supervisor")
    would = rotate_stack(own.stack, Wanted(tokens=True, passwords=True), dry_run=True)
    assert would.changed == ["jwt_secret", "passwords", "retired_secrets"]
    assert (own.stack.home.config_file.read_bytes(), own.pid("supervisor")) == (before, pid)


def test_the_doctor_finds_such_a_stack_healthy(own: RunningStack) -> None:
    own.stack.up()
    now = RunningStack(own.stack)
    # The worker loads its model first.
    listening = "select count(*) from pg_stat_activity where query = 'listen knowledge_embeddings'"
    assert wait_until(lambda: now.sql(listening) == [(1,)], timeout=60)
    done = subprocess.run(
        [*KP, "doctor", "--json"],
        env={**os.environ, "KP_HOME": str(now.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    # The disk is this machine's affair.
    found = [one for one in json.loads(done.stdout) if one["check"] != "disk"]
    assert (found, done.returncode) == ([], 0), done.stderr


def test_an_overlap_ends_by_itself() -> None:
    config = StackConfig.generate(origin_port=1, database_port=2)
    rotated = config.with_new_tokens(overlap=100)
    now = time.time()
    assert rotated.accepted_secrets(now=now + 101) == (rotated.jwt_secret,)
    assert rotated.accepted_secrets(now=now + 50) == (rotated.jwt_secret, config.jwt_secret)
    assert config.with_new_tokens(overlap=0).accepted_secrets(now=now - 1) != rotated.accepted_secrets()
    moment = now
    verifier = Verifier("p", "s", lambda: rotated.accepted_secrets(now=moment))
    token = jwt.encode({"role": "authenticated", "exp": now + 3600}, config.jwt_secret, "HS256")
    assert verifier.verify(token).role == "authenticated"
    moment = now + 101
    with pytest.raises(TokenError):
        verifier.verify(token)


# -- docker compose --------------------------------------------------------------------------------------------


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    write_private_text(path, fill_in((ROOT / ".env.example").read_text(), generate_secrets()))
    (tmp_path / "docker-compose.yml").write_text((ROOT / "docker-compose.yml").read_text())
    return path


def access_token(values: dict[str, str], **header: Any) -> str:
    """A user's token, signed as Auth does."""
    key = json.loads(values["JWT_KEYS"])[0]
    claims = {"sub": SUBJECT, "role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 600}
    return jwt.encode(claims, jwt.PyJWK(key).key, "ES256", headers={"kid": key["kid"], **header})


def test_tokens_of_a_compose_deployment_overlap(env_file: Path) -> None:
    before_text, before = env_file.read_text(), read_env_file(env_file)
    old = access_token(before)
    done = rotate_env_file(env_file, Wanted(tokens=True))
    values = read_env_file(env_file)
    new = access_token(values)
    stranger = access_token(generate_secrets())
    with pytest.raises(AuthenticationError):
        verify_token(stranger, values["JWT_JWKS"])
    # Neither a stranger's key nor the old one signs any more; what the old one signed holds.
    assert (verify_token(old, values["JWT_JWKS"])["sub"], retired_keys(values)) == (SUBJECT, 2)
    assert verify_token(new, values["JWT_JWKS"])["sub"] == SUBJECT
    old_private = json.loads(before["JWT_KEYS"])[0]["d"]
    assert old_private not in env_file.read_text()
    assert sum("d" in key for key in json.loads(values["JWT_KEYS"])) == 1
    assert all("kid" in key for key in json.loads(values["JWT_KEYS"])[:-1])
    for name, role in (("ANON_KEY", "anon"), ("SERVICE_ROLE_KEY", "service_role")):
        assert jwt.decode(values[name], values["JWT_SECRET"], ["HS256"])["role"] == role
        public = jwt.PyJWK(json.loads(values["JWT_JWKS"])["keys"][0]).key
        signed = jwt.decode(values[f"{name}_ASYMMETRIC"], public, ["ES256"])
        assert signed["role"] == role
    assert done.backup is not None
    assert (done.backup.read_text(), stat.S_IMODE(done.backup.stat().st_mode)) == (before_text, 0o600)
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600

    with pytest.raises(ConfigurationError, match="not finished"):
        rotate_env_file(env_file, Wanted(tokens=True))
    rotate_env_file(env_file, Wanted(finish=True))
    values = read_env_file(env_file)
    with pytest.raises(AuthenticationError):
        verify_token(old, values["JWT_JWKS"])
    assert (verify_token(new, values["JWT_JWKS"])["sub"], retired_keys(values)) == (SUBJECT, 0)
    # Comments and order are the operator's.
    assert [line.partition("=")[0] for line in env_file.read_text().splitlines()] == [
        line.partition("=")[0] for line in before_text.splitlines()
    ]


def test_a_leaked_key_ends_at_once(env_file: Path) -> None:
    old = access_token(read_env_file(env_file))
    done = rotate_env_file(env_file, Wanted(tokens=True, finish=True))
    with pytest.raises(AuthenticationError):
        verify_token(old, read_env_file(env_file)["JWT_JWKS"])
    assert not any("--finish" in step for step in done.steps)


def test_a_dry_run_leaves_the_file(env_file: Path) -> None:
    before = env_file.read_text()
    would = rotate_env_file(env_file, Wanted(tokens=True, api_keys=True, passwords=True), dry_run=True)
    assert "POSTGRES_PASSWORD" in would.changed
    assert (env_file.read_text(), [path.name for path in env_file.parent.glob(".env*")]) == (before, [".env"])


def test_a_database_that_is_away_leaves_nothing_begun(env_file: Path) -> None:
    text = env_file.read_text()
    write_private_text(env_file, text.replace("# POSTGRES_PORT=5432", f"POSTGRES_PORT={free_port()}"))
    with pytest.raises(psycopg.OperationalError):
        rotate_env_file(env_file, Wanted(passwords=True))
    assert [path.name for path in env_file.parent.glob(".env*")] == [".env"]


def test_api_keys_and_the_services_that_have_to_know(env_file: Path) -> None:
    before = read_env_file(env_file)
    done = rotate_env_file(env_file, Wanted(api_keys=True))
    values = read_env_file(env_file)
    assert done.changed == ["SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY"]
    assert all(is_opaque_key(values[name]) and values[name] != before[name] for name in done.changed)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for variables in ({"SUPABASE_SECRET_KEY"}, {"JWT_JWKS"}, {"AUTHENTICATOR_PASSWORD", "JWT_KEYS"}):
        expected = [
            name
            for name, service in compose["services"].items()
            if any(f"${{{variable}" in json.dumps(service) for variable in variables)
        ]
        assert services_using(ROOT / "docker-compose.yml", variables) == expected != []


@pytest.fixture
def compose_database(env_file: Path) -> Generator[DatabaseServer]:
    """The database of a deployment as its env file describes it, as far as roles and passwords go."""
    with short_directory() as directory, DatabaseServer(directory).running() as server:
        text = fill_in(
            env_file.read_text(),
            {
                "POSTGRES_PASSWORD": server.config.passwords["supabase_admin"],
                "AUTHENTICATOR_PASSWORD": server.config.passwords["authenticator"],
                "POSTGRES_PORT": str(server.config.database_port),
            },
        )
        write_private_text(env_file, text.replace("# POSTGRES_PORT", "POSTGRES_PORT"))
        yield server


def login(server: DatabaseServer, role: str, password: str) -> bool:
    return logs_in(f"postgresql://{role}:{password}@127.0.0.1:{server.config.database_port}/postgres")


def test_passwords_change_in_the_database_and_in_the_file(
    env_file: Path, compose_database: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = compose_database.config.passwords
    rotate_env_file(env_file, Wanted(passwords=True))
    values = read_env_file(env_file)
    new = {
        role: values["AUTHENTICATOR_PASSWORD" if role == "authenticator" else "POSTGRES_PASSWORD"]
        for role in old
    }
    assert [login(compose_database, role, old[role]) for role in old] == [False] * 4
    assert [login(compose_database, role, new[role]) for role in old] == [True] * 4

    # Killed after the database's commit: the file still has the old ones, and asking again finishes it.
    class Killed(BaseException):
        pass

    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path.name.endswith(".rotating"):
            raise Killed
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(Killed):
            rotate_env_file(env_file, Wanted(passwords=True))
    assert read_env_file(env_file) == values
    assert not login(compose_database, "authenticator", new["authenticator"])
    rotate_env_file(env_file, Wanted(finish=True))
    finished = read_env_file(env_file)
    assert login(compose_database, "authenticator", finished["AUTHENTICATOR_PASSWORD"])
    assert login(compose_database, "supabase_admin", finished["POSTGRES_PASSWORD"])
    assert not env_file.with_name(".env.rotating").exists()
