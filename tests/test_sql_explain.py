"""Beside 200,000 finished and 50,000 delayed jobs a claim uses its index, and reads its batch; so
does whatever else is asked for each enqueue, or now and then while nothing happens.

The statements are the real ones, caught on their way to the database with their real
parameters, and shown to the planner of that database before it has done them. What is counted is
rows, or PostgreSQL's pages, or the steps of SQLite's virtual machine; never time.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, create_engine, event

from backend_contract import BROKEN, DONE, WORKER, a_job, work
from sqlqueues import KINDS, PREFIX, Place, options_of, place_of
from tgext.asyncjob.backends import limits
from tgext.asyncjob.backends.brief import MOST_SHOWN_BEFORE
from tgext.asyncjob.backends.listing import Cursor, JobFilter
from tgext.asyncjob.backends.sql import SqlBackend, backlog, states
from tgext.asyncjob.backends.sql.relay import Relay, Sees
from tgext.asyncjob.backends.worker_id import new_worker_id
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import JobId
from tgext.asyncjob.policies import Keys, Limit, Rate
from tgext.asyncjob.serialization import CallSerializer
from tgext.asyncjob.sharing import Share
from tgext.asyncjob.task_options import LEAST_PRIORITY, MOST_PRIORITY

pytestmark = pytest.mark.slow

FINISHED, WAIT_LATER, BATCH = 200_000, 50_000, 20

#: Priorities that there may be.
PRIORITIES = MOST_PRIORITY - LEAST_PRIORITY + 1

#: Jobs that wait to be claimed, where there is a backlog.
BACKLOG = 20_000

#: Jobs that wait to be admitted.
BLOCKED = 2_000

#: What a worker may serve: all queues, one, several, of which some are empty.
SERVED = (None, ("default",), ("default", "mails"), ("mails", "none", "default", "nothing"))

JOBS = f"{PREFIX}jobs"

#: What PostgreSQL may read to find the first row, past those that were there before, and for each.
PAGES_TO_BEGIN, PAGES_A_ROW = 40, 8

#: Steps of SQLite's virtual machine in which nothing is read that grows with the table.
FEW_STEPS = 4_000

#: Steps for each row that is found among those of many queues.
STEPS = 100

#: What the jobs wait for that are BLOCKED, and the slot of the one that is not.
FULL = Keys(Limit("full", 1))
HOLDER = (
    "(name, uid, lease, admitted_at) SELECT 'full', uid, 0, 0 FROM {jobs} WHERE number = ({holder})"
)

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
WORK = CallSerializer(None).dump(JobId("asyncjob_x"), Call(work, (), None))


class Caught(NamedTuple):
    """A statement on its way to the database."""

    statement: str
    parameters: Any


@pytest.fixture(scope="module", params=KINDS)
def kind(request: Any) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def place(kind: str, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(kind, tmp_path_factory.mktemp("sql")) as made:
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
def last_number(place: Place, steps_without_others: dict[Any, int]) -> int:
    """Let there be finished and delayed jobs, spread over two queues and two priorities; gives the
    number of the last one."""
    with place.engine.begin() as connection:
        if place.kind == "postgresql":
            connection.exec_driver_sql(f"ALTER TABLE {JOBS} SET (autovacuum_enabled = off)")
            connection.exec_driver_sql(f"TRUNCATE {JOBS}")
        fill(connection, place.kind, FINISHED, states.SUCCEEDED, finished_at="4e9 + value")
        fill(connection, place.kind, WAIT_LATER, states.SCHEDULED, due_at="4e9 + value")
        fill(connection, place.kind, WAIT_LATER, states.AVAILABLE, queue_name="'foreign'", rank="1")
        blocked = {"blocked_by": "'full'", "limit_key": "'full'", "policy": f"'{FULL.text}'"}
        fill(connection, place.kind, BLOCKED, states.BLOCKED, **blocked)
        # Who holds the only slot of that key is one of those that are delayed for ever.
        holder = f"SELECT min(number) FROM {JOBS} WHERE state = {states.AVAILABLE}"
        for begin in ("(name) VALUES ('full')", HOLDER.format(jobs=JOBS, holder=holder)):
            table = "limits" if "VALUES" in begin else "slots"
            connection.exec_driver_sql(f"INSERT INTO {PREFIX}{table} {begin}")
        found: int = connection.exec_driver_sql(f"SELECT max(number) FROM {JOBS}").scalar_one()
    return found


@pytest.fixture(scope="module", params=["no statistics", "statistics"])
def full_tables(place: Place, last_number: int, request: Any) -> Place:
    """Those jobs and no others; the database has looked at them or has not, as it does by itself
    after a while."""
    with place.engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM {JOBS} WHERE number > {last_number}")
        if place.kind == "postgresql":  # pytest chooses the order
            connection.exec_driver_sql(
                f"DELETE FROM pg_statistic WHERE starelid = '{JOBS}'::regclass"
            )
    clean_up(place)
    if request.param == "statistics":
        table = "TABLE " * (place.kind == "mariadb") + JOBS
        vacuum = "VACUUM " * (place.kind == "postgresql")
        with place.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"{vacuum}ANALYZE {table}").close()
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
        "task_name": f"'{WORK.name}'",
        "enqueued_by": "CASE WHEN (value & 1023) = 0 THEN 'ada' END",
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


def caught(backend: SqlBackend, act: Callable[[], object]) -> list[Caught]:
    """Do something, and return the statements on the jobs that did it."""
    found: list[Caught] = []

    def catch(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if JOBS in statement:
            found.append(Caught(statement, parameters))

    engine = backend._dialect.engine
    event.listen(engine, "before_cursor_execute", catch)
    try:
        act()
    finally:
        event.remove(engine, "before_cursor_execute", catch)
    return found


def caught_claim(backend: SqlBackend, queues: tuple[str, ...] | None = None) -> list[Caught]:
    """Claim a batch, and return the statements that did it."""
    worker_id = new_worker_id()
    backend.register(worker_id, None, 1)
    claims: list[Any] = []
    found = caught(backend, lambda: claims.extend(backend.claim(worker_id, queues, BATCH)))
    assert len(claims) == BATCH
    return found


def caught_look(backend: SqlBackend, queues: tuple[str, ...] | None) -> list[Caught]:
    """Look whether a job waits, as an idle worker does."""
    return caught(backend, lambda: backend._look(queues))


# -- what each database tells of a statement


def plan_of(connection: Connection, caught: Caught) -> dict[str, Any]:
    """PostgreSQL's plan of a statement, and what came of it; fails for one that reads the whole
    table, or the whole of an index: that one shows by the pages that it reads."""
    [answer] = connection.exec_driver_sql(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {caught.statement}", caught.parameters
    ).scalars()
    found: dict[str, Any] = (answer if isinstance(answer, list) else json.loads(answer))[0]["Plan"]
    scans = [node for node in nodes(found) if node.get("Relation Name") == JOBS]
    # The statement picks rows when a scan first asks for them, which is counted for that scan too.
    picked = next((node for node in nodes(found) if node.get("CTE Name") == "picked"), {})
    kinds = {node["Node Type"] for node in scans} - {"ModifyTable"}
    assert "Seq Scan" not in kinds, found
    assert any("Index" in kind for kind in kinds) or "Tid Scan" in kinds, found
    for node in scans:
        if node["Node Type"] != "ModifyTable":
            pages = pages_of(node) - (pages_of(picked) if is_of_picked(node) else 0)
            searches = node["Actual Loops"] - 1  # beside the first
            assert pages <= PAGES_TO_BEGIN + PAGES_A_ROW * (rows_of(node) + searches), node
    return found


def is_of_picked(node: dict[str, Any]) -> bool:
    """Whether it reads, for the UPDATE, the rows that the statement has picked."""
    return node["Node Type"] == "Tid Scan" and node["Parent Relationship"] == "Outer"


def pages_of(node: dict[str, Any]) -> int:
    return int(node.get("Shared Hit Blocks", 0) + node.get("Shared Read Blocks", 0))


def rows_of(node: dict[str, Any]) -> int:
    """Rows that a scan comes to."""
    passed_over = node.get("Rows Removed by Filter", 0)
    return int((node["Actual Rows"] + passed_over) * node["Actual Loops"])


def rows_read_on_postgresql(connection: Connection, caught: Caught) -> int:
    """Rows that its scans of the jobs' table come to, all together."""
    return sum(rows_by_scan(connection, caught))


