"""Huey on its SQLite storage, with its own consumer in threads of this process.

Durability on: `fsync=True` is `pragma synchronous = 2`, FULL; the journal is in WAL mode. Huey
deletes a job's row when it claims it, so it has no mark to write, and a crash loses the job.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import huey
import sqlalchemy as sa
from huey.consumer import Consumer

from sqlbare import COUNT_WRITTEN, WRITTEN, engine_for
from sqljobs import CREATE_WRITTEN, NOTE, TALLY, linger, stamp, tick


class Huey:
    """One worker thread is the fastest here: more queue up at its exclusive transactions.

    An idle worker looks again after 1 to 10 ms, where the defaults are 100 ms to 10 s.
    """

    def __init__(self, url: str, create: bool, threads: int = 1) -> None:
        logging.getLogger("huey").setLevel(logging.ERROR)
        path = sa.make_url(url).database
        self._threads = threads
        self._huey = huey.SqliteHuey("benchmark", filename=path, fsync=True, results=False)
        self._engine = engine_for(url.replace(".db", "-application.db"))
        if create:
            with self._engine.begin() as connection:
                connection.execute(sa.text(CREATE_WRITTEN))
        insert = WRITTEN.insert()

        def write() -> None:
            with self._engine.begin() as connection:
                connection.execute(insert, {"number": 1, "note": NOTE})
            TALLY.count()

        self._tasks = {job.__name__: self._huey.task()(job) for job in (tick, stamp, linger, write)}

    def durability(self) -> str:
        return str(self._huey.storage.sql("pragma synchronous", results=True)[0][0])

    def enqueuer(self, job: str) -> Callable[[], Any]:
        task: Callable[[], Any] = self._tasks[job]
        return task

    def requester(self, job: str) -> Callable[[], Any]:
        """Two transactions, since Huey's storage has a connection of its own.

        The row is in another file, so that neither waits for the other's lock.
        """
        task, insert = self._tasks[job], WRITTEN.insert()

        def request() -> None:
            with self._engine.begin() as connection:
                connection.execute(insert, {"number": 1, "note": NOTE})
            task()

        return request

    def timed(self, job: str) -> Callable[[], int]:
        task = self._tasks[job]

        def timed() -> int:
            begun = time.monotonic_ns()
            task()
            return begun

        return timed

    def enqueue_many(self, job: str, jobs: int) -> None:
        task = self._tasks[job]
        for _ in range(jobs):
            task()

    def fill(self, jobs: int) -> None:
        """Half delayed by a day, half of a lower priority: Huey keeps them in two tables."""
        template = self._huey.serialize_task(self._tasks["linger"].s(priority=-1))
        numbers = (
            f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {jobs // 2})"
        )
        storage = self._huey.storage
        storage.sql(
            f"{numbers} insert into task (queue, data, priority) select ?, ?, -1 from n",
            (storage.name, template),
            commit=True,
        )
        storage.sql(
            f"{numbers} insert into schedule (queue, data, timestamp) select ?, ?, ? from n",
            (storage.name, template, time.time() + 86400),
            commit=True,
        )

    def start(self) -> None:
        self._consumer = Consumer(
            self._huey,
            workers=self._threads,
            periodic=False,
            initial_delay=0.001,
            max_delay=0.01,
        )
        # start() would take the signals of this process, which are not the consumer's
        self._consumer._set_signal_handlers = lambda: None
        self._consumer.start()

    def stop(self) -> None:
        self._consumer.stop(graceful=True)

    def unfinished(self) -> bool:
        return False  # nothing is written after a job

    def written(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(COUNT_WRITTEN).scalar_one())

    def close(self) -> None:
        self._huey.storage.close()
        self._engine.dispose()
