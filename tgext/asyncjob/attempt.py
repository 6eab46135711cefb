"""Run one claimed job, once, and turn whatever happens into an Outcome.

    claim -> [ surround: [ scope: call -> fence -> commit ] ] -> Outcome -> finish

Nothing that a job raises leaves this module, and nothing that ending it does. Whether a
job runs again, and when, is decided here and nowhere else.
"""

from __future__ import annotations

import logging
import random
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from threading import current_thread, main_thread
from types import CoroutineType
from typing import Any

from .backend import ClaimingBackend
from .current import CurrentQueue, attempt_var
from .errors import JobCancelled, JobTimeout
from .interruption import Abandoned, Interruptible
from .job import (
    CANCELLED,
    FAILED,
    READY,
    SUCCESSFUL,
    Claim,
    JobId,
    Outcome,
    Progress,
    TaskError,
    is_ours,
    outside_frames,
)
from .joblog import LINES
from .progress import Tracked
from .scope import Scope
from .task import NotKept, TaskContext, TaskResult, kept

log = logging.getLogger(__name__)

#: Longest that a pause in a job sleeps before it looks whether it was cancelled, in seconds.
LONGEST_NAP = 0.1

#: What most jobs come to.
_SUCCESS = Outcome(SUCCESSFUL)


class Drained(BaseException):
    """Raised in a job whose worker stops; no Exception, so that a job does not swallow it."""


class LeaseLost(BaseException):
    """Raised in an attempt whose job is no longer its own; nothing of it may be committed."""


@dataclass(frozen=True)
class Surroundings:
    """What every attempt of one queue works with."""

    queue: CurrentQueue
    backend: ClaimingBackend
    scope: Scope
    #: a context manager around the call, given what was captured at the enqueue
    surround: Callable[[dict[str, Any]], AbstractContextManager[Any]] | None = None
    session: Any = None  #: the application's, None where it has none
    tracked: Tracked = field(default_factory=lambda: Tracked(None))
    jitter: Callable[[], float] = random.random
    #: calls that were seen to commit in the middle, each worth one warning
    commits_in_parts: set[str] = field(default_factory=set)


