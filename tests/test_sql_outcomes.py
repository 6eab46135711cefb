"""No outcome is lost: what the database refuses for a while is stored later, and what it cannot
hold is stored in another form, or refused where it is enqueued."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import transaction
from sqlalchemy import Engine, create_engine, event, func, make_url, select

from databases import url_of
from sqlqueues import KINDS, PATIENCE_SECONDS, Place, effects, place_of
from tgext.asyncjob import (
    JobQueue,
    NotSerializable,
    asyncjob_session,
    asyncjob_set_progress,
    task,
)
from tgext.asyncjob.job import FAILED, READY, RUNNING, SUCCESSFUL, WorkerId

#: Bytes that SQLite is told to take in the tests of what is too large.
BOUND = 100_000

#: A trigger that refuses what a table is to hold, in the words of each database.
REFUSALS = {
    "sqlite": (
        "CREATE TRIGGER {name} BEFORE {change} ON {table} WHEN {condition} "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION {name}() RETURNS trigger AS 'BEGIN RAISE ''refused''; END' "
        "LANGUAGE plpgsql",
        "CREATE TRIGGER {name} BEFORE {change} ON {table} FOR EACH ROW WHEN ({condition}) "
        "EXECUTE FUNCTION {name}()",
    ),
    "mariadb": (
        "CREATE TRIGGER {name} BEFORE {change} ON {table} FOR EACH ROW BEGIN IF {condition} "
        "THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF; END",
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture(autouse=True)
def _leave_nothing(request: Any) -> Iterator[None]:
    yield
    if "place" in request.fixturenames:
        made = request.getfixturevalue("place")
        made.close_queues()
        made.empty()


@contextmanager
def refused(place: Place, table: str, change: str, condition: str) -> Iterator[Callable[[], None]]:
    """The database refuses a change; gives what ends that before the block does."""
    name = f"refuse_{uuid.uuid4().hex[:8]}"
    words = {"name": name, "table": table, "change": change, "condition": condition}
    engine = place.engine.execution_options(isolation_level="AUTOCOMMIT")
    ended = []

    def end() -> None:
        if not ended:
            ended.append(True)
            with engine.connect() as connection:
                on = f" ON {table}" if place.kind == "postgresql" else ""
                connection.exec_driver_sql(f"DROP TRIGGER {name}{on}")
                if place.kind == "postgresql":
                    connection.exec_driver_sql(f"DROP FUNCTION {name}")

    with engine.connect() as connection:
        for text in REFUSALS[place.kind]:
            connection.exec_driver_sql(text.format(**words))
    try:
        yield end
    finally:
        end()


def ends_refused(place: Place) -> Any:
    return refused(place, place.tables.jobs.name, "UPDATE", "NEW.state > 2")


class Heard(logging.Handler):
    """Waits for a log line."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part, self.said = part, threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.part in record.getMessage():
            self.said.set()


@contextmanager
def heard(part: str) -> Iterator[threading.Event]:
    handler, logger = Heard(part), logging.getLogger("tgext.asyncjob")
    logger.addHandler(handler)
    try:
        yield handler.said
    finally:
        logger.removeHandler(handler)


def give(value: Any) -> Any:
    return value


def fail(text: str) -> None:
    raise ValueError(text)


def write_and_give(text: str, size: int) -> str:
    asyncjob_session().execute(effects.insert().values(text=text))
    return "x" * size


def report_much(size: int) -> str:
    try:
        asyncjob_set_progress(1, "x" * size)
    except NotSerializable as error:
        return str(error)
    return "no error"


def talk(lines: int) -> None:
    for number in range(lines):
        logging.getLogger("talk").warning("%03d %s", number, "ü" * 900)


# -- what the database refuses for a while


@pytest.mark.parametrize(("job", "status"), [(give, SUCCESSFUL), (fail, FAILED)])
def test_outcome_is_stored_when_the_database_takes_it_again(place, job, status):
    queue = place.queue(threads=1)
    with ends_refused(place) as end, heard("cannot store what became of jobs") as refusal:
        with queue.as_current():
            result = task(job).enqueue("x")
        queue.start_worker()
        assert refusal.wait(PATIENCE_SECONDS)
        assert queue.result(result.id).status is RUNNING
        end()

        result.wait(PATIENCE_SECONDS)
    assert (result.status, result.attempts) == (status, 1)


