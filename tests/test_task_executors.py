"""Where the attempts of a task run: ``@task(executor=...)``.

The processes are real ones. They are met at a barrier (``barrier.py``), killed by their pid, and
nothing of them may be left when a test ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import event, text
from transaction.interfaces import TransientError

from barrier import Barrier, wait_at
from databases import SERVERS
from sqlchildren import ForkServer
from sqlqueues import PREFIX, PREFIX_VARIABLE, Effect, Place, place_of
from tgext.asyncjob import (
    JobQueue,
    TaskContext,
    asyncjob_perform,
    asyncjob_running_uid,
    asyncjob_session,
    asyncjob_set_progress,
    asyncjob_track,
    task,
)
from tgext.asyncjob.errors import (
    ConfigError,
    JobTimeout,
    NotInJob,
    NotSerializable,
    WorkerCrashed,
)
from tgext.asyncjob.executors import CoroutineExecutor, LoopPoolExecutor, ProcessExecutor
from tgext.asyncjob.task_options import TaskOptions

PATIENCE_SECONDS = 20.0

#: Longest that an order (a timeout, a drain) may take to end a process that does not care. The
#: machinery takes half a second.
BOUND_SECONDS = 5.0

log = logging.getLogger("shop")


# -- tasks


class Unreadable(Exception):
    """One that pickle takes, and cannot make again."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)


class Refused(Exception):
    """An application's own."""


class Unsendable:
    """A value that no other process can be given."""

    def __reduce__(self) -> Any:
        raise TypeError("not for sale")


def write(text: str) -> None:
    asyncjob_session().add(Effect(text=text))


@task(executor="process")
def whereabouts(*_args: Any) -> tuple[int, str]:
    return os.getpid(), threading.current_thread().name


@task(executor="process")
def write_apart(text: str) -> str:
    write(text)
    return text.upper()


@task(executor="process")
def write_and_refuse(text: str) -> None:
    write(text)
    asyncjob_perform(write_apart, f"{text} follow-up")
    raise Refused(f"after {text}")


@task(executor="process")
def write_and_order(text: str) -> None:
    write(text)
    asyncjob_perform(write_apart, f"{text} follow-up")


@task(executor="process")
def order_nameless() -> str:
    write("work")
    try:
        asyncjob_perform(lambda: None)
    except NotSerializable as error:
        return str(error)
    return "taken"


@task(executor="process")
def write_and_die_after_the_commit(text: str) -> None:
    write(text)
    event.listen(asyncjob_session(), "after_commit", lambda _session: os._exit(9))


@task(executor="process")
def report_and_wait(path: str) -> None:
    asyncjob_set_progress(3, {"of": "apples"}, total=9)
    wait_at(path)
    write("went on")
    asyncjob_set_progress(4)


@task(executor="process")
def track_and_wait(path: str) -> None:
    for number in asyncjob_track(range(5)):
        if number == 2:
            wait_at(path)


@task(executor="process")
def wait_once(path: str) -> int:
    wait_at(path)
    return os.getpid()


@task(executor="process", timeout=0.5)
def wait_too_long(path: str) -> None:
    write("before the barrier")
    wait_at(path)


@task(executor="process")
def write_and_wait(path: str) -> None:
    write("too late")
    asyncjob_session().flush()
    wait_at(path)


@task(executor="process", timeout=0.5)
def wait_and_keep_the_interpreter(path: str) -> None:
    wait_at(path)
    ctypes.PyDLL(None).sleep(60)  # as a loop in C that never lets go of it


@task(executor="process", timeout=0.5)
def wait_in_the_commit(path: str) -> None:
    write("nearly")
    event.listen(asyncjob_session()(), "before_commit", lambda _session: wait_at(path))


MOMENTS = ("at once", "after the work", "in the commit", "after the commit")


@task(executor="process")
def write_and_be_killed(text: str, moment: str, folder: str) -> None:
    """Be killed at that moment of the first attempt."""
    mark = Path(folder, text)
    is_first = not mark.exists()
    mark.touch()

    def kill(now: str) -> None:
        if is_first and now == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    kill("at once")
    write(text)
    session = asyncjob_session()
    session.flush()
    event.listen(session(), "before_commit", lambda _session: kill("in the commit"))
    event.listen(session(), "after_commit", lambda _session: kill("after the commit"))
    kill("after the work")


@task(executor="process", timeout=0.2)
def write_and_wait_after_the_commit(path: str) -> None:
    write("work")
    event.listen(asyncjob_session()(), "after_commit", lambda _session: wait_at(path))


_tries: list[str] = []


@task(executor="process", timeout=0.5)
def wait_in_a_commit_that_fails(path: str) -> None:
    """And once more when it is tried again."""

    def refuse(_session: Any) -> None:
        wait_at(path)
        raise TransientError("a deadlock, say")

    _tries.append(path)
    if len(_tries) == 2:
        wait_at(path)
    write("work")
    event.listen(asyncjob_session()(), "before_commit", refuse)


