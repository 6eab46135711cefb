"""One task module from a thread to a fleet, and the engine changed while jobs wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transaction
from sqlalchemy.exc import DBAPIError
from webob import Request

from celery_fleet import PATIENCE_SECONDS, Fleet, OwnWorkers, fleet_of, until
from sqlqueues import PREFIX, Place, place_of, write_mapped, write_one, write_unflushed
from tgext.asyncjob import JobQueue, task
from tgext.asyncjob.web import Rights, WebApplication

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Iterator[Place]:
    with place_of("postgresql", tmp_path_factory.mktemp("sql")) as made:
        yield made
        transaction.abort()


@pytest.fixture
def fleet(place: Place, tmp_path: Path) -> Iterator[Fleet]:
    with fleet_of("redis", place.url, tmp_path) as made:
        yield made
    place.close_queues()
    place.empty()


#: Of the dashboard.
PAGES = ("/", "/jobs", "/failures", "/queues", "/schedules", "/workers", "/audit")

#: Of one module, which knows nothing of backends and engines.
TASKS = (task(write_mapped), task(priority=5, max_attempts=2)(write_unflushed))


def grown(queue: JobQueue, place: Place) -> tuple[list[Any], list[tuple[str, int]]]:
    """Run the tasks on a queue; return their results and effects."""
    with queue.as_current():
        results = [each.enqueue("grown") for each in TASKS]
        values = [result.wait(PATIENCE_SECONDS).return_value for result in results]
    until(lambda: len(place.written()) == 2, "all effects")
    written = place.written()
    place.empty()
    return values, written


def test_one_task_module_grows_from_a_thread_to_a_fleet(place: Place, fleet: Fleet) -> None:
    found = []
    with JobQueue("memory", session=place.Session) as memory:
        memory.start_worker()
        found.append(grown(memory, place))
    with place.queue(threads=1) as sql:
        sql.start_worker()
        found.append(grown(sql, place))
    fleet.start("-c", "1")
    with fleet.queue() as queue:
        found.append(grown(queue, place))

    assert found == [found[0]] * 3
    assert found[0][0] == [7, None]


def test_engine_is_changed_both_ways_while_jobs_wait_and_both_kinds_run(
    place: Place, fleet: Fleet, tmp_path: Path
) -> None:
    names = []

    def enqueue(queue: JobQueue, kind: str, number: int) -> None:
        for each in range(number):
            names.append(f"{kind} {each:03}")
            queue.perform(write_one, names[-1])

    own = place.queue()
    enqueue(own, "before", 50)  # without a message
    fleet.start("-c", "1")
    until(lambda: len(place.written()) == 50, "the backlog of own workers")
    with fleet.queue() as queue, OwnWorkers(place.url, tmp_path, "--threads", "1"):
        enqueue(queue, "both", 100)
        enqueue(own, "both own", 100)
        until(lambda: len(place.written()) == 250, "what both run")
        fleet.workers[0].stop()
        enqueue(queue, "after", 50)  # with messages that nobody receives any more
        until(lambda: len(place.written()) == 300, "the backlog of Celery")

    assert sorted(name for name, _ in place.written()) == sorted(names)


def test_dashboard_and_results_need_no_right_to_write(place: Place) -> None:
    """As on a read replica: here each transaction of the session is read-only."""
    queue = place.queue()
    uid = queue.perform(write_one, "never")
    read_only = f"{place.url}?options=-c%20default_transaction_read_only%3Don"
    with JobQueue("sql", url=read_only, table_prefix=PREFIX, threads=0) as replica:
        pages = WebApplication(replica, rights=lambda _environ: Rights("ann", may_view=True))
        answers = [Request.blank(path).get_response(pages) for path in PAGES]
        shown = replica.result(uid).status
        with pytest.raises(DBAPIError, match="read-only"):
            replica.perform(write_one, "never")
    transaction.abort()
    place.close_queues()
    place.empty()

    assert [answer.status_int for answer in answers] == [200] * len(PAGES)
    assert shown == "READY"
