"""The jobs of one queue that are ready, in the order in which they will run.

    new jobs, by priority    deques: each is behind those before it, so nothing has to be sorted
    all other ones           a heap

An item of the heap is stale if its job no longer waits or has another sequence number. A record in
a deque is stale if an entry has taken its place. Stale ones are skipped, or removed together.

Nothing here takes a lock: the backend does. What is read may be read without it, while another
thread changes it: see ``SpinLock.unless_mine``.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from ...job import READY
from .entry import Entry
from .record import Record
from .waiting_record import WaitingRecord

#: Negative priority, and sequence number: the smallest is the next one.
Place = tuple[float, int]

# Ordered by its first value, then by the sequence number: entries are never compared.
HeapItem = tuple[float, int, Entry]


class ReadyJobs:
    """See the module. gone: gets what is stale, see ``ReadyQueue``."""

    __slots__ = ("_gone", "_heap", "_new", "_replaced")

    def __init__(self, gone: deque[object]) -> None:
        self._gone = gone
        self._heap: list[HeapItem] = []
        self._new: dict[float, deque[WaitingRecord]] = {}  #: by negative priority
        self._replaced: set[int] = set()  #: the sequence numbers of stale records

    def __bool__(self) -> bool:
        """Whether there is any, stale ones included."""
        return bool(self._heap) or any(self._new.values())

    def append(self, record: WaitingRecord, priority: int) -> None:
        """Add a new job, behind all others of its priority."""
        waiting = self._new.get(-priority)
        if waiting is None:
            for empty in [each for each, kept in self._new.items() if not kept]:
                del self._new[empty]
            waiting = self._new[-priority] = deque()
        waiting.append(record)

    def push(self, entry: Entry) -> None:
        """Add a job at the place of its sequence number."""
        heapq.heappush(self._heap, (-entry.options.priority, entry.sequence, entry))

    def replace(self, record: WaitingRecord, entry: Entry) -> None:
        """Let an entry wait at the place of a record."""
        self._replaced.add(record.sequence)
        self.push(entry)

    def first(self) -> Place | None:
        """The place of the next one; None: there is none."""
        first: Place | None = None
        heap, replaced = self._heap, self._replaced
        while heap and not may_run(heap[0]):
            self._gone.append(heapq.heappop(heap))
        if heap:
            first = heap[0][:2]
        for priority, waiting in self._new.items():
            while replaced and waiting and waiting[0].sequence in replaced:
                stale = waiting.popleft()
                replaced.discard(stale.sequence)
                self._gone.append(stale)
            if waiting and (first is None or (priority, waiting[0].sequence) < first):
                first = priority, waiting[0].sequence
        return first

    def take(self, place: Place) -> Record:
        """Remove and return the next one, which is at *place*."""
        priority, sequence = place
        waiting = self._new.get(priority)
        if waiting and waiting[0].sequence == sequence:
            return waiting.popleft()
        return heapq.heappop(self._heap)[2]

    def jobs(self) -> Iterator[tuple[Place, Record]]:
        """Return those that may run, with their places, in no order."""
        for item in self._heap:
            if may_run(item):
                yield item[:2], item[2]
        for negative, waiting in self._new.copy().items():
            for record in list(waiting):
                if record.sequence not in self._replaced:
                    yield (negative, record.sequence), record

    def firsts(self, most: int) -> list[Record]:
        """Return the first ones, in order, without looking at the others."""
        while True:
            with suppress(IndexError, RuntimeError):  # another thread has changed them meanwhile
                return self._firsts(most)

    def _firsts(self, most: int) -> list[Record]:
        found: list[tuple[Place, Record]] = []
        heap, places = self._heap, [(self._heap[0][:2], 0)] if self._heap else []
        while places and len(found) < most:
            _, place = heapq.heappop(places)
            if may_run(heap[place]) and (not found or found[-1][0] != heap[place][:2]):
                found.append((heap[place][:2], heap[place][2]))
            for below in (2 * place + 1, 2 * place + 2):
                if below < len(heap):
                    heapq.heappush(places, (heap[below][:2], below))
        for negative, waiting in self._new.copy().items():
            current = (each for each in waiting if each.sequence not in self._replaced)
            found += [((negative, each.sequence), each) for each in islice(current, most)]
        found.sort(key=lambda each: each[0])
        return [record for _, record in found[:most]]

    def sweep(self) -> None:
        """Remove what is stale."""
        self._gone += (self._heap[:], *self._new.values())
        self._heap[:] = [item for item in self._heap if is_current(item)]
        heapq.heapify(self._heap)
        for priority, waiting in self._new.items():
            kept = (each for each in waiting if each.sequence not in self._replaced)
            self._new[priority] = deque(kept)
        self._replaced.clear()


def may_run(item: HeapItem) -> bool:
    """Whether its job was not taken back, since it is another owner's turn. Then its item is left,
    and may be a second one later, also while the job waits for its next attempt."""
    entry = item[2]
    return is_current(item) and entry.admitted is not False and entry.run_at is None


def is_current(item: HeapItem) -> bool:
    """Whether its job still waits where it stands."""
    entry = item[2]
    return entry.sequence == item[1] and entry.status is READY
