"""Whose turn it is, of the owners of blocked jobs of one queue and priority; see ``admission``.

The next owner is the one whose last turn was longest ago; who had none is before all. Nothing here
takes a lock: the backend does.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator

from .entry import Entry

#: Below the numbers of all turns, with digits for the number of a job.
_NEVER = -(2**62)

#: Owners that had a turn and have no job, at which those are forgotten for whom it does not matter.
_MOST_IDLE = 100


class Turn:
    """The owners of one turn."""

    def __init__(self) -> None:
        self.standing: Entry | None = None  #: the job that is admitted, until it is claimed
        self._groups: dict[str, set[str]] = {}  #: of jobs that may wait, by owner
        self._heap: list[tuple[int, str]] = []  #: these owners, by their last turns
        self._served: dict[str, int] = {}  #: the numbers of these
        self._last = 0

    def add(self, owner: str, group: str, sequence: int) -> None:
        """Note that a job waits. sequence: its number, by which new owners are in order."""
        groups = self._groups.get(owner)
        if groups is None:
            groups = self._groups[owner] = set()
            heapq.heappush(self._heap, (self._served.get(owner, _NEVER + sequence), owner))
        groups.add(group)

    def serve(self, owner: str) -> None:
        """Note that an owner has its turn."""
        self._last += 1
        self._served[owner] = self._last
        if len(self._served) > len(self._groups) + _MOST_IDLE:
            first = self._heap[0][0] if self._heap else self._last
            self._served = {
                each: number
                for each, number in self._served.items()
                if number >= first or each in self._groups
            }

    def owners(self) -> Generator[tuple[str, set[str]], None, None]:
        """Return the owners and their groups, the next one first. Who has no group left when the
        next owner is asked for is forgotten."""
        seen = []
        try:
            while self._heap:
                number, owner = heapq.heappop(self._heap)
                served = self._served.get(owner, number)
                if served > number:
                    heapq.heappush(self._heap, (served, owner))
                    continue
                seen.append((number, owner))
                yield owner, self._groups[owner]
        finally:
            for item in seen:
                if self._groups[item[1]]:
                    heapq.heappush(self._heap, item)
                else:
                    del self._groups[item[1]]

    @property
    def is_over(self) -> bool:
        """Whether nobody waits."""
        return not self._heap and self.standing is None
