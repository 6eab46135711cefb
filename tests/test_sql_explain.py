"""A claim beside 200,000 finished and 50,000 delayed jobs: it uses its index, and reads its batch.

The statements are those of a real claim, caught on their way to the database with their real
parameters, and shown to the planner of that database before it has done them. What is counted is
rows, or the steps of SQLite's virtual machine; never time.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, create_engine, event

from backend_contract import a_job, work
from sqlqueues import KINDS, PREFIX, Place, options_of, place_of
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.backends.sql.tables import DELAYED, SUCCEEDED, WAITS
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import JobId
from tgext.asyncjob.seal import Seal
from tgext.asyncjob.workerid import new_worker_id

pytestmark = pytest.mark.slow

FINISHED, WAIT_LATER, BATCH = 200_000, 50_000, 20

#: Jobs that wait to be claimed, where there is a backlog.
BACKLOG = 20_000

#: What a worker may serve: all queues, one, several.
SERVED = (None, ("default",), ("default", "mails"))

JOBS = f"{PREFIX}jobs"

#: Numbers from 1, as each database makes them.
NUMBERS = {
    "sqlite": (
        "(WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < "
        "{most}) SELECT value FROM n)"
    ),
    "postgresql": "(SELECT value FROM generate_series(1, {most}) AS n(value))",
    "mariadb": "(SELECT seq AS value FROM seq_1_to_{most})",
}
#: What the jobs call, as it stands in a row; without a secret nothing is signed.
WORK = Seal(None).store(JobId("asyncjob_x"), Call(work, (), None))


class Caught(NamedTuple):
    """A statement on its way to the database."""

    statement: str
    parameters: Any


@pytest.fixture(scope="module", params=KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@contextmanager
def backend_of(place: Place) -> Iterator[SqlBackend]:
    engine = create_engine(place.url, **options_of(place.url))
    made = SqlBackend(engine, prefix=PREFIX)
    try:
        yield made
    finally:
        made.close()
        engine.dispose()


@pytest.fixture
def backend(full_tables: Place) -> Iterator[SqlBackend]:
    with backend_of(full_tables) as made:
        yield made


@pytest.fixture(scope="module")
def steps_without_others(place: Place) -> dict[Any, int]:
    """What a claim costs in SQLite where nothing else is in the tables, by the queues served."""
    steps: dict[Any, int] = {}
    if place.kind == "sqlite":
        with backend_of(place) as backend:
            for queues in SERVED:
                wait_for_a_claim(backend)
                steps[queues] = sum(steps_of(place, each) for each in caught_claim(backend, queues))
                place.empty()
    return steps


@pytest.fixture(scope="module")
def full_tables(place: Place, steps_without_others: dict[Any, int]) -> Place:
    """Finished and delayed jobs, spread over two queues and two priorities."""
    with place.engine.begin() as connection:
        fill(connection, place.kind, FINISHED, SUCCEEDED, finished_at="1e9 + value")
        fill(connection, place.kind, WAIT_LATER, DELAYED, due_at="4e9 + value")
        if place.kind != "sqlite":  # as the server does by itself after a while
            table = "TABLE " * (place.kind == "mariadb") + JOBS
            connection.exec_driver_sql(f"ANALYZE {table}").close()
    return place


def fill(connection: Connection, kind: str, most: int, state: int, **instants: str) -> None:
    made = uuid.uuid4().hex[:8]
    columns = {
        "uid": f"concat('{made}', value)" if kind == "mariadb" else f"'{made}' || value",
        "state": str(state),
        "rank": "CASE WHEN (value & 1) = 0 THEN 0 ELSE -1 END",
        "queue_name": "CASE WHEN (value & 2) = 0 THEN 'default' ELSE 'mails' END",
        "budget": "1",
        "name": f"'{WORK.name}'",
        "payload": f"'{WORK.payload}'",
        **instants,
    }
    names = ", ".join(map(connection.dialect.identifier_preparer.quote, columns))
    wanted, numbers = ", ".join(columns.values()), NUMBERS[kind].format(most=most)
    connection.exec_driver_sql(
        f"INSERT INTO {JOBS} ({names}) SELECT {wanted} FROM {numbers} AS numbers"
    )


def wait_for_a_claim(backend: SqlBackend) -> None:
    """Let jobs wait: some more than the claim takes and its statements, shown again, would."""
    backend.enqueue([a_job(backend) for _ in range(3 * BATCH)])


def caught_claim(backend: SqlBackend, queues: tuple[str, ...] | None = None) -> list[Caught]:
    """Claim a batch, and return the statements that did it."""
    worker_id = new_worker_id()
    backend.register(worker_id, None, 1)
    found: list[Caught] = []

    def catch(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if JOBS in statement:
            found.append(Caught(statement, parameters))

    engine = backend._dialect.engine
    event.listen(engine, "before_cursor_execute", catch)
    try:
        claims = backend.claim(worker_id, queues, BATCH)
    finally:
        event.remove(engine, "before_cursor_execute", catch)
    assert len(claims) == BATCH
    return found


# -- what each database tells of a statement


def rows_read_on_postgresql(connection: Connection, caught: Caught) -> int:
    """Rows that its scans of the jobs' table come to; fails for one that reads the whole table."""
    [answer] = connection.exec_driver_sql(
        f"EXPLAIN (ANALYZE, FORMAT JSON) {caught.statement}", caught.parameters
    ).scalars()
    plan = answer if isinstance(answer, list) else json.loads(answer)
    scans = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == JOBS]
    kinds = {node["Node Type"] for node in scans} - {"ModifyTable"}
    assert "Seq Scan" not in kinds, plan
    assert any("Index" in kind for kind in kinds) or "Tid Scan" in kinds, plan
    return max(
        int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
        for node in scans
    )


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def rows_read_on_mariadb(connection: Connection, caught: Caught) -> int:
    """Rows that the storage engine was asked for, by its own count."""
    explained = connection.exec_driver_sql(f"EXPLAIN {caught.statement}", caught.parameters)
    for row in explained.mappings().all():
        assert row["type"] != "ALL", row
    before = reads(connection)
    connection.exec_driver_sql(caught.statement, caught.parameters)
    return reads(connection) - before


