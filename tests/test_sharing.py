"""Turns of owners: the contract on each backend, and what only a database can show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, func, select

from backend_contract import DONE, a_job
from databases import url_of
from policy_contract import (
    WORKER,
    CombinedContract,
    ShareContract,
    claims,
    enqueue,
    in_turn,
    limited,
    owners_of,
    shared_job,
    shared_keys,
    started,
    uids,
)
from test_sql_backend import KINDS, Database
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.backends.sql import SqlBackend, states
from tgext.asyncjob.policies import Keys, Limit, Rate
from tgext.asyncjob.sharing import Share


@pytest.fixture(scope="module", params=KINDS)
def database(request: Any, tmp_path_factory: Any) -> Iterator[Database]:
    made = Database(url_of(request.param, tmp_path_factory.mktemp("sharing")))
    yield made
    made.drop()


@pytest.fixture
def make_backend(database: Database, clock: Any) -> Iterator[Callable[[], SqlBackend]]:
    made: list[SqlBackend] = []

    def make() -> SqlBackend:
        made.append(database.backend(clock=clock, monotonic=clock))
        return made[-1]

    yield make
    for backend in made:
        database.empty(backend)
        backend.close()


@pytest.fixture
def backend(make_backend: Callable[[], SqlBackend]) -> SqlBackend:
    return make_backend()


class TestSqlShares(ShareContract, CombinedContract):
    @pytest.fixture
    def backend(self, make_backend: Callable[[], SqlBackend]) -> SqlBackend:
        return make_backend()


class TestMemoryShares(ShareContract, CombinedContract):
    @pytest.fixture
    def backend(self, clock: Any) -> MemoryBackend:
        return MemoryBackend(clock=clock)


def states_of(backend: SqlBackend) -> list[int]:
    jobs = backend.tables.jobs
    with backend.engine.connect() as connection:
        return list(connection.execute(select(jobs.c.state).order_by(jobs.c.number)).scalars())


def dies_before_its_admission(backend: SqlBackend) -> None:
    """As a process that is killed: what it has asked for is never admitted."""
    backend._admissions.request = lambda keys: None
    backend._admissions.claimed = lambda rows: rows


def test_jobs_whose_process_died_before_their_admission_are_admitted_by_the_maintenance(
    backend, make_backend
):
    dies = make_backend()
    dies_before_its_admission(dies)
    enqueue(dies, *[shared_job(dies, owner) for owner in "aab"])
    assert claims(backend) == []

    backend.rescue()

    assert in_turn(backend, 4) == "aba"


def test_turn_of_a_claim_whose_process_died_after_it_counts_and_the_next_is_admitted(
    backend, make_backend
):
    enqueue(backend, *[shared_job(backend, owner) for owner in "aabb"])
    backend._admissions.settle()
    dies = make_backend()
    dies_before_its_admission(dies)
    assert owners_of(claims(dies, worker="w2")) == ["a"]
    assert states_of(backend).count(states.AVAILABLE) == 0

    backend.rescue()

    assert in_turn(backend, 4) == "bab"


def test_job_of_a_dead_worker_takes_its_turn_again(backend, make_backend, clock):
    first, *_ = enqueue(backend, *[shared_job(backend, owner) for owner in "aabb"])
    backend.register(WORKER, None, 1)
    assert uids(claims(backend, 1)) == [first]
    backend._registry._ours.clear()  # as if its process had died
    other = make_backend()
    other.register("w2", None, 1)
    for _ in range(30):
        other.rescue()
        clock.advance(1.0)

    found = [claims(other, 1, "w2")[0] for _ in range(3)]
    assert owners_of(found) == [*"bab"]
    assert found[1].job.uid == first


def test_only_the_next_job_of_several_owners_is_admitted_and_few_of_one(backend):
    enqueue(backend, *[shared_job(backend, "a") for _ in range(100)])
    backend._admissions.settle()
    assert states_of(backend).count(states.AVAILABLE) == 8
    enqueue(backend, shared_job(backend, "b"))
    backend._admissions.settle()

    assert states_of(backend).count(states.AVAILABLE) == 1


def test_admission_that_is_done_twice_admits_no_more(backend):
    enqueue(backend, *[shared_job(backend, owner) for owner in "aabb"])
    backend._admissions.settle()
    turn = shared_keys("a").share.turn
    for _ in range(3):
        backend._admission.admit(turn)

    assert states_of(backend).count(states.AVAILABLE) == 1


def test_new_owner_is_next_also_where_a_job_of_another_one_waits_for_a_worker(backend):
    enqueue(backend, *[shared_job(backend, "a") for _ in range(20)])
    assert in_turn(backend, 1) == "a"
    backend._admissions.settle()
    enqueue(backend, shared_job(backend, "b"))

    assert in_turn(backend, 3) == "baa"


def test_slot_of_a_job_that_is_taken_back_goes_to_another_one(backend):
    keys = shared_keys("a")._replace(limit=Limit("k", 1))
    enqueue(backend, *[shared_job(backend, "a")._replace(keys=keys) for _ in range(3)])
    assert in_turn(backend, 1) == "a"
    backend._admissions.settle()
    [plain] = enqueue(backend, limited(backend))
    enqueue(backend, shared_job(backend, "b"))
    found = claims(backend)

    assert plain in uids(found)
    assert len(found) == 2


def test_owners_who_come_together_are_noted_together(backend, database, monkeypatch):
    monkeypatch.setattr("tgext.asyncjob.backends.sql.turns.NOTED_AT_ONCE", 7)
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    jobs = [
        a_job(backend)._replace(keys=Keys(share=Share("/:0:default", f"//:{number:03}")))
        for number in range(50)
    ]
    with database.engine.begin() as connection:
        backend.enqueue(jobs, connection)
    event.listen(backend._dialect.engine, "before_cursor_execute", note)
    try:
        backend.announced(jobs)
        backend._admissions.settle()
    finally:
        event.remove(backend._dialect.engine, "before_cursor_execute", note)

    assert len(seen) < 60
    assert started(backend, 50, DONE) == [job.uid for job in jobs]


def test_job_that_is_put_back_keeps_its_turn(backend):
    """A claim of several takes no job with a rate beside others."""
    keys = shared_keys("a")._replace(rate=Rate("r", 9, 60.0))
    [plain] = enqueue(backend, a_job(backend))
    first, _, other = enqueue(
        backend,
        shared_job(backend, "a")._replace(keys=keys),
        shared_job(backend, "a")._replace(keys=keys),
        shared_job(backend, "b"),
    )
    assert uids(claims(backend)) == [plain]

    assert started(backend, 2) == [first, other]


def test_owners_without_a_slot_keep_their_place_and_one_after_many_has_its_turn(
    backend, monkeypatch
):
    monkeypatch.setattr("tgext.asyncjob.backends.sql.turns.OWNERS_AT_ONCE", 2)
    for owner in "abc":
        keys = shared_keys(owner)._replace(limit=Limit("k", 1))
        enqueue(backend, *[shared_job(backend, owner)._replace(keys=keys) for _ in range(2)])
    [claim] = claims(backend)
    enqueue(backend, *[shared_job(backend, owner) for owner in "d"])

    assert in_turn(backend, 3) == "d"
    backend.finish(claim, DONE)
    assert owners_of([claim]) == ["a"]
    assert in_turn(backend, 9) == "bcabc"


def test_maintenance_admits_once_for_all_owners_of_a_turn(backend, database, monkeypatch):
    jobs = [
        a_job(backend)._replace(keys=Keys(share=Share("/:0:default", f"//:{number:03}")))
        for number in range(30)
    ]
    with database.engine.begin() as connection:
        backend.enqueue(jobs, connection)
    turns: list[str] = []
    admit = backend._admission._turns.admit
    monkeypatch.setattr(
        backend._admission._turns, "admit", lambda *args: turns.append(args[0]) or admit(*args)
    )
    backend._admissions.look()

    assert turns == ["/:0:default"]
    monkeypatch.undo()
    assert started(backend, 30, DONE) == [job.uid for job in jobs]


def test_nothing_is_left_of_turns_that_nobody_takes(backend):
    enqueue(backend, *[shared_job(backend, owner) for owner in "aabb"])
    for claim in [one for _ in range(4) for one in claims(backend, 1)]:
        backend.finish(claim, DONE)
    backend._admissions.settle()
    backend.prune()

    with backend.engine.connect() as connection:
        for table in (backend.tables.slots, backend.tables.limits, backend.tables.turns):
            assert connection.execute(select(func.count()).select_from(table)).scalar() == 0
