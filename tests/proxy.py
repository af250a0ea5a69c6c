"""A TCP proxy that breaks connections, or keeps them and lets nothing through, when a test says so."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Break:
    """What is to happen to the next request with these words."""

    words: bytes
    passing: int
    resetting: bool


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
        self._pairs: list[tuple[socket.socket, socket.socket, threading.Thread]] = []
        self._doomed: set[socket.socket] = set()
        self._next: _Break | None = None
        self._met = threading.Event()
        self._refusing = False
        self._delay = 0.0
        self._flowing = threading.Event()
        self._flowing.set()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """End every connection now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for client, server, _ in pairs:
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Reset every connection, as a machine that has forgotten them does, and return when it is done."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        self._doomed.update(client for client, _, _ in pairs)
        for _, _, pump in pairs:
            pump.join(5)

    def cut_after(self, words: bytes, *, passing: int = 0, resetting: bool = False) -> None:
        """Let the next request with these words through, and break its connection before the answer has arrived.

        Args:
            words: what the request holds.
            passing: so many bytes of the answer arrive all the same.
            resetting: reset the connection, instead of ending it.
        """
        self._met.clear()
        self._next = _Break(words, passing, resetting)

    @property
    def has_cut(self) -> bool:
        """Whether `cut_after` has met its words."""
        return self._met.is_set()

    def delay(self, seconds: float) -> None:
        """Let everything arrive so much later, in both directions."""
        self._delay = seconds

    def hold(self, holding: bool = True) -> None:
        """Keep the connections and let nothing through, as a server that hangs does; or let it through again."""
        if holding:
            self._flowing.clear()
        else:
            self._flowing.set()

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
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream))
            except OSError:
                client.close()
                continue
            thread = threading.Thread(target=self._pump, args=(client, server), daemon=True)
            with self._lock:
                thread.start()
                self._pairs.append((client, server, thread))
            self._threads.append(thread)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        breaking: _Break | None = None
        left = 0
        with client, server:
            while not self._closing.is_set():
                if client in self._doomed:
                    _reset_on_close(client)
                    return
                if not self._flowing.wait(0.05):
                    continue
                for end in select.select([client, server], [], [], 0.05)[0]:
                    try:
                        data = end.recv(65536)
                        if not data:
                            return
                        if self._delay:
                            self._closing.wait(self._delay)
                        if end is client and self._next is not None and self._next.words in data:
                            breaking, self._next = self._next, None
                            left = breaking.passing
                            self._met.set()
                        if breaking is not None and end is server:
                            # The server has done its work; what it says about it is lost.
                            client.sendall(data[:left])
                            left -= len(data)
                            if left <= 0:
                                if breaking.resetting:
                                    _reset_on_close(client)
                                return
                            continue
                        (server if end is client else client).sendall(data)
                    except OSError:
                        return


def _reset_on_close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
