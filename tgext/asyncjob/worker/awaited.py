"""Wait for a call that returned a coroutine, or a future of another thread's event loop.

A coroutine runs on an event loop of its own. Another thread can end that loop, even if the
coroutine ignores its cancellation.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from types import CoroutineType, GeneratorType
from typing import Any

from ..errors import BadCall

#: How often a coroutine is cancelled before its loop is stopped with all that runs on it.
MAX_CANCELS = 2


class AbandonableLoop:
    """Runs one awaitable on an event loop, until it is done or the loop is stopped."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Future[Any] | None = None
        self._cancels = 0

    def run(self, awaitable: Awaitable[Any], ready: Callable[[Callable[[], None]], None]) -> Any:
        """Return the result of *awaitable*.

        ready: called with ``wake`` before it begins. Raises what *awaitable* raises, and
        RuntimeError if the loop was stopped before it was done.
        """
        return asyncio.run(self._await(awaitable, ready))

    def wake(self) -> None:
        """Cancel what is awaited; after MAX_CANCELS calls, stop the loop.

        For other threads. Does nothing once it has ended.
        """
        if self._loop is not None:
            with suppress(RuntimeError):  # it has been closed
                self._loop.call_soon_threadsafe(self._cancel)

    async def _await(
        self, awaitable: Awaitable[Any], ready: Callable[[Callable[[], None]], None]
    ) -> Any:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(awaitable)
        ready(self.wake)
        return await self._task

    def _cancel(self) -> None:
        if self._cancels < MAX_CANCELS and self._task is not None:
            self._cancels += 1
            self._task.cancel()
            return
        loop = asyncio.get_running_loop()
        for task in asyncio.all_tasks(loop):
            task.cancel()
            asyncio._unregister_task(task)  # asyncio.run() waits for the others
        loop.stop()


def is_awaitable(value: object) -> bool:
    """Whether *value* is to be awaited, by its type: a proxy answers for another object."""
    kind = type(value)
    if kind is CoroutineType or hasattr(kind, "__await__"):
        return True
    # A generator that types.coroutine has made awaitable.
    code = value.gi_code if type(value) is GeneratorType else None
    return code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def as_thread_future(future: asyncio.Future[Any]) -> Future[Any]:
    """Return a future to wait for in this thread, for a future of another thread's event loop.

    Raises BadCall if it would never be done: its loop does not run, or runs in this thread.
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
