"""Retries or cancels all jobs of a frozen set, as a job: with progress, cancelled like any other.

A set is a filter with a highest number and an instant: jobs that are enqueued, or end, after it
was frozen are not in it. So a retried job that fails once more is not retried once more, neither
in this attempt nor in the next one, should the worker die. How many were changed is counted in the
transactions that change them, in the record of the action.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from .api import asyncjob_set_progress
from .backends.audit import Act
from .backends.base import Backend
from .backends.listing import MOST_LISTED, Cursor, JobFilter
from .call import Call
from .current import current_queue
from .errors import JobCancelled
from .job import READY, RUNNING
from .queue import JobQueue
from .task_options import TaskOptions
from .task_result import TaskResult

#: Jobs that one transaction changes: it holds their locks for some tens of milliseconds.
CHANGED_AT_ONCE = 500

#: The statuses in which an action changes a job.
STATUSES = {
    "retry": ("SUCCESSFUL", "FAILED", "CANCELLED"),
    "cancel": (READY.value, RUNNING.value),
}


def frozen(queue: JobQueue, wanted: JobFilter, now: Any) -> JobFilter:
    """Return the filter of the jobs that are there now. now: the time of the store."""
    until = now if wanted.until is None else min(now, wanted.until)
    return wanted._replace(until=until, highest=queue.backend.highest())


def start(
    queue: JobQueue,
    action: str,
    wanted: JobFilter,
    act: Act,
    queue_name: str,
    context: dict[str, Any] | None = None,
) -> TaskResult:
    """Enqueue the job that changes a frozen set.

    action: "retry" or "cancel". queue_name: where the job itself waits. context: who has enqueued
    it, and in which request; None: as for every job.
    Raises QueueFull; there is then a record that nothing was done.
    """
    noted = queue.backend.audit.begin(act, action, wanted.described())
    options = TaskOptions(queue_name=queue_name, priority=1, max_attempts=3)
    call = Call(change_all, (action, wanted.as_json(), noted.number), None)
    try:
        return queue.enqueue(call, options, None, context)
    except BaseException:
        queue.backend.audit.end(noted.number or 0, "could not be enqueued")
        raise


def change_all(action: str, given: dict[str, Any], number: int) -> dict[str, int]:
    """Be the job. number: that of the record. Returns how many were changed, of how many."""
    backend = current_queue().backend
    wanted, act = JobFilter.of_json(given), Act(None, "", number)
    record = backend.audit.find(number)
    done = 0 if record is None else record.changed  # by an attempt whose worker has died
    total = done + sum(len(uids) for uids in _pages(backend, wanted, MOST_LISTED))
    looked_at = done
    try:
        for uids in _pages(backend, wanted, CHANGED_AT_ONCE):
            asyncjob_set_progress(looked_at, f"{done} jobs", total=total)
            done += backend.change_many(action, uids, wanted.until, act)
            looked_at += len(uids)
    except JobCancelled:
        backend.audit.end(number, f"cancelled after {done} of {total}")
        raise
    except Exception:
        with suppress(Exception):  # the store may be what fails; another attempt may go on
            backend.audit.end(number, f"failed after {done} of {total}")
        raise
    backend.audit.end(number, f"{done} of {total}")
    asyncjob_set_progress(total, f"{done} jobs", total=total)
    return {"changed": done, "of": total}


def _pages(backend: Backend, wanted: JobFilter, limit: int) -> Iterator[list[str]]:
    after = None
    while True:
        found = backend.find(wanted, Cursor.of(after), limit)
        if found.uids:
            yield found.uids
        after = found.next
        if after is None:
            return
