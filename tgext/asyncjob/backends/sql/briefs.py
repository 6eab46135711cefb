"""Reads how several jobs stand, in one query; on SQLite in a second one, of the side database.

If some of them wait, one more query for each of their queues reads which jobs are next.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, case, func, null, select

from ...job import storable
from ...sharing import user_of
from ..brief import MOST_QUEUES, MOST_SHOWN_BEFORE, TEXT_LENGTH, Brief, text_of
from . import states
from .dialect import Dialect
from .progress import NOTHING, ProgressWriter, Report, report_of
from .tables import Clock, Tables

#: Bytes of a report's data that are read: more than TEXT_LENGTH characters of it take as JSON.
_MOST_BYTES = 12 * TEXT_LENGTH + 100

#: What the queries are given.
_UIDS, _QUEUE = "uids", "queue"


class Briefs:
    """Its two queries are built once: that takes longer than a database needs for them."""

    def __init__(
        self, tables: Tables, dialect: Dialect, progress: ProgressWriter, clock: Clock
    ) -> None:
        self._tables = tables
        self._dialect = dialect
        self._progress = progress
        self._clock = clock

    @property
    def _is_one_database(self) -> bool:
        return self._dialect.side_database is self._dialect.engine

    def read(self, uids: Collection[str]) -> dict[str, Brief]:
        """See ``Backend.briefs``."""
        wanted = [uid for uid in dict.fromkeys(uids) if storable(uid) == uid]
        if not wanted:
            return {}
        reports = self._progress.unwritten(wanted)
        values = {_UIDS: wanted, **self._clock.moment()}
        with self._dialect.engine.connect() as connection:
            rows = connection.execute(self._of_jobs, values).all()
            before = self._numbers_before(rows, connection)
        if self._is_one_database:
            stored = {row.uid: report_of(row) for row in rows}
        else:
            stored = self._reports([row.uid for row in rows if row.uid not in reports])
        reports = {**stored, **reports}
        return {
            row.uid: _brief(row, reports.get(row.uid, NOTHING), before.get(row.uid)) for row in rows
        }

    def _numbers_before(self, rows: Sequence[Row[Any]], connection: Connection) -> dict[str, int]:
        """Count the jobs before each of those that wait, by the first ones of its queue: that reads
        as little for fifty jobs as for one."""
        waiting = [row for row in rows if row.state == states.AVAILABLE]
        found: dict[str, int] = {}
        for name in list(dict.fromkeys(row.queue_name for row in waiting))[:MOST_QUEUES]:
            first = connection.execute(self._of_first, {_QUEUE: name}).scalars()
            places = {number: place for place, number in enumerate(first)}
            for row in waiting:
                if row.queue_name == name:
                    found[row.uid] = places.get(row.number, MOST_SHOWN_BEFORE)
        return found

    @cached_property
    def _of_first(self) -> Any:
        jobs = self._tables.jobs
        is_next = self._tables.stands(states.AVAILABLE), jobs.c.queue_name == bindparam(_QUEUE)
        in_order = select(jobs.c.number).where(*is_next).order_by(jobs.c.rank, jobs.c.number)
        return in_order.limit(MOST_SHOWN_BEFORE)

    def _reports(self, uids: list[str]) -> dict[str, Report]:
        if not uids:
            return {}
        with self._dialect.side_database.connect() as connection:
            values = {_UIDS: uids, **self._clock.moment()}
            rows = connection.execute(self._of_reports, values)
            return {row.uid: report_of(row) for row in rows}

    @cached_property
    def _of_jobs(self) -> Any:
        jobs, errors, progress = self._tables.jobs, self._tables.errors, self._tables.progress
        others = errors.alias()
        # Not max(number): PostgreSQL would look for it from the end of the primary key, past the
        # errors of all other jobs. Nor by the number alone, for which it would read them all.
        latest = select(func.max(others.c.number + 0)).where(others.c.uid == jobs.c.uid)
        is_number = errors.c.number == latest.correlate(jobs).scalar_subquery()
        is_last = and_(errors.c.uid == jobs.c.uid, is_number)
        joined = jobs.outerjoin(errors, is_last)
        columns: list[Any] = [
            jobs.c.uid, jobs.c.number, jobs.c.queue_name, jobs.c.state, jobs.c.cancelled,
            jobs.c.enqueued_at, jobs.c.started_at,
            jobs.c.last_attempted_at, jobs.c.finished_at, jobs.c.due_at, jobs.c.attempts,
            jobs.c.context, errors.c.exception_class_path, errors.c.message,
            self._clock.clause.label("now"),
        ]  # fmt: skip
        if self._is_one_database:
            joined = joined.outerjoin(progress, progress.c.uid == jobs.c.uid)
            columns += self._reported
        return select(*columns).select_from(joined).where(_is_one_of(jobs.c.uid))

    @cached_property
    def _of_reports(self) -> Any:
        uid = self._tables.progress.c.uid
        return select(uid, *self._reported).where(_is_one_of(uid))

    @property
    def _reported(self) -> list[Any]:
        table = self._tables.progress
        fits = func.length(table.c.data) <= _MOST_BYTES
        data = case((fits, table.c.data), else_=null()).label("data")
        return [data, *self._progress.columns]


def _is_one_of(column: ColumnElement[str]) -> ColumnElement[bool]:
    return column.in_(bindparam(_UIDS, expanding=True))


def _brief(row: Row[Any], report: Report, before: int | None) -> Brief:
    now, state = row.now, row.state
    if not report.is_of(row.attempts):
        report = NOTHING
    return Brief(
        uid=row.uid,
        status=states.STATUS_OF[state],
        enqueued_ago=max(0.0, now - row.enqueued_at),
        is_cancelled=bool(row.cancelled) and state == states.RUNNING,
        started_ago=_ago(row.started_at, now),
        attempted_ago=_ago(row.last_attempted_at, now),
        finished_ago=_ago(row.finished_at, now),
        due_in=_until(row.due_at, now) if state == states.SCHEDULED else None,
        attempts=row.attempts,
        value=report.value,
        total=report.total,
        text=text_of(_loaded(report.data)),
        eta_seconds=report.eta_seconds if state == states.RUNNING else None,
        before=before,
        error_class=row.exception_class_path,
        error_message=row.message,
        user=user_of(_loaded(row.context)),
    )


def _loaded(text: str | None) -> Any:
    """Plain JSON; a value of a class stays the form that it is stored in, which has no text."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def _ago(seconds: float | None, now: float) -> float | None:
    return None if seconds is None else max(0.0, now - seconds)


def _until(seconds: float | None, now: float) -> float | None:
    return None if seconds is None or seconds <= now else seconds - now
