"""Tasks in a store: what a writer writes, and what a reader makes of that and of worse."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dill
import pytest

from stores import RedisStore, open_shelf, record_run, redis_store  # noqa: F401 - a fixture
from tgext.asyncjob import errors
from tgext.asyncjob.executors import StoreExecutor
from tgext.asyncjob.taskrunners import StoreTaskReader, StoreTaskWriter, TaskDispatcher, as_task

PATIENCE_SECONDS = 20.0
SECRET = "open sesame"


def double(number: int) -> int:
    return number * 2


def join(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return (*args, *sorted(kwargs.items()))


async def double_async(number: int) -> int:
    return number * 2


def fail() -> None:
    raise LookupError("nothing there")


def leave() -> None:
    raise SystemExit(3)


def give_lock() -> Any:
    return threading.Lock()


RAN: list[Any] = []


def ran(value: Any) -> None:
    RAN.append(value)


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


@pytest.fixture
def store() -> dict[str, Any]:
    return {}


def run_all(store: Any, **options: Any) -> int:
    return StoreTaskReader(store, **options).run_pending()


# -- writing


def test_entry_is_the_dictionary_of_the_seed(store):
    key = StoreTaskWriter(join, store, 1, a=2)(3, b=4)

    entry = store[key]
    assert entry.pop("start_time") > 1_600_000_000_000
    assert entry == {
        "name": "join",
        "func": None,
        "init_args": [1],
        "init_kwargs": {"a": 2},
        "args": [3],
        "kwargs": {"b": 4},
        "task_status": "new",
    }


def test_pickled_function_is_one_for_everybody(store):
    key = StoreTaskWriter(double, store, pickle_func=True)(3)

    assert pickle.loads(store[key]["func"]) is double


def test_task_id_is_the_key_where_one_is_given(store):
    assert StoreTaskWriter(double, store)(3, task_id="mine") == "mine"
    assert list(store) == ["mine"]


def test_writer_warns_once_of_a_dict_that_nobody_reads(store, caplog):
    writer = StoreTaskWriter(double, store)
    writer(1)
    writer(2)

    [record] = caplog.records
    assert "waits in a dict that nothing in this process reads yet" in record.getMessage()


def test_callbacks_are_refused_where_only_a_name_is_stored(store):
    with pytest.raises(errors.ConfigError, match="expected pickle_func=True or read_store="):
        StoreTaskWriter(double, store, on_end=ran)


def test_status_and_result_are_those_of_what_was_written_last(store):
    writer = StoreTaskWriter(double, store, pickle_func=True)
    assert (writer.status, writer.result) == (None, None)

    writer(4)
    assert (writer.status, writer.result) == ("new", None)

    run_all(store)
    assert (writer.status, writer.result) == ("complete", 8)


def test_result_of_a_task_that_failed_is_raised(store):
    writer = StoreTaskWriter(fail, store, pickle_func=True)
    writer()
    run_all(store)

    with pytest.raises(LookupError, match="nothing there"):
        _ = writer.result


def test_get_result_says_where_results_are(store):
    writer = StoreTaskWriter(double, store, get_result=lambda key: f"the result of {key}")

    writer(1, task_id="it")

    assert writer.result == "the result of it"


# -- reading


@pytest.fixture(params=["dict", "shelf", "redis"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "dict":
        yield {}
    elif request.param == "redis":
        yield request.getfixturevalue("redis_store")
    else:
        with open_shelf(tmp_path) as shelf:
            yield shelf


def test_function_that_was_pickled_is_run_on_any_store(any_store):
    key = StoreTaskWriter(join, any_store, "a", secret=SECRET, pickle_func=True)(2, b=3)

    assert run_all(any_store, secret=SECRET) == 1

    assert any_store[key]["task_status"] == "complete"
    assert any_store[key]["result"] == {"$": "tuple", "v": ["a", 2, {"$": "tuple", "v": ["b", 3]}]}


def test_function_is_found_by_name_on_any_store(any_store):
    key = StoreTaskWriter(double, any_store)(4)

    run_all(any_store, get_task_func=lambda entry: {"double": double}[entry["name"]])

    assert (any_store[key]["task_status"], any_store[key]["result"]) == ("complete", 8)


def test_reader_that_listens_runs_what_is_written_on_any_store(any_store):
    with StoreTaskReader(any_store, secret=SECRET, poll_seconds=0.01):
        writer = StoreTaskWriter(double, any_store, pickle_func=True, secret=SECRET)

        assert writer.submit(21).result(PATIENCE_SECONDS) == 42


@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("pickled", [True, False])
def test_arguments_arrive_whatever_they_are(store, secret, pickled):
    given = (1.5, (1, 2), b"\x00", {"a": {3}}, ValueError("x"))
    RAN.clear()
    StoreTaskWriter(ran, store, secret=secret, pickle_func=pickled)(given)

    run_all(store, secret=secret, get_task_func=None if pickled else lambda entry: ran)

    [came] = RAN
    assert came[:4] == given[:4]
    assert repr(came[4]) == repr(given[4])


@pytest.mark.parametrize("secret", [None, SECRET])
def test_closure_is_pickled_too(store, secret):
    number = 10
    key = StoreTaskWriter(lambda other: number + other, store, pickle_func=True, secret=secret)(5)

    run_all(store, secret=secret)

    assert store[key]["result"] == 15


@pytest.mark.parametrize("secret", [None, SECRET])
def test_functions_may_be_pickled_by_dill(store, secret):
    writer = StoreTaskWriter(lambda x: x + 1, store, pickle_func=dill.dumps, secret=secret)
    key = writer(4)

    run_all(store, secret=secret, unpickle=dill.loads)

    assert store[key]["result"] == 5


SHARED_STORE: dict[str, Any] = {}


@as_task("store", store=SHARED_STORE, pickle_func=True, secret=SECRET)
def pickled_half(number: int) -> float:
    return number / 2


@as_task("store", store=SHARED_STORE)
def half(number: int) -> float:
    return number / 2


@as_task("thread", on_end=ran)
def half_in_thread(number: int) -> float:
    return number / 2


def test_decorated_function_of_a_module_is_pickled_without_its_decorator():
    SHARED_STORE.clear()
    key = pickled_half(5)

    assert run_all(SHARED_STORE, secret=SECRET) == 1

    assert SHARED_STORE[key]["result"] == 2.5


def test_decorated_function_that_is_found_by_its_name_is_run_not_written_again():
    SHARED_STORE.clear()
    key = half(5)

    assert run_all(SHARED_STORE, get_task_func=lambda entry: globals()[entry["name"]]) == 1

    assert list(SHARED_STORE) == [key]
    assert SHARED_STORE[key]["result"] == 2.5


def test_runner_of_another_kind_that_is_found_is_run_by_the_reader():
    SHARED_STORE.clear()
    key = half(5)

    run_all(SHARED_STORE, get_task_func=lambda entry: half_in_thread)

    assert SHARED_STORE[key]["result"] == 2.5
    assert RAN == [2.5]


def test_entry_written_by_hand_is_run(store):
    store["by hand"] = {"func": pickle.dumps(double), "args": [4], "kwargs": {}}

    assert run_all(store) == 1

    assert store["by hand"]["result"] == 8


def test_coroutine_function_is_awaited(store):
    key = StoreTaskWriter(double_async, store, pickle_func=True)(4)

    run_all(store)

    assert store[key]["result"] == 8


def test_error_is_marked_with_its_traceback(store):
    key = StoreTaskWriter(fail, store, pickle_func=True)()

    run_all(store)

    assert store[key]["task_status"] == "error"
    assert "result" not in store[key]
    assert "in fail\n" in store[key]["error"]
    assert store[key]["error"].endswith("LookupError: nothing there")


def test_task_that_wants_to_leave_does_not_take_its_reader_along(store):
    left = StoreTaskWriter(leave, store, pickle_func=True)()
    key = StoreTaskWriter(double, store, pickle_func=True)(1)

    assert run_all(store) == 2

    assert store[left]["error"].endswith("SystemExit: 3")
    assert store[key]["result"] == 2


def test_entries_are_run_oldest_first(store):
    for key, age in {"a": 2, "b": 3, "c": 1}.items():
        store[key] = {"func": pickle.dumps(ran), "args": [key], "start_time": age}

    run_all(store)

    assert RAN == ["c", "a", "b"]


def test_limit_says_how_many_are_run(store):
    writer = StoreTaskWriter(double, store, pickle_func=True)
    for number in range(3):
        writer(number)
    reader = StoreTaskReader(store)

    assert [reader.run_pending(2), reader.run_pending(2)] == [2, 1]


def test_entry_is_running_while_it_runs_and_run_by_nobody_else(store, gate):
    with StoreTaskReader(store, lambda entry: gate.enter, poll_seconds=0.01):
        key = StoreTaskWriter(double, store)()
        gate.wait_for(1)

        assert store[key]["task_status"] == "running"
        assert run_all(store, get_task_func=lambda entry: ran) == 0
        gate.open()
    assert store[key]["task_status"] == "complete"


def test_threads_run_several_entries_at_once(store):
    meet = threading.Barrier(3, timeout=PATIENCE_SECONDS)
    reader = StoreTaskReader(store, lambda entry: meet.wait, threads=3, poll_seconds=0.01)
    writer = StoreTaskWriter(double, store)

    with reader:
        ends = [writer.submit() for _ in range(3)]
        places = [end.result(PATIENCE_SECONDS) for end in ends]

    assert sorted(places) == [0, 1, 2]


class Narrow(dict[str, Any]):
    """A store for one thread at a time, which notes where there were two."""

    def __init__(self) -> None:
        super().__init__()
        self.met = False
        self._inside = threading.Lock()

    def _enter(self) -> None:
        if not self._inside.acquire(blocking=False):
            self.met = True
            return
        threading.Event().wait(0.0005)  # lets another thread run, and meet this one
        self._inside.release()

    def __getitem__(self, key: str) -> Any:
        self._enter()
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._enter()
        super().__setitem__(key, value)


def test_all_who_use_a_store_in_this_process_use_it_one_at_a_time():
    store = Narrow()
    options: dict[str, Any] = {"poll_seconds": 0.001, "threads": 2}

    with StoreTaskReader(store, **options), StoreTaskReader(store, **options):
        writer = StoreTaskWriter(ran, store, pickle_func=True)
        for end in [writer.submit(number) for number in range(20)]:
            end.result(PATIENCE_SECONDS)

    assert not store.met
    assert sorted(RAN) == list(range(20))


@pytest.mark.parametrize("refused", [True, False])
def test_claim_decides_whether_an_entry_is_run(store, refused):
    StoreTaskWriter(ran, store, pickle_func=True)(1, task_id="it")
    asked = []

    def claim(key: str, entry: dict[str, Any]) -> bool:
        asked.append((key, entry["name"]))
        return not refused

    assert run_all(store, claim=claim) == (0 if refused else 1)

    assert asked == [("it", "ran")]
    assert store["it"]["task_status"] == ("new" if refused else "complete")


# -- bad entries


BAD: dict[str, Any] = {
    "garbage": {"name": "f", "func": b"\x80garbage", "args": [], "kwargs": {}},
    "gone": {"name": "f", "func": b"cnowhere\nf\n.", "args": [], "kwargs": {}},
    "no function": {"name": "f", "func": None, "args": [], "kwargs": {}},
    "not callable": {"name": "f", "func": pickle.dumps(5), "args": [], "kwargs": {}},
    "a text": {"name": "f", "func": "print", "args": [], "kwargs": {}},
    "arguments": {"name": "f", "func": pickle.dumps(double), "args": [1, 2], "kwargs": {}},
    "no list": {"name": "f", "func": pickle.dumps(double), "args": 5, "kwargs": {}},
    "no dictionary": {"name": "f", "func": pickle.dumps(double), "args": [1], "kwargs": [1]},
    "twice": {"func": pickle.dumps(join), "init_kwargs": {"a": 1}, "kwargs": {"a": 1}},
    "time": {"name": "f", "func": b"", "start_time": "yesterday"},
}


@pytest.mark.parametrize("which", BAD)
def test_bad_entry_is_marked_and_harms_no_other(store, which):
    store["bad"] = BAD[which]
    key = StoreTaskWriter(double, store, pickle_func=True)(4)

    assert run_all(store) == 2

    assert store["bad"]["task_status"] == "error"
    assert store["bad"]["error"]
    assert store[key]["result"] == 8


@pytest.mark.parametrize("thing", [None, 5, "text", [1, 2], {}, {"other": "thing"}])
def test_thing_that_is_no_entry_is_left_alone(store, thing, caplog):
    store["thing"] = thing
    reader = StoreTaskReader(store)

    assert (reader.run_pending(), reader.run_pending()) == (0, 0)

    assert store == {"thing": thing}
    assert len([record for record in caplog.records if "left alone" in record.getMessage()]) == 1


def test_entry_that_cannot_even_be_got_harms_no_other(tmp_path):
    with open_shelf(tmp_path) as shelf:
        shelf.dict[b"broken"] = b"no pickle"  # type: ignore[attr-defined]
        StoreTaskWriter(ran, shelf, pickle_func=True)(1)

        assert run_all(shelf) == 1

    assert RAN == [1]


def test_function_that_get_task_func_does_not_know_is_an_error(store):
    key = StoreTaskWriter(double, store)(1)

    run_all(store, get_task_func={}.get)  # type: ignore[arg-type]

    assert "error" in store[key]["task_status"]


def test_error_of_get_task_func_is_marked(store):
    key = StoreTaskWriter(double, store)(1)

    run_all(store, get_task_func=lambda entry: {}[entry["name"]])

    assert store[key]["error"].endswith("KeyError: 'double'")


def test_result_that_the_store_cannot_hold_does_not_undo_the_work(tmp_path, caplog):
    with open_shelf(tmp_path) as shelf:
        writer = StoreTaskWriter(give_lock, shelf, pickle_func=True)
        key = writer()

        run_all(shelf)

        assert shelf[key]["task_status"] == "complete"
        with pytest.raises(errors.NotSerializable, match="cannot pickle"):
            _ = writer.result
    assert "the result of give_lock is not kept" in caplog.text


# -- signatures


@pytest.fixture
def signed(store: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Write a signed call; give its entry, which stands under the key ``it``."""

    def write() -> dict[str, Any]:
        StoreTaskWriter(ran, store, 1, pickle_func=True, secret=SECRET)(task_id="it")
        entry: dict[str, Any] = store["it"]
        return entry

    return write


