"""Every backend against a model of thirty lines: whatever is done in whatever order, they agree.

``tests/backend_contract.py`` tests sentences; this looks for the order of events that nobody
thought of. Another backend is one more line at the end. Where ``CI`` is set the examples are the
same in every run; in ``make fast`` there are a quarter as many.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backend_contract import DONE, ERROR, enqueued
from examples import examples
from tgext.asyncjob.backends.base import Backend, Standing
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.job import (
    CANCELLED,
    FAILED,
    NO_PROGRESS,
    READY,
    RUNNING,
    SUCCESSFUL,
    Claim,
    Outcome,
    Progress,
    TaskError,
    TaskResultStatus,
    WorkerId,
)

RETENTION_SECONDS = 20

SETTINGS = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)

OUTCOMES = [
    DONE,
    Outcome(FAILED, error=ERROR),
    Outcome(CANCELLED),
    Outcome(READY, error=ERROR),
    Outcome(READY, error=ERROR, delay_seconds=3.0),
]


class Clock:
    """Whole seconds, so that the model and the backend cannot round differently."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000

    def __call__(self) -> float:
        return float(self.seconds)


@dataclass
class ModelJob:
    """What a job should look like."""

    order: int
    priority: int
    queue_name: str
    max_attempts: int
    due: int
    budget: int
    status: TaskResultStatus = READY
    attempts: int = 0
    lease: int | None = None
    cancelled: bool = False
    fenced: bool = False
    progress: Progress = NO_PROGRESS
    errors: list[Any] = field(default_factory=list)
    started_at: int | None = None
    finished_at: int | None = None

    def end(self, status: TaskResultStatus, now: int) -> None:
        self.status, self.finished_at = status, now


#: Which claim, counted from the newest: old ones are stale, of the newest many still hold.
WHICH = st.integers(0, 5)

has_claims = precondition(lambda machine: machine.claims)

#: Few at a time, so that much happens to each.
MOST_JOBS = 8


def noted(error: TaskError, claim: Claim, seconds: float) -> TaskError:
    """Return the error of an attempt as it is read."""
    at = datetime.fromtimestamp(seconds, timezone.utc)
    return error._replace(at=at, attempt=claim.attempt, worker_id=claim.worker_id or None)


