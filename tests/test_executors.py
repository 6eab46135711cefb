"""The executors, and the standard library's two pools, against one contract."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from executor_contract import PATIENCE_SECONDS, ExecutorContract, Stop, add, stop
from tgext.asyncjob.executors import InlineExecutor


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.BaseContext:
    # Not fork: there are threads in this process. A server that has imported the contract once
    # forks a child in milliseconds, where spawn takes a quarter of a second for each.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["executor_contract"])
    return context


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
