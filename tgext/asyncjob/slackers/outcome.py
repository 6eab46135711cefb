"""What comes of a chain or a process: a future that can be awaited, and who is told of it.

Whoever is told inside a running event loop is told on that loop, else in the thread where the
work ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from typing import Any

from ..executors.awaiting import running_loop

log = logging.getLogger(__name__)


class Fetched(Future[Any]):
    """A future that can also be awaited, and yielded under Tornado.

    A failure that nobody ever asks for is logged when the future is forgotten.
    ``cancel()`` hands the wish on to the worker; what it cannot stop runs on unheard.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked = False

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.wrap_future(self).__await__()

    def result(self, timeout: float | None = None) -> Any:
        """Return what came of it, or raise what was raised; TimeoutError after *timeout* s."""
        self._asked = True
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what was raised, None for nothing; TimeoutError after *timeout* seconds."""
        self._asked = True
        return super().exception(timeout)

    def settle(self, value: Any, error: BaseException | None) -> None:
        """End with a value or an error, unless it was cancelled meanwhile."""
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
            report(super().exception())


def report(error: BaseException | None) -> None:
    """Log a failure that nobody will hear of."""
    if error is not None:
        log.error("a chain failed, and nobody asked for its outcome", exc_info=error)


def fetched(work: Future[Any]) -> Fetched:
    """Return a Fetched of what a worker is doing."""
    outcome = Fetched()

    def settle(done: Future[Any]) -> None:
        outcome.settle(*value_and_error(done))

    def cancel(settled: Future[Any]) -> None:
        if settled.cancelled():
            work.cancel()

    work.add_done_callback(settle)
    outcome.add_done_callback(cancel)
    return outcome


def value_and_error(done: Future[Any]) -> tuple[Any, BaseException | None]:
    """Return what a future that is done has come to; that it was cancelled is an error."""
    if done.cancelled():
        return None, CancelledError()
    error = done.exception()
    return (None, error) if error is not None else (done.result(), None)


def tell(work: Future[Any], callback: Callable[[Any], Any] | None) -> None:
    """Call back with the result, or with the exception as a value; None: only log a failure."""
    in_its_place = caller_of(running_loop())

    def ended(done: Future[Any]) -> None:
        value, error = value_and_error(done)
        if callback is not None:
            in_its_place(callback, value if error is None else error)
        elif not done.cancelled():
            report(error)

    work.add_done_callback(ended)


def caller_of(loop: asyncio.AbstractEventLoop | None) -> Callable[..., Any]:
    """Return what calls a function on *loop*; None: at once, in whatever thread."""
    if loop is not None:
        return loop.call_soon_threadsafe
    return lambda function, *args: function(*args)
