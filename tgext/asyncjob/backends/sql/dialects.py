"""The dialects of SQLite, PostgreSQL and MariaDB.

Two other modules also differ by database: ``liveness.py`` (whether a worker lives) and
``listener.py`` (notification of commits).
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
    text,
    true,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DisconnectionError, OperationalError, SQLAlchemyError

from ...errors import ConfigError
from ...transactions.connections import forget_connections, note_errors
from .dialect import Dialect, driver_of
from .faults import MariaDbFaults, PostgreSqlFaults, SqliteFaults
from .location import database_on_mariadb, refuse_schema, schema_on_postgresql
from .lock_monitor import LockMonitor, warn_of_short_timeout, was_refused_the_lock
from .plans import keep_to_indexes

log = logging.getLogger(__name__)

#: Seconds that our own connections wait for SQLite's only write lock. The driver's default of 5 is
#: less than an ordinary import holds it.
BUSY_SECONDS = 30

#: Cache of each of our own connections to SQLite, enough for the top of the indexes and new rows.
#: The default of 2,000 would fill slowly, and look like a leak of the worker.
CACHE_KIBIBYTES = 200

#: SQLite's ``synchronous`` for commits that a power cut may undo, the last one first.
NORMAL = 1

#: A bit of the status that MariaDB's protocol sends with each answer.
IN_TRANSACTION = 1


#: SQLite's number of the limit on the bytes of a row; Python 3.10 has no name for it.
SQLITE_LIMIT_LENGTH = 0

#: The most bytes of one value or message of PostgreSQL; and of SQLite, unless built otherwise.
POSTGRESQLS_BYTES, SQLITES_BYTES = 2**30 - 1, 1_000_000_000

#: The isolation level of our own transactions, as PostgreSQL shows it, and as it is set.
READ_COMMITTED = "read committed"
LEVEL = "ISOLATION LEVEL READ COMMITTED"


class PostgreSql(Dialect):
    most_bytes = POSTGRESQLS_BYTES
    faults_of = PostgreSqlFaults
    update_returns = True
    begin_text = f"BEGIN {LEVEL}"
    skips_locked = True
    notifies = True

    def home(self, connection: Connection, table: str, wanted: str | None) -> str | None:
        return schema_on_postgresql(connection, table, wanted)

    def is_in_transaction(self, connection: Connection) -> bool:
        # set_config(..., is_local = true) has no effect outside a transaction.
        connection.execute(select(func.set_config("asyncjob.probe", "set", true())))
        probed = select(func.current_setting("asyncjob.probe", true()))
        return bool(connection.execute(probed).scalar() == "set")

    def prepare(self, connection: Any, _record: Any) -> None:
        # A role or a database may have another default: concurrent claims would fail.
        cursor = connection.cursor()
        cursor.execute("SHOW default_transaction_isolation")
        [level] = cursor.fetchone()
        if level != READ_COMMITTED:  # else unchanged: a pooler may pass the session to others
            cursor.execute(f"SET SESSION CHARACTERISTICS AS TRANSACTION {LEVEL}")
        keep_to_indexes(connection, cursor)
        # Whatever the application's connections use: the text of an error may be anything.
        cursor.execute("SET client_encoding TO 'UTF8'")
        cursor.close()
        if not connection.autocommit:
            connection.commit()  # a rollback would undo the settings

    def is_one_of(self, column: ColumnElement[str], parameter: str) -> ColumnElement[bool] | None:
        return column == func.any(bindparam(parameter, type_=ARRAY(String)))

    @property
    def lazily(self) -> list[ColumnElement[Any]]:
        return [func.set_config("synchronous_commit", "off", true())]  # for this transaction

    def notify(self, queue_names: Sequence[str]) -> None:
        sent = [func.pg_notify(self.channel, name) for name in queue_names]
        with self.engine.connect() as connection:
            connection.execute(select(*sent))


class MariaDb(Dialect):
    faults_of = MariaDbFaults
    update_returns = False
    skips_locked = True

    def home(self, connection: Connection, table: str, wanted: str | None) -> str | None:
        return database_on_mariadb(connection, wanted)

    def make_engine(self, engine: Engine) -> Engine:
        own = super().make_engine(engine)
        roll_back = own.dialect.do_rollback

        def roll_back_if_begun(connection: Any) -> None:
            # The pool rolls back after each statement, which would be a round trip to the server.
            if getattr(connection, "server_status", IN_TRANSACTION) & IN_TRANSACTION:
                roll_back(connection)

        own.dialect.do_rollback = roll_back_if_begun  # type: ignore[method-assign,assignment]
        return own

    def prepare(self, connection: Any, _record: Any) -> None:
        # Whatever the application's connections use: the text of an error may be anything.
        set_characters = getattr(connection, "set_character_set", None)
        if set_characters is not None:
            set_characters("utf8mb4")
        # The default level locks the gaps between rows, and reads an old snapshot.
        cursor = connection.cursor()
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("SELECT @@max_allowed_packet")
        [self.most_bytes] = cursor.fetchone()
        cursor.close()

    def is_in_transaction(self, connection: Connection) -> bool:
        found = connection.execute(text("SELECT NOT @@autocommit OR @@in_transaction"))
        return bool(found.scalar())


class Sqlite(Dialect):
    """One writer at a time; a side database, another file, for rows that must not wait for it."""

    faults_of = SqliteFaults
    most_bytes = SQLITES_BYTES
    update_returns = True
    skips_locked = False
    begin_text = "BEGIN IMMEDIATE"
    has_one_writer = True

    def home(self, connection: Connection, table: str, wanted: str | None) -> str | None:
        refuse_schema(wanted)
        return None

    def make_engine(self, engine: Engine) -> Engine:
        self._write_lock = threading.RLock()
        self._writer = 0  # the thread that holds it
        self._deferred: deque[Callable[[], object]] = deque()
        #: held while a connection reads the number of commits
        self.counting = threading.Lock()
        own = super().make_engine(engine)
        with own.connect() as connection:
            # The path as SQLite resolved it. The URL's may be relative, a URI or a link, and all
            # processes must use the same files beside it.
            path = connection.exec_driver_sql("PRAGMA database_list").first().file  # type: ignore[union-attr]
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
            if not path or mode == "memory":
                connection.detach()
                raise ConfigError(
                    "asyncjob.backend = sql: expected a database that other connections see, got "
                    f"{engine.url.render_as_string()}, which is in memory and ends with "
                    "this process; in test.ini set asyncjob.backend = memory, or sqlalchemy.url to "
                    "a file"
                )
            if mode != "wal":
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                log.info(
                    "switched %s to write-ahead logging, so that readers and a writer do not "
                    "wait for each other; %s-wal and %s-shm belong to it: a backup takes all three",
                    path, path, path,
                )  # fmt: skip
        self.path = path
        self._lock_monitor = LockMonitor(engine, own, path)
        side = create_engine(
            make_url("sqlite://").set(database=f"{path}-asyncjob"), isolation_level="AUTOCOMMIT"
        )
        event.listen(side, "connect", self.prepare_side)
        event.listen(side, "checkout", self.check_side)
        note_errors(side)
        self._side_database = side
        warn_of_short_timeout(engine, BUSY_SECONDS)
        return own

    def is_in_transaction(self, connection: Connection) -> bool:
        connection.execute(select(true()))
        driver = driver_of(connection)  # by default it begins one before the first write
        return driver.in_transaction or driver.isolation_level is not None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        # Threads of one process wait here for each other: in SQLite they would sleep and try again,
        # and one of them could fail to get the lock for a long time.
        if self._is_writing():
            raise RuntimeError(
                "expected to be called outside a finalizer or signal handler, got called by one "
                "that has interrupted a write of the queue in the same thread, for which it would "
                "wait; enqueue there a job that does it"
            )
        try:
            with self._write_lock:
                self._writer = threading.get_ident()
                try:
                    with self.engine.connect() as connection:
                        yield connection
                finally:
                    self._writer = 0
        finally:
            while self._deferred and not self._is_writing():
                self._deferred.popleft()()

    def defers(self, act: Callable[[], object]) -> bool:
        if not self._is_writing():
            return False
        self._deferred.append(act)
        return True

    def _is_writing(self) -> bool:
        return self._writer == threading.get_ident()

    def change(self, connection: Connection | None, change: Callable[[Connection], bool]) -> bool:
        try:
            return super().change(connection, change)
        except OperationalError as error:
            if connection is None or not was_refused_the_lock(connection, error):
                raise
        # It has written nothing, so the change need not be committed together with it.
        return super().change(None, change)

    @contextmanager
    def write_lazily(self) -> Iterator[Connection]:
        with self.write() as connection:
            driver, synchronous = driver_of(connection), connection.info["synchronous"]
            driver.execute(f"PRAGMA synchronous = {min(synchronous, NORMAL)}")
            try:
                yield connection
            finally:
                driver.execute(f"PRAGMA synchronous = {synchronous}")

    def prepare(self, connection: Any, record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        record.info["synchronous"] = connection.execute("PRAGMA synchronous").fetchone()[0]
        if hasattr(connection, "getlimit"):  # Python 3.11
            self.most_bytes = connection.getlimit(SQLITE_LIMIT_LENGTH)

    def prepare_side(self, connection: Any, record: Any) -> None:
        self.prepare(connection, record)
        connection.execute("PRAGMA journal_mode = WAL")
        # A power cut may undo the last changes; progress and heartbeats promise no durability.
        connection.execute("PRAGMA synchronous = OFF")
        record.info["file"] = _file_at(self._side_database.url.database)
        for statement in self.side_statements:
            connection.execute(statement)

    def check_side(self, connection: Any, record: Any, _proxy: Any) -> None:
        """Close a connection to a file that was removed or replaced: no other process reads it."""
        if _file_at(self._side_database.url.database) != record.info["file"]:
            raise DisconnectionError("the side database is another file now")

    @property
    def side_database(self) -> Engine:
        return self._side_database

    def watch_locks(self, running: Iterable[tuple[str, Any]]) -> dict[str, float] | None:
        return self._lock_monitor.look(running)

    def in_use(self) -> list[Callable[[], object]]:
        # SQLite keeps in the process which locks its connections hold: one that is checked out may
        # be inside a transaction. The one that counts commits is not in the pool.
        pools = (self.engine.pool, self._side_database.pool)
        return [self.counting.locked, *[getattr(pool, "checkedout", int) for pool in pools]]

    def dispose(self) -> None:
        super().dispose()
        self._side_database.dispose()

    def after_fork(self) -> None:
        super().after_fork()
        self._write_lock, self.counting = threading.RLock(), threading.Lock()
        self._writer = 0
        self._deferred.clear()
        forget_connections(self._side_database)


def _file_at(path: str | None) -> tuple[int, int] | None:
    try:
        found = os.stat(path or "")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_present(engine: Engine) -> None:
    """Raise an error of SQLAlchemy's, as for an unreachable server, if a SQLite file is missing."""
    path = engine.url.database if engine.dialect.name == "sqlite" else None
    if path and not path.startswith((":", "file:")) and not os.path.exists(path):
        raise SQLAlchemyError(
            f"there is no file {os.path.abspath(path)!r}; a worker makes it, and schema --create"
        )


_DIALECTS: dict[str, type[Dialect]] = {
    "sqlite": Sqlite,
    "postgresql": PostgreSql,
    "mysql": MariaDb,
    "mariadb": MariaDb,
}


def dialect_of(engine: Engine, channel: str) -> Dialect:
    """Return the dialect of the database of *engine*; raises ConfigError if there is none."""
    if engine.dialect.is_async:
        raise ConfigError(
            "asyncjob.backend = sql: expected a driver that blocks (psycopg, pymysql, pysqlite), "
            f"got {engine.dialect.driver}, which needs an event loop; give asyncjob.url another one"
        )
    found = _DIALECTS.get(engine.dialect.name)
    if found is None:
        raise ConfigError(
            f"asyncjob.backend = sql: expected SQLite, PostgreSQL or MariaDB, got "
            f"{engine.dialect.name}; give asyncjob.url one of those, or use backend = memory"
        )
    return found(engine, channel)
