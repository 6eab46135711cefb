"""Writes progress reports in a thread of its own, so that a report hardly delays its job.

    job: asyncjob_set_progress --> latest (memory) --> every WRITE_SECONDS --> table

A value is written at most ten times a second, however often a job reports. The last one is always
written, at the latest by the end of the attempt. On SQLite the table is in the side database, since
the job may hold the write lock of the main one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, Table, delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from ...errors import NotSerializable
from ...job import Progress
from ...serialization import CallSerializer
from ..pace import Pace, Speed, seconds_left
from .faults import store_first_accepted
from .sizes import why_too_large
from .tables import Clock

log = logging.getLogger(__name__)

#: Seconds between two writes; a bar moves smoothly at ten times a second.
WRITE_SECONDS = 0.1

#: The same after an error: at first, and at most; doubled in between.
FAULT_SECONDS = (0.1, 5.0)

#: How long the thread waits without a report before it ends, in seconds.
IDLE_SECONDS = 10.0


class Report(NamedTuple):
    """A progress report as a row has it."""

    value: int
    data: str | None
    total: int | None
    attempt: int | None = None  #: None: not known
    speed: Speed | None = None  #: that of the attempt; None: not known
    ago: float = 0.0  #: seconds since it was made

    @property
    def eta_seconds(self) -> float | None:
        """The estimated time until the job is done, if it runs; None: not known."""
        return seconds_left(self.value, self.total, self.speed, self.ago)

    def is_of(self, attempt: int) -> bool:
        """Whether it is of this attempt, as far as that is known."""
        return self.attempt in (None, attempt)


#: The report of a job that has not reported.
NOTHING = Report(-1, None, None)

#: The most attempts whose pace is kept: more than a process runs at once. Of those that it lost it
#: hears nothing, so that their pace would stay for ever.
_MOST_PACES = 1_000


class ProgressWriter:
    """Writes and reads the last report of each job. table: of progress; engine: its database.

    is_passing: whether an error says that the database cannot be reached, not that a report is
    wrong. clock: that of the rows. seconds: returns the time by which reports are measured.
    most_bytes: returns the most bytes of one statement; None: not known yet.
    """

    def __init__(  # noqa: PLR0913 - each is a part of the store
        self,
        table: Table,
        engine: Engine,
        serializer: CallSerializer,
        is_passing: Callable[[BaseException], bool],
        *,
        clock: Clock,
        seconds: Callable[[], float] = time.monotonic,
        most_bytes: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._table = table
        self._engine = engine
        self._serializer = serializer
        self._is_passing = is_passing
        self._clock = clock
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        #: the last reports that are not in the table, and when they were made
        self._latest: dict[str, tuple[Report, float]] = {}
        self._paces: dict[str, Pace] = {}
        self._news = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, uid: str, attempt: int, progress: Progress) -> None:
        """Accept a report of an attempt. Raises NotSerializable if a row cannot hold it."""
        value, data, total = progress
        text = None if data is None else self._serializer.dump_value(data)
        why = why_too_large([text], self._most_bytes())
        if why is not None:
            raise NotSerializable(f"asyncjob_set_progress: the data is too large: {why}")
        now = self._seconds()
        speed = self._speed(uid, attempt, value, now)
        self._latest[uid] = (Report(value, text, total, attempt, speed), now)
        if not self._news.is_set():
            self._news.set()
            self._ensure_thread()

    def _speed(self, uid: str, attempt: int, value: int, now: float) -> Speed | None:
        pace = self._paces.get(uid)
        if pace is not None and pace.attempt == attempt:
            pace.add(value, now)
            return pace.speed()
        with self._lock:
            while len(self._paces) >= _MOST_PACES:
                del self._paces[next(iter(self._paces))]
            self._paces[uid] = Pace(attempt, value, now)
        return None

    def get(self, uid: str) -> Progress | None:
        """Return the last report of a job; None if it has not reported."""
        report = self.get_all([uid]).get(uid)
        return None if report is None else self.progress_of(report)

    def get_all(self, uids: Collection[str]) -> dict[str, Report]:
        """Return the last reports of jobs, without those that have not reported."""
        reports = self.unwritten(uids)
        table, left = self._table, [uid for uid in uids if uid not in reports]
        if left:
            wanted = select(table.c.uid, table.c.data, *self.columns)
            with self._engine.connect() as connection:
                rows = connection.execute(wanted.where(table.c.uid.in_(left)), self._clock.moment())
                reports.update((row.uid, report_of(row)) for row in rows)
        return reports

    @property
    def columns(self) -> list[Any]:
        """What ``report_of`` needs of a row, beside its data."""
        table = self._table
        ago = (self._clock.clause - table.c.reported_at).label("ago")
        return [table.c.value, table.c.total, table.c.attempt, table.c.rate, table.c.gap, ago]

    def progress_of(self, report: Report) -> Progress:
        """Return a report as the job has made it."""
        data = None if report.data is None else self._serializer.load_value(report.data)
        return Progress(report.value, data, report.total)

    def unwritten(self, uids: Iterable[str]) -> dict[str, Report]:
        """Return the last reports that are not in the table yet; read the table after that."""
        found, now = {}, self._seconds()
        for uid in uids:
            report, at = self._latest.get(uid, (None, 0.0))
            if report is not None:
                found[uid] = report._replace(ago=now - at)
        return found

    def flush(self, uids: Collection[str]) -> None:
        """Write the last reports of jobs that have ended. After an error the thread tries again:
        the end of a job does not depend on its progress."""
        for uid in uids:
            self._paces.pop(uid, None)
        if self._latest and any(uid in self._latest for uid in uids):
            try:
                self._write()
            except Exception as error:  # noqa: BLE001 - whatever the database raises
                log.info("could not write the progress of jobs yet: %s", error)
                self._news.set()
                self._ensure_thread()

    def forget(self, uids: Collection[str]) -> None:
        """Remove the reports of some jobs."""
        with self._lock:  # the thread may be about to write one of them
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
                for uid, (report, at) in reports.items():
                    report = report._replace(ago=self._seconds() - at)
                    self._write_one_if_it_fits(connection, uid, report)
            for uid, made in reports.items():
                if self._latest.get(uid) is made:
                    del self._latest[uid]

    def _write_one_if_it_fits(self, connection: Connection, uid: str, report: Report) -> None:
        # A report without content is refused only if the database refuses everything for now.
        forms = (report, report._replace(data=None), NOTHING)
        write = partial(self._write_one, connection, uid)
        _, refused = store_first_accepted(forms, write, self._is_passing)
        if refused is not None:
            log.warning("job=%s its progress cannot be stored: %.500s", uid, refused)

    def _write_one(self, connection: Connection, uid: str, report: Report) -> None:
        table = self._table
        rate, gap = report.speed or (None, None)
        values: dict[str, Any] = {
            "value": report.value,
            "data": report.data,
            "total": report.total,
            "attempt": report.attempt,
            "reported_at": self._clock.now() - report.ago,
            "rate": rate,
            "gap": gap,
        }
        changed = connection.execute(update(table).where(table.c.uid == uid).values(**values))
        if not changed.rowcount:
            connection.execute(insert(table).values(uid=uid, **values))


def report_of(row: Row[Any]) -> Report:
    """Return the report of a row with ``columns`` and data."""
    if row.value is None:
        return NOTHING
    speed = None if row.rate is None or row.gap is None else Speed(row.rate, row.gap)
    return Report(row.value, row.data, row.total, row.attempt, speed, max(0.0, row.ago or 0.0))
