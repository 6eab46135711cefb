"""Queues on the three databases, beside the tables of an application, for whole-machine tests.

Made once for a module and emptied for each test: a table costs more than a test does. The jobs
stand here too, at module level, as a worker in another process must find them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transaction
import zope.sqlalchemy
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, select
from sqlalchemy.orm import declarative_base, scoped_session, sessionmaker

from databases import SERVERS, empty, sqlite_with_tables, url_of
from tgext.asyncjob import JobQueue, asyncjob_perform, asyncjob_session
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.job import READY, RUNNING

#: As parameters. What a module does on SQLite is its part of the fast suite; that each database
#: keeps the contract is test_sql_backend's.
KINDS = ("sqlite", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SERVERS))

#: The name of the variable that hands the prefix on to a process of another program.
PREFIX_VARIABLE = "ASYNCJOB_TEST_PREFIX"
PREFIX = os.environ.get(PREFIX_VARIABLE) or f"t{uuid.uuid4().hex[:8]}_"

#: The longest that a test waits for anything. Nothing that is right comes near it.
PATIENCE_SECONDS = 20

Base = declarative_base(metadata=MetaData())


class Effect(Base):
    """What a job leaves behind."""

    __tablename__ = f"{PREFIX}effects"
    id = Column(Integer, primary_key=True)
    text = Column(String(100), nullable=False)
    amount = Column(Integer, nullable=False, default=1)


effects: Table = Effect.__table__  # type: ignore[assignment]


class Place:
    """A database with the tables of an application and of its queues.

    Session: the application's; ``queue()`` makes a queue on it, ``other_queue()`` one that shares
    nothing with it but the tables, as another process would have.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.kind = url.partition(":")[0].partition("+")[0].replace("mysql", "mariadb")
        self.engine = create_engine(url, **options_of(url))
        self.Session = session_of(self.engine)
        self._open: list[JobQueue] = []
        Base.metadata.create_all(self.engine)
        with JobQueue("sql", session=self.Session, table_prefix=PREFIX, threads=0) as made:
            self.tables = made.backend.tables  # type: ignore[attr-defined]

    def queue(self, **options: Any) -> JobQueue:
        """A queue on the application's session, closed when the test ends."""
        made = {"secret": "swordfish", "threads": 0, "drain_timeout": 5, **options}
        self._open.append(JobQueue("sql", session=self.Session, table_prefix=PREFIX, **made))
        return self._open[-1]

    def other_queue(self, **options: Any) -> JobQueue:
        """A queue of another process: with engine and session of its own."""
        made = {"secret": "swordfish", "threads": 0, "drain_timeout": 5, **options}
        self._open.append(JobQueue("sql", url=self.url, table_prefix=PREFIX, **made))
        return self._open[-1]

    def let_time_pass(self, clock: Callable[[], float], *queues: JobQueue) -> None:
        """Let queues without a worker go by *clock* in the database's stead; the option stays a
        test's own, so the backend is made anew."""
        for queue in queues:
            queue.backend.close()
            engine = queue.session.get_bind()
            made = SqlBackend(
                engine, secret="swordfish", prefix=PREFIX, clock=clock, monotonic=clock
            )
            queue._database._backend = made

    def written(self) -> list[tuple[str, int]]:
        """The committed effects, sorted, read on a connection of its own."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(effects.c.text, effects.c.amount))
            return sorted((row.text, row.amount) for row in rows)

    def write(self, text: str, amount: int = 1) -> None:
        """Write and commit an effect, as another process would."""
        with self.engine.begin() as connection:
            connection.execute(effects.insert().values(text=text, amount=amount))

    def jobs(self) -> list[Any]:
        """The rows of jobs, in the order of their enqueue."""
        jobs = self.tables.jobs
        with self.engine.connect() as connection:
            return list(connection.execute(select(jobs).order_by(jobs.c.number)))

    def empty(self) -> None:
        """Remove every row of every test, but not the workers of queues that go on."""
        tables = self.tables
        with self.engine.begin() as connection:
            policies = (tables.slots, tables.limits, tables.groups)
            empty(connection, (effects, tables.errors, tables.jobs, tables.audit, *policies))

    def close_queues(self) -> None:
        """Close what ``queue`` and ``other_queue`` made, and forget the thread's session."""
        queues, self._open = self._open, []
        for queue in queues:
            queue.close()
        self.Session.remove()

    def drop(self) -> None:
        """Close the queues, and leave no table on a server."""
        self.close_queues()
        if self.kind != "sqlite":  # of which the file goes
            self.tables.metadata.drop_all(self.engine)
            Base.metadata.drop_all(self.engine)
        self.engine.dispose()


@contextmanager
def place_of(kind: str, folder: Path) -> Iterator[Place]:
    """A ``Place`` for the tests of a module."""
    made = Place(sqlite_with_tables(folder, PREFIX) if kind == "sqlite" else url_of(kind, folder))
    try:
        yield made
    finally:
        made.drop()


#: The same with the memory backend, in front.
ALL_KINDS = ("memory", *KINDS)


@contextmanager
def place_or_memory(kind: str, folder: Path) -> Iterator[Place | None]:
    """The Place of a database; None for memory."""
    if kind == "memory":
        yield None
        return
    with place_of(kind, folder) as made:
        yield made


@contextmanager
def queue_in(place: Place | None) -> Iterator[JobQueue]:
    """A queue in a place, or in memory; at the end it is closed and the place empty."""
    if place is None:
        with JobQueue(threads=0) as made:
            yield made
        return
    yield place.queue()
    place.close_queues()
    place.empty()


