"""The contract on SQLite, PostgreSQL and MariaDB, and what only a database can show."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, delete, select, update

from backend_contract import DONE, BackendContract, claim_one, enqueued, status_of
from databases import url_of
from test_backend_model import RETENTION_SECONDS, compare
from tgext.asyncjob import ConfigError
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.job import FAILED, NO_PROGRESS, READY, RUNNING, SUCCESSFUL, WorkerId

KINDS = ("sqlite", "postgresql", "mariadb")


class Database:
    """Tables of their own prefix in a database, emptied for each test."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = create_engine(url)
        self.prefix = f"test_{uuid.uuid4().hex[:8]}_"
        with closing(self.backend()) as made:
            made.create_tables()
            self.tables = made.tables

    def backend(self, **options: Any) -> SqlBackend:
        return SqlBackend(self.engine, secret="swordfish", prefix=self.prefix, **options)

    def empty(self, backend: SqlBackend) -> None:
        with backend._dialect.engine.begin() as connection, backend._volatile.begin() as beside:
            for table in backend.tables.metadata.sorted_tables:
                (beside if table in backend.beside else connection).execute(delete(table))

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

    compare(fresh, examples=12, steps=30)


# -- what a dead worker held


def test_jobs_of_a_dead_worker_wait_again_and_it_costs_no_attempt(make_backend):
    dead, alive = make_backend(), make_backend()
    uid = enqueued(dead)
    claim_one(dead, "the dead one")
    dead._liveness.let_go()  # what the kernel, or the server, does when a process ends

    rescued = alive.rescue()

    found = alive.get(uid)
    assert rescued == 1
    assert (found.status, found.attempts) == (READY, 0)
    assert found.errors[-1].exception_class_path == "tgext.asyncjob.errors.WorkerCrashed"
    assert dead.finish(claim_one(alive, "the living one"), DONE) is True


def test_late_finish_of_a_worker_that_was_given_up_is_refused(make_backend):
    zombie, alive = make_backend(), make_backend()
    uid = enqueued(zombie)
    stale = claim_one(zombie, "the zombie")
    zombie._liveness.let_go()
    alive.rescue()
    claim_one(alive, "the living one")

    stored = zombie.finish(stale, DONE)

    assert stored is False
    assert status_of(alive, uid) is RUNNING


def test_job_of_a_living_worker_is_left_to_it(make_backend):
    busy, other = make_backend(), make_backend()
    uid = enqueued(busy)
    claim_one(busy, "the busy one")

    assert other.rescue() == 0
    assert status_of(other, uid) is RUNNING


def test_silent_worker_is_given_up_after_its_lease(make_backend, clock):
    silent = make_backend(clock=clock, lease_seconds=20)
    other = make_backend(clock=clock, lease_seconds=20)
    uid = enqueued(silent)
    claim_one(silent, "the silent one")

    clock.advance(19)
    assert other.rescue() == 0
    silent.beat(WorkerId("the silent one"))
    clock.advance(19)
    assert other.rescue() == 0
    clock.advance(2)
    assert other.rescue() == 1

    assert status_of(other, uid) is READY
    assert silent.beat(WorkerId("the silent one")) == [uid]


def test_job_that_ends_its_workers_fails_in_the_end_with_the_evidence(make_backend):
    uid = enqueued(make_backend())
    for _ in range(3):
        worker, rescuer = make_backend(), make_backend()
        claim_one(worker, "w")
        worker._liveness.let_go()
        rescuer.rescue()

    found = make_backend().get(uid)
    assert found.status is FAILED
    assert len(found.errors) == 3
    assert "died" in found.errors[-1].message


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
        seen = elsewhere.progress(uid)

    assert (seen.value, seen.total) == (7, 9)


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
