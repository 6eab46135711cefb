"""Admits jobs whose owners take turns: the next job of a queue and priority is AVAILABLE.

    enqueue, claim, end of a limit --> admit --> one job of the next owner is AVAILABLE

The next owner is the one whose last turn was longest ago; who had none is before all. A job that is
AVAILABLE has a slot of its turn. Once it is claimed, that was a turn of its owner: whoever admits
next sees that in the row of the job, and numbers the turns. If somebody else is next meanwhile, a
job that waits for a worker is taken back. An owner who is alone has a few AVAILABLE at once.

Who admits has locked the row of the turn, and of the other keys of the jobs. There is nothing that
a process could leave undone: the next admission begins anew with what the rows say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from ...policies import Keys
from . import states
from .availability import admitted, taken_back
from .dialect import Dialect
from .slots import Slots, finds_none
from .tables import Clock, Tables

#: The most AVAILABLE jobs of an owner while no other one waits.
ALONE_AT_ONCE = 8

#: Owners that are looked at: more only if none of these has a job that may start.
OWNERS_AT_ONCE, MOST_OWNERS = 50, 1_000

#: Owners that one statement notes.
NOTED_AT_ONCE = 500

#: When to try again where another transaction has just changed a job, in seconds.
RETRY_SECONDS = 0.5

#: How often an admission begins anew with the keys that it has found.
TRIES = 4

#: Below the numbers of all turns, with digits for the number of a job.
_NEVER = -(2**62)


class Admitted(NamedTuple):
    """What an admission has done."""

    queues: Counter[str]  #: how many jobs, by the names of their queues
    seconds: float | None  #: after which more may be allowed; None: not by time
    freed: frozenset[str]  #: keys of which a job was taken back


class _Line(NamedTuple):
    """Jobs of an owner that wait for the same; ordered as the owners have turns."""

    served: int
    head: int  #: the number of the first
    owner: str
    blocked_by: str
    keys: Keys


class _Choice(NamedTuple):
    line: _Line | None  #: whose first jobs are to be AVAILABLE; None: nobody's
    most: int  #: how many
    seconds: float | None


class Turns:
    """Builds and executes these statements."""

    def __init__(self, tables: Tables, dialect: Dialect, clock: Clock) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._turns = tables.turns
        self._dialect = dialect
        self._slots = Slots(tables, dialect, clock)

    def admit(self, turn: str, waiting: Sequence[tuple[str, str]] = ()) -> Admitted:
        """Admit the next job of a turn. Whoever calls it, and however often.

        waiting: owners and their groups, of whose jobs no row may tell yet.
        """
        names = frozenset({turn})
        for _ in range(TRIES):
            self._slots.ensure(sorted(names))
            with self._dialect.begin() as connection:
                if not self._slots.lock(sorted(names), connection):
                    continue
                for begin in range(0, len(waiting), NOTED_AT_ONCE):
                    self._note(turn, waiting[begin : begin + NOTED_AT_ONCE], connection)
                done = self._admit(turn, names, connection)
            if isinstance(done, Admitted):
                return done
            names |= done
        return Admitted(Counter(), RETRY_SECONDS, frozenset())

    def prune(self) -> None:
        """Remove the rows of turns that nobody takes."""
        turns, limits = self._turns, self._tables.limits
        its = select(limits.c.name).where(limits.c.name == turns.c.name).correlate(turns)
        self._slots.remove(turns, finds_none(its))

    # -- with the turn locked

    def _admit(
        self, turn: str, names: frozenset[str], connection: Connection
    ) -> Admitted | frozenset[str]:
        """Make the first jobs of the next owner AVAILABLE, and no others. Returns the keys that are
        to be locked for it, if they are not; then nothing is done."""
        standing = self._settle(turn, connection)
        line, most, seconds = self._choice(turn, standing, connection)
        wanted: list[Row[Any]] = []
        new: list[Row[Any]] = []
        if line is not None:
            blocked = self._first(line.blocked_by, most, connection)
            its = [row for row in standing if row.limit_key == line.blocked_by]
            wanted = sorted([*its, *blocked], key=lambda row: row.number)[:most]
            new = [row for row in blocked if row in wanted]
            if not wanted:  # another transaction has just changed it
                seconds = RETRY_SECONDS
        back = [row for row in standing if row not in wanted]
        changing = frozenset(name for row in (*back, *new) for name in _keys(row).names)
        if not changing <= names:
            return changing
        if not self._take_back(turn, back, connection):
            return Admitted(Counter(), RETRY_SECONDS, frozenset())
        if new:
            keys = _keys(new[0])
            if keys.names:
                self._slots.settle(self._slots.used(keys, connection).unsettled, connection)
            these = self._jobs.c.number.in_([row.number for row in new])
            changed = update(self._jobs).where(these).ordered_values(*admitted(self._jobs))
            connection.execute(changed)
            self._slots.store([(row, _keys(row)) for row in new], connection)
        freed = frozenset(name for row in back for name in _keys(row).names)
        return Admitted(Counter(row.queue_name for row in new), seconds, freed)

    def _settle(self, turn: str, connection: Connection) -> list[Row[Any]]:
        """Number the turns of the jobs that were claimed, and return those that are AVAILABLE."""
        slots, jobs, turns = self._tables.slots, self._jobs, self._turns
        columns: Any = (
            slots.c.lease.label("held"), slots.c.uid, jobs.c.lease, jobs.c.number, jobs.c.state,
            jobs.c.queue_name, jobs.c.policy, jobs.c.limit_key,
        )  # fmt: skip
        joined = slots.outerjoin(jobs, jobs.c.uid == slots.c.uid)
        wanted = select(*columns).select_from(joined).where(slots.c.name == turn)
        rows = connection.execute(wanted.order_by(jobs.c.number)).all()
        over = [row for row in rows if row.state != states.AVAILABLE]
        if over:
            last = select(func.max(turns.c.served)).where(turns.c.name == turn)
            number = max(0, connection.execute(last).scalar() or 0)
            for row in over:
                share = _keys(row).share
                if share is not None and row.lease > row.held:  # else it was cancelled
                    number += 1
                    its = turns.c.name == turn, turns.c.owner == share.owner
                    connection.execute(update(turns).where(*its).values(served=number))
            these = slots.c.uid.in_([row.uid for row in over])
            connection.execute(delete(slots).where(slots.c.name == turn, these))
        return [row for row in rows if row.state == states.AVAILABLE]

    def _choice(self, turn: str, standing: Sequence[Row[Any]], connection: Connection) -> _Choice:
        """Find the next owner, and whether there is another one. Forgets those who are not before
        anybody, and have no job."""
        free = Counter(name for row in standing for name in _keys(row).names)
        soonest: list[float] = []
        for most in (OWNERS_AT_ONCE, MOST_OWNERS):
            lines, idle, are_all = self._lines(turn, standing, most, connection)
            found: list[_Line] = []
            for line in lines:
                if found and line.owner == found[0].owner:
                    continue
                is_free, seconds = self._is_free(line.keys, free, connection)
                soonest += [] if seconds is None else [seconds]
                if is_free:
                    found.append(line)
                if len(found) == 2:  # the next one and another
                    break
            self._forget(turn, idle, found[0].served if found else None, connection)
            if found:
                alone = len(found) == 1 and are_all and not found[0].keys.names
                return _Choice(found[0], ALONE_AT_ONCE if alone else 1, None)
            if are_all:
                break
        return _Choice(None, 0, min(soonest, default=None))

    def _lines(
        self, turn: str, standing: Sequence[Row[Any]], most: int, connection: Connection
    ) -> tuple[list[_Line], list[Row[Any]], bool]:
        """Read the first lines of a turn: those with jobs, those without, whether that is all."""
        turns, jobs = self._turns, self._jobs
        first = select(jobs.c.number).where(jobs.c.blocked_by == turns.c.blocked_by)
        first = first.order_by(jobs.c.rank, jobs.c.number).limit(1).correlate(turns)
        columns: Any = turns.c.owner, turns.c.blocked_by, turns.c.served
        wanted: Any = select(*columns, first.scalar_subquery().label("head"))
        wanted = wanted.where(turns.c.name == turn).order_by(turns.c.served).limit(most)
        rows = connection.execute(wanted).all()
        of_standing = {row.limit_key: row for row in reversed(standing)}
        limited = [row.head for row in rows if row.blocked_by != row.owner and row.head is not None]
        policies = select(jobs.c.number, jobs.c.policy).where(jobs.c.number.in_(limited))
        policy_of = dict(connection.execute(policies).all()) if limited else {}
        lines, idle = [], []
        for row in rows:
            stands = of_standing.get(row.blocked_by)
            heads = [] if row.head is None else [(row.head, policy_of.get(row.head))]
            heads += [] if stands is None else [(stands.number, stands.policy)]
            if not heads:
                idle.append(row)
                continue
            number, policy = min(heads)
            keys = (Keys.of(policy) or Keys()) if row.blocked_by != row.owner else Keys()
            lines.append(_Line(row.served, number, row.owner, row.blocked_by, keys))
        return sorted(lines, key=lambda line: line[:2]), idle, len(rows) < most

    def _is_free(
        self, keys: Keys, free: Counter[str], connection: Connection
    ) -> tuple[bool, float | None]:
        """Whether its keys allow a job, if those that stand are taken back; seconds, else."""
        if not keys.names:
            return True, None
        used = self._slots.used(keys, connection)
        counts = Counter(used.counts)
        counts.subtract({name: free[name] for name in keys.names})
        is_free = keys.free_slots(counts) > 0
        return is_free, None if is_free else used.seconds

    def _forget(
        self, turn: str, idle: Sequence[Row[Any]], before: int | None, connection: Connection
    ) -> None:
        """Remove owners without a job: as new ones they would be before the others, too."""
        turns = self._turns
        over = [row.blocked_by for row in idle if before is None or row.served < before]
        if over:
            its = turns.c.name == turn, turns.c.blocked_by.in_(over)
            connection.execute(delete(turns).where(*its))

    def _first(self, group: str, most: int, connection: Connection) -> list[Row[Any]]:
        jobs = self._jobs
        columns: Any = (
            jobs.c.number, jobs.c.uid, jobs.c.queue_name, jobs.c.lease, jobs.c.policy,
            jobs.c.limit_key,
        )  # fmt: skip
        first = select(*columns).where(jobs.c.blocked_by == group)
        first = first.order_by(jobs.c.rank, jobs.c.number).limit(most)
        if self._dialect.skips_locked:  # whoever cancels a job in a long transaction
            first = first.with_for_update(skip_locked=True)
        return list(connection.execute(first).all())

    def _take_back(self, turn: str, rows: Sequence[Row[Any]], connection: Connection) -> bool:
        """Make AVAILABLE jobs wait for their turn again; False if another transaction has just
        changed one: then nothing is done."""
        if not rows:
            return True
        jobs, slots = self._jobs, self._tables.slots
        these = jobs.c.number.in_([row.number for row in rows])
        still = these, self._tables.still(states.AVAILABLE)
        if self._dialect.skips_locked:
            free = select(jobs.c.number).where(*still).with_for_update(skip_locked=True)
            if len(connection.execute(free).all()) < len(rows):
                return False
        connection.execute(update(jobs).where(*still).ordered_values(*taken_back(jobs)))
        for row in rows:
            names = slots.c.name.in_([turn, *_keys(row).names])
            its = slots.c.uid == row.uid, slots.c.lease == row.held
            connection.execute(delete(slots).where(names, *its))
        return True

    def _note(self, turn: str, waiting: Sequence[tuple[str, str]], connection: Connection) -> None:
        """Insert the rows of owners and groups that have none, and have jobs. Who has had no turn
        is where the first of all its jobs is."""
        turns, jobs = self._turns, self._jobs
        owners = turns.c.owner.in_({owner for owner, _ in waiting})
        known: Any = select(turns.c.owner, turns.c.blocked_by, turns.c.served)
        rows = connection.execute(known.where(turns.c.name == turn, owners)).all()
        before = {row.owner: row.served for row in rows}
        there = {row.blocked_by for row in rows}
        new = {group: owner for owner, group in waiting if group not in there}
        if not new:
            return
        heads = select(jobs.c.blocked_by, func.min(jobs.c.number)).group_by(jobs.c.blocked_by)
        found = connection.execute(heads.where(jobs.c.blocked_by.in_(new))).all()
        served = dict(before)
        for group, head in found:
            first = _NEVER + head
            if served.get(new[group], first) < 0:
                served[new[group]] = min(first, served.get(new[group], first))
        for owner, number in before.items():
            if served[owner] < number:
                its = turns.c.name == turn, turns.c.owner == owner
                connection.execute(update(turns).where(*its).values(served=served[owner]))
        made = [
            {
                "name": turn, "owner": new[group], "blocked_by": group,
                "served": served[new[group]],
            }
            for group, _ in found
        ]  # fmt: skip
        if made:
            connection.execute(insert(turns).values(made))


def _keys(row: Row[Any]) -> Keys:
    return Keys.of(row.policy) or Keys()
