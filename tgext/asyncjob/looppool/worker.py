"""What a worker is: a class to subclass, on the event loop of its process."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from ..executors.messages import Station


class Worker:
    """Handles the messages of one process; override ``_process_message``.

    A message counts until ``_task_done()`` is called, by ``@task_done`` or by hand. ``_ioloop``
    is asyncio's loop, or Tornado's where the pool was given that. All is called on the loop.
    """

    def __init__(self, number: int, ioloop: Any, station: Station) -> None:
        self._number = number  #: 0 for the first
        self._ioloop = ioloop
        self._station = station

    def _initialise(self) -> Awaitable[None] | None:
        """Override it to get ready; may be a coroutine. Called once, before any message."""
        return None

    def _process_message(self, task: Any) -> Any:
        """Override it; may be a coroutine. What it raises is logged, and the message done."""
        raise NotImplementedError(
            f"{type(self).__qualname__} expected to have a _process_message(self, task)"
        )

    def _put_nowait(self, result: Any) -> None:
        """Send a result to the pool.

        Raises queue.Full where the pool has ``max_results`` of this worker that it is not done
        with, and whatever pickle has against the result.
        """
        self._station.put_nowait(result)

    async def _put(self, result: Any) -> None:
        """Send a result, and wait for as long as the pool does not take one."""
        await self._station.put(result)

    def _task_done(self) -> None:
        """Say that the message which this code handles is done; else the oldest.

        Raises ValueError where it was done already.
        """
        self._station.task_done()

    def start(self) -> Awaitable[None] | None:
        """Begin; messages come when it is over. Call it from an override."""
        return self._initialise()

    def join(self) -> None:
        """End, after the last message is done. Call it from an override."""


def task_done(function: Callable[..., Any]) -> Callable[..., Any]:
    """Say that a message is done when *function* has returned or raised; a coroutine: is over.

    For ``Worker._process_message``, and for ``Pool.process_message``, where it calls the last
    argument, ``result_done``.
    """

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        done = args[0]._task_done if isinstance(args[0], Worker) else args[-1]
        is_over = True
        try:
            answer = function(*args)
            if inspect.isawaitable(answer):
                is_over = False
                return _await(answer, done)
            return answer
        finally:
            if is_over:
                done()

    return wrapper


async def _await(answer: Awaitable[Any], done: Callable[[], None]) -> Any:
    try:
        return await answer
    finally:
        done()
