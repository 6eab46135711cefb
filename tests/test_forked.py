"""A child that a job forks, and that comes back: it ends there, and its parent decides.

Each job waits for its child, and returns how that ended. A child that goes on as the worker is
ended by an alarm, so that its test fails instead of waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import transaction

from process_server import serving_context
from sqlqueues import KINDS, Effect, Place, effects, nothing, place_of
from tgext.asyncjob import (
    JobQueue,
    TaskResultStatus,
    asyncjob_perform,
    asyncjob_result,
    asyncjob_running_uid,
    asyncjob_session,
    asyncjob_set_progress,
    task,
)
from tgext.asyncjob.executors import (
    CoroutineExecutor,
    InlineExecutor,
    LoopPoolExecutor,
    NewProcessExecutor,
    ProcessExecutor,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")

SUCCESSFUL, READY = TaskResultStatus.SUCCESSFUL, TaskResultStatus.READY

#: After which a child ends that should have ended long ago.
ALARM_SECONDS = 15


@pytest.fixture(scope="module", params=["memory", *KINDS])
def module_place(request: Any, tmp_path_factory: Any) -> Iterator[Place | None]:
    if request.param == "memory":
        yield None
        return
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def held(module_place: Place | None) -> Iterator[JobQueue]:
    with contextlib.ExitStack() as stack:
        if module_place is None:
            made = stack.enter_context(JobQueue(threads=0))
        else:
            stack.callback(module_place.empty)
            stack.callback(module_place.close_queues)
            made = module_place.queue()
        stack.enter_context(made.as_current())
        yield made


def fork() -> int:
    """Fork; 0 in the child."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(ALARM_SECONDS)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return pid


