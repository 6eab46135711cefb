"""Make calls on the event loop of a thread, which may run already or be started later.

A program may begin a ``@process`` and start its event loop afterwards. So the loop is found when
the process begins, and calls wait until it runs. No call waits for ever: a thread that asks for a
result runs the loop until then, and a loop that is not started within START_SECONDS is not used.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from .running_loop import running_loop

log = logging.getLogger(__name__)

#: Seconds that a call waits for its event loop to be started: longer than a program takes from its
#: first process to its loop, and too short for a program to seem to hang.
START_SECONDS = 5.0

#: The loop that this module has set for the main thread.
_made: asyncio.AbstractEventLoop | None = None


def loop_of_thread() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, else the one that is set for it.

    Returns None if there is neither. In the main thread of a program that uses Tornado a loop is
    set then, as ``IOLoop.current()`` does, which returns the same loop afterwards.
    """
    loop = running_loop() or _loop_that_is_set()
    if loop is not None and not loop.is_closed():
        return loop
    if not uses_tornado() or threading.current_thread() is not threading.main_thread():
        return None
    return _make_loop()


def _make_loop() -> asyncio.AbstractEventLoop:
    """Set a loop for the main thread: always the same one, also after asyncio.run() unset it."""
    global _made
    if _made is None or _made.is_closed():
        _made = asyncio.new_event_loop()
        atexit.register(_close, _made)
    asyncio.set_event_loop(_made)
    return _made


def _close(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_running():
        loop.close()


def uses_tornado() -> bool:
    """Return whether the program has imported Tornado's loop: it then probably runs it."""
    return "tornado.ioloop" in sys.modules


def _loop_that_is_set() -> asyncio.AbstractEventLoop | None:
    if sys.version_info >= (3, 14):
        with contextlib.suppress(RuntimeError):
            return asyncio.get_event_loop()
        return None
    # get_event_loop() would make a loop if there is none, or warn.
    local = getattr(asyncio.get_event_loop_policy(), "_local", None)
    return getattr(local, "_loop", None)


class LoopCalls:
    """Makes calls, one at a time, on the event loop of the thread that makes this object.

    If there is no loop, or it was closed or not started in time, a call is made at once, in the
    calling thread; the same in the loop's own thread, as long as the loop does not run.
    """

    def __init__(self) -> None:
        self.loop = loop_of_thread()
        self._thread = threading.get_ident()
        self._pending: _Once | None = None

    @property
    def is_here(self) -> bool:
        """Whether the calling thread made this object."""
        return self._thread == threading.get_ident()

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call *function* on the loop; from any thread."""
        loop = self.loop
        is_running = loop is not None and loop.is_running()
        if loop is None or not (is_running or not self.is_here):
            function(*args)
            return
        self._pending = pending = _Once(partial(function, *args))
        if not is_running:
            pending.expire_after(START_SECONDS, partial(self._give_up, pending))
        try:
            loop.call_soon_threadsafe(pending)
        except RuntimeError:  # it was closed
            self.loop = None
            pending()

    def _give_up(self, pending: _Once) -> None:
        log.debug("an event loop was not started within %g s", START_SECONDS)
        self.loop = None
        pending()

    def move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use *loop*, which runs in this thread, if the present loop does not run."""
        if self.loop is None or self.loop.is_running() or not self.is_here:
            return
        self.loop = loop
        if self._pending is not None:
            loop.call_soon(self._pending)

    def run_until_done(self, future: Future[Any], timeout: float | None) -> None:
        """Run the loop until *future* is done, at most *timeout* seconds; None: no limit.

        Does nothing in another thread than the loop's own, and if a loop runs in this thread.
        """
        loop = self.loop
        if future.done() or loop is None or not self.is_here:
            return
        if loop.is_running() or loop.is_closed() or running_loop() is not None:
            return
        until = None if timeout is None else time.monotonic() + timeout
        stop = _Once(loop.stop)
        future.add_done_callback(partial(_call_soon, loop, stop))
        while not future.done():  # a callback on the loop may have stopped it
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            timer = None if left is None else loop.call_later(left, loop.stop)
            loop.run_forever()
            if timer is not None:
                timer.cancel()
        stop.forget()  # a later end must not stop a loop that the program runs by then


class _Once:
    """A call that may be triggered several times, and is made the first time only."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = [function]
        self._timer: threading.Timer | None = None

    def expire_after(self, seconds: float, otherwise: Callable[[], object]) -> None:
        """Call *otherwise* if this was not called within *seconds*."""
        self._timer = threading.Timer(seconds, otherwise)
        self._timer.name = "asyncjob-loop-start"
        self._timer.daemon = True
        self._timer.start()

    def __call__(self) -> None:
        try:
            function = self._function.pop()
        except IndexError:
            return
        if self._timer is not None:
            self._timer.cancel()
        function()

    def forget(self) -> None:
        """Do not make the call any more."""
        self._function.clear()


def _call_soon(loop: asyncio.AbstractEventLoop, call: _Once, _done: Future[Any]) -> None:
    with contextlib.suppress(RuntimeError):  # it was closed
        loop.call_soon_threadsafe(call)
