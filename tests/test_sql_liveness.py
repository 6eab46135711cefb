"""A worker that lives is not taken for dead, whatever clocks, files and connections do."""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, select

from backend_contract import DONE, claim_one, enqueued, status_of
from clocks import FakeClock, rescued_meanwhile
from databases import sqlite_with_tables, url_of
from sqlqueues import KINDS
from tgext.asyncjob import JobQueue
from tgext.asyncjob.backends.base import Standing
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.backends.sql.liveness import HeartbeatConnection
from tgext.asyncjob.backends.sql.silence import MOST_SECONDS, Silence
from tgext.asyncjob.backends.worker_id import new_worker_id
from tgext.asyncjob.job import FAILED, READY, RUNNING, WorkerId

#: One for all tests, each of which makes its tables anew: their statements are compiled once.
PREFIX = f"l{uuid.uuid4().hex[:8]}_"

#: Of a worker in another container: its kernel's name says nothing here.
ELSEWHERE = WorkerId("1-81234-000000000000-20s-5d41402abc4b")


class Field:
    """Backends as different processes have them. time: by which each tells who is silent;
    database: the database's clock."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.time, self.database = FakeClock(), FakeClock()
        self._made: list[SqlBackend] = []

    def backend(self, **options: Any) -> SqlBackend:
        made = SqlBackend(
            create_engine(self.url), prefix=PREFIX, clock=self.database, lease_seconds=20,
            monotonic=self.time, **options,
        )  # fmt: skip
        made.open(create_tables=True)
        self._made.append(made)
        return made

    def drop(self) -> None:
        for made in self._made:
            made.close()
        for made in self._made:
            made.tables.metadata.drop_all(made.engine)
            made.engine.dispose()


@pytest.fixture(params=KINDS)
def field(request: Any, tmp_path: Path) -> Iterator[Field]:
    url = sqlite_with_tables(tmp_path, PREFIX) if request.param == "sqlite" else None
    made = Field(url or url_of(request.param, tmp_path))
    yield made
    made.drop()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Field]:
    made = Field(sqlite_with_tables(tmp_path, PREFIX))
    yield made
    made.drop()


# -- silence


def test_job_that_was_given_back_and_claimed_anew_is_not_taken_for_lost(field):
    """Between a heartbeat's two looks, the one at what it holds and the one at the table."""
    backend = field.backend()
    uid = enqueued(backend)
    first = claim_one(backend, ELSEWHERE)
    forget = backend._forget
    backend._forget = lambda _claims: None  # the thread that gives it back comes to it later
    backend.release([first])
    second = claim_one(backend, ELSEWHERE)

    lost = backend.heartbeat(ELSEWHERE)

    forget([first])
    assert lost == [(uid, first.lease)]
    assert second.lease != first.lease
    assert backend.heartbeat(ELSEWHERE) == []


@pytest.mark.parametrize("step", [-7200, -60, 60, 7200])
def test_worker_that_beats_is_not_given_up_when_the_databases_clock_is_set(field, step):
    busy, other = field.backend(), field.backend()
    uid = enqueued(busy)
    claim = claim_one(busy, ELSEWHERE)
    rescued = rescued_meanwhile(other, field.time, 5)

    field.database.advance(step)
    other.prune()
    for _ in range(8):
        rescued += rescued_meanwhile(other, field.time, 5)
        busy.heartbeat(ELSEWHERE)
        other.prune()

    assert rescued == 0
    assert busy.standing(claim) is Standing.HELD
    assert status_of(other, uid) is RUNNING


def test_worker_that_beats_lives_also_while_the_databases_clock_stands_still(field):
    busy, other = field.backend(), field.backend()
    enqueued(busy)
    claim_one(busy, ELSEWHERE)

    rescued = 0
    for _ in range(8):
        rescued += rescued_meanwhile(other, field.time, 5)
        busy.heartbeat(ELSEWHERE)

    assert rescued == 0


def test_silent_worker_is_given_up_after_its_lease_and_not_before(field):
    silent, other = field.backend(), field.backend()
    uid = enqueued(silent)
    claim_one(silent, ELSEWHERE)

    before = rescued_meanwhile(other, field.time, 19.5)
    silent.heartbeat(ELSEWHERE)
    before += rescued_meanwhile(other, field.time, 19.5)
    rescued = rescued_meanwhile(other, field.time, 3)

    assert (before, rescued) == (0, 1)
    assert status_of(other, uid) is READY
    assert silent.heartbeat(ELSEWHERE) == [(uid, 1)]


def test_worker_is_given_up_by_its_own_lease_not_by_that_of_who_looks(field):
    busy, other = field.backend(), field.backend()
    patient = new_worker_id(60)
    enqueued(busy)
    claim_one(busy, patient)

    before = rescued_meanwhile(other, field.time, 55)

    assert (before, rescued_meanwhile(other, field.time, 8)) == (0, 1)


