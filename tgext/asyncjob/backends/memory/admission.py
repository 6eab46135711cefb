"""Admits the jobs of this process that have keys; see ``ready_queue``.

A blocked job is in the heap of its group: those that wait for the same keys. One that is admitted
counts for its limit until its attempt has ended, and for its rate until a window after its start.
Where owners take turns, one job of a turn is admitted, and taken back if it is another one's turn
before it is claimed.
Nothing here takes a lock: the backend does.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, suppress

from ...job import READY, RUNNING
from ...policies import Keys, Rate
from ..limits import MOST_KEYS, KeyState, KeyStates, KeyUse, OwnerStates, owners_of, uses_of
from .entry import Entry
from .ready_jobs import HeapItem
from .record import Record
from .turns import Turn


class Admission:
    """put: called with each job that is admitted. clock: returns seconds since the epoch."""

    def __init__(
        self, put: Callable[[Entry], object], clock: Callable[[], float], gone: deque[object]
    ) -> None:
        self._put = put
        self._gone = gone
        self._clock = clock
        #: by group
        self._blocked: dict[str, list[HeapItem]] = {}
        self._keys: dict[str, Keys] = {}
        #: groups with blocked jobs, by each of their keys
        self._waiting: defaultdict[str, set[str]] = defaultdict(set)
        #: by key: jobs that hold a slot of a limit; that are about to start; instants of starts
        self._held: Counter[str] = Counter()
        self._pending: defaultdict[str, set[str]] = defaultdict(set)
        self._starts: dict[str, deque[float]] = {}
        #: by key: when the last of these starts counts no longer
        self._counts_until: dict[str, float] = {}
        #: by group: when a rate may allow more of its jobs
        self.due: dict[str, float] = {}
        self._turns: dict[str, Turn] = {}

    # -- one job

    def block(self, entry: Entry) -> None:
        """Let a job wait until it is admitted, perhaps at once."""
        keys = entry.job.keys
        if keys is None:
            return
        group = keys.group
        if group is None:  # it has a unique key only
            entry.admitted = None
            self._put(entry)
            return
        self._wait(entry, keys, group)
        self._admit([group])

    def _wait(self, entry: Entry, keys: Keys, group: str) -> None:
        entry.admitted = False
        heap = self._blocked.setdefault(group, [])
        heapq.heappush(heap, (-entry.job.options.priority, entry.sequence, entry))
        self._keys[group] = keys
        for name in keys.names:
            self._waiting[name].add(group)
        if keys.share is not None:
            turn = self._turns.setdefault(keys.share.turn, Turn())
            turn.add(keys.share.owner, group, entry.sequence)

    def start(self, entry: Entry, now: float) -> None:
        """Note that an attempt of an admitted job begins."""
        keys = entry.job.keys
        if keys is None:
            return
        if keys.rate is not None:
            self._start(entry, keys.rate, now)
        if keys.share is not None:
            self._turns.setdefault(keys.share.turn, Turn()).serve(keys.share.owner)
            self._admit_turn(keys.share.turn)

    def _start(self, entry: Entry, rate: Rate, now: float) -> None:
        self._starts_no_more(entry, rate)
        self._starts.setdefault(rate.key, deque()).append(now)
        until = now + rate.seconds
        self._counts_until[rate.key] = max(until, self._counts_until.get(rate.key, until))
        for group in self._waiting.get(rate.key, ()):
            self._due_by(group, now + rate.seconds)

    def free(self, entry: Entry) -> None:
        """Take the slots of a job, if it holds any."""
        keys = entry.job.keys
        if keys is None or not entry.admitted:
            return
        entry.admitted = None
        if keys.limit is not None:
            self._held[keys.limit.key] -= 1
            if not self._held[keys.limit.key]:
                del self._held[keys.limit.key]
        if keys.rate is not None:
            self._starts_no_more(entry, keys.rate)

    def _starts_no_more(self, entry: Entry, rate: Rate) -> None:
        """Note that a job is not about to start."""
        self._pending[rate.key].discard(entry.job.uid)
        if not self._pending[rate.key]:
            del self._pending[rate.key]

    def forget_starts(self) -> None:
        """Forget the keys of which no start counts any longer."""
        now = self._clock()
        for key in [key for key, at in self._counts_until.items() if at <= now]:
            del self._counts_until[key], self._starts[key]

    def admit_beside(self, entry: Entry) -> None:
        """Admit the next of the jobs that wait for one of the keys of *entry*."""
        if entry.job.keys is not None:
            share = entry.job.keys.share
            if share is not None and share.turn in self._turns:
                self._admit_turn(share.turn)
            self._admit({each for name in entry.job.keys.names for each in self._groups(name)})

    # -- time

    def due_at(self) -> float:
        """When ``admit_due`` may admit a job."""
        return min(self.due.values(), default=math.inf)

    def admit_due(self, now: float) -> None:
        """Admit what a rate allows by now."""
        due = [group for group, at in self.due.items() if at <= now]
        for group in due:
            del self.due[group]
        self._admit(due)

    def _due_by(self, group: str, at: float) -> None:
        self.due[group] = min(at, self.due.get(group, math.inf))

    # -- read

    def heaps(self) -> Iterator[list[HeapItem]]:
        """Return the heaps of the blocked jobs."""
        return iter(list(self._blocked.values()))

    def heap(self, record: Record) -> Collection[HeapItem]:
        """Return the heap of the jobs that wait for the same as *record*."""
        keys = record.keys
        return () if keys is None or keys.group is None else self._blocked.get(keys.group, ())

    def uses(self, keys: Keys) -> list[KeyUse]:
        """Return what counts for the keys of a job."""
        used, until = self.used(keys)
        return uses_of(keys, used, None if until is None else max(0.0, until - self._clock()))

    def states(self, records: Iterable[Record]) -> KeyStates:
        """Return how the keys of these jobs stand, those of which a job waits or runs."""
        waiting: Counter[str] = Counter()
        running: Counter[str] = Counter()
        of_each: dict[str, KeyUse] = {}
        for record in records:
            if record.keys is not None and not record.status.is_final:
                counted = running if record.status is RUNNING else waiting
                for use in self.uses(record.keys):
                    of_each[use.key] = use
                    counted[use.key] += record.status is RUNNING or record.admitted is False
        names = sorted(of_each)[:MOST_KEYS]
        found = [KeyState(of_each[key], running[key], waiting[key]) for key in names]
        return KeyStates(found, has_more=len(of_each) > len(found))

    def owner_states(self, records: Iterable[Record]) -> OwnerStates:
        """Return the owners of whom some of these jobs wait for their turn."""
        all_keys = (record.keys for record in records if record.is_blocked)
        found = Counter(keys.share for keys in all_keys if keys and keys.share)
        return owners_of(found, has_more=False)

    # -- admit

    def _groups(self, name: str) -> Collection[str]:
        return self._waiting.get(name, ())

    def _admit(self, groups: Iterable[str]) -> None:
        """Admit the first jobs of these groups, by the order of their first ones."""
        heads = [(*head[:2], group) for group in groups if (head := self._head(group))]
        heapq.heapify(heads)
        turns: set[str] = set()
        while heads:
            _, _, group = heapq.heappop(heads)
            head = self._head(group)
            share = None if head is None else self._keys[group].share
            if share is not None:
                if share.turn not in turns:
                    turns.add(share.turn)
                    self._admit_turn(share.turn)
                continue
            if head is None or not self._is_free(head[2], group):
                continue
            heapq.heappop(self._blocked[group])
            self._hold(head[2])
            following = self._head(group)
            if following is not None:
                heapq.heappush(heads, (*following[:2], group))

    def _admit_turn(self, name: str) -> None:
        """Let the next job of a turn be the one that is admitted."""
        turn = self._turns[name]
        standing, turn.standing = turn.standing, None
        freed: list[str] = []
        if standing is not None and standing.admitted and standing.status is READY:
            keys, group = standing.job.keys, standing.job.keys and standing.job.keys.group
            if keys is not None and group is not None:
                self.free(standing)
                self._wait(standing, keys, group)
                freed = keys.names
        else:
            standing = None
        group = self._next_group(turn)
        if group is not None:
            entry = turn.standing = heapq.heappop(self._blocked[group])[2]
            self._hold(entry, is_put=entry is not standing)
        if turn.is_over:
            del self._turns[name]
        if freed and turn.standing is not standing:
            self._admit({each for key in freed for each in self._groups(key)
                         if self._keys[each].share is None})  # fmt: skip

    def _next_group(self, turn: Turn) -> str | None:
        """Return the group whose first job is the next one; None: there is none."""
        with closing(turn.owners()) as owners:
            for _, groups in owners:
                heads = [(head[1], head[2], each) for each in groups if (head := self._head(each))]
                groups.intersection_update(each for _, _, each in heads)
                for _, entry, group in sorted(heads, key=lambda each: each[0]):
                    if self._is_free(entry, group):
                        return group
        return None

    def _head(self, group: str) -> HeapItem | None:
        """Return the first blocked job of a group; forget the group if there is none."""
        heap = self._blocked.get(group)
        if heap is None:
            return None
        while heap:
            _, sequence, entry = heap[0]
            waits = entry.admitted is False and entry.sequence == sequence
            keys = entry.job.keys
            if waits and entry.status is READY and keys is not None and keys.group == group:
                return heap[0]
            self._gone.append(heapq.heappop(heap))  # it was cancelled, or has other keys
        del self._blocked[group]
        self.due.pop(group, None)
        for name in self._keys.pop(group).names:
            self._waiting[name].discard(group)
            if not self._waiting[name]:
                del self._waiting[name]
        return None

    def used(self, keys: Keys) -> tuple[Counter[str], float | None]:
        """Return what counts for these keys, and when the first start does so no longer; None: none
        counts."""
        used: Counter[str] = Counter()
        if keys.limit is not None:
            used[keys.limit.key] = self._held[keys.limit.key]
        rate = keys.rate
        if rate is None:
            return used, None
        starts, since = self._starts.get(rate.key, deque()), self._clock() - rate.seconds
        with suppress(IndexError):
            while starts[0] <= since:
                first = starts.popleft()
                if first > since:  # a finalizer has come here in between, and taken the old one
                    starts.appendleft(first)
        used[rate.key] = len(starts) + len(self._pending.get(rate.key, ()))
        left = next(iter(starts), None)
        return used, None if left is None else left + rate.seconds

    def _is_free(self, entry: Entry, group: str) -> bool:
        keys = entry.job.keys
        if keys is None:
            return True
        used, until = self.used(keys)
        is_free = keys.free_slots(used) > 0
        if not is_free and until is not None:
            self._due_by(group, until)
        return is_free

    def _hold(self, entry: Entry, *, is_put: bool = True) -> None:
        keys = entry.job.keys
        if keys is not None and keys.limit is not None:
            self._held[keys.limit.key] += 1
        if keys is not None and keys.rate is not None:
            self._pending[keys.rate.key].add(entry.job.uid)
        entry.admitted = True
        if is_put:
            self._put(entry)
