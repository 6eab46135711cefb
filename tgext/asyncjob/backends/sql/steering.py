"""Cancels and retries jobs, which any process may do, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from math import inf
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, not_, select, true, update

from ...job import storable
from ...policies import Keys
from ..audit import Act
from ..listing import end_of
from . import states
from .auditing import SqlAudit
from .availability import made_available
from .rows import Rows
from .tables import Tables
from .uniqueness import Uniqueness


class Steering:
    """audit: where it is written. now: returns the current time, as SQL."""

    def __init__(
        self,
        tables: Tables,
        rows: Rows,
        audit: SqlAudit,
        now: Callable[[], ColumnElement[float]],
        uniqueness: Uniqueness,
    ) -> None:
        self._uniqueness = uniqueness
        self._tables = tables
        self._rows = rows
        self._audit = audit
        self._now = now

    def cancel(self, uid: str, connection: Connection, act: Act | None) -> bool | None:
        """See ``Backend.cancel``."""
        cancelled = connection.execute(self._cancelled(self._tables.is_job(uid))).rowcount
        if not cancelled and connection.execute(self._tables.job(uid)).first() is None:
            return None
        self._audit.note(connection, act, "cancel", uid, cancelled)
        return bool(cancelled)

    def _cancelled(self, *which: ColumnElement[bool]) -> Any:
        jobs = self._tables.jobs
        waits = jobs.c.state.in_(states.WAITING)
        return (
            update(jobs)
            .where(*which, not_(jobs.c.fenced), self._tables.still(*states.WAITING, states.RUNNING))
            .ordered_values(
                (jobs.c.cancelled, true()),
                (jobs.c.blocked_by, None),
                (jobs.c.finished_at, case((waits, self._now()), else_=None)),
                # Last: on MariaDB an assignment sees the values assigned by those before it.
                (jobs.c.state, case((waits, states.CANCELLED), else_=jobs.c.state)),
            )
        )

    def retry(self, uid: str, connection: Connection, act: Act | None) -> bool | None:
        """See ``Backend.retry``."""
        row = connection.execute(self._tables.job(uid)).one_or_none()
        if row is None:
            return None
        retried = 0 if self._is_taken(row, connection) else self._retry_one(row, connection)
        self._audit.note(connection, act, "retry", uid, retried)
        return bool(retried)

    def _is_taken(self, row: Any, connection: Connection) -> bool:
        """Whether another job holds the unique key of this one."""
        keys = Keys.of(row.policy)
        if keys is None or keys.unique is None:
            return False
        return self._uniqueness.is_taken(keys.unique, row.uid, connection)

    def _retry_one(self, row: Any, connection: Connection) -> int:
        most, keys = self._rows.options(row).max_attempts, Keys.of(row.policy)
        retried = self._retried(most, self._tables.jobs.c.number == row.number)
        changed = connection.execute(retried).rowcount
        if changed and keys is not None and keys.unique is not None:
            self._uniqueness.ask_again([row.uid], keys.unique.key, connection)
        return int(changed)

    def _retried(self, max_attempts: int, *which: ColumnElement[bool]) -> Any:
        jobs = self._tables.jobs
        return (
            update(jobs)
            .where(*which, self._tables.still(*states.ENDED))
            .ordered_values(
                (jobs.c.budget, jobs.c.attempts + max_attempts),
                (jobs.c.crashes, 0),
                (jobs.c.cancelled, False),
                *made_available(jobs),
            )
        )

    def cancel_many(self, uids: Sequence[str], connection: Connection) -> tuple[list[Any], int]:
        """Cancel those of some jobs that have not ended, nor were cancelled before; return the rows
        of all, and how many that were."""
        jobs = self._tables.jobs
        rows = self._rows_of(uids, connection)
        numbers = [row.number for row in rows]
        its = jobs.c.number.in_(numbers), not_(jobs.c.cancelled)
        return rows, int(connection.execute(self._cancelled(*its)).rowcount)

    def retry_many(
        self, uids: Sequence[str], until: datetime | None, connection: Connection
    ) -> list[Any]:
        """Enqueue those of some jobs again that have ended, by *until*; return their rows."""
        jobs, latest = self._tables.jobs, inf if until is None else end_of(until)
        found = [
            row
            for row in self._rows_of(uids, connection)
            if row.finished_at is not None and row.finished_at <= latest
        ]
        # One by one: of two with the same key the first takes it.
        unique = [row for row in found if _is_unique(row)]
        retried = [
            row
            for row in unique
            if not self._is_taken(row, connection) and self._retry_one(row, connection)
        ]
        numbers: dict[int, list[int]] = {}
        plain = [row for row in found if not _is_unique(row)]
        for row in plain:
            numbers.setdefault(self._rows.options(row).max_attempts, []).append(row.number)
        for most, some in numbers.items():
            connection.execute(self._retried(most, jobs.c.number.in_(some)))
        return plain + retried

    def _rows_of(self, uids: Sequence[str], connection: Connection) -> list[Any]:
        """Read some jobs and lock their rows, in one order, so that no two who do so wait for each
        other."""
        jobs = self._tables.jobs
        columns = (jobs.c.number, jobs.c.uid, jobs.c.finished_at, jobs.c.queue_name, jobs.c.rank,
                   jobs.c.options, jobs.c.policy)  # fmt: skip
        # Not by the primary key, of which the whole index may be read for that order.
        known = [uid for uid in uids if storable(uid) == uid]  # a database refuses others
        wanted = select(*columns).where(jobs.c.uid.in_(known)).order_by(jobs.c.number + 0)
        return list(connection.execute(wanted.with_for_update()))


def _is_unique(row: Any) -> bool:
    keys = Keys.of(row.policy)
    return keys is not None and keys.unique is not None
