"""The worker's side of an attempt in a child process.

The worker thread waits here, answers calls of a backend that only the worker's process has, and
receives the outcome. A timeout, a drain or a lost lease is raised in the child as in a thread; a
child that has not ended KILL_SECONDS later is killed, and the outcome is decided here.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

from ...errors import JobTimeout, WorkerCrashed
from ...executors.remote_errors import Failure
from ...job import Claim, Outcome
from ...task_options import BACKOFF_SECONDS
from ..attempt import Attempt
from ..environment import AttemptEnvironment
from ..interruption import LeaseLost, WorkerStopping
from ..retry_policy import after_crash
from .fork_server import Child
from .messages import ANSWER, ASK, END, INTERRUPT, STACK, UNREAD, not_kept, pack, unpack

#: Seconds in which a child may still end by itself after an interruption.
KILL_SECONDS = 0.5


class SubprocessAttempt(Attempt):
    """Represents the attempt in the child; used as any attempt.

    is_stopping: whether the worker stops. The death of a child is then no crash: a signal that
    stops the worker may reach its children as well.
    """

    __slots__ = (
        "_child", "_guard", "_interruption", "_is_committing", "_is_stopping", "_killing", "_stack",
    )  # fmt: skip

    def __init__(
        self, claim: Claim, environment: AttemptEnvironment, is_stopping: Callable[[], bool]
    ) -> None:
        super().__init__(claim, environment)
        self._is_stopping = is_stopping
        self._guard = threading.RLock()
        self._child: Child | None = None
        self._interruption: type[BaseException] | None = None  # what is to end it
        self._killing: threading.Timer | None = None
        self._is_committing = False  # only the child knows whether that commit succeeds
        self._stack = ""

    # -- called by other threads

    def interrupt(self, error: type[BaseException]) -> None:
        with self._guard:
            if self._interruption is not None:
                return
            self._interruption = error
        self._send_interruption()

    def time_out(self) -> bool:
        """Do nothing: the child is killed, and the worker thread reads its exit status."""
        return False

    def give_back(self) -> None:
        self.interrupt(WorkerStopping)
        self._kill()

    def _send_interruption(self) -> None:
        with self._guard:
            child, interruption = self._child, self._interruption
            if child is None or interruption is None or self._killing is not None:
                return
            self._killing = threading.Timer(KILL_SECONDS, self._kill)
            self._killing.daemon = True
            self._killing.start()
        child.send_nowait(INTERRUPT + pack(interruption))

    def _kill(self) -> None:
        with self._guard:
            if self._child is not None and not self._is_committing:
                self._child.kill()

    # -- called by the worker thread

    def _run_job(self) -> Outcome | None:
        """Run the attempt; return the outcome that is still to be stored; None: there is none."""
        request = self._request()
        try:
            child = self._environment.fork_server.spawn(lambda: self._interruption is None)
        except WorkerCrashed as error:
            if (interrupted := self._after_interruption()) is not None:
                return interrupted
            # Without a pause this job and all that wait would fail in the same way at once.
            delay_seconds = BACKOFF_SECONDS * (1 + random.random())
            return after_crash(error, self.claim, delay_seconds)
        try:
            with self._guard:
                self._child = child
            child.send(request)
            self._send_interruption()  # one that came before the start
            return self._receive_outcome(child)
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

    def _request(self) -> bytes:
        warned = self._environment.commits_in_parts.copy()  # other threads add to it
        asks_backoff = callable(self.claim.job.options.backoff)
        return pack((self.claim, asks_backoff, warned), plain=True)

    def _receive_outcome(self, child: Child) -> Outcome | None:
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
        except Exception as error:  # noqa: BLE001 - the value's own code runs; the job has succeeded
            return not_kept(self.uid, "return what can be read", error)

    def _after_death(self, child: Child) -> Outcome | None:
        if self._interruption is LeaseLost:
            raise LeaseLost
        found = self._environment.backend.get(self.uid)
        if found is not None and found.status.is_final:  # by its commit, before it could say so
            self._has_ended(Outcome(found.status))
            return None
        if (interrupted := self._after_interruption()) is not None:
            return interrupted
        why = f"its process {child.pid} {child.how_it_ended()} while the job ran"
        return after_crash(WorkerCrashed(why), self.claim)

    def _after_interruption(self) -> Outcome | None:
        """Return the outcome of a timeout, raise another interruption; None: there was none."""
        if self._interruption is JobTimeout:
            return self._timed_out(self._stack)
        if self._interruption is not None:
            raise self._interruption
        if self._is_stopping():
            raise WorkerStopping
        return None

    def _answer(self, content: bytes) -> bytes:
        try:
            number, target, method, args, kwargs = unpack(content, self.claim)
        except Exception as error:  # noqa: BLE001 - the values' classes may raise anything
            return pack((None, False, Failure.of(error)))
        try:
            value = self._call_method(target, method, args, kwargs)
            return pack((number, True, value), self.claim, plain=True)
        except Exception as error:  # noqa: BLE001 - it is raised in the job
            return pack((number, False, Failure.of(error)))

    def _call_method(self, target: str, method: str, args: Any, kwargs: Any) -> Any:
        environment = self._environment
        if target == "options":
            return getattr(self.claim.job.options, method)(*args)
        if target == "schedules":
            return getattr(environment.backend.schedules, method)(*args, **kwargs)
        if target == "tracker":
            return getattr(environment.progress_tracker.tracker, method)(*args, **kwargs)
        if target == "commit":
            return self._track_commit(method == "begins")
        return getattr(environment.backend, method)(*args, **kwargs)

    def _track_commit(self, begins: bool) -> None:
        """Do not kill the child until its commit has ended. begins: False: it has."""
        with self._guard:
            self._is_committing = begins
            if not begins:
                self._killing = None
        if not begins:
            self._send_interruption()  # one that came during the commit, for the next try
