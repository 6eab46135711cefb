"""Reads how limits, rates and turns stand, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, case, func, literal, select, union_all

from ...policies import Keys
from ...sharing import Share
from ..limits import (
    MOST_KEYS,
    MOST_WAITING,
    KeyState,
    KeyUse,
    OwnerState,
    owner_states,
    uses_of,
)
from . import states
from .dialect import Dialect
from .slots import Slots
from .tables import Clock, Tables

#: The most groups of jobs that wait for the keys of a list together with other keys.
MOST_GROUPS = 1_000


class KeyOverview:
    """Reads the keys of a job, or those of a list by a few queries, however many they are."""

    def __init__(self, tables: Tables, dialect: Dialect, clock: Clock) -> None:
        self._tables = tables
        self._dialect = dialect
        self._slots = Slots(tables, dialect, clock)

    def uses(self, keys: Keys) -> list[KeyUse]:
        """Read what counts for the keys of a job."""
        with self._dialect.engine.connect() as connection:
            used = self._slots.used(keys, connection)
        return uses_of(keys, used.counts, used.seconds)

    def all(self) -> list[KeyState]:
        """Read the keys of which jobs wait, run or have just run, by name."""
        limits = self._tables.limits
        wanted = select(limits.c.name).order_by(limits.c.name).limit(MOST_KEYS)
        with self._dialect.engine.connect() as connection:
            names = connection.execute(wanted).scalars().all()
            if not names:
                return []
            waiting, held = self._waiting(names, connection), self._held(names, connection)
            keys: dict[str, Keys] = {}
            for name in names:
                one = _only(
                    name, waiting[name].policy or (held[name].policy if name in held else None)
                )
                if one is not None:
                    keys[name] = one
            used = self._slots.used_of_each(keys, connection)
        return [
            KeyState(use, int(held[name].running) if name in held else 0, waiting[name].number)
            for name, one in keys.items()
            for use in uses_of(one, used[name].counts, used[name].seconds)
        ]

    def owners(self) -> list[OwnerState]:
        """Read whose jobs wait for their turn, up to MOST_KEYS owners and what they wait for."""
        turns = self._tables.turns
        columns = (turns.c.name, turns.c.owner, turns.c.blocked_by)
        every = select(*columns).order_by(turns.c.name, turns.c.served).limit(MOST_KEYS)
        found: Counter[Share] = Counter()
        with self._dialect.engine.connect() as connection:
            rows = connection.execute(every).all()
            if parts := [self._number_of(group) for group in {row.blocked_by for row in rows}]:
                numbers: dict[str, int] = dict(connection.execute(union_all(*parts)).all())
                for row in rows:
                    found[Share(row.name, row.owner)] += numbers[row.blocked_by]
        return owner_states(found)

    def _number_of(self, group: str) -> Select[Any]:
        jobs = self._tables.jobs
        some = (
            select(jobs.c.number).where(jobs.c.blocked_by == group).limit(MOST_WAITING).subquery()
        )
        number = select(func.count()).select_from(some).scalar_subquery()
        return select(literal(group), number)

    def blocked(self, uids: Collection[str]) -> set[str]:
        """Read which of these jobs wait to be admitted."""
        jobs = self._tables.jobs
        wanted = select(jobs.c.uid).where(jobs.c.uid.in_(uids), self._tables.still(states.BLOCKED))
        with self._dialect.engine.connect() as connection:
            return set(connection.execute(wanted).scalars())

    def _waiting(self, names: Sequence[str], connection: Connection) -> dict[str, Any]:
        """Count the jobs that wait for each key, and read the policy of one of them."""
        jobs, groups = self._tables.jobs, self._tables.groups
        wanted = select(groups.c.name, groups.c.blocked_by).where(groups.c.name.in_(names))
        waits_for = {name: [name] for name in names}
        for name, blocked_by in connection.execute(wanted.limit(MOST_GROUPS)):
            waits_for[name].append(blocked_by)
        parts = []
        for name, some in waits_for.items():
            waits = jobs.c.blocked_by.in_(some)
            counted = select(jobs.c.number).where(waits).limit(MOST_WAITING).subquery()
            number = select(func.count()).select_from(counted).scalar_subquery()
            policy = select(jobs.c.policy).where(waits).limit(1).scalar_subquery()
            parts.append(
                select(literal(name).label("name"), number.label("number"), policy.label("policy"))
            )
        return {row.name: row for row in connection.execute(union_all(*parts))}

    def _held(self, names: Sequence[str], connection: Connection) -> dict[str, Any]:
        """Count the running jobs of each key, and read the policy of one that has a slot."""
        jobs, slots = self._tables.jobs, self._tables.slots
        # Of a rate a job may have several slots.
        runs = and_(self._tables.still(states.RUNNING), slots.c.lease == jobs.c.lease - 1)
        wanted = (
            select(
                slots.c.name,
                func.sum(case((runs, 1), else_=0)).label("running"),
                func.min(jobs.c.policy).label("policy"),
            )
            .join(jobs, jobs.c.uid == slots.c.uid)
            .where(slots.c.name.in_(names))
            .group_by(slots.c.name)
        )
        return {row.name: row for row in connection.execute(wanted)}


def _only(name: str, policy: str | None) -> Keys | None:
    """The limit or the rate of a key, of the keys of a job; None: it is not of them."""
    keys = Keys.of(policy)
    if keys is None or name not in keys.names:
        return None
    limit = keys.limit if keys.limit is not None and keys.limit.key == name else None
    return Keys(limit=limit, rate=None if limit is not None else keys.rate)
