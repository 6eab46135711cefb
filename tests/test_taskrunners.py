"""Taskrunners: strand's own programs, where each kind runs, and what is called back when."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import pytest

from process_server import serving_context
from tgext.asyncjob import errors
from tgext.asyncjob.taskrunners import (
    CoroutineTaskrunner,
    MultiprocessTaskrunner,
    StoreTaskWriter,
    TaskDispatcher,
    Taskrunner,
    ThreadTaskrunner,
    as_task,
)

PATIENCE_SECONDS = 20.0


@pytest.fixture(scope="module", autouse=True)
def _server() -> None:
    serving_context(__name__)


@pytest.fixture(autouse=True)
def _safe_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest, and other tests, have threads
    monkeypatch.setattr(MultiprocessTaskrunner, "start_method", "forkserver")


# -- strand's programs

BASIC = """
from tgext.asyncjob.taskrunners import ThreadTaskrunner

def handle_chunk(chunk):
    print(f'got a chunk: {chunk}')

def long_blocking_function(total_size, chunk_size):
    total_size, chunk_size = int(total_size), int(chunk_size)
    if total_size < chunk_size:
        total_size = chunk_size
    big_list = range(total_size)
    return (big_list[chunk_size * n:chunk_size * (n + 1)] for n in range(total_size // chunk_size))

# instantiate the runner
runner = ThreadTaskrunner(long_blocking_function, on_iter=handle_chunk)

# call the runner with the arguments to pass to the function
# the function will run in a thread
runner(1e8, 1e7)
"""

DECORATED = """
from tgext.asyncjob.taskrunners import as_task

def handle_chunk(chunk):
    print(f'got a chunk: {chunk}')

@as_task(on_iter=handle_chunk)
def long_blocking_function(total_size, chunk_size):
    total_size, chunk_size = int(total_size), int(chunk_size)
    if total_size < chunk_size:
        total_size = chunk_size
    big_list = range(total_size)
    return (big_list[chunk_size * n:chunk_size * (n + 1)] for n in range(total_size // chunk_size))

# the function will run in a thread
long_blocking_function(1e8, 1e7)
"""

READER = """
from tgext.asyncjob.taskrunners import StoreTaskReader, StoreTaskWriter

def work(number):
    print('the result is', number * 2)
    if number == 3:
        reader.stop()

task_store = {}
reader = StoreTaskReader(task_store)
reader.listen()

writer = StoreTaskWriter(work, task_store, pickle_func=True)
writer(2)
writer(3)
"""

PROCESS = """
import os
from tgext.asyncjob.taskrunners import as_task

def show(result):
    print(result, os.getpid() != os.getppid())

@as_task('process', on_end=show)
def double(number):
    return number * 2

if __name__ == '__main__':
    double(21)
"""


def run_program(program: str, folder: Path) -> list[str]:
    path = folder / "program.py"
    path.write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.splitlines()


@pytest.mark.parametrize("program", [BASIC, DECORATED])
def test_program_of_strand_prints_all_chunks(program, tmp_path):
    lines = run_program(program, tmp_path)

    assert lines == [
        f"got a chunk: range({n}0000000, {n + 1}0000000)".replace("(00000000", "(0")
        for n in range(10)
    ]


def test_program_that_reads_a_store_lives_until_its_reader_stops(tmp_path):
    assert run_program(READER, tmp_path) == ["the result is 4", "the result is 6"]


def test_decorated_function_of_a_script_runs_in_a_process(tmp_path):
    assert run_program(PROCESS, tmp_path) == ["42 True"]


def test_script_that_starts_processes_without_a_guard_runs_nothing_twice(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROCESS.replace("if __name__ == '__main__':", "if True:"))

    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout == ""
    assert (
        "expected `if __name__ == '__main__':` around the code that starts a process" in done.stderr
    )
    assert "WorkerCrashed" in done.stderr


# -- the callbacks, of every runner


class Heard:
    """Keeps what callbacks are called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.threads: set[int] = set()

    def options(self, *names: str) -> dict[str, Any]:
        return {name: functools.partial(self._hear, name) for name in names}

    def _hear(self, name: str, value: Any) -> None:
        self.calls.append((name, value))
        self.threads.add(threading.get_ident())


@pytest.fixture
def heard() -> Heard:
    return Heard()


def settle(given: Any) -> Any:
    return given.result(PATIENCE_SECONDS) if isinstance(given, Future) else given


def join(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return (*args, *sorted(kwargs.items()))


def fail(*_args: Any) -> None:
    raise LookupError("nothing there")


def count(number: int) -> Iterator[int]:
    yield from range(number)


async def join_async(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    await asyncio.sleep(0)
    return join(*args, **kwargs)


async def count_async(number: int) -> AsyncIterator[int]:
    for item in range(number):
        await asyncio.sleep(0)
        yield item


HERE = [Taskrunner, ThreadTaskrunner, CoroutineTaskrunner]


@pytest.mark.parametrize("function", [join, join_async])
@pytest.mark.parametrize("kind", [*HERE, MultiprocessTaskrunner])
def test_function_gets_the_arguments_of_the_making_and_of_the_call(kind, function):
    runner = kind(function, 1, 2, one="a")

    assert settle(runner(3, two="b")) == (1, 2, 3, ("one", "a"), ("two", "b"))


@pytest.mark.parametrize("kind", [*HERE, MultiprocessTaskrunner])
def test_keyword_given_at_the_making_and_at_the_call_is_a_type_error(kind):
    with pytest.raises(TypeError):
        settle(kind(join, one=1, on_error=None)(one=2))


@pytest.mark.parametrize("function", [count, count_async, lambda number: range(number)])
@pytest.mark.parametrize("kind", HERE)
def test_items_of_what_the_function_returns_are_called_back_in_order(kind, function, heard):
    runner = kind(function, **heard.options("on_iter"))

    settle(runner(3))

    assert heard.calls == [("on_iter", 0), ("on_iter", 1), ("on_iter", 2)]


@pytest.mark.parametrize("kind", HERE)
def test_result_that_is_not_iterable_has_no_items(kind, heard):
    assert settle(kind(lambda: 5, **heard.options("on_iter"))()) == 5
    assert heard.calls == []


@pytest.mark.parametrize("kind", HERE)
def test_end_is_called_back_once_after_the_items(kind, heard):
    result = settle(kind(lambda: [1], **heard.options("on_iter", "on_end", "on_error"))())

    assert result == [1]
    assert heard.calls == [("on_iter", 1), ("on_end", [1])]


@pytest.mark.parametrize("kind", HERE)
def test_error_is_called_back_and_not_raised(kind, heard):
    assert settle(kind(fail, **heard.options("on_end", "on_error"))()) is None

    [(name, error)] = heard.calls
    assert name == "on_error"
    assert isinstance(error, LookupError)


@pytest.mark.parametrize("kind", HERE)
@pytest.mark.parametrize("broken", ["on_iter", "on_end"])
def test_error_of_a_callback_is_called_back_too(kind, broken, heard):
    runner = kind(lambda: [1], **{broken: fail}, **heard.options("on_error"))

    settle(runner())

    assert [name for name, _ in heard.calls] == ["on_error"]


@pytest.mark.parametrize("kind", [*HERE, MultiprocessTaskrunner])
def test_error_that_nobody_is_told_of_is_raised(kind):
    with pytest.raises(LookupError, match="nothing there"):
        settle(kind(fail)())


@pytest.mark.parametrize("kind", HERE)
def test_callbacks_that_are_coroutine_functions_are_awaited(kind):
    heard = []

    async def hear(value: Any) -> None:
        await asyncio.sleep(0)
        heard.append(value)

    settle(kind(lambda: [1, 2], on_iter=hear, on_end=hear)())

    assert heard == [1, 2, [1, 2]]


@pytest.mark.parametrize("kind", HERE)
def test_thing_that_cannot_be_called_is_refused_when_the_runner_is_made(kind):
    with pytest.raises(errors.BadCall, match=f"expected a function for {kind.__name__}, got"):
        kind(5)


# -- threads


def test_function_and_callbacks_run_in_one_other_thread(heard):
    runner = ThreadTaskrunner(threading.get_ident, **heard.options("on_end"))

    thread = runner().result(PATIENCE_SECONDS)

    assert heard.threads == {thread}
    assert thread != threading.get_ident()


def test_any_number_of_calls_run_at_the_same_time():
    meet = threading.Barrier(40, timeout=PATIENCE_SECONDS)
    runner = ThreadTaskrunner(meet.wait)

    places = [future.result(PATIENCE_SECONDS) for future in [runner() for _ in range(40)]]

    assert sorted(places) == list(range(40))


def test_error_in_a_thread_that_nobody_is_told_of_is_logged(caplog):
    future = ThreadTaskrunner(fail)()
    assert isinstance(future.exception(PATIENCE_SECONDS), LookupError)

    # a callback added later is called after the one that logs
    logged = threading.Event()
    future.add_done_callback(lambda _: logged.set())
    assert logged.wait(PATIENCE_SECONDS)
    assert f"{__name__}.fail failed, and has no on_error" in caplog.text
    assert "nothing there" in caplog.text


# -- processes


def write_pid(path: str, value: Any) -> None:
    with open(path, "a") as file:
        file.write(json.dumps([os.getpid(), repr(value)]) + "\n")


def own_pid(_path: str = "") -> list[int]:
    return [os.getpid()]


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_callbacks_run_in_the_process_of_the_function(tmp_path):
    path = tmp_path / "calls"
    tell = functools.partial(write_pid, str(path))
    runner = MultiprocessTaskrunner(own_pid, on_iter=tell, on_end=tell)

    [pid] = runner().result(PATIENCE_SECONDS)

    assert pid != os.getpid()
    assert lines_of(path) == [[pid, str(pid)], [pid, f"[{pid}]"]]


def test_error_is_called_back_in_the_process_of_the_function(tmp_path):
    path = tmp_path / "calls"
    runner = MultiprocessTaskrunner(fail, on_error=functools.partial(write_pid, str(path)))

    assert runner().result(PATIENCE_SECONDS) is None

    [[pid, error]] = lines_of(path)
    assert pid != os.getpid()
    assert error == "LookupError('nothing there')"


def test_generator_is_used_up_in_its_process(tmp_path):
    path = tmp_path / "calls"
    runner = MultiprocessTaskrunner(count, on_iter=functools.partial(write_pid, str(path)))

    assert runner(3).result(PATIENCE_SECONDS) is None

    assert [value for _, value in lines_of(path)] == ["0", "1", "2"]


@as_task("process")
def decorated(number: int) -> tuple[int, int]:
    return os.getpid(), number


def test_decorated_function_of_a_module_runs_in_a_process():
    pid, number = decorated(4).result(PATIENCE_SECONDS)

    assert number == 4
    assert pid != os.getpid()


class Unpicklable:
    """Called as a function would be."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self) -> None:
        pass


@pytest.mark.parametrize("which", ["func", "on_iter", "on_end", "on_error"])
@pytest.mark.parametrize("make", [lambda: lambda *_: None, Unpicklable])
def test_function_that_no_process_could_find_is_refused_when_the_runner_is_made(which, make):
    with pytest.raises(errors.NotSerializable, match="expected functions that a new process can"):
        MultiprocessTaskrunner(**{"func": join, which: make()})


def test_partial_of_a_function_that_no_process_could_find_is_refused():
    with pytest.raises(errors.NotSerializable, match="is no module-level function"):
        MultiprocessTaskrunner(functools.partial(lambda: None))


def test_check_of_the_function_can_be_left_out_where_processes_fork(tmp_path):
    program = """
        from tgext.asyncjob.taskrunners import MultiprocessTaskrunner
        MultiprocessTaskrunner.start_method = 'fork'
        double = lambda number: number * 2
        print(MultiprocessTaskrunner(double, check_func=False)(4).result(20))
    """

    assert run_program(textwrap.dedent(program), tmp_path) == ["8"]


def test_argument_that_no_process_can_be_given_is_refused_at_the_call():
    with pytest.raises(errors.NotSerializable, match="expected a call that can be sent to"):
        MultiprocessTaskrunner(join)(threading.Lock())


# -- coroutines


@pytest.mark.parametrize("function", [join, join_async])
def test_inside_a_running_loop_a_coroutine_runner_gives_what_can_be_awaited(function):
    runner = CoroutineTaskrunner(function, 1)

    async def main() -> Any:
        return await runner(2)

    assert asyncio.run(main()) == (1, 2)


def test_inside_a_running_loop_a_coroutine_runner_starts_without_being_awaited():
    async def main() -> bool:
        ran = asyncio.Event()

        async def note() -> None:
            ran.set()

        CoroutineTaskrunner(note)()
        await asyncio.wait_for(ran.wait(), PATIENCE_SECONDS)
        return ran.is_set()

    assert asyncio.run(main())


@pytest.mark.parametrize(("yields", "order"), [(True, "abab"), (False, "aabb")])
def test_yield_on_iter_lets_other_coroutines_run_between_items(yields, order):
    seen = []

    async def main() -> None:
        runners = [
            CoroutineTaskrunner(lambda name=name: [name] * 2, on_iter=seen.append,
                                yield_on_iter=yields)
            for name in "ab"
        ]  # fmt: skip
        await asyncio.gather(*[runner() for runner in runners])

    asyncio.run(main())

    assert "".join(seen) == order


def test_error_of_a_coroutine_is_raised_where_it_is_awaited():
    async def main() -> None:
        with pytest.raises(LookupError):
            await CoroutineTaskrunner(fail)()

    asyncio.run(main())


def test_coroutine_cannot_be_run_synchronously_inside_a_running_loop():
    async def main() -> None:
        with pytest.raises(RuntimeError, match="as CoroutineTaskrunner does, or use a thread"):
            Taskrunner(join_async)(1)

    asyncio.run(main())


def test_coroutine_function_runs_in_a_thread_while_a_loop_runs_here():
    async def main() -> Any:
        return await asyncio.wrap_future(ThreadTaskrunner(join_async)(1))

    assert asyncio.run(main()) == (1,)


def test_acall_runs_in_the_coroutine_of_the_caller(heard):
    async def main() -> Any:
        task = asyncio.current_task()

        async def same() -> bool:
            return asyncio.current_task() is task

        return await CoroutineTaskrunner(same, **heard.options("on_end")).acall()

    assert asyncio.run(main()) is True
    assert heard.calls == [("on_end", True)]


# -- as_task


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("thread", ThreadTaskrunner),
        ("coroutine", CoroutineTaskrunner),
        ("sync", Taskrunner),
        (Taskrunner, Taskrunner),
    ],
)
def test_target_says_which_runner_a_function_becomes(target, kind):
    @as_task(target)
    def double(number: int) -> int:
        """Twice as much."""
        return number * 2

    assert type(double) is kind
    assert (double.__name__, double.__doc__) == ("double", "Twice as much.")
    assert settle(double(4)) == 8


def test_target_store_writes_each_call_into_the_store():
    store: dict[str, Any] = {}

    @as_task("store", store=store)
    def double(number: int) -> int:
        return number * 2

    key = double(4)

    assert isinstance(double, StoreTaskWriter)
    assert (store[key]["name"], store[key]["args"]) == ("double", [4])


def test_thread_is_where_a_task_runs_that_says_nothing_else():
    assert type(as_task()(join)) is ThreadTaskrunner


@pytest.mark.parametrize("wrong", ["treads", 5, object, None])
def test_target_that_does_not_exist_is_refused_with_those_that_do(wrong):
    with pytest.raises(errors.ConfigError, match="one of thread, process, coroutine, store, sync"):
        as_task(wrong)


def test_decorator_without_brackets_is_refused_with_a_hint():
    with pytest.raises(errors.ConfigError, match=r"write @as_task\(\), with parentheses"):
        as_task(join)  # type: ignore[arg-type]


def test_store_target_without_a_store_is_refused():
    with pytest.raises(errors.ConfigError, match="expected store= for the task"):
        as_task("store")(join)


# -- TaskDispatcher


@pytest.mark.parametrize("target", ["thread", "process", "coroutine", "sync"])
def test_dispatcher_keeps_account_of_what_it_runs(target):
    dispatcher = TaskDispatcher(target)
    dispatcher.enqueue(join, 1, args=[2], kwargs={"a": 3})
    dispatcher.enqueue(fail)
    dispatcher.enqueue(join_async, args=[5])

    assert dispatcher.status == [None, None, None]
    assert not dispatcher.complete

    assert dispatcher.run(PATIENCE_SECONDS) is True

    assert dispatcher.status == ["success", "error", "success"]
    assert dispatcher.results == [(1, 2, ("a", 3)), None, (5,)]
    assert [type(error) for error in dispatcher.errors] == [type(None), LookupError, type(None)]
    assert dispatcher.complete


def test_dispatchers_share_nothing():
    first, second = TaskDispatcher("sync"), TaskDispatcher("sync")

    first.dispatch(join, args=[1])

    assert (second.results, second.status, second.errors) == ([], [], [])
    assert first.results == [(1,)]


def test_dispatch_runs_a_task_at_once_and_gives_its_future():
    dispatcher = TaskDispatcher()

    future = dispatcher.dispatch(join, args=[1])

    assert future.result(PATIENCE_SECONDS) == (1,)
    assert dispatcher.results == [(1,)]


def test_each_task_may_have_a_target_of_its_own():
    dispatcher = TaskDispatcher("sync")
    dispatcher.enqueue(threading.get_ident, target="thread")
    dispatcher.enqueue(threading.get_ident)

    dispatcher.run(PATIENCE_SECONDS)

    there, here = dispatcher.results
    assert here == threading.get_ident()
    assert there != here


def test_dispatcher_counts_an_error_that_a_callback_was_told_of(heard):
    dispatcher = TaskDispatcher("thread")
    dispatcher.enqueue(fail, **heard.options("on_error"))

    dispatcher.run(PATIENCE_SECONDS)

    assert dispatcher.status == ["error"]
    assert [name for name, _ in heard.calls] == ["on_error"]


def test_dispatcher_says_how_many_tasks_still_run_when_it_is_too_late(gate):
    dispatcher = TaskDispatcher("thread")
    dispatcher.enqueue(gate.enter)
    dispatcher.enqueue(join)

    with pytest.raises(TimeoutError, match=r"1 of 2 tasks still run after 0\.2 s"):
        dispatcher.run(timeout=0.2)

    gate.open()
    assert dispatcher.run(PATIENCE_SECONDS)


def test_check_complete_decides_when_all_is_done(gate):
    dispatcher = TaskDispatcher(check_complete=lambda results, status, errors: "success" in status)
    dispatcher.enqueue(gate.enter)
    dispatcher.enqueue(join)

    assert dispatcher.run(PATIENCE_SECONDS)
    assert dispatcher.status == [None, "success"]
    gate.open()


def test_reset_forgets_all_tasks():
    dispatcher = TaskDispatcher("sync")
    dispatcher.dispatch(join)
    dispatcher.enqueue(fail)

    dispatcher.reset()

    assert dispatcher.run(PATIENCE_SECONDS)
    assert dispatcher.status == []


def test_dispatcher_runs_coroutines_of_a_running_loop():
    async def main() -> TaskDispatcher:
        dispatcher = TaskDispatcher("coroutine")
        dispatcher.enqueue(join_async, args=[1])
        dispatcher.enqueue(fail)
        await dispatcher.arun(PATIENCE_SECONDS)
        return dispatcher

    dispatcher = asyncio.run(main())

    assert dispatcher.results == [(1,), None]
    assert dispatcher.status == ["success", "error"]


def test_dispatcher_does_not_wait_inside_a_running_loop():
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"use `await dispatcher\.arun\(\)`"):
            TaskDispatcher().run()

    asyncio.run(main())


def test_failure_is_logged_by_who_started_it_and_by_no_dispatcher(caplog):
    dispatcher = TaskDispatcher("thread")
    dispatcher.enqueue(fail)

    dispatcher.run(PATIENCE_SECONDS)

    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# -- subclasses, as strand writes its own


class Daemonic(Taskrunner):
    """Goes to a thread of its own, and does not give it away as a future."""

    def run(self, *args: Any, **kwargs: Any) -> None:
        Taskrunner.__call__(self, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> threading.Thread:
        thread = threading.Thread(target=self.run, args=args, kwargs=kwargs, daemon=True)
        thread.start()
        return thread


class AroundCall(ThreadTaskrunner):
    """Does something before the thread is started, and hears of the end by its own callback."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        on_end = self._on_end

        def handle_end_thread(result: Any) -> None:
            if on_end is not None:
                on_end(f"handled {result}")

        self._on_end = handle_end_thread
        return super().__call__(*args, **kwargs)


class AroundRun(ThreadTaskrunner):
    """Does something in the thread, and returns nothing."""

    def run(self, *args: Any, **kwargs: Any) -> None:
        super().run(*args, **kwargs)


class AroundRunOfProcess(MultiprocessTaskrunner):
    """Does something in the process."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        os.environ["AROUND_RUN"] = "was here"
        return super().run(*args, **kwargs)


class OwnCoroutine(CoroutineTaskrunner):
    """Has a coroutine of its own."""

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        result = self._func(*args, **kwargs)
        for value in result if self._on_iter else ():
            self._on_iter(value)
        await asyncio.sleep(0)
        return result


class Logged(Taskrunner):
    """Stays where it is, and does something before."""

    calls: ClassVar[list[tuple[Any, ...]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(args)
        return super().__call__(*args, **kwargs)


def double(number: int) -> int:
    return number * 2


def around_run() -> str | None:
    return os.environ.get("AROUND_RUN")


def test_subclass_that_goes_to_its_own_thread_runs_the_function_there_once():
    ended: list[Any] = []

    thread = Daemonic(double, on_end=ended.append)(21)
    thread.join(PATIENCE_SECONDS)

    assert ended == [42]


def test_callback_that_a_subclass_assigns_is_called():
    ended: list[Any] = []

    AroundCall(double, on_end=ended.append)(21).result(PATIENCE_SECONDS)

    assert ended == ["handled 42"]


def test_subclass_that_overrides_run_is_run_where_its_kind_runs():
    assert AroundRunOfProcess(around_run)().result(PATIENCE_SECONDS) == "was here"
    assert "AROUND_RUN" not in os.environ


def test_subclass_with_a_coroutine_of_its_own_is_awaited():
    items: list[Any] = []
    runner = OwnCoroutine(range, on_iter=items.append)

    async def main() -> Any:
        return await runner(2), await runner.get_coro(1)

    assert asyncio.run(main()) == (range(2), range(1))
    assert runner(1) == range(1)
    assert items == [0, 1, 0, 0]


@pytest.mark.parametrize("kind", [Daemonic, AroundCall, AroundRun, OwnCoroutine, Logged])
def test_future_of_a_subclass_is_of_what_the_function_returns(kind):
    assert kind(double).submit(21).result(PATIENCE_SECONDS) == 42


@pytest.mark.parametrize("kind", [Daemonic, AroundCall, AroundRun, OwnCoroutine, Logged])
def test_dispatcher_calls_a_subclass_and_keeps_account_of_it(kind):
    dispatcher = TaskDispatcher(kind)
    dispatcher.enqueue(double, args=[21])
    dispatcher.enqueue(double, args=[None])

    dispatcher.run(PATIENCE_SECONDS)

    assert dispatcher.results == [42, None]
    assert dispatcher.status == ["success", "error"]
    assert isinstance(dispatcher.errors[1], TypeError)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_dispatcher_hears_what_the_function_raises_in_its_process(method, monkeypatch):
    monkeypatch.setattr(MultiprocessTaskrunner, "start_method", method)
    dispatcher = TaskDispatcher("process")
    dispatcher.enqueue(double, args=[None])

    dispatcher.run(PATIENCE_SECONDS)

    assert dispatcher.status == ["error"]
    assert isinstance(dispatcher.errors[0], TypeError)


def test_dispatcher_calls_what_a_subclass_calls_itself_with():
    Logged.calls.clear()
    dispatcher = TaskDispatcher()

    dispatcher.dispatch(double, target=Logged, args=[21]).result(PATIENCE_SECONDS)

    assert Logged.calls == [(21,)]


def test_error_before_the_function_runs_is_raised_by_who_submits():
    class Refusing(Taskrunner):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            raise LookupError("not today")

    with pytest.raises(LookupError, match="not today"):
        Refusing(double).submit(21)


def test_subclass_that_tries_again_hears_of_its_second_try():
    class Retrying(Taskrunner):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().__call__(*args, **kwargs)
            except LookupError:
                return super().__call__(*args, **kwargs)

    tries = iter([LookupError("first"), None])

    def fail_once() -> str:
        error = next(tries)
        if error is not None:
            raise error
        return "second"

    assert Retrying(fail_once)() == "second"


def test_decorator_takes_a_subclass():
    ended: list[Any] = []

    as_task(Daemonic, on_end=ended.append)(double)(21).join(PATIENCE_SECONDS)

    assert ended == [42]
