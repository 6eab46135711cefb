"""Finds the jobs that hold SQLite's only write lock for long: other writers wait, and fail at last.

The worker checks at intervals the connections that its jobs use. A job holds the lock if its
transaction has changed a row. A transaction that only reads does not hold it, and one that waits
for it has changed no row yet. (A transaction that took the lock by the application's own ``BEGIN
IMMEDIATE``, and has only read so far, is not found; SQLite does not show it.)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

log = logging.getLogger(__name__)

#: How long a job may hold the lock before it is reported, in seconds: drivers time out after 5.
HELD_SECONDS = 2.0

#: The key of a connection's ``info`` for the rows it had changed when its transaction began.
_CHANGES = "asyncjob_changes"

#: Values of ``sqlite3.Connection.isolation_level`` with which a transaction begins with the lock.
_AT_ONCE = ("IMMEDIATE", "EXCLUSIVE")


class LockMonitor:
    """Used by one thread. engine: the application's; own: ours for the same file, *path*."""

    def __init__(self, engine: Engine, own: Engine, path: str) -> None:
        self._own = own
        self._path = path
        # By uid and transaction: a job that commits in parts releases the lock in between.
        self._since: dict[tuple[str, int], float] = {}  # by time.monotonic()
        self._named: dict[tuple[str, int], float] = {}  # and since when, by the clock
        event.listen(engine, "begin", _remember_changes)

    def look(self, running: Iterable[tuple[str, Any]]) -> dict[str, float]:
        """Log the jobs that hold the lock for long, each once. Return them, and since when they
        hold it, in seconds since the epoch. running: uids, and connections."""
        wrote = [(uid, self._wrote_since(connection)) for uid, connection in running]
        found = {(uid, begun) for uid, begun in wrote if begun is not None}
        if not found or not self.is_locked():
            found = set()
        now = time.monotonic()
        self._since = {each: self._since.get(each, now) for each in found}
        self._named = {each: since for each, since in self._named.items() if each in found}
        for each, since in self._since.items():
            if now - since >= HELD_SECONDS and each not in self._named:
                self._named[each] = time.time() - (now - since)
                log.warning(
                    "job=%s holds the write lock of %s for more than %.0fs: all other writers, "
                    "requests too, wait for it, and fail in the end; let the job write last, "
                    "or commit in parts, or use PostgreSQL", each[0], self._path, now - since,
                )  # fmt: skip
        return {uid: since for (uid, _begun), since in self._named.items()}

    def _wrote_since(self, connection: Any) -> int | None:
        """The number of rows that a connection had changed when its transaction began; None unless
        that transaction has changed more."""
        try:
            is_here = connection.engine.url.database == self._path
            driver, begun = connection.connection.dbapi_connection, connection.info[_CHANGES]
            wrote = driver.total_changes > begun or driver.isolation_level in _AT_ONCE
            return begun if is_here and driver.in_transaction and wrote else None
        except Exception:  # noqa: BLE001 - closed meanwhile, or another driver's
            return None

    def is_locked(self) -> bool:
        """Return whether anyone holds the lock now."""
        with self._own.connect() as connection:
            before = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
            connection.exec_driver_sql("PRAGMA busy_timeout = 0")
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.exec_driver_sql("ROLLBACK")
            except OperationalError as error:
                return "locked" in str(error.orig)
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}")
        return False


def was_refused_the_lock(connection: Connection, error: OperationalError) -> bool:
    """Whether *error* was raised by the first write of the transaction on *connection*.

    The lock was refused, so the transaction has written nothing: others hold the lock, or have
    written since this transaction first read, and then it cannot get the lock at all.
    """
    driver: Any = connection.connection.dbapi_connection
    # It may have written to an attached database.
    has_changed = getattr(driver, "total_changes", None) != connection.info.get(_CHANGES)
    return "database is locked" in str(error.orig) and not has_changed


def _remember_changes(connection: Connection) -> None:
    driver: Any = connection.connection.dbapi_connection
    connection.info[_CHANGES] = getattr(driver, "total_changes", None)


def warn_of_short_timeout(engine: Engine, enough_seconds: int) -> None:
    """Log once that requests of the application time out early while a job is writing."""
    with engine.connect() as connection:
        seconds = int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar() or 0) / 1000
    if seconds < enough_seconds:
        log.warning(
            "while a job has written and not committed, requests that write wait, and fail after "
            "%gs; give them more time, in the .ini file by the line "
            "sqlalchemy.url = sqlite:///<the file>?timeout=%d, and let jobs write last",
            seconds, enough_seconds,
        )  # fmt: skip
