"""Run calls, above all of coroutine functions, on a pool of processes with an event loop each.

A thin layer on ``worker_pool``: a call is a message, and has one result.
"""

from __future__ import annotations

import atexit
import inspect
import itertools
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from ..processes.forked import call_here, end_child_of, generation
from .remote_errors import Failure
from .worker_pool import Envelope, MessagePool, PoolOptions, WorkerEndpoint, pack, unpack

#: Calls that one worker has at a time by default; others wait here, and can be cancelled.
MOST_RUNNING = 256


class LoopPoolExecutor(Executor):
    """Runs each call on the event loop of the worker process that has the fewest calls.

    The coroutine of a coroutine function is awaited; a plain function blocks its loop. The calls of
    a worker that dies fail with WorkerCrashed and are not made again.

    max_workers: processes; None: one for each CPU. max_running: calls that one worker has at a
    time. start_method: of multiprocessing; None: its default.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        max_running: int = MOST_RUNNING,
        start_method: str | None = None,
    ) -> None:
        size = os.cpu_count() or 1 if max_workers is None else max_workers
        self._message_pool = MessagePool(
            PoolOptions(
                size, Caller, size * max_running, redeliver=False, start_method=start_method
            ),
            self,
        )
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._futures: dict[int, Future[Any]] = {}
        self._has_started = False
        self._shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a worker call *fn*; return the future of its result, awaited if it is awaitable.

        Raises RuntimeError after ``shutdown``, WorkerCrashed if no worker can be started. If the
        call or the result cannot be pickled, the future raises that error.
        """
        future: Future[Any] = Future()
        number = next(self._numbers)
        try:
            payload = pack((number, fn, args, kwargs))
        except Exception as error:  # noqa: BLE001 - the arguments' own code runs
            payload, mistake = b"", error
        with self._lock:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if not payload:
                future.set_running_or_notify_cancel()
                future.set_exception(mistake)
                return future
            if not self._has_started:
                self._message_pool.start()
                self._has_started = True
                # Registered after the message pool's own function, so called before it: submitted
                # calls are finished at the exit, as in the standard library's pools.
                atexit.register(self.shutdown)
            self._futures[number] = future
            is_first = not self._waiting
            self._waiting.append((number, payload))
            # If others wait, the workers are full, and ``space_available`` will be called.
            if is_first:
                self._feed()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls; the workers end when the submitted ones have ended.

        wait: return then. cancel_futures: cancel the calls that no worker has yet.
        """
        with self._lock:
            self._shut_down = True
            atexit.unregister(self.shutdown)
            if cancel_futures:
                dropped = [self._futures.pop(number) for number, _ in self._waiting]
                self._waiting.clear()
                for future in dropped:
                    future.cancel()
                    future.set_running_or_notify_cancel()
            self._stop_if_over()
        if wait and self._has_started:
            self._message_pool.join()

    def _feed(self) -> None:
        """Send waiting calls to the workers with the fewest, until all are full."""
        while self._waiting:
            worker = self._message_pool.idlest()
            if worker is None:
                return
            number, payload = self._waiting.popleft()
            if not self._futures[number].set_running_or_notify_cancel():
                del self._futures[number]
                continue
            try:
                self._message_pool.put(payload, number=worker, label=number)
            except RuntimeError as error:  # it has given up
                self._futures.pop(number).set_exception(error)

    def _stop_if_over(self) -> None:
        if self._shut_down and self._has_started and not self._waiting:
            self._message_pool.stop("cannot schedule new futures after shutdown")

    # -- the listener of the message pool

    def deliver(self, worker: int, results: Sequence[Any]) -> None:
        """Settle the futures of these results."""
        for number, has_failed, answer in results:
            future = self._futures.pop(number)
            try:
                value = answer.exception() if has_failed else unpack(answer)
            except Exception as error:  # noqa: BLE001 - the result's classes may raise anything
                value, has_failed = error, True
            if has_failed:
                future.set_exception(value)
            else:
                future.set_result(value)

    def report_lost(self, envelopes: Sequence[Envelope], error: BaseException) -> None:
        """Fail the futures of calls that no worker will make."""
        for envelope in envelopes:
            assert isinstance(envelope.label, int)
            self._futures.pop(envelope.label).set_exception(error)

    def space_available(self, worker: int) -> None:
        """Send waiting calls."""
        with self._lock:
            self._feed()
            self._stop_if_over()


class Caller:
    """The handler of a worker that calls what it is sent."""

    def __init__(self, endpoint: WorkerEndpoint) -> None:
        self._endpoint = endpoint

    def start(self) -> None:
        """Do nothing."""

    def join(self) -> None:
        """Do nothing."""

    def handle(self, message: tuple[int, Callable[..., Any], Any, Any]) -> Awaitable[None] | None:
        """Make the call, and send its result."""
        number, function, args, kwargs = message
        try:
            value = call_here(function, args, kwargs)
            if inspect.isawaitable(value):
                return self._await(number, value)
        except BaseException as error:  # noqa: BLE001 - it is raised by the future
            self._answer(number, error=error)
        else:
            self._answer(number, value)
        return None

    async def _await(self, number: int, value: Awaitable[Any]) -> None:
        begun = generation()
        try:
            result = await value
        except BaseException as error:  # noqa: BLE001 - as above
            end_child_of(begun, error)
            self._answer(number, error=error)
        else:
            end_child_of(begun)
            self._answer(number, result)

    def _answer(
        self, number: int, value: object = None, *, error: BaseException | None = None
    ) -> None:
        answer: bytes | Failure
        try:
            answer = pack(value) if error is None else Failure.of(error)
        except Exception as mistake:  # noqa: BLE001 - the result's own code runs
            answer = Failure.of(mistake)
        self._endpoint.put_nowait((number, isinstance(answer, Failure), answer))
        self._endpoint.task_done()
