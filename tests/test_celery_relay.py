"""The relay: what was not published, or was lost, is published again, by one relay of all.

Time passes by a clock that is told; the publisher notes what it is given. That real workers then
run the jobs is test_celery_fleet's and test_celery_faults'.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, delete

from backend_contract import a_job
from clocks import FakeClock
from sqlqueues import KINDS, PREFIX, Place, options_of, place_of
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.backends.sql.relay import REPEAT_SECONDS, Relay
from tgext.asyncjob.backends.worker_id import new_worker_id
from tgext.asyncjob.job import SUCCESSFUL, Outcome, WorkerId


class Noted:
    """A publisher that notes the names; with *error* it raises that instead."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.error: Exception | None = None

    def publish(self, queue_names: Sequence[str]) -> None:
        if self.error is not None:
            raise self.error
        self.names += queue_names

    def taken(self) -> list[str]:
        """Return what was noted since the last call."""
        names, self.names = self.names, []
        return sorted(names)

    def close(self) -> None: ...

    def after_fork(self) -> None: ...


class Process:
    """What one process has: a backend whose relay goes round only when it is told."""

    def __init__(self, place: Place, clock: FakeClock) -> None:
        self.noted = Noted()
        self.backend = SqlBackend(
            create_engine(place.url, **options_of(place.url)), prefix=PREFIX, clock=clock,
            monotonic=clock, publisher=self.noted,
        )  # fmt: skip
        self.relay: Relay = self.backend.relay  # type: ignore[assignment]
        self.relay.start = self._start  # type: ignore[method-assign]

    def _start(self, queues: Any) -> None:
        self.relay._queues = queues

    def work(self, queues: tuple[str, ...] | None = None, threads: int = 1) -> WorkerId:
        """Register a worker."""
        worker_id = new_worker_id(20)
        self.backend.register(worker_id, queues, threads)
        return worker_id

    def rounds(self, number: int = 2) -> list[str]:
        """Let the relay go round; return what it published."""
        self.relay._notifier.close()
        self.noted.taken()
        for _ in range(number):
            self.relay.round()
        self.relay._notifier.close()
        return self.noted.taken()

    def close(self) -> None:
        self.backend.close()
        self.backend.engine.dispose()