def test_job_that_was_claimed_for_nobody_waits_again_however_long_the_database_refuses_it(place):
    backend = place.queue().backend
    backend.register(WorkerId("w"), None, 1)
    uid = place.queue().perform(give, 1)
    [claim] = backend.claim(WorkerId("w"), None, 1)
    backend._running.clear()  # the answer to the claim got lost

    with refused(place, place.tables.jobs.name, "UPDATE", "NEW.state = 0"):
        for _ in range(8):
            try:
                backend.heartbeat(WorkerId("w"))
            except Exception:  # noqa: BLE001 - whatever each driver makes of it
                assert backend.get(uid).status is RUNNING
    for _ in range(2):
        backend.heartbeat(WorkerId("w"))

    assert backend.get(uid).status is READY
    assert claim.job.uid == uid


def test_job_that_was_claimed_for_nobody_waits_again_beside_another_worker(place):
    backend = place.queue().backend
    for worker in ("w", "other"):
        backend.register(WorkerId(worker), None, 1)
    uid = place.queue().perform(give, 1)
    backend.claim(WorkerId("w"), None, 1)
    backend._running.clear()  # the answer to the claim got lost

    for worker in ("w", "other", "w"):
        backend.heartbeat(WorkerId(worker))

    assert backend.get(uid).status is READY


def test_job_that_was_claimed_for_nobody_waits_again_after_a_round_that_saw_no_claim(place):
    backend = place.queue().backend
    backend.register(WorkerId("w"), None, 1)
    backend.rescue()
    uid = place.queue().perform(give, 1)
    backend.claim(WorkerId("w"), None, 1)
    backend._running.clear()  # the answer to the claim got lost

    backend.rescue()
    for _ in range(2):
        backend.heartbeat(WorkerId("w"))

    assert backend.get(uid).status is READY


def test_error_that_the_table_of_errors_refuses_ends_its_job_and_is_in_the_log(place, caplog):
    queue = place.queue()
    uid = queue.perform(fail, "the one text")

    with refused(place, place.tables.errors.name, "INSERT", "NEW.uid <> ''"):
        queue.run_pending()

    result = queue.result(uid)
    assert (result.status, result.errors) == (FAILED, [])
    assert f"job={uid} its outcome could not be stored as it is" in caplog.text
    assert "the one text" in caplog.text


def test_one_outcome_that_cannot_be_stored_keeps_none_of_its_batch(place):
    queue = place.queue()
    uids = [queue.perform(give, None), queue.perform(fail, "x"), queue.perform(give, "y")]

    with refused(place, place.tables.errors.name, "INSERT", "NEW.uid <> ''"):
        claims = queue.backend.claim(WorkerId("w"), None, 3)
        ends = [(claim, outcome_of(number)) for number, claim in enumerate(claims)]
        assert queue.backend.finish_many(ends) == [True] * 3

    assert [queue.result(uid).status for uid in uids] == [SUCCESSFUL, FAILED, SUCCESSFUL]


def outcome_of(number: int) -> Any:
    from tgext.asyncjob.job import Outcome, TaskError

    error = TaskError("builtins.ValueError", "x", "x")
    return [Outcome(SUCCESSFUL), Outcome(FAILED, error=error), Outcome(SUCCESSFUL, "y")][number]


# -- what a connection cannot hold


@pytest.mark.slow
@pytest.mark.parametrize("characters", ["utf8", "latin1"])
def test_error_text_is_kept_whatever_mariadbs_url_says_of_characters(characters):
    url = make_url(url_of("mariadb", Path())).update_query_dict({"charset": characters})
    prefix = f"t{uuid.uuid4().hex[:8]}_"
    text = "kein Kunde namens \U0001f600 oder Ελένη"
    with JobQueue(
        "sql", url=url.render_as_string(hide_password=False), threads=0, table_prefix=prefix
    ) as queue:
        uid = queue.perform(fail, text)
        queue.run_pending()
        result = queue.result(uid)
        drop(queue)

    assert [error.message for error in result.errors] == [text]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_error_text_that_postgresqls_database_cannot_hold_is_kept_escaped(encoding):
    url, name = make_url(url_of("postgresql", Path())), f"test_{uuid.uuid4().hex[:8]}"
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' "
            "TEMPLATE template0"
        )
    try:
        there = url.set(database=name)
        if encoding == "SQL_ASCII":  # psycopg gives bytes from such a one, unless it is told
            there = there.update_query_dict({"client_encoding": "utf8"})
        there = there.render_as_string(hide_password=False)
        with JobQueue("sql", url=there, threads=0) as queue:
            uid = queue.perform(fail, "no customer \U0001f600")
            other = queue.perform(give, "\U0001f600")
            queue.run_pending()
            [error], value = queue.result(uid).errors, queue.result(other).return_value
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        admin.dispose()

    assert error.message in ("no customer \\U0001f600", "no customer \U0001f600")
    assert error.exception_class is ValueError
    assert value == "\U0001f600"


