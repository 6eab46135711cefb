"""The commands of ``python -m tgext.asyncjob``: real workers, and what is told of them.

A worker is a process of its own; what it and its jobs say comes through one pipe, so the order of
lines is the order of events. A job that is held reads a pipe that nobody has written to yet.
Commands that only look or change are called here, in this process, but for one of each kind.
"""

from __future__ import annotations

import getpass
import importlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, update

from databases import sqlite_with_tables, url_of
from forked_python import OF_COMMANDS, ForkedPython, run_forked
from needs import need
from tgext.asyncjob import JobQueue, task
from tgext.asyncjob import __main__ as entry_point
from tgext.asyncjob.__main__ import main
from tgext.asyncjob.backends.sql.auditing import SqlAudit
from tgext.asyncjob.backends.sql.tables import make_tables
from tgext.asyncjob.cli import COMMANDS, actions
from tgext.asyncjob.cli.command_result import table
from tgext.asyncjob.cli.worker_process import StopSignals
from tgext.asyncjob.options import Options
from tgext.asyncjob.wording import lasting

pytestmark = pytest.mark.timeout(60)

#: The longest that a line may take to come. What is right comes nowhere near it.
PATIENCE_SECONDS = 30.0

#: One for all tests, each of which makes its tables anew: their statements are compiled once.
PREFIX = f"t{uuid.uuid4().hex[:8]}_"

#: A database that cannot be reached.
AWAY = "postgresql+psycopg://postgres@127.0.0.1:1/test"

JOBS = """
import os
from pathlib import Path
from sqlalchemy import text
from tgext.asyncjob import asyncjob_session, asyncjob_set_progress, task

HERE = Path(__file__).parent

def say(*words):
    os.write(2, (" ".join(map(str, words)) + "\\n").encode())

def note(text):
    say("noted", text, os.getpid())

def held():
    asyncjob_set_progress(3, total=7)
    say("begun", os.getpid())
    (HERE / "gate").read_text()
    say("let go", os.getpid())

def writes():
    session = asyncjob_session()
    session.execute(text("CREATE TABLE IF NOT EXISTS kept (number INTEGER)"))
    session.execute(text("INSERT INTO kept VALUES (1)"))
    held()

def wrong():
    raise ValueError("a wrong job")

@task(executor="process")
def held_apart():
    say("apart", os.getpid(), os.getppid())
    held()
"""


class Shop:
    """A folder with a module of jobs, and the database that they are in."""

    def __init__(self, folder: Path, url: str, prefix: str, jobs: ModuleType) -> None:
        self.folder = folder
        self.url = url
        self.prefix = prefix
        self.jobs: Any = jobs
        self.address = ["--url", url, "--table-prefix", prefix]
        self._gate = folder / "gate"
        os.mkfifo(self._gate)

    def queue(self, **options: Any) -> JobQueue:
        return JobQueue("sql", url=self.url, table_prefix=self.prefix, **options)

    def enqueue(self, *calls: tuple[Any, ...], **options: Any) -> list[str]:
        """Enqueue calls, each a function and its arguments; return their uids."""
        with self.queue() as queue, queue.as_current():
            return [
                task(function).using(**options).enqueue(*arguments).id
                for function, *arguments in calls
            ]

    def result(self, uid: str) -> Any:
        with self.queue() as queue:
            return queue.result(uid)

    def open_gate(self) -> None:
        """Let the job that is held go on."""
        self._gate.write_text("go on")


class Worker:
    """A worker command under way, and the lines that its processes write.

    is_forked: from a process that has imported what it needs; else it is started as by a user.
    """

    def __init__(self, shop: Shop, *arguments: str, is_forked: bool = True) -> None:
        command = [sys.executable, "-W", "error", "-m", "tgext.asyncjob", "worker", *arguments]
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "cwd": shop.folder}
        self.process: Any = (
            ForkedPython(command, imports=OF_COMMANDS, **given)
            if is_forked
            else subprocess.Popen(command, **given)
        )
        self.said: list[str] = []
        self._text = b""
        self._read = 0

    def line(self, pattern: str, meanwhile: Callable[[], object] | None = None) -> re.Match[str]:
        """Read on to the next line that matches, doing *meanwhile* every 0.1 s."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            while self._read < len(self.said):
                self._read += 1
                if found := re.search(pattern, self.said[self._read - 1]):
                    return found
            if meanwhile is not None:
                meanwhile()
            more = self._more(0.1 if meanwhile else PATIENCE_SECONDS)
            is_late = not more or time.monotonic() > until
            assert not is_late, f"no {pattern!r} in:\n" + "\n".join(self.said)

    def ended(self) -> int:
        """Read until no process is left that could write; return the exit code."""
        while self._more(PATIENCE_SECONDS, must_speak=True):
            pass
        return self.process.wait(PATIENCE_SECONDS)

    def tell(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def _more(self, seconds: float, must_speak: bool = False) -> bool:
        """Read what is there, or comes within *seconds*; False at the end of the pipe."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        ready, _, _ = select.select([fd], [], [], seconds)
        if not ready:
            assert not must_speak, "nobody said anything more, but:\n" + "\n".join(self.said)
            return True
        read = os.read(fd, 65536)
        *lines, self._text = (self._text + read).split(b"\n")
        self.said += [line.decode() for line in lines]
        return bool(read)

    def kill_what_is_left(self) -> None:
        family = [self.process.pid]
        if psutil.pid_exists(self.process.pid):
            family += [child.pid for child in psutil.Process(self.process.pid).children()]
        self.process.kill()
        self.process.wait()
        for pid in family[1:]:
            if psutil.pid_exists(pid) and "asyncjob" in "".join(psutil.Process(pid).cmdline()):
                psutil.Process(pid).kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def make_shop(tmp_path: Path, monkeypatch: Any) -> Iterator[Callable[[str], Shop]]:
    """Makes a shop on a kind of database."""
    name = f"shop_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    urls: list[str] = []

    def make(kind: str) -> Shop:
        is_file = kind == "sqlite"
        urls.append(sqlite_with_tables(tmp_path, PREFIX) if is_file else url_of(kind, tmp_path))
        return Shop(tmp_path, urls[-1], PREFIX, importlib.import_module(name))

    yield make
    sys.modules.pop(name, None)
    for url in urls:
        engine = create_engine(url)
        make_tables(PREFIX).metadata.drop_all(engine)
        engine.dispose()


