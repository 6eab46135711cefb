"""Jobs in the application's own database: SQLite, PostgreSQL or MariaDB.

    enqueue   on the request's connection: the job exists with its commit
    claim     one short transaction; the lease it gives out is one more than the last
    fence     UPDATE ... WHERE the lease is ours and it runs: on the job's own connection
    finish    the same with the outcome: committed with the job's work, or not at all
    rescue    what dead workers held waits again; a death counts as a crash, not as an attempt

One set of statements for all databases; what differs is in ``dialects.py`` and ``liveness.py``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Engine,
    Row,
    Table,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    true,
    update,
)

from ...backend import ClaimingBackend
from ...errors import WorkerCrashed
from ...job import (
    FAILED,
    NO_PROGRESS,
    READY,
    SUCCESSFUL,
    Claim,
    Job,
    JobId,
    Outcome,
    Progress,
    Snapshot,
    TaskError,
    TaskResultStatus,
    WorkerId,
)
from ...seal import ModuleMissing, Seal
from .dialects import dialect_of
from .rows import Rows
from .tables import (
    BROKE,
    DELAYED,
    ENDED,
    PREFIX,
    RUNS,
    STATE_OF,
    STATUS_OF,
    TAKEN_BACK,
    WAITS,
    make_tables,
)

log = logging.getLogger(__name__)

#: Longest that an idle worker goes without looking, in seconds: the net below all wake-ups.
POLL_SECONDS = 1.0

#: How old a look at a claim may be that ``holds`` still believes, in seconds.
HOLDS_SECONDS = 0.5

#: Ended jobs that one transaction removes: a few milliseconds' worth of locks.
PRUNED_AT_ONCE = 500

#: How long a job whose module this worker does not have is left to others, in seconds.
ELSEWHERE_SECONDS = 30.0


class SqlBackend(ClaimingBackend):
    """See the module.

    engine: the application's. secret: signs what is not plain JSON, None: such is refused.
    lease_seconds: how long a silent worker keeps its jobs. max_crashes: deaths that a job may
    cause. clock: seconds since the epoch in the database's stead, for tests that let time pass.
    """

    name = "sql"

    def __init__(
        self,
        engine: Engine,
        *,
        secret: str | None = None,
        prefix: str = PREFIX,
        retention_seconds: float = 604_800,
        lease_seconds: float = 20,
        max_crashes: int = 3,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.engine = engine
        self.tables = make_tables(prefix)
        self._dialect = dialect_of(engine)
        self._volatile = self._dialect.volatile_engine()
        self._liveness = self._dialect.liveness()
        self._rows = Rows(Seal(secret))
        self._retention_seconds = retention_seconds
        self._lease_seconds = lease_seconds
        self._max_crashes = max_crashes
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._tickets = 0
        self._worker_id: str | None = None
        self._looked: dict[tuple[str, int], tuple[float, bool]] = {}
        self._claims: dict[str, Claim] = {}

    def create_tables(self) -> None:
        """Make the tables that are missing; several processes may do so at once."""
        metadata = self.tables.metadata
        within = [table for table in metadata.sorted_tables if table not in self.beside]
        metadata.create_all(self._dialect.engine, tables=within)
        metadata.create_all(self._volatile, tables=self.beside)

    @property
    def beside(self) -> list[Table]:
        """The tables of what changes while a job runs; on SQLite in a file of their own."""
        return [self.tables.progress, self.tables.workers]

    def close(self) -> None:
        """Stop proving that a worker of this process lives; ask nothing of this object after."""
        self._liveness.let_go()
        self._volatile.dispose()
        self._dialect.engine.dispose()

    def after_fork(self) -> None:
        # The child must not say goodbye on connections that are its parent's.
        self.engine.dispose(close=False)
        self._dialect.after_fork()
        self._liveness.forget()
        self._begin()

    # -- the side that enqueues and asks

    def new_uid(self) -> JobId:
        return JobId(f"asyncjob_{os.urandom(16).hex()}")

    def enqueue(self, jobs: Sequence[Job], connection: Connection | None = None) -> None:
        # As rows first: one that cannot be stored must not leave the others behind.
        rows = [(self._rows.of_job(job), job.run_after) for job in jobs]
        with self._on(connection) as given:
            for values, run_after in rows:
                given.execute(self._insert(values, run_after))
        if connection is None:
            self.wake()

    def _insert(self, values: dict[str, Any], run_after: Any) -> Any:
        statement = insert(self.tables.jobs).values(enqueued_at=self._now(), **values)
        if isinstance(run_after, timedelta) and values["state"] == DELAYED:
            due_at = self._now() + run_after.total_seconds()
            return statement.values(due_at=due_at)
        return statement

    def get(self, uid: str) -> Snapshot | None:
        errors = self.tables.errors
        with self._dialect.at_once.connect() as connection:
            row = connection.execute(self._select(uid)).one_or_none()
            if row is None:
                return None
            found = connection.execute(
                select(errors.c.exception_class_path, errors.c.message, errors.c.traceback)
                .where(errors.c.uid == uid)
                .order_by(errors.c.number)
            )
            failures = [TaskError(*failure) for failure in found]
        return self._rows.snapshot(row, failures, self._progress_of(uid) or NO_PROGRESS)

    def progress(self, uid: str) -> Progress | None:
        jobs = self.tables.jobs
        with self._dialect.at_once.connect() as connection:
            state = connection.execute(select(jobs.c.state).where(jobs.c.uid == uid)).scalar()
        if state is None or state in ENDED:
            return None
        return self._progress_of(uid) or NO_PROGRESS

    def _progress_of(self, uid: str) -> Progress | None:
        progress = self.tables.progress
        wanted = select(progress.c.value, progress.c.data, progress.c.total)
        with self._volatile.connect() as connection:
            row = connection.execute(wanted.where(progress.c.uid == uid)).one_or_none()
        if row is None:
            return None
        data = None if row.data is None else self._rows.seal.load_value(row.data)
        return Progress(row.value, data, row.total)

    def cancel(self, uid: str) -> bool | None:
        jobs = self.tables.jobs
        waits = jobs.c.state.in_((WAITS, DELAYED))
        with self._dialect.engine.begin() as connection:
            changed = connection.execute(
                update(jobs)
                .where(jobs.c.uid == uid, not_(jobs.c.fenced), or_(waits, jobs.c.state == RUNS))
                .ordered_values(
                    (jobs.c.cancelled, true()),
                    (jobs.c.finished_at, case((waits, self._now()), else_=None)),
                    # Last: MariaDB sees in each assignment what those before it have assigned.
                    (jobs.c.state, case((waits, TAKEN_BACK), else_=jobs.c.state)),
                )
            )
            if changed.rowcount:
                self._looked.clear()
                return True
            return None if connection.execute(self._select(uid)).first() is None else False

    def retry(self, uid: str) -> bool | None:
        jobs = self.tables.jobs
        with self._dialect.engine.begin() as connection:
            row = connection.execute(self._select(uid)).one_or_none()
            if row is None:
                return None
            options = self._rows.options(row)
            changed = connection.execute(
                update(jobs)
                .where(jobs.c.uid == uid, jobs.c.state.in_(ENDED))
                .values(
                    state=WAITS,
                    budget=jobs.c.attempts + options.max_attempts,
                    crashes=0,
                    cancelled=false(),
                    due_at=None,
                    finished_at=None,
                )
            )
        self._forget_progress([uid])
        self.wake()
        return bool(changed.rowcount)

    def wait_for_end(self, uid: str, seconds: float) -> None:
        jobs = self.tables.jobs
        wanted = select(jobs.c.state).where(jobs.c.uid == uid)
        until = time.monotonic() + seconds
        while True:
            with self._dialect.at_once.connect() as connection:
                state = connection.execute(wanted).scalar()
            left = until - time.monotonic()
            if state is None or state in ENDED or left <= 0:
                return
            with self._changed:
                self._changed.wait(min(left, POLL_SECONDS / 5))

    def counts(self) -> dict[TaskResultStatus, int]:
        jobs = self.tables.jobs
        found = dict.fromkeys(TaskResultStatus, 0)
        with self._dialect.at_once.connect() as connection:
            for state, count in connection.execute(
                select(jobs.c.state, func.count()).group_by(jobs.c.state)
            ):
                found[STATUS_OF[state]] += count
        return found

    def waiting(self) -> int:
        jobs = self.tables.jobs
        wanted = select(func.count()).where(jobs.c.state.in_((WAITS, DELAYED)))
        with self._dialect.at_once.connect() as connection:
            return int(connection.execute(wanted).scalar_one())

    # -- the worker's side

    def claim(self, worker_id: WorkerId, queues: Collection[str] | None, limit: int) -> list[Claim]:
        self._register(worker_id)
        self._promote()
        rows = self._take(worker_id, queues, limit)
        claims = [claim for row in rows if (claim := self._claim_of(row)) is not None]
        self._claims.update((claim.job.uid, claim) for claim in claims)
        return claims

    def _take(self, worker_id: str, queues: Collection[str] | None, limit: int) -> list[Row[Any]]:
        """Make up to *limit* waiting rows ours, in one short transaction."""
        jobs = self.tables.jobs
        first = (
            select(jobs.c.number)
            .where(jobs.c.state == WAITS)
            .order_by(jobs.c.rank, jobs.c.number)
            .limit(limit)
        )
        if queues is not None:
            first = first.where(jobs.c.queue_name.in_(queues))
        if self._dialect.skips_locked:
            first = first.with_for_update(skip_locked=True)
        now = self._now()
        ours = update(jobs).values(
            state=RUNS,
            lease=jobs.c.lease + 1,
            attempts=jobs.c.attempts + 1,
            worker_id=worker_id,
            fenced=false(),
            last_attempted_at=now,
            started_at=func.coalesce(jobs.c.started_at, now),
        )
        with self._dialect.engine.begin() as connection:
            if self._dialect.update_returns:
                picked = first.cte("picked") if self._dialect.skips_locked else first
                numbers = select(picked.c.number) if self._dialect.skips_locked else picked
                found = connection.execute(
                    ours.where(jobs.c.number.in_(numbers)).returning(*jobs.c)
                ).all()
            else:
                numbers_found = connection.execute(first).scalars().all()
                if not numbers_found:
                    return []
                mine = jobs.c.number.in_(numbers_found)
                connection.execute(ours.where(mine))
                found = connection.execute(select(jobs).where(mine)).all()
        return sorted(found, key=lambda row: (row.rank, row.number))

    def _promote(self) -> None:
        """Let the delayed jobs wait whose time has come."""
        jobs = self.tables.jobs
        due = and_(jobs.c.state == DELAYED, jobs.c.due_at <= self._now())
        with self._dialect.at_once.connect() as connection:
            if connection.execute(select(jobs.c.number).where(due).limit(1)).first() is not None:
                connection.execute(update(jobs).where(due).values(state=WAITS, due_at=None))

    def _claim_of(self, row: Row[Any]) -> Claim | None:
        """The claim on a row that is ours now; None if its call cannot be run, which is then
        the job's end, or another worker's to try."""
        job = self._rows.job(row, opened=False)
        claim = Claim(job, row.lease, row.attempts, row.budget - row.attempts)
        try:
            return claim._replace(job=self._rows.job(row, opened=True))
        except ModuleMissing as error:
            log.warning("job=%s left to another worker: %s", row.uid, error)
            self._give_back([claim], delay_seconds=ELSEWHERE_SECONDS)
        except Exception as error:
            log.error("job=%s cannot be run: %s", row.uid, error)  # noqa: TRY400
            self.finish(claim, Outcome(FAILED, error=TaskError.of(error)))
        return None

    def holds(self, claim: Claim) -> bool:
        which, now = (claim.job.uid, claim.lease), time.monotonic()
        looked_at, held = self._looked.get(which, (-HOLDS_SECONDS, True))
        if now - looked_at < HOLDS_SECONDS:
            return held
        with self._dialect.at_once.connect() as connection:
            row = connection.execute(self._held(claim, select(self.tables.jobs.c.uid))).first()
        self._looked[which] = (now, row is not None)
        return row is not None

    def fence(self, claim: Claim, connection: Connection | None = None) -> bool:
        jobs = self.tables.jobs
        # On the caller's connection a change of nothing: it takes the row's lock until the end.
        values = {"fenced": true()} if connection is None else {"lease": jobs.c.lease}
        statement = self._held(claim, update(jobs)).values(**values)
        with self._on(connection) as given:
            return bool(given.execute(statement).rowcount == 1)

    def finish(
        self, claim: Claim, outcome: Outcome, connection: Connection | None = None
    ) -> bool:
        with self._on(connection) as given:
            stored = self._finish(claim, outcome, given)
        if stored:
            self._ended(claim, outcome)
        return stored

    def finish_many(self, ends: Sequence[tuple[Claim, Outcome]]) -> list[bool]:
        with self._dialect.engine.begin() as connection:
            stored = [self._finish(claim, outcome, connection) for claim, outcome in ends]
        for (claim, outcome), was_stored in zip(ends, stored, strict=True):
            if was_stored:
                self._ended(claim, outcome)
        return stored

    def _finish(self, claim: Claim, outcome: Outcome, connection: Connection) -> bool:
        jobs, uid = self.tables.jobs, claim.job.uid
        values: dict[str, Any] = {
            "worker_id": None,
            "fenced": false(),
            "log": json.dumps(outcome.log) if outcome.log else None,
        }
        if outcome.status is READY:
            delay = outcome.delay_seconds
            values["due_at"] = self._now() + delay if delay > 0 else None
            values["finished_at"] = case((jobs.c.cancelled, self._now()), else_=None)
            again = DELAYED if delay > 0 else WAITS
            values["state"] = case((jobs.c.cancelled, TAKEN_BACK), else_=again)
        else:
            values["finished_at"] = self._now()
            values["result"] = self._rows.result_text(uid, outcome.result)
            values["state"] = STATE_OF[outcome.status]
        only_uncancelled = outcome.status is SUCCESSFUL
        statement = self._held(claim, update(jobs), only_uncancelled=only_uncancelled)
        if connection.execute(statement.values(**values)).rowcount != 1:
            return False
        if outcome.error is not None:
            connection.execute(
                insert(self.tables.errors).values(uid=uid, **outcome.error._asdict())
            )
        return True

    def _ended(self, claim: Claim, outcome: Outcome) -> None:
        self._drop(claim)
        self.wake()

    def _drop(self, claim: Claim) -> None:
        self._looked.pop((claim.job.uid, claim.lease), None)
        self._claims.pop(claim.job.uid, None)

    def release(self, claims: Iterable[Claim]) -> None:
        self._give_back(list(claims))

    def _give_back(self, claims: list[Claim], delay_seconds: float = 0.0) -> None:
        jobs = self.tables.jobs
        again = DELAYED if delay_seconds else WAITS
        with self._dialect.engine.begin() as connection:
            for claim in claims:
                connection.execute(
                    self._held(claim, update(jobs), only_uncancelled=False).values(
                        worker_id=None,
                        fenced=false(),
                        attempts=jobs.c.attempts - 1,
                        due_at=self._now() + delay_seconds if delay_seconds else None,
                        finished_at=case((jobs.c.cancelled, self._now()), else_=None),
                        state=case((jobs.c.cancelled, TAKEN_BACK), else_=again),
                    )
                )
        for claim in claims:
            self._drop(claim)
        self.wake()

    def report(self, claim: Claim, progress: Progress) -> bool:
        if not self.holds(claim):
            return False
        table, uid = self.tables.progress, claim.job.uid
        data = None if progress.data is None else self._rows.seal.dump_value(progress.data)
        values = {"value": progress.value, "data": data, "total": progress.total}
        with self._volatile.begin() as connection:
            changed = connection.execute(update(table).where(table.c.uid == uid).values(**values))
            if not changed.rowcount:
                connection.execute(insert(table).values(uid=uid, **values))
        return True

    def beat(self, worker_id: WorkerId) -> list[JobId]:
        workers, jobs = self.tables.workers, self.tables.jobs
        self._register(worker_id)
        held = dict(self._claims)
        with self._volatile.begin() as connection:
            seen = update(workers).where(workers.c.worker_id == worker_id)
            connection.execute(seen.values(seen_at=self._now()))
        if not held:
            return []
        mine = select(jobs.c.uid, jobs.c.lease).where(
            jobs.c.state == RUNS, jobs.c.worker_id == worker_id, not_(jobs.c.cancelled)
        )
        with self._dialect.at_once.connect() as connection:
            ours = {(uid, lease) for uid, lease in connection.execute(mine)}
        return [claim.job.uid for uid, claim in held.items() if (uid, claim.lease) not in ours]

    def rescue(self) -> int:
        workers = self.tables.workers
        silent_since = self._now() - self._lease_seconds
        wanted = select(workers.c.worker_id, workers.c.pid, workers.c.host, workers.c.seen_at)
        wanted = wanted.add_columns((workers.c.seen_at < silent_since).label("is_silent"))
        with self._volatile.connect() as connection:
            others = connection.execute(
                wanted.where(workers.c.worker_id != (self._worker_id or ""))
            ).all()
        return sum(
            self._take_from(worker)
            for worker in others
            if worker.is_silent or self._liveness.is_dead(worker.worker_id)
        )

    def _take_from(self, worker: Row[Any]) -> int:
        """Let the jobs of a dead or silent worker wait again, and forget the worker."""
        jobs = self.tables.jobs
        crashed = WorkerCrashed(
            f"its worker {worker.worker_id} (process {worker.pid} on {worker.host}) "
            f"{'was silent for too long' if worker.is_silent else 'died'}"
        )
        theirs = and_(jobs.c.state == RUNS, jobs.c.worker_id == worker.worker_id)
        last = jobs.c.crashes + 1 >= self._max_crashes
        with self._dialect.engine.begin() as connection:
            found = connection.execute(
                select(jobs.c.uid, jobs.c.lease, last.label("is_last")).where(theirs)
            ).all()
            rescued = 0
            for uid, lease, is_last in found:
                changed = connection.execute(
                    update(jobs)
                    .where(theirs, jobs.c.uid == uid, jobs.c.lease == lease)
                    .values(
                        worker_id=None,
                        crashes=jobs.c.crashes + 1,
                        attempts=jobs.c.attempts if is_last else jobs.c.attempts - 1,
                        finished_at=case((or_(jobs.c.cancelled, is_last), self._now()), else_=None),
                        state=case(
                            (jobs.c.cancelled, TAKEN_BACK), else_=BROKE if is_last else WAITS
                        ),
                    )
                )
                if not changed.rowcount:
                    continue
                rescued += 1
                connection.execute(
                    insert(self.tables.errors).values(uid=uid, **TaskError.of(crashed)._asdict())
                )
                log.warning("job=%s %s: %s", uid, "failed" if is_last else "waits again", crashed)
        workers = self.tables.workers
        with self._volatile.begin() as connection:
            connection.execute(delete(workers).where(workers.c.worker_id == worker.worker_id))
        if rescued:
            self.wake()
        return rescued

    def wait(
        self, queues: Collection[str] | None, seconds: float, stopped: Callable[[], bool]
    ) -> None:
        with self._changed:
            seen = self._tickets
            if stopped():
                return
        if self._has_work(queues):
            return
        with self._changed:
            if self._tickets == seen and not stopped():
                self._changed.wait(min(seconds, POLL_SECONDS))

    def _has_work(self, queues: Collection[str] | None) -> bool:
        jobs = self.tables.jobs
        due = and_(jobs.c.state == DELAYED, jobs.c.due_at <= self._now())
        wanted = select(jobs.c.number).where(or_(jobs.c.state == WAITS, due)).limit(1)
        if queues is not None:
            wanted = wanted.where(jobs.c.queue_name.in_(queues))
        with self._dialect.at_once.connect() as connection:
            return connection.execute(wanted).first() is not None

    def wake(self) -> None:
        with self._changed:
            self._tickets += 1
            self._changed.notify_all()

    def prune(self) -> int:
        jobs = self.tables.jobs
        old = self._now() - self._retention_seconds
        wanted = (
            select(jobs.c.uid)
            .where(jobs.c.state.in_(ENDED), jobs.c.finished_at <= old)
            .limit(PRUNED_AT_ONCE)
        )
        with self._dialect.engine.begin() as connection:
            uids = connection.execute(wanted).scalars().all()
            if not uids:
                return 0
            errors = self.tables.errors
            connection.execute(delete(errors).where(errors.c.uid.in_(uids)))
            connection.execute(delete(jobs).where(jobs.c.uid.in_(uids)))
        self._forget_progress(uids)
        return len(uids)

    # -- pieces of statements

    def _now(self) -> ColumnElement[float]:
        return self._dialect.now() if self._clock is None else literal(self._clock(), Double)

    def _select(self, uid: str) -> Any:
        return select(self.tables.jobs).where(self.tables.jobs.c.uid == uid)

    def _held(self, claim: Claim, statement: Any, *, only_uncancelled: bool = True) -> Any:
        """Narrow *statement* to the row that *claim* still has the right to change."""
        jobs = self.tables.jobs
        ours = [jobs.c.uid == claim.job.uid, jobs.c.lease == claim.lease, jobs.c.state == RUNS]
        return statement.where(*ours, not_(jobs.c.cancelled)) if only_uncancelled else (
            statement.where(*ours)
        )

    @contextmanager
    def _on(self, connection: Connection | None) -> Iterator[Connection]:
        """Work on the caller's connection, or on one of our own and commit."""
        if connection is not None:
            yield connection
            return
        with self._dialect.engine.begin() as own:
            yield own

    def _register(self, worker_id: str) -> None:
        """Be known as a worker, and prove from now on that it lives."""
        if self._worker_id is not None:
            return
        self._worker_id = worker_id
        self._liveness.hold(worker_id)
        with self._volatile.begin() as connection:
            connection.execute(
                insert(self.tables.workers).values(
                    worker_id=worker_id,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    started_at=self._now(),
                    seen_at=self._now(),
                )
            )

    def _forget_progress(self, uids: Sequence[str]) -> None:
        table = self.tables.progress
        with self._volatile.begin() as connection:
            connection.execute(delete(table).where(table.c.uid.in_(uids)))
