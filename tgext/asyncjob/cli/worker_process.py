"""One worker process, from the loaded application to the last line of its log.

    orders (signals) ---.
    nothing is due -----+--> the watch of the main thread --> drain --> exit status
    share of jobs, RSS -'

The main thread only watches, and each of its waits has a bound, so that a signal is heard at once.
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

from ..processes.forking import set_title
from ..processes.recycling import RecycleLimits
from ..processes.supervisor import NOTHING_LEFT, RECYCLED
from ..queue import JobQueue
from ..worker import job_log
from ..worker.child_process import has_process_tasks
from .command_result import Load, number_of
from .durable import overview_of
from .signals import Orders

log = logging.getLogger(__name__)

#: Seconds between two looks of the main thread.
LOOK_SECONDS = 0.1

#: Seconds that a drain may take beyond ``drain_timeout``: to store what became of the jobs.
MARGIN_SECONDS = 1.4

#: Seconds in which running jobs are given back after a second signal.
STOP_NOW_SECONDS = 3.0


@dataclass(frozen=True)
class Plan:
    """How worker processes are to work; None: as the application's options say."""

    threads: int | None = None
    queues: tuple[str, ...] | None = None
    leave_after: float | None = None  #: jobs after which, or after the last one due, it leaves
    recycle_limits: RecycleLimits = field(default_factory=RecycleLimits)


def work(load: Load, plan: Plan, heard: Iterable[signal.Signals]) -> int:
    """Load the application and work for it until told to end; return the exit status.

    heard: the signals that tell it. Before they are heard they end the process at once, and
    nothing runs yet. Raises ConfigError for an application whose jobs only it can see, and what
    loading it raises. In the main thread.
    """
    queue: JobQueue = load()
    job_log.install()  # the first line comes before any thread that would do so
    with queue:
        overview = overview_of(queue)
        threads = plan.threads or queue.options.threads or 1
        queues = plan.queues or queue.options.queues
        orders = Orders(heard)
        try:
            queue.local_worker.arrange(threads=threads, queues=queues, leave_after=plan.leave_after)
            served = "all" if queues is None else ",".join(queues)
            set_title(f"{number_of(threads, 'thread')}, queues {served}")
            log.info(
                "worker process %d begins: database %s, %s, queues %s, hears of new jobs %s",
                os.getpid(), overview.database(), number_of(threads, "thread"), served,
                overview.notification(),
            )  # fmt: skip
            if has_process_tasks():
                queue.open_fork_server()  # there is no thread yet whose locks it would copy
            return _shift(queue, plan, orders)
        finally:
            orders.close()


def _shift(queue: JobQueue, plan: Plan, orders: Orders) -> int:
    begun_at = time.monotonic()
    queue.start_worker()
    status, why = _watch(queue, plan, orders)
    if orders.by is not None:
        log.info(
            "worker process %d was told to end by %s: it takes no more jobs, and gives what runs "
            "%gs", os.getpid(), orders.by, queue.options.drain_timeout,
        )  # fmt: skip
    _drain(queue, orders)
    log.info(
        "worker process %d ends after %.1fs, %s: %s", os.getpid(), time.monotonic() - begun_at,
        number_of(queue.local_worker.ran, "job"), why,
    )  # fmt: skip
    return status


def _watch(queue: JobQueue, plan: Plan, orders: Orders) -> tuple[int, str]:
    """Return when the process is to end: its exit status, and why."""
    local_worker, pause = queue.local_worker, threading.Event()
    while True:
        if orders.by is not None:
            return RECYCLED, f"told by {orders.by}"
        if local_worker.has_left:
            is_full = plan.leave_after is not None and plan.leave_after < inf and local_worker.ran
            return NOTHING_LEFT, "it was to run one" if is_full else "nothing more is due"
        if local_worker.is_degraded:
            return RECYCLED, "too many of its threads hang in jobs that are over their timeout"
        # Not before its first job: one that is too large from its start would never run any.
        if local_worker.ran and plan.recycle_limits.are_reached(local_worker.ran):
            return RECYCLED, "it has run its share"
        pause.wait(LOOK_SECONDS)


def _drain(queue: JobQueue, orders: Orders) -> None:
    """Let what runs end within ``drain_timeout``, or give it back at a second order."""
    # Not in this thread: it has to hear the second order.
    closing = threading.Thread(target=queue.close, name="asyncjob-closing", daemon=True)
    closing.start()
    until = time.monotonic() + queue.options.drain_timeout + MARGIN_SECONDS
    while closing.is_alive() and time.monotonic() < until:
        closing.join(LOOK_SECONDS)
        if orders.is_urgent:
            log.warning("told a second time: giving back what still runs")
            stopping = threading.Thread(
                target=queue.local_worker.stop_now, name="asyncjob-stop-now", daemon=True
            )
            stopping.start()
            stopping.join(STOP_NOW_SECONDS)
            closing.join(LOOK_SECONDS)  # a thread that is stuck is not waited for
            return
