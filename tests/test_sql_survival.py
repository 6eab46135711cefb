"""Databases that go away, say no, or hang: nothing is lost, nothing is done twice."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import transaction
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool
from zope.sqlalchemy import mark_changed

from databases import begin_at_the_first_statement
from needs import need
from own_servers import OwnServer, OwnServers
from tgext.asyncjob import JobQueue, Progress, TaskResult, TaskResultStatus, asyncjob_session

pytestmark = pytest.mark.slow

SUCCESSFUL, FAILED = TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED

#: How long anything here may take that has to happen, in seconds.
PATIENCE = 20.0

#: One for all tests, each of which has a database of its own: their statements are compiled once.
PREFIX = "survival_"

servers = pytest.mark.parametrize("kind", ["postgresql", "mariadb"])


@pytest.fixture(scope="module")
def kept() -> Iterator[OwnServers]:
    with OwnServers() as made:
        yield made


@pytest.fixture
def server(kind: str, kept: OwnServers) -> OwnServer:
    """A server that answers and is empty, whatever the test before has done to it."""
    return kept.emptied(kind)


class Heard(logging.Handler):
    """What the library says in the log, to be waited for."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._said: list[str] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self._said.append(record.getMessage())
            self._changed.notify_all()

    def has_said(self, words: str) -> bool:
        return any(words in said for said in self._said)

    def wait_for(self, words: str) -> None:
        with self._changed:
            found = self._changed.wait_for(
                lambda: any(words in said for said in self._said), PATIENCE
            )
        assert found, f"nobody said {words!r}, but {self._said}"


@pytest.fixture
def heard() -> Iterator[Heard]:
    made, logger = Heard(), logging.getLogger("tgext.asyncjob")
    before = logger.level
    logger.addHandler(made)
    logger.setLevel(logging.INFO)
    yield made
    logger.removeHandler(made)
    logger.setLevel(before)


# -- the jobs: what they share with the test stands in this process


@dataclass
class Stage:
    """Where a test and its jobs meet; made anew for each test."""

    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    both: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))
    tries: list[int] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    interrupted: threading.Event = field(default_factory=threading.Event)
    pids: list[int] = field(default_factory=list)


stage = Stage()


@pytest.fixture(autouse=True)
def _new_stage() -> Iterator[None]:
    global stage
    stage = Stage()
    yield
    stage.go_on.set()


def write(number: int) -> None:
    """Do once what must be there once."""
    session = asyncjob_session()
    session.execute(text("INSERT INTO ledger VALUES (:number)"), {"number": number})
    session.execute(text("UPDATE counters SET value = value + 1 WHERE id = 1"))


def write_around_a_pause(number: int) -> None:
    """Write, let the test do its worst, and go on with the same transaction."""
    asyncjob_session().execute(text("INSERT INTO ledger VALUES (:number)"), {"number": number})
    if not stage.tries:
        asyncjob_session().execute(text("SELECT 1"))
    stage.tries.append(number)
    stage.begun.set()
    assert stage.go_on.wait(PATIENCE)
    asyncjob_session().execute(text("UPDATE counters SET value = value + 1 WHERE id = 1"))


def write_after_a_pause(number: int) -> None:
    """Let the test do its worst, and write."""
    stage.begun.set()
    assert stage.go_on.wait(PATIENCE)
    write(number)


def tell_its_connection(number: int) -> None:
    asks = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
    session = asyncjob_session()
    found = session.execute(text(asks[session.connection().dialect.name])).scalar()
    stage.pids.append(found)
    write_around_a_pause(number)


def update_two(first: int, second: int) -> None:
    """Take the locks of two rows one after the other, and the first time not too fast."""
    session, add = asyncjob_session(), text("UPDATE counters SET value = value + 1 WHERE id = :id")
    session.execute(add, {"id": first})
    stage.tries.append(first)
    if len(stage.tries) <= 2:
        stage.both.wait(PATIENCE)
    session.execute(add, {"id": second})


