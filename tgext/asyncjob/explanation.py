"""Explains in sentences why a job does not run now: for commands, pages and applications."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from .backends.base import Backend
from .backends.limits import KeyUse
from .backends.overview import Overview, PausedQueue, QueuePosition, RunningJob
from .errors import AsyncJobError, ModuleMissing
from .job import READY, RUNNING, Snapshot, WorkerInfo
from .sentence import Sentence
from .uniqueness import LATEST
from .wording import lasting


def explain(backend: Backend, found: Snapshot, *, workers: bool) -> list[Sentence]:
    """Return why a stored job does not run now; [] exactly if the next claim by a worker that
    serves its queue would take it. workers: whether to say, too, what the workers do about it."""
    if found.status is RUNNING:
        return [Sentence("it runs, in attempt %(number)s", number=found.attempts)]
    if found.status is not READY:
        return [Sentence("it has ended, as %(status)s", status=found.status)]
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
) -> list[Sentence]:
    """``explain`` for a READY job whose position the caller has read. now: the store's time."""
    if position is None:  # it was claimed in between
        return [Sentence("it has begun to run")]
    overview = getattr(backend, "overview", None)
    running: list[RunningJob] = [] if overview is None else overview.running()
    reasons = [*_delay(found, position, now), *_pause(backend, found)]
    reasons += _queue_limit(backend, found)
    if position.is_blocked:
        reasons += _blocked(backend, found)
    if position.before:
        reasons.append(_jobs_before(found, position))
    reasons += _lock_holders(running, now)
    return [*reasons, *_of_workers(backend, found, reasons, running)] if workers else reasons


def write_lock_holders(overview: Overview, now: datetime) -> list[Sentence]:
    """Return a sentence for each running job that holds the write lock."""
    return _lock_holders(overview.running(), now)


def _lock_holders(running: list[RunningJob], now: datetime) -> list[Sentence]:
    return [
        Sentence(
            "%(uid)s has held SQLite's write lock for %(time)s: all other writers, enqueues and "
            "claims wait until it commits",
            uid=each.uid,
            time=lasting(now - each.locks_since),
        )
        for each in running
        if each.locks_since is not None
    ]


def _delay(found: Snapshot, position: QueuePosition, now: datetime) -> list[Sentence]:
    until = found.run_at
    if not position.is_delayed or until is None:
        return []
    reasons = [
        Sentence(
            "delayed until %(instant)s, in %(time)s",
            instant=until.isoformat(sep=" ", timespec="seconds"),
            time=lasting(until - now),
        )
    ]
    if position.was_given_back:
        reasons.append(
            Sentence(
                "a worker has released it, since the module of its call is missing there; "
                "it is delayed so that another worker may claim it"
            )
        )
    elif found.errors:
        reasons.append(Sentence("its last attempt failed, and the next one begins then"))
    return reasons


def _pause(backend: Backend, found: Snapshot) -> list[Sentence]:
    queue_name = found.job.options.queue_name
    return [_paused(each) for each in backend.paused() if each.queue_name == queue_name]


def _paused(queue: PausedQueue) -> Sentence:
    name, since = repr(queue.queue_name), queue.since.isoformat(sep=" ", timespec="seconds")
    if queue.user:
        return Sentence(
            "its queue %(queue)s was paused by %(user)s at %(instant)s, until it is resumed",
            queue=name, user=queue.user, instant=since,
        )  # fmt: skip
    return Sentence(
        "its queue %(queue)s was paused at %(instant)s, until it is resumed",
        queue=name, instant=since,
    )  # fmt: skip


def _queue_limit(backend: Backend, found: Snapshot) -> list[Sentence]:
    name = found.job.options.queue_name
    most = backend.queue_limits().get(name)
    if most is None or backend.running_in(name) < most:
        return []
    return [
        Sentence.of_number(
            "the limit of its queue %(queue)s is reached: %(number)s job at once",
            "the limit of its queue %(queue)s is reached: %(number)s jobs at once",
            most,
            queue=repr(name),
        )
    ]


def _blocked(backend: Backend, found: Snapshot) -> list[Sentence]:
    if found.job.keys is None:
        return []
    holder = _holder(backend, found)
    if holder is not None:
        return [
            Sentence(
                "%(uid)s has the same unique key and runs: this one follows it when it has ended, "
                "with the latest arguments",
                uid=holder,
            )
        ]
    uses = backend.uses(found.job.keys)
    reasons = [_full(use) for use in uses if use.is_full]
    if found.job.keys.share is not None:
        reasons.append(
            Sentence("the owners of jobs take turns in its queue, and it is not its turn yet")
        )
    return reasons  # without one the next claim has it admitted


