"""What is promised of jobs in a database, kept by the whole machine: queue, worker, sessions.

On each of the three databases. Most tests run the jobs in their own thread (``run_pending``);
where two must be at work at once there is a worker, or a second queue that shares nothing with
the first but the tables, as another process would.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import transaction
import zope.sqlalchemy
from sqlalchemy import Column, Engine, Integer, create_engine, event, select, update
from sqlalchemy.orm import scoped_session, sessionmaker
from transaction.interfaces import DoomedTransaction

import sqlqueues
from clocks import FakeClock, Gate, rescued_meanwhile
from databases import url_of
from sqlchildren import ForkServer
from sqlqueues import (
    KINDS,
    PATIENCE_SECONDS,
    PREFIX,
    Base,
    Effect,
    Place,
    after_hook,
    count_rows,
    effects,
    enqueue_in_parts,
    hook_after_writing,
    kill_own_process,
    nothing,
    place_of,
    write_and_fail,
    write_in_parts,
    write_mapped,
    write_one,
    write_several,
    write_unflushed,
)
from tgext.asyncjob import (
    ConfigError,
    JobQueue,
    JobTimeout,
    NotCommitted,
    NotSerializable,
    QueueFull,
    TaskResultStatus,
    UnknownJob,
    asyncjob_perform,
    asyncjob_result,
    asyncjob_running_uid,
    asyncjob_session,
    asyncjob_set_progress,
    asyncjob_track,
    task,
)
from tgext.asyncjob.current import attempt_var

READY, RUNNING = TaskResultStatus.READY, TaskResultStatus.RUNNING
SUCCESSFUL, FAILED = TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED
CANCELLED = TaskResultStatus.CANCELLED

log = logging.getLogger(__name__)


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


@pytest.fixture
def queue(place: Place) -> JobQueue:
    """A queue on the application's session, without a worker."""
    return place.queue()


@pytest.fixture
def other(place: Place) -> JobQueue:
    """Another process, as far as the database can tell."""
    return place.other_queue()


def exists(queue: JobQueue, uid: str) -> bool:
    try:
        queue.result(uid)
    except UnknownJob:
        return False
    return True


def status(queue: JobQueue, uid: str) -> TaskResultStatus:
    return queue.result(uid).status


