"""A door at which jobs in other processes ring: how a test meets them without sleeps.

A job that rings waits in a blocking call, which no exception ends, until it is let in. The test
has its pid, and sees its end by the end of the connection, which the kernel closes.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

#: How long a test waits for a visitor, and for the end of one. Nothing right comes near it.
PATIENCE_SECONDS = 20.0

_PID = struct.Struct("<q")

#: Kept open, so that the end of a process is seen also after it was let in.
_rung: list[socket.socket] = []


def ring(path: str) -> None:
    """Say who is there, and wait to be let in."""
    bell = socket.socket(socket.AF_UNIX)
    bell.connect(path)
    _rung.append(bell)
    bell.sendall(_PID.pack(os.getpid()))
    bell.recv(1)


class Visitor:
    """A process that has rung."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_SECONDS)
        self._connection = connection
        (self.pid,) = _PID.unpack(connection.recv(_PID.size))

    def let_in(self) -> None:
        """Let it go on."""
        self._connection.sendall(b"!")

    def wait_for_end(self) -> None:
        """Return when its process has ended."""
        with suppress(ConnectionError):  # it had left something unread
            assert self._connection.recv(1) == b""

    def close(self) -> None:
        self._connection.close()


class Door:
    """Where they ring; *path* is what they are given."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "door")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self._listening.settimeout(PATIENCE_SECONDS)
        self._visitors: list[Visitor] = []

    def visitor(self) -> Visitor:
        """Wait for the next one."""
        self._visitors.append(Visitor(self._listening.accept()[0]))
        return self._visitors[-1]

    def close(self) -> None:
        for each in self._visitors:
            each.close()
        self._listening.close()
