"""Lists jobs, each page by indexes in their order, so that no list sorts what it does not show.

open      what runs, by the index of that state; what waits, of each priority by its number
delayed   by the time when it is due
ended     by the time of the end: of a state, of a task, or of a user
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, literal, or_, select

from ...job import CANCELLED, FAILED, READY, RUNNING, SUCCESSFUL
from ..listing import Cursor, Found, JobFilter
from . import states
from .dialect import Dialect
from .dialects import PostgreSql
from .tables import Tables, listed

_OPEN = (states.RUNNING, states.AVAILABLE, states.BLOCKED)


class Listing:
    """The jobs of one database."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._dialect = dialect

    def page(
        self, wanted: JobFilter, after: Cursor | None, limit: int, look_at: int | None = None
    ) -> Found:
        """See ``Backend.find``."""
        rows: list[Any] = []
        horizon = None
        with self._dialect.engine.connect() as connection:
            if look_at is not None and self._is_searched(wanted):
                horizon = self._horizon(wanted, after, look_at, connection)
            for statements in self._parts(wanted, after, limit + 1, connection, horizon):
                # Merged here: of a UNION not every database reads each part in its order.
                parts = [connection.execute(each).all() for each in statements]
                rows += heapq.merge(*parts, key=lambda row: _cursor(row).place)
                if len(rows) > limit:
                    break
        found = rows[:limit]
        last = str(_cursor(found[-1])) if len(rows) > limit else None
        if last is None and horizon is not None:
            last = str(Cursor(0, finished_at=horizon))  # all of that instant were looked at
        return Found([row.uid for row in found], last)

    def count(self, wanted: JobFilter, most: int) -> int:
        """See ``Backend.count``."""
        with self._dialect.engine.connect() as connection:
            parts = self._parts(wanted, None, most, connection)
            counts = [
                select(func.count()).select_from(each.order_by(None).subquery()).scalar_subquery()
                for some in parts
                for each in some
            ]
            found = connection.execute(select(*counts)).one() if counts else ()
        return min(most, sum(found))

    def _parts(
        self,
        wanted: JobFilter,
        after: Cursor | None,
        limit: int,
        connection: Connection,
        horizon: float | None = None,
    ) -> Iterator[list[Any]]:
        """Return the statements of each part of the list that *after* has not left behind."""
        part = 0 if after is None else after.place[0]
        if part == 0 and wanted.has(READY, RUNNING):
            yield self._open(wanted, after, limit, connection)
        if part <= 1 and wanted.has(READY):
            yield self._delayed(wanted, after if part == 1 else None, limit)
        if wanted.has(SUCCESSFUL, FAILED, CANCELLED):
            yield self._ended(wanted, after if part == 2 else None, limit, horizon)

    def _open(
        self, wanted: JobFilter, after: Cursor | None, limit: int, connection: Connection
    ) -> list[Any]:
        """Select jobs that run or wait for a worker, the last enqueued first, by each index."""
        jobs = self._jobs
        conditions = [*self._conditions(wanted), *_between(jobs.c.enqueued_at, wanted)]
        if after is not None:
            conditions.append(jobs.c.number < after.number)
        among = [state for state in _OPEN if wanted.has(states.STATUS_OF[state])]
        # Not by the primary key, which would read the rows of all that has ended since.
        few_first = [(jobs.c.number + 0).desc()]
        if wanted.user is not None:
            return [self._first(self._is_of_user(wanted, among), conditions, few_first, limit)]
        found = []
        if states.RUNNING in among:
            running = [self._tables.stands(states.RUNNING)]
            found.append(self._first(running, conditions, few_first, limit))
        in_index = [jobs.c.number.desc()]
        if isinstance(self._dialect, PostgreSql):  # see _is_rank
            in_index.insert(0, jobs.c.rank.desc())
        found += [
            self._first(those, conditions, in_index, limit)
            for state in among
            if state != states.RUNNING
            for those in self._in_order(state, wanted.queue_names, connection)
        ]
        return found

    def _in_order(
        self, state: int, queue_names: Sequence[str] | None, connection: Connection
    ) -> Iterator[list[ColumnElement[bool]]]:
        """Return the conditions of jobs that wait for a worker and stand in their index in the
        order of their numbers: those of one priority, and, if queues are named, of one of them."""
        rank = self._jobs.c.rank
        for name in (None,) if queue_names is None else queue_names:
            waits = [self._tables.stands(state)]
            if name is not None:
                waits.append(self._jobs.c.queue_name == name)
            # One after the other: no statement finds the priorities in use so on all databases.
            least = select(rank).where(*waits).order_by(rank).limit(1)
            found = connection.execute(least).scalar()
            while found is not None:
                yield [*waits, self._is_rank(found)]
                found = connection.execute(least.where(rank > found)).scalar()

    def _is_rank(self, rank: int) -> ColumnElement[bool]:
        """The condition that a job has a priority."""
        # For an equality PostgreSQL would read all jobs by the primary key if few are wanted, since
        # it has the same order. For a range MariaDB would sort them.
        is_range = isinstance(self._dialect, PostgreSql)
        own = self._jobs.c.rank
        return own.between(rank, rank) if is_range else own == rank

    def _delayed(self, wanted: JobFilter, after: Cursor | None, limit: int) -> list[Any]:
        """Select jobs that wait for their time, the next due first."""
        jobs = self._jobs
        conditions = [*self._conditions(wanted), *_between(jobs.c.enqueued_at, wanted)]
        if after is not None:
            due = literal(after.due_at)
            is_after = or_(jobs.c.due_at > due, jobs.c.number > after.number)
            conditions += [jobs.c.due_at >= due, is_after]
        those = [self._tables.stands(states.SCHEDULED)]
        if wanted.user is not None:
            those = self._is_of_user(wanted, [states.SCHEDULED])
        return [self._first(those, conditions, [jobs.c.due_at, jobs.c.number], limit)]

    def _is_of_user(self, wanted: JobFilter, among: Sequence[int]) -> list[ColumnElement[bool]]:
        """The conditions of jobs of the wanted user that have not ended, by their index."""
        jobs = self._jobs
        return [
            jobs.c.enqueued_by == listed(wanted.user),
            jobs.c.finished_at.is_(None),
            self._tables.still(*among),
        ]

    def _ended(
        self, wanted: JobFilter, after: Cursor | None, limit: int, horizon: float | None
    ) -> list[Any]:
        """Select jobs that have ended, the last ended first, by each index. horizon: none that
        ended before; None: all."""
        jobs = self._jobs
        conditions = [*self._conditions(wanted), *_between(jobs.c.finished_at, wanted)]
        if after is not None:
            ended = literal(after.finished_at)
            is_before = or_(jobs.c.finished_at < ended, jobs.c.number < after.number)
            conditions += [jobs.c.finished_at <= ended, is_before]
        if horizon is not None:
            conditions.append(jobs.c.finished_at >= horizon)
        among = _ends(wanted)
        if wanted.user is not None or wanted.names is not None:
            conditions.append(self._tables.still(*among))
        order = [jobs.c.finished_at.desc(), jobs.c.number.desc()]
        return [self._first(each, conditions, order, limit) for each in self._ends_by(wanted)]

    def _ends_by(self, wanted: JobFilter) -> list[list[ColumnElement[bool]]]:
        """The conditions of ended jobs that are each a part of an index, by the time of the end."""
        jobs = self._jobs
        if wanted.user is not None:
            return [[jobs.c.enqueued_by == listed(wanted.user), jobs.c.finished_at.is_not(None)]]
        if wanted.names is not None:
            return [[jobs.c.task_name == listed(name), self._tables.ended] for name in wanted.names]
        return [[self._tables.stands(state)] for state in _ends(wanted)]

    def _is_searched(self, wanted: JobFilter) -> bool:
        """Whether ended jobs of the filter are looked for among others."""
        among = _ends(wanted)
        if not among:
            return False
        by_index = wanted.names if wanted.user is None else wanted.user
        other = (wanted.queue_names, wanted.error, wanted.user and wanted.names)
        is_of_some = by_index is not None and len(among) < len(states.ENDED)
        return is_of_some or any(each is not None for each in other)

    def _horizon(
        self, wanted: JobFilter, after: Cursor | None, look_at: int, connection: Connection
    ) -> float | None:
        """Return the end of the last of the jobs to look at; None: there are no more than that."""
        finished_at = self._jobs.c.finished_at
        conditions = [] if wanted.until is None else [finished_at <= wanted.until.timestamp()]
        if after is not None and after.finished_at is not None:
            # 0: the jobs of that instant were looked at
            is_before = finished_at <= after.finished_at
            conditions.append(is_before if after.number else finished_at < after.finished_at)
        lasts = [
            select(finished_at)
            .where(*each, *conditions)
            .order_by(finished_at.desc())
            .offset(look_at)
            .limit(1)
            .scalar_subquery()
            for each in self._ends_by(wanted)
        ]
        found = connection.execute(select(*lasts)).one() if lasts else ()
        horizon = max((each for each in found if each is not None), default=None)
        since = None if wanted.since is None else wanted.since.timestamp()
        return None if horizon is None or (since is not None and horizon <= since) else horizon

    def _first(
        self,
        found_by: Sequence[ColumnElement[bool]],
        conditions: Sequence[ColumnElement[bool]],
        order: Sequence[ColumnElement[Any]],
        limit: int,
    ) -> Any:
        jobs = self._jobs
        wanted = select(jobs.c.uid, jobs.c.number, jobs.c.finished_at, jobs.c.due_at, jobs.c.state)
        return wanted.where(*found_by, *conditions).order_by(*order).limit(limit)

    def _conditions(self, wanted: JobFilter) -> list[ColumnElement[bool]]:
        jobs, errors = self._jobs, self._tables.errors
        found: list[ColumnElement[bool]] = []
        if wanted.names is not None:
            found.append(jobs.c.name.in_(wanted.names))
        if wanted.queue_names is not None:
            found.append(jobs.c.queue_name.in_(wanted.queue_names))
        if wanted.highest is not None:
            found.append(jobs.c.number <= wanted.highest)
        if wanted.error is not None:
            path = errors.c.exception_class_path
            is_it = or_(path == wanted.error, path.endswith(f".{wanted.error}", autoescape=True))
            # Not EXISTS, of which PostgreSQL may make a join that reads all errors for each job.
            its = select(errors.c.number).where(errors.c.uid == jobs.c.uid, is_it).limit(1)
            # One that was never claimed, as most that wait, has none.
            found += [jobs.c.lease > 0, its.scalar_subquery().is_not(None)]
        return found


def _ends(wanted: JobFilter) -> list[int]:
    """The states of ended jobs of a filter."""
    return [state for state in states.ENDED if wanted.has(states.STATUS_OF[state])]


def _cursor(row: Any) -> Cursor:
    due_at = row.due_at if row.state == states.SCHEDULED else None
    return Cursor(row.number, row.finished_at, due_at)


def _between(column: ColumnElement[Any], wanted: JobFilter) -> list[ColumnElement[bool]]:
    found = []
    if wanted.since is not None:
        found.append(column >= wanted.since.timestamp())
    if wanted.until is not None:
        found.append(column <= wanted.until.timestamp())
    return [and_(*found)] if found else []
