"""The bound of results that are not done, of all workers, in memory that the processes share.

    sum(sent) - sum(done) <= most

Each number has one writer, a worker or the parent. So nothing is locked, a process that is killed
leaves no lock behind, and the parent corrects its number. A worker counts a result first, and takes
that back if there is no space. So two that count at once may both take it back, and try again, but
there are never too many.
"""

from __future__ import annotations

import sys
from typing import Any

#: No bound.
BOUNDLESS = sys.maxsize

#: How often a worker tries again when others have counted at the same time.
_TRIES = 100


class ResultBound:
    """The bound. The parent makes it, and passes it to the processes that it starts.

    context: the context of multiprocessing that starts them. most: results of all workers together;
    None: no bound.
    """

    def __init__(self, context: Any, size: int, most: int | None) -> None:
        self.most = BOUNDLESS if most is None else most
        self._size = size
        # For each worker the results sent, then for each the results done, then the bound.
        self._numbers: Any = context.RawArray("q", [*[0] * (2 * size), self.most])
        self._asking: Any = context.RawArray("b", size)

    # -- in a worker

    def take(self, number: int) -> bool:
        """Count a result of worker *number*. False: there is no space, and it is not counted."""
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
        """Count so many results of a worker as done."""
        self._numbers[self._size + number] += results

    def settle(self, number: int, undone: int) -> None:
        """Correct the numbers of a dead worker. undone: its results that are not done."""
        self._numbers[self._size + number] = self._numbers[number] - undone
        self._asking[number] = 0

    def lift(self) -> None:
        """Remove the bound."""
        self._numbers[2 * self._size] = BOUNDLESS

    def answered(self) -> list[int]:
        """Return the workers that have asked, if at least an eighth of the bound is free."""
        asking = self._asking[:]
        if not any(asking) or self._space() < max(1, self.most // 8):
            return []
        found = [number for number, asks in enumerate(asking) if asks]
        for number in found:
            self._asking[number] = 0
        return found

    def _space(self) -> int:
        # The copy reads `sent` before `done`: a result that is done meanwhile was counted as sent
        # before, so the space is never too large.
        *numbers, most = self._numbers[:]
        return int(most - sum(numbers[: self._size]) + sum(numbers[self._size :]))
