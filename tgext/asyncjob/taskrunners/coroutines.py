"""Run a function in a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..executors.awaiting import finish, running_loop
from .runners import Taskrunner, call_back_async


class CoroutineTaskrunner(Taskrunner):
    """Runs the function in a coroutine: a coroutine function is awaited, a plain one is called.

    yield_on_iter: let other coroutines run after each ``on_iter``.
    A plain function keeps the event loop for as long as it takes; a generator with ``on_iter``
    lets go of it between its items.
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
        self._yields = yield_on_iter
        self._running: set[asyncio.Task[Any]] = set()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Inside a running loop start a task there and return it, to be awaited.

        Outside, run to the end, on a loop of its own, and return the result.
        """
        return self.run(args, kwargs) if running_loop() is None else self._start(args, kwargs)

    async def acall(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function with its callbacks in the coroutine of the caller."""
        return await call_back_async(self.callbacks, self._bound, args, kwargs, yields=self._yields)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run to the end. Raises RuntimeError inside a running loop."""
        return finish(self.acall(*args, **kwargs))

    def submit(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run as a call does; return the future of what the function returns."""
        if running_loop() is None:
            return super().submit(*args, **kwargs)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._start(args, kwargs).add_done_callback(lambda task: _copy(task, future))
        return future

    def _start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(self.acall(*args, **kwargs))
        # A loop only has weak references: a task that nobody holds may vanish half done.
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


def _copy(task: asyncio.Task[Any], future: Future[Any]) -> None:
    if task.cancelled():
        future.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())