def test_silence_alone_is_no_crash_of_the_job(field):
    other = field.backend()
    uid = enqueued(other)
    silent = field.backend()
    claim = claim_one(silent, ELSEWHERE)

    assert rescued_meanwhile(other, field.time, 25) == 1

    found = other.get(uid)
    assert (found.status, found.attempts, found.crashes, found.errors) == (READY, 0, 0, ())
    assert silent.finish(claim, DONE) is False


def test_job_whose_workers_fall_silent_again_and_again_fails_in_the_end(field):
    """As one does that hangs the machine: the first time is chance, and then it ran alone."""
    other = field.backend()
    uid = enqueued(other)
    for number in range(4):
        claim_one(field.backend(), f"1-{number}-000000000000-5d41402abc4b")
        assert rescued_meanwhile(other, field.time, 25) == 1

    found = other.get(uid)
    assert (found.status, found.crashes, len(found.errors)) == (FAILED, 3, 3)
    assert "was silent for more than 20 s" in found.errors[-1].message


def test_silence_is_counted_from_look_to_look_and_little_of_a_long_pause():
    clock = FakeClock()
    silence = Silence(20, clock)
    look(silence, {"w": 1.0})
    for _ in range(3):
        clock.advance(3600)  # who looks was stopped, or suspended
        look(silence, {"w": 1.0})
    after_pauses = silence.is_over_lease("w")
    for _ in range(4):
        clock.advance(MOST_SECONDS)
        look(silence, {"w": 1.0})

    assert (after_pauses, silence.is_over_lease("w")) == (False, True)


def test_look_that_fails_counts_for_nothing():
    clock = FakeClock()
    silence = Silence(1, clock)
    look(silence, {"w": 1.0})
    for _ in range(10):
        clock.advance(0.5)
        silence.look()  # the database is away, and so it is for the worker
    look(silence, {"w": 1.0})
    clock.advance(0.5)
    look(silence, {"w": 1.0})

    assert silence.is_over_lease("w") is False


def look(silence: Silence, said: dict[str, float]) -> None:
    silence.look()
    silence.note(said)


def test_database_that_was_away_for_long_gives_nobody_up(field, monkeypatch):
    busy, other = field.backend(), field.backend()
    enqueued(busy)
    claim_one(busy, ELSEWHERE)
    assert other.rescue() == 0
    with monkeypatch.context() as patched:
        patched.setattr(other._dialect.side_database.pool, "connect", away)
        for _ in range(100):
            field.time.advance(1.5)
            with pytest.raises(ConnectionError):
                other.rescue()

    assert other.rescue() == 0
    busy.heartbeat(ELSEWHERE)
    assert rescued_meanwhile(other, field.time, 15) == 0


def away() -> Any:
    raise ConnectionError


@contextmanager
def refused(backend: SqlBackend, _time: FakeClock) -> Iterator[None]:
    """Let this process's connections for heartbeats take no writes."""
    side = backend._dialect.side_database

    def forbid(connection: Any, _record: Any) -> None:
        connection.cursor().execute(NO_WRITES[side.dialect.name])

    def begin_anew() -> None:
        side.dispose()
        if isinstance(backend._liveness, HeartbeatConnection):
            backend._liveness._drop()

    event.listen(side, "connect", forbid)
    begin_anew()
    yield
    event.remove(side, "connect", forbid)
    begin_anew()


#: Statements after which a connection takes no writes.
NO_WRITES = {
    "sqlite": "PRAGMA query_only = 1",
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
}


@contextmanager
def kept_waiting(backend: SqlBackend, time: FakeClock) -> Iterator[None]:
    """Let this process's heartbeats wait for a lock, as a backup holds it."""
    heartbeat = backend._registry.heartbeat

    def late(worker_id: str) -> None:
        time.advance(5)
        heartbeat(worker_id)

    backend._registry.heartbeat = late  # type: ignore[method-assign]
    yield
    backend._registry.heartbeat = heartbeat  # type: ignore[method-assign]


@pytest.mark.parametrize("hindered", [refused, kept_waiting])
def test_worker_whose_own_beats_do_not_come_through_gives_nobody_up(field, hindered):
    busy, other = field.backend(), field.backend()
    enqueued(busy)
    claim_one(busy, ELSEWHERE)
    other.register(WorkerId("1-81235-000000000000-20s-5d41402abc4c"), None, 1)

    with hindered(other, field.time):
        rescued = rescued_meanwhile(other, field.time, 60)
    rescued += rescued_meanwhile(other, field.time, 5)  # a heartbeat comes by then
    busy.heartbeat(ELSEWHERE)
    rescued += rescued_meanwhile(other, field.time, 19)

    assert (rescued, rescued_meanwhile(other, field.time, 5)) == (0, 1)


