"""Removes jobs that ended long ago, a batch at a time, so that others can work in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence

from sqlalchemy import ColumnElement, delete, select

from ..audit import Act
from .auditing import SqlAudit
from .dialect import Dialect
from .progress import ProgressWriter
from .slots import Slots
from .states import ENDED
from .tables import Tables
from .uniqueness import Uniqueness

#: Ended jobs that one transaction removes: it holds locks for a few milliseconds.
PRUNED_AT_ONCE = 500


class Pruning:
    """now: returns the current time, as SQL."""

    def __init__(  # noqa: PLR0913 - each is a part
        self,
        tables: Tables,
        dialect: Dialect,
        progress: ProgressWriter,
        audit: SqlAudit,
        uniqueness: Uniqueness,
        slots: Slots,
        now: Callable[[], ColumnElement[float]],
    ) -> None:
        self._slots = slots
        self._tables = tables
        self._dialect = dialect
        self._progress = progress
        self._audit = audit
        self._uniqueness = uniqueness
        self._now = now

    def remove(
        self,
        states: Collection[int],
        older_than_seconds: float,
        *,
        within_seconds: float = math.inf,
    ) -> int:
        """Remove the jobs that ended in one of *states* at least so long ago, with their errors and
        progress, and return how many. After *within_seconds* the rest is left."""
        until = time.monotonic() + within_seconds
        removed, goes_on = 0, True
        while goes_on:
            found, some = self._remove_some(states, older_than_seconds)
            removed += some
            goes_on = found == PRUNED_AT_ONCE and some > 0 and time.monotonic() < until
        return removed

    def remove_these(self, uids: Sequence[str], act: Act | None = None) -> int:
        """Remove those of some jobs that have ended, and return how many. act: of a record that is
        there already."""
        has_ended = self._tables.still(*ENDED)
        return sum(
            self._remove(uids[begin : begin + PRUNED_AT_ONCE], has_ended, act=act)
            for begin in range(0, len(uids), PRUNED_AT_ONCE)
        )

    def _is_old(self, older_than_seconds: float) -> ColumnElement[bool]:
        return self._tables.jobs.c.finished_at <= self._now() - older_than_seconds

    def _remove_some(self, states: Collection[int], older_than_seconds: float) -> tuple[int, int]:
        """Remove one batch; return how many jobs were found, and how many of them removed."""
        jobs = self._tables.jobs
        is_old = self._is_old(older_than_seconds)
        found: list[str] = []
        with self._dialect.engine.connect() as connection:
            for state in states:  # one at a time: each is a range of the index
                wanted = select(jobs.c.uid).where(self._tables.stands(state), is_old)
                some = wanted.limit(PRUNED_AT_ONCE - len(found))
                found += connection.execute(some).scalars()
                if len(found) == PRUNED_AT_ONCE:
                    break
        if not found:
            return 0, 0
        # Checked again: a job may have been retried meanwhile.
        return len(found), self._remove(found, self._tables.still(*states), is_old)

    def _remove(
        self, uids: Sequence[str], *conditions: ColumnElement[bool], act: Act | None = None
    ) -> int:
        """Remove those of one batch that fulfil the conditions; one that another transaction
        changes is left to the next round."""
        jobs, errors = self._tables.jobs, self._tables.errors
        since = (self._now() - jobs.c.last_attempted_at).label("since_attempt")
        still = select(jobs.c.uid, jobs.c.policy, since).where(jobs.c.uid.in_(uids), *conditions)
        still = still.with_for_update(skip_locked=True)
        with self._dialect.begin() as connection:
            rows = connection.execute(still).all()
            found = [row.uid for row in rows]
            if any(row.policy is not None for row in rows):
                self._slots.settle_starts(rows, connection)
                self._uniqueness.forget(found, connection)
            connection.execute(delete(errors).where(errors.c.uid.in_(found)))
            connection.execute(delete(jobs).where(jobs.c.uid.in_(found)))
            self._audit.note(connection, act, "purge", "", len(found))
        self._progress.forget(found)
        return len(found)