class Attempt:
    """One attempt of one job; made, run and dropped by a worker's slot."""

    __slots__ = ("_fenced", "_lines", "_running", "_surroundings", "claim", "started")

    def __init__(self, claim: Claim, surroundings: Surroundings) -> None:
        self.claim = claim
        self.started = time.monotonic()
        self._surroundings = surroundings
        self._running = Interruptible()
        self._fenced = False
        self._lines: deque[str] | None = None

    # -- what the job's own code asks, by way of current.py

    @property
    def uid(self) -> JobId:
        return self.claim.job.uid

    @property
    def session(self) -> Any:
        return self._surroundings.session

    def report(self, progress: Progress) -> None:
        """Store a progress; a checkpoint too."""
        with self._running.shield():
            if not self._surroundings.backend.report(self.claim, progress):
                self._refused()
        self._surroundings.tracked.report(self.uid, progress)

    def checkpoint(self) -> None:
        """Raise whatever is to end the attempt; return if nothing is."""
        with self._running.shield():
            if not self._surroundings.backend.holds(self.claim):
                self._refused()

    def pause(self, seconds: float) -> None:
        """Do nothing for some seconds, and stop where a checkpoint would."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.checkpoint()
            with self._running.shield():
                self._surroundings.backend.wait_for_end(self.uid, min(left, LONGEST_NAP))
        self.checkpoint()

    def shield(self) -> AbstractContextManager[None]:
        """Let no interruption cut the block in two."""
        return self._running.shield()

    def note(self, line: str) -> None:
        """Keep a log line; before logging takes a lock is a good moment to end, too."""
        self._running.check_unsent()
        if self._lines is None:
            self._lines = deque(maxlen=LINES)
        self._lines.append(line)

    # -- what the worker's watch and a drain ask, from other threads

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise *error* in the job as soon as may be, once, unless it has returned."""
        self._running.interrupt(error)

    def time_out(self) -> bool:
        """End the attempt for the world as timed out, whatever its thread goes on to do.

        False if it is too late for that, because the call has returned.
        """
        if not self._running.abandon():
            return False
        try:
            outcome = self._after(JobTimeout(self.claim.job.options.timeout))
            if outcome.error is not None:
                text = f"It did not stop. It was here:\n{_stack_of(self._running.thread)}"
                outcome = outcome._replace(error=outcome.error._replace(traceback=text))
            self._finish(outcome)
        except Exception as mistake:  # noqa: BLE001 - see _fail
            self._fail(mistake)
        return True

    def give_back(self) -> bool:
        """End the attempt for the world as if it had never begun; False as ``time_out``."""
        if not self._running.abandon():
            return False
        self._release("drained")
        return True

    # -- the worker's own

    def run(self) -> bool:
        """Run the job and store what became of it; False if the attempt was abandoned.

        Raises nothing but KeyboardInterrupt, which no job is blamed for: the claim is
        released first. What the job sets in its context is gone with it.
        """
        return copy_context().run(self._run)

    def _run(self) -> bool:
        attempt_var.set(self)
        try:
            try:
                value = self._in_surroundings()
            except Drained:
                self._release("drained")
            except Abandoned:
                return False
            except LeaseLost:
                log.warning("job=%s lease lost, outcome dropped", self.uid)
            except BaseException as error:  # a SystemExit ends the job, not the worker
                if isinstance(error, KeyboardInterrupt) and current_thread() is main_thread():
                    self._release("interrupted from the keyboard")
                    raise
                self._finish(self._after(error))
            else:
                self._finish(self._success(value))
        except Exception as mistake:  # noqa: BLE001 - see _fail
            self._fail(mistake)
        return True

    def _in_surroundings(self) -> Any:
        surround, scope = self._surroundings.surround, self._surroundings.scope
        if surround is None:
            return scope.run(self._run_call, self._before_commit)
        with surround(dict(self.claim.job.context or {})):
            return scope.run(self._run_call, self._before_commit)

    def _run_call(self) -> Any:
        if self._fenced:  # the commit did not come about, and this is another try
            self._surroundings.backend.unfence(self.claim)
            self._fenced = False
        return self._running.run(self._call)

    def _call(self) -> Any:
        _, call, options, *_ = self.claim.job
        args = call.args
        if options.takes_context:
            result: TaskResult = self._surroundings.queue.result(self.uid)
            args = (TaskContext(result, self.claim.attempt), *args)
        value = call.target(*args, **call.kwargs) if call.kwargs else call.target(*args)
        return self._running.complete(value) if type(value) is CoroutineType else value

    def _before_commit(self) -> None:
        """The job's commit is a checkpoint: a cancellation it swallowed, it cannot here."""
        if not self._surroundings.backend.fence(self.claim):
            self._refused()
        self._fenced = True

    def commits(self) -> None:
        """Refuse a commit in the middle of the job as its last one would be refused."""
        if self._fenced:  # it is the last one
            return
        if not self._surroundings.backend.holds(self.claim):
            self._refused()
        name = self.claim.job.call.name
        if name not in self._surroundings.commits_in_parts:
            self._surroundings.commits_in_parts.add(name)
            log.warning(
                "job=%s call=%s commits in the middle: what it did so far stays whatever becomes "
                "of the rest, and a further attempt begins from the top: it must see for itself "
                "what is there", self.uid, name,
            )  # fmt: skip

    def _refused(self) -> None:
        """Raise for what the backend refused: cancelled, or not ours any more."""
        self._running.check()
        if self._surroundings.backend.get(self.uid) is None:
            raise LeaseLost
        raise JobCancelled

    def _after(self, error: BaseException) -> Outcome:
        """Decide what follows from an attempt that raised *error*."""
        claim, job = self.claim, self.claim.job
        lines = self._log_lines()
        if isinstance(error, JobCancelled):
            return Outcome(CANCELLED, log=lines)
        if isinstance(error, JobTimeout) and error.seconds is None:
            error = JobTimeout(job.options.timeout).with_traceback(error.__traceback__)
        described = TaskError.of(error)
        if claim.attempts_left <= 0:
            log.error(
                "job=%s attempt=%d call=%s failed, no attempts left: %s",
                job.uid, claim.attempt, job.call.name, described.message,
                exc_info=(type(error), error, outside_frames(error)),
            )  # fmt: skip
            return Outcome(FAILED, error=described, log=lines)
        number = max(job.options.max_attempts - claim.attempts_left, 1)
        try:
            delay = job.options.delay_seconds(number, self._surroundings.jitter())
        except BaseException as mistake:  # it is the application's own function
            log.exception("job=%s its backoff raised, no further attempt", job.uid)
            return Outcome(FAILED, error=TaskError.of(mistake), log=lines)
        log.warning(
            "job=%s attempt=%d call=%s failed, next attempt in %.1fs: %s",
            job.uid, claim.attempt, job.call.name, delay, described.message,
        )  # fmt: skip
        return Outcome(READY, error=described, delay_seconds=delay, log=lines)

    def _finish(self, outcome: Outcome) -> None:
        backend = self._surroundings.backend
        stored = backend.finish(self.claim, outcome)
        if not stored and outcome.status is SUCCESSFUL:  # it had nothing to commit, and then:
            outcome = Outcome(CANCELLED, log=outcome.log)
            stored = backend.finish(self.claim, outcome)
        if not stored:
            log.warning("job=%s lease lost, outcome dropped", self.uid)
            return
        if outcome.status is not READY:
            self._surroundings.tracked.end(self.uid)
        if log.isEnabledFor(logging.INFO) and outcome.status in (SUCCESSFUL, CANCELLED):
            log.info(
                "job=%s attempt=%d call=%s %s after %.3fs", self.uid, self.claim.attempt,
                self.claim.job.call.name, outcome.status.lower(), time.monotonic() - self.started,
            )  # fmt: skip

    def _fail(self, mistake: Exception) -> None:
        """End the attempt where ending it raised: a filter of the application's logging did, or
        the backend. The thread that came here has other jobs to run."""
        failed = Outcome(FAILED, error=TaskError.of(mistake), log=self._log_lines())
        with suppress(Exception):
            self._surroundings.backend.finish(self.claim, failed)
        with suppress(Exception):
            log.exception("job=%s could not be ended as it should", self.uid)

    def _release(self, why: str) -> None:
        self._surroundings.backend.release([self.claim])
        log.info("job=%s %s, waits again", self.uid, why)

    def _success(self, value: Any) -> Outcome:
        if value is None and self._lines is None:
            return _SUCCESS
        result = kept(value)
        if isinstance(result, NotKept):
            log.warning("job=%s succeeded, return value not kept: %s", self.uid, result.why)
        return Outcome(SUCCESSFUL, result, log=self._log_lines())

    def _log_lines(self) -> tuple[str, ...]:
        return () if self._lines is None else tuple(self._lines)


def _stack_of(thread: int) -> str:
    """Where a thread is, from the first frame below this package's."""
    frames = []
    frame = sys._current_frames().get(thread)
    while frame is not None and not is_ours(frame):
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return "".join(traceback.StackSummary.extract(reversed(frames)).format())
