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

from ..brief import user_of
from .dialect import Dialect
from .tables import OBSOLETE_INDEX, Tables, listed

log = logging.getLogger(__name__)

#: How long a migration tries to get a lock on a table, in seconds. Each try is short, since all
#: writers of the table wait behind it.
PATIENCE_SECONDS = 120.0

#: How long the others can write between two tries, in seconds.
REST_SECONDS = 1.0

#: Rows whose new columns one transaction fills: it holds their locks for a few milliseconds.
FILLED_AT_ONCE = 500

#: Times that ``create_missing`` looks again for tables that another process creates meanwhile.
TRIES = 3


class Migration:
    """The migration of the tables of one database."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._dialect = dialect

    def run(self) -> None:
        """Add what is missing; nothing, if the tables are new. Raises DBAPIError if a lock was not
        to be had for PATIENCE_SECONDS."""
        for table in self._tables.main_tables:
            self._until_none(partial(self._missing_columns, table))
        self._fill()
        for table in self._tables.main_tables:
            self._until_none(partial(self._missing_indexes, table))
        self._until_none(self._obsolete_indexes)

    def _until_none(self, missing: Callable[[], Sequence[str]]) -> None:
        """Execute the statements that *missing* returns, until it returns none: another process may
        execute them too, and a lock may take several tries."""
        until = time.monotonic() + PATIENCE_SECONDS
        while statements := missing():
            log.info("upgrading the tables of jobs: %s", statements[0])
            try:
                self._dialect.change_tables(statements[0])
            except DBAPIError as error:
                is_hopeless = not self._dialect.faults.is_passing(error)
                if missing()[:1] == statements[:1]:
                    if is_hopeless or time.monotonic() > until:
                        raise
                    time.sleep(REST_SECONDS)

    def _missing_columns(self, table: Table) -> list[str]:
        engine = self._dialect.engine
        there = {each["name"] for each in inspect(engine).get_columns(table.name, table.schema)}
        name = engine.dialect.identifier_preparer.format_table(table)
        return [
            f"ALTER TABLE {name} ADD COLUMN {CreateColumn(column).compile(dialect=engine.dialect)}"
            for column in table.columns
            if column.name not in there
        ]

    def _missing_indexes(self, table: Table) -> list[str]:
        engine = self._dialect.engine
        there = {each["name"] for each in inspect(engine).get_indexes(table.name, table.schema)}
        return [
            str(CreateIndex(index).compile(dialect=engine.dialect))
            for index in sorted(table.indexes, key=lambda index: str(index.name))
            if index.name not in there
        ]

    def _obsolete_indexes(self) -> list[str]:
        engine, jobs = self._dialect.engine, self._tables.jobs
        name = f"{self._tables.prefix}{OBSOLETE_INDEX}"
        there = {each["name"] for each in inspect(engine).get_indexes(jobs.name, jobs.schema)}
        described = Table(jobs.name, MetaData(), Column("state", Integer), schema=jobs.schema)
        dropped = DropIndex(Index(name, described.c.state))
        return [str(dropped.compile(dialect=engine.dialect))] if name in there else []

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
