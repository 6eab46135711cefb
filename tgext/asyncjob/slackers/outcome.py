"""The outcome of a chain or a process: a future that can be awaited, or a callback.

A callback is called on the event loop of the thread that gave it, see ``executors/loops.py``;
without a loop, in the thread where the work ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any

from ..executors.loops import LoopCalls
from ..executors.running_loop import running_loop

log = logging.getLogger(__name__)


class Fetched(Future[Any]):
    """A future that can also be awaited, and yielded under Tornado.

    An exception that is never asked for is logged when the future is garbage collected.
    ``cancel()`` cancels the work; work that cannot be cancelled goes on, and its result is dropped.

    calls: makes the calls that lead to its outcome; None: there are none.
    """

    def __init__(self, calls: LoopCalls | None = None) -> None:
        super().__init__()
        self._asked = False
        self._calls = calls

    def __await__(self) -> Generator[Any, None, Any]:
        if self._calls is not None:
            self._calls.move_to(asyncio.get_running_loop())
        return asyncio.wrap_future(self).__await__()

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call *fn* with this future once it is done: on the event loop that runs in this thread,
        where one does. Tornado's ``yield`` of several futures ends only there."""
        loop = running_loop()
        if loop is None or self.done():
            super().add_done_callback(fn)
        else:
            super().add_done_callback(partial(_call_on, loop, fn))

    def result(self, timeout: float | None = None) -> Any:
        """Return the result, or raise what was raised; TimeoutError after *timeout* seconds."""
        self._asked = True
        return super().result(self._left_of(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what was raised; None: nothing. Raises TimeoutError after *timeout* seconds."""
        self._asked = True
        return super().exception(self._left_of(timeout))

    def _left_of(self, timeout: float | None) -> float | None:
        """Make the calls that need this thread; return what is left of *timeout*."""
        if self._calls is None or self.done():
            return timeout
        began = time.monotonic()
        self._calls.run_until_done(self, timeout)
        return None if timeout is None else timeout - (time.monotonic() - began)

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Set the result, or the error if it is not None, unless the future was cancelled."""
        if isinstance(error, (CancelledError, asyncio.CancelledError)):
            self.cancel()
        if not self.set_running_or_notify_cancel():
            return
        if error is None:
            self.set_result(value)
        else:
            self.set_exception(error)

    def __del__(self) -> None:
        if self.done() and not self._asked and not self.cancelled():
            log_failure(super().exception())


def _call_on(
    loop: asyncio.AbstractEventLoop, call: Callable[[Future[Any]], object], done: Future[Any]
) -> None:
    if running_loop() is not loop:
        with suppress(RuntimeError):  # it was closed
            loop.call_soon_threadsafe(call, done)
            return
    call(done)


def log_failure(error: BaseException | None) -> None:
    """Log an error that is not reported in another way."""
    if error is not None:
        log.error("a chain failed, and its outcome was not asked for", exc_info=error)


def fetched(work: Future[Any]) -> Fetched:
    """Return a Fetched of the future of a worker."""
    outcome = Fetched()

    def settle(done: Future[Any]) -> None:
        outcome.settle(*value_and_error(done))

    def cancel(settled: Future[Any]) -> None:
        if settled.cancelled():
            work.cancel()

    work.add_done_callback(settle)
    Future.add_done_callback(outcome, cancel)
    return outcome


def value_and_error(done: Future[Any]) -> tuple[Any, BaseException | None]:
    """Return result and error of a future that is done; if cancelled, a CancelledError."""
    if done.cancelled():
        return None, CancelledError()
    error = done.exception()
    return (None, error) if error is not None else (done.result(), None)


def call_back(work: Future[Any], callback: Callable[[Any], Any] | None) -> None:
    """Call *callback* with the result, or with the exception; None: only log an exception."""
    calls = LoopCalls()

    def ended(done: Future[Any]) -> None:
        value, error = value_and_error(done)
        if callback is not None:
            calls.call(callback, value if error is None else error)
        elif not done.cancelled():
            log_failure(error)

    work.add_done_callback(ended)
