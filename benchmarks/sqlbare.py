"""The raw limits: what the same work costs with nothing but a driver, or SQLAlchemy Core.

No call, no lease, no fence, no session, no scope, one thread: nobody can be far below them who
does the same statements. The table is the least that a queue has: a key, a call, a state, an
order, and the index that finds what is waiting.
"""

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
import transaction
import zope.sqlalchemy
from sqlalchemy.orm import scoped_session, sessionmaker

from sqljobs import CREATE_WRITTEN, NOTE, stamp, tick

#: how many jobs a bare loop claims, and marks, in one statement: larger brings nothing more
BATCH = 100

CREATE_JOBS = """create table jobs (
    uid varchar(60) primary key, target varchar(200) not null, arguments text not null,
    state varchar(12) not null, priority integer not null, enqueued_at double precision not null,
    number integer not null)"""
CREATE_INDEX = "create index waiting on jobs (priority desc, number) where state = 'ready'"
#: the same where an index has no condition
CREATE_WHOLE_INDEX = "create index waiting on jobs (state, priority desc, number)"

#: what a connection is asked for the durability of its commits, by its dialect
DURABILITY = {
    "sqlite": "pragma synchronous",
    "postgresql": "show synchronous_commit",
    "mysql": "select if(@@innodb_flush_log_at_trx_commit = 1 and @@sync_binlog >= @@log_bin,"
    " 'on', 'off')",
}

METADATA = sa.MetaData()
JOBS = sa.Table(
    "jobs",
    METADATA,
    *[sa.Column(name, sa.Text) for name in ("uid", "target", "arguments", "state")],
    sa.Column("priority", sa.Integer),
    sa.Column("enqueued_at", sa.Float),
    sa.Column("number", sa.Integer),
)
WRITTEN = sa.Table(
    "written", METADATA, sa.Column("number", sa.Integer), sa.Column("note", sa.String(40))
)
COUNT_WRITTEN = sa.select(sa.func.count()).select_from(WRITTEN)


def job_row(job: str, number: int) -> dict[str, Any]:
    """Give a row as any queue makes it: an unguessable key, the call as text."""
    return {
        "uid": f"asyncjob_{uuid.uuid4().hex}",
        "target": f"sqljobs:{job}",
        "arguments": json.dumps([[], {}]),
        "state": "ready",
        "priority": 0,
        "enqueued_at": time.time(),
        "number": number,
    }


