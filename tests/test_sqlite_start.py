"""Processes that start together on a new file of SQLite all come to use it."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from sqlqueues import PATIENCE_SECONDS, session_of
from tgext.asyncjob import JobQueue
from tgext.asyncjob.backends.sql import sqlite
from tgext.asyncjob.backends.sql.dialects import dialect_of

#: Without the retry, SQLite refuses one of four in about every fourth round.
ROUNDS, STARTERS = 40, 4


def test_starts_that_meet_on_a_new_file_are_not_refused(tmp_path):
    barrier = threading.Barrier(STARTERS, timeout=PATIENCE_SECONDS)

    def start(path: Path) -> list[str]:
        engine = create_engine(f"sqlite:///{path}")
        barrier.wait()
        dialect = dialect_of(engine, "jobs")
        modes = []
        for each in (dialect.engine, dialect.side_database):
            with each.connect() as connection:
                modes.append(connection.exec_driver_sql("PRAGMA journal_mode").scalar())
        dialect.dispose()
        engine.dispose()
        return modes

    with ThreadPoolExecutor(STARTERS) as threads:
        for turn in range(ROUNDS):
            path = tmp_path / f"{turn}.db"
            for started in [threads.submit(start, path) for _ in range(STARTERS)]:
                assert started.result() == ["wal", "wal"]


def test_start_fails_at_last_while_another_reads_the_file(tmp_path, monkeypatch):
    path = tmp_path / "jobs.db"
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("CREATE TABLE t (x)")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
        session = session_of(create_engine(f"sqlite:///{path}"))
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            JobQueue("sql", session=session, threads=0)
