"""A process that lends its threads to a worker: what a message costs, signals, forks, the end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import transaction
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError

import sqlqueues
from clocks import Gate
from own_servers import _free_port
from sqlqueues import Place, hooks, nothing, options_of, place_of, write_one
from tgext.asyncjob import JobQueue, TaskResultStatus, task
from tgext.asyncjob.fleet import host as hosts
from tgext.asyncjob.fleet.host import Host
from tgext.asyncjob.transactions.fork_check import keep_to_process
from tgext.asyncjob.worker import hosted

READY, RUNNING = TaskResultStatus.READY, TaskResultStatus.RUNNING
SUCCESSFUL, FAILED = TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED

PATIENCE_SECONDS = 60


@pytest.fixture(scope="module", params=sqlqueues.KINDS)
def module_place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def place(module_place: Place) -> Iterator[Place]:
    yield module_place
    transaction.abort()
    module_place.close_queues()
    module_place.empty()
    hooks.clear()


@pytest.fixture
def queue(place: Place) -> Iterator[JobQueue]:
    """A queue on Celery whose broker is away."""
    broker = f"redis://127.0.0.1:{_free_port()}/0"
    with place.queue(engine="celery", broker_url=broker, drain_timeout=1).as_current():
        yield place._open[-1]


@pytest.fixture
def host(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """One that claims for as long as there are jobs, however slow the machine is."""
    monkeypatch.setattr(hosts, "CLAIM_SECONDS", float(PATIENCE_SECONDS))
    made = Host(queue, threads=2, queues=None)
    yield made
    made.close()


def statements(queue: JobQueue) -> list[str]:
    """The statements of this thread on the queue's own connections, from now on."""
    found: list[str] = []
    mine = threading.get_ident()

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if threading.get_ident() == mine:
            found.append(statement)

    backend: Any = queue.backend
    event.listen(backend._dialect.engine, "before_cursor_execute", note)
    return found


def test_message_runs_what_waits(host: Host, queue: JobQueue, place: Place) -> None:
    for number in range(5):
        queue.perform(write_one, f"{number}")

    assert host.run("default") == 5
    assert [name for name, _ in place.written()] == [f"{number}" for number in range(5)]


def test_job_that_was_claimed_runs_though_no_more_can_be_looked_for(
    host: Host, queue: JobQueue, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection may break right after the claim, which this worker would hold for ever."""

    def is_away(_name: str) -> None:
        raise OperationalError("SELECT 1", {}, Exception("the server went away"))

    backend: Any = queue.backend
    monkeypatch.setattr(backend.relay, "pass_on", is_away)
    uid = queue.perform(write_one, "once")
    host.run("default")

    assert queue.result(uid).status is SUCCESSFUL
    assert place.written() == [("once", 1)]


def test_stale_message_costs_one_read(host: Host, queue: JobQueue, place: Place) -> None:
    """That of a claim, of which test_sql_explain knows that it is indexed."""
    host.run("default")
    found = statements(queue)
    assert host.run("default") == 0
    assert host.run("no-such-queue") == 0

    reads = [
        each for each in found if each.lstrip().upper().startswith(("SELECT", "WITH", "UPDATE"))
    ]
    assert len(reads) == 2


@pytest.mark.parametrize(
    "forged", [(), (1,), (None,), (["default"],), ("default", "default"), ("a b",), ("x" * 500,)]
)
def test_malformed_message_costs_nothing(host: Host, queue: JobQueue, forged: Any) -> None:
    queue.perform(nothing)
    found = statements(queue)

    assert host.run(*forged) == 0
    assert found == []


def test_several_threads_are_lent_at_once(host: Host, queue: JobQueue, place: Place) -> None:
    together = threading.Barrier(2)
    hooks["together"] = lambda: together.wait(PATIENCE_SECONDS)
    uids = [queue.perform(sqlqueues.after_hook, "together") for _ in range(2)]
    threads = [threading.Thread(target=host.run, args=("default",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)

    assert [queue.result(uid).status for uid in uids] == [SUCCESSFUL] * 2


def test_signal_in_a_job_is_raised_again_after_its_commit(
    host: Host, queue: JobQueue, place: Place
) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    try:

        def strike() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            heard_in_job.extend(heard)

        heard_in_job: list[int] = []
        hooks["strike"] = strike
        uid = queue.perform(sqlqueues.hook_after_writing, "strike", "kept")
        host.run("default")
    finally:
        signal.signal(signal.SIGTERM, before)

    assert heard_in_job == []
    assert heard == [signal.SIGTERM]
    assert place.written() == [("kept", 1)]
    assert queue.backend.get(uid).status is SUCCESSFUL  # type: ignore[union-attr]


def test_soft_time_limit_of_celery_does_not_interrupt_a_job(
    host: Host, queue: JobQueue, place: Place
) -> None:
    hooks["strike"] = lambda: os.kill(os.getpid(), signal.SIGUSR1)
    queue.perform(sqlqueues.hook_after_writing, "strike", "kept")
    host.run("default")

    assert place.written() == [("kept", 1)]


def test_host_that_drains_claims_nothing_more(host: Host, queue: JobQueue, gate: Gate) -> None:
    hooks["hold"] = gate.enter
    held = queue.perform(sqlqueues.after_hook, "hold")
    thread = threading.Thread(target=host.run, args=("default",))
    thread.start()
    gate.wait_for()
    waiting = queue.perform(nothing)
    host.begin_drain()
    assert host._worker._stopping.wait(PATIENCE_SECONDS)
    gate.open()
    thread.join(PATIENCE_SECONDS)
    host.close()

    assert not thread.is_alive()
    assert host.run("default") == 0
    with JobQueue("sql", session=queue.session, table_prefix=sqlqueues.PREFIX, threads=0) as other:
        assert other.result(held).status is SUCCESSFUL
        assert other.result(waiting).status is READY


def test_thread_that_hangs_in_an_abandoned_job_is_told_of(
    host: Host, queue: JobQueue, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "STUCK_SECONDS", 0.05)
    told = threading.Event()
    host._worker.on_stuck = told.set

    hooks["hold"] = gate.enter
    result = task(timeout=0.1, max_attempts=1)(sqlqueues.after_hook).enqueue("hold")
    thread = threading.Thread(target=host.run, args=("default",))
    thread.start()

    assert told.wait(PATIENCE_SECONDS)
    gate.open()
    thread.join(PATIENCE_SECONDS)
    assert result.wait(PATIENCE_SECONDS).status is FAILED


def test_connection_of_a_parent_is_not_used_in_a_child(place: Place) -> None:
    engine = create_engine(place.url, **options_of(place.url))
    keep_to_process(engine)
    keep_to_process(engine)  # once is enough
    engine.connect().close()
    with engine.connect() as connection:
        record: Any = connection.connection._connection_record  # type: ignore[union-attr]
        driver = connection.connection.dbapi_connection
        record.info["asyncjob_pid"] = os.getppid()  # as in a child
    with engine.connect() as connection:
        other = connection.connection.dbapi_connection
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1

    assert other is not driver
    driver.close()  # type: ignore[union-attr]
    engine.dispose()
