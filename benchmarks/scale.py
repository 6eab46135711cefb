"""Measure how throughput grows with worker threads and processes, and draw it.

    python benchmarks/scale.py                    some three minutes on 2 cores
    python benchmarks/scale.py --quick            says only that the harness works
    python benchmarks/scale.py --db sqlite
    python benchmarks/scale.py --picture scale.png

Each point: JOBS no-op jobs are enqueued while nothing runs, so many processes with so many threads
each begin at one word, and the time until the last job has ended is taken; of ROUNDS rounds the
best. Commits are durable. Exits with 0 whether an aim is met or missed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import transaction

import sqljobs
from figures import Aim
from tgext.asyncjob import JobQueue

URLS = {
    "postgresql": os.environ.get(
        "ASYNCJOB_BENCHMARK_URL", "postgresql+psycopg://postgres@127.0.0.1/test"
    ),
    "mariadb": os.environ.get(
        "ASYNCJOB_BENCHMARK_MARIADB", "mysql+pymysql://root@127.0.0.1/test?ssl_disabled=1"
    ),
}
THREADS = (1, 2, 4, 8, 16, 32, 64)
PROCESSES = (1, 2, 4, 8)

#: More would not fit into the 100 connections of a server's default configuration.
MOST_THREADS = 64
JOBS, ROUNDS = 20_000, 2

#: The largest share of the throughput of fewer threads that more of them may lose.
AIM = Aim(0.9, "no less than 0.9 of that of fewer threads", at_least=True)


def queue_of(url: str, prefix: str, threads: int) -> JobQueue:
    return JobQueue("sql", url=url, table_prefix=prefix, secret="benchmark", threads=threads)


def work(url: str, prefix: str, threads: int) -> None:
    """A process of workers: begins when a line comes in, ends with the next one."""
    with queue_of(url, prefix, threads) as queue:
        queue.backend.counts(1)  # opens the tables before the time is taken
        print("ready", flush=True)
        sys.stdin.readline()
        queue.start_worker()
        sys.stdin.readline()


class Place:
    """The tables of one run."""

    def __init__(self, url: str) -> None:
        self.url, self.prefix = url, f"scale{uuid.uuid4().hex[:8]}_"
        self.queue = queue_of(url, self.prefix, 0)
        self.tables: Any = self.queue.backend.tables  # type: ignore[attr-defined]
        self.engine = self.queue.session.get_bind()

    def enqueue(self, jobs: int, call: Callable[[], None] = sqljobs.linger) -> None:
        for _ in range(jobs // 1_000 or 1):
            with self.queue.in_transaction():
                for _ in range(min(jobs, 1_000)):
                    self.queue.perform(call)
                transaction.commit()

    @contextmanager
    def working(self, threads: int) -> Iterator[None]:
        """Run a worker in this process."""
        with queue_of(self.url, self.prefix, threads) as queue:
            queue.start_worker()
            yield

    def wait_for_end(self) -> None:
        jobs = self.tables.jobs
        left = sa.select(jobs.c.number).where(jobs.c.finished_at.is_(None)).limit(1)
        until = time.monotonic() + sqljobs.PATIENCE_SECONDS
        while True:
            with self.engine.connect() as connection:
                if connection.execute(left).first() is None:
                    return
            if time.monotonic() > until:
                raise RuntimeError(f"jobs are left after {sqljobs.PATIENCE_SECONDS} s")
            time.sleep(0.01)

    def throughput(self, processes: int, threads: int, jobs: int) -> float:
        """Return the jobs per second of so many processes with so many threads each."""
        self.empty()
        self.enqueue(jobs)
        command = [sys.executable, __file__, "--worker", self.url, self.prefix, str(threads)]
        pipe: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        workers = [subprocess.Popen(command, **pipe) for _ in range(processes)]
        try:
            for worker in workers:
                if worker.stdout.readline() != "ready\n":  # type: ignore[union-attr]
                    raise RuntimeError("a process of workers has ended; its traceback is above")
            begun = time.perf_counter()
            for worker in workers:
                print(file=worker.stdin, flush=True)
            self.wait_for_end()
            return jobs / (time.perf_counter() - begun)
        finally:
            for worker in workers:
                worker.communicate("\n")

    def empty(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.delete(self.tables.jobs))
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"VACUUM ANALYZE {self.prefix}jobs")

    def drop(self) -> None:
        self.queue.close()
        self.tables.metadata.drop_all(self.engine)


@contextmanager
def place_of(kind: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(URLS.get(kind, f"sqlite:///{folder}/jobs.db?timeout=30"))
        try:
            yield place
        finally:
            place.drop()


def measure(kind: str, jobs: int, rounds: int) -> dict[int, dict[int, float]]:
    """Measure one database, and print it: by processes, jobs per second by threads of each."""
    print(f"\n{kind}: no-op jobs per second, by threads of each process")
    print(f"  {'':14}" + "".join(f"{threads:>8}" for threads in THREADS))
    found: dict[int, dict[int, float]] = {}
    with place_of(kind) as place:
        for processes in PROCESSES:
            fitting = [each for each in THREADS if each * processes <= MOST_THREADS]
            found[processes] = {
                threads: max(place.throughput(processes, threads, jobs) for _ in range(rounds))
                for threads in fitting
            }
            speeds = "".join(f"{speed:8,.0f}" for speed in found[processes].values())
            print(f"  {processes} process{'es'[: 2 * (processes > 1)]:8}{speeds}", flush=True)
    worst = min(
        speed / max(list(by_threads.values())[: number + 1])
        for by_threads in found.values()
        for number, speed in enumerate(by_threads.values())
    )
    print(f"  the most that more threads lose: {worst:.2f} of fewer; {AIM.verdict(worst)}")
    return found


def draw(found: dict[str, dict[int, dict[int, float]]], path: Path) -> None:
    """Draw the curves of each database."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False)
    for axis, (kind, by_processes) in zip(axes[0], found.items(), strict=True):
        for processes, by_threads in by_processes.items():
            label = f"{processes} process{'es' * (processes > 1)}"
            axis.plot(list(by_threads), list(by_threads.values()), marker="o", label=label)
        axis.set_xscale("log", base=2)
        axis.set_xticks(THREADS, [str(each) for each in THREADS])
        axis.set_ylim(bottom=0)
        axis.set(
            title=kind, xlabel="worker threads of each process", ylabel="no-op jobs per second"
        )
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    print(f"\ndrawn: {path}")


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--db", choices=("postgresql", "sqlite", "mariadb"), action="append")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.worker:
        url, prefix, threads = wanted.worker
        work(url, prefix, int(threads))
        return 0
    kinds = wanted.db or ["postgresql", "sqlite", "mariadb"]
    jobs, rounds = (1_000, 1) if wanted.quick else (JOBS, ROUNDS)
    found = {kind: measure(kind, jobs, rounds) for kind in kinds}
    if wanted.picture:
        draw(found, wanted.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
