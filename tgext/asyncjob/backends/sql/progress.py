"""Progress: written by a thread of its own, so that a report costs its job next to nothing.

    job: asyncjob_set_progress --> latest (memory) --> every WRITE_SECONDS --> table

However often a job reports, a value is written ten times a second at most, and the last one
always: the end of the attempt writes what is still to be written. On SQLite the table is in the
side database, since the job may hold the main one's write lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
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

#: Seconds between two writes; a bar that moves ten times a second moves smoothly.
WRITE_SECONDS = 0.1

#: The same where the table refuses it, doubled up to the last.
FAULT_SECONDS = (0.1, 5.0)

#: What a column of 64 bits holds.
_LEAST, _MOST = -(2**63), 2**63 - 1

#: How long the thread stays without anything to write, in seconds.
IDLE_SECONDS = 10.0


class _Report(NamedTuple):
    value: int
    data: str | None
    total: int | None


#: What is read before the first report.
_NOTHING = _Report(-1, None, None)


class ProgressWriter:
    """Writes and reads the last report of each job. table: of progress; engine: its database.

    is_passing: whether an error says that the table is away, not that a report is wrong.
    most_bytes: gives how many one statement may have; None: not known yet.
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
        self._latest: dict[str, _Report] = {}
        self._news = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, uid: str, progress: Progress) -> None:
        """Take a report; raises NotSerializable for what a row cannot hold."""
        value, data, total = progress
        for name, number in (("value", value), ("total", total)):
            if number is not None and not _LEAST <= number <= _MOST:
                raise NotSerializable(
                    f"asyncjob_set_progress: expected a {name} that 64 bits hold, got {number:#x}; "
                    "report it in a larger unit"
                )
        text = None if data is None else self._serializer.dump_value(data)
        why = why_too_large([text], self._most_bytes())
        if why is not None:
            raise NotSerializable(f"asyncjob_set_progress: the data is too large: {why}")
        report = _Report(value, text, total)
        self._latest[uid] = report
        if not self._news.is_set():
            self._news.set()
            self._ensure_thread()

    def get(self, uid: str) -> Progress | None:
        """Return the last report of a job, None if it has not reported."""
        report = self._latest.get(uid) or self._read(uid)
        if report is None:
            return None
        data = None if report.data is None else self._serializer.load_value(report.data)
        return Progress(report.value, data, report.total)

    def flush(self, uids: Collection[str]) -> None:
        """Write what is still to be written of these jobs, which have ended. Where the table
        refuses it the writer comes back to it: the end of a job does not hang on its progress."""
        if self._latest and any(uid in self._latest for uid in uids):
            try:
                self._write()
            except Exception as error:  # noqa: BLE001 - whatever the database says
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
        """Write the rest, and end; it is lost where the database is away."""
        self._stop.set()
        self._news.set()
        thread = self._thread
        if thread is not None:
            thread.join(IDLE_SECONDS)
        try:
            self._write()
        except DBAPIError as error:
            log.warning(
                "closed, and could not tell the database the last progress of %s: %s",
                ", ".join(f"job={uid}" for uid in self._latest), error.orig,
            )  # fmt: skip

    def after_fork(self) -> None:
        """Forget what a parent process has to write."""
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
        """Write all that is new, in one transaction."""
        with self._lock:
            # In the table before it leaves the memory: a reader looks there last.
            reports = dict(self._latest)
            if not reports:
                return
            with self._engine.connect() as connection:
                for uid, report in reports.items():
                    self._write_one_if_it_fits(connection, uid, report)
            for uid, report in reports.items():
                if self._latest.get(uid) is report:
                    del self._latest[uid]

    def _write_one_if_it_fits(self, connection: Connection, uid: str, report: _Report) -> None:
        # What says nothing is refused only where the database refuses everything for now.
        forms = (report, report._replace(data=None), _NOTHING)
        write = partial(self._write_one, connection, uid)
        _, refused = store_first_accepted(forms, write, self._is_passing)
        if refused is not None:
            log.warning("job=%s its progress cannot be stored: %.500s", uid, refused)

    def _write_one(self, connection: Connection, uid: str, report: _Report) -> None:
        table = self._table
        values = report._asdict()
        changed = connection.execute(update(table).where(table.c.uid == uid).values(**values))
        if not changed.rowcount:
            connection.execute(insert(table).values(uid=uid, **values))

    def _read(self, uid: str) -> _Report | None:
        table = self._table
        wanted = select(table.c.value, table.c.data, table.c.total).where(table.c.uid == uid)
        with self._engine.connect() as connection:
            row = connection.execute(wanted).one_or_none()
        return None if row is None else _Report(*row)
