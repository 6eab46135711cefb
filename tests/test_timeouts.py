"""What a timeout leaves behind: no thread for ever, no lock, no connection, no statement."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import transaction
from sqlalchemy.pool import QueuePool

import sqlqueues
from clocks import PATIENCE_SECONDS
from sqlqueues import KINDS, Place, place_of
from tgext.asyncjob import JobQueue, JobTimeout, asyncjob_session, task
from tgext.asyncjob.transactions import server_cancel
from tgext.asyncjob.worker import frames, safe_points, thread, timeouts
from tgext.asyncjob.worker.interruption import Interruptible
from tgext.asyncjob.worker.thread import WorkerThread

#: Threads that were given up, and the number of them that is said, in the log.
GIVEN_UP = "does not stop after its timeout and is abandoned"


def worker_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if isinstance(thread, WorkerThread)}


def until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> bool:
    """Look until something is so; nothing tells when a thread ends in C."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    """One in memory at work, with one thread."""
    with JobQueue(threads=1, drain_timeout=0) as made, made.as_current():
        made.start_worker()
        yield made


# -- threads


def swallows_exceptions(stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(Exception):
            while not stop.is_set():
                time.sleep(0.001)


def swallows_all(stop: threading.Event) -> None:
    while not stop.is_set():
        try:  # noqa: SIM105
            time.sleep(0.001)
        except:  # noqa: E722 - as people write it
            pass


async def awaits_and_swallows_all(stop: threading.Event) -> None:
    while not stop.is_set():
        try:  # noqa: SIM105
            await asyncio.Event().wait()
        except:  # noqa: E722 - as people write it
            pass


async def blocks_and_swallows_all(stop: threading.Event) -> None:
    swallows_all(stop)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # "coroutine ignored GeneratorExit"
)
@pytest.mark.parametrize(
    "job",
    [swallows_exceptions, swallows_all, awaits_and_swallows_all, blocks_and_swallows_all],
)
def test_thread_of_a_job_that_swallows_its_timeout_ends_all_the_same(queue, job):
    stop = threading.Event()
    [lost] = worker_threads()

    result = task(timeout=0.05)(job).enqueue(stop).wait(PATIENCE_SECONDS)
    has_ended = until(lambda: not lost.is_alive(), 20)
    stop.set()

    assert (result.status, result.errors[-1].exception_class) == ("FAILED", JobTimeout)
    assert has_ended


@pytest.mark.slow
def test_run_pending_ends_a_job_that_swallows_its_timeout():
    stop = threading.Event()
    late = threading.Timer(20, stop.set)
    late.start()
    with JobQueue(threads=0) as queue, queue.as_current():
        result = task(timeout=0.05)(swallows_exceptions).enqueue(stop)
        queue.run_pending()
        result.refresh()
    late.cancel()

    assert not stop.is_set()
    assert (result.status, result.errors[-1].exception_class) == ("FAILED", JobTimeout)


def test_job_may_catch_its_timeout_and_clean_up(queue):
    cleaned = []

    def cleans_up() -> None:
        try:
            while True:
                time.sleep(0.001)
        except JobTimeout:
            cleaned.append(True)
            raise

    result = task(timeout=0.05)(cleans_up).enqueue().wait(PATIENCE_SECONDS)

    assert (result.status, cleaned) == ("FAILED", [True])
    assert len(result.errors) == 1


def test_job_that_catches_its_timeout_and_returns_has_failed_all_the_same(queue):
    def swallows() -> str:
        with suppress(JobTimeout):
            while True:
                time.sleep(0.001)
        return "done"

    result = task(timeout=0.05)(swallows).enqueue().wait(PATIENCE_SECONDS)

    assert (result.status, result.errors[-1].exception_class) == ("FAILED", JobTimeout)


def test_threads_that_do_not_come_back_are_bounded_and_the_worker_recovers(monkeypatch, caplog):
    monkeypatch.setattr(timeouts, "MOST_HUNG", 3)
    lock = threading.Lock()
    lock.acquire()
    before = worker_threads()

    def hangs() -> None:
        with lock:
            pass

    with JobQueue(threads=1, drain_timeout=0) as queue, queue.as_current():
        results = [task(timeout=0.01)(hangs).enqueue() for _ in range(6)]
        queue.start_worker()
        assert until(lambda: queue.local_worker.is_degraded)
        last = results[-1].status
        lost = worker_threads() - before
        lock.release()
        for result in results:
            result.wait(PATIENCE_SECONDS)
        assert until(lambda: not queue.local_worker.is_degraded)
        goes_on = queue.result(queue.perform(int)).wait(PATIENCE_SECONDS)

    assert last == "READY"  # nobody claims it any more
    assert len(lost) == 3
    assert goes_on.status == "SUCCESSFUL"
    assert "3 threads of this process hang in jobs" in caplog.text


def test_profiler_of_another_thread_is_not_held_up_after_a_timeout(queue):
    """The interpreter went on looking for what was to be raised: Python 3.11 never came out of a
    function's beginning again while it was traced."""
    calls = []

    def profiled() -> None:
        sys.setprofile(lambda _frame, event, _argument: calls.append(event))
        until(lambda: True)
        sys.setprofile(None)

    task(timeout=0.05)(swallows_exceptions).enqueue(threading.Event()).wait(PATIENCE_SECONDS)
    assert until(lambda: len(worker_threads()) == 1)
    thread = threading.Thread(target=profiled, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)

    assert not thread.is_alive()
    assert calls


