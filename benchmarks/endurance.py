"""Measure whether PostgreSQL stays as fast and as small while very many jobs run through it.

    python benchmarks/endurance.py            10,000,000 jobs: some twenty minutes on 2 cores
    python benchmarks/endurance.py --quick    20,000; says only that the harness works
    python benchmarks/endurance.py --held     beside a transaction that holds a snapshot from the
                                              first job to the last: no dead row can be removed
    python benchmarks/endurance.py --held --minutes 10
                                              RATE jobs a second, before, beside and after a
                                              report that takes ten minutes

This process enqueues no-op jobs, a thousand in a transaction, as long as less than BACKLOG wait.
Processes of workers run them; what has ended is removed after RETENTION_SECONDS. After each tenth,
when none waits any more, single jobs are enqueued, and the time from the commit to the first line
of each is taken; and the size of the table with its indexes. With --minutes that is done after
each minute; jobs are then enqueued one at a time, each with its commit, as requests do it, and in
the end, without the snapshot, the table is vacuumed. Exits with 0 whether an aim is met or missed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import transaction

import scale
from figures import Aim
from latejobs import note_begin
from sqljobs import linger
from tgext.asyncjob import JobQueue

JOBS, SLICES = 10_000_000, 10
BACKLOG, AT_ONCE = 20_000, 1_000
RETENTION_SECONDS = 60

PROCESSES, THREADS = 2, 2

#: Jobs a second while minutes are counted: many for an application, and a fraction of what runs.
RATE = 300
MINUTE_SECONDS = 60.0

#: Single jobs, and the seconds between two of them.
SINGLE, PAUSE_SECONDS = 200, 0.01

#: Counted by the server's statistics, which are late by a second at the most.
DEAD = sa.text("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = :name")

RATE_AIM = Aim(0.9, "at least 0.9 of the first", at_least=True)
TIME_AIM = Aim(1.2, "at most 1.2 of the first")
SIZE_AIM = Aim(1.2, "at most 1.2 of the largest of the first half")


class Slice(NamedTuple):
    """What a part of the jobs has come to."""

    rate: float  #: jobs per second
    rows: int
    dead: int  #: rows that were deleted or changed, and are not yet removed
    megabytes: float  #: of the table of jobs with its indexes
    median: float  #: milliseconds from the commit to the first line of a single job
    late: float  #: the same of the slowest but one in a hundred


def queue_of(url: str, prefix: str, threads: int) -> JobQueue:
    return JobQueue(
        "sql", url=url, table_prefix=prefix, secret="benchmark", threads=threads,
        retention=RETENTION_SECONDS,
    )  # fmt: skip


def work(url: str, prefix: str) -> None:
    """A process of workers: ends when a line comes in."""
    with queue_of(url, prefix, THREADS) as queue:
        queue.start_worker()
        sys.stdin.readline()


class Run:
    """The jobs that run through one place."""

    def __init__(self, place: scale.Place, folder: Path) -> None:
        self._place = place
        self._jobs = place.tables.jobs
        self._path = folder / "begun"

    @contextmanager
    def workers(self) -> Iterator[None]:
        command = [sys.executable, __file__, "--worker", self._place.url, self._place.prefix]
        started = [
            subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(PROCESSES)
        ]
        try:
            yield
        finally:
            for each in started:
                each.communicate("\n")

    def slice(self, jobs: int) -> Slice:
        """Let so many jobs run, then single ones."""
        begun = time.perf_counter()
        for _ in range(0, jobs, AT_ONCE):
            while self._ask(sa.select(sa.func.count()).select_from(self._waiting())) >= BACKLOG:
                time.sleep(0.02)
            self._enqueue(linger, AT_ONCE)
        self._place.wait_for_end()
        return self.look(jobs / (time.perf_counter() - begun))

    def minute(self, seconds: float) -> Slice:
        """Let RATE jobs a second run for so long, or as many as it takes; then single ones."""
        begun, jobs = time.perf_counter(), 0
        while (passed := time.perf_counter() - begun) < seconds:
            time.sleep(max(0.0, jobs / RATE - passed))
            self._enqueue(linger, 1)
            jobs += 1
        self._place.wait_for_end()
        return self.look(jobs / (time.perf_counter() - begun))

    def look(self, rate: float) -> Slice:
        """Measure the tables, and single jobs; *rate* is that of those that ran before."""
        rows = self._ask(sa.select(sa.func.count()).select_from(self._jobs))
        name = sa.literal(self._jobs.name).cast(sa.dialects.postgresql.REGCLASS)
        size = self._ask(sa.select(sa.func.pg_total_relation_size(name)))
        times = self._single()
        median, late = times[len(times) // 2], times[len(times) * 99 // 100]
        dead = self._ask(DEAD.bindparams(name=self._jobs.name))
        return Slice(rate, rows, dead, size / 1e6, median, late)

    def vacuum(self) -> float:
        """Do what autovacuum would do by and by; the seconds that it took."""
        begun = time.perf_counter()
        with self._place.engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        ) as connection:
            connection.exec_driver_sql(f"VACUUM {self._jobs.name}")
        return time.perf_counter() - begun

    def _waiting(self) -> Any:
        """Those that wait, as far as it matters."""
        waiting = sa.select(self._jobs.c.number).where(self._place.tables.stands(0))
        return waiting.limit(BACKLOG).subquery()

    def _single(self) -> list[float]:
        """Return the milliseconds of single jobs until they begin, sorted."""
        self._path.write_text("")
        enqueued = []
        for _ in range(SINGLE):
            self._enqueue(note_begin, 1, str(self._path))
            enqueued.append(time.monotonic())
            time.sleep(PAUSE_SECONDS)
        self._place.wait_for_end()
        begun = sorted(map(float, self._path.read_text().split()))
        return sorted(1_000 * (at - since) for at, since in zip(begun, enqueued, strict=True))

    def _enqueue(self, call: Any, number: int, *args: str) -> None:
        with self._place.queue.in_transaction():
            self._place.queue.perform_many(call, [args] * number)
            transaction.commit()

    def _ask(self, wanted: Any) -> Any:
        with self._place.engine.connect() as connection:
            return connection.execute(wanted).scalar_one()


@contextmanager
def snapshot(engine: sa.Engine, is_wanted: bool) -> Iterator[None]:
    """Hold a snapshot, as a long report or a forgotten session does."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        if is_wanted:
            connection.execute(sa.select(1))
        yield


