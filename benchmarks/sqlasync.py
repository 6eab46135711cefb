"""PgQueuer, Procrastinate and chancy, each as fast as its documentation says how.

Enqueued from synchronous code, as a WSGI application does it, on one psycopg connection that
stays open. Their workers run coroutines on uvloop, in a thread of this process. None of them
commits a job's row together with the job's mark, so a job that inserts one commits it on a
connection of its own (asyncpg, pooled): at least once.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import psycopg
import uvloop
from psycopg.rows import dict_row

from sqljobs import CREATE_WRITTEN, NOTE, TALLY, linger, stamp

#: connections for the rows of jobs; more bring nothing on 2 cores
ROW_CONNECTIONS = 8
OWN_ROW = "insert into written values (%s, %s)"

# a worker that is told to stop breaks off its idle queries, which psycopg remarks on
logging.getLogger("psycopg").setLevel(logging.CRITICAL)

_rows: asyncpg.Pool | None = None


async def tick_job(*_: Any) -> None:
    TALLY.count()


async def stamp_job(*_: Any) -> None:
    stamp()


async def linger_job(*_: Any) -> None:
    linger()


async def write_job(*_: Any) -> None:
    assert _rows is not None
    await _rows.execute("insert into written values ($1, $2)", 1, NOTE)
    TALLY.count()


JOBS = {"tick": tick_job, "stamp": stamp_job, "linger": linger_job, "write": write_job}


class OnLoop:
    """What the three share: a connection to enqueue on, and a worker on a loop in a thread."""

    #: which of the measured jobs are unfinished; finds its rows by the key alone
    left = ""

    def __init__(self, url: str, create: bool) -> None:
        self._url = url.replace("+psycopg", "")
        self._connection = psycopg.connect(self._url, autocommit=True)
        if create:
            self._connection.execute(CREATE_WRITTEN)
        self._thread: threading.Thread | None = None

    def durability(self) -> str:
        return str(self._one("show synchronous_commit"))

    def unfinished(self) -> bool:
        return bool(self._one(f"select exists({self.left})"))

    def written(self) -> int:
        return int(self._one("select count(*) from written"))

    def _one(self, statement: str) -> Any:
        row = self._connection.execute(statement).fetchone()
        assert row is not None
        return row[0]

    def start(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: uvloop.run(self._run()), name="worker", daemon=True
        )
        self._thread.start()
        if not self._ready.wait(30):
            raise RuntimeError("expected the worker to start, it did not in 30 s")

    async def _run(self) -> None:
        global _rows
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with asyncpg.create_pool(self._url, min_size=1, max_size=ROW_CONNECTIONS) as _rows:
            await self.work(self._stop, self._ready.set)

    def stop(self) -> None:
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)

    def close(self) -> None:
        self._connection.close()

    def enqueuer(self, job: str) -> Callable[[], Any]:
        enqueue = self.inserter(self._connection, job)

        def committed() -> None:
            # chancy notifies with a statement of its own, so it needs the transaction
            with self._connection.transaction():
                enqueue()

        return committed

    def requester(self, job: str) -> Callable[[], Any]:
        enqueue = self.inserter(self._connection, job)

        def request() -> None:
            with self._connection.transaction():
                self._connection.execute(OWN_ROW, (1, NOTE))
                enqueue()

        return request

    def timed(self, job: str) -> Callable[[], int]:
        """Give what enqueues once; it answers with the instant just before its commit."""
        enqueue = self.inserter(self._connection, job)

        def timed() -> int:
            with self._connection.transaction():
                enqueue()
                begun = time.monotonic_ns()
            return begun

        return timed

    def inserter(self, connection: Any, job: str) -> Callable[[], Any]:
        raise NotImplementedError

    async def work(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        raise NotImplementedError


class PgQueuer(OnLoop):
    """On asyncpg, as its own benchmark has it; tables are LOGGED (durability "durable").

    That benchmark has 5 dequeuers in a process, with batches of 10; here one with batches of
    1000 is nearly twice as fast, and more than one then bring nothing.
    """

    left = "select from pgqueuer where id > {first}"

    def __init__(self, url: str, create: bool, dequeuers: int, batch: int) -> None:
        super().__init__(url, create)
        self._dequeuers = dequeuers
        self._batch = batch
        from pgqueuer.db import SyncPsycopgDriver
        from pgqueuer.queries import Queries, SyncQueries

        logging.getLogger("pgqueuer").setLevel(logging.ERROR)
        self._queries = SyncQueries(SyncPsycopgDriver(self._connection))
        self.left = self.left.format(first=0)
        if create:

            async def install() -> None:
                connection = await asyncpg.connect(self._url)
                await Queries.from_asyncpg_connection(connection).install()
                await connection.close()

            asyncio.run(install())

    def inserter(self, connection: Any, job: str) -> Callable[[], Any]:
        return lambda: self._queries.enqueue(job, None)

    def enqueuer(self, job: str) -> Callable[[], Any]:
        return lambda: self._queries.enqueue(job, None)  # one statement: autocommit

    def enqueue_many(self, job: str, jobs: int) -> None:
        self._queries.enqueue([job] * jobs, [None] * jobs, [0] * jobs)

    def fill(self, jobs: int) -> None:
        self._connection.execute(
            "insert into pgqueuer (priority, entrypoint, status, execute_after)"
            " select -(n % 2), 'linger', 'queued', now() + (1 - n % 2) * interval '1 day'"
            f" from generate_series(1, {jobs}) n"
        )
        self.left = type(self).left.format(first=self._one("select max(id) from pgqueuer"))

    async def work(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        from pgqueuer.db import AsyncpgDriver
        from pgqueuer.qm import QueueManager
        from pgqueuer.queries import Queries

        connections = [await asyncpg.connect(self._url) for _ in range(self._dequeuers)]
        managers = [QueueManager(Queries(AsyncpgDriver(each))) for each in connections]
        for manager in managers:
            for name, job in JOBS.items():
                manager.entrypoint(name, accepts_context=False)(job)
        runs = [asyncio.create_task(each.run(batch_size=self._batch)) for each in managers]
        ready()
        await stop.wait()
        for manager in managers:
            manager.shutdown.set()
        await asyncio.gather(*runs)
        for each in connections:
            await each.close()


class Procrastinate(OnLoop):
    """A worker with concurrency, as its documentation advises for coroutines.

    It claims one job a query, whatever the concurrency; beyond 30 nothing is won. Done jobs stay,
    as by default.
    """

    CONCURRENCY = 30
    left = "select from procrastinate_jobs where id > {first} and status in ('todo', 'doing')"

    def __init__(self, url: str, create: bool) -> None:
        super().__init__(url, create)
        import procrastinate

        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        # opening one of them for coroutines would close what synchronous code uses
        self._app = procrastinate.App(
            connector=procrastinate.SyncPsycopgConnector(conninfo=self._url)
        )
        self._working = procrastinate.App(
            connector=procrastinate.PsycopgConnector(
                conninfo=self._url, max_size=self.CONCURRENCY + 5
            )
        )
        for app in (self._app, self._working):
            for name, job in JOBS.items():
                app.task(name=name, queue="benchmark")(job)
        self.left = self.left.format(first=0)
        self._app.open()
        if create:
            self._app.schema_manager.apply_schema()

    def inserter(self, connection: Any, job: str) -> Callable[[], Any]:
        deferrer = self._app.configure_task(job, queue="benchmark", connection=connection)
        return deferrer.defer

    def enqueue_many(self, job: str, jobs: int) -> None:
        self._app.configure_task(job, queue="benchmark").batch_defer(*[{}] * jobs)

    def fill(self, jobs: int) -> None:
        # its triggers would write a second million rows
        self._connection.execute("alter table procrastinate_jobs disable trigger user")
        self._connection.execute(
            "insert into procrastinate_jobs (queue_name, task_name, priority, scheduled_at)"
            " select 'benchmark', 'linger', -(n % 2),"
            " case when n % 2 = 0 then now() + interval '1 day' end"
            f" from generate_series(1, {jobs}) n"
        )
        self._connection.execute("alter table procrastinate_jobs enable trigger user")
        last = self._one("select max(id) from procrastinate_jobs")
        self.left = type(self).left.format(first=last)

    async def work(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        async with self._working.open_async():
            run = asyncio.create_task(
                self._working.run_worker_async(
                    concurrency=self.CONCURRENCY, install_signal_handlers=False
                )
            )
            ready()
            await stop.wait()
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)

    def close(self) -> None:
        self._app.close()
        super().close()


class Chancy(OnLoop):
    """Its executor for coroutines, eager polling, and updates sent ten times a second.

    Marks are written in batches up to a second after the job, unless told otherwise: a tenth
    of that makes it faster here.
    """

    CONCURRENCY = 1000
    SEND_SECONDS = 0.1
    left = (
        "select from chancy_jobs where id > '01000000-0000-0000-0000-000000000000'"
        " and state in ('pending', 'running', 'retrying')"
    )

    def __init__(self, url: str, create: bool) -> None:
        super().__init__(url, create)
        from chancy import Chancy as Application
        from chancy import Job, Queue

        self._log = logging.getLogger("chancy benchmark")
        self._log.setLevel(logging.ERROR)
        self._make = lambda: Application(self._url, log=self._log)
        self._application = self._make()
        self._jobs = {name: Job.from_func(job) for name, job in JOBS.items()}
        self._cursor = self._connection.cursor(row_factory=dict_row)
        if create:

            async def install() -> None:
                async with self._make() as application:
                    await application.migrate()
                    await application.declare(
                        Queue(
                            "default",  # or its worker would start processes for that one
                            concurrency=self.CONCURRENCY,
                            executor=Application.Executor.Async,
                            polling_interval=1,
                            eager_polling=True,
                        )
                    )

            asyncio.run(install())

    def inserter(self, connection: Any, job: str) -> Callable[[], Any]:
        one = [self._jobs[job]]
        return lambda: self._application.sync_push_many_ex(self._cursor, one)

    def enqueue_many(self, job: str, jobs: int) -> None:
        with self._connection.transaction():
            self._application.sync_push_many_ex(self._cursor, [self._jobs[job]] * jobs)

    def fill(self, jobs: int) -> None:
        # keys below those that it makes itself, which begin with the time
        self._connection.execute(
            "insert into chancy_jobs (id, queue, func, priority, scheduled_at)"
            " select lpad(to_hex(n), 32, '0')::uuid, 'default', 'sqlasync.linger_job', -(n % 2),"
            f" now() + (1 - n % 2) * interval '1 day' from generate_series(1, {jobs}) n"
        )

    async def work(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        from chancy import Worker

        async with self._make() as application:
            worker = Worker(application, register_signal_handlers=False)
            worker.send_outgoing_interval = self.SEND_SECONDS
            await worker.start()
            ready()
            await stop.wait()
            await worker.stop()
