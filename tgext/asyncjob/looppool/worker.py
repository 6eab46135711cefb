"""What a worker is: a class to subclass, on the event loop of its process."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from ..call import check_done
from ..executors.running_loop import awaitable_of
from ..executors.worker_pool import WorkerEndpoint


class Worker:
    """Handles the messages of one process; override ``_process_message``.

    A message counts until ``_task_done()`` is called, by ``@task_done`` or by hand. ``_ioloop``
    is asyncio's loop, or Tornado's where the pool was given that. All is called on the loop.

    ``_task_queue`` and ``_result_queue`` are its end of the channel; they have ``task_done()`` and
    ``put_nowait(result)``, and no more of what a queue has.
    """

    def __init__(
        self, number: int, ioloop: Any, task_queue: WorkerEndpoint, result_queue: WorkerEndpoint
    ) -> None:
        self._number = number  #: 0 for the first
        self._ioloop = ioloop
        self._task_queue = task_queue
        self._result_queue = result_queue
        self._initialised = self._initialise()

    def _initialise(self) -> Awaitable[None] | None:
        """Override it to get ready; may be a coroutine. Over before ``start`` is called."""
        return None

    def _process_message(self, task: Any) -> Any:
        """Override it; may be a coroutine. What it raises is logged, and the message done."""
        raise NotImplementedError(
            f"{type(self).__qualname__} expected to have a _process_message(self, task)"
        )

    def _put_nowait(self, result: Any) -> None:
        """Send a result to the pool.

        Raises queue.Full where the pool has ``max_results`` of all workers that it is not done
        with, and whatever pickle has against the result.
        """
        self._result_queue.put_nowait(result)

    async def _put(self, result: Any) -> None:
        """Send a result, and wait for as long as the pool does not take one."""
        await self._result_queue.put(result)

    def _task_done(self) -> None:
        """Say that the message which this code handles is done; else the oldest.

        Raises ValueError where it was done already.
        """
        self._task_queue.task_done()

    def start(self) -> Awaitable[None] | None:
        """Begin; messages come when it is over. Call it from an override."""
        return None

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
            check_done(answer)
            awaited = awaitable_of(answer)
            if awaited is not None:
                is_over = False
                return _await(awaited, done)
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
