"""Claims the next jobs, and makes delayed jobs available when they are due.

Each query uses an index and reads a number of rows that depends on the batch alone, whatever else
is in the table and whether or not the database has statistics. No database finds the first rows of
several queues in one scan of an index, nor those of all queues but the paused ones. So the first
rows of each queue are read, and of these the first.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Integer,
    Row,
    Select,
    String,
    and_,
    bindparam,
    case,
    false,
    func,
    literal,
    literal_column,
    not_,
    null,
    or_,
    select,
    union_all,
    update,
)

from . import states
from .availability import made_available
from .dialect import Dialect
from .pausing import Pausing
from .rows import CLAIMED
from .statements import Statement
from .tables import Clock, Tables

#: Rows of each of several queues that a claim reads, if that is more than twice its batch: so many
#: may be claimed by others at the same moment. FAR_AHEAD, if all of those are.
AHEAD, FAR_AHEAD = 20, 1_000

#: Delayed jobs that one transaction makes available: it holds locks for a few milliseconds.
PROMOTED_AT_ONCE = 500

#: How long a claim may spend on delayed jobs before it takes some, in seconds; the next claim
#: continues with the rest.
PROMOTING_SECONDS = 0.1


#: Names of queues, or the parameters of a statement for them; None: all queues.
Queues = Sequence[Any] | None


class Taking:
    """Builds and executes these statements."""

    def __init__(self, tables: Tables, dialect: Dialect, clock: Clock, pausing: Pausing) -> None:
        self._pausing = pausing
        #: whether a queue may be paused: then a claim asks for the names of the others
        self.is_paused = False
        self._tables = tables
        self._jobs = tables.jobs
        self._claimed = [self._jobs.c[name] for name in CLAIMED]
        self._dialect = dialect
        self._clock = clock
        #: by the number of queues that they read; None: all queues
        self._taking: dict[int | None, Statement] = {}
        self._looking: dict[int | None, Statement] = {}

    # -- take

    def take(
        self, worker_id: str, queues: Collection[str] | None, limit: int
    ) -> Sequence[Row[Any]]:
        """Claim up to *limit* waiting rows for a worker, and return them in their order."""
        names = self._served(queues)
        if names == ():
            return []
        take = self._take_at_once if self._dialect.update_returns else self._take_in_steps
        found = take(worker_id, names, limit, max(2 * limit, AHEAD))
        others_take = self._dialect.skips_locked and names is not None and len(names) > 1
        if not found and others_take and self.look(names).waits:
            found = take(worker_id, names, limit, FAR_AHEAD + 2 * limit)
        return sorted(found, key=lambda row: (row.rank, row.number))

    def _served(self, queues: Collection[str] | None) -> tuple[str, ...] | None:
        """Return the names of the queues to read; None: all. A paused queue may be among them, if
        it was paused just now."""
        if self.is_paused:
            return self._pausing.unpaused(queues)
        return None if queues is None else tuple(dict.fromkeys(queues))

    def _take_at_once(
        self, worker_id: str, queues: tuple[str, ...] | None, limit: int, ahead: int
    ) -> Sequence[Row[Any]]:
        number = None if queues is None else len(queues)
        statement = self._taking.get(number)
        if statement is None:
            taken = self._taken_at_once(_parameters(number))
            statement = self._taking[number] = self._dialect.compiled(taken)
        with self._dialect.write_lazily() as connection:
            return statement.execute(
                connection,
                taker=worker_id,
                most=limit,
                ahead=ahead,
                alone=limit == 1,
                **_values(queues),
                **self._clock.moment(),
            ).all()

    def _taken_at_once(self, queues: Queues) -> Any:
        most, ahead = bindparam("most", type_=Integer()), bindparam("ahead", type_=Integer())
        taken = self._taken(
            bindparam("taker", type_=String()),
            bindparam("alone", type_=Boolean()),
            self._clock.clause,
        )
        picked = self._picked(self.first_available(queues, most, ahead))
        return taken.where(self._jobs.c.number.in_(picked)).returning(
            *self._claimed, *self._dialect.lazily
        )

    def _picked(self, numbers: Select[Any]) -> Any:
        """The subquery of an UPDATE. As a CTE it is evaluated once; otherwise the planner may
        evaluate it again for each row."""
        return select(numbers.cte("picked").c.number) if self._dialect.skips_locked else numbers

    def _take_in_steps(
        self, worker_id: str, queues: tuple[str, ...] | None, limit: int, ahead: int
    ) -> Sequence[Row[Any]]:
        with self._dialect.begin() as connection:
            first = self.first_available(queues, limit, ahead)
            numbers = connection.execute(first).scalars().all()
            if not numbers:
                return []
            mine = self._jobs.c.number.in_(numbers)
            taken = self._taken(worker_id, limit == 1, self._clock.now())
            connection.execute(taken.where(mine))
            return connection.execute(select(*self._claimed).where(mine)).all()

    def first_available(self, queues: Queues, limit: Any, ahead: Any) -> Any:
        """Select the numbers of the next rows; those that others are claiming are skipped.

        ahead: how many rows of each of several queues to choose from.
        """
        if queues is not None and len(queues) > 1:
            return self._first_of_several(queues, limit, ahead)
        jobs = self._jobs
        first = select(jobs.c.number).where(self._is_available())
        if queues is not None:
            first = first.where(jobs.c.queue_name == queues[0])
        first = first.order_by(jobs.c.rank, jobs.c.number).limit(limit)
        return first.with_for_update(skip_locked=True) if self._dialect.skips_locked else first

    def _first_of_several(self, queues: Sequence[Any], limit: Any, ahead: Any) -> Any:
        jobs = self._jobs
        each = select(jobs.c.number, jobs.c.rank).order_by(jobs.c.rank, jobs.c.number).limit(ahead)
        of_each = [
            select(each.where(self._is_available(), jobs.c.queue_name == name).subquery())
            for name in queues
        ]
        several = union_all(*of_each).subquery()
        order = (several.c.rank, several.c.number)
        if not self._dialect.skips_locked:
            return select(several.c.number).order_by(*order).limit(limit)
        # Locked one by one, in their order, until there are enough: if all were locked, others
        # could not claim them.
        heads = select(several).order_by(*order).limit(ahead).cte("heads")
        return (
            select(jobs.c.number)
            .select_from(heads.join(jobs, jobs.c.number == heads.c.number))
            .where(self._tables.still(states.AVAILABLE))
            .order_by(heads.c.rank, heads.c.number)
            .limit(limit)
            .with_for_update(skip_locked=True, of=jobs)
        )

    def _taken(self, worker_id: Any, begun: Any, now: ColumnElement[float]) -> Any:
        jobs = self._jobs
        return update(jobs).values(
            state=states.RUNNING,
            lease=jobs.c.lease + 1,
            attempts=jobs.c.attempts + 1,
            worker_id=worker_id,
            begun=begun,
            last_attempted_at=now,
            started_at=func.coalesce(jobs.c.started_at, now),
        )

    def _is_available(self) -> ColumnElement[bool]:
        """The condition that a job waits, in a queue that is not paused."""
        is_paused = self._jobs.c.queue_name.in_(self._pausing.names)
        return and_(self._tables.stands(states.AVAILABLE), not_(is_paused))

    # -- look

    def look(self, queues: Collection[str] | None) -> Row[Any]:
        """Read whether a job waits, and when the next delayed job is due."""
        names = None if queues is None else tuple(dict.fromkeys(queues))
        number = None if names is None else len(names)
        statement = self._looking.get(number)
        if statement is None:
            wanted = select(*self.looks(_parameters(number), self._clock.clause))
            statement = self._looking[number] = self._dialect.compiled(wanted)
        with self._dialect.engine.connect() as connection:
            return statement.execute(connection, **_values(names), **self._clock.moment()).one()

    def looks(
        self, queues: Collection[Any] | None, now: ColumnElement[float]
    ) -> tuple[ColumnElement[Any], ...]:
        """The columns that ``look`` selects: whether a job waits, when the next delayed one is due,
        whether a queue is paused. The first is NULL where only ``does_wait`` can tell."""
        jobs, paused = self._jobs, self._pausing.names
        due_at = select(func.min(jobs.c.due_at)).where(self._tables.stands(states.SCHEDULED))
        due = (due_at.scalar_subquery() - now).label("due")
        is_paused = paused.limit(literal_column("1")).scalar_subquery().is_not(None)
        # With an order: in an EXISTS PostgreSQL ignores it, and scans the table for a row.
        first = select(jobs.c.number).where(self._tables.stands(states.AVAILABLE))
        first = first.order_by(jobs.c.rank, jobs.c.number).limit(literal_column("1"))
        if queues is None:
            # Of a paused queue any number of jobs may be before the first of the others.
            waits: Any = case((is_paused, null()), else_=first.scalar_subquery().is_not(None))
        else:
            # In a CASE the jobs of a paused queue are not read.
            of_each = [
                case(
                    (_literal(name).in_(paused), false()),
                    else_=first.where(jobs.c.queue_name == name).scalar_subquery().is_not(None),
                )
                for name in queues
            ]
            waits = or_(false(), *of_each)
        return waits.label("waits"), due, is_paused.label("paused")

    def does_wait(self) -> bool:
        """Whether a job waits in any queue that is not paused."""
        return bool(self._pausing.unpaused(None))

    # -- delayed jobs

    def promote(self) -> None:
        """Make due jobs AVAILABLE, the earliest first: one batch, and more while there is time."""
        until = time.monotonic() + PROMOTING_SECONDS
        one = select(self._jobs.c.number).where(self._is_due()).limit(1)
        with self._dialect.engine.connect() as connection:
            goes_on = connection.execute(one).first() is not None
        while goes_on:
            is_full = self._promote_some() == PROMOTED_AT_ONCE
            goes_on = is_full and time.monotonic() < until

    def _promote_some(self) -> int:
        """Do that for one batch, and return its size; rows locked by others are skipped."""
        jobs = self._jobs
        some = select(jobs.c.number).where(self._is_due()).order_by(jobs.c.due_at)
        some = some.limit(PROMOTED_AT_ONCE)
        if self._dialect.skips_locked:
            some = some.with_for_update(skip_locked=True)
        promoted = update(jobs).ordered_values(*made_available(jobs))
        if self._dialect.update_returns:
            with self._dialect.write() as connection:
                picked = self._picked(some)
                return connection.execute(promoted.where(jobs.c.number.in_(picked))).rowcount
        with self._dialect.begin() as connection:
            numbers = connection.execute(some).scalars().all()
            connection.execute(promoted.where(jobs.c.number.in_(numbers)))
            return len(numbers)

    def _is_due(self) -> ColumnElement[bool]:
        jobs = self._jobs
        is_delayed = self._tables.stands(states.SCHEDULED)
        return and_(is_delayed, jobs.c.due_at <= self._clock.now())


def _literal(name: Any) -> ColumnElement[str]:
    return name if isinstance(name, ColumnElement) else literal(name, String())


def _parameters(number: int | None) -> Queues:
    """Return the parameters for the names of so many queues; None: all."""
    if number is None:
        return None
    return [bindparam(f"queue_{each}", type_=String()) for each in range(number)]


def _values(queues: Sequence[str] | None) -> dict[str, str]:
    return {f"queue_{number}": name for number, name in enumerate(queues or ())}
