"""How often a job is run: each error has its bound, and what is committed is not run again."""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import transaction
from sqlalchemy import create_engine, make_url, text, update
from sqlalchemy.exc import DBAPIError, OperationalError

import sqlqueues
from clocks import FakeClock
from databases import begin_at_the_first_statement
from sqlqueues import KINDS, PATIENCE_SECONDS, Place, effects, options_of, place_of, write_one
from tgext.asyncjob import JobQueue, TaskResultStatus, asyncjob_session, task
from tgext.asyncjob.job import WorkerId
from tgext.asyncjob.transactions.scope import TRIES
from tgext.asyncjob.worker.thread import WorkerThread

SUCCESSFUL, FAILED = TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED
CANCELLED, RUNNING = TaskResultStatus.CANCELLED, TaskResultStatus.RUNNING

#: What ``max_crashes`` is where nobody says anything.
MAX_CRASHES = 3

runs: list[str] = []


@pytest.fixture(scope="module", params=KINDS)
def module_place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    runs.clear()


@pytest.fixture
def place(module_place: Place) -> Iterator[Place]:
    yield module_place
    transaction.abort()
    module_place.close_queues()
    module_place.empty()
    sqlqueues.hooks.clear()


def counted(name: str, writes: bool = True) -> None:
    """Do something outside the database, once for each run, and then what the test wants."""
    runs.append(name)
    if writes:
        write_one("work")
    sqlqueues.hooks[name]()


def run(
    queue: JobQueue,
    job: Callable[[], object],
    clock: FakeClock,
    *,
    max_attempts: int = 1,
    writes: bool = True,
) -> Any:
    """Run a job until nothing more becomes of it; return its result."""
    sqlqueues.hooks["job"] = job
    with queue.as_current():
        made = task(backoff=0, max_attempts=max_attempts)(counted)
        uid = made.enqueue("job", writes).id
    for _ in range(30):
        queue.run_pending()
        clock.advance(60)
    return queue.result(uid)


def queue_at(place: Place, clock: FakeClock) -> JobQueue:
    queue = place.queue()
    place.let_time_pass(clock, queue)
    return queue


# -- errors of the job's own


def time_out_a_statement() -> None:
    session = asyncjob_session()
    if session.connection().dialect.name == "postgresql":
        session.execute(text("SET LOCAL statement_timeout = 20"))
        session.execute(text("SELECT pg_sleep(5)"))
    else:
        session.execute(text("SET STATEMENT max_statement_time = 0.02 FOR SELECT SLEEP(5)"))
        raise RuntimeError("SLEEP() returns 1 where it was interrupted")


def be_killed_in_a_query() -> None:
    session = asyncjob_session()
    apart = create_engine(session.get_bind().url)
    if session.connection().dialect.name == "postgresql":
        session.execute(text("SELECT pg_cancel_backend(pg_backend_pid())"))
        session.execute(text("SELECT pg_sleep(5)"))
    else:
        session.execute(text("SIGNAL SQLSTATE '70100' SET MYSQL_ERRNO = 1317"))
    apart.dispose()


def wait_too_long_for_a_lock() -> None:
    session = asyncjob_session()
    name = session.connection().dialect.name
    if name == "postgresql":
        session.execute(
            text("DO $$ BEGIN RAISE EXCEPTION 'no lock' USING ERRCODE = '55P03'; END $$")
        )
    session.execute(text("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1205"))


def ask_sqlite_for_no_table() -> None:
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT * FROM no_such_table"))
    finally:
        engine.dispose()


def meet_a_deadlock_elsewhere() -> None:
    """In another database of the same server, in a connection of the job's own."""
    url = make_url(str(asyncjob_session().get_bind().url))
    if url.get_backend_name() == "sqlite":
        return ask_sqlite_for_no_table()
    other = "postgres" if url.get_backend_name() == "postgresql" else "information_schema"
    engine = create_engine(url.set(database=other))
    try:
        with engine.connect() as connection:
            connection.execute(text(CONFLICTS[url.get_backend_name()]))
    finally:
        engine.dispose()


