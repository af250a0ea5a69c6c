"""New secrets for a deployment that runs: signing keys with an overlap, API keys, database passwords.

Each rotation has one moment at which it happens: a file that is replaced, or a transaction that commits. What is
killed before it has changed nothing; what is killed after it is finished by the next start, or by asking again.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import jwt
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ..errors import ConfigurationError, EmbeddedStackError
from .deployment import read_env_file, superuser_url
from .keys import TOKEN_LIFETIME, SigningKey, fill_in, opaque_key, shared_key, write_private_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ..embedded import Stack, StackConfig

#: The roles that have the password POSTGRES_PASSWORD; docker/db/passwords.sql gives it to them.
_ADMINISTRATORS: Final = (
    "supabase_admin",
    "postgres",
    "pgbouncer",
    "supabase_auth_admin",
    "supabase_storage_admin",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be rotated.

    Attributes:
        tokens: what access tokens are signed with.
        api_keys: the publishable and the secret key.
        passwords: those of all database roles that log in.
        finish: stop accepting what tokens were signed with before.
        overlap: seconds for which tokens of the old key stay good; with 0, they end with the rotation.
    """

    tokens: bool = False
    api_keys: bool = False
    passwords: bool = False
    finish: bool = False
    overlap: float = 24 * 3600.0

    def __post_init__(self) -> None:
        """Check that something is wanted.

        Raises:
            ConfigurationError: nothing is, or the overlap is no length of time.
        """
        if not (self.tokens or self.api_keys or self.passwords or self.finish):
            raise ConfigurationError("say what to rotate: --tokens, --api-keys, --passwords, or --finish")
        if not 0 <= self.overlap <= TOKEN_LIFETIME:
            raise ConfigurationError("the overlap is a time from 0 up")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What was rotated, or would be.

    Attributes:
        changed: the names of what changed.
        steps: what is left to do, in order; empty when everything is done.
        backup: the file as it was before; None for the embedded stack, which keeps none.
    """

    changed: list[str]
    steps: list[str]
    backup: Path | None = None


# -- the embedded stack ----------------------------------------------------------------------------------------


def rotate_stack(
    stack: Stack, wanted: Wanted, *, dry_run: bool = False, progress: Callable[[str], None] | None = None
) -> Rotated:
    """Rotate secrets of an embedded stack; one that runs is started again with them.

    Args:
        stack: the stack.
        wanted: what.
        dry_run: change nothing, and say what would be.
        progress: told what happens.

    Raises:
        EmbeddedStackError: there is no stack, another command starts it meanwhile, or it doesn't come up.
    """
    home = stack.home
    if home.load_config() is None:
        raise EmbeddedStackError(f"there is no stack in {home.path}; `kp up` makes one")
    changed = [
        name
        for name, chosen in (
            ("jwt_secret", wanted.tokens),
            ("publishable_key", wanted.api_keys),
            ("secret_key", wanted.api_keys),
            ("passwords", wanted.passwords),
            ("retired_secrets", wanted.tokens or wanted.finish),
        )
        if chosen
    ]
    was_running = home.is_held()
    if dry_run:
        return Rotated(changed=changed, steps=["kp up"] if was_running else [])
    if was_running:
        stack.down()
    home.prepare()
    with home.lock() as free:
        if not free:
            raise EmbeddedStackError(f"another command is starting the stack in {home.path}; try again")
        config = home.load_config()
        if config is None:
            raise EmbeddedStackError(f"the stack in {home.path} has gone meanwhile")
        home.save_config(_rotate_config(config, wanted))
    if not was_running:
        # Passwords are in the database; the next start puts them there.
        return Rotated(changed=changed, steps=["kp up"] if wanted.passwords else [])
    stack.up(progress=progress)
    return Rotated(changed=changed, steps=[])


def _rotate_config(config: StackConfig, wanted: Wanted) -> StackConfig:
    if wanted.finish:
        config = config.without_retired_secrets()
    if wanted.tokens:
        config = config.with_new_tokens(overlap=0 if wanted.finish else wanted.overlap)
    if wanted.api_keys:
        config = config.with_new_keys()
    return config.with_new_passwords() if wanted.passwords else config


# -- docker compose --------------------------------------------------------------------------------------------


def rotate_env_file(
    path: Path, wanted: Wanted, *, dry_run: bool = False, database_url: str | None = None
) -> Rotated:
    """Rotate secrets of the docker compose deployment that an env file describes.

    Passwords are changed in the running database and then in the file; everything else in the file alone. The
    services take it from there when compose recreates them.

    Args:
        path: the `.env`.
        wanted: what.
        dry_run: change nothing, and say what would be.
        database_url: URL of the superuser; None: the file says it.

    Raises:
        ConfigurationError: the file lacks what is to be rotated, or an earlier rotation is not finished.
        psycopg.Error: the database can't be reached, or refuses.
    """
    pending = path.with_name(f"{path.name}.rotating")
    if pending.exists():
        if dry_run:
            return Rotated(changed=[], steps=[f"finish the rotation that was interrupted: {pending}"])
        _set_passwords(path, pending, database_url)
        pending.replace(path)
    text, values = path.read_text(), read_env_file(path)
    fresh: dict[str, str] = {}
    if wanted.tokens or wanted.finish:
        fresh |= _new_tokens(values, wanted)
    if wanted.api_keys:
        fresh["SUPABASE_PUBLISHABLE_KEY"] = opaque_key("publishable")
        fresh["SUPABASE_SECRET_KEY"] = opaque_key("secret")
    if wanted.passwords:
        fresh |= {name: secrets.token_hex(24) for name in ("POSTGRES_PASSWORD", "AUTHENTICATOR_PASSWORD")}
    changed = sorted(name for name, value in fresh.items() if values.get(name) != value)
    steps = _steps(path, changed, wanted)
    rotated = fill_in(text, fresh)
    backup = path.with_name(f"{path.name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    if dry_run:
        return Rotated(changed=changed, steps=steps, backup=backup)
    if wanted.passwords:
        # Before anything is written: a database that is away would leave a rotation to be finished first.
        _superuser(database_url or superuser_url(path), values["POSTGRES_PASSWORD"]).close()
    write_private_text(backup, text)
    if wanted.passwords:
        write_private_text(pending, rotated)
        _set_passwords(path, pending, database_url)
        pending.replace(path)
    else:
        write_private_text(path, rotated)
    return Rotated(changed=changed, steps=steps, backup=backup)


def _new_tokens(values: Mapping[str, str], wanted: Wanted) -> dict[str, str]:
    """Return the variables that tokens are signed and verified with, the old keys among them for the overlap."""
    try:
        signing = cast("list[dict[str, Any]]", json.loads(values["JWT_KEYS"]))
        accepted = cast("list[dict[str, Any]]", json.loads(values["JWT_JWKS"])["keys"])
        secret = values["JWT_SECRET"]
        current = [_public(signing[0]), shared_key(secret)]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ConfigurationError(
            f"the file's JWT_KEYS, JWT_JWKS and JWT_SECRET don't fit together: {error!r}"
        ) from error
    retired = [key for key in accepted if _identity(key) not in {_identity(one) for one in current}]
    if wanted.finish:
        retired = []
    if not wanted.tokens:
        return _token_variables(signing[0], secret, current, retired)
    if retired:
        raise ConfigurationError(
            "an earlier rotation of the tokens is not finished: its old keys are still accepted. "
            "--finish ends that; with --tokens --finish the keys of today end with it"
        )
    key, fresh = SigningKey.generate(), secrets.token_hex(32)
    kept = [] if wanted.finish or wanted.overlap == 0 else current
    now = int(time.time())
    made = _token_variables(key.private, fresh, [key.public, shared_key(fresh)], kept)
    for role, variable in (("anon", "ANON_KEY"), ("service_role", "SERVICE_ROLE_KEY")):
        claims = {"role": role, "iss": "supabase", "iat": now, "exp": now + TOKEN_LIFETIME}
        made[variable] = jwt.encode(claims, fresh, "HS256")
        made[f"{variable}_ASYMMETRIC"] = key.sign(claims)
    return made


def _token_variables(
    private: dict[str, Any], secret: str, current: list[dict[str, Any]], retired: list[dict[str, Any]]
) -> dict[str, str]:
    # Auth finds a key by its id and has room for one without; the shared secret of before has none, and no access
    # token of a user was signed with it.
    named = [key for key in retired if "kid" in key]
    return {
        "JWT_SECRET": secret,
        "JWT_KEYS": json.dumps(
            [private, *named, {**shared_key(secret), "key_ops": ["verify"]}], separators=(",", ":")
        ),
        "JWT_JWKS": json.dumps({"keys": [*current, *retired]}, separators=(",", ":")),
    }


def _public(key: dict[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in key.items() if name != "d"}, "key_ops": ["verify"]}


def _identity(key: dict[str, Any]) -> str:
    return str(key.get("kid") or key.get("k"))


def retired_keys(values: Mapping[str, str]) -> int:
    """Return how many keys an env file still accepts that nothing is signed with any more.

    Args:
        values: of the file.
    """
    if not values.get("JWT_SECRET"):
        return 0
    try:
        signing = json.loads(values["JWT_KEYS"])[0]
        accepted = json.loads(values["JWT_JWKS"])["keys"]
        current = {_identity(signing), _identity(shared_key(values["JWT_SECRET"]))}
        return sum(_identity(key) not in current for key in accepted)
    except (KeyError, ValueError, IndexError, TypeError, AttributeError):
        return 0  # whether these have the right form is another check


def _set_passwords(path: Path, pending: Path, database_url: str | None) -> None:
    """Give the roles the passwords of the pending file, in one transaction."""
    new = read_env_file(pending)
    words = {
        **dict.fromkeys(_ADMINISTRATORS, new["POSTGRES_PASSWORD"]),
        "authenticator": new["AUTHENTICATOR_PASSWORD"],
    }
    with _superuser(database_url or superuser_url(path), new["POSTGRES_PASSWORD"]) as connection:
        there = {
            str(row[0])
            for row in connection.execute(
                "select rolname from pg_roles where rolname = any (%s) and rolcanlogin", (list(words),)
            )
        }
        for role in sorted(there):
            # As verifiers: the server's log never sees a password.
            verifier = connection.pgconn.encrypt_password(
                words[role].encode(), role.encode(), b"scram-sha-256"
            )
            connection.execute(
                sql.SQL("alter role {} password {}").format(
                    sql.Identifier(role), sql.Literal(verifier.decode())
                )
            )


def _superuser(url: str, new_password: str) -> psycopg.Connection:
    try:
        return psycopg.connect(url, connect_timeout=10)
    except psycopg.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
    # Broken off after the database's commit and before the file was replaced.
    return psycopg.connect(make_conninfo(url, password=new_password), connect_timeout=10)


def _steps(path: Path, changed: list[str], wanted: Wanted) -> list[str]:
    """Return what an operator does afterwards, in order."""
    services = services_using(path.with_name("docker-compose.yml"), set(changed))
    steps: list[str] = []
    if changed:
        told = f"   # recreates {', '.join(services)}" if services else ""
        steps.append(f"docker compose up --detach --wait{told}")
    if wanted.api_keys:
        steps.append("give clients the new SUPABASE_PUBLISHABLE_KEY, services the new SUPABASE_SECRET_KEY")
    if wanted.passwords:
        steps.append("give direct clients the new AUTHENTICATOR_PASSWORD")
    if wanted.tokens and not wanted.finish and wanted.overlap > 0:
        hours = wanted.overlap / 3600
        steps.append(f"in {hours:g} hours: scripts/rotate-keys --finish")
    return steps


def services_using(compose_file: Path, variables: set[str]) -> list[str]:
    """Return the services of a compose file that read one of some variables, in the file's order.

    Args:
        compose_file: the file; where there is none, nothing is known.
        variables: their names.
    """
    if not compose_file.is_file():
        return []
    found: list[str] = []
    body = compose_file.read_text().partition("\nservices:\n")[2].partition("\nvolumes:\n")[0]
    for block in re.split(r"(?m)^(?=  [a-z][a-z0-9_-]*:\s*$)", body):
        name = re.match(r"  ([a-z][a-z0-9_-]*):", block)
        if name and variables & set(re.findall(r"\$\{([A-Z0-9_]+)", block)):
            found.append(name[1])
    return found
