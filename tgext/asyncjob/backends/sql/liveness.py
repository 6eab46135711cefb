"""Whether a worker lives, told by something that ends with its process.

On SQLite the kernel tells: a worker holds a lock (``flock``) on a file of its own, which is
dropped when the process ends, however it ends. On PostgreSQL and MariaDB the server tells, from
any machine: a worker holds a lock by its name on a connection kept for that and its heartbeat.
Where neither can tell (a pooler between, say) a worker is not ``provable``, and the lease decides.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    column,
    false,
    func,
    literal,
    literal_column,
    select,
    table,
    text,
)
from sqlalchemy.exc import DBAPIError

from .dialect import Dialect
from .dialects import PostgreSql, Sqlite

log = logging.getLogger(__name__)


class Liveness(ABC):
    """The proofs of life of this process's workers, and the look at another's."""

    @abstractmethod
    def hold(self, worker_id: str) -> bool:
        """Begin to prove that this worker lives; False where that cannot be."""

    @abstractmethod
    def connection(self) -> Any:
        """A context manager: the connection for a heartbeat; a lost proof is held again."""

    def holds(self, worker_id: str) -> bool:
        """Whether the proof of this worker is held just now; asked inside ``connection()``."""
        return True

    def released(self, worker_id: ColumnElement[str]) -> ColumnElement[bool]:
        """Whether the server knows that nobody holds this worker's proof any more."""
        return false()

    def is_dead(self, worker_id: str) -> bool:
        """Whether the kernel knows that."""
        return False

    def tell(self, worker_id: str, held: dict[str, float]) -> None:  # noqa: B027 - only SQLite's
        """Let other processes know which jobs of this worker keep all others from writing, and
        since when, in seconds since the epoch."""

    def told(self, worker_id: str) -> dict[str, float]:
        """Return what a worker that lives has told so."""
        return {}

    @abstractmethod
    def let_go(self) -> None:
        """Stop proving anything."""

    @abstractmethod
    def forget(self) -> None:
        """Stop without a word: a forked child does not speak for its parent."""


class FileLocks(Liveness):
    """Files ``<database>-asyncjob-<worker id>``; removed with the death they tell of.

    What stands in them is who holds the database's one write lock: nobody can write that there.
    """

    def __init__(self, dialect: Sqlite) -> None:
        self._database = dialect.path
        self._volatile = dialect.volatile
        self._held: dict[str, int] = {}
        self._told: dict[str, dict[str, float]] = {}

    def hold(self, worker_id: str) -> bool:
        if worker_id in self._held:
            return True
        held = os.open(self._path(worker_id), os.O_CREAT | os.O_RDWR, 0o600)
        # flock and not lockf: a lockf is lost when any descriptor of the file is closed.
        fcntl.flock(held, fcntl.LOCK_EX)
        self._held[worker_id] = held
        return True

    def connection(self) -> Any:
        return self._volatile.connect()

    def is_dead(self, worker_id: str) -> bool:
        path = self._path(worker_id)
        try:
            found = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(found)

    def tell(self, worker_id: str, held: dict[str, float]) -> None:
        if worker_id not in self._held or held == self._told.get(worker_id, {}):
            return
        self._told[worker_id] = held
        with suppress(FileNotFoundError):  # it may just end
            written = os.open(self._path(worker_id), os.O_WRONLY | os.O_TRUNC)
            with open(written, "w", encoding="utf-8") as file:
                json.dump(held, file)

    def told(self, worker_id: str) -> dict[str, float]:
        if self.is_dead(worker_id):
            return {}
        try:
            found: dict[str, float] = json.loads(self._path(worker_id).read_text("utf-8"))
        except (FileNotFoundError, ValueError):  # nothing yet, or it is just being written
            return {}
        return found

    def let_go(self) -> None:
        for worker_id in self._held:
            self._path(worker_id).unlink(missing_ok=True)
        self.forget()

    def forget(self) -> None:
        for held in self._held.values():
            os.close(held)  # a forked child's copy would keep a dead parent alive
        self._held.clear()
        self._told.clear()

    def _path(self, worker_id: str) -> Path:
        return Path(f"{self._database}-asyncjob-{worker_id}")