def drop(queue: JobQueue) -> None:
    backend: Any = queue.backend
    backend.tables.metadata.drop_all(backend.engine)


# -- what is too large


@pytest.fixture
def bounded(tmp_path: Path) -> Iterator[JobQueue]:
    """A queue on a database that takes no more than BOUND bytes in one statement."""
    url = f"sqlite:///{tmp_path}/jobs.db?timeout=30"

    @event.listens_for(Engine, "connect")
    def bound(connection: Any, _record: Any) -> None:
        if hasattr(connection, "setlimit"):
            connection.setlimit(0, BOUND)

    try:
        with JobQueue("sql", url=url, threads=0) as queue:
            if queue.backend._dialect.most_bytes != BOUND:  # type: ignore[attr-defined]
                pytest.skip("SQLite can be told so from Python 3.11 on")
            effects.create(queue.session.get_bind())
            yield queue
    finally:
        event.remove(Engine, "connect", bound)


@pytest.mark.parametrize("managed", [True, False])
def test_call_that_no_statement_holds_is_refused_where_it_is_enqueued(bounded, managed):
    with bounded.in_transaction(managed), pytest.raises(NotSerializable) as caught:
        bounded.perform(give, "x" * BOUND)
    transaction.abort()

    assert f"expected at most {int(0.85 * BOUND)} bytes, got 1001" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert bounded.backend.waiting() == 0


def test_jobs_that_together_are_too_large_for_one_statement_are_enqueued_together(bounded):
    with bounded.in_transaction():
        uids = [bounded.perform(len, "x" * (BOUND // 2)) for _ in range(5)]
        transaction.commit()

    assert bounded.run_pending() == 5
    assert {bounded.result(uid).return_value for uid in uids} == {BOUND // 2}


def test_result_that_no_statement_holds_undoes_no_work(bounded):
    uid = bounded.perform(write_and_give, "done", BOUND)

    bounded.run_pending()

    result = bounded.result(uid)
    assert result.status is SUCCESSFUL
    with pytest.raises(NotSerializable, match=f"expected at most {int(0.85 * BOUND)} bytes"):
        _ = result.return_value
    rows = bounded.session.execute(effects.select()).all()
    transaction.abort()
    assert [row.text for row in rows] == ["done"]


def test_progress_that_no_statement_holds_is_refused_where_it_is_reported(bounded):
    uid = bounded.perform(report_much, BOUND)

    bounded.run_pending()

    assert f"expected at most {int(0.85 * BOUND)} bytes" in bounded.result(uid).return_value


def test_log_lines_that_no_statement_holds_leave_the_last_ones(bounded):
    uid = bounded.perform(talk, 50)

    bounded.run_pending()

    result = bounded.result(uid)
    assert result.status is SUCCESSFUL
    assert "were left out" in result.log[0]
    assert result.log[-1].startswith("WARNING talk: 049 ü")


@pytest.mark.slow
def test_worker_removes_soon_what_one_round_of_pruning_has_left(place, monkeypatch):
    monkeypatch.setattr("tgext.asyncjob.backends.sql.PRUNING_SECONDS", 0.0)  # a batch in each
    queue, jobs = place.queue(threads=1, retention=0), place.tables.jobs
    queue.perform_many(give, [(None,)] * 1_200)
    queue.run_pending()

    queue.start_worker()

    until, left = time.monotonic() + PATIENCE_SECONDS, 1_200
    while left and time.monotonic() < until:  # nothing tells when a row is removed
        with place.engine.connect() as connection:
            left = connection.execute(select(func.count()).select_from(jobs)).scalar_one()
    assert left == 0