class BackendMachine(RuleBasedStateMachine):
    """Does the same to a backend and to the model, and compares what they answer."""

    make: Callable[[Clock], Backend]
    keeps_places = False

    uids = Bundle("uids")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.backend = type(self).make(self.clock)
        self.jobs: dict[str, ModelJob] = {}
        self.orders = 0
        self.leases: set[tuple[str, int]] = set()
        self.claims: list[Claim] = []

    def next_order(self) -> int:
        self.orders += 1
        return self.orders

    def held(self, claim: Claim) -> ModelJob | None:
        job = self.jobs.get(claim.job.uid)
        held = job is not None and job.status is RUNNING and job.lease == claim.lease
        return job if held else None

    def recent_claim(self, which: int) -> tuple[Claim, ModelJob | None]:
        claim = self.claims[-1 - which % len(self.claims)]
        return claim, self.held(claim)

    # -- what may happen

    @precondition(lambda machine: len(machine.jobs) < MOST_JOBS)
    @rule(
        target=uids,
        priority=st.integers(-1, 1),
        queue_name=st.sampled_from("ab"),
        max_attempts=st.integers(1, 3),
        delay=st.sampled_from([0, 0, 0, 2, 7]),
    )
    def enqueue(self, priority: int, queue_name: str, max_attempts: int, delay: int) -> str:
        uid = enqueued(
            self.backend,
            run_after=timedelta(seconds=delay) if delay else None,
            priority=priority,
            queue_name=queue_name,
            max_attempts=max_attempts,
        )
        self.jobs[uid] = ModelJob(
            self.next_order(), priority, queue_name, max_attempts,
            due=self.clock.seconds + delay, budget=max_attempts,
        )  # fmt: skip
        return uid

    @rule(
        queues=st.sampled_from([None, None, ["a"], ["b"], ["a", "b"]]),
        limit=st.integers(1, 4),
    )
    def claim(self, queues: list[str] | None, limit: int) -> None:
        claimable = [
            (-job.priority, job.order, uid)
            for uid, job in self.jobs.items()
            if job.status is READY
            and job.due <= self.clock.seconds
            and (queues is None or job.queue_name in queues)
        ]

        claims = self.backend.claim(WorkerId("w1"), queues, limit)

        assert [claim.job.uid for claim in claims] == [uid for *_, uid in sorted(claimable)[:limit]]
        for claim in claims:
            job = self.jobs[claim.job.uid]
            assert (claim.job.uid, claim.lease) not in self.leases
            self.leases.add((claim.job.uid, claim.lease))
            job.status, job.lease, job.attempts = RUNNING, claim.lease, job.attempts + 1
            job.started_at = job.started_at or self.clock.seconds
            assert (claim.attempt, claim.attempts_left) == (
                job.attempts,
                job.budget - job.attempts,
            )
        self.claims += claims

    @has_claims
    @rule(which=WHICH, value=st.integers(0, 9))
    def report(self, which: int, value: int) -> None:
        claim, job = self.recent_claim(which)

        reported = self.backend.report(claim, Progress(value))

        assert reported is (job is not None and not job.cancelled)
        if job is not None and not job.cancelled:
            job.progress = Progress(value)
        elif job is not None:  # whether a cancelled job's last words are kept is left open
            job.progress = self.backend.get(claim.job.uid).progress

    @has_claims
    @rule(which=WHICH)
    def fence(self, which: int) -> None:
        claim, job = self.recent_claim(which)
        expected = job is not None and not job.cancelled

        assert self.backend.fence(claim) is expected
        if job is not None and expected:
            job.fenced = True

    @has_claims
    @rule(which=WHICH)
    def standing(self, which: int) -> None:
        claim, job = self.recent_claim(which)

        held = Standing.CANCELLED if job is not None and job.cancelled else Standing.HELD
        assert self.backend.standing(claim) is (Standing.LOST if job is None else held)

    @has_claims
    @rule(which=WHICH, outcome=st.sampled_from(OUTCOMES), in_many=st.booleans())
    def finish(self, which: int, outcome: Outcome, in_many: bool) -> None:
        claim, job = self.recent_claim(which)
        expected = job is not None and not (job.cancelled and outcome.status is SUCCESSFUL)

        if in_many:
            [stored] = self.backend.finish_many([(claim, outcome)])
        else:
            stored = self.backend.finish(claim, outcome)

        assert stored is expected
        if job is None or not expected:
            return
        job.fenced = False
        if outcome.error is not None:
            job.errors.append(noted(outcome.error, claim, self.clock.seconds))
        if outcome.status is not READY:
            job.end(outcome.status, self.clock.seconds)
        elif job.cancelled:
            job.end(CANCELLED, self.clock.seconds)
        else:
            job.status = READY
            job.due = self.clock.seconds + int(outcome.delay_seconds)

    @has_claims
    @rule(which=WHICH)
    def release(self, which: int) -> None:
        claim, job = self.recent_claim(which)

        self.backend.release([claim])

        if job is not None:
            job.attempts -= 1
            job.fenced = False
            job.status = READY
            if job.cancelled:
                job.end(CANCELLED, self.clock.seconds)

    @rule(uid=uids)
    def cancel(self, uid: str) -> None:
        job = self.jobs.get(uid)
        expected = None if job is None else not (job.status.is_final or job.fenced)

        assert self.backend.cancel(uid) is expected
        if job is not None and expected:
            job.cancelled = True
            if job.status is READY:
                job.end(CANCELLED, self.clock.seconds)

    @rule(uid=uids)
    def retry(self, uid: str) -> None:
        job = self.jobs.get(uid)
        expected = None if job is None else job.status.is_final

        assert self.backend.retry(uid) is expected
        if job is not None and expected:
            job.status, job.finished_at, job.cancelled = READY, None, False
            job.due, job.progress = self.clock.seconds, NO_PROGRESS
            job.budget = job.attempts + job.max_attempts
            if not self.keeps_places:
                job.order = self.next_order()

    @rule(uid=uids)
    def look_at_progress(self, uid: str) -> None:
        job = self.jobs.get(uid)

        expected = None if job is None or job.status.is_final else job.progress
        assert self.backend.progress(uid) == expected

    @rule(uid=uids)
    def wait_for_its_end_in_vain(self, uid: str) -> None:
        """It changes nothing that is to be seen."""
        self.backend.wait_for_end(uid, 0.0)

    @rule(uid=uids)
    def look_at_position(self, uid: str) -> None:
        job = self.jobs.get(uid)

        position = self.backend.position(uid)

        if job is None or job.status is not READY:
            assert position is None
            return
        is_delayed = job.due > self.clock.seconds
        place = (-job.priority, job.order)
        before = sum(
            each.status is READY
            and each.due <= self.clock.seconds
            and each.queue_name == job.queue_name
            and (-each.priority, each.order) < place
            for each in self.jobs.values()
        )
        assert position is not None
        assert (position.is_delayed, position.before) == (is_delayed, 0 if is_delayed else before)

    @rule(seconds=st.integers(1, 9))
    def let_time_pass(self, seconds: int) -> None:
        self.clock.seconds += seconds

    @rule()
    def prune(self) -> None:
        old = [
            uid
            for uid, job in self.jobs.items()
            if job.finished_at is not None
            and job.finished_at + RETENTION_SECONDS <= self.clock.seconds
        ]

        assert self.backend.prune() == len(old)
        for uid in old:
            del self.jobs[uid]
            assert self.backend.get(uid) is None
            assert self.backend.progress(uid) is None

    # -- what must be so at any time

    @invariant()
    def every_job_reads_as_in_the_model(self) -> None:
        snapshots = self.backend.get_many(list(self.jobs))  # as get() reads one
        assert [found.job.uid for found in snapshots] == list(self.jobs)
        for found, job in zip(snapshots, self.jobs.values(), strict=True):
            assert found.status is job.status
            assert found.attempts == job.attempts
            assert list(found.errors) == job.errors
            assert found.progress == job.progress
            assert found.started_at == instant(job.started_at)
            assert found.finished_at == instant(job.finished_at)
            if job.status is READY and job.due > self.clock.seconds:
                assert found.run_at == instant(job.due)

    @invariant()
    def the_numbers_are_those_of_the_model(self) -> None:
        statuses = [job.status for job in self.jobs.values()]

        assert self.backend.waiting() == statuses.count(READY)
        assert self.backend.counts() == {
            status: statuses.count(status) for status in TaskResultStatus
        }


def instant(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)


def compare(
    make_backend: Callable[[Clock], Backend],
    *,
    number: int = SETTINGS.max_examples,
    steps: int = SETTINGS.stateful_step_count,
    keeps_places: bool = False,
) -> None:
    """Compare a backend with the model; it keeps ended jobs RETENTION_SECONDS.

    keeps_places: whether a retried job comes before those that were enqueued after it, else behind
    all that wait.
    """
    given = {"make": staticmethod(make_backend), "keeps_places": keeps_places}
    machine = type("Machine", (BackendMachine,), given)
    chosen = settings(SETTINGS, max_examples=examples(number), stateful_step_count=steps)
    run_state_machine_as_test(machine, settings=chosen)


def test_memory_backend_does_what_the_model_does():
    compare(lambda clock: MemoryBackend(retention_seconds=RETENTION_SECONDS, clock=clock))
