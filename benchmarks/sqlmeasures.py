"""The measurements that every durable queue goes through, in processes of their own.

A stand is one contender in one process, open for as long as one table takes: "open" makes its
tables (or, in a worker's process, finds them), "close" ends it.
"""

import gc
import importlib
import random
import time
from collections.abc import Callable
from typing import Any

from sqljobs import PATIENCE_SECONDS, STAMPS, TALLY

#: module and class of each contender; imported late, since no environment has them all
CONTENDERS = {
    "core": "sqlbare:Core",
    "copy": "sqlbare:Copy",
    "session": "sqlbare:Session",
    "sqlite loop": "sqlbare:SqliteLoop",
    "psycopg loop": "sqlbare:PsycopgLoop",
    "notify": "sqlbare:Notify",
    "claim": "sqlbare:NotifyAndClaim",
    "huey": "sqlhuey:Huey",
    "pgqueuer": "sqlasync:PgQueuer",
    "procrastinate": "sqlasync:Procrastinate",
    "chancy": "sqlasync:Chancy",
    "ours": "sqlours:Ours",
    "ours by task": "sqlours:OursByTask",
}
DURABLE = {"2", "on"}  # SQLite: FULL; PostgreSQL: synchronous_commit

_open: list[Any] = []


def open_stand(kind: str, url: str, create: bool = True, **options: int) -> float:
    """Open a contender. Raises RuntimeError when its commits are not durable."""
    module, name = CONTENDERS[kind].split(":")
    contender = getattr(importlib.import_module(module), name)(url, create, **options)
    _open.append(contender)
    if (asked := contender.durability()) not in DURABLE:
        raise RuntimeError(f"expected durable commits of {kind}, its connection says {asked!r}")
    return 0.0


def close_stand() -> float:
    while _open:
        _open.pop().close()
    return 0.0


def fill(jobs: int) -> float:
    """Give the contender a standing backlog; seconds that it took."""
    begun = time.perf_counter()
    _open[-1].fill(jobs)
    return time.perf_counter() - begun


def enqueue_seconds(jobs: int) -> float:
    """Seconds for *jobs* enqueues, each with a commit of its own; no worker runs."""
    return _repeated(_open[-1].enqueuer("tick"), jobs)


def request_seconds(jobs: int) -> float:
    """Seconds for *jobs* transactions: a row of the application's own, an enqueue, a commit."""
    return _repeated(_open[-1].requester("tick"), jobs)


def batch_seconds(jobs: int, job: str = "tick") -> float:
    """Seconds to enqueue *jobs* in one transaction."""
    gc.collect()
    begun = time.perf_counter()
    _open[-1].enqueue_many(job, jobs)
    return time.perf_counter() - begun


def _repeated(act: Callable[[], Any], times: int) -> float:
    act()
    gc.collect()
    begun = time.perf_counter()
    for _ in range(times):
        act()
    return time.perf_counter() - begun


def drain_seconds(job: str, jobs: int) -> float:
    """Enqueue *jobs*, and give the seconds that they take to run."""
    batch_seconds(jobs, job)
    return run_seconds(job, jobs)


def run_seconds(job: str, jobs: int) -> float:
    """Seconds from the first line of the first of *jobs* until the last mark is committed.

    They were enqueued before; all of them are waiting when the worker starts, in this process.
    Raises RuntimeError when not all of the marks come, or when the rows that jobs insert are not
    there in the end.
    """
    contender = _open[-1]
    expected = contender.written() + (jobs if job == "write" else 0)
    TALLY.expect(jobs)
    gc.collect()
    contender.start()
    try:
        TALLY.wait()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while contender.unfinished():
            if time.monotonic() > deadline:
                raise RuntimeError(f"expected {jobs} marks, not all came in {PATIENCE_SECONDS} s")
            time.sleep(0.002)
        seconds = time.perf_counter() - TALLY.began_at
    finally:
        contender.stop()
    if (rows := contender.written()) != expected:
        raise RuntimeError(f"expected {expected} rows of jobs to be committed, found {rows}")
    return seconds


def serve(stamps: str) -> float:
    """Start a worker whose jobs write stamps; it runs until `rest`."""
    STAMPS.open(stamps)
    _open[-1].start()
    return 0.0


def rest() -> float:
    _open[-1].stop()
    STAMPS.close()
    return 0.0


def latencies(stamps: str, jobs: int, pause: float) -> list[float]:
    """Seconds from the commit of a job to its first line in another process, of *jobs* jobs.

    One at a time, with random pauses up to *pause* seconds. From just before the commit, so that
    what follows a commit is measured too.
    """
    enqueue = _open[-1].timed("stamp")
    STAMPS.open(stamps)
    found = []
    for _ in range(jobs):
        time.sleep(random.uniform(0.005, pause))
        begun = enqueue()
        found.append((STAMPS.read() - begun) / 1e9)
    STAMPS.close()
    return found


MEASURES: dict[str, Callable[..., Any]] = {
    "open": open_stand,
    "close": close_stand,
    "fill": fill,
    "enqueue": enqueue_seconds,
    "request": request_seconds,
    "batch": batch_seconds,
    "run": run_seconds,
    "drain": drain_seconds,
    "serve": serve,
    "rest": rest,
    "latency": latencies,
}
