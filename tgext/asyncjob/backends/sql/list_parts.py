"""The parts of a list of jobs, as ranges of the indexes that have them in the order of the list.

open      what runs, by the index of that state; what waits, of each priority by its number
delayed   by the time when it is due
ended     by the time of the end: of a state, of a task, or of a user

Where no index finds the jobs of a filter, a part is searched: its ranges have other jobs, too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, literal, or_, select, tuple_

from ...job import CANCELLED, FAILED, READY, RUNNING, SUCCESSFUL
from ..listing import DELAYED, ENDED, LARGEST, OPEN, Cursor, JobFilter, begin_of, end_of
from . import states
from .dialect import Dialect
from .dialects import PostgreSql
from .range_texts import RANK
from .ranks import Ranks
from .tables import Tables, listed

_OPEN = (states.RUNNING, states.AVAILABLE, states.BLOCKED)

Conditions = list[ColumnElement[bool]]

#: A comparison with a value.
Bound = tuple[Callable[[Any, Any], Any], Any]


class Range(NamedTuple):
    """A range of an index, or few jobs that are sorted; or such a range for each of several
    priorities, the number of which is RANK in the conditions."""

    conditions: Conditions
    order: Sequence[ColumnElement[Any]]
    is_searched: bool = False  #: the jobs of the list are looked for among others
    ranks: Sequence[int | None] = (None,)
    #: jobs are compared by the rank, too; then no condition ends the range
    is_ranked: bool = False
    index_name: str | None = None  #: that of MariaDB, if it must be told
    #: what is compared with the bounds; None: the column of the part
    column: ColumnElement[Any] | None = None


class End(NamedTuple):
    """How far a part is looked at."""

    value: float  #: of the column in the order of which it is
    number: int  #: jobs of a range that do not come later, at the most


class Part(NamedTuple):
    """A part of a list: its ranges, merged."""

    place: int  #: which one it is: OPEN, DELAYED, ENDED
    ranges: list[Range]
    column: ColumnElement[Any]  #: in the order of which it is
    lower: Bound | None  #: of that column
    upper: Bound | None
    conditions: Callable[[Any], Conditions]  #: of a job of the list, by the columns of the jobs

    def within(self, some: Range, end: float | None = None) -> Conditions:
        """The conditions of a range within the bounds. end: none that comes later in the list."""
        lower, upper = self.lower, self.upper
        # In place of a bound, not beside it: SQLite would search by the first one that it finds.
        if end is not None and self.place == DELAYED:
            upper = operator.le, end
        elif end is not None:
            lower = operator.ge, end
        bounds = [each for each in (lower, upper) if each is not None]
        column = self.column
        if not some.is_ranked:
            column = column if some.column is None else some.column
            return [*some.conditions, *(is_it(column, value) for is_it, value in bounds)]
        ranked = tuple_(column.table.c.rank, column)
        of_own = [is_it(ranked, tuple_(RANK, literal(value))) for is_it, value in bounds]
        return [*some.conditions, *of_own]

    def first(self, values: Sequence[float]) -> float:
        """Return the value that comes first in the order of the list."""
        return min(values) if self.place == DELAYED else max(values)


class ListParts:
    """The parts of lists of one database."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._dialect = dialect
        self._ranks = Ranks(tables, dialect)

    def of(
        self, wanted: JobFilter, after: Cursor | None, look_at: int | None, connection: Connection
    ) -> Iterator[Part]:
        """Yield the parts that *after* has not left behind. look_at: as for ``Backend.find``."""
        begin = OPEN if after is None else after.place[0]
        if begin <= DELAYED and wanted.has(READY, RUNNING):
            is_by_user = wanted.user is not None and not self._has_more(wanted, look_at, connection)
            if begin == OPEN:
                yield self._open(wanted, after, connection, is_by_user)
            if wanted.has(READY):
                yield self._delayed(wanted, after, is_by_user)
        if wanted.has(SUCCESSFUL, FAILED, CANCELLED):
            yield self._ended(wanted, after)

    def _has_more(self, wanted: JobFilter, look_at: int | None, connection: Connection) -> bool:
        """Whether more jobs of the wanted user than *look_at* have not ended: their index does not
        have these in the order of the list."""
        if look_at is None:
            return False
        one_more = select(literal(1)).where(*self._of_user(wanted)).offset(look_at).limit(1)
        return connection.execute(one_more).first() is not None

    def _open(
        self, wanted: JobFilter, after: Cursor | None, connection: Connection, is_by_user: bool
    ) -> Part:
        """Jobs that run or wait for a worker, the last enqueued first."""
        number = self._jobs.c.number
        among = [state for state in _OPEN if wanted.has(states.STATUS_OF[state])]
        # Not by the primary key, which would read the rows of all that has ended since: for the
        # order, or, if PostgreSQL plans without the values of parameters, for the bounds.
        few = number + 0
        if is_by_user:
            its = [*self._of_user(wanted), self._tables.still(*among)]
            ranges = [Range(its, [few.desc()], column=few)]
        else:
            ranges = self._waiting(among, wanted, connection)
            if states.RUNNING in among:
                running = [self._tables.stands(states.RUNNING)]
                ranges.append(Range(running, [few.desc()], column=few))
        highest = LARGEST if wanted.highest is None else wanted.highest
        upper = operator.le, highest if after is None else min(highest, after.number - 1)
        return Part(OPEN, ranges, number, (operator.ge, 0), upper, partial(self._not_ended, wanted))

    def _waiting(
        self, among: Sequence[int], wanted: JobFilter, connection: Connection
    ) -> list[Range]:
        """The ranges of jobs that wait for a worker and are in their index in the order of their
        numbers: those of one priority, and, if queues are named, of one of them; on MariaDB, if
        none are, all of a state."""
        names = wanted.queue_names
        waiting = [state for state in (states.AVAILABLE, states.BLOCKED) if state in among]
        is_by_rank = self._dialect.has_partial_indexes
        of_queues = (
            [] if names is None else [state for state in waiting if state == states.AVAILABLE]
        )
        ranks = self._ranks.in_use(waiting if is_by_rank else of_queues, connection)
        is_narrowed = _is_narrowed(wanted)
        in_queues = _is_narrowed(wanted._replace(queue_names=None))
        found = []
        for state in waiting:
            those = [self._tables.stands(state)]
            if state not in ranks:
                found.append(self._by_number(those, is_narrowed))
            elif state not in of_queues or names is None:
                found.append(self._of_ranks(ranks[state], those, is_narrowed))
            else:
                for name in names:
                    its = [*those, self._jobs.c.queue_name == name]
                    found.append(self._of_ranks(ranks[state], its, in_queues))
        return [each for each in found if each.ranks]

    def _by_number(self, those: Conditions, is_searched: bool) -> Range:
        """The range of the jobs of a state that have not ended, by the index of those that have:
        if it is not partial, it has these in the order of the primary key."""
        its = [*those, self._jobs.c.finished_at.is_(None)]
        return Range(its, [self._jobs.c.number.desc()], is_searched, index_name=self._index("end"))

    def _of_ranks(self, ranks: Sequence[int], those: Conditions, is_searched: bool) -> Range:
        """The ranges of the jobs of some priorities, on MariaDB of a queue."""
        jobs = self._jobs
        by_number = jobs.c.number.desc()
        # With an equality PostgreSQL would read all jobs by the primary key if few are wanted: it
        # has the same order. With both columns in one comparison MariaDB would sort them.
        if isinstance(self._dialect, PostgreSql):
            order = [jobs.c.rank.desc(), by_number]
            return Range(those, order, is_searched, ranks, is_ranked=True)
        its, index = [*those, jobs.c.rank == RANK], self._index("queue_name_rank_number")
        return Range(its, [by_number], is_searched, ranks, index_name=index)

    def _index(self, name: str) -> str:
        """The name of an index of MariaDB, which may prefer its primary key."""
        return f"{self._tables.prefix}jobs_by_{name}"

    def _delayed(self, wanted: JobFilter, after: Cursor | None, is_by_user: bool) -> Part:
        """Jobs that wait for their time, the next due first."""
        jobs = self._jobs
        lower: Bound | None = None
        if after is not None and after.place[0] == DELAYED:
            # LARGEST: the jobs of that instant were looked at
            lower = operator.ge if after.number < LARGEST else operator.gt, after.due_at
        those, is_searched = [self._tables.stands(states.SCHEDULED)], _is_narrowed(wanted)
        if is_by_user:
            is_searched = False
            those = [*self._of_user(wanted), self._tables.still(states.SCHEDULED)]
        ranges = [Range(those, [jobs.c.due_at, jobs.c.number], is_searched)]

        def conditions(job: Any) -> Conditions:
            found = self._not_ended(wanted, job)
            if lower is not None and after is not None:
                found.append(or_(job.due_at > lower[1], job.number > after.number))
            if wanted.highest is not None:
                found.append(job.number <= wanted.highest)
            return found

        return Part(DELAYED, ranges, jobs.c.due_at, lower, None, conditions)

    def _of_user(self, wanted: JobFilter) -> Conditions:
        """The conditions of jobs of the wanted user that have not ended, by their index."""
        jobs = self._jobs
        return [jobs.c.enqueued_by == listed(wanted.user), jobs.c.finished_at.is_(None)]

    def _not_ended(self, wanted: JobFilter, job: Any) -> Conditions:
        """The conditions of a job that has not ended."""
        found = self._conditions(wanted, job)
        found += [is_it(job.enqueued_at, value) for is_it, value in filter(None, _between(wanted))]
        if wanted.user is not None:
            # Written so that no database uses the index of the users, which has what has ended.
            found.append(func.coalesce(job.enqueued_by, "") == listed(wanted.user))
        return found

    def _ended(self, wanted: JobFilter, after: Cursor | None) -> Part:
        """Jobs that have ended, the last ended first."""
        jobs = self._jobs
        finished_at, among = jobs.c.finished_at, _ends(wanted)
        lower, upper = _between(wanted)
        ended = None if after is None else after.finished_at
        if after is not None and ended is not None and (upper is None or ended <= upper[1]):
            # 0: the jobs of that instant were looked at
            upper = operator.le if after.number else operator.lt, ended

        def conditions(job: Any) -> Conditions:
            found = self._conditions(wanted, job)
            if after is not None and ended is not None:
                found.append(or_(job.finished_at < ended, job.number < after.number))
            if wanted.highest is not None:
                found.append(job.number <= wanted.highest)
            if wanted.user is not None or wanted.names is not None:
                found.append(self._tables.still(*among))
            return found

        order = [finished_at.desc(), jobs.c.number.desc()]
        is_searched = _is_searched(wanted, among)
        ranges = [Range(each, order, is_searched) for each in self._ends_by(wanted)]
        return Part(ENDED, ranges, finished_at, lower, upper, conditions)

    def _ends_by(self, wanted: JobFilter) -> list[Conditions]:
        """The conditions of ended jobs that are each a part of an index, by the time of the end."""
        jobs = self._jobs
        if wanted.user is not None:
            return [[jobs.c.enqueued_by == listed(wanted.user), jobs.c.finished_at.is_not(None)]]
        if wanted.names is not None:
            return [[jobs.c.task_name == listed(name), self._tables.ended] for name in wanted.names]
        return [[self._tables.stands(state)] for state in _ends(wanted)]

    def _conditions(self, wanted: JobFilter, job: Any) -> Conditions:
        """The conditions of a job of each part, by its columns."""
        errors = self._tables.errors
        found: Conditions = []
        if wanted.names is not None:
            found.append(job.name.in_(wanted.names))
        if wanted.queue_names is not None:
            found.append(job.queue_name.in_(wanted.queue_names))
        if wanted.error is not None:
            path = errors.c.exception_class_path
            is_it = or_(path == wanted.error, path.endswith(f".{wanted.error}", autoescape=True))
            # Not EXISTS, of which PostgreSQL may make a join that reads all errors for each job.
            its = select(errors.c.number).where(errors.c.uid == job.uid, is_it).limit(1)
            # One that was never claimed, as most that wait, has none.
            found += [job.lease > 0, its.scalar_subquery().is_not(None)]
        return found


def _ends(wanted: JobFilter) -> list[int]:
    """The states of ended jobs of a filter."""
    return [state for state in states.ENDED if wanted.has(states.STATUS_OF[state])]


def _is_narrowed(wanted: JobFilter) -> bool:
    """Whether jobs of the filter that have not ended are looked for among others."""
    of_jobs = (wanted.names, wanted.queue_names, wanted.user, wanted.error)
    return any(each is not None for each in (*of_jobs, wanted.since, wanted.until))


def _is_searched(wanted: JobFilter, among: Sequence[int]) -> bool:
    """Whether ended jobs of the filter are looked for among others."""
    by_index = wanted.names if wanted.user is None else wanted.user
    other = (wanted.queue_names, wanted.error, wanted.user and wanted.names)
    is_of_some = by_index is not None and len(among) < len(states.ENDED)
    return is_of_some or any(each is not None for each in other)


def _between(wanted: JobFilter) -> tuple[Bound | None, Bound | None]:
    """The bounds of an instant."""
    since, until = wanted.since, wanted.until
    return (
        None if since is None else (operator.ge, begin_of(since)),
        None if until is None else (operator.le, end_of(until)),
    )
