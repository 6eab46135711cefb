"""Run a function in a coroutine."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..executors.running_loop import finish, running_loop
from .runners import Taskrunner, call_back_async


class CoroutineTaskrunner(Taskrunner):
    """Runs the function in a coroutine: a coroutine function is awaited, a plain one is called.

    yield_on_iter: let other coroutines run after each ``on_iter``.
    A plain function blocks the event loop until it returns; a generator with ``on_iter`` blocks it
    for one item at a time.
    """

    def __init__(
        self,
        /,
        func: Callable[..., Any],
        *init_args: Any,
        yield_on_iter: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(func, *init_args, **options)
        self._yield_on_iter = yield_on_iter
        self._running: set[asyncio.Task[Any]] = set()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Inside a running loop, start a task and return it, to be awaited.

        Outside, run the function to its end on a new loop, and return its result.
        """
        if running_loop() is not None:
            return self._start(args, kwargs)
        return self._run_here(args, kwargs)

    async def acall(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function with its callbacks in the calling coroutine."""
        return await call_back_async(
            self.callbacks, self._bound, args, kwargs, yields=self._yield_on_iter
        )

    def get_coro(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the coroutine of ``acall``, to be awaited or started as a task."""
        return self.acall(*args, **kwargs)

    def submit(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call this runner; return the future of the function's result."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            begun = self(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - it is raised by the future
            future.set_exception(error)
        else:
            if isinstance(begun, asyncio.Future):
                begun.add_done_callback(functools.partial(_copy, future))
            else:
                future.set_result(begun)
        return future

    def _run_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return finish(self.acall(*args, **kwargs))

    def _start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(self.acall(*args, **kwargs))
        # A loop has only weak references to its tasks: one without another may be collected.
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


def _copy(future: Future[Any], task: asyncio.Future[Any]) -> None:
    if task.cancelled():
        future.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())
