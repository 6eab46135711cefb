"""Classifies the errors of a database, for the store and for attempts.

    passing    of a statement of ours: the database was lost or busy; the statement is tried again
    conflict   the database has rolled back a transaction because of others; it may be tried again
    loss       the database was lost during an attempt, has no space, or accepts no writes

Any other error of a job's statement is the job's own. Only errors of the jobs' database are a
conflict or a loss; those of another database are like any exception.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, OperationalError

from ...transactions.connections import Origin, cause_of, origin_of

Form = TypeVar("Form")
Stored = TypeVar("Stored")


def store_first_accepted(
    forms: Iterable[Form],
    store: Callable[[Form], Stored],
    is_passing: Callable[[BaseException], bool],
) -> tuple[Stored, Exception | None]:
    """Store the first of *forms* that the database accepts.

    Returns what *store* returned, and the error of the first form that was refused; None if none
    was. The last form should have no content that a database could refuse. If it is refused too,
    the error of the first form is raised. An error that may pass is raised at once.
    """
    refused: Exception | None = None
    for form in forms:
        try:
            return store(form), refused
        except Exception as error:
            if is_passing(error):
                raise
            refused = refused or error
    assert refused is not None
    raise refused


class Faults(ABC):
    """Classifies the errors of one kind of database. urls: returns those of the jobs' database."""

    def __init__(self, urls: Callable[[], Collection[URL]]) -> None:
        self._urls = urls

    def is_passing(self, error: BaseException) -> bool:
        """Whether another try may succeed: after a deadlock, a timeout of a lock, a lost
        connection, a full disk, or while the database accepts no writes."""
        return isinstance(error, DBAPIError) and (
            error.connection_invalidated or self._passes(error)
        )

    def is_conflict(self, error: BaseException) -> bool:
        """See ``Backend.is_conflict``."""
        if not isinstance(error, DBAPIError) or error.connection_invalidated:
            return False
        return self._origin(error) is not None and self._conflicts(error)

    def is_loss(self, error: BaseException) -> bool:
        """See ``Backend.is_loss``."""
        error = cause_of(error)
        if not isinstance(error, DBAPIError) or (origin := self._origin(error)) is None:
            return False
        if self._is_own(error):
            return False
        return error.connection_invalidated or origin.was_connecting or self._is_refusing(error)

    def _origin(self, error: DBAPIError) -> Origin | None:
        origin = origin_of(error)
        return origin if origin is not None and origin.engine.url in self._urls() else None

    def _is_own(self, error: DBAPIError) -> bool:
        """Whether the job itself has caused the loss of the connection, and would do so again."""
        return False

    @abstractmethod
    def _passes(self, error: DBAPIError) -> bool: ...
    @abstractmethod
    def _conflicts(self, error: DBAPIError) -> bool: ...
    @abstractmethod
    def _is_refusing(self, error: DBAPIError) -> bool:
        """Whether there was no space on the disk, in memory or for another connection, or the
        database accepts no writes, for example since a failover has led to a standby."""


#: PostgreSQL's state for a write in a transaction that may only read.
READ_ONLY = "25006"

#: Its states for a connection that it closes since a transaction was idle, or open, for too long.
TOO_LONG = ("25P03", "25P04")


class PostgreSqlFaults(Faults):
    def _passes(self, error: DBAPIError) -> bool:
        state = _state_of(error)
        if not state and isinstance(error, OperationalError):
            return True  # the driver raised it: there was no server, or it was not ready
        # Connection exceptions, rollbacks (deadlock, serialization), insufficient resources, a
        # lock that is not available, a shutdown by the operator.
        return state[:2] in ("08", "40", "53", "57") or state in ("55P03", READ_ONLY)

    def _is_own(self, error: DBAPIError) -> bool:
        return _state_of(error) in TOO_LONG

    def _conflicts(self, error: DBAPIError) -> bool:
        return _state_of(error) in ("40001", "40P01")

    def _is_refusing(self, error: DBAPIError) -> bool:
        state = _state_of(error)
        return state.startswith("53") or state == READ_ONLY


class MariaDbFaults(Faults):
    #: A deadlock; a row that has changed since the snapshot (where ``innodb_snapshot_isolation``
    #: is on, as it is by default from 11.6.2).
    CONFLICTS = (1213, 1020)

    #: Too many connections (in all, or of one user), a full table or disk, read-only tables.
    REFUSING = (1040, 1203, 1226, 1114, 1021, 1836)

    #: An option forbids the statement; the message names the option.
    FORBIDDEN = 1290

    #: Also a timeout of a lock, a shutdown, a killed query, a server that cannot be reached.
    PASSING = (*CONFLICTS, 1205, 1053, 1317, 1927, 2003, 2006, 2013, 4031)

    def _passes(self, error: DBAPIError) -> bool:
        return _code_of(error) in self.PASSING or self._is_refusing(error)

    def _conflicts(self, error: DBAPIError) -> bool:
        return _code_of(error) in self.CONFLICTS

    def _is_refusing(self, error: DBAPIError) -> bool:
        code = _code_of(error)
        is_read_only = code == self.FORBIDDEN and "read-only" in str(error.orig)
        return code in self.REFUSING or is_read_only


class SqliteFaults(Faults):
    def _passes(self, error: DBAPIError) -> bool:
        return "is locked" in str(error.orig) or self._is_refusing(error)

    def _conflicts(self, error: DBAPIError) -> bool:
        # Inside a transaction that has read, SQLite refuses the lock at once if others have
        # committed since or hold it. Otherwise it has waited for the busy timeout.
        origin = origin_of(error)
        return origin is not None and origin.was_open and "is locked" in str(error.orig)

    def _is_refusing(self, error: DBAPIError) -> bool:
        text = str(error.orig)
        return "is full" in text or "disk I/O" in text or "readonly" in text


def _state_of(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or ""


def _code_of(error: DBAPIError) -> Any:
    return error.orig.args[0] if error.orig is not None and error.orig.args else 0