@pytest.fixture(scope="module", params=KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def processes(place: Place, clock: FakeClock) -> Iterator[Any]:
    """Makes processes."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Process(place, clock)))
    place.empty()
    with place.queue() as queue:
        backend: Any = queue.backend
        side = backend._dialect.side_database
        with side.begin() as connection:
            connection.execute(delete(backend.tables.wakeups))
    place.close_queues()


def enqueue(process: Process, *queue_names: str) -> None:
    process.backend.enqueue([a_job(process.backend, queue_name=name) for name in queue_names])


def test_idle_worker_publishes_for_a_job_that_waits_at_two_rounds(processes: Any) -> None:
    process = processes()
    process.work()
    enqueue(process, "default")

    assert process.rounds(1) == []
    assert process.rounds(1) == ["default"]


def test_worker_that_runs_something_publishes_nothing(processes: Any) -> None:
    process = processes()
    worker = process.work()
    enqueue(process, "default", "default")
    [claim] = process.backend.claim(worker, None, 1)

    assert process.rounds(4) == []
    process.backend.finish(claim, Outcome(SUCCESSFUL))
    assert process.rounds(2) == ["default"]


def test_worker_with_one_thread_left_publishes(processes: Any) -> None:
    process = processes()
    worker = process.work(threads=2)
    enqueue(process, "default", "default")
    process.backend.claim(worker, None, 1)

    assert process.rounds(2) == ["default"]


def test_worker_that_is_stopping_publishes_nothing_for_its_queues(processes: Any) -> None:
    process = processes()
    process.backend.retire(process.work())
    enqueue(process, "default")

    assert process.rounds(3) == []


def test_paused_queue_is_not_published(processes: Any) -> None:
    process = processes()
    process.work()
    enqueue(process, "default", "mail")
    process.backend.pause("mail")

    assert process.rounds(2) == ["default"]
    process.backend.resume("mail")
    process.relay._notifier.close()
    assert process.noted.taken() == ["mail"]


def test_repetition_is_ever_rarer_while_the_first_job_stays(
    processes: Any, clock: FakeClock
) -> None:
    process = processes()
    process.work()
    enqueue(process, "default")
    process.rounds(2)
    for pause in (5, 10, 20, 40, 80, 160, 320, 600, 600):
        clock.advance(pause - 1)
        assert process.rounds(1) == []
        clock.advance(1)
        assert process.rounds(1) == ["default"]

    assert REPEAT_SECONDS == (5.0, 600.0)


def test_five_rows_of_a_queue_without_a_worker_make_few_messages_a_day(
    processes: Any, clock: FakeClock
) -> None:
    """Elsewhere 5 stuck rows made 7,000 messages a day."""
    others = [processes() for _ in range(3)]
    for each in others:
        each.work(("mail",))
    enqueue(others[0], *["default"] * 5)
    published = 0
    for _ in range(12):  # an hour
        published += sum(len(each.rounds(1)) for each in others)
        clock.advance(300)

    assert 6 <= published <= 12


def test_queue_that_another_worker_serves_is_left_to_it(processes: Any) -> None:
    mine, other = processes(), processes()
    mine.work(("mail",))
    other.work(("default",))
    enqueue(mine, "default")

    assert mine.rounds(3) == []
    assert other.rounds(2) == ["default"]


def test_one_relay_of_several_publishes(processes: Any, clock: FakeClock) -> None:
    several = [processes() for _ in range(4)]
    for each in several:
        each.work()
    enqueue(several[0], "default", "mail")
    for each in several:
        each.rounds(1)
    together = threading.Barrier(len(several))

    def go_round(process: Process) -> None:
        set_stamp = process.relay._set_stamp

        def after_all_have_looked(*arguments: Any) -> int | None:
            together.wait(60)
            return set_stamp(*arguments)

        process.relay._set_stamp = after_all_have_looked  # type: ignore[method-assign]
        process.relay.round()
        process.relay._set_stamp = set_stamp  # type: ignore[method-assign]

    for _ in range(3):  # the first stamp is an insert, the others are updates
        threads = [threading.Thread(target=go_round, args=(each,)) for each in several]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        published = [name for each in several for name in each.noted.taken()]
        assert sorted(published) == ["default", "mail"]
        clock.advance(60)


def test_queue_that_moves_is_published_again_soon(processes: Any, clock: FakeClock) -> None:
    idle, other = processes(), processes()
    idle.work()
    worker = other.work()
    enqueue(idle, *["default"] * 5)
    assert idle.rounds(2) == ["default"]
    for _ in range(3):
        other.backend.claim(worker, None, 1)
        clock.advance(1.5)
        assert idle.rounds(1) == ["default"]


def test_what_could_not_be_published_is_tried_at_the_next_round(processes: Any) -> None:
    process = processes()
    process.work()
    enqueue(process, "default")
    process.rounds(1)
    process.noted.error = OSError("the broker is away")
    assert process.rounds(3) == []
    process.noted.error = None

    assert process.rounds(1) == ["default"]
    assert process.rounds(1) == []


def test_delayed_job_is_made_available_and_published_when_it_is_due(
    processes: Any, clock: FakeClock
) -> None:
    one, other = processes(), processes()
    one.work()
    other.work(("mail",))
    one.backend.enqueue([a_job(one.backend, run_after=timedelta(seconds=60))])
    before = one.rounds(2), other.rounds(2)
    clock.advance(61)

    assert before == ([], [])
    assert other.rounds(1) == ["default"]  # whoever sees it first
    assert one.backend.claim(new_worker_id(20), None, 1)


def test_rescued_job_is_published(processes: Any, clock: FakeClock) -> None:
    dead, alive = processes(), processes()
    worker = dead.work()
    alive.work(("mail",))
    enqueue(dead, "default")
    dead.backend.claim(worker, None, 1)
    dead.backend.dismiss(worker)
    alive.noted.taken()
    alive.backend.rescue()
    alive.relay._notifier.close()

    assert alive.noted.taken() == ["default"]


def test_released_and_retried_jobs_are_published(processes: Any) -> None:
    process = processes()
    worker = process.work()
    enqueue(process, "default")
    [claim] = process.backend.claim(worker, None, 1)
    process.relay._notifier.close()
    process.noted.taken()
    process.backend.release([claim])
    process.relay._notifier.close()

    assert process.noted.taken() == ["default"]


def test_claim_that_leaves_jobs_passes_the_wakeup_on(processes: Any) -> None:
    process = processes()
    worker = process.work()
    enqueue(process, "default", "default", "mail")
    process.backend.claim(worker, ("default",), 1)
    process.relay._notifier.close()
    process.noted.taken()
    process.relay.pass_on("default")
    process.backend.claim(worker, ("default",), 1)
    process.relay.pass_on("default")
    process.relay._notifier.close()

    assert process.noted.taken() == ["default"]


def test_known_queues_are_those_with_jobs_and_those_that_were_paused(processes: Any) -> None:
    process = processes()
    enqueue(process, "default", "default", "mail")
    process.backend.pause("other")
    process.backend.resume("other")

    assert process.relay.known_queues() >= {"default", "mail", "other"}
