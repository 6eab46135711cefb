"""Cancel the statement that runs on another thread's connection, in the database server.

An exception in the thread that waits for a query does not end the query: the server continues it
and keeps its locks. A driver's connection cannot be used by two threads, so the cancellation is
sent on a new connection, made as the connection's pool makes them. A server that does not answer is
left alone. No database driver is imported here: one is loaded where there is a connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from ..bounded import within

#: Seconds that a server has for a cancellation. The thread that waits for the statement is
#: interrupted only after it.
CANCEL_SECONDS = 2.0


def stop_all(connections: Iterable[Any], *, for_good: bool = False) -> None:
    """Cancel the statements that run on SQLAlchemy connections.

    for_good: end the connections too, so that their transactions are rolled back and their locks
    are released.
    """
    for connection in connections:
        with suppress(Exception):  # the statement may have ended just now
            _stop(connection.engine, connection.connection.dbapi_connection, for_good)


def stop_for_good(engine: Any, driver: Any) -> None:
    """End what runs on a connection of the driver's, and that connection, in the server."""
    with suppress(Exception):
        _stop(engine, driver, True)


def _stop(engine: Any, driver: Any, for_good: bool) -> None:
    how = _STOPS.get(engine.dialect.name)
    if driver is not None and how is not None:
        how(engine.pool, driver, for_good)


def _on_sqlite(_pool: Any, driver: Any, for_good: bool) -> None:
    driver.interrupt()
    if for_good:
        driver.rollback()


def _on_postgresql(pool: Any, driver: Any, for_good: bool) -> None:
    with suppress(Exception):  # a cancellation passes a pooler, a termination does not
        if hasattr(driver, "cancel_safe"):
            driver.cancel_safe(timeout=CANCEL_SECONDS)
        else:
            driver.cancel()
    pid = int(driver.info.backend_pid) if for_good else 0  # 0 also if the connection is broken
    if pid:
        # A cancellation that arrives before its statement has begun is lost, a termination is not.
        # Behind a pooler the number may be that of another user's connection in the server.
        whose = "datname = current_database() AND usename = session_user"
        _ask(
            pool,
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {pid} AND {whose}",
        )


def _on_mariadb(pool: Any, driver: Any, for_good: bool) -> None:
    _ask(pool, f"KILL {'CONNECTION' if for_good else 'QUERY'} {int(driver.thread_id())}")


def _ask(pool: Any, statement: str) -> None:
    """Run a statement on a new connection; do not wait longer than CANCEL_SECONDS."""
    fresh, is_late = pool.recreate(), threading.Event()

    def ask() -> None:
        connection = fresh.connect()
        try:
            if is_late.is_set():
                return  # by now the pool may have given the connection to another thread
            cursor = connection.cursor()
            with suppress(Exception):  # it may have ended by itself in this moment
                cursor.execute(statement)
            cursor.close()
        finally:
            connection.close()
            fresh.dispose()

    within(CANCEL_SECONDS, ask, "end a statement in its server")
    is_late.set()


_STOPS: dict[str, Callable[[Any, Any, bool], None]] = {
    "sqlite": _on_sqlite,
    "postgresql": _on_postgresql,
    "mysql": _on_mariadb,
    "mariadb": _on_mariadb,
}
