"""Reads, waits for, cancels and retries jobs: the pending ones of this thread's transaction, and
those of the backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import datetime, timezone
from typing import Any

from .amount import seconds
from .backends.base import Backend
from .backends.brief import Brief, text_of, user_of
from .current import attempt_var, shielded
from .errors import NotCommitted, UnknownJob
from .explanation import explain
from .job import READY, Job, Snapshot
from .transactions.scope import Scope
from .worker.progress_tracker import GuardedTracker

#: Longest time between two reads while waiting for a job's end, in seconds; shorter inside a job,
#: where each read is a checkpoint.
LONGEST_LOOK = 5.0
LONGEST_LOOK_IN_JOB = 0.05

#: How often a change is tried in all.
TRIES = 3


class Results:
    """The results of one queue; any thread may use it.

    backend: returns the backend. retention_seconds: for the message about an unknown job.
    announce: called with jobs that wait again. connection: returns the connection of this thread's
    transaction, in which a change takes part; None if there is none.
    """

    def __init__(
        self,
        backend: Callable[[], Backend],
        scope: Scope,
        progress_tracker: GuardedTracker,
        *,
        retention_seconds: float,
        announce: Callable[[list[Job]], None],
        connection: Callable[[], Any],
    ) -> None:
        self._backend = backend
        self._retention_seconds = retention_seconds
        self._scope = scope
        self._progress_tracker = progress_tracker
        self._announce = announce
        self._connection = connection

    @shielded
    def snapshot(self, uid: object) -> Snapshot:
        """Read a job; raises UnknownJob."""
        if not isinstance(uid, str):
            raise UnknownJob(uid, f"a uid is a str, got {type(uid).__name__}")
        found = self._pending(uid) or self._backend().get(uid)
        if found is None:
            raise UnknownJob(
                uid,
                f"the {self._backend().name} backend has none; ended jobs are kept for "
                f"{self._retention_seconds:g} s (asyncjob.retention)",
            )
        return found

    @shielded
    def snapshot_of(self, job: Job) -> Snapshot:
        """Read a job that has just been enqueued."""
        # If it has been run and removed meanwhile, it is shown as it was enqueued.
        return self._pending(job.uid) or self._backend().get(job.uid) or _waiting(job)

    @shielded
    def explain(self, uid: str, *, workers: bool) -> list[str]:
        """See ``TaskResult.explain``."""
        if self._pending(uid) is not None:
            return ["the transaction that enqueues it is not committed"]
        return explain(self._backend(), self.snapshot(uid), workers=workers)

    @shielded
    def queue_position(self, uid: str) -> int | None:
        """See ``TaskResult.queue_position``."""
        position = self._backend().position(uid)
        return None if position is None or position.is_delayed else position.before

    @shielded
    def briefs(self, uids: Collection[str]) -> dict[str, Brief]:
        """Read how several jobs stand; without those that are unknown."""
        found = self._backend().briefs(uids)
        for uid in uids:
            pending = self._pending(uid)
            if pending is not None:
                found[uid] = Brief.new(uid, user_of(pending.job.context))
        return {uid: self._tracked(brief) for uid, brief in found.items()}

    def _tracked(self, brief: Brief) -> Brief:
        """The brief with what the application's progress tracker knows instead."""
        tracker = self._progress_tracker.tracker
        if tracker is None:
            return brief
        reported = None if brief.status.is_final else tracker.get_progress(brief.uid)
        value, data = reported or (-1, None)
        return brief._replace(value=value, total=None, text=text_of(data))

    @shielded
    def progress(self, uid: object) -> tuple[int, Any] | None:
        """See ``JobQueue.progress``."""
        if not isinstance(uid, str):
            return None
        if self._pending(uid) is not None:
            return (-1, None)
        if self._progress_tracker.tracker is None:
            found = self._backend().progress(uid)
            return None if found is None else (found.value, found.data)
        if self._has_ended(uid):
            return None
        reported: tuple[int, Any] | None = self._progress_tracker.tracker.get_progress(uid)
        return reported

    def wait_for_end(self, uid: str, timeout: float | None) -> Snapshot:
        """Wait until a job has ended, for at most *timeout* seconds; None or infinity: no limit.

        Raises TimeoutError, NotCommitted, BadCall, UnknownJob.
        """
        if self._pending(uid) is not None:
            raise NotCommitted(uid)
        attempt = attempt_var.get()
        until = None if timeout is None else time.monotonic() + seconds("wait", timeout)
        while True:
            found = self.snapshot(uid)
            if found.status.is_final:
                return found
            left = LONGEST_LOOK if until is None else until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"job {uid!r} is {found.status} after {timeout:g} s of waiting")
            if attempt is None:
                self._backend().wait_for_end(uid, min(left, LONGEST_LOOK))
            else:
                attempt.pause(min(left, LONGEST_LOOK_IN_JOB))

    @shielded
    def cancel(self, uid: str) -> bool:
        """Cancel a job; False if it had ended. A job that the transaction of this thread has
        enqueued is never created. Raises UnknownJob."""
        attempt = attempt_var.get()
        if attempt is not None and attempt.uid == uid:  # not within its own transaction
            return attempt.cancel()
        pending = self._scope.pending_or_none()
        if pending is not None and pending.drop(uid):
            return True
        self.snapshot(uid)
        cancelled = self._change(self._backend().cancel, uid)
        if cancelled and self._has_ended(uid):
            self._progress_tracker.end(uid)
        return cancelled

    @shielded
    def retry(self, uid: str) -> bool:
        """Enqueue an ended job again; False if it has not ended. Raises UnknownJob."""
        job = self.snapshot(uid).job
        retried = self._change(self._backend().retry, uid)
        if retried and self._connection() is None:
            self._announce([job])
        elif retried:
            self._scope.after_commit(lambda: self._announce([job]))
        return retried

    def _change(self, change: Callable[[str, Any], bool | None], uid: str) -> bool:
        """Make a change in this thread's transaction, or, if it has none, in one of its own. That
        one is tried again after an error that may pass, such as a deadlock."""
        connection = self._connection()
        tries_left = TRIES if connection is None else 1
        while True:
            tries_left -= 1
            try:
                return bool(change(uid, connection))
            except Exception as error:
                if not tries_left or not self._backend().is_passing(error):
                    raise

    def _pending(self, uid: str) -> Snapshot | None:
        pending = self._scope.pending_or_none()
        job = None if pending is None else pending.find(uid)
        return None if job is None else _waiting(job)

    def _has_ended(self, uid: str) -> bool:
        try:
            found = self._backend().get(uid)
        except UnknownJob:  # another process made it; a tracker may have its progress
            return False
        return found is not None and found.status.is_final


def _waiting(job: Job) -> Snapshot:
    return Snapshot(job, READY, datetime.now(timezone.utc))
