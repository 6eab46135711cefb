"""``Dialect``: the parts of statements that differ between databases.

Statements are written once, and get these parts from a ``Dialect``. Its engine is our own, with its
own connections: each statement commits by itself, and several are put into ``begin()``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    ColumnElement,
    Connection,
    Engine,
    Select,
    Table,
    create_engine,
    event,
)
from sqlalchemy.pool import NullPool, Pool, QueuePool

from ...errors import ConfigError
from ...transactions.connections import forget_connections, listen, note_errors
from .faults import Faults
from .statements import Build, ListStatement, Statement


class SideTable(NamedTuple):
    """A table of the side database, and how it comes to be complete."""

    name: str
    made_by: str  #: the statement that creates it, if it is missing
    columns: dict[str, str]  #: the statement that adds a column, by the column's name


class Dialect(ABC):
    """The peculiarities of one database. channel: the name of the channel of notifications."""

    #: Whether UPDATE can return rows. If not, a claim executes SELECT ... FOR UPDATE before it.
    update_returns: bool
    #: Whether SELECT can skip rows that others have locked.
    skips_locked: bool
    #: Whether it reads the parts of a UNION ALL in their order, as far as its LIMIT needs.
    merges = True
    #: Whether GROUP BY the first columns of an index reads one entry of each group.
    groups_by_steps = False
    #: Whether a recursion finds the next value of an index by one search for each step.
    steps_in_recursion = True
    #: Whether an index can have the rows of one condition only.
    has_partial_indexes = True
    #: The statement that begins a writing transaction.
    begin_text = "BEGIN"
    #: Whether processes can notify each other through it.
    notifies = False
    #: Whether a writer keeps all others out.
    has_one_writer = False
    #: The most bytes of one statement; None: no limit, or not known yet.
    most_bytes: int | None = None

    #: What ``side_database`` must have, if that is another file.
    side_tables: Sequence[SideTable] = ()

    #: The class that classifies its errors.
    faults_of: type[Faults]

    def __init__(self, engine: Engine, channel: str) -> None:
        self.channel = channel
        self.faults = self.faults_of(lambda: (self.engine.url, self.side_database.url))
        self.engine = self.make_engine(engine)
        listen(engine)

    def make_engine(self, engine: Engine) -> Engine:
        """Return an engine like the application's, with its own connections, on which each
        statement commits by itself."""
        pool = _pool_like(engine.pool)
        own = create_engine(engine.url, pool=pool, isolation_level="AUTOCOMMIT")
        event.listen(own, "connect", self.prepare)
        note_errors(own)
        roll_back = own.dialect.do_rollback

        def roll_back_if_begun(connection: Any) -> None:
            if self.has_begun(getattr(connection, "dbapi_connection", connection)):
                roll_back(connection)

        own.dialect.do_rollback = roll_back_if_begun  # type: ignore[method-assign,assignment]
        return own

    def has_begun(self, driver: Any) -> bool:
        """Whether a connection of ours may be in a transaction. The pool rolls back after each
        statement, which would be a round trip to the server, or most of the work of one."""
        return True

    def prepare(self, connection: Any, _record: Any) -> None:  # noqa: B027
        """Set up a new connection of our own."""

    def check_carrier(self, engine: Engine) -> None:
        """See ``Backend.check_carrier``."""
        with engine.connect() as connection:
            carries = self.is_in_transaction(connection)
            connection.detach()  # the pool stays empty, in case this process forks later
        if not carries:
            raise ConfigError(
                "session: expected an engine with transactions, got one in AUTOCOMMIT mode, where "
                "a rollback undoes nothing and a failed request keeps its jobs: leave "
                "isolation_level out of create_engine(), or bind the session to "
                "engine.execution_options(isolation_level=...) with another one"
            )

    @abstractmethod
    def is_in_transaction(self, connection: Connection) -> bool:
        """Whether a change on *connection* takes effect only with a commit."""

    def home(self, connection: Connection, table: str, wanted: str | None) -> str | None:
        """Return the schema of the tables: the one in which *table* is found, or would be created;
        None: the database has no schemas. wanted: asyncjob.schema. Raises ConfigError."""
        return None

    @property
    def side_database(self) -> Engine:
        """The engine of the side tables, which never waits for the transaction of a job: on SQLite
        that of another file, elsewhere the main one."""
        return self.engine

    def is_one_of(self, column: ColumnElement[str], parameter: str) -> ColumnElement[bool] | None:
        """The condition that *column* is in a list that is one parameter, in JSON; None if each of
        its items is to be one."""
        return None

    def place(self, table: Table) -> ColumnElement[Any]:
        """The column by which a statement finds the rows again that it has picked itself."""
        return table.c.number

    def is_at(self, place: ColumnElement[Any], picked: Select[Any]) -> ColumnElement[bool]:
        """The condition that a row is one of those that are picked, by their place."""
        return place.in_(picked)

    def rows_in(self, parameter: BindParameter[Any], columns: Sequence[Any], name: str) -> Any:
        """Return the rows that a parameter holds, a JSON list of objects, as a table of this name
        with these columns; None: many rows are stored sooner one by one."""
        return None

    def defers(self, act: Callable[[], object]) -> bool:
        """Defer *act*, which writes, if a finalizer or a signal handler calls this and has
        interrupted a write of its own thread, for which it would wait. It is called after that."""
        return False

    def compiled(self, build: Build) -> Statement:
        """Return what *build* returns as a statement that is compiled once, for this database."""
        return Statement(build, self.engine.dialect)

    def compiled_for_lists(
        self, build: Callable[[Sequence[BindParameter[Any]]], ClauseElement]
    ) -> ListStatement:
        """Return what *build* returns for the parameters of a list, likewise."""
        return ListStatement(build, self.engine.dialect)

    def write(self) -> AbstractContextManager[Connection]:
        """Return a connection for one writing statement, which commits by itself."""
        return self.engine.connect()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Return a connection inside a transaction, which is committed at the end of the block."""
        with self.write() as connection:
            connection.exec_driver_sql(self.begin_text)
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(Exception):  # the connection may be what failed
                    connection.exec_driver_sql("ROLLBACK")
                raise

    def change(self, connection: Connection | None, change: Callable[[Connection], bool]) -> bool:
        """Make a change in the transaction on *connection*; None: in a transaction of its own."""
        if connection is not None:
            return change(connection)
        with self.begin() as own:
            return change(own)

    def change_tables(self, statement: str) -> None:
        """Execute a statement that changes a table. It waits for the lock for a short time: all
        others who write wait behind it."""
        with self.begin() as connection:
            connection.exec_driver_sql(statement)

    def write_lazily(self) -> AbstractContextManager[Connection]:
        """Return one like ``write`` whose commit does not wait for the disk. A power cut may undo
        it, together with everything that was committed after it."""
        return self.write()

    @property
    def lazily(self) -> list[ColumnElement[Any]]:
        """What an UPDATE on such a connection has to return for that."""
        return []

    def notify(self, queue_names: Sequence[str]) -> None:  # noqa: B027 - see ``notifies``
        """Notify the listeners of other processes of jobs in these queues."""

    def watch_locks(self, running: Iterable[tuple[str, Any]]) -> dict[str, float] | None:
        """Return the jobs that keep all others from writing, and since when; None: none can."""
        return None

    def is_locked(self) -> bool:
        """Return whether a transaction keeps all others from writing now."""
        return False

    def trim(self) -> None:
        """Close the idle connections to a server, which waiting threads do not need, except for
        one, which claims the next job without delay."""
        pool: Any = self.engine.pool
        is_kept = self.has_one_writer or not hasattr(pool, "checkedin")
        # A connection in use would be returned to the old pool, and stay open.
        if is_kept or pool.checkedin() < 2 or pool.checkedout():
            return
        # The first connection of a pool is made under a lock, for which a finalizer that enqueues
        # in the middle of that would wait: until it is there, others use the old pool.
        fresh = pool.recreate()
        fresh.connect().close()
        self.engine.pool = fresh
        pool.dispose()

    def dispose(self) -> None:
        """Close what is open."""
        self.engine.dispose()

    def in_use(self) -> list[Callable[[], object]]:
        """Return functions that return, also in a forked copy of this process, whether one of our
        connections is in a state that a forked child must not copy."""
        return []

    def after_fork(self) -> None:
        """Forget the connections of the parent process."""
        forget_connections(self.engine)


def _pool_like(pool: Pool) -> Pool:
    """Make a pool that connects as the application's does, with a connection for each thread:
    some pools have one connection for all threads."""
    if isinstance(pool, (QueuePool, NullPool)):
        return pool.recreate()
    return QueuePool(pool._creator, dialect=pool._dialect, _dispatch=pool.dispatch)


def driver_of(connection: Connection) -> Any:
    found = connection.connection.dbapi_connection
    if found is None:
        raise RuntimeError("expected an open connection, got one that was closed meanwhile")
    return found
