"""What goes wrong around a fleet, one at a time, and what has become of the jobs then.

The broker is a Redis of the module's own: it is stopped, emptied and started. One worker with two
children lives through all of it. How processes end is test_celery_ends'.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import transaction
from kombu import Connection  # type: ignore[attr-defined]
from sqlalchemy import text

from celery_fleet import (
    LOADS_VARIABLE,
    PATIENCE_SECONDS,
    CeleryWorker,
    Fleet,
    fleet_of,
    until,
)
from own_brokers import OwnRedis, own_redis
from sqlqueues import PREFIX, Place, place_of, write_one
from tgext.asyncjob import JobQueue, TaskResultStatus, task
from worker_contract import start_waiting

FAILED, RUNNING = TaskResultStatus.FAILED, TaskResultStatus.RUNNING

pytestmark = pytest.mark.slow

#: Jobs that wait when the broker is emptied; ``python -m crash.emptied`` takes 10,000.
WAITING = 300


def hang_in_c(path: str) -> None:
    """Never return, and let nobody interrupt it, unless a file is there."""
    if not os.path.exists(path):
        Path(path).touch()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(600)


hung = task(timeout=0.5, max_attempts=1)(hang_in_c)


@pytest.fixture(scope="module")
def module_place(tmp_path_factory: Any) -> Iterator[Place]:
    with place_of("postgresql", tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture(scope="module")
def redis() -> Iterator[OwnRedis]:
    with own_redis() as made:
        yield made


@pytest.fixture(scope="module")
def loads(tmp_path_factory: Any) -> Path:
    """Where each process that loads the application notes its pid."""
    return Path(tmp_path_factory.mktemp("loads"), "pids")


@pytest.fixture(scope="module")
def fleet(
    module_place: Place, redis: OwnRedis, loads: Path, tmp_path_factory: Any
) -> Iterator[Fleet]:
    folder, url = tmp_path_factory.mktemp("fleet"), module_place.url
    with fleet_of("redis", url, folder, broker=redis.url, drain_timeout=1) as made:
        made.start("-c", "2", variables={LOADS_VARIABLE: str(loads)})
        yield made


@pytest.fixture
def worker(fleet: Fleet) -> CeleryWorker:
    return fleet.workers[0]


@pytest.fixture
def place(module_place: Place) -> Iterator[Place]:
    yield module_place
    transaction.abort()
    module_place.close_queues()
    module_place.empty()


@pytest.fixture
def queue(fleet: Fleet, place: Place) -> Iterator[JobQueue]:
    with fleet.queue() as made, made.as_current():
        yield made


def received(worker: CeleryWorker) -> int:
    """How many messages a worker has received."""
    return len(re.findall(r"asyncjob\.run\[\S+\] received", worker.text()))


# -- the broker


def test_broker_that_was_emptied_loses_no_job_and_needs_few_messages(
    worker: CeleryWorker, queue: JobQueue, place: Place, redis: OwnRedis
) -> None:
    before = received(worker)
    queue.pause("default")
    with queue.session_scope():
        for number in range(WAITING):
            queue.perform(write_one, f"{number}")
    redis.empty()
    with place.queue() as silent:  # of engine own: it publishes nothing
        silent.resume("default")

    until(lambda: len(place.written()) == WAITING, "all effects")
    assert len({name for name, _ in place.written()}) == WAITING
    assert received(worker) - before <= 2 * WAITING


def lost_its_broker(worker: CeleryWorker, begin: int) -> bool:
    """Whether it has noticed that, by its log from *begin* on."""
    assert worker.process.poll() is None, worker.text()[-3000:]
    return "Cannot connect" in worker.text()[begin:]


def test_jobs_run_after_the_return_of_the_broker(
    worker: CeleryWorker, queue: JobQueue, place: Place, redis: OwnRedis
) -> None:
    """How soon is printed by benchmarks/celery.py."""
    begin = len(worker.text())
    redis.kill()
    until(lambda: lost_its_broker(worker, begin), "a worker that has lost its broker")
    uids = [queue.perform(write_one, f"{number}") for number in range(3)]
    before = place.written()
    redis.start()
    for uid in uids:
        queue.result(uid).wait(PATIENCE_SECONDS)

    assert before == []
    assert place.written() == [("0", 1), ("1", 1), ("2", 1)]


def test_worker_outlives_its_broker_whatever_it_was_about_to_tell_it(
    worker: CeleryWorker, queue: JobQueue, place: Place, redis: OwnRedis, tmp_path: Path
) -> None:
    """kombu returns messages as it closes a connection, and fails by an AttributeError if that is
    broken: it ended the worker, and its children with it."""
    for name in ("first", "second", "third"):
        uid, path = start_waiting(queue, tmp_path, name)
        begin = len(worker.text())
        redis.kill()
        try:
            until(partial(lost_its_broker, worker, begin), "a worker that has lost its broker")
        finally:
            redis.start()
        path.touch()
        queue.result(uid).wait(PATIENCE_SECONDS)
        assert worker.process.poll() is None, worker.text()[-3000:]


# -- messages


def test_forged_oversized_and_malformed_messages_run_nothing(
    worker: CeleryWorker, queue: JobQueue, place: Place
) -> None:
    before = received(worker)
    app: Any = queue.backend.relay._publisher._app  # type: ignore[attr-defined]
    name = f"{PREFIX}default"
    arguments: list[Any] = [
        ([], {}), ([1], {}), ([["default"]], {}), (["default", "x"], {}), (["x" * 1_000_000], {}),
        (["default"], {"callable": "os:system"}), (["no such queue"], {}), (["unknown"], {}),
    ]  # fmt: skip
    for args, kwargs in arguments:
        app.send_task("asyncjob.run", args, kwargs, queue=name)
    app.send_task("os.system", ["true"], queue=name)
    app.send_task("asyncjob.run", ["default"], queue=name, serializer="pickle")
    uid = queue.perform(write_one, "after them")
    queue.result(uid).wait(PATIENCE_SECONDS)
    until(lambda: received(worker) >= before + len(arguments), "all messages")

    assert place.written() == [("after them", 1)]
    assert worker.process.poll() is None


def test_message_that_comes_again_while_its_job_runs_runs_nothing(
    worker: CeleryWorker, queue: JobQueue, place: Place, redis: OwnRedis, tmp_path: Path
) -> None:
    """As Redis does once a job is longer than ``visibility_timeout``: here at once, and not when a
    worker looks for such messages next. ``python -m crash.redelivery`` waits for that."""
    uid, path = start_waiting(queue, tmp_path)
    with Connection(redis.url, transport_options={"visibility_timeout": 0}) as connection:
        client = connection.default_channel.client
        until(lambda: client.hlen("unacked") == 1, "the message of the job alone")
        message = json.loads(client.hvals("unacked")[0])[0]["headers"]["id"]
        connection.default_channel.qos.restore_visible(interval=1)
        until(lambda: worker.text().count(f"asyncjob.run[{message}] received") == 2, "it again")
        until(lambda: f"asyncjob.run[{message}] succeeded" in worker.text(), "the end of the copy")
        while_it_runs = place.written(), queue.result(uid).status
        path.touch()
        queue.result(uid).wait(PATIENCE_SECONDS)
        until(lambda: not client.hlen("unacked"), "no message")

    assert while_it_runs == ([], RUNNING)
    assert place.written() == [("work", 1)]
    assert queue.result(uid).attempts == 1


# -- children


def test_connections_are_not_shared_and_the_application_is_loaded_once_in_each_child(
    worker: CeleryWorker, queue: JobQueue, place: Place, loads: Path
) -> None:
    """As the database's server sees it: each of its connections belongs to one process."""
    for number in range(6):
        queue.perform(write_one, f"{number}")
    until(lambda: len(place.written()) == 6, "all effects")
    with place.engine.connect() as connection:
        found = "SELECT client_port FROM pg_stat_activity WHERE client_port > 0"
        ports = set(connection.execute(text(found)).scalars())
    processes = holders()
    held = {port: pids for port, pids in processes.items() if port in ports}
    children = worker.children()
    loaded = [int(pid) for pid in loads.read_text().split()]

    assert len(children) == 2
    for child in children:
        mine = [pids for pids in held.values() if child in pids]
        assert mine
        assert mine == [{child}] * len(mine)
        assert loaded.count(child) == 1
    assert not any(worker.process.pid in pids for pids in held.values())
    assert worker.process.pid not in loaded


