"""Leaving: whoever was told to stop takes nothing more, and waits for no server for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import transaction

import sqlqueues
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

    def close_elsewhere() -> None:
        closing = threading.Thread(target=queue.close)
        closing.start()
        closing.join(PATIENCE_SECONDS)

    sqlqueues.hooks["close"] = close_elsewhere
    with queue.in_transaction():
        for _ in range(3):
            queue.perform(sqlqueues.after_hook, "close")
        transaction.commit()

    ran = queue.run_pending()
    queue.backend.close()  # what the end of that job has opened

    assert ran == 1
    assert place.other_queue().backend.counts()[READY] == 2
