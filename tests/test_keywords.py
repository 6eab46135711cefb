"""Keywords of a call belong to the call, whatever they are named.

On every backend, and by every way in which a call is given.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest

from clocks import PATIENCE_SECONDS
from sqlqueues import KINDS, Place, place_of
from tgext.asyncjob import JobQueue, asyncjob_perform, task
from tgext.asyncjob.executors import InlineExecutor
from tgext.asyncjob.slackers import Slacker
from tgext.asyncjob.taskrunners import (
    StoreTaskReader,
    StoreTaskWriter,
    TaskDispatcher,
    Taskrunner,
    ThreadTaskrunner,
    as_task,
)


@pytest.fixture(scope="module", params=["memory", *KINDS])
def module_place(request: Any, tmp_path_factory: Any) -> Iterator[Place | None]:
    if request.param == "memory":
        yield None
        return
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def held(module_place: Place | None) -> Iterator[JobQueue]:
    """A queue of each kind that runs what ``run_pending`` runs."""
    with contextlib.ExitStack() as stack:
        if module_place is None:
            made = stack.enter_context(JobQueue(threads=0))
        else:
            stack.callback(module_place.empty)
            stack.callback(module_place.close_queues)
            made = module_place.queue()
        stack.enter_context(made.as_current())
        yield made


def outcome_of(queue: JobQueue, uid: str) -> Any:
    """How the job stands when nothing is due any more."""
    queue.run_pending()
    return queue.result(uid)


NAMES = (
    "self", "callable", "args", "kwargs", "func", "function", "fn", "uid", "task", "call", "cls",
    "target", "options", "run_after", "queue", "key", "value", "name", "implied", "context",
)  # fmt: skip
WORDS = {name: number for number, name in enumerate(NAMES)}


def words_of(**words: Any) -> dict[str, Any]:
    return words


async def words_of_async(**words: Any) -> dict[str, Any]:
    return words


@task(takes_context=True)
def words_in_context(_context: Any, /, **words: Any) -> dict[str, Any]:
    return words


declared = task(words_of)
in_a_process = task(executor="process")(words_of)


def pool_of_threads() -> Executor:
    return ThreadPoolExecutor(1)


WAYS = {
    "queue.perform": lambda queue: queue.perform(words_of, **WORDS),
    "asyncjob_perform": lambda queue: asyncjob_perform(words_of, **WORDS),
    "coroutine": lambda queue: asyncjob_perform(words_of_async, **WORDS),
    "perform a task": lambda queue: asyncjob_perform(declared, **WORDS),
    "enqueue": lambda queue: declared.enqueue(**WORDS).id,
    "using": lambda queue: declared.using(priority=3, timeout=9).enqueue(**WORDS).id,
    "context": lambda queue: words_in_context.enqueue(**WORDS).id,
    "process": lambda queue: in_a_process.enqueue(**WORDS).id,
    "partial": lambda queue: asyncjob_perform(functools.partial(words_of, **WORDS)),
    "slacker": lambda queue: asyncjob_perform(Slacker(words_of), **WORDS),
    "postponed": lambda queue: asyncjob_perform(Slacker(words_of)(**WORDS)),
}


@pytest.mark.parametrize("way", WAYS)
def test_keywords_named_like_ours_belong_to_the_job(held, way):
    assert outcome_of(held, WAYS[way](held)).return_value == WORDS


@pytest.mark.parametrize("make", [pool_of_threads, InlineExecutor])
def test_keywords_named_like_ours_go_to_an_executor_of_ones_own(make):
    with make() as executor, JobQueue(threads=0) as queue, queue.as_current():
        result = task(executor=executor)(words_of).enqueue(**WORDS)

        assert outcome_of(queue, result.id).return_value == WORDS


def test_keywords_named_like_ours_belong_to_a_task_that_is_called():
    assert declared(**WORDS) == WORDS


@pytest.mark.parametrize("target", ["sync", "thread", "process", "coroutine"])
def test_keywords_named_like_ours_belong_to_the_function_of_a_taskrunner(target):
    runner = as_task(target)(words_of)

    assert runner.submit(**WORDS).result(PATIENCE_SECONDS) == WORDS


def test_keywords_named_like_ours_belong_to_the_function_of_a_runner_with_keywords_of_its_own():
    given = {"self": 1, "args": 2, "kwargs": 3, "init_args": 4, "init_kwargs": 5}

    assert Taskrunner(words_of, **given)(func=6) == {**given, "func": 6}
    assert ThreadTaskrunner(words_of, **given)(func=6).result(PATIENCE_SECONDS)["func"] == 6


def test_keywords_named_like_ours_belong_to_the_function_of_a_dispatcher():
    dispatcher = TaskDispatcher()
    dispatcher.enqueue(words_of, kwargs={"func": 1, "target": 2, "args": 3}, self=21)

    assert dispatcher.run(PATIENCE_SECONDS)
    assert dispatcher.results == [{"func": 1, "target": 2, "args": 3, "self": 21}]


def test_keywords_named_like_ours_go_into_a_store():
    store: dict[str, Any] = {}
    writer = StoreTaskWriter(words_of, store, pickle_func=True)
    reader = StoreTaskReader(store)
    writer(**WORDS)

    assert reader.run_pending() == 1
    assert writer.result == WORDS
