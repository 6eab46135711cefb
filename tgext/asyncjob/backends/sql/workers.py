"""Who works: the registry of workers, their heartbeats, and what becomes of a dead one's jobs.

    register --> beat, beat, beat ... --> (dead | silent) --> another worker's rescue

A worker is given up at once where something that ends with its process tells of its death (see
``liveness.py``), and after its lease where nothing is heard of it. What it held waits again. If
the job is known to have run then, that counts as a crash of the job; if the worker held several
and any of them may have killed it, all are suspects, which are claimed alone the next time.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    case,
    delete,
    false,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import DBAPIError

from ...errors import WorkerCrashed
from ...job import TaskError, WorkerSeen
from .dialect import Dialect
from .liveness import Liveness
from .tables import BROKE, RUNS, TAKEN_BACK, WAITS, Tables

log = logging.getLogger(__name__)

#: A worker that nothing was heard of for so many leases is forgotten.
LEASES_TO_FORGET = 100


class _Stranger(NamedTuple):
    """Stands for the row that a worker does not have."""

    worker_id: str
    pid: str = "of which nothing is known"
    host: str = "an unknown host"
    is_released: bool = True
    is_forgotten: bool = False
    provable: bool = False
    expendable: bool = False


class Workers:
    """The workers of one database; ``now`` gives its clock.

    lease_seconds: how long a silent worker keeps its jobs. max_crashes: deaths that a job may
    cause. expendable: whether a death of this process is nobody's crash: it is reloaded.
    """

    def __init__(
        self,
        tables: Tables,
        dialect: Dialect,
        liveness: Liveness,
        now: Callable[[], ColumnElement[float]],
        *,
        lease_seconds: float,
        max_crashes: int,
    ) -> None:
        self._tables = tables
        self._dialect = dialect
        self._liveness = liveness
        self._now = now
        self._lease_seconds = lease_seconds
        self._max_crashes = max_crashes
        #: This process's own, with what was said of them.
        self._ours: dict[str, dict[str, Any]] = {}
        #: Holders of jobs that are not in the registry, and since when, by time.monotonic().
        self._strangers: dict[str, float] = {}

    def register(
        self, worker_id: str, queues: Collection[str] | None, threads: int, *, expendable: bool
    ) -> None:
        """Let a worker of this process be known, and prove from now on that it lives."""
        described = {
            "worker_id": worker_id,
            "host": socket.gethostname()[:255],
            "pid": os.getpid(),
            "threads": threads,
            "queues": None if queues is None else ",".join(queues),
            "expendable": expendable,
            "provable": self._liveness.hold(worker_id),
        }
        with self._liveness.connection() as connection:
            self._write(connection, described)
        self._ours[worker_id] = described

    def is_registered(self, worker_id: str) -> bool:
        """Whether that is a worker of this process."""
        return worker_id in self._ours

    def beat(self, worker_id: str) -> None:
        """Say that a worker of this process lives, also to those who have forgotten it."""
        workers, described = self._tables.workers, self._ours.get(worker_id)
        if described is None:  # it has just left
            return
        with self._liveness.connection() as connection:
            provable = described["provable"] and self._liveness.holds(worker_id)
            seen = update(workers).where(workers.c.worker_id == worker_id)
            seen = seen.values(seen_at=self._now(), provable=provable)
            if connection.execute(seen).rowcount != 1:
                self._write(connection, {**described, "provable": provable})

    def retire(self, worker_id: str) -> None:
        """Say that a worker of this process is told to stop: its death is nobody's crash."""
        workers = self._tables.workers
        if worker_id not in self._ours:
            return
        self._ours[worker_id]["expendable"] = True
        with self._liveness.connection() as connection:
            ours = update(workers).where(workers.c.worker_id == worker_id)
            connection.execute(ours.values(expendable=true()))

    def dismiss(self) -> None:
        """Forget the workers of this process, but for those that still hold a job: somebody has
        to take it from them. A database that is away stops nobody from leaving."""
        ours = set(self._ours)
        self._ours.clear()
        if not ours:
            return  # there may be no tables to look at
        workers = self._tables.workers
        try:
            gone = ours - self._holders()
            if gone:
                with self._liveness.connection() as connection:
                    connection.execute(delete(workers).where(workers.c.worker_id.in_(gone)))
        except DBAPIError as error:
            log.warning(
                "closed, and could not tell the database that worker %s ends; jobs that it still "
                "holds run elsewhere after %gs (asyncjob.lease) at the latest: %s",
                ", ".join(sorted(ours)), self._lease_seconds, error.orig,
            )  # fmt: skip

    def after_fork(self) -> None:
        """Forget that there were any: they are the parent's."""
        self._ours.clear()

    def seen(self) -> list[WorkerSeen]:
        """Read the registry: those that live, or may."""
        wanted = self._looked_at().order_by(self._tables.workers.c.started_at)
        with self._dialect.volatile.connect() as connection:
            rows = connection.execute(wanted).all()
        return [
            WorkerSeen(
                row.worker_id, row.host, row.pid, row.threads,
                None if row.queues is None else tuple(row.queues.split(",")),
                datetime.fromtimestamp(row.started_at, timezone.utc),
                datetime.fromtimestamp(row.seen_at, timezone.utc),
                row.expendable,
            )
            for row in rows
            if not self._is_gone(row)
        ]  # fmt: skip

    def rescue(self, also: Sequence[ColumnElement[Any]] = ()) -> tuple[int, Row[Any] | None]:
        """Let the jobs of dead and silent workers wait again; return how many.

        also: what else to select on the way; given back in a row, None where there is none.
        """
        with self._dialect.volatile.connect() as connection:
            found = connection.execute(self._looked_at().add_columns(*also)).all()
        others = [row for row in found if row.worker_id not in self._ours]
        rescued = sum(self._take_from(row) for row in others if self._is_gone(row))
        return rescued, found[0] if found else None

    def rescue_from_strangers(self) -> int:
        """Let jobs wait again whose worker nobody knows: one that was given up and forgotten,
        came back, claimed, and died before it could say so. Return how many.

        Only of those that were strangers for a lease: who lives has told by then.
        """
        with self._dialect.volatile.connect() as connection:
            known = set(connection.execute(select(self._tables.workers.c.worker_id)).scalars())
        now = time.monotonic()
        strangers = self._holders() - known - set(self._ours)
        self._strangers = {each: self._strangers.get(each, now) for each in strangers}
        return sum(
            self._take_from(_Stranger(each))
            for each, since in self._strangers.items()
            if now - since > self._lease_seconds
        )

    # -- pieces

    def _holders(self) -> set[str]:
        """Whoever holds a job."""
        jobs = self._tables.jobs
        held = select(jobs.c.worker_id).where(jobs.c.state == self._tables.state(RUNS)).distinct()
        with self._dialect.engine.connect() as connection:
            return set(connection.execute(held).scalars())

    def _write(self, connection: Connection, described: dict[str, Any]) -> None:
        values = {"started_at": self._now(), "seen_at": self._now(), **described}
        connection.execute(insert(self._tables.workers).values(**values))

    def _looked_at(self) -> Any:
        workers = self._tables.workers
        now = self._now()
        forgotten_since = now - LEASES_TO_FORGET * self._lease_seconds
        return select(
            workers,
            (workers.c.seen_at < now - self._lease_seconds).label("is_silent"),
            (workers.c.seen_at < forgotten_since).label("is_forgotten"),
            and_(workers.c.provable, self._liveness.released(workers.c.worker_id)).label(
                "is_released"
            ),
        )

    def _is_gone(self, row: Row[Any]) -> bool:
        return row.is_silent or self._is_dead(row)

    def _is_dead(self, row: Row[Any]) -> bool:
        return row.is_released or (row.provable and self._liveness.is_dead(row.worker_id))

    def _take_from(self, worker: Any) -> int:
        """Let what a worker held wait again, and forget it if it is dead."""
        is_dead = self._is_dead(worker)
        why = WorkerCrashed(
            f"its worker {worker.worker_id} (process {worker.pid} on {worker.host}) "
            + ("died" if is_dead else f"was silent for more than {self._lease_seconds:g} s")
        )
        try:
            with self._dialect.begin() as connection:
                held = connection.execute(self._held_by(worker)).all()
                rescued = sum(self._take(connection, row, worker, why) for row in held)
                if rescued:
                    self._dialect.announce(connection, sorted({row.queue_name for row in held}))
        except DBAPIError as error:
            if not self._dialect.is_passing(error):
                raise
            log.info("could not take over from %s yet: %s", worker.worker_id, error)
            return 0  # the next round comes back to it
        # One that is only silent may come back, and what it claims then must not be nobody's. Of a
        # dead one the server may still be rolling back a commit: the next round takes that.
        if (is_dead or worker.is_forgotten) and worker.worker_id not in self._holders():
            workers = self._tables.workers
            with self._dialect.volatile.connect() as connection:
                connection.execute(delete(workers).where(workers.c.worker_id == worker.worker_id))
        return rescued

    def _held_by(self, worker: Row[Any]) -> Any:
        jobs = self._tables.jobs
        held = select(
            jobs.c.uid, jobs.c.lease, jobs.c.begun, jobs.c.crashes, jobs.c.queue_name
        ).where(jobs.c.state == self._tables.state(RUNS), jobs.c.worker_id == worker.worker_id)
        # One that hangs in its commit keeps that row locked: the next look comes back to it, and
        # whoever waited for it could rescue nothing else meanwhile.
        return held.with_for_update(skip_locked=True) if self._dialect.skips_locked else held

    def _take(
        self, connection: Connection, row: Row[Any], worker: Row[Any], why: WorkerCrashed
    ) -> bool:
        jobs = self._tables.jobs
        crashed = row.begun and not worker.expendable
        is_last = crashed and row.crashes + 1 >= self._max_crashes
        ends = or_(jobs.c.cancelled, true() if is_last else false())
        changed = connection.execute(
            update(jobs)
            .where(jobs.c.uid == row.uid, jobs.c.lease == row.lease)
            .where(jobs.c.worker_id == worker.worker_id)
            .where(jobs.c.state == self._tables.state(RUNS))
            .ordered_values(
                (jobs.c.worker_id, None),
                (jobs.c.fenced, false()),
                (jobs.c.suspect, not worker.expendable),  # until it ends
                (jobs.c.crashes, jobs.c.crashes + (1 if crashed else 0)),
                (jobs.c.attempts, jobs.c.attempts - (0 if is_last else 1)),
                (jobs.c.finished_at, case((ends, self._now()), else_=None)),
                (
                    jobs.c.state,
                    case((jobs.c.cancelled, TAKEN_BACK), else_=BROKE if is_last else WAITS),
                ),
            )
        )
        if changed.rowcount != 1:
            return False
        if crashed:
            described = TaskError.of(why)._asdict()
            connection.execute(insert(self._tables.errors).values(uid=row.uid, **described))
        log.warning("job=%s %s: %s", row.uid, "failed" if is_last else "waits again", why)
        return True
