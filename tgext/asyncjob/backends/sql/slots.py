"""The slots of jobs: which of them count for a key, by the jobs that hold them.

The slot of a limit counts while its job is AVAILABLE or RUNNING. That of a rate counts until its
job has started, and for the window after the start. A start is the instant of the claim, by the
clock of the database, or of the admission, if that is later. As long as the job runs, it is read
from its row; once the job is blocked again, or has ended, it is stored in the slot. That is
*settled* before the job can be admitted once more, gets other keys, or is removed. Only who has
locked a key, or removes a job or its keys, writes its slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Row,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import IntegrityError

from ...policies import Keys, Rate
from . import states
from .dialect import Dialect
from .tables import Clock, Tables

#: How much longer than its window a start counts, in seconds: the instant of a claim is that of the
#: begin of its statement.
SLACK_SECONDS = 0.02

#: States in which a job holds its slots.
_HOLDING = (states.AVAILABLE, states.RUNNING)


class Used(NamedTuple):
    """What counts for some keys."""

    counts: Counter[str]  #: by key
    holders: set[str]  #: the uids of the jobs that hold a slot of a limit
    unsettled: list[Row[Any]]  #: slots that are to be settled
    #: seconds until a start that counts does so no longer; None: there is no rate
    seconds: float | None


class _Started(NamedTuple):
    """Settled starts of a rate that count."""

    number: int
    age: float | None  #: seconds since the first of them


_NONE_STARTED: Any = _Started(0, None)


class Slots:
    """Builds and executes these statements."""

    def __init__(self, tables: Tables, dialect: Dialect, clock: Clock) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._limits = tables.limits
        self._slots = tables.slots
        self._dialect = dialect
        self._clock = clock
        self._now = clock.now
        self._open = dialect.compiled_for_lists(self._open_of)
        name = self._limits.c.name
        self._there = dialect.compiled_for_lists(lambda names: select(name).where(name.in_(names)))
        self._locking = dialect.compiled_for_lists(
            lambda names: select(name).where(name.in_(names)).order_by(name).with_for_update()
        )
        slots = self._slots
        settled: dict[str, Any] = {"started_at": bindparam("at", type_=Double())}
        self._removing = dialect.compiled(lambda: delete(slots).where(*self._is_one()))
        self._settling = dialect.compiled(
            lambda: update(slots).values(settled).where(*self._is_one())
        )
        self._storing = dialect.compiled(self._stored)

    def _is_one(self) -> list[ColumnElement[bool]]:
        """The condition that a row is the one of these parameters."""
        names = "name", "uid", "lease"
        return [self._slots.c[each] == bindparam(f"its_{each}") for each in names]

    def _stored(self) -> Any:
        names = "name", "uid", "lease", "seconds"
        made: dict[str, Any] = {each: bindparam(f"its_{each}") for each in names}
        return insert(self._slots).values({**made, "admitted_at": self._clock.clause})

    # -- read

    def used(self, keys: Keys, connection: Connection) -> Used:
        """Read what counts for these keys."""
        rows, started = self._read_open(keys.names, connection), _NONE_STARTED
        if keys.rate is not None:
            started = connection.execute(self._started(keys.rate)).one()
        return _used(keys, rows, started)

    def used_of_each(self, keys: Mapping[str, Keys], connection: Connection) -> dict[str, Used]:
        """Read what counts for each of several keys, by its limit or its rate."""
        if not keys:
            return {}
        rows: dict[str, list[Row[Any]]] = {name: [] for name in keys}
        for row in self._read_open(list(keys), connection):
            rows[row.name].append(row)
        rates = [each.rate for each in keys.values() if each.rate is not None]
        started: dict[str, Any] = {}
        if rates:
            for row in connection.execute(union_all(*map(self._started, rates))):
                started[row.name] = row
        return {
            name: _used(each, rows[name], started.get(name, _NONE_STARTED))
            for name, each in keys.items()
        }

    def _read_open(self, names: Sequence[str], connection: Connection) -> Sequence[Row[Any]]:
        """Read the slots that are not settled, with their jobs."""
        if not names:
            return []
        return self._open.execute(connection, names, **self._clock.moment()).all()

    def _open_of(self, names: Sequence[Any]) -> Any:
        slots, jobs = self._slots, self._jobs
        has_started, at = self._start()
        started_at = case((has_started, at), else_=null())
        columns = (
            slots.c.name, slots.c.uid, slots.c.lease, slots.c.seconds, jobs.c.state,
            started_at.label("started_at"), (self._clock.clause - started_at).label("age"),
        )  # fmt: skip
        joined = slots.outerjoin(jobs, jobs.c.uid == slots.c.uid)
        is_open = slots.c.name.in_(names), slots.c.started_at.is_(None)
        return select(*columns).select_from(joined).where(*is_open)

    def _start(self) -> tuple[ColumnElement[bool], ColumnElement[float]]:
        """Whether the job of a slot was claimed since its admission, and when it has started."""
        slots, jobs = self._slots, self._jobs
        at, admitted_at = jobs.c.last_attempted_at, slots.c.admitted_at
        return jobs.c.lease > slots.c.lease, case((at < admitted_at, admitted_at), else_=at)

    def _started(self, rate: Rate) -> Any:
        """Select the number of settled starts that count, and the age of the first of them."""
        slots, now = self._slots, self._now()
        counts = slots.c.name == rate.key, slots.c.started_at > now - _window(rate)
        age = now - func.min(slots.c.started_at)
        name = literal(rate.key).label("name")
        return select(name, func.count().label("number"), age.label("age")).where(*counts)

    # -- write, with the keys locked

    def ensure(self, names: Sequence[str]) -> None:
        """Insert the rows of keys that have none yet, so that they can be locked."""
        if not names:
            return
        with self._dialect.engine.connect() as connection:
            there = set(self._there.execute(connection, names).scalars())
        for each in names:
            if each not in there:
                with suppress(IntegrityError), self._dialect.write() as connection:
                    connection.execute(insert(self._limits).values(name=each))

    def lock(self, names: Sequence[str], connection: Connection) -> bool:
        """Lock the rows of keys, in one order for all; False if one was removed just now."""
        return not names or len(self._locking.execute(connection, names).all()) == len(names)

    def settle(self, rows: Iterable[Row[Any]], connection: Connection) -> None:
        """Store the starts of jobs that hold their slots no longer, and remove what counts for
        nothing."""
        for row in rows:
            one = {"its_name": row.name, "its_uid": row.uid, "its_lease": row.lease}
            if row.seconds is None or row.started_at is None:
                self._removing.execute(connection, **one)
            else:
                self._settling.execute(connection, **one, at=row.started_at)

    def settle_starts(self, rows: Iterable[Row[Any]], connection: Connection) -> None:
        """Store the starts that count of jobs whose rows will tell of them no longer. rows: these,
        with uid, policy, and the seconds ``since_attempt``, of the last one, or None."""
        slots, jobs = self._slots, self._jobs
        of_each: dict[str, list[str]] = {}
        for row in rows:
            rate = (Keys.of(row.policy) or Keys()).rate
            if rate is None or row.since_attempt is None:
                continue
            if row.since_attempt < _window(rate):
                of_each.setdefault(rate.key, []).append(row.uid)
        has_started, at = self._start()
        started_at = select(at).where(jobs.c.uid == slots.c.uid, has_started).correlate(slots)
        for name, uids in of_each.items():
            its = slots.c.name == name, slots.c.uid.in_(uids), slots.c.started_at.is_(None)
            settled = update(slots).values(started_at=started_at.scalar_subquery())
            connection.execute(settled.where(*its))

    def give_back(self, row: Row[Any], connection: Connection) -> None:
        """Remove the slots of a job that is to wait for other keys. row: as for the above."""
        self.settle_starts([row], connection)
        slots, keys = self._slots, Keys.of(row.policy) or Keys()
        names = [name for name, _ in _slots_of(keys)]
        its = slots.c.uid == row.uid, slots.c.started_at.is_(None)
        connection.execute(delete(slots).where(slots.c.name.in_(names), *its))

    def store(self, admitted: Iterable[tuple[Row[Any], Keys]], connection: Connection) -> None:
        """Give slots of their keys to jobs."""
        made = [
            {"its_name": name, "its_uid": row.uid, "its_lease": row.lease, "its_seconds": seconds}
            for row, keys in admitted
            for name, seconds in _slots_of(keys)
        ]
        self._storing.execute_all(connection, made, **self._clock.moment())

    def prune(self) -> None:
        """Remove what counts for nothing any longer, and the rows of keys without a slot, but those
        of turns for which jobs wait: with them the places of their owners would be lost."""
        slots, limits, jobs, now = self._slots, self._limits, self._jobs, self._now()
        window = now - slots.c.seconds - SLACK_SECONDS
        counts = or_(self._tables.still(*_HOLDING), jobs.c.last_attempted_at > window)
        its = select(jobs.c.uid).where(jobs.c.uid == slots.c.uid, counts).correlate(slots)
        is_over = or_(
            slots.c.started_at < window,
            and_(slots.c.started_at.is_(None), finds_none(its)),
        )
        held = select(slots.c.uid).where(slots.c.name == limits.c.name).correlate(limits)
        turns = self._tables.turns
        waiting = select(turns.c.owner).join(jobs, jobs.c.blocked_by == turns.c.blocked_by)
        waiting = waiting.where(turns.c.name == limits.c.name).correlate(limits)
        is_unused = and_(finds_none(held), finds_none(waiting))
        for table, is_gone in ((slots, is_over), (limits, is_unused)):
            self.remove(table, is_gone)

    def remove(self, table: Any, which: ColumnElement[bool]) -> None:
        """Remove rows, if there are any: a write may wait for a job."""
        with self._dialect.engine.connect() as connection:
            if connection.execute(select(table.c.name).where(which).limit(1)).first() is None:
                return
        with self._dialect.write() as connection:
            connection.execute(delete(table).where(which))


def finds_none(wanted: Select[Any]) -> ColumnElement[bool]:
    """Whether a correlated SELECT, of a column that is never NULL, finds no row. NOT EXISTS would
    have MariaDB read every row that it might find, while its statistics are older than these."""
    return wanted.limit(literal_column("1")).scalar_subquery().is_(None)


def _slots_of(keys: Keys) -> Iterator[tuple[str, float | None]]:
    """The keys of which a job gets a slot, and how long a start counts for each."""
    if keys.limit is not None:
        yield keys.limit.key, None
    if keys.rate is not None:
        yield keys.rate.key, keys.rate.seconds
    if keys.share is not None:
        yield keys.share.turn, None


def _used(keys: Keys, rows: Iterable[Row[Any]], started: Any) -> Used:
    """Return what counts for keys. rows: their slots that are not settled; started: see
    ``_started``."""
    counts: Counter[str] = Counter()
    holders, unsettled = set(), []
    window = 0.0 if keys.rate is None else _window(keys.rate)
    lefts = [window]  # a job that is about to start would count so long
    for row in rows:
        holds = row.state in _HOLDING
        if not holds:
            unsettled.append(row)
        if row.seconds is None and holds:
            counts[row.name] += 1
            holders.add(row.uid)
        elif row.seconds is not None and row.state == states.AVAILABLE:
            counts[row.name] += 1
        elif row.seconds is not None and row.age is not None and row.age < window:
            counts[row.name] += 1
            lefts.append(window - row.age)
    if keys.rate is None:
        return Used(counts, holders, unsettled, None)
    counts[keys.rate.key] += started.number
    lefts += [window - started.age] if started.number else []
    return Used(counts, holders, unsettled, max(0.0, min(lefts)))


def _window(rate: Rate) -> float:
    """How long a start counts, in seconds."""
    return rate.seconds + SLACK_SECONDS
