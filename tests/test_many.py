"""Many jobs, many threads, several queues and processes: each job exactly once, and a clean end."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from typing import Any
from weakref import ref

import pytest

from tgext.asyncjob import (
    JobQueue,
    TaskResultStatus,
    UnknownJob,
    asyncjob_perform,
    asyncjob_track,
    task,
)
from tgext.asyncjob.current import open_queues

JOBS, PRODUCERS, WORKERS = 10_000, 8, 4
#: A child of a process with threads: what this module is about.
forks = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


def nothing():
    pass


class Ledger:
    """Counts what ran, and tells when *expected* did."""

    def __init__(self, expected):
        self.ran = []  # append is atomic
        self.expected = expected
        self.complete = threading.Event()

    def mark(self, number):
        self.ran.append(number)
        if len(self.ran) >= self.expected:
            self.complete.set()

    def repeated(self):
        return {number: times for number, times in Counter(self.ran).items() if times != 1}


def produce(queue, ledger, jobs=JOBS, producers=PRODUCERS, meanwhile=lambda: None):
    """Enqueue *jobs* from so many threads, and do something while they are at it."""
    uids = [[] for _ in range(producers)]
    barrier = threading.Barrier(producers + 1)

    def enqueue(which):
        barrier.wait(20)
        for number in range(which, jobs, producers):
            uids[which].append(queue.perform(ledger.mark, number))

    threads = [threading.Thread(target=enqueue, args=[which]) for which in range(producers)]
    for thread in threads:
        thread.start()
    barrier.wait(20)
    meanwhile()
    for thread in threads:
        thread.join(30)
    return [uid for some in uids for uid in some]


def test_ten_thousand_jobs_from_eight_threads_run_exactly_once_on_four():
    ledger = Ledger(JOBS)
    with JobQueue(threads=WORKERS) as queue:
        queue.start_worker()

        uids = produce(queue, ledger)

        assert ledger.complete.wait(30)
        assert queue.result(uids[-1]).wait(20).status is TaskResultStatus.SUCCESSFUL
    assert len(set(uids)) == JOBS
    assert len(ledger.ran) == JOBS
    assert ledger.repeated() == {}


def test_jobs_enqueued_before_the_worker_started_run_exactly_once():
    ledger = Ledger(JOBS // 4)
    with JobQueue(threads=WORKERS) as queue:
        produce(queue, ledger, jobs=JOBS // 4)
        assert ledger.ran == []

        queue.start_worker()

        assert ledger.complete.wait(30)
    assert ledger.repeated() == {}


def test_several_threads_that_run_what_is_pending_run_each_job_once():
    ledger = Ledger(JOBS // 4)
    counts = []
    with JobQueue(threads=0) as queue:
        produce(queue, ledger, jobs=JOBS // 4)
        threads = [
            threading.Thread(target=lambda: counts.append(queue.run_pending()))
            for _ in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    assert sum(counts) == JOBS // 4
    assert ledger.repeated() == {}


# -- fork


def in_a_child(work):
    """Fork, run *work* there, and return a function that gives what it reported."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as pipe:
                json.dump(work(), pipe)
            status = 0
        finally:
            os._exit(status)  # nothing of pytest's runs in the child
    os.close(writing)

    def reported():
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        _, status = os.waitpid(pid, 0)
        assert status == 0
        return json.loads(text)

    return reported


@forks
def test_fork_in_the_middle_runs_each_job_once_in_the_process_that_enqueued_it():
    ledger, mine, reported = Ledger(JOBS), Ledger(200), []

    def child(queue):
        inherited = len(ledger.ran)
        threads_before = threading.active_count()
        uids = [queue.perform(mine.mark, number) for number in range(200)]
        complete = mine.complete.wait(10)
        ended = queue.result(uids[-1]).wait(20).status.value
        return {
            "complete": complete,
            "ended": ended,
            "repeated": len(mine.repeated()),
            "of the parent's": len(ledger.ran) - inherited,
            "threads before": threads_before,
            "waiting": queue.backend.waiting(),
        }

    with JobQueue(threads=WORKERS) as queue:
        queue.start_worker()
        produce(
            queue, ledger,
            meanwhile=lambda: reported.append(in_a_child(lambda: child(queue))),
        )  # fmt: skip

        assert ledger.complete.wait(30)
        assert reported[0]() == {
            "complete": True,
            "ended": "SUCCESSFUL",
            "repeated": 0,
            "of the parent's": 0,
            "threads before": 1,
            "waiting": 0,
        }
    assert ledger.repeated() == {}
    assert mine.ran == []