@task(executor="process", timeout=0.5)
def lock_and_sleep_in_the_database() -> None:
    session = asyncjob_session()
    session.execute(text(f"LOCK TABLE {Effect.__tablename__} IN ACCESS EXCLUSIVE MODE"))
    session.execute(text("SELECT pg_sleep(60)"))


@task(executor="process", timeout=0.5)
def turn_until_told(folder: str) -> None:
    try:
        while True:
            pass
    except JobTimeout:
        Path(folder, "tidied up").touch()
        raise


@task(executor="process")
def die(how: str) -> None:
    if how == "exit":
        os._exit(7)
    if how == "segfault":
        faulthandler.disable()  # pytest's, which prints pages
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


@task(executor="process")
def die_at_first(folder: str) -> str:
    mark = Path(folder, "has died")
    if mark.exists():
        return "lives"
    mark.touch()
    os._exit(1)


@task(executor="process", takes_context=True, max_attempts=3, backoff=lambda attempt: 0)
def third_time(context: TaskContext) -> tuple[int, str]:
    if context.attempt < 3:
        raise Refused(f"attempt {context.attempt}")
    return context.attempt, context.task_result.id


@task(executor="process")
def return_unsendable() -> Unsendable:
    return Unsendable()


@task(executor="process", max_attempts=2, backoff=0)
def write_and_return_unreadable(text: str) -> Unreadable:
    write(text)
    return Unreadable(text, 1)


@task(executor="process")
def speak() -> None:
    log.warning("heard of %s", asyncjob_running_uid())


@task(executor="process")
async def sleep_and_tell() -> int:
    await asyncio.sleep(0)
    return os.getpid()


@task(executor="process")
def spawn_program() -> int:
    """A program that the job starts must hear SIGTERM."""
    return os.spawnlp(os.P_WAIT, "sh", "sh", "-c", "kill -TERM $$; exit 3")


# -- queues


@dataclass
class Shop:
    """A queue, and the database that its jobs write to."""

    place: Place
    make: Callable[..., JobQueue]

    def open(self, threads: int = 2, **options: Any) -> JobQueue:
        """Make the queue, and start its worker if it has threads."""
        queue = self.make(threads=threads, **options)
        if threads:
            queue.start_worker()
        return queue

    def written(self) -> list[str]:
        return [text for text, _ in self.place.written()]


def with_servers_slow(*kinds: str) -> list[Any]:
    """The parameters of a test: make fast leaves out those that need a server."""
    slow = pytest.mark.slow
    return [pytest.param(kind, marks=slow) if kind in SERVERS else kind for kind in kinds]


def on(*kinds: str) -> Any:
    """Run a test on some of them only."""
    return pytest.mark.parametrize("place", with_servers_slow(*kinds), indirect=True)


IN_MEMORY, ON_A_SERVER = on("memory"), on("postgresql")
DURABLE = on("sqlite", "postgresql", "mariadb")


@pytest.fixture(scope="module", params=with_servers_slow("memory", "sqlite", "postgresql"))
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kind = request.param.replace("memory", "sqlite")
    with place_of(kind, tmp_path_factory.mktemp("shop")) as made:
        made.is_durable = request.param != "memory"
        yield made


@pytest.fixture
def shop(place: Any) -> Iterator[Shop]:
    opened: list[JobQueue] = []

    def in_memory(**options: Any) -> JobQueue:
        opened.append(JobQueue(session=place.Session, **{"drain_timeout": 5, **options}))
        return opened[-1]

    before = _children()
    yield Shop(place, place.queue if place.is_durable else in_memory)
    for queue in opened:
        queue.close()
    place.close_queues()
    place.empty()
    assert _children() <= before, "a process is left behind"


