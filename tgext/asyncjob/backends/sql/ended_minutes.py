"""Reads from the jobs what has ended in a span of time, by the indexes of the ended jobs."""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Integer,
    Select,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
    union_all,
)

from ..statistics import BOUNDS, Counts, Name
from . import states
from .dialect import Dialect
from .tables import Tables

#: Rows of a state that one statement reads: some tens of milliseconds.
ROWS_AT_ONCE = 20_000


class EndedMinutes:
    """Instants are seconds since the epoch."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._dialect = dialect

    def first(self, begin: float, end: float) -> float | None:
        """Return when the first job of a span ended; None: none did."""
        with self._dialect.engine.connect() as connection:
            return self._least(connection, begin, end, 0)

    def count(
        self, begin: float, end: float, into: dict[Name, Counts], rows: int | None = None
    ) -> float:
        """Add what has ended in a span, or in its beginning if that is much; return up to when.

        rows: of one state that are read, by default ROWS_AT_ONCE.
        """
        with self._dialect.engine.connect() as connection:
            edge = self._least(connection, begin, end, rows or ROWS_AT_ONCE)
            if edge is None:
                edge = end
            elif edge <= begin:  # so many at one instant
                edge = math.nextafter(begin, math.inf)
            for row in connection.execute(self._counted(begin, edge)):
                _add(row, into)
        return edge

    def _within(self, state: int, begin: float, end: float) -> tuple[ColumnElement[bool], ...]:
        at = self._jobs.c.finished_at
        return self._tables.stands(state), at >= begin, at < end

    def _least(self, connection: Connection, begin: float, end: float, offset: int) -> float | None:
        """Read when the first job of a span ended, of each state *offset* jobs later."""
        at = self._jobs.c.finished_at
        of_each = [
            select(at).where(*self._within(state, begin, end)).order_by(at).offset(offset).limit(1)
            for state in states.ENDED
        ]
        row = connection.execute(select(*(each.scalar_subquery() for each in of_each))).one()
        return min((each for each in row if each is not None), default=None)

    def _counted(self, begin: float, end: float) -> Any:
        return union_all(*(self._of_state(state, begin, end) for state in states.ENDED))

    def _of_state(self, state: int, begin: float, end: float) -> Select[Any]:
        """Count the jobs that have ended in a state, by their name and class of duration."""
        jobs = self._jobs
        ran: Any = _not_negative(jobs.c.finished_at - jobs.c.last_attempted_at)
        which: Any
        if state == states.CANCELLED:  # it may not have run, and says nothing of its task
            ran, which = cast(null(), Double()), cast(null(), Integer())
        else:
            classes = ((ran < bound, number) for number, bound in enumerate(BOUNDS))
            which = case((ran.is_(None), None), *classes, else_=len(BOUNDS))
        waited = _not_negative(jobs.c.started_at - jobs.c.enqueued_at)
        name = func.coalesce(jobs.c.task_name, "").label("task_name")
        took = which.label("took")
        ended = select(
            name, jobs.c.queue_name, took, ran.label("ran"), waited.label("waited"),
            case((jobs.c.attempts > 1, 1), else_=0).label("retried"),
        ).where(*self._within(state, begin, end)).subquery()  # fmt: skip
        key = ended.c.task_name, ended.c.queue_name, ended.c.took
        sums = (
            func.count().label("ended"),
            func.sum(ended.c.retried).label("retried"),
            func.count(ended.c.waited).label("started"),
            func.sum(ended.c.waited).label("waited"),
            func.sum(ended.c.ran).label("ran"),
        )
        return select(literal_column(str(state)).label("state"), *key, *sums).group_by(*key)


def _not_negative(seconds: Any) -> Any:
    """A duration: the clock may have been set back meanwhile."""
    return case((seconds < 0, 0.0), else_=seconds)


def _add(row: Any, into: dict[Name, Counts]) -> None:
    # MariaDB takes names that differ by spaces at their end for one.
    name = Name(row.task_name.rstrip(" "), row.queue_name.rstrip(" "))
    counts = into.setdefault(name, Counts())
    ended = int(row.ended)
    if row.state == states.SUCCEEDED:
        counts.done += ended
    elif row.state == states.FAILED:
        counts.failed += ended
    else:
        counts.cancelled += ended
    counts.retried += int(row.retried)
    counts.started += int(row.started)
    counts.waited_seconds += float(row.waited or 0.0)
    counts.ran_seconds += float(row.ran or 0.0)
    if row.took is not None:
        counts.took[int(row.took)] += ended
