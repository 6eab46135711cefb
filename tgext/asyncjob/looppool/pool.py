"""The pool in the parent process: it sends messages, and handles results on an event loop."""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ..call import check_done
from ..executors.running_loop import awaitable_of
from ..executors.worker_pool import (
    Envelope,
    Full,
    MessagePool,
    PoolOptions,
    WorkerEndpoint,
    pack,
    unpack,
)
from ..processes.forking import set_title
from .worker import Worker

log = logging.getLogger(__name__)

#: ``put`` lets the loop run after so many messages; else no result would be handled.
PUTS_PER_TURN = 32


class Pool:
    """A pool of workers, a process each. Give it a ``process_message``, start it, put messages.

    ioloop: the event loop that handles results, asyncio's or Tornado's; None: the one that runs
    when ``start`` is called. pool_size: processes; None: one for each CPU. worker_class: a subclass
    of Worker. max_tasks: messages that wait, and as many again that workers have begun; each worker
    has an equal share. max_results: results of all workers that are not done.
    start_method: of multiprocessing ("fork", "spawn", "forkserver"); None: its default.
    when_worker_dies: "redeliver" sends its messages to its successor, "report" passes them to
    ``message_lost``.
    Raises ValueError for other values.
    """

    def __init__(  # noqa: PLR0913 - the first five are the original's, but for ``target``
        self,
        ioloop: Any = None,
        pool_size: int | None = None,
        worker_class: type[Worker] = Worker,
        max_tasks: int = 4096,
        max_results: int = 4096,
        *,
        start_method: str | None = None,
        when_worker_dies: Literal["redeliver", "report"] = "redeliver",
    ) -> None:
        if when_worker_dies not in ("redeliver", "report"):
            raise ValueError(
                f"when_worker_dies: expected 'redeliver' or 'report', got {when_worker_dies!r}"
            )
        self.pool_size = os.cpu_count() or 1 if pool_size is None else pool_size
        is_tornado = hasattr(ioloop, "asyncio_loop")
        options = PoolOptions(
            self.pool_size,
            functools.partial(_make_handler, worker_class, is_tornado),
            max_tasks,
            max_results,
            redeliver=when_worker_dies == "redeliver",
            start_method=start_method,
        )
        self._message_pool = MessagePool(options, self)
        self._loop: Any = ioloop.asyncio_loop if is_tornado else ioloop
        self._running: set[asyncio.Future[Any]] = set()
        self._drained: asyncio.Future[None] | None = None
        self._puts = 0
        self._putters: list[deque[asyncio.Future[None]]] = [deque() for _ in range(self.pool_size)]

    # -- to override, or to assign to

    def process_message(self, result: Any, result_done: Any) -> Any:
        """Handle a result and call ``result_done()``, now or later; it may be ``async``."""
        raise NotImplementedError("expected a pool with a process_message(result, result_done)")

    def message_lost(self, message: Any, error: BaseException) -> None:
        """Called with a message that no worker will handle; logs *error* unless overridden."""
        log.error("a message is lost: %s", error)

    # -- life

    @property
    def pids(self) -> list[int]:
        """The pids of the processes, in the order of the numbers of their workers."""
        return self._message_pool.pids

    def start(self) -> None:
        """Start the processes. Raises RuntimeError at a second call, and without an event loop."""
        if self._loop is None:
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                raise RuntimeError(
                    "expected a running event loop, there is none; give the pool one: Pool(ioloop)"
                ) from None
        self._message_pool.start()

    def stop(self, timeout: float | None = None) -> None:
        """Return when every message that was put is done and the processes have ended.

        All results are then scheduled on the loop, before later callbacks. If it is called on a
        loop, it blocks that; ``drain`` does not.
        timeout: seconds after which the processes are killed and their messages are lost; None: no
        limit.
        """
        self._message_pool.stop()
        if not self._message_pool.join(timeout):
            self._message_pool.kill(f"the pool was stopped and not done after {timeout:g} s")
            self._message_pool.join()

    async def drain(self, timeout: float | None = None) -> None:
        """Stop as ``stop`` does, without blocking the loop, and wait until results are done too.

        Called on the pool's loop. From then on the pool accepts no message. Raises TimeoutError
        if, after another *timeout* seconds, some results are not done.
        """
        loop = asyncio.get_running_loop()
        self._drained = loop.create_future()
        self._message_pool.stop()  # here: in its thread, puts would be accepted until that runs
        await loop.run_in_executor(None, self.stop, timeout)
        self._check_drained()
        await asyncio.wait_for(self._drained, timeout)

    async def __aenter__(self) -> Pool:
        self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.drain()

    # -- messages

    def put_nowait(self, message: Any, worker_num: int | None = None) -> None:
        """Send a message to worker *worker_num*, from 0; None: to the next in turn.

        As many messages as there are workers, put one after the other, reach one worker each.
        Any thread may call it. Raises queue.Full if that worker has twice its share of
        ``max_tasks``, IndexError for a number that no worker has, RuntimeError after ``stop``,
        WorkerCrashed if no worker could be started, and what pickling the message raises.
        """
        self._message_pool.put(pack(message), number=worker_num)

    async def put(self, message: Any, worker_num: int | None = None) -> None:
        """Send a message as soon as its worker accepts it. Called on the pool's loop."""
        payload = pack(message)
        number = self._message_pool.next_in_turn() if worker_num is None else worker_num
        self._puts += 1
        if self._puts % PUTS_PER_TURN == 0:
            await asyncio.sleep(0)
        while True:
            try:
                self._message_pool.put(payload, number=number)
                return
            except Full:
                turn = asyncio.get_running_loop().create_future()
            self._putters[number].append(turn)
            await turn

    # -- called by the message pool, in its thread

    def deliver(self, number: int, results: Sequence[Any]) -> None:
        """Have the loop handle results."""
        self._on_loop(self._process, number, results)

    def report_lost(self, envelopes: Sequence[Envelope], error: BaseException) -> None:
        """Report lost messages on the loop."""
        self._on_loop(self._report, envelopes, error)

    def space_available(self, number: int) -> None:
        """Have the loop resume the calls that wait in ``put``."""
        self._on_loop(self._wake, number)

    def _on_loop(self, function: Callable[..., None], *args: Any) -> None:
        if self._loop is None:  # stopped before it was started, in this thread
            function(*args)
            return
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            log.warning("the pool's loop is closed; results of its workers are dropped")

    # -- on the loop

    def _process(self, number: int, results: Sequence[Any]) -> None:
        for result in results:
            done = ResultDone(self, number)
            try:
                answer = self.process_message(result, done)
                if answer is not None:
                    check_done(answer)
            except Exception:
                log.exception("process_message failed")
                done.settle()
                continue
            awaited = awaitable_of(answer)
            if awaited is not None:
                running = asyncio.ensure_future(awaited)
                self._running.add(running)
                running.add_done_callback(functools.partial(self._end, done))

    def _end(self, done: ResultDone, running: asyncio.Future[Any]) -> None:
        self._running.discard(running)
        if not running.cancelled() and (error := running.exception()) is not None:
            log.error("process_message failed", exc_info=error)
            done.settle()
        self._check_drained()

    def _report(self, envelopes: Sequence[Envelope], error: BaseException) -> None:
        for envelope in envelopes:
            try:
                message = unpack(envelope.payload)
            except Exception as mistake:  # noqa: BLE001 - the message's classes may raise anything
                message, error = envelope.payload, mistake
            self.message_lost(message, error)

    def _wake(self, number: int) -> None:
        putters = self._putters[number]
        while putters:
            turn = putters.popleft()
            if not turn.done():
                turn.set_result(None)

    def _done_with_result(self, number: int) -> None:
        self._message_pool.results_done(number, 1)
        if self._drained is not None:
            self._on_loop(self._check_drained)

    def _check_drained(self) -> None:
        drained = self._drained
        if drained is None or drained.done() or self._running or self._message_pool.undone_results:
            return
        drained.set_result(None)


