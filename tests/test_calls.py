"""A call runs, or is refused, or fails: a job is SUCCESSFUL only when its work is done.

On every backend, and wherever a call is run: by a worker, by an executor, by a taskrunner, by a
process of a pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import types
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from clocks import PATIENCE_SECONDS
from sqlqueues import KINDS, Place, place_of
from tgext.asyncjob import (
    BadCall,
    JobQueue,
    NotSerializable,
    TaskResultStatus,
    task,
)
from tgext.asyncjob.executors import InlineExecutor, StoreExecutor
from tgext.asyncjob.slackers import Slacker, process
from tgext.asyncjob.taskrunners import MultiprocessTaskrunner, as_task

SUCCESSFUL, FAILED = TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED


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


# -- generator functions

ran: list[Any] = []


def import_rows(count: int = 3) -> Iterator[int]:
    for number in range(count):
        ran.append(number)
        yield number


async def import_rows_async(count: int = 3) -> Any:
    for number in range(count):
        ran.append(number)
        yield number


class Importer:
    def method(self) -> Iterator[int]:
        yield from import_rows()

    @classmethod
    def of_class(cls) -> Iterator[int]:
        yield from import_rows()

    @staticmethod
    def static() -> Iterator[int]:
        yield from import_rows()

    def __call__(self) -> Iterator[int]:
        yield from import_rows()


GENERATORS = {
    "function": import_rows,
    "async function": import_rows_async,
    "task": task(import_rows),
    "task of a task": task(task(import_rows)),
    "partial": functools.partial(import_rows, 3),
    "partial of a partial": functools.partial(functools.partial(import_rows), 3),
    "method": Importer().method,
    "class method": Importer.of_class,
    "static method": Importer.static,
    "static method itself": vars(Importer)["static"],
    "callable object": Importer(),
    "lambda": lambda: (yield),
    "slacker": Slacker(import_rows),
}


@pytest.mark.parametrize("what", GENERATORS)
def test_generator_function_is_refused_at_the_enqueue(held, what):
    with pytest.raises(BadCall, match="of which a call runs no line"):
        held.perform(GENERATORS[what])


def test_generator_function_of_a_task_is_refused_at_the_enqueue(held):
    with pytest.raises(BadCall, match="the generator function test_calls"):
        task(import_rows).enqueue()


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


decorated_rows = decorated(import_rows)
decorated_rows_async = decorated(import_rows_async)


@functools.lru_cache
def cached_rows() -> Iterator[int]:
    yield 1


@contextlib.contextmanager
def block() -> Iterator[None]:
    ran.append("entered")
    yield


@contextlib.asynccontextmanager
async def async_block() -> Any:
    ran.append("entered")
    yield


def half_done() -> Any:
    rows = import_rows()
    next(rows)
    return rows


async def rows_of_a_coroutine() -> Any:
    return import_rows()


UNSEEN = {
    "decorated": decorated_rows,
    "decorated, async": decorated_rows_async,
    "cached": cached_rows,
    "with block": block,
    "async with block": async_block,
    "half done": half_done,
    "of a coroutine": rows_of_a_coroutine,
    "postponed": Slacker(import_rows)(3),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_job_that_returns_work_nobody_has_done_fails(held, what):
    ran.clear()

    result = outcome_of(held, held.perform(UNSEEN[what]))

    assert result.status is FAILED
    assert "not all lines have run" in result.errors[0].message
    assert result.errors[0].exception_class_path == "tgext.asyncjob.errors.BadCall"


def pool_of_threads() -> Executor:
    return ThreadPoolExecutor(1)


@pytest.mark.parametrize("make", [pool_of_threads, InlineExecutor])
def test_generator_of_an_executor_of_ones_own_fails(make):
    with make() as executor, JobQueue(threads=0) as queue, queue.as_current():
        result = task(executor=executor)(decorated_rows).enqueue()

        assert outcome_of(queue, result.id).status is FAILED


@task(executor="process")
def rows_in_a_process() -> Any:
    return import_rows()


def test_generator_of_a_process_fails(held):
    assert outcome_of(held, rows_in_a_process.enqueue().id).status is FAILED


def done() -> Any:
    rows = import_rows()
    assert list(rows) == [0, 1, 2]
    return rows


def expression() -> Any:
    return (number for number in range(3))


def mapped() -> Any:
    return map(str, range(3))


@pytest.mark.parametrize("function", [done, expression, mapped])
def test_iterator_whose_making_was_the_work_is_a_value_that_is_not_kept(held, function):
    result = outcome_of(held, held.perform(function))

    assert result.status is SUCCESSFUL
    with pytest.raises(NotSerializable):
        _ = result.return_value


# -- what can be awaited, and futures


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


def coroutine() -> Any:
    return answer()


async def coroutine_of_a_coroutine() -> Any:
    return answer()


class Awaitable:
    def __await__(self) -> Any:
        return answer().__await__()


def awaitable() -> Any:
    return Awaitable()


@types.coroutine
def old_coroutine() -> Any:
    return (yield from answer().__await__())


def in_a_thread() -> Any:
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(asyncio.run, answer())
    finally:
        pool.shutdown(wait=False)


@process
def steps() -> Any:
    return (yield Slacker(len)("x" * 42))


def postponed() -> Any:
    return Slacker(len)("x" * 42)


in_a_taskrunner = as_task("thread")(coroutine)


def future_that_is_done() -> Any:
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    future.set_result(42)
    loop.close()
    return future


AWAITED = [
    coroutine, coroutine_of_a_coroutine, awaitable, old_coroutine, in_a_thread, steps, postponed,
    future_that_is_done,
]  # fmt: skip


@pytest.mark.parametrize("function", AWAITED, ids=lambda function: function.__name__)
def test_job_that_returns_what_can_be_waited_for_comes_to_its_value(held, function):
    result = outcome_of(held, held.perform(function))

    assert result.return_value == 42


def test_job_may_be_a_taskrunner(held):
    assert outcome_of(held, held.perform(in_a_taskrunner)).return_value == 42


def raise_in_a_thread() -> Any:
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(divmod, 1, 0)
    finally:
        pool.shutdown(wait=False)


def test_error_in_a_returned_future_is_the_jobs(held):
    result = outcome_of(held, held.perform(raise_in_a_thread))

    assert result.status is FAILED
    assert result.errors[0].exception_class_path == "builtins.ZeroDivisionError"


def task_of_a_loop_that_has_ended() -> Any:
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    loop.close()
    return future


def test_future_of_a_loop_that_does_not_run_fails(held):
    result = outcome_of(held, held.perform(task_of_a_loop_that_has_ended))

    assert result.status is FAILED
    assert "whose event loop does not run in another thread" in result.errors[0].message


def test_future_of_a_loop_in_another_thread_is_waited_for(queue):
    with InLoop() as loop:
        result = queue.result(queue.perform(lambda: loop.task(answer())))

        assert result.wait(PATIENCE_SECONDS).return_value == 42


class InLoop:
    """An event loop in a thread of its own."""

    def __enter__(self) -> InLoop:
        self.pool = ThreadPoolExecutor(1)
        ready: Future[Any] = Future()
        self.pool.submit(asyncio.run, self._until_ended(ready))
        self.loop, self.ended = ready.result(PATIENCE_SECONDS)
        return self

    async def _until_ended(self, ready: Future[Any]) -> None:
        ended = asyncio.Event()
        ready.set_result((asyncio.get_running_loop(), ended))
        await ended.wait()

    def task(self, coroutine: Any) -> Any:
        made: Future[Any] = Future()
        self.loop.call_soon_threadsafe(lambda: made.set_result(self.loop.create_task(coroutine)))
        return made.result(PATIENCE_SECONDS)

    def __exit__(self, *_error: object) -> None:
        self.loop.call_soon_threadsafe(self.ended.set)
        self.pool.shutdown()


def test_returned_future_is_left_when_the_job_times_out(queue):
    future: Future[Any] = Future()

    @task(timeout=0.1)
    def job() -> Any:
        return future

    result = job.enqueue().wait(PATIENCE_SECONDS)

    assert result.errors[0].exception_class_path == "tgext.asyncjob.errors.JobTimeout"
    assert future.cancelled()


# -- the other places where calls run


def test_generator_that_a_new_process_would_leave_undone_is_an_error():
    with pytest.raises(BadCall, match="import_rows"):
        MultiprocessTaskrunner(import_rows)().result(PATIENCE_SECONDS)


def test_generator_that_a_new_process_has_used_up_is_none():
    runner = MultiprocessTaskrunner(import_rows, on_iter=print)

    assert runner().result(PATIENCE_SECONDS) is None


def test_generator_in_a_store_is_an_error():
    store: dict[str, Any] = {}
    with (
        StoreExecutor(store, readers=1) as executor,
        pytest.raises(BadCall, match="import_rows"),
    ):
        executor.submit(import_rows).result(PATIENCE_SECONDS)


# -- arguments


def counted(items: list[int]) -> int:
    return len(items)


def test_argument_changed_after_the_enqueue_is_changed_on_memory_alone(held):
    items = [1, 2]
    uid = held.perform(counted, items)
    items.append(3)

    result = outcome_of(held, uid)

    assert result.return_value == (2 if held.backend.is_shared else 3)
