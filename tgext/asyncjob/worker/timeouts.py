"""End attempts that are over their timeout, and count the threads that do not come back.

    deadline --> the attempt is interrupted --> it ends
                          | GRACE_SECONDS
                          '--> given up: its outcome is stored, its connections are killed,
                               another thread replaces its own, which is interrupted again and
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
from .thread import LONGEST_SLEEP, WorkerThread

log = logging.getLogger(__name__)

#: Seconds in which an attempt that was interrupted may still end by itself. Code that holds
#: the interpreter, or sleeps in C, does not; then its thread is replaced.
GRACE_SECONDS = 0.25

#: Seconds between two looks at threads that were given up.
HUNG_LOOK_SECONDS = 0.5

#: Threads that were given up and may live at a time: so many, or twice the worker's own if that
#: is more. Each keeps its stack, and what its job has in hand.
MOST_HUNG = 10


class Timeouts:
    """Of one worker; for its timeout monitor, but for ``store_outcomes`` and ``is_degraded``.

    remove: called with a thread that was given up. replace: starts another one. wake_maintenance:
    wakes the thread that calls ``store_outcomes``, if there is one.
    """

    def __init__(
        self,
        backend: ClaimingBackend,
        threads: int,
        *,
        remove: Callable[[WorkerThread], None],
        replace: Callable[[], None],
        wake_maintenance: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._most_hung = max(MOST_HUNG, 2 * threads)
        self._remove = remove
        self._replace = replace
        self._wake_maintenance = wake_maintenance
        self._hung: list[WorkerThread] = []  # given up, and alive at the last look
        self._unreplaced = 0  # threads that were not replaced
        self._overdue: deque[tuple[WorkerThread, Attempt]] = deque()

    @property
    def is_degraded(self) -> bool:
        """Whether there are more of those threads than may be."""
        return self._unreplaced > 0

    def enforce(self, threads: Iterable[WorkerThread]) -> float:
        """Interrupt attempts over their timeout, replace threads that go on; return when to look
        again."""
        nearest = time.monotonic() + LONGEST_SLEEP
        for thread in threads:
            deadline = thread.deadline()
            if deadline is None:
                continue
            now = time.monotonic()
            overdue = thread.time_out() if now >= deadline + GRACE_SECONDS else None
            if overdue is not None:
                self._give_up(thread, overdue)
            else:
                nearest = min(nearest, deadline if now < deadline else now + GRACE_SECONDS / 4)
        if self._hung:
            self._hung = [thread for thread in self._hung if thread.insist()]
            self._replace_threads()
            nearest = min(nearest, time.monotonic() + HUNG_LOOK_SECONDS)
        return nearest

    def _give_up(self, thread: WorkerThread, attempt: Attempt) -> None:
        self._hung = [each for each in self._hung if each.is_alive()]
        self._hung.append(thread)
        log.warning(
            "job=%s does not stop after its timeout: its thread goes on for nobody, one of %d such "
            "threads in this process; %d may be", attempt.uid, len(self._hung), self._most_hung,
        )  # fmt: skip
        self._remove(thread)
        self._unreplaced += 1
        self._replace_threads()
        if self._unreplaced:
            log.error(
                "%d threads of this process hang in jobs that are over their timeout, as many as "
                "may be: it takes fewer jobs until they come back, and none once it has no other "
                "thread; restart it, and run such jobs in processes (executor=\"process\")",
                len(self._hung),
            )  # fmt: skip
        self._overdue.append((thread, attempt))
        if self._backend.is_shared:
            self._wake_maintenance()
        else:
            self.store_outcomes()

    def _replace_threads(self) -> None:
        """Replace threads, as far as the bound allows."""
        while self._unreplaced and len(self._hung) < self._most_hung:
            self._unreplaced -= 1
            self._replace()

    def store_outcomes(self) -> None:
        """Store the outcomes of attempts that were given up, and of those that their threads ran
        before; release the claims that their threads have prefetched."""
        while self._overdue:
            overdue = list(self._overdue)
            for thread, attempt in overdue:
                attempt.kill_connections()
                thread.release_prefetched()
            store_outcomes([attempt for _, attempt in overdue], self._backend)
            for _ in overdue:
                self._overdue.popleft()
