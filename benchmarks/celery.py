"""Measure jobs on a Celery fleet beside plain Celery and beside own workers, in one run.

    python benchmarks/celery.py            some three minutes
    python benchmarks/celery.py --quick    half a minute; says only that the harness works

Plain Celery has acks_late; all have two processes that run one job at a time, on one PostgreSQL and
one Redis. A backlog is made first, then the workers are started; what is measured is the time from
nine tenths of it to its end. A row of ours is exactly-once: its commit is the job's. Then what an
enqueue takes while the broker is away, and how soon jobs run once it is back. Exits with 0 whether
an aim is met or missed.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# This file must not be taken for the package celery.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != HERE] + [str(HERE)]

PREFIX = f"b{uuid.uuid4().hex[:8]}_"
URL = os.environ.get("BENCH_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1/test")
BROKER = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/8")
os.environ.update(FLEET_URL=URL, FLEET_PREFIX=PREFIX, FLEET_BROKER=BROKER)
sys.path += [str(HERE / "fleet"), str(HERE.parent / "tests")]

import fleetjobs  # noqa: E402
import outages  # noqa: E402
import redis  # noqa: E402
from sqlalchemy import create_engine, text  # noqa: E402

from figures import Aim, Row, Spread, print_table  # noqa: E402

#: Processes that run jobs, of each contestant.
PROCESSES = 2

#: Seconds that a drain may take.
PATIENCE_SECONDS = 300

NOTHING_AIM = Aim(1.0, "no slower than plain Celery", at_least=True)


class Contest:
    """One contestant: how its backlog is made, which workers it has, and how much is left."""

    def __init__(
        self,
        name: str,
        command: list[str],
        enqueue: Callable[[str, int], None],
        left: Callable[[], int],
    ) -> None:
        self.name = name
        self._command = command
        self._enqueue = enqueue
        self._left = left

    def drain(self, kind: str, jobs: int) -> float:
        """Make a backlog and drain it; return jobs a second."""
        self._enqueue(kind, jobs)
        process = subprocess.Popen(
            [sys.executable, "-m", *self._command], start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(HERE / "fleet")},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            first, begun = self._wait(int(0.9 * jobs))
            _, ended = self._wait(0)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        return first / (ended - begun)

    def _wait(self, most: int) -> tuple[int, float]:
        until = time.monotonic() + PATIENCE_SECONDS
        while (left := self._left()) > most:
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name}: {left} jobs are left")
            time.sleep(0.01)
        return left, time.monotonic()


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few jobs: does the harness work?")
    quick = parser.parse_args().quick
    rounds, nothings, rows = (1, 500, 300) if quick else (3, 8_000, 3_000)
    engine = create_engine(URL)
    client = redis.Redis.from_url(BROKER)
    with engine.begin() as connection:
        connection.execute(text(f"create table {PREFIX}rows (number int)"))
    fleetjobs.own().close()
    field = _field(engine, client)
    try:
        _compare("no-op jobs", "nothing", field, rounds, nothings, NOTHING_AIM)
        _compare("jobs that write one row", "row", field, rounds, rows, None)
        outages.print_latencies(BROKER, *((50, 1) if quick else (400, 7)))
        outages.print_returns(1 if quick else 5)
    finally:
        _clear(engine, client)


def _field(engine: Any, client: Any) -> list[Contest]:
    state = text(f"select count(*) from {PREFIX}jobs where state < 3")

    def unacknowledged() -> int:
        return int(client.llen(f"{PREFIX}plain")) + int(client.hlen("unacked"))

    def unended() -> int:
        with engine.connect() as connection:
            return int(connection.execute(state).scalar_one())

    def publish(kind: str, jobs: int) -> None:
        task = {"nothing": fleetjobs.plain_nothing, "row": fleetjobs.plain_row}[kind]
        with fleetjobs.plain.producer_pool.acquire(block=True) as producer:
            for number in range(jobs):
                task.apply_async((number,), producer=producer)

    def enqueue(make: Callable[[], Any]) -> Callable[[str, int], None]:
        def all_at_once(kind: str, jobs: int) -> None:
            job = {"nothing": fleetjobs.nothing, "row": fleetjobs.row}[kind]
            with make() as queue, queue.session_scope():
                for number in range(jobs):
                    queue.perform(job, number)

        return all_at_once

    concurrency = ["worker", "-c", str(PROCESSES), "--without-mingle", "--without-gossip"]
    return [
        Contest("plain Celery, acks_late", ["celery", "-A", "fleetjobs:plain", *concurrency],
                publish, unacknowledged),
        Contest("ours on Celery",
                ["tgext.asyncjob", "celery", "--app", "fleetjobs:fleet", "--", *concurrency],
                enqueue(fleetjobs.fleet), unended),
        Contest("ours, own workers",
                ["tgext.asyncjob", "worker", "--app", "fleetjobs:own", "--processes",
                 str(PROCESSES), "--threads", "1"],
                enqueue(fleetjobs.own), unended),
    ]  # fmt: skip


def _compare(
    title: str, kind: str, field: list[Contest], rounds: int, jobs: int, aim: Aim | None
) -> None:
    """Print rates, and their ratios to that of the first, round by round."""
    rates: list[list[float]] = [[] for _ in field]
    for _ in range(rounds):
        for one, found in zip(field, rates, strict=True):
            found.append(one.drain(kind, jobs))
    rows = []
    for one, found in zip(field, rates, strict=True):
        ratio = Spread.of([own / base for base, own in zip(rates[0], found, strict=True)])
        note = f"{statistics.median(found):9,.0f} jobs/s  "
        if aim is not None and one.name == "ours on Celery":
            note += aim.verdict(ratio.median)
        rows.append(Row(one.name, ratio, note))
    print_table(f"{jobs:,} {title}, {PROCESSES} processes: speed against plain Celery", rows, 2)


def _clear(engine: Any, client: Any) -> None:
    with fleetjobs.own() as queue:
        backend: Any = queue.backend
        backend.tables.metadata.drop_all(engine)
    with engine.begin() as connection:
        connection.execute(text(f"drop table {PREFIX}rows"))
    with suppress(redis.RedisError):
        for key in client.scan_iter(match=f"*{PREFIX}*"):
            client.delete(key)


if __name__ == "__main__":
    main()