def rows_by_scan(connection: Connection, caught: Caught) -> list[int]:
    """Rows that each of PostgreSQL's scans of the jobs' table comes to."""
    plan = plan_of(connection, caught)
    scans = [node for node in nodes(plan) if node.get("Relation Name") == JOBS]
    return [rows_of(node) for node in scans if node["Node Type"] != "ModifyTable"]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def rows_read_on_mariadb(connection: Connection, caught: Caught) -> int:
    """Rows that the storage engine was asked for, by its own count."""
    explained = connection.exec_driver_sql(f"EXPLAIN {caught.statement}", caught.parameters)
    for row in explained.mappings().all():
        assert row["type"] != "ALL" or row["table"] != JOBS, row
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
            assert any(f"SEARCH {JOBS} USING" in line for line in lines), (each, lines)
            assert not any(line.startswith(f"SCAN {JOBS}") for line in lines), lines


def most_rows(place: Place, queues: tuple[str, ...] | None) -> int:
    """Twice the batch, and a row of each queue, and of each queue that is paused. PostgreSQL comes
    to a row of several queues once more, to lock it."""
    several = 0 if queues is None else len(queues)
    return 2 * BATCH + several + 2 + BATCH * (several > 1 and place.kind == "postgresql")


def assert_list_is_read_by_its_pages(
    place: Place, backend: SqlBackend, found: list[Caught], most: int = 2 * BATCH + 2
) -> None:
    """Of each range of an index no more is read than *most*."""
    if place.kind == "sqlite":
        assert_searches(place, found)
        for each in found:
            assert steps_of(place, each) <= 5 * FEW_STEPS + 10 * most * ranges_of(each)
        return
    if place.kind == "postgresql":
        with backend._dialect.engine.connect() as connection:
            for each in found:
                assert max(rows_by_scan(connection, each)) <= most, each
        return
    for each, read in zip(found, rows_read(place, backend, found), strict=True):
        if "RECURSIVE" in each.statement:  # it counts the priorities that it makes, too
            assert read <= 12 * PRIORITIES, each
        else:  # and the rows that it copies to put ranges together
            copies = 2 if "FROM (" in each.statement else 1
            assert read <= most * ranges_of(each) * copies, each