@forks
def test_child_of_a_fork_does_not_know_the_parents_jobs_and_closes_in_peace():
    def child(queue, uid):
        try:
            queue.result(uid)
        except UnknownJob as error:
            said = str(error)
        queue.close()
        queue.close()
        return said

    with JobQueue(threads=1) as queue:
        queue.start_worker()
        uid = queue.perform(nothing)

        said = in_a_child(lambda: child(queue, uid))()

        assert f"it was made by process {os.getpid()}" in said
        assert queue.result(uid).wait(20).status is TaskResultStatus.SUCCESSFUL


# -- two queues


def test_two_queues_do_not_see_each_others_jobs():
    ledgers = Ledger(500), Ledger(500)
    with JobQueue(threads=2) as one, JobQueue(threads=2) as other:
        for queue in one, other:
            queue.start_worker()
        uids = [produce(one, ledgers[0], 500, 2), produce(other, ledgers[1], 500, 2)]

        assert all(ledger.complete.wait(10) for ledger in ledgers)
        for queue, foreign in (one, uids[1]), (other, uids[0]):
            with pytest.raises(UnknownJob):
                queue.result(foreign[0])
            with pytest.raises(UnknownJob):
                queue.progress(foreign[0])


def test_two_queues_do_not_run_each_others_jobs():
    with JobQueue(threads=2) as one, JobQueue(threads=0) as other:
        one.start_worker()
        uid = other.perform(nothing)

        one.result(one.perform(nothing)).wait(20)

        assert other.result(uid).status is TaskResultStatus.READY
        assert other.run_pending() == 1


# -- waking


def test_a_delayed_job_does_not_wait_for_the_thread_that_saw_it_first(queue, gate):
    """The thread that was told of it may be busy when its time comes, and another asleep."""
    waiting = queue.backend._waiters.waiting
    assert _until(lambda: len(waiting) == 2)
    later = task(nothing).using(run_after=timedelta(seconds=0.2)).enqueue()
    assert _until(lambda: len(waiting) == 2)
    queue.perform(gate.enter)
    gate.wait_for()

    assert later.wait(20).status is TaskResultStatus.SUCCESSFUL


def test_a_job_is_started_at_once_by_an_idle_worker(queue):
    waiting = queue.backend._waiters.waiting
    assert _until(lambda: len(waiting) == 2)
    began = time.monotonic()

    queue.result(queue.perform(nothing)).wait(20)

    assert time.monotonic() - began < 5


# -- the end


def test_close_lets_what_runs_finish_and_leaves_what_waits_and_counts_it(gate, caplog):
    queue = JobQueue(threads=1)
    queue.start_worker()
    running = queue.result(queue.perform(gate.enter))
    gate.wait_for()
    waiting = [queue.result(queue.perform(nothing)) for _ in range(3)]
    closing = threading.Thread(target=queue.close)

    with caplog.at_level(logging.WARNING, "tgext.asyncjob"):
        closing.start()
        assert _until(lambda: queue not in open_queues)
        gate.open()
        closing.join(20)

    running.refresh()
    assert running.status is TaskResultStatus.SUCCESSFUL
    for result in waiting:
        result.refresh()
        assert result.status is TaskResultStatus.READY
        assert result.attempts == 0
    assert [record.getMessage() for record in caplog.records] == [
        "jobs never run, lost with this process's memory: 3"
    ]


def test_close_twice_is_as_good_as_once_and_logs_once(caplog):
    queue = JobQueue(threads=1)
    queue.perform(nothing)

    queue.close()
    queue.close()

    assert sum("lost with" in record.getMessage() for record in caplog.records) == 1


