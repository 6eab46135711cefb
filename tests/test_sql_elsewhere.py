"""A job whose module a worker does not have: left to others for a while, and not for ever."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from clocks import FakeClock
from sqlqueues import KINDS, Place, place_of
from tgext.asyncjob import TaskResultStatus, asyncjob_running_uid, task
from tgext.asyncjob.backends.sql.elsewhere import CLAIMS, ELSEWHERE_SECONDS, LONGEST_SECONDS

READY, SUCCESSFUL, FAILED = (
    TaskResultStatus.READY,
    TaskResultStatus.SUCCESSFUL,
    TaskResultStatus.FAILED,
)
DAY = timedelta(days=1).total_seconds()


@pytest.fixture(scope="module", params=KINDS)
def module_place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def place(module_place: Place) -> Iterator[Place]:
    yield module_place
    module_place.close_queues()
    module_place.empty()


def work(fails: bool = False) -> str | None:
    """What stands in the module that comes and goes."""
    if fails:
        raise RuntimeError("for now")
    return asyncjob_running_uid()


class Comes:
    """A module that this process has or has not, as a worker of a newer and of an older release."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._module = types.ModuleType("module_that_comes")
        self.work = types.FunctionType(work.__code__, globals(), "work", work.__defaults__)
        self.work.__module__ = self._module.__name__
        self.work.__qualname__ = "work"
        self._module.work = self.work  # type: ignore[attr-defined]
        self.is_here(True)

    def is_here(self, yes: bool) -> None:
        if yes:
            self._patch.setitem(sys.modules, self._module.__name__, self._module)
        else:
            self._patch.delitem(sys.modules, self._module.__name__)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Comes:
    return Comes(monkeypatch)


@pytest.fixture
def queue(place: Place) -> Any:
    return place.queue()


@pytest.fixture
def look(place: Place, queue: Any, clock: FakeClock) -> Callable[[float], Any]:
    """Let so many seconds pass, run what is due, and tell how the only job stands."""
    place.let_time_pass(clock, queue)

    def look(seconds: float) -> Any:
        clock.advance(seconds)
        queue.run_pending()
        return queue.result(place.jobs()[0].uid)

    return look


def test_job_whose_module_is_gone_fails_when_a_day_has_passed(queue, module, look, caplog):
    queue.perform(module.work)
    module.is_here(False)

    with caplog.at_level(logging.WARNING):
        looks = [look(ELSEWHERE_SECONDS + 1)]
        while looks[-1].status is READY and len(looks) < 1000:
            looks.append(look(3600))

    assert looks[-1].status is FAILED
    assert len(looks) - 1 == DAY // 3600
    [error] = looks[-1].errors
    assert error.exception_class_path == "tgext.asyncjob.errors.ModuleMissing"
    assert "expected the module 'module_that_comes'" in error.message
    assert "left to another worker" in caplog.text
    assert "cannot be run" in caplog.text


def test_worker_of_an_older_release_leaves_the_job_to_a_newer_one(queue, module, look):
    uid = queue.perform(module.work)
    module.is_here(False)
    for _ in range(CLAIMS + 2):  # as many as suffice once a day has passed, too
        assert look(ELSEWHERE_SECONDS + 1).status is READY

    module.is_here(True)
    result = look(ELSEWHERE_SECONDS + 1)

    assert result.return_value == uid
    assert result.attempts == 1
    assert not result.errors


def test_job_that_was_delayed_for_long_is_not_late_for_its_first_worker(queue, module, look):
    with queue.as_current():
        task(module.work).using(run_after=timedelta(days=30)).enqueue()
    module.is_here(False)

    assert look(30 * DAY + 1).status is READY
    assert look(DAY / 2).status is READY

    module.is_here(True)
    assert look(ELSEWHERE_SECONDS + 1).status is SUCCESSFUL


def test_job_that_waited_for_its_next_attempt_is_offered_several_times(queue, module, look):
    with queue.as_current():
        task(max_attempts=2, backoff=3600)(module.work).enqueue(True)
    assert look(0).status is READY
    module.is_here(False)

    look(2 * DAY)
    for _ in range(CLAIMS - 1):
        assert look(ELSEWHERE_SECONDS + 1).status is READY

    assert look(ELSEWHERE_SECONDS + 1).status is FAILED


def test_retried_job_whose_module_is_back_runs(queue, module, look):
    queue.perform(module.work)
    module.is_here(False)
    look(0)
    while (result := look(LONGEST_SECONDS / 10)).status is READY:
        pass
    module.is_here(True)

    assert result.retry()
    assert look(1).status is SUCCESSFUL
