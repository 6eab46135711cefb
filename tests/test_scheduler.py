"""A worker enqueues the jobs of schedules by the clock on the wall, and runs them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from sqlqueues import KINDS, PATIENCE_SECONDS, Place, nothing, place_of
from tgext.asyncjob import JobQueue, Task, task
from tgext.asyncjob.task import scheduled_tasks
from tgext.asyncjob.worker.scheduler import Scheduler

EVERY = timedelta(seconds=1)

#: A tick must be enqueued so soon after its instant, in seconds, on a machine with other work.
SOON_SECONDS = 10.0


@pytest.fixture(scope="module", params=["memory", *KINDS])
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place | None]:
    if request.param == "memory":
        yield None
        return
    with place_of(request.param, tmp_path_factory.mktemp("scheduler")) as made:
        yield made


@pytest.fixture
def queue(place: Place | None) -> Iterator[JobQueue]:
    made = JobQueue(threads=2) if place is None else place.queue(threads=2)
    with made:
        yield made
        for schedule in made.schedules():
            made.backend.schedules.delete(schedule.name)
    if place is not None:
        place.empty()


@pytest.fixture
def declared(monkeypatch: Any) -> Task:
    """A task of a module that declares a schedule, while the test runs."""
    module = ModuleType("module_with_a_schedule")
    exec("def tidy(): pass", vars(module))
    module.tidy = task(every=EVERY)(module.tidy)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    made: Task = module.tidy
    return made


def ticks_of(queue: JobQueue, name: str) -> list[Any]:
    """The ticks that were enqueued, once there are two: on a busy machine some are skipped."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        ticks = queue.backend.schedules.ticks(name, 10)
        found = [tick for tick in ticks if tick.status == "enqueued"]
        if len(found) >= 2:
            return found
        threading.Event().wait(0.02)
    raise AssertionError("no two ticks were seen")


def test_idle_worker_enqueues_each_tick_in_time_and_runs_its_job(queue):
    queue.start_worker()
    queue.schedule("every second", nothing, every=EVERY)
    last, before = ticks_of(queue, "every second")[:2]

    assert (last.instant - before.instant) % EVERY == timedelta(0)
    assert last.instant > before.instant
    result = queue.result(last.uid)
    result.wait(PATIENCE_SECONDS)
    late = (result.enqueued_at - last.instant).total_seconds()
    assert -0.01 <= late < SOON_SECONDS


def test_declared_schedule_is_there_when_a_worker_starts(queue, declared):
    assert queue.schedules() == []
    queue.start_worker()
    ticks_of(queue, declared.name)

    [schedule] = queue.schedules()
    assert (schedule.name, schedule.task) == ("module_with_a_schedule.tidy",) * 2
    assert (schedule.is_declared, schedule.every) == (True, EVERY)


def test_call_of_run_pending_enqueues_what_is_due(queue, declared):
    queue.run_pending()
    until = time.monotonic() + PATIENCE_SECONDS
    while queue.run_pending() == 0:
        assert time.monotonic() < until
        threading.Event().wait(0.05)

    [schedule] = queue.schedules()
    assert queue.result(schedule.ticks()[0].uid).status == "SUCCESSFUL"


def test_schedule_of_another_process_is_seen_by_an_idle_worker(place, queue):
    if place is None:
        return  # no other process has its schedules
    queue.start_worker()
    queue.result(queue.perform(nothing)).wait(PATIENCE_SECONDS)
    with place.other_queue() as other:
        other.schedule("theirs", nothing, every=EVERY)

        ticks_of(other, "theirs")


class Broken:
    """A store that cannot be reached."""

    def __init__(self) -> None:
        self.calls = 0

    def due_at(self) -> float:
        return 0.0

    def declare(self, _schedules: Any) -> None: ...

    def fire(self) -> int:
        self.calls += 1
        raise ConnectionError


def test_scheduler_rests_while_the_store_cannot_be_reached():
    store: Any = Broken()
    scheduler = Scheduler(store)
    with pytest.raises(ConnectionError):
        scheduler.run()
    scheduler.run()

    assert store.calls == 1
    assert 0 < scheduler.due_at - time.monotonic() < 2


def test_tasks_with_a_schedule_are_found_at_their_paths_only(declared, monkeypatch):
    copy = task(every=EVERY)(declared.func)  # not what its path leads to
    monkeypatch.setitem(vars(sys.modules[__name__]), "copy_of_tidy", copy)

    assert scheduled_tasks() == [declared]
