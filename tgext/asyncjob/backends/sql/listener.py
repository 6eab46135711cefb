"""How a worker is notified that another process has committed something: one listener a database.

PostgreSQL has LISTEN and NOTIFY. SQLite counts commits (``PRAGMA data_version``); to read that
number is no query, but a look into shared memory. On MariaDB a worker polls: often after something
has happened, and ever more rarely when nothing does.
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
from .dialects import PostgreSql, Sqlite

log = logging.getLogger(__name__)

#: Seconds between two looks at SQLite's counter: while something has happened lately, and after
#: LATELY_SECONDS without. A job starts within half of that on average; the second keeps an idle
#: worker below 1 % of a core (tests/test_sql_idle.py prints what it is).
COUNTER_SECONDS = (0.002, 0.04)
LATELY_SECONDS = 10.0

#: How long after a write the file's time may still be that of another, in seconds: it moves on
#: in the kernel's ticks.
TICK_SECONDS = 0.05

#: Seconds between two polls: right after something happened, and at the most.
POLL_SECONDS = (0.02, 1.5)

#: Seconds that a LISTEN waits before it looks whether to stop.
LISTEN_SECONDS = 1.0


class Listener(ABC):
    """Listens for the commits of others; used by one thread."""

    #: Whether a look at the table comes before a thread is woken: where it costs less than a
    #: claim that finds nothing.
    looks_first = True

    @abstractmethod
    def listen(self, stop: threading.Event) -> list[str] | None:
        """Return when something may have happened, or *stop* is set.

        Gives the names of the queues in which something waits now; None: that is not known.
        """

    def interrupt(self) -> None:  # noqa: B027 - most look often enough
        """Make ``listen`` return soon; called by any thread."""

    def close(self) -> None:  # noqa: B027 - polling has nothing to close
        """Close what is open."""


class ListenNotify(Listener):
    """LISTEN on a connection of its own."""

    def __init__(self, dialect: Dialect) -> None:
        connection = dialect.engine.connect()
        driver: Any = connection.connection.dbapi_connection
        self._driver = driver
        connection.detach()  # it listens for ever, and must not go back to the pool
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
        return names if all(names) else None  # nameless: look for yourself

    def interrupt(self) -> None:
        with self._dialect.engine.connect() as connection:
            connection.execute(select(func.pg_notify(self._own_channel, "")))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()


class NotDelivered(Exception):
    """Raised inside this module where a notification to oneself does not arrive."""


class DataVersion(Listener):
    """Looks at the number that changes with every commit of another connection, whenever the
    write-ahead log was written to: to ask for the time of a file is cheaper."""

    looks_first = False  # a claim does it

    def __init__(self, dialect: Sqlite) -> None:
        self._dialect = dialect
        self._log_path = f"{dialect.path}-wal"
        self._written_ns = -1
        self._unsure_until = 0.0
        self._changed_at = 0.0
        self._connection = dialect.engine.connect()
        self._cursor: Any = self._connection.connection.driver_connection.cursor()  # type: ignore[union-attr]
        self._connection.detach()  # it is out for ever, and never in a transaction
        self._seen = self._count()

    def listen(self, stop: threading.Event) -> list[str] | None:
        while not stop.is_set():
            is_quiet = time.monotonic() - self._changed_at > LATELY_SECONDS
            time.sleep(COUNTER_SECONDS[is_quiet])  # cheaper than to wait for the event
            if self._was_written() and (seen := self._count()) != self._seen:
                self._seen, self._changed_at = seen, time.monotonic()
                break
        return None

    def _was_written(self) -> bool:
        try:
            written_ns = os.stat(self._log_path).st_mtime_ns
        except OSError:
            return True  # there is none: the counter knows
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
    """Says ever more rarely that something may have happened, until a round of the registry,
    which looks too, is as often."""

    def __init__(self) -> None:
        self._seconds = POLL_SECONDS[0]
        #: as an Event, but one that a finalizer may set while its thread just does
        self._asked: SimpleQueue[None] = SimpleQueue()

    def listen(self, stop: threading.Event) -> list[str] | None:
        if self._seconds > POLL_SECONDS[1]:
            self._asked.get()
        # Spread, so that a fleet that was started at once does not look at once.
        stop.wait(self._seconds * random.uniform(0.75, 1.25))
        self._seconds *= 1.5
        return None

    def poll_faster(self) -> None:
        """Poll often again: something has happened."""
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
                "a notification of the database does not arrive, a pooler may stand between: "
                "new jobs are polled for, and start up to %gs later", POLL_SECONDS[1],
            )  # fmt: skip
    return Polling()
