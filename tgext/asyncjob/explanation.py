"""Explains in sentences why a job does not run now: for commands, pages and applications."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from .backends.base import Backend
from .backends.overview import Overview, QueuePosition, RunningJob
from .errors import AsyncJobError, ModuleMissing
from .job import READY, RUNNING, Snapshot, WorkerInfo
from .wording import lasting, number_of


def explain(backend: Backend, found: Snapshot, *, workers: bool) -> list[str]:
    """Return why a stored job does not run now; [] exactly if the next claim by a worker that
    serves its queue would take it. workers: whether to say, too, what the workers do about it."""
    if found.status is RUNNING:
        return [f"it runs, in attempt {found.attempts}"]
    if found.status is not READY:
        return [f"it has ended, as {found.status}"]
    overview = getattr(backend, "overview", None)
    now = datetime.now(timezone.utc) if overview is None else overview.now()
    return explain_waiting(backend, found, backend.position(found.job.uid), now, workers=workers)


def explain_waiting(
    backend: Backend,
    found: Snapshot,
    position: QueuePosition | None,
    now: datetime,
    *,
    workers: bool,
) -> list[str]:
    """``explain`` for a READY job whose position the caller has read. now: the store's time."""
    if position is None:  # it was claimed in between
        return ["it has begun to run"]
    overview = getattr(backend, "overview", None)
    running: list[RunningJob] = [] if overview is None else overview.running()
    reasons = [*_delay(found, position, now), *_pause(backend, found)]
    if position.before:
        reasons.append(f"{_jobs_before(position)} of its queue {_is_are(position)} before it")
    reasons += _lock_holders(running, now)
    return [*reasons, *_of_workers(overview, found, reasons, running)] if workers else reasons


def write_lock_holders(overview: Overview, now: datetime) -> list[str]:
    """Return a sentence for each running job that holds the write lock."""
    return _lock_holders(overview.running(), now)


def _lock_holders(running: list[RunningJob], now: datetime) -> list[str]:
    return [
        f"{each.uid} has held SQLite's write lock for {lasting(now - each.locks_since)}: all other "
        "writers, enqueues and claims wait until it commits"
        for each in running
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


def _pause(backend: Backend, found: Snapshot) -> list[str]:
    queue_name = found.job.options.queue_name
    return [
        f"its queue {queue_name!r} was paused"
        + (f" by {each.user}" if each.user else "")
        + f" at {each.since.isoformat(sep=' ', timespec='seconds')}, until it is resumed"
        for each in backend.paused()
        if each.queue_name == queue_name
    ]


def _jobs_before(position: QueuePosition) -> str:
    more = " or more" * position.is_capped
    return f"{position.before}{more} {'job' if position.before == 1 else 'jobs'}"


def _is_are(position: QueuePosition) -> str:
    return "is" if position.before == 1 else "are"


# -- workers


def _of_workers(
    overview: Any, found: Snapshot, reasons: list[str], running: list[RunningJob]
) -> list[str]:
    told = _missing_module(found)
    if overview is None:
        return told  # the workers of memory are this process's
    workers: list[WorkerInfo] = overview.workers()
    queue_name = found.job.options.queue_name
    serving = [each for each in workers if each.queues is None or queue_name in each.queues]
    told += _no_worker(workers, serving, queue_name)
    if not reasons and not told:
        told = _busy_threads(serving, running)
    if not reasons and not told:
        told = ["it is next, and a worker should claim it at any moment"]
    return told


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


def _busy_threads(serving: list[WorkerInfo], running: list[RunningJob]) -> list[str]:
    ids = {each.worker_id for each in serving}
    threads = sum(each.threads for each in serving)
    if sum(each.worker_id in ids for each in running) < threads:
        return []
    return [f"all threads of the workers that serve its queue ({number_of(threads, 'thread')}) run "
            "other jobs"]  # fmt: skip
