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
    """A mutex that never makes a thread wait for anything but the thread that holds it.

    A thread that blocks on a ``threading.Lock`` is given it by the kernel, before it has the
    interpreter lock; the thread that has that needs the lock again a moment later and must hand
    over the interpreter first: from then on every job costs two context switches or more. This
    lock convoy makes four workers slower than one; ``benchmarks/memory.py`` shows both. A
    thread that waits until it is free, and takes it then, hardly ever starts one. The holder must
    not wait for anything.

    Used as ``with lock():``. The ``with`` is given the interpreter's own lock because only that is
    taken and held in one step: between a Python ``acquire`` and the ``try`` after it a signal's
    handler may raise (Ctrl-C, a server's SIGABRT), and it would never be released.

    The garbage collector and signal handlers run anywhere, also in the thread that holds it, and
    what they run may come back here: the lock is not reentrant, since what it guards may be half
    changed. ``is_mine()`` tells such a caller: it reads without it (``unless_mine()``), or appends
    its change to ``deferred``. Every method that takes the lock is ``@running_deferred``, or calls
    ``run_deferred()`` after its release.

    module: the name of the one whose functions take it.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._is_held = self._lock.locked
        #: changes that are made with the lock held, once it is free
        self.deferred: deque[Callable[[], object]] = deque()

    def __call__(self) -> threading.Lock:
        """Return the lock, free a moment ago, if need be after letting its holder run."""
        while self._is_held():
            time.sleep(0)
        return self._lock

    def is_mine(self) -> bool:
        """Whether this thread may hold it; asked by a function of the module.

        True also where the thread is in such a function and another one holds the lock: that one
        then makes the deferred changes.
        """
        return self._is_held() and self._is_inside(sys._getframe(1).f_back)

    def unless_mine(self) -> AbstractContextManager[Any]:
        """Return what a reader enters: the lock, or nothing where this thread may hold it."""
        if self._is_held() and self._is_inside(sys._getframe(1).f_back):
            return _NOTHING_TO_TAKE
        return self()

    def run_deferred(self) -> None:
        """Make the deferred changes, unless this thread may hold the lock still."""
        while self.deferred and not (self._is_held() and self._is_inside(sys._getframe(1).f_back)):
            with self():
                while self.deferred:
                    self.deferred.popleft()()

    def _is_inside(self, frame: FrameType | None) -> bool:
        """Whether a frame, or what called it, takes the lock."""
        while frame is not None:
            if frame.f_globals.get("__name__") == self._module or frame.f_code is _RUNNING_DEFERRED:
                return True
            frame = frame.f_back
        return False


_RUNNING_DEFERRED = SpinLock.run_deferred.__code__


def running_deferred(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a method of what has a ``_lock`` make changes that were deferred while it held that."""

    @functools.wraps(method)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return method(*args, **kwargs)
        finally:
            lock: SpinLock = args[0]._lock  # type: ignore[attr-defined]
            if lock.deferred:
                lock.run_deferred()

    return call
