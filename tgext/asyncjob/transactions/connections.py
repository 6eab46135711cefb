"""Passes events of the database connections that a job uses to its attempt.

    a session begins a transaction   the attempt gets its connection
    a writing statement on SQLite    a BEGIN comes first, so that no end of a savepoint commits
    COMMIT, and implicit commits     the attempt is called before, and can prevent it by raising
    an error                         is marked with its database, and passed to the attempt
    the close of a connection        ends the statement that was interrupted on it in the server

These are events of SQLAlchemy's engines, so they cover every way to commit: the transaction
package, ``Connection.commit()``, COMMIT as text, an open savepoint. What a job does on the driver's
own connection is not covered.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple
from weakref import WeakSet, ref

from sqlalchemy import Connection, Engine, TwoPhaseTransaction, event
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session
from zope.sqlalchemy import ZopeTransactionEvents

from ..current import attempt_var
from .server_cancel import stop_for_good

log = logging.getLogger(__name__)

_BLANK = r"(?:\s|/\*(?!M?!).*?\*/|--[^\n]*\n|\#[^\n]*\n)*"


def _begins_with(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"{_BLANK}(?:{pattern})\b", re.IGNORECASE | re.DOTALL)


_ENDS_BY_NAME = r"COMMIT|END"

#: Statements that commit the changes before them. MariaDB commits before any change of tables that
#: others can see, and of rights, but not before one of a temporary table.
_COMMITTING = {
    "sqlite": _begins_with(_ENDS_BY_NAME),
    "postgresql": _begins_with(rf"{_ENDS_BY_NAME}|PREPARE\s+TRANSACTION"),
    "mysql": _begins_with(
        r"COMMIT|BEGIN(?!\s+NOT\s+ATOMIC)|START\s+TRANSACTION|SET\s+(?:SESSION\s+|@@)?AUTOCOMMIT|"
        r"(?:CREATE|DROP)(?!\s+(?:OR\s+REPLACE\s+)?TEMPORARY)|ALTER|RENAME|TRUNCATE|GRANT|REVOKE|"
        r"SET\s+PASSWORD|LOCK\s+TABLES?|ANALYZE|OPTIMIZE|REPAIR|CHECK\s+TABLE|CACHE\s+INDEX|"
        r"LOAD\s+INDEX|FLUSH|RESET|INSTALL|UNINSTALL|START\s+SLAVE|STOP\s+SLAVE|CHANGE\s+MASTER"
    ),
}  # fmt: skip
_COMMITTING["mariadb"] = _COMMITTING["mysql"]

#: Statements that roll back the changes before them.
_UNDOING = _begins_with("ROLLBACK|ABORT")

#: The statements of MariaDB's two-phase transactions.
_PHASE = _begins_with("XA")

#: Statements that SQLite may execute outside a transaction: they only read, or cannot run inside.
_NEEDS_NO_BEGIN = _begins_with(
    r"SELECT|VALUES|PRAGMA|EXPLAIN|ATTACH|DETACH|VACUUM|BEGIN|COMMIT|END|ROLLBACK|RELEASE|"
    r"WITH(?!.*\b(?:INSERT|UPDATE|DELETE|REPLACE)\b)"
)

#: The attribute of an execution with whether a transaction was open before it.
_WAS_OPEN = "asyncjob_was_open"

#: The value of that attribute if the execution is not part of a job.
_UNKNOWN = object()

#: The key in the info of a connection on which a statement of a job has begun and not returned.
_IN_STATEMENT = "asyncjob_in_statement"

#: The attribute of an error with its origin.
_ORIGIN = "asyncjob_origin"

#: A status bit of MariaDB's protocol, and a transaction status of PostgreSQL's library.
SERVER_STATUS_IN_TRANS, IDLE = 1, 0

#: How to read whether a transaction is open on a driver's connection, by its class.
_readers: dict[type, Callable[[Any], bool | None]] = {}

_engines: WeakSet[Engine] = WeakSet()

#: Pools that a parent process filled.
_inherited: list[Any] = []


class Origin(NamedTuple):
    """The origin of a database error."""

    engine: Engine
    was_connecting: bool  #: there was no connection yet
    was_open: bool  #: the connection was inside a transaction before the statement


def origin_of(error: BaseException) -> Origin | None:
    """Return the origin of *error*; None if no database that jobs use has raised it."""
    found: Origin | None = getattr(error, _ORIGIN, None)
    return found


def cause_of(error: BaseException) -> BaseException:
    """Return the cause of *error*: if a session is used after an error of its database, SQLAlchemy
    raises an error that only says that the session has to be rolled back."""
    attempt = attempt_var.get()
    if attempt is None or not isinstance(error, PendingRollbackError):
        return error
    return attempt.database_error or error


def track_connections() -> None:
    """Pass the connections of sessions to the attempts that use them; set up once for all."""
    if not event.contains(Session, "after_begin", _begins):
        event.listen(Session, "after_begin", _begins)


def listen(engine: Engine) -> None:
    """Listen to the events of the connections of *engine*; once for each engine."""
    # An engine of execution_options() has the events of its origin too: they would come twice.
    while (origin := getattr(engine, "_proxied", None)) is not None:
        engine = origin
    if engine in _engines:
        return
    _engines.add(engine)
    event.listen(engine, "commit", _commits)
    event.listen(engine, "prepare_twophase", _commits)
    event.listen(engine, "before_cursor_execute", _executes)
    event.listen(engine, "after_cursor_execute", _has_executed)
    event.listen(engine, "close", partial(_closes, ref(engine)))
    note_errors(engine)


def note_errors(engine: Engine) -> None:
    """Mark the errors of *engine* with their origin."""
    event.listen(engine, "handle_error", _fails)


def forget_connections(engine: Engine) -> None:
    """Begin with new connections of *engine* in a forked child. Those of the parent are kept and
    never closed, which would end the parent's sessions on the server."""
    _inherited.append(engine.pool)
    engine.dispose(close=False)


