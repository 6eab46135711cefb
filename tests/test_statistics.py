"""What has ended is counted by the minute, each end once, whoever counts or is killed meanwhile."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import create_engine, delete, event, select, update

from backend_contract import AGAIN, BROKEN, DONE, at_once, enqueued
from clocks import FakeClock
from databases import SERVERS, url_of
from sqlqueues import PATIENCE_SECONDS, session_of
from tgext.asyncjob import JobQueue
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.backends.sql import SqlBackend, ended_minutes, states, statistics
from tgext.asyncjob.backends.statistics import BOUNDS, MOST_NAMES, OTHERS, SUMMED, Counts, Name
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import Job, Outcome, WorkerId
from tgext.asyncjob.task_options import TaskOptions

#: The begin of a minute, and of an hour.
NOON = 1_700_006_400.0
FIRST = int(NOON // 60)

WORKER = WorkerId("w1")

DATABASES = ("sqlite", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SERVERS))


def _task(number: int) -> Callable[[], None]:
    def made() -> None:
        """One of many tasks."""

    made.__name__ = made.__qualname__ = f"task{number:03}"
    return made


#: Tasks of which there are more than names of a minute. A backend finds them by their paths.
TASKS = [_task(number) for number in range(MOST_NAMES + 5)]
globals().update((task.__name__, task) for task in TASKS)


class Place:
    """A store, and its clock."""

    def __init__(self, kind: str, folder: Any) -> None:
        self.kind = kind
        self.clock = FakeClock(NOON)
        self._open: list[SqlBackend] = []
        if kind != "memory":
            self.prefix = f"s{uuid.uuid4().hex[:8]}_"
            self.engine = create_engine(url_of(kind, folder))
            with closing(self.backend()) as first:
                first.open(create_tables=True)
                self.tables = first.tables
            self._open.clear()

    def backend(self) -> Any:
        if self.kind == "memory":
            return MemoryBackend(clock=self.clock)
        self._open.append(SqlBackend(self.engine, prefix=self.prefix, clock=self.clock))
        return self._open[-1]

    def insert(self, number: int, state: int, at: float, **columns: Any) -> None:
        """Insert jobs that have ended at one instant, begun a second before."""
        rows = [
            {
                "uid": uuid.uuid4().hex, "state": state, "rank": 0, "queue_name": "default",
                "budget": 1, "name": "shop.send", "task_name": "shop.send", "payload": "",
                "attempts": 1, "lease": 1, "enqueued_at": at - 3, "started_at": at - 1,
                "last_attempted_at": at - 1, "finished_at": at, **columns,
            }
            for _ in range(number)
        ]  # fmt: skip
        with self.engine.begin() as connection:
            connection.execute(self.tables.jobs.insert(), rows)

    def rows(self, span: int = 1) -> list[tuple[int, str, int]]:
        """Minutes after noon, tasks and what is done, as they stand in the table."""
        table = self.tables.minutes
        wanted = select(table.c.minute - FIRST, table.c.task_name, table.c.done)
        wanted = wanted.where(table.c.span == span)
        with self.engine.connect() as connection:
            return sorted(tuple(row) for row in connection.execute(wanted))

    def empty(self) -> None:
        self.clock.seconds = NOON
        for each in self._open:
            each.close()
        self._open.clear()
        if self.kind != "memory":
            with self.engine.begin() as connection:
                for table in (self.tables.jobs, self.tables.minutes, self.tables.counted):
                    connection.execute(delete(table))

    def drop(self) -> None:
        if self.kind != "memory":
            self.tables.metadata.drop_all(self.engine)
            self.engine.dispose()


@pytest.fixture(scope="module")
def places(tmp_path_factory: Any) -> Iterator[Callable[[str], Place]]:
    made: dict[str, Place] = {}

    def place_of(kind: str) -> Place:
        if kind not in made:
            made[kind] = Place(kind, tmp_path_factory.mktemp("statistics"))
        return made[kind]

    yield place_of
    for each in made.values():
        each.drop()


@pytest.fixture(params=["memory", *DATABASES])
def place(request: Any, places: Callable[[str], Place]) -> Iterator[Place]:
    made = places(request.param)
    yield made
    made.empty()


on_databases = pytest.mark.parametrize("place", DATABASES, indirect=True)


@pytest.fixture
def backend(place: Place) -> Any:
    return place.backend()


@pytest.fixture
def clock(place: Place) -> FakeClock:
    return place.clock


def collect(backend: Any) -> None:
    """Count whatever there is to count, however many calls that takes."""
    while backend.statistics.collect():
        pass


def run(backend: Any, clock: FakeClock, outcome: Outcome = DONE, seconds: float = 0.0) -> str:
    """Enqueue a job, and end an attempt of it after some seconds."""
    uid = enqueued(backend)
    attempt(backend, clock, outcome, seconds)
    return uid


def attempt(backend: Any, clock: FakeClock, outcome: Outcome, seconds: float = 0.0) -> None:
    [claim] = backend.claim(WORKER, None, 1)
    clock.advance(seconds)
    assert backend.finish(claim, outcome)


def total(backend: Any) -> Counts:
    """The counts of all minutes."""
    found = Counts()
    for counts in backend.statistics.series(0, 1).values():
        found.add(counts)
    return found


# -- the contract


def test_ends_are_counted_by_the_minute_with_their_durations(backend, clock):
    run(backend, clock, seconds=2)
    run(backend, clock, BROKEN, seconds=20)
    backend.cancel(enqueued(backend))
    clock.advance(60)
    run(backend, clock, seconds=0.02)
    clock.advance(66)
    collect(backend)

    found = backend.statistics.series(FIRST, 1)

    assert list(found) == [FIRST, FIRST + 1]
    first, second = found.values()
    assert (first.done, first.failed, first.cancelled, first.started) == (1, 1, 1, 2)
    assert first.ran_seconds == pytest.approx(22)
    assert [number for number, count in enumerate(first.took) if count] == [5, 7]
    assert (second.done, second.failed, second.ended, second.retried) == (1, 0, 1, 0)
    assert sum(second.took) == 1


def test_wait_is_that_before_the_first_attempt(backend, clock):
    enqueued(backend)
    clock.advance(7)
    attempt(backend, clock, AGAIN, 10)
    attempt(backend, clock, DONE, 1)
    clock.advance(66)
    collect(backend)

    found = total(backend)

    assert (found.done, found.retried, found.started) == (1, 1, 1)
    assert found.mean_wait == pytest.approx(7)
    assert found.ran_seconds == pytest.approx(1)  # of the last attempt


def test_series_adds_up_minutes_and_begins_where_it_is_told(backend, clock):
    for _ in range(4):
        run(backend, clock)
        clock.advance(60)
    clock.advance(6)
    collect(backend)

    fifteen = backend.statistics.series(FIRST + 1, 15)
    thirty = backend.statistics.series(FIRST, SUMMED)

    assert {slot: counts.done for slot, counts in fifteen.items()} == {FIRST: 3}
    assert {slot: counts.done for slot, counts in thirty.items()} == {FIRST: 4}


def test_tasks_come_in_the_order_of_their_numbers(backend, clock):
    for number in (0, 1, 1, 2):
        call = Call(TASKS[number], (), None)
        backend.enqueue([Job(backend.new_uid(), call, TaskOptions(queue_name="mail"))])
    for claim in backend.claim(WORKER, None, 10):
        backend.finish(claim, DONE)
    clock.advance(66)
    collect(backend)

    found = backend.statistics.by_task(0, 2)

    assert [(name, counts.done) for name, counts in found] == [
        (f"{__name__}.task001", 2), (f"{__name__}.task000", 1),
    ]  # fmt: skip
    assert backend.statistics.by_task(FIRST + SUMMED, 2) == []


def test_end_is_counted_again_after_a_retry_and_the_first_is_kept(backend, clock):
    run(backend, clock, BROKEN)  # so that the minute is read again
    uid = run(backend, clock, BROKEN)
    clock.advance(66)
    collect(backend)
    backend.retry(uid)
    attempt(backend, clock, DONE)
    for _ in range(8):
        clock.advance(60)
        collect(backend)

    found = backend.statistics.series(0, 1)

    assert [(slot - FIRST, each.failed, each.done) for slot, each in found.items()] == [
        (0, 2, 0), (1, 0, 1),
    ]  # fmt: skip


def test_removed_job_stays_counted(backend, clock):
    run(backend, clock)
    clock.advance(66)
    collect(backend)
    clock.advance(700_000)
    backend.prune()
    clock.seconds = NOON + 400
    collect(backend)

    assert total(backend).done == (1 if isinstance(backend, SqlBackend) else 0)


def test_names_of_a_minute_are_bounded(backend, clock):
    for each in TASKS:
        backend.enqueue([Job(backend.new_uid(), Call(each, (), None), TaskOptions())])
    for claim in backend.claim(WORKER, None, 100):
        backend.finish(claim, DONE)
    for _ in range(8):  # counted twice, with the same names
        clock.advance(60)
        collect(backend)

    found = dict(backend.statistics.by_task(0, 100))

    assert len(found) == MOST_NAMES + 1
    assert found[""].done == 5
    assert total(backend).done == MOST_NAMES + 5


# -- counts


def test_quantile_is_in_the_class_of_the_duration():
    counts = Counts(took=[0] * 4 + [9] + [0] * 3 + [1] + [0] * 4)

    assert BOUNDS[3] < counts.quantile(0.5) <= BOUNDS[4]
    assert BOUNDS[7] < counts.quantile(0.95) <= BOUNDS[8]
    assert Counts().quantile(0.5) is None
    assert Counts(took=[0] * len(BOUNDS) + [1]).quantile(0.5) == math.inf


def test_names_that_a_minute_has_are_kept_when_it_is_counted_again():
    stored = {Name(f"t{number}", "q"): Counts(done=1) for number in range(MOST_NAMES)}
    found = {**stored, Name("new", "q"): Counts(done=9), Name("t0", "q"): Counts(done=2)}

    wanted = statistics.merged(stored, found)

    assert wanted[Name("t0", "q")].done == 2
    assert wanted[OTHERS].done == 9
    assert len(wanted) == MOST_NAMES + 1
    assert statistics.merged(wanted, found) == wanted


# -- the table


@on_databases
def test_open_minute_is_not_counted_and_costs_no_write(place, backend, clock):
    run(backend, clock)
    clock.advance(59)

    with closing(place.backend()) as other:
        written: list[str] = []
        event.listen(
            other._dialect.engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_rest: written.append(statement),
        )
        collect(other)

    assert place.rows() == []
    assert not [each for each in written if not each.startswith(("SELECT", "PRAGMA"))]


@on_databases
def test_commit_that_was_late_is_counted_when_the_minute_is_settled(place, backend, clock):
    place.insert(2, states.SUCCEEDED, NOON + 1)
    clock.advance(66)
    collect(backend)
    before = place.rows()
    place.insert(1, states.SUCCEEDED, NOON + 2)  # by its clock; its commit has taken a while
    clock.advance(60)
    collect(backend)
    meanwhile = place.rows()
    clock.advance(300)
    collect(backend)

    assert before == meanwhile == [(0, "shop.send", 2)]
    assert place.rows() == [(0, "shop.send", 3)]


@on_databases
def test_counting_again_from_the_begin_changes_nothing(place, backend, clock):
    place.insert(3, states.SUCCEEDED, NOON + 1)
    clock.advance(400)
    collect(backend)
    with place.engine.begin() as connection:
        connection.execute(delete(place.tables.counted))
    collect(backend)

    assert place.rows() == [(0, "shop.send", 3)]


@on_databases
def test_processes_that_count_at_once_count_once(place, clock):
    for minute in range(5):
        place.insert(4, states.SUCCEEDED, NOON + 60 * minute)
    clock.advance(1_000)
    backends = [place.backend() for _ in range(4)]

    at_once(4, lambda number: collect(backends[number]))
    clock.advance(100)
    collect(backends[0])

    assert place.rows() == [(minute, "shop.send", 4) for minute in range(5)]


@on_databases
def test_count_that_was_killed_anywhere_is_made_by_another_process(place, clock):
    place.insert(4, states.SUCCEEDED, NOON + 1)
    place.insert(4, states.FAILED, NOON + 61)
    clock.advance(70)
    stops = 0
    for stop in range(1, 60):
        clock.advance(70)
        killed, executed = place.backend(), 0

        def kill(*_arguments: Any, stop: int = stop) -> None:
            nonlocal executed
            executed += 1
            if executed >= stop:
                raise KeyboardInterrupt

        event.listen(killed._dialect.engine, "before_cursor_execute", kill)
        try:
            collect(killed)
        except KeyboardInterrupt:
            stops += 1
        else:
            break
    assert stops >= 8

    clock.advance(400)
    with closing(place.backend()) as other:
        collect(other)
        found = total(other)

    assert (found.done, found.failed) == (4, 4)


@on_databases
def test_clock_that_was_set_back_is_counted_from_there(place, backend, clock):
    place.insert(1, states.SUCCEEDED, NOON + 3_601)
    clock.advance(3_670)
    collect(backend)
    clock.seconds = NOON + 10
    collect(backend)
    place.insert(2, states.SUCCEEDED, NOON + 11)
    place.insert(1, states.SUCCEEDED, NOON + 3_602)
    clock.seconds = NOON + 4_000
    collect(backend)

    assert place.rows() == [(0, "shop.send", 2), (60, "shop.send", 2)]


@on_databases
def test_one_call_counts_a_part_of_what_is_much_and_the_next_goes_on(
    place, backend, clock, monkeypatch
):
    monkeypatch.setattr(ended_minutes, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(statistics, "COLLECTING_SECONDS", 0.0)
    for second in (1, 1, 1, 2, 3, 4, 5):  # six at one instant, which are read at once
        place.insert(2, states.SUCCEEDED, NOON + second)
    place.insert(5, states.FAILED, NOON + 70)
    clock.advance(500)

    calls = 1
    while backend.statistics.collect():
        calls += 1

    assert calls > 4
    found = total(backend)
    assert (found.done, found.failed) == (14, 5)


@on_databases
def test_first_count_goes_back_a_day(place, backend, clock):
    place.insert(1, states.SUCCEEDED, NOON - 25 * 3_600)
    place.insert(2, states.SUCCEEDED, NOON - 23 * 3_600)

    collect(backend)

    assert place.rows() == [(-23 * 60, "shop.send", 2)]


@on_databases
@pytest.mark.parametrize(("span", "days"), [(1, 2), (SUMMED, 8)])
def test_minutes_are_removed_after_two_days_and_their_sums_after_eight(
    place, backend, clock, span, days
):
    place.insert(1, states.SUCCEEDED, NOON + 1)
    clock.advance(400)
    collect(backend)
    clock.advance(days * 86_400 - 500)
    collect(backend)
    kept = place.rows(span)
    clock.advance(200)
    collect(backend)

    assert kept == [(0, "shop.send", 1)]
    assert place.rows(span) == []


@on_databases
def test_sum_of_a_half_hour_has_the_most_frequent_names(place, backend, clock):
    for number in range(MOST_NAMES):
        place.insert(2, states.SUCCEEDED, NOON + 1, task_name=f"often{number}")
    for number in range(3):
        place.insert(1, states.SUCCEEDED, NOON + 61, task_name=f"once{number}")
    clock.advance(130)
    collect(backend)

    found = {name: done for _, name, done in place.rows(SUMMED)}

    assert len(found) == MOST_NAMES + 1
    assert found[""] == 3
    assert len(place.rows()) == MOST_NAMES + 3


@on_databases
def test_count_that_was_late_is_in_the_sum(place, backend, clock):
    place.insert(2, states.SUCCEEDED, NOON + 1)
    place.insert(1, states.SUCCEEDED, NOON + 61)
    clock.advance(130)
    collect(backend)
    before = place.rows(SUMMED)
    place.insert(1, states.SUCCEEDED, NOON + 2)
    clock.advance(400)
    collect(backend)

    assert before == [(0, "shop.send", 3)]
    assert place.rows(SUMMED) == [(0, "shop.send", 4)]


@on_databases
def test_job_without_a_name_of_its_own_or_an_attempt_is_counted(place, backend, clock):
    place.insert(1, states.SUCCEEDED, NOON + 1, task_name=None, started_at=NOON + 9)
    place.insert(1, states.CANCELLED, NOON + 1, started_at=None, last_attempted_at=None)
    with place.engine.begin() as connection:
        jobs = place.tables.jobs
        later = update(jobs).where(jobs.c.state == states.SUCCEEDED)
        connection.execute(later.values(enqueued_at=NOON + 30, last_attempted_at=NOON + 8))
    clock.advance(70)
    collect(backend)

    found = total(backend)

    assert (found.done, found.cancelled, found.started) == (1, 1, 1)
    assert (found.waited_seconds, found.ran_seconds) == (0.0, 0.0)  # the clock was set back
    assert {name for name, _ in backend.statistics.by_task(0, 9)} == {"", "shop.send"}


def test_table_of_memory_is_bounded_in_time():
    clock = FakeClock(NOON)
    backend = MemoryBackend(clock=clock)
    run(backend, clock)
    clock.advance(86_400 + 120)
    backend.prune()

    assert backend.statistics.series(0, 1) == {}


def test_table_of_memory_is_bounded_without_a_worker():
    clock = FakeClock(NOON)
    backend = MemoryBackend(clock=clock)
    run(backend, clock)
    clock.advance(86_400 + 120)
    run(backend, clock)

    assert len(backend.statistics.series(0, 1)) == 1


@on_databases
def test_maintenance_of_a_worker_counts(place):
    past = time.time() - 180
    place.insert(3, states.SUCCEEDED, past)
    with JobQueue("sql", session_of(place.engine), table_prefix=place.prefix, threads=1) as queue:
        queue.start_worker()
        pause, until = threading.Event(), time.monotonic() + PATIENCE_SECONDS
        while not queue.backend.statistics.series(0, 1) and time.monotonic() < until:
            pause.wait(0.01)

        assert list(queue.backend.statistics.series(0, 1)) == [int(past // 60)]
        assert total(queue.backend).done == 3
