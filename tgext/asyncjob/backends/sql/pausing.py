"""Pauses queues: the table of them, and the conditions by which a claim leaves them out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..overview import PausedQueue
from . import states
from .dialect import Dialect
from .tables import Tables, instant, listed


class Pausing:
    """now: returns the current time, as SQL."""

    def __init__(
        self, tables: Tables, dialect: Dialect, now: Callable[[], ColumnElement[float]]
    ) -> None:
        self._queues = tables.queues
        self._tables = tables
        self._dialect = dialect
        self._now = now

    def pause(self, queue_name: str, user: str | None) -> bool:
        """Pause a queue; False if it was paused before."""
        table = self._queues
        values = {"paused_at": self._now(), "paused_by": listed(user)}
        resumed = update(table).where(table.c.name == queue_name, table.c.paused_at.is_(None))
        with self._dialect.write() as connection:
            if connection.execute(resumed.values(values)).rowcount:
                return True
            try:
                connection.execute(insert(table).values(name=queue_name, **values))
            except IntegrityError:
                return False
        return True

    def resume(self, queue_name: str) -> bool:
        """End the pause of a queue; False if it was not paused."""
        table = self._queues
        paused = update(table).where(table.c.name == queue_name, table.c.paused_at.is_not(None))
        with self._dialect.write() as connection:
            changed = connection.execute(paused.values(paused_at=None, paused_by=None))
        return bool(changed.rowcount)

    def paused(self) -> list[PausedQueue]:
        """Read the paused queues, in the order of their names."""
        table = self._queues
        wanted = select(table).where(table.c.paused_at.is_not(None)).order_by(table.c.name)
        with self._dialect.engine.connect() as connection:
            rows = connection.execute(wanted).all()
        return [PausedQueue(row.name, instant(row.paused_at), row.paused_by) for row in rows]

    @property
    def names(self) -> Any:
        """The subquery of the names of the paused queues."""
        return select(self._queues.c.name).where(self._queues.c.paused_at.is_not(None))

    def unpaused(self, queues: Collection[str] | None) -> tuple[str, ...]:
        """Read which of *queues* are not paused; None: in which queues that are not paused a job
        waits. That reads the index once for each name, whatever the number of jobs."""
        with self._dialect.engine.connect() as connection:
            paused = set(connection.execute(self.names).scalars())
            names = self._waiting(connection) if queues is None else dict.fromkeys(queues)
            return tuple(name for name in names if name not in paused)

    def _waiting(self, connection: Connection) -> Iterator[str]:
        """Read the names one after the other: no statement finds them so on all databases."""
        name = self._tables.jobs.c.queue_name
        least = select(name).where(self._tables.stands(states.AVAILABLE)).order_by(name).limit(1)
        found = connection.execute(least).scalar()
        while found is not None:
            yield found
            found = connection.execute(least.where(name > found)).scalar()
