"""The dialects of PostgreSQL and MariaDB; ``sqlite`` has the third.

Two other modules also differ by database: ``liveness.py`` (whether a worker lives) and
``listener.py`` (notification of commits).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Engine,
    String,
    bindparam,
    func,
    select,
    text,
    true,
)
from sqlalchemy.exc import SQLAlchemyError

from ...errors import ConfigError
from .dialect import Dialect
from .faults import MariaDbFaults, PostgreSqlFaults
from .location import database_on_mariadb, schema_on_postgresql
from .plans import keep_to_indexes
from .sqlite import Sqlite

log = logging.getLogger(__name__)

#: A bit of the status that MariaDB's protocol sends with each answer.
IN_TRANSACTION = 1

#: The most bytes of one value or message of PostgreSQL.
POSTGRESQLS_BYTES = 2**30 - 1

#: How long a change of a table waits for its lock, in seconds; all who write wait behind it.
TABLE_LOCK_SECONDS = 2

#: The isolation level of our own transactions, as PostgreSQL shows it, and as it is set.
READ_COMMITTED = "read committed"
LEVEL = "ISOLATION LEVEL READ COMMITTED"


class PostgreSql(Dialect):
    most_bytes = POSTGRESQLS_BYTES
    faults_of = PostgreSqlFaults
    update_returns = True
    begin_text = f"BEGIN {LEVEL}"
    skips_locked = True
    notifies = True

    def home(self, connection: Connection, table: str, wanted: str | None) -> str | None:
        return schema_on_postgresql(connection, table, wanted)

    def is_in_transaction(self, connection: Connection) -> bool:
        # set_config(..., is_local = true) has no effect outside a transaction.
        connection.execute(select(func.set_config("asyncjob.probe", "set", true())))
        probed = select(func.current_setting("asyncjob.probe", true()))
        return bool(connection.execute(probed).scalar() == "set")

    def prepare(self, connection: Any, _record: Any) -> None:
        # A role or a database may have another default: concurrent claims would fail.
        cursor = connection.cursor()
        cursor.execute("SHOW default_transaction_isolation")
        [level] = cursor.fetchone()
        if level != READ_COMMITTED:  # else unchanged: a pooler may pass the session to others
            cursor.execute(f"SET SESSION CHARACTERISTICS AS TRANSACTION {LEVEL}")
        keep_to_indexes(connection, cursor)
        # Whatever the application's connections use: the text of an error may be anything.
        cursor.execute("SET client_encoding TO 'UTF8'")
        cursor.close()
        if not connection.autocommit:
            connection.commit()  # a rollback would undo the settings

    def is_one_of(self, column: ColumnElement[str], parameter: str) -> ColumnElement[bool] | None:
        return column == func.any(bindparam(parameter, type_=ARRAY(String)))

    @property
    def lazily(self) -> list[ColumnElement[Any]]:
        return [func.set_config("synchronous_commit", "off", true())]  # for this transaction

    def change_tables(self, statement: str) -> None:
        with self.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{TABLE_LOCK_SECONDS}s'")
            connection.exec_driver_sql(statement)

    def notify(self, queue_names: Sequence[str]) -> None:
        sent = [func.pg_notify(self.channel, name) for name in queue_names]
        with self.engine.connect() as connection:
            connection.execute(select(*sent))


class MariaDb(Dialect):
    faults_of = MariaDbFaults
    update_returns = False
    skips_locked = True

    def home(self, connection: Connection, table: str, wanted: str | None) -> str | None:
        return database_on_mariadb(connection, wanted)

    def make_engine(self, engine: Engine) -> Engine:
        own = super().make_engine(engine)
        roll_back = own.dialect.do_rollback

        def roll_back_if_begun(connection: Any) -> None:
            # The pool rolls back after each statement, which would be a round trip to the server.
            if getattr(connection, "server_status", IN_TRANSACTION) & IN_TRANSACTION:
                roll_back(connection)

        own.dialect.do_rollback = roll_back_if_begun  # type: ignore[method-assign,assignment]
        return own

    def prepare(self, connection: Any, _record: Any) -> None:
        # Whatever the application's connections use: the text of an error may be anything.
        set_characters = getattr(connection, "set_character_set", None)
        if set_characters is not None:
            set_characters("utf8mb4")
        # The default level locks the gaps between rows, and reads an old snapshot.
        cursor = connection.cursor()
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("SELECT @@max_allowed_packet")
        [self.most_bytes] = cursor.fetchone()
        cursor.close()

    def change_tables(self, statement: str) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql(
                f"SET STATEMENT lock_wait_timeout = {TABLE_LOCK_SECONDS} FOR {statement}"
            )

    def is_in_transaction(self, connection: Connection) -> bool:
        found = connection.execute(text("SELECT NOT @@autocommit OR @@in_transaction"))
        return bool(found.scalar())


def check_present(engine: Engine) -> None:
    """Raise an error of SQLAlchemy's, as for an unreachable server, if a SQLite file is missing."""
    path = engine.url.database if engine.dialect.name == "sqlite" else None
    if path and not path.startswith((":", "file:")) and not os.path.exists(path):
        raise SQLAlchemyError(
            f"there is no file {os.path.abspath(path)!r}; a worker makes it, and schema --create"
        )


_DIALECTS: dict[str, type[Dialect]] = {
    "sqlite": Sqlite,
    "postgresql": PostgreSql,
    "mysql": MariaDb,
    "mariadb": MariaDb,
}


def dialect_of(engine: Engine, channel: str) -> Dialect:
    """Return the dialect of the database of *engine*; raises ConfigError if there is none."""
    if engine.dialect.is_async:
        raise ConfigError(
            "asyncjob.backend = sql: expected a driver that blocks (psycopg, pymysql, pysqlite), "
            f"got {engine.dialect.driver}, which needs an event loop; give asyncjob.url another one"
        )
    found = _DIALECTS.get(engine.dialect.name)
    if found is None:
        raise ConfigError(
            f"asyncjob.backend = sql: expected SQLite, PostgreSQL or MariaDB, got "
            f"{engine.dialect.name}; give asyncjob.url one of those, or use backend = memory"
        )
    return found(engine, channel)
