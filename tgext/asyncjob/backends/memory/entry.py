"""One job in the memory of this process, and what readers are told of it.

Nothing here takes a lock: the backend does.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from typing import Any

from ...job import NO_PROGRESS, READY, RUNNING, Claim, Job, Outcome, Progress, Snapshot, TaskError
from ...sharing import user_of
from ..brief import Brief, text_of
from ..pace import Pace, seconds_left

#: Number of attempts of one job whose errors are kept.
MOST_ERRORS = 20


class Entry:
    """One job and its state; instants are seconds since the epoch."""

    __slots__ = (
        "admitted",
        "attempts",
        "budget",
        "cancelled",
        "crashes",
        "ended",
        "enqueued_at",
        "errors",
        "fenced",
        "finished_at",
        "job",
        "last_attempted_at",
        "lease",
        "log",
        "pace",
        "progress",
        "reported_at",
        "result",
        "run_at",
        "sequence",
        "started_at",
        "status",
    )  # fmt: skip

    def __init__(self, job: Job, now: float) -> None:
        self.job = job
        self.status = READY
        self.sequence = 0  #: its sequence number; 0: none yet
        self.enqueued_at = now
        self.run_at: float | None = None
        self.attempts = 0
        self.budget = job.options.max_attempts  #: the number of its last allowed attempt
        self.lease = 0
        self.cancelled = False
        self.crashes = 0  #: deaths of the process of an attempt
        self.fenced = False  #: its attempt is committing
        #: True: it holds the slots of its keys; False: it waits for them; None: neither
        self.admitted: bool | None = None
        self.started_at: float | None = None
        self.last_attempted_at: float | None = None
        self.finished_at: float | None = None
        self.errors: tuple[TaskError, ...] = ()
        self.result: Any = None
        self.progress = NO_PROGRESS
        self.pace: Pace | None = None  #: of the attempt that has reported last
        self.reported_at = now
        self.log: tuple[str, ...] = ()
        self.ended: threading.Event | None = (
            None  #: made by the first thread that waits for its end
        )

    @property
    def is_blocked(self) -> bool:
        """Whether it waits to be admitted."""
        return self.admitted is False and self.status is READY

    def note(self, outcome: Outcome, claim: Claim, now: float) -> None:
        """Store error, log and counts of an attempt that has ended at *now*."""
        if outcome.error is not None:
            error = outcome.error._replace(
                at=_instant(now), attempt=claim.attempt, worker_id=claim.worker_id or None
            )
            self.errors = (*self.errors[1 - MOST_ERRORS :], error)
        self.log = outcome.log
        self.fenced = False
        if outcome.crashed:
            self.crashes += 1
            self.attempts -= outcome.status is READY

    def report(self, progress: Progress, now: float) -> None:
        """Store a report of the running attempt."""
        if self.pace is None or self.pace.attempt != self.attempts:
            self.pace = Pace(self.attempts, progress.value, now)
        else:
            self.pace.add(progress.value, now)
        self.progress, self.reported_at = progress, now

    def _eta_seconds(self, now: float) -> float | None:
        value, _, total = self.progress
        if self.status is not RUNNING or self.pace is None or not self._is_of_this_attempt:
            return None
        return seconds_left(value, total, self.pace.speed(), now - self.reported_at)

    @property
    def _is_of_this_attempt(self) -> bool:
        return self.pace is None or self.pace.attempt == self.attempts

    def snapshot(self, now: float) -> Snapshot:
        return Snapshot(
            job=self.job,
            status=self.status,
            enqueued_at=datetime.fromtimestamp(self.enqueued_at, timezone.utc),
            run_at=_instant(self.run_at),
            started_at=_instant(self.started_at),
            last_attempted_at=_instant(self.last_attempted_at),
            finished_at=_instant(self.finished_at),
            attempts=self.attempts,
            errors=self.errors,
            result=self.result,
            progress=self.progress,
            log=self.log,
            crashes=self.crashes,
            eta_seconds=self._eta_seconds(now),
        )

    def brief(self, now: float, before: int | None) -> Brief:
        """Describe the job for a page; *now*: seconds since the epoch."""
        error = self.errors[-1] if self.errors else None
        progress = self.progress if self._is_of_this_attempt else NO_PROGRESS
        waits = self.status is READY and self.run_at is not None and self.run_at > now
        return Brief(
            uid=self.job.uid,
            status=self.status,
            enqueued_ago=max(0.0, now - self.enqueued_at),
            is_cancelled=self.cancelled and self.status is RUNNING,
            started_ago=_ago(self.started_at, now),
            attempted_ago=_ago(self.last_attempted_at, now),
            finished_ago=_ago(self.finished_at, now),
            due_in=self.run_at - now if waits and self.run_at is not None else None,
            attempts=self.attempts,
            value=progress.value,
            total=progress.total,
            text=text_of(progress.data),
            eta_seconds=self._eta_seconds(now),
            before=before,
            error_class=error and error.exception_class_path,
            error_message=error and error.message,
            user=user_of(self.job.context),
        )


def due_at(run_after: datetime | timedelta, now: float) -> float | None:
    """Return when a job may start, in seconds since the epoch; None: at once."""
    if isinstance(run_after, timedelta):
        due = now + run_after.total_seconds()
    else:
        due = run_after.timestamp()
    return due if due > now else None


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)


def _ago(seconds: float | None, now: float) -> float | None:
    return None if seconds is None else max(0.0, now - seconds)
