"""The memory backend: the contract, and what only it promises about uids, forks and size."""

from __future__ import annotations

import collections
import gc
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import pytest

from backend_contract import (
    BROKEN,
    DONE,
    LONG_SECONDS,
    BackendContract,
    WaitingThread,
    a_job,
    claim_one,
    claimed_uids,
    ended,
    enqueued,
    status_of,
)
from tgext.asyncjob import (
    JobQueue,
    JobTimeout,
    Task,
    UnknownJob,
    asyncjob_get_progress,
    asyncjob_running_uid,
    asyncjob_set_progress,
)
from tgext.asyncjob.backends import memory
from tgext.asyncjob.backends.audit import Act, Audit
from tgext.asyncjob.backends.base import Standing
from tgext.asyncjob.backends.memory import MemoryBackend, changes, entry, ready_queue
from tgext.asyncjob.backends.memory.waiters import Waiters
from tgext.asyncjob.job import (
    CANCELLED,
    FAILED,
    READY,
    SUCCESSFUL,
    Claim,
    Outcome,
    TaskResultStatus,
)
from tgext.asyncjob.policies import Keys, Limit, Rate
from tgext.asyncjob.sharing import Share, share_of
from tgext.asyncjob.uniqueness import UNFINISHED, UniqueKey

UID = re.compile(r"asyncjob_(\d+)_[0-9a-f]{8}_[0-9a-f]{32}", re.ASCII)

ASKING = ("get", "progress", "cancel", "retry")


class TestMemoryBackend(BackendContract):
    transactional = False

    @pytest.fixture
    def clock(self, clock: Any) -> Any:
        return clock  # the one of conftest.py, not the contract's placeholder

    @pytest.fixture
    def backend(self, clock: Any) -> MemoryBackend:
        return MemoryBackend(retention_seconds=self.RETENTION_SECONDS, clock=clock)

    @pytest.fixture
    def in_transaction(self) -> Callable[[], AbstractContextManager[Any]]:
        return lambda: nullcontext(None)


@pytest.fixture
def backend(clock: Any) -> MemoryBackend:
    return MemoryBackend(retention_seconds=1000, clock=clock)


# -- uids


def test_uid_tells_the_process_that_made_it(backend):
    made = UID.fullmatch(backend.new_uid())

    assert made is not None
    assert int(made[1]) == os.getpid()


def test_uids_go_on_when_those_drawn_in_advance_are_used_up(backend):
    uids = {backend.new_uid() for _ in range(3 * memory.SECRETS + 1)}

    assert len(uids) == 3 * memory.SECRETS + 1
    assert all(UID.fullmatch(uid) for uid in uids)