def write_impatiently(number: int) -> None:
    stage.tries.append(number)
    session = asyncjob_session()
    name = session.connection().dialect.name
    if name == "postgresql":
        session.execute(text("SET LOCAL lock_timeout = '50ms'"))
    elif name == "mysql":
        session.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))
    write(number)


def read_then_write(number: int) -> None:
    """Count up by what was read: right only if nobody writes in between."""
    session = asyncjob_session()
    value = session.execute(text("SELECT value FROM counters WHERE id = 1")).scalar()
    session.execute(text("INSERT INTO ledger VALUES (:number)"), {"number": number})
    session.execute(text("UPDATE counters SET value = :value WHERE id = 1"), {"value": value + 1})


def write_and_compute(number: int) -> None:
    """Use the database, and then long nothing but the processor."""
    write(number)
    stage.tries.append(number)
    stage.begun.set()
    try:
        while not stage.go_on.wait(0.01):
            pass
    except BaseException as error:
        stage.raised.append(type(error).__name__)
        stage.interrupted.set()
        raise


# -- the application


class Application:
    """A queue with a worker on a database, a ledger, and three counters."""

    def __init__(self, url: str, engine: Engine | None = None, **options: Any) -> None:
        self.url = url
        self._executed = 0  #: statements begun or ended, but those of ``read`` and ``run``
        self._executes = threading.Condition()
        self._apart = create_engine(url, poolclass=NullPool)
        for moment in ("before_cursor_execute", "after_cursor_execute"):
            event.listen(Engine, moment, self._note)
        with self._apart.begin() as connection:
            # A primary key: twice is an error. InnoDB's, so that a rollback is one.
            connection.execute(text("CREATE TABLE ledger (number INTEGER PRIMARY KEY)"))
            connection.execute(
                text("CREATE TABLE counters (id INTEGER PRIMARY KEY, value INTEGER NOT NULL)")
            )
            connection.execute(text("INSERT INTO counters VALUES (1, 0), (2, 0), (3, 0)"))
        self.options = {"threads": 2, "secret": "swordfish", "table_prefix": PREFIX, **options}
        session = None if engine is None else _session_on(engine)
        self.queue = JobQueue("sql", session, url=url, **self.options)
        self.queue.start_worker()

    def perform(self, job: Callable[..., None], *args: Any) -> TaskResult:
        return self.queue.result(self.queue.perform(job, *args))

    def perform_again(self, job: Callable[..., None], *args: Any) -> TaskResult:
        """Enqueue as a user does who tries again: a pooled connection may be an old one."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self.perform(job, *args)
            except OperationalError:
                assert time.monotonic() < until

    def until(self, found: Callable[[], Any]) -> Any:
        """Ask until the answer is something: again after each statement of the queue's, for only
        the server knows."""
        until = time.monotonic() + PATIENCE
        while True:
            executed = self._executed
            if answer := found():
                return answer
            with self._executes:
                assert self._executes.wait_for(
                    lambda before=executed: self._executed > before, until - time.monotonic()
                ), "it never came"

    def _note(self, connection: Connection, *_execution: Any) -> None:
        if connection.engine is not self._apart:
            with self._executes:
                self._executed += 1
                self._executes.notify_all()

    def close(self) -> None:
        self.queue.close()
        for moment in ("before_cursor_execute", "after_cursor_execute"):
            event.remove(Engine, moment, self._note)

    def read(self, query: str) -> list[Any]:
        with self._apart.connect() as connection:
            return list(connection.execute(text(query)).scalars())

    def run(self, statement: str) -> None:
        with self._apart.begin() as connection:
            connection.execute(text(statement))

    @contextmanager
    def holding(self, statement: str) -> Iterator[Callable[[], None]]:
        """Hold the locks of a statement, until what is given is called."""
        with self._apart.connect() as connection:
            held = connection.begin()
            connection.execute(text(statement))
            yield held.rollback
            if held.is_active:
                held.rollback()

    @contextmanager
    def elsewhere(self) -> Iterator[JobQueue]:
        """A queue as another process would have it, without a worker."""
        with JobQueue("sql", url=self.url, **{**self.options, "threads": 0}) as made:
            yield made


@contextmanager
def application(url: str, engine: Engine | None = None, **options: Any) -> Iterator[Application]:
    made = Application(url, engine, **options)
    try:
        yield made
    finally:
        stage.go_on.set()
        made.close()
        if engine is not None:
            made.queue.session.remove()
            engine.dispose()


def _session_on(engine: Engine) -> Any:
    from tgext.asyncjob.transactions.sessions import session_on

    return session_on(engine)


def assert_all_done_once(app: Application, results: list[TaskResult]) -> None:
    """Each has succeeded in its first attempt, and has left its one row."""
    with app.elsewhere() as other:  # whose connections know of nothing
        ended = [other.result(result.id).wait(PATIENCE) for result in results]
    assert {result.status for result in ended} == {SUCCESSFUL}
    assert {result.attempts for result in ended} == {1}
    assert len(app.read("SELECT number FROM ledger")) == len(results)


# -- a server that goes away


@servers
def test_a_restart_of_the_server_in_the_middle_of_a_run_loses_nothing(
    server: OwnServer, heard: Heard
) -> None:
    with application(server.url) as app:
        results = [app.perform(write, number) for number in range(1, 31)]
        results.append(app.perform(write_around_a_pause, 0))
        results += [app.perform(write, number) for number in range(31, 61)]
        assert stage.begun.wait(PATIENCE)

        server.kill()
        stage.go_on.set()
        server.start()

        assert_all_done_once(app, results)
        assert app.read("SELECT value FROM counters WHERE id = 1") == [61]
        assert app.perform_again(write, 999).wait(PATIENCE).status is SUCCESSFUL


@servers
def test_a_server_that_is_away_for_longer_than_a_job_tries_loses_nothing(
    server: OwnServer, heard: Heard
) -> None:
    with application(server.url) as app:
        results = [app.perform(write_around_a_pause, 0)]
        results += [app.perform(write, number) for number in range(1, 20)]
        assert stage.begun.wait(PATIENCE)

        server.kill()
        stage.go_on.set()
        heard.wait_for("cannot store what became of jobs")
        server.start()

        assert_all_done_once(app, results)


@servers
def test_a_job_whose_writes_the_server_refuses_for_a_while_runs_again(
    server: OwnServer, heard: Heard
) -> None:
    with application(_url_of_a_user(server)) as app:
        results = [app.perform(write_after_a_pause, 0)]
        assert stage.begun.wait(PATIENCE)

        server.read_only(True)
        stage.go_on.set()
        heard.wait_for("lost its database")
        server.read_only(False)

        assert_all_done_once(app, results)


def _url_of_a_user(server: OwnServer) -> str:
    """Root may write on MariaDB where nobody else may. The URL is as most have it: with TLS, where
    the server has it."""
    if server.kind != "mariadb":
        return server.url
    engine = create_engine(server.url)
    with engine.begin() as connection:
        for statement in ("CREATE USER 'user'@'%s'", "GRANT ALL ON test.* TO 'user'@'%s'"):
            for host in ("localhost", "127.0.0.1"):
                connection.exec_driver_sql(statement.replace("%s", host))
    engine.dispose()
    return server.url.replace("//root@", "//user@").removesuffix("?ssl_disabled=1")


@servers
def test_an_enqueue_while_the_server_is_away_raises_the_databases_own_error(
    server: OwnServer,
) -> None:
    with application(server.url) as app:
        assert app.perform(write, 1).wait(PATIENCE).status is SUCCESSFUL
        server.kill()

        with pytest.raises(OperationalError):
            app.queue.perform(write, 2)

        server.start()
        assert app.perform_again(write, 3).wait(PATIENCE).status is SUCCESSFUL
        assert app.read("SELECT number FROM ledger ORDER BY number") == [1, 3]


@servers
def test_a_request_that_enqueued_fails_at_its_commit_while_the_server_is_away(
    server: OwnServer,
) -> None:
    with application(server.url) as app:
        assert app.perform(write, 1).wait(PATIENCE).status is SUCCESSFUL
        server.kill()

        with app.queue.in_transaction():
            uid = app.queue.perform(write, 2)
            with pytest.raises(OperationalError):
                transaction.commit()
            transaction.abort()

        server.start()
        assert app.perform_again(write, 3).wait(PATIENCE).status is SUCCESSFUL
        assert app.queue.backend.get(uid) is None
        assert app.read("SELECT number FROM ledger ORDER BY number") == [1, 3]


@servers
@pytest.mark.parametrize("stops", [True, False], ids=["job that stops", "job that does not"])
def test_a_queue_that_is_closed_while_the_server_is_away_says_what_it_could_not_say(
    server: OwnServer, stops: bool, heard: Heard
) -> None:
    with application(server.url, drain_timeout=0.1, lease=3) as app:
        result = app.perform(write_and_compute if stops else write_around_a_pause, 1)
        assert stage.begun.wait(PATIENCE)
        server.kill()
        app.queue.backend._progress.put(result.id, 1, Progress(1, None, None))  # too late

        app.queue.close()

        assert heard.has_said(f"could not write the last progress of job={result.id} to the")
        assert heard.has_said("could not record in the database that worker")
        assert heard.has_said("run elsewhere after 3s (asyncjob.lease) at the latest")
        server.start()
        stage.go_on.set()
        with app.elsewhere() as other:
            app.until(other.run_pending)
            assert other.result(result.id).status is SUCCESSFUL
        assert app.read("SELECT number FROM ledger") == [1]


# -- a connection that is dropped

_OTHERS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
    "AND pid <> pg_backend_pid()",
    "mariadb": "SELECT id FROM information_schema.processlist WHERE id <> connection_id() "
    "AND user = 'root'",
}

_EARS = {"postgresql": "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"}


def _cut(app: Application, kind: str, numbers: list[int]) -> None:
    assert numbers
    for number in numbers:
        if kind == "postgresql":
            app.run(f"SELECT pg_terminate_backend({number})")
        else:
            with suppress(OperationalError):  # it may be gone already
                app.run(f"KILL CONNECTION {number}")


def _heart(app: Application) -> int:
    """The number of the connection that heartbeats go by; 0: there is none just now."""
    kept = app.queue.backend._liveness._connection
    driver = None if kept is None else kept.connection.dbapi_connection
    if driver is None:
        return 0
    return int(driver.thread_id() if hasattr(driver, "thread_id") else driver.info.backend_pid)


@servers
def test_a_job_whose_connection_is_dropped_runs_again_at_no_cost(
    kind: str, server: OwnServer
) -> None:
    with application(server.url) as app:
        results = [app.perform(tell_its_connection, 1)]
        results += [app.perform(write, number) for number in range(2, 20)]
        assert stage.begun.wait(PATIENCE)

        _cut(app, kind, stage.pids[:1])
        stage.go_on.set()

        assert_all_done_once(app, results)
        assert len(stage.tries) == 2
        assert app.read("SELECT value FROM counters WHERE id = 1") == [19]


@servers
def test_the_connections_that_claim_are_dropped_and_the_worker_goes_on(
    kind: str, server: OwnServer
) -> None:
    with application(server.url) as app:
        assert app.perform(write, 1).wait(PATIENCE).status is SUCCESSFUL
        kept = {_heart(app), *(app.read(_EARS[kind]) if kind in _EARS else ())}

        _cut(app, kind, [pid for pid in app.read(_OTHERS[kind]) if pid not in kept])

        with app.elsewhere() as other:
            results = [other.result(other.perform(write, number)) for number in range(2, 20)]

            for result in results:
                assert result.wait(PATIENCE).status is SUCCESSFUL
            assert {result.attempts for result in results} == {1}
        assert len(app.read("SELECT number FROM ledger")) == 19


@servers
def test_a_heartbeat_whose_connection_is_dropped_goes_by_another(
    kind: str, server: OwnServer
) -> None:
    with application(server.url, lease=2) as app:
        result = app.perform(write_around_a_pause, 1)
        assert stage.begun.wait(PATIENCE)
        before = app.until(lambda: _heart(app))

        _cut(app, kind, [before])

        assert app.until(lambda: (_heart(app) or before) != before)
        stage.go_on.set()
        assert_all_done_once(app, [result])
        assert stage.tries == [1]


@pytest.mark.parametrize("kind", ["postgresql"])
def test_the_listening_connection_is_dropped_and_listens_anew(server: OwnServer) -> None:
    with application(server.url) as app:
        before = app.until(lambda: app.read(_EARS["postgresql"]))

        _cut(app, "postgresql", before)

        after = app.until(lambda: [p for p in app.read(_EARS["postgresql"]) if p not in before])
        assert len(after) == 1
        with app.elsewhere() as other:
            assert other.result(other.perform(write, 1)).wait(PATIENCE).status is SUCCESSFUL


# -- a database that says no


def test_a_full_disk_stops_jobs_until_there_is_room(tmp_path: Path, heard: Heard) -> None:
    with small_disk(tmp_path) as disk, application(f"sqlite:///{disk}/jobs.db") as app:
        assert app.perform(write, 1).wait(PATIENCE).status is SUCCESSFUL
        waiting = app.perform(write_large, 2)
        assert stage.begun.wait(PATIENCE)

        filler = _fill(disk)
        with pytest.raises(OperationalError, match=r"full|disk I/O"):
            _enqueue_until_it_fails(app)
        stage.go_on.set()
        heard.wait_for("lost its database")
        filler.unlink()

        assert waiting.wait(PATIENCE).status is SUCCESSFUL
        assert (waiting.attempts, len(stage.tries) > 1) == (1, True)
        assert app.perform(write, 3).wait(PATIENCE).status is SUCCESSFUL
        assert app.read("SELECT number FROM ledger WHERE number < 10 ORDER BY 1") == [1, 2, 3]


def write_large(number: int) -> None:
    """Write more than fits into what a full disk has left."""
    stage.tries.append(number)
    stage.begun.set()
    assert stage.go_on.wait(PATIENCE)
    session = asyncjob_session()
    session.execute(text("CREATE TABLE IF NOT EXISTS large (data BLOB)"))
    session.execute(text("INSERT INTO large VALUES (zeroblob(400000))"))
    write(number)


def _enqueue_until_it_fails(app: Application) -> None:
    for _ in range(100):
        app.queue.perform(len, "x" * 100_000)


def _fill(disk: Path) -> Path:
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                pass
    return filler


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 4 MB; needs the right to mount one."""
    disk = folder / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mounting, capture_output=True, text=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    need(mounted, "the right to mount a tmpfs: root's, in a container CAP_SYS_ADMIN")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@servers
