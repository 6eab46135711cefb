"""What ``tgext/asyncjob/backends/base.py`` promises, sentence by sentence, for every backend.

A backend's own test module subclasses ``BackendContract`` and gives the fixtures that raise
NotImplementedError here. Nothing in this module knows how a backend stores: it enqueues, claims
and looks. Times pass by ``clock.advance``; where threads wait, they wait for real, and a test
fails when one is not back after PATIENCE_SECONDS.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from enum import Enum, IntEnum
from itertools import islice
from typing import Any

import pytest

from tgext.asyncjob.backends.audit import Act
from tgext.asyncjob.backends.base import Backend, Standing
from tgext.asyncjob.backends.brief import MOST_SHOWN_BEFORE
from tgext.asyncjob.backends.listing import Cursor, JobFilter
from tgext.asyncjob.backends.overview import QueuePosition
from tgext.asyncjob.call import Call
from tgext.asyncjob.errors import NotSerializable
from tgext.asyncjob.executors import InlineExecutor
from tgext.asyncjob.job import (
    CANCELLED,
    FAILED,
    NO_PROGRESS,
    READY,
    RUNNING,
    SUCCESSFUL,
    Claim,
    Job,
    Outcome,
    Progress,
    Snapshot,
    TaskError,
    TaskResultStatus,
    WorkerId,
)
from tgext.asyncjob.task import task
from tgext.asyncjob.task_options import LONGEST_DELAY, MOST_ATTEMPTS, TaskOptions

#: How long a thread may take to do what it should do at once, in seconds.
PATIENCE_SECONDS = 20.0

#: How long a ``wait`` is told to last that is to return for another reason.
LONG_SECONDS = 60.0

WORKER = WorkerId("w1")
ERROR = TaskError("builtins.ValueError", "three is not a colour", "Traceback ...")
OTHER_ERROR = TaskError("builtins.KeyError", "'colour'", "Traceback ...")
DONE = Outcome(SUCCESSFUL, result=42)
LATER = datetime(2100, 1, 1, tzinfo=timezone.utc)
AGAIN = Outcome(READY, error=ERROR)
BROKEN = Outcome(FAILED, error=ERROR)

#: A success with something to store, and one without, which a backend may store by other ways.
successes = pytest.mark.parametrize("done", [DONE, Outcome(SUCCESSFUL)], ids=["a value", "None"])


def work(*_args: Any) -> None:
    """What the jobs of this suite would run; nobody runs them."""


def at_once_again(_attempt: int) -> float:
    return 0.0


class Rank(IntEnum):
    HIGH = 7


class Lane(str, Enum):
    MAIL = "mail"


INLINE = InlineExecutor()

#: Values of every option of a task, such as every backend keeps.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "priority": (0, -100, 100, Rank.HIGH),
    "queue_name": ("default", "mail", "x" * 64, Lane.MAIL),
    "takes_context": (False, True),
    "max_attempts": (1, 2, MOST_ATTEMPTS, Rank.HIGH),
    "backoff": (2.0, 0, 0.25, 10**9, Rank.HIGH),
    "timeout": (None, 0.001, 5, LONGEST_DELAY.total_seconds(), Rank.HIGH),
    "executor": ("thread", "process", "coroutine"),
    "retry_on": (None,),
    "give_up_on": ((),),
}


#: Values of options that no row can hold.
PECULIAR: dict[str, Any] = {
    "backoff": at_once_again, "executor": INLINE, "retry_on": (OSError,), "give_up_on": (OSError,),
}  # fmt: skip


@task
def declared() -> None:
    """A task that has no option of its own."""


@task(backoff=at_once_again, executor=INLINE, retry_on=(OSError, LookupError), give_up_on=KeyError)
def peculiar() -> None:
    """A task whose options no row can hold."""


def a_job(
    backend: Backend, *args: Any, run_after: Any = None, context: Any = None, **options: Any
) -> Job:
    """A job that has not been enqueued; *options* are those of ``@task``."""
    call = Call(work, args, None)
    return Job(backend.new_uid(), call, TaskOptions(**options), run_after, context)


def enqueued(backend: Backend, *args: Any, **options: Any) -> str:
    """The uid of a job that has been."""
    job = a_job(backend, *args, **options)
    backend.enqueue([job])
    return job.uid


def claim_one(backend: Backend, worker: str = WORKER) -> Claim:
    [claim] = backend.claim(WorkerId(worker), None, 1)
    return claim


def claimed_uids(
    backend: Backend, limit: int = 100, queues: Collection[str] | None = None
) -> list[str]:
    return [claim.job.uid for claim in backend.claim(WORKER, queues, limit)]


def status_of(backend: Backend, uid: str) -> TaskResultStatus:
    snapshot = backend.get(uid)
    assert snapshot is not None, f"{uid} is unknown"
    return snapshot.status


def ended(backend: Backend, outcome: Outcome = DONE, **options: Any) -> str:
    """The uid of a job that has been run to *outcome*."""
    uid = enqueued(backend, **options)
    assert backend.finish(claim_one(backend), outcome)
    return uid


def errors_of(found: Snapshot) -> tuple[TaskError, ...]:
    """The errors of a job, as they were before they were stored."""
    return tuple(each._replace(at=None, attempt=None, worker_id=None) for each in found.errors)


def found(backend: Backend, wanted: JobFilter = JobFilter()) -> list[str]:  # noqa: B008
    """The uids of the jobs that a filter lets through."""
    return backend.find(wanted, None, 100).uids


def found_pages(
    backend: Backend,
    limit: int,
    wanted: JobFilter = JobFilter(),  # noqa: B008
    look_at: int | None = None,
) -> Iterator[list[str]]:
    """The uids, a page after the other."""
    after: str | None = None
    while True:
        page = backend.find(wanted, Cursor.of(after), limit, look_at)
        yield page.uids
        after = page.next
        if after is None:
            return


def at_once(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Let *count* threads do ``act(number)`` at one instant; what they returned."""
    barrier = threading.Barrier(count, timeout=PATIENCE_SECONDS)

    def run(number: int) -> Any:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class WaitingThread:
    """A thread in ``backend.wait``; a context manager, so that it never outlives its test."""

    def __init__(self, backend: Backend, queues: Collection[str] | None = None) -> None:
        self._backend = backend
        self._queues = queues
        self._stopping = threading.Event()
        self._looked = threading.Event()
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def _wait(self) -> None:
        self._backend.wait(self._queues, LONG_SECONDS, self._is_stopped)

    def _is_stopped(self) -> bool:
        self._looked.set()
        return self._stopping.is_set()

    def __enter__(self) -> WaitingThread:
        """Return once the backend has looked: whatever happens now must wake it."""
        self._thread.start()
        assert self._looked.wait(PATIENCE_SECONDS), "wait() never asked whether it is stopped"
        return self

    def is_back(self, seconds: float = PATIENCE_SECONDS) -> bool:
        """Whether ``wait`` has returned within *seconds*."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._stopping.set()
        self._backend.wake()

    def __exit__(self, *_error: object) -> None:
        self.stop()
        self._thread.join(LONG_SECONDS + PATIENCE_SECONDS)


class BackendContract:
    """Subclass it once for each backend."""

    #: Whether work on a ``connection`` can be rolled back. False skips those tests, by name.
    transactional = True

    #: How often a race is run.
    ROUNDS = 200

    #: How many jobs each of the threads of a race enqueues.
    CONTENDED = 150

    #: The retention with which ``backend`` was made.
    RETENTION_SECONDS = 1000.0

    @pytest.fixture
    def backend(self, clock: Any) -> Backend:
        """An empty backend that goes by *clock* and keeps ended jobs RETENTION_SECONDS."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> Any:
        """What the backend goes by: callable, with ``advance(seconds)`` and ``now()``."""
        raise NotImplementedError

    @pytest.fixture
    def in_transaction(self) -> Callable[[], AbstractContextManager[Any]]:
        """``with in_transaction() as connection:`` commits, or rolls back what raises."""
        raise NotImplementedError

    def needs_transactions(self) -> None:
        if not self.transactional:
            pytest.skip(f"{type(self).__name__}: its backend has no transactions to join")

    # -- new_uid

    def test_uid_says_whose_it_is_and_is_a_str(self, backend):
        uid = backend.new_uid()

        assert type(uid) is str
        assert uid.startswith("asyncjob_")

    def test_uids_made_by_many_threads_never_repeat(self, backend):
        made = at_once(4, lambda _: [backend.new_uid() for _ in range(500)])

        assert len({uid for uids in made for uid in uids}) == 2000

    def test_uid_cannot_be_guessed_from_the_one_before(self, backend):
        first, second = backend.new_uid(), backend.new_uid()
        same = sum(a == b for a, b in zip(first[-32:], second[-32:], strict=True))

        # Of 32 random hexadecimal digits two agree in the mean; 20 in one of 10 ** 15 runs.
        assert same < 20

    # -- enqueue and get

    def test_enqueued_job_is_ready_and_read_as_it_was_asked(self, backend, clock):
        job = a_job(backend, 1, "two", priority=7, queue_name="mail", context={"user": 3})

        backend.enqueue([job])

        found = backend.get(job.uid)
        assert found.job == job
        assert found.status is READY
        assert found.enqueued_at == clock.now()
        assert found.run_at is None
        assert (found.started_at, found.last_attempted_at, found.finished_at) == (None, None, None)
        assert (found.attempts, found.errors, found.log) == (0, (), ())
        assert found.result is None
        assert found.progress == NO_PROGRESS

    def test_jobs_that_are_enqueued_together_are_each_as_it_was_asked(self, backend, clock):
        text = "\"\\'%s :uid $1 {}\n\t\x7f\u2028 \u00e4\u20ac\U0001f600"
        until = clock.now() + timedelta(hours=2)
        jobs = [
            a_job(backend, text, queue_name="q \u20ac\U0001f600\\\"'", context={"user": text}),
            a_job(backend, priority=-100, max_attempts=7, timeout=0.1 + 0.2),
            a_job(backend, run_after=timedelta(seconds=0.1)),
            a_job(backend, run_after=until),
            a_job(backend, {"\u0000": [None, True, 1.5, 10**30]}, context={}),
        ]

        backend.enqueue([backend.prepare(job) for job in jobs])

        delayed = {jobs[2].uid: clock.now() + timedelta(seconds=0.1), jobs[3].uid: until}
        for job in jobs:
            found = backend.get(job.uid)
            wanted = job._replace(run_after=None)
            assert found.job._replace(run_after=None) == wanted
            assert (found.status, found.enqueued_at) == (READY, clock.now())
            assert found.run_at == delayed.get(job.uid)
        clock.advance(3 * 3600)
        claimed = {claim.job.uid: claim for claim in backend.claim(WORKER, None, 10)}
        assert claimed.keys() == {job.uid for job in jobs}
        assert [claimed[job.uid].job.call for job in jobs] == [job.call for job in jobs]

    @pytest.mark.parametrize("name", [field.name for field in fields(TaskOptions)])
    def test_every_option_of_a_task_is_there_when_its_job_is_claimed(self, backend, name):
        for value in OPTIONS[name]:
            job = backend.prepare(a_job(backend, **{name: value}))
            backend.enqueue([job])

            claim = claim_one(backend)

            assert claim.job.options == TaskOptions(**{name: value})
            assert claim.attempts_left == claim.job.options.max_attempts - 1
            backend.finish(claim, DONE)

    @pytest.mark.parametrize("name", PECULIAR)
    def test_option_that_only_this_process_has_is_there_at_the_claim_or_refused(
        self, backend, name
    ):
        value = PECULIAR[name]
        for target in (work, declared.func, lambda: None):
            job = Job(backend.new_uid(), Call(target, (), None), TaskOptions(**{name: value}))
            try:
                backend.enqueue([backend.prepare(job)])
            except NotSerializable:
                continue
            claim = claim_one(backend)
            assert getattr(claim.job.options, name) is value
            backend.finish(claim, DONE)

    @pytest.mark.parametrize("name", PECULIAR)
    def test_option_that_the_task_has_of_its_own_is_there_at_the_claim(self, backend, name):
        value = getattr(peculiar, name)
        job = Job(backend.new_uid(), Call(peculiar.func, (), None), peculiar)
        backend.enqueue([backend.prepare(job)])

        assert getattr(claim_one(backend).job.options, name) is value

    def test_delayed_job_tells_when_it_may_start(self, backend, clock):
        uid = enqueued(backend, run_after=timedelta(seconds=30))

        assert backend.get(uid).run_at == clock.now() + timedelta(seconds=30)

    def test_job_delayed_until_an_instant_tells_that_instant(self, backend, clock):
        until = clock.now() + timedelta(hours=2)

        assert backend.get(enqueued(backend, run_after=until)).run_at == until

    def test_get_gives_none_for_a_job_that_was_never_enqueued(self, backend):
        assert backend.get(backend.new_uid()) is None

    @pytest.mark.parametrize("uid", ["", "asyncjob_", "42", "asyncjob_1_2_3", "ä" * 300])
    def test_get_gives_none_for_what_is_no_uid(self, backend, uid):
        assert backend.get(uid) is None

    def test_snapshot_does_not_move_with_the_job(self, backend):
        uid = enqueued(backend)
        before = backend.get(uid)

        claim_one(backend)

        assert before.status is READY
        assert before.attempts == 0

    def test_enqueue_of_nothing_stores_nothing(self, backend):
        backend.enqueue([])

        assert backend.waiting() == 0

    # -- order of claims

    def test_jobs_of_one_priority_are_claimed_in_the_order_of_their_enqueue(self, backend):
        jobs = [a_job(backend) for _ in range(5)]
        backend.enqueue(jobs[:3])
        backend.enqueue(jobs[3:])

        assert claimed_uids(backend) == [job.uid for job in jobs]

    def test_highest_priority_is_claimed_first(self, backend):
        low = enqueued(backend, priority=-100)
        middle = enqueued(backend)
        high = enqueued(backend, priority=100)

        assert claimed_uids(backend) == [high, middle, low]

    @pytest.mark.parametrize("queues", [None, ["default"]])
    def test_claim_of_one_of_many_takes_the_most_urgent_of_them_and_then_the_oldest(
        self, backend, queues
    ):
        uids = [enqueued(backend, priority=priority) for priority in (0, -1, 1, 0)]

        found = [backend.claim(WORKER, queues, 1)[0].job.uid for _ in uids]

        assert found == [uids[2], uids[0], uids[3], uids[1]]

    def test_priority_counts_across_queue_names(self, backend):
        low = enqueued(backend, queue_name="a")
        high = enqueued(backend, queue_name="b", priority=1)
        last = enqueued(backend, queue_name="a")

        assert claimed_uids(backend) == [high, low, last]

    def test_order_of_enqueue_counts_across_queue_names(self, backend):
        uids = [enqueued(backend, queue_name=name) for name in "abcab"]

        assert claimed_uids(backend) == uids

    @pytest.mark.parametrize("limit", [1, 3, 20])
    def test_claim_of_some_queue_names_takes_of_all_in_one_order(self, backend, limit):
        wanted = []
        for number in range(12):
            name, priority = "abcd"[number % 4], number % 3
            uid = enqueued(backend, queue_name=name, priority=priority)
            if name != "d":
                wanted.append((-priority, number, uid))
        enqueued(backend, queue_name="e", priority=100)

        found: list[Claim] = []
        while claims := backend.claim(WorkerId("w"), ["c", "a", "none", "b", "a"], limit):
            found += claims

        assert [claim.job.uid for claim in found] == [uid for *_, uid in sorted(wanted)]

    @pytest.mark.parametrize("limit", [1, 4, 20])
    @pytest.mark.parametrize("seed", range(3))
    def test_many_queues_of_which_some_have_more_jobs_are_one_order(self, backend, seed, limit):
        chance, names = random.Random(seed), [f"queue{number}" for number in range(12)]
        # One after the other, all in turn, and in between.
        often = [chance.choice([1, 5, 40]) for _ in names]
        jobs = [
            a_job(backend, queue_name=name, priority=chance.choice([0, 0, 0, 1]))
            for name in chance.choices(names, often, k=120)
        ]
        backend.enqueue(jobs)
        wanted = sorted(jobs, key=lambda job: -job.options.priority)

        found: list[Claim] = []
        while claims := backend.claim(WorkerId("w"), names, limit):
            assert len(claims) == min(limit, len(jobs) - len(found))
            found += claims

        assert [claim.job.uid for claim in found] == [job.uid for job in wanted]

    def test_delayed_job_that_is_due_is_claimed_in_the_order_of_its_enqueue(self, backend, clock):
        delayed = enqueued(backend, run_after=timedelta(seconds=5))
        later = enqueued(backend)
        clock.advance(5)

        assert claimed_uids(backend) == [delayed, later]

    def test_job_that_was_released_stands_where_it_stood(self, backend):
        first, second = enqueued(backend), enqueued(backend)
        backend.release([claim_one(backend)])

        assert claimed_uids(backend) == [first, second]

    def test_job_that_tries_again_stands_where_it_stood(self, backend):
        first, second = enqueued(backend, max_attempts=2), enqueued(backend)
        backend.finish(claim_one(backend), AGAIN)

        assert claimed_uids(backend) == [first, second]

    # -- delayed jobs

    def test_delayed_job_is_claimed_when_its_time_has_come_and_not_before(self, backend, clock):
        uid = enqueued(backend, run_after=timedelta(seconds=10))

        clock.advance(9)
        early = claimed_uids(backend)
        clock.advance(1)

        assert early == []
        assert claimed_uids(backend) == [uid]

    def test_job_delayed_until_an_instant_is_claimed_then(self, backend, clock):
        uid = enqueued(backend, run_after=clock.now() + timedelta(seconds=10))

        early = claimed_uids(backend)
        clock.advance(10)

        assert early == []
        assert claimed_uids(backend) == [uid]

    def test_job_delayed_until_the_past_is_due_at_once(self, backend, clock):
        uid = enqueued(backend, run_after=clock.now() - timedelta(days=1))

        assert claimed_uids(backend) == [uid]

    def test_delayed_job_does_not_hold_up_those_behind_it(self, backend):
        enqueued(backend, run_after=timedelta(seconds=10), priority=100)
        uid = enqueued(backend)

        assert claimed_uids(backend) == [uid]

    def test_many_delayed_jobs_come_due_one_after_the_other(self, backend, clock):
        uids = [enqueued(backend, run_after=timedelta(seconds=9 - number)) for number in range(9)]

        seen = []
        for _ in range(9):
            clock.advance(1)
            seen += claimed_uids(backend)

        assert seen == uids[::-1]

    # -- queue names and limit

    def test_claim_takes_from_the_queues_that_were_named_only(self, backend):
        enqueued(backend, queue_name="a")
        wanted = [enqueued(backend, queue_name=name) for name in ("b", "c", "b")]

        assert claimed_uids(backend, queues=("b", "c")) == wanted
        assert claimed_uids(backend, queues={"b"}) == []

    def test_names_of_queues_are_told_apart_as_python_tells_them_apart(self, backend):
        names = ("mail", "Mail", "máil", "straße", "strasse")
        uids = {name: enqueued(backend, queue_name=name) for name in names}

        for name in names:
            assert claimed_uids(backend, queues=[name]) == [uids[name]]

    def test_claim_from_queues_that_nobody_has_used_gives_nothing(self, backend):
        enqueued(backend)

        assert claimed_uids(backend, queues=["nobody"]) == []

    def test_claim_of_all_queues_takes_names_that_came_later_too(self, backend):
        enqueued(backend, queue_name="a")
        claimed_uids(backend)
        late = enqueued(backend, queue_name="b")

        assert claimed_uids(backend) == [late]

    def test_claim_takes_no_more_than_its_limit(self, backend):
        uids = [enqueued(backend) for _ in range(5)]

        assert claimed_uids(backend, limit=2) == uids[:2]
        assert claimed_uids(backend, limit=2) == uids[2:4]
        assert claimed_uids(backend, limit=2) == uids[4:]

    def test_claim_gives_nothing_and_does_not_wait_when_nothing_is_there(self, backend):
        assert backend.claim(WORKER, None, 10) == []

    # -- find

    def test_jobs_are_found_open_ones_then_delayed_ones_then_those_that_have_ended(
        self, backend, clock
    ):
        done = [ended(backend), ended(backend)]
        clock.advance(1)
        failed = ended(backend, BROKEN)
        running = enqueued(backend)
        claim_one(backend)
        clock.advance(1)
        tomorrow = [enqueued(backend, run_after=timedelta(days=1)) for _ in range(2)]
        waiting = [enqueued(backend), enqueued(backend, priority=-100)]
        soon = enqueued(backend, run_after=timedelta(hours=1))
        urgent = enqueued(backend, priority=100)

        open_ones = [urgent, *waiting[::-1], running]
        assert found(backend) == [*open_ones, soon, *tomorrow, failed, *done[::-1]]
        assert found(backend, JobFilter.of(queue_name=["default", "x"])) == found(backend)
        assert found(backend, JobFilter.of(status="READY")) == [*open_ones[:-1], soon, *tomorrow]

    def test_pages_have_each_job_once(self, backend, clock):
        for number in range(4):
            ended(backend, DONE if number % 2 else BROKEN)
            clock.advance(number)  # the first two at one instant
        for number in range(3):
            enqueued(backend, priority=number)
            enqueued(backend, run_after=timedelta(hours=number // 2 + 1))
        claim_one(backend)

        for limit in (1, 2, 3, 100):
            pages = list(found_pages(backend, limit))
            assert [uid for page in pages for uid in page] == found(backend)
            assert all(len(page) == limit for page in pages[:-1])
            assert len(found(backend)) == 10

    def test_pages_that_look_at_some_jobs_find_each_job_once(self, backend, clock):
        for number in range(12):
            name = "rare" if number % 5 == 0 else "mail"
            ended(backend, BROKEN if number % 4 == 0 else DONE, queue_name=name)
            clock.advance(number // 3 % 2)  # some at one instant
        self.waits_in_several_ways(backend)

        for wanted in (
            JobFilter.of(queue_name="rare"),
            JobFilter.of(queue_name="rare", until=LATER),
            JobFilter.of("CANCELLED", error="Broken"),
            JobFilter.of("FAILED", name=f"{__name__}.work"),
            JobFilter.of("READY", queue_name="rare", user="ada"),
            JobFilter.of("READY", name=f"{__name__}.work"),
            JobFilter.of("READY", error="Broken"),
            JobFilter.of(user="ada"),
            JobFilter.of(user="ada", queue_name="mail"),
            JobFilter.of(queue_name="none"),
        ):
            for look_at in (1, 3, 100):
                pages = list(found_pages(backend, 2, wanted, look_at))
                uids = [uid for page in pages for uid in page]
                assert uids == found(backend, wanted), (wanted, look_at)
                assert len(pages) <= 32, (wanted, look_at)

    def waits_in_several_ways(self, backend: Backend) -> None:
        """Let jobs wait, delayed or not, in two queues and with three priorities."""
        for number in range(12):
            enqueued(
                backend,
                queue_name="mail" if number % 3 else "rare",
                priority=number % 4 // 2 - number % 3,
                run_after=timedelta(hours=number) if number % 5 > 2 else None,
                context={"user": "bob" if number % 2 else "ada"},
            )

    def test_jobs_of_a_list_are_counted_or_it_is_said_that_there_may_be_more(self, backend, clock):
        for number in range(6):
            ended(backend, BROKEN if number % 2 else DONE, queue_name="mail")
            clock.advance(1)
        self.waits_in_several_ways(backend)

        for wanted, expected in (
            (JobFilter.of(), 18),
            (JobFilter.of("READY"), 12),
            (JobFilter.of("READY", queue_name="rare", user="ada"), 2),
            (JobFilter.of("FAILED", error="none"), 0),
            (JobFilter.of("FAILED", name=f"{__name__}.work"), 3),
        ):
            for look_at in (1, 3, 100, None):
                number, is_all = backend.count(wanted, 100, look_at)
                assert number == expected if is_all else number <= expected, (wanted, look_at)
                assert is_all or look_at in (1, 3)
                assert backend.count(wanted, 1, look_at) in (
                    (min(expected, 1), expected < 2),
                    (0, False),
                )

    def test_page_goes_on_where_the_last_ended_whatever_has_come_and_gone(self, backend, clock):
        uids = []
        for _ in range(6):
            uids.insert(0, ended(backend))
            clock.advance(1)
        page = backend.find(JobFilter(), None, 2)
        ended(backend)
        enqueued(backend)
        assert backend.retry(uids[1]) is True  # the job at which the page ended
        assert page.uids == uids[:2]

        assert backend.find(JobFilter(), Cursor.of(page.next), 2).uids == uids[2:4]

    def test_jobs_are_found_by_what_they_have_in_common(self, backend, clock):
        ada, bob = {"user": "ada"}, {"user": "bob"}
        done = ended(backend, context=ada, queue_name="mail")
        failed = ended(backend, BROKEN, context=bob)
        clock.advance(10)
        other = ended(backend, Outcome(FAILED, error=OTHER_ERROR), context=ada)
        waiting = enqueued(backend, context=ada, queue_name="mail")
        now = clock.now()

        for wanted, expected in (
            (JobFilter.of(status="FAILED"), [other, failed]),
            (JobFilter.of(status=[READY, SUCCESSFUL]), [waiting, done]),
            (JobFilter.of(status=[RUNNING, "CANCELLED"]), []),
            (JobFilter.of(user="ada"), [waiting, other, done]),
            (JobFilter.of(user="bob"), [failed]),
            (JobFilter.of(user="ada", status="FAILED"), [other]),
            (JobFilter.of(queue_name="mail"), [waiting, done]),
            (JobFilter.of(queue_name=["mail", "default"], status="FAILED"), [other, failed]),
            (JobFilter.of(name="backend_contract.work"), [waiting, other, failed, done]),
            (JobFilter.of(name=["backend_contract.work", "x"], user="bob"), [failed]),
            (JobFilter.of(name="backend_contract.wor"), []),
            (JobFilter.of(error="ValueError"), [failed]),
            (JobFilter.of(error="builtins.KeyError", user="ada"), [other]),
            (JobFilter.of(error="Error"), []),
            (JobFilter.of(since=now), [waiting, other]),
            (JobFilter.of(until=now - timedelta(seconds=5)), [failed, done]),
            (JobFilter.of(since=now, until=now, status="READY"), [waiting]),
        ):
            assert found(backend, wanted) == expected, wanted

    def test_job_is_found_by_the_instant_that_is_shown_of_it(self, backend, clock):
        """A datetime ends with microseconds, a store has more digits."""
        for _ in range(20):
            clock.advance(0.123_456_7)
            uid = ended(backend)
            at = backend.get(uid).finished_at

            assert found(backend, JobFilter.of(since=at, until=at)) == [uid]
            assert backend.change_many("retry", [uid], at) == 1
            assert backend.cancel(uid)

    def test_texts_that_no_job_has_find_none(self, backend):
        enqueued(backend)
        for text in ("", "%", "_", "\0", "\ud800", "x" * 5_000, "'; --", "<rank>", "%s"):
            for field in ("name", "queue_name", "user", "error"):
                assert found(backend, JobFilter.of(**{field: text})) == []

    @pytest.mark.parametrize("text", ["<rank>", "%s", "%(user)s", ":user", "?"])
    def test_texts_that_mean_something_in_sql_are_those_of_their_jobs(self, backend, text):
        enqueued(backend)
        its = [
            enqueued(backend, context={"user": text}, priority=priority) for priority in (0, 7, -7)
        ]
        wanted = JobFilter.of(user=text, status="READY")

        assert found(backend, wanted) == its[::-1]
        assert backend.count(wanted, 9).number == len(its)

    def test_several_jobs_are_read_in_the_order_asked_for(self, backend):
        uids = [ended(backend), ended(backend, BROKEN), enqueued(backend)]
        wanted = [uids[2], "asyncjob_nobody", uids[0], "\0", uids[1]]

        many = backend.get_many(wanted)

        assert [each.job.uid for each in many] == [uids[2], uids[0], uids[1]]
        assert [(each.status, len(each.errors)) for each in many] == [
            (READY, 0), (SUCCESSFUL, 0), (FAILED, 1),
        ]  # fmt: skip
        assert backend.get_many([]) == []

    # -- position

    def test_position_is_the_number_of_jobs_that_a_worker_would_take_before(self, backend, clock):
        enqueued(backend, queue_name="mail")
        first, second = enqueued(backend), enqueued(backend)
        urgent = enqueued(backend, priority=5)
        due = enqueued(backend, run_after=timedelta(seconds=5))
        assert self.positions(backend, first, second, urgent) == [1, 2, 0]
        assert backend.position(due) == QueuePosition(True, 0, False)

        clock.advance(6)
        assert self.positions(backend, first, second, urgent, due) == [1, 2, 0, 3]
        assert claimed_uids(backend, 2, ["default"]) == [urgent, first]
        assert backend.position(first) is None
        assert self.positions(backend, second, due) == [0, 1]
        assert backend.position(ended(backend, priority=9)) is None
        assert backend.position("asyncjob_nobody") is None

    def test_job_that_has_come_due_is_before_others_though_no_worker_has_looked(
        self, backend, clock
    ):
        soon = timedelta(seconds=5)
        due, urgent = (
            enqueued(backend, run_after=soon),
            enqueued(backend, run_after=soon, priority=5),
        )
        enqueued(backend, run_after=soon, priority=-5)
        enqueued(backend, run_after=2 * soon, priority=5)
        enqueued(backend, run_after=soon, priority=5, queue_name="mail")
        last = enqueued(backend)
        assert self.positions(backend, last) == [0]

        clock.advance(5)

        assert self.positions(backend, urgent, due, last) == [0, 1, 2]
        assert claimed_uids(backend, 3, ["default"]) == [urgent, due, last]

    def positions(self, backend: Backend, *uids: str) -> list[int]:
        found = [backend.position(uid) for uid in uids]
        assert all(each is not None and not each.is_delayed for each in found)
        return [each.before for each in found if each is not None]

    # -- pause and resume

    def test_paused_queue_gives_no_job_and_the_others_go_on(self, backend):
        held, other = enqueued(backend, queue_name="mail"), enqueued(backend)

        assert backend.pause("mail") is True
        assert claimed_uids(backend) == [other]
        assert claimed_uids(backend, queues=["mail", "default"]) == []
        assert claimed_uids(backend, queues=["mail"]) == []
        assert status_of(backend, held) is READY

        assert backend.resume("mail") is True
        assert claimed_uids(backend) == [held]

    def test_only_the_first_pause_and_the_first_resume_change_anything(self, backend):
        assert backend.resume("mail") is False
        assert [backend.pause("mail"), backend.pause("mail")] == [True, False]
        assert [backend.resume("mail"), backend.resume("mail")] == [True, False]
        assert [backend.pause("mail"), backend.resume("mail")] == [True, True]

    def test_pauses_are_told_with_their_time_and_user(self, backend, clock):
        backend.pause("mail", "ada")
        clock.advance(10)
        backend.pause("mail", "bob")  # it was paused before
        backend.pause("default")

        assert [(each.queue_name, each.user) for each in backend.paused()] == [
            ("default", None),
            ("mail", "ada"),
        ]
        assert (backend.paused()[0].since - backend.paused()[1].since).total_seconds() == 10
        backend.resume("mail")
        assert [each.queue_name for each in backend.paused()] == ["default"]

    def test_jobs_of_a_paused_queue_are_enqueued_retried_and_cancelled(self, backend):
        backend.pause("mail")
        uid = enqueued(backend, queue_name="mail")
        assert backend.waiting() == 1
        assert backend.cancel(uid) is True
        assert backend.retry(uid) is True
        assert claimed_uids(backend) == []
        backend.resume("mail")
        assert claimed_uids(backend) == [uid]

    def test_job_that_comes_due_in_a_paused_queue_waits_for_its_resume(self, backend, clock):
        uid = enqueued(backend, queue_name="mail", run_after=timedelta(seconds=5))
        backend.pause("mail")
        clock.advance(6)
        assert claimed_uids(backend) == []
        backend.resume("mail")
        assert claimed_uids(backend) == [uid]

    def test_claimed_job_of_a_queue_that_is_paused_goes_on(self, backend):
        uid = enqueued(backend, queue_name="mail")
        claim = claim_one(backend)
        backend.pause("mail")
        assert backend.finish(claim, DONE) is True
        assert status_of(backend, uid) is SUCCESSFUL

    def test_job_that_is_released_into_a_paused_queue_waits(self, backend):
        enqueued(backend, queue_name="mail")
        claim = claim_one(backend)
        backend.pause("mail")
        backend.release([claim])
        assert claimed_uids(backend) == []

    def test_wait_does_not_mind_jobs_of_a_paused_queue(self, backend):
        backend.pause("mail")
        enqueued(backend, queue_name="mail")

        with WaitingThread(backend) as waiter:
            assert not waiter.is_back(0.05)

    @pytest.mark.parametrize("queues", [None, ["mail"], ["mail", "default"]], ids=str)
    def test_resume_wakes_who_waits(self, backend, queues):
        backend.pause("mail")
        enqueued(backend, queue_name="mail")
        assert claimed_uids(backend, queues=queues) == []
        with WaitingThread(backend, queues) as waiter:
            backend.resume("mail")

            assert waiter.is_back()

    def test_order_is_kept_beside_a_paused_queue(self, backend):
        names = ["a", "mail", "b", "c", "mail", "a"]
        uids = [enqueued(backend, queue_name=name) for name in names]
        first = enqueued(backend, queue_name="b", priority=5)
        backend.pause("mail")
        assert claimed_uids(backend) == [first, uids[0], uids[2], uids[3], uids[5]]

    # -- what a claim is

    def test_claimed_job_is_running_one_attempt_more(self, backend, clock):
        uid = enqueued(backend, max_attempts=3)
        clock.advance(4)

        claim = claim_one(backend)

        found = backend.get(uid)
        assert claim.job == found.job
        assert (claim.attempt, claim.attempts_left) == (1, 2)
        assert found.status is RUNNING
        assert found.attempts == 1
        assert found.started_at == found.last_attempted_at == clock.now()

    def test_second_attempt_keeps_the_start_of_the_first(self, backend, clock):
        uid = enqueued(backend, max_attempts=3)
        started_at = clock.now()
        backend.finish(claim_one(backend), AGAIN)
        clock.advance(7)

        claim = claim_one(backend)

        found = backend.get(uid)
        assert (claim.attempt, claim.attempts_left) == (2, 1)
        assert found.attempts == 2
        assert found.started_at == started_at
        assert found.last_attempted_at == clock.now()

    def test_running_job_is_not_claimed_again(self, backend):
        enqueued(backend)
        claim_one(backend)

        assert claimed_uids(backend) == []

    def test_lease_is_never_given_twice_for_one_job(self, backend):
        uid = enqueued(backend, max_attempts=2)
        leases = []
        for outcome in (AGAIN, BROKEN):
            claim = claim_one(backend)
            leases.append(claim.lease)
            backend.finish(claim, outcome)
        backend.retry(uid)
        claim = claim_one(backend)
        backend.release([claim])
        leases += [claim.lease, claim_one(backend).lease]

        assert len(set(leases)) == 4

    def test_each_of_many_jobs_goes_to_one_of_many_claimers(self, backend):
        names = [f"q{number % 3}" for number in range(2 * self.CONTENDED)]
        jobs = [a_job(backend, queue_name=name) for name in names]
        backend.enqueue(jobs)

        def claim_all(number: int) -> list[str]:
            seen: list[str] = []
            while True:
                claims = backend.claim(WorkerId(f"w{number}"), None, 1 + number)
                if not claims and not backend.waiting():
                    return seen
                seen += [claim.job.uid for claim in claims]

        seen = [uid for uids in at_once(4, claim_all) for uid in uids]

        assert sorted(seen) == sorted(job.uid for job in jobs)

    def test_one_job_goes_to_one_of_many_claimers(self, backend):
        for _ in range(self.ROUNDS // 10):
            uid = enqueued(backend)

            claims = at_once(4, lambda number: backend.claim(WorkerId(f"w{number}"), None, 1))

            assert [claim.job.uid for taken in claims for claim in taken] == [uid]

    def test_jobs_enqueued_while_others_claim_are_each_claimed_once(self, backend):
        expected: list[str] = []
        lock = threading.Lock()

        def act(number: int) -> list[str]:
            if number < 2:
                for _ in range(self.CONTENDED):
                    uid = enqueued(backend)
                    with lock:
                        expected.append(uid)
                return []
            seen: list[str] = []
            while len(seen) < self.CONTENDED:
                seen += claimed_uids(backend, limit=1)
            return seen

        seen = [uid for uids in at_once(4, act) for uid in uids]

        assert sorted(seen) == sorted(expected)

    # -- finish

    def test_successful_job_has_its_result_and_is_over(self, backend, clock):
        uid = enqueued(backend)
        claim = claim_one(backend)
        clock.advance(3)

        stored = backend.finish(claim, Outcome(SUCCESSFUL, result={"n": [1, 2]}, log=("a", "b")))

        found = backend.get(uid)
        assert stored is True
        assert found.status is SUCCESSFUL
        assert found.result == {"n": [1, 2]}
        assert found.finished_at == clock.now()
        assert errors_of(found) == ()
        assert found.log == ("a", "b")
        assert claimed_uids(backend) == []

    def test_failed_job_has_its_error_and_is_over(self, backend, clock):
        uid = ended(backend, BROKEN)

        found = backend.get(uid)
        assert found.status is FAILED
        assert errors_of(found) == (ERROR,)
        assert found.finished_at == clock.now()
        assert claimed_uids(backend) == []

    def test_job_may_end_as_cancelled_by_its_outcome(self, backend):
        uid = ended(backend, Outcome(CANCELLED))

        assert status_of(backend, uid) is CANCELLED

    def test_outcome_ready_makes_the_job_wait_again_with_its_error_kept(self, backend):
        uid = enqueued(backend, max_attempts=2)

        stored = backend.finish(claim_one(backend), AGAIN)

        found = backend.get(uid)
        assert stored is True
        assert found.status is READY
        assert found.attempts == 1
        assert errors_of(found) == (ERROR,)
        assert found.finished_at is None
        assert backend.waiting() == 1

    def test_outcome_ready_with_a_delay_is_due_after_that_delay(self, backend, clock):
        uid = enqueued(backend, max_attempts=2)
        backend.finish(claim_one(backend), AGAIN._replace(delay_seconds=10.0))
        run_at = backend.get(uid).run_at

        clock.advance(9)
        early = claimed_uids(backend)
        clock.advance(1)

        assert run_at == clock.now()
        assert early == []
        assert claimed_uids(backend) == [uid]

    def test_errors_of_all_attempts_are_kept_in_order(self, backend):
        uid = enqueued(backend, max_attempts=3)
        backend.finish(claim_one(backend), AGAIN)
        backend.finish(claim_one(backend), AGAIN._replace(error=OTHER_ERROR))
        backend.finish(claim_one(backend), DONE)

        found = backend.get(uid)
        assert errors_of(found) == (ERROR, OTHER_ERROR)
        assert found.attempts == 3
        assert found.status is SUCCESSFUL

    def test_claim_ends_with_its_finish(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)
        backend.finish(claim, DONE)

        assert backend.finish(claim, BROKEN) is False
        assert backend.standing(claim) is Standing.LOST
        assert status_of(backend, uid) is SUCCESSFUL

    def test_error_tells_when_which_attempt_has_failed_and_on_which_worker(self, backend, clock):
        uid = enqueued(backend, max_attempts=2)
        assert backend.finish(claim_one(backend), Outcome(READY, error=ERROR))
        clock.advance(60)
        assert backend.finish(claim_one(backend, "w2"), BROKEN)
        first, second = backend.get(uid).errors
        [last] = backend.last_errors([uid, "asyncjob_unknown"])

        workers = (WORKER, "w2") if backend.is_shared else (None, None)  # else it is this process
        assert (first.attempt, second.attempt) == (1, 2)
        assert (first.worker_id, second.worker_id) == workers
        assert second.at - first.at == timedelta(seconds=60)
        assert second.at == backend.get(uid).finished_at
        assert (last.uid, last.at, last.error[:3]) == (uid, second.at, ERROR[:3])

    @successes
    @pytest.mark.parametrize("next_worker", [WORKER, "w2"])
    def test_stale_lease_is_refused_and_stores_nothing(self, backend, done, next_worker):
        uid = enqueued(backend)
        stale = claim_one(backend)
        backend.release([stale])
        fresh = claim_one(backend, next_worker)

        assert backend.finish(stale, done) is False
        found = backend.get(uid)
        assert (found.status, found.result, found.finished_at) == (RUNNING, None, None)
        assert backend.finish(fresh, done) is True

    @pytest.mark.parametrize(
        "outcome", [DONE, Outcome(SUCCESSFUL), BROKEN, AGAIN, Outcome(CANCELLED)]
    )
    def test_lease_of_a_job_that_waits_again_is_refused(self, backend, outcome):
        uid = enqueued(backend, max_attempts=2)
        stale = claim_one(backend)
        backend.release([stale])

        assert backend.finish(stale, outcome) is False
        assert status_of(backend, uid) is READY
        assert backend.waiting() == 1

    def test_lease_from_before_a_retry_is_refused(self, backend):
        uid = enqueued(backend)
        stale = claim_one(backend)
        backend.finish(stale, BROKEN)
        backend.retry(uid)
        claim_one(backend, "w2")

        assert backend.finish(stale, DONE) is False
        assert status_of(backend, uid) is RUNNING

    def test_failure_enqueues_what_is_to_follow_and_nothing_else_does(self, backend):
        told: list[tuple[str, str, str]] = []

        def after_failure(uid: str, name: str, queue_name: str) -> tuple[Call, TaskOptions]:
            told.append((uid, name, queue_name))
            return Call(work, ("after", uid), None), TaskOptions(queue_name=queue_name)

        backend.after_failure = after_failure
        uids = [enqueued(backend, queue_name="q", max_attempts=2) for _ in range(6)]
        claims = backend.claim(WORKER, None, 6)
        backend.finish(claims[0], BROKEN)
        backend.finish(claims[1], DONE)
        backend.finish(claims[2], AGAIN)
        backend.finish(claims[3], Outcome(CANCELLED))
        backend.finish_many([(claims[4], BROKEN), (claims[5], DONE)])
        assert backend.finish(claims[4], BROKEN) is False

        assert told == [(uid, "backend_contract.work", "q") for uid in (uids[0], uids[4])]
        found = {claim.job.call.args: claim.job for claim in backend.claim(WORKER, ["q"], 9)}
        assert set(found) == {("after", uids[0]), ("after", uids[4]), ()}
        assert found["after", uids[0]].options.queue_name == "q"
        assert found[()].uid == uids[2]

    def test_one_of_many_that_finish_one_claim_at_once_is_believed(self, backend):
        for _ in range(self.ROUNDS // 10):
            uid = enqueued(backend)
            claim = claim_one(backend)

            def finish(number: int, claim: Claim = claim) -> bool:
                return backend.finish(claim, Outcome(SUCCESSFUL, result=number))

            stored = at_once(4, finish)

            assert sorted(stored) == [False, False, False, True]
            assert backend.get(uid).result == stored.index(True)

    @successes
    def test_finish_many_finishes_each_and_tells_which_were_refused(self, backend, done):
        first, second, third = (enqueued(backend) for _ in range(3))
        claims = backend.claim(WORKER, None, 3)
        backend.release([claims[1]])

        stored = backend.finish_many([(claims[0], done), (claims[1], done), (claims[2], BROKEN)])

        assert stored == [True, False, True]
        assert status_of(backend, first) is SUCCESSFUL
        assert status_of(backend, second) is READY
        assert status_of(backend, third) is FAILED

    @successes
    def test_finish_many_of_equal_outcomes_tells_which_were_refused(self, backend, done):
        uids = [enqueued(backend) for _ in range(4)]
        claims = backend.claim(WORKER, None, 4)
        backend.release([claims[1]])
        backend.cancel(uids[2])

        stored = backend.finish_many([(claim, done) for claim in claims])

        assert stored == [True, False, False, True]
        assert [status_of(backend, uid) for uid in (uids[0], uids[1], uids[3])] == [
            SUCCESSFUL, READY, SUCCESSFUL,
        ]  # fmt: skip
        assert backend.finish_many([(claims[0], done), (claims[3], done)]) == [False, False]

    def test_finish_many_of_nothing_gives_nothing(self, backend):
        assert backend.finish_many([]) == []

    # -- release

    def test_release_costs_no_attempt(self, backend):
        uid = enqueued(backend, max_attempts=1)
        backend.release([claim_one(backend)])
        found = backend.get(uid)

        again = claim_one(backend)

        assert (found.status, found.attempts, found.errors) == (READY, 0, ())
        assert found.worker_id is None
        assert (again.attempt, again.attempts_left) == (1, 0)

    def test_release_ends_a_job_that_was_cancelled_meanwhile(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)
        backend.cancel(uid)

        backend.release([claim])

        assert status_of(backend, uid) is CANCELLED
        assert claimed_uids(backend) == []

    def test_release_passes_over_claims_that_no_longer_hold(self, backend):
        first, second = enqueued(backend), enqueued(backend)
        claims = backend.claim(WORKER, None, 2)
        backend.finish(claims[0], DONE)

        backend.release(iter(claims))
        backend.release(claims)

        assert status_of(backend, first) is SUCCESSFUL
        assert claimed_uids(backend) == [second]

    def test_released_claim_no_longer_holds(self, backend):
        enqueued(backend)
        claim = claim_one(backend)
        backend.release([claim])

        assert backend.standing(claim) is Standing.LOST
        assert backend.fence(claim) is False

    # -- cancel

    def test_cancel_of_a_ready_job_ends_it(self, backend, clock):
        uid = enqueued(backend)

        assert backend.cancel(uid) is True
        found = backend.get(uid)
        assert found.status is CANCELLED
        assert found.finished_at == clock.now()
        assert found.attempts == 0
        assert claimed_uids(backend) == []

    def test_cancel_of_a_delayed_job_ends_it(self, backend, clock):
        uid = enqueued(backend, run_after=timedelta(seconds=1))

        assert backend.cancel(uid) is True
        clock.advance(2)
        assert status_of(backend, uid) is CANCELLED
        assert claimed_uids(backend) == []

    def test_cancelled_job_does_not_hide_those_behind_it(self, backend):
        first = enqueued(backend, priority=5)
        second = enqueued(backend)
        backend.cancel(first)

        assert claimed_uids(backend, limit=1) == [second]

    def test_cancel_of_a_running_job_asks_it_to_stop(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)

        assert backend.cancel(uid) is True
        assert status_of(backend, uid) is RUNNING
        assert backend.standing(claim) is Standing.CANCELLED
        assert backend.cancel(uid) is True

    @pytest.mark.parametrize("outcome", [DONE, BROKEN, Outcome(CANCELLED)])
    def test_cancel_of_an_ended_job_is_false_and_changes_nothing(self, backend, outcome):
        uid = ended(backend, outcome)
        before = backend.get(uid)

        assert backend.cancel(uid) is False
        assert backend.get(uid) == before

    def test_cancel_of_an_unknown_job_is_none(self, backend):
        assert backend.cancel(backend.new_uid()) is None

    @successes
    def test_cancelled_job_cannot_finish_as_successful(self, backend, done):
        uid = enqueued(backend)
        claim = claim_one(backend)
        backend.cancel(uid)

        assert backend.finish(claim, done) is False
        assert backend.get(uid).result is None
        assert backend.finish(claim, Outcome(CANCELLED)) is True
        assert status_of(backend, uid) is CANCELLED

    def test_cancelled_job_that_would_try_again_ends_as_cancelled(self, backend):
        uid = enqueued(backend, max_attempts=2)
        claim = claim_one(backend)
        backend.cancel(uid)

        assert backend.finish(claim, AGAIN._replace(delay_seconds=5.0)) is True
        found = backend.get(uid)
        assert found.status is CANCELLED
        assert errors_of(found) == (ERROR,)
        assert found.finished_at is not None
        assert backend.waiting() == 0

    def test_cancelled_job_may_end_as_failed(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)
        backend.cancel(uid)

        assert backend.finish(claim, BROKEN) is True
        assert status_of(backend, uid) is FAILED

    def test_either_the_cancellation_or_the_success_is_believed(self, backend):
        for _ in range(self.ROUNDS // 10):
            uid = enqueued(backend)
            claim = claim_one(backend)

            def act(number: int, uid: str = uid, claim: Claim = claim) -> bool:
                return backend.cancel(uid) if number else backend.finish(claim, DONE)

            finished, cancelled = at_once(2, act)

            assert finished is not cancelled

    def test_either_the_cancellation_or_the_fence_is_believed(self, backend):
        for _ in range(self.ROUNDS // 10):
            uid = enqueued(backend)
            claim = claim_one(backend)

            def act(number: int, uid: str = uid, claim: Claim = claim) -> bool:
                return backend.cancel(uid) if number else backend.fence(claim)

            fenced, cancelled = at_once(2, act)

            assert fenced is not cancelled
            assert backend.finish(claim, DONE) is fenced

    # -- standing and fence

    def test_claim_holds_until_the_job_is_cancelled(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)
        before = backend.standing(claim)
        backend.cancel(uid)

        assert before is Standing.HELD
        assert backend.standing(claim) is Standing.CANCELLED

    def test_stale_claim_does_not_hold_though_its_job_runs(self, backend):
        enqueued(backend)
        stale = claim_one(backend)
        backend.release([stale])
        fresh = claim_one(backend)

        assert backend.standing(stale) is Standing.LOST
        assert backend.standing(fresh) is Standing.HELD

    def test_fence_is_refused_to_a_cancelled_job(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)
        backend.cancel(uid)

        assert backend.fence(claim) is False

    def test_fence_is_refused_to_a_stale_claim_and_does_not_protect_the_job(self, backend):
        uid = enqueued(backend)
        stale = claim_one(backend)
        backend.release([stale])
        claim_one(backend)

        assert backend.fence(stale) is False
        assert backend.cancel(uid) is True

    def test_cancellation_after_the_fence_comes_too_late(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)

        assert backend.fence(claim) is True
        assert backend.cancel(uid) is False
        assert backend.standing(claim) is Standing.HELD
        assert backend.finish(claim, DONE) is True
        assert status_of(backend, uid) is SUCCESSFUL

    def test_fence_may_be_asked_for_twice(self, backend):
        enqueued(backend)
        claim = claim_one(backend)

        assert backend.fence(claim) is True
        assert backend.fence(claim) is True

    def test_fence_ends_with_the_finish_that_makes_the_job_wait_again(self, backend):
        uid = enqueued(backend, max_attempts=2)
        claim = claim_one(backend)
        backend.fence(claim)
        backend.finish(claim, AGAIN)

        assert backend.cancel(uid) is True
        assert status_of(backend, uid) is CANCELLED

    def test_fence_of_the_attempt_before_does_not_protect_the_next_one(self, backend):
        uid = enqueued(backend, max_attempts=2)
        first = claim_one(backend)
        backend.fence(first)
        backend.finish(first, AGAIN)
        second = claim_one(backend)

        assert backend.cancel(uid) is True
        assert backend.finish(second, DONE) is False

    def test_fence_ends_with_a_release(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)
        backend.fence(claim)
        backend.release([claim])

        assert backend.cancel(uid) is True

    # -- retry

    def test_a_crash_is_counted_and_costs_no_attempt(self, backend):
        uid = enqueued(backend)
        first = claim_one(backend)

        backend.finish(first, Outcome(READY, error=ERROR, crashed=True))

        again = claim_one(backend)
        assert (first.attempt, again.attempt) == (1, 1)
        assert again.crashes_left == first.crashes_left - 1
        assert again.attempts_left == first.attempts_left
        assert backend.get(uid).crashes == 1
        assert errors_of(backend.get(uid)) == (ERROR,)

    def test_retry_forgets_the_crashes(self, backend):
        uid = enqueued(backend)
        first = claim_one(backend)
        backend.finish(first, Outcome(FAILED, error=ERROR, crashed=True))

        backend.retry(uid)

        assert claim_one(backend).crashes_left == first.crashes_left

    def test_retry_gives_an_ended_job_a_fresh_budget_and_keeps_its_history(self, backend):
        uid = enqueued(backend, max_attempts=2)
        backend.finish(claim_one(backend), AGAIN)
        backend.finish(claim_one(backend), BROKEN._replace(error=OTHER_ERROR))

        assert backend.retry(uid) is True
        found = backend.get(uid)
        assert found.status is READY
        assert found.finished_at is None
        assert (found.attempts, errors_of(found)) == (2, (ERROR, OTHER_ERROR))
        claim = claim_one(backend)
        assert (claim.attempt, claim.attempts_left) == (3, 1)

    def test_retried_job_can_succeed(self, backend):
        uid = ended(backend, BROKEN)
        backend.retry(uid)

        assert backend.finish(claim_one(backend), DONE) is True
        found = backend.get(uid)
        assert (found.status, found.result, errors_of(found)) == (SUCCESSFUL, 42, (ERROR,))

    def test_cancelled_job_can_be_retried_and_its_cancellation_is_forgotten(self, backend):
        uid = enqueued(backend)
        backend.cancel(uid)

        assert backend.retry(uid) is True
        assert backend.finish(claim_one(backend), DONE) is True
        assert status_of(backend, uid) is SUCCESSFUL

    def test_job_cancelled_while_delayed_is_due_at_once_when_retried(self, backend):
        uid = enqueued(backend, run_after=timedelta(seconds=50))
        backend.cancel(uid)
        backend.retry(uid)

        assert claimed_uids(backend) == [uid]

    def test_job_cancelled_while_delayed_and_retried_runs_once(self, backend, clock):
        uid = enqueued(backend, run_after=timedelta(seconds=50))
        backend.cancel(uid)
        backend.retry(uid)
        backend.finish(claim_one(backend), AGAIN)
        seen = claimed_uids(backend)
        clock.advance(60)

        assert seen == [uid]
        assert claimed_uids(backend) == []

    def test_job_cancelled_and_retried_has_one_place_in_line(self, backend, clock):
        uid = enqueued(backend, max_attempts=2)
        backend.cancel(uid)
        backend.retry(uid)
        backend.finish(claim_one(backend), AGAIN._replace(delay_seconds=10.0))
        early = claimed_uids(backend)
        clock.advance(10)

        assert early == []
        assert claimed_uids(backend) == [uid]

    def test_retried_job_has_reported_nothing(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)
        backend.report(claim, Progress(5))
        backend.finish(claim, BROKEN)
        backend.retry(uid)

        assert backend.progress(uid) == NO_PROGRESS

    def test_retry_of_a_job_that_has_not_ended_is_false(self, backend):
        uid = enqueued(backend)
        waiting = backend.retry(uid)
        claim_one(backend)

        assert waiting is False
        assert backend.retry(uid) is False
        assert status_of(backend, uid) is RUNNING

    def test_retry_of_an_unknown_job_is_none(self, backend):
        assert backend.retry(backend.new_uid()) is None

    def test_one_of_many_retries_at_once_is_believed(self, backend):
        for _ in range(self.ROUNDS // 10):
            uid = ended(backend, BROKEN)

            retried = at_once(3, lambda _, uid=uid: backend.retry(uid))

            assert sorted(retried) == [False, False, True]
            assert claimed_uids(backend) == [uid]

    # -- the audit

    def audited(self, backend):
        """The records, the first one first, without their numbers and times."""
        return [tuple(each)[2:] for each in reversed(backend.audit.page(None, 50))]

    def test_what_nobody_wants_to_know_is_not_in_the_audit(self, backend):
        uid = enqueued(backend)
        backend.pause("mail", "ada")
        backend.resume("mail")
        backend.cancel(uid)
        backend.retry(uid)

        assert backend.audit.page(None, 50) == []

    def test_audit_has_who_has_done_what_and_whether_it_changed_anything(self, backend, clock):
        ann, uid = Act("ann", "page"), enqueued(backend)
        clock.advance(5)

        backend.cancel(uid, act=ann)
        backend.cancel(uid, act=Act(None, "command"))
        backend.retry(uid, act=ann)
        backend.cancel(backend.new_uid(), act=ann)  # unknown
        backend.pause("mail", "ann", ann)
        backend.pause("mail", "ann", ann)
        backend.resume("mail", ann)
        backend.resume("mail", ann)

        assert self.audited(backend) == [
            ("ann", "page", "cancel", uid, 1, "done"),
            (None, "command", "cancel", uid, 0, "nothing to do"),
            ("ann", "page", "retry", uid, 1, "done"),
            ("ann", "page", "pause", "mail", 1, "done"),
            ("ann", "page", "pause", "mail", 0, "nothing to do"),
            ("ann", "page", "resume", "mail", 1, "done"),
            ("ann", "page", "resume", "mail", 0, "nothing to do"),
        ]
        first = backend.audit.page(None, 50)[-1]
        assert abs((first.at - clock.now()).total_seconds()) < 0.01

    def test_pages_that_look_at_fewer_jobs_than_are_due_at_one_instant_go_on(self, backend, clock):
        at_once = [enqueued(backend, run_after=timedelta(seconds=5)) for _ in range(6)]
        later = [enqueued(backend, run_after=timedelta(seconds=9), queue_name="b")]

        for look_at in (1, 3, 100):
            for name, uids in {"default": at_once, "b": later}.items():
                wanted = JobFilter(queue_names=(name,))
                pages = islice(found_pages(backend, 2, wanted, look_at), 20)
                assert [uid for page in pages for uid in page] == uids

    def test_audit_is_read_in_pages_the_last_first(self, backend):
        for number in range(5):
            backend.pause(f"q{number}", None, Act("ann", "page"))

        first = backend.audit.page(None, 2)
        rest = backend.audit.page(first[-1].number, 9)

        assert [each.subject for each in first] == ["q4", "q3"]
        assert [each.subject for each in rest] == ["q2", "q1", "q0"]
        assert backend.audit.find(rest[0].number) == rest[0]
        assert backend.audit.find(first[0].number + 9) is None

    def test_audit_is_bounded_by_the_retention(self, backend, clock):
        backend.pause("mail", None, Act("ann", "page"))
        clock.advance(self.RETENTION_SECONDS - 10)
        backend.resume("mail", Act("ann", "page"))
        clock.advance(11)

        backend.prune()

        assert [each.action for each in backend.audit.page(None, 9)] == ["resume"]

    def test_action_on_many_has_one_record_that_counts(self, backend):
        uids = [enqueued(backend) for _ in range(5)]
        act = backend.audit.begin(Act("ann", "page"), "cancel", "status=READY")
        begun = self.audited(backend)

        changed = [
            backend.change_many("cancel", some, None, act) for some in (uids[:2], uids[1:], uids)
        ]
        backend.audit.end(act.number, "5 of 5")

        assert begun == [("ann", "page", "cancel", "status=READY", 0, "begun")]
        assert changed == [2, 3, 0]
        assert self.audited(backend) == [("ann", "page", "cancel", "status=READY", 5, "5 of 5")]
        assert {status_of(backend, uid) for uid in uids} == {CANCELLED}

    def test_many_are_cancelled_once_each(self, backend):
        done, waiting = ended(backend, DONE), enqueued(backend)
        running = enqueued(backend, priority=5)
        claim = claim_one(backend)
        uids = [waiting, done, running, backend.new_uid(), "", "a\0b", "\ud800", "x" * 70_000]

        changed = [backend.change_many("cancel", uids), backend.change_many("cancel", uids)]

        assert changed == [2, 0]
        assert backend.standing(claim, fresh=True) is Standing.CANCELLED
        assert status_of(backend, waiting) is CANCELLED
        assert status_of(backend, done) is SUCCESSFUL

    def test_many_are_retried_once_each_though_some_fail_again(self, backend, clock):
        uids = [ended(backend, BROKEN, max_attempts=level) for level in (1, 3, 1)]
        waiting = enqueued(backend, queue_name="elsewhere")
        clock.advance(1)
        until = clock.now()
        clock.advance(1)
        given = [*uids, waiting, backend.new_uid(), "a\0b", "\ud800"]

        first = backend.change_many("retry", given, until, Act("ann", "page"), "three")
        claims = {claim.job.uid: claim for claim in backend.claim(WorkerId("w1"), ["default"], 9)}
        backend.finish(claims[uids[0]], BROKEN)
        second = backend.change_many("retry", given, until)
        third = backend.change_many("retry", given)

        assert (first, second, third) == (3, 0, 1)
        assert {uid: claim.attempts_left for uid, claim in claims.items()} == dict(
            zip(uids, (0, 2, 0), strict=True)
        )
        assert self.audited(backend) == [("ann", "page", "retry", "three", 3, "done")]

    def test_highest_number_ends_a_list_before_what_comes_later(self, backend):
        before = [enqueued(backend) for _ in range(2)]
        wanted = JobFilter.of("READY")._replace(highest=backend.highest())
        enqueued(backend)

        assert backend.find(wanted, None, 9).uids == before[::-1]

    # -- progress and report

    def test_report_is_visible_at_once(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)

        assert backend.report(claim, Progress(3, "three", 10)) is True
        assert backend.progress(uid) == Progress(3, "three", 10)
        assert backend.get(uid).progress == Progress(3, "three", 10)

    def test_last_report_counts(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)
        for value in (1, 5, 4):
            backend.report(claim, Progress(value))

        assert backend.progress(uid) == Progress(4)

    def test_report_of_a_stale_claim_is_refused_and_not_shown(self, backend):
        uid = enqueued(backend)
        stale = claim_one(backend)
        backend.release([stale])
        fresh = claim_one(backend)
        backend.report(fresh, Progress(1))

        assert backend.report(stale, Progress(99)) is False
        assert backend.progress(uid) == Progress(1)

    def test_report_to_a_cancelled_job_is_false(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)
        backend.cancel(uid)

        assert backend.report(claim, Progress(1)) is False

    def test_report_after_the_end_is_refused(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)
        backend.report(claim, Progress(1))
        backend.finish(claim, DONE)

        assert backend.report(claim, Progress(2)) is False
        assert backend.get(uid).progress == Progress(1)

    def test_progress_of_a_job_that_reported_nothing_is_no_progress(self, backend):
        uid = enqueued(backend)
        waiting = backend.progress(uid)
        claim_one(backend)

        assert waiting == NO_PROGRESS
        assert backend.progress(uid) == NO_PROGRESS

    @pytest.mark.parametrize("outcome", [DONE, BROKEN, Outcome(CANCELLED)])
    def test_progress_of_an_ended_job_is_none_but_its_snapshot_keeps_it(self, backend, outcome):
        uid = enqueued(backend)
        claim = claim_one(backend)
        backend.report(claim, Progress(3))
        backend.finish(claim, outcome)

        assert backend.progress(uid) is None
        assert backend.get(uid).progress == Progress(3)

    def test_progress_of_an_unknown_job_is_none(self, backend):
        assert backend.progress(backend.new_uid()) is None

    # -- briefs

    def test_brief_of_a_ready_job_says_how_long_it_waits(self, backend, clock):
        uid = enqueued(backend, "an argument", context={"user": "ann"})
        clock.advance(3)

        [brief] = backend.briefs([uid]).values()

        assert (brief.uid, brief.status, brief.user) == (uid, READY, "ann")
        assert brief.enqueued_ago == pytest.approx(3, abs=0.01)
        assert (brief.started_ago, brief.attempted_ago, brief.finished_ago) == (None, None, None)
        assert (brief.attempts, brief.value, brief.total, brief.text) == (0, -1, None, None)
        assert (brief.error_class, brief.error_message, brief.due_in) == (None, None, None)

    def test_brief_of_a_running_job_has_its_last_report_and_ages(self, backend, clock):
        uid = enqueued(backend)
        clock.advance(1)
        claim = claim_one(backend)
        backend.report(claim, Progress(2, "two", 10))
        backend.report(claim, Progress(3, "three", 10))
        clock.advance(4)

        brief = backend.briefs([uid])[uid]

        assert (brief.status, brief.is_cancelled, brief.attempts) == (RUNNING, False, 1)
        assert (brief.value, brief.total, brief.text) == (3, 10, "three")
        assert brief.enqueued_ago == pytest.approx(5, abs=0.01)
        assert brief.started_ago == pytest.approx(4, abs=0.01)
        assert brief.attempted_ago == pytest.approx(4, abs=0.01)

    def reported(self, backend, clock, claim, values, seconds=1.0, total=100):
        """Report *values*, one after each interval."""
        for value in values:
            clock.advance(seconds)
            backend.report(claim, Progress(value, None, total))

    def etas(self, backend, uid):
        """The remaining time of a job, as both readers have it."""
        return backend.briefs([uid])[uid].eta_seconds, backend.get(uid).eta_seconds

    def test_remaining_time_is_known_from_the_third_report_on(self, backend, clock):
        uid = enqueued(backend)
        claim = claim_one(backend)

        self.reported(backend, clock, claim, [80, 82], seconds=2)
        early = self.etas(backend, uid)
        self.reported(backend, clock, claim, [84], seconds=2)
        clock.advance(3)

        assert early == (None, None)
        assert self.etas(backend, uid) == (pytest.approx(13, abs=0.1),) * 2  # not of the 80 before

    def test_remaining_time_is_none_rather_than_wrong(self, backend, clock):
        standing, endless, ended, silent = (enqueued(backend) for _ in range(4))
        for claim, values, total in zip(
            backend.claim(WorkerId("w1"), None, 4),
            ([5, 5, 5], [1, 2, 3], [1, 2, 3], [1, 2, 3]),
            (100, None, 100, 100),
            strict=True,
        ):
            self.reported(backend, clock, claim, values, total=total)
            if claim.job.uid == ended:
                backend.finish(claim, DONE)
        before = self.etas(backend, silent)
        clock.advance(10)

        assert before[0] is not None
        for uid in (silent, standing, endless, ended):
            assert self.etas(backend, uid) == (None, None)

    def test_another_attempt_begins_with_no_progress_and_no_remaining_time(self, backend, clock):
        uid = enqueued(backend, max_attempts=2)
        first = claim_one(backend)
        self.reported(backend, clock, first, [10, 20, 30])
        backend.finish(first, AGAIN)

        second = claim_one(backend)
        before = backend.briefs([uid])[uid].value, self.etas(backend, uid)
        self.reported(backend, clock, second, [1, 2])
        early = self.etas(backend, uid)
        self.reported(backend, clock, second, [3])

        assert before == (-1, (None, None))
        assert early == (None, None)
        assert self.etas(backend, uid) == (pytest.approx(97, abs=0.1),) * 2

    def test_brief_of_a_waiting_job_has_the_number_of_jobs_before_it(self, backend):
        urgent_last = [enqueued(backend, priority=level) for level in (0, 0, 5)]
        other = enqueued(backend, queue_name="mail")
        delayed = enqueued(backend, run_after=timedelta(hours=1))
        cancelled = enqueued(backend, priority=9)
        backend.cancel(cancelled)
        uids = [*urgent_last, other, delayed, cancelled]

        briefs = backend.briefs(uids)

        assert [briefs[uid].before for uid in uids] == [1, 2, 0, 0, None, None]

    def test_jobs_before_a_waiting_one_are_counted_up_to_a_bound(self, backend):
        uids = [enqueued(backend) for _ in range(MOST_SHOWN_BEFORE + 2)]

        briefs = backend.briefs(uids[-3:])

        most = MOST_SHOWN_BEFORE
        assert [briefs[uid].before for uid in uids[-3:]] == [most - 1, most, most]

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            ("plain", "plain"),
            ({"text": "of a dict", "more": 1}, "of a dict"),
            ({"step": "of another key"}, None),
            ({"text": 7}, None),
            (7, None),
            (["a", "list"], None),
            (timedelta(1), None),
            ("x" * 3000, "x" * 2000),
        ],
        ids=range(8),
    )
    def test_brief_has_the_text_of_a_report_and_no_other_data(self, backend, data, text):
        uid = enqueued(backend)
        backend.report(claim_one(backend), Progress(1, data))

        assert backend.briefs([uid])[uid].text == text

    def test_brief_of_a_job_that_tries_again_has_its_delay_and_its_last_error(self, backend, clock):
        uid = enqueued(backend, max_attempts=3)
        backend.finish(claim_one(backend), Outcome(READY, error=OTHER_ERROR))
        backend.finish(claim_one(backend), Outcome(READY, error=ERROR, delay_seconds=9))
        clock.advance(2)

        brief = backend.briefs([uid])[uid]

        assert (brief.status, brief.attempts) == (READY, 2)
        assert brief.due_in == pytest.approx(7, abs=0.01)
        assert (brief.error_class, brief.error_message) == ERROR[:2]

        clock.advance(20)
        assert backend.briefs([uid])[uid].due_in is None

    def test_brief_of_a_cancelled_job_that_runs_says_so_until_it_ends(self, backend, clock):
        uid = enqueued(backend)
        claim = claim_one(backend)
        backend.cancel(uid)
        stopping = backend.briefs([uid])[uid]
        backend.finish(claim, Outcome(CANCELLED))
        clock.advance(1)
        stopped = backend.briefs([uid])[uid]

        assert (stopping.status, stopping.is_cancelled) == (RUNNING, True)
        assert (stopped.status, stopped.is_cancelled) == (CANCELLED, False)
        assert stopped.finished_ago == pytest.approx(1, abs=0.01)

    def test_briefs_are_those_of_the_jobs_that_are_known(self, backend):
        uids = [ended(backend), ended(backend, BROKEN), enqueued(backend)]

        found = backend.briefs([*uids, backend.new_uid(), "", "nobody", "a\0\ud800", "x" * 5000])

        assert {uid: brief.status for uid, brief in found.items()} == dict(
            zip(uids, (SUCCESSFUL, FAILED, READY), strict=True)
        )
        assert backend.briefs([]) == {}

    def test_uid_that_is_asked_for_twice_has_one_brief(self, backend):
        uid = enqueued(backend)

        assert list(backend.briefs([uid, uid])) == [uid]

    def test_many_briefs_are_each_of_their_job(self, backend):
        uids = [enqueued(backend) for _ in range(50)]
        claims = backend.claim(WORKER, None, 50)
        for number, claim in enumerate(claims):
            backend.report(claim, Progress(number, str(number), 50))

        found = backend.briefs(uids)

        assert [(found[uid].value, found[uid].text) for uid in uids] == [
            (number, str(number)) for number in range(50)
        ]

    # -- heartbeat and rescue

    def test_worker_that_lost_nothing_is_told_so(self, backend):
        enqueued(backend)
        claim_one(backend)

        assert list(backend.heartbeat(WORKER)) == []

    def test_jobs_of_a_worker_that_lives_are_not_rescued(self, backend):
        enqueued(backend)
        claim = claim_one(backend)
        backend.heartbeat(WORKER)

        assert backend.rescue() == 0
        assert backend.standing(claim) is Standing.HELD

    def test_worker_that_is_dismissed_and_holds_nothing_leaves_nothing_to_rescue(self, backend):
        uid = enqueued(backend)
        backend.finish(claim_one(backend), DONE)
        backend.dismiss(WORKER)

        assert backend.rescue() == 0
        assert status_of(backend, uid) is SUCCESSFUL

    # -- wait and wake

    def test_wait_returns_at_once_when_something_is_claimable(self, backend):
        enqueued(backend)

        backend.wait(None, LONG_SECONDS, lambda: False)

    def test_wait_returns_at_once_when_stopped(self, backend):
        backend.wait(None, LONG_SECONDS, lambda: True)

    def test_wait_returns_after_its_seconds(self, backend):
        backend.wait(None, 0.01, lambda: False)
        backend.wait(None, 0, lambda: False)

    def test_wait_returns_when_something_is_enqueued(self, backend):
        with WaitingThread(backend) as waiter:
            enqueued(backend)

            assert waiter.is_back()

    def test_wait_returns_for_a_queue_that_it_named(self, backend):
        with WaitingThread(backend, ["mail"]) as waiter:
            enqueued(backend, queue_name="mail")

            assert waiter.is_back()

    def test_wait_does_not_mind_jobs_of_other_queues_that_were_there_before(self, backend):
        enqueued(backend, queue_name="other")

        with WaitingThread(backend, ["mail"]) as waiter:
            assert not waiter.is_back(0.05)

    def test_wait_returns_when_a_job_is_released(self, backend):
        enqueued(backend)
        claim = claim_one(backend)
        with WaitingThread(backend) as waiter:
            backend.release([claim])

            assert waiter.is_back()

    def test_wait_returns_when_a_job_is_to_try_again(self, backend):
        enqueued(backend, max_attempts=2)
        claim = claim_one(backend)
        with WaitingThread(backend) as waiter:
            backend.finish(claim, AGAIN)

            assert waiter.is_back()

    def test_wait_returns_when_an_ended_job_is_retried(self, backend):
        uid = ended(backend)
        with WaitingThread(backend) as waiter:
            backend.retry(uid)

            assert waiter.is_back()

    def test_wait_returns_when_a_delayed_job_comes_due(self, backend):
        enqueued(backend, run_after=timedelta(seconds=0.02))
        with WaitingThread(backend) as waiter:
            assert waiter.is_back()

    def test_wait_returns_for_the_delay_of_a_job_that_was_enqueued_meanwhile(self, backend):
        with ExitStack() as stack:
            waiter = stack.enter_context(WaitingThread(backend))
            enqueued(backend, run_after=timedelta(seconds=0.02))
            if waiter.is_back(PATIENCE_SECONDS):  # it may have been woken to look anew
                waiter = stack.enter_context(WaitingThread(backend))

            assert waiter.is_back()

    def test_wait_returns_when_woken_after_a_stop(self, backend):
        with WaitingThread(backend) as waiter:
            waiter.stop()

            assert waiter.is_back()

    @pytest.mark.parametrize("act", ["wake", "enqueue"])
    def test_what_happens_while_a_wait_looks_is_not_overlooked(self, backend, act):
        acts: list[threading.Thread] = []

        def look() -> bool:
            if not acts:
                target = backend.wake if act == "wake" else lambda: enqueued(backend)
                acts.append(threading.Thread(target=target))
                acts[0].start()
                acts[0].join(0.1)  # not longer: it may have to wait until this look is over
            return False

        waiting = threading.Thread(target=backend.wait, args=[None, LONG_SECONDS, look])
        waiting.start()
        waiting.join(PATIENCE_SECONDS)
        overlooked = waiting.is_alive()
        backend.wake()
        waiting.join()
        acts[0].join()

        assert not overlooked

    def test_wake_makes_every_wait_return(self, backend):
        with ExitStack() as stack:
            waiters = [stack.enter_context(WaitingThread(backend)) for _ in range(3)]

            backend.wake()

            assert [waiter.is_back() for waiter in waiters] == [True, True, True]

    def test_as_many_waits_return_as_jobs_are_enqueued(self, backend):
        with ExitStack() as stack:
            waiters = [stack.enter_context(WaitingThread(backend)) for _ in range(3)]

            backend.enqueue([a_job(backend) for _ in range(3)])

            assert [waiter.is_back() for waiter in waiters] == [True, True, True]

    def test_job_wakes_a_wait_that_serves_its_queue_whoever_else_sleeps(self, backend):
        with WaitingThread(backend, ["mail"]) as mail, WaitingThread(backend, ["reports"]):
            enqueued(backend, queue_name="mail")

            assert mail.is_back()

    def test_delayed_job_is_not_left_to_the_one_wait_that_went_off_with_another(self, backend):
        with ExitStack() as stack:  # each that leaves wakes the others
            idle = stack.enter_context(WaitingThread(backend))
            woken = stack.enter_context(WaitingThread(backend))
            enqueued(backend, run_after=timedelta(seconds=0.3))
            if woken.is_back(0.1):  # it looks, and waits until the job is due
                woken = stack.enter_context(WaitingThread(backend))
            enqueued(backend)
            if woken.is_back():
                claim_one(backend)  # and is busy from now on

            assert idle.is_back(), "a delayed job is due, and an idle worker sleeps on"

    def test_no_wake_up_is_lost_between_an_enqueue_and_a_wait(self, backend):
        barrier = threading.Barrier(2, timeout=PATIENCE_SECONDS)

        def produce() -> None:
            for _ in range(self.ROUNDS):
                barrier.wait()  # one that sleeps on breaks it
                enqueued(backend)

        def consume() -> None:
            for _ in range(self.ROUNDS):
                barrier.wait()
                backend.wait(None, LONG_SECONDS, lambda: False)
                while not claimed_uids(backend):  # it may return for nothing, not sleep on
                    backend.wait(None, LONG_SECONDS, lambda: False)

        with ThreadPoolExecutor(2) as pool:
            for act in [pool.submit(produce), pool.submit(consume)]:
                act.result(LONG_SECONDS + PATIENCE_SECONDS)

    def test_no_wake_up_is_lost_among_many_that_enqueue_and_many_that_wait(self, backend):
        enough = threading.Event()
        left = self.ROUNDS * 2
        lock = threading.Lock()

        def produce() -> None:
            for _ in range(self.ROUNDS):
                enqueued(backend)

        def consume(number: int) -> None:
            nonlocal left
            while not enough.is_set():
                claims = backend.claim(WorkerId(f"w{number}"), None, 1)
                if not claims:
                    backend.wait(None, LONG_SECONDS, enough.is_set)
                with lock:
                    left -= len(claims)
                    if left == 0:
                        enough.set()
                        backend.wake()

        with ThreadPoolExecutor(5) as pool:
            acts = [pool.submit(consume, number) for number in range(3)]
            acts += [pool.submit(produce), pool.submit(produce)]
            in_time = enough.wait(LONG_SECONDS / 2)
            enough.set()
            backend.wake()
            for act in acts:
                act.result(LONG_SECONDS + PATIENCE_SECONDS)

        assert in_time, f"{left} jobs were not claimed though three threads waited for them"

    def test_no_wake_up_is_lost_between_a_stop_and_many_waits(self, backend):
        waiters = 3
        barrier = threading.Barrier(waiters + 1, timeout=PATIENCE_SECONDS)
        stops = [threading.Event() for _ in range(self.ROUNDS)]

        def sleep() -> None:
            for stop in stops:
                barrier.wait()  # ends the round before, too: one that sleeps on breaks it
                backend.wait(None, LONG_SECONDS, stop.is_set)

        def wake() -> None:
            for stop in stops:
                barrier.wait()
                stop.set()
                backend.wake()

        with ThreadPoolExecutor(waiters + 1) as pool:
            acts = [pool.submit(sleep) for _ in range(waiters)] + [pool.submit(wake)]
            for act in acts:
                act.result(timeout=LONG_SECONDS + PATIENCE_SECONDS)

    # -- wait_for_end

    def test_wait_for_end_returns_when_the_job_ends(self, backend):
        uid = enqueued(backend)
        claim = claim_one(backend)
        asked = threading.Event()

        def wait() -> bool:
            asked.set()
            while not status_of(backend, uid).is_final:
                backend.wait_for_end(uid, LONG_SECONDS)
            return True

        with ThreadPoolExecutor(2) as pool:
            waits = [pool.submit(wait), pool.submit(wait)]
            asked.wait(PATIENCE_SECONDS)
            backend.finish(claim, DONE)

            assert [each.result(PATIENCE_SECONDS) for each in waits] == [True, True]

    def test_wait_for_end_returns_when_a_ready_job_is_cancelled(self, backend):
        uid = enqueued(backend)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(backend.wait_for_end, uid, LONG_SECONDS)
            backend.cancel(uid)

            waiting.result(PATIENCE_SECONDS)

    def test_wait_for_end_returns_at_once_for_an_ended_and_for_an_unknown_job(self, backend):
        backend.wait_for_end(ended(backend), LONG_SECONDS)
        backend.wait_for_end(backend.new_uid(), LONG_SECONDS)

    def test_wait_for_end_returns_after_its_seconds(self, backend):
        uid = enqueued(backend)

        backend.wait_for_end(uid, 0.01)

        assert status_of(backend, uid) is READY

    def test_wait_for_the_second_end_of_a_retried_job_does_not_see_the_first(self, backend):
        uid = enqueued(backend)
        backend.wait_for_end(uid, 0.001)
        backend.finish(claim_one(backend), BROKEN)
        backend.retry(uid)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(backend.wait_for_end, uid, LONG_SECONDS)
            early = waiting.done()
            backend.finish(claim_one(backend), DONE)
            waiting.result(PATIENCE_SECONDS)

        assert early is False

    # -- counts and waiting

    def test_counts_has_every_status_though_there_is_no_job(self, backend):
        assert backend.counts() == dict.fromkeys(TaskResultStatus, 0)

    def test_counts_tells_how_many_jobs_stand_how(self, backend):
        ended(backend, DONE)
        ended(backend, BROKEN)
        backend.cancel(enqueued(backend))
        enqueued(backend)
        claim_one(backend)
        enqueued(backend)
        enqueued(backend, run_after=timedelta(seconds=5))

        assert backend.counts() == {READY: 2, RUNNING: 1, SUCCESSFUL: 1, FAILED: 1, CANCELLED: 1}

    def test_counts_may_stop(self, backend):
        for _ in range(3):
            enqueued(backend)
            ended(backend, BROKEN)

        assert min(backend.counts(2)[READY], backend.counts(2)[FAILED]) >= 2
        assert backend.counts(2)[RUNNING] == 0

    def test_waiting_counts_the_ready_jobs_the_delayed_ones_too(self, backend):
        seen = [backend.waiting()]
        uid = enqueued(backend, max_attempts=2)
        delayed = enqueued(backend, run_after=timedelta(seconds=5))
        seen.append(backend.waiting())
        claim = claim_one(backend)
        seen.append(backend.waiting())
        backend.finish(claim, AGAIN)
        seen.append(backend.waiting())
        backend.cancel(uid)
        seen.append(backend.waiting())
        backend.retry(uid)
        seen.append(backend.waiting())
        backend.release([claim_one(backend)])
        seen.append(backend.waiting())
        backend.cancel(delayed)
        seen.append(backend.waiting())

        assert seen == [0, 2, 1, 2, 1, 2, 2, 1]

    def test_waiting_counts_at_least_as_far_as_it_is_asked(self, backend):
        for _ in range(3):
            enqueued(backend)
        enqueued(backend, run_after=timedelta(seconds=5))

        assert backend.waiting(9) == 4
        assert 2 <= backend.waiting(2) <= 4

    # -- prune

    def test_prune_removes_jobs_that_ended_longer_ago_than_the_retention(self, backend, clock):
        old = [ended(backend, DONE), ended(backend, BROKEN), ended(backend, Outcome(CANCELLED))]
        clock.advance(self.RETENTION_SECONDS / 2)
        young = ended(backend)
        clock.advance(self.RETENTION_SECONDS / 2 + 1)

        assert backend.prune() == 3
        assert [backend.get(uid) for uid in old] == [None, None, None]
        assert status_of(backend, young) is SUCCESSFUL
        assert backend.prune() == 0

    def test_prune_keeps_jobs_that_have_not_ended_however_old(self, backend, clock):
        running = enqueued(backend)
        claim_one(backend)
        waiting = enqueued(backend)
        clock.advance(10 * self.RETENTION_SECONDS)

        assert backend.prune() == 0
        assert status_of(backend, running) is RUNNING
        assert status_of(backend, waiting) is READY

    def test_prune_goes_by_the_last_end_of_a_retried_job(self, backend, clock):
        uid = ended(backend, BROKEN)
        clock.advance(self.RETENTION_SECONDS / 2)
        backend.retry(uid)
        backend.finish(claim_one(backend), DONE)
        clock.advance(self.RETENTION_SECONDS / 2 + 1)
        early = backend.prune()
        clock.advance(self.RETENTION_SECONDS / 2)

        assert early == 0
        assert backend.prune() == 1
        assert backend.get(uid) is None

    def test_prune_keeps_a_job_that_was_retried_and_waits(self, backend, clock):
        uid = ended(backend, BROKEN)
        backend.retry(uid)
        clock.advance(2 * self.RETENTION_SECONDS)

        assert backend.prune() == 0
        assert claimed_uids(backend) == [uid]

    def test_prune_counts_a_job_that_ended_twice_in_one_instant_once(self, backend, clock):
        uid = ended(backend, BROKEN)
        backend.retry(uid)
        backend.finish(claim_one(backend), DONE)
        clock.advance(2 * self.RETENTION_SECONDS)

        assert backend.prune() == 1
        assert backend.get(uid) is None

    def test_removed_job_is_unknown_to_everybody(self, backend, clock):
        uid = ended(backend)
        clock.advance(2 * self.RETENTION_SECONDS)
        backend.prune()

        assert backend.progress(uid) is None
        assert backend.cancel(uid) is None
        assert backend.retry(uid) is None
        assert backend.counts()[SUCCESSFUL] == 0

    # -- in the caller's transaction

    def test_job_enqueued_in_a_transaction_exists_with_its_commit(self, backend, in_transaction):
        self.needs_transactions()
        job = a_job(backend)

        with in_transaction() as connection:
            backend.enqueue([job], connection)
            before = backend.get(job.uid)

        assert before is None
        assert claimed_uids(backend) == [job.uid]

    def test_job_enqueued_in_a_transaction_never_existed_if_rolled_back(
        self, backend, in_transaction
    ):
        self.needs_transactions()
        job = a_job(backend)

        with suppress(ZeroDivisionError), in_transaction() as connection:
            backend.enqueue([job], connection)
            raise ZeroDivisionError

        assert backend.get(job.uid) is None
        assert claimed_uids(backend) == []
        assert backend.waiting() == 0

    def test_outcome_stored_in_a_transaction_is_true_with_its_commit(self, backend, in_transaction):
        self.needs_transactions()
        uid = enqueued(backend)
        claim = claim_one(backend)

        with in_transaction() as connection:
            stored = backend.finish(claim, DONE, connection)

        assert stored is True
        assert status_of(backend, uid) is SUCCESSFUL

    def test_outcome_stored_in_a_transaction_is_lost_with_its_rollback(
        self, backend, in_transaction
    ):
        self.needs_transactions()
        uid = enqueued(backend)
        claim = claim_one(backend)

        with suppress(ZeroDivisionError), in_transaction() as connection:
            backend.finish(claim, DONE, connection)
            raise ZeroDivisionError

        assert status_of(backend, uid) is RUNNING
        assert backend.finish(claim, DONE) is True

    def test_stale_lease_is_refused_in_a_transaction_too(self, backend, in_transaction):
        self.needs_transactions()
        enqueued(backend)
        stale = claim_one(backend)
        backend.release([stale])
        fresh = claim_one(backend)

        with in_transaction() as connection:
            assert backend.fence(stale, connection) is False
            assert backend.finish(stale, DONE, connection) is False
        assert backend.finish(fresh, DONE) is True

    def test_fence_in_a_transaction_ends_with_its_rollback(self, backend, in_transaction):
        self.needs_transactions()
        uid = enqueued(backend)
        claim = claim_one(backend)

        with suppress(ZeroDivisionError), in_transaction() as connection:
            assert backend.fence(claim, connection) is True
            raise ZeroDivisionError

        assert backend.cancel(uid) is True
        assert backend.finish(claim, DONE) is False
