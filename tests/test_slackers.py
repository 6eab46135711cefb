"""Slackers: what is recorded, where it is run, who hears of it; the seed's own programs.

The programs that need another server are in test_http_slackers.py and test_http_django.py.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import copy
import gc
import logging
import math
import multiprocessing
import operator
import os
import pickle
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado import gen
from tornado.ioloop import IOLoop

from process_server import serving_context
from tgext.asyncjob import (
    BadCall,
    JobQueue,
    NotSerializable,
    TaskResultStatus,
    asyncjob_perform,
    asyncjob_result,
    asyncjob_set_progress,
)
from tgext.asyncjob import slackers as adisp
from tgext.asyncjob import task as declare
from tgext.asyncjob.call import Call
from tgext.asyncjob.executors import CoroutineExecutor, loops
from tgext.asyncjob.executors.chain import Chain, replay
from tgext.asyncjob.serialization import CallSerializer
from tgext.asyncjob.slackers import (
    DummyWorker,
    Postponed,
    ProcessWorker,
    Slacker,
    ThreadWorker,
    process,
)

PATIENCE_SECONDS = 20.0

SECRET = "only this application knows it"


class Shelf:
    """Something with attributes, methods and items."""

    label = "top"

    def __init__(self, *books: str) -> None:
        self.books = list(books)

    def __getitem__(self, key: Any) -> Any:
        return self.books[key]

    def starting_with(self, letter: str, *, reverse: bool = False) -> Shelf:
        found = sorted((book for book in self.books if book.startswith(letter)), reverse=reverse)
        return Shelf(*found)


class Touched(Exception):
    """Raised by whatever is done to an Untouchable."""


class Untouchable:
    """Refuses everything that a recorder should not do to it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks for these
            raise AttributeError(name)
        raise Touched(name)

    def __getitem__(self, key: Any) -> Any:
        raise Touched(key)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise Touched("called")

    def __repr__(self) -> str:
        raise Touched("shown")


def task(param1: str, param2: str) -> str:
    return f"{param1} {param2} in {threading.current_thread().name}"


def blame(what: str) -> None:
    raise LookupError(what)


def current_pid() -> int:
    return os.getpid()


async def add_slowly(*numbers: int) -> int:
    await asyncio.sleep(0)
    return sum(numbers)


