"""Pauses and limits queues: the table of them, and the conditions by which a claim heeds it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from ..audit import Act
from ..overview import PausedQueue
from . import states
from .auditing import SqlAudit
from .dialect import Dialect
from .tables import Tables, instant, listed


class Pausing:
    """now: returns the current time, as SQL."""

    def __init__(
        self,
        tables: Tables,
        dialect: Dialect,
        audit: SqlAudit,
        now: Callable[[], ColumnElement[float]],
    ) -> None:
        self._queues = tables.queues
        self._tables = tables
        self._dialect = dialect
        self._audit = audit
        self._now = now
        #: whether a queue has a limit, by the last look
        self.has_limits = False

    def pause(self, queue_name: str, user: str | None, act: Act | None) -> bool:
        """Pause a queue; False if it was paused before."""
        table = self._queues
        values = {"paused_at": self._now(), "paused_by": listed(user)}
        resumed = update(table).where(table.c.name == queue_name, table.c.paused_at.is_(None))
        with self._dialect.begin() as connection:
            self._make_known(queue_name, connection)
            paused = connection.execute(resumed.values(values)).rowcount
            self._audit.note(connection, act, "pause", queue_name, paused)
        return bool(paused)

    def _make_known(self, queue_name: str, connection: Connection) -> None:
        """Insert the row of a queue, unless there is one, or another process inserts it now."""
        name = self._queues.c.name
        if connection.execute(select(name).where(name == queue_name)).first() is None:
            with suppress(IntegrityError), connection.begin_nested():
                connection.execute(insert(self._queues).values(name=queue_name))

    def resume(self, queue_name: str, act: Act | None) -> bool:
        """End the pause of a queue; False if it was not paused."""
        table = self._queues
        paused = update(table).where(table.c.name == queue_name, table.c.paused_at.is_not(None))
        with self._dialect.begin() as connection:
            changed = connection.execute(paused.values(paused_at=None, paused_by=None)).rowcount
            self._audit.note(connection, act, "resume", queue_name, changed)
        return bool(changed)

    def paused(self) -> list[PausedQueue]:
        """Read the paused queues, in the order of their names."""
        table = self._queues
        wanted = select(table).where(table.c.paused_at.is_not(None)).order_by(table.c.name)
        with self._dialect.engine.connect() as connection:
            rows = connection.execute(wanted).all()
        return [PausedQueue(row.name, instant(row.paused_at), row.paused_by) for row in rows]

    def limit(self, queue_name: str, most: int | None, act: Act | None) -> None:
        """Let only so many jobs of a queue run at once; None: any number."""
        table = self._queues
        with self._dialect.begin() as connection:
            self._make_known(queue_name, connection)
            changed = update(table).where(table.c.name == queue_name).values(most=most)
            connection.execute(changed)
            said = f"{queue_name}: {'no limit' if most is None else most}"
            self._audit.note(connection, act, "limit", said, 1)

    def limits(self) -> dict[str, int]:
        """Read the queues with a limit."""
        table = self._queues
        wanted = select(table.c.name, table.c.most).where(table.c.most.is_not(None))
        with self._dialect.engine.connect() as connection:
            return {row.name: row.most for row in connection.execute(wanted.order_by(table.c.name))}

    def running_in_each(self, queue_names: Collection[str]) -> dict[str, int]:
        """Count the running jobs of each of some queues."""
        jobs, found = self._tables.jobs, dict.fromkeys(queue_names, 0)
        its = self._tables.stands(states.RUNNING), jobs.c.queue_name.in_(found)
        running = select(jobs.c.queue_name, func.count()).where(*its).group_by(jobs.c.queue_name)
        with self._dialect.engine.connect() as connection:
            found.update((name, count) for name, count in connection.execute(running))
        return found

    @property
    def names(self) -> Any:
        """The subquery of the names of the queues that a plain claim leaves out: the paused ones,
        and those with a limit."""
        return select(self._queues.c.name).where(self._is_closed)

    def is_open(self, queue_name: Any) -> ColumnElement[bool]:
        """The condition that a queue is none of these: no table of names is made to search it."""
        table = self._queues
        closed = select(table.c.name).where(table.c.name == queue_name, self._is_closed)
        return closed.scalar_subquery().is_(None)

    @property
    def _is_closed(self) -> ColumnElement[bool]:
        return or_(self._queues.c.paused_at.is_not(None), self._queues.c.most.is_not(None))

    def free_slots(self, connection: Connection, *, lock: bool = False) -> dict[str, int]:
        """Read the names that a plain claim leaves out, with the number of jobs that may be claimed
        from each now. lock: keep others from claiming in the queues with a limit until the
        transaction ends.
        """
        table, jobs = self._queues, self._tables.jobs
        if lock:
            limited = select(table.c.name).where(table.c.most.is_not(None)).order_by(table.c.name)
            connection.execute(limited.with_for_update())
        rows = connection.execute(select(table).where(table.c.name.in_(self.names))).all()
        self.has_limits = any(row.most is not None for row in rows)
        found = {row.name: 0 if row.paused_at is not None else row.most for row in rows}
        names = [name for name, most in found.items() if most]
        if names:
            running = select(jobs.c.queue_name, func.count().label("number"))
            running = running.where(self._tables.stands(states.RUNNING))
            running = running.where(jobs.c.queue_name.in_(names)).group_by(jobs.c.queue_name)
            for row in connection.execute(running):
                found[row.queue_name] = max(0, found[row.queue_name] - row.number)
        return found

    def unpaused(self, queues: Collection[str] | None) -> tuple[str, ...]:
        """Read from which of *queues* jobs may be claimed; None: from which queues that may be a
        job waits. That reads the index once for each name, whatever the number of jobs."""
        with self._dialect.engine.connect() as connection:
            free = self.free_slots(connection)
            names = self._waiting(connection) if queues is None else dict.fromkeys(queues)
            return tuple(name for name in names if free.get(name, 1))

    def _waiting(self, connection: Connection) -> Iterator[str]:
        """Read the names one after the other: no statement finds them so on all databases."""
        name = self._tables.jobs.c.queue_name
        least = select(name).where(self._tables.stands(states.AVAILABLE)).order_by(name).limit(1)
        found = connection.execute(least).scalar()
        while found is not None:
            yield found
            found = connection.execute(least.where(name > found)).scalar()
