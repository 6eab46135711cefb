"""The databases that tests run on: a SQLite file, and the servers on their standard ports."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, event

import own_servers
from needs import need
from tgext.asyncjob import JobQueue
from tgext.asyncjob.backends.sql.tables import PREFIX

#: Where each listens; the databases and users are those of a fresh Debian package. PyMySQL would
#: read all certificates of the machine for each connection; a test of test_sql_survival.py lets it.
SERVERS = {
    "postgresql": ("PostgreSQL", 5432, "postgresql+psycopg://postgres@127.0.0.1/test"),
    "mariadb": ("MariaDB", 3306, "mysql+pymysql://root@127.0.0.1/test?ssl_disabled=1"),
}


def url_of(kind: str, folder: Path) -> str:
    """Return the SQLAlchemy URL of a database of *kind*; needs its server."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/jobs.db"
    name, port, url = SERVERS[kind]
    need(_listens(port), f"{name} on 127.0.0.1:{port} (Debian: .ci/run installs and starts it)")
    return url


def sqlite_with_tables(folder: Path, prefix: str = PREFIX) -> str:
    """Return the URL of a SQLite file that has the tables of jobs: a copy of one, as to make them
    takes longer than most tests."""
    put_tables(folder / "jobs.db", prefix)
    return url_of("sqlite", folder)


def put_tables(path: Path, prefix: str = PREFIX) -> None:
    """Make a SQLite file that has the tables of jobs."""
    shutil.copy(_tables_made(prefix), path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE {prefix}schema SET identity = ?", [os.urandom(16).hex()])


@functools.cache
def _tables_made(prefix: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tables-", dir=os.environ.get(own_servers.FOLDER)))
    JobQueue("sql", url=url_of("sqlite", folder), table_prefix=prefix, threads=0).close()
    return folder / "jobs.db"


def empty(connection: Connection, tables: Iterable[Table]) -> None:
    """Delete all rows of *tables*, by text: to build the statements takes longer than they do."""
    name_of = connection.dialect.identifier_preparer.format_table
    statements = [f"DELETE FROM {name_of(table)}" for table in tables]
    if connection.dialect.name == "postgresql":  # takes them all in one
        statements = ["; ".join(statements)]
    for statement in statements:
        connection.exec_driver_sql(statement)


def begin_at_the_first_statement(engine: Engine) -> None:
    """Make SQLite's transactions whole, as SQLAlchemy's manual says: else sqlite3 begins at the
    first statement that writes, a SELECT before it holds no snapshot, and SAVEPOINT breaks."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
