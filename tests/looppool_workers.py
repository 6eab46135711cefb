"""Workers and calls for the tests of looppool, at module level so that any process finds them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Full
from typing import Any

from tornado import gen

from tgext.asyncjob.looppool import Worker, task_done
from tgext.asyncjob.looppool.utility import peak_memory

#: By far the fastest; nothing is warned of where there are no threads yet.
START_METHOD = "fork"

#: For tests where a worker is replaced: then there are.
REPLACING_METHOD = "fork" if sys.version_info < (3, 12) else "forkserver"

#: How long anything here may take, in seconds.
PATIENCE_SECONDS = 20.0


class Echo(Worker):
    @task_done
    def _process_message(self, task: Any) -> None:
        self._put_nowait((task, self._number))


class Late(Worker):
    """Answers from a coroutine, after other coroutines had a turn."""

    @task_done
    async def _process_message(self, task: Any) -> None:
        await asyncio.sleep(0)
        await self._put((task, self._number))


class TornadoLate(Worker):
    """The same as Tornado writes it."""

    @task_done
    @gen.coroutine
    def _process_message(self, task: Any) -> Any:
        yield gen.moment
        self._put_nowait((task, type(self._ioloop).__module__))


class Register(Worker):
    """A stateful worker: keeps what it was told."""

    def _initialise(self) -> None:
        self.seen: list[Any] = []

    @task_done
    def _process_message(self, task: Any) -> None:
        if task == "tell":
            self._put_nowait((self._number, self.seen))
        else:
            self.seen.append(task)


class Chatty(Worker):
    """Sends as many results as the message says, and then how far it came."""

    @task_done
    def _process_message(self, task: int) -> None:
        sent = 0
        try:
            for number in range(task):
                self._put_nowait(number)
                sent += 1
        except Full:
            Path(os.environ["LOOPPOOL_NOTE"]).write_text(f"full after {sent}")


class PatientlyChatty(Worker):
    @task_done
    async def _process_message(self, task: int) -> None:
        for number in range(task):
            await self._put(number)


class Noting(Worker):
    """Writes the log of its process to a file."""

    def _initialise(self) -> None:
        log = logging.getLogger("tgext.asyncjob")
        log.addHandler(logging.FileHandler(os.environ["LOOPPOOL_NOTE"]))


class NotingMoody(Noting):
    @task_done
    def _process_message(self, task: Any) -> None:
        raise LookupError(task)


class Cancelled(Noting):
    """Cancels the coroutine that handles a message, before it has said that it is done."""

    async def _process_message(self, task: Any) -> None:
        running = asyncio.current_task()
        assert running is not None
        running.cancel()
        await asyncio.sleep(0)


class Parental(Worker):
    """Forks a child that lives until the FIFO is written to; tells its pid."""

    @task_done
    def _process_message(self, task: str) -> None:
        if not task.startswith("/"):
            self._put_nowait(task)
            return
        child = os.fork()
        if not child:
            Path(task).read_text()
            os._exit(0)
        self._put_nowait(child)


class Moody(Worker):
    """Does to itself what the message says, else answers."""

    @task_done
    def _process_message(self, task: Any) -> None:
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "exit":
            sys.exit(3)
        self._put_nowait((task, os.getpid()))


class NotingByHand(Noting):
    """Raises where it should have said that the message is done."""

    async def _process_message(self, task: Any) -> None:
        raise LookupError(task)


class Twice(Worker):
    def _process_message(self, task: Any) -> None:
        self._task_done()
        try:
            self._task_done()
        except ValueError as error:
            self._put_nowait(str(error))


class Later(Worker):
    """Is done from a callback; the context tells with which message."""

    def _process_message(self, task: float) -> None:
        self._ioloop.call_later(task, self._finish, task)

    def _finish(self, task: float) -> None:
        self._put_nowait(task)
        self._task_done()


class Forgetful(Worker):
    """Is never done with one message; with others from a callback."""

    def _process_message(self, task: str) -> None:
        if task != "forget":
            self._ioloop.call_soon(self._finish, task)

    def _finish(self, task: str) -> None:
        self._put_nowait(task)
        self._task_done()


class Signals(Worker):
    @task_done
    def _process_message(self, task: Any) -> None:
        self._put_nowait([signal.getsignal(number) is signal.SIG_IGN for number in task])


class NeverReady(Worker):
    def _initialise(self) -> None:
        raise LookupError("no table to work with")


class ReadyLate(Worker):
    async def _initialise(self) -> None:
        await asyncio.sleep(0)
        self.ready = "ready"

    @task_done
    def _process_message(self, task: Any) -> None:
        self._put_nowait(self.ready)


class Blocked(Worker):
    """Reads a FIFO that is opened when the test says so; holds its loop meanwhile."""

    @task_done
    def _process_message(self, task: str) -> None:
        if task.startswith("/"):
            Path(task).read_text()
        self._put_nowait(task)


class Subscriber(Worker):
    """Sends results that no message asked for."""

    async def _initialise(self) -> None:
        self.ticking = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        for number in range(3):
            await self._put(("tick", number))

    @task_done
    def _process_message(self, task: Any) -> None:
        """Wants none."""


class Started(Worker):
    """Overrides the two ends of its life, as the original's instrumented worker does."""

    def start(self) -> Any:
        self._put_nowait("started")
        return super().start()

    def join(self) -> None:
        self._put_nowait("joined")
        super().join()

    @task_done
    def _process_message(self, task: Any) -> None:
        self._put_nowait(task)


