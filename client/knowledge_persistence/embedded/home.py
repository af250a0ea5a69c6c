"""A stack's data directory: what lies where, who holds it, and what is remembered between starts."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from ..credentials import CredentialStore
from ..errors import EmbeddedStackError
from .postgres import Cluster

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

DEFAULT_PORT = 54321
"""The origin's port where none is chosen. The database's is the next one."""

_CONFIG_VERSION = 1


@dataclass(frozen=True, slots=True)
class RetiredSecret:
    """A secret that access tokens were signed with before a rotation.

    Attributes:
        secret: the secret.
        until: from when on its tokens are refused, in seconds since 1970.
    """

    secret: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """What a stack keeps for its lifetime. Generated once, stored in `stack.json`.

    Attributes:
        origin_port: port of the HTTP origin.
        database_port: port of the database.
        publishable_key: key for clients; with it alone a request is `anon`.
        secret_key: key for trusted services; a request with it is `service_role`.
        jwt_secret: what access tokens are signed with.
        passwords: password of each database role that logs in.
        retired_secrets: what they were signed with before; each is accepted for some time.
        next_passwords: passwords that the next start gives the roles; empty when no rotation is under way.
    """

    origin_port: int
    database_port: int
    publishable_key: str
    secret_key: str
    jwt_secret: str
    passwords: dict[str, str]
    retired_secrets: tuple[RetiredSecret, ...] = ()
    next_passwords: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def generate(cls, *, origin_port: int, database_port: int) -> StackConfig:
        """Make one with fresh secrets."""
        return cls(
            origin_port=origin_port,
            database_port=database_port,
            publishable_key=_generate_key("sb_publishable_"),
            secret_key=_generate_key("sb_secret_"),
            jwt_secret=secrets.token_hex(32),
            passwords=_generate_passwords(),
        )

    def accepted_secrets(self, *, now: float | None = None) -> tuple[str, ...]:
        """Return what a token may be signed with, the current secret first: the one list that verifiers go by.

        Args:
            now: seconds since 1970; None: now. Whoever runs for long asks again for each token.
        """
        moment = time.time() if now is None else now
        return (self.jwt_secret, *(one.secret for one in self.retired_secrets if one.until > moment))

    def verification_keys(self, *, now: float | None = None) -> str:
        """Return the accepted secrets as a JSON Web Key Set, for whoever verifies tokens by one.

        Args:
            now: see `accepted_secrets`.
        """
        keys = [
            {
                "kty": "oct",
                "alg": "HS256",
                "k": base64.urlsafe_b64encode(secret.encode()).rstrip(b"=").decode(),
            }
            for secret in self.accepted_secrets(now=now)
        ]
        return json.dumps({"keys": keys}, separators=(",", ":"))

    def with_new_tokens(self, *, overlap: float) -> StackConfig:
        """Return the configuration with another secret for tokens.

        Args:
            overlap: seconds for which tokens of the old one stay good.
        """
        now = time.time()
        retired = (RetiredSecret(self.jwt_secret, now + overlap), *self.retired_secrets)
        return replace(
            self,
            jwt_secret=secrets.token_hex(32),
            retired_secrets=tuple(one for one in retired if one.until > now),
        )

    def without_retired_secrets(self) -> StackConfig:
        """Return the configuration in which tokens of the current secret alone are good."""
        return replace(self, retired_secrets=())

    def with_new_keys(self) -> StackConfig:
        """Return the configuration with other API keys."""
        return replace(
            self,
            publishable_key=_generate_key("sb_publishable_"),
            secret_key=_generate_key("sb_secret_"),
        )

    def with_new_passwords(self) -> StackConfig:
        """Return the configuration with passwords that the next start gives the roles.

        Those that a start was to give already stay: it may have given them, and have ended before it wrote that down.
        """
        return self if self.next_passwords else replace(self, next_passwords=_generate_passwords())

    def with_passwords_set(self) -> StackConfig:
        """Return the configuration with the next passwords as those that hold."""
        return replace(self, passwords=self.next_passwords, next_passwords={})

    @property
    def api_url(self) -> str:
        """The origin, as clients are given it."""
        return f"http://127.0.0.1:{self.origin_port}"

    def database_url(self, role: str = "authenticator") -> str:
        """Return a PostgreSQL URL for one of the roles that log in."""
        return f"postgresql://{role}:{self.passwords[role]}@127.0.0.1:{self.database_port}/postgres"


def _generate_passwords() -> dict[str, str]:
    return {
        role: secrets.token_hex(24)
        for role in ("supabase_admin", "postgres", "authenticator", "supabase_auth_admin")
    }


def _generate_key(prefix: str) -> str:
    # The format of self-hosted Supabase, checksum included.
    body = prefix + secrets.token_urlsafe(16)
    digest = hashlib.sha256(f"supabase-self-hosted|{body}".encode()).digest()
    return f"{body}_{base64.urlsafe_b64encode(digest).decode()[:8]}"


class Home:
    """One data directory.

    Args:
        path: the directory; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.config_file = self.path / "stack.json"
        self.cluster_directory = self.path / "postgres"
        self.run_directory = self.path / "run"
        self.log_directory = self.path / "logs"
        self.state_file = self.run_directory / "state.json"
        self.lock_file = self.run_directory / "lock"
        self.incomplete_marker = self.path / ".first-start"

    @property
    def id(self) -> str:
        """A name for this directory that doesn't give its path away."""
        return hashlib.sha256(str(self.path).encode()).hexdigest()[:12]

    def prepare(self) -> bool:
        """Make the directory and those for running and logging.

        Returns:
            Whether the directory itself had to be made.

        Raises:
            EmbeddedStackError: it can't be written.
        """
        made = not self.path.exists()
        # As root the database server's own account has to pass through; the files inside are 0600.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            self.path.mkdir(mode=mode, parents=True, exist_ok=True)
            self.run_directory.mkdir(mode=mode, exist_ok=True)
            self.log_directory.mkdir(mode=0o700, exist_ok=True)
            probe = self.run_directory / f".probe-{os.getpid()}"
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as error:
            if made:
                shutil.rmtree(self.path, ignore_errors=True)
            raise EmbeddedStackError(self.explain(error)) from error
        return made

    def explain(self, error: OSError) -> str:
        """Say in words why the directory can't be used."""
        if error.errno == errno.ENOSPC:
            return f"the disk that holds {self.path} is full"
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            return (
                f"the data directory {self.path} can't be written ({error.strerror}). "
                "Set KP_HOME to a directory that can."
            )
        return f"the data directory {self.path} can't be used: {error}"

    def load_config(self) -> StackConfig | None:
        """Read the stack's configuration, or None where there is none yet.

        Raises:
            EmbeddedStackError: the file can't be read or isn't one.
        """
        try:
            value = json.loads(self.config_file.read_text())
            return StackConfig(
                origin_port=int(value["ports"]["origin"]),
                database_port=int(value["ports"]["database"]),
                publishable_key=str(value["publishable_key"]),
                secret_key=str(value["secret_key"]),
                jwt_secret=str(value["jwt_secret"]),
                passwords={str(role): str(word) for role, word in value["passwords"].items()},
                retired_secrets=tuple(
                    RetiredSecret(str(one["secret"]), float(one["until"]))
                    for one in value.get("retired_secrets", ())
                ),
                next_passwords={
                    str(role): str(word) for role, word in value.get("next_passwords", {}).items()
                },
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EmbeddedStackError(f"{self.config_file} can't be read: {error!r}") from error

    def save_config(self, config: StackConfig) -> None:
        """Store the stack's configuration, readable by its owner only.

        Raises:
            EmbeddedStackError: it can't be written.
        """
        value = asdict(config)
        ports = {"origin": value.pop("origin_port"), "database": value.pop("database_port")}
        try:
            write_private(self.config_file, {"version": _CONFIG_VERSION, "ports": ports, **value})
        except OSError as error:
            raise EmbeddedStackError(self.explain(error)) from error

    def with_ports(self, config: StackConfig, origin: int | None, database: int | None) -> StackConfig:
        """Return the configuration with other ports, stored if that changes it; its sign-in moves along."""
        chosen = replace(
            config,
            origin_port=origin if origin is not None else config.origin_port,
            database_port=database if database is not None else config.database_port,
        )
        if chosen == config:
            return config
        self.save_config(chosen)
        if chosen.api_url != config.api_url:
            store = CredentialStore(self.path)
            with store.locked():
                credential = store.load(config.api_url)
                if credential is not None:
                    store.save(chosen.api_url, credential)
                    store.delete(config.api_url)
        return chosen

    def cluster(self, config: StackConfig) -> Cluster:
        """Return the stack's database cluster."""
        return Cluster(
            self.cluster_directory,
            socket_directory=self.run_directory / "postgres",
            port=config.database_port,
            superuser_password=config.passwords["supabase_admin"],
        )

    @contextlib.contextmanager
    def lock(self) -> Generator[bool]:
        """Hold the directory for as long as the body runs.

        Yields:
            Whether it was free.
        """
        deadline = time.monotonic() + 0.5
        while True:
            with self.lock_file.open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # A failed first start removes the file: a lock on what is no longer there is none.
                    held = os.path.samestat(os.fstat(file.fileno()), self.lock_file.stat())
                except (BlockingIOError, FileNotFoundError):
                    held = False
                if held:
                    yield True
                    return
            # A `kp status` looks for an instant only; a stack stays.
            if time.monotonic() > deadline:
                yield False
                return
            time.sleep(0.02)

    def is_held(self) -> bool:
        """Tell whether a supervisor holds the directory now."""
        try:
            file = self.lock_file.open("r")
        except FileNotFoundError:
            return False
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def load_state(self) -> dict[str, Any]:
        """Read what the supervisor last said of itself; empty where it never did."""
        try:
            return cast("dict[str, Any]", json.loads(self.state_file.read_text()))
        except (FileNotFoundError, ValueError):
            return {}

    def save_state(self, state: dict[str, Any]) -> None:
        """Store what the supervisor says of itself."""
        write_private(self.state_file, state)


def write_private(path: Path, value: dict[str, Any]) -> None:
    """Write JSON for the owner's eyes only, all of it or nothing, and on the disk when this returns."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
