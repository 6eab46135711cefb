"""The jobs of one process, and every change of their state.

Nothing here takes a lock: the backend calls each method with its lock held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ...job import (
    CANCELLED,
    NO_PROGRESS,
    READY,
    RUNNING,
    SUCCESSFUL,
    Claim,
    Job,
    Outcome,
    TaskResultStatus,
)
from ..overview import PausedQueue
from .ready_queue import Entry, ReadyQueue, due_at
from .waiters import Waiters

#: The most ended jobs that are kept, even within ``retention``, so that a process with a million
#: jobs a day does not grow for a year. The memory of each depends on its arguments and its result.
MOST_ENDED = 10_000


class JobChanges:
    """A base class of the backend; see the module."""

    _clock: Callable[[], float]  # returns seconds since the epoch

    def _begin_jobs(self) -> None:
        self._waiters = Waiters()
        self._entries: dict[str, Entry] = {}
        self._ready_queue = ReadyQueue()
        self._paused: dict[str, PausedQueue] = {}
        self._ended: deque[Entry] = deque()
        #: removed entries, to be dropped without the lock: a __del__ of the application may wait
        self._gone: deque[Entry] = deque()

    def _held(self, claim: Claim) -> Entry | None:
        """The entry of *claim* if the claim still holds."""
        entry = self._entries.get(claim.job.uid)
        if entry is None or entry.status is not RUNNING or entry.lease != claim.lease:
            return None
        return entry

    def _enqueue(self, jobs: Sequence[Job], now: float) -> None:
        for job in jobs:
            entry = self._entries[job.uid] = Entry(job, now)
            if job.run_after is not None:
                entry.run_at = due_at(job.run_after, now)
            self._make_ready(entry)

    def _cancel(self, entry: Entry, now: bool) -> bool:
        """Cancel a job; False if it is too late. now: False: only return that, change nothing."""
        if entry.status.is_final or entry.fenced:
            return False
        if now:
            entry.cancelled = True
            if entry.status is READY:
                self._end(entry, CANCELLED)
                self._ready_queue.discard(entry)
        return True

    def _retry(self, entry: Entry, now: bool) -> bool:
        """Let an ended job wait again; False if it has not ended. now: as for ``_cancel``."""
        if not entry.status.is_final:
            return False
        if now:
            self._ended.remove(entry)
            entry.budget = entry.attempts + entry.job.options.max_attempts
            entry.run_at = entry.finished_at = entry.ended = None
            entry.cancelled, entry.crashes = False, 0
            _before, entry.progress = entry.progress, NO_PROGRESS
            entry.sequence = 0  # to the end of the queue
            self._make_ready(entry)
        return True

    def _release(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            entry = self._held(claim)
            if entry is None:
                continue
            entry.attempts -= 1
            entry.fenced = False
            if entry.cancelled:
                self._end(entry, CANCELLED)
            else:
                self._make_ready(entry)

    def _make_ready(self, entry: Entry) -> None:
        entry.status = READY
        self._ready_queue.put(entry)
        if entry.run_at is None:
            self._waiters.wake_one(entry.job.options.queue_name)
        else:
            self._waiters.wake_by(entry.run_at)

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
            self._make_ready(entry)
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
