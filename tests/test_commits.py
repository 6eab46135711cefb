"""Every commit of a job's work carries its completion, or its fence: whichever way it commits.

A job that is undisturbed leaves its work behind and has succeeded; one that was cancelled before
its commit, or that another worker has taken, leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import transaction
import zope.sqlalchemy
from sqlalchemy import create_engine, select, text, update

import sqlqueues
from databases import begin_at_the_first_statement
from sqlqueues import KINDS, PREFIX, Effect, Place, effects, options_of, place_of, session_of
from tgext.asyncjob import TaskResultStatus, asyncjob_session, task
from tgext.asyncjob.backends.sql import states
from tgext.asyncjob.transactions.connections import _engines, listen

SUCCESSFUL, FAILED = TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED
CANCELLED, RUNNING = TaskResultStatus.CANCELLED, TaskResultStatus.RUNNING

ADDED = f"{PREFIX}added"


@pytest.fixture(scope="module", params=KINDS)
def module_place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def place(module_place: Place) -> Iterator[Place]:
    yield module_place
    transaction.abort()
    module_place.close_queues()
    module_place.empty()
    with module_place.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {ADDED}")
    sqlqueues.hooks.clear()


# -- ways to commit: each is called in a job that may have been disturbed, and writes "work"


def _write() -> None:
    asyncjob_session().execute(effects.insert().values(text="work", amount=1))
    zope.sqlalchemy.mark_changed(asyncjob_session()())


def in_an_open_savepoint() -> None:
    asyncjob_session().begin_nested()
    _write()


def in_an_open_savepoint_of_an_open_one() -> None:
    for _ in range(3):
        asyncjob_session().begin_nested()
        _write()


def unflushed_in_an_open_savepoint() -> None:
    asyncjob_session().begin_nested()
    asyncjob_session().add(Effect(text="work"))


def before_an_open_savepoint() -> None:
    _write()
    asyncjob_session().begin_nested()


def in_a_released_savepoint() -> None:
    """Where the driver has begun no transaction its release is a commit."""
    with asyncjob_session().begin_nested():
        _write()
    sqlqueues.hooks["middle"]()


def in_a_savepoint_of_the_transaction() -> None:
    transaction.savepoint(optimistic=True)
    _write()


def at_the_end() -> None:
    _write()


def in_a_hook_of_the_commit() -> None:
    transaction.get().addBeforeCommitHook(_write)


def in_an_open_savepoint_of_a_hook() -> None:
    transaction.get().addBeforeCommitHook(in_an_open_savepoint)


def after_reading_a_stream() -> None:
    """The session's connection reads with cursors of the server from here on."""
    _write()
    connection = asyncjob_session().connection()
    connection.execution_options(stream_results=True).execute(select(effects.c.id)).all()


ENDS = (
    after_reading_a_stream, in_a_hook_of_the_commit, in_an_open_savepoint_of_a_hook, at_the_end,
    in_an_open_savepoint, in_an_open_savepoint_of_an_open_one, unflushed_in_an_open_savepoint,
    before_an_open_savepoint, in_a_savepoint_of_the_transaction,
)  # fmt: skip


def in_parts() -> None:
    _write()
    transaction.commit()


def in_parts_with_an_open_savepoint() -> None:
    in_an_open_savepoint_of_an_open_one()
    transaction.commit()


def by_the_connection() -> None:
    _write()
    asyncjob_session().connection().commit()


def by_the_connection_with_an_open_savepoint() -> None:
    in_an_open_savepoint()
    asyncjob_session().connection().get_transaction().commit()


def by_text() -> None:
    _write()
    asyncjob_session().execute(text(" /* by hand */ commit"))


def by_the_drivers_text() -> None:
    _write()
    asyncjob_session().connection().exec_driver_sql("COMMIT")


def by_a_new_table() -> None:
    _write()
    asyncjob_session().execute(text(f"CREATE TABLE {ADDED} (id INTEGER)"))


PARTS = (in_parts, in_parts_with_an_open_savepoint, by_text, by_the_drivers_text, by_a_new_table)

#: After these SQLAlchemy's session cannot go on: an undisturbed job fails as well.
BREAKS = (by_the_connection, by_the_connection_with_an_open_savepoint)


def disturbed(way: str) -> None:
    asyncjob_session().execute(select(effects.c.id)).all()
    sqlqueues.hooks["before"]()
    globals()[way]()


def run(place: Place, way: Callable[[], None], disturb: str, **options: Any) -> Any:
    """Run a job that is disturbed before it writes; return its result."""
    queue, other = place.queue(), place.other_queue()

    def disturb_it() -> None:
        if disturb == "cancelled":
            assert other.result(uid).cancel()
        elif disturb == "taken":
            jobs = place.tables.jobs
            with other.backend._dialect.begin() as connection:  # type: ignore[attr-defined]
                taken = update(jobs).values(lease=jobs.c.lease + 1, worker_id="another")
                connection.execute(taken.where(jobs.c.uid == uid))

    sqlqueues.hooks.update(before=disturb_it, middle=lambda: None)
    with queue.as_current():
        uid = task(**options)(disturbed).enqueue(way.__name__).id
    queue.run_pending()
    return other.result(uid)


