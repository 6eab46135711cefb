"""Run coroutine functions, and plain functions, on one event loop.

    submit -> [call_soon_threadsafe] -> the loop's thread: a task for each call -> its future

The loop is the executor's own, in a thread of its own, or one that runs already.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from typing import Any

from ..processes.forked import end_child_of, generation
from .running_loop import running_loop

#: Seconds that the exit of the program waits for coroutines that ignore their cancellation.
EXIT_SECONDS = 5.0


class CoroutineExecutor(Executor):
    """Runs each call on an event loop; coroutines that wait run concurrently.

    loop: a running loop, of any thread; it goes on after ``shutdown``. Call ``shutdown`` before it
    is closed: on a closed loop no call ends. None: a loop of the executor's own, in a thread.

    A plain function also runs on the loop, and blocks it meanwhile. If it returns an awaitable,
    that is awaited. A call has the context variables of its submitter. Calls that have not ended
    when the program exits are cancelled.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._lock = threading.RLock()
        self._loop = loop
        self._own: _OwnLoop | None = None
        self._shut_down = False
        self._pending: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run the call on the loop.

        ``cancel()`` of the future cancels a coroutine that waits; a plain function that has begun
        is not cancelled.
        Raises RuntimeError after ``shutdown``, and if the given loop is closed.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._loop is None:
                self._own = _OwnLoop(self)
                self._loop = self._own.loop
            self._loop.call_soon_threadsafe(self._start, future, fn, args, kwargs)
            self._pending.add(future)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls. wait: return when the submitted ones have ended.

        cancel_futures: cancel calls that have not ended; a plain function that has begun runs to
        its end. Raises RuntimeError if it would wait for itself: on its own loop, with calls that
        have not ended.
        """
        with self._lock:
            self._shut_down = True
            left = list(self._pending)
        if cancel_futures:
            for future in left:
                future.cancel()
        if self._own is not None and not left:
            self._own.end()
        if wait:
            self._wait_for(left)

    def _wait_for(self, futures: list[Future[Any]]) -> None:
        if self._loop is not None and self._loop is running_loop():
            if not all(future.done() for future in futures):
                raise RuntimeError(
                    "shutdown() was called on the executor's own event loop, where it would wait "
                    "for itself; call shutdown(wait=False), and await the futures"
                )
            return
        wait(futures)
        if self._own is not None:
            self._own.join()

    # -- on the loop

    def _start(self, future: Future[Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        loop = asyncio.get_running_loop()
        # The future of a coroutine stays pending until its end: a running one cannot be cancelled.
        stoppable = inspect.iscoroutinefunction(fn)
        if not stoppable and not future.set_running_or_notify_cancel():
            self._forget(future)
            return
        task = loop.create_task(_settle(future, stoppable, fn, args, kwargs))
        task.add_done_callback(lambda _task: self._forget(future))

        def cancel(cancelled: Future[Any]) -> None:
            if cancelled.cancelled():
                loop.call_soon_threadsafe(task.cancel)

        future.add_done_callback(cancel)

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._pending.discard(future)
            ends = self._shut_down and not self._pending
        if ends and self._own is not None:
            self._own.end()


async def _settle(
    future: Future[Any], stoppable: bool, fn: Callable[..., Any], args: Any, kwargs: Any
) -> None:
    """Make the call, await its result if it is awaitable, and settle the future."""
    value, error, begun = None, None, generation()
    try:
        if not future.cancelled():
            value = fn(*args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
    except BaseException as raised:  # noqa: BLE001 - a SystemExit ends the call, not the loop
        error = raised
    end_child_of(begun, error)
    if isinstance(error, asyncio.CancelledError):
        future.cancel()  # the loop ends, or the coroutine has cancelled itself
    if stoppable and not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


class _OwnLoop:
    """An event loop in a thread. It ends when asked to, or when *owner* is garbage collected."""

    def __init__(self, owner: CoroutineExecutor) -> None:
        ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        # A daemon: a program that does not call shutdown must end too. It holds no reference to the
        # owner, which would then never be collected.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(_until_ended(ready)), name="asyncjob-coroutines", daemon=True
        )
        self._thread.start()
        self.loop, self._ended = ready.result()
        self.end = weakref.finalize(owner, self.loop.call_soon_threadsafe, self._ended.set)
        self.end.atexit = False  # see _end_all
        _own_loops.add(self)

    def join(self) -> None:
        """Return when the thread has ended."""
        self._thread.join()

    def end_with_the_program(self) -> None:
        """End the loop and cancel coroutines that wait, at the exit: finalizers do not run then."""
        with suppress(RuntimeError):  # the loop was closed
            self.loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(EXIT_SECONDS)


async def _until_ended(ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    ended = asyncio.Event()
    ready.set_result((asyncio.get_running_loop(), ended))
    await ended.wait()


_own_loops: weakref.WeakSet[_OwnLoop] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    # Executors that were not shut down; at this time threads can still run.
    for own in list(_own_loops):
        own.end_with_the_program()