@pytest.fixture
def shop(make_shop: Callable[[str], Shop]) -> Shop:
    return make_shop("sqlite")


@pytest.fixture
def start() -> Iterator[Callable[..., Worker]]:
    """Starts a worker; what is left of it is killed when the test is over."""
    need(hasattr(os, "fork"), "a system with fork")
    started: list[Worker] = []

    def begin(shop: Shop, *arguments: str, is_forked: bool = True) -> Worker:
        started.append(Worker(shop, *shop.address, *arguments, is_forked=is_forked))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill_what_is_left()


@pytest.fixture
def command(shop: Shop, capsys: Any, monkeypatch: Any) -> Callable[..., tuple[int, str]]:
    """Runs a command on the shop; gives its exit code, and what it wrote."""
    monkeypatch.setenv("COLUMNS", "500")

    def run(name: str, *arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main([name, *shop.address, *arguments])
        written = capsys.readouterr()
        return code, written.out + written.err

    return run


# -- worker


@pytest.mark.slow
def test_worker_in_a_burst_runs_what_is_due_and_ends(shop, start):
    uids = shop.enqueue((shop.jobs.note, "first"), (shop.jobs.wrong,))
    [later] = shop.enqueue((shop.jobs.note, "later"), run_after=timedelta(hours=1))

    worker = start(shop, "--burst", "--threads", "2", "--queues", "default,mail", is_forked=False)
    code = worker.ended()

    pid = worker.process.pid
    assert code == 0
    assert [shop.result(uid).status for uid in [*uids, later]] == ["SUCCESSFUL", "FAILED", "READY"]
    [begins] = [line for line in worker.said if "begins" in line]
    assert f"process {pid} begins: database {shop.url}" in begins
    assert "2 threads, queues default,mail" in begins
    assert "notified of new jobs by the file's counter" in begins
    assert re.search(rf"process {pid} ends after \d+\.\ds, 2 jobs: nothing more", worker.said[-1])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--burst", "--once"])
def test_what_a_dead_worker_left_is_due_too(shop, start, how):
    [uid] = shop.enqueue((shop.jobs.held,))
    dead = start(shop)
    dead.line(r"^begun (\d+)")
    dead.process.kill()
    dead.ended()

    worker = start(shop, how)
    worker.line(r"^begun (\d+)")
    shop.open_gate()

    assert worker.ended() == 0
    assert shop.result(uid).status == "SUCCESSFUL"
    assert "1 job: " in worker.said[-1]


def test_worker_runs_one_job_only_when_told_once(shop, start):
    uids = shop.enqueue(*[(shop.jobs.note, number) for number in range(3)])

    worker = start(shop, "--once")
    code = worker.ended()

    assert code == 0
    assert [shop.result(uid).status for uid in uids] == ["SUCCESSFUL", "READY", "READY"]
    assert "1 job: it was to run one" in worker.said[-1]


@pytest.mark.slow
def test_burst_goes_on_behind_a_job_whose_module_is_missing(shop, start, command, monkeypatch):
    elsewhere = shop.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far_away.py").write_text("def job():\n    pass\n")
    monkeypatch.syspath_prepend(str(elsewhere))
    far_away = importlib.import_module("far_away")
    [missing, here] = shop.enqueue((far_away.job,), (shop.jobs.note, "here"))

    worker = start(shop, "--burst")
    code = worker.ended()
    monkeypatch.delitem(sys.modules, "far_away")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(elsewhere)])

    assert code == 0
    assert shop.result(here).status == "SUCCESSFUL"
    _, text = command("status", missing)
    assert "why not yet: a worker has released it, since the module of its call is" in text
    assert "why not yet: the module 'far_away' of its call is missing here" in text
    assert "why not yet: delayed until" in text


@pytest.mark.slow
def test_sigterm_lets_the_running_job_end_and_begins_no_other(shop, start, command):
    uids = shop.enqueue((shop.jobs.held,), (shop.jobs.note, "never"))
    worker = start(shop, is_forked=False)  # its title is where its arguments were
    worker.line("^begun")
    pid = worker.process.pid
    title = " ".join(psutil.Process(pid).cmdline())
    _, shown = command("status", "--json")

    worker.tell(signal.SIGTERM)
    worker.line("received SIGTERM: it claims no more jobs, and running ones have 8s to end")
    stopping = ""
    while " stopping" not in stopping and worker.process.poll() is None:  # it says so before
        _, stopping = command("status")
    shop.open_gate()
    code = worker.ended()

    assert code == 0
    assert [shop.result(uid).status for uid in uids] == ["SUCCESSFUL", "READY"]
    assert "1 job: received SIGTERM" in worker.said[-1]
    assert title.strip() == "asyncjob-worker: 1 thread, queues all"
    seen = json.loads(shown)
    assert seen["counts"] == {
        "READY": 1, "RUNNING": 1, "SUCCESSFUL": 0, "FAILED": 0, "CANCELLED": 0
    }  # fmt: skip
    [running], [alive] = seen["running"], seen["workers"]
    assert (running["uid"], running["value"], running["total"]) == (uids[0], 3, 7)
    assert (running["attempt"], running["worker_id"]) == (1, alive["worker_id"])
    assert (alive["pid"], alive["threads"], alive["queues"]) == (pid, 1, None)
    assert re.search(rf"^{uids[0]}  shop_\w+\.held +\d+s +3/7 +1 +{pid}-", stopping, re.M)
    assert re.search(rf"^{pid}-\S+ .*  all .*  stopping$", stopping, re.M)


@pytest.mark.slow
def test_second_sigterm_gives_the_job_back_at_once_and_costs_it_nothing(shop, start):
    [uid] = shop.enqueue((shop.jobs.held,))
    worker = start(shop)
    worker.line("^begun")

    worker.tell()
    worker.line("it claims no more jobs")
    worker.line(
        "received a second signal: releasing the jobs that still run", meanwhile=worker.tell
    )
    code = worker.ended()

    found = shop.result(uid)
    assert code == 0
    assert (found.status, found.attempts, found.errors) == ("READY", 0, [])
    assert "let go" not in "".join(worker.said)