@pytest.fixture(scope="module")
def strange_uid() -> str:
    """A uid that a process which has ended made."""
    program = (
        "from tgext.asyncjob.backends.memory import MemoryBackend; print(MemoryBackend().new_uid())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return ran.stdout.strip()


@pytest.mark.parametrize("ask", ASKING)
def test_uid_of_another_process_raises_unknown_job_and_names_the_way_out(backend, strange_uid, ask):
    with pytest.raises(UnknownJob) as raised:
        getattr(backend, ask)(strange_uid)

    pid = UID.fullmatch(strange_uid)[1]
    assert str(raised.value) == (
        f"no job {strange_uid!r}: it was made by process {pid} and this is {os.getpid()}; on the "
        "memory backend a process knows only its own jobs, set asyncjob.backend = sql"
    )


def test_waiting_for_the_end_of_another_processs_job_raises_unknown_job(backend, strange_uid):
    with pytest.raises(UnknownJob):
        backend.wait_for_end(strange_uid, LONG_SECONDS)


def test_uid_of_another_backend_of_this_process_is_not_said_to_be_another_processs(backend):
    uid = enqueued(MemoryBackend())

    try:
        found = backend.get(uid)
    except UnknownJob as error:
        assert f"made by process {os.getpid()} and this is {os.getpid()}" not in str(error)  # noqa: PT017
    else:
        assert found is None


# -- forks


def in_child(act: Callable[[], Any]) -> str:
    """What ``str(act())`` is in a forked child."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "the child raised"
        try:
            text = str(act())
        finally:
            os.write(writing, text.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text


def test_child_begins_with_no_jobs_and_knows_that_the_parents_are_not_its_own(backend):
    uid = enqueued(backend)

    def act() -> list[object]:
        backend.after_fork()
        seen = [backend.waiting(), claimed_uids(backend), sum(backend.counts().values())]
        try:
            backend.get(uid)
        except UnknownJob:
            seen.append("UnknownJob")
        return seen

    assert in_child(act) == str([0, [], 0, "UnknownJob"])
    assert claimed_uids(backend) == [uid]


def test_child_has_uids_of_its_own(backend):
    before = {backend.new_uid() for _ in range(3)}

    def act() -> str:
        backend.after_fork()
        return backend.new_uid()

    uid = in_child(act)

    assert UID.fullmatch(uid)
    assert UID.fullmatch(uid)[1] != str(os.getpid())
    assert uid[-32:] not in {made[-32:] for made in before}
    assert uid[-32:] != backend.new_uid()[-32:]


def test_child_of_a_fork_in_the_middle_of_a_claim_does_not_hang(backend):
    enqueued(backend)

    def act() -> list[str]:
        backend.after_fork()
        uid = enqueued(backend)
        return [str(found == uid) for found in claimed_uids(backend)]

    with backend._lock.once_free():  # another thread of the parent's has it
        seen = in_child(act)

    assert seen == "['True']"


# -- growth


def test_process_that_runs_for_a_year_keeps_no_more_ended_jobs_than_it_may(backend, monkeypatch):
    monkeypatch.setattr(changes, "MOST_ENDED", 50)

    uids = [ended(backend) for _ in range(130)]

    assert len(backend._records) == len(backend._ended) == 50
    assert backend.get(uids[79]) is None
    assert backend.get(uids[80]) is not None


def test_most_ended_is_some_megabytes():
    assert changes.MOST_ENDED == 10_000


def test_one_job_retried_for_ever_does_not_grow(backend, clock, monkeypatch):
    monkeypatch.setattr(changes, "MOST_ENDED", 50)
    uid = ended(backend, BROKEN)
    for _ in range(200):
        clock.advance(1)
        backend.retry(uid)
        backend.finish(claim_one(backend), BROKEN)

    found = backend.get(uid)
    assert found.attempts == 201
    assert len(found.errors) == entry.MOST_ERRORS
    assert len(backend._ended) <= 50


def test_keys_of_which_no_job_waits_or_has_just_started_are_forgotten(backend, clock, monkeypatch):
    monkeypatch.setattr(changes, "MOST_ENDED", 5)
    for number in range(50):
        keys = Keys(
            Limit(f"{number}", 1), Rate(f"rate:{number}", 1, 60.0),
            UniqueKey(f"=:{number}", UNFINISHED), Share("/:0:default", f"//:0:default/:{number}"),
        )  # fmt: skip
        backend.enqueue([a_job(backend)._replace(keys=keys)])
        backend.finish(claim_one(backend), DONE)
    backend.prune()
    admission = backend._ready_queue._admission
    assert len(admission._starts) == 50
    clock.advance(61)
    backend.prune()

    left = {
        name: len(value) for name, value in vars(admission).items() if hasattr(value, "__len__")
    }
    assert left == dict.fromkeys(left, 0)
    assert len(backend._unique._taken) <= 5


@pytest.mark.slow
def test_hundred_thousand_cancelled_delayed_jobs_leave_next_to_nothing(backend):
    delay = timedelta(days=1)
    keeper = enqueued(backend, run_after=delay)
    for _ in range(100):
        jobs = [a_job(backend, run_after=delay) for _ in range(1000)]
        backend.enqueue(jobs)
        for job in jobs:
            backend.cancel(job.uid)

    assert backend.waiting() == 1
    assert len(backend._ready_queue._delayed) <= ready_queue.MOST_STALE + 2
    assert len(backend._records) <= changes.MOST_ENDED + 1
    assert status_of(backend, keeper) is READY


@pytest.mark.slow
def test_hundred_thousand_jobs_cancelled_after_all_were_enqueued_are_swept(backend, clock):
    delay = timedelta(days=1)
    backend.enqueue(jobs := [a_job(backend, run_after=delay) for _ in range(100_000)])
    last = jobs.pop()
    for job in jobs:
        backend.cancel(job.uid)

    assert len(backend._ready_queue._delayed) <= ready_queue.MOST_STALE + 2
    assert len(backend._records) <= changes.MOST_ENDED + 1
    clock.advance(delay.total_seconds())
    assert claimed_uids(backend) == [last.uid]


def test_sweeping_keeps_the_order_of_those_that_still_wait(backend, monkeypatch):
    monkeypatch.setattr(ready_queue, "MOST_STALE", 5)
    uids = [enqueued(backend, priority=number % 3) for number in range(60)]
    for uid in uids[:50]:
        backend.cancel(uid)

    expected = sorted(uids[50:], key=lambda uid: (-(uids.index(uid) % 3), uids.index(uid)))
    assert claimed_uids(backend) == expected


def test_queue_names_that_come_and_go_leave_nothing(backend):
    for number in range(500):
        enqueued(backend, queue_name=f"album-{number}")
        backend.finish(claim_one(backend), DONE)

    assert len(backend._ready_queue._ready) <= ready_queue.MOST_NAMES


def test_waiters_that_were_woken_or_timed_out_leave_nothing(backend):
    for _ in range(20):
        backend.wait(None, 0.0001, lambda: False)
        with WaitingThread(backend) as waiter:
            backend.wake()
            waiter.is_back()

    assert len(backend._waiters.waiting) == 0


@pytest.fixture
def _traced() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("_traced")
def test_waiting_job_without_arguments_costs_less_than_320_bytes(backend):
    count, options = 10_000, a_job(backend).options  # those of one task
    before, _ = tracemalloc.get_traced_memory()

    for _ in range(count):
        backend.enqueue([a_job(backend)._replace(options=options)])

    after, _ = tracemalloc.get_traced_memory()
    assert backend.waiting() == count
    assert (after - before) / count < 320


# -- the place of a job that waits with all of its state


def test_job_whose_end_is_waited_for_keeps_its_place(backend):
    uids = [enqueued(backend, priority=number % 2) for number in range(8)]
    for uid in uids[1:7:2]:
        backend.wait_for_end(uid, 0.001)

    assert [backend.position(uid).before for uid in uids] == [4, 0, 5, 1, 6, 2, 7, 3]
    assert claimed_uids(backend) == [*uids[1::2], *uids[::2]]
    assert claimed_uids(backend) == []


def test_job_whose_end_is_waited_for_keeps_its_place_when_others_are_swept(backend, monkeypatch):
    monkeypatch.setattr(ready_queue, "MOST_STALE", 3)
    uids = [enqueued(backend, priority=number % 2) for number in range(40)]
    for uid in uids[10:]:
        backend.wait_for_end(uid, 0.001)
    for uid in uids[::2]:
        backend.cancel(uid)
    uids.append(enqueued(backend, priority=1))

    assert backend.waiting() == 21
    assert claimed_uids(backend) == uids[1::2] + uids[-1:]
    ready = backend._ready_queue._ready["default"]
    assert not ready
    assert not ready._replaced


def test_cancellation_that_was_put_off_until_its_job_was_claimed_cancels_the_attempt(backend):
    """As that of a finalizer which has interrupted the claim."""
    uid = enqueued(backend)
    record = backend._find(uid)
    claim = claim_one(backend)

    assert backend._cancel(record, True) is True

    assert backend.standing(claim) is Standing.CANCELLED
    assert claimed_uids(backend) == []
    assert backend.finish(claim, Outcome(CANCELLED)) is True
    assert backend._cancel(record, True) is False


def test_release_puts_a_job_before_those_that_were_enqueued_later(backend):
    uids = [enqueued(backend) for _ in range(3)]
    claims = [claim_one(backend) for _ in range(2)]
    backend.release(claims[::-1])

    assert claimed_uids(backend) == uids


def test_waiting_job_is_read_with_all_that_it_was_enqueued_with(backend):
    given = a_job(backend, 1, "two", priority=3, queue_name="mail")
    call = given.call._replace(kwargs={"name": [1]})
    given = given._replace(call=call, context={"user": "ann"})
    backend.enqueue([given])

    assert backend.get(given.uid).job == given
    assert backend.briefs([given.uid])[given.uid].user == "ann"
    assert (claim := claim_one(backend)).job == given
    assert len(claim) == len(Claim._fields)
    assert backend.get(given.uid).job == given


# -- waiting


def test_waking_all_wakes_each_waiter_once():
    waiters = Waiters()
    added = [waiters.add(queues, until=60) for queues in (None, ["mail"], None)]

    waiters.wake_all()

    for waiter in added:
        waiter.wait(LONG_SECONDS)  # returns at once: it was woken
        waiters.remove(waiter)
    waiters.wake_all()


def test_stopped_worker_may_be_woken_though_nobody_sleeps(backend):
    backend.wake()


def test_wait_for_end_of_a_job_that_leaves_by_the_bound_on_ended_jobs_returns(backend, monkeypatch):
    monkeypatch.setattr(changes, "MOST_ENDED", 0)
    uid = enqueued(backend)
    backend.wait_for_end(uid, 0.001)  # somebody waits, so there is an event

    backend.finish(claim_one(backend), Outcome(CANCELLED))

    backend.wait_for_end(uid, LONG_SECONDS)
    assert backend.get(uid) is None


@pytest.mark.slow
def test_counting_while_others_enqueue_and_end_raises_nothing(backend):
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            ended(backend)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            assert set(backend.counts()) == set(TaskResultStatus)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    "read",
    [
        lambda ready: [record.sequence for _, record in ready.jobs()],
        lambda ready: [record.sequence for record in ready.firsts(9)],
    ],
    ids=["jobs", "firsts"],
)
def test_waiting_jobs_are_read_while_another_thread_adds_and_takes_some(backend, read):
    """A finalizer may read without the lock, which another thread has."""
    ready, added = ready_queue.ReadyJobs(collections.deque()), itertools.count(3)

    class Changing(ready_queue.WaitingRecord):
        """Whose queue is another one at each look at it, up to a number of looks."""

        @property
        def sequence(self) -> int:
            number = next(added)
            if number < 9:
                ready.append(ready_queue.WaitingRecord(a_job(backend), 0.0, number), -number)
                ready._new[0].pop()
            return 1

        @sequence.setter
        def sequence(self, _number: int) -> None:
            pass

    ready.append(Changing(a_job(backend), 0.0, 1), 0)
    for number in (20, 21, 22, 23, 24, 25, 26):
        ready.append(ready_queue.WaitingRecord(a_job(backend), 0.0, number), 0)

    assert read(ready)[0] == 1


def test_job_that_was_taken_back_and_admitted_again_counts_once(backend):
    share = share_of(True, a_job(backend).call, "default", 0, "ann")

    def put(limit: Limit | None = None) -> None:
        backend.enqueue([a_job(backend)._replace(keys=Keys(limit=limit, share=share))])

    put(Limit("one", 1))
    claim = claim_one(backend)
    put()
    backend.release([claim])  # whose job is before the second one, which waits again
    claim_one(backend)
    behind = enqueued(backend)

    assert backend.position(behind).before == 1
    assert backend.briefs([behind])[behind].before == 1


def test_every_other_job_cancelled_leaves_the_others_in_order(backend):
    uids = [enqueued(backend) for _ in range(4)]
    for uid in uids[::2]:
        backend.cancel(uid)

    assert claimed_uids(backend) == uids[1::2]
    assert status_of(backend, uids[0]) is CANCELLED


# -- interruptions: a timeout raises JobTimeout in the job's thread, wherever that is


def test_job_that_times_out_while_it_reports_progress_does_not_keep_the_lock():
    """It nearly always is in the backend when the timeout comes, mostly with the lock held."""

    def report_for_ever() -> None:
        for value in itertools.count():
            asyncjob_set_progress(value)

    def enqueue_for_ever() -> None:
        while True:
            asyncjob_get_progress(asyncjob_running_uid())

    with JobQueue(threads=4) as queue, queue.as_current():
        queue.start_worker()
        results = [
            Task(func=function, timeout=0.01).enqueue()
            for _ in range(10)
            for function in (report_for_ever, enqueue_for_ever)
        ]

        for result in results:
            assert result.wait(LONG_SECONDS).status is FAILED
            assert result.errors[-1].exception_class is JobTimeout
        assert queue.result(queue.perform(int)).wait(LONG_SECONDS).status is SUCCESSFUL


def test_object_that_enqueues_when_it_is_let_go_of_finds_the_lock_free():
    class Upload:
        def __del__(self):
            queue.perform(int)

    with JobQueue(threads=0, retention=0) as queue:
        queue.perform(id, Upload())
        queue.run_pending()
        pruning = threading.Thread(target=queue.backend.prune, daemon=True)
        pruning.start()
        pruning.join(20)

        assert not pruning.is_alive()
        assert queue.run_pending() == 1


@pytest.mark.parametrize("delay", [None, timedelta(hours=1)], ids=["now", "later"])
@pytest.mark.parametrize("is_swept", [False, True], ids=["claimed", "swept"])
def test_arguments_of_a_cancelled_job_are_let_go_of_without_the_lock(monkeypatch, delay, is_swept):
    found = []

    class Upload:
        def __del__(self):
            lock = queue.backend._lock
            found.append(lock.is_held() and lock.is_mine())

    def enqueued():
        return Task(func=id).using(run_after=delay).enqueue(Upload())

    with JobQueue(threads=0, retention=0) as queue, queue.as_current():
        enqueued().cancel()
        monkeypatch.setattr(ready_queue, "MOST_STALE", 0 if is_swept else 1_000)
        queue.backend.prune()
        queue.perform(int)
        if is_swept:
            enqueued().cancel()
        queue.run_pending()
        queue.backend.prune()

        assert set(found) == {False}


@pytest.mark.parametrize("kept", [[], [-1.0]], ids=["none left", "one left"])
def test_start_counts_where_a_finalizer_asks_for_them_while_an_old_one_is_forgotten(kept):
    now, keys = 1_000.0, Keys(rate=Rate("rate", 1, 60.0))
    admission = ready_queue.Admission(lambda _entry: None, lambda: now, collections.deque())

    class Starts(collections.deque):
        """Of which a finalizer asks, too, when the first is looked at."""

        is_asked = False

        def __getitem__(self, place):
            found = super().__getitem__(place)
            if not self.is_asked:
                self.is_asked = True
                admission.used(keys)
            return found

    admission._starts["rate"] = Starts([now - 100, *(now + each for each in kept)])

    assert admission.used(keys)[0]["rate"] == len(kept)
    assert admission.used(keys) == ({"rate": len(kept)}, now + 59 if kept else None)


def test_signal_whose_handler_raises_leaves_the_lock_free(backend):
    class Stop(Exception):
        pass

    def stop(_signal, _frame):
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for _ in range(500):
            with suppress(Stop):
                signal.setitimer(signal.ITIMER_REAL, 0.0003)
                while True:
                    backend.get("unknown")
            assert not backend._lock.once_free().locked()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_idle_slot_keeps_nothing_of_a_job_that_was_removed():
    class Picture: ...

    picture = Picture()
    kept = weakref.ref(picture)
    with JobQueue(threads=1, retention=0) as queue:
        queue.start_worker()
        result = queue.result(queue.perform(id, picture))
        result.wait(20)
        del picture, result
        while not queue.backend._waiters.waiting:  # until the worker thread waits
            pass
        queue.backend.prune()
        gc.collect()

        assert kept() is None


def test_audit_is_written_by_several_threads_at_once():
    """One looks for its record while another writes one of its own."""
    audit = MemoryBackend().audit

    class Number(int):
        __hash__ = int.__hash__

        def __eq__(self, other: object) -> bool:
            audit.note(Act("bob", "page"), "pause", "mail", 1)
            return int(self) == other

    audit.begin(Act("ann", "page"), "retry", "all")
    act = audit.begin(Act("ann", "page"), "cancel", "all")
    audit.note(act._replace(number=Number(act.number)), "cancel", "", 3)
    audit.end(Number(act.number), "3 of 3")

    mine = audit.find(act.number)
    assert (mine.changed, mine.result) == (3, "3 of 3")
    assert len(audit.page(None, 50)) > 2


def test_audit_of_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(Audit, "most", 3)
    audit = MemoryBackend().audit
    for number in range(5):
        audit.note(Act("ann", "page"), "pause", f"q{number}", 1)

    assert [each.subject for each in audit.page(None, 50)] == ["q4", "q3", "q2"]
