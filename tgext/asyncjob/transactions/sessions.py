"""The application's SQLAlchemy sessions: one for each thread, from its ``scoped_session``.

Imported only if there is one: the rest of the package runs without SQLAlchemy.
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
from ..wording import address_of
from . import connections
from .session_kinds import check_kind, database_of, writer_of

log = logging.getLogger(__name__)

#: Seconds that a connection of a queue's own engine waits for SQLite's only write lock.
BUSY_SECONDS = 30

#: The extra that installs a driver, by the driver's module.
_EXTRAS = {"psycopg": "postgresql", "psycopg2": "postgresql", "pymysql": "mysql"}


class Sessions:
    """A ``scoped_session`` that is registered with zope.sqlalchemy.

    Raises ConfigError for anything else; see ``session_kinds``.
    """

    def __init__(self, scoped: Any) -> None:
        check_kind(scoped)
        self.scoped = scoped
        self._engine: Engine | None = None  # that of the jobs, after the first ``engine()``
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
        with each ``begin_nested()``, and *savepoint_rolled_back* with it if it is rolled back.
        Returns a function that ends this."""

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
        """Whether this thread's session takes part in the transaction, and has neither committed
        nor rolled back."""
        begun = self.scoped().get_transaction() if self.takes_part() else None
        return begun is not None and begun.is_active

    def flush(self) -> None:
        """Flush this thread's session, if it takes part in the transaction."""
        if self.takes_part():
            self.scoped().flush()

    def takes_part(self) -> bool:
        """Whether this thread's session has joined the present transaction."""
        return self._state() is not None

    def _state(self) -> Any:
        # zope.sqlalchemy has no public way to find out.
        return datamanager._SESSION_STATE.get(self.scoped()) if self._has_session() else None

    def engine(self) -> Engine:
        """Return the engine that this session works on.

        Raises ConfigError if there is none that a queue can use.
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
        """Close the idle connections to SQLite, which a forked child must not copy: SQLite keeps
        in the process which locks its connections hold."""
        for engine in self._engines():
            if engine.dialect.name == "sqlite" and not getattr(engine.pool, "checkedout", int)():
                engine.dispose()

    def in_use(self) -> list[Callable[[], object]]:
        """Return functions that return, also in a forked copy of this process, whether one of
        those connections is in use (a number, 0 for no)."""
        pools = [engine.pool for engine in self._engines() if engine.dialect.name == "sqlite"]
        return [getattr(pool, "checkedout", int) for pool in pools]

    def forget_connections(self) -> None:
        """Begin with new connections in a forked child."""
        for engine in self._engines():
            connections.forget_connections(engine)

    def dispose(self) -> None:
        """Close the idle connections."""
        for engine in self._engines():
            engine.dispose()

    def _engines(self) -> list[Engine]:
        """The engines that these sessions are bound to, except those with one connection for all
        threads, which may be a database in memory."""
        given = self.scoped.session_factory.kw
        binds = [given.get("bind"), *(given.get("binds") or {}).values()]
        engines = {bind.engine for bind in binds if bind is not None}
        single = (StaticPool, SingletonThreadPool)
        return [engine for engine in engines if not isinstance(engine.pool, single)]

    def works_on(self, url: str | URL) -> bool:
        """Whether *url* is that of this session's database. Raises as ``engine`` does, unless the
        session has several engines and none with that URL."""
        own, engines = make_url(url), self._engines()
        if len(engines) > 1 and all(engine.url != own for engine in engines):
            return False
        return bool(self.engine().url == own)

    def is_used(self) -> bool:
        """Whether this thread's session was used in the present transaction."""
        return self._has_session() and bool(self.scoped().in_transaction())

    def connection(self) -> Connection:
        """Return this thread's connection to the database of the jobs, in its transaction, which
        is committed even if the session itself has nothing to commit."""
        session = self.scoped()
        if not session.in_transaction():
            session.begin()  # for a session with autobegin=False
        bind = self._bind_of(session)
        connection: Connection = session.connection(bind_arguments={"bind": bind})
        connections.read_at_once(connection)
        datamanager.mark_changed(session)
        self.commit_last()
        return connection

    def _bind_of(self, session: Any) -> Engine | None:
        """The engine of *session* for the jobs. It may have changed since: the session may be bound
        to another one, or use a replica for a while, which does not have the jobs."""
        bind = writer_of(session)
        if self._engine is None or bind is self._engine or bind.engine.url == self._engine.url:
            return bind  # type: ignore[no-any-return]
        if not self._warned:
            self._warned = True
            log.warning(
                "the session of the jobs writes to %s now, and the jobs are in %s: they are not "
                "committed together with its work", address_of(bind.engine.url),
                address_of(self._engine.url),
            )  # fmt: skip
        return self._engine

    def commit_last(self) -> None:
        """Let this thread's session, if it takes part in the transaction, commit after those on
        other databases: a job that it completes or enqueues must not exist without their work."""
        session = self.scoped() if self.takes_part() else None
        for resource in datamanager.zope_transaction.get()._resources if session else ():
            if getattr(resource, "session", None) is session:
                resource.sortKey = lambda: "~~sqlalchemy"  # before that of PendingJobs

    def owns(self, session: Any, connection: Connection) -> bool:
        """Whether *session* is this thread's, and *connection* is that of ``connection()``."""
        if not self._has_session() or self.scoped() is not session:
            return False
        engine = self._engine or writer_of(session).engine
        return bool(connection.engine.url == engine.url)

    def has_raised(self, error: BaseException) -> bool:
        """Whether *error* comes from a database that sessions use, or from no database at all."""
        return not isinstance(error, DBAPIError) or connections.origin_of(error) is not None

    def holds_objects(self) -> bool:
        """Whether this thread's session contains any instance."""
        return self._has_session() and bool(self.scoped().identity_map)

    def remove(self) -> None:
        """Close this thread's session, if it has one; the next use makes a new one."""
        if not self._has_session():
            return
        try:
            self.scoped.remove()
        except Exception:
            # The connection may be lost. The registry must not return this session again.
            log.exception("could not close the session of a job")
            self.scoped.registry.clear()