def ranges_of(caught: Caught) -> int:
    """The ranges of indexes that a statement reads."""
    return max(1, caught.statement.count("LIMIT"))


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
        assert max(rows_read(full_tables, backend, caught)) <= most_rows(full_tables, queues)


@pytest.mark.parametrize("queues", SERVED)
def test_claim_on_postgresql_searches_no_index_for_what_it_has_found(full_tables, backend, queues):
    if full_tables.kind != "postgresql":
        pytest.skip("only PostgreSQL tells a statement where a row is stored")
    wait_for_a_claim(backend)
    caught = [each for each in caught_claim(backend, queues) if f"UPDATE {JOBS}" in each.statement]

    with backend._dialect.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        [plan] = [plan_of(connection, each) for each in caught]
        connection.exec_driver_sql("ROLLBACK")

    [picked] = [node for node in nodes(plan) if node.get("CTE Name") == "picked"]
    [changed] = [node for node in nodes(plan) if is_of_picked(node)]
    locked = [node for node in nodes(plan) if node.get("Parent Relationship") == "Inner"]
    assert rows_of(changed) == rows_of(picked) == BATCH
    assert pages_of(changed) - pages_of(picked) <= BATCH
    assert len(locked) == (queues is not None and len(queues) > 1)
    for node in locked:
        assert node["Node Type"] == "Tid Scan"
        assert (rows_of(node), pages_of(node)) == (BATCH, BATCH)


@pytest.mark.parametrize("queues", SERVED)
def test_claim_reads_no_more_for_a_backlog_of_waiting_jobs(
    full_tables, backend, steps_without_others, queues
):
    with full_tables.engine.begin() as connection:
        connection.exec_driver_sql(
            f"DELETE FROM {JOBS} WHERE state = {states.AVAILABLE} AND queue_name <> 'foreign'"
        )
        fill(connection, full_tables.kind, BACKLOG, states.AVAILABLE)
    clean_up(full_tables)

    caught = caught_claim(backend, queues)

    if full_tables.kind == "sqlite":
        steps = sum(steps_of(full_tables, each) for each in caught)
        assert steps <= 1.5 * steps_without_others[queues]
    else:
        assert max(rows_read(full_tables, backend, caught)) <= most_rows(full_tables, queues)


