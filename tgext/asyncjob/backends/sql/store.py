"""Enqueues, reads, cancels and retries jobs, in any process of the application."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import (
    Connection,
    Double,
    Engine,
    bindparam,
    func,
    insert,
    select,
)

from ...job import (
    NO_PROGRESS,
    Job,
    JobId,
    Progress,
    Snapshot,
    TaskResultStatus,
)
from ...serialization import CallSerializer
from ...transactions.connections import forget_connections
from ..base import Standing
from ..brief import Brief
from ..listing import Cursor, Found, JobFilter
from ..overview import PausedQueue, QueuePosition
from . import states
from .briefs import Briefs
from .claims import Claims
from .counting import Counting
from .dialects import dialect_of
from .listener import listener_of
from .listing import Listing
from .liveness import liveness_of
from .notifier import ANY, Notifier
from .outcomes import Outcomes
from .overview import SqlOverview
from .pausing import Pausing
from .progress import ProgressWriter
from .pruning import Pruning
from .rows import Rows
from .schema import Schema
from .silence import Silence
from .snapshots import Snapshots
from .steering import Steering
from .tables import PREFIX, Clock, make_tables
from .taking import Taking
from .wakeup import Look, Wakeup
from .worker_registry import WorkerRegistry

log = logging.getLogger(__name__)


class SqlStore:
    """See the package.

    engine: the application's. secret: signs calls; None: calls that are not plain JSON are refused.
    lease_seconds: how long a worker without heartbeats keeps its jobs. max_crashes: deaths of
    workers after which a job has FAILED. For tests that let time pass: clock returns seconds since
    the epoch instead of the database; monotonic measures the silence of workers.
    """

    name = "sql"

    def __init__(  # noqa: PLR0913 - each is an option
        self,
        engine: Engine,
        *,
        secret: str | None = None,
        prefix: str = PREFIX,
        schema: str | None = None,
        retention_seconds: float = 604_800,
        lease_seconds: float = 20,
        max_crashes: int = 3,
        clock: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.tables = make_tables(prefix)
        self._retention_seconds = retention_seconds
        self._clock = Clock(clock)
        self._now = self._clock.now
        self._dialect = dialect_of(engine, f"{prefix}jobs")
        self.has_one_writer = self._dialect.has_one_writer
        self._serializer = CallSerializer(secret)
        most_bytes = lambda: self._dialect.most_bytes  # noqa: E731 - known after the first connection
        self.schema = Schema(self.tables, self._dialect, schema)
        identity = lambda: self.schema.identity  # noqa: E731
        self._rows = Rows(self._serializer, max_crashes, most_bytes, identity)
        self._liveness = liveness_of(self._dialect)
        self._counting = Counting(self.tables, self._dialect)
        self._steering = Steering(self.tables, self._rows, self._now)
        self._pausing = Pausing(self.tables, self._dialect, self._now)
        self._taking = Taking(self.tables, self._dialect, self._clock, self._pausing)
        self._claims = Claims(self.tables, self._dialect, self._rows, self._clock)
        self._outcomes = Outcomes(self._claims, self._dialect, self.is_passing)
        self._insertion = self._dialect.compiled(self._inserted())
        self._registry = WorkerRegistry(
            self.tables,
            self._dialect,
            self._liveness,
            Silence(lease_seconds, monotonic),
            self._now,
            max_crashes=max_crashes,
        )
        self.overview = SqlOverview(
            self.tables, self._dialect, self._registry, self._liveness, self._now
        )
        self._progress = ProgressWriter(
            self.tables.progress,
            self._dialect.side_database,
            self._serializer,
            self.is_passing,
            most_bytes,
        )
        self._briefs = Briefs(self.tables, self._dialect, self._progress, self._clock)
        self._snapshots = Snapshots(self.tables, self._dialect, self._rows, self._progress)
        self._listing = Listing(self.tables, self._dialect)
        self._pruning = Pruning(self.tables, self._dialect, self._progress, self._now)
        self._notifier = Notifier(self._dialect)
        self._wakeup = Wakeup(lambda: listener_of(self._dialect), self._look)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._looked: dict[tuple[str, int], tuple[float, Standing]] = {}
        self._running: dict[tuple[str, int], str] = {}  # claims, and their workers
        #: claims in the table whose answer has not arrived
        self._unreceived: set[tuple[str, int]] = set()
        self._doubtful_heartbeats = 0
        self._rounds = 0
        self._retired: set[str] = set()  # workers of this process that are stopping

    def open(self, *, create_tables: bool) -> None:
        self.schema.open(create=create_tables)

    def check_carrier(self, engine: Engine) -> None:
        self.schema.check_carrier(engine)

    def close(self) -> None:
        self._notifier.close()
        self._wakeup.close()
        self._progress.close()
        self._registry.dismiss()
        self._liveness.close()
        self._dialect.dispose()

    def in_use(self) -> list[Callable[[], object]]:
        return self._dialect.in_use()

    def after_fork(self) -> None:
        forget_connections(self.engine)
        self._dialect.after_fork()
        self._liveness.after_fork()
        self._registry.after_fork()
        self._progress.after_fork()
        self._notifier.after_fork()
        self._wakeup.after_fork()
        self._begin()

    # -- the client's side

    def new_uid(self) -> JobId:
        return JobId(f"asyncjob_{os.urandom(16).hex()}")

    def prepare(self, job: Job) -> Job:
        return self._rows.prepared(job)

    def enqueue(self, jobs: Sequence[Job], connection: Connection | None = None) -> None:
        if connection is None and self._dialect.defers(lambda: self.enqueue(jobs)):
            return
        self.schema.ensure()
        # All are converted first: if one cannot be stored, none is.
        rows = [self._rows.of_job(job) for job in jobs]
        if connection is not None:
            self._insert(rows, jobs, connection)
        elif len(rows) == 1:  # a single statement commits by itself
            with self._dialect.write() as own:
                self._insert(rows, jobs, own)
        else:
            with self._dialect.begin() as own:
                self._insert(rows, jobs, own)
        if connection is None:
            self.announced(jobs)

    def announced(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if isinstance(job.run_after, timedelta) and job.run_after:
                self._wakeup.due_in(job.run_after.total_seconds())
            elif isinstance(job.run_after, datetime):
                self._wakeup.due_in((job.run_after - datetime.now(timezone.utc)).total_seconds())
        self._wakeup.poll_faster()
        names = {ANY if job.run_after else job.options.queue_name for job in jobs}
        self._made_available(names, threads=len(jobs))

    def _made_available(self, queue_names: Iterable[str], *, threads: int = 1) -> None:
        """Wake waiting threads, of this process and of others; called after the commit."""
        self._wakeup.wake(threads)
        self._notifier.notify(queue_names)

    def _insert(
        self, rows: list[dict[str, Any]], jobs: Sequence[Job], connection: Connection
    ) -> None:
        for row, job in zip(rows, jobs, strict=True):
            after = job.run_after
            row["delay"] = after.total_seconds() if isinstance(after, timedelta) else None
            row.update(self._clock.moment())
        self._insertion.execute_all(connection, rows)

    def _inserted(self) -> Any:
        """The statement that enqueues jobs, whether or not they are delayed."""
        table = self.tables.jobs
        columns = ("uid", "state", "rank", "queue_name", "budget", "name", "payload", "signature",
                   "options", "context", "task_name", "enqueued_by")  # fmt: skip
        now = self._clock.clause
        delay: Any = bindparam("delay", type_=Double())
        values = {name: bindparam(name, type_=table.c[name].type) for name in columns}
        due_at = func.coalesce(now + delay, bindparam("due_at", type_=Double()))
        return insert(table).values(**values, enqueued_at=now, due_at=due_at).inline()

    def get(self, uid: str) -> Snapshot | None:
        found = self.get_many([uid])
        return found[0] if found else None

    def get_many(self, uids: Sequence[str]) -> list[Snapshot]:
        return self._snapshots.read(uids)

    def progress(self, uid: str) -> Progress | None:
        jobs = self.tables.jobs
        with self._dialect.engine.connect() as connection:
            state = connection.execute(select(jobs.c.state).where(self.tables.is_job(uid))).scalar()
        if state is None or state in states.ENDED:
            return None
        return self._progress.get(uid) or NO_PROGRESS

    def find(self, wanted: JobFilter, after: Cursor | None, limit: int) -> Found:
        return self._listing.page(wanted, after, limit)

    def position(self, uid: str) -> QueuePosition | None:
        return self.overview.position(uid)

    def briefs(self, uids: Collection[str]) -> dict[str, Brief]:
        return self._briefs.read(uids)

    def cancel(self, uid: str, connection: Connection | None = None) -> bool | None:
        with self._on(connection) as given:
            cancelled = self._steering.cancel(uid, given)
        if cancelled:
            self._looked.clear()
            self._wakeup.ended()
        return cancelled

    def retry(self, uid: str, connection: Connection | None = None) -> bool | None:
        with self._on(connection) as given:
            retried = self._steering.retry(uid, given)
        if retried:
            self._progress.forget([uid])
            self._wakeup.wake()
        return retried

    def wait_for_end(self, uid: str, seconds: float) -> None:
        jobs = self.tables.jobs
        wanted = select(jobs.c.state).where(self.tables.is_job(uid))
        until = time.monotonic() + seconds
        while True:
            with self._dialect.engine.connect() as connection:
                state = connection.execute(wanted).scalar()
            left = until - time.monotonic()
            if state is None or state in states.ENDED or left <= 0:
                return
            self._wakeup.wait_for_end(left)

    def counts(self, most: int | None = None) -> dict[TaskResultStatus, int]:
        return self._counting.by_status(most)

    def waiting(self, most: int | None = None) -> int:
        return self._counting.waiting(most)

    def pause(self, queue_name: str, user: str | None = None) -> bool:
        self._taking.is_paused = True
        return self._pausing.pause(queue_name, user)

    def resume(self, queue_name: str) -> bool:
        resumed = self._pausing.resume(queue_name)
        self._made_available([queue_name])
        return resumed

    def paused(self) -> list[PausedQueue]:
        return self._pausing.paused()

    def is_passing(self, error: BaseException) -> bool:
        return self._dialect.faults.is_passing(error)

    def is_conflict(self, error: BaseException) -> bool:
        return self._dialect.faults.is_conflict(error)

    def is_loss(self, error: BaseException) -> bool:
        return self._dialect.faults.is_loss(error)

    # -- pieces of statements

    def _look(self, queues: Collection[str] | None) -> Look:
        """Read whether a job is waiting, and when the next delayed job is due."""
        return self._seen_in(self._taking.look(queues))

    def _seen_in(self, row: Any) -> Look:
        self._taking.is_paused = bool(row.paused)
        waits = self._taking.does_wait() if row.waits is None else bool(row.waits)
        return Look(waits or (row.due is not None and row.due <= 0), row.due)

    @contextmanager
    def _on(self, connection: Connection | None) -> Iterator[Connection]:
        """Use the caller's connection, or one of our own, which commits at the end."""
        if connection is not None:
            yield connection
            return
        with self._dialect.begin() as own:
            yield own
