"""The filter of a list of jobs, as the URL has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..backends.listing import Cursor, JobFilter
from ..errors import ConfigError
from ..sentence import Sentence
from ..wording import age_of

if TYPE_CHECKING:
    from .visit import Visit


class Filters(NamedTuple):
    """The fields of the form; None: not narrowed."""

    status: str | None = None
    name: str | None = None
    queue: str | None = None
    user: str | None = None
    error: str | None = None
    since: str | None = None  #: an age, such as "15m"

    @classmethod
    def of(cls, visit: Visit) -> Filters:
        """Read the query; what is empty is left out."""
        return cls(*((visit.asked(name) or "").strip() or None for name in cls._fields))

    def wanted(self, visit: Visit) -> JobFilter:
        """Return the filter. Raises ConfigError for a value that is none."""
        age = None if self.since is None else age_of(self.since)
        if self.since is not None and age is None:
            raise ConfigError(
                Sentence(
                    "since: expected an age such as 15m, 1h or 1d, got %(value)s",
                    value=repr(self.since),
                )
            )
        return JobFilter.of(
            self.status,
            self.name,
            self.queue,
            self.user,
            self.error,
            None if age is None else visit.now - age,
        )

    def cursor(self, visit: Visit) -> Cursor | None:
        """Return the place from which the list goes on. Raises ConfigError."""
        return Cursor.of(visit.asked("after") or None)
