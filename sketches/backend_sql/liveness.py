"""Whether a worker lives, told by something that ends with its process.

On SQLite the kernel tells: a worker holds a lock (``flock``) on a file of its own, which is
dropped when the process ends, however it ends. On PostgreSQL and MariaDB the server tells: the
worker holds a named lock on a connection of its own, from any machine. Where neither can tell
(a pooler between, say) ``knows`` gives None, and the lease decides.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from abc import ABC, abstractmethod
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger(__name__)


class Liveness(ABC):
    """One worker's own proof of life, and the look at another's."""

    @abstractmethod
    def hold(self, worker_id: str) -> None:
        """Begin to prove that this process's worker lives; once."""

    @abstractmethod
    def is_dead(self, worker_id: str) -> bool | None:
        """Whether that worker is known to be dead; None: this cannot tell."""

    @abstractmethod
    def let_go(self) -> None:
        """Stop proving it."""

    @abstractmethod
    def forget(self) -> None:
        """Stop proving it without a word: a forked child does not speak for its parent."""


class FileLocks(Liveness):
    """Files ``<database>-asyncjob-<worker id>``; removed with the death they tell of."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._held: int | None = None

    def _path(self, worker_id: str) -> Path:
        return Path(f"{self._database}-asyncjob-{worker_id}")

    def hold(self, worker_id: str) -> None:
        # flock and not lockf: a lockf is lost when any descriptor of the file is closed.
        self._held = os.open(self._path(worker_id), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def is_dead(self, worker_id: str) -> bool | None:
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

    def let_go(self) -> None:
        self.forget()

    def forget(self) -> None:
        if self._held is not None:
            os.close(self._held)  # a forked child's copy would keep a dead parent alive
            self._held = None


class ServerLocks(Liveness):
    """Locks by name on a connection that is kept for nothing else."""

    take: str
    ask: str

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._inherited: list[Connection | None] = []

    def hold(self, worker_id: str) -> None:
        self._connection = self._engine.connect()
        self._connection.execute(text(self.take), {"key": self.key(worker_id)})

    def is_dead(self, worker_id: str) -> bool | None:
        try:
            with self._engine.connect() as connection:
                return bool(connection.execute(text(self.ask), {"key": self.key(worker_id)}).scalar())
        except SQLAlchemyError:
            log.warning("cannot ask whether worker %s lives", worker_id, exc_info=True)
            return None

    def let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.detach()  # the lock ends with it, so it must not go back to the pool
            connection.close()

    def forget(self) -> None:
        # Kept, and never closed: that would say goodbye to the server in the parent's name.
        self._inherited.append(self._connection)
        self._connection = None

    def key(self, worker_id: str) -> str | int:
        return worker_id


class PostgreSqlLocks(ServerLocks):
    take = "SELECT pg_try_advisory_lock(:key)"
    # Both halves of a 64 bit key stand in pg_locks as unsigned 32 bit numbers.
    ask = (
        "SELECT NOT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND (classid::bigint << 32) | objid::bigint = :key AND objsubid = 1)"
    )

    def key(self, worker_id: str) -> str | int:
        return int.from_bytes(hashlib.sha256(worker_id.encode()).digest()[:8], "big", signed=True)


class MariaDbLocks(ServerLocks):
    take = "SELECT GET_LOCK(:key, 0)"
    ask = "SELECT IS_USED_LOCK(:key) IS NULL"

    def key(self, worker_id: str) -> str | int:
        return f"asyncjob-{worker_id}"[:64]  # MariaDB's bound of a name
