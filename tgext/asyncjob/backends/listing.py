"""Which jobs to list, and in which order: the same on every backend.

Jobs that have not ended come first, the last enqueued before the others; then those that have
ended, the last ended before the others. So a page of the newest jobs reads the end of an index,
however many there are. A ``Cursor`` is the place of the last job of a page, from which the next
one goes on, whatever has come or gone meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from math import isfinite
from typing import Any, NamedTuple

from ..amount import is_int
from ..errors import ConfigError
from ..job import FAILED, READY, RUNNING, TaskError, TaskResultStatus, storable

#: The most jobs of one page.
MOST_LISTED = 1_000

#: The statuses of the jobs with an error, if none is given: of the many that have succeeded or were
#: cancelled each would be looked at.
_WITH_ERRORS = (READY, RUNNING, FAILED)

#: The largest number that a database has.
_LARGEST = 2**63 - 1

_STATUSES = ", ".join(TaskResultStatus)


class JobFilter(NamedTuple):
    """What the jobs of a list have in common; None: anything."""

    statuses: frozenset[TaskResultStatus] | None = None
    names: tuple[str, ...] | None = None  #: dotted paths of their functions
    queue_names: tuple[str, ...] | None = None
    user: str | None = None  #: who was logged in when they were enqueued
    error: str | None = None  #: the class of one of their errors, ``Class`` or ``module.Class``
    since: datetime | None = None  #: not ended, or, if they have not, enqueued, before that
    until: datetime | None = None  #: nor after that

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

    def is_of(self, error: TaskError) -> bool:
        """Whether an error is of the wanted class."""
        return f".{error.exception_class_path}".endswith(f".{self.error}")


class Cursor(NamedTuple):
    """The place of a job in the list."""

    number: int  #: in the order of enqueue
    finished_at: float | None  #: seconds since the epoch; None: it has not ended

    def __str__(self) -> str:
        ended = "" if self.finished_at is None else f"{self.finished_at!r}"
        return f"{self.number}-{ended}"

    @classmethod
    def of(cls, text: Any) -> Cursor | None:
        """Read the text of a cursor; None for None. Raises ConfigError."""
        if text is None:
            return None
        try:
            number, _, ended = text.partition("-")
            found = cls(int(number), float(ended) if ended else None)
            if abs(found.number) > _LARGEST or not isfinite(found.finished_at or 0.0):
                raise ValueError
            return found
        except (AttributeError, ValueError):
            raise ConfigError(
                f"after: expected the ``next`` of a page of jobs, got {text!r}; leave it out for "
                "the first page"
            ) from None


class Found(NamedTuple):
    """One page of a list."""

    uids: list[str]
    next: str | None  #: the cursor from which the next page goes on; None: this is the last


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
        raise ConfigError(f"status: expected one of {_STATUSES}, got {given!r}") from None


def _instant(name: str, given: Any) -> datetime | None:
    if given is None or (isinstance(given, datetime) and given.tzinfo is not None):
        return given
    raise ConfigError(f"{name}: expected an aware datetime, got {given!r}")
