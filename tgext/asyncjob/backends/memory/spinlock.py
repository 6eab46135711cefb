"""A lock that is held for microseconds by threads that share an interpreter lock."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_NOTHING_TO_TAKE: AbstractContextManager[Any] = nullcontext()


class SpinLock:
    """A mutex for critical sections that do not wait for anything.

    A thread that blocks on a ``threading.Lock`` gets it from the kernel before it has the
    interpreter lock. The thread that has the interpreter lock needs the mutex again a moment later
    and must release the interpreter first. From then on each job costs two context switches or
    more. This lock convoy makes four workers slower than one; ``benchmarks/memory.py`` shows both.
    A thread that yields until the mutex is free, and acquires it then, hardly ever starts a convoy.

    Used as ``with lock.once_free():``. That returns a ``threading.Lock``, because only C code
    acquires a lock and enters the ``with`` block in one step. Between a Python ``acquire`` and the
    ``try`` after it a signal handler may raise (Ctrl-C, SIGABRT of a server), and nothing would
    release the lock.

    The garbage collector and signal handlers run anywhere, also in the thread that holds the lock,
    and may call the module again. The lock is not reentrant, since the guarded data may be half
    changed. If ``is_mine()``, such a caller reads without the lock (``unless_mine()``), or appends
    its change to ``deferred``. Each method that takes the lock is ``@running_deferred``, or calls
    ``run_deferred()`` after the release.

    modules: the names of the modules whose functions take the lock.
    """

    def __init__(self, *modules: str) -> None:
        self._modules = frozenset((*modules, __name__))
        self._lock = threading.Lock()
        #: whether any thread holds it
        self.is_held = self._lock.locked
        #: changes that are made with the lock held, once it is free
        self.deferred: deque[Callable[[], object]] = deque()

    def once_free(self) -> threading.Lock:
        """Return the lock once it is free; until then other threads run."""
        while self.is_held():
            time.sleep(0)
        return self._lock

    def is_mine(self) -> bool:
        """Whether this thread may hold the lock; called by a function of the modules.

        Also True if this thread is in such a function and another thread holds the lock. That
        thread then makes the deferred changes.
        """
        return self.is_held() and self._is_inside(sys._getframe(1))

    def unless_mine(self) -> AbstractContextManager[Any]:
        """Return a context manager for reading: the lock, or none if this thread may hold it."""
        if self.is_held() and self._is_inside(sys._getframe(1)):
            return _NOTHING_TO_TAKE
        return self.once_free()

    def run_deferred(self) -> None:
        """Make the deferred changes, unless this thread may still hold the lock."""
        while self.deferred and not (self.is_held() and self._is_inside(sys._getframe(1))):
            with self.once_free():
                while self.deferred:
                    self.deferred.popleft()()

    def _is_inside(self, frame: FrameType | None) -> bool:
        """Whether a caller of the function that asks may hold the lock. frame: of that function;
        those of the modules that call it, one right after the other, hold nothing yet."""
        while frame is not None and self._takes(frame):
            frame = frame.f_back
        while frame is not None:
            if self._takes(frame):
                return True
            frame = frame.f_back
        return False

    def _takes(self, frame: FrameType) -> bool:
        """Whether the function of a frame takes the lock, or is on the way to one that does."""
        return frame.f_globals.get("__name__") in self._modules


def running_deferred(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make the changes that were deferred while a method held the ``_lock`` of its object."""

    @functools.wraps(method)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return method(*args, **kwargs)
        finally:
            lock: SpinLock = args[0]._lock  # type: ignore[attr-defined]
            if lock.deferred:
                lock.run_deferred()

    return call
