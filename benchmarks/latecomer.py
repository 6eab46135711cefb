"""Measure how soon a job of a new key or owner starts while 100,000 jobs of another one wait.

    python benchmarks/latecomer.py            some minutes
    python benchmarks/latecomer.py --quick    says only that the harness works

One worker with two threads runs jobs of 20 ms. After some of them the latecomer is enqueued, ten
times with a new key or owner each. Printed: from its commit to its first line, and how many jobs of
the others began in between. Exits with 0 whether an aim is met or missed.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import transaction

import scale
from figures import Aim, Row, Spread, print_table
from latejobs import STARTS, limited, taking_turns
from tgext.asyncjob import JobQueue

#: Jobs that wait, threads of the worker, and latecomers.
WAITING, THREADS, LATECOMERS = 100_000, 2, 10

#: The name whose jobs wait.
FIRST = "first"

LIMIT_AIM = Aim(1_000.0, "at most 1,000")
#: One job of each thread, those that had begun, and what is on its way.
TURN_AIM = Aim(2 * THREADS, f"at most {2 * THREADS}")


@contextlib.contextmanager
def queue_on(kind: str) -> Iterator[tuple[JobQueue, Any]]:
    """A queue, and what runs its worker for a block."""
    if kind == "memory":
        with JobQueue(threads=THREADS) as queue:
            yield queue, _started(queue)
    else:
        with scale.place_of(kind) as place:
            yield place.queue, place.working(THREADS)


@contextlib.contextmanager
def _started(queue: JobQueue) -> Iterator[None]:
    queue.start_worker()
    yield


def measure(kind: str, declared: Any, waiting: int) -> tuple[Spread, Spread]:
    """Return the milliseconds until a latecomer begins, and the jobs of others that begin first."""
    STARTS.forget()
    milliseconds, others = [], []
    with queue_on(kind) as (queue, working), queue.as_current():
        for begin in range(0, waiting, 1_000):
            with queue.in_transaction():
                declared.enqueue_many([(FIRST,)] * min(1_000, waiting - begin))
                transaction.commit()
        with working:
            for number in range(LATECOMERS):
                name = f"late{number}"
                STARTS.wait_for(FIRST, 5)
                declared.enqueue(name)
                enqueued, before = time.perf_counter(), len(STARTS.names)
                STARTS.wait_for(name)
                milliseconds.append((STARTS.at[name] - enqueued) * 1_000)
                others.append(STARTS.names.index(name) - before)
    return Spread.of(milliseconds), Spread.of([max(0, each) for each in others])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--on", choices=("memory", *scale.URLS, "sqlite"), action="append")
    told = arguments.parse_args()
    waiting = 1_000 if told.quick else WAITING
    print(f"{waiting:,} jobs of one key or owner wait; load {os.getloadavg()[0]:.2f}")
    for kind in told.on or ("memory", "sqlite", *scale.URLS):
        limit, before_limited = measure(kind, limited, waiting)
        turn, before_turn = measure(kind, taking_turns, waiting)
        rows = [
            Row("a new key of a limit: ms", limit, LIMIT_AIM.verdict(limit.maximum)),
            Row("  jobs that begin first", before_limited),
            Row("a new owner: ms", turn),
            Row("  jobs that begin first", before_turn, TURN_AIM.verdict(before_turn.maximum)),
        ]
        print_table(kind, rows, 1)


if __name__ == "__main__":
    main()
