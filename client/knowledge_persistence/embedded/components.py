"""The parts of a running stack, each a child process that can be started again."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING, Literal

from ..errors import EmbeddedStackError
from .front import DatabaseAddress, Front
from .postgres import Cluster, explain_failure

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from .home import Home, StackConfig
    from .node import FrontRuntime

ComponentState = Literal["stopped", "starting", "running", "restarting", "finished"]

_FIRST_DELAY = 0.1
# Shorter than a client's patience: whoever calls meanwhile is served in the end.
_LONGEST_DELAY = 8.0
# What has run for so long was healthy: its next failure starts with short delays again.
_HEALTHY_SECONDS = 3.0
_LOG_LIMIT = 10 * 1024 * 1024


class Component:
    """One child process and what the supervisor knows of it.

    Args:
        home: the stack's directory.
        name: what it is called in `kp status` and `kp logs`.
        port: the port it listens on, if any.
    """

    def __init__(self, home: Home, name: str, *, port: int | None = None) -> None:
        self.name = name
        self.port = port
        self.log_file = home.log_directory / f"{name}.log"
        self.state: ComponentState = "stopped"
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self.next_start = 0.0
        self.last_failure: str | None = None
        # The process that was ended since it gave no answer.
        self.silenced: subprocess.Popen[bytes] | None = None
        self._delay = _FIRST_DELAY
        self._running_since: float | None = None

    def start(self, give_up: Callable[[], bool]) -> None:
        """Start it and wait until it is ready.

        Args:
            give_up: asked often; True ends the waiting.

        Raises:
            EmbeddedStackError: it can't be started.
        """
        self._running_since = None
        self._close_pipe()
        self._launch(give_up)
        self._running_since = time.monotonic()
        self.state = "running"

    def _launch(self, give_up: Callable[[], bool]) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """End it, in its own way, and wait for that."""
        raise NotImplementedError

    @property
    def can_answer(self) -> bool:
        """Whether `answers` asks it anything."""
        return False

    def answers(self, timeout: float) -> bool:
        """Ask the running process for a sign of life, whatever it says.

        Args:
            timeout: seconds that it may take.
        """
        del timeout
        return True

    def _close_pipe(self) -> None:
        # What held the last process, which has ended.
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def note_failure(self, reason: str) -> None:
        """Plan the next start, later each time it fails soon."""
        now = time.monotonic()
        if self._running_since is not None and now - self._running_since > _HEALTHY_SECONDS:
            self._delay = _FIRST_DELAY
        self.next_start = now + self._delay
        self._delay = min(self._delay * 2, _LONGEST_DELAY)
        self.last_failure = reason
        self.state = "restarting"
        self.restarts += 1

    def open_log(self) -> IO[bytes]:
        """Open its log for a new process; a long one is put aside first."""
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_LIMIT:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        descriptor = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "ab")


class PostgresComponent(Component):
    """The database server."""

    def __init__(self, home: Home, cluster: Cluster) -> None:
        super().__init__(home, "postgres", port=cluster.port)
        self.cluster = cluster

    def _launch(self, give_up: Callable[[], bool]) -> None:
        # One that outlived its supervisor would hold the directory and the port.
        self.cluster.stop()
        with self.open_log() as log:
            before = log.tell()
            self.process = self.cluster.start(log)
        if self.cluster.wait_ready(self.process, give_up=give_up):
            return
        if self.process.poll() is None:
            self.cluster.stop(self.process)
            raise EmbeddedStackError("PostgreSQL wasn't ready in time; its log says why")
        raise EmbeddedStackError(
            explain_failure("PostgreSQL ended while starting", _tail(self.log_file, before))
        )

    def stop(self) -> None:
        """Shut the server down in an orderly way."""
        self.cluster.stop(self.process)


class FrontComponent(Component):
    """The HTTP origin: Data API and Auth."""

    def __init__(
        self,
        home: Home,
        config: StackConfig,
        cluster: Cluster,
        runtime: FrontRuntime,
        *,
        realtime_port: int | None = None,
        functions_port: int | None = None,
    ) -> None:
        super().__init__(home, "front", port=config.origin_port)
        self._config = config
        self._database = DatabaseAddress(str(cluster.socket_directory), cluster.port)
        self._runtime = runtime
        self._options: dict[str, str | int] = {"homeId": home.id}
        if realtime_port is not None:
            self._options["realtimePort"] = realtime_port
        if functions_port is not None:
            self._options["functionsPort"] = functions_port
        self.front: Front | None = None

    def prepare(self, give_up: Callable[[], bool]) -> None:
        """Start it up to the point where Auth's tables exist, without serving anything yet."""
        with self.open_log() as log:
            self.front = Front(
                self._runtime,
                self._config,
                mode="serve",
                database=self._database,
                log=log,
                options=self._options,
            )
        self.process = self.front.process
        self.front.wait_for("prepared", timeout=60, give_up=give_up)

    def serve(self, give_up: Callable[[], bool]) -> None:
        """Take requests from now on."""
        if self.front is None:
            raise EmbeddedStackError("the front isn't prepared")
        self.front.command("listen")
        self.front.wait_for("listening", timeout=10, give_up=give_up)
        self._running_since = time.monotonic()
        self.state = "running"

    def _launch(self, give_up: Callable[[], bool]) -> None:
        try:
            self.prepare(give_up)
            self.serve(give_up)
        except EmbeddedStackError:
            self.stop()
            raise

    @property
    def can_answer(self) -> bool:
        """Always: it is an HTTP server."""
        return True

    def answers(self, timeout: float) -> bool:
        """Ask for what it says without a database."""
        return _gives_answer(self._config.origin_port, "/", timeout)

    def stop(self) -> None:
        """Let requests under way finish, then end it."""
        if self.front is not None:
            self.front.stop()


