"""One job in the memory of this process that has begun, has ended, or waits for more than a thread.

Nothing here takes a lock: the backend does.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

from ...job import NO_PROGRESS, READY, Claim, Job, Outcome, Progress
from ..pace import Pace
from .record import Record, instant

#: Number of attempts of one job whose errors are kept.
MOST_ERRORS = 20


class Entry(Record):
    """One job, and all of its state."""

    __slots__ = (
        "admitted", "attempts", "budget", "cancelled", "crashes", "ended", "enqueued_at", "errors",
        "fenced", "finished_at", "job", "last_attempted_at", "lease", "log", "pace", "progress",
        "reported_at", "result", "run_at", "sequence", "started_at", "status",
    )  # fmt: skip

    job: Job

    def __init__(self, job: Job, now: float) -> None:
        self.job = job
        self.status = READY
        self.sequence = 0
        self.enqueued_at = now
        self.run_at = None
        self.attempts = 0
        self.budget = job.options.max_attempts  #: the number of its last allowed attempt
        self.lease = 0
        self.cancelled = False
        self.crashes = 0
        self.fenced = False
        self.admitted = None
        self.started_at = None
        self.last_attempted_at = None
        self.finished_at = None
        self.errors = ()
        self.result = None
        self.progress = NO_PROGRESS
        self.pace = None
        self.reported_at = now
        self.log = ()
        #: made by the first thread that waits for its end
        self.ended: threading.Event | None = None

    def note(self, outcome: Outcome, claim: Claim, now: float) -> None:
        """Store error, log and counts of an attempt that has ended at *now*."""
        if outcome.error is not None:
            error = outcome.error._replace(
                at=instant(now), attempt=claim.attempt, worker_id=claim.worker_id or None
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


def due_at(run_after: datetime | timedelta, now: float) -> float | None:
    """Return when a job may start, in seconds since the epoch; None: at once."""
    if isinstance(run_after, timedelta):
        due = now + run_after.total_seconds()
    else:
        due = run_after.timestamp()
    return due if due > now else None