def read_at_once(connection: Connection) -> None:
    """Turn off server-side cursors of *connection* before a write: on PostgreSQL a statement that
    writes has none."""
    if connection.get_execution_options().get("stream_results"):
        connection.execution_options(stream_results=False)


# -- events


def _begins(session: Any, _transaction: Any, connection: Connection) -> None:
    attempt = attempt_var.get()
    if attempt is None or not _is_of_zope(session):
        return
    listen(connection.engine)
    if _commits_each_statement(connection):
        raise RuntimeError(
            "expected a session whose work is committed as a whole, got a connection with "
            "isolation_level AUTOCOMMIT, on which the work of a job would remain when it fails or "
            "is cancelled; give the engine of the session another isolation level, and use a "
            "connection of another engine for what needs AUTOCOMMIT"
        )
    attempt.track_connection(connection, session)


def _is_of_zope(session: Any) -> bool:
    listeners = session.dispatch.after_begin
    return any(
        isinstance(getattr(each, "__self__", None), ZopeTransactionEvents) for each in listeners
    )


def _commits_each_statement(connection: Connection) -> bool:
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        is_manual = driver.isolation_level is None and not driver.in_transaction
        return is_manual or getattr(driver, "autocommit", None) is True
    asked = getattr(driver, "get_autocommit", None)
    return bool(asked() if asked is not None else getattr(driver, "autocommit", False))


def _commits(connection: Connection, *_xid: Any) -> None:
    attempt = attempt_var.get()
    if attempt is None or connection not in attempt.connections:
        return
    try:
        read_at_once(connection)
        attempt.before_commit(connection)
    except BaseException:
        # SQLAlchemy treats the transaction as ended now, and would not roll it back.
        with suppress(Exception):
            connection.dialect.do_rollback(connection.connection)
        raise