@pytest.fixture(autouse=True)
def _program_without_tornado(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is these tests that have imported it. Programs with it are in test_slackers_loops.py."""
    monkeypatch.setattr(loops, "uses_tornado", lambda: False)


@pytest.fixture
def worker() -> Iterator[ThreadWorker]:
    with ThreadWorker(2) as made:
        yield made


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.BaseContext:
    return serving_context()


def in_tornado(function: Callable[[], Any]) -> Any:
    """Run Tornado's event loop until what *function* gives has ended."""
    loop = IOLoop(make_current=False)
    try:
        return loop.run_sync(function, timeout=PATIENCE_SECONDS)
    finally:
        loop.close()


def result_of(postponed: Postponed) -> Any:
    return postponed.fetch().result(PATIENCE_SECONDS)


# -- the seed's programs


def test_seeds_program_with_a_process(worker):
    async_task = Slacker(task, worker)
    printed = []

    # pep-342-style
    @adisp.process
    def process_data():
        results = yield async_task("foo", "bar")
        printed.append(results)

    in_tornado(process_data)

    assert printed == ["foo bar in asyncjob-slacker_0"]


def test_seeds_program_in_callback_style(worker):
    async_task = Slacker(task, worker)
    printed, called = [], threading.Event()

    # callback style
    def process_data2():
        async_task("foo", "bar").proceed(on_result)

    def on_result(results):
        printed.append(results)
        called.set()

    process_data2()

    assert called.wait(PATIENCE_SECONDS)
    assert printed == ["foo bar in asyncjob-slacker_0"]


def test_seeds_program_of_tasks_in_parallel(worker):
    meet = threading.Barrier(2, timeout=PATIENCE_SECONDS)
    printed = []

    def _task1(param1, param2):
        meet.wait()
        return [param1, param2]

    def _task2():
        meet.wait()
        return "nothing"

    # worker can be reused
    task1 = Slacker(_task1, worker)
    task2 = Slacker(_task2, worker)

    @adisp.process
    def process_data():
        # this will execute task1 and task2 in parallel
        # and return the result after all data is ready
        res1, res2 = yield task1("foo", "bar"), task2()
        printed.append((res1, res2))

    in_tornado(process_data)

    assert printed == [(["foo", "bar"], "nothing")]


def test_seeds_program_of_a_module(tmp_path, worker):
    (tmp_path / "file1.txt").write_text("hello")
    copied = threading.Event()

    shutil_async = Slacker(shutil, worker)
    op = shutil_async.copy(tmp_path / "file1.txt", tmp_path / "file2.txt")
    op.proceed(lambda _: copied.set())

    assert copied.wait(PATIENCE_SECONDS)
    assert (tmp_path / "file2.txt").read_text() == "hello"


def test_seeds_program_that_proceeds_without_a_callback(tmp_path):
    (tmp_path / "file1.txt").write_text("hello")

    shutil_async = Slacker(shutil, DummyWorker())
    op = shutil_async.copy(tmp_path / "file1.txt", tmp_path / "file2.txt")
    op.proceed()

    assert (tmp_path / "file2.txt").read_text() == "hello"


def test_seeds_later_program_with_fetch(worker):
    async_task = Slacker(task, worker)
    printed = []

    @adisp.process
    def process_data():
        results = yield async_task("foo", "bar").fetch()
        printed.append(results)

    in_tornado(process_data)

    assert printed == ["foo bar in asyncjob-slacker_0"]


# -- recording


def test_recording_does_nothing_to_the_object():
    slacker = Slacker(Untouchable())

    chain = slacker.objects.filter(1, name="a")[:5][3].first()

    assert isinstance(chain, Postponed)
    with pytest.raises(Touched, match="objects"):
        result_of(chain)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (lambda shelf: shelf.label, "top"),
        (lambda shelf: shelf.starting_with("a").books, ["a", "ab", "ac"]),
        (lambda shelf: shelf.starting_with("a", reverse=True).books[0], "ac"),
        (lambda shelf: shelf.starting_with("a", reverse=True)[:2], ["ac", "ab"]),
        (lambda shelf: shelf[1:4:2], ["ab", "b"]),
        (lambda shelf: shelf[-1].upper(), "B"),
        (lambda shelf: shelf.books.__len__, None),
    ],
)
def test_attributes_calls_items_and_slices_are_replayed_in_order(record, expected):
    shelf = Shelf("a", "ab", "ac", "b")
    if expected is None:
        with pytest.raises(AttributeError, match="records no attribute"):
            record(Slacker(shelf))
        return

    assert result_of(record(Slacker(shelf))) == expected


def test_class_is_called_where_the_chain_is_run():
    assert result_of(Slacker(Shelf)("x", "y").books) == ["x", "y"]


def test_key_of_several_dimensions_arrives_as_it_was():
    class Matrix:
        def __getitem__(self, key: Any) -> Any:
            return key

    assert result_of(Slacker(Matrix())[1:2, ..., 3]) == (slice(1, 2), ..., 3)


def test_every_use_of_a_slacker_begins_a_chain_of_its_own():
    shelf = Slacker(Shelf("a", "b"))

    first, second = shelf.books[0], shelf.books[1]

    assert (result_of(first), result_of(second)) == ("a", "b")


def test_chain_is_not_changed_by_extending_it():
    books = Slacker(Shelf("a", "b")).books

    first = books[0]
    shouted = first.upper()

    assert result_of(books) == ["a", "b"]
    assert result_of(first) == "a"
    assert result_of(shouted) == "A"