CONFLICTS = {
    "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'dead' USING ERRCODE = '40P01'; END $$",
    "mysql": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213",
}


@pytest.mark.parametrize(
    "job",
    [time_out_a_statement, be_killed_in_a_query, wait_too_long_for_a_lock,
     ask_sqlite_for_no_table, meet_a_deadlock_elsewhere],
)  # fmt: skip
def test_error_of_the_job_is_a_failed_attempt_and_no_more(
    place: Place, job: Callable[[], object]
) -> None:
    if place.kind == "sqlite" and job not in (ask_sqlite_for_no_table, meet_a_deadlock_elsewhere):
        pytest.skip("only a server says that")
    clock = FakeClock()

    result = run(queue_at(place, clock), job, clock, max_attempts=2)

    assert (result.status, result.attempts) == (FAILED, 2)
    assert len(runs) == 2
    assert place.written() == []


def test_lock_that_sqlite_does_not_give_in_time_is_a_failed_attempt(tmp_path: Any) -> None:
    with place_of("sqlite", tmp_path) as place:
        clock = FakeClock()
        queue = queue_at(place, clock)
        place.engine.dispose()
        apart = create_engine(place.url)
        holder = apart.connect()

        def lock() -> None:
            asyncjob_session().execute(text("PRAGMA busy_timeout = 20"))
            holder.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                write_one("too late")
            finally:
                holder.rollback()

        result = run(queue, lock, clock, writes=False)
        holder.close()
        apart.dispose()

        assert (result.status, len(runs)) == (FAILED, 1)
        assert "is locked" in result.errors[0].message


# -- what the database has undone


def test_conflict_is_tried_again_in_place_so_many_times_and_no_more(place: Place) -> None:
    if place.kind == "sqlite":
        pytest.skip("SQLite has no deadlocks")
    clock = FakeClock()

    def conflict() -> None:
        asyncjob_session().execute(text(CONFLICTS[asyncjob_session().get_bind().dialect.name]))

    result = run(queue_at(place, clock), conflict, clock)

    assert (result.status, result.attempts) == (FAILED, 1)
    assert len(runs) == TRIES


def test_stale_snapshot_of_sqlite_is_tried_again_with_the_lock_from_the_beginning(
    tmp_path: Any,
) -> None:
    """Else whoever writes in between would have it refused again, and again."""
    with place_of("sqlite", tmp_path) as place:
        begin_at_the_first_statement(place.engine)
        place.engine.dispose()
        clock, apart = FakeClock(), create_engine(place.url, connect_args={"timeout": 0})
        queue, refused = queue_at(place, clock), []

        def write_meanwhile() -> None:
            asyncjob_session().execute(text(f"SELECT * FROM {effects.name}")).all()
            try:
                with apart.begin() as connection:
                    connection.execute(effects.insert().values(text="other", amount=1))
            except OperationalError:
                refused.append(len(runs))
            write_one("mine")

        result = run(queue, write_meanwhile, clock, writes=False)
        apart.dispose()

        assert (result.status, result.attempts, runs) == (SUCCESSFUL, 1, ["job", "job"])
        assert refused == [2]
        assert place.written() == [("mine", 1), ("other", 1)]


# -- the database lost


def lose_the_connection() -> None:
    session = asyncjob_session()
    connection = session.connection()
    driver = connection.connection.dbapi_connection
    apart = create_engine(session.get_bind().url)
    with apart.connect() as own:
        if connection.dialect.name == "postgresql":
            own.execute(text(f"SELECT pg_terminate_backend({driver.info.backend_pid})"))
        else:
            own.execute(text(f"KILL {driver.thread_id()}"))
    apart.dispose()
    session.execute(text("SELECT 1"))


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_lost_connection_is_a_crash_and_bounded_by_max_crashes(
    place: Place, max_attempts: int
) -> None:
    if place.kind == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    clock = FakeClock()

    result = run(queue_at(place, clock), lose_the_connection, clock, max_attempts=max_attempts)

    assert result.status is FAILED
    assert len(runs) == max_attempts + MAX_CRASHES - 1