def _executes(
    connection: Connection, cursor: Any, statement: str, _values: Any, context: Any, _many: bool
) -> None:
    attempt = attempt_var.get()
    if attempt is None or connection not in attempt.connections:
        return
    driver: Any = connection.connection.dbapi_connection
    is_open = _is_open(driver)
    if is_open is False and connection.dialect.name == "sqlite":
        # Python's driver sends BEGIN only before INSERT, UPDATE and DELETE. Without it the changes
        # of other statements commit by themselves: CREATE, WITH ... INSERT, the end of a savepoint.
        if not _NEEDS_NO_BEGIN.match(statement):
            cursor.execute(f"BEGIN {driver.isolation_level or ''}")
        return
    pattern = _COMMITTING.get(connection.dialect.name)
    if pattern is not None and pattern.match(statement):
        attempt.before_commit(connection, by_statement=True)
        is_open = False  # it may end the transaction
    if context is not None:
        setattr(context, _WAS_OPEN, is_open)
        connection.info[_IN_STATEMENT] = True


def _has_executed(
    connection: Connection, _cursor: Any, statement: str, _values: Any, context: Any, _many: bool
) -> None:
    was_open = getattr(context, _WAS_OPEN, _UNKNOWN)
    if was_open is _UNKNOWN:
        return
    connection.info.pop(_IN_STATEMENT, None)
    if not was_open:
        return
    if _is_open(connection.connection.dbapi_connection) is not False or _UNDOING.match(statement):
        return
    if isinstance(connection.get_transaction(), TwoPhaseTransaction) and _PHASE.match(statement):
        return  # executed by SQLAlchemy, after its event
    attempt = attempt_var.get()
    uid = "" if attempt is None else attempt.uid
    log.error("job=%s a statement has committed its work before its end: %s", uid, statement)
    raise RuntimeError(
        "expected a statement that leaves the commit to the end of the job, got one that has ended "
        f"the transaction of its session: {statement[:200]!r}; what the job did before is "
        "committed, whether or not it was still its own; call transaction.commit() instead"
    )


def _is_open(driver: Any) -> bool | None:
    """Whether a transaction is open on a driver's connection; None if the driver cannot tell."""
    kind = type(driver)
    read = _readers.get(kind)
    if read is None:
        read = _readers[kind] = _reader_for(driver)
    return read(driver)


def _reader_for(driver: Any) -> Callable[[Any], bool | None]:
    """Return a function for one class of driver connections; it is called twice for each
    statement, so it has to be quick."""
    if hasattr(driver, "in_transaction"):
        return attrgetter("in_transaction")
    if hasattr(driver, "server_status"):
        return lambda driver: bool(driver.server_status & SERVER_STATUS_IN_TRANS)
    if hasattr(driver, "pgconn"):
        return lambda driver: bool(driver.pgconn.transaction_status != IDLE)
    if hasattr(getattr(driver, "info", None), "transaction_status"):
        return lambda driver: bool(driver.info.transaction_status != IDLE)
    return lambda _driver: None


def _fails(context: Any) -> None:
    error = context.sqlalchemy_exception
    if isinstance(error, DBAPIError):
        was_open = getattr(context.execution_context, _WAS_OPEN, None)
        origin = Origin(context.engine, context.connection is None, bool(was_open))
        setattr(error, _ORIGIN, origin)
        if context.connection is not None and not context.connection.invalidated:
            context.connection.info.pop(_IN_STATEMENT, None)  # the server has ended it
        attempt = attempt_var.get()
        if attempt is not None:
            attempt.database_error = error


def _closes(engine_ref: ref[Engine], driver: Any, record: Any) -> None:
    """End the statement that an interrupted job has left: a server does not notice before its end
    that the client is gone, and keeps its locks."""
    engine = engine_ref()
    if engine is not None and record.info.pop(_IN_STATEMENT, False):
        stop_for_good(engine, driver)
