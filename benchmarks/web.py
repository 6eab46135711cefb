"""Measure the pages and the progress elements beside many jobs.

    python benchmarks/web.py            1,000,000 jobs in PostgreSQL, 200,000 in the others: minutes
    python benchmarks/web.py --quick    2,000 jobs; says only that the harness works
    python benchmarks/web.py --db sqlite

Nine in ten jobs have ended, one in 50 of them failed; the others wait in 50 queues, of which two
are paused, with 30 priorities. First what has ended is counted, as a worker does after an upgrade;
then the minutes are filled with as many tasks as are counted by themselves. Each page is answered
by the WebApplication itself, without a server; a poll is one for a single bar and one for fifty.
Exits with 0 whether an aim is met or missed.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, create_engine, delete, event, select
from sqlalchemy import insert as insert_into
from webob import Request

from figures import Aim, Row, Spread, print_table
from tgext.asyncjob import JobQueue
from tgext.asyncjob.backends.sql import states
from tgext.asyncjob.backends.statistics import LEAST_KEPT, MOST_NAMES, SUMMED, Name, minute_of
from tgext.asyncjob.web import Rights, WebApplication
from tgext.asyncjob.web.routes import ROUTES, Right

POSTGRESQL = os.environ.get(
    "ASYNCJOB_BENCHMARK_URL", "postgresql+psycopg://postgres@127.0.0.1/test"
)
MARIADB = "mysql+pymysql://root@127.0.0.1/test?ssl_disabled=1"

#: Jobs in each database.
JOBS = {"postgresql": 1_000_000, "sqlite": 200_000, "mariadb": 200_000}
PAGE_AIM = Aim(200, "at most 200 ms")
POLL_AIM = Aim(5, "p99 at most 5 ms")
CORE_AIM = Aim(10, "at most 10 % of a core")
STATEMENTS_AIM = Aim(12, "at most 12 statements")

#: Lists in the order and with the filters that the page of jobs has.
LISTS = (
    "", "status=FAILED", "status=SUCCESSFUL", "status=READY", "name=shop.mails.send", "user=ada",
    "queue=queue7", "queue=queue7&status=FAILED", "queue=none", "error=ValueError", "error=None",
    "name=none", "user=ada&status=CANCELLED", "since=1h", "status=READY&name=none",
    "status=READY&error=None", "status=READY&user=ada", "status=READY&queue=queue7",
)  # fmt: skip

#: Changes of many that are to be confirmed.
CHANGES = ("action=cancel", "action=retry", "action=retry&error=None", "action=cancel&name=none")

#: The name of a schedule.
SCHEDULE = "nightly"

#: Seconds between two polls of a bar on which nothing moves.
POLL_SECONDS = 5

NUMBERS = {
    "postgresql": "generate_series(1, {most}) AS n(value)",
    "mariadb": "(SELECT seq AS value FROM seq_1_to_{most}) AS n",
    "sqlite": (
        "(WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < "
        "{most}) SELECT value FROM n) AS n"
    ),
}


def url_of(kind: str, folder: str) -> str:
    """Return the URL of a database of one kind."""
    return {
        "postgresql": POSTGRESQL, "mariadb": MARIADB, "sqlite": f"sqlite:///{folder}/jobs.db",
    }[kind]  # fmt: skip


@contextlib.contextmanager
def queue_on(kind: str, jobs: int) -> Iterator[tuple[JobQueue, Engine]]:
    """A queue on tables of its own, filled, and dropped at the end."""
    prefix = f"web{uuid.uuid4().hex[:8]}_"
    with tempfile.TemporaryDirectory() as folder:
        url = url_of(kind, folder)
        with JobQueue("sql", url=url, table_prefix=prefix, threads=0, secret="swordfish") as queue:
            backend: Any = queue.backend
            engine: Engine = create_engine(url)
            fill(engine, kind, prefix, jobs)
            for number in (3, 4):
                queue.pause(f"queue{number}")
            try:
                yield queue, backend._dialect.engine
            finally:
                backend.tables.metadata.drop_all(engine)
                engine.dispose()


def fill(engine: Engine, kind: str, prefix: str, jobs: int) -> None:
    """Insert jobs, by a statement for each state."""
    ended = jobs * 9 // 10
    failed, delayed = ended // 50, (jobs - ended) // 200
    for state, most in (
        (states.SUCCEEDED, ended - failed),
        (states.FAILED, failed),
        (states.AVAILABLE, jobs - ended - delayed),
        (states.SCHEDULED, delayed),
    ):
        insert(engine, kind, prefix, state, most)
    path = "CASE WHEN (number & 1) = 0 THEN 'builtins.ValueError' ELSE 'shop.Broken' END"
    trace = (
        'Traceback (most recent call last):\n  File "/srv/shop/mails.py", line 7, in send\n'
        "    raise ValueError(7)\nValueError: 7\n"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO {prefix}errors (uid, exception_class_path, message, traceback) "
            f"SELECT uid, {path}, '7', '{trace}' FROM {prefix}jobs WHERE state = {states.FAILED}"
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name in ("jobs", "errors"):
            table = "TABLE " * (kind == "mariadb") + f"{prefix}{name}"
            analyze = f"{'VACUUM ' * (kind == 'postgresql')}ANALYZE"
            connection.exec_driver_sql(f"{analyze} {table}").close()


def joined(kind: str, text: str, number: str) -> str:
    """Return the expression of a text and a number."""
    return f"concat('{text}', {number})" if kind == "mariadb" else f"'{text}' || {number}"


def modulo(kind: str, number: str, divisor: int) -> str:
    """Return the expression of a remainder."""
    if kind == "sqlite":
        return f"({number} % {divisor})"
    return f"CAST(mod({number}, {divisor}) AS {'signed' if kind == 'mariadb' else 'smallint'})"


def insert(engine: Engine, kind: str, prefix: str, state: int, most: int) -> None:
    """Insert jobs of one state, spread over queues, tasks and users."""
    marker = uuid.uuid4().hex[:8]
    now, ended = time.time(), state in states.ENDED
    columns = {
        "uid": joined(kind, f"asyncjob_{marker}_", "value"),
        "state": str(state),
        "rank": f"{modulo(kind, 'value', 30)} - 15",
        "queue_name": joined(kind, "queue", modulo(kind, "value", 50)),
        "budget": "1",
        "name": "CASE WHEN (value & 3) = 0 THEN 'shop.mails.send' ELSE 'shop.thumbs.make' END",
        "task_name": "CASE WHEN (value & 3) = 0 THEN 'shop.mails.send' ELSE 'shop.thumbs.make' END",
        "payload": """'{"f":"shop.mails:send"}'""",
        "attempts": "1" if ended else "0",
        "lease": "1" if ended else "0",
        "enqueued_by": "CASE WHEN (value & 255) = 0 THEN 'ada' END",
        "enqueued_at": f"{now} - value * 0.1",
    }
    if ended:
        columns["finished_at"] = f"{now} - value * 0.1 + 0.05"
    if state == states.SCHEDULED:
        columns["due_at"] = f"{now} + 3600 + value"
    quoted = engine.dialect.identifier_preparer.quote
    names, wanted = ", ".join(map(quoted, columns)), ", ".join(columns.values())
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO {prefix}jobs ({names}) SELECT {wanted} "
            f"FROM {NUMBERS[kind].format(most=most)}"
        )


class Counter:
    """Counts the statements of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.number = 0
        event.listen(engine, "before_cursor_execute", self._count)

    def _count(self, *_arguments: Any) -> None:
        self.number += 1