@pytest.mark.slow
def test_killed_worker_process_is_replaced_and_its_job_runs_again(shop, start):
    [uid] = shop.enqueue((shop.jobs.held,))
    worker = start(shop, "--processes", "2")
    killed = int(worker.line(r"^begun (\d+)")[1])

    os.kill(killed, signal.SIGKILL)

    worker.line(f"worker process {killed} was killed by SIGKILL after .*; replaced at once")
    again = int(worker.line(r"^begun (\d+)")[1])
    shop.open_gate()
    worker.line(f"^let go {again}")
    with shop.queue() as queue:
        found = queue.result(uid).wait(PATIENCE_SECONDS)
    worker.tell()
    assert worker.ended() == 0
    assert again != killed
    assert (found.status, found.attempts) == ("SUCCESSFUL", 1)
    assert found.errors[0].exception_class_path == "tgext.asyncjob.errors.WorkerCrashed"


@pytest.mark.slow
@pytest.mark.timeout(110)
@pytest.mark.parametrize(("kind", "job"), [("sqlite", "writes"), ("postgresql", "held")])
def test_long_job_outlives_more_deploys_than_it_may_end_workers(make_shop, start, kind, job):
    """Each kills its worker in the drain."""
    shop = make_shop(kind)
    [uid] = shop.enqueue((getattr(shop.jobs, job),))

    for _ in range(Options.max_crashes + 2):
        worker = start(shop, "--threads", "2")
        worker.line("^begun")
        worker.tell(signal.SIGTERM)
        worker.line("received SIGTERM: it claims no more jobs")
        with pytest.raises(subprocess.TimeoutExpired):  # the job is still held
            worker.process.wait(0.3)
        worker.tell(signal.SIGKILL)
        worker.process.wait(PATIENCE_SECONDS)
    last = start(shop, "--threads", "2")
    last.line("^begun")
    shop.open_gate()
    last.line("successful")
    last.tell(signal.SIGTERM)
    last.ended()

    found = shop.result(uid)
    assert (found.status, found.attempts, found.errors) == ("SUCCESSFUL", 1, [])
    if job == "writes":
        engine = create_engine(shop.url)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM kept").scalar() == 1
        engine.dispose()


@pytest.mark.slow
def test_process_that_has_grown_too_large_is_replaced_after_a_job(shop, start):
    worker = start(shop, "--max-rss", "1")
    idle = worker.line(r"process (\d+) begins")[1]

    shop.enqueue((shop.jobs.note, "one"))
    first = worker.line(r"^noted one (\d+)")[1]
    worker.line(f"process {first} ends after .*, 1 job: it has run its share")

    shop.enqueue((shop.jobs.note, "two"))
    second = worker.line(r"^noted two (\d+)")[1]
    worker.tell()

    assert worker.ended() == 0
    assert first == idle
    assert second != first


@pytest.mark.slow
def test_several_processes_in_a_burst_end_together(shop, start):
    uids = shop.enqueue(*[(shop.jobs.note, number) for number in range(4)])

    worker = start(shop, "--processes", "2", "--burst")

    assert worker.ended() == 0
    assert {shop.result(uid).status for uid in uids} == {"SUCCESSFUL"}
    assert len([line for line in worker.said if "with nothing left to do" in line]) == 2


@pytest.mark.parametrize("end", [["--burst"], ["--once"], ["--burst", "--processes", "2"]])
@pytest.mark.parametrize("url", [AWAY, "sqlite:////no/such/folder/jobs.db"])
def test_worker_that_is_to_end_does_not_wait_for_a_database(shop, start, url, end):
    shop.address = ["--url", url]

    worker = start(shop, *end)

    assert worker.ended() == 3
    assert len([line for line in worker.said if "the database cannot be used: " in line]) == 1
    assert "Traceback" not in "\n".join(worker.said)


def test_worker_that_is_to_stay_goes_on_trying(shop, start):
    shop.address = ["--url", AWAY]

    worker = start(shop)

    worker.line("cannot claim, trying again in 0.2s")
    worker.tell()
    assert worker.ended() == 0


def test_what_is_wrong_with_the_application_is_said_once_for_all_processes(shop, start):
    (shop.folder / "wrong_app.py").write_text("queue = 1\n")

    worker = start(shop, "--app", "wrong_app:queue", "--processes", "2")

    assert worker.ended() == 2
    [said] = worker.said
    assert said == (
        "--app wrong_app:queue: expected a JobQueue, or a callable that returns one, got int"
    )


def test_traceback_of_the_application_is_shown_once_for_all_processes(shop, start):
    (shop.folder / "broken_app.py").write_text("queue = 1 / 0\n")

    worker = start(shop, "--app", "broken_app:queue", "--processes", "2")

    assert worker.ended() == 2
    assert worker.said[-2:] == [
        "ZeroDivisionError: division by zero",
        "the application cannot be loaded; the lines above say why",
    ]
    assert len([line for line in worker.said if "Traceback" in line]) == 1


@pytest.mark.slow
def test_worker_runs_tasks_in_processes_which_end_with_it(shop, start):
    [uid] = shop.enqueue((shop.jobs.held_apart.func,), executor="process")
    worker = start(shop, is_forked=False)  # for its title, too
    _, own, fork_server = worker.line(r"^apart (\d+) (\d+)")[0].split()
    title = psutil.Process(int(own)).cmdline()[0]

    # As a service manager does, to all of them.
    for pid in (worker.process.pid, int(fork_server), int(own)):
        os.kill(pid, signal.SIGTERM)
    worker.line("received SIGTERM: it claims no more jobs")
    shop.open_gate()

    assert worker.ended() == 0  # nobody is left who could write
    assert title.strip() == f"asyncjob-worker: job {uid} {shop.jobs.__name__}.held_apart"
    assert shop.result(uid).status == "SUCCESSFUL"


def test_worker_of_an_application_with_such_tasks_is_ready_for_them_from_its_start(shop, start):
    (shop.folder / "apart_app.py").write_text(
        f"import {shop.jobs.__name__}\n"
        "from tgext.asyncjob import JobQueue\n"
        f"made = lambda url: JobQueue('sql', url=url, table_prefix={shop.prefix!r})\n"
    )
    shop.address = ["--url", shop.url]
    worker = start(shop, "--app", "apart_app:made")
    worker.line("begins: database")
    own = psutil.Process(worker.process.pid)
    until = time.monotonic() + PATIENCE_SECONDS
    while not own.children() and time.monotonic() < until:
        os.sched_yield()
    [fork_server] = own.children()

    worker.tell(signal.SIGTERM)

    assert worker.ended() == 0
    assert not fork_server.is_running()


