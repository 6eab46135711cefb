"""One job in the memory of this process, as it is read: what readers are told of it.

Nothing here takes a lock: the backend does.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ...job import (
    NO_PROGRESS,
    READY,
    RUNNING,
    Job,
    JobId,
    Progress,
    Snapshot,
    TaskError,
    TaskResultStatus,
)
from ...policies import Keys
from ...sharing import user_of
from ...task_options import TaskOptions
from ..brief import Brief, text_of
from ..pace import Pace, seconds_left


class Record:
    """One job and its state, at first that of a job that has just been enqueued; instants are
    seconds since the epoch. What differs from that is in the slots of its subclasses.
    """

    __slots__ = ()

    enqueued_at: float
    sequence: int  #: its sequence number; 0: none yet

    status: TaskResultStatus = READY
    run_at: float | None = None
    attempts: int = 0
    cancelled: bool = False
    crashes: int = 0  #: deaths of the process of an attempt
    fenced: bool = False  #: its attempt is committing
    #: True: it holds the slots of its keys; False: it waits for them; None: neither
    admitted: bool | None = None
    started_at: float | None = None
    last_attempted_at: float | None = None
    finished_at: float | None = None
    errors: tuple[TaskError, ...] = ()
    result: Any = None
    progress: Progress = NO_PROGRESS
    pace: Pace | None = None  #: of the attempt that has reported last
    reported_at: float = 0.0
    log: tuple[str, ...] = ()

    @property
    def job(self) -> Job:
        raise NotImplementedError

    @property
    def uid(self) -> JobId:
        return self.job.uid

    @property
    def options(self) -> TaskOptions:
        return self.job.options

    @property
    def keys(self) -> Keys | None:
        return self.job.keys

    @property
    def is_blocked(self) -> bool:
        """Whether it waits to be admitted."""
        return self.admitted is False and self.status is READY

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
            run_at=instant(self.run_at),
            started_at=instant(self.started_at),
            last_attempted_at=instant(self.last_attempted_at),
            finished_at=instant(self.finished_at),
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
            uid=self.uid,
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


def instant(seconds: float | None) -> datetime | None:
    """Return seconds since the epoch as an aware datetime; None for None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)


def _ago(seconds: float | None, now: float) -> float | None:
    return None if seconds is None else max(0.0, now - seconds)
