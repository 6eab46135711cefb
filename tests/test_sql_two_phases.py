"""Sessions that commit in two phases: what a death between the two leaves, and who settles it.

A prepared transaction outlives its process, and keeps its locks: nobody but an operator, or a
program of the application's, knows how it is to end. Until then a job in it is not there, a job
that it completes runs for nobody else, and nothing else waits for either.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator

import pytest
import transaction
import zope.sqlalchemy
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import scoped_session, sessionmaker

from own_servers import own_server
from sqlchildren import ForkServer
from sqlqueues import PREFIX, PREFIX_VARIABLE, Place, write_one
from tgext.asyncjob import JobQueue
from tgext.asyncjob.job import READY, RUNNING, SUCCESSFUL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def place(request) -> Iterator[Place]:
    with own_server(request.param) as server:  # what is prepared and left keeps its locks
        made = Place(server.url)
        yield made
        made.drop()


@pytest.fixture
def queue(place) -> Iterator[JobQueue]:
    yield place.queue(lease=1)
    place.close_queues()
    place.empty()


def two_phases_on(url: str) -> scoped_session:
    # At REPEATABLE READ MariaDB keeps gaps locked, too, and others wait there for what is prepared.
    engine = create_engine(url, isolation_level="READ COMMITTED")
    made = scoped_session(sessionmaker(bind=engine, twophase=True))
    zope.sqlalchemy.register(made)
    return made


def be_killed_in_the_second_phase(url: str, runs: bool) -> None:
    """A process of the application: it dies when all has been prepared.

    runs: a job, which comes before its own request.
    """
    session = two_phases_on(url)
    queue = JobQueue("sql", session=session, table_prefix=PREFIX, threads=0, secret="swordfish")
    event.listen(
        session.get_bind(), "commit_twophase", lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    )
    if runs:
        queue.run_pending(1)
    with queue.in_transaction():
        session.execute(text("SELECT 1"))
        queue.perform(write_one, "enqueued")
        transaction.commit()


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer("test_sql_two_phases", **{PREFIX_VARIABLE: PREFIX}) as made:
        yield made


@pytest.fixture
def die(place: Place, fork_server: ForkServer) -> Callable[[bool], None]:
    """Lets a process die. Its argument: while it runs a job."""

    def start(runs: bool) -> None:
        function = "test_sql_two_phases:be_killed_in_the_second_phase"
        assert fork_server.run(function, url=place.url, runs=runs) == -signal.SIGKILL

    return start


def settle(place: Place, how: str) -> None:
    """End what is prepared, as an operator does: "COMMIT" or "ROLLBACK"."""
    with place.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if place.kind == "postgresql":
            names = connection.execute(text("SELECT gid FROM pg_prepared_xacts")).scalars().all()
            statements = [f"{how} PREPARED '{name}'" for name in names]
        else:
            names = [row.data.decode() for row in connection.execute(text("XA RECOVER"))]
            statements = [f"XA {how} '{name}'" for name in names]
        assert len(statements) == 1
        connection.exec_driver_sql(statements[0])


@pytest.mark.parametrize(("how", "ran"), [("COMMIT", 1), ("ROLLBACK", 0)])
def test_request_that_dies_between_the_phases_leaves_its_job_to_who_settles_it(
    place, queue, die, how, ran
):
    die(False)
    uid = queue.perform(write_one, "another")

    assert queue.run_pending() == 1  # nothing waits for what is prepared
    assert queue.result(uid).status is SUCCESSFUL

    settle(place, how)
    assert queue.run_pending() == ran


@pytest.mark.parametrize(("how", "status"), [("COMMIT", SUCCESSFUL), ("ROLLBACK", READY)])
def test_job_whose_worker_dies_between_the_phases_is_left_to_who_settles_it(
    place, queue, die, how, status
):
    uid = queue.perform(write_one, "done")
    die(True)

    queue.backend.rescue()
    assert queue.result(uid).status is RUNNING
    assert queue.perform(write_one, "another")
    assert queue.run_pending() == 1

    settle(place, how)
    queue.backend.rescue()
    assert queue.result(uid).status is status
    queue.run_pending()
    assert queue.result(uid).status is SUCCESSFUL
    assert place.written() == [("another", 1), ("done", 1)]


@pytest.fixture
def queue_in_two_phases(place) -> Iterator[JobQueue]:
    session = two_phases_on(place.url)
    made = JobQueue("sql", session=session, table_prefix=PREFIX, threads=0, secret="swordfish")
    yield made
    made.close()
    session.remove()
    session.get_bind().dispose()
    place.empty()


def test_job_is_completed_in_two_phases_and_nobody_complains(place, queue_in_two_phases, caplog):
    uid = queue_in_two_phases.perform(write_one, "done")

    queue_in_two_phases.run_pending()

    assert queue_in_two_phases.result(uid).status is SUCCESSFUL
    assert place.written() == [("done", 1)]
    assert [each.message for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_second_phase_whose_answer_was_lost_is_looked_up(place, queue_in_two_phases, caplog):
    uid = queue_in_two_phases.perform(write_one, "done")
    dialect = queue_in_two_phases.backend.engine.dialect
    commit = dialect.do_commit_twophase

    def commit_and_break(connection, *arguments, **keywords):
        commit(connection, *arguments, **keywords)
        connection.invalidate()
        raise OperationalError("COMMIT", {}, Exception("the server has gone"))

    dialect.do_commit_twophase = commit_and_break
    queue_in_two_phases.run_pending()
    del dialect.do_commit_twophase

    result = queue_in_two_phases.result(uid)
    assert (result.status, result.attempts, result.errors) == (SUCCESSFUL, 1, [])
    assert place.written() == [("done", 1)]
    assert "committed, and the answer was lost" in caplog.text
