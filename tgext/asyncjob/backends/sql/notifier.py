"""Notifies the worker threads of other processes, after the commit.

    commit --> notify --> one thread sends --> the listeners of other processes (NOTIFY)
                                           --> a message broker, see ``wakeups``

A notification inside a transaction would hold a lock of the whole PostgreSQL server until its
commit is on disk, one transaction after the other, and cannot be part of a two-phase commit. Here
it has a transaction of its own that writes nothing. It may be lost, if the process ends first: each
worker looks at the table as well, see ``wakeup`` and ``relay``.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue

log = logging.getLogger(__name__)

#: The least time between two notifications of PostgreSQL, in seconds: a program that enqueues one
#: job after the other does not spend its time on them.
PAUSE_SECONDS = 0.002

#: The longest that ``close`` waits for what is still to be sent, in seconds.
CLOSE_SECONDS = 2.0

#: The name for jobs of any queue, and for delayed ones: the listeners then look at the table.
ANY = ""

#: The most names that wait to be sent, while that is slow. More are dropped.
MOST_NAMES = 10_000


class Notifier:
    """Sends the notifications of one process.

    send: called by the thread with the names of queues, sorted, each once; may raise anything.
    pause_seconds: the least time between two notifications.
    """

    def __init__(
        self, send: Callable[[list[str]], object], pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self._send = send
        self._pause_seconds = pause_seconds
        self._begin()

    def _begin(self) -> None:
        #: the names to send; None: the end. A finalizer may put one while its thread does.
        self._names: SimpleQueue[str | None] = SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None

    def notify(self, queue_names: Iterable[str]) -> None:
        """Have a thread notify the listeners of jobs that are now available in these queues."""
        for name in queue_names:
            if self._names.qsize() < MOST_NAMES:
                self._names.put(name)
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="asyncjob-notifier", daemon=True)
            with suppress(RuntimeError):  # no thread starts once the interpreter exits
                thread.start()
                self._thread = thread
                atexit.register(self.close)  # also in a child process that runs a job

    def close(self) -> None:
        """Send what is left, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            atexit.unregister(self.close)
            self._names.put(None)
            thread.join(CLOSE_SECONDS)

    def after_fork(self) -> None:
        """Begin anew: the thread is the parent's, and sends what the parent has enqueued."""
        self._begin()

    def _run(self) -> None:
        while (names := self._next()) is not None:
            try:
                self._send(sorted(names))
            except Exception as error:  # noqa: BLE001 - workers look at the table as well
                log.info("could not notify workers of new jobs: %s", error)
            time.sleep(self._pause_seconds)

    def _next(self) -> set[str] | None:
        """Wait for a name; return it with all that are there by then, None at the end."""
        first = self._names.get()
        if first is None:
            return None
        names = {first}
        with suppress(Empty):
            while True:
                name = self._names.get_nowait()
                if name is None:
                    self._names.put(None)  # for the next call
                    break
                names.add(name)
        return names