def test_chain_can_be_run_again():
    counter = collections.Counter()
    chain = Slacker(counter).update("a")

    result_of(chain)
    result_of(chain)

    assert counter["a"] == 2


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.sampled_from(["books", "x", "y_z", "_private"])),
        st.tuples(st.just("call"), st.lists(st.integers()), st.dictionaries(st.text(), st.text())),
        st.tuples(st.just("item"), st.integers() | st.text()),
        st.tuples(st.just("slice"), *[st.none() | st.integers()] * 3),
    ),
    max_size=12,
)


class Diary:
    """Writes down what is done to it."""

    def __init__(self, *entries: Any) -> None:
        vars(self)["entries"] = entries

    def _and(self, entry: Any) -> Diary:
        return Diary(*vars(self)["entries"], entry)

    def __getattr__(self, name: str) -> Any:
        return self._and(("get", name))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._and(("call", list(args), kwargs))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self._and(("slice", key.start, key.stop, key.step))
        return self._and(("item", key))


@given(STEPS, st.integers(0, 12))
def test_what_was_recorded_is_what_is_done_and_no_prefix_hears_of_the_rest(steps, cut):
    recorded: Any = Slacker(Diary())
    prefixes = []
    for kind, *rest in steps:
        prefixes.append(recorded)
        if kind == "get":
            recorded = getattr(recorded, rest[0])
        elif kind == "call":
            recorded = recorded(*rest[0], **rest[1])
        else:
            recorded = recorded[slice(*rest) if kind == "slice" else rest[0]]
    expected = [tuple(step) for step in steps]

    if steps:
        assert list(vars(result_of(recorded))["entries"]) == expected
    for number, prefix in enumerate(prefixes):
        if isinstance(prefix, Postponed) and number == cut:
            assert list(vars(result_of(prefix))["entries"]) == expected[:number]


@pytest.mark.parametrize(
    "misuse",
    [iter, list, len, lambda chain: "a" in chain, lambda chain: [*chain], int, float],
)
def test_what_cannot_be_recorded_is_a_type_error_and_no_endless_loop(misuse):
    with pytest.raises(TypeError):
        misuse(Slacker(Shelf("a")).books)


def test_chain_shows_what_it_does_and_no_arguments():
    chain = Slacker(shutil).copy("secret.txt", "b")[:3][0].name()

    assert repr(chain) == "<Postponed shutil.copy(...)[...][...].name()>"


def test_showing_a_chain_asks_nothing_of_its_object():
    assert repr(Slacker(Untouchable()).x) == "<Postponed test_slackers.Untouchable.x>"


@pytest.mark.parametrize("copied", [copy.copy, lambda chain: pickle.loads(pickle.dumps(chain))])
@pytest.mark.parametrize(
    "chain",
    [
        Slacker(math).sqrt(16),
        Slacker(math.sqrt)(16),
        Slacker(os.path).join("a", "b"),
        Slacker(Shelf("a", "b")).starting_with("a")[:1],
    ],
)
def test_chain_can_be_pickled_and_copied_without_its_worker(chain, copied):
    assert result_of(copied(chain)) == result_of(chain)


def test_slacker_can_be_pickled():
    slacker = pickle.loads(pickle.dumps(Slacker(math)))

    assert result_of(slacker.sqrt(9)) == 3


@pytest.mark.parametrize("name", ["__globals__", "__class__", "__reduce__"])
def test_forged_chain_takes_no_attribute_that_leads_everywhere(name):
    with pytest.raises(AttributeError, match="a chain never takes"):
        Chain(task, (("get", name),))()


def test_chain_is_a_plain_callable():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(Chain(math).get("sqrt").call((4,), {})).result(PATIENCE_SECONDS) == 2


# -- workers


def test_without_a_worker_it_is_done_at_once_in_the_callers_thread():
    assert result_of(Slacker(threading).get_ident()) == threading.get_ident()


def test_dummy_worker_runs_in_the_callers_thread():
    assert result_of(Slacker(threading, DummyWorker()).get_ident()) == threading.get_ident()


def test_thread_worker_runs_in_another_thread(worker):
    assert result_of(Slacker(threading, worker).get_ident()) != threading.get_ident()


