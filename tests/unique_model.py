"""What becomes of jobs with unique keys, whatever happens to them: a model, and its comparison with
a backend by Hypothesis. ``check`` is called by the tests of each backend."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backend_contract import ERROR, work
from examples import examples
from test_backend_model import SETTINGS, noted
from tgext.asyncjob.backends.base import Backend
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import (
    CANCELLED,
    FAILED,
    READY,
    RUNNING,
    SUCCESSFUL,
    Claim,
    Job,
    Outcome,
    TaskResultStatus,
    WorkerId,
)
from tgext.asyncjob.policies import Keys
from tgext.asyncjob.task_options import TaskOptions
from tgext.asyncjob.uniqueness import LATEST, PERIOD, PREFIX, WAITING, UniqueKey

SECONDS, RETENTION_SECONDS = 30, 1_000
WORKER = WorkerId("w1")
OPTIONS = TaskOptions(max_attempts=1_000)

#: What an attempt ends with.
OUTCOMES = [
    Outcome(SUCCESSFUL),
    Outcome(FAILED, error=ERROR),
    Outcome(READY, error=ERROR),
    Outcome(READY, error=ERROR, delay_seconds=5.0),
]


class Clock:
    """Whole seconds."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000

    def __call__(self) -> float:
        return float(self.seconds)


@dataclass
class ModelJob:
    uid: str
    key: str
    number: int  #: its argument
    enqueued_at: int
    order: int
    status: TaskResultStatus = READY
    due: int = 0
    cancelled: bool = False
    follows: bool = False  #: it waits for the end of the one that has the key
    errors: list[Any] = field(default_factory=list)


