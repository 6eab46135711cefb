"""A lock that is held for microseconds by threads that share an interpreter lock."""

from __future__ import annotations

import threading
import time


class BriefLock:
    """A mutex that never makes a thread wait for anything but the thread that holds it.

    A thread that blocks on a ``threading.Lock`` is given it by the kernel, before it has the
    interpreter lock; the thread that has that needs the lock again a moment later and must hand
    over the interpreter first: from then on every job costs two context switches or more. This
    lock convoy makes four workers slower than one; ``benchmarks/memory.py`` shows both. Whoever
    waits to see it free, and takes it then, hardly ever starts one. The lock is not reentrant, and
    whoever holds it must not wait for anything, nor let go of an object of the application's, whose
    ``__del__`` may come back here.

    Used as ``with lock():``. The ``with`` is given the interpreter's own lock because only that is
    taken and held in one step: between a Python ``acquire`` and the ``try`` after it a signal's
    handler may raise (Ctrl-C, a server's SIGABRT), and nobody would ever let go again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_held = self._lock.locked

    def __call__(self) -> threading.Lock:
        """Return the lock, free a moment ago, if need be after letting its holder run."""
        while self._is_held():
            time.sleep(0)
        return self._lock
