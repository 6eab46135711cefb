"""Reads jobs with their errors and progress, by three queries, however many they are."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from ...job import NO_PROGRESS, Snapshot, TaskError, storable
from .dialect import Dialect
from .progress import ProgressWriter
from .rows import Rows
from .tables import Tables


class Snapshots:
    """The jobs of one database."""

    def __init__(
        self, tables: Tables, dialect: Dialect, rows: Rows, progress: ProgressWriter
    ) -> None:
        self._tables = tables
        self._dialect = dialect
        self._rows = rows
        self._progress = progress

    def read(self, uids: Sequence[str]) -> list[Snapshot]:
        """See ``Backend.get_many``."""
        wanted = [uid for uid in uids if storable(uid) == uid]  # a database refuses others
        if not wanted:
            return []
        jobs, errors = self._tables.jobs, self._tables.errors
        of_these = (
            select(
                errors.c.uid, errors.c.exception_class_path, errors.c.message, errors.c.traceback
            )
            .where(errors.c.uid.in_(wanted))
            .order_by(errors.c.number)
        )
        with self._dialect.engine.connect() as connection:
            found = connection.execute(select(jobs).where(jobs.c.uid.in_(wanted)))
            rows = {row.uid: row for row in found}
            failures: dict[str, list[TaskError]] = {uid: [] for uid in rows}
            for uid, *failure in connection.execute(of_these) if rows else ():
                failures.get(uid, []).append(TaskError(*failure))
        reports = self._progress.get_all(list(rows))
        return [
            self._rows.snapshot(rows[uid], failures[uid], reports.get(uid, NO_PROGRESS))
            for uid in wanted
            if uid in rows
        ]