class ModuleComponent(Component):
    """A module of this package that runs as a program and ends with its supervisor.

    Args:
        home: the stack's directory.
        name: what it is called.
        module: the module.
        listener: a listening socket that it inherits, and whose descriptor is its argument. It stays open here, so
            that clients wait while the module is started again.
        ping: the path that it answers on that socket at once, without the database.
    """

    def __init__(
        self,
        home: Home,
        name: str,
        module: str,
        *,
        listener: socket.socket | None = None,
        ping: str | None = None,
    ) -> None:
        super().__init__(home, name, port=None if listener is None else int(listener.getsockname()[1]))
        self._home = home
        self._module = module
        self._listener = listener
        self._ping = ping

    @property
    def can_answer(self) -> bool:
        """Whether it has a path to be asked by."""
        return self._ping is not None

    def answers(self, timeout: float) -> bool:
        """Ask for its path."""
        return self._ping is None or self.port is None or _gives_answer(self.port, self._ping, timeout)

    @staticmethod
    def is_available(module: str) -> bool:
        """Tell whether this installation has the module."""
        return importlib.util.find_spec(module) is not None

    def _launch(self, give_up: Callable[[], bool]) -> None:
        del give_up  # it is ready as soon as it runs
        inherited = [] if self._listener is None else [self._listener.fileno()]
        with self.open_log() as log:
            try:
                self.process = subprocess.Popen(  # noqa: S603
                    [
                        sys.executable,
                        "-m",
                        "knowledge_persistence.embedded.tether",
                        self._module,
                        *map(str, inherited),
                    ],
                    pass_fds=inherited,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "KP_HOME": str(self._home.path)},
                    start_new_session=True,
                )
            except OSError as error:
                raise EmbeddedStackError(f"the {self.name} can't be started: {error}") from error

    def stop(self) -> None:
        """Ask it to end; insist after some seconds."""
        if self._listener is not None:
            self._listener.close()
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _gives_answer(port: int, path: str, timeout: float) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"connection": "close"})
        connection.getresponse().close()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return True
    finally:
        connection.close()


def _tail(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(64 * 1024).decode(errors="replace")
