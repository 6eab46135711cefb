"""The contract of ``backend.py`` fits a database: one fenced attempt on a SQLite file.

A contract that only memory has ever implemented is a guess. What is stored here is thrown away
when the real SQL backend stands; the tests are what it must do, with the application's own
session and the ``transaction`` package around it.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import sqlalchemy
import transaction
from zope.sqlalchemy import mark_changed

from backend_contract import AGAIN, DONE, work
from tgext.asyncjob.backend import ClaimingBackend
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import DEFAULT_OPTIONS, SUCCESSFUL, Claim, Job, JobId, Outcome, WorkerId

TABLE = (
    "CREATE TABLE job (number INTEGER PRIMARY KEY, uid TEXT UNIQUE, asked BLOB, status TEXT, "
    "lease INTEGER DEFAULT 0, attempts INTEGER DEFAULT 0, cancelled INTEGER DEFAULT 0)"
)
CLAIM = (
    "UPDATE job SET status = 'RUNNING', lease = lease + 1, attempts = attempts + 1 WHERE number IN "
    "(SELECT number FROM job WHERE status = 'READY' ORDER BY number LIMIT :limit) "
    "RETURNING asked, lease, attempts"
)
HELD = "WHERE uid = :uid AND lease = :lease AND status = 'RUNNING'"


class SqliteJobs:
    """Thirty lines of storage, with the signatures of ClaimingBackend."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self._engine = engine
        self._change(TABLE, None)

    def enqueue(self, jobs: Sequence[Job], connection: Any = None) -> None:
        insert = "INSERT INTO job (uid, asked, status) VALUES (:uid, :asked, 'READY')"
        for job in jobs:
            self._change(insert, connection, uid=job.uid, asked=pickle.dumps(job))

    def claim(self, worker_id: WorkerId, queues: Collection[str] | None, limit: int) -> list[Claim]:
        with self._engine.begin() as own:
            rows = own.execute(sqlalchemy.text(CLAIM), {"limit": limit}).all()
        return [Claim(pickle.loads(asked), lease, attempt, 0) for asked, lease, attempt in rows]

    def cancel(self, uid: str) -> bool | None:
        cancel = "UPDATE job SET cancelled = 1 WHERE uid = :uid AND status = 'RUNNING'"
        return self._change(cancel, None, uid=uid)

    def fence(self, claim: Claim, connection: Any = None) -> bool:
        fence = f"UPDATE job SET lease = lease {HELD} AND NOT cancelled"
        return self._change(fence, connection, uid=claim.job.uid, lease=claim.lease)

    def finish(self, claim: Claim, outcome: Outcome, connection: Any = None) -> bool:
        finish = f"UPDATE job SET status = :status {HELD}"
        if outcome.status is SUCCESSFUL:
            finish += " AND NOT cancelled"
        held = {"uid": claim.job.uid, "lease": claim.lease}
        return self._change(finish, connection, status=outcome.status.value, **held)

    def release(self, claims: Iterable[Claim]) -> None:
        release = f"UPDATE job SET status = 'READY', attempts = attempts - 1 {HELD}"
        for claim in claims:
            self._change(release, None, uid=claim.job.uid, lease=claim.lease)

    def _change(self, statement: str, connection: Any, **values: Any) -> bool:
        with self._engine.begin() if connection is None else nullcontext(connection) as given:
            return given.execute(sqlalchemy.text(statement), values).rowcount == 1


@pytest.fixture
def jobs(database: Any) -> SqliteJobs:
    return SqliteJobs(database.engine)


@pytest.fixture(autouse=True)
def _no_transaction_left() -> Iterator[None]:
    yield
    transaction.abort()


def a_job(uid: str = "asyncjob_1") -> Job:
    return Job(JobId(uid), Call(work, ("album", 7), None), DEFAULT_OPTIONS)


def connection_of(database: Any) -> Any:
    """The connection of this thread's transaction, which is now sure to be committed."""
    mark_changed(database.Session())
    return database.Session.connection()


def statuses(database: Any) -> dict[str, str]:
    """What another process sees."""
    with database.engine.connect() as own:
        return dict(own.execute(sqlalchemy.text("SELECT uid, status FROM job")).all())


def claimed(jobs: SqliteJobs, worker: str = "w1") -> Claim:
    [claim] = jobs.claim(WorkerId(worker), None, 1)
    return claim


