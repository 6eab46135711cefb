"""One run on one database: strike, replace, wait for the end, and compare."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

from sqlalchemy import Engine, NullPool, create_engine, func, select

from tgext.asyncjob.backends.sql import states

from .field import Field, field_of
from .journal import BEGAN, Line, read_all
from .place import Place
from .points import BEFORE_WORK
from .processes import Child, Processes
from .report import Report
from .schedule import CUT, CUT_IDLE, RESTART, WORKER, Blow
from .servers import Database
from .verdict import judge

#: Seconds between two looks at the processes, and between two looks into the database.
LOOK_SECONDS, ASK_SECONDS = 0.02, 0.1

#: Seconds beyond a lease that a stopped worker is kept from waking, if nobody runs its jobs:
#: they may wait for its own locks.
STOPPED_SECONDS = 3.5

#: Seconds in which one that goes on may still be given up for having been stopped.
GRACE_SECONDS = 2.0

#: Seconds that the database takes no writes, in one such phase: less than a lease.
READ_ONLY_SECONDS = 1.0

#: Seconds without any job's end after which those that are open are lost, and seconds that a
#: blow may take, from when it is dealt until the process can be dealt another.
PATIENCE_SECONDS = 90.0

#: Seconds between two looks for what a broken library has doubled.
NOTICE_SECONDS = 0.25

#: What a worker logs when it takes a job from another.
_TAKEN = re.compile(r"(?P<at>[\d.]+) .* its worker (?P<pid>\d+)-")


@contextmanager
def tables(place: Place) -> Iterator[tuple[Engine, Field]]:
    """Make the tables of a run, and drop them in the end."""
    field = field_of(place.prefix)
    engine = create_engine(place.url, poolclass=NullPool)
    place.make_tables()
    field.make(engine)
    try:
        yield engine, field
    finally:
        field.drop(engine)
        engine.dispose()


@dataclass
class Stop:
    """One process, stopped. held: the jobs that it had then."""

    child: Child
    since: float
    held: set[str]
    is_over: bool = False  #: it goes on, but perhaps still with one of those
    ask_at: float = 0.0  #: when to look into the database again


class Soak:
    """size: how many workers there are at a time."""

    def __init__(self, place: Place, database: Database, blows: list[Blow], size: int) -> None:
        self._place = place
        self._database = database
        self._blows = list(blows)
        self._processes = Processes(place, size)
        self._stopped: list[Stop] = []
        self._stops: list[tuple[float, float]] = []  # from when to when
        self._struck: Counter[str] = Counter()
        self._held: list[tuple[float, set[str]]] = []  # what those that were killed held, and when
        self._read_only_until: float | None = None
        self._is_noticed, self._notices_at = False, 0.0

    def run(self) -> Report:
        """Do all of it, and say what came of it."""
        with tables(self._place) as (self._engine, self._field):
            begun_at = time.monotonic()
            try:
                self._begin()
                self._strike_all()
                self._wait_for_end()
                if not self._is_noticed:
                    self._processes.stop()
            finally:
                self._processes.kill()
            return self._report(time.monotonic() - begun_at)

    # -- the blows

    def _begin(self) -> None:
        """Wait until all processes are up."""
        until = time.monotonic() + PATIENCE_SECONDS
        self._processes.fill()
        while not all(child.look() for child in self._processes.children):
            if time.monotonic() > until or self._processes.reap():
                raise RuntimeError(f"a process does not come up, see {self._place.folder}")
            time.sleep(LOOK_SECONDS)

    def _strike_all(self) -> None:
        """Deal the blows; jobs come until the last has hit."""
        begun_at = time.monotonic()
        while self._blows or self._is_under_way() or not self._processes.is_enqueued:
            if self._notice():
                return
            self._look()
            self._end_read_only()
            if self._blows and time.monotonic() >= begun_at + self._blows[0].seconds:
                self._strike(self._blows[0])
            if not self._blows and not self._is_under_way():
                self._place.enough.touch()
            time.sleep(LOOK_SECONDS)

    def _is_under_way(self) -> bool:
        struck = any(child.struck is not None for child in self._processes.children)
        return struck or self._read_only_until is not None

    def _strike(self, blow: Blow) -> None:
        """Strike whom it may be; the blow waits while there would be no worker left."""
        free = self._processes.free(blow.role)
        if len(free) <= (blow.role == WORKER):
            return
        if isinstance(blow.which, str):
            if not self._strike_server(blow.which, blow):
                return
            name = blow.which
        else:
            free[int(blow.draw * len(free))].send(blow.which, blow.point)
            name = blow.which.name
        self._struck[name] += 1
        del self._blows[0]

    def _strike_server(self, what: str, blow: Blow) -> bool:
        """Have the server do it; False while it cannot."""
        if what in (CUT, CUT_IDLE):
            is_idle = what == CUT_IDLE
            return self._database.cut_one(self._place, blow.role, blow.draw, idle=is_idle)
        # MariaDB waits with it for whoever waits for the locks of a process that is stopped.
        if self._read_only_until is not None or self._stopped:
            return False
        if what == RESTART:
            self._database.restart()
        else:
            self._database.read_only(True)
            self._read_only_until = time.monotonic() + READ_ONLY_SECONDS
        return True

    def _end_read_only(self) -> None:
        if self._read_only_until is not None and time.monotonic() >= self._read_only_until:
            self._database.read_only(False)
            self._read_only_until = None

    def _look(self) -> None:
        """See what has become of those that were struck, and replace those that are gone."""
        for child in self._processes.reap():
            if child.role == WORKER and child.struck is SIGKILL:
                struck = child.own_strike()
                killed_at = child.struck_at if struck is None else struck.seconds
                self._held.append((killed_at, self._held_by(child)))
        self._processes.fill()
        stopped = [stop.child for stop in self._stopped if not stop.is_over]
        for child in self._processes.children:
            if child.struck is SIGSTOP and child not in stopped and child.is_stopped():
                self._stopped.append(Stop(child, time.monotonic(), self._held_by(child)))
            elif child.struck in (SIGKILL, SIGSTOP):
                self._insist(child)
        for stop in list(self._stopped):
            self._wake(stop)

    def _insist(self, child: Child) -> None:
        """Say so where a blow does not come about, and make an end."""
        if time.monotonic() - child.struck_at > PATIENCE_SECONDS:
            self._processes.complaints.append(f"{child.name} did not come to {child.point!r}")
            child.send(SIGKILL)

    def _wake(self, stop: Stop) -> None:
        """Let a stopped process go on, once others have what it held, and have run it; it is
        spared until the attempt that was stopped has ended, as it may."""
        if not stop.is_over and self._has_waited(stop):
            stop.child.process.send_signal(SIGCONT)
            stop.is_over = True
            self._stops.append((stop.since, time.monotonic()))
            stop.child.absences.append((stop.since, time.monotonic() + GRACE_SECONDS))
        if stop.is_over and stop.child.has_passed():
            stop.child.struck = None
            self._stopped.remove(stop)

    def _has_waited(self, stop: Stop) -> bool:
        seconds = time.monotonic() - stop.since - self._place.lease
        if seconds < 0.3:
            return False
        # Who stopped there has no locks, and nothing shows before its job has been run.
        if stop.child.point != BEFORE_WORK and seconds >= STOPPED_SECONDS:
            return True
        if time.monotonic() < stop.ask_at:
            return False
        stop.ask_at = time.monotonic() + ASK_SECONDS
        return not self._are_open(stop.held)

    # -- questions to the database

    def _held_by(self, child: Child) -> set[str]:
        """The jobs that stand as a process's, and the one in which it struck itself: when it
        was late to be seen, others may have that already."""
        jobs = self._field.jobs.jobs
        mine = select(jobs.c.uid).where(
            jobs.c.state == states.RUNNING, jobs.c.worker_id.like(f"{child.process.pid}-%")
        )
        with self._engine.connect() as connection:
            held = set(connection.execute(mine).scalars())
        struck = child.own_strike()
        return held | ({struck.subject} if struck is not None else set())

    def _are_open(self, uids: set[str]) -> bool:
        """Whether any of them has not ended."""
        jobs = self._field.jobs.jobs
        wanted = select(jobs.c.uid).where(
            jobs.c.uid.in_(list(uids)), jobs.c.state.not_in(states.ENDED)
        )
        with self._engine.connect() as connection:
            return connection.execute(wanted).first() is not None

    def _notice(self) -> bool:
        """Whether a library that is broken on purpose has doubled an effect: then the run is
        over, as nothing takes a line of the ledger away."""
        may_look = self._place.mutant and self._read_only_until is None
        if may_look and not self._is_noticed and time.monotonic() >= self._notices_at:
            self._notices_at = time.monotonic() + NOTICE_SECONDS
            ledger = self._field.ledger
            doubled = (
                select(ledger.c.number)
                .group_by(ledger.c.number, ledger.c.what)
                .having(func.count() > 1)
            )
            with self._engine.connect() as connection:
                self._is_noticed = connection.execute(doubled).first() is not None
        return self._is_noticed

    def _wait_for_end(self) -> None:
        jobs = self._field.jobs.jobs
        wanted = select(func.count()).select_from(jobs).where(jobs.c.state.not_in(states.ENDED))
        before, changed_at = -1, time.monotonic()
        while time.monotonic() - changed_at < PATIENCE_SECONDS and not self._notice():
            self._look()
            with self._engine.connect() as connection:
                left = connection.execute(wanted).scalar_one()
            if not left:
                return
            if left != before:
                before, changed_at = left, time.monotonic()
            time.sleep(ASK_SECONDS)

    # -- the report

    def _report(self, seconds: float) -> Report:
        journal = sorted(read_all(self._place.folder))
        log = [line for path in self._logs() for line in path.read_text().splitlines()]
        with self._engine.connect() as connection:
            verdict = judge(
                connection, self._field, self._place.jobs, journal, log,
                lossy=bool(self._struck[RESTART]),
            )  # fmt: skip
        if self._is_noticed:
            verdict.notes.insert(0, "ended early: what had not run until then counts as lost")
        verdict.notes += self._processes.complaints
        given_up = self._given_up(log)
        verdict.notes += [f"given up while it lived: {line}" for line in given_up]
        free, beside = self._slowest(journal)
        return Report(
            database=self._place.database,
            seconds=seconds,
            struck=self._struck,
            rescued=sum(" waits again: its worker " in line for line in log),
            given_up=len(given_up),
            lost_answers=self._database.lost_answers,
            slowest_seconds=free,
            beside_seconds=beside,
            verdict=verdict,
        )

    def _logs(self) -> Iterator[Path]:
        return Path(self._place.folder).glob("*.log")

    def _given_up(self, log: list[str]) -> list[str]:
        """The lines by which a worker took a job from one that lived and was not stopped."""
        children = {child.process.pid: child for child in self._processes.all}
        found = []
        for line in log:
            taken = _TAKEN.match(line)
            if taken is None:
                continue
            at, child = float(taken["at"]), children[int(taken["pid"])]
            if not any(since <= at <= until for since, until in child.absences):
                found.append(line)
        return found

    def _slowest(self, journal: list[Line]) -> tuple[float, float]:
        """Return the longest time from a SIGKILL to the next attempt of what was held then:
        while no process was stopped, and beside one that may have held locks."""
        begun: dict[str, list[float]] = {}
        for line in journal:
            if line.word == BEGAN:
                begun.setdefault(line.subject, []).append(line.seconds)
        slowest = [0.0, 0.0]
        for killed_at, held in self._held:
            for uid in held:
                later = [seconds for seconds in begun.get(uid, []) if seconds > killed_at]
                again_at = min(later, default=killed_at)
                beside = any(a < again_at and killed_at < b for a, b in self._stops)
                slowest[beside] = max(slowest[beside], again_at - killed_at)
        return slowest[0], slowest[1]
