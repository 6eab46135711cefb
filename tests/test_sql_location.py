"""The tables stay where they were found at start, whatever path a session is on later."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import transaction
from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.pool import NullPool

from compiled_statements import share_nothing
from databases import url_of
from sqlqueues import session_of
from tgext.asyncjob import ConfigError, JobQueue, asyncjob_session
from tgext.asyncjob.job import SUCCESSFUL

pytestmark = pytest.mark.slow

PREFIX = f"l{uuid.uuid4().hex[:8]}_"


#: How a session moves to another schema.
MOVES = {"postgresql": "SET LOCAL search_path TO {}", "mariadb": "USE {}"}


class Home:
    """A database with a schema beside the one in which the connections begin."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.other = f"{PREFIX}tenant"
        self.engine = create_engine(url)
        self.Session = session_of(self.engine)
        self.options: dict[str, Any] = {"table_prefix": PREFIX, "threads": 0}
        self._execute(f"CREATE SCHEMA {self.other}")

    def _execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def move(self) -> None:
        """Let this thread's session go there, as a request of a tenant does."""
        self.Session.execute(text(MOVES[self.kind].format(self.other)))

    def copy_tables(self) -> None:
        """Put tables of the same names there."""
        for name in self.tables_in(None):
            more = " INCLUDING ALL)" if self.kind == "postgresql" else ""
            like = f"(LIKE {name}{more}" if more else f"LIKE {name}"
            self._execute(f"CREATE TABLE {self.other}.{name} {like}")

    def tables_in(self, schema: str | None) -> list[str]:
        names = inspect(self.engine).get_table_names(schema=schema)
        return [name for name in names if name.startswith(PREFIX)]

    def drop(self) -> None:
        self.Session.remove()
        self.engine.dispose()  # a connection stays where a session has led it
        cascade = " CASCADE" if self.kind == "postgresql" else ""
        self._execute(f"DROP SCHEMA {self.other}{cascade}")
        for name in self.tables_in(None):
            self._execute(f"DROP TABLE {name}")
        self.engine.dispose()


def execute(statement: str) -> None:
    """A job."""
    asyncjob_session().execute(text(statement))


@pytest.fixture(autouse=True)
def _statements_as_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it must be seen if one were used that was compiled for another schema."""
    share_nothing(monkeypatch)


@pytest.fixture(params=["postgresql", "mariadb"])
def home(request, tmp_path) -> Iterator[Home]:
    made = Home(request.param, url_of(request.param, tmp_path))
    try:
        yield made
    finally:
        made.drop()


@pytest.mark.parametrize("with_tables", [False, True], ids=["without tables", "with tables"])
def test_job_enqueued_on_a_tenant_s_path_is_in_the_tables_of_the_queue(home, with_tables):
    with JobQueue("sql", session=home.Session, **home.options) as queue:
        if with_tables:
            home.copy_tables()
        with queue.in_transaction():
            home.move()
            uid = queue.perform(len, "ab")
            transaction.commit()

        queue.run_pending()
        assert queue.result(uid).status is SUCCESSFUL


def test_job_that_goes_to_a_tenant_s_path_is_completed_with_its_work(home):
    with JobQueue("sql", session=home.Session, **home.options) as queue:
        home.copy_tables()
        uid = queue.perform(execute, MOVES[home.kind].format(home.other))

        queue.run_pending()
        assert queue.result(uid).status is SUCCESSFUL


def test_cancel_and_retry_on_a_tenant_s_path_find_the_job(home):
    with JobQueue("sql", session=home.Session, **home.options) as queue:
        home.copy_tables()
        uid = queue.perform(len, "ab")
        with queue.in_transaction():
            home.move()
            assert queue.result(uid).cancel() is True
            transaction.commit()
        with queue.in_transaction():
            home.move()
            assert queue.result(uid).retry() is True
            transaction.commit()

        assert queue.run_pending() == 1


def test_connections_that_come_on_a_tenant_s_path_find_the_tables_of_start(home):
    """A pool's event sets the path of each connection, those of the queue's own pool too."""
    begin = MOVES[home.kind].replace("LOCAL ", "")
    tenants: list[str] = []

    @event.listens_for(home.engine, "checkout")
    def checkout(connection, _record, _proxy):
        cursor = connection.cursor()
        for tenant in tenants:
            cursor.execute(begin.format(tenant))
        cursor.close()

    with JobQueue("sql", session=home.Session, **home.options) as queue:
        home.copy_tables()
        uid = queue.perform(len, "ab")
        tenants.append(home.other)

        assert queue.run_pending() == 1
        assert queue.result(uid).status is SUCCESSFUL
        tenants.clear()


def test_schema_that_the_option_names_has_the_tables(home):
    with JobQueue("sql", session=home.Session, schema=home.other, **home.options) as queue:
        uid = queue.perform(len, "ab")
        queue.run_pending()
        assert queue.result(uid).status is SUCCESSFUL

    assert home.tables_in(None) == []
    assert len(home.tables_in(home.other)) == 18


def test_schema_that_is_not_there_is_refused(home):
    with pytest.raises(ConfigError, match=r"asyncjob\.schema: expected a schema that exists"):
        JobQueue("sql", session=home.Session, schema="nowhere", **home.options)


def test_schema_on_sqlite_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="as SQLite has no schemas"):
        JobQueue("sql", url=f"sqlite:///{tmp_path}/jobs.db", schema="jobs", threads=0)


def test_path_without_a_schema_is_refused_with_the_option_that_helps(tmp_path):
    url = url_of("postgresql", tmp_path)
    engine = create_engine(url, poolclass=NullPool, connect_args={"options": "-csearch_path=no"})

    with pytest.raises(ConfigError, match=r"set asyncjob\.schema"):
        JobQueue("sql", session=session_of(engine), table_prefix=PREFIX, threads=0)


def test_url_without_a_database_is_refused_with_what_helps(tmp_path):
    url = url_of("mariadb", tmp_path).replace("/test", "/")

    with pytest.raises(ConfigError, match="expected a database to make the tables in"):
        JobQueue("sql", url=url, table_prefix=PREFIX, threads=0)
