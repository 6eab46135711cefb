"""The supervisor of worker processes, with real processes: it dies, its children die, it is told.

Each test writes the program that supervises, and reads what its processes say: all of them write
whole lines to one pipe, so the order of lines is the order of events, and the end of the pipe
means that no process is left.
"""

from __future__ import annotations

import importlib.util
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from forked_python import ForkedPython
from needs import need
from tgext.asyncjob.errors import ConfigError, MissingExtra
from tgext.asyncjob.processes.recycling import RecycleLimits, rss_bytes
from tgext.asyncjob.processes.supervisor import Backoff, RestartPolicy, Supervisor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

#: The longest that a line may take to come. What is right comes nowhere near it.
PATIENCE_SECONDS = 20.0

#: What the programs import in the end.
IMPORTS = "logging tgext.asyncjob.processes.supervisor tgext.asyncjob.processes.recycling"

BEGINNING = """
import atexit, logging, os, signal, sys, threading
from tgext.asyncjob.processes.supervisor import NOTHING_LEFT, RECYCLED, RestartPolicy, Supervisor

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Lines(logging.Handler):
    def emit(self, record):
        say("log:", self.format(record))

logging.basicConfig(level=logging.INFO, handlers=[Lines()], format="%(message)s")
terminations = 0

def drain(*_):
    "Say so, and end: at once where there is nothing to wait for."
    global terminations
    terminations += 1
    say("drains" if terminations == 1 else "hurries", os.getpid())
    if terminations == 2 or not os.path.exists("busy"):
        os._exit(0)

def work():
    "Wait to be told to end."
    signal.signal(signal.SIGTERM, drain)
    say("born", os.getpid())
    # a signal that comes just before a wait is handled after it
    while not threading.Event().wait(0.05):
        pass

def supervise(child, processes=1, drain_seconds=30.0, **policy):
    return Supervisor(
        child,
        processes=processes,
        drain_seconds=drain_seconds,
        restart_policy=RestartPolicy(**policy),
    ).run()
"""


