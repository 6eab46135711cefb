"""The tables of ``docs/states.rst``, performed cell by cell on every backend.

A cell is performed on a job of its own. The job is enqueued and claimed, it is brought into the
state of the column, and the event of the row happens to it. The events of an attempt happen inside
a job that ``run_pending`` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import docutils.core
import docutils.nodes
import pytest
from sqlalchemy import select

from backend_contract import AGAIN, BROKEN, DONE, a_job
from databases import SERVERS, url_of
from test_sql_backend import Database
from tgext.asyncjob import JobCancelled, JobQueue, UnknownJob, WorkerCrashed, asyncjob_set_progress
from tgext.asyncjob.backends.base import Standing
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.call import Call
from tgext.asyncjob.current import attempt_var
from tgext.asyncjob.job import CANCELLED, READY, Claim, Outcome, WorkerId
from tgext.asyncjob.task_options import TaskOptions
from tgext.asyncjob.worker import retry_policy

PAGE = Path(__file__).resolve().parent.parent / "docs" / "states.rst"

RETENTION_SECONDS = 1000.0
LEASE_SECONDS = 2.0
DELAY_SECONDS = 5000.0

#: A worker that claims a job after it was released.
LATER = WorkerId("later")

REFUSED = "refused"

#: Heads of columns that stand for several states.
HELD_LATER = "held by a later claim"
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
GROUPS = {"ended": ENDED, "other": ("none", "AVAILABLE", "SCHEDULED", *ENDED, HELD_LATER)}

#: The outcomes that bring a claimed job into a state.
OUTCOMES = {
    "SUCCEEDED": DONE,
    "FAILED": BROKEN,
    "CANCELLED": Outcome(CANCELLED),
    "SCHEDULED": AGAIN._replace(delay_seconds=DELAY_SECONDS),
    "none": DONE,
}


# -- the page


def tables_of(text: str) -> list[list[list[str]]]:
    """The rows of cells of every table of a page."""
    document = docutils.core.publish_doctree(text, settings_overrides={"report_level": 2})
    return [
        [
            [entry.astext() for entry in row.findall(docutils.nodes.entry)]
            for row in table.findall(docutils.nodes.row)
        ]
        for table in document.findall(docutils.nodes.table)
    ]


def cells_of(text: str) -> dict[str, dict[str, str]]:
    """What becomes of a job, by event and by the state before it; nothing that cannot occur."""
    _, *tables = tables_of(text)
    found: dict[str, dict[str, str]] = {}
    for (_, *heads), *rows in tables:
        for event, *cells in rows:
            found[event] = {
                state: cell
                for head, cell in zip(heads, cells, strict=True)
                for state in GROUPS.get(head, (head,))
                if cell
            }
    return found


def numbers_of(text: str) -> dict[str, tuple[str, str]]:
    """The public status and the number in ``jobs.state`` of each state."""
    _head, *rows = tables_of(text)[0]
    return {state: (status, number) for state, status, number, _meaning in rows}


TEXT = PAGE.read_text(encoding="utf-8")
CELLS = cells_of(TEXT)
NUMBERS = numbers_of(TEXT)


# -- a job

#: What the job that runs next does; set before it is run.
body: list[Callable[[], object]] = []


def run_body() -> None:
    """The call of every job."""
    body[-1]()


class Stage:
    """Has one job at a time, on one backend.

    other: the backend of another process, None on memory. start_process: starts one that does
    nothing, in which a worker can die.
    """

    def __init__(self, backend: Any, other: Any, clock: Any, start_process: Any) -> None:
        self.backend = backend
        self.other = other
        self.clock = clock
        self.start_process = start_process
        self.process: Any = None
        self.queue = JobQueue(backend, threads=0)
        self.uid = ""
        self.seen: str | None = None
        self._claim: Claim | None = None
        self._jobs = 0

    def enqueue(self, **options: Any) -> None:
        """Enqueue a job that is claimed before all earlier ones."""
        self._jobs += 1
        self._claim = self.seen = None
        self.uid = self.queue.enqueue(
            Call(run_body, (), None), TaskOptions(priority=self._jobs, **options), None
        ).id

    def claim(self, worker_id: WorkerId) -> bool:
        """Claim one job; False, and it is released, if that is another one."""
        claims = self.backend.claim(worker_id, None, 1)
        if [claim.job.uid for claim in claims] != [self.uid]:
            self.backend.release(claims)
            return False
        [self._claim] = claims
        return True

    @property
    def held(self) -> Claim:
        assert self._claim is not None
        return self._claim

    @held.setter
    def held(self, claim: Claim) -> None:
        self._claim = claim

    def bring(self, state: str) -> None:
        """Bring the job from RUNNING into a state."""
        backend, claim = self.backend, self.held
        if state in OUTCOMES:
            assert backend.finish(claim, OUTCOMES[state])
        if state == "none":
            self.clock.advance(RETENTION_SECONDS)
            assert backend.prune()
        if state in ("AVAILABLE", HELD_LATER):
            backend.release([claim])
        if state == HELD_LATER:
            [later] = backend.claim(LATER, None, 1)
            assert later.job.uid == self.uid
        if state == "CANCELLING":
            assert backend.cancel(self.uid)
        if state == "COMPLETING":
            assert backend.fence(claim)

    def state(self) -> str:
        """Tell the state; the last question, as it may cancel the job."""
        found = self.backend.get(self.uid)
        if found is None:
            return "none"
        if found.status is READY:
            is_delayed = found.run_at is not None and found.run_at > self.clock.now()
            return self._checked("SCHEDULED" if is_delayed else "AVAILABLE")
        if found.status.is_final:
            [state] = [state for state in ENDED if NUMBERS[state][0] == found.status]
            return self._checked(state)
        self._checked("RUNNING")
        standing = self.backend.standing(self.held, fresh=True)
        if standing is Standing.CANCELLED:
            return "CANCELLING"
        if standing is Standing.LOST:
            return HELD_LATER
        return "RUNNING" if self.backend.cancel(self.uid) else "COMPLETING"

    def _checked(self, state: str) -> str:
        """Compare status and number of a state with those of the page."""
        status, number = NUMBERS[state]
        assert self.backend.get(self.uid).status == status
        if self.other is not None:
            jobs = self.backend.tables.jobs
            wanted = select(jobs.c.state).where(jobs.c.uid == self.uid)
            with self.backend.engine.connect() as connection:
                assert connection.execute(wanted).scalar() == int(number)
        return state


# -- events


@dataclass(frozen=True)
class Event:
    """What may happen to a job.

    happen: does it, and tells whether it was accepted; None: it was if the state has changed.
    in_job: whether it happens inside the job. new: whether it makes the job. dies: whether the
    job is claimed by a worker of another process.
    """

    happen: Callable[[Stage], bool | None]
    in_job: bool = False
    new: bool = False
    dies: bool = False
    max_attempts: int = 1
    backoff: float = DELAY_SECONDS
    max_crashes: int = 3


def perform(stage: Stage, event: Event, state: str) -> str:
    """Let an event happen to a new job in a state; the state after it, or REFUSED."""
    accepted: list[bool | None] = []

    def bring_and_happen() -> None:
        stage.bring(state)
        accepted.append(event.happen(stage))

    def run() -> None:
        stage.held = attempt_var.get().claim  # type: ignore[union-attr]
        bring_and_happen()

    if event.new:
        accepted.append(event.happen(stage))
    elif event.in_job:
        body.append(run)
        stage.enqueue(max_attempts=event.max_attempts, backoff=event.backoff)
        assert stage.queue.run_pending(limit=1) == 1
    else:
        stage.process = stage.start_process() if event.dies else None
        stage.enqueue()
        own = WorkerId(f"worker-{stage.uid[-16:]}")
        assert stage.claim(stage.process.worker_id() if event.dies else own)
        bring_and_happen()

    after = stage.seen or stage.state()
    told = accepted[0] if accepted else None
    if told is None:
        told = after != state
    assert told or after == state, f"{state}: it was refused, and the job is {after}"
    return after if told else REFUSED


def enqueue(stage: Stage, **options: Any) -> bool:
    job = a_job(stage.backend, **options)
    stage.backend.enqueue([job])
    stage.uid = job.uid
    return True


def let_its_time_come(stage: Stage) -> None:
    stage.clock.advance(DELAY_SECONDS)
    stage.backend.claim(WorkerId("of another queue"), ["another"], 1)


def cancel(stage: Stage) -> bool:
    with suppress(UnknownJob):
        return stage.queue.result(stage.uid).cancel()
    return False


def retry(stage: Stage) -> bool:
    with suppress(UnknownJob):
        return stage.queue.result(stage.uid).retry()
    return False


def prune(stage: Stage) -> bool:
    stage.clock.advance(RETENTION_SECONDS)
    return bool(stage.backend.prune())


def purge(stage: Stage) -> bool:
    return bool(stage.backend.purge([stage.uid]))


def checkpoint(stage: Stage) -> bool:
    asyncjob_set_progress(1)
    stage.seen = stage.state()
    return True


def fail(_stage: Stage) -> bool | None:
    raise ValueError("three is not a colour")


def fail_as_cancelled(_stage: Stage) -> bool | None:
    raise JobCancelled


def lose_the_database(stage: Stage) -> bool | None:
    # Which errors are such a loss is tested in test_sql_outcomes.py.
    stage.backend.is_loss = lambda error: isinstance(error, ConnectionError)
    raise ConnectionError("the server is gone")


def end_child(stage: Stage) -> bool:
    outcome = retry_policy.after_crash(WorkerCrashed("its process was killed"), stage.held)
    return bool(stage.backend.finish(stage.held, outcome))


def end_worker(stage: Stage) -> bool:
    stage.process.die()
    return bool(stage.other.rescue())


def be_silent(stage: Stage) -> bool:
    rescued = 0
    for _ in range(5):
        rescued += stage.other.rescue()
        stage.clock.advance(LEASE_SECONDS / 2)
        stage.backend.heartbeat(LATER)
    return bool(rescued)


EVENTS = {
    "enqueue": Event(enqueue, new=True),
    "enqueue with run_after": Event(
        lambda stage: enqueue(stage, run_after=timedelta(seconds=DELAY_SECONDS)), new=True
    ),
    "its time comes": Event(let_its_time_come),
    "claim": Event(lambda stage: stage.claim(WorkerId("another"))),
    "cancel": Event(cancel),
    "retry by an operator": Event(retry),
    "prune, after retention": Event(prune),
    "purge (sql)": Event(purge),
    "checkpoint": Event(checkpoint, in_job=True),
    "returns": Event(lambda _stage: None, in_job=True),
    "raises, attempts left": Event(fail, in_job=True, max_attempts=2),
    "raises, attempts left, backoff=0": Event(fail, in_job=True, max_attempts=2, backoff=0),
    "raises, no attempts left": Event(fail, in_job=True),
    "raises JobCancelled": Event(fail_as_cancelled, in_job=True),
    "is released (drain, prefetched)": Event(lambda stage: stage.backend.release([stage.held])),
    "child process dies": Event(end_child),
    "child process dies, no crashes left": Event(end_child, max_crashes=1),
    "loses the database of the jobs (sql)": Event(lose_the_database, in_job=True),
    "worker dies (sql)": Event(end_worker, dies=True),
    "worker dies, no crashes left (sql)": Event(end_worker, dies=True, max_crashes=1),
    "worker is silent for lease (sql)": Event(be_silent),
}


# -- the tests


@pytest.fixture(scope="module")
def database_of(tmp_path_factory: Any) -> Iterator[Callable[[str], Database]]:
    """Gives the tables of each database, which it makes once."""
    made: dict[str, Database] = {}

    def give(kind: str) -> Database:
        if kind not in made:
            made[kind] = Database(url_of(kind, tmp_path_factory.mktemp("states")))
        return made[kind]

    yield give
    for each in made.values():
        each.drop()


@pytest.fixture
def kind(request: Any, database_of: Callable[[str], Database]) -> Database | None:
    """The tables of a database; None: memory."""
    return None if request.param == "memory" else database_of(request.param)


@pytest.fixture
def make_stage(
    kind: Database | None, clock: Any, other_process: Any
) -> Iterator[Callable[[Event], Stage]]:
    backends: list[Any] = []
    queues: list[JobQueue] = []

    def make_backend(event: Event) -> Any:
        options = {"retention_seconds": RETENTION_SECONDS, "max_crashes": event.max_crashes}
        if kind is None:
            return MemoryBackend(clock=clock, **options)
        backends.append(
            kind.backend(clock=clock, monotonic=clock, lease_seconds=LEASE_SECONDS, **options)
        )
        return backends[-1]

    def make(event: Event) -> Stage:
        other = None if kind is None else make_backend(event)
        stage = Stage(make_backend(event), other, clock, other_process)
        queues.append(stage.queue)
        return stage

    yield make
    if kind is not None:
        kind.empty(backends[0])
    for each in (*queues, *backends):
        each.close()
    body.clear()


def rows_by_backend() -> list[Any]:
    rows = []
    for kind in ("memory", "sqlite", *SERVERS):
        for name in EVENTS:
            if kind != "memory" or not name.endswith("(sql)"):
                marks = [pytest.mark.slow] if kind in SERVERS else []
                rows.append(pytest.param(kind, name, id=f"{kind}-{name}", marks=marks))
    return rows


@pytest.mark.parametrize(("kind", "name"), rows_by_backend(), indirect=["kind"])
def test_cells_of_the_row_are_what_happens(make_stage: Any, name: str) -> None:
    stage = make_stage(EVENTS[name])
    expected = CELLS[name]

    found = {state: perform(stage, EVENTS[name], state) for state in expected}

    assert found == expected


def test_every_row_is_performed() -> None:
    assert list(EVENTS) == list(CELLS)


@pytest.mark.parametrize("name", EVENTS)
def test_row_has_a_cell_for_every_state_that_can_occur(name: str) -> None:
    states = {"none"} if EVENTS[name].new else set(NUMBERS)

    assert set(CELLS[name]) - {HELD_LATER} == states


def test_states_that_the_cells_name_are_those_of_the_first_table() -> None:
    named = {cell for cells in CELLS.values() for cell in cells.values()} - {REFUSED}
    columns = {state for cells in CELLS.values() for state in cells} - {HELD_LATER}

    assert named | columns == set(NUMBERS)


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
def test_wrong_cell_is_noticed(make_stage: Any) -> None:
    name = "raises, no attempts left"
    row = next(line for line in TEXT.splitlines() if line.startswith(name))
    wrong = cells_of(TEXT.replace(row, row.replace("FAILED   ", "CANCELLED", 1)))

    found = perform(make_stage(EVENTS[name]), EVENTS[name], "RUNNING")

    assert (CELLS[name]["RUNNING"], wrong[name]["RUNNING"]) == ("FAILED", "CANCELLED")
    assert found == "FAILED"
