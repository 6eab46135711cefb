"""The client's side of a queue: enqueues calls, in the transaction of the thread if it has one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from .backends.base import Backend
from .call import Arguments, Call, call_of, call_with, check, of_fields
from .current import attempt_var, enqueued_var, shielded
from .database import QueueDatabase
from .duplicates import Enqueued, sorted_out
from .errors import BadCall, NotSerializable, QueueClosed, QueueFull
from .job import Job, JobId
from .options import Options
from .results import Results
from .task import Task, keys_for
from .task_options import DEFAULT_OPTIONS, TaskOptions
from .task_result import TaskResult
from .transactions.scope import Scope
from .uniqueness import UniqueKey
from .worker.child_process import check_picklable
from .worker.local import LocalWorker
from .worker.progress_tracker import GuardedTracker


class QueueClient:
    """The part of a ``JobQueue`` that enqueues."""

    options: Options
    results: Results
    _capture: Callable[[], dict[str, Any] | None] | None
    _closed: bool
    _database: QueueDatabase
    _local_worker: LocalWorker
    _progress_tracker: GuardedTracker
    _scope: Scope

    @property
    def backend(self) -> Backend:
        raise NotImplementedError

    def _here(self) -> None:
        raise NotImplementedError

    def perform(self, callable: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
        """Enqueue a call and return the job's uid; see ``asyncjob_perform``.

        In a managed transaction the commit creates the job, otherwise it exists at once.
        Raises BadCall, NotSerializable, QueueFull, QueueClosed.
        """
        target, options, run_after = _declared(callable)
        return self._enqueue((call_of(target, args, kwargs),), options, run_after)[0].uid

    def perform_many(self, callable: Callable[..., Any], calls: Iterable[Arguments]) -> list[str]:
        """Enqueue many calls of one callable, and return the uids of their jobs, in their order.

        calls: the arguments of each: a tuple of positional ones, a dict of keywords, or a ``Call``.
        All are enqueued or none: in a managed transaction by its commit, otherwise in one of their
        own. Raises as ``perform`` does; BadCall and NotSerializable say which call they are of.
        """
        return [found.uid for found in self._enqueue_many(callable, calls)]

    def enqueue(
        self,
        call: Call,
        options: TaskOptions,
        run_after: datetime | timedelta | None,
        context: dict[str, Any] | None = None,
    ) -> TaskResult:
        """Enqueue a call with the options of its task; raises as ``perform`` does. context: of the
        job; None: that of this request."""
        [found] = map(Enqueued.of, self._enqueue((call,), options, run_after, context))
        return TaskResult(self.results, self.results.snapshot_of(found.job), found.is_duplicate)

    def enqueue_many(self, task: Task, calls: Iterable[Arguments]) -> list[TaskResult]:
        """Do what ``perform_many`` does for a task, and return the results of its jobs, as they
        were enqueued; only those of earlier enqueues are read."""
        enqueued = list(map(Enqueued.of, self._enqueue_many(task, calls)))
        snapshots = self.results.snapshots_of(enqueued)
        return [
            TaskResult(self.results, snapshot, found.is_duplicate)
            for found, snapshot in zip(enqueued, snapshots, strict=True)
        ]

    def _enqueue_many(
        self, callable: Any, many: Iterable[Arguments]
    ) -> Sequence[Job] | Sequence[Enqueued]:
        target, options, run_after = _declared(callable)
        number = 0

        def calls() -> Iterator[Call]:
            nonlocal number
            for number, given in enumerate(many, 1):  # noqa: B007 - read below
                yield call_with(target, given)

        try:
            return self._enqueue(calls(), options, run_after)
        except (BadCall, NotSerializable) as error:
            raise type(error)(f"call {number}, and none is enqueued: {error}") from error

    def _enqueue(
        self,
        calls: Iterable[Call],
        options: TaskOptions,
        run_after: datetime | timedelta | None,
        context: dict[str, Any] | None = None,
    ) -> Sequence[Job] | Sequence[Enqueued]:
        """Enqueue calls; return the jobs that come of them, in their order."""
        self._here()
        if self._closed and attempt_var.get() is None:  # a job may still end while it drains
            raise QueueClosed
        if context is None and self._capture is not None:
            context = self._capture()
        backend = self.backend
        jobs: list[Job] = []
        has_keys, implied = isinstance(options, Task), int(options.takes_context)
        for call in calls:
            check(call.target, call.args, call.kwargs or {}, implied=implied)
            if options.executor == "process":
                check_picklable(call)
            keys = keys_for(call, options, context) if has_keys else None
            job = of_fields(Job, (backend.new_uid(), call, options, run_after, context, keys))
            jobs.append(backend.prepare(job, jobs[-1] if jobs else None))
        enqueued: Sequence[Job] | Sequence[Enqueued] = jobs
        if jobs and jobs[0].keys is not None and jobs[0].keys.unique is not None:
            jobs, enqueued = self._without_duplicates(jobs)
        if jobs:
            if self.options.max_queued is not None:
                self._check_length(self.options.max_queued, len(jobs))
            self._add(jobs)
            note = enqueued_var.get()
            if note is not None:
                note(jobs)
        return enqueued

    def _without_duplicates(self, jobs: list[Job]) -> tuple[list[Job], list[Enqueued]]:
        """Return those of some jobs of a unique task that are to be stored, and of all the job that
        comes of them. See ``duplicates``."""
        pending = self._scope.pending_or_none()
        own = [] if pending is None else pending.jobs
        is_in_transaction = self._scope.is_managed or self._scope.is_committing
        cancelled = self._scope.cancelled  # which the backend does not see before the commit

        def holders(keys: Collection[UniqueKey]) -> dict[str, JobId]:
            found = self.backend.holders(keys)
            return {key: uid for key, uid in found.items() if uid not in cancelled}

        return sorted_out(jobs, own, holders, is_in_transaction)

    def _add(self, jobs: list[Job]) -> None:
        """Add jobs to the transaction of this thread, or store them if there is none."""
        if self._database.job_sessions is None and self._scope.extent.is_idle:
            self._hand_over(jobs)  # the rest would come to the same, and takes longer
        elif not self._scope.is_managed:
            if not self._database.joins_commit(jobs, self._hand_over, self._announce):
                self._hand_over(jobs)
        elif self._database.job_sessions is None:
            self._scope.pending(self._hand_over).add(jobs)
        else:
            # A job's session commits what the job enqueues, with its completion or under its fence.
            sessions, in_job = self._database.carrier, attempt_var.get() is not None
            join = sessions and (sessions.connection if in_job else sessions.commit_last)
            pending = self._scope.pending(self._hand_over, self._database.store, self._announce)
            pending.add(jobs, join)

    @shielded  # a commit inside a job calls this and takes locks; the same holds for _hand_over
    def _announce(self, jobs: list[Job]) -> None:
        """Have jobs run that a commit has stored."""
        self.backend.announced(jobs)
        self._begin(jobs)

    @shielded
    def _hand_over(self, jobs: list[Job]) -> None:
        """Give committed jobs to the backend, and have them run."""
        self.backend.enqueue(jobs)
        self._begin(jobs)

    def _begin(self, jobs: list[Job]) -> None:
        if self._progress_tracker.tracker is not None:
            for job in jobs:
                self._progress_tracker.begin(job.uid)
        self._local_worker.announce()

    def _check_length(self, max_queued: int, more: int) -> None:
        pending = self._scope.pending_or_none()
        own = 0 if pending is None else len(pending.jobs)
        if (waiting := own + self.backend.waiting(max(max_queued - own, 0))) + more > max_queued:
            raise QueueFull(waiting, max_queued)


def _declared(callable: Any) -> tuple[Any, TaskOptions, datetime | timedelta | None]:
    """Return what a job of *callable* calls, with its options and earliest start."""
    if isinstance(callable, Task):
        return callable.func, callable, callable.run_after
    return callable, DEFAULT_OPTIONS, None
