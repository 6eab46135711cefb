"""Many calls at once: all are enqueued or none, on every backend, in the caller's transaction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import transaction
from sqlalchemy import event

from sqlqueues import ALL_KINDS, Place, place_or_memory, queue_in, write_one
from tgext.asyncjob import BadCall, JobQueue, NotSerializable, QueueFull, task
from tgext.asyncjob.backends.sql import insertion
from tgext.asyncjob.call import Call

ran: list[Any] = []


@pytest.fixture(scope="module", params=ALL_KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place | None]:
    with place_or_memory(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def queue(place: Place | None) -> Iterator[JobQueue]:
    ran.clear()
    with queue_in(place) as made:
        yield made


def note(*args: Any, **kwargs: Any) -> None:
    ran.append((args, kwargs))


@task(priority=3)
def add(one: int, other: int = 10) -> int:
    ran.append((one, other))
    return one + other


def test_calls_become_jobs_in_their_order(queue):
    own = Call(note, (4,), {"five": 5})

    uids = queue.perform_many(note, [(1, "two"), {"three": 3}, own, ()])

    assert len(set(uids)) == 4
    assert queue.run_pending() == 4
    assert ran == [((1, "two"), {}), ((), {"three": 3}), ((4,), {"five": 5}), ((), {})]
    assert [queue.result(uid).status for uid in uids] == ["SUCCESSFUL"] * 4


def test_task_gives_the_results_of_its_jobs_with_its_options(queue):
    queue.perform(note, "of a lower priority")
    with queue.as_current():
        results = add.enqueue_many((number,) for number in range(3))
        [later] = add.using(run_after=timedelta(days=1)).enqueue_many([{"one": 7, "other": 8}])

    assert [result.args for result in results] == [(0,), (1,), (2,)]
    assert queue.run_pending() == 4
    assert ran[:3] == [(0, 10), (1, 10), (2, 10)]
    for result in results:
        result.refresh()
    assert [result.return_value for result in results] == [10, 11, 12]
    assert later.status == "READY"


def test_results_of_many_jobs_are_not_read_one_by_one(queue, place):
    if place is None:
        pytest.skip("statements")
    queue.perform(note)  # the first one looks at the tables
    read: list[str] = []

    def catch(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("SELECT"):
            read.append(statement)

    engine = queue.backend._dialect.engine
    event.listen(engine, "before_cursor_execute", catch)
    with queue.as_current():
        results = add.enqueue_many((number,) for number in range(50))
    event.remove(engine, "before_cursor_execute", catch)

    assert read == []
    assert {result.status for result in results} == {"READY"}
    assert queue.run_pending() == 51


def test_many_calls_are_more_than_one_statement_takes(queue, monkeypatch):
    monkeypatch.setattr(insertion, "AT_ONCE", 100)

    uids = queue.perform_many(note, ((number,) for number in range(234)))

    assert queue.run_pending() == 234
    assert [args[0] for args, _ in ran] == list(range(234))
    assert len(uids) == 234


def test_calls_belong_to_the_transaction_of_their_caller(queue, place):
    with queue.in_transaction():
        queue.perform_many(note, [(1,), (2,)])
        transaction.abort()
        [uid] = queue.perform_many(note, [(3,)])
        savepoint = transaction.savepoint()
        queue.perform_many(note, [(4,), (5,)])
        savepoint.rollback()
        transaction.commit()

    assert queue.run_pending() == 1
    assert ran == [((3,), {})]
    assert queue.result(uid).status == "SUCCESSFUL"


def test_job_enqueues_many_with_its_own_commit(place):
    if place is None:
        pytest.skip("a commit of the database of the jobs")
    queue = place.queue()
    with queue.as_current():
        queue.perform(write_many, "row", 3)
        assert queue.run_pending() == 4
    assert [text for text, _ in place.written()] == ["row 0", "row 1", "row 2"]
    place.close_queues()
    place.empty()


def write_many(text: str, number: int) -> None:
    from tgext.asyncjob.current import current_queue

    current_queue().perform_many(write_one, ((f"{text} {each}",) for each in range(number)))


def test_nothing_is_enqueued_for_no_calls(queue):
    assert queue.perform_many(note, []) == []
    with queue.as_current():
        assert add.enqueue_many(()) == []
    assert queue.run_pending() == 0


@pytest.mark.parametrize(
    ("calls", "told"),
    [
        ([(1,), (1, 2, 3)], "call 2, and none is enqueued: the arguments do not fit"),
        ([(1,), (2,), [3]], "call 3, and none is enqueued: expected a tuple of positional argum"),
        (["ab"], "call 1, and none is enqueued: expected a tuple"),
        ([{1: 2}], "call 1, and none is enqueued: expected a tuple"),
        ([(1,), Call(note, (), None)], "call 2, and none is enqueued: expected a Call of test_enq"),
    ],
    ids=["too many", "a list", "a text", "no name", "another call"],
)
def test_call_that_cannot_be_made_is_named_and_none_is_enqueued(queue, calls, told):
    with pytest.raises(BadCall) as raised:
        queue.perform_many(add, calls)

    assert told in str(raised.value)
    assert queue.run_pending() == 0


def test_argument_that_cannot_be_stored_is_named_and_none_is_enqueued(queue, place):
    if place is None:
        pytest.skip("memory stores any object")
    with pytest.raises(NotSerializable, match="call 2, and none is enqueued: "):
        queue.perform_many(note, [(1,), (threading.Lock(),)])
    assert queue.run_pending() == 0


def test_error_of_the_callers_own_iterable_is_raised_as_it_is(queue):
    def calls() -> Iterator[Any]:
        yield (1,)
        raise LookupError("no more rows")

    with pytest.raises(LookupError, match="no more rows"):
        queue.perform_many(note, calls())
    assert queue.run_pending() == 0


def test_bound_of_the_queue_counts_all_of_them():
    with JobQueue(threads=0, max_queued=3) as queue:
        queue.perform(note)
        with pytest.raises(QueueFull):
            queue.perform_many(note, [(1,), (2,), (3,)])
        queue.perform_many(note, [(1,), (2,)])
        with pytest.raises(QueueFull):
            queue.perform(note)
        queue.perform_many(note, [])