@pytest.mark.parametrize("way", [*ENDS, *PARTS])
def test_work_is_committed_whichever_way_it_is(place: Place, way: Callable[[], None]) -> None:
    result = run(place, way, "nothing")

    assert (result.status, result.errors) == (SUCCESSFUL, [])
    assert set(place.written()) == {("work", 1)}


@pytest.mark.parametrize("way", [*ENDS, *PARTS, *BREAKS])
def test_work_of_a_cancelled_job_is_not_committed_whichever_way(
    place: Place, way: Callable[[], None]
) -> None:
    result = run(place, way, "cancelled")

    assert result.status is CANCELLED
    assert place.written() == []


@pytest.mark.parametrize("way", [*ENDS, *PARTS, *BREAKS])
def test_work_of_a_job_that_another_has_taken_is_not_committed_whichever_way(
    place: Place, way: Callable[[], None]
) -> None:
    result = run(place, way, "taken")

    assert (result.status, place.jobs()[0].worker_id) == (RUNNING, "another")
    assert place.written() == []


@pytest.mark.parametrize("way", ENDS)
def test_completion_stands_in_the_transaction_that_it_completes(
    place: Place, way: Callable[[], None]
) -> None:
    """Seen from outside, just before the COMMIT: neither the work nor its end is there; just
    after it both are."""
    seen = []
    execute = place.engine.dialect.do_commit

    def look() -> None:
        seen.append((states.STATUS_OF[place.jobs()[0].state], place.written()))

    def look_and_commit(connection: Any) -> None:
        look()
        execute(connection)
        look()

    place.engine.dialect.do_commit = look_and_commit  # type: ignore[method-assign]
    try:
        result = run(place, way, "nothing")
    finally:
        del place.engine.dialect.do_commit

    assert result.status is SUCCESSFUL
    assert seen == [(RUNNING, []), (SUCCESSFUL, place.written())]
    assert place.written()


def test_job_that_raises_in_an_open_savepoint_leaves_nothing(place: Place) -> None:
    sqlqueues.hooks["fail"] = in_an_open_savepoint_of_an_open_one
    queue = place.queue()
    uid = queue.perform(call_and_fail, "fail")
    queue.run_pending()

    assert queue.result(uid).status is FAILED
    assert place.written() == []


def call_and_fail(name: str) -> None:
    sqlqueues.hooks[name]()
    raise ValueError(name)


def test_released_savepoint_of_a_job_that_fails_after_it_leaves_nothing(place: Place) -> None:
    """Python's driver of SQLite begins no transaction before a SAVEPOINT."""
    sqlqueues.hooks.update(fail=in_a_released_savepoint, middle=lambda: None)
    queue = place.queue()
    uid = queue.perform(call_and_fail, "fail")
    queue.run_pending()

    assert queue.result(uid).status is FAILED
    assert place.written() == []


def test_rows_of_a_with_clause_go_when_the_job_fails(place: Place) -> None:
    """Python's driver of SQLite begins no transaction before a WITH, nor before a comment."""
    sqlqueues.hooks["fail"] = write_by_with
    queue = place.queue()
    uid = queue.perform(call_and_fail, "fail")
    queue.run_pending()

    assert queue.result(uid).status is FAILED
    assert queue.result(uid).errors[0].message == "fail"
    assert place.written() == []


def write_by_with() -> None:
    session, name = asyncjob_session(), effects.name
    if session.connection().dialect.name == "mysql":
        statement = (
            f"INSERT INTO {name} (text, amount) WITH x AS (SELECT 5 AS a) SELECT 'w', a FROM x"
        )
    else:
        statement = (
            f"WITH x AS (SELECT 5 AS a) INSERT INTO {name} (text, amount) SELECT 'w', a FROM x"
        )
    session.execute(text(statement))
    session.execute(text(f"/* why */ INSERT INTO {name} (text, amount) VALUES ('c', 1)"))


def test_new_table_goes_when_the_job_fails_where_the_database_can_undo_that(place: Place) -> None:
    if place.kind == "mariadb":
        pytest.skip("MariaDB commits before it makes a table")
    sqlqueues.hooks["fail"] = by_a_new_table
    queue = place.queue()
    uid = queue.perform(call_and_fail, "fail")
    queue.run_pending()

    assert queue.result(uid).status is FAILED
    assert place.written() == []
    with place.engine.connect() as connection:
        assert not place.engine.dialect.has_table(connection, ADDED)


# -- other sessions


