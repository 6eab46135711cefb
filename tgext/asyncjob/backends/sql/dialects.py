"""The dialects of PostgreSQL and MariaDB; ``sqlite`` has the third.

Two other modules also differ by database: ``liveness.py`` (whether a worker lives) and
``listener.py`` (notification of commits).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BindParameter,
    ColumnClause,
    ColumnElement,
    Connection,
    Engine,
    Select,
    String,
    Table,
    bindparam,
    cast,
    column,
    func,
    literal_column,
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
from .statements import Statement

log = logging.getLogger(__name__)

#: A bit of the status that MariaDB's protocol sends with each answer.
IN_TRANSACTION = 1

#: The status of a connection to PostgreSQL without a transaction.
IDLE = 0

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

    def make_engine(self, engine: Engine) -> Engine:
        own = super().make_engine(engine)
        given = _items("names").column_valued("name")
        notified = func.pg_notify(bindparam("channel", type_=String()), given)
        self._notifying = Statement(lambda: select(notified), own.dialect)
        return own

    def has_begun(self, driver: Any) -> bool:
        info = getattr(driver, "info", None)
        return info is None or info.transaction_status != IDLE

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
        # Not an array as parameter, for each item of which the driver calls a function.
        return column == func.any(func.array(select(_items(parameter)).scalar_subquery()))

    def place(self, table: Table) -> ColumnElement[Any]:
        # Where the row is stored, so that no index is searched again: what is locked stays there.
        # If others have changed it since the statement began, it is not found: it waits on.
        ctid: ColumnClause[Any] = column("ctid")
        ctid.table = table
        return ctid

    def is_at(self, place: ColumnElement[Any], picked: Select[Any]) -> ColumnElement[bool]:
        # An array of a CTE is made once; otherwise the planner may pick again for each row.
        [its] = picked.cte("picked").c
        return place == func.any(func.array(select(its).scalar_subquery()))

    def rows_in(self, parameter: BindParameter[Any], columns: Sequence[Any], name: str) -> Any:
        rows = func.json_to_recordset(cast(parameter, JSON())).table_valued(*columns, name=name)
        return rows.render_derived(with_types=True)

    @property
    def lazily(self) -> list[ColumnElement[Any]]:
        return [func.set_config("synchronous_commit", "off", true())]  # for this transaction

    def change_tables(self, statement: str) -> None:
        with self.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{TABLE_LOCK_SECONDS}s'")
            connection.exec_driver_sql(statement)

    def notify(self, queue_names: Sequence[str]) -> None:
        with self.engine.connect() as connection:
            names = json.dumps(queue_names, ensure_ascii=False)
            self._notifying.execute(connection, channel=self.channel, names=names)


class MariaDb(Dialect):
    faults_of = MariaDbFaults
    update_returns = False
    merges = False
    groups_by_steps = True
    steps_in_recursion = False
    has_partial_indexes = False
    skips_locked = True

    def home(self, connection: Connection, table: str, wanted: str | None) -> str | None:
        return database_on_mariadb(connection, wanted)

    def has_begun(self, driver: Any) -> bool:
        return bool(getattr(driver, "server_status", IN_TRANSACTION) & IN_TRANSACTION)

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

    def rows_in(self, parameter: BindParameter[Any], columns: Sequence[Any], name: str) -> Any:
        dialect = self.engine.dialect
        # By default what does not fit a column would be NULL.
        taken = ", ".join(
            f"{column.name} {column.type.compile(dialect)} PATH '$.{column.name}' ERROR ON ERROR"
            for column in columns
        )
        rows = func.json_table(parameter, literal_column(f"'$[*]' COLUMNS ({taken})"))
        return rows.table_valued(*columns, name=name)

    def change_tables(self, statement: str) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql(
                f"SET STATEMENT lock_wait_timeout = {TABLE_LOCK_SECONDS} FOR {statement}"
            )

    def is_in_transaction(self, connection: Connection) -> bool:
        found = connection.execute(text("SELECT NOT @@autocommit OR @@in_transaction"))
        return bool(found.scalar())


def _items(parameter: str) -> Any:
    """Return the items of a parameter, a JSON list of texts, as rows."""
    return func.json_array_elements_text(cast(bindparam(parameter), JSON()))


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
