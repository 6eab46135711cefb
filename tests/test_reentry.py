"""A finalizer or a signal handler enqueues wherever it cuts in, in the queue's own work too.

The garbage collector and signals strike anywhere. Here something strikes at every call of a
function that an enqueue and a run make, one after the other.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transaction

from clocks import PATIENCE_SECONDS
from sqlqueues import KINDS, place_of
from tgext.asyncjob import JobQueue, TaskResultStatus

#: A strike at every so-and-so-many-th call only, in an enqueue and in a run: primes, so that all
#: are hit by and by; ``make fast`` takes longer strides through a run.
STRIDE, RUN_STRIDE = 7, 53 if os.environ.get("FAST") else 29


@pytest.fixture(params=["memory", *KINDS])
def queue(request: Any, tmp_path: Path) -> Iterator[JobQueue]:
    """One without a worker."""
    if request.param == "memory":
        with JobQueue(threads=0) as made:
            yield made
    else:
        with place_of(request.param, tmp_path) as place:
            yield place.queue()
            transaction.abort()


def work() -> None:
    pass


def struck(number: int, act: Callable[[], object], strike: Callable[[], object]) -> bool:
    """Do *act*, and *strike* in the middle of it, at its so-and-so-many-th call of a function;
    False if there are not so many. Fails a test where that hangs."""
    left, raised = [number], []

    def profile(frame: Any, event: str, _argument: Any) -> None:
        is_ours = frame.f_globals.get("__name__", "").startswith("tgext.asyncjob")
        if event in ("call", "c_call") and left[0] and is_ours:
            left[0] -= 1
            if not left[0]:
                sys.setprofile(None)
                strike()

    def run() -> None:
        transaction.get()  # makes what a thread has of its own
        sys.setprofile(profile)
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - for the test
            raised.append(error)
        finally:
            sys.setprofile(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    if thread.is_alive():
        stack = "".join(traceback.format_stack(sys._current_frames()[thread.ident or 0]))
        pytest.fail(f"it hangs at call {number}:\n{stack}")
    if raised:
        raise raised[0]
    return not left[0]


def test_enqueue_in_the_middle_of_an_enqueue_loses_and_holds_up_nothing(queue):
    queue.perform(work)
    enqueued = number = 1

    while struck(number, lambda: queue.perform(work), lambda: queue.perform(work)):
        number += STRIDE
        enqueued += 2

    assert number > 5 * STRIDE
    assert queue.run_pending() in (enqueued, enqueued + 1)  # the last was not struck


def test_enqueue_in_the_middle_of_a_run_loses_and_holds_up_nothing(queue):
    ran = number = enqueued = 0

    def run() -> None:
        nonlocal ran
        ran += queue.run_pending()

    def enqueue() -> None:
        nonlocal enqueued
        enqueued += 1
        with queue.in_transaction(False):  # not as part of the job's own transaction
            queue.perform(work)

    while True:
        enqueue()
        number += RUN_STRIDE
        if not struck(number, run, enqueue):
            break
    run()

    assert enqueued > 10
    assert ran == enqueued


def cancel_one(queue: JobQueue) -> object:
    return queue.backend.cancel(queue.perform(work))


def cancel_several(queue: JobQueue) -> object:
    return queue.backend.change_many("cancel", [queue.perform(work) for _ in range(2)])


def pause(queue: JobQueue) -> object:
    return queue.pause("default")


def resume(queue: JobQueue) -> object:
    return queue.resume("default")


def limit(queue: JobQueue) -> object:
    return queue.limit("default", 3)


STEERING = [cancel_one, cancel_several, pause, resume, limit]


@pytest.mark.parametrize("act", STEERING)
def test_enqueue_in_the_middle_of_steering_loses_and_holds_up_nothing(act):
    with JobQueue(threads=0) as queue:
        number = 1
        enqueued = set()
        while struck(number, lambda: act(queue), lambda: enqueued.add(queue.perform(work))):
            number += 1

        assert number > STRIDE
        queue.resume("default")
        queue.limit("default", None)
        queue.run_pending()
        assert {queue.result(uid).status for uid in enqueued} == {TaskResultStatus.SUCCESSFUL}


@pytest.mark.parametrize("act", STEERING)
def test_steering_in_the_middle_of_the_memory_backend_is_made_up_for(act):
    with JobQueue(threads=0) as queue:
        queue.pause("default")
        number = 1
        while struck(number, lambda: queue.perform(work), lambda: act(queue)):
            number += 1
            made_up_for(queue, act)

        assert number > STRIDE


def made_up_for(queue: JobQueue, act: Callable[..., object]) -> None:
    """Check that a change was made, and undo it."""
    if act is pause:
        assert queue.resume("default") is True
    elif act is resume:
        assert queue.pause("default") is True
    elif act is limit:
        assert queue.backend.queue_limits() == {"default": 3}
        queue.limit("default", None)
    else:
        assert queue.backend.counts()["CANCELLED"] > 0
        assert queue.backend.waiting() == queue.backend.counts()["READY"]


@pytest.mark.parametrize("threshold", [3, 7])
def test_object_whose_finalizer_enqueues_may_be_collected_anywhere(queue, threshold):
    class Cache:
        def __init__(self) -> None:
            self.itself = self  # only the collector finds it

        def __del__(self) -> None:
            queue.perform(work)

    def enqueue_many() -> None:
        before = gc.get_threshold()
        gc.set_threshold(threshold)
        try:
            for _ in range(20):
                Cache()
                queue.perform(work)
        finally:
            gc.set_threshold(*before)

    thread = threading.Thread(target=enqueue_many, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive(), "it hangs"
    gc.collect()

    assert queue.run_pending() == 40


def test_signal_handler_may_enqueue_cancel_and_close_in_the_middle_of_the_memory_backend():
    """It is asked for at once, by the very thread that holds the lock."""
    with JobQueue(threads=0) as queue:
        waiting = queue.perform(work)
        done: list[object] = []

        def strike(_signal: int, _frame: object) -> None:
            queue.perform(work)
            done.append(queue.result(waiting).cancel())
            with pytest.raises(RuntimeError, match="would wait for itself"):
                queue.result(waiting).wait(1)
            queue.close()

        before = signal.signal(signal.SIGUSR1, strike)
        try:
            with queue.backend._lock.once_free():
                _in_the_module(queue, lambda: signal.raise_signal(signal.SIGUSR1))
        finally:
            signal.signal(signal.SIGUSR1, before)

        queue.backend.wake()
        assert done == [True]
        counts = queue.backend.counts()
        assert (counts["READY"], counts["CANCELLED"]) == (1, 1)


def _in_the_module(queue: JobQueue, act: Callable[[], object]) -> None:
    """Do something as if in the middle of a method of the backend."""
    module = sys.modules[type(queue.backend).__module__]
    exec("act()", {"__name__": module.__name__, "act": act})


def test_finalizer_enqueues_also_in_a_threads_first_look_at_its_transaction(queue, monkeypatch):
    """Which makes the thread's manager, and has not done so yet."""
    uids = []

    class Manager(transaction.TransactionManager):
        def __init__(self) -> None:
            uids.append(queue.perform(work))
            super().__init__()

    monkeypatch.setattr("transaction._manager.TransactionManager", Manager)
    thread = threading.Thread(target=lambda: uids.append(queue.perform(work)), daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)

    assert len(uids) == 2
    assert queue.run_pending() == 2