def timed(act: Callable[[], object], rounds: int) -> list[float]:
    """Return the milliseconds of each round, in their order."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        found.append(1000 * (time.perf_counter() - began))
    return sorted(found)


def share(figures: list[float], part: float) -> float:
    """Return the figure that *part* of all do not exceed."""
    return figures[min(int(part * len(figures)), len(figures) - 1)]


def manager(_environ: dict[str, Any]) -> Rights:
    """The rights of a manager."""
    return Rights("ada", may_act=True)


def measure(kind: str, jobs: int, rounds: int) -> None:
    """Measure one database, and print it."""
    with queue_on(kind, jobs) as (queue, engine):
        application, counter = WebApplication(queue, rights=manager), Counter(engine)
        table = queue.backend.tables.jobs  # type: ignore[attr-defined]
        with engine.connect() as connection:
            uids = list(connection.execute(select(table.c.uid).limit(50)).scalars())

        def get(path: str) -> Callable[[], object]:
            def ask() -> object:
                answer = Request.blank(path).get_response(application)
                if answer.status_int != 200:
                    raise RuntimeError(f"{path}: {answer.status}: {answer.text[:500]}")
                return answer

            return ask

        count_ended(queue, kind)
        fill_minutes(queue, engine)
        queue.schedule(SCHEDULE, len, ["x"], every=timedelta(days=1))
        rows = []
        for path in paths(uids):
            get(path)()
            before = counter.number
            get(path)()
            statements = counter.number - before
            times = timed(get(path), rounds)
            note = f"{statements} statements; {PAGE_AIM.verdict(share(times, 0.99))}"
            if statements > STATEMENTS_AIM.bound:
                note += f"; {STATEMENTS_AIM.verdict(statements)}"
            rows.append(Row(path[:36], Spread.of(times), note))
        print_table(f"{kind}, {jobs:,} jobs: pages, ms", rows, 1)
        rows = []
        for number in (1, 50):
            poll = get("/progress?" + "&".join(f"uid={uid}" for uid in uids[:number]))
            timed(poll, 20)
            cpu = time.process_time()
            times = timed(poll, 20 * rounds)
            used = (time.process_time() - cpu) / (20 * rounds)
            note = f"p99 {share(times, 0.99):.2f}; {POLL_AIM.verdict(share(times, 0.99))}"
            rows.append(Row(f"a poll of {number}", Spread.of(times), note))
            if number == 1:
                core = 100 * 500 / POLL_SECONDS * used
        print_table(f"{kind}: polls, ms", rows, 2)
        print(
            f"  500 open pages of one bar, asked every {POLL_SECONDS} s: {core:.1f} % of a core; "
            f"{CORE_AIM.verdict(core)}"
        )


def count_ended(queue: JobQueue, kind: str) -> None:
    """Count what has ended, as the first worker does after an upgrade, and print how long a rescue
    would have waited for it."""
    times, goes_on = [], True
    while goes_on:
        began = time.perf_counter()
        goes_on = queue.backend.statistics.collect()
        times.append(1000 * (time.perf_counter() - began))
    told = f"{len(times)} calls, {sum(times) / 1000:.1f} s in all, the longest {max(times):.0f} ms"
    print(f"{kind}: first count of what ended in a day: {told}")


def fill_minutes(queue: JobQueue, engine: Engine) -> None:
    """Fill a day with as many names in each minute as there may be."""
    table = queue.backend.tables.minutes  # type: ignore[attr-defined]
    now = minute_of(time.time())
    numbers = [each.name for each in table.columns if each.name not in Name._fields][2:]
    with engine.begin() as connection:
        connection.execute(delete(table))
        minutes = [(1, minute) for minute in range(now - LEAST_KEPT, now)]
        for span, minute in [
            *minutes,
            *((SUMMED, each) for _, each in minutes if not each % SUMMED),
        ]:
            rows = [
                {
                    "span": span,
                    "minute": minute,
                    "task_name": f"shop.task{number}",
                    "queue_name": "default",
                }
                | dict.fromkeys(numbers, 1)
                for number in range(MOST_NAMES)
            ]
            connection.execute(insert_into(table), rows)


def paths(uids: list[str]) -> Iterator[str]:
    """The pages that need a right to see them, the list of jobs with each of its filters."""
    for route in ROUTES:
        if route.method == "GET" and route.right is Right.VIEW:
            if route.path == "/jobs":
                yield from (f"/jobs?{each}" for each in LISTS)
                yield from (f"/jobs/all?{each}" for each in CHANGES)
            else:
                fields = {"/job": f"?uid={uids[0]}", "/schedule": f"?of={SCHEDULE}"}
                yield route.path + fields.get(route.path, "")


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--db", choices=sorted(JOBS), action="append")
    wanted = parser.parse_args()
    for kind in wanted.db or JOBS:
        measure(kind, 2_000 if wanted.quick else JOBS[kind], 3 if wanted.quick else 30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
