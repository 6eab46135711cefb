"""The measurements that every contender goes through, in a process of its own.

"Held" means that each worker thread waits inside a job, so that what is measured is the
enqueue and not the race with the worker for the interpreter.
"""

import contextlib
import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator

from contenders import CONTENDERS, Contender
from jobs import GATE, PATIENCE_SECONDS, STAMPS, TALLY, hold, stamp, tick


def run_seconds(kind: str, threads: int, jobs: int) -> float:
    """Enqueue *jobs* no-op jobs from this thread; seconds until the last has run.

    What the enqueue gives back is kept, as it must be by whoever will ask for the outcome: a
    pool forgets a future that nobody holds, and a queue with retention keeps every result.
    """
    with _started(kind, threads) as contender:
        enqueue = contender.submitter(tick)
        TALLY.expect(jobs)
        gc.collect()

        begun = time.perf_counter()
        handles = [enqueue() for _ in range(jobs)]
        TALLY.wait()
        contender.settle(handles[-1])
        return time.perf_counter() - begun


def dropped_seconds(kind: str, threads: int, jobs: int) -> float:
    """Do the same for a producer that keeps nothing, on a bare heap: of the objects that the
    imports of a contender have left the garbage collector looks at none."""
    with _started(kind, threads) as contender:
        enqueue = contender.submitter(tick)
        TALLY.expect(jobs)
        gc.collect()
        gc.freeze()
        try:
            begun = time.perf_counter()
            for _ in range(jobs):
                last = enqueue()
            TALLY.wait()
            contender.settle(last)
            return time.perf_counter() - begun
        finally:
            gc.unfreeze()


def idle_microseconds(kind: str, threads: int, jobs: int) -> float:
    """Median microseconds from the enqueue of a job to its first line, on an idle worker."""
    with _started(kind, threads) as contender:
        enqueue = contender.submitter(stamp)
        found = []
        for _ in range(jobs):
            time.sleep(0.001)  # the threads have gone to sleep by then
            begun = time.perf_counter_ns()
            enqueue()
            found.append(STAMPS.get(timeout=PATIENCE_SECONDS) - begun)
        return statistics.median(found) / 1000


def enqueue_seconds(kind: str, threads: int, jobs: int) -> float:
    """Seconds that *jobs* enqueues take with the workers held."""
    with _started(kind, threads) as contender, _held(contender, threads, jobs) as enqueue:
        gc.collect()
        begun = time.perf_counter()
        for _ in range(jobs):
            enqueue()
        return time.perf_counter() - begun


def queued_bytes(kind: str, threads: int, jobs: int) -> float:
    """Bytes that Python has allocated for each of *jobs* waiting jobs (tracemalloc)."""
    with _started(kind, threads) as contender, _held(contender, threads, jobs) as enqueue:
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(jobs):
                enqueue()
            gc.collect()
            return tracemalloc.get_traced_memory()[0] / jobs
        finally:
            tracemalloc.stop()


@contextlib.contextmanager
def _started(kind: str, threads: int) -> Iterator[Contender]:
    contender = CONTENDERS[kind](threads)
    try:
        yield contender
    finally:
        contender.close()
        del contender
        gc.collect()


@contextlib.contextmanager
def _held(contender: Contender, threads: int, jobs: int) -> Iterator[Callable[[], object]]:
    """Hold all workers; give what enqueues one of the *jobs* that run when the gate opens."""
    stop = contender.submitter(hold)
    enqueue = contender.submitter(tick)
    TALLY.expect(jobs)
    GATE.close()
    for _ in range(threads):
        stop()
    try:
        GATE.wait_for(threads)
        yield enqueue
    finally:
        GATE.open()
    TALLY.wait()