def test_process_worker_runs_in_another_process(context):
    with ProcessWorker(1, context) as worker:
        assert result_of(Slacker(os, worker).getpid()) != os.getpid()
        assert result_of(Slacker(current_pid, worker)()) != os.getpid()
        assert result_of(Slacker(Shelf("a"), worker).books[0]) == "a"


@declare(priority=3)
def declared_pid() -> int:
    return os.getpid()


def test_process_worker_runs_a_declared_task(context):
    with ProcessWorker(1, context) as worker:
        assert result_of(Slacker(declared_pid, worker)()) != os.getpid()


def test_process_worker_never_forks_of_itself():
    worker = ProcessWorker(1)

    assert worker._mp_context.get_start_method() in ("forkserver", "spawn")
    worker.shutdown()


def test_event_loop_runs_a_chain_that_ends_in_a_coroutine():
    with CoroutineExecutor() as executor:
        assert result_of(Slacker(add_slowly, executor)(1, 2)) == 3


def test_any_executor_of_the_standard_librarys_kind_is_a_worker():
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        assert result_of(Slacker(task, pool)("a", "b")) == "a b in mine_0"


def test_worker_of_one_run_can_be_another(worker):
    chain = Slacker(threading).get_ident()

    assert chain.fetch(worker).result(PATIENCE_SECONDS) != threading.get_ident()
    told: Future[int] = Future()
    chain.proceed(told.set_result, worker)
    assert told.result(PATIENCE_SECONDS) != threading.get_ident()


def test_worker_that_takes_no_more_says_so_to_who_fetches(worker):
    worker.shutdown()

    with pytest.raises(RuntimeError, match="after shutdown"):
        Slacker(math, worker).sqrt(1).fetch()


# -- proceed, fetch, await


def test_exception_is_a_value_for_the_callback():
    told = []

    Slacker(blame)("it").proceed(told.append)

    [error] = told
    assert isinstance(error, LookupError)


def test_exception_is_raised_by_what_is_fetched():
    with pytest.raises(LookupError, match="it"):
        Slacker(blame)("it").fetch().result(PATIENCE_SECONDS)


def test_callback_is_called_on_the_event_loop_that_runs_where_it_was_given(worker):
    async def program() -> int:
        told = asyncio.get_running_loop().create_future()
        Slacker(math, worker).sqrt(4).proceed(
            lambda value: told.set_result((value, threading.get_ident()))
        )
        return await asyncio.wait_for(told, PATIENCE_SECONDS)

    assert asyncio.run(program()) == (2, threading.get_ident())


def test_proceed_without_a_callback_logs_what_was_raised(caplog):
    Slacker(blame)("it").proceed()

    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "LookupError: it" in caplog.text


def test_failure_that_nobody_asks_for_is_logged(caplog):
    Slacker(blame)("it").fetch()
    gc.collect()

    assert "its outcome was not asked for" in caplog.text
    assert "LookupError: it" in caplog.text


def test_failure_that_somebody_asked_for_is_not_logged(caplog):
    async def program() -> None:
        with pytest.raises(LookupError):
            await Slacker(blame)("it")

    asyncio.run(program())
    Slacker(blame)("it").fetch().exception()
    gc.collect()

    assert caplog.records == []


def test_chain_can_be_awaited(worker):
    async def program() -> Any:
        return await Slacker(math, worker).sqrt(16)

    assert asyncio.run(program()) == 4


def test_exception_is_raised_where_it_is_awaited(worker):
    async def program() -> None:
        with pytest.raises(LookupError, match="it"):
            await Slacker(blame, worker)("it")

    asyncio.run(program())


def test_what_is_fetched_can_be_awaited_more_than_once(worker):
    async def program() -> Any:
        future = Slacker(math, worker).sqrt(16).fetch()
        return await future, await future

    assert asyncio.run(program()) == (4, 4)


