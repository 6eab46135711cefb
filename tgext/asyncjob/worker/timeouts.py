"""End attempts that are over their timeout, and count the threads that cannot be stopped.

    deadline --> the attempt is interrupted --> it ends
                          | GRACE_SECONDS
                          '--> abandoned: its outcome is stored, its connections are killed,
                               a new thread replaces its thread, which is interrupted again and
                               again as long as it lives

A thread that hangs in C code cannot be ended at all. So their number is bounded: while MOST_HUNG of
them live, no other one is replaced. The process then runs fewer jobs, or none, and logs that; under
a supervisor it asks for a successor.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from ..backends.base import Backend
from .attempt import Attempt, store_outcomes
from .thread import LONGEST_SLEEP, WorkerThread

log = logging.getLogger(__name__)

#: Seconds in which an interrupted attempt may still end by itself. Code that holds the interpreter,
#: or sleeps in C, does not; its thread is then replaced.
GRACE_SECONDS = 0.25

#: Seconds between two checks of the threads whose attempts were abandoned.
HUNG_LOOK_SECONDS = 0.5

#: How many threads of abandoned attempts may live at a time before none is replaced; or twice the
#: worker's threads, if that is more. Each keeps its stack, and the objects of its job.
MOST_HUNG = 10


class Timeouts:
    """The timeouts of one worker. Only its timeout monitor calls ``enforce``.

    remove: called with a thread whose attempt is abandoned. replace: starts another thread.
    wake_maintenance: wakes the thread that calls ``store_outcomes``, if there is one.
    """

    def __init__(
        self,
        backend: Backend,
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
        self._hung: list[WorkerThread] = []  # of abandoned attempts, alive at the last check
        self._unreplaced = 0  # threads that were not replaced
        self._overdue: deque[tuple[WorkerThread, Attempt]] = deque()

    @property
    def hung(self) -> bool:
        """Whether a thread of an abandoned attempt is still alive."""
        return any(thread.is_alive() for thread in self._hung)

    @property
    def is_degraded(self) -> bool:
        """Whether more threads hang than are replaced."""
        return self._unreplaced > 0

    def enforce(self, threads: Iterable[WorkerThread]) -> float:
        """Interrupt attempts that are over their timeout, and replace threads that go on.

        Returns when to check again, by time.monotonic().
        """
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
            "job=%s does not stop after its timeout and is abandoned: its thread is one of %d such "
            "threads in this process, of at most %d", attempt.uid, len(self._hung), self._most_hung,
        )  # fmt: skip
        self._remove(thread)
        self._unreplaced += 1
        self._replace_threads()
        if self._unreplaced:
            log.error(
                "%d threads of this process hang in jobs that are over their timeout, and no more "
                "are replaced: it runs fewer jobs until they end, and none once it has no other "
                "thread; restart it, and run such jobs in processes (executor=\"process\")",
                len(self._hung),
            )  # fmt: skip
        self._overdue.append((thread, attempt))
        if self._backend.is_shared:
            self._wake_maintenance()
        else:
            self.store_outcomes()

    def _replace_threads(self) -> None:
        """Replace threads, up to the bound."""
        while self._unreplaced and len(self._hung) < self._most_hung:
            self._unreplaced -= 1
            self._replace()

    def store_outcomes(self) -> None:
        """Store the outcomes of abandoned attempts, and of those that their threads ran before;
        release the claims that their threads have prefetched.

        Raises what the backend raises; nothing is forgotten then.
        """
        while self._overdue:
            overdue = list(self._overdue)
            for thread, attempt in overdue:
                attempt.kill_connections()
                thread.release_prefetched()
            store_outcomes([attempt for _, attempt in overdue], self._backend)
            for _ in overdue:
                self._overdue.popleft()