@pytest.mark.slow
def test_worker_on_postgresql_listens_and_masks_the_password(make_shop, start, capsys):
    shop = make_shop("postgresql")
    shop.address[1] = shop.url.replace("postgres@", "postgres:sesame@")
    [waiting] = shop.enqueue((shop.jobs.held,))
    worker = start(shop)
    begins = worker.line("begins: database (.*)")[1]
    worker.line("^begun")

    assert main(["status", *shop.address]) == 0

    shown = capsys.readouterr().out
    shop.open_gate()
    worker.line("successful after")
    [announced] = shop.enqueue((shop.jobs.note, "announced"))
    worker.line("^noted announced")
    worker.tell()
    assert worker.ended() == 0
    assert {shop.result(uid).status for uid in (waiting, announced)} == {"SUCCESSFUL"}
    assert begins == (
        "postgresql+psycopg://postgres:***@127.0.0.1/test, 1 thread, queues all, "
        "notified of new jobs by LISTEN"
    )
    assert "sesame" not in "".join([*worker.said, shown])
    assert re.search(r"^connections to the server, by all programs: \d+ of \d+$", shown, re.M)


def test_password_in_the_query_of_a_url_is_masked(make_shop, capsys):
    shop = make_shop("postgresql")
    shop.enqueue((shop.jobs.note, "x"))
    shop.address[1] = f"{shop.url}?password=sesame&sslpassword=open&connect_timeout=5"
    assert main(["status", *shop.address]) == 0

    shown = capsys.readouterr().out
    assert re.search(r"^database: postgresql.*\bsslpassword=hidden\b", shown, re.M)
    assert "connect_timeout=5" in shown
    assert "sesame" not in shown
    assert "open" not in shown


def test_signal_that_comes_twice_within_a_second_is_one_signal():
    stop_signals = StopSignals([signal.SIGUSR1])
    try:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)

        assert (stop_signals.by, stop_signals.is_urgent) == ("SIGUSR1", False)
    finally:
        stop_signals.close()


# -- status of one job


def test_delayed_job_says_until_when_and_that_nobody_works(shop, command):
    [uid] = shop.enqueue((shop.jobs.note, 1), run_after=timedelta(hours=2))

    code, text = command("status", uid)

    assert code == 0
    assert re.search(r"why not yet: delayed until 20\d\d-.*\+00:00, in 1h 59m$", text, re.M)
    assert "why not yet: no worker is alive" in text


def test_job_says_how_many_are_before_it_in_its_queue(shop, command):
    shop.enqueue((shop.jobs.note, 1), queue_name="mail")
    shop.enqueue((shop.jobs.note, 1), (shop.jobs.note, 2))
    [last] = shop.enqueue((shop.jobs.note, 3))
    [urgent] = shop.enqueue((shop.jobs.note, 4), priority=5)

    _, of_last = command("status", last)
    _, of_urgent = command("status", urgent)

    assert "why not yet: 3 jobs of its queue are before it" in of_last
    assert "before it" not in of_urgent


def test_job_says_that_no_worker_serves_its_queue(shop, command):
    [uid] = shop.enqueue((shop.jobs.note, 1), queue_name="mail")
    with shop.queue(queues="default,print") as other:
        other.start_worker()

        _, text = command("status", uid)
        _, whole = command("status")

    assert "no living worker serves its queue 'mail'; they serve default, print" in text
    assert re.search("^mail .* no living worker serves it$", whole, re.M)


def test_job_says_that_all_threads_are_busy_and_then_that_nothing_is_in_its_way(shop, command):
    with shop.queue() as busy:
        busy.start_worker()
        held = busy.perform(shop.jobs.held)
        _, shown = _until(lambda: command("status", held), "RUNNING")
        uid = busy.perform(shop.jobs.note, 1)

        _, text = command("status", uid, "--json")
        _, of_running = command("status", held, "--json")
        shop.open_gate()
        busy.result(uid).wait(PATIENCE_SECONDS)
        _, of_ended = command("status", uid, "--json")

    [seen], [running], [ended] = map(json.loads, (text, of_running, of_ended))
    assert seen["why_not_running"] == [
        "all threads of the workers that serve its queue (1 thread) run other jobs"
    ]
    assert "attempts: 1" in shown
    assert (running["status"], running["why_not_running"]) == ("RUNNING", [])
    assert (ended["status"], ended["why_not_running"]) == ("SUCCESSFUL", [])


def _until(ask: Callable[[], tuple[int, str]], word: str) -> tuple[int, str]:
    until, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while True:
        found = ask()
        if word in found[1]:
            return found
        assert time.monotonic() < until, found
        pause.wait(0.05)  # the other needs the core


def test_status_does_not_wait_for_a_job_that_holds_the_write_lock(shop, command):
    with shop.queue() as busy:
        busy.start_worker()
        uid = busy.perform(shop.jobs.writes)

        _, text = _until(lambda: command("status"), "3/7")

        shop.open_gate()
        assert busy.result(uid).wait(PATIENCE_SECONDS).status == "SUCCESSFUL"
    assert f"{uid}  shop_" in text


@pytest.mark.slow
def test_status_tells_which_job_of_another_process_holds_the_write_lock(shop, start, command):
    [uid] = shop.enqueue((shop.jobs.writes,))
    worker = start(shop)
    worker.line("^begun")
    early = json.loads(command("status", "--json")[1])["running"]

    worker.line(f"job={uid} holds the write lock")
    text, shown = (_asked_elsewhere(shop, *options) for options in ([], ["--json"]))
    shop.open_gate()
    worker.line(f"job={uid} attempt=1 .* successful")
    worker.tell()
    worker.ended()

    assert [job["locks_since"] for job in early] == [None]
    [job] = json.loads(shown)["running"]
    assert (job["uid"], job["worker_id"].partition("-")[0]) == (uid, str(worker.process.pid))
    assert job["since"] <= job["locks_since"] <= datetime.now(timezone.utc).isoformat()
    assert re.search(
        rf"^{uid} has held SQLite's write lock for \d+s: all other writers", text, re.M
    )


