"""Counts jobs, each state by its own index, which is much smaller than the table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, union_all

from ...job import TaskResultStatus
from . import states
from .dialect import Dialect
from .tables import Tables


class Counting:
    """Counts the jobs of one database."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._dialect = dialect

    def by_status(self, most: int | None) -> dict[TaskResultStatus, int]:
        """Return the number of jobs of each status; of each state up to *most*, None: all."""
        found = dict.fromkeys(TaskResultStatus, 0)
        of_each = [self._number(state, most).scalar_subquery() for state in states.STATUS_OF]
        with self._dialect.engine.connect() as connection:
            row = connection.execute(select(*of_each)).one()
        for status, count in zip(states.STATUS_OF.values(), row, strict=True):
            found[status] += count
        return found

    def _number(self, state: int, most: int | None) -> Any:
        stands = self._tables.stands(state)
        if most is None:
            return select(func.count()).where(stands)
        some = select(self._tables.jobs.c.state).where(stands).limit(most).subquery()
        return select(func.count()).select_from(some)

    def waiting(self, most: int | None) -> int:
        """Count the waiting jobs, delayed or not, up to *most*; None: all."""
        jobs = self._tables.jobs
        of_each = [
            select(select(jobs.c.number).where(self._tables.stands(state)).limit(most).subquery())
            for state in states.WAITING
        ]
        some = union_all(*of_each).limit(most).subquery()
        with self._dialect.engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(some)).scalar_one())
