"""The ``asyncjob_*`` functions, as the seed and API.md say them."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import timedelta

import pytest
import transaction
from sqlalchemy import event, select

from tgext.asyncjob import (
    BadCall,
    ConfigError,
    JobCancelled,
    JobQueue,
    JobTimeout,
    NotInJob,
    NotSerializable,
    Progress,
    TaskResultStatus,
    UnknownJob,
    asyncjob_get_progress,
    asyncjob_perform,
    asyncjob_result,
    asyncjob_running_uid,
    asyncjob_session,
    asyncjob_set_progress,
    asyncjob_timed_query,
    asyncjob_track,
    task,
)
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.current import attempt_var

SUCCESSFUL, FAILED, CANCELLED, READY = (
    TaskResultStatus.SUCCESSFUL,
    TaskResultStatus.FAILED,
    TaskResultStatus.CANCELLED,
    TaskResultStatus.READY,
)


@pytest.fixture
def held():
    """A queue that runs nothing unless ``run_pending`` is called."""
    with JobQueue(threads=0) as made:
        yield made
        made.run_pending()  # so that none is lost, and nothing is logged


def nothing():
    pass


def fails():
    raise ValueError("no")


# -- asyncjob_perform


def test_perform_gives_a_uid_that_is_a_str_with_the_prefix_and_never_repeats(held):
    uids = {asyncjob_perform(nothing) for _ in range(1000)}

    assert len(uids) == 1000
    assert all(type(uid) is str and uid.startswith("asyncjob_") for uid in uids)


def test_perform_hands_every_keyword_to_the_callable(queue):
    def job(*args, **kwargs):
        return args, kwargs

    names = {"callable": 1, "self": 2, "priority": 3, "uid": 4, "args": 5, "timeout": 6}
    uid = asyncjob_perform(job, 7, **names)

    assert asyncjob_result(uid).wait(20).return_value == ((7,), names)


def test_perform_runs_a_closure_a_method_a_class_and_a_lambda(queue):
    class Counter:
        def __init__(self, start=1):
            self.start = start

        def plus(self, number):
            return self.start + number

    number = 20

    uids = [
        asyncjob_perform(lambda: number),
        asyncjob_perform(Counter(3).plus, 4),
        asyncjob_perform(lambda x=5: x),
        asyncjob_perform(dict, a=1),
    ]

    values = [asyncjob_result(uid).wait(20).return_value for uid in uids]
    assert values == [20, 7, 5, {"a": 1}]


def test_perform_of_a_task_uses_its_options(held):
    seen = []
    urgent = task(priority=50)(seen.append)

    asyncjob_perform(seen.append, "plain")
    asyncjob_perform(urgent, "urgent")
    held.run_pending()

    assert seen == ["urgent", "plain"]


# -- progress


def test_progress_of_a_job_that_has_not_started(held):
    assert asyncjob_get_progress(asyncjob_perform(nothing)) == (-1, None)


def test_progress_of_a_job_that_waits_for_its_time(queue):
    later = task(nothing).using(run_after=timedelta(hours=1))

    result = later.enqueue()

    assert asyncjob_get_progress(result.id) == (-1, None)
    assert result.cancel()


def test_progress_of_a_job_that_is_not_committed(held):
    with held.in_transaction():
        uid = asyncjob_perform(nothing)

        assert asyncjob_get_progress(uid) == (-1, None)
        assert asyncjob_result(uid).status is READY

        transaction.abort()
    assert asyncjob_get_progress(uid) is None
    with pytest.raises(UnknownJob):
        asyncjob_result(uid)


def test_progress_of_a_job_that_started_and_has_reported_nothing(queue, gate):
    uid = asyncjob_perform(gate.enter)
    gate.wait_for()

    assert asyncjob_get_progress(uid) == (-1, None)
    assert asyncjob_result(uid).progress == (-1, None, None)


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ((0,), Progress(0, None, None)),
        ((3, "half"), Progress(3, "half", None)),
        ((4, {"file": "a.png"}, 9), Progress(4, {"file": "a.png"}, 9)),
    ],
)
def test_progress_that_was_reported_is_seen_while_the_job_runs_and_kept(
    queue, gate, arguments, seen
):
    def job():
        asyncjob_set_progress(*arguments)
        gate.enter()

    uid = asyncjob_perform(job)
    gate.wait_for()

    assert asyncjob_get_progress(uid) == seen[:2]
    assert asyncjob_result(uid).progress == seen

    gate.open()
    ended = asyncjob_result(uid).wait(20)
    assert asyncjob_get_progress(uid) is None
    assert ended.progress == seen


@pytest.mark.parametrize("how", [nothing, fails])
def test_progress_is_none_after_the_end_however_the_job_ended(queue, how):
    def job():
        asyncjob_set_progress(1)
        how()

    uid = asyncjob_perform(job)
    asyncjob_result(uid).wait(20)

    assert asyncjob_get_progress(uid) is None


def test_progress_is_none_after_a_cancellation(held):
    uid = asyncjob_perform(nothing)

    assert asyncjob_result(uid).cancel()

    assert asyncjob_get_progress(uid) is None


def test_progress_of_a_job_that_nobody_knows_is_none(held):
    assert asyncjob_get_progress("asyncjob_nobody_made_this") is None
    assert asyncjob_get_progress("") is None


def test_progress_of_a_job_of_another_process_is_unknown_and_says_the_way_out(held):
    uid = asyncjob_perform(nothing)
    _, pid, _origin, secret = uid.split("_")
    foreign = f"asyncjob_{int(pid) + 1}_{'0' * 8}_{secret}"

    for ask in asyncjob_get_progress, asyncjob_result:
        with pytest.raises(UnknownJob, match=r"asyncjob\.backend = sql") as caught:
            ask(foreign)
        assert isinstance(caught.value, LookupError)
        assert f"made by process {int(pid) + 1} and this is {pid}" in str(caught.value)


def test_progress_of_a_job_that_was_removed_is_none(clock):
    with JobQueue(backend=MemoryBackend(retention_seconds=60, clock=clock), threads=0) as queue:
        uid = queue.perform(nothing)
        queue.run_pending()
        clock.advance(61)

        assert queue.backend.prune() == 1
        assert queue.progress(uid) is None
        with pytest.raises(UnknownJob, match=r"asyncjob\.retention"):
            queue.result(uid)


def test_progress_of_the_second_attempt_begins_where_the_first_left_it(held):
    seen = []

    def job():
        seen.append(asyncjob_get_progress(asyncjob_running_uid()))
        asyncjob_set_progress(5, "x")
        if len(seen) == 1:
            raise ValueError

    task(max_attempts=2, backoff=0)(job).enqueue()
    held.run_pending()

    assert seen == [(-1, None), (5, "x")]


# -- a progress tracker of the application's own


class Tracker:
    """The four methods of API.md, on a dict."""

    def __init__(self):
        self.kept = {}

    def track(self, uid):
        self.kept[uid] = (-1, None)

    def set_progress(self, uid, value, data):
        self.kept[uid] = (value, data)

    def get_progress(self, uid):
        return self.kept.get(uid)

    def remove(self, uid):
        self.kept.pop(uid, None)


@pytest.fixture
def tracker():
    return Tracker()


@pytest.fixture
def tracked(tracker):
    with JobQueue(threads=0, progress_tracker=tracker) as made:
        yield made


def test_tracker_keeps_the_progress_from_the_enqueue_to_the_end(tracked, tracker):
    seen = []

    def job():
        asyncjob_set_progress(2, "two")
        seen.append(asyncjob_get_progress(asyncjob_running_uid()))

    uid = asyncjob_perform(job)

    assert asyncjob_get_progress(uid) == (-1, None)
    tracked.run_pending()
    assert seen == [(2, "two")]
    assert asyncjob_get_progress(uid) is None
    assert tracker.kept == {}


def test_tracker_forgets_a_queued_job_that_is_cancelled(tracked, tracker):
    uid = asyncjob_perform(nothing)

    assert asyncjob_result(uid).cancel()

    assert asyncjob_get_progress(uid) is None
    assert tracker.kept == {}


def test_tracker_never_hears_of_a_job_whose_transaction_is_aborted(tracked, tracker):
    with tracked.in_transaction():
        asyncjob_perform(nothing)
        transaction.abort()

    assert tracker.kept == {}


def test_tracker_that_is_slow_to_remove_does_not_make_an_ended_job_look_unfinished(tracker, gate):
    remove = tracker.remove
    tracker.remove = lambda uid: (gate.enter(), remove(uid))
    with JobQueue(threads=1, progress_tracker=tracker) as queue:
        queue.start_worker()
        uid = queue.perform(nothing)
        queue.result(uid).wait(20)
        gate.wait_for()
        seen = queue.progress(uid)
        gate.open()

    assert seen is None


# -- inside a job


def test_running_uid_is_that_of_the_job_and_none_outside(queue):
    uid = asyncjob_perform(asyncjob_running_uid)

    assert asyncjob_result(uid).wait(20).return_value == uid
    assert asyncjob_running_uid() is None


def test_running_uid_in_a_coroutine(queue):
    async def job():
        return asyncjob_running_uid()

    uid = asyncjob_perform(job)

    assert asyncjob_result(uid).wait(20).return_value == uid


def test_running_uid_of_jobs_that_run_at_once_are_their_own(queue, gate):
    def job():
        before = asyncjob_running_uid()
        gate.enter()
        return before, asyncjob_running_uid()

    uids = [asyncjob_perform(job) for _ in range(2)]
    gate.wait_for(2)
    gate.open()

    assert [asyncjob_result(uid).wait(20).return_value for uid in uids] == [
        (uid, uid) for uid in uids
    ]


def test_running_uid_is_none_again_after_run_pending(held):
    asyncjob_perform(fails)
    held.run_pending()

    assert asyncjob_running_uid() is None


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("asyncjob_set_progress", lambda: asyncjob_set_progress(1)),
        ("asyncjob_session", asyncjob_session),
    ],
)
def test_what_only_a_job_has_is_not_in_job_outside(queue, function, call):
    with pytest.raises(NotInJob) as caught:
        call()

    assert isinstance(caught.value, RuntimeError)
    assert str(caught.value) == (
        f"{function}() works only inside a job, and none is running in this thread; "
        "call it from the function that was given to asyncjob_perform"
    )


# -- asyncjob_track


def test_track_reports_how_many_are_done_and_the_total(held):
    seen = []

    def job():
        uid = asyncjob_running_uid()
        for _ in asyncjob_track("abc"):
            seen.append(asyncjob_result(uid).progress)
        seen.append(asyncjob_result(uid).progress)

    asyncjob_perform(job)
    held.run_pending()

    assert seen == [(0, None, 3), (1, None, 3), (2, None, 3), (3, None, 3)]


def test_track_of_a_generator_knows_no_total_unless_it_is_told(held):
    def job(total):
        list(asyncjob_track(iter("abcd"), total))

    uids = [asyncjob_perform(job, total) for total in (None, 4)]
    held.run_pending()

    assert [asyncjob_result(uid).progress for uid in uids] == [(4, None, None), (4, None, 4)]


@pytest.mark.parametrize("total", [float("nan"), float("inf"), 2.5, "2", True])
def test_a_total_that_is_no_whole_number_is_refused_by_track(total):
    with pytest.raises(BadCall, match="asyncjob_track: expected total to be an int"):
        next(asyncjob_track("ab", total))


def test_track_of_nothing_reports_zero_of_zero(held):
    uid = asyncjob_perform(lambda: list(asyncjob_track([])))
    held.run_pending()

    assert asyncjob_result(uid).progress == (0, None, 0)


def test_track_outside_a_job_only_iterates():
    assert list(asyncjob_track("abc", 3)) == ["a", "b", "c"]
    assert list(asyncjob_track(iter([]))) == []


def test_track_is_a_point_where_a_cancellation_takes_effect(queue, gate):
    seen = []

    def job():
        for number in asyncjob_track(itertools.count()):
            seen.append(number)
            gate.enter()

    result = asyncjob_result(asyncjob_perform(job))
    gate.wait_for()
    assert result.cancel()
    gate.open()

    assert result.wait(20).status is CANCELLED
    assert seen == [0]


# -- asyncjob_session


def test_session_is_the_one_whose_commit_carries_the_job(database):
    def job():
        session = asyncjob_session()
        session.add(database.Note(text="by the job"))
        return session is database.Session

    with JobQueue(threads=0, session=database.Session) as queue:
        uid = queue.perform(job)
        queue.run_pending()

        assert queue.result(uid).return_value is True
    assert database.texts() == ["by the job"]


def test_session_of_a_queue_without_one_says_how_to_give_it(held):
    uid = asyncjob_perform(asyncjob_session)
    held.run_pending()

    [error] = asyncjob_result(uid).errors
    assert error.exception_class is ConfigError
    assert error.message == (
        "asyncjob_session(): expected a queue with a session, and this one has none; make it "
        "with JobQueue(session=DBSession)"
    )


# -- the current queue


def test_no_current_queue_is_a_config_error_with_the_ways_out():
    with pytest.raises(ConfigError, match="but none is open") as caught:
        asyncjob_perform(nothing)

    assert isinstance(caught.value, ValueError)
    assert "start_async_worker() in Globals.__init__" in str(caught.value)
    assert "`with queue.as_current():`" in str(caught.value)


def test_several_open_queues_are_a_config_error_that_counts_them(held):
    with (
        JobQueue(threads=0),
        pytest.raises(ConfigError, match="2 are open in this process"),
    ):
        asyncjob_perform(nothing)


def test_the_only_open_queue_is_current_and_a_closed_one_is_not():
    with JobQueue(threads=0) as first:
        pass
    with JobQueue(threads=0) as second:
        uid = asyncjob_perform(nothing)

        assert second.result(uid).status is READY
        assert second.run_pending() == 1
    assert first.backend.waiting() == 0


def test_the_innermost_as_current_wins_and_ends_with_its_block():
    with JobQueue(threads=0) as one, JobQueue(threads=0) as other:
        with one.as_current():
            with other.as_current():
                asyncjob_perform(nothing)
            with pytest.raises(ZeroDivisionError), other.as_current():
                raise ZeroDivisionError
            asyncjob_perform(nothing)
            asyncjob_perform(nothing)

        assert (one.run_pending(), other.run_pending()) == (2, 1)


def test_a_job_enqueues_on_the_queue_that_runs_it():
    with JobQueue(threads=1) as one, JobQueue(threads=1) as other:
        one.start_worker()
        other.start_worker()

        outer = one.result(one.perform(asyncjob_perform, nothing)).wait(20)

        assert one.result(outer.return_value).wait(20).status is SUCCESSFUL
        with pytest.raises(UnknownJob):
            other.result(outer.return_value)


def test_as_current_of_one_thread_is_not_that_of_another(queue):
    found = []
    with JobQueue(threads=0) as other, other.as_current():
        thread = threading.Thread(target=lambda: found.append(_current_or_error()))
        thread.start()
        thread.join(20)

    assert found == [ConfigError]


def _current_or_error():
    try:
        return asyncjob_result("asyncjob_x")
    except ConfigError as error:
        return type(error)


# -- asyncjob_timed_query


@pytest.fixture
def looks(database):
    """Counts the SELECTs on the notes; an Event for each."""
    seen = threading.Semaphore(0)

    def executed(connection, cursor, statement, parameters, context, executemany):
        if statement.lstrip().upper().startswith("SELECT"):
            seen.release()

    event.listen(database.engine, "after_cursor_execute", executed)
    return seen


def notes(database, kind):
    if kind == "query":
        return database.Session.query(database.Note).filter_by(text="it")
    return select(database.Note).filter_by(text="it")


both = pytest.mark.parametrize("kind", ["query", "select"])


def count(semaphore):
    return sum(1 for _ in iter(lambda: semaphore.acquire(blocking=False), False))


@both
def test_timed_query_looks_at_once(database, looks, kind):
    database.add_committed("it")
    with JobQueue(threads=0, session=database.Session) as queue:
        query = notes(database, kind)
        began = time.monotonic()

        found = asyncjob_timed_query(query, retries=10, interval=60)

        assert found is query
        assert time.monotonic() - began < 5
        transaction.abort()
        assert queue.run_pending() == 0
    assert count(looks) == 1


@both
def test_timed_query_waits_for_a_row_that_comes_later(database, looks, kind):
    def job():
        query = notes(database, kind)
        return asyncjob_timed_query(query, retries=1000, interval=0.01) is query

    with JobQueue(threads=1, session=database.Session) as queue:
        queue.start_worker()
        result = queue.result(queue.perform(job))
        assert looks.acquire(timeout=5)
        assert looks.acquire(timeout=5)

        database.add_committed("it")

        assert result.wait(20).status is SUCCESSFUL
        assert result.return_value is True


@both
def test_timed_query_gives_up_after_its_tries_and_gives_the_query_back(database, looks, kind):
    def job(retries):
        query = notes(database, kind)
        return asyncjob_timed_query(query, retries=retries, interval=0.001) is query

    with JobQueue(threads=0, session=database.Session) as queue:
        for retries, expected in (4, 5), (1, 2), (0, 1):  # at once, and that often again
            uid = queue.perform(job, retries)
            queue.run_pending()

            assert queue.result(uid).return_value is True
            assert count(looks) == expected


def test_timed_query_is_a_point_where_a_cancellation_takes_effect(database, looks):
    def job():
        asyncjob_timed_query(notes(database, "query"), retries=100, interval=60)

    with JobQueue(threads=1, session=database.Session) as queue:
        queue.start_worker()
        result = queue.result(queue.perform(job))
        assert looks.acquire(timeout=5)
        assert result.cancel()

        assert result.wait(20).status is CANCELLED


def test_timed_query_keeps_the_jobs_that_its_transaction_has_enqueued(database):
    with JobQueue(threads=0, session=database.Session) as queue:
        with queue.in_transaction():
            uid = queue.perform(nothing)
            asyncjob_timed_query(notes(database, "query"), retries=2, interval=0.001)
            transaction.commit()

        assert queue.run_pending() == 1
        assert queue.result(uid).status is SUCCESSFUL


def test_timed_query_in_a_job_keeps_the_jobs_that_it_has_enqueued(database):
    def job():
        uid = asyncjob_perform(nothing)
        asyncjob_timed_query(notes(database, "query"), retries=2, interval=0.001)
        return uid

    with JobQueue(threads=0, session=database.Session) as queue:
        uid = queue.perform(job)

        assert queue.run_pending() == 2
        assert queue.result(queue.result(uid).return_value).status is SUCCESSFUL


def test_timed_query_keeps_what_the_session_has_to_write(database):
    def job():
        database.add("work")
        asyncjob_timed_query(notes(database, "query"), retries=2, interval=0.001)

    with JobQueue(threads=0, session=database.Session) as queue:
        queue.perform(job)
        queue.run_pending()

    assert database.texts() == ["work"]


def test_timed_query_refuses_what_is_no_query(database):
    with JobQueue(threads=0, session=database.Session):
        for wrong, shown in ("select 1", "builtins.str"), (None, "builtins.NoneType"):
            with pytest.raises(BadCall) as caught:
                asyncjob_timed_query(wrong)
            assert isinstance(caught.value, TypeError)
            assert str(caught.value) == (
                "asyncjob_timed_query: expected a Query, or a select() where the queue has a "
                f"session, got an instance of {shown}"
            )


def test_timed_query_refuses_a_select_where_the_queue_has_no_session(held, database):
    with pytest.raises(BadCall, match=r"or a select\(\) where the queue has a session"):
        asyncjob_timed_query(notes(database, "select"))


def test_set_progress_raises_in_a_job_that_was_cancelled(queue, gate):
    seen = []

    def job():
        gate.enter()
        for _ in range(2):
            try:
                asyncjob_set_progress(1)
            except JobCancelled as error:
                seen.append(str(error))

    result = asyncjob_result(asyncjob_perform(job))
    gate.wait_for()
    assert result.cancel()
    result.refresh()
    assert result.status is TaskResultStatus.RUNNING
    gate.open()

    assert result.wait(20).status is CANCELLED
    assert seen == ["the job was cancelled"] * 2


def test_progress_tracker_that_raises_does_not_change_what_becomes_of_a_job():
    class Away:
        def track(self, uid): ...
        def get_progress(self, uid): ...
        def remove(self, uid): ...
        def set_progress(self, uid, value, data):
            raise ConnectionError("redis is away")

    with JobQueue(threads=0, progress_tracker=Away()) as queue:
        result = queue.result(queue.perform(asyncjob_set_progress, 3))
        queue.run_pending()
        result.refresh()

    assert result.status == "SUCCESSFUL"
    assert result.progress.value == 3


def test_timeout_while_the_progress_tracker_is_told_ends_the_job_right_after():
    told, went_on = [], []

    class Slow:
        def track(self, uid): ...
        def get_progress(self, uid): ...
        def remove(self, uid): ...
        def set_progress(self, uid, value, data):
            interrupts = threading.Thread(target=attempt_var.get().interrupt, args=(JobTimeout,))
            interrupts.start()  # as a worker's watch does
            interrupts.join()
            told.append(value)

    def job():
        asyncjob_set_progress(3)
        went_on.append(True)

    with JobQueue(threads=0, progress_tracker=Slow()) as queue:
        result = queue.result(queue.perform(job))
        queue.run_pending()
        result.refresh()

    assert (told, went_on) == ([3], [])
    assert result.errors[-1].exception_class is JobTimeout


@pytest.mark.parametrize(
    ("value", "total", "said"),
    [
        (2**63, None, "value of at most 64 bits, got 0x8000000000000000;"),
        (-(10**5000), None, "value of at most 64 bits, got -0x"),
        (1, 10**5000, "total of at most 64 bits, got 0x"),
    ],
    ids=["2**63", "-10**5000", "10**5000"],
)
def test_progress_that_no_page_can_show_is_refused_on_memory_too(value, total, said):
    with JobQueue(threads=0) as queue:
        result = queue.result(queue.perform(asyncjob_set_progress, value, None, total))
        queue.run_pending()
        result.refresh()

    assert result.errors[0].exception_class is NotSerializable
    assert said in result.errors[0].message
    assert len(result.errors[0].message) < 200
