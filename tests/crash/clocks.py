"""A clock walk: the clocks of the database and of the machine are set while jobs run.

    PYTHONPATH=tests python -m crash.clocks [--db sqlite,postgresql,mariadb]

Each database is a server of its own, and it and two workers go by clocks that libfaketime tells
(Debian: apt-get install faketime): one for the server, one for the workers' machine; SQLite has
its own from the worker that asks. The monotonic clock stays honest, as it does where a real clock
is set. Each is set by -2 h, -1 min, +1 min and +2 h, and stays so for longer than a lease, while
short jobs and some that take longer than a lease run. None may run twice, be lost, or be taken
from its worker.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from needs import need
from own_servers import own_server
from tgext.asyncjob import JobQueue, asyncjob_running_uid
from tgext.asyncjob.job import SUCCESSFUL

JOBS = 200

#: By so much each clock is set, in seconds.
STEPS = (-7200, -60, 60, 7200)

LEASE_SECONDS = 2.0

#: How long a clock stays as it was set, in seconds: longer than a lease.
STAY_SECONDS = 2.5

#: How long a job takes, and every twentieth, in seconds.
SHORT_SECONDS, LONG_SECONDS = 0.2, 5.0

WORKERS, THREADS = 3, 2

#: How long the jobs may take to end after the last step, in seconds.
PATIENCE_SECONDS = 60.0

_LIBRARIES = ("libfaketimeMT.so.1", "libfaketime.so.1")
_STARTS = "ASYNCJOB_CLOCKS_STARTS"


class Clock:
    """One that processes go by which are started with ``variables``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0)
        path.chmod(0o644)

    @property
    def variables(self) -> dict[str, str]:
        found = [path for name in _LIBRARIES for path in Path("/usr/lib").glob(f"**/{name}")]
        need(found, "libfaketime (Debian: apt-get install faketime)")
        return {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: float) -> None:
        """Set it so far from the real one; at once, and never half."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(f"{seconds:+.1f}\n")
        fresh.chmod(0o644)
        fresh.replace(self._path)


def work(seconds: float) -> None:
    """Say that it has begun, and take its time."""
    uid = asyncjob_running_uid()
    with open(os.environ[_STARTS], "a") as file:
        file.write(f"{uid}\n")
    threading.Event().wait(seconds)  # libfaketime 0.9.10 breaks time.sleep()


@dataclass(frozen=True)
class Walk:
    """What came of one."""

    database: str
    done: int  #: jobs that have ended as they should
    starts: Counter[str]  #: by uid
    given_up: int  #: workers, all of which lived
    far: float  #: by how much the database's clock was seen to be off, at the most, in seconds
    seconds: float

    @property
    def is_right(self) -> bool:
        return not (self.doubled or self.lost or self.given_up) and self.far > max(STEPS) - 60

    @property
    def doubled(self) -> int:
        """Starts beyond each job's first."""
        return sum(self.starts.values()) - len(self.starts)

    @property
    def lost(self) -> int:
        return JOBS - self.done

    def __str__(self) -> str:
        return (
            f"{self.database}: clock walk: {JOBS} jobs, clocks of database and machine set "
            f"{', '.join(f'{step:+d} s' for step in STEPS)} (seen: {self.far:.0f} s), "
            f"live workers given up {self.given_up}, lost {self.lost}, doubled {self.doubled}, "
            f"in {self.seconds:.0f} s"
        )


def walk(database: str, folder: Path) -> Walk:
    """Set the clocks while jobs run, and tell what came of it."""
    begun_at = time.monotonic()
    with ExitStack() as stack:
        its, machines = Clock(folder / "database.clock"), Clock(folder / "machine.clock")
        if database == "sqlite":
            url = f"sqlite:///{folder}/jobs.db?timeout=30"
        else:
            url = stack.enter_context(own_server(database, **its.variables)).url
        queue = stack.enter_context(JobQueue("sql", url=url, threads=0))
        for number in range(JOBS):
            queue.perform(work, SHORT_SECONDS if number % 20 else LONG_SECONDS)
        stack.enter_context(workers(url, folder, machines))
        far = 0.0
        for clocks in ((its,), (machines,), (its, machines)):
            for step in STEPS:
                for clock in clocks:
                    clock.set(step)
                time.sleep(STAY_SECONDS)
                far = max(far, _told(queue) - time.time())
                for clock in clocks:
                    clock.set(0)
                time.sleep(STAY_SECONDS)
        until = time.monotonic() + PATIENCE_SECONDS
        while queue.backend.counts()[SUCCESSFUL] < JOBS and time.monotonic() < until:
            time.sleep(0.1)
        done = queue.backend.counts()[SUCCESSFUL]
        starts = Counter((folder / "starts").read_text().split())
    logs = "".join(path.read_text() for path in folder.glob("*.log"))
    given_up = logs.count(" given up, ")
    return Walk(database, done, starts, given_up, far, time.monotonic() - begun_at)


def _told(queue: JobQueue) -> float:
    """When a worker has last said that it lives, by the clock of the database."""
    backend: Any = queue.backend
    with backend._dialect.side_database.connect() as connection:
        last = select(func.max(backend.tables.workers.c.seen_at))
        return float(connection.execute(last).scalar() or 0.0)


@contextmanager
def workers(url: str, folder: Path, clock: Clock) -> Iterator[None]:
    """Run worker processes that go by *clock*, until the block ends."""
    (folder / "starts").touch()
    environment = {**os.environ, **clock.variables, _STARTS: str(folder / "starts")}
    running = []
    for number in range(WORKERS):
        with open(folder / f"worker{number}.log", "wb") as log:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "crash.clocks", "--work", url],
                    stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment,
                )
            )  # fmt: skip
    try:
        yield
    finally:
        for process in running:
            process.communicate()  # its input ends, and so does it


def serve(url: str) -> None:
    """Be a worker until nobody asks for it any more."""
    from crash.worker import log_to_stderr

    log_to_stderr()
    with JobQueue("sql", url=url, threads=THREADS, lease=LEASE_SECONDS) as queue:
        queue.start_worker()
        sys.stdin.read()


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="crash.clocks", description=__doc__.partition("\n")[0])
    parser.add_argument("--db", default="sqlite,postgresql,mariadb", help="names, with commas")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.work:
        serve(wanted.work)
        return 0
    right = []
    for database in wanted.db.split(","):
        with tempfile.TemporaryDirectory(prefix="clocks-") as folder:
            Path(folder).chmod(0o755)
            found = walk(database, Path(folder))
        sys.stdout.write(f"{found}\n")
        sys.stdout.flush()
        right.append(found.is_right)
    return int(not all(right))


if __name__ == "__main__":
    import crash.clocks  # where its jobs are

    sys.exit(crash.clocks.main())