def engine_for(url: str) -> sa.Engine:
    """Give an engine with durability on; SQLite in WAL mode, as the queues have it."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def durable(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")

    return engine


class Core:
    """SQLAlchemy Core: insert and commit."""

    def __init__(self, url: str, create: bool) -> None:
        self._engine = engine_for(url)
        with self._engine.begin() as connection:
            is_whole = self._engine.dialect.name == "mysql"
            index = CREATE_WHOLE_INDEX if is_whole else CREATE_INDEX
            for statement in (CREATE_JOBS, index, CREATE_WRITTEN):
                connection.execute(sa.text(statement))
        self._number = 0

    def enqueuer(self, job: str) -> Callable[[], Any]:
        insert = JOBS.insert()

        def enqueue() -> None:
            self._number += 1
            with self._engine.begin() as connection:
                connection.execute(insert, job_row(job, self._number))

        return enqueue

    def requester(self, job: str) -> Callable[[], Any]:
        insert, own = JOBS.insert(), WRITTEN.insert()

        def request() -> None:
            self._number += 1
            with self._engine.begin() as connection:
                connection.execute(own, {"number": self._number, "note": NOTE})
                connection.execute(insert, job_row(job, self._number))

        return request

    def enqueue_many(self, job: str, jobs: int) -> None:
        # numbers rise for ever: again from nought, the index would begin with all that is done
        first, self._number = self._number + 1, self._number + jobs
        rows = [job_row(job, number) for number in range(first, first + jobs)]
        with self._engine.begin() as connection:
            connection.execute(JOBS.insert(), rows)

    def durability(self) -> str:
        with self._engine.connect() as connection:
            asked = DURABILITY[connection.dialect.name]
            return str(connection.exec_driver_sql(asked).scalar())

    def written(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(COUNT_WRITTEN).scalar_one())

    def close(self) -> None:
        self._engine.dispose()


class Copy(Core):
    """COPY, the fastest way into a table of PostgreSQL, of the same rows."""

    def enqueue_many(self, job: str, jobs: int) -> None:
        first, self._number = self._number + 1, self._number + jobs
        with self._engine.begin() as connection:
            cursor = connection.connection.cursor()
            with cursor.copy(f"copy jobs ({', '.join(JOBS.c.keys())}) from stdin") as copy:
                for number in range(first, first + jobs):
                    copy.write_row(list(job_row(job, number).values()))


class Session(Core):
    """The same in a TurboGears application's session, which joins a transaction: where a request
    is before anything is added to it."""

    def __init__(self, url: str, create: bool) -> None:
        super().__init__(url, create)
        self._session = scoped_session(sessionmaker(bind=self._engine))
        zope.sqlalchemy.register(self._session)

    def requester(self, job: str) -> Callable[[], Any]:
        insert, own = JOBS.insert(), WRITTEN.insert()

        def request() -> None:
            self._number += 1
            self._session.execute(own, {"number": self._number, "note": NOTE})
            self._session.execute(insert, job_row(job, self._number))
            zope.sqlalchemy.mark_changed(self._session())
            transaction.commit()

        return request

    def close(self) -> None:
        self._session.remove()
        super().close()


class Loop:
    """A loop over one connection of the bare driver: claims in batches, in a thread of its own.

    A no-op job is marked with its batch; a job that inserts a row shares its commit with its mark.
    """

    claim = ""
    mark_one = "update jobs set state = 'done' where uid = ? and state = 'running'"
    insert = "insert into written values (?, ?)"

    def __init__(self, url: str, create: bool) -> None:
        self._core = Core(url, create)
        self.enqueue_many = self._core.enqueue_many
        self.durability = self._core.durability
        self.written = self._core.written
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection = self.connect()
        while rows := self.claimed(connection):
            writing = [uid for uid, call in rows if call == "sqljobs:write"]
            for uid in writing:
                self.begin(connection)
                connection.execute(self.insert, (1, NOTE))
                connection.execute(self.mark_one, (uid,))
                connection.commit()
                tick()
            if not writing:
                for _ in rows:
                    tick()
                self.mark(connection, [uid for uid, _ in rows])
        connection.close()

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.join(60)

    def unfinished(self) -> int:
        assert self._thread is not None
        return self._thread.is_alive()  # it ends when nothing is left

    def close(self) -> None:
        self._core.close()

    def connect(self) -> Any:
        raise NotImplementedError

    def begin(self, connection: Any) -> None:
        """Open a transaction where the driver does not do it at the first statement."""

    def claimed(self, connection: Any) -> list[tuple[str, str]]:
        raise NotImplementedError

    def mark(self, connection: Any, uids: list[str]) -> None:
        raise NotImplementedError


class SqliteLoop(Loop):
    """The standard library's sqlite3."""

    claim = f"""update jobs set state = 'running' where uid in (
        select uid from jobs where state = 'ready' order by priority desc, number limit {BATCH})
        returning uid, target"""

    def __init__(self, url: str, create: bool) -> None:
        super().__init__(url, create)
        self._path = sa.make_url(url).database

    def connect(self) -> sqlite3.Connection:
        assert self._path is not None
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("pragma synchronous = full")
        return connection

    def begin(self, connection: sqlite3.Connection) -> None:
        connection.execute("begin immediate")

    def claimed(self, connection: sqlite3.Connection) -> list[tuple[str, str]]:
        return connection.execute(self.claim).fetchall()

    def mark(self, connection: sqlite3.Connection, uids: list[str]) -> None:
        self.begin(connection)
        connection.executemany(self.mark_one, [(uid,) for uid in uids])
        connection.commit()


