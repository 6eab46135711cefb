"""Slackers and event loops: processes begun before one, on one or without one; their errors."""

from __future__ import annotations

import asyncio
import concurrent.futures
import operator
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from tgext.asyncjob import BadCall, ConfigError
from tgext.asyncjob.executors import loops
from tgext.asyncjob.slackers import Postponed, Slacker, ThreadWorker, process

PATIENCE_SECONDS = 20.0


@pytest.fixture(autouse=True)
def _no_loop_is_set() -> Iterator[None]:
    """The main thread is that of a program that has imported Tornado, and begun nothing else."""
    asyncio.set_event_loop(None)
    yield
    made = loops._loop_that_is_set()
    if made is not None:
        made.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def worker() -> Iterator[ThreadWorker]:
    with ThreadWorker(2) as made:
        yield made


Pair = namedtuple("Pair", ["one", "two"])


class Where:
    """Keeps the threads in which steps are taken."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def note(self) -> None:
        self.threads.append(threading.current_thread().name)


def start_tornado(give_up: Callable[[], object]) -> None:
    """Run the loop that is current, as the last line of a Tornado program does."""
    loop = IOLoop.current()
    late = loop.call_later(PATIENCE_SECONDS, give_up)
    loop.start()
    loop.remove_timeout(late)


def never() -> None:
    IOLoop.current().stop()
    raise AssertionError("nothing has stopped the loop")


# -- begun before the loop


@pytest.mark.parametrize("made_before", [True, False])
def test_process_begun_before_tornados_loop_ends_on_it(worker, made_before):
    where = Where()
    if made_before:
        IOLoop.current()

    @process
    def program():
        yield Slacker(time.sleep, worker)(0.01)
        where.note()
        yield Slacker(abs, worker)(-1), Slacker(abs, worker)(-2)
        where.note()
        IOLoop.current().stop()

    program()
    start_tornado(never)

    assert where.threads == ["MainThread", "MainThread"]


def test_callback_given_before_tornados_loop_is_called_on_it(worker, gate):
    where = Where()

    def on_result(_result: Any) -> None:
        where.note()
        IOLoop.current().stop()

    Slacker(gate, worker).enter().proceed(on_result)
    gate.open()
    start_tornado(never)

    assert where.threads == ["MainThread"]


def test_process_begun_before_the_loop_that_is_set_ends_on_it(worker, monkeypatch):
    monkeypatch.setattr(loops, "uses_tornado", lambda: False)
    where = Where()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    @process
    def program():
        yield Slacker(abs, worker)(-1)
        where.note()
        loop.stop()

    program()
    loop.run_forever()

    assert where.threads == ["MainThread"]


def test_process_begun_before_is_awaited_by_the_program_that_run_sync_runs(worker):
    @process
    def program():
        return (yield Slacker(abs, worker)(-1))

    begun = program()

    async def main() -> Any:
        return await begun

    assert IOLoop.current().run_sync(main, timeout=PATIENCE_SECONDS) == 1


def test_process_begun_before_comes_to_the_loop_that_awaits_it(worker, gate):
    where = Where()

    @process
    def program():
        yield Slacker(gate, worker).enter()
        where.note()
        return 1

    begun = program()
    made_for_it = loops._loop_that_is_set()

    async def main() -> Any:
        gate.open()
        return await begun

    assert asyncio.run(asyncio.wait_for(main(), loops.START_SECONDS / 2)) == 1
    made_for_it.close()
    assert where.threads == ["MainThread"]


def test_who_asks_for_the_result_runs_the_loop_meanwhile(worker):
    where = Where()

    @process
    def inner(number: int):
        value = yield Slacker(abs, worker)(number)
        where.note()
        return value

    @process
    def program():
        one, two = yield inner(-1), inner(-2)
        where.note()
        return one + two

    assert program().result(PATIENCE_SECONDS) == 3
    assert where.threads == ["MainThread"] * 3


def test_process_that_stops_the_loop_still_gives_its_result(worker):
    @process
    def program():
        yield Slacker(time.sleep, worker)(0.01)
        asyncio.get_running_loop().stop()
        return (yield Slacker(abs, worker)(-2))

    assert program().result(PATIENCE_SECONDS) == 2
    assert program().exception(PATIENCE_SECONDS) is None


def test_waiting_in_vain_for_a_result_does_not_stop_the_loop_later(worker, gate):
    @process
    def program():
        yield Slacker(gate, worker).enter()

    begun = program()
    with pytest.raises(concurrent.futures.TimeoutError):
        begun.result(timeout=0.01)

    async def main() -> str:
        gate.open()
        while not begun.done():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "went on"

    assert IOLoop.current().run_sync(main, timeout=PATIENCE_SECONDS) == "went on"


def test_process_whose_loop_is_never_started_goes_on_without_it(worker, gate, monkeypatch):
    monkeypatch.setattr(loops, "START_SECONDS", 0.05)
    where = Where()

    @process
    def program():
        yield Slacker(gate, worker).enter()
        where.note()
        yield Slacker(abs, worker)(-1)
        return 1

    begun = program()
    gate.open()
    done, _ = concurrent.futures.wait([begun], PATIENCE_SECONDS)

    assert done == {begun}
    assert "MainThread" not in where.threads


def test_result_can_be_waited_for_in_another_thread_while_the_loop_runs(worker):
    where = Where()

    @process
    def program():
        yield Slacker(abs, worker)(-1)
        where.note()
        return 1

    begun = program()

    async def main() -> Any:
        waiting = asyncio.get_running_loop().run_in_executor(None, begun.result, PATIENCE_SECONDS)
        return await waiting

    assert IOLoop.current().run_sync(main, timeout=PATIENCE_SECONDS) == 1
    assert where.threads == ["MainThread"]


def test_process_whose_loop_is_closed_meanwhile_ends_all_the_same(worker, gate):
    ended: list[str] = []

    @process
    def program():
        try:
            yield Slacker(gate, worker).enter()
        finally:
            ended.append("finally")
        return 1

    async def main() -> Any:
        return program()

    begun = asyncio.run(main())
    gate.open()

    assert begun.result(PATIENCE_SECONDS) == 1
    assert ended == ["finally"]


def test_callback_whose_loop_is_closed_meanwhile_is_called_all_the_same(worker, gate):
    told: concurrent.futures.Future[Any] = concurrent.futures.Future()

    async def main() -> None:
        Slacker(gate, worker).enter().proceed(lambda _: told.set_result("told"))

    asyncio.run(main())
    gate.open()

    assert told.result(PATIENCE_SECONDS) == "told"


def test_process_begun_in_a_thread_without_a_loop_needs_none(worker):
    @process
    def program():
        return (yield Slacker(abs, worker)(-1))

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = pool.submit(program).result(PATIENCE_SECONDS)

    assert begun.result(loops.START_SECONDS / 2) == 1
    assert loops._loop_that_is_set() is None


def test_no_loop_is_made_in_a_program_without_tornado(worker, monkeypatch):
    monkeypatch.setattr(loops, "uses_tornado", lambda: False)

    @process
    def program():
        return (yield Slacker(abs, worker)(-1))

    assert program().result(loops.START_SECONDS / 2) == 1
    assert loops._loop_that_is_set() is None


# -- what is raised at the yield


@pytest.mark.parametrize("yielded", [lambda chain: chain, lambda chain: [chain, chain]])
def test_work_that_its_worker_refuses_is_raised_at_the_yield(yielded):
    closed = ThreadWorker()
    closed.shutdown()
    cleaned = []

    @process
    def program():
        try:
            yield yielded(Slacker(abs, closed)(-1))
        except RuntimeError:
            return "handled"
        finally:
            cleaned.append(1)

    assert program().result(PATIENCE_SECONDS) == "handled"
    assert cleaned == [1]


def test_work_beside_one_that_is_refused_is_done_first(worker):
    closed = ThreadWorker()
    closed.shutdown()
    done: list[int] = []

    @process
    def program():
        with pytest.raises(RuntimeError):
            yield Slacker(abs, closed)(-1), Slacker(done, worker).append(1)
        return list(done)

    assert program().result(PATIENCE_SECONDS) == [1]


def test_iterable_that_raises_raises_at_the_yield(worker):
    @process
    def program():
        with pytest.raises(ZeroDivisionError):
            yield (Slacker(abs, worker)(1 // number) for number in [1, 0])
        return "went on"

    assert program().result(PATIENCE_SECONDS) == "went on"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_raised_at_the_yield_and_ends_it(kind):
    cleaned = []

    def leave() -> None:
        raise kind

    @process
    def program():
        try:
            yield Slacker(leave)()
        finally:
            cleaned.append(1)

    with pytest.raises(kind):
        program()
    assert cleaned == [1]


def test_what_ends_a_program_breaks_no_thread_of_a_worker(monkeypatch, gate):
    monkeypatch.setattr(loops, "uses_tornado", lambda: False)

    with ThreadWorker(1) as worker:

        @process
        def program():
            yield Slacker(gate, worker).enter()
            raise SystemExit

        begun = program()
        gate.open()
        assert isinstance(begun.exception(PATIENCE_SECONDS), SystemExit)
        assert Slacker(abs, worker)(-1).fetch().result(PATIENCE_SECONDS) == 1


# -- what a process may be, and may yield


def test_what_an_iterable_gives_comes_back_as_a_list(worker):
    async_abs = Slacker(abs, worker)

    @process
    def program():
        return (yield map(async_abs, [-1, -2])), (yield (async_abs(n) for n in [-3]))

    assert program().result(PATIENCE_SECONDS) == ([1, 2], [3])


def test_named_tuple_comes_back_as_one(worker):
    async_abs = Slacker(abs, worker)

    @process
    def program():
        return (yield Pair(async_abs(-1), async_abs(-2)))

    assert program().result(PATIENCE_SECONDS) == Pair(1, 2)


def test_coroutine_function_can_be_a_process(worker):
    @process
    async def program():
        return await Slacker(abs, worker)(-1)

    assert program().result(PATIENCE_SECONDS) == 1


def test_coroutine_function_is_refused_where_no_loop_will_run(monkeypatch):
    monkeypatch.setattr(loops, "uses_tornado", lambda: False)

    @process
    async def program():
        return 1

    with pytest.raises(TypeError, match="needs an event loop"):
        program().result(PATIENCE_SECONDS)


def test_async_generator_function_is_refused():
    @process
    async def program():
        yield 1

    with pytest.raises(BadCall):
        program()


def test_pool_in_the_place_of_a_number_of_threads_is_refused_with_the_way_out():
    with ThreadPool(1) as pool, pytest.raises(ConfigError, match="got a ThreadPool; a pool of"):
        ThreadWorker(pool)


def test_chain_can_begin_with_a_postponed_of_an_object(worker):
    assert Postponed(operator, worker).add(1, 2).fetch().result(PATIENCE_SECONDS) == 3
    assert Postponed(abs)(-1).fetch().result(PATIENCE_SECONDS) == 1
