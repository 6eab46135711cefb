"""What differs between SQLite, PostgreSQL and MariaDB: nearly all of it.

Statements are written once; they ask a ``Dialect`` for the pieces that have no common form. Its
engine is our own, with connections of its own: each statement commits by itself, and what needs
more than one stands in ``begin()``. Whether a worker lives is in ``liveness.py``, how a change
is heard of in ``ears.py``.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Engine,
    String,
    bindparam,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from ...errors import ConfigError
from .lockwatch import LockWatch, was_refused_the_lock

log = logging.getLogger(__name__)

#: Seconds that our own connections wait for SQLite's one write lock. The driver's default of 5
#: is less than an ordinary import holds it.
BUSY_SECONDS = 30

#: A bit of what MariaDB's protocol says of a connection with each answer.
IN_TRANSACTION = 1


class Dialect(ABC):
    """How one database does what all do. channel: what a notification is sent by."""

    #: Whether UPDATE gives back rows. Where not, a claim is a SELECT ... FOR UPDATE before it.
    update_returns: bool
    #: Whether a SELECT can pass over rows that others have locked.
    skips_locked: bool
    #: Begins a transaction that writes.
    begin_text = "BEGIN"
    #: Whether a writer keeps all others out.
    has_one_writer = False

    def __init__(self, engine: Engine, channel: str) -> None:
        self.channel = channel
        self.engine = self.make_engine(engine)

    def make_engine(self, engine: Engine) -> Engine:
        """Return an engine like the application's, with connections of our own, on which every
        statement commits by itself."""
        # The pool brings what the application said of how to connect.
        pool = engine.pool.recreate()
        own = create_engine(engine.url, pool=pool, isolation_level="AUTOCOMMIT")
        event.listen(own, "connect", self.prepare)
        return own

    def prepare(self, connection: Any, _record: Any) -> None:  # noqa: B027
        """Set up a fresh connection of our own."""

    @property
    def volatile(self) -> Engine:
        """The engine for progress and the like, which never waits for a job's transaction."""
        return self.engine

    def is_one_of(self, column: ColumnElement[str], parameter: str) -> ColumnElement[bool] | None:
        """The condition that *column* is in a list that is one parameter; None: there are none
        such here."""
        return None

    def write(self) -> AbstractContextManager[Connection]:
        """Give a connection for one statement that changes something, and commits by itself."""
        return self.engine.connect()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Give a connection inside a transaction, which is committed where the block ends."""
        with self.write() as connection:
            connection.exec_driver_sql(self.begin_text)
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(Exception):  # the connection may be what failed
                    connection.exec_driver_sql("ROLLBACK")
                raise

    def change(self, connection: Connection | None, change: Callable[[Connection], bool]) -> bool:
        """Make a change that a job's commit is to carry, on its connection; None: by itself."""
        if connection is not None:
            return change(connection)
        with self.begin() as own:
            return change(own)

    def announces(self, queue_name: Any) -> list[ColumnElement[Any]]:
        """Return what an INSERT is to give back, so that its commit tells idle workers."""
        return []

    def announce(  # noqa: B027 - where there is no telling, workers look
        self, connection: Connection, queue_names: Sequence[str]
    ) -> None:
        """Tell idle workers, with the commit of the transaction on *connection*."""

    @abstractmethod
    def cut(self, connection: Connection) -> None:
        """Break a connection that another thread works with, so that it lets go of its locks."""

    @abstractmethod
    def is_passing(self, error: DBAPIError) -> bool:
        """Whether trying again may help: a deadlock, a lock that came too late, a lost
        connection, a full disk."""

    def watch_locks(self, running: Iterable[tuple[str, Any]]) -> dict[str, float] | None:
        """Say which jobs keep all others from writing, and since when; None where none can."""
        return None

    def trim(self) -> bool:
        """Close the idle connections to a server, which threads that sleep do not need, but for
        one that claims the next job at once; False if this is not the moment."""
        if self.has_one_writer:
            return True
        # One that is in use would come back to a pool that is no more, and be closed by nobody.
        if getattr(self.engine.pool, "checkedout", int)():
            return False
        self.engine.dispose()
        with self.engine.connect():
            return True

    def dispose(self) -> None:
        """Close what is open."""
        self.engine.dispose()

    def after_fork(self) -> None:
        """Forget connections that are a parent process's, without ever closing them: that would
        say goodbye in its name."""
        forget_connections(self.engine)


class PostgreSql(Dialect):
    update_returns = True
    skips_locked = True

    def is_one_of(self, column: ColumnElement[str], parameter: str) -> ColumnElement[bool] | None:
        return column == func.any(bindparam(parameter, type_=ARRAY(String)))

    def announces(self, queue_name: Any) -> list[ColumnElement[Any]]:
        return [func.pg_notify(self.channel, queue_name)]

    def announce(self, connection: Connection, queue_names: Sequence[str]) -> None:
        for queue_name in queue_names:
            connection.execute(select(func.pg_notify(self.channel, queue_name)))

    def cut(self, connection: Connection) -> None:
        pid = _driver_of(connection).info.backend_pid
        with self.engine.connect() as own:
            own.execute(select(func.pg_terminate_backend(pid)))

    def is_passing(self, error: DBAPIError) -> bool:
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or ""
        if not state and isinstance(error, OperationalError):
            return True  # what no server said: there was none, or it was not ready yet
        # Connection exceptions, rollbacks (deadlock, serialisation), resources, a lock that was
        # not to be had, an operator who shuts down.
        return state[:2] in ("08", "40", "53", "57") or state == "55P03"


