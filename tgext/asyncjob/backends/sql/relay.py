"""Publishes wake-ups, and finds those that were lost, where a message broker carries them.

    commit --> notifier --> publish --> broker
    relay thread, each round: a job waits that nobody will come for --> publish

A relay runs in every process with a worker; there is no leader. It publishes for a queue in two
cases. A job waits, and this process, which serves its queue, has a thread that runs nothing, at two
rounds one after the other: the message for it was lost. Or no living worker serves the queue: a
message may start one. The stamp of the queue is changed by compare-and-set, so that of all relays
one publishes; while the first job of the queue stays the same, ever more rarely.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from ...policies import Keys
from ...wakeups import Publisher
from . import states
from .dialect import Dialect
from .notifier import ANY, Notifier
from .pausing import Pausing
from .tables import Tables
from .taking import Taking
from .worker_registry import WorkerRegistry

log = logging.getLogger(__name__)

#: Seconds between two rounds, at most: shorter if a delayed job is due.
ROUND_SECONDS = 1.5

#: The least time between two rounds, in seconds.
LEAST_SECONDS = 0.02

#: Seconds between two publications for a queue whose first job stays the same: after the first, and
#: at most; doubled in between.
REPEAT_SECONDS = (5.0, 600.0)

#: The same for a queue that moves: then messages get lost.
MOVING_SECONDS = 1.0

#: The least time between two messages after commits, in seconds: a message costs half a
#: millisecond of the process that enqueues, and one wakes a whole fleet.
PAUSE_SECONDS = 0.01

#: Seconds that ``close`` waits for the thread.
CLOSE_SECONDS = 3.0


class Sees(NamedTuple):
    """What a relay looks at."""

    taking: Taking
    pausing: Pausing
    registry: WorkerRegistry
    blocked: Callable[[list[Keys | None]], object]  #: has jobs with these keys admitted
    is_idle: Callable[[], bool]  #: whether a thread of the workers of this process runs nothing


class Relay:
    """The relay of one process. now: the clock of the database, as SQL."""

    def __init__(
        self,
        tables: Tables,
        dialect: Dialect,
        publisher: Publisher,
        sees: Sees,
        now: Callable[[], ColumnElement[float]],
    ) -> None:
        self._tables = tables
        self._dialect = dialect
        self._publisher = publisher
        self._sees = sees
        self._now = now
        self._notifier = Notifier(self.publish, PAUSE_SECONDS)
        #: called with a queue of this process before a wake-up for it is published again
        self.found: Callable[[str], object] = lambda _name: None
        self._begin()

    def _begin(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._queues: Collection[str] | None = None
        self._waited: set[str] = set()  # queues in which a job waited for this process before

    # -- publish

    def notify(self, queue_names: Iterable[str]) -> None:
        """Have a thread publish a message for each of these queues; ANY: for all with jobs."""
        self._notifier.notify(queue_names)

    def publish(self, queue_names: Sequence[str]) -> None:
        """Publish a message for each of these queues now. Raises what the broker raises."""
        if ANY in queue_names:
            queue_names = sorted({*queue_names, *self._sees.pausing.unpaused(None)} - {ANY})
        if queue_names:
            self._publisher.publish(queue_names)

    def pass_on(self, queue_name: str) -> None:
        """Have another message published for a queue if more jobs wait in it."""
        taking = self._sees.taking
        waits = taking.look([queue_name], ticks=False).waits
        if taking.does_wait([queue_name]) if waits is None else waits:
            self.notify([queue_name])

    def known_queues(self) -> set[str]:
        """Read the names of the queues that the tables know: with waiting jobs, or ever paused."""
        with self._dialect.engine.connect() as connection:
            names = set(connection.execute(select(self._tables.queues.c.name)).scalars())
        return names | set(self._sees.pausing.unpaused(None))

    # -- the thread

    def start(self, queues: Collection[str] | None) -> None:
        """Start the rounds. queues: those that this process serves; None: all."""
        self._queues = queues
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="asyncjob-relay", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the rounds, and send what is left."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)
        self._notifier.close()
        self._publisher.close()

    def after_fork(self) -> None:
        """Begin anew: the threads are the parent's."""
        self._notifier.after_fork()
        self._publisher.after_fork()
        self._begin()

    def _run(self) -> None:
        seconds = LEAST_SECONDS
        while not self._stop.wait(seconds):
            seconds = ROUND_SECONDS
            try:
                seconds = min(seconds, self.round())
            except Exception as error:
                if not self._dialect.faults.is_passing(error):
                    log.exception("could not look for jobs that wait")
            # Spread, so that the processes of a fleet do not look at once.
            seconds = max(LEAST_SECONDS, seconds * random.uniform(0.7, 1.0))

    def round(self) -> float:
        """Look once; return the seconds until the next delayed job is due, or more."""
        seen = self._sees.taking.look(None, ticks=False)
        if seen.due is not None and seen.due <= 0 and self._sees.taking.promote(self._sees.blocked):
            self.notify([ANY])
        waits = self._sees.taking.does_wait(None) if seen.waits is None else seen.waits
        names = self._sees.pausing.unpaused(None) if waits else ()
        for name in self._forgotten(names):
            self._publish_again(name)
        return ROUND_SECONDS if seen.due is None or seen.due <= 0 else float(seen.due)

    def _forgotten(self, names: Collection[str]) -> list[str]:
        """Return those of *names*, in which jobs wait, for which nobody will come."""
        mine = {name for name in names if self._queues is None or name in self._queues}
        waited, self._waited = self._waited, mine if self._sees.is_idle() else set()
        found = [name for name in mine if name in waited and name in self._waited]
        for name in found:
            self.found(name)
        others = [name for name in names if name not in mine]
        if others:
            workers = self._sees.registry.workers()
            served = {name for each in workers for name in each.queues or names}
            found += [name for name in others if name not in served]
        return found

    def _publish_again(self, name: str) -> None:
        version = self._stamp(name)
        if version is None:
            return
        try:
            self._publisher.publish([name])
        except Exception as error:  # noqa: BLE001 - a broker raises its own errors
            log.info("could not publish a wake-up for queue %s again: %s", name, error)
            self._unstamp(name, version)
        else:
            log.info("queue %s has waiting jobs and no wake-up: published one", name)

    # -- stamps

    def _stamp(self, name: str) -> int | None:
        """Return the version of the new stamp of a queue; None if it is too early for one, or
        another relay was faster."""
        head = self._head(name)
        if head is None:
            return None
        table = self._tables.wakeups
        wanted = select(table, (self._now() - table.c.published_at).label("age"))
        with self._dialect.side_database.connect() as connection:
            row = connection.execute(wanted.where(table.c.queue_name == name)).one_or_none()
        if row is not None and abs(row.age) < _pause_seconds(row, head):
            return None
        try:
            return self._set_stamp(name, head, row)
        except IntegrityError:
            return None

    def _set_stamp(self, name: str, head: int, row: Row[Any] | None) -> int | None:
        table = self._tables.wakeups
        times = 1 if row is None or row.head != head else row.times + 1
        version = 1 if row is None else row.version + 1
        values = {"version": version, "published_at": self._now(), "times": times, "head": head}
        with self._dialect.side_database.connect() as connection:
            if row is None:
                connection.execute(insert(table).values(queue_name=name, **values))
                return version
            mine = (table.c.queue_name == name, table.c.version == row.version)
            changed = connection.execute(update(table).where(*mine).values(values))
            return version if changed.rowcount == 1 else None

    def _unstamp(self, name: str, version: int) -> None:
        """Let the next round try again what could not be published."""
        table = self._tables.wakeups
        mine = (table.c.queue_name == name, table.c.version == version)
        try:
            with self._dialect.side_database.connect() as connection:
                connection.execute(update(table).where(*mine).values(published_at=0.0, times=0))
        except DBAPIError as error:
            log.info("could not note that a wake-up was not published: %s", error)

    def _head(self, name: str) -> int | None:
        """Read the number of the first job of a queue."""
        jobs = self._tables.jobs
        first = select(jobs.c.number).where(
            self._tables.stands(states.AVAILABLE), jobs.c.queue_name == name
        )
        with self._dialect.engine.connect() as connection:
            found: int | None = connection.execute(
                first.order_by(jobs.c.rank, jobs.c.number).limit(1)
            ).scalar()
        return found


def _pause_seconds(stamp: Row[Any], head: int) -> float:
    """Return how long after a publication there is no other."""
    if stamp.head != head:
        return MOVING_SECONDS
    first, most = REPEAT_SECONDS
    return float(min(first * 2 ** min(max(stamp.times - 1, 0), 20), most))