def elsewhere(act: Callable[[], Any]) -> Any:
    """Do something in a thread of its own, and return what it returned."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert found, "it raised, or it did not end"
    return found[0]


# -- enqueue with the transaction


def test_job_exists_for_others_from_the_commit_on_and_its_transaction_has_it_before(
    place, queue, other
):
    with queue.in_transaction():
        uid = queue.perform(write_one, "effect")
        seen_before = exists(other, uid)
        status_before = status(queue, uid)
    transaction.commit()

    assert (seen_before, status_before) == (False, READY)
    assert status(other, uid) is READY
    assert other.run_pending() == 1
    assert place.written() == [("effect", 1)]


def test_job_and_the_row_it_is_about_become_visible_in_one_moment(place, queue, other):
    with queue.in_transaction():
        place.Session.execute(effects.insert().values(text="its order", amount=1))
        uid = queue.perform(nothing)
        stored = [len(place.jobs()), len(place.written())]
    transaction.commit()

    assert stored == [0, 0]
    assert (exists(other, uid), place.written()) == (True, [("its order", 1)])


def test_job_of_an_aborted_transaction_never_was(place, queue):
    with queue.in_transaction():
        place.Session.add(Effect(text="aborted"))
        uid = queue.perform(nothing)
        transaction.abort()

    assert not exists(queue, uid)
    assert (place.jobs(), place.written()) == ([], [])


def test_job_of_a_doomed_transaction_never_was(place, queue):
    with queue.in_transaction():
        uid = queue.perform(nothing)
        transaction.doom()
        with pytest.raises(DoomedTransaction):
            transaction.commit()
        transaction.abort()

    assert not exists(queue, uid)
    assert place.jobs() == []


def test_job_of_a_request_that_raises_never_was(place, queue):
    with (  # noqa: PT012
        pytest.raises(ZeroDivisionError),
        queue.in_transaction(),
        transaction.manager,
    ):
        place.Session.add(Effect(text="before the error"))
        queue.perform(nothing)
        raise ZeroDivisionError

    assert (place.jobs(), place.written()) == ([], [])


def test_job_of_a_commit_that_the_database_refuses_never_was(place, queue):
    with queue.in_transaction():
        queue.perform(nothing)
        place.Session.add(Effect(text=None))  # the column takes none
        with pytest.raises(Exception, match=r"(?i)null"):
            transaction.commit()
        transaction.abort()

    assert (place.jobs(), place.written()) == ([], [])


def test_rolled_back_savepoint_of_the_transaction_takes_its_jobs_along(place, queue):
    with queue.in_transaction():
        place.Session.add(Effect(text="kept"))
        kept = queue.perform(nothing)
        savepoint = transaction.savepoint()
        place.Session.add(Effect(text="dropped"))
        dropped = queue.perform(nothing)
        savepoint.rollback()
        also_kept = queue.perform(nothing)
    transaction.commit()

    assert [row.uid for row in place.jobs()] == [kept, also_kept]
    assert not exists(queue, dropped)
    assert place.written() == [("kept", 1)]


def test_rolled_back_savepoint_of_the_session_takes_its_jobs_along(place, queue):
    with queue.in_transaction():
        kept = queue.perform(nothing)
        nested = place.Session.begin_nested()
        place.Session.add(Effect(text="dropped"))
        queue.perform(nothing)
        nested.rollback()
        with place.Session.begin_nested():
            place.Session.add(Effect(text="kept"))
            released = queue.perform(nothing)
    transaction.commit()

    assert [row.uid for row in place.jobs()] == [kept, released]
    assert place.written() == [("kept", 1)]


def test_rollback_of_the_session_in_the_middle_leaves_no_job_of_before_it(place, queue):
    with queue.in_transaction():
        place.Session.add(Effect(text="before"))
        place.Session.flush()
        queue.perform(write_one, "enqueued before")
        place.Session.rollback()
        with pytest.raises(Exception, match="closed"):  # noqa: PT012 - zope.sqlalchemy's answer
            place.Session.execute(effects.insert().values(text="after", amount=1))
            transaction.commit()
        transaction.abort()

    assert (place.jobs(), place.written()) == ([], [])


def test_job_outside_a_managed_transaction_exists_at_once(place, queue, other):
    place.Session.execute(select(effects.c.id)).all()  # begins one that nobody commits

    uid = queue.perform(nothing)

    assert exists(other, uid)
    transaction.abort()
    assert exists(other, uid)


def test_many_jobs_of_one_transaction_keep_their_order(place, queue):
    with queue.in_transaction():
        uids = [queue.perform(write_one, str(number)) for number in range(20)]
    transaction.commit()

    assert [row.uid for row in place.jobs()] == uids
    assert queue.run_pending() == 20


def test_enqueue_does_not_flush_what_the_request_has_half_built(place, queue):
    flushed: list[str] = []
    event.listen(place.Session, "after_flush", lambda *_: flushed.append("flushed"))
    with queue.in_transaction():
        half_built = Effect()
        place.Session.add(half_built)
        queue.perform(nothing)
        flushed_by_enqueue = list(flushed)
        half_built.text = "whole"
    transaction.commit()

    assert flushed_by_enqueue == []
    assert place.written() == [("whole", 1)]


def test_transaction_that_used_no_session_enqueues_by_one_statement_as_its_last_vote(place, queue):
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        statements.append(statement.split()[0])

    queue.perform(nothing)  # whose statements are of a first time, too
    event.listen(Engine, "before_cursor_execute", note)
    try:
        with queue.in_transaction():
            uid = queue.perform(nothing)
            asked = list(statements)
            transaction.commit()
    finally:
        event.remove(Engine, "before_cursor_execute", note)

    assert (asked, statements) == ([], ["INSERT"])
    assert exists(queue, uid)


def test_job_of_a_transaction_that_another_participant_refuses_never_was(place, queue):
    with queue.in_transaction():
        uid = queue.perform(nothing)
        transaction.get().join(Refusing())
        with pytest.raises(ZeroDivisionError):
            transaction.commit()
        transaction.abort()

    assert not exists(queue, uid)


def test_job_that_cannot_be_stored_fails_the_commit_and_leaves_no_other(place, queue):
    def refuse(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        if statement.startswith("INSERT"):  # they are written by then, and not committed
            raise ZeroDivisionError

    with queue.in_transaction():
        queue.perform(nothing)
        queue.perform(nothing)
        event.listen(Engine, "after_cursor_execute", refuse)
        try:
            with pytest.raises(ZeroDivisionError):
                transaction.commit()
        finally:
            event.remove(Engine, "after_cursor_execute", refuse)
        transaction.abort()

    assert place.jobs() == []


def test_job_is_stored_with_what_a_hook_of_the_commit_writes(place, queue):
    connections: list[Any] = []

    def note(connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        if statement.startswith("INSERT"):
            connections.append(connection)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        with queue.in_transaction():
            queue.perform(nothing)
            transaction.get().addBeforeCommitHook(write_with, (place, "written by a hook"))
            transaction.commit()
    finally:
        event.remove(Engine, "before_cursor_execute", note)

    assert len(connections) == 2
    assert len(set(connections)) == 1
    assert place.written() == [("written by a hook", 1)]


def write_with(place: Place, text: str) -> None:
    place.Session.execute(effects.insert().values(text=text, amount=1))


class Other(Base):
    """Stands in another database."""

    __tablename__ = f"{PREFIX}other"
    id = Column(Integer, primary_key=True)


class Refusing:
    """A participant that votes no."""

    transaction_manager = transaction.manager

    def sortKey(self) -> str:
        return "refusing"

    def tpc_vote(self, _txn: Any) -> None:
        raise ZeroDivisionError

    def abort(self, _txn: Any) -> None: ...

    tpc_begin = commit = tpc_finish = tpc_abort = abort


@contextmanager
def enqueuing_at(name: str, place: Place, queue: JobQueue) -> Iterator[None]:
    """As an application that has a job begin with each row of a model."""
    target: Any = place.Session if name == "before_flush" else Effect

    def enqueue(*_event: Any) -> None:
        queue.perform(nothing)

    event.listen(target, name, enqueue)
    try:
        yield
    finally:
        event.remove(target, name, enqueue)


@pytest.mark.parametrize("name", ["before_flush", "after_insert"])
@pytest.mark.parametrize("within", [True, False], ids=["in the block", "after it"])
def test_job_enqueued_by_the_flush_of_a_commit_belongs_to_it(place, queue, name, within):
    with enqueuing_at(name, place, queue):
        for refuses, jobs in ((True, 0), (False, 1)):
            with queue.in_transaction():
                place.Session.add(Effect(text="half-built"))
                if refuses:
                    transaction.get().join(Refusing())
                if within:
                    end(refuses)
            if not within:
                end(refuses)
            assert (len(place.jobs()), len(place.written())) == (jobs, jobs)


def end(refuses: bool) -> None:
    with pytest.raises(ZeroDivisionError) if refuses else nullcontext():
        transaction.commit()
    transaction.abort()


# -- asking inside the transaction


def test_wait_on_a_job_of_ones_own_transaction_says_that_it_would_wait_for_itself(queue):
    with queue.in_transaction():
        result = queue.result(queue.perform(nothing))
        with pytest.raises(NotCommitted):
            result.wait(20)
    transaction.abort()


def test_job_cancelled_by_the_transaction_that_enqueued_it_never_was(place, queue):
    with queue.in_transaction():
        place.Session.execute(effects.insert().values(text="holds the write lock", amount=1))
        cancelled = queue.result(queue.perform(nothing)).cancel()
        kept = queue.perform(nothing)
        retried = queue.result(kept).retry()
    transaction.commit()

    assert (cancelled, retried) == (True, False)
    assert [row.uid for row in place.jobs()] == [kept]


@pytest.mark.parametrize("writes", [True, False], ids=["writes", "uses no session"])
@pytest.mark.parametrize("ends", [transaction.commit, transaction.abort], ids=["commit", "abort"])
def test_cancel_inside_a_transaction_is_part_of_it(place, queue, other, ends, writes):
    uid = queue.perform(nothing)
    with queue.in_transaction():
        if writes:
            write_with(place, "why")
        cancelled = queue.result(uid).cancel()
        seen_before = status(other, uid)
    ends()

    assert (cancelled, seen_before) == (True, READY)
    assert status(other, uid) is (CANCELLED if ends is transaction.commit else READY)


@pytest.mark.parametrize("writes", [True, False], ids=["writes", "uses no session"])
@pytest.mark.parametrize("ends", [transaction.commit, transaction.abort], ids=["commit", "abort"])
def test_retry_inside_a_transaction_is_part_of_it(place, queue, other, ends, writes):
    uid = queue.perform(write_and_fail, "first")
    queue.run_pending()
    with queue.in_transaction():
        if writes:
            write_with(place, "why")
        retried = queue.result(uid).retry()
    ends()

    assert retried is True
    assert status(other, uid) is (READY if ends is transaction.commit else FAILED)
    assert other.run_pending() == (1 if ends is transaction.commit else 0)


def test_retry_inside_a_transaction_is_announced_once_it_is_committed(queue, other, monkeypatch):
    uid = queue.perform(nothing)
    queue.run_pending()
    seen: list[TaskResultStatus] = []
    announced = queue.backend.announced
    monkeypatch.setattr(
        queue.backend, "announced", lambda jobs: (announced(jobs), seen.append(status(other, uid)))
    )

    for ends in (transaction.abort, transaction.commit):
        with queue.in_transaction():
            queue.result(uid).retry()
        ends()

    assert seen == [READY]


@task
def cancel_another(uid: str, *, fails: bool, writes_before: bool) -> bool:
    if writes_before:
        write_one("held")
    cancelled = asyncjob_result(uid).cancel()
    if fails:
        raise RuntimeError("so nothing of it was")
    return cancelled


@pytest.mark.parametrize("writes_before", [True, False], ids=["holds the lock", "holds nothing"])
def test_cancel_by_a_job_that_has_written_is_committed_with_it(place, queue, writes_before):
    uid = queue.perform(nothing)
    urgent = cancel_another.using(priority=5)
    by = queue.perform(urgent, uid, fails=False, writes_before=writes_before)

    queue.run_pending()

    assert queue.result(by).return_value is True
    assert status(queue, uid) is CANCELLED


@pytest.mark.parametrize("writes", [True, False])
def test_cancel_by_a_job_that_fails_is_undone_with_it(place, queue, writes):
    uid = queue.perform(nothing)
    by = queue.perform(cancel_another.using(priority=5), uid, fails=True, writes_before=writes)

    queue.run_pending()

    assert status(queue, by) is FAILED
    assert status(queue, uid) is SUCCESSFUL


@task
def retry_another(uid: str) -> None:
    asyncjob_result(uid).retry()
    raise RuntimeError("so nothing of it was")


def test_retry_by_a_job_that_fails_is_undone_with_it(place, queue):
    uid = queue.perform(nothing)
    queue.run_pending()
    queue.perform(retry_another, uid)

    ran = queue.run_pending()

    assert (ran, status(queue, uid)) == (1, SUCCESSFUL)


@task(max_attempts=2, backoff=0)
def cancel_itself(*, writes: bool, fails: bool) -> None:
    count_rows()
    if writes:
        write_one("cancelled")
    assert asyncjob_result(asyncjob_running_uid()).cancel()
    if fails:
        raise RuntimeError


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("writes", [True, False])
def test_job_that_used_the_session_and_cancels_itself_is_cancelled(place, queue, writes, fails):
    uid = queue.perform(cancel_itself, writes=writes, fails=fails)

    ran = queue.run_pending(3)

    assert (ran, status(queue, uid), place.written()) == (1, CANCELLED, [])


# -- work and mark


@pytest.mark.parametrize(
    ("function", "arguments", "returned", "left"),
    [
        (write_one, ["a"], "A", [("a", 1)]),
        (write_mapped, ["a"], 7, [("a", 7)]),
        (write_unflushed, ["a"], None, [("a", 1)]),
        (count_rows, [], 0, []),
        (nothing, [], None, []),
    ],
)
def test_job_ends_with_its_work_its_result_and_one_attempt(
    place, queue, other, function, arguments, returned, left
):
    uid = queue.perform(function, *arguments)

    ran = queue.run_pending()

    found = other.result(uid)
    assert ran == 1
    assert (found.status, found.return_value, found.attempts) == (SUCCESSFUL, returned, 1)
    assert place.written() == left


@pytest.mark.parametrize(
    ("function", "arguments", "marks_itself"),
    [
        (write_one, ["a"], True),
        (write_unflushed, ["a"], True),
        (count_rows, [], True),
        (nothing, [], False),
    ],
)
def test_mark_is_the_last_statement_of_a_job_that_used_the_session(
    place, queue, function, arguments, marks_itself
):
    queue.perform(function, *arguments)
    statements: list[str] = []

    def note(_connection, _cursor, statement, *_rest):
        statements.append(
            statement.split()[0] + (" jobs" if f"{sqlqueues.PREFIX}jobs" in statement else "")
        )

    event.listen(place.engine, "before_cursor_execute", note)
    event.listen(place.engine, "commit", lambda _connection: statements.append("COMMIT"))
    try:
        queue.run_pending()
    finally:
        event.remove(place.engine, "before_cursor_execute", note)

    assert statements[-2:] == (["UPDATE jobs", "COMMIT"] if marks_itself else [])


def test_job_that_fails_after_writing_leaves_nothing_but_its_error(place, queue, other):
    uid = queue.perform(write_and_fail, "gone")

    queue.run_pending()

    found = other.result(uid)
    assert place.written() == []
    assert found.status is FAILED
    assert [error.exception_class_path for error in found.errors] == ["builtins.RuntimeError"]
    assert "after gone" in found.errors[0].traceback


def test_error_of_the_commit_itself_fails_the_job_and_leaves_nothing(place, queue):
    uid = queue.perform(write_nothing_into_a_column_that_takes_none)

    queue.run_pending()

    found = queue.result(uid)
    assert (found.status, place.written()) == (FAILED, [])
    assert found.errors[0].exception_class_path.endswith("IntegrityError") or "NULL" in str(
        found.errors[0]
    )


def write_nothing_into_a_column_that_takes_none() -> None:
    write_one("goes with it")
    asyncjob_session().add(Effect(text=None))


def test_follow_up_jobs_begin_to_exist_with_their_job(place, queue):
    queue.perform(write_several, "work")

    ran = queue.run_pending()

    assert ran == 2
    assert place.written() == [("work 0", 1), ("work 1", 5), ("work follow-up", 1)]


@task
def enqueue_and_fail(*, writes: bool) -> None:
    if writes:
        write_one("gone")
    asyncjob_perform(write_one, "follow-up")
    raise RuntimeError


@pytest.mark.parametrize("writes", [True, False])
def test_follow_up_jobs_of_a_job_that_fails_never_were(place, queue, writes):
    queue.perform(enqueue_and_fail, writes=writes)

    ran = queue.run_pending()

    assert ran == 1
    assert (len(place.jobs()), place.written()) == (1, [])


@task(max_attempts=2, backoff=0, takes_context=True)
def fail_once(context: Any) -> int:
    write_one(f"attempt {context.attempt}")
    if context.attempt == 1:
        raise RuntimeError("the first time")
    return context.attempt


def test_second_attempt_begins_from_nothing_and_the_history_is_kept(place, queue, other):
    uid = queue.perform(fail_once)

    queue.run_pending()

    found = other.result(uid)
    assert (found.status, found.attempts, found.return_value) == (SUCCESSFUL, 2, 2)
    assert [error.message for error in found.errors] == ["the first time"]
    assert place.written() == [("attempt 2", 1)]


@task
def report_and_log(*, writes_before: bool) -> dict[str, int]:
    if writes_before:
        write_one("a")
    asyncjob_set_progress(3, {"step": "third"}, total=4)
    log.warning("a line of %s", asyncjob_running_uid())
    sqlqueues.hooks["reported"]()
    return {"is": 1}


@pytest.mark.parametrize("writes_before", [True, False], ids=["holds the lock", "holds nothing"])
def test_progress_is_read_elsewhere_while_the_job_runs_and_all_the_rest_after_it(
    queue, other, writes_before
):
    seen: list[Any] = []
    until = threading.Event()

    def look() -> None:
        for _ in range(200):  # its writer has a thread of its own
            if other.result(uid).progress.value == 3:
                break
            until.wait(0.02)
        seen.extend([other.progress(uid), other.result(uid).status])

    sqlqueues.hooks["reported"] = look
    uid = queue.perform(report_and_log, writes_before=writes_before)

    queue.run_pending()

    found = other.result(uid)
    assert seen == [(3, {"step": "third"}), RUNNING]
    assert other.progress(uid) is None
    assert (found.progress, found.return_value) == ((3, {"step": "third"}, 4), {"is": 1})
    assert found.log[-1].endswith(f"a line of {uid}")
    assert found.started_at <= found.finished_at


def return_an_object() -> object:
    write_one("done")
    return object()


def test_return_value_that_cannot_be_stored_does_not_undo_the_work(place, queue, other, caplog):
    uid = queue.perform(return_an_object)

    queue.run_pending()

    found = other.result(uid)
    assert (found.status, place.written()) == (SUCCESSFUL, [("done", 1)])
    assert "return value" in caplog.text
    with pytest.raises(NotSerializable):
        _ = found.return_value


@pytest.mark.parametrize("name", ["before_flush", "after_insert"])
@pytest.mark.parametrize("in_parts", [True, False])
def test_follow_up_job_of_a_flush_begins_to_exist_with_its_job(place, queue, other, name, in_parts):
    seen: list[int] = []

    def write() -> None:
        place.Session.add(Effect(text="half-built"))
        if in_parts:
            transaction.commit()

    def look(_session: Any) -> None:
        seen.append(len(place.jobs()))

    sqlqueues.hooks["job"] = write
    queue.perform(after_hook, "job")
    event.listen(place.Session, "before_commit", look)
    try:
        with enqueuing_at(name, place, queue):
            queue.run_pending(1)
    finally:
        event.remove(place.Session, "before_commit", look)

    assert (seen, len(place.jobs())) == ([1], 2)


# -- a second database


@pytest.mark.parametrize("is_told_later", [True, False])
def test_session_on_several_databases_serves_jobs_that_are_in_none_of_them(
    place, second, tmp_path, is_told_later
):
    third = create_engine(url_of("sqlite", tmp_path / "third"))
    session = session_on(binds={Effect: second.engine, Other: third})
    options = {"url": place.url, "table_prefix": PREFIX, "threads": 0}

    with JobQueue("sql", None if is_told_later else session, **options) as queue:
        queue.bind(session)
        with queue.as_current():
            uid = queue.perform(write_unflushed, "effect")
            queue.run_pending()

        assert (status(queue, uid), second.written()) == (SUCCESSFUL, [("effect", 1)])


@pytest.mark.parametrize("is_told_later", [True, False])
def test_session_on_several_databases_one_of_which_is_that_of_the_jobs_is_refused(
    place, second, is_told_later
):
    session = session_on(binds={Effect: place.engine, Other: second.engine})
    options = {"url": place.url, "table_prefix": PREFIX, "threads": 0}

    with (
        pytest.raises(ConfigError, match="to the database of the jobs alone"),
        JobQueue("sql", None if is_told_later else session, **options) as queue,
    ):
        queue.bind(session)


def session_on(**binds: Any) -> Any:
    made = scoped_session(sessionmaker(**binds))
    zope.sqlalchemy.register(made)
    return made


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Place]:
    """One that has nothing to do with the jobs."""
    with place_of("sqlite", tmp_path) as made:
        yield made


def write_after(first: Place, second: Place) -> None:
    """Write by a session that would commit after the first one's, as addresses have it."""
    session, passed_over = second.Session(), []
    while id(session.begin()) < id(first.Session().get_transaction()):
        passed_over.append(session.get_transaction())
        session.close()
    session.add(Effect(text="second"))


