"""The dialect of SQLite."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, select, true
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DisconnectionError, OperationalError

from ...errors import ConfigError
from ...transactions.connections import forget_connections, note_errors
from .dialect import Dialect, SideTable, driver_of
from .faults import SqliteFaults
from .location import refuse_schema
from .lock_monitor import LockMonitor, warn_of_short_timeout, was_refused_the_lock

log = logging.getLogger(__name__)

#: Seconds that our own connections wait for SQLite's only write lock. The driver's default of 5 is
#: less than an ordinary import holds it.
BUSY_SECONDS = 30

#: Seconds between two tries to switch a file to write-ahead logging.
SWITCH_SECONDS = 0.01

#: Cache of each of our own connections to SQLite, enough for the top of the indexes and new rows.
#: The default of 2,000 would fill slowly, and look like a leak of the worker.
CACHE_KIBIBYTES = 200

#: SQLite's ``synchronous`` for commits that a power cut may undo, the last one first.
NORMAL = 1

#: SQLite's number of the limit on the bytes of a row; Python 3.10 has no name for it.
SQLITE_LIMIT_LENGTH = 0

#: The most bytes of a row, unless SQLite was built otherwise.
SQLITES_BYTES = 1_000_000_000


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
                _log_ahead(driver_of(connection))
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
        _log_ahead(connection)
        # A power cut may undo the last changes; progress and heartbeats promise no durability.
        connection.execute("PRAGMA synchronous = OFF")
        record.info["file"] = _file_at(self._side_database.url.database)
        for table in self.side_tables:
            connection.execute(table.made_by)
            _add_missing(connection, table)

    def check_side(self, connection: Any, record: Any, _proxy: Any) -> None:
        """Close a connection to a file that was removed or replaced: no other process reads it."""
        if _file_at(self._side_database.url.database) != record.info["file"]:
            raise DisconnectionError("the side database is another file now")

    @property
    def side_database(self) -> Engine:
        return self._side_database

    def watch_locks(self, running: Iterable[tuple[str, Any]]) -> dict[str, float] | None:
        return self._lock_monitor.look(running)

    def is_locked(self) -> bool:
        return self._lock_monitor.is_locked()

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


def _log_ahead(driver: Any) -> None:
    """Switch the file of a driver's connection to write-ahead logging.

    SQLite refuses that at once while another process uses the file, whatever ``busy_timeout`` says,
    and processes that start together meet here. After the first has switched, the others may.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            driver.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "database is locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(SWITCH_SECONDS)


def _add_missing(connection: Any, table: SideTable) -> None:
    """Add the columns that a file lacks which an older version has made."""
    there = {column[1] for column in connection.execute(f'PRAGMA table_info("{table.name}")')}
    for name, statement in table.columns.items():
        if name not in there:
            try:
                connection.execute(statement)
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):  # another process was faster
                    raise


def _file_at(path: str | None) -> tuple[int, int] | None:
    try:
        found = os.stat(path or "")
    except OSError:
        return None
    return found.st_dev, found.st_ino
