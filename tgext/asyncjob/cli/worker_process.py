"""Runs one worker process: loads the application, runs its jobs, drains, returns an exit status.

    stop signals -------.
    nothing is due -----+--> polled by the main thread --> drain --> exit status
    share of jobs, RSS -'

The main thread only polls, with short waits, so that a signal takes effect at once.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from ..processes.forking import set_title, signal_name
from ..processes.recycling import RecycleLimits
from ..processes.supervisor import NOTHING_LEFT, RECYCLED
from ..queue import JobQueue
from ..wording import number_of
from ..worker import job_log
from ..worker.child_process import has_process_tasks
from .command_result import Load
from .shared_backend import overview_of

log = logging.getLogger(__name__)

#: Seconds between two checks of the main thread.
POLL_SECONDS = 0.1

#: Seconds that a drain may take beyond ``drain_timeout``, to store the outcomes of the jobs.
MARGIN_SECONDS = 1.4

#: Seconds for the release of running jobs after a second signal.
STOP_NOW_SECONDS = 3.0

#: A second signal counts from so many seconds after the first: a service manager and a supervisor,
#: or a terminal, may both send the same one.
SECOND_SECONDS = 1.0


@dataclass(frozen=True)
class WorkerArguments:
    """Arguments of worker processes; None: as in the application's options."""

    threads: int | None = None
    queues: tuple[str, ...] | None = None
    leave_after: float | None = None  #: number of jobs after which it exits; also when none is due
    recycle_limits: RecycleLimits = field(default_factory=RecycleLimits)


class StopSignals:
    """The signals that stop this process: the first one drains it, the second stops it at once.

    Handles the signals *handled* from now on; made in the main thread.

    Plain attributes and no Event: a handler interrupts the main thread, which may hold the lock of
    the event.
    """

    def __init__(self, handled: Iterable[signal.Signals]) -> None:
        self.by: str | None = None  #: the name of the first signal
        self.is_urgent = False  #: whether it came twice
        self._first_at = 0.0
        self._before = {each: signal.signal(each, self._on_signal) for each in handled}

    def _on_signal(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self.by is None:
            self.by, self._first_at = signal_name(number), now
        elif now - self._first_at >= SECOND_SECONDS:
            self.is_urgent = True

    def close(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def run_worker(load: Load, arguments: WorkerArguments, handled: Iterable[signal.Signals]) -> int:
    """Load the application and run its jobs until a stop signal; return the exit status.

    Called in the main thread. handled: the stop signals. Until the application is loaded they end
    the process at once. Raises ConfigError if other processes cannot see the application's jobs,
    and what loading it raises.
    """
    queue: JobQueue = load()
    job_log.install()  # the first line comes before any thread that would do so
    with queue:
        overview = overview_of(queue)
        threads = arguments.threads or queue.options.threads or 1
        queues = arguments.queues or queue.options.queues
        stop_signals = StopSignals(handled)
        try:
            queue.local_worker.arrange(
                threads=threads, queues=queues, leave_after=arguments.leave_after
            )
            served = "all" if queues is None else ",".join(queues)
            set_title(f"{number_of(threads, 'thread')}, queues {served}")
            log.info(
                "worker process %d begins: database %s, %s, queues %s, notified of new jobs %s",
                os.getpid(), overview.database(), number_of(threads, "thread"), served,
                overview.notification(),
            )  # fmt: skip
            if has_process_tasks():
                queue.open_fork_server()  # there is no thread yet whose locks it would copy
            return _run(queue, arguments, stop_signals)
        finally:
            stop_signals.close()


def _run(queue: JobQueue, arguments: WorkerArguments, stop_signals: StopSignals) -> int:
    begun_at = time.monotonic()
    queue.start_worker()
    status, why = _wait_for_end(queue, arguments, stop_signals)
    if stop_signals.by is not None:
        log.info(
            "worker process %d received %s: it claims no more jobs, and running ones have %gs "
            "to end", os.getpid(), stop_signals.by, queue.options.drain_timeout,
        )  # fmt: skip
    _drain(queue, stop_signals)
    log.info(
        "worker process %d ends after %.1fs, %s: %s", os.getpid(), time.monotonic() - begun_at,
        number_of(queue.local_worker.ran, "job"), why,
    )  # fmt: skip
    return status


def _wait_for_end(
    queue: JobQueue, arguments: WorkerArguments, stop_signals: StopSignals
) -> tuple[int, str]:
    """Wait until the process is to end; return its exit status, and the reason."""
    local_worker, pause = queue.local_worker, threading.Event()
    while True:
        if stop_signals.by is not None:
            return RECYCLED, f"received {stop_signals.by}"
        if local_worker.has_left:
            is_full = (
                arguments.leave_after is not None
                and arguments.leave_after < inf
                and local_worker.ran
            )
            return NOTHING_LEFT, "it was to run one" if is_full else "nothing more is due"
        if local_worker.is_degraded:
            return RECYCLED, "too many of its threads hang in jobs that are over their timeout"
        # Only after its first job: a process that is too large at start would never run one.
        if local_worker.ran and arguments.recycle_limits.are_reached(local_worker.ran):
            return RECYCLED, "it has run its share"
        pause.wait(POLL_SECONDS)


def _drain(queue: JobQueue, stop_signals: StopSignals) -> None:
    """Let running jobs end within ``drain_timeout``; release them at a second signal."""
    # Not in this thread: it has to handle the second signal.
    closing = threading.Thread(target=queue.close, name="asyncjob-closing", daemon=True)
    closing.start()
    until = time.monotonic() + queue.options.drain_timeout + MARGIN_SECONDS
    while closing.is_alive() and time.monotonic() < until:
        closing.join(POLL_SECONDS)
        if stop_signals.is_urgent:
            log.warning("received a second signal: releasing the jobs that still run")
            stopping = threading.Thread(
                target=queue.local_worker.stop_now, name="asyncjob-stop-now", daemon=True
            )
            stopping.start()
            stopping.join(STOP_NOW_SECONDS)
            closing.join(POLL_SECONDS)  # a thread that is stuck is not waited for
            return
