"""Adds to tables that an older version has made what they lack, while others work on them.

What is missing is found by comparison with ``tables``: columns, each with a default or without a
value, then indexes. So the versions need no lists of changes, and a migration that was interrupted
goes on where it ended. Processes of the older version neither see the additions nor mind them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    Table,
    bindparam,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateColumn, CreateIndex, DropIndex

from ...sharing import user_of
from .dialect import Dialect
from .jobs_table import indexes_of
from .tables import OBSOLETE_INDEX, Tables, listed

log = logging.getLogger(__name__)

#: How long a migration tries to get a lock on a table, in seconds. Each try is short, since all
#: writers of the table wait behind it.
PATIENCE_SECONDS = 120.0

#: How long the others can write between two tries, in seconds.
REST_SECONDS = 1.0

#: Rows whose new columns one transaction fills: it holds their locks for a few milliseconds.
FILLED_AT_ONCE = 500

#: How often a statement is tried that another process may execute at the same time.
TRIES = 3


class Migration:
    """The migration of the tables of one database."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._dialect = dialect
        #: The tables in the database itself. The side database of SQLite gets what it lacks with
        #: each connection, as an older version may make its file anew.
        is_one = dialect.side_database is dialect.engine
        self.tables = [*tables.main_tables, *(tables.side_tables if is_one else ())]

    def run(self) -> None:
        """Add what is missing; nothing, if the tables are new. Raises DBAPIError if a lock was not
        to be had for PATIENCE_SECONDS."""
        level = logging.DEBUG  # each statement looks for its index, and finds it in new tables
        for table in self.tables:
            while statements := self._missing_columns(table):
                level = logging.INFO
                self._change(statements[0], level, partial(self._has, table, statements[0]))
        self._fill()
        for statement in self._of_indexes():
            self._change(statement, level)

    def _change(
        self, statement: str, level: int, is_done: Callable[[], bool] = lambda: False
    ) -> None:
        """Execute a statement that may take several tries: a lock was not to be had, or another
        process executes it at this moment. level: of the log line. is_done: whether that process
        has done it."""
        until, tries_left = time.monotonic() + PATIENCE_SECONDS, TRIES
        log.log(level, "upgrading the tables of jobs: %s", statement.strip())
        while True:
            try:
                self._dialect.change_tables(statement)
            except DBAPIError as error:
                if is_done():
                    return
                is_passing = self._dialect.faults.is_passing(error)
                tries_left -= not is_passing
                if not tries_left or time.monotonic() > until:
                    raise
                if is_passing:
                    time.sleep(REST_SECONDS)
            else:
                return

    def _has(self, table: Table, statement: str) -> bool:
        """Whether a table has the column that *statement* adds."""
        return statement not in self._missing_columns(table)

    def _missing_columns(self, table: Table) -> list[str]:
        engine = self._dialect.engine
        there = {each["name"] for each in inspect(engine).get_columns(table.name, table.schema)}
        return [text for name, text in added(table, engine.dialect).items() if name not in there]

    def _of_indexes(self) -> list[str]:
        """The statements that create what is missing, and drop what is obsolete. They look for it
        themselves: a list of the indexes may be read while another process drops one."""
        jobs, dialect = self._tables.jobs, self._dialect.engine.dialect
        described = Table(jobs.name, MetaData(), Column("state", Integer), schema=jobs.schema)
        obsolete = Index(f"{self._tables.prefix}{OBSOLETE_INDEX}", described.c.state)
        indexes = [each for table in self.tables for each in indexes_of(table, dialect.name)]
        return [
            *(
                str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect))
                for index in sorted(indexes, key=lambda index: str(index.name))
            ),
            str(DropIndex(obsolete, if_exists=True).compile(dialect=dialect)),
        ]

    # -- values of new columns

    def _fill(self) -> None:
        """Fill the columns by which jobs are listed, from the last row to the first."""
        jobs = self._tables.jobs
        with self._dialect.engine.connect() as connection:
            last = connection.execute(select(func.max(jobs.c.number))).scalar() or 0
        while last > 0:
            last = self._fill_some(last)

    def _fill_some(self, last: int) -> int:
        """Fill one batch of rows up to number *last*; return the number before it."""
        jobs = self._tables.jobs
        some = (
            select(jobs.c.number, jobs.c.name, jobs.c.context, jobs.c.task_name)
            .where(jobs.c.number <= last)
            .order_by(jobs.c.number.desc())
            .limit(FILLED_AT_ONCE)
            .with_for_update(skip_locked=True)  # a job that is ended just now is left as it is
        )
        with self._dialect.begin() as connection:
            rows = connection.execute(some).all()
            self._fill_rows(rows, connection)
        return rows[-1].number - 1 if rows else 0

    def _fill_rows(self, rows: Sequence[Any], connection: Connection) -> None:
        values = [
            {"its": row.number, "called": listed(row.name), "whose": _user_in(row.context)}
            for row in rows
            if row.task_name is None
        ]
        if values:
            jobs = self._tables.jobs
            filled = update(jobs).where(jobs.c.number == bindparam("its"))
            filled = filled.values(task_name=bindparam("called"), enqueued_by=bindparam("whose"))
            connection.execute(filled, values)


def added(table: Table, dialect: Any) -> dict[str, str]:
    """Return the statements that add the columns of a table, by the names of the columns."""
    adds = f"ALTER TABLE {dialect.identifier_preparer.format_table(table)} ADD COLUMN"
    return {
        column.name: f"{adds} {CreateColumn(column).compile(dialect=dialect)}"
        for column in table.columns
    }


def _user_in(context: str | None) -> str | None:
    try:
        return listed(user_of(json.loads(context))) if context else None
    except (ValueError, AttributeError):
        return None  # the text may be anything


def create_missing(tables: Sequence[Table], engine: Engine) -> None:
    """Create the tables that are missing; several processes may do so at once."""
    for tries_left in reversed(range(TRIES)):
        try:
            tables[0].metadata.create_all(engine, tables=tables)
        except DBAPIError:
            # Another process may have created a table after the check: check again.
            if not tries_left:
                raise
        else:
            return
