"""Reads jobs with their errors and progress, by three queries, however many they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import and_, func, select

from ...job import NO_PROGRESS, RUNNING, Snapshot, TaskError, storable
from ..listing import LastError
from .dialect import Dialect
from .progress import ProgressWriter, Report
from .rows import Rows
from .tables import Tables, instant


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
                errors.c.number, errors.c.uid, errors.c.exception_class_path, errors.c.message,
                errors.c.traceback, errors.c.at, errors.c.attempt, errors.c.worker_id,
            )
            .where(errors.c.uid.in_(wanted))
        )  # fmt: skip
        with self._dialect.engine.connect() as connection:
            found = connection.execute(select(jobs).where(jobs.c.uid.in_(wanted)))
            rows = {row.uid: row for row in found}
            failures: dict[str, list[TaskError]] = {uid: [] for uid in rows}
            # Sorted here: for their order PostgreSQL may read all errors by the primary key.
            stored = sorted(connection.execute(of_these).all()) if rows else []
            for _number, uid, path, message, text, at, *of_attempt in stored:
                ended_at = None if at is None else instant(at)
                error = TaskError(path, message, text, ended_at, *of_attempt)
                failures.get(uid, []).append(error)
        reports = self._progress.get_all(list(rows))
        return [
            self._snapshot(rows[uid], failures[uid], reports.get(uid))
            for uid in wanted
            if uid in rows
        ]

    def last_errors(self, uids: Sequence[str]) -> list[LastError]:
        """See ``Backend.last_errors``."""
        jobs, errors = self._tables.jobs, self._tables.errors
        its = select(func.max(errors.c.number)).where(errors.c.uid == jobs.c.uid)
        is_last = errors.c.number == its.correlate(jobs).scalar_subquery()
        joined = jobs.outerjoin(errors, and_(errors.c.uid == jobs.c.uid, is_last))
        columns = (
            jobs.c.uid, jobs.c.name, func.coalesce(jobs.c.finished_at, jobs.c.enqueued_at),
            errors.c.exception_class_path, errors.c.message, errors.c.traceback,
        )  # fmt: skip
        wanted = select(*columns).select_from(joined)
        with self._dialect.engine.connect() as connection:
            rows = connection.execute(wanted.where(jobs.c.uid.in_(uids))).all()
        found = {
            uid: LastError(uid, name, instant(at), None if path is None else TaskError(path, *rest))
            for uid, name, at, path, *rest in rows
        }
        return [found[uid] for uid in uids if uid in found]

    def _snapshot(self, row: Any, errors: list[TaskError], report: Report | None) -> Snapshot:
        progress = NO_PROGRESS if report is None else self._progress.progress_of(report)
        found = self._rows.snapshot(row, errors, progress)
        if report is None or found.status is not RUNNING or not report.is_of(found.attempts):
            return found
        return replace(found, eta_seconds=report.eta_seconds)
