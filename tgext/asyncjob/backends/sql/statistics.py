"""Keeps the statistics of all processes in a table, a row for each minute, task and queue.

    take     of all workers one counts
    count    each closed minute, soon and once more when it is settled
    replace  the rows of a minute by what was counted, and the sums of its half hour

A minute is read from the jobs anew each time, and its rows are replaced, so that nothing is counted
twice, whoever is killed when. Its key and the version of the beginning let no two processes replace
it at once. Each number is the larger one of the rows and the count: a job may have been committed
after the first count, and another one was retried or removed since.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, delete, func, insert, literal_column, select, update
from sqlalchemy.exc import IntegrityError

from ..statistics import (
    BOUNDS,
    LEAST_KEPT,
    MINUTE,
    MOST_NAMES,
    OTHERS,
    SUMMED,
    Counts,
    Name,
    Statistics,
    minute_of,
)
from .dialect import Dialect
from .ended_minutes import EndedMinutes
from .tables import Clock, Tables

#: How long a minute is over before it is counted, in seconds: a commit takes less as a rule.
CLOSED_SECONDS = 5.0

#: How long it is over before it is counted for good. A job ends by the clock at its last statement,
#: and is seen after its commit; one that takes longer than this is not counted.
SETTLED_SECONDS = 300.0

#: How long one call of ``collect`` counts, in seconds: a rescue waits for it.
COLLECTING_SECONDS = 0.2

#: How long others leave the counting to a process that has begun, in seconds.
TAKEN_SECONDS = 60.0

#: How long minutes and their sums are kept, by the number of minutes in a row: in minutes.
KEPT = {1: 2 * 24 * 60, SUMMED: 8 * 24 * 60}

#: Minutes that one transaction removes.
REMOVED_AT_ONCE = 60

_SUMS = (
    "done", "failed", "cancelled", "retried", "started", "waited_seconds", "ran_seconds",
    *(f"took_{number}" for number in range(len(BOUNDS) + 1)),
)  # fmt: skip


class _Mark(NamedTuple):
    """Up to which minutes it is counted, and settled, by which beginning."""

    counted: int
    settled: int
    version: int


class SqlStatistics(Statistics):
    """See ``Statistics``."""

    def __init__(self, tables: Tables, dialect: Dialect, clock: Clock) -> None:
        self._minutes = tables.minutes
        self._counted = tables.counted
        self._dialect = dialect
        self._clock = clock
        self._ended = EndedMinutes(tables, dialect)
        self.begin()

    def begin(self) -> None:
        """Begin, also in a forked child."""
        self._lock = threading.Lock()
        self._going: Iterator[None] | None = None

    # -- collect

    def collect(self) -> bool:
        if not self._lock.acquire(blocking=False):  # another worker of this process does it
            return False
        try:
            until = time.monotonic() + COLLECTING_SECONDS
            going, self._going = self._going or self._collect(), None  # kept if there is no error
            for _ in going:
                if time.monotonic() >= until:
                    self._going = going
                    return True
            return False
        finally:
            self._lock.release()

    def _collect(self) -> Iterator[None]:
        """Count what there is to count, in steps of some milliseconds."""
        now, mark = self._read_mark()
        closed, settled = minute_of(now - CLOSED_SECONDS), minute_of(now - SETTLED_SECONDS)
        is_set_back = mark.counted > closed  # the clock: these minutes come once more
        mark = mark._replace(counted=min(mark.counted, closed), settled=min(mark.settled, settled))
        self._remove_old(closed)
        spans = ((mark.settled, settled), (max(mark.counted, settled), closed))
        if not is_set_back and all(self._first_of(*span) is None for span in spans):
            return  # on SQLite a write takes the lock
        taken = self._take(now, mark)
        if taken is None:
            return
        yield from self._count_span(*spans[0], taken, is_settled=True)
        yield from self._count_span(*spans[1], taken, is_settled=False)
        with self._dialect.write() as connection:
            self._move(connection, _Mark(closed, settled, taken.version), is_over=True)

    def _read_mark(self) -> tuple[float, _Mark]:
        """Read the clock, and how far it is counted."""
        table = self._counted
        with self._dialect.engine.connect() as connection:
            now: float = connection.execute(select(self._clock.now())).scalar_one()
            row = connection.execute(select(table)).first()
        if row is not None:
            return now, _Mark(row.counted_until, row.settled_until, row.version)
        since = minute_of(now) - LEAST_KEPT  # what a page shows
        return now, _Mark(since, since, 0)

    def _first_of(self, first: int, until: int) -> float | None:
        """Return when the first job of some minutes ended."""
        if first >= until:
            return None
        return self._ended.first(float(first * MINUTE), float(until * MINUTE))

    def _take(self, now: float, mark: _Mark) -> _Mark | None:
        """Begin to count; None: another process has begun."""
        table, taken = self._counted, mark._replace(version=mark.version + 1)
        with self._dialect.write() as connection:
            if not mark.version:
                values = {"number": 1, "counted_until": mark.counted, "settled_until": mark.settled}
                try:
                    connection.execute(insert(table).values(**values, taken_at=now, version=1))
                except IntegrityError:
                    return None
                return taken
            is_free = table.c.taken_at.is_(None) | ~table.c.taken_at.between(
                now - TAKEN_SECONDS, now
            )
            took = update(table).where(table.c.version == mark.version, is_free)
            done = connection.execute(took.values(taken_at=now, version=taken.version))
            return taken if done.rowcount else None

    def _move(self, connection: Connection, mark: _Mark, *, is_over: bool = False) -> bool:
        """Write how far it is counted; False: another process has begun anew."""
        table = self._counted
        values: dict[str, Any] = {"counted_until": mark.counted, "settled_until": mark.settled}
        if is_over:
            values["taken_at"] = None
        moved = update(table).where(table.c.version == mark.version)
        return bool(connection.execute(moved.values(**values)).rowcount)

    def _count_span(
        self, first: int, until: int, taken: _Mark, *, is_settled: bool
    ) -> Iterator[None]:
        """Count the minutes in which something has ended."""
        while (at := self._first_of(first, until)) is not None:
            minute = minute_of(at)
            first, end = minute + 1, float((minute + 1) * MINUTE)
            found: dict[Name, Counts] = {}
            while at < end:
                at = self._ended.count(at, end, found)
                yield
            mark = _Mark(max(first, taken.counted), taken.settled, taken.version)
            mark = mark._replace(settled=first) if is_settled else mark
            if not self._replace(minute, found, mark):
                return

    def _replace(self, minute: int, found: dict[Name, Counts], mark: _Mark) -> bool:
        """Replace the rows of a minute; False: another process has begun anew."""
        table = self._minutes
        with self._dialect.begin() as connection:
            if not self._move(connection, mark):
                return False
            its = table.c.span == 1, table.c.minute == minute
            rows = connection.execute(select(table).where(*its)).all()
            stored = {Name(row.task_name, row.queue_name): _counts(row) for row in rows}
            wanted = merged(stored, found)
            if wanted != stored:
                self._store(connection, 1, minute, wanted)
                self._add_up(connection, minute - minute % SUMMED)
        return True

    def _add_up(self, connection: Connection, first: int) -> None:
        """Replace the sums of the minutes from *first* on."""
        columns = self._minutes.c
        names = columns.task_name, columns.queue_name
        of_each = self._sums(1, first, *names).where(columns.minute < first + SUMMED)
        rows = connection.execute(of_each.group_by(*names))
        found = {Name(row.task_name, row.queue_name): _counts(row) for row in rows}
        self._store(connection, SUMMED, first, merged({}, found))

    def _store(
        self, connection: Connection, span: int, minute: int, wanted: dict[Name, Counts]
    ) -> None:
        table = self._minutes
        its = table.c.span == span, table.c.minute == minute
        connection.execute(delete(table).where(*its))
        of_it = {"span": span, "minute": minute}
        rows = [of_it | name._asdict() | _values(counts) for name, counts in wanted.items()]
        connection.execute(insert(table), rows)

    def _remove_old(self, now: int) -> None:
        """Remove the oldest minutes and sums that are no longer kept."""
        table = self._minutes
        for span, kept in KEPT.items():
            oldest_of_span = select(func.min(table.c.minute)).where(table.c.span == span)
            with self._dialect.engine.connect() as connection:
                oldest = connection.execute(oldest_of_span).scalar()
            if oldest is not None and oldest < now - kept:
                until = min(now - kept, oldest + REMOVED_AT_ONCE * span)
                old = delete(table).where(table.c.span == span, table.c.minute < until)
                with self._dialect.write() as connection:
                    connection.execute(old)

    # -- read

    def series(self, since: int, step: int) -> dict[int, Counts]:
        minute, span = self._minutes.c.minute, 1 if step % SUMMED else SUMMED
        slot = (minute - minute % literal_column(str(step), Integer())).label("slot")
        wanted = self._sums(span, since, slot).group_by(slot).order_by(slot)
        with self._dialect.engine.connect() as connection:
            rows = connection.execute(wanted).all()
        return {int(row.slot): _counts(row) for row in rows}

    def by_task(self, since: int, limit: int) -> list[tuple[str, Counts]]:
        columns = self._minutes.c
        ended = func.sum(columns.done + columns.failed + columns.cancelled)
        wanted = self._sums(SUMMED, since, columns.task_name).group_by(columns.task_name)
        wanted = wanted.order_by(ended.desc(), columns.task_name).limit(limit)
        with self._dialect.engine.connect() as connection:
            rows = connection.execute(wanted).all()
        return [(row.task_name, _counts(row)) for row in rows]

    def _sums(self, span: int, since: int, *by: Any) -> Any:
        columns = self._minutes.c
        sums = (func.sum(columns[name]).label(name) for name in _SUMS)
        return select(*by, *sums).where(columns.span == span, columns.minute >= since)


def _counts(row: Any) -> Counts:
    """Read the counts of a row, or the sums of several: MariaDB's are decimal numbers."""
    found = row._mapping
    numbers: dict[str, Any] = {name: int(found[name]) for name in _SUMS[:5]}
    numbers |= {name: float(found[name]) for name in _SUMS[5:7]}
    return Counts(**numbers, took=[int(found[name]) for name in _SUMS[7:]])


def _values(counts: Counts) -> dict[str, Any]:
    of_sums = [*(getattr(counts, each) for each in _SUMS[:7]), *counts.took]
    return dict(zip(_SUMS, of_sums, strict=True))


def merged(stored: dict[Name, Counts], found: dict[Name, Counts]) -> dict[Name, Counts]:
    """Return the rows of a minute. stored: those it has; each keeps its name. found: what was
    counted now; the most frequent of them get what names are left."""
    new = sorted(found.keys() - stored.keys(), key=lambda name: (-found[name].ended, name))
    named = [name for name in (*stored, *new) if name != OTHERS][:MOST_NAMES]
    wanted = {name: Counts() for name in named}
    for name, counts in found.items():
        wanted.setdefault(name if name in wanted else OTHERS, Counts()).add(counts)
    for name, counts in stored.items():
        wanted.setdefault(name, Counts()).raise_to(counts)
    return wanted
