"""The jobs. Each notes its beginning; what it writes, it writes in the attempt's session."""

from __future__ import annotations

import time
from collections.abc import Callable

import transaction
from sqlalchemy import insert, select, update
from zope.sqlalchemy import mark_changed

from tgext.asyncjob import (
    asyncjob_perform,
    asyncjob_running_uid,
    asyncjob_session,
    asyncjob_track,
    task,
)

from .field import counter_of, field_of
from .journal import BEGAN, RAN, note
from .place import here
from .points import AFTER_WORK, BEFORE_WORK, points

#: One step of waiting, in seconds.
STEP_SECONDS = 0.03


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
    uid = asyncjob_perform(follow_up, number)
    orders = field_of(here().prefix).orders
    asyncjob_session().execute(insert(orders).values(uid=uid, number=number, kind="follow_up"))
    points.reach(AFTER_WORK)


def follow_up(number: int) -> None:
    _begin()
    _write(number, "follow_up")
    points.reach(AFTER_WORK)


@task(max_attempts=3, backoff=0.1, takes_context=True)
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


def endless() -> None:
    """Wait until the process is killed; for ``rescue``."""
    note(BEGAN, asyncjob_running_uid() or "")
    while True:
        _wait(100)


JOBS: dict[str, Callable[..., None]] = {
    "row": row,
    "pair": pair,
    "untouching": untouching,
    "parts": parts,
    "parent": parent,
    "retried": retried,  # type: ignore[dict-item]
    "failing": failing,
    "long": long,
    "holding": holding,
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
    field, session = field_of(here().prefix), asyncjob_session()
    counters = field.counters
    session.execute(insert(field.ledger).values(number=number, what=what, child=here().name))
    session.execute(
        update(counters)
        .where(counters.c.number == counter_of(number, what))
        .values(value=counters.c.value + 1)
    )
    mark_changed(session())


def _is_written(number: int, what: str) -> bool:
    ledger = field_of(here().prefix).ledger
    wanted = select(ledger.c.id).where(ledger.c.number == number, ledger.c.what == what)
    return asyncjob_session().execute(wanted).first() is not None