def test_job_of_a_worker_that_was_not_watched_for_long_enough_is_in_doubt(field):
    silent, other = field.backend(), field.backend()
    enqueued(silent)
    claim_one(silent, ELSEWHERE)
    told = [other.is_in_doubt()]
    for step in (21, -42):
        field.database.advance(step)
        told.append(other.is_in_doubt())
    rescued_meanwhile(other, field.time, 25)

    assert told == [False, True, True]
    assert other.is_in_doubt() is False


def test_job_whose_rescue_is_about_to_begin_is_claimed_by_one_who_is_not_in_doubt(
    field, monkeypatch
):
    """The thread that asks would leave, had it found nothing then."""
    silent, other = field.backend(), field.backend()
    uid = enqueued(silent)
    claim_one(silent, ELSEWHERE)
    field.database.advance(60)
    with monkeypatch.context() as patch:
        patch.setattr(other._registry._rescue, "from_worker", lambda _worker: 0)
        rescued = rescued_meanwhile(other, field.time, 25)

    assert (rescued, other.is_in_doubt()) == (0, False)
    assert claim_one(other, new_worker_id()).job.uid == uid


@pytest.mark.parametrize("kind", KINDS)
def test_burst_stays_until_it_has_watched_a_silent_worker_for_its_lease(kind, tmp_path):
    """As a CronJob's pod does, when the one before was killed."""
    options = {"url": url_of(kind, tmp_path), "table_prefix": f"b{uuid.uuid4().hex[:8]}_"}
    with JobQueue("sql", threads=0, **options) as first, JobQueue("sql", **options) as burst:
        uid = first.perform(len, "ab")
        killed = WorkerId("1-81234-000000000000-1s-5d41402abc4b")
        claim_one(first.backend, killed)
        workers = first.backend.tables.workers
        with first.backend._dialect.side_database.connect() as connection:
            connection.execute(workers.update().values(seen_at=workers.c.seen_at - 3600))
        burst.local_worker.arrange(threads=1, leave_after=math.inf)

        burst.start_worker()
        until, pause = time.monotonic() + 30, threading.Event()
        while not burst.local_worker.has_left and time.monotonic() < until:
            pause.wait(0.02)

        assert burst.local_worker.has_left
        assert (first.result(uid).status, first.result(uid).attempts) == ("SUCCESSFUL", 1)
        tables = first.backend.tables.metadata
        engine = create_engine(options["url"])
    tables.drop_all(engine)
    engine.dispose()


def test_what_a_dismissed_worker_still_holds_waits_again_at_once_and_is_no_crash(field):
    leaving, other = field.backend(), field.backend()
    uid = enqueued(leaving)
    worker_id = new_worker_id()
    claim_one(leaving, worker_id)
    other.rescue()

    leaving.dismiss(worker_id)

    assert other.rescue() == 1
    assert (status_of(other, uid), other.get(uid).errors) == (READY, ())
    assert claim_one(leaving, worker_id).job.uid == uid  # it may come back
    assert other.rescue() == 0


def test_death_of_a_process_whose_worker_has_left_is_nobodys_crash(field, other_process):
    leaving, other, process = field.backend(), field.backend(), other_process()
    uid = enqueued(leaving)
    worker_id = process.worker_id()
    claim_one(leaving, worker_id)
    leaving.dismiss(worker_id)
    process.die()

    assert other.rescue() == 1
    found = other.get(uid)
    assert (found.status, found.crashes, found.errors) == (READY, 0, ())


# -- proofs


def test_worker_whose_connections_are_lost_is_not_dead(field):
    busy, other = field.backend(), field.backend()
    uid = enqueued(busy)
    claim_one(busy, new_worker_id())
    busy._liveness.close()  # on SQLite the lock

    assert other.rescue() == 0
    assert status_of(other, uid) is RUNNING


def test_worker_that_the_kernel_knows_to_be_dead_is_given_up_at_once(field, other_process):
    busy, other, process = field.backend(), field.backend(), other_process()
    uid = enqueued(busy)
    claim_one(busy, process.worker_id())
    before = other.rescue()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert (before, other.rescue()) == (0, 1)
    assert status_of(other, uid) is READY


def test_dead_worker_that_is_not_in_the_registry_is_found_at_the_next_pruning(field, other_process):
    dead, other, process = field.backend(), field.backend(), other_process()
    uid = enqueued(dead)
    worker_id = process.worker_id()
    claim_one(dead, worker_id)
    workers = dead.tables.workers
    with dead._dialect.side_database.connect() as connection:
        connection.execute(workers.delete())
    process.die()

    other.prune()

    assert status_of(other, uid) is READY