def _asked_elsewhere(shop: Shop, *options: str) -> str:
    """What the command says in a process of its own, once it says who holds the lock."""
    command = [sys.executable, "-m", "tgext.asyncjob", "status", *shop.address, *options]

    def ask() -> tuple[int, str]:
        done = run_forked(command, imports=OF_COMMANDS, text=True)
        done.check_returncode()
        return done.returncode, done.stdout

    return _until(ask, "has held SQLite" if not options else '"locks_since": "')[1]


@pytest.mark.slow
def test_job_that_waits_says_that_another_holds_the_write_lock(shop, command):
    holder, waits = shop.enqueue((shop.jobs.writes,), (shop.jobs.note, "later"))
    with shop.queue(threads=1) as busy:
        busy.start_worker()

        _, text = _until(lambda: command("status", waits), "write lock")

        shop.open_gate()
        assert busy.result(waits).wait(PATIENCE_SECONDS).status == "SUCCESSFUL"
    assert re.search(
        rf"^  why not yet: {holder} has held SQLite's write lock for \d+s: ", text, re.M
    )


@pytest.mark.slow
def test_lock_of_a_worker_that_was_killed_is_nobodys(shop, start, command):
    [uid] = shop.enqueue((shop.jobs.writes,))
    worker = start(shop)
    worker.line(f"job={uid} holds the write lock")
    _until(lambda: command("status"), "has held SQLite")

    worker.process.kill()
    worker.process.wait()

    [job] = json.loads(command("status", "--json")[1])["running"]
    assert (job["uid"], job["locks_since"]) == (uid, None)


def test_failed_job_says_its_last_error(shop, command):
    [uid] = shop.enqueue((shop.jobs.wrong,))
    with shop.queue() as queue:
        queue.run_pending()

    code, text = command("status", uid)

    assert code == 0
    assert f"{uid}  FAILED" in text
    assert "last error: builtins.ValueError: a wrong job" in text


# -- retry, cancel, purge


def test_unknown_uid_is_exit_code_1_and_the_known_ones_are_done_all_the_same(shop, command):
    [uid] = shop.enqueue((shop.jobs.note, 1))

    status = command("status", "nobody", uid)
    as_json = command("status", "nobody", "--json")
    retry = command("retry", "nobody")
    cancel = command("cancel", "nobody", uid)

    assert [code for code, _ in (status, as_json, retry, cancel)] == [1, 1, 1, 1]
    assert status[1].startswith("no job 'nobody': the sql backend has none")
    assert f"{uid}  READY" in status[1]
    assert json.loads(as_json[1])[0]["status"] is None
    assert f"{uid} is cancelled" in cancel[1]
    assert shop.result(uid).status == "CANCELLED"


def test_retry_makes_an_ended_job_wait_and_runs_nothing_itself(shop, command):
    [uid] = shop.enqueue((shop.jobs.wrong,))
    with shop.queue() as queue:
        queue.run_pending()

    first, second = command("retry", uid), command("retry", uid)

    assert first == (0, f"{uid} waits again\n")
    assert second == (1, f"{uid} has not ended yet\n")
    assert shop.result(uid).status == "READY"


def test_cancel_tells_a_running_job_from_one_that_waited_or_had_ended(shop, command):
    with shop.queue() as busy:
        busy.start_worker()
        uid = busy.perform(shop.jobs.held)
        _until(lambda: command("status", uid), "progress: 3/7")

        first = command("cancel", uid)
        shop.open_gate()
        busy.result(uid).wait(PATIENCE_SECONDS)
        second = command("cancel", uid)

    assert first == (0, f"{uid} runs, and is cancelled at its next checkpoint\n")
    assert second == (1, f"{uid} had ended already\n")


def test_purge_removes_what_ended_so_and_so_long_ago(shop, command):
    uids = shop.enqueue((shop.jobs.note, 1), (shop.jobs.wrong,), (shop.jobs.note, 2))
    with shop.queue() as queue:
        queue.run_pending(limit=2)

    too_young = command("purge", "--older-than", "1h")
    dry = command("purge", "--status", "failed,cancelled", "--dry-run")
    failed = command("purge", "--status", "failed,cancelled")
    rest = command("purge", "--all")

    assert too_young == (0, "removed 0 jobs\n")
    assert dry == (0, "would remove 1 job\n")
    assert failed == (0, "removed 1 job\n")
    assert rest == (0, "removed 1 job\n")
    assert shop.result(uids[2]).status == "READY"


def test_purge_without_a_filter_is_refused(shop, command):
    [uid] = shop.enqueue((shop.jobs.note, 1))
    with shop.queue() as queue:
        queue.run_pending()

    bare, dry = command("purge"), command("purge", "--dry-run")
    both = command("purge", "--all", "--status", "FAILED")

    assert [bare[0], dry[0], both[0]] == [2, 2, 2]
    assert "a filter such as --older-than AGE or --status STATUS, or --all of them" in bare[1]
    assert "expected --all or a filter, got both" in both[1]
    assert shop.result(uid).status == "SUCCESSFUL"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("1.5", 1.5), ("15m", 900), ("2h", 7200), ("1d", 86_400), ("7s", 7)],
)
def test_age_is_in_seconds_or_in_a_unit(text, seconds):
    parser = ArgumentParser()
    actions.add_filters(parser)

    assert parser.parse_args(["--older-than", text]).older_than.total_seconds() == seconds


def test_uid_that_is_named_twice_is_one(shop, command):
    [uid] = shop.enqueue((shop.jobs.note, 1))

    assert command("cancel", uid, uid) == (0, f"{uid} is cancelled\n")


# -- filters