class ServerLocks(Liveness):
    """Locks by name on a connection that is kept for them."""

    take: str  #: a statement that takes the lock ``:worker_id``, gives 1 or true, never waits

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.RLock()
        self._workers: list[str] = []
        self._untaken: set[str] = set()  # of these: whose locks another session has still
        self._connection: Connection | None = None
        self._inherited: list[Connection] = []

    def hold(self, worker_id: str) -> bool:
        with self._lock:
            connection = self._connected()
            if worker_id not in self._workers:
                self._workers.append(worker_id)
            return self._take(connection, worker_id)

    def holds(self, worker_id: str) -> bool:
        return worker_id not in self._untaken

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        with self._lock:
            try:
                yield self._connected()
            except DBAPIError:
                self._drop()
                raise

    def _connected(self) -> Connection:
        if self._connection is None:
            made = self._engine.connect()
            made.detach()  # the locks end with it, so it must not go back to the pool
            self._connection = made
            self._untaken = set(self._workers)
        # A session of ours that is lost here may live on in the server for hours, with its locks.
        taken = {each for each in self._untaken if self._take(self._connection, each)}
        self._untaken -= taken
        return self._connection

    def _take(self, connection: Connection, worker_id: str) -> bool:
        return bool(connection.execute(text(self.take), {"worker_id": worker_id}).scalar())

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it may be what failed
                connection.close()

    def let_go(self) -> None:
        with self._lock:
            self._workers.clear()
            self._drop()

    def forget(self) -> None:
        # Kept, and never closed: that would say goodbye to the server in the parent's name.
        if self._connection is not None:
            self._inherited.append(self._connection)
        self._connection = None
        self._workers.clear()
        self._lock = threading.RLock()


class PostgreSqlLocks(ServerLocks):
    take = "SELECT pg_try_advisory_lock(hashtextextended(:worker_id, 0))"

    def hold(self, worker_id: str) -> bool:
        held = super().hold(worker_id)
        if not self._is_one_session():
            log.warning(
                "a connection to the database is not one session of it: a pooler stands between; "
                "that a worker has died is seen only after asyncjob.lease, and new jobs are "
                "polled for; pool by session, or connect to the server itself"
            )
            return False
        return held

    def released(self, worker_id: ColumnElement[str]) -> ColumnElement[bool]:
        locks = table("pg_locks", *map(column, ("locktype", "database", "granted", "objsubid")))
        # Both halves of a 64 bit key stand there as unsigned 32 bit numbers.
        key = literal_column("(classid::bigint << 32) | objid::bigint", BigInteger())
        here = text("(SELECT oid FROM pg_database WHERE datname = current_database())")
        held = (
            select(literal(1))
            .select_from(locks)
            .where(locks.c.locktype == "advisory", locks.c.granted, locks.c.objsubid == 1)
            .where(locks.c.database == here, key == func.hashtextextended(worker_id, 0))
        )
        return ~held.exists()

    def _is_one_session(self) -> bool:
        """Whether this connection keeps its server process to itself. Behind a pooler by
        transaction it has been given to the next one already."""
        pid = text("SELECT pg_backend_pid()")
        with self.connection() as mine, self._engine.connect() as other:
            before = mine.execute(pid).scalar()
            other.exec_driver_sql("BEGIN")
            try:
                return bool(other.execute(pid).scalar() != before)
            finally:
                other.exec_driver_sql("ROLLBACK")


class MariaDbLocks(ServerLocks):
    take = "SELECT GET_LOCK(CONCAT('asyncjob-', :worker_id), 0)"

    def released(self, worker_id: ColumnElement[str]) -> ColumnElement[bool]:
        return func.is_free_lock(func.concat("asyncjob-", worker_id)) == 1


def liveness_of(dialect: Dialect) -> Liveness:
    """Return what tells of life and death there."""
    if isinstance(dialect, Sqlite):
        return FileLocks(dialect)
    return (PostgreSqlLocks if isinstance(dialect, PostgreSql) else MariaDbLocks)(dialect.engine)
