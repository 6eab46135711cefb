"""Lists jobs, each page by indexes in their order, so that no list sorts what it does not show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, select

from ..listing import Counted, Cursor, Found, JobFilter
from . import states
from .dialect import Dialect
from .list_parts import End, ListParts, Part, Range
from .range_texts import RangeTexts, Text, columns, count
from .tables import Tables

#: Ranges of one statement; SQLite allows 500.
MOST_RANGES = 400


class Listing:
    """The jobs of one database."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._jobs = tables.jobs
        self._parts = ListParts(tables, dialect)
        self._dialect = dialect
        self._texts = RangeTexts(dialect.engine.dialect)

    def page(
        self, wanted: JobFilter, after: Cursor | None, limit: int, look_at: int | None = None
    ) -> Found:
        """See ``Backend.find``."""
        rows: list[Any] = []
        horizon = None
        with self._dialect.engine.connect() as connection:
            for part in self._parts.of(wanted, after, look_at, connection):
                end = self._end(part, look_at, connection)
                for text in self._first(part, end, limit + 1):
                    rows += text.execute(connection)
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
                for text in self._first(part, end, most + 1):
                    number += count(text).execute(connection).scalar_one()
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
        number = look_at // sum(len(each.ranks) for each in ranges)
        found = self._behind(part, ranges, number, connection)
        is_large = iter([value is not None for value in found])
        large = [
            each._replace(ranks=[rank for rank in each.ranks if next(is_large)]) for each in ranges
        ]
        left = sum(len(each.ranks) for each in large)
        if 0 < left < len(found):  # what the others leave over is theirs
            number = look_at // left
            found = self._behind(part, large, number, connection)
        ends = [value for value in found if value is not None]
        return End(part.first(ends), number + 1) if ends else None

    def _behind(
        self, part: Part, ranges: Sequence[Range], number: int, connection: Connection
    ) -> Sequence[float | None]:
        """Return the column of the job behind so many of each range; None: it has no more."""
        texts = self._of_each(
            ranges,
            lambda some: self._of_range(part, some, None, part.column).offset(number).limit(1),
        )
        return columns(texts).execute(connection).one()

    def _of_each(self, ranges: Sequence[Range], selected: Callable[[Range], Any]) -> list[Text]:
        """Return what *selected* returns for a range, for each of its priorities."""
        texts = [(self._texts.of(selected(each)), each.ranks) for each in ranges if each.ranks]
        return [text.of(rank) for text, ranks in texts for rank in ranks]

    def _of_range(self, part: Part, some: Range, end: End | None, *columns: Any) -> Any:
        """Select columns of the jobs of a range up to *end*, in its order."""
        value = None if end is None or some.is_ranked else end.value
        wanted = select(*columns).where(*part.within(some, value)).order_by(*some.order)
        if some.index_name is None:
            return wanted
        hint = f"FORCE INDEX ({some.index_name})"
        return wanted.with_hint(self._jobs, hint, "mysql").with_hint(self._jobs, hint, "mariadb")

    def _first(self, part: Part, end: End | None, limit: int) -> list[Text]:
        """Select the first jobs of the list in each range of a part, up to *end*."""
        found = self._of_each(
            part.ranges, lambda some: self._first_of_range(part, some, end, limit)
        )
        begins = range(0, len(found), MOST_RANGES)
        return [self._texts.union_all(found[begin : begin + MOST_RANGES]) for begin in begins]

    def _first_of_range(self, part: Part, some: Range, end: End | None, limit: int) -> Any:
        if end is None or not some.is_ranked:
            wanted = self._of_range(part, some, end, *_columns(self._jobs.c))
            return wanted.where(*part.conditions(self._jobs.c)).limit(limit)
        most = end.number if some.is_searched else limit
        looked_at = self._of_range(part, some, end, self._jobs).limit(most).subquery()
        job = looked_at.c
        wanted = select(*_columns(job)).where(job.number >= end.value, *part.conditions(job))
        return wanted.order_by(job.rank.desc(), job.number.desc()).limit(limit)


def _columns(job: Any) -> list[Any]:
    """The columns of a job that its place is made of."""
    return [job.uid, job.number, job.finished_at, job.due_at, job.state]


def _cursor(row: Any) -> Cursor:
    due_at = row.due_at if row.state == states.SCHEDULED else None
    return Cursor(row.number, row.finished_at, due_at)
