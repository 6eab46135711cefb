"""What an operator can read from a backend that several processes share: jobs, queues, workers.

Such a backend has an ``overview``. Its methods only read. Instants are aware UTC, by the clock of
the store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import NamedTuple

from ..job import WorkerInfo


class RunningJob(NamedTuple):
    """A job that a worker has claimed."""

    uid: str
    name: str  #: the dotted path of its function
    queue_name: str
    since: datetime  #: when this attempt was claimed
    attempt: int  #: 1 for the first
    worker_id: str | None
    value: int  #: its progress; -1 before the first report
    total: int | None
    is_cancelled: bool  #: it was cancelled, and stops at its next checkpoint
    #: since when it has held SQLite's write lock; None: it does not hold it, or not for long
    locks_since: datetime | None


class WaitingJob(NamedTuple):
    """A job that a worker may claim."""

    uid: str
    name: str  #: the dotted path of its function
    queue_name: str
    enqueued_at: datetime


class QueueDepth(NamedTuple):
    """The number of jobs that wait in one queue."""

    queue_name: str
    due: int  #: jobs that a worker may claim now
    delayed: int  #: jobs that are not due yet
    next_due_at: datetime | None  #: when the first of those is due
    #: the first enqueued of those that are due; None: none is, or the time of all has just come
    oldest: WaitingJob | None = None
    is_capped: bool = False  #: there may be more that are due
    is_delayed_capped: bool = False  #: there may be more that are delayed
    blocked: int = 0  #: jobs that wait to be admitted by a limit, or for their turn
    is_blocked_capped: bool = False  #: there may be more of those


#: The most jobs that are counted before another one.
MOST_BEFORE = 1_000


class QueuePosition(NamedTuple):
    """The position of a waiting job in its queue."""

    is_delayed: bool  #: it is not due yet
    before: int  #: jobs of its queue that come first, up to MOST_BEFORE; 0 while it is delayed
    was_given_back: bool  #: a worker has claimed it, and released it since it could not run it
    most: int = MOST_BEFORE  #: where counting has stopped
    is_blocked: bool = False  #: it waits to be admitted; then ``before`` counts those of its key

    @property
    def is_capped(self) -> bool:
        """Whether there may be more jobs before it."""
        return self.before >= self.most


class PausedQueue(NamedTuple):
    """A queue from which no worker takes a job."""

    queue_name: str
    since: datetime
    user: str | None  #: who has paused it, if that is known


class Connections(NamedTuple):
    """Connections to the database."""

    held: int  #: by all programs, as far as this user may see them
    most: int  #: the limit of the server


class Overview(ABC):
    """Reads from one backend; each method takes a query or two."""

    @abstractmethod
    def now(self) -> datetime:
        """Read the clock of the store."""

    @abstractmethod
    def workers(self) -> list[WorkerInfo]:
        """Return the workers that are not known to be dead, oldest first."""

    @abstractmethod
    def running(self, limit: int | None = None) -> list[RunningJob]:
        """Return the running jobs, oldest attempt first; limit: the most to return; None: all."""

    @abstractmethod
    def waiting(self, most: int | None = None) -> list[QueueDepth]:
        """Return the queues with waiting jobs, in the order of their names.

        most: about so many jobs are counted, of each queue its share, and of those that are
        delayed the next; None: all are.
        """

    @abstractmethod
    def connections(self) -> Connections | None:
        """Count the connections; None for a database without a server."""

    @abstractmethod
    def database(self) -> str:
        """Return the address of the database, without its password."""

    @abstractmethod
    def notification(self) -> str:
        """Return a phrase for how a worker is notified of new jobs, as in "by LISTEN"."""
