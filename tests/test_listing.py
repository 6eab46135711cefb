"""``JobQueue.jobs``: pages of TaskResults, the same on every backend; what is refused, and how.

What is found and in which order is the contract's of ``backends/listing.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from sqlqueues import ALL_KINDS, Place, nothing, place_or_memory, queue_in
from tgext.asyncjob import ConfigError, JobQueue, TaskResultStatus


def adds(one: int, other: int) -> int:
    return one + other


def breaks(_text: str) -> None:
    raise ValueError("three is not a colour")


@pytest.fixture(scope="module", params=ALL_KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place | None]:
    with place_or_memory(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def jobs(place: Place | None) -> Iterator[JobQueue]:
    with queue_in(place) as made:
        yield made


def test_user_gets_the_own_jobs_and_no_others(jobs):
    """Some names are the same for a database, or as far as it lists jobs by them."""
    users = ["ann", "ann ", "Ann", "a" * 300, "a" * 300 + "b"]
    now = [""]
    jobs.bind(capture=lambda: {"user": now[0]})
    for now[0] in users:
        jobs.perform(nothing)

    shown = {}
    for now[0] in users:
        shown[now[0]] = [each.enqueued_by for each in jobs.mine()]

    assert shown == {user: [user] for user in users}


def test_results_of_a_page_are_those_that_result_gives(jobs):
    with jobs.as_current():
        failed = jobs.perform(breaks, "red")
        added = jobs.perform(adds, 1, other=2)
        jobs.run_pending()
        waiting = jobs.perform(nothing)

    page = jobs.jobs()

    assert [result.id for result in page.results] == [waiting, added, failed]
    assert page.next is None
    for result in page.results:
        alone = jobs.result(result.id)
        assert result.__json__() == alone.__json__()
        assert (result.args, result.kwargs) == (alone.args, alone.kwargs)
        assert [each.traceback for each in result.errors] == [
            each.traceback for each in alone.errors
        ]
    assert page.results[1].return_value == 3
    assert page.results[2].errors[0].message == "three is not a colour"


def test_every_job_is_on_one_page(jobs):
    uids = [jobs.perform(nothing) for _ in range(7)]
    jobs.run_pending(3)
    seen: list[str] = []
    after = None
    while True:
        page = jobs.jobs(after=after, limit=2)
        seen += [result.id for result in page.results]
        after = page.next
        if after is None:
            break

    assert sorted(seen) == sorted(uids)
    assert len(jobs.jobs(status="READY").results) == 4
    assert len(jobs.jobs(status=TaskResultStatus.SUCCESSFUL, name="sqlqueues.nothing").results) == 3


def test_result_of_a_page_is_cancelled_retried_and_refreshed_as_any_other(jobs):
    jobs.perform(breaks, "red")
    jobs.run_pending()
    [result] = jobs.jobs(error="ValueError").results
    assert result.retry() is True
    [result] = jobs.jobs(status="READY", error="builtins.ValueError").results
    assert result.cancel() is True
    result.refresh()
    assert result.status is TaskResultStatus.CANCELLED


def test_paused_queue_is_told_with_its_user_and_time(jobs):
    before = datetime.now(timezone.utc) - timedelta(minutes=1)
    assert jobs.pause("default") is True
    uid = jobs.perform(nothing)
    assert jobs.run_pending() == 0
    [paused] = jobs.paused()
    assert (paused.queue_name, paused.user) == ("default", None)
    assert before < paused.since < before + timedelta(minutes=2)
    assert jobs.resume("default") is True
    assert jobs.run_pending() == 1
    assert jobs.result(uid).status is TaskResultStatus.SUCCESSFUL


@pytest.mark.parametrize(
    ("narrowed", "told"),
    [
        ({"status": "DONE"}, "status: expected one of READY, RUNNING, SUCCESSFUL, FAILED, CANC"),
        ({"status": 3}, "status: expected a text, got 3"),
        ({"name": [7]}, "name: expected a text, got 7"),
        ({"since": 3600}, "since: expected an aware datetime, got 3600"),
        ({"until": datetime(2026, 1, 1)}, "until: expected an aware datetime"),  # noqa: DTZ001
        ({"after": "page 2"}, "after: expected the ``next`` of a page of jobs, got 'page 2'"),
        ({"after": f"{2**63}-"}, f"after: expected the ``next`` of a page of jobs, got '{2**63}-'"),
        ({"after": "1-nan"}, "after: expected the ``next`` of a page of jobs, got '1-nan'"),
        ({"after": 7}, "after: expected the ``next`` of a page of jobs, got 7"),
        ({"limit": 0}, "limit: expected 1 to 1000 jobs, got 0"),
        ({"limit": 1001}, "limit: expected 1 to 1000 jobs, got 1001"),
        ({"limit": True}, "limit: expected 1 to 1000 jobs, got True"),
    ],
    ids=str,
)
def test_value_that_is_none_is_refused(narrowed, told):
    with JobQueue(threads=0) as queue, pytest.raises(ConfigError) as raised:
        queue.jobs(**narrowed)

    assert told in str(raised.value)


def test_name_that_no_queue_can_have_is_not_paused():
    with JobQueue(threads=0) as queue, pytest.raises(ConfigError, match="queue_name: expected"):
        queue.pause("mail, bulk")


def test_jobs_of_a_queue_beside_it_are_not_listed(tmp_path: Path):
    with JobQueue(threads=0) as one, JobQueue(threads=0) as other:
        one.perform(nothing)

        assert len(one.jobs().results) == 1
        assert other.jobs().results == []