class ResultDone:
    """The argument ``result_done``: reports, once, that a result is done; from any thread."""

    __slots__ = ("_is_open", "_number", "_pool")

    def __init__(self, pool: Pool, number: int) -> None:
        self._pool = pool
        self._number = number
        self._is_open = True

    def __call__(self) -> None:
        """Report it. Raises ValueError at a second call."""
        if not self._is_open:
            raise ValueError("result_done() called twice for one result")
        self.settle()

    def settle(self) -> None:
        """Report it, unless that has been done."""
        if self._is_open:
            self._is_open = False
            self._pool._done_with_result(self._number)


class _WorkerHandler:
    """The handler of a worker: no public name of a Worker subclass collides with its methods."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.handle = worker._process_message
        self.join = worker.join

    async def start(self) -> None:
        """Wait until the worker is initialised, and start it."""
        await _await_if_awaitable(self._worker._initialised)
        await _await_if_awaitable(self._worker.start())


async def _await_if_awaitable(answer: Any) -> None:
    awaited = awaitable_of(answer)
    if awaited is not None:
        await awaited


def _make_handler(
    worker_class: type[Worker], is_tornado: bool, endpoint: WorkerEndpoint
) -> _WorkerHandler:
    """Make the handler of a worker. Called on the loop of its process."""
    ioloop: Any = asyncio.get_running_loop()
    if is_tornado:
        ioloop = importlib.import_module("tornado.ioloop").IOLoop.current()
    program = os.path.basename(sys.argv[0]) or "python"
    set_title(f"{worker_class.__qualname__} {endpoint.number}", program)
    return _WorkerHandler(worker_class(endpoint.number, ioloop, endpoint, endpoint))
