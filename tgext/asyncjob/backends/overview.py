"""What an operator may ask of a backend that several processes share, beyond one job's result.

A backend that can answer has an ``overview``. All of it is read, nothing is changed, and it may
be old by the time that it is shown. Instants are aware UTC, by the clock of the store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import NamedTuple

from ..job import WorkerInfo


class RunningJob(NamedTuple):
    """A job that a worker has claimed."""

    uid: str
    name: str  #: the dotted path of what was called
    queue_name: str
    since: datetime  #: when this attempt was claimed
    attempt: int  #: 1 for the first
    worker_id: str | None
    value: int  #: its progress; -1 until something is reported
    total: int | None
    is_cancelled: bool  #: it was asked to stop
    #: since when it keeps all others from writing, on SQLite; None: it does not, or not long
    locks_since: datetime | None


class QueueDepth(NamedTuple):
    """What waits in one queue."""

    queue_name: str
    due: int  #: jobs that a worker may take now
    delayed: int  #: jobs that wait for their time
    next_due_at: datetime | None  #: when the first of those is due


class QueuePosition(NamedTuple):
    """Which position a waiting job has in its queue."""

    is_delayed: bool  #: it waits for its time
    before: int  #: jobs of its queue that come first; 0 while it is delayed
    was_given_back: bool  #: a worker has had it and could not run it


class Connections(NamedTuple):
    """Connections to the database."""

    held: int  #: by all programs, as far as this one may see
    most: int  #: that the server allows


class Overview(ABC):
    """The answers; each is a query or two."""

    @abstractmethod
    def now(self) -> datetime:
        """Read the clock of the store."""

    @abstractmethod
    def workers(self) -> list[WorkerInfo]:
        """Return the workers that live, or may, oldest first."""

    @abstractmethod
    def running(self, limit: int | None = None) -> list[RunningJob]:
        """Return what runs, the longest first; at most *limit*."""

    @abstractmethod
    def waiting(self) -> list[QueueDepth]:
        """Return the queues in which something waits, by their names."""

    @abstractmethod
    def position(self, uid: str) -> QueuePosition | None:
        """Return the position of a READY job; None for any other."""

    @abstractmethod
    def connections(self) -> Connections | None:
        """Count the connections; None where there is no server to count them."""

    @abstractmethod
    def database(self) -> str:
        """Return the address of the database, without its password."""

    @abstractmethod
    def notification(self) -> str:
        """Return in some words how a worker there is notified of new jobs."""
