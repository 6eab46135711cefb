"""A way to a server that can be made to swallow everything, as a firewall that drops packets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Hole:
    """Listens on ``port`` and hands on, until ``open()``: then nothing arrives any more, and
    nobody is told. to: the server's port."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._is_open = threading.Event()
        self._end = threading.Event()
        self._sockets: list[socket.socket] = []
        #: set once something was swallowed
        self.swallowed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def open(self) -> None:
        """Swallow what comes from now on, in both directions, of new connections too."""
        self._is_open.set()

    def close(self) -> None:
        self._end.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65_536):
                if self._is_open.is_set():
                    self.swallowed.set()
                    self._end.wait()
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def hole(to: int) -> Iterator[Hole]:
    """A way to a port that is gone at the end of the block."""
    made = Hole(to)
    try:
        yield made
    finally:
        made.close()