class PsycopgLoop(Loop):
    """psycopg, which prepares what it sees often."""

    claim = f"""update jobs set state = 'running' where uid in (
        select uid from jobs where state = 'ready' order by priority desc, number limit {BATCH}
        for update skip locked) returning uid, target"""
    mark_one = Loop.mark_one.replace("?", "%s")
    insert = Loop.insert.replace("?", "%s")
    mark_all = "update jobs set state = 'done' where uid = any(%s) and state = 'running'"

    def __init__(self, url: str, create: bool) -> None:
        super().__init__(url, create)
        self._dsn = url.replace("+psycopg", "")

    def connect(self) -> Any:
        import psycopg

        return psycopg.connect(self._dsn)

    def claimed(self, connection: Any) -> list[tuple[str, str]]:
        rows: list[tuple[str, str]] = connection.execute(self.claim).fetchall()
        connection.commit()
        return rows

    def mark(self, connection: Any, uids: list[str]) -> None:
        connection.execute(self.mark_all, (uids,))
        connection.commit()


class Notify:
    """An insert with NOTIFY and its commit in one process, LISTEN in another, and no more.

    Nothing is read from the table: the notification is the job.
    """

    CHANNEL = "asyncjob_benchmark"
    INSERT = (
        "insert into jobs values (%(uid)s, %(target)s, %(arguments)s, %(state)s, %(priority)s,"
        " %(enqueued_at)s, %(number)s)"
    )

    def __init__(self, url: str, create: bool) -> None:
        import psycopg

        self._connection = psycopg.connect(url.replace("+psycopg", ""))
        if create:
            self._connection.execute(CREATE_JOBS)
            self._connection.commit()
        self._stopped = threading.Event()

    def durability(self) -> str:
        row = self._connection.execute("show synchronous_commit").fetchone()
        self._connection.commit()
        return str(row and row[0])

    def timed(self, job: str) -> Callable[[], int]:
        """Give what enqueues once; it answers with the instant just before its commit."""

        def enqueue() -> int:
            self._connection.execute(self.INSERT, job_row(job, 0))
            self._connection.execute(f"notify {self.CHANNEL}")
            begun = time.monotonic_ns()
            self._connection.commit()
            return begun

        return enqueue

    def start(self) -> None:
        self._connection.autocommit = True
        self._connection.execute(f"listen {self.CHANNEL}")
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stopped.is_set():
            for _ in self._connection.notifies(timeout=0.5):
                self.heard()

    def heard(self) -> None:
        stamp()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(10)

    def close(self) -> None:
        self._connection.close()


class NotifyAndClaim(Notify):
    """What a queue with several workers cannot do without: an insert that notifies and commits by
    itself, and a claim of its row, on a connection of its own, which waits for no disk."""

    CHANNEL = "asyncjob_benchmark_claim"
    CLAIM = """update jobs set state = 'running' where uid in (
        select uid from jobs where state = 'ready' order by priority desc, number limit 1
        for update skip locked) returning uid, target, set_config('synchronous_commit', 'off', true)
        """

    def __init__(self, url: str, create: bool) -> None:
        import psycopg

        super().__init__(url, create)
        self._claiming = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        if create:
            self._claiming.execute(CREATE_INDEX)

    def timed(self, job: str) -> Callable[[], int]:
        """Give what enqueues once; it answers with the instant just before its one statement."""
        insert = f"{self.INSERT} returning pg_notify('{self.CHANNEL}', '')"

        def enqueue() -> int:
            row = job_row(job, 0)
            begun = time.monotonic_ns()
            self._claiming.execute(insert, row).fetchall()
            return begun

        return enqueue

    def heard(self) -> None:
        if self._claiming.execute(self.CLAIM).fetchall():
            stamp()

    def close(self) -> None:
        self._claiming.close()
        super().close()
