"""How many results of all workers are not dealt with: counted in memory that the processes share.

    sum(sent) - sum(done) <= most

Each number has one writer, a worker or the parent: nothing is locked, a process that is killed
leaves no lock behind, and its number is settled by the parent. A worker counts a result first, and
takes it back where there turns out to be no space; so two that count at once may both take it back,
and look again, but never are there too many.
"""

from __future__ import annotations

import sys
from typing import Any

#: Stands for no bound.
BOUNDLESS = sys.maxsize

#: How often a worker looks again where others have counted at the same time.
_TRIES = 100


class ResultBound:
    """See the module. The parent makes it, and hands it to the processes that it starts.

    context: multiprocessing's, of their start method. most: results of all workers together; None:
    as many as they like.
    """

    def __init__(self, context: Any, size: int, most: int | None) -> None:
        self.most = BOUNDLESS if most is None else most
        self._size = size
        # What was sent, by the numbers of the workers, then what is done, then the bound.
        self._numbers: Any = context.RawArray("q", [*[0] * (2 * size), self.most])
        self._asking: Any = context.RawArray("b", size)

    # -- in a worker

    def take(self, number: int) -> bool:
        """Count a result of worker *number*; False, and not counted, where there is no space."""
        numbers = self._numbers
        if numbers[2 * self._size] == BOUNDLESS:
            return True
        for _ in range(_TRIES):
            numbers[number] += 1
            if self._space() >= 0:
                return True
            numbers[number] -= 1
            if self._space() < 1:
                return False
        return False

    def ask(self, number: int) -> None:
        """Request a frame for *number* when there is space; call ``take`` again after this."""
        self._asking[number] = 1

    # -- in the parent, one thread at a time

    def done(self, number: int, results: int) -> None:
        """Count so many results of a worker as dealt with."""
        self._numbers[self._size + number] += results

    def settle(self, number: int, undone: int) -> None:
        """Set the numbers of a dead worker right, of whose results so many are not dealt with."""
        self._numbers[self._size + number] = self._numbers[number] - undone
        self._asking[number] = 0

    def lift(self) -> None:
        """Bound nothing any more."""
        self._numbers[2 * self._size] = BOUNDLESS

    def answered(self) -> list[int]:
        """Return the workers that have asked, if there is space for more than a few results."""
        asking = self._asking[:]
        if not any(asking) or self._space() < max(1, self.most // 8):
            return []
        found = [number for number, asks in enumerate(asking) if asks]
        for number in found:
            self._asking[number] = 0
        return found

    def _space(self) -> int:
        # In this order: what is done after it was read was sent before, so the space is never too
        # large.
        *numbers, most = self._numbers[:]
        return int(most - sum(numbers[: self._size]) + sum(numbers[self._size :]))
