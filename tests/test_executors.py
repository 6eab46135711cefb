"""The executors, and the standard library's two pools, against one contract."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import multiprocessing
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from executor_contract import PATIENCE_SECONDS, ExecutorContract, Mistake, Stop, add, fail, stop
from hook_server import served
from process_server import serving_context
from tgext.asyncjob import RemoteError
from tgext.asyncjob.executors import (
    CoroutineExecutor,
    HttpExecutor,
    HttpHook,
    InlineExecutor,
    ProcessExecutor,
)
from tgext.asyncjob.executors.remote_errors import Failure, RemoteTraceback, calling

SECRET = "two servers know this"


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.BaseContext:
    # Not fork: there are threads in this process; spawn takes a quarter of a second for each.
    return serving_context(__name__)


class TestThreadPoolExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with ThreadPoolExecutor(2) as made:
            yield made


class TestProcessPoolExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, context: multiprocessing.context.BaseContext) -> Iterator[Executor]:
        with ProcessPoolExecutor(1, mp_context=context) as made:
            yield made


class TestInlineExecutor(ExecutorContract):
    inline = True

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with InlineExecutor() as made:
            yield made


class TestProcessExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, context: multiprocessing.context.BaseContext) -> Iterator[Executor]:
        with ProcessExecutor(1, mp_context=context) as made:
            yield made


class TestCoroutineExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with CoroutineExecutor() as made:
            yield made


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own, as an application's does."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join(PATIENCE_SECONDS)
    made.close()


class TestCoroutineExecutorOnARunningLoop(ExecutorContract):
    @pytest.fixture
    def executor(self, loop: asyncio.AbstractEventLoop) -> Iterator[Executor]:
        with CoroutineExecutor(loop) as made:
            yield made


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with served(HttpHook(SECRET)) as address:
        yield address


class TestHttpExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, server: str) -> Iterator[Executor]:
        with HttpExecutor(server, "/", SECRET) as made:
            yield made


@pytest.fixture
def executor() -> Iterator[InlineExecutor]:
    with InlineExecutor() as made:
        yield made


def test_inline_call_runs_in_the_thread_that_submits_it(executor):
    assert executor.submit(threading.get_ident).result(0) == threading.get_ident()


def test_inline_call_is_done_when_submit_returns(executor):
    assert executor.submit(add, 1).done()


def test_inline_calls_of_many_threads_run_at_the_same_time(executor):
    meet = threading.Barrier(3, timeout=PATIENCE_SECONDS)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(executor.submit, meet.wait) for _ in range(3)]

        places = {future.result(PATIENCE_SECONDS).result(0) for future in futures}

    assert places == {0, 1, 2}


def test_inline_call_may_submit_another(executor):
    outer = executor.submit(lambda: executor.submit(add, 1, 2).result(0))

    assert outer.result(0) == 3


def test_inline_call_may_shut_its_executor_down(executor):
    future = executor.submit(executor.shutdown)

    assert future.result(0) is None
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(add, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Stop])
def test_what_is_no_exception_is_raised_to_who_submitted_an_inline_call(executor, error):
    def interrupt() -> None:
        raise error

    with pytest.raises(error):
        executor.submit(interrupt)


def test_exception_of_an_inline_call_is_not_raised_to_who_submitted_it(executor):
    future = executor.submit(lambda: 1 // 0)

    assert isinstance(future.exception(0), ZeroDivisionError)


def test_traceback_of_an_inline_call_shows_where_it_failed(executor):
    def culprit() -> None:
        raise LookupError("here")

    error = executor.submit(culprit).exception(0)

    names = []
    traceback = error.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "culprit"


def test_inline_executor_survives_what_is_no_exception(executor):
    with pytest.raises(Stop):
        executor.submit(stop)

    assert executor.submit(add, 4).result(0) == 4


# -- on an event loop


@pytest.fixture
def coroutines() -> Iterator[CoroutineExecutor]:
    with CoroutineExecutor() as made:
        yield made


async def add_slowly(*numbers: int) -> int:
    await asyncio.sleep(0)
    return sum(numbers)


async def fail_slowly() -> None:
    await asyncio.sleep(0)
    raise Mistake(1, "late")


async def leave() -> None:
    await asyncio.sleep(0)
    raise SystemExit(3)


def test_coroutine_function_is_awaited(coroutines):
    assert coroutines.submit(add_slowly, 1, 2).result(PATIENCE_SECONDS) == 3


def test_what_a_plain_function_returns_is_awaited_where_it_can_be(coroutines):
    assert coroutines.submit(lambda: add_slowly(1, 2)).result(PATIENCE_SECONDS) == 3


def test_exception_of_a_coroutine_is_in_its_future(coroutines):
    error = coroutines.submit(fail_slowly).exception(PATIENCE_SECONDS)

    assert type(error) is Mistake


def test_system_exit_of_a_coroutine_ends_it_and_not_the_loop(coroutines):
    assert isinstance(coroutines.submit(leave).exception(PATIENCE_SECONDS), SystemExit)
    assert coroutines.submit(add_slowly, 1).result(PATIENCE_SECONDS) == 1


def test_coroutines_wait_at_the_same_time(coroutines):
    events: list[asyncio.Event] = []

    async def meet(number: int) -> int:
        events.append(asyncio.Event())
        if len(events) == 3:
            for event in events:
                event.set()
        await events[number].wait()
        return number

    futures = [coroutines.submit(meet, number) for number in range(3)]

    assert [future.result(PATIENCE_SECONDS) for future in futures] == [0, 1, 2]


def test_all_calls_run_on_one_loop_and_outside_the_callers_thread(coroutines):
    async def where() -> tuple[int, int]:
        return threading.get_ident(), id(asyncio.get_running_loop())

    places = {coroutines.submit(where).result(PATIENCE_SECONDS) for _ in range(5)}

    [(thread, _)] = places
    assert thread != threading.get_ident()


def test_call_runs_on_the_loop_that_was_given(loop):
    async def its_loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    with CoroutineExecutor(loop) as executor:
        assert executor.submit(its_loop).result(PATIENCE_SECONDS) is loop

    assert loop.is_running()


def test_executor_can_be_used_from_its_own_running_loop():
    async def program() -> int:
        executor = CoroutineExecutor(asyncio.get_running_loop())
        total = await asyncio.wrap_future(executor.submit(add_slowly, 1, 2))
        executor.shutdown()
        return total

    assert asyncio.run(program()) == 3


def test_shutdown_that_would_wait_for_itself_says_so():
    async def program() -> int:
        executor = CoroutineExecutor(asyncio.get_running_loop())
        future = executor.submit(add_slowly, 1, 2)
        with pytest.raises(RuntimeError, match="would wait for itself"):
            executor.shutdown()
        return await asyncio.wrap_future(future)

    assert asyncio.run(program()) == 3


def test_submit_to_a_loop_that_is_closed_is_a_runtime_error():
    loop = asyncio.new_event_loop()
    loop.close()
    executor = CoroutineExecutor(loop)

    with pytest.raises(RuntimeError, match="closed"):
        executor.submit(add, 1)
    executor.shutdown()


def test_coroutine_that_waits_can_be_cancelled(coroutines):
    begun, ended = threading.Event(), threading.Event()

    async def wait_for_ever() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    future = coroutines.submit(wait_for_ever)
    assert begun.wait(PATIENCE_SECONDS)

    assert future.cancel()
    assert ended.wait(PATIENCE_SECONDS)
    assert coroutines.submit(add, 1).result(PATIENCE_SECONDS) == 1


def test_shutdown_that_cancels_ends_coroutines_that_would_wait_for_ever():
    executor = CoroutineExecutor()
    future = executor.submit(asyncio.sleep, 3600)

    executor.shutdown(cancel_futures=True)

    assert future.cancelled()


def test_coroutine_that_was_cancelled_by_others_leaves_a_cancelled_future(coroutines):
    async def give_up() -> None:
        raise asyncio.CancelledError

    future = coroutines.submit(give_up)

    with pytest.raises(CancelledError):
        future.result(PATIENCE_SECONDS)
    assert future.cancelled()


def test_coroutine_sees_the_context_of_who_submits_it(coroutines):
    asker: contextvars.ContextVar[str] = contextvars.ContextVar("asker")
    asker.set("alice")

    assert coroutines.submit(asker.get).result(PATIENCE_SECONDS) == "alice"


def test_loop_of_an_executor_that_is_forgotten_ends():
    executor = CoroutineExecutor()
    [thread] = {executor.submit(threading.current_thread).result(PATIENCE_SECONDS)}
    forgotten = weakref.ref(executor)

    del executor
    gc.collect()

    thread.join(PATIENCE_SECONDS)
    assert forgotten() is None
    assert not thread.is_alive()


def test_program_that_forgets_a_shutdown_ends_and_cancels_what_waits():
    program = (
        "import asyncio, threading\n"
        "from tgext.asyncjob.executors import CoroutineExecutor\n"
        "begun = threading.Event()\n"
        "async def wait():\n"
        "    try:\n"
        "        begun.set(); await asyncio.Event().wait()\n"
        "    finally:\n"
        "        print('cancelled', flush=True)\n"
        "executor = CoroutineExecutor()\n"
        "executor.submit(wait)\n"
        "begun.wait(10)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "cancelled\n", "")


# -- exceptions that come from another process


class Locked(Exception):
    """Cannot be pickled: it holds a lock."""

    def __init__(self) -> None:
        super().__init__("no way through")
        self.lock = threading.Lock()


class Forgetful(Exception):
    """Can be pickled, and not unpickled: it does not hand on what it is made of."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