class Program:
    """A program that supervises, and the lines that its processes write.

    is_forked: from a process that has imported what it needs; else it is started as by a user.
    """

    def __init__(self, text: str, folder: Path, is_forked: bool) -> None:
        source = BEGINNING + textwrap.dedent(text)
        self.folder = folder
        command = [sys.executable, "-W", "error", "-c", source]
        given = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "cwd": folder,
            "env": {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"},
        }
        self.process: Any = (
            ForkedPython(command, imports=IMPORTS, **given)
            if is_forked
            else subprocess.Popen(command, **given)
        )
        self.said: list[str] = []
        self._pids: set[int] = set()
        self._text = b""
        self._read = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, pattern: str) -> re.Match[str]:
        """Read on to the next line that matches; one that does not come fails the test."""
        while True:
            while self._read < len(self.said):
                self._read += 1
                if found := re.search(pattern, self.said[self._read - 1]):
                    return found
            assert self._more(), f"nobody said {pattern!r}, but:\n" + "\n".join(self.said)

    def pids(self, word: str, times: int) -> list[int]:
        """The processes that say *word*, as often as that."""
        return [int(self.line(rf"^{word} (\d+)")[1]) for _ in range(times)]

    def ended(self) -> int:
        """Read until no process is left that could write; return the exit code."""
        while self._more():
            pass
        return self.process.wait(PATIENCE_SECONDS)

    def tell(self, number: int) -> None:
        self.process.send_signal(number)

    def kill_what_is_left(self) -> None:
        self.process.kill()
        self.process.wait()
        for line in self.said:
            for pid in re.findall(r"^log: worker process (\d+) started", line):
                with suppress(psutil.Error):
                    child = psutil.Process(int(pid))
                    if "asyncjob" in "".join(child.cmdline()):  # no stranger with an old pid
                        child.kill()
        self.ended()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _more(self) -> bool:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            ready, _, _ = select.select([fd], [], [], max(0.0, until - time.monotonic()))
            assert ready, "nobody said anything more, but:\n" + "\n".join(self.said)
            read = os.read(fd, 65536)
            if not read:
                return False
            *lines, self._text = (self._text + read).split(b"\n")
            self.said += [line.decode() for line in lines]
            if lines:
                return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts a program; what is left of it is killed when the test is over."""
    need(hasattr(os, "fork"), "a system with fork")
    started = []

    def begin(text: str, is_forked: bool = True) -> Program:
        started.append(Program(text, tmp_path, is_forked))
        return started[-1]

    yield begin
    for program in started:
        program.kill_what_is_left()


# -- death and replacement


def test_child_that_is_killed_is_replaced_at_once_and_leaves_no_zombie(start):
    program = start("sys.exit(supervise(work, processes=2))")
    first, second = program.pids("born", 2)

    os.kill(first, signal.SIGKILL)

    program.line(rf"^log: worker process {first} was killed by SIGKILL after .*; replaced at once")
    [third] = program.pids("born", 1)
    assert not psutil.pid_exists(first)
    assert {child.pid for child in psutil.Process(program.pid).children()} == {second, third}


def test_every_death_is_one_line_that_tells_pid_exit_code_and_age(start):
    program = start(
        """
        def child():
            if os.path.exists("been"):
                return NOTHING_LEFT
            open("been", "w").close()
            say("born", os.getpid())
            return 3

        sys.exit(supervise(child))
        """
    )
    [born] = program.pids("born", 1)

    program.ended()

    [line] = [line for line in program.said if f"process {born}" in line and "started" not in line]
    assert re.fullmatch(
        rf"log: worker process {born} failed with exit code 3 after \d+\.\ds; replaced at once",
        line,
    )


def test_child_that_has_run_its_share_is_replaced_at_once_however_young(start):
    program = start(
        """
        def child():
            with open("runs", "a+") as runs:
                runs.write("x")
                runs.seek(0)
                return RECYCLED if len(runs.read()) < 15 else NOTHING_LEFT

        sys.exit(supervise(child, first_pause=1000.0))
        """
    )

    code = program.ended()

    ends = [line for line in program.said if " after " in line]
    assert code == 0
    assert len([line for line in ends if line.endswith("replaced at once")]) == 14
    assert ends[-1].endswith("not replaced")


def test_run_ends_when_no_child_has_anything_left_to_do(start):
    program = start(
        """
        def child():
            say("born", os.getpid())
            return NOTHING_LEFT

        code = supervise(child, processes=3)
        say("code", code)
        """
    )

    assert program.ended() == 0
    assert len([line for line in program.said if line.startswith("born")]) == 3
    assert program.said[-1] == "code 0"


def test_child_that_dies_before_nothing_is_left_is_replaced(start):
    program = start(
        """
        def child():
            try:
                os.close(os.open("died", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return NOTHING_LEFT
            os.kill(os.getpid(), signal.SIGKILL)

        sys.exit(supervise(child, processes=2))
        """
    )

    assert program.ended() == 0
    assert len([line for line in program.said if "started" in line]) == 3


# -- backoff


def test_pauses_double_up_to_a_bound_and_begin_anew_after_a_child_that_settled():
    backoff = Backoff(RestartPolicy(settled=5.0, first_pause=0.1, longest_pause=0.5))

    young = [backoff.after(0.5) for _ in range(6)]
    settled = backoff.after(5.0)
    again = [backoff.after(4.9) for _ in range(2)]

    assert young == [0.0, 0.1, 0.2, 0.4, 0.5, 0.5]
    assert settled == 0.0
    assert again == [0.0, 0.1]


def test_pauses_stay_bounded_however_many_children_die():
    backoff = Backoff(RestartPolicy(longest_pause=30.0))

    assert max(backoff.after(0.0) for _ in range(5000)) == 30.0


def test_supervisor_gives_up_when_no_child_survives_its_start(start):
    program = start(
        """
        def child():
            raise ValueError("the .ini is wrong")

        sys.exit(supervise(child, processes=2, deaths=6, first_pause=0.01, longest_pause=0.04))
        """
    )

    code = program.ended()

    pauses = re.findall(r"failed with exit code 1 after .*; (.*)", "\n".join(program.said))
    assert code == 1
    assert pauses[:6] == [
        "replaced at once",
        "replaced in 0.01s",
        "replaced in 0.02s",
        "replaced in 0.04s",
        "replaced in 0.04s",
        "not replaced",
    ]
    assert "ValueError: the .ini is wrong" in program.said
    assert any(line.startswith("log: giving up: 6 worker processes") for line in program.said)


def test_supervisor_does_not_give_up_while_another_child_lives_well(start):
    program = start(
        """
        def child():
            try:
                os.close(os.open("taken", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                say("crashes")
                return 7
            work()

        sys.exit(supervise(
            child, processes=2, settled=0.3, deaths=4, first_pause=0.2, longest_pause=0.2
        ))
        """
    )
    [well] = program.pids("born", 1)

    for _ in range(6):  # the fourth dies 0.4 s after the first: by then the other has settled
        program.line("^crashes")
    program.tell(signal.SIGTERM)

    assert program.ended() == 0
    assert f"drains {well}" in program.said


# -- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_told_to_end_the_supervisor_has_its_children_drain(start, number):
    program = start("sys.exit(supervise(work, processes=3))")
    born = program.pids("born", 3)

    program.tell(number)

    assert program.ended() == 0
    assert sorted(f"drains {pid}" for pid in born) == sorted(
        line for line in program.said if line.startswith("drains")
    )
    assert len([line for line in program.said if line.endswith("not replaced")]) == 3


def test_second_signal_is_handed_on_so_that_children_stop_at_once(start, tmp_path):
    (tmp_path / "busy").touch()
    program = start("sys.exit(supervise(work, processes=2))")
    born = program.pids("born", 2)
    program.tell(signal.SIGTERM)
    drain = program.pids("drains", 2)

    program.tell(signal.SIGTERM)

    assert sorted(program.pids("hurries", 2)) == sorted(drain) == sorted(born)
    assert program.ended() == 0


def test_child_that_does_not_drain_in_time_is_killed(start, tmp_path):
    (tmp_path / "busy").touch()
    program = start("sys.exit(supervise(work, drain_seconds=0.5, margin=0.5))")
    [born] = program.pids("born", 1)

    program.tell(signal.SIGTERM)

    assert program.ended() == 0
    assert f"drains {born}" in program.said
    assert any(f"worker process {born} has not ended 1.0s after" in line for line in program.said)
    assert any(f"worker process {born} was killed by SIGKILL" in line for line in program.said)


def test_child_that_is_still_starting_ends_at_the_first_signal(start):
    program = start(
        """
        def child():
            say("born", os.getpid())
            threading.Event().wait()  # SIGTERM does what it does by default

        sys.exit(supervise(child))
        """
    )
    program.pids("born", 1)

    program.tell(signal.SIGTERM)

    assert program.ended() == 0
    assert any("was killed by SIGTERM" in line for line in program.said)


def test_interrupt_of_a_whole_terminal_reaches_a_child_once_and_as_a_drain(start, tmp_path):
    (tmp_path / "busy").touch()
    program = start("sys.exit(supervise(work, drain_seconds=0.5, margin=0.5))")
    [born] = program.pids("born", 1)

    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(born, number)
    program.tell(signal.SIGINT)

    assert program.ended() == 0
    assert f"drains {born}" in program.said
    assert f"hurries {born}" not in program.said


@pytest.mark.parametrize("obeys", [True, False], ids=["drains", "hangs"])
def test_supervisor_that_is_killed_leaves_no_child_behind(start, tmp_path, obeys):
    if not obeys:
        (tmp_path / "busy").touch()
    program = start("supervise(work, processes=2, drain_seconds=0.5, margin=0.5)")
    born = program.pids("born", 2)

    os.kill(program.pid, signal.SIGKILL)

    assert program.ended() == -signal.SIGKILL  # the pipe has ended: nobody holds it any more
    assert {f"drains {pid}" for pid in born} <= set(program.said)


# -- one by one


def test_hangup_replaces_the_children_one_by_one(start):
    program = start("sys.exit(supervise(work, processes=3, settled=0.05))")
    first = program.pids("born", 3)

    program.tell(signal.SIGHUP)
    second = program.pids("born", 3)
    program.tell(signal.SIGTERM)

    assert program.ended() == 0
    assert not set(first) & set(second)
    events = [
        match[0]
        for line in program.said
        if (match := re.search(r"drains (\d+)|process (\d+) started|(\d+) ended after", line))
    ]
    one = ["drains ", " ended after", "process  started"]
    assert [re.sub(r"\d+", "", event) for event in events[3:12]] == 3 * one


def test_hangup_goes_no_further_than_a_child_that_cannot_start(start, tmp_path):
    broken = tmp_path / "broken"
    program = start(
        """
        def child():
            return 9 if os.path.exists("broken") else work()

        sys.exit(supervise(
            child, processes=2, settled=2.0, first_pause=0.01, longest_pause=0.05, deaths=2
        ))
        """
    )
    first, second = program.pids("born", 2)
    broken.touch()

    program.tell(signal.SIGHUP)
    [told] = program.pids("drains", 1)
    for _ in range(6):
        program.line("failed with exit code 9")
    [other] = {first, second} - {told}
    drained_early = f"drains {other}" in program.said
    broken.unlink()

    assert not drained_early
    assert program.pids("drains", 1) == [other]  # the one in the place of the first has settled


def test_hangup_retries_at_once_what_waits_to_be_started(start, tmp_path):
    (tmp_path / "broken").touch()
    program = start(
        """
        def child():
            return 9 if os.path.exists("broken") else work()

        sys.exit(supervise(child, first_pause=1000.0, longest_pause=1000.0))
        """
    )
    program.line(r"replaced in 1000.00s")
    (tmp_path / "broken").unlink()

    program.tell(signal.SIGHUP)

    assert program.pids("born", 1)


def test_end_does_not_hurry_a_child_that_a_hangup_has_told(start, tmp_path):
    (tmp_path / "busy").touch()
    program = start("sys.exit(supervise(work, drain_seconds=0.2, margin=0.1, settled=0.0))")
    [born] = program.pids("born", 1)
    program.tell(signal.SIGHUP)
    program.pids("drains", 1)

    program.tell(signal.SIGTERM)

    assert program.ended() == 0
    assert f"hurries {born}" not in program.said


# -- the room between parent and child


def test_what_runs_at_exit_is_run_by_the_process_that_registered_it(start):
    program = start(
        """
        sys.stdout.write("written before the fork\\n")
        atexit.register(say, "the parent's exit", os.getpid())

        def child():
            atexit.register(say, "the child's exit", os.getpid())
            threading.Thread(target=threading.Event().wait).start()  # no daemon: not waited for
            sys.stdout.write("written by the child")
            return NOTHING_LEFT

        sys.exit(supervise(child))
        """
    )

    assert program.ended() == 0
    told = "\n".join(program.said)
    assert re.findall(r"the parent's exit (\d+)", told) == [str(program.pid)]
    assert len(re.findall(r"the child's exit", told)) == 1
    assert told.count("written before the fork") == 1
    assert told.count("written by the child") == 1


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("raise SystemExit(4)", "failed with exit code 4"),
        ("raise SystemExit('no such queue')", "failed with exit code 1"),
        ("raise SystemExit", "ended"),
        ("return 'words'", "failed with exit code 1"),
        ("raise KeyboardInterrupt", "failed with exit code 1"),
    ],
)
def test_child_leaves_with_a_status_whatever_it_raises_or_returns(start, ending, words):
    program = start(
        f"""
        def child():
            if os.path.exists("been"):
                return NOTHING_LEFT
            open("been", "w").close()
            {ending}

        try:
            sys.exit(supervise(child))
        finally:
            say("left", os.getpid())
        """
    )

    assert program.ended() == 0
    assert [line for line in program.said if line.startswith("left")] == [f"left {program.pid}"]
    assert any(re.search(rf"worker process \d+ {words} after", line) for line in program.said)


def test_child_inherits_nothing_but_its_end_of_the_lifeline(start):
    program = start(
        """
        def child():
            say("pipes", *[fd for fd in range(3, 64) if os.path.exists(f"/dev/fd/{fd}")])
            say("wakeup", signal.set_wakeup_fd(-1), signal.pthread_sigmask(signal.SIG_BLOCK, []))
            return NOTHING_LEFT

        def ours():
            return [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)], [
                fd for fd in range(64) if os.path.exists(f"/dev/fd/{fd}")]

        before = ours()
        supervise(child, processes=2)
        say("as before", before == ours(), signal.set_wakeup_fd(-1))
        """
    )

    assert program.ended() == 0
    pipes = [line for line in program.said if line.startswith("pipes")]
    assert [len(line.split()) for line in pipes] == [2, 2]  # the word, and one number
    assert program.said.count("wakeup -1 set()") == 2
    assert program.said[-1] == "as before True -1"


def test_processes_have_titles(start):
    need(importlib.util.find_spec("setproctitle"), "setproctitle (pip install setproctitle)")
    program = start("sys.exit(supervise(work, processes=2))", is_forked=False)
    born = program.pids("born", 2)

    titles = [" ".join(psutil.Process(pid).cmdline()).strip() for pid in [program.pid, *born]]

    assert titles[0] == "asyncjob-worker: supervisor (2 processes)"
    assert sorted(titles[1:]) == [
        "asyncjob-worker: process 1 of 2",
        "asyncjob-worker: process 2 of 2",
    ]


def test_supervisor_loads_neither_threads_nor_heavy_packages(start):
    program = start(
        """
        def child():
            return NOTHING_LEFT

        supervise(child)
        heavy = {"sqlalchemy", "tg", "zope.sqlalchemy", "psycopg"} & set(sys.modules)
        say("heavy", sorted(heavy), threading.active_count())
        """,
        is_forked=False,
    )

    assert program.ended() == 0
    assert program.said[-1] == "heavy [] 1"


def test_supervisor_of_no_process_is_refused():
    with pytest.raises(ConfigError, match="processes: expected 1 or more, got 0"):
        Supervisor(lambda: 0, processes=0, drain_seconds=1.0)


def test_system_without_fork_is_refused(monkeypatch):
    monkeypatch.delattr(os, "fork", raising=False)

    with pytest.raises(ConfigError, match="expected a system with fork"):
        Supervisor(lambda: 0, processes=1, drain_seconds=1.0)


# -- how much a process may run


@pytest.mark.parametrize(
    ("limits", "jobs", "are_reached"),
    [
        (RecycleLimits(), 10**9, False),
        (RecycleLimits(max_jobs=10), 9, False),
        (RecycleLimits(max_jobs=10), 10, True),
        (RecycleLimits(max_rss_bytes=1), 0, True),
        (RecycleLimits(max_jobs=10, max_rss_bytes=1 << 50), 9, False),
    ],
)
def test_recycle_limits_are_reached_by_jobs_or_by_memory(limits, jobs, are_reached):
    assert limits.are_reached(jobs) is are_reached


@pytest.mark.parametrize("bound", [{"max_jobs": 0}, {"max_rss_bytes": -1}])
def test_recycle_limit_of_nothing_is_refused(bound):
    with pytest.raises(ConfigError, match="expected 1 or more, or None for no bound"):
        RecycleLimits(**bound)


def test_memory_is_told_by_the_system_where_psutil_is_missing(monkeypatch):
    need(Path("/proc/self/statm").exists(), "Linux, which tells a process its memory")
    by_psutil = rss_bytes()
    monkeypatch.setattr("tgext.asyncjob.processes.recycling.psutil", None)

    by_the_system = rss_bytes()

    assert by_the_system == pytest.approx(by_psutil, rel=0.05)


def test_bound_for_memory_that_nobody_tells_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr("tgext.asyncjob.processes.recycling.psutil", None)
    monkeypatch.setattr("tgext.asyncjob.processes.recycling.STATM", tmp_path / "not-linux")

    with pytest.raises(MissingExtra, match=r"tgext.asyncjob\[worker\]"):
        RecycleLimits(max_rss_bytes=1 << 30)
    RecycleLimits(max_jobs=1)
