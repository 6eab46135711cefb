"""Run a generator that yields what it waits for, one thing or several at once.

    yield -> futures -> [each is done] -> send or throw -> the next yield, or the end

Where an event loop runs in the caller's thread, every step is taken there; else the first in the
caller's thread, and each further one where the work that it waited for ended.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, ParamSpec

from ..executors.awaiting import running_loop
from .outcome import Fetched, caller_of, value_and_error
from .postponed import Postponed

Arguments = ParamSpec("Arguments")


def process(function: Callable[Arguments, Any]) -> Callable[Arguments, Fetched]:
    """Make a function of a generator function: it begins at once and returns a future.

    What is yielded may be a Postponed, a future, another process, inside an event loop whatever
    can be awaited; or a list, tuple or dict of these, which are run in parallel, and come back as
    one of the same kind once all have ended. What one of them raised is raised at the ``yield``.
    """

    @functools.wraps(function)
    def begin(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Fetched:
        made = function(*args, **kwargs)
        if isinstance(made, Generator):
            return _Process(made).begin()
        outcome = Fetched()
        outcome.set_result(made)
        return outcome

    return begin


class _Process:
    """One run of a generator; only one thread at a time takes a step."""

    def __init__(self, steps: Generator[Any, Any, Any]) -> None:
        self._steps = steps
        self._loop = running_loop()
        self._call = caller_of(self._loop)
        self._context = copy_context()
        self._outcome = Fetched()
        self._parts: list[Future[Any]] = []
        self._shape: Callable[[list[Any]], Any] = _nothing

    def begin(self) -> Fetched:
        outcome = self._outcome  # whoever ends it lets go of it
        self._go()
        return outcome

    def _go(self) -> None:
        """Take steps until one has to wait."""
        while True:
            waited_for = next((part for part in self._parts if not part.done()), None)
            if waited_for is not None:
                waited_for.add_done_callback(self._wake)
                return
            try:
                yielded = self._context.run(self._step)
                self._parts, self._shape = self._futures_of(yielded)
            except StopIteration as end:
                return self._outcome.settle(end.value, None)
            except BaseException as error:  # noqa: BLE001 - it is in the future
                return self._outcome.settle(None, error)

    def _wake(self, _done: Future[Any]) -> None:
        self._call(self._go)

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
        if isinstance(yielded, dict):
            names = list(yielded)
            parts = [self._future_of(part) for part in yielded.values()]
            return parts, lambda values: dict(zip(names, values, strict=True))
        if isinstance(yielded, (list, tuple)):
            return [self._future_of(part) for part in yielded], type(yielded)
        return [self._future_of(yielded)], _only

    def _future_of(self, part: Any) -> Future[Any]:
        if isinstance(part, Postponed):
            return part.fetch()
        if isinstance(part, Future):
            return part
        if isinstance(part, Awaitable) and self._loop is not None:
            return asyncio.run_coroutine_threadsafe(_awaited(part), self._loop)
        failed = Fetched()
        failed.set_exception(
            TypeError(
                f"expected a Postponed, a future, or several in a list, tuple or dict, got "
                f"{type(part).__name__!r} yielded; what is awaitable needs a running event loop"
            )
        )
        return failed


async def _awaited(part: Awaitable[Any]) -> Any:
    return await part


def _nothing(_values: list[Any]) -> None:
    return None


def _only(values: list[Any]) -> Any:
    return values[0]
