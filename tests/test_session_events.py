"""What listens to the events of a session enqueues in the middle of its commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import transaction
from sqlalchemy import event

from sqlqueues import KINDS, Effect, Place, place_of
from tgext.asyncjob import JobQueue
from tgext.asyncjob.job import READY


@pytest.fixture(scope="module", params=KINDS)
def database(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, Path(tmp_path_factory.mktemp("events"))) as made:
        yield made


@pytest.fixture(params=["sql", "memory"])
def queue(database: Place, request: Any) -> Iterator[JobQueue]:
    database.empty()
    if request.param == "sql":
        yield database.queue()
    else:
        with JobQueue("memory", session=database.Session, threads=0) as made:
            yield made
    database.close_queues()


@contextmanager
def hears(session: Any, name: str, listener: Callable[..., Any]) -> Iterator[None]:
    event.listen(session, name, listener)
    try:
        yield
    finally:
        event.remove(session, name, listener)


def write_and_commit(session: Any) -> None:
    session.add(Effect(text="of the request"))
    transaction.commit()


@pytest.mark.parametrize("name", ["before_commit", "after_commit"])
def test_job_that_a_listener_enqueues_in_a_commit_exists_with_it(database, queue, name):
    uids: list[str] = []

    def enqueue(_session: Any) -> None:
        uids.append(queue.perform(len, "ab"))

    with queue.in_transaction(), hears(database.Session, name, enqueue):
        write_and_commit(database.Session)

    assert queue.run_pending() == 1
    assert queue.result(uids[0]).return_value == 2
    assert database.written() == [("of the request", 1)]


def test_job_that_a_listener_enqueues_in_a_commit_that_fails_never_existed(database, queue):
    def enqueue(_session: Any) -> None:
        queue.perform(len, "ab")

    def refuse(_session: Any) -> None:
        raise ValueError("refused")

    with (
        queue.in_transaction(),
        hears(database.Session, "before_commit", enqueue),
        hears(database.Session, "before_commit", refuse),
    ):
        with pytest.raises(ValueError, match="refused"):
            write_and_commit(database.Session)
        transaction.abort()

    assert queue.backend.counts()[READY] == 0
    assert database.written() == []


def test_job_that_a_listener_enqueues_in_the_commit_of_a_job_exists_with_it(database, queue):
    places.append(database)
    queue.perform(write)
    with hears(database.Session, "before_commit", lambda _session: queue.perform(len, "ab")):
        assert queue.run_pending(1) == 1
    assert queue.run_pending() == 1


places: list[Place] = []


def write() -> None:
    places[-1].Session.add(Effect(text="of the job"))