def holders() -> dict[int, set[int]]:
    """The processes that hold the socket of each local port."""
    ports = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, _, *_, inode = line.split()[:10]
        ports[f"socket:[{inode}]"] = int(local.partition(":")[2], 16)
    found: dict[int, set[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            for each in (process / "fd").iterdir():
                with suppress(OSError):
                    if port := ports.get(os.readlink(each)):
                        found.setdefault(port, set()).add(int(process.name))
    return found


def test_revoke_with_terminate_drains_the_child_and_the_job_runs_again(
    worker: CeleryWorker, queue: JobQueue, place: Place, tmp_path: Path
) -> None:
    uid, path = start_waiting(queue, tmp_path)
    held_by = place.jobs()[0].worker_id
    app: Any = queue.backend.relay._publisher._app  # type: ignore[attr-defined]
    for message in re.findall(r"asyncjob\.run\[(\S+)\] received", worker.text()):
        app.control.revoke(message, terminate=True)  # only one has not ended
    until(lambda: "was told to stop" in worker.text(), "a drain of the child")
    until(lambda: place.jobs()[0].worker_id != held_by, "a release")
    path.touch()
    queue.result(uid).wait(PATIENCE_SECONDS)

    assert place.written() == [("work", 1)]
    assert queue.result(uid).errors == []


def test_killed_child_is_a_crash_with_evidence_and_the_job_runs_again(
    worker: CeleryWorker, queue: JobQueue, place: Place, tmp_path: Path
) -> None:
    uid, path = start_waiting(queue, tmp_path)
    [row] = place.jobs()
    os.kill(int(row.worker_id.partition("-")[0]), signal.SIGKILL)
    until(lambda: queue.result(uid).errors, "the evidence")
    until(lambda: queue.result(uid).status is RUNNING, "the second run")
    path.touch()
    queue.result(uid).wait(PATIENCE_SECONDS)

    assert place.written() == [("work", 1)]
    assert "WorkerCrashed" in queue.result(uid).errors[0].exception_class_path
    assert worker.process.poll() is None


def test_child_that_hangs_in_a_job_after_its_timeout_is_replaced(
    worker: CeleryWorker, queue: JobQueue, place: Place, tmp_path: Path
) -> None:
    before = worker.children()
    with queue.session_scope():
        results = [hung.enqueue(str(tmp_path / f"{number}")) for number in range(len(before))]
    assert [result.wait(PATIENCE_SECONDS).status for result in results] == [FAILED] * len(before)
    other = queue.perform(write_one, "after them")
    queue.result(other).wait(PATIENCE_SECONDS)

    assert place.written() == [("after them", 1)]
