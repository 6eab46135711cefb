"""The backend ``sql``: jobs in the application's database, SQLite, PostgreSQL or MariaDB.

    enqueue   on the request's connection; its commit creates the job
    claim     one short transaction; the new lease of a job is one more than the one before
    finish    on the job's connection; committed together with its work, or not at all
    rescue    jobs of dead workers wait again; a death counts as a crash, not as an attempt

This module has what a worker needs, ``store`` what enqueues and reads. ``taking`` decides which
jobs are next; ``worker_registry``, ``liveness`` and ``silence`` which workers live; ``wakeup`` and
``listener`` wake waiting threads; ``dialects``, ``sqlite`` and ``faults`` have what differs between
databases.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from ...errors import ModuleMissing
from ...job import (
    FAILED,
    READY,
    Claim,
    JobId,
    Outcome,
    Progress,
    TaskError,
    WorkerId,
)
from ..audit import Act
from ..base import Backend, Standing
from . import states
from .batches import together
from .claims import End
from .dialects import check_present
from .elsewhere import ELSEWHERE_SECONDS, may_be_elsewhere
from .notifier import ANY
from .rows import ClaimedRow
from .steered_store import SteeredStore

log = logging.getLogger(__name__)

#: Rounds of rescue for each look at the jobs, where that takes a query of its own.
ROUNDS_TO_LOOK = 20

#: How long ``standing`` reuses the result of its last query; the longest round of pruning, for
#: which a rescue waits; in seconds.
STANDING_SECONDS, PRUNING_SECONDS = 0.5, 0.2


class SqlBackend(SteeredStore, Backend):
    """What a worker needs, on top of ``SqlStore``; takes the same arguments."""

    most_at_once = 500
    is_shared = True
    check_present = staticmethod(check_present)

    def register(
        self,
        worker_id: WorkerId,
        queues: Collection[str] | None,
        threads: int,
        *,
        expendable: bool = False,
    ) -> None:
        self.schema.ensure()
        with self._lock:  # threads that claim for one worker come here together
            if not self._registry.is_registered(worker_id):
                self._registry.register(worker_id, queues, threads, expendable=expendable)
                self._wakeup.serve(queues)
                if self.relay is not None:
                    self.relay.start(queues)

    def retire(self, worker_id: WorkerId) -> None:
        self._retired.add(worker_id)  # first: the database may not answer
        self._registry.retire(worker_id)

    def dismiss(self, worker_id: WorkerId) -> None:
        self._registry.dismiss(worker_id)
        self._unreceived.pop(worker_id, None)

    def claim(self, worker_id: WorkerId, queues: Collection[str] | None, limit: int) -> list[Claim]:
        if not self._registry.is_registered(worker_id):
            self.register(worker_id, queues, 1)
        claims: list[Claim] = []
        while not claims:  # jobs that cannot be run here are ended or released: take others
            rows = self._take(worker_id, queues, limit)
            if not rows:
                break
            try:
                claims = self._opened(worker_id, self._admissions.claimed(self._alone(rows)))
            except BaseException:
                for row in rows:
                    self._running.pop((row.uid, row.lease), None)
                raise
            if worker_id in self._retired:
                break
        return claims

    def _opened(self, worker_id: WorkerId, rows: Sequence[ClaimedRow]) -> list[Claim]:
        """The claims on rows that can be run here. Each of the others is stored by itself, which
        takes a while: if the worker is stopping meanwhile, the rest is released."""
        claims = []
        for number, row in enumerate(rows):
            if worker_id in self._retired:
                self.release([self._rows.claim(each, opened=False) for each in rows[number:]])
                break
            claim = self._claim_of(row)
            if claim is not None:
                claims.append(claim)
        return claims

    def _take(
        self, worker_id: WorkerId, queues: Collection[str] | None, limit: int
    ) -> Sequence[ClaimedRow]:
        self._wakeup.note_seen()
        self._admissions.settle(any_time=self._clock.is_fake)
        if self._dialect.has_one_writer:
            self._wakeup.forget_due()  # what was due another worker may have; the look tells
            look = self._look(queues)
            self._wakeup.due_in(look.due_seconds)
            if not look.is_waiting:
                return []  # a claim of nothing would take the write lock too
        self._promote()
        rows = self._taking.take(worker_id, queues, limit)
        if not rows:
            return []
        self._wakeup.poll_faster()
        if len(rows) == limit:
            self._wakeup.wake()  # there may be more jobs, for another thread
        # A server that lost a claim gives the same lease again; the next claim gets another one.
        twice = [row for row in rows if self._running.get((row.uid, row.lease)) == worker_id]
        if twice:
            self.release([self._rows.claim(row, opened=False) for row in twice])
            rows = [row for row in rows if row not in twice]
        self._running.update({(row.uid, row.lease): worker_id for row in rows})
        return rows

    def _promote(self) -> None:
        """Make delayed jobs that are due AVAILABLE, as many as there is time for."""
        if not (self._wakeup.is_due() or self._clock.is_fake):
            return
        if self._taking.promote(self._admissions.request) and self.relay is not None:
            self.relay.notify([ANY])
        self._admissions.settle()
        self._wakeup.due_in(self._look(None).due_seconds)  # the next one; now, if some are left

    def _alone(self, rows: Sequence[ClaimedRow]) -> Sequence[ClaimedRow]:
        """Return the rows that may run together, and put the others back."""
        number = together(rows)
        if number is None:
            return rows
        self._put_back([self._rows.claim(row, opened=False) for row in rows[number:]])
        if rows[0].suspect:
            with self._dialect.write() as connection:  # its own transaction begins after that
                self._claims.begin(self._rows.claim(rows[0], opened=False), connection)
        return rows[:number]

    def _claim_of(self, row: ClaimedRow) -> Claim | None:
        """The claim on a row that this worker has claimed; None: the job has FAILED, since its call
        cannot be run, or is left to other workers."""
        try:
            return self._rows.claim(row, opened=True)
        except Exception as error:  # noqa: BLE001 - a stored call may raise anything when it is read
            claim, missing = self._rows.claim(row, opened=False), isinstance(error, ModuleMissing)
            if missing and may_be_elsewhere(self._dialect.engine, self.tables.job(row.uid)):
                log.warning("job=%s left to another worker: %s", row.uid, error)
                self._give_back([claim], ELSEWHERE_SECONDS)
            else:
                log.error("job=%s cannot be run: %s", row.uid, error)
                self.finish(claim, Outcome(FAILED, error=TaskError.of(error)))
        return None

    def standing(self, claim: Claim, *, fresh: bool = False) -> Standing:
        which, now = (claim.job.uid, claim.lease), time.monotonic()
        looked_at, found = self._looked.get(which, (-STANDING_SECONDS, Standing.HELD))
        if now - looked_at < STANDING_SECONDS and not fresh:
            return found
        with self._dialect.engine.connect() as connection:
            found = self._claims.standing(claim, connection)
        self._looked[which] = (now, found)
        return found

    def fence(self, claim: Claim, connection: Connection | None = None) -> bool:
        return self._dialect.change(
            connection, lambda given: self._claims.fence(claim, given, lasting=connection is None)
        )

    def unfence(self, claim: Claim) -> None:
        with self._on(None) as given:
            self._claims.unfence(claim, given)

    def finish(self, claim: Claim, outcome: Outcome, connection: Connection | None = None) -> bool:
        self._progress.flush([claim.job.uid])
        if connection is not None:
            return self._dialect.change(
                connection, lambda given: self._claims.finish(claim, outcome, given)
            )
        stored = self._outcomes.store(claim, outcome)
        self._ended([(claim, outcome)])
        return stored

    def finish_many(self, ends: Sequence[End]) -> list[bool]:
        self._progress.flush([claim.job.uid for claim, _ in ends])
        stored = self._outcomes.store_all(ends)
        self._ended(ends)
        return stored

    def _ended(self, ends: Sequence[End]) -> None:
        self._forget([claim for claim, _ in ends])
        for claim, outcome in ends:
            if outcome.status is READY and outcome.delay_seconds:
                self._wakeup.due_in(outcome.delay_seconds)
            elif outcome.status in (READY, FAILED):  # a failure may enqueue a job
                self._made_available([claim.job.options.queue_name])

    def committed(self, claim: Claim) -> bool:
        with self._dialect.begin() as connection:
            return self._claims.succeeded(claim, connection)

    def finished(self, claim: Claim) -> None:
        self._forget([claim])

    def _forget(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            self._looked.pop((claim.job.uid, claim.lease), None)
            self._running.pop((claim.job.uid, claim.lease), None)
            if claim.job.keys is not None:
                self._admissions.request([claim.job.keys])
        self._wakeup.ended()
        if self._taking.is_paused:  # another job of the same queue may be within its limit now
            self._made_available({claim.job.options.queue_name for claim in claims})

    def release(self, claims: Iterable[Claim]) -> None:
        self._give_back(list(claims), 0.0)

    def _put_back(self, claims: list[Claim]) -> None:
        with self._dialect.begin() as connection:
            self._claims.put_back(claims, connection)
        self._forget(claims)
        self._made_available({claim.job.options.queue_name for claim in claims})

    def _give_back(self, claims: list[Claim], delay_seconds: float) -> None:
        if not claims:
            return
        with self._dialect.begin() as connection:
            self._claims.release(claims, connection, delay_seconds)
        self._forget(claims)
        self._made_available({claim.job.options.queue_name for claim in claims})

    def report(self, claim: Claim, progress: Progress) -> bool:
        if self.standing(claim) is not Standing.HELD:
            return False
        self._progress.put(claim.job.uid, claim.attempt, progress)
        return True

    def heartbeat(self, worker_id: WorkerId) -> list[tuple[JobId, int]]:
        if self._registry.is_registered(worker_id):
            self._registry.heartbeat(worker_id)
        held, ours = self._held_by(worker_id), set[tuple[str, int]]()
        if held or self._may_hold:
            ours = self._registry.claims_of(worker_id)
        unreceived = {which for which in ours if which not in self._running}
        self._release_unreceived(worker_id, unreceived)
        return self._lost_of(held, ours)

    def lost(self, worker_id: WorkerId) -> list[tuple[JobId, int]]:
        held = self._held_by(worker_id)
        return self._lost_of(held, self._registry.claims_of(worker_id)) if held else []

    def _held_by(self, worker_id: WorkerId) -> list[tuple[str, int]]:
        """The claims that a worker has, as far as it knows."""
        return [which for which, whose in list(self._running.items()) if whose == worker_id]

    def _lost_of(
        self, held: list[tuple[str, int]], ours: set[tuple[str, int]]
    ) -> list[tuple[JobId, int]]:
        # A job that was finished between the two reads is not lost.
        lost = (which for which in held if which not in ours and which in self._running)
        return [(JobId(uid), lease) for uid, lease in lost]

    def _release_unreceived(self, worker_id: WorkerId, unreceived: set[tuple[str, int]]) -> None:
        """Release jobs that a worker holds by the table and does not run: the answer to a claim was
        lost. Only when seen twice: the first time the answer may still be on its way."""
        before = self._unreceived.pop(worker_id, set())
        if unreceived:
            self._unreceived[worker_id] = unreceived
        for uid, lease in unreceived & before:
            with self._dialect.engine.connect() as connection:
                row = connection.execute(self.tables.job(uid)).one_or_none()
            if row is not None and row.lease == lease:
                log.warning("job=%s was claimed, and the answer was lost: waits again", uid)
                self.release([self._rows.claim(row, opened=False)])

    def watch_locks(self, worker_id: WorkerId, running: Iterable[tuple[JobId, Any]]) -> bool:
        held = self._dialect.watch_locks(running)
        if held is not None:
            self._registry.note_locks(worker_id, held)
        return held is not None

    def rescue(self) -> int:
        is_one_database = self._dialect.side_database is self._dialect.engine
        looks: tuple[Any, ...] = ()
        if is_one_database:
            now = self._now()
            looks = (*self._taking.looks(self._wakeup.queues, now), *self._taking.rarer(now))
            looks += (self._registry.holds(),)
        rescued, seen = self._registry.rescue(looks)
        if rescued:
            self._made_available([ANY])
        if is_one_database and seen is not None:
            self._wakeup.found(self._seen_with_ticks(seen, self._wakeup.queues))
            self._may_hold = bool(seen.holds)
        elif is_one_database or self._wakeup.was_notified() or not self._rounds % ROUNDS_TO_LOOK:
            self._wakeup.look()  # perhaps for a new schedule, which no claim looks for
        self._rounds += 1
        if self._may_be_blocked:
            self._admissions.look()
        if not self._running:
            self._dialect.trim()
        return rescued

    def is_in_doubt(self) -> bool:
        return self._registry.is_in_doubt()

    def wait(
        self, queues: Collection[str] | None, seconds: float, stopped: Callable[[], bool]
    ) -> None:
        self._wakeup.wait(queues, seconds, stopped)

    def wake(self) -> None:
        self._wakeup.wake_all()

    def prune(self) -> int:
        if self._registry.rescue_from_unknown():
            self._made_available([ANY])
        old = self._retention_seconds
        self._audit.prune(old)
        self._schedules.prune(old)
        self._admission.prune()
        return self._pruning.remove(states.ENDED, old, within_seconds=PRUNING_SECONDS)

    def purge(self, uids: Sequence[str], act: Act | None = None) -> int:
        """Remove jobs, those of them that have ended; return how many."""
        return self._pruning.remove_these(uids, act)
