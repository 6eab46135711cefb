"""The enqueuing process: orders and their jobs, a few in each transaction, until all are there
and the coordinator says that it is enough.

It keeps nothing in mind: which order is next, the table of orders says. So whoever is started
after it was killed, or its connection was, goes on where the last commit ended.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import suppress

import transaction
from sqlalchemy import func, insert, select
from sqlalchemy.exc import DBAPIError
from zope.sqlalchemy import mark_changed

from tgext.asyncjob import JobQueue

from .field import field_of
from .jobs import JOBS
from .journal import DONE, READY, STARTED, note
from .kinds import kind_of
from .place import here
from .points import AFTER_WORK, BEFORE_WORK, points
from .worker import log_to_stderr

log = logging.getLogger(__name__)

#: Orders that one transaction may hold.
MOST_AT_ONCE = 12

#: Seconds after an error.
PAUSE_SECONDS = 0.1


def main() -> None:
    """Enqueue what is missing."""
    note(STARTED)
    log_to_stderr()
    place = here()
    queue = place.queue(threads=0)
    points.watch(queue.session, lambda: True)
    points.listen()
    note(READY)
    begun_at = time.monotonic()
    first = number = _next(queue)
    while number < place.jobs or not place.enough.exists():
        due_at = begun_at + (number - first) * place.seconds / place.jobs
        time.sleep(max(0.0, due_at - time.monotonic()))
        try:
            _enqueue(queue, number)
        except Exception:
            log.exception("an enqueue failed, looking what is there")
            _abort()
            time.sleep(PAUSE_SECONDS)
        number = _next(queue)
    note(DONE)
    queue.close()


def _next(queue: JobQueue) -> int:
    orders = field_of(here().prefix).orders
    while True:
        try:
            last = queue.session.execute(select(func.max(orders.c.number))).scalar()
            return 0 if last is None else last + 1
        except Exception:
            log.exception("cannot look what is there")
            time.sleep(PAUSE_SECONDS)
        finally:
            _abort()


def _abort() -> None:
    """Abort, also where the server is gone that would have to be told."""
    with suppress(DBAPIError):
        transaction.abort()


def _enqueue(queue: JobQueue, first: int) -> None:
    """Commit a few orders, with their jobs."""
    place = here()
    orders = field_of(place.prefix).orders
    last = first + random.Random(f"{place.seed} {first}").randint(1, MOST_AT_ONCE)
    with queue.in_transaction():
        points.reach(BEFORE_WORK)
        for number in range(first, last):
            kind = kind_of(place.seed, number)
            uid = queue.perform(JOBS[kind], number)
            queue.session.execute(insert(orders).values(uid=uid, number=number, kind=kind))
        mark_changed(queue.session())
        points.reach(AFTER_WORK)
        transaction.commit()


if __name__ == "__main__":
    main()
