"""The queues of a page: how many jobs wait, who has paused it, whether a worker serves it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from ..backends.listing import MOST_LISTED, JobFilter
from ..backends.overview import PausedQueue, QueueDepth, WaitingJob
from ..job import READY, WorkerInfo

if TYPE_CHECKING:
    from .visit import Visit

#: About so many waiting jobs are counted.
MOST_READ = 20_000


class QueueRow(NamedTuple):
    """One queue in which jobs wait, or that is paused, or served by its name."""

    name: str
    due: int
    delayed: int
    next_due_at: datetime | None
    oldest: WaitingJob | None  #: the first enqueued of those that are due
    is_capped: bool  #: there may be more that are due
    is_delayed_capped: bool  #: there may be more that are delayed
    blocked: int  #: jobs that wait to be admitted by a limit, or for their turn
    is_blocked_capped: bool  #: there may be more of those
    paused: PausedQueue | None  #: None: it is not paused
    is_served: bool  #: whether a live worker serves it, as far as that is known

    @property
    def is_problem(self) -> bool:
        """Whether jobs wait here that nothing will run."""
        return bool(self.due) and (self.paused is not None or not self.is_served)

    @property
    def is_idle(self) -> bool:
        """Whether no job waits here."""
        return not (self.due or self.delayed or self.blocked)


def queue_rows(
    visit: Visit, workers: list[WorkerInfo] | None, others: Iterable[str] = ()
) -> list[QueueRow]:
    """Read the queues in which jobs wait, or that are paused, and *others*: problems first, and
    last those in which no job waits. workers: those that are alive; None: not known."""
    depths = {each.queue_name: each for each in _depths(visit)}
    paused = {each.queue_name: each for each in visit.queue.paused()}
    rows = []
    for name in sorted({*depths, *paused, *others}):
        depth = depths.get(name) or QueueDepth(name, 0, 0, None)
        is_served = workers is None or any(_serves(each, name) for each in workers)
        rows.append(QueueRow(*depth, paused.get(name), is_served))
    return sorted(rows, key=lambda row: (not row.is_problem, row.is_idle))


def served(workers: list[WorkerInfo] | None) -> set[str]:
    """Return the names of the queues that workers serve; a worker that serves all serves
    ``default``, which each queue has."""
    if workers is None:
        return {"default"}
    return {name for each in workers for name in each.queues or ("default",)}


def oldest_of(rows: Iterable[QueueRow]) -> WaitingJob | None:
    """Return the job that has waited longest of those that are due; None: none waits."""
    oldest = (row.oldest for row in rows if row.oldest is not None)
    return min(oldest, key=lambda job: job.enqueued_at, default=None)


def _serves(worker: WorkerInfo, name: str) -> bool:
    return worker.queues is None or name in worker.queues


def _depths(visit: Visit) -> list[QueueDepth]:
    if visit.overview is not None:
        return visit.overview.waiting(MOST_READ)
    # This process's jobs: the newest of them, since each is looked at.
    backend = visit.queue.backend
    found = backend.find(JobFilter.of(READY), None, MOST_LISTED)
    is_capped = found.next is not None
    admitted_later = backend.blocked(found.uids)
    due: Counter[str] = Counter()
    blocked: Counter[str] = Counter()
    delayed: Counter[str] = Counter()
    next_due: dict[str, datetime] = {}
    oldest: dict[str, WaitingJob] = {}
    for each in backend.get_many(found.uids):
        name, run_at = each.job.options.queue_name, each.run_at
        if each.job.uid in admitted_later:
            blocked[name] += 1
        elif run_at is None or run_at <= visit.now:
            due[name] += 1
            # the last enqueued come first
            oldest[name] = WaitingJob(each.job.uid, each.job.call.name, name, each.enqueued_at)
        else:
            delayed[name] += 1
            next_due[name] = min(run_at, next_due.get(name, run_at))
    return [
        QueueDepth(
            name,
            due[name],
            delayed[name],
            next_due.get(name),
            oldest.get(name),
            is_capped,
            blocked=blocked[name],
            is_blocked_capped=is_capped,
        )
        for name in sorted({*due, *delayed, *blocked})
    ]