@pytest.mark.parametrize("disturb", ["nothing", "cancelled", "taken"])
@pytest.mark.parametrize("both", [False, True], ids=["alone", "beside the queue's own"])
def test_second_session_of_the_transaction_does_not_commit_for_a_lost_job(
    place: Place, disturb: str, both: bool
) -> None:
    engine = create_engine(place.url, **options_of(place.url))
    second = session_of(engine)

    def way() -> None:
        if both and place.kind != "sqlite":  # which has one writer
            asyncjob_session().execute(effects.insert().values(text="own", amount=1))
        second.execute(effects.insert().values(text="second", amount=1))
        zope.sqlalchemy.mark_changed(second())

    sqlqueues.hooks["second"] = way
    result = run(place, second_session, disturb)
    second.remove()
    engine.dispose()

    texts = {row[0] for row in place.written()}
    if disturb == "nothing":
        assert result.status is SUCCESSFUL
        assert texts == ({"own", "second"} if both and place.kind != "sqlite" else {"second"})
    else:
        assert texts == set()


def second_session() -> None:
    sqlqueues.hooks["second"]()


@pytest.mark.parametrize("disturb", ["cancelled", "taken"])
def test_second_session_does_not_commit_a_part_of_a_lost_job(place: Place, disturb: str) -> None:
    engine = create_engine(place.url, **options_of(place.url))
    second = session_of(engine)

    def way() -> None:
        second.execute(effects.insert().values(text="second", amount=1))
        zope.sqlalchemy.mark_changed(second())
        asyncjob_session().rollback()
        transaction.commit()

    sqlqueues.hooks["second"] = way
    run(place, second_session, disturb)
    second.remove()
    engine.dispose()

    assert place.written() == []


# -- what cannot be fenced is refused, loudly


def test_session_with_autocommit_is_refused_before_its_first_statement(place: Place) -> None:
    sqlqueues.hooks["way"] = lambda: asyncjob_session().connection(
        execution_options={"isolation_level": "AUTOCOMMIT"}
    )
    queue = place.queue()
    uid = queue.perform(write_by_autocommit)
    queue.run_pending()

    result = queue.result(uid)
    assert result.status is FAILED
    assert "got a connection with isolation_level AUTOCOMMIT" in result.errors[0].message
    assert place.written() == []


def write_by_autocommit() -> None:
    sqlqueues.hooks["way"]()
    _write()


def test_statement_that_commits_in_a_way_that_nobody_foresaw_is_an_error(
    place: Place, caplog: Any
) -> None:
    if place.kind != "postgresql":
        pytest.skip("only PostgreSQL's driver takes two statements at once")
    queue = place.queue()
    uid = queue.perform(write_and_commit_in_one)
    queue.run_pending()

    result = queue.result(uid)
    assert result.status is FAILED
    assert "ended the transaction of its session" in result.errors[0].message
    assert "has committed its work before its end" in caplog.text


def write_and_commit_in_one() -> None:
    _write()
    asyncjob_session().connection().exec_driver_sql("SELECT 1; COMMIT")


def test_commit_that_went_by_without_the_completion_is_an_error(place: Place, caplog: Any) -> None:
    queue = place.queue()
    uid = queue.perform(commit_in_a_hook)
    queue.run_pending()

    result = queue.result(uid)
    assert result.status is FAILED
    assert "expected the commit of the job's session to complete the job" in (
        result.errors[0].message
    )
    assert "could not be ended as it should" in caplog.text


def commit_in_a_hook() -> None:
    """Leave the session nothing to commit, after all were asked what they have."""
    session = asyncjob_session()
    _write()

    def take_away() -> None:
        zope.sqlalchemy.datamanager._SESSION_STATE[session()] = "active"

    transaction.get().addBeforeCommitHook(take_away)


# -- SQLite: engines that begin by themselves


@pytest.fixture(scope="module")
def place_that_begins(tmp_path_factory: Any) -> Iterator[Place]:
    with place_of("sqlite", tmp_path_factory.mktemp("begins")) as made:
        begin_at_the_first_statement(made.engine)
        made.engine.dispose()  # what is open does not know it
        yield made


@pytest.mark.parametrize("disturb", ["nothing", "cancelled"])
@pytest.mark.parametrize("way", ENDS)
def test_engine_of_sqlite_that_begins_by_itself_is_left_to_it(
    place_that_begins: Place, way: Callable[[], None], disturb: str
) -> None:
    place = place_that_begins
    place.empty()

    result = run(place, way, disturb)
    place.close_queues()

    assert result.status is (SUCCESSFUL if disturb == "nothing" else CANCELLED)
    assert bool(place.written()) is (disturb == "nothing")


def test_engine_and_one_made_of_it_are_heard_once(tmp_path: Any) -> None:
    """``Engine._proxied``: no public name tells what an engine was made of."""
    engine = create_engine("sqlite://")
    made = engine.execution_options(isolation_level="SERIALIZABLE")

    listen(made)
    listen(engine)

    assert engine in _engines
    assert made not in _engines
    assert len(list(made.dispatch.commit)) == len(list(engine.dispatch.commit)) == 1