# -- locks


def test_timeout_while_a_job_waits_for_a_lock_does_not_take_it_for_ever(queue):
    """It struck between the lock's ``acquire`` and the ``try`` after it."""
    lock = threading.Lock()
    lock.acquire()

    def waits() -> None:
        lock.acquire()
        try:
            pass
        finally:
            lock.release()

    result = task(timeout=0.05)(waits).enqueue().wait(PATIENCE_SECONDS)
    lock.release()
    is_free = lock.acquire(timeout=PATIENCE_SECONDS)
    lock.release()

    assert result.status == "FAILED"
    assert is_free


@pytest.mark.parametrize("function", ["_do_get", "get", "_checkout", "raw_connection"])
def test_timeout_in_a_pools_hand_over_loses_no_connection(queue, tmp_path, function):
    """Not even while its log record is kept, with its traceback, as pytest keeps it."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/some.db", poolclass=QueuePool, pool_size=2)
    engine.connect().close()

    def linger(frame: Any, event: str, _argument: Any) -> None:
        if event == "return" and frame.f_code.co_name == function:
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                pass

    def asks() -> None:
        sys.setprofile(linger)
        try:
            with engine.connect():
                sys.setprofile(None)
                time.sleep(0.2)
        finally:
            sys.setprofile(None)

    result = task(timeout=0.05)(asks).enqueue().wait(PATIENCE_SECONDS)

    assert result.status == "FAILED"
    assert until(lambda: not engine.pool.checkedout())
    engine.dispose()


# -- statements

SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    " SELECT max(i) FROM n",
    "postgresql": "SELECT pg_sleep(30) /* the slow one */",
    "mariadb": "SELECT sleep(30) /* the slow one */",
}
RUNNING = {
    "sqlite": "SELECT 0",
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
    " AND query LIKE '%the slow one%' AND pid <> pg_backend_pid()",
    "mariadb": "SELECT count(*) FROM information_schema.processlist"
    " WHERE info LIKE '%the slow one%' AND id <> connection_id()",
}


@pytest.fixture(params=KINDS)
def place(request: Any, tmp_path: Path) -> Iterator[Place]:
    with place_of(request.param, tmp_path) as made:
        yield made


def ask_slowly(statement: str) -> None:
    asyncjob_session().execute(sa.text(statement))


@pytest.mark.parametrize("backend", ["sql", "memory"])
def test_statement_of_a_job_ends_in_the_server_with_its_timeout(
    place, backend, caplog, monkeypatch
):
    """And its thread comes back by itself, however busy the machine is."""
    monkeypatch.setattr(timeouts, "GRACE_SECONDS", PATIENCE_SECONDS)
    if backend == "sql":
        queue = place.queue(threads=1)
    else:
        queue = JobQueue(session=place.Session, threads=1)
    engine = place.engine
    with queue, queue.as_current(), caplog.at_level(logging.WARNING):
        queue.start_worker()
        result = task(timeout=0.2)(ask_slowly).enqueue(SLOW[place.kind]).wait(PATIENCE_SECONDS)

    with engine.connect() as connection:
        assert until(lambda: not connection.execute(sa.text(RUNNING[place.kind])).scalar())
    assert (result.status, result.errors[-1].exception_class) == ("FAILED", JobTimeout)
    assert GIVEN_UP not in caplog.text


def test_statement_of_a_job_ends_in_the_server_when_the_worker_drains(place):
    queue = place.queue(threads=1, drain_timeout=0)
    begun = threading.Event()
    sa.event.listen(place.engine, "before_cursor_execute", lambda *given: _sees(given[2], begun))
    with queue, queue.as_current():
        queue.start_worker()
        queue.perform(ask_slowly, SLOW[place.kind])
        assert begun.wait(PATIENCE_SECONDS)
    began = time.monotonic()

    with place.engine.connect() as connection:
        assert until(lambda: not connection.execute(sa.text(RUNNING[place.kind])).scalar())
    assert time.monotonic() - began < PATIENCE_SECONDS
    [row] = place.jobs()
    assert row.attempts == 0


def _sees(statement: str, begun: threading.Event) -> None:
    if statement in SLOW.values():
        begun.set()


def _send_only(cursor: Any, statement: str) -> bool:
    """Send it, and be interrupted before the driver waits for what comes back."""
    if statement not in SLOW.values():
        return False
    driver = cursor.connection
    if hasattr(driver, "pgconn"):
        driver.pgconn.send_query(statement.encode())
        driver.pgconn.flush()
    else:
        driver._execute_command(COM_QUERY, statement)
    raise JobTimeout(0.2)


COM_QUERY = 3  # of MariaDB's protocol

in_a_server = pytest.mark.parametrize("place", KINDS[1:], indirect=True)


@in_a_server
def test_statement_that_was_sent_when_its_job_was_interrupted_ends_in_the_server(place):
    """The driver closes such a connection, and the server does not look at that: the cancellation
    came before the statement, the interruption after it."""
    sa.event.listen(place.engine, "do_execute", lambda *given: _send_only(given[0], given[1]))
    queue = place.queue(threads=1)
    with queue, queue.as_current():
        queue.start_worker()
        result = task()(ask_slowly).enqueue(SLOW[place.kind]).wait(PATIENCE_SECONDS)

    assert (result.status, result.errors[-1].exception_class) == ("FAILED", JobTimeout)
    with place.engine.connect() as connection:  # MariaDB's sleep looks for its client after 5 s
        assert until(lambda: not connection.execute(sa.text(RUNNING[place.kind])).scalar(), 3)


@in_a_server
def test_connections_of_a_job_that_was_given_up_are_killed_again(place, monkeypatch, caplog):
    """A kill that came too late, or to a server that was busy, was the last one."""
    lost = []
    how = server_cancel._STOPS[place.engine.dialect.name]

    def lose_some(*given: Any) -> None:
        lost.append(given)
        if len(lost) > 2:  # its timeout's, and that of giving it up
            how(*given)

    monkeypatch.setitem(server_cancel._STOPS, place.engine.dialect.name, lose_some)
    [before] = [worker_threads()]
    queue = place.queue(threads=1)
    with queue, queue.as_current(), caplog.at_level(logging.WARNING):
        queue.start_worker()
        [lost_thread] = worker_threads() - before
        result = task(timeout=0.2)(ask_slowly).enqueue(SLOW[place.kind]).wait(PATIENCE_SECONDS)
        assert result.status == "FAILED"
        assert GIVEN_UP in caplog.text
        assert until(lambda: not lost_thread.is_alive())

    with place.engine.connect() as connection:
        assert until(lambda: not connection.execute(sa.text(RUNNING[place.kind])).scalar())
    assert len(lost) > 2


# -- where a thread is interrupted


@pytest.mark.parametrize("is_enabled", [True, False])
def test_garbage_is_not_collected_while_the_frames_are_read(monkeypatch, is_enabled):
    """It could let another thread run, which waits for the lock that this one holds, and keeps
    the interpreter: the process stood still."""
    seen: list[bool] = []
    read = sys._current_frames
    monkeypatch.setattr(sys, "_current_frames", lambda: (seen.append(gc.isenabled()), read())[1])
    if not is_enabled:
        gc.disable()
    try:
        found = frames.inspect_frame(threading.get_ident(), lambda frame: frame is not None)
        is_enabled_afterwards = gc.isenabled()
    finally:
        gc.enable()

    assert found
    assert seen == [False]
    assert is_enabled_afterwards is is_enabled


class StartsLate(threading.Thread):
    """Has not begun when the one that starts it waits for that."""

    def __init__(self, begin: threading.Event) -> None:
        super().__init__(daemon=True)
        self.begin = begin
        self.interrupted_by: list[BaseException] = []

    def _bootstrap_inner(self) -> None:
        try:
            self.begin.wait(PATIENCE_SECONDS)
        except BaseException as error:  # noqa: BLE001 - what is looked for
            self.interrupted_by.append(error)
        super()._bootstrap_inner()  # type: ignore[misc]


def test_thread_that_a_job_is_starting_does_not_get_its_interruption(queue):
    begin = threading.Event()
    started = StartsLate(begin)
    result = task(timeout=0.1)(started.start).enqueue()
    attempt = _attempt_in_start()

    attempt.interrupt(JobTimeout)
    is_sent_while_it_starts = attempt._running._sent
    begin.set()

    assert not is_sent_while_it_starts
    assert result.wait(PATIENCE_SECONDS).errors[-1].exception_class is JobTimeout
    assert not started.interrupted_by


def _attempt_in_start() -> Any:
    [worker_thread] = worker_threads()

    def starts() -> bool:
        return frames.inspect_frame(worker_thread.ident or 0, _is_in_start)

    assert until(starts)
    return worker_thread.attempt


def _is_in_start(frame: Any) -> bool:
    names = []
    while frame is not None:
        names.append((frame.f_globals.get("__name__"), frame.f_code.co_name))
        frame = frame.f_back
    return ("threading", "start") in names and ("tgext.asyncjob.worker.attempt", "_call") in names


def test_thread_is_interrupted_where_it_was_looked_at(monkeypatch):
    """Letting go of the frames can start a thread, and lets the one that was looked at go on."""
    done: list[str] = []
    release = frames._releaser.release
    monkeypatch.setattr(
        frames._releaser, "release", lambda seen: (done.append("let go"), release(seen))
    )
    monkeypatch.setattr(safe_points, "raise_in", lambda *given: done.append("raised"))
    begun, stop = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        while not stop.is_set():
            pass

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(PATIENCE_SECONDS)
    where = (threading.Thread.run.__code__, until.__code__)
    is_raised = until(lambda: safe_points.raise_if_safe(thread.ident or 0, JobTimeout, *where))
    stop.set()
    thread.join(PATIENCE_SECONDS)

    assert is_raised
    assert done[-2:] == ["raised", "let go"]


def test_interruption_of_a_shielded_block_waits_for_its_end():
    running, reached, sent = Interruptible(), [], threading.Event()

    def interrupt() -> None:
        running.interrupt(JobTimeout)
        sent.set()

    def work() -> None:
        with running.shield():
            threading.Thread(target=interrupt).start()
            while not sent.is_set():  # it waits at no lock, and could be interrupted anywhere
                pass
            reached.append("the end of the block")
        reached.append("what follows")

    with pytest.raises(JobTimeout):
        running.run(work)

    assert reached == ["the end of the block"]


# -- what is claimed with a job that hangs


def test_jobs_claimed_with_one_that_is_given_up_run_all_the_same(place, monkeypatch):
    """Where a busy machine had not yet given them back, they were nobody's: claimed by a worker
    that lives, and in the hands of a thread that it had given up."""
    monkeypatch.setattr(thread, "RELEASE_SECONDS", 60.0)
    hang = threading.Event()
    sqlqueues.hooks["hang"] = lambda: hang.wait(PATIENCE_SECONDS)
    queue = place.queue(threads=1)
    with queue.as_current(), queue.in_transaction():
        uids = [queue.perform(sqlqueues.nothing) for _ in range(40)]
        task(timeout=0.05)(sqlqueues.after_hook).enqueue("hang")
        uids += [queue.perform(sqlqueues.nothing) for _ in range(20)]
        transaction.commit()

    queue.start_worker()
    ended = [queue.result(uid).wait(PATIENCE_SECONDS).status for uid in uids]
    hang.set()
    sqlqueues.hooks.clear()

    assert set(ended) == {"SUCCESSFUL"}


def test_look_at_a_thread_that_hangs_never_waits_for_what_it_lets_go_of(queue):
    """The last to have a frame ends what is in it: a cursor of SQLite's, say, whose end waits for
    the query of its connection; the thread that was to end that query waited for it."""
    ends_in = []
    hang, seen = threading.Event(), threading.Event()

    class Held:
        def __del__(self) -> None:
            ends_in.append(threading.current_thread().name)

    def hold() -> None:
        held = Held()
        seen.set()
        hang.wait(PATIENCE_SECONDS)
        assert held

    thread = threading.Thread(target=hold)
    thread.start()
    assert seen.wait(PATIENCE_SECONDS)

    def at(frame: Any) -> None:
        hang.set()
        thread.join(PATIENCE_SECONDS)  # the thread goes on while it is looked at

    frames.inspect_frame(thread.ident or 0, at)

    assert until(lambda: ends_in)
    assert threading.current_thread().name not in ends_in
