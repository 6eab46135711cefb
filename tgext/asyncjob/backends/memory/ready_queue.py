"""The waiting jobs, in the order in which they will run.

There is a heap of ready jobs for each queue name, and one heap of delayed jobs. A job with a key is
in a heap of ``admission`` until it is admitted. An item of a heap
has a sequence number. It is stale if its job no longer waits or has another number. A cancelled job
leaves its item behind, which is skipped later.

Nothing here takes a lock: the backend does.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection

from ...job import READY, Job
from ..brief import MOST_QUEUES, MOST_SHOWN_BEFORE
from ..overview import MOST_BEFORE
from .admission import Admission
from .entry import Entry

#: Number of queue names whose heaps are kept while they are empty: to make a heap for each job of
#: an idle worker would take as long as the job.
MOST_NAMES = 64

#: Number of stale items at which they are removed; that takes time linear in the length of the
#: heaps, so it must be rare.
MOST_STALE = 1_000


# Ordered by its first value, then by the sequence number: entries are never compared.
_HeapItem = tuple[float, int, Entry]


class ReadyQueue:
    """See the module. ``len()`` is the number of waiting jobs. admitted: called with each job that
    is admitted. clock: returns seconds since the epoch."""

    def __init__(self, admitted: Callable[[Entry], object], clock: Callable[[], float]) -> None:
        self._admission = Admission(self._push, clock)
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
        self._ready: dict[str, list[_HeapItem]] = {}
        self._delayed: list[_HeapItem] = []
        self._most_names = MOST_NAMES
        #: the number of the job that was put last
        self.last_sequence = 0
        self._length = 0
        self._stale = 0

    def __len__(self) -> int:
        return self._length

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

    def take(self, queues: Collection[str] | None, now: float) -> Entry | None:
        """Remove and return the next due job of *queues*; None: of all."""
        while self._delayed and (self._delayed[0][0] <= now or not _is_current(self._delayed[0])):
            item = heapq.heappop(self._delayed)
            if _is_current(item):
                item[2].run_at = None
                self._make_ready(item[2])
            else:
                self._stale -= 1
        if self._admission.due_at() <= now:
            self._admission.admit_due(now)
        best = self._first(queues)
        if best is None:
            return None
        self._length -= 1
        entry = heapq.heappop(best)[2]
        name = entry.job.options.queue_name
        if self.limits and name in self.limits:
            self.running[name] += 1
        return entry

    def discard(self, entry: Entry) -> None:
        """Remove a job whose status is no longer READY."""
        self._length -= 1
        self._stale += 1
        if self._stale > max(MOST_STALE, self._length):
            self._stale = 0
            for heap in (*self._ready.values(), *self._admission.heaps(), self._delayed):
                heap[:] = [item for item in heap if _is_current(item)]
                heapq.heapify(heap)

    def has_ready(self, queues: Collection[str] | None) -> bool:
        """Whether ``take`` may find a job now."""
        return any(
            heap and (queues is None or name in queues) and not self._is_closed(name)
            for name, heap in self._ready.items()
        )

    def number_before(self, entry: Entry, now: float) -> int:
        """Count the jobs of its queue that ``take`` would return before *entry*, a due one, up to
        MOST_BEFORE."""
        options = entry.job.options
        ready: Collection[_HeapItem]
        if entry.admitted is False:
            ready, due = self._admission.heap(entry), []
        else:
            ready = self._ready.get(options.queue_name, ())
            due = [each for each in self._delayed if each[0] <= now]
        place = (-options.priority, entry.sequence)
        count = 0
        for item in (*ready, *due):
            other = item[2].job.options
            is_before = (-other.priority, item[1]) < place
            is_its = (
                item[2].admitted is entry.admitted
                if entry.admitted is False
                else (_may_run(item) and other.queue_name == options.queue_name)
            )
            count += is_before and _is_current(item) and is_its
            if count == MOST_BEFORE:
                break
        return count

    def first(self, queue_name: str, most: int) -> list[Entry]:
        """Return the first jobs of a queue that are ready, in the order of ``take``, without
        looking at the others."""
        heap = self._ready.get(queue_name, [])
        places = [(heap[0][:2], 0)] if heap else []
        found: list[Entry] = []
        while places and len(found) < most:
            _, place = heapq.heappop(places)
            if _may_run(heap[place]):
                found.append(heap[place][2])
            for below in (2 * place + 1, 2 * place + 2):
                if below < len(heap):
                    heapq.heappush(places, (heap[below][:2], below))
        return found

    def numbers_before(self, entries: Collection[Entry]) -> dict[str, int]:
        """Return how many jobs of its queue are before each of *entries* that is ready, by uid; of
        up to MOST_QUEUES queues."""
        wanted = [each for each in entries if each.status is READY and each.run_at is None]
        names = dict.fromkeys(each.job.options.queue_name for each in wanted)
        found: dict[str, int] = {}
        for name in list(names)[:MOST_QUEUES]:
            firsts = [each.job.uid for each in self.first(name, MOST_SHOWN_BEFORE)]
            places = {uid: number for number, uid in enumerate(firsts)}
            for each in wanted:
                if each.job.options.queue_name == name:
                    found[each.job.uid] = places.get(each.job.uid, MOST_SHOWN_BEFORE)
        return found

    def next_due(self) -> float | None:
        """When the first delayed job is due, or a rate allows the next one; None: never."""
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
        options = entry.job.options
        heap = self._ready.get(options.queue_name)
        if heap is None:
            if len(self._ready) >= self._most_names:  # an application may use ever new names
                self._ready = {name: kept for name, kept in self._ready.items() if kept}
                self._most_names = max(MOST_NAMES, 2 * len(self._ready))
            heap = self._ready[options.queue_name] = []
        heapq.heappush(heap, (-options.priority, entry.sequence, entry))

    def _is_closed(self, name: str) -> bool:
        if name in self.paused:
            return True
        return name in self.limits and self.running[name] >= self.limits[name]

    def _first(self, queues: Collection[str] | None) -> list[_HeapItem] | None:
        """The heap whose first job is the next one of *queues*."""
        best: list[_HeapItem] | None = None
        for name, heap in self._ready.items():
            if (queues is not None and name not in queues) or self._is_closed(name):
                continue
            while heap and not _may_run(heap[0]):
                self._stale -= not _is_current(heapq.heappop(heap))
            if heap and (best is None or heap[0] < best[0]):
                best = heap
        return best


def _may_run(item: _HeapItem) -> bool:
    """Whether its job was not taken back, since it is another owner's turn. Then its item is left,
    and may be a second one later, also while the job waits for its next attempt."""
    entry = item[2]
    return _is_current(item) and entry.admitted is not False and entry.run_at is None


def _is_current(item: _HeapItem) -> bool:
    entry = item[2]
    return entry.sequence == item[1] and entry.status is READY
