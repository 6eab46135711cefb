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

from sqlalchemy import Connection, Engine

from ...job import (
    Job,
    JobId,
    TaskResultStatus,
)
from ...policies import Keys
from ...serialization import CallSerializer
from ...transactions.connections import forget_connections
from ...transactions.fork_check import keep_to_process
from ...wakeups import Publisher
from ..audit import AnyAudit
from ..base import AfterFailure, Standing
from ..limits import KeyStates, KeyUse, OwnerStates
from ..listing import Counted, Cursor, Found, JobFilter, LastError
from ..schedules import ScheduleStore
from ..statistics import Statistics
from .admission import Admission
from .admissions import Admissions
from .announcer import Announcer
from .auditing import SqlAudit
from .briefs import Briefs
from .claims import Claims
from .counting import Counting
from .dialects import dialect_of
from .firing import Firing
from .follow_ups import FollowUps
from .insertion import Insertion
from .key_overview import KeyOverview
from .listener import listener_of
from .listing import Listing
from .liveness import liveness_of
from .notifier import ANY
from .outcomes import Outcomes
from .overview import SqlOverview
from .pausing import Pausing
from .progress import ProgressWriter
from .pruning import Pruning
from .relay import Relay, Sees
from .rescue import Rescue
from .rows import Rows
from .schedule_rows import ScheduleRows
from .schedules import SqlSchedules
from .schema import Schema
from .silence import Silence
from .slots import Slots
from .snapshots import Snapshots
from .statistics import SqlStatistics
from .steering import Steering
from .tables import PREFIX, Clock, make_tables
from .taking import Taking
from .unique_admission import UniqueAdmission
from .uniqueness import Uniqueness
from .wakeup import Look, Wakeup
from .worker_registry import WorkerRegistry

log = logging.getLogger(__name__)


