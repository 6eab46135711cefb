"""Reads what waits, queue by queue, however much that is.

    heads     the first job of each queue and priority: one step of the index for each
    due       counted in the index, for each queue up to a bound
    delayed   the next of all that are delayed, by their time
    blocked   some of all that wait to be admitted

A statement that groups the waiting jobs by queue would read them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Integer,
    String,
    bindparam,
    case,
    cast,
    func,
    literal,
    null,
    select,
    union_all,
)

from ..overview import QueueDepth, WaitingJob
from . import states
from .dialect import Dialect
from .tables import Tables, instant

#: Queues that one statement counts.
QUEUES_AT_ONCE = 400

#: What of each queue is counted at least, however many queues there are.
LEAST_COUNTED = 100

#: Statements that are kept.
MOST_BUILT = 20

#: The delayed jobs are read from the table and not only from an index: so many times fewer.
DELAYED_SHARE = 5


class _Delayed(NamedTuple):
    """The delayed jobs of one queue, as far as they were read."""

    due: int  #: of which the time has come
    later: int
    next_due_at: float | None


_NONE = _Delayed(0, 0, None)


class Backlog:
    """now: returns the current time, as SQL."""

    def __init__(
        self, tables: Tables, dialect: Dialect, now: Callable[[], ColumnElement[float]]
    ) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._dialect = dialect
        self._now = now
        self._built: dict[tuple[int, int | None, int | None, bool], Any] = {}

    def depths(self, most: int | None) -> list[QueueDepth]:
        """See ``Overview.waiting``."""
        with self._dialect.engine.connect() as connection:
            heads = self._heads(connection)
            each = None if most is None else max(most // max(1, len(heads)), LEAST_COUNTED)
            soon = None if most is None else most // DELAYED_SHARE
            due, delayed, blocked = self._counts(list(heads), each, soon, connection)
        is_all_read = soon is None or sum(each.due + each.later for each in delayed.values()) < soon
        found = []
        are_all_blocked = soon is None or sum(blocked.values()) < soon
        for name in sorted({*heads, *delayed, *blocked}):
            its = delayed.get(name, _NONE)
            next_due_at = None if its.next_due_at is None else instant(its.next_due_at)
            found.append(
                QueueDepth(
                    name,
                    due.get(name, 0) + its.due,
                    its.later,
                    next_due_at,
                    heads.get(name),
                    is_capped=each is not None and due.get(name, 0) >= each,
                    is_delayed_capped=not is_all_read,
                    blocked=blocked.get(name, 0),
                    is_blocked_capped=not are_all_blocked,
                )
            )
        return found

    def _available(self, *conditions: Any) -> tuple[ColumnElement[bool], ...]:
        return self._tables.stands(states.AVAILABLE), *conditions

    def _heads(self, connection: Connection) -> dict[str, WaitingJob]:
        """Read the job that was enqueued first of those of each queue that are due."""
        jobs = self._jobs
        first = self._grouped() if self._dialect.groups_by_steps else self._first_of(self._ranks())
        # None: they were claimed meanwhile.
        numbers = [row.number for row in connection.execute(first) if row.number is not None]
        columns = (jobs.c.uid, jobs.c.name, jobs.c.queue_name, jobs.c.enqueued_at)
        found: dict[str, WaitingJob] = {}
        for begin in range(0, len(numbers), QUEUES_AT_ONCE):
            # Not in one statement with the numbers: PostgreSQL would join them with all jobs.
            some = jobs.c.number.in_(numbers[begin : begin + QUEUES_AT_ONCE])
            for row in connection.execute(select(*columns).where(some)):
                head = WaitingJob(row.uid, row.name, row.queue_name, instant(row.enqueued_at))
                other = found.setdefault(row.queue_name, head)
                if head.enqueued_at < other.enqueued_at:
                    found[row.queue_name] = head
        return found

    def _grouped(self) -> Any:
        """Select the first number of each queue and priority, by the first columns of an index.
        (Without statistics of the table MariaDB reads the index of all that waits.)"""
        jobs = self._jobs
        first = select(func.min(jobs.c.number).label("number")).where(*self._available())
        return first.group_by(jobs.c.state, jobs.c.queue_name, jobs.c.rank)

    def _first_of(self, ranks: Any) -> Any:
        jobs = self._jobs
        its = self._available(jobs.c.queue_name == ranks.c.name, jobs.c.rank == ranks.c.rank)
        first = select(jobs.c.number).where(*its).order_by(jobs.c.number).limit(1)
        return select(first.scalar_subquery().label("number")).where(ranks.c.rank.is_not(None))

    def _ranks(self) -> Any:
        """The queues and the priorities of what is due: each is found from the one before."""
        jobs = self._jobs
        order = (jobs.c.queue_name, jobs.c.rank, jobs.c.number)
        name = select(jobs.c.queue_name).where(*self._available()).order_by(*order).limit(1)
        names = select(name.scalar_subquery().label("name")).cte("names", recursive=True)
        following = name.where(jobs.c.queue_name > names.c.name).scalar_subquery()
        names = names.union_all(select(following).where(names.c.name.is_not(None)))

        rank = select(jobs.c.rank).where(*self._available()).order_by(*order).limit(1)
        first = rank.where(jobs.c.queue_name == names.c.name).scalar_subquery()
        least = select(names.c.name, first.label("rank")).where(names.c.name.is_not(None))
        ranks = least.cte("ranks", recursive=True)
        its = jobs.c.queue_name == ranks.c.name, jobs.c.rank > ranks.c.rank
        higher = rank.where(*its).scalar_subquery()
        return ranks.union_all(select(ranks.c.name, higher).where(ranks.c.rank.is_not(None)))

    def _counts(
        self, names: Sequence[str], most: int | None, soon: int | None, connection: Connection
    ) -> tuple[dict[str, int], dict[str, _Delayed], dict[str, int]]:
        """Count the available jobs of some queues, up to *most* of each, and, by queue, the delayed
        jobs that are due next and the blocked ones, up to *soon*."""
        due: dict[str, int] = {}
        blocked: dict[str, int] = {}
        delayed: dict[str, _Delayed] = {}
        for begin in range(0, max(len(names), 1), QUEUES_AT_ONCE):
            some = names[begin : begin + QUEUES_AT_ONCE]
            wanted = self._count_of(len(some), most, None if begin else soon, not begin)
            given = {f"queue_{number}": name for number, name in enumerate(some)}
            for row in connection.execute(wanted, given):
                if row.state == states.AVAILABLE:
                    due[row.queue_name] = row.due
                elif row.state == states.BLOCKED:
                    blocked[row.queue_name] = row.due
                else:
                    its = _Delayed(int(row.due), int(row.later), row.next_due_at)
                    delayed[row.queue_name] = its
        return due, delayed, blocked

    def _count_of(self, number: int, most: int | None, soon: int | None, is_first: bool) -> Any:
        """Select the counts of so many queues, and, is_first, those of all that is delayed or
        blocked. Built once: that takes as long as its execution."""
        key = number, most, soon, is_first
        if key not in self._built:
            some: list[Any] = [bindparam(f"queue_{each}", type_=String()) for each in range(number)]
            of_all = [self._delayed(soon), self._blocked(soon)] if is_first else []
            if len(self._built) >= MOST_BUILT:
                self._built.clear()
            self._built[key] = union_all(*of_all, *(self._due(name, most) for name in some))
        return self._built[key]

    def _due(self, name: ColumnElement[str], most: int | None) -> Any:
        jobs = self._jobs
        rows = select(jobs.c.number).where(*self._available(jobs.c.queue_name == name))
        its = rows.limit(most).subquery()
        return select(*_count(states.AVAILABLE, name)).select_from(its)

    def _blocked(self, most: int | None) -> Any:
        some = select(self._jobs.c.queue_name).where(self._tables.stands(states.BLOCKED))
        read = some.limit(most).subquery()
        return select(*_count(states.BLOCKED, read.c.queue_name)).group_by(read.c.queue_name)

    def _delayed(self, most: int | None) -> Any:
        jobs = self._jobs
        some = select(jobs.c.queue_name, jobs.c.due_at).where(self._tables.stands(states.SCHEDULED))
        read = some.order_by(jobs.c.due_at).limit(most).subquery()
        is_over = read.c.due_at <= self._now()
        return select(
            literal(states.SCHEDULED).label("state"),
            read.c.queue_name,
            func.sum(case((is_over, 1), else_=0)).label("due"),
            func.sum(case((is_over, 0), else_=1)).label("later"),
            func.min(case((is_over, None), else_=read.c.due_at)).label("next_due_at"),
        ).group_by(read.c.queue_name)


def _count(state: int, name: Any) -> tuple[Any, ...]:
    """The columns of a count of jobs that are not delayed, like those of the delayed ones."""
    later: Any = cast(null(), Integer()).label("later")
    next_due_at: Any = cast(null(), Double()).label("next_due_at")
    number = func.count().label("due")
    return literal(state).label("state"), name.label("queue_name"), number, later, next_due_at
