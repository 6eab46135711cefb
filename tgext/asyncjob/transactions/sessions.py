"""The application's SQLAlchemy sessions: one for each thread, from its ``scoped_session``.

Loaded only where there is one: the rest of the package runs without SQLAlchemy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Query, scoped_session, sessionmaker
from sqlalchemy.pool import SingletonThreadPool, StaticPool
from sqlalchemy.sql.selectable import SelectBase
from zope.sqlalchemy import datamanager, register

from ..errors import BadCall, ConfigError, MissingExtra
from . import connections
from .session_kinds import check_kind, database_of, writer_of

log = logging.getLogger(__name__)

#: Seconds that a connection of a queue's own engine waits for SQLite's one write lock.
BUSY_SECONDS = 30

#: The extra that brings a driver, by the module that is missing.
_EXTRAS = {"psycopg": "postgresql", "psycopg2": "postgresql", "pymysql": "mysql"}


class Sessions:
    """A ``scoped_session`` that is registered with zope.sqlalchemy.

    Raises ConfigError for anything else, see ``session_kinds``.
    """

    def __init__(self, scoped: Any) -> None:
        check_kind(scoped)
        self.scoped = scoped
        self._engine: Engine | None = None  # that of the jobs, once it was asked for
        self._warned = False
        connections.track_connections()
        self._has_session: Callable[[], bool] = scoped.registry.has

    def watch(
        self,
        used: Callable[[], None],
        savepoint_begun: Callable[[Any], None],
        savepoint_rolled_back: Callable[[Any], None],
    ) -> Callable[[], None]:
        """Call *used* when one of these sessions is first used in a transaction, *savepoint_begun*
        with each ``begin_nested()``, and *savepoint_rolled_back* with it where it is rolled back.
        Returns what ends that."""

        def after_create(_session: Any, created: Any) -> None:
            if created.nested:
                savepoint_begun(created)
            else:
                used()

        def after_rollback(_session: Any, ended: Any) -> None:
            if ended.nested:
                savepoint_rolled_back(ended)

        event.listen(self.scoped, "after_transaction_create", after_create)
        event.listen(self.scoped, "after_soft_rollback", after_rollback)

        def unwatch() -> None:
            event.remove(self.scoped, "after_transaction_create", after_create)
            event.remove(self.scoped, "after_soft_rollback", after_rollback)

        return unwatch

    def holds_work(self) -> bool:
        """Whether this thread's session has changes that are not committed."""
        if not self._has_session():
            return False
        session = self.scoped()
        if session.new or session.dirty or session.deleted:
            return True
        return self.has_written()

    def has_written(self) -> bool:
        """Whether this thread's session has flushed changes that are not committed."""
        return bool(self._state() == datamanager.STATUS_CHANGED)

    def is_open(self) -> bool:
        """Whether this thread's session takes part, and has neither committed nor rolled back."""
        begun = self.scoped().get_transaction() if self.takes_part() else None
        return begun is not None and begun.is_active

    def flush(self) -> None:
        """Write what this thread's session is about to commit."""
        if self.takes_part():
            self.scoped().flush()

    def takes_part(self) -> bool:
        """Whether this thread's session has joined the transaction that is under way."""
        return self._state() is not None

    def _state(self) -> Any:
        # Only zope.sqlalchemy knows; it has no public way to ask.
        return datamanager._SESSION_STATE.get(self.scoped()) if self._has_session() else None

    def engine(self) -> Engine:
        """Return the engine that this session works on.

        Raises ConfigError where there is none that a queue can work with.
        """
        had_one = self._has_session()
        try:
            self._engine = database_of(self.scoped())
        finally:
            if not had_one:
                self.scoped.remove()
        connections.listen(self._engine)
        return self._engine

    def close_idle(self) -> None:
        """Close the idle connections to SQLite, which a forked child must not copy: it keeps in
        the process which locks its connections hold."""
        for engine in self._engines():
            if engine.dialect.name == "sqlite" and not getattr(engine.pool, "checkedout", int)():
                engine.dispose()

    def in_use(self) -> list[Callable[[], object]]:
        """What to ask, also in a copy of this process, whether one of those is in use."""
        pools = [engine.pool for engine in self._engines() if engine.dialect.name == "sqlite"]
        return [getattr(pool, "checkedout", int) for pool in pools]

    def forget_connections(self) -> None:
        """Begin with new connections in a forked child."""
        for engine in self._engines():
            connections.forget_connections(engine)

    def dispose(self) -> None:
        """Close the connections that are idle."""
        for engine in self._engines():
            engine.dispose()

    def _engines(self) -> list[Engine]:
        """The engines that these sessions are bound to, but for a single connection for everybody:
        that may be a database in memory."""
        given = self.scoped.session_factory.kw
        binds = [given.get("bind"), *(given.get("binds") or {}).values()]
        engines = {bind.engine for bind in binds if bind is not None}
        single = (StaticPool, SingletonThreadPool)
        return [engine for engine in engines if not isinstance(engine.pool, single)]

    def works_on(self, url: str | URL) -> bool:
        """Whether that is the URL of this session's database; raises as ``engine`` does, but where
        it is none of several."""
        own, engines = make_url(url), self._engines()
        if len(engines) > 1 and all(engine.url != own for engine in engines):
            return False
        return bool(self.engine().url == own)

    def is_used(self) -> bool:
        """Whether this thread's session was used in the transaction that is under way."""
        return self._has_session() and bool(self.scoped().in_transaction())

    def connection(self) -> Connection:
        """Return this thread's connection to the database of the jobs, in its transaction, which
        is committed even if the session itself has nothing to commit."""
        session = self.scoped()
        if not session.in_transaction():
            session.begin()  # some do not begin by themselves
        bind = self._bind_of(session)
        connection: Connection = session.connection(bind_arguments={"bind": bind})
        connections.read_at_once(connection)
        datamanager.mark_changed(session)
        self.commit_last()
        return connection

    def _bind_of(self, session: Any) -> Engine | None:
        """What *session* has now for the engine of the jobs: it may have been bound anew, or be
        told to work on a slave for a while, where no job would be found."""
        bind = writer_of(session)
        if self._engine is None or bind is self._engine or bind.engine.url == self._engine.url:
            return bind  # type: ignore[no-any-return]
        if not self._warned:
            self._warned = True
            log.warning(
                "the session of the jobs writes to %s now, and the jobs are in %s: they are "
                "committed beside its work, and not with it", bind.engine.url, self._engine.url,
            )  # fmt: skip
        return self._engine

    def commit_last(self) -> None:
        """Have this thread's session, if it takes part in the transaction, commit after those on
        other databases: a job that it completes or enqueues must not be without their work."""
        session = self.scoped() if self.takes_part() else None
        for resource in datamanager.zope_transaction.get()._resources if session else ():
            if getattr(resource, "session", None) is session:
                resource.sortKey = lambda: "~~sqlalchemy"  # before that of PendingJobs

    def owns(self, session: Any, connection: Connection) -> bool:
        """Whether *session* is this thread's, and *connection* what ``connection()`` gives."""
        if not self._has_session() or self.scoped() is not session:
            return False
        engine = self._engine or writer_of(session).engine
        return bool(connection.engine.url == engine.url)

    def has_raised(self, error: BaseException) -> bool:
        """Whether *error* came from a database that sessions work on, or from none at all."""
        return not isinstance(error, DBAPIError) or connections.origin_of(error) is not None

    def holds_objects(self) -> bool:
        """Whether this thread's session has loaded or been given any instance."""
        return self._has_session() and bool(self.scoped().identity_map)

    def remove(self) -> None:
        """Close this thread's session, if it has one; the next use makes a new one."""
        if not self._has_session():
            return
        try:
            self.scoped.remove()
        except Exception:
            # The connection is gone, say. The registry must not hand this session out again.
            log.exception("could not close the session of a job")
            self.scoped.registry.clear()


