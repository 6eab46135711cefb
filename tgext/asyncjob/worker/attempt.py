"""Run one claimed job, once, and turn whatever happens into an Outcome.

    claim -> [ job context: [ scope: call -> completion -> commit ] ] -> Outcome -> store_outcomes

If the job has used the database of the jobs, its completion is the last statement of its own
transaction: both are there, or neither. Otherwise the outcome is stored after that transaction, by
``store_outcomes``, which may store many in one commit.

Nothing that a job raises leaves this module, and nothing that ending it raises. What follows from
an attempt is decided in ``retry_policy.py``.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from functools import partial
from threading import current_thread, main_thread
from traceback import clear_frames
from typing import Any

from ..backends.base import ClaimingBackend
from ..current import attempt_var
from ..errors import JobCancelled, JobTimeout
from ..job import CANCELLED, FAILED, READY, SUCCESSFUL, Claim, JobId, Outcome, Progress, TaskError
from ..processes.forked import end_child_of, generation, only_here
from ..transactions.server_cancel import stop_all
from .calling import make_call
from .completion import Completion
from .environment import AttemptEnvironment
from .interruption import Abandoned, Interruptible
from .job_log import LINES
from .retry_policy import after_error, after_return
from .safe_points import stack_of

log = logging.getLogger(__name__)

#: Longest that a pause in a job sleeps before it looks whether it was cancelled, in seconds.
LONGEST_PAUSE = 0.1


class WorkerStopping(BaseException):
    """Raised in a job whose worker stops; no Exception, so that a job does not swallow it."""


class LeaseLost(BaseException):
    """Raised in an attempt whose job is no longer its own; nothing of it may be committed."""


class Attempt:
    """One attempt of one job; made, run and dropped by a worker thread."""

    __slots__ = (
        "_cancelled",
        "_completion",
        "_environment",
        "_generation",
        "_lines",
        "_running",
        "claim",
        "database_error",
        "outcome",
        "started",
    )  # fmt: skip

    def __init__(self, claim: Claim, environment: AttemptEnvironment) -> None:
        self.claim = claim
        self.started = time.monotonic()
        self._environment = environment
        self._running = Interruptible()
        self._generation = generation()
        #: what is to be stored of it; None: nothing, or nothing more
        self.outcome: Outcome | None = None
        self.database_error: BaseException | None = None
        self._completion = Completion(claim, environment)
        self._cancelled = False  # by itself
        self._lines: deque[str] | None = None

    # -- what the job's own code asks, by way of current.py

    @property
    def uid(self) -> JobId:
        return self.claim.job.uid

    @property
    def session(self) -> Any:
        return self._environment.session

    def report(self, progress: Progress) -> None:
        """Store a progress; a checkpoint too."""
        with self._running.shield():
            if self._cancelled or not self._environment.backend.report(self.claim, progress):
                self._raise_refusal()
            self._environment.progress_tracker.report(self.uid, progress)

    def checkpoint(self) -> None:
        """Raise whatever is to end the attempt; return if nothing is."""
        with self._running.shield():
            if self._cancelled or not self._environment.backend.holds(self.claim):
                self._raise_refusal()

    def cancel(self) -> bool:
        """Let the job end at its next checkpoint, as it asks itself; False where it is too late."""
        self._cancelled = not self._completion.is_fenced
        return self._cancelled

    def pause(self, seconds: float) -> None:
        """Do nothing for some seconds, and stop where a checkpoint would."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.checkpoint()
            with self._running.shield():
                self._environment.backend.wait_for_end(self.uid, min(left, LONGEST_PAUSE))
        self.checkpoint()

    def shield(self) -> AbstractContextManager[None]:
        """Let no interruption cut the block in two."""
        return self._running.shield()

    def log_line(self, line: str) -> None:
        """Keep a log line; a checkpoint too, since logging holds no lock yet."""
        self._running.raise_unsent()
        if self._lines is None:
            self._lines = deque(maxlen=LINES)
        self._lines.append(line)

    def track_connection(self, connection: Any, session: Any) -> None:
        """Remember a connection that a session of the job's transaction has begun to use."""
        self._completion.track_connection(connection, session)

    # -- what the timeout monitor and a drain ask, from other threads

    @property
    def connections(self) -> tuple[Any, ...]:
        """What its sessions work on."""
        return self._completion.connections

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise *error* in the job as soon as may be, once, unless it has returned; end the
        statement that it waits for before, with which the server would go on."""
        self._running.interrupt(error, self.connections and partial(stop_all, self.connections))

    def insist(self) -> None:
        """Interrupt it once more, where it has swallowed that, and kill its connections again."""
        stop = partial(stop_all, self.connections, for_good=True)
        self._running.insist(self.connections and stop)

    def time_out(self) -> bool:
        """End the attempt as timed out, whatever its thread does next; ``outcome`` is then to be
        stored, by ``store_outcomes``.

        False if it is too late for that, because the call has returned.
        """
        if not self._running.abandon():
            return False
        try:
            self.outcome = self._timed_out(stack_of(self._running.thread))
        except Exception as mistake:  # noqa: BLE001 - see fail
            self.fail(mistake)
        return True

    def kill_connections(self) -> None:
        """Kill its connections, which may hold locks; not once it has returned and commits."""
        self._running.while_inside(partial(stop_all, self.connections, for_good=True))

    def give_back(self) -> None:
        """End the attempt as if it had never begun, unless the call has returned."""
        if self._running.abandon():
            self.kill_connections()
            self._release("drained")

    # -- the worker's own

    def run(self) -> bool:
        """Run the job; ``outcome`` is then what is still to be stored of it, by ``store_outcomes``.

        False if the attempt was abandoned. Raises nothing but KeyboardInterrupt, which no job is
        blamed for: the claim is released first. What the job sets in its context is gone with it.
        """
        return copy_context().run(self._run)

    def _run(self) -> bool:
        attempt_var.set(self)
        try:
            try:
                value = self._run_job()
            except WorkerStopping:
                self._release("drained")
            except Abandoned:
                return False
            except LeaseLost:
                log.warning("job=%s lease lost, outcome dropped", self.uid)
                # Perhaps no worker has taken it: the database was away from all.
                self._release("lease lost")
            except BaseException as error:  # a SystemExit ends the job, not the worker
                if isinstance(error, KeyboardInterrupt) and current_thread() is main_thread():
                    self._release("interrupted from the keyboard")
                    raise
                if self._completion.has_come_about():
                    log.warning("job=%s committed, and the answer was lost: %s", self.uid, error)
                    self._ended_with(None)
                else:
                    self.outcome = self._after_error(error)
                    clear_frames(error.__traceback__)  # a kept log record holds no connection
            else:
                self._ended_with(value)
        except Exception as mistake:  # noqa: BLE001 - see fail
            if self._environment.backend.is_passing(mistake):
                self.outcome = Outcome(READY, crashed=True)  # to be stored when it is back
            else:
                self.fail(mistake)
        return True

    def _ended_with(self, value: Any) -> None:
        if self._completion.was_carried():
            self._environment.backend.finished(self.claim)
            self._has_ended(self._completion.stored)
        else:
            self.outcome = self._after_return(value)

    @only_here  # not in a child that a hook of the commit has forked, say
    def _run_job(self) -> Any:
        enter_context, scope = self._environment.enter_context, self._environment.scope
        if enter_context is None:
            return scope.run(self._run_call, self._prepare_commit)
        with enter_context(dict(self.claim.job.context or {})):
            return scope.run(self._run_call, self._prepare_commit)

    def _run_call(self) -> Any:
        end_child_of(self._generation)  # forked on the way here, by the job context
        if not self._completion.begin():
            self._raise_refusal()
        value = self._running.run(self._call)
        if self._cancelled:
            self._raise_refusal()
        return value

    def _call(self) -> Any:
        return make_call(self.claim, self._running, self._environment.queue.result, self.checkpoint)

    def _prepare_commit(self, value: Any) -> None:
        """The job's commit is a checkpoint: a cancellation it swallowed, it cannot here."""
        if not self._completion.prepare(self._after_return(value)):
            self._raise_refusal()

    def before_commit(self, connection: Any, *, by_statement: bool = False) -> None:
        """Complete the job in the commit that ends it; refuse any other one, too, if the job is
        no longer this attempt's."""
        end_child_of(self._generation)  # forked by a hook of this commit
        held = self._completion.before_commit(connection, by_statement=by_statement)
        if self._cancelled or not held:
            self._raise_refusal()

    def _raise_refusal(self) -> None:
        """Raise for what the backend refused: cancelled, or not ours any more."""
        self._running.check()
        if self._cancelled or self._environment.backend.is_cancelled(self.claim):
            raise JobCancelled
        raise LeaseLost

    def _timed_out(self, stack: str) -> Outcome:
        """What follows where it did not stop by itself. stack: where it was."""
        outcome = self._after_error(JobTimeout(self.claim.job.options.timeout))
        if outcome.error is None:
            return outcome
        text = f"It did not stop. It was here:\n{stack}"
        return outcome._replace(error=outcome.error._replace(traceback=text))

    def _after_error(self, error: BaseException) -> Outcome:
        return after_error(
            JobCancelled() if self._cancelled else error,
            self.claim,
            self._log_lines(),
            is_loss=self._environment.backend.is_loss,
            jitter=random.random(),
        )

    def stored(self, is_stored: bool) -> None:
        """Finish what depends on whether the outcome was stored."""
        outcome = self.outcome
        assert outcome is not None
        if not is_stored and outcome.status is SUCCESSFUL:  # it had nothing to commit, and then:
            outcome = Outcome(CANCELLED, log=outcome.log)
            is_stored = self._environment.backend.finish(self.claim, outcome)
        if is_stored:
            self._has_ended(outcome)
        elif self._environment.backend.committed(self.claim):  # by a commit without an answer
            self._environment.backend.finished(self.claim)
            self._has_ended(Outcome(SUCCESSFUL))
        else:
            log.warning("job=%s lease lost, outcome dropped", self.uid)
        self.outcome = None

    def _has_ended(self, outcome: Outcome | None) -> None:
        try:
            self._log_end(outcome)
        except Exception:  # a filter of the application's logging: what is stored is stored
            with suppress(Exception):
                log.exception("job=%s ended, which could not be told", self.uid)

    def _log_end(self, outcome: Outcome | None) -> None:
        assert outcome is not None
        if outcome.status is not READY:
            self._environment.progress_tracker.end(self.uid)
        if log.isEnabledFor(logging.INFO) and outcome.status in (SUCCESSFUL, CANCELLED):
            log.info(
                "job=%s attempt=%d call=%s %s after %.3fs", self.uid, self.claim.attempt,
                self.claim.job.call.name, outcome.status.lower(), time.monotonic() - self.started,
            )  # fmt: skip

    def fail(self, mistake: Exception) -> None:
        """End the attempt as failed if ending it raised, as by a filter of the application's
        logging. The thread goes on with other jobs; ``store_outcomes`` stores this outcome too."""
        self.outcome = Outcome(FAILED, error=TaskError.of(mistake), log=self._log_lines())
        with suppress(Exception):
            log.exception("job=%s could not be ended as it should", self.uid)

    def _release(self, why: str) -> None:
        try:
            self._environment.backend.release([self.claim])
        except Exception as error:  # noqa: BLE001 - it is the store's, never the job's
            self.outcome = Outcome(READY, crashed=True)  # to be stored when it takes that again
            why = f"{why}, which could not be stored yet ({error})"
        log.info("job=%s %s, waits again", self.uid, why)

    def _after_return(self, value: Any) -> Outcome:
        return after_return(value, self.claim, self._log_lines())

    def _log_lines(self) -> tuple[str, ...]:
        return tuple(self._lines or ())


def store_outcomes(attempts: Sequence[Attempt], backend: ClaimingBackend) -> None:
    """Store what is still to be stored of attempts that have ended, together.

    Raises what the backend raises; nothing of it is forgotten then.
    """
    open_ones = [attempt for attempt in attempts if attempt.outcome is not None]
    ends = [(attempt.claim, attempt.outcome) for attempt in open_ones if attempt.outcome]
    if len(ends) == 1:
        open_ones[0].stored(backend.finish(*ends[0]))
    elif ends:
        for attempt, is_stored in zip(open_ones, backend.finish_many(ends), strict=True):
            attempt.stored(is_stored)
