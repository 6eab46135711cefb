"""Rescue beside a worker that hangs in the middle of a commit, on the servers.

On SQLite such a worker holds the only write lock there is, and nobody can do anything.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine

from backend_contract import enqueued, status_of
from clocks import rescued_meanwhile
from databases import url_of
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.job import READY, RUNNING, WorkerId

#: The longest that a rescue may take. One that waits for nobody comes nowhere near it.
PATIENCE_SECONDS = 20


@pytest.fixture(params=["postgresql", "mariadb"])
def make_backend(request: Any, tmp_path: Any, clock: Any) -> Iterator[Callable[[], SqlBackend]]:
    """Makes backends on tables of their own, which are dropped in the end."""
    engine = create_engine(url_of(request.param, tmp_path))
    prefix = f"r{uuid.uuid4().hex[:8]}_"
    made: list[SqlBackend] = []

    def make() -> SqlBackend:
        made.append(SqlBackend(engine, prefix=prefix, clock=clock, monotonic=clock))
        made[-1].open(create_tables=True)
        return made[-1]

    yield make
    for backend in made:
        backend.close()
    if made:
        made[0].tables.metadata.drop_all(engine)
    engine.dispose()


def test_worker_that_hangs_in_a_commit_keeps_nobody_from_rescuing_other_jobs(make_backend, clock):
    hung, alive = make_backend(), make_backend()
    committing, waiting = enqueued(hung), enqueued(hung)
    claims = {c.job.uid: c for c in hung.claim(WorkerId("the hung one"), None, 2)}
    rescued: list[int] = []
    rescuer = threading.Thread(
        target=lambda: rescued.append(rescued_meanwhile(alive, clock, 100)), daemon=True
    )

    with hung.engine.begin() as connection:
        assert hung.fence(claims[committing], connection)
        rescuer.start()
        rescuer.join(PATIENCE_SECONDS)
        before = (list(rescued), status_of(alive, committing), status_of(alive, waiting))
    rescuer.join(PATIENCE_SECONDS)

    assert before == ([1], RUNNING, READY)
    assert alive.rescue() == 1  # the commit that hung has ended without a mark
    assert status_of(alive, committing) is READY


def test_job_of_a_dead_worker_that_the_server_still_holds_is_taken_by_the_next_round(
    make_backend, other_process
):
    """A server may not have seen yet that a process has died which was committing."""
    dead, alive, process = make_backend(), make_backend(), other_process()
    committing, waiting = enqueued(dead), enqueued(dead)
    claims = {c.job.uid: c for c in dead.claim(process.worker_id(), None, 2)}

    with dead.engine.begin() as connection:
        assert dead.fence(claims[committing], connection)
        process.die()
        first = (alive.rescue(), status_of(alive, committing), status_of(alive, waiting))
        connection.rollback()

    assert first == (1, RUNNING, READY)
    assert alive.rescue() == 1
    assert status_of(alive, committing) is READY