def engine_of(url: str) -> Engine:
    """Make an engine for *url*; raises ConfigError for one that names no database or driver that
    we know, MissingExtra where its driver is not installed."""
    try:
        own = make_url(url)
        if own.get_backend_name() == "sqlite" and "timeout" not in own.query:
            own = own.update_query_dict({"timeout": str(BUSY_SECONDS)})
        return create_engine(own)
    except ModuleNotFoundError as error:
        scheme, extra = f"{own.drivername}://", _EXTRAS.get(error.name or "")
        if extra is not None:
            raise MissingExtra(f"a database at {scheme}", extra) from error
        raise ConfigError(
            f"asyncjob.url: expected SQLite, PostgreSQL or MariaDB, got {scheme} ({error})"
        ) from error
    except Exception as error:
        raise ConfigError(
            "asyncjob.url: expected an SQLAlchemy URL such as sqlite:///jobs.db or "
            f"postgresql+psycopg://user@host/name, got one that is refused: {type(error).__name__}"
        ) from error


def session_on(engine: Engine) -> Any:
    """Make a ``scoped_session`` on *engine* for a queue that was given none."""
    made = scoped_session(sessionmaker(bind=engine))
    register(made)
    return made


def wait_for_row(
    query: Any,
    sessions: Sessions | None,
    *,
    looks: float,
    pause: Callable[[], None],
    end_snapshot: Callable[[], bool],
) -> None:
    """Look whether *query* has a row, *looks* times at the most, with a *pause* between two.

    query: a legacy ``Query``, or a ``select()``, run in this thread's session.
    end_snapshot: ends the transaction, or returns False because work would be lost.

    On a database that reads a snapshot a session never sees a row that came after its first
    look. Where it holds nothing that could be lost, its transaction is ended before the next
    look. Where it does, a connection of its own looks first, and if the row is there and the
    session cannot see it, a warning says so: the session has to end its transaction itself.
    Raises BadCall for anything else than a query.
    """
    _check_query(query, sessions)
    holds = sessions is not None and (sessions.holds_objects() or sessions.holds_work())
    while True:
        looks -= 1
        if _look_from(query, sessions, holds) or looks <= 0:
            return
        holds = (sessions is not None and sessions.holds_objects()) or not end_snapshot()
        pause()


