"""This project's durable backend, with session scope, fence, results and progress as they come."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
import transaction

import sqljobs
from sqlbare import COUNT_WRITTEN, DURABILITY, WRITTEN
from sqljobs import CREATE_WRITTEN, NOTE, TALLY
from tgext.asyncjob import JobQueue, asyncjob_session, task

#: the template of a standing backlog, and how low its priority is
LOW = -50
OWN_ROW = WRITTEN.insert()


@task(priority=LOW)
def linger() -> None:
    sqljobs.linger()


def write() -> None:
    """Insert a row with the session whose commit carries the job's mark."""
    asyncjob_session().execute(OWN_ROW, {"number": 1, "note": NOTE})
    TALLY.count()


JOBS = {"tick": sqljobs.tick, "stamp": sqljobs.stamp, "write": write}
TASKS = {"tick": task(sqljobs.tick)}


class Ours:
    """A queue that enqueues, and for each run of a worker another one, as in its own process.

    signed: 1, as where an application has a secret; 0 for a backlog, whose rows are copies of
    one: a signature is of one job's uid.
    """

    def __init__(self, url: str, create: bool, threads: int, signed: int) -> None:
        # what its log asks for: a writer on SQLite waits for the others
        self._url = f"{url}?timeout=30" if url.startswith("sqlite") else url
        self._secret = "benchmark" if signed else None
        self._threads = threads
        self._queue = self._made(0)
        self._engine = self._queue.session.get_bind()
        self._worker: JobQueue | None = None
        self._before = 0
        if create:
            with self._engine.begin() as connection:
                connection.execute(sa.text(CREATE_WRITTEN))

    def _made(self, threads: int) -> JobQueue:
        return JobQueue("sql", url=self._url, secret=self._secret, threads=threads)

    def durability(self) -> str:
        """Ask on the connection that a request, or a job, commits on."""
        asked = DURABILITY[self._engine.dialect.name]
        found = self._queue.session().execute(sa.text(asked)).scalar()
        transaction.abort()
        return str(found)

    def enqueuer(self, job: str) -> Callable[[], Any]:
        perform, call = self._queue.perform, JOBS[job]
        return lambda: perform(call)

    def requester(self, job: str) -> Callable[[], Any]:
        queue, call = self._queue, JOBS[job]

        def request() -> None:
            with queue.in_transaction():
                queue.session.execute(OWN_ROW, {"number": 1, "note": NOTE})
                queue.perform(call)
                transaction.commit()

        return request

    def timed(self, job: str) -> Callable[[], int]:
        """Give what enqueues once; it answers with the instant just before its commit."""
        queue, call = self._queue, JOBS[job]

        def timed() -> int:
            with queue.in_transaction():
                queue.perform(call)
                begun = time.monotonic_ns()
                transaction.commit()
            return begun

        return timed

    def enqueue_many(self, job: str, jobs: int) -> None:
        self._before = self._last()
        with self._queue.in_transaction():
            self._queue.perform_many(JOBS[job], [()] * jobs)
            transaction.commit()

    def fill(self, jobs: int) -> None:
        """Half delayed by a day, half of a lower priority: copies of two that were enqueued."""
        with self._queue.as_current():
            uids = [linger.enqueue().id, linger.using(run_after=timedelta(days=1)).enqueue().id]
        table = sa.Table("asyncjob_jobs", sa.MetaData(), autoload_with=self._engine)
        copied = ", ".join(c.name for c in table.columns if c.name not in ("number", "uid"))
        counted = (
            "(with recursive n(i) as (select 1 union all select i + 1 from n where i < :half)"
            " select i from n)"
            if self._engine.dialect.name == "sqlite"
            else "(select i from generate_series(1, :half) i)"
        )
        statement = sa.text(
            f"insert into asyncjob_jobs (uid, {copied})"
            f" select uid || '_' || numbers.i, {copied}"
            f" from asyncjob_jobs, {counted} numbers where uid = :uid"
        )
        for uid in uids:
            with self._engine.begin() as connection:
                connection.execute(statement, {"half": jobs // 2, "uid": uid})
        with self._engine.begin() as connection:
            connection.execute(sa.text("analyze asyncjob_jobs"))

    def start(self) -> None:
        self._worker = self._made(self._threads)
        self._worker.start_worker()

    def stop(self) -> None:
        assert self._worker is not None
        self._worker.close()

    def unfinished(self) -> bool:
        statement = "select count(*) from asyncjob_jobs where number > :n and finished_at is null"
        with self._engine.connect() as connection:
            return bool(connection.execute(sa.text(statement), {"n": self._before}).scalar())

    def _last(self) -> int:
        with self._engine.connect() as connection:
            last = connection.execute(sa.text("select max(number) from asyncjob_jobs")).scalar()
        return int(last or 0)

    def written(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(COUNT_WRITTEN).scalar_one())

    def close(self) -> None:
        self._queue.close()


class OursByTask(Ours):
    """The same where the jobs of a transaction are of a task, and their results are kept."""

    def enqueue_many(self, job: str, jobs: int) -> None:
        with self._queue.as_current(), self._queue.in_transaction():
            self._results = TASKS[job].enqueue_many([()] * jobs)
            transaction.commit()