def _children(of: int | str = "self") -> set[int]:
    """The processes below one; psutil would read those of the whole machine."""
    found: set[int] = set()
    for listed in Path(f"/proc/{of}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            found.update(map(int, listed.read_text().split()))
    return found.union(*map(_children, found))


@pytest.fixture
def barrier(tmp_path: Path) -> Iterator[Barrier]:
    """Ask for it before the queue."""
    made = Barrier(tmp_path)
    yield made
    made.close()


def until(holds: Callable[[], Any]) -> None:
    """Wait for what nothing tells of."""
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def ended(result: Any) -> Any:
    return result.wait(PATIENCE_SECONDS)


# -- in a process: what comes back


def test_a_task_runs_in_a_process_of_its_own_which_ends_with_it(shop):
    with shop.open() as queue, queue.as_current():
        first, second = ended(whereabouts.enqueue()), ended(whereabouts.enqueue())

    pids = {first.return_value[0], second.return_value[0]}
    assert len(pids | {os.getpid()}) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_an_exception_comes_back_with_its_class_and_traceback(shop):
    with shop.open() as queue, queue.as_current():
        result = ended(write_and_refuse.enqueue("plum"))

    [error] = result.errors
    assert result.status == "FAILED"
    assert error.exception_class is Refused
    assert error.message == "after plum"
    assert error.traceback.splitlines()[1].strip().endswith("in write_and_refuse")


def test_what_a_failed_process_wrote_and_enqueued_never_was(shop):
    with shop.open(threads=0) as queue, queue.as_current():
        write_and_refuse.enqueue("plum")
        ran = queue.run_pending()

    assert ran == 1
    assert shop.written() == []


def test_what_a_process_wrote_and_enqueued_is_there_with_its_end(shop):
    with shop.open(threads=0) as queue, queue.as_current():
        write_and_order.enqueue("plum")
        ran = queue.run_pending()

    assert ran == 2
    assert shop.written() == ["plum", "plum follow-up"]


@IN_MEMORY
def test_a_process_cannot_enqueue_on_memory_what_cannot_be_sent_to_the_worker(shop):
    with shop.open(threads=0) as queue, queue.as_current():
        result = order_nameless.enqueue()
        assert queue.run_pending() == 1
        result.refresh()

    assert "cannot be pickled" in result.return_value
    assert shop.written() == ["work"]


@DURABLE
def test_the_mark_is_committed_with_the_work_by_the_process_itself(shop):
    with shop.open() as queue, queue.as_current():
        result = ended(write_and_die_after_the_commit.enqueue("plum"))

    assert result.status == "SUCCESSFUL"
    assert shop.written() == ["plum"]


@IN_MEMORY
def test_a_process_that_dies_after_its_commit_is_a_crash_on_memory(shop):
    with shop.open(max_crashes=2) as queue, queue.as_current():
        result = ended(write_and_die_after_the_commit.enqueue("plum"))

    assert result.status == "FAILED"
    assert shop.written() == ["plum", "plum"]  # at least once


@DURABLE
def test_a_process_that_dies_after_its_commit_has_done_its_job(caplog, shop):
    removed: list[str] = []
    tracker = Recording()
    tracker.remove = removed.append  # type: ignore[method-assign]
    with shop.open(progress_tracker=tracker) as queue, queue.as_current():
        result = ended(write_and_die_after_the_commit.enqueue("plum"))

    assert (result.status, result.errors, removed) == ("SUCCESSFUL", [], [result.id])
    assert "waits again" not in caplog.text
    assert "lease lost" not in caplog.text


def test_a_task_that_is_retried_has_its_own_backoff_and_context(shop):
    with shop.open() as queue, queue.as_current():
        result = ended(third_time.enqueue())

    assert tuple(result.return_value) == (3, result.id)
    assert [error.message for error in result.errors] == ["attempt 1", "attempt 2"]


def test_run_pending_runs_tasks_in_processes_too(shop):
    with shop.open(threads=0) as queue, queue.as_current():
        result = write_apart.enqueue("plum")
        assert queue.run_pending() == 1
        result.refresh()

    assert result.return_value == "PLUM"


def test_a_coroutine_function_runs_in_a_process(shop):
    with shop.open() as queue, queue.as_current():
        assert ended(sleep_and_tell.enqueue()).return_value != os.getpid()


def test_log_lines_of_a_process_are_kept_and_name_the_job(shop):
    with shop.open() as queue, queue.as_current():
        result = ended(speak.enqueue())

    assert result.log == [f"WARNING shop: heard of {result.id}"]


def test_a_result_that_cannot_be_sent_does_not_undo_the_work(shop):
    with shop.open() as queue, queue.as_current():
        result = ended(return_unsendable.enqueue())

    assert result.status == "SUCCESSFUL"
    with pytest.raises(NotSerializable):
        _ = result.return_value


def test_a_result_that_cannot_be_read_does_not_undo_the_work(shop):
    with shop.open() as queue, queue.as_current():
        result = ended(write_and_return_unreadable.enqueue("fig"))

    assert (result.status, result.attempts) == ("SUCCESSFUL", 1)
    assert shop.written() == ["fig"]
    with pytest.raises(NotSerializable, match="Unreadable"):
        _ = result.return_value


def test_a_program_that_a_process_starts_hears_sigterm(shop):
    with shop.open() as queue, queue.as_current():
        assert ended(spawn_program.enqueue()).return_value == -signal.SIGTERM


# -- in a process: progress and cancellation


def test_progress_of_a_process_is_seen_while_it_runs(barrier, shop):
    with shop.open() as queue, queue.as_current():
        result = report_and_wait.enqueue(barrier.path)
        waiting = barrier.arrival()
        until(lambda: queue.progress(result.id) == (3, {"of": "apples"}))
        result.refresh()
        assert result.status == "RUNNING"
        assert result.progress.total == 9
        waiting.release()
        ended(result)

    assert result.progress.value == 4
    assert shop.written() == ["went on"]


def test_tracked_loop_in_a_process_reports_each_item(barrier, shop):
    with shop.open() as queue, queue.as_current():
        result = track_and_wait.enqueue(barrier.path)
        waiting = barrier.arrival()
        until(lambda: queue.progress(result.id) == (2, None))
        waiting.release()
        ended(result)

    assert tuple(result.progress) == (5, None, 5)


def test_cancellation_ends_a_process_at_its_checkpoint(barrier, shop):
    with shop.open() as queue, queue.as_current():
        result = report_and_wait.enqueue(barrier.path)
        waiting = barrier.arrival()
        assert result.cancel()
        waiting.release()
        ended(result)

    assert result.status == "CANCELLED"
    assert shop.written() == []


class Recording:
    """A progress tracker that lives in the worker's process alone."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def track(self, uid: str) -> None:
        self.heard.append("track")

    def set_progress(self, uid: str, value: int, data: Any) -> None:
        self.heard.append((value, data))

    def get_progress(self, uid: str) -> Any:
        return None

    def remove(self, uid: str) -> None:
        self.heard.append("remove")


def test_progress_tracker_hears_of_a_process_in_the_workers_own(barrier, shop):
    tracker = Recording()
    with (
        shop.open(progress_tracker=tracker)
        if not shop.place.is_durable
        else JobQueue(
            "sql", shop.place.Session, progress_tracker=tracker, table_prefix=PREFIX
        ) as queue,
        queue.as_current(),
    ):
        queue.start_worker()
        result = report_and_wait.enqueue(barrier.path)
        barrier.arrival().release()
        ended(result)
        until(lambda: "remove" in tracker.heard)

    assert tracker.heard == ["track", (3, {"of": "apples"}), (4, None), "remove"]


# -- in a process: timeouts


def test_a_process_that_hangs_is_killed_by_its_timeout_and_its_slot_goes_on(barrier, shop):
    with shop.open(threads=1) as queue, queue.as_current():
        result = wait_too_long.enqueue(barrier.path)
        waiting = barrier.arrival()
        waiting.wait_for_end()
        killed_at = time.monotonic()
        ended(result)
        after = ended(write_apart.enqueue("next"))

    assert time.monotonic() - killed_at < BOUND_SECONDS
    assert result.status == "FAILED"
    assert result.errors[-1].exception_class is JobTimeout
    assert "in wait_too_long" in result.errors[-1].traceback
    assert after.status == "SUCCESSFUL"
    assert shop.written() == ["next"]


def test_a_timeout_disturbs_no_other_process(barrier, shop):
    with shop.open(threads=2) as queue, queue.as_current():
        other = wait_once.enqueue(barrier.path)
        patient = barrier.arrival()
        hanging = wait_too_long.enqueue(barrier.path)
        barrier.arrival().wait_for_end()
        ended(hanging)
        patient.release()
        ended(other)

    assert other.return_value == patient.pid
    assert hanging.status == "FAILED"


def test_a_process_that_hears_of_its_timeout_may_tidy_up(tmp_path, shop):
    with shop.open() as queue, queue.as_current():
        result = ended(turn_until_told.enqueue(str(tmp_path)))

    assert result.errors[-1].exception_class is JobTimeout
    assert (tmp_path / "tidied up").exists()


@IN_MEMORY
def test_a_process_is_not_killed_after_its_commit_to_another_database(barrier, tmp_path, shop):
    """Than that of the jobs, whose commit carries no mark."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    with JobQueue("sql", shop.place.Session, url=url, threads=1) as queue, queue.as_current():
        queue.start_worker()
        result = write_and_wait_after_the_commit.enqueue(barrier.path)
        waiting = barrier.arrival()
        [thread] = queue.local_worker._last._threads
        attempt = thread.attempt
        until(lambda: attempt._killing is not None and not attempt._killing.is_alive())
        waiting.release()
        ended(result)

    assert (result.status, result.errors) == ("SUCCESSFUL", [])
    assert shop.written() == ["work"]


@IN_MEMORY
def test_a_timeout_that_came_in_a_commit_ends_the_next_try(barrier, shop):
    with shop.open(threads=1) as queue, queue.as_current():
        result = wait_in_a_commit_that_fails.enqueue(barrier.path)
        in_commit = barrier.arrival()
        [thread] = queue.local_worker._last._threads
        attempt = thread.attempt
        until(lambda: attempt._killing is not None and not attempt._killing.is_alive())
        in_commit.release()
        again = barrier.arrival()
        again.wait_for_end()
        ended(result)

    assert [error.exception_class for error in result.errors] == [JobTimeout]
    assert shop.written() == []


def test_a_process_that_keeps_the_interpreter_is_killed_by_its_timeout(barrier, shop):
    with shop.open() as queue, queue.as_current():
        result = wait_and_keep_the_interpreter.enqueue(barrier.path)
        waiting = barrier.arrival()
        waiting.release()
        waiting.wait_for_end()
        ended(result)

    assert result.errors[-1].exception_class is JobTimeout


@IN_MEMORY
def test_a_process_that_commits_is_not_killed_where_only_it_knows_how_that_goes(barrier, shop):
    with shop.open(threads=1) as queue, queue.as_current():
        result = wait_in_the_commit.enqueue(barrier.path)
        waiting = barrier.arrival()
        [thread] = queue.local_worker._last._threads
        until(lambda: thread.attempt._killing and thread.attempt._killing.finished.is_set())
        waiting.release()
        ended(result)

    assert result.status == "SUCCESSFUL"
    assert shop.written() == ["nearly"]


@DURABLE
def test_a_process_that_hangs_in_its_commit_is_killed_by_its_timeout(barrier, shop):
    with shop.open() as queue, queue.as_current():
        result = wait_in_the_commit.enqueue(barrier.path)
        barrier.arrival().wait_for_end()
        ended(result)

    assert result.errors[-1].exception_class is JobTimeout
    assert shop.written() == []


@ON_A_SERVER
def test_a_timeout_lets_go_of_what_the_process_has_locked_on_the_server(shop):
    with shop.open() as queue, queue.as_current():
        result = ended(lock_and_sleep_in_the_database.enqueue())
        begun_at = time.monotonic()
        assert shop.written() == []

    assert time.monotonic() - begun_at < BOUND_SECONDS
    assert result.errors[-1].exception_class is JobTimeout


def test_a_timeout_kills_a_process_of_run_pending_too(barrier, shop):
    with shop.open(threads=0) as queue, queue.as_current():
        result = wait_too_long.enqueue(barrier.path)
        queue.run_pending()
        result.refresh()

    barrier.arrival().wait_for_end()
    assert result.errors[-1].exception_class is JobTimeout
    assert shop.written() == []


# -- in a process: deaths


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "ended with exit code 7"),
        ("segfault", "was ended by SIGSEGV"),
        ("kill", "was ended by SIGKILL"),
    ],
)
def test_a_process_that_dies_is_a_crash_of_its_job(shop, how, said):
    with shop.open(max_crashes=2) as queue, queue.as_current():
        result = ended(die.enqueue(how))
        after = ended(write_apart.enqueue("next"))

    assert result.status == "FAILED"
    assert [error.exception_class for error in result.errors] == [WorkerCrashed] * 2
    assert all(said in error.message for error in result.errors)
    assert after.status == "SUCCESSFUL"


