"""A bad job harms no other: twenty good ones around each kind of bad one, on one and two threads.

And a job that was given up as timed out, and whose thread comes back from the dead, can neither
commit its work nor change what the world was told.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from unittest.mock import Mock

import pytest
import transaction

from tgext.asyncjob import (
    JobQueue,
    JobTimeout,
    NotSerializable,
    TaskResultStatus,
    asyncjob_perform,
    asyncjob_set_progress,
    task,
)
from tgext.asyncjob.worker.thread import WorkerThread

GOOD = 20
TIMEOUT = 0.2


def good(number):
    return number * number


def raises(bench):
    raise ValueError("bad luck")


def loops_in_python(bench):
    while not bench.stop.is_set():
        pass


def blocks_in_c(bench):
    bench.stop.wait(30)


def swallows_everything(bench):
    while not bench.stop.is_set():
        with suppress(BaseException):
            while not bench.stop.is_set():
                pass


def exits(bench):
    sys.exit(3)


def is_interrupted(bench):
    raise KeyboardInterrupt


def ends_as_a_generator(bench):
    raise GeneratorExit


class Odd(BaseException):
    pass


def raises_a_base_exception(bench):
    raise Odd("odd")


def returns_an_orm_instance(bench):
    note = bench.database.Note(text="made by the bad job")
    bench.database.Session.add(note)
    return [note]


def returns_a_generator(bench):
    return (number for number in range(3))


def says_too_much(bench):
    raise RuntimeError("x" * 2_000_000)


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no words")

    __repr__ = __str__


class Deadly(Exception):
    def __str__(self):
        sys.exit("printed")

    __repr__ = __str__


def cannot_be_printed(bench):
    raise Unprintable("x")


def exits_when_printed(bench):
    raise Deadly("x")


def recurses(bench):
    return recurses(bench)


BAD = {
    raises: ("FAILED", "builtins.ValueError", "bad luck"),
    loops_in_python: ("FAILED", "tgext.asyncjob.errors.JobTimeout", "timeout of 0.2 s"),
    blocks_in_c: ("FAILED", "tgext.asyncjob.errors.JobTimeout", "timeout of 0.2 s"),
    swallows_everything: ("FAILED", "tgext.asyncjob.errors.JobTimeout", "timeout of 0.2 s"),
    exits: ("FAILED", "builtins.SystemExit", "3"),
    is_interrupted: ("FAILED", "builtins.KeyboardInterrupt", ""),
    ends_as_a_generator: ("FAILED", "builtins.GeneratorExit", ""),
    raises_a_base_exception: ("FAILED", "test_bad_jobs.Odd", "odd"),
    returns_an_orm_instance: ("SUCCESSFUL", "database object", "return its id"),
    returns_a_generator: ("SUCCESSFUL", "it is a generator", "return a list"),
    says_too_much: ("FAILED", "builtins.RuntimeError", "characters left out"),
    cannot_be_printed: ("FAILED", "test_bad_jobs.Unprintable", "cannot be printed"),
    exits_when_printed: ("FAILED", "test_bad_jobs.Deadly", "cannot be printed"),
    recurses: ("FAILED", "builtins.RecursionError", "maximum recursion depth"),
}
HANGING = (loops_in_python, blocks_in_c, swallows_everything)


class Bench:
    """A queue at work, a database, and the word that ends what hangs."""

    def __init__(self, database, threads):
        self.database = database
        self.stop = threading.Event()
        self.queue = JobQueue(threads=threads, session=database.Session)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def bench(request, database):
    made = Bench(database, request.param)
    with made.queue:
        made.queue.start_worker()
        yield made
        made.stop.set()


@pytest.fixture
def one(database):
    """The same with one thread."""
    made = Bench(database, 1)
    with made.queue:
        made.queue.start_worker()
        yield made
        made.stop.set()


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_a_bad_job_harms_none_of_twenty_around_it(bench, bad):
    status, kind, words = BAD[bad]
    timed = task(timeout=TIMEOUT)(bad) if bad in HANGING else task(bad)

    results = [task(good).enqueue(number) for number in range(GOOD // 2)]
    harmful = timed.enqueue(bench)
    results += [task(good).enqueue(number) for number in range(GOOD // 2, GOOD)]
    values = [result.wait(20).return_value for result in results]
    harmful.wait(20)

    assert values == [number * number for number in range(GOOD)]
    assert harmful.status == status
    assert harmful.attempts == 1
    if status == "FAILED":
        [error] = harmful.errors
        assert error.exception_class_path == kind
        assert words in error.message
        assert len(error.message) < 11_000
        assert len(error.traceback) < 51_000
    else:
        assert harmful.errors == []
        with pytest.raises(NotSerializable, match=f"{kind}.*{words}"):
            harmful.return_value  # noqa: B018 - it is asked for


def test_the_work_of_a_job_whose_result_is_not_kept_is_committed(one):
    one.queue.result(one.queue.perform(returns_an_orm_instance, one)).wait(20)

    assert one.database.texts() == ["made by the bad job"]


@pytest.mark.slow
@pytest.mark.parametrize("hanging", HANGING, ids=lambda bad: bad.__name__)
def test_a_slot_is_replaced_as_often_as_it_is_lost_and_none_leaks(one, hanging):
    for _ in range(4):
        result = task(timeout=0.05)(hanging).enqueue(one)
        assert result.wait(20).status is TaskResultStatus.FAILED

    assert one.queue.result(one.queue.perform(good, 3)).wait(20).return_value == 9
    one.stop.set()
    threads = _until(lambda: len(found := _worker_threads()) == 1 and found)
    assert threads, f"one worker thread was expected, there are {_worker_threads()}"


def test_close_while_a_lost_slot_is_being_replaced_ends_in_peace(database, gate, monkeypatch):
    """It raised "cannot join thread before it is started", and drained nothing."""
    raised = []
    stop = threading.Event()
    queue = JobQueue(threads=1, session=database.Session)
    queue.start_worker()
    monkeypatch.setattr(
        WorkerThread, "start", lambda thread: (gate.enter(), threading.Thread.start(thread))
    )

    def close():
        try:
            queue.close()
        except RuntimeError as error:
            raised.append(str(error))

    task(timeout=0.05)(stop.wait).enqueue(30)
    gate.wait_for()  # the timeout monitor is about to start the new thread
    closing = threading.Thread(target=close)
    closing.start()
    closing.join(0.3)
    gate.open()
    closing.join(20)
    stop.set()

    assert not closing.is_alive()
    assert raised == []
    queue.close()


def test_a_timeout_tells_where_the_job_was(one):
    for hanging in loops_in_python, blocks_in_c:
        result = task(timeout=0.05)(hanging).enqueue(one).wait(20)

        assert hanging.__name__ in result.errors[0].traceback


def test_a_job_that_ends_within_its_timeout_is_left_alone(one):
    results = [task(timeout=5)(good).enqueue(number) for number in range(50)]

    assert [result.wait(20).return_value for result in results] == [n * n for n in range(50)]


def test_a_coroutine_that_hangs_is_ended_by_its_timeout(one):
    async def hangs():
        import asyncio

        await asyncio.sleep(60)

    result = task(timeout=0.05)(hangs).enqueue().wait(20)

    assert result.status is TaskResultStatus.FAILED
    assert result.errors[0].exception_class_path == "tgext.asyncjob.errors.JobTimeout"
    assert [thread.name for thread in _worker_threads()] == ["asyncjob-1"]


@pytest.mark.slow
def test_a_timeout_at_the_very_end_of_a_job_hits_that_job_or_nothing(database):
    """An exception sent to a thread arrives later: never in the worker's own code."""

    def takes(seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        return "done"

    close = task(timeout=0.01)(takes)
    with JobQueue(threads=2, session=database.Session) as queue:
        queue.start_worker()
        results = [close.enqueue(0.0095 + number % 11 * 0.0001) for number in range(200)]

        for result in results:
            result.wait(10)
            timed_out = [error.exception_class is JobTimeout for error in result.errors]
            assert (result.status, timed_out) in (("SUCCESSFUL", []), ("FAILED", [True]))
        assert _until(lambda: len(_worker_threads()) == 2)
        assert queue.result(queue.perform(good, 2)).wait(20).return_value == 4


# -- the zombie


class Zombie:
    """A job that is given up while it blocks, and then goes on to do *last*."""

    def __init__(self, bench, last=lambda: None):
        self.bench, self.last = bench, last
        self.thread = None
        self.ended = threading.Event()

    def run(self):
        self.thread = threading.current_thread()
        try:
            self.bench.database.add("by the zombie")
            with suppress(BaseException):  # what is raised in it meanwhile
                self.bench.stop.wait(30)
            self.last()
            return "brains"
        finally:
            self.ended.set()

    def buried(self):
        """Enqueue, wait until it was given up, let its thread go on and end."""
        result = task(timeout=0.05)(self.run).enqueue().wait(20)
        before = result.__json__()
        assert result.status is TaskResultStatus.FAILED
        self.bench.stop.set()
        assert self.ended.wait(20)
        self.thread.join(20)
        assert not self.thread.is_alive()
        result.refresh()
        return before, result.__json__()


def test_a_zombie_cannot_commit_its_work_nor_change_the_result(one):
    before, after = Zombie(one).buried()

    assert after == before
    assert after["error"]["class"] == "tgext.asyncjob.errors.JobTimeout"
    assert one.database.texts() == []


def test_a_zombie_cannot_commit_a_part_of_its_work(one):
    """Amendment 4: a commit in the middle of a job is refused where the lease is lost."""
    before, after = Zombie(one, transaction.commit).buried()

    assert after == before
    assert one.database.texts() == []


def test_a_zombie_cannot_report_progress(one):
    before, after = Zombie(one, lambda: asyncjob_set_progress(99)).buried()

    assert after == before
    assert after["progress"]["value"] == -1


def test_a_zombie_cannot_enqueue_other_jobs(one):
    ran = threading.Event()

    Zombie(one, lambda: asyncjob_perform(ran.set)).buried()
    one.queue.result(one.queue.perform(good, 1)).wait(20)

    assert not ran.is_set()


def test_a_zombie_cannot_change_the_result_of_its_next_attempt(one):
    attempts = []
    gone = threading.Event()

    def job():
        attempts.append(threading.current_thread())
        if len(attempts) == 1:
            with suppress(BaseException):
                one.stop.wait(30)
            gone.set()
            return "the zombie's"
        one.stop.set()
        assert gone.wait(20)
        attempts[0].join(20)
        return "the second attempt's"

    result = task(timeout=0.5, max_attempts=2, backoff=0)(job).enqueue().wait(20)

    assert result.return_value == "the second attempt's"
    assert result.attempts == 2
    assert len(result.errors) == 1


def _worker_threads():
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("asyncjob-") and thread.name != "asyncjob-timeouts"
    ]


