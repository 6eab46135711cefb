"""``JobQueue.session_scope()``: a block with the transaction and the session that a job has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import transaction
from sqlalchemy.exc import IntegrityError

from tgext.asyncjob import JobQueue, asyncjob_perform


@pytest.fixture
def held(database) -> Iterator[JobQueue]:
    """A queue on the database whose jobs run where ``run_pending`` is called."""
    with JobQueue(threads=0, session=database.Session) as made:
        yield made


def fails(queue: JobQueue, error: type[BaseException], *steps: Callable[[], Any]) -> None:
    """Take steps in a block that then raises."""
    with queue.session_scope():
        for step in steps:
            step()
        raise error


def test_what_a_block_did_is_committed_at_its_end(database, held):
    with held.session_scope():
        database.add("kept")
        assert database.texts() == []

    assert database.texts() == ["kept"]


def test_what_a_block_did_is_aborted_where_it_raises(database, held):
    with pytest.raises(LookupError):
        fails(held, LookupError, lambda: database.add("lost"))

    assert database.texts() == []


@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
def test_session_of_a_block_is_gone_after_it(database, held, error):
    sessions = []

    with pytest.raises(error):
        fails(held, error, lambda: sessions.append(database.Session()))

    assert database.Session() is not sessions[0]
    assert transaction.manager.manager._txn is None


def test_commit_that_fails_aborts_and_is_raised(database, held):
    database.add_committed("there")

    def add_both() -> None:
        with held.session_scope():
            database.add("new")
            database.Session.flush()
            database.add("there")

    with pytest.raises(IntegrityError):
        add_both()

    assert database.texts() == ["there"]


def test_jobs_of_a_block_begin_to_exist_with_its_commit(database, held):
    with held.session_scope():
        uid = asyncjob_perform(database.add, "by a job")
    with pytest.raises(LookupError):
        fails(held, LookupError, lambda: asyncjob_perform(database.add, "never"))

    assert held.run_pending() == 1
    assert held.result(uid).status == "SUCCESSFUL"
    assert database.texts() == ["by a job"]


def test_queue_is_the_current_one_inside_a_block(held):
    with JobQueue(threads=0) as other, other.session_scope():
        asyncjob_perform(int)

        pending = other._scope.pending_or_none()
        assert pending is not None
        assert len(pending.jobs) == 1


def test_block_inside_a_managed_transaction_is_a_part_of_it(database, held):
    with held.in_transaction():
        with held.session_scope():
            database.add("kept")
        assert database.texts() == []
        transaction.commit()

    assert database.texts() == ["kept"]


def test_block_that_raises_dooms_the_managed_transaction_that_it_is_a_part_of(database, held):
    with held.in_transaction():
        database.add("before")
        with pytest.raises(LookupError):
            fails(held, LookupError)
        assert transaction.isDoomed()
        transaction.abort()

    assert database.texts() == []


def test_block_in_a_thread_with_uncommitted_work_is_refused_and_harms_nothing(database, held):
    database.add("mine")

    with pytest.raises(RuntimeError, match="uncommitted work"), held.session_scope():
        pass

    transaction.commit()
    assert database.texts() == ["mine"]


def test_queue_without_a_database_has_a_scope_too():
    with JobQueue(threads=0) as queue:
        with queue.session_scope():
            uid = asyncjob_perform(int)

        assert queue.run_pending() == 1
        assert queue.result(uid).return_value == 0