def _check_query(query: Any, sessions: Sessions | None) -> None:
    if isinstance(query, Query) or (isinstance(query, SelectBase) and sessions is not None):
        return
    raise BadCall(
        "asyncjob_timed_query: expected a Query, or a select() where the queue has a session, "
        f"got an instance of {type(query).__module__}.{type(query).__qualname__}"
    )


def _look_from(query: Any, sessions: Sessions | None, holds: bool) -> bool:
    """Look once. holds: whether the session has something that must not be lost."""
    session: Any = query.session if isinstance(query, Query) else sessions and sessions.scoped()
    apart = _engine_apart(query, session) if holds else None
    if apart is None:
        return _finds_something(query, session)
    statement = query.statement if isinstance(query, Query) else query
    with apart.connect() as connection:
        found = connection.execute(statement).first() is not None
    # What it has not flushed yet stays so: that would begin the snapshot, and on SQLite keep
    # everybody else from writing.
    with session.no_autoflush:
        if (found or _has_connection(session)) and _finds_something(query, session):
            return True
    if found:
        log.warning(
            "asyncjob_timed_query: the row is there, and this transaction reads a snapshot from "
            "before it; ending it would lose what the session holds: commit or abort, and then "
            "run the query"
        )
    return found


def _has_connection(session: Any) -> bool:
    begun = session.get_transaction()
    return begun is not None and bool(begun._connections)  # it begins with the first add(), too


def _engine_apart(query: Any, session: Any) -> Engine | None:
    """The engine behind *session*; None where it has one connection for everybody."""
    statement = query.statement if isinstance(query, Query) else query
    engine: Engine = session.get_bind(clause=statement).engine
    shared = isinstance(engine.pool, (StaticPool, SingletonThreadPool))
    return None if shared else engine


def _finds_something(query: Any, session: Any) -> bool:
    if isinstance(query, Query):
        return query.first() is not None
    return session.execute(query).first() is not None