def reads(connection: Connection) -> int:
    found = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'", ()).all()
    return sum(int(value) for _name, value in found)


def steps_of(place: Place, caught: Caught) -> int:
    """Steps that SQLite's virtual machine takes; rolled back."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    with place.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN IMMEDIATE")
        driver.set_progress_handler(count, 1)
        driver.execute(caught.statement, caught.parameters).fetchall()
        driver.set_progress_handler(None, 0)
        driver.rollback()
    return taken


def rows_read(place: Place, backend: SqlBackend, caught: list[Caught]) -> list[int]:
    """Rows that each statement reads, done once more and rolled back."""
    count = rows_read_on_postgresql if place.kind == "postgresql" else rows_read_on_mariadb
    found: list[int] = []
    with backend._dialect.engine.connect() as connection:
        for each in caught:
            connection.exec_driver_sql("BEGIN")
            found.append(count(connection, each))
            connection.exec_driver_sql("ROLLBACK")
    return found


def assert_searches(place: Place, caught: list[Caught]) -> None:
    """On SQLite: no statement scans the table."""
    with place.engine.connect() as connection:
        for each in caught:
            plan = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {each.statement}", each.parameters
            )
            lines = [row.detail for row in plan]
            assert any(f"SEARCH {JOBS} USING" in line for line in lines), lines
            assert not any(line.startswith(f"SCAN {JOBS}") for line in lines), lines


# -- the tests


@pytest.mark.parametrize("queues", SERVED)
def test_claim_reads_no_more_than_twice_its_batch_through_its_index(
    full_tables, backend, steps_without_others, queues
):
    wait_for_a_claim(backend)

    caught = caught_claim(backend, queues)

    assert any(f"UPDATE {JOBS}" in each.statement for each in caught)
    if full_tables.kind == "sqlite":
        assert_searches(full_tables, caught)
        steps = sum(steps_of(full_tables, each) for each in caught)
        assert steps <= 1.1 * steps_without_others[queues]
    else:
        assert max(rows_read(full_tables, backend, caught)) <= 2 * BATCH


@pytest.mark.parametrize("queues", SERVED)
def test_claim_reads_no_more_for_a_backlog_of_waiting_jobs(
    full_tables, backend, steps_without_others, queues
):
    with full_tables.engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM {JOBS} WHERE state = {WAITS}")
        fill(connection, full_tables.kind, BACKLOG, WAITS)

    caught = caught_claim(backend, queues)

    if full_tables.kind == "sqlite":
        steps = sum(steps_of(full_tables, each) for each in caught)
        assert steps <= 1.5 * steps_without_others[queues]
    else:
        # Where half of what waits is of another queue, a planner may rather pass over it than
        # look for each name: one row more for each, and as many again that the claim itself left.
        assert max(rows_read(full_tables, backend, caught)) <= 4 * BATCH
