"""Jobs that ended long ago go, a few at a time: what others do goes on between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, func, select

from .dialect import Dialect
from .reports import Reports
from .tables import Tables

#: Ended jobs that one transaction removes: a few milliseconds' worth of locks.
PRUNED_AT_ONCE = 500


class Pruning:
    """now: the moment, as an SQL expression."""

    def __init__(
        self,
        tables: Tables,
        dialect: Dialect,
        reports: Reports,
        now: Callable[[], ColumnElement[float]],
    ) -> None:
        self._tables = tables
        self._dialect = dialect
        self._reports = reports
        self._now = now

    def remove(
        self,
        states: Collection[int],
        older_than_seconds: float,
        *,
        within_seconds: float = math.inf,
    ) -> int:
        """Remove the jobs that ended in one of *states*, so long ago at least, with what belongs
        to them, and return how many; once it has taken *within_seconds*, the rest stays."""
        until = time.monotonic() + within_seconds
        removed = some = self._remove_some(states, older_than_seconds)
        while some == PRUNED_AT_ONCE and time.monotonic() < until:
            some = self._remove_some(states, older_than_seconds)
            removed += some
        return removed

    def count(self, states: Collection[int], older_than_seconds: float) -> int:
        """Count the jobs that ``remove`` would."""
        wanted = self._wanted(states, older_than_seconds).subquery()
        with self._dialect.engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(wanted)).scalar_one()

    def _wanted(self, states: Collection[int], older_than_seconds: float) -> Select[Any]:
        jobs = self._tables.jobs
        old = self._now() - older_than_seconds
        return select(jobs.c.uid).where(jobs.c.state.in_(states), jobs.c.finished_at <= old)

    def _remove_some(self, states: Collection[int], older_than_seconds: float) -> int:
        jobs, errors = self._tables.jobs, self._tables.errors
        wanted = self._wanted(states, older_than_seconds)
        with self._dialect.engine.connect() as connection:
            found = connection.execute(wanted.limit(PRUNED_AT_ONCE)).scalars().all()
        if not found:
            return 0
        # Once more, and locked: one that somebody has retried meanwhile is not ended any more.
        still = wanted.where(jobs.c.uid.in_(found)).with_for_update()
        with self._dialect.begin() as connection:
            uids = connection.execute(still).scalars().all()
            connection.execute(delete(errors).where(errors.c.uid.in_(uids)))
            connection.execute(delete(jobs).where(jobs.c.uid.in_(uids)))
        self._reports.forget(uids)
        return len(uids)
