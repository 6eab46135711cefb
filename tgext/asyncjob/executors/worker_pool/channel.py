"""Send and receive frames over a non-blocking stream between two processes.

A frame is a tuple of numbers, bytes and lists of these, written with ``marshal``: both ends run in
the same version of the interpreter, and one is the child of the other. Nothing here blocks, except
``finish``: bytes that the stream does not take are kept, and ``resume`` continues with them.
"""

from __future__ import annotations

import marshal
import os
import struct
from multiprocessing.connection import Connection
from typing import Any

_LENGTH = struct.Struct("<Q")

#: Bytes read at once; more than a socket's buffer holds.
_READ_BYTES = 1 << 20


class Channel:
    """One end of the stream. Used by one thread at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._fd = connection.fileno()
        os.set_blocking(self._fd, False)
        self._unsent = memoryview(b"")
        self._received = bytearray()

    def fileno(self) -> int:
        return self._fd

    @property
    def is_clogged(self) -> bool:
        """Whether part of a frame waits for ``resume``; do not call ``send`` then."""
        return len(self._unsent) > 0

    def send(self, content: tuple[Any, ...]) -> bool:
        """Write as much of a frame as the stream takes; return whether that was all of it.

        Raises OSError if the other end is gone.
        """
        body = marshal.dumps(content)
        self._unsent = memoryview(_LENGTH.pack(len(body)) + body)
        return self.resume()

    def resume(self) -> bool:
        """Write more of what was kept; returns and raises as ``send``."""
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._fd, self._unsent) :]
        except BlockingIOError:
            return False
        return True

    def receive(self) -> list[tuple[Any, ...]] | None:
        """Read what has arrived, and return the frames that are complete; maybe none.

        None: the other end is gone, and every complete frame has been returned.
        """
        try:
            read = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return []
        except ConnectionError:
            read = b""
        if not read:
            return None
        received = self._received
        received += read
        frames = []
        while len(received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(received)[0]
            if len(received) < end:
                break
            frames.append(marshal.loads(received[_LENGTH.size : end]))
            del received[:end]
        return frames

    def finish(self) -> None:
        """Wait until what was kept is written. Raises OSError if the other end is gone."""
        os.set_blocking(self._fd, True)
        self.resume()

    def close(self) -> None:
        """Close this end. A second call does nothing."""
        self._connection.close()