def refuse(*_event: Any) -> None:
    raise ZeroDivisionError


def test_job_whose_second_database_refuses_its_commit_has_failed(place, queue, second):
    sqlqueues.hooks["then"] = lambda: write_after(place, second)
    event.listen(second.Session, "before_commit", refuse)
    uid = queue.perform(hook_after_writing, "then", "first")

    queue.run_pending()

    assert (status(queue, uid), place.written()) == (FAILED, [])


def test_job_of_a_request_whose_second_database_refuses_its_commit_never_was(place, queue, second):
    event.listen(second.Session, "before_commit", refuse)
    with queue.in_transaction():
        write_with(place, "first")
        write_after(place, second)
        queue.perform(nothing)
        with pytest.raises(ZeroDivisionError):
            transaction.commit()
        transaction.abort()

    assert (place.jobs(), place.written()) == ([], [])


def test_job_that_is_cancelled_before_its_commit_leaves_nothing_in_a_second_database(
    place, queue, other, second
):
    def use_both_and_be_cancelled() -> None:
        count_rows()
        second.Session.add(Effect(text="second"))
        elsewhere(other.result(uid).cancel)

    sqlqueues.hooks["job"] = use_both_and_be_cancelled
    uid = queue.perform(after_hook, "job")

    queue.run_pending()

    assert (status(queue, uid), second.written()) == (CANCELLED, [])