def _until(condition):
    """The first true value of *condition* within 5 seconds, else its last."""
    until = time.monotonic() + 5
    while not (found := condition()) and time.monotonic() < until:
        threading.Event().wait(0.005)
    return found


class Unbound:
    """A proxy outside its request."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name} outside a request")


class Unreadable(list):
    def __iter__(self):
        raise OSError("gone")


@pytest.mark.parametrize("returns", [Unbound, Unreadable, lambda: [Unreadable()]])
def test_value_that_raises_when_it_is_looked_at_ends_no_worker(returns):
    with JobQueue(threads=1) as queue:
        queue.start_worker()
        bad = queue.result(queue.perform(lambda: returns()))
        harmless = queue.result(queue.perform(good, 3))

        assert harmless.wait(20).return_value == 9
        assert bad.wait(20).status == "SUCCESSFUL"


def test_object_that_has_every_attribute_is_no_database_object(queue):
    assert queue.result(queue.perform(str.format, "{}", Mock())).wait(20).status == "SUCCESSFUL"


@pytest.mark.parametrize("timeout", [None, TIMEOUT])
def test_log_filter_that_raises_ends_no_worker(gate, timeout):
    class Broken(logging.Filter):
        def filter(self, record):
            raise AttributeError("request_id")

    handler = logging.NullHandler()
    handler.handle = handler.filter
    handler.addFilter(Broken())
    logging.getLogger("tgext.asyncjob.worker.attempt").addHandler(handler)
    try:
        with JobQueue(threads=1) as queue, queue.as_current():
            queue.start_worker()
            fails = raises if timeout is None else lambda _: gate.enter()
            bad = task(timeout=timeout)(fails).enqueue(None)
            harmless = queue.result(queue.perform(good, 3))

            assert harmless.wait(20).return_value == 9
            assert bad.wait(20).status == "FAILED"
            gate.open()
    finally:
        logging.getLogger("tgext.asyncjob.worker.attempt").removeHandler(handler)


def test_backend_that_cannot_store_an_outcome_ends_no_worker(queue, monkeypatch):
    finish, failures = queue.backend.finish, [OSError("the database is away")] * 2

    def fails_at_first(claim, outcome, connection=None):
        if failures:
            raise failures.pop()
        return finish(claim, outcome, connection)

    monkeypatch.setattr(queue.backend, "finish", fails_at_first)
    for _ in range(2):
        queue.perform(good, 1)

    assert [queue.result(queue.perform(good, n)).wait(20).return_value for n in range(4)]


@pytest.mark.parametrize("jobs", [100])
def test_timeout_leaves_no_lock_of_logging_behind(jobs):
    log = logging.getLogger("chatty")
    log.propagate = False
    log.setLevel("INFO")
    log.addHandler(handler := logging.StreamHandler(io.StringIO()))

    @task(timeout=0.005)
    def chatty():
        while True:
            log.info("working")

    with JobQueue(threads=2) as queue, queue.as_current():
        queue.start_worker()
        ends = [result.wait(20).errors[0] for result in [chatty.enqueue() for _ in range(jobs)]]

    assert {end.exception_class for end in ends} == {JobTimeout}
    assert handler.lock.acquire(timeout=2)
    handler.release()
    log.removeHandler(handler)


class _Busy(logging.Handler):
    """Takes a moment for each record: a thread that logs is in logging nearly all the time."""

    def emit(self, record):
        threading.Event().wait(0.001)


def test_job_that_does_nothing_but_log_ends_soon_after_it_was_given_up():
    log = logging.getLogger("stubborn")
    log.propagate = False
    log.setLevel("INFO")
    log.addHandler(_Busy())
    ran: list[threading.Thread] = []

    @task(timeout=0.01)
    def stubborn():
        ran.append(threading.current_thread())
        while True:
            with suppress(Exception):  # as logging does with what is raised in a handler
                log.info("working")

    with JobQueue(threads=1) as queue, queue.as_current():
        queue.start_worker()
        ends = [result.wait(20) for result in [stubborn.enqueue() for _ in range(20)]]
        for thread in ran:
            thread.join(20)

    assert {end.status for end in ends} == {"FAILED"}
    assert [thread for thread in ran if thread.is_alive()] == []


def test_job_leaves_nothing_in_the_context_of_the_next():
    tenant = ContextVar("tenant", default=None)
    with JobQueue(threads=0) as queue:
        queue.perform(tenant.set, "first")
        result = queue.result(queue.perform(tenant.get))
        queue.run_pending()
        result.refresh()

    assert result.return_value is None
    assert tenant.get() is None