def _holder(backend: Backend, found: Snapshot) -> str | None:
    """The uid of the job for whose end a coalesced one waits; None if it waits for none."""
    unique = None if found.job.keys is None else found.job.keys.unique
    if unique is None or unique.scope != LATEST:
        return None
    uid = backend.holders([unique]).get(unique.key)
    return None if uid == found.job.uid else uid


def _full(use: KeyUse) -> Sentence:
    values = {"most": use.most, "key": repr(use.key)}
    if use.seconds is None:
        return Sentence.of_number(
            "the limit of %(most)s for %(key)s is reached: %(number)s job of it is at work, or "
            "admitted",
            "the limit of %(most)s for %(key)s is reached: %(number)s jobs of it are at work, or "
            "admitted",
            use.used, **values,
        )  # fmt: skip
    window = lasting(timedelta(seconds=use.seconds))
    if use.next_in is None:
        return Sentence.of_number(
            "the rate of %(number)s start in %(window)s for %(key)s is reached",
            "the rate of %(number)s starts in %(window)s for %(key)s is reached",
            use.most, window=window, **values,
        )  # fmt: skip
    return Sentence.of_number(
        "the rate of %(number)s start in %(window)s for %(key)s is reached; the next start in "
        "%(time)s",
        "the rate of %(number)s starts in %(window)s for %(key)s is reached; the next start in "
        "%(time)s",
        use.most, window=window, time=lasting(timedelta(seconds=use.next_in)), **values,
    )  # fmt: skip


def _jobs_before(found: Snapshot, position: QueuePosition) -> Sentence:
    number, is_capped = position.before, position.is_capped
    if not position.is_blocked:
        if is_capped:
            return Sentence("%(number)s or more jobs of its queue are before it", number=number)
        return Sentence.of_number(
            "%(number)s job of its queue is before it",
            "%(number)s jobs of its queue are before it",
            number,
        )
    if found.job.keys is not None and found.job.keys.share is not None:
        if is_capped:
            return Sentence("%(number)s or more jobs of the same owner are before it",
                            number=number)  # fmt: skip
        return Sentence.of_number(
            "%(number)s job of the same owner is before it",
            "%(number)s jobs of the same owner are before it",
            number,
        )
    if is_capped:
        return Sentence("%(number)s or more jobs with the same key are before it", number=number)
    return Sentence.of_number(
        "%(number)s job with the same key is before it",
        "%(number)s jobs with the same key are before it",
        number,
    )


# -- workers

#: How one is started, by ``asyncjob.engine``.
ON_OWN_WORKERS = "python -m tgext.asyncjob worker, or a process that serves with asyncjob.threads"
ON_CELERY = "python -m tgext.asyncjob celery -- worker"


def _of_workers(
    backend: Backend, found: Snapshot, reasons: list[Sentence], running: list[RunningJob]
) -> list[Sentence]:
    told = _missing_module(found)
    overview: Any = getattr(backend, "overview", None)
    if overview is None:
        return told  # the workers of memory are this process's
    workers: list[WorkerInfo] = overview.workers()
    queue_name = found.job.options.queue_name
    serving = [each for each in workers if each.queues is None or queue_name in each.queues]
    start = ON_CELERY if getattr(backend, "relay", None) is not None else ON_OWN_WORKERS
    told += _no_worker(workers, serving, queue_name, start)
    if not reasons and not told:
        told = _busy_threads(serving, running)
    if not reasons and not told:
        told = [Sentence("it is next, and a worker should claim it at any moment")]
    return told


def _missing_module(found: Snapshot) -> list[Sentence]:
    """Try to load the call in this process; the result may be another one in a worker."""
    try:
        _ = found.job.call.args
    except ModuleMissing as error:
        return [
            Sentence(
                "the module %(module)s of its call is missing here, and perhaps in workers",
                module=repr(error.module),
            )
        ]
    except AsyncJobError:  # for example since only the workers have the secret
        return []
    return []


def _no_worker(
    workers: list[WorkerInfo], serving: list[WorkerInfo], queue_name: str, start: str
) -> list[Sentence]:
    if not workers:
        return [Sentence("no worker is alive; start one: %(command)s", command=start)]
    if not serving:
        served = sorted({name for each in workers for name in each.queues or ()})
        return [
            Sentence(
                "no living worker serves its queue %(queue)s; they serve %(served)s",
                queue=repr(queue_name),
                served=", ".join(served),
            )
        ]
    if all(each.stopping for each in serving):
        return [Sentence("all workers that serve its queue are stopping")]
    return []


def _busy_threads(serving: list[WorkerInfo], running: list[RunningJob]) -> list[Sentence]:
    ids = {each.worker_id for each in serving}
    threads = sum(each.threads for each in serving)
    if sum(each.worker_id in ids for each in running) < threads:
        return []
    return [
        Sentence.of_number(
            "all threads of the workers that serve its queue (%(number)s thread) run other jobs",
            "all threads of the workers that serve its queue (%(number)s threads) run other jobs",
            threads,
        )
    ]
