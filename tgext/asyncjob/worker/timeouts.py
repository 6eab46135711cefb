"""Ends attempts that are over their time, and counts the threads that do not come back.

    deadline --> the attempt is interrupted --> it ends
                          | GRACE_SECONDS
                          '--> given up: its outcome is stored, its connections are cut, another
                               slot takes the place of its thread, which is interrupted again and
                               again as long as it lives

A thread that hangs in C code cannot be ended at all. So there is a bound: while so many live, none
is replaced any more. The process then takes fewer jobs, or none, and says so; one that a
supervisor runs asks for a successor.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from ..backends.base import ClaimingBackend
from .attempt import Attempt, store_outcomes
from .thread import LONGEST_SLEEP, Slot

log = logging.getLogger(__name__)

#: Seconds in which an attempt that was interrupted may still end by itself. Code that holds
#: the interpreter, or sleeps in C, does not; then its slot is replaced.
GRACE_SECONDS = 0.25

#: Seconds between two looks at threads that were given up.
LOST_LOOK_SECONDS = 0.5

#: Threads that were given up and may live at a time: so many, or twice the worker's own if that
#: is more. Each keeps its stack, and what its job has in hand.
MOST_LOST = 10


class Timeouts:
    """Of one worker; used by its watch, but for ``store_outcomes`` and ``is_worn``.

    forget: called with a slot that was given up. replace: starts another one. relieve: wakes who
    calls ``store_outcomes``, where that is another thread.
    """

    def __init__(
        self,
        backend: ClaimingBackend,
        threads: int,
        *,
        forget: Callable[[Slot], None],
        replace: Callable[[], None],
        relieve: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._most_lost = max(MOST_LOST, 2 * threads)
        self._forget = forget
        self._replace = replace
        self._relieve = relieve
        self._lost: list[Slot] = []  # given up, and alive at the last look
        self._owed = 0  # slots that were not replaced
        self._overdue: deque[tuple[Slot, Attempt]] = deque()

    @property
    def is_worn(self) -> bool:
        """Whether there are more of those threads than may be."""
        return self._owed > 0

    def enforce(self, slots: Iterable[Slot]) -> float:
        """Interrupt what is over its time and replace what does not care; return when to look
        again."""
        nearest = time.monotonic() + LONGEST_SLEEP
        for slot in slots:
            deadline = slot.deadline()
            if deadline is None:
                continue
            now = time.monotonic()
            overdue = slot.time_out() if now >= deadline + GRACE_SECONDS else None
            if overdue is not None:
                self._give_up(slot, overdue)
            else:
                nearest = min(nearest, deadline if now < deadline else now + GRACE_SECONDS / 4)
        if self._lost:
            self._lost = [slot for slot in self._lost if slot.insist()]
            self._pay()
            nearest = min(nearest, time.monotonic() + LOST_LOOK_SECONDS)
        return nearest

    def _give_up(self, slot: Slot, attempt: Attempt) -> None:
        self._lost = [each for each in self._lost if each.is_alive()]
        self._lost.append(slot)
        log.warning(
            "job=%s does not stop after its timeout: its thread goes on for nobody, one of %d such "
            "threads in this process; %d may be", attempt.uid, len(self._lost), self._most_lost,
        )  # fmt: skip
        self._forget(slot)
        self._owed += 1
        self._pay()
        if self._owed:
            log.error(
                "%d threads of this process hang in jobs that are over their timeout, as many as "
                "may be: it takes fewer jobs until they come back, and none once it has no other "
                "thread; restart it, and run such jobs in processes (executor=\"process\")",
                len(self._lost),
            )  # fmt: skip
        self._overdue.append((slot, attempt))
        if self._backend.is_shared:
            self._relieve()
        else:
            self.store_outcomes()

    def _pay(self) -> None:
        """Replace slots, as far as the bound allows."""
        while self._owed and len(self._lost) < self._most_lost:
            self._owed -= 1
            self._replace()

    def store_outcomes(self) -> None:
        """Store what became of attempts whose threads go on for nobody, and what those threads
        have in hand besides: what ended before, and what waits behind."""
        while self._overdue:
            overdue = list(self._overdue)
            for slot, attempt in overdue:
                attempt.kill_connections()
                slot.relieve()
            store_outcomes([attempt for _, attempt in overdue], self._backend)
            for _ in overdue:
                self._overdue.popleft()
