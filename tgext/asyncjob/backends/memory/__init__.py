"""The backend ``memory``: jobs in the memory of this process, lost when it ends.

    enqueue --> ready queue --> claim ... finish --> ended

One lock guards everything; no thread waits for anything while it holds the lock. A finalizer or a
signal handler may call the backend while its own thread holds the lock: see ``SpinLock``. A uid
names the process that made it. After a fork the child begins without jobs: those are the parent's.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from ...job import (
    READY,
    Claim,
    Job,
    JobId,
    Outcome,
    Progress,
    Snapshot,
    TaskResultStatus,
    WorkerId,
)
from ...policies import Keys
from ...uniqueness import UniqueKey
from ..audit import Audit
from ..base import Backend, Standing
from ..brief import Brief
from ..limits import KeyStates, KeyUse, OwnerStates
from ..listing import Counted, Cursor, Found, JobFilter
from ..overview import QueuePosition
from .listing import count, page
from .schedules import MemorySchedules
from .spinlock import SpinLock, running_deferred
from .steering import Steering

SECRETS = 256  #: random parts of uids that are generated at a time


class MemoryBackend(Steering, Backend):
    """See the module.

    retention_seconds: how long ended jobs are kept. max_crashes: deaths of its process after
    which a job has FAILED. clock: returns seconds since the epoch.
    """

    name = "memory"

    def __init__(
        self,
        *,
        retention_seconds: float = 604_800,
        max_crashes: int = 3,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._retention_seconds = retention_seconds
        self._max_crashes = max_crashes
        self._clock = clock
        self._schedules = MemorySchedules(
            self.new_uid, self.enqueue, clock, lambda: self._audit, self._leads_to
        )
        self.schedules = self._schedules
        self._begin()

    def _begin(self) -> None:
        self._origin = f"asyncjob_{os.getpid()}_{os.urandom(4).hex()}_"
        self._uids: deque[JobId] = deque()
        self._lock = SpinLock(__name__, Steering.__module__)
        self.audit = self._audit = Audit(self._clock)
        self._begin_jobs()

    def after_fork(self) -> None:
        self._begin()
        self._schedules.begin()

    # -- the client's side

    def new_uid(self) -> JobId:
        uids = self._uids
        try:
            return uids.popleft()
        except IndexError:
            # Many at once: the system call releases the interpreter lock, and a worker thread
            # would run in the middle of each request.
            origin, random = self._origin, os.urandom(16 * SECRETS).hex()
            made = [origin + random[at : at + 32] for at in range(0, len(random), 32)]
            uids.extend(cast("list[JobId]", made))
            return self.new_uid()

    def enqueue(self, jobs: Sequence[Job], connection: Any = None) -> None:
        now, lock = self._clock(), self._lock
        if lock.is_held() and lock.is_mine():
            lock.deferred.append(partial(self._enqueue, jobs, now))
            return
        with lock.once_free():
            self._enqueue(jobs, now)
        if lock.deferred:
            lock.run_deferred()

    def _leads_to(self, uid: str | None) -> str | None:
        entry = None if uid is None else self._unique.lead(uid)
        return None if entry is None else entry.job.uid

    @running_deferred
    def holders(self, keys: Collection[UniqueKey]) -> dict[str, JobId]:
        with self._lock.unless_mine():
            now = self._clock()
            return {
                key.key: entry.job.uid
                for key in keys
                if (entry := self._unique.holder(key, now)) is not None
            }

    @running_deferred
    def get(self, uid: str) -> Snapshot | None:
        with self._lock.unless_mine():
            record = self._find(uid)
            if record is None:
                return None
            found = record.snapshot(self._clock())
        return found if found.job.uid == uid else replace(found, is_duplicate=True)

    @running_deferred
    def progress(self, uid: str) -> Progress | None:
        with self._lock.unless_mine():
            record = self._find(uid)
            return None if record is None or record.status.is_final else record.progress

    @running_deferred
    def position(self, uid: str) -> QueuePosition | None:
        with self._lock.unless_mine():
            record, now = self._find(uid), self._clock()
            if record is None or record.status is not READY:
                return None
            if record.run_at is not None and record.run_at > now:
                return QueuePosition(True, 0, False)
            before = self._ready_queue.number_before(record, now)
            return QueuePosition(False, before, False, is_blocked=record.is_blocked)

    @running_deferred
    def uses(self, keys: Keys) -> list[KeyUse]:
        with self._lock.unless_mine():
            return self._ready_queue.uses(keys)

    @running_deferred
    def key_states(self) -> KeyStates:
        with self._lock.unless_mine():
            return self._ready_queue.key_states(tuple(self._records.values()))

    @running_deferred
    def owner_states(self) -> OwnerStates:
        with self._lock.unless_mine():
            return self._ready_queue.owner_states(tuple(self._records.values()))

    @running_deferred
    def blocked(self, uids: Collection[str]) -> set[str]:
        with self._lock.unless_mine():
            found = {uid: self._find(uid) for uid in uids}
            return {uid for uid, record in found.items() if record and record.is_blocked}

    def find(
        self, wanted: JobFilter, after: Cursor | None, limit: int, look_at: int | None = None
    ) -> Found:
        return page(tuple(self._records.values()), wanted, after, limit)

    def count(self, wanted: JobFilter, most: int, look_at: int | None = None) -> Counted:
        return count(tuple(self._records.values()), wanted, most)

    @running_deferred
    def briefs(self, uids: Collection[str]) -> dict[str, Brief]:
        with self._lock.unless_mine():
            now, records = self._clock(), self._records
            found = {
                uid: record
                for uid in uids
                if (record := records.get(uid) or self._unique.lead(uid)) is not None
            }
            before = self._ready_queue.numbers_before(list(found.values()))
            return {
                uid: record.brief(now, before.get(record.uid))._replace(uid=uid)
                for uid, record in found.items()
            }

    @running_deferred
    def wait_for_end(self, uid: str, seconds: float) -> None:
        if self._lock.is_mine():
            raise RuntimeError(
                "wait() expected to be called outside a finalizer or signal handler, got called "
                "by one that has interrupted the queue's own work, which would wait for itself; "
                "enqueue there a job that does what is to follow"
            )
        with self._lock.once_free():
            record = self._find(uid)
            entry = None if record is None else self._entry(record)
            if entry is None or entry.status.is_final:
                return
            if entry.ended is None:
                entry.ended = threading.Event()
            ended = entry.ended
        ended.wait(seconds)

    def counts(self, most: int | None = None) -> dict[TaskResultStatus, int]:
        found = Counter(record.status for record in tuple(self._records.values()))
        return {status: found[status] for status in TaskResultStatus}

    def waiting(self, most: int | None = None) -> int:
        return len(self._ready_queue) + self._unique.number_following

    # -- the worker's side

    def claim(self, worker_id: WorkerId, queues: Collection[str] | None, limit: int) -> list[Claim]:
        claims: list[Claim] = []
        now, lock = self._clock(), self._lock
        if lock.is_held() and lock.is_mine():
            return claims
        with lock.once_free():
            while len(claims) < limit and (claim := self._claim(queues, now)) is not None:
                claims.append(claim)
            if self._waiters.waiting:
                due = self._ready_queue.next_due()
                if due is not None:  # the thread that claims a job may have waited for that one
                    self._waiters.wake_by(due)
        if self._gone:
            self._gone.clear()
        if lock.deferred:
            lock.run_deferred()
        return claims

    @running_deferred
    def standing(self, claim: Claim, *, fresh: bool = False) -> Standing:
        with self._lock.unless_mine():
            entry = self._held(claim)
            if entry is None:
                return Standing.LOST
            return Standing.CANCELLED if entry.cancelled else Standing.HELD

    @running_deferred
    def fence(self, claim: Claim, connection: Any = None) -> bool:
        with self._lock.once_free():
            entry = self._held(claim)
            if entry is None or entry.cancelled:
                return False
            entry.fenced = True
            return True

    @running_deferred
    def unfence(self, claim: Claim) -> None:
        with self._lock.once_free():
            entry = self._held(claim)
            if entry is not None:
                entry.fenced = False

    def finish(self, claim: Claim, outcome: Outcome, connection: Any = None) -> bool:
        lock = self._lock
        with lock.once_free():
            stored = self._finish(claim, outcome)
        self._gone.clear()
        if lock.deferred:
            lock.run_deferred()
        return stored

    def finish_many(self, ends: Sequence[tuple[Claim, Outcome]]) -> list[bool]:
        with self._lock.once_free():
            stored = [self._finish(claim, outcome) for claim, outcome in ends]
        self._clear_up()
        return stored

    @running_deferred
    def release(self, claims: Iterable[Claim]) -> None:
        if self._lock.is_mine():
            self._lock.deferred.append(partial(self._release, list(claims)))
            return
        with self._lock.once_free():
            self._release(claims)

    @running_deferred
    def report(self, claim: Claim, progress: Progress) -> bool:
        with self._lock.unless_mine():
            entry = self._held(claim)
            if entry is None:
                return False
            _before = entry.progress  # dropped after the lock is released: see _gone
            entry.report(progress, self._clock())
            return not entry.cancelled

    def heartbeat(self, worker_id: WorkerId) -> list[tuple[JobId, int]]:
        return []  # the workers of this backend die with it

    def lost(self, worker_id: WorkerId) -> list[tuple[JobId, int]]:
        return []

    def rescue(self) -> int:
        return 0

    @running_deferred
    def wait(
        self, queues: Collection[str] | None, seconds: float, stopped: Callable[[], bool]
    ) -> None:
        with self._lock.once_free():
            now = self._clock()
            due = self._ready_queue.next_due()
            if due is not None:
                seconds = min(seconds, due - now)
            if seconds <= 0 or stopped() or self._ready_queue.has_ready(queues):
                return
            waiter = self._waiters.add(queues, now + seconds)
        self._lock.run_deferred()  # that may wake this thread
        is_woken = False
        try:
            is_woken = waiter.wait(seconds)
        finally:
            if not is_woken:  # who wakes it has removed it
                with self._lock.once_free():
                    self._waiters.remove(waiter)

    @running_deferred
    def wake(self) -> None:
        if self._lock.is_mine():
            self._lock.deferred.append(self._waiters.wake_all)
            return
        with self._lock.once_free():
            self._waiters.wake_all()

    def prune(self) -> int:
        before = self._clock() - self._retention_seconds
        self._audit.prune(before)
        with self._lock.once_free():
            self._statistics.prune()
            removed = self._prune(before)
        self._clear_up()
        return removed

    def _clear_up(self) -> None:
        self._gone.clear()
        self._lock.run_deferred()
