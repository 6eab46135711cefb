"""What is measured of a version of the durable backend: enqueue, claim, run and completion.

Every call here is one that older versions have too. Each answer is three numbers: the seconds that
passed, the CPU seconds of this process, and those together with the server's for it.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import sqlalchemy as sa

import scale
import sqljobs
from cpu import Cpu
from sqljobs import NOTE, TALLY
from tgext.asyncjob import asyncjob_session
from tgext.asyncjob.backends.base import Backend
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.job import SUCCESSFUL, Outcome, WorkerId
from tgext.asyncjob.worker import thread

#: Jobs of one claim, and the worker that claims them where no worker runs.
AT_ONCE, CLAIMER = 100, WorkerId("benchmark")

# A worker claims as many as ran in a certain time lately. Here it always claims AT_ONCE, whatever
# the load of the machine, and none is released.
thread.BATCH_SECONDS = thread.RELEASE_SECONDS = 1_000.0
SqlBackend.most_at_once = AT_ONCE

#: The application's own table.
WRITTEN = sa.Table(
    "written", sa.MetaData(), sa.Column("number", sa.Integer), sa.Column("note", sa.String(40))
)
OWN_ROW = WRITTEN.insert()

Seconds = tuple[float, float, float]


def write() -> None:
    """Insert a row with the session whose commit completes the job."""
    asyncjob_session().execute(OWN_ROW, {"number": 1, "note": NOTE})
    TALLY.count()


class Stopwatch:
    """What was measured, once its block has ended."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu

    @contextmanager
    def running(self) -> Iterator[None]:
        gc.collect()
        begun, before = time.perf_counter(), self._cpu.spent()
        yield
        self.stop(begun, before)

    def stop(self, begun: float, before: tuple[float, float]) -> None:
        passed, spent = time.perf_counter() - begun, self._cpu.spent()
        self.seconds = passed, spent[0] - before[0], spent[1] - before[1]


class HotPath:
    """The tables of one run, and what is measured on them."""

    def __init__(self, stack: ExitStack, kind: str) -> None:
        self._cpu = Cpu()
        self._place = stack.enter_context(scale.place_of(kind))
        self._kind, self._engine = kind, self._place.engine
        self._backend: Backend = self._place.queue.backend
        WRITTEN.name = f"{self._place.prefix}written"
        WRITTEN.create(self._engine)
        stack.callback(WRITTEN.drop, self._engine)

    def enqueue(self, jobs: int) -> Seconds:
        """Measure *jobs* enqueues, each with a commit of its own."""
        self._place.empty()
        perform, watch = self._place.queue.perform, Stopwatch(self._cpu)
        perform(sqljobs.linger)
        with watch.running():
            for _ in range(jobs):
                perform(sqljobs.linger)
        return watch.seconds

    def batch(self, jobs: int) -> Seconds:
        """Measure *jobs* enqueues in one transaction."""
        self._place.empty()
        watch = Stopwatch(self._cpu)
        with watch.running():
            self._place.enqueue(jobs)
        return watch.seconds

    def claims(self, jobs: int) -> list[Seconds]:
        """Measure claims of so many jobs without running them, and their completions."""
        self._place.empty()
        self._place.enqueue(jobs)
        self._backend.register(CLAIMER, None, 1)
        claiming, completing = Stopwatch(self._cpu), Stopwatch(self._cpu)
        batches = []
        with claiming.running():
            for _ in range(jobs // AT_ONCE):
                batches.append(self._backend.claim(CLAIMER, None, AT_ONCE))
        ends = [[(claim, Outcome(SUCCESSFUL)) for claim in claims] for claims in batches]
        with completing.running():
            stored = [self._backend.finish_many(each) for each in ends]
        if sum(map(sum, stored)) != jobs:
            raise RuntimeError(f"expected {jobs} jobs to be completed")
        return [claiming.seconds, completing.seconds]

    def drain(self, jobs: int, rows: bool) -> Seconds:
        """Measure a worker of one thread, from the first line of the first job to the last end.

        rows: whether each job inserts a row, with which it is completed.
        """
        self._place.empty()
        self._place.enqueue(jobs, write if rows else sqljobs.tick)
        TALLY.expect(jobs, self._cpu.spent)
        watch = Stopwatch(self._cpu)
        with self._place.working(1):
            TALLY.wait()
            self._place.wait_for_end()
            watch.stop(TALLY.began_at, TALLY.spent_before)
        if rows:
            self._check_rows(jobs)
        return watch.seconds

    def _check_rows(self, jobs: int) -> None:
        with self._engine.begin() as connection:
            found = connection.execute(sa.delete(WRITTEN)).rowcount
        if found != jobs:
            raise RuntimeError(f"expected {jobs} rows of jobs to be committed, found {found}")