def report_too_much(value: int, total: int | None) -> None:
    asyncjob_set_progress(value, total=total)


@pytest.mark.parametrize(
    ("value", "total", "name"),
    [(2**63, None, "value"), (-(2**63) - 1, None, "value"), (1, 2**70, "total")],
)
def test_progress_that_no_row_holds_is_refused_and_harms_no_other_job(
    queue, other, value, total, name
):
    sqlqueues.hooks["reported"] = nothing
    too_much = queue.perform(report_too_much, value, total)
    good = queue.perform(report_and_log, writes_before=True)
    at_the_bound = queue.perform(report_too_much, -(2**63), 2**63 - 1)

    assert queue.run_pending() == 3

    found = other.result(too_much)
    assert found.status == FAILED
    assert found.errors[-1].exception_class is NotSerializable
    assert f"{name} of at most 64 bits, got {total or value:#x}" in found.errors[-1].message
    assert other.result(good).progress == (3, {"step": "third"}, 4)
    assert other.result(good).status == SUCCESSFUL
    assert other.result(at_the_bound).progress == (-(2**63), None, 2**63 - 1)


@task(max_attempts=2, backoff=0)
def fail_with(message: str) -> None:
    write_one("not kept")
    raise ValueError(message)


@pytest.mark.parametrize("message", ["no file \udcff here", "ends \0 here"])
def test_message_that_no_row_holds_costs_neither_its_attempts_nor_its_words(
    place, queue, other, message
):
    uid = queue.perform(fail_with, message)

    queue.run_pending()

    found = other.result(uid)
    assert (found.status, found.attempts, place.written()) == (FAILED, 2, [])
    assert [error.exception_class for error in found.errors] == [ValueError] * 2
    assert message[:4] in found.errors[0].message
    assert "here" in found.errors[0].message
    assert "fail_with" in found.errors[0].traceback


