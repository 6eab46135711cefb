"""The running jobs of a page: those of all workers, or, on ``memory``, those of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backends.listing import JobFilter
from ..backends.overview import RunningJob
from ..job import RUNNING

if TYPE_CHECKING:
    from .visit import Visit

#: The most that a page shows.
MOST_RUNNING = 50


def running_jobs(visit: Visit) -> list[RunningJob]:
    """Read the running jobs, up to MOST_RUNNING and one more."""
    if visit.overview is not None:
        return visit.overview.running(MOST_RUNNING + 1)
    backend = visit.queue.backend
    uids = backend.find(JobFilter.of(RUNNING), None, MOST_RUNNING + 1).uids
    briefs = visit.queue.results.briefs(uids)
    return [
        RunningJob(
            each.job.uid, each.job.call.name, each.job.options.queue_name,
            each.last_attempted_at or each.enqueued_at, each.attempts, None,
            briefs[each.job.uid].value, briefs[each.job.uid].total,
            briefs[each.job.uid].is_cancelled, None,
        )
        for each in backend.get_many(uids)
        if each.job.uid in briefs
    ]  # fmt: skip
