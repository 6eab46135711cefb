"""Lists jobs, each page by indexes in their order, so that no list sorts what it does not show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, select, union_all

from ..listing import Counted, Cursor, Found, JobFilter
from . import states
from .dialect import Dialect
from .list_parts import End, ListParts, Part, Range
from .tables import Tables

#: Ranges of one statement; SQLite allows 500.
MOST_RANGES = 400


class Listing:
    """The jobs of one database."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._jobs = tables.jobs
        self._parts = ListParts(tables, dialect)
        self._dialect = dialect

    def page(
        self, wanted: JobFilter, after: Cursor | None, limit: int, look_at: int | None = None
    ) -> Found:
        """See ``Backend.find``."""
        rows: list[Any] = []
        horizon = None
        with self._dialect.engine.connect() as connection:
            for part in self._parts.of(wanted, after, look_at, connection):
                end = self._end(part, look_at, connection)
                for statement in self._statements(part, end, limit + 1):
                    rows += connection.execute(statement)
                if end is not None:
                    horizon = Cursor.behind(part.place, end.value)
                if horizon is not None or len(rows) > limit:
                    break
        # Sorted here: of a UNION not every database reads each part in its order.
        rows.sort(key=lambda row: _cursor(row).place)
        found = rows[:limit]
        last = _cursor(found[-1]) if len(rows) > limit else horizon
        return Found([row.uid for row in found], None if last is None else str(last))

    def count(self, wanted: JobFilter, most: int, look_at: int | None = None) -> Counted:
        """See ``Backend.count``."""
        number, is_all = 0, True
        with self._dialect.engine.connect() as connection:
            for part in self._parts.of(wanted, None, look_at, connection):
                end = self._end(part, look_at, connection)
                for some in self._statements(part, end, most + 1):
                    counted = select(func.count()).select_from(some.subquery())
                    number += connection.execute(counted).scalar_one()
                is_all = is_all and end is None and number <= most
                if number > most:
                    break
        return Counted(min(most, number), is_all)

    def _end(self, part: Part, look_at: int | None, connection: Connection) -> End | None:
        """Return how far a part is looked at, so that this comes to *look_at* jobs, or at most to
        twice as many; None: as far as it goes."""
        ranges = [each for each in part.ranges if each.is_searched]
        if look_at is None or not ranges:
            return None
        number = look_at // len(ranges)
        found = self._behind(part, ranges, number, connection)
        large = [each for each, value in zip(ranges, found, strict=True) if value is not None]
        if 0 < len(large) < len(ranges):  # what the others leave over is theirs
            number = look_at // len(large)
            found = self._behind(part, large, number, connection)
        ends = [value for value in found if value is not None]
        return End(part.first(ends), number + 1) if ends else None

    def _behind(
        self, part: Part, ranges: Sequence[Range], number: int, connection: Connection
    ) -> Sequence[float | None]:
        """Return the column of the job behind so many of each range; None: it has no more."""
        those = [
            self._of_range(part, each, None, part.column).offset(number).limit(1).scalar_subquery()
            for each in ranges
        ]
        return connection.execute(select(*those)).one()

    def _of_range(self, part: Part, some: Range, end: End | None, *columns: Any) -> Any:
        """Select columns of the jobs of a range up to *end*, in its order."""
        value = None if end is None or some.rank is not None else end.value
        wanted = select(*columns).where(*part.within(some, value)).order_by(*some.order)
        if some.index_name is None:
            return wanted
        hint = f"FORCE INDEX ({some.index_name})"
        return wanted.with_hint(self._jobs, hint, "mysql").with_hint(self._jobs, hint, "mariadb")

    def _first(self, part: Part, some: Range, end: End | None, limit: int) -> Any:
        """Select the first jobs of the list in a range, up to *end*."""
        if end is None or some.rank is None:
            wanted = self._of_range(part, some, end, *_columns(self._jobs.c))
            return wanted.where(*part.conditions(self._jobs.c)).limit(limit)
        most = end.number if some.is_searched else limit
        looked_at = self._of_range(part, some, end, self._jobs).limit(most).subquery()
        job = looked_at.c
        wanted = select(*_columns(job)).where(job.number >= end.value, *part.conditions(job))
        return wanted.order_by(job.rank.desc(), job.number.desc()).limit(limit)

    def _statements(self, part: Part, end: End | None, limit: int) -> list[Any]:
        """Select the first jobs of each range of a part, up to *end*."""
        found = [self._first(part, each, end, limit) for each in part.ranges]
        if len(found) == 1:
            return found
        of_ranges = [select(each.subquery()) for each in found]
        return [
            union_all(*of_ranges[begin : begin + MOST_RANGES])
            for begin in range(0, len(of_ranges), MOST_RANGES)
        ]


def _columns(job: Any) -> list[Any]:
    """The columns of a job that its place is made of."""
    return [job.uid, job.number, job.finished_at, job.due_at, job.state]


def _cursor(row: Any) -> Cursor:
    due_at = row.due_at if row.state == states.SCHEDULED else None
    return Cursor(row.number, row.finished_at, due_at)
