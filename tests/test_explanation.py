"""Why a job does not run now, in sentences, the same on every backend."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from sqlqueues import ALL_KINDS, Place, nothing, place_or_memory, queue_in
from tgext.asyncjob import JobQueue, TaskResult, task

waits = task(nothing)
tries = task(queue_name="tries", max_attempts=2, backoff=3600)


@tries
def breaks() -> None:
    raise ValueError("not today")


@pytest.fixture(scope="module", params=ALL_KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place | None]:
    with place_or_memory(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def queue(place: Place | None) -> Iterator[JobQueue]:
    with queue_in(place) as made, made.as_current():
        yield made


def said(result: TaskResult, **options: Any) -> str:
    return "; ".join(result.explain(**options))


def test_nothing_is_said_exactly_of_the_job_that_the_next_claim_takes(queue):
    first, second = waits.enqueue(), waits.enqueue()

    assert first.explain() == []
    assert (first.queue_position(), second.queue_position()) == (0, 1)
    assert said(second) == "1 job of its queue is before it"
    assert queue.run_pending(1) == 1
    assert second.explain() == []
    assert said(first) == "it has ended, as SUCCESSFUL"
    assert first.queue_position() is None


def test_delayed_job_says_until_when(queue):
    result = waits.using(run_after=timedelta(hours=2)).enqueue()

    assert said(result).startswith("delayed until 20")
    assert "in 1h 59m" in said(result)
    assert result.queue_position() is None


def test_job_between_two_attempts_says_that_one_has_failed(queue):
    result = breaks.enqueue()
    queue.run_pending()

    assert "delayed until" in said(result)
    assert "its last attempt failed, and the next one begins then" in said(result)


def test_job_of_a_paused_queue_says_who_has_paused_it(queue):
    result = waits.enqueue()
    queue.backend.pause("default", "ada")

    assert said(result).startswith("its queue 'default' was paused by ada at 20")
    queue.resume("default")
    assert result.explain() == []


def test_running_job_says_in_which_attempt(queue):
    seen: list[str] = []

    def job() -> None:
        from tgext.asyncjob import asyncjob_result, asyncjob_running_uid

        seen.extend(asyncjob_result(asyncjob_running_uid()).explain())

    if queue.backend.is_shared:
        queue.backend.enqueue([])
        result = waits.enqueue()
        [claim] = queue.backend.claim("w", None, 1)
        seen.extend(result.explain())
        queue.backend.release([claim])
    else:
        queue.perform(job)
        queue.run_pending()
    assert seen == ["it runs, in attempt 1"]


def test_job_of_a_transaction_that_is_not_committed_says_so(queue):
    import transaction

    with queue.in_transaction():
        result = waits.enqueue()
        assert said(result) == "the transaction that enqueues it is not committed"
        transaction.abort()


def test_more_than_a_thousand_jobs_are_not_counted(queue):
    queue.backend.enqueue([queue.backend.prepare(each) for each in many(queue, 1_003)])
    result = waits.enqueue()

    assert result.queue_position() == 1_000
    assert said(result) == "1000 or more jobs of its queue are before it"


def many(queue: JobQueue, number: int) -> list[Any]:
    from tgext.asyncjob.call import Call
    from tgext.asyncjob.job import Job
    from tgext.asyncjob.task_options import DEFAULT_OPTIONS

    new_uid = queue.backend.new_uid
    return [Job(new_uid(), Call(nothing, (), None), DEFAULT_OPTIONS) for _ in range(number)]


def test_queue_that_no_worker_serves_is_said_where_it_is_asked(queue):
    result = waits.enqueue()

    assert result.explain() == []
    told = said(result, workers=True)
    assert ("no worker is alive" in told) == queue.backend.is_shared


def test_job_without_a_worker_says_how_one_of_the_fleet_is_started(place: Place | None) -> None:
    if place is None:
        return  # memory has no fleet
    queue = place.queue(engine="celery", broker_url="redis://127.0.0.1:1/0")
    with queue.as_current():
        told = said(waits.enqueue(), workers=True)
    place.close_queues()
    place.empty()

    assert "start one: python -m tgext.asyncjob celery -- worker" in told