def test_jobs_are_listed_by_filters(shop, command):
    wrong, note = shop.enqueue((shop.jobs.wrong,), (shop.jobs.note, 1))
    with shop.queue() as queue:
        queue.run_pending()
    [waiting] = shop.enqueue((shop.jobs.note, 2), queue_name="mail")

    for arguments, expected in (
        (("--status", "failed"), [wrong]),
        (("--status", "SUCCESSFUL,READY"), [waiting, note]),
        (("--queue", "mail"), [waiting]),
        (("--name", f"{shop.jobs.__name__}.note"), [waiting, note]),
        (("--error", "ValueError"), [wrong]),
        (("--since", "1h"), [waiting, note, wrong]),
        (("--older-than", "1h"), []),
        (("--user", "ada"), []),
        (("--limit", "1"), [waiting]),
    ):
        code, text = command("status", *arguments, "--json")
        assert [each["id"] for each in json.loads(text)] == expected, arguments
        assert code == (0 if expected else 1)
    code, text = command("status", "--limit", "1")
    assert (code, "(there are more: --limit)" in text) == (0, True)
    assert "no such job" in command("status", "--user", "ada")[1]
    assert "ValueError: " in command("status", "--status", "FAILED")[1]
    assert command("status", wrong, "--status", "FAILED")[0] == 2
    assert "limit: expected 1 to 1000 jobs, got 0" in command("status", "--limit", "0")[1]


def test_jobs_of_a_filter_are_retried_and_cancelled_each_once(shop, command):
    wrong = shop.enqueue((shop.jobs.wrong,), (shop.jobs.wrong,))
    [note] = shop.enqueue((shop.jobs.note, 1))
    with shop.queue() as queue:
        queue.run_pending()

    assert command("retry", "--status", "FAILED", "--dry-run") == (0, "would retry 2 jobs\n")
    assert command("retry", "--status", "FAILED") == (0, "retried 2 jobs\n")
    assert command("retry", "--status", "FAILED") == (1, "retried 0 jobs\n")
    assert command("cancel", "--error", "ValueError") == (0, "cancelled 2 jobs\n")
    assert [shop.result(uid).status for uid in [*wrong, note]] == [
        "CANCELLED", "CANCELLED", "SUCCESSFUL",
    ]  # fmt: skip
    assert command("purge", "--error", "ValueError", "--dry-run") == (0, "would remove 2 jobs\n")
    assert command("purge", "--error", "ValueError") == (0, "removed 2 jobs\n")
    assert shop.result(note).status == "SUCCESSFUL"


def test_commands_are_in_the_audit(shop, command):
    shop.enqueue((shop.jobs.note, 1), (shop.jobs.note, 2))
    [uid] = shop.enqueue((shop.jobs.note, 3), queue_name="mail")
    who = getpass.getuser()

    command("cancel", "--queue", "default", "--dry-run")
    command("cancel", "--queue", "default")
    command("pause", "mail")
    command("cancel", uid, "asyncjob_nobody")
    command("retry", uid)
    command("resume", "mail")
    command("purge", "--status", "CANCELLED")

    with shop.queue() as queue:
        told = [tuple(each)[2:] for each in reversed(queue.audit())]
    assert told == [
        (who, "command", "cancel", "status=READY,RUNNING queue=default", 2, "2 of 2"),
        (who, "command", "pause", "mail", 1, "done"),
        (who, "command", "cancel", uid, 1, "done"),
        (who, "command", "retry", uid, 1, "done"),
        (who, "command", "resume", "mail", 1, "done"),
        (who, "command", "purge", "status=CANCELLED", 2, "2 of 2"),
    ]


@pytest.mark.parametrize("action", ["cancel", "purge"])
def test_command_that_is_ended_early_says_so_in_the_audit(shop, command, monkeypatch, action):
    uids = shop.enqueue(*((shop.jobs.note, number) for number in range(5)))
    if action == "purge":
        command("cancel", *uids)
    note, noted = SqlAudit.note, []

    def stop_at_the_second(*given: Any) -> None:
        note(*given)
        noted.append(given)
        if len(noted) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SqlAudit, "note", stop_at_the_second)
    monkeypatch.setattr("tgext.asyncjob.cli.actions.CHANGED_AT_ONCE", 2)
    monkeypatch.setattr("tgext.asyncjob.backends.sql.pruning.PRUNED_AT_ONCE", 2)
    code, _ = command(action, "--name", f"{shop.jobs.__name__}.note")

    with shop.queue() as queue:
        record = queue.audit()[0]
        left = [each for each in queue.jobs().results if each.is_finished == (action == "purge")]
    assert code == 130
    assert (record.action, record.changed) == (action, 2)
    assert record.result == "ended early, after 2 of 5"
    assert len(left) == 3


@pytest.mark.parametrize("name", ["retry", "cancel"])
def test_jobs_are_named_in_one_way(shop, command, name):
    shop.enqueue((shop.jobs.note, 1))

    neither, both = command(name), command(name, "asyncjob_x", "--queue", "mail")
    dry = command(name, "asyncjob_x", "--dry-run")

    assert [neither[0], both[0], dry[0]] == [2, 2, 2]
    assert "expected which jobs, by their uids or a filter, got neither" in neither[1]
    assert "expected uids or a filter, got both" in both[1]
    assert "--dry-run is for a filter" in dry[1]


def test_queues_are_paused_and_resumed(shop, command):
    [uid] = shop.enqueue((shop.jobs.note, 1), queue_name="mail")

    assert command("pause", "mail", "bulk") == (0, "mail is paused\nbulk is paused\n")
    assert command("pause", "mail") == (1, "mail was paused before\n")
    told = command("status")[1]
    assert re.search(r"^mail +1 +0 +- +paused by \S+ \ds ago$", told, re.M)
    assert re.search(r"^bulk +0 +0 +- +paused by \S+ \ds ago$", told, re.M)
    assert "its queue 'mail' was paused by " in command("status", uid)[1]
    with shop.queue() as queue:
        assert queue.run_pending() == 0
    assert command("resume", "mail", "bulk") == (0, "mail is resumed\nbulk is resumed\n")
    assert command("resume", "mail") == (1, "mail was not paused\n")
    assert command("pause", "mail", "ma il")[0] == 2
    with shop.queue() as queue:
        assert queue.paused() == []
        assert queue.run_pending() == 1


# -- schedules


