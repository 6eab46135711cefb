"""Reads what an operator wants to know from the tables: running and waiting jobs, workers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, union_all

from ...job import NO_PROGRESS, WorkerInfo
from ...wording import address_of
from ..overview import (
    MOST_BEFORE,
    Connections,
    Overview,
    QueueDepth,
    QueuePosition,
    RunningJob,
)
from . import states
from .backlog import Backlog
from .dialect import Dialect
from .dialects import MariaDb, PostgreSql
from .sqlite import Sqlite
from .tables import Tables, instant
from .worker_registry import WorkerRegistry

#: Queries for the number of connections, and for its limit.
_CONNECTIONS: dict[type[Dialect], tuple[str, str]] = {
    PostgreSql: (
        "SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL",
        "SELECT current_setting('max_connections')",
    ),
    MariaDb: (
        "SELECT count(*) FROM information_schema.processlist",
        "SELECT @@max_connections",
    ),
}

#: The most uids in one condition.
_AT_ONCE = 500

#: By uid: value and total of a progress.
Reports = dict[str, tuple[int, int | None]]


class SqlOverview(Overview):
    """See ``Overview``. now: the database's clock, as an expression."""

    def __init__(
        self,
        tables: Tables,
        dialect: Dialect,
        workers: WorkerRegistry,
        now: Callable[[], ColumnElement[float]],
    ) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._dialect = dialect
        self._registry = workers
        self._now = now
        self._backlog = Backlog(tables, dialect, now)

    def now(self) -> datetime:
        with self._dialect.engine.connect() as connection:
            return instant(connection.execute(select(self._now())).scalar_one())

    def workers(self) -> list[WorkerInfo]:
        return self._registry.workers()

    def running(self, limit: int | None = None) -> list[RunningJob]:
        jobs = self._jobs
        wanted = (
            select(
                jobs.c.uid, jobs.c.name, jobs.c.queue_name, jobs.c.last_attempted_at,
                jobs.c.attempts, jobs.c.worker_id, jobs.c.cancelled,
            )
            .where(self._tables.stands(states.RUNNING))
            .order_by(jobs.c.last_attempted_at, jobs.c.number)
            .limit(limit)
        )  # fmt: skip
        with self._dialect.engine.connect() as connection:
            rows = connection.execute(wanted).all()
        reports, locks = self._said_of([row.uid for row in rows])
        return [
            RunningJob(
                row.uid, row.name, row.queue_name, instant(row.last_attempted_at), row.attempts,
                row.worker_id, *reports.get(row.uid, (NO_PROGRESS.value, None)), row.cancelled,
                _locks_since(row, locks),
            )
            for row in rows
        ]  # fmt: skip

    def _said_of(self, uids: list[str]) -> tuple[Reports, dict[str, float]]:
        """Read what workers say of jobs: their progress, and which of them hold SQLite's write lock
        and since when. Not by a join, since on SQLite it is in another file."""
        table, rows = self._tables.progress, list[Any]()
        with self._dialect.side_database.connect() as connection:
            for begin in range(0, len(uids), _AT_ONCE):
                wanted = select(table.c.uid, table.c.value, table.c.total)
                wanted = wanted.where(table.c.uid.in_(uids[begin : begin + _AT_ONCE]))
                noted = self._registry.noted_locks() if begin == 0 else None
                rows += connection.execute(wanted if noted is None else wanted.union_all(noted))
        locks = self._registry.locks_in([row for row in rows if row.value is None])
        return {row.uid: (row.value, row.total) for row in rows if row.value is not None}, locks

    def waiting(self, most: int | None = None) -> list[QueueDepth]:
        return self._backlog.depths(most)

    def _is_due(self) -> ColumnElement[bool]:
        jobs = self._jobs
        # The next claim of any worker makes a due job AVAILABLE.
        is_over = and_(jobs.c.state == states.SCHEDULED, jobs.c.due_at <= self._now())
        return or_(jobs.c.state == states.AVAILABLE, is_over)

    def position(self, uid: str) -> QueuePosition | None:
        jobs = self._jobs
        wanted = select(
            jobs.c.number, jobs.c.rank, jobs.c.queue_name, jobs.c.lease, jobs.c.attempts,
            jobs.c.state, jobs.c.blocked_by, self._is_due().label("is_due"),
        ).where(jobs.c.uid == uid, jobs.c.state.in_(states.WAITING))  # fmt: skip
        with self._dialect.engine.connect() as connection:
            row = connection.execute(wanted).one_or_none()
            if row is None:
                return None
            is_blocked = row.blocked_by is not None
            is_next = row.is_due or is_blocked
            before = connection.execute(self._before(row)).scalar_one() if is_next else 0
        # Each claim increases the lease; a release undoes its attempt, but not its lease.
        was_given_back = row.state == states.SCHEDULED and row.lease > 0 and row.attempts == 0
        return QueuePosition(not is_next, before, was_given_back, is_blocked=is_blocked)

    def _before(self, row: Any) -> Any:
        jobs = self._jobs
        if row.blocked_by is not None:
            in_queue = [jobs.c.blocked_by == row.blocked_by]
        else:
            in_queue = [self._tables.stands(states.AVAILABLE), jobs.c.queue_name == row.queue_name]
        # Two parts, since each is a range of the index, and both together are not.
        before = jobs.c.rank == row.rank, jobs.c.number < row.number
        parts = [
            select(select(jobs.c.number).where(*in_queue, *part).limit(MOST_BEFORE).subquery())
            for part in ((jobs.c.rank < row.rank,), before)
        ]
        if row.blocked_by is None:
            parts.append(self._due_before(row))
        return select(func.count()).select_from(
            select(union_all(*parts).subquery()).limit(MOST_BEFORE).subquery()
        )

    def _due_before(self, row: Any) -> Any:
        """Select those that the next claim makes AVAILABLE and takes first."""
        jobs = self._jobs
        is_over = self._tables.stands(states.SCHEDULED), jobs.c.due_at <= self._now()
        some = select(jobs.c.number, jobs.c.rank, jobs.c.queue_name).where(*is_over)
        due = some.order_by(jobs.c.due_at).limit(MOST_BEFORE).subquery().c
        is_first = or_(due.rank < row.rank, and_(due.rank == row.rank, due.number < row.number))
        return select(due.number).where(due.queue_name == row.queue_name, is_first)

    def connections(self) -> Connections | None:
        texts = _CONNECTIONS.get(type(self._dialect))
        if texts is None:
            return None
        with self._dialect.engine.connect() as connection:
            held, most = (connection.exec_driver_sql(text).scalar_one() for text in texts)
        return Connections(int(held), int(most))

    def database(self) -> str:
        return address_of(self._dialect.engine.url)

    def notification(self) -> str:
        if isinstance(self._dialect, Sqlite):
            return "by the file's counter of commits"
        driver = self._dialect.engine.dialect.driver
        if isinstance(self._dialect, PostgreSql) and driver == "psycopg":
            return "by LISTEN"
        return "by polling"


def _locks_since(row: Any, locks: dict[str, float]) -> datetime | None:
    """Since when the running attempt holds the lock, if its worker has said so."""
    since = locks.get(row.uid)
    # It may have been said of the attempt before.
    return None if since is None or since < row.last_attempted_at else instant(since)
