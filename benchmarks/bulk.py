"""Enqueue 100,000 jobs in one transaction: ours, PgQueuer's batch call, Core and COPY, in one run.

    python benchmarks/bulk.py            some minutes
    python benchmarks/bulk.py --quick    says only that the harness works
    python benchmarks/bulk.py --on sqlite

Each round asks each contestant once, in turn, in a process of its own; ratios are taken within a
round. Core and COPY insert rows of a table with one index, and make what each queue has to make: a
key that cannot be guessed, and the call as text. Ours signs each call. Exits with 0 whatever the
figures are.
"""

import argparse
import contextlib
import os
import signal
import statistics
import sys
from collections.abc import Sequence

import sqlfield
from figures import Row, Spread, print_table
from memory import in_turn
from sql import each_of
from sqlfield import MARIADB, POSTGRESQL, SQLITE, Contestant, Hall
from sqlstands import Places

JOBS, ROUNDS = 100_000, 5
QUICK_JOBS, QUICK_ROUNDS = 2_000, 1

NAMES = {SQLITE: "SQLite", POSTGRESQL: "PostgreSQL", MARIADB: "MariaDB"}
OPTIONS = (("threads", 0), ("signed", 1))


def field_on(database: str) -> list[Contestant]:
    """Give who enqueues on a database; the others are compared with each of the bare ones, and
    with PgQueuer."""
    ours = [
        Contestant("ours", database, "ours, perform_many", OPTIONS),
        Contestant("ours by task", database, "ours, Task.enqueue_many", OPTIONS),
    ]
    bare = [sqlfield.CORE[database]]
    if database == POSTGRESQL:
        bare += [sqlfield.COPY, sqlfield.PGQUEUER]
    return [*bare, *ours]


def print_speeds(database: str, field: Sequence[Contestant], seconds: list[list[float]]) -> None:
    """Print the speed of all against each that is not ours. seconds: a job, by round."""
    for base, its in zip(field, seconds, strict=True):
        if base.kind.startswith("ours"):
            continue
        rows = []
        for one, figures in zip(field, seconds, strict=True):
            ratio = Spread.of([a / b for a, b in zip(its, figures, strict=True)])
            median = statistics.median(figures)
            note = f"{1 / median:9,.0f} jobs/s {median * 1e6:7.1f} us a job"
            rows.append(Row(one.name, ratio, note))
        print_table(f"{NAMES[database]}. Speed against {base.name}", rows, 2)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--on", choices=NAMES, action="append")
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--postgresql", default="postgresql://postgres@127.0.0.1/test")
    arguments.add_argument(
        "--mariadb", default="mysql+pymysql://root@127.0.0.1/test?ssl_disabled=1"
    )
    told = arguments.parse_args()
    jobs, rounds = (QUICK_JOBS, QUICK_ROUNDS) if told.quick else (JOBS, told.rounds)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    load = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    print(f"{jobs:,} jobs in one transaction, {rounds} rounds")
    print(f"load of the last 1, 5 and 15 minutes, which a quiet machine has near 0: {load}")
    with contextlib.ExitStack() as stack:
        hall = Hall(stack.enter_context(Places(told.postgresql, told.mariadb)), stack)
        for database in told.on or NAMES:
            field = field_on(database)
            asks = each_of(hall, "batch", jobs)
            with hall.opened(field):
                seconds = in_turn(rounds, [asks(one) for one in field])
            print_speeds(database, field, seconds)


if __name__ == "__main__":
    main()
