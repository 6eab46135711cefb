"""Reads, waits for, cancels and retries jobs: the pending ones of this thread's transaction, and
those of the backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar

from .amount import seconds
from .backends.audit import Act
from .backends.base import Backend
from .backends.brief import Brief, text_of
from .current import attempt_var, shielded
from .duplicates import Enqueued
from .errors import NotCommitted, UnknownJob
from .explanation import explain
from .job import READY, Job, Snapshot
from .sentence import Sentence
from .sharing import user_of
from .transactions.scope import Scope
from .worker.progress_tracker import GuardedTracker

#: Longest time between two reads while waiting for a job's end, in seconds; shorter inside a job,
#: where each read is a checkpoint.
LONGEST_LOOK = 5.0
LONGEST_LOOK_IN_JOB = 0.05

#: The most jobs of one read.
READ_AT_ONCE = 500

#: How often a change is tried in all.
TRIES = 3

Answer = TypeVar("Answer")


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
            kept = f"{self._retention_seconds:g}"
            raise UnknownJob(
                uid,
                Sentence(
                    "the %(backend)s backend has none; ended jobs are kept for %(number)s s "
                    "(asyncjob.retention)",
                    backend=self._backend().name,
                    number=kept,
                ),
            )
        return found

    @shielded
    def snapshot_of(self, job: Job) -> Snapshot:
        """Read a job that has just been enqueued."""
        # If it has been run and removed meanwhile, it is shown as it was enqueued.
        return self._pending(job.uid) or self._backend().get(job.uid) or _waiting(job)

    @shielded
    def snapshots_of(self, enqueued: Sequence[Enqueued]) -> list[Snapshot]:
        """Return many jobs as they have just been enqueued; read are those of earlier enqueues."""
        read, now = dict[str, Snapshot](), datetime.now(timezone.utc)
        earlier = list({each.uid: None for each in enqueued if each.is_duplicate})
        for begin in range(0, len(earlier), READ_AT_ONCE):
            found = self._backend().get_many(earlier[begin : begin + READ_AT_ONCE])
            read.update((each.job.uid, each) for each in found)
        return [read.get(each.uid) or Snapshot(each.job, READY, now) for each in enqueued]

    @shielded
    def explain(self, uid: str, *, workers: bool) -> list[str]:
        """See ``TaskResult.explain``."""
        if self._pending(uid) is not None:
            return ["the transaction that enqueues it is not committed"]
        found = explain(self._backend(), self.snapshot(uid), workers=workers)
        return [str(sentence) for sentence in found]

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
        if self._progress_tracker.tracker is None:
            return brief
        is_final = brief.status.is_final
        value, data = (-1, None) if is_final else self._progress_tracker.shown(brief.uid)
        return brief._replace(value=value, total=None, text=text_of(data), eta_seconds=None)

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
    def cancel(self, uid: str, by: Act | str | None = None) -> bool:
        """Cancel a job; False if it had ended. A job that the transaction of this thread has
        enqueued is never created. by: who does it, for the audit; a str: for whom a program does
        it. Raises UnknownJob."""
        attempt = attempt_var.get()
        if attempt is not None and attempt.uid == uid:  # not within its own transaction
            return attempt.cancel()
        pending = self._scope.pending_or_none()
        if pending is not None and pending.drop(uid):
            return True
        found = self.snapshot(uid)
        cancelled = bool(self.change(partial(self._backend().cancel, uid, act=_act_of(by))))
        if cancelled:
            self._scope.cancelled.add(found.job.uid)
        if cancelled and self._has_ended(uid):
            self._progress_tracker.end(uid)
        return cancelled

    @shielded
    def retry(self, uid: str, by: Act | str | None = None) -> bool:
        """Enqueue an ended job again; False if it has not ended. by: as for ``cancel``. Raises
        UnknownJob."""
        job = self.snapshot(uid).job
        retried = bool(self.change(partial(self._backend().retry, uid, act=_act_of(by))))
        if retried:
            self.announce(job)
        return retried

    @property
    def backend(self) -> Backend:
        """The backend. Raises ConfigError as long as there is no database for it."""
        return self._backend()

    def announce(self, job: Job) -> None:
        """Have a job run that ``change`` has made wait, once that is committed."""
        if self._connection() is None:
            self._announce([job])
        else:
            self._scope.after_commit(lambda: self._announce([job]))

    def change(self, change: Callable[[Any], Answer]) -> Answer:
        """Make a change in this thread's transaction, or, if it has none, in one of its own. That
        one is tried again after an error that may pass, such as a deadlock.

        change: called with the connection; None: the change commits by itself.
        """
        connection = self._connection()
        tries_left = TRIES if connection is None else 1
        while True:
            tries_left -= 1
            try:
                return change(connection)
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


def _act_of(by: Act | str | None) -> Act | None:
    return Act(by, "program") if isinstance(by, str) else by


def _waiting(job: Job) -> Snapshot:
    return Snapshot(job, READY, datetime.now(timezone.utc))