@pytest.mark.parametrize("queues", [None, ("default", "mails")])
def test_claim_reads_nothing_of_the_backlog_of_a_paused_queue(
    full_tables, backend, steps_without_others, queues
):
    with full_tables.engine.begin() as connection:
        fill(connection, full_tables.kind, BACKLOG, states.AVAILABLE)
    clean_up(full_tables)
    backend.pause("default")
    try:
        caught = caught_claim(backend, queues)
        look = caught_look(backend, queues)
    finally:
        backend.resume("default")

    if full_tables.kind == "sqlite":
        steps = sum(steps_of(full_tables, each) for each in [*caught, *look])
        assert steps <= 3 * steps_without_others[queues] + FEW_STEPS
    else:
        served = ("mails", "foreign") if queues is None else queues
        read = rows_read(full_tables, backend, [*caught, *look])
        assert max(read) <= most_rows(full_tables, served)


#: In which order the jobs of many queues are enqueued, and with which priorities.
SPREADS: dict[str, Callable[[list[str]], list[tuple[str, int]]]] = {
    "in turn": lambda names: [(name, 0) for _ in range(2 * BATCH) for name in names],
    "one queue after the other": lambda names: [
        (name, 0) for name in names for _ in range(2 * BATCH)
    ],
    "by priority": lambda names: [
        (name, number % 3) for _ in range(2 * BATCH) for number, name in enumerate(names)
    ],
}


@pytest.mark.parametrize("limited", [False, True], ids=["", "one limited"])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("number", [10, 50])
def test_claim_from_many_queues_reads_twice_its_batch_and_a_row_of_each(
    full_tables, backend, number, spread, limited
):
    names = [f"many{each:02}" for each in range(number)]
    wanted = SPREADS[spread](names)
    jobs = [a_job(backend, queue_name=name, priority=priority) for name, priority in wanted]
    backend.enqueue(jobs)
    if limited:  # what runs is counted
        backend.limit(names[0], 2 * BATCH)
        backend._look(names)
    let_few_run(full_tables)
    try:
        worker_id, claims = new_worker_id(), []
        backend.register(worker_id, None, 1)
        found = caught(backend, lambda: claims.extend(backend.claim(worker_id, names, BATCH)))
        order = sorted(range(len(jobs)), key=lambda at: (-wanted[at][1], at))
        assert [claim.job.uid for claim in claims] == [jobs[at].uid for at in order[:BATCH]]
        most = most_rows(full_tables, tuple(names))
        if full_tables.kind == "sqlite":
            assert_searches(full_tables, found)
            assert sum(steps_of(full_tables, each) for each in found) <= FEW_STEPS + STEPS * most
        else:
            assert max(rows_read(full_tables, backend, found)) <= most
    finally:
        with full_tables.engine.begin() as connection:
            connection.exec_driver_sql(f"DELETE FROM {JOBS} WHERE queue_name LIKE 'many%%'", ())
            connection.exec_driver_sql(f"DELETE FROM {PREFIX}queues WHERE name LIKE 'many%%'", ())


LISTS = {
    "all": JobFilter.of(),
    "what waits": JobFilter.of(status="READY"),
    "a status": JobFilter.of(status="SUCCESSFUL"),
    "all statuses": JobFilter.of(status=["SUCCESSFUL", "FAILED", "CANCELLED"]),
    "a task": JobFilter.of(status="SUCCESSFUL", name=WORK.name),
    "a user": JobFilter.of(user="ada", status="SUCCESSFUL"),
    "until a time": JobFilter.of(
        status="SUCCESSFUL", until=datetime.fromtimestamp(4e9 + 9_000, timezone.utc)
    ),
}


@pytest.mark.parametrize("wanted", LISTS.values(), ids=LISTS)
def test_list_of_jobs_reads_its_pages(full_tables, backend, wanted):
    let_few_run(full_tables)
    page = backend.find(wanted, None, BATCH)
    assert len(page.uids) == BATCH
    found: list[Caught] = caught(backend, lambda: backend.find(wanted, None, BATCH))
    found += caught(backend, lambda: backend.find(wanted, Cursor.of(page.next), BATCH))

    assert_list_is_read_by_its_pages(full_tables, backend, found)


