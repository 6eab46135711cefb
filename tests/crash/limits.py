"""Kill workers while jobs with limits and a rate run, and replay what has run beside what.

    PYTHONPATH=tests python -m crash.limits                          30 kills on each database
    PYTHONPATH=tests python -m crash.limits --db sqlite --kills 200 --jobs 2000
    PYTHONPATH=tests python -m crash.limits --engine celery          workers of Celery, PostgreSQL
    PYTHONPATH=tests python -m crash.limits --backlog 100000         the first job of another key

Exits with 0 if no limit was ever exceeded, each is still reached after the kills, every job has
succeeded, and in no window more attempts have started than the rate allows.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from databases import SERVERS, url_of
from tgext.asyncjob import JobQueue, asyncjob_result, asyncjob_running_uid, task
from tgext.asyncjob.job import FAILED, READY, RUNNING, SUCCESSFUL

KINDS = ("sqlite", *SERVERS)

#: The keys and their limits; the rate, its starts and seconds.
LIMITS = {"one": 1, "two": 2}
STARTS, WINDOW = 5, 2.0

#: Processes with a worker, and threads of each.
PROCESSES, THREADS = 3, 3

#: Seconds that a job takes, at most; between two kills; in which something must happen.
JOB_SECONDS, KILL_SECONDS, PATIENCE_SECONDS = 0.2, (0.3, 1.2), 120.0

#: How long the job takes behind which a backlog waits; jobs that are enqueued in one transaction.
BACKLOG_SECONDS, ENQUEUED_AT_ONCE = 600.0, 5_000

#: Of the queue of each worker: so many kills are no fault of a job.
OPTIONS = {"lease": 2, "max_crashes": 1_000}

#: The name of the variable with the path of the journal.
JOURNAL = "ASYNCJOB_TEST_JOURNAL"


def note(*words: object) -> None:
    """Append a line to the journal, in one write."""
    line = " ".join(map(str, words)) + "\n"
    handle = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line.encode())
    os.close(handle)


def work(key: str, seconds: float) -> None:
    """What each job with a limit does."""
    note("begin", time.time(), os.getpid(), key, asyncjob_running_uid())
    time.sleep(seconds)
    note("end", time.time(), os.getpid(), key, asyncjob_running_uid())


@task(limit=1, limit_key=lambda key, _seconds: key, max_attempts=50)
def one(key: str, seconds: float) -> None:
    work(key, seconds)


@task(limit=2, limit_key=lambda key, _seconds: key, max_attempts=50)
def two(key: str, seconds: float) -> None:
    work(key, seconds)


@task(rate=f"{STARTS}/{WINDOW:g}s", max_attempts=50)
def often() -> None:
    """Note the instant of its claim, as the database has it."""
    found = asyncjob_result(asyncjob_running_uid())
    note("start", found.last_attempted_at.timestamp(), os.getpid(), "often", found.id)


TASKS = {"one": one, "two": two}


class Figures(NamedTuple):
    """What came of a run."""

    jobs: int
    kills: int
    undone: int  #: attempts whose process was killed
    most: dict[str, int]  #: at work at once, by key
    after: dict[str, int]  #: the same after the kills
    starts: int  #: the most in a window
    left: dict[str, int]  #: jobs that have not succeeded, by status
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether no limit was exceeded, and each is still reached."""
        within = all(self.most[key] <= limit for key, limit in LIMITS.items())
        return within and self.after == LIMITS and self.starts <= STARTS and not self.left


