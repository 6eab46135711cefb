"""What ``concurrent.futures.Executor`` promises, for every executor that this package has.

The standard library's own pools pass it too, which keeps it honest. A subclass gives
``executor``; what is run here is at module level, so that a process can find it.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    as_completed,
    wait,
)
from typing import Any

import pytest

#: How long anything here may take, in seconds.
PATIENCE_SECONDS = 20.0


class Mistake(Exception):
    """Raised by a call; an exception that can be pickled, arguments and all."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(code, why)
        self.code = code
        self.why = why


class Stop(BaseException):
    """Raised by a call; no Exception, as a SystemExit is none."""


def add(*numbers: int, times: int = 1) -> int:
    return sum(numbers) * times


def keywords(**given: Any) -> dict[str, Any]:
    return given


def fail(code: int, why: str) -> None:
    raise Mistake(code, why)


def stop() -> None:
    raise Stop("enough")


def exit_process() -> None:
    raise SystemExit(3)


def nothing() -> None:
    return None


def divide(a: int, b: int) -> float:
    return a / b


class ExecutorContract:
    """Subclass it once for each executor."""

    #: Whether ``submit`` runs the call in the caller's thread, before it returns.
    inline = False

    @pytest.fixture
    def executor(self) -> Executor:
        """An executor that nobody has used; shut down by whoever gives it."""
        raise NotImplementedError

    def submitted(self, executor: Executor, function: Any, *args: Any) -> Future[Any] | None:
        """The future of a call that raises no Exception; None where it was raised here."""
        try:
            return executor.submit(function, *args)
        except BaseException:
            if self.inline:
                return None
            raise

    # -- submit

    def test_it_is_an_executor_of_the_standard_librarys_kind(self, executor):
        assert isinstance(executor, Executor)

    def test_submit_gives_a_future_of_the_result(self, executor):
        future = executor.submit(add, 3, 4)

        assert isinstance(future, Future)
        assert future.result(PATIENCE_SECONDS) == 7
        assert future.done()
        assert not future.running()
        assert not future.cancelled()
        assert future.exception(PATIENCE_SECONDS) is None

    def test_submit_passes_positional_and_keyword_arguments_on(self, executor):
        assert executor.submit(add, 1, 2, 3, times=10).result(PATIENCE_SECONDS) == 60

    def test_submit_without_arguments_calls_without_arguments(self, executor):
        assert executor.submit(nothing).result(PATIENCE_SECONDS) is None

    def test_keywords_named_like_submits_own_parameters_belong_to_the_call(self, executor):
        names = ("self", "fn", "func", "function", "callable", "call", "args", "kwargs", "timeout",
                 "executor", "future", "uid", "task", "target", "key", "name")  # fmt: skip
        given = {name: number for number, name in enumerate(names)}

        assert executor.submit(keywords, **given).result(PATIENCE_SECONDS) == given

    def test_submit_without_a_function_is_a_type_error(self, executor):
        with pytest.raises(TypeError):
            executor.submit()

    def test_function_is_positional_only(self, executor):
        with pytest.raises(TypeError):
            executor.submit(fn=nothing)

    def test_exception_is_in_the_future_with_its_attributes(self, executor):
        future = executor.submit(fail, 7, "no colour")

        error = future.exception(PATIENCE_SECONDS)
        assert type(error) is Mistake
        assert (error.code, error.why) == (7, "no colour")
        with pytest.raises(Mistake):
            future.result(PATIENCE_SECONDS)

    def test_call_that_cannot_be_called_fails_in_its_future(self, executor):
        future = executor.submit(divide, 1)

        assert isinstance(future.exception(PATIENCE_SECONDS), TypeError)

    @pytest.mark.parametrize("function", [stop, exit_process])
    def test_base_exception_ends_the_call_and_not_the_executor(self, executor, function):
        future = self.submitted(executor, function)

        if future is not None:
            assert isinstance(future.exception(PATIENCE_SECONDS), (Stop, SystemExit))
        assert executor.submit(add, 1).result(PATIENCE_SECONDS) == 1

    def test_failed_call_harms_no_later_one(self, executor):
        executor.submit(fail, 1, "").exception(PATIENCE_SECONDS)

        assert [executor.submit(add, n).result(PATIENCE_SECONDS) for n in range(3)] == [0, 1, 2]

    def test_many_calls_each_have_their_own_result(self, executor):
        futures = [executor.submit(add, number, 1) for number in range(50)]

        assert [future.result(PATIENCE_SECONDS) for future in futures] == list(range(1, 51))

    def test_callback_is_called_with_the_future(self, executor):
        called = threading.Event()
        seen = []
        future = executor.submit(add, 1)

        future.add_done_callback(lambda done: (seen.append(done), called.set()))

        assert called.wait(PATIENCE_SECONDS)
        assert seen == [future]

    def test_futures_can_be_waited_for_with_the_standard_librarys_tools(self, executor):
        futures = [executor.submit(add, 1), executor.submit(fail, 1, ""), executor.submit(nothing)]

        assert set(as_completed(futures, timeout=PATIENCE_SECONDS)) == set(futures)
        assert wait(futures, PATIENCE_SECONDS).not_done == set()
        assert wait(futures, PATIENCE_SECONDS, return_when=FIRST_COMPLETED).done

    def test_call_that_has_ended_cannot_be_cancelled(self, executor):
        future = executor.submit(add, 1)
        future.result(PATIENCE_SECONDS)

        assert future.cancel() is False

    # -- map

    def test_map_gives_the_results_in_the_order_of_the_arguments(self, executor):
        assert list(executor.map(add, range(6), range(6))) == [0, 2, 4, 6, 8, 10]

    def test_map_ends_with_the_shortest_iterable(self, executor):
        assert list(executor.map(add, range(5), [1, 1])) == [1, 2]

    def test_map_raises_where_the_failed_call_stands(self, executor):
        results = executor.map(divide, [1, 1, 1, 1], [2, 1, 0, 1])

        assert next(results) == 0.5
        assert next(results) == 1.0
        with pytest.raises(ZeroDivisionError):
            next(results)

    def test_map_over_nothing_gives_nothing(self, executor):
        assert list(executor.map(add, [])) == []

    def test_map_takes_a_timeout_and_a_chunk_size(self, executor):
        results = executor.map(add, range(4), timeout=PATIENCE_SECONDS, chunksize=2)

        assert list(results) == [0, 1, 2, 3]

    # -- shutdown

    def test_context_manager_gives_itself_and_shuts_down(self, executor):
        with executor as entered:
            future = entered.submit(add, 2)

        assert entered is executor
        assert future.done()
        assert future.result(0) == 2
        with pytest.raises(RuntimeError):
            executor.submit(add, 1)

    def test_context_manager_lets_exceptions_through(self, executor):
        with pytest.raises(ZeroDivisionError), executor:
            raise ZeroDivisionError

    def test_submit_after_shutdown_is_a_runtime_error_that_says_so(self, executor):
        executor.shutdown()

        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(add, 1)

    def test_map_after_shutdown_is_a_runtime_error(self, executor):
        executor.shutdown()

        with pytest.raises(RuntimeError):
            executor.map(add, [1])

    def test_shutdown_twice_is_no_error(self, executor):
        executor.submit(add, 1)

        executor.shutdown()
        executor.shutdown(wait=False)

    def test_shutdown_of_an_executor_that_was_never_used_is_no_error(self, executor):
        executor.shutdown(wait=True, cancel_futures=True)

    def test_shutdown_waits_for_what_was_submitted(self, executor):
        futures = [executor.submit(add, number) for number in range(5)]

        executor.shutdown(wait=True)

        assert [future.result(0) for future in futures] == [0, 1, 2, 3, 4]

    def test_shutdown_without_waiting_lets_what_was_submitted_end(self, executor):
        futures = [executor.submit(add, number) for number in range(5)]

        executor.shutdown(wait=False)

        assert [future.result(PATIENCE_SECONDS) for future in futures] == [0, 1, 2, 3, 4]

    def test_shutdown_that_cancels_leaves_every_future_done(self, executor):
        futures = [executor.submit(time.sleep, 0.01) for _ in range(8)]

        executor.shutdown(wait=True, cancel_futures=True)

        assert all(future.done() for future in futures)
        for future in futures:
            if future.cancelled():
                with pytest.raises(CancelledError):
                    future.result(0)
            else:
                assert future.result(0) is None

    def test_result_is_there_after_shutdown(self, executor):
        future = executor.submit(add, 5)
        executor.shutdown()

        assert future.result(0) == 5