class SqlStore:
    """See the package.

    engine: the application's. secret: signs calls; None: calls that are not plain JSON are refused.
    lease_seconds: how long a worker without heartbeats keeps its jobs. max_crashes: deaths of
    workers after which a job has FAILED. publisher: publishes wake-ups to a message broker; None:
    there is none. For tests that let time pass: clock returns seconds since
    the epoch instead of the database; monotonic measures the silence of workers.
    """

    name = "sql"
    after_failure: AfterFailure

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
        publisher: Publisher | None = None,
        clock: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self._retention_seconds = retention_seconds
        self._clock = Clock(clock)
        self._now = self._clock.now
        self._dialect = dialect_of(engine, f"{prefix}jobs")
        self.has_one_writer = self._dialect.has_one_writer
        self.tables = make_tables(prefix, has_one_writer=self.has_one_writer)
        self._serializer = CallSerializer(secret)
        most_bytes = lambda: self._dialect.most_bytes  # noqa: E731 - known after the first connection
        self.schema = Schema(self.tables, self._dialect, schema)
        identity = lambda: self.schema.identity  # noqa: E731
        self._rows = Rows(self._serializer, max_crashes, most_bytes, identity)
        self._liveness = liveness_of(self._dialect)
        self._counting = Counting(self.tables, self._dialect)
        self.audit: AnyAudit
        self.audit = self._audit = SqlAudit(self.tables, self._dialect, self._now)
        self._pausing = Pausing(self.tables, self._dialect, self._audit, self._now)
        self._taking = Taking(self.tables, self._dialect, self._clock, self._pausing)
        self._insertion = Insertion(self.tables, self._dialect, self._clock)
        follow_ups = FollowUps(
            self._rows, self._insertion, self.new_uid, lambda: self.after_failure
        )
        self._progress = ProgressWriter(
            self.tables.progress,
            self._dialect.side_database,
            self._serializer,
            self.is_passing,
            clock=self._clock,
            seconds=clock or time.monotonic,
            most_bytes=most_bytes,
        )
        self._uniqueness = Uniqueness(self.tables, self._dialect, self._clock)
        self._claims = Claims(
            self.tables, self._dialect, self._rows, self._clock, follow_ups, self._uniqueness
        )
        self._steering = Steering(self.tables, self._rows, self._audit, self._now, self._uniqueness)
        self._admission = Admission(self.tables, self._dialect, self._clock)
        self._key_overview = KeyOverview(self.tables, self._dialect, self._clock)
        unique_admission = UniqueAdmission(
            self.tables, self._dialect, self._clock, self._rows, self._uniqueness,
            self._progress.forget,
        )  # fmt: skip
        self._admissions = Admissions(
            self._admission, unique_admission, self._admitted, self.is_passing
        )
        self._outcomes = Outcomes(self._claims, self._dialect, self.is_passing)
        silence = Silence(lease_seconds, monotonic)
        parts = (self.tables, self._dialect, self._liveness, silence, self._now)
        ask = self._admissions.request
        rescue = Rescue(*parts, follow_ups, self._uniqueness, max_crashes, ask)
        self._registry = WorkerRegistry(*parts, rescue)
        self.overview = SqlOverview(self.tables, self._dialect, self._registry, self._now)
        self._briefs = Briefs(self.tables, self._dialect, self._progress, self._clock)
        self._snapshots = Snapshots(self.tables, self._dialect, self._rows, self._progress)
        self._listing = Listing(self.tables, self._dialect)
        self._pruning = Pruning(
            self.tables, self._dialect, self._progress, self._audit, self._uniqueness,
            Slots(self.tables, self._dialect, self._clock), self._now,
        )  # fmt: skip
        self._statistics = SqlStatistics(self.tables, self._dialect, self._clock)
        self.statistics: Statistics = self._statistics
        self._wakeup = Wakeup(lambda: listener_of(self._dialect), self._look_with_ticks)
        self.relay: Relay | None = None  #: publishes wake-ups; None: there is no broker
        if publisher is not None:
            sees = Sees(self._taking, self._pausing, self._registry, ask, self._is_idle)
            self.relay = Relay(self.tables, self._dialect, publisher, sees, self._now)
        self._announcer = Announcer(self._wakeup, self._dialect, self.relay)
        schedule_rows = ScheduleRows(self._serializer, identity)
        firing = Firing(
            self.tables, self._dialect, self._clock, schedule_rows, self._rows, self._insertion,
            self.new_uid, self.announced,
        )  # fmt: skip
        self._schedules = SqlSchedules(
            self.tables, self._dialect, self._clock, schedule_rows, firing, self._audit,
            self.schema.ensure,
        )  # fmt: skip
        self.schedules: ScheduleStore = self._schedules
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._looked: dict[tuple[str, int], tuple[float, Standing]] = {}
        self._running: dict[tuple[str, int], str] = {}  # claims, and their workers
        #: claims in the table whose answer has not arrived, by worker
        self._unreceived: dict[str, set[tuple[str, int]]] = {}
        self._may_hold = True  # whether workers of this process hold jobs, as far as known
        self._rounds = 0
        self._may_be_blocked = True  # whether a job is BLOCKED, as far as known
        self._retired: set[str] = set()  # workers of this process that are stopping

    def open(self, *, create_tables: bool) -> None:
        self.schema.open(create=create_tables)

    def check_carrier(self, engine: Engine) -> None:
        self.schema.check_carrier(engine)

    def close(self) -> None:
        self._admissions.close()
        self._announcer.close()
        self._wakeup.close()
        self._progress.close()
        self._registry.dismiss()
        self._liveness.close()
        self._dialect.dispose()

    def in_use(self) -> list[Callable[[], object]]:
        return self._dialect.in_use()

    def keep_to_process(self) -> None:
        """Check at each use of a pooled connection that it is not that of a parent process."""
        for engine in (self.engine, self._dialect.engine, self._dialect.side_database):
            keep_to_process(engine)

    def after_fork(self) -> None:
        forget_connections(self.engine)
        self._dialect.after_fork()
        self._liveness.after_fork()
        self._registry.after_fork()
        self._progress.after_fork()
        self._admissions.after_fork()
        self._announcer.after_fork()
        self._wakeup.after_fork()
        self._schedules.begin()
        self._statistics.begin()
        self._begin()

    # -- the client's side

    def new_uid(self) -> JobId:
        return JobId(f"asyncjob_{os.urandom(16).hex()}")

    def prepare(self, job: Job, like: Job | None = None) -> Job:
        return self._rows.prepared(job, like)

    def enqueue(self, jobs: Sequence[Job], connection: Connection | None = None) -> None:
        if connection is None and self._dialect.defers(lambda: self.enqueue(jobs)):
            return
        self.schema.ensure()
        # All are converted first: if one cannot be stored, none is.
        rows = [self._rows.of_job(job) for job in jobs]
        if connection is not None:
            self._insertion.store(rows, connection)
        elif len(rows) == 1:  # a single statement commits by itself
            with self._dialect.write() as own:
                self._insertion.store(rows, own)
        else:
            with self._dialect.begin() as own:
                self._insertion.store(rows, own)
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
        self._announcer.announce(names, published=names - {ANY}, threads=len(jobs))
        self._admissions.request(job.keys for job in jobs)

    def _made_available(self, names: Collection[str], *, threads: int = 1) -> None:
        self._announcer.announce(names, threads=threads)

    def _admitted(self, queue_names: Iterable[str], jobs: int) -> None:
        self._made_available(set(queue_names), threads=jobs)

    def is_locked(self) -> bool:
        return self._dialect.is_locked()

    def _is_idle(self) -> bool:
        return len(self._running) < self._registry.threads(without=self._retired)

    def find(
        self, wanted: JobFilter, after: Cursor | None, limit: int, look_at: int | None = None
    ) -> Found:
        return self._listing.page(wanted, after, limit, look_at)

    def last_errors(self, uids: Sequence[str]) -> list[LastError]:
        return self._snapshots.last_errors(uids)

    def count(self, wanted: JobFilter, most: int, look_at: int | None = None) -> Counted:
        return self._listing.count(wanted, most, look_at)

    def uses(self, keys: Keys) -> list[KeyUse]:
        return self._key_overview.uses(keys)

    def key_states(self) -> KeyStates:
        return self._key_overview.all()

    def owner_states(self) -> OwnerStates:
        return self._key_overview.owners()

    def blocked(self, uids: Collection[str]) -> set[str]:
        return self._key_overview.blocked(uids)

    def counts(self, most: int | None = None) -> dict[TaskResultStatus, int]:
        return self._counting.by_status(most)

    def waiting(self, most: int | None = None) -> int:
        return self._counting.waiting(most)

    def is_passing(self, error: BaseException) -> bool:
        return self._dialect.faults.is_passing(error)

    def is_conflict(self, error: BaseException) -> bool:
        return self._dialect.faults.is_conflict(error)

    def is_loss(self, error: BaseException) -> bool:
        return self._dialect.faults.is_loss(error)

    # -- pieces of statements

    def _look(self, queues: Collection[str] | None) -> Look:
        """Read whether a job is waiting, and when the next delayed job is due."""
        return self._seen_in(self._taking.look(queues, ticks=False), queues)

    def _look_with_ticks(self, queues: Collection[str] | None) -> Look:
        """Read that, and when the next tick of a schedule is."""
        return self._seen_with_ticks(self._taking.look(queues, ticks=True), queues)

    def _seen_with_ticks(self, row: Any, queues: Collection[str] | None) -> Look:
        self._schedules.due_in(row.tick)
        self._may_be_blocked = bool(row.is_blocked)
        return self._seen_in(row, queues)

    def _seen_in(self, row: Any, queues: Collection[str] | None) -> Look:
        self._taking.is_paused = bool(row.paused)
        waits = self._taking.does_wait(queues) if row.waits is None else bool(row.waits)
        return Look(waits or (row.due is not None and row.due <= 0), row.due)

    @contextmanager
    def _on(self, connection: Connection | None) -> Iterator[Connection]:
        """Use the caller's connection, or one of our own, which commits at the end."""
        if connection is not None:
            yield connection
            return
        with self._dialect.begin() as own:
            yield own
