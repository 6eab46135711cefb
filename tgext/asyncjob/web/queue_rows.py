"""The queues of a page: how many jobs wait, who has paused it, whether a worker serves it."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from ..backends.listing import MOST_LISTED, JobFilter
from ..backends.overview import PausedQueue, QueueDepth
from ..job import READY, WorkerInfo

if TYPE_CHECKING:
    from .visit import Visit


class QueueRow(NamedTuple):
    """One queue in which jobs wait, or that is paused."""

    name: str
    due: int
    delayed: int
    next_due_at: datetime | None
    paused: PausedQueue | None  #: None: it is not paused
    is_served: bool  #: whether a live worker serves it, as far as that is known

    @property
    def is_problem(self) -> bool:
        """Whether jobs wait here that nothing will run."""
        return bool(self.due) and (self.paused is not None or not self.is_served)


def queue_rows(visit: Visit, workers: list[WorkerInfo] | None) -> list[QueueRow]:
    """Read the queues, problems first. workers: those that are alive; None: not known."""
    depths = {each.queue_name: each for each in _depths(visit)}
    paused = {each.queue_name: each for each in visit.queue.paused()}
    rows = []
    for name in sorted({*depths, *paused}):
        depth = depths.get(name) or QueueDepth(name, 0, 0, None)
        served = workers is None or any(_serves(each, name) for each in workers)
        rows.append(QueueRow(*depth, paused.get(name), served))
    return sorted(rows, key=lambda row: not row.is_problem)


def _serves(worker: WorkerInfo, name: str) -> bool:
    return worker.queues is None or name in worker.queues


def _depths(visit: Visit) -> list[QueueDepth]:
    if visit.overview is not None:
        return visit.overview.waiting()
    # This process's jobs: the newest of them, since each is looked at.
    backend = visit.queue.backend
    found = backend.find(JobFilter.of(READY), None, MOST_LISTED)
    due: Counter[str] = Counter()
    delayed: Counter[str] = Counter()
    next_due: dict[str, datetime] = {}
    for each in backend.get_many(found.uids):
        name, run_at = each.job.options.queue_name, each.run_at
        if run_at is None or run_at <= visit.now:
            due[name] += 1
        else:
            delayed[name] += 1
            next_due[name] = min(run_at, next_due.get(name, run_at))
    return [
        QueueDepth(name, due[name], delayed[name], next_due.get(name))
        for name in sorted({*due, *delayed})
    ]
