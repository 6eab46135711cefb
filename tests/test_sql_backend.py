"""The contract on SQLite, PostgreSQL and MariaDB, and what only a database can show."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import transaction
from sqlalchemy import Engine, create_engine, delete, event, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from zope.sqlalchemy import mark_changed

from backend_contract import (
    AGAIN,
    BROKEN,
    DONE,
    BackendContract,
    a_job,
    claim_one,
    ended,
    enqueued,
    status_of,
)
from clocks import rescued_meanwhile
from databases import empty, url_of
from test_backend_model import RETENTION_SECONDS, compare
from tgext.asyncjob import ConfigError, JobQueue, task
from tgext.asyncjob.backends.base import Standing
from tgext.asyncjob.backends.sql import SqlBackend, insertion, pruning, taking
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import (
    FAILED,
    NO_PROGRESS,
    READY,
    RUNNING,
    SUCCESSFUL,
    Job,
    Outcome,
    Progress,
    TaskError,
    WorkerId,
)

KINDS = ("sqlite", "postgresql", "mariadb")


class Database:
    """Tables of their own prefix in a database, emptied for each test."""

    def __init__(self, url: str) -> None:
        # What a power cut would take is not tested here: no commit waits for the disk.
        asynchronous = {"options": "-c synchronous_commit=off"}
        options = asynchronous if url.startswith("postgresql") else {}
        self.engine: Engine = create_engine(url, connect_args=options)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", lambda c, _: c.execute("PRAGMA synchronous = OFF"))
        self.prefix = f"test_{uuid.uuid4().hex[:8]}_"
        with closing(self.backend()) as made:
            made.schema.check(create=True)
            self.tables = made.tables

    def backend(self, **options: Any) -> SqlBackend:
        return SqlBackend(self.engine, **{"secret": "swordfish", "prefix": self.prefix, **options})

    def empty(self, backend: SqlBackend) -> None:
        kept = backend.tables.schema
        with backend._dialect.begin() as connection:
            empty(connection, [each for each in backend.tables.main_tables if each is not kept])
        with backend._dialect.side_database.connect() as connection:
            empty(connection, backend.tables.side_tables)

    def drop(self) -> None:
        self.tables.metadata.drop_all(self.engine)
        self.engine.dispose()


@pytest.fixture(scope="module", params=KINDS)
def database(request: Any, tmp_path_factory: Any) -> Iterator[Database]:
    made = Database(url_of(request.param, tmp_path_factory.mktemp("sql")))
    yield made
    made.drop()


@pytest.fixture
def make_backend(database: Database) -> Iterator[Callable[..., SqlBackend]]:
    made: list[SqlBackend] = []

    def make(**options: Any) -> SqlBackend:
        made.append(database.backend(**options))
        return made[-1]

    yield make
    for backend in made:
        database.empty(backend)
        backend.close()


class TestSqlBackend(BackendContract):
    transactional = True
    ROUNDS = 15
    CONTENDED = 50

    @pytest.fixture
    def clock(self, clock: Any) -> Any:
        return clock  # the one of conftest.py, not the contract's placeholder

    @pytest.fixture
    def backend(self, make_backend: Callable[..., SqlBackend], clock: Any) -> SqlBackend:
        return make_backend(retention_seconds=self.RETENTION_SECONDS, clock=clock)

    @pytest.fixture
    def in_transaction(self, database: Database) -> Callable[[], AbstractContextManager[Any]]:
        @contextmanager
        def transaction() -> Iterator[Any]:
            with database.engine.begin() as connection:
                yield connection

        return transaction


def test_sql_backend_does_what_the_model_does(make_backend, database):
    made: list[SqlBackend] = []

    def fresh(clock: Any) -> SqlBackend:
        if made:
            database.empty(made[-1])
            made[-1].close()
        made.append(make_backend(retention_seconds=RETENTION_SECONDS, clock=clock))
        return made[-1]

    compare(fresh, number=8, steps=30, keeps_places=True)


def test_jobs_that_fill_more_than_one_statement_are_all_stored(make_backend, monkeypatch):
    monkeypatch.setattr(insertion, "LONGEST_TEXT", 2_000)
    backend = make_backend()
    jobs = [a_job(backend, "x" * length) for length in (10, 20, 3_000, 40, 50, 60, 70)]

    backend.enqueue(jobs)

    claims = backend.claim(WorkerId("w"), None, 100)
    assert [claim.job for claim in claims] == jobs


def test_jobs_that_mariadb_does_not_take_in_one_packet_are_all_stored(make_backend, database):
    if database.engine.dialect.name != "mysql":
        pytest.skip("only MariaDB has packets")
    backend = make_backend()
    backend.enqueue([a_job(backend)])  # the limit is known from a connection on
    jobs = [a_job(backend, "\\" * (backend._dialect.most_bytes // 8)) for _ in range(4)]

    backend.enqueue([backend.prepare(job) for job in jobs])

    assert [backend.get(job.uid).job for job in jobs] == jobs


# -- what a dead worker held

#: A batch of jobs in the tests of batches: in production it has hundreds, and so many take seconds.
AT_ONCE = 20


def test_pruning_goes_on_while_it_finds_as_many_as_it_removes_at_once(make_backend, monkeypatch):
    monkeypatch.setattr(pruning, "PRUNED_AT_ONCE", AT_ONCE)
    backend = make_backend(retention_seconds=0)
    many = 2 * AT_ONCE + 1
    backend.enqueue([a_job(backend) for _ in range(many)])
    claims = backend.claim(WorkerId("w"), None, many)
    backend.finish_many([(claim, DONE) for claim in claims])

    removed = 0
    while some := backend.prune():  # on a slow machine not all within one round
        assert some % AT_ONCE in (0, 1)
        removed += some

    assert removed == many


@contextmanager
def locked(database: Database, *, most: int) -> Iterator[list[str]]:
    """The first rows of jobs are being changed by somebody else; gives their uids."""
    jobs = database.tables.jobs
    first = select(jobs.c.uid).order_by(jobs.c.number).limit(most).with_for_update()
    with database.engine.connect() as connection:
        if connection.dialect.name == "mysql":  # with no lock on what it passes over
            connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.commit()
        yield list(connection.execute(first).scalars())
        connection.rollback()


def skip_where_one_writer_keeps_all_others_out(database: Database) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("there rows are not locked, but the file")


@pytest.mark.parametrize("queues", [None, ["a"], ["a", "b"]])
def test_claim_passes_over_what_others_are_changing_and_locks_no_more_than_it_takes(
    make_backend, database, queues
):
    skip_where_one_writer_keeps_all_others_out(database)
    backend, other = make_backend(), make_backend()
    names = "ab" if queues is None or len(queues) > 1 else "a"
    uids = [enqueued(backend, queue_name=names[number % len(names)]) for number in range(60)]

    with locked(database, most=50) as held:
        assert held == uids[:50]
        # More are locked than a claim of several queue names looks at in the first place.
        claims = backend.claim(WorkerId("w"), queues, 1)
        assert [claim.job.uid for claim in claims] == [uids[50]]
    claims = other.claim(WorkerId("v"), queues, 2)

    assert [claim.job.uid for claim in claims] == uids[:2]


def test_claim_passes_over_what_others_are_changing_to_the_next_of_all_queues(
    make_backend, database
):
    skip_where_one_writer_keeps_all_others_out(database)
    backend = make_backend()
    uids = [enqueued(backend, queue_name=name) for name in ["a"] * 30 + ["b"] * 5]

    # All of "b" that there is has been read then, and a part of "a".
    with locked(database, most=taking.AHEAD // 2) as held:
        claims = backend.claim(WorkerId("w"), ["a", "b"], 1)

    assert [claim.job.uid for claim in claims] == [uids[len(held)]]


def promoted_at_once(backend: SqlBackend, act: Callable[[], object]) -> list[int]:
    """How many delayed jobs each transaction let wait."""
    found: list[int] = []
    promote = backend._taking._promote_some

    def count() -> Any:
        some = promote()
        found.append(len(some))
        return some

    backend._taking._promote_some = count  # type: ignore[method-assign]
    act()
    return found


def test_many_jobs_that_come_due_at_once_do_not_wait_for_one_transaction(
    make_backend, clock, monkeypatch
):
    monkeypatch.setattr(taking, "PROMOTED_AT_ONCE", AT_ONCE)
    backend = make_backend(clock=clock)
    many = 2 * AT_ONCE + 1
    delayed = [a_job(backend)._replace(run_after=timedelta(seconds=5)) for _ in range(many)]
    backend.enqueue(delayed)
    clock.advance(5)

    claims: list[Any] = []
    promoted = promoted_at_once(
        backend, lambda: [claims.extend(some) for some in iter(lambda: claim_some(backend), [])]
    )

    assert len(claims) == many
    assert sum(promoted) == many
    assert max(promoted) == AT_ONCE


def test_job_that_is_due_is_taken_however_long_the_look_has_lasted(
    make_backend, clock, monkeypatch
):
    monkeypatch.setattr(taking, "PROMOTING_SECONDS", 0)
    backend = make_backend(clock=clock)
    uid = enqueued(backend, run_after=timedelta(seconds=5))
    clock.advance(5)

    assert [claim.job.uid for claim in claim_some(backend)] == [uid]


def test_delayed_job_that_another_worker_has_taken_keeps_no_worker_awake(make_backend):
    backend, other = make_backend(), make_backend()
    enqueued(backend, run_after=timedelta(seconds=0.01))
    other.wait(None, 10, lambda: False)  # until it is due
    claim_one(other)

    assert claim_some(backend) == []
    began = time.monotonic()
    backend.wait(None, 0.1, lambda: False)

    assert time.monotonic() - began >= 0.1


def claim_some(backend: SqlBackend) -> Any:
    return backend.claim(WorkerId("w"), None, 500)


def test_job_that_comes_due_while_somebody_changes_it_keeps_no_other_from_its_time(
    make_backend, database, clock
):
    skip_where_one_writer_keeps_all_others_out(database)
    backend = make_backend(clock=clock)
    _changed, due = [enqueued(backend, run_after=timedelta(seconds=5)) for _ in range(2)]
    clock.advance(5)

    with locked(database, most=1):
        claims = claim_some(backend)

    assert [claim.job.uid for claim in claims] == [due]


def test_ended_job_that_somebody_changes_keeps_no_other_from_being_pruned(make_backend, database):
    skip_where_one_writer_keeps_all_others_out(database)
    backend = make_backend(retention_seconds=0)
    for _ in range(3):
        ended(backend)

    with locked(database, most=1):
        assert backend.prune() == 2
    assert backend.prune() == 1


def test_job_that_is_retried_while_it_is_pruned_is_kept(make_backend, monkeypatch):
    backend, other = make_backend(retention_seconds=0), make_backend()
    uid = ended(backend, BROKEN)
    begin = backend._dialect.begin

    def begin_after_the_retry() -> Any:
        assert other.retry(uid) is True
        return begin()

    monkeypatch.setattr(backend._dialect, "begin", begin_after_the_retry)

    assert backend.prune() == 0
    found = other.get(uid)
    assert found.status is READY
    assert len(found.errors) == 1


def test_jobs_of_a_dead_worker_wait_again_and_it_costs_no_attempt(make_backend, other_process):
    dead, alive, process = make_backend(), make_backend(), other_process()
    uid = enqueued(dead)
    claim_one(dead, process.worker_id())
    process.die()

    rescued = alive.rescue()

    found = alive.get(uid)
    assert rescued == 1
    assert (found.status, found.attempts) == (READY, 0)
    assert found.errors[-1].exception_class_path == "tgext.asyncjob.errors.WorkerCrashed"
    assert dead.finish(claim_one(alive, "the living one"), DONE) is True


def test_late_finish_of_a_worker_that_was_given_up_is_refused(make_backend, other_process):
    zombie, alive, process = make_backend(), make_backend(), other_process()
    uid = enqueued(zombie)
    stale = claim_one(zombie, process.worker_id())
    process.die()
    alive.rescue()
    claim_one(alive, "the living one")

    stored = zombie.finish(stale, DONE)

    assert stored is False
    assert status_of(alive, uid) is RUNNING


def test_heartbeat_tells_a_worker_which_claims_it_has_lost(make_backend, other_process):
    zombie, alive, process = make_backend(), make_backend(), other_process()
    worker_id = process.worker_id()
    for _ in range(2):
        enqueued(zombie)
    claims = zombie.claim(worker_id, None, 2)
    before = zombie.heartbeat(worker_id)
    process.die()
    alive.rescue()
    alive.claim("the living one", None, 1)  # whether or not another has it

    assert before == []
    lost = [(claim.job.uid, claim.lease) for claim in claims]
    assert sorted(zombie.heartbeat(worker_id)) == sorted(lost)


def test_success_of_another_claim_is_not_that_of_one_that_was_lost(make_backend):
    backend = make_backend()
    enqueued(backend)
    lost = claim_one(backend)
    backend.release([lost])
    claim = claim_one(backend)
    backend.finish(claim, DONE)

    assert backend.committed(claim)
    assert not backend.committed(lost)


def test_job_of_a_living_worker_is_left_to_it(make_backend):
    busy, other = make_backend(), make_backend()
    uid = enqueued(busy)
    claim_one(busy, "the busy one")

    assert other.rescue() == 0
    assert status_of(other, uid) is RUNNING


def test_job_that_ends_its_workers_fails_in_the_end_with_the_evidence(make_backend, other_process):
    uid = enqueued(make_backend())
    for _ in range(3):
        worker, rescuer, process = make_backend(), make_backend(), other_process()
        claim_one(worker, process.worker_id())
        process.die()
        rescuer.rescue()

    found = make_backend().get(uid)
    assert found.status is FAILED
    assert len(found.errors) == 3
    assert "died" in found.errors[-1].message


def test_job_that_ends_workers_which_would_have_claimed_more_fails_in_the_end(
    make_backend, other_process
):
    uid = enqueued(make_backend())
    for _ in range(4):  # it is only suspected at first: who knows what was claimed with it
        worker, rescuer, process = make_backend(), make_backend(), other_process()
        [claim] = worker.claim(process.worker_id(), None, 10)
        assert claim.job.uid == uid
        process.die()
        rescuer.rescue()

    assert status_of(make_backend(), uid) is FAILED


# -- what stands in a row


@pytest.mark.parametrize(
    "change",
    [
        {"name": "os.system"},
        {"payload": '{"f":"os:system","a":["touch /nowhere"]}'},
        {"signature": None},
        {"signature": "AAAA"},
    ],
    ids=["name", "payload", "no signature", "another signature"],
)
def test_row_that_somebody_changed_runs_nothing_and_fails_with_the_reason(
    make_backend, database, change
):
    backend = make_backend()
    uid = enqueued(backend)
    jobs = database.tables.jobs
    with database.engine.begin() as connection:
        connection.execute(update(jobs).where(jobs.c.uid == uid).values(**change))

    claims = backend.claim(WorkerId("w"), None, 10)

    assert claims == []
    found = backend.get(uid)
    assert found.status is FAILED
    assert found.errors[-1].exception_class_path == "tgext.asyncjob.errors.BadSignature"


def test_error_is_stored_whatever_mariadbs_own_character_set_is():
    url = make_url(url_of("mariadb", Path()))
    name = f"asyncjob_{uuid.uuid4().hex[:8]}"
    server = create_engine(url)
    with server.begin() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET latin1")
    try:
        with closing(SqlBackend(create_engine(url.set(database=name)))) as backend:
            backend.open(create_tables=True)
            uid = enqueued(backend)
            error = TaskError.of(ValueError("\N{SNOWMAN}"))

            assert backend.finish(claim_one(backend), Outcome(FAILED, error=error)) is True
            assert backend.get(uid).errors[-1].message == "\N{SNOWMAN}"
    finally:
        with server.begin() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}")
        server.dispose()


@pytest.mark.parametrize(
    "change",
    [
        {"options": "no JSON"},
        {"options": "[1]"},
        {"options": '{"nothing": 1}'},
        {"options": '{"timeout": "x"}'},
        {"context": "no JSON"},
        {"context": "[1]"},
    ],
    ids=str,
)
def test_row_whose_options_cannot_be_read_ends_with_the_reason_and_harms_no_other(
    make_backend, database, change
):
    backend = make_backend(secret=None)
    before, uid, after = enqueued(backend), enqueued(backend), enqueued(backend)
    jobs = database.tables.jobs
    with database.engine.begin() as connection:
        connection.execute(update(jobs).where(jobs.c.uid == uid).values(**change))

    claims = backend.claim(WorkerId("w"), None, 10)

    assert [claim.job.uid for claim in claims] == [before, after]
    found = backend.get(uid)
    assert found.status is FAILED
    assert found.errors[-1].exception_class_path == "tgext.asyncjob.errors.Unreadable"
    assert backend.retry(uid) is True


@pytest.mark.parametrize(
    "change",
    [
        {"queue_name": "other"},
        {"rank": -3},
        {"options": '{"timeout": 99}'},
        {"context": '{"user": "root"}'},
        {"context": None},
    ],
    ids=str,
)
def test_signed_row_in_which_something_was_changed_is_not_run(make_backend, database, change):
    backend = make_backend()
    uid = enqueued(backend, context={"user": "ada"}, timeout=3)
    jobs = database.tables.jobs
    with database.engine.begin() as connection:
        connection.execute(update(jobs).where(jobs.c.uid == uid).values(**change))

    assert backend.claim(WorkerId("w"), None, 10) == []
    error = backend.get(uid).errors[-1]
    assert error.exception_class_path == "tgext.asyncjob.errors.BadSignature"
    assert "the row was changed" in error.message


def test_signed_row_of_other_tables_is_not_run(database):
    schema = database.tables.schema
    with closing(database.backend()) as backend:
        with database.engine.begin() as connection:
            connection.execute(update(schema).values(identity="theirs"))
        backend.schema.check(create=False)
        uid = enqueued(backend)
        with database.engine.begin() as connection:
            connection.execute(update(schema).values(identity="ours"))
        backend.schema.check(create=False)

        assert backend.claim(WorkerId("w"), None, 10) == []
        assert "a copy from other tables" in backend.get(uid).errors[-1].message
        database.empty(backend)


@pytest.mark.parametrize("queues", [None, ["mail"], ["mail", "default"]], ids=str)
def test_queue_that_another_process_has_paused_just_now_gives_no_job(make_backend, queues):
    backend, elsewhere = make_backend(), make_backend()
    held = enqueued(backend, queue_name="mail")
    elsewhere.pause("mail")  # this process has not read that yet

    assert backend._taking.take("w", queues, 10) == []  # nor just before, as on SQLite
    assert backend.claim(WorkerId("w"), queues, 10) == []
    elsewhere.resume("mail")
    assert [claim.job.uid for claim in backend.claim(WorkerId("w"), queues, 10)] == [held]


@pytest.mark.parametrize("is_first_paused", [True, False])
def test_new_queue_that_two_processes_pause_and_limit_at_once_has_both(
    make_backend, is_first_paused
):
    backend, elsewhere = make_backend(), make_backend()
    if backend._dialect.has_one_writer:
        pytest.skip("SQLite's writers come one after the other")
    name = f"new{is_first_paused}"
    acts = [lambda each: each.pause(name), lambda each: each.limit(name, 2)]
    first, second = acts if is_first_paused else acts[::-1]
    between: list[bool] = []

    def come_between(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "INSERT INTO" in statement and "queues" in statement and not between:
            between.append(True)
            second(elsewhere)

    event.listen(backend._dialect.engine, "before_cursor_execute", come_between)
    first(backend)

    assert between
    assert [each.queue_name for each in backend.paused()] == [name]
    assert backend.queue_limits() == {name: 2}
    backend.resume(name)
    backend.limit(name, None)


def test_failures_are_stored_with_their_time_attempt_and_worker(make_backend, database, clock):
    backend = make_backend(clock=clock)
    uid = enqueued(backend, max_attempts=2)
    for worker, outcome in (("w1", AGAIN), ("w2", BROKEN)):
        clock.advance(10)
        assert backend.finish(claim_one(backend, worker), outcome)
    errors = database.tables.errors
    wanted = select(errors.c.at, errors.c.attempt, errors.c.worker_id).where(errors.c.uid == uid)
    with database.engine.connect() as connection:
        first, second = connection.execute(wanted.order_by(errors.c.number)).all()

    assert (second.at, second.at - first.at) == (clock(), 10)
    assert [(row.attempt, row.worker_id) for row in (first, second)] == [(1, "w1"), (2, "w2")]


def test_progress_is_read_while_the_job_holds_a_write_transaction(make_backend, database):
    backend, elsewhere = make_backend(), make_backend()
    uid = enqueued(backend)
    claim = claim_one(backend)
    errors = database.tables.errors
    with database.engine.begin() as connection:
        connection.execute(
            errors.insert().values(uid=uid, exception_class_path="x", message="", traceback="")
        )

        assert backend.report(claim, NO_PROGRESS._replace(value=7, total=9)) is True
        backend._progress.flush([uid])
        seen = elsewhere.progress(uid)

    assert (seen.value, seen.total) == (7, 9)


def test_progress_that_the_database_refuses_is_dropped_and_holds_up_nothing(make_backend, caplog):
    backend = make_backend()
    uids = [enqueued(backend), enqueued(backend)]
    huge, other = backend.claim(WorkerId("w"), None, 2)

    assert backend.report(huge, NO_PROGRESS._replace(value=2**63)) is True
    assert backend.report(other, NO_PROGRESS._replace(value=7)) is True
    assert backend.finish(other, DONE) is True
    assert backend.finish(huge, DONE) is True

    assert [backend.get(uid).progress.value for uid in uids] == [-1, 7]
    assert f"job={huge.job.uid} its progress cannot be stored" in caplog.text


def test_brief_has_a_report_that_is_not_written_yet(make_backend):
    backend = make_backend()
    uid = enqueued(backend)
    claim = claim_one(backend)
    with backend._progress._lock:  # for which the thread that writes waits
        backend.report(claim, Progress(3, "three", 10))

        brief = backend.briefs([uid])[uid]

    assert (brief.value, brief.total, brief.text) == (3, 10, "three")


def test_progress_that_is_being_written_is_not_there_after_a_retry(make_backend, gate, monkeypatch):
    backend = make_backend()
    uid = enqueued(backend)
    claim = claim_one(backend)
    progress = backend._progress
    lock, write = progress._lock, progress._write_one

    def write_at_the_gate(*given: Any) -> None:
        gate.enter()
        write(*given)

    class OpensTheGate:
        """Who takes it waits for the thread that writes."""

        def __enter__(self) -> None:
            gate.open()
            lock.acquire()

        def __exit__(self, *_error: object) -> None:
            lock.release()

    monkeypatch.setattr(progress, "_write_one", write_at_the_gate)
    assert backend.report(claim, NO_PROGRESS._replace(value=7)) is True
    gate.wait_for()
    monkeypatch.setattr(progress, "_lock", OpensTheGate())
    backend.release([claim])
    assert backend.cancel(uid) is True

    assert backend.retry(uid) is True

    gate.open()
    progress.close()  # whatever the thread has to write is written
    assert backend.progress(uid) == NO_PROGRESS


def test_completion_that_meets_a_change_of_its_row_is_a_conflict(make_backend, database):
    """MariaDB from 11.6.2 on refuses it as PostgreSQL's REPEATABLE READ does."""
    kind = database.engine.dialect.name
    if kind == "sqlite":
        pytest.skip("SQLite's writers come one after the other")
    backend = make_backend()
    uid = enqueued(backend)
    [claim] = backend.claim(WorkerId("w"), None, 10)
    repeatable = database.engine.execution_options(isolation_level="REPEATABLE READ")

    with repeatable.connect() as connection:
        if kind == "mysql":
            connection.exec_driver_sql("SET SESSION innodb_snapshot_isolation = ON")
            connection.commit()
        connection.execute(select(database.tables.jobs)).all()
        backend.cancel(uid)
        with pytest.raises(DBAPIError) as caught:
            backend.finish(claim, DONE, connection)
        connection.invalidate()

    assert backend.is_conflict(caught.value)
    assert not backend.is_loss(caught.value)
    assert backend.standing(claim) is Standing.CANCELLED


