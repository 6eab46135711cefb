"""The worker of ``run_pending()``, whose one worker thread is the calling thread.

    calling thread                           claim, run, store outcomes, until nothing is due
    timeout monitor, maintenance, heartbeat  as in any worker, from the first job until the return

So a long job keeps its claim, a timeout ends it, and a job whose claim is lost is interrupted.
Errors of the backend are raised to the caller; a worker thread would try again.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..job import Claim
from .safe_points import restore_handled
from .thread import WorkerThread
from .worker import Worker


class CallerThread(WorkerThread):
    """A worker thread that is not started: it is the thread that makes it and calls ``serve``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._caller = threading.current_thread()
        self._left = threading.Event()

    @property
    def is_current(self) -> bool:
        return self._caller is threading.current_thread()

    def is_alive(self) -> bool:
        return not self._left.is_set()

    def join(self, timeout: float | None = None) -> None:
        self._left.wait(timeout)

    def serve(self, most: float, before_first: Callable[[], None]) -> bool:
        """Run what is due, at most *most* jobs.

        before_first: called before each job. Returns False if an attempt was abandoned, after its
        timeout or by a drain: this object then runs no more jobs.
        """
        claims: list[Claim] = []
        handled = sys.exc_info()[1]
        try:
            while self.ran < most and not self._stopping.is_set():
                claims = self._backend.claim(self._worker_id, self._queues, 1)
                if not claims:
                    return True
                before_first()
                is_wanted = self._run(claims[0])
                restore_handled(handled)
                if not is_wanted:
                    return False
                self._store_outcomes()
            return True
        except BaseException:  # a KeyboardInterrupt may come at any line
            with suppress(Exception):
                self._backend.release(claims)  # has no effect on a job that has ended
            raise
        finally:
            self._left.set()
            self._on_end(self)


class CallerWorker(Worker):
    """A worker for one call of ``run``, in the thread that makes it."""

    def run(self, limit: float) -> int:
        """Run what is due, at most *limit* jobs; return how many ran.

        Raises what the backend raises. However it ends, this worker then holds no claim.
        """
        ran = 0
        try:
            while True:
                thread = self._make_caller_thread()
                is_through = thread.serve(limit - ran, self._start_service_threads)
                ran += thread.ran
                if is_through:
                    return ran
        finally:
            self._stopping.set()
            self._end_service_threads()
            self._try(lambda: self._backend.dismiss(self.id), "say that it has run what was due")

    def _make_caller_thread(self) -> CallerThread:
        thread: CallerThread = self._make_thread(CallerThread)
        with self._lock:
            self._threads.add(thread)
        return thread
