"""What policies promise, sentence by sentence, for every backend: limits by key, turns, and so on.

A backend's test module subclasses these contracts and gives the fixture ``backend``.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from backend_contract import (
    AGAIN,
    BROKEN,
    DONE,
    PATIENCE_SECONDS,
    WaitingThread,
    a_job,
    at_once,
    status_of,
)
from tgext.asyncjob.backends.base import Backend
from tgext.asyncjob.call import Call
from tgext.asyncjob.explanation import explain
from tgext.asyncjob.job import CANCELLED, READY, RUNNING, Claim, Job, Outcome, WorkerId
from tgext.asyncjob.policies import Keys, Limit, Rate
from tgext.asyncjob.sharing import owner_shown, share_of
from tgext.asyncjob.uniqueness import UNFINISHED, WAITING, UniqueKey

WORKER = WorkerId("w1")

#: How jobs end their attempt and give their slot back.
ENDS = [DONE, BROKEN, AGAIN, AGAIN._replace(delay_seconds=30.0)]


def limited(backend: Backend, key: str = "k", most: int = 1, **options: Any) -> Job:
    """A job with a limit that has not been enqueued."""
    return a_job(backend, **options)._replace(keys=Keys(Limit(key, most)))


def enqueue(backend: Backend, *jobs: Job) -> list[str]:
    backend.enqueue(jobs)
    return [job.uid for job in jobs]


def claims(backend: Backend, limit: int = 100, worker: str = WORKER) -> list[Claim]:
    return backend.claim(WorkerId(worker), None, limit)


def uids(found: list[Claim]) -> list[str]:
    return [claim.job.uid for claim in found]


class LimitContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    def test_no_more_jobs_of_a_key_are_claimed_than_its_limit(self, backend):
        first = enqueue(backend, *[limited(backend, most=2) for _ in range(5)])

        assert uids(claims(backend)) == first[:2]
        assert uids(claims(backend)) == []
        enqueue(backend, limited(backend, most=2))
        assert uids(claims(backend)) == []

    def test_limit_holds_for_jobs_of_several_enqueues(self, backend):
        for _ in range(3):
            enqueue(backend, limited(backend))

        assert len(claims(backend)) == 1

    @pytest.mark.parametrize("outcome", ENDS, ids=["done", "failed", "again", "again later"])
    def test_next_job_of_a_key_is_claimed_when_one_has_ended_its_attempt(self, backend, outcome):
        one, *others = enqueue(backend, *[limited(backend) for _ in range(3)])
        [claim] = claims(backend)
        assert claim.job.uid == one
        assert backend.finish(claim, outcome)

        [claim] = claims(backend)

        again = outcome is AGAIN
        assert claim.job.uid == (one if again else others[0])
        assert uids(claims(backend)) == []

    def test_next_job_of_a_key_is_claimed_when_several_have_ended_at_once(self, backend):
        every = enqueue(backend, *[limited(backend, most=2) for _ in range(5)])
        backend.finish_many([(claim, DONE) for claim in claims(backend)])

        assert uids(claims(backend)) == every[2:4]

    def test_jobs_of_another_key_and_without_one_do_not_wait(self, backend):
        enqueue(backend, *[limited(backend, "a") for _ in range(30)])
        other, plain = enqueue(backend, limited(backend, "b"), a_job(backend))

        found = uids(claims(backend))

        assert len(found) == 3
        assert {other, plain} < set(found)

    def test_each_job_counts_by_its_own_limit(self, backend):
        few, more, _ = enqueue(backend, *[limited(backend, most=most) for most in (1, 2, 1)])

        assert uids(claims(backend)) == [few, more]

    def test_most_urgent_job_of_a_key_is_claimed_first(self, backend):
        running = limited(backend)
        enqueue(backend, running)
        [claim] = claims(backend)
        _, urgent = enqueue(backend, limited(backend), limited(backend, priority=5))
        backend.finish(claim, DONE)

        assert uids(claims(backend)) == [urgent]

    def test_job_that_waits_for_a_slot_is_ready_and_counts_as_waiting(self, backend):
        _, second = enqueue(backend, limited(backend), limited(backend))
        claims(backend)

        assert status_of(backend, second) is READY
        assert backend.waiting() == 1
        assert backend.counts()[READY] == 1

    def test_released_job_gives_its_slot_back_and_is_the_next(self, backend):
        first, second = enqueue(backend, limited(backend), limited(backend))
        backend.release(claims(backend))

        [claim] = claims(backend)
        assert (claim.job.uid, claim.attempt) == (first, 1)
        backend.finish(claim, DONE)
        assert uids(claims(backend)) == [second]

    def test_attempt_that_is_due_again_waits_for_a_slot(self, backend, clock):
        first, second = enqueue(backend, limited(backend), limited(backend))
        backend.finish(claims(backend)[0], AGAIN._replace(delay_seconds=30.0))
        [claim] = claims(backend)
        assert claim.job.uid == second
        clock.advance(31)

        assert uids(claims(backend)) == []
        backend.finish(claim, DONE)
        assert uids(claims(backend)) == [first]

    def test_delayed_jobs_hold_no_slot_and_wait_for_one_when_they_are_due(self, backend, clock):
        later = [limited(backend, run_after=timedelta(seconds=30)) for _ in range(2)]
        delayed, now = enqueue(backend, *later), enqueue(backend, limited(backend))
        [claim] = claims(backend)
        assert uids([claim]) == now
        backend.finish(claim, DONE)
        clock.advance(31)

        assert uids(claims(backend)) == delayed[:1]

    def test_job_that_is_retried_waits_for_a_slot(self, backend):
        first, second = enqueue(backend, limited(backend), limited(backend))
        backend.finish(claims(backend)[0], BROKEN)
        [claim] = claims(backend)
        assert backend.retry(first)

        assert uids(claims(backend)) == []
        backend.finish(claim, DONE)
        assert uids(claims(backend)) == [first]
        assert claim.job.uid == second

    def test_job_that_waits_for_a_slot_can_be_cancelled(self, backend):
        first, second, third = enqueue(backend, *[limited(backend) for _ in range(3)])
        [claim] = claims(backend)
        assert backend.cancel(second)
        assert status_of(backend, second) is CANCELLED
        assert backend.waiting() == 1
        backend.finish(claim, DONE)

        assert uids(claims(backend)) == [third]
        assert claim.job.uid == first

    @pytest.mark.parametrize("together", [True, False])
    def test_cancelled_job_that_had_a_slot_and_no_worker_gives_it_back(self, backend, together):
        first, second = enqueue(backend, limited(backend), limited(backend))
        backend.release(claims(backend))
        if together:
            backend.change_many("cancel", [first])
        else:
            backend.cancel(first)

        assert uids(claims(backend)) == [second]

    def test_claimed_job_tells_what_it_was_admitted_by(self, backend):
        enqueue(backend, limited(backend, "mine", 3))

        [claim] = claims(backend)

        assert claim.job.keys == Keys(Limit("mine", 3))

    def test_many_workers_never_run_more_than_the_limit_and_leave_nothing(self, backend):
        keys = {"a": 1, "b": 2, "c": 3}
        jobs = [limited(backend, key, most) for _ in range(12) for key, most in keys.items()]
        enqueue(backend, *jobs)
        backend.claim(WORKER, ["nothing"], 1)
        at_work: Counter[str] = Counter()
        most: Counter[str] = Counter()
        left, lock = len(jobs), threading.Lock()
        ended = threading.Event()

        def work(number: int) -> None:
            nonlocal left
            worker = WorkerId(f"w{number}")
            while not ended.is_set():
                found = backend.claim(worker, None, 2)
                with lock:
                    at_work.update(claim.job.keys.limit.key for claim in found)
                    for key, count in at_work.items():
                        most[key] = max(most[key], count)
                for claim in found:
                    with lock:
                        at_work[claim.job.keys.limit.key] -= 1
                    assert backend.finish(claim, DONE)
                    with lock:
                        left -= 1
                        if not left:
                            ended.set()
                            backend.wake()
                if not found:
                    backend.wait(None, PATIENCE_SECONDS, ended.is_set)

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(work, number) for number in range(4)]:
                done.result(10 * PATIENCE_SECONDS)
        assert all(0 < most[key] <= limit for key, limit in keys.items())
        assert backend.counts()[READY] == backend.counts()[RUNNING] == 0

    def test_job_that_waits_for_a_slot_is_explained_until_the_next_claim_takes_it(self, backend):
        _, second, third = enqueue(backend, *[limited(backend) for _ in range(3)])
        [claim] = claims(backend)

        assert why(backend, second) == [
            "the limit of 1 for 'k' is reached: 1 job of it is at work, or admitted"
        ]
        assert why(backend, third)[1:] == ["1 job with the same key is before it"]
        [state] = backend.key_states().states
        assert (state.use.key, state.running, state.waiting) == ("k", 1, 2)
        backend.finish(claim, DONE)
        backend.claim(WORKER, ["nothing"], 1)
        assert why(backend, second) == []
        assert uids(claims(backend)) == [second]


def why(backend: Backend, uid: str) -> list[str]:
    return explain(backend, backend.get(uid), workers=False)


def rated(backend: Backend, most: int = 2, seconds: float = 60.0, key: str = "r") -> Job:
    """A job with a rate that has not been enqueued."""
    return a_job(backend)._replace(keys=Keys(rate=Rate(key, most, seconds)))


class RateContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    def test_no_more_jobs_start_in_a_window_than_the_rate_allows(self, backend, clock):
        every = enqueue(backend, *[rated(backend) for _ in range(5)])
        first = started(backend, 3)
        clock.advance(30)
        assert started(backend, 3) == []
        clock.advance(31)

        assert (first, started(backend, 3)) == (every[:2], every[2:4])

    def test_each_start_counts_for_a_window_of_its_own(self, backend, clock):
        every = enqueue(backend, *[rated(backend) for _ in range(4)])
        [one] = started(backend, 1)
        clock.advance(40)
        [two] = started(backend, 1)
        clock.advance(21)
        [three] = started(backend, 3)
        clock.advance(20)
        assert started(backend, 3) == []
        clock.advance(20)

        assert [one, two, three, *started(backend, 3)] == every

    @pytest.mark.parametrize("outcome", [AGAIN, AGAIN._replace(delay_seconds=5.0)], ids=str)
    def test_another_attempt_of_a_job_counts_as_a_start(self, backend, clock, outcome):
        one, two = enqueue(backend, rated(backend), rated(backend))
        assert backend.finish(claims(backend, 1)[0], outcome)
        clock.advance(6)
        second = started(backend, 3)
        clock.advance(10)
        assert started(backend, 3) == []
        clock.advance(46)

        assert second == [two]
        assert started(backend, 3) == [one]

    def test_all_attempts_of_one_job_count_each_for_its_window(self, backend, clock):
        [uid] = enqueue(backend, rated(backend, 3))
        for _ in range(3):
            backend.finish(claims(backend, 1)[0], AGAIN)
            clock.advance(10)
        assert started(backend, 1) == []
        clock.advance(31)
        backend.finish(claims(backend, 1)[0], AGAIN)

        assert started(backend, 1) == []
        clock.advance(10)
        assert started(backend, 2) == [uid]

    def test_job_that_has_ended_counts_to_the_end_of_its_window(self, backend, clock):
        enqueue(backend, *[rated(backend, 1) for _ in range(2)])
        started(backend, 1, DONE)
        backend.prune()
        clock.advance(30)
        assert started(backend, 1) == []
        clock.advance(31)

        assert len(started(backend, 1)) == 1

    def test_job_that_waits_long_for_a_worker_counts_from_its_start(self, backend, clock):
        enqueue(backend, *[rated(backend, 1) for _ in range(2)])
        backend.claim(WORKER, ["nothing"], 1)
        clock.advance(300)
        started(backend, 1)
        clock.advance(50)
        assert started(backend, 1) == []
        clock.advance(11)

        assert len(started(backend, 1)) == 1

    def test_cancelled_job_that_has_not_started_does_not_count(self, backend):
        one, two = enqueue(backend, rated(backend, 1), rated(backend, 1))
        backend.claim(WORKER, ["nothing"], 1)
        backend.cancel(one)

        assert started(backend, 1) == [two]

    def test_job_that_waits_for_its_rate_is_explained_with_the_next_start(self, backend, clock):
        _, second = enqueue(backend, rated(backend, 1), rated(backend, 1))
        started(backend, 1)
        clock.advance(18)
        assert started(backend, 1) == []

        [reason] = why(backend, second)
        assert reason in {
            f"the rate of 1 start in 1m 0s for 'r' is reached; the next start in {left}s"
            for left in (41, 42)
        }

    def test_rate_and_limit_hold_both(self, backend, clock):
        both = Keys(Limit("l", 1), Rate("r", 2, 60.0))
        every = enqueue(backend, *[a_job(backend)._replace(keys=both) for _ in range(4)])
        [claim] = claims(backend)
        assert claims(backend) == []
        backend.finish(claim, DONE)
        [claim] = claims(backend)
        backend.finish(claim, DONE)
        assert claims(backend) == []
        clock.advance(61)

        assert uids(claims(backend)) == every[2:3]

    def test_exhausted_rate_of_some_keeps_the_slots_of_a_shared_limit_free(self, backend):
        limit = Limit("shared", 2)
        of_each = {key: Keys(limit, Rate(key, 1, 60.0)) for key in "ab"}
        jobs = [a_job(backend)._replace(keys=of_each[key]) for key in "aaaab"]
        enqueue(backend, *jobs)
        found = [*claims(backend), *claims(backend)]  # of those with a rate, one at once
        assert sorted(claim.job.keys.rate.key for claim in found) == ["a", "b"]
        backend.finish_many([(claim, DONE) for claim in found])
        plain = enqueue(backend, limited(backend, "shared", 2))

        assert uids(claims(backend)) == plain

    def test_slot_goes_to_the_first_job_that_waits_for_it_whatever_else_that_waits_for(
        self, backend
    ):
        limit = Limit("shared", 1)
        enqueue(backend, limited(backend, "shared"))
        [claim] = claims(backend)
        both = a_job(backend)._replace(keys=Keys(limit, Rate("r", 9, 60.0)))
        first, second = enqueue(backend, both, limited(backend, "shared"))
        assert claims(backend) == []  # both have asked for the slot, and wait
        backend.finish(claim, DONE)
        [claim] = claims(backend)
        assert claim.job.uid == first
        backend.finish(claim, DONE)

        assert uids(claims(backend)) == [second]


def started(backend: Backend, limit: int, outcome: Outcome | None = None) -> list[str]:
    """Claim one by one, as the threads of a fleet do; the uids."""
    found = []
    for _ in range(limit):
        for claim in claims(backend, 1):
            found.append(claim.job.uid)
            if outcome is not None:
                backend.finish(claim, outcome)
    return found


class QueueLimitContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    def test_no_more_jobs_of_a_queue_are_claimed_than_its_limit(self, backend):
        backend.limit("mail", 2)
        every = enqueue(backend, *[a_job(backend, queue_name="mail") for _ in range(5)])

        found = claims(backend)
        assert uids(found) == every[:2]
        assert claims(backend) == []
        assert claims_of(backend, ["mail", "none"]) == []
        backend.finish(found[0], DONE)
        assert uids(claims_of(backend, ["mail"])) == every[2:3]

    def test_jobs_that_run_when_the_limit_is_set_count(self, backend):
        every = enqueue(backend, *[a_job(backend, queue_name="mail") for _ in range(4)])
        found = [*claims(backend, 1), *claims(backend, 1)]
        backend.limit("mail", 2)

        assert claims(backend) == []
        backend.release(found[1:])
        assert uids(claims(backend)) == every[1:2]

    def test_limit_is_lifted(self, backend):
        every = enqueue(backend, *[a_job(backend, queue_name="mail") for _ in range(4)])
        backend.limit("mail", 1)
        assert backend.queue_limits() == {"mail": 1}
        assert len(claims(backend)) == 1
        backend.limit("mail", None)

        assert uids(claims(backend)) == every[1:]
        assert backend.queue_limits() == {}

    def test_other_queues_and_their_order_are_as_without_a_limit(self, backend):
        backend.limit("mail", 1)
        mails = enqueue(backend, *[a_job(backend, queue_name="mail") for _ in range(9)])
        [urgent] = enqueue(backend, a_job(backend, queue_name="mail", priority=5))
        others = enqueue(backend, *[a_job(backend) for _ in range(3)])

        assert uids(claims(backend)) == [urgent, *others]
        assert len(mails) == 9

    def test_paused_queue_with_a_limit_gives_no_job_and_goes_on_with_its_limit(self, backend):
        backend.limit("mail", 1)
        backend.pause("mail")
        first, _ = enqueue(backend, *[a_job(backend, queue_name="mail") for _ in range(2)])
        assert claims(backend) == []
        backend.resume("mail")

        assert uids(claims(backend)) == [first]

    def test_job_that_waits_for_the_limit_of_its_queue_is_explained(self, backend):
        backend.limit("mail", 1)
        first, second = enqueue(backend, *[a_job(backend, queue_name="mail") for _ in range(2)])
        assert why(backend, first) == []
        claims(backend)

        assert why(backend, second) == ["the limit of its queue 'mail' is reached: 1 job at once"]

    def test_thread_that_waits_is_woken_when_its_queue_has_room(self, backend):
        backend.limit("mail", 1)
        first, second = enqueue(backend, *[a_job(backend, queue_name="mail") for _ in range(2)])
        [claim] = claims(backend)
        assert claims(backend) == []
        with WaitingThread(backend, ["mail"]) as waiting:
            backend.finish(claim, DONE)
            assert waiting.is_back()

        assert uids(claims(backend)) == [second]
        assert claim.job.uid == first

    def test_limit_of_a_queue_and_one_by_key_hold_both(self, backend):
        backend.limit("mail", 2)
        of_key = [limited(backend, queue_name="mail") for _ in range(3)]
        key_first, _, _ = enqueue(backend, *of_key)
        plain = enqueue(backend, *[a_job(backend, queue_name="mail") for _ in range(3)])

        assert uids(claims(backend)) == [key_first, plain[0]]

    def test_threads_that_claim_at_once_keep_the_limit(self, backend):
        backend.limit("mail", 3)
        enqueue(backend, *[a_job(backend, queue_name="mail") for _ in range(20)])

        found = at_once(4, lambda number: claims(backend, 2, f"w{number}"))

        assert sum(map(len, found)) == 3


def claims_of(backend: Backend, queues: list[str]) -> list[Claim]:
    return backend.claim(WORKER, queues, 100)


def shared_keys(owner: str, queue_name: str = "default", priority: int = 0) -> Keys:
    return Keys(share=share_of(owner, Call(print, (), None), queue_name, priority, None))


def shared_job(backend: Backend, owner: str, **options: Any) -> Job:
    """A job that takes turns with those of other owners; it has not been enqueued."""
    return a_job(backend, **options)._replace(keys=shared_keys(owner, **options))


def owners_of(found: list[Claim]) -> list[str]:
    return [claim.job.keys.share.owner[-1] for claim in found]


def in_turn(backend: Backend, most: int, queues: list[str] | None = None) -> str:
    """Claim and end one job after the other, as one thread does; the owners."""
    found = ""
    for _ in range(most):
        for claim in backend.claim(WORKER, queues, 1):
            found += claim.job.keys.share.owner[-1]
            backend.finish(claim, DONE)
    return found


class ShareContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    def test_owners_take_turns(self, backend):
        enqueue(backend, *[shared_job(backend, owner) for owner in "aaaabbbc"])

        assert in_turn(backend, 9) == "abcababa"

    def test_jobs_of_one_owner_run_in_their_order(self, backend):
        jobs = [shared_job(backend, owner) for owner in "aababa"]
        every = enqueue(backend, *jobs)

        assert started(backend, 9, DONE) == [every[at] for at in (0, 2, 1, 4, 3, 5)]

    def test_new_owner_is_next_however_long_the_backlog_of_others_is(self, backend):
        enqueue(backend, *[shared_job(backend, "a") for _ in range(1_000)])
        enqueue(backend, *[shared_job(backend, "b") for _ in range(5)])
        assert in_turn(backend, 3) == "aba"
        running = claims(backend, 1)
        enqueue(backend, *[shared_job(backend, "c") for _ in range(2)])

        assert owners_of(running) == ["b"]
        assert in_turn(backend, 6) == "cabcab"

    def test_all_threads_get_jobs_of_an_owner_who_is_alone(self, backend):
        enqueue(backend, *[shared_job(backend, "a") for _ in range(4)])

        assert owners_of([one for _ in range(4) for one in claims(backend, 1)]) == [*"aaaa"]

    def test_threads_that_are_free_at_once_get_jobs_of_owners_in_turn(self, backend):
        enqueue(backend, *[shared_job(backend, owner) for owner in "aaaabbb"])

        assert owners_of([one for _ in range(5) for one in claims(backend, 1)]) == [*"ababa"]

    def test_owner_who_comes_again_is_not_new(self, backend):
        enqueue(backend, *[shared_job(backend, owner) for owner in "aaab"])
        assert in_turn(backend, 2) == "ab"
        enqueue(backend, shared_job(backend, "b"))
        assert in_turn(backend, 2) == "ab"
        enqueue(backend, shared_job(backend, "b"))

        assert in_turn(backend, 3) == "ab"

    def test_more_urgent_jobs_of_one_owner_come_before_those_of_others(self, backend):
        enqueue(backend, *[shared_job(backend, owner) for owner in "aab"])
        enqueue(backend, *[shared_job(backend, "a", priority=5) for _ in range(3)])

        assert in_turn(backend, 9) == "aaaaba"

    def test_turns_are_of_each_queue(self, backend):
        enqueue(backend, *[shared_job(backend, owner) for owner in "aab"])
        mails = [shared_job(backend, owner, queue_name="mail") for owner in "aabb"]
        enqueue(backend, *mails)

        assert in_turn(backend, 9, ["mail"]) == "abab"
        assert in_turn(backend, 9, ["mail", "default"]) == "aba"

    def test_jobs_without_an_owner_keep_their_order(self, backend):
        [plain] = enqueue(backend, a_job(backend))
        first, *_ = enqueue(backend, *[shared_job(backend, owner) for owner in "ab"])

        assert started(backend, 2) == [plain, first]

    def test_released_job_is_the_next_of_its_owner(self, backend):
        first, *_ = enqueue(backend, *[shared_job(backend, owner) for owner in "aabb"])
        [claim] = claims(backend, 1)
        backend.release([claim])
        found = [claims(backend, 1)[0] for _ in range(2)]

        assert claim.job.uid == first
        assert owners_of(found) == ["b", "a"]
        assert found[1].job.uid == first

    @pytest.mark.parametrize("outcome", [AGAIN, AGAIN._replace(delay_seconds=30.0), BROKEN])
    def test_job_that_runs_again_is_in_the_turn_of_its_owner(self, backend, clock, outcome):
        first, *_ = enqueue(backend, *[shared_job(backend, owner) for owner in "aabb"])
        [claim] = claims(backend, 1)
        assert backend.finish(claim, outcome)
        assert in_turn(backend, 1) == "b"
        clock.advance(31)
        if outcome is BROKEN:
            assert backend.retry(first)

        assert in_turn(backend, 9) == "aba"

    def test_job_that_was_taken_back_waits_for_the_time_of_its_next_attempt(self, backend, clock):
        _, again = enqueue(backend, shared_job(backend, "a"), shared_job(backend, "a"))
        claims(backend, 1)
        [new] = enqueue(backend, shared_job(backend, "b"))  # it is next: the other is taken back
        assert backend.cancel(new)
        [claim] = claims(backend, 1)
        assert claim.job.uid == again
        backend.finish(claim, AGAIN._replace(delay_seconds=30.0))

        assert claims(backend) == []
        clock.advance(31)
        assert uids(claims(backend)) == [again]

    def test_delayed_job_takes_its_turn_when_it_is_due(self, backend, clock):
        enqueue(backend, shared_job(backend, "b")._replace(run_after=timedelta(seconds=30)))
        enqueue(backend, *[shared_job(backend, "a") for _ in range(3)])
        assert in_turn(backend, 1) == "a"
        clock.advance(31)

        assert in_turn(backend, 9) == "baa"

    @pytest.mark.parametrize("together", [True, False])
    def test_job_that_is_next_is_cancelled(self, backend, together):
        first, *_ = enqueue(backend, *[shared_job(backend, owner) for owner in "aabb"])
        backend.claim(WORKER, ["nothing"], 1)
        assert backend.change_many("cancel", [first]) if together else backend.cancel(first)

        assert sorted(in_turn(backend, 9)) == [*"abb"]

    def test_owner_whose_limit_is_reached_is_passed_over(self, backend):
        both = [
            shared_job(backend, owner)._replace(
                keys=shared_keys(owner)._replace(limit=Limit(f"of {owner}", 1))
            )
            for owner in "aabbc"
        ]
        enqueue(backend, *both)
        found = [one for _ in range(5) for one in claims(backend, 1)]
        assert owners_of(found) == [*"abc"]
        backend.finish(found[1], DONE)
        assert owners_of(claims(backend, 1)) == ["b"]
        assert claims(backend) == []
        backend.finish(found[0], DONE)

        assert owners_of(claims(backend)) == ["a"]

    @pytest.mark.parametrize("prunes", [False, True])
    def test_owners_keep_their_places_while_their_jobs_wait_for_a_slot(
        self, backend, clock, prunes
    ):
        def job(owner: str, limit: Limit | None = None) -> Job:
            return shared_job(backend, owner)._replace(
                keys=shared_keys(owner)._replace(limit=limit)
            )

        enqueue(backend, limited(backend))
        [holds] = claims(backend)
        slow = Limit("k", 1)
        enqueue(backend, job("a"), job("b", slow), job("a", slow), job("b"))
        assert in_turn(backend, 2) == "ab"  # the first job first
        assert claims(backend) == []
        if prunes:
            clock.advance(1)
            backend.prune()
            backend.rescue()
            assert claims(backend) == []
        backend.finish(holds, DONE)

        assert in_turn(backend, 2) == "ab"

    def test_slot_of_a_common_limit_goes_to_a_new_owner_and_not_to_a_backlog(self, backend):
        def job(owner: str) -> Job:
            keys = shared_keys(owner)._replace(limit=Limit("k", 1))
            return shared_job(backend, owner)._replace(keys=keys)

        enqueue(backend, *[job("a") for _ in range(9)])
        [claim] = claims(backend)
        assert claims(backend) == []
        enqueue(backend, job("b"))
        backend.finish(claim, DONE)

        assert in_turn(backend, 3) == "baa"

    def test_rate_and_turns_hold_both(self, backend, clock):
        jobs = [
            shared_job(backend, owner)._replace(
                keys=shared_keys(owner)._replace(rate=Rate("r", 2, 60.0))
            )
            for owner in "aaab"
        ]
        enqueue(backend, *jobs)
        assert in_turn(backend, 4) == "ab"
        clock.advance(61)

        assert in_turn(backend, 4) == "aa"

    def test_job_that_waits_for_its_turn_is_explained(self, backend):
        *_, last = enqueue(backend, *[shared_job(backend, owner) for owner in "aab"])
        backend.claim(WORKER, ["nothing"], 1)

        reason = "the owners of jobs take turns in its queue, and it is not its turn yet"
        assert why(backend, last) == [reason]
        enqueue(backend, shared_job(backend, "b"))
        *_, last = enqueue(backend, shared_job(backend, "b"))
        assert why(backend, last) == [reason, "2 jobs of the same owner are before it"]

    def test_owners_are_told_with_what_waits_for_their_turn(self, backend):
        every = enqueue(backend, *[shared_job(backend, owner) for owner in "abab"])
        others = enqueue(backend, shared_job(backend, "c", priority=5), a_job(backend))
        assert claims_of(backend, ["nothing"]) == []

        assert backend.blocked([*every, *others, "unknown"]) == set(every[1:])
        owners = [share_of(owner, Call(print, (), None), "default", 0, None) for owner in "ba"]
        assert backend.owner_states().states == [
            ("default", 0, owner_shown(owner), waiting, False)
            for owner, waiting in zip(owners, (2, 1), strict=True)
        ]
        assert not backend.owner_states().has_more

    def test_many_threads_leave_no_job(self, backend):
        enqueue(backend, *[shared_job(backend, owner) for owner in "aaabbbccc" * 4])
        left, lock, ended = 36, threading.Lock(), threading.Event()

        def work(number: int) -> None:
            nonlocal left
            worker = WorkerId(f"w{number}")
            while not ended.is_set():
                found = backend.claim(worker, None, 2)
                for claim in found:
                    assert backend.finish(claim, DONE)
                    with lock:
                        left -= 1
                        if not left:
                            ended.set()
                            backend.wake()
                if not found:
                    backend.wait(None, PATIENCE_SECONDS, ended.is_set)

        with ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(work, number) for number in range(3)]:
                done.result(10 * PATIENCE_SECONDS)
        assert backend.counts()[READY] == backend.counts()[RUNNING] == 0


def job_of_all(backend: Backend, owner: str, name: str, scope: str = UNFINISHED) -> Job:
    """A job that takes turns, needs the only slot of a common limit, and is unique by its name."""
    keys = shared_keys(owner)._replace(limit=Limit("k", 1), unique=UniqueKey(f"=:{name}", scope))
    return a_job(backend)._replace(keys=keys)


class CombinedContract:
    """All policies on one job."""

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    def test_duplicate_gives_way_and_takes_neither_a_slot_nor_a_turn(self, backend):
        names = ("ax", "ax", "ax", "ay", "by", "bz")
        first, second, _, other, gives_way, _ = enqueue(
            backend, *[job_of_all(backend, owner, name) for owner, name in names]
        )

        assert in_turn(backend, 9) == "aba"
        assert backend.get(second).job.uid == first
        assert backend.get(gives_way).job.uid == other
        assert backend.counts()[READY] == 0

    def test_one_runs_at_a_time_and_the_owners_take_turns(self, backend):
        names = ("a1", "a2", "b3", "c4")
        enqueue(backend, *[job_of_all(backend, owner, name) for owner, name in names])
        found = ""
        for _ in names:
            [claim] = claims(backend)
            enqueue(backend, job_of_all(backend, *_of(claim)))  # it is unfinished
            assert claims(backend) == []
            found += owners_of([claim])[0]
            backend.finish(claim, DONE)

        assert found == "abca"
        assert claims(backend) == []

    def test_key_of_a_job_that_has_ended_is_free_and_a_new_job_waits_for_its_turn(self, backend):
        enqueue(backend, *[job_of_all(backend, *each) for each in ("ax", "ay", "bz")])
        assert in_turn(backend, 1) == "a"
        [again] = enqueue(backend, job_of_all(backend, "a", "x"))

        assert in_turn(backend, 9) == "baa"
        assert backend.get(again).job.uid == again

    @pytest.mark.parametrize("outcome", [AGAIN, AGAIN._replace(delay_seconds=30.0)])
    def test_job_that_waits_again_asks_for_its_key_before_its_slot_and_turn(
        self, backend, clock, outcome
    ):
        first, _ = enqueue(
            backend, job_of_all(backend, "a", "x", WAITING), job_of_all(backend, "b", "y", WAITING)
        )
        [claim] = claims(backend)
        [newer] = enqueue(backend, job_of_all(backend, "a", "x", WAITING))
        assert claims(backend) == []
        assert backend.finish(claim, outcome)
        clock.advance(31)

        assert in_turn(backend, 9) == "ba"
        assert backend.get(first).job.uid == backend.get(newer).job.uid == newer
        assert backend.counts()[READY] == 0

    def test_cancelled_job_frees_its_key_its_slot_and_its_turn(self, backend):
        [first] = enqueue(backend, job_of_all(backend, "a", "x"))
        assert claims_of(backend, ["nothing"]) == []
        assert backend.cancel(first)
        [second] = enqueue(backend, job_of_all(backend, "a", "x"))

        assert uids(claims(backend)) == [second]

    def test_many_keys_are_decided_together_and_each_by_its_first_job(self, backend):
        names = [f"{number % 130}" for number in range(260)]
        every = enqueue(
            backend,
            *[
                a_job(backend)._replace(keys=Keys(unique=UniqueKey(f"=:{name}", UNFINISHED)))
                for name in names
            ],
        )

        assert sorted(uids(claims(backend, 500))) == sorted(every[:130])
        assert [found.job.uid for found in backend.get_many(every[130:])] == every[:130]


def _of(claim: Claim) -> tuple[str, str]:
    """Of whom a job is, and its name."""
    keys = claim.job.keys
    assert keys is not None
    assert keys.share is not None
    assert keys.unique is not None
    return keys.share.owner[-1], keys.unique.key.removeprefix("=:")
