"""Kinds of sessions by isolation levels by databases: does a job of such a request work?

    python tests/session_matrix.py        prints the table, and the sentences of what is refused

A cell works where a request that commits leaves a job that runs, one that aborts leaves none, a
request's cancel() holds, and a job that was cancelled in the middle commits none of its work. It is
refused where the queue says a sentence when it is made. Nothing else is right.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import transaction
import zope.sqlalchemy
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool, StaticPool

from databases import begin_at_the_first_statement, url_of
from kept_connections import kept_to
from own_servers import own_server
from sqlqueues import (
    PREFIX,
    Effect,
    Place,
    begin_after_hook,
    begin_and_write,
    hooks,
    options_of,
    write_mapped,
    write_mapped_after_hook,
)
from tgext.asyncjob import ConfigError, JobQueue
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.job import CANCELLED, SUCCESSFUL

#: How connections come to an isolation level, by database: what create_engine() is given. Where
#: a role, a database or a server says the level, the queue's own connections come with it as well.
_ROLE = "-cdefault_transaction_isolation="
_SERVER = "SET SESSION TRANSACTION ISOLATION LEVEL "
LEVELS: dict[str, dict[str, dict[str, Any]]] = {
    "sqlite": {
        "default": {},
        "BEGIN said": {"begins": True},
        "SERIALIZABLE": {"isolation_level": "SERIALIZABLE"},
        "READ UNCOMMITTED": {"isolation_level": "READ UNCOMMITTED"},
    },
    "postgresql": {
        "default": {},
        "REPEATABLE READ": {"isolation_level": "REPEATABLE READ"},
        "SERIALIZABLE": {"isolation_level": "SERIALIZABLE"},
        "role's REPEATABLE READ": {"connect_args": {"options": rf"{_ROLE}repeatable\ read"}},
        "role's SERIALIZABLE": {"connect_args": {"options": f"{_ROLE}serializable"}},
    },
    "mariadb": {
        "default": {},
        "READ COMMITTED": {"isolation_level": "READ COMMITTED"},
        "SERIALIZABLE": {"isolation_level": "SERIALIZABLE"},
        "server's READ UNCOMMITTED": {
            "connect_args": {"init_command": f"{_SERVER}READ UNCOMMITTED"}
        },
        "server's SERIALIZABLE": {"connect_args": {"init_command": f"{_SERVER}SERIALIZABLE"}},
    },
}


class Column(Place):
    """A database for all cells of a column."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        #: as another process has it
        self.elsewhere = SqlBackend(
            create_engine(url, **options_of(url)), secret="swordfish", prefix=PREFIX
        )
        self.elsewhere.open(create_tables=False)

    def drop(self) -> None:
        self.elsewhere.close()
        self.elsewhere.engine.dispose()
        super().drop()


