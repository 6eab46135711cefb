"""A soak whose workers are Celery's: parents with children, a broker, and a proxy of messages.

Judged as the soak of own workers is, by what the jobs have left in the database.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from forked_python import ForkedPython
from tgext.asyncjob.backends.sql import states

from .brokers import Broker, MessageProxy
from .journal import DONE, read, read_all
from .place import QUEUES, Place
from .schedule import ENQUEUER
from .soak import LOOK_SECONDS, PATIENCE_SECONDS, tables
from .verdict import Verdict, judge

#: Parents, and children of each.
PARENTS, CHILDREN = 2, 2

#: The status of a parent that Celery ends by an error of its own: some of its losses of a broker,
#: and of children meanwhile, do that. A service manager starts it again.
FAILED = 1

#: Seconds beyond a lease that a child is stopped for.
STOPPED_SECONDS = 2.0

#: Seconds in which a parent must have ended that was told to: its drain, and what Celery does then.
TOLD_SECONDS = 60.0

#: Seconds that the broker is away, or hangs.
AWAY_SECONDS = 2.0

KILL_CHILD, KILL_PARENT, STOP_CHILD = "SIGKILL child", "SIGKILL parent", "SIGSTOP child"
TERM_PARENT, TERM_CHILD, QUIT_PARENT = "SIGTERM parent", "SIGTERM child", "SIGQUIT parent"
RESTART, HANG, EMPTY = "broker restart", "broker hangs", "broker emptied"

_DECK = [
    KILL_CHILD, KILL_CHILD, KILL_CHILD, KILL_CHILD, KILL_PARENT, STOP_CHILD, STOP_CHILD,
    TERM_PARENT, TERM_CHILD, QUIT_PARENT, RESTART, HANG, EMPTY, EMPTY,
]  # fmt: skip

IMPORTS = (
    "crash.enqueuer crash.jobs celery.bin.celery celery.bin.worker celery.apps.worker"
    " celery.worker.components celery.worker.consumer celery.concurrency.prefork"
    " celery.loaders.app kombu.transport.redis kombu.transport.pyamqp"
    " tgext.asyncjob.fleet.fleet tgext.asyncjob.__main__ tgext.asyncjob.backends.sql"
    " sqlalchemy.dialects.postgresql psycopg sqlalchemy.dialects.mysql.pymysql pymysql"
)


@dataclass(frozen=True)
class FleetBlow:
    seconds: float
    what: str
    draw: float


def fleet_schedule(seed: int, blows: int, seconds: float) -> list[FleetBlow]:
    """Deal *blows*, spread over *seconds*; among fourteen there is each kind."""
    chance = random.Random(f"{seed} fleet")
    dealt: list[str] = []
    while len(dealt) < blows:
        deck = list(_DECK)
        chance.shuffle(deck)
        dealt += deck
    instants = sorted(chance.random() * seconds for _ in range(blows))
    return [FleetBlow(at, what, chance.random()) for at, what in zip(instants, dealt, strict=False)]


@dataclass(frozen=True)
class FleetReport:
    database: str
    seconds: float
    struck: Counter[str]
    messages: tuple[int, int, int]  #: through the proxy, lost there, doubled there
    rescued: int
    fell: int  #: parents that Celery ended by an error of its own
    verdict: Verdict

    @property
    def is_right(self) -> bool:
        return not self.verdict.notes

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.struck.items()))
        moved, lost, doubled = self.messages
        line = (
            f"{self.database} and Celery: {self.verdict.jobs} jobs, {self.struck.total()} blows "
            f"({kinds}), {moved} messages of which {lost} were lost and {doubled} doubled, "
            f"{self.rescued} rescues, {self.fell} parents ended by errors of Celery, "
            f"lost {self.verdict.lost}, doubled {self.verdict.doubled}, "
            f"in {self.seconds:.0f} s"
        )
        return "\n".join([line, *(f"    {note}" for note in self.verdict.notes[:12])])


class FleetSoak:
    """One run."""

    def __init__(self, place: Place, broker: Broker, blows: list[FleetBlow]) -> None:
        self._place = place
        self._broker = broker
        self._blows = blows
        self._made = 0
        self._parents: list[subprocess.Popen[bytes]] = []
        self._enqueuer: subprocess.Popen[bytes] | None = None
        self._is_enqueued = False
        self._stopped: list[tuple[int, float]] = []  # pids, and when they go on
        self._struck: Counter[str] = Counter()
        self._expected: dict[int, set[int]] = {}
        self._told: dict[int, tuple[str, float]] = {}  # parents: by which blow, and when
        self._complaints: list[str] = []
        self._fell = 0  # parents that ended by an error of Celery's

    def run(self) -> FleetReport:
        """Do all of it, and say what came of it."""
        self._names = names = [f"{self._place.prefix}{name}" for name in QUEUES]
        with (
            tables(self._place) as (self._engine, self._field),
            MessageProxy(self._broker, names, self._place.seed) as proxy,
        ):
            begun_at = time.monotonic()
            try:
                self._begin()
                self._strike_all()
                self._wait_for_end()
                self._stop()
            finally:
                self._kill()
            return self._report(time.monotonic() - begun_at, proxy)

    # -- processes

    def _start(self, role: str, command: list[str]) -> subprocess.Popen[bytes]:
        self._made += 1
        place = self._place.of_process(role, self._made)
        with place.path("log").open("wb") as log:
            streams: Any = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log}
            return ForkedPython(
                [sys.executable, "-m", *command], imports=IMPORTS, env=place.environment(),
                start_new_session=True, **streams,
            )  # fmt: skip

    def _fill(self) -> None:
        for parent in list(self._parents):
            if parent.poll() is not None:
                self._parents.remove(parent)
                status, expected = parent.returncode, self._expected.get(parent.pid, set())
                if status == FAILED and status not in expected:
                    self._fell += 1
                elif status not in expected:
                    self._complaints.append(f"a worker ended with status {status} by itself")
            elif parent.pid in self._told:
                what, at = self._told[parent.pid]
                if time.monotonic() > at + TOLD_SECONDS:
                    self._complaints.append(
                        f"a worker, process {parent.pid}, did not end after {what} at {at:.3f}"
                    )
                    del self._told[parent.pid]
                    self._expected[parent.pid] |= {-signal.SIGKILL}
                    os.killpg(parent.pid, signal.SIGKILL)
        while len(self._parents) < PARENTS:
            command = [
                "tgext.asyncjob", "celery", "--app", "crash.celery_app:queue", "--", "worker",
                "-l", "info", "-c", str(CHILDREN), "--without-mingle", "--without-gossip", "-n",
                f"fleet{self._made}@%h",
            ]  # fmt: skip
            self._parents.append(self._start("fleet", command))
            self._expected.pop(self._parents[-1].pid, None)  # another process had this number
            self._told.pop(self._parents[-1].pid, None)
        if self._enqueuer is None and not self._is_enqueued:
            self._enqueuer = self._start(ENQUEUER, [f"crash.{ENQUEUER}"])
        if self._enqueuer is not None and self._enqueuer.poll() is not None:
            journals = Path(self._place.folder).glob(f"{ENQUEUER}*.journal")
            self._is_enqueued = any(line.word == DONE for each in journals for line in read(each))
            self._enqueuer = None

    def _children(self) -> list[int]:
        found = []
        for parent in self._parents:
            path = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
            try:
                found += [int(each) for each in path.read_text().split()]
            except OSError:
                continue
        stopped = [each for each, _ in self._stopped]
        # Others load the application, or look whether it can be loaded.
        workers = select(self._field.jobs.workers.c.worker_id)
        with self._engine.connect() as connection:
            ready = {int(each.partition("-")[0]) for each in connection.execute(workers).scalars()}
        return [pid for pid in found if pid not in stopped and pid in ready]

    def _begin(self) -> None:
        self._fill()
        jobs = self._field.jobs
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            with self._engine.connect() as connection:
                workers = connection.execute(select(func.count()).select_from(jobs.workers))
                if workers.scalar_one() >= PARENTS * CHILDREN:
                    return
            if time.monotonic() > until:
                raise RuntimeError(f"the workers do not come up, see {self._place.folder}")
            time.sleep(LOOK_SECONDS)

    # -- blows

    def _strike_all(self) -> None:
        begun_at = time.monotonic()
        while self._blows or self._stopped or not self._is_enqueued:
            self._fill()
            self._wake()
            is_due = self._blows and time.monotonic() >= begun_at + self._blows[0].seconds
            if is_due and self._strike(self._blows[0]):
                del self._blows[0]
            if not self._blows and not self._stopped:
                self._place.enough.touch()
            time.sleep(LOOK_SECONDS)

    def _strike(self, blow: FleetBlow) -> bool:
        """Deal a blow; False if there is nobody to take it now."""
        if blow.what in (RESTART, HANG, EMPTY):
            acts = {RESTART: self._broker.restart, HANG: self._broker.hang}
            if blow.what == EMPTY:
                self._broker.empty(self._names)
            else:
                acts[blow.what](AWAY_SECONDS)
        else:
            is_parent = blow.what.endswith("parent")
            free = [each.pid for each in self._parents if each.pid not in self._expected]
            pids = free if is_parent else self._children()
            if len(pids) < 1 + is_parent:
                return False
            pid = pids[int(blow.draw * len(pids))]
            number = signal.Signals[blow.what.split()[0]]
            if is_parent:
                # Celery's cold shutdown is a failure by its exit status.
                self._expected[pid] = {-int(number)} | (
                    {0, 1} if number != signal.SIGKILL else set()
                )
                self._told[pid] = (blow.what, time.monotonic())
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return False
            if number is signal.SIGSTOP:
                until = time.monotonic() + self._place.lease + STOPPED_SECONDS
                self._stopped.append((pid, until))
        self._struck[blow.what] += 1
        return True

    def _wake(self) -> None:
        for pid, until in list(self._stopped):
            if time.monotonic() >= until:
                self._stopped.remove((pid, until))
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    continue  # its parent was killed meanwhile

    # -- the end

    def _wait_for_end(self) -> None:
        jobs = self._field.jobs.jobs
        wanted = select(func.count()).select_from(jobs).where(jobs.c.state.not_in(states.ENDED))
        before, changed_at = -1, time.monotonic()
        while time.monotonic() - changed_at < PATIENCE_SECONDS:
            self._fill()
            with self._engine.connect() as connection:
                left = connection.execute(wanted).scalar_one()
            if not left:
                return
            if left != before:
                before, changed_at = left, time.monotonic()
            time.sleep(5 * LOOK_SECONDS)

    def _stop(self) -> None:
        for parent in self._parents:
            self._expected[parent.pid] = {0, 1}
            parent.send_signal(signal.SIGTERM)
        for parent in self._parents:
            try:
                parent.wait(30)
            except subprocess.TimeoutExpired:
                self._complaints.append("a worker did not stop when it was told to")

    def _kill(self) -> None:
        processes = [*self._parents, *([] if self._enqueuer is None else [self._enqueuer])]
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _report(self, seconds: float, proxy: MessageProxy) -> FleetReport:
        paths = Path(self._place.folder).glob("*.log")
        log = [line for path in paths for line in path.read_text().splitlines()]
        journal = sorted(read_all(self._place.folder))
        with self._engine.connect() as connection:
            verdict = judge(connection, self._field, self._place.jobs, journal, log, lossy=False)
        verdict.notes += self._complaints
        return FleetReport(
            database=self._place.database,
            seconds=seconds,
            struck=self._struck,
            messages=(proxy.moved, proxy.lost, proxy.doubled),
            fell=self._fell,
            rescued=sum(" waits again: its worker " in line for line in log),
            verdict=verdict,
        )
