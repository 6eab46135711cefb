"""``run_pending()``: a worker of one thread, the caller's, as long as it runs."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sqlqueues import KINDS, PATIENCE_SECONDS, Place, hooks, nothing, place_of
from tgext.asyncjob import JobQueue, TaskResultStatus, task
from tgext.asyncjob.worker.caller_thread import CallerThread

READY, SUCCESSFUL = TaskResultStatus.READY, TaskResultStatus.SUCCESSFUL
FAILED = TaskResultStatus.FAILED


@pytest.fixture(scope="module", params=KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture(autouse=True)
def _fresh(place: Place) -> Iterator[None]:
    yield
    hooks.clear()
    place.close_queues()
    place.empty()


def call_hook() -> None:
    hooks["middle"]()


def running(place: Place, queue: JobQueue) -> tuple[threading.Thread, threading.Event]:
    """Run what is pending in a thread that stops in the middle of a job; returns it, and what
    lets it go on."""
    begun, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        begun.set()
        for _ in range(PATIENCE_SECONDS * 50):  # in Python again and again: it may be interrupted
            if go_on.wait(0.02):
                return
        raise AssertionError("nobody let it go on")

    hooks["middle"] = pause
    thread = threading.Thread(target=queue.run_pending, daemon=True)
    thread.start()
    assert begun.wait(PATIENCE_SECONDS)
    return thread, go_on


def until(condition: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(PATIENCE_SECONDS * 50):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("it never came")


def test_who_runs_what_is_pending_is_a_worker_that_beats_and_is_none_afterwards(place):
    queue, other = place.queue(lease=1), place.other_queue()
    uid = queue.perform(call_hook)
    thread, go_on = running(place, queue)

    [first] = other.backend.overview.workers()
    until(lambda: other.backend.overview.workers()[0].seen_at > first.seen_at)
    go_on.set()
    thread.join()

    assert other.result(uid).status is SUCCESSFUL
    assert other.backend.overview.workers() == []


def test_job_that_was_taken_from_who_runs_what_is_pending_is_interrupted(place, caplog):
    queue, other = place.queue(lease=1), place.other_queue()
    uid = queue.perform(call_hook)
    thread, _ = running(place, queue)
    [row] = place.jobs()
    with place.engine.begin() as connection:
        jobs = place.tables.jobs
        connection.execute(jobs.update().values(lease=row.lease + 1, worker_id="another"))

    hooks["middle"] = nothing
    until(lambda: not thread.is_alive() or "lease lost" in caplog.text)

    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert other.result(uid).status is TaskResultStatus.RUNNING


@pytest.mark.parametrize("where", ["in the job", "before it", "after it"])
def test_keyboard_interrupt_gives_the_job_back(place, monkeypatch, where):
    queue = place.queue()
    uid = queue.perform(call_hook)

    def press(*_args: Any) -> None:
        raise KeyboardInterrupt

    hooks["middle"] = nothing
    with monkeypatch.context() as patched:
        if where == "in the job":
            hooks["middle"] = press
        else:
            patched.setattr(
                CallerThread, "_run" if where == "before it" else "_store_outcomes", press
            )
        with pytest.raises(KeyboardInterrupt):
            queue.run_pending()

    hooks["middle"] = nothing
    assert (queue.result(uid).status, queue.result(uid).attempts) == (READY, 0)
    assert queue.run_pending() == 1
    assert queue.result(uid).status is SUCCESSFUL


def test_queue_that_is_closed_by_another_thread_gives_back_what_is_being_run(place):
    queue, other = place.queue(drain_timeout=0), place.other_queue()
    uid = queue.perform(call_hook)
    thread, go_on = running(place, queue)

    closing = threading.Thread(target=queue.close)
    closing.start()
    until(lambda: other.result(uid).status is READY)
    go_on.set()
    closing.join()
    thread.join()

    assert (other.result(uid).status, other.result(uid).attempts) == (READY, 0)


@task(timeout=0.1)
def hang() -> None:
    hooks["middle"]()


def test_job_that_does_not_end_at_its_timeout_is_over_for_the_world_and_the_next_one_runs(place):
    queue, other = place.queue(), place.other_queue()
    begun, go_on = threading.Event(), threading.Lock()
    go_on.acquire()

    def sleep_in_c() -> None:
        begun.set()
        go_on.acquire()

    hooks["middle"] = sleep_in_c
    with queue.as_current():
        hanging, next_one = hang.enqueue(), queue.result(queue.perform(len, "ab"))
    thread = threading.Thread(target=queue.run_pending, daemon=True)
    thread.start()
    assert begun.wait(PATIENCE_SECONDS)

    until(lambda: other.result(hanging.id).status is FAILED)
    assert thread.is_alive()
    go_on.release()
    thread.join(PATIENCE_SECONDS)

    assert other.result(next_one.id).status is SUCCESSFUL


def leave_an_exception() -> None:
    """Handle an exception for ever, as the end of a handler does that is interrupted."""
    ctypes.pythonapi.PyErr_SetHandledException(ctypes.py_object(LookupError("of before")))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no such function")
def test_what_an_interrupted_handler_leaves_behind_is_in_no_later_error():
    def fail() -> None:
        raise ValueError("of now")

    with JobQueue(threads=0) as queue:
        for handled in (None, KeyError("of the caller")):
            queue.perform(leave_an_exception)
            uid = queue.perform(fail)
            try:
                if handled is not None:
                    raise handled
                queue.run_pending()
            except KeyError:
                queue.run_pending()
                assert sys.exc_info()[1] is handled
            [error] = queue.result(uid).errors
            assert "of before" not in error.traceback
    assert sys.exc_info()[1] is None


def test_limit_is_how_many_jobs_run_at_the_most(place):
    queue = place.queue()
    for _ in range(3):
        queue.perform(len, "ab")

    assert [queue.run_pending(0), queue.run_pending(2), queue.run_pending()] == [0, 2, 1]


def test_memory_gives_back_what_a_keyboard_interrupt_has_stopped(monkeypatch, tmp_path: Path):
    def press(*_args: Any) -> None:
        raise KeyboardInterrupt

    with JobQueue(threads=0) as queue:
        uid = queue.perform(len, "ab")
        with monkeypatch.context() as patched:
            patched.setattr(CallerThread, "_run", press)
            with pytest.raises(KeyboardInterrupt):
                queue.run_pending()

        assert (queue.result(uid).status, queue.run_pending()) == (READY, 1)
