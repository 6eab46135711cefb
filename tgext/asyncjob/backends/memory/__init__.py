"""Jobs in this process's memory: nothing to install, gone with the process.

    enqueue --> line --> claim ... finish --> ended

One lock guards everything; nothing waits while it holds it. The uid tells which process made it.
After a fork the child begins with no jobs: its copies are the parent's.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, cast

from ...backend import ClaimingBackend
from ...errors import UnknownJob
from ...job import (
    CANCELLED,
    NO_PROGRESS,
    READY,
    RUNNING,
    SUCCESSFUL,
    Claim,
    Job,
    JobId,
    Outcome,
    Progress,
    Snapshot,
    TaskResultStatus,
    WorkerId,
)
from .brieflock import BriefLock
from .line import Entry, Line, due_at
from .sleepers import Sleepers

#: Ended jobs kept whatever ``retention`` says, so that a process that runs for a year at a
#: million jobs a day does not grow. What each takes is up to its arguments and its result.
MOST_ENDED = 10_000

SECRETS = 256  #: random parts of uids that are drawn at a time

_UID = re.compile(r"asyncjob_(\d+)_([0-9a-f]{8})_[0-9a-f]{32}", re.ASCII)


class MemoryBackend(ClaimingBackend):
    """See the module.

    retention_seconds: how long ended jobs are kept. max_crashes: deaths that a job may cause of
    the process that runs it. clock: gives seconds since the epoch.
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
        self._begin()

    def _begin(self) -> None:
        self._origin = f"asyncjob_{os.getpid()}_{os.urandom(4).hex()}_"
        self._uids: deque[JobId] = deque()
        self._lock = BriefLock()
        self._sleepers = Sleepers()
        self._entries: dict[str, Entry] = {}
        self._line = Line()
        self._ended: deque[Entry] = deque()
        #: removed; let go of without the lock, since a __del__ of the application's may enqueue
        self._gone: deque[Entry] = deque()
        self._leases = 0

    def after_fork(self) -> None:
        self._begin()

    # -- the side that enqueues and asks

    def new_uid(self) -> JobId:
        uids = self._uids
        try:
            return uids.popleft()
        except IndexError:
            # Many at once: the system call lets go of the interpreter, and with it in every
            # request a worker would cut in.
            origin, random = self._origin, os.urandom(16 * SECRETS).hex()
            made = [origin + random[at : at + 32] for at in range(0, len(random), 32)]
            uids.extend(cast("list[JobId]", made))
            return self.new_uid()

    def enqueue(self, jobs: Sequence[Job], connection: Any = None) -> None:
        now = self._clock()
        with self._lock():
            for job in jobs:
                entry = self._entries[job.uid] = Entry(job, now)
                if job.run_after is not None:
                    entry.run_at = due_at(job.run_after, now)
                self._let_wait(entry)

    def get(self, uid: str) -> Snapshot | None:
        with self._lock():
            entry = self._find(uid)
            return None if entry is None else entry.snapshot()

    def progress(self, uid: str) -> Progress | None:
        with self._lock():
            entry = self._find(uid)
            return None if entry is None or entry.status.is_final else entry.progress

    def cancel(self, uid: str, connection: Any = None) -> bool | None:
        with self._lock():
            entry = self._find(uid)
            if entry is None:
                return None
            if entry.status.is_final or entry.fenced:
                return False
            entry.cancelled = True
            if entry.status is READY:
                self._end(entry, CANCELLED)
                self._line.leave(entry)
            return True

    def retry(self, uid: str, connection: Any = None) -> bool | None:
        with self._lock():
            entry = self._find(uid)
            if entry is None:
                return None
            if not entry.status.is_final:
                return False
            self._ended.remove(entry)
            entry.budget = entry.attempts + entry.job.options.max_attempts
            entry.run_at = entry.finished_at = entry.ended = None
            entry.cancelled, entry.crashes = False, 0
            _before, entry.progress = entry.progress, NO_PROGRESS
            entry.ticket = 0  # to the end of the line
            self._let_wait(entry)
            return True

    def wait_for_end(self, uid: str, seconds: float) -> None:
        with self._lock():
            entry = self._find(uid)
            if entry is None or entry.status.is_final:
                return
            if entry.ended is None:
                entry.ended = threading.Event()
            ended = entry.ended
        ended.wait(seconds)

    def counts(self) -> dict[TaskResultStatus, int]:
        found = Counter(entry.status for entry in tuple(self._entries.values()))
        return {status: found[status] for status in TaskResultStatus}

    def waiting(self) -> int:
        return len(self._line)

    # -- the worker's side

    def claim(self, worker_id: WorkerId, queues: Collection[str] | None, limit: int) -> list[Claim]:
        claims: list[Claim] = []
        now = self._clock()
        with self._lock():
            while len(claims) < limit:
                entry = self._line.take(queues, now)
                if entry is None:
                    break
                entry.status = RUNNING
                entry.attempts = attempt = entry.attempts + 1
                self._leases = entry.lease = lease = self._leases + 1
                entry.last_attempted_at = now
                if entry.started_at is None:
                    entry.started_at = now
                crashes = self._max_crashes - entry.crashes - 1
                claims.append(Claim(entry.job, lease, attempt, entry.budget - attempt, crashes))
            due = self._line.next_due()
            if due is not None:  # who goes off with a job may have been the one to see to that
                self._sleepers.wake_by(due)
        return claims

    def holds(self, claim: Claim) -> bool:
        with self._lock():
            entry = self._held(claim)
            return entry is not None and not entry.cancelled

    def is_cancelled(self, claim: Claim) -> bool:
        with self._lock():
            entry = self._held(claim)
            return entry is not None and entry.cancelled

    def fence(self, claim: Claim, connection: Any = None) -> bool:
        with self._lock():
            entry = self._held(claim)
            if entry is None or entry.cancelled:
                return False
            entry.fenced = True
            return True

    def unfence(self, claim: Claim) -> None:
        with self._lock():
            entry = self._held(claim)
            if entry is not None:
                entry.fenced = False

    def finish(self, claim: Claim, outcome: Outcome, connection: Any = None) -> bool:
        with self._lock():
            stored = self._finish(claim, outcome)
        if self._gone:
            self._gone.clear()
        return stored

    def finish_many(self, ends: Sequence[tuple[Claim, Outcome]]) -> list[bool]:
        with self._lock():
            stored = [self._finish(claim, outcome) for claim, outcome in ends]
        if self._gone:
            self._gone.clear()
        return stored

    def release(self, claims: Iterable[Claim]) -> None:
        with self._lock():
            for claim in claims:
                entry = self._held(claim)
                if entry is None:
                    continue
                entry.attempts -= 1
                entry.fenced = False
                if entry.cancelled:
                    self._end(entry, CANCELLED)
                else:
                    self._let_wait(entry)

    def report(self, claim: Claim, progress: Progress) -> bool:
        with self._lock():
            entry = self._held(claim)
            if entry is None:
                return False
            # let go of the old one after the lock: see _gone
            _before, entry.progress = entry.progress, progress
            return not entry.cancelled

    def beat(self, worker_id: WorkerId) -> list[JobId]:
        return []  # the workers of this backend die with it

    def rescue(self) -> int:
        return 0

    def wait(
        self, queues: Collection[str] | None, seconds: float, stopped: Callable[[], bool]
    ) -> None:
        with self._lock():
            now = self._clock()
            due = self._line.next_due()
            if due is not None:
                seconds = min(seconds, due - now)
            if seconds <= 0 or stopped() or self._line.has_ready(queues):
                return
            bed = self._sleepers.lie_down(queues, now + seconds)
        try:
            bed.sleep(seconds)
        finally:
            with self._lock():
                self._sleepers.get_up(bed)

    def wake(self) -> None:
        with self._lock():
            self._sleepers.wake_all()

    def prune(self) -> int:
        with self._lock():
            removed = self._prune(self._clock() - self._retention_seconds)
        self._gone.clear()
        return removed

    # -- with the lock held

    def _find(self, uid: str) -> Entry | None:
        entry = self._entries.get(uid)
        if entry is None and not uid.startswith(self._origin):
            made = _UID.fullmatch(uid)
            if made is not None:
                if int(made[1]) == os.getpid():
                    raise UnknownJob(uid, "it was made by another queue of this process")
                raise UnknownJob(
                    uid,
                    f"it was made by process {made[1]} and this is {os.getpid()}; on the memory "
                    "backend a process knows its own jobs only, set asyncjob.backend = sql",
                )
        return entry

    def _held(self, claim: Claim) -> Entry | None:
        """The entry that *claim* still has the right to change."""
        entry = self._entries.get(claim.job.uid)
        if entry is None or entry.status is not RUNNING or entry.lease != claim.lease:
            return None
        return entry

    def _let_wait(self, entry: Entry) -> None:
        entry.status = READY
        self._line.put(entry)
        if entry.run_at is None:
            self._sleepers.wake_one(entry.job.options.queue_name)
        else:
            self._sleepers.wake_by(entry.run_at)

    def _finish(self, claim: Claim, outcome: Outcome) -> bool:
        entry = self._held(claim)
        if entry is None:
            return False
        status = outcome.status
        if entry.cancelled:
            if status is SUCCESSFUL:
                return False
            if status is READY:
                status = CANCELLED
        entry.note(outcome)
        if status is READY:
            if outcome.delay_seconds > 0:
                entry.run_at = self._clock() + outcome.delay_seconds
            self._let_wait(entry)
        else:
            entry.result = outcome.result
            self._end(entry, status)
        return True

    def _end(self, entry: Entry, status: TaskResultStatus) -> None:
        entry.status = status
        entry.finished_at = self._clock()
        self._ended.append(entry)
        if entry.ended is not None:
            entry.ended.set()
        if len(self._ended) > MOST_ENDED:
            self._remove_oldest()

    def _prune(self, before: float) -> int:
        ended, removed = self._ended, 0
        while ended and (ended[0].finished_at or 0) <= before:
            self._remove_oldest()
            removed += 1
        return removed

    def _remove_oldest(self) -> None:
        entry = self._ended.popleft()
        del self._entries[entry.job.uid]
        self._gone.append(entry)