# -- commits in the middle


def test_job_that_commits_in_the_middle_is_refused_there_once_it_is_anothers(
    place, queue, other, caplog
):
    clock = FakeClock()
    place.let_time_pass(clock, queue, other)
    uid = queue.perform(write_in_parts, "row")
    ended: list[int] = []

    def be_paused_past_the_lease() -> None:
        sqlqueues.hooks.clear()
        rescued_meanwhile(other.backend, clock, 25)
        ended.append(elsewhere(other.run_pending))

    sqlqueues.hooks["second"] = be_paused_past_the_lease

    queue.run_pending()

    # The other attempt has found the first part and done the rest; nothing was done twice.
    assert ended == [1]
    assert place.written() == [("row first", 1), ("row second", 1), ("row third", 1)]
    assert (status(other, uid), other.result(uid).return_value) == (SUCCESSFUL, 3)
    assert "lease lost, outcome dropped" in caplog.text


def test_job_that_commits_what_it_has_enqueued_is_refused_there_once_it_is_cancelled(
    place, queue, other
):
    uid = queue.perform(enqueue_in_parts, "never enqueued")
    sqlqueues.hooks["middle"] = lambda: elsewhere(other.result(uid).cancel)

    queue.run_pending()

    assert status(other, uid) is CANCELLED
    assert [row.uid for row in place.jobs()] == [uid]


