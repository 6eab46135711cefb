"""Threads that wait for something to do. Nothing here locks: the backend does.

Each has a waiter of its own: a lock that is released to wake it. A waiter is added under the
backend's lock, after a look for work; work is added under the same lock, so none is overlooked.
"""

from __future__ import annotations

import threading
from collections.abc import Collection


class Waiter:
    """What one thread waits on; only that thread calls ``wait``, without the backend's lock."""

    __slots__ = ("_lock", "queues", "until")

    def __init__(self, queues: Collection[str] | None, until: float) -> None:
        self.queues = queues  #: the names whose jobs wake it; None: all
        self.until = until  #: when its wait ends by itself, by the backend's clock
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, seconds: float) -> None:
        """Return when woken, after *seconds* at the latest."""
        self._lock.acquire(timeout=seconds)

    def wake(self) -> None:
        self._lock.release()


class Waiters:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: list[Waiter] = []

    def add(self, queues: Collection[str] | None, until: float) -> Waiter:
        """Make a waiter for the calling thread."""
        waiter = Waiter(queues, until)
        self._waiting.append(waiter)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """Remove *waiter*: its thread waits no longer, for whatever reason."""
        if waiter in self._waiting:  # else it was removed when it was woken
            self._waiting.remove(waiter)

    def wake_one(self, queue_name: str) -> None:
        """Wake a thread that serves *queue_name*: the last one added, its cache is the warmest."""
        if not self._waiting:
            return
        for at in range(len(self._waiting) - 1, -1, -1):
            queues = self._waiting[at].queues
            if queues is None or queue_name in queues:
                self._waiting.pop(at).wake()
                return

    def wake_by(self, due: float) -> None:
        """Ensure that a thread is awake when a job is due; *due* by the backend's clock."""
        if self._waiting and all(waiter.until > due for waiter in self._waiting):
            self._waiting.pop().wake()

    def wake_all(self) -> None:
        """Wake every thread that waits."""
        while self._waiting:
            self._waiting.pop().wake()
