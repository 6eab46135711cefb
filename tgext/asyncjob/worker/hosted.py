"""A worker whose worker threads are those of another program, which lends them for a while.

    thread of that program                   claim, run, store outcomes, for some seconds
    timeout monitor, maintenance, heartbeat  as in any worker, as long as the process lives

The other program decides when a thread is lent: it has had a wake-up. Everything else is as in any
worker. Several threads may be lent at once, each to one call of ``run``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ..current import queue_var
from .caller_thread import CallerThread
from .thread import log_fault
from .worker import Worker

log = logging.getLogger(__name__)

#: Seconds that a thread may still hang in a job that was abandoned, before ``on_stuck`` is called.
STUCK_SECONDS = 2.0


class HostedThread(CallerThread):
    """One loan of a thread."""

    def lend(self, seconds: float, batch: int, claimed: Callable[[bool], None]) -> int:
        """Run what is due, and claim for *seconds*; return the batch for the thread's next loan.

        claimed: called after the first claim, with whether it may have left jobs.
        """
        self._batch = batch
        until, is_first = time.monotonic() + seconds, True
        try:
            while not self._stopping.is_set():
                claims = self._backend.claim(self._worker_id, self._queues, self._batch)
                if is_first:
                    self._say(claimed, len(claims) == self._batch)
                    is_first = False
                if not claims:
                    return 1
                if not self._run_all(claims) or time.monotonic() >= until:
                    return self._batch
            return 1
        except Exception as error:  # noqa: BLE001 - of the backend; the relay finds what waits
            log_fault(self._backend, "cannot claim", error)
            return 1
        finally:
            self._left.set()
            self._on_end(self)

    def _say(self, claimed: Callable[[bool], None], may_have_left: bool) -> None:
        """Say what a claim has left. Whatever that raises: the jobs that are claimed must run."""
        try:
            claimed(may_have_left)
        except Exception as error:  # noqa: BLE001 - of the backend; the relay finds what waits
            log_fault(self._backend, "cannot look for more jobs", error)


class HostedWorker(Worker):
    """See the module.

    threads: how many threads may be lent at once; only for what others are told.
    """

    #: called by a thread of the worker if a lent thread hangs in a job that was abandoned: it
    #: cannot be replaced here
    on_stuck: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batches = threading.local()

    def run(self, seconds: float, claimed: Callable[[bool], None]) -> int:
        """Run what is due in the calling thread, and claim for *seconds*; return how many jobs ran.

        A job that is claimed runs to its end. Returns at once if the worker is stopping. Raises
        nothing but what a job raises in the main thread as a KeyboardInterrupt.
        """
        if self._stopping.is_set():
            return 0
        token = queue_var.set(self._environment.queue)
        thread: HostedThread = self._make_thread(HostedThread)
        with self._lock:
            self._threads.add(thread)
        try:
            batch = getattr(self._batches, "last", 1)
            self._batches.last = thread.lend(seconds, batch, claimed)
        finally:
            queue_var.reset(token)
        return thread.ran

    def _start_threads(self) -> None:
        """Start none: they are lent."""

    def _add_thread(self) -> None:
        """Note that a thread hangs in an abandoned job: it cannot be replaced."""
        timer = threading.Timer(STUCK_SECONDS, self._look_for_stuck)
        timer.name, timer.daemon = "asyncjob-stuck", True
        timer.start()

    def _look_for_stuck(self) -> None:
        if self._timeouts.hung and not self._stopping.is_set():
            self.on_stuck()
