"""Limits, rates, unique and coalesced jobs, turns, pauses and limits of queues, all together:
whatever becomes of jobs, no bound is exceeded, and in the end every job has ended.

    enqueue | claim | end | cancel, retry, purge | pause, limit | time --> drain --> nothing waits

With LONG=1 in the environment a hundred times as many rounds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from backend_contract import AGAIN, BROKEN, DONE, a_job
from clocks import FakeClock
from databases import url_of
from test_sql_backend import KINDS, Database
from tgext.asyncjob.backends.base import Backend
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import CANCELLED, RUNNING, Claim, Job, Outcome, WorkerId
from tgext.asyncjob.policies import Keys, Limit, Rate
from tgext.asyncjob.sharing import share_of
from tgext.asyncjob.uniqueness import LATEST, PERIOD, UNFINISHED, WAITING, UniqueKey

TIMES = 100 if os.environ.get("LONG") else 1
STEPS = 120

QUEUES = ["default", "other"]
STARTS, WINDOW = 2, 30.0
SLOW = AGAIN._replace(delay_seconds=10.0)


class Load:
    """Does something at random, and checks what runs. backends: as of several processes."""

    def __init__(self, backends: list[Backend], clock: FakeClock, seed: int) -> None:
        self._backends = backends
        self._clock = clock
        self._random = Random(seed)
        self._uids: list[str] = []
        self._running: dict[str, tuple[Backend, Claim]] = {}
        self._starts: dict[str, list[float]] = {}
        self._limits: dict[str, int] = {}

    @property
    def _backend(self) -> Backend:
        return self._random.choice(self._backends)

    def run(self) -> None:
        acts: dict[Callable[[], object], int] = {
            self._enqueue: 30, self._claim: 25, self._end: 20, self._change: 10, self._wait: 8,
            self._maintain: 4, self._close: 3,
        }  # fmt: skip
        for act in self._random.choices(list(acts), list(acts.values()), k=STEPS):
            act()
            self._check()
        self._drain()

    def _new(self, backend: Backend) -> Job:
        choice, has = self._random.choice, lambda part: self._random.random() < part
        scope, owner = choice([WAITING, UNFINISHED, PERIOD, LATEST]), choice("mno")
        queue_name, priority = choice(QUEUES), choice([0, 0, 5])
        call = Call(print, (), None)
        keys = Keys(
            Limit(choice("ab"), choice([1, 2])) if has(0.6) else None,
            Rate(f"rate:{choice('ab')}", STARTS, WINDOW) if has(0.4) else None,
            UniqueKey(f"=:{scope}{choice('123')}", scope, 40.0) if has(0.5) else None,
            share_of(owner, call, queue_name, priority, None) if has(0.5) else None,
        )
        options = {"queue_name": queue_name, "priority": priority, "max_attempts": 3}
        after = timedelta(seconds=choice([5, 20])) if has(0.15) else None
        job = a_job(backend, self._random.random(), run_after=after, **options)
        return job._replace(keys=keys if any(keys) else None)

    def _enqueue(self) -> None:
        backend = self._backend
        jobs = [self._new(backend) for _ in range(self._random.choice([1, 1, 3]))]
        backend.enqueue(jobs)
        self._uids += [job.uid for job in jobs]

    def _claim(self, most: int = 2) -> None:
        backend, queues = self._backend, self._random.choice([None, None, *QUEUES, QUEUES])
        names = [queues] if isinstance(queues, str) else queues
        worker = WorkerId(f"w{self._backends.index(backend)}")
        for claim in backend.claim(worker, names, self._random.randint(1, most)):
            self._running[claim.job.uid] = backend, claim
            keys = claim.job.keys
            if keys is not None and keys.rate is not None:
                self._starts.setdefault(keys.rate.key, []).append(self._clock.seconds)

    def _end(self) -> None:
        if not self._running:
            return
        backend, claim = self._running.pop(self._random.choice(list(self._running)))
        outcome = self._random.choice([DONE, DONE, BROKEN, AGAIN, SLOW, None])
        if outcome is None:
            backend.release([claim])
        elif not backend.finish(claim, outcome):
            backend.finish(claim, Outcome(CANCELLED))

    def _change(self) -> None:
        if self._uids:
            backend, uid = self._backend, self._random.choice(self._uids)
            how = self._random.choice(["cancel", "retry", "purge"])
            if how != "purge" or backend.is_shared:
                getattr(backend, how)([uid] if how == "purge" else uid)

    def _wait(self) -> None:
        self._clock.advance(self._random.choice([1, 5, 12, 33]))

    def _maintain(self) -> None:
        self._backend.prune() if self._random.random() < 0.5 else self._backend.rescue()

    def _close(self) -> None:
        """Pause a queue, or limit it, and the other way round."""
        backend, name = self._backend, self._random.choice(QUEUES)
        runs = sum(each.job.options.queue_name == name for _, each in self._running.values())
        most = self._random.choice([None, 1, 3])
        if self._random.random() < 0.3:
            backend.pause(name)
        elif self._random.random() < 0.5:
            backend.resume(name)
        elif most is None or runs <= most:
            backend.limit(name, most)
            self._limits[name] = most or 1_000

    def _check(self) -> None:
        claims = [claim for _, claim in self._running.values()]
        all_keys = [claim.job.keys for claim in claims if claim.job.keys is not None]
        limits = [keys.limit for keys in all_keys if keys.limit is not None]
        for key, number in Counter(each.key for each in limits).items():
            assert number <= max(each.most for each in limits if each.key == key)
        unique = [keys.unique for keys in all_keys if keys.unique is not None]
        ones = Counter(each.key for each in unique if each.scope in (UNFINISHED, LATEST))
        assert max(ones.values(), default=1) == 1
        for name, number in Counter(claim.job.options.queue_name for claim in claims).items():
            assert number <= self._limits.get(name, 1_000)
        for starts in self._starts.values():
            for first, late in zip(starts, starts[STARTS:], strict=False):
                assert late - first >= WINDOW

    def _drain(self) -> None:
        for name in QUEUES:
            self._backend.resume(name)
            self._backend.limit(name, None)
        self._limits.clear()
        for _ in range(600):
            for _each in self._backends:
                self._claim(5)
            self._check()
            while self._running:
                self._end()
            self._clock.advance(WINDOW + 1)
            for each in self._backends:
                each.rescue()
            if not self._backend.waiting():
                break
        assert self._backend.waiting() == 0
        assert self._backend.counts()[RUNNING] == 0
        for uid in self._uids:  # none leads to nowhere: it was purged, or it has ended
            found = self._backend.get(uid)
            assert found is None or found.status.is_final


@pytest.fixture(scope="module", params=KINDS)
def database(request: Any, tmp_path_factory: Any) -> Iterator[Database]:
    made = Database(url_of(request.param, tmp_path_factory.mktemp("together")))
    yield made
    made.drop()


@pytest.mark.parametrize("seed", range(40 * TIMES))
def test_no_bound_is_exceeded_and_no_job_is_left_in_memory(clock, seed):
    Load([MemoryBackend(clock=clock)], clock, seed).run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(TIMES))
def test_no_bound_is_exceeded_and_no_job_is_left_in_a_database(database, clock, seed):
    backends = [database.backend(clock=clock, monotonic=clock) for _ in range(2)]
    try:
        Load(backends, clock, seed).run()
    finally:
        with suppress(Exception):
            database.empty(backends[0])
        for each in backends:
            each.close()