def test_job_in_parts_that_is_not_disturbed_commits_each_and_is_told_of_once(place, queue, caplog):
    seen: list[int] = []
    sqlqueues.hooks["third"] = lambda: seen.append(len(place.written()))
    uids = [queue.perform(write_in_parts, text) for text in ("a", "b")]

    queue.run_pending()

    assert seen == [2, 5]
    assert [status(queue, uid) for uid in uids] == [SUCCESSFUL] * 2
    assert caplog.text.count("commits before its end") == 1


def test_job_that_loses_its_lease_before_its_only_commit_commits_nothing(place, queue, other):
    clock = FakeClock()
    place.let_time_pass(clock, queue, other)
    uid = queue.perform(after_hook, "paused", "once")

    def be_paused_past_the_lease() -> None:
        sqlqueues.hooks["paused"] = nothing
        rescued_meanwhile(other.backend, clock, 25)
        ran_elsewhere.append(elsewhere(other.run_pending))

    sqlqueues.hooks["paused"] = be_paused_past_the_lease
    ran_elsewhere: list[int] = []

    queue.run_pending()

    assert ran_elsewhere == [1]
    assert place.written() == [("once", 1)]
    assert (status(queue, uid), queue.result(uid).attempts) == (SUCCESSFUL, 1)


class InterruptedTracker:
    """Has the running job's time run out while it is told of a job that the job has committed."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def track(self, uid: str) -> None:
        attempt: Any = attempt_var.get()
        if attempt is not None:
            elsewhere(lambda: attempt.interrupt(JobTimeout) or True)  # as a worker's watch does
        self.told.append(uid)

    def set_progress(self, uid: str, value: int, data: Any) -> None: ...
    def get_progress(self, uid: str) -> Any: ...
    def remove(self, uid: str) -> None: ...


def commit_two_follow_ups(went_on: str) -> None:
    for name in ("first", "second"):
        asyncjob_perform(write_one, name)
    write_one("part")
    transaction.commit()
    sqlqueues.hooks[went_on]()


def test_timeout_between_a_commit_and_its_announcement_waits_until_all_jobs_are_announced(place):
    tracker, went_on = InterruptedTracker(), []
    queue = place.queue(progress_tracker=tracker)
    sqlqueues.hooks["went on"] = lambda: went_on.append(True)
    uid = queue.perform(commit_two_follow_ups, "went on")

    with queue.as_current():
        queue.run_pending(1)

    found = queue.result(uid)
    assert (found.status, found.errors[-1].exception_class) == (FAILED, JobTimeout)
    assert tracker.told == [row.uid for row in place.jobs()]  # itself, and both follow-ups
    assert went_on == []
    assert place.written() == [("part", 1)]


def write_and_run_out_of_time_in_the_commit(ends: list[bool]) -> None:
    write_one("whole")
    attempt: Any = attempt_var.get()

    def time_out() -> bool:  # as a worker's watch does
        attempt.interrupt(JobTimeout)
        ends.append(attempt.time_out())
        return True

    transaction.get().addBeforeCommitHook(elsewhere, (time_out,))


def test_timeout_in_the_commit_that_ends_a_job_comes_too_late(place):
    queue, ends = place.queue(), []
    sqlqueues.hooks["in time"] = lambda: write_and_run_out_of_time_in_the_commit(ends)
    uid = queue.perform(after_hook, "in time")

    with queue.as_current():
        queue.run_pending(1)

    found = queue.result(uid)
    assert (found.status, found.errors, ends) == (SUCCESSFUL, [], [False])
    assert place.written() == [("whole", 1)]


# -- cancellation across queues


def test_running_job_is_cancelled_from_another_process_at_its_next_checkpoint(place, other):
    queue, begun = place.queue(threads=1), threading.Event()
    sqlqueues.hooks["begun"] = begun.set
    queue.start_worker()
    uid = queue.perform(track_for_ever)
    assert begun.wait(PATIENCE_SECONDS)

    cancelled = other.result(uid).cancel()

    found = other.result(uid).wait(PATIENCE_SECONDS)
    assert (cancelled, found.status, place.written()) == (True, CANCELLED, [])


def track_for_ever() -> None:
    pause = threading.Event()
    for number in asyncjob_track(range(10**9)):
        if number == 1:
            sqlqueues.hooks["begun"]()
        pause.wait(0.01)


@pytest.mark.parametrize("text", ["never", None], ids=["writes", "touches nothing"])
def test_job_that_comes_to_no_checkpoint_is_cancelled_at_its_commit(place, queue, other, text):
    answers: list[bool] = []
    sqlqueues.hooks["begun"] = lambda: answers.append(other.result(uid).cancel())
    uid = queue.perform(after_hook, "begun", text)

    queue.run_pending()

    assert answers == [True]
    assert (status(other, uid), place.written()) == (CANCELLED, [])


def test_cancel_after_the_end_says_so_and_changes_nothing(queue, other):
    uid = queue.perform(nothing)
    queue.run_pending()

    assert other.result(uid).cancel() is False
    assert status(other, uid) is SUCCESSFUL


# -- a thread that holds a lock and cannot be interrupted


@task(timeout=0.2)
def hold_a_lock() -> None:
    asyncjob_session().execute(update(effects).where(effects.c.text == "shared").values(amount=99))
    sqlqueues.hooks["locked"]()


def change_the_shared_row() -> None:
    asyncjob_session().execute(update(effects).where(effects.c.text == "shared").values(amount=2))


def test_timeout_of_a_thread_that_holds_a_lock_lets_the_others_go_on(place):
    queue, gate = place.queue(threads=2), Gate()
    place.write("shared")
    sqlqueues.hooks["locked"] = gate.enter
    queue.start_worker()
    try:
        stuck = queue.perform(hold_a_lock)
        gate.wait_for()
        blocked = queue.perform(change_the_shared_row)

        ended = queue.result(blocked).wait(PATIENCE_SECONDS)
        timed_out = queue.result(stuck).wait(PATIENCE_SECONDS)
    finally:
        gate.open()

    assert (ended.status, timed_out.status) == (SUCCESSFUL, FAILED)
    assert timed_out.errors[-1].exception_class is JobTimeout
    assert place.written() == [("shared", 2)]


# -- what may be stored


def closure_over(text: str) -> Callable[[], str]:
    return lambda: write_one(text)


def test_closure_runs_on_its_module_where_there_is_a_secret(place, queue, other):
    uid = queue.perform(closure_over("from a closure"))

    other.run_pending()

    assert other.result(uid).return_value == "FROM A CLOSURE"
    assert place.written() == [("from a closure", 1)]


def test_closure_is_refused_at_enqueue_without_a_secret_and_both_ways_out_are_named(place):
    queue = place.queue(secret=None)

    with pytest.raises(NotSerializable) as refused:
        queue.perform(closure_over("x"))

    assert "secret" in str(refused.value)
    assert "module" in str(refused.value)
    assert place.jobs() == []


def test_mapped_instance_is_refused_at_enqueue_with_the_way_out(place, queue):
    with pytest.raises(NotSerializable, match=r"\bid\b"):
        queue.perform(write_one, Effect(text="x"))

    assert place.jobs() == []


# -- when and where


def test_delayed_job_starts_when_it_is_due_and_not_before(place, queue):
    clock = FakeClock()
    place.let_time_pass(clock, queue)
    with queue.as_current():
        result = task(write_one).using(run_after=timedelta(hours=1)).enqueue("later")

    clock.advance(3599)
    too_early = queue.run_pending()
    clock.advance(2)
    in_time = queue.run_pending()

    assert (too_early, in_time) == (0, 1)
    assert result.wait(1).status is SUCCESSFUL


def test_delayed_job_of_another_process_runs_here_once_it_is_due(queue, other):
    assert queue.run_pending() == 0  # so that it knows of no delayed job
    with other.as_current():
        task(write_one).using(run_after=timedelta(seconds=0.05)).enqueue("later")
    threading.Event().wait(0.1)

    assert queue.run_pending() == 1


def test_worker_starts_a_delayed_job_by_itself(place):
    queue = place.queue(threads=1)
    queue.start_worker()
    with queue.as_current():
        result = task(write_one).using(run_after=timedelta(seconds=0.2)).enqueue("later")

    found = result.wait(PATIENCE_SECONDS)

    waited = (found.started_at - found.enqueued_at).total_seconds()
    assert found.status is SUCCESSFUL
    assert 0.2 <= waited < 10


def test_jobs_run_by_priority_then_by_age_and_only_from_the_queues_served(place):
    queue, served = place.queue(), place.queue(queues=("mails", "default"))
    ordered: list[str] = []
    with queue.as_current():
        for name, priority, lane in (
            ("low", -5, "default"),
            ("first", 0, "default"),
            ("not served", 100, "reports"),
            ("second", 0, "mails"),
            ("high", 7, "mails"),
        ):
            using = task(note_order).using(priority=priority, queue_name=lane)
            sqlqueues.hooks[name] = lambda name=name: ordered.append(name)
            using.enqueue(name)

    ran = served.run_pending()

    assert ran == 4
    assert ordered == ["high", "first", "second", "low"]


def note_order(name: str) -> None:
    sqlqueues.hooks[name]()


def test_run_pending_runs_as_many_as_it_is_told_and_says_how_many(place, queue):
    for number in range(3):
        queue.perform(write_one, str(number))

    assert queue.run_pending(2) == 2
    assert place.written() == [("0", 1), ("1", 1)]
    assert queue.run_pending() == 1
    assert queue.run_pending() == 0


def test_run_pending_is_refused_where_work_would_be_lost(place, queue):
    with queue.in_transaction(), pytest.raises(RuntimeError, match="no transaction under way"):
        queue.run_pending()
    place.Session.add(Effect(text="mine"))
    with pytest.raises(RuntimeError, match="no transaction under way"):
        queue.run_pending()
    transaction.commit()

    assert place.written() == [("mine", 1)]


def test_enqueue_above_the_bound_is_refused_whoever_filled_the_queue(place, other):
    queue = place.queue(max_queued=2)
    other.perform(nothing)

    with queue.in_transaction():
        queue.perform(nothing)
        with pytest.raises(QueueFull):
            queue.perform(nothing)
    transaction.commit()

    assert len(place.jobs()) == 2
    with pytest.raises(QueueFull):
        queue.perform(nothing)


def test_what_nobody_made_is_unknown_and_what_ended_has_no_progress(queue, other):
    uid = queue.perform(nothing)
    before = other.progress(uid)
    queue.run_pending()

    assert (before, other.progress(uid), other.progress("asyncjob_none")) == (
        (-1, None),
        None,
        None,
    )
    with pytest.raises(UnknownJob):
        other.result("asyncjob_none")


@pytest.mark.parametrize("garbage", ["\0", "asyncjob_\0", "asyncjob_\udcff", "", "x" * 5000])
def test_garbage_from_an_address_is_an_unknown_uid(queue, garbage):
    queue.perform(nothing)

    assert queue.progress(garbage) is None
    with pytest.raises(UnknownJob):
        queue.result(garbage)
    backend: Any = queue.backend
    assert (backend.cancel(garbage), backend.retry(garbage)) == (None, None)
    backend.wait_for_end(garbage, PATIENCE_SECONDS)


def test_wait_returns_when_another_process_has_run_the_job(place, other):
    queue, gate = place.queue(threads=1), Gate()
    sqlqueues.hooks["gate"] = gate.enter
    queue.start_worker()
    result = other.result(other.perform(after_hook, "gate", "done"))
    gate.wait_for()

    with pytest.raises(TimeoutError):
        result.wait(0.05)
    gate.open()

    assert result.wait(PATIENCE_SECONDS).status is SUCCESSFUL
    assert place.written() == [("done", 1)]


# -- workers that are stopped


@pytest.mark.parametrize("writes", [True, False])
def test_drained_job_waits_again_as_if_it_had_not_begun(place, other, writes):
    queue, begun = place.queue(threads=1, drain_timeout=0), threading.Event()
    sqlqueues.hooks["begun"] = begun.set
    queue.start_worker()
    uid = other.perform(write_and_track_for_ever, writes)
    assert begun.wait(PATIENCE_SECONDS)

    queue.close()

    found = other.result(uid)
    assert (found.status, found.attempts, found.errors) == (READY, 0, [])
    assert [row.crashes for row in place.jobs()] == [0]
    assert place.written() == []


def test_drain_gives_back_a_job_that_does_not_stop_and_holds_locks(place, other, gate):
    queue = place.queue(threads=1, drain_timeout=0)
    sqlqueues.hooks["stuck"] = gate.enter
    queue.start_worker()
    uid = other.perform(hook_after_writing, "stuck", "uncommitted")
    gate.wait_for()

    queue.close()

    found = other.result(uid)
    assert (found.status, found.attempts, found.errors) == (READY, 0, [])
    assert place.written() == []


def write_and_track_for_ever(writes: bool) -> None:
    if writes:
        write_one("uncommitted")
    track_for_ever()


def test_session_that_a_queue_is_told_of_later_carries_jobs_and_marks_of_its_database(place, other):
    other.bind(place.Session)  # as in TurboGears, with asyncjob.url
    seen: list[TaskResultStatus] = []

    def look(_session: Any) -> None:
        seen.append(status(other, uid))

    uid = other.perform(write_mapped, "job")
    event.listen(place.Session, "after_commit", look)
    try:
        other.run_pending()
    finally:
        event.remove(place.Session, "after_commit", look)

    assert (seen, place.written()) == ([SUCCESSFUL], [("job", 7)])


def test_two_queues_on_one_session_mark_a_job_once(place, queue):
    second = place.queue()
    uid = second.perform(write_one, "once")

    second.run_pending()

    assert status(queue, uid) is SUCCESSFUL
    assert place.written() == [("once", 1)]


# -- workers that are killed


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer("sqlqueues", **{sqlqueues.PREFIX_VARIABLE: sqlqueues.PREFIX}) as made:
        yield made


def rescue(queue: JobQueue) -> None:
    """Rescue what a dead process held; a server needs a moment to see that it is dead."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not queue.backend.rescue():
        assert time.monotonic() < until, "nobody's jobs were rescued"
        threading.Event().wait(0.01)


