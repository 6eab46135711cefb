"""What a worker has left after many timeouts: threads, connections, files.

    PYTHONPATH=tests python -m crash.timeouts            some tens of each kind
    PYTHONPATH=tests python -m crash.timeouts --long     10,000 of each kind

A line for each kind and database. Exits with 0 if after the timeouts of every kind there is as
much as before, and never more threads than may hang.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import transaction
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.orm import scoped_session, sessionmaker
from zope.sqlalchemy import register

from databases import SERVERS, url_of
from tgext.asyncjob import JobQueue, asyncjob_session, task
from tgext.asyncjob.worker.timeouts import MOST_HUNG

#: Seconds of each job's timeout, and of a sleep in C that outlasts it and the grace after it.
TIMEOUT_SECONDS, SLEEP_SECONDS = 0.01, 0.35

#: Seconds in which what is left may go.
PATIENCE_SECONDS = 30.0

#: A name of the connections, in the server.
NAME = f"asyncjob_timeouts_{os.getpid()}"

THREADS_SHORT = 4
SHORT, LONG = 16, 10_000

#: A query that takes long, by the kind of database.
QUERIES = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    " SELECT max(i) FROM n",
    "postgresql": "SELECT pg_sleep(60)",
    # not sleep(): all of those share a lock of the server, for which a KILL of one waits
    "mariadb": f"SELECT get_lock('{NAME}', 60)",
}

#: What is held on another connection, so that the query waits for it.
HOLDS = {"mariadb": f"SELECT get_lock('{NAME}', 0)"}

CONNECTIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity"
    f" WHERE application_name = '{NAME}' AND pid <> pg_backend_pid()",
    "mariadb": "SELECT count(*) FROM information_schema.processlist"
    " WHERE db = database() AND id <> connection_id()",
}


def python() -> None:
    """Is in Python all the time."""
    while True:
        sum(range(100))


def c() -> None:
    """Waits in C, and is given up there."""
    time.sleep(SLEEP_SECONDS)


def swallowed() -> None:
    """Goes on whatever is raised in it."""
    while True:
        with suppress(Exception):
            time.sleep(0.02)


def in_query(query: str) -> None:
    """Waits for the database."""
    asyncjob_session().execute(text(query))


KINDS = {"Python": python, "C": c, "swallowed": swallowed, "in a query": in_query}

#: Of a long run: those in Python take turns, so that many would only wait for each other.
THREADS_LONG = {"Python": 4, "C": 40, "swallowed": 40, "in a query": 16}


class Held(NamedTuple):
    """What a process has."""

    threads: int
    connections: int
    files: int


#: What may be more than before: a pool opens connections as late as it can, with their files.
MORE = Held(threads=0, connections=4, files=12)


@dataclass
class Line:
    """What came of one kind on one database."""

    kind: str
    database: str
    timeouts: int
    before: Held
    after: Held
    most_threads: int
    seconds: float
    bound: int

    @property
    def is_right(self) -> bool:
        held = zip(self.after, self.before, MORE, strict=True)
        kept = all(after <= before + more for after, before, more in held)
        return kept and self.most_threads <= self.bound

    def __str__(self) -> str:
        pairs = zip(self.before, self.after, strict=True)
        held = "  ".join(f"{before:>5} {after:>5}" for before, after in pairs)
        wrong = "" if self.is_right else "  LEFT BEHIND"
        return (
            f"{self.kind:<12}{self.database:<12}{self.timeouts:>7}  {held}"
            f"{self.most_threads:>7}{self.seconds:>8.1f}{wrong}"
        )


HEAD = (
    f"{'kind':<12}{'database':<12}{'number':>7}  {'threads':<13}{'connections':<13}"
    f"{'files':<11}{'most':>7}{'seconds':>8}"
)


class Worker:
    """A queue that works in this process, with as many connections as it has threads."""

    def __init__(self, kind: str, folder: Path, threads: int) -> None:
        self.kind = kind
        self._threads = threads
        self._url = make_url(url_of(kind, folder))
        if kind == "postgresql":
            self._url = self._url.update_query_dict({"application_name": NAME})
        self._engine = create_engine(self._url, pool_size=threads, max_overflow=threads)
        self._look: Engine = create_engine(self._url, poolclass=NullPool)
        self._holder = self._look.connect()
        if kind in HOLDS:
            self._holder.execute(text(HOLDS[kind]))
        session = scoped_session(sessionmaker(bind=self._engine))
        register(session)
        self.queue = JobQueue(
            "sql", session=session, threads=threads, drain_timeout=2,
            table_prefix=f"t{uuid.uuid4().hex[:8]}_",
        )  # fmt: skip

    @property
    def bound(self) -> int:
        """Threads that there may be: the worker's, those that hang, and what sees to them."""
        return self._threads + max(MOST_HUNG, 2 * self._threads) + self._threads + 10

    def held(self) -> Held:
        """What there is at this moment."""
        return Held(threading.active_count(), self._connections(), len(os.listdir("/proc/self/fd")))

    def _connections(self) -> int:
        if self.kind not in CONNECTIONS:
            return self._engine.pool.checkedout()  # type: ignore[attr-defined]
        with self._look.connect() as connection:
            return int(connection.execute(text(CONNECTIONS[self.kind])).scalar_one())

    def time_out(self, name: str, number: int) -> Line:
        """Let so many jobs of a kind be over their time."""
        self._run(name, self._threads * 2)
        self._fill_pool()
        before = self._rest(None)
        failed, began = self._counts()["FAILED"], time.monotonic()
        most = self._run(name, number)
        seconds = time.monotonic() - began
        after = self._rest(before)
        # On a machine that is too busy a short job may end before anybody looks at it.
        number = self._counts()["FAILED"] - failed
        return Line(name, self.kind, number, before, after, most, seconds, self.bound)

    def _fill_pool(self) -> None:
        """Open as many connections as the pool keeps, so that it opens no more of them later."""
        connections = [self._engine.connect() for _ in range(self._threads)]
        for connection in connections:
            connection.close()

    def _run(self, name: str, number: int) -> int:
        """Run them; return how many threads there were at the most."""
        job = task(timeout=TIMEOUT_SECONDS)(KINDS[name])
        args = (QUERIES[self.kind],) if KINDS[name] is in_query else ()
        with self.queue.as_current(), self.queue.in_transaction():
            for _ in range(number):
                job.enqueue(*args)
            transaction.commit()
        most = 0
        while self._counts()["READY"] + self._counts()["RUNNING"]:
            most = max(most, threading.active_count())
            time.sleep(0.05)
        return most

    def _counts(self) -> dict[str, int]:
        return {status.value: count for status, count in self.queue.backend.counts().items()}

    def _rest(self, before: Held | None) -> Held:
        """What there is once nothing changes any more, or is as before."""
        until, last, same = time.monotonic() + PATIENCE_SECONDS, self.held(), 0
        while time.monotonic() < until and same < 20:
            time.sleep(0.1)
            now = self.held()
            same = same + 1 if now == last else 0
            last = now
            if before is not None and all(a <= b for a, b in zip(now, before, strict=True)):
                break
        return last

    def close(self) -> None:
        """End it, and drop its tables."""
        tables = self.queue.backend.tables  # type: ignore[attr-defined]
        self.queue.close()
        self._holder.close()
        tables.metadata.drop_all(self._look)
        self._engine.dispose()


@contextmanager
def worker(kind: str, threads: int) -> Iterator[Worker]:
    """One at work."""
    with tempfile.TemporaryDirectory() as folder:
        made = Worker(kind, Path(folder), threads)
        made.queue.start_worker()
        try:
            yield made
        finally:
            made.close()


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="crash.timeouts", description=__doc__.partition("\n")[0])
    parser.add_argument("--db", default="sqlite,postgresql", help="names, with commas")
    parser.add_argument("--long", action="store_true", help=f"{LONG:,} of each kind")
    wanted = parser.parse_args()
    unknown = set(wanted.db.split(",")) - {"sqlite", *SERVERS}
    if unknown:
        parser.error(f"--db: expected some of sqlite, {', '.join(SERVERS)}, got {wanted.db!r}")
    logging.disable(logging.CRITICAL)  # a line for each
    number = LONG if wanted.long else SHORT
    _say(HEAD)
    right = True
    for kind in wanted.db.split(","):
        for name in KINDS:
            with worker(kind, THREADS_LONG[name] if wanted.long else THREADS_SHORT) as made:
                line = made.time_out(name, number)
            _say(str(line))
            right = right and line.is_right
    return int(not right)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