class Trap:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> Any:
        return ran, ("the trap",)


TRAP = pickle.dumps(Trap())

CHANGES: dict[str, dict[str, Any]] = {
    "name": {"name": "other"},
    "func": {"func": "builtins:print"},
    "a pickle as func": {"func": {"$": "pickle", "v": base64.b64encode(TRAP).decode()}},
    "bytes as func": {"func": TRAP},
    "a pickle as argument": {"args": [{"$": "pickle", "v": base64.b64encode(TRAP).decode()}]},
    "args": {"args": [2]},
    "init_args": {"init_args": [2]},
    "kwargs": {"kwargs": {"a": 2}},
    "init_kwargs": {"init_kwargs": {"a": 2}},
    "signature": {"signature": "AAAA"},
    "no signature": {"signature": None},
    "signature of another kind": {"signature": 5},
}


@pytest.mark.parametrize("change", CHANGES)
def test_signed_entry_that_was_changed_runs_nothing(store, signed, change):
    store["it"] = {**signed(), **CHANGES[change]}

    run_all(store, secret=SECRET)

    assert store["it"]["task_status"] == "error"
    assert "BadSignature" in store["it"]["error"]
    assert RAN == []


def test_trap_would_have_run_without_a_secret(store):
    store["it"] = {"name": "ran", "func": TRAP}

    run_all(store)

    assert RAN == ["the trap"]


