"""Decides which job of a unique key comes to be: one takes the key, the others give way to it.

    enqueue, retry --> BLOCKED by the key --> admit --> takes the key: AVAILABLE, or SCHEDULED
                                                   '--> gives way: its uid leads to the holder

After the commit a short transaction locks the row of the key, whose primary key is the constraint,
and decides on those that ask in the order of their numbers. Of many keys one transaction does so:
it locks their rows in their order, so that two of them never wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, case, delete, insert, null, select, update
from sqlalchemy.exc import IntegrityError

from ...errors import BadSignature
from ...policies import Keys
from . import states
from .availability import made_available
from .call_moving import with_call_of, with_keys
from .dialect import Dialect
from .rows import Rows
from .slots import Slots
from .tables import Clock, Tables
from .unique_decision import UniqueDecision
from .uniqueness import NOBODY, Uniqueness

#: The most jobs on which one transaction decides: it holds locks for a few milliseconds.
DECIDED_AT_ONCE = 100

#: The most keys on which one transaction decides.
KEYS_AT_ONCE = 50

#: How often a decision is tried at once; then the maintenance does it, seconds later.
TRIES = 5


class Admitted(NamedTuple):
    """What a decision has let through."""

    queue_name: str
    keys: Keys | None  #: by which it is BLOCKED now; None: it is not
    is_delayed: bool


class Decided(NamedTuple):
    """What one transaction has decided."""

    admitted: list[Admitted]
    given_up: list[str]  #: the uids of those that gave way
    is_all: bool  #: whether it has read all that ask


class _Busy(Exception):
    """A row is locked by another transaction, or has changed since it was read."""


class _Unverified(Exception):
    """The call of a row cannot be verified: it was changed, or this process has no secret."""

    def __init__(self, row: Row[Any]) -> None:
        super().__init__()
        self.row = row


class UniqueAdmission:
    """Builds and executes these statements. forget: forgets the progress of jobs that gave way."""

    def __init__(
        self,
        tables: Tables,
        dialect: Dialect,
        clock: Clock,
        rows: Rows,
        uniqueness: Uniqueness,
        forget: Callable[[Sequence[str]], object],
    ) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._keys = tables.unique_keys
        self._duplicates = tables.duplicates
        self._dialect = dialect
        self._now = clock.now
        self._rows = rows
        self._uniqueness = uniqueness
        self._slots = Slots(tables, dialect, clock)
        self._forget = forget

    def admit(self, key: str) -> list[Admitted]:
        """Decide on the jobs that ask for a key. Whoever calls it, and however often, one job has
        it. What is locked by others is left to a later call."""
        admitted: list[Admitted] = []
        tries = 0
        while tries < TRIES:
            try:
                decided = self._decide([key])
            except _Busy:
                tries += 1
                continue
            except _Unverified as found:
                if found.row.signature is not None and not self._rows.serializer.signs:
                    break  # a process that has the secret decides
                admitted.append(self._let_through(found.row))
                continue
            except Exception as error:
                tries += 1
                if tries == TRIES or not self._dialect.faults.is_conflict(error):
                    raise
                continue
            admitted += decided.admitted
            if not decided.admitted and not decided.given_up:
                break
        return admitted

    def admit_together(self, keys: Sequence[str]) -> tuple[list[Admitted], Sequence[str]]:
        """Do that for up to KEYS_AT_ONCE keys in one transaction; return also the keys that are
        left: with them something is the matter, so that each is to be decided on by itself."""
        try:
            decided = self._decide(keys)
        except (_Busy, _Unverified):
            return [], keys
        return decided.admitted, () if decided.is_all else keys

    def _decide(self, keys: Sequence[str]) -> Decided:
        """Decide on some jobs that ask for these keys."""
        asked_for = self._asked_for(keys)
        if not asked_for:
            return Decided([], [], True)
        self._ensure(asked_for)
        names = self._keys.c.name
        lock = select(names, self._keys.c.uid).where(names.in_(asked_for)).order_by(names)
        most = len(asked_for) + DECIDED_AT_ONCE
        with self._dialect.begin() as connection:
            taken = {row.name: row.uid for row in connection.execute(lock.with_for_update())}
            if len(taken) < len(asked_for):  # one was removed just now
                raise _Busy
            asking = self._asking(asked_for, most, connection)
            by_key: dict[str, list[Row[Any]]] = {key: [] for key in asked_for}
            for ask in self._locked(asking, connection):
                by_key[ask.blocked_by].append(ask)
            holding = connection.execute(self._uniqueness.holding(names.in_(asked_for)))
            holders = {row.name: row for row in holding}
            decisions = [
                UniqueDecision(key, holders.get(key), asks) for key, asks in by_key.items()
            ]
            admitted = self._store(decisions, taken, connection)
        admitted += [_admitted_of(each.taken_by) for each in decisions if each.taken_by is not None]
        given_up = [ask.uid for each in decisions for ask, _ in each.give_way]
        if given_up:
            self._forget(given_up)
        return Decided(admitted, given_up, len(asking) < most)

    def _asked_for(self, keys: Sequence[str]) -> list[str]:
        """Read which of these keys jobs ask for; in order."""
        asked = select(self._jobs.c.blocked_by).where(self._jobs.c.blocked_by.in_(keys)).distinct()
        with self._dialect.engine.connect() as connection:
            return sorted(connection.execute(asked).scalars())

    def _ensure(self, keys: Sequence[str]) -> None:
        """Insert the rows of keys that have none: without it there is nothing to lock, and of two
        processes that decide at once the one with the later job could be first."""
        its = select(self._keys.c.name).where(self._keys.c.name.in_(keys))
        with self._dialect.engine.connect() as connection:
            there = set(connection.execute(its).scalars())
        made = [{"name": key, "uid": NOBODY} for key in keys if key not in there]
        if not made:
            return
        try:
            with self._dialect.write() as connection:
                connection.execute(insert(self._keys).values(made))
        except IntegrityError:  # another process inserts one of them, too
            for each in made:
                with suppress(IntegrityError), self._dialect.write() as connection:
                    connection.execute(insert(self._keys).values(each))

    def _asking(self, keys: Sequence[str], most: int, connection: Connection) -> Sequence[Row[Any]]:
        # Read without a lock: on MariaDB that would lock the gaps of the index, into which the
        # requests of others insert.
        jobs = self._jobs
        is_delayed = case((jobs.c.due_at > self._now(), 1), else_=0).label("is_delayed")
        asking = select(jobs, is_delayed, self._since_attempt).where(jobs.c.blocked_by.in_(keys))
        asking = asking.order_by(jobs.c.number + 0).limit(most)
        return connection.execute(asking).all()

    def _locked(self, asking: Sequence[Row[Any]], connection: Connection) -> list[Row[Any]]:
        """Return those that could be locked: one may be cancelled in a long transaction."""
        if not asking or not self._dialect.skips_locked:
            return list(asking)
        jobs = self._jobs
        numbers = select(jobs.c.number).where(jobs.c.number.in_([row.number for row in asking]))
        still = numbers.where(self._tables.still(states.BLOCKED))
        locked = set(connection.execute(still.with_for_update(skip_locked=True)).scalars())
        return [row for row in asking if row.number in locked]

    # -- store

    def _store(
        self,
        decisions: Sequence[UniqueDecision],
        taken: Mapping[str, str],
        connection: Connection,
    ) -> list[Admitted]:
        """taken: by key, which job has taken it last. Returns what is to be admitted since a job
        has got other keys with its arguments."""
        takers = {each.key: each.taken_by for each in decisions if each.taken_by is not None}
        changed = {key: job.uid for key, job in takers.items() if job.uid != taken[key]}
        if changed:
            keys = self._keys
            its = update(keys).where(keys.c.name.in_(changed))
            connection.execute(its.values(uid=case(changed, value=keys.c.name)))
        changed_keys: list[Admitted] = []
        for decision in decisions:
            for number, newest in decision.replace.items():
                changed_keys += self._replace(number, newest, connection)
        by_target: dict[str, list[Row[Any]]] = {}
        for decision in decisions:
            for ask, uid in decision.give_way:
                by_target.setdefault(uid, []).append(ask)
        if by_target:
            self._give_way(by_target, connection)
        self._let_wait(list(takers.values()), connection)
        return changed_keys

    def _let_wait(self, rows: Sequence[Row[Any]], connection: Connection) -> None:
        jobs = self._jobs
        delayed: list[Any] = [(jobs.c.blocked_by, null()), (jobs.c.state, states.SCHEDULED)]
        for is_delayed, values in ((False, made_available(jobs)), (True, delayed)):
            numbers = [row.number for row in rows if bool(row.is_delayed) is is_delayed]
            if numbers:
                its = update(jobs).where(jobs.c.number.in_(numbers))
                connection.execute(its.ordered_values(*values))

    def _let_through(self, row: Row[Any]) -> Admitted:
        """Let a job wait beside the holder of its key: whoever claims it refuses it."""
        with self._dialect.begin() as connection:
            self._let_wait([row], connection)
        return _admitted_of(row)

    def _give_way(self, by_target: Mapping[str, list[Row[Any]]], connection: Connection) -> None:
        """Remove jobs that ask; from now on their uids lead to another one, and so do those that
        led to them. What earlier attempts have left is kept with it."""
        jobs, errors, table = self._jobs, self._tables.errors, self._duplicates
        every = [ask for asks in by_target.values() for ask in asks]
        self._slots.settle_starts(every, connection)
        to_these = table.c.leads_to.in_([ask.uid for ask in every])
        leading = set(connection.execute(select(table.c.leads_to).where(to_these)).scalars())
        for uid, asks in by_target.items():
            uids = [ask.uid for ask in asks]
            if any(ask.lease for ask in asks):
                connection.execute(update(errors).where(errors.c.uid.in_(uids)).values(uid=uid))
            if not leading.isdisjoint(uids):
                led = update(table).where(table.c.leads_to.in_(uids))
                connection.execute(led.values(leads_to=uid))
        leads = [
            {"uid": ask.uid, "leads_to": uid} for uid, asks in by_target.items() for ask in asks
        ]
        connection.execute(insert(table), leads)
        numbers = [ask.number for ask in every]
        connection.execute(delete(jobs).where(jobs.c.number.in_(numbers)))

    def _replace(self, number: int, newest: Row[Any], connection: Connection) -> Sequence[Admitted]:
        """Replace the arguments of a job that waits by those of a newer one."""
        jobs = self._jobs
        wanted = select(jobs, self._since_attempt)
        wanted = wanted.where(jobs.c.number == number, self._tables.still(*states.WAITING))
        if self._dialect.skips_locked:
            wanted = wanted.with_for_update(skip_locked=True)
        older = connection.execute(wanted).one_or_none()
        if older is None:
            raise _Busy
        try:
            values = with_call_of(self._rows, older, newest)
        except BadSignature:
            raise _Unverified(newest) from None
        if older.lease:  # it was attempted with other arguments
            most = self._rows.options(older).max_attempts
            values = {**values, "budget": older.attempts + most}
        before, newer = Keys.of(older.policy) or Keys(), Keys.of(newest.policy) or Keys()
        keys = before.with_arguments_of(newer)
        has_others = keys.group != older.limit_key
        if has_others:
            self._slots.give_back(older, connection)
            values |= with_keys(older, keys)
        connection.execute(update(jobs).where(jobs.c.number == number).values(values))
        both = (before, keys) if has_others else ()
        return [Admitted(older.queue_name, each if each.group else None, False) for each in both]

    @property
    def _since_attempt(self) -> ColumnElement[float]:
        return (self._now() - self._jobs.c.last_attempted_at).label("since_attempt")


def _admitted_of(row: Row[Any]) -> Admitted:
    is_blocked = row.limit_key is not None and not row.is_delayed
    keys = Keys.of(row.policy) if is_blocked else None
    return Admitted(row.queue_name, keys, bool(row.is_delayed))
