"""Writes progress reports in a thread of its own, so that a report hardly delays its job.

    job: asyncjob_set_progress --> latest (memory) --> every WRITE_SECONDS --> table

A value is written at most ten times a second, however often a job reports. The last one is always
written, at the latest by the end of the attempt. On SQLite the table is in the side database, since
the job may hold the write lock of the main one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import NamedTuple

from sqlalchemy import Connection, Engine, Table, delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from ...errors import NotSerializable
from ...job import Progress
from ...serialization import CallSerializer
from .faults import store_first_accepted
from .sizes import why_too_large

log = logging.getLogger(__name__)

#: Seconds between two writes; a bar moves smoothly at ten times a second.
WRITE_SECONDS = 0.1

#: The same after an error: at first, and at most; doubled in between.
FAULT_SECONDS = (0.1, 5.0)

#: The range of a column of 64 bits.
_LEAST, _MOST = -(2**63), 2**63 - 1

#: How long the thread waits without a report before it ends, in seconds.
IDLE_SECONDS = 10.0


class Report(NamedTuple):
    """A progress report as a row has it."""

    value: int
    data: str | None
    total: int | None


#: The report of a job that has not reported.
_NOTHING = Report(-1, None, None)


class ProgressWriter:
    """Writes and reads the last report of each job. table: of progress; engine: its database.

    is_passing: whether an error says that the database cannot be reached, not that a report is
    wrong. most_bytes: returns the most bytes of one statement; None: not known yet.
    """

    def __init__(
        self,
        table: Table,
        engine: Engine,
        serializer: CallSerializer,
        is_passing: Callable[[BaseException], bool],
        most_bytes: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._table = table
        self._engine = engine
        self._serializer = serializer
        self._is_passing = is_passing
        self._most_bytes = most_bytes
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._latest: dict[str, Report] = {}
        self._news = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, uid: str, progress: Progress) -> None:
        """Accept a report. Raises NotSerializable if a row cannot hold it."""
        value, data, total = progress
        for name, number in (("value", value), ("total", total)):
            if number is not None and not _LEAST <= number <= _MOST:
                raise NotSerializable(
                    f"asyncjob_set_progress: expected a {name} of at most 64 bits, got "
                    f"{number:#x}; report it in a larger unit"
                )
        text = None if data is None else self._serializer.dump_value(data)
        why = why_too_large([text], self._most_bytes())
        if why is not None:
            raise NotSerializable(f"asyncjob_set_progress: the data is too large: {why}")
        report = Report(value, text, total)
        self._latest[uid] = report
        if not self._news.is_set():
            self._news.set()
            self._ensure_thread()

    def get(self, uid: str) -> Progress | None:
        """Return the last report of a job; None if it has not reported."""
        return self.get_all([uid]).get(uid)

    def get_all(self, uids: Collection[str]) -> dict[str, Progress]:
        """Return the last reports of jobs, without those that have not reported."""
        reports = self.unwritten(uids)
        table, left = self._table, [uid for uid in uids if uid not in reports]
        if left:
            wanted = select(table.c.uid, table.c.value, table.c.data, table.c.total)
            with self._engine.connect() as connection:
                for uid, *report in connection.execute(wanted.where(table.c.uid.in_(left))):
                    reports[uid] = Report(*report)
        return {uid: self._progress_of(report) for uid, report in reports.items()}

    def _progress_of(self, report: Report) -> Progress:
        data = None if report.data is None else self._serializer.load_value(report.data)
        return Progress(report.value, data, report.total)

    def unwritten(self, uids: Iterable[str]) -> dict[str, Report]:
        """Return the last reports that are not in the table yet; read the table after that."""
        return {uid: self._latest[uid] for uid in uids if uid in self._latest}

    def flush(self, uids: Collection[str]) -> None:
        """Write the last reports of jobs that have ended. After an error the thread tries again:
        the end of a job does not depend on its progress."""
        if self._latest and any(uid in self._latest for uid in uids):
            try:
                self._write()
            except Exception as error:  # noqa: BLE001 - whatever the database raises
                log.info("could not write the progress of jobs yet: %s", error)
                self._news.set()
                self._ensure_thread()

    def forget(self, uids: Collection[str]) -> None:
        """Remove the reports of some jobs."""
        for uid in uids:
            self._latest.pop(uid, None)
        with self._engine.connect() as connection:
            connection.execute(delete(self._table).where(self._table.c.uid.in_(uids)))

    def close(self) -> None:
        """Write the rest, and end; the rest is lost if the database cannot be reached."""
        self._stop.set()
        self._news.set()
        thread = self._thread
        if thread is not None:
            thread.join(IDLE_SECONDS)
        try:
            self._write()
        except DBAPIError as error:
            log.warning(
                "could not write the last progress of %s to the database: %s",
                ", ".join(f"job={uid}" for uid in self._latest), error.orig,
            )  # fmt: skip

    def after_fork(self) -> None:
        """Forget the reports that the parent process has to write."""
        self._begin()

    # -- the writing thread

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="asyncjob-progress", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        fault_seconds = FAULT_SECONDS[0]
        while not self._stop.is_set():
            if not self._news.wait(IDLE_SECONDS):
                with self._lock:
                    if not self._news.is_set():
                        self._thread = None
                        return
            self._news.clear()
            try:
                self._write()
                fault_seconds = FAULT_SECONDS[0]
                self._stop.wait(WRITE_SECONDS)
            except Exception as error:  # noqa: BLE001 - whatever the database says
                log.warning(
                    "could not write the progress of jobs, trying again in %.1fs: %s",
                    fault_seconds, error,
                )  # fmt: skip
                self._news.set()
                self._stop.wait(fault_seconds)
                fault_seconds = min(2 * fault_seconds, FAULT_SECONDS[1])

    def _write(self) -> None:
        """Write all new reports."""
        with self._lock:
            # They stay in memory until they are in the table: a reader reads the table last.
            reports = dict(self._latest)
            if not reports:
                return
            with self._engine.connect() as connection:
                for uid, report in reports.items():
                    self._write_one_if_it_fits(connection, uid, report)
            for uid, report in reports.items():
                if self._latest.get(uid) is report:
                    del self._latest[uid]

    def _write_one_if_it_fits(self, connection: Connection, uid: str, report: Report) -> None:
        # A report without content is refused only if the database refuses everything for now.
        forms = (report, report._replace(data=None), _NOTHING)
        write = partial(self._write_one, connection, uid)
        _, refused = store_first_accepted(forms, write, self._is_passing)
        if refused is not None:
            log.warning("job=%s its progress cannot be stored: %.500s", uid, refused)

    def _write_one(self, connection: Connection, uid: str, report: Report) -> None:
        table = self._table
        values = report._asdict()
        changed = connection.execute(update(table).where(table.c.uid == uid).values(**values))
        if not changed.rowcount:
            connection.execute(insert(table).values(uid=uid, **values))
