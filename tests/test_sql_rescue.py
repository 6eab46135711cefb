"""Rescue beside a worker that hangs in the middle of a commit, on the servers.

On SQLite such a worker holds the only write lock there is, and nobody can do anything.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

from backend_contract import enqueued, status_of
from databases import url_of
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.job import READY, RUNNING, WorkerId

#: What a session of a server is called, and whether there is one.
ITS_NUMBER = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
IS_THERE = {
    "postgresql": "SELECT 1 FROM pg_stat_activity WHERE pid = {}",
    "mysql": "SELECT 1 FROM information_schema.processlist WHERE id = {}",
}

#: The longest that a rescue may take. One that waits for nobody comes nowhere near it.
PATIENCE_SECONDS = 20


@pytest.fixture(params=["postgresql", "mariadb"])
def make_backend(request: Any, tmp_path: Any, clock: Any) -> Iterator[Callable[[], SqlBackend]]:
    """Makes backends on tables of their own, which are dropped in the end."""
    engine = create_engine(url_of(request.param, tmp_path))
    prefix = f"r{uuid.uuid4().hex[:8]}_"
    made: list[SqlBackend] = []

    def make() -> SqlBackend:
        made.append(SqlBackend(engine, prefix=prefix, clock=clock))
        made[-1].open(create_tables=True)
        return made[-1]

    yield make
    for backend in made:
        backend.close()
    if made:
        made[0].tables.metadata.drop_all(engine)
    engine.dispose()


def wait_until_gone(engine: Engine, number: int) -> None:
    """Until the server has seen that a session of it was closed."""
    asked = IS_THERE[engine.dialect.name].format(number)
    until = time.monotonic() + PATIENCE_SECONDS
    with engine.connect() as connection:
        while connection.exec_driver_sql(asked).first() is not None:
            assert time.monotonic() < until
            connection.rollback()  # PostgreSQL shows a transaction the same sessions always


def rescued_by(backend: SqlBackend) -> int:
    """Rescue, as soon as the server has noticed that a connection was closed."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not (rescued := backend.rescue()) and time.monotonic() < until:
        pass
    return rescued


def test_worker_that_hangs_in_a_commit_keeps_nobody_from_rescuing_other_jobs(make_backend, clock):
    hung, alive = make_backend(), make_backend()
    committing, waiting = enqueued(hung), enqueued(hung)
    claims = {c.job.uid: c for c in hung.claim(WorkerId("the hung one"), None, 2)}
    clock.advance(100)
    rescued: list[int] = []
    rescuer = threading.Thread(target=lambda: rescued.append(alive.rescue()))

    with hung.engine.begin() as connection:
        assert hung.fence(claims[committing], connection)
        rescuer.start()
        rescuer.join(PATIENCE_SECONDS)
        before = (list(rescued), status_of(alive, committing), status_of(alive, waiting))
    rescuer.join(PATIENCE_SECONDS)

    assert before == ([1], RUNNING, READY)
    assert alive.rescue() == 1  # the commit that hung has ended without a mark
    assert status_of(alive, committing) is READY


def test_job_of_a_dead_worker_that_the_server_still_holds_is_taken_by_the_next_round(make_backend):
    """A server may see of one connection that its process has died, and of another not yet."""
    dead, alive = make_backend(), make_backend()
    committing, waiting = enqueued(dead), enqueued(dead)
    claims = {c.job.uid: c for c in dead.claim(WorkerId("the dead one"), None, 2)}

    with dead.engine.begin() as connection:
        assert dead.fence(claims[committing], connection)
        dead._workers._liveness.let_go()
        first = (alive.rescue(), status_of(alive, committing), status_of(alive, waiting))
        connection.rollback()

    assert first == (1, RUNNING, READY)
    assert alive.rescue() == 1
    assert status_of(alive, committing) is READY


def test_worker_whose_lost_session_lives_on_in_the_server_is_not_dead_when_that_ends(make_backend):
    """As where a router between forgets a connection: only one of its two ends hears of it."""
    alive, other = make_backend(), make_backend()
    uid = enqueued(alive)
    worker = WorkerId("the living one")
    alive.claim(worker, None, 1)
    lost, alive._liveness._connection = alive._liveness._connection, None
    alive.beat(worker)  # by another session, and the lock is that one's still

    number = lost.exec_driver_sql(ITS_NUMBER[lost.dialect.name]).scalar()
    lost.close()
    wait_until_gone(alive.engine, number)

    assert other.rescue() == 0
    assert alive.beat(worker) == []
    assert [seen.worker_id for seen in other.overview.workers()] == [worker]
    alive._liveness.let_go()
    assert rescued_by(other) == 1  # the beat has taken the lock, which proves its life again
    assert status_of(other, uid) is READY