def engine_of(url: str) -> Engine:
    """Make an engine for *url*. Raises ConfigError if SQLAlchemy refuses it or does not know its
    driver, MissingExtra if its driver is not installed."""
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
    """Make a ``scoped_session`` on *engine*, for a queue without the application's."""
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
    """Execute *query* until it has a row, at most *looks* times, with a *pause* in between.

    query: a legacy ``Query``, or a ``select()``, executed in this thread's session.
    end_snapshot: ends the transaction, or returns False because work would be lost.

    In a transaction that reads a snapshot a session never sees a row that was inserted after its
    first query. If the session has nothing that could be lost, its transaction is ended before the
    next look. Otherwise the query is executed on a connection of its own first, and if that finds
    the row and the session cannot see it, a warning is logged: the application has to end the
    transaction itself.
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
    """Look once. holds: whether the session has work or instances that must not be lost."""
    session: Any = query.session if isinstance(query, Query) else sessions and sessions.scoped()
    apart = _engine_apart(query, session) if holds else None
    if apart is None:
        return _finds_something(query, session)
    statement = query.statement if isinstance(query, Query) else query
    with apart.connect() as connection:
        found = connection.execute(statement).first() is not None
    # No autoflush: it would begin the snapshot, and on SQLite keep all others from writing.
    with session.no_autoflush:
        if (found or _has_connection(session)) and _finds_something(query, session):
            return True
    if found:
        log.warning(
            "asyncjob_timed_query: the row is there, but this transaction reads a snapshot from "
            "before it, and ending it would lose what the session holds: commit or abort, and then "
            "run the query"
        )
    return found


def _has_connection(session: Any) -> bool:
    begun = session.get_transaction()
    return begun is not None and bool(begun._connections)  # a session also begins with add()


def _engine_apart(query: Any, session: Any) -> Engine | None:
    """The engine of *session* for *query*; None if it has one connection for all threads."""
    statement = query.statement if isinstance(query, Query) else query
    engine: Engine = session.get_bind(clause=statement).engine
    shared = isinstance(engine.pool, (StaticPool, SingletonThreadPool))
    return None if shared else engine


def _finds_something(query: Any, session: Any) -> bool:
    if isinstance(query, Query):
        return query.first() is not None
    return session.execute(query).first() is not None