def test_a_lock_that_comes_too_late_fails_the_attempt(server: OwnServer) -> None:
    with application(server.url) as app:
        with app.holding("UPDATE counters SET value = 0 WHERE id = 1"):
            result = app.perform(write_impatiently, 1)
            assert result.wait(PATIENCE).status is FAILED

        assert (stage.tries, result.attempts) == ([1], 1)


def test_a_locked_sqlite_file_fails_the_attempt(tmp_path: Path, heard: Heard) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    impatient = create_engine(url, connect_args={"timeout": 0.05})

    with application(url, impatient) as app:
        result = app.perform(write_around_a_lock, 1)
        assert stage.begun.wait(PATIENCE)
        with app.holding("UPDATE counters SET value = 0 WHERE id = 1") as let_go:
            stage.go_on.set()
            heard.wait_for("failed, no attempts left")
            let_go()

        assert result.wait(PATIENCE).status is FAILED
        assert (stage.tries, result.attempts) == ([1], 1)


def write_around_a_lock(number: int) -> None:
    stage.tries.append(number)
    stage.begun.set()
    assert stage.go_on.wait(PATIENCE)
    write(number)


@servers
def test_a_deadlock_of_two_jobs_costs_neither_an_attempt(server: OwnServer) -> None:
    with application(server.url) as app:
        results = [app.perform(update_two, 1, 2), app.perform(update_two, 2, 1)]

        for result in results:
            result.wait(PATIENCE)

        assert [result.status for result in results] == [SUCCESSFUL, SUCCESSFUL]
        assert [(result.attempts, result.errors) for result in results] == [(1, []), (1, [])]
        assert len(stage.tries) == 3  # one of them had to give way
        assert app.read("SELECT value FROM counters ORDER BY id") == [2, 2, 0]


