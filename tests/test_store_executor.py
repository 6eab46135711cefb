"""The executor over a store, and the one with a new process for each call."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from executor_contract import PATIENCE_SECONDS, ExecutorContract, Mistake, add, fail, nothing
from process_server import serving_context
from stores import RedisStore, open_shelf, redis_store  # noqa: F401 - a fixture
from tgext.asyncjob import errors
from tgext.asyncjob.executors import NewProcessExecutor, StoreExecutor
from tgext.asyncjob.executors.store_reader import StoreReader
from tgext.asyncjob.taskrunners import StoreTaskReader


class Picky(Exception):
    """An exception that cannot be read back from a pickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def raise_picky() -> None:
    raise Picky("this", "that")


def give_lock() -> Any:
    return threading.Lock()


class TestStoreExecutorOnADict(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with StoreExecutor({}, poll_seconds=0.01) as made:
            yield made


class TestStoreExecutorWithASecret(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with StoreExecutor({}, secret="sesame", readers=2, poll_seconds=0.01) as made:
            yield made


class TestStoreExecutorOnRedis(ExecutorContract):
    @pytest.fixture
    def executor(self, redis_store: RedisStore) -> Iterator[Executor]:  # noqa: F811
        with StoreExecutor(redis_store, secret="sesame", poll_seconds=0.01) as made:
            yield made


class TestStoreExecutorOnAShelf(ExecutorContract):
    @pytest.fixture
    def executor(self, tmp_path: Path) -> Iterator[Executor]:
        with open_shelf(tmp_path) as shelf, StoreExecutor(shelf, poll_seconds=0.01) as made:
            yield made


@pytest.fixture(scope="module")
def server() -> None:
    """The server that forks processes, which has imported what they need once for all."""
    serving_context(__name__)


@pytest.mark.slow
class TestNewProcessExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, server: None) -> Iterator[Executor]:
        with NewProcessExecutor("forkserver") as made:
            yield made

    def test_many_calls_each_have_their_own_result(self, executor):
        futures = [executor.submit(add, number, 1) for number in range(6)]

        assert [future.result(PATIENCE_SECONDS) for future in futures] == list(range(1, 7))


# -- the store


@pytest.fixture
def store() -> dict[str, Any]:
    return {}


@pytest.fixture
def executor(store: dict[str, Any]) -> Iterator[StoreExecutor]:
    with StoreExecutor(store, poll_seconds=0.01) as made:
        yield made


def test_call_is_run_by_a_reader_of_the_store_that_is_not_the_executors(store):
    with StoreTaskReader(store, poll_seconds=0.01), StoreExecutor(store, readers=0) as executor:
        assert executor.submit(add, 1, 2).result(PATIENCE_SECONDS) == 3


_NOTED: list[int] = []


def note(number: int) -> None:
    _NOTED.append(number)


def test_many_readers_of_a_store_run_each_call_once(store):
    _NOTED.clear()
    others = [StoreTaskReader(store, poll_seconds=0.001, threads=2) for _ in range(3)]

    with others[0], others[1], others[2], StoreExecutor(store, poll_seconds=0.001) as executor:
        futures = [executor.submit(note, number) for number in range(300)]
        for future in futures:
            future.result(PATIENCE_SECONDS)

    assert sorted(_NOTED) == list(range(300))


def test_call_submitted_to_a_dict_that_nobody_reads_is_refused(store):
    executor = StoreExecutor(store, readers=0)

    with pytest.raises(errors.NoReader, match="nothing in this process reads it"):
        executor.submit(nothing)

    assert store == {}


def test_call_that_no_reader_takes_in_time_fails_and_is_taken_out(store):
    idle = StoreReader(store, Any)

    with StoreExecutor(store, readers=0, claim_timeout=0.05, poll_seconds=0.01) as executor:
        error = executor.submit(add, 1).exception(PATIENCE_SECONDS)

    assert isinstance(error, errors.NoReader)
    assert isinstance(error, TimeoutError)
    assert str(error) == (
        "expected a reader to take executor_contract.add from its store, but none did within "
        "0.05 s; start one: StoreTaskReader(store).listen()"
    )
    assert store == {}
    del idle


def test_cancelled_call_is_not_run_and_taken_out(store):
    reader = StoreTaskReader(store)
    with StoreExecutor(store, readers=0, poll_seconds=0.01) as executor:
        future = executor.submit(add, 1)

        assert future.cancel()
        executor.shutdown()

    assert store == {}
    assert reader.run_pending() == 0


def test_executor_with_nothing_to_do_keeps_no_thread(store):
    executor = StoreExecutor(store, poll_seconds=0.01)

    for number in range(3):
        assert executor.submit(add, number).result(PATIENCE_SECONDS) == number
        threads = [each for each in threading.enumerate() if "store" in each.name]
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert not any(thread.is_alive() for thread in threads)


def test_ended_calls_are_taken_out_of_the_store(executor, store):
    executor.submit(add, 1).result(PATIENCE_SECONDS)
    executor.submit(fail, 1, "").exception(PATIENCE_SECONDS)
    executor.shutdown()

    assert store == {}


def test_call_whose_entry_somebody_removed_fails(store):
    reader = StoreTaskReader(store)
    with StoreExecutor(store, readers=0, poll_seconds=0.01) as executor:
        future = executor.submit(add, 1)
        store.clear()

        with pytest.raises(errors.Unreadable, match="it was removed"):
            future.result(PATIENCE_SECONDS)
    del reader


def test_exception_comes_back_with_the_traceback_it_had(executor):
    error = executor.submit(fail, 3, "why").exception(PATIENCE_SECONDS)

    assert isinstance(error, Mistake)
    assert "raise Mistake(code, why)" in str(error.__cause__)


@pytest.mark.parametrize("secret", [None, "sesame"])
def test_exception_that_cannot_be_pickled_comes_back_as_what_it_was(secret):
    with StoreExecutor({}, secret=secret, poll_seconds=0.01) as executor:
        error = executor.submit(raise_picky).exception(PATIENCE_SECONDS)

    assert isinstance(error, errors.RemoteError)
    assert error.class_path == f"{__name__}.Picky"
    assert str(error) == f"{__name__}.Picky: this and that"
    assert "raise Picky" in error.traceback


def test_result_that_cannot_be_stored_raises_when_it_is_asked_for(caplog):
    with StoreExecutor({}, secret="sesame", poll_seconds=0.01) as executor:
        future = executor.submit(give_lock)

        with pytest.raises(errors.NotSerializable, match="cannot be pickled"):
            future.result(PATIENCE_SECONDS)
    assert "is not kept" in caplog.text


@pytest.mark.parametrize("secret", [None, "sesame"])
def test_closure_can_be_submitted(secret):
    number = 20

    def add_number(other: int) -> int:
        return number + other

    with StoreExecutor({}, secret=secret, poll_seconds=0.01) as executor:
        assert executor.submit(add_number, 3).result(PATIENCE_SECONDS) == 23


def test_argument_that_cannot_be_signed_is_refused_at_once():
    executor = StoreExecutor({}, secret="sesame")

    with pytest.raises(errors.NotSerializable, match=r"args of executor_contract\.add cannot"):
        executor.submit(add, threading.Lock())


async def double(number: int) -> int:
    return number * 2


def test_coroutine_function_is_awaited(executor):
    assert executor.submit(double, 4).result(PATIENCE_SECONDS) == 8


def test_call_may_submit_another(store):
    with StoreExecutor(store, readers=2, poll_seconds=0.01) as executor:
        _EXECUTOR["now"] = executor

        assert executor.submit(submit_and_wait, 2, 3).result(PATIENCE_SECONDS) == 5


_EXECUTOR: dict[str, Executor] = {}


def submit_and_wait(*numbers: int) -> int:
    """Run by an executor: give it another call."""
    return int(_EXECUTOR["now"].submit(add, *numbers).result(PATIENCE_SECONDS))


class Flaky(dict[str, Any]):
    """A store that cannot be reached for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals = 0
        self.refused = threading.Event()

    def __getitem__(self, key: str) -> Any:
        if self.refusals:
            self.refusals -= 1
            self.refused.set()
            raise ConnectionError("the store is away")
        return super().__getitem__(key)

    def __iter__(self) -> Any:
        if self.refusals:
            self.refusals -= 1
            self.refused.set()
            raise ConnectionError("the store is away")
        return super().__iter__()


def test_call_survives_a_store_that_is_away_for_a_while():
    store = Flaky()
    with StoreExecutor(store, poll_seconds=0.01) as executor:
        store.refusals = 2

        future = executor.submit(add, 1)

        assert store.refused.wait(PATIENCE_SECONDS)
        assert future.result(PATIENCE_SECONDS) == 1


def test_thing_that_is_no_mapping_is_refused_as_a_store():
    for wrong in (None, [], "store"):
        with pytest.raises(errors.ConfigError, match="expected as store= a mapping"):
            StoreExecutor(wrong)  # type: ignore[arg-type]


# -- a process for each call


@pytest.fixture
def processes(server: None) -> Iterator[NewProcessExecutor]:
    with NewProcessExecutor("forkserver") as made:
        yield made


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_call_has_a_process_of_its_own(processes):
    futures = [processes.submit(os.getpid) for _ in range(3)]

    pids = {future.result(PATIENCE_SECONDS) for future in futures}

    assert len(pids) == 3
    assert os.getpid() not in pids


def test_call_whose_process_is_killed_fails_and_harms_no_other(processes):
    killed = processes.submit(kill_oneself)
    other = processes.submit(add, 1)

    with pytest.raises(errors.WorkerCrashed, match=r"exit code -9 \(below 0: by that signal\)"):
        killed.result(PATIENCE_SECONDS)
    assert other.result(PATIENCE_SECONDS) == 1


def kill_oneself_and_leave_a_child(path: str) -> None:
    child = os.fork()
    if not child:
        signal.pause()
    Path(path).write_text(str(child))
    kill_oneself()


def test_death_of_a_process_is_noticed_though_its_child_lives_on(processes, tmp_path):
    path = tmp_path / "pid"
    future = processes.submit(kill_oneself_and_leave_a_child, str(path))
    try:
        assert isinstance(future.exception(PATIENCE_SECONDS), errors.WorkerCrashed)
    finally:
        os.kill(int(path.read_text()), signal.SIGKILL)


def test_process_result_that_cannot_be_pickled_is_an_error_that_says_so(processes):
    with pytest.raises(errors.NotSerializable, match=r"expected a result of .*give_lock that can"):
        processes.submit(give_lock).result(PATIENCE_SECONDS)


def test_process_exception_that_cannot_be_pickled_comes_back_as_what_it_was(processes):
    error = processes.submit(raise_picky).exception(PATIENCE_SECONDS)

    assert isinstance(error, errors.RemoteError)
    assert error.text == "this and that"
    assert "raise Picky" in str(error.__cause__)


@pytest.mark.parametrize("make", [lambda: lambda: 1, lambda: threading.Lock().acquire])
def test_call_that_cannot_be_handed_to_a_process_is_refused(
    processes: NewProcessExecutor, make: Callable[[], Any]
) -> None:
    with pytest.raises(errors.NotSerializable, match="cannot be pickled"):
        processes.submit(make())

    assert processes.submit(add, 2).result(PATIENCE_SECONDS) == 2
