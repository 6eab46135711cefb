"""Which job holds SQLite's one write lock: neither one that reads, nor one that waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text

from tgext.asyncjob.backends.sql import SqlBackend, lock_monitor
from tgext.asyncjob.backends.sql.lock_monitor import LockMonitor
from tgext.asyncjob.job import WorkerId

WRITES = text("INSERT INTO note VALUES (1)")
READS = text("SELECT * FROM note")

#: The id of a worker of which only its lock file tells whether it lives.
ELSEWHERE = WorkerId("in another container")

#: The longest that a thread may take to come to a line.
PATIENCE_SECONDS = 20.0


class MonitoredDatabase:
    """Connections to a file as jobs have them, and the lock monitor of their worker."""

    def __init__(self, path: Path, **options: Any) -> None:
        url = f"sqlite:///{path}"
        self.engine = create_engine(url, connect_args={"timeout": PATIENCE_SECONDS, **options})
        self._own = create_engine(url, isolation_level="AUTOCOMMIT")
        with self._own.connect() as connection:
            connection.execute(text("PRAGMA journal_mode = WAL"))
            connection.execute(text("CREATE TABLE note (number INTEGER)"))
        self._monitor = LockMonitor(self.engine, self._own, str(path))
        self._running: list[tuple[str, Connection]] = []

    def job(self, uid: str) -> Connection:
        self._running.append((uid, self.engine.connect()))
        return self._running[-1][1]

    def named(self) -> dict[str, float]:
        return self._monitor.look(self._running)

    def close(self) -> None:
        for _, connection in self._running:
            connection.close()
        self.engine.dispose()
        self._own.dispose()


@pytest.fixture
def database(tmp_path: Path, monkeypatch: Any) -> Iterator[MonitoredDatabase]:
    """Names at the first look: the test of the worker looks at how long the lock is held."""
    monkeypatch.setattr(lock_monitor, "HELD_SECONDS", 0.0)
    made = MonitoredDatabase(tmp_path / "notes.db")
    yield made
    made.close()


def begin_at_the_first_statement(engine: Engine) -> None:
    """As SQLAlchemy's documentation says, so that savepoints are right."""
    event.listen(engine, "connect", lambda made, _record: setattr(made, "isolation_level", None))
    event.listen(engine, "begin", lambda made: made.exec_driver_sql("BEGIN"))


def test_job_that_has_written_is_named_once_and_no_more_after_its_commit(database, caplog):
    job = database.job("writer")
    before = time.time()

    named = [database.named()]
    job.execute(WRITES)
    named += [database.named(), database.named()]
    job.commit()
    named += [database.named()]

    assert [list(each) for each in named] == [[], ["writer"], ["writer"], []]
    assert named[1] == named[2]
    assert before <= named[1]["writer"] <= time.time()
    assert caplog.text.count("job=writer holds the write lock") == 1


def test_job_that_reads_in_a_transaction_while_another_holds_the_lock_is_not_named(database):
    begin_at_the_first_statement(database.engine)
    database.job("reader").execute(READS)
    database.job("writer").execute(WRITES)

    assert list(database.named()) == ["writer"]


def test_job_that_waits_for_the_lock_is_not_named(database):
    holder, waiter = database.job("holder"), database.job("waiter")
    holder.execute(WRITES)
    waits = threading.Thread(target=waiter.execute, args=[WRITES])
    waits.start()
    until = time.monotonic() + PATIENCE_SECONDS
    while not waiter.connection.dbapi_connection.in_transaction:  # the driver begins, and waits
        assert time.monotonic() < until

    named = list(database.named())

    holder.rollback()
    waits.join(PATIENCE_SECONDS)
    assert named == ["holder"]
    assert list(database.named()) == ["waiter"]


def test_job_that_commits_in_parts_holds_the_lock_since_its_last_commit(database, caplog):
    job = database.job("in parts")
    job.execute(WRITES)
    first = database.named()
    job.commit()
    job.execute(WRITES)

    second = database.named()

    assert second["in parts"] > first["in parts"]


def test_transaction_that_begins_with_the_lock_is_named_before_it_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_monitor, "HELD_SECONDS", 0.0)
    database = MonitoredDatabase(tmp_path / "notes.db", isolation_level="IMMEDIATE")
    database.job("changes nothing").execute(text("UPDATE note SET number = 2"))

    named = list(database.named())

    database.close()
    assert named == ["changes nothing"]


def test_connection_to_another_file_holds_no_lock_of_this_one(database, tmp_path):
    elsewhere = MonitoredDatabase(tmp_path / "elsewhere.db")
    job = elsewhere.job("writes elsewhere")
    job.execute(WRITES)
    database._running += elsewhere._running

    with database.engine.begin() as request:
        request.execute(WRITES)
        named = database.named()

    elsewhere.close()
    assert named == {}


def test_other_processes_are_told_as_long_as_the_lock_is_held_and_the_worker_lives(
    database, tmp_path
):
    worker, other = SqlBackend(database.engine), SqlBackend(database.engine)
    for each in (worker, other):
        each.open(create_tables=True)
    worker.register(ELSEWHERE, None, 1)
    told = []

    for held in ({}, {"a": 5.25}, {"a": 5.25, "b": 7.5}, {}, {"b": 9.0}):
        worker._registry.note_locks(ELSEWHERE, held)
        told.append(other.overview._said_of(["a"])[1])
    with worker._dialect.side_database.connect() as side:
        side.exec_driver_sql("DELETE FROM asyncjob_workers")
    told.append(other.overview._said_of(["a"])[1])
    worker.heartbeat(ELSEWHERE)
    told.append(other.overview._said_of(["a"])[1])
    worker._liveness.after_fork()  # as the kernel does when the process ends
    told.append(other.overview._said_of(["a"])[1])
    worker.close()
    worker._registry.note_locks(ELSEWHERE, {"b": 9.0})

    other.close()
    assert told[:5] == [{}, {"a": 5.25}, {"a": 5.25, "b": 7.5}, {}, {"b": 9.0}]
    assert told[5:] == [{}, {"b": 9.0}, {}]
