"""A lock that is held for microseconds by threads that share an interpreter lock."""

from __future__ import annotations

import threading
import time


class BriefLock:
    """A mutex that never makes a thread wait for anything but the thread that holds it.

    A thread that blocks on a ``threading.Lock`` is given it by the kernel, before it has the
    interpreter lock; the thread that has that needs the lock again a moment later and must hand
    over the interpreter first: from then on every job costs two context switches or more. This
    lock convoy made four workers five times slower than one (``benchmarks/memory.py``). Whoever
    takes the lock only while it runs cannot start one. The lock is not reentrant, and whoever
    holds it must not wait for anything.
    """

    def __init__(self) -> None:
        lock = threading.Lock()
        self.try_acquire = lock.acquire
        self.release = lock.release

    def acquire(self) -> None:
        """Take the lock, if need be after letting its holder run."""
        while not self.try_acquire(False):
            time.sleep(0)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_error: object) -> None:
        self.release()
