"""Creates, upgrades and checks the tables in a database."""

from __future__ import annotations

import logging
import os
from typing import Any

from sqlalchemy import Engine, Table, func, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError, ResourceClosedError
from sqlalchemy.schema import CreateIndex, CreateTable

from ...errors import ConfigError
from .dialect import Dialect, SideTable
from .jobs_table import indexes_of
from .migration import Migration, added, create_missing
from .tables import SCHEMA_VERSION, Tables

log = logging.getLogger(__name__)

#: What is raised if a database cannot be reached: at some moments of its first connection, which
#: SQLAlchemy cannot invalidate, one of the other two.
UNREACHABLE = (DBAPIError, ResourceClosedError, NotImplementedError)


class Schema:
    """The tables of one database."""

    #: The version that this package needs.
    expected = SCHEMA_VERSION

    def __init__(self, tables: Tables, dialect: Dialect, wanted: str | None = None) -> None:
        self._tables = tables
        self._dialect = dialect
        self._wanted = wanted
        tables.locate(wanted)
        self._identity: str | None = None
        self._unopened: bool | None = None
        self._unchecked: Engine | None = None

    @property
    def side_file(self) -> str | None:
        """The file of the side database on SQLite; None on other databases."""
        side = self._dialect.side_database
        return None if side is self._dialect.engine else side.url.database

    @property
    def identity(self) -> str | None:
        """What distinguishes these tables from all others; None if whoever created them has given
        them none."""
        if self._unopened is not None:
            self.ensure()
        return self._identity

    def version(self) -> int | None:
        """Return the version of the tables in the database; None if there are no tables."""
        self._locate()
        table = self._tables.schema
        if not inspect(self._dialect.engine).has_table(table.name, schema=table.schema):
            return None
        with self._dialect.engine.connect() as connection:
            found: int | None = connection.execute(select(table.c.version)).scalar()
        return found

    def open(self, *, create: bool) -> None:
        """Call ``check``; if the database cannot be reached, ``ensure`` does it later."""
        self._unopened = create
        try:
            self.ensure()
        except UNREACHABLE as error:
            log.warning("cannot look at the tables of jobs yet, going on: %s", error)

    def check_carrier(self, engine: Engine) -> None:
        """Raise ConfigError if *engine* has no transactions; if its database cannot be reached,
        ``ensure`` does it later."""
        self._unchecked = engine
        try:
            self._ensure_carrier(engine)
        except UNREACHABLE as error:
            log.warning("cannot look at the application's database yet, going on: %s", error)

    def ensure(self) -> None:
        """Do what could not be done at start."""
        if self._unopened is not None:
            self.check(create=self._unopened)
            # It has statements that were compiled before the schema of the tables was known.
            self._dialect.engine.clear_compiled_cache()
            self._unopened = None
        if self._unchecked is not None:
            self._ensure_carrier(self._unchecked)

    def _ensure_carrier(self, engine: Engine) -> None:
        self._dialect.check_carrier(engine)
        engine.clear_compiled_cache()
        self._unchecked = None

    def _locate(self) -> None:
        """Find the schema of the tables, once: the search path of a session may change later."""
        with self._dialect.engine.connect() as connection:
            name = self._tables.schema.name
            self._tables.locate(self._dialect.home(connection, name, self._wanted))

    def check(self, *, create: bool) -> None:
        """Ensure that the tables exist, of this version.

        create: whether to create missing tables and to upgrade older ones.
        Raises ConfigError for a newer version, and for missing or older tables without *create*.
        """
        version = self.version()
        if version is not None and version > SCHEMA_VERSION:
            raise ConfigError(
                f"expected the tables {self._tables.prefix}* in version {SCHEMA_VERSION}, got "
                f"version {version}, which a newer tgext.asyncjob made; install that one here too"
            )
        if version != SCHEMA_VERSION and not create:
            raise ConfigError(
                f"expected the tables {self._tables.prefix}* in version {SCHEMA_VERSION}, got "
                f"{'none' if version is None else f'version {version}'}, and "
                "asyncjob.create_tables is false; run: gearbox asyncjob-schema -c <the .ini file>"
            )
        if version != SCHEMA_VERSION:
            self.upgrade()
        if self.side_file is not None:
            self._dialect.side_tables = [
                side_table(table, self._dialect.side_database.dialect)
                for table in self._tables.side_tables
            ]
            if create:  # each connection makes what its file lacks
                self._dialect.side_database.connect().close()
        elif create:
            create_missing(self._tables.side_tables, self._dialect.side_database)
        with self._dialect.engine.connect() as connection:
            self._identity = connection.execute(select(self._tables.schema.c.identity)).scalar()

    def upgrade(self) -> None:
        """Create the tables in the present version, or add to them what they lack. Others may use
        them meanwhile, or do the same; a process that dies in the middle has done no harm."""
        migration = Migration(self._tables, self._dialect)
        create_missing(migration.tables, self._dialect.engine)
        migration.run()
        table = self._tables.schema
        values = {"version": SCHEMA_VERSION, "identity": _new_identity()}
        # Of several processes at once one sets it.
        kept = {**values, "identity": func.coalesce(table.c.identity, values["identity"])}
        with self._dialect.begin() as connection:
            if not connection.execute(update(table).values(kept)).rowcount:
                connection.execute(insert(table).values(values))

    def statements(self) -> list[str]:
        """Return the SQL statements that create the tables, to be executed by other means."""
        dialect = self._dialect.engine.dialect
        found = []
        for table in [*self._tables.main_tables, *self._tables.side_tables]:
            found.append(str(CreateTable(table).compile(dialect=dialect)).strip())
            for index in indexes_of(table, dialect.name):
                found.append(str(CreateIndex(index).compile(dialect=dialect)).strip())
        name = dialect.identifier_preparer.format_table(self._tables.schema)
        identity = _new_identity()
        found.append(
            f"INSERT INTO {name} (version, identity) VALUES ({SCHEMA_VERSION}, '{identity}')"
        )
        return found


def side_table(table: Table, dialect: Any) -> SideTable:
    """Return how a table of the side database comes to be complete."""
    made_by = str(CreateTable(table, if_not_exists=True).compile(dialect=dialect))
    return SideTable(table.name, made_by, added(table, dialect))


def _new_identity() -> str:
    return os.urandom(16).hex()
