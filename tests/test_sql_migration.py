"""Tables of an older version become tables of this version, with all that is in them, while others
work.

``schema_1/`` has the statements by which version 1 made its tables, ``schema_2/`` those of
version 2. That the processes of both versions work side by side is shown by the soak with a
checkout of the older one: see ``crash/``.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, insert, inspect, select, update
from sqlalchemy.exc import OperationalError

from backend_contract import at_once, work
from databases import SERVERS, url_of
from tgext.asyncjob.backends.sql import SqlBackend, states
from tgext.asyncjob.backends.sql.tables import SCHEMA_VERSION
from tgext.asyncjob.call import Call
from tgext.asyncjob.errors import ConfigError
from tgext.asyncjob.job import FAILED, JobId, Progress, WorkerId
from tgext.asyncjob.serialization import CallSerializer

TABLES = (
    "jobs", "errors", "queues", "schedules", "ticks", "minutes", "counted", "limits", "groups",
    "slots", "turns", "unique_keys", "duplicates", "schema",
)  # fmt: skip
SIDE_TABLES = ("progress", "workers")  # on SQLite in another file
VERSIONS = (1, 2)
KINDS = ("sqlite", *SERVERS)
SECRET = "swordfish"
HERE = Path(__file__).parent

#: What begins a statement that changes something.
CHANGES = ("ALTER", "CREATE", "\nCREATE", "SET STATEMENT", "UPDATE", "INSERT")

#: As version 1 has signed them: the call alone.
SERIALIZER = CallSerializer(SECRET)


class Old:
    """Tables of an older version, and jobs in them."""

    def __init__(self, kind: str, version: int, folder: Path) -> None:
        self.kind = kind
        self.version = version
        self.engine: Engine = create_engine(url_of(kind, folder))
        self.prefix = f"m{uuid.uuid4().hex[:8]}_"
        text = (HERE / f"schema_{version}" / f"{kind}.sql").read_text()
        with self.engine.begin() as connection:
            for statement in text.split(";\n"):
                if statement.strip():
                    connection.exec_driver_sql(statement.replace("{prefix}", self.prefix))

    def backend(self) -> SqlBackend:
        return SqlBackend(self.engine, secret=SECRET, prefix=self.prefix)

    def enqueue(self, state: int = states.AVAILABLE, **values: Any) -> str:
        """Insert a job with the columns that version 1 knows."""
        uid = f"asyncjob_{uuid.uuid4().hex}"
        serialized = SERIALIZER.dump(JobId(uid), Call(work, (), None))
        with closing(self.backend()) as backend:
            row = {"uid": uid, "state": state, "rank": 0, "queue_name": "default", "budget": 1}
            made = insert(backend.tables.jobs).values({**row, **serialized._asdict(), **values})
            with self.engine.begin() as connection:
                connection.execute(made)
        return uid

    def shape(self, prefix: str) -> list[Any]:
        """The columns and indexes of the tables of a prefix that are in the database itself."""
        found: list[Any] = []
        inspector = inspect(self.engine)
        for name in TABLES if self.kind == "sqlite" else (*TABLES, *SIDE_TABLES):
            found += sorted(
                (name, each["name"], str(each["type"]), each["nullable"])
                for each in inspector.get_columns(prefix + name)
            )
            found += sorted(
                (name, str(each["name"]).replace(prefix, ""), each["column_names"])
                for each in inspector.get_indexes(prefix + name)
            )
        return found

    def drop(self) -> None:
        with closing(self.backend()) as backend:
            backend.tables.metadata.drop_all(self.engine)
        self.engine.dispose()


def of(kind: str, version: int) -> Any:
    """A parameter of ``old``; in make fast those on SQLite, to make tables elsewhere takes long."""
    marks = pytest.mark.slow if kind in SERVERS else ()
    return pytest.param((kind, version), marks=marks)


@pytest.fixture(params=[of(kind, version) for version in VERSIONS for kind in KINDS], ids=str)
def old(request: Any, tmp_path: Path) -> Iterator[Old]:
    made = Old(*request.param, tmp_path)
    yield made
    made.drop()


def test_older_tables_become_what_new_ones_are(old):
    with closing(old.backend()) as backend:
        backend.open(create_tables=True)
        assert backend.schema.version() == SCHEMA_VERSION
    fresh = f"f{uuid.uuid4().hex[:8]}_"
    with closing(SqlBackend(old.engine, secret=SECRET, prefix=fresh)) as backend:
        backend.open(create_tables=True)
        shapes = old.shape(old.prefix), old.shape(fresh)
        backend.tables.metadata.drop_all(old.engine)

    assert shapes[0] == shapes[1]


def test_jobs_of_an_older_version_are_there_and_run(old):
    context = json.dumps({"user": "ada", "lang": None})
    waiting = old.enqueue(context=context, options='{"timeout": 9}')
    ended = old.enqueue(states.FAILED, finished_at=1e9, context="no JSON")
    with closing(old.backend()) as backend:
        backend.open(create_tables=True)
        later = old.enqueue()  # by a process of that version that is still there
        claims = backend.claim(WorkerId("w"), None, 10)

        assert [claim.job.uid for claim in claims] == [waiting, later]
        assert claims[0].job.options.timeout == 9
        assert backend.get(ended).status is FAILED
        jobs = backend.tables.jobs
        wanted = select(jobs.c.uid, jobs.c.task_name, jobs.c.enqueued_by)
        with old.engine.connect() as connection:
            rows = {row.uid: tuple(row[1:]) for row in connection.execute(wanted)}
        assert rows == {
            waiting: ("backend_contract.work", "ada"),
            ended: ("backend_contract.work", None),
            later: (None, None),
        }


def test_more_rows_than_one_transaction_fills_are_filled(old, monkeypatch):
    monkeypatch.setattr("tgext.asyncjob.backends.sql.migration.FILLED_AT_ONCE", 2)
    uids = [old.enqueue() for _ in range(5)]
    with closing(old.backend()) as backend:
        backend.open(create_tables=True)
        jobs = backend.tables.jobs
        filled = select(jobs.c.uid).where(jobs.c.task_name == "backend_contract.work")
        with old.engine.connect() as connection:
            assert sorted(connection.execute(filled).scalars()) == sorted(uids)


def test_migration_that_was_interrupted_anywhere_goes_on(old):
    old.enqueue()
    interrupted = 0
    for stop in range(1, 40):
        with closing(old.backend()) as backend:
            changes: list[str] = []

            def interrupt(_connection, _cursor, statement, *_rest, changes=changes, stop=stop):
                if statement.startswith(CHANGES):
                    changes.append(statement)
                if len(changes) == stop:
                    raise KeyboardInterrupt

            event.listen(backend._dialect.engine, "before_cursor_execute", interrupt)
            try:
                backend.schema.check(create=True)
            except KeyboardInterrupt:
                interrupted += 1
            else:
                break
    assert interrupted >= {1: 8, 2: 5}[old.version]  # after each statement that changes something
    with closing(old.backend()) as backend:
        assert backend.schema.version() == SCHEMA_VERSION
        backend.open(create_tables=False)
        assert len(backend.claim(WorkerId("w"), None, 10)) == 1


def test_processes_that_migrate_at_once_agree(old):
    old.enqueue()
    backends = [old.backend() for _ in range(4)]
    try:
        at_once(4, lambda number: backends[number].open(create_tables=True))
        identities = {backend.schema.identity for backend in backends}

        assert len(identities) == 1
        assert None not in identities
        assert len(backends[0].claim(WorkerId("w"), None, 10)) == 1
    finally:
        for backend in backends:
            backend.close()


def test_column_that_another_process_adds_just_before_is_there(old, monkeypatch, caplog):
    with closing(old.backend()) as backend, closing(old.backend()) as other:
        change, statements = backend._dialect.change_tables, []

        def change_as_second(statement: str) -> None:
            statements.append(statement)
            if len(statements) == 1:
                other.open(create_tables=True)
            change(statement)

        monkeypatch.setattr(backend._dialect, "change_tables", change_as_second)
        backend.open(create_tables=True)

        assert " ADD COLUMN " in statements[0]
        assert "cannot look at the tables" not in caplog.text
        assert backend.schema.identity == other.schema.identity is not None


def test_older_tables_are_refused_where_the_application_must_not_change_them(old):
    with closing(old.backend()) as backend, pytest.raises(ConfigError) as raised:
        backend.open(create_tables=False)

    assert "expected the tables" in str(raised.value)
    assert f"in version {SCHEMA_VERSION}, got version {old.version}" in str(raised.value)
    assert "asyncjob-schema" in str(raised.value)


@pytest.mark.parametrize("old", [of(kind, 1) for kind in SERVERS], indirect=True, ids=str)
def test_migration_waits_for_a_transaction_that_uses_the_table_and_holds_up_nobody(
    old, monkeypatch
):
    """Who waits for the lock of a table makes all others wait: so it does so for a moment only."""
    monkeypatch.setattr("tgext.asyncjob.backends.sql.dialects.TABLE_LOCK_SECONDS", 1)
    monkeypatch.setattr("tgext.asyncjob.backends.sql.migration.REST_SECONDS", 0.1)
    uid = old.enqueue()
    refused = threading.Event()
    level = old.engine.execution_options(isolation_level="READ COMMITTED")
    with closing(old.backend()) as backend, level.connect() as job:
        jobs = backend.tables.jobs
        job.execute(update(jobs).where(jobs.c.uid == uid).values(result="by its job"))

        @event.listens_for(backend._dialect.engine, "handle_error")
        def note(context: Any) -> None:
            if isinstance(context.sqlalchemy_exception, OperationalError):
                refused.set()

        migration = threading.Thread(target=backend.open, kwargs={"create_tables": True})
        migration.start()
        assert refused.wait(20)
        old.enqueue()  # another writer comes through
        job.commit()
        migration.join(20)

        assert not migration.is_alive()
        assert backend.schema.version() == SCHEMA_VERSION


def test_side_database_that_an_older_version_has_made_gets_what_it_lacks(tmp_path):
    """Its file may be removed at any time; a process of the older version then makes it anew."""
    old = Old("sqlite", 2, tmp_path)
    made = (HERE / "schema_2" / "sqlite.sql").read_text().replace("{prefix}", old.prefix)
    with closing(old.backend()) as backend:
        assert backend.schema.side_file is not None
        with closing(sqlite3.connect(backend.schema.side_file)) as side:
            of_side = r"CREATE TABLE \S*(?:progress|workers) .*?;"
            side.executescript("".join(re.findall(of_side, made, re.S)))
        backend.open(create_tables=True)
        old.enqueue()
        [claim] = backend.claim(WorkerId("w"), None, 1)

        assert backend.report(claim, Progress(1, None, 2))
        backend._progress._write()
        report = backend._progress.get_all([claim.job.uid])[claim.job.uid]
        assert (report.value, report.attempt) == (1, 1)
        backend._registry.note_locks(claim.worker_id, {claim.job.uid: 2.5})
        assert backend.overview._said_of([claim.job.uid])[1] == {claim.job.uid: 2.5}
    old.drop()
