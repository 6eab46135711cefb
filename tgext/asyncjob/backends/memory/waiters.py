"""Threads that wait for something to do. Nothing here locks: the backend does.

Each lies on a bed of its own, a lock that is let go to wake it. Whoever lies down has looked for
work under the same lock under which work is brought, so no work is overlooked.
"""

from __future__ import annotations

import threading
from collections.abc import Collection


class Bed:
    """Where one thread sleeps; ``sleep`` is for it alone, and without the backend's lock."""

    __slots__ = ("_lock", "queues", "until")

    def __init__(self, queues: Collection[str] | None, until: float) -> None:
        self.queues = queues  #: the names it gets up for; None: all
        self.until = until  #: when it gets up by itself, by the backend's clock
        self._lock = threading.Lock()
        self._lock.acquire()

    def sleep(self, seconds: float) -> None:
        """Return when woken, after *seconds* at the latest."""
        self._lock.acquire(timeout=seconds)

    def wake(self) -> None:
        self._lock.release()


class Sleepers:
    """See the module."""

    def __init__(self) -> None:
        self._beds: list[Bed] = []

    def lie_down(self, queues: Collection[str] | None, until: float) -> Bed:
        """Make a bed to sleep on."""
        bed = Bed(queues, until)
        self._beds.append(bed)
        return bed

    def get_up(self, bed: Bed) -> None:
        """Say that the thread of *bed* is awake, for whatever reason."""
        if bed in self._beds:  # who wakes one takes its bed away
            self._beds.remove(bed)

    def wake_one(self, queue_name: str) -> None:
        """Wake a thread that serves *queue_name*, the last to lie down, its cache the warmest."""
        if not self._beds:
            return
        for at in range(len(self._beds) - 1, -1, -1):
            queues = self._beds[at].queues
            if queues is None or queue_name in queues:
                self._beds.pop(at).wake()
                return

    def wake_by(self, due: float) -> None:
        """See to it that somebody is up when a job is due; *due* by the backend's clock."""
        if self._beds and all(bed.until > due for bed in self._beds):
            self._beds.pop().wake()

    def wake_all(self) -> None:
        """Wake every thread that sleeps."""
        while self._beds:
            self._beds.pop().wake()
