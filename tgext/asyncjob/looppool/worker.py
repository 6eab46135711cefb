"""The worker of a pool: a class to subclass, used on the event loop of its process."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from ..call import check_done
from ..executors.running_loop import awaitable_of
from ..executors.worker_pool import WorkerEndpoint


class Worker:
    """Handles the messages of one process; override ``_process_message``.

    A message is not done until ``_task_done()`` is called, by ``@task_done`` or by hand.
    ``_ioloop`` is asyncio's loop, or Tornado's if the pool was given that. All methods are called
    on the loop.

    ``_task_queue`` and ``_result_queue`` are its end of the channel: of the methods of a queue they
    have ``task_done()`` and ``put_nowait(result)`` only.
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
        """Override it to prepare; it may be ``async``. It ends before ``start`` is called."""
        return None

    def _process_message(self, task: Any) -> Any:
        """Override it; it may be ``async``. What it raises is logged, and the message done."""
        raise NotImplementedError(
            f"{type(self).__qualname__} expected to have a _process_message(self, task)"
        )

    def _put_nowait(self, result: Any) -> None:
        """Send a result to the pool.

        Raises queue.Full if ``max_results`` results of all workers are not done, and what pickling
        the result raises.
        """
        self._result_queue.put_nowait(result)

    async def _put(self, result: Any) -> None:
        """Wait until there is space for a result, and send it; raises what pickling it raises."""
        await self._result_queue.put(result)

    def _task_done(self) -> None:
        """Report a message as done: the one that the calling code handles, else the oldest.

        Raises ValueError if it was done already.
        """
        self._task_queue.task_done()

    def start(self) -> Awaitable[None] | None:
        """Override it to begin; messages come when it has ended. Call it from an override."""
        return None

    def join(self) -> None:
        """Override it to end, after the last message is done. Call it from an override."""


def task_done(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a handler so that its message is reported as done when it returns or raises.

    A coroutine function: when its coroutine has ended. For ``Worker._process_message``, and for
    ``Pool.process_message``, whose last argument, ``result_done``, it calls.
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
