"""Count the rows that each statement reads beside 1,000,000 jobs.

    python benchmarks/plans.py            on the three databases: some minutes
    python benchmarks/plans.py --quick    a hundredth of the jobs
    python benchmarks/plans.py --db sqlite

500,000 have ended, 300,000 are delayed and 200,000 wait, in 50 queues, of which two are paused. In
a second table of each database 1,000,000 have ended and 100,000 wait with every policy in use: see
``waiting``; --policies: that one alone. The statements are the real ones, caught on their way to
the database. What is counted: rows of the jobs that the scans of PostgreSQL come to; rows that
MariaDB reads by an index, or to sort; steps of SQLite's virtual machine, STEPS of which may be
taken for each row. Exits with 1 if a statement reads the whole table, with 0 whether an aim is met
or missed.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, create_engine

from figures import Aim

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from backend_contract import BROKEN, DONE, a_job
from sqlqueues import PREFIX, Place, options_of, place_of
from test_sql_explain import (
    BATCH,
    JOBS,
    Caught,
    caught,
    clean_up,
    fill,
    nodes,
    reads,
)
from tgext.asyncjob.backends.listing import JobFilter
from tgext.asyncjob.backends.sql import SqlBackend, states
from tgext.asyncjob.backends.worker_id import new_worker_id
from tgext.asyncjob.policies import Keys, Limit, Rate
from tgext.asyncjob.sharing import Share
from tgext.asyncjob.uniqueness import UNFINISHED, UniqueKey
from waiting import PAUSED, SHARED, fill_waiting, reach_limits, steer
from waiting import QUEUE_NAMES as QUEUES

ENDED, DELAYED, WAITING = 500_000, 300_000, 200_000

#: What has ended where every policy is in use.
HISTORY = 1_000_000

#: Steps of SQLite for a row that is read and given, and those of a statement that reads nothing.
STEPS, FEW_STEPS = 100, 4_000

#: Rows of a page, and the most that a count comes to.
PAGE, MOST = 50, 10_001


class Asked(NamedTuple):
    """Something that is asked of the backend, and how many rows it may read."""

    name: str
    bound: int
    act: Callable[[SqlBackend], object]


def claim(queues: list[str] | None) -> Callable[[SqlBackend], object]:
    """Return what claims a batch from these queues."""

    def act(backend: SqlBackend) -> object:
        backend._look(queues)  # as each waiting thread does: it sees what is paused
        claims = backend.claim(new_worker_id(), queues, BATCH)
        if len(claims) != BATCH:
            raise RuntimeError(f"expected {BATCH} claims, got {len(claims)}")
        return claims

    return act


def listed(**wanted: Any) -> Callable[[SqlBackend], object]:
    return lambda backend: backend.find(JobFilter.of(**wanted), None, PAGE)


def run(backend: SqlBackend) -> object:
    """All that is done with the jobs of a claim."""
    ready, stored, broken, released = backend.claim(new_worker_id(), ["own"], 4)
    backend.standing(ready, fresh=True)
    backend.fence(ready)
    backend.unfence(ready)
    backend.finish(ready, DONE)
    backend.finish_many([(stored, DONE), (broken, BROKEN)])
    backend.release([released])
    return backend.get_many([ready.job.uid, broken.job.uid])


def rescue(backend: SqlBackend) -> object:
    worker_id = new_worker_id()
    backend.register(worker_id, None, 1)
    backend.claim(worker_id, ["own"], BATCH)
    with backend._dialect.side_database.connect() as connection:
        rows = connection.execute(backend._registry._select_workers()).all()
    [worker] = [row for row in rows if row.worker_id == worker_id]
    return backend._registry._rescue.from_worker(worker)


#: What a claim may read of so many queues: twice its batch, and one row for each queue.
def claimed(queues: int) -> int:
    return 2 * BATCH + queues


#: What a count of the waiting may read: twice its bound, and one row for each state, as a claim one
#: for each queue. MariaDB counts the search that finds no BLOCKED job.
def counted(most: int) -> int:
    return 2 * most + len(states.WAITING)


QUESTIONS = (
    Asked("claim from one queue", claimed(1), claim(QUEUES[7:8])),
    Asked("claim from ten queues", claimed(10), claim(QUEUES[5:15])),
    Asked("claim from 50 queues, two paused", claimed(50), claim(QUEUES)),
    Asked("claim from all queues, two paused", claimed(50), claim(None)),
    Asked("look at one queue", 2, lambda backend: backend._look(QUEUES[7:8])),
    Asked("look at all queues", 52, lambda backend: backend._look(None)),
    Asked("make due jobs available", 2 * 500, lambda backend: backend._taking._promote_some()),
    Asked("run: fence, finish, release, read", 8, run),
    Asked("rescue from a worker", 4 * BATCH, rescue),
    Asked("count the waiting up to 100", counted(100), lambda backend: backend.waiting(100)),
    Asked("count each state up to 10,001", 6 * MOST, lambda backend: backend.counts(MOST)),
    Asked(
        "count each queue, 5,000 in all", 2 * 5_000, lambda backend: backend.overview.waiting(5_000)
    ),
    Asked("list the newest of all", 4 * PAGE, listed()),
    Asked("list one status", 2 * PAGE, listed(status="SUCCESSFUL")),
    Asked("list the waiting", 2 * PAGE + 2, listed(status="READY")),
    Asked("list one task", 4 * PAGE, listed(name="shop.send", status="SUCCESSFUL")),
    Asked("list one user", 4 * PAGE, listed(user="ada", status="SUCCESSFUL")),
    Asked("prune", 2 * 500, lambda backend: backend.prune()),
)


def settle(backend: SqlBackend) -> object:
    """Claim and end in turn, so that the next owners are chosen; ask for exhausted and new keys."""
    keys = [Keys(share=Share("/:0:shared", f"//:0:shared/:{owner}")) for owner in (1, 2)]
    keys += [Keys(Limit("limit7", 1)), Keys(rate=Rate("rate7", 1, 3600.0))]
    keys += [Keys(unique=UniqueKey(f"=:new{number}", UNFINISHED)) for number in range(BATCH)]
    keys += [Keys(unique=UniqueKey("=:held7", UNFINISHED))]
    jobs = [a_job(backend, queue_name=SHARED)._replace(keys=each) for each in keys]
    backend.enqueue(jobs)
    backend._admissions.settle()
    worker_id = new_worker_id()
    for _ in range(3):
        backend.finish_many([(each, DONE) for each in backend.claim(worker_id, [SHARED], 1)])
        backend._admissions.settle()
    return backend._admissions.look()


def claim_and_end(queues: list[str] | None) -> Callable[[SqlBackend], object]:
    """Return what does so: where queues have limits, a claim counts what runs."""

    def act(backend: SqlBackend) -> object:
        claims: Any = claim(queues)(backend)
        return backend.finish_many([(each, DONE) for each in claims])

    return act


WITH_POLICIES = (
    Asked("claim from all queues, and end", claimed(50), claim_and_end(None)),
    Asked("claim from 50 queues, and end", claimed(50), claim_and_end(QUEUES)),
    Asked("claim from ten queues, and end", claimed(10), claim_and_end(QUEUES[2:12])),
    Asked("look at all queues", 54, lambda backend: backend._look(None)),
    Asked("settle: turns, limits, rates, keys", 8 * BATCH, settle),
)


@contextmanager
def filled(kind: str, share: float, *, with_policies: bool) -> Iterator[tuple[Place, SqlBackend]]:
    """A database with all these jobs."""
    with tempfile.TemporaryDirectory() as folder, place_of(kind, Path(folder)) as place:
        with place.engine.begin() as connection:
            if with_policies:
                ended = {"finished_at": "1e9 + value * 1000"}
                fill(connection, kind, int(HISTORY * share), states.SUCCEEDED, **ended)
                fill_waiting(connection, kind, share)
            else:
                fill_plain(connection, kind, share)
        with place.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for name in ("jobs", "limits", "slots", "turns", "unique_keys"):
                table = "TABLE " * (kind == "mariadb") + PREFIX + name
                vacuum = "VACUUM " * (kind == "postgresql")
                connection.exec_driver_sql(f"{vacuum}ANALYZE {table}").close()
        engine = create_engine(place.url, **options_of(place.url))
        backend = SqlBackend(engine, prefix=PREFIX, retention_seconds=2e9)
        try:
            if with_policies:
                with place.engine.begin() as connection:
                    reach_limits(connection)
                steer(backend)
            else:
                for name in PAUSED:
                    backend.pause(name)
                backend.enqueue([a_job(backend, queue_name="own") for _ in range(4 * BATCH)])
            yield place, backend
        finally:
            backend.close()
            engine.dispose()


def fill_plain(connection: Connection, kind: str, share: float) -> None:
    """Fill in jobs without a policy."""
    number = "(value % 50)" if kind == "sqlite" else "mod(value, 50)"
    queue = f"concat('queue', {number})" if kind == "mariadb" else f"'queue' || {number}"
    task = "CASE WHEN (value & 63) = 0 THEN 'shop.send' ELSE 'shop.other' END"
    ended = {"finished_at": "1e9 + value * 1000", "name": task, "task_name": task}
    for state, most, columns in (
        (states.SUCCEEDED, ENDED, ended),
        (states.SCHEDULED, DELAYED, {"due_at": "4e9 + value"}),
        (states.AVAILABLE, WAITING, {}),
    ):
        fill(connection, kind, int(most * share), state, queue_name=queue, **columns)


# -- what each database tells


def on_postgresql(connection: Connection, caught: Caught) -> tuple[int, str]:
    """Return the rows that a statement reads, and the worst way in which it reads the jobs."""
    [answer] = connection.exec_driver_sql(
        f"EXPLAIN (ANALYZE, FORMAT JSON) {caught.statement}", caught.parameters
    ).scalars()
    read, way = 0, ""
    for node in nodes(answer[0]["Plan"]):
        if node.get("Relation Name") == JOBS and node["Node Type"] != "ModifyTable":
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            read += int(rows * node["Actual Loops"])
            way = "SCAN" if node["Node Type"] == "Seq Scan" else way
    return read, way


def on_mariadb(connection: Connection, caught: Caught) -> tuple[int, str]:
    explained = connection.exec_driver_sql(f"EXPLAIN {caught.statement}", caught.parameters)
    plan = explained.mappings().all()
    way = "SCAN" if any(row["type"] == "ALL" and row["table"] == JOBS for row in plan) else ""
    before = rows_by_index(connection)
    connection.exec_driver_sql(caught.statement, caught.parameters).close()
    return rows_by_index(connection) - before, way


def rows_by_index(connection: Connection) -> int:
    """Rows that MariaDB has read in a session, but not by scans: if none is of the jobs, those are
    of small tables, and of copies in memory, which nobody counts on PostgreSQL either."""
    by_scans = "SHOW SESSION STATUS LIKE 'Handler_read_rnd_next'"
    [(_name, scanned)] = connection.exec_driver_sql(by_scans).all()
    return reads(connection) - int(scanned)


def on_sqlite(connection: Connection, caught: Caught) -> tuple[int, str]:
    """Return what stands for rows: a STEPS-th of the steps."""
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {caught.statement}", caught.parameters)
    way = "SCAN" if any(row.detail == f"SCAN {JOBS}" for row in plan) else ""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(count, 1)
    driver.execute(caught.statement, caught.parameters).fetchall()
    driver.set_progress_handler(None, 0)
    return max(0, taken - FEW_STEPS) // STEPS, way


COUNTERS = {"postgresql": on_postgresql, "mariadb": on_mariadb, "sqlite": on_sqlite}


def measure(kind: str, share: float, *, with_policies: bool) -> bool:
    """Measure one database, and print it; return whether no statement reads the table."""
    is_right = True
    title = f"\n{kind}{', every policy in use' if with_policies else ''}: rows that the statements"
    print(f"{title} of each act read, and the most of one statement")
    questions = WITH_POLICIES if with_policies else QUESTIONS
    with filled(kind, share, with_policies=with_policies) as (place, backend):
        for asked in questions:
            is_right &= ask(kind, place, backend, asked)
    return is_right


def ask(kind: str, place: Place, backend: SqlBackend, asked: Asked) -> bool:
    """Ask for one act, and print what it reads; return whether no statement reads the table."""
    clean_up(place)
    found = caught(backend, lambda: asked.act(backend))
    found = [each for each in found if not each.statement.startswith("INSERT")]
    counts, ways = [], set()
    with backend._dialect.engine.connect() as connection:
        for each in found:
            connection.exec_driver_sql("BEGIN")
            count, way = COUNTERS[kind](connection, each)
            connection.exec_driver_sql("ROLLBACK")
            counts.append(count)
            ways.add(way)
    aim = Aim(asked.bound, f"at most {asked.bound:,}").verdict(max(counts))
    mark = "reads the whole table" if "SCAN" in ways else aim
    print(
        f"  {asked.name:36}{len(found):4} statements {sum(counts):8,} rows"
        f"{max(counts):8,}   {mark}", flush=True,
    )  # fmt: skip
    return "SCAN" not in ways


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--policies", action="store_true", help="with every policy in use alone")
    parser.add_argument("--db", choices=sorted(COUNTERS), action="append")
    wanted = parser.parse_args()
    logging.disable(logging.ERROR)  # of rescues, which are meant
    share = 0.01 if wanted.quick else 1.0
    wanted_tables = (True,) if wanted.policies else (False, True)
    found = [
        measure(kind, share, with_policies=with_policies)
        for kind in wanted.db or COUNTERS
        for with_policies in wanted_tables
    ]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
