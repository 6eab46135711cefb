"""A worker thread: claims jobs, runs an attempt of each, and stores the outcomes.

    claim --> prefetched --> attempt --> ended --> store_outcomes
                 |                         |
                 '--- release_prefetched (another thread, when an attempt takes long) ---'

Short jobs are claimed several at a time, as many as lately ran within BATCH_SECONDS, and their
outcomes are stored together. A long job among them delays no other one: ``release_prefetched``
releases the claims behind it and stores the outcomes of those before it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import TypeVar

from ..backends.base import Backend, Standing
from ..current import queue_var
from ..errors import JobTimeout
from ..job import Claim, WorkerId
from .attempt import Attempt, store_outcomes
from .child_process import make_attempt
from .environment import AttemptEnvironment
from .interruption import LeaseLost, WorkerStopping

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Duration of the jobs that are claimed at once, in seconds, estimated from the last ones. After a
#: crash so much work may run again, if it used no database, and a job of higher priority may wait
#: so long.
BATCH_SECONDS = 0.05

#: Seconds that an attempt may take before the claims behind it are released.
RELEASE_SECONDS = 0.1

#: Longest time that a thread waits for a wake-up, in seconds; it matters only if one is missed.
LONGEST_SLEEP = 300.0

#: Seconds between claims of a thread that is to leave, while another worker may release jobs.
DOUBT_SECONDS = 0.5

#: Seconds that a thread waits after an error of the backend; doubled each time, up to the second.
FAULT_SECONDS = (0.1, 30.0)

#: Seconds after its timeout before a warning about a job that has returned and still commits.
END_SECONDS = 5.0


def log_fault(backend: Backend, what: str, error: Exception) -> None:
    """Log an error of the backend: only its text if it is a passing one, else its traceback."""
    if backend.is_passing(error):
        log.warning("%s: %s", what, error)
    else:
        log.error("%s", what, exc_info=error)


class WorkerThread(threading.Thread):
    """Runs until *stopping* is set, or until its attempt is abandoned.

    serves: the worker's id, and the names of its queues; None: all queues.
    deadline_changed: wakes the timeout monitor. ended: called with the thread when it ends.
    """

    def __init__(
        self,
        name: str,
        environment: AttemptEnvironment,
        serves: tuple[WorkerId, Collection[str] | None],
        *,
        stopping: threading.Event,
        deadline_changed: Callable[[], None],
        ended: Callable[[WorkerThread], None],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._worker_id, self._queues = serves
        self._environment = environment
        self._backend = environment.backend
        self._stopping = stopping
        self._deadline_changed = deadline_changed
        self._on_end = ended
        #: the number of jobs after which it ends, or sooner if nothing is due; None: it goes on
        self.leave_after: float | None = None
        self._is_sure = False  # nothing was due, and no job of another worker may be released
        self._lock = threading.RLock()
        self._prefetched: deque[Claim] = deque()
        self._may_be_released = False  # a release of what is prefetched had no answer
        self._ended: list[Attempt] = []
        self._batch = 1
        self.attempt: Attempt | None = None
        self._warned_of: Attempt | None = None
        #: jobs that it has run
        self.ran = 0

    @property
    def is_current(self) -> bool:
        """Whether it is the calling thread: a job may close its own queue."""
        return self is threading.current_thread()

    def run(self) -> None:
        try:
            queue_var.set(self._environment.queue)
            self._serve()
        finally:
            self._on_end(self)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            claims = self._keep_trying(self._claim, "cannot claim")
            if claims is None or (claims and not self._run_all(claims)):
                return
            claims.clear()  # an idle thread must not keep the arguments of its last job
            if self.leave_after is not None and self.ran >= self.leave_after:
                return

    def _claim(self) -> list[Claim] | None:
        """Claim jobs; if there are none, wait for a wake-up. None: the thread is to leave."""
        claims = self._backend.claim(self._worker_id, self._queues, self._batch)
        if claims:
            self._is_sure = False
            return claims
        if self._is_sure:
            return None
        sleep_seconds = LONGEST_SLEEP
        if self.leave_after is not None:
            # Before the next claim, which finds a job that is released in between.
            self._is_sure = not self._backend.is_in_doubt()
            sleep_seconds = 0.0 if self._is_sure else DOUBT_SECONDS
        self._batch = 1
        self._backend.wait(self._queues, sleep_seconds, self._stopping.is_set)
        return claims

    def _keep_trying(self, act: Callable[[], Result], what: str) -> Result | None:
        """Call *act*, which uses the backend, until it raises nothing; return what it returns.

        what: what fails, for the log. Returns None once the worker stops: its jobs wait again.
        """
        seconds = FAULT_SECONDS[0]
        while True:
            try:
                return act()
            except Exception as error:  # noqa: BLE001 - a worker thread survives any error of it
                log_fault(self._backend, f"{what}, trying again in {seconds:.1f}s", error)
            if self._stopping.wait(seconds):
                return None
            seconds = min(2 * seconds, FAULT_SECONDS[1])

    def _run_all(self, claims: list[Claim]) -> bool:
        """Run the jobs of *claims*. Returns False if an attempt was abandoned."""
        begun_at, ran = time.monotonic(), 0
        claim: Claim | None
        if len(claims) > 1:
            with self._lock:
                self._prefetched.extend(claims[1:])
            self._deadline_changed()
        claim = claims[0]
        while claim is not None:
            if not self._run(claim):
                return False
            ran += 1
            claim = self._next()
        seconds = time.monotonic() - begun_at  # without what waits for the database next
        self._store_outcomes()
        if self._prefetched and self._stopping.is_set():
            with suppress(Exception):  # when their worker has ended, they wait again
                self._release_claims()
        if self._backend.most_at_once > 1:
            self._adapt(ran, seconds)
        return True

    def _run(self, claim: Claim) -> bool:
        self.attempt = attempt = make_attempt(claim, self._environment, self._stopping.is_set)
        if claim.job.options.timeout is not None:
            self._deadline_changed()
        wanted = attempt.run()
        self.attempt = None
        self.ran += 1
        if attempt.outcome is not None:
            self._ended.append(attempt)
        return wanted

    def _next(self) -> Claim | None:
        while self._prefetched and not self._stopping.is_set():
            with self._lock:
                claim = self._prefetched.popleft() if self._prefetched else None
            if claim is not None:
                if not self._may_be_released or self._is_held(claim):
                    return claim
                self._backend.finished(claim)
        self._may_be_released = False
        return None

    def _is_held(self, claim: Claim) -> bool:
        """Whether a claim still holds, after a release of it had no answer."""
        ask = partial(self._backend.standing, claim, fresh=True)
        return self._keep_trying(ask, "cannot look at a claim") is Standing.HELD

    def _adapt(self, ran: int, seconds: float) -> None:
        """Claim as many next time as would have run in BATCH_SECONDS, at most twice as many."""
        fitting = int(ran * BATCH_SECONDS / seconds) if seconds > 0 else self._batch
        self._batch = max(1, min(fitting, 2 * self._batch, self._backend.most_at_once))

    def _store_outcomes(self) -> None:
        self._keep_trying(self._store_ended, "cannot store what became of jobs")

    def _store_ended(self) -> None:
        while self._ended:
            with self._lock:
                ended, self._ended = self._ended, []
            try:
                store_outcomes(ended, self._backend)
            except Exception:
                with self._lock:
                    self._ended = ended + self._ended  # kept, to be stored later
                raise

    def _release_claims(self) -> None:
        with self._lock:
            claims = list(self._prefetched)
            self._prefetched.clear()
        try:
            if claims:
                self._backend.release(claims)
        except Exception:
            with self._lock:
                self._may_be_released = True
                self._prefetched.extendleft(reversed(claims))
            raise

    # -- called by other threads of the worker

    def release_due(self) -> float | None:
        """When to call ``release_prefetched``, by time.monotonic(); None: not needed."""
        attempt = self.attempt
        if attempt is None or not (self._prefetched or self._ended):
            return None
        return attempt.started + RELEASE_SECONDS

    def release_prefetched(self) -> None:
        """Release the claims behind an attempt, and store the outcomes of those before it."""
        self._release_claims()
        self._store_outcomes()

    def deadline(self) -> float | None:
        """Return when the attempt's timeout ends, by time.monotonic(); None: it has no timeout.

        Interrupts the attempt if that is now.
        """
        attempt = self.attempt
        if attempt is None or attempt.claim.job.options.timeout is None:
            return None
        deadline = attempt.started + attempt.claim.job.options.timeout
        if time.monotonic() >= deadline:
            attempt.interrupt(JobTimeout)
            attempt.insist()
        return deadline

    def time_out(self) -> Attempt | None:
        """End its attempt as timed out, and return it; None if its call has returned."""
        attempt = self.attempt
        if attempt is None:
            return None
        if attempt.time_out():
            return attempt
        self._warn_of_slow_end(attempt)
        return None

    def _warn_of_slow_end(self, attempt: Attempt) -> None:
        """Warn, once, of a job whose commit still waits long after its timeout."""
        over = time.monotonic() - attempt.started - (attempt.claim.job.options.timeout or 0)
        if over >= END_SECONDS and attempt is self.attempt and attempt is not self._warned_of:
            self._warned_of = attempt
            log.warning(
                "job=%s is over its timeout by %.0fs and has returned: its commit waits for a lock "
                "or an answer of the database; a commit is never interrupted, and its thread runs "
                "no other job meanwhile", attempt.uid, over,
            )  # fmt: skip

    def insist(self) -> bool:
        """Interrupt an abandoned attempt again. Returns whether the thread is alive."""
        attempt = self.attempt
        if attempt is not None:
            attempt.insist()
        return self.is_alive()

    def revoke(self, claims: Collection[tuple[str, int]] | None) -> None:
        """Interrupt its attempt if its claim is among *claims*, which are lost; None: all are."""
        attempt = self.attempt
        if attempt is not None and (claims is None or (attempt.uid, attempt.claim.lease) in claims):
            attempt.interrupt(LeaseLost)

    def stop(self) -> None:
        """Interrupt its attempt, since the worker stops."""
        attempt = self.attempt
        if attempt is not None:
            attempt.interrupt(WorkerStopping)

    def give_back(self) -> None:
        """Release the job of its attempt, as if it had not begun."""
        attempt = self.attempt
        if attempt is not None:
            attempt.give_back()
