"""``on_failure``: what an application is told of each job that has finally failed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sqlqueues
from sqlchildren import ForkServer
from sqlqueues import (
    ALL_KINDS,
    Place,
    kill_own_process,
    nothing,
    place_or_memory,
    queue_in,
    write_one,
)
from tgext.asyncjob import ConfigError, JobQueue, TaskResult, failure_hook, task
from tgext.asyncjob.failure_hook import TELLING

PATIENCE_SECONDS = 20

told: list[TaskResult] = []


def tell(result: TaskResult) -> None:
    told.append(result)


def tell_and_write(result: TaskResult) -> None:
    """As an application does: with a row of its own; killed in the middle if a file says so."""
    write_one(f"told of {result.name}")
    kill = Path(os.environ.get("KILL_IN_HOOK", "nowhere"))
    if kill.exists():
        kill.unlink()
        kill_own_process()


@task(max_attempts=2, backoff=0, queue_name="mails")
def breaks(word: str) -> None:
    raise ValueError(word)


@pytest.fixture(scope="module", params=ALL_KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place | None]:
    with place_or_memory(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def queue(place: Place | None) -> Iterator[JobQueue]:
    told.clear()
    with queue_in(place) as made:
        yield made


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    prefix = {sqlqueues.PREFIX_VARIABLE: sqlqueues.PREFIX}
    with ForkServer("sqlqueues", "test_failure_hook", **prefix) as made:
        yield made


def test_hook_is_called_once_for_each_failure_when_it_is_final(queue):
    assert queue.on_failure(tell) is tell
    uid = queue.perform(breaks, "bad")
    queue.perform(nothing)

    assert queue.run_pending() == 4  # two attempts, the one that succeeds, and the hook's

    [result] = told
    assert (result.id, result.status, result.attempts) == (uid, "FAILED", 2)
    assert [error.message for error in result.errors] == ["bad", "bad"]
    queue.result(uid).retry()
    assert queue.run_pending() == 3
    assert len(told) == 2


def fail(result: TaskResult) -> None:
    told.append(result)
    raise LookupError(f"no address for {result.name}")


def test_hook_that_raises_is_tried_again_as_a_job_of_the_queue_that_failed(queue):
    queue.on_failure(fail)
    queue.perform(breaks, "bad")
    queue.run_pending()

    [hook] = queue.jobs(name=TELLING, queue_name="mails").results
    assert (hook.status, hook.attempts) == ("READY", 1)  # its next attempt comes after a while
    assert hook.errors[0].message == "no address for test_failure_hook.breaks"


def test_failure_of_the_hook_is_told_to_nobody(queue, monkeypatch):
    monkeypatch.setattr(failure_hook, "ATTEMPTS", 1)
    queue.on_failure(fail)
    queue.perform(breaks, "bad")
    queue.run_pending()

    assert len(told) == 1
    [hook] = queue.jobs(name=TELLING).results
    assert hook.status == "FAILED"


def test_job_that_was_retried_meanwhile_is_not_told_of(queue):
    queue.on_failure(tell)
    uid = queue.perform(breaks.using(max_attempts=1), "bad")
    assert queue.run_pending(1) == 1
    result = queue.result(uid)
    assert result.retry() is True
    assert result.cancel() is True

    assert queue.run_pending() == 1
    assert told == []


def test_job_that_was_removed_meanwhile_is_not_told_of(queue, caplog):
    queue.on_failure(tell)
    uid = queue.perform(breaks.using(max_attempts=1), "bad")
    assert queue.run_pending(1) == 1
    if queue.backend.is_shared:
        assert queue.backend.purge([uid]) == 1
    else:
        queue.backend._retention_seconds = -1.0
        assert queue.backend.prune() == 1

    assert queue.run_pending() == 1
    assert told == []
    assert queue.jobs(status="FAILED", name=TELLING).results == []
    assert f"job={uid} has failed, and was removed" in caplog.text


def test_hook_of_the_ini_file_is_found_by_its_path(place):
    told.clear()
    options = {"on_failure": "test_failure_hook:tell"}
    queue = JobQueue(threads=0, **options) if place is None else place.queue(**options)
    uid = queue.perform(breaks, "bad")
    queue.run_pending()
    assert [result.id for result in told] == [uid]
    if place is None:
        queue.close()
    else:
        place.close_queues()
        place.empty()


def test_hook_that_is_not_there_fails_with_its_path_and_what_to_give(place):
    options = {"on_failure": "test_failure_hook:told_nobody"}
    queue = JobQueue(threads=0, **options) if place is None else place.queue(**options)
    queue.perform(breaks, "bad")
    queue.run_pending()
    [hook] = queue.jobs(name=TELLING).results
    assert "test_failure_hook:told_nobody" in hook.errors[0].message
    if place is None:
        queue.close()
    else:
        place.close_queues()
        place.empty()


@pytest.mark.parametrize("path", ["myapp.jobs", "myapp jobs:f", ":f", "a:", "a:b:c"])
def test_path_that_can_be_none_is_refused(path):
    with pytest.raises(ConfigError, match="on_failure: expected the path of a function, as my"):
        JobQueue(threads=0, on_failure=path)


def test_hook_that_cannot_be_called_is_refused(queue):
    with pytest.raises(ConfigError, match="on_failure: expected a function, got 7"):
        queue.on_failure(7)


def test_worker_that_dies_in_the_hook_is_followed_by_another_that_calls_it(
    place, fork_server, tmp_path
):
    if place is None:
        pytest.skip("what is in memory ends with the process")
    queue = place.queue()
    queue.perform(breaks, "bad")
    kill = tmp_path / "kill"
    kill.touch()

    arguments = {"url": place.url, "kill": str(kill)}
    assert fork_server.run("test_failure_hook:work", **arguments) == -9
    assert place.written() == []
    rescue(queue)
    assert fork_server.run("test_failure_hook:work", **arguments) == 0

    assert place.written() == [("told of test_failure_hook.breaks", 1)]
    place.close_queues()
    place.empty()


def test_job_that_has_killed_its_workers_is_told_of(place, fork_server):
    if place is None:
        pytest.skip("what is in memory ends with the process")
    queue = place.queue(max_crashes=1, on_failure="test_failure_hook:tell_and_write")
    queue.perform(kill_own_process)

    arguments = {"url": place.url, "kill": "nowhere"}
    assert fork_server.run("test_failure_hook:work", **arguments) == -9
    rescue(queue)
    assert fork_server.run("test_failure_hook:work", **arguments) == 0

    assert place.written() == [("told of sqlqueues.kill_own_process", 1)]
    place.close_queues()
    place.empty()


def work(url: str, kill: str) -> None:
    """Be a worker process with the hook, until all has ended."""
    os.environ["KILL_IN_HOOK"] = kill
    sqlqueues.work_until_all_have_ended(url, on_failure="test_failure_hook:tell_and_write")


def rescue(queue: JobQueue) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not queue.backend.rescue():
        assert time.monotonic() < until, "no job was rescued"