@pytest.mark.parametrize(
    "wanted", [JobFilter.of("READY", user="ada"), JobFilter.of("RUNNING")], ids=str
)
def test_few_jobs_are_not_found_by_the_primary_key(backend, wanted):
    # With 1,000,000 jobs PostgreSQL did so once the statement was prepared: a plan that does not
    # know how wide the bounds of a number are takes them for narrow.
    found = caught(backend, lambda: backend.find(wanted, Cursor.of("7-"), BATCH))

    assert f"{JOBS}.number + " in found[0].statement
    assert f"{JOBS}.number <= " not in found[0].statement


#: Filters of which no index finds the jobs, and that none fits.
SEARCHES = {
    "a queue": JobFilter.of("SUCCESSFUL", queue_name="none"),
    "an error": JobFilter.of("SUCCESSFUL", error="None"),
    "a task and a status": JobFilter.of("CANCELLED", name=WORK.name),
    "a task of what waits": JobFilter.of("READY", name="none"),
    "a queue of what waits": JobFilter.of("READY", queue_name="foreign"),
    "a queue of what is delayed": JobFilter.of("READY", queue_name="none"),
    "an error of what waits": JobFilter.of("READY", error="None"),
    "a task and a user of what waits": JobFilter.of("READY", name="none", user="ada"),
    "what was enqueued long ago": JobFilter.of(
        "READY", until=datetime.fromtimestamp(1e9, timezone.utc)
    ),
}


@pytest.mark.parametrize("wanted", SEARCHES.values(), ids=SEARCHES)
def test_page_of_a_list_looks_at_so_many_jobs(full_tables, backend, wanted):
    let_few_run(full_tables)
    found = caught(backend, lambda: backend.find(wanted, None, BATCH, look_at=BATCH))

    page = backend.find(wanted, None, BATCH, look_at=BATCH)
    assert page.uids == []
    assert page.next is not None
    # Twice as many if there are several priorities.
    assert_list_is_read_by_its_pages(full_tables, backend, found, 2 * (2 * BATCH + 2))


@pytest.mark.parametrize("wanted", SEARCHES.values(), ids=SEARCHES)
def test_count_of_a_list_looks_at_so_many_jobs(full_tables, backend, wanted):
    let_few_run(full_tables)
    found = caught(backend, lambda: backend.count(wanted, BATCH, look_at=BATCH))

    assert backend.count(wanted, BATCH, look_at=BATCH) == (0, False)
    assert_list_is_read_by_its_pages(full_tables, backend, found, 2 * (2 * BATCH + 2))


@pytest.mark.parametrize("wanted", LISTS.values(), ids=LISTS)
def test_count_of_a_list_reads_no_more_than_it_counts(full_tables, backend, wanted):
    let_few_run(full_tables)
    found = caught(backend, lambda: backend.count(wanted, BATCH))

    assert backend.count(wanted, BATCH) == (BATCH, False)
    assert_list_is_read_by_its_pages(full_tables, backend, found)


@pytest.fixture
def many_priorities(full_tables: Place, backend: SqlBackend) -> Iterator[None]:
    """Jobs of 32 priorities, available and blocked, that are gone after the test."""
    let_few_run(full_tables)
    highest = backend.highest()
    blocked = {"blocked_by": "'full'", "limit_key": "'full'", "policy": f"'{FULL.text}'"}
    rank = {"rank": "value & 31"}
    with full_tables.engine.begin() as connection:
        kind = full_tables.kind
        fill(connection, kind, 32 * BATCH, states.BLOCKED, **rank, **blocked)
        fill(connection, kind, 32 * BATCH, states.AVAILABLE, **rank)
    clean_up(full_tables)
    yield
    with full_tables.engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM {JOBS} WHERE number > {highest}")
    clean_up(full_tables)


@pytest.mark.usefixtures("many_priorities")
@pytest.mark.parametrize("queue_names", [None, ["default", "mails"]], ids=["", "of queues"])
def test_list_of_jobs_of_many_priorities_is_read_by_two_statements(
    full_tables, backend, queue_names
):
    wanted = JobFilter.of("READY", queue_name=queue_names)
    page = backend.find(wanted, None, BATCH)

    found = caught(backend, lambda: backend.find(wanted, Cursor.of(page.next), BATCH))

    assert [int(uid[8:]) for uid in page.uids] == list(range(32 * BATCH, 31 * BATCH, -1))
    if full_tables.kind == "mariadb" and queue_names is None:  # has them all in that order
        assert [ranges_of(each) for each in found] == [2]
    else:
        assert len(found) == 2
        assert ranges_of(found[1]) >= 64
    assert_list_is_read_by_its_pages(full_tables, backend, found)


