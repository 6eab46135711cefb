"""Each attempt in a transaction and a session of its own: JobQueue(session=...), no TurboGears."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import transaction
import zope.sqlalchemy
from sqlalchemy import insert
from sqlalchemy.orm import scoped_session, sessionmaker
from transaction.interfaces import TransientError

from tgext.asyncjob import (
    ConfigError,
    JobQueue,
    JobTimeout,
    NotCommitted,
    TaskResultStatus,
    asyncjob_perform,
    asyncjob_result,
    task,
)
from tgext.asyncjob.transactions.scope import TRIES

SUCCESSFUL, FAILED, READY = (
    TaskResultStatus.SUCCESSFUL,
    TaskResultStatus.FAILED,
    TaskResultStatus.READY,
)


@pytest.fixture
def held(database):
    """A queue on the database whose jobs run where ``run_pending`` is called."""
    with JobQueue(threads=0, session=database.Session) as made:
        yield made


def run(queue, job, *args):
    """Enqueue, run what is pending, and give the result."""
    result = queue.result(queue.perform(job, *args))
    queue.run_pending()
    result.refresh()
    return result


def nothing():
    pass


# -- commit and abort


def test_what_a_job_did_is_committed_when_it_returns(database, held):
    assert run(held, database.add, "done").status is SUCCESSFUL

    assert database.texts() == ["done"]


def test_nothing_is_committed_before_the_job_returned(database):
    seen = []

    def job():
        database.add("done")
        database.Session.flush()
        database.Session.execute(database.Note.__table__.select())
        seen.append(transaction.manager.manager._txn is not None)

    with JobQueue(threads=1, session=database.Session) as queue:
        queue.start_worker()
        queue.result(queue.perform(job)).wait(20)

    assert seen == [True]
    assert database.texts() == ["done"]


class Odd(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, GeneratorExit, Odd, asyncio.CancelledError, StopIteration]
)
def test_what_a_job_did_is_undone_when_it_raises_whatever_it_raises(database, error):
    def job():
        database.add("undone")
        database.Session.flush()
        raise error("x")

    with JobQueue(threads=1, session=database.Session) as queue:
        queue.start_worker()
        bad = queue.result(queue.perform(job))
        after = queue.result(queue.perform(database.add, "after"))

        assert bad.wait(20).status is FAILED
        assert after.wait(20).status is SUCCESSFUL
    assert database.texts() == ["after"]


def test_the_work_of_a_failed_attempt_is_not_in_the_next_one(database, held):
    attempts = []

    @task(max_attempts=2, backoff=0)
    def job():
        attempts.append(len(database.Session.new))
        database.add(f"attempt {len(attempts)}")
        if len(attempts) == 1:
            raise ValueError

    result = job.enqueue()
    held.run_pending()

    result.refresh()
    assert result.status is SUCCESSFUL
    assert attempts == [0, 0]
    assert database.texts() == ["attempt 2"]


def test_a_commit_that_fails_fails_the_job(database, held):
    database.add_committed("taken")

    result = run(held, database.add, "taken")

    assert result.status is FAILED
    assert result.errors[0].exception_class_path == "sqlalchemy.exc.IntegrityError"
    assert database.texts() == ["taken"]


def test_a_job_may_commit_in_the_middle_and_goes_on(database, held):
    def job():
        database.add("first part")
        transaction.commit()
        database.add("second part")
        transaction.commit()
        database.add("third part")
        raise ValueError

    assert run(held, job).status is FAILED

    assert database.texts() == ["first part", "second part"]


def test_a_job_may_abort_a_part_and_go_on(database, held):
    def job():
        database.add("aborted")
        database.Session.flush()
        transaction.abort()
        database.add("kept")

    assert run(held, job).status is SUCCESSFUL

    assert database.texts() == ["kept"]


def test_a_job_that_leaves_its_transaction_doomed_fails_and_undoes_its_work(database, held):
    def job():
        database.add("doomed")
        transaction.doom()

    result = run(held, job)

    assert result.status is FAILED
    assert result.errors[0].exception_class_path == "transaction.interfaces.DoomedTransaction"
    assert database.texts() == []


def test_a_cancelled_job_that_swallows_the_cancellation_does_not_commit(database, gate):
    def job():
        database.add("cancelled")
        gate.enter()

    with JobQueue(threads=1, session=database.Session) as queue:
        queue.start_worker()
        result = queue.result(queue.perform(job))
        gate.wait_for()
        assert result.cancel()
        gate.open()

        assert result.wait(20).status is TaskResultStatus.CANCELLED
    assert database.texts() == []


def test_a_cancelled_job_that_swallows_the_cancellation_commits_no_other_participant(gate):
    """A mailer, say, that sends what is committed."""
    sent = []

    def job():
        transaction.get().addAfterCommitHook(sent.append)
        gate.enter()

    with JobQueue(threads=1) as queue:
        queue.start_worker()
        result = queue.result(queue.perform(job))
        gate.wait_for()
        assert result.cancel()
        gate.open()

        assert result.wait(20).status is TaskResultStatus.CANCELLED
    assert sent == []


def test_a_cancelled_job_cannot_commit_a_part_either(database, gate):
    """API.md: the job's commit is a checkpoint, and a part is committed under the same fence."""

    def job():
        database.add("cancelled")
        gate.enter()
        transaction.commit()

    with JobQueue(threads=1, session=database.Session) as queue:
        queue.start_worker()
        result = queue.result(queue.perform(job))
        gate.wait_for()
        assert result.cancel()
        gate.open()

        assert result.wait(20).status is TaskResultStatus.CANCELLED
    assert database.texts() == []