def how(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- how a child may come back


def returns() -> int:
    return how(pid) if (pid := fork()) else 99


def raises() -> int:
    if pid := fork():
        return how(pid)
    os.execv("/no/such/program", ["program"])
    return 99


def exits() -> int:
    if pid := fork():
        return how(pid)
    sys.exit(7)


def exits_with_a_text() -> int:
    if pid := fork():
        return how(pid)
    sys.exit("enough")


def is_interrupted() -> int:
    if pid := fork():
        return how(pid)
    raise KeyboardInterrupt


async def returns_from_a_coroutine() -> int:
    await asyncio.sleep(0)
    return how(pid) if (pid := fork()) else 99


def returns_a_coroutine() -> Any:
    return returns_from_a_coroutine()


# -- what it may have done before


def enqueues() -> int:
    if pid := fork():
        return how(pid)
    assert asyncjob_perform(nothing).startswith("asyncjob_")
    return 99


def cancels(uid: str) -> int:
    if pid := fork():
        return how(pid)
    asyncjob_result(uid).cancel()
    return 99


def reports() -> int:
    asyncjob_set_progress(1)
    if pid := fork():
        return how(pid)
    asyncjob_set_progress(2)
    return 99


def commits() -> int:
    if pid := fork():
        return how(pid)
    transaction.commit()
    return 99


def aborts() -> int:
    if pid := fork():
        return how(pid)
    transaction.abort()
    return 99


WAYS = {
    returns: 0, raises: 1, exits: 7, exits_with_a_text: 1, is_interrupted: 1,
    returns_from_a_coroutine: 0, returns_a_coroutine: 0, enqueues: 0, commits: 0, aborts: 0,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_child_that_comes_back_ends_and_its_parent_decides(held, way):
    uid = held.perform(way)

    held.run_pending(1)

    assert held.result(uid).return_value == WAYS[way]
    assert held.result(uid).attempts == 1


in_a_process = {way: task(executor="process")(way) for way in WAYS}


@pytest.mark.parametrize("way", [returns, raises, exits, enqueues], ids=lambda way: way.__name__)
def test_child_of_the_process_of_a_job_ends_too(held, way):
    result = in_a_process[way].enqueue()

    held.run_pending(1)

    expected = 1 if way is enqueues and not held.backend.is_shared else WAYS[way]
    assert held.result(result.id).return_value == expected


def test_child_that_cancels_ends(held):
    other = task(nothing).using(priority=-1).enqueue()
    uid = held.perform(cancels, other.id)

    held.run_pending(1)

    if held.backend.is_shared:
        assert held.result(other.id).status is TaskResultStatus.CANCELLED
        assert held.result(uid).return_value == 0
    else:  # of the parent's memory a child knows nothing
        assert held.result(uid).return_value == 1


def test_child_that_reports_ends(held):
    uid = held.perform(reports)

    held.run_pending(1)

    assert held.result(uid).status is SUCCESSFUL


# -- with the parent's connections


@pytest.fixture
def place(module_place: Place | None) -> Place:
    if module_place is None:
        pytest.skip("memory has no connections")
    return module_place


def writes_around(act: str) -> int:
    session = asyncjob_session()
    session.add(Effect(text="before"))
    session.flush()
    pid = 0
    with contextlib.nullcontext() if act in ("commit", "query") else session.begin_nested():
        pid = fork()
        if pid:
            session.add(Effect(text="inside"))
            session.flush()
            code = how(pid)
        elif act == "raise":
            raise RuntimeError("through the block of the savepoint")
        elif act == "commit":
            transaction.commit()
        elif act == "query":
            asyncjob_session().execute(effects.select()).all()
    if not pid:
        return 99
    session.add(Effect(text="after"))
    return code


@pytest.mark.parametrize("act", ["raise", "return", "commit", "query"])
def test_work_of_a_job_is_committed_whatever_its_child_does_with_the_session(held, place, act):
    uid = held.perform(writes_around, act)

    held.run_pending(1)

    assert held.result(uid).status is SUCCESSFUL, held.result(uid).errors
    assert [text for text, _ in place.written()] == ["after", "before", "inside"]


def test_child_enqueues_by_a_commit_of_its_own(held, place):
    uid = held.perform(enqueues)

    held.run_pending(1)

    [job, enqueued] = place.jobs()
    assert held.result(uid).return_value == 0
    assert held.result(enqueued.uid).status is READY
    assert job.crashes == 0


# -- forks elsewhere than in the function


children: list[int] = []


def forks_and_goes_on(*_args: Any) -> None:
    if pid := fork():
        children.append(how(pid))


def in_a_hook(kind: str) -> str | None:
    txn = transaction.get()
    if kind == "before":
        txn.addBeforeCommitHook(forks_and_goes_on)
    else:
        txn.addAfterCommitHook(forks_and_goes_on)
    with contextlib.suppress(Exception):
        asyncjob_session().add(Effect(text="row"))
    return asyncjob_running_uid()


@pytest.mark.parametrize("kind", ["before", "after"])
def test_child_of_a_hook_of_the_commit_ends(held, module_place, kind):
    children.clear()
    uid = held.perform(in_a_hook, kind)

    held.run_pending(1)

    assert held.result(uid).return_value == uid
    assert children == [0]
    if module_place is not None:
        assert module_place.written() == [("row", 1)]


@pytest.mark.parametrize("when", ["enter", "exit"])
def test_child_of_the_job_context_ends(held, when):
    children.clear()

    @contextlib.contextmanager
    def enter_context(_context: dict[str, Any]) -> Iterator[None]:
        if when == "enter":
            forks_and_goes_on()
        yield
        if when == "exit":
            forks_and_goes_on()

    held.bind(held.session, enter_context=enter_context)
    uid = held.perform(nothing)

    held.run_pending(1)

    assert held.result(uid).status is SUCCESSFUL
    assert children == [0]


# -- executors


@pytest.fixture(scope="module")
def server() -> None:
    """The server that forks processes, which has imported this module."""
    serving_context(__name__)


@pytest.mark.parametrize(
    "make",
    [
        InlineExecutor,
        CoroutineExecutor,
        NewProcessExecutor,
        ProcessExecutor,
        partial(ThreadPoolExecutor, 1),
        partial(ProcessPoolExecutor, 1, mp_context=multiprocessing.get_context("forkserver")),
    ],
)
def test_call_of_an_executor_comes_back_once(make: Callable[[], Any], server: None) -> None:
    with make() as executor, JobQueue(threads=0) as queue, queue.as_current():
        results = [task(executor=executor)(way).enqueue() for way in (returns, raises)]
        queue.run_pending()

        assert [queue.result(result.id).return_value for result in results] == [0, 1]


def test_call_of_a_pool_of_loops_comes_back_once(server):
    with LoopPoolExecutor(1, start_method="forkserver") as executor:
        futures = [executor.submit(way) for way in (returns, returns_from_a_coroutine, raises)]

        assert [future.result(60) for future in futures] == [0, 0, 1]


# -- processes that are meant


def double(number: int) -> int:
    return 2 * number


def uses_multiprocessing() -> list[int]:
    asyncjob_session = sys.modules["tgext.asyncjob"].asyncjob_session
    with contextlib.suppress(Exception):
        asyncjob_session().execute(effects.select()).all()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(double, [1, 2, 3])


def test_multiprocessing_works_in_a_job(held):
    uid = held.perform(uses_multiprocessing)

    held.run_pending(1)

    assert held.result(uid).return_value == [2, 4, 6]