def test_close_in_two_threads_at_once_ends():
    queue = JobQueue(threads=2)
    queue.start_worker()
    threads = [threading.Thread(target=queue.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert not any(thread.is_alive() for thread in threads)


def test_close_gives_back_what_does_not_finish_within_the_drain_timeout(gate):
    queue = JobQueue(threads=2, drain_timeout=0.05)
    queue.start_worker()

    def endless():
        gate.enter()
        for _ in asyncjob_track(iter(int, 1)):
            pass

    results = [queue.result(queue.perform(job)) for job in (endless, gate.enter)]
    gate.wait_for(2)
    began = time.monotonic()
    queue.close()

    assert time.monotonic() - began < 10
    for result in results:
        result.refresh()
        assert result.status is TaskResultStatus.READY
        assert result.attempts == 0
    gate.open()


def test_close_from_inside_a_job_lets_that_job_finish(caplog):
    closed = threading.Event()

    def job():
        queue.close()
        closed.set()
        return "done"

    queue = JobQueue(threads=2, drain_timeout=2)
    queue.start_worker()
    result = queue.result(queue.perform(job))

    assert result.wait(20).status is TaskResultStatus.SUCCESSFUL
    assert closed.is_set()
    assert _until(lambda: not _threads())
    queue.close()


def test_worker_threads_are_daemons(queue):
    queue.result(queue.perform(nothing)).wait(20)

    threads = _threads()
    assert len(threads) == 3  # two worker threads and the timeout monitor
    assert all(thread.daemon for thread in threads)


def test_start_worker_twice_starts_one_worker(queue):
    queue.start_worker()
    queue.serve()

    assert len(_threads()) == 3


def test_a_queue_without_a_worker_that_is_dropped_is_no_longer_open():
    queue = ref(JobQueue(threads=1))
    gc.collect()

    assert queue() is None
    with JobQueue(threads=0) as only:
        asyncjob_perform(nothing)
        assert only.run_pending() == 1


def test_a_queue_with_a_worker_that_is_dropped_runs_what_it_was_given(gate):
    ran = threading.Event()
    queue = JobQueue(threads=1)
    queue.start_worker()
    queue.perform(gate.enter)
    queue.perform(ran.set)
    gate.wait_for()
    del queue
    gc.collect()
    gate.open()

    assert ran.wait(20)
    for left in list(open_queues):
        left.close()


AT_EXIT = """
import sys, threading
from tgext.asyncjob import JobQueue, asyncjob_track
started = threading.Event()
def finishes():
    started.set()
    threading.Event().wait(0.3)
    print("finished", flush=True)
def hangs():
    started.set()
    threading.Event().wait(60)
def loops():
    started.set()
    while True:
        try:
            for _ in asyncjob_track(iter(int, 1)): pass
        except Exception:
            pass
queue = JobQueue(threads=1, drain_timeout=float(sys.argv[2]))
queue.start_worker()
queue.perform(globals()[sys.argv[1]])
assert started.wait(10)
if sys.argv[1] == "hangs":
    del queue
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "drain_timeout", "said", "at_most"),
    [("finishes", "5", "finished\n", 4), ("hangs", "0.2", "", 4), ("loops", "0.2", "", 4)],
)
def test_interpreter_exit_with_a_running_job_ends_within_the_drain_timeout(
    job, drain_timeout, said, at_most
):
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", AT_EXIT, job, drain_timeout],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert ended.returncode == 0
    assert ended.stdout == said
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - began < at_most


def _threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("asyncjob")]


def _until(condition):
    """Whether *condition* becomes true within 5 seconds."""
    until = time.monotonic() + 5
    while not condition():
        if time.monotonic() > until:
            return False
        threading.Event().wait(0.002)
    return True


@pytest.mark.parametrize("backend", ["memory", "sql"])
def test_job_that_runs_on_while_its_queue_closes_may_enqueue_another(backend, gate, tmp_path):
    url = f"sqlite:///{tmp_path}/jobs.db"
    queue = JobQueue(backend, url=url, secret="swordfish", threads=1)
    _enqueuing.update(queue=queue, gate=gate)
    queue.start_worker()
    parent = queue.perform(enqueue_another)
    gate.wait_for()

    closer = threading.Thread(target=queue.close)
    closer.start()
    while not queue._closed:
        pass
    gate.open()
    closer.join()

    if backend == "memory":
        assert queue.result(parent).status == "SUCCESSFUL"
        return
    with JobQueue(backend, url=url, secret="swordfish", threads=0) as later:
        assert later.result(parent).status == "SUCCESSFUL"
        assert later.run_pending() == 1


_enqueuing: dict[str, Any] = {}


def enqueue_another() -> None:
    _enqueuing["gate"].enter()
    _enqueuing["queue"].perform(int)
