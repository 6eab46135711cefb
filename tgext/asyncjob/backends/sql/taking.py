"""Claims the next jobs, and makes delayed jobs available when they are due.

Each query uses an index and reads a number of rows that depends on the batch alone, whatever else
is in the table and whether or not the database has statistics. No database finds the first rows of
several queues in one scan of an index, nor those of all queues but the paused ones. So several
queues are merged, see ``merging``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Integer,
    Row,
    String,
    and_,
    bindparam,
    case,
    false,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    update,
)

from ...policies import Keys
from . import states
from .availability import made_available
from .batches import in_order
from .dialect import Dialect
from .merging import Merging
from .pausing import Pausing
from .queue_names import Queues, parameters, values
from .rows import ClaimedRow
from .statements import Statement
from .tables import Clock, Tables

#: Rows of several queues that a claim chooses from, if that is more than twice its batch: so many
#: may be claimed by others at the same moment. FAR_AHEAD, if all of those are.
AHEAD, FAR_AHEAD = 20, 1_000

#: Delayed jobs that one transaction makes available: it holds locks for a few milliseconds.
PROMOTED_AT_ONCE = 500

#: How long a claim may spend on delayed jobs before it takes some, in seconds; the next claim
#: continues with the rest.
PROMOTING_SECONDS = 0.1

# Parameters of the statements that take jobs.
_MOST_AHEAD = bindparam("most", type_=Integer()), bindparam("ahead", type_=Integer())
_TAKER_ALONE = bindparam("taker", type_=String()), bindparam("alone", type_=Boolean())


class Taking:
    """Builds and executes these statements."""

    def __init__(self, tables: Tables, dialect: Dialect, clock: Clock, pausing: Pausing) -> None:
        self._pausing = pausing
        #: whether a queue may be paused or limited: then a claim asks for names and free slots
        self.is_paused = False
        self._tables = tables
        self._jobs = tables.jobs
        self._claimed = [self._jobs.c[name] for name in ClaimedRow._fields]
        self._dialect = dialect
        self._place = dialect.place(self._jobs)
        self._clock = clock
        self._merging = Merging(tables, dialect, pausing)
        #: by the number of queues that they read; None: all queues
        self._taking: dict[int | None, Statement] = {}
        self._looking: dict[tuple[int | None, bool], Statement] = {}
        self._due = dialect.compiled(
            lambda: select(self._jobs.c.number).where(self._is_due(clock.clause)).limit(1)
        )
        self._taking_these = dialect.compiled_for_lists(
            lambda numbers: self._taken_if(self._jobs.c.number.in_(numbers))
        )

    # -- take

    def take(self, worker_id: str, queues: Collection[str] | None, limit: int) -> list[ClaimedRow]:
        """Claim up to *limit* waiting rows for a worker, and return them in their order."""
        names = self._served(queues)
        if names == ():
            return []
        if self.is_paused and self._pausing.has_limits and names is not None:
            return in_order(self._take_within_limits(worker_id, names, limit))
        take = self._take_at_once if self._dialect.update_returns else self._take_in_steps
        found = take(worker_id, names, limit, max(2 * limit, AHEAD))
        others_take = self._dialect.skips_locked and names is not None and len(names) > 1
        if not found and others_take and self.look(names, ticks=False).waits is not False:
            found = take(worker_id, names, limit, FAR_AHEAD + 2 * limit)
        return in_order(found)

    def _served(self, queues: Collection[str] | None) -> tuple[str, ...] | None:
        """Return the names of the queues to read; None: all. A paused queue may be among them, if
        it was paused just now."""
        if self.is_paused:
            return self._pausing.unpaused(queues)
        return None if queues is None else tuple(dict.fromkeys(queues))

    def _take_at_once(
        self, worker_id: str, queues: tuple[str, ...] | None, limit: int, ahead: int
    ) -> list[ClaimedRow]:
        number = None if queues is None else len(queues)
        statement = self._taking.get(number)
        if statement is None:
            statement = self._taking[number] = self._dialect.compiled(
                lambda: self._taken_at_once(parameters(number))
            )
        with self._dialect.write_lazily() as connection:
            taken = statement.execute(
                connection,
                taker=worker_id,
                most=limit,
                ahead=ahead,
                alone=limit == 1,
                **values(queues),
                **self._clock.moment(),
            )
            return [ClaimedRow.of(row) for row in taken.all()]

    def _taken_at_once(self, queues: Queues) -> Any:
        picked = self._first_available(queues, *_MOST_AHEAD)
        taken = self._taken_if(self._dialect.is_at(self._place, picked))
        return taken.returning(*self._claimed, *self._dialect.lazily)

    def _taken_if(self, condition: ColumnElement[bool]) -> Any:
        return self._taken(*_TAKER_ALONE, self._clock.clause).where(condition)

    def _take_in_steps(
        self, worker_id: str, queues: tuple[str, ...] | None, limit: int, ahead: int
    ) -> list[ClaimedRow]:
        with self._dialect.begin() as connection:
            if queues is not None and len(queues) > 1:
                rows = self._merging.locked(connection, queues, limit, ahead, {})
            else:
                rows = self._locked(connection, queues, limit)
            if rows:
                self._taking_these.execute(
                    connection,
                    [row.number for row in rows],
                    taker=worker_id,
                    alone=limit == 1,
                    **self._clock.moment(),
                )
        # What that has assigned; the rows are locked, so that nobody else has changed them.
        return [
            row._replace(lease=row.lease + 1, attempts=row.attempts + 1, worker_id=worker_id)
            for row in rows
        ]

    def _locked(
        self, connection: Connection, queues: tuple[str, ...] | None, limit: int
    ) -> list[ClaimedRow]:
        """Lock the next rows of one queue, or of all."""
        number = None if queues is None else len(queues)
        first = self._taking.get(number)
        if first is None:
            first = self._taking[number] = self._dialect.compiled(
                lambda: self._first_available(parameters(number), *_MOST_AHEAD, self._claimed)
            )
        found = first.execute(connection, most=limit, **values(queues))
        return [ClaimedRow.of(row) for row in found.all()]

    def _take_within_limits(
        self, worker_id: str, queues: tuple[str, ...], limit: int
    ) -> list[ClaimedRow]:
        """Claim, where a queue is paused or has a limit. Of all who do so at once, one counts."""
        number = self._jobs.c.number
        with self._dialect.begin() as connection:
            free = self._pausing.free_slots(connection, lock=True)
            open_ones = {name: free.get(name) for name in queues if free.get(name, 1)}
            if not open_ones:
                return []
            first = self._merging.numbers(connection, open_ones, limit, max(2 * limit, AHEAD))
            mine = number.in_(first)
            connection.execute(self._taken(worker_id, limit == 1, self._clock.now()).where(mine))
            rows = connection.execute(select(*self._claimed).where(mine)).all()
        return [ClaimedRow.of(row) for row in rows]

    def _first_available(
        self, queues: Queues, limit: Any, ahead: Any, columns: Sequence[Any] = ()
    ) -> Any:
        """Select the next rows, those that others are claiming are skipped.

        ahead: how many rows of several queues to choose from. columns: by default their places.
        """
        jobs = self._jobs
        if queues is not None and len(queues) > 1:
            return self._merging.first(queues, limit, ahead, {}, self._place)
        first = select(*(columns or [self._place])).where(self._is_available())
        if queues is not None:
            first = first.where(jobs.c.queue_name == queues[0])
        first = first.order_by(jobs.c.rank, jobs.c.number).limit(limit)
        return first.with_for_update(skip_locked=True) if self._dialect.skips_locked else first

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

    def look(self, queues: Collection[str] | None, *, ticks: bool) -> Row[Any]:
        """Read whether a job waits, and when the next delayed job is due. ticks: and the columns of
        ``rarer``."""
        names = None if queues is None else tuple(dict.fromkeys(queues))
        number = None if names is None else len(names)
        statement = self._looking.get((number, ticks))
        if statement is None:
            wanted = select(*self.looks(parameters(number), self._clock.clause))
            if ticks:
                wanted = wanted.add_columns(*self.rarer(self._clock.clause))
            statement = self._looking[number, ticks] = self._dialect.compiled(lambda: wanted)
        with self._dialect.engine.connect() as connection:
            return statement.execute(connection, **values(names), **self._clock.moment()).one()

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
            of_each = [
                first.where(jobs.c.queue_name == name).scalar_subquery().is_not(None)
                for name in queues
            ]
            waits = case((is_paused, null()), else_=or_(false(), *of_each))
        return waits.label("waits"), due, is_paused.label("paused")

    def rarer(self, now: ColumnElement[float]) -> tuple[ColumnElement[Any], ...]:
        """The columns of the looks that are not a claim's: the seconds to the next tick of a
        schedule, NULL: there is none; and whether a job is BLOCKED."""
        next_at = select(func.min(self._tables.schedules.c.next_at))
        one = select(self._jobs.c.blocked_by).where(self._tables.stands(states.BLOCKED))
        blocked = one.order_by(self._jobs.c.blocked_by).limit(literal_column("1"))
        return (
            (next_at.scalar_subquery() - now).label("tick"),
            blocked.scalar_subquery().is_not(None).label("is_blocked"),
        )

    def does_wait(self, queues: Collection[str] | None) -> bool:
        """Whether a job waits in one of these queues that can be claimed; None: in any."""
        found = self._pausing.unpaused(None)
        return bool(found) if queues is None else not set(queues).isdisjoint(found)

    # -- delayed jobs

    def promote(self, blocked: Callable[[list[Keys | None]], object]) -> bool:
        """Make due jobs AVAILABLE, the earliest first: one batch, and more while there is time.

        blocked: called with the keys of those that are BLOCKED instead. Returns whether there
        were any.
        """
        until = time.monotonic() + PROMOTING_SECONDS
        with self._dialect.engine.connect() as connection:
            goes_on = self._due.execute(connection, **self._clock.moment()).first() is not None
        promoted = 0
        while goes_on:
            some = self._promote_some()
            promoted += len(some)
            goes_on = len(some) == PROMOTED_AT_ONCE and time.monotonic() < until
            if texts := {text for text in some if text is not None}:
                blocked([Keys.of(text) for text in texts])
        return promoted > 0

    def _promote_some(self) -> Sequence[str | None]:
        """Do that for one batch, and return the policies of its jobs; rows locked by others are
        skipped."""
        jobs, policy = self._jobs, self._jobs.c.policy
        some = select(self._place).where(self._is_due(self._clock.now())).order_by(jobs.c.due_at)
        some = some.limit(PROMOTED_AT_ONCE)
        if self._dialect.skips_locked:
            some = some.with_for_update(skip_locked=True)
        promoted = update(jobs).ordered_values(*made_available(jobs))
        if self._dialect.update_returns:
            with self._dialect.write() as connection:
                promoted = promoted.where(self._dialect.is_at(self._place, some)).returning(policy)
                return connection.execute(promoted).scalars().all()
        with self._dialect.begin() as connection:
            rows = connection.execute(some.add_columns(policy)).all()
            numbers = [row.number for row in rows]
            connection.execute(promoted.where(jobs.c.number.in_(numbers)))
            return [row.policy for row in rows]

    def _is_due(self, now: ColumnElement[float]) -> ColumnElement[bool]:
        jobs = self._jobs
        is_delayed = self._tables.stands(states.SCHEDULED)
        return and_(is_delayed, jobs.c.due_at <= now)
