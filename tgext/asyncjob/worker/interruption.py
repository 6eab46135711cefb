"""Stop a function that runs in a thread, from another thread.

Three threads may end the function: its own, the timeout monitor, and one that drains. The phase,
which changes only under the lock, decides which one: until the function has returned, each of them,
by ``interrupt``, then ``abandon``; after that only its own thread.

An interruption can hit any line, and a lock held there would never be released. So the functions of
this package that a job calls run under a ``shield``, and are interrupted at its end. Other code
that must not be interrupted is listed in ``safe_points.py``: the interruption waits until it has
returned.

The first interruption may be caught, to clean up. If the function then goes on, it is followed by
others, which ``except Exception`` does not catch: see ``insist``.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..call import check_done
from .awaited import AbandonableLoop, as_thread_future, is_awaitable
from .safe_points import discard_pending, is_safe_at, raise_if_safe, raise_in

#: How often an interruption looks whether a function has left such code, and seconds between looks.
LOOKS, LOOK_SECONDS = 10, 0.001

#: Seconds in which a function may clean up after an interruption, before it is interrupted again;
#: doubled each time, up to the second number.
INSIST_SECONDS = (1.0, 10.0)

#: Once this pause between two interruptions is exceeded, a coroutine whose loop was stopped is
#: interrupted like a function: it does not await anything.
RAISE_SECONDS = 2 * INSIST_SECONDS[0]

#: Seconds between two checks whether to go on waiting for a future.
FUTURE_SECONDS = 0.1

_WAITING, _RUNNING, _RETURNED, _ABANDONED = range(4)

#: The class of such locks. ``threading.RLock`` is a function that takes longer than the lock.
_RLock = type(threading.RLock())


class WorkerStopping(BaseException):
    """Raised in a job whose worker stops; ``except Exception`` in a job does not catch it."""


class LeaseLost(BaseException):
    """Raised in an attempt that no longer holds its job; nothing of it may be committed."""


class Abandoned(BaseException):
    """Raised in a function's own thread when it was abandoned, or has caught its interruption and
    gone on."""


class Relentless(Abandoned):
    """Raised in a function that has caught its interruption. It is raised again at each line that
    the thread then runs, also in the handlers of a bare ``except`` and in loops around them."""

    def __init__(self) -> None:
        # The interpreter makes the instance in the interrupted thread, when it enters a handler.
        super().__init__()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not Interruptible.run.__code__:
            frame.f_trace = _raise_at_each_line
            frame = frame.f_back
        if frame is not None:
            sys.settrace(_raise_at_each_line)


def _raise_at_each_line(frame: FrameType, event: str, _argument: object) -> Any:
    """A trace function that interrupts its own thread. It raises nothing itself, since the
    interpreter would then stop tracing."""
    if event == "line" and is_safe_at(frame, Interruptible.run.__code__, _OWN_END):
        raise_in(threading.get_ident(), Abandoned)
    return _raise_at_each_line


class Interruptible:
    """Runs a function so that another thread can stop it."""

    __slots__ = (
        "_first", "_guard", "_has_raised", "_insist_at", "_insist_seconds", "_interruption",
        "_is_inside", "_lock", "_phase", "_sent", "_shields", "_wake", "thread",
    )  # fmt: skip

    def __init__(self) -> None:
        self.thread = 0  #: identifier of the thread that runs the function; 0: none yet
        self._lock = _RLock()
        self._guard = _RLock()  # held by ``while_inside``
        self._phase = _WAITING
        #: the thread that runs ``first`` of ``interrupt`` or ``kill`` of ``insist``, also when it
        #: has ended
        self._first: threading.Thread | None = None
        self._is_inside = False  # whether its thread is in the function, in any phase
        self._has_raised = False  # whether it asked the interpreter to raise anything
        self._insist_at, self._insist_seconds = 0.0, INSIST_SECONDS[0]
        self._shields = 0
        self._interruption: type[BaseException] | None = None
        self._sent = False  #: whether it was raised, or will be at the end of a shield
        #: ends the wait of its thread for a coroutine or a future
        self._wake: Callable[[], Any] | None = None

    def run(self, function: Callable[[], Any]) -> Any:
        """Return what *function* returns.

        Raises what it raises; the interruption, also if *function* has caught it; Abandoned.
        May be called again after it has ended, by the same thread.
        """
        self.thread = threading.get_ident()
        try:
            try:
                self._phase = _RUNNING
                self._is_inside = True
                value = function()
            finally:
                self._end_run()
        except BaseException as error:
            self._end_run()  # the interruption may have hit the first one
            interruption = self._interruption
            if self._phase == _ABANDONED:
                raise Abandoned from None
            if interruption is not None and not isinstance(error, interruption):
                # A CancelledError, or another exception raised in its place: keep its traceback.
                raise interruption().with_traceback(error.__traceback__) from None
            raise
        if self._phase != _RETURNED or self._interruption is not None:
            self.check()
        return value

    def resolve(self, value: Any, look: Callable[[], None]) -> Any:
        """Return the result of *value* if it is an awaitable or a future, else *value*; for the
        function itself.

        An awaitable runs on an event loop of its own, which an interruption can wake. look: see
        ``wait_for``. Raises what that work raises, and BadCall for work that would never be done.
        """
        while True:
            kind = type(value)  # not isinstance: a proxy may answer for another object
            if issubclass(kind, Future):
                value = self.wait_for(value, look)
            elif issubclass(kind, asyncio.Future):
                value = self.wait_for(as_thread_future(value), look)
            elif is_awaitable(value):
                value = self._run(value)
            else:
                check_done(value)
                return value

    def wait_for(self, future: Future[Any], look: Callable[[], None]) -> Any:
        """Return the result of *future*, or raise what it raised; for the function itself.

        look: called every FUTURE_SECONDS; raises what is to end the wait. However the wait ends,
        the future is cancelled if it still can be.
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

    def _run(self, awaitable: Awaitable[Any]) -> Any:
        def ready(wake: Callable[[], None]) -> None:
            with self._lock:
                self._wake = wake

        try:
            return AbandonableLoop().run(awaitable, ready)
        finally:
            with self._lock:
                self._wake = None

    def check(self) -> None:
        """Raise Abandoned or the interruption, if there is one; for its own thread."""
        if self._phase == _ABANDONED:
            raise Abandoned
        if self._interruption is not None:
            self._sent = True
            self._insist_at = time.monotonic() + self._insist_seconds
            raise self._interruption

    def interrupt(
        self, error: type[BaseException], first: Callable[[], object] | tuple[()] = ()
    ) -> None:
        """Raise *error* in the function at its next bytecode, once, while it runs.

        If that is no safe point, it is tried again for LOOKS * LOOK_SECONDS; call it again if the
        function still runs then. first: called before, in a thread of its own, since it may take
        long; (): nothing.
        """
        with self._lock:
            if self._phase != _RUNNING:
                return
            self._interruption = self._interruption or error
        if self._sent:
            return
        if first and self._first is None:
            self._start(self._send_after, first)
        elif self._first is None or not self._first.is_alive():
            self._send()

    def _start(self, act: Callable[[Any], object], argument: object) -> None:
        self._first = threading.Thread(
            target=act, args=(argument,), name="asyncjob-interrupt", daemon=True
        )
        self._first.start()

    def _send_after(self, first: Callable[[], object]) -> None:
        try:
            self.while_inside(first)
        finally:
            self._send()

    def _send(self) -> None:
        for _ in range(LOOKS):
            with self._lock:
                if self._phase != _RUNNING or self._sent or self._interruption is None:
                    return
                if self._wake is not None:
                    self._wake()
                    self._sent = True
                elif self._shields:
                    self._sent = True
                else:
                    self._sent = self._raise_if_safe(self._interruption)
                if self._sent:
                    self._insist_at = time.monotonic() + self._insist_seconds
                    return
            time.sleep(LOOK_SECONDS)

    def insist(self, kill: Callable[[], object] | tuple[()] = ()) -> None:
        """Raise Relentless in a function that has caught its interruption, if it is time for that.
        Only a bare ``except`` catches it.

        kill: ends what the thread of an abandoned function waits for; called in another thread,
        since it may take long; (): nothing. Whether it had an effect is not known, so it is called
        each time.
        """
        with self._lock:
            now = time.monotonic()
            is_due = self._sent or self._phase == _ABANDONED
            if self._is_inside and is_due and now >= self._insist_at and not self._shields:
                is_raised = self._wake is None or self._insist_seconds > RAISE_SECONDS
                if is_raised and not self._raise_if_safe(Relentless):
                    return  # tried again at the next call
                if self._wake is not None:
                    self._wake()
                self._insist_seconds = min(2 * self._insist_seconds, INSIST_SECONDS[1])
                self._insist_at = now + self._insist_seconds
                is_busy = self._first is not None and self._first.is_alive()
                if kill and self._phase == _ABANDONED and not is_busy:
                    self._start(self.while_inside, kill)

    def _raise_if_safe(self, error: type[BaseException]) -> bool:
        is_raised = raise_if_safe(self.thread, error, Interruptible.run.__code__, _OWN_END)
        self._has_raised = self._has_raised or is_raised
        return is_raised

    def while_inside(self, act: Callable[[], object]) -> None:
        """Call *act*, which uses what the function works with, from another thread.

        Not if the function has ended. Its thread does not leave it until *act* has returned.
        """
        with self._guard:
            if self._is_inside:
                act()

    def raise_unsent(self) -> None:
        """Raise an interruption that has found no safe point, and Abandoned in a function that was
        given up and goes on; for its own thread, at such a point."""
        is_unsent = self._interruption is not None and not self._sent
        if (is_unsent or self._phase == _ABANDONED) and not self._shields:
            self.check()

    def abandon(self) -> bool:
        """Give the function up, whatever its thread does; False if it has returned already."""
        with self._lock:
            if self._phase != _RUNNING:
                return False
            self._phase = _ABANDONED
            self._insist_at = time.monotonic() + self._insist_seconds
            return True

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Delay interruptions until the end of the block, where they are raised."""
        with self._lock:
            self._shields += 1
        try:
            yield
        finally:
            with self._lock:
                self._shields -= 1
        self.check()

    def _end_run(self) -> None:
        """End the run: nothing is raised from here on, and what is pending is discarded."""
        with self._guard, self._lock:
            self._is_inside = False
            if self._phase == _RUNNING:
                self._phase = _RETURNED
            if sys.gettrace() is _raise_at_each_line:
                sys.settrace(None)
            if self._has_raised:
                self._has_raised = False
                discard_pending()


#: No point in it is safe.
_OWN_END = Interruptible._end_run.__code__
