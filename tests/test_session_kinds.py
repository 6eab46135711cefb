"""Sessions and engines that a queue cannot work with: each is refused at start with a sentence."""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar
from typing import Any

import pytest
import transaction
import zope.sqlalchemy
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import AssertionPool, NullPool, SingletonThreadPool, StaticPool
from zope.sqlalchemy.datamanager import STATUS_READONLY

from databases import begin_at_the_first_statement
from tgext.asyncjob import ConfigError, JobQueue, asyncjob_perform
from tgext.asyncjob.job import SUCCESSFUL


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db?timeout=30"


def refused(match: str, *given: Any, **options: Any) -> None:
    with pytest.raises(ConfigError, match=match):
        JobQueue(*given, threads=0, **options)


def on(engine: Any, **options: Any) -> Any:
    made = scoped_session(sessionmaker(bind=engine, **options))
    zope.sqlalchemy.register(made)
    return made


def runs_a_job(session: Any) -> bool:
    """Whether a job of a managed transaction exists with its commit alone, and runs then."""
    with JobQueue("sql", session=session, threads=0) as queue:
        with queue.in_transaction():
            session.execute(text("SELECT 1"))
            queue.perform(len, "ab")
            transaction.abort()
        with queue.in_transaction():
            session.execute(text("SELECT 1"))
            uid = queue.perform(len, "ab")
            transaction.commit()
        ran = queue.run_pending()
        session.remove()
        return ran == 1 and queue.result(uid).status is SUCCESSFUL


# -- sessions


def test_session_of_one_s_own_is_refused():
    refused("got Session; nothing would commit its work", session=Session())
    refused("got sessionmaker; nothing would commit its work", session=sessionmaker())


def test_session_for_an_event_loop_is_refused():
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker

    made = async_scoped_session(async_sessionmaker(), scopefunc=threading.get_ident)

    refused("got async_scoped_session; nothing would commit its work", session=made)


def test_session_that_may_only_read_is_refused():
    made = scoped_session(sessionmaker())
    zope.sqlalchemy.register(made, initial_state=STATUS_READONLY)

    refused("expected a session that may write", session=made)


def test_session_that_two_threads_share_is_refused():
    request = ContextVar("request", default=None)
    made = scoped_session(sessionmaker(), scopefunc=request.get)
    zope.sqlalchemy.register(made)

    refused("one whose scopefunc is the same for two threads", session=made)


def test_session_whose_scope_means_nothing_in_a_worker_is_refused():
    request: ContextVar[int] = ContextVar("request")
    made = scoped_session(sessionmaker(), scopefunc=request.get)
    zope.sqlalchemy.register(made)

    refused("one whose scopefunc raises LookupError there", session=made)


def test_session_with_a_scope_that_falls_back_on_the_thread_works(url):
    request: ContextVar[int] = ContextVar("request")
    engine = create_engine(url)
    made = scoped_session(
        sessionmaker(bind=engine), scopefunc=lambda: request.get(threading.get_ident())
    )
    zope.sqlalchemy.register(made)

    assert runs_a_job(made)
    engine.dispose()


def test_session_that_is_bound_to_a_connection_is_refused(url):
    engine = create_engine(url)
    with engine.connect() as connection:
        refused("one that is bound to a connection", "sql", session=on(connection))
    engine.dispose()


def test_session_that_is_kept_over_its_commit_works(url):
    engine = create_engine(url)
    made = scoped_session(sessionmaker(bind=engine))
    zope.sqlalchemy.register(made, keep_session=True)

    assert runs_a_job(made)
    engine.dispose()


def test_session_that_does_not_begin_by_itself_works(url):
    engine = create_engine(url)
    made = on(engine, autobegin=False)
    with JobQueue("sql", session=made, threads=0) as queue:
        uid = queue.perform(asyncjob_perform, len, "ab")  # stored by the commit of a job

        assert queue.run_pending() == 2
        assert queue.result(uid).status is SUCCESSFUL
    engine.dispose()


def test_session_that_is_bound_anew_to_its_database_carries_jobs(url):
    """As an application does in each process that it forks."""
    first, second = create_engine(url), create_engine(url)
    made = on(first)
    with JobQueue("sql", session=made, threads=0) as queue:
        made.remove()
        made.configure(bind=second)
        with queue.in_transaction():
            made.execute(text("CREATE TABLE work (n int)"))  # keeps SQLite's one lock
            uid = queue.perform(len, "ab")
            transaction.commit()

        assert queue.run_pending() == 1
        assert queue.result(uid).status is SUCCESSFUL
    first.dispose()
    second.dispose()


