"""The registry of workers, their heartbeats, and the search for dead ones.

    register --> heartbeat, heartbeat ... --> (dead | silent) --> another worker's rescue

The jobs of a worker are rescued at once if its death is proven (see ``liveness``), and after its
lease if it sends no heartbeat (see ``silence``). What becomes of them: see ``rescue``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    case,
    delete,
    insert,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from ...job import WorkerInfo
from ..worker_id import is_gone
from . import states
from .dialect import Dialect
from .liveness import Liveness
from .rescue import NEVER, Rescue
from .silence import Silence
from .tables import Tables, instant

log = logging.getLogger(__name__)

#: The row of a worker that holds no job is removed after so many leases, by the database's clock;
#: its next heartbeat inserts it again.
LEASES_TO_FORGET = 100

#: The least change of ``seen_at`` by a heartbeat, in seconds.
TICK_SECONDS = 0.001


class UnknownWorker(NamedTuple):
    """Has the attributes of a row, for a worker that is not in the registry."""

    worker_id: str
    pid: str = "of which nothing is known"
    host: str = "an unknown host"
    seen_at: float | None = None
    is_forgotten: bool = True
    expendable: bool = False


class WorkerRegistry:
    """The workers of one database. now: returns the time of its clock, as SQL."""

    def __init__(
        self,
        tables: Tables,
        dialect: Dialect,
        liveness: Liveness,
        silence: Silence,
        now: Callable[[], ColumnElement[float]],
        rescue: Rescue,
    ) -> None:
        self._tables = tables
        self._dialect = dialect
        self._liveness = liveness
        self._now = now
        self._rescue = rescue
        #: The workers of this process, with the other columns of their rows.
        self._ours: dict[str, dict[str, Any]] = {}
        self._silence = silence
        #: Ids of workers that hold jobs and are not in the registry.
        self._unknown: set[str] = set()

    def register(
        self, worker_id: str, queues: Collection[str] | None, threads: int, *, expendable: bool
    ) -> None:
        """Insert a worker of this process, and provide a proof that it lives."""
        described = {
            "worker_id": worker_id,
            "host": socket.gethostname()[:255],
            "pid": os.getpid(),
            "threads": threads,
            "queues": None if queues is None else ",".join(queues),
            "expendable": expendable,
            "provable": self._liveness.hold(worker_id) or is_gone(worker_id) is not None,
        }
        with self._liveness.connection() as connection:
            self._insert(connection, described)
        self._ours[worker_id] = described

    def threads(self, *, without: Collection[str]) -> int:
        """Return how many threads the workers of this process have. without: ids left out."""
        ours = list(self._ours.items())
        return sum(each["threads"] for worker_id, each in ours if worker_id not in without)

    def is_registered(self, worker_id: str) -> bool:
        """Whether it is a registered worker of this process."""
        return worker_id in self._ours

    def heartbeat(self, worker_id: str) -> None:
        """Send a heartbeat of a worker of this process; insert it again if others removed it."""
        workers, described = self._tables.workers, self._ours.get(worker_id)
        if described is None:  # it has just ended
            return
        self._liveness.hold(worker_id)
        now = self._now()
        # It must change each time, also if the clock of the database does not.
        stands_still = and_(workers.c.seen_at >= now, workers.c.seen_at < now + 1)
        seen_at = case((stands_still, workers.c.seen_at + TICK_SECONDS), else_=now)
        seen = update(workers).where(workers.c.worker_id == worker_id).values(seen_at=seen_at)
        with self._liveness.connection() as connection:
            if connection.execute(seen).rowcount != 1:
                self._insert(connection, described)

    def retire(self, worker_id: str) -> None:
        """Note that a worker of this process is stopping: its death is no crash of its jobs."""
        self._change(worker_id, expendable=True)

    def note_locks(self, worker_id: str, held: dict[str, float]) -> None:
        """Note, on SQLite, which jobs of a worker of this process hold the write lock, and since
        when, in seconds since the epoch."""
        self._change(worker_id, locks=json.dumps(held) if held else None)

    def _change(self, worker_id: str, **values: Any) -> None:
        """Change the row of a worker of this process, and what is inserted if others removed it."""
        workers, described = self._tables.workers, self._ours.get(worker_id)
        if described is None or all(described.get(name) == values[name] for name in values):
            return
        described.update(values)
        with self._liveness.connection() as connection:
            ours = update(workers).where(workers.c.worker_id == worker_id)
            connection.execute(ours.values(values))

    def dismiss(self, worker_id: str | None = None) -> None:
        """Remove a worker of this process, or all. One that still holds a job is marked as ended,
        so that others rescue the job. If the database cannot be reached, that is only logged."""
        ours = set(self._ours) if worker_id is None else {worker_id} & set(self._ours)
        for each in ours:
            self._ours.pop(each, None)
            self._liveness.release(each)
        if not ours:
            return  # there may be no tables
        workers = self._tables.workers
        try:
            mine, holders = workers.c.worker_id.in_(ours), self._holders()
            with self._liveness.connection() as connection:
                connection.execute(update(workers).where(mine).values(seen_at=NEVER))
                connection.execute(delete(workers).where(mine, workers.c.worker_id.not_in(holders)))
        except DBAPIError as error:
            log.warning(
                "could not record in the database that worker %s ends; jobs that it still "
                "holds run elsewhere after %gs (asyncjob.lease) at the latest: %s",
                ", ".join(sorted(ours)), self._silence.lease_seconds, error.orig,
            )  # fmt: skip

    def after_fork(self) -> None:
        """Forget the workers of the parent process."""
        self._ours.clear()
        self._silence.forget()

    def workers(self) -> list[WorkerInfo]:
        """Read the workers that are not known to be dead."""
        wanted = self._select_workers().order_by(self._tables.workers.c.started_at)
        with self._dialect.side_database.connect() as connection:
            rows = connection.execute(wanted).all()
        return [
            WorkerInfo(
                row.worker_id, row.host, row.pid, row.threads,
                None if row.queues is None else tuple(row.queues.split(",")),
                instant(row.started_at),
                instant(row.seen_at),
                row.expendable,
            )
            for row in rows
            # A process without a worker has watched no heartbeats: it uses the database's clock.
            if not (row.age > self._silence.lease_of(row.worker_id) or self._is_gone(row))
        ]  # fmt: skip

    def rescue(self, also: Sequence[ColumnElement[Any]] = ()) -> tuple[int, Row[Any] | None]:
        """Let the jobs of dead and silent workers wait again; return how many.

        also: columns to select in the same query; returned in a row, None if there are no workers.
        """
        ours = list(self._ours)
        if ours and self._silence.is_near():
            self._silence.unless_prompt(lambda: self.heartbeat(ours[0]))
        self._silence.look()
        with self._dialect.side_database.connect() as connection:
            found = connection.execute(self._select_workers().add_columns(*also)).all()
        # An unknown worker has no heartbeats until it is in the registry.
        seen = dict.fromkeys(self._unknown) | {row.worker_id: row.seen_at for row in found}
        self._silence.note(seen)
        rescued = 0
        for row in found:
            if row.worker_id not in self._ours:
                rescued += self._rescue.from_worker(row) if self._is_gone(row) else 0
                self._forget_if_over(row)
        return rescued, found[0] if found else None

    def rescue_from_unknown(self) -> int:
        """Rescue jobs whose worker is not in the registry; return how many. Such a worker was
        removed as silent, came back, claimed, and died before its next heartbeat.

        Only if the worker is dead, or was unknown for a lease: a living one has sent a heartbeat
        by then.
        """
        with self._dialect.side_database.connect() as connection:
            known = set(connection.execute(select(self._tables.workers.c.worker_id)).scalars())
        self._unknown = self._holders() - known - set(self._ours)
        unknown = [UnknownWorker(each) for each in self._unknown]
        return sum(self._rescue.from_worker(each) for each in unknown if self._is_gone(each))

    def is_in_doubt(self) -> bool:
        """Whether a job is held by a worker that may have died: by the database's clock its last
        heartbeat is older than its lease, but this process has not watched it for long enough.
        Jobs of a worker that was watched for its lease wait again when this returns."""
        with self._dialect.side_database.connect() as connection:
            rows = connection.execute(self._select_workers()).all()
        for row in rows:
            if row.worker_id not in self._ours and self._silence.is_over_lease(row.worker_id):
                # Another thread has seen that, and may be about to: the caller would leave.
                self._rescue.from_worker(row)
        known = {
            row.worker_id
            for row in rows
            # Also if its last heartbeat is in the future: the clock has been set back.
            if abs(row.age) <= self._silence.lease_of(row.worker_id)
            or self._silence.is_over_lease(row.worker_id)  # its jobs cannot be rescued now
        }
        return bool(self._holders() - known - set(self._ours))

    # -- what they hold

    def noted_locks(self) -> Select[Any] | None:
        """A SELECT of what ``locks_in`` reads, in columns like those of a progress; None where jobs
        do not lock a whole database."""
        workers = self._tables.workers
        if not self._dialect.has_one_writer:
            return None
        noted = select(workers.c.worker_id, null(), workers.c.locks)
        return noted.where(workers.c.locks.is_not(None))

    def locks_in(self, rows: Sequence[Any]) -> dict[str, float]:
        """Return which jobs hold SQLite's write lock and since when, as their workers noted it.
        A dead worker holds none."""
        found = dict[str, float]()
        for worker_id, _, locks in rows:
            found |= {} if self._liveness.is_dead(worker_id) else json.loads(locks)
        return found

    def claims_of(self, worker_id: str) -> set[tuple[str, int]]:
        """Read the claims that a worker has in the table: uid and lease."""
        jobs = self._tables.jobs
        its = select(jobs.c.uid, jobs.c.lease).where(
            self._tables.stands(states.RUNNING), jobs.c.worker_id == worker_id
        )
        with self._dialect.engine.connect() as connection:
            return {(uid, lease) for uid, lease in connection.execute(its)}

    def holds(self) -> ColumnElement[bool]:
        """The column for ``rescue`` that says whether a worker of this process holds a job, so that
        a heartbeat need not read it."""
        jobs = self._tables.jobs
        its = select(jobs.c.number).where(
            self._tables.stands(states.RUNNING), jobs.c.worker_id.in_(list(self._ours))
        )
        return its.limit(literal_column("1")).scalar_subquery().is_not(None).label("holds")

    def _holders(self) -> set[str]:
        """The ids of the workers that hold a job."""
        jobs = self._tables.jobs
        held = select(jobs.c.worker_id).where(self._tables.stands(states.RUNNING)).distinct()
        with self._dialect.engine.connect() as connection:
            return set(connection.execute(held).scalars())

    def _insert(self, connection: Connection, described: dict[str, Any]) -> None:
        values = {"started_at": self._now(), "seen_at": self._now(), **described}
        connection.execute(insert(self._tables.workers).values(**values))

    def _select_workers(self) -> Any:
        workers = self._tables.workers
        age = self._now() - workers.c.seen_at
        return select(
            workers,
            age.label("age"),
            (age > LEASES_TO_FORGET * self._silence.lease_seconds).label("is_forgotten"),
        )

    def _is_gone(self, worker: Any) -> bool:
        is_silent = self._silence.is_over_lease(worker.worker_id)
        return is_silent or worker.seen_at == NEVER or self._liveness.is_dead(worker.worker_id)

    def _forget_if_over(self, worker: Row[Any]) -> None:
        """Remove a worker that is dead, or that has sent no heartbeat for very long."""
        is_dead = self._liveness.is_dead(worker.worker_id)
        # A silent worker may come back, and its claims must have a known worker then. The server
        # may still roll back a commit of a dead one: the next round rescues that job.
        is_over = is_dead or worker.is_forgotten
        if not is_over or worker.worker_id in self._holders():
            return
        workers = self._tables.workers
        with self._dialect.side_database.connect() as connection:
            connection.execute(delete(workers).where(workers.c.worker_id == worker.worker_id))
        if is_dead:
            self._liveness.clean_up(worker.worker_id)