@pytest.mark.parametrize("character", ["x", "\\", "'"])
def test_result_that_mariadb_does_not_take_in_one_packet_undoes_no_work(database, character):
    if database.engine.dialect.name != "mysql":
        pytest.skip("only MariaDB has packets")
    with closing(database.backend()) as backend:
        with database.engine.connect() as connection:
            most = connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one()
        uid = enqueued(backend)

        outcome = DONE._replace(result=character * most)
        assert backend.finish(claim_one(backend), outcome) is True

        found = backend.get(uid)
        backend.purge([uid])
    assert found.status is SUCCESSFUL
    assert "max_allowed_packet" in found.result.why


def test_mariadb_that_has_no_connection_left_for_its_user_is_tried_again():
    url = make_url(url_of("mariadb", Path()))
    user = f"asyncjob_{uuid.uuid4().hex[:8]}"
    server = create_engine(url)
    with server.begin() as connection:
        connection.exec_driver_sql(f"CREATE USER {user}@'%%' WITH MAX_USER_CONNECTIONS 1")
        connection.exec_driver_sql(f"GRANT ALL ON {url.database}.* TO {user}@'%%'")
    limited = create_engine(url.set(username=user))
    try:
        with closing(SqlBackend(limited)) as backend, limited.connect():
            with pytest.raises(DBAPIError) as caught:
                backend.counts()
            assert backend.is_passing(caught.value)
    finally:
        limited.dispose()
        with server.begin() as connection:
            connection.exec_driver_sql(f"DROP USER {user}@'%%'")
        server.dispose()


