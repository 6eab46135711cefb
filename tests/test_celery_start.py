"""The ways to start workers on Celery: gearbox, ``celery -A``, an app of the application's own.

``python -m`` is how the other tests of the fleet start theirs.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import textwrap
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import transaction

from celery_fleet import OF_CELERY, PATIENCE_SECONDS, Fleet, broker_url, fleet_of, until
from forked_python import OF_GEARBOX, ForkedPython, run_forked
from sqlqueues import PREFIX, Place, place_of, write_one
from test_gearbox_commands import GEARBOX, Bakery
from tgext.asyncjob import JobQueue
from worker_contract import start_waiting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]

CELERY = Path(sysconfig.get_path("scripts")) / "celery"


@pytest.fixture
def bakery(tmp_path: Path) -> Iterator[Bakery]:
    """A TurboGears application whose engine is celery in one of its .ini files."""
    made = Bakery(tmp_path)
    text = f"""
        [app:main]
        use = config:development.ini
        asyncjob.engine = celery
        asyncjob.broker_url = {broker_url("redis")}
        asyncjob.table_prefix = b{uuid.uuid4().hex[:8]}_
        """
    (tmp_path / "fleet.ini").write_text(textwrap.dedent(text))
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def start(bakery: Bakery, *command: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start a program from a process that has imported TurboGears and Celery."""
    process = ForkedPython(
        [sys.executable, *command], imports=f"{OF_GEARBOX} {OF_CELERY}", cwd=bakery.path,
        env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    bakery.started.append(process)
    return process


def loaves(bakery: Bakery) -> list[str]:
    """What the jobs have baked."""
    with closing(sqlite3.connect(f"file:{bakery.path}/bakery.db?mode=ro", uri=True)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM loaf")]


def enqueue(bakery: Bakery, name: str) -> None:
    """Enqueue a job as a request of the application would, and leave."""
    script = f"""
        import sys
        sys.path.insert(0, "")
        from bakery import jobs
        from tgext.asyncjob.turbogears.commands import load
        with load("fleet.ini") as queue:
            queue.allow_worker(False)
            queue.perform(jobs.bake, {name!r})
        """
    bakery._python(script)


def workers_of(bakery: Bakery) -> list[int]:
    """The threads of each worker that asyncjob-status shows."""
    status, out, err = bakery.run("asyncjob-status", "-c", "fleet.ini", "--json")
    assert status == 0, err
    return [each["threads"] for each in json.loads(out)["workers"]]


@pytest.mark.parametrize("way", ["gearbox", "celery -A"])
def test_turbogears_application_runs_its_jobs_on_celery(bakery: Bakery, way: str) -> None:
    if way == "gearbox":
        words = [str(GEARBOX), "asyncjob-celery", "-c", "fleet.ini", "--", "worker", "-c", "2"]
    else:
        words = [str(CELERY), "-A", "tgext.asyncjob.celery", "worker", "-c", "1"]
    process = start(bakery, *words, "-l", "info", ASYNCJOB_CONFIG="fleet.ini")
    enqueue(bakery, "rye")
    until(lambda: loaves(bakery) == ["rye of Mill Lane"], "the loaf")
    if way == "gearbox":
        until(lambda: workers_of(bakery) == [1, 1], "each child as a worker")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 0, out.decode() + err.decode()


def test_application_whose_engine_is_own_is_told_what_to_set(bakery: Bakery) -> None:
    status, _, err = bakery.run("asyncjob-celery", "-c", "development.ini", "--", "worker")

    assert status == 2
    assert "expected asyncjob.engine = celery" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("config", [None, "no.ini", "no_such_module:queue"])
def test_celery_program_without_an_application_says_what_is_missing(
    config: str | None, tmp_path: Path
) -> None:
    environment = {**os.environ, **({} if config is None else {"ASYNCJOB_CONFIG": config})}
    done = run_forked(
        [sys.executable, CELERY, "-A", "tgext.asyncjob.celery", "worker"],
        imports=f"{OF_GEARBOX} {OF_CELERY}", cwd=tmp_path, env=environment, text=True,
    )  # fmt: skip

    assert done.returncode == 1
    assert "celery -A tgext.asyncjob.celery: " in done.stderr
    assert "Traceback" not in done.stderr


# -- an application's own Celery app


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Iterator[Place]:
    with place_of("postgresql", tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def fleet(place: Place, tmp_path: Path) -> Iterator[Fleet]:
    """A worker of an app of the application's own, which says that it wants quorum queues."""
    import celery_own_app

    url = broker_url("rabbitmq")
    app = celery_own_app.app
    app.conf.update(broker_url=url, task_create_missing_queue_type="quorum")
    app.__dict__.pop("amqp", None)
    options = {"broker_url": None, "celery_app": "celery_own_app:app"}
    with fleet_of("rabbitmq", place.url, tmp_path, **options) as made:
        given = {"TEST_QUEUE_TYPE": "quorum", "TEST_ACKNOWLEDGED": "early"}
        made.start("-c", "1", variables={"TEST_BROKER": url, **given})
        yield made
    transaction.abort()
    place.empty()


def test_own_app_runs_jobs_and_keeps_its_settings(fleet: Fleet, place: Place) -> None:
    with fleet.queue() as queue:
        uid = queue.perform(write_one, "own")
        queue.result(uid).wait(PATIENCE_SECONDS)
        app: Any = queue.backend.relay._publisher._app  # type: ignore[attr-defined]

    assert place.written() == [("own", 1)]
    assert app.conf.task_acks_late is False
    assert app.conf.broker_transport_options["visibility_timeout"] == 5
    assert "asyncjob.run" in fleet.workers[0].text()
    assert "celery_own_app.other" in fleet.workers[0].text()
    assert isinstance(queue, JobQueue)
    assert PREFIX in fleet.workers[0].text()


def test_killed_child_loses_its_message_and_no_job(
    fleet: Fleet, place: Place, tmp_path: Path
) -> None:
    """Messages are acknowledged when they come here, and no broker gives them again."""
    with fleet.queue() as queue:
        uid, path = start_waiting(queue, tmp_path)
        [child] = fleet.workers[0].children()
        os.kill(child, signal.SIGKILL)
        until(lambda: queue.result(uid).errors, "the evidence")
        path.touch()
        queue.result(uid).wait(PATIENCE_SECONDS)

    assert place.written() == [("work", 1)]
