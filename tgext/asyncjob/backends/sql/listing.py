"""Lists jobs, each page by indexes in their order, so that no list sorts what it does not show.

not ended    the states' own indexes, which hold what waits and runs, and no more
ended        by the time of the end: of a state, of a task, or of a user
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, literal, or_, select

from ...job import CANCELLED, FAILED, READY, RUNNING, SUCCESSFUL
from ..listing import Cursor, Found, JobFilter
from . import states
from .dialect import Dialect
from .tables import Tables, listed


class Listing:
    """The jobs of one database."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._dialect = dialect

    def page(self, wanted: JobFilter, after: Cursor | None, limit: int) -> Found:
        """See ``Backend.find``."""
        rows: list[Any] = []
        with self._dialect.engine.connect() as connection:
            for statements, place in self._parts(wanted, after, limit + 1):
                # Merged here: of a UNION not every database reads each part in its order.
                parts = [connection.execute(each).all() for each in statements]
                rows += heapq.merge(*parts, key=place)
                if len(rows) > limit:
                    break
        found = rows[:limit]
        is_last = len(rows) <= limit
        last = None if is_last else str(Cursor(found[-1].number, found[-1].finished_at))
        return Found([row.uid for row in found], last)

    def _parts(
        self, wanted: JobFilter, after: Cursor | None, limit: int
    ) -> Iterator[tuple[list[Any], Callable[[Any], Any]]]:
        """Return the statements for the jobs that have not ended, and for those that have, each
        with what sorts its rows."""
        if wanted.has(READY, RUNNING) and (after is None or after.finished_at is None):
            yield self._open(wanted, after, limit), lambda row: -row.number
            after = None
        if wanted.has(SUCCESSFUL, FAILED, CANCELLED):
            ended = self._ended(wanted, after, limit)
            yield ended, lambda row: (-row.finished_at, -row.number)

    def _open(self, wanted: JobFilter, after: Cursor | None, limit: int) -> list[Any]:
        """Select jobs that have not ended, the last enqueued first, by each index."""
        jobs = self._jobs
        conditions = [*self._conditions(wanted), *_between(jobs.c.enqueued_at, wanted)]
        if after is not None:
            conditions.append(jobs.c.number < after.number)
        among = [state for state in states.STATUS_OF if state not in states.ENDED]
        among = [state for state in among if wanted.has(states.STATUS_OF[state])]
        if wanted.user is None:
            of_each = [[self._tables.stands(state)] for state in among]
        else:
            its = (jobs.c.enqueued_by == listed(wanted.user), jobs.c.finished_at.is_(None))
            of_each = [[*its, self._tables.still(*among)]]
        # Not by the primary key, which would read the rows of all that has ended since.
        order = [(jobs.c.number + 0).desc()]
        return [self._first(each, conditions, order, limit) for each in of_each]

    def _ended(self, wanted: JobFilter, after: Cursor | None, limit: int) -> list[Any]:
        """Select jobs that have ended, the last ended first, by each index."""
        jobs = self._jobs
        conditions = [*self._conditions(wanted), *_between(jobs.c.finished_at, wanted)]
        if after is not None:
            ended = literal(after.finished_at)
            is_before = or_(jobs.c.finished_at < ended, jobs.c.number < after.number)
            conditions += [jobs.c.finished_at <= ended, is_before]
        among = [state for state in states.ENDED if wanted.has(states.STATUS_OF[state])]
        if wanted.user is not None:
            its = (jobs.c.enqueued_by == listed(wanted.user), jobs.c.finished_at.is_not(None))
            of_each = [[*its, self._tables.still(*among)]]
        elif wanted.names is not None:
            of_each = [
                [jobs.c.task_name == listed(name), self._tables.ended, self._tables.still(*among)]
                for name in wanted.names
            ]
        else:
            of_each = [[self._tables.stands(state)] for state in among]
        order = [jobs.c.finished_at.desc(), jobs.c.number.desc()]
        return [self._first(each, conditions, order, limit) for each in of_each]

    def _first(
        self,
        found_by: Sequence[ColumnElement[bool]],
        conditions: Sequence[ColumnElement[bool]],
        order: Sequence[ColumnElement[Any]],
        limit: int,
    ) -> Any:
        jobs = self._jobs
        wanted = select(jobs.c.uid, jobs.c.number, jobs.c.finished_at)
        return wanted.where(*found_by, *conditions).order_by(*order).limit(limit)

    def _conditions(self, wanted: JobFilter) -> list[ColumnElement[bool]]:
        jobs, errors = self._jobs, self._tables.errors
        found: list[ColumnElement[bool]] = []
        if wanted.names is not None:
            found.append(jobs.c.name.in_(wanted.names))
        if wanted.queue_names is not None:
            found.append(jobs.c.queue_name.in_(wanted.queue_names))
        if wanted.error is not None:
            path = errors.c.exception_class_path
            is_it = or_(path == wanted.error, path.endswith(f".{wanted.error}", autoescape=True))
            # Not EXISTS, of which PostgreSQL may make a join that reads all errors for each job.
            its = select(errors.c.number).where(errors.c.uid == jobs.c.uid, is_it).limit(1)
            # One that was never claimed, as most that wait, has none.
            found += [jobs.c.lease > 0, its.scalar_subquery().is_not(None)]
        return found


def _between(column: ColumnElement[Any], wanted: JobFilter) -> list[ColumnElement[bool]]:
    found = []
    if wanted.since is not None:
        found.append(column >= wanted.since.timestamp())
    if wanted.until is not None:
        found.append(column <= wanted.until.timestamp())
    return [and_(*found)] if found else []