class Unprintable(Exception):
    """Has no text, and cannot be pickled either."""

    def __str__(self) -> str:
        raise ValueError("no text")

    def __reduce__(self) -> str:
        raise ValueError("no pickle")


def raise_locked() -> None:
    raise Locked


def raise_forgetful() -> None:
    raise Forgetful(1, 2)


def raise_unprintable() -> None:
    raise Unprintable


HOPELESS = [
    (raise_locked, "test_executors.Locked", "no way through"),
    (raise_forgetful, "test_executors.Forgetful", "1 and 2"),
    (raise_unprintable, "test_executors.Unprintable", "cannot be printed"),
]


@pytest.fixture(params=["process", "http"])
def far_away(
    request: pytest.FixtureRequest, server: str, context: multiprocessing.context.BaseContext
) -> Iterator[Executor]:
    """An executor that runs calls in another process, or as if it were one."""
    if request.param == "process":
        with ProcessExecutor(1, mp_context=context) as made:
            yield made
    else:
        with HttpExecutor(server, "/", SECRET) as made:
            yield made


@pytest.mark.parametrize(("function", "path", "text"), HOPELESS)
def test_exception_that_cannot_be_pickled_arrives_as_one_that_can(far_away, function, path, text):
    error = far_away.submit(function).exception(PATIENCE_SECONDS)

    assert type(error) is RemoteError
    assert error.class_path == path
    assert text in error.text
    assert pickle.loads(pickle.dumps(error)).args == error.args
    assert far_away.submit(add, 1).result(PATIENCE_SECONDS) == 1