def test_database_that_each_connection_has_for_itself_is_refused():
    with pytest.raises(ConfigError, match=r"in test.ini set asyncjob.backend = memory"):
        SqlBackend(create_engine("sqlite://"))


def test_work_and_mark_are_committed_together_or_not_at_all(make_backend, database):
    backend = make_backend()
    uid = enqueued(backend)
    claim = claim_one(backend)
    errors = database.tables.errors
    work = errors.insert().values(uid="work", exception_class_path="", message="", traceback="")

    with pytest.raises(ZeroDivisionError), database.engine.begin() as connection:  # noqa: PT012
        connection.execute(work)
        assert backend.finish(claim, DONE, connection) is True
        raise ZeroDivisionError
    after_rollback = status_of(backend, uid)
    with database.engine.begin() as connection:
        connection.execute(work)
        assert backend.finish(claim, DONE, connection) is True

    with database.engine.connect() as connection:
        rows = connection.execute(select(errors).where(errors.c.uid == "work")).all()
    assert after_rollback is RUNNING
    assert status_of(backend, uid) is SUCCESSFUL
    assert len(rows) == 1


@task(max_attempts=2, backoff=lambda _attempt: 77.0)
def fails_slowly() -> None:
    raise ValueError


def test_backoff_that_is_a_function_is_the_tasks_where_the_job_is_run(make_backend):
    backend = make_backend()
    job = Job(backend.new_uid(), Call(fails_slowly.func, (), None), fails_slowly)
    backend.enqueue([job])

    claim = claim_one(backend)

    assert claim.job.options.delay_seconds(1, 0.0) == 77.0
    assert backend.get(job.uid).job.options.max_attempts == 2


