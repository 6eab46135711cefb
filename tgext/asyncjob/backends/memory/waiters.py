"""Worker threads that wait for jobs. Nothing here takes the backend's lock: the backend does.

Each has a waiter: a lock that is released to wake it. With the backend's lock held a thread checks
for jobs and adds its waiter. Jobs are added under the same lock, so that none is missed.
"""

from __future__ import annotations

import threading
from collections.abc import Collection


class Waiter:
    """One waiting thread, which alone calls ``wait``, without the backend's lock."""

    __slots__ = ("_lock", "queues", "until")

    def __init__(self, queues: Collection[str] | None, until: float) -> None:
        self.queues = queues  #: names of the queues whose jobs wake it; None: all
        self.until = until  #: when its wait times out, by the backend's clock
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, seconds: float) -> bool:
        """Return when woken, at the latest after *seconds*; False: it was not woken."""
        return self._lock.acquire(timeout=seconds)

    def wake(self) -> None:
        self._lock.release()


class Waiters:
    """The waiters of one backend."""

    def __init__(self) -> None:
        #: the waiters of the threads that wait
        self.waiting: list[Waiter] = []

    def add(self, queues: Collection[str] | None, until: float) -> Waiter:
        """Make a waiter for the calling thread."""
        waiter = Waiter(queues, until)
        self.waiting.append(waiter)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """Remove *waiter*, whose thread no longer waits and may not have been woken."""
        if waiter in self.waiting:  # else it was removed when it was woken
            self.waiting.remove(waiter)

    def wake_one(self, queue_name: str) -> None:
        """Wake the last added thread that serves *queue_name*; its caches are the warmest."""
        for at in range(len(self.waiting) - 1, -1, -1):
            queues = self.waiting[at].queues
            if queues is None or queue_name in queues:
                self.waiting.pop(at).wake()
                return

    def wake_by(self, due: float) -> None:
        """Ensure that a thread is awake at *due*, by the backend's clock."""
        if self.waiting and all(waiter.until > due for waiter in self.waiting):
            self.waiting.pop().wake()

    def wake_all(self) -> None:
        """Wake every thread that waits."""
        while self.waiting:
            self.waiting.pop().wake()
