"""The worker's side of an attempt in a process of its own.

The slot's thread waits here, answers what the process asks of a backend that only this process
has, and takes what the attempt came to. What is to end it (a timeout, a drain, a lease that was
lost) is raised in the process, as in a thread; one that has not ended KILL_SECONDS later is
killed, and then the end is decided here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ...errors import JobTimeout, WorkerCrashed
from ...executors.remote_errors import Failure
from ...job import BACKOFF_SECONDS, Claim, Outcome
from ..attempt import Attempt, LeaseLost, WorkerStopping
from ..environment import AttemptEnvironment
from ..retry_policy import after_crash
from .fork_server import Child
from .messages import ANSWER, ASK, END, ORDER, STACK, UNREAD, not_kept, pack, unpack

#: Seconds in which a process may still end by itself that was told to.
KILL_SECONDS = 0.5


class AttemptApart(Attempt):
    """As an attempt in the slot's own thread, for all who have one.

    is_stopping: whether the worker was told to: then the death of a process is no crash, since
    whoever ends the worker may end its processes as well.
    """

    __slots__ = (
        "_child", "_guard", "_is_committing", "_is_stopping", "_killing", "_order", "_stack",
    )  # fmt: skip

    def __init__(
        self, claim: Claim, environment: AttemptEnvironment, is_stopping: Callable[[], bool]
    ) -> None:
        super().__init__(claim, environment)
        self._is_stopping = is_stopping
        self._guard = threading.RLock()
        self._child: Child | None = None
        self._order: type[BaseException] | None = None  # what is to end it
        self._killing: threading.Timer | None = None
        self._is_committing = False  # where only the process knows whether that came about
        self._stack = ""

    # -- from other threads

    def interrupt(self, error: type[BaseException]) -> None:
        with self._guard:
            if self._order is not None:
                return
            self._order = error
        self._give_order()

    def time_out(self) -> bool:
        """Nothing to do: the process is killed, and this thread hears of it."""
        return False

    def give_back(self) -> bool:
        self.interrupt(WorkerStopping)
        self._kill()
        return False

    def _give_order(self) -> None:
        with self._guard:
            child, order = self._child, self._order
            if child is None or order is None or self._killing is not None:
                return
            self._killing = threading.Timer(KILL_SECONDS, self._kill)
            self._killing.daemon = True
            self._killing.start()
        child.tell(ORDER + pack(order))

    def _kill(self) -> None:
        with self._guard:
            if self._child is not None and not self._is_committing:
                self._child.kill()

    # -- in the worker thread

    def _run_job(self) -> Outcome | None:
        """Run the attempt; return what is still to be stored of it, None: nothing."""
        letter = self._letter()
        try:
            child = self._environment.nursery.bear(lambda: self._order is None)
        except WorkerCrashed as error:
            if (ordered := self._as_ordered()) is not None:
                return ordered
            # At once it would be so again, and of all jobs that wait.
            delay_seconds = BACKOFF_SECONDS * (1 + self._environment.jitter())
            return after_crash(error, self.claim, delay_seconds)
        try:
            with self._guard:
                self._child = child
            child.send(letter)
            self._give_order()  # one that came before
            return self._attend(child)
        finally:
            with self._guard:
                self._child = None
            if self._killing is not None:
                self._killing.cancel()
            child.close()

    def _ended_with(self, value: Outcome | None) -> None:
        self.outcome = value
        if value is None:
            self._environment.backend.finished(self.claim)

    def _letter(self) -> bytes:
        warned = self._environment.commits_in_parts.copy()  # other threads add to it
        asks_backoff = callable(self.claim.job.options.backoff)
        return pack((self.claim, asks_backoff, warned), plain=True)

    def _attend(self, child: Child) -> Outcome | None:
        while (message := child.receive()) is not None:
            kind, content = message[:1], message[1:]
            if kind == ASK:
                child.send(ANSWER + self._answer(content))
            elif kind == STACK:
                self._stack = unpack(content)
            elif kind == UNREAD:
                raise unpack(content).exception()
            elif kind == END:
                outcome, result, warned = unpack(content)
                self._environment.commits_in_parts.update(warned)
                return outcome and outcome._replace(result=self._read(result))  # type: ignore[no-any-return]
        return self._after_death(child)

    def _read(self, result: bytes) -> Any:
        try:
            return unpack(result)
        except Exception as error:  # noqa: BLE001 - the value's own code runs; its work is done
            return not_kept(self.uid, "return what can be read", error)

    def _after_death(self, child: Child) -> Outcome | None:
        if self._order is LeaseLost:
            raise LeaseLost
        found = self._environment.backend.get(self.uid)
        if found is not None and found.status.is_final:  # by its commit, before its last word
            self._has_ended(Outcome(found.status))
            return None
        if (ordered := self._as_ordered()) is not None:
            return ordered
        why = f"its process {child.pid} {child.how()} while it ran"
        return after_crash(WorkerCrashed(why), self.claim)

    def _as_ordered(self) -> Outcome | None:
        """Return what follows from what was to end it, or raise that; None: nothing was."""
        if self._order is JobTimeout:
            return self._timed_out(self._stack)
        if self._order is not None:
            raise self._order
        if self._is_stopping():
            raise WorkerStopping
        return None

    def _answer(self, content: bytes) -> bytes:
        try:
            number, of_whom, method, args, kwargs = unpack(content, self.claim)
        except Exception as error:  # noqa: BLE001 - whatever a value's class raises here
            return pack((None, False, Failure.of(error)))
        try:
            value = self._do(of_whom, method, args, kwargs)
            return pack((number, True, value), self.claim, plain=True)
        except Exception as error:  # noqa: BLE001 - it is the job's
            return pack((number, False, Failure.of(error)))

    def _do(self, of_whom: str, method: str, args: Any, kwargs: Any) -> Any:
        environment = self._environment
        if of_whom == "options":
            return getattr(self.claim.job.options, method)(*args)
        if of_whom == "tracker":
            return getattr(environment.progress_tracker.tracker, method)(*args, **kwargs)
        if of_whom == "commit":
            return self._hear_of_commit(method == "begins")
        return getattr(environment.backend, method)(*args, **kwargs)

    def _hear_of_commit(self, begins: bool) -> None:
        """Kill no process from here on, or let it be killed once more."""
        with self._guard:
            self._is_committing = begins
            if not begins:
                self._killing = None
        if not begins:
            self._give_order()  # one that came in the commit, and is for the next try too