# -- the session is removed


def raises(database):
    database.add("x")
    raise ValueError


def cannot_commit(database):
    database.add("taken")


def works(database):
    database.add("x")


@pytest.mark.parametrize("how", [works, raises, cannot_commit], ids=lambda job: job.__name__)
def test_the_session_is_removed_after_every_attempt(database, held, how):
    database.add_committed("taken")

    run(held, how, database)

    assert database.Session.registry.has() is False
    assert transaction.manager.manager._txn is None
    assert database.engine.pool.checkedout() == 0


@pytest.mark.parametrize("how", [works, raises, cannot_commit], ids=lambda job: job.__name__)
def test_the_next_job_in_the_thread_begins_without_a_session(database, how):
    database.add_committed("taken")
    with JobQueue(threads=1, session=database.Session) as queue:
        queue.start_worker()
        queue.perform(how, database)

        has = queue.result(queue.perform(database.Session.registry.has)).wait(20)

        assert has.return_value is False


def test_the_session_is_removed_when_the_vote_of_another_participant_fails(database, held):
    class Refuses:
        transaction_manager = transaction.manager

        def sortKey(self):
            return "zzz"

        def tpc_vote(self, txn):
            raise ValueError("I vote no")

        def ignore(self, txn):
            pass

        abort = tpc_begin = commit = tpc_finish = tpc_abort = ignore

    def job():
        database.add("x")
        transaction.get().join(Refuses())

    result = run(held, job)

    assert result.errors[0].message == "I vote no"
    assert database.Session.registry.has() is False
    assert database.texts() == []


def test_a_session_of_two_threads_is_two_sessions(database, gate):
    def job():
        found = id(database.Session())
        gate.enter()
        return found

    with JobQueue(threads=2, session=database.Session) as queue:
        queue.start_worker()
        results = [queue.result(queue.perform(job)) for _ in range(2)]
        gate.wait_for(2)
        gate.open()

        assert len({result.wait(20).return_value for result in results}) == 2


# -- errors that pass


def test_a_passing_error_is_retried_in_place_and_costs_no_attempt(database, held):
    tries = []

    def job():
        tries.append(len(database.Session.new))
        database.add(f"try {len(tries)}")
        if len(tries) < 3:
            raise TransientError("deadlock, say")

    result = run(held, job)

    assert result.status is SUCCESSFUL
    assert tries == [0, 0, 0]
    assert (result.attempts, result.errors) == (1, [])
    assert database.texts() == ["try 3"]


def test_a_passing_error_is_retried_in_place_without_a_session_too(held):
    tries = []

    def job():
        tries.append(1)
        if len(tries) < 3:
            raise TransientError

    result = run(held, job)

    assert (result.status, len(tries), result.attempts) == (SUCCESSFUL, 3, 1)


def test_an_error_that_does_not_pass_after_all_fails_the_attempt(database, held):
    tries = []

    def job():
        tries.append(1)
        database.add("x")
        raise TransientError("still")

    result = run(held, job)

    assert result.status is FAILED
    assert [error.message for error in result.errors] == ["still"]
    assert (len(tries), result.attempts) == (TRIES, 1)


