"""Which jobs to list, and in which order: the same on every backend.

    open      those that run, or wait for a worker: the last enqueued first
    delayed   those that wait for their time: the next due first
    ended     the last ended first

So each part of a list is an index read in its order, however many jobs there are. A ``Cursor`` is
the place of the last job of a page, from which the next one goes on, whatever has come or gone
meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from math import isfinite
from typing import Any, NamedTuple

from ..amount import is_int
from ..errors import ConfigError
from ..job import FAILED, READY, RUNNING, Snapshot, TaskError, TaskResultStatus, storable
from ..sentence import Sentence

#: The most jobs of one page.
MOST_LISTED = 1_000

#: The statuses of the jobs with an error, if none is given: of the many that have succeeded or were
#: cancelled each would be looked at.
_WITH_ERRORS = (READY, RUNNING, FAILED)

#: The parts of a list.
OPEN, DELAYED, ENDED = range(3)

#: The largest number that a database has.
LARGEST = 2**63 - 1

#: Half of the last digit of a datetime, in seconds. A store has instants with more digits.
_HALF_MICROSECOND = 0.5e-6

_STATUSES = ", ".join(TaskResultStatus)


def begin_of(instant: datetime) -> float:
    """Return the first second since the epoch that is shown as *instant*."""
    return instant.timestamp() - _HALF_MICROSECOND


def end_of(instant: datetime) -> float:
    """Return the last second since the epoch that is shown as *instant*."""
    return instant.timestamp() + _HALF_MICROSECOND


class JobFilter(NamedTuple):
    """What the jobs of a list have in common; None: anything."""

    statuses: frozenset[TaskResultStatus] | None = None
    names: tuple[str, ...] | None = None  #: dotted paths of their functions
    queue_names: tuple[str, ...] | None = None
    user: str | None = None  #: who was logged in when they were enqueued
    error: str | None = None  #: the class of one of their errors, ``Class`` or ``module.Class``
    since: datetime | None = None  #: not ended, or, if they have not, enqueued, before that
    until: datetime | None = None  #: nor after that
    highest: int | None = None  #: nor enqueued after the job with this number

    @classmethod
    def of(  # noqa: PLR0913 - each is a parameter of ``JobQueue.jobs``
        cls,
        status: Any = None,
        name: Any = None,
        queue_name: Any = None,
        user: Any = None,
        error: Any = None,
        since: Any = None,
        until: Any = None,
    ) -> JobFilter:
        """Return the filter of these parameters, which may be one value or several. Raises
        ConfigError."""
        statuses = _several("status", status)
        if statuses is None and error is not None:
            statuses = _WITH_ERRORS
        return cls(
            statuses=None if statuses is None else frozenset(map(_status, statuses)),
            names=_several("name", name),
            queue_names=_several("queue_name", queue_name),
            user=_text("user", None if user is None else str(user)),
            error=_text("error", error),
            since=_instant("since", since),
            until=_instant("until", until),
        )

    def has(self, *statuses: TaskResultStatus) -> bool:
        """Whether jobs of one of *statuses* are wanted."""
        return self.statuses is None or not self.statuses.isdisjoint(statuses)

    def described(self) -> str:
        """Return the filter as a line for people."""
        parts = {
            "status": self.statuses and sorted(self.statuses),
            "name": self.names,
            "queue": self.queue_names,
            "user": (self.user,) if self.user is not None else None,
            "error": (self.error,) if self.error is not None else None,
            "since": self.since and (_shown(self.since),),
            "until": self.until and (_shown(self.until),),
        }
        return " ".join(f"{name}={','.join(each)}" for name, each in parts.items() if each) or "all"

    def as_json(self) -> dict[str, Any]:
        """Return the filter as JSON has it, for ``of_json``."""
        return {
            "status": self.statuses and sorted(self.statuses),
            "name": self.names and list(self.names),
            "queue_name": self.queue_names and list(self.queue_names),
            "user": self.user,
            "error": self.error,
            "since": self.since and self.since.isoformat(),
            "until": self.until and self.until.isoformat(),
            "highest": self.highest,
        }

    @classmethod
    def of_json(cls, given: dict[str, Any]) -> JobFilter:
        """Return the filter of ``as_json``. Raises ConfigError, KeyError, TypeError, ValueError."""
        instants = {
            name: None if given[name] is None else datetime.fromisoformat(given[name])
            for name in ("since", "until")
        }
        highest = given["highest"]
        if highest is not None and not (is_int(highest) and 0 <= highest <= LARGEST):
            raise ValueError(f"highest: expected the number of a job, got {highest!r}")
        made = cls.of(
            given["status"], given["name"], given["queue_name"], given["user"], given["error"],
            instants["since"], instants["until"],
        )  # fmt: skip
        return made._replace(highest=highest)

    def is_of(self, error: TaskError) -> bool:
        """Whether an error is of the wanted class."""
        return f".{error.exception_class_path}".endswith(f".{self.error}")


class Cursor(NamedTuple):
    """The place of a job in the list."""

    number: int  #: in the order of enqueue
    finished_at: float | None = None  #: seconds since the epoch; None: it has not ended
    due_at: float | None = None  #: seconds since the epoch; None: it is not delayed, or has ended

    @property
    def place(self) -> tuple[int, float, int]:
        """What sorts jobs: the part of the list, and the place in it."""
        if self.finished_at is not None:
            return ENDED, -self.finished_at, -self.number
        if self.due_at is not None:
            return DELAYED, self.due_at, self.number
        return OPEN, 0.0, -self.number

    @classmethod
    def behind(cls, part: int, value: float) -> Cursor:
        """Return the place behind the job of a part with this value, the number or the instant of
        its order, and behind all others of that instant."""
        if part == ENDED:
            return cls(0, finished_at=value)
        return cls(LARGEST, due_at=value) if part == DELAYED else cls(int(value))

    def __str__(self) -> str:
        if self.finished_at is None and self.due_at is not None:
            return f"{self.number}-due-{self.due_at!r}"
        return f"{self.number}-{'' if self.finished_at is None else repr(self.finished_at)}"

    @classmethod
    def of(cls, text: Any) -> Cursor | None:
        """Read the text of a cursor; None for None. Raises ConfigError."""
        if text is None:
            return None
        try:
            number, _, at = text.partition("-")
            is_delayed, due = at.startswith("due-"), at.removeprefix("due-")
            found = cls(
                int(number),
                finished_at=float(at) if at and not is_delayed else None,
                due_at=float(due) if is_delayed else None,
            )
            if abs(found.number) > LARGEST or not all(map(isfinite, found.place)):
                raise ValueError
            return found
        except (AttributeError, ValueError):
            raise ConfigError(
                Sentence(
                    "after: expected the ``next`` of a page of jobs, got %(value)s; leave it out "
                    "for the first page",
                    value=repr(text),
                )
            ) from None


class Found(NamedTuple):
    """One page of a list."""

    uids: list[str]
    next: str | None  #: the cursor from which the next page goes on; None: this is the last


class Counted(NamedTuple):
    """How many jobs a list has."""

    number: int
    is_all: bool  #: False: there may be more


class LastError(NamedTuple):
    """A failed job, with why its last attempt has failed."""

    uid: str
    name: str  #: of its task
    at: datetime  #: when it ended, aware UTC
    error: TaskError | None  #: None: none is kept

    @classmethod
    def of(cls, job: Snapshot) -> LastError:
        """Return what a snapshot has of it."""
        ended_at = job.finished_at or job.enqueued_at
        return cls(job.job.uid, job.job.call.name, ended_at, job.errors[-1] if job.errors else None)


def check_limit(limit: Any) -> int:
    """Return *limit*; raises ConfigError if it is no number of jobs for a page."""
    if is_int(limit) and 1 <= limit <= MOST_LISTED:
        return int(limit)
    raise ConfigError(f"limit: expected 1 to {MOST_LISTED} jobs, got {limit!r}")


def _several(name: str, given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    values = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else given
    return tuple(dict.fromkeys(str(_text(name, value)) for value in values))


def _text(name: str, given: Any) -> str | None:
    if given is None or isinstance(given, str):
        return given and storable(given)  # as a database has it
    raise ConfigError(f"{name}: expected a text, got {given!r}")


def _status(given: str) -> TaskResultStatus:
    try:
        return TaskResultStatus(given)
    except ValueError:
        raise ConfigError(
            Sentence(
                "status: expected one of %(statuses)s, got %(value)s",
                statuses=_STATUSES,
                value=repr(given),
            )
        ) from None


def _shown(instant: datetime) -> str:
    return f"{instant.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _instant(name: str, given: Any) -> datetime | None:
    if given is None or (isinstance(given, datetime) and given.tzinfo is not None):
        return given
    raise ConfigError(f"{name}: expected an aware datetime, got {given!r}")