def test_poll_of_fifty_bars_reads_their_jobs_and_the_first_ones_of_their_queue(
    full_tables, backend
):
    with full_tables.engine.begin() as connection:
        fill(connection, full_tables.kind, BACKLOG, states.AVAILABLE)
    jobs = [a_job(backend) for _ in range(50)]
    backend.enqueue(jobs)
    clean_up(full_tables)

    found = caught(backend, lambda: backend.briefs([job.uid for job in jobs]))

    assert len(found) == 2
    if full_tables.kind == "sqlite":
        assert_searches(full_tables, found)
        assert sum(steps_of(full_tables, each) for each in found) <= 5 * FEW_STEPS
    else:
        assert max(rows_read(full_tables, backend, found)) <= 10 * MOST_SHOWN_BEFORE


#: Whether another transaction may still see what an earlier one has deleted: other tests have some.
SEEN_BY_OTHERS = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND pid <> pg_backend_pid() AND greatest(age(backend_xmin), age(backend_xid)) >= age('{}'::xid)
"""

#: How long they may take, in seconds.
PATIENCE_SECONDS = 60.0


def clean_up(place: Place) -> None:
    """Let PostgreSQL clean up, as it does by itself: what was deleted costs pages until then."""
    if place.kind != "postgresql":
        return
    until = time.monotonic() + PATIENCE_SECONDS
    with place.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        number = connection.exec_driver_sql("SELECT pg_current_xact_id()::xid").scalar_one()
        while connection.exec_driver_sql(SEEN_BY_OTHERS.format(number)).scalar_one():
            assert time.monotonic() < until, "a transaction of others does not end"
            time.sleep(0.02)  # nothing tells when one ends but to ask
        connection.exec_driver_sql(f"VACUUM {JOBS}").close()


def let_few_run(place: Place) -> None:
    """Remove the jobs that the tests before have claimed: of those that run there are few."""
    with place.engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM {JOBS} WHERE state = {states.RUNNING}")
    clean_up(place)


def rescue_from(backend: SqlBackend) -> None:
    """Take from a worker what it held, as a rescue does."""
    worker_id = new_worker_id()
    backend.register(worker_id, None, 1)
    wait_for_a_claim(backend)
    claims = backend.claim(worker_id, None, 3)
    backend.finish(claims[0], BROKEN)
    backend.release(claims[1:2])
    backend.heartbeat(worker_id)
    [worker] = [row for row in rows_of_workers(backend) if row.worker_id == worker_id]
    backend._registry._rescue.from_worker(worker)


def rows_of_workers(backend: SqlBackend) -> list[Any]:
    with backend._dialect.side_database.connect() as connection:
        return list(connection.execute(backend._registry._select_workers()))


def look(backend: SqlBackend) -> None:
    for queues in SERVED:
        backend._look(queues)


def change(backend: SqlBackend) -> None:
    """All that is done with one job, and with one that ended."""
    worker_id = new_worker_id()
    backend.enqueue([a_job(backend), a_job(backend)])
    for claim in backend.claim(worker_id, None, 2):
        backend.standing(claim)
        backend.fence(claim)
        backend.unfence(claim)
        backend.finish(claim, DONE)
        backend.get(claim.job.uid)
        backend.progress(claim.job.uid)
        backend.retry(claim.job.uid)
        backend.cancel(claim.job.uid)
        backend.change_many("retry", [claim.job.uid])
        backend.change_many("cancel", [claim.job.uid])


def admit(backend: SqlBackend) -> None:
    """Admit jobs, and look for free slots, beside those that wait for another key."""
    both = Keys(Limit("some", 2), Rate("often", 2, 60.0))
    plain = Keys(Limit("some", 2))
    jobs = [a_job(backend, queue_name="limited") for _ in range(4)]
    wanted = zip(jobs, (both, plain, plain, both), strict=True)
    backend.enqueue([job._replace(keys=keys) for job, keys in wanted])
    backend._admissions.settle()
    for _ in range(2):
        claims = backend.claim(WORKER, ["limited"], BATCH)
        backend.finish_many([(claim, DONE) for claim in claims])
    backend._admissions.settle()
    backend._admissions.look()
    backend._key_overview.uses(both)
    assert {each.waiting for each in backend.key_states().states} >= {BATCH}
    backend._admission.prune()


def take_turns(backend: SqlBackend) -> None:
    """Choose the next of several owners, one by one, take a job back, and find who has a slot; look
    whose jobs wait."""
    keys = [Keys(share=Share("/:0:shared", f"//:0:shared/:{owner}")) for owner in "aabc"]
    keys[1:1] = [keys[0]._replace(limit=Limit("owned", 1))] * 2
    for some in keys[:1], keys[1:]:
        jobs = [a_job(backend, queue_name="shared")._replace(keys=each) for each in some]
        backend.enqueue(jobs)
        backend._admissions.settle()
    backend.owner_states()
    backend.blocked([job.uid for job in jobs])
    for _ in range(len(keys)):
        claims = backend.claim(WORKER, ["shared"], 1)
        backend._admissions.settle()
        backend.finish_many([(claim, DONE) for claim in claims])
    backend._admissions.settle()
    backend._admission.prune()


def claim_nothing(backend: SqlBackend) -> None:
    """What a stale message of a broker costs, or a wake-up that comes too late."""
    assert not backend.claim(new_worker_id(), ("nothing",), 1)


class NoBroker:
    """A publisher that takes everything."""

    def publish(self, queue_names: Any) -> None: ...

    def close(self) -> None: ...

    def after_fork(self) -> None: ...


def relay_round(backend: SqlBackend) -> None:
    """What a relay looks at, changes, and asks after a claim."""
    request = backend._admissions.request
    sees = Sees(backend._taking, backend._pausing, backend._registry, request, lambda: True)
    relay = Relay(backend.tables, backend._dialect, NoBroker(), sees, backend._now)
    for _ in range(3):
        relay.round()
    relay.pass_on("default")
    relay._unstamp("default", 1)
    relay.close()


def count_ended(backend: SqlBackend) -> None:
    """Count a part of some minutes, and look for the first of those in which nothing has ended."""
    ended, begin = backend._statistics._ended, 4e9 + FINISHED // 2
    assert begin < ended.count(begin, begin + 600, {}, rows=BATCH) < begin + 2 * BATCH
    assert ended.first(5e9, 6e9) is None


def count_queues(backend: SqlBackend) -> None:
    """Count what waits, as a page does, of each queue the least."""
    found = {each.queue_name: each for each in backend.overview.waiting(BATCH)}
    assert found["foreign"].oldest is not None
    assert found["foreign"].is_capped


#: What is asked for each enqueue, in each round of the maintenance, or with each job.
ASKED: dict[str, Callable[[SqlBackend], object]] = {
    "waiting": lambda backend: backend.waiting(BATCH),
    "look": look,
    "promote": lambda backend: (backend._taking.promote(len), backend._taking._promote_some()),
    "prune": lambda backend: backend.prune(),
    "rescue": rescue_from,
    "change": change,
    "relay": relay_round,
    "count what has ended": count_ended,
    "count what waits in each queue": count_queues,
    "admit": admit,
    "take turns": take_turns,
    "claim nothing": claim_nothing,
}


@pytest.mark.parametrize("asked", ASKED)
def test_nothing_that_is_asked_time_and_again_reads_more_for_what_else_is_there(
    full_tables, backend, asked, monkeypatch
):
    monkeypatch.setattr(backlog, "LEAST_COUNTED", BATCH)
    monkeypatch.setattr(limits, "MOST_WAITING", BATCH)
    let_few_run(full_tables)
    if full_tables.kind == "mariadb" and ASKED[asked] is count_queues:
        with full_tables.engine.connect() as connection:  # or it reads the index of what waits
            connection.exec_driver_sql(f"ANALYZE TABLE {JOBS}").close()
    found = caught(backend, lambda: ASKED[asked](backend))
    found = [each for each in found if not each.statement.startswith("INSERT")]

    assert found
    if full_tables.kind == "sqlite":
        assert_searches(full_tables, found)
        assert max(steps_of(full_tables, each) for each in found) <= FEW_STEPS
    else:
        assert max(rows_read(full_tables, backend, found)) <= 8 * BATCH
