"""A pool of worker processes: it sends them messages, receives results, and notices deaths.

    put() --> WorkerHandle --frames--> worker process      any thread, under the pool's lock
    listener <-- one thread of the pool <--frames-- worker process

The listener is called by the pool's thread, without the lock. A worker that dies is replaced; the
options of the pool decide what happens to the messages that it had.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import threading
import weakref
from typing import Any

from ...errors import WorkerCrashed
from ..remote_errors import Failure
from .monitor import Monitor
from .processes import end_process, start_process
from .results import BOUNDLESS, ResultBound
from .settings import Listener, PoolOptions, unpack
from .worker_handle import WorkerHandle

log = logging.getLogger(__name__)

#: Seconds that a pool that was not stopped may take at the interpreter's exit.
EXIT_SECONDS = 8.0

#: The pool gives up when so many workers in a row have died before they were ready.
MOST_FALSE_STARTS = 3


class MessagePool:
    """A pool of worker processes. Any thread may call any method."""

    def __init__(self, options: PoolOptions, listener: Listener) -> None:
        self._options = options
        self._listener = listener
        self._context: Any = multiprocessing.get_context(options.start_method)
        self._lock = threading.RLock()
        size, most = options.size, options.max_tasks
        tasks = BOUNDLESS if most is None else max(1, most // size)
        self._workers = [WorkerHandle(number, tasks) for number in range(size)]
        self._bound = ResultBound(self._context, size, options.max_results)
        self._turn = 0
        self._false_starts = 0
        self._failure: BaseException | None = None  #: why the last worker could not start
        self._refusal: str | None = None  #: why no message is accepted any more
        self._has_given_up = False
        self._thread: threading.Thread | None = None
        self._monitor: Monitor | None = None
        _pools.add(self)

    @property
    def pids(self) -> list[int]:
        """The pids of the processes, in the order of the numbers of their workers."""
        return [worker.pid for worker in self._workers]

    @property
    def undone_results(self) -> int:
        """How many results of all workers are not done."""
        with self._lock:
            return sum(worker.undone_results for worker in self._workers)

    def start(self) -> None:
        """Start the processes and the thread. Raises RuntimeError at a second call."""
        with self._lock:
            if self._thread is not None or self._refusal is not None:
                raise RuntimeError("expected a pool that was not started; make another one")
            self._monitor = Monitor()
            self._thread = threading.Thread(target=self._serve, name="asyncjob-pool", daemon=True)
            try:
                for worker in self._workers:
                    self._start_worker(worker)
            except BaseException:
                self._give_up("the pool could not be started")
                self._thread.start()
                raise
        atexit.register(self._end_with_interpreter)
        self._thread.start()

    # -- messages

    def put(self, payload: bytes, *, number: int | None = None, label: object = None) -> None:
        """Accept a packed message for worker *number*; None: for the next in turn.

        label: passed to the listener if the message is lost.
        Raises queue.Full, IndexError for a number that no worker has, WorkerCrashed after the pool
        has given up, RuntimeError after ``stop``.
        """
        with self._lock:
            if self._refusal is not None:
                raise (WorkerCrashed if self._has_given_up else RuntimeError)(self._refusal)
            worker = self._workers[self._turn] if number is None else self._worker(number)
            worker.accept(payload, label)
            if number is None:
                self.next_in_turn()
            if not worker.send_if_idle():
                self._wake_monitor()

    def next_in_turn(self) -> int:
        """Return the number of the worker whose turn it is, and advance to the next."""
        with self._lock:
            turn = self._turn
            self._turn = (turn + 1) % len(self._workers)
            return turn

    def idlest(self) -> int | None:
        """Return the number of the worker with the fewest messages; None: all are full.

        For a pool with one sender: only a message that is put in between makes the answer wrong.
        """
        worker = min(self._workers, key=len)
        if len(worker) < worker.most_tasks:  # a message would not wait
            return worker.number
        with self._lock:
            for full in self._workers:
                full.was_found_full = True
            worker = min(self._workers, key=len)  # for space that was freed before the flag was set
            return worker.number if len(worker) < worker.most_tasks else None

    def results_done(self, number: int, results: int) -> None:
        """Count so many results of a worker as done, and let workers send as many more."""
        with self._lock:
            self._workers[number].undone_results -= results
            self._bound.done(number, results)
            self._notify_waiting()

    def _notify_waiting(self) -> None:
        """Notify workers that wait to send a result that there is space; under the lock."""
        for number in self._bound.answered():
            self._workers[number].request_frame()
            self._send(self._workers[number])

    def _worker(self, number: int) -> WorkerHandle:
        if not 0 <= number < len(self._workers):
            raise IndexError(f"expected a worker of 0 to {len(self._workers) - 1}, got {number!r}")
        return self._workers[number]

    def _send(self, worker: WorkerHandle) -> None:
        if not worker.send():
            self._wake_monitor()  # it waits until the stream takes more

    def _wake_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.wake()

    # -- the end

    def stop(self, reason: str = "the pool was stopped") -> None:
        """Accept no more messages, and have each worker end when its messages are done."""
        with self._lock:
            self._refusal = self._refusal or reason
            self._bound.lift()  # the results of the last messages may never be done
            self._notify_waiting()
            for worker in self._workers:
                worker.close()
                self._send(worker)
        if self._thread is None:
            self._lose_remaining()

    def kill(self, reason: str) -> None:
        """Kill the workers; messages that are not done are lost."""
        with self._lock:
            self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        self._has_given_up = True
        self._refusal = reason
        for worker in self._workers:
            if worker.process is not None and not worker.is_gone:
                worker.process.kill()
            elif worker.process is None:
                worker.is_gone = True
        self._wake_monitor()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the last process has ended and the listener was called with everything.

        timeout: seconds; None: no limit. Returns whether it has. False at once in the pool's
        thread, where the listener is called.
        """
        thread = self._thread
        if thread is None:
            return True
        if thread is threading.current_thread():
            return False
        thread.join(timeout)
        return not thread.is_alive()

    def _end_with_interpreter(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            return
        self.stop("the interpreter exits")
        if not self.join(EXIT_SECONDS):
            log.warning("workers %s are killed at the interpreter's exit", self.pids)
            self.kill("the interpreter exits")
            self.join()

    def after_fork(self) -> None:
        """Close the copies of the parent's channels, in a forked child."""
        self._lock = threading.RLock()
        self._refusal = "the pool belongs to the process that this one was forked from"
        self._thread = None
        for worker in self._workers:
            if worker.channel is not None:
                worker.channel.close()
                worker.channel = None
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    # -- the pool's thread

    def _start_worker(self, worker: WorkerHandle) -> None:
        """Start a process for *worker*; under the lock."""
        start_process(self._context, worker, self._bound, self._options.factory)
        assert self._monitor is not None
        self._monitor.add(worker)
        self._send(worker)

    def _serve(self) -> None:
        assert self._monitor is not None
        while not all(worker.is_gone for worker in self._workers):
            ready, quiet = self._monitor.wait()
            for worker in ready:
                self._receive(worker)
            for worker in quiet:
                self._check_alive(worker)
        self._lose_remaining()
        self._monitor.close()
        atexit.unregister(self._end_with_interpreter)

    def _receive(self, worker: WorkerHandle) -> None:
        """Read what a worker has sent, send what it takes, and reap it if it has died."""
        assert worker.channel is not None
        frames = worker.channel.receive()
        if frames is None:
            self._reap(worker)
            return
        if worker.channel.is_clogged:
            with self._lock:
                worker.resume()
        for receipts, done, results, refused in frames:
            with self._lock:
                worker.undone_results += len(results)
                worker.acknowledge(receipts, done)
                has_space = worker.clear_found_full()
                if not worker.has_started and not refused:
                    worker.has_started = True
                    self._false_starts = 0
            if results:
                self._deliver(worker, results)
            for number, failure in refused:
                self._report_unreadable(worker, number, failure)
            if has_space:
                self._listener.space_available(worker.number)

    def _check_alive(self, worker: WorkerHandle) -> None:
        """Reap a worker that has died, even if a process that it has forked holds its channel."""
        if worker.process is not None and not worker.process.is_alive():
            self._receive(worker)
            if worker.process is not None:
                self._reap(worker)

    def _deliver(self, worker: WorkerHandle, payloads: list[bytes]) -> None:
        results = []
        for payload in payloads:
            try:
                results.append(unpack(payload))
            except Exception:
                log.exception("worker %s: a result cannot be unpickled here", worker.number)
                self.results_done(worker.number, 1)
        if results:
            self._listener.deliver(worker.number, results)

    def _report_unreadable(
        self, worker: WorkerHandle, number: int, failure: tuple[Any, ...]
    ) -> None:
        error = Failure(*failure).exception()
        if number < 0:
            self._failure = error
            return
        with self._lock:
            envelope = worker.take_back(number)
        if envelope is not None:
            self._listener.report_lost([envelope], error)

    def _reap(self, worker: WorkerHandle) -> None:
        """Reap a worker whose end of the channel is closed, and replace it."""
        assert self._monitor is not None
        assert worker.process is not None
        assert worker.channel is not None
        self._monitor.remove(worker)
        status = end_process(worker.process)
        with self._lock:
            worker.channel.close()
            worker.channel = worker.process = None
            self._bound.settle(worker.number, worker.undone_results)
            self._notify_waiting()
            if worker.ended_cleanly:
                worker.is_gone = True
                return
            lost = worker.requeue(self._options.redeliver)
            self._false_starts += not worker.has_started
            if self._false_starts >= MOST_FALSE_STARTS:
                self._give_up(f"{self._false_starts} workers in a row died before they were ready")
            waiting = len(worker)
            worker.is_gone = self._has_given_up or (self._refusal is not None and not waiting)
        report = f"worker {worker.number} (pid {worker.pid}) died, {status}"
        log.error("%s; %s messages lost, %s wait for its successor", report, len(lost), waiting)
        if lost:
            self._listener.report_lost(lost, WorkerCrashed(report))
        if worker.is_gone:
            return
        try:
            with self._lock:
                self._start_worker(worker)
        except Exception as error:
            log.exception("worker %s cannot be replaced", worker.number)
            self._failure = error
            self.kill(f"worker {worker.number} cannot be replaced: {error}")
        self._listener.space_available(worker.number)

    def _lose_remaining(self) -> None:
        with self._lock:
            left = [envelope for worker in self._workers for envelope in worker.clear()]
            error = WorkerCrashed(self._refusal or "the pool was stopped")
        error.__cause__ = self._failure
        if self._has_given_up:
            log.error("%s; %s messages lost", error, len(left), exc_info=self._failure)
        if left:
            self._listener.report_lost(left, error)
        for worker in self._workers:
            self._listener.space_available(worker.number)


_pools: weakref.WeakSet[MessagePool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_pools):
        pool.after_fork()


os.register_at_fork(after_in_child=_after_fork)
