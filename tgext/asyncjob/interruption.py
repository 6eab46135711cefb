"""Stop a function that runs in a thread, from outside.

Three may want to end what runs: its own thread, a watch (a timeout) and a drain. The phase,
changed only under the lock, says who may: until the function has returned, anybody, by
``interrupt``, then ``abandon``; from then on only its own thread.

An interruption can hit any line, so one that holds a lock of ours would hold it for ever: what
the function calls of this package runs under a ``shield``, and is interrupted at its end. The
locks that everybody shares (of logging, of ``threading.Condition``) are taken in Python and would
be held for ever too: what is just taking one is left alone until it is through.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import CoroutineType, GeneratorType
from typing import Any

from .call import check_done
from .errors import BadCall
from .job import is_ours

#: How often an interruption tries to find a function outside such code, and seconds between two.
LOOKS, LOOK_SECONDS = 50, 0.001

#: Seconds between two looks whether to go on waiting for a future.
FUTURE_SECONDS = 0.1

#: Functions of ``threading`` in which a lock is being taken or let go.
_LOCKING = frozenset({"__enter__", "__exit__", "acquire", "release", "_acquire_restore"})

_WAITING, _RUNNING, _RETURNED, _ABANDONED = range(4)


class Abandoned(BaseException):
    """Raised in a function's own thread when the world goes on without it."""


class Interruptible:
    """Runs a function so that another thread can stop it."""

    __slots__ = ("_interruption", "_lock", "_phase", "_sent", "_shields", "_wake",
                 "thread")  # fmt: skip

    def __init__(self) -> None:
        self.thread = 0  #: the identifier of the thread that runs it, 0 before
        self._lock = threading.RLock()
        self._phase = _WAITING
        self._shields = 0
        self._interruption: type[BaseException] | None = None
        self._sent = False  #: whether it is on its way, or will be raised by a shield
        #: ends what its thread waits for, where that is a coroutine or a future
        self._wake: Callable[[], Any] | None = None

    @property
    def has_returned(self) -> bool:
        """Whether it has, so that nobody else can end it."""
        return self._phase == _RETURNED

    def run(self, function: Callable[[], Any]) -> Any:
        """Return what *function* returns.

        Raises what it raises; the interruption, also where it was swallowed; Abandoned.
        May be run again after it has ended, by the same thread.
        """
        self.thread = threading.get_ident()
        try:
            try:
                self._phase = _RUNNING
                value = function()
            finally:
                self._leave()
        except BaseException as error:
            self._leave()  # the interruption may have hit the first one
            interruption = self._interruption
            if self._phase == _ABANDONED:
                raise Abandoned from None
            if interruption is not None and not isinstance(error, interruption):
                # A CancelledError, or what the function made of it: show where it was.
                raise interruption().with_traceback(error.__traceback__) from None
            raise
        if self._phase != _RETURNED or self._interruption is not None:
            self.check()
        return value

    def settle(self, value: Any, look: Callable[[], None]) -> Any:
        """Return what *value* comes to, for the function itself, where it stands for work that has
        not begun or goes on: what can be awaited, or a future.

        What is awaited runs on a loop of its own, one that an interruption can wake. look: see
        ``wait_for``. Raises what that work raises, BadCall for work that nobody would do.
        """
        while True:
            kind = type(value)  # not isinstance: a proxy may answer for another object
            if issubclass(kind, Future):
                value = self.wait_for(value, look)
            elif issubclass(kind, asyncio.Future):
                value = self.wait_for(_beyond(value), look)
            elif kind is CoroutineType or hasattr(kind, "__await__") or _is_awaited(value):
                value = asyncio.run(self._await(value))
            else:
                check_done(value)
                return value

    def wait_for(self, future: Future[Any], look: Callable[[], None]) -> Any:
        """Return the result of *future*, for the function itself, or raise what it raised.

        look: called now and then, and raises what is to end the wait. However that ends, the
        future is cancelled if it still can be.
        """
        ended = threading.Event()
        with self._lock:
            self._wake = ended.set
        try:
            future.add_done_callback(lambda _: ended.set())
            while not ended.wait(FUTURE_SECONDS):
                look()
            self.check()
            return future.result()
        finally:
            with self._lock:
                self._wake = None
            future.cancel()

    def check(self) -> None:
        """Raise what is to end the function, if anything is; for its own thread."""
        if self._phase == _ABANDONED:
            raise Abandoned
        if self._interruption is not None:
            self._sent = True
            raise self._interruption

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise *error* in the function at its next bytecode; once, while it runs.

        Later, if it is just taking a lock: then it may be asked for again.
        """
        for _ in range(LOOKS):
            with self._lock:
                if self._phase != _RUNNING or self._sent:
                    return
                self._interruption = self._interruption or error
                if self._wake is not None:
                    self._wake()
                    self._sent = True
                elif self._shields:
                    self._sent = True
                elif not _is_locking(self.thread):
                    _raise_in(self.thread, self._interruption)
                    self._sent = True
                if self._sent:
                    return
            time.sleep(LOOK_SECONDS)

    def check_unsent(self) -> None:
        """Raise the interruption that found no good moment; for its own thread, in one."""
        if self._interruption is not None and not self._sent and not self._shields:
            self.check()

    def abandon(self) -> bool:
        """Go on without it, whatever its thread does; False if it is too late: it returned."""
        with self._lock:
            if self._phase != _RUNNING:
                return False
            self._phase = _ABANDONED
            return True

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Let no interruption hit the block; raise it at the end instead."""
        with self._lock:
            self._shields += 1
        try:
            yield
        finally:
            with self._lock:
                self._shields -= 1
        self.check()

    def _leave(self) -> None:
        """No interruption from here on; one that was sent and has not arrived is taken back."""
        with self._lock:
            if self._phase == _RUNNING:
                self._phase = _RETURNED
            if self._interruption is not None:
                _raise_in(self.thread, None)

    async def _await(self, awaitable: Awaitable[Any]) -> Any:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(awaitable)
        with self._lock:
            self._wake = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            return await task
        finally:
            with self._lock:
                self._wake = None


