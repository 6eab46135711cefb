"""looppool.Pool and Worker: messages, bounds, stops, deaths; on real processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from tornado import ioloop

import looppool_workers as workers
from looppool_workers import PATIENCE_SECONDS, REPLACING_METHOD, START_METHOD
from tgext.asyncjob.errors import WorkerCrashed
from tgext.asyncjob.executors.worker_pool.processes import end_process
from tgext.asyncjob.looppool import Pool, Worker, task_done


def run(program: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(program, 3 * PATIENCE_SECONDS)

    return asyncio.run(bounded())


class Gathering(Pool):
    """Keeps results and lost messages, and lets a test wait for them."""

    def __init__(self, worker_class: type[Worker], pool_size: int = 2, **options: Any) -> None:
        options.setdefault("start_method", START_METHOD)
        super().__init__(None, pool_size, worker_class, **options)
        self.results: list[Any] = []
        self.lost: list[tuple[Any, BaseException]] = []
        self._news = asyncio.Event()

    @task_done
    def process_message(self, result: Any, result_done: Callable[[], None]) -> None:
        self.results.append(result)
        self._news.set()

    def message_lost(self, message: Any, error: BaseException) -> None:
        self.lost.append((message, error))
        self._news.set()

    async def until(self, is_there: Callable[[], bool]) -> None:
        while not is_there():
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), PATIENCE_SECONDS)

    async def gather(self, number: int) -> list[Any]:
        """Wait for so many results."""
        await self.until(lambda: len(self.results) >= number)
        return self.results


def gathered(worker_class: type[Worker], messages: Any, **options: Any) -> list[Any]:
    """Put *messages*, stop the pool, and return the results."""

    async def program() -> list[Any]:
        async with Gathering(worker_class, **options) as pool:
            for message in messages:
                pool.put_nowait(message)
        return pool.results

    return run(program())


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until_gone(pids: list[int]) -> None:
    """Return when these processes, which need not be children of this one, have ended."""
    found = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(found, PATIENCE_SECONDS)
    assert [process for process in alive if not is_gone(process.pid)] == []


def kill(pid: int) -> None:
    """Kill a worker and wait until it reads no FIFO any more."""
    os.kill(pid, signal.SIGKILL)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # its status is for the pool
    except ChildProcessError:  # it was the forkserver's, or the pool has it already
        wait_until_gone([pid])


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return str(path)


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where workers write what they have to say that is no result."""
    path = tmp_path / "note"
    monkeypatch.setenv("LOOPPOOL_NOTE", str(path))
    return path


# -- messages


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_messages_come_back_whatever_starts_the_processes(method):
    results = gathered(workers.Echo, "abcd", start_method=method)

    assert sorted(results) == [("a", 0), ("b", 1), ("c", 0), ("d", 1)]


def test_messages_are_distributed_evenly():
    results = gathered(workers.Echo, range(800), pool_size=4)

    assert Counter(number for _, number in results) == dict.fromkeys(range(4), 200)
    assert sorted(task for task, _ in results) == list(range(800))


def test_messages_of_a_worker_are_handled_in_their_order():
    results = gathered(workers.Echo, range(2000))

    for worker in (0, 1):
        assert [task for task, number in results if number == worker] == [*range(worker, 2000, 2)]


def test_message_can_be_for_one_worker():
    async def program() -> list[Any]:
        async with Gathering(workers.Echo, 3) as pool:
            pool.put_nowait("a", 2)
            pool.put_nowait("b", worker_num=2)
            await pool.put("c", 1)
        return pool.results

    assert sorted(run(program())) == [("a", 2), ("b", 2), ("c", 1)]


@pytest.mark.parametrize("number", [-1, 2])
def test_number_that_no_worker_has_is_refused(number):
    async def program() -> None:
        async with Gathering(workers.Echo) as pool:
            pool.put_nowait("a", number)

    with pytest.raises(IndexError, match=f"expected a worker of 0 to 1, got {number}"):
        run(program())


