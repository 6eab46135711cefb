"""The jobs of one process, and every change of their state.

Nothing here takes a lock: the backend calls each method with its lock held.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timezone

from ...call import of_fields
from ...job import (
    CANCELLED,
    FAILED,
    NO_PROGRESS,
    READY,
    RUNNING,
    SUCCESSFUL,
    Claim,
    Job,
    JobId,
    Outcome,
    TaskResultStatus,
)
from ..base import AfterFailure
from ..overview import PausedQueue
from ..statistics import Statistics
from .entry import Entry, due_at
from .ready_queue import ReadyQueue
from .record import Record
from .statistics import MemoryStatistics
from .uniqueness import UniqueEntries
from .waiters import Waiters
from .waiting_record import WaitingRecord

#: The most ended jobs that are kept, even within ``retention``, so that a process with a million
#: jobs a day does not grow for a year. The memory of each depends on its arguments and its result.
MOST_ENDED = 10_000


class JobChanges:
    """A base class of the backend; see the module."""

    after_failure: AfterFailure
    new_uid: Callable[[], JobId]
    _clock: Callable[[], float]  # returns seconds since the epoch
    _max_crashes: int
    statistics: Statistics

    def _begin_jobs(self) -> None:
        self._waiters = Waiters()
        self.statistics = self._statistics = MemoryStatistics(self._clock)
        #: by uid; a job that waits for nothing but a thread has a ``WaitingRecord``
        self._records: dict[str, Record] = {}
        self._leases = 0
        self._unique = UniqueEntries()
        #: what was removed, to be dropped without the lock: a __del__ of the application may wait
        self._gone: deque[object] = deque()
        self._ready_queue = ReadyQueue(self._wake_for, self._clock, self._gone)
        self._paused: dict[str, PausedQueue] = {}
        self._ended: deque[Entry] = deque()

    def _held(self, claim: Claim) -> Entry | None:
        """The entry of *claim* if the claim still holds."""
        entry = self._records.get(claim.job.uid)
        if type(entry) is not Entry or entry.status is not RUNNING or entry.lease != claim.lease:
            return None
        return entry

    def _entry(self, record: Record) -> Entry | None:
        """The entry of a job, which takes the place of a record that only waits; None: the job was
        removed since *record* was found."""
        current: Record | None = record
        if type(record) is WaitingRecord:
            current = self._records.get(record.uid)
            if current is record:
                self._records[record.uid] = current = self._ready_queue.put_instead(record)
        return current if type(current) is Entry else None

    def _claim(self, queues: Collection[str] | None, now: float) -> Claim | None:
        """Begin an attempt of the next due job; None: none is due."""
        record = self._ready_queue.take(queues, now)
        if record is None:
            return None
        if type(record) is WaitingRecord:
            self._records[record.uid] = entry = record.entry()
        else:
            assert type(record) is Entry
            entry = record
        entry.status = RUNNING
        entry.attempts = attempt = entry.attempts + 1
        self._leases = entry.lease = lease = self._leases + 1
        entry.last_attempted_at = now
        if entry.job.keys is not None:
            self._ready_queue.started(entry, now)
        if entry.started_at is None:
            entry.started_at = now
        crashes = self._max_crashes - entry.crashes - 1
        return of_fields(Claim, (entry.job, lease, attempt, entry.budget - attempt, crashes, ""))

    def _enqueue(self, jobs: Sequence[Job], now: float) -> None:
        for job in jobs:
            if job.run_after is None and job.keys is None:
                self._records[job.uid] = self._ready_queue.add(job, now)
                if self._waiters.waiting:
                    self._waiters.wake_one(job.options.queue_name)
                continue
            entry = self._records[job.uid] = Entry(job, now)
            if job.run_after is not None:
                entry.run_at = due_at(job.run_after, now)
            self._make_ready(entry, asks=True)

    def _cancel(self, record: Record, now: bool) -> bool:
        """Cancel a job; False if it is too late. now: False: only return that, change nothing."""
        if not now:
            return not (record.status.is_final or record.fenced)
        entry = self._entry(record)
        if entry is None or entry.status.is_final or entry.fenced:
            return False
        entry.cancelled = True
        if entry.status is READY:
            is_queued = not self._unique.follows(entry)
            self._end(entry, CANCELLED, self._clock())
            if is_queued:
                self._ready_queue.discard(entry)
        return True

    def _retry(self, entry: Record, now: bool) -> bool:
        """Let an ended job wait again; False if it has not ended, or another one has its unique
        key. now: as for ``_cancel``."""
        if type(entry) is not Entry or not entry.status.is_final:
            return False
        if self._unique.is_taken(entry, self._clock()):
            return False
        if now:
            self._ended.remove(entry)
            entry.budget = entry.attempts + entry.job.options.max_attempts
            entry.run_at = entry.finished_at = entry.ended = None
            entry.cancelled, entry.crashes = False, 0
            _before, entry.progress = entry.progress, NO_PROGRESS
            entry.sequence = 0  # to the end of the queue
            self._make_ready(entry, asks=True)
        return True

    def _pause(self, queue_name: str, user: str | None, now: bool) -> bool:
        """Pause a queue; False if it is paused. now: as for ``_cancel``, here and below."""
        if queue_name in self._paused:
            return False
        if now:
            since = datetime.fromtimestamp(self._clock(), timezone.utc)
            self._paused[queue_name] = PausedQueue(queue_name, since, user)
            self._ready_queue.paused = tuple(self._paused)
        return True

    def _resume(self, queue_name: str, now: bool) -> bool:
        is_paused = queue_name in self._paused
        if now:
            self._paused.pop(queue_name, None)
            self._ready_queue.paused = tuple(self._paused)
            self._waiters.wake_all()
        return is_paused

    def _limit(self, queue_name: str, most: int | None, now: bool) -> None:
        if not now:
            return
        limits = self._ready_queue.limits
        limits.pop(queue_name, None)
        if most is not None:
            limits[queue_name] = most
            running = [each for each in self._records.values() if each.status is RUNNING]
            names = Counter(each.options.queue_name for each in running)
            self._ready_queue.running[queue_name] = names[queue_name]
        self._waiters.wake_all()

    def _release(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            entry = self._held(claim)
            if entry is None:
                continue
            entry.attempts -= 1
            entry.fenced = False
            if entry.cancelled:
                self._end(entry, CANCELLED, self._clock())
            else:
                self._make_ready(entry)

    def _make_ready(self, entry: Entry, asks: bool = False) -> None:
        """Let a job wait. asks: whether it asks for its unique key, whichever that is."""
        self._left(entry)
        entry.status = READY
        if entry.job.keys is not None and (asks or self._unique.asks_again(entry)):
            other, follower = self._unique.ask(entry, self._clock())
            if follower is not None:
                self._give_way(follower, entry, is_queued=False)
            if other is not None:
                self._give_way(entry, other, is_queued=not self._unique.follows(other))
            if other is not None or self._unique.follows(entry):
                return
        self._ready_queue.put(entry)
        if entry.run_at is None:
            self._wake_for(entry)
        else:
            self._waiters.wake_by(entry.run_at)

    def _left(self, entry: Entry) -> None:
        """Note that a job no longer runs, if it did, where its queue has a limit."""
        queue, name = self._ready_queue, entry.job.options.queue_name
        if queue.limits and entry.status is RUNNING and name in queue.limits:
            queue.running[name] -= 1
            self._waiters.wake_one(name)

    def _give_way(self, entry: Entry, other: Entry, *, is_queued: bool) -> None:
        """Remove a job that is in no queue; its uid leads to another one. is_queued: whether that
        one is in a queue."""
        self._records.pop(entry.job.uid, None)
        self._ready_queue.give_back(entry)
        self._unique.give_way(entry, other)
        if self._unique.is_coalesced(entry):
            self._take_arguments(other, entry, is_queued)
        self._gone.append(entry)
        if entry.ended is not None:
            entry.ended.set()  # who waits for it looks again, and waits for the other one

    def _take_arguments(self, entry: Entry, newer: Entry, is_queued: bool) -> None:
        """Run a waiting job with the arguments of a newer one."""
        before, its = entry.job, newer.job
        keys = before.keys and its.keys and before.keys.with_arguments_of(its.keys)
        job = before._replace(call=its.call, context=its.context, keys=keys)
        newer.job = before  # dropped with it, without the lock
        if entry.lease:
            entry.budget = entry.attempts + before.options.max_attempts
        if is_queued:
            self._ready_queue.replace(entry, job)
        else:
            self._ready_queue.give_back(entry)
            entry.job = job

    def _wake_for(self, entry: Entry) -> None:
        self._waiters.wake_one(entry.job.options.queue_name)

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
        now = self._clock()
        entry.note(outcome, claim, now)
        if status is READY:
            if outcome.delay_seconds > 0:
                entry.run_at = now + outcome.delay_seconds
            self._make_ready(entry)
        else:
            entry.result = outcome.result
            self._end(entry, status, now)
            if status is FAILED:
                self._follow(entry.job)
        return True

    def _follow(self, failed: Job) -> None:
        """Enqueue what follows from the failure of a job."""
        follows = self.after_failure(failed.uid, failed.call.name, failed.options.queue_name)
        if follows is not None:
            self._enqueue([Job(self.new_uid(), *follows)], self._clock())

    def _end(self, entry: Entry, status: TaskResultStatus, now: float) -> None:
        if self._ready_queue.limits:
            self._left(entry)
        entry.status = status
        has_keys = entry.job.keys is not None
        if has_keys:
            self._ready_queue.give_back(entry)
        entry.finished_at = now
        self._ended.append(entry)
        self._statistics.count(entry)
        if entry.ended is not None:
            entry.ended.set()
        if len(self._ended) > MOST_ENDED:
            self._remove_oldest()
        follower = self._unique.ended(entry) if has_keys else None
        if follower is not None:
            self._make_ready(follower)

    def _prune(self, before: float) -> int:
        ended, removed = self._ended, 0
        self._ready_queue.forget_starts()
        while ended and (ended[0].finished_at or 0) <= before:
            self._remove_oldest()
            removed += 1
        return removed

    def _remove_oldest(self) -> None:
        entry = self._ended.popleft()
        del self._records[entry.job.uid]
        self._unique.forget(entry)
        self._gone.append(entry)
