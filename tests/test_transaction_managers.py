"""Requests whose transaction manager is not ``transaction.manager``: their jobs do not vanish."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import transaction
from sqlalchemy import select, text
from transaction.interfaces import TransientError

from sqlqueues import session_of
from tgext.asyncjob import JobQueue, NotCommitted, asyncjob_timed_query
from tgext.asyncjob.job import CANCELLED, READY, SUCCESSFUL


@pytest.fixture(params=["memory", "sql", "sql with a session"])
def queue(request, database) -> Iterator[JobQueue]:
    options: dict[str, Any] = {}
    if request.param == "sql":
        options = {"backend": "sql", "url": database.url, "secret": "swordfish"}
    elif request.param != "memory":
        options = {"backend": "sql", "session": database.Session, "secret": "swordfish"}
    with JobQueue(threads=0, **options) as made:
        yield made
        transaction.abort()


@pytest.fixture
def tm() -> transaction.TransactionManager:
    """That of a request, as pyramid_tm's explicit_manager makes it."""
    return transaction.TransactionManager(explicit=True)


@pytest.fixture
def warnings(caplog) -> Any:
    def found() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.levelno == logging.WARNING
            and record.name == "tgext.asyncjob.transactions.pending"
        ]

    return found


def nothing() -> None:
    """A job."""


def test_job_begins_with_the_commit_of_the_manager_that_is_named(queue, tm, warnings):
    for _ in range(2):
        with tm, queue.in_transaction(manager=tm):
            uid = queue.perform(nothing)
            assert queue.backend.waiting() == 0
        assert queue.backend.waiting() == 1
        assert queue.run_pending() == 1
        assert queue.result(uid).status is SUCCESSFUL

    assert warnings() == []
    assert transaction.manager.manager._txn is None


def test_job_of_an_aborted_request_never_existed(queue, tm):
    with pytest.raises(ZeroDivisionError), tm, queue.in_transaction(manager=tm):
        raise ZeroDivisionError(queue.perform(nothing))

    assert queue.backend.waiting() == 0


def test_thread_s_own_manager_may_be_named_too(queue):
    manager = transaction.ThreadTransactionManager()
    with manager, queue.in_transaction(manager=manager):
        queue.perform(nothing)
        assert queue.backend.waiting() == 0

    assert queue.run_pending() == 1


def test_sessions_of_the_queue_do_not_carry_what_is_another_manager_s(queue, tm, database):
    """They would keep it in a transaction that nobody commits."""
    with tm, queue.in_transaction(manager=tm):
        if queue.session is not None:
            queue.session.execute(text("SELECT 1"))
        queue.perform(nothing)

    transaction.abort()
    assert queue.run_pending() == 1


def test_cancel_and_retry_in_such_a_request_are_not_lost(queue, tm):
    uid = queue.perform(nothing)
    with tm, queue.in_transaction(manager=tm):
        assert queue.result(uid).cancel() is True
    transaction.abort()
    assert queue.result(uid).status is CANCELLED
    with tm, queue.in_transaction(manager=tm):
        assert queue.result(uid).retry() is True
    transaction.abort()

    assert queue.run_pending() == 1


def test_job_of_the_request_is_ready_there_can_be_cancelled_and_not_waited_for(queue, tm):
    with tm, queue.in_transaction(manager=tm):
        uid = queue.perform(nothing)
        assert queue.result(uid).status is READY
        with pytest.raises(NotCommitted):
            queue.result(uid).wait(0)
        assert queue.result(uid).cancel() is True

    assert queue.backend.waiting() == 0


def test_savepoint_of_that_manager_takes_its_jobs_along(queue, tm):
    with tm, queue.in_transaction(manager=tm):
        queue.perform(nothing)
        savepoint = tm.savepoint()
        queue.perform(nothing)
        savepoint.rollback()

    assert queue.backend.waiting() == 1


def test_hooks_of_that_manager_s_commit_enqueue_with_it(queue, tm):
    tm.begin()
    with queue.in_transaction(manager=tm):
        tm.get().addBeforeCommitHook(queue.perform, (nothing,))
        tm.get().addAfterCommitHook(lambda committed: committed and queue.perform(nothing))
    tm.commit()

    assert queue.run_pending() == 2


def test_attempts_of_that_manager_make_one_job(queue, tm):
    tries = []
    for attempt in tm.attempts(3):
        with attempt, queue.in_transaction(manager=tm):
            queue.perform(nothing)
            tries.append(attempt)
            if len(tries) < 3:
                raise TransientError

    assert queue.run_pending() == 1


def test_attempts_of_the_thread_s_manager_make_one_job(queue):
    tries = []
    for attempt in transaction.manager.attempts(3):
        with attempt, queue.in_transaction():
            queue.perform(nothing)
            tries.append(attempt)
            if len(tries) < 3:
                raise TransientError

    assert queue.run_pending() == 1


def test_block_inside_is_of_the_same_manager(queue, tm):
    with tm, queue.in_transaction(manager=tm):
        with queue.in_transaction(False):
            queue.perform(nothing)
        assert queue.backend.waiting() == 1
        with queue.in_transaction():
            queue.perform(nothing)
        assert queue.backend.waiting() == 1

    assert queue.run_pending() == 2


def test_next_block_of_the_thread_is_of_its_own_manager_again(queue, tm):
    with tm, queue.in_transaction(manager=tm):
        queue.perform(nothing)
    with queue.in_transaction():
        queue.perform(nothing)
        assert queue.backend.waiting() == 1
        transaction.commit()

    assert queue.run_pending() == 2


def test_jobs_of_a_manager_that_is_not_named_are_told_of_with_the_next_request(queue, tm, warnings):
    with tm, queue.in_transaction():
        queue.perform(nothing)
    assert warnings() == []
    with tm, queue.in_transaction():
        [warning] = warnings()
    transaction.abort()

    assert "name it: `in_transaction(manager=request.tm)`" in warning


def test_jobs_of_a_manager_that_is_not_named_are_told_of_where_their_thread_ends(
    queue, tm, warnings
):
    def serve() -> None:
        with tm, queue.in_transaction():
            queue.perform(nothing)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    gc.collect()

    [warning] = warnings()
    assert "jobs in a transaction that was neither committed nor aborted: 1" in warning


def test_blocks_of_one_transaction_that_was_begun_are_told_of_by_nobody(queue, warnings):
    """repoze.tm2 around an application that streams: a block for each part."""
    transaction.begin()
    for _ in range(3):
        with queue.in_transaction():
            queue.perform(nothing)
    transaction.commit()

    assert warnings() == []
    assert queue.run_pending() == 3


def test_timed_query_leaves_an_explicit_transaction_to_be_committed(database):
    transaction.manager.explicit = True
    Session = session_of(database.engine)
    try:
        with JobQueue(session=Session, threads=0) as queue, queue.as_current():
            with transaction.manager, queue.in_transaction():
                asyncjob_timed_query(select(database.Note.id), retries=1, interval=0)
                queue.perform(nothing)
            assert queue.run_pending() == 1
    finally:
        transaction.manager.explicit = False
        Session.remove()
