"""The worker of a queue in this process, started on demand, and ``run_pending()``."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from ..amount import whole
from ..backends.worker_id import new_worker_id
from ..options import Options
from ..processes.lifecycle import is_reloaded
from . import job_log
from .caller_thread import CallerWorker
from .environment import AttemptEnvironment
from .hosted import HostedWorker
from .scheduler import Scheduler
from .worker import Worker

log = logging.getLogger(__name__)


Kind = TypeVar("Kind", bound=Worker)

#: Seconds that ``stop`` waits for a start that is under way.
START_SECONDS = 2.0


class LocalWorker:
    """The worker of one queue in one process, at most one; any thread may use it.

    make_environment: called when the worker is started, since the queue may be given the
    application's session until then.
    """

    def __init__(
        self, options: Options, make_environment: Callable[[], AttemptEnvironment]
    ) -> None:
        self._options = options
        self._make_environment = make_environment
        self._warned = False
        self._leave_after: float | None = None
        #: Whether this process is to run jobs; a forked child inherits it.
        self.wanted = False
        self.begin()

    def begin(self) -> None:
        """Forget the worker: in a forked child its threads do not exist."""
        self._lock = threading.RLock()
        self._is_starting = False
        self._worker: Worker | None = None
        self._last: Worker | None = None  # the worker, also after it was stopped
        self._callers: set[CallerWorker] = set()  # of threads in run_pending()
        self._worker_id = new_worker_id(self._options.lease)
        self._stopped = False

    def arrange(
        self,
        *,
        threads: int | None = None,
        queues: tuple[str, ...] | None = None,
        leave_after: float | None = None,
    ) -> None:
        """Change options of the worker, which must not have been started yet.

        threads, queues: None: as the options say. leave_after: see WorkerThread.
        """
        changed: dict[str, Any] = {"threads": threads, "queues": queues}
        given = {name: value for name, value in changed.items() if value is not None}
        self._options = replace(self._options, **given)
        self._leave_after = leave_after

    def announce(self) -> None:
        """Start the worker if it is wanted, since jobs wait now; warn if nothing will run them."""
        if self._worker is not None:
            return
        self.serve()
        if self._stopped and self._options.backend == "memory":
            log.warning("a job waits, but its queue was closed: this process does not run it")
        elif self._options.threads == 0:
            self._warn()

    def serve(self) -> None:
        """Start the worker if it is wanted and does not run yet."""
        if self._worker is None and self.wanted and self._options.threads > 0:
            with self._lock:
                # A finalizer that enqueues may run in the middle of the start.
                if self._worker is None and not self._stopped and not self._is_starting:
                    self._is_starting = True
                    try:
                        self._start()
                    finally:
                        self._is_starting = False

    def host(self, on_stuck: Callable[[], None]) -> HostedWorker:
        """Start a worker whose threads are those of another program; instead of ``serve``.

        on_stuck: see HostedWorker.
        """
        with self._lock:
            worker = self._make(HostedWorker)
            worker.on_stuck = on_stuck
            self._worker = self._last = worker
            worker.start()
        return worker

    def _make(self, kind: type[Kind]) -> Kind:
        return kind(
            self._worker_id,
            self._make_environment(),
            threads=self._options.threads,
            queues=self._options.queues,
            lease_seconds=self._options.lease,
            death_is_expected=is_reloaded(),
        )

    def _start(self) -> None:
        worker = self._make(Worker)
        worker.leave_after = self._leave_after
        self._last = worker
        worker.start()
        if self._stopped:
            worker.stop(0.0)  # the queue was closed meanwhile
        else:
            self._worker = worker

    def _warn(self) -> None:
        if self._options.backend == "memory" and not self._warned:
            self._warned = True
            log.warning(
                "asyncjob.threads is 0 and jobs wait in this process's memory: they do not run "
                "unless run_pending() is called; set asyncjob.threads"
            )

    def run_pending(self, limit: int | None) -> int:
        """Run what is due in the calling thread; return how many jobs ran.

        limit: how many to run at most; None: no limit. Raises what the backend raises.
        """
        most = math.inf if limit is None else whole("limit", limit)
        job_log.install()
        environment = self._make_environment()
        environment.backend.rescue()
        scheduler = Scheduler(environment.backend.schedules)
        scheduler.declare()
        environment.backend.schedules.fire()
        worker = CallerWorker(
            new_worker_id(self._options.lease),
            environment,
            threads=0,
            queues=self._options.queues,
            lease_seconds=self._options.lease,
        )
        self._callers.add(worker)
        try:
            return worker.run(most)
        finally:
            self._callers.discard(worker)

    def stop(self) -> None:
        """Drain the worker; no other one is started."""
        self._stopped = True
        # The thread that starts it may wait for a server that does not answer.
        is_locked = self._lock.acquire(timeout=START_SECONDS)
        worker, self._worker = self._worker, None
        if is_locked:
            self._lock.release()
        for each in (*self._callers, *([] if worker is None else [worker])):
            each.stop(self._options.drain_timeout)

    # -- read by the loop of a worker process

    @property
    def ran(self) -> int:
        """How many jobs the worker has run."""
        return 0 if self._last is None else self._last.ran

    @property
    def has_left(self) -> bool:
        """Whether all threads of the worker have ended, since nothing was due."""
        return self._last is not None and self._last.has_left

    @property
    def is_degraded(self) -> bool:
        """Whether too many threads of the worker hang in jobs that cannot be stopped."""
        return self._last is not None and self._last.is_degraded

    def stop_now(self) -> None:
        """Release the jobs that still run, while another thread stops the worker."""
        if self._last is not None:
            self._last.stop_now()
