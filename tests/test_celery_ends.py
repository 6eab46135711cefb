"""How the processes of a Celery worker end, and begin: judged by what the jobs have left.

Each effect is there once. A worker of its own for each test; what a fleet lives through is
test_celery_faults'.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transaction
from celery.utils.time import rate  # type: ignore[import-untyped]
from click import Abort

from celery import Celery  # type: ignore[import-untyped]
from celery_fleet import PATIENCE_SECONDS, Fleet, fleet_of, until
from sqlqueues import PREFIX, Place, place_of, write_one
from tgext.asyncjob import JobQueue, TaskResultStatus, task
from tgext.asyncjob.errors import ConfigError
from tgext.asyncjob.fleet.fleet import AGAIN_SECONDS, FleetStep
from tgext.asyncjob.fleet.fleet import Fleet as FleetOfApp
from tgext.asyncjob.fleet.settings import FleetSettings
from tgext.asyncjob.wakeups.message import TASK
from worker_contract import start_waiting

READY, RUNNING = TaskResultStatus.READY, TaskResultStatus.RUNNING
SUCCESSFUL = TaskResultStatus.SUCCESSFUL

pytestmark = pytest.mark.slow


def need_memory(name: str, megabytes: int) -> None:
    """Write a row, and use memory."""
    kept = bytearray(megabytes * 1_000_000)
    write_one(f"{name} {len(kept) > 0}")


def write_variable(name: str) -> None:
    """Write a row with a variable of the environment."""
    write_one(os.environ[name])


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Iterator[Place]:
    with place_of("postgresql", tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture(scope="module")
def module_fleet(place: Place, tmp_path_factory: Any) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with fleet_of("redis", place.url, folder, drain_timeout=0.5) as made:
        yield made


@pytest.fixture
def fleet(module_fleet: Fleet, place: Place) -> Iterator[Fleet]:
    yield module_fleet
    for worker in module_fleet.workers:
        worker.kill()
    module_fleet.workers.clear()
    module_fleet.empty()
    transaction.abort()
    place.close_queues()
    place.empty()


@pytest.fixture
def queue(fleet: Fleet) -> Iterator[JobQueue]:
    with fleet.queue() as made, made.as_current():
        yield made


# -- signals and limits


def test_sigterm_lets_the_running_job_end(
    fleet: Fleet, queue: JobQueue, place: Place, tmp_path: Path
) -> None:
    worker = fleet.start("-c", "1", drain_timeout=40)
    uid, path = start_waiting(queue, tmp_path)
    waiting = queue.perform(write_one, "waits")
    worker.signal(signal.SIGTERM)
    until(lambda: "drains: the worker stops" in worker.text(), "a drain")
    path.touch()

    assert worker.process.wait(PATIENCE_SECONDS) == 0
    assert queue.result(uid).status is SUCCESSFUL
    assert queue.result(waiting).status is READY
    assert place.written() == [("work", 1)]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGQUIT", "SIGINT twice"])
def test_job_that_outlasts_the_drain_is_released_and_loses_no_attempt(
    fleet: Fleet, queue: JobQueue, place: Place, tmp_path: Path, how: str
) -> None:
    worker = fleet.start("-c", "1")
    uid, path = start_waiting(queue, tmp_path)
    worker.signal(signal.Signals[how.split()[0]])
    if how.endswith("twice"):
        until(lambda: "drains: " in worker.text(), "a drain")
        worker.signal(signal.SIGINT)
    worker.process.wait(PATIENCE_SECONDS)
    after = queue.result(uid)
    before = place.written()
    path.touch()
    place.queue().run_pending()

    assert after.status is READY
    assert after.attempts == 0
    assert before == []
    assert queue.result(uid).status is SUCCESSFUL
    assert place.written() == [("work", 1)]


@pytest.mark.parametrize("option", ["--max-tasks-per-child=1", "--max-memory-per-child=30000"])
def test_children_are_replaced_and_no_job_is_lost(
    fleet: Fleet, queue: JobQueue, place: Place, option: str
) -> None:
    worker = fleet.start("-c", "1", option)
    before = set(worker.children())
    for number in range(2):
        uid = queue.perform(need_memory, f"{number}", 40)
        queue.result(uid).wait(PATIENCE_SECONDS)

    assert [name for name, _ in place.written()] == [f"{number} True" for number in range(2)]
    until(lambda: set(worker.children()) - before, "a new child")


def test_soft_time_limit_of_celery_does_nothing_and_the_hard_one_kills_the_child(
    fleet: Fleet, queue: JobQueue, place: Place, tmp_path: Path
) -> None:
    worker = fleet.start("-c", "1", "--time-limit=2", "--soft-time-limit=1")
    uid, path = start_waiting(queue, tmp_path)
    [child] = worker.children()
    until(lambda: "Soft time limit" in worker.text(), "the soft limit")
    after_soft = queue.result(uid).status, worker.children()
    until(lambda: "Hard time limit" in worker.text(), "the hard limit")
    path.touch()
    queue.result(uid).wait(PATIENCE_SECONDS)

    assert after_soft == (RUNNING, [child])
    assert place.written() == [("work", 1)]


# -- starts and pools


def test_application_that_cannot_be_loaded_is_said_once(fleet: Fleet) -> None:
    worker = fleet.start("-c", "2", ready=False, problem="no configuration today")

    assert worker.process.wait(PATIENCE_SECONDS) == 2
    assert worker.text().count("RuntimeError: no configuration today") == 1


@pytest.mark.parametrize("app", ["made_once", "exited_later"])
def test_child_that_cannot_load_the_application_ends_the_worker(
    fleet: Fleet, tmp_path: Path, app: str
) -> None:
    path = tmp_path / "loaded"
    # So many that some of them report before the parent has read of the first.
    worker = fleet.start("-c", "6", ready=False, app=f"celery_fleet:{app}",
                         variables={"ASYNCJOB_TEST_ONCE": str(path)})  # fmt: skip

    assert worker.process.wait(PATIENCE_SECONDS) == 78
    assert worker.text().count("a child of Celery cannot load the application") == 1


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_pools_without_children_run_jobs_and_drain(
    fleet: Fleet, queue: JobQueue, place: Place, tmp_path: Path, pool: str
) -> None:
    worker = fleet.start("-P", pool, "-c", "3")
    for number in range(20):
        queue.perform(write_one, f"{number:02}")
    until(lambda: len(place.written()) == 20, "all effects")
    uid, _ = start_waiting(queue, tmp_path)
    worker.signal(signal.SIGTERM)

    assert worker.process.wait(PATIENCE_SECONDS) in (0, 1)
    assert queue.result(uid).status is READY
    assert queue.result(uid).attempts == 0
    assert len(place.written()) == 20


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_pool_of_greenlets_is_refused(pool: str) -> None:
    """Neither need be installed: a class of such a module is enough."""
    kind = type("TaskPool", (), {"__module__": f"celery.concurrency.{pool}"})
    worker = SimpleNamespace(pool_cls=kind, steps=[])

    with pytest.raises(ConfigError, match="expected prefork, threads or solo, got a pool of"):
        FleetStep(worker, fleet=None)  # type: ignore[arg-type]


def test_dash_q_serves_these_queues_alone(fleet: Fleet, queue: JobQueue, place: Place) -> None:
    fleet.start("-c", "1", "-Q", f"{PREFIX}mail")
    other = queue.perform(write_one, "default")
    with queue.as_current():
        mail = task(queue_name="mail")(write_one).enqueue("mail")
        mail.wait(PATIENCE_SECONDS)

    assert queue.result(other).status is READY
    assert any("no living worker serves its queue 'default'" in each
               for each in queue.result(other).explain(workers=True))  # fmt: skip


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_queue_that_is_new_is_consumed_by_the_workers_that_serve_it_alone(
    fleet: Fleet, queue: JobQueue, place: Place, pool: str
) -> None:
    """Others on the same broker may be of another application, and would lose its messages."""
    fleet.start("-P", pool, "-c", "1", "-n", "all@%h")
    mail = fleet.start("-c", "1", "-n", "mail@%h", "-Q", f"{PREFIX}mail")
    late = task(queue_name="late")(write_one).enqueue("late")
    late.wait(PATIENCE_SECONDS)
    until(lambda: f"Started consuming from {PREFIX}late" in fleet.workers[0].text(), "a consumer")
    task(queue_name="mail")(write_one).enqueue("mail").wait(PATIENCE_SECONDS)

    assert f"Started consuming from {PREFIX}late" not in mail.text()


def test_queues_to_leave_out_are_refused(fleet: Fleet) -> None:
    worker = fleet.start("-c", "1", "-X", f"{PREFIX}mail", ready=False)

    assert worker.process.wait(PATIENCE_SECONDS) == 2
    assert "-X: expected -Q and the names of the queues to serve" in worker.text()
    assert "Traceback" not in worker.text()


#: Celery takes all of these for its command line, and some for any app.
VARIABLES = {
    "APP": "shop",
    "BROKER_URL": "amqp://theirs//",
    "CELERY_BROKER_URL": "amqp://theirs//",
    "RESULT_BACKEND": "db+nix://theirs",
}


def test_environment_for_the_celery_of_the_application_is_left_to_it(
    fleet: Fleet, queue: JobQueue, place: Place
) -> None:
    fleet.start("-c", "1", variables=VARIABLES)
    uid = queue.perform(write_variable, "CELERY_BROKER_URL")
    queue.result(uid).wait(PATIENCE_SECONDS)

    assert place.written() == [("amqp://theirs//", 1)]


def test_settings_for_the_tasks_of_an_own_app_do_not_slow_wakeups_down() -> None:
    app = Celery("own", broker="redis://", set_as_current=False)
    app.conf.update(
        task_default_rate_limit="1/m", task_track_started=True,
        task_store_errors_even_if_ignored=True, task_acks_late=False,
    )  # fmt: skip
    settings = FleetSettings(None, "own:app", PREFIX, 5.0, None, ["default"])
    FleetOfApp(app, settings, lambda: None, str).install()  # type: ignore[arg-type, return-value]
    made = app.tasks[TASK]

    assert rate(made.rate_limit) == 0
    assert not made.track_started
    assert not made.store_errors_even_if_ignored
    assert made.acks_late


@pytest.mark.parametrize("why", [KeyboardInterrupt, EOFError])
def test_question_of_celery_that_is_not_answered_ends_without_a_traceback(
    monkeypatch: Any, why: type[BaseException]
) -> None:
    def ask(*_: Any, **__: Any) -> None:
        try:
            raise why
        except why:
            raise Abort from None  # as click does

    monkeypatch.setattr("tgext.asyncjob.fleet.fleet.program.main", ask)
    settings = FleetSettings("redis://", None, PREFIX, 5.0, None, ["default"])
    made = FleetOfApp(NewQueues(), settings, lambda: None, str)  # type: ignore[arg-type, return-value]

    if why is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):  # of which run_command makes an exit code
            made.start(["purge"])
    else:
        assert made.start(["purge"]) == 1


class NewQueues:
    """What a fleet asks of its Celery app to have a queue consumed."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[str]]] = []
        self.control = self.amqp = self
        self.queues = {f"{PREFIX}late": SimpleNamespace(queue_arguments=None)}

    def add_consumer(self, name: str, destination: list[str], **_: Any) -> None:
        self.told.append((name, destination))


def test_parent_is_told_again_of_a_new_queue_in_which_jobs_still_wait(monkeypatch: Any) -> None:
    """It may have had no connection: what is broadcast to it is kept nowhere."""
    now = [100.0]
    monkeypatch.setattr("tgext.asyncjob.fleet.fleet.time.monotonic", lambda: now[0])
    app = NewQueues()
    settings = FleetSettings("redis://", None, PREFIX, 5.0, None, ["default"])
    fleet = FleetOfApp(app, settings, lambda: None, str)  # type: ignore[arg-type, return-value]
    fleet.node_name = "all@here"
    for passed in (0.0, 1.0, AGAIN_SECONDS):
        now[0] += passed
        fleet._consume("late")
    fleet._consume("unknown")  # an own app may know no other queues than it declares

    assert app.told == [(f"{PREFIX}late", ["all@here"])] * 2
