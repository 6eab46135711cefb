"""Who holds SQLite's one write lock for long: then whoever else writes waits, and gives up.

A worker asks every now and then, with the connections that its jobs use. Whether the lock is
held is tried out; a job is named if it was in a transaction at every look while it was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

log = logging.getLogger(__name__)

#: How long a job may hold the lock before it is named, in seconds: drivers give up after 5.
HELD_SECONDS = 2.0


class LockWatch:
    """Used by one thread."""

    def __init__(self, engine: Engine, path: str) -> None:
        self._engine = engine
        self._path = path
        self._since: dict[str, float] = {}  # by time.monotonic()
        self._told: set[str] = set()

    def look(self, running: Iterable[tuple[str, Any]]) -> None:
        """Name the jobs that seem to hold the lock, each once. running: uids, and connections."""
        found = {uid for uid, connection in running if _is_in_transaction(connection)}
        if not found or not self._is_locked():
            found = set()
        now = time.monotonic()
        self._since = {uid: self._since.get(uid, now) for uid in found}
        self._told &= found
        for uid, since in self._since.items():
            if now - since >= HELD_SECONDS and uid not in self._told:
                self._told.add(uid)
                log.warning(
                    "job=%s holds the write lock of %s for more than %.0fs: whoever else writes "
                    "waits for it, requests too, and fails in the end; let the job write last, "
                    "or commit in parts, or use PostgreSQL", uid, self._path, now - since,
                )  # fmt: skip

    def _is_locked(self) -> bool:
        with self._engine.connect() as connection:
            patience = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
            connection.exec_driver_sql("PRAGMA busy_timeout = 0")
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.exec_driver_sql("ROLLBACK")
            except OperationalError as error:
                return "locked" in str(error.orig)
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {patience}")
        return False


def _is_in_transaction(connection: Any) -> bool:
    try:
        return bool(connection.connection.dbapi_connection.in_transaction)
    except Exception:  # noqa: BLE001 - closed meanwhile, or another driver's
        return False