def test_chains_can_be_gathered():
    meet = threading.Barrier(2, timeout=PATIENCE_SECONDS)

    async def program(worker: Executor) -> Any:
        chain = Slacker(meet, worker).wait()
        return await asyncio.gather(chain, Slacker(meet, worker).wait())

    with ThreadWorker(2) as worker:
        assert sorted(asyncio.run(program(worker))) == [0, 1]


def test_event_loop_is_not_held_up_by_what_is_awaited(worker, gate):
    async def program() -> str:
        waiting = asyncio.ensure_future(Slacker(gate, worker).enter())
        await asyncio.get_running_loop().run_in_executor(None, gate.wait_for)
        gate.open()
        await waiting
        return "went on"

    assert asyncio.run(program()) == "went on"


def test_awaiting_can_be_cancelled_and_takes_the_waiting_work_along(gate):
    done = []

    async def program(worker: Executor) -> None:
        Slacker(gate, worker).enter().proceed()
        gate.wait_for()
        waiting = asyncio.ensure_future(Slacker(done, worker).append(1))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    with ThreadWorker(1) as worker:
        asyncio.run(program(worker))
        gate.open()

    assert done == []


def test_work_that_its_worker_drops_is_cancelled_for_who_fetched_it(gate):
    worker = ThreadWorker(1)
    Slacker(gate, worker).enter().proceed()
    gate.wait_for()
    future = Slacker(math, worker).sqrt(1).fetch()

    worker.shutdown(wait=False, cancel_futures=True)

    assert future.cancelled()
    gate.open()
    worker.shutdown()


def test_tornado_awaits_and_yields_chains(worker):
    sqrt = Slacker(math, worker).sqrt

    async def native() -> Any:
        return await sqrt(4)

    @gen.coroutine
    def decorated():
        one = yield sqrt(9)
        several = yield [sqrt(16), sqrt(25).fetch()]
        named = yield {"six": sqrt(36)}
        return one, several, named

    assert in_tornado(native) == 2
    assert in_tornado(decorated) == (3, [4, 5], {"six": 6})


def test_tornado_waits_for_several_futures_of_which_a_worker_ends_the_last(worker, gate):
    """In debug mode a loop refuses what is set from another thread, which would not wake it."""

    @gen.coroutine
    def several():
        IOLoop.current().asyncio_loop.set_debug(True)
        IOLoop.current().add_callback(gate.open)  # once all are waited for
        return (yield [Slacker(gate, worker).enter().fetch(), Slacker(math).sqrt(4).fetch()])

    assert in_tornado(several) == [None, 2]


@pytest.mark.parametrize("where", ["in a loop", "after its end", "without one"])
def test_callback_of_a_future_comes_on_the_loop_that_runs_where_it_is_added(worker, gate, where):
    calls: queue.Queue[Any] = queue.Queue()

    async def add() -> Any:
        outcome = Slacker(gate, worker).enter().fetch()
        outcome.add_done_callback(lambda done: calls.put((done, threading.current_thread())))
        if where == "in a loop":
            gate.open()
            await outcome
        return outcome

    if where == "without one":
        with pytest.raises(StopIteration) as ended:
            add().send(None)
        outcome = ended.value.value
    else:
        outcome = asyncio.run(add())
    gate.open()

    done, thread = calls.get(timeout=PATIENCE_SECONDS)
    assert done is outcome
    assert (thread is threading.current_thread()) == (where == "in a loop")


# -- process


@process
def doubled(chain: Postponed):
    value = yield chain
    return value * 2


def test_process_gives_a_future_of_what_its_generator_returns():
    assert doubled(Slacker(math).sqrt(16)).result(PATIENCE_SECONDS) == 8


@pytest.mark.parametrize("made", [list, tuple])
def test_several_that_are_yielded_come_back_as_one_of_the_same_kind(made, worker):
    sqrt = Slacker(math, worker).sqrt

    @process
    def program():
        return (yield made([sqrt(4), sqrt(9).fetch(), doubled(sqrt(16))]))

    assert program().result(PATIENCE_SECONDS) == made([2, 3, 8])


