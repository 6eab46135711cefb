"""Scope and PendingJobs by themselves, on the transaction package and nothing else."""

from __future__ import annotations

import pytest
import transaction
from transaction.interfaces import TransientError

from tgext.asyncjob.call import Call
from tgext.asyncjob.job import Job
from tgext.asyncjob.task_options import DEFAULT_OPTIONS
from tgext.asyncjob.transactions.scope import TRIES, PendingJobs, Scope


def a_job(uid):
    return Job(uid, Call(int, (), None), DEFAULT_OPTIONS)


def uids(pending):
    return [job.uid for job in pending.jobs]


@pytest.fixture
def handed():
    return []


@pytest.fixture
def pending(handed):
    made = PendingJobs(handed.extend)
    made.add([a_job("a")])
    made.add([a_job("b")])
    return made


class Sessions:
    """What a scope asks of the application's sessions."""

    def __init__(self):
        self.removed = 0
        self.work = False

    def watch(self, used, begun, rolled_back):
        self.begun, self.rolled_back = begun, rolled_back

    def holds_work(self):
        return self.work

    def flush(self): ...

    def has_raised(self, error):
        return True

    def remove(self):
        self.removed += 1


class Savepoint:
    """Something to hang a weak reference on."""


# -- what we rely on in other packages


def test_the_transaction_package_still_lets_us_see_whether_one_is_open():
    """Scope._open_transaction reads ``transaction.manager.manager._txn``: no public name tells
    whether a transaction is open without beginning one. If this fails, look there."""
    transaction.abort()
    assert transaction.manager.manager._txn is None

    begun = transaction.begin()
    assert transaction.manager.manager._txn is begun

    transaction.commit()
    assert transaction.manager.manager._txn is None

    transaction.get()
    assert Scope()._open_transaction() is transaction.manager.manager._txn is not None
    transaction.abort()
    assert Scope()._open_transaction() is None


# -- PendingJobs


def test_pending_jobs_are_handed_over_in_order_by_the_commit_and_only_once(pending, handed):
    transaction.get().join(pending)

    transaction.commit()
    transaction.commit()

    assert [job.uid for job in handed] == ["a", "b"]
    assert pending.jobs == []


def test_pending_jobs_are_forgotten_by_the_abort(pending, handed):
    transaction.get().join(pending)

    transaction.abort()

    assert (handed, pending.jobs) == ([], [])


def test_pending_jobs_are_forgotten_when_another_participant_votes_no(pending, handed):
    class Refuses(PendingJobs):
        def tpc_vote(self, txn):
            raise ValueError

    transaction.get().join(pending)
    transaction.get().join(Refuses(handed.extend))
    with pytest.raises(ValueError):  # noqa: PT011 - it has no message
        transaction.commit()
    transaction.abort()

    assert handed == []


def test_pending_jobs_hand_over_nothing_where_there_is_nothing():
    calls = []
    transaction.get().join(PendingJobs(calls.append))

    transaction.commit()

    assert calls == []


def test_pending_jobs_come_after_the_data_they_are_about(pending):
    assert pending.sortKey() > "~sqlalchemy:99999999"


def test_pending_jobs_after_a_savepoint_are_forgotten_by_its_rollback(pending):
    outer = pending.savepoint()
    pending.add([a_job("c")])
    inner = pending.savepoint()
    pending.add([a_job("d")])

    inner.rollback()
    assert uids(pending) == ["a", "b", "c"]
    inner.rollback()
    outer.rollback()
    assert uids(pending) == ["a", "b"]


def test_pending_job_is_found_and_dropped_by_its_uid(pending):
    assert pending.find("b").uid == "b"
    assert pending.find("z") is None
    assert pending.drop("a") is True
    assert pending.drop("a") is False
    assert uids(pending) == ["b"]


def test_pending_job_enqueued_in_a_savepoint_goes_with_it_though_another_was_cancelled(pending):
    savepoint = pending.savepoint()
    pending.drop("a")
    pending.add([a_job("enqueued in the savepoint")])

    savepoint.rollback()

    assert "enqueued in the savepoint" not in uids(pending)


# -- whose transaction it is


def test_thread_is_managed_inside_the_block_only():
    scope = Scope()
    assert scope.is_managed is False

    with scope.managed():
        assert scope.is_managed is True
        transaction.commit()
        assert scope.is_managed is True

    assert scope.is_managed is False


def test_transaction_stays_managed_after_the_block_until_it_ends():
    scope = Scope()
    with scope.managed():
        transaction.get()

    assert scope.is_managed is True
    transaction.abort()
    assert scope.is_managed is False


def test_open_transaction_alone_is_nobodys():
    transaction.begin()

    assert Scope().is_managed is False
    transaction.abort()


def test_block_that_is_not_managed_inside_one_that_is():
    scope, seen = Scope(), []
    with scope.managed():
        with scope.managed(False):
            seen.append(scope.is_managed)
        seen.append(scope.is_managed)
    transaction.abort()

    assert seen == [False, True]


