"""A stack as others use it: start it, ask it, stop it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, Self, cast

from ..errors import EmbeddedStackError, KnowledgePersistenceError
from ..migrations import migration_status
from ..resources import migrations_dir
from ..settings import default_home
from .home import Home, StackConfig
from .processes import ProcessId, wait_until
from .supervisor import Supervisor, end_leftovers, run_reporting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_STOP_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackInfo:
    """How to reach a stack.

    Attributes:
        home: its data directory.
        api_url: the HTTP origin.
        publishable_key: key for clients.
        secret_key: key for trusted services.
        database_url: PostgreSQL URL for the direct transport (login `authenticator`).
        admin_database_url: PostgreSQL URL for migrations and operators (login `postgres`).
    """

    home: str
    api_url: str
    publishable_key: str
    secret_key: str
    database_url: str
    admin_database_url: str

    @classmethod
    def of(cls, home: Home, config: StackConfig) -> StackInfo:
        """Describe a configured stack."""
        return cls(
            home=str(home.path),
            api_url=config.api_url,
            publishable_key=config.publishable_key,
            secret_key=config.secret_key,
            database_url=config.database_url(),
            admin_database_url=config.database_url("postgres"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """One part of a stack.

    Attributes:
        state: starting, running, restarting, finished, or stopped.
        pid: its process, while it has one.
        port: the port it listens on, if any.
        restarts: how often this run of the stack has started it again.
        last_failure: why it last ended unasked.
    """

    state: str
    pid: int | None = None
    port: int | None = None
    restarts: int = 0
    last_failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackStatus:
    """What is going on in a data directory.

    Attributes:
        state: absent (never started), stopped, starting, running, degraded (a part is down), or orphaned (its
            supervisor was killed and the database server still runs).
        home: the data directory.
        info: how to reach it; None where it never started.
        services: its parts by name.
        migrations: applied and pending versions; None while the database doesn't run.
    """

    state: Literal["absent", "stopped", "starting", "running", "degraded", "orphaned"]
    home: str
    info: StackInfo | None = None
    services: dict[str, ServiceStatus] = field(default_factory=dict[str, ServiceStatus])
    migrations: dict[str, list[str]] | None = None

    @property
    def is_running(self) -> bool:
        """Whether its supervisor runs and has brought it up."""
        return self.state in {"running", "degraded"}


class Stack:
    """The stack of one data directory. As a context manager it is up inside the body and down after it.

    Args:
        home: the data directory; None is the default one of this account.
        port: the HTTP origin's port; None keeps or chooses.
        database_port: the database's port; None keeps or chooses.
        new_database: make an empty database where the directory holds keys and passwords without one, as before a
            backup is restored into it.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        port: int | None = None,
        database_port: int | None = None,
        new_database: bool = False,
    ) -> None:
        self.home = Home(home if home is not None else default_home())
        self._port = port
        self._database_port = database_port
        self._new_database = new_database

    @property
    def info(self) -> StackInfo:
        """How to reach it.

        Raises:
            EmbeddedStackError: it was never started.
        """
        config = self.home.load_config()
        if config is None:
            raise EmbeddedStackError(f"there is no stack in {self.home.path}; `kp up` makes one")
        return StackInfo.of(self.home, config)

    def up(self, *, progress: Callable[[str], None] | None = None) -> StackInfo:
        """Start it in the background, and return once it is ready; one that runs already is left alone.

        Args:
            progress: told what happens.

        Raises:
            EmbeddedStackError: it can't be started; nothing of it runs then.
        """
        say = progress if progress is not None else _say_nothing
        if self.home.is_held() or not self._spawn(say):
            self._await_other(say)
        return self.info

    def run(self, *, report: Callable[[dict[str, Any]], None]) -> int:
        """Run it in this process until a signal ends it.

        Args:
            report: called with each event: `progress`, `failed` and `busy` (with `message`), `ready`.

        Returns:
            The exit code.
        """
        supervisor = Supervisor(
            self.home,
            port=self._port,
            database_port=self._database_port,
            new_database=self._new_database,
            report=report,
        )
        return run_reporting(supervisor, report)

    def down(self) -> bool:
        """Stop it, and whatever a killed supervisor left behind.

        Returns:
            Whether there was anything to stop.

        Raises:
            EmbeddedStackError: something doesn't end.
        """
        if not self.home.path.exists():
            return False
        found = False
        if self.home.is_held():
            found = True
            identity = self._supervisor()
            if identity is None:
                # It holds the lock and hasn't said who it is: it has just begun.
                wait_until(lambda: self._supervisor() is not None or not self.home.is_held(), timeout=10)
                identity = self._supervisor()
            if identity is not None:
                identity.stop(signals=((signal.SIGTERM, _STOP_TIMEOUT), (signal.SIGKILL, 5.0)))
            if not wait_until(lambda: not self.home.is_held(), timeout=5):
                raise EmbeddedStackError(f"the stack in {self.home.path} doesn't end")
        if self.home.run_directory.is_dir():
            with self.home.lock() as free:
                if free:
                    found = end_leftovers(self.home) or found
        return found

    def status(self) -> StackStatus:
        """Say what runs, where, and which migrations are applied.

        Raises:
            EmbeddedStackError: the data directory can't be read.
        """
        config = self.home.load_config()
        home = str(self.home.path)
        if config is None:
            return StackStatus(state="starting" if self.home.is_held() else "absent", home=home)
        info = StackInfo.of(self.home, config)
        server = self.home.cluster(config).find_server()
        if not self.home.is_held():
            if server is None:
                return StackStatus(state="stopped", home=home, info=info)
            left = {"postgres": ServiceStatus(state="running", pid=server.pid, port=config.database_port)}
            return StackStatus(state="orphaned", home=home, info=info, services=left)
        saved = self.home.load_state()
        services = {
            name: _service_status(service)
            for name, service in cast("dict[str, Any]", saved.get("services") or {}).items()
        }
        whole = all(service.state in {"running", "finished"} for service in services.values())
        state = ("running" if whole else "degraded") if saved.get("ready") else "starting"
        return StackStatus(state=state, home=home, info=info, services=services, migrations=_migrations(info))

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def _supervisor(self) -> ProcessId | None:
        identity = ProcessId.from_json(self.home.load_state().get("supervisor"))
        return identity if identity is not None and identity.is_alive() else None

    def _spawn(self, say: Callable[[str], None]) -> bool:
        """Start a supervisor and wait until it is ready; False when another one was faster."""
        made_home = self.home.prepare()
        read_end, write_end = os.pipe()
        log_path = self.home.log_directory / "supervisor.log"
        try:
            with os.fdopen(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
                supervisor = subprocess.Popen(  # noqa: S603
                    [
                        sys.executable,
                        "-m",
                        "knowledge_persistence.embedded",
                        str(self.home.path),
                        str(write_end),
                        "-" if self._port is None else str(self._port),
                        "-" if self._database_port is None else str(self._database_port),
                        "new-database" if self._new_database else "-",
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[write_end],
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as error:
            os.close(read_end)
            raise EmbeddedStackError(f"the stack can't be started: {error}") from error
        finally:
            os.close(write_end)
        try:
            with os.fdopen(read_end) as pipe:
                outcome = _follow(pipe, say)
        except BaseException:
            supervisor.terminate()
            supervisor.wait()
            self._forget_home(made_home)
            raise
        if outcome["event"] == "ready":
            # It goes on without us; its exit is nobody's to collect, which Popen would warn of.
            supervisor.returncode = 0
            return True
        supervisor.wait()
        if outcome["event"] == "busy":
            return False
        self._forget_home(made_home)
        raise EmbeddedStackError(str(outcome["message"]))

    def _forget_home(self, made_home: bool) -> None:
        # The supervisor has removed what it made; the directory itself was made here.
        if made_home and not self.home.config_file.exists():
            with contextlib.suppress(OSError):
                self.home.path.rmdir()

    def _await_other(self, say: Callable[[str], None]) -> None:
        if not self.home.load_state().get("ready"):
            say("The stack is being started by another command; waiting for it")
        wait_until(
            lambda: bool(self.home.load_state().get("ready")) or not self.home.is_held(),
            timeout=_STOP_TIMEOUT * 10,
        )
        if not self.home.load_state().get("ready"):
            raise EmbeddedStackError("the other command's start failed; try again")


def _say_nothing(_message: str) -> None:
    pass


def _follow(pipe: IO[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Pass a supervisor's progress on; return the event that ends its start."""
    for line in pipe:
        event = cast("dict[str, Any]", json.loads(line))
        if event["event"] != "progress":
            return event
        say(str(event["message"]))
    message = "the supervisor ended before the stack was ready; `kp up` without --detach shows more"
    return {"event": "failed", "message": message}


def _service_status(service: dict[str, Any]) -> ServiceStatus:
    identity = ProcessId.from_json(service.get("process"))
    alive = identity is not None and identity.is_alive()
    state = str(service["state"])
    return ServiceStatus(
        # The supervisor may not have noticed yet.
        state="restarting" if state == "running" and not alive else state,
        pid=identity.pid if identity is not None and alive else None,
        port=service.get("port"),
        restarts=int(service.get("restarts") or 0),
        last_failure=service.get("last_failure"),
    )


def _migrations(info: StackInfo) -> dict[str, list[str]] | None:
    try:
        status = migration_status(info.admin_database_url, migrations_dir())
    except KnowledgePersistenceError:
        return None
    return {"applied": list(status.applied), "pending": list(status.pending)}
