"""The statements of a claim, each fenced by its lease.

    fence     lock the row against all others until the transaction ends
    finish    store the outcome, committed together with the job's work or not at all
    release   make the job wait again as if it had not been claimed

Only the holder of the lease changes a row; if a statement changes no row, the claim is lost.
``held`` is the condition: uid, lease, worker and state. The worker is part of it because the commit
of a claim does not wait for the disk: a server that restarts without it gives the same lease again,
to another worker. The work of a job is never kept without its claim, which was committed earlier.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    String,
    and_,
    bindparam,
    false,
    not_,
    select,
    true,
    update,
)

from ...job import FAILED, READY, SUCCESSFUL, Claim, Outcome
from ..base import Standing
from . import states
from .availability import Assignments, ended, put_back, waiting_again
from .dialect import Dialect
from .failures import failure
from .follow_ups import FollowUps
from .rows import Rows
from .tables import Clock, Tables
from .uniqueness import Uniqueness

End = tuple[Claim, Outcome]


class Claims:
    """Builds and executes these statements."""

    def __init__(
        self,
        tables: Tables,
        dialect: Dialect,
        rows: Rows,
        clock: Clock,
        follow_ups: FollowUps,
        uniqueness: Uniqueness,
    ) -> None:
        self._uniqueness = uniqueness
        self._follow_ups = follow_ups
        self._tables = tables
        self._jobs = tables.jobs
        self._rows = rows
        self._now = clock.now
        self._moment = clock.moment
        self._clock = clock.clause
        # Not that of many: on PostgreSQL a list of one takes more CPU than one value.
        self._succeeding = dialect.compiled(
            lambda: self._succeeded(self._jobs.c.uid == bindparam("held_uid", type_=String()))
        )
        self._returns = dialect.update_returns
        many = dialect.is_one_of(self._jobs.c.uid, "uids")
        self._succeeding_many = (
            None if many is None else dialect.compiled(lambda: self._those(many))
        )
        self._succeeding_each = dialect.compiled_for_lists(
            lambda uids: self._those(self._jobs.c.uid.in_(uids))
        )

    # -- hold

    def held(self, claim: Claim) -> ColumnElement[bool]:
        """The condition that *claim* still holds."""
        jobs = self._jobs
        return and_(
            jobs.c.uid == claim.job.uid,
            jobs.c.lease == claim.lease,
            jobs.c.worker_id == claim.worker_id,
            self._tables.running,
        )

    def standing(self, claim: Claim, connection: Connection) -> Standing:
        """Read whether *claim* still holds, and whether the job is cancelled."""
        wanted = select(self._jobs.c.cancelled).where(self.held(claim))
        cancelled = connection.execute(wanted).scalar()
        if cancelled is None:
            return Standing.LOST
        return Standing.CANCELLED if cancelled else Standing.HELD

    def fence(self, claim: Claim, connection: Connection, *, lasting: bool) -> bool:
        """Lock the row against all others until the transaction on *connection* ends; lasting:
        that is not the transaction of the job: set a flag in the row instead."""
        jobs = self._jobs
        # An UPDATE that changes nothing takes the lock.
        values = {"fenced": true()} if lasting else {"lease": jobs.c.lease}
        ours = update(jobs).where(self.held(claim), not_(jobs.c.cancelled)).values(**values)
        return bool(connection.execute(ours).rowcount == 1)

    def unfence(self, claim: Claim, connection: Connection) -> None:
        """Reset the flag."""
        connection.execute(update(self._jobs).where(self.held(claim)).values(fenced=false()))

    def begin(self, claim: Claim, connection: Connection) -> None:
        """Note that the attempt of *claim* begins, before it does."""
        connection.execute(update(self._jobs).where(self.held(claim)).values(begun=true()))

    # -- finish

    def finish(self, claim: Claim, outcome: Outcome, connection: Connection) -> bool:
        """Store an outcome; False if the claim no longer holds."""
        if is_plain(outcome):
            done = self._succeeding.execute(
                connection,
                held_uid=claim.job.uid,
                held_lease=claim.lease,
                held_by=claim.worker_id,
                **self._moment(),
            )
            return done.rowcount == 1
        jobs, uid = self._jobs, claim.job.uid
        values: Assignments = [
            (jobs.c.suspect, False),
            (jobs.c.log, self._rows.log_text(outcome.log)),
        ]
        if outcome.crashed:
            values.append((jobs.c.crashes, jobs.c.crashes + 1))
        condition = self.held(claim)
        if outcome.status is READY:
            if outcome.crashed:
                values.append((jobs.c.attempts, jobs.c.attempts - 1))
            values += waiting_again(jobs, self._now(), outcome.delay_seconds)
        else:
            values.append((jobs.c.result, self._rows.result_text(uid, outcome.result)))
            values += ended(jobs, self._now(), states.STATE_OF[outcome.status])
        if outcome.status is SUCCESSFUL:
            condition = and_(condition, not_(jobs.c.cancelled))
        changed = connection.execute(update(jobs).where(condition).ordered_values(*values))
        if changed.rowcount != 1:
            return False
        if outcome.status is READY:
            self._uniqueness.returns(uid, claim.job.keys, connection)
        if outcome.error is not None:
            stored = failure(
                self._tables.errors, uid, outcome.error,
                at=self._now(), attempt=claim.attempt, worker_id=claim.worker_id,
            )  # fmt: skip
            connection.execute(stored)
        if outcome.status is FAILED:
            job = claim.job
            self._follow_ups.add(uid, job.call.name, job.options.queue_name, connection)
        return True

    def finish_many(self, ends: Sequence[End], connection: Connection) -> bool:
        """Store the outcomes of one worker's attempts that used no database. False as soon as one
        claim does not hold; the caller then rolls back and stores them one by one."""
        plain: dict[int, list[Claim]] = {}
        for claim, outcome in ends:
            if is_plain(outcome):
                plain.setdefault(claim.lease, []).append(claim)
            elif not self.finish(claim, outcome, connection):
                return False
        lots = plain.values()
        return all(len(self.succeed(claims, connection)) == len(claims) for claims in lots)

    def succeed(self, claims: Sequence[Claim], connection: Connection) -> Collection[str]:
        """Complete claims of one lease as SUCCESSFUL, and return the uids of those that hold. Where
        an UPDATE returns nothing: of all or of none, and the caller then rolls back."""
        uids = [claim.job.uid for claim in claims]
        held = {"held_lease": claims[0].lease, "held_by": claims[0].worker_id, **self._moment()}
        if self._succeeding_many is not None:
            done = self._succeeding_many.execute(connection, uids=json.dumps(uids), **held)
        else:
            done = self._succeeding_each.execute(connection, uids, **held)
        if self._returns:
            return set(done.scalars())
        return uids if done.rowcount == len(uids) else ()

    def _those(self, which: ColumnElement[bool]) -> Any:
        succeeded = self._succeeded(which)
        return succeeded.returning(self._jobs.c.uid) if self._returns else succeeded

    def _succeeded(self, which: ColumnElement[bool]) -> Any:
        jobs = self._jobs
        held = and_(
            which,
            jobs.c.lease == bindparam("held_lease", type_=Integer()),
            jobs.c.worker_id == bindparam("held_by", type_=String()),
        )
        values = {
            "worker_id": None, "fenced": false(), "suspect": false(), "result": None, "log": None,
            "finished_at": self._clock, "state": states.SUCCEEDED,
        }  # fmt: skip
        # Parameters must not have the names of columns, which SQLAlchemy reserves.
        return update(jobs).where(held, self._tables.running, not_(jobs.c.cancelled)).values(values)

    def succeeded(self, claim: Claim, connection: Connection) -> bool:
        """Read whether *claim* has ended as SUCCESSFUL: its lease stays in the row until the next
        claim. Waits while another transaction changes the row."""
        jobs = self._jobs
        its = and_(jobs.c.uid == claim.job.uid, jobs.c.lease == claim.lease)
        state = connection.execute(select(jobs.c.state).where(its).with_for_update()).scalar()
        return bool(state == states.SUCCEEDED)

    # -- release

    def put_back(self, claims: Sequence[Claim], connection: Connection) -> None:
        """Undo claims whose attempts have not begun."""
        self._undo(claims, put_back(self._jobs, self._now()), connection)

    def release(
        self, claims: Sequence[Claim], connection: Connection, delay_seconds: float = 0.0
    ) -> None:
        """Make jobs wait again as if they had not been claimed; cancelled ones end."""
        self._undo(claims, waiting_again(self._jobs, self._now(), delay_seconds), connection)

    def _undo(self, claims: Sequence[Claim], again: Assignments, connection: Connection) -> None:
        jobs = self._jobs
        uncounted = (jobs.c.attempts, jobs.c.attempts - 1)
        for claim in claims:
            connection.execute(
                update(jobs).where(self.held(claim)).ordered_values(uncounted, *again)
            )
            self._uniqueness.returns(claim.job.uid, claim.job.keys, connection)


def is_plain(outcome: Outcome) -> bool:
    """Whether it is the most common outcome, of which one statement stores many."""
    return outcome.status is SUCCESSFUL and outcome.result is None and not outcome.log


def are_alike(ends: Sequence[End]) -> bool:
    """Whether one statement stores all of these."""
    lease = ends[0][0].lease if ends else None
    return bool(ends) and all(claim.lease == lease and is_plain(each) for claim, each in ends)