def test_jobs_on_sqlite_that_read_and_then_write_cost_no_attempt(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    engine = create_engine(url)
    begin_at_the_first_statement(engine)

    with application(url, engine, threads=4) as app:
        results = [app.perform(read_then_write, number) for number in range(80)]

        assert_all_done_once(app, results)
        assert app.read("SELECT value FROM counters WHERE id = 1") == [80]


def test_a_job_on_sqlite_that_only_reads_ends_though_others_commit_meanwhile(
    tmp_path: Path, heard: Heard
) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    engine = create_engine(url)
    begin_at_the_first_statement(engine)

    with application(url, engine) as app:
        result = app.perform(read_around_a_pause)
        assert stage.begun.wait(PATIENCE)
        app.run("UPDATE counters SET value = 7 WHERE id = 1")
        stage.go_on.set()

        result.wait(PATIENCE)

        assert (result.status, result.return_value, result.attempts) == (SUCCESSFUL, [0, 0, 0], 1)
        assert result.errors == []
        assert not heard.has_said("trying again what the database has undone")


def read_around_a_pause(*, commits: bool = False) -> list[int]:
    session = asyncjob_session()
    stage.tries.append(session.execute(text("SELECT count(*) FROM ledger")).scalar())
    stage.begun.set()
    assert stage.go_on.wait(PATIENCE)
    found = list(session.execute(text("SELECT value FROM counters ORDER BY id")).scalars())
    if commits:
        mark_changed(session())  # as who executes SQL of his own may do always
        transaction.commit()
    return found


def test_a_job_on_sqlite_that_only_reads_is_marked_with_our_patience(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    impatient = create_engine(url, connect_args={"timeout": 0.05})

    with application(url, impatient) as app:
        result = app.perform(read_around_a_pause)
        assert stage.begun.wait(PATIENCE)
        with app.holding("UPDATE counters SET value = 7 WHERE id = 1") as let_go:
            stage.go_on.set()
            app.until(lambda: app.queue.backend._dialect._writer)  # one of ours waits for the lock
            let_go()

        assert result.wait(PATIENCE).status is SUCCESSFUL
        assert stage.tries == [0]


def test_a_job_on_sqlite_that_only_reads_may_commit_in_the_middle(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/jobs.db")
    begin_at_the_first_statement(engine)

    with application(str(engine.url), engine) as app:
        result = app.queue.result(app.queue.perform(read_around_a_pause, commits=True))
        assert stage.begun.wait(PATIENCE)
        app.run("UPDATE counters SET value = 7 WHERE id = 1")
        stage.go_on.set()

        assert result.wait(PATIENCE).status is SUCCESSFUL
        assert stage.tries == [0]


def test_a_job_on_sqlite_that_only_reads_is_cancelled_though_it_is_marked_apart(
    tmp_path: Path,
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/jobs.db")
    begin_at_the_first_statement(engine)

    with application(str(engine.url), engine) as app:
        result = app.perform(read_around_a_pause)
        assert stage.begun.wait(PATIENCE)
        assert result.cancel()
        stage.go_on.set()

        assert result.wait(PATIENCE).status is TaskResultStatus.CANCELLED
        assert stage.tries == [0]


def test_a_job_on_sqlite_that_writes_beside_what_it_reads_is_not_marked_apart(
    tmp_path: Path, heard: Heard
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/jobs.db")

    @event.listens_for(engine, "connect")
    def attach(connection: Any, _record: Any) -> None:
        connection.execute(f"ATTACH '{tmp_path}/beside.db' AS beside")

    begin_at_the_first_statement(engine)

    with application(str(engine.url), engine) as app:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE beside.notes (number INTEGER)")
        result = app.perform(read_and_write_beside)
        assert stage.begun.wait(PATIENCE)
        app.run("UPDATE counters SET value = 7 WHERE id = 1")
        stage.go_on.set()

        assert result.wait(PATIENCE).status is SUCCESSFUL
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT * FROM beside.notes").all() == [(7,)]
        assert heard.has_said("trying again what the database has undone")


def read_and_write_beside() -> None:
    """Two databases have one commit, and so the mark must be part of it."""
    [value, *_] = read_around_a_pause()
    asyncjob_session().execute(text("INSERT INTO beside.notes VALUES (:value)"), {"value": value})


def test_a_job_that_holds_the_write_lock_of_a_sqlite_file_is_named(
    tmp_path: Path, heard: Heard
) -> None:
    with application(f"sqlite:///{tmp_path}/jobs.db") as app:
        innocent = app.perform(only_read)
        result = app.perform(write_and_compute, 1)
        assert stage.begun.wait(PATIENCE)

        heard.wait_for(f"job={result.id} holds the write lock of {tmp_path}/jobs.db")

        assert not heard.has_said(f"job={innocent.id} holds")
        assert_let_go(app, result, innocent)


def test_holder_of_the_write_lock_is_named_while_ticks_are_due(
    tmp_path: Path, heard: Heard
) -> None:
    """A tick's job cannot be enqueued then; who tried to would wait for the lock."""
    with application(f"sqlite:///{tmp_path}/jobs.db") as app:
        app.queue.schedule("each second", len, [""], every=timedelta(seconds=1))
        result = app.perform(write_and_compute, 1)
        assert stage.begun.wait(PATIENCE)

        heard.wait_for(f"job={result.id} holds the write lock of {tmp_path}/jobs.db")

        assert_let_go(app, result)
        heard.wait_for("call=builtins.len successful")


def assert_let_go(app: Application, *results: TaskResult) -> None:
    stage.go_on.set()
    for result in results:
        assert result.wait(PATIENCE).status is SUCCESSFUL


def only_read() -> None:
    asyncjob_session().execute(text("SELECT value FROM counters"))
    stage.go_on.wait(PATIENCE)


# -- a worker that cannot renew


@servers
@pytest.mark.parametrize("how", ["dead", "silent"])
def test_a_worker_that_cannot_renew_for_its_lease_stops_its_jobs(
    server: OwnServer, how: str
) -> None:
    # a second would be over on a busy machine though heartbeats come through
    with application(server.url, lease=3) as app:
        result = app.perform(write_and_compute, 1)
        assert stage.begun.wait(PATIENCE)

        with away(server, how):
            assert stage.interrupted.wait(PATIENCE)

        assert stage.raised == ["LeaseLost"]
        stage.go_on.set()
        assert_all_done_once(app, [result])
        assert stage.tries == [1, 1]
        assert app.read("SELECT value FROM counters WHERE id = 1") == [1]


@contextmanager
def away(server: OwnServer, how: str) -> Iterator[None]:
    """Let a server be dead, or hang with all its connections, for a block."""
    if how == "dead":
        server.kill()
        yield
        server.start()
        return
    processes = server.processes()
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):  # it had ended, and is now known to have
                os.kill(process, signal.SIGCONT)
