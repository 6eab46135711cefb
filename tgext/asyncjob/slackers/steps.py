"""Run a generator that yields what it waits for: one future, or several at once.

    yield -> futures -> [each is done] -> send or throw -> the next yield, or the end

The first step runs in the calling thread. If that thread has an event loop, running or to be
started, every further step runs on it; else in the thread where the awaited work ended.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, ParamSpec

from ..call import check_done
from ..executors.loops import LoopCalls
from ..executors.running_loop import settled
from .outcome import Fetched, value_and_error
from .postponed import Postponed

Arguments = ParamSpec("Arguments")


def process(function: Callable[Arguments, Any]) -> Callable[Arguments, Fetched]:
    """Decorate a generator function: a call starts the generator and returns a Fetched.

    The generator may yield a Postponed, a future, another process, and, with an event loop, any
    awaitable; or a list, tuple or dict of these, which run in parallel: the ``yield`` returns the
    same kind with the results once all have ended, for another iterable a list. What one of them
    raises, or what starting it raises, is raised at the ``yield``.
    """

    @functools.wraps(function)
    def begin(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Fetched:
        made = function(*args, **kwargs)
        if isinstance(made, Generator):
            return _Process(made).begin()
        if isinstance(made, Coroutine):  # of an ``async def``
            return _Process(_waiting_for(made)).begin()
        check_done(made)
        outcome = Fetched()
        outcome.set_result(made)
        return outcome

    return begin


class _Process:
    """One run of a generator; only one thread at a time runs a step."""

    def __init__(self, steps: Generator[Any, Any, Any]) -> None:
        self._steps = steps
        self._calls = LoopCalls()
        self._context = copy_context()
        self._outcome = Fetched(self._calls)
        self._parts: list[Future[Any]] = []
        self._shape: Callable[[list[Any]], Any] = _nothing

    def begin(self) -> Fetched:
        outcome = self._outcome  # the end of the process may drop the reference
        self._take_steps()
        return outcome

    def _take_steps(self) -> None:
        """Run steps until one has to wait."""
        while True:
            waited_for = next((part for part in self._parts if not part.done()), None)
            if waited_for is not None:
                Future.add_done_callback(waited_for, self._wake)  # which finds the loop itself
                return
            try:
                yielded = self._context.run(self._step)
                self._parts, self._shape = self._context.run(self._futures_of, yielded)
            except StopIteration as end:
                return self._outcome.settle(end.value, None)
            except BaseException as error:
                self._outcome.settle(None, error)
                if self._ends_program(error):
                    raise
                return None

    def _ends_program(self, error: BaseException) -> bool:
        """Whether to raise *error*, which ends the program; not in a thread of a worker."""
        return self._calls.is_here and isinstance(error, (KeyboardInterrupt, SystemExit))

    def _wake(self, _done: Future[Any]) -> None:
        self._calls.call(self._take_steps)

    def _step(self) -> Any:
        ended = [value_and_error(part) for part in self._parts]
        if self._outcome.cancelled():
            self._steps.close()
            raise asyncio.CancelledError
        error = next((error for _, error in ended if error is not None), None)
        if error is not None:
            return self._steps.throw(error)
        return self._steps.send(self._shape([value for value, _ in ended]))

    def _futures_of(self, yielded: Any) -> tuple[list[Future[Any]], Callable[[list[Any]], Any]]:
        """Start what was yielded. Raises nothing: what cannot be started is a failed future."""
        if isinstance(yielded, dict):
            names = list(yielded)
            parts = [self._future_of(part) for part in yielded.values()]
            return parts, lambda values: dict(zip(names, values, strict=True))
        if isinstance(yielded, Iterable) and not isinstance(yielded, (Awaitable, str, bytes)):
            try:
                several = list(yielded)
            except BaseException as error:  # noqa: BLE001 - the iterable's, raised at the yield
                return [_failed(error)], _only
            return [self._future_of(part) for part in several], _kind_of(yielded)
        return [self._future_of(yielded)], _only

    def _future_of(self, part: Any) -> Future[Any]:
        try:
            if isinstance(part, Postponed):
                return part.fetch()
            if isinstance(part, Future):
                return part
            if isinstance(part, Awaitable) and self._calls.loop is not None:
                return asyncio.run_coroutine_threadsafe(settled(part), self._calls.loop)
        except BaseException as error:  # noqa: BLE001 - raised at the yield
            return _failed(error)
        if isinstance(part, Coroutine):
            part.close()  # else Python warns that it was never awaited
        return _failed(
            TypeError(
                f"expected a Postponed, a future, or several in a list, tuple or dict, got "
                f"{type(part).__name__!r} yielded; what is awaitable needs an event loop"
            )
        )


def _failed(error: BaseException) -> Future[Any]:
    failed: Future[Any] = Future()
    failed.set_exception(error)
    return failed


def _waiting_for(part: Awaitable[Any]) -> Generator[Any, Any, Any]:
    return (yield part)


def _nothing(_values: list[Any]) -> None:
    return None


def _only(values: list[Any]) -> Any:
    return values[0]


def _kind_of(several: Iterable[Any]) -> Callable[[list[Any]], Any]:
    """Return a function that turns a list into a tuple, if *several* is one, else a list."""
    if not isinstance(several, tuple):
        return list
    return getattr(several, "_make", tuple)  # of a named tuple
