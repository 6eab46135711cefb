"""A claim's commit waits for no disk: a server that crashes may come back without it.

Then the job waits as if nobody had claimed it, and whoever claims it next is given the number of
the lost lease once more. Only one of the two may commit anything.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError

from backend_contract import DONE, claim_one, enqueued, status_of
from own_servers import OwnServer, own_server
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.job import READY, SUCCESSFUL, Outcome, WorkerId

#: What most jobs come to, and what is stored by statements of its own.
NOTHING = Outcome(SUCCESSFUL)

#: How long a crashed server may take until it answers again, in seconds.
PATIENCE_SECONDS = 20.0


class Crashing:
    """A PostgreSQL that writes nothing behind a commit's back, and crashes when it is told to."""

    def __init__(self, server: OwnServer) -> None:
        self._prefix = f"test_{uuid.uuid4().hex[:8]}_"
        # What it is asked after a crash is asked on a new connection.
        self.engine = create_engine(server.url, pool_pre_ping=True)
        with self.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text("ALTER SYSTEM SET bgwriter_lru_maxpages = 0"))
            connection.execute(text("SELECT pg_reload_conf()"))

    @contextmanager
    def backend(self) -> Iterator[SqlBackend]:
        made = SqlBackend(self.engine, secret="swordfish", prefix=self._prefix)
        with closing(made):
            made.open(create_tables=True)
            yield made

    def hold_the_writer(self) -> None:
        """Stop the process that would write a lazy commit a moment later."""
        with self.engine.connect() as connection:
            self._writer: int = connection.execute(
                text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
            ).scalar_one()
        os.kill(self._writer, signal.SIGSTOP)

    def crash(self) -> None:
        """Lose what was not written; the server restarts by itself."""
        os.kill(self._writer, signal.SIGKILL)
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._has_restarted():
            assert time.monotonic() < until, "the server does not come back"
            time.sleep(0.02)  # nothing tells when a server is ready but to ask it

    def _has_restarted(self) -> bool:
        others = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
        try:
            with self.engine.connect() as connection:
                return not connection.execute(others, {"pid": self._writer}).scalar_one()
        except DBAPIError:
            return False


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_server("postgresql") as made:
        yield made


@pytest.fixture
def crashing(server: OwnServer) -> Iterator[Crashing]:
    made = Crashing(server)
    yield made
    made.engine.dispose()


def test_lost_claim_lets_nobody_finish_what_another_has_claimed(crashing):
    with crashing.backend() as mine, crashing.backend() as others:
        uid = enqueued(mine)
        crashing.hold_the_writer()
        lost = claim_one(mine, "mine")
        crashing.crash()

        assert status_of(mine, uid) is READY
        claim = claim_one(others, "others")

        assert claim.lease == lost.lease
        with crashing.engine.begin() as connection:
            assert not mine.fence(lost, connection)
        assert not mine.finish(lost, DONE)
        assert not mine.finish(lost, NOTHING)
        assert mine.finish_many([(lost, NOTHING), (lost, DONE)]) == [False, False]
        assert others.finish(claim, DONE)
        assert status_of(mine, uid) is SUCCESSFUL


def test_lease_of_a_lost_claim_is_not_given_twice_to_one_worker(crashing):
    with crashing.backend() as backend:
        enqueued(backend)
        crashing.hold_the_writer()
        claim = claim_one(backend, "mine")
        crashing.crash()

        assert backend.claim(WorkerId("mine"), None, 1) == []
        again = claim_one(backend, "mine")

        assert again.lease == claim.lease + 1
        assert not backend.finish(claim, DONE)
        assert backend.finish(again, DONE)


def test_end_of_a_job_is_not_lost(crashing):
    with crashing.backend() as backend:
        uid = enqueued(backend)
        claim = claim_one(backend)
        crashing.hold_the_writer()
        backend.finish(claim, DONE)
        crashing.crash()

        assert status_of(backend, uid) is SUCCESSFUL


@pytest.mark.slow
@pytest.mark.parametrize(("said", "while_claiming"), [("FULL", 1), ("OFF", 0)])
def test_sqlite_waits_for_the_disk_but_for_a_claim(said, while_claiming, tmp_path: Path):
    engine = create_engine(f"sqlite:///{tmp_path}/jobs.db?timeout=30")
    event.listen(engine, "connect", lambda c, _: c.execute(f"PRAGMA synchronous = {said}"))
    seen: list[tuple[str, int]] = []

    with closing(SqlBackend(engine)) as backend:
        backend.open(create_tables=True)

        def look(connection, _cursor, statement: str, *_rest: object) -> None:
            driver: sqlite3.Connection = connection.connection.dbapi_connection
            if statement.startswith(("UPDATE", "INSERT")):
                seen.append((statement[:6], driver.execute("PRAGMA synchronous").fetchone()[0]))

        event.listen(backend._dialect.engine, "before_cursor_execute", look)
        enqueued(backend)
        backend.finish(claim_one(backend), DONE)

    usual = {"FULL": 2, "OFF": 0}[said]
    assert seen == [("INSERT", usual), ("UPDATE", while_claiming), ("UPDATE", usual)]