class MariaDb(Dialect):
    update_returns = False
    skips_locked = True

    def make_engine(self, engine: Engine) -> Engine:
        own = super().make_engine(engine)
        roll_back = own.dialect.do_rollback

        def roll_back_if_begun(connection: Any) -> None:
            # The pool asks for it after each statement, and the driver would ask the server.
            if getattr(connection, "server_status", IN_TRANSACTION) & IN_TRANSACTION:
                roll_back(connection)

        own.dialect.do_rollback = roll_back_if_begun  # type: ignore[method-assign,assignment]
        return own

    def prepare(self, connection: Any, _record: Any) -> None:
        # The default would lock the gaps between rows, and read an old snapshot.
        cursor = connection.cursor()
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.close()

    def cut(self, connection: Connection) -> None:
        number = int(_driver_of(connection).thread_id())
        with self.engine.connect() as own:
            own.exec_driver_sql(f"KILL CONNECTION {number}")

    def is_passing(self, error: DBAPIError) -> bool:
        code = error.orig.args[0] if error.orig is not None and error.orig.args else 0
        # A lock that came too late, a deadlock, a full table or disk, a shutdown, a query that
        # was killed, a server that is gone.
        return code in (1205, 1213, 1114, 1021, 1053, 1317, 1927, 2003, 2006, 2013, 4031)


class Sqlite(Dialect):
    """One writer at a time, and a file beside the database for what must not wait for it."""

    update_returns = True
    skips_locked = False
    begin_text = "BEGIN IMMEDIATE"
    has_one_writer = True

    def make_engine(self, engine: Engine) -> Engine:
        path = engine.url.database
        if not path or path == ":memory:" or "mode=memory" in path:
            raise ConfigError(
                "asyncjob.backend = sql: expected a database that other connections see, got "
                f"{engine.url.render_as_string()}, which each has for itself; in test.ini set "
                "asyncjob.backend = memory, or sqlalchemy.url to a file"
            )
        self.path = path
        self._line = threading.Lock()
        own = super().make_engine(engine)
        self._lock_watch = LockWatch(engine, own, path)
        with own.connect() as connection:
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
            if mode != "wal":
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                log.info(
                    "switched %s to write-ahead logging, so that readers and a writer do not "
                    "wait for each other; %s-wal and %s-shm belong to it: a backup takes all three",
                    path, path, path,
                )  # fmt: skip
        beside = create_engine(
            make_url("sqlite://").set(database=f"{path}-asyncjob"), isolation_level="AUTOCOMMIT"
        )
        event.listen(beside, "connect", self.prepare_beside)
        self._beside = beside
        _warn_of_short_patience(engine)
        return own

    @contextmanager
    def write(self) -> Iterator[Connection]:
        # Threads of one process line up here: SQLite lets them sleep and look again, and whoever
        # comes last may come first for a long time.
        with self._line, self.engine.connect() as connection:
            yield connection

    def change(self, connection: Connection | None, change: Callable[[Connection], bool]) -> bool:
        try:
            return super().change(connection, change)
        except OperationalError as error:
            if connection is None or not was_refused_the_lock(connection, error):
                raise
        # It has written nothing, so there is nothing that the change must be committed with.
        return super().change(None, change)

    def prepare(self, connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")

    def prepare_beside(self, connection: Any, record: Any) -> None:
        self.prepare(connection, record)
        connection.execute("PRAGMA journal_mode = WAL")
        # A power cut may take the last of it, and with it nothing that is promised.
        connection.execute("PRAGMA synchronous = OFF")

    @property
    def volatile(self) -> Engine:
        return self._beside

    def watch_locks(self, running: Iterable[tuple[str, Any]]) -> dict[str, float] | None:
        return self._lock_watch.look(running)

    def cut(self, connection: Connection) -> None:
        driver = _driver_of(connection)
        driver.interrupt()
        driver.rollback()

    def is_passing(self, error: DBAPIError) -> bool:
        text = str(error.orig)
        return "is locked" in text or "is full" in text or "disk I/O" in text

    def dispose(self) -> None:
        super().dispose()
        self._beside.dispose()

    def after_fork(self) -> None:
        super().after_fork()
        self._line = threading.Lock()
        forget_connections(self._beside)


#: Pools that a parent process filled.
_inherited: list[Any] = []


def forget_connections(engine: Engine) -> None:
    """Let *engine* begin anew in a forked child."""
    _inherited.append(engine.pool)
    engine.dispose(close=False)


def _driver_of(connection: Connection) -> Any:
    found = connection.connection.dbapi_connection
    if found is None:
        raise RuntimeError("the connection has been closed meanwhile")
    return found


def _warn_of_short_patience(engine: Engine) -> None:
    """Say once that the application's own requests give up early when a job is writing."""
    with engine.connect() as connection:
        seconds = int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar() or 0) / 1000
    if seconds < BUSY_SECONDS:
        log.warning(
            "a job that writes keeps requests that write waiting until it commits, and after "
            "%gs they fail; give them more time, in the .ini file by the line "
            "sqlalchemy.url = sqlite:///<the file>?timeout=%d, and let jobs write last",
            seconds, BUSY_SECONDS,
        )  # fmt: skip


_DIALECTS: dict[str, type[Dialect]] = {
    "sqlite": Sqlite,
    "postgresql": PostgreSql,
    "mysql": MariaDb,
    "mariadb": MariaDb,
}


def dialect_of(engine: Engine, channel: str) -> Dialect:
    """Return the dialect of the database behind *engine*; raises ConfigError for another."""
    found = _DIALECTS.get(engine.dialect.name)
    if found is None:
        raise ConfigError(
            f"asyncjob.backend = sql: expected SQLite, PostgreSQL or MariaDB, got "
            f"{engine.dialect.name}; give asyncjob.url one of those, or use backend = memory"
        )
    return found(engine, channel)
