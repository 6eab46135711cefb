"""``JobQueue``: the object that an application holds; it connects backend, scope and worker.

    perform -> check -> [managed transaction: pending, until its commit] -> backend -> worker
    result, progress, cancel, retry -> backend

A queue belongs to one process. After a fork the copy in the child begins anew, without jobs,
threads and locks. If the parent's queue had a worker, the child's starts one at its first enqueue.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .backends.base import Backend
from .client import QueueClient
from .current import as_current, attempt_var, open_queues
from .database import QueueDatabase, sessions_module
from .failure_hook import FailureHook
from .operations import QueueOperations
from .options import Options
from .processes.lifecycle import register
from .results import Results
from .transactions.scope import Scope
from .worker.child_process import ForkServer, ParentChannel
from .worker.environment import AttemptEnvironment
from .worker.local import LocalWorker
from .worker.progress_tracker import GuardedTracker, Tracker

Capture = Callable[[], "dict[str, Any] | None"]
EnterContext = Callable[["dict[str, Any]"], AbstractContextManager[Any]]


class JobQueue(QueueClient, QueueOperations):
    """A queue of background jobs; as a context manager it is closed at the end of the block.

    backend: "memory" or "sql", or a backend object.
    session: the application's ``scoped_session``, registered with zope.sqlalchemy, or None.
    progress_tracker: an object with ``track``, ``set_progress``, ``get_progress`` and ``remove``
        that stores progress instead of the backend.
    options: the options of the .ini file, without the prefix ``asyncjob.``.
    Raises ConfigError for an unknown or invalid option, and for a session or database that the
    queue cannot use; MissingExtra if a package that it needs is not installed.
    """

    def __init__(
        self,
        backend: str | Backend = "memory",
        session: Any = None,
        *,
        progress_tracker: Tracker | None = None,
        **options: Any,
    ) -> None:
        made = backend if isinstance(backend, Backend) else None
        named = {} if made else {"backend": "None" if backend is None else backend}
        self.options = Options.of({**named, **options})
        self._scope = Scope(lambda error: self.backend.is_conflict(error))
        #: what is called when a job has failed; see ``on_failure``
        self.failure_hook = FailureHook(self.options.on_failure)
        after_failure = self.failure_hook.call_after
        self._database = QueueDatabase(self.options, self._scope, made, after_failure)
        self._capture: Capture | None = None
        self._enter_context: EnterContext | None = None
        #: see ``bind``
        self.is_here: Callable[[], bool | None] = lambda: None
        self._progress_tracker = GuardedTracker(progress_tracker)
        self._local_worker = LocalWorker(self.options, self._make_environment)
        #: what reads and changes single jobs
        self.results = Results(
            lambda: self.backend,
            self._scope,
            self._progress_tracker,
            retention_seconds=self.options.retention,
            announce=self._announce,
            connection=self._database.connection,
        )
        self._fork_server = ForkServer(self._database, self._become_fork_server, self._enter_child)
        self._closed = False
        self._pid = os.getpid()
        self.bind(session)
        open_queues.add(self)
        self._unregister = register(self)

    def bind(
        self,
        session: Any = None,
        *,
        capture: Capture | None = None,
        enter_context: EnterContext | None = None,
        is_here: Callable[[], bool | None] | None = None,
    ) -> None:
        """Set what the application has only after the queue was made; before the first job.

        capture: returns what to store of the caller with each job, or None. enter_context: takes
        that, and returns a context manager to run the job in. is_here: whether this thread is in a
        context of the application; None: it is in a context of no application.
        Raises ConfigError for a session that the queue cannot use, MissingExtra.
        """
        self._database.bind(session)
        self._capture = capture or self._capture
        self._enter_context = enter_context or self._enter_context
        self.is_here = is_here or self.is_here

    @property
    def backend(self) -> Backend:
        """The backend. Raises ConfigError as long as there is no database for it."""
        return self._database.backend

    @property
    def session(self) -> Any:
        """The application's ``scoped_session``, or the queue's own for its ``url``; None if there
        is neither."""
        return self._database.session

    def _here(self) -> None:
        # In uWSGI without --py-call-osafterfork, Python calls no function after a fork.
        if self._pid != os.getpid():
            self.after_fork()

    # -- read

    def progress(self, uid: object) -> tuple[int, Any] | None:
        """Return ``(value, data)`` of the last report, ``(-1, None)`` before the first one, None if
        the job has ended or is unknown. See ``asyncjob_get_progress``."""
        return self.results.progress(uid)

    def wait_for_row(self, query: Any, looks: float, seconds: float) -> None:
        """See ``asyncjob_timed_query``; inside a job each pause is a checkpoint."""
        attempt = attempt_var.get()
        pause = threading.Event().wait if attempt is None else attempt.pause
        sessions_module().wait_for_row(
            query,
            self._database.sessions,
            looks=max(looks, 0) + 1,  # the first one is no repetition
            pause=lambda: pause(max(0.0, seconds)),
            end_snapshot=self._scope.end_reading,
        )

    # -- run

    def start_worker(self) -> None:
        """Run jobs in this process from now on, in ``threads`` daemon threads. Does nothing if
        ``threads`` is 0, or if they are running already."""
        self.allow_worker()
        self.serve()

    def allow_worker(self, yes: bool = True) -> None:
        """Allow the first enqueue or ``serve`` to start the worker. yes: False forbids it."""
        self._local_worker.wanted = yes

    @property
    def local_worker(self) -> LocalWorker:
        """The worker of this process; for the commands that run a worker process."""
        return self._local_worker

    def serve(self) -> None:
        """Start the worker if it is allowed and not running; cheap enough for each request."""
        self._here()
        self._local_worker.serve()

    def run_pending(self, limit: int | None = None) -> int:
        """Run due jobs in this thread, as a worker would, and return how many were run.

        limit: the largest number of jobs to run; None: until no job is due.
        Raises RuntimeError inside a managed transaction, and if the transaction of this thread has
        uncommitted work: the jobs would commit it, or lose it.
        """
        self._here()
        if self._scope.is_managed or not self._scope.only_reads():
            raise RuntimeError(
                "run_pending() expected no transaction under way in this thread, and there is "
                "uncommitted work in it; call transaction.commit() or abort() before"
            )
        self._scope.forget()  # a transaction that has only read
        with self.as_current():
            return self._local_worker.run_pending(limit)

    def _make_environment(self) -> AttemptEnvironment:
        return AttemptEnvironment(
            queue=self,
            backend=self.backend,
            scope=self._scope,
            enter_context=self._enter_context,
            session=self.session,
            job_sessions=self._database.job_sessions,
            progress_tracker=self._progress_tracker,
            fork_server=self._fork_server,
        )

    # -- processes of attempts

    def open_fork_server(self) -> None:
        """Start the fork server of attempts; best before this process has threads."""
        self._fork_server.open()

    def _become_fork_server(self) -> None:
        for queue in open_queues:
            queue.allow_worker(False)
        self._database.forget_connections()

    def _enter_child(self, channel: ParentChannel) -> tuple[AttemptEnvironment, Callable[[], None]]:
        if not self.backend.is_shared:
            self._database.stand_in(channel.backend(self.backend))
        if self._progress_tracker.tracker is not None:
            self._progress_tracker.tracker = channel.tracker()
        return self._make_environment(), self._database.leave

    # -- extents

    def as_current(self) -> AbstractContextManager[None]:
        """Make this queue that of the ``asyncjob_*`` functions and of tasks, for a block."""
        return as_current(self)

    def in_transaction(
        self, yes: bool = True, *, manager: Any = None
    ) -> AbstractContextManager[None]:
        """Declare that the caller commits this thread's transaction after the ``with`` block.

        The block itself neither begins nor commits. The commit creates the jobs enqueued in it.
        yes: False: declare the contrary, inside such a block. manager: the transaction manager
        that commits; None: ``transaction.manager``, or that of the enclosing block. With another
        manager the jobs are stored right after its other votes.
        """
        return self._scope.managed(yes, manager)

    @contextmanager
    def session_scope(self) -> Iterator[None]:
        """Run a ``with`` block as a job would run: this queue is current, the work of the block is
        committed at its end, or aborted if it raises, and the session of this thread is removed.

        Inside a managed transaction the block is part of that, which is doomed if the block raises.
        Raises RuntimeError if this thread has uncommitted work of other code.
        """
        with self.as_current(), self._scope.block():
            yield

    # -- end

    def close(self) -> None:
        """Stop the worker, as SIGTERM does, and accept no more jobs; may be called twice.

        Running jobs have ``drain_timeout`` seconds to end; those that have not ended wait again.
        """
        self._here()
        first, self._closed = not self._closed, True
        open_queues.discard(self)
        self._unregister()
        self._local_worker.stop()
        self._fork_server.close()
        self._scope.unbind()
        if first:
            self._database.close()

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """Begin anew in a child process; called there by ``os.register_at_fork``."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._local_worker.begin()
            self._fork_server.after_fork()
            self._database.after_fork()
            if attempt_var.get() is not None and self._database.leave_attempt():
                self.allow_worker(False)  # its end with the job's child would count as a crash
