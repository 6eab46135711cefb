"""LoopPoolExecutor: the contract of all executors, and what is its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from pathlib import Path

import pytest

from executor_contract import ExecutorContract, add
from looppool_workers import (
    PATIENCE_SECONDS,
    REPLACING_METHOD,
    START_METHOD,
    Landmine,
    die,
    double,
    give_landmine,
    raise_secretive,
    read,
    tornado_double,
    unpicklable,
    wait_for_others,
)
from tgext.asyncjob.errors import RemoteError, WorkerCrashed
from tgext.asyncjob.executors import LoopPoolExecutor


class TestLoopPoolExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with LoopPoolExecutor(1, start_method=START_METHOD) as made:
            yield made


@pytest.fixture
def executor() -> Iterator[LoopPoolExecutor]:
    with LoopPoolExecutor(2, start_method=START_METHOD) as made:
        yield made


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return str(path)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_calls_run_whatever_starts_the_processes(method):
    with LoopPoolExecutor(2, start_method=method) as executor:
        assert list(executor.map(double, range(4))) == [0, 2, 4, 6]


@pytest.mark.parametrize("function", [double, tornado_double])
def test_coroutine_is_awaited_in_the_worker(executor, function):
    assert executor.submit(function, 21).result(PATIENCE_SECONDS) == 42


def test_many_coroutines_are_under_way_in_one_worker():
    with LoopPoolExecutor(1, start_method=START_METHOD) as executor:
        futures = [executor.submit(wait_for_others, 50) for _ in range(50)]

        assert [future.result(PATIENCE_SECONDS) for future in futures] == [50] * 50


def test_calls_run_in_other_processes_and_in_all_of_them(executor, fifo):
    held = executor.submit(read, fifo)  # its worker takes part in nothing

    others = {executor.submit(os.getpid).result(PATIENCE_SECONDS) for _ in range(3)}
    Path(fifo).write_text("go on")

    assert held.result(PATIENCE_SECONDS) == "go on"
    assert os.getpid() not in others
    assert len(others) == 1


def test_call_that_no_worker_has_yet_can_be_cancelled(fifo):
    with LoopPoolExecutor(1, max_running=1, start_method=START_METHOD) as executor:
        held = executor.submit(read, fifo)
        waiting = executor.submit(add, 1)
        last = executor.submit(add, 2)

        assert waiting.cancel() is True
        assert held.cancel() is False
        Path(fifo).write_text("")

        assert last.result(PATIENCE_SECONDS) == 2
        with pytest.raises(CancelledError):
            waiting.result(0)


def test_shutdown_can_cancel_what_no_worker_has_yet(fifo):
    executor = LoopPoolExecutor(1, max_running=1, start_method=START_METHOD)
    held = executor.submit(read, fifo)
    waiting = [executor.submit(add, number) for number in range(3)]

    executor.shutdown(wait=False, cancel_futures=True)
    Path(fifo).write_text("kept")
    executor.shutdown()

    assert held.result(0) == "kept"
    assert all(future.cancelled() for future in waiting)


def test_shutdown_does_what_waits(fifo):
    executor = LoopPoolExecutor(1, max_running=1, start_method=START_METHOD)
    executor.submit(read, fifo)
    waiting = [executor.submit(add, number) for number in range(3)]

    executor.shutdown(wait=False)
    Path(fifo).write_text("")
    executor.shutdown()

    assert [future.result(0) for future in waiting] == [0, 1, 2]


def test_callback_may_shut_its_executor_down(executor):
    ended = threading.Event()
    future = executor.submit(add, 1)

    future.add_done_callback(lambda _: (executor.shutdown(), ended.set()))

    assert ended.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("argument", [lambda: None, Landmine()])
def test_call_that_cannot_be_sent_fails_in_its_future(executor, argument):
    error = executor.submit(add, argument).exception(PATIENCE_SECONDS)

    assert error is not None
    assert executor.submit(add, 1).result(PATIENCE_SECONDS) == 1


@pytest.mark.parametrize("function", [unpicklable, give_landmine])
def test_result_that_cannot_be_sent_fails_in_its_future(executor, function):
    error = executor.submit(function).exception(PATIENCE_SECONDS)

    assert error is not None
    assert executor.submit(add, 1).result(PATIENCE_SECONDS) == 1


def test_exception_that_cannot_be_pickled_arrives_as_one_that_can(executor):
    error = executor.submit(raise_secretive).exception(PATIENCE_SECONDS)

    assert type(error) is RemoteError
    assert error.class_path == "looppool_workers.Secretive"
    assert error.text == "1 and 2"
    assert "raise Secretive(1, 2)" in str(error.__cause__)


def test_exception_brings_its_traceback_along(executor):
    error = executor.submit(add, "a").exception(PATIENCE_SECONDS)

    assert isinstance(error, TypeError)
    assert "return sum(numbers) * times" in str(error.__cause__)


def test_death_of_a_worker_fails_its_calls_and_no_others(fifo):
    with LoopPoolExecutor(2, start_method=REPLACING_METHOD) as executor:
        held = executor.submit(read, fifo)

        error = executor.submit(die).exception(PATIENCE_SECONDS)
        again = executor.submit(add, 1, 2)
        Path(fifo).write_text("not harmed")

        assert isinstance(error, WorkerCrashed)
        assert "killed by signal 9" in str(error)
        assert again.result(PATIENCE_SECONDS) == 3
        assert held.result(PATIENCE_SECONDS) == "not harmed"


def test_what_was_submitted_is_done_before_the_interpreter_exits(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from tgext.asyncjob.executors import LoopPoolExecutor\n"
        "executor = LoopPoolExecutor(1, max_running=1, start_method='fork')\n"
        "for number in range(3): executor.submit(print, number, flush=True)\n"
    )

    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("0\n1\n2\n", "")


def test_bounds_below_one_are_refused():
    with pytest.raises(ValueError, match="whole size of at least 1, got 0"):
        LoopPoolExecutor(0)
