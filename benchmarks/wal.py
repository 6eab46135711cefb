"""Count what a job costs the log of PostgreSQL (WAL): bytes and commits, in one run with peers.

    python benchmarks/wal.py            some minutes
    python benchmarks/wal.py --quick    a minute; says only that the harness works

A server of this run's own is started, so that nothing else writes. Bytes are those of the log's
records without full pages. How many of these there are depends on how often a server checkpoints:
here there is a checkpoint before each measurement, and they are printed beside. Commits are those
of transactions that wrote; one that only reads, as a claim that finds nothing, leaves no record.
Those that only notify are printed beside: they leave a short record, and do not wait for the disk.
Some commits of rows do not wait either, as those of claims of ours: the log does not tell which.
Not counted is what comes later: vacuum (off meanwhile), and the removal of ended jobs, which ours,
Procrastinate and chancy keep; PgQueuer deletes them at once and keeps a log of them. Every round
asks each contestant once, in turn, in a process of its own. Nothing is aimed at: ours is compared
with each. Exits with 0 unless something fails.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import sqlfield
from figures import Row, Spread, print_table
from memory import in_turn
from sql import introduce
from sqlfield import POSTGRESQL, Contestant, Hall, ours
from sqlstands import Places, Stand
from walserver import WalServer, wal_server

BATCH = 1_000


@dataclass(frozen=True)
class Size:
    """How much is measured: everything is bounded."""

    rounds: int
    enqueued: int  #: one at a time, in one round by each
    batches: int  #: of BATCH jobs each
    drained: int  #: no-op jobs
    rows: int  #: jobs that insert a row


WHOLE = Size(rounds=3, enqueued=1_000, batches=10, drained=10_000, rows=2_000)
QUICK = Size(rounds=1, enqueued=50, batches=1, drained=500, rows=100)


class Work(NamedTuple):
    """What each of a field does so many jobs of, once a round."""

    title: str
    field: list[Contestant]
    jobs: Callable[[Contestant], int]
    act: Callable[[Stand, int], object]
    prepare: Callable[[Stand, int], object] = lambda stand, jobs: None


def enqueue_each(stand: Stand, jobs: int) -> None:
    stand.ask("enqueue", jobs=jobs - 1)  # it begins with one that it does not time


def enqueue_batches(stand: Stand, jobs: int) -> None:
    for _ in range(jobs // BATCH):
        stand.ask("batch", jobs=BATCH)


def works(size: Size) -> list[Work]:
    one, four = ours(POSTGRESQL, 1), ours(POSTGRESQL, 4)
    enqueuing = [one, *sqlfield.PEERS, sqlfield.CORE[POSTGRESQL]]
    working = [one, four, *sqlfield.PEERS, sqlfield.PGQUEUER_ITS_OWN, sqlfield.LOOPS[POSTGRESQL]]

    def drain(title: str, job: str, jobs: int) -> Work:
        return Work(
            title,
            working,
            lambda contestant: max(10, int(jobs * contestant.share)),
            lambda stand, number: stand.ask("run", job=job, jobs=number),
            lambda stand, number: stand.ask("batch", job=job, jobs=number),
        )

    return [
        Work("Enqueue one at a time", enqueuing, lambda _: size.enqueued, enqueue_each),
        Work(
            f"Enqueue {BATCH:,} in one transaction",
            enqueuing,
            lambda _: BATCH * size.batches,
            enqueue_batches,
        ),
        drain("Run no-op jobs", "tick", size.drained),
        drain("Run jobs that insert a row each", "write", size.rows),
    ]


def measure(server: WalServer, stand: Stand, work: Work, jobs: int) -> list[float]:
    """Do the work once; what was written, a job."""
    work.prepare(stand, jobs)
    return [each / jobs for each in server.written(lambda: work.act(stand, jobs))]


def compare(server: WalServer, hall: Hall, work: Work, rounds: int) -> None:
    """Print what a job costs each, and what ours costs, the first of the field, against it."""
    with hall.opened(work.field):
        asks = [
            partial(measure, server, hall.stand(one), work, work.jobs(one)) for one in work.field
        ]
        found = in_turn(rounds, asks)
    costs = [[Spread.of(part) for part in zip(*figures, strict=True)] for figures in found]
    for what, decimals, part, beside, words in (
        ("bytes of WAL", 0, 0, 1, "and {:6,.0f} of full pages"),
        ("commits", 4, 2, 3, "and {:6.4f} that only notify"),
    ):
        rows = []
        for one, cost in zip(work.field, costs, strict=True):
            note = words.format(cost[beside].median)
            if one.kind != "ours":
                note += f"  ours: {costs[0][part].median / cost[part].median:5.2f} of it"
            rows.append(Row(one.name, cost[part], note))
        print_table(f"{work.title}: {what} a job", rows, decimals)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--quick", action="store_true")
    size = QUICK if arguments.parse_args().quick else WHOLE
    # what is told to stop removes the server first, as after Ctrl-C
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(wal_server())
        places = stack.enter_context(Places(server.dsn))
        introduce(places, size)
        hall = Hall(places, stack)
        for work in works(size):
            compare(server, hall, work, size.rounds)


if __name__ == "__main__":
    main()
