"""Run one claimed job, once, and turn whatever happens into an Outcome.

    claim -> [ job context: [ scope: call -> completion -> commit ] ] -> Outcome -> store_outcomes

If the job has used the database of the jobs, its completion is the last statement of its own
transaction: both are committed, or neither. Otherwise the outcome is stored after that transaction,
by ``store_outcomes``, which may store many in one commit.

No exception of a job leaves this module, and none that is raised while an attempt ends. The outcome
of an attempt is decided in ``retry_policy.py``.
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
from typing import Any, NoReturn

from ..backends.base import Backend, Standing
from ..current import attempt_var
from ..errors import JobCancelled, JobTimeout
from ..job import CANCELLED, FAILED, READY, SUCCESSFUL, Claim, JobId, Outcome, Progress, TaskError
from ..processes.forked import end_child_of, generation, only_here
from ..transactions.server_cancel import stop_all
from .calling import make_call
from .completion import Completion
from .environment import AttemptEnvironment
from .interruption import Abandoned, Interruptible, LeaseLost, WorkerStopping
from .job_log import LINES
from .retry_policy import after_error, after_return
from .safe_points import stack_of

log = logging.getLogger(__name__)

#: Longest time between two checks whether a job that pauses was cancelled, in seconds.
LONGEST_PAUSE = 0.1


class Attempt:
    """One attempt of one job; made, run and dropped by a worker thread."""

    __slots__ = (
        "_cancelled", "_completion", "_environment", "_generation", "_lines", "_running", "claim",
        "database_error", "outcome", "started",
    )  # fmt: skip

    def __init__(self, claim: Claim, environment: AttemptEnvironment) -> None:
        self.claim = claim
        self.started = time.monotonic()
        self._environment = environment
        self._running = Interruptible()
        self._generation = generation()
        #: what ``store_outcomes`` has to store; None: nothing, or it has been stored
        self.outcome: Outcome | None = None
        self.database_error: BaseException | None = None
        self._completion = Completion(claim, environment)
        self._cancelled = False  # by the job itself
        self._lines: deque[str] | None = None

    # -- called by the job's own code, through current.py

    @property
    def uid(self) -> JobId:
        return self.claim.job.uid

    @property
    def session(self) -> Any:
        return self._environment.session

    def report(self, progress: Progress) -> None:
        """Store a progress. It is a checkpoint, and raises what ``checkpoint`` raises."""
        with self._running.shield():
            if self._cancelled or not self._environment.backend.report(self.claim, progress):
                self._raise_refusal()
            self._environment.progress_tracker.report(self.uid, progress)

    def checkpoint(self) -> None:
        """Raise what is to end the attempt: JobCancelled, LeaseLost, or an interruption."""
        with self._running.shield():
            standing = self._environment.backend.standing(self.claim)
            if self._cancelled or standing is not Standing.HELD:
                self._raise_refusal(standing)

    def cancel(self) -> bool:
        """Cancel the job at its own request, at its next checkpoint; False if that is too late."""
        self._cancelled = not self._completion.is_fenced
        return self._cancelled

    def pause(self, seconds: float) -> None:
        """Wait for *seconds*; raises what ``checkpoint`` raises, as soon as that is due."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.checkpoint()
            with self._running.shield():
                self._environment.backend.wait_for_end(self.uid, min(left, LONGEST_PAUSE))
        self.checkpoint()

    def shield(self) -> AbstractContextManager[None]:
        """Delay interruptions until the end of the block."""
        return self._running.shield()

    def log_line(self, line: str) -> None:
        """Keep a log line. Raises an interruption that is due, or Abandoned in an attempt that was
        given up: logging holds no lock here yet."""
        self._running.raise_unsent()
        if self._lines is None:
            self._lines = deque(maxlen=LINES)
        self._lines.append(line)

    def track_connection(self, connection: Any, session: Any) -> None:
        """Remember a connection that a session of the job's transaction has begun to use."""
        self._completion.track_connection(connection, session)

    # -- called by other threads: the timeout monitor, a drain

    @property
    def connections(self) -> tuple[Any, ...]:
        """The database connections that its sessions use."""
        return self._completion.connections

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise *error* in the job as soon as possible, once, unless its call has returned.

        A statement that it waits for is cancelled first: the server would go on with it.
        """
        self._running.interrupt(error, self.connections and partial(stop_all, self.connections))

    def insist(self) -> None:
        """Interrupt the job again if it has caught the interruption and goes on. If the attempt
        was given up, kill its connections again."""
        stop = partial(stop_all, self.connections, for_good=True)
        self._running.insist(self.connections and stop)

    def time_out(self) -> bool:
        """End the attempt as timed out, whatever its thread does next; False if it has returned.

        ``store_outcomes`` then has to store its ``outcome``.
        """
        if not self._running.abandon():
            return False
        try:
            self.outcome = self._timed_out(stack_of(self._running.thread))
        except Exception as mistake:  # noqa: BLE001 - see fail
            self.fail(mistake)
        return True

    def kill_connections(self) -> None:
        """Kill its connections, which may hold locks, unless its call has returned."""
        self._running.while_inside(partial(stop_all, self.connections, for_good=True))

    def give_back(self) -> None:
        """Release the job as if the attempt had not begun, unless its call has returned."""
        if self._running.abandon():
            self.kill_connections()
            self._release("drained")

    # -- called by the worker thread

    def run(self) -> bool:
        """Run the job; ``store_outcomes`` then has to store its ``outcome``, if there is one.

        Returns False if the attempt was abandoned. Raises nothing but KeyboardInterrupt, after the
        claim is released: it is no failure of the job. Context variables that the job sets are
        discarded.
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
                # Perhaps no other worker has it: no worker may have reached the database.
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
                self.outcome = Outcome(READY, crashed=True)  # stored when the backend is back
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
        end_child_of(self._generation)  # forked by the job context
        if not self._completion.begin():
            self._raise_refusal()
        value = self._running.run(self._call)
        if self._cancelled:
            self._raise_refusal()
        return value

    def _call(self) -> Any:
        return make_call(self.claim, self._running, self._environment.queue.result, self.checkpoint)

    def _prepare_commit(self, value: Any) -> None:
        """Prepare the commit. It is a checkpoint too: a cancelled job does not commit."""
        if not self._completion.prepare(self._after_return(value)):
            self._raise_refusal()

    def before_commit(self, connection: Any, *, by_statement: bool = False) -> None:
        """Complete the job in the commit that ends it, and fence it in any other.

        Raises JobCancelled or LeaseLost, which stop the commit, if the job is no longer this
        attempt's. by_statement: whether a statement of the job's own commits.
        """
        end_child_of(self._generation)  # forked by a hook of this commit
        held = self._completion.before_commit(connection, by_statement=by_statement)
        if self._cancelled or not held:
            self._raise_refusal()

    def _raise_refusal(self, standing: Standing | None = None) -> NoReturn:
        """Raise why the attempt must end: an interruption, JobCancelled, or LeaseLost.

        standing: of its claim; None: not read yet.
        """
        self._running.check()
        if not self._cancelled and standing is None:
            standing = self._environment.backend.standing(self.claim, fresh=True)
        if self._cancelled or standing is Standing.CANCELLED:
            raise JobCancelled
        raise LeaseLost

    def _timed_out(self, stack: str) -> Outcome:
        """Return the outcome of a job that did not stop. stack: where it was, as text."""
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
        """Take note that the backend was given the outcome.

        is_stored: False: it did not store it, since the job is no longer this attempt's.
        """
        outcome = self.outcome
        assert outcome is not None
        if not is_stored and outcome.status is SUCCESSFUL:  # cancelled, with nothing to commit
            outcome = Outcome(CANCELLED, log=outcome.log)
            is_stored = self._environment.backend.finish(self.claim, outcome)
        if is_stored:
            self._has_ended(outcome)
        elif self._environment.backend.committed(self.claim):  # the answer of its commit was lost
            self._environment.backend.finished(self.claim)
            self._has_ended(Outcome(SUCCESSFUL))
        else:
            log.warning("job=%s lease lost, outcome dropped", self.uid)
        self.outcome = None

    def _has_ended(self, outcome: Outcome | None) -> None:
        assert outcome is not None
        status, tracker = outcome.status, self._environment.progress_tracker
        try:
            if status is not READY and tracker.tracker is not None:
                tracker.end(self.uid)
            if log.isEnabledFor(logging.INFO) and status in (SUCCESSFUL, CANCELLED):
                log.info(
                    "job=%s attempt=%d call=%s %s after %.3fs", self.uid, self.claim.attempt,
                    self.claim.job.call.name, status.lower(), time.monotonic() - self.started,
                )  # fmt: skip
        except Exception:  # of a filter of the application's logging; the outcome is stored
            with suppress(Exception):
                log.exception("job=%s ended, which could not be logged", self.uid)

    def fail(self, mistake: Exception) -> None:
        """End the attempt as FAILED because ending it raised *mistake*, for example in a filter of
        the application's logging. The thread continues with other jobs."""
        self.outcome = Outcome(FAILED, error=TaskError.of(mistake), log=self._log_lines())
        with suppress(Exception):
            log.exception("job=%s could not be ended as it should", self.uid)

    def _release(self, why: str) -> None:
        try:
            self._environment.backend.release([self.claim])
        except Exception as error:  # noqa: BLE001 - it is the backend's, never the job's
            self.outcome = Outcome(READY, crashed=True)  # stored when the backend is back
            why = f"{why}, which could not be stored yet ({error})"
        log.info("job=%s %s, waits again", self.uid, why)

    def _after_return(self, value: Any) -> Outcome:
        return after_return(value, self.claim, self._log_lines() if self._lines else ())

    def _log_lines(self) -> tuple[str, ...]:
        return tuple(self._lines or ())


def store_outcomes(attempts: Sequence[Attempt], backend: Backend) -> None:
    """Store the outcomes of attempts that have ended, all in one call of the backend.

    Raises what the backend raises; the attempts then keep their outcomes.
    """
    ends = [(each, each.outcome) for each in attempts if each.outcome is not None]
    if len(ends) == 1:
        [(attempt, outcome)] = ends
        attempt.stored(backend.finish(attempt.claim, outcome))
    elif ends:
        are_stored = backend.finish_many([(attempt.claim, outcome) for attempt, outcome in ends])
        for (attempt, _), is_stored in zip(ends, are_stored, strict=True):
            attempt.stored(is_stored)
