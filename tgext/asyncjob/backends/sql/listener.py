"""Listeners, which notify a worker of the commits of other processes; each database has its own.

PostgreSQL has LISTEN and NOTIFY. SQLite counts commits (``PRAGMA data_version``), and reading that
number is only an access to shared memory. On MariaDB a worker polls: often after an event, and ever
more rarely without one.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from sqlalchemy import Connection, func, select

from .dialect import Dialect
from .dialects import PostgreSql
from .sqlite import Sqlite

log = logging.getLogger(__name__)

#: Seconds between two reads of SQLite's counter: after a recent commit, and after LATELY_SECONDS
#: without one. On average a job starts after half of that. The second value keeps an idle worker
#: below 1 % of a core (tests/test_sql_idle.py prints how much).
COUNTER_SECONDS = (0.002, 0.04)
LATELY_SECONDS = 10.0

#: How long after a write a further write may leave the time of the file unchanged, in seconds: the
#: kernel's clock for files advances in ticks.
TICK_SECONDS = 0.05

#: Seconds between two polls: right after an event, and at most.
POLL_SECONDS = (0.02, 1.5)

#: Seconds that a LISTEN waits before it checks whether to stop.
LISTEN_SECONDS = 1.0


class Listener(ABC):
    """Waits for commits of other processes; used by one thread."""

    #: Whether the table is read before a thread is woken, because that takes less than a claim that
    #: finds nothing.
    looks_first = True

    @abstractmethod
    def listen(self, stop: threading.Event) -> list[str] | None:
        """Return when a job may have been enqueued, or *stop* is set.

        Returns the names of the queues in which jobs wait now; None if they are not known.
        """

    def interrupt(self) -> None:  # noqa: B027 - most return soon anyway
        """Make ``listen`` return soon; called by any thread."""

    def close(self) -> None:  # noqa: B027 - polling has nothing to close
        """Close what is open."""


class ListenNotify(Listener):
    """LISTEN on a connection of its own."""

    def __init__(self, dialect: Dialect) -> None:
        connection = dialect.engine.connect()
        driver: Any = connection.connection.dbapi_connection
        self._driver = driver
        connection.detach()  # it listens until the end, and must not return to the pool
        self._connection: Connection | None = connection
        self._dialect = dialect
        self._own_channel = f"{dialect.channel}_{os.urandom(6).hex()}"
        try:
            self._driver.execute(f'LISTEN "{dialect.channel}"')
            self._driver.execute(f'LISTEN "{self._own_channel}"')
            self.interrupt()
            if not list(self._driver.notifies(timeout=LISTEN_SECONDS, stop_after=1)):
                raise NotDelivered
        except BaseException:
            self.close()
            raise

    def listen(self, stop: threading.Event) -> list[str] | None:
        names: list[str] = []
        while not names and not stop.is_set():
            found = self._driver.notifies(timeout=LISTEN_SECONDS, stop_after=1)
            names = [each.payload for each in found]
        return names if all(names) else None  # an empty name: read the table

    def interrupt(self) -> None:
        with self._dialect.engine.connect() as connection:
            connection.execute(select(func.pg_notify(self._own_channel, "")))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()


class NotDelivered(Exception):
    """Raised inside this module if a notification to its own connection does not arrive."""


class DataVersion(Listener):
    """Reads the number that changes with each commit of another connection, but only if the time
    of the write-ahead log has changed, which is cheaper to read."""

    looks_first = False  # a claim does the same

    def __init__(self, dialect: Sqlite) -> None:
        self._dialect = dialect
        self._log_path = f"{dialect.path}-wal"
        self._written_ns = -1
        self._unsure_until = 0.0
        self._changed_at = 0.0
        self._connection = dialect.engine.connect()
        self._cursor: Any = self._connection.connection.driver_connection.cursor()  # type: ignore[union-attr]
        self._connection.detach()  # used until the end, and never in a transaction
        self._seen = self._count()

    def listen(self, stop: threading.Event) -> list[str] | None:
        while not stop.is_set():
            is_quiet = time.monotonic() - self._changed_at > LATELY_SECONDS
            time.sleep(COUNTER_SECONDS[is_quiet])  # cheaper than a wait for *stop*
            if self._was_written() and (seen := self._count()) != self._seen:
                self._seen, self._changed_at = seen, time.monotonic()
                break
        return None

    def _was_written(self) -> bool:
        try:
            written_ns = os.stat(self._log_path).st_mtime_ns
        except OSError:
            return True  # there is no such file: read the counter
        now = time.monotonic()
        if written_ns != self._written_ns:
            self._written_ns = written_ns
            self._unsure_until = now + TICK_SECONDS
        return now < self._unsure_until

    def _count(self) -> int:
        with self._dialect.counting:
            return int(self._cursor.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        with suppress(Exception):
            self._cursor.close()
            self._connection.close()


class Polling(Listener):
    """Returns ever more rarely, until the rounds of the registry, which read the table too, are as
    frequent; then it waits for ``poll_faster``."""

    def __init__(self) -> None:
        self._seconds = POLL_SECONDS[0]
        #: instead of an Event: a finalizer may interrupt a thread inside set(), and call it again
        self._asked: SimpleQueue[None] = SimpleQueue()

    def listen(self, stop: threading.Event) -> list[str] | None:
        if self._seconds > POLL_SECONDS[1]:
            self._asked.get()
        # Spread, so that workers that were started at once do not poll at once.
        stop.wait(self._seconds * random.uniform(0.75, 1.25))
        self._seconds *= 1.5
        return None

    def poll_faster(self) -> None:
        """Poll often again, after an event."""
        self._seconds = POLL_SECONDS[0]
        if self._asked.empty():
            self._asked.put(None)

    def interrupt(self) -> None:
        self.poll_faster()


def listener_of(dialect: Dialect) -> Listener:
    """Return the listener for a database."""
    if isinstance(dialect, Sqlite):
        return DataVersion(dialect)
    if isinstance(dialect, PostgreSql) and dialect.engine.dialect.driver == "psycopg":
        try:
            return ListenNotify(dialect)
        except NotDelivered:
            log.warning(
                "a notification of the database does not arrive, perhaps because of a pooler: "
                "new jobs are polled for, and start up to %gs later", POLL_SECONDS[1],
            )  # fmt: skip
    return Polling()
