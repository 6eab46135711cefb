"""A worker process: one event loop, its end of the channel, and the handler of its messages.

The handler is called with each message, and calls ``task_done`` when the message is done. Messages
are unpickled and handled on the loop, a few milliseconds at a time, so that coroutines run in
between. Results, numbers of messages that are done and receipts of frames are sent back in one
frame.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import pickle
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from ...call import check_done
from ...processes.forked import end_child_of, generation
from ..remote_errors import Failure
from ..running_loop import awaitable_of
from .channel import Channel
from .results import ResultBound

log = logging.getLogger(__name__)

PICKLE_PROTOCOL = 5

#: Seconds for which messages are handled before other callbacks of the loop run.
HANDLING_SECONDS = 0.005

#: Seconds between checks whether the parent is still the same process, and whether there is space
#: for a result that waits.
CHECK_SECONDS = 1.0

#: The number of the message that is handled; tasks and callbacks that handlers make inherit it.
_handled: contextvars.ContextVar[int | None] = contextvars.ContextVar("handled", default=None)


class Handler(Protocol):
    """Handles the messages of a worker process. Called on the loop of its endpoint."""

    def start(self) -> Awaitable[None] | None: ...
    def handle(self, message: Any) -> Awaitable[object] | object: ...
    def join(self) -> None: ...


HandlerFactory = Callable[["WorkerEndpoint"], Handler]


class WorkerEndpoint:
    """The worker's side of the pool. All but ``serve`` is for the handler, on the endpoint's loop.

    bound: how many results of all workers may be sent and not done.
    """

    def __init__(self, channel: Channel, number: int, bound: ResultBound) -> None:
        self.number = number
        self._generation = generation()
        self._channel = channel
        self._bound = bound
        self._frames: deque[Iterator[tuple[int, bytes]]] = deque()
        self._open: dict[int, None] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._putters: set[asyncio.Future[None]] = set()
        self._is_last = False
        self._is_flushing = False
        self._clear()

    def _clear(self) -> None:
        self._receipts = 0
        self._done: list[int] = []
        self._results: list[bytes] = []
        self._refused: list[
            tuple[int, tuple[Any, ...]]
        ] = []  # tuples: marshal does not write a Failure

    # -- for the handler

    def put_nowait(self, result: object) -> None:
        """Send a result. Raises queue.Full, and what pickling the result raises."""
        payload = pickle.dumps(result, PICKLE_PROTOCOL)
        if not self._bound.take(self.number):
            raise queue.Full(
                f"the pool has {self._bound.most} results (max_results) that are not done; "
                "try again later, or await _put()"
            )
        self._results.append(payload)
        self._flush_soon()

    async def put(self, result: object) -> None:
        """Wait until there is space for a result, and send it; raises what pickling it raises."""
        payload = pickle.dumps(result, PICKLE_PROTOCOL)
        while not self._bound.take(self.number):
            self._bound.ask(self.number)
            if self._bound.take(self.number):  # space that was freed before ``ask`` is not notified
                break
            turn = asyncio.get_running_loop().create_future()
            self._putters.add(turn)
            try:
                await asyncio.wait([turn], timeout=CHECK_SECONDS)
            finally:
                self._putters.discard(turn)
        self._results.append(payload)
        self._flush_soon()

    def task_done(self) -> None:
        """Report a message as done: the one that the calling code handles, else the oldest.

        Raises ValueError if it was done already.
        """
        number = _handled.get()
        if number is None:
            number = next(iter(self._open), None)
        if number not in self._open:
            raise ValueError("task_done() called more often than there were messages")
        self._complete(number)

    def _complete(self, number: int) -> None:
        del self._open[number]
        self._done.append(number)
        self._flush_soon()

    # -- the life of the process

    async def serve(self, factory: HandlerFactory) -> None:
        """Handle messages until the last one is done."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._finished = asyncio.Event()
        try:
            handler = factory(self)
            started = handler.start()
            if started is not None:
                await started
        except Exception as error:
            self._refused.append((-1, tuple(Failure.of(error))))
            self._finish()
            raise
        self._handle = handler.handle
        loop.add_reader(self._channel, self._read)
        self._flush()  # tells the parent that it is ready
        try:
            await self._finished.wait()
        finally:  # a handler may have raised SystemExit: another process gets what comes now
            loop.remove_reader(self._channel)
        handler.join()
        self._finish()

    def _finish(self) -> None:
        self._loop.remove_writer(self._channel)
        self._channel.finish()
        self._channel.send(self._outgoing())
        self._channel.finish()

    def _read(self) -> None:
        frames = self._channel.receive()
        if frames is None:
            os._exit(1)  # the parent is gone
        for first, payloads, is_last in frames:
            self._frames.append(zip(count(first), payloads))
            self._is_last = self._is_last or is_last
        for turn in self._putters:
            if not turn.done():
                turn.set_result(None)
        self._handle_frames()

    def _handle_frames(self) -> None:
        """Handle messages for HANDLING_SECONDS, then let the loop run other callbacks."""
        until = time.monotonic() + HANDLING_SECONDS
        while self._frames:
            for number, payload in self._frames[0]:
                self._handle_message(number, payload)
                if time.monotonic() > until:
                    self._loop.call_soon(self._handle_frames)
                    self._flush_soon()
                    return
            self._frames.popleft()
            self._receipts += 1
        _handled.set(None)
        self._flush_soon()

    def _handle_message(self, number: int, payload: bytes) -> None:
        try:
            message = pickle.loads(payload)
        except Exception as error:  # noqa: BLE001 - the message's classes may raise anything
            self._refused.append((number, tuple(Failure.of(error))))
            return
        self._open[number] = None
        _handled.set(number)
        try:
            answer = self._handle(message)
            if answer is not None:
                check_done(answer)
        except Exception as error:  # noqa: BLE001 - the handler's error; the worker goes on
            end_child_of(self._generation)
            self._fail(number, error)
            return
        end_child_of(self._generation)
        awaited = awaitable_of(answer)
        if awaited is not None:
            self._running[number] = self._loop.create_task(self._await_handler(number, awaited))

    async def _await_handler(self, number: int, answer: Awaitable[object]) -> None:
        try:
            await answer
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as above
            end_child_of(self._generation)
            self._fail(number, error)
        finally:
            end_child_of(self._generation)
            del self._running[number]
            self._flush_soon()

    def _fail(self, number: int, error: BaseException) -> None:
        """Log what a handler raised, and complete its message."""
        log.error("worker %s: a message handler failed", self.number, exc_info=error)
        if number in self._open:
            self._complete(number)

    # -- sending

    def _flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            # Not at once: tasks that were made in this turn of the loop run their first step
            # before, and their results go into the same frame.
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        if not self._channel.is_clogged and not self._channel.send(self._outgoing()):
            self._loop.add_writer(self._channel, self._resume)
        if self._is_last and not (self._frames or self._open or self._running):
            self._finished.set()

    def _resume(self) -> None:
        if self._channel.resume():
            self._loop.remove_writer(self._channel)
            self._flush()

    def _outgoing(self) -> tuple[Any, ...]:
        content = (self._receipts, self._done, self._results, self._refused)
        self._clear()
        return content


def run_worker(
    connection: Connection, number: int, bound: ResultBound, factory: HandlerFactory
) -> None:
    """Run a worker process of a pool."""
    # A forked child shares the parent's wake-up socket: the parent would receive its signals.
    signal.set_wakeup_fd(-1)
    # These signals may reach the whole process group; a worker ends when its parent says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="asyncjob-parent-monitor", daemon=True).start()
    asyncio.run(WorkerEndpoint(Channel(connection), number, bound).serve(factory))


def _end_with_parent() -> None:
    """End this process when its parent has ended, even if its loop is blocked."""
    parent = parent_process()
    if parent is None:
        return
    # A sibling that was forked later holds the parent's end of this pipe too, as may any other
    # child of the parent. The pipe then stays open, but this process gets another parent.
    is_child = os.getppid() == parent.pid
    while not wait([parent.sentinel], CHECK_SECONDS):
        if is_child and os.getppid() != parent.pid:
            break
    os._exit(1)
