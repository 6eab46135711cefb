"""Finds the first waiting jobs of several queues, in the order of all of them.

PostgreSQL and SQLite merge the parts of a UNION ALL row by row: they read what is wanted, and one
more row of each queue. PostgreSQL cannot lock what a UNION gives, and locks in its parts would keep
the first row of every queue from others: so it comes to a row three times, to find it, to lock it,
and to change it. MariaDB reads each part to its end, so there the queues are read in rounds:

    a  1 4 5 ..     All rows up to the 3 are certain to be the first ones: whatever comes next in b
    b  2 3 ..       comes after it. If more are wanted, b is asked for more, but not c, of which all
    c  7 8 9 ..     rows come after the last one that is wanted.

A round reads twice the batch, or one row of each queue if these are more. At most half of the
queues of a round can be asked again: more rows than are wanted would come before the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    and_,
    bindparam,
    literal_column,
    null,
    or_,
    select,
    union_all,
)

from . import states
from .dialect import Dialect
from .pausing import Pausing
from .queue_names import parameters
from .rows import ClaimedRow
from .statements import Statement
from .tables import Tables


class Place(NamedTuple):
    """Where a job stands in the order of all."""

    rank: int
    number: int


class _Queue:
    """What a claim has read of a queue. slots: how many of its jobs may be claimed; None: any
    number."""

    def __init__(self, name: str, slots: int | None) -> None:
        self.name = name
        self.slots = slots
        self.places: list[Place] = []
        #: whether there may be more after these
        self.goes_on = True

    def add(self, places: Sequence[Place], asked: int) -> None:
        """Add the next places, of which so many were asked for."""
        self.places += places
        self.goes_on = len(places) == asked and self.left != 0

    @property
    def left(self) -> int | None:
        """How many more may be claimed; None: any number."""
        return None if self.slots is None else self.slots - len(self.places)


class Merging:
    """Builds and executes these statements.

    Of their parameters, ahead is how many rows to choose from; free gives the free slots of those
    queues that are found to have a limit.
    """

    def __init__(self, tables: Tables, dialect: Dialect, pausing: Pausing) -> None:
        self._jobs = tables.jobs
        self._tables = tables
        self._dialect = dialect
        self._pausing = pausing
        self._claimed = [self._jobs.c[name] for name in ClaimedRow._fields]
        #: by the number of queues that they read, and whether they read the first rows
        self._reading: dict[tuple[int, bool], Statement] = {}
        self._locking = dialect.compiled_for_lists(self._unlocked)

    def numbers(
        self, connection: Connection, free: Mapping[str, int | None], limit: int, ahead: int
    ) -> Sequence[int]:
        """Find the first rows of these queues, and lock them; return their numbers."""
        if self._dialect.merges:
            first = self.first(list(free), limit, ahead, free, self._jobs.c.number)
            return connection.execute(first).scalars().all()
        return [row.number for row in self.locked(connection, list(free), limit, ahead, free)]

    # -- where the database merges

    def first(
        self,
        queues: Sequence[Any],
        limit: Any,
        ahead: Any,
        free: Mapping[Any, int | None],
        column: ColumnElement[Any],
    ) -> Any:
        """Select the numbers of the first rows that nobody else has locked, or their places: see
        ``Dialect.place``."""
        if self._dialect.skips_locked:
            return self._first_unlocked(queues, limit, ahead, free).with_only_columns(column)
        jobs, parts = self._jobs, []
        places = jobs.c.rank, jobs.c.number
        for name in queues:
            slots = free.get(name)
            if slots is None:
                parts.append(self._of(select(*places), name).where(self._pausing.is_open(name)))
            else:
                parts.append(self._some(places, name, slots))
        # The order is that of the UNION itself: of a subquery SQLite would sort all rows.
        merged = union_all(*parts).order_by("rank", "number").limit(limit).subquery()
        return select(merged.c.number)

    def _first_unlocked(
        self, queues: Sequence[Any], limit: Any, ahead: Any, free: Mapping[Any, int | None]
    ) -> Any:
        jobs, place, parts = self._jobs, self._dialect.place(self._jobs), []
        places = jobs.c.rank, jobs.c.number, place
        # Not ``is_open``: for that PostgreSQL would make a plan for each execution.
        is_open = jobs.c.queue_name.not_in(self._pausing.names)
        for name in queues:
            slots = free.get(name)
            parts.append(
                self._some(places, name, ahead, is_open)
                if slots is None
                else self._some(places, name, slots)
            )
        several = union_all(*parts).subquery()
        heads = select(several).order_by(several.c.rank, several.c.number).limit(ahead).cte("heads")
        *_, head = heads.c
        # Locked one by one, in their order, until there are enough: if all were locked, others
        # could not claim them.
        return (
            select(jobs.c.number)
            .select_from(heads.join(jobs, place == head))
            .where(self._tables.still(states.AVAILABLE))
            .order_by(heads.c.rank, heads.c.number)
            .limit(limit)
            .with_for_update(skip_locked=True, of=jobs)
        )

    def _some(
        self,
        columns: Sequence[ColumnElement[Any]],
        queue_name: Any,
        most: Any,
        *conditions: ColumnElement[bool],
    ) -> Any:
        """Select columns of the first rows of a queue, as a part of a UNION."""
        jobs = self._jobs
        its = self._of(select(*columns), queue_name).where(*conditions)
        return select(its.order_by(jobs.c.rank, jobs.c.number).limit(most).subquery())

    def _of(self, places: Any, queue_name: Any) -> Any:
        its = self._jobs.c.queue_name == queue_name
        return places.where(self._tables.stands(states.AVAILABLE), its)

    # -- where it does not

    def locked(
        self,
        connection: Connection,
        queues: Sequence[str],
        limit: int,
        ahead: int,
        free: Mapping[str, int | None],
    ) -> list[ClaimedRow]:
        """Lock the first rows that nobody else has locked, and return them."""
        rows: list[ClaimedRow] = []
        places = self._read_first(connection, queues, limit, ahead, free)
        for _rank, some in groupby(places, lambda place: place.rank):
            if len(rows) < limit:
                numbers = [place.number for place in some]
                found = self._locking.execute(connection, numbers, most=limit - len(rows))
                rows += map(ClaimedRow.of, found.all())
        return rows

    def _unlocked(self, numbers: Sequence[Any]) -> Any:
        """Select, of these rows of one rank, the first that nobody else has locked: in the order of
        the primary key, so that no more are locked."""
        number = self._jobs.c.number
        those = select(*self._claimed).where(number.in_(numbers))
        those = those.where(self._tables.still(states.AVAILABLE)).order_by(number)
        most = bindparam("most", type_=Integer())
        return those.limit(most).with_for_update(skip_locked=True)

    def _read_first(
        self,
        connection: Connection,
        queues: Sequence[str],
        limit: int,
        ahead: int,
        free: Mapping[str, int | None],
    ) -> list[Place]:
        """Read the places of the first rows: *limit* unless fewer wait, and of those that are found
        beside them."""
        each = [_Queue(name, free.get(name)) for name in queues]
        self._read(connection, each, max(1, ahead // len(each)), first=True)
        while True:
            places = sorted(place for queue in each for place in queue.places)
            ends = [(queue.places[-1], queue) for queue in each if queue.goes_on]
            wanted = places[limit - 1 : limit]
            asked = [queue for end, queue in ends if not wanted or end < wanted[0]]
            if not asked:
                certain = min((end for end, _queue in ends), default=None)
                return places if certain is None else [at for at in places if at <= certain]
            self._read(connection, asked, max(1, min(limit, ahead // len(asked))), first=False)

    def _read(
        self, connection: Connection, queues: Sequence[_Queue], share: int, *, first: bool
    ) -> None:
        """Read so many rows of each: the first ones, or the next ones."""
        asked = [share if queue.left is None else min(share, queue.left) for queue in queues]
        statement, size = self._statement(len(queues), first=first)
        given: dict[str, Any] = {}
        for at in range(size):
            queue = queues[min(at, len(queues) - 1)]
            most = asked[at] if at < len(queues) else 0
            given |= {f"queue_{at}": queue.name, f"most_{at}": most}
            if not first:
                end = queue.places[-1]
                given |= {f"rank_{at}": end.rank, f"number_{at}": end.number}
        found: list[list[Place]] = [[] for _ in queues]
        closed = set()
        rows: Any = statement.execute(connection, **given).all()
        for closed_name, at, rank, number in rows:
            if at is None:
                closed.add(closed_name)
            else:
                found[at].append(Place(rank, number))
        for queue, most, places in zip(queues, asked, found, strict=True):
            is_closed = queue.slots is None and queue.name in closed
            queue.add([] if is_closed else places, most)

    def _statement(self, number: int, *, first: bool) -> tuple[Statement, int]:
        """Return the statement that reads so many queues, and how many it does read: to read on
        there is one for each power of 2, and no row is read of the rest."""
        size = number if first else 1 << (number - 1).bit_length()
        statement = self._reading.get((size, first))
        if statement is None:
            parts = [self._part(at, name, first=first) for at, name in enumerate(_names(size))]
            if first:
                parts.append(self._pausing.names.add_columns(null(), null(), null()))
            statement = self._dialect.compiled(lambda: union_all(*parts))
            self._reading[size, first] = statement
        return statement, size

    def _part(self, at: int, name: Any, *, first: bool) -> Any:
        jobs = self._jobs
        # With a number instead of the name, so that the columns are those of a closed queue.
        columns: Any = (null(), literal_column(str(at)), jobs.c.rank, jobs.c.number)
        its = select(*columns).where(
            self._tables.stands(states.AVAILABLE), jobs.c.queue_name == name
        )
        if not first:
            rank: Any = bindparam(f"rank_{at}")
            number: Any = bindparam(f"number_{at}")
            follows = and_(jobs.c.rank == rank, jobs.c.number > number)
            its = its.where(or_(jobs.c.rank > rank, follows))
        its = its.order_by(jobs.c.rank, jobs.c.number)
        return its.limit(bindparam(f"most_{at}", type_=Integer()))


def _names(number: int) -> Sequence[Any]:
    return parameters(number) or ()
