"""The worker: its worker threads, and the threads that watch over them.

    worker threads   claim, run, store outcomes (thread.py)
    timeout monitor  timeouts; uses no backend, which may be slow; wakes maintenance
    maintenance      release of prefetched claims, rescue of dead workers' jobs, pruning, schedules,
                     statistics
    heartbeat        renews the worker's lease; attempts of lost claims are interrupted

All threads are daemons: others would delay the interpreter's exit until their jobs end. On a
backend of one process only there is no heartbeat, and the timeout monitor prunes, and calls the
schedules.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from ..bounded import within
from ..job import WorkerId
from . import job_log
from .environment import AttemptEnvironment
from .heartbeat import Heartbeat
from .scheduler import Scheduler
from .thread import LONGEST_SLEEP, WorkerThread, log_fault
from .timeouts import GRACE_SECONDS, Timeouts

log = logging.getLogger(__name__)

#: Seconds between rescues: so a job of a worker that has died runs again within 2 s.
RESCUE_SECONDS = 1.5

#: Seconds between checks which job holds the write lock, while jobs run.
LOCK_SECONDS = 0.5

#: Seconds between prunings, and after one that removed so many jobs that more may be left.
PRUNE_SECONDS, PRUNE_AGAIN_SECONDS, MANY_PRUNED = 60.0, 0.2, 500

#: Seconds between two parts of a count of what has ended, if there is much of it.
COUNT_SECONDS = 1.0

#: Seconds that a stopping worker waits for each of its last calls of the backend.
LEAVE_SECONDS = 2.0


class Worker:
    """Runs the jobs of *queues* on *threads* threads, until it is stopped.

    worker_id: the id that it claims with. queues: names of queues; None: all. threads: 0: a
    CallerWorker, which starts no worker thread, and neither rescues nor prunes. lease_seconds: how
    long its claims last without a heartbeat. death_is_expected: whether its death does not count as
    a crash of its jobs. Started once, stopped once.
    """

    def __init__(
        self,
        worker_id: WorkerId,
        environment: AttemptEnvironment,
        *,
        threads: int,
        queues: Collection[str] | None,
        lease_seconds: float = 20.0,
        death_is_expected: bool = False,
    ) -> None:
        self.id = worker_id
        self._backend = environment.backend
        self._environment = environment
        self._queues = queues
        self._thread_count = threads
        self._lease_seconds = lease_seconds
        self._death_is_expected = death_is_expected
        #: ``leave_after`` of each worker thread; set before the start
        self.leave_after: float | None = None
        self._stopping = threading.Event()
        # After the last worker thread: until then its lease is renewed.
        self._ended = threading.Event()
        self._deadline_changed = threading.Event()  # wakes the timeout monitor
        self._maintenance_due = threading.Event()
        self._lock = threading.RLock()
        self._threads: set[WorkerThread] = set()
        self._timeouts = Timeouts(
            self._backend, threads, remove=self._remove, replace=self._add_thread,
            wake_maintenance=self._maintenance_due.set,
        )  # fmt: skip
        self._heartbeat = Heartbeat(self.id, self._backend, lease_seconds, revoke=self._revoke)
        self._scheduler: Scheduler | None = None  # of a worker with threads of its own
        self._watches_locks = False
        self._made = 0
        self._ran = 0
        self._service_threads: list[threading.Thread] = []

    def start(self) -> None:
        """Register the worker, and start its threads."""
        job_log.install()
        try:
            self._backend.register(
                self.id, self._queues, self._thread_count, expendable=self._death_is_expected
            )
        except Exception:
            # The worker threads and the heartbeat register it later.
            log.exception("cannot register the worker yet")
        if self.leave_after is not None:  # the jobs of a dead worker are due too
            self._try(self._backend.rescue, "look for dead workers")
        self._start_threads()
        self._start_service_threads()

    def _start_threads(self) -> None:
        for _ in range(self._thread_count):
            self._add_thread()

    def _start_service_threads(self) -> None:
        """Start timeout monitor, maintenance and heartbeat, once."""
        if self._service_threads:
            return
        self._heartbeat.start()  # registering it may have taken long
        if self._thread_count:
            is_shared = self._backend.is_shared
            wake = self._maintenance_due.set if is_shared else self._deadline_changed.set
            self._scheduler = Scheduler(self._backend.schedules, wake)
        loops: dict[str, Callable[[], None]] = {"timeouts": self._monitor_timeouts}
        if self._backend.is_shared:
            loops["maintenance"] = self._maintain
            loops["heartbeat"] = lambda: self._heartbeat.run_until(self._ended)
        self._service_threads = [
            threading.Thread(target=loop, name=f"asyncjob-{name}", daemon=True)
            for name, loop in loops.items()
        ]
        for thread in self._service_threads:
            thread.start()

    @property
    def ran(self) -> int:
        """How many jobs it has run."""
        with self._lock:
            return self._ran + sum(thread.ran for thread in self._threads)

    @property
    def has_left(self) -> bool:
        """Whether every worker thread has ended."""
        with self._lock:
            return self._made > 0 and not self._threads

    @property
    def is_degraded(self) -> bool:
        """Whether too many of its threads hang in jobs that cannot be stopped."""
        return self._timeouts.is_degraded

    def stop(self, drain_seconds: float) -> None:
        """Claim nothing more, wait *drain_seconds* for the jobs that run, then release them.

        Returns when every worker thread has ended or its job was released.
        """
        self._stopping.set()
        self._deadline_changed.set()
        self._maintenance_due.set()
        self._backend.wake()
        self._leave(GRACE_SECONDS, lambda: self._backend.retire(self.id), "say that it stops")
        if not self._join(drain_seconds):
            self.stop_now()
        self._end_service_threads()

    def _end_service_threads(self) -> None:
        """End timeout monitor, maintenance and heartbeat."""
        self._ended.set()
        self._deadline_changed.set()
        self._maintenance_due.set()
        me = threading.current_thread()
        for thread in self._service_threads:
            if thread is not me and thread.is_alive():
                thread.join(GRACE_SECONDS)
        self._leave(LEAVE_SECONDS, self._timeouts.store_outcomes, "store that a job has timed out")

    def stop_now(self) -> None:
        """Interrupt the jobs that run, and release them."""
        for thread in self._other_threads():
            thread.stop()
        if not self._join(GRACE_SECONDS):
            left = self._other_threads()
            self._leave(LEAVE_SECONDS, lambda: self._give_back(left), "give back what runs")
        self._join(GRACE_SECONDS)

    def _give_back(self, threads: list[WorkerThread]) -> None:
        for thread in threads:
            self._try(thread.give_back, "give back what runs")

    def _leave(self, seconds: float, act: Callable[[], object], what: str) -> None:
        """Call the backend while the worker stops, with a time limit: it may never answer."""
        if self._backend.is_shared:
            within(seconds, lambda: self._try(act, what), what)
        else:
            self._try(act, what)

    # -- worker threads

    def _make_thread(self, kind: type[WorkerThread]) -> Any:
        self._made += 1
        return kind(
            f"asyncjob-{self._made}",
            self._environment,
            (self.id, self._queues),
            stopping=self._stopping,
            deadline_changed=self._deadline_changed.set,
            ended=self._remove,
        )

    def _add_thread(self) -> None:
        with self._lock:
            if self._stopping.is_set() or not self._thread_count:
                return
            thread = self._make_thread(WorkerThread)
            thread.leave_after = self.leave_after
            thread.start()
            self._threads.add(thread)

    def _other_threads(self) -> list[WorkerThread]:
        """The worker threads except the current one: a job may close its own queue."""
        with self._lock:
            return [thread for thread in self._threads if not thread.is_current]

    def _join(self, seconds: float) -> bool:
        """Wait for the worker threads to end; True if they all have."""
        until = time.monotonic() + seconds
        for thread in self._other_threads():
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._other_threads())

    def _remove(self, thread: WorkerThread) -> None:
        with self._lock:
            if thread in self._threads:
                self._threads.discard(thread)
                self._ran += thread.ran

    # -- timeout monitor

    def _monitor_timeouts(self) -> None:
        due = math.inf if self._backend.is_shared or not self._thread_count else time.monotonic()
        while not self._ended.is_set():
            self._deadline_changed.clear()
            nearest = time.monotonic() + LONGEST_SLEEP
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + PRUNE_SECONDS
                    self._backend.prune()
                nearest = min(
                    self._timeouts.enforce(self._other_threads()), self._check_prefetched()
                )
                if self._backend.is_shared:
                    nearest = min(nearest, self._heartbeat.check())
                else:
                    nearest = min(nearest, self._run_schedules())
            except Exception:
                log.exception("the timeout monitor could not check the attempts")
            if self._stopping.is_set():
                self._ended.wait(GRACE_SECONDS)
            else:
                self._deadline_changed.wait(max(0.0, min(due, nearest) - time.monotonic()))

    def _check_prefetched(self) -> float:
        """Wake maintenance if prefetched claims are to be released; return when to look again."""
        now = time.monotonic()
        nearest = now + LONGEST_SLEEP
        for thread in self._other_threads():
            due = thread.release_due()
            if due is not None:
                if due <= now:
                    self._maintenance_due.set()
                    due = now + GRACE_SECONDS
                nearest = min(nearest, due)
        return nearest

    # -- maintenance

    def _maintain(self) -> None:
        rescue_at = prune_at = count_at = time.monotonic() if self._thread_count else math.inf
        while not self._ended.is_set():
            self._maintenance_due.clear()
            for thread in self._other_threads():
                due = thread.release_due()
                if due is not None and due <= time.monotonic():
                    self._try(thread.release_prefetched, "give back claimed jobs")
            self._try(self._timeouts.store_outcomes, "store that a job has timed out")
            now = time.monotonic()
            if self._stopping.is_set():
                rescue_at = prune_at = count_at = now + GRACE_SECONDS
            if now >= rescue_at:
                rescue_at = now + RESCUE_SECONDS * random.uniform(0.97, 1.0)
                self._try(self._backend.rescue, "look for dead workers")
            self._try(self._watch_locks, "look who holds locks")
            look_at = now + (LOCK_SECONDS if self._watches_locks else LONGEST_SLEEP)
            tick_at = math.inf
            if self._watches_locks and self._try(self._backend.is_locked, "look for locks"):
                # What writes would wait for that lock, and nobody would look who holds it.
                count_at, prune_at = max(count_at, look_at), max(prune_at, look_at)
            else:
                if now >= count_at:  # first: what is removed is counted no more
                    count_at = time.monotonic() + self._count_ended()
                if now >= prune_at:
                    prune_at = time.monotonic() + self._prune()
                tick_at = self._run_schedules()
            self._maintenance_due.wait(
                max(0.0, min(rescue_at, prune_at, count_at, look_at, tick_at) - time.monotonic())
            )

    def _prune(self) -> float:
        """Remove old jobs; return in how many seconds to go on."""
        removed = self._try(self._backend.prune, "remove old jobs")
        has_more = isinstance(removed, int) and removed >= MANY_PRUNED
        return PRUNE_AGAIN_SECONDS if has_more else PRUNE_SECONDS * random.uniform(0.5, 1.5)

    def _count_ended(self) -> float:
        """Count what has ended, for the statistics; return in how many seconds to go on."""
        has_more = self._try(self._backend.statistics.collect, "count what has ended")
        return COUNT_SECONDS if has_more else PRUNE_SECONDS * random.uniform(0.5, 1.5)

    def _run_schedules(self) -> float:
        """Enqueue the jobs of ticks that are due; return when to do it again."""
        scheduler = self._scheduler
        if scheduler is None or self._stopping.is_set():
            return math.inf
        if scheduler.due_at <= time.monotonic():
            self._try(scheduler.run, "enqueue the jobs of schedules")
        return scheduler.due_at

    def _watch_locks(self) -> None:
        """Have the backend log which job holds its write lock, if it can tell."""
        begun_before = time.monotonic() - LOCK_SECONDS
        attempts = [thread.attempt for thread in self._other_threads()]
        running = [
            (attempt.uid, connection)
            for attempt in attempts
            if attempt is not None and attempt.started < begun_before
            for connection in attempt.connections
        ]
        self._watches_locks = self._backend.watch_locks(self.id, running) and any(attempts)

    def _try(self, act: Callable[[], object], what: str) -> object:
        try:
            return act()
        except Exception as error:  # noqa: BLE001 - the worker survives each fault of the store
            log_fault(self._backend, f"could not {what}", error)
            return None

    def _revoke(self, claims: Collection[tuple[str, int]] | None) -> None:
        for thread in self._other_threads():
            thread.revoke(claims)