def test_after_commit_hook_of_a_managed_transaction_is_not_in_it():
    """A job enqueued there would join a transaction that has ended, and never begin."""
    scope, seen = Scope(), []
    with scope.managed():
        pass
    transaction.get().addAfterCommitHook(lambda committed: seen.append(scope.is_managed))

    transaction.commit()

    assert seen == [False]


def test_two_scopes_know_nothing_of_each_other(handed):
    one, other = Scope(), Scope()
    with one.managed():
        one.pending(handed.extend).add([a_job("a")])

        assert other.is_managed is False
        assert other.pending_or_none() is None
    transaction.abort()


def test_pending_is_one_list_for_each_transaction(handed):
    scope = Scope()
    first = scope.pending(handed.extend)
    assert scope.pending(handed.extend) is first is scope.pending_or_none()
    transaction.commit()

    assert scope.pending_or_none() is None
    assert scope.pending(handed.extend) is not first
    transaction.abort()


def test_asking_begins_no_transaction():
    scope = Scope()

    assert (scope.is_managed, scope.pending_or_none(), scope.only_reads()) == (False, None, True)
    scope.forget()

    assert transaction.manager.manager._txn is None


# -- run


def test_run_of_work_that_touched_nothing_begins_no_transaction_and_asks_nobody():
    asked = []

    assert Scope().run(lambda: 5, lambda: asked.append(1)) == 5

    assert asked == []
    assert transaction.manager.manager._txn is None


def test_run_asks_last_before_the_commit_and_commits():
    order = []

    def work():
        transaction.get().addBeforeCommitHook(order.append, ("committing",))
        order.append("working")

    Scope().run(work, lambda _result: order.append("asked"))

    assert order == ["working", "asked", "committing"]


def test_run_does_not_commit_what_the_last_question_refuses(handed):
    scope = Scope()

    def work():
        scope.pending(handed.extend).add([a_job("a")])

    def refuse(_result):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scope.run(work, refuse)

    assert handed == []
    assert transaction.manager.manager._txn is None


def test_run_is_managed_inside_and_not_after_even_if_it_raises():
    scope, seen = Scope(), []

    def work():
        seen.append(scope.is_managed)
        raise SystemExit

    with pytest.raises(SystemExit):
        scope.run(work, lambda _result: None)

    assert seen == [True]
    assert scope.is_managed is False


@pytest.mark.parametrize("error", [None, ValueError, SystemExit])
def test_run_removes_the_session_however_it_ends(error):
    scope, sessions = Scope(), Sessions()
    scope.bind(sessions)

    def work():
        transaction.get()
        if error:
            raise error

    if error:
        with pytest.raises(error):
            scope.run(work, lambda _result: None)
    else:
        scope.run(work, lambda _result: None)

    assert sessions.removed == 1
    assert transaction.manager.manager._txn is None


def test_run_tries_passing_errors_again_so_many_times_and_no_more():
    scope, sessions, tries = Scope(), Sessions(), []
    scope.bind(sessions)

    def work():
        transaction.get()
        tries.append(1)
        raise TransientError

    with pytest.raises(TransientError):
        scope.run(work, lambda _result: None)

    assert len(tries) == sessions.removed == TRIES


def test_run_begins_anew_and_leaves_a_transaction_of_before_to_its_fate(handed):
    scope = Scope()
    transaction.get().join(PendingJobs(handed.extend))
    seen = []

    scope.run(lambda: seen.append(scope.pending_or_none()), lambda _result: None)

    assert (seen, handed) == ([None], [])


def test_rollback_of_a_sessions_savepoint_takes_the_jobs_since_it_began(handed):
    scope, sessions = Scope(), Sessions()
    scope.bind(sessions)
    early, late = Savepoint(), Savepoint()
    sessions.begun(early)
    pending = scope.pending(handed.extend)
    pending.add([a_job("a")])
    sessions.begun(late)
    pending.add([a_job("b")])

    sessions.rolled_back(late)
    assert uids(pending) == ["a"]
    sessions.rolled_back(late)
    sessions.rolled_back(early)
    assert uids(pending) == []
    transaction.abort()


def test_blocks_can_stand_in_one_another():
    scope, handed = Scope(), []

    with scope.managed():
        with scope.managed():
            pass
        transaction.begin()
        assert scope.is_managed is True
        scope.pending(handed.extend).add([a_job("a")])

    transaction.commit()
    assert [job.uid for job in handed] == ["a"]


def test_block_works_where_transactions_are_begun_explicitly():
    scope, handed = Scope(), []
    transaction.manager.explicit = True
    try:
        with scope.managed():
            transaction.begin()
            scope.pending(handed.extend).add([a_job("a")])
            transaction.commit()
    finally:
        transaction.manager.explicit = False

    assert [job.uid for job in handed] == ["a"]
