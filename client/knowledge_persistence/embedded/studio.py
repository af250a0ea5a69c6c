"""Studio: Lite's own, with admin rights, on a loopback port of its own for as long as somebody keeps it open."""

from __future__ import annotations

import secrets
import socket
from typing import TYPE_CHECKING, Self

from ..errors import EmbeddedStackError
from . import node
from .front import DatabaseAddress, Front
from .supervisor import check_port_free, is_port_free

if TYPE_CHECKING:
    from collections.abc import Callable

    from .stack import Stack


class Studio:
    """An admin Studio on a running stack. As a context manager it is open inside the body.

    Whoever has its address may read and change everything. The address carries a token, so that other accounts of
    this machine and pages in the same browser can't guess it.

    Args:
        stack: the running stack.
        port: port to serve it on; None takes the one after the database's, or any free one.
        progress: told what takes long.
    """

    def __init__(
        self, stack: Stack, *, port: int | None = None, progress: Callable[[str], None] | None = None
    ) -> None:
        self._stack = stack
        self._token = secrets.token_urlsafe(24)
        self._progress = progress
        self._wanted_port = port
        self._front: Front | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The address to open, token included."""
        return f"http://127.0.0.1:{self.port}/?token={self._token}"

    @property
    def is_open(self) -> bool:
        """Whether it serves, and the stack beneath it is still up."""
        return self._front is not None and self._front.process.poll() is None and self._stack.home.is_held()

    def open(self) -> None:
        """Start it, and return once it serves.

        Raises:
            EmbeddedStackError: the stack isn't running, or the port is taken.
        """
        config = self._stack.home.load_config()
        if config is None or not self._stack.status().is_running:
            raise EmbeddedStackError("the stack isn't running; start it with `kp up`")
        self.port = self._choose_port(config.database_port + 1)
        cluster = self._stack.home.cluster(config)
        self._front = Front(
            node.install_front(progress=self._progress),
            config,
            mode="studio",
            database=DatabaseAddress(str(cluster.socket_directory), cluster.port),
            options={"port": self.port, "studioToken": self._token},
        )
        try:
            self._front.wait_for("prepared", timeout=30)
            self._front.command("listen")
            self._front.wait_for("listening", timeout=10)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it."""
        if self._front is not None:
            self._front.stop()
            self._front = None

    def _choose_port(self, default: int) -> int:
        if self._wanted_port is not None:
            check_port_free(self._wanted_port, "Studio", "--port")
            return self._wanted_port
        if is_port_free(default):
            return default
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
