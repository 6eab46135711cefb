"""Retry many failed jobs by one action, while workers run them and the one that does it is killed.

    PYTHONPATH=tests python -m crash.bulk                            100,000 jobs in each database
    PYTHONPATH=tests python -m crash.bulk --db sqlite --jobs 5000

Every tenth job fails again. Exits with 0 if each was retried exactly once, and the audit says so.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import create_engine, func, select, text

from databases import SERVERS, url_of
from tgext.asyncjob import JobQueue, bulk
from tgext.asyncjob.backends.audit import Act
from tgext.asyncjob.backends.listing import JobFilter
from tgext.asyncjob.backends.sql import states
from tgext.asyncjob.call import Call
from tgext.asyncjob.errors import WorkerCrashed
from tgext.asyncjob.job import Job
from tgext.asyncjob.task_options import TaskOptions

KINDS = ("sqlite", *SERVERS)

#: Each tenth job fails again.
FAILS_AGAIN = 10

#: The longest that anything may take, in seconds.
PATIENCE_SECONDS = 900.0

#: Jobs that are enqueued in one transaction.
ENQUEUED_AT_ONCE = 5_000


class NotToday(Exception):
    """Raised by the jobs that fail again."""


def work(number: int) -> None:
    """What each job does."""
    if number % FAILS_AGAIN == 0:
        raise NotToday(number)


_NOT_TODAY, _CRASHED = NotToday.__name__, WorkerCrashed.__name__


class Figures(NamedTuple):
    """What came of a run."""

    jobs: int
    changed: int  #: by the record
    result: str  #: of the record
    attempts: dict[int, int]  #: how many jobs have how many attempts
    errors: dict[str, int]  #: by the name of the exception's class
    statuses: dict[int, int]
    bulk_attempts: int  #: with those that a crash has undone
    change_seconds: float
    seconds: float

    @property
    def failed_again(self) -> int:
        """How many attempts raised the jobs' own exception. What else the killed worker ran has an
        error that says so, and ran again."""
        return self.errors.get(_NOT_TODAY, 0)

    @property
    def is_right(self) -> bool:
        """Whether each was retried exactly once, and the audit knows."""
        failed = -(-self.jobs // FAILS_AGAIN)
        return (
            self.changed == self.jobs
            and self.result == f"{self.jobs} of {self.jobs}"
            and self.attempts == {2: self.jobs}
            and self.statuses == {states.SUCCEEDED: self.jobs - failed, states.FAILED: failed}
            and self.failed_again == failed
            and self.errors.keys() <= {_NOT_TODAY, _CRASHED}
            and self.bulk_attempts > 1
        )


@contextmanager
def failed_jobs(url: str, prefix: str, number: int) -> Iterator[JobQueue]:
    """A queue with so many failed jobs, in tables of its own."""
    with JobQueue("sql", url=url, table_prefix=prefix, threads=0) as queue:
        backend: Any = queue.backend
        jobs, options = backend.tables.jobs, TaskOptions()
        try:
            for begin in range(0, number, ENQUEUED_AT_ONCE):
                some = range(begin, min(begin + ENQUEUED_AT_ONCE, number))
                made = [Job(backend.new_uid(), Call(work, (each,), None), options) for each in some]
                backend.enqueue([backend.prepare(each) for each in made])
            with backend._dialect.begin() as connection:
                connection.execute(
                    jobs.update().values(
                        state=states.FAILED, attempts=1, lease=1, finished_at=jobs.c.enqueued_at
                    )
                )
            if url.startswith("postgresql"):
                with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
                    connection.execute(text(f"VACUUM ANALYZE {jobs.name}"))
            yield queue
        finally:
            backend.tables.metadata.drop_all(backend.engine)


def start_worker(url: str, prefix: str) -> subprocess.Popen[bytes]:
    """Start a process that runs jobs until its input ends."""
    program = [sys.executable, "-m", "crash.bulk", "--serve", url, prefix]
    return subprocess.Popen(program, stdin=subprocess.PIPE, cwd=Path(__file__).parents[1])


def serve(url: str, prefix: str) -> None:
    """Be such a process."""
    logging.disable()  # of each job that fails again
    with JobQueue("sql", url=url, table_prefix=prefix, threads=2, lease=2) as queue:
        queue.start_worker()
        sys.stdin.read()


def retry_all(url: str, number: int) -> Figures:
    """Retry so many failed jobs, and kill the worker that does it once a third is done."""
    prefix = f"b{uuid.uuid4().hex[:8]}_"
    with failed_jobs(url, prefix, number) as queue:
        began = time.monotonic()
        overview: Any = queue.backend.overview  # type: ignore[attr-defined]
        wanted = JobFilter.of("FAILED", name="crash.bulk.work")
        wanted = bulk.frozen(queue, wanted, overview.now())
        own = bulk.start(queue, "retry", wanted, Act("ann", "program"), "default")
        workers = [start_worker(url, prefix) for _ in range(2)]
        try:
            _until(lambda: queue.audit()[0].changed >= number // 3, "a third is changed", workers)
            _kill_worker_of(queue, own.id, workers)
            workers.append(start_worker(url, prefix))
            _until(lambda: queue.audit()[0].result != "begun", "all are changed")
            changed_after = time.monotonic() - began
            # One statement: what a dead worker ran, and waits again, would fall between two.
            _until(lambda: not _open_jobs(queue), "all have ended")
            return _figures(queue, number, own.id, changed_after, time.monotonic() - began)
        finally:
            for each in workers:
                each.stdin.close()  # type: ignore[union-attr]
                each.wait(60)


def _open_jobs(queue: JobQueue) -> int:
    backend: Any = queue.backend
    is_open = backend.tables.jobs.c.state.not_in(states.ENDED)
    with backend.engine.connect() as connection:
        return int(connection.execute(select(func.count()).where(is_open)).scalar_one())


def _kill_worker_of(queue: JobQueue, uid: str, workers: list[subprocess.Popen[bytes]]) -> None:
    snapshot = queue.results.snapshot(uid)
    pid = int(str(snapshot.worker_id).partition("-")[0])
    [killed] = [each for each in workers if each.pid == pid]
    killed.kill()
    killed.wait(60)


def _until(condition: Callable[[], Any], what: str, workers: Any = ()) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert all(each.poll() is None for each in workers), "a worker has ended"
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.01)  # another process tells nobody


def _figures(queue: JobQueue, number: int, own: str, changed: float, all_: float) -> Figures:
    backend: Any = queue.backend
    jobs, errors = backend.tables.jobs, backend.tables.errors
    with backend.engine.connect() as connection:

        def counted(column: Any) -> dict[Any, int]:
            others = column.table.c.uid != own
            grouped = select(column, func.count()).where(others).group_by(column)
            return dict(connection.execute(grouped).all())

        # The class is the program's in one process, and the module's in another.
        raised = {
            path.rpartition(".")[2]: count
            for path, count in counted(errors.c.exception_class_path).items()
        }
        lease = select(jobs.c.lease).where(jobs.c.uid == own)
        [record] = [each for each in queue.audit() if each.action == "retry"]
        return Figures(
            number, record.changed, record.result, counted(jobs.c.attempts),
            raised, counted(jobs.c.state),
            connection.execute(lease).scalar_one(), changed, all_,
        )  # fmt: skip


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--db", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--serve", nargs=2, metavar=("URL", "PREFIX"))
    wanted = parser.parse_args()
    if wanted.serve:
        serve(*wanted.serve)
        return 0
    right = []
    for kind in wanted.db:
        with tempfile.TemporaryDirectory() as folder:
            found = retry_all(url_of(kind, Path(folder)), wanted.jobs)
        right.append(found.is_right)
        sys.stdout.write(
            f"{kind:<10} {found.changed:,} of {found.jobs:,} retried in "
            f"{found.change_seconds:.1f} s, all run in {found.seconds:.1f} s; attempts "
            f"{found.attempts}, failed again {found.failed_again:,}; "
            f"the audit says {found.result!r}: {'right' if found.is_right else 'WRONG'}\n"
        )
        sys.stdout.flush()
    return int(not all(right))


if __name__ == "__main__":
    sys.exit(main())