def test_signed_entry_that_was_not_changed_runs(store, signed):
    signed()

    run_all(store, secret=SECRET)

    assert RAN == [1]


def test_signed_entry_is_json_and_survives_it(store, signed):
    store["it"] = json.loads(json.dumps(signed()))

    run_all(store, secret=SECRET)

    assert RAN == [1]


def test_signed_entry_under_another_key_runs_nothing(store, signed):
    store["other"] = signed()
    del store["it"]

    run_all(store, secret=SECRET)

    assert "BadSignature" in store["other"]["error"]
    assert RAN == []


@pytest.mark.parametrize(("written", "read"), [(None, SECRET), (SECRET, None), (SECRET, "other")])
def test_entry_of_a_writer_with_another_secret_runs_nothing(store, written, read):
    StoreTaskWriter(ran, store, 1, pickle_func=True, secret=written)(task_id="it")

    run_all(store, secret=read)

    assert store["it"]["task_status"] == "error"
    assert "BadSignature" in store["it"]["error"]
    assert RAN == []


@pytest.mark.parametrize("field", ["result", "task_status", "error", "exception"])
def test_signed_end_that_was_changed_is_not_believed(store, field):
    writer = StoreTaskWriter(double, store, pickle_func=True, secret=SECRET)
    key = writer(4)
    run_all(store, secret=SECRET)
    assert writer.result == 8

    store[key] = {**store[key], field: "error" if field == "task_status" else 9}

    with pytest.raises(errors.BadSignature, match="expected the end of entry"):
        _ = writer.result