def test_several_can_be_yielded_by_name(worker):
    sqrt = Slacker(math, worker).sqrt

    @process
    def program():
        return (yield {"a": sqrt(4), "b": sqrt(9)})

    assert program().result(PATIENCE_SECONDS) == {"a": 2, "b": 3}


def test_nothing_yielded_in_a_list_is_nothing():
    @process
    def program():
        return (yield [])

    assert program().result(PATIENCE_SECONDS) == []


def test_what_was_raised_is_raised_at_the_yield(worker):
    @process
    def program():
        try:
            yield Slacker(blame, worker)("it")
        except LookupError as error:
            return str(error), (yield Slacker(math, worker).sqrt(4))

    assert program().result(PATIENCE_SECONDS) == ("it", 2)


def test_one_of_several_that_fails_is_raised_once_all_have_ended(worker, gate):
    ended = []

    def late() -> None:
        gate.enter()
        ended.append("late")

    @process
    def program():
        try:
            yield Slacker(blame, worker)("it"), Slacker(late, worker)()
        except LookupError:
            return list(ended)

    future = program()
    gate.wait_for()
    gate.open()

    assert future.result(PATIENCE_SECONDS) == ["late"]


def test_what_a_process_raises_is_in_its_future():
    @process
    def program():
        yield Slacker(math).sqrt(1)
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        program().result(PATIENCE_SECONDS)


def test_failure_of_a_process_that_nobody_asks_for_is_logged(caplog):
    @process
    def program():
        yield Slacker(math).sqrt(1)
        raise KeyError("here")

    program()
    gc.collect()

    assert "KeyError: 'here'" in caplog.text


@pytest.mark.parametrize("thing", [7, None, "text", add_slowly])
def test_yielding_something_else_is_a_type_error_at_the_yield(thing):
    @process
    def program():
        with pytest.raises(TypeError, match="expected a Postponed"):
            yield thing
        return "went on"

    assert program().result(PATIENCE_SECONDS) == "went on"


def test_thousands_of_steps_need_no_deep_stack():
    @process
    def program():
        total = 0
        for number in range(5_000):
            total += yield Slacker(operator).index(number)
        return total

    assert program().result(PATIENCE_SECONDS) == sum(range(5_000))


def test_process_that_yields_nothing_ever_is_done_at_once():
    @process
    def program():
        return 1

    assert program().result(0) == 1


def test_steps_are_taken_on_the_event_loop_that_runs_where_it_began(worker):
    @process
    def program():
        places = [threading.get_ident()]
        for _ in range(3):
            yield Slacker(math, worker).sqrt(1)
            places.append(threading.get_ident())
        return places

    async def main() -> Any:
        return await program()

    assert set(asyncio.run(main())) == {threading.get_ident()}


def test_every_step_sees_the_context_in_which_the_process_began(worker, gate):
    asker: contextvars.ContextVar[str] = contextvars.ContextVar("asker", default="nobody")

    @process
    def program():
        yield Slacker(gate, worker).enter()
        return asker.get()

    token = asker.set("alice")
    future = program()
    asker.reset(token)
    gate.open()

    assert future.result(PATIENCE_SECONDS) == "alice"


def test_inside_an_event_loop_whatever_can_be_awaited_can_be_yielded():
    @process
    def program():
        return (yield add_slowly(1, 2), asyncio.sleep(0, "slept"))

    async def main() -> Any:
        return await program()

    assert asyncio.run(main()) == (3, "slept")


def test_process_that_is_cancelled_takes_no_further_step(worker, gate):
    steps, closed = [], threading.Event()

    @process
    def program():
        try:
            yield Slacker(gate, worker).enter()
            steps.append("further")
        finally:
            closed.set()

    future = program()
    gate.wait_for()

    assert future.cancel()
    gate.open()
    assert closed.wait(PATIENCE_SECONDS)
    assert steps == []


