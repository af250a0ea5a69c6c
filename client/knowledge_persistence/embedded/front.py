"""The Node process that serves the HTTP origin: started, configured over its stdin, listened to."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from dataclasses import dataclass
from importlib import metadata
from typing import IO, TYPE_CHECKING, Any, Literal, Self, cast

from ..errors import EmbeddedStackError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .home import StackConfig
    from .node import FrontRuntime

_ENDED: dict[str, Any] = {"event": "ended"}


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """Where the front finds its database.

    Attributes:
        host: the socket's directory, or a host name.
        port: the port.
        name: the database's name.
    """

    host: str
    port: int
    name: str = "postgres"


class Front:
    """One running front.

    Args:
        runtime: Node and the installed front.
        config: the stack's keys, secrets and ports.
        mode: "serve" for the origin, "studio" for Studio, "prepare" to make Auth's tables and end.
        database: where the database is.
        log: an open file that gets its log; None throws it away.
        options: further fields of the front's configuration.

    Raises:
        EmbeddedStackError: Node can't be started.
    """

    def __init__(
        self,
        runtime: FrontRuntime,
        config: StackConfig,
        *,
        mode: Literal["serve", "studio", "prepare"],
        database: DatabaseAddress,
        log: IO[bytes] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        settings: dict[str, Any] = {
            "mode": mode,
            "version": metadata.version("knowledge-persistence"),
            "port": config.origin_port,
            "siteUrl": config.api_url,
            "jwtSecret": config.jwt_secret,
            "retiredSecrets": [{"secret": one.secret, "until": one.until} for one in config.retired_secrets],
            "publishableKey": config.publishable_key,
            "secretKey": config.secret_key,
            "database": {
                "host": database.host,
                "port": database.port,
                "name": database.name,
                "user": "supabase_auth_admin",
                "password": config.passwords["supabase_auth_admin"],
            },
            **(options or {}),
        }
        try:
            self.process = subprocess.Popen(  # noqa: S603
                [str(runtime.node), str(runtime.script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log if log is not None else subprocess.DEVNULL,
                env=runtime.environment(),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise EmbeddedStackError(f"Node can't be started ({runtime.node}): {error}") from error
        threading.Thread(target=self._read, daemon=True, name="front-events").start()
        self._write(settings)

    def _write(self, message: dict[str, Any]) -> None:
        stdin = cast("IO[bytes]", self.process.stdin)
        try:
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
        except OSError:
            # It has ended; whoever waits for its answer hears of that.
            return

    def _read(self) -> None:
        stdout = cast("IO[bytes]", self.process.stdout)
        with stdout:
            for line in stdout:
                self._events.put(json.loads(line))
        self._events.put(_ENDED)

    def command(self, name: Literal["listen", "reload"]) -> None:
        """Tell it to listen on its port, or to read the schema anew."""
        self._write({"command": name})

    def wait_for(
        self, event: str, *, timeout: float, give_up: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Wait for one of its events.

        Args:
            event: which.
            timeout: seconds.
            give_up: asked often; True ends the waiting.

        Raises:
            EmbeddedStackError: it reports a failure, ends, or doesn't come to it in time.
        """
        deadline = time.monotonic() + timeout
        while not give_up():
            try:
                message = self._events.get(timeout=0.1)
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise EmbeddedStackError(
                        f"the Data API wasn't {event} within {timeout:.0f} seconds"
                    ) from None
                continue
            if message["event"] == event:
                return message
            if message["event"] == "fatal":
                raise EmbeddedStackError(f"the Data API can't start: {message['message']}")
            if message["event"] == "ended":
                raise EmbeddedStackError("the Data API ended while it was starting; its log says why")
        raise EmbeddedStackError("stopped while starting")

    def stop(self) -> None:
        """End it: closing its stdin asks, a kill insists."""
        stdin = cast("IO[bytes]", self.process.stdin)
        with contextlib.suppress(OSError):
            stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