class Worker:
    """A process that runs jobs until it is killed or its input ends."""

    def __init__(self, url: str, prefix: str) -> None:
        program = [sys.executable, "-m", "crash.limits", "--serve", url, prefix]
        folder = Path(__file__).parents[1]
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE, cwd=folder)

    def kill(self) -> None:
        """Kill it, and note when it is certainly dead."""
        self.process.kill()
        self.process.wait(60)
        note_death(self.process.pid)

    def end(self) -> None:
        """Let it end by itself."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(60)


class OwnWorkers:
    """Some of them, each replaced when it is killed."""

    def __init__(self, url: str, prefix: str) -> None:
        self._start = partial(Worker, url, prefix)
        self._each = [self._start() for _ in range(PROCESSES)]

    def strike(self) -> None:
        """Kill one that has begun a job."""
        pids = [each.process.pid for each in self._each]
        at = pids.index(random.choice(begun(lambda: pids)))
        self._each[at].kill()
        self._each[at] = self._start()

    def end(self) -> None:
        """Let them end by themselves."""
        for each in self._each:
            each.end()


def note_death(pid: int) -> None:
    """Note that a process is dead, which held its slots until then."""
    note("killed", time.time(), pid, "-", "-")


def serve(url: str, prefix: str) -> None:
    """Be such a process."""
    options = {"threads": THREADS, **OPTIONS}
    with JobQueue("sql", url=url, table_prefix=prefix, **options) as queue:
        queue.start_worker()
        sys.stdin.read()


@contextmanager
def workers_of(engine: str, place: dict[str, Any]) -> Iterator[tuple[JobQueue, Any]]:
    """Make a queue, and the workers. place: the options of the queue that tell its tables."""
    if engine == "own":
        with JobQueue("sql", threads=0, **place) as queue:
            yield queue, OwnWorkers(place["url"], place["table_prefix"])
        return
    from .limits_fleet import CeleryWorkers, redis_options

    with redis_options() as options, JobQueue("sql", **place, **options) as queue:
        folder = Path(os.environ[JOURNAL]).parent
        yield queue, CeleryWorkers({**place, **options, **OPTIONS}, folder, begun, note_death)


def soak(url: str, kills: int, number: int, engine: str) -> Figures:
    """Run so many jobs with that many kills."""
    prefix, began = f"l{uuid.uuid4().hex[:8]}_", time.monotonic()
    place = {"url": url, "table_prefix": prefix}
    with workers_of(engine, place) as (queue, workers), queue.as_current():
        try:
            enqueue(queue, number)
            for _ in range(kills):
                time.sleep(random.uniform(*KILL_SECONDS))
                workers.strike()
                enqueue(queue, 10)  # so that there is always work
            until(queue)
            after = time.time()
            enqueue(queue, 30, JOB_SECONDS)
            until(queue)
            left = {str(status): n for status, n in queue.backend.counts().items() if n}
        finally:
            workers.end()
            tables = queue.backend.tables  # type: ignore[attr-defined]
            tables.metadata.drop_all(queue.backend.engine)  # type: ignore[attr-defined]
    jobs = left.pop(str(SUCCESSFUL), 0)
    return figures(jobs, kills, left, after, time.monotonic() - began)


def begun(alive: Callable[[], Sequence[int]]) -> list[int]:
    """Wait until some of the processes that are alive have begun a job, and return these: on a busy
    machine it takes a while, and the death of one that has not would show nothing."""
    journal, deadline = Path(os.environ[JOURNAL]), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        lines = journal.read_text().splitlines() if journal.exists() else []
        noted = {line.split()[2] for line in lines if line.startswith("begin")}
        if found := [pid for pid in alive() if str(pid) in noted]:
            return found
        time.sleep(0.05)  # another process tells nobody
    raise AssertionError(f"no worker has begun a job in {PATIENCE_SECONDS:g} s")


def first_of_another_key(url: str, backlog: int) -> float:
    """Return the seconds until the first job of a key starts beside so many of another one."""
    prefix = f"l{uuid.uuid4().hex[:8]}_"
    with JobQueue("sql", url=url, table_prefix=prefix, threads=0) as queue, queue.as_current():
        worker = Worker(url, prefix)
        try:
            first = one.enqueue("full", BACKLOG_SECONDS)
            while first.status != RUNNING:
                time.sleep(0.05)
                first.refresh()
            for _ in range(0, backlog, ENQUEUED_AT_ONCE):
                queue.perform_many(one, [("full", 0.0)] * ENQUEUED_AT_ONCE)
            began = time.time()
            other = one.enqueue("another", 0.0).wait(60)
            first.refresh()
            assert first.status == RUNNING, "the backlog has begun"
            assert other.started_at is not None
            return other.started_at.timestamp() - began
        finally:
            worker.kill()
            tables = queue.backend.tables  # type: ignore[attr-defined]
            tables.metadata.drop_all(queue.backend.engine)  # type: ignore[attr-defined]


def enqueue(queue: JobQueue, number: int, seconds: float | None = None) -> None:
    for key, each in TASKS.items():
        some = [random.uniform(0.0, JOB_SECONDS) if seconds is None else seconds] * number
        queue.perform_many(each, [(key, each_seconds) for each_seconds in some])
    queue.perform_many(often, [() for _ in range(max(1, number // 4))])


def until(queue: JobQueue) -> None:
    """Wait until nothing waits or runs."""
    deadline, last = 0.0, -1
    while (counts := queue.backend.counts())[READY] or counts[RUNNING]:
        if counts[SUCCESSFUL] != last:
            deadline, last = time.monotonic() + PATIENCE_SECONDS, counts[SUCCESSFUL]
        if time.monotonic() > deadline or counts[FAILED]:
            raise AssertionError(f"waited in vain: {counts}")
        time.sleep(0.05)  # another process tells nobody


# -- the journal


def figures(jobs: int, kills: int, left: dict[str, int], after: float, seconds: float) -> Figures:
    """Replay the journal."""
    lines = [line.split() for line in Path(os.environ[JOURNAL]).read_text().splitlines()]
    of_each: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    running: dict[tuple[str, str, str], None] = {}
    starts, undone = [], 0
    for word, at, pid, key, uid in sorted(lines, key=lambda line: float(line[1])):
        if word == "start":
            starts.append(float(at))
        elif word == "begin":
            running[pid, key, uid] = None
            of_each[key].append((float(at), 1))
        elif word == "end":
            running.pop((pid, key, uid), None)
            of_each[key].append((float(at), -1))
        else:
            ended = [each for each in running if each[0] == pid]
            undone += len(ended)
            for each in ended:
                del running[each]
                of_each[each[1]].append((float(at), -1))
    most = {key: highest(of_each[key], 0.0) for key in LIMITS}
    at_end = {key: highest(of_each[key], after) for key in LIMITS}
    return Figures(jobs, kills, undone, most, at_end, in_a_window(starts), left, seconds)


def highest(changes: Sequence[tuple[float, int]], after: float) -> int:
    """The most at work at once, from an instant on."""
    now = most = 0
    for at, change in sorted(changes):
        now += change
        most = max(most, now) if at >= after else most
    return most


def in_a_window(starts: Sequence[float]) -> int:
    """The most starts in any window."""
    ordered = sorted(starts)
    return max((sum(at <= other < at + WINDOW for other in ordered) for at in ordered), default=0)


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--db", type=lambda text: text.split(","))
    parser.add_argument("--engine", choices=["own", "celery"], default="own")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=150)
    parser.add_argument("--backlog", type=int)
    parser.add_argument("--serve", nargs=2, metavar=("URL", "PREFIX"))
    wanted = parser.parse_args()
    if wanted.serve:
        serve(*wanted.serve)
        return 0
    wanted.db = wanted.db or (["postgresql"] if wanted.engine == "celery" else KINDS)
    # Under the name by which the workers find them.
    from crash import limits

    if wanted.backlog:
        return _measure(limits.first_of_another_key, wanted.db, wanted.backlog)
    run: Callable[[str, int, int, str], Figures] = limits.soak
    right = []
    for kind in wanted.db:
        with tempfile.TemporaryDirectory() as folder:
            os.environ[JOURNAL] = f"{folder}/journal"
            found = run(url_of(kind, Path(folder)), wanted.kills, wanted.jobs, wanted.engine)
        right.append(found.is_right)
        sys.stdout.write(
            f"{kind:<10}{' on Celery:' * (wanted.engine == 'celery')} "
            f"{found.jobs:,} jobs, {found.kills} kills, {found.undone} attempts undone, "
            f"{found.seconds:.0f} s; at once at most {found.most}, after the kills {found.after}; "
            f"at most {found.starts} starts in {WINDOW:g} s; left {found.left}: "
            f"{'right' if found.is_right else 'WRONG'}\n"
        )
        sys.stdout.flush()
    return int(not all(right))


def _measure(measure: Callable[[str, int], float], kinds: Sequence[str], backlog: int) -> int:
    found = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            os.environ[JOURNAL] = f"{folder}/journal"
            found.append(measure(url_of(kind, Path(folder)), backlog))
        sys.stdout.write(f"{kind:<10} {found[-1]:.3f} s beside {backlog:,} jobs of another key\n")
        sys.stdout.flush()
    return int(max(found) > 1.0)


if __name__ == "__main__":
    sys.exit(main())