def test_schedules_are_listed_shown_and_changed(shop, command):
    with shop.queue():
        assert command("schedules") == (0, "there are no schedules\n")
    with shop.queue() as queue:
        queue.schedule("hourly", shop.jobs.note, [1], cron="0 * * * *", timezone="Europe/Berlin")
        queue.schedule("often", shop.jobs.note, [2], every=timedelta(days=9))

    listed = command("schedules")[1].splitlines()
    assert re.fullmatch(r"hourly +0 \* \* \* \* Europe/Berlin +in \d+\w( \d+\w)?", listed[1])
    assert re.fullmatch(r"often +every 9 days, 0:00:00 +in \d+\w( \d+\w)?", listed[2])
    assert command("schedules", "hourly", "--pause") == (0, "hourly is paused\n")
    assert command("schedules", "hourly", "--pause") == (1, "hourly was paused before\n")
    assert command("schedules", "hourly", "none", "--resume") == (
        1, "hourly is resumed\nthere is no schedule 'none'\n",
    )  # fmt: skip
    code, said = command("schedules", "often", "--run-now")
    assert code == 0
    uid = re.fullmatch(r"often enqueued (asyncjob_\w+)\n", said)[1]
    shown = command("schedules", "often")[1]
    assert re.search(rf"^\d{{4}}-.* UTC +enqueued +{uid} +run now$", shown, re.M)
    [data] = json.loads(command("schedules", "often", "--json")[1])
    assert (data["every_seconds"], data["ticks"][0]["uid"]) == (777_600.0, uid)
    assert len(json.loads(command("schedules", "--json")[1])) == 2
    assert command("schedules", "often", "--delete") == (0, "often is deleted\n")
    assert command("schedules", "often")[0] == 1
    assert command("schedules", "--pause")[0] == 2


def test_schedule_that_cannot_be_changed_hides_no_other(shop, command, monkeypatch):
    with shop.queue() as queue:
        queue.schedule("first", shop.jobs.note, [1], every=timedelta(days=9))
        queue.schedule("lost", shop.jobs.wrong, every=timedelta(days=9))
        queue.schedule("third", shop.jobs.note, [3], every=timedelta(days=9))
    monkeypatch.delattr(shop.jobs, "wrong")

    code, said = command("schedules", "first", "none", "lost", "third", "--run-now")

    assert code == 2
    first, unknown, lost, third = said.splitlines()
    assert first.startswith("first enqueued ")
    assert unknown == "there is no schedule 'none'"
    assert "no attribute 'wrong'" in lost
    assert third.startswith("third enqueued ")


@pytest.mark.parametrize(
    "arguments",
    [["resume"], ["schedules"], ["schedules", "--pause"], ["status"], ["cancel"], ["retry"],
     ["pause"], ["status", "--user"], ["status", "--queue"]],
    ids=" ".join,
)  # fmt: skip
def test_argument_that_is_no_text_is_unknown(shop, command, arguments):
    """Bytes of the command line that are no UTF-8 come as lone surrogates."""
    shop.enqueue((shop.jobs.note, 1))
    code, said = command(*arguments, "caf\udce9")

    assert code == (2 if arguments == ["pause"] else 1)
    assert "Traceback" not in said


# -- schema


def test_schema_tells_prints_and_makes_the_tables(shop, command):
    (shop.folder / "jobs.db").write_bytes(b"")
    before = command("schema")
    sql = command("schema", "--sql")
    upgrade = command("schema", "--upgrade")
    still_none = command("schema", "--json")
    made = command("schema", "--create")
    again = command("schema", "--create")
    after = command("schema")

    assert before == (1, "found: no tables\nexpected: version 3\n"
                         "make them: --create, or execute what --sql prints\n")  # fmt: skip
    assert sql[0] == 0
    assert f"CREATE TABLE {shop.prefix}jobs (" in sql[1]
    assert f"INSERT INTO {shop.prefix}schema (version, identity) VALUES (3, '" in sql[1]
    assert f"belong in the file {shop.folder}/jobs.db-asyncjob" in sql[1]
    assert upgrade == (2, "there are no tables to upgrade; make them: --create\n")
    assert (still_none[0], json.loads(still_none[1])) == (1, {"found": None, "expected": 3})
    assert made == (0, "made the tables in version 3\n")
    assert again == (0, "the tables existed, in version 3\n")
    assert after == (0, "found: version 3\nexpected: version 3\n")


def test_schema_of_a_newer_version_is_told_and_left_alone(shop, command):
    command("schema", "--create")
    table_of_version = make_tables(shop.prefix).schema
    engine = create_engine(shop.url)
    with engine.begin() as connection:
        connection.execute(update(table_of_version).values(version=99))
    engine.dispose()

    told, refused = command("schema"), command("schema", "--create")

    assert told[0] == 1
    assert "found: version 99\nexpected: version 3\na newer tgext.asyncjob made them" in told[1]
    assert refused[0] == 2
    assert "got version 99, which a newer tgext.asyncjob made" in refused[1]


# -- where the jobs are


@pytest.fixture
def app_module(tmp_path: Path, monkeypatch: Any) -> Iterator[str]:
    """A module of an application that makes its queues in several ways."""
    name = f"app_{uuid.uuid4().hex[:8]}"
    text = f"""
        from tgext.asyncjob import JobQueue

        URL = "sqlite:///{tmp_path}/of_the_app.db"

        def made():
            return JobQueue("sql", url=URL)

        def made_on(url):
            return JobQueue("sql", url=url)

        def memory():
            return JobQueue()

        def broken():
            raise KeyError("the street")

        number = 1
        """
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_app_names_a_callable_that_makes_the_queue(app_module, tmp_path, capsys):
    (tmp_path / "of_the_app.db").touch()

    code = main(["status", "--app", f"{app_module}:made"])

    assert code == 0
    assert f"database: sqlite:///{tmp_path}/of_the_app.db" in capsys.readouterr().out


