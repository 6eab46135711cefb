"""Measure the durable backend beside its peers and the raw limits, in one run.

    python benchmarks/sql.py            some ten minutes
    python benchmarks/sql.py --quick    under a minute; says only that the harness works

On SQLite: bare sqlite3, bare SQLAlchemy Core, Huey, ours. On PostgreSQL: bare psycopg, LISTEN and
NOTIFY, bare SQLAlchemy Core, PgQueuer, Procrastinate, chancy, ours. Commits are durable for all
(SQLite synchronous = FULL, PostgreSQL synchronous_commit = on): each connection is asked. Every
round asks each contestant once, in turn (A B C A B C ...), in a process of its own; ratios are
taken within a round. Exits with 0 whether an aim is met or missed, unless something fails.
"""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import signal
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import psycopg

import sqlfield
from environment import peers_python
from figures import Aim, Row, Spread, print_table
from memory import in_turn
from sqlfield import POSTGRESQL, SQLITE, Contestant, Hall, ours
from sqlstands import Places, sync_microseconds

NAMES = {SQLITE: "SQLite", POSTGRESQL: "PostgreSQL"}
PEERS = {SQLITE: [sqlfield.HUEY], POSTGRESQL: sqlfield.PEERS}

ENQUEUE_AIM = Aim(0.9, "at least 0.9", at_least=True)
DRAIN_AIM = {
    SQLITE: Aim(2.5, "at least 2.5", at_least=True),
    POSTGRESQL: Aim(1.0, "at least 1.0, better 1.25", at_least=True),
}
ROWS_AIM = Aim(0.8, "at least 0.8", at_least=True)
NOTIFY_AIM = Aim(2.0, "p50 at most 2 times the bare loop's")
SQLITE_AIMS = (Aim(5.0, "p50 below 5 ms"), Aim(25.0, "p99 below 25 ms"))
BACKLOG_AIM = Aim(0.9, "at least 0.9", at_least=True)


@dataclass(frozen=True)
class Size:
    """How much is measured: everything is bounded."""

    rounds: int
    enqueued: int  #: one at a time, in one round by each
    batch: int  #: in one transaction
    drained: int  #: no-op jobs in one round
    rows: int  #: jobs that insert a row, in one round
    asked: int  #: times that each is asked for latencies
    latencies: int  #: jobs each time
    backlog: int
    backlog_rounds: int


WHOLE = Size(
    rounds=5,
    enqueued=300,
    batch=1_000,
    drained=10_000,
    rows=2_000,
    asked=60,
    latencies=5,
    backlog=1_000_000,
    backlog_rounds=3,
)
QUICK = Size(
    rounds=1,
    enqueued=30,
    batch=100,
    drained=300,
    rows=100,
    asked=2,
    latencies=3,
    backlog=4_000,
    backlog_rounds=1,
)


def compare(
    hall: Hall,
    title: str,
    field: Sequence[Contestant],
    ask: Callable[[Contestant], Callable[[], float]],
    aim: Aim | None,
    rounds: int,
) -> None:
    """Print rates, and their ratios to that of the first of *field*.

    ask: for a contestant what measures it once: seconds a job. aim: for ours.
    """
    with hall.opened(field):
        seconds = in_turn(rounds, [ask(one) for one in field])
    rows = []
    for one, figures in zip(field, seconds, strict=True):
        pairs = zip(seconds[0], figures, strict=True)
        ratio = Spread.of([base / own for base, own in pairs])
        note = f"{1 / statistics.median(figures):9,.0f} jobs/s  "
        if one.kind == "ours" and aim is not None:
            note += aim.verdict(ratio.median)
        rows.append(Row(one.name, ratio, note))
    print_table(f"{title}: speed against {field[0].name}", rows, 2)


def each_of(hall: Hall, measure: str, jobs: int) -> Callable[[Contestant], Callable[[], float]]:
    return lambda one: lambda: hall.stand(one).ask(measure, jobs=jobs) / jobs


