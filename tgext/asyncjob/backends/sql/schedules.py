"""Schedules in the database: ``changes`` of people and of declarations.

put, declare, pause ... --> schedules --> fire (firing.py) --> ticks, jobs
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from ... import tick_reasons
from ...errors import AsyncJobError, ConfigError
from ...job import Job, storable
from ...recurrence import Recurrence
from ..audit import Act
from ..schedules import (
    STALE_SECONDS,
    NewSchedule,
    ScheduleState,
    ScheduleStore,
    Tick,
    audited,
    other_origin,
)
from .auditing import SqlAudit
from .dialect import Dialect
from .firing import Firing
from .schedule_rows import ScheduleRows, timing_of
from .tables import Clock, Tables, instant, listed

log = logging.getLogger(__name__)

#: How often a schedule is tried to be stored that another process may create at the same time.
TRIES = 3

#: Two looks at the same instant find it at times that differ by less than that, in seconds.
NEAR_SECONDS = 0.05

#: The least time between two instants, as databases and datetimes have them, in seconds.
MICROSECOND = 1e-6


class SqlSchedules(ScheduleStore):
    """The schedules of one database. firing: what enqueues their jobs."""

    def __init__(  # noqa: PLR0913 - each is a part
        self,
        tables: Tables,
        dialect: Dialect,
        clock: Clock,
        rows: ScheduleRows,
        firing: Firing,
        audit: SqlAudit,
        ensure: Callable[[], None],
    ) -> None:
        self._audit = audit
        self._table = tables.schedules
        self._ticks = tables.ticks
        self._duplicates = tables.duplicates
        self._dialect = dialect
        self._clock = clock
        self._rows = rows
        self._firing = firing
        self._ensure = ensure
        self.begin()

    def begin(self) -> None:
        """Forget what this process has declared, in a forked child."""
        self._declared: dict[str, NewSchedule] = {}
        self._due_at = -math.inf  # nothing has been read yet

    # -- changes

    def put(self, schedule: NewSchedule, connection: Connection | None = None) -> ScheduleState:
        self._ensure()
        row = self._rows.of(schedule)
        tries_left = TRIES if connection is None else 1
        while True:
            tries_left -= 1
            try:
                with self._on(connection) as given:
                    self._put(schedule, row, given)
                    found = self._state(schedule.name, given)
            except IntegrityError:  # another process has just created it
                if not tries_left:
                    raise
            else:
                self.look_again()
                return found

    def _put(self, schedule: NewSchedule, row: dict[str, Any], connection: Connection) -> None:
        found = self._locked(schedule.name, connection)
        now = connection.execute(select(self._clock.now())).scalar_one()
        declared = {"declared_at": now} if schedule.is_declared else {"declared_at": None}
        if found is None:
            next_at = schedule.recurrence.next_after(now)
            connection.execute(insert(self._table).values({**row, **declared, "next_at": next_at}))
            return
        state = self._rows.state(found)
        if state.is_declared != schedule.is_declared and not state.is_stale:
            raise ConfigError(other_origin(schedule.name, state.is_declared))
        values: dict[str, Any] = {**row, **declared}
        timing = ("cron", "every", "timezone")
        if found.next_at is None or any(row[name] != getattr(found, name) for name in timing):
            values["next_at"] = schedule.recurrence.next_after(now)
        changed = "next_at" in values or any(row[name] != getattr(found, name) for name in row)
        values["version"] = self._table.c.version + int(changed)
        self._update(schedule.name, values, connection)

    def _state(self, name: str, connection: Connection) -> ScheduleState:
        return self._rows.state(connection.execute(self._wanted(self._table.c.name == name)).one())

    def _wanted(self, *conditions: Any) -> Any:
        """Select rows of schedules, with the time of the clock of the database."""
        return select(self._table, self._clock.now().label("now")).where(*conditions)

    def declare(self, schedules: Sequence[NewSchedule]) -> None:
        table = self._table
        known = table.c.name.in_([schedule.name for schedule in schedules])
        fires = select(table.c.name).where(known, table.c.next_at.is_not(None))
        there: set[str] = set()
        if schedules:
            self._ensure()
            with self._dialect.engine.connect() as connection:
                there = set(connection.execute(fires).scalars())
        for schedule in schedules:
            is_known = self._declared.get(schedule.name) == schedule
            if not (is_known and schedule.name in there):
                try:
                    self.put(schedule)
                except (AsyncJobError, IntegrityError) as error:
                    log.error("schedule=%s cannot be declared: %s", schedule.name, error)
                else:
                    self._declared[schedule.name] = schedule
        self._note_declared()

    def _note_declared(self) -> None:
        """Note that the schedules of this process are declared, at once for all, and not once more
        if another process has just done it."""
        names, declared_at = list(self._declared), self._table.c.declared_at
        if not names:
            return
        is_old = declared_at < self._clock.now() - STALE_SECONDS / 10
        ours = (self._table.c.name.in_(names), is_old)
        with self._dialect.engine.connect() as connection:  # a write may wait for a job
            if connection.execute(select(self._table.c.name).where(*ours).limit(1)).first() is None:
                return
        seen = update(self._table).where(*ours).values(declared_at=self._clock.now())
        with self._dialect.write() as connection:
            connection.execute(seen)

    def retime(
        self, name: str, recurrence: Recurrence, connection: Connection | None = None
    ) -> bool:
        with self._on(connection) as given:
            found = self._locked(name, given)
            if found is None:
                return False
            timing = timing_of(recurrence)
            values = {**timing, "version": self._table.c.version + 1}
            if any(timing[each] != getattr(found, each) for each in ("cron", "every", "timezone")):
                values["next_at"] = recurrence.next_after(found.now)
            self._update(name, values, given)
        self.look_again()
        return True

    def pause(
        self,
        name: str,
        user: str | None,
        connection: Connection | None = None,
        act: Act | None = None,
    ) -> bool:
        table = self._table
        paused = update(table).where(table.c.name == name, table.c.paused_at.is_(None))
        values = {"paused_at": self._clock.now(), "paused_by": listed(user)}
        with self._on(connection) as given:
            changed = given.execute(paused.values({**values, "version": table.c.version + 1}))
            self._audit.note(given, act, "pause", audited(name), changed.rowcount)
            return bool(changed.rowcount)

    def resume(
        self, name: str, connection: Connection | None = None, act: Act | None = None
    ) -> bool:
        with self._on(connection) as given:
            found = self._locked(name, given)
            if found is None or found.paused_at is None:
                self._audit.note(given, act, "resume", audited(name), 0)
                return False
            while found.next_at is not None and found.next_at <= found.now:
                self._firing.decide(found, given)  # all of them are skipped
                found = self._locked(name, given)
                if found is None:
                    return False
            values = {"paused_at": None, "paused_by": None, "version": self._table.c.version + 1}
            self._update(name, values, given)
            self._audit.note(given, act, "resume", audited(name), 1)
        self.look_again()
        return True

    def delete(
        self, name: str, connection: Connection | None = None, act: Act | None = None
    ) -> bool:
        with self._on(connection) as given:
            deleted = given.execute(delete(self._table).where(self._table.c.name == name))
            given.execute(delete(self._ticks).where(self._ticks.c.schedule == name))
            self._audit.note(given, act, "delete", audited(name), deleted.rowcount)
            return bool(deleted.rowcount)

    def run_now(
        self, name: str, connection: Connection | None = None, act: Act | None = None
    ) -> Job | None:
        with self._on(connection) as given:
            found = self._locked(name, given)
            if found is None:
                return None
            job = self._firing.job(found)
            # Not at a whole second, where the next tick may be.
            at = found.now if found.now % 1 else found.now + MICROSECOND
            while given.execute(select(exists(self._tick_at(name, at)))).scalar():
                at += MICROSECOND
            self._firing.store(name, [(at, job)], [(at, tick_reasons.RUN_NOW)], given)
            self._audit.note(given, act, "run now", audited(name), 1)
            return job

    def _tick_at(self, name: str, at: float) -> Any:
        return select(self._ticks.c.instant).where(
            self._ticks.c.schedule == name, self._ticks.c.instant == at
        )

    def _locked(self, name: str, connection: Connection) -> Row[Any] | None:
        """Read a row, and keep others from changing it until the end of the transaction."""
        wanted = self._wanted(self._table.c.name == name).with_for_update()
        found: Row[Any] | None = connection.execute(wanted).one_or_none()
        return found

    def _update(self, name: str, values: dict[str, Any], connection: Connection) -> None:
        connection.execute(update(self._table).where(self._table.c.name == name).values(values))

    @contextmanager
    def _on(self, connection: Connection | None) -> Iterator[Connection]:
        self._ensure()
        if connection is not None:
            yield connection
            return
        with self._dialect.begin() as own:
            yield own

    # -- read

    def get(self, name: str, connection: Connection | None = None) -> ScheduleState | None:
        self._ensure()
        if storable(name) != name:  # a database refuses it
            return None
        wanted = self._wanted(self._table.c.name == name)
        if connection is not None:
            row = connection.execute(wanted).one_or_none()
        else:
            with self._dialect.engine.connect() as own:
                row = own.execute(wanted).one_or_none()
        return None if row is None else self._rows.state(row)

    def all(self) -> list[ScheduleState]:
        self._ensure()
        with self._dialect.engine.connect() as connection:
            rows = connection.execute(self._wanted().order_by(self._table.c.name)).all()
        return [self._rows.state(row) for row in rows]

    def ticks(self, name: str, limit: int) -> list[Tick]:
        ticks, duplicates = self._ticks, self._duplicates
        wanted = select(ticks.c.instant, ticks.c.uid, ticks.c.reason, duplicates.c.leads_to)
        wanted = wanted.outerjoin(duplicates, duplicates.c.uid == ticks.c.uid)
        wanted = wanted.where(ticks.c.schedule == name).order_by(ticks.c.instant.desc())
        with self._dialect.engine.connect() as connection:
            rows = connection.execute(wanted.limit(limit)).all()
        return [Tick(instant(row.instant), row.uid, _reason(row)) for row in rows]

    # -- ticks

    def due_at(self) -> float:
        return self._due_at

    def look_again(self) -> None:
        """Let ``fire`` look when the next tick is, and have it called."""
        self._due_at = -math.inf
        self.wake()

    def due_in(self, seconds: float | None) -> None:
        """Note what a look at the table has found: the seconds to the next tick; None: none."""
        due_at = math.inf if seconds is None else time.monotonic() + seconds
        is_earlier, self._due_at = due_at < self._due_at - NEAR_SECONDS, due_at
        if is_earlier:
            self.wake()

    def fire(self) -> int:
        self._ensure()
        fired, seconds = self._firing.fire(self._declared)
        self.due_in(seconds)
        return fired

    def prune(self, retention_seconds: float) -> int:
        """Remove the ticks that are older than that, and return how many."""
        is_old = self._ticks.c.instant < self._clock.now() - retention_seconds
        with self._dialect.engine.connect() as connection:  # a write may wait for a job
            one = select(self._ticks.c.instant).where(is_old).limit(1)
            if connection.execute(one).first() is None:
                return 0
        with self._dialect.write() as connection:
            return connection.execute(delete(self._ticks).where(is_old)).rowcount


def _reason(row: Any) -> str | None:
    if row.leads_to is not None:
        return tick_reasons.duplicate_of(row.leads_to)
    return None if row.reason is None else tick_reasons.read(row.reason)