def test_a_crash_costs_no_attempt(tmp_path, shop):
    with shop.open() as queue, queue.as_current():
        result = ended(die_at_first.enqueue(str(tmp_path)))

    assert result.return_value == "lives"
    assert result.attempts == 1
    assert [error.exception_class for error in result.errors] == [WorkerCrashed]


def test_a_crash_disturbs_no_other_process(barrier, shop):
    with shop.open(max_crashes=1) as queue, queue.as_current():
        other = wait_once.enqueue(barrier.path)
        patient = barrier.arrival()
        ended(die.enqueue("kill"))
        patient.release()

        assert ended(other).return_value == patient.pid


@pytest.mark.slow
@DURABLE
def test_processes_killed_at_any_moment_leave_the_work_of_each_job_once(tmp_path, shop):
    texts = [f"{moment}, {number}" for moment in MOMENTS for number in range(3)]
    with shop.open(threads=3) as queue, queue.as_current():
        results = [
            write_and_be_killed.enqueue(text, text.partition(",")[0], str(tmp_path))
            for text in texts
        ]
        for result in results:
            ended(result)

    assert {result.status for result in results} == {"SUCCESSFUL"}
    assert shop.written() == sorted(texts)
    crashed = [result.args[1] for result in results if result.errors]
    assert crashed == [moment for moment in MOMENTS[:3] for _ in range(3)]