def options_of(url: str) -> dict[str, Any]:
    """What an application says of its engine: on SQLite to wait as long as our own connections."""
    return {"connect_args": {"timeout": 30}} if url.startswith("sqlite") else {}


def session_of(engine: Any) -> Any:
    """A scoped session on *engine*, as zope.sqlalchemy wants it."""
    made = scoped_session(sessionmaker(bind=engine))
    zope.sqlalchemy.register(made)
    return made


# -- jobs

#: What a test does in the middle of a job of its own process.
hooks: dict[str, Callable[[], object]] = {}


def nothing() -> None:
    """Touches no database."""


def write_one(text: str) -> str:
    """One row, by a Core statement."""
    asyncjob_session().execute(effects.insert().values(text=text, amount=1))
    return text.upper()


def write_mapped(text: str) -> int:
    """One row, by the ORM."""
    session = asyncjob_session()
    row = Effect(text=text)
    session.add(row)
    session.flush()
    row.amount = 7
    return 7


def write_unflushed(text: str) -> None:
    """One row that only the commit will flush."""
    asyncjob_session().add(Effect(text=text))


def count_rows() -> int:
    """Reads, and nothing else."""
    return len(asyncjob_session().execute(select(effects.c.id)).all())


def write_and_fail(text: str) -> None:
    """One row, flushed, and an error."""
    write_mapped(text)
    raise RuntimeError(f"after {text}")


def write_several(text: str) -> str:
    """Rows, a change, a removal, and a follow-up job."""
    session = asyncjob_session()
    rows = [Effect(text=f"{text} {number}") for number in range(3)]
    session.add_all(rows)
    session.flush()
    rows[1].amount = 5
    session.delete(rows[2])
    asyncjob_perform(write_one, f"{text} follow-up")
    return text


def enqueue_two(text: str) -> None:
    """Enqueues jobs, and touches no database besides."""
    asyncjob_perform(write_one, f"{text} one")
    asyncjob_perform(write_one, f"{text} two")


def enqueue_at_commit(text: str) -> None:
    """Leaves to a hook of its commit to enqueue a job."""
    transaction.get().addBeforeCommitHook(asyncjob_perform, (write_one, text))


def enqueue_in_parts(text: str) -> None:
    """Commits what it has enqueued, after a test has had its say, and goes on."""
    asyncjob_perform(write_one, text)
    hooks.get("middle", nothing)()
    transaction.commit()


PARTS = ("first", "second", "third")


def write_in_parts(text: str) -> int:
    """Three rows, each committed by itself; looks for itself what is there already."""
    session = asyncjob_session()
    written = 0
    for part in PARTS:
        name = f"{text} {part}"
        there = select(effects.c.id).where(effects.c.text == name)
        if session.execute(there).first() is None:
            hooks.get(part, nothing)()
            session.add(Effect(text=name))
            written += 1
        if part != PARTS[-1]:
            transaction.commit()
    return 3


def after_hook(name: str, text: str | None = None) -> None:
    """Write, if there is something to write, after a test has had its say."""
    hooks[name]()
    if text is not None:
        write_one(text)


def write_mapped_after_hook(name: str, text: str) -> None:
    """The same, by the ORM."""
    hooks[name]()
    write_mapped(text)


def hook_after_writing(name: str, text: str) -> None:
    """Write, and let the test have its say before the commit."""
    write_one(text)
    hooks[name]()


def begin_and_write(text: str) -> None:
    """Begins by itself, as sessions with autobegin=False want it, and writes one row."""
    asyncjob_session().begin()
    write_mapped(text)


def begin_after_hook(name: str, text: str) -> None:
    """The same, after a test has had its say."""
    hooks[name]()
    begin_and_write(text)


def kill_own_process() -> None:
    """End the worker that runs it, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


# -- processes


def work_until_all_have_ended(url: str, reloaded: bool = False, **options: Any) -> None:
    """Be a worker process, until nothing waits or runs any more."""
    if reloaded:  # as hupper says in a process that it kills whenever a file changes
        sys.modules["hupper"] = SimpleNamespace(is_active=lambda: True)  # type: ignore[assignment]
    with _queue_of_a_child(url, **options) as queue:
        queue.start_worker()
        pause = threading.Event()
        while not _all_have_ended(queue):
            pause.wait(0.01)


def _all_have_ended(queue: JobQueue) -> bool:
    counts = queue.backend.counts()  # once: between two of them a job may go from one to the other
    return not counts[READY] and not counts[RUNNING]


def be_killed_once_told_to_stop(url: str, **options: Any) -> None:
    """Be a worker process that is told to stop, as by SIGTERM, and killed in its drain."""
    begun = threading.Event()
    with _queue_of_a_child(url, drain_timeout=60, **options) as queue:

        def wait_for_the_word() -> None:
            begun.set()
            pause = threading.Event()
            while not any(each.stopping for each in queue.backend._registry.workers()):
                pause.wait(0.01)
            kill_own_process()

        hooks["begun"] = wait_for_the_word
        queue.start_worker()
        begun.wait(PATIENCE_SECONDS)


def _queue_of_a_child(url: str, **options: Any) -> JobQueue:
    made = {"secret": "swordfish", "threads": 1, **options}
    return JobQueue("sql", url=url, table_prefix=PREFIX, **made)