def test_job_of_a_worker_that_nobody_knows_waits_again(make_backend, database, clock):
    forgotten, alive = make_backend(), make_backend(lease_seconds=20, monotonic=clock)
    uid = enqueued(forgotten)
    claim_one(forgotten, "the forgotten one")
    workers = database.tables.workers
    with forgotten._dialect.side_database.connect() as connection:
        connection.execute(delete(workers))

    alive.prune()
    rescued = rescued_meanwhile(alive, clock, 22)
    before = status_of(alive, uid)
    alive.prune()

    assert (rescued, before) == (0, RUNNING)
    assert status_of(alive, uid) is READY


def test_worker_that_leaves_while_it_holds_a_job_stays_known_until_it_is_taken_from(make_backend):
    left, alive = make_backend(), make_backend()
    uid = enqueued(left)
    claim_one(left, "the one that leaves")

    left.close()

    assert alive.rescue() == 1
    assert (status_of(alive, uid), alive.get(uid).errors) == (READY, ())


@pytest.mark.parametrize("way", ["relative", "linked", "uri"])
def test_workers_that_reach_sqlites_file_by_other_ways_know_each_other(way, tmp_path, monkeypatch):
    for name in ("real", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "real")
    path = tmp_path / "real" / "jobs.db"
    (tmp_path / "link.db").symlink_to(path)
    other_url = {
        "relative": "sqlite:///jobs.db",
        "linked": f"sqlite:///{tmp_path}/link.db",
        "uri": f"sqlite:///file:{path}?uri=true",
    }[way]
    busy = SqlBackend(create_engine(f"sqlite:///{path}"))
    other = SqlBackend(create_engine(other_url))
    with closing(busy), closing(other):
        busy.open(create_tables=True)
        other.open(create_tables=True)
        uid = enqueued(busy)
        claim_one(busy, "the busy one")
        claimed_by_other = enqueued(other)
        claim_one(other, "the other one")
        monkeypatch.chdir(tmp_path / "elsewhere")  # as a job may do

        assert other.rescue() == busy.rescue() == 0
        assert len(other.overview.workers()) == len(busy.overview.workers()) == 2
        assert status_of(other, uid) is status_of(busy, claimed_by_other) is RUNNING
    for backend in (busy, other):
        backend.engine.dispose()


def test_script_that_holds_sqlites_lock_is_told_so_at_the_enqueue(tmp_path):
    with JobQueue("sql", url=f"sqlite:///{tmp_path}/jobs.db", threads=0) as queue:
        queue.session.execute(text("CREATE TABLE note (text VARCHAR)"))
        queue.session.execute(text("INSERT INTO note VALUES ('x')"))
        mark_changed(queue.session())

        with pytest.raises(ConfigError, match=r"commit before, or enqueue inside `with queue"):
            queue.perform(int)
        transaction.abort()

        assert queue.perform(int)
