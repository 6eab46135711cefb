"""JobQueue: what an application holds; the one object that knows backend, scope and worker.

    perform -> check -> [managed transaction: pending, until its commit] -> backend -> worker
    result, progress, cancel, retry -> backend

A queue belongs to one process. After a fork the child's copy begins anew: with no jobs, no
threads and locks of its own, and a worker as soon as something is enqueued, if the parent's had
one.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

from .attempt import Surroundings
from .backend import ClaimingBackend
from .backends import make_backend
from .call import Call, check
from .current import as_current, attempt_var, open_queues
from .errors import MissingExtra, QueueClosed, QueueFull
from .job import DEFAULT_OPTIONS, READY, Job, TaskOptions
from .ledger import Ledger
from .options import Options
from .process import watch
from .progress import Tracked, Tracker
from .runner import Runner
from .scope import Scope
from .task import Task, TaskResult

log = logging.getLogger(__name__)

Capture = Callable[[], "dict[str, Any] | None"]
Surround = Callable[["dict[str, Any]"], AbstractContextManager[Any]]


class JobQueue:
    """A queue of background jobs, for any application or script; a context manager too.

    backend: a name (see Options), or a backend made by hand.
    session: the application's ``scoped_session``, registered with zope.sqlalchemy; None where
        jobs need no database.
    progress_tracker: an object that keeps progress in the backend's stead.
    options: those of the .ini file, without the prefix.
    Raises ConfigError for an option that is unknown or makes no sense, MissingExtra.
    """

    def __init__(
        self,
        backend: str | ClaimingBackend = "memory",
        session: Any = None,
        *,
        progress_tracker: Tracker | None = None,
        **options: Any,
    ) -> None:
        made = backend if isinstance(backend, ClaimingBackend) else None
        named = {} if made else {"backend": "None" if backend is None else backend}
        self.options = Options.of({**named, **options})
        self.backend = made or make_backend(self.options)
        self.session: Any = None
        self._sessions: Any = None
        self._scope = Scope()
        self._capture: Capture | None = None
        self._surround: Surround | None = None
        self._tracked = Tracked(progress_tracker)
        self._runner = Runner(self.options, self._surroundings)
        self._ledger = Ledger(
            self.backend,
            self._scope,
            self._tracked,
            retention_seconds=self.options.retention,
            announce=self._runner.announce,
        )
        self._closed = False
        self._pid = os.getpid()
        self.bind(session)
        open_queues.add(self)
        self._end_watch = watch(self)

    def bind(
        self,
        session: Any = None,
        *,
        capture: Capture | None = None,
        surround: Surround | None = None,
    ) -> None:
        """Tell the queue what its application has got meanwhile; before the first job.

        capture: what to keep of the caller with each job, or None. surround: given that, a
        context manager to run the job in.
        Raises ConfigError for a session whose work nobody commits, MissingExtra.
        """
        if session is not None and session is not self.session:
            self._sessions = _sqlalchemy_room().Sessions(session)
            self._scope.bind(self._sessions)
            self.session = session
        self._capture = capture or self._capture
        self._surround = surround or self._surround

    # -- enqueue

    def perform(self, callable: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
        """Enqueue a call and return its uid; every keyword belongs to the callable.

        In a managed transaction the job begins to exist with its commit, else at once.
        Raises BadCall, NotSerializable, QueueFull, QueueClosed.
        """
        if isinstance(callable, Task):
            call = Call(callable.func, args, kwargs or None)
            return self._enqueue(call, callable, callable.run_after).uid
        return self._enqueue(Call(callable, args, kwargs or None), DEFAULT_OPTIONS, None).uid

    def enqueue(
        self, call: Call, options: TaskOptions, run_after: datetime | timedelta | None
    ) -> TaskResult:
        """Enqueue a call as its task's options say; raises as ``perform`` does."""
        job = self._enqueue(call, options, run_after)
        return TaskResult(self._ledger, self._ledger.snapshot_of(job))

    def _enqueue(
        self, call: Call, options: TaskOptions, run_after: datetime | timedelta | None
    ) -> Job:
        if self._pid != os.getpid():
            self.after_fork()
        if self._closed:
            raise QueueClosed
        check(call.target, call.args, call.kwargs or {}, implied=int(options.takes_context))
        if self.options.max_queued is not None:
            self._check_room(self.options.max_queued)
        context = self._capture() if self._capture is not None else None
        job = Job(self.backend.new_uid(), call, options, run_after, context)
        if self._scope.is_managed:
            self._scope.pending(self._hand_over).add(job)
        else:
            self._hand_over([job])
        return job

    def _hand_over(self, jobs: list[Job]) -> None:
        """Give committed jobs to the backend, and see to it that somebody runs them."""
        attempt = attempt_var.get()
        if attempt is not None:
            # A job that commits in the middle is not interrupted here, where locks are held.
            with attempt.shield():
                self._enqueue_all(jobs)
        else:
            self._enqueue_all(jobs)

    def _enqueue_all(self, jobs: list[Job]) -> None:
        if self._tracked.tracker is not None:
            for job in jobs:
                self._tracked.begin(job.uid)
        self.backend.enqueue(jobs)
        self._runner.announce()

    def _check_room(self, max_queued: int) -> None:
        pending = self._scope.pending_or_none()
        waiting = self.backend.waiting() + (0 if pending is None else len(pending.jobs))
        if waiting >= max_queued:
            raise QueueFull(waiting, max_queued)

    # -- ask

    def result(self, uid: str) -> TaskResult:
        """Return the TaskResult of a job; raises UnknownJob for a uid that nobody made."""
        return TaskResult(self._ledger, self._ledger.snapshot(uid))

    def progress(self, uid: object) -> tuple[int, Any] | None:
        """Return ``(value, data)``, ``(-1, None)`` before the first report, None once the job
        has ended or where nothing is known of it; raises UnknownJob as the backend does."""
        return self._ledger.progress(uid)

    def wait_for_row(self, query: Any, looks: int, seconds: float) -> None:
        """See ``asyncjob_timed_query``; inside a job a checkpoint between two looks."""
        attempt = attempt_var.get()
        pause = threading.Event().wait if attempt is None else attempt.pause
        _sqlalchemy_room().wait_for_row(
            query,
            self._sessions,
            looks=max(looks, 0) + 1,  # at once, and that often again
            pause=lambda: pause(max(0.0, seconds)),
            end_snapshot=self._end_snapshot,
        )

    def _end_snapshot(self) -> None:
        if self._scope.only_reads():
            self._scope.forget()

    # -- run

    def start_worker(self) -> None:
        """Run jobs in this process from now on, on ``threads`` daemon threads.

        Does nothing where it runs already, and nothing with ``threads = 0``.
        """
        self.allow_worker()
        self.serve()

    def allow_worker(self) -> None:
        """Let the first job, or the first ``serve``, start the worker."""
        self._runner.wanted = True

    def serve(self) -> None:
        """Start the worker if that is allowed, here or before a fork, and it does not run yet;
        cheap enough for every request."""
        self._here()
        self._runner.serve()

    def run_pending(self, limit: int | None = None) -> int:
        """Run what is due in this thread, as a worker would, and return how many jobs ran.

        limit: how many at the most; None: until nothing is due.
        Raises RuntimeError inside a managed transaction, or where this thread's transaction holds
        work that nobody has committed: the jobs would commit it, or lose it.
        """
        self._here()
        if self._scope.is_managed or not self._scope.only_reads():
            raise RuntimeError(
                "run_pending() expected no transaction under way in this thread, and there is "
                "uncommitted work in it; call transaction.commit() or abort() before"
            )
        self._scope.forget()  # one that only read
        with self.as_current():
            return self._runner.run_pending(limit)

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            queue=self,
            backend=self.backend,
            scope=self._scope,
            surround=self._surround,
            session=self.session,
            tracked=self._tracked,
        )

    # -- extents

    def as_current(self) -> AbstractContextManager[None]:
        """Make this the queue of the ``asyncjob_*`` functions and of tasks, for a block."""
        return as_current(self)

    def in_transaction(self, yes: bool = True) -> AbstractContextManager[None]:
        """Say that whoever entered the block commits this thread's transaction after it.

        Neither begins nor commits. Jobs enqueued inside begin to exist with that commit.
        yes: False says the contrary, inside such a block.
        """
        return self._scope.managed(yes)

    # -- end

    def close(self) -> None:
        """Stop the worker as a SIGTERM does, and take no more jobs; may be called twice.

        Running jobs may finish within ``drain_timeout``; the rest waits again.
        """
        self._here()
        first, self._closed = not self._closed, True
        open_queues.discard(self)
        self._end_watch()
        self._runner.stop()
        self._scope.unbind()
        if first and self.backend.name == "memory":
            lost = self.backend.counts()[READY]
            if lost:
                log.warning("jobs never run, lost with this process's memory: %d", lost)

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """Begin anew in a child process; Python calls it there."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._runner.begin()
            self.backend.after_fork()

    def _here(self) -> None:
        # Embedded in uWSGI without --py-call-osafterfork, Python is not told of a fork.
        if self._pid != os.getpid():
            self.after_fork()


def _sqlalchemy_room() -> ModuleType:
    try:
        return importlib.import_module(f"{__package__}.sessions")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("sqlalchemy", "zope"):
            raise
        raise MissingExtra("a job queue with a database session", "sqlalchemy") from error
