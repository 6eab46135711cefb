"""Explains in sentences why a waiting job is not running yet."""

from __future__ import annotations

from datetime import datetime

from ..backends.overview import Overview, QueuePosition
from ..errors import AsyncJobError, ModuleMissing
from ..job import READY, Snapshot, WorkerInfo
from ..queue import JobQueue
from .command_result import lasting, number_of
from .shared_backend import overview_of


def explain(queue: JobQueue, uid: str) -> list[str]:
    """Return one sentence or more for a READY job; [] for any other."""
    overview, found = overview_of(queue), queue.backend.get(uid)
    position = overview.position(uid)
    if found is None or found.status is not READY or position is None:
        return []
    reasons = [*_delay(found, position, overview.now()), *_missing_module(found)]
    workers = overview.workers()
    queue_name = found.job.options.queue_name
    serving = [each for each in workers if each.queues is None or queue_name in each.queues]
    reasons += _no_worker(workers, serving, queue_name)
    if position.before:
        are = "job of its queue is" if position.before == 1 else "jobs of its queue are"
        reasons.append(f"{position.before} {are} before it")
    if not reasons:
        reasons = [*write_lock_holders(overview, overview.now()), *_busy_threads(serving, overview)]
    return reasons or ["it is next, and a worker should claim it at any moment"]


def write_lock_holders(overview: Overview, now: datetime) -> list[str]:
    """Return a sentence for each running job that holds the write lock."""
    return [
        f"{each.uid} has held SQLite's write lock for {lasting(now - each.locks_since)}: all other "
        "writers, enqueues and claims wait until it commits"
        for each in overview.running()
        if each.locks_since is not None
    ]


def _delay(found: Snapshot, position: QueuePosition, now: datetime) -> list[str]:
    until = found.run_at
    if not position.is_delayed or until is None:
        return []
    reasons = [
        f"delayed until {until.isoformat(sep=' ', timespec='seconds')}, in {lasting(until - now)}"
    ]
    if position.was_given_back:
        reasons.append(
            "a worker has released it, since the module of its call is missing there; "
            "it is delayed so that another worker may claim it"
        )
    elif found.errors:
        reasons.append("its last attempt failed, and the next one begins then")
    return reasons


def _missing_module(found: Snapshot) -> list[str]:
    """Try to load the call in this process; the result may be another one in a worker."""
    try:
        _ = found.job.call.args
    except ModuleMissing as error:
        return [f"the module {error.module!r} of its call is missing here, and perhaps in workers"]
    except AsyncJobError:  # for example since only the workers have the secret
        return []
    return []


def _no_worker(workers: list[WorkerInfo], serving: list[WorkerInfo], queue_name: str) -> list[str]:
    if not workers:
        return ["no worker is alive; start one: python -m tgext.asyncjob worker, or a process that "
                "serves with asyncjob.threads"]  # fmt: skip
    if not serving:
        served = sorted({name for each in workers for name in each.queues or ()})
        return [f"no living worker serves its queue {queue_name!r}; they serve {', '.join(served)}"]
    if all(each.stopping for each in serving):
        return ["all workers that serve its queue are stopping"]
    return []


def _busy_threads(serving: list[WorkerInfo], overview: Overview) -> list[str]:
    ids = {each.worker_id for each in serving}
    threads = sum(each.threads for each in serving)
    running = sum(each.worker_id in ids for each in overview.running())
    if running < threads:
        return []
    return [f"all threads of the workers that serve its queue ({number_of(threads, 'thread')}) run "
            "other jobs"]  # fmt: skip
