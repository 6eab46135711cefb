"""Turns ticks that are due into jobs, in any worker.

    read what is due --> decide --> [lock, move next_at, record the ticks, insert the jobs] --> wake

The brackets are one transaction. It begins with the row of the schedule, which must be as it was
read: of several workers one finds it so, and the others do nothing. A row that another transaction
has locked is left for a moment, so that this one waits for none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, insert, or_, select, update

from ... import tick_reasons
from ...errors import AsyncJobError, ConfigError, ModuleMissing
from ...job import Job, JobId
from ...recurrence import Due
from ...task import keys_for
from ..schedules import FIRED_AT_ONCE, FIRING_SECONDS, STALE_SECONDS
from .dialect import Dialect
from .insertion import Insertion
from .rows import Rows
from .schedule_rows import ScheduleRows, recurrence_of
from .tables import Clock, Tables

log = logging.getLogger(__name__)

#: How long a schedule is left alone, in seconds: that another transaction has locked; that this
#: process cannot read, and another one may.
LOCKED_SECONDS, ELSEWHERE_SECONDS = 1.5, 60.0

#: How late a tick is skipped whose module no worker has, in seconds.
PATIENCE_SECONDS = 600.0


class Firing:
    """new_uid, announced: of the backend."""

    def __init__(  # noqa: PLR0913 - the parts of a transaction
        self,
        tables: Tables,
        dialect: Dialect,
        clock: Clock,
        schedule_rows: ScheduleRows,
        rows: Rows,
        insertion: Insertion,
        new_uid: Callable[[], JobId],
        announced: Callable[[Sequence[Job]], None],
    ) -> None:
        self._table = tables.schedules
        self._ticks = tables.ticks
        self._dialect = dialect
        self._clock = clock
        self._schedule_rows = schedule_rows
        self._rows = rows
        self._insertion = insertion
        self._new_uid = new_uid
        self._announced = announced
        #: names of schedules that are left alone, and until when, by time.monotonic()
        self._left: dict[str, float] = {}

    def fire(self, declared: Collection[str]) -> tuple[int, float | None]:
        """Enqueue the jobs of the ticks that are due; return how many, and the seconds to the next
        tick; None: there is none. declared: names of the schedules that this process declares."""
        fired, until = 0, time.monotonic() + FIRING_SECONDS
        while True:
            rows, seconds = self._due(declared)
            for row in rows:
                fired += self._fire(row, row.name in declared)
                if time.monotonic() >= until:
                    return fired, 0.0
            if not rows:
                return fired, seconds

    def _due(self, declared: Collection[str]) -> tuple[Sequence[Row[Any]], float | None]:
        """Read the schedules with due ticks; if there are none, the seconds to the next tick."""
        table, now = self._table, self._clock.now()
        is_stale = table.c.declared_at < now - STALE_SECONDS
        ours = or_(table.c.declared_at.is_(None), table.c.name.in_(declared), is_stale)
        self._left = {name: at for name, at in self._left.items() if at > time.monotonic()}
        wanted = (ours, table.c.name.not_in(self._left)) if self._left else (ours,)
        next_at = select(func.min(table.c.next_at) - now)
        with self._dialect.engine.connect() as connection:
            seconds = connection.execute(next_at).scalar()
            if seconds is None or seconds > 0:
                return (), seconds
            due = select(table, now.label("now")).where(table.c.next_at <= now, *wanted)
            due = due.order_by(table.c.next_at).limit(FIRED_AT_ONCE)
            rows = connection.execute(due).all()
            if rows:
                return rows, seconds
            following = select(func.min(table.c.next_at) - now).where(table.c.next_at > now)
            # What others have to do is looked for again after a while.
            seconds = connection.execute(following).scalar()
        return (), LOCKED_SECONDS if seconds is None else min(seconds, LOCKED_SECONDS)

    def _fire(self, row: Row[Any], is_ours: bool) -> int:
        try:
            with self._dialect.begin() as connection:
                if not self._lock(row, connection):
                    return 0
                if row.declared_at is not None and not is_ours:
                    self._move(row, None, connection)
                    log.warning("schedule=%s is stale: no process declares it", row.name)
                    return 0
                jobs = self.decide(row, connection)
        except _NotHere as error:
            self._left[row.name] = time.monotonic() + ELSEWHERE_SECONDS
            log.warning("schedule=%s left to another worker: %s", row.name, error)
            return 0
        for job in jobs:
            log.info("job=%s enqueued by schedule=%s", job.uid, row.name)
        if jobs:
            self._announced(jobs)
        return len(jobs)

    def _lock(self, row: Row[Any], connection: Connection) -> bool:
        """Lock the row of a schedule; False if it is locked by another transaction, or was changed
        since it was read."""
        table = self._table
        as_read = (
            table.c.name == row.name,
            table.c.next_at == row.next_at,
            table.c.version == row.version,
        )
        wanted = select(table.c.name).where(*as_read)
        if self._dialect.skips_locked:
            wanted = wanted.with_for_update(skip_locked=True)
        if connection.execute(wanted).first() is not None:
            return True
        still = select(table.c.name).where(*as_read)
        if connection.execute(still).first() is not None:
            self._left[row.name] = time.monotonic() + LOCKED_SECONDS
        return False

    def _move(self, row: Row[Any], next_at: float | None, connection: Connection) -> None:
        table = self._table
        moved = update(table).where(table.c.name == row.name)
        connection.execute(moved.values(next_at=next_at))

    def decide(self, row: Row[Any], connection: Connection) -> list[Job]:
        """Record the ticks of a locked schedule that are due, and insert their jobs."""
        due, recorded = self._due_of(row), self._recorded(row, connection)
        try:
            jobs = {at: self.job(row) for at in due.fired if at not in recorded}
        except ModuleMissing as error:
            if row.now - row.next_at < PATIENCE_SECONDS:
                raise _NotHere(str(error)) from error
            due, jobs = self._refused(row, error), {}
        except Exception as error:  # noqa: BLE001 - a stored call may raise anything when it is read
            log.error("schedule=%s cannot enqueue a job: %s", row.name, error)
            due, jobs = self._refused(row, error), {}
        self._move(row, due.next_at, connection)
        skipped = [(at, reason) for at, reason in due.skipped if at not in recorded]
        self.store(row.name, list(jobs.items()), skipped, connection)
        return list(jobs.values())

    def _due_of(self, row: Row[Any], why_not: str | None = None) -> Due:
        if row.paused_at is not None:
            why_not = tick_reasons.paused(row.paused_by)
        try:
            return recurrence_of(row).due(row.next_at, row.now, why_not)
        except AsyncJobError as error:  # no cronsim here, or no such time zone
            raise _NotHere(str(error)) from error

    def _refused(self, row: Row[Any], error: Exception) -> Due:
        return self._due_of(row, tick_reasons.refused(error))

    def _recorded(self, row: Row[Any], connection: Connection) -> set[float]:
        """Read which ticks from the next one on were recorded before: there are some if the clock
        of the database was set back, and then the schedule changed."""
        ticks = self._ticks
        which = (ticks.c.schedule == row.name, ticks.c.instant >= row.next_at)
        return set(connection.execute(select(ticks.c.instant).where(*which)).scalars())

    def job(self, row: Row[Any]) -> Job:
        """Make a job of a schedule. Raises what reading its call raises."""
        call, options = self._schedule_rows.call(row)
        return Job(self._new_uid(), call, options, keys=keys_for(call, options))

    def store(
        self,
        name: str,
        jobs: Sequence[tuple[float, Job]],
        reasons: Sequence[tuple[float, str]],
        connection: Connection,
    ) -> None:
        """Insert jobs, and record ticks: those of the jobs, and others with their reasons."""
        of_ticks: dict[float, dict[str, Any]] = {
            at: {"schedule": name, "instant": at, "uid": None, "reason": str(reason)}
            for at, reason in reasons
        }
        for at, job in jobs:
            tick = of_ticks.setdefault(at, {"schedule": name, "instant": at, "reason": None})
            tick["uid"] = job.uid
        if of_ticks:
            connection.execute(insert(self._ticks), list(of_ticks.values()))
        if jobs:
            self._insertion.store([self._rows.of_job(job) for _, job in jobs], connection)


class _NotHere(ConfigError):
    """This process cannot decide on a schedule; another one may."""
