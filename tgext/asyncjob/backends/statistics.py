"""What has ended: how many jobs, how long they took and waited, by the minute, task and queue.

Statistics are kept longer than the jobs themselves, and a page reads them instead of counting jobs.
A minute has a row for each task and queue, up to MOST_NAMES; what is left is counted together. A
minute is a number: of those since the epoch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

#: Seconds in which statistics are counted.
MINUTE = 60

#: Durations are counted in classes; these divide them, in seconds. So a median is known to about
#: half of itself, whatever is added up.
BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_600.0)

#: The duration that the first class is taken to begin with, in seconds.
LEAST_SECONDS = 0.001

#: Pairs of a task and a queue that are counted by themselves in one minute, or in one sum. The
#: names of tasks may be ten thousand, and nobody reads so many.
MOST_NAMES = 50

#: Minutes that are added up, and kept longer than each by itself.
SUMMED = 30

#: How long the statistics of a minute are kept at least, in minutes.
LEAST_KEPT = 24 * 60


class Name(NamedTuple):
    """What a row of a minute is about."""

    task_name: str
    queue_name: str


#: The name of all that have none of their own.
OTHERS = Name("", "")


@dataclass(slots=True)
class Counts:
    """Numbers of jobs that have ended, and sums of seconds."""

    done: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0  #: those of them that took more than one attempt
    started: int = 0  #: those of them that were ever claimed
    waited_seconds: float = 0.0  #: from enqueue to the first claim, of those
    ran_seconds: float = 0.0  #: of the last attempts of what is done or has failed
    #: the number of those attempts in each class of durations
    took: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    @property
    def ended(self) -> int:
        """How many jobs have ended."""
        return self.done + self.failed + self.cancelled

    @property
    def mean_wait(self) -> float | None:
        """How long a job has waited on average, in seconds; None: none was claimed."""
        return self.waited_seconds / self.started if self.started else None

    def add(self, other: Counts) -> None:
        """Add the counts of other jobs."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.took = [mine + its for mine, its in zip(self.took, other.took, strict=True)]

    def raise_to(self, other: Counts) -> None:
        """Take what is larger in another count of the same jobs."""
        for name in _NUMBERS:
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        self.took = list(map(max, self.took, other.took))

    def quantile(self, share: float) -> float | None:
        """Return the duration that *share* of the attempts did not exceed, in seconds, as far as
        the classes tell; None: there is none; infinite: longer than the last of BOUNDS."""
        number = sum(self.took)
        if not number:
            return None
        left = share * number
        for which, count in enumerate(self.took[:-1]):
            if count and left <= count:
                low = BOUNDS[which - 1] if which else LEAST_SECONDS
                return float(low * (BOUNDS[which] / low) ** (max(0.0, left) / count))
            left -= count
        return math.inf


_NUMBERS = tuple(each.name for each in fields(Counts) if each.name != "took")


class Statistics(ABC):
    """The statistics of a backend."""

    @abstractmethod
    def collect(self) -> bool:
        """Count what has ended and was not counted, and forget what is old; called by maintenance
        now and then, in any number of processes. Each job is counted once for each of its ends.

        Returns after a fraction of a second; True: there is more to do.
        """

    @abstractmethod
    def series(self, since: int, step: int) -> dict[int, Counts]:
        """Return the counts of each *step* minutes from the minute *since* on, by the first of
        these minutes, a multiple of *step*; without those in which nothing has ended."""

    @abstractmethod
    def by_task(self, since: int, limit: int) -> list[tuple[str, Counts]]:
        """Return the counts of tasks from the minute *since* on, a multiple of SUMMED, by their
        names; "": of those that have none of their own. The most frequent first. limit: the most
        tasks."""


def minute_of(seconds: float) -> int:
    """Return the minute of an instant, given in seconds since the epoch."""
    return int(seconds // MINUTE)


def most_frequent(of_each: dict[str, Counts], limit: int) -> list[tuple[str, Counts]]:
    """Return the counts in the order of ``Statistics.by_task``."""

    def order(each: tuple[str, Counts]) -> Any:
        return -each[1].ended, each[0]

    return sorted(of_each.items(), key=order)[:limit]