@on("postgresql", "mariadb")  # on SQLite nobody can take over from one that has written
def test_a_process_whose_job_is_another_worker_s_by_now_commits_nothing(barrier, shop):
    jobs = shop.place.tables.jobs
    with shop.open(threads=1) as queue, queue.as_current():
        write_and_wait.enqueue(barrier.path)
        waiting = barrier.arrival()
        with shop.place.engine.begin() as connection:
            connection.execute(jobs.update().values(lease=jobs.c.lease + 1))
        waiting.release()
        waiting.wait_for_end()

    assert shop.written() == []


def test_jobs_go_on_after_the_death_of_what_starts_their_processes(barrier, shop):
    with shop.open() as queue, queue.as_current():
        result = wait_once.enqueue(barrier.path)
        waiting = barrier.arrival()
        os.kill(psutil.Process(waiting.pid).ppid(), signal.SIGKILL)
        waiting.wait_for_end()
        again = barrier.arrival()
        again.release()
        ended(result)

    assert result.return_value == again.pid
    assert [error.exception_class for error in result.errors] == [WorkerCrashed]


@IN_MEMORY
def test_processes_start_where_a_server_has_many_connections_open(shop):
    """More than the 1024 descriptors that ``select`` can wait for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    many: list[int] = []
    try:
        while not many or many[-1] < 1100:
            many.append(os.open(os.devnull, os.O_RDONLY))
        with shop.open() as queue, queue.as_current():
            result = ended(whereabouts.enqueue())
    finally:
        for each in many:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert result.status == "SUCCESSFUL"


@IN_MEMORY
def test_a_server_s_client_hears_that_its_connection_was_closed(shop):
    """Where the first job in a process came while the connection was open."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), PATIENCE_SECONDS) as client,
    ):
        connection, _ = server.accept()
        with shop.open() as queue, queue.as_current():
            ended(whereabouts.enqueue())
            connection.close()

            assert client.recv(1) == b""


