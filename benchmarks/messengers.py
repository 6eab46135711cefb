"""Measure one messenger in this process: how fast no-ops go to two processes, or threads, and back.

Started by children.py, as child.py is: a question a line comes in, an answer a line goes out.
Each measurement starts processes of its own, sees that both answer, and only then looks at the
clock. Imports are late: Looppool lives in an environment where ours is not installed.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from importlib import import_module
from typing import Any

from answers import answer_all

PROCESSES = 2

#: Messages on their way; fewer than any of the contenders takes.
WINDOW = 1024

#: The same for the bare queues, whose pipes have to hold them.
BARE_WINDOW = 512

#: one measurement; the slowest takes some seconds
MEASUREMENT_SECONDS = 100.0


def no_op(message: int) -> int:
    return message


async def no_op_coroutine(message: int) -> int:
    return message


class Exchange:
    """Puts messages into a pool, and the next one for each that comes back.

    end: called when the last one is back.
    """

    def __init__(self, pool: Any, end: Callable[[], Any]) -> None:
        self._pool = pool
        self._end = end
        self._left = self._unanswered = 0

    def begin(self, messages: int) -> None:
        self._left = self._unanswered = messages
        for _ in range(min(messages, WINDOW)):
            self._put()

    def _put(self) -> None:
        self._left -= 1
        self._pool.put_nowait(self._left)

    def process_message(self, _result: int, result_done: Callable[[], None]) -> None:
        result_done()
        self._unanswered -= 1
        if self._left:
            self._put()
        elif not self._unanswered:
            self._end()


def worker_class_of(module: Any) -> Any:
    """Give the class of workers that send each message back; *module*: Looppool's or ours."""

    class NoOp(module.Worker):  # type: ignore[misc]
        def _process_message(self, message: int) -> None:
            self._put_nowait(message)
            self._task_done()

    return NoOp


def exchange_seconds(
    pool: Any, run: Callable[[], Any], stop: Callable[[], Any], messages: int
) -> float:
    """Send messages through a pool and back. run, stop: its loop, in this thread."""
    exchange = Exchange(pool, stop)
    pool.process_message = exchange.process_message
    pool.start()
    exchange.begin(10 * PROCESSES)
    run()
    began = time.perf_counter()
    exchange.begin(messages)
    run()
    seconds = time.perf_counter() - began
    pool.stop()
    return seconds


def looppool_seconds(messages: int) -> float:
    """Looppool's Pool on Tornado's loop."""
    loop = import_module("tornado.ioloop").IOLoop.current()
    module = import_module("looppool")
    pool = module.Pool(loop, PROCESSES, worker_class_of(module))
    return exchange_seconds(pool, loop.start, loop.stop, messages)


def pool_seconds(messages: int) -> float:
    """Our Pool on asyncio's loop."""
    module = import_module("tgext.asyncjob.looppool")
    loop = asyncio.new_event_loop()
    pool = module.Pool(loop, PROCESSES, worker_class_of(module), start_method="fork")
    with closing(loop):
        return exchange_seconds(pool, loop.run_forever, loop.stop, messages)


def executor_seconds(executor: Executor, function: Callable[[int], Any], messages: int) -> float:
    """Submit all, then wait for all results."""
    with executor:
        for future in [executor.submit(function, number) for number in range(10 * PROCESSES)]:
            future.result()
        began = time.perf_counter()
        futures = [executor.submit(function, number) for number in range(messages)]
        for future in futures:
            future.result()
        return time.perf_counter() - began


def loop_executor_seconds(function: Callable[[int], Any]) -> Callable[[int], float]:
    def seconds(messages: int) -> float:
        executors = import_module("tgext.asyncjob.executors")
        executor = executors.LoopPoolExecutor(PROCESSES, start_method="fork")
        return executor_seconds(executor, function, messages)

    return seconds


def process_pool_seconds(messages: int) -> float:
    context = multiprocessing.get_context("fork")
    return executor_seconds(ProcessPoolExecutor(PROCESSES, context), no_op, messages)


def threads_seconds(messages: int) -> float:
    return executor_seconds(ThreadPoolExecutor(PROCESSES), no_op, messages)


def chain_seconds(messages: int) -> float:
    """Record a chain of one call for each message, and fetch what comes of it."""
    slackers = import_module("tgext.asyncjob.slackers")
    with ThreadPoolExecutor(PROCESSES) as executor:
        slacker = slackers.Slacker(no_op, executor)
        for future in [slacker(number).fetch() for number in range(10 * PROCESSES)]:
            future.result()
        began = time.perf_counter()
        futures = [slacker(number).fetch() for number in range(messages)]
        for future in futures:
            future.result()
        return time.perf_counter() - began


def echo(tasks: Any, results: Any) -> None:
    for message in iter(tasks.get, None):
        results.put(message)


def bare_seconds(messages: int) -> float:
    """Two processes between a pair of SimpleQueues, which nothing guards."""
    context = multiprocessing.get_context("fork")
    tasks, results = context.SimpleQueue(), context.SimpleQueue()
    processes = [context.Process(target=echo, args=(tasks, results)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for number in range(10 * PROCESSES):
        tasks.put(number)
    for _ in range(10 * PROCESSES):
        results.get()
    began = time.perf_counter()
    for number in range(messages):
        if number >= BARE_WINDOW:
            results.get()
        tasks.put(number)
    for _ in range(min(messages, BARE_WINDOW)):
        results.get()
    seconds = time.perf_counter() - began
    for _ in processes:
        tasks.put(None)
    for process in processes:
        process.join()
    return seconds


MEASURES: dict[str, Callable[[int], float]] = {
    "looppool": looppool_seconds,
    "pool": pool_seconds,
    "executor": loop_executor_seconds(no_op),
    "executor, coroutines": loop_executor_seconds(no_op_coroutine),
    "processpool": process_pool_seconds,
    "bare": bare_seconds,
    "threads": threads_seconds,
    "chain": chain_seconds,
}


if __name__ == "__main__":
    answer_all(MEASURES, MEASUREMENT_SECONDS)
