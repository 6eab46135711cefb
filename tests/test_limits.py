"""Limits by key: the contract on each backend, and what only a database can show."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, func, select, update

from backend_contract import AGAIN, DONE, a_job
from databases import url_of
from policy_contract import (
    WORKER,
    LimitContract,
    QueueLimitContract,
    RateContract,
    claims,
    enqueue,
    limited,
    uids,
)
from test_sql_backend import KINDS, Database
from tgext.asyncjob.backends import limits
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.backends.sql import SqlBackend, key_overview, states
from tgext.asyncjob.backends.sql.admissions import Wanted
from tgext.asyncjob.job import RUNNING, SUCCESSFUL
from tgext.asyncjob.policies import Keys, Limit, Rate
from tgext.asyncjob.sharing import Share
from tgext.asyncjob.uniqueness import WAITING, UniqueKey


@pytest.fixture(scope="module", params=KINDS)
def database(request: Any, tmp_path_factory: Any) -> Iterator[Database]:
    made = Database(url_of(request.param, tmp_path_factory.mktemp("limits")))
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


class TestSqlLimits(LimitContract, RateContract, QueueLimitContract):
    @pytest.fixture
    def backend(self, make_backend: Callable[[], SqlBackend]) -> SqlBackend:
        return make_backend()


class TestMemoryLimits(LimitContract, RateContract, QueueLimitContract):
    @pytest.fixture
    def backend(self, clock: Any) -> MemoryBackend:
        return MemoryBackend(clock=clock)


def states_of(backend: SqlBackend) -> list[int]:
    jobs = backend.tables.jobs
    with backend.engine.connect() as connection:
        return list(connection.execute(select(jobs.c.state).order_by(jobs.c.number)).scalars())


def test_jobs_whose_process_died_before_their_admission_are_admitted_by_the_maintenance(
    backend, make_backend, database
):
    dies = make_backend()
    with database.engine.begin() as connection:
        dies.enqueue([limited(dies, key) for key in "aabc"], connection)
    assert states_of(backend) == 4 * [states.BLOCKED]
    assert claims(backend) == []

    backend.rescue()

    assert len(claims(backend)) == 3


def test_maintenance_comes_to_every_key_however_many_there_are(backend, database, monkeypatch):
    monkeypatch.setattr("tgext.asyncjob.backends.sql.admissions.LOOKED_AT_ONCE", 3)
    with database.engine.begin() as connection:
        backend.enqueue([limited(backend, f"k{number}") for number in range(8)], connection)

    for _ in range(3):
        backend.rescue()

    assert len(claims(backend)) == 8


def test_list_of_keys_takes_as_many_statements_for_many_as_for_one(backend):
    asked: list[str] = []
    event.listen(
        backend._dialect.engine, "before_cursor_execute", lambda *given: asked.append(given[2])
    )
    numbers = []
    for names in ("a", "bcdefg"):
        enqueue(backend, *[limited(backend, name) for name in names for _ in range(3)])
        rate = Keys(rate=Rate(f"rate:{names}", 2, 60.0))
        enqueue(backend, *[a_job(backend)._replace(keys=rate) for _ in range(3)])
        while claims(backend):
            pass
        asked.clear()
        found = {each.use.key: each for each in backend.key_states().states}
        numbers.append(len(asked))

    assert len(found) == 9
    assert (found["g"].running, found["g"].waiting, found["g"].use.used) == (1, 2, 1)
    rate_use = found["rate:bcdefg"].use
    assert (rate_use.used, rate_use.is_full, 59 < rate_use.next_in <= 61) == (2, True, True)
    assert numbers[0] == numbers[1] <= 7


def test_list_of_keys_and_owners_says_what_it_leaves_out(backend, monkeypatch):
    most = 20  # in production it has hundreds, and to enqueue so many takes seconds
    monkeypatch.setattr(limits, "MOST_KEYS", most)
    monkeypatch.setattr(key_overview, "MOST_KEYS", most)
    monkeypatch.setattr(limits, "MOST_COUNTED", 3 * most)
    names = [f"k{number:03}" for number in range(most + 1)]
    enqueue(backend, *[limited(backend, name) for name in names for _ in range(4)])
    shares = [Keys(share=Share("/:0:mail", f"//:0:mail/:{name}")) for name in names]
    of_mail = [a_job(backend, queue_name="mail")._replace(keys=its) for its in shares]
    enqueue(backend, *of_mail)
    backend.claim(WORKER, ["nothing"], 1)  # so that keys and turns are settled
    asked: list[str] = []
    here = threading.get_ident()  # others admit jobs meanwhile
    event.listen(
        backend._dialect.engine,
        "before_cursor_execute",
        lambda *given: asked.extend([given[2]] * (threading.get_ident() == here)),
    )

    keys, owners = backend.key_states(), backend.owner_states()

    assert len(asked) <= 8
    assert [each.use.key for each in keys.states] == names[:most]
    assert {(each.waiting, each.is_capped) for each in keys.states} == {(3, True)}
    assert keys.has_more
    assert len(owners.states) in (most - 1, most)  # one of them may have its turn
    assert {(each.waiting, each.is_capped) for each in owners.states} == {(1, False)}
    assert owners.has_more


def test_slot_of_a_dead_worker_is_given_back_with_its_job(backend, make_backend, clock):
    first, _ = enqueue(backend, limited(backend), limited(backend))
    backend.register(WORKER, None, 1)
    assert uids(claims(backend)) == [first]
    backend._registry._ours.clear()  # as if its process had died
    other = make_backend()
    other.register("w2", None, 1)
    for _ in range(30):
        other.rescue()
        clock.advance(1.0)

    assert uids(claims(other, worker="w2")) == [first]
    assert claims(other, worker="w2") == []


def test_first_job_of_a_key_starts_beside_any_number_of_another_one(backend):
    enqueue(backend, *[limited(backend, "full") for _ in range(2_000)])
    assert len(claims(backend)) == 1
    [other] = enqueue(backend, limited(backend, "other"))

    assert uids(claims(backend)) == [other]


def test_job_without_a_key_costs_no_statement_of_a_policy(backend):
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    backend.register(WORKER, None, 1)
    event.listen(backend._dialect.engine, "before_cursor_execute", note)
    try:
        enqueue(backend, a_job(backend), a_job(backend))
        [first, second] = claims(backend)
        backend.finish(first, DONE)
        backend.finish_many([(second, DONE)])
    finally:
        event.remove(backend._dialect.engine, "before_cursor_execute", note)

    names = ("slots", "limits", "groups")
    theirs = [backend.tables.prefix + name for name in names] + ["blocked_by"]
    assert [each for each in seen if any(name in each for name in theirs)] == []


def test_admission_that_is_done_twice_admits_no_more(backend):
    enqueue(backend, *[limited(backend, most=2) for _ in range(5)])
    for _ in range(3):
        backend._admission.admit("k")

    assert states_of(backend).count(states.AVAILABLE) == 2


def test_slots_of_ended_jobs_are_removed_and_their_key_with_them(backend):
    enqueue(backend, limited(backend))
    backend.finish(claims(backend)[0], DONE)
    backend.prune()

    with backend.engine.connect() as connection:
        for table in (backend.tables.slots, backend.tables.limits):
            assert connection.execute(select(func.count()).select_from(table)).scalar() == 0


def test_slot_without_a_job_that_holds_it_counts_for_nothing(backend):
    """As after the completion by a worker of an older version, or a purge by hand."""
    first, second = enqueue(backend, limited(backend), limited(backend))
    claims(backend)
    jobs = backend.tables.jobs
    with backend.engine.begin() as connection:
        connection.execute(
            update(jobs).where(jobs.c.uid == first).values(state=states.FAILED, finished_at=1.0)
        )
    backend.rescue()

    assert uids(claims(backend)) == [second]


def test_key_of_any_length_and_text_has_its_own_limit(backend):
    from tgext.asyncjob.keys import shortened

    texts = ["x" * 1000, "x" * 1001, "é" * 300, "a", "a ", "A", "a\n", "\0"]
    keys = [shortened("module.task", text) for text in texts]
    enqueue(backend, *[limited(backend, key) for key in keys for _ in range(2)])

    assert len(claims(backend)) == len(texts)


@pytest.mark.parametrize("how", ["purge", "prune", "gives way"])
def test_start_of_a_job_that_is_removed_counts_to_the_end_of_its_window(backend, clock, how):
    backend._retention_seconds = 5
    unique = UniqueKey("=:k", WAITING) if how == "gives way" else None
    keys = Keys(rate=Rate("rate:k", 1, 3_600.0), unique=unique)
    [first] = enqueue(backend, a_job(backend)._replace(keys=keys))
    [claim] = claims(backend)
    enqueue(backend, a_job(backend)._replace(keys=keys))
    backend._admissions.settle()
    clock.advance(10)
    backend.finish(claim, AGAIN if how == "gives way" else DONE)
    backend._admissions.settle()
    if how == "purge":
        assert backend.purge([first]) == 1
    elif how == "prune":
        clock.advance(10)
        assert backend.prune() == 1
    assert backend.counts()[RUNNING] + backend.counts()[SUCCESSFUL] == 0

    clock.advance(3_500)
    assert claims(backend) == []
    backend.prune()
    assert claims(backend) == []
    clock.advance(100)
    assert len(claims(backend)) == 1


def test_slot_of_a_removed_job_that_has_not_started_is_no_start(backend, clock):
    keys = Keys(rate=Rate("rate:k", 1, 3_600.0))
    first, second = enqueue(backend, *[a_job(backend)._replace(keys=keys) for _ in range(2)])
    backend._admissions.settle()
    assert backend.cancel(first)
    assert backend.purge([first]) == 1

    assert uids(claims(backend)) == [second]


def test_request_that_comes_while_an_earlier_one_is_taken_up_is_not_lost(backend, monkeypatch):
    ended = Wanted(("k", "rate:k"))  # it asks for those, too, that wait for one of its keys

    class Racing(dict[str, Wanted]):
        def pop(self, group: str, *default: Any) -> Any:
            self[group] = ended  # by another thread, just before
            return super().pop(group, *default)

    admitted: list[Any] = []
    monkeypatch.setattr(backend._admissions, "_wanted", Racing(a=Wanted()))
    monkeypatch.setattr(
        backend._admission, "admit", lambda *given: (admitted.append(given), (Counter(), None))[1]
    )
    backend._admissions.settle()

    assert [names for _, names, _ in admitted] == [ended.names]


def test_claim_does_not_wait_for_requests_that_others_go_on_with(backend, monkeypatch):
    keys, admit, asked = Keys(Limit("k", 1)), backend._admission.admit, [0]

    def admit_while_others_ask(*given: Any) -> Any:
        asked[0] += 1
        if asked[0] < 50:  # else it would never end
            backend._admissions.request([keys])
        return admit(*given)

    monkeypatch.setattr(backend._admissions, "_thread", object())  # it would go on
    monkeypatch.setattr(backend._admission, "admit", admit_while_others_ask)
    [first] = enqueue(backend, limited(backend))

    assert uids(claims(backend)) == [first]
    assert asked[0] < 10
