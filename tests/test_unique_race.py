"""Two transactions enqueue one key: the one that is committed later gives way, and one that is
rolled back counts for nothing, in both orders and at once, on each database.

    both have enqueued --> barrier --> commit or abort: first | second | at once --> decided

With LONG=1 in the environment a thousand rounds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
import transaction

from sqlqueues import KINDS, PATIENCE_SECONDS, Place, nothing, place_of
from tgext.asyncjob import JobQueue, Task, task
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import Job, WorkerId
from tgext.asyncjob.task import keys_for

ROUNDS = int(os.environ.get("ROUNDS", "1000" if os.environ.get("LONG") else "6"))

TASKS = {
    "waiting": task(unique="waiting", unique_key=str)(nothing),
    "unfinished": task(unique="unfinished", unique_key=str)(nothing),
    "period": task(unique=timedelta(hours=1), unique_key=str)(nothing),
    "coalesced": task(coalesce=True, unique_key=str)(nothing),
}


class Plan(NamedTuple):
    """Which transaction ends first, None: both at once; and which of them are committed."""

    first: int | None
    committed: tuple[int, ...]


PLANS = [
    *(Plan(first, (0, 1)) for first in (0, 1, None)),
    *(Plan(first, (1,)) for first in (0, 1, None)),
]


@pytest.fixture(scope="module", params=KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def queues(place: Place) -> Iterator[list[JobQueue]]:
    """Two, as two processes have them."""
    yield [place.other_queue(), place.other_queue()]
    place.close_queues()
    place.empty()


class Round:
    """One key, two transactions."""

    def __init__(self, queues: list[JobQueue], of: Task, plan: Plan, key: str) -> None:
        self._queues = queues
        self._task = of.using(unique_key=key)
        self._plan = plan
        self._both_have_enqueued = threading.Barrier(2, timeout=PATIENCE_SECONDS)
        self._first_has_ended = threading.Event()

    def run(self, number: int) -> str:
        """What a request does; return the uid that it was given."""
        queue = self._queues[number]
        with queue.as_current(), queue.in_transaction():
            result = self._task.enqueue()
            assert not result.is_duplicate  # nobody knows yet
            self._both_have_enqueued.wait()
            if self._plan.first not in (None, number):
                assert self._first_has_ended.wait(PATIENCE_SECONDS)
            if number in self._plan.committed:
                transaction.commit()
            else:
                transaction.abort()
            self._first_has_ended.set()
        return result.id


@pytest.mark.timeout(120 + ROUNDS)
@pytest.mark.parametrize("scope", TASKS)
def test_transaction_that_is_committed_later_gives_way(queues, place, scope):
    with ThreadPoolExecutor(2) as pool:
        for number in range(ROUNDS):
            ends = PLANS[number % len(PLANS)]
            its_round = Round(queues, TASKS[scope], ends, f"{scope} {number}")
            uids = list(pool.map(its_round.run, range(2)))
            for queue in queues:
                queue.backend._admissions.settle()

            results = [queues[0].result(uids[each]) for each in ends.committed]
            assert len({result.id for result in results}) == 1
            assert results[0].id in uids
            assert sum(not result.is_duplicate for result in results) == 1
            if len(results) == 2 and ends.first is not None:
                assert results[0].id == uids[ends.first]
            assert [row.uid for row in place.jobs()] == [results[0].id]
            with place.engine.begin() as connection:
                for table in (place.tables.jobs, place.tables.unique_keys):
                    connection.execute(table.delete())


@pytest.mark.parametrize("scope", TASKS)
def test_what_a_killed_process_has_not_decided_another_one_decides(queues, place, scope):
    one, other = queues
    kept = TASKS[scope].using(unique_key="k")
    jobs = []
    for queue in queues:
        backend = queue.backend
        backend._admissions.request = lambda _keys: None  # the process is killed after its commit
        with queue.as_current():
            jobs.append(kept.enqueue().id if scope == "coalesced" else stored(queue, kept))
    assert one.backend.claim(WorkerId("one"), None, 10) == []

    for _ in range(20):  # on SQLite not each round looks
        other.backend.rescue()

    assert one.result(jobs[0]).id == one.result(jobs[1]).id
    assert len(other.backend.claim(WorkerId("other"), None, 10)) == 1


def stored(queue: JobQueue, of: Task) -> str:
    """The uid of a job that is stored although its key may be asked for already."""
    call = Call(of.func, (), None)
    job = Job(queue.backend.new_uid(), call, of, keys=keys_for(call, of))
    queue.backend.enqueue([job])
    return job.uid


def test_row_that_was_changed_gives_its_arguments_to_no_other_job(queues, place):
    queue = queues[0]
    kept = TASKS["coalesced"].using(unique_key="k")
    with queue.as_current():
        first = kept.enqueue()
    assert queue.backend.claim(WorkerId("settles"), ["nothing"], 1) == []
    queue.backend._admissions.request = lambda _keys: None
    changed = stored(queue, kept)
    jobs = place.tables.jobs
    with place.engine.begin() as connection:
        connection.execute(
            jobs.update().where(jobs.c.uid == changed).values(payload=jobs.c.payload.concat(" "))
        )

    key = keys_for(Call(kept.func, (), None), kept).unique.key
    queue.backend._admissions._unique_admission.admit(key)

    assert queue.run_pending() == 1
    assert queue.result(first.id).status == "SUCCESSFUL"
    result = queue.result(changed)
    assert (result.id, result.status) == (changed, "FAILED")
    assert result.errors[0].exception_class_path.endswith("BadSignature")