def _is_awaited(value: object) -> bool:
    """Whether it is a generator that ``types.coroutine`` has made one to be awaited."""
    code = value.gi_code if type(value) is GeneratorType else None
    return code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def _beyond(future: asyncio.Future[Any]) -> Future[Any]:
    """Return a future of this thread's for one of an event loop's, which runs in another.

    Raises BadCall for one that would never be done: its loop does not run, or is this thread's.
    """
    loop = future.get_loop()
    if future.done():
        ended: Future[Any] = Future()
        if future.cancelled():
            ended.cancel()
        elif (error := future.exception()) is not None:
            ended.set_exception(error)
        else:
            ended.set_result(future.result())
        return ended
    if not loop.is_running() or asyncio._get_running_loop() is loop:
        raise BadCall(
            f"expected a function that has done its work when it returns, got {future!r}, whose "
            "event loop does not run in another thread; enqueue an `async def` function that "
            "awaits it"
        )
    return asyncio.run_coroutine_threadsafe(_result_of(future), loop)


async def _result_of(future: asyncio.Future[Any]) -> Any:
    return await future


def _is_locking(thread: int) -> bool:
    """Whether a thread is inside code that takes a lock which others need, too.

    Nothing runs in that thread meanwhile: the caller has just got the interpreter.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None and frame.f_code is not Interruptible.run.__code__:
        module = frame.f_globals.get("__name__")
        if module == "logging" or (module == "threading" and frame.f_code.co_name in _LOCKING):
            return True
        frame = frame.f_back
    return False


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise *error* in a thread at its next bytecode; None takes back what has not arrived."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )


def stack_of(thread: int) -> str:
    """Where a thread is, from the first frame below this package's."""
    frames = []
    frame = sys._current_frames().get(thread)
    while frame is not None and not is_ours(frame):
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return "".join(traceback.StackSummary.extract(reversed(frames)).format())
