"""A barrier for jobs in other processes: how a test waits for them without sleeps.

A job at the barrier waits in a blocking call, which no exception ends, until the test releases it.
The test has its pid, and sees its end by the end of the connection, which the kernel closes.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

#: How long a test waits for a process to arrive, and for the end of one. Nothing right comes near.
PATIENCE_SECONDS = 20.0

_PID = struct.Struct("<q")

#: Kept open, so that the end of a process is seen also after it was released.
_connections: list[socket.socket] = []


def wait_at(path: str) -> None:
    """Send the pid of this process, and wait until it is released."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    _connections.append(connection)
    connection.sendall(_PID.pack(os.getpid()))
    connection.recv(1)


class WaitingProcess:
    """A process at the barrier."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_SECONDS)
        self._connection = connection
        (self.pid,) = _PID.unpack(connection.recv(_PID.size))

    def release(self) -> None:
        """Let it go on."""
        self._connection.sendall(b"!")

    def wait_for_end(self) -> None:
        """Return when its process has ended."""
        with suppress(ConnectionError):  # it had left something unread
            assert self._connection.recv(1) == b""

    def close(self) -> None:
        self._connection.close()


class Barrier:
    """Where processes wait; *path* is what they are given."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "barrier")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self._listening.settimeout(PATIENCE_SECONDS)
        self._arrived: list[WaitingProcess] = []

    def arrival(self) -> WaitingProcess:
        """Wait for the next process."""
        self._arrived.append(WaitingProcess(self._listening.accept()[0]))
        return self._arrived[-1]

    def close(self) -> None:
        for each in self._arrived:
            each.close()
        self._listening.close()