def print_slice(name: str, found: Slice) -> None:
    print(
        f"  {name:>12}{found.rate:10,.0f}{found.rows:11,}{found.dead:12,}{found.megabytes:8,.0f}"
        f"{found.median:11.2f}{found.late:8.2f}",
        flush=True,
    )


def run_slices(run: Run, engine: sa.Engine, jobs: int, is_held: bool) -> None:
    """Print how so many jobs run, as fast as they can."""
    slices = []
    with snapshot(engine, is_held):
        for number in range(1, SLICES + 1):
            slices.append(run.slice(jobs // SLICES))
            print_slice(f"{number * jobs // SLICES:,}", slices[-1])
    show(slices)


def run_minutes(run: Run, engine: sa.Engine, minutes: int, seconds: float, is_held: bool) -> None:
    """Print how RATE jobs a second run before, beside and after a snapshot, or without one.

    seconds: of a minute.
    """
    print_slice("before", run.minute(seconds))
    with snapshot(engine, is_held):
        for number in range(1, minutes + 1):
            print_slice(f"minute {number}", run.minute(seconds))
    print(f"  VACUUM took {run.vacuum():.2f} s")
    print_slice("vacuumed", run.look(0.0))
    print_slice("after", run.minute(seconds))


def show(slices: list[Slice]) -> None:
    """Print what was aimed at."""
    first, last = slices[0], slices[-1]
    half = max(each.megabytes for each in slices[: len(slices) // 2])
    for name, share, aim in (
        ("rate of the last slice", last.rate / first.rate, RATE_AIM),
        ("median of its single jobs", last.median / first.median, TIME_AIM),
        (
            "size of the second half",
            max(each.megabytes for each in slices[len(slices) // 2 :]) / half,
            SIZE_AIM,
        ),
    ):
        print(f"  {name:30}{share:6.2f}  {aim.verdict(share)}")


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--held", action="store_true")
    parser.add_argument("--minutes", type=int)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.worker:
        work(*wanted.worker)
        return 0
    jobs = 20_000 if wanted.quick else wanted.jobs
    many = f"{RATE} jobs a second" if wanted.minutes else f"{jobs:,} jobs"
    print(f"{many}, ended ones are kept for {RETENTION_SECONDS} s")
    print(f"  {'jobs':>12}{'a second':>10}{'rows':>11}{'dead':>12}{'MB':>8}", end="")
    print(f"{'ms median':>11}{'99 %':>8}")
    with scale.place_of("postgresql") as place, tempfile.TemporaryDirectory() as folder:
        run = Run(place, Path(folder))
        with run.workers():
            if wanted.minutes:
                seconds = MINUTE_SECONDS / (20 if wanted.quick else 1)
                run_minutes(run, place.engine, wanted.minutes, seconds, wanted.held)
            else:
                run_slices(run, place.engine, jobs, wanted.held)
    return 0


if __name__ == "__main__":
    sys.exit(main())
