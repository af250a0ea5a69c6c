"""A TCP proxy that breaks connections when a test says so."""

from __future__ import annotations

import contextlib
import select
import socket
import threading


class Proxy:
    """Stand between a client and a server on loopback.

    Attributes:
        port: where clients connect.
        connections: how many have been made.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._swallow: bytes | None = None
        self._swallowed = threading.Event()
        self._refusing = False
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break every connection now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def cut_after(self, words: bytes) -> None:
        """Let the next request with these words through, and break its connection before the answer arrives."""
        self._swallowed.clear()
        self._swallow = words

    @property
    def has_cut(self) -> bool:
        """Whether `cut_after` has met its words."""
        return self._swallowed.is_set()

    def refuse(self, refusing: bool = True) -> None:
        """Refuse new connections, as a server that is down does; or stop doing so."""
        self._refusing = refusing
        if refusing:
            self.cut()

    def close(self) -> None:
        self._closing.set()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                if not select.select([self._listener], [], [], 0.05)[0]:
                    continue
                client, _ = self._listener.accept()
            except (OSError, ValueError):
                return
            if self._refusing:
                client.close()
                continue
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._upstream))
            with self._lock:
                self._pairs.append((client, server))
            thread = threading.Thread(target=self._pump, args=(client, server), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        swallowing = False
        with client, server:
            while not self._closing.is_set():
                for end in select.select([client, server], [], [], 0.05)[0]:
                    try:
                        data = end.recv(65536)
                        if not data or (swallowing and end is server):
                            # The server has done its work; what it says about it is lost.
                            return
                        if end is client and self._swallow is not None and self._swallow in data:
                            self._swallow, swallowing = None, True
                            self._swallowed.set()
                        (server if end is client else client).sendall(data)
                    except OSError:
                        return