# -- savepoints


def test_a_savepoint_in_a_job_takes_back_its_part_of_either_kind(database, held):
    def job():
        database.add("kept")
        savepoint = transaction.savepoint()
        database.add("taken back by transaction")
        savepoint.rollback()
        nested = database.Session.begin_nested()
        database.add("taken back by the session")
        nested.rollback()
        with database.Session.begin_nested():
            database.add("kept too")

    assert run(held, job).errors == []

    assert database.texts() == ["kept", "kept too"]


def test_a_savepoint_that_is_rolled_back_takes_its_jobs_along(database, held):
    ran = []

    def job():
        database.add("x")
        asyncjob_perform(ran.append, "before")
        savepoint = transaction.savepoint()
        asyncjob_perform(ran.append, "in a savepoint")
        savepoint.rollback()
        with database.Session.begin_nested() as nested:
            asyncjob_perform(ran.append, "in a nested transaction")
            nested.rollback()
        with database.Session.begin_nested():
            asyncjob_perform(ran.append, "released")
        asyncjob_perform(ran.append, "after")

    assert run(held, job).errors == []

    assert ran == ["before", "released", "after"]


# -- jobs that jobs enqueue


def test_a_job_of_a_job_exists_only_if_that_one_succeeds(database, held):
    ran = []

    def parent(error):
        database.add(f"parent {error}")
        asyncjob_perform(ran.append, error)
        if error:
            raise error

    run(held, parent, ValueError("x"))
    run(held, parent, None)

    assert ran == [None]


def test_waiting_for_a_job_of_ones_own_transaction_is_refused(held):
    def parent():
        asyncjob_result(asyncjob_perform(nothing)).wait(20)

    [error] = run(held, parent).errors

    assert error.exception_class is NotCommitted
    assert "waiting here would never end" in error.message


# -- in_transaction


def test_jobs_in_a_transaction_begin_with_its_commit(database, held):
    with held.in_transaction():
        database.add("data")
        result = held.result(held.perform(database.texts))
        assert held.backend.waiting() == 0
    assert held.backend.waiting() == 0  # it does not commit by itself
    transaction.commit()

    assert held.run_pending() == 1
    result.refresh()
    assert result.return_value == ["data"]


def test_jobs_in_a_transaction_that_is_committed_inside_the_block(held):
    with held.in_transaction():
        held.perform(nothing)
        transaction.commit()
        assert held.backend.waiting() == 1
        held.perform(nothing)
        assert held.backend.waiting() == 1
        transaction.commit()
    assert held.run_pending() == 2


def test_jobs_in_a_transaction_that_is_aborted_never_were(database, held):
    def handler():
        database.add("data")
        held.perform(nothing)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), held.in_transaction(), transaction.manager:
        handler()

    assert held.run_pending() == 0
    assert database.texts() == []


def test_jobs_after_the_transaction_are_enqueued_at_once(held):
    with held.in_transaction():
        transaction.commit()
    held.perform(nothing)

    assert held.run_pending() == 1


def test_jobs_outside_a_managed_transaction_are_enqueued_at_once_whatever_is_open(database, held):
    database.Session.query(database.Note).all()

    held.perform(nothing)

    assert held.backend.waiting() == 1
    transaction.abort()
    assert held.run_pending() == 1


def test_a_block_says_the_contrary_of_the_one_around_it(held):
    with held.in_transaction():
        held.perform(nothing)
        with held.in_transaction(False):
            held.perform(nothing)
            waiting = held.backend.waiting()
        held.perform(nothing)
        transaction.abort()

    assert waiting == 1
    assert held.run_pending() == 1


def test_savepoints_in_a_transaction_take_their_jobs_along(database, held):
    ran = []
    with held.in_transaction(), transaction.manager:
        database.add("x")
        held.perform(ran.append, 1)
        outer = transaction.savepoint()
        held.perform(ran.append, 2)
        with database.Session.begin_nested():
            held.perform(ran.append, 3)
        outer.rollback()
        held.perform(ran.append, 4)
        with pytest.raises(ZeroDivisionError), database.Session.begin_nested():
            raise ZeroDivisionError(held.perform(ran.append, 5))
    held.run_pending()

    assert ran == [1, 4]


