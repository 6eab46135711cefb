"""Reads how limits, rates and turns stand, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, func, not_, select

from ...policies import Keys
from ...sharing import TURN, Share
from ..limits import (
    MOST_KEYS,
    KeyState,
    KeyStates,
    KeyUse,
    OwnerStates,
    most_waiting,
    owners_of,
    uses_of,
)
from . import states
from .dialect import Dialect
from .slots import Slots
from .tables import Clock, Tables

#: The most groups of jobs that wait for the keys of a list together with other keys.
MOST_GROUPS = 1_000


class _Waiting(NamedTuple):
    """What waits for a key."""

    number: int
    policy: str | None  #: of one of these jobs
    is_capped: bool

    def and_beside(self, row: Any, is_capped: bool) -> _Waiting:
        """Return this with what waits for a group of keys of which it is one."""
        number, policy = self.number + row.number, self.policy or row.policy
        return _Waiting(number, policy, self.is_capped or is_capped)


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

    def all(self) -> KeyStates:
        """Read the keys of which jobs wait, run or have just run, the first ones by name."""
        name = self._tables.limits.c.name
        is_key = not_(name.startswith(TURN, autoescape=True))
        wanted = select(name).where(is_key).order_by(name).limit(MOST_KEYS + 1)
        with self._dialect.engine.connect() as connection:
            names = connection.execute(wanted).scalars().all()
            has_more, names = len(names) > MOST_KEYS, names[:MOST_KEYS]
            if not names:
                return KeyStates([], has_more=False)
            waiting, held = self._waiting(names, connection), self._held(names, connection)
            keys: dict[str, Keys] = {}
            for each in names:
                one = _only(
                    each, waiting[each].policy or (held[each].policy if each in held else None)
                )
                if one is not None:
                    keys[each] = one
            used = self._slots.used_of_each(keys, connection)
        found = [
            KeyState(
                use,
                int(held[each].running) if each in held else 0,
                waiting[each].number,
                waiting[each].is_capped,
            )
            for each, one in keys.items()
            for use in uses_of(one, used[each].counts, used[each].seconds)
        ]
        return KeyStates(found, has_more)

    def owners(self) -> OwnerStates:
        """Read whose jobs wait for their turn, of each queue those whose turn comes first."""
        turns = self._tables.turns
        first = select(turns.c.name).order_by(turns.c.name, turns.c.served).limit(MOST_KEYS + 1)
        found: Counter[Share] = Counter()
        capped = set()
        with self._dialect.engine.connect() as connection:
            number = len(connection.execute(first).all())
            most = most_waiting(number)
            waiting = (turns.c.owner, self._number(turns.c.blocked_by, most).label("number"))
            rows = connection.execute(first.add_columns(*waiting).limit(MOST_KEYS)).all()
        for row in rows:
            share = Share(row.name, row.owner)
            found[share] += row.number
            if row.number == most:
                capped.add(share)
        return owners_of(found, has_more=number > MOST_KEYS, capped=capped)

    def blocked(self, uids: Collection[str]) -> set[str]:
        """Read which of these jobs wait to be admitted."""
        jobs = self._tables.jobs
        wanted = select(jobs.c.uid).where(jobs.c.uid.in_(uids), self._tables.still(states.BLOCKED))
        with self._dialect.engine.connect() as connection:
            return set(connection.execute(wanted).scalars())

    def _waiting(self, names: Sequence[str], connection: Connection) -> dict[str, _Waiting]:
        """Count the jobs that wait for each key, and read the policy of one of them."""
        groups, limits = self._tables.groups, self._tables.limits
        some = select(groups.c.name).where(groups.c.name.in_(names)).limit(MOST_GROUPS + 1)
        beside = len(connection.execute(some).all())
        most = most_waiting(len(names) + beside)
        found = {name: _Waiting(0, None, is_capped=beside > MOST_GROUPS) for name in names}
        # By this key alone, and by this one and another one.
        for table, group in ((limits, limits.c.name), (groups, groups.c.blocked_by)):
            number, policy = self._number(group, most), self._policy(group)
            wanted = select(table.c.name, number.label("number"), policy.label("policy"))
            wanted = wanted.where(table.c.name.in_(names)).limit(MOST_GROUPS)
            for row in connection.execute(wanted):
                found[row.name] = found[row.name].and_beside(row, row.number == most)
        return found

    def _number(self, group: Any, most: int) -> ColumnElement[int]:
        """The number of the jobs that wait for a group of keys, up to so many. In a UNION of a part
        for each group PostgreSQL would plan for a tenth of a second."""
        jobs = self._tables.jobs
        waits = jobs.c.blocked_by == group
        last = select(jobs.c.number).where(waits).limit(1).offset(most - 1)
        all_of_them = select(func.count()).select_from(jobs).where(waits)
        is_capped = last.scalar_subquery().is_not(None)
        return case((is_capped, most), else_=all_of_them.scalar_subquery())

    def _policy(self, group: Any) -> ColumnElement[str]:
        jobs = self._tables.jobs
        return select(jobs.c.policy).where(jobs.c.blocked_by == group).limit(1).scalar_subquery()

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
