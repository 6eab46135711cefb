"""Admits jobs that have keys: as many as their limits and rates allow are AVAILABLE or RUNNING.

    enqueue, due time, retry, release, rescue --> BLOCKED --> admit --> AVAILABLE --> claim

A job with a key is BLOCKED by it wherever another one would become AVAILABLE; a claim does not read
it. Its admission is a short transaction after the commit of what blocked it, or of what has ended
another job of the key. It locks the rows of the keys, counts (see ``slots``), and admits the first
jobs. There is no counter, so that nothing can be lost or given back twice. An admission that did
not come about, since its process has ended, is made up for by the maintenance.

Jobs whose owners take turns are admitted by ``turns``, with their limits and rates.

Jobs that wait for the same keys are a group, in their order. Where there are several keys, the
table ``groups`` tells which groups wait for one of them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import Integer, Row, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from ...policies import Keys
from ...sharing import Share, is_owner, is_turn
from .availability import admitted
from .dialect import Dialect
from .slots import Slots, finds_none
from .tables import Clock, Tables
from .turns import Turns

#: The most jobs that one transaction admits: it holds locks for a few milliseconds.
ADMITTED_AT_ONCE = 100

#: When to try again to admit a job whose row, or key, another transaction has just changed.
RETRY_SECONDS = 0.5

#: The most other groups that are looked at when a key has a free slot.
MOST_BESIDE = 50


class Head(NamedTuple):
    """The first job of a group; ordered as they are admitted."""

    rank: int
    number: int
    group: str
    policy: str


class Admission:
    """Builds and executes these statements."""

    def __init__(self, tables: Tables, dialect: Dialect, clock: Clock) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._groups = tables.groups
        self._dialect = dialect
        self._slots = Slots(tables, dialect, clock)
        self._turns = Turns(tables, dialect, clock)
        jobs, groups = self._jobs, self._groups
        head = jobs.c.rank, jobs.c.number, jobs.c.blocked_by, jobs.c.policy
        self._head = dialect.compiled(lambda: self._in_order(select(*head)).limit(1))
        self._first = dialect.compiled(self._first_of_group)
        self._admitting = dialect.compiled_for_lists(
            lambda numbers: (
                update(jobs).where(jobs.c.number.in_(numbers)).ordered_values(*admitted(jobs))
            )
        )
        self._waiting = dialect.compiled_for_lists(
            lambda names: (
                select(groups.c.blocked_by)
                .distinct()
                .where(groups.c.name.in_(names))
                .limit(MOST_BESIDE)
            )
        )

    def admit(
        self, group: str, names: Collection[str] = (), waiting: Sequence[tuple[str, str]] = ()
    ) -> tuple[Counter[str], float | None]:
        """Admit the first jobs of a group, and of those that wait for the same keys, as many as are
        allowed now. Whoever calls it, and however often, no limit is exceeded.

        group: or a turn, then waiting: owners and their groups that may be new to it. names: the
        keys of the group; none: only the group is looked at. Returns how many, by the names of
        their queues, and the seconds after which more may be allowed, None: not by time.
        """
        found: Counter[str] = Counter()
        times: list[float | None] = []
        admitted_turns: set[str] = set()

        def admit_turn(turn: str, waiting: Sequence[tuple[str, str]]) -> list[str]:
            """Return the groups that may go on, since jobs of this turn were taken back."""
            admitted_turns.add(turn)
            done = self._turns.admit(turn, waiting)
            found.update(done.queues)
            times.append(done.seconds)
            return self._beside(done.freed) if done.freed else []

        if is_turn(group):
            heads = self._heads(admit_turn(group, waiting))
        else:
            heads = self._heads({group, *self._beside(names)} if names else {group})
        heapq.heapify(heads)
        most = ADMITTED_AT_ONCE if len(heads) == 1 else 1  # in turns, by the first of each
        while heads:
            head = heapq.heappop(heads)
            share = (Keys.of(head.policy) or Keys()).share
            if share is not None:
                if head.group == group or share.turn not in admitted_turns:
                    self._note_waiting(head.group, Keys.of(head.policy) or Keys())
                    for each in self._heads(admit_turn(share.turn, [(share.owner, head.group)])):
                        heapq.heappush(heads, each)
                continue
            rows, seconds = self._admit_some(head, most)
            found.update(row.queue_name for row in rows)
            following = self._heads([head.group]) if rows else []
            for each in following:
                heapq.heappush(heads, each)
            times.append(None if rows else seconds)
        return found, min((each for each in times if each is not None), default=None)

    def blocked(self, after: str, most: int) -> list[str]:
        """Read the groups of which jobs are blocked, in their order, up to *most* after one."""
        group = self._jobs.c.blocked_by
        least = select(group).order_by(group).limit(1)
        found: list[str] = []
        with self._dialect.engine.connect() as connection:
            while len(found) < most:
                after_one = least.where(group > after)
                name = connection.execute(after_one).scalar()
                if name is None:
                    break
                found.append(name)
                after = name
        return found

    def shares(self, groups: Iterable[str]) -> dict[str, Share]:
        """Read the owners of those groups that wait for their turn alone."""
        heads = self._heads(group for group in groups if is_owner(group))
        found = {head.group: (Keys.of(head.policy) or Keys()).share for head in heads}
        return {group: share for group, share in found.items() if share is not None}

    def prune(self) -> None:
        """Remove what counts for nothing any longer, and what nobody waits for."""
        self._slots.prune()
        jobs, groups = self._jobs, self._groups
        waits = select(jobs.c.uid).where(jobs.c.blocked_by == groups.c.blocked_by)
        self._slots.remove(groups, finds_none(waits.correlate(groups)))
        self._turns.prune()

    # -- one group

    def _heads(self, groups: Iterable[str]) -> list[Head]:
        """Read the first jobs of groups."""
        found: list[Row[Any]] = []
        with self._dialect.engine.connect() as connection:
            for group in groups:
                found += self._head.execute(connection, its_group=group).all()
        return [Head._make(row) for row in found]

    def _in_order(self, columns: Any) -> Any:
        """Select the blocked jobs of a group in their order."""
        jobs = self._jobs
        its = columns.where(jobs.c.blocked_by == bindparam("its_group"))
        return its.order_by(jobs.c.rank, jobs.c.number)

    def _first_of_group(self) -> Any:
        jobs = self._jobs
        first = select(jobs.c.number, jobs.c.uid, jobs.c.queue_name, jobs.c.lease, jobs.c.policy)
        first = self._in_order(first).limit(bindparam("most", type_=Integer()))
        if self._dialect.skips_locked:  # whoever cancels a job in a long transaction
            first = first.with_for_update(skip_locked=True)
        return first

    def _admit_some(self, head: Head, most: int) -> tuple[list[Row[Any]], float | None]:
        """Admit up to *most* jobs of a group; return their rows, and the seconds until one more may
        be, if none was."""
        keys = Keys.of(head.policy) or Keys()  # else nobody could admit it
        with self._dialect.engine.connect() as connection:
            used = self._slots.used(keys, connection)
        most = min(most, keys.free_slots(used.counts))
        if most <= 0:  # what ends one of the jobs that count comes here again, or time does
            self._note_waiting(head.group, keys)
            return [], used.seconds
        rows = self._admit_first(head.group, keys, most)
        return rows, None if rows else RETRY_SECONDS

    def _admit_first(self, group: str, keys: Keys, most: int) -> list[Row[Any]]:
        """Do that under the lock of the keys."""
        self._slots.ensure(keys.names)
        found: list[tuple[Row[Any], Keys]] = []
        with self._dialect.begin() as connection:
            if not self._slots.lock(keys.names, connection):
                return []
            used = self._slots.used(keys, connection)
            self._slots.settle(used.unsettled, connection)
            for row in self._first.execute(connection, its_group=group, most=most).all():
                its = Keys.of(row.policy) or Keys()
                if its.names != keys.names or its.free_slots(used.counts) <= 0:
                    break
                if row.uid in used.holders:
                    continue  # it was blocked just now, and whatever has done it comes here again
                for name in its.names:
                    used.counts[name] += 1
                found.append((row, its))
            if found:
                self._admitting.execute(connection, [row.number for row, _ in found])
                self._slots.store(found, connection)
        return [row for row, _ in found]

    # -- groups with several keys

    def _beside(self, names: Collection[str]) -> list[str]:
        """Read the groups that wait for one of these keys, and perhaps others."""
        with self._dialect.engine.connect() as connection:
            found = self._waiting.execute(connection, list(names)).scalars().all()
        return [*names, *found]  # who waits for one key alone has its name

    def _note_waiting(self, group: str, keys: Keys) -> None:
        """Note that jobs of a group wait for each of its keys, if that does not say so."""
        if keys.group in keys.names or not keys.names:
            return
        groups = self._groups
        known = select(groups.c.name).where(groups.c.name.in_(keys.names))
        with self._dialect.engine.connect() as connection:
            there = set(connection.execute(known.where(groups.c.blocked_by == group)).scalars())
        for name in keys.names:
            if name not in there:
                with suppress(IntegrityError), self._dialect.write() as connection:
                    connection.execute(insert(groups).values(name=name, blocked_by=group))