def test_job_that_kills_its_workers_fails_in_the_end_and_none_that_were_claimed_with_it(
    place, fork_server
):
    queue = place.queue(max_crashes=2)  # whoever rescues counts
    # Claimed are 1, 2, 4, 8 ... at once, as long as they are quick: the tenth is not alone.
    innocent = [queue.perform(write_nothing_much) for _ in range(9)]
    guilty = queue.perform(kill_own_process)
    innocent += [queue.perform(write_nothing_much) for _ in range(10)]
    deaths = 0

    while fork_server.run("sqlqueues:work_until_all_have_ended", url=place.url) != 0:
        deaths += 1
        assert deaths < 10
        rescue(queue)

    found = queue.result(guilty)
    assert {status(queue, uid) for uid in innocent} == {SUCCESSFUL}
    assert found.status is FAILED
    assert {error.exception_class_path.rpartition(".")[2] for error in found.errors} == {
        "WorkerCrashed"
    }
    assert deaths == 3  # once with others, and then it was alone, twice
    assert not [uid for uid in innocent if queue.result(uid).errors]


def write_nothing_much() -> None:
    """Ends at once."""


def test_deaths_under_a_reloader_and_in_a_drain_are_nobodys_crash(place, fork_server):
    queue = place.queue(max_crashes=1)
    uid = queue.perform(after_hook, "begun")

    for _ in range(2):
        killed = fork_server.run("sqlqueues:be_killed_once_told_to_stop", url=place.url)
        rescue(queue)
        assert killed == -signal.SIGKILL
    in_a_drain = queue.result(uid)
    in_a_drain.cancel()
    uid = queue.perform(kill_own_process)
    for _ in range(2):
        fork_server.run("sqlqueues:work_until_all_have_ended", url=place.url, reloaded=True)
        rescue(queue)
    reloaded = queue.result(uid)

    for found in (in_a_drain, reloaded):
        assert (found.status, found.attempts, found.errors) == (READY, 0, [])
    assert [row.crashes for row in place.jobs()] == [0, 0]


@pytest.mark.slow
def test_death_of_a_worker_costs_no_attempt_and_its_job_runs_again(place, queue, fork_server):
    uid = queue.perform(kill_own_process)

    fork_server.run("sqlqueues:work_until_all_have_ended", url=place.url)
    rescue(queue)

    found = queue.result(uid)
    assert (found.status, found.attempts, len(found.errors)) == (READY, 0, 1)
    assert "died" in found.errors[0].message
