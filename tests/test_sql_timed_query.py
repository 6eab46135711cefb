"""``asyncjob_timed_query`` where a transaction reads a snapshot, and where it does not."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transaction
import zope.sqlalchemy
from sqlalchemy import Column, Integer, String, create_engine, event, insert, select
from sqlalchemy.orm import declarative_base, scoped_session, sessionmaker

from databases import begin_at_the_first_statement, sqlite_with_tables, url_of
from sqlqueues import KINDS
from tgext.asyncjob import JobQueue, TaskResultStatus, asyncjob_timed_query

Looked = tuple[bool, list[str]]


#: One for all tests, each of which makes its tables anew: their statements are compiled once.
PREFIX = f"t{uuid.uuid4().hex[:8]}_"


class Notes:
    """A table of notes on one database, its session, and a queue."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.url = sqlite_with_tables(folder, PREFIX) if kind == "sqlite" else url_of(kind, folder)
        self.engine = create_engine(self.url)
        if kind == "sqlite":
            begin_at_the_first_statement(self.engine)
        base = declarative_base()
        columns = {
            "__tablename__": f"notes_{uuid.uuid4().hex[:8]}",
            "id": Column(Integer, primary_key=True),
            "text": Column(String(40)),
        }
        self.Note: Any = type("Note", (base,), columns)
        self.metadata = base.metadata
        self.metadata.create_all(self.engine)
        self.Session = scoped_session(sessionmaker(bind=self.engine))
        zope.sqlalchemy.register(self.Session)
        self.queue = JobQueue(
            "sql", self.Session, threads=1, secret="swordfish", table_prefix=PREFIX
        )
        self.apart = create_engine(self.url)
        self.looked = threading.Semaphore(0)
        event.listen(self.engine, "after_cursor_execute", self._executed)

    def _executed(self, _c: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.startswith("SELECT") and self.Note.__tablename__ in statement:
            self.looked.release()

    def add_elsewhere(self, text: str) -> None:
        with self.apart.begin() as connection:
            connection.execute(insert(self.Note).values(text=text))

    def add_after_looks(self, looks: int) -> threading.Thread:
        """Add the row that is waited for, once it was looked for in vain."""

        def add() -> None:
            for _ in range(looks):
                assert self.looked.acquire(timeout=10)
            self.add_elsewhere("it")

        thread = threading.Thread(target=add)
        thread.start()
        return thread

    def query(self, form: str) -> Any:
        if form == "query":
            return self.Session.query(self.Note).filter_by(text="it")
        return select(self.Note).filter_by(text="it")

    def sees(self, query: Any) -> bool:
        if hasattr(query, "first"):
            return query.first() is not None
        return self.Session.execute(query).first() is not None

    def close(self) -> None:
        transaction.abort()
        self.queue.close()
        self.Session.remove()
        self.metadata.drop_all(self.apart)
        self.queue.backend.tables.metadata.drop_all(self.apart)  # type: ignore[attr-defined]
        self.apart.dispose()
        self.engine.dispose()


@pytest.fixture(params=KINDS)
def notes(request: Any, tmp_path: Path) -> Iterator[Notes]:
    made = Notes(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def in_request(notes: Notes) -> Callable[[Callable[[], Any]], Any]:
    """Do it in a transaction that is committed after it."""

    def run(act: Callable[[], Any]) -> Any:
        with notes.queue.in_transaction():
            done = act()
            transaction.commit()
        return done

    return run


@pytest.fixture
def in_job(notes: Notes) -> Callable[[Callable[[], Any]], Any]:
    """Do it in a job."""

    def run(act: Callable[[], Any]) -> Any:
        result = notes.queue.result(notes.queue.perform(act))
        notes.queue.run_pending()
        result.refresh()
        assert result.status is TaskResultStatus.SUCCESSFUL, result.errors
        return result.return_value

    return run


forms = pytest.mark.parametrize("form", ["query", "select"])
places = pytest.mark.parametrize("place", ["in_request", "in_job"])

HELD: dict[str, Any] = {}


def wait_for_it() -> bool:
    """The job, or the request: wait with what the session holds; can it see the row then?"""
    notes, form, hold = HELD["notes"], HELD["form"], HELD["hold"]
    kept = _HOLDS[hold](notes)
    query = notes.query(form)
    if "adding" not in HELD:  # a job is tried again on SQLite, where its snapshot is too old
        HELD["adding"] = notes.add_after_looks(HELD["looks"])
    asyncjob_timed_query(query, retries=400, interval=0.02)
    HELD["adding"].join(10)
    HELD.setdefault("seen", []).append(notes.sees(query))
    del kept
    seen: bool = HELD["seen"][0]
    return seen


def _loaded(notes: Notes) -> Any:
    return notes.Session.query(notes.Note).filter_by(text="old").one()


def _pending(notes: Notes) -> None:
    notes.Session.add(notes.Note(text="work"))


def _flushed(notes: Notes) -> None:
    _pending(notes)
    notes.Session.flush()


_HOLDS: dict[str, Callable[[Notes], Any]] = {
    "nothing": lambda notes: None,
    "loaded": _loaded,
    "pending": _pending,
    "flushed": _flushed,
}


@forms
@places
def test_a_row_that_comes_later_is_seen_where_the_session_holds_nothing(
    notes: Notes, form: str, place: str, request: Any
) -> None:
    HELD.clear()
    HELD.update(notes=notes, form=form, hold="nothing", looks=2)

    assert request.getfixturevalue(place)(wait_for_it) is True


@forms
@places
def test_work_that_is_not_flushed_does_not_keep_the_session_from_seeing_the_row(
    notes: Notes, form: str, place: str, request: Any
) -> None:
    HELD.clear()
    HELD.update(notes=notes, form=form, hold="pending", looks=2)

    assert request.getfixturevalue(place)(wait_for_it) is True

    assert _texts(notes) == ["it", "work"]


@forms
@places
@pytest.mark.parametrize("hold", ["loaded", "flushed"])
def test_the_wait_ends_with_the_row_and_says_what_a_session_that_holds_something_cannot_see(
    notes: Notes, form: str, place: str, hold: str, request: Any, caplog: Any
) -> None:
    if hold == "flushed" and notes.engine.dialect.name == "sqlite":
        pytest.skip("who has written keeps all others from writing: no row can come")
    notes.add_elsewhere("old")
    HELD.clear()
    HELD.update(notes=notes, form=form, hold=hold, looks=4)

    with caplog.at_level(logging.WARNING, "tgext.asyncjob.transactions.sessions"):
        seen = request.getfixturevalue(place)(wait_for_it)

    reads_snapshots = notes.engine.dialect.name != "postgresql"
    assert seen is not reads_snapshots
    assert ("reads a snapshot" in caplog.text) is reads_snapshots
    assert _texts(notes) == ["it", "old"] + ["work"] * (hold == "flushed")


def _texts(notes: Notes) -> list[str]:
    with notes.apart.connect() as connection:
        return sorted(connection.execute(select(notes.Note.text)).scalars())
