"""Cancels and retries jobs, which any process may do, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import ColumnElement, Connection, case, not_, or_, true, update

from . import states
from .availability import made_available
from .rows import Rows
from .tables import Tables


class Steering:
    """now: returns the current time, as SQL."""

    def __init__(self, tables: Tables, rows: Rows, now: Callable[[], ColumnElement[float]]) -> None:
        self._tables = tables
        self._rows = rows
        self._now = now

    def cancel(self, uid: str, connection: Connection) -> bool | None:
        """See ``Backend.cancel``."""
        jobs = self._tables.jobs
        waits = jobs.c.state.in_(states.WAITING)
        may_end = or_(waits, jobs.c.state == states.RUNNING)
        cancelled = (
            update(jobs)
            .where(self._tables.is_job(uid), not_(jobs.c.fenced), may_end)
            .ordered_values(
                (jobs.c.cancelled, true()),
                (jobs.c.finished_at, case((waits, self._now()), else_=None)),
                # Last: on MariaDB an assignment sees the values assigned by those before it.
                (jobs.c.state, case((waits, states.CANCELLED), else_=jobs.c.state)),
            )
        )
        if connection.execute(cancelled).rowcount:
            return True
        return None if connection.execute(self._tables.job(uid)).first() is None else False

    def retry(self, uid: str, connection: Connection) -> bool | None:
        """See ``Backend.retry``."""
        jobs = self._tables.jobs
        row = connection.execute(self._tables.job(uid)).one_or_none()
        if row is None:
            return None
        retried = (
            update(jobs)
            .where(self._tables.is_job(uid), jobs.c.state.in_(states.ENDED))
            .ordered_values(
                (jobs.c.budget, jobs.c.attempts + self._rows.options(row).max_attempts),
                (jobs.c.crashes, 0),
                (jobs.c.cancelled, False),
                *made_available(jobs),
            )
        )
        return bool(connection.execute(retried).rowcount)
