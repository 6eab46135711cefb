"""Message brokers of a test's own: to be stopped, hung, filled and emptied."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from needs import need
from own_servers import PATIENCE_SECONDS, _free_port


class OwnRedis:
    """A Redis server without persistence, on a port that stays the same."""

    def __init__(self) -> None:
        need(shutil.which("redis-server"), "redis-server (Debian: redis-server)")
        self.port = _free_port()
        self.folder = tempfile.mkdtemp(prefix="asyncjob-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *options: str) -> None:
        """Start it, empty. options: of redis-server."""
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
             "--dir", self.folder, *options],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            assert time.monotonic() < until, "Redis does not answer"
            time.sleep(0.01)  # nothing tells when a server is ready but to ask it

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as asked:
            asked.sendall(b"PING\r\n")
            return asked.recv(100).startswith(b"+PONG")
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP hangs it, SIGCONT lets it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def empty(self) -> None:
        """Remove all that it holds."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as asked:
            asked.sendall(b"FLUSHALL\r\n")
            asked.recv(100)

    def kill(self) -> None:
        """End it at once; what it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_SECONDS)
            self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def own_redis() -> Iterator[OwnRedis]:
    """Run a Redis server for a block."""
    made = OwnRedis()
    try:
        made.start()
        yield made
    finally:
        made.remove()


class Deaf:
    """Listens on a port, accepts connections, and never says a word: a broker that hangs."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(50)
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()
