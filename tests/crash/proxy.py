"""A server's port that loses the answers of commits, on the way to the clients of one run.

    client --> proxy --> server      the question always arrives
    client <-- proxy <-- server      the answer of every n-th COMMIT does not, nor anything after

To its client such a commit is neither done nor refused: the connection is gone. Every other loss
waits until the server has answered, so that the work is committed for sure; the ones in between
cut at once, while the server may be in the middle of its commit.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple, TypeVar

#: How a COMMIT stands in the messages of PostgreSQL's clients, and of MariaDB's.
_COMMITS = (b"COMMIT\x00", b"\x03COMMIT")

CHUNK_BYTES = 65_536

Proxy = TypeVar("Proxy", bound="AnswerProxy")


class Link(NamedTuple):
    """The two connections of one client, and whether the next answer is to be lost."""

    client: socket.socket
    server: socket.socket
    loses: threading.Event

    def cut(self) -> None:
        """End both, whoever waits on them."""
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class AnswerProxy:
    """Listens on ``port``. to: the server's port. every: which COMMITs go unanswered; 0: none."""

    def __init__(self, to: int, every: int) -> None:
        self._to = to
        self._every = every
        self._lock = threading.Lock()
        self._links: set[Link] = set()
        self._commits = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: answers that were lost
        self.lost = 0

    def serve(self) -> None:
        """Take connections until ``close``; for a thread of its own."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:  # it is being restarted
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(client, server, threading.Event())
            with self._lock:
                self._links.add(link)
            for pass_on in (self._questions, self._answers):
                threading.Thread(target=self._run, args=(pass_on, link), daemon=True).start()

    def _run(self, pass_on: Callable[[Link], None], link: Link) -> None:
        with suppress(OSError):
            pass_on(link)
        link.cut()
        with self._lock:
            first = link in self._links
            self._links.discard(link)
        if not first:  # both directions have ended
            link.client.close()
            link.server.close()

    def _questions(self, link: Link) -> None:
        while data := link.client.recv(CHUNK_BYTES):
            loses, at_once = self._chooses(data)
            if loses:
                link.loses.set()  # before: the answer may be there sooner than this thread is
            link.server.sendall(data)
            if loses and at_once:
                return

    def _answers(self, link: Link) -> None:
        while data := link.server.recv(CHUNK_BYTES):
            if link.loses.is_set():
                return
            link.client.sendall(data)

    def _chooses(self, data: bytes) -> tuple[bool, bool]:
        """Whether the answer to this is to be lost, and whether without waiting for it."""
        if not self._every or not any(commit in data for commit in _COMMITS):
            return False, False
        with self._lock:
            self._commits += 1
            if self._commits % self._every:
                return False, False
            self.lost += 1
            return True, self.lost % 2 == 0

    def close(self) -> None:
        """Take no more connections, and end those that there are."""
        # On Linux a thread in accept() is woken by this, and not by close() alone.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()


def answer_proxy(to: int, every: int) -> AbstractContextManager[AnswerProxy]:
    """Run one for a block."""
    return serving(AnswerProxy(to, every))


@contextmanager
def serving(proxy: Proxy) -> Iterator[Proxy]:
    """Have it take connections for a block."""
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
