"""How many jobs a worker thread claims at once."""

from __future__ import annotations

import threading
from itertools import count
from types import SimpleNamespace

from databases import sqlite_with_tables
from tgext.asyncjob import JobQueue
from tgext.asyncjob.worker import thread

ended = threading.Event()


def nothing():
    pass


def end():
    ended.set()


def test_what_it_takes_to_store_outcomes_makes_no_batch_smaller(tmp_path, monkeypatch):
    """It is longest where many threads want the database: if each claimed less for it, they would
    need it more often."""
    stored, microseconds = [], count()

    def now():
        return 1e-6 * next(microseconds) + 10 * thread.BATCH_SECONDS * len(stored)

    monkeypatch.setattr(thread, "time", SimpleNamespace(monotonic=now))
    claimed = []
    with JobQueue("sql", url=sqlite_with_tables(tmp_path), threads=1) as queue:
        backend = queue.backend
        claim, finish_many = backend.claim, backend.finish_many

        def note(*arguments):
            claims = claim(*arguments)
            claimed.append(len(claims))
            return claims

        def take_long(*arguments):
            stored.append(arguments)
            return finish_many(*arguments)

        monkeypatch.setattr(backend, "claim", note)
        monkeypatch.setattr(backend, "finish_many", take_long)
        queue.perform_many(nothing, [()] * 30)
        queue.perform(end)
        queue.start_worker()
        assert ended.wait(10)
    assert claimed[:5] == [1, 2, 4, 8, 16]
