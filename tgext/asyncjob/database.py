"""The backend of a queue, the application's session, and their database.

If the session works on the database of the jobs, it is ``job_sessions``: its transactions enqueue
jobs, and the commit of a job's work also completes the job. A queue may get its session after it
was made, as in TurboGears; until then it may have no backend.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .backends import make_backend
from .backends.base import AfterFailure, Backend
from .bounded import within
from .errors import ConfigError, MissingExtra
from .job import READY, Job
from .options import Options
from .processes.forked import leave_session
from .transactions.scope import Scope

log = logging.getLogger(__name__)

#: Seconds that the end of a queue waits for its database.
CLOSE_SECONDS = 3.0


class QueueDatabase:
    """The backend and the sessions of one queue.

    made: a backend object; None: made here. after_failure: see ``Backend``.
    """

    def __init__(
        self, options: Options, scope: Scope, made: Backend | None, after_failure: AfterFailure
    ) -> None:
        self._options = options
        self._after_failure = after_failure
        self._scope = scope
        self._backend = made
        self._engine: Any = None  # an engine that is made and closed here
        self.session: Any = None
        self.sessions: Any = None
        #: the sessions, if they work on the database of the jobs
        self.job_sessions: Any = None

    def bind(self, session: Any) -> None:
        """Use the application's session, and make the backend if it is missing and can be made.

        session: None: the application has none, or none yet.
        Raises ConfigError for a session that a queue cannot use, MissingExtra.
        """
        if session is not None and session is not self.session:
            before = self.job_sessions
            self._adopt(session)
            if before is not None:  # for example the queue's own session for asyncjob.url
                is_there = self.sessions.works_on(self._options.url or before.engine().url)
                self._use_for_jobs(self.sessions if is_there else None)
        if self._backend is None:
            self._open()
        if self._backend is not None:
            self._backend.after_failure = self._after_failure

    @property
    def backend(self) -> Backend:
        """The backend. Raises ConfigError as long as there is no database for it."""
        if self._backend is None:
            raise ConfigError(
                "asyncjob.backend = sql: expected a database, got neither a session nor a URL; "
                "give session=DBSession, or asyncjob.url"
            )
        return self._backend

    def close(self) -> None:
        """Close what was made here; to be called once."""
        if self._backend is None:
            return
        lost = 0 if self._backend.is_shared else self._backend.counts()[READY]
        if lost:
            log.warning("jobs never run, lost with this process's memory: %d", lost)
        if self._backend.is_shared:
            within(
                CLOSE_SECONDS, self._backend.close, "close the connections to the database of jobs"
            )
        else:
            self._backend.close()
        if self._engine is not None:
            if self.sessions is not None:
                self.sessions.remove()
            within(CLOSE_SECONDS, self._engine.dispose, "close the connections to a database")

    @property
    def carrier(self) -> Any:
        """The sessions whose commit stores what this thread's transaction does with jobs; None if
        there are none, for example because another manager ends the transaction."""
        return None if self._scope.is_foreign else self.job_sessions

    def connection(self) -> Any:
        """Return the connection in whose transaction a change of jobs takes part, or None."""
        carrier = self.carrier
        return carrier.connection() if carrier is not None and self._scope.is_managed else None

    def store(self, jobs: list[Job]) -> bool:
        """Write jobs in the transaction that has enqueued them; False if no session on their
        database takes part in it."""
        carrier = self.carrier
        if carrier is None or not carrier.takes_part():
            return False
        self.backend.enqueue(jobs, carrier.connection())
        return True

    def joins_commit(
        self,
        jobs: list[Job],
        hand_over: Callable[[list[Job]], None],
        announce: Callable[[list[Job]], None],
    ) -> bool:
        """Let a commit that is in progress in this thread store jobs, which a listener to the
        session's events has enqueued. See ``PendingJobs``.

        Returns False if no commit does, so that the caller has to store them.
        Raises ConfigError if to store them now would wait for a lock of this thread.
        """
        if self._scope.is_committing:
            if self.job_sessions is None:
                self._scope.after_commit(lambda: hand_over(jobs))
                return True
            carrier = self.carrier
            if carrier is not None and carrier.is_open():
                self.backend.enqueue(jobs, carrier.connection())
                self._scope.after_commit(lambda: announce(jobs))
                return True
        if self.job_sessions is not None:
            self._check_lock(self.job_sessions)
        return False

    def _check_lock(self, sessions: Any) -> None:
        """Raise ConfigError instead of waiting for a lock that this thread itself holds."""
        if sessions.has_written() and sessions.is_open() and self.backend.has_one_writer:
            raise ConfigError(
                "perform(): expected no uncommitted work in this thread, but its session has "
                "written and holds SQLite's only write lock; commit before, or enqueue inside "
                "`with queue.in_transaction():`, so that the job is committed with that work"
            )

    def after_fork(self) -> None:
        """Begin anew in a child process."""
        if self._backend is not None:
            self._backend.after_fork()

    def may_fork(self) -> bool:
        """Prepare a fork; return whether a child could work with the same databases."""
        if self.sessions is not None:
            self.sessions.close_idle()
        return not any(ask() for ask in self.in_use())

    def in_use(self) -> list[Callable[[], object]]:
        """Return functions that return, also in a forked copy of this process, whether a database
        is in use."""
        both = (self.sessions, self._backend)
        return [ask for each in both if each is not None for ask in each.in_use()]

    def forget_connections(self) -> None:
        """Leave the connections of the application's session to the parent process."""
        if self.sessions is not None:
            self.sessions.forget_connections()

    def leave_attempt(self) -> bool:
        """Leave this thread's transaction and session to the parent, in a child that a job has
        forked. Returns whether other processes work on the same jobs."""
        self._scope.leave_to_parent()
        if self.sessions is not None:
            leave_session(self.session)
            self.sessions.forget_connections()
        return self._backend is not None and self._backend.is_shared

    def leave(self) -> None:
        """Close the databases, at the end of a child process."""
        if self.sessions is not None:
            self.sessions.dispose()
        self.backend.close()

    def stand_in(self, backend: Backend) -> None:
        """Use *backend* from now on: that of this process has none of the jobs."""
        self._backend = backend

    def _adopt(self, session: Any) -> None:
        self.sessions = sessions_module().Sessions(session)
        self._scope.bind(self.sessions)
        self.session = session

    def _open(self) -> None:
        if self._options.backend == "memory":
            self._backend = make_backend(self._options)
            return
        engine = self._find_engine()
        if engine is None:
            return
        self._backend = make_backend(self._options, engine)
        if self.sessions is None:
            self._adopt(sessions_module().session_on(engine))
            self.job_sessions = self.sessions
        elif engine is not self._engine:
            try:
                self._use_for_jobs(self.sessions)
            except ConfigError:
                self._backend.close()
                raise

    def _use_for_jobs(self, sessions: Any) -> None:
        """Let the commits of *sessions* store and complete jobs; None: no session's commit does."""
        if sessions is not None:
            self.backend.check_carrier(sessions.engine())
        self.job_sessions = sessions

    def _find_engine(self) -> Any:
        """The engine of the session, or a new one if ``url`` is another database; None if there is
        neither session nor URL."""
        url = self._options.url
        if self.sessions is not None and (url is None or self.sessions.works_on(url)):
            return self.sessions.engine()
        if url is not None:
            self._engine = sessions_module().engine_of(url)
        return self._engine


def sessions_module() -> ModuleType:
    """Import the module that needs SQLAlchemy; raises MissingExtra."""
    try:
        return importlib.import_module(f"{__package__}.transactions.sessions")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("sqlalchemy", "zope"):
            raise
        raise MissingExtra("a job queue with a database session", "sqlalchemy") from error