def test_a_job_cancelled_before_its_commit_never_comes_to_exist(held):
    with held.in_transaction(), transaction.manager:
        result = held.result(held.perform(nothing))
        other = held.result(held.perform(nothing))

        assert result.cancel()

    assert held.run_pending() == 1
    other.refresh()
    assert other.status is SUCCESSFUL


def test_transactions_of_two_threads_have_their_own_jobs(held):
    with held.in_transaction(), transaction.manager:
        held.perform(nothing)
        thread = threading.Thread(target=held.perform, args=[nothing])
        thread.start()
        thread.join(20)
        assert held.backend.waiting() == 1
    assert held.run_pending() == 2


# -- the session of a queue


def test_the_queue_has_the_applications_session(database, held):
    assert held.session is database.Session
    with JobQueue(threads=0) as without:
        assert without.session is None


def test_a_session_that_is_not_registered_is_refused(database):
    from sqlalchemy.orm import scoped_session, sessionmaker

    with pytest.raises(ConfigError, match=r"`zope\.sqlalchemy\.register\(DBSession\)` below it"):
        JobQueue(session=scoped_session(sessionmaker(bind=database.engine)))


def test_jobs_of_a_queue_without_a_session_commit_what_they_join():
    ended = []

    def job(error):
        transaction.get().addAfterCommitHook(lambda committed: ended.append(committed))
        if error:
            raise error

    with JobQueue(threads=0) as queue:
        run(queue, job, None)
        run(queue, job, ValueError())

    assert ended == [True]


@pytest.mark.slow
def test_works_where_neither_sqlalchemy_nor_turbogears_can_be_imported():
    program = """
        import sys
        for name in "sqlalchemy", "zope.sqlalchemy", "tg":
            sys.modules[name] = None
        from tgext.asyncjob import JobQueue, asyncjob_set_progress, task
        tries = []
        @task(max_attempts=2, backoff=0)
        def job():
            asyncjob_set_progress(5)
            tries.append(1)
            if len(tries) == 1:
                raise ValueError
            return "done"
        with JobQueue() as queue:
            queue.start_worker()
            result = job.enqueue().wait(10)
            print(result.return_value, result.attempts, result.progress.value)
            try:
                JobQueue(session=object())
            except ImportError as error:
                print(error)
    """
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert "Traceback" not in ended.stderr
    assert ended.stdout == (
        "done 2 5\na job queue with a database session needs packages that are not installed; "
        "run: pip install 'tgext.asyncjob[sqlalchemy]>=1.0.dev0'\n"
    )


# -- an explicit transaction manager


@pytest.fixture
def explicit():
    transaction.manager.explicit = True
    yield transaction.manager
    transaction.manager.explicit = False


def test_jobs_run_with_an_explicit_transaction_manager(explicit, database, held):
    def fails():
        database.add("undone")
        raise ValueError

    assert run(held, database.add, "done").errors == []
    assert run(held, fails).status is FAILED
    assert run(held, nothing).status is SUCCESSFUL

    assert database.texts() == ["done"]
    assert transaction.manager.manager._txn is None


def test_jobs_in_a_transaction_of_an_explicit_manager(explicit, database, held):
    with transaction.manager, held.in_transaction():
        database.add("data")
        held.perform(database.add, "job")
        assert held.backend.waiting() == 0
    with pytest.raises(ZeroDivisionError), transaction.manager, held.in_transaction():
        raise ZeroDivisionError(held.perform(nothing))
    held.perform(nothing)

    assert held.run_pending() == 2
    assert database.texts() == ["data", "job"]


# -- run_pending


def test_run_pending_counts_and_respects_the_limit(held):
    for _ in range(5):
        held.perform(nothing)

    assert held.run_pending(0) == 0
    assert held.run_pending(limit=2) == 2
    assert held.run_pending() == 3
    assert held.run_pending() == 0


def test_run_pending_runs_what_jobs_enqueue(held):
    held.perform(asyncjob_perform, nothing)

    assert held.run_pending() == 2


def test_run_pending_is_refused_in_a_managed_transaction(held):
    with held.in_transaction(), pytest.raises(RuntimeError) as caught:
        held.run_pending()
    transaction.abort()

    assert str(caught.value) == (
        "run_pending() expected no transaction under way in this thread, and there is "
        "uncommitted work in it; call transaction.commit() or abort() before"
    )


def test_run_pending_is_refused_inside_a_job(held):
    [error] = run(held, held.run_pending).errors

    assert error.exception_class is RuntimeError