class Cell:
    """One session on one database; a request's block is ``request(queue)``."""

    #: jobs that write a row; the second one after a test has had its say
    job: Callable[..., object] = staticmethod(write_mapped)
    job_with_hook: Callable[..., object] = staticmethod(write_mapped_after_hook)

    def __init__(self, place: Column, level: dict[str, Any]) -> None:
        self.place = place
        self._level = level
        self.exits = ExitStack()

    def engine(self, url: str | None = None, **options: Any) -> Engine:
        """An engine of the application at the cell's level."""
        given = {**self._level, **options}
        begins = given.pop("begins", False)
        if self.place.kind == "sqlite":
            given["connect_args"] = {"timeout": 30, **given.get("connect_args", {})}
        made = create_engine(url or self.place.url, **given)
        if begins:
            begin_at_the_first_statement(made)
        self.exits.callback(made.dispose)
        return made

    def session(
        self, bind: Any, *, registered: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        made = scoped_session(sessionmaker(bind=bind, **options))
        zope.sqlalchemy.register(made, **(registered or {}))
        self.exits.callback(made.remove)
        return made

    def make(self) -> Any:
        """Make the session."""
        return self.session(self.engine())

    @contextmanager
    def request(self, queue: JobQueue) -> Iterator[Any]:
        """A request; gives the session that it works with."""
        try:
            with transaction.manager, queue.in_transaction():
                yield queue.session
        finally:
            queue.session.remove()


class KeepsItsSession(Cell):
    def make(self) -> Any:
        return self.session(self.engine(), registered={"keep_session": True})


class DoesNotBegin(Cell):
    job = staticmethod(begin_and_write)
    job_with_hook = staticmethod(begin_after_hook)

    def make(self) -> Any:
        return self.session(self.engine(), autobegin=False)

    @contextmanager
    def request(self, queue: JobQueue) -> Iterator[Any]:
        with super().request(queue) as session:
            session.begin()
            yield session


class Explicit(Cell):
    """transaction.manager in explicit mode."""

    def make(self) -> Any:
        transaction.manager.explicit = True
        self.exits.callback(setattr, transaction.manager, "explicit", False)
        return super().make()


class ManagerOfTheRequest(Cell):
    """As with pyramid_tm and its explicit_manager: manager and session are the request's."""

    @contextmanager
    def request(self, queue: JobQueue) -> Iterator[Any]:
        tm = transaction.TransactionManager(explicit=True)
        with Session(queue.session.get_bind()) as session, tm:
            zope.sqlalchemy.register(session, transaction_manager=tm)
            with queue.in_transaction(manager=tm):
                yield session


class TwoPhases(Cell):
    def make(self) -> Any:
        return self.session(self.engine(), twophase=True)


class MasterAndSlaves(Cell):
    """As TurboGears' balanced session chooses; the slave is read-only."""

    READ_ONLY = {  # noqa: RUF012
        "sqlite": {"connect_args": {"timeout": 30}},
        "postgresql": {"connect_args": {"options": "-cdefault_transaction_read_only=on"}},
        "mariadb": {"connect_args": {"init_command": "SET SESSION TRANSACTION READ ONLY"}},
    }

    def make(self) -> Any:
        kind, url = self.place.kind, self.place.url
        if kind == "sqlite":
            url = url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true"
        slave = create_engine(url, **self.READ_ONLY[kind])
        self.exits.callback(slave.dispose)
        master = self.engine()

        class Balanced(Session):
            def get_bind(self, mapper: Any = None, clause: Any = None) -> Any:
                return master if self._flushing else slave

        return self.session(None, class_=Balanced)


class BoundAnew(Cell):
    """Bound to another engine after the queue was made, as in each process that was forked."""

    @contextmanager
    def request(self, queue: JobQueue) -> Iterator[Any]:
        queue.session.remove()
        queue.session.configure(bind=self.engine())
        with super().request(queue) as session:
            yield session


class Tenant(Cell):
    """Each request moves to a schema of its own; on SQLite a database is attached."""

    MOVES = {  # noqa: RUF012
        "sqlite": "SELECT 1",
        "postgresql": "SET LOCAL search_path TO {}, public",
        "mariadb": "USE {}",
    }

    def make(self) -> Any:
        name, place = f"{PREFIX}tenant", self.place
        if place.kind != "sqlite":
            self._say(f"CREATE SCHEMA {name}")
            cascade = " CASCADE" if place.kind == "postgresql" else ""
            self.exits.callback(self._say, f"DROP SCHEMA {name}{cascade}")
        for table in place.tables.main_tables if place.kind != "sqlite" else ():
            self._say(f"CREATE TABLE {name}.{table.name} (uid varchar(64))")
        self._move = self.MOVES[place.kind].format(name)
        return super().make()

    def _say(self, statement: str) -> None:
        with self.place.engine.begin() as connection:
            connection.execute(text(statement))

    @contextmanager
    def request(self, queue: JobQueue) -> Iterator[Any]:
        with super().request(queue) as session:
            yield session
            session.flush()
            session.execute(text(self._move))
        if self.place.kind == "mariadb":  # it would stay there, in the pool
            queue.session.get_bind().dispose()


class OwnSession(Cell):
    """The queue's own session on asyncjob.url."""

    def make(self) -> Any:
        return None


class NoPool(Cell):
    def make(self) -> Any:
        return self.session(self.engine(poolclass=NullPool))


class PoolOfOne(Cell):
    def make(self) -> Any:
        return self.session(self.engine(pool_size=1, max_overflow=0, pool_timeout=10))


class OneConnection(Cell):
    def make(self) -> Any:
        return self.session(self.engine(poolclass=StaticPool))


class Autocommit(Cell):
    def make(self) -> Any:
        return self.session(self.engine().execution_options(isolation_level="AUTOCOMMIT"))


class BoundToAConnection(Cell):
    def make(self) -> Any:
        return self.session(self.exits.enter_context(self.engine().connect()))


class OtherManager(Cell):
    def make(self) -> Any:
        manager = transaction.ThreadTransactionManager()
        return self.session(self.engine(), registered={"transaction_manager": manager})


class Unregistered(Cell):
    def make(self) -> Any:
        return scoped_session(sessionmaker(bind=self.engine()))


class NotScoped(Cell):
    def make(self) -> Any:
        made = sessionmaker(bind=self.engine())
        zope.sqlalchemy.register(made)
        return made


class SharedByThreads(Cell):
    def make(self) -> Any:
        made = scoped_session(sessionmaker(bind=self.engine()), scopefunc=lambda: "everybody")
        zope.sqlalchemy.register(made)
        return made


request_id: ContextVar[int] = ContextVar("request_id")


class ScopeOfTheRequest(Cell):
    """A scopefunc that knows requests, and falls back on the thread."""

    @contextmanager
    def request(self, queue: JobQueue) -> Iterator[Any]:
        token = request_id.set(id(object()))
        try:
            with super().request(queue) as session:
                yield session
        finally:
            request_id.reset(token)

    def make(self) -> Any:
        made = scoped_session(
            sessionmaker(bind=self.engine()),
            scopefunc=lambda: request_id.get(threading.get_ident()),
        )
        zope.sqlalchemy.register(made)
        self.exits.callback(made.remove)
        return made


KINDS: dict[str, type[Cell]] = {
    "scoped, registered": Cell,
    "keep_session=True": KeepsItsSession,
    "autobegin=False": DoesNotBegin,
    "scopefunc of requests": ScopeOfTheRequest,
    "transaction.manager explicit": Explicit,
    "a manager for each request": ManagerOfTheRequest,
    "twophase=True": TwoPhases,
    "get_bind: master, slaves": MasterAndSlaves,
    "bound anew": BoundAnew,
    "a tenant's path": Tenant,
    "asyncjob.url, no session": OwnSession,
    "NullPool": NoPool,
    "pool of one": PoolOfOne,
    "StaticPool": OneConnection,
    "AUTOCOMMIT": Autocommit,
    "bound to a connection": BoundToAConnection,
    "registered elsewhere": OtherManager,
    "not registered": Unregistered,
    "not scoped": NotScoped,
    "shared by threads": SharedByThreads,
}


def look(place: Column, kind: str, level: str) -> str:
    """Try a cell: "works", the sentence by which it is refused, or what is wrong."""
    cell = KINDS[kind](place, LEVELS[place.kind][level])
    with cell.exits:
        session = cell.make()
        options = {"url": place.url} if session is None else {"session": session}
        try:
            queue = JobQueue("sql", table_prefix=PREFIX, secret="swordfish", threads=0, **options)
        except ConfigError as error:
            return f"refused: {error}"
        with queue:
            wrong = [found for step in STEPS if (found := step(cell, queue))]
            place.empty()
    return "; ".join(wrong) or "works"


def commits(cell: Cell, queue: JobQueue) -> str | None:
    """A request that commits: its row and its job are there, and the job runs."""
    with cell.request(queue) as session:
        session.add(Effect(text="request"))
        uid = queue.perform(cell.job, "job")
        if queue.backend.waiting():
            return "the job is there before the commit"
    queue.run_pending()
    if queue.result(uid).status is not SUCCESSFUL:
        return f"the job of a request that commits is {queue.result(uid).status}"
    return _unless_written(cell, [("job", 7), ("request", 1)])


def aborts(cell: Cell, queue: JobQueue) -> str | None:
    """A request that raises: neither its row nor its job."""
    with suppress(ZeroDivisionError), cell.request(queue) as session:
        session.add(Effect(text="request"))
        session.flush()
        queue.perform(cell.job, "job")
        raise ZeroDivisionError
    if queue.run_pending():
        return "the job of a request that aborts ran"
    return _unless_written(cell, [])


def cancels(cell: Cell, queue: JobQueue) -> str | None:
    """A request that cancels the job of another one: it does not run."""
    with cell.request(queue):
        uid = queue.perform(cell.job, "job")
    with cell.request(queue):
        queue.result(uid).cancel()
    queue.run_pending()
    if queue.result(uid).status is not CANCELLED:
        return f"the cancelled job is {queue.result(uid).status}"
    return _unless_written(cell, [])


def is_fenced(cell: Cell, queue: JobQueue) -> str | None:
    """A job that is cancelled while it runs commits none of its work."""
    with cell.request(queue):
        uid = queue.perform(cell.job_with_hook, "cancelled", "job")
    hooks["cancelled"] = functools.partial(cell.place.elsewhere.cancel, uid)
    queue.run_pending()
    if queue.result(uid).status is not CANCELLED:
        return f"the job that was cancelled in the middle is {queue.result(uid).status}"
    return _unless_written(cell, [])


STEPS: tuple[Callable[[Cell, JobQueue], str | None], ...] = (commits, aborts, cancels, is_fenced)


def _unless_written(cell: Cell, expected: list[tuple[str, int]]) -> str | None:
    written = cell.place.written()
    cell.place.empty()
    return None if written == expected else f"expected {expected} to be written, got {written}"


@contextmanager
def place_for(kind: str, folder: Path) -> Iterator[Column]:
    """The database of a column; PostgreSQL's own server, which knows prepared transactions."""
    with ExitStack() as stack:
        if kind == "postgresql":
            server = stack.enter_context(own_server(kind))
            stack.enter_context(kept_to(server.port))
            url = server.url
        else:
            url = url_of(kind, folder)
        place = Column(url)
        stack.callback(place.drop)
        yield place


def main() -> int:
    """Print the matrix; 1 if a cell is neither right nor refused."""
    refusals: list[str] = []
    wrong = 0
    for database in LEVELS:
        with tempfile.TemporaryDirectory() as folder, place_for(database, Path(folder)) as place:
            _say(database, LEVELS[database])
            for kind in KINDS:
                row = [look(place, kind, level) for level in LEVELS[database]]
                refusals += [cell for cell in dict.fromkeys(row) if cell not in refusals]
                wrong += sum(not is_right(cell) for cell in row)
                _say(kind, [_shown(cell, refusals) for cell in row])
    for number, sentence in enumerate(refusals):
        sys.stdout.write(f"({number}) {sentence}\n")
    return 1 if wrong else 0


def is_right(cell: str) -> bool:
    """Whether what was found is what may be."""
    return cell == "works" or cell.startswith("refused: ")


def _shown(cell: str, refusals: list[str]) -> str:
    return cell if cell == "works" else f"{cell.partition(':')[0][:20]} ({refusals.index(cell)})"


def _say(first: str, row: Iterable[str]) -> None:
    sys.stdout.write(f"{first:30}" + "".join(f"{each:>27}" for each in row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