def test_session_that_is_bound_to_another_database_loses_no_job(url, tmp_path, caplog):
    first, second = create_engine(url), create_engine(f"sqlite:///{tmp_path}/other.db")
    made = on(first)
    with JobQueue("sql", session=made, threads=0) as queue:
        made.remove()
        made.configure(bind=second)
        with queue.in_transaction():
            made.execute(text("SELECT 1"))
            uid = queue.perform(len, "ab")
            transaction.commit()

        assert queue.run_pending() == 1
        assert queue.result(uid).status is SUCCESSFUL
    assert caplog.text.count("not committed together with its work") == 1
    first.dispose()
    second.dispose()


class Chooses(Session):
    """Reads from a copy, as the session of SQLAlchemy's manual does."""

    engines: Any = None

    def get_bind(self, mapper=None, clause=None):
        return self.engines[0 if self._flushing else 1]


def test_session_that_reads_from_a_copy_keeps_its_jobs_where_it_writes(url, tmp_path):
    copy = create_engine(f"sqlite:///{tmp_path}/copy.db")
    master = create_engine(url)

    class Bound(Chooses):
        engines = (master, copy)

    assert runs_a_job(on(None, class_=Bound))
    with copy.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar() == 0
    master.dispose()
    copy.dispose()


# -- engines


def autocommit_of_sqlite(url: str) -> Any:
    return create_engine(url, connect_args={"isolation_level": None})


AUTOCOMMIT = [
    lambda url: create_engine(url, isolation_level="AUTOCOMMIT"),
    lambda url: create_engine(url, execution_options={"isolation_level": "AUTOCOMMIT"}),
    lambda url: create_engine(url).execution_options(isolation_level="AUTOCOMMIT"),
    autocommit_of_sqlite,
]


@pytest.mark.parametrize("make", AUTOCOMMIT)
def test_engine_whose_statements_commit_by_themselves_is_refused(url, make):
    engine = make(url)
    refused("expected an engine with transactions, got one in AUTOCOMMIT mode", "sql", on(engine))
    engine.dispose()


def test_engine_that_says_begin_itself_is_no_autocommit(url):
    engine = create_engine(url)
    begin_at_the_first_statement(engine)

    assert runs_a_job(on(engine))
    engine.dispose()


def test_queue_that_learns_late_of_an_autocommit_session_refuses_it(url):
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    queue = JobQueue("sql", url=url, threads=0)
    with queue, pytest.raises(ConfigError, match="got one in AUTOCOMMIT mode"):
        queue.bind(on(engine))
    engine.dispose()


@pytest.mark.parametrize("pool", [NullPool, SingletonThreadPool, AssertionPool])
def test_pools_that_give_each_thread_a_connection_work(url, pool):
    engine = create_engine(url, poolclass=pool)
    assert runs_a_job(on(engine))
    engine.dispose()


def test_pool_of_one_connection_works(url):
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=5)
    assert runs_a_job(on(engine))
    engine.dispose()


def test_one_connection_for_all_threads_is_refused(url):
    engine = create_engine(url, poolclass=StaticPool)
    refused("got one with StaticPool", "sql", on(engine))
    engine.dispose()


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.parametrize(
    "in_memory",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:jobs?mode=memory&cache=shared&uri=true",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:/jobs?vfs=memdb&uri=true",
        "sqlite:///file:?uri=true",
    ],
)
def test_database_in_memory_is_refused_and_makes_no_file(tmp_path, monkeypatch, in_memory):
    monkeypatch.chdir(tmp_path)

    refused("expected a database that other connections see", "sql", url=in_memory)

    assert os.listdir() == []


def test_database_in_memory_of_a_session_is_refused():
    engine = create_engine("sqlite://", poolclass=StaticPool)
    refused("expected a database that other connections see", "sql", on(engine))
    engine.dispose()


def test_driver_that_needs_an_event_loop_is_refused():
    url = "postgresql+psycopg_async://postgres@127.0.0.1/test"
    refused("expected a driver that blocks", "sql", url=url)


def test_events_of_the_application_s_pool_reach_the_connections_of_the_queue(url):
    """What an application says of how to connect holds for ours too, whatever its pool is."""
    engine, seen = create_engine(url, poolclass=AssertionPool), []
    event.listen(engine, "connect", lambda made, _record: seen.append(made))
    made = on(engine)
    with JobQueue("sql", session=made, threads=0) as queue:
        queue.perform(len, "ab")
        assert len(seen) > 1
    engine.dispose()
