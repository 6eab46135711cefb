"""What workers in other processes promise, whatever wakes them.

A test module subclasses ``WorkerContract``. Nothing in here knows how workers are woken.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import pytest
import transaction

from celery_fleet import PATIENCE_SECONDS, until
from sqlqueues import Place, write_and_fail, write_one, write_several
from tgext.asyncjob import (
    JobQueue,
    TaskResultStatus,
    asyncjob_running_uid,
    asyncjob_set_progress,
    task,
)
from tgext.asyncjob.backends.sql import states

READY, RUNNING = TaskResultStatus.READY, TaskResultStatus.RUNNING
SUCCESSFUL, FAILED = TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED
CANCELLED = TaskResultStatus.CANCELLED


class Workers(Protocol):
    """Processes that run jobs."""

    def queue(self) -> JobQueue:
        """Make the queue of a process that only enqueues."""


# -- jobs


def write_slowly(text: str, seconds: float = 30.0) -> None:
    """Write a row, and take long."""
    write_one(text)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)


def write_and_wait(text: str, path: str, seconds: float = 60.0) -> None:
    """Write a row, and go on until a file is there."""
    write_one(text)
    end = time.monotonic() + seconds
    while not Path(path).exists() and time.monotonic() < end:
        time.sleep(0.01)


def start_waiting(queue: JobQueue, folder: Path, name: str = "work") -> tuple[str, Path]:
    """Enqueue a job that waits for a file; return its uid and the file once it runs."""
    path = folder / f"{name}.file"
    uid = queue.perform(write_and_wait, name, str(path))
    until(lambda: queue.result(uid).status is RUNNING, "a running job")
    return uid, path


def report_until_told(text: str) -> None:
    """Report progress, until it is cancelled."""
    for number in range(3000):
        asyncjob_set_progress(number, text)
        time.sleep(0.02)


def tell_uid() -> str | None:
    """Return its own uid."""
    return asyncjob_running_uid()


flaky = task(max_attempts=3, backoff=0)(write_and_fail)
timed = task(timeout=0.5, max_attempts=1)(write_slowly)
mail = task(queue_name="mail")(write_one)
first, last = task(priority=50)(write_one), task(priority=-50)(write_one)


class WorkerContract:
    """The promises.

    The module gives two fixtures of its own scope: ``place``, the database, and ``workers``,
    processes that run the jobs of all queues, two at a time or more, from test to test.
    """

    @pytest.fixture
    def queue(self, workers: Workers, place: Place) -> Iterator[JobQueue]:
        with workers.queue() as made, made.as_current():
            yield made
        transaction.abort()
        place.close_queues()
        place.empty()

    def test_committed_job_runs_with_its_work_and_its_result(
        self, queue: JobQueue, place: Place
    ) -> None:
        with queue.session_scope():
            uid = queue.perform(write_one, "hello")

        assert queue.result(uid).wait(PATIENCE_SECONDS).return_value == "HELLO"
        assert place.written() == [("hello", 1)]

    def test_aborted_job_never_was(self, queue: JobQueue, place: Place) -> None:
        def enqueue_and_fail() -> None:
            with queue.session_scope():
                queue.perform(write_one, "never")
                raise RuntimeError("no")

        with pytest.raises(RuntimeError, match="no"):
            enqueue_and_fail()
        queue.result(queue.perform(write_one, "after it")).wait(PATIENCE_SECONDS)

        assert place.written() == [("after it", 1)]

    def test_many_jobs_of_one_commit_run_once_each(self, queue: JobQueue, place: Place) -> None:
        with queue.session_scope():
            for number in range(200):
                queue.perform(write_one, f"{number:03}")

        until(lambda: len(place.written()) == 200, "all effects")
        assert place.written() == [(f"{number:03}", 1) for number in range(200)]

    def test_jobs_run_at_once_in_several_processes(self, queue: JobQueue) -> None:
        uids = [queue.perform(report_until_told, f"{number}") for number in range(2)]

        until(lambda: all(queue.result(uid).status is RUNNING for uid in uids), "two at once")
        for uid in uids:
            queue.result(uid).cancel()
            queue.result(uid).wait(PATIENCE_SECONDS)

    def test_job_knows_its_uid_and_enqueues_others(self, queue: JobQueue, place: Place) -> None:
        uid = queue.perform(tell_uid)
        queue.perform(write_several, "some")

        assert queue.result(uid).wait(PATIENCE_SECONDS).return_value == uid
        until(lambda: ("some follow-up", 1) in place.written(), "the job of a job")

    def test_job_that_fails_is_tried_again_and_each_error_is_kept(self, queue: JobQueue) -> None:
        result = flaky.enqueue("flaky")

        result.wait(PATIENCE_SECONDS)
        assert result.status is FAILED
        assert result.attempts == 3
        assert len(result.errors) == 3

    def test_job_over_its_timeout_fails_without_a_trace_of_its_work(
        self, queue: JobQueue, place: Place
    ) -> None:
        result = timed.enqueue("slow").wait(PATIENCE_SECONDS)

        assert result.status is FAILED
        assert "JobTimeout" in result.errors[0].exception_class_path
        assert place.written() == []

    def test_job_that_runs_reports_and_is_cancelled(self, queue: JobQueue) -> None:
        uid = queue.perform(report_until_told, "so far")

        until(lambda: (queue.progress(uid) or (-1,))[0] > 3, "progress")
        assert queue.result(uid).cancel()
        assert queue.result(uid).wait(PATIENCE_SECONDS).status is CANCELLED

    def test_delayed_job_runs_when_it_is_due(self, queue: JobQueue) -> None:
        begun = time.monotonic()
        task(write_one).using(run_after=timedelta(seconds=0.5)).enqueue("later").wait(
            PATIENCE_SECONDS
        )

        assert time.monotonic() - begun >= 0.5

    def test_job_of_another_queue_runs_too(self, queue: JobQueue) -> None:
        assert mail.enqueue("letter").wait(PATIENCE_SECONDS).return_value == "LETTER"

    def test_paused_queue_runs_nothing_until_it_is_resumed(
        self, queue: JobQueue, place: Place
    ) -> None:
        queue.pause("default")
        uid = queue.perform(write_one, "paused")
        mail.enqueue("not paused").wait(PATIENCE_SECONDS)
        before = place.written()
        queue.resume("default")
        queue.result(uid).wait(PATIENCE_SECONDS)

        assert before == [("not paused", 1)]
        assert place.written() == [("not paused", 1), ("paused", 1)]

    def test_jobs_of_higher_priority_begin_first(self, queue: JobQueue, place: Place) -> None:
        queue.pause("default")
        with queue.session_scope():
            lasts = [last.enqueue(f"last {number}") for number in range(60)]
            firsts = [first.enqueue(f"first {number}") for number in range(60)]
        queue.resume("default")
        for each in (*firsts, *lasts):
            each.wait(PATIENCE_SECONDS)

        rows = sorted((row.started_at, row.rank) for row in place.jobs())
        ranks = [rank for _, rank in rows]
        of_a_claim = Counter(begun for begun, _ in rows)
        late = ranks[ranks.index(max(ranks)) :].count(min(ranks))
        # Only what another claim holds at that moment is passed over.
        assert late <= max(of_a_claim.values())

    def test_schedule_fires(self, queue: JobQueue, place: Place) -> None:
        schedule = queue.schedule("tick", task(write_one), ["tick"], every=timedelta(seconds=1))
        until(lambda: ("tick", 1) in place.written(), "a tick")
        schedule.delete()
        until(lambda: all(row.state in states.ENDED for row in place.jobs()), "the end of the last")

    def test_ended_job_runs_again_when_it_is_retried(self, queue: JobQueue, place: Place) -> None:
        uid = queue.perform(write_one, "twice")
        queue.result(uid).wait(PATIENCE_SECONDS)
        assert queue.result(uid).retry()

        until(lambda: place.written() == [("twice", 1)] * 2, "two runs")

    def test_job_that_was_not_announced_runs_too(self, queue: JobQueue, place: Place) -> None:
        with place.queue() as silent:
            silent.backend._announcer.announce = lambda *_, **__: None  # type: ignore[attr-defined]
            uid = silent.perform(write_one, "unannounced")

        assert queue.result(uid).wait(PATIENCE_SECONDS).return_value == "UNANNOUNCED"

    def test_workers_are_shown_and_explain_finds_nothing(self, queue: JobQueue) -> None:
        uid = queue.perform(write_one, "shown")
        queue.result(uid).wait(PATIENCE_SECONDS)
        until(lambda: len(queue.backend.overview.workers()) >= 1, "workers")  # type: ignore[attr-defined]

        assert queue.result(uid).explain(workers=True) != [""]