@IN_MEMORY
def test_a_job_waits_where_no_process_can_be_started_for_it(shop):
    """As where there are no descriptors left for a moment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with shop.open(threads=0, max_crashes=2) as queue, queue.as_current():
        whereabouts.enqueue()
        queue.run_pending()
        result = whereabouts.enqueue()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            ran = queue.run_pending()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        result.refresh()

    assert (ran, result.status) == (1, "READY")
    assert "Too many open files" in result.errors[0].message


# -- in a process: the worker's end


def test_a_process_that_does_not_end_within_the_drain_is_killed_and_its_job_waits(barrier, shop):
    queue = shop.open(threads=1, drain_timeout=0)
    with queue.as_current():
        result = wait_once.enqueue(barrier.path)
    waiting = barrier.arrival()

    queue.close()

    waiting.wait_for_end()
    if shop.place.is_durable:
        with shop.open(threads=0) as other:
            found = other.result(result.id)
            assert (found.status, found.attempts, found.errors) == ("READY", 0, [])


def test_a_process_may_end_within_the_drain(barrier, shop):
    queue = shop.open(threads=1)
    with queue.as_current():
        result = wait_once.enqueue(barrier.path)
    waiting = barrier.arrival()
    closing = threading.Thread(target=queue.close)
    closing.start()

    # As to the whole group of processes, by a terminal or a service manager.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(waiting.pid, number)
        os.kill(psutil.Process(waiting.pid).ppid(), number)
    waiting.release()

    closing.join(PATIENCE_SECONDS)
    if shop.place.is_durable:
        with shop.open(threads=0) as other:
            assert other.result(result.id).return_value == waiting.pid


@DURABLE
def test_a_process_killed_after_its_worker_was_told_to_stop_is_no_crash(barrier, shop):
    queue = shop.open(threads=1, drain_timeout=60)
    with queue.as_current():
        result = wait_once.enqueue(barrier.path)
    waiting = barrier.arrival()
    closing = threading.Thread(target=queue.close)
    closing.start()
    until(lambda: queue.local_worker._last._stopping.is_set())

    os.kill(waiting.pid, signal.SIGKILL)

    closing.join(PATIENCE_SECONDS)
    with shop.open(threads=0) as other:
        found = other.result(result.id)
        assert (found.status, found.errors) == ("READY", [])


@DURABLE
def test_the_worker_speaks_for_its_processes(barrier, shop):
    lease = 1
    with shop.open(threads=1, lease=lease) as queue, queue.as_current():
        result = wait_once.enqueue(barrier.path)
        waiting = barrier.arrival()
        other = shop.place.other_queue(lease=lease)
        over = time.monotonic() + 1.5 * lease
        until(lambda: other.backend.rescue() or time.monotonic() > over)
        waiting.release()
        ended(result)

    assert result.return_value == waiting.pid
    assert result.errors == []


def work_apart(url: str, path: str) -> None:
    """Be a worker process whose one job runs in a process."""
    options = {"table_prefix": PREFIX, "secret": "swordfish"}
    with JobQueue("sql", url=url, **options) as queue, queue.as_current():
        wait_once.enqueue(path)
        queue.start_worker()
        threading.Event().wait(PATIENCE_SECONDS)


@pytest.mark.slow
@on("sqlite", "postgresql")  # of one kind of servers: what is looked at are processes
def test_the_death_of_a_worker_leaves_no_process_and_its_job_to_others(barrier, shop):
    with ForkServer("test_task_executors", **{PREFIX_VARIABLE: PREFIX}) as fork_server:
        worker = fork_server.start(
            "test_task_executors:work_apart", url=shop.place.url, path=barrier.path
        )
        waiting = barrier.arrival()
        parent = psutil.Process(psutil.Process(waiting.pid).ppid())

        os.kill(worker, signal.SIGKILL)

        waiting.wait_for_end()
        assert fork_server.wait(worker) == -signal.SIGKILL
        psutil.wait_procs([parent], timeout=PATIENCE_SECONDS)
        assert not parent.is_running()
    with shop.open():
        again = barrier.arrival()
        again.release()
        until(lambda: [row.crashes for row in shop.place.jobs()] == [1])


# -- in a process: what cannot go there


def test_a_function_that_a_process_cannot_find_is_refused_where_it_is_declared():
    def local() -> None: ...

    with pytest.raises(ConfigError, match=r"expected a module-level function, got .*<locals>"):
        task(executor="process")(local)
    with pytest.raises(ConfigError, match="expected a module-level function"):
        task(local).using(executor="process")


def test_a_call_that_cannot_be_handed_to_a_process_is_refused_at_enqueue(shop):
    with shop.open(threads=0) as queue, queue.as_current():
        with pytest.raises(NotSerializable, match=r"cannot be pickled .*give it a module"):
            whereabouts.enqueue(threading.Lock())
        assert queue.run_pending() == 0


def test_a_function_that_came_after_the_processes_were_prepared_fails_with_its_name(
    shop, monkeypatch
):
    with shop.open(threads=0, max_crashes=1) as queue, queue.as_current():
        whereabouts.enqueue()
        assert queue.run_pending() == 1
        late = types.FunctionType(double_plainly.__code__, globals(), "came_late")
        late.__qualname__ = "came_late"
        monkeypatch.setattr(sys.modules[__name__], "came_late", late, raising=False)
        result = task(executor="process")(late).enqueue(4)
        assert queue.run_pending() == 1
        result.refresh()

    assert result.status == "FAILED"
    assert "came_late" in result.errors[0].message


@on("sqlite")
def test_no_process_is_forked_while_a_connection_to_sqlite_is_in_use(shop):
    with shop.open(threads=0) as queue:
        with shop.place.engine.connect():
            during = queue._database.may_fork()
        after = queue._database.may_fork()

    assert (during, after) == (False, True)


@on("sqlite")
def test_no_process_is_forked_while_jobs_are_written(shop):
    """By another thread, also before this process listens for jobs."""
    with shop.open(threads=0) as queue:
        dialect = queue.backend._dialect
        with dialect.begin():
            while_claiming = queue._database.may_fork()
        with dialect.side_database.connect():
            while_beating = queue._database.may_fork()
        after = queue._database.may_fork()

    assert (while_claiming, while_beating, after) == (False, False, True)


@on("sqlite")
def test_a_nursery_that_was_forked_while_another_thread_wrote_is_not_kept(shop, monkeypatch):
    """It would find the database locked for ever: SQLite keeps its locks in the process."""
    with shop.open(threads=0) as queue, queue.as_current():
        fork, tries = queue._fork_server._fork, []

        def fork_too_late(in_use):
            with queue.backend._dialect.begin() if not tries else nullcontext():
                tries.append(fork(in_use))
            return tries[-1]

        monkeypatch.setattr(queue._fork_server, "_fork", fork_too_late)
        result = write_apart.enqueue("written")
        queue.run_pending()
        result.refresh()

    assert tries == [False, True]
    assert (result.status, shop.written()) == ("SUCCESSFUL", ["written"])


@on("sqlite")
def test_a_queue_that_is_closed_starts_no_process_any_more(shop):
    """Nor is its end held up by a process that waits for a moment to be forked in."""
    before = _children()
    queue = shop.open(threads=1, drain_timeout=0)
    with queue.backend._dialect.side_database.connect():
        with queue.as_current():
            result = whereabouts.enqueue()
        until(queue._fork_server._lock.locked)
        closing = threading.Thread(target=queue.close)
        closing.start()
        closing.join(BOUND_SECONDS)
        is_closed = not closing.is_alive()
    closing.join()
    threads = [each for each in threading.enumerate() if each.name == "asyncjob-1"]
    for thread in threads:
        thread.join(PATIENCE_SECONDS)

    assert is_closed
    assert _children() <= before
    with shop.open(threads=0) as other:
        found = other.result(result.id)
        assert (found.status, found.attempts, found.errors) == ("READY", 0, [])


@on("sqlite")
def test_processes_are_forked_while_the_worker_listens(shop):
    with shop.open(threads=1) as queue:
        until(lambda: queue.backend._wakeup._listener is not None)
        until(queue._database.may_fork)


@pytest.mark.parametrize("executor", ["proces", "Thread", "", None, 3, object()])
def test_an_unknown_executor_is_refused_and_the_known_ones_are_named(executor):
    names = '"thread", "process", "coroutine" or a concurrent.futures.Executor'
    with pytest.raises(ConfigError, match=f"executor: expected {names}"):
        TaskOptions(executor=executor)


def test_a_misspelt_executor_is_told_the_right_one():
    with pytest.raises(ConfigError, match=r'did you mean "process"\?'):
        TaskOptions(executor="proces")


# -- coroutine functions


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def double_plainly(number: int) -> int:
    return 2 * number


def test_a_coroutine_function_may_say_so(shop):
    with shop.open() as queue, queue.as_current():
        assert ended(task(executor="coroutine")(double).enqueue(4)).return_value == 8


def test_a_plain_function_is_no_coroutine():
    with pytest.raises(ConfigError, match='"coroutine" expected an `async def` function, got '):
        task(executor="coroutine")(double_plainly)


_meeting = threading.Barrier(2)


async def write_and_meet(text: str, fails: bool) -> None:
    write(text)
    await asyncio.get_running_loop().run_in_executor(None, _meeting.wait, PATIENCE_SECONDS)
    if fails:
        raise Refused(text)


@ON_A_SERVER
def test_of_two_coroutines_at_once_only_the_one_that_succeeds_leaves_its_row(shop):
    with shop.open() as queue, queue.as_current():
        bad = task(write_and_meet).enqueue("bad", True)
        good = task(write_and_meet).enqueue("good", False)
        ended(good)
        ended(bad)

    assert (good.status, bad.status) == ("SUCCESSFUL", "FAILED")
    assert shop.written() == ["good"]


# -- executors that take the bare call


def report_over_there() -> str:
    try:
        asyncjob_set_progress(1)
    except NotInJob:
        return "no job here"
    return "a job"


def refuse() -> None:
    raise Refused("no")


EXECUTORS: dict[str, Callable[[], Executor]] = {
    "threads": lambda: ThreadPoolExecutor(1),
    "coroutines": CoroutineExecutor,
    "loops": lambda: LoopPoolExecutor(1),
    "processes": lambda: ProcessExecutor(1),
}


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with EXECUTORS[request.param]() as made:
        yield made


def elsewhere(executor: Executor, function: Callable[..., Any], **options: Any) -> Any:
    return task(executor=executor, **options)(function)


def test_an_executor_takes_the_bare_call(executor):
    with JobQueue(threads=1) as queue, queue.as_current():
        queue.start_worker()
        doubled = ended(elsewhere(executor, double_plainly).enqueue(4))
        bare = ended(elsewhere(executor, report_over_there).enqueue())
        refused = ended(elsewhere(executor, refuse).enqueue())

    assert doubled.return_value == 8
    assert bare.return_value == "no job here"
    assert refused.errors[0].exception_class is Refused


@pytest.mark.parametrize("kind", ["coroutines", "loops", "threads"])
def test_an_executor_is_given_coroutine_functions(kind):
    with EXECUTORS[kind]() as executor, JobQueue(threads=1) as queue, queue.as_current():
        queue.start_worker()
        assert ended(elsewhere(executor, double).enqueue(4)).return_value == 8


class Silent(Executor):
    """Takes calls and never runs them; keeps their futures."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.taken = threading.Semaphore(0)

    def submit(self, _call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(Future())
        self.taken.release()
        return self.futures[-1]


silent = Silent()


@task(executor=silent)
def unanswered(number: int) -> int:
    return number


def test_a_timeout_ends_the_wait_for_an_executor_and_cancels_the_future(shop):
    with shop.open(threads=1) as queue, queue.as_current():
        result = ended(unanswered.using(timeout=0.1).enqueue(1))
        after = ended(task(double_plainly).enqueue(4))

    assert result.errors[0].exception_class is JobTimeout
    assert after.return_value == 8
    assert silent.futures[-1].cancelled()


def test_a_cancellation_ends_the_wait_for_an_executor(shop):
    with shop.open(threads=1) as queue, queue.as_current():
        result = unanswered.enqueue(1)
        until(lambda: silent.taken.acquire(blocking=False))
        assert result.cancel()
        ended(result)

    assert result.status == "CANCELLED"
    assert silent.futures[-1].cancelled()


def test_a_drain_ends_the_wait_for_an_executor_and_the_job_waits_again(shop):
    queue = shop.open(threads=1, drain_timeout=0)
    with queue.as_current():
        result = unanswered.enqueue(1)
    until(lambda: silent.taken.acquire(blocking=False))

    queue.close()

    assert silent.futures[-1].cancelled()
    if shop.place.is_durable:
        with shop.open(threads=0) as other:
            assert other.result(result.id).status == "READY"


def test_what_an_executor_is_given_is_not_undone_with_the_job(tmp_path):
    mark = tmp_path / "made"
    with ThreadPoolExecutor(1) as executor, JobQueue(threads=0) as queue, queue.as_current():
        result = elsewhere(executor, touch_and_refuse, max_attempts=2, backoff=0).enqueue(mark)
        assert queue.run_pending() == 2
        result.refresh()

    assert result.status == "FAILED"
    assert mark.read_text() == "made" * 2


def touch_and_refuse(mark: Path) -> None:
    with mark.open("a") as file:
        file.write("made")
    raise Refused


@DURABLE
def test_a_stored_task_has_the_executor_that_its_declaration_names(shop):
    with shop.open(threads=0) as queue, queue.as_current():
        by_name = task(double_plainly).using(executor="process").enqueue(4)
        by_object = unanswered.using(timeout=60).enqueue(4)
        found = {row.uid: row.options for row in shop.place.jobs()}

    assert '"executor": "process"' in found[by_name.id]
    assert '"executor": "the task\'s"' in found[by_object.id]
