"""Who ends a claim: two stale finishers, a rescuer and a canceller at a barrier, on each database.

    job RUNNING, its worker dead --> barrier --> finish | finish | rescue | cancel

A finisher has its work and its mark in one transaction, as an attempt has. Whatever the order, the
work of one of them is there and the job SUCCESSFUL, or no work is there and the job CANCELLED.

And who makes a claim: two claimers, and one who changes the jobs that they are about to claim.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, insert, select, update
from sqlalchemy.exc import DBAPIError

from backend_contract import DONE, a_job
from sqlqueues import KINDS, PREFIX, Place, effects, options_of, place_of
from tgext.asyncjob.backends.sql import SqlBackend, states
from tgext.asyncjob.job import CANCELLED, SUCCESSFUL, Claim, WorkerId

pytestmark = pytest.mark.slow

#: In each of them one of the racers wins by chance, each in a quarter of them or more.
ROUNDS = 1000 if os.environ.get("LONG") else 100

#: Of the claims and a change: on PostgreSQL a change keeps a job from both claims in one of twenty.
CLAIM_ROUNDS = ROUNDS * 4 // 5

#: Claims that are prepared for as many rounds: a rescuer looks at all there are in each.
AT_ONCE = 50

#: The longest that a racer starts behind the barrier, in seconds: about as long as one of their
#: transactions takes, so that each comes first in some rounds.
HEAD_START_SECONDS = 0.003


@pytest.fixture(scope="module", params=KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def make_backend(place: Place) -> Iterator[Callable[[], SqlBackend]]:
    """Makes backends as different processes have them."""
    opened: list[SqlBackend] = []

    def make() -> SqlBackend:
        made = SqlBackend(
            create_engine(place.url, **options_of(place.url)),
            secret="swordfish", prefix=PREFIX,
        )  # fmt: skip
        opened.append(made)
        return made

    yield make
    for each in opened:
        each.close()
        each.engine.dispose()


class Race:
    """A thread for each racer, and as many rounds as there are claims."""

    def __init__(self, racers: dict[str, Callable[[int], object]], rounds: int) -> None:
        self._rounds = rounds
        self._barrier = threading.Barrier(len(racers) + 1, timeout=60)
        self._answers: dict[str, object] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(number, name, act))
            for number, (name, act) in enumerate(racers.items())
        ]

    def __enter__(self) -> Race:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._barrier.abort()
        for thread in self._threads:
            thread.join()

    def run(self) -> dict[str, object]:
        """Run a round, and return what each racer got."""
        self._answers = {}
        self._barrier.wait()  # they go
        self._barrier.wait()  # all are through
        return self._answers

    def _run(self, number: int, name: str, act: Callable[[int], object]) -> None:
        dice, pause = random.Random(number), threading.Event()
        try:
            for round_number in range(self._rounds):
                self._barrier.wait()
                pause.wait(dice.uniform(0, HEAD_START_SECONDS))
                try:
                    self._answers[name] = act(round_number)
                except Exception as error:  # noqa: BLE001 - the round shows it
                    self._answers[name] = error
                self._barrier.wait()
        except threading.BrokenBarrierError:
            pass


def stale_claims(place: Place, backend: SqlBackend, dead: list[WorkerId]) -> list[Claim]:
    """Jobs that run, each with one of these workers."""
    backend.enqueue([a_job(backend) for _ in dead])
    claims = backend.claim(WorkerId("prepares"), None, len(dead))
    pairs = zip(claims, dead, strict=True)
    claims = [claim._replace(worker_id=worker_id) for claim, worker_id in pairs]
    tables = place.tables
    with place.engine.begin() as connection:
        for claim in claims:
            mine = update(tables.jobs).where(tables.jobs.c.uid == claim.job.uid)
            connection.execute(mine.values(worker_id=claim.worker_id))
    return claims


def let_be_known(place: Place, backend: SqlBackend, claim: Claim) -> None:
    """Note the worker of a claim in the registry, by which a rescuer finds it."""
    described = {"host": "h", "pid": 1, "threads": 1, "provable": True, "expendable": False}
    instants = {"started_at": 1.0, "seen_at": 1.0}
    with backend._dialect.side_database.connect() as connection:
        made = insert(place.tables.workers)
        connection.execute(made.values(worker_id=claim.worker_id, **instants, **described))


def finisher(engine: Engine, backend: SqlBackend, claims: list[Claim]) -> Callable[[int], bool]:
    """An attempt that wakes up late: its work, its mark, its commit."""

    def finish(number: int) -> bool:
        claim = claims[number]
        with engine.connect() as connection:
            work = {"text": claim.job.uid, "amount": claim.lease}
            connection.execute(insert(effects).values(**work))
            stored = backend.finish(claim, DONE, connection)
            (connection.commit if stored else connection.rollback)()
        return stored

    return finish


def retried(backend: SqlBackend, act: Callable[[int], bool | None]) -> Callable[[int], object]:
    """What is tried again where the database says that this may help, as for every caller: MariaDB
    may find a deadlock in any two changes of one row, and undoes one of them."""

    def try_until_it_passes(number: int) -> object:
        while True:
            try:
                return act(number)
            except DBAPIError as error:
                if not backend.is_passing(error):
                    raise

    return try_until_it_passes


def test_of_two_stale_finishers_a_rescuer_and_a_canceller_exactly_one_wins(
    place, make_backend, other_process
):
    preparing, rescuer, canceller = make_backend(), make_backend(), make_backend()
    process = other_process()
    dead = [process.worker_id() for _ in range(ROUNDS)]
    process.die()
    claims: list[Claim] = []
    racers: dict[str, Callable[[int], object]] = {
        "one": retried(preparing, finisher(place.engine, preparing, claims)),
        "two": retried(preparing, finisher(place.engine, make_backend(), claims)),
        "rescuer": lambda _number: rescuer.rescue(),
        "canceller": retried(canceller, lambda number: canceller.cancel(claims[number].job.uid)),
    }
    how: Counter[str] = Counter()

    with Race(racers, ROUNDS) as race:
        for number, _ in enumerate(dead):
            if number == len(claims):
                claims += stale_claims(place, preparing, dead[number : number + AT_ONCE])
            claim = claims[number]
            let_be_known(place, preparing, claim)
            answers = race.run()
            if answers["rescuer"] == 0 and not (answers["one"] or answers["two"]):
                # It passed over a row that another racer held: a rescue comes back to it.
                answers["rescuer"] = rescuer.rescue()
            how[judged(place, claim, answers)] += 1

    assert how.total() == ROUNDS
    assert set(how) == {"one", "two", "cancelled"}, f"they did not race: {how}"


def judged(place: Place, claim: Claim, answers: dict[str, object]) -> str:
    """Who has won; fails where nobody has, or two."""
    jobs, mine = place.tables.jobs, effects.c.text == claim.job.uid
    with place.engine.connect() as connection:
        work = len(connection.execute(select(effects.c.id).where(mine)).all())
        state = connection.execute(select(jobs.c.state).where(jobs.c.uid == claim.job.uid)).scalar()
    finished = [name for name in ("one", "two") if answers[name] is True]
    if finished:
        assert (len(finished), answers["rescuer"], answers["canceller"]) == (1, 0, False), answers
        assert (work, states.STATUS_OF[state]) == (1, SUCCESSFUL), answers
        return finished[0]
    assert (answers["one"], answers["two"]) == (False, False), answers
    assert (answers["rescuer"], answers["canceller"]) == (1, True), answers
    assert (work, states.STATUS_OF[state]) == (0, CANCELLED), answers
    return "cancelled"


@pytest.mark.parametrize("queues", [("a",), ("a", "b")], ids=["one queue", "two queues"])
def test_jobs_that_are_changed_while_they_are_claimed_are_each_claimed_once(
    place, make_backend, queues
):
    """Whoever changes a waiting job keeps a claim from it for a moment, and no longer."""
    enqueuing, claimers = make_backend(), {"one": make_backend(), "two": make_backend()}
    place.empty()
    uids: list[str] = []
    jobs = place.tables.jobs

    def change(at: int) -> None:
        with place.engine.begin() as connection:
            its = update(jobs).where(jobs.c.uid == uids[at])
            connection.execute(its.values(budget=jobs.c.budget + 1))

    change_it = retried(enqueuing, change)

    def claimer(name: str) -> Callable[[int], object]:
        return lambda _number: claimers[name].claim(WorkerId(name), queues, 3)

    racers = {name: retried(claimers[name], claimer(name)) for name in claimers}
    racers["changes"] = lambda _number: [change_it(at) for at in range(4)]
    with Race(racers, CLAIM_ROUNDS) as race:
        for _ in range(CLAIM_ROUNDS):
            made = [a_job(enqueuing, queue_name=queues[at % len(queues)]) for at in range(4)]
            enqueuing.enqueue(made)
            uids[:] = [job.uid for job in made]

            answers: dict[str, Any] = race.run()

            rest = enqueuing.claim(WorkerId("rest"), queues, 4)
            claims = [*answers["one"], *answers["two"], *rest]
            assert sorted(claim.job.uid for claim in claims) == sorted(uids)
            with place.engine.connect() as connection:
                found = connection.execute(
                    select(jobs.c.budget, jobs.c.lease, jobs.c.state).where(jobs.c.uid.in_(uids))
                ).all()
            changed_budget = made[0].options.max_attempts + 1
            assert found == [(changed_budget, 1, states.RUNNING)] * len(uids)
            enqueuing.finish_many([(claim, DONE) for claim in claims])
