"""Rescues the jobs of a worker that is dead or silent: they wait again.

A job that is known to have run when its worker died has crashed it. If the worker held several
jobs, any of which may have killed it, all are suspects, which are claimed alone the next time. A
missing heartbeat alone is no crash, but makes suspects too. If a worker that holds only a suspect
sends no heartbeat, the suspect has crashed it; otherwise a job that hangs its machine would be run
again without end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, case, select, update
from sqlalchemy.exc import DBAPIError

from ...errors import WorkerCrashed
from ...job import TaskError
from ...policies import Keys
from . import states
from .availability import ended, waiting_again
from .dialect import Dialect
from .failures import failure
from .follow_ups import FollowUps
from .liveness import Liveness
from .silence import Silence
from .tables import Tables
from .uniqueness import Uniqueness

log = logging.getLogger(__name__)

#: The ``seen_at`` of a worker that has ended and still holds jobs.
NEVER = 0.0


class Rescue:
    """now: returns the time of the database's clock, as SQL. max_crashes: deaths of workers after
    which a job has FAILED. ended: called, after the commit, with the keys of the jobs that have
    ended or must be admitted again."""

    def __init__(  # noqa: PLR0913 - each is a part
        self,
        tables: Tables,
        dialect: Dialect,
        liveness: Liveness,
        silence: Silence,
        now: Callable[[], ColumnElement[float]],
        follow_ups: FollowUps,
        uniqueness: Uniqueness,
        max_crashes: int,
        ended: Callable[[list[Keys | None]], object],
    ) -> None:
        self._tables = tables
        self._dialect = dialect
        self._liveness = liveness
        self._silence = silence
        self._now = now
        self._follow_ups = follow_ups
        self._uniqueness = uniqueness
        self._max_crashes = max_crashes
        self._ended = ended

    def from_worker(self, worker: Any) -> int:
        """Make the jobs that a worker holds wait again; return how many."""
        is_dead = self._liveness.is_dead(worker.worker_id)
        named = f"{worker.worker_id} (process {worker.pid} on {worker.host})"
        how = self._how(worker, is_dead)
        why = WorkerCrashed(f"its worker {named} {how}")
        try:
            with self._dialect.begin() as connection:
                held = connection.execute(self._held_by(worker)).all()
                taken = (self._rescue_job(connection, row, worker, why, is_dead) for row in held)
                rescued = sum(taken)
        except DBAPIError as error:
            if not self._dialect.faults.is_passing(error):
                raise
            log.info("could not take over from %s yet: %s", worker.worker_id, error)
            return 0  # the next round tries again
        self._ended([Keys.of(row.policy) for row in held])
        if rescued:
            log.warning("worker=%s given up, jobs=%d: it %s", worker.worker_id, rescued, how)
        return rescued

    def _how(self, worker: Any, is_dead: bool) -> str:
        if is_dead:
            return "died"
        if worker.seen_at == NEVER:
            return "ended without releasing it"
        lease_seconds = self._silence.lease_of(worker.worker_id)
        return f"was silent for more than {lease_seconds:g} s"

    def _held_by(self, worker: Row[Any]) -> Any:
        jobs = self._tables.jobs
        its = (self._tables.stands(states.RUNNING), jobs.c.worker_id == worker.worker_id)
        held = select(
            jobs.c.uid, jobs.c.lease, jobs.c.begun, jobs.c.suspect, jobs.c.crashes, jobs.c.attempts,
            jobs.c.name, jobs.c.queue_name, jobs.c.policy,
        ).where(*its)  # fmt: skip
        # A job that hangs in its commit keeps its row locked. The next round tries it again; a
        # rescue that waited for it could rescue nothing else meanwhile.
        return held.with_for_update(skip_locked=True) if self._dialect.skips_locked else held

    def _rescue_job(
        self, connection: Connection, row: Row[Any], worker: Any, why: WorkerCrashed, is_dead: bool
    ) -> bool:
        jobs = self._tables.jobs
        has_left = worker.expendable or worker.seen_at == NEVER
        crashed = row.begun and not has_left and (is_dead or row.suspect)
        is_last = crashed and row.crashes + 1 >= self._max_crashes
        now = self._now()
        failed = case((jobs.c.cancelled, states.CANCELLED), else_=states.FAILED)
        what_follows = ended(jobs, now, failed) if is_last else waiting_again(jobs, now)
        changed = connection.execute(
            update(jobs)
            .where(jobs.c.uid == row.uid, jobs.c.lease == row.lease)
            .where(jobs.c.worker_id == worker.worker_id)
            .where(self._tables.running)
            .ordered_values(
                (jobs.c.suspect, not has_left),  # until it ends
                (jobs.c.crashes, jobs.c.crashes + (1 if crashed else 0)),
                (jobs.c.attempts, jobs.c.attempts - (0 if is_last else 1)),
                *what_follows,
            )
        )
        if changed.rowcount != 1:
            return False
        if is_last:
            self._follow_ups.add(row.uid, row.name, row.queue_name, connection)
        else:
            self._uniqueness.returns(row.uid, Keys.of(row.policy), connection)
        if crashed:
            stored = failure(
                self._tables.errors, row.uid, TaskError.of(why),
                at=now, attempt=row.attempts, worker_id=worker.worker_id,
            )  # fmt: skip
            connection.execute(stored)
        log.warning("job=%s %s: %s", row.uid, "failed" if is_last else "waits again", why)
        return True