def test_two_processes_at_once_do_not_meet(worker):
    @process
    def count(begin: int):
        total = begin
        for _ in range(50):
            total = yield Slacker(operator, worker).add(total, 1)
        return total

    futures = [count(0), count(1000)]

    assert [future.result(PATIENCE_SECONDS) for future in futures] == [50, 1050]


# -- as a job


def report_and_add(*numbers: int) -> int:
    asyncjob_set_progress(7)
    return sum(numbers)


def ran(queue: JobQueue, target: Callable[..., Any], *args: Any) -> Any:
    with queue.as_current():
        result = asyncjob_result(asyncjob_perform(target, *args))
        queue.run_pending()
    result.refresh()
    return result


@pytest.fixture
def held() -> Iterator[JobQueue]:
    """A queue whose jobs run where ``run_pending`` is called."""
    with JobQueue(threads=0) as made:
        yield made


def test_chain_runs_as_a_job(held):
    assert ran(held, Slacker(math).sqrt(16)).return_value == 4


def test_chain_of_a_job_does_what_jobs_do(held):
    result = ran(held, Slacker(report_and_add)(1, 2))

    assert result.return_value == 3
    assert result.progress.value == 7


def test_slacker_itself_is_a_job_with_the_arguments_that_are_given(held):
    assert ran(held, Slacker(report_and_add), 1, 2).return_value == 3


def test_chain_that_ends_in_a_coroutine_is_completed_by_its_job(held):
    assert ran(held, Slacker(add_slowly)(1, 2)).return_value == 3


def test_chain_that_raises_is_a_failed_job(held):
    result = ran(held, Slacker(blame)("it"))

    assert result.status is TaskResultStatus.FAILED
    assert result.errors[0].exception_class is LookupError


def test_chain_with_further_arguments_is_refused_at_enqueue(held):
    with pytest.raises(BadCall):
        held.perform(Slacker(math).sqrt(16), 17)


def test_chain_with_a_database_object_is_refused_at_enqueue(held, database):
    with pytest.raises(NotSerializable, match="SQLAlchemy"):
        held.perform(Slacker(report_and_add)(database.Note(text="a")))


def test_chain_on_a_worker_inside_a_job_is_awaited_there(held, worker):
    async def job() -> Any:
        return await Slacker(math, worker).sqrt(16)

    assert ran(held, job).return_value == 4


# -- as a stored call


def stored_and_loaded(chain: Any, secret: str | None) -> Call:
    call = chain.__asyncjob_call__((), {})
    serializer = CallSerializer(secret)
    return serializer.load("uid", serializer.dump("uid", call))


def run_call(call: Call) -> Any:
    return call.target(*call.args, **call.kwargs or {})


def test_chain_of_named_things_and_plain_arguments_is_stored_without_a_secret():
    chain = Slacker(Shelf)("ab", "a", "b").starting_with("a", reverse=True)[:1]

    assert run_call(stored_and_loaded(chain, None)) == ["ab"]


@pytest.mark.parametrize(
    "chain",
    [
        Slacker(math).sqrt(16),
        Slacker(Shelf("a", "b")).starting_with("a").books[0],
        Slacker(operator.itemgetter(1))(["a", "b"]),
        Slacker([1, 2, 3])[1:],
        Slacker({"key": 1})["key"],
    ],
)
def test_any_chain_is_stored_with_a_secret(chain):
    assert run_call(stored_and_loaded(chain, SECRET)) == result_of(chain)


def test_chain_of_a_module_is_refused_without_a_secret():
    with pytest.raises(NotSerializable, match=r"asyncjob\.secret"):
        stored_and_loaded(Slacker(math).sqrt(16), None)


def test_chain_can_be_an_argument_of_a_stored_call():
    serializer = CallSerializer(SECRET)
    call = Call(result_of, (Slacker(math).sqrt(16),), None)

    assert run_call(serializer.load("uid", serializer.dump("uid", call))) == 4


def test_stored_chain_is_a_call_of_one_named_function():
    assert Slacker(math).sqrt(16).__asyncjob_call__((), {}).target is replay
