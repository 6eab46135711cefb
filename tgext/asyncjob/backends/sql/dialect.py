"""What every database is asked for: the pieces of statements that have no common form.

Statements are written once; they ask a ``Dialect``. Its engine is our own, with connections of
its own: each statement commits by itself, and what needs more than one stands in ``begin()``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Connection,
    Engine,
    TwoPhaseTransaction,
    create_engine,
    event,
)
from sqlalchemy.pool import NullPool, Pool, QueuePool

from ...errors import ConfigError
from ...transactions.connections import forget_connections, listen, note_errors
from .faults import Faults
from .statements import Statement


class Dialect(ABC):
    """How one database does what all do. channel: what a notification is sent by."""

    #: Whether UPDATE gives back rows. Where not, a claim is a SELECT ... FOR UPDATE before it.
    update_returns: bool
    #: Whether a SELECT can pass over rows that others have locked.
    skips_locked: bool
    #: Begins a transaction that writes.
    begin_text = "BEGIN"
    #: Whether a writer keeps all others out.
    has_one_writer = False
    #: Bytes that one statement may have; None: more than anybody has.
    most_bytes: int | None = None

    #: Statements that make what is missing where ``side_database`` is, if that is another file.
    side_statements: Sequence[str] = ()

    #: How its errors are read.
    faults_of: type[Faults]

    def __init__(self, engine: Engine, channel: str) -> None:
        self.channel = channel
        self.faults = self.faults_of(lambda: (self.engine.url, self.side_database.url))
        self.engine = self.make_engine(engine)
        listen(engine)

    def make_engine(self, engine: Engine) -> Engine:
        """Return an engine like the application's, with connections of our own, on which every
        statement commits by itself."""
        pool = _pool_like(engine.pool)
        own = create_engine(engine.url, pool=pool, isolation_level="AUTOCOMMIT")
        event.listen(own, "connect", self.prepare)
        note_errors(own)
        return own

    def prepare(self, connection: Any, _record: Any) -> None:  # noqa: B027
        """Set up a fresh connection of our own."""

    def check_carrier(self, engine: Engine) -> None:
        """See ``Backend.check_carrier``."""
        with engine.connect() as connection:
            carries = self.is_in_transaction(connection)
            connection.detach()  # a parent process that forks later leaves none in the pool
        if not carries:
            raise ConfigError(
                "session: expected an engine with transactions, got one in AUTOCOMMIT mode, where "
                "an exception takes nothing back, no job either: leave isolation_level out of "
                "create_engine(), or bind the session to engine.execution_options("
                "isolation_level=...) with another one"
            )

    @abstractmethod
    def is_in_transaction(self, connection: Connection) -> bool:
        """Whether what is done on *connection* waits for its commit."""

    def home(self, connection: Connection, table: str, wanted: str | None) -> str | None:
        """Return the schema to name the tables by: the one that *table* is found in, or would be
        made in; None: there is but one. wanted: asyncjob.schema. Raises ConfigError."""
        return None

    @property
    def side_database(self) -> Engine:
        """The engine of the side tables, which never waits for a job's transaction: on SQLite of
        a file of its own, elsewhere the main one."""
        return self.engine

    def is_one_of(self, column: ColumnElement[str], parameter: str) -> ColumnElement[bool] | None:
        """The condition that *column* is in a list that is one parameter; None: there are none
        such here."""
        return None

    def defers(self, act: Callable[[], object]) -> bool:
        """Defer what a finalizer or a signal handler is to write, where it has interrupted this
        thread's own writing and would wait for it; *act* is called once that is done."""
        return False

    def compiled(self, clause: ClauseElement) -> Statement:
        """Return *clause* as a statement that is compiled once, for this database."""
        return Statement(clause, self.engine.dialect)

    def write(self) -> AbstractContextManager[Connection]:
        """Give a connection for one statement that changes something, and commits by itself."""
        return self.engine.connect()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Give a connection inside a transaction, which is committed where the block ends."""
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
        """Make a change that a job's commit is to carry, on its connection; None: by itself."""
        if connection is not None:
            return change(connection)
        with self.begin() as own:
            return change(own)

    def write_lazily(self) -> AbstractContextManager[Connection]:
        """Give one like ``write`` whose commit waits for no disk: a power cut may take it back,
        and nothing that was committed after it is there then."""
        return self.write()

    @property
    def lazily(self) -> list[ColumnElement[Any]]:
        """What an UPDATE there has to give back for that."""
        return []

    def may_announce(self, connection: Connection) -> bool:
        """Whether the transaction on *connection* can notify idle workers of its commit; one in two
        phases cannot."""
        return not isinstance(connection.get_transaction(), TwoPhaseTransaction)

    def announces(self, queue_name: Any) -> list[ColumnElement[Any]]:
        """Return what an INSERT is to give back, so that its commit notifies idle workers."""
        return []

    def announce(  # noqa: B027 - where nothing notifies, workers look
        self, connection: Connection, queue_names: Sequence[str]
    ) -> None:
        """Notify idle workers, with the commit of the transaction on *connection*."""

    def watch_locks(self, running: Iterable[tuple[str, Any]]) -> dict[str, float] | None:
        """Return which jobs keep all others from writing, and since when; None where none can."""
        return None

    def trim(self) -> None:
        """Close the idle connections to a server, which threads that sleep do not need, but for
        one that claims the next job at once."""
        pool: Any = self.engine.pool
        is_kept = self.has_one_writer or not hasattr(pool, "checkedin")
        # One that is in use would come back to a pool that is no more, and stay open.
        if is_kept or pool.checkedin() < 2 or pool.checkedout():
            return
        self.engine.dispose()
        with self.engine.connect():
            pass

    def dispose(self) -> None:
        """Close what is open."""
        self.engine.dispose()

    def in_use(self) -> list[Callable[[], object]]:
        """Return functions that tell, also in a copy of this process, whether one of our
        connections is in a state that a forked child must not copy."""
        return []

    def after_fork(self) -> None:
        """Forget the connections of the parent process."""
        forget_connections(self.engine)


def _pool_like(pool: Pool) -> Pool:
    """Make a pool that connects as the application's does, with a connection for each thread:
    some pools have one connection for all of them."""
    if isinstance(pool, (QueuePool, NullPool)):
        return pool.recreate()
    return QueuePool(pool._creator, dialect=pool._dialect, _dispatch=pool.dispatch)


def driver_of(connection: Connection) -> Any:
    found = connection.connection.dbapi_connection
    if found is None:
        raise RuntimeError("the connection has been closed meanwhile")
    return found