@pytest.mark.parametrize("before", range(5))
def test_as_many_messages_as_workers_reach_one_each(before):
    messages = [*range(before), *["state"] * 3, *["tell"] * 3]

    results = gathered(workers.Register, messages, pool_size=3)

    assert sorted(number for number, _ in results) == [0, 1, 2]
    assert all(seen[-1] == "state" for _, seen in results)


def test_messages_for_one_worker_do_not_disturb_the_turns():
    async def program() -> list[Any]:
        async with Gathering(workers.Echo) as pool:
            for message in range(4):
                pool.put_nowait("own", 0)
                pool.put_nowait(message)
        return pool.results

    turns = sorted(result for result in run(program()) if result[0] != "own")

    assert turns == [(0, 0), (1, 1), (2, 0), (3, 1)]


def test_coroutine_handles_a_message():
    assert sorted(gathered(workers.Late, "ab")) == [("a", 0), ("b", 1)]


def test_results_need_not_match_messages():
    assert gathered(workers.PatientlyChatty, [3, 0], pool_size=1) == [0, 1, 2]


def test_worker_sends_results_that_no_message_asked_for():
    async def program() -> list[Any]:
        async with Gathering(workers.Subscriber, 1) as pool:
            return await pool.gather(3)

    assert run(program()) == [("tick", 0), ("tick", 1), ("tick", 2)]


def test_worker_that_is_ready_late_gets_its_messages_then():
    assert gathered(workers.ReadyLate, [1]) == ["ready"]


