"""The examples of the seed, but for Python 3 and url's params, on both backends."""

from __future__ import annotations

import threading

import pytest
from tg import TGController, expose, redirect, url

from tgapps import make
from tgext.asyncjob import (
    TaskResultStatus,
    asyncjob_get_progress,
    asyncjob_perform,
    asyncjob_set_progress,
    asyncjob_timed_query,
)
from tggroups import DBSession, Group, GroupModel


class Clock:
    """Stands where the seed's job sleeps; lets the test take one step at a time."""

    def __init__(self):
        self._reached = threading.Semaphore(0)
        self._go_on = threading.Semaphore(0)

    def sleep(self, _seconds):
        self._reached.release()
        assert self._go_on.acquire(timeout=10)

    def wait(self):
        assert self._reached.acquire(timeout=10)

    def take_one(self):
        self._go_on.release()


time = Clock()


def background_task(number):
    print(number * 2)  # noqa: T201


class SeedController(TGController):
    """The controller methods of the seed's page, as they stand there."""

    @expose()
    def background(self):
        asyncjob_perform(background_task, 5)
        return "OK"

    @expose()
    def controller_method(self):
        def async_action():
            for i in range(5):
                asyncjob_set_progress(i)
                time.sleep(1)

        taskid = asyncjob_perform(async_action)
        return redirect(url("/state", params=dict(uid=taskid)))  # noqa: C408 - as it stands there

    @expose()
    def state(self, uid):
        state = asyncjob_get_progress(uid)
        if not state:
            return "Job Completed"
        elif state[0] < 0:
            return "Not yet started"
        else:
            return str(state[0])

    @expose()
    def query(self):
        def async_query_action(group_id):
            group = asyncjob_timed_query(
                DBSession.query(Group).filter_by(group_id=group_id)
            ).first()
            group.display_name = "Prova"

        g = Group(group_name="test_group")
        DBSession.add(g)
        DBSession.flush()
        asyncjob_perform(async_query_action, g.group_id)
        return "OK"

    @expose()
    def patient_query(self, group_id):
        def async_query_action(group_id):
            asyncjob_timed_query(
                DBSession.query(Group).filter_by(group_id=group_id), retries=10, interval=6
            ).first()

        asyncjob_perform(async_query_action, int(group_id))
        return "OK"


@pytest.fixture(params=["memory", "sql"])
def make_seed(request, tmp_path):
    """Makes the seed's application with so many threads; a session secret is all it needs."""
    made = []

    def make_one(threads):
        lines = {
            "asyncjob.backend": request.param,
            "asyncjob.threads": str(threads),
            "session.secret": "a secret",
        }
        made.append(make(SeedController(), GroupModel(tmp_path / "app.db"), ini=lines))
        return made[-1]

    yield make_one
    for app in made:
        app.close()


@pytest.fixture
def seed(make_seed):
    return make_seed(threads=1)


def test_background_task(seed, capfd):
    assert seed.get("/background").text == "OK"

    seed.run_all()
    assert capfd.readouterr().out == "10\n"


def test_progress_of_a_closure_and_its_state_page(seed):
    state = seed.get("/controller_method").headers["Location"]

    shown = []
    for _ in range(5):
        time.wait()
        shown.append(seed.get(state).text)
        time.take_one()
    seed.run_all()
    shown.append(seed.get(state).text)

    assert shown == ["0", "1", "2", "3", "4", "Job Completed"]


def test_state_page_of_a_job_that_waits(make_seed):
    seed = make_seed(threads=0)

    state = seed.get("/controller_method").headers["Location"]

    assert seed.get(state).text == "Not yet started"


def test_timed_query_in_a_closure(seed):
    assert seed.get("/query").text == "OK"
    assert seed.get("/patient_query?group_id=1").text == "OK"

    seed.run_all()
    assert seed.model.read("SELECT display_name FROM tg_group") == [("Prova",)]
    assert seed.queue.backend.counts()[TaskResultStatus.FAILED] == 0