class UniqueMachine(RuleBasedStateMachine):
    """Does the same to a backend and to the model, and compares what they answer."""

    make: Callable[[Clock], Backend]
    scope: str

    uids = Bundle("uids")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.backend = type(self).make(self.clock)
        self.jobs: dict[str, ModelJob] = {}
        self.leads: dict[str, str] = {}
        self.taken: dict[str, str] = {}
        self.claims: list[Claim] = []
        self.number = 0

    # -- the model

    def holder(self, key: str) -> ModelJob | None:
        job = self.jobs.get(self.taken.get(key, ""))
        if job is None:
            return None
        if self.scope == PERIOD:
            is_young = self.clock.seconds - job.enqueued_at < SECONDS
            return job if is_young and job.status is not CANCELLED else None
        if self.scope == WAITING:
            return job if job.status is READY else None
        return None if job.status.is_final else job

    def follower(self, key: str) -> ModelJob | None:
        found = [each for each in self.jobs.values() if each.key == key and each.follows]
        return found[0] if found else None

    def asks(self, job: ModelJob) -> None:
        """A job that is READY in the model asks for its key."""
        holder = self.holder(job.key)
        if holder is None or holder is job:
            self.taken[job.key] = job.uid
            if holder is not None or self.scope == LATEST:
                self.absorb(job)
        elif self.scope != LATEST or holder.status is READY:
            self.give_way(job, holder)
        elif (follower := self.follower(job.key)) is not None:
            self.give_way(job, follower)
        else:
            job.follows = True

    def give_way(self, job: ModelJob, other: ModelJob) -> None:
        self.jobs.pop(job.uid, None)
        self.leads = {
            uid: other.uid if lead == job.uid else lead for uid, lead in self.leads.items()
        }
        self.leads[job.uid] = other.uid
        other.errors = [*other.errors, *job.errors]
        if self.scope == LATEST:
            other.number = job.number

    def absorb(self, job: ModelJob) -> None:
        """The arguments of the one that follows go to the one that waits again."""
        follower = self.follower(job.key)
        if follower is not None:
            self.give_way(follower, job)

    def waits_again(self, job: ModelJob) -> None:
        job.status = READY
        if self.scope == WAITING:
            self.asks(job)
        elif self.scope == LATEST:
            self.absorb(job)

    def ends(self, job: ModelJob, status: TaskResultStatus) -> None:
        job.status = status
        was_following, job.follows = job.follows, False
        follower = self.follower(job.key)
        if follower is not None and not was_following and self.taken[job.key] == job.uid:
            follower.follows = False
            self.taken[job.key] = follower.uid

    def settle(self) -> None:
        """Decide on what asks, as every process does for what it has changed."""
        settle = getattr(getattr(self.backend, "_admissions", None), "settle", None)
        if settle is not None:
            settle()

    # -- what happens

    @precondition(lambda self: len(self.jobs) < 8)
    @rule(target=uids, key=st.sampled_from("ab"))
    def enqueue(self, key: str) -> str:
        self.number += 1
        unique = UniqueKey(f"{PREFIX}{key}", self.scope, SECONDS)
        call = Call(work, (self.number,), None)
        job = Job(self.backend.new_uid(), call, OPTIONS, keys=Keys(unique=unique))
        held = self.backend.holders([unique])
        found = self.holder(key)
        if self.scope != LATEST:
            assert held == ({} if found is None else {unique.key: found.uid})

        self.backend.enqueue([job])
        self.settle()

        made = ModelJob(job.uid, key, self.number, self.clock.seconds, self.number)
        self.jobs[job.uid] = made
        self.asks(made)
        return job.uid

    @rule()
    def claim(self) -> None:
        claims = self.backend.claim(WORKER, None, 1)
        can = [
            job for job in self.jobs.values()
            if job.status is READY and not job.follows and job.due <= self.clock.seconds
        ]  # fmt: skip
        assert len(claims) == min(1, len(can))
        for claim in claims:
            job = self.jobs[claim.job.uid]
            assert job in can
            assert claim.job.call.args == (job.number,)
            job.status, job.due = RUNNING, 0
            self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(outcome=st.sampled_from(OUTCOMES), which=st.integers(0, 3))
    def finish(self, outcome: Outcome, which: int) -> None:
        claim = self.claims.pop(which % len(self.claims))
        job = self.jobs[claim.job.uid]
        status = outcome.status
        if job.cancelled:
            status = CANCELLED
            if outcome.status is SUCCESSFUL:
                outcome = Outcome(CANCELLED)
            elif outcome.status is FAILED:
                status = FAILED

        assert self.backend.finish(claim, outcome)
        self.settle()

        if outcome.error is not None:
            job.errors.append(noted(outcome.error, claim, self.clock.seconds))
        if status is READY:
            job.due = self.clock.seconds + int(outcome.delay_seconds)
            self.waits_again(job)
        else:
            self.ends(job, status)

    @precondition(lambda self: self.claims)
    @rule(dies=st.booleans())
    def give_back(self, dies: bool) -> None:
        """All claims are released, or their worker has ended without it."""
        claims, self.claims = self.claims, []
        if dies and self.backend.is_shared:
            self.backend.dismiss(WORKER)
            self.backend.rescue()
            self.settle()
            self.given_back(claims)
        else:
            for claim in claims:
                self.backend.release([claim])
                self.settle()
                self.given_back([claim])

    def given_back(self, claims: list[Claim]) -> None:
        for claim in claims:
            job = self.jobs[claim.job.uid]
            if job.cancelled:
                self.ends(job, CANCELLED)
            else:
                job.status = READY
        for claim in claims:
            found = self.jobs.get(claim.job.uid)
            if found is not None and found.status is READY:
                self.waits_again(found)

    @rule(uid=uids)
    def cancel(self, uid: str) -> None:
        job = self.jobs.get(self.leads.get(uid, uid))

        cancelled = self.backend.cancel(uid)
        self.settle()

        assert cancelled == (None if job is None else not job.status.is_final)
        if cancelled and job is not None:
            job.cancelled = True
            if job.status is READY:
                self.ends(job, CANCELLED)

    @rule(uid=uids)
    def retry(self, uid: str) -> None:
        job = self.jobs.get(self.leads.get(uid, uid))

        retried = self.backend.retry(uid)
        self.settle()

        if job is None:
            assert retried is None
            return
        holder = self.holder(job.key)
        is_taken = holder is not None and holder is not job
        assert retried == (job.status.is_final and not is_taken)
        if retried:
            job.status, job.cancelled, job.due = READY, False, 0
            self.taken[job.key] = job.uid

    @rule(seconds=st.sampled_from([1, SECONDS, RETENTION_SECONDS]))
    def time_passes(self, seconds: int) -> None:
        self.clock.seconds += seconds
        self.backend.prune()
        if seconds == RETENTION_SECONDS:
            gone = {uid for uid, job in self.jobs.items() if job.status.is_final}
            self.jobs = {uid: job for uid, job in self.jobs.items() if uid not in gone}
            self.leads = {uid: lead for uid, lead in self.leads.items() if lead not in gone}

    @rule(target=uids, uid=uids)
    def look(self, uid: str) -> Any:
        found, lead = self.backend.get(uid), self.leads.get(uid)
        job = self.jobs.get(lead or uid)
        if job is None:
            assert found is None
            return multiple()
        assert found is not None
        assert (found.job.uid, found.is_duplicate) == (job.uid, lead is not None)
        assert self.backend.briefs([uid])[uid].status is job.status
        assert (self.backend.progress(uid) is None) == job.status.is_final
        assert (self.backend.position(uid) is None) == (job.status is not READY)
        return multiple()

    # -- what must be so at any time

    @invariant()
    def every_job_reads_as_in_the_model(self) -> None:
        snapshots = self.backend.get_many(list(self.jobs))  # as get() reads one
        assert [found.job.uid for found in snapshots] == list(self.jobs)
        for found, job in zip(snapshots, self.jobs.values(), strict=True):
            assert found.status is job.status
            assert found.job.call.args == (job.number,)
            assert sorted(found.errors) == sorted(job.errors)

    @invariant()
    def the_numbers_are_those_of_the_model(self) -> None:
        statuses = [job.status for job in self.jobs.values()]
        assert self.backend.waiting() == statuses.count(READY)

    @invariant()
    def no_two_are_what_one_may_be(self) -> None:
        for key in "ab":
            of_key = [each for each in self.jobs.values() if each.key == key]
            waits = [each for each in of_key if each.status is READY and not each.follows]
            unfinished = [each for each in of_key if not each.status.is_final]
            if self.scope in (WAITING, LATEST):
                assert len(waits) <= 1
            if self.scope not in (WAITING, PERIOD):
                assert len(unfinished) <= 1 + (self.scope == LATEST)


def check(
    make_backend: Callable[[Clock], Backend], scope: str, *, number: int, steps: int = 40
) -> None:
    """Compare a backend with the model; it keeps ended jobs RETENTION_SECONDS."""
    given = {"make": staticmethod(make_backend), "scope": scope}
    machine = type("Machine", (UniqueMachine,), given)
    # A failure is told with all its steps: to look for fewer of them takes minutes on a database.
    phases = [Phase.explicit, Phase.generate, *([Phase.shrink] if os.environ.get("LONG") else ())]
    chosen = settings(
        SETTINGS, max_examples=examples(number), stateful_step_count=steps, phases=phases
    )
    run_state_machine_as_test(machine, settings=chosen)