def lock_of(backend: SqlBackend, worker_id: str) -> Path:
    return Path(f"{backend.engine.url.database}-asyncjob-{worker_id}")


def test_worker_of_another_container_is_dead_when_its_lock_is_let_go(files):
    busy, other = files.backend(), files.backend()
    uid = enqueued(busy)
    claim_one(busy, ELSEWHERE)
    before = other.rescue()
    busy._liveness.after_fork()  # as the kernel does when the process ends

    assert (before, other.rescue()) == (0, 1)
    assert status_of(other, uid) is READY
    assert not lock_of(busy, ELSEWHERE).exists()


def removed(lock: Path) -> None:
    lock.unlink()


def emptied(lock: Path) -> None:
    lock.write_text("")


def replaced_by_a_copy(lock: Path) -> None:
    shutil.copy(lock, lock.with_name("copy"))
    os.replace(lock.with_name("copy"), lock)


def turned_into_a_folder(lock: Path) -> None:
    lock.unlink()
    lock.mkdir()


@pytest.mark.parametrize("change", [removed, emptied, replaced_by_a_copy, turned_into_a_folder])
@pytest.mark.parametrize("worker_id", [ELSEWHERE, new_worker_id()], ids=["elsewhere", "here"])
def test_worker_whose_lock_is_changed_by_others_is_not_dead(files, change, worker_id):
    busy, other = files.backend(), files.backend()
    uid = enqueued(busy)
    claim_one(busy, worker_id)

    change(lock_of(busy, worker_id))

    assert other.rescue() == 0
    assert status_of(other, uid) is RUNNING


@pytest.mark.parametrize("change", [removed, replaced_by_a_copy])
def test_lock_that_is_gone_is_made_anew_by_the_next_beat(files, change):
    busy, other = files.backend(), files.backend()
    enqueued(busy)
    claim_one(busy, ELSEWHERE)
    change(lock_of(busy, ELSEWHERE))

    busy.heartbeat(ELSEWHERE)
    before = other.rescue()
    busy._liveness.after_fork()

    assert (before, other.rescue()) == (0, 1)


def test_registry_whose_file_is_removed_is_made_anew_by_the_next_beats(files):
    busy, other = files.backend(), files.backend()
    uid = enqueued(busy)
    claim_one(busy, ELSEWHERE)
    assert other.rescue() == 0

    for name in ("", "-wal", "-shm"):
        Path(f"{busy.schema.side_file}{name}").unlink(missing_ok=True)
    late = files.backend()  # of a process that comes after that
    rescued = 0
    for _ in range(8):
        busy.heartbeat(ELSEWHERE)
        rescued += late.prune() + rescued_meanwhile(late, files.time, 5)

    assert (rescued, status_of(late, uid)) == (0, RUNNING)
    assert [seen.worker_id for seen in other.overview.workers()] == [ELSEWHERE]


def test_lock_whose_descriptor_a_job_has_closed_is_made_anew_and_closes_nobody_elses(
    files, tmp_path
):
    busy, other = files.backend(), files.backend()
    enqueued(busy)
    claim_one(busy, ELSEWHERE)
    number = busy._liveness._held[ELSEWHERE].descriptor
    with open(tmp_path / "another's", "w") as another:
        os.dup2(another.fileno(), number)

        busy.heartbeat(ELSEWHERE)

        assert os.fstat(number).st_ino == os.fstat(another.fileno()).st_ino
        os.close(number)
    assert other.rescue() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to be another user")
def test_lock_of_another_user_proves_nothing(files):
    busy, other = files.backend(), files.backend()
    enqueued(busy)
    claim_one(busy, ELSEWHERE)
    lock = lock_of(busy, ELSEWHERE)
    lock.chmod(0o600)
    busy._liveness.after_fork()

    os.seteuid(65534)
    try:
        is_dead = other._liveness.is_dead(ELSEWHERE)
    finally:
        os.seteuid(0)

    assert (is_dead, other._liveness.is_dead(ELSEWHERE)) == (False, True)


def test_worker_that_cannot_make_its_lock_works_and_says_what_is_different(
    files, monkeypatch, caplog
):
    busy = files.backend()
    enqueued(busy)
    monkeypatch.setattr(busy._liveness, "_lock", read_only)

    claim_one(busy, ELSEWHERE)
    busy.heartbeat(ELSEWHERE)

    assert caplog.text.count("only after asyncjob.lease") == 1
    with busy._dialect.side_database.connect() as connection:
        assert connection.execute(select(busy.tables.workers.c.provable)).scalar_one() is False


def read_only(_path: Path) -> Any:
    raise PermissionError("Read-only file system")