@pytest.mark.parametrize("function", [raise_locked, raise_forgetful])
def test_remote_error_has_the_traceback_of_the_other_side(far_away, function):
    error = far_away.submit(function).exception(PATIENCE_SECONDS)

    assert f"in {function.__name__}" in error.traceback


def test_exception_that_can_be_pickled_has_the_remote_traceback_as_its_cause(far_away):
    error = far_away.submit(fail, 1, "why").exception(PATIENCE_SECONDS)

    assert type(error) is Mistake
    assert "in fail" in str(error.__cause__)


def test_exception_of_a_class_that_is_not_here_arrives_as_a_remote_error():
    failure = Failure.of(Mistake(1, "why"))

    moved = failure._replace(pickled=failure.pickled.replace(b"executor_contract", b"elsewhere"))

    error = moved.exception()
    assert type(error) is RemoteError
    assert (error.class_path, error.text) == ("executor_contract.Mistake", "(1, 'why')")
    assert isinstance(error.__cause__, RemoteTraceback)


def test_what_stands_in_for_an_exception_is_text_through_and_through():
    failure = Failure.of(Unprintable())

    assert failure.pickled is None
    assert all(type(part) is str for part in failure[1:])


def test_calling_leaves_an_exception_that_can_be_pickled_as_it_is():
    with pytest.raises(Mistake) as caught:
        calling(fail, 1, "why")

    assert caught.value.code == 1


def test_the_package_loads_no_executor_that_nobody_asked_for():
    code = (
        "import sys, tgext.asyncjob.executors as executors\n"
        "modules = [name for name in sys.modules if name.startswith(executors.__name__ + '.')]\n"
        "print(*modules, 'then', executors.InlineExecutor.__name__)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == [
        "tgext.asyncjob.executors.remote_errors",
        "then",
        "InlineExecutor",
    ]