def enqueue(hall: Hall, database: str, mine: list[Contestant], size: Size) -> None:
    """Print what an enqueue costs: alone, in a request, among a thousand."""
    core, session = [sqlfield.CORE[database]], [sqlfield.SESSION[database]]
    others = [*mine[:1], *PEERS[database]]
    one = "Enqueue one at a time, each with its commit"
    request = "Enqueue in a request that commits a row too"
    batch = f"Enqueue {size.batch:,} in one transaction"
    for measure, jobs, aim, title, field in (
        ("enqueue", size.enqueued, ENQUEUE_AIM, one, [*core, *others]),
        ("request", size.enqueued, ENQUEUE_AIM, request, [*core, *session, *others]),
        ("batch", size.batch, None, batch, [*core, *others]),
    ):
        asks = each_of(hall, measure, jobs)
        compare(hall, f"{NAMES[database]}. {title}", field, asks, aim, size.rounds)


def drains(hall: Hall, job: str, jobs: int) -> Callable[[Contestant], Callable[[], float]]:
    return lambda one: drain_of(hall, one, job, int(jobs * one.share))


def drain_of(
    hall: Hall, one: Contestant, job: str, jobs: int, role: str = ""
) -> Callable[[], float]:
    """Give what drains *jobs* once, at least ten: seconds a job."""
    number = max(10, jobs)
    return lambda: hall.stand(one, role).ask("drain", job=job, jobs=number) / number


def drain(hall: Hall, database: str, mine: list[Contestant], size: Size) -> None:
    """Print how fast one worker process empties the queue."""
    peers = PEERS[database]
    loop = sqlfield.LOOPS[database]
    more = [sqlfield.PGQUEUER_ITS_OWN] if database == POSTGRESQL else []
    compare(
        hall,
        f"{NAMES[database]}. Drain of {size.drained:,} no-op jobs",
        [peers[0], *more, *mine, *peers[1:], loop],
        drains(hall, "tick", size.drained),
        DRAIN_AIM[database],
        size.rounds,
    )
    # no aim was set for SQLite
    compare(
        hall,
        f"{NAMES[database]}. Drain of {size.rows:,} jobs that insert a row each",
        [loop, *mine, *peers, *more],
        drains(hall, "write", size.rows),
        ROWS_AIM if database == POSTGRESQL else None,
        size.rounds,
    )


def latency(hall: Hall, database: str, mine: list[Contestant], size: Size) -> None:
    """Print the milliseconds from a commit to the job's first line in an idle other process."""
    base = [sqlfield.NOTIFY, sqlfield.CLAIM] if database == POSTGRESQL else []
    field = [*base, *mine[:1], *PEERS[database]]
    with hall.serving(field) as pipes:

        def ask(one: Contestant) -> list[float]:
            stand = hall.stand(one)
            found: list[float] = stand.ask(
                "latency", stamps=pipes[one], jobs=size.latencies, pause=0.05
            )
            return [seconds * 1000 for seconds in found]

        # by the call: what else runs meets all of them alike
        answers = in_turn(size.asked, [partial(ask, one) for one in field])
    pooled = [[each for round_ in answer for each in round_] for answer in answers]
    medians = [statistics.median(each) for each in pooled]
    rows = []
    for one, found, p50 in zip(field, pooled, medians, strict=True):
        p99 = statistics.quantiles(found, n=100, method="inclusive")[98]
        note = f"p99 {p99:7,.2f}  "
        if database == POSTGRESQL:
            note += f"{p50 / medians[0]:6.2f} times  "
        if one.kind == "ours" and database == POSTGRESQL:
            note += NOTIFY_AIM.verdict(p50 / medians[0])
        elif one.kind == "ours":
            note += "; ".join(
                aim.verdict(own) for aim, own in zip(SQLITE_AIMS, (p50, p99), strict=True)
            )
        rows.append(Row(one.name, Spread.of(found), note))
    print_table(
        f"{NAMES[database]}. From the commit to the job's first line, idle worker in another"
        f" process: ms of {size.asked * size.latencies}",
        rows,
        2,
    )