def test_lost_connection_whose_error_the_job_swallows_is_a_crash(place: Place) -> None:
    if place.kind == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    clock = FakeClock()

    result = run(queue_at(place, clock), lose_the_connection_at_first_and_go_on, clock)

    assert (result.status, result.attempts, len(runs)) == (SUCCESSFUL, 1, 2)
    assert place.written() == [("work", 1)]


def lose_the_connection_at_first_and_go_on() -> None:
    if len(runs) == 1:
        with suppress(OperationalError):
            lose_the_connection()


def test_connection_that_is_ended_for_the_jobs_own_idleness_is_no_loss(place: Place) -> None:
    """Else a job that calls another server in its transaction runs max_crashes times."""
    if place.kind != "postgresql":
        pytest.skip("only PostgreSQL says why it has ended a connection")
    queue = queue_at(place, FakeClock())

    errors = [error_after_idling(place.engine) for _ in range(20)]

    # Where the connection is gone first the driver does not come to read the reason.
    ended = [error for error in errors if getattr(error.orig, "sqlstate", None) == "25P03"]
    assert ended
    assert all(error.connection_invalidated for error in ended)
    assert not any(queue.backend.is_loss(error) for error in ended)


def error_after_idling(engine: Any) -> DBAPIError:
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 1"))
        driver = connection.connection.dbapi_connection
        heard = select.select([driver.fileno()], [], [], PATIENCE_SECONDS)[0]
        assert heard  # the server's word
        with pytest.raises(DBAPIError) as raised:
            connection.execute(text("SELECT 1"))
    return raised.value


# -- a commit without an answer


def lose_answers(place: Place, *, commits: bool, once: bool = True) -> list[str]:
    """Break the connection behind the next commit of a job, or before it."""
    dialect = place.engine.dialect
    commit, lost = type(dialect).do_commit, []

    def commit_and_break(connection: Any) -> None:
        if not runs or (once and lost):
            return commit(dialect, connection)
        lost.append("answer")
        if commits:
            commit(dialect, connection)
        driver = connection.dbapi_connection
        error: Any = dialect.loaded_dbapi.OperationalError  # type: ignore[attr-defined]
        if place.kind == "sqlite":
            driver.rollback()
            raise error("disk I/O error")
        (driver._force_close if place.kind == "mariadb" else driver.close)()
        raise error(2013, "Lost connection to MySQL server during query")

    dialect.do_commit = commit_and_break  # type: ignore[method-assign]
    return lost


@pytest.fixture
def answers(place: Place) -> Iterator[None]:
    yield
    place.engine.dialect.__dict__.pop("do_commit", None)


@pytest.mark.usefixtures("answers")
def test_commit_whose_answer_was_lost_is_looked_up_and_the_job_not_run_again(
    place: Place, caplog: Any
) -> None:
    clock = FakeClock()
    queue = queue_at(place, clock)
    lost = lose_answers(place, commits=True)

    result = run(queue, lambda: None, clock)

    assert (result.status, len(runs), len(lost)) == (SUCCESSFUL, 1, 1)
    assert (result.attempts, result.errors) == (1, [])
    assert place.written() == [("work", 1)]
    assert "committed, and the answer was lost" in caplog.text


@pytest.mark.usefixtures("answers")
def test_commit_that_did_not_come_about_is_a_crash(place: Place) -> None:
    clock = FakeClock()
    queue = queue_at(place, clock)
    lose_answers(place, commits=False)

    result = run(queue, lambda: None, clock)

    assert (result.status, len(runs), result.attempts) == (SUCCESSFUL, 2, 1)
    assert place.written() == [("work", 1)]