def test_app_with_a_url_is_given_the_url(app_module, tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/other.db"
    (tmp_path / "other.db").touch()

    code = main(["status", "--app", f"{app_module}:made_on", "--url", url])

    assert code == 0
    assert f"database: {url}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["worker", "status", "retry x", "cancel x", "purge", "schema"])
def test_jobs_in_the_memory_of_a_process_are_refused_with_the_reason(app_module, name, capsys):
    code = main([*name.split(), "--app", f"{app_module}:memory"])

    assert code == 2
    assert "got asyncjob.backend = memory: it keeps them in the memory of the process that" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "expected --url URL, or --app MODULE:NAME, got neither"),
        (["--app", "no_such_module:queue"], "there is no module 'no_such_module'"),
        (["--app", "{app}:nothing"], "has no 'nothing'"),
        (["--app", "{app}"], "--app: expected MODULE:NAME, got 'app_"),
        (["--app", "{app}:number"], "expected a JobQueue, or a callable that returns one, got int"),
        (["--url", "sqlite://"], "expected a database that other connections see"),
        (["--url", "oracle://x/y"], "expected SQLite, PostgreSQL or MariaDB"),
        (["--url", "mysql+mysqldb://x/y"], "got mysql+mysqldb:// (No module named 'MySQLdb"),
        (["--url", "sqlite:///x.db", "--table-prefix", "a b"], "asyncjob.table_prefix: expected"),
    ],
)
def test_address_that_leads_nowhere_is_told_with_the_way_out(
    app_module, arguments, complaint, capsys
):
    code = main(["status", *(part.format(app=app_module) for part in arguments)])

    assert code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["status", "status x --json", "retry x", "cancel x", "purge", "schema", "schema --json",
     "schema --upgrade"],
)  # fmt: skip
def test_file_that_is_not_there_is_said_to_be_so_and_is_not_made(tmp_path, name, capsys):
    code = main([*name.split(), "--url", f"sqlite:///{tmp_path}/typo.db"])

    assert code == 3
    assert capsys.readouterr().err == (
        f"the database cannot be used: there is no file {str(tmp_path / 'typo.db')!r}; "
        "a worker makes it, and schema --create\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_file_is_made_by_who_makes_tables(tmp_path):
    code = main(["schema", "--create", "--url", f"sqlite:///{tmp_path}/new.db"])

    assert code == 0
    assert (tmp_path / "new.db").exists()


@pytest.mark.parametrize("name", ["worker", "status", "retry x", "schema"])
def test_application_that_raises_while_it_loads_is_shown_with_its_traceback(
    app_module, name, capsys
):
    code = main([*name.split(), "--app", f"{app_module}:broken"])

    told = capsys.readouterr().err
    assert code == 2
    assert 'in broken\n    raise KeyError("the street")\n' in told
    assert told.endswith(
        "KeyError: 'the street'\nthe application cannot be loaded; the lines above say why\n"
    )


def test_database_that_is_not_there_is_an_exit_code_of_its_own(capsys):
    code = main(["status", "--url", AWAY])

    assert code == 3
    assert "the database cannot be used: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["worker", "--proceses", "2"], "unrecognized arguments: --proceses 2"),
        (["worker", "--processes", "0"], "expected a whole number, 1 or more, got '0'"),
        (["worker", "--max-rss", "200M"], "expected a whole number, 1 or more, got '200M'"),
        (["worker", "--queues", "a,,b"], "expected names, separated by commas, each of 1 to 64"),
        (["worker", "--once", "--burst"], "--burst: not allowed with argument --once"),
        (["purge", "--status", "READY"], "expected one or more of SUCCESSFUL,FAILED,CANCELLED"),
        (["purge", "--status", "SUCCESFUL"], "did you mean SUCCESSFUL?"),
        (["purge", "--status", "FAILED,"], "there is no status ''"),
        (["purge", "--older-than", "-1"], "expected an age: seconds, 0 or more"),
        (["purge", "--older-than", "nan"], "expected an age"),
        (["purge", "--older-than", "inf"], "expected an age"),
        (["purge", "--older-than", "1e308d"], "expected an age"),
        (["purge", "--older-than", "36526d"], "expected an age"),
        (["purge", "--older-than", "3ms"], "expected an age"),
        (["purge", "--older-than", "d"], "expected an age"),
        (["purge", "--older-than", ""], "expected an age"),
        (["schema", "--sql", "--create"], "--create: not allowed with argument --sql"),
        (["pause"], "the following arguments are required: queue"),
        (["retry", "--status", "READY"], "expected one or more of SUCCESSFUL,FAILED,CANCELLED"),
        (["cancel", "--status", "FAILED"], "such a job has ended"),
        (["states"], "invalid choice: 'states'"),
        ([], "the following arguments are required: command"),
    ],
)
def test_command_line_that_makes_no_sense_is_refused(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)

    assert left.value.code == 2
    assert complaint in capsys.readouterr().err


def test_one_job_wants_one_thread(shop, command):
    code, text = command("worker", "--once", "--threads", "2")

    assert code == 2
    assert "--once runs one job: expected one process and one thread, got more" in text


def test_address_may_stand_in_the_environment(shop, monkeypatch, capsys):
    monkeypatch.setenv("ASYNCJOB_URL", shop.url)
    (shop.folder / "jobs.db").touch()

    assert main(["status"]) == 0
    assert f"database: {shop.url}" in capsys.readouterr().out


# -- docs/workers.rst


def test_every_command_line_of_the_docs_is_one() -> None:
    page = (Path(__file__).parent.parent / "docs" / "workers.rst").read_text(encoding="utf-8")
    found = r"^(?:    |ExecStart=.*)(?:gearbox asyncjob-|python -m tgext\.asyncjob )(\w+ -.*)$"
    lines = re.findall(found, page, re.M)
    named = set()
    for line in lines:
        name, *arguments = line.replace(" -c ", " --app ").split()
        named.add(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(entry_point, "run_command", lambda *_: 0)
            assert main([name, *arguments]) == 0, line

    assert named == {command.name for command in COMMANDS}


# -- tables


def test_table_fits_into_the_terminal_by_cutting_its_widest_columns(shop, command, monkeypatch):
    shop.enqueue((shop.jobs.note, 1), queue_name="a_queue_with_a_long_name." * 2)
    monkeypatch.setenv("COLUMNS", "60")

    _, text = command("status")

    lines = text.splitlines()[1:]
    assert max(len(line) for line in lines) <= 60
    assert any("..." in line for line in lines)


def test_table_is_as_wide_as_it_is_where_there_is_no_terminal():
    found = table(["NAME", "N"], [["x" * 200, 1], ["y", 22]], width=0)

    assert found.splitlines() == [
        "NAME" + " " * 198 + "N",
        "x" * 200 + "  1",
        "y" + " " * 201 + "22",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0.4, "0s"), (59, "59s"), (310, "5m 10s"), (7200, "2h 0m"), (200_000, "2d 7h")],
)
def test_length_of_time_is_told_in_its_two_largest_units(seconds, text):
    assert lasting(timedelta(seconds=seconds)) == text
