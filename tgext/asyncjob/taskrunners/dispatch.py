"""Run several tasks at once, and record how each ended."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, NamedTuple

from ..errors import NoReader
from ..executors.running_loop import running_loop
from .runners import Callback, Taskrunner, tell_and_raise
from .stored import StoreTaskWriter
from .targets import Target, runner_class

#: Seconds between two checks of ``complete`` when no future can be waited for.
_POLL_SECONDS = 0.01

CheckComplete = Callable[[list[Any], list[str | None], list[BaseException | None]], bool]


class _End(NamedTuple):
    status: str | None = None
    result: Any = None
    error: BaseException | None = None


class TaskDispatcher:
    """Runs tasks, with one kind of runner or several, and records how they end.

    target: the default runner of a task. check_complete: called with ``results``, ``status`` and
    ``errors``, returns whether all is done; None: all is done when every task has ended.

    ``results``, ``status`` (None, ``success`` or ``error``) and ``errors`` have one item for each
    task, in the order in which the tasks were given; None while the task waits or runs.
    """

    def __init__(
        self, target: Target = "thread", check_complete: CheckComplete | None = None
    ) -> None:
        self._target = runner_class(target)
        self._check_complete = check_complete
        self._queued: list[Callable[[], Future[Any]]] = []
        self._tasks: list[Future[Any] | None] = []  #: None: not started
        self._writers: list[StoreTaskWriter] = []

    def enqueue(
        self,
        /,
        func: Callable[..., Any],
        *init_args: Any,
        target: Target | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Keep a task for ``run``.

        init_args, args, kwargs: arguments of *func*. target: None: the dispatcher's. options: the
        callbacks and other options of the runner; the rest is passed to *func*.
        Raises what making the runner raises.
        """
        runner = self._runner(func, init_args, target, options)
        position = len(self._tasks)
        self._tasks.append(None)

        def start() -> Future[Any]:
            self._tasks[position] = future = runner.submit(*(args or ()), **(kwargs or {}))
            return future

        self._queued.append(start)

    def dispatch(
        self,
        /,
        func: Callable[..., Any],
        *init_args: Any,
        target: Target | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Future[Any]:
        """Run a task at once; return its future. Arguments: as for ``enqueue``."""
        self.enqueue(func, *init_args, target=target, args=args, kwargs=kwargs, **options)
        return self._queued.pop()()

    def run(self, timeout: float = 10) -> bool:
        """Run the enqueued tasks, in their order; return True when all is done.

        timeout: seconds, for all tasks together. Raises TimeoutError after them, or NoReader if
        tasks then still wait in a store for a reader. Raises RuntimeError inside a running event
        loop, before any task is run.
        """
        if running_loop() is not None:
            raise RuntimeError(
                "expected a thread without a running event loop, got one with a loop, whose "
                "coroutines could not run meanwhile; use `await dispatcher.arun()`"
            )
        until = time.monotonic() + timeout
        self._start()
        while not self.complete:
            left = until - time.monotonic()
            if left <= 0:
                raise self._timeout_error(timeout)
            running = [task for task in self._tasks if task is not None and not task.done()]
            if running:
                wait(running, left, return_when=FIRST_COMPLETED)
            else:
                time.sleep(min(left, _POLL_SECONDS))
        return True

    async def arun(self, timeout: float = 10) -> bool:
        """Do as ``run``, but let other coroutines run meanwhile. Raises no RuntimeError."""
        until = time.monotonic() + timeout
        self._start()
        while not self.complete:
            if until <= time.monotonic():
                raise self._timeout_error(timeout)
            await asyncio.sleep(_POLL_SECONDS)
        return True

    def reset(self) -> None:
        """Forget all tasks; those that run go on, and their ends are not recorded."""
        self._queued, self._tasks, self._writers = [], [], []

    @property
    def results(self) -> list[Any]:
        """What each task returned."""
        return [end.result for end in self._ends()]

    @property
    def status(self) -> list[str | None]:
        """How each task ended: ``success``, ``error``, or None."""
        return [end.status for end in self._ends()]

    @property
    def errors(self) -> list[BaseException | None]:
        """What each task raised, with or without an ``on_error``."""
        return [end.error for end in self._ends()]

    @property
    def complete(self) -> bool:
        """Whether all is done."""
        if self._check_complete is not None:
            return bool(self._check_complete(self.results, self.status, self.errors))
        return None not in self.status

    def _runner(
        self, func: Callable[..., Any], init_args: Any, target: Target | None, options: Any
    ) -> Taskrunner:
        make = self._target if target is None else runner_class(target)
        on_error: Callback | None = options.get("on_error")
        if on_error is not None:
            # A runner does not raise an error that on_error was called with; here it is recorded.
            options = {**options, "on_error": functools.partial(tell_and_raise, on_error)}
        runner = make(func, *init_args, **options)
        if isinstance(runner, StoreTaskWriter):
            self._writers.append(runner)
        return runner

    def _start(self) -> None:
        queued, self._queued = self._queued, []
        for start in queued:
            start()

    def _ends(self) -> list[_End]:
        return [_end_of(task) for task in self._tasks]

    def _timeout_error(self, timeout: float) -> TimeoutError:
        unread = [writer for writer in self._writers if writer.status == "new"]
        if unread:
            return NoReader(f"{len(unread)} tasks", f"none did within {timeout:g} s")
        running = self.status.count(None)
        return TimeoutError(f"{running} of {len(self._tasks)} tasks still run after {timeout:g} s")


def _end_of(task: Future[Any] | None) -> _End:
    if task is None or not task.done():
        return _End()
    error = task.exception()
    return _End("success", task.result()) if error is None else _End("error", None, error)