class Prepared(Worker):
    """Uses in start() what _initialise() has made, and gives nothing back, as programs do."""

    def _initialise(self) -> Any:
        self.steps = ["initialised"]

    def start(self) -> None:
        self.steps.append("started")
        super().start()

    @task_done
    def _process_message(self, task: Any) -> None:
        self._put_nowait(self.steps)


class PreparedLate(Prepared):
    """The same with a coroutine."""

    async def _initialise(self) -> Any:
        await asyncio.sleep(0.01)
        self.steps = ["initialised"]


class MadeByHand(Worker):
    """Has the original's constructor, and uses its queues as programs for Looppool 0.2 do."""

    def __init__(self, number: int, ioloop: Any, task_queue: Any, result_queue: Any) -> None:
        super().__init__(number, ioloop, task_queue, result_queue)
        self.made = "made"

    def _process_message(self, task: Any) -> None:
        try:
            self._result_queue.put_nowait((self.made, task))
        finally:
            self._task_queue.task_done()


class Filling(Worker):
    """Sends results until there is no room for more, and dies of the message "die" then."""

    def _process_message(self, task: Any) -> None:
        while True:
            try:
                self._put_nowait(self._number)
            except Full:
                break
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        with open(task, "w") as fifo:
            fifo.write(f"{self._number} is full\n")
        self._task_done()


class Waiting(Worker):
    """Sends one result as soon as there is room; says before it waits that it begins."""

    async def _process_message(self, task: Any) -> None:
        with open(task, "w") as fifo:
            fifo.write("begins\n")
        await self._put("had to wait")
        self._task_done()


class FillingOrWaiting(Filling, Waiting):
    """Number 0 fills the pool, number 1 waits for room."""

    def _process_message(self, task: Any) -> Any:
        kind: Any = Waiting if self._number else Filling
        return kind._process_message(self, task)


class Threaded(Worker):
    """Hands its messages to a thread, and gives the future of that."""

    def _initialise(self) -> None:
        self.pool = ThreadPoolExecutor(1)

    def _work(self, task: Any) -> None:
        Path(task).read_text()
        self._ioloop.call_soon_threadsafe(self._put_nowait, "the thread is over")

    @task_done
    def _process_message(self, task: Any) -> Any:
        return self.pool.submit(self._work, task)

    def join(self) -> None:
        self.pool.shutdown()


class Generating(Noting):
    """Forgets that a generator needs somebody to run it."""

    @task_done
    def _process_message(self, task: Any) -> Any:
        yield self._put_nowait(task)


class Peak(Worker):
    @task_done
    def _process_message(self, task: Any) -> None:
        self._put_nowait(peak_memory())


# -- calls for the executor

_arrived = 0


async def wait_for_others(number: int) -> int:
    """Return when so many calls are under way in this process."""
    global _arrived
    _arrived += 1
    while _arrived < number:
        await asyncio.sleep(0)
    return _arrived


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


@gen.coroutine
def tornado_double(number: int) -> Any:
    yield gen.moment
    return number * 2


def read(path: str) -> str:
    """Block until somebody writes to the FIFO."""
    return Path(path).read_text()


def unpicklable() -> Any:
    return lambda: None


class Secretive(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_secretive() -> None:
    raise Secretive(1, 2)


def explode() -> None:
    raise LookupError("boom")


class Landmine:
    """Pickles well, and explodes where it is unpickled."""

    def __reduce__(self) -> Any:
        return (explode, ())


def give_landmine() -> Any:
    return Landmine()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