@pytest.mark.usefixtures("answers")
def test_commit_that_cannot_be_looked_up_is_settled_by_the_fence(
    place: Place, monkeypatch: Any, caplog: Any
) -> None:
    """The database is away at the look; the outcome is stored when it is back, if it has to be."""
    caplog.set_level(logging.INFO, "tgext.asyncjob")
    clock = FakeClock()
    queue = queue_at(place, clock)
    lose_answers(place, commits=True)
    committed, looks = queue.backend.committed, []

    def look(claim: Any) -> bool:
        looks.append(claim)
        if len(looks) == 1:
            raise OperationalError("SELECT", {}, Exception("the database is away"))
        return committed(claim)

    monkeypatch.setattr(queue.backend, "committed", look)

    result = run(queue, lambda: None, clock)

    assert (result.status, len(runs), len(looks)) == (SUCCESSFUL, 1, 2)
    assert place.written() == [("work", 1)]
    assert place.jobs()[0].crashes == 0
    assert "it is not known whether its commit succeeded" in caplog.text
    assert "successful after" in caplog.text


# -- the row changed under the job's snapshot


@pytest.fixture
def repeatable(place: Place) -> Iterator[Place]:
    """The place, where sessions read from one snapshot and may not overwrite what came since."""
    if place.kind == "sqlite":
        pytest.skip("its snapshots are in test_sql_survival")
    with place.Session() as session:
        old = session.get_bind()
    place.Session.remove()
    engine = create_engine(place.url, isolation_level="REPEATABLE READ", **options_of(place.url))
    place.Session.configure(bind=engine)
    yield place
    transaction.abort()
    place.Session.remove()
    place.Session.configure(bind=old)
    engine.dispose()


def _snapshot() -> None:
    session = asyncjob_session()
    if session.connection().dialect.name == "mysql":
        session.execute(text("SET SESSION innodb_snapshot_isolation = ON"))
    session.execute(text(f"SELECT * FROM {effects.name}")).all()


@pytest.mark.parametrize("disturb", ["cancelled", "taken"])
def test_job_whose_row_changes_under_its_snapshot_is_not_run_again(
    repeatable: Place, disturb: str
) -> None:
    queue, other = repeatable.queue(), repeatable.other_queue()

    def change() -> None:
        _snapshot()
        [row] = repeatable.jobs()
        if disturb == "cancelled":
            assert other.result(row.uid).cancel()
        else:
            jobs = repeatable.tables.jobs
            with repeatable.engine.begin() as connection:
                taken = update(jobs).values(lease=jobs.c.lease + 1, worker_id="another")
                connection.execute(taken)
        write_one("after")

    sqlqueues.hooks["job"] = change
    uid = queue.perform(counted, "job")
    queue.run_pending()

    assert len(runs) == 1
    assert other.result(uid).status is (CANCELLED if disturb == "cancelled" else RUNNING)
    assert repeatable.written() == []


# -- claims given back without an answer


def test_claim_whose_release_was_not_answered_is_looked_at_before_it_is_run(
    place: Place, monkeypatch: Any
) -> None:
    queue = place.queue()
    uids = [queue.perform(sqlqueues.nothing) for _ in range(2)]
    backend = queue.backend
    worker = WorkerId("w")
    claims = backend.claim(worker, None, 2)
    thread = WorkerThread(
        "thread",
        SimpleNamespace(backend=backend, queue=queue),  # type: ignore[arg-type]
        (worker, None),
        stopping=threading.Event(),
        deadline_changed=lambda: None,
        ended=lambda _thread: None,
    )
    thread._prefetched.extend(claims)
    release = backend.release

    def release_without_an_answer(some: Any) -> None:
        release(list(some)[:1])
        raise OperationalError("COMMIT", {}, Exception("the connection is gone"))

    monkeypatch.setattr(backend, "release", release_without_an_answer)
    with pytest.raises(OperationalError):
        thread.release_prefetched()

    found = thread._next()
    assert found is not None
    assert found.job.uid == uids[1]  # the other one waits for anybody
    assert thread._next() is None