@pytest.mark.parametrize("flushed", [False, True])
def test_run_pending_is_refused_where_the_session_holds_work(database, held, flushed):
    held.perform(nothing)
    database.add("mine")
    if flushed:
        database.Session.flush()

    with pytest.raises(RuntimeError, match="uncommitted work"):
        held.run_pending()

    transaction.commit()
    assert database.texts() == ["mine"]
    assert held.run_pending() == 1


def test_run_pending_is_refused_after_a_statement_that_wrote(database, held):
    database.Session.execute(insert(database.Note).values(text="mine"))

    with pytest.raises(RuntimeError, match="uncommitted work"):
        held.run_pending()

    transaction.commit()
    assert database.texts() == ["mine"]


def test_run_pending_after_a_query_is_no_problem(database, held):
    held.perform(nothing)
    assert database.Session.query(database.Note).count() == 0

    assert held.run_pending() == 1


def test_run_pending_ends_a_job_at_its_timeout(database, held):
    def endless():
        database.add("undone")
        until = time.monotonic() + 10
        while time.monotonic() < until:
            pass

    began = time.monotonic()
    result = task(timeout=0.1)(endless).enqueue()
    held.run_pending()
    result.refresh()

    assert time.monotonic() - began < 8
    assert result.status is FAILED
    assert result.errors[0].exception_class is JobTimeout
    assert result.errors[0].message == "the job ran longer than its timeout of 0.1 s"
    assert database.texts() == []


def test_keyboard_interrupt_passes_through_run_pending_and_the_job_waits_again(database, held):
    interrupted = []

    def job():
        database.add(f"try {len(interrupted)}")
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt

    result = held.result(held.perform(job))
    with pytest.raises(KeyboardInterrupt):
        held.run_pending()

    result.refresh()
    assert (result.status, result.attempts, result.errors) == (READY, 0, [])
    assert database.texts() == []
    assert database.Session.registry.has() is False
    assert held.run_pending() == 1
    assert database.texts() == ["try 1"]


def test_session_that_joins_another_transaction_manager_is_refused(database):
    other = scoped_session(sessionmaker(database.engine))
    zope.sqlalchemy.register(other, transaction_manager=transaction.TransactionManager())

    with pytest.raises(ConfigError, match="nothing would commit its work"):
        JobQueue(session=other)


def test_job_whose_commit_is_tried_again_can_be_cancelled_meanwhile(queue, gate):
    tries = []

    class FailsOnce:
        transaction_manager = transaction.manager

        def tpc_vote(self, _txn):
            if len(tries) == 1:
                raise TransientError("deadlock")

        def abort(self, _txn): ...

        tpc_begin = commit = tpc_finish = tpc_abort = abort

        def sortKey(self):
            return "fails once"

    def job():
        tries.append(1)
        transaction.get().join(FailsOnce())
        if len(tries) == 2:
            gate.enter()

    result = queue.result(queue.perform(job))
    gate.wait_for()
    cancelled = result.cancel()
    gate.open()

    assert cancelled is True
    assert result.wait(20).status == "CANCELLED"


# -- who else is in the transaction


class Mail:
    """A data manager that is no session: what it holds is lost with the transaction."""

    def __init__(self):
        self.thrown_away = False
        self.transaction_manager = transaction.manager

    def abort(self, _txn):
        self.thrown_away = True

    def sortKey(self):
        return "mail"


def test_run_pending_does_not_throw_away_what_others_have_in_the_transaction(database):
    mail = Mail()
    with JobQueue(threads=0, session=database.Session) as queue:
        queue.perform(int)
        transaction.get().join(mail)

        with pytest.raises(RuntimeError, match="uncommitted work"):
            queue.run_pending()

        assert not mail.thrown_away
        transaction.abort()
        assert queue.run_pending() == 1


def test_closed_queue_leaves_nothing_behind_on_the_session(database):
    with JobQueue(threads=0, session=database.Session):
        pass
    listeners = [
        len(list(getattr(database.Session.session_factory().dispatch, name)))
        for name in ("after_transaction_create", "after_soft_rollback")
    ]

    assert listeners == [0, 0]


def test_job_that_comes_to_a_closed_queue_is_told_of(database, caplog):
    with JobQueue(threads=0, session=database.Session) as queue:
        result = queue.result(queue.perform(int))
        queue.run_pending()
        result.refresh()
    assert result.retry()

    assert "this process does not run it" in caplog.text
