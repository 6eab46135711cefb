"""The waiting jobs, in the order in which they will run.

The ready jobs of each queue name are in a ``ReadyJobs``, and the delayed jobs in one heap. A job
with a key is in a heap of ``admission`` until it is admitted. A cancelled job leaves its item
behind, which is stale then, and is skipped later.

Nothing here takes a lock: the backend does.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable
from itertools import chain

from ...job import READY, Job
from ..brief import MOST_QUEUES, MOST_SHOWN_BEFORE
from ..overview import MOST_BEFORE
from .admission import Admission
from .entry import Entry
from .ready_jobs import HeapItem, Place, ReadyJobs, is_current
from .record import Record
from .waiting_record import WaitingRecord

#: Number of queue names whose ``ReadyJobs`` are kept while they are empty: one for each job of
#: an idle worker would take as long as the job.
MOST_NAMES = 64

#: Number of items that have become stale at which they are removed; that takes time linear in the
#: number of all items, so it must be rare.
MOST_STALE = 1_000


class ReadyQueue:
    """See the module. ``len()`` is the number of waiting jobs. admitted: called with each job that
    is admitted. clock: returns seconds since the epoch. gone: gets what is stale, and is emptied
    without the lock: the last reference to the arguments of a job may be among it."""

    def __init__(
        self,
        admitted: Callable[[Entry], object],
        clock: Callable[[], float],
        gone: deque[object],
    ) -> None:
        self._gone = gone
        self._admission = Admission(self._push, clock, gone)
        #: notes that an attempt of a job with keys begins
        self.started = self._admission.start
        self.uses, self.key_states = self._admission.uses, self._admission.states
        self.owner_states = self._admission.owner_states
        self.forget_starts = self._admission.forget_starts
        self._admitted = admitted
        #: the names of queues that give no job
        self.paused: Collection[str] = ()
        #: how many jobs of a queue may run at once, and of these queues, how many do
        self.limits: dict[str, int] = {}
        self.running: dict[str, int] = {}
        self._ready: dict[str, ReadyJobs] = {}
        self._delayed: list[HeapItem] = []
        self._most_names = MOST_NAMES
        #: the number of the job that was put last
        self.last_sequence = 0
        self._length = 0
        self._stale = 0

    def __len__(self) -> int:
        return self._length

    def add(self, job: Job, now: float) -> WaitingRecord:
        """Add a new job that has neither keys nor a delay."""
        self.last_sequence = sequence = self.last_sequence + 1
        self._length += 1
        record, options = WaitingRecord(job, now, sequence), job.options
        ready = self._ready.get(options.queue_name)
        if ready is None:
            ready = self._make_ready_jobs(options.queue_name)
        ready.append(record, options.priority)
        return record

    def put(self, entry: Entry) -> None:
        """Add a READY job: behind all others of its priority, unless it has a number already."""
        if not entry.sequence:
            self.last_sequence = entry.sequence = self.last_sequence + 1
        self._length += 1
        if entry.job.keys is not None:
            self._admission.free(entry)
        if entry.run_at is None:
            self._make_ready(entry)
        else:
            heapq.heappush(self._delayed, (entry.run_at, entry.sequence, entry))
            if entry.job.keys is not None:
                self._admission.admit_beside(entry)

    def put_instead(self, record: WaitingRecord) -> Entry:
        """Put an entry at the place of a record, and return it."""
        entry = record.entry()
        self._ready[record.options.queue_name].replace(record, entry)
        self._stale += 1
        return entry

    def take(self, queues: Collection[str] | None, now: float) -> Record | None:
        """Remove and return the next due job of *queues*; None: of all."""
        if self._delayed:
            self._take_delayed(now)
        if self._admission.due:
            self._admission.admit_due(now)
        best: ReadyJobs | None = None
        place: Place | None = None
        may_be_closed = self.paused or self.limits
        for name, ready in self._ready.items():
            if queues is not None and name not in queues:
                continue
            if may_be_closed and self._is_closed(name):
                continue
            first = ready.first()
            if first is not None and (place is None or first < place):
                best, place = ready, first
        if best is None or place is None:
            return None
        self._length -= 1
        found = best.take(place)
        if self.limits and (name := found.options.queue_name) in self.limits:
            self.running[name] += 1
        return found

    def _take_delayed(self, now: float) -> None:
        """Make ready what is due by now."""
        while self._delayed and (self._delayed[0][0] <= now or not is_current(self._delayed[0])):
            item = heapq.heappop(self._delayed)
            if is_current(item):
                item[2].run_at = None
                self._make_ready(item[2])
            else:
                self._gone.append(item)

    def discard(self, entry: Entry) -> None:
        """Remove a job whose status is no longer READY."""
        self._length -= 1
        self._stale += 1
        if self._stale > max(MOST_STALE, self._length):
            self._stale = 0
            for ready in self._ready.values():
                ready.sweep()
            for heap in (*self._admission.heaps(), self._delayed):
                self._gone.append(heap[:])
                heap[:] = [item for item in heap if is_current(item)]
                heapq.heapify(heap)

    def has_ready(self, queues: Collection[str] | None) -> bool:
        """Whether ``take`` may find a job now."""
        return any(
            ready and (queues is None or name in queues) and not self._is_closed(name)
            for name, ready in self._ready.items()
        )

    def number_before(self, record: Record, now: float) -> int:
        """Count the jobs of its queue that ``take`` would return before *record*, a due one, up to
        MOST_BEFORE."""
        place = (-record.options.priority, record.sequence)
        before: set[Place] = set()  # a job may have two items
        for each in self._beside(record, now):
            if each < place:
                before.add(each)
                if len(before) == MOST_BEFORE:
                    break
        return len(before)

    def _beside(self, record: Record, now: float) -> Iterable[Place]:
        """Return the places of the jobs that wait for the same as *record*."""
        name = record.options.queue_name
        if record.admitted is False:
            blocked = self._admission.heap(record)
            return (item[:2] for item in blocked if is_current(item) and item[2].admitted is False)
        due = (
            (-item[2].options.priority, item[1])
            for item in self._delayed
            if item[0] <= now and is_current(item) and item[2].options.queue_name == name
        )
        ready = self._ready.get(name)
        return due if ready is None else chain((place for place, _ in ready.jobs()), due)

    def first(self, queue_name: str, most: int) -> list[Record]:
        """Return the first jobs of a queue that are ready, in the order of ``take``, without
        looking at the others."""
        ready = self._ready.get(queue_name)
        return [] if ready is None else ready.firsts(most)

    def numbers_before(self, records: Collection[Record]) -> dict[str, int]:
        """Return how many jobs of its queue are before each of *records* that is ready, by uid; of
        up to MOST_QUEUES queues."""
        wanted = [each for each in records if each.status is READY and each.run_at is None]
        names = dict.fromkeys(each.options.queue_name for each in wanted)
        found: dict[str, int] = {}
        for name in list(names)[:MOST_QUEUES]:
            firsts = [each.uid for each in self.first(name, MOST_SHOWN_BEFORE)]
            places = {uid: number for number, uid in enumerate(firsts)}
            for each in wanted:
                if each.options.queue_name == name:
                    found[each.uid] = places.get(each.uid, MOST_SHOWN_BEFORE)
        return found

    def next_due(self) -> float | None:
        """When the first delayed job is due, or a rate allows the next one; None: never."""
        if not (self._delayed or self._admission.due):
            return None
        first = min(self._delayed[0][0] if self._delayed else math.inf, self._admission.due_at())
        return None if first == math.inf else first

    def give_back(self, entry: Entry) -> None:
        """Take the slots of a job that has ended, and admit the next."""
        self._admission.free(entry)
        self._admission.admit_beside(entry)

    def replace(self, entry: Entry, job: Job) -> None:
        """Let a READY job be another one, at its place; if it waits for other keys, as a new one
        would."""
        before, keys = entry.job.keys, job.keys
        is_same = before is None or keys is None or before.group == keys.group
        if is_same or entry.run_at is not None:
            entry.job = job
            return
        self._admission.free(entry)
        entry.admitted = None
        self._admission.admit_beside(entry)
        entry.job = job
        self._admission.block(entry)

    def _make_ready(self, entry: Entry) -> None:
        if entry.job.keys is None:
            self._push(entry)
        else:
            self._admission.block(entry)

    def _push(self, entry: Entry) -> None:
        if entry.admitted:
            self._admitted(entry)
        name = entry.job.options.queue_name
        ready = self._ready.get(name)
        if ready is None:
            ready = self._make_ready_jobs(name)
        ready.push(entry)

    def _make_ready_jobs(self, name: str) -> ReadyJobs:
        if len(self._ready) >= self._most_names:  # an application may use ever new names
            self._ready = {each: kept for each, kept in self._ready.items() if kept}
            self._most_names = max(MOST_NAMES, 2 * len(self._ready))
        ready = self._ready[name] = ReadyJobs(self._gone)
        return ready

    def _is_closed(self, name: str) -> bool:
        if name in self.paused:
            return True
        return name in self.limits and self.running[name] >= self.limits[name]
