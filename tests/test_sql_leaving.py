"""Leaving: whoever was told to stop takes nothing more, and waits for no server for ever."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import transaction
from sqlalchemy.engine import make_url

import sqlqueues
from databases import SERVERS, url_of
from holes import hole
from sqlqueues import KINDS, PATIENCE_SECONDS, Place, place_of
from tgext.asyncjob.job import FAILED, READY, WorkerId

WORKER = WorkerId("w1")


@pytest.fixture(scope="module", params=KINDS)
def module_place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def place(module_place: Place) -> Iterator[Place]:
    yield module_place
    transaction.abort()
    module_place.close_queues()
    module_place.empty()
    sqlqueues.hooks.clear()


class AtRecord(logging.Handler):
    """Does something at the so-and-so-many-th log line that has some words."""

    def __init__(self, words: str, number: int, act: Any) -> None:
        super().__init__()
        self._words, self._left, self._act = words, number, act

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self._left -= 1
            if not self._left:
                self._act()

    def __enter__(self) -> AtRecord:
        logging.getLogger("tgext.asyncjob").addHandler(self)
        return self

    def __exit__(self, *_error: object) -> None:
        logging.getLogger("tgext.asyncjob").removeHandler(self)


def work() -> None:
    pass


@pytest.mark.parametrize("at_once", [1, 5])
def test_worker_that_is_told_to_stop_leaves_a_backlog_of_calls_it_cannot_read(place, at_once):
    """It went on until there was none, behind a close() that had given up on it."""
    queue = place.queue(secret="the old one")
    with queue.in_transaction():
        for _ in range(12):
            queue.perform(work)
        transaction.commit()
    backend = place.queue(secret="the new one").backend
    backend.register(WORKER, None, 1)

    with AtRecord("cannot be run", 3, lambda: backend.retire(WORKER)):
        claims = backend.claim(WORKER, None, at_once)

    counts = backend.counts()
    assert claims == []
    assert (counts[FAILED], counts[READY]) == (3, 9)


def test_run_pending_takes_no_further_job_once_another_thread_has_closed_the_queue(place):
    queue = place.queue()

    closing = threading.Thread(target=queue.close)

    def close_elsewhere() -> None:
        closing.start()
        [worker] = queue.local_worker._callers
        assert worker._stopping.wait(PATIENCE_SECONDS)

    sqlqueues.hooks["close"] = close_elsewhere
    with queue.in_transaction():
        for _ in range(3):
            queue.perform(sqlqueues.after_hook, "close")
        transaction.commit()

    ran = queue.run_pending()
    closing.join(PATIENCE_SECONDS)
    queue.backend.close()  # what the end of that job has opened

    assert ran == 1
    assert place.other_queue().backend.counts()[READY] == 2


# -- a server that neither answers nor refuses

BEHIND_A_HOLE = """
import sys, threading, time
from sqlalchemy import text
from tgext.asyncjob import JobQueue, asyncjob_session

begun = threading.Event()

def queries(sleep):
    session = asyncjob_session()
    session.execute(text("SELECT 1"))
    begun.set()
    session.execute(text(sleep))

def main(url, prefix, sleep):
    queue = JobQueue("sql", url=url, table_prefix=prefix, lease=2, drain_timeout=1, threads=2)
    queue.start_worker()
    queue.result(queue.perform(len, "ab")).wait(20)
    queue.perform(queries, sleep)
    begun.wait(20)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    queue.close()
    print(f"{time.monotonic() - began:.1f}", flush=True)
"""

SLEEPS = {"postgresql": "SELECT pg_sleep(30)", "mariadb": "SELECT sleep(30)"}


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", SERVERS)
def test_close_and_the_exit_wait_for_no_server_whose_packets_are_dropped(kind, tmp_path):
    url = make_url(url_of(kind, tmp_path))
    with place_of(kind, tmp_path), hole(SERVERS[kind][1]) as way:
        through = url.set(host="127.0.0.1", port=way.port).render_as_string(hide_password=False)
        (tmp_path / "behind.py").write_text(BEHIND_A_HOLE)
        program = "import behind, sys; behind.main(*sys.argv[1:])"
        command = [sys.executable, "-c", program, through, sqlqueues.PREFIX, SLEEPS[kind]]
        with subprocess.Popen(
            command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as worker:
            try:
                assert worker.stdout.readline() == "ready\n"
                way.open()
                assert way.swallowed.wait(PATIENCE_SECONDS)  # a heartbeat, say
                told, _ = worker.communicate("close\n", timeout=PATIENCE_SECONDS)
            finally:
                worker.kill()

    assert float(told) < 12