def test_empty_secret_is_refused(store):
    with pytest.raises(errors.ConfigError, match="expected a secret word"):
        StoreTaskReader(store, secret=" ")


def test_signatures_without_their_package_are_refused_with_the_extra_to_install():
    program = """
import sys
sys.modules["itsdangerous"] = None
from tgext.asyncjob.errors import MissingExtra
from tgext.asyncjob.taskrunners import StoreTaskReader, StoreTaskWriter
store = {}
reader = StoreTaskReader(store)
writer = StoreTaskWriter(len, store, pickle_func=True)
writer([1, 2])
reader.run_pending()
print(writer.result)
for attempt in (
    lambda: StoreTaskReader(store, secret="x"),
    lambda: StoreTaskWriter(lambda: 1, store, pickle_func=True)(),
):
    try:
        attempt()
    except MissingExtra as error:
        print(error.extra)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout.split(), done.stderr) == (["2", "store", "store"], "")


# -- callbacks, and the reader that a writer starts


@pytest.mark.parametrize("secret", [None, SECRET])
def test_callbacks_are_stored_with_a_pickled_function(store, secret):
    StoreTaskWriter(join, store, pickle_func=True, secret=secret, on_iter=ran, on_end=ran)(1, 2)

    run_all(store, secret=secret)

    assert RAN == [1, 2, (1, 2)]


def test_error_that_a_callback_was_told_of_is_marked_too(store):
    key = StoreTaskWriter(fail, store, pickle_func=True, on_error=ran)()

    run_all(store)

    assert store[key]["task_status"] == "error"
    assert [type(error) for error in RAN] == [LookupError]


@pytest.fixture
def stops() -> Iterator[list[Any]]:
    """Writers whose readers are stopped when the test ends."""
    writers: list[Any] = []
    yield writers
    for writer in writers:
        writer.reader.stop()


def test_read_store_is_read_from_the_start_by_the_names_of_the_functions(store, stops):
    ended = threading.Event()
    offset = 10

    @as_task("store", store=store, read_store=store, on_end=lambda result: ended.set())
    def add(number: int) -> int:
        return number + offset

    stops.append(add)
    key = add(5)

    assert ended.wait(PATIENCE_SECONDS)
    add.reader.stop()
    assert store[key]["result"] == 15


def test_two_functions_may_read_one_store(store, stops):
    writers = [
        StoreTaskWriter(function, store, read_store=store) for function in (double, give_lock, join)
    ]
    stops.extend(writers)

    assert writers[0].submit(4).result(PATIENCE_SECONDS) == 8
    assert writers[2].submit(4).result(PATIENCE_SECONDS) == (4,)


def test_reader_of_ones_own_may_be_given_as_read_store(store, stops):
    reader = StoreTaskReader(store, lambda entry: join, poll_seconds=0.01, threads=2)
    writer = StoreTaskWriter(double, store, read_store=reader)
    stops.append(writer)

    assert writer.reader is reader
    assert writer.submit(4).result(PATIENCE_SECONDS) == (4,)


# -- listen and stop


def readers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if "store-reader" in each.name]


def test_listening_twice_is_listening_once(store):
    reader = StoreTaskReader(store)
    reader.listen()
    reader.listen()

    assert len(readers()) == 1
    assert not readers()[0].daemon
    assert reader.stop(PATIENCE_SECONDS)
    assert readers() == []


def test_reader_that_was_stopped_may_listen_again(store):
    reader = StoreTaskReader(store, poll_seconds=0.01)
    reader.listen()
    reader.stop()

    with reader:
        writer = StoreTaskWriter(double, store, pickle_func=True)
        assert writer.submit(2).result(PATIENCE_SECONDS) == 4


def test_stop_waits_for_the_task_that_runs_and_takes_no_other(store, gate):
    reader = StoreTaskReader(store, lambda entry: gate.enter, poll_seconds=0.01)
    writer = StoreTaskWriter(double, store)
    first, second = writer(), writer()
    reader.listen()
    gate.wait_for(1)

    assert reader.stop(timeout=0.05) is False
    gate.open()
    assert reader.stop(PATIENCE_SECONDS) is True

    statuses = {store[first]["task_status"], store[second]["task_status"]}
    assert statuses == {"complete", "new"}


def test_stop_without_listening_is_no_error(store):
    assert StoreTaskReader(store).stop() is True


def test_task_may_stop_its_own_reader(store):
    reader = StoreTaskReader(store, lambda entry: reader.stop, poll_seconds=0.01)
    reader.listen()

    assert StoreTaskWriter(double, store).submit().result(PATIENCE_SECONDS) is False
    assert reader.stop(PATIENCE_SECONDS)


# -- several processes


@pytest.mark.slow
def test_processes_that_claim_on_the_server_run_each_task_once(redis_store):  # noqa: F811
    program = "import sys, stores; stores.read_until_told(*sys.argv[1:])"
    command = [sys.executable, "-c", program, redis_store.prefix, SECRET]
    folder = str(Path(__file__).parent)
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder)
        for _ in range(2)
    ]
    try:
        writer = StoreTaskWriter(record_run, redis_store, pickle_func=True, secret=SECRET)
        ends = [writer.submit(redis_store.prefix, number) for number in range(60)]
        pids = [end.result(PATIENCE_SECONDS) for end in ends]
    finally:
        messages = [process.communicate(timeout=PATIENCE_SECONDS) for process in processes]

    assert [message for _, message in messages] == [b"", b""]
    assert set(pids) <= {process.pid for process in processes}
    runs = [redis_store.client.get(f"runs:{redis_store.prefix}{number}") for number in range(60)]
    assert runs == [b"1"] * 60


# -- TaskDispatcher


def test_dispatcher_waits_for_what_it_has_stored(store):
    with StoreTaskReader(store, poll_seconds=0.01):
        dispatcher = TaskDispatcher("store")
        dispatcher.enqueue(double, store, pickle_func=True, args=[4])
        dispatcher.enqueue(fail, store=store, pickle_func=True)

        dispatcher.run(PATIENCE_SECONDS)

    assert dispatcher.results == [8, None]
    assert dispatcher.status == ["success", "error"]


def test_dispatcher_says_that_nobody_reads_its_store(store, caplog):
    dispatcher = TaskDispatcher("store")
    dispatcher.enqueue(double, store, args=[4])

    with pytest.raises(errors.NoReader, match=r"but none did within 0\.1 s; start one"):
        dispatcher.run(timeout=0.1)

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    store.clear()  # so that nobody waits for it any more


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None])
@pytest.mark.parametrize("name", ["poll_seconds", "threads"])
def test_bound_of_a_reader_that_is_none_is_refused(store, name, value):
    with pytest.raises(errors.ConfigError, match=f"{name}: expected a number above 0"):
        StoreTaskReader(store, **{name: value})


@pytest.mark.parametrize("name", ["poll_seconds", "claim_timeout"])
def test_bound_of_a_store_executor_that_is_none_is_refused(store, name):
    with pytest.raises(errors.ConfigError, match=f"{name}: expected a number above 0"):
        StoreExecutor(store, **{name: float("nan")})


class Nightly(StoreTaskWriter):
    """Writes under a key of its own, and returns nothing, as strand's does."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        super().__call__(*args, task_id="tonight", **kwargs)


def test_dispatcher_calls_a_subclass_of_the_writer(store):
    dispatcher = TaskDispatcher(Nightly)
    dispatcher.enqueue(double, store, args=[21])
    with StoreTaskReader(store, get_task_func=lambda _: double):
        dispatcher.run(PATIENCE_SECONDS)

    assert dispatcher.results == [42]
    assert list(store) == ["tonight"]