def backlog(hall: Hall, database: str, mine: list[Contestant], size: Size) -> None:
    """Print the rate of a drain beside a standing backlog against that without, each its own."""
    field = [*([ours(database, 1, signed=False)] if mine else []), *PEERS[database]]
    roles = ("", "backlog")
    with hall.opened(field, roles):
        for one in field:
            hall.stand(one, "backlog").ask("fill", jobs=size.backlog)
        asks = [
            drain_of(hall, one, "tick", int(size.drained * one.share_of_backlog), role)
            for one in field
            for role in roles
        ]
        answers = in_turn(size.backlog_rounds, asks)
    rows = []
    for number, one in enumerate(field):
        without, with_it = answers[2 * number], answers[2 * number + 1]
        ratio = Spread.of([a / b for a, b in zip(without, with_it, strict=True)])
        note = f"{1 / statistics.median(with_it):9,.0f} jobs/s  "
        if one.kind == "ours":
            note += BACKLOG_AIM.verdict(ratio.median)
        rows.append(Row(one.name, ratio, note))
    print_table(
        f"{NAMES[database]}. Drain beside a backlog of {size.backlog:,}, half delayed, half of a"
        " lower priority: speed against none",
        rows,
        2,
    )


PARTS = {"enqueue": enqueue, "drain": drain, "latency": latency, "backlog": backlog}


def introduce(places: Places, size: Size) -> list[str]:
    """Print what this runs on; the databases that are there."""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {size}")
    names = ("SQLAlchemy", "psycopg", "huey")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    asked = "import importlib.metadata as m; print(*[f'{n} {m.version(n)}' for n in %r], sep=', ')"
    peers = [one.kind for one in sqlfield.PEERS] + ["asyncpg", "psycopg", "uvloop"]
    theirs = subprocess.run(
        [peers_python(), "-c", asked % peers], check=True, capture_output=True, text=True
    )
    print(f"SQLite {sqlite3.sqlite_version}, {', '.join(versions)}; peers: {theirs.stdout.strip()}")
    load = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    print(f"load of the last 1, 5 and 15 minutes, which a quiet machine has near 0: {load}")
    synced = sync_microseconds(places.folder)
    spread = statistics.quantiles(synced, n=100, method="inclusive")
    print(f"fdatasync of 4 KiB here: p50 {spread[49]:,.0f} us, p99 {spread[98]:,.0f} us")
    try:
        version, settings = places.server()
    except psycopg.OperationalError as error:
        print(f"PostgreSQL is missing, so its tables are left out: {str(error).strip()}")
        return [SQLITE]
    told = ", ".join(f"{name} = {value}" for name, value in settings.items())
    print(f"PostgreSQL {version}: {told}")
    if set(settings.values()) != {"on"}:
        raise SystemExit("expected all three to be on: what is not durable is not measured here")
    return [SQLITE, POSTGRESQL]


def main() -> None:
    arguments = argparse.ArgumentParser(description="the durable backend beside its peers")
    arguments.add_argument("--quick", action="store_true", help="under a minute, to see it work")
    arguments.add_argument("--only", choices=PARTS, help="one of the parts alone")
    arguments.add_argument("--on", choices=NAMES, help="one of the databases alone")
    arguments.add_argument("--without-ours", action="store_true", help="peers and limits alone")
    arguments.add_argument(
        "--postgresql",
        default="postgresql://postgres@127.0.0.1/test",
        help="a database in which schemas may be made and dropped (%(default)s)",
    )
    told = arguments.parse_args()
    size = QUICK if told.quick else WHOLE
    # whoever is told to stop removes the schemas first, as after Ctrl-C
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        places = stack.enter_context(Places(told.postgresql))
        hall = Hall(places, stack)
        for database in introduce(places, size):
            if told.on not in (None, database):
                continue
            mine = [] if told.without_ours else [ours(database, 1), ours(database, 4)]
            for name, part in PARTS.items():
                if told.only in (None, name):
                    part(hall, database, mine, size)


if __name__ == "__main__":
    main()