def test_overridden_start_and_join_may_send_results():
    assert gathered(workers.Started, ["work"], pool_size=1) == ["started", "work", "joined"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("worker_class", [workers.Prepared, workers.PreparedLate])
def test_worker_is_initialised_before_it_is_started(worker_class, method):
    results = gathered(worker_class, ["what?"], pool_size=1, start_method=method)

    assert results == [["initialised", "started"]]


def test_worker_may_have_the_constructor_and_the_queues_of_the_original():
    assert gathered(workers.MadeByHand, [1, 2], pool_size=1) == [("made", 1), ("made", 2)]


def test_future_of_an_executor_that_a_handler_returns_is_waited_for(fifo):
    async def program() -> list[Any]:
        pool = Gathering(workers.Threaded, 1)
        pool.start()
        pool.put_nowait(fifo)
        draining = asyncio.ensure_future(pool.drain())
        await asyncio.to_thread(Path(fifo).write_text, "")
        await draining
        return pool.results

    assert run(program()) == ["the thread is over"]


def test_future_of_an_executor_that_process_message_returns_is_waited_for():
    class Threaded(Gathering):
        @task_done
        def process_message(self, result: Any, result_done: Any) -> Any:
            return self.pool.submit(self.results.append, result)

    async def program() -> list[Any]:
        with ThreadPoolExecutor(1) as executor:
            pool = Threaded(workers.Late, 1, max_results=1)
            pool.pool = executor
            async with pool:
                for number in range(5):
                    await pool.put(number)
            return pool.results

    assert sorted(run(program())) == [(number, 0) for number in range(5)]


def test_process_message_may_be_a_static_method_as_in_the_original():
    results: list[Any] = []

    class Static(Pool):
        @staticmethod
        @task_done
        def process_message(result: Any, result_done: Any) -> None:
            results.append(result)

    async def program() -> None:
        async with Static(None, 1, workers.Echo, start_method=START_METHOD) as pool:
            pool.put_nowait("here")

    run(program())

    assert results == [("here", 0)]


def test_message_done_in_a_callback_is_the_one_that_set_it_up():
    # the second is done first; were the oldest taken for it, the first would be done twice
    assert gathered(workers.Later, [0.05, 0.0], pool_size=1) == [0.0, 0.05]


def test_message_is_done_only_once():
    [complaint] = gathered(workers.Twice, [1], pool_size=1)

    assert "task_done() called more often" in complaint


@pytest.mark.parametrize(
    ("worker_class", "what"),
    [
        (workers.NotingMoody, "LookupError: raise"),
        (workers.NotingByHand, "LookupError: raise"),
        (workers.Noting, "Noting expected to have a _process_message"),
        (workers.Generating, "of which not all lines have run"),
    ],
)
def test_worker_goes_on_after_a_handler_that_raised(worker_class, what, note):
    gathered(worker_class, ["raise"] * 3, pool_size=1)

    text = note.read_text()
    assert text.count("worker 0: a message handler failed") == 3
    assert text.count(what) == 3


def test_unpicklable_message_is_refused_where_it_is_put():
    async def program() -> None:
        async with Gathering(workers.Echo) as pool:
            pool.put_nowait(lambda: None)

    with pytest.raises(Exception, match=r"pickle|local object"):
        run(program())


def test_message_that_explodes_in_the_worker_is_reported():
    async def program() -> Gathering:
        async with Gathering(workers.Echo, 1) as pool:
            pool.put_nowait(workers.Landmine())
            pool.put_nowait("good")
        return pool

    pool = run(program())

    [(_, error)] = pool.lost
    assert isinstance(error, LookupError)
    assert pool.results == [("good", 0)]


def test_messages_of_several_threads_all_arrive():
    async def program() -> list[Any]:
        async with Gathering(workers.Echo) as pool:
            puts = [
                asyncio.to_thread(lambda: [pool.put_nowait(number) for number in range(500)])
                for _ in range(4)
            ]
            await asyncio.gather(*puts)
        return pool.results

    assert Counter(task for task, _ in run(program())) == dict.fromkeys(range(500), 4)


def test_large_messages_go_through_whole():
    large = [bytes([number]) * 3_000_000 for number in range(4)]

    results = gathered(workers.Echo, large)

    assert sorted(task for task, _ in results) == large


# -- loops


def test_pool_runs_on_the_loop_that_it_is_given():
    loop = asyncio.new_event_loop()
    pool = Pool(loop, 1, workers.Echo, start_method=START_METHOD)
    seen = []
    pool.process_message = lambda result, done: (seen.append(result), done())

    pool.start()
    pool.put_nowait("early")
    pool.stop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    assert seen == [("early", 0)]


def test_worker_has_tornados_loop_where_the_pool_was_given_one():
    seen = []

    async def program() -> None:
        pool = Pool(ioloop.IOLoop.current(), 1, workers.TornadoLate, start_method=START_METHOD)
        pool.process_message = task_done(lambda result, _done: seen.append(result))
        pool.start()
        pool.put_nowait(1)
        await pool.drain()

    run(program())

    assert seen == [(1, "tornado.platform.asyncio")]


def test_start_without_a_loop_says_how_to_give_one():
    pool = Pool(None, 1, workers.Echo)

    with pytest.raises(RuntimeError, match=r"give the pool one: Pool\(ioloop\)"):
        pool.start()


def test_results_may_be_dealt_with_in_a_coroutine_and_drain_waits_for_it():
    class Slow(Gathering):
        @task_done
        async def process_message(self, result: Any, result_done: Any) -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            self.results.append(result)

    async def program() -> list[Any]:
        async with Slow(workers.Echo) as pool:
            for number in range(10):
                pool.put_nowait(number)
        return pool.results

    assert len(run(program())) == 10


def test_failing_process_message_is_logged_and_harms_no_other(caplog):
    class Failing(Gathering):
        def process_message(self, result: Any, result_done: Any) -> None:
            raise LookupError(result)

    async def program() -> None:
        async with Failing(workers.Late, max_results=2) as pool:
            for number in range(10):
                pool.put_nowait(number)

    run(program())

    assert [record.message for record in caplog.records].count("process_message failed") == 10


def test_result_is_done_only_once():
    seen = []

    def process(_result: Any, done: Any) -> None:
        done()
        with pytest.raises(ValueError, match="called twice") as caught:
            done()
        seen.append(caught)

    async def program() -> None:
        pool = Pool(None, 1, workers.Echo, start_method=START_METHOD)
        pool.process_message = process
        pool.start()
        pool.put_nowait(1)
        await pool.drain()

    run(program())

    assert len(seen) == 1


# -- bounds


def test_full_worker_refuses_and_takes_again_when_it_has_room(fifo):
    async def program() -> None:
        async with Gathering(workers.Blocked, max_tasks=4) as pool:  # two wait, two are under way
            pool.put_nowait(fifo, 0)
            for _ in range(3):
                pool.put_nowait("waits", 0)
            with pytest.raises(queue.Full, match="twice its share of max_tasks, 2"):
                pool.put_nowait("too much", 0)
            pool.put_nowait("the other has room", 1)
            await asyncio.to_thread(Path(fifo).write_text, "")
            await pool.gather(5)
            pool.put_nowait("room again", 0)

    run(program())


def test_put_that_finds_no_room_waits_for_it(fifo):
    async def program() -> list[Any]:
        async with Gathering(workers.Blocked, 1, max_tasks=1) as pool:
            await pool.put(fifo)
            await pool.put("second")
            puts = [asyncio.ensure_future(pool.put(f"waits {number}")) for number in range(3)]
            await asyncio.sleep(0)
            assert not any(put.done() for put in puts)
            await asyncio.to_thread(Path(fifo).write_text, "")
            await asyncio.gather(*puts)
        return pool.results

    assert run(program())[1:] == ["second", "waits 0", "waits 1", "waits 2"]


def test_stop_ends_a_put_that_waits(fifo):
    async def program() -> None:
        pool = Gathering(workers.Blocked, 1, max_tasks=1)
        pool.start()
        await pool.put(fifo)
        await pool.put("second")
        waiting = asyncio.ensure_future(pool.put("third"))
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(pool.drain())
        await asyncio.to_thread(Path(fifo).write_text, "")
        await stopping
        with pytest.raises(RuntimeError, match="the pool was stopped"):
            await waiting

    run(program())


def test_worker_with_full_results_is_told_so(note):
    os.mkfifo(note)

    async def program() -> str:
        pool = Gathering(workers.Chatty, 1, max_results=4)
        kept: list[Any] = []
        pool.process_message = lambda result, done: kept.append(done)
        pool.start()
        pool.put_nowait(9)
        told = await asyncio.to_thread(note.read_text)
        await asyncio.to_thread(pool.stop)
        assert len(kept) == 4
        return told

    assert run(program()) == "full after 4"


class Keeping(Gathering):
    """Is done with no result by itself."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.done: list[Callable[[], None]] = []

    def process_message(self, result: Any, result_done: Callable[[], None]) -> None:
        self.results.append(result)
        self.done.append(result_done)
        self._news.set()

    async def hear(self, fifo: str, times: int = 1) -> None:
        """Wait until so many workers have said something."""

        def read() -> None:
            # For writing, too: a writer that comes as the last one has gone finds a reader.
            with open(fifo, "r+b", buffering=0) as pipe:
                heard = b""
                while heard.count(b"\n") < times:
                    heard += pipe.read(4096)

        await asyncio.to_thread(read)


def test_results_are_bounded_for_the_whole_pool(fifo):
    async def program() -> list[Any]:
        pool = Keeping(workers.Filling, 4, max_results=10)
        pool.start()
        for number in range(4):
            pool.put_nowait(fifo, number)
        await pool.hear(fifo, times=4)
        await asyncio.to_thread(pool.stop)
        return pool.results

    assert len(run(program())) == 10


def test_one_worker_may_send_as_many_results_as_the_pool_takes(fifo):
    async def program() -> list[Any]:
        pool = Keeping(workers.Filling, 4, max_results=10)
        pool.start()
        pool.put_nowait(fifo, 2)
        await pool.hear(fifo)
        await asyncio.to_thread(pool.stop)
        return pool.results

    assert run(program()) == [2] * 10


def test_results_of_a_worker_that_are_done_make_room_for_those_of_another(fifo):
    async def program() -> Any:
        pool = Keeping(workers.FillingOrWaiting, 2, max_results=4)
        pool.start()
        pool.put_nowait(fifo, 0)
        await pool.hear(fifo)
        await pool.until(lambda: len(pool.results) == 4)
        pool.put_nowait(fifo, 1)
        await pool.hear(fifo)
        pool.done.pop()()
        await pool.until(lambda: len(pool.results) == 5)
        for done in pool.done:
            done()
        await pool.drain()
        return pool.results[-1]

    assert run(program()) == "had to wait"


def test_room_that_a_dead_worker_had_taken_is_given_back(fifo):
    async def program() -> list[Any]:
        options = {"start_method": REPLACING_METHOD, "when_worker_dies": "report"}
        pool = Keeping(workers.Filling, 2, max_results=10, **options)
        pool.start()
        pool.put_nowait("die", 0)
        await pool.until(lambda: bool(pool.lost))
        for done in pool.done:
            done()
        pool.results.clear()
        pool.put_nowait(fifo, 1)
        await pool.hear(fifo)
        await asyncio.to_thread(pool.stop)
        return pool.results

    assert run(program()) == [1] * 10


class Counting(Gathering):
    """Knows how many results there were at most that it was not done with."""

    undone = most_undone = 0

    async def process_message(self, result: Any, result_done: Any) -> None:
        self.undone += 1
        self.most_undone = max(self.most_undone, self.undone)
        await asyncio.sleep(0)
        self.undone -= 1
        self.results.append(result)
        self._news.set()
        result_done()


@pytest.mark.parametrize("most", [3, 50])
def test_never_are_there_more_results_than_the_pool_takes(most):
    async def program() -> Counting:
        async with Counting(workers.PatientlyChatty, 4, max_results=most) as pool:
            for _ in range(8):
                pool.put_nowait(100)
            await pool.until(lambda: len(pool.results) == 800)
        return pool

    assert run(program()).most_undone <= most


def test_worker_may_wait_until_its_results_are_taken():
    async def program() -> None:
        pool = Gathering(workers.PatientlyChatty, 1, max_results=4)
        kept: asyncio.Queue[Any] = asyncio.Queue()
        pool.process_message = lambda result, done: kept.put_nowait((result, done))
        pool.start()
        pool.put_nowait(40)
        for expected in range(40):
            assert kept.qsize() <= 4
            result, done = await asyncio.wait_for(kept.get(), PATIENCE_SECONDS)
            assert result == expected
            done()
        await pool.drain()

    run(program())


@pytest.mark.parametrize(
    "bounds",
    [
        {"pool_size": 0},
        {"max_tasks": 0},
        {"max_results": -1},
        {"max_results": float("nan")},
        {"max_tasks": lambda: None},  # where the original had its target
    ],
)
def test_bounds_below_one_are_refused(bounds):
    with pytest.raises(ValueError, match="of at least 1, got"):
        Pool(None, **bounds)


def test_unknown_answer_to_a_death_is_refused():
    with pytest.raises(ValueError, match="expected 'redeliver' or 'report', got 'ignore'"):
        Pool(None, when_worker_dies="ignore")


# -- the end


def test_stop_under_load_loses_nothing():
    async def program() -> list[Any]:
        pool = Gathering(workers.Late, 2)
        pool.start()
        for number in range(4000):
            pool.put_nowait(number)
        pool.stop()  # no result has been dealt with yet
        await asyncio.sleep(0)
        return pool.results

    assert sorted(task for task, _ in run(program())) == list(range(4000))


def test_stop_leaves_no_child():
    async def program() -> list[int]:
        pool = Gathering(workers.Echo, 4)
        pool.start()
        pids = pool.pids
        pool.put_nowait(1)
        pool.stop()
        return pids

    pids = run(program())

    assert len(set(pids)) == 4
    assert all(is_gone(pid) for pid in pids)


def test_stopped_pool_takes_no_message_and_may_be_stopped_again():
    async def program() -> None:
        pool = Gathering(workers.Echo, 1)
        pool.start()
        pool.stop()
        pool.stop()
        with pytest.raises(RuntimeError, match="the pool was stopped"):
            pool.put_nowait(1)
        with pytest.raises(RuntimeError, match="expected a pool that was not started"):
            pool.start()

    run(program())


def test_pool_that_never_started_may_be_stopped_and_reports_its_messages():
    class Losing(Pool):
        lost: ClassVar[list[Any]] = []

        def message_lost(self, message: Any, error: BaseException) -> None:
            self.lost.append(message)

    pool = Losing(None, 1, workers.Echo)
    pool.put_nowait("never done")
    pool.stop()
    pool.stop()

    assert pool.lost == ["never done"]


def test_two_pools_of_one_process_know_nothing_of_each_other():
    async def program() -> tuple[list[Any], list[Any]]:
        async with Gathering(workers.Echo, 1) as one, Gathering(workers.Echo, 1) as other:
            one.put_nowait("one")
            other.put_nowait("other")
        return one.results, other.results

    assert run(program()) == ([("one", 0)], [("other", 0)])


def test_pool_whose_loop_is_closed_may_be_stopped(caplog):
    loop = asyncio.new_event_loop()
    pool = Pool(loop, 1, workers.Echo, start_method=START_METHOD)
    pool.start()
    loop.close()
    pool.put_nowait(1)
    pool.stop()

    assert "the pool's loop is closed" in caplog.text


def test_messages_put_before_the_start_are_done_after_it():
    async def program() -> list[Any]:
        pool = Gathering(workers.Echo)
        pool.put_nowait("early")
        async with pool:
            return await pool.gather(1)

    assert run(program()) == [("early", 0)]


def test_stop_with_a_timeout_kills_and_reports_what_is_left(fifo):
    async def program() -> Gathering:
        pool = Gathering(workers.Blocked, 1)
        pool.start()
        pool.put_nowait(fifo)
        pool.put_nowait("behind it")
        await asyncio.to_thread(pool.stop, 0.05)
        await pool.until(lambda: len(pool.lost) == 2)
        return pool

    pool = run(program())

    assert [message for message, _ in pool.lost] == [fifo, "behind it"]
    assert all(isinstance(error, WorkerCrashed) for _, error in pool.lost)
    assert all(is_gone(pid) for pid in pool.pids)


def test_workers_ignore_the_signals_that_reach_a_whole_group():
    async def program() -> list[Any]:
        async with Gathering(workers.Signals, 1) as pool:
            pool.put_nowait([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
            results = list(await pool.gather(1))
            os.kill(pool.pids[0], signal.SIGINT)
            os.kill(pool.pids[0], signal.SIGTERM)
            pool.put_nowait([])
            await pool.gather(2)
        return results

    hung_up = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as the tests were started
    assert run(program()) == [[True, True, hung_up]]


PARENT = """
import asyncio, sys
from looppool_workers import Blocked, Echo
from tgext.asyncjob.executors.worker_pool.processes import end_process
from tgext.asyncjob.looppool import Pool

async def main():
    pools = [Pool(None, 2, Echo, start_method=sys.argv[1]) for _ in range(2)]
    pools.append(Pool(None, 1, Blocked, start_method=sys.argv[1]))
    for pool in pools:
        pool.process_message = lambda result, done: done()
        pool.start()
    pools[2].put_nowait(sys.argv[3])  # holds its loop for ever
    print(*[pid for pool in pools for pid in pool.pids], flush=True)
    if sys.argv[2] == "wait":
        await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(main())
"""


def start_parent(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[str], list[int]]:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    return parent, [int(pid) for pid in parent.stdout.readline().split()]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_killed_parent_leaves_no_child(tmp_path, fifo, method):
    parent, pids = start_parent(tmp_path, method, "wait", fifo)
    assert len(pids) == 5

    parent.kill()
    parent.communicate()

    wait_until_gone(pids)


def test_parent_that_never_stops_its_pools_ends_and_leaves_no_child(tmp_path, fifo):
    parent, pids = start_parent(tmp_path, "fork", "exit", fifo)

    # The blocked worker would hold it up for as long as its patience goes: free it.
    Path(fifo).write_text("")
    _, complaints = parent.communicate(timeout=PATIENCE_SECONDS)

    assert parent.returncode == 0, complaints
    wait_until_gone(pids)


# -- deaths


def test_messages_of_a_dead_worker_go_to_its_successor(fifo, caplog):
    async def program() -> Gathering:
        async with Gathering(workers.Blocked, start_method=REPLACING_METHOD) as pool:
            pool.put_nowait("state", 0)
            await pool.gather(1)
            pool.put_nowait(fifo, 0)
            for number in range(10):
                pool.put_nowait(str(number), 0)
            [dead, other] = pool.pids
            await asyncio.to_thread(kill, dead)
            await asyncio.to_thread(Path(fifo).write_text, "")
            await pool.gather(12)
            assert pool.pids[0] != dead
            assert pool.pids[1] == other
        return pool

    pool = run(program())

    assert pool.results == ["state", fifo, *map(str, range(10))]
    assert pool.lost == []
    assert "killed by signal 9; 0 messages lost" in caplog.text


def test_messages_that_a_dead_worker_had_read_come_back_in_their_order(fifo):
    messages = [fifo, *map(str, range(10))]

    async def program() -> Gathering:
        pool = Gathering(workers.Blocked, 1, start_method=REPLACING_METHOD)
        for message in messages:
            pool.put_nowait(message)  # before the start: they go out in one frame
        async with pool:
            await asyncio.to_thread(kill, pool.pids[0])
            await asyncio.to_thread(Path(fifo).write_text, "")
        return pool

    assert run(program()).results == messages


def test_death_of_a_worker_that_somebody_else_has_waited_for_is_no_error():
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    assert process.pid is not None
    os.waitpid(process.pid, 0)

    assert end_process(process) == "exit status unknown"


def test_message_that_is_reported_is_the_one_that_was_not_done():
    async def program() -> Gathering:
        async with Gathering(
            workers.Forgetful, 1, when_worker_dies="report", start_method=REPLACING_METHOD
        ) as pool:
            pool.put_nowait("forget")  # the oldest, while the other is done from a callback
            pool.put_nowait("do")
            await pool.gather(1)
            os.kill(pool.pids[0], signal.SIGKILL)
            await pool.until(lambda: len(pool.lost) > 0)
        return pool

    pool = run(program())

    assert pool.results == ["do"]
    assert [message for message, _ in pool.lost] == ["forget"]


def test_messages_of_a_dead_worker_can_be_reported_instead(fifo):
    async def program() -> Gathering:
        async with Gathering(
            workers.Blocked, when_worker_dies="report", start_method=REPLACING_METHOD
        ) as pool:
            pool.put_nowait(fifo, 0)
            os.kill(pool.pids[0], signal.SIGKILL)
            await pool.until(lambda: len(pool.lost) == 1)
            pool.put_nowait("after it", 0)
        return pool

    pool = run(program())

    [(message, error)] = pool.lost
    assert message == fifo
    assert isinstance(error, WorkerCrashed)
    assert "died, killed by signal 9" in str(error)
    assert pool.results == ["after it"]


def test_message_that_kills_every_worker_is_given_up():
    async def program() -> Gathering:
        async with Gathering(workers.Moody, 1, start_method=REPLACING_METHOD) as pool:
            pool.put_nowait("die")
            await pool.until(lambda: len(pool.lost) == 1)
            pool.put_nowait("good")
        return pool

    pool = run(program())

    [(lost, error)] = pool.lost
    assert lost == "die"
    assert "killed by signal 9" in str(error)
    assert [task for task, _ in pool.results] == ["good"]


def test_worker_that_exits_is_replaced(caplog):
    async def program() -> tuple[Gathering, int]:
        async with Gathering(workers.Moody, 1, start_method=REPLACING_METHOD) as pool:
            first = pool.pids[0]
            pool.put_nowait("exit")
            pool.put_nowait("good")
        return pool, first

    pool, first = run(program())

    [(task, by)] = pool.results
    assert (task, by != first) == ("good", True)
    assert "exit code 3" in caplog.text


def test_worker_that_dies_after_the_stop_is_replaced_for_what_is_left(fifo):
    async def program() -> list[Any]:
        pool = Gathering(workers.Blocked, 1, start_method=REPLACING_METHOD)
        pool.start()
        pool.put_nowait(fifo)
        pool.put_nowait("behind it")
        stopping = asyncio.ensure_future(pool.drain())
        await asyncio.sleep(0)
        await asyncio.to_thread(kill, pool.pids[0])
        await asyncio.to_thread(Path(fifo).write_text, "")
        await stopping
        return pool.results

    assert run(program()) == [fifo, "behind it"]


@pytest.mark.slow
def test_death_is_noticed_though_the_workers_own_child_lives_on(fifo):
    async def program() -> Gathering:
        async with Gathering(workers.Parental, 1, start_method=REPLACING_METHOD) as pool:
            pool.put_nowait(fifo)  # it has a child that holds its end of the channel open
            await pool.gather(1)
            os.kill(pool.pids[0], signal.SIGKILL)
            pool.put_nowait("to its successor")
            await pool.gather(2)
            await asyncio.to_thread(Path(fifo).write_text, "")
        return pool

    pool = run(program())

    wait_until_gone(pool.results[:1])
    assert pool.results[1] == "to its successor"


def test_cancelled_handler_holds_up_nothing(note):
    async def program() -> list[Any]:
        async with Gathering(workers.Cancelled, 1) as pool:
            pool.put_nowait("cancel")
        return pool.results

    assert run(program()) == []
    assert "CancelledError" in note.read_text()


def test_pool_that_cannot_be_started_says_why_and_leaves_no_child():
    class OnlyHere(workers.Echo):
        """Cannot be found by a process that imports this module."""

    async def program() -> None:
        pool = Gathering(OnlyHere, 2, start_method="spawn")
        with pytest.raises(AttributeError, match="OnlyHere"):
            pool.start()
        pool.stop()
        with pytest.raises(WorkerCrashed, match="the pool could not be started"):
            pool.put_nowait(1)

    run(program())


def test_pool_whose_workers_cannot_start_gives_up_and_says_why(capfd):
    async def program() -> Gathering:
        pool = Gathering(workers.NeverReady, 1, start_method=REPLACING_METHOD)
        pool.start()
        pool.put_nowait("never done")
        await pool.until(lambda: len(pool.lost) == 1)
        with pytest.raises(WorkerCrashed, match="3 workers in a row died before they were ready"):
            pool.put_nowait("more")
        pool.stop()
        return pool

    pool = run(program())

    [(message, error)] = pool.lost
    assert message == "never done"
    assert "no table to work with" in str(error.__cause__)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_may_not_use_the_pool_of_its_parent():
    async def program() -> None:
        async with Gathering(workers.Echo, 1, start_method=REPLACING_METHOD) as pool:
            child = os.fork()
            if not child:
                try:
                    pool.put_nowait("not mine")
                except RuntimeError as error:
                    os._exit(0 if "forked" in str(error) else 1)
                os._exit(2)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            pool.put_nowait("mine")
        assert pool.results == [("mine", 0)]

    run(program())


def test_nothing_of_a_pool_is_left_when_it_was_stopped():
    async def program() -> None:
        async with Gathering(workers.Echo, start_method=REPLACING_METHOD) as pool:
            pool.put_nowait(1)

    run(program())
    before = psutil.Process().num_fds()
    for _ in range(3):
        run(program())

    assert psutil.Process().num_fds() <= before
    assert not [thread for thread in threading.enumerate() if thread.name == "asyncjob-pool"]