@pytest.mark.parametrize(
    "name", ["enqueue", "claim", "cancel", "fence", "finish", "release"]
)  # fmt: skip
def test_storage_has_the_signatures_of_the_contract(name):
    ours, contracts = getattr(SqliteJobs, name), getattr(ClaimingBackend, name)

    assert inspect.signature(ours) == inspect.signature(contracts)


def test_job_enqueued_on_a_requests_connection_exists_with_its_commit(database, jobs):
    database.add("album")
    jobs.enqueue([a_job()], connection_of(database))
    before = statuses(database)

    transaction.commit()

    assert before == {}
    assert statuses(database) == {"asyncjob_1": "READY"}
    assert database.texts() == ["album"]
    assert claimed(jobs).job == a_job()


def test_job_enqueued_on_a_requests_connection_never_existed_if_that_is_rolled_back(database, jobs):
    database.add("album")
    jobs.enqueue([a_job()], connection_of(database))

    transaction.abort()

    assert statuses(database) == {}
    assert database.texts() == []
    assert jobs.claim(WorkerId("w1"), None, 1) == []


def test_job_enqueued_in_a_savepoint_goes_with_its_rollback(database, jobs):
    jobs.enqueue([a_job("asyncjob_1")], connection_of(database))
    savepoint = database.Session.begin_nested()
    jobs.enqueue([a_job("asyncjob_2")], connection_of(database))
    savepoint.rollback()

    transaction.commit()

    assert statuses(database) == {"asyncjob_1": "READY"}


def test_job_enqueued_without_a_connection_exists_at_once(database, jobs):
    jobs.enqueue([a_job()])

    assert statuses(database) == {"asyncjob_1": "READY"}


def test_work_and_mark_of_an_attempt_are_committed_together(database, jobs):
    jobs.enqueue([a_job()])
    claim = claimed(jobs)

    database.add("thumbnail")
    database.Session.flush()
    assert jobs.fence(claim, connection_of(database)) is True
    assert jobs.finish(claim, DONE, connection_of(database)) is True
    before = statuses(database), database.texts()
    transaction.commit()

    assert before == ({"asyncjob_1": "RUNNING"}, [])
    assert statuses(database) == {"asyncjob_1": "SUCCESSFUL"}
    assert database.texts() == ["thumbnail"]


def test_neither_work_nor_mark_is_there_if_the_attempt_dies_before_its_commit(database, jobs):
    jobs.enqueue([a_job()])
    claim = claimed(jobs)

    database.add("thumbnail")
    assert jobs.finish(claim, DONE, connection_of(database)) is True
    transaction.abort()

    assert statuses(database) == {"asyncjob_1": "RUNNING"}
    assert database.texts() == []
    assert jobs.finish(claim, AGAIN) is True, "the claim holds as before"


def test_stale_lease_is_refused_and_its_work_rolled_back(database, jobs):
    jobs.enqueue([a_job()])
    stale = claimed(jobs)
    jobs.release([stale])
    fresh = claimed(jobs, "w2")

    database.add("thumbnail of a zombie")
    stored = jobs.finish(stale, DONE, connection_of(database))
    transaction.abort()  # what the caller does after False

    assert stored is False
    assert database.texts() == []
    assert statuses(database) == {"asyncjob_1": "RUNNING"}
    database.add("thumbnail")
    assert jobs.finish(fresh, DONE, connection_of(database)) is True
    transaction.commit()
    assert database.texts() == ["thumbnail"]
    assert statuses(database) == {"asyncjob_1": "SUCCESSFUL"}


def test_cancelled_job_is_refused_its_fence_and_its_success(database, jobs):
    jobs.enqueue([a_job()])
    claim = claimed(jobs)
    jobs.cancel(claim.job.uid)

    database.add("thumbnail")
    fenced = jobs.fence(claim, connection_of(database))
    stored = jobs.finish(claim, DONE, connection_of(database))
    transaction.abort()

    assert fenced is False
    assert stored is False
    assert database.texts() == []


def test_follow_up_job_is_enqueued_with_the_mark_of_the_job_that_asked_for_it(database, jobs):
    jobs.enqueue([a_job("asyncjob_1")])
    claim = claimed(jobs)

    jobs.enqueue([a_job("asyncjob_2")], connection_of(database))
    jobs.finish(claim, DONE, connection_of(database))
    before = statuses(database)
    transaction.commit()

    assert before == {"asyncjob_1": "RUNNING"}
    assert statuses(database) == {"asyncjob_1": "SUCCESSFUL", "asyncjob_2": "READY"}
