"""The jobs. Each notes its beginning; what it writes, it writes in the attempt's session."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import transaction
from sqlalchemy import create_engine, insert, select, text, update
from zope.sqlalchemy import mark_changed

from tgext.asyncjob import (
    Task,
    asyncjob_perform,
    asyncjob_running_uid,
    asyncjob_session,
    asyncjob_track,
    task,
)

from .field import counter_of, field_of
from .journal import BEGAN, RAN, note
from .kinds import KINDS
from .place import MARIADB, POSTGRESQL, SQLITE, here
from .points import AFTER_WORK, BEFORE_WORK, points

#: One step of waiting, in seconds.
STEP_SECONDS = 0.03

#: For what the database undoes again and again, as it does where many are at SERIALIZABLE: an
#: attempt ends with the last of the tries in place. What is to fail has one attempt and no more.
MAX_ATTEMPTS = 10


class Refusal(Exception):
    """Raised by a job that is to fail."""


def row(number: int) -> None:
    _begin()
    _write(number, "row")
    points.reach(AFTER_WORK)


def pair(number: int) -> None:
    _begin()
    for what in ("left", "right") if number % 2 else ("right", "left"):
        _write(number, what)
    points.reach(AFTER_WORK)


def untouching(_number: int) -> None:
    note(BEGAN, asyncjob_running_uid() or "")
    note(RAN, asyncjob_running_uid() or "")


def parts(number: int) -> None:
    """Commit after each part, and see what an earlier attempt has left: a resumable import."""
    _begin(shows=False)
    for part in range(3):
        if not _is_written(number, f"part {part}"):
            transaction.abort()  # what was read must not be an old snapshot
            _wait(1)
            _write(number, f"part {part}")
            points.reach(AFTER_WORK)
        if part < 2:
            transaction.commit()


def parent(number: int) -> None:
    _begin()
    _write(number, "parent")
    uid = asyncjob_perform(JOBS[follow_up.__name__], number)
    orders = field_of(here().prefix).orders
    asyncjob_session().execute(insert(orders).values(uid=uid, number=number, kind="follow_up"))
    points.reach(AFTER_WORK)


def follow_up(number: int) -> None:
    _begin()
    _write(number, "follow_up")
    points.reach(AFTER_WORK)


@task(max_attempts=MAX_ATTEMPTS, backoff=0.1, takes_context=True)
def retried(context, number: int) -> None:
    _begin(shows=context.attempt > 1)
    _write(number, "row")
    if context.attempt == 1:
        raise Refusal("the first attempt fails, and what it wrote goes with it")
    points.reach(AFTER_WORK)


def failing(number: int) -> None:
    _begin(shows=False)
    _write(number, "row")
    raise Refusal("this one always does")


def long(number: int) -> None:
    note(BEGAN, asyncjob_running_uid() or "")
    _wait(8)
    points.reach(BEFORE_WORK)
    _write(number, "row")
    points.reach(AFTER_WORK)


def holding(number: int) -> None:
    _begin()
    _write(number, "row")
    _wait(2)
    points.reach(AFTER_WORK)


def saved(number: int) -> None:
    """Return with a savepoint of the transaction open, and work in it."""
    _begin()
    asyncjob_session().execute(select(1))
    if here().database == SQLITE:  # where zope.sqlalchemy has none
        asyncjob_session().begin_nested()
    else:
        transaction.savepoint()
    _write(number, "row")
    points.reach(AFTER_WORK)


def nested(number: int) -> None:
    """Return inside of two nested transactions of the session."""
    _begin()
    asyncjob_session().begin_nested()
    _write(number, "row")
    asyncjob_session().begin_nested()
    points.reach(AFTER_WORK)


def undone(number: int) -> None:
    """Undo one savepoint, and keep the next."""
    _begin()
    begun = asyncjob_session().begin_nested()
    _write(number, "undone")
    begun.rollback()
    with asyncjob_session().begin_nested():
        _write(number, "row")
    points.reach(AFTER_WORK)


def saved_parts(number: int) -> None:
    """Commit a part while a savepoint is open."""
    _begin(shows=False)
    for part in range(2):
        if not _is_written(number, f"part {part}"):
            transaction.abort()
            asyncjob_session().begin_nested()
            _write(number, f"part {part}")
            points.reach(AFTER_WORK)
        if part < 1:
            transaction.commit()


def timed_out(number: int) -> None:
    """Fail by an error of the database's that only this job has brought about."""
    _begin(shows=False)
    _leave(number, "row")  # and no counter: nobody is to be in its way
    if here().database == POSTGRESQL:
        asyncjob_session().execute(text("SET LOCAL statement_timeout = 20"))
        asyncjob_session().execute(text("SELECT pg_sleep(20)"))
    elif here().database == MARIADB:
        late = "SET STATEMENT max_statement_time = 0.02 FOR SELECT sleep(20)"
        asyncjob_session().execute(text(late))
    else:
        another = create_engine(f"sqlite:///{here().folder}/another.db?timeout=0")
        with another.connect() as first, another.connect() as second:
            first.exec_driver_sql("BEGIN IMMEDIATE")
            second.exec_driver_sql("BEGIN IMMEDIATE")


def forking(number: int) -> None:
    """Leave a child that returns as if it were the worker."""
    note(BEGAN, asyncjob_running_uid() or "")
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        _write(number, "row")
        points.reach(AFTER_WORK)


def endless() -> None:
    """Wait until the process is killed; for ``rescue``."""
    note(BEGAN, asyncjob_running_uid() or "")
    while True:
        _wait(100)


_FUNCTIONS: tuple[Callable[..., None], ...] = (
    row, pair, untouching, parts, parent, follow_up, failing, long, holding,
    saved, nested, undone, saved_parts, timed_out, forking,
)  # fmt: skip


def _task_of(function: Callable[..., None]) -> Task:
    kind = KINDS[function.__name__]
    attempts = 1 if kind.fails else MAX_ATTEMPTS
    return task(queue_name=kind.queue_name, max_attempts=attempts, backoff=0.05)(function)


#: By kind: each in the queue that its kind names.
JOBS: dict[str, Task] = {function.__name__: _task_of(function) for function in _FUNCTIONS} | {
    "retried": retried
}


def _begin(*, shows: bool = True) -> None:
    """Begin an attempt. shows: whether its effects are there twice if a second one is
    committed, too."""
    note(BEGAN, asyncjob_running_uid() or "")
    if shows:
        points.reach(BEFORE_WORK)


def _wait(steps: int) -> None:
    for _ in asyncjob_track(range(steps)):
        time.sleep(STEP_SECONDS)


def _write(number: int, what: str) -> None:
    """Leave one effect: a line in the ledger, and one more in a counter."""
    _leave(number, what)
    counters = field_of(here().prefix).counters
    asyncjob_session().execute(
        update(counters)
        .where(counters.c.number == counter_of(number, what))
        .values(value=counters.c.value + 1)
    )


def _leave(number: int, what: str) -> None:
    session = asyncjob_session()
    ledger = field_of(here().prefix).ledger
    session.execute(insert(ledger).values(number=number, what=what, child=here().name))
    mark_changed(session())


def _is_written(number: int, what: str) -> bool:
    ledger = field_of(here().prefix).ledger
    wanted = select(ledger.c.id).where(ledger.c.number == number, ledger.c.what == what)
    return asyncjob_session().execute(wanted).first() is not None
