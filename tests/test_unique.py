"""Of the jobs of a unique key at most one waits, is unfinished or is of a period: on every backend,
in the caller's transaction, whatever becomes of the jobs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import transaction

from backend_contract import ERROR
from sqlqueues import ALL_KINDS, PATIENCE_SECONDS, Place, nothing, place_or_memory, queue_in
from tgext.asyncjob import BadCall, ConfigError, JobQueue, TaskResult, UnknownJob, shared, task
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import READY, SUCCESSFUL, Claim, Job, Outcome, WorkerId
from tgext.asyncjob.task import keys_for

ran: list[Any] = []

#: What each name means is said at ``Policy``.
SCOPES: dict[str, Any] = {
    "waiting": "waiting", "unfinished": "unfinished", "period": timedelta(hours=1)
}  # fmt: skip

scopes = pytest.mark.parametrize("scope", SCOPES)


@pytest.fixture(scope="module", params=ALL_KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place | None]:
    with place_or_memory(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def queue(place: Place | None) -> Iterator[JobQueue]:
    ran.clear()
    during.clear()
    with queue_in(place) as made, made.as_current():
        yield made


def note(*args: Any, **kwargs: Any) -> None:
    ran.append((*args, *kwargs.values()))


@task(unique="waiting")
def waiting(*args: Any, **kwargs: Any) -> None:
    note(*args, **kwargs)


@task(unique="unfinished")
def unfinished(*args: Any, **kwargs: Any) -> None:
    note(*args, **kwargs)


@task(unique=timedelta(hours=1))
def period(*args: Any, **kwargs: Any) -> None:
    note(*args, **kwargs)


@task(coalesce=True, unique_key="newest", max_attempts=3, backoff=0)
def coalesced(*args: Any, **kwargs: Any) -> None:
    note(*args, **kwargs)
    for act in during:
        act()


#: What the next job does while it runs.
during: list[Any] = []


TASKS = {"waiting": waiting, "unfinished": unfinished, "period": period}


@scopes
def test_second_enqueue_gives_the_first_job(queue, scope):
    first = TASKS[scope].enqueue(1)
    second = TASKS[scope].enqueue(1)

    assert (first.is_duplicate, second.is_duplicate) == (False, True)
    assert first.id == second.id
    assert queue.run_pending() == 1
    assert ran == [(1,)]


@scopes
def test_other_arguments_are_another_key(queue, scope):
    found = [TASKS[scope].enqueue(1), TASKS[scope].enqueue(2), TASKS[scope].enqueue(1, x=2)]

    assert [each.is_duplicate for each in found] == [False] * 3
    assert queue.run_pending() == 3


@scopes
def test_two_enqueues_of_a_transaction_are_one_job(queue, scope):
    with queue.in_transaction():
        first = TASKS[scope].enqueue(1)
        second = TASKS[scope].enqueue(1)
        transaction.commit()

    assert first.id == second.id
    assert second.is_duplicate
    assert queue.run_pending() == 1


@scopes
def test_enqueue_that_is_rolled_back_counts_for_nothing(queue, scope):
    with queue.in_transaction():
        first = TASKS[scope].enqueue(1)
        transaction.abort()
    second = TASKS[scope].enqueue(1)

    assert not second.is_duplicate
    assert second.id != first.id
    assert queue.run_pending() == 1


def test_key_is_free_when_the_job_has_begun_has_ended_or_the_period_is_over(queue):
    for each in TASKS.values():
        each.enqueue(1)
    assert queue.run_pending() == 3

    again = {name: each.enqueue(1).is_duplicate for name, each in TASKS.items()}

    assert again == {"waiting": False, "unfinished": False, "period": True}


# -- what gives way


def two_of_one_key(queue: JobQueue) -> tuple[str, str]:
    """The uids of two jobs that two transactions have enqueued at once: the second gives way."""
    call = Call(unfinished.func, (1,), None)
    jobs = [
        Job(queue.backend.new_uid(), call, unfinished, keys=keys_for(call, unfinished))
        for _ in range(2)
    ]
    queue.backend.enqueue(jobs)
    queue.backend.claim(WorkerId("settles"), ["nothing"], 1)
    return jobs[0].uid, jobs[1].uid


def test_uid_of_a_job_that_gave_way_leads_to_the_first_one(queue):
    first, second = two_of_one_key(queue)

    result = queue.result(second)
    assert (result.id, result.status, result.is_duplicate) == (first, "READY", True)
    assert queue.progress(second) == (-1, None)
    assert result.queue_position() == 0
    assert set(queue.results.briefs([first, second])) == {first, second}
    assert queue.run_pending() == 1
    assert queue.results.wait_for_end(second, 5).status == "SUCCESSFUL"
    assert queue.progress(second) is None
    assert [each.id for each in queue.jobs().results] == [first]
    assert queue.results.retry(second)
    assert queue.results.cancel(second)
    assert queue.result(first).status == "CANCELLED"


def test_uids_lead_on_when_a_retried_job_gives_way_that_had_never_begun(queue, place):
    if place is None or place.kind == "sqlite":
        pytest.skip("nothing comes between a retry and its commit")
    first, second = two_of_one_key(queue)
    assert queue.results.cancel(first)
    # On MariaDB the default level locks gaps between uids, too.
    engine = place.engine.execution_options(isolation_level="READ COMMITTED")
    with engine.begin() as connection:
        assert queue.backend.retry(first, connection)
        third = unfinished.enqueue(1)
        queue.backend.claim(WorkerId("settles"), ["nothing"], 1)
    queue.backend.rescue()

    assert [queue.result(uid).id for uid in (first, second)] == [third.id, third.id]


def test_uids_of_a_removed_job_are_unknown_together(queue, place):
    first, second = two_of_one_key(queue)
    queue.run_pending()

    if place is None:
        queue.backend._retention_seconds = -1.0
        queue.backend.prune()
    else:
        queue.backend.purge([first])

    for uid in (first, second):
        with pytest.raises(UnknownJob):
            queue.result(uid)
    assert not unfinished.enqueue(1).is_duplicate


def test_thread_that_waits_for_a_job_that_gave_way_waits_for_the_first(queue):
    _first, second = two_of_one_key(queue)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(queue.results.wait_for_end, second, PATIENCE_SECONDS)
        queue.run_pending()

        assert ended.result().status == "SUCCESSFUL"


# -- what a transaction writes


@scopes
def test_transaction_that_cancels_a_job_may_enqueue_another_of_its_key(queue, scope):
    first = TASKS[scope].enqueue(1)
    with queue.in_transaction():
        assert first.cancel()
        second = TASKS[scope].enqueue(1)
        transaction.commit()

    assert not second.is_duplicate
    assert queue.run_pending() == 1
    assert queue.result(second.id).status == "SUCCESSFUL"
    assert queue.result(first.id).status == "CANCELLED"


@scopes
def test_enqueue_after_a_cancellation_that_is_rolled_back_leads_to_the_first_job(
    queue, place, scope
):
    if place is None:
        pytest.skip("memory cancels at once")
    first = TASKS[scope].enqueue(1)
    with queue.in_transaction():
        savepoint = transaction.savepoint(optimistic=True)
        assert first.cancel()
        savepoint.rollback()
        second = TASKS[scope].enqueue(1)
        transaction.commit()

    assert queue.run_pending() == 1
    assert queue.result(second.id).id == first.id


def test_waiting_job_that_begins_before_the_commit_is_followed_by_another(queue):
    first = waiting.enqueue(1)
    with queue.in_transaction():
        second = waiting.enqueue(1)
        assert (second.id, second.is_duplicate) == (first.id, True)
        [claim] = queue.backend.claim(WorkerId("w"), None, 1)
        transaction.commit()

    assert queue.run_pending() == 1
    assert ran == [(1,)]
    assert queue.backend.finish(claim, Outcome(SUCCESSFUL))


def test_waiting_job_that_still_waits_at_the_commit_is_the_only_one(queue):
    first = waiting.enqueue(1)
    with queue.in_transaction():
        assert waiting.enqueue(1).id == waiting.enqueue(1).id == first.id
        transaction.commit()

    assert queue.run_pending() == 1


def test_job_that_waits_again_gives_way_to_one_that_waits_by_then(queue):
    first = waiting.enqueue(1)
    [claim] = queue.backend.claim(WorkerId("w"), None, 1)
    second = waiting.enqueue(1)
    assert not second.is_duplicate
    queue.backend.claim(WorkerId("settles"), ["nothing"], 1)

    assert queue.backend.finish(claim, Outcome(READY, error=ERROR))

    assert queue.run_pending() == 1
    result = queue.result(first.id)
    assert (result.id, [each[:3] for each in result.errors]) == (second.id, [ERROR[:3]])


@scopes
def test_next_attempt_is_no_duplicate_of_itself(queue, scope):
    first = TASKS[scope].enqueue(1)
    [claim] = queue.backend.claim(WorkerId("w"), None, 1)
    queue.backend.finish(claim, Outcome(READY, error=ERROR))

    assert TASKS[scope].enqueue(1).id == first.id
    assert queue.run_pending() == 1


@scopes
def test_retry_gives_false_while_another_job_has_the_key(queue, scope):
    first = TASKS[scope].enqueue(1)
    assert first.cancel()
    second = TASKS[scope].enqueue(1)
    assert not second.is_duplicate

    assert not first.retry()
    assert second.cancel()
    assert first.retry()
    assert queue.run_pending() == 1


def test_of_two_ended_jobs_of_a_key_one_is_retried(queue):
    uids = []
    for _ in range(2):
        uids.append(unfinished.enqueue(1).id)
        queue.run_pending()

    assert queue.backend.change_many("retry", uids) == 1
    assert queue.run_pending() == 1


# -- coalesce


def test_waiting_job_gets_the_latest_arguments_and_keeps_its_place(queue):
    first = coalesced.enqueue(1)
    unfinished.enqueue("after")
    second = coalesced.enqueue(2)
    queue.backend.claim(WorkerId("settles"), ["nothing"], 1)

    assert queue.result(second.id).id == first.id
    assert queue.result(first.id).args == (2,)
    assert queue.run_pending() == 2
    assert ran == [(2,), ("after",)]


def test_running_job_is_followed_by_one_with_the_latest_arguments(queue):
    follows: list[TaskResult] = []

    def enqueue() -> None:
        during.clear()
        follows.extend(coalesced.enqueue(number) for number in (2, 3))

    during.append(enqueue)
    first = coalesced.enqueue(1)

    assert queue.run_pending() == 2
    assert ran == [(1,), (3,)]
    assert {queue.result(each.id).id for each in follows} == {follows[0].id}
    assert queue.result(first.id).id == first.id


def test_follower_says_for_which_job_it_waits(queue):
    first = coalesced.enqueue(1)
    [claim] = queue.backend.claim(WorkerId("w"), None, 1)
    second = coalesced.enqueue(2)
    assert queue.backend.claim(WorkerId("w"), None, 1) == []

    [reason] = second.explain()
    assert reason.startswith(f"{first.id} has the same unique key and runs")
    queue.backend.finish(claim, Outcome(SUCCESSFUL))
    assert queue.run_pending() == 1
    assert ran == [(2,)]


@task(
    coalesce=True,
    unique_key=lambda page, **_: page,
    limit=1,
    limit_key=lambda _page, shop, **_: shop,
    share_key=lambda _page, owner="", **_: owner,
    max_attempts=3,
)
def publish(page: str, shop: str, owner: str = "") -> None:
    """A coalesced job whose keys are made of arguments that change."""


def settle(queue: JobQueue) -> None:
    queue.backend.claim(WorkerId("settles"), ["nothing"], 1)


def claim_one(queue: JobQueue) -> Claim:
    [claim] = queue.backend.claim(WorkerId(uuid.uuid4().hex), None, 1)
    return claim


def claimed(queue: JobQueue) -> list[tuple[Any, ...]]:
    """The arguments of what can be claimed now, which runs from then on."""
    found = []
    while some := queue.backend.claim(WorkerId(uuid.uuid4().hex), None, 100):
        found += [(*each.job.call.args, *(each.job.call.kwargs or {}).values()) for each in some]
    return found


@pytest.mark.parametrize("settled", [True, False])
def test_coalesced_job_counts_for_the_limit_of_its_latest_arguments(queue, settled):
    publish.enqueue("p", shop="a")
    if settled:  # it has the slot of a
        settle(queue)
    publish.enqueue("p", shop="b")
    publish.enqueue("q", shop="b")
    publish.enqueue("r", shop="a")
    publish.enqueue("s", shop="a")

    assert sorted(claimed(queue)) == [("p", "b"), ("r", "a")]


def test_coalesced_job_that_waits_for_a_slot_waits_for_that_of_its_latest_arguments(queue):
    publish.enqueue("p", shop="a")
    assert claimed(queue) == [("p", "a")]
    publish.enqueue("q", shop="a")
    settle(queue)
    publish.enqueue("q", shop="b")
    assert claimed(queue) == [("q", "b")]
    publish.enqueue("r", shop="b")
    settle(queue)
    publish.enqueue("r", shop="c")
    publish.enqueue("r", shop="b")

    assert claimed(queue) == []


def test_job_that_was_attempted_leaves_no_slot_to_the_key_of_its_old_arguments(queue):
    publish.enqueue("p", shop="a")
    claim = claim_one(queue)
    assert queue.backend.finish(claim, Outcome(READY, error=ERROR))
    publish.enqueue("p", shop="b")

    assert claimed(queue) == [("p", "b")]
    publish.enqueue("q", shop="a")
    publish.enqueue("r", shop="b")
    assert claimed(queue) == [("q", "a")]


def test_job_that_follows_has_the_keys_of_its_latest_arguments(queue):
    publish.enqueue("p", shop="a")
    claim = claim_one(queue)
    publish.enqueue("p", shop="a")
    settle(queue)
    publish.enqueue("p", shop="b")
    publish.enqueue("q", shop="b")
    assert claimed(queue) == [("q", "b")]
    assert queue.backend.finish(claim, Outcome(SUCCESSFUL))
    publish.enqueue("r", shop="a")

    assert claimed(queue) == [("r", "a")]


@pytest.mark.parametrize("delay", [0.0, 60.0])
def test_job_that_waits_again_has_the_keys_of_the_one_that_followed_it(queue, delay):
    publish.enqueue("p", shop="a")
    claim = claim_one(queue)
    publish.enqueue("p", shop="b")
    settle(queue)
    assert queue.backend.finish(claim, Outcome(READY, error=ERROR, delay_seconds=delay))
    for page in ("q", "r"):
        for shop in ("a", "b"):
            publish.enqueue(page + shop, shop=shop)

    found = claimed(queue)
    assert sorted(shop for _, shop in found) == ["a", "b"]
    assert (("p", "b") in found) is (delay == 0.0)
    waiting = queue.jobs(status="READY").results
    counts = [queue.backend.uses(queue.backend.get(each.id).job.keys)[0].used for each in waiting]
    assert counts == [1] * len(waiting)


def test_coalesced_job_is_of_the_owner_of_its_latest_arguments(queue):
    publish.enqueue("p", shop="a", owner="ann")
    settle(queue)
    publish.enqueue("p", shop="a", owner="bob")
    settle(queue)
    for number in range(2):
        publish.enqueue(f"b{number}", shop=f"b{number}", owner="bob")
        publish.enqueue(f"a{number}", shop=f"a{number}", owner="ann")

    assert [page for page, *_ in claimed(queue)] == ["p", "a0", "b0", "a1", "b1"]


def test_coalesced_job_stays_in_its_queue_and_priority_with_its_turn(queue):
    publish.enqueue("p", shop="a", owner="ann")
    settle(queue)
    publish.using(priority=5, queue_name="other").enqueue("p", shop="b", owner="bob")
    settle(queue)
    [result] = queue.jobs().results

    job = queue.backend.get(result.id).job
    assert (job.options.priority, job.options.queue_name) == (0, "default")
    assert job.keys.limit.key.endswith(":b")
    assert job.keys.share.turn == "/:0:default"
    assert claimed(queue) == [("p", "b", "bob")]


def test_only_the_last_of_many_is_stored(queue):
    results = coalesced.enqueue_many([(number,) for number in range(5)])

    assert [each.is_duplicate for each in results] == [True] * 4 + [False]
    assert len({each.id for each in results}) == 1
    assert queue.run_pending() == 1
    assert ran == [(4,)]


# -- many, schedules


def test_many_calls_with_equal_arguments_are_one_job(queue):
    unfinished.enqueue(3)
    results = unfinished.enqueue_many([(number % 4,) for number in range(12)])

    assert sum(not each.is_duplicate for each in results) == 3
    assert [each.id for each in results[:4]] * 3 == [each.id for each in results]
    assert queue.run_pending() == 4


def test_tick_whose_job_is_a_duplicate_is_recorded_so(queue):
    schedule = queue.schedule("nightly", unfinished, [7], every=timedelta(days=1))
    first = unfinished.enqueue(7)
    schedule.run_now()
    queue.backend.claim(WorkerId("settles"), ["nothing"], 1)

    [tick] = schedule.ticks()
    assert queue.result(tick.uid).id == first.id
    assert tick.reason == f"a duplicate of {first.id}"
    assert queue.run_pending() == 1


# -- declaration


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unique": "waitng"}, 'did you mean "waiting"'),
        ({"unique": True}, "expected"),
        ({"unique": timedelta(0)}, "more than 0"),
        ({"unique": timedelta(days=40_000)}, "at most 36525 days"),
        ({"unique_key": "k"}, "expected unique or coalesce beside it"),
        ({"unique": "waiting", "unique_key": 3}, "unique_key: expected"),
        ({"coalesce": 1, "unique_key": "k"}, "expected True or False"),
        ({"coalesce": True}, "expected unique_key beside it"),
        ({"coalesce": True, "unique": "waiting", "unique_key": "k"}, "left out beside it"),
        ({"coalesce": True, "unique_key": shared("all")}, "of this task alone"),
    ],
)
def test_policy_that_cannot_be_kept_is_refused_when_it_is_declared(options, said):
    with pytest.raises(ConfigError, match=said):
        task(**options)(note)


def test_arguments_are_the_same_however_they_are_passed(queue):
    @task(unique="unfinished")
    def add(one: int, two: int = 2) -> None: ...

    same = [add.enqueue(1), add.enqueue(1, 2), add.enqueue(one=1), add.enqueue(two=2, one=1)]

    assert {each.id for each in same} == {same[0].id}


def test_arguments_that_cannot_be_compared_are_refused():
    @task(unique="unfinished")
    def add(_one: Any) -> None: ...

    refused = pytest.raises(BadCall, match="unique_key=lambda")
    with JobQueue(threads=0) as queue, queue.as_current(), refused:
        add.enqueue(object())


def test_key_is_of_its_task_unless_it_is_shared(queue):
    one = task(unique="unfinished", unique_key="k")(note)
    other = task(unique="unfinished", unique_key="k")(nothing)
    one_shared = one.using(unique_key=shared("k"))
    other_shared = other.using(unique_key=shared("k"))

    assert not one.enqueue().is_duplicate
    assert not other.enqueue().is_duplicate
    assert not one_shared.enqueue().is_duplicate
    assert other_shared.enqueue().is_duplicate
