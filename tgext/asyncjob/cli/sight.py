"""What ``status --watch`` shows of a queue at one moment: a fixed number of statements reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from ..backends.brief import Brief
from ..backends.listing import JobFilter
from ..backends.overview import PausedQueue, QueueDepth, RunningJob
from ..job import FAILED, Snapshot, TaskResultStatus, WorkerInfo
from ..queue import JobQueue
from .shared_backend import overview_of

#: A number of jobs is counted up to here.
MOST_COUNTED = 10_000

#: The most running jobs, and failed ones, that are read.
MOST_RUNNING, MOST_FAILED = 50, 20


class QueueSight(NamedTuple):
    """One queue in which jobs wait or run, or that is paused."""

    depth: QueueDepth
    running: int  #: of those that were read
    paused: PausedQueue | None  #: None: it is not paused
    is_served: bool  #: whether a living worker serves it


class Sight(NamedTuple):
    """The state of a queue; instants by the clock of the store."""

    now: datetime
    database: str  #: its address, without the password
    counts: dict[TaskResultStatus, int]  #: up to MOST_COUNTED, and 1 more for more
    queues: list[QueueSight]
    running: list[RunningJob]  #: the oldest attempt first
    briefs: Mapping[str, Brief]  #: of these, by uid; some may have ended in between
    failed: list[Snapshot]  #: the last first
    workers: list[WorkerInfo]


def sight_of(queue: JobQueue) -> Sight:
    """Read the state of a queue. Raises ConfigError if no other process can see its jobs."""
    overview, backend = overview_of(queue), queue.backend
    running, workers = overview.running(MOST_RUNNING), overview.workers()
    failed = backend.find(JobFilter.of(FAILED), None, MOST_FAILED).uids
    return Sight(
        overview.now(),
        overview.database(),
        backend.counts(MOST_COUNTED + 1),
        _queues(overview.waiting(), running, backend.paused(), workers),
        running,
        queue.results.briefs([each.uid for each in running]) if running else {},
        backend.get_many(failed) if failed else [],
        workers,
    )


def _queues(
    waiting: list[QueueDepth],
    running: list[RunningJob],
    paused: list[PausedQueue],
    workers: list[WorkerInfo],
) -> list[QueueSight]:
    depths = {each.queue_name: each for each in waiting}
    runs = Counter(each.queue_name for each in running)
    pauses = {each.queue_name: each for each in paused}
    return [
        QueueSight(
            depths.get(name) or QueueDepth(name, 0, 0, None),
            runs[name],
            pauses.get(name),
            any(each.queues is None or name in each.queues for each in workers),
        )
        for name in sorted({*depths, *runs, *pauses})
    ]
