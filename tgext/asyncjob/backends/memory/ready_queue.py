"""The waiting jobs, in the order in which they will run.

There is a heap of ready jobs for each queue name, and one heap of delayed jobs. An item of a heap
has a sequence number. It is stale if its job no longer waits or has another number. A cancelled job
leaves its item behind, which is skipped later.

Nothing here takes a lock: the backend does.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from typing import Any

from ...job import NO_PROGRESS, READY, RUNNING, Job, Outcome, Snapshot, TaskError
from ..brief import Brief, text_of, user_of
from ..overview import MOST_BEFORE

#: Number of queue names whose heaps are kept while they are empty: to make a heap for each job of
#: an idle worker would take as long as the job.
MOST_NAMES = 64

#: Number of stale items at which they are removed; that takes time linear in the length of the
#: heaps, so it must be rare.
MOST_STALE = 1_000

#: Number of attempts of one job whose errors are kept.
MOST_ERRORS = 20


class Entry:
    """One job and its state; instants are seconds since the epoch."""

    __slots__ = (
        "attempts", "budget", "cancelled", "crashes", "ended", "enqueued_at", "errors", "fenced",
        "finished_at", "job", "last_attempted_at", "lease", "log", "progress", "result", "run_at",
        "sequence", "started_at", "status",
    )  # fmt: skip

    def __init__(self, job: Job, now: float) -> None:
        self.job = job
        self.status = READY
        self.sequence = 0  #: its sequence number; 0: none yet
        self.enqueued_at = now
        self.run_at: float | None = None
        self.attempts = 0
        self.budget = job.options.max_attempts  #: the number of its last allowed attempt
        self.lease = 0
        self.cancelled = False
        self.crashes = 0  #: deaths of the process of an attempt
        self.fenced = False  #: its attempt is committing
        self.started_at: float | None = None
        self.last_attempted_at: float | None = None
        self.finished_at: float | None = None
        self.errors: tuple[TaskError, ...] = ()
        self.result: Any = None
        self.progress = NO_PROGRESS
        self.log: tuple[str, ...] = ()
        self.ended: threading.Event | None = (
            None  #: made by the first thread that waits for its end
        )

    def note(self, outcome: Outcome) -> None:
        """Store error, log and counts of an attempt that has ended."""
        if outcome.error is not None:
            self.errors = (*self.errors[1 - MOST_ERRORS :], outcome.error)
        self.log = outcome.log
        self.fenced = False
        if outcome.crashed:
            self.crashes += 1
            self.attempts -= outcome.status is READY

    def snapshot(self) -> Snapshot:
        return Snapshot(
            job=self.job,
            status=self.status,
            enqueued_at=datetime.fromtimestamp(self.enqueued_at, timezone.utc),
            run_at=_instant(self.run_at),
            started_at=_instant(self.started_at),
            last_attempted_at=_instant(self.last_attempted_at),
            finished_at=_instant(self.finished_at),
            attempts=self.attempts,
            errors=self.errors,
            result=self.result,
            progress=self.progress,
            log=self.log,
            crashes=self.crashes,
        )

    def brief(self, now: float) -> Brief:
        """Describe the job for a page; *now*: seconds since the epoch."""
        error, progress = self.errors[-1] if self.errors else None, self.progress
        waits = self.status is READY and self.run_at is not None and self.run_at > now
        return Brief(
            uid=self.job.uid,
            status=self.status,
            enqueued_ago=max(0.0, now - self.enqueued_at),
            is_cancelled=self.cancelled and self.status is RUNNING,
            started_ago=_ago(self.started_at, now),
            attempted_ago=_ago(self.last_attempted_at, now),
            finished_ago=_ago(self.finished_at, now),
            due_in=self.run_at - now if waits and self.run_at is not None else None,
            attempts=self.attempts,
            value=progress.value,
            total=progress.total,
            text=text_of(progress.data),
            error_class=error and error.exception_class_path,
            error_message=error and error.message,
            user=user_of(self.job.context),
        )


def due_at(run_after: datetime | timedelta, now: float) -> float | None:
    """Return when a job may start, in seconds since the epoch; None: at once."""
    if isinstance(run_after, timedelta):
        due = now + run_after.total_seconds()
    else:
        due = run_after.timestamp()
    return due if due > now else None


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)


def _ago(seconds: float | None, now: float) -> float | None:
    return None if seconds is None else max(0.0, now - seconds)


# Ordered by its first value, then by the sequence number: entries are never compared.
_HeapItem = tuple[float, int, Entry]


class ReadyQueue:
    """See the module. ``len()`` is the number of waiting jobs."""

    def __init__(self) -> None:
        #: the names of queues that give no job
        self.paused: Collection[str] = ()
        self._ready: dict[str, list[_HeapItem]] = {}
        self._delayed: list[_HeapItem] = []
        self._most_names = MOST_NAMES
        self._last_sequence = 0
        self._length = 0
        self._stale = 0

    def __len__(self) -> int:
        return self._length

    def put(self, entry: Entry) -> None:
        """Add a READY job: behind all others of its priority, unless it has a number already."""
        if not entry.sequence:
            self._last_sequence = entry.sequence = self._last_sequence + 1
        self._length += 1
        if entry.run_at is None:
            self._make_ready(entry)
        else:
            heapq.heappush(self._delayed, (entry.run_at, entry.sequence, entry))

    def take(self, queues: Collection[str] | None, now: float) -> Entry | None:
        """Remove and return the next due job of *queues*; None: of all."""
        while self._delayed and (self._delayed[0][0] <= now or not _is_current(self._delayed[0])):
            item = heapq.heappop(self._delayed)
            if _is_current(item):
                item[2].run_at = None
                self._make_ready(item[2])
            else:
                self._stale -= 1
        best = self._first(queues)
        if best is None:
            return None
        self._length -= 1
        return heapq.heappop(best)[2]

    def discard(self, entry: Entry) -> None:
        """Remove a job whose status is no longer READY."""
        self._length -= 1
        self._stale += 1
        if self._stale > max(MOST_STALE, self._length):
            self._stale = 0
            for heap in (*self._ready.values(), self._delayed):
                heap[:] = [item for item in heap if _is_current(item)]
                heapq.heapify(heap)

    def has_ready(self, queues: Collection[str] | None) -> bool:
        """Whether ``take`` may find a job now."""
        return any(
            heap and (queues is None or name in queues) and name not in self.paused
            for name, heap in self._ready.items()
        )

    def number_before(self, entry: Entry, now: float) -> int:
        """Count the jobs of its queue that ``take`` would return before *entry*, a due one, up to
        MOST_BEFORE."""
        options = entry.job.options
        ready = self._ready.get(options.queue_name, ())
        due = [each for each in self._delayed if each[0] <= now]
        place = (-options.priority, entry.sequence)
        count = 0
        for item in (*ready, *due):
            other = item[2].job.options
            is_before = (-other.priority, item[1]) < place
            count += is_before and _is_current(item) and other.queue_name == options.queue_name
            if count == MOST_BEFORE:
                break
        return count

    def next_due(self) -> float | None:
        """When the first delayed job is due; None if there is none."""
        return self._delayed[0][0] if self._delayed else None

    def _make_ready(self, entry: Entry) -> None:
        options = entry.job.options
        heap = self._ready.get(options.queue_name)
        if heap is None:
            if len(self._ready) >= self._most_names:  # an application may use ever new names
                self._ready = {name: kept for name, kept in self._ready.items() if kept}
                self._most_names = max(MOST_NAMES, 2 * len(self._ready))
            heap = self._ready[options.queue_name] = []
        heapq.heappush(heap, (-options.priority, entry.sequence, entry))

    def _first(self, queues: Collection[str] | None) -> list[_HeapItem] | None:
        """The heap whose first job is the next one of *queues*."""
        best: list[_HeapItem] | None = None
        for name, heap in self._ready.items():
            if (queues is not None and name not in queues) or name in self.paused:
                continue
            while heap and not _is_current(heap[0]):
                heapq.heappop(heap)
                self._stale -= 1
            if heap and (best is None or heap[0] < best[0]):
                best = heap
        return best


def _is_current(item: _HeapItem) -> bool:
    entry = item[2]
    return entry.sequence == item[1] and entry.status is READY
