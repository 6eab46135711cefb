"""Proofs that a worker lives or is dead.

On the same machine and in the same container the kernel knows whether the process of a worker id
exists (see ``worker_id``). On SQLite a lock is a proof in other containers too: a worker holds a
``flock`` on a file of its own, which the kernel releases when the process ends, however it ends.
Nothing else is a proof: a closed connection or a missing file says nothing about the process.
Without a proof the lease decides.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ..worker_id import boot_id, is_gone
from .dialect import Dialect
from .sqlite import Sqlite

log = logging.getLogger(__name__)

#: How much of a lock file is read to identify its lock.
_FIRST_LINE_BYTES = 200


class Liveness(ABC):
    """Provides proofs of life of this process's workers, and checks those of others."""

    def hold(self, worker_id: str) -> bool:
        """Provide the proof that this worker lives; called again with each heartbeat. Returns
        False if only the kernel in its own container has a proof."""
        return False

    @abstractmethod
    def connection(self) -> Any:
        """Return a context manager: the connection for a heartbeat."""

    def is_dead(self, worker_id: str) -> bool:
        """Whether it is proven that the process of a worker has ended."""
        return is_gone(worker_id) is True

    def clean_up(self, worker_id: str) -> None:  # noqa: B027 - only SQLite has one
        """Remove the proof of life that a dead worker has left."""

    def release(self, worker_id: str) -> None:  # noqa: B027 - only SQLite's
        """Stop proving that this worker lives."""

    def close(self) -> None:  # noqa: B027 - SQLite's and the servers'
        """Stop proving anything."""

    def after_fork(self) -> None:  # noqa: B027 - likewise
        """Stop proving in a forked child, without a change to the proofs of the parent."""


class _HeldLock(NamedTuple):
    """A lock of this process: a descriptor, and the identity of its file."""

    descriptor: int
    file: tuple[int, int]  #: its device and inode

    def is_ours(self) -> bool:
        """Whether the descriptor is still that of the file: a job may close all descriptors."""
        try:
            return _file_of(os.fstat(self.descriptor)) == self.file
        except OSError:
            return False

    def is_at(self, path: Path) -> bool:
        """Whether the lock is held, and its file is at *path*."""
        try:
            return self.is_ours() and _file_of(os.stat(path)) == self.file
        except OSError:
            return False

    def close(self) -> None:
        if self.is_ours():
            os.close(self.descriptor)


class FileLocks(Liveness):
    """Lock files ``<database>-asyncjob-<worker id>``; removed when the worker ends.

    The first line names the kernel and the file, so that a copy of the file, or a file that another
    machine has locked, proves nothing.
    """

    def __init__(self, dialect: Sqlite) -> None:
        self._database = dialect.path
        self._side_database = dialect.side_database
        self._held: dict[str, _HeldLock] = {}
        self._complained = False

    def hold(self, worker_id: str) -> bool:
        path, held = self._path(worker_id), self._held.get(worker_id)
        if held is not None and held.is_at(path):
            return True
        try:
            self._held[worker_id] = self._lock(path)
        except OSError as error:
            if not self._complained:
                log.warning(
                    "cannot lock %s; if this worker dies, processes in other containers will know "
                    "it only after asyncjob.lease: %s", path, error,
                )  # fmt: skip
            self._complained = True
            return False
        if held is not None:
            held.close()
        return True

    def _lock(self, path: Path) -> _HeldLock:
        """Make the file so that it is never at *path* without its lock and its first line."""
        fresh = Path(f"{path}.new")
        mode = (
            os.stat(self._database).st_mode & 0o666
        )  # readable for those who can read the database
        made = os.open(fresh, os.O_CREAT | os.O_RDWR | os.O_TRUNC, mode)
        try:
            # flock and not lockf: a lockf is lost when any descriptor of the file is closed.
            fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(made, _first_line(made))
            os.rename(fresh, path)
        except BaseException:
            os.close(made)
            raise
        return _HeldLock(made, _file_of(os.fstat(made)))

    def connection(self) -> Any:
        return self._side_database.connect()

    def is_dead(self, worker_id: str) -> bool:
        known = is_gone(worker_id)
        return self._is_unlocked(worker_id) if known is None else known

    def _is_unlocked(self, worker_id: str) -> bool:
        """Whether the file that the worker locked is there, and no longer locked."""
        try:
            found = os.open(self._path(worker_id), os.O_RDONLY)
        except OSError:  # removed, or of another user: the worker may live
            return False
        try:
            fcntl.flock(found, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return os.read(found, _FIRST_LINE_BYTES).startswith(_first_line(found))
        except OSError:  # it is locked, or cannot be read
            return False
        finally:
            os.close(found)

    def clean_up(self, worker_id: str) -> None:
        with suppress(OSError):
            self._path(worker_id).unlink(missing_ok=True)

    def release(self, worker_id: str) -> None:
        held = self._held.pop(worker_id, None)
        if held is not None:
            self.clean_up(worker_id)
            held.close()

    def close(self) -> None:
        for worker_id in list(self._held):
            self.release(worker_id)

    def after_fork(self) -> None:
        for held in self._held.values():
            held.close()  # the child's copy would keep the lock when the parent has died
        self._held.clear()

    def _path(self, worker_id: str) -> Path:
        return Path(f"{self._database}-asyncjob-{worker_id}")


def _file_of(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _first_line(descriptor: int) -> bytes:
    """The first line of a lock file of this kernel."""
    return f"{boot_id() or os.uname().nodename} {os.fstat(descriptor).st_ino}\n".encode()


class HeartbeatConnection(Liveness):
    """For servers: keeps one connection for heartbeats, which then never wait for a connection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._is_over = False
        self._inherited: list[Connection] = []

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        if self._is_over:  # a late heartbeat: nothing would close a kept connection
            with self._engine.connect() as passing:
                yield passing
            return
        with self._lock:
            if self._connection is None:
                made = self._engine.connect()
                made.detach()  # it must not return to the pool
                self._connection = made
            try:
                yield self._connection
            except DBAPIError:
                self._drop()
                raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it may be what failed
                connection.close()

    def close(self) -> None:
        with self._lock:
            self._is_over = True
            self._drop()

    def after_fork(self) -> None:
        # Kept, and never closed: that would end the parent's session on the server.
        if self._connection is not None:
            self._inherited.append(self._connection)
        self._connection = None
        self._lock = threading.RLock()


def liveness_of(dialect: Dialect) -> Liveness:
    """Return the kind of proof for a database."""
    return (
        FileLocks(dialect) if isinstance(dialect, Sqlite) else HeartbeatConnection(dialect.engine)
    )
