"""What differs between SQLite, PostgreSQL and MariaDB: all of it, and nothing else.

Statements are written once, in ``__init__.py``; they ask a ``Dialect`` for the pieces that have
no common form.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any

from sqlalchemy import ColumnElement, Double, Engine, create_engine, func, literal, text
from sqlalchemy.engine import make_url

from ...errors import ConfigError
from .liveness import FileLocks, Liveness, MariaDbLocks, PostgreSqlLocks

log = logging.getLogger(__name__)

#: Seconds that our own connections wait for SQLite's one write lock. The driver's default of 5
#: is less than an ordinary import holds it.
BUSY_SECONDS = 30


class Dialect(ABC):
    """How one database does what all do."""

    #: Whether UPDATE gives back rows. Where not, a claim is a SELECT ... FOR UPDATE before it.
    update_returns: bool
    #: Whether a SELECT can pass over rows that others have locked.
    skips_locked: bool
    #: Of our own transactions. MariaDB's default would lock the gaps between rows.
    isolation_level = "READ COMMITTED"

    def __init__(self, engine: Engine) -> None:
        own = self.own_engine(engine)
        self.engine = own.execution_options(isolation_level=self.isolation_level)
        #: For one statement that is a transaction of its own: no BEGIN and COMMIT around it.
        self.at_once = own.execution_options(isolation_level="AUTOCOMMIT")

    def own_engine(self, engine: Engine) -> Engine:
        """Return the engine for our own short transactions."""
        return engine

    def volatile_engine(self) -> Engine:
        """Return the engine for progress and the like, which never waits for a job's."""
        return self.at_once

    def after_fork(self) -> None:
        """Forget connections that are a parent process's."""
        self.engine.dispose(close=False)

    @abstractmethod
    def now(self) -> ColumnElement[float]:
        """The database's clock: seconds since the epoch."""

    @abstractmethod
    def liveness(self) -> Liveness:
        """What tells whether a worker lives."""


class PostgreSql(Dialect):
    update_returns = True
    skips_locked = True

    def now(self) -> ColumnElement[float]:
        return func.extract("epoch", func.clock_timestamp()).cast(Double)

    def liveness(self) -> Liveness:
        return PostgreSqlLocks(self.at_once)


class MariaDb(Dialect):
    update_returns = False
    skips_locked = True

    def now(self) -> ColumnElement[float]:
        return func.unix_timestamp(func.now(6)).cast(Double)

    def liveness(self) -> Liveness:
        return MariaDbLocks(self.at_once)


class Sqlite(Dialect):
    """One writer at a time, and a file beside the database for what must not wait for it."""

    update_returns = True
    skips_locked = False
    isolation_level = "SERIALIZABLE"  # the only one there is

    def own_engine(self, engine: Engine) -> Engine:
        path = engine.url.database
        if not path or path == ":memory:" or "mode=memory" in path:
            raise ConfigError(
                "asyncjob.backend = sql: expected a database that other connections see, got "
                f"{engine.url.render_as_string()}, which each has for itself; in test.ini set "
                "asyncjob.backend = memory, or sqlalchemy.url to a file"
            )
        self.path = path
        own = create_engine(engine.url, connect_args={"timeout": BUSY_SECONDS})
        with own.connect() as connection:
            mode = connection.execute(text("PRAGMA journal_mode")).scalar()
            if mode != "wal":
                connection.execute(text("PRAGMA journal_mode = WAL"))
                log.info(
                    "switched %s to write-ahead logging, so that readers and a writer do not "
                    "wait for each other; %s-wal and %s-shm belong to it: a backup takes all three",
                    path, path, path,
                )  # fmt: skip
        return own

    def volatile_engine(self) -> Engine:
        url = make_url(f"sqlite:///{self.path}-asyncjob")
        beside = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
        with beside.connect() as connection:
            connection.execute(text("PRAGMA journal_mode = WAL"))
        return beside.execution_options(isolation_level="AUTOCOMMIT")

    def now(self) -> ColumnElement[float]:
        return (func.julianday("now") - literal(2_440_587.5)) * literal(86_400.0)

    def liveness(self) -> Liveness:
        return FileLocks(self.path)


def dialect_of(engine: Engine) -> Dialect:
    """Return the dialect of the database behind *engine*; raises ConfigError for another."""
    known: dict[str, Any] = {
        "sqlite": Sqlite,
        "postgresql": PostgreSql,
        "mysql": MariaDb,
        "mariadb": MariaDb,
    }
    found = known.get(engine.dialect.name)
    if found is None:
        raise ConfigError(
            f"asyncjob.backend = sql: expected SQLite, PostgreSQL or MariaDB, got "
            f"{engine.dialect.name}; give asyncjob.url one of those, or use backend = memory"
        )
    made: Dialect = found(engine)
    return made
